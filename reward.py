r"""The reward: 1.0 if the last \boxed{...} of a response equals the gold answer, else 0.0 (ZPPO,
arXiv 2606.18216, Appendix D.1).

    from reward import grade
    grade(r"so the area is \boxed{\frac12}", "0.5")     # 1.0

    python reward.py                                    # ordinary answers graded a second

What the paper fixes: binary; only the content of the last \boxed{...} (balanced braces) counts; it
is compared with the gold mathematically; if that fails, degree and percent signs are stripped from
both sides and the two are compared once more. What "mathematically" means is math_equal.py.
Free-form answers are the judge's business. This file, math_equal.py and mpmath can be copied into
another project.
"""

import re
import time

from math_equal import MAX_CHARS, answers_equal, clean, cleaned_equal

BOX = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[^b]|[{}]")
SIGNS = re.compile(r"\\?%|\bper\s?cent\b|\s*°")


def last_boxed(response: str) -> str | None:
    r"""Content of the last \boxed{...}; None if there is none or the last one never closes.

    One pass, linear time. "Last" is the box opened last. If that one lies inside another box, the
    outermost closed box is the answer, so that \boxed{4 or \boxed{5}} cannot hide its hedge. An
    earlier box that was never closed does no harm to a later good one.
    """
    opened = []  # (start of content, is it a box)
    closed = []  # (start, end) of boxes
    last = -1  # start of the box opened last
    for m in BOX.finditer(response, max(0, response.find("\\boxed"))):
        token = m[0]
        if token == "}" and opened:
            start, is_box = opened.pop()
            if is_box:
                closed.append((start, m.start()))
        elif token == "{":
            opened.append((m.end(), False))
        elif token.startswith("\\boxed"):
            opened.append((m.end(), True))
            last = m.end()
    # in order of closing: of the boxes around the one opened last, the outermost comes last
    for start, end in reversed(closed):
        if start <= last <= end:
            return response[start:end]
    return None


def grade(response: str, golds: str | list | tuple) -> float:
    r"""1.0 if the last \boxed{...} of the response equals the gold answer (or one of several), else
    0.0. Never raises, needs no time limit.
    """
    try:
        answer = last_boxed(response)
        if answer is None:
            return 0.0
        golds = [golds] if isinstance(golds, str) else golds
        return float(any(is_right(answer, last_boxed(gold) or gold) for gold in golds))
    # a bug here must not stop a training run; the tests call answers_equal, where it stays visible
    except Exception:
        return 0.0


def is_right(answer: str, gold: str) -> bool:
    """The paper's two passes: as they are, then without degree and percent signs."""
    if answers_equal(answer, gold):
        return True
    answer, gold = clean(answer), clean(gold)
    if max(len(answer), len(gold)) > MAX_CHARS:
        return False
    if not any(word in s for s in (answer, gold) for word in ("%", "cent", "°")):
        return False  # clean writes every degree sign so
    signs = [{m[0][-1] in "%t" for m in SIGNS.finditer(s)} for s in (answer, gold)]
    if not any(signs) or all(signs) and not signs[0] & signs[1]:
        return False  # 5% is not 5 degrees
    answer, gold = SIGNS.sub("", answer).strip(), SIGNS.sub("", gold).strip()
    return cleaned_equal(answer, gold, forgive_units=False)  # 5% is not 5 cm


def bench(seconds: float = 3.0):
    """Ordinary short answers, every pair different from the ones before so that no cache helps more
    than in training.
    """
    shapes = [
        ("%d", "%d"),
        ("%d.5", r"\frac{%d}{2}"),
        (r"\frac{%d}{7}", "%d/7"),
        ("%d cm", "%d"),
        (r"\text{B%d}", "B%d"),
        ("%d,000", "%d000"),
        ("(%d, 2)", "(%d,2)"),
        (r"%d\sqrt{3}", r"%d\sqrt3"),
        ("x=%d", "%d"),
        (r"%d^\circ", "%d"),
    ]
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for answer, gold in shapes:
            for shift in (0, 0, 1, 2):
                grade(r"... so the answer is \boxed{" + answer % (done + shift) + "}.", gold % done)
            done += 4
    print(f"{done / (time.process_time() - start):,.0f} answers/s")


if __name__ == "__main__":
    bench()
