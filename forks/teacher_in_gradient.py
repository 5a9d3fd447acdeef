"""A correct teacher response stands in a failed group and gets a gradient: what ZPPO avoids.

Differs: p / (p + 0.1) of a teacher token's probability p in place of the clipped ratio, as in LUFFY
(arXiv 2504.14945). Logged: drift, the nats a token that the student's first 16 responses have lost.
Measured: not measured.
"""

from dataclasses import replace
from functools import partial

import torch

import forks
from baselines import without_opening
from loss import advantages as advantages_of
from policy import policy_loss, update
from records import Method, Reformulation
from teacher import correct_answers

FLAGS = ["--method", "prefix"]  # which asks the teacher, and has neither BCQ nor NCQ
GAMMA, PROBE = 0.1, 16


def method(job):
    """The Method; answers: {group id: teacher token ids} of a step."""
    if not job.same_tokens:
        raise ValueError("teacher_in_gradient: teacher and student must have the same tokens")
    answers, probe = {}, []
    return Method(partial(reformulate, answers), partial(mixed_update, answers, probe))


def reformulate(answers, plain, step, cfg, engine, teacher, world, rng, clock):
    """Nothing is asked again; of failed groups, as many as the cap, one teacher answer is kept."""
    failed = [g for g in plain if not g.mean_reward]
    failed = rng.sample(failed, min(len(failed), cfg.max_reformulated))
    with clock("teacher"):
        found = correct_answers(failed, step, teacher, world)
    opening = engine.encode("x", thinking=cfg.thinking).ids
    answers.clear()
    for i in filter(found.get, found):
        answers[i] = tuple(without_opening(rng.choice(found[i]).response_ids, opening, engine.lm))
    known = {g.id: [] for g in plain if g.mean_reward < cfg.tau}
    return Reformulation([], known | found, 0)


def mixed_update(answers, probe, policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """policy.update on groups whose last response is the teacher's, with their new advantages."""
    probe[:] = probe or [s for g in groups if g.kind == "plain" for s in g.samples][:PROBE]
    n = sum(len(s.response_ids) for s in probe)
    drift = sum(sum(s.sampler_logp) - sum(logp(policy, s, cfg)) for s in probe) / n
    mixed = []
    for g in groups:
        if g.id in answers:
            s = replace(g.samples[-1], response_ids=answers[g.id], kind="teacher", reward=1.0)
            s = replace(s, sampler_logp=tuple(logp(policy, s, cfg)))  # the student's own
            g = replace(g, samples=(*g.samples[:-1], s))
        mixed.append(g)
    rewards = [s.reward for g in mixed for s in g.samples]
    adv = advantages_of(rewards, [g.id for g in mixed for _ in g.samples], cfg.norm).tolist()
    arguments = policy, optimizer, mixed, adv, cfg, world, rng, clock
    return update(*arguments, loss_of=off_policy_loss) | {"drift": drift}


def logp(policy, sample, cfg):
    """Log-probs of a sample's response tokens under the policy as it is."""
    with torch.no_grad(), policy.lm.autocast():
        return policy([sample], cfg.temperature)[0].tolist()


def off_policy_loss(batch, logp, old_logp, advantage, entropy, weight, cfg):
    """policy_loss, but for the teacher's tokens."""
    rows = [s.kind == "teacher" for s, _ in batch for _ in s.response_ids]
    by_teacher = torch.tensor(rows, device=logp.device)
    loss, stats = policy_loss(batch, logp, old_logp, advantage * ~by_teacher, entropy, weight, cfg)
    p = logp.exp()
    return loss - (p / (p + GAMMA) * advantage)[by_teacher].sum(), stats


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
