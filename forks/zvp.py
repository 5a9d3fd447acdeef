"""Flat groups are trained on too: up where all is right, down where all is wrong, by entropy.

Differs: the advantage of a token of a flat group; all right: 0.1 H, all wrong: -0.1 (max H - H), H
its entropy, max over its response. From RL-ZVP (arXiv 2509.21880), which has no buffer.
Measured: not measured.
"""

from functools import partial

import torch

import forks
import train
from policy import policy_loss, update
from records import Method

FLAGS = ["--no-bcq", "--no-ncq"]  # GRPO and the buffer; with --bcq --ncq beside ZPPO's prompts
ALPHA = 0.1


def method(job):
    """The Method."""
    return Method(train.reformulate, update_all)


def update_all(policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """policy.update, in which no group has advantage zero."""
    flat = {g.id for g in groups if g.zero_advantage}
    samples = [s for g in groups for s in g.samples]
    signs = [1.0 if s.reward else -1.0 for s in samples]
    rows = zip(samples, advantages, signs)
    adv = [ALPHA * sign if s.group_id in flat else a for s, a, sign in rows]
    arguments = policy, optimizer, groups, adv, cfg, world, rng, clock
    return update(*arguments, loss_of=partial(entropy_shaped_loss, flat))


def entropy_shaped_loss(flat, batch, logp, old_logp, advantage, entropy, weight, cfg):
    """policy_loss with the advantages of flat groups times their entropy, or what it lacks."""
    lengths = [len(s.response_ids) for s, _ in batch]
    shaped = []
    for (sample, a), adv, h in zip(batch, advantage.split(lengths), entropy.split(lengths)):
        if sample.group_id in flat:
            adv = adv * (h if a > 0 else h.max() - h)
        shaped.append(adv)
    return policy_loss(batch, logp, old_logp, torch.cat(shaped), entropy, weight, cfg)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
