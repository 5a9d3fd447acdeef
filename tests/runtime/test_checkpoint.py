"""Checkpoints: bit for bit on any number of ranks, complete or not there, no pickle of ours; and
what a resumed update may not depend on.

    python -m pytest tests/test_checkpoint.py
"""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

import model
import tiny
import train
from engines.hf import HFEngine
from processor import encode
from runtime import checkpoint
from runtime.metrics import Clock

ROOT = Path(__file__).parent.parent.parent


def trained(steps=2, seed=0, lr=1e-3):
    """A tiny model and its AdamW after some real updates."""
    lm = tiny.new_model(seed)
    optimizer = torch.optim.AdamW(lm.net.parameters(), lr=lr, weight_decay=0.1)
    for k in range(steps):
        optimizer.zero_grad()
        ids = torch.arange(7 + k)[None]
        lm.net(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return lm, optimizer


@pytest.fixture(scope="module")
def pair():
    return trained()


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def moments(optimizer):
    return {(i, k): v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}


def listing(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# ---- round trip ----------------------------------------------------------------------------------


def test_round_trip_bit_for_bit(pair, tmp_path):
    lm, optimizer = pair
    state = {
        "position": 7,
        "rng": checkpoint.rng_state(random.Random(3)),
        "buffer": {"entries": []},
        "text": "\u00e9 \u2028",
    }
    torch.manual_seed(11)
    path = checkpoint.save(tmp_path, 12, lm, optimizer, state)
    want = torch.rand(3)
    assert path == tmp_path / "step-000012" == checkpoint.latest(tmp_path)

    torch.manual_seed(99)
    again = model.load(path / "model")
    other = torch.optim.AdamW(again.net.parameters(), lr=1e-3, weight_decay=0.1)
    assert checkpoint.load(path, again, other) == {**state, "step": 12}
    assert torch.equal(torch.rand(3), want)  # torch's generator
    one, two = (dict(x.net.named_parameters()) for x in (lm, again))
    assert one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    one, two = moments(optimizer), moments(other)
    assert one.keys() == two.keys() and len(one) > 30 and all(same(one[k], two[k]) for k in one)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_next_update_is_the_same(tmp_path):
    """One more step from memory and from disk: the moments belong to their own parameters."""
    lm, optimizer = trained()
    path = checkpoint.save(tmp_path, 1, lm, optimizer, {})
    again = model.load(path / "model")
    other = torch.optim.AdamW(again.net.parameters(), lr=1e-3, weight_decay=0.1)
    checkpoint.load(path, again, other)
    ids = torch.tensor([[5, 3, 8, 1]])
    for a, o in ((lm, optimizer), (again, other)):
        o.zero_grad()
        a.net(input_ids=ids, labels=ids).loss.backward()
        o.step()
    assert all(same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters()))


def test_the_model_folder_is_a_plain_one(pair, tmp_path, questions):
    lm, optimizer = pair
    path = checkpoint.save(tmp_path, 1, lm, optimizer, {}) / "model"
    net = AutoModelForImageTextToText.from_pretrained(path)
    assert all(same(p, q) for p, q in zip(lm.net.state_dict().values(), net.state_dict().values()))
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight  # still tied
    again = model.load(path)
    image = questions["image"][0].images
    prompts = [encode(m, "2+2?<|im_end|>", image) for m in (lm, again)]
    assert (
        prompts[0] == prompts[1]
        and again.eos_ids == lm.eos_ids
        and again.banned.tolist() == lm.banned.tolist()
    )
    values = [model.pixels(m, prompts[0])["image"][0] for m in (lm, again)]
    assert same(*values)
    drawn = [HFEngine(m).sample([prompts[0]], 3, 8, seed=0) for m in (lm, again)]
    assert drawn[0] == drawn[1]


def test_publish(pair, tmp_path):
    lm, _ = pair
    for _ in range(2):  # a second time replaces the first
        checkpoint.publish(lm, tmp_path / "final")
    assert [p.name for p in tmp_path.iterdir()] == ["final"]
    again = model.load(tmp_path / "final")
    assert all(same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters()))


