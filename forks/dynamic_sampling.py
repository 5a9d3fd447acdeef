"""Questions that are still flat after BCQ and NCQ are dropped, and as many others drawn instead.

Differs: what is trained on. DAPO's dynamic sampling (arXiv 2503.14476) after the reformulations, an
open problem that ZPPO names; here in one round, and those redrawn do not enter the buffer.
Measured: not measured.
"""

from functools import partial

import forks
import train
from policy import update
from records import Method, RolloutRequest
from rollout import rollout

FLAGS = []


def method(job):
    """The Method."""
    return Method(partial(reformulate, job.questions), update_without_flat)


def reformulate(questions, plain, step, cfg, engine, teacher, world, rng, clock):
    """ZPPO's prompts, sampled at once, and new questions at random in place of the flat ones."""
    made = train.reformulate(plain, step, cfg, engine, teacher, world, rng, clock)
    settings = {"step": step, "cfg": cfg, "world": world, "teacher": teacher}
    with clock("reformulated_rollout"):
        helped = rollout(engine, made.requests, first_id=len(plain), **settings)
    with_spread = {g.question.id for g in (*plain, *helped) if not g.zero_advantage}
    asked = {g.question.id for g in plain}
    places = {questions.place(i) for i in asked}
    others = [k for k in questions.good if k not in places]
    again = rng.sample(others, min(len(asked - with_spread), len(others)))
    redrawn = [questions[k] for k in again]
    requests = [RolloutRequest("redrawn", "new", q, q.question) for q in redrawn]
    with clock("redrawn_rollout"):
        first_id = len(plain) + len(helped)
        more = rollout(engine, requests, first_id=first_id, **settings)
    kept = [g for g in more if not g.zero_advantage]
    return made._replace(requests=[], groups=(*helped, *kept))


def update_without_flat(policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """policy.update without flat groups, which count in its denominator otherwise."""
    n = cfg.group_size
    kept = [i for i, g in enumerate(groups) if not g.zero_advantage]
    adv = [a for i in kept for a in advantages[n * i : n * (i + 1)]]
    return update(policy, optimizer, [groups[i] for i in kept], adv, cfg, world, rng, clock)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
