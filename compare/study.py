"""Comparison of methods on the tiny world: methods x seeds, one table, figures.

    python -m compare                               # zppo, GRPO with and without buffer, 3 seeds
    python -m compare --methods all                 # the ten methods
    python -m compare --methods recipe              # updates a step and normalization (Fig. 6)
    python -m compare --report runs/compare         # only the table and the figures again
    python -m compare --equal-tokens --report runs/compare
    python -m compare -- --tau 0.25 --aug 0.5       # flags of train.py, for every run

Each run is a child process, `python train.py --student tiny ... --out OUT/METHOD-seedS`. The same
command goes on where it was stopped: finished runs are kept, unfinished ones continue from their
checkpoint. A run that fails costs only itself. A flag for all that would do nothing in one of the
methods (--aug for GRPO) is left out there. The results are read from the metrics.jsonl of the
runs alone: table.md, table.csv and figures/ in OUT (compare/table.py and compare/plot.py say what
they show).

All methods get the same number of rollout steps, each with the same number of new prompts. What
BCQ, NCQ, hints and prefixes add to a step is in the table as tokens; --equal-tokens cuts every run
where the cheapest one of its seed ended. Left out: sharing a teacher cache between runs (it has one
writer), and any method's own tuning: all share one learning rate.
"""

import argparse
import ast
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

from compare import plot, table
from config import flag_of, flags, idle_flags, parser
from runtime.checkpoint import comparable
from runtime.files import write_atomic

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
LABELS = {name: label for name, (label, _) in ARMS.items()}
RECIPE = ["i1", "i8", "i16", "norm-all", "norm-none"]
TEN = [name for name in ARMS if name not in (*RECIPE, "off-distill", "on-distill")]

HERE = Path(__file__).parent.parent
TRAIN = HERE / "train.py"
BASIC = "--student tiny --device cpu --dtype float32 --show 0".split()  # the same on every machine
# What train.py may import without a run's numbers depending on it: printing, and the rooms that a
# tiny run never enters.
NO_SOURCE = {"runtime/console.py"}
NO_ROOM = {"figures", "compare", "evaluation", "corpus", "bench", "forks", "tests"}


# ---- what is to run, and what is there already ----


def plan(out, methods, seeds, steps, extra=()):
    """{run name: flags of train.py}, seed by seed, so that a stopped comparison has whole seeds."""
    runs = {}
    for seed in seeds:
        for method in methods:
            name = f"{method}-seed{seed}"
            argv = [*BASIC, *ARMS[method][1].split(), "--seed", str(seed)]
            argv += ["--steps", str(steps)] if steps else []
            argv += ["--eval-every", "10", *without_idle(argv, extra)]
            runs[name] = [*argv, "--out", str(out / name)]
    return runs


def without_idle(argv, extra):
    """Those of the flags `extra` that do something in a run of the flags argv, which train.py
    would refuse otherwise.
    """
    starts = [i for i, word in enumerate(extra) if i == 0 or word.startswith("--")]
    words = [extra[i:j] for i, j in zip(starts, [*starts[1:], len(extra)])]  # a flag and its values
    idle = {name for names, idle, _ in idle_flags(flags(argv)) if idle for name in names}
    useful = [flag for flag in words if not idle & vars(parser().parse_args(flag)).keys()]
    return [word for flag in useful for word in flag]


def last_step(folder):
    """The last step in a run's metrics.jsonl, 0 without one.

    Only the last whole line is parsed, because this is asked three times a second while runs write.
    """
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def finished(folder, steps):
    """Whether a run has its final model and all its steps."""
    return (Path(folder) / "final").is_dir() and last_step(folder) >= steps


def count_finished(out, runs, steps):
    return sum(finished(out / name, steps) for name in runs)


def sources():
    """The files that decide what train.py computes: those it imports, and those they import."""
    found, todo = set(), [HERE / "train.py"]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [node.module, *inside]  # a name may be a module of a package
            todo += [p for module in modules for p in files_of(module)]
    return sorted(found)