def test_before_any_update(tmp_path):
    lm, optimizer = trained(steps=0)
    path = checkpoint.save(tmp_path, 0, lm, optimizer, {})
    before = [p.detach().clone() for p in lm.net.parameters()]
    again = model.load(path / "model")
    other = torch.optim.AdamW(again.net.parameters(), lr=1e-3, weight_decay=0.1)
    checkpoint.load(path, again, other)
    assert len(moments(other)) > 30 and all(
        not v.any() for v in moments(other).values()
    )  # AdamW's own start
    fresh = torch.optim.AdamW(
        lm.net.parameters(), lr=1e-3, weight_decay=0.1
    )  # one that was never saved
    for net, o in ((lm.net, fresh), (again.net, other)):
        o.zero_grad()
        ids = torch.arange(9)[None]
        net(input_ids=ids, labels=ids).loss.backward()
        o.step()
    assert all(same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters()))
    assert not all(same(p, q) for p, q in zip(lm.net.parameters(), before))


def test_bfloat16_compute_keeps_float32_masters(tmp_path):
    """model/ is what people load and serve, in the compute dtype; the shards are what training goes
    on from.
    """
    lm, optimizer = trained()
    lm.compute = torch.bfloat16
    path = checkpoint.save(tmp_path, 1, lm, optimizer, {})
    weights, config = (
        load_file(path / "model/model.safetensors"),
        json.loads((path / "model/config.json").read_text()),
    )
    assert {w.dtype for w in weights.values()} == {torch.bfloat16} and config["dtype"] == "bfloat16"
    assert {
        config[part]["dtype"]
        for part in ("text_config", "vision_config")
        if "dtype" in config[part]
    } <= {"bfloat16"}
    assert {
        p.dtype
        for p in AutoModelForImageTextToText.from_pretrained(
            path / "model", dtype="auto"
        ).parameters()
    } == {torch.bfloat16}
    stored = FileSystemReader(path / "shards").read_metadata().state_dict_metadata
    assert {m.properties.dtype for name, m in stored.items() if name != "torch_rng"} == {
        torch.float32
    }

    again = model.load(path / "model", "bfloat16")
    assert not all(
        same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters())
    )  # rounded, until the shards are read
    other = torch.optim.AdamW(again.net.parameters(), lr=1e-3, weight_decay=0.1)
    checkpoint.load(path, again, other)
    assert all(same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters()))
    one, two = moments(optimizer), moments(other)
    assert one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)


def test_random_state_round_trip():
    rng = random.Random(5)
    rng.gauss(0, 1), rng.random()  # gauss keeps a second number for later
    state = json.loads(json.dumps(checkpoint.rng_state(rng)))
    again = checkpoint.set_rng_state(state)
    for draw in (
        lambda r: r.gauss(0, 1),
        lambda r: r.random(),
        lambda r: r.sample(range(99), 9),
        lambda r: r.gauss(0, 1),
    ):
        assert draw(rng) == draw(again)


# ---- a file that does not fit --------------------------------------------------------------------


def test_an_optimizer_of_another_architecture_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            pad_token_id=0,
        )
    )
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, SimpleNamespace(net=net), torch.optim.AdamW(net.parameters()))


def test_an_optimizer_of_another_size_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    wider = tiny.new_model(0)
    wider.net.resize_token_embeddings(200)
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, wider, torch.optim.AdamW(wider.net.parameters()))


def test_a_checkpoint_without_a_second_moment_is_refused(pair, tmp_path, monkeypatch):
    real = checkpoint._tensors

    def without(*args):
        tensors = real(*args)
        tensors.pop(next(k for k in tensors if k.startswith("exp_avg_sq.")))
        return tensors

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_tensors", without)
        path = checkpoint.save(tmp_path, 1, *pair, {})
    with pytest.raises(ValueError, match="does not fit.*exp_avg_sq"):
        checkpoint.load(path, pair[0], torch.optim.AdamW(pair[0].net.parameters()))


@pytest.mark.parametrize(
    "name, damage",
    [("*.distcp", b""), ("*.distcp", None), (".metadata", b"torn"), (".metadata", None)],
)
def test_damaged_shards_are_refused_with_a_line(pair, tmp_path, name, damage):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    file = next((path / "shards").glob(name))
    file.unlink() if damage is None else file.write_bytes(damage)
    lm = model.load(path / "model")
    with pytest.raises(ValueError, match="step-000001/shards can't be read.*older checkpoint") as e:
        checkpoint.load(path, lm, torch.optim.AdamW(lm.net.parameters()))
    assert "\n" not in str(e.value)


# ---- complete or not there -----------------------------------------------------------------------


def test_half_written_ones_are_ignored_with_a_line(pair, tmp_path):
    path = checkpoint.save(tmp_path, 10, *pair, {})
    (tmp_path / "step-000020.tmp" / "model").mkdir(parents=True)
    (tmp_path / "step-000020.tmp" / "state.json").write_text(
        "{}"
    )  # even when its last file is there
    said = []
    assert (
        checkpoint.latest(tmp_path, said.append) == path
        and len(said) == 1
        and "step-000020.tmp" in said[0]
    )
    assert checkpoint.complete(tmp_path) == [path]
    assert (
        checkpoint.latest(tmp_path / "no such folder") is None
        and checkpoint.complete(tmp_path / "nor this") == []
    )


