"""train.py, in which the nth call of a function meets a fault: on one rank, or for the whole job.

python tests/faults.py kill update 4 0 --steps 3 --out some/folder
torchrun --nproc_per_node=3 tests/faults.py die grading 5 1 --steps 3 --out some/folder
"""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import distributed  # noqa: E402
import rollout  # noqa: E402
import teacher  # noqa: E402
from runtime import checkpoint, memo, metrics  # noqa: E402

RANK = int(os.environ.get("RANK", 0))
UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ

WHERE = {
    "update": (torch.optim.AdamW, "step"),
    "checkpoint": (checkpoint, "_flush"),
    "rename": (checkpoint, "_flush_dir"),
    "memo": (memo, "append_jsonl"),
    "log": (metrics, "append_jsonl"),
    "rollout": (rollout, "rollout"),
    "grading": (rollout, "check_length"),
}


def kill(*args, **kwargs):
    """-9 to torchrun's agent and all its workers; alone, to this process."""
    agent, own = os.getppid(), os.getpid()
    if UNDER_TORCHRUN:
        workers = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        for pid in [agent, *(int(w) for w in workers if int(w) != own)]:
            os.kill(pid, signal.SIGKILL)
    os.kill(own, signal.SIGKILL)


def half(path, records):
    """Half of what append_jsonl would write, then kill."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    with open(path, "a") as file:
        file.write(lines[: len(lines) - 9])
    kill()


def die(*args, **kwargs):
    """-9 to this process only."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(*args, **kwargs):
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def term(*args, **kwargs):
    """SIGTERM to torchrun, which passes it on to its workers."""
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1.5)


def twice(*args, **kwargs):
    """Two signals to this process."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)


def broken(*args, **kwargs):
    """An error of the kind that users see."""
    raise ValueError("question x: its picture does not open")


def arm(what, where, nth, rank):
    """At the nth call of a WHERE, and if this is that rank, do it."""
    owner, name = WHERE[where]
    real, calls = getattr(owner, name), 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += name != "append_jsonl" or bool(args[1])  # of writes, those that write something
        if calls == nth and rank == RANK:
            what(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def tell(status, leave=distributed.exit_process):
    """The status that rank 0 ends with, which torchrun keeps to itself."""
    if RANK == 0:
        print("STATUS", status, flush=True)
    leave(status)


if __name__ == "__main__":
    what, where, nth, rank = sys.argv[1:5]
    if what != "never":
        arm(globals()[what], where, int(nth), int(rank))
    distributed.exit_process = tell
    # the judge's prompt and its usual number of tokens do not fit the tiny teacher's context
    teacher.JUDGE_TOKENS = 40
    sys.argv = [str(ROOT / "train.py"), *sys.argv[5:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
