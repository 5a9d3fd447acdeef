"""What runs out (memory, disk, file handles) ends a run in one line that names what to lower, on a
line of its own after the bar, with the finished steps kept.

python -m pytest tests/runtime/test_errors.py
"""

import errno
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import policy
import tiny
import train
from baselines import method_of
from runtime import console, launch
from runtime.console import StopSignal
from runtime.errors import errors_in_one_line, in_one_line

ROOT = Path(__file__).parent.parent.parent
CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 9.0 GiB.\nGPU 0 has 79 GiB ..."
)
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")


def full(path="/d/metrics.jsonl"):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize(
    "error, words",
    [
        (CUDA, ("the GPU's memory ran out (CUDA out of memory", "--micro-tokens 8192")),
        (CUDA, ("--checkpointing",)),
        (RuntimeError("CUDA error: CUDA out of memory"), ("--micro-tokens", "--max-response 40")),
        (CPU, ("this machine's memory ran out", "--micro-tokens 8192", "--n 8")),
        (MemoryError(), ("this machine's memory ran out (MemoryError)", "--micro-tokens")),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ("this machine's memory ran out",)),
        (full(), ("the disk is full", "/d/metrics.jsonl", "--keep 2", "--show 3", "--out")),
        (OSError("x: could not be written (No space left on device)"), ("the disk is full",)),
        # PyTorch's writer on a full disk
        (OSError("could not be written (unexpected pos 704 vs 598)"), ("the disk is full",)),
        (OSError(errno.EFBIG, "File too large"), ("the disk is full", "ulimit -f")),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ("the disk is full",)),
        (OSError(errno.EMFILE, "Too many open files", "a.png"), ("a.png", "ulimit -n")),
    ],
)
def test_what_ran_out_and_what_to_lower(cfg, error, words):
    error.shared = True
    told = in_one_line(error, cfg())
    assert type(told) is ValueError and "\n" not in str(told) and told.shared
    assert all(w in str(told) for w in words), str(told)


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("b"), OSError(errno.ENOENT, "c")])
def test_any_other_error_stays_what_it_is(cfg, error):
    assert in_one_line(error, cfg()) is error
    with pytest.raises(type(error)) as e, errors_in_one_line(cfg()):
        raise error
    assert e.value is error


def test_while_the_run_is_opened(cfg, monkeypatch, tmp_path):
    def load(*args, **kwargs):
        raise CPU

    monkeypatch.setattr(launch, "load_student", load)
    with pytest.raises(ValueError, match="this machine's memory ran out") as e:
        train.main(["--out", str(tmp_path / "run"), "--steps", "1"])
    assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


# ---- in the middle of a run ----------------------------------------------------------------------


@pytest.fixture
def broken_run(make_job, cfg, fresh_lm, monkeypatch):
    """broken_run(owner, name, error, nth) -> (the error as told, the job): GRPO on a random student
    until the nth call of owner.name raises.
    """

    def run(owner, name, error, nth):
        small = "--method grpo --batch 2 --iterations 1 --n 2 --max-response 4 --steps 5".split()
        settings = cfg(*small, "--save-every", 0)
        job = make_job(settings, questions=tiny.questions("train")[:4], student=fresh_lm)
        job.method, calls, real = method_of("grpo"), [], getattr(owner, name)

        def breaks(*args, **kwargs):
            calls.append(1)
            if len(calls) == nth:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, breaks)
        with StopSignal(job) as stop:
            with pytest.raises(type(error)) as e:
                train.train(settings, job, stop)
        assert stop.bar.disable or stop.bar.fp is not None
        run.bar = stop.bar
        return launch.save_after_error(e.value, job), job

    return run


@pytest.mark.parametrize("error", [CPU, MemoryError(), CUDA, full()])
def test_the_finished_steps_are_kept(broken_run, error):
    """It ran out in the rollouts of step 3."""
    told, job = broken_run(train, "rollout", error, 5)  # two rollouts a step
    line, kept = str(told).split("\n")
    assert "ran out" in line or "is full" in line
    assert "the 2 finished steps are in" in kept and f"--resume --out {job.out}" in kept
    assert [p.name for p in (job.out / "checkpoints").iterdir()] == ["step-000002"]


def test_in_an_update_the_last_checkpoint_is_named(broken_run):
    """The weights have moved, so only what was saved before is there: here nothing, so it says."""
    told, job = broken_run(sys.modules["torch.optim.adam"], "adam", CPU, 2)
    line, kept = str(told).split("\n")
    assert kept == "none of the 1 finished steps is saved; lower --save-every"
    assert not list((job.out / "checkpoints").glob("step-*"))


def test_before_an_update_the_step_before_it_is_kept(broken_run):
    """In a forward or backward no weight has moved yet, and there memory ends most often."""
    told, job = broken_run(policy, "measure", CUDA, 5)  # it is called twice a step
    assert "the 2 finished steps are in" in str(told)
    assert [p.name for p in (job.out / "checkpoints").iterdir()] == ["step-000002"]


def test_a_disk_that_stays_full_is_told_with_what_was_saved_before(broken_run, monkeypatch):
    from runtime import checkpoint

    def write(*args):
        raise full("/d/shards")

    monkeypatch.setattr(checkpoint, "_write_shards", write)
    told, job = broken_run(train, "rollout", full(), 5)
    first, second = str(told).split("\n")
    assert "the disk is full" in first and "the last finished step could not be saved" in second


# ---- the line after the bar ----------------------------------------------------------------------


def test_the_bar_is_closed_by_an_error(broken_run):
    broken_run(train, "rollout", CPU, 3)
    assert broken_run.bar.disable  # what tqdm.close() sets


def test_the_bar_ends_its_line(cfg, make_job, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    settings, job = cfg("--steps", 3), make_job(cfg("--steps", 3))
    with pytest.raises(ValueError), StopSignal(job) as stop:
        stop.bar = console.progress_bar(settings, job.state, job.world)
        raise ValueError
    assert screen.getvalue().endswith("\n")


def whole_program(out, limit, most, *flags):
    """train.py in a process of its own, with a limit of the system."""
    small = "--steps 3 --batch 2 --iterations 1 --n 2 --method grpo --save-every 1".split()
    command = [sys.executable, "train.py", *small, "--out", str(out), *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    [line] = [x for x in done.stderr.splitlines() if "error: " in x]
    assert line.startswith("error: ")  # not behind the bar
    return line, done.stderr


@pytest.mark.slow
def test_a_checkpoint_that_finds_no_room(tmp_path):
    """Files of at most 1 MB, where PyTorch's own writer meets the end of the disk."""
    line, said = whole_program(tmp_path / "run", resource.RLIMIT_FSIZE, 1_000_000)
    assert line.startswith("error: the disk is full") and "--keep 2" in line
    assert list((tmp_path / "run/checkpoints").iterdir()) == []  # nothing half-written


@pytest.mark.slow
def test_memory_that_ends_in_a_step(tmp_path):
    line, _ = whole_program(
        tmp_path / "run", resource.RLIMIT_AS, 1_600_000_000,
        *"--batch 64 --n 16 --micro-tokens 60000 --steps 2".split(),
    )  # fmt: skip
    assert "this machine's memory ran out" in line and "--micro-tokens 60000" in line
