r"""Deterministic scorers: what a response answers, and whether that is right. No model, no network,
no execution of model text.

A scorer takes an Item (benchmarks.py) and the final part of a response, and returns a Score:
    value  1.0, 0.0 or a fraction; None when text rules cannot decide and a judge is needed
    how    "match", "mismatch", "metric", "no answer", "judge" (needs one), or "ignored" (the
    official evaluator leaves it out) answer what was extracted, for people who read the files
The order is that of ZPPO Appendix B.2: rules first, the judge only on what stayed unresolved. A
wrong letter or another number is resolved and wrong; a phrase that is not the gold's phrase is
unresolved. A response that never leaves its thinking, or is empty, has no answer: wrong, counted
apart, and no judge is asked.

Deliberately not copied from the public harnesses (each has a test): guessing when no letter is
found (MMLU-Pro, MMMU-Pro, VisualPuzzles), the nearest option for an empty reply (MathVista),
substring checks that an empty reply passes (MVBench), evaluating model text (MathVision).

    # value 1.0
    score(choice, Item("1", "2+2?", "B", options=("3", "4")), r"...</think>\boxed{B}")
    # responses scored a second, on this machine
    python scorers.py
"""

import ast
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from judge import final
from math_equal import answers_equal
from reward import grade, last_boxed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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


_STATED = re.compile(r"\banswer\b[\s:：*]*(?:is\b)?[\s:：*]*(\S.{0,80}?)[\s.*]*$", re.I)


def answer_of(text):
    """What a metric should see: the content of the last box, wrappers off; else what the last line
    calls the answer; else all.
    """
    box = last_boxed(text)
    if box is not None:
        return unwrap(box)
    stated = _STATED.search(text.rstrip().split("\n")[-1][-200:])
    return unwrap(stated[1]) if stated else text


@lru_cache(maxsize=1024)
def unwrap(text):
    r"""Text without \text{...}, $...$, ** and outer blanks. Inner content is untouched, so JSON and
    tables survive.
    """
    text = text.strip()
    while True:
        m = re.fullmatch(
            r"\\(?:text|textbf|mathrm|mathbf|textit|boxed)\s*\{(.*)\}|\$([^$]*)\$|\*\*(.*)\*\*|`([^`]*)`",
            text,
            re.DOTALL,
        )
        inner = next((g for g in m.groups() if g is not None), None) if m else None
        if inner is None or inner.count("{") != inner.count("}"):
            return text
        text = inner.strip()


