"""Does the sampler sample what is trained? Asked at every step, of the first responses.

A sync that goes wrong (a layer that did not arrive, a stale cache, another precision) shows in the
log-probs: the sampler's of its own responses, and the trainer's of the same tokens. Two engines in
bfloat16 differ by a few hundredths of a nat; a sync that failed by whole nats.
"""

import torch

from policy import micro_batches

LIMIT = 0.1  # nats, mean |difference| a token
ROWS = 8


def check_sampler(policy, engine, groups, cfg, world):
    """Compare the sampler's log-probs of a few responses with the trainer's. Raises ValueError on
    every rank when they differ by more than LIMIT nats a token. Every rank calls this with the same
    groups. Nothing to do where the engine samples with the trainer's own net.
    """
    if engine.holds(policy.lm.net):
        return
    rows = [(g.samples[0], 0.0) for g in groups if g.samples[0].response_ids][:ROWS]
    if not rows:
        return
    samples = [s for s, _ in micro_batches(rows, cfg.micro_tokens)[-1]]  # the shortest ones
    with torch.no_grad(), policy.lm.autocast():
        logp, _ = policy(samples, cfg.temperature)
    if policy.lm.sharded:
        policy.reshard()  # a forward without a backward leaves the root's parameters whole
    sampler_logp = torch.tensor([x for s in samples for x in s.sampler_logp], device=logp.device)
    gap = float((logp - sampler_logp).abs().mean())
    gap = world.broadcast_from_rank0(lambda: gap)
    if not gap <= LIMIT:  # nan as well
        raise ValueError(
            f"the sampler ({type(engine).__name__}, {engine.name}) does not sample what is "
            f"trained: its log-probs differ from the trainer's by {gap:.2f} nats a token (at most "
            f"{LIMIT}): the weight sync went wrong, or the engine runs other kernels or another "
            f"precision; --engine hf is slow and right"
        )
