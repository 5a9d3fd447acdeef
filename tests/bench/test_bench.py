"""bench.py: its FLOPs formula, its presets, and a smallest run of it.

python -m pytest tests/test_bench.py
"""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from bench import speed as bench
from model import collate, response_hidden
from records import Prompt, Sample


def on_meta(config):
    with torch.device("meta"):
        net = Qwen3_5ForCausalLM(config)
    return SimpleNamespace(net=net, base=net.base_model)


def test_flops_against_a_hand_count():
    config = Qwen3_5TextConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
        linear_conv_kernel_dim=4,
        tie_word_embeddings=True,
    )
    mlp = 3 * 8 * 16
    # queries, keys, values: 4 + 4 + 8 wide, a gate of 8, two times two scalars, 4 taps for each of
    # 16 channels, back from 8
    linear = 8 * 16 + 8 * 8 + 8 * 2 * 2 + 16 * 4 + 8 * 8
    full = (
        8 * (2 * 4) * 2 + 8 * 4 * 2 + (2 * 4) * 8
    )  # queries with their gates, keys and values, back
    T = 3 + 2
    attention = 4 * (2 * 4) * (1 + 2 + 3 + 4 + 5)
    state = 2 * 6 * 4 * 4 * T
    by_hand = 2 * (2 * mlp + linear + full) * T + attention + state + 2 * 8 * 50 * 2
    assert bench.flops(on_meta(config), 3, 2) == by_hand
    assert bench.flops(on_meta(config), 3, 2, backward=True) == 3 * by_hand


@pytest.mark.parametrize("response", [48, 240])
def test_flops_against_pytorchs_counter(response):
    """On the real tiny model. PyTorch counts what ran: attention also above the diagonal, DeltaNet
    in padded chunks of 64.
    """
    args, cfg = bench.parse(["--prompts", "4"])
    lm = bench.random_lm(bench.text_config("tiny"), cfg)
    rows = [
        Sample(
            Prompt(tuple(range(16))),
            tuple(range(20, 20 + 8)) * (response // 8),
            (0.0,) * response,
            "",
            True,
        )
    ] * 2
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        hidden, _ = response_hidden(lm, collate(lm, rows))
        hidden @ lm.head.T
    ours = 2 * bench.flops(lm, 16, response)
    assert ours < counter.get_total_flops() < 1.25 * ours


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("tiny", 0.6e-3, 0.9e-3),
        ("0.8b", 0.7, 0.9),
        ("2b", 1.8, 2.3),
        ("4b", 3.8, 4.6),
        ("9b", 8.5, 9.5),
    ],
)
def test_a_preset_has_about_the_parameters_of_its_name(name, low, high):
    """In billions, without the vision tower, which is a tenth of the smallest one."""
    assert (
        low < sum(p.numel() for p in on_meta(bench.text_config(name)).net.parameters()) / 1e9 < high
    )


def test_layers_shrinks_a_preset_from_its_top():
    assert bench.text_config("9b", layers=4).layer_types == ["linear_attention"] * 3 + [
        "full_attention"
    ]


def test_rewards_have_spread_in_every_group_or_in_only_every_flat_th():
    rows = bench.rewards(["x"] * 8, [("1",)] * 2, n=4)
    assert rows == [0.0, 1.0] * 4
    assert bench.rewards(["x"] * 8, [("1",)] * 2, n=4, flat=2) == [1.0] * 4 + [0.0, 1.0] * 2


def test_work_that_trl_can_not_do_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        bench.parse(["--prompts", "6"])


def test_smallest_run(tmp_path, capsys):
    """The same work by us and by plain transformers, and a line for each part that was not
    measured.
    """
    assert (
        bench.main(
            [
                "--prompts",
                "4",
                "--n",
                "2",
                "--response",
                "4",
                "--repeat",
                "1",
                "--what",
                "rollout",
                "old_logp",
                "update",
                "head",
                "transformers",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "not asked for: trl" in out and "chunked / full" in out
    rows = json.loads((tmp_path / "bench.json").read_text())["shapes"][0]["rows"]
    assert {r["who"] for r in rows} == {
        "ours",
        "ours, 50 % flat",
        "ours, 80 % flat",
        "transformers",
    }
    assert {r["phase"] for r in rows} == {"rollout", "old_logp", "update", "step"}
    assert all(r["seconds"] > 0 and r["of_ours"] > 0 for r in rows)
    assert "| phase | who |" in (tmp_path / "bench.md").read_text()


def test_update_alone_and_a_single_response(capsys):
    """No rollout: invented responses go through train.update all the same, as does the one that
    memory is measured on.
    """
    assert (
        bench.main(
            [
                "--prompts",
                "4",
                "--n",
                "2",
                "--response",
                "8",
                "--repeat",
                "1",
                "--what",
                "update",
                "single",
                "--single",
                "32",
                "--prompt",
                "16",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "update of one response of 32 tokens" in out and "rollout  " not in out
