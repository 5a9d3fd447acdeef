r"""Deterministic scorers: is a response right? No model, no network, no execution of model text.

A scorer takes an Item (rows.py) and the final part of a response, and returns a Score:
    value   1.0, 0.0 or a fraction; None when text rules cannot decide and a judge is needed
    how     "match", "mismatch", "metric", "no answer", "judge" (needs one), or "ignored" (the
            official evaluator leaves it out)
    answer  what was extracted, for people who read the files
The order is that of ZPPO Appendix B.2: rules first, the judge only on what stayed unresolved. A
wrong letter or another number is resolved and wrong; a phrase that is not the gold's phrase is
unresolved. A response that never leaves its thinking, or is empty, has no answer: wrong, counted
apart, and no judge is asked.

Deliberately not copied from the public harnesses (each has a test): guessing when no letter is
found (MMLU-Pro, MMMU-Pro, VisualPuzzles), the nearest option for an empty reply (MathVista),
substring checks that an empty reply passes (MVBench), evaluating model text (MathVision).

    # value 1.0
    score(choice, Item("1", "2+2?", "B", options=("3", "4")), r"...</think>\boxed{B}")
"""

import ast
import re
from typing import NamedTuple

from evaluation.letters import (
    answer_of,
    fold,
    number,
    pick_letter,
    readings,
    row_and_column,
    unwrap,
)
from evaluation.rows import LETTERS
from judge import final
from reward import grade, last_boxed


class Score(NamedTuple):
    value: float | None
    how: str
    answer: str = ""


def score(scorer, item, response, truncated=False):
    """Score of one response: `scorer` on what follows the thinking. response: str; truncated: cut
    by the length limit.
    """
    text = final(response, truncated)
    return scorer(item, text) if text else Score(0.0, "no answer")


def verdict(right, answer):
    return Score(float(right), "match" if right else "mismatch", str(answer))


def unresolved(answer):
    return Score(None, "judge", answer)


# ---- letters and free answers --------------------------------------------------------------------


def choice(item, text):
    """Letter against letter (gold: a letter, maybe in brackets). No letter found: the judge."""
    n = len(item.options) or item.meta.get("letters", 26)
    letter = pick_letter(text, n, item.choices)
    if letter is None:
        return unresolved(answer_of(text))
    return verdict(letter == item.gold.strip("() ."), letter)


def exact(item, text):
    """The training reward's comparison (reward.py); options by letter. Two different plain numbers
    are resolved: wrong.
    """
    if item.options or item.meta.get("letters"):
        return choice(item, text)
    answer, box = answer_of(text), text
    if last_boxed(text) is None:
        box = f"\\boxed{{{answer}}}" if len(answer) < 200 else ""
    if grade(box, item.gold):
        return verdict(True, answer)
    if number(answer) is not None and number(item.gold) is not None:
        return verdict(False, answer)
    return unresolved(answer)


def training(item, text):
    """What train.py calls a reward: the whole response, thinking included. The tiny world is scored
    so.
    """
    return verdict(grade(text, item.gold), last_boxed(text) or "")


def aime(item, text):
    """An integer from 0 to 999. Any number in the box decides; 336^\\circ and 336 are the same
    answer.
    """
    answer = answer_of(text)
    if grade(f"\\boxed{{{answer}}}", item.gold):
        return verdict(True, answer)
    return unresolved(answer) if number(answer) is None else verdict(False, answer)


_NAMES = re.compile(r"(?i)rows?|columns?|cols?|and|\\text|\\quad|\\|[行列第,]")


def coordinates(item, text):
    """BabyVision: choices by letter; blanks exactly, or as tuples of integers ("(4,7)", "4, 7",
    "Row 4 Column 7", "Column 7, Row 4").
    """
    first = exact(item, text)
    if first.value or item.options:
        return first
    both = item.gold, first.answer
    if any(re.search(r"[^\W\d_]", _NAMES.sub("", s)) for s in both):
        return first
    written = [tuple(map(int, re.findall(r"(?<!\d)\d{1,9}(?!\d)", s))) for s in both]
    if min(map(len, written)) < 2:
        return first
    named = [row_and_column(s) or w for s, w in zip(both, written)]
    turned = [n != w for n, w in zip(named, written)]
    if turned[0] != turned[1] and written[0] == written[1]:
        return first  # one of them names the column first: what the other means is not said
    return verdict(named[0] == named[1], first.answer)


# ---- benchmarks with rules of their own ----------------------------------------------------------


