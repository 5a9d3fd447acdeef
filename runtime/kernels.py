"""Which kernels a GPU run uses, and whether the linear-attention one can be trusted: asked once, at
the start.

Qwen3.5's gated-DeltaNet layers run on flash-linear-attention where it is installed and on plain
torch elsewhere. On Hopper with Triton from 3.4 to before 3.7.1 its backward pass was silently
wrong, so one layer's output and gradient are compared with the torch form before anything is
trained. Not needed on a CPU.
"""

import copy
import sys
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

FORMS = (
    "torch_chunk_gated_delta_rule",
    "torch_recurrent_gated_delta_rule",
    "causal_conv1d_fn",
    "causal_conv1d_update",
)
# relative; bfloat16 kernels stay below 0.01, the broken backward was off by more than half
TOLERANCE = 0.05


def used(attend):
    """One line for the table at the start: attention and linear attention, with versions."""

    def of(package):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return ""

    attention = of("flash-attn") if attend == "flash_attention_2" else "SDPA"
    slow = "plain torch (slow: pip install flash-linear-attention)"
    return f"{attention}; linear attention by {of('flash-linear-attention') or slow}"


def check_kernels(lm, tokens=192):
    """Compare the first linear-attention layer of `lm` on its GPU with plain torch on the CPU.
    Raises ValueError when they differ.
    """
    layer = next((b.linear_attn for b in lm.blocks() if hasattr(b, "linear_attn")), None)
    if layer is None or not find_spec("fla"):
        return
    try:
        error = disagreement(layer, lm.device, torch.device("cpu"), tokens, lm.compute)
    except (RuntimeError, ValueError, AssertionError) as e:
        why = str(e).splitlines()[0][:120]  # the torch form can't run here: say so, and go on
        print(f"linear attention was not checked against its torch form ({why})", file=sys.stderr)
        return
    if not error < TOLERANCE:
        triton = f"triton {version('triton')}" if find_spec("triton") else "no triton"
        raise ValueError(
            f"flash-linear-attention disagrees with plain torch by {error:.0%} on this GPU (torch "
            f"{torch.__version__}, {triton}): its gradients can't be trusted; Triton 3.7.1 (torch "
            f"2.13) is known to be right, or uninstall flash-linear-attention"
        )


@contextmanager
def plain_torch(layer):
    """transformers picks the kernels when it is imported, for every device: put back the torch
    forms that it wrapped.
    """
    names = vars(sys.modules[type(layer).__module__])
    kept = {n: names[n] for n in FORMS if hasattr(names.get(n), "__wrapped__")}
    names.update({n: f.__wrapped__ for n, f in kept.items()})
    try:
        yield
    finally:
        names.update(kept)


def disagreement(layer, device, reference_device, tokens, dtype):
    """Largest relative difference, over the output and the gradient of the input, of a layer on two
    devices.

    The layer takes (1, tokens, D) hidden states, D its in_proj's width; it runs in `dtype` on
    `device` and float32 on the other.
    """
    width = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)).in_features
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
    found = []
    for where, kind in ((device, dtype), (reference_device, torch.float32)):
        twin = copy.deepcopy(layer).to(where, kind)
        inputs = x.to(where, kind, copy=True).requires_grad_()
        with plain_torch(layer) if where == reference_device else nullcontext():
            out = twin(inputs)
            out.float().square().sum().backward()
        found.append((out.detach().float().cpu(), inputs.grad.float().cpu()))
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(*found))
