"""What the teacher writes in a step, by --teacher-scope: train.reformulate itself, with made-up
rewards at the paper's sizes and a teacher that only counts.

    python -m bench teacher                     # 384 new + 96 replayed prompts, 55 % of them hard
    python -m bench teacher --solves 0.3

Assumed: half of the hard questions are at 0 of 8, the rest evenly at 1, 2 and 3; 90 % of the
replayed ones are hard again; the teacher solves the stated share, half of its samples being right
there; every summary holds; answers and summaries have the stated lengths. "before" is what was done
until --teacher-scope came: answers to all hard questions, summaries for all that the pre-cap keeps.
"""

import argparse
import random
from types import SimpleNamespace

import tiny
import train
from bench.table import aligned, median
from bench.work import text_reader
from buffer import Buffer
from config import flags
from data import Question
from distributed import World
from records import Group, RolloutRequest, Sample
from runtime.ahead import begin_ahead
from runtime.metrics import Clock

AGAIN = 0.9  # of the replayed questions are hard again
ROOM = 10**9  # a window in which every prompt fits


def parser():
    """The argparse parser."""
    p = argparse.ArgumentParser(prog="python -m bench teacher", description=__doc__.split("\n")[0])
    number = lambda name, default, why: p.add_argument(
        name, type=type(default), default=default, help=f"{why} [{default}]"
    )
    number("--new", 384, "new prompts of a step; a quarter as many are replayed")
    number("--hard", 0.55, "share of hard questions")
    number("--solves", 0.7, "share of hard questions that the teacher solves")
    number("--answer", 3000, "tokens of a teacher's answer")
    number("--summary", 150, "tokens of a summary")
    number("--steps", 20, "steps; medians are shown")
    return p


class Counting:
    """A teacher that counts what it is asked. chance: {question id: of an answer to be right}."""

    def __init__(self, chance, n):
        self.chance, self.n = chance, n
        self.answered, self.summaries, self.rounds, self.begun = [], 0, 0, set()

    def begin(self, questions, step, fresh=False):
        """Teacher.begin"""
        self.begun = {q.id for q in questions}

    def keep_only(self, questions):
        """Teacher.keep_only"""

    def answers(self, questions, step):
        """Teacher.answers"""
        self.rounds += 1
        self.answered += [q.id for q in questions]
        return [[self.answer(q.id, k) for k in range(self.n)] for q in questions]

    def answer(self, name, k):
        """The k-th answer to a question: the same however often it is asked."""
        right = random.Random(f"{name} {k}").random() < self.chance[name]
        return Sample(None, (), (), f"way {k} \\boxed{{1}}", False, reward=float(right))

    def candidates(self, samples, questions, compress):
        """Teacher.candidates"""
        self.summaries += len(samples)
        return [s.text for s in samples]


def made_up(args, cfg, rng):
    """(plain groups, RunState, {question id: chance}) of a step."""
    replay = cfg.replayed_prompts
    fresh = (args.hard * (args.new + replay) - AGAIN * replay) / args.new
    groups, chance, seen = [], {}, {}
    for i in range(args.new + replay):
        again = i >= args.new
        q = Question(f"q{i} {rng.random()}", f"Question {i}?", "1")
        hard = rng.random() < (AGAIN if again else fresh)
        right = rng.choice((0, 0, 0, 1, 2, 3)) if hard else rng.randint(4, cfg.group_size)
        if again:
            seen[q.id] = rng.choice((0, 0, 0, 1, 2, 3)) / cfg.group_size
        texts = [f"\\boxed{{{1 if k < right else k}}}" for k in range(cfg.group_size)]
        rewards = [float(k < right) for k in range(cfg.group_size)]
        samples = [Sample(None, (), (), t, False, reward=r) for t, r in zip(texts, rewards)]
        groups.append(Group(i, "plain", "replay" if again else "new", q, tuple(samples)))
        chance[q.id] = 0.5 if rng.random() < args.solves / (1 - 0.5**cfg.teacher_n) else 0.0
    state = SimpleNamespace(buffer=Buffer(cfg.capacity, cfg.tau), rng=random.Random(rng.random()))
    state.buffer.refresh(seen, 1)
    return groups, state, chance


def one_step(groups, state, chance, cfg, engine):
    """The Counting teacher after a step of train.reformulate, and how many prompts it gave."""
    teacher = Counting(chance, cfg.teacher_n)
    requests = [RolloutRequest("plain", g.origin, g.question, "") for g in groups]
    begin_ahead(requests, 2, cfg, teacher, state)
    args = cfg, engine, teacher, World(), state.rng, Clock()
    return teacher, len(train.reformulate(groups, 2, *args).requests)


def before(groups, state, cfg, teacher):
    """(answers, summaries) of the former order."""
    order = train.pre_cap([g.mean_reward for g in groups], cfg.tau, cfg.max_reformulated, state.rng)
    kept = [groups[i] for i in order]
    correct = sum(bool(teacher.answer(g.question.id, k).reward) for g in kept for k in range(4))
    wrong = sum(not s.reward for g in kept for s in g.samples)
    return cfg.teacher_n * sum(g.mean_reward < cfg.tau for g in groups), correct + wrong


def measure(args):
    """{"before", "hard", "used": one tuple a step: answers, summaries, rounds of asking, questions
    begun ahead, of them used}, and {how many prompts a step gave}.
    """
    reader = text_reader(tiny.new_tokenizer())
    engine = SimpleNamespace(lm=reader, control=(), window=ROOM)
    rows, prompts = {"before": [], "hard": [], "used": []}, set()
    for step in range(args.steps):
        for scope in ("hard", "used"):
            cfg = flags(["--iterations", "1", "--batch", str(args.new), "--teacher-scope", scope])
            groups, state, chance = made_up(args, cfg, random.Random(step))
            teacher, made = one_step(groups, state, chance, cfg, engine)
            asked = set(teacher.answered)
            ahead = len(teacher.begun), len(teacher.begun & asked)
            row = cfg.teacher_n * len(asked), teacher.summaries, teacher.rounds, *ahead
            rows[scope].append(row)
            prompts.add(made)
        hard = sum(g.mean_reward < cfg.tau for g in groups)
        rows["before"].append((*before(groups, state, cfg, teacher), 1, len(groups), hard))
    return rows, prompts


def main(argv):
    """Print the table. Returns the exit status."""
    args = parser().parse_args(argv)
    rows, prompts = measure(args)
    print(
        f"{args.new} new prompts and a quarter as many replayed, {args.hard:.0%} hard, the teacher "
        f"solves {args.solves:.0%}; {min(prompts)} to {max(prompts)} BCQ and NCQ prompts; medians "
        f"of {args.steps} steps"
    )
    table, tokens = [], {}
    for name, steps in rows.items():
        answers, summaries, rounds, begun, kept = (median(column) for column in zip(*steps))
        tokens[name] = answers * args.answer + summaries * args.summary
        share = f"{tokens['before'] / tokens[name]:.1f}"
        counts = (answers, summaries, tokens[name], rounds)
        table.append([name, *(f"{x:,.0f}" for x in counts), f"{begun:.0f}, {kept:.0f}", share])
    heads = ["", "answers", "summaries", "tokens", "rounds", "begun ahead, of them used", "less by"]
    print(*aligned([heads, *table], left=1), sep="\n")
    return 0