def test_a_left_over_tmp_folder_does_not_disturb_the_next_save(pair, tmp_path):
    (tmp_path / "step-000010.tmp").mkdir()
    (tmp_path / "step-000010.tmp" / "junk").write_text("x")
    path = checkpoint.save(tmp_path, 10, *pair, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000010"] and not (path / "junk").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_prune_keeps_the_newest(pair, tmp_path, keep):
    for step in (5, 50, 500, 1000):  # by number, which the zeros make the name's order
        checkpoint.save(tmp_path, step, *pair, {}, keep)
    assert [p.name for p in checkpoint.complete(tmp_path)] == [
        "step-000005",
        "step-000050",
        "step-000500",
        "step-001000",
    ][-keep:]
    assert len(list(tmp_path.iterdir())) == keep


def fails(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "owner, name",
    [
        ("os", "rename"),
        ("dcp", "save"),
        ("", "_write_shards"),
        ("model", "save"),
        ("", "_flush"),
        ("json", "dumps"),
    ],
)
def test_a_save_that_fails_leaves_the_earlier_ones(pair, tmp_path, monkeypatch, owner, name):
    checkpoint.save(tmp_path, 1, *pair, {}, keep=1)
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(checkpoint, owner) if owner else checkpoint, name, fails)
        with pytest.raises(OSError, match="step-000002.*No space left.*untouched"):
            checkpoint.save(tmp_path, 2, *pair, {}, keep=1)
    assert listing(tmp_path) == before  # no half folder either
    checkpoint.save(tmp_path, 2, *pair, {}, keep=1)  # there is space again
    assert [p.name for p in tmp_path.iterdir()] == ["step-000002"]


def test_a_disk_that_fills_up_inside_the_shards_is_an_oserror(pair, tmp_path, monkeypatch):
    """torch's CheckpointException is no Exception: it would pass every `except` between here and
    the user.
    """
    checkpoint.save(tmp_path, 1, *pair, {}, keep=1)
    before = listing(tmp_path)
    monkeypatch.setattr(checkpoint.dcp.FileSystemWriter, "write_data", fails)
    with pytest.raises(OSError, match="step-000002.*No space left.*untouched") as e:
        checkpoint.save(tmp_path, 2, *pair, {}, keep=1)
    assert listing(tmp_path) == before and "\n" not in str(e.value)


