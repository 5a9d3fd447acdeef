"""A whole job under torchrun: student ranks and a teacher rank are one process's run; killed and
resumed it is the straight one.

python -m pytest tests/test_job.py             # 2 student ranks and 1 teacher rank against one
process python -m pytest tests/test_job.py -m slow     # kill -9, SIGTERM, dead rank, other numbers
of ranks, judge, start-up
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
from evaluation.judge import parse

ROOT = Path(__file__).parent.parent.parent
FLAGS = [
    "--steps",
    "3",
    "--save-every",
    "1",
    "--batch",
    "3",
    "--iterations",
    "2",
    "--n",
    "4",
    "--aug",
    "0.5",
    "--show",
    "2",
    "--engine",
    "hf",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--timeout",
    "60",
    "--micro-tokens",
    "1024",
]

# Runs train.main; at the nth call of a function on student rank 0 it does something to the whole
# job.
SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
spot, nth, calls = sys.argv[2], int(sys.argv[3]), [0]
rank = int(os.environ.get("RANK", 0))
import checkpoint, judge, run, teacher, torch, train
judge.MAX_TOKENS = 40                    # the judge's prompt and 512 tokens do not fit the tiny teacher's context
def children(pid):
    return [int(c) for c in open(f"/proc/{pid}/task/{pid}/children").read().split()]
def kill_all():
    agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0           # alone, the parent is pytest
    for pid in [agent, *[p for p in children(agent) if p != os.getpid()]] if agent else []:
        os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
def arm(owner, name, act, only=0):
    real = getattr(owner, name)
    def wrapped(*a, **k):
        calls[0] += 1
        if calls[0] == nth and rank == only:
            act(*a, **k)
        return real(*a, **k)
    setattr(owner, name, wrapped)
def half_put(self, records):
    lines = b"".join(teacher.json.dumps({"key": f"{self.teacher}/{k}", **r}).encode() + b"\\n" for k, r in list(records))
    self.file.write(lines[:len(lines) - 9]); self.file.flush(); kill_all()
def term_agent(*a, **k):
    print(f"WORKER {os.getpid()}", flush=True)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1.5)
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
def stuck(*a, **k):
    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT)
{"update": lambda: arm(torch.optim.AdamW, "step", lambda *a, **k: kill_all()),
 "checkpoint": lambda: arm(checkpoint, "_flush", lambda *a, **k: kill_all()),
 "teacher": lambda: arm(teacher.Cache, "put", half_put),
 "term-update": lambda: arm(torch.optim.AdamW, "step", term_agent),
 "term-rollout": lambda: arm(run.Run, "graded", term_agent),
 "twice": lambda: arm(torch.optim.AdamW, "step", stuck),
 "dead": lambda: arm(run.Run, "graded", die, only=1),
 "never": lambda: None}[spot]()
def main():
    try:
        return train.main(sys.argv[4:])
    except (ValueError, OSError) as e:
        return f"error: {e}"
status = main()
if rank == 0: print("STATUS", status, flush=True)
sys.exit(status)
"""


def start(ranks, script, *argv):
    launch = (
        [sys.executable]
        if ranks == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--shutdown-timeout=120",
            f"--nproc_per_node={ranks}",
            "--",
        ]
    )  # or torchrun takes --n for one of its own
    return subprocess.Popen(
        [*launch, *map(str, script), *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


class Done:
    """What a job said, and how it ended; `seconds` it took."""

    def __init__(self, process):
        begin = time.monotonic()
        try:
            self.out, self.err = process.communicate(timeout=280)
        finally:
            process.poll() is None and os.killpg(process.pid, signal.SIGKILL)
        self.status, self.seconds = process.returncode, time.monotonic() - begin
        self.all = self.out + self.err


@pytest.fixture(scope="session")
def wrapper(tmp_path_factory):
    file = tmp_path_factory.mktemp("job") / "wrapper.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture(scope="module")
def heldout(tmp_path_factory):
    file = tmp_path_factory.mktemp("heldout") / "q.jsonl"
    file.write_text(
        "".join(
            json.dumps({"id": q.id, "question": q.question, "answer": q.answer}) + "\n"
            for q in tiny.questions("heldout_text")[:4]
        )
    )
    return file


@pytest.fixture(scope="module")
def job(wrapper, heldout):
    """job(processes, folder, *flags, spot, nth, check): a run of that many processes, one of them
    the teacher when there are several.
    """

    def run(ranks, folder, *flags, spot="never", nth=0, check=None):
        done = Done(
            start(
                ranks,
                [wrapper, ROOT, spot, nth],
                "--out",
                folder,
                "--heldout",
                heldout,
                *FLAGS,
                "--teacher-ranks",
                int(ranks > 1),
                *flags,
            )
        )
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
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "peak_gb", "teacher_waited")}
        for r in rows
    ]


