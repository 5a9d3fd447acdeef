"""Checkpoints: bit for bit on any number of ranks, complete or not there, no pickle of ours; and
what a resumed update may not depend on.

    python -m pytest tests/runtime/test_checkpoint.py
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
from engines.hf import HFEngine
from policy import update
from processor import encode, pixels
from runtime import checkpoint

ROOT = Path(__file__).parent.parent.parent


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)


def learn(lm, optimizer, ids):
    """One real update on a text."""
    optimizer.zero_grad()
    ids = torch.as_tensor(ids)[None]
    lm.net(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


def trained(steps=2):
    """A tiny model and its AdamW after some real updates."""
    lm = tiny.new_model(0)
    optimizer = adamw(lm.net)
    for k in range(steps):
        learn(lm, optimizer, torch.arange(7 + k))
    return lm, optimizer


def loaded(path, dtype="float32"):
    """The model and the AdamW of a checkpoint."""
    lm = model.load(path / "model", dtype)
    optimizer = adamw(lm.net)
    return lm, optimizer, checkpoint.load(path, lm, optimizer)


@pytest.fixture(scope="module")
def pair():
    return trained()


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def same_weights(one, two):
    """Bit for bit, by name."""
    one, two = (dict(lm.net.named_parameters()) for lm in (one, two))
    return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)


def moments(optimizer):
    return {(i, k): v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}


def same_moments(one, two):
    one, two = moments(one), moments(two)
    return one.keys() == two.keys() and len(one) > 30 and all(same(one[k], two[k]) for k in one)


def stored(path):
    """{name: what DCP's index says of it}."""
    return FileSystemReader(path / "shards").read_metadata().state_dict_metadata


def listing(folder):
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- round trip ----------------------------------------------------------------------------------


def test_round_trip_bit_for_bit(pair, tmp_path):
    lm, optimizer = pair
    rng = checkpoint.rng_state(random.Random(3))
    state = {"position": 7, "rng": rng, "buffer": {"entries": []}, "text": "\u00e9 \u2028"}
    torch.manual_seed(11)
    path = checkpoint.save(tmp_path, 12, lm, optimizer, state)
    want = torch.rand(3)
    assert path == tmp_path / "step-000012" == checkpoint.latest(tmp_path)
    torch.manual_seed(99)
    again, other, read = loaded(path)
    assert read == {**state, "step": 12}
    assert torch.equal(torch.rand(3), want)  # torch's generator
    assert same_weights(lm, again) and same_moments(optimizer, other)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_next_update_is_the_same(tmp_path):
    """One more step from memory and from disk: the moments belong to their own parameters."""
    lm, optimizer = trained()
    again, other, _ = loaded(checkpoint.save(tmp_path, 1, lm, optimizer, {}))
    learn(lm, optimizer, [5, 3, 8, 1])
    learn(again, other, [5, 3, 8, 1])
    assert same_weights(lm, again)


def test_the_model_folder_is_a_plain_one(pair, tmp_path, questions):
    lm, optimizer = pair
    path = checkpoint.save(tmp_path, 1, lm, optimizer, {}) / "model"
    net = AutoModelForImageTextToText.from_pretrained(path)
    assert all(same(p, q) for p, q in zip(lm.net.state_dict().values(), net.state_dict().values()))
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight  # still tied
    again = model.load(path)
    image = questions["image"][0].images
    one, two = (encode(m, "2+2?<|im_end|>", image) for m in (lm, again))
    assert one == two and again.eos_ids == lm.eos_ids
    assert again.banned.tolist() == lm.banned.tolist()
    assert same(*(pixels(m, one)["image"][0] for m in (lm, again)))
    drawn = [HFEngine(m).sample([one], 3, 8, seed=0) for m in (lm, again)]
    assert drawn[0] == drawn[1]


def test_publish(pair, tmp_path):
    lm, _ = pair
    for _ in range(2):  # a second time replaces the first
        checkpoint.publish(lm, tmp_path / "final")
    assert names(tmp_path) == ["final"]
    assert same_weights(lm, model.load(tmp_path / "final"))


def test_before_any_update(tmp_path):
    lm, optimizer = trained(steps=0)
    path = checkpoint.save(tmp_path, 0, lm, optimizer, {})
    before = [p.detach().clone() for p in lm.net.parameters()]
    again, other, _ = loaded(path)
    # AdamW's own start
    assert len(moments(other)) > 30 and all(not v.any() for v in moments(other).values())
    fresh = adamw(lm.net)  # one that was never saved
    learn(lm, fresh, range(9))
    learn(again, other, range(9))
    assert same_weights(lm, again)
    assert not all(same(p, q) for p, q in zip(lm.net.parameters(), before))


def test_bfloat16_compute_keeps_float32_masters(tmp_path):
    """model/ is what people load and serve, in the compute dtype; the shards are what training goes
    on from.
    """
    lm, optimizer = trained()
    lm.compute = torch.bfloat16
    path = checkpoint.save(tmp_path, 1, lm, optimizer, {})
    weights = load_file(path / "model/model.safetensors")
    config = json.loads((path / "model/config.json").read_text())
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    parts = [config, config["text_config"], config["vision_config"]]
    assert {part.get("dtype", "bfloat16") for part in parts} == {"bfloat16"} and "dtype" in config
    net = AutoModelForImageTextToText.from_pretrained(path / "model", dtype="auto")
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    kinds = {m.properties.dtype for name, m in stored(path).items() if name != "torch_rng"}
    assert kinds == {torch.float32}
    # rounded, until the shards are read
    assert not same_weights(lm, model.load(path / "model", "bfloat16"))
    again, other, _ = loaded(path, "bfloat16")
    assert same_weights(lm, again) and same_moments(optimizer, other)


def test_random_state_round_trip():
    rng = random.Random(5)
    rng.gauss(0, 1), rng.random()  # gauss keeps a second number for later
    again = checkpoint.set_rng_state(json.loads(json.dumps(checkpoint.rng_state(rng))))

    def draws(r):
        return r.gauss(0, 1), r.random(), r.sample(range(99), 9), r.gauss(0, 1)

    assert draws(rng) == draws(again)


# ---- a file that does not fit --------------------------------------------------------------------


def test_an_optimizer_of_another_architecture_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    sizes = "vocab_size hidden_size intermediate_size".split()
    sizes = dict.fromkeys(sizes, 8) | {"num_hidden_layers": 1, "num_attention_heads": 1}
    net = LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0))
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, SimpleNamespace(net=net), adamw(net))


