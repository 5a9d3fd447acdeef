"""The loop of Algorithm 1, step by step, against a plain second reading of the paper; and that real
steps make a student learn.

    python -m pytest tests/test_train.py

Most tests run train.train through the real Run, grader, teacher and update. Only the two engines
are scripted: how many of a question's rollouts are right is a table, so every number that the loop
has to arrive at can be written down by hand.
"""

import doctest
import json
import math
import random
import re
import signal
import statistics
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

import buffer
import loss
import model
import reformulate
import tiny
import train
from data import Question, take
from engines.hf import HFEngine
from policy import Policy
from rollout import prompt_of
from runtime.metrics import Clock

ROOT = Path(__file__).parent.parent
N = 8  # samples a prompt in the scripted runs


def ask(k):
    return Question(f"q{k:02d}", f"Item q{k:02d}?", str(100 + k))


class World:
    """A scripted run. right: (question id, kind, how often asked before) -> how many of the N
    rollouts are right.

    teacher: ids of the questions that the teacher can solve, all by default. After play() `steps`
    holds, for each rollout step: groups and adv as update() got them; buffer: the ids in it before
    the step; asked: ids of the questions put to the teacher; summarized: ids of those whose
    responses it was to summarize. Answers of the teacher are drawn afresh, so that each asking is
    seen; its summaries are kept (train.py's default), so that a text is summarized once.
    """

    def __init__(
        self,
        monkeypatch,
        make_run,
        scripted,
        lm,
        cfg,
        right,
        *argv,
        questions=8,
        steps=3,
        teacher=None,
        fresh=True,
    ):
        self.right, self.teacher, self.steps, self.visits = right, teacher, [], Counter()
        self.cfg = cfg(
            "--n",
            N,
            "--steps",
            steps,
            "--iterations",
            1,
            "--save-every",
            0,
            "--show",
            0,
            *["--fresh-teacher"] * fresh,
            *argv,
        )
        self.questions = [ask(k) for k in range(questions)]
        self.gold = {q.id: q.answer for q in self.questions}
        self.run = make_run(self.cfg, self.answer, self.questions, student=lm)
        self.run.engine = scripted(lm, self.respond)
        real = train.update

        def update(run, groups, adv, clock):
            self.steps.append(
                {
                    "groups": list(groups),
                    "adv": list(adv),
                    "buffer": list(self.run.buffer.entries),
                    "calls": len(self.run.teacher.engine.calls),
                }
            )
            return real(run, groups[:1], adv[:N], clock)  # one group: only its numbers are needed

        monkeypatch.setattr(train, "update", update)
        monkeypatch.setattr(
            train, "summary", lambda *a, **k: ""
        )  # figures and a page, tested elsewhere
        monkeypatch.setattr(train.checkpoint, "publish", lambda *a, **k: None)

    def respond(self, prompt, k):
        name = re.search(r"Item (q\d\d)\?", prompt)[1]
        kind = "bcq" if "Two candidate" in prompt else "ncq" if "WRONG" in prompt else "plain"
        visit, i = divmod(self.visits[name, kind], N)
        self.visits[name, kind] += 1
        good = i < self.right(name, kind, visit)
        return f"{name} try {i}</think>\\boxed{{{self.gold[name] if good else 900 + i % 3}}}"

    def answer(self, prompt, k):
        if "<response>" in prompt:
            return f"<summary>{prompt.split('<response>')[1].split('</response>')[0].strip()}</summary>"
        name = re.search(r"Item (q\d\d)\?", prompt)[1]
        return f"{name} by the teacher \\boxed{{{self.gold[name] if self.teacher is None or name in self.teacher else 555}}}"

    def play(self):
        assert train.train(self.cfg, self.run, self.run.student, {}, self.run.out) == 0
        calls, done = self.run.teacher.engine.calls, 0
        for step in self.steps:
            texts = [
                self.run.student.tokenizer.decode(p.ids)
                for c in calls[done : step["calls"]]
                for p in c["prompts"]
            ]
            done = step["calls"]
            step["asked"] = [
                re.search(r"Item (q\d\d)", t)[1] for t in texts if "<response>" not in t
            ]
            step["summarized"] = {
                re.search(r"q\d\d", t.split("<response>")[1])[0] for t in texts if "<response>" in t
            }
        assert done == len(calls) and len(self.steps) == self.cfg.steps
        return self

    def records(self):
        return [
            json.loads(line) for line in (self.run.out / "metrics.jsonl").read_text().splitlines()
        ][1:]