def files_of(module):
    """The files of this project that importing a module runs: [] for others, and for NO_SOURCE."""
    parts = module.split(".")
    packages = [HERE.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    files = [p for p in (*packages, HERE.joinpath(*parts).with_suffix(".py")) if p.is_file()]
    skip = parts[0] in NO_ROOM
    return [p for p in files if not skip and p.relative_to(HERE).as_posix() not in NO_SOURCE]


def code():
    """{"code": a digest of what decides a run (the sources, the two tiny models), "commit": for
    people; "" outside of git}.
    """
    digest = hashlib.sha256()
    for path in [*sources(), *sorted((HERE / "assets").glob("*/*.safetensors"))]:
        digest.update(path.read_bytes())
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    git = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
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
        cfg.pop("data_digest", None)  # known only once the data is open
        different = [k for k in cfg if was.get(k) != cfg[k]]
        changed = [f"{flag_of(k)} {was.get(k)} -> {cfg[k]}" for k in different]
        if by.get("code") != now["code"]:
            before = f"{by.get('code', 'unknown')} {by.get('commit', '')}"
            changed.append(f"code {before} -> {now['code']} {now['commit']}")
        if changed:
            wrong.append(f"{name} ({'; '.join(changed)})")
    if wrong and not mix:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{out} holds runs made differently from what they would be now: "
            f"{', '.join(wrong[:3])}{more}. Give another --out, or --mix to put them into one "
            f"table all the same"
        )


