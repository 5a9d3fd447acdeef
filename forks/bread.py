"""The shortest beginning of a teacher response from which the student is sometimes right is forced.

Differs: `reformulate`; the prefix baseline forces 40 %, here its length is found by halving, for
failed questions. From BREAD (arXiv 2506.17211), which keeps whole steps and its own baseline.
Measured: not measured.
"""

from dataclasses import replace

import forks
from baselines import without_opening
from policy import update
from records import Method, Reformulation, RolloutRequest
from reformulate import pre_cap
from rollout import rollout
from teacher import correct_answers

FLAGS = ["--method", "prefix"]
ROUNDS = 6  # halvings: to one token of 64


def method(job):
    """The Method."""
    if not job.same_tokens:
        raise ValueError("bread: teacher and student must have the same tokens")
    return Method(reformulate, update)


def reformulate(plain, step, cfg, engine, teacher, world, rng, clock):
    """The groups of the shortest prefixes with a spread of rewards, sampled already."""
    failed = [g for g in plain if not g.mean_reward]
    order = pre_cap([0.0] * len(failed), cfg.tau, cfg.max_reformulated, rng)
    with clock("teacher"):
        answers = {g.id: [] for g in plain if g.mean_reward < cfg.tau}
        answers |= correct_answers([failed[i] for i in order], step, teacher, world)
    failed = [failed[i] for i in order if answers[failed[i].id]]
    opening = engine.encode("x", thinking=cfg.thinking).ids
    room = engine.window - cfg.max_prompt - cfg.max_response
    whole, low, high, found = {}, {}, {}, {}  # by id of the plain group
    for g in failed:
        whole[g.id] = without_opening(rng.choice(answers[g.id]).response_ids, opening, engine.lm)
        low[g.id], high[g.id] = 0, min(len(whole[g.id]), room)
    with clock("reformulated_rollout"):
        for _ in range(ROUNDS):
            asked = [g for g in failed if high[g.id] - low[g.id] > 1]
            length = {g.id: (low[g.id] + high[g.id]) // 2 for g in asked}
            requests = [request(g, whole[g.id][: length[g.id]], engine) for g in asked]
            sampled = rollout(engine, requests, step, cfg, world, teacher=teacher)
            for g, branch in zip(asked, sampled):
                if not branch.mean_reward:  # too short to help
                    low[g.id] = length[g.id]
                    continue
                high[g.id] = length[g.id]
                if not branch.zero_advantage:
                    found[g.id] = branch
    groups = [numbered(g, len(plain) + k) for k, g in enumerate(found.values())]
    return Reformulation([], answers, 0, groups=tuple(groups))


def request(group, prefix, engine):
    """The question of a group, with this much of an answer forced."""
    q, shown = group.question, (engine.lm.tokenizer.decode(prefix),)
    return RolloutRequest("prefix", group.origin, q, q.question, tuple(prefix), shown)


def numbered(group, group_id):
    """The group under another id."""
    samples = tuple(replace(s, group_id=group_id) for s in group.samples)
    return replace(group, id=group_id, samples=samples)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
