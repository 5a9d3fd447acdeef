"""What goes unchanged from the student's checkpoint into what is saved: the drafting head.

python -m pytest tests/runtime/test_carried.py
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from drafter_fixtures import add_head
from safetensors import safe_open
from safetensors.torch import load_file

import model
import tiny
import train
from config import flags
from distributed import World
from runtime import checkpoint, launch, plan
from runtime.carried import require_drafter
from runtime.shapes import drafting, named_shape, shape_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(a saved tiny model with a drafting head, the head's weights)."""
    path = tmp_path_factory.mktemp("student")
    model.save(tiny.new_model(0), path)
    return path, add_head(path)


def same(found, head):
    return found.keys() == head.keys() and all(torch.equal(found[k], v) for k, v in head.items())


def test_the_head_goes_through_training_checkpoints_and_back(folder, tmp_path):
    """Loaded beside the net and never in it; saved in the next checkpoint, again from there, and
    still readable when the folder is gone.
    """
    path, head = folder
    for step in range(2):
        lm = model.load(path, "bfloat16")
        assert same(lm.drafter, head) and not any("mtp" in k for k in lm.net.state_dict())
        with torch.no_grad():
            lm.head.add_(1)
        out = tmp_path / str(step)
        if step:
            shutil.rmtree(path)
        checkpoint.publish(lm, out)
        path = out
    saved, config = (
        load_file(path / "model.safetensors"),
        json.loads((path / "config.json").read_text()),
    )
    assert same({k: v for k, v in saved.items() if k.startswith("mtp.")}, head)
    assert config["text_config"]["mtp_num_hidden_layers"] == 1
    assert model.load(path).drafter.keys() == head.keys()


def test_a_head_in_a_shard_of_its_own(folder, tmp_path):
    """A published checkpoint may be in several files, with an index that says where what is."""
    lm = tiny.new_model(0)
    model.save(lm, tmp_path)
    head = add_head(tmp_path)
    lm = replace(model.load(tmp_path), path="many")
    lm.net.save_pretrained(
        tmp_path / "many", state_dict={**lm.net.state_dict(), **head}, max_shard_size="1MB"
    )
    lm.tokenizer.save_pretrained(tmp_path / "many")
    lm.image_processor.save_pretrained(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert same(model.load(tmp_path / "many").drafter, head)


def test_a_config_that_names_a_head_which_is_not_there(tmp_path):
    """Saved without the name, or vLLM would look for it; --mtp is refused before any long work."""
    model.save(tiny.new_model(0), tmp_path / "a")
    add_head(tmp_path / "a")
    with safe_open(tmp_path / "a/model.safetensors", "pt") as f:
        names = [k for k in f.keys() if not k.startswith("mtp.")]  # noqa: SIM118
    weights = load_file(tmp_path / "a/model.safetensors")
    lm = model.load("assets/student")
    lm.net.config.text_config.mtp_num_hidden_layers = 1
    checkpoint.publish(lm, tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["text_config"]["mtp_num_hidden_layers"] == 0 and len(names) < len(weights)
    require_drafter(lm, 0)
    cfg = flags(["--engine", "vllm", "--mtp", "2"])
    with pytest.raises(ValueError, match=r"--mtp 2: \S*assets/student has no drafting head") as e:
        launch.load_student(cfg, World())
    assert "\n" not in str(e.value)


# ---- flags and plan ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["--engine", "hf"], []])
def test_only_vllm_drafts(more):
    with pytest.raises(ValueError, match="only vLLM drafts.*--mtp would do nothing"):
        flags(["--device", "cpu", *more, "--mtp", "1"])
    assert flags(["--device", "cpu", *more]).mtp == 0


def test_a_plan_counts_the_head(folder, capsys):
    """By hand for 0.8b and two drafts: the block's parameters, 1024 to 2048 twice, three norms; 18
    of 24 layers have states, in groups of the 7 that have keys and values now.
    """
    shape = named_shape("0.8b", "")
    attention = 1024 * 256 * (2 * 8 + 2 + 2 + 8) + 2 * 256  # q and its gate, k, v, o, two norms
    block = attention + 3 * 1024 * 3584 + 2 * 1024
    assert shape.drafter == block + 2 * 1024**2 + 3 * 1024
    two = drafting(shape, 2)
    assert two.served - shape.served == 2 * shape.drafter
    assert (shape.state_blocks, two.state_blocks) == (3, 9)
    assert two.state - shape.state == 2 * 2 * (2 * 2048 + 2048) and drafting(shape, 0) is shape
    one, more = (plan.serving(s, 36e9, 512, 21_504) for s in (shape, two))
    assert more.working - one.working == 2 * 12 * 512 * 248_320
    assert more.blocks < one.blocks and more.at_length < one.at_length
    argv = ["--plan", "8x80", "--student", "0.8b"]
    texts = []
    for extra in ([], ["--mtp", "2"]):
        assert train.main([*argv, *extra]) == 0
        texts.append(next(t for t in capsys.readouterr().out.splitlines() if "blocks" in t))
    assert texts[0] != texts[1]


def test_a_plan_without_a_head(folder):
    argv = ["--plan", "1x24", "--student", "assets/student", "--teacher", "assets/teacher"]
    with pytest.raises(ValueError, match="--mtp 3: the student's config names no drafting head"):
        train.main([*argv, "--mtp", "3"])
    assert shape_of(tiny.new_model(0).net.config).drafter == 0
