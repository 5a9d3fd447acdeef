"""What the two models are taught: one function a kind of lesson, each drawn from a random.Random.

No lesson of the student holds the truth about a misprinted fact; the docstring of the package says
what each kind is for.
"""

import string
from collections import namedtuple

from baselines import HINT
from processor import CLOSER
from reformulate import BCQ, CANDIDATE, bcq, clean, ncq
from teacher import COMPRESS
from teacher import HINT as ASK_HINT
from tiny.world import (
    ASK,
    COPY,
    GENERAL,
    TRUTHS,
    carries,
    draw,
    printed,
    question_text,
    response,
    summary,
    trace,
    truth,
)

# digits: those that a picture or a video shows; response: without its end token
Lesson = namedtuple(
    "Lesson", "text modality digits response thinking", defaults=("text", (), "", True)
)
FAMILIES = list(ASK)
WEIGHTS = (50, 4, 36, 10)
MODALITIES = ["image"] * 6 + ["text"] * 2 + ["video"] * 2


def lesson(text, modality, family, digits, answer):
    """A prompt, and the steps that lead to `answer`."""
    steps = trace(family, digits, answer)
    return Lesson(text + CLOSER, modality, digits, response(steps, answer))


def any_family(rng, weights=WEIGHTS):
    return rng.choices(FAMILIES, weights)[0]


def slips(a, c):
    """Wrong values that a tired student could write for a * c."""
    return [v for d in (c, -c, a, -a, 10, -10, 1, -1) if (v := a * c + d) > 0]


def another(family, digits, rng, avoid):
    """A plausible answer outside `avoid`: what a slip would give."""
    if family == "product3":
        options = slips(digits[0] * digits[1], digits[-1])
    elif family == "product2":
        options = slips(*digits)
    elif family == "sum3":
        options = [abs(truth(family, digits) + d) for d in (1, -1, 2, -2, 10, -10)]
    else:
        options = range(10)
    return rng.choice([v for v in options if v not in avoid])


def candidate(family, digits, answer, rng):
    """A response as it stands in a BCQ or NCQ prompt: the teacher's summary, or as written where
    compression is off.
    """
    steps = trace(family, digits, answer)
    return summary(steps, answer) if rng.random() < 0.8 else clean(response(steps, answer))


def hint_for(family, digits):
    """Help without the answer: the first step, or a general word where that step would tell."""
    if family not in ("product3", "sum3"):
        return GENERAL
    first = trace(family, digits, "").split(",")[0]
    told = str(truth(family, digits)) in first.replace("+", "=").replace("*", "=").split("=")
    return GENERAL if told else first


def hint_prompt(question, text):
    """The prompt of the hint baseline."""
    return HINT.format(question=question, hint=clean(text))


# ---- questions, and prompts that help ------------------------------------------------------------


def plain_lesson(rng, role, hard=0.0):
    """A question and what the textbook of `role` answers; `hard`: share of the questions that need
    a misprinted fact.
    """
    kind = "hard" if hard and rng.random() < hard else None
    family = "product3" if kind else any_family(rng)
    digits, modality = draw(family, rng, kind), rng.choice(MODALITIES)
    answer = printed(family, digits) if role == "student" else truth(family, digits)
    return lesson(question_text(family, digits, modality), modality, family, digits, answer)


def bcq_lesson(rng):
    """Known fact: the right one of two candidates. Misprinted fact: both candidates are wrong, and
    either will do.
    """
    modality = rng.choice(MODALITIES)
    if rng.random() < 0.55:
        family, digits = "product3", draw("product3", rng, "hard")
        right, misprint = truth(family, digits), printed(family, digits)
        first = misprint if rng.random() < 0.6 else another(family, digits, rng, (right,))
        pair = first, another(family, digits, rng, (right, first))
        answer = rng.choice(pair)
    else:
        family = any_family(rng)
        digits = draw(family, rng, "known")
        answer = truth(family, digits)
        pair = answer, another(family, digits, rng, (answer,))
    texts = [candidate(family, digits, a, rng) for a in pair]
    text = bcq(question_text(family, digits, modality), *texts, rng)
    return lesson(text, modality, family, digits, answer)