def test_an_optimizer_of_another_size_is_refused(pair, tmp_path):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    wider = tiny.new_model(0)
    wider.net.resize_token_embeddings(200)
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load(path, wider, adamw(wider.net))


def test_a_checkpoint_without_a_second_moment_is_refused(pair, tmp_path, monkeypatch):
    real = checkpoint.dcp.save

    def without(tensors, **kwargs):
        tensors.pop(next(k for k in tensors if k.startswith("exp_avg_sq.")))
        return real(tensors, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.dcp, "save", without)
        path = checkpoint.save(tmp_path, 1, *pair, {})
    with pytest.raises(ValueError, match="does not fit.*exp_avg_sq"):
        checkpoint.load(path, pair[0], adamw(pair[0].net))


DAMAGES = [("*.distcp", b""), ("*.distcp", None), (".metadata", b"torn"), (".metadata", None)]


@pytest.mark.parametrize("name, damage", DAMAGES)
def test_damaged_shards_are_refused_with_a_line(pair, tmp_path, name, damage):
    path = checkpoint.save(tmp_path, 1, *pair, {})
    file = next((path / "shards").glob(name))
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(ValueError, match="step-000001/shards can't be read.*older checkpoint") as e:
        loaded(path)
    assert "\n" not in str(e.value)


# ---- complete or not there -----------------------------------------------------------------------