def read_started(out):
    """compare.json: {"steps", "runs": {name: code() when it was started}}."""
    path = out / "compare.json"
    if not path.is_file():
        return {"steps": 0, "runs": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def write_started(out, started):
    write_atomic(out / "compare.json", json.dumps(started, indent=1))


# ---- running ----


def start(out, name, argv):
    """Start or continue one run; returns its process. Raises BlockingIOError when another process
    is at it.

    A session of its own: Ctrl-C in the terminal reaches us, and we pass it on once. The lock on its
    log is inherited by the child, so it holds as long as that lives, even if this process is
    killed.
    """
    resume = ["--resume"] if (out / name / "config.json").is_file() else []
    command = [sys.executable, str(TRAIN), *argv, *resume]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with open(out / f"{name}.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        streams = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=HERE, env=env, start_new_session=True, **streams)


def why(out, name, status):
    """One line about a failed run: how it ended, and the last thing it said."""
    log = (out / f"{name}.log").read_bytes().decode(errors="replace")
    said = re.split(r"[\r\n]+", log.strip())[-1].strip()
    how = f"killed by signal {-status}" if status < 0 else f"status {status}"
    return f"{name} failed ({how}): {said or 'without a word'} (all of it: {out / name}.log)"


class Runner:
    """The runs of a comparison as child processes, at most `jobs` at a time.

    Ctrl-C and SIGTERM are passed on to them once: they save and end. The second one leaves at once.
    """

    def __init__(self, out, runs, steps, jobs):
        self.out, self.runs, self.steps, self.jobs = out, runs, steps, jobs
        self.waiting = [name for name in runs if not finished(out / name, steps)]
        self.running, self.failed, self.signal = {}, [], 0
        self.started, self.now = read_started(out) | {"steps": steps}, code()
        write_started(out, self.started)

    def caught(self, number, frame):
        """The signal handler. os.write, because a print inside a print raises."""
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\nthe runs save their last finished step; once more leaves at once\n")

    def fail(self, line):
        self.failed.append(line)
        tqdm.write(line, file=sys.stderr)

    def launch(self):
        """Start waiting runs where there is room."""
        while self.waiting and len(self.running) < self.jobs:
            name = self.waiting.pop(0)
            if not (self.out / name / "config.json").is_file():
                self.started["runs"][name] = self.now
                write_started(self.out, self.started)
            try:
                self.running[name] = start(self.out, name, self.runs[name])
            except BlockingIOError:
                self.fail(f"{name}: another process is running it")

    def interrupt(self):
        for child in self.running.values():
            child.send_signal(signal.SIGINT)

    def collect(self):
        """Take away children that have ended; one that we did not stop must be finished."""
        for name in [n for n, child in self.running.items() if child.poll() is not None]:
            status = self.running.pop(name).returncode
            done = status == 0 and finished(self.out / name, self.steps)
            if not (done or self.signal):
                self.fail(why(self.out, name, status))

    def steps_done(self):
        return sum(min(self.steps, last_step(self.out / name)) for name in self.runs)

    def run(self):
        """Run what is not finished. Returns (lines about failed runs, the signal that stopped us or
        0).
        """
        before = {n: signal.signal(n, self.caught) for n in (signal.SIGINT, signal.SIGTERM)}
        bar = tqdm(total=self.steps * len(self.runs), unit="step", dynamic_ncols=True)
        bar.initial = bar.n = self.steps_done()  # so that the rate is that of today
        told, shown = False, None
        try:
            while self.running or (self.waiting and not self.signal):
                if not self.signal:
                    self.launch()
                elif not told:
                    told = True
                    self.interrupt()
                time.sleep(0.3)
                self.collect()
                bar.n = self.steps_done()
                text = ", ".join(f"{n} {last_step(self.out / n)}" for n in self.running)
                if (bar.n, text) != shown:  # a log file must not get three lines a second
                    shown = bar.n, text
                    bar.set_postfix_str(text)
        finally:
            self.interrupt()  # only after an error of ours is one left: they save and end
            bar.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.failed, self.signal


# ---- command line ----


def report(out, steps, equal_tokens=False):
    """Write table and figures of the finished runs in `out`; print the table and where everything
    is.
    """
    runs, left_out = table.read(out, steps, LABELS)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if runs.empty:
        raise ValueError(f"{out}: no finished run to report on")
    shown = set(runs.index.droplevel("step"))
    made = set()
    for name, by in read_started(out)["runs"].items():
        arm, _, seed = name.rpartition("-seed")
        if (LABELS.get(arm), int(seed)) in shown:
            made.add(by["commit"] or by["code"])
    stem = "table-equal-tokens" if equal_tokens else "table"
    if equal_tokens:
        runs = table.equal_tokens(runs)
    write_atomic(out / f"{stem}.md", table.markdown(runs, equal_tokens, sorted(made)))
    write_atomic(out / f"{stem}.csv", table.as_csv(runs, LABELS))
    print(table.main_table(runs))
    written = plot.draw(runs, out / "figures", equal_tokens)
    print(f"table     {out / stem}.md\n          {out / stem}.csv")
    for path in written:
        print(f"figure    {path}")


def arguments(argv):
    p = argparse.ArgumentParser(
        prog="python -m compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = min(8, os.cpu_count() or 1)
    which = (
        f"of {', '.join(ARMS)}; all: {', '.join(TEN)}; recipe: zppo, {', '.join(RECIPE)}; "
        f"default: zppo grpo+buffer grpo"
    )
    methods = {"nargs": "+", "metavar": "METHOD", "choices": [*ARMS, "all", "recipe"]}
    p.add_argument("--methods", default=["zppo", "grpo+buffer", "grpo"], help=which, **methods)
    seeds = {"nargs": "+", "type": int, "default": [0, 1, 2], "metavar": "SEED"}
    p.add_argument("--seeds", help="default: 0 1 2", **seeds)
    steps = "rollout steps of every run; default: train.py's 45"
    p.add_argument("--steps", type=int, default=0, help=steps)
    jobs = "runs at once, one thread each; default: one a core, at most 8"
    p.add_argument("--jobs", type=int, default=cores, help=jobs)
    where = "folder of the runs and results; default: runs/compare"
    p.add_argument("--out", default="runs/compare", help=where)
    equal = (
        "a second table: all runs of a seed cut at the tokens sampled by the student in the "
        "cheapest of them"
    )
    p.add_argument("--equal-tokens", action="store_true", help=equal)
    only = "run nothing: table and figures of what is in OUT"
    p.add_argument("--report", metavar="OUT", help=only)
    mix = "accept finished runs that were made by other code or with other flags"
    p.add_argument("--mix", action="store_true", help=mix)
    more = "more flags of train.py, the same for every run"
    p.add_argument("train", nargs="*", metavar="-- FLAG", help=more)
    args = p.parse_args(argv)
    sets = {"all": TEN, "recipe": ["zppo", *RECIPE]}
    named = [method for name in args.methods for method in sets.get(name, [name])]
    args.methods, args.seeds = list(dict.fromkeys(named)), list(dict.fromkeys(args.seeds))
    if args.jobs < 1 or min(args.seeds) < 0 or args.steps < 0:
        raise ValueError("--jobs must be at least 1, --seeds and --steps not negative")
    return args


def main(argv=None):
    """Returns the exit status: 0, 1 when a run failed, 130 / 143 after an interruption."""
    args, failed = arguments(argv), []
    out = Path(args.report or args.out).resolve()
    steps = args.steps or read_started(out)["steps"]
    if not args.report:
        runs = plan(out, args.methods, args.seeds, args.steps, args.train)
        steps = flags(next(iter(runs.values()))).steps
        check_same(out, runs, code(), args.mix)
        out.mkdir(parents=True, exist_ok=True)
        done = count_finished(out, runs, steps)
        many = f"{len(runs)} runs of {steps} steps, {done} of them finished"
        print(f"{many}, {args.jobs} at a time; {out}", flush=True)
        failed, stopped = Runner(out, runs, steps, args.jobs).run()
        done = count_finished(out, runs, steps)
        if stopped:
            saved = f"all runs are saved ({done} of {len(runs)} finished)"
            print(f"stopped; {saved}, the same command goes on")
            return 128 + stopped
        if failed and not done:
            return 1
    report(out, steps)
    if args.equal_tokens:
        report(out, steps, equal_tokens=True)
    if failed:
        print("\n".join(["", *failed, "the same command tries them again"]), file=sys.stderr)
    return 1 if failed else 0