def flat(value, where=""):
    """(path, leaf) of nested dicts and lists."""
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in flat(v, f"{where}/{k}")]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in flat(v, f"{where}/{i}")]
    return [(where, value)]


# What a step asks ahead of what it needs: the teacher's tokens, and what it is asked about anew.
AHEAD = re.compile("/tokens/teacher$|/judged/asked$")


def assert_same_records(a, b):
    """Counts, rewards and buffer exactly, other numbers to 1e-4."""
    for (where, x), (other, y) in zip(flat(records(a)), flat(records(b)), strict=True):
        assert where == other
        if isinstance(x, float) and not x.is_integer():
            assert y == pytest.approx(x, rel=1e-4, abs=1e-5), where
        elif not AHEAD.search(where):
            assert x == y, where


def assert_same(a, b):
    """The same records, and the same state at the end."""
    assert_same_records(a, b)
    states = [json.loads((f / "checkpoints/step-000003/state.json").read_text()) for f in (a, b)]
    for key in ("buffer", "rng", "position", "heldout", "step"):
        assert states[0][key] == states[1][key], key
    assert (b / "final/model.safetensors").is_file()


def test_three_processes_are_one(job, straight, tmp_path):
    """2 student ranks and 1 teacher rank that works ahead, against everything in one process."""
    job(1, tmp_path / "run", check=0)
    assert_same(straight, tmp_path / "run")
    rows = records(straight)[1:]
    assert (
        len(rows) == 3
        and sum(r["groups"]["bcq"]["groups"] for r in rows) > 0
        and all(r["grad_norm"] > 0 for r in rows)
    )
    assert (
        any(r["groups"]["replay"]["groups"] for r in rows)
        and sum(r["tokens"]["teacher"] for r in rows) > 0
    )
    assert not list((straight / "checkpoints").glob("*.tmp"))


# 2 updates a step, so call 4 is inside step 2; the second checkpoint; a put in step 1, before any
# checkpoint, and a later one
@pytest.mark.slow
@pytest.mark.parametrize(
    "spot, nth", [("update", 4), ("checkpoint", 2), ("teacher", 2), ("teacher", 9)]
)
def test_killed_and_resumed_is_straight(job, straight, tmp_path, spot, nth):
    killed = job(3, tmp_path / "run", spot=spot, nth=nth)
    assert killed.status == -signal.SIGKILL, killed.all[-3000:]
    time.sleep(1)  # what was orphaned notices it
    resumed = job(3, tmp_path / "run", "--resume", check=0)
    if spot == "checkpoint":
        assert "ignoring" in resumed.all
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(3, 1), (1, 3)])
def test_resumed_on_another_number_of_ranks(job, straight, tmp_path, before, after):
    job(before, tmp_path / "run", spot="update", nth=5, check=-signal.SIGKILL)  # in step 3
    time.sleep(1)
    resumed = job(after, tmp_path / "run", "--resume", check=0)
    assert "resumes" in resumed.out
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("spot, nth, saved", [("term-update", 3, 2), ("term-rollout", 10, 1)])
def test_sigterm_to_torchrun_saves_and_can_be_resumed(job, straight, tmp_path, spot, nth, saved):
    """In an update, which is finished first; in the rollouts of step 2, which are left. (6 plain
    prompts a step, 3 a rank.)
    """
    done = job(3, tmp_path / "run", "--save-every", 0, spot=spot, nth=nth)
    assert f"stopped after step {saved}, all saved" in done.out and "STATUS 143" in done.out, (
        done.all[-4000:]
    )
    assert (
        done.status == 1 and "SignalException" in done.err
    )  # torchrun's own way to end by a signal
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [f"step-{saved:06d}"]
    job(3, tmp_path / "run", "--resume", check=0)
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
def test_a_second_signal_to_a_worker_ends_it_at_once(job, tmp_path):
    done = job(3, tmp_path / "run", spot="twice", nth=1)
    assert "stopped at once; the last checkpoint is untouched" in done.err and done.status != 0
    assert "STATUS" not in done.out  # os._exit, in the middle of the update


