"""Comparison of methods on the tiny world: methods x seeds, one table, figures.

    # zppo, GRPO with and without buffer, seeds 0 1 2
    python compare.py
    python compare.py --methods all                     # the ten methods
    # updates per step and normalization (Fig. 6)
    python compare.py --methods recipe --seeds 0 1 2
    python compare.py --report runs/compare             # only the table and the figures again
    python compare.py --equal-tokens --report runs/compare

Each run is a child process, `python train.py --student tiny ... --out OUT/METHOD-seedS`. The same
command goes on where it was stopped: finished runs are kept, unfinished ones continue from their
checkpoint. A run that fails costs only itself. The results are read from the metrics.jsonl of the
runs alone: table.md, table.csv and figures/ in OUT (compare_table.py says what they show,
compare_plot.py draws).

All methods get the same number of rollout steps, each with the same number of new prompts. What
BCQ, NCQ, hints and prefixes add to a step is in the table as tokens; --equal-tokens cuts every run
where the cheapest one of its seed ended. Left out: sharing a teacher cache between runs (it has one
writer), and any method's own tuning: all share one learning rate.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from compare.study import plot as compare_plot
from compare.study import table as compare_table
from config import comparable, flags
from runtime.console import StopSignal, restored_signals

# name: (the paper's label, † = with the replay buffer; flags of train.py)
ARMS = {
    "grpo": ("GRPO", "--method grpo --no-buffer"),
    "grpo+buffer": ("GRPO†", "--method grpo"),
    "bcq+ncq": ("GRPO + BCQ + NCQ", "--method zppo --no-buffer"),
    "grpo+buffer+bcq": ("GRPO† + BCQ", "--method zppo --no-ncq"),
    "grpo+buffer+ncq": ("GRPO† + NCQ", "--method zppo --no-bcq"),
    "zppo": ("ZPPO", "--method zppo"),
    "off-distill": ("Off-Distill", "--method off-distill --no-buffer"),
    "off-distill+buffer": ("Off-Distill†", "--method off-distill"),
    "on-distill": ("On-Distill", "--method on-distill --no-buffer"),
    "on-distill+buffer": ("On-Distill†", "--method on-distill"),
    "hint": ("GRPO† + Hint", "--method hint"),
    "prefix": ("GRPO† + Prefix", "--method prefix"),
    # recipe (Fig. 6): the same 32 new prompts a rollout step, in more or fewer updates; another
    # scale of the advantages
    "i1": ("ZPPO, I = 1", "--method zppo --iterations 1 --batch 32"),
    "i8": ("ZPPO, I = 8", "--method zppo --iterations 8 --batch 4"),
    "i16": ("ZPPO, I = 16", "--method zppo --iterations 16 --batch 2"),
    "norm-all": ("ZPPO, norm with zero", "--method zppo --norm all"),
    "norm-none": ("ZPPO, no norm", "--method zppo --norm none"),
}
RECIPE = ["i1", "i8", "i16", "norm-all", "norm-none"]
TEN = [name for name in ARMS if name not in (*RECIPE, "off-distill", "on-distill")]

HERE = Path(__file__).parent.parent
TRAIN = HERE / "train.py"
BASIC = [
    "--student",
    "tiny",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--show",
    "0",
]  # the same numbers on every machine
NOT_RUN = {
    "console",
    "plot",
    "report",
}  # imported by train.py, but they only print and draw: changing them keeps the runs


# ---- what is to run, and what is there already ---------------------------------------------------


def plan(out, methods, seeds, steps, extra=()):
    """{run name: flags of train.py}, seed by seed, so that a stopped comparison has whole seeds."""
    return {
        f"{m}-seed{s}": [
            *BASIC,
            *ARMS[m][1].split(),
            "--seed",
            str(s),
            *(["--steps", str(steps)] if steps else []),
            "--eval-every",
            "10",
            *extra,
            "--out",
            str(out / f"{m}-seed{s}"),
        ]
        for s in seeds
        for m in methods
    }


def last_step(folder):
    """The last step in a run's metrics.jsonl, 0 without one. The file may be in the middle of being
    written.
    """
    path = Path(folder) / "metrics.jsonl"
    lines = (
        path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    )  # what follows the last newline is not whole
    return json.loads(lines[-1])["step"] if lines else 0


def finished(folder, steps):
    """Whether a run has its final model and all its steps."""
    return (Path(folder) / "final").is_dir() and last_step(folder) >= steps


def sources(name="train"):
    """The project's files that train.py is made of, by following its imports, without those that
    only print and draw.
    """
    found, todo = set(), [name]
    while todo:
        path = HERE / f"{todo.pop()}.py"
        if path.is_file() and path not in found and path.stem not in NOT_RUN:
            found.add(path)
            todo += re.findall(
                r"^\s*(?:from|import) +(\w+)", path.read_text(encoding="utf-8"), re.M
            )
    return sorted(found)


def code():
    """{"code": a digest of what decides a run (the sources, the two tiny models), "commit": for
    people; "" outside of git}.
    """
    digest = hashlib.sha256()
    for path in [*sources(), *sorted((HERE / "assets").glob("*/*.safetensors"))]:
        digest.update(path.read_bytes())
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=HERE,
        capture_output=True,
        text=True,
    )
    return {"code": digest.hexdigest()[:16], "commit": git.stdout.strip()}


def check_same(out, runs, now, mix):
    """Raise ValueError when a run in `out` was made by other code or with other flags than it would
    be today, unless `mix`.
    """
    started = read_started(out)["runs"]
    wrong = []
    for name, argv in runs.items():
        cfg = comparable(flags(argv))  # raises for flags that train.py does not take
        config = out / name / "config.json"
        if not config.is_file():
            continue
        was, by = json.loads(config.read_text(encoding="utf-8")), started.get(name, {})
        changed = [
            f"--{k.replace('_', '-')} {was.get(k)} -> {v}"
            for k, v in cfg.items()
            if was.get(k) != v
        ]
        if by.get("code") != now["code"]:
            changed.append(
                f"code {by.get('code', 'unknown')} {by.get('commit', '')} -> {now['code']} {now['commit']}"
            )
        if changed:
            wrong.append(f"{name} ({'; '.join(changed)})")
    if wrong and not mix:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{out} holds runs made differently from what they would be now: {', '.join(wrong[:3])}{more}. "
            f"Give another --out, or --mix to put them into one table all the same"
        )


def read_started(out):
    """compare.json: {"steps", "runs": {name: code() when it was started}}."""
    path = out / "compare.json"
    return (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"steps": 0, "runs": {}}
    )


def write_started(out, started):
    tmp = out / "compare.json.tmp"
    tmp.write_text(json.dumps(started, indent=1), encoding="utf-8")
    tmp.replace(out / "compare.json")


# ---- running -------------------------------------------------------------------------------------


def start(out, name, argv):
    """Start or continue one run; returns its process. Raises BlockingIOError when another process
    is at it.

    A session of its own: Ctrl-C in the terminal reaches us, and we pass it on once. The lock on its
    log is inherited by the child, so it holds as long as that lives, even if this process is
    killed.
    """
    log = open(out / f"{name}.log", "ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        resume = ["--resume"] if (out / name / "config.json").is_file() else []
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *argv, *resume],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=HERE,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
    finally:
        log.close()


def why(out, name, status):
    """One line about a failed run: how it ended, and the last thing it said."""
    said = (
        re.split(rb"[\r\n]+", (out / f"{name}.log").read_bytes().strip())[-1]
        .decode(errors="replace")
        .strip()
    )
    how = f"killed by signal {-status}" if status < 0 else f"status {status}"
    return f"{name} failed ({how}): {said or 'without a word'} (all of it: {out / name}.log)"


def run_all(out, runs, steps, jobs):
    """Run what is not finished, `jobs` at a time. Returns (lines about failed runs, the signal that
    stopped us or 0).
    """
    waiting, running, failed = [n for n in runs if not finished(out / n, steps)], {}, []
    started, now, told, shown = read_started(out) | {"steps": steps}, code(), False, None
    write_started(out, started)
    with restored_signals():
        stop = StopSignal()
        bar = tqdm(total=steps * len(runs), unit="step", dynamic_ncols=True)
        bar.initial = bar.n = sum(
            min(steps, last_step(out / n)) for n in runs
        )  # so that the rate is that of today
        try:
            while running or (waiting and not stop.signal):
                while waiting and len(running) < jobs and not stop.signal:
                    name = waiting.pop(0)
                    if not (out / name / "config.json").is_file():
                        started["runs"][name] = now
                        write_started(out, started)
                    try:
                        running[name] = start(out, name, runs[name])
                    except BlockingIOError:
                        failed.append(f"{name}: another process is running it")
                        tqdm.write(failed[-1], file=sys.stderr)
                if stop.signal and not told:
                    told = True
                    for child in running.values():
                        child.send_signal(signal.SIGINT)
                time.sleep(0.3)
                for name in [n for n, child in running.items() if child.poll() is not None]:
                    status = running.pop(name).returncode
                    if not stop.signal and not (status == 0 and finished(out / name, steps)):
                        failed.append(why(out, name, status))
                        tqdm.write(failed[-1], file=sys.stderr)
                seen, bar.n = bar.n, sum(min(steps, last_step(out / n)) for n in runs)
                text = ", ".join(f"{n} {last_step(out / n)}" for n in running)
                if (bar.n, text) != (seen, shown):  # a log file must not get three lines a second
                    shown = text
                    bar.set_postfix_str(text)
        finally:
            for child in running.values():  # only after an error of ours: they save and end
                child.send_signal(signal.SIGINT)
            bar.close()
    return failed, stop.signal


# ---- command line --------------------------------------------------------------------------------


def report(out, steps, equal_tokens=False):
    """Write table and figures of the finished runs in `out`; print the table and where everything
    is.
    """
    arms, left_out = compare_table.read(
        out, steps, {name: label for name, (label, _) in ARMS.items()}
    )
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not arms:
        raise ValueError(f"{out}: no finished run to report on")
    started = read_started(out)["runs"]
    made = sorted(
        {
            by["commit"] or by["code"]
            for name, by in started.items()
            if any(name == f"{a.name}-seed{s}" for a in arms for s in a.runs)
        }
    )
    stem = "table-equal-tokens" if equal_tokens else "table"
    if equal_tokens:
        arms = compare_table.equal_tokens(arms)
    text = compare_table.markdown(arms, equal_tokens, made)
    (out / f"{stem}.md").write_text(text, encoding="utf-8")
    (out / f"{stem}.csv").write_text(compare_table.as_csv(arms), encoding="utf-8")
    print(compare_table.main_table(arms))
    written = compare_plot.draw(arms, out / "figures", equal_tokens)
    print(
        "\n".join(
            [
                f"table     {out / stem}.md",
                f"          {out / stem}.csv",
                *(f"figure    {p}" for p in written),
            ]
        )
    )


def arguments(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--methods",
        nargs="+",
        default=["zppo", "grpo+buffer", "grpo"],
        choices=[*ARMS, "all", "recipe"],
        metavar="METHOD",
        help=f"of {', '.join(ARMS)}; all: {', '.join(TEN)}; recipe: zppo, {', '.join(RECIPE)}; "
        f"default: zppo grpo+buffer grpo",
    )
    p.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED", help="default: 0 1 2"
    )
    p.add_argument(
        "--steps", type=int, default=0, help="rollout steps of every run; default: train.py's 45"
    )
    p.add_argument(
        "--jobs",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="runs at once, one thread each; default: one a core, at most 8",
    )
    p.add_argument(
        "--out",
        default="runs/compare",
        help="folder of the runs and results; default: runs/compare",
    )
    p.add_argument(
        "--equal-tokens",
        action="store_true",
        help="a second table: all runs of a seed cut at the tokens sampled by the student in the cheapest of them",
    )
    p.add_argument(
        "--report", metavar="OUT", help="run nothing: table and figures of what is in OUT"
    )
    p.add_argument(
        "--mix",
        action="store_true",
        help="accept finished runs that were made by other code or with other flags",
    )
    p.add_argument(
        "train", nargs="*", metavar="-- FLAG", help="more flags of train.py, the same for every run"
    )
    args = p.parse_args(argv)
    args.methods = list(
        dict.fromkeys(
            m
            for name in args.methods
            for m in (TEN if name == "all" else ["zppo", *RECIPE] if name == "recipe" else [name])
        )
    )
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.jobs < 1 or min(args.seeds) < 0 or args.steps < 0:
        raise ValueError("--jobs must be at least 1, --seeds and --steps not negative")
    return args


def main(argv=None):
    """Returns the exit status: 0, 1 when a run failed, 130 / 143 after an interruption."""
    args, failed = arguments(argv), []
    out = Path(args.report or args.out).resolve()
    if not args.report:
        runs = plan(out, args.methods, args.seeds, args.steps, args.train)
        steps = flags(next(iter(runs.values()))).steps
        check_same(out, runs, code(), args.mix)
        out.mkdir(parents=True, exist_ok=True)
        print(
            f"{len(runs)} runs of {steps} steps, {sum(finished(out / n, steps) for n in runs)} of them finished, "
            f"{args.jobs} at a time; {out}",
            flush=True,
        )
        failed, stopped = run_all(out, runs, steps, args.jobs)
        if stopped:
            done = sum(finished(out / n, steps) for n in runs)
            print(
                f"stopped; all runs are saved ({done} of {len(runs)} finished), the same command goes on"
            )
            return 128 + stopped
    steps = args.steps or read_started(out)["steps"]
    if not args.report and len(failed) and not any(finished(out / n, steps) for n in runs):
        return 1
    report(out, steps)
    if args.equal_tokens:
        report(out, steps, equal_tokens=True)
    if failed:
        print("\n".join(["", *failed, "the same command tries them again"]), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