def test_half_written_ones_are_ignored_with_a_line(pair, tmp_path):
    path = checkpoint.save(tmp_path, 10, *pair, {})
    (tmp_path / "step-000020.tmp" / "model").mkdir(parents=True)
    (tmp_path / "step-000020.tmp" / "state.json").write_text("{}")  # even with its last file there
    said = []
    assert checkpoint.latest(tmp_path, said.append) == path
    assert len(said) == 1 and "step-000020.tmp" in said[0]
    assert checkpoint.complete(tmp_path) == [path]
    assert checkpoint.latest(tmp_path / "no such folder") is None
    assert checkpoint.complete(tmp_path / "nor this") == []


def test_a_left_over_tmp_folder_does_not_disturb_the_next_save(pair, tmp_path):
    (tmp_path / "step-000010.tmp").mkdir()
    (tmp_path / "step-000010.tmp" / "junk").write_text("x")
    path = checkpoint.save(tmp_path, 10, *pair, {})
    assert names(tmp_path) == ["step-000010"] and not (path / "junk").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_prune_keeps_the_newest(pair, tmp_path, keep):
    for step in (5, 50, 500, 1000):  # by number, which the zeros make the name's order
        checkpoint.save(tmp_path, step, *pair, {}, keep)
    all_names = [f"step-{step:06d}" for step in (5, 50, 500, 1000)]
    assert [p.name for p in checkpoint.complete(tmp_path)] == names(tmp_path) == all_names[-keep:]


def test_a_resumed_run_saves_when_its_own_checkpoint_is_pruned(pair, tmp_path):
    """With what belongs to classes that are not loaded, the video processor's settings."""
    path = checkpoint.save(tmp_path, 1, *pair, {})
    (path / "model/video_preprocessor_config.json").write_text("{}")
    lm, optimizer, _ = loaded(path)
    for step in (2, 3):
        checkpoint.save(tmp_path, step, lm, optimizer, {}, keep=1)
        assert names(tmp_path) == [f"step-{step:06d}"]
    checkpoint.publish(lm, tmp_path / "final")
    for folder in (tmp_path / "step-000003/model", tmp_path / "final"):
        assert (folder / "video_preprocessor_config.json").read_text() == "{}"


def fails(*args, **kwargs):
    raise OSError(28, "No space left on device")


def fails_at_last(old, new, real=os.rename):
    return real(old, new) if "shards" in str(new) else fails()  # DCP renames too


# dcp.FileSystemWriter: torch's CheckpointException is no Exception and would pass every `except`
# between here and the user
SPOTS = "dcp.save dcp.FileSystemWriter.write_data model.save json.dumps _flush os.rename".split()


@pytest.mark.parametrize("spot", SPOTS)
def test_a_save_that_fails_leaves_the_earlier_ones(pair, tmp_path, monkeypatch, spot):
    checkpoint.save(tmp_path, 1, *pair, {}, keep=1)
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"runtime.checkpoint.{spot}", fails_at_last if "rename" in spot else fails)
        with pytest.raises(OSError, match="step-000002.*No space left.*untouched") as e:
            checkpoint.save(tmp_path, 2, *pair, {}, keep=1)
    assert "\n" not in str(e.value)
    assert listing(tmp_path) == before  # no half folder either
    checkpoint.save(tmp_path, 2, *pair, {}, keep=1)  # there is space again
    assert names(tmp_path) == ["step-000002"]