@pytest.fixture(autouse=True)
def signals():
    """train.train takes Ctrl-C over; pytest wants it back."""
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for s, handler in kept.items():
        signal.signal(s, handler)


@pytest.fixture
def play(monkeypatch, make_run, scripted, fresh_lm, cfg):
    """A finished World; several in one test share the student, whose weights no scripted engine
    looks at.
    """
    real = train.update

    def make(right, *argv, **more):
        monkeypatch.setattr(train, "update", real)
        return World(monkeypatch, make_run, scripted, fresh_lm, cfg, right, *argv, **more).play()

    return make


def of(step, *kinds, origin=None):
    return [g for g in step["groups"] if g.kind in kinds and origin in (None, g.origin)]


def names(groups):
    return [g.question.id for g in groups]


def mixed(name, kind, visit):
    """Question k: k - 1 of 8 right at first (so q00 to q04 are hard), one more at each visit; BCQ
    5, NCQ 1 right.
    """
    return {"plain": min(N, max(0, int(name[1:]) - 1) + visit), "bcq": 5, "ncq": 1}[kind]


# ---- step 1: new and replayed prompts ------------------------------------------------------------


@pytest.mark.parametrize(
    "share, batch", [(0.25, 8), (0.5, 6), (0.3, 10), (0.6, 5), (1.5, 8), (0.0, 8)]
)
def test_replayed_prompts_come_on_top_of_the_new_ones(play, share, batch):
    world = play(
        lambda name, kind, visit: 0 if int(name[1:]) % 4 else 8,
        "--batch",
        batch,
        "--replay",
        share,
        "--aug",
        0,
        questions=30,
    )
    order = take(30, 0, 0, batch * 3)
    for k, step in enumerate(world.steps):
        new, again = of(step, "plain", origin="new"), of(step, "plain", origin="replay")
        assert names(new) == [world.questions[i].id for i in order[k * batch : (k + 1) * batch]]
        assert len(again) == min(round(share * batch), len(step["buffer"])) and len(new) + len(
            again
        ) == len(step["groups"])
        assert len(set(names(again))) == len(again) and set(names(again)) <= set(step["buffer"])
    assert world.steps[0]["buffer"] == [] and (
        share > 0.6 or len(world.steps[2]["buffer"]) > 2 * round(share * batch)
    )
    assert share == 0 or of(world.steps[1], "plain", origin="replay")


def test_minibatches_make_one_rollout_step(play):
    """|X_new| = batch * iterations; the shares are of that."""
    world = play(lambda *a: 0, "--batch", 3, "--iterations", 4, "--aug", 0.5, questions=24, steps=2)
    assert [len(of(s, "plain", origin="new")) for s in world.steps] == [12, 12]
    assert [len(of(s, "plain", origin="replay")) for s in world.steps] == [0, 3]
    assert [len(of(s, "bcq", "ncq")) for s in world.steps] == [6, 6]


def test_no_buffer_no_replay(play):
    world = play(lambda *a: 0, "--batch", 4, "--replay", 1, "--no-buffer", questions=12)
    assert all(
        len(of(s, "plain")) == 4 and not [g for g in s["groups"] if g.origin != "new"]
        for s in world.steps
    )


def test_all_questions_of_an_epoch_come_once(play):
    world = play(mixed, "--batch", 4, questions=12)
    assert sorted(q for s in world.steps for q in names(of(s, "plain", origin="new"))) == sorted(
        world.gold
    )


# ---- step 2: the teacher, on hard questions only -------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 0.25, 1.0])
def test_the_teacher_is_asked_exactly_the_hard_questions(play, tau):
    """At tau itself a question is no longer hard; a question that stands twice is asked once."""
    world = play(mixed, "--batch", 10, "--tau", tau, "--replay", 0.4, questions=10)
    for step in world.steps:
        hard = {
            g.question.id for g in of(step, "plain") if sum(s.reward for s in g.samples) / N < tau
        }
        assert sorted(step["asked"]) == sorted(hard)
        assert set(names(of(step, "bcq", "ncq"))) <= hard and step["summarized"] <= hard
    easy = {g.question.id for s in world.steps for g in of(s, "plain") if g.mean_reward >= tau} - {
        q for s in world.steps for q in s["asked"]
    }
    assert easy and any(
        g.mean_reward == tau for s in world.steps for g in of(s, "plain")
    )  # both sides of the border were there