def test_saving_the_same_step_again_never_leaves_none(pair, tmp_path, monkeypatch):
    """run.save() after an error may write the step that was just saved; failing there must not cost
    the good one.
    """
    checkpoint.save(tmp_path, 3, *pair, {"try": 1}, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", fails)
        with contextlib.suppress(OSError):
            checkpoint.save(tmp_path, 3, *pair, {"try": 2}, keep=1)
    assert checkpoint.latest(tmp_path) is not None


def test_no_pickles_of_ours(pair, tmp_path):
    """shards/ is torch's own format, whose index .metadata is a pickle; nothing else is one."""
    path = checkpoint.save(tmp_path, 1, *pair, {})
    files = [p for p in path.rglob("*") if p.is_file()]
    assert sorted(p.name for p in path.iterdir()) == ["model", "shards", "state.json"]
    assert {p.suffix for p in files if p.parent.name == "shards" and p.name != ".metadata"} == {
        ".distcp"
    }
    assert (path / "shards/.metadata").is_file()
    ours = [p for p in files if p.parent.name != "shards"]
    assert {p.suffix for p in ours} <= {".safetensors", ".json", ".jinja", ".txt"} and len(
        ours
    ) >= 7
    for p in ours:  # nor one under another name
        assert p.read_bytes()[:1] != b"\x80" and p.read_bytes()[:2] != b"PK"
    stored = (
        FileSystemReader(path / "shards").read_metadata().state_dict_metadata
    )  # tensors only: DCP pickles anything else
    assert {type(m).__name__ for m in stored.values()} == {"TensorStorageMetadata"} and len(
        stored
    ) > 100


def test_write_json_is_whole_or_old(tmp_path, monkeypatch):
    checkpoint.write_json(tmp_path / "c.json", {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fails)
        with pytest.raises(OSError):
            checkpoint.write_json(tmp_path / "c.json", {"a": 2})
    assert json.loads((tmp_path / "c.json").read_text()) == {"a": 1}


# ---- resume in the ugly step ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["all flat", "text only"])
def test_an_update_does_not_depend_on_gradients_left_by_an_earlier_one(
    tmp_path, few, rollouts, cfg, make_run, kind
):
    """A straight run enters a step with old gradient tensors, a resumed one with none. Adam's
    moments move parameters whose gradient is zero and skip those without one: the vision tower
    under text questions, everything in a flat minibatch.
    """
    c = cfg("--n", "2", "--iterations", "1", "--max-response", "6", "--lr", "1e-2")
    results = []
    for resumed in (False, True):
        run = make_run(c, student=tiny.new_model(0))
        first = rollouts(run.engine, few[:1], [[1, 0]], c)
        train.update(run, first, [1.0, -1.0], Clock())
        if resumed:
            path = checkpoint.save(tmp_path, 1, run.student, run.optimizer, {})
            run = make_run(c, student=model.load(path / "model"))
            checkpoint.load(path, run.student, run.optimizer)
        flat = kind == "all flat"
        run.rng.seed(1)
        second = rollouts(run.engine, few[2:3], [[0, 0] if flat else [1, 0]], c)
        train.update(run, second, [0.0, 0.0] if flat else [1.0, -1.0], Clock())
        results.append(dict(run.student.net.named_parameters()))
    different = [k for k in results[0] if not torch.equal(results[0][k], results[1][k])]
    assert different == []


# ---- several ranks -------------------------------------------------------------------------------


def ranks(n, mode, folder):
    """tests/checkpoint_ranks.py on n processes; what its rank 0 has written down."""
    target = folder.parent / f"{mode}.pt"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={n}",
            str(ROOT / "tests/checkpoint_ranks.py"),
            mode,
            str(folder),
            str(target),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = torch.load(target, weights_only=False)  # written by the test itself
    assert out["ranks"] == n
    return out


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """A folder in which two ranks saved step 1, failed four times to save step 2, and saved it; and
    what they said.
    """
    folder = tmp_path_factory.mktemp("ranks") / "checkpoints"
    return folder, ranks(2, "save", folder)


def assert_same_tensors(one, two):
    assert one.keys() == two.keys() and len(one) > 30
    for name in one:
        assert one[name].keys() == two[name].keys() == {"weight", "step", "exp_avg", "exp_avg_sq"}
        assert all(
            same(one[name][k], two[name][k]) and two[name][k].dtype == torch.float32
            for k in one[name]
        ), name
        assert one[name]["exp_avg"].any() and one[name]["step"] == 2


def test_what_two_ranks_wrote_one_reads(by_two):
    """Bit for bit, with bfloat16 compute: the float32 masters come from the shards, not from
    model/.
    """
    folder, wrote = by_two
    path = folder / "step-000001"
    assert len(list((path / "shards").glob("*.distcp"))) == 2  # each rank its part
    lm = model.load(path / "model", "bfloat16")
    for name, p in lm.net.named_parameters():  # what people load: the same, rounded
        assert torch.equal(p, wrote["tensors"][name]["weight"].bfloat16().float())
    optimizer = torch.optim.AdamW(lm.net.parameters(), lr=1e-3, weight_decay=0.1)
    assert checkpoint.load(path, lm, optimizer) == {"position": 3, "step": 1}
    assert_same_tensors(
        wrote["tensors"],
        {n: {"weight": p.detach(), **optimizer.state[p]} for n, p in lm.net.named_parameters()},
    )
    assert torch.rand(2).tolist() == wrote["draw"][0]  # torch's generator, as rank 0 had it


def test_what_two_ranks_wrote_three_read(by_two):
    folder, wrote = by_two
    read = ranks(3, "load", folder)
    assert read["state"] == {"position": 3, "step": 1}
    assert_same_tensors(wrote["tensors"], read["tensors"])
    assert read["draw"] == [wrote["draw"][0]] * 3


def test_one_rank_that_cannot_write_is_one_clear_error_on_all(by_two):
    """In the shards of rank 1; in model/, the flush and the rename of rank 0."""
    folder, out = by_two
    assert len(out["said"]) == 4
    for everyone in out["said"]:
        (message, left), (other, _) = everyone
        assert message == other and "\n" not in message and left == ["step-000001"]
        assert (
            "step-000002: could not be written" in message
            and "No space left" in message
            and "untouched" in message
        )
    assert out["after"] == "step-000002"  # there is space again
    assert [p.name for p in checkpoint.complete(folder)] == ["step-000001", "step-000002"]
