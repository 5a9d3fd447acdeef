"""A speedrun: core-seconds of training until the shipped tiny student answers 65 % of the held-out
image questions; the median of three seeds.

    python -m bench speedrun
    python -m bench speedrun --seeds 3 4 5 -- --lr 3e-4        # with flags of train.py
    python -m bench speedrun --command "-m forks.zvp"          # another program with the same flags

What counts: processor time of the rank (all its threads) in the steps, as metrics.jsonl has it,
the teacher's in the same process included; not loading, not the evaluations, not the figures. What
is fixed: the shipped student, teacher and questions, greedy evaluation by eval.py every third step.
What is free: everything else. Runs are stopped once they are there, one after the other; one that
ends below the target counts as infinite.
"""

import argparse
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tqdm import tqdm

from compare.table import markdown_table

HERE = Path(__file__).parent.parent
EVERY = 3  # steps between evaluations


def reached(lines, target):
    """(step, core-seconds) of the first evaluation at or above `target` percent of the held-out
    image questions, and the best percentage so far; lines: records of metrics.jsonl in order.
    """
    spent, best = 0.0, 0.0
    for line in lines:
        spent += line.get("core_seconds", 0.0)
        right, n = line.get("heldout", {}).get("heldout", {}).get("all", (0, 0))
        best = max(best, 100 * right / n if n else 0.0)
        if best >= target:
            return (line["step"], spent), best
    return None, best


def read(run):
    """The whole lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    text = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in text]


def attempt(command, seed, target, flags, folder):
    """(step, core-seconds), or None when the run ended below the target; and its best percentage.
    Raises ValueError when it fails.
    """
    run, log = folder / f"seed{seed}", folder / f"seed{seed}.log"
    fixed = ["--student", "tiny", "--device", "cpu", "--seed", str(seed), "--save-every", "0"]
    fixed += ["--eval-every", str(EVERY), "--show", "0", "--out", str(run)]
    argv = [sys.executable, *command, *fixed, *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as out:
        child = subprocess.Popen(argv, cwd=HERE, env=env, stdout=out, stderr=out)
        try:
            with tqdm(unit="step", desc=f"seed {seed}") as bar:
                found, best = None, 0.0
                while not found and child.poll() is None:
                    time.sleep(0.2)
                    lines = read(run)
                    found, best = reached(lines, target)
                    bar.n = lines[-1]["step"] if lines else 0
                    bar.set_postfix_str(f"{best:.1f} % at best")
        finally:
            stopped = child.poll() is None
            if stopped:
                child.send_signal(signal.SIGTERM)
            child.wait()
    if not stopped and child.returncode:
        said = log.read_text(errors="replace").strip().splitlines() or ["without a word"]
        raise ValueError(f"the run of seed {seed} failed: {said[-1]}")
    return reached(read(run), target)


def processor():
    """What this machine's cores are called."""
    path = Path("/proc/cpuinfo")
    names = path.read_text().splitlines() if path.is_file() else []
    model = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return model[0] if model else platform.processor() or platform.machine()


def commit():
    """The commit that runs, marked when files differ from it."""
    argv = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(argv, cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip() or "no commit"


def main(argv=None):
    """Run it and print the table. Returns the exit status: 1 when the median did not get there."""
    p = argparse.ArgumentParser(
        prog="python -m bench speedrun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--target", type=float, default=65.0, help="percent; the rule: 65")
    p.add_argument("--command", default="train.py", help="what python runs; default: train.py")
    p.add_argument("train", nargs="*", metavar="-- FLAG", help="more flags of train.py")
    args = p.parse_args(argv)
    rows, spent = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            command = shlex.split(args.command)
            found, best = attempt(command, seed, args.target, args.train, Path(folder))
            spent.append(found[1] if found else math.inf)
            rows.append([seed, found[0] if found else "-", f"{spent[-1]:.1f}", f"{best:.1f}"])
    print(markdown_table(["seed", "step", "core-seconds", "held-out images, %"], rows))
    print(
        f"\nmedian {median(spent):.1f} core-seconds to {args.target:g} %; {args.command} "
        f"{shlex.join(args.train)} at {commit()}, {processor()}"
    )
    return 0 if math.isfinite(median(spent)) else 1