def test_grpo_asks_the_teacher_nothing(play):
    world = play(mixed, "--batch", 8, "--no-bcq", "--no-ncq", "--aug", 1)
    assert world.run.teacher.engine.asked == {} and world.run.teacher.cache.memory == {}
    assert {g.kind for s in world.steps for g in s["groups"]} == {"plain"} and len(
        world.run.buffer
    ) > 0
    assert any(g.origin == "replay" for s in world.steps for g in s["groups"])  # the buffer stays


@pytest.mark.parametrize("flag, kind", [("--no-ncq", "bcq"), ("--no-bcq", "ncq")])
def test_one_reformulation_alone_takes_all_slots(play, flag, kind):
    world = play(
        lambda name, kind, visit: int(name[1:]), "--batch", 8, "--aug", 0.375, flag, steps=1
    )
    assert [(g.kind, g.question.id) for g in of(world.steps[0], "bcq", "ncq")] == [
        (kind, f"q0{i}") for i in range(3)
    ]
    assert flag == "--no-ncq" or world.steps[0]["asked"] == []  # answers are for BCQ only


# ---- steps 3 to 5: pre-cap, prompts, post-cap ----------------------------------------------------


@pytest.mark.parametrize(
    "cap, solved, want",
    [
        (1, "0123", ["bcq0"]),
        (3, "0123", ["bcq0", "ncq0", "bcq1"]),  # one slot left: the BCQ takes it
        (4, "0123", ["bcq0", "ncq0", "bcq1", "ncq1"]),
        (3, "123", ["ncq0", "bcq1", "ncq1"]),  # the teacher fails on the hardest
        (3, "", ["ncq0", "ncq1", "ncq2"]),
        (2, "23", ["ncq0", "ncq1"]),  # the pre-cap comes first: q02 is not among the two hardest
        (8, "0123", [f"{kind}{i}" for i in range(4) for kind in ("bcq", "ncq")]),
        (0, "0123", []),
    ],
)
def test_caps_and_order(play, cap, solved, want):
    """q00 ... q03 have 0 ... 3 of 8 right, the others all: X_new = 8, so rho_aug = cap / 8."""
    world = play(
        lambda name, kind, visit: int(name[1:]) if name < "q04" else 8,
        "--batch",
        8,
        "--aug",
        cap / 8,
        steps=1,
        teacher={f"q0{i}" for i in solved},
    )
    step = world.steps[0]
    got = of(step, "bcq", "ncq")
    assert (
        sorted(f"{g.kind}{int(g.question.id[1:])}" for g in got) == sorted(want) and len(got) <= cap
    )
    assert step["summarized"] == {
        f"q0{i}" for i in range(min(cap, 4))
    }  # of the kept questions only
    for g in got:  # what they show is the question's own
        wrong = N - int(g.question.id[1:])
        assert len(g.right) == (g.kind == "bcq") and len(g.wrong) == (
            1 if g.kind == "bcq" else wrong
        )
        assert all(t.startswith(f"{g.question.id} by the teacher") for t in g.right)
        assert all(
            t.startswith(f"{g.question.id} try") and world.gold[g.question.id] not in t
            for t in g.wrong
        )
        prompt = world.run.student.tokenizer.decode(g.samples[0].prompt.ids)
        assert all(
            text in prompt for text in (*g.right, *g.wrong, *(f"\\boxed{{{a}}}" for a in g.listed))
        )


def test_the_caps_hold_in_every_step_with_replay(play):
    """They are shares of the new questions, not of all: the replayed ones take no more slots."""
    world = play(lambda *a: 0, "--batch", 8, "--replay", 1, "--aug", 0.25, questions=24)
    assert [len(of(s, "plain")) for s in world.steps] == [8, 16, 16]
    assert all(len(of(s, "bcq", "ncq")) == 2 for s in world.steps)


