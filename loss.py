"""Advantages, policy loss, chunked log-probs, and the divergence of the distillation baselines:
tensors in, sums out.

ZPPO section 3.3, Eqs. 2-6, Table 8; the divergence is Appendix D.2's.

Pure: no model, no process group, no means over tokens. The caller owns the denominator, because it
has to count the tokens of the whole minibatch, over all micro-batches and ranks, before the first
of them is divided. Left out, as in the paper: KL term, reference model, online filtering.

Alone, one GRPO-like update on your own hidden states (N response tokens, width D, vocabulary V):

    adv = advantages(rewards, group_ids)                          # (samples,)
    logp, entropy = chunked_logp(hidden, head_weight, tokens)     # (N,), (N,)
    total, stats = policy_loss_sum(logp, old_logp, adv[row_of_token])
    (total / n_tokens_of_the_minibatch).backward()

    >>> advantages([1, 0, 0, 0, 1, 1], [7, 7, 7, 7, 8, 8]).round(decimals=3).tolist()
    [1.732, -0.577, -0.577, -0.577, 0.0, 0.0]
"""

import math

import torch
from torch.utils.checkpoint import checkpoint

NORMS = ("nonzero", "all", "none")
LOWEST = torch.finfo(torch.float32).min  # of a logit with probability 0; -inf * 0 would be nan


