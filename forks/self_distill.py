"""The student that reads the BCQ prompt teaches the one that does not: divergence, no BCQ rollouts.

Differs: `update`; after GRPO's updates one more, on the Jensen-Shannon divergence at the student's
own tokens. From SDPO (arXiv 2601.20802) and OPSD (arXiv 2601.18734), which have other contexts.
Measured: not measured.
"""

from dataclasses import replace
from functools import partial

import torch

import forks
import train
from baselines import distill_on
from loss import jsd_sum
from model import collate, response_hidden
from policy import update
from processor import expand, pixels
from records import Method
from rollout import request_prompt

FLAGS = ["--no-ncq"]


def method(job):
    """The Method; prompts: {id of a plain group: the BCQ prompt of its question} of a step."""
    prompts = {}
    return Method(partial(reformulate, prompts), partial(distilling_update, prompts))


def reformulate(prompts, plain, step, cfg, engine, teacher, world, rng, clock):
    """ZPPO's BCQ prompts, which nobody is asked to answer."""
    made = train.reformulate(plain, step, cfg, engine, teacher, world, rng, clock)
    ids = {(g.origin, g.question.id): g.id for g in plain}
    prompts.clear()
    for request in made.requests:
        prompt = request_prompt(engine.lm, request, cfg)
        prompt = expand(engine.lm, prompt, pixels(engine.lm, prompt))
        prompts[ids[request.origin, request.question.id]] = prompt
    return made._replace(requests=[])


def distilling_update(prompts, policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """policy.update, then one on the divergence, on the groups that have a BCQ prompt."""
    metrics = update(policy, optimizer, groups, advantages, cfg, world, rng, clock)
    samples = [s for g in groups if g.id in prompts for s in g.samples]
    if samples:
        policy.teacher = partial(self_teacher, prompts, policy.lm)
        found = distill_on(samples, policy, optimizer, cfg, world, clock)
        metrics["self_jsd"] = found["loss"]
        metrics["trained"] += found["trained"]
    return metrics


def self_teacher(prompts, lm, samples, hidden, head, banned, temperature):
    """jsd_sum of the policy and itself with the BCQ prompts, at the same response tokens; in place
    of baselines.FrozenTeacher.
    """
    told = [replace(s, prompt=prompts[s.group_id]) for s in samples]
    with torch.no_grad():
        target, _ = response_hidden(lm, collate(lm, told))
    return jsd_sum(hidden, head, target, lm.head, banned, temperature)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
