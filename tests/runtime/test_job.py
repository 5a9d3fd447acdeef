"""A whole job under torchrun: three student ranks are one process's run; kill -9, signals, a dead
rank; killed and resumed it is the straight one.

    python -m pytest tests/runtime/test_job.py -m slow
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
import train
from runtime.files import read_jsonl
from teacher import verdict_of

ROOT = Path(__file__).parent.parent.parent
# --flat-share 1: one process knows its old log-probs, and would measure a share of the groups
FLAGS = """--steps 3 --save-every 1 --batch 3 --iterations 2 --n 4 --aug 0.5 --show 2 --engine hf
    --flat-share 1 --device cpu --dtype float32 --timeout 60 --micro-tokens 1024""".split()
TORCHRUN = "-m torch.distributed.run --standalone --shutdown-timeout=120".split()


class Done:
    """What a job said, and how it ended; `seconds` it took."""

    def __init__(self, ranks, script, *argv):
        # --: or torchrun takes --n for one of its own
        launch = [*TORCHRUN, f"--nproc_per_node={ranks}", "--"] if ranks > 1 else []
        command = [str(x) for x in (sys.executable, *launch, ROOT / script, *argv)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begin = time.monotonic()
        process = subprocess.Popen(command, env=env, cwd=ROOT, start_new_session=True, **pipes)
        try:
            self.out, self.err = process.communicate(timeout=280)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.status, self.seconds = process.returncode, time.monotonic() - begin
        self.all = self.out + self.err

    def errors(self):
        """The lines of our own on stderr; fails when a traceback of ours is among them."""
        ours = self.err.split("torch.distributed.elastic.multiprocessing.errors.ChildFailed")[0]
        runpy = 'Traceback (most recent call last):\n  File "<frozen runpy>"'
        assert "Traceback" not in ours.replace(runpy, ""), self.err[-4000:]
        assert self.status != 0
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """The first n held-out text questions as a file."""

    def write(n, **more):
        file = tmp_path_factory.mktemp("questions") / "q.jsonl"
        rows = [
            {"id": q.id, "question": q.question, "answer": q.answer, **more}
            for q in tiny.questions("heldout_text")[:n]
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


@pytest.fixture(scope="module")
def heldout(write):
    return write(4)


@pytest.fixture(scope="module")
def job(heldout):
    """job(student ranks, folder, *flags, fault, check): a run with a fault (tests/faults.py: what,
    where, at which call, on which rank), and the status that it has to end with.
    """

    def run(ranks, folder, *flags, fault=("never", "", 0, 0), check=None):
        # --aug would be idle without reformulations, and is refused
        fixed = " ".join(FLAGS)
        if "--no-bcq" in flags:
            fixed = fixed.replace("--aug 0.5", "")
        fixed = "--out", folder, "--heldout", heldout, *fixed.split()
        done = Done(ranks, "tests/faults.py", *fault, *fixed, *flags)
        assert check is None or done.status == check, done.all[-5000:]
        return done

    return run


@pytest.fixture(scope="module")
def straight(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    job(3, folder, check=0)
    return folder


def records(folder):
    """metrics.jsonl without what a clock or the machine decides."""
    clocks = ("seconds", "core_seconds", "peak_gb", "teacher_waited")
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in clocks} for r in rows]


def flat(value, where=""):
    """(path, leaf) of nested dicts and lists."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [x for k, v in pairs for x in flat(v, f"{where}/{k}")]
    return [(where, value)]


# What is drawn: a resumed run finds in the memo what the killed one had drawn.
DRAWN = re.compile("/tokens/teacher$|/judged/asked$")


def assert_same_records(a, b, resumed=False):
    """Counts, rewards and buffer exactly, other numbers to 1e-4."""
    for (where, x), (other, y) in zip(flat(records(a)), flat(records(b)), strict=True):
        assert where == other
        if isinstance(x, float) and not x.is_integer():
            assert y == pytest.approx(x, rel=1e-4, abs=1e-5), where
        elif not (resumed and DRAWN.search(where)):
            assert x == y, where


def assert_same(a, b, resumed=True):
    """The same records, and the same state at the end."""
    assert_same_records(a, b, resumed)
    states = [json.loads((f / "checkpoints/step-000003/state.json").read_text()) for f in (a, b)]
    for key in ("buffer", "rng", "position", "heldout", "step", "teacher"):
        assert states[0][key] == states[1][key], key
    assert (b / "final/model.safetensors").is_file()


@pytest.mark.slow
def test_three_ranks_are_one(heldout, straight, tmp_path):
    """Three processes and this one."""
    argv = "--out", tmp_path / "run", "--heldout", heldout, *FLAGS
    assert train.main([str(x) for x in argv]) == 0
    assert_same(straight, tmp_path / "run", resumed=False)
    rows = records(straight)[1:]
    assert len(rows) == 3 and all(r["grad_norm"] > 0 for r in rows)
    assert sum(r["groups"]["bcq"]["groups"] for r in rows) > 0
    assert any(r["groups"]["replay"]["groups"] for r in rows)
    assert sum(r["tokens"]["teacher"] for r in rows) > 0
    assert not list((straight / "checkpoints").glob("*.tmp"))


# 2 updates a step, so call 4 is inside step 2; the second checkpoint; about 3 writes of the memo a
# step, so the second is in step 1, before any checkpoint
KILLED = [("kill", "update", 4, 0), ("kill", "checkpoint", 2, 0)]
KILLED += [("half", "memo", 2, 0), ("half", "memo", 6, 0)]


