"""Does the sampler sample what is trained? Asked at every step, of the first responses.

A sync that goes wrong (a layer that did not arrive, a stale cache, another precision) shows in the
log-probs: the sampler's of its own responses, and the trainer's of the same tokens. How far they
may differ is what precision explains: a fixed bound by dtype, and what the first check of this
process found, when sampler and trainer had read the same files and nothing had been synced yet.
"""

import torch

from packing import micro_batches
from policy import SAME_NET

LIMIT = 0.1  # nats, mean |difference| a token: beyond it nothing is explained
# (mean, largest) |difference| that passes without a look at the first check. bfloat16 was measured
# at 0.023 on random models and at 0.002 on trained ones; single tokens have long tails there.
# float32 leaves a millionth, and a hundred-thousandth at one token.
PRECISION = {torch.float32: SAME_NET, torch.bfloat16: (0.03, None)}
FACTOR = 10  # on what the first check found
ROWS = 8


def check_sampler(policy, engine, groups, cfg, world):
    """Compare the sampler's log-probs of a few responses with the trainer's. Raises ValueError on
    every rank when they differ by more than precision explains. Every rank calls this with the same
    groups. Nothing to do where the engine samples with the trainer's own net.
    """
    if engine.holds(policy.lm.net):
        return
    rows = [(g.samples[0], 0.0) for g in groups if g.samples[0].response_ids][:ROWS]
    if not rows:
        return
    own = measure_gap(policy, rows, cfg)
    mean, largest = world.broadcast_from_rank0(lambda: own)
    first = vars(engine).setdefault("first_gap", (mean, largest))
    most, most_of_all = limits(first, policy.lm.compute, cfg.temperature)
    if mean <= most and largest <= most_of_all:  # false for nan as well
        return
    found = f"{mean:.2g} nats a token (at most {most:.2g})"
    if mean <= most:
        found = f"{largest:.2g} nats at one token (at most {most_of_all:.2g})"
    raise ValueError(
        f"the sampler ({type(engine).__name__}, {engine.name}) does not sample what is trained: "
        f"its log-probs differ from the trainer's by {found}: the weight sync went wrong, or the "
        f"engine runs other kernels or another precision; --engine hf is slow and right"
    )


def measure_gap(policy, rows, cfg):
    """(mean, largest) |trainer's - sampler's log-prob| over the response tokens of rows (Sample,
    advantage), in nats.
    """
    gaps = []
    for batch in micro_batches(rows, cfg.micro_tokens, policy.lm.share_prompts):
        samples = [s for s, _ in batch]
        with torch.no_grad(), policy.lm.autocast():
            logp, _ = policy(samples, cfg.temperature)
        if policy.lm.sharded:
            policy.reshard()  # a forward without a backward leaves the root's parameters whole
        sampled = [x for s in samples for x in s.sampler_logp]
        gaps.append((logp - torch.tensor(sampled, device=logp.device)).abs())
    gaps = torch.cat(gaps)
    return float(gaps.mean()), float(gaps.max())


def limits(first, dtype, temperature):
    """The largest (mean, single) gap that passes, in nats. first: the pair of the first check;
    dtype: of compute; temperature: below 1 it widens differences of the logits.
    """
    sharper = max(1.0, 1 / temperature)
    mean, single = PRECISION.get(dtype, PRECISION[torch.bfloat16])
    mean = min(LIMIT, max(mean * sharper, FACTOR * first[0]))
    if single is None:
        return mean, float("inf")
    return mean, max(single * sharper, FACTOR * first[1])
