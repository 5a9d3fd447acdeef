"""NCQ without the wrong answers that the student itself hardly gives.

Differs: what an NCQ prompt lists and shows; an answer that stands in fewer than two responses of
the group is left out, as long as one is left. From no paper: a question to ZPPO's NCQ (Fig. 18).
Measured: not measured.
"""

from collections import Counter
from dataclasses import replace

import forks
import train
from math_equal import answers_equal
from policy import update
from records import Method
from reformulate import clean, ncq
from reward import last_boxed

FLAGS = []
AT_LEAST = 2  # responses of a group


def method(job):
    """The Method."""
    return Method(reformulate, update)


def reformulate(plain, step, cfg, engine, teacher, world, rng, clock):
    """ZPPO's prompts, each NCQ written again from what is left of its candidates."""
    made = train.reformulate(plain, step, cfg, engine, teacher, world, rng, clock)
    groups = {(g.origin, g.question.id): g for g in plain}
    requests = []
    for r in made.requests:
        if r.kind == "ncq":
            r = pruned(r, groups[r.origin, r.question.id], rng, engine.control)
        requests.append(r)
    return made._replace(requests=requests)


def pruned(request, group, rng, control):
    """The NCQ request without rare answers, and without the candidates that give them; as it is
    where nothing would be left.
    """
    boxes = [last_boxed(s.text) or "" for s in group.samples if not s.reward]
    count = Counter(clean(box, control) for box in boxes)
    often = [answer for answer, n in count.items() if n >= AT_LEAST]

    def kept(answer):
        return answer is not None and any(answers_equal(answer, a) for a in often)

    listed = [a for a in request.listed_answers if kept(a)]
    shown = [c for c in request.wrong_candidates if kept(last_boxed(c))]
    if not listed or not shown:
        return request
    text = ncq(request.question.question, shown, listed, rng, control)
    answers = {"listed_answers": tuple(listed), "wrong_candidates": tuple(shown)}
    return replace(request, text=text, **answers)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