@pytest.mark.slow
def test_a_dead_rank_ends_the_others_with_the_phase(job, tmp_path):
    done = job(3, tmp_path / "run", spot="dead", nth=5)
    assert done.status != 0
    assert re.search(r"rank 0 of 2, phase '\w+', .*another rank died", done.all), done.all[-4000:]
    assert done.seconds < 60 + 60


@pytest.mark.slow
def test_free_form_questions_go_to_the_judge(job, tmp_path):
    """The tiny teacher writes no verdict: malformed is wrong, so the run is the one of exact
    matching, on any number of ranks.
    """
    for name, free in (("free", True), ("exact", False)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(
                json.dumps(
                    {"id": q.id, "question": q.question, "answer": q.answer, "free_form": free}
                )
                + "\n"
                for q in tiny.questions("heldout_text")[:12]
            )
        )
    for ranks, name in ((3, "free"), (1, "free"), (1, "exact")):
        job(
            ranks,
            tmp_path / f"{name}{ranks}",
            "--data",
            tmp_path / f"{name}.jsonl",
            "--steps",
            1,
            "--no-bcq",
            "--no-ncq",
            "--teacher",
            "tiny",
            check=0,
        )
    assert_same_records(tmp_path / "free3", tmp_path / "free1")
    free, exact = (records(tmp_path / name)[1] for name in ("free1", "exact1"))
    assert (
        free["groups"] == exact["groups"]
        and 0 < free["groups"]["new"]["correct"] < free["groups"]["new"]["samples"]
    )
    assert (
        free["tokens"]["teacher"] > 0 == exact["tokens"]["teacher"]
    )  # the judge was asked, and nobody for anything else
    assert (
        free["judged"]["malformed"]
        == free["groups"]["new"]["samples"] - free["groups"]["new"]["correct"]
        > free["judged"]["asked"]
    )
    said = [
        json.loads(line)["text"]
        for line in (tmp_path / "free1/teacher.jsonl").read_text().splitlines()
    ]
    assert said and all(parse("shared", text) is None for text in said)


# ---- what can't start ----------------------------------------------------------------------------


def errors(done):
    """The lines of our own on stderr; fails when one of our tracebacks is among them."""
    ours = done.err.split("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")[0]
    assert "Traceback" not in ours.replace(
        'Traceback (most recent call last):\n  File "<frozen runpy>"', ""
    ), done.err[-4000:]
    assert done.status != 0
    return [line for line in done.err.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, flags, words",
    [
        (
            1,
            ["--teacher-ranks", "1"],
            ["--teacher-ranks 1", "no student rank", "--teacher-ranks 0"],
        ),
        (
            2,
            ["--teacher", "./no-such-teacher", "--teacher-ranks", "1"],
            ["./no-such-teacher: no such model folder"],
        ),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, list) else str(x),
)
def test_start_up_errors_are_one_line(tmp_path, ranks, flags, words):
    """More of them in tests/test_cli.py, without processes."""
    done = Done(
        start(
            ranks,
            [ROOT / "train.py"],
            "--out",
            tmp_path / "run",
            "--device",
            "cpu",
            "--engine",
            "hf",
            "--timeout",
            30,
            *flags,
        )
    )
    lines = errors(done)
    assert len(lines) == 1 and all(w in lines[0] for w in words), done.all[-4000:]
    assert not (tmp_path / "run").exists()
