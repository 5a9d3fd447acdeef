"""Core-seconds against size, on a CPU: what is not linear shows as a column that is not level.

    python -m bench scaling
    python -m bench scaling --only buffer rows

Each row doubles, or multiplies, one size and leaves the others: the update (policy.update with its
old log-probs, the tiny preset, random weights, all groups live) by response tokens and by groups;
the replay buffer (a draw, a step of 480 questions, its state as JSON) by what is in it; the data
(open_questions, digest, an epoch's order) by rows. Medians of --repeat after one that warms up.
ranks: one update of the same groups by several processes (gloo, FSDP2), the core-seconds of all of
them, waiting for each other included.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

import data
import shared_prompt
from bench.__main__ import parse
from bench.contenders import Trainer, grouped, invented
from bench.meter import Meter
from bench.table import aligned, median
from bench.work import random_lm, spread_rewards, text_config
from buffer import Buffer
from distributed import World, init_process_group
from optimizer import adamw
from policy import shard_policy
from policy import update as update_of
from records import Prompt

PROMPT, GROUPS, RESPONSE = 32, 16, 16  # what stays while the other grows


def parser():
    """The argparse parser."""
    p = argparse.ArgumentParser(prog="python -m bench scaling", description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="of the parts")
    p.add_argument("--repeat", type=int, default=2, help="runs of each size")
    return p


def update(groups, response):
    """A function of a Trainer's step on so many groups of 4 responses of so many tokens."""
    _, cfg = parse(["--prompts", "4", "--n", "4", "--iterations", "2"])
    trainer = Trainer(random_lm(text_config("tiny"), cfg), cfg, 16, PROMPT + response)
    scored = made_up(groups, response)
    return lambda: trainer.update(*scored, Meter("cpu"))


def made_up(groups, response):
    """(Groups of 4 responses of so many tokens, their advantages)."""
    rng = random.Random(0)
    prompts = [Prompt(tuple(rng.choices(range(90), k=PROMPT))) for _ in range(groups)]
    return grouped(invented(prompts, 4, response), spread_rewards(4 * groups, 4), 4)


def by_ranks(size):
    """A function that returns the core-seconds of an update on `size` ranks, a process each."""
    context = torch.multiprocessing.get_context("spawn")

    def of_all():
        with tempfile.TemporaryDirectory(prefix="zppo-bench-") as folder:
            spent = context.Array("d", size)
            settings = {"args": (size, f"{folder}/store", spent), "nprocs": size}
            torch.multiprocessing.start_processes(one_rank, **settings, start_method="spawn")
            return sum(spent)

    return of_all


def one_rank(rank, size, store, spent):
    """What each process of by_ranks does; spent: core-seconds of each, written here."""
    torch.set_num_threads(1)
    _, cfg = parse(["--prompts", "4", "--n", "4", "--iterations", "2", "--micro-tokens", "512"])
    world = World(rank, size)
    if size > 1:
        init_process_group(world, dist.FileStore(store, size))
    lm = random_lm(text_config("tiny"), cfg)
    shared_prompt.decide([lm], world)
    policy = shard_policy(lm, world)
    optimizer = adamw(lm.net, cfg)
    for _ in range(2):  # the first warms up
        start = time.process_time()
        update_of(policy, optimizer, *made_up(GROUPS, RESPONSE), cfg, world)
        spent[rank] = time.process_time() - start


def full_buffer(size):
    """A function of one step on a full buffer of so many questions."""
    buffer, rng, step = Buffer(size, 0.5), random.Random(0), iter(range(2, 10**6))
    buffer.refresh({f"set/part/{k}": 0.0 for k in range(size)}, 1)

    def one_step():
        now = next(step)
        again = {q: rng.choice((0.0, 0.25, 1.0)) for q in buffer.draw(96, rng)}
        buffer.refresh(again | {f"new/{now}/{k}": 0.25 * (k % 5) for k in range(384)}, now)
        json.dumps(buffer.state())

    return one_step


def rows_of_data(size):
    """A function that opens a JSONL of so many rows of 200 characters."""
    folder = tempfile.TemporaryDirectory(prefix="zppo-bench-")  # goes with the function
    with open(Path(folder.name) / "questions.jsonl", "w") as lines:
        for k in range(size):
            row = {"id": f"set/part/{k}", "question": f"{'word ' * 40}{k}", "answer": str(k)}
            lines.write(json.dumps(row) + "\n")

    def opened():
        questions = data.open_questions(folder.name)
        data.digest(questions)
        data.take(len(questions), 0, 0, 384)

    return opened


# {part: (its unit, sizes, size -> what is timed)}
PARTS = {
    "tokens": ("response tokens", (16, 64, 256, 1024), lambda size: update(GROUPS, size)),
    "groups": ("groups", (8, 32, 128), lambda size: update(size, RESPONSE)),
    "buffer": ("questions in the buffer", (10, 100, 1000, 10_000, 100_000), full_buffer),
    "rows": ("rows of data", (400, 4000, 77_000), rows_of_data),
    "ranks": ("ranks", (1, 2), by_ranks),
}


def measure(part, repeat, sizes=()):
    """[(size, median core-seconds)] of a part."""
    found = []
    for size in sizes or PARTS[part][1]:
        timed, seconds = PARTS[part][2](size), []
        for _ in range(repeat + 1):
            start = time.process_time()
            by_others = timed() or 0.0  # in processes of their own
            seconds.append(by_others or time.process_time() - start)
        found.append((size, median(seconds[1:])))
    return found


def main(argv):
    """Print the tables. Returns the exit status."""
    args = parser().parse_args(argv)
    for part in args.only:
        unit, found = PARTS[part][0], measure(part, args.repeat)
        rows = [[f"{n:,}", f"{s:.4f}", f"{1e6 * s / n:,.1f}"] for n, s in found]
        heads = [unit, "core-s", "microseconds each"]
        print("", *aligned([heads, *rows], left=0), sep="\n", flush=True)
    return 0
