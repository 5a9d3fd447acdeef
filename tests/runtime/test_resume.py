"""A run of one process that was killed and resumed is the straight run, bit for bit; an interrupted
one saves first.

    python -m pytest tests/runtime/test_resume.py            # kill -9, kill -9, Ctrl-C, one run
    python -m pytest tests/runtime/test_resume.py -m slow    # one at a time, in all that is written
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny
from runtime.files import read_jsonl

ROOT = Path(__file__).parent.parent.parent
FLAGS = "--steps 4 --save-every 2 --batch 3 --n 4 --aug 0.5 --show 2".split()
CLOCKS = ("seconds", "core_seconds", "peak_gb", "teacher_waited")  # what the machine decides


def run(folder, *flags, fault=("never", "", 0), check=None):
    """train.py, with a fault (tests/faults.py: what, where, at which call)."""
    script = ROOT / "tests/faults.py"
    command = [sys.executable, script, *fault, 0, "--out", folder, *FLAGS, *flags]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=300)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def heldout(tmp_path_factory):
    """Eight text questions, so that the evaluations before and after take no time."""
    file = tmp_path_factory.mktemp("heldout") / "q.jsonl"
    rows = [
        {"id": q.id, "question": q.question, "answer": q.answer}
        for q in tiny.questions("heldout_text")[:8]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--heldout", str(file)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, heldout):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(folder, *heldout, check=0)
    return folder


def timeless(records):
    """Records without what a clock or the machine decides, and without what was drawn: a resumed
    run finds in the memo what the killed one had drawn.
    """
    for r in records:
        kept = {k: v for k, v in r.items() if k not in CLOCKS}
        for part, drawn in (("tokens", "teacher"), ("judged", "asked")):
            if part in kept:
                kept[part] = {k: v for k, v in kept[part].items() if k != drawn}
        yield kept


def lines(path):
    return list(timeless(json.loads(line) for line in path.read_text().splitlines()))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def assert_same(a, b):
    one, two = (load_file(folder / "final/model.safetensors") for folder in (a, b))
    assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(a / name) == lines(b / name)
    state = [json.loads((f / "checkpoints/step-000004/state.json").read_text()) for f in (a, b)]
    for s in state:
        [s["record"]] = timeless([s["record"]])
    assert state[0] == state[1] and state[0]["teacher"] and state[0]["rng"]
    # a line that the kill has torn costs itself only
    assert answers(a) == answers(b)


def answers(folder):
    """What the teacher has written, by its key and visit."""
    rows = read_jsonl(folder / "teacher.jsonl")
    return {(r["key"], r["visit"], len(r["records"])): r["records"] for r in rows}


def test_the_run_is_not_idle(straight):
    """Equality of runs proves nothing if nothing happens in them."""
    records = lines(straight / "metrics.jsonl")[1:]
    assert len(records) == 4 and sum(r["groups"]["bcq"]["groups"] for r in records) > 0
    assert any(r["grad_norm"] > 0 for r in records)
    assert any(r["groups"]["replay"]["groups"] for r in records)
    assert len(answers(straight)) > 20


def test_a_run_of_four_attempts_is_straight(straight, heldout, tmp_path):
    """Killed in an update of step 4, then in the checkpoint of step 4; stopped by Ctrl-C in the
    rollouts of step 4, which saves step 3. (An update is one of 4 calls a step, a rollout of 2.)
    """
    folder = tmp_path / "run"
    run(folder, *heldout, fault=("kill", "update", 14), check=-signal.SIGKILL)
    again = run(folder, *heldout, "--resume", fault=("kill", "checkpoint", 1))
    assert again.returncode == -signal.SIGKILL and "step-000002" in again.stdout
    again = run(folder, *heldout, "--resume", fault=("interrupt", "rollout", 3), check=130)
    assert "ignoring" in again.stdout and ".tmp" in again.stdout
    assert "stopped after step 3, all saved" in again.stdout and "--resume" in again.stdout
    assert names(folder / "checkpoints") == ["step-000002", "step-000003"]
    assert len(lines(folder / "metrics.jsonl")) == 1 + 3
    run(folder, "--resume", *heldout, check=0)
    assert_same(straight, folder)


# update: 4 a step, so call 3 is inside step 1, before any checkpoint; checkpoint: the second one;
# memo: about 3 a step; log: 2 a step after the one before training
KILLED = [("kill", "update", 3), ("kill", "update", 9), ("kill", "checkpoint", 2)]
KILLED += [("kill", "rename", 2), ("half", "memo", 2), ("half", "memo", 8), ("half", "log", 6)]


@pytest.mark.slow
@pytest.mark.parametrize("fault", KILLED, ids=lambda fault: "-".join(map(str, fault)))
def test_killed_and_resumed_is_straight(straight, heldout, tmp_path, fault):
    what, where, nth = fault
    folder = tmp_path / "run"
    run(folder, *heldout, fault=fault, check=-signal.SIGKILL)
    if what == "half":
        file = {"memo": "teacher.jsonl", "log": "metrics.jsonl"}[where]
        assert not (folder / file).read_bytes().endswith(b"\n")
    resumed = run(folder, "--resume", *heldout, check=0)
    assert ("begins at step 1" in resumed.stdout) == (nth < 4 and where in ("update", "memo"))
    assert ("ignoring" in resumed.stdout) == (where == "checkpoint")
    assert_same(straight, folder)


@pytest.mark.slow
@pytest.mark.parametrize("where, nth, saved", [("rollout", 3, 1), ("update", 6, 2)])
def test_ctrl_c_saves_first(straight, heldout, tmp_path, where, nth, saved):
    """In step 2. Rollouts are left at once, and the step before is saved; an update under way is
    finished, and its step saved.
    """
    folder = tmp_path / "run"
    out = run(folder, *heldout, fault=("interrupt", where, nth), check=130).stdout
    assert f"stopped after step {saved}, all saved" in out and "--resume" in out
    assert "Traceback" not in out
    assert names(folder / "checkpoints")[-1] == f"step-{saved:06d}"
    assert len(lines(folder / "metrics.jsonl")) == 1 + saved
    run(folder, "--resume", *heldout, check=0)
    assert_same(straight, folder)


@pytest.mark.slow
def test_a_changed_flag_is_refused_unless_forced(straight, heldout):
    done = run(straight, "--resume", "--lr", "1e-3", *heldout)
    assert done.returncode != 0 and "--lr 0.0002 -> 0.001" in done.stderr
    assert "--force" in done.stderr
    # nothing left to do is not an error
    done = run(straight, "--resume", *heldout, check=0)
    assert "4 steps are done" in done.stdout
