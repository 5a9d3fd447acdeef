"""Checkpoints: bit for bit, complete or not there, no pickles; and what a resumed update may not depend on.

    python -m pytest tests/test_checkpoint.py
"""
import contextlib
import json
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

import checkpoint
import model
import tiny
import train
from chat import encode
from metrics import Clock
from rollout import HFEngine


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
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- round trip ------------------------------------------------------------------------------------------------------------

def test_round_trip_bit_for_bit(pair, tmp_path):
    lm, optimizer = pair
    state = {"position": 7, "rng": checkpoint.rng_state(random.Random(3)), "buffer": {"entries": []}, "text": "\u00e9 \u2028"}
    torch.manual_seed(11)
    path = checkpoint.save(tmp_path, 12, lm, optimizer, state)
    want = torch.rand(3)
    assert path == tmp_path / "step-000012" == checkpoint.latest(tmp_path)

    torch.manual_seed(99)
    again = model.load(path / "model")
    other = torch.optim.AdamW(again.net.parameters(), lr=1e-3, weight_decay=0.1)
    assert checkpoint.load(path, again, other) == {**state, "step": 12}
    assert torch.equal(torch.rand(3), want)                                        # torch's generator
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
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight             # still tied
    again = model.load(path)
    image = questions["image"][0].images
    prompts = [encode(m, "2+2?<|im_end|>", image) for m in (lm, again)]
    assert prompts[0] == prompts[1] and again.eos_ids == lm.eos_ids and again.banned.tolist() == lm.banned.tolist()
    values = [model.pixels(m, prompts[0])["image"][0] for m in (lm, again)]
    assert same(*values)
    drawn = [HFEngine(m).sample([prompts[0]], 3, 8, seed=0) for m in (lm, again)]
    assert drawn[0] == drawn[1]


def test_publish(pair, tmp_path):
    lm, _ = pair
    for _ in range(2):                                                             # a second time replaces the first
        checkpoint.publish(lm, tmp_path / "final")
    assert [p.name for p in tmp_path.iterdir()] == ["final"]
    again = model.load(tmp_path / "final")
    assert all(same(p, q) for p, q in zip(lm.net.parameters(), again.net.parameters()))


def test_before_any_update(tmp_path):
    lm, optimizer = trained(steps=0)
    path = checkpoint.save(tmp_path, 0, lm, optimizer, {})
    checkpoint.load(path, lm, optimizer)
    assert moments(optimizer) == {}


def test_random_state_round_trip():
    rng = random.Random(5)
    rng.gauss(0, 1), rng.random()                                                  # gauss keeps a second number for later
    state = json.loads(json.dumps(checkpoint.rng_state(rng)))
    again = checkpoint.set_rng_state(state)
    for draw in (lambda r: r.gauss(0, 1), lambda r: r.random(), lambda r: r.sample(range(99), 9), lambda r: r.gauss(0, 1)):
        assert draw(rng) == draw(again)


# ---- a file that does not fit -------------------------------------------------------------------------------------------------

def test_an_optimizer_of_another_architecture_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    net = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                       pad_token_id=0))
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, SimpleNamespace(net=net), torch.optim.AdamW(net.parameters()))


def test_an_optimizer_of_another_size_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    wider = tiny.new_model(0)
    wider.net.resize_token_embeddings(200)
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, wider, torch.optim.AdamW(wider.net.parameters()))


