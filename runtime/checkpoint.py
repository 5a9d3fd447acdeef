"""Checkpoints: everything that decides the next step, complete or not there at all.

A checkpoint is a folder step-000010/ with
* shards/     torch.distributed.checkpoint: float32 master weights (frozen ones too) and AdamW's
              state by parameter name, each rank its part; any number of ranks can read it
* model/      a Hugging Face folder in the compute dtype, which transformers and `vllm serve` load
* state.json  step, data position, rng, buffer, what the teacher has been asked, config

It is written as step-000010.tmp, flushed to disk and renamed when whole, so a folder without .tmp
is complete; older ones are removed only after that. (The one pickle inside is the index of shards/,
torch's own format: load checkpoints that you trust.) Sampling needs no saved generator: each prompt
is seeded from run seed, step and purpose (engines.base.seed_of), so the step number is its state.
torch's global generator, which a fork with dropout would draw from, is kept as rank 0 has it.
"""

import copy
import json
import os
import random
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

import model
from buffer import Buffer
from config import comparable
from distributed import World, as_shared
from optimizer import fresh_state, state_dtype
from policy import full_state_dict
from runtime.files import write_atomic

ALONE = World()
ANY = (Exception, CheckpointException)  # DCP's own is a BaseException, which Exception lets through


@dataclass
class RunState:
    """All that decides the next step, beside weights, optimizer, and what the teacher was asked."""

    buffer: Buffer
    rng: random.Random  # replay draws, candidates and their order, minibatches
    step: int = 0  # rollout steps finished
    position: int = 0  # questions taken from the data order
    skipped: int = 0  # questions that could not be used (--skip-bad)
    alarms: dict = field(default_factory=dict)  # sums, and what was told (alarms.check)
    heldout: dict | None = None  # held-out results before training
    heldout_now: dict | None = None  # the latest ones of this process, not saved

    def finish_step(self, step, position):
        """A rollout step is done, with the new questions up to this position of the order."""
        self.step, self.position = step, position

    def to_json(self):
        """JSON values, copied."""
        return {
            "step": self.step,
            "position": self.position,
            "rng": rng_state(self.rng),
            "buffer": copy.deepcopy(self.buffer.state()),
            "alarms": copy.deepcopy(self.alarms),
            "heldout": self.heldout,
        }

    def load(self, saved):
        """Take over the values of a checkpoint's state.json."""
        self.step, self.position, self.heldout = (saved[k] for k in ("step", "position", "heldout"))
        self.alarms, self.rng = saved["alarms"], set_rng_state(saved["rng"])
        self.buffer.load(saved["buffer"])


class Checkpoints:
    """Saves the last finished step of a run, also after an error in the middle of the next one.

    teacher: on rank 0, where there is one; what it has been asked is part of the state.
    """

    def __init__(self, folder, cfg, lm, optimizer, world, teacher=None):
        self.folder, self.cfg, self.lm, self.optimizer = folder, cfg, lm, optimizer
        self.world, self.teacher = world, teacher
        self.captured = None  # the state of the last finished step, while its weights are in place

    def capture(self, state, record):
        """Remember the state of a finished step, between two steps; record: its metrics, kept until
        the next in case they can't be written now.
        """
        asked = self.teacher.state() if self.teacher else None
        more = {"teacher": asked, "record": record, "config": comparable(self.cfg)}
        self.captured = state.to_json() | more

    def weights_move(self):
        """From here to capture() the last step's state is no longer there to be saved."""
        self.captured = None

    def save(self):
        """A checkpoint of the last finished step, or None: before the first, or when its weights
        have already moved on. All ranks call this.
        """
        if self.captured is None or not self.captured["step"]:
            return None
        step, keep = self.captured["step"], self.cfg.keep
        return save(self.folder, step, self.lm, self.optimizer, self.captured, keep, self.world)


def save(folder, step, lm, optimizer, state, keep=2, world=ALONE):
    """Write folder/step-NNNNNN atomically, then remove all but the newest `keep`. state: JSON
    values. Returns its path.

    Every student rank calls this. Raises OSError on all of them (disk full, ...) with the earlier
    checkpoints untouched and nothing half-written left under a final name.
    """
    folder = Path(folder)
    final, tmp = folder / f"step-{step:06d}", folder / f"step-{step:06d}.tmp"
    # an error after the step was saved asks for it once more
    if world.broadcast_from_rank0(lambda: final in complete(folder)):
        return final

    def write(tmp):
        _write_shards(lm, optimizer, tmp / "shards", world)
        write_model(lm, tmp / "model", world)
        if world.rank == 0:
            (tmp / "state.json").write_text(json.dumps({**state, "step": step}))

    _atomic(tmp, final, write, world)
    world.broadcast_from_rank0(lambda: _prune(folder, keep))
    return final


def _prune(folder, keep):
    for old in complete(folder)[:-keep]:
        os.rename(old, f"{old}.tmp")  # killed in here, it must not look complete
    for old in folder.glob("step-*.tmp"):
        shutil.rmtree(old, ignore_errors=True)