def name_of(fault):
    return "-".join(map(str, fault))


@pytest.mark.slow
@pytest.mark.parametrize("fault", KILLED, ids=name_of)
def test_killed_and_resumed_is_straight(job, straight, tmp_path, fault):
    job(3, tmp_path / "run", fault=fault, check=-signal.SIGKILL)
    time.sleep(1)  # what was orphaned notices it
    torn = not (tmp_path / "run/teacher.jsonl").read_bytes().endswith(b"\n")
    assert torn == ("memo" in fault)
    resumed = job(3, tmp_path / "run", "--resume", check=0)
    assert ("ignoring" in resumed.all) == ("checkpoint" in fault)
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(3, 1), (1, 3)])
def test_resumed_on_another_number_of_ranks(job, straight, tmp_path, before, after):
    fault = ("kill", "update", 5, 0)  # in step 3
    job(before, tmp_path / "run", fault=fault, check=-signal.SIGKILL)
    time.sleep(1)
    resumed = job(after, tmp_path / "run", "--resume", check=0)
    assert "resumes" in resumed.out
    assert_same(straight, tmp_path / "run")


# rollout() is called twice a step
@pytest.mark.slow
@pytest.mark.parametrize("where, nth, saved", [("update", 3, 2), ("rollout", 3, 1)])
def test_sigterm_to_torchrun_saves_and_can_be_resumed(job, straight, tmp_path, where, nth, saved):
    """In an update, which is finished first; in the rollouts of step 2, which are left."""
    done = job(3, tmp_path / "run", "--save-every", 0, fault=("term", where, nth, 0))
    assert f"stopped after step {saved}, all saved" in done.out, done.all[-4000:]
    assert "STATUS 143" in done.out
    # torchrun's own way to end by a signal
    assert done.status == 1 and "SignalException" in done.err
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [f"step-{saved:06d}"]
    job(3, tmp_path / "run", "--resume", check=0)
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
def test_a_second_signal_to_a_worker_ends_it_at_once(job, tmp_path):
    done = job(3, tmp_path / "run", fault=("twice", "update", 1, 0))
    assert "stopped at once; the last checkpoint is untouched" in done.err and done.status != 0
    assert "STATUS" not in done.out  # os._exit, in the middle of the update


@pytest.mark.slow
def test_a_dead_rank_ends_the_others_with_the_phase(job, tmp_path):
    done = job(3, tmp_path / "run", fault=("die", "grading", 5, 1))
    assert done.status != 0
    assert re.search(r"rank [02] of 3, phase '\w*rollout', .*another rank died", done.all), done.all
    assert done.seconds < 60 + 60


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_with_one_line(job, straight, tmp_path):
    """In the rollouts of step 2 (a rank grades 2 plain prompts a step, and 1 of those that help):
    step 1 is saved, and the run goes on from there.
    """
    done = job(3, tmp_path / "run", "--save-every", 0, fault=("broken", "grading", 5, 1), check=1)
    assert done.errors() == ["error: question x: its picture does not open"], done.all[-4000:]
    folder = tmp_path / "run/checkpoints/step-000001"
    assert f"the 1 finished steps are in {folder}; go on with --resume" in done.err
    assert "STATUS 1\n" in done.out and done.seconds < 60
    job(3, tmp_path / "run", "--resume", check=0)
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
def test_free_form_questions_go_to_the_judge(job, write, tmp_path):
    """The tiny teacher writes no verdict: malformed is wrong, so the run is the one of exact
    matching, on any number of ranks.
    """
    runs = {"free3": (3, True), "free1": (1, True), "exact1": (1, False)}
    for name, (ranks, free) in runs.items():
        data = "--data", write(12, free_form=free)
        flags = "--steps 1 --no-bcq --no-ncq --teacher tiny".split()
        job(ranks, tmp_path / name, *data, *flags, check=0)
    assert_same_records(tmp_path / "free3", tmp_path / "free1")
    free, exact = (records(tmp_path / name)[1] for name in ("free1", "exact1"))
    new = free["groups"]["new"]
    assert free["groups"] == exact["groups"] and 0 < new["correct"] < new["samples"]
    # the judge was asked, and nobody for anything else
    assert free["tokens"]["teacher"] > 0 == exact["tokens"]["teacher"]
    wrong = new["samples"] - new["correct"]
    assert free["judged"]["malformed"] == wrong > free["judged"]["asked"]
    said = [r["text"] for x in read_jsonl(tmp_path / "free1/teacher.jsonl") for r in x["records"]]
    assert said and all(verdict_of(text) is None for text in said)


# ---- what can't start ----------------------------------------------------------------------------

FAILS = [
    (1, "--teacher-ranks 1", "--teacher-ranks 1,no student rank,--teacher-ranks 0"),
    (2, "--teacher-ranks 1", "a teacher rank serves with vLLM,--engine hf,give 0"),
    (2, "--teacher ./no-such-teacher", "./no-such-teacher: no such model folder"),
]


@pytest.mark.slow
@pytest.mark.parametrize("ranks, flags, words", FAILS)
def test_start_up_errors_are_one_line(tmp_path, ranks, flags, words):
    """More of them in test_cli.py, without processes."""
    fixed = "--device cpu --engine hf --timeout 30 --out".split()
    done = Done(ranks, "train.py", *flags.split(), *fixed, tmp_path / "run")
    [line] = done.errors()
    assert all(word in line for word in words.split(",")), done.all[-4000:]
    assert not (tmp_path / "run").exists()
