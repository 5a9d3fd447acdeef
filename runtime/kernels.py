"""Which kernels a GPU run uses, and whether the linear-attention one can be trusted: asked once, at
the start.

Qwen3.5's gated-DeltaNet layers run on flash-linear-attention where it is installed and on plain
torch elsewhere. On Hopper with Triton from 3.4 to before 3.7.1 its backward pass was silently
wrong, so one layer's output and gradient are compared with the torch form before anything is
trained. Not needed on a CPU.
"""

import copy
import functools
import inspect
import sys
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


def check_gpu(cfg):
    """Raise ValueError for a GPU that bfloat16 or the sampler can't use."""
    if not cfg.device.startswith("cuda"):
        return
    if torch.version.hip:
        raise ValueError(
            "this PyTorch is built for ROCm, where nothing of this was tried: use an NVIDIA GPU "
            "with a PyTorch for CUDA, or --device cpu"
        )
    if cfg.dtype == "float32" and cfg.engine == "hf":
        return
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        raise ValueError(
            f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and bfloat16 "
            f"needs 8.0: give --dtype float32 --engine hf (there is no float16)"
        )


def used(attend, net):
    """One line for the table at the start: what attention and linear attention of a transformers
    model are bound to, with versions.
    """

    def of(package):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return package

    attention = of("flash-attn") if attend == "flash_attention_2" else "SDPA"
    linear = "plain torch (slow: pip install flash-linear-attention)"
    if "torch_chunk_gated_delta_rule" in bound(net):
        linear = of("flash-linear-attention")
    convolution = of("causal-conv1d") if "causal_conv1d_fn" in bound(net) else "plain torch"
    return f"{attention}; linear attention by {linear}, its convolution by {convolution}"


def bound(net):
    """The FORMS for which transformers found a kernel when it was imported. A package that is
    installed and can't be imported is passed over there without a word.
    """
    return {name for names in _modules(net) for name in FORMS if _is_kernel(names.get(name))}


def by_device(net):
    """transformers picks the kernels when it is imported, for every device, and they run on GPUs
    only: let each call go by where its tensors are. Changes the model's modules once.
    """
    for names in _modules(net):
        for name in FORMS:
            form = names.get(name)
            if _is_kernel(form) and not hasattr(form, "by_device"):
                names[name] = _dispatch(form)


def _dispatch(kernel):
    @functools.wraps(kernel.__wrapped__)
    def form(*args, **kwargs):
        on_cpu = next(x for x in (*args, *kwargs.values()) if torch.is_tensor(x)).device.type
        return (kernel.__wrapped__ if on_cpu == "cpu" else kernel)(*args, **kwargs)

    form.by_device = kernel
    return form


def _modules(net):
    """The names of the Python modules that a model's linear attention is written in."""
    found = {type(m).__module__ for m in net.modules() if hasattr(m, "A_log")}
    return [vars(sys.modules[name]) for name in sorted(found)]


def _is_kernel(form):
    form = getattr(form, "by_device", form)
    if not hasattr(form, "__wrapped__"):
        return False
    return inspect.getclosurevars(form).nonlocals.get("is_new_implementation", False)


def check_kernels(lm, tokens=192):
    """Compare the first linear-attention layer of `lm` on its GPU with plain torch on the CPU.
    Raises ValueError when they differ.
    """
    layer = next((b.linear_attn for b in lm.blocks() if hasattr(b, "linear_attn")), None)
    if layer is None or "torch_chunk_gated_delta_rule" not in bound(layer):
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


def disagreement(layer, device, reference_device, tokens, dtype):
    """Largest relative difference, over the output and the gradient of the input, of a layer on two
    devices; on a CPU it runs in its torch form (by_device).

    The layer takes (1, tokens, D) hidden states, D its in_proj's width; it runs in `dtype` on
    `device` and float32 on the other.
    """
    linears = ((n, m) for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear))
    width = next(m for n, m in linears if "in_proj" in n).in_features
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
    found = []
    for where, kind in ((device, dtype), (reference_device, torch.float32)):
        twin = copy.deepcopy(layer).to(where, kind)
        inputs = x.to(where, kind, copy=True).requires_grad_()
        out = twin(inputs)
        out.float().square().sum().backward()
        found.append((out.detach().float().cpu(), inputs.grad.float().cpu()))
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(*found))
