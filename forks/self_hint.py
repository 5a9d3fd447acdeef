"""The student itself writes the hint for a question that it never solved, from the gold answer.

Differs: who writes hints, and for which questions. From NuRL (arXiv 2509.25666), where hints are
written once, ahead of training, and abstract ones help most. No teacher.
Measured: not measured.
"""

from functools import partial
from types import SimpleNamespace

import forks
from baselines import hint_requests
from engines.base import seed_of
from policy import update
from records import Method, Reformulation
from reformulate import pre_cap
from rollout import fitting
from teacher import HINT

FLAGS = ["--method", "grpo"]


def method(job):
    """The Method."""
    return Method(reformulate, update)


def reformulate(plain, step, cfg, engine, teacher, world, rng, clock):
    """Hint prompts of failed questions, with the student's own hints; no hint that gives the answer
    away (baselines.hint_of).
    """
    with clock("reformulate"):
        hard = [g for g in plain if g.mean_reward < cfg.tau]
        failed = [g for g in hard if not g.mean_reward]
        order = pre_cap([0.0] * len(failed), cfg.tau, cfg.max_reformulated, rng)
        failed = [failed[i] for i in order]
        texts = [f"\\boxed{{{g.question.golds[0]}}}" for g in failed]
        student = SimpleNamespace(hints=partial(own_hints, engine, step, cfg))
        requests = hint_requests(failed, texts, engine, student, world)
        requests, too_long = fitting(requests, engine, cfg)
    return Reformulation(requests, {g.id: [] for g in hard}, too_long)


def own_hints(engine, step, cfg, questions, texts):
    """Teacher.hints, but by the student, who sees the pictures too."""
    prompts = []
    for q, text in zip(questions, texts):
        asked = HINT.format(question=q.question, response=text)
        prompts.append(engine.encode(asked, q.images, q.video, thinking=False))
    seed = seed_of(cfg.seed, step, "own hint")
    drawn = engine.sample(prompts, 1, cfg.max_summary, seed, cfg.temperature)
    return [sample.text for [sample] in drawn]


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