def fold(text):
    """Lower case, half-width, blanks collapsed, outer punctuation gone: for comparing words."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).strip(" .,:;!?\"'`")


def verdict(right, answer):
    return Score(float(right), "match" if right else "mismatch", str(answer))


# ---- letters -------------------------------------------------------------------------------------

_PHRASE = re.compile(
    r"(?:answer|答案)\s*(?:is|为|是|選|选)?\s*[:：]?\s*(.{1,60})|(?:故选|应选|选择|选)\s*[:：]?\s*(\(?[A-Ja-jＡ-Ｊ]\)?)(?![a-z])",
    re.I,
)


def pick_letter(text, n, options=()):
    """The letter that a response settles on, or None. Last box; else last answer phrase; else a
    reply that is only a letter.

    n: how many letters there are; options: their texts. A letter outside the range is no letter.
    """
    box = last_boxed(text)
    if box is not None:
        return as_letter(unwrap(box), n, options)
    for m in reversed(list(_PHRASE.finditer(text))):
        found = next(g for g in m.groups() if g is not None).strip()
        if letter := as_letter(re.split(r"[。\n]|(?<=[\w)])\.(?:\s|$)|,\s", found)[0], n, options):
            return letter
        # "B because ..."; A and I may be words, so these need a bracket or a stop behind them
        m = re.match(
            r"[*\s]*\(?([B-HJ-Z])\)?(?![\w'])|[*\s]*\(?([AI])(?=[).,:;*])",
            unicodedata.normalize("NFKC", found),
        )
        if m and (m[1] or m[2]) in LETTERS[:n]:
            return m[1] or m[2]
    last = text.rstrip().split("\n")[-1]
    return as_letter(last, n, options) if len(last) < 40 else None


_BARE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?[(\[{<*\"'$\s]*([A-Za-z])[)\]}>*\"'$\s.:、,]*",
    re.I,
)
_LABELED = re.compile(r"[(\[]?([A-Z])(?:[)\]][.:]?|[.:、])\s*\S")


def as_letter(text, n, options=()):
    """`text` as one of n letters: bare in any bracket, in front of a text ("B. cat"), or the text
    of exactly one option.
    """
    text = unicodedata.normalize("NFKC", unwrap(text)).strip()
    m = _BARE.fullmatch(text) or (
        _LABELED.match(text) if not re.search(r"[\s,;/(][B-Z][).:]", text[2:]) else None
    )
    if m:
        letter = m[1].upper()
        return letter if letter in LETTERS[:n] else None
    # one-letter option texts (AI2D names diagram parts so) are never matched as text: a letter is
    # an option's letter
    same = [i for i, o in enumerate(options) if len(o.strip()) > 1 and fold(o) == fold(text)]
    if (
        not same and len(text) < 100 and (number(text) is not None or re.search(r"[\\/^]", text))
    ):  # mathematics: other notations
        same = [i for i, o in enumerate(options) if answers_equal(o, text)]
    return LETTERS[same[0]] if len(same) == 1 else None


def choice(item, text):
    """Letter against letter (gold: a letter). No letter to be found: the judge."""
    n = len(item.options) or item.meta.get("letters", 26)
    letter = pick_letter(text, n, item.options)
    if letter is None:
        return Score(None, "judge", answer_of(text))
    return verdict(letter == item.gold, letter)


# ---- free answers --------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")


def number(text):
    """The number that `text` is, as a float, or None. Commas, percent, degree and dollar signs are
    allowed around it.
    """
    text = (
        unwrap(text)
        .replace("^\\circ", "")
        .replace("^{\\circ}", "")
        .replace("\\%", "")
        .replace("\\$", "")
    )
    text = text.strip(" \t\n%°$").replace("−", "-")
    return (
        float(text.replace(",", ""))
        if text and text[-1].isdigit() and _NUMBER.fullmatch(text)
        else None
    )


def exact(item, text):
    """The training reward's comparison (reward.py); options by letter. Two different plain numbers
    are resolved: wrong.
    """
    if item.options or item.meta.get("letters"):
        return choice(item, text)
    answer = answer_of(text)
    box = (
        text
        if last_boxed(text) is not None
        else f"\\boxed{{{answer}}}"
        if len(answer) < 200
        else ""
    )
    if grade(box, item.gold):
        return verdict(True, answer)
    if number(answer) is not None and number(item.gold) is not None:
        return verdict(False, answer)
    return Score(None, "judge", answer)


def training(item, text):
    """What train.py calls a reward: the whole response, thinking included. The tiny world is scored
    so.
    """
    return verdict(grade(text, item.gold), last_boxed(text) or "")


def aime(item, text):
    """An integer from 0 to 999. Any integer in the box decides; 336^\\circ and 336 are the same
    answer.
    """
    answer = answer_of(text)
    if grade(f"\\boxed{{{answer}}}", item.gold):
        return verdict(True, answer)
    return verdict(False, answer) if number(answer) is not None else Score(None, "judge", answer)


def coordinates(item, text):
    """BabyVision: choices by letter; blanks exactly, or as tuples of integers ("(4,7)", "4, 7",
    "Row 4 Column 7").
    """
    first = exact(item, text)
    if first.value or item.options:
        return first
    gold, got = (
        tuple(map(int, re.findall(r"(?<!\d)\d{1,9}(?!\d)", s))) for s in (item.gold, first.answer)
    )
    if (
        len(gold) > 1
        and len(got) > 1
        and not re.search(
            r"[^\W\d_]", re.sub(r"(?i)row|column|col|and|\\text|\\", "", item.gold + first.answer)
        )
    ):
        return verdict(gold == got, first.answer)
    return first


def dynamath(item, text):
    """float: |difference| <= 0.001, a trailing pi understood; multiple choice: the letter; text:
    equal words, else the judge.
    """
    answer = answer_of(text)
    kind = item.meta["answer_type"]
    if kind == "multiple choice":
        letter = pick_letter(text, 26) or (item.gold if item.gold in answer[:3] else None)
        return verdict(letter == item.gold, letter) if letter else Score(None, "judge", answer)
    if kind == "float":
        got, gold = with_pi(answer), with_pi(item.gold)
        if got is not None and gold is not None:
            return verdict(abs(got - gold) <= 0.001, answer)
    elif fold(answer) == fold(item.gold):
        return verdict(True, answer)
    return exact(item, text)


def with_pi(text):
    text = unwrap(text).split()
    text = text[0] if text else ""
    bare = re.sub(r"\\?(?:pi|π)$", "", text, flags=re.I).rstrip("*")
    value = number(bare) if bare or bare == text else 1.0
    return value * 3.141592653589793 if value is not None and bare != text else value


def blind(item, text):
    """VLMs-are-Blind, by task: an integer, yes or no, a letter, or two integers (rows first)."""
    answer, gold, task = answer_of(text), item.gold.strip(), item.meta["task"]
    if task.startswith("Counting Grid"):
        got = re.findall(r"(?<!\d)\d{1,9}(?!\d)", answer)
        rows = (
            re.search(r"rows?\s*[=:]?\s*\{?(\d{1,9})", answer, re.I),
            re.search(r"col(?:umn)?s?\s*[=:]?\s*\{?(\d{1,9})", answer, re.I),
        )
        got = [m[1] for m in rows] if all(rows) else got
        return (
            verdict([int(g) for g in got] == [int(g) for g in re.findall(r"\d+", gold)], answer)
            if len(got) == 2
            else Score(None, "judge", answer)
        )
    if task == "Touching Circles":
        words = set(re.findall(r"\b(yes|no)\b", answer.lower()))
        return (
            verdict(words == {gold.lower()}, answer)
            if len(words) == 1
            else Score(None, "judge", answer)
        )
    if task == "Circled Letter":
        m = re.fullmatch(r"[{(\s\"']*([A-Za-z])[})\s\"'.]*", answer)
        return verdict(m[1].lower() == gold.lower(), m[1]) if m else Score(None, "judge", answer)
    m = re.fullmatch(r"\D*(\d{1,9})\D*", answer)  # one integer and no second: "12" is not "1"
    return verdict(int(m[1]) == int(gold), m[1]) if m else Score(None, "judge", answer)


# ---- rule parsers --------------------------------------------------------------------------------


def mathvista(item, text):
    """Official normal forms: option text, integer, float at `precision` decimals, list. Not parsed:
    the judge, never the nearest option.
    """
    answer, gold, kind = answer_of(text), item.gold, item.meta["answer_type"]
    if item.options:
        letter = pick_letter(text, len(item.options), item.options)
        return (
            verdict(item.options[LETTERS.index(letter)] == gold, letter)
            if letter
            else Score(None, "judge", answer)
        )
    if kind == "list":
        try:
            return (
                verdict(ast.literal_eval(answer) == ast.literal_eval(gold), answer)
                if len(answer) < 200
                else Score(None, "judge", answer)
            )
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return Score(None, "judge", answer)
    unit = item.meta.get("unit") or ""
    got = number(answer.removesuffix(unit) if unit else answer)
    if got is None:
        return (
            Score(1.0, "match", answer)
            if grade(f"\\boxed{{{answer}}}", gold)
            else Score(None, "judge", answer)
        )
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
    answer = answer_of(text)
    for gold in item.meta["golds"]:
        a, g = number(answer), number(gold)
        if fold(answer) == fold(gold) or (
            a is not None and g is not None and round(a, 2) == round(g, 2)
        ):
            return verdict(True, answer)
    if all(number(g) is not None for g in item.meta["golds"]) and number(answer) is not None:
        return verdict(False, answer)
    return Score(None, "judge", answer)


# ---- metrics and judges --------------------------------------------------------------------------


def anls(answer, golds):
    """Average Normalized Levenshtein Similarity of one answer: best over golds of 1 - distance /
    longer length, below 0.5 zero.

    Lower case, trimmed, blanks collapsed. The length is that of the normalized strings (lmms-eval
    takes the raw ones).
    """
    norm = [" ".join(s.lower().split()) for s in (answer, *golds)]
    best = max((Levenshtein.normalized_similarity(norm[0], g) for g in norm[1:]), default=0.0)
    return best if best >= 0.5 else 0.0


def infographic(item, text):
    answer = answer_of(text)
    return Score(anls(answer, item.gold), "metric", answer)


def needs_judge(item, text):
    """The benchmark's own judge decides every row."""
    return Score(None, "judge", answer_of(text))


