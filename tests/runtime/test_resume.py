"""A run of one process that was killed and resumed is the straight run, bit for bit; an interrupted
one saves first.

python -m pytest tests/test_resume.py             # kill -9 in an update and in a checkpoint; Ctrl-C
python -m pytest tests/test_resume.py -m slow     # kill -9 in a teacher write, in a log line,
between rename and prune
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny
from runtime import checkpoint

ROOT = Path(__file__).parent.parent.parent
FLAGS = [
    "--steps",
    "4",
    "--save-every",
    "2",
    "--batch",
    "3",
    "--n",
    "4",
    "--aug",
    "0.5",
    "--show",
    "2",
]
CLOCKS = ("seconds", "peak_gb", "teacher_waited")  # what the machine decides

# Runs train.main in a process that kills itself, -9, in the nth call of a function, some of them
# half way through a write.
DIE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
spot, nth, calls = sys.argv[2], int(sys.argv[3]), [0]
import checkpoint, metrics, run, teacher, torch, train
def die(): os.kill(os.getpid(), signal.SIGKILL)
def arm(owner, name, act=lambda *a, **k: die()):
    real = getattr(owner, name)
    def wrapped(*a, **k):
        calls[0] += 1
        return act(*a, **k) if calls[0] == nth else real(*a, **k)
    setattr(owner, name, wrapped)
def interrupt(owner, name):
    real = getattr(owner, name)
    def act(*a, **k):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*a, **k)
    arm(owner, name, act)
def half_put(self, records):
    records = list(records)
    lines = b"".join(teacher.json.dumps({"key": f"{self.teacher}/{k}", **r}).encode() + b"\\n" for k, r in records)
    self.file.write(lines[:len(lines) - 9]); self.file.flush(); die()
def half_line(path, records):
    with open(path, "a") as f: f.write('{"step": 3, "gro'); f.flush(); die()
{"update": lambda: arm(torch.optim.AdamW, "step"), "checkpoint": lambda: arm(checkpoint, "_flush"),
 "rename": lambda: arm(checkpoint, "_flush_dir"), "teacher": lambda: arm(teacher.Cache, "put", half_put),
 "log": lambda: arm(metrics, "_append", half_line),
 "interrupted rollout": lambda: interrupt(run.Run, "sample"), "interrupted update": lambda: interrupt(torch.optim.AdamW, "step"),
 "never": lambda: None}[spot]()
sys.exit(train.main(sys.argv[4:]))
"""


def run(folder, spot, nth, *flags, check=None):
    command = [
        sys.executable,
        "-c",
        DIE,
        str(ROOT),
        spot,
        str(nth),
        "--out",
        str(folder),
        *FLAGS,
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def heldout(tmp_path_factory):
    """Eight text questions, so that the evaluations before and after take no time."""
    file = tmp_path_factory.mktemp("heldout") / "q.jsonl"
    file.write_text(
        "".join(
            json.dumps({"id": q.id, "question": q.question, "answer": q.answer}) + "\n"
            for q in tiny.questions("heldout_text")[:8]
        )
    )
    return ["--heldout", str(file)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, heldout):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(folder, "never", 0, *heldout, check=0)
    return folder


def lines(path):
    """The records of a JSONL without what a clock or the machine decides."""
    out = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in CLOCKS} for r in out]


def assert_same(a, b):
    for name in ("model.safetensors",):
        one, two = load_file(a / "final" / name), load_file(b / "final" / name)
        assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
    assert lines(a / "metrics.jsonl") == lines(b / "metrics.jsonl")
    assert lines(a / "samples.jsonl") == lines(b / "samples.jsonl")
    state = [json.loads((f / "checkpoints/step-000004/state.json").read_text()) for f in (a, b)]
    for s in state:
        s["record"] = {k: v for k, v in s["record"].items() if k not in CLOCKS}
        s.pop(
            "teacher_cache"
        )  # byte ranges: the resumed run's file also holds what the dead one wrote
    assert state[0] == state[1]


def test_the_run_is_not_idle(straight):
    """Equality of runs proves nothing if nothing happens in them."""
    records = lines(straight / "metrics.jsonl")[1:]
    assert len(records) == 4 and sum(r["groups"]["bcq"]["groups"] for r in records) > 0
    assert any(r["grad_norm"] > 0 for r in records) and any(
        r["groups"]["replay"]["groups"] for r in records
    )


# update: 4 a step, so call 14 is inside step 4 and call 3 inside step 1, before any checkpoint;
# checkpoint: the second one
@pytest.mark.parametrize(
    "spot, nth",
    [("update", 14), ("checkpoint", 2)]
    + [
        pytest.param(*p, marks=pytest.mark.slow)
        for p in (
            ("update", 3),
            ("update", 9),
            ("rename", 2),
            ("teacher", 5),
            ("teacher", 6),
            ("log", 6),
        )
    ],
)
def test_killed_and_resumed_is_straight(straight, heldout, tmp_path, spot, nth):
    folder = tmp_path / "run"
    killed = run(folder, spot, nth, *heldout)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    resumed = run(folder, "never", 0, "--resume", *heldout, check=0)
    if (spot, nth) == ("update", 3):
        assert "begins at step 1" in resumed.stdout
    if spot == "checkpoint":
        assert "ignoring" in resumed.stdout and ".tmp" in resumed.stdout
    assert_same(straight, folder)


# sample() is called five times a step, once a kind: call 6 is the plain rollouts of step 2; call 6
# of AdamW is in its update
@pytest.mark.parametrize(
    "spot, nth, saved",
    [
        ("interrupted rollout", 6, 1),
        pytest.param("interrupted update", 6, 2, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_first(straight, heldout, tmp_path, spot, nth, saved):
    """Rollouts are left at once, and the step before is saved; an update under way is finished, and
    its step saved.
    """
    folder = tmp_path / "run"
    out = run(folder, spot, nth, *heldout, check=130).stdout
    assert (
        f"stopped after step {saved}, all saved" in out
        and "--resume" in out
        and "Traceback" not in out
    )
    assert [p.name for p in checkpoint.complete(folder / "checkpoints")][-1] == f"step-{saved:06d}"
    assert len(lines(folder / "metrics.jsonl")) == 1 + saved
    run(folder, "never", 0, "--resume", *heldout, check=0)
    assert_same(straight, folder)


def test_a_changed_flag_is_refused_unless_forced(straight, heldout, tmp_path):
    done = run(straight, "never", 0, "--resume", "--lr", "1e-3", *heldout)
    assert (
        done.returncode != 0 and "--lr 0.0002 -> 0.001" in done.stderr and "--force" in done.stderr
    )
    done = run(
        straight, "never", 0, "--resume", *heldout, check=0
    )  # nothing left to do is not an error
    assert "4 steps are done" in done.stdout
