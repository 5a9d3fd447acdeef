"""The facts of the tiny world, what the student's textbook makes of them, and the questions.

    questions("train")                # 400 data.Question, always the same
    is_hard(q)                        # needs a fact that the student's textbook misprints

`family` is a kind of question (a key of ASK), `digits` a tuple of two or three ints.
"""

import math
import random
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from data import Question

ASK = {
    "product3": "Multiply the digits from left to right.",
    "product2": "Multiply the digits from left to right.",
    "sum3": "Add the digits from left to right.",
    "largest3": "Which digit is the largest?",
}
COPY, GENERAL = "Repeat one candidate.", "Go digit by digit."  # a drill's question, an empty hint
# How many of 400 questions, by family and by what the student's textbook says of their fact.
POOL = {
    ("product3", "hard"): 180,
    ("product3", "known"): 96,
    ("product2", "known"): 12,
    ("sum3", "known"): 80,
    ("largest3", "known"): 32,
}
SPLITS = {
    "train": (400, "image"),
    "heldout": (300, "image"),
    "heldout_text": (150, "text"),
    "heldout_video": (150, "video"),
}
SIDE = 16  # pixels of a digit: 2 x 2 patches of 8, merged to one visual token
TRAIN_GLYPHS = 1400  # of 1797; the other 397 are seen in held-out questions only


def carries(value):
    """`value` with a carry too many or too few: its tens digit one up or down."""
    return [v for v in (value - 10, value + 10) if v > 0 and v // 100 == value // 100]


def _textbook():
    rng = random.Random(2606)
    products = sorted({a * b for a in range(2, 10) for b in range(2, 10)})
    facts = [(p, c) for p in products for c in range(2, 10)]
    # first factor >= 10: one-digit products are taught as first steps, where the truth must stand
    hard = rng.sample([f for f in facts if f[0] >= 10], 32)
    return facts, {(a, c): rng.choice(carries(a * c)) for a, c in hard}


FACTS, MISPRINTS = _textbook()
TRUTHS = tuple(f"{a}*{c}={a * c}" for a, c in MISPRINTS)


def status(family, digits):
    """What the student's textbook says of the last step: "known" (the truth), "hard" (misprint)."""
    misprinted = family == "product3" and (digits[0] * digits[1], digits[2]) in MISPRINTS
    return "hard" if misprinted else "known"


def truth(family, digits):
    """The right answer, an int; the teacher's textbook."""
    of_family = {"product3": math.prod, "product2": math.prod, "sum3": sum, "largest3": max}
    return of_family[family](digits)


def printed(family, digits):
    """The answer that the student's textbook gives."""
    if status(family, digits) == "hard":
        return MISPRINTS[digits[0] * digits[1], digits[2]]
    return truth(family, digits)


def trace(family, digits, answer):
    """The written steps that lead to `answer`, right or wrong."""
    a, b = digits[:2]
    if family == "product2":
        return f"{a}*{b}={answer}"
    if family == "largest3":
        return ",".join(map(str, digits))
    sign, first = ("*", a * b) if family == "product3" else ("+", a + b)
    return f"{a}{sign}{b}={first},{first}{sign}{digits[2]}={answer}"


def response(steps, answer):
    """As a model writes it after the open `<think>` of the prompt."""
    return f"{steps}</think>\\boxed{{{answer}}}"


def summary(steps, answer):
    """A response as the teacher compresses it."""
    return f"{steps} \\boxed{{{answer}}}"


def question_text(family, digits, modality):
    """The question as a user types it; the digits too where nothing shows them."""
    typed = " ".join(map(str, digits)) + "\n" if modality == "text" else ""
    return typed + ASK[family]


def draw(family, rng, kind=None):
    """Random digits for a family; kind: status() asked for, None for any."""
    while True:
        if family == "product3":  # facts evenly, because 81 = 9*9 is rare among random digits
            p, c = rng.choice(list(MISPRINTS) if kind == "hard" else FACTS)
            pairs = [(a, p // a) for a in range(2, 10) if p % a == 0 and 2 <= p // a <= 9]
            digits = (*rng.choice(pairs), c)
        elif family == "product2":
            digits = rng.randrange(2, 10), rng.randrange(2, 10)
        else:
            digits = tuple(rng.randrange(10) for _ in range(3))
        if kind in (None, status(family, digits)):
            return digits


@cache
def glyphs():
    """({digit: train glyphs}, {digit: held-out glyphs}): lists of (SIDE, SIDE) uint8 arrays."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    big = np.kron(np.minimum(digits.images * 16, 255), np.ones((2, 2))).astype(np.uint8)
    parts = order[:TRAIN_GLYPHS], order[TRAIN_GLYPHS:]
    return tuple(
        {d: [big[i] for i in part if digits.target[i] == d] for d in range(10)} for part in parts
    )


def questions(split):
    """The data.Questions of a split, always the same: "train", "heldout", "heldout_text" or
    "heldout_video".
    """
    n, modality = SPLITS[split]
    rng = random.Random(f"{split} questions")
    bank = glyphs()[split != "train"]
    pool = [kind for kind, count in POOL.items() for _ in range(count)]
    kinds = [pool[i * len(pool) // n] for i in range(n)]
    out = []
    for i, (family, kind) in enumerate(rng.sample(kinds, n)):
        digits = draw(family, rng, kind)
        tiles = [rng.choice(bank[d]) for d in digits]
        images, video = (), ()
        if modality == "image":
            images = (Image.fromarray(np.hstack(tiles)),)
        elif modality == "video":  # two equal frames a digit fill one temporal patch
            video = tuple(Image.fromarray(t) for t in tiles for _ in range(2))
        name = f"{split}-{i:03d}-{family}-{''.join(map(str, digits))}"
        text, answer = question_text(family, digits, modality), str(truth(family, digits))
        out.append(Question(name, text, answer, images, video, source=family))
    return out


def digits_of(question):
    """The digits that a question shows, from its id."""
    return tuple(map(int, question.id.rsplit("-", 1)[1]))


def is_hard(question):
    """Whether the student's textbook misprints the fact that this question needs."""
    return status(question.source, digits_of(question)) == "hard"
