"""python -m bench: its FLOPs formula, its presets, and the smallest runs of it.

python -m pytest tests/bench
"""

import json
from collections import Counter

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3_5TextConfig

from bench import gpu, scaling, teacher
from bench.__main__ import main, parse
from bench.meter import flops
from bench.work import make_work, meta_lm, random_lm, recorded, rewards, text_config
from model import collate, response_hidden
from records import Prompt, Sample


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
    # queries with their gates, keys and values, back
    full = 8 * (2 * 4) * 2 + 8 * 4 * 2 + (2 * 4) * 8
    T = 3 + 2
    attention = 4 * (2 * 4) * (1 + 2 + 3 + 4 + 5)
    state = 2 * 6 * 4 * 4 * T
    by_hand = 2 * (2 * mlp + linear + full) * T + attention + state + 2 * 8 * 50 * 2
    assert flops(meta_lm(config), 3, 2) == by_hand
    assert flops(meta_lm(config), 3, 2, backward=True) == 3 * by_hand


@pytest.mark.parametrize("response", [48, 240])
def test_flops_against_pytorchs_counter(response):
    """On the real tiny model. PyTorch counts what ran: attention also above the diagonal, DeltaNet
    in padded chunks of 64.
    """
    _, cfg = parse(["--prompts", "4"])
    lm = random_lm(text_config("tiny"), cfg)
    prompt, ids = Prompt(tuple(range(16))), tuple(range(20, 28)) * (response // 8)
    rows = [Sample(prompt, ids, (0.0,) * response, "", True)] * 2
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        hidden, _ = response_hidden(lm, collate(lm, rows))
        hidden @ lm.head.T
    ours = 2 * flops(lm, 16, response)
    assert ours < counter.get_total_flops() < 1.25 * ours


BILLIONS = {
    "tiny": (0.6e-3, 0.9e-3),
    "0.8b": (0.7, 0.9),
    "2b": (1.8, 2.3),
    "4b": (3.8, 4.6),
    "9b": (8.5, 9.5),
}


@pytest.mark.parametrize("name", BILLIONS)
def test_a_preset_has_about_the_parameters_of_its_name(name):
    """Without the vision tower, which is a tenth of the smallest one."""
    low, high = BILLIONS[name]
    count = sum(p.numel() for p in meta_lm(text_config(name)).net.parameters())
    assert low < count / 1e9 < high


def test_layers_shrinks_a_preset_from_its_top():
    expected = ["linear_attention"] * 3 + ["full_attention"]
    assert text_config("9b", layers=4).layer_types == expected


def test_rewards_have_spread_in_every_group_or_in_only_every_flat_th():
    rows = rewards(["x"] * 8, [("1",)] * 2, n=4)
    assert rows == [0.0, 1.0] * 4
    assert rewards(["x"] * 8, [("1",)] * 2, n=4, flat=2) == [1.0] * 4 + [0.0, 1.0] * 2


def test_work_that_trl_can_not_do_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        parse(["--prompts", "6"])


SMALL = ["--prompts", "4", "--n", "2", "--repeat", "1"]


@pytest.mark.slow
def test_smallest_run(tmp_path, capsys):
    """The same work by us and by plain transformers, and a line for each part that was not
    measured.
    """
    what = ["--what", "rollout", "old_logp", "update", "head", "transformers"]
    assert main([*SMALL, "--response", "4", *what, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "not asked for: trl" in out and "chunked / full" in out
    rows = json.loads((tmp_path / "bench.json").read_text())["shapes"][0]["rows"]
    who = {"ours", "ours, 50 % flat", "ours, 80 % flat", "transformers"}
    assert {r["who"] for r in rows} == who
    assert {r["phase"] for r in rows} == {"rollout", "old_logp", "update", "step"}
    assert all(r["seconds"] > 0 and r["of_ours"] > 0 for r in rows)
    assert "| phase | who |" in (tmp_path / "bench.md").read_text()


def test_update_alone_and_a_single_response(capsys):
    """No rollout: invented responses go through policy.update all the same, as does the one that
    memory is measured on.
    """
    what = ["--what", "update", "single", "--single", "32", "--prompt", "16"]
    assert main([*SMALL, "--response", "8", *what]) == 0
    out = capsys.readouterr().out
    assert "update of one response of 32 tokens" in out and "rollout  " not in out


# ---- the recorded step ---------------------------------------------------------------------------


def test_the_recorded_step_is_one_of_the_tiny_world():
    """Eight BCQ and NCQ groups, a quarter of the 32 new ones replayed; longer prompts help."""
    args, cfg = parse([])
    work, groups = make_work(cfg, args, 4), recorded()
    kinds = Counter(g["kind"] for g in groups)
    assert kinds["plain"] == 40 and kinds["bcq"] + kinds["ncq"] == 8 == kinds["bcq"] * 2
    assert [len(p.ids) for p in work.prompts] == [g["prompt"] for g in groups]
    longest = {k: max(g["prompt"] for g in groups if g["kind"] == k) for k in kinds}
    assert longest["bcq"] < longest["ncq"]
    assert all(len(g["responses"]) == 8 for g in groups)
    rows = rewards(["x"] * 96, [("1",)] * 48, 2, work.flat)
    assert [a == b for a, b in zip(rows[::2], rows[1::2])] == [g["flat"] for g in groups]


@pytest.mark.slow
def test_the_recorded_step_is_replayed_by_all(capsys):
    what = ["--what", "rollout", "old_logp", "update", "transformers"]
    assert main(["--n", "2", "--repeat", "1", "--response", "3", *what]) == 0
    out = capsys.readouterr().out
    assert "a recorded ZPPO step: 40 plain, 4 bcq, 4 ncq groups" in out
    assert "ours, 50" not in out and out.count("transformers") >= 4


# ---- what the teacher is asked -------------------------------------------------------------------


def test_a_teacher_that_solves_nothing_by_hand(capsys):
    """Each question gives its NCQ only: of 40 prompts 8 enter, 4 answers each were asked for."""
    args = teacher.parser().parse_args("--new 32 --solves 0 --steps 3".split())
    rows, prompts = teacher.measure(args)
    assert prompts == {8} and {answers for answers, *_ in rows["used"]} == {4 * 8}
    # 4, 2, 1 and 1 questions: ceil(missing / 2) a time
    assert {rounds for _, _, rounds, *_ in rows["used"]} == {4}
    assert [row[:2] for row in rows["hard"]] == [row[:2] for row in rows["before"]]


def test_the_lazy_teacher_writes_less(capsys):
    assert main("teacher --new 64 --steps 2".split()) == 0
    before, hard, used = (line.split() for line in capsys.readouterr().out.splitlines()[2:])
    assert hard[1] == before[1] and int(hard[2]) < int(before[2])
    assert used[2] == hard[2] and 2 * int(used[1]) < int(hard[1])


# ---- python -m bench gpu -------------------------------------------------------------------------


@pytest.mark.parametrize("name", gpu.STUDENTS)
def test_a_shrunk_shape_keeps_what_is_different_about_it(name):
    full, small = text_config(name), gpu.shrunk(text_config(name))
    same = "num_attention_heads num_key_value_heads linear_num_key_heads linear_num_value_heads"
    for field in [*same.split(), "tie_word_embeddings", "linear_conv_kernel_dim"]:
        assert getattr(small, field) == getattr(full, field)
    ratio = full.intermediate_size / full.hidden_size
    assert small.intermediate_size / small.hidden_size == pytest.approx(ratio)
    assert small.layer_types == full.layer_types[:4]


SMALLEST = ["--students", "0.8b", "--repeat", "1", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def quick(monkeypatch):
    """Without the second that a matrix product's rate takes."""
    monkeypatch.setattr(gpu, "matmul_rate", lambda device, dtype: 1e11)


@pytest.mark.slow
def test_a_gpu_days_report(tmp_path, monkeypatch, capsys, quick):
    """A part that fails is named, the others are measured; where no time is left, that is said."""
    parts = {k: v for k, v in gpu.PARTS.items() if k in ("update", "head", "checkpoint")}

    def broken(bench):
        raise RuntimeError("no such kernel\nand a long trace")

    monkeypatch.setattr(gpu, "PARTS", {"kernels": (("shape",), broken), **parts})
    monkeypatch.setattr(gpu, "ON_CPU", gpu.ON_CPU | {"responses": (8,)})
    assert gpu.main([*SMALLEST, "--out", str(tmp_path)]) == 1
    text, found = (tmp_path / "gpu.md").read_text(), json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == ["kernels: no such kernel"] and "a long trace" not in text
    assert "not measured: no such kernel" in text and "| shape | response | core-seconds |" in text
    [row] = found["parts"]["update"]["rows"]
    assert row["shape"] == "0.8b" and float(row["core-seconds"]) > 0 < float(row["planned GB"])
    [row] = found["parts"]["checkpoint"]["rows"]
    assert row["the same"] == "bit for bit"
    assert float(row["GB"]) == pytest.approx(float(row["planned GB"]), rel=0.1)
    capsys.readouterr()
    assert gpu.main([*SMALLEST, "--out", str(tmp_path), "--minutes", "0"]) == 0
    assert capsys.readouterr().out.count("not measured: 0 minutes were over") == 4


def test_a_checkpoint_that_is_not_what_was_saved_is_an_error(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(gpu, "PARTS", {"checkpoint": gpu.PARTS["checkpoint"]})
    real = gpu.checkpoint.load

    def spoiled(path, lm, optimizer, world):
        real(path, lm, optimizer, world)
        with torch.no_grad():
            next(lm.net.parameters())[0, 0] += 1e-3

    monkeypatch.setattr(gpu.checkpoint, "load", spoiled)
    assert gpu.main([*SMALLEST, "--out", str(tmp_path)]) == 1
    assert "DIFFERENT" in (tmp_path / "gpu.md").read_text()


# ---- scaling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, sizes",
    [
        ("tokens", (2, 4)),
        ("groups", (2, 4)),
        ("buffer", (4, 40)),
        ("rows", (8, 80)),
        pytest.param("ranks", (1, 2), marks=pytest.mark.slow),
    ],
)
def test_each_part_of_the_scaling_table_runs(part, sizes):
    found = scaling.measure(part, 1, sizes)
    assert [size for size, _ in found] == list(sizes) and all(s > 0 for _, s in found)


def test_a_full_buffer_stays_full_and_does_what_a_step_does():
    """480 questions come, as many of the oldest as are new and hard leave."""
    step = scaling.full_buffer(1000)
    step()
    buffer = step.__closure__[0].cell_contents
    assert len(buffer) == 1000 and sum(buffer.counts["evicted"].values()) > 100
