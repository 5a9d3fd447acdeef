"""The trained model as one unit, and the update of ZPPO section 3.3 on the groups of one rollout
step.

    policy = shard_policy(lm, World())                          # lm: model.load("some/folder")
    optimizer = torch.optim.AdamW(lm.net.parameters(), lr=1e-6)
    metrics = update(policy, optimizer, groups, advantages, cfg, World())

The unit is samples in, log-probs out, in one forward: what FSDP wraps, so that head and embedding
are read while gathered (a head read outside of the wrapped forward loses the other ranks' gradients
without a word). On several ranks every one calls `update` with the same groups; what is split is
the micro-batches. Rows without advantage have no gradient: they count in the denominator and run no
backward.
"""

import math
import random
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distributed import init_process_group
from loss import chunked_logp, policy_loss_sum, tis_weight
from model import trains_vision
from packing import by_prompt, shard_micro_batches
from processor import prepare_ahead
from runtime.update_metrics import UpdateMetrics
from shared_prompt import response_states

# (mean, largest) difference in nats that float32 leaves between two forwards of the same net
SAME_NET = 1e-4, 2e-4


class Policy(nn.Module):
    """Samples in, log-probs out. teacher: baselines.FrozenTeacher, for the divergence of the
    distillation baselines in the same forward; else None. samples_itself: this very net sampled,
    in float32, so that sampler_logp is old_logp.
    """

    def __init__(self, lm, teacher=None, always_look=False, samples_itself=False):
        super().__init__()
        self.net, self.teacher, self.samples_itself = lm.net, teacher, samples_itself
        self.always_look = always_look and trains_vision(lm)
        object.__setattr__(self, "lm", lm)  # not a submodule: its net is one already

    def forward(self, samples, temperature=1.0, distill=False, entropy=True):
        """samples: list of Sample. Returns (N,) log-probs and (N,) entropies (zeros without
        `entropy`) of their N response tokens, row by row; with distill the sum and the (N,)
        divergences instead.
        """
        lm = self.lm
        hidden, tokens = response_states(lm, samples, self.always_look)
        if distill:
            return self.teacher(samples, hidden, lm.head, lm.banned, temperature)
        return chunked_logp(hidden, lm.head, tokens, lm.banned, temperature, entropy=entropy)


