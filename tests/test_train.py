"""The loop of Algorithm 1, step by step, against a plain second reading of the paper; and that a
whole run makes a student learn.

    python -m pytest tests/test_train.py

Most tests run train.train through the real job, grader, teacher and update, with scripted engines
(tests/scripted.py).
"""

import doctest
import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from scripted import N, ids_of, names, number, of

import buffer
import loss
import model
import reformulate
import tiny
import train
from data import take
from engines.hf import HFEngine
from policy import Policy
from records import Sample
from rollout import prompt_of
from runtime.files import read_jsonl
from tiny.world import response, truth

ROOT = Path(__file__).parent.parent


def mixed(name, kind, visit):
    """Question k: k - 1 of 8 right at first (so q00 to q04 are hard), one more at each visit; BCQ
    5, NCQ 1 right.
    """
    return {"plain": min(N, max(0, number(name) - 1) + visit), "bcq": 5, "ncq": 1}[kind]


def never(name, kind, visit):
    return 0


# ---- step 1: new and replayed prompts ------------------------------------------------------------


@pytest.mark.parametrize(
    "share, batch", [(0.25, 8), (0.5, 6), (0.3, 10), (0.6, 5), (1.5, 8), (0.0, 8)]
)
def test_replayed_prompts_come_on_top_of_the_new_ones(play, share, batch):
    right = lambda name, kind, visit: 0 if number(name) % 4 else 8
    world = play(right, f"--batch {batch} --replay {share} --aug 0", questions=30)
    order = take(30, 0, 0, batch * 3)
    for k, step in enumerate(world.steps):
        new, again = of(step, "plain", origin="new"), of(step, "plain", origin="replay")
        assert names(new) == [world.questions[i].id for i in order[k * batch : (k + 1) * batch]]
        assert len(again) == min(round(share * batch), len(step["buffer"]))
        assert len(new) + len(again) == len(step["groups"])
        assert len(set(names(again))) == len(again) and set(names(again)) <= set(step["buffer"])
    assert world.steps[0]["buffer"] == []
    assert share > 0.6 or len(world.steps[2]["buffer"]) > 2 * round(share * batch)
    assert share == 0 or of(world.steps[1], "plain", origin="replay")


def test_minibatches_make_one_rollout_step(play):
    """|X_new| = batch * iterations; the shares are of that."""
    world = play(never, "--batch 3 --iterations 4 --aug 0.5", questions=24, steps=2)
    assert [len(of(s, "plain", origin="new")) for s in world.steps] == [12, 12]
    assert [len(of(s, "plain", origin="replay")) for s in world.steps] == [0, 3]
    assert [len(of(s, "bcq", "ncq")) for s in world.steps] == [6, 6]


def test_no_buffer_no_replay(play):
    world = play(never, "--batch 4 --no-buffer", questions=12)
    for step in world.steps:
        assert len(of(step, "plain")) == 4 and {g.origin for g in step["groups"]} == {"new"}


def test_all_questions_of_an_epoch_come_once(play):
    world = play(mixed, "--batch 4", questions=12)
    new = [q for s in world.steps for q in names(of(s, "plain", origin="new"))]
    assert sorted(new) == sorted(world.gold)


# ---- step 2: the teacher, on hard questions only -------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 0.25, 1.0])
def test_the_teacher_is_asked_exactly_the_hard_questions(play, tau):
    """At tau itself a question is no longer hard; a question that stands twice is asked once."""
    argv = f"--batch 10 --tau {tau} --replay 0.4 --teacher-scope hard"
    world = play(mixed, argv, questions=10)
    plain = [g for s in world.steps for g in of(s, "plain")]
    for step in world.steps:
        mean = [(g.question.id, sum(s.reward for s in g.samples) / N) for g in of(step, "plain")]
        hard = {name for name, m in mean if m < tau}
        assert sorted(step["asked"]) == sorted(hard)
        assert set(names(of(step, "bcq", "ncq"))) <= hard and step["summarized"] <= hard
    easy = set(names(g for g in plain if g.mean_reward >= tau))
    assert easy - {q for s in world.steps for q in s["asked"]}
    assert any(g.mean_reward == tau for g in plain)  # both sides of the border were there


def test_grpo_asks_the_teacher_nothing(play):
    world = play(mixed, "--batch 8 --no-bcq --no-ncq")
    teacher, groups = world.job.teacher, [g for s in world.steps for g in s["groups"]]
    assert teacher.engine.asked == {} and teacher.memo.records == {}
    assert {g.kind for g in groups} == {"plain"} and len(world.job.state.buffer) > 0
    assert any(g.origin == "replay" for g in groups)  # the buffer stays