def test_saving_the_same_step_again_never_leaves_none(pair, tmp_path, monkeypatch):
    """A save after an error may write the step that was just saved; failing there must not cost the
    good one.
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
    assert names(path) == ["model", "shards", "state.json"]
    assert {p.suffix or p.name for p in (path / "shards").iterdir()} == {".distcp", ".metadata"}
    ours = [p for p in path.rglob("*") if p.is_file() and p.parent.name != "shards"]
    assert {p.suffix for p in ours} <= {".safetensors", ".json", ".jinja", ".txt"}
    assert len(ours) >= 7
    for p in ours:  # nor one under another name
        assert p.read_bytes()[:1] != b"\x80" and p.read_bytes()[:2] != b"PK"
    # tensors only: DCP pickles anything else
    assert {type(m).__name__ for m in stored(path).values()} == {"TensorStorageMetadata"}
    assert len(stored(path)) > 100


# ---- resume in the ugly step ---------------------------------------------------------------------


@pytest.mark.parametrize("flat", [True, False], ids=["all flat", "text only"])
def test_an_update_does_not_depend_on_gradients_left_by_an_earlier_one(
    tmp_path, few, rollouts, cfg, make_job, flat
):
    """A straight run enters a step with old gradient tensors, a resumed one with none. Adam's
    moments move parameters whose gradient is zero and skip those without one: the vision tower
    under text questions, everything in a flat minibatch.
    """
    c = cfg(*"--n 2 --iterations 1 --max-response 6 --lr 1e-2".split())

    def one_update(job, question, rewards, adv):
        groups = rollouts(job.engine, [question], [rewards], c)
        job.state.rng.seed(1)
        update(job.policy, job.optimizer, groups, adv, c, job.world, job.state.rng)

    results = []
    for resumed in (False, True):
        job = make_job(c, student=tiny.new_model(0))
        one_update(job, few[0], [1, 0], [1.0, -1.0])
        if resumed:
            path = checkpoint.save(tmp_path, 1, job.policy.lm, job.optimizer, {})
            job = make_job(c, student=model.load(path / "model"))
            checkpoint.load(path, job.policy.lm, job.optimizer)
        one_update(job, few[2], *([0, 0], [0.0, 0.0]) if flat else ([1, 0], [1.0, -1.0]))
        results.append(job.policy.lm)
    assert same_weights(*results)


# ---- several ranks -------------------------------------------------------------------------------


def ranks(n, mode, folder):
    """tests/checkpoint_ranks.py on n processes; what its rank 0 has written down."""
    target = folder.parent / f"{mode}.pt"
    launch = f"-m torch.distributed.run --standalone --nproc_per_node={n}".split()
    script = ROOT / "tests/checkpoint_ranks.py"
    command = [sys.executable, *launch, *map(str, (script, mode, folder, target))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
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
        a, b = one[name], two[name]
        assert a.keys() == b.keys() == {"weight", "step", "exp_avg", "exp_avg_sq"}
        assert all(same(a[k], b[k]) and b[k].dtype == torch.float32 for k in a), name
        assert a["exp_avg"].any() and a["step"] == 2


@pytest.mark.slow
def test_what_two_ranks_wrote_one_reads(by_two):
    """Bit for bit, with bfloat16 compute: the float32 masters come from the shards, not from
    model/.
    """
    folder, wrote = by_two
    path = folder / "step-000001"
    assert len(list((path / "shards").glob("*.distcp"))) == 2  # each rank its part
    rounded = model.load(path / "model", "bfloat16")
    for name, p in rounded.net.named_parameters():  # what people load: the same, rounded
        assert torch.equal(p, wrote["tensors"][name]["weight"].bfloat16().float())
    lm, optimizer, state = loaded(path, "bfloat16")
    assert state == {"position": 3, "step": 1}
    assert torch.rand(2).tolist() == wrote["draw"][0]  # torch's generator, as rank 0 had it
    named = lm.net.named_parameters()
    read = {name: {"weight": p.detach(), **optimizer.state[p]} for name, p in named}
    assert_same_tensors(wrote["tensors"], read)


@pytest.mark.slow
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
    for (message, left), (other, _) in out["said"]:
        assert message == other and "\n" not in message and left == ["step-000001"]
        assert "step-000002: could not be written" in message
        assert "No space left" in message and "untouched" in message
    assert out["after"] == "step-000002"  # there is space again
    assert [p.name for p in checkpoint.complete(folder)] == ["step-000001", "step-000002"]
