"""FLOPs of a model, the rate of matrix products here, seconds and memory by phase."""

import ctypes
import gc
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch


def flops(lm, prompt, response, backward=False):
    """Model FLOPs of one row of prompt + response tokens; the head works on the response tokens
    only.

    A multiplication with addition is two. Per token 2 N, N the weights of the layers (no embedding
    table, no norms); attention reads i keys at position i, which is 4 H d i for H heads of width d;
    a gated-DeltaNet head of k x v reads its state, corrects it and answers from it: 6 k v a token;
    the head 2 D V a response token. The backward pass is twice the forward. Recomputation (gradient
    checkpointing, the chunked head) is hardware's work, not the model's, and is not counted.
    """
    c, T = lm.net.config.get_text_config(), prompt + response
    matrices = [(k, p) for k, p in lm.base.named_parameters() if p.dim() > 1]
    weights = sum(p.numel() for name, p in matrices if "embed_tokens" not in name)
    full = c.layer_types.count("full_attention")
    linear = len(c.layer_types) - full
    quadratic = full * 4 * c.num_attention_heads * c.head_dim * T * (T + 1) // 2
    cells = c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim
    head = 2 * c.hidden_size * c.vocab_size * response
    forward = 2 * weights * T + quadratic + linear * 6 * cells * T + head
    return forward * (3 if backward else 1)


def work_flops(lm, work):
    """{phase: model FLOPs} of one step with all rows live. Rollouts prefill a prompt once, old_logp
    and update once a row.
    """
    total = dict.fromkeys(("rollout", "old_logp", "update"), 0)
    for p in work.prompts:
        row, prefill = flops(lm, len(p.ids), work.response), flops(lm, len(p.ids), 0)
        total["rollout"] += work.n * row - (work.n - 1) * prefill
        total["old_logp"] += work.n * row
        total["update"] += work.n * flops(lm, len(p.ids), work.response, backward=True)
    return total


def matmul_rate(device, dtype):
    """FLOP/s of the fastest of some large square matrix products, per core-second on a CPU."""
    best = 0.0
    for size in (4096, 8192, 16384) if device.startswith("cuda") else (1024, 1536):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        a @ b
        for _ in range(5):
            meter = Meter(device)
            with meter("matmul"):
                a @ b
                a @ b
            best = max(best, 2 * 2 * size**3 / meter.seconds["matmul"])
    return best


class Meter:
    """Seconds and peak memory by phase; policy.update takes it for its clock.

    memory: also measure that, which slows a phase on a CPU. seconds are core-seconds on a CPU and
    wall-clock on a GPU; peak is in GB.
    """

    def __init__(self, device, memory=False):
        self.cuda, self.memory = device.startswith("cuda"), memory
        self.seconds, self.wall, self.peak = {}, {}, {}

    def now(self):
        """(seconds that count, wall-clock seconds)."""
        if self.cuda:
            torch.cuda.synchronize()
        wall = time.perf_counter()
        return (wall if self.cuda else time.process_time()), wall

    def add(self, phase, start, end):
        """Seconds between two now() to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + end[0] - start[0]
        self.wall[phase] = self.wall.get(phase, 0.0) + end[1] - start[1]

    @contextmanager
    def __call__(self, phase):
        if self.memory:
            reset_peak(self.cuda)
        start = self.now()
        yield
        self.add(phase, start, self.now())
        if self.memory:
            self.peak[phase] = max(self.peak.get(phase, 0.0), read_peak(self.cuda))


def reset_peak(cuda):
    """Start a new high-water mark of memory (on a CPU: Linux only)."""
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory of the phase before still counts
        Path("/proc/self/clear_refs").write_text("5")


def read_peak(cuda):
    """GB at most since reset_peak; NaN where the system does not say."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform != "linux":
        return float("nan")
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(x for x in lines if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9
