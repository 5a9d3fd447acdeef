"""AdamW for float32 master weights, its states in float32 or in bfloat16 (--optim-dtype).

The paper's optimizer is AdamW with bfloat16 states (Table 8, AnyPrecision). That one holds the
weights in bfloat16 as well, and adds what their rounding lost as a third state (Kahan). Here the
weights stay float32, so no update is lost there; what bfloat16 loses is the second moment: in

    v <- beta2 v + (1 - beta2) g^2

a step of beta2 = 0.999 changes v by at most a thousandth of itself where g is small, less than half
of bfloat16's spacing (2^-9). Rounded to nearest, v would never come down again, and the parameter's
steps stay small for ever. So the states are rounded stochastically: up with the probability of the
part that is cut off, down otherwise, which is right on average (as torchao rounds weights; its own
optimizers, torchdistX's and optimi's keep states in the dtype of the weights).

The random bits come from the parameter's place, its step and the rank, so a resumed run draws the
same ones and no generator has to be saved.
"""

import hashlib

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

PART = 1 << 24  # numbers that are updated at once


def adamw(net, cfg):
    """The optimizer of a net's trained parameters, with the flags' numbers (Table 8)."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    settings = {"lr": cfg.lr, "betas": (cfg.beta1, cfg.beta2), "eps": cfg.adam_eps}
    settings["weight_decay"] = cfg.weight_decay
    if cfg.optim_dtype == "float32":
        return torch.optim.AdamW(parameters, **settings)
    return AdamWBF16(parameters, seed=cfg.seed, **settings)


def state_dtype(optimizer):
    """dtype of both moments; None: that of the weights."""
    return torch.bfloat16 if isinstance(optimizer, AdamWBF16) else None


class AdamWBF16(torch.optim.Optimizer):
    """torch.optim.AdamW on float32 parameters, sharded or not, with both moments in bfloat16,
    rounded stochastically. State a parameter: step, exp_avg, exp_avg_sq, as torch's.
    """

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, seed=0):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.seed = seed

    @torch.no_grad()
    def step(self, closure=None):
        """One update; parameters without a gradient stay as they are."""
        loss = closure() if closure else None
        rank = dist.get_rank() if dist.is_initialized() else 0
        for group in self.param_groups:
            for place, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= fresh_state(p, torch.bfloat16)
                state["step"] += 1
                _update(p, state, group, seed_of(self.seed, int(state["step"]), rank, place))
        return loss


def seed_of(*numbers):
    """A seed of 32 bits, because a generator on a CPU reads no more of it."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def fresh_state(p, dtype=None):
    """AdamW's state of a parameter before its first update."""
    moments = {name: torch.zeros_like(p, dtype=dtype) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.tensor(0.0), **moments}


def _update(p, state, group, seed):
    """AdamW (Loshchilov and Hutter, Algorithm 2) on this rank's part of a parameter, in float32."""
    weight, grad, exp_avg, exp_avg_sq = (
        t.to_local() if isinstance(t, DTensor) else t
        for t in (p, p.grad, state["exp_avg"], state["exp_avg_sq"])
    )
    (beta1, beta2), steps = group["betas"], float(state["step"])
    size = group["lr"] / (1 - beta1**steps)
    generator = torch.Generator(weight.device).manual_seed(seed)
    # in parts, so that what is float32 on the way stays small beside an embedding
    parts = (t.view(-1).split(PART) for t in (weight, grad, exp_avg, exp_avg_sq))
    for weight, grad, exp_avg, exp_avg_sq in zip(*parts):
        m = exp_avg.float().lerp_(grad, 1 - beta1)
        v = exp_avg_sq.float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        exp_avg.copy_(stochastic_bf16(m, generator))
        exp_avg_sq.copy_(stochastic_bf16(v, generator))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        scale = v.div_(1 - beta2**steps).sqrt_().add_(group["eps"])
        weight.addcdiv_(m, scale, value=-size)


def stochastic_bf16(x, generator):
    """float32 -> bfloat16, up or down (away from or towards zero) with a probability such that the
    expected value is x. What bfloat16 holds stays as it is; infinity and nan do too.
    """
    bits = torch.empty_like(x, dtype=torch.int32).random_(0, 1 << 16, generator=generator)
    # the upper 16 bits of a float32 are a bfloat16; a carry out of the lower ones is one step up
    bits += x.view(torch.int32)
    bits &= -(1 << 16)
    return torch.where(x.isfinite(), bits.view(torch.float32), x).to(torch.bfloat16)