def test_ties_of_the_pre_cap_fall_by_lot(play):
    """Where all fail alike, new and replayed questions are both reformulated, over a few steps of a
    few seeds.
    """
    origins = Counter()
    for seed in range(3):
        world = play(
            lambda *a: 0,
            "--batch",
            6,
            "--replay",
            1,
            "--aug",
            0.34,
            "--seed",
            seed,
            questions=30,
            steps=4,
        )
        origins.update(g.origin for s in world.steps[1:] for g in of(s, "bcq"))
    assert origins["new"] and origins["replay"] and origins.total() == 9


# ---- step 6: baselines and the standard deviation ------------------------------------------------


def by_hand(groups, norm):
    """Eqs. 2 and 3 for groups as they were sampled, whatever their ids say."""
    centred = [
        [s.reward - statistics.fmean(t.reward for t in g.samples) for s in g.samples]
        for g in groups
    ]
    live = [a for g in centred for a in g if norm == "all" or len(set(g)) > 1]
    std = 1.0 if norm == "none" else statistics.pstdev(live)
    return [a / std for g in centred for a in g]


@pytest.mark.parametrize("norm", ["nonzero", "all", "none"])
def test_advantages_by_hand(play, norm):
    """q02 has 2 of 8 right alone, 5 with BCQ and 1 with NCQ: three groups of one question, three
    baselines.
    """
    world = play(mixed, "--batch", 8, "--aug", 1, "--norm", norm)
    for step in world.steps:
        groups, adv = step["groups"], step["adv"]
        assert len(adv) == N * len(groups) and adv == pytest.approx(by_hand(groups, norm), abs=1e-6)
        assert [g.id for g in groups] == list(range(len(groups)))  # no two groups share a baseline
        for i, g in enumerate(groups):
            assert {(s.group_id, s.kind, s.question_id) for s in g.samples} == {
                (g.id, g.kind, g.question.id)
            }
            assert len({s.prompt.ids for s in g.samples}) == 1 and len(g.samples) == N
            right = [a for a, s in zip(adv[i * N :], g.samples) if s.reward]
            wrong = [a for a, s in zip(adv[i * N :], g.samples) if not s.reward]
            assert (
                all(a > 0 for a in right) and all(a < 0 for a in wrong)
                if not g.zero_advantage
                else set(adv[i * N :][:N]) == {0.0}
            )
        per_question = Counter(names(groups))
        assert any(n >= 3 for n in per_question.values())
    assert any(g.zero_advantage for s in world.steps for g in s["groups"])
    first = {
        (g.question.id, g.kind): sum(s.reward for s in g.samples) for g in world.steps[0]["groups"]
    }
    assert (first["q02", "plain"], first["q02", "bcq"], first["q02", "ncq"]) == (1, 5, 1)
    stats = {
        norm: torch.tensor(s["adv"])[torch.tensor(s["adv"]) != 0].std(correction=0)
        for s in world.steps
    }
    assert (norm == "nonzero") == (abs(stats[norm] - 1) < 1e-3)  # the three norms do differ here


def test_what_is_logged_is_what_was_trained_on(play):
    world = play(mixed, "--batch", 8, "--aug", 1)
    for record, step in zip(world.records(), world.steps):
        for kind, groups in {
            "new": of(step, "plain", origin="new"),
            "replay": of(step, "plain", origin="replay"),
            "bcq": of(step, "bcq"),
            "ncq": of(step, "ncq"),
        }.items():
            want = record["groups"][kind]
            assert want["groups"] == len(groups) and want["correct"] == sum(
                s.reward for g in groups for s in g.samples
            )
            assert want["positive"] == sum(
                s.reward for g in groups if not g.zero_advantage for s in g.samples
            )


# ---- step 7: the buffer --------------------------------------------------------------------------


def second_reading(world, tau=0.5):
    """The buffer after each step, by Algorithm 1 step 7, from the plain groups alone."""
    inside, out = [], []
    for step in world.steps:
        seen = defaultdict(list)
        for g in of(step, "plain"):
            seen[g.question.id] += [s.reward for s in g.samples]
        for name, rewards in seen.items():
            hard = statistics.fmean(rewards) < tau
            if hard and name not in inside:
                inside.append(name)
            elif not hard and name in inside:
                inside.remove(name)
        out.append(list(inside))
    return out