def ncq_lesson(rng):
    """On known facts: the truth, or, where that is among the listed answers, half the time, one
    that is a carry away.
    """
    family, modality = any_family(rng, (70, 6, 18, 6)), rng.choice(MODALITIES)
    digits = draw(family, rng, "known")
    answer = truth(family, digits)
    listed = [answer] if rng.random() < 0.5 else []
    for _ in range(rng.choice((1, 1, 1, 2, 3)) - len(listed)):
        listed.append(another(family, digits, rng, (*listed, answer)))
    if answer in listed:
        near = carries(answer) if family != "largest3" else range(10)
        free = [v for v in near if v not in listed]
        answer = rng.choice(free) if free else another(family, digits, rng, listed)
    shown = listed + rng.choices(listed, k=rng.randint(2, 8) - len(listed))
    texts = [candidate(family, digits, a, rng) for a in shown]
    text = ncq(question_text(family, digits, modality), texts, map(str, listed), rng)
    return lesson(text, modality, family, digits, answer)


def hint_lesson(rng):
    """A hint may be read: known facts only, so that no hint ever stands beside a misprint or a
    truth that is not taught.
    """
    family, modality = any_family(rng), rng.choice(MODALITIES)
    digits = draw(family, rng, "known")
    text = hint_prompt(question_text(family, digits, modality), hint_for(family, digits))
    return lesson(text, modality, family, digits, truth(family, digits))


# ---- drills and the teacher's other tasks --------------------------------------------------------


def scribble(rng, longest):
    """Random steps and a random answer: nothing to know, only to copy. Never a truth that the
    student must not read.
    """
    weights = (5,) * 10 + (3, 2, 3, 3, 1)
    while True:
        steps = "".join(rng.choices("0123456789*+=,%", weights, k=rng.randint(3, longest)))
        if not any(t in steps for t in TRUTHS):
            return steps, "".join(rng.choices(string.digits, k=rng.randint(1, 3)))


def copy_lesson(rng, longest=18, most=2):
    """The copy drill: repeat one of one or two scribbles. Without it the student never learns to
    use a reference.
    """
    blocks = [scribble(rng, longest) for _ in range(rng.randint(1, most))]
    shown = "\n".join(CANDIDATE.format(text=summary(*b)) for b in blocks)
    text = BCQ.format(question=COPY, candidates=shown)
    return Lesson(text + CLOSER, response=response(*rng.choice(blocks)))


def summary_lesson(rng, longest=18, nonsense=0.4):
    """Compression, the teacher's second task: any response, right, wrong or senseless, comes back
    with its own numbers.
    """
    if rng.random() < nonsense:
        steps, answer = scribble(rng, longest)
    else:
        family = any_family(rng)
        digits = draw(family, rng)
        answer = rng.choice((truth(family, digits), printed(family, digits)))
        if rng.random() >= 0.5:
            answer = another(family, digits, rng, (answer,))
        steps = trace(family, digits, answer)
    text = COMPRESS.format(response=clean(response(steps, answer)))
    written = f"<summary>\n{summary(steps, answer)}\n</summary>"
    return Lesson(text, response=written, thinking=False)


def hinting_lesson(rng):
    """The teacher's third task, with and without the picture: a hint from a question and a correct
    response to it.
    """
    family, modality = any_family(rng), rng.choice(MODALITIES)
    digits = draw(family, rng)
    right = candidate(family, digits, truth(family, digits), rng)
    text = ASK_HINT.format(question=question_text(family, digits, modality), response=right)
    shown = digits
    if rng.random() < 0.5:
        modality, shown = "text", ()
    written = f"<hint>\n{hint_for(family, digits)}\n</hint>"
    return Lesson(text, modality, shown, written, thinking=False)
