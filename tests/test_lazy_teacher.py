"""A teacher that is asked only about what is used makes the prompts of one that is asked about all
hard questions; and whom it begins with while the students sample.

python -m pytest tests/test_lazy_teacher.py
"""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from scripted import number, of

import train
from buffer import Buffer
from config import flags
from data import Question
from records import Group, RolloutRequest, Sample
from reformulate import pre_cap
from reward import grade
from runtime.ahead import begin_ahead
from runtime.metrics import Clock

SCOPES = ("used", "hard")
CAP_4 = "--batch 4 --iterations 4 --aug 0.25"


# ---- whole runs ----------------------------------------------------------------------------------


def seldom(name, kind, visit):
    """Most questions fail at first, some get better."""
    return {"plain": max(0, number(name) % 7 - 4) + visit, "bcq": 5, "ncq": 1}.get(kind, 1)


@pytest.mark.parametrize("method", ["zppo", "hint", "prefix"])
@pytest.mark.parametrize("solved", [None, {f"q{k:02d}" for k in range(0, 30, 3)}])
def test_the_same_run_from_fewer_questions(play, method, solved):
    """All of a run's prompts, whether the teacher is always right or fails two questions of three;
    also in later steps, whose rng has to stand where it would.
    """
    runs = {}
    for scope in SCOPES:
        argv = f"--method {method} --batch 10 --replay 0.4 --aug 0.5 --teacher-scope {scope}"
        runs[scope] = play(seldom, argv, questions=30, steps=3, teacher=solved)
    used, hard = ([s["groups"] for s in runs[scope].steps] for scope in SCOPES)
    prompts = [[(g.kind, g.origin, g.samples[0].prompt.ids) for g in s] for s in used]
    assert prompts == [[(g.kind, g.origin, g.samples[0].prompt.ids) for g in s] for s in hard]
    sizes = [len(of(s, "bcq", "ncq", "hint", "prefix")) for s in runs["used"].steps]
    assert max(sizes) == 5 and min(sizes) > 1
    few, many = (sum(len(s["asked"]) for s in runs[scope].steps) for scope in SCOPES)
    assert few < many
    for small, large in zip(*(runs[scope].steps for scope in SCOPES)):
        assert set(small["asked"]) <= set(large["asked"])


# ---- one step, many times ------------------------------------------------------------------------


class Coins:
    """A teacher whose G_T answers to a question are right by coin(question id); asked: ids."""

    def __init__(self, coin):
        self.coin, self.asked = coin, []

    def keep_only(self, questions):
        pass

    def answers(self, questions, step):
        self.asked += dict.fromkeys(q.id for q in questions)  # as a Teacher: by what is asked
        coins = [[self.coin(q.id) for _ in range(4)] for q in questions]
        return [
            [answer(f"way {k} \\boxed{{{q.answer}}}", c) for k, c in enumerate(row)]
            for q, row in zip(questions, coins)
        ]

    def candidates(self, samples, questions, compress):
        return [s.text for s in samples]


def answer(text, reward):
    return Sample(None, (), (), text, False, kind="teacher", reward=float(reward))


def plain_groups(ids, rights=lambda k: 0, n=4):
    """Plain groups of n samples; of the k-th so many are right."""
    groups = []
    for k, name in enumerate(ids):
        q = Question(name, f"What is {name}?", "5")
        texts = [f"try {i} \\boxed{{{5 if i < rights(k) else 60 + i}}}" for i in range(n)]
        samples = [Sample(None, (), (), t, False, k, reward=grade(t, "5")) for t in texts]
        groups.append(Group(k, "plain", "new", q, tuple(samples)))
    return groups


@pytest.fixture
def reformulated(make_job, cfg):
    """(the Reformulation, the Coins) of a step with a scope, a coin, and a seed of the rng."""
    job = make_job(cfg(), lambda prompt, k: "")

    def make(groups, scope, coin, seed, argv=CAP_4):
        teacher, settings = Coins(coin), cfg(argv, "--no-compress")
        settings.teacher_scope = scope  # as a flag it is idle without BCQ
        args = settings, job.engine, teacher, job.world, random.Random(seed), Clock()
        return train.reformulate(groups, 1, *args), teacher

    return make