def buffers(world):
    """The buffer after each step, as it was."""
    return [s["buffer"] for s in world.steps[1:]] + [list(world.run.buffer.entries)]


def test_the_buffer_over_several_steps(play):
    world = play(
        lambda name, kind, visit: (
            0 if name < "q03" and kind == "plain" else mixed(name, kind, visit)
        ),
        "--batch",
        8,
        "--aug",
        1,
        "--replay",
        0.5,
        questions=12,
        steps=6,
    )
    assert buffers(world) == second_reading(world)
    assert sum(world.run.buffer.counts["graduated"].values()) == 2 and sorted(
        world.run.buffer.entries
    ) == ["q00", "q01", "q02"]


def test_a_bcq_group_that_is_all_right_graduates_nothing(play):
    """All plain rollouts fail, all BCQ and NCQ rollouts succeed: every question is admitted, and
    stays.
    """
    world = play(
        lambda name, kind, visit: 0 if kind == "plain" else 8, "--batch", 4, "--aug", 2, questions=4
    )
    assert all(len(of(s, "bcq")) >= 4 for s in world.steps)
    assert [sorted(b) for b in buffers(world)] == [sorted(world.gold)] * 3
    assert world.run.buffer.counts["graduated"] == {} and set(
        world.run.buffer.counts["admitted"]
    ) == {"0.000"}
    assert all(e.best == 0 and e.visits == 2 for e in world.run.buffer.entries.values())


def test_a_bcq_group_that_is_all_wrong_admits_nothing(play):
    """Each question stands twice in the first step, with 2 and 8 of 8 right: 10 of 16 is solved.
    Its BCQ and NCQ fail.
    """
    world = play(
        lambda name, kind, visit: (2, 8)[visit % 2] if kind == "plain" else 0,
        "--batch",
        8,
        "--aug",
        1,
        questions=4,
        steps=1,
    )
    step = world.steps[0]
    assert Counter(names(of(step, "plain"))) == dict.fromkeys(world.gold, 2)
    assert len(of(step, "bcq")) == len(of(step, "ncq")) == 4
    assert len(world.run.buffer) == 0 and world.run.buffer.counts["admitted"] == {}


def test_a_bcq_group_that_is_all_wrong_does_not_hold_a_question_back(play):
    """In the buffer since step 1; in step 2 it stands twice, new with 2 and replayed with 8 of 8:
    it graduates.
    """
    world = play(
        lambda name, kind, visit: (0, 2, 8)[min(visit, 2)] if kind == "plain" else 0,
        "--batch",
        4,
        "--aug",
        2,
        "--replay",
        1,
        questions=4,
        steps=2,
    )
    assert len(of(world.steps[1], "plain", origin="replay")) == 4 and of(world.steps[1], "bcq")
    assert buffers(world)[0] and buffers(world)[1] == []


@pytest.mark.parametrize(
    "rights, accuracy", [((0, 7), "0.438"), ((6, 1), "0.438"), ((0, 8), None), ((4, 4), None)]
)
def test_a_question_that_stands_twice_is_one_visit(play, rights, accuracy):
    """With the mean of all its rollouts, in whichever order they stand."""
    world = play(
        lambda name, kind, visit: rights[visit % 2], "--batch", 8, "--aug", 0, questions=4, steps=1
    )
    assert world.run.buffer.counts["admitted"] == ({accuracy: 4} if accuracy else {})


def test_a_new_and_replayed_question_is_one_visit(play):
    world = play(lambda *a: 1, "--batch", 4, "--replay", 1, "--aug", 0, questions=4, steps=3)
    assert [len(of(s, "plain")) for s in world.steps] == [4, 8, 8]
    assert [e.visits for e in world.run.buffer.entries.values()] == [
        2
    ] * 4  # the steps after its admission