def dynamath(item, text):
    """float: |difference| <= 0.001, a trailing pi understood; multiple choice: the letter; text:
    equal words, else the judge.
    """
    answer, kind = answer_of(text), item.meta["answer_type"]
    if kind == "multiple choice":
        letter = pick_letter(text, item.meta.get("letters", 26), item.choices)
        if letter:
            return verdict(letter == item.gold.strip("() ."), letter)
        # the official script reads a short answer only: prose that chooses nothing is wrong
        return unresolved(answer) if answer != text or len(text) < 40 else verdict(False, answer)
    if kind == "float":
        got, gold = with_pi(answer), with_pi(item.gold)
        if got is not None and gold is not None:
            close = abs(got - gold) <= 0.001
            return verdict(close or grade(f"\\boxed{{{answer}}}", item.gold), answer)
    elif fold(answer) == fold(item.gold):
        return verdict(True, answer)
    return exact(item, text)


def with_pi(text):
    """The number that the first word of `text` is, times pi where it ends in pi; else None."""
    words = unwrap(text).split()
    text = words[0] if words else ""
    bare = re.sub(r"\\?(?:pi|π)$", "", text, flags=re.I).rstrip("*")
    if bare == text:
        return number(text)
    value = number(bare) if bare else 1.0
    return None if value is None else value * 3.141592653589793


def blind(item, text):
    """VLMs-are-Blind, by task: an integer, yes or no, a letter, or two integers (rows first)."""
    answer, gold, task = answer_of(text), item.gold.strip(), item.meta["task"]
    if task.startswith("Counting Grid"):
        got, want = row_and_column(answer), tuple(map(int, re.findall(r"\d+", gold)))
        return unresolved(answer) if got is None else verdict(got == want, answer)
    if task == "Touching Circles":
        words = set(re.findall(r"\b(yes|no)\b", answer.lower()))
        return verdict(words == {gold.lower()}, answer) if len(words) == 1 else unresolved(answer)
    if task == "Circled Letter":
        m = re.fullmatch(r"[{(\s\"']*([A-Za-z])[})\s\"'.]*", answer)
        return verdict(m[1].lower() == gold.lower(), m[1]) if m else unresolved(answer)
    m = re.fullmatch(r"\D*(\d{1,9})\D*", answer)  # one integer and no second: "12" is not "1"
    return verdict(int(m[1]) == int(gold), m[1]) if m else unresolved(answer)


def mathvista(item, text):
    """Official normal forms: option text, integer, float at `precision` decimals, list. Not parsed:
    the judge, never the nearest option.
    """
    answer, gold, kind = answer_of(text), item.gold, item.meta["answer_type"]
    if item.options:
        letter = pick_letter(text, len(item.options), item.options)
        if letter is None:
            return unresolved(answer)
        return verdict(item.options[LETTERS.index(letter)] == gold, letter)
    if kind == "list":
        try:
            same = ast.literal_eval(answer[:200]) == ast.literal_eval(gold)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return unresolved(answer)
        return verdict(same, answer)
    got = number(answer.removesuffix(item.meta.get("unit") or ""))
    if got is None:
        right = grade(f"\\boxed{{{answer}}}", gold)
        return verdict(True, answer) if right else unresolved(answer)
    if kind == "integer":
        return verdict(int(got) == int(float(gold)), answer)
    digits = int(item.meta["precision"] or 0)  # float64 in the data; round() wants an int
    return verdict(round(got, digits) == round(float(gold), digits), answer)


def videommmu(item, text):
    """Choice rows by letter (up to N). Open rows: numbers at two decimals, equal words, membership
    in a list of golds.
    """
    if item.options:
        return choice(item, text)
    answer, golds = answer_of(text), item.meta["golds"]
    got, wanted = number(answer), [number(g) for g in golds]
    if any(fold(answer) == fold(g) for g in golds):
        return verdict(True, answer)
    if got is not None and any(g is not None and round(got, 2) == round(g, 2) for g in wanted):
        return verdict(True, answer)
    return unresolved(answer) if got is None or None in wanted else verdict(False, answer)


# ---- metrics and judges --------------------------------------------------------------------------


def similarity(a, b):
    """1 - edit distance / the longer one's length, of texts or tuples."""
    from rapidfuzz.distance import Levenshtein  # the tiny world does without

    return Levenshtein.normalized_similarity(a, b)


def anls(answer, golds):
    """Average Normalized Levenshtein Similarity of one answer: best over golds of 1 - distance /
    longer length, below 0.5 zero.

    Lower case, trimmed, blanks collapsed. The length is that of the normalized strings (lmms-eval
    takes the raw ones).
    """
    norm = [" ".join(s.lower().split()) for s in (answer, *golds)]
    best = max((similarity(norm[0], gold) for gold in norm[1:]), default=0.0)
    return best if best >= 0.5 else 0.0


def infographic(item, text):
    """ANLS of the answer as it is written or in plain text, the better one."""
    found = readings(text)
    return Score(max(anls(answer, item.gold) for answer in found), "metric", found[-1])


def needs_judge(item, text):
    """The benchmark's own judge decides every row."""
    return unresolved(answer_of(text))
