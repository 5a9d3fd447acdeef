"""ZPPO with a grader of one's own: right only where each written step of the arithmetic holds, too.

Differs: the reward of student and teacher, by train.py's flag --grader FILE:FUNCTION. No paper.
Measured: not measured.
"""

import re

import forks
from reward import grade

FLAGS = ["--grader", f"{__file__}:steps_hold"]
STEP = re.compile(r"(?<!\d)(\d+)([*+])(\d+)=(\d+)")


def steps_hold(response, golds):
    """1.0 if the boxed answer is right and no step "a*b=c" or "a+b=c" of the response is wrong."""
    for a, sign, b, c in STEP.findall(response):
        result = int(a) * int(b) if sign == "*" else int(a) + int(b)
        if result != int(c):
            return 0.0
    return grade(response, golds)


if __name__ == "__main__":
    forks.run(__file__, FLAGS)