@pytest.mark.parametrize("flag, kind", [("--no-ncq", "bcq"), ("--no-bcq", "ncq")])
def test_one_reformulation_alone_takes_all_slots(play, flag, kind):
    right = lambda name, kind, visit: number(name)
    [step] = play(right, f"--batch 8 --aug 0.375 {flag}", steps=1).steps
    got = [(g.kind, g.question.id) for g in of(step, "bcq", "ncq")]
    assert got == [(kind, f"q0{i}") for i in range(3)]
    assert flag == "--no-ncq" or step["asked"] == []  # answers are for BCQ only


# ---- steps 3 to 5: pre-cap, prompts, post-cap ----------------------------------------------------


@pytest.mark.parametrize(
    "cap, solved, want, walked",
    [
        # the last column: of the hard q00 ... q03 so many are asked, ceil(missing / 2) at a time
        (1, "0123", "bcq0", 1),
        (3, "0123", "bcq0 bcq1 ncq0", 2),  # one slot left: the BCQ takes it
        (4, "0123", "bcq0 bcq1 ncq0 ncq1", 2),
        (3, "123", "bcq1 ncq0 ncq1", 2),  # the teacher fails on the hardest
        (3, "", "ncq0 ncq1 ncq2", 3),
        (2, "23", "ncq0 ncq1", 2),  # the pre-cap comes first: q02 is not among the two hardest
        (8, "0123", "bcq0 bcq1 bcq2 bcq3 ncq0 ncq1 ncq2 ncq3", 4),
        (0, "0123", "", 0),
    ],
)
@pytest.mark.parametrize("scope", ["used", "hard"])
def test_caps_and_order(play, cap, solved, want, walked, scope):
    """q00 ... q03 have 0 ... 3 of 8 right, the others all: X_new = 8, so rho_aug = cap / 8."""
    right = lambda name, kind, visit: number(name) if name < "q04" else 8
    teacher = {f"q0{i}" for i in solved}
    argv = f"--batch 8 --aug {cap / 8} --teacher-scope {scope}"
    world = play(right, argv, steps=1, teacher=teacher)
    [step] = world.steps
    asked = 4 if scope == "hard" and cap else walked
    assert sorted(step["asked"]) == [f"q0{i}" for i in range(asked)]
    [record] = world.records()
    both = sum(f"q0{i}" in teacher for i in range(asked))
    assert record["composition"] == {"groups": 8, "easy": 4, "asked": asked, "bcq": both, "ncq": 4}
    got = of(step, "bcq", "ncq")
    assert " ".join(f"{g.kind}{number(g.question.id)}" for g in got) == want
    # of those only whose prompts enter the pool
    assert step["summarized"] == {f"q0{i}" for i in range(walked)}
    for g in got:  # what they show is the question's own
        name, correct, wrong = g.question.id, g.correct_candidates, g.wrong_candidates
        shown = (1, 1) if g.kind == "bcq" else (0, N - number(name))
        assert (len(correct), len(wrong)) == shown
        assert all(t.startswith(f"{name} by the teacher") for t in correct)
        assert all(t.startswith(f"{name} try") and world.gold[name] not in t for t in wrong)
        listed = [f"\\boxed{{{a}}}" for a in g.listed_answers]
        prompt = world.text(g.samples[0].prompt)
        assert all(text in prompt for text in (*correct, *wrong, *listed))


def test_the_caps_hold_in_every_step_with_replay(play):
    """They are shares of the new questions, not of all: the replayed ones take no more slots."""
    world = play(never, "--batch 8 --replay 1 --aug 0.25", questions=24)
    assert [len(of(s, "plain")) for s in world.steps] == [8, 16, 16]
    assert all(len(of(s, "bcq", "ncq")) == 2 for s in world.steps)
    assert len(world.steps[0]["summarized"]) == 1  # a BCQ and an NCQ of one question fill the pool
    assert all(len(s["summarized"]) <= 2 for s in world.steps)  # of the pre-cap's questions only


def test_ties_of_the_pre_cap_fall_by_lot(play):
    """Where all fail alike, new and replayed questions are both reformulated, over a few steps of a
    few seeds.
    """
    origins = Counter()
    for seed in range(6):
        flags = f"--batch 6 --replay 1 --aug 0.34 --seed {seed}"
        world = play(never, flags, questions=30, steps=4)
        origins.update(g.origin for s in world.steps[1:] for g in of(s, "bcq"))
    assert origins["new"] and origins["replay"] and origins.total() == 18