def advantages(rewards, group_ids, norm="nonzero", eps=1e-8):
    """REINFORCE++ in two steps (Eqs. 2-3): centre in the group, then scale by one standard
    deviation for all.

    rewards: sequence of n floats, of the whole rollout step over all ranks; group_ids: n ints,
    equal inside a group. norm "nonzero": mean and std over the samples of non-trivial groups (the
    default, "norm w/o zero"); "all": over every sample; "none": step 1 only. A group is trivial
    when max == min: a floating-point std of equal rewards can be > 0. Returns (n,) float64; trivial
    groups get exactly 0. Raises ValueError for a group of one and for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not one of {NORMS}")
    r = torch.as_tensor(rewards, dtype=torch.float64)
    _, group = torch.unique(torch.as_tensor(group_ids), return_inverse=True)
    if len(r) == 0:
        return r
    size = torch.bincount(group)
    if (size == 1).any():
        raise ValueError(
            "a group with a single sample has no baseline; sample at least 2 responses a prompt"
        )
    G = len(size)
    low = torch.full((G,), float("inf"), dtype=r.dtype).scatter_reduce(0, group, r, "amin")
    high = torch.full((G,), -float("inf"), dtype=r.dtype).scatter_reduce(0, group, r, "amax")
    spread = (low != high)[group]  # (n,)
    mean = torch.zeros(G, dtype=r.dtype).index_add(0, group, r) / size
    a = torch.where(spread, r - mean[group], 0.0)  # Eq. 2
    if norm == "none" or not spread.any():
        return a
    over = a[spread] if norm == "nonzero" else a
    std = over.std(correction=0)  # of the population: makes Eqs. 4-6 exact
    a = (a - over.mean()) / (std + eps)  # Eq. 3
    return torch.where(spread, a, 0.0)


def policy_loss_sum(logp, old_logp, adv, clip_low=0.2, clip_high=0.28, dual_clip=10.0, weight=None):
    """PPO surrogate with asymmetric clip and dual clip, summed over tokens (Table 8).

    logp, old_logp, adv: (N,) for N response tokens; only logp carries a gradient. weight: (N,)
    factors of the tokens' losses after all clips, taken as constants (tis_weight); None: 1. Dual
    clip: with a negative advantage the loss of a token is at most dual_clip * |adv|, however large
    its ratio. Returns (sum, stats); stats: {"tokens", "clipped", "dual_clipped"} as ints and
    "ratio_max", for logging.
    """
    # beyond 20 every clip is bound; exp(89) would make 0 * inf
    ratio = torch.exp((logp - old_logp).clamp(-20, 20))
    surrogate = -torch.minimum(ratio * adv, ratio.clamp(1 - clip_low, 1 + clip_high) * adv)
    ceiling = -dual_clip * adv
    per_token = torch.where(adv < 0, torch.minimum(surrogate, ceiling), surrogate)
    if weight is not None:
        per_token = per_token * weight.detach()
    with torch.no_grad():
        bound = torch.where(adv > 0, ratio > 1 + clip_high, ratio < 1 - clip_low) & (adv != 0)
        stats = {
            "tokens": len(logp),
            "clipped": int(bound.sum()),
            "dual_clipped": int(((adv < 0) & (surrogate > ceiling)).sum()),
            "ratio_max": float(ratio.max()) if len(ratio) else 1.0,
        }
    return per_token.sum(), stats


def tis_weight(old_logp, sampler_logp, cap):
    """Truncated importance sampling: min(exp(old_logp - sampler_logp), cap) a token, (N,), without
    gradient.

    Corrects for a sampler whose probabilities are not quite the trainer's (another engine, another
    precision); `cap` bounds the variance. With one engine for both it is 1.
    """
    return torch.exp((old_logp - sampler_logp).detach().clamp(-20, 20)).clamp(max=cap)


def mask_logits(logits, banned):
    """`logits` in fp32 with probability 0 on the `banned` ids: the same distribution in sampling
    and in training.

    finfo.min rather than -inf, so that 0 * logit stays 0 in the entropy.
    """
    logits = logits.float()
    if banned is None or len(banned) == 0:
        return logits
    return logits.index_fill(-1, banned, LOWEST)


def head_chunk(vocabulary):
    """Tokens whose logits exist at once: about 2 GB in float32 with their softmax, 4096 at most."""
    return max(64, min(4096, 2**31 // (8 * vocabulary)))


def chunked_logp(hidden, weight, tokens, banned=None, temperature=1.0, chunk=None, entropy=True):
    """Log-prob of each token and entropy at its place, never holding more than a few (chunk, V)
    tensors.

    hidden: (N, D); weight: (V, D) of the head; tokens: (N,) int64; banned: ids with probability 0.
    Softmax in fp32, of logits / temperature. Each chunk's logits are made again in the backward
    pass. entropy: False returns zeros for it, and saves a pass over the logits where nobody reads
    it. chunk: head_chunk(V) where not given. Returns logp (N,) and entropy (N,) in nats, fp32; the
    entropy carries no gradient.
    """
    chunk = chunk or head_chunk(len(weight))
    if len(tokens) == 0:  # empty, and still part of the graph
        nothing = hidden.sum(-1).float()
        return nothing, nothing.detach()
    device = hidden.device.type  # autocast is off in backward: name the dtype here
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return _ChunkedLogp.apply(hidden, weight, tokens, banned, temperature, chunk, entropy, dtype)


def _chunk_logits(hidden, weight, banned, temperature):
    logits = (hidden @ weight.T).float()  # (chunk, V), ours alone: in place from here on
    logits = logits if temperature == 1 else logits.div_(temperature)
    if banned is not None and len(banned):  # after the division, or it becomes -inf
        logits.index_fill_(-1, banned, LOWEST)
    return logits


class _ChunkedLogp(torch.autograd.Function):
    """Written out, because a vocabulary of 248,320 makes every pass over the logits cost as much as
    a matrix product.

    d logp[t] / d logits = onehot(t) - softmax; saved for it are one number a token (the log of the
    softmax's sum), no logits.
    """

    @staticmethod
    def forward(ctx, hidden, weight, tokens, banned, temperature, chunk, want_entropy, dtype):
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.to(dtype), weight.to(dtype)
            logp, lse, entropy = (torch.zeros(len(tokens), device=h.device) for _ in range(3))
            for i in range(0, len(tokens), chunk):
                part = slice(i, i + chunk)
                logits = _chunk_logits(h[part], w, banned, temperature)
                top = logits.amax(-1, keepdim=True)
                p = (logits - top).exp_()  # softmax, but for its sum
                total = p.sum(-1)
                lse[part] = top[:, 0] + total.log()
                logp[part] = logits.gather(-1, tokens[part, None])[:, 0] - lse[part]
                if want_entropy:  # -sum p log p; 0 * finfo.min is 0
                    entropy[part] = lse[part] - torch.linalg.vecdot(p, logits) / total
        ctx.save_for_backward(hidden, weight, tokens, lse)
        ctx.rest = banned, temperature, chunk, dtype
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, tokens, lse = ctx.saved_tensors
        banned, temperature, chunk, dtype = ctx.rest
        with torch.autocast(hidden.device.type, enabled=False):
            h, w, grad = hidden.to(dtype), weight.to(dtype), grad / temperature
            d_hidden = torch.empty_like(h)
            d_weight = torch.zeros_like(w, dtype=torch.float32)  # a sum over chunks
            for i in range(0, len(tokens), chunk):
                part = slice(i, i + chunk)
                logits = _chunk_logits(h[part], w, banned, temperature)
                d = logits.sub_(lse[part, None]).exp_()  # softmax
                d.mul_(-grad[part, None]).scatter_add_(-1, tokens[part, None], grad[part, None])
                d = d.to(dtype)
                d_hidden[part] = d @ w
                d_weight += d.T @ h[part]
        return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), *[None] * 6


def jsd_sum(student, student_head, teacher, teacher_head, banned=None, temperature=1.0, chunk=1024):
    """Jensen-Shannon divergence of student and teacher at each token, over the full vocabulary,
    summed over tokens.

    JSD = KL(p||m)/2 + KL(q||m)/2 with m = (p + q)/2, in nats: 0 where p = q, at most ln 2,
    symmetric. Softmax in fp32, of logits / temperature. student, teacher: hidden states (N, Ds) and
    (N, Dt) at the same N places; heads: (V, Ds), (V', Dt). Where the vocabularies are padded to
    different sizes, the ids that only one of them has get probability 0, as the `banned` ones do.
    Only the student carries a gradient. Never more than (chunk, V) logits of each; a chunk is
    recomputed in the backward pass. Returns the sum, and the (N,) divergences, detached.
    """
    V = min(len(student_head), len(teacher_head))
    banned = None if banned is None else banned[banned < V]

    def log_probs(h, head):
        # divided before masking: finfo.min / 0.5 would be -inf, and -inf - -inf below nan
        logits = (h @ head[:V].T).float() / temperature  # (chunk, V)
        return torch.log_softmax(mask_logits(logits, banned), dim=-1)

    def part(hs, ht):
        logp = log_probs(hs, student_head)
        with torch.no_grad():
            logq = log_probs(ht, teacher_head)
        # log p/m = ln 2 - ln(1 + q/p), from the log ratio: exactly 0 where p = q, finite where p or
        # q underflows to 0
        ratio = logq - logp
        zero = torch.zeros_like(ratio)
        p_over_m, q_over_m = (math.log(2) - torch.logaddexp(zero, r) for r in (ratio, -ratio))
        return ((logp.exp() * p_over_m).sum(-1) + (logq.exp() * q_over_m).sum(-1)) / 2

    if len(student) == 0:  # empty, and still part of the graph
        return student.sum().float(), student.new_zeros(0).float()
    parts = zip(student.split(chunk), teacher.split(chunk))
    if torch.is_grad_enabled():
        per_token = torch.cat([checkpoint(part, *hidden, use_reentrant=False) for hidden in parts])
    else:
        per_token = torch.cat([part(*hidden) for hidden in parts])
    return per_token.sum(), per_token.detach()