def _bench(n=10_000):
    """Typical responses of each kind, all different, through score()."""
    import random
    import time
    from types import SimpleNamespace as Item

    rng, rows = random.Random(0), []
    for i in range(n):
        think = "Let me see. " * 40 + "</think>The answer is "
        options = tuple(f"option {j} of {i}" for j in range(10))
        rows.append(
            [
                (
                    choice,
                    Item(gold="C", options=options, meta={}),
                    f"{think}\\boxed{{{rng.choice(LETTERS[:10])}}}.",
                ),
                (
                    choice,
                    Item(gold="C", options=options, meta={}),
                    f"{think}\\boxed{{{rng.choice(options)}}}.",
                ),
                (
                    aime,
                    Item(gold=str(i % 1000), options=(), meta={}),
                    f"{think}\\boxed{{{rng.randrange(1000)}}}.",
                ),
                (
                    exact,
                    Item(gold=rf"\frac{{{i}}}{{7}}", options=(), meta={}),
                    f"{think}\\boxed{{{i + rng.randrange(2)}/7}}.",
                ),
                (
                    infographic,
                    Item(gold=[f"{i} people in the city"], options=(), meta={}),
                    f"{think}\\boxed{{{i} people}}.",
                ),
            ][i % 5]
        )
    start = time.perf_counter()
    for scorer, item, response in rows:
        score(scorer, item, response)
    print(f"{n / (time.perf_counter() - start):,.0f} responses scored a second")


if __name__ == "__main__":
    _bench()