# ---- step 6: baselines and the standard deviation ------------------------------------------------


def by_hand(groups, norm):
    """Eqs. 2 and 3 for groups as they were sampled, whatever their ids say."""
    rewards = [[s.reward for s in g.samples] for g in groups]
    centred = [[r - statistics.fmean(rs) for r in rs] for rs in rewards]
    live = [a for g in centred for a in g if norm == "all" or len(set(g)) > 1]
    std = 1.0 if norm == "none" else statistics.pstdev(live)
    return [a / std for g in centred for a in g]


@pytest.mark.parametrize("norm", ["nonzero", "all", "none"])
def test_advantages_by_hand(play, norm):
    """q02 has 2 of 8 right alone, 5 with BCQ and 1 with NCQ: three groups of one question, three
    baselines.
    """
    world = play(mixed, f"--batch 8 --aug 1 --norm {norm}")
    for step in world.steps:
        groups, adv = step["groups"], step["adv"]
        assert len(adv) == N * len(groups) and adv == pytest.approx(by_hand(groups, norm), abs=1e-6)
        assert [g.id for g in groups] == list(range(len(groups)))  # no two groups share a baseline
        for i, g in enumerate(groups):
            said = {(s.group_id, s.kind, s.question_id) for s in g.samples}
            assert said == {(g.id, g.kind, g.question.id)}
            assert len({s.prompt.ids for s in g.samples}) == 1 and len(g.samples) == N
            own = list(zip(adv[i * N : (i + 1) * N], g.samples))
            if g.zero_advantage:
                assert {a for a, _ in own} == {0.0}
            else:
                assert all((a > 0) if s.reward else (a < 0) for a, s in own)
        assert max(Counter(names(groups)).values()) >= 3
        if any(g.zero_advantage for g in groups):  # there the three norms differ
            live = torch.tensor([a for a in adv if a])
            assert (norm == "nonzero") == (abs(live.std(correction=0) - 1) < 1e-3)
    assert any(g.zero_advantage for s in world.steps for g in s["groups"])
    first = [g for g in world.steps[0]["groups"] if g.question.id == "q02"]
    right = {g.kind: sum(s.reward for s in g.samples) for g in first}
    assert right == {"plain": 1, "bcq": 5, "ncq": 1}


def test_what_is_logged_is_what_was_trained_on(play):
    world = play(mixed, "--batch 8 --aug 1")
    for record, step in zip(world.records(), world.steps, strict=True):
        parts = {origin: of(step, "plain", origin=origin) for origin in ("new", "replay")}
        parts |= {kind: of(step, kind) for kind in ("bcq", "ncq")}
        for kind, groups in parts.items():
            logged, live = record["groups"][kind], [g for g in groups if not g.zero_advantage]
            assert logged["groups"] == len(groups)
            assert logged["correct"] == sum(s.reward for g in groups for s in g.samples)
            assert logged["positive"] == sum(s.reward for g in live for s in g.samples)


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


def test_the_buffer_over_several_steps(play):
    right = lambda *at: 0 if at[0] < "q03" and at[1] == "plain" else mixed(*at)
    world = play(right, "--batch 8 --aug 1 --replay 0.5", questions=12, steps=6)
    assert world.buffers() == second_reading(world)
    assert sum(world.job.state.buffer.counts["graduated"].values()) == 2
    assert sorted(world.job.state.buffer.entries) == ["q00", "q01", "q02"]


def test_a_bcq_group_that_is_all_right_graduates_nothing(play):
    """All plain rollouts fail, all BCQ and NCQ rollouts succeed: every question is admitted, and
    stays.
    """
    right = lambda name, kind, visit: 0 if kind == "plain" else 8
    world = play(right, "--batch 4 --aug 2", questions=4)
    entries, counts = world.job.state.buffer.entries, world.job.state.buffer.counts
    assert all(len(of(s, "bcq")) >= 4 for s in world.steps)
    assert [sorted(b) for b in world.buffers()] == [sorted(world.gold)] * 3
    assert counts["graduated"] == {} and set(counts["admitted"]) == {"0.000"}
    assert all(e.best == 0 and e.visits == 2 for e in entries.values())