def test_a_checkpoint_without_a_second_moment_is_refused(pair, tmp_path):
    from safetensors.torch import load_file, save_file
    path = checkpoint.save(tmp_path, 1, *pair, {})
    tensors = load_file(path / "optimizer.safetensors")
    save_file({k: v for k, v in tensors.items() if k != sorted(t for t in tensors if t.endswith(".exp_avg_sq"))[0]}, path / "optimizer.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, pair[0], torch.optim.AdamW(pair[0].net.parameters()))


# ---- complete or not there ---------------------------------------------------------------------------------------------------

def test_half_written_ones_are_ignored_with_a_line(pair, tmp_path):
    path = checkpoint.save(tmp_path, 10, *pair, {})
    (tmp_path / "step-000020.tmp" / "model").mkdir(parents=True)
    (tmp_path / "step-000020.tmp" / "state.json").write_text("{}")                 # even when its last file is there
    said = []
    assert checkpoint.latest(tmp_path, said.append) == path and len(said) == 1 and "step-000020.tmp" in said[0]
    assert checkpoint.complete(tmp_path) == [path]
    assert checkpoint.latest(tmp_path / "no such folder") is None and checkpoint.complete(tmp_path / "nor this") == []


def test_a_left_over_tmp_folder_does_not_disturb_the_next_save(pair, tmp_path):
    (tmp_path / "step-000010.tmp").mkdir()
    (tmp_path / "step-000010.tmp" / "junk").write_text("x")
    path = checkpoint.save(tmp_path, 10, *pair, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000010"] and not (path / "junk").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_prune_keeps_the_newest(pair, tmp_path, keep):
    for step in (5, 50, 500, 1000):                                                # by number, which the zeros make the name's order
        checkpoint.save(tmp_path, step, *pair, {}, keep)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-000005", "step-000050", "step-000500", "step-001000"][-keep:]
    assert len(list(tmp_path.iterdir())) == keep


def fails(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("owner, name", [("os", "rename"), ("", "save_file"), ("model", "save"), ("", "_flush"), ("json", "dumps")])
def test_a_save_that_fails_leaves_the_earlier_ones(pair, tmp_path, monkeypatch, owner, name):
    checkpoint.save(tmp_path, 1, *pair, {}, keep=1)
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(checkpoint, owner) if owner else checkpoint, name, fails)
        with pytest.raises(OSError, match="step-000002.*No space left.*untouched"):
            checkpoint.save(tmp_path, 2, *pair, {}, keep=1)
    assert listing(tmp_path) == before                                             # no half folder either
    checkpoint.save(tmp_path, 2, *pair, {}, keep=1)                                # there is space again
    assert [p.name for p in tmp_path.iterdir()] == ["step-000002"]


def test_saving_the_same_step_again_never_leaves_none(pair, tmp_path, monkeypatch):
    """run.save() after an error may write the step that was just saved; failing there must not cost the good one."""
    checkpoint.save(tmp_path, 3, *pair, {"try": 1}, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", fails)
        with contextlib.suppress(OSError):
            checkpoint.save(tmp_path, 3, *pair, {"try": 2}, keep=1)
    assert checkpoint.latest(tmp_path) is not None


def test_no_pickles(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    names = [p.name for p in path.rglob("*") if p.is_file()]
    assert {n.rsplit(".", 1)[-1] for n in names} <= {"safetensors", "json", "jinja", "txt"} and len(names) >= 8
    for p in path.rglob("*"):                                                      # nor one under another name
        assert not p.is_file() or (p.read_bytes()[:1] != b"\x80" and p.read_bytes()[:2] != b"PK")


def test_write_json_is_whole_or_old(tmp_path, monkeypatch):
    checkpoint.write_json(tmp_path / "c.json", {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fails)
        with pytest.raises(OSError):
            checkpoint.write_json(tmp_path / "c.json", {"a": 2})
    assert json.loads((tmp_path / "c.json").read_text()) == {"a": 1}


# ---- resume in the ugly step ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["all flat", "text only"])
def test_an_update_does_not_depend_on_gradients_left_by_an_earlier_one(tmp_path, few, rollouts, cfg, kind):
    """A straight run enters a step with old gradient tensors, a resumed one with none. Adam's moments move parameters whose
    gradient is zero and skip those without one: the vision tower under text questions, everything in a flat minibatch."""
    c = cfg("--n", "2", "--iterations", "1", "--max-response", "6", "--lr", "1e-2")
    results = []
    for resumed in (False, True):
        lm = tiny.new_model(0)
        optimizer = torch.optim.AdamW(lm.net.parameters(), lr=c.lr)
        first = rollouts(HFEngine(lm), few[:1], [[1, 0]], c)
        train.update(lm, optimizer, first, [1.0, -1.0], random.Random(0), c, Clock())
        if resumed:
            path = checkpoint.save(tmp_path, 1, lm, optimizer, {})
            lm = model.load(path / "model")
            optimizer = torch.optim.AdamW(lm.net.parameters(), lr=c.lr)
            checkpoint.load(path, lm, optimizer)
        flat = kind == "all flat"
        second = rollouts(HFEngine(lm), few[2:3], [[0, 0] if flat else [1, 0]], c)
        train.update(lm, optimizer, second, [0.0, 0.0] if flat else [1.0, -1.0], random.Random(0), c, Clock())
        results.append(dict(lm.net.named_parameters()))
    different = [k for k in results[0] if not torch.equal(results[0][k], results[1][k])]
    assert different == []