def shard_policy(lm, world, teacher=None, checkpointing=False, sampler=None):
    """The Policy of an LM; FSDP2 over the student ranks where there are several or the device is a
    GPU. sampler: the engine that samples from it.

    checkpointing: keep one hidden state a block and compute the rest again in the backward pass (in
    training mode). One unit a decoder block, one for all else (embedding, head, vision tower: small
    beside the blocks, and a batch without images must not make a rank skip a collective). Masters
    stay float32; lm.compute is what is gathered and multiplied.
    """
    itself = sampler is not None and sampler.holds(lm.net) and lm.compute == torch.float32
    policy = Policy(lm, teacher, always_look=world.size > 1, samples_itself=itself)
    if checkpointing:
        lm.net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if world.size == 1 and not world.device.startswith("cuda"):
        return policy
    if not dist.is_initialized():
        init_process_group(world, dist.HashStore())
    precision = MixedPrecisionPolicy(
        param_dtype=lm.compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = dist.init_device_mesh(world.device.partition(":")[0], (world.size,))
    settings = {"mesh": mesh, "mp_policy": precision}
    if teacher:
        for block in teacher.lm.blocks():
            fully_shard(block, **settings)
        # kept whole after its forward: the backward of the divergence reads the teacher's head too
        fully_shard(teacher, **settings, reshard_after_forward=False)
    for block in lm.blocks():
        fully_shard(block, **settings)
    fully_shard(policy, **settings, reshard_after_forward=False)
    lm.sharded = True
    return policy


def full_tensor(tensor):
    """A possibly sharded tensor as a whole; every rank has to call this in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(lm, dtype=None):
    """(name, full tensor) of every parameter, one after the other, so that never a second copy of
    the model exists.

    Collective: every rank iterates over all of it. dtype: cast before it is gathered, which halves
    the traffic of bfloat16.
    """
    shards = not lm.sharded or all(isinstance(p, DTensor) for p in lm.net.parameters())
    assert shards, "a forward without a backward leaves the root's parameters whole: reshard() it"
    for name, p in lm.net.named_parameters():
        p = p.detach()
        yield name, full_tensor(p if dtype is None else p.to(dtype))


# ---- the update ----------------------------------------------------------------------------------


def policy_loss(batch, logp, old_logp, advantage, entropy, weight, cfg):
    """The policy loss of a micro-batch (section 3.3, Table 8) and its stats, as policy_loss_sum has
    them. batch: rows (Sample, advantage); all else (N,), of their response tokens, row by row.
    """
    clips = cfg.clip_low, cfg.clip_high, cfg.dual_clip
    return policy_loss_sum(logp, old_logp, advantage, *clips, weight)


def update(policy, optimizer, groups, advantages, cfg, world, rng=None, clock=None, loss_of=None):
    """I gradient updates (cfg.iterations, Table 8) on the groups of one rollout step; every sampled
    token is used in exactly one of them.

    advantages: one float a sample, in the order of the groups. rng: random.Random, deals the groups
    to minibatches, the same on every rank. clock: metrics.Clock, times the phases "old_logp" and
    "update". loss_of: another policy_loss. Where the trained net itself sampled in float32,
    old_logp is sampler_logp, checked on cfg.flat_share of the groups; of the samples without
    advantage the same share is measured. entropy and gap_* of the metrics are those of what was
    computed, each group standing for others. Returns the metrics: sums over the step and over all
    ranks, divided once. Raises ValueError when the gradient is not finite.
    """
    rng = rng or random.Random(cfg.seed)
    clock = clock or (lambda phase: nullcontext())
    rows = list(zip([s for g in groups for s in g.samples], advantages))  # (Sample, advantage)
    minibatches = split_minibatches(rows, cfg, rng)
    # The same micro-batches for old_logp and for the update: in bf16 another grouping alone moves
    # the ratios.
    active = [[row for row in minibatch if row[1] != 0] for minibatch in minibatches]
    share = policy.lm.share_prompts
    batches = [shard_micro_batches(a, cfg.micro_tokens, world, share) for a in active]

    if policy.lm.device.type == "cuda":  # a CPU has no time beside the update
        prepare_ahead(
            policy.lm, [s.prompt for some in batches for part, _ in some for s, _ in part]
        )
    metrics = UpdateMetrics()
    with clock("old_logp"), torch.no_grad():
        # Before any step logp is old_logp, so the first minibatch's comes from its own update.
        old_logps = [[None] * len(batches[0])]
        known = policy.samples_itself and sampler_agrees(
            policy, sum(active[1:], []), cfg, world, rng, metrics
        )
        logp_of = _known_logp if known else _old_logp
        for some in batches[1:]:
            old_logps.append([logp_of(policy, b, w, cfg, metrics) for b, w in some])
        idle = [row for row in rows if row[1] == 0]
        metrics.add(measure(policy, idle, cfg, world, rng))

    norms = []
    with clock("update"):
        for minibatch, some, old in zip(minibatches, batches, old_logps):
            n_tokens = max(1, count_tokens(minibatch))  # of the whole minibatch, on all ranks
            with optimizer_step(policy, optimizer, cfg, norms):
                for (batch, weight), old_logp in zip(some, old):
                    args = batch, weight, old_logp, cfg, metrics, loss_of or policy_loss
                    loss = _batch_loss(policy, *args)
                    # FSDP averages gradients over the ranks; this is a sum
                    (loss * weight * world.size / n_tokens).backward()
                    world.heartbeat()
    return metrics.reduce(world, count_tokens(rows)) | {"grad_norm": sum(norms) / len(norms)}


def split_minibatches(rows, cfg, rng):
    """The rows of a step, dealt by group to cfg.iterations minibatches; rng: random.Random."""
    n = cfg.group_size
    groups = [rows[i : i + n] for i in range(0, len(rows), n)]
    rng.shuffle(groups)
    return [sum(groups[k :: cfg.iterations], []) for k in range(cfg.iterations)]


def count_tokens(rows):
    """Response tokens of rows (Sample, advantage)."""
    return sum(len(s.response_ids) for s, _ in rows)


def _batch_loss(policy, batch, weight, old_logp, cfg, metrics, loss_of):
    """The summed loss of a micro-batch, before any denominator."""
    first = old_logp is None
    needs = first or loss_of is not policy_loss
    with policy.lm.autocast():
        logp, entropy = policy([s for s, _ in batch], cfg.temperature, entropy=needs)
    sampler_logp = _sampler_logp(batch, logp.device)
    if first:
        old_logp = logp.detach()
        metrics.add_rollout(old_logp, sampler_logp, entropy, weight)
    tokens = [a for s, a in batch for _ in s.response_ids]
    advantage = torch.tensor(tokens, device=logp.device, dtype=logp.dtype)
    tis = tis_weight(old_logp, sampler_logp, cfg.tis) if cfg.tis else None
    loss, stats = loss_of(batch, logp, old_logp, advantage, entropy, tis, cfg)
    metrics.add_loss(loss, stats, weight)
    return loss


def _old_logp(policy, batch, weight, cfg, metrics):
    with policy.lm.autocast():
        logp, entropy = policy([s for s, _ in batch], cfg.temperature)
    metrics.add_rollout(logp, _sampler_logp(batch, logp.device), entropy, weight)
    return logp


def _known_logp(policy, batch, weight, cfg, metrics):
    return _sampler_logp(batch, policy.lm.device)


def _sampler_logp(batch, device):
    return torch.tensor([x for s, _ in batch for x in s.sampler_logp], device=device)


def measure(policy, rows, cfg, world, rng):
    """UpdateMetrics of the rollout, of cfg.flat_share of the rows (Sample, advantage): whole
    groups, drawn by rng, standing for all.
    """
    found, groups = UpdateMetrics(), by_prompt(rows)
    chosen = sum(rng.sample(groups, math.ceil(cfg.flat_share * len(groups))), [])
    share = policy.lm.share_prompts
    for batch, weight in shard_micro_batches(chosen, cfg.micro_tokens, world, share):
        _old_logp(policy, batch, weight * len(rows) / len(chosen), cfg, found)
    return found


def sampler_agrees(policy, rows, cfg, world, rng, metrics):
    """Whether sampler_logp may stand for old_logp: both within SAME_NET (wider for a temperature
    below 1) on the measured share, which is added to the metrics then.
    """
    own = random.Random()
    own.setstate(rng.getstate())  # a copy: the run's draws are those of any other engine
    found = measure(policy, rows, cfg, world, own)
    gaps = found.sums["gap"] / max(1, found.sums["tokens"]), found.sums["gap_max"]
    agrees = all(gap <= most * max(1, 1 / cfg.temperature) for gap, most in zip(gaps, SAME_NET))
    if agrees:  # false for nan as well
        metrics.add(found)
    return agrees


@contextmanager
def optimizer_step(policy, optimizer, cfg, norms):
    """One optimizer step on the gradients that are accumulated inside; appends their global norm,
    before it is clipped.
    """
    net = policy.lm.net
    if policy.lm.sharded:
        policy.reshard()  # a forward without a backward leaves the root's parameters whole
    # zeros, not None: a minibatch with nothing to learn is legal, and momentum goes on
    for p in (p for p in net.parameters() if p.requires_grad):
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()
    net.train(cfg.checkpointing)  # transformers recomputes activations in training mode only
    yield
    net.eval()
    norm = full_tensor(torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.grad_clip))
    norms.append(float(norm))
    if not math.isfinite(norms[-1]):
        raise ValueError(
            f"the gradient norm is {norms[-1]}; lower --lr, or look at the last samples"
        )
    optimizer.step()
