"""Two parts alone: the update of one long response, and the head."""

import copy

import torch

from bench.contenders import Trainer, invented
from bench.meter import Meter
from bench.work import PADDING, random_lm
from loss import chunked_logp, mask_logits
from records import Group, Prompt


def single(config, cfg, tokens, prompt):
    """The Meter of the second update of one response of that many tokens: its peak memory is the
    question.
    """
    cfg = copy.copy(cfg)
    cfg.group_size = cfg.iterations = 1
    trainer = Trainer(random_lm(config, cfg), cfg, 1, prompt + tokens)
    samples = invented([Prompt((20,) * prompt)], 1, tokens)[0]
    groups = [Group(0, "plain", "new", None, tuple(samples))]
    for _ in range(2):  # the first makes the optimizer's states
        meter = Meter(cfg.device, memory=True)
        trainer.update(groups, [1.0], meter)
    return meter


def head(config, cfg, tokens, repeat):
    """[Meters]: forward and backward of the head over `tokens` tokens, "chunked" as in the update
    and "full" in one piece.
    """
    torch.manual_seed(0)
    compute = getattr(torch, cfg.dtype)
    V, D = config.vocab_size, config.hidden_size
    weight = torch.randn(V, D, device=cfg.device).mul_(0.02).requires_grad_()
    hidden = torch.randn(tokens, D, device=cfg.device, dtype=compute).requires_grad_()
    target = torch.randint(0, V // 2, (tokens,), device=cfg.device)
    banned = torch.arange(V, device=cfg.device)[-min(PADDING, V // 4) :]

    def full():
        logp = torch.log_softmax(mask_logits(hidden @ weight.T, banned) / cfg.temperature, -1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp.clamp(min=torch.finfo(torch.float32).min / 2)).sum(-1)
        return logp.gather(-1, target[:, None])[:, 0], entropy

    def chunked():
        return chunked_logp(hidden, weight, target, banned, cfg.temperature)

    meters, kind = [], torch.device(cfg.device).type
    for k in range(repeat + 1):
        meters.append(Meter(cfg.device, memory=k == 0))
        for name, logp in (("chunked", chunked), ("full", full)):
            hidden.grad = weight.grad = None
            autocast = torch.autocast(kind, compute, enabled=compute != torch.float32)
            with meters[-1](name), autocast:
                logp()[0].sum().backward()
    return meters