def publish(lm, folder, world=ALONE):
    """The finished model as a plain Hugging Face folder, written under another name and renamed."""
    tmp, folder = Path(f"{folder}.tmp"), Path(folder)
    # of a shorter run that now went further
    world.broadcast_from_rank0(lambda: shutil.rmtree(folder, ignore_errors=True))
    _atomic(tmp, folder, lambda tmp: write_model(lm, tmp, world), world)


def write_model(lm, folder, world=ALONE):
    """A Hugging Face folder of the full weights in the compute dtype. Every rank calls this, rank 0
    writes.
    """
    weights = {}
    for name, tensor in full_state_dict(lm, lm.compute):  # other ranks drop each at once
        if world.rank == 0:
            weights[name] = tensor.cpu().contiguous()
    if world.rank:
        return
    model.save(lm, folder, weights)
    config = read_json(Path(folder) / "config.json")  # transformers writes the masters' dtype
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = str(lm.compute).removeprefix("torch.")
        if "mtp_num_hidden_layers" in part:  # the drafting head is not among the weights
            part["mtp_num_hidden_layers"] = 0
    write_atomic(Path(folder) / "config.json", json.dumps(config, indent=1))


def _atomic(tmp, final, write, world):
    """Make the folder `final` by write(tmp): whole, or not there. Raises OSError that names it, on
    all ranks.
    """

    def fresh_folder():
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)

    def make():
        world.broadcast_from_rank0(fresh_folder)
        write(tmp)
        if world.rank == 0:
            _flush(tmp)

    def put_in_place():
        if world.rank == 0:
            os.rename(tmp, final)
            _flush_dir(final.parent)

    for work in (make, put_in_place):
        error = None
        try:
            work()
        except ANY as e:  # DCP, safetensors, tokenizers raise their own kinds on a full disk
            error = f"could not be written ({_short(e)}); what was saved before is untouched"
        errors = [e for e in world.all_gather(lambda: error) if e]
        if errors:
            if world.rank == 0:
                shutil.rmtree(tmp, ignore_errors=True)
            raise as_shared(OSError(f"{final}: {errors[0]}"))


def _short(e):
    return (str(e).strip() or repr(e)).splitlines()[-1][:300]


def complete(folder):
    """The complete checkpoints in a folder, oldest first."""
    return sorted(
        p
        for p in Path(folder).glob("step-*")
        if p.suffix != ".tmp" and (p / "state.json").is_file()
    )


def latest(folder, log=print):
    """The newest complete checkpoint, or None. `log` gets a line for each half-written one, which
    is ignored.
    """
    for p in sorted(Path(folder).glob("step-*.tmp")):
        log(f"ignoring {p}: a checkpoint that was being written when the run died")
    found = complete(folder)
    return found[-1] if found else None


def load(path, lm, optimizer, world=ALONE):
    """Put a checkpoint's master weights and optimizer state in place and return its state dict.

    lm: loaded from path/model, sharded over any number of ranks. Raises ValueError when the file
    does not fit the model.
    """
    tensors = _tensors(lm, optimizer)
    try:
        with _quiet():
            dcp.load(tensors, checkpoint_id=Path(path) / "shards", no_dist=world.size == 1)
    except ANY as e:  # a missing or damaged file, other shapes, other names
        raise ValueError(
            f"{path}/shards can't be read, or does not fit this model ({_short(e)}); remove its "
            f"folder to go on from an older checkpoint"
        ) from e
    torch.set_rng_state(tensors["torch_rng"])
    return read_json(Path(path) / "state.json")


def _write_shards(lm, optimizer, folder, world):
    with _quiet():
        dcp.save(_tensors(lm, optimizer), checkpoint_id=folder, no_dist=world.size == 1)


def _tensors(lm, optimizer):
    """{"weight.NAME", "exp_avg.NAME", "exp_avg_sq.NAME", "step.NAME": tensor}: the live ones, so
    that DCP reads in place.
    """
    out = {"torch_rng": torch.get_rng_state()}
    for name, p in lm.net.named_parameters():
        out[f"weight.{name}"] = p.detach()
        if not p.requires_grad:
            continue
        state = optimizer.state[p]
        if not state:  # before the first update: AdamW's own start
            state |= fresh_state(p, state_dtype(optimizer))
        out |= {f"{key}.{name}": state[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return out


@contextmanager
def _quiet():
    """DCP warns that one process saves alone; that is what is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_json(path):
    """A JSON file of ours. Raises ValueError that names it when it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{path} can't be read ({e}); remove its folder to go on from an older checkpoint"
        ) from e


def rng_state(rng):
    """random.Random -> JSON values."""
    version, numbers, gauss = rng.getstate()
    return [version, list(numbers), gauss]


def set_rng_state(state):
    """JSON values -> random.Random."""
    rng = random.Random()
    rng.setstate((state[0], tuple(state[1]), state[2]))
    return rng


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