# ---- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rollout(cfg_of):
    """Real rollouts of the shipped student on NCQ prompts of hard questions, where it is right now
    and then, with their real rewards, and their advantages as train.train computes them.
    """
    cfg = cfg_of("--n", 8, "--device", "cpu", "--iterations", 1)
    lm = model.load(ROOT / "assets/student")
    pool, rng = [q for q in tiny.questions("train") if tiny.is_hard(q)][:24], random.Random(0)
    wrong = [tiny.printed(q.source, tiny.digits_of(q)) for q in pool]
    texts = [
        [tiny.summary(tiny.trace(q.source, tiny.digits_of(q), w), w)] * 8
        for q, w in zip(pool, wrong)
    ]
    prompts = [
        prompt_of(lm, q, reformulate.ncq(q.question, t, [str(w)], rng), cfg)
        for q, t, w in zip(pool, texts, wrong)
    ]
    drawn = HFEngine(lm).sample(prompts, cfg.group_size, cfg.max_response, 3, cfg.temperature)
    groups = [train_group(i, q, samples) for i, q, samples in zip(count(), pool, drawn)]
    adv = loss.advantages(
        [s.reward for g in groups for s in g.samples], [g.id for g in groups for _ in g.samples]
    ).tolist()
    assert sum(not g.zero_advantage for g in groups) >= 6
    return cfg, groups, adv


@pytest.fixture(scope="module")
def cfg_of():
    from config import flags

    return lambda *argv: flags([str(a) for a in argv])


def train_group(i, q, samples):
    from records import Group
    from reward import grade

    return Group(
        i,
        "plain",
        "new",
        q,
        tuple(
            replace(s, group_id=i, question_id=q.id, reward=grade(s.text, q.golds)) for s in samples
        ),
    )


def margin(lm, groups, cfg):
    """Mean log-prob of the rewarded less that of the other responses, averaged over the live
    groups.
    """
    out = []
    with torch.no_grad():
        for g in groups:
            if not g.zero_advantage:
                logp, _ = Policy(lm)(list(g.samples), cfg.temperature)
                each = [
                    float(x.sum()) for x in logp.split([len(s.response_ids) for s in g.samples])
                ]
                good = [x for x, s in zip(each, g.samples) if s.reward]
                bad = [x for x, s in zip(each, g.samples) if not s.reward]
                out.append(statistics.fmean(good) - statistics.fmean(bad))
    return statistics.fmean(out)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_raises_what_was_rewarded(rollout, sign, make_run):
    """One update of the shipped student at the default learning rate; with the advantages reversed,
    the reverse.
    """
    cfg, groups, adv = rollout
    lm = model.load(ROOT / "assets/student")
    run = make_run(cfg, student=lm)
    before = margin(lm, groups, cfg)
    train.update(run, groups, [sign * a for a in adv], Clock())
    change = margin(lm, groups, cfg) - before
    assert math.isfinite(change) and sign * change > 0.05


def test_a_short_run_learns_what_the_student_never_knew(tmp_path, capsys):
    """python train.py on a folder of eight questions whose facts the student's textbook misprints:
    of 64 rollouts none or hardly one is right at first, so all there is to learn from is BCQ and
    NCQ. The whole program, but for the held-out sets.
    """
    rows = []
    for q in [q for q in tiny.questions("train") if tiny.is_hard(q)][:8]:
        q.images[0].save(tmp_path / f"{q.id}.png")
        rows.append(
            {"id": q.id, "question": q.question, "answer": q.answer, "images": [f"{q.id}.png"]}
        )
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "run"
    status = train.main(
        [
            "--data",
            str(tmp_path),
            "--out",
            str(out),
            "--steps",
            "8",
            "--batch",
            "4",
            "--iterations",
            "2",
            "--lr",
            "4e-4",
            "--aug",
            "0.5",
            "--device",
            "cpu",
            "--save-every",
            "0",
        ]
    )
    assert status == 0 and "figure" in capsys.readouterr().out
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    new = [r["groups"]["new"] for r in records if r["step"]]
    assert [g["samples"] for g in new] == [64] * 8
    right = [g["correct"] for g in new]
    assert right[0] <= 3 and sum(right[-2:]) >= 24 and sum(right[-2:]) > 4 * sum(right[:2]), right
    assert sum(records[-1]["buffer"]["graduated"].values()) >= 1
    assert (out / "final/model.safetensors").is_file()


# ---- the examples in the files -------------------------------------------------------------------


@pytest.mark.parametrize("module", [buffer, loss, reformulate], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
