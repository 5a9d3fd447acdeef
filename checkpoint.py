"""Checkpoints: everything that decides the next step, complete or not there at all.

A checkpoint is a folder step-000010/ with
    model/               a plain Hugging Face folder, float32: the master weights and what from_pretrained loads, in one
    optimizer.safetensors  AdamW's moments and step counts, by parameter name
    rng.safetensors      torch's generator state
    state.json           step, data position, python rng, buffer, teacher-cache ranges, config
It is written as step-000010.tmp, flushed to disk and renamed when whole, so a folder without .tmp is complete; older ones are
removed only after that. No pickle anywhere. Sampling needs no saved generator: each engine call is seeded from run seed, step
and purpose (rollout.seed_of), so the step number is its state.
"""
import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import model


def save(folder, step, lm, optimizer, state, keep=2):
    """Write folder/step-NNNNNN atomically, then remove all but the newest `keep`. state: JSON values. Returns its path.

    Raises OSError (disk full, ...) with the earlier checkpoints untouched and nothing half-written left under a final name.
    """
    folder = Path(folder)
    final, tmp = folder / f"step-{step:06d}", folder / f"step-{step:06d}.tmp"
    if final in complete(folder):            # an error after the step was saved asks for it once more: the state is the same
        return final

    def write():
        model.save(lm, tmp / "model")
        save_file(_optimizer_tensors(lm, optimizer), tmp / "optimizer.safetensors")
        save_file({"torch": torch.get_rng_state()}, tmp / "rng.safetensors")
        (tmp / "state.json").write_text(json.dumps({**state, "step": step}))
    _atomic(tmp, final, write)
    for old in complete(folder)[:-keep]:
        os.rename(old, f"{old}.tmp")                     # killed in here, it must not look complete
    for old in folder.glob("step-*.tmp"):
        shutil.rmtree(old, ignore_errors=True)
    return final


def publish(lm, folder):
    """The finished model as a plain Hugging Face folder, written under another name and renamed."""
    tmp, folder = Path(f"{folder}.tmp"), Path(folder)
    shutil.rmtree(folder, ignore_errors=True)            # of a shorter run that now went further
    _atomic(tmp, folder, lambda: model.save(lm, tmp))


def _atomic(tmp, final, write):
    """Make the folder `final` by write(), which fills `tmp`: whole, or not there. Raises OSError that names it."""
    shutil.rmtree(tmp, ignore_errors=True)
    try:
        tmp.mkdir(parents=True)
        write()
        _flush(tmp)
        os.rename(tmp, final)
        _flush_dir(final.parent)
    except Exception as e:                               # safetensors and tokenizers raise their own kinds on a full disk
        shutil.rmtree(tmp, ignore_errors=True)
        raise OSError(f"{final}: could not be written ({e}); what was saved before is untouched") from e


def complete(folder):
    """The complete checkpoints in a folder, oldest first."""
    return sorted(p for p in Path(folder).glob("step-*") if p.suffix != ".tmp" and (p / "state.json").is_file())


def latest(folder, say=print):
    """The newest complete checkpoint, or None. `say` gets a line for each half-written one, which is ignored."""
    for p in sorted(Path(folder).glob("step-*.tmp")):
        say(f"ignoring {p}: a checkpoint that was being written when the run died")
    found = complete(folder)
    return found[-1] if found else None


def load(path, lm, optimizer):
    """Put a checkpoint's optimizer and torch rng in place and return its state dict.

    lm: already loaded from path/model. Raises ValueError when the file does not fit the model.
    """
    tensors = _read(Path(path) / "optimizer.safetensors")
    shapes = {name: p.shape for name, p in lm.net.named_parameters()}
    for key, value in tensors.items():
        name, _, part = key.rpartition(".")
        if name not in shapes or (part != "step" and value.shape != shapes[name]):
            raise ValueError(f"{path}/optimizer.safetensors does not fit this model ({key}, {tuple(value.shape)})")
    state = optimizer.state_dict()
    try:
        state["state"] = {i: {key: tensors[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                          for i, name in enumerate(_names(lm)) if f"{name}.step" in tensors}
        optimizer.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as e:
        raise ValueError(f"{path}/optimizer.safetensors does not fit this model ({e})") from e
    torch.set_rng_state(_read(Path(path) / "rng.safetensors")["torch"])
    return read_json(Path(path) / "state.json")


def read_json(path):
    """A JSON file of ours. Raises ValueError that names it when it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} can't be read ({e}); remove its folder to go on from an older checkpoint") from e


def _read(path):
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise ValueError(f"{path} can't be read ({e}); remove its folder to go on from an older checkpoint") from e


def rng_state(rng):
    """random.Random -> JSON values."""
    version, numbers, gauss = rng.getstate()
    return [version, list(numbers), gauss]


def set_rng_state(state):
    """JSON values -> random.Random."""
    rng = random.Random()
    rng.setstate((state[0], tuple(state[1]), state[2]))
    return rng


def write_json(path, value):
    """Write a small JSON file so that a reader sees the old one or the new one, never half of it."""
    tmp = Path(f"{path}.tmp")
    tmp.write_text(json.dumps(value, indent=1))
    os.replace(tmp, path)


def _names(lm):
    return [name for name, p in lm.net.named_parameters() if p.requires_grad]


def _optimizer_tensors(lm, optimizer):
    state = optimizer.state_dict()["state"]
    return {f"{name}.{key}": value.detach().contiguous() for i, name in enumerate(_names(lm)) if i in state
            for key, value in state[i].items()}


def _flush(folder):
    for p in Path(folder).rglob("*"):
        if p.is_file():
            with open(p, "rb") as f:
                os.fsync(f.fileno())


def _flush_dir(folder):
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
