"""Whose word a reward is: reward.grade, or a function of one's own (--grader FILE:FUNCTION).

    grade = grader("my_grader.py:steps_hold")     # "": reward.grade
    grade(response, golds)                        # 1.0 or 0.0

The file is run once, when the flag is first looked at; every rank runs its own copy. It is code, as
train.py is: give only one that you trust.
"""

import runpy
from functools import cache
from pathlib import Path

from reward import grade


@cache
def grader(spec):
    """The function that `spec` names, checked at every call; reward.grade for "".

    Raises ValueError with one line: here when there is no such file or function, from the call when
    the function raises, or returns anything but 1 (True) or 0: BCQ and NCQ know right and wrong.
    """
    if not spec:
        return grade
    file, _, name = spec.rpartition(":")
    if not file or not name.isidentifier():
        raise ValueError(f"--grader {spec}: give FILE:FUNCTION, as in my_grader.py:grade")
    if not Path(file).is_file():
        raise ValueError(f"--grader {spec}: there is no file {file}")
    try:
        function = runpy.run_path(file).get(name)
    except Exception as e:
        raise ValueError(f"--grader {spec}: {file} does not run ({_short(e)})") from e
    if not callable(function):
        raise ValueError(f"--grader {spec}: {file} has no function {name}")

    def checked(response, golds):
        try:
            reward = function(response, golds)
        except Exception as e:
            raise ValueError(f"--grader {spec} failed ({_short(e)}) on {response[-80:]!r}") from e
        if not isinstance(reward, (int, float)) or reward not in (0, 1):
            raise ValueError(
                f"--grader {spec} gave {reward!r}, neither 1 nor 0, for {response[-80:]!r}"
            )
        return float(reward)

    return checked


def _short(e):
    return f"{type(e).__name__}: {e}".splitlines()[0][:200]