def test_each_question_its_own_coin_gives_the_same_prompts(reformulated):
    """What a question's answers are does not depend on whom else the teacher is asked about."""
    groups = plain_groups([f"q{k}" for k in range(12)], lambda k: k % 5)
    fewer = 0
    for seed in range(20):
        own = lambda name: random.Random(f"{name} {seed}").random() < 0.15
        (used, some), (hard, all_) = (reformulated(groups, s, own, seed) for s in SCOPES)
        assert used.requests == hard.requests and len(used.requests) == 4
        assert len(set(some.asked)) == len(some.asked) < len(all_.asked) == 6
        fewer += len(all_.asked) - len(some.asked)
        known = {i: a for i, a in used.teacher_answers.items() if a is not None}
        assert len(known) == len(some.asked)
        assert known == {i: hard.teacher_answers[i] for i in known}
    assert fewer > 20 * 2


def test_coins_of_their_own_give_the_same_distribution(reformulated):
    """Kinds and questions of the pool, over many steps whose coins have nothing in common."""
    groups, found, runs = plain_groups([f"q{k}" for k in range(4)]), [], 300
    for scope, coins in zip(SCOPES, (random.Random(1), random.Random(2))):
        pools = Counter()
        for seed in range(runs):
            toss = lambda name: coins.random() < 0.15
            made, _ = reformulated(groups, scope, toss, f"{scope} {seed}", "--batch 1 --aug 0.5")
            pools["".join(sorted(r.kind for r in made.requests))] += 1
            pools.update(r.question.id for r in made.requests)
        found.append(pools)
    assert {"bcqncq", "ncqncq"} <= found[0].keys() == found[1].keys()
    for name in found[0]:  # 5 standard deviations of a difference of two counts
        assert abs(found[0][name] - found[1][name]) < 5 * (2 * runs * 0.25) ** 0.5, (name, found)


def test_a_question_that_stands_twice_is_asked_once(reformulated):
    """New and replayed, in two rounds of the walk: one and the same answers."""
    groups = plain_groups(["a", "b", "a", "c"])
    for seed in range(6):
        made, teacher = reformulated(groups, "used", lambda name: False, seed, "--batch 4 --aug 1")
        assert len(made.requests) == 4 and sorted(teacher.asked) == ["a", "b", "c"]
        assert made.teacher_answers.keys() == {0, 1, 2, 3}


def test_ncq_alone_asks_nobody(reformulated):
    argv = "--batch 4 --aug 1 --no-bcq"
    groups = plain_groups([f"q{k}" for k in range(6)])
    made, teacher = reformulated(groups, "used", lambda name: True, 0, argv)
    assert len(made.requests) == 6 and teacher.asked == []
    assert set(made.teacher_answers.values()) == {None}


# ---- ahead ---------------------------------------------------------------------------------------


def ahead(argv=CAP_4):
    """(ids that a teacher elsewhere begins with, the state, all ids) of a step of nine new and
    three replayed questions.
    """
    state = SimpleNamespace(buffer=Buffer(10, 0.5), rng=random.Random(3))
    state.buffer.refresh({"r0": 0.0, "r1": 0.25, "r2": 0.375}, 1)
    asked = [("new", f"n{k}") for k in range(9)] + [("replay", f"r{k}") for k in range(3)]
    requests = [RolloutRequest("plain", o, Question(i, "?", "5"), "?") for o, i in asked]
    begun = []
    teacher = SimpleNamespace(begin=lambda qs, step, fresh=False: begun.extend(q.id for q in qs))
    settings = flags(argv.split())
    begin_ahead(requests, 2, settings, teacher, state)
    begin_ahead(requests, 2, settings, None, state)  # another rank
    return begun, state, [r.question.id for r in requests]


def test_begun_are_those_whom_the_pre_cap_would_keep():
    """If the new ones fail and the replayed ones do as well as ever: then the walk begins with
    them. The run's rng stays where it was.
    """
    begun, state, names = ahead()
    means = [0.0] * 10 + [0.25, 0.375]
    assert state.rng.getstate() == random.Random(3).getstate()
    assert begun == [names[i] for i in pre_cap(means, 0.5, 4, state.rng)] and len(begun) == 4
    assert not {"r1", "r2"} & set(begun)  # nine new ones and r0 are thought to be harder


def test_begun_are_all_where_all_may_be_asked():
    for argv in ("--teacher-scope hard", "--method off-distill"):
        begun, _, names = ahead(argv)
        assert begun == names and len(names) == 12
    assert ahead("--no-bcq")[0] == ahead("--method grpo")[0] == []