def test_a_bcq_group_that_is_all_wrong_admits_nothing(play):
    """Each question stands twice in the first step, with 2 and 8 of 8 right: 10 of 16 is solved.
    Its BCQ and NCQ fail.
    """
    right = lambda name, kind, visit: (2, 8)[visit % 2] if kind == "plain" else 0
    world = play(right, "--batch 8 --aug 1", questions=4, steps=1)
    [step] = world.steps
    assert Counter(names(of(step, "plain"))) == dict.fromkeys(world.gold, 2)
    assert len(of(step, "bcq")) == len(of(step, "ncq")) == 4
    assert len(world.job.state.buffer) == 0 and world.job.state.buffer.counts["admitted"] == {}


def test_a_bcq_group_that_is_all_wrong_does_not_hold_a_question_back(play):
    """In the buffer since step 1; in step 2 it stands twice, new with 2 and replayed with 8 of 8:
    it graduates.
    """
    right = lambda name, kind, visit: (0, 2, 8)[min(visit, 2)] if kind == "plain" else 0
    world = play(right, "--batch 4 --aug 2 --replay 1", questions=4, steps=2)
    assert len(of(world.steps[1], "plain", origin="replay")) == 4 and of(world.steps[1], "bcq")
    assert world.buffers()[0] and world.buffers()[1] == []


@pytest.mark.parametrize(
    "rights, accuracy", [((0, 7), "0.438"), ((6, 1), "0.438"), ((0, 8), None), ((4, 4), None)]
)
def test_a_question_that_stands_twice_is_one_visit(play, rights, accuracy):
    """With the mean of all its rollouts, in whichever order they stand."""
    right = lambda name, kind, visit: rights[visit % 2]
    world = play(right, "--batch 8 --aug 0", questions=4, steps=1)
    assert world.job.state.buffer.counts["admitted"] == ({accuracy: 4} if accuracy else {})


def test_a_new_and_replayed_question_is_one_visit(play):
    world = play(lambda *at: 1, "--batch 4 --replay 1 --aug 0", questions=4, steps=3)
    assert [len(of(s, "plain")) for s in world.steps] == [4, 8, 8]
    visits = [e.visits for e in world.job.state.buffer.entries.values()]
    assert visits == [2] * 4  # the steps after its admission


# ---- learning ------------------------------------------------------------------------------------


def chance_of_the_truth(lm, questions, cfg):
    """Mean probability of the response that is right, steps and all: what no lesson of the student
    holds.
    """
    chances = []
    for q in questions:
        prompt, _ = HFEngine(lm).fitted(prompt_of(lm, q, q.question, cfg), 0)
        digits, answer = tiny.digits_of(q), truth(q.source, tiny.digits_of(q))
        text = response(tiny.trace(q.source, digits, answer), answer)
        ids = ids_of(lm, text) + lm.eos_ids[:1]
        with torch.no_grad():
            logp, _ = Policy(lm)([Sample(prompt, ids, (0.0,) * len(ids), text, False)])
        chances.append(float(logp.sum().exp()))
    return statistics.fmean(chances)


def test_a_short_run_learns_what_the_student_never_knew(tmp_path, capsys, cfg):
    """python train.py on a folder of eight questions whose facts the student's textbook misprints,
    so that there is hardly more to learn from than BCQ and NCQ. The whole program, but for the
    held-out sets.

    The mean chance of the truth is 0.0006 at first; over four seeds it came to 0.13, 0.26, 0.22 and
    0.25.
    """
    questions = [q for q in tiny.questions("train") if tiny.is_hard(q)][:8]
    rows, out = [], tmp_path / "run"
    for q in questions:
        q.images[0].save(tmp_path / f"{q.id}.png")
        row = {"id": q.id, "question": q.question, "answer": q.answer, "images": [f"{q.id}.png"]}
        rows.append(json.dumps(row) + "\n")
    (tmp_path / "questions.jsonl").write_text("".join(rows))
    argv = f"--data {tmp_path} --out {out} --device cpu --save-every 0"
    argv += " --steps 4 --batch 4 --iterations 2 --lr 1e-3 --aug 0.5"
    assert train.main(argv.split()) == 0 and "figure" in capsys.readouterr().out
    steps = [r["groups"] for r in read_jsonl(out / "metrics.jsonl") if r["step"]]
    assert [groups["new"]["samples"] for groups in steps] == [64] * 4
    first = {kind: counts["correct"] for kind, counts in steps[0].items()}
    assert first["new"] <= 3 < first["bcq"] + first["ncq"]
    before, after = (
        chance_of_the_truth(model.load(folder), questions, cfg(argv))
        for folder in (ROOT / "assets/student", out / "final")
    )
    assert before < 0.001 and after > 0.03, (before, after)


# ---- the examples in the files -------------------------------------------------------------------


@pytest.mark.parametrize("module", [buffer, loss, reformulate], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
