"""What the two checkpoints can do, before any reinforcement learning: the table of the README."""

import random
from functools import partial

from engines.hf import HFEngine
from processor import CLOSER, encode
from reformulate import bcq, ncq
from reward import grade
from tiny.lessons import hint_for, hint_prompt, hinting_lesson, summary_lesson
from tiny.world import (
    POOL,
    SPLITS,
    digits_of,
    is_hard,
    printed,
    questions,
    status,
    summary,
    trace,
    truth,
)


def rates(lm, asked, n=1, temperature=0.0):
    """Share of right responses to each (Prompt, gold answer), in order."""
    groups = HFEngine(lm).sample([p for p, _ in asked], n, 40, seed=0, temperature=temperature)
    return [sum(grade(s.text, gold) for s in group) / n for group, (_, gold) in zip(groups, asked)]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / max(1, len(numbers))


def plain(lm, questions):
    """(Prompt, answer) of each question, for rates()."""
    return [(encode(lm, q.question + CLOSER, q.images, q.video), q.answer) for q in questions]


def accuracies(student, teacher):
    """Rows of text: greedy accuracy by split and by kind of question."""
    rows = []
    for split in SPLITS:
        asked = questions(split)
        kinds = [(q.source, status(q.source, digits_of(q))) for q in asked]
        right = [rates(lm, plain(lm, asked)) for lm in (student, teacher)]
        rows.append(f"{split:32}{len(asked):4}{mean(right[0]):9.3f}{mean(right[1]):9.3f}")
        for kind in POOL:
            a, b = (mean(r for r, k in zip(column, kinds) if k == kind) for column in right)
            rows.append(f"    {' '.join(kind):28}{kinds.count(kind):4}{a:9.3f}{b:9.3f}")
    return rows


def help_read(student, rng):
    """Rows of text: the student on sampled responses, alone and with BCQ, NCQ and hint prompts."""
    train = questions("train")
    drawn = rates(student, plain(student, train), n=8, temperature=1.0)
    rows = [
        f"student, train, T=1: mean {mean(drawn):.3f}, at 0/8 {mean(r == 0 for r in drawn):.3f}, "
        f"hard questions {mean(r for q, r in zip(train, drawn) if is_hard(q)):.4f}"
    ]
    prompts = {"BCQ": [], "NCQ": [], "hint": []}
    for q in filter(is_hard, train):
        family, digits = q.source, digits_of(q)
        answers = truth(family, digits), printed(family, digits)
        right, wrong = (summary(trace(family, digits, a), a) for a in answers)
        texts = {
            "BCQ": bcq(q.question, right, wrong, rng),
            "NCQ": ncq(q.question, [wrong] * 8, [str(answers[1])], rng),
            "hint": hint_prompt(q.question, hint_for(family, digits)),
        }
        for kind, text in texts.items():
            prompts[kind].append((encode(student, text + CLOSER, q.images), q.answer))
    for kind, asked in prompts.items():
        right = rates(student, asked, 8, 1.0)
        spread = mean(0 < r < 1 for r in right)
        rows.append(
            f"student, {kind} on hard questions, T=1: {mean(right):.4f} right, "
            f"{spread:.3f} of the groups with spread"
        )
    return rows


def exact(teacher, make, count, rng):
    """Share of `count` lessons of the teacher that it answers word for word, at temperature 1."""
    lessons = [make(rng) for _ in range(count)]
    # the pictures of lessons are patches already, which an engine does not take
    lessons = [x for x in lessons if not x.digits or x.modality == "text"]
    prompts = [encode(teacher, x.text, thinking=False) for x in lessons]
    groups = HFEngine(teacher).sample(prompts, 1, 40, seed=0)
    return mean(group[0].text == x.response for group, x in zip(groups, lessons))


def measure(student, teacher):
    """Rows of text: what the README says of the two checkpoints."""
    rng = random.Random(0)
    rows = accuracies(student, teacher) + help_read(student, rng)
    summaries = exact(teacher, partial(summary_lesson, nonsense=0), 400, rng)
    rows.append(f"teacher, summaries of right and wrong responses, T=1: {summaries:.3f} exact")
    rows.append(f"teacher, hints, T=1: {exact(teacher, hinting_lesson, 400, rng):.3f} exact")
    return rows
