"""The check of the linear-attention kernel: it sees nothing where nothing is wrong, and a wrong
backward pass for sure.

    python -m pytest tests/runtime/test_kernels.py

A GPU is not needed: what would be the kernel is the same layer in another precision, and what would
be the broken kernel is that layer with a backward pass spoiled in that precision only.
"""

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from runtime import kernels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layer(lm):
    return next(b.linear_attn for b in lm.blocks() if hasattr(b, "linear_attn"))


class Halved(torch.autograd.Function):
    """The identity, whose gradient is half of what it should be."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


class Broken(torch.nn.Module):
    """A layer that in one precision answers right and goes back wrong."""

    def __init__(self, layer, dtype):
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x):
        return self.layer(Halved.apply(x) if x.dtype == self.dtype else x)


class Louder(Broken):
    """Wrong in its output, by a fifth."""

    def forward(self, x):
        return self.layer(x) * (1.2 if x.dtype == self.dtype else 1.0)


# ---- disagreement --------------------------------------------------------------------------------


def test_a_layer_agrees_with_itself(layer):
    assert kernels.disagreement(layer, CPU, CPU, 96, torch.float64) < 1e-5


def test_bfloat16_stays_far_below_the_tolerance(layer):
    """Measured: 0.012; tokens over several of the layer's chunks of 64."""
    error = kernels.disagreement(layer, CPU, CPU, 192, torch.bfloat16)
    assert 1e-4 < error < kernels.TOLERANCE / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_backward_pass_that_is_wrong_by_half_is_seen(layer, dtype):
    error = kernels.disagreement(Broken(layer, dtype), CPU, CPU, 96, dtype)
    assert error == pytest.approx(0.5, abs=0.02) and error > 5 * kernels.TOLERANCE
    wrapped = kernels.disagreement(Broken(layer, None), CPU, CPU, 96, dtype)
    assert wrapped < kernels.TOLERANCE


def test_a_wrong_output_is_seen(layer):
    assert kernels.disagreement(Louder(layer, torch.float64), CPU, CPU, 96, torch.float64) > 0.19


def test_values_wider_than_the_hidden_states():
    """As in all published shapes (0.8b: 16 heads of 128 for 1,024); the tiny model has as many."""
    shape = {"hidden_size": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2}
    heads = {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    wide = Qwen3_5GatedDeltaNet(Qwen3_5TextConfig(**shape, **heads), 0)
    assert wide.out_proj.in_features == 64
    assert kernels.disagreement(wide, CPU, CPU, 96, torch.float64) < 1e-5
    spoiled = Broken(wide, torch.float64)
    assert kernels.disagreement(spoiled, CPU, CPU, 96, torch.float64) > 5 * kernels.TOLERANCE


def test_the_layer_is_left_as_it_was(layer):
    layer.zero_grad()  # of the model that all tests share
    before = [p.detach().clone() for p in layer.parameters()]
    kernels.disagreement(layer, CPU, CPU, 16, torch.bfloat16)
    for p, b in zip(layer.parameters(), before):
        assert p.dtype == torch.float32 and p.grad is None and torch.equal(p, b)


# ---- check_kernels -------------------------------------------------------------------------------


@pytest.fixture
def fla(monkeypatch):
    """flash-linear-attention seems to be there; fla(error) says how far it is off, fla(exception)
    that it can't be compared.
    """
    seen = []
    monkeypatch.setattr(kernels, "bound", lambda layer: {"torch_chunk_gated_delta_rule"})

    def off(error):
        def disagreement(*asked):
            seen.append(asked)
            if isinstance(error, Exception):
                raise error
            return error

        monkeypatch.setattr(kernels, "disagreement", disagreement)
        return seen

    return off


def test_the_first_linear_attention_layer_is_compared_in_the_runs_precision(lm, layer, fla):
    seen = fla(0.04)
    assert kernels.check_kernels(lm) is None
    assert seen == [(layer, lm.device, CPU, 192, torch.float32)]


@pytest.mark.parametrize("error", [0.05, 0.5, float("inf"), float("nan")])
def test_above_the_tolerance_it_is_one_line_that_says_what_to_do(lm, fla, error):
    fla(error)
    with pytest.raises(ValueError, match="flash-linear-attention disagrees") as e:
        kernels.check_kernels(lm)
    said = str(e.value)
    assert "\n" not in said and torch.__version__ in said
    assert "uninstall flash-linear-attention" in said


def test_what_cant_be_compared_is_said_and_not_fatal(lm, fla, capsys):
    fla(RuntimeError("no such kernel\nand a long trace"))
    assert kernels.check_kernels(lm) is None
    err = capsys.readouterr().err
    assert "was not checked" in err and "no such kernel" in err and err.count("\n") == 1


def test_nothing_to_check(lm, fla, monkeypatch):
    """Models without such a layer, and machines without the package, are not looked at."""
    seen = fla(9.0)
    kernels.check_kernels(SimpleNamespace(blocks=lambda: [torch.nn.Linear(2, 2)]))
    monkeypatch.setattr(kernels, "bound", lambda layer: set())
    kernels.check_kernels(lm)
    assert seen == []


# ---- used ----------------------------------------------------------------------------------------


SLOW = "plain torch (slow: pip install flash-linear-attention), its convolution by plain torch"
FLA, BOTH = {"torch_chunk_gated_delta_rule"}, {"torch_chunk_gated_delta_rule", "causal_conv1d_fn"}
USED = [
    ("sdpa", set(), f"SDPA; linear attention by {SLOW}"),
    ("flash_attention_2", FLA, "flash-attn 2.8; linear attention by flash-linear-attention, its "),
    ("sdpa", BOTH, "SDPA; linear attention by flash-linear-attention, its convolution by causal"),
]


@pytest.mark.parametrize("attend, kernels_found, want", USED)
def test_used_names_what_is_bound(lm, monkeypatch, attend, kernels_found, want):
    def version(package):
        if package != "flash-attn":
            raise PackageNotFoundError(package)
        return "2.8"

    monkeypatch.setattr(kernels, "version", version)
    monkeypatch.setattr(kernels, "bound", lambda net: kernels_found)
    assert kernels.used(attend, lm.net).startswith(want)
