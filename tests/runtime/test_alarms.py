"""What a person is told while a run goes on, once each, and that nothing is told without a cause.

python -m pytest tests/runtime/test_alarms.py
"""

import json
from types import SimpleNamespace

import pytest

import baselines
import model
import tiny
import train
from data import Question
from engines.hf import HFEngine
from eval import by_family
from records import Group, Prompt, Reformulation, Sample
from runtime import alarms, console
from runtime.files import append_jsonl, read_jsonl
from runtime.metrics import by_kind, composition, shown_questions
from teacher import Teacher

QUESTION = Question("q", "2+3?", "5")
WORDS = {
    "all wrong": "rewards of the first 3 steps are 0",
    "all right": "rewards of the first 3 steps are 1",
    "truncated": "cut off at --max-response",
    "no spread": "no group of the first 3 steps has both",
    "teacher wrong": "the teacher solved none",
    "summaries": "--no-compress",
}


# ---- by hand -------------------------------------------------------------------------------------


def group(i, *rows):
    """rows: (text, reward) or (text, reward, cut off)."""
    samples = []
    for text, reward, *cut in rows:
        sample = Sample(Prompt((1,)), (2, 3), (0.0, 0.0), text, bool(cut), i, reward=reward)
        samples.append(sample)
    return Group(i, "plain", "new", QUESTION, tuple(samples))


RIGHT, WRONG = ("\\boxed{5}", 1.0), ("\\boxed{6}", 0.0)
CUT = ("6 is", 0.0, True)
MIXED = group(0, RIGHT, WRONG)


class Run:
    """steps of alarms.check; told: all that was said, one list a step."""

    def __init__(self, cfg, state=None):
        self.cfg, self.state, self.told = cfg, {} if state is None else state, []

    def step(self, *groups, solved=1, asked=0, usable=0):
        """solved: how many of the hard groups the teacher solves."""
        hard = [g for g in groups if g.mean_reward < self.cfg.tau]
        answers = {g.id: [1] if k < solved else [] for k, g in enumerate(hard)}
        made = Reformulation([], answers, 0, asked, usable)
        adv = [0.0] * sum(len(g.samples) for g in groups)
        record = {"groups": by_kind(groups, adv), "composition": composition(groups, answers)}
        self.told.append(alarms.check(self.state, record, groups, made, self.cfg))
        return self


@pytest.fixture
def run(cfg):
    return lambda *argv, state=None: Run(cfg(*argv), state)


def test_nothing_is_said_of_a_run_that_learns(run):
    r = run()
    for _ in range(8):
        r.step(MIXED, group(1, WRONG, WRONG), asked=10, usable=8)
    assert r.told == [[]] * 8


def test_all_wrong_with_the_three_commonest_reasons(run):
    r, no_box = run(), ("five", 0.0)
    for _ in range(3):
        r.step(group(0, WRONG, WRONG, WRONG, no_box, no_box, CUT), group(1, ("\\boxed{7}", 0.0)))
    first, second, [message] = r.told
    assert first == second == [] and "all 21 rewards of the first 3 steps are 0" in message
    reasons = "3 answer '6' where '5' is right; 2 have no \\boxed{}; 1 were cut off"
    assert reasons in message


def test_all_right(run):
    r = run()
    for _ in range(5):
        r.step(group(0, RIGHT, RIGHT))
    assert [len(told) for told in r.told] == [0, 0, 1, 0, 0] and WORDS["all right"] in r.told[2][0]


def test_no_spread(run):
    r = run()
    for _ in range(4):
        r.step(group(0, RIGHT, RIGHT), group(1, WRONG, WRONG))
    assert [len(told) for told in r.told] == [0, 0, 1, 0] and WORDS["no spread"] in r.told[2][0]
    r = run()
    for k in range(4):  # one group with spread is enough
        r.step(MIXED if k == 1 else group(0, RIGHT, RIGHT), group(1, WRONG, WRONG))
    assert r.told == [[]] * 4


@pytest.mark.parametrize("method", ["off-distill", "on-distill"])
def test_a_divergence_needs_no_spread(run, method):
    r = run("--method", method)
    for _ in range(4):
        r.step(group(0, RIGHT, RIGHT), group(1, WRONG, WRONG))
    alike = run("--method", method)
    for _ in range(4):
        alike.step(group(0, RIGHT, RIGHT))
    assert r.told == alike.told == [[]] * 4


@pytest.mark.parametrize("cut, total, rings", [(1, 4, False), (2, 7, True), (4, 4, True)])
def test_cut_off_above_a_quarter(run, cut, total, rings):
    r = run().step(group(0, *[CUT] * cut, *[RIGHT] * (total - cut)))
    assert bool(r.told[0]) == rings
    if rings:
        [message] = r.told[0]
        share = f"{cut / total:.0%} of the responses"
        assert share in message and "--max-response 40" in message and "--no-thinking" in message


@pytest.mark.parametrize(
    "argv, what",
    [
        ((), "BCQ"),
        (("--method", "hint"), "hint prompt"),
        (("--method", "off-distill"), "token to learn from"),
    ],
)
def test_a_teacher_that_is_never_right(run, argv, what):
    r = run(*argv)
    for _ in range(4):
        r.step(MIXED, group(1, WRONG, WRONG), solved=0)
    assert [len(told) for told in r.told] == [0, 0, 1, 0]
    assert f"none of the 3 hard questions so far, so there is no {what};" in r.told[2][0]


@pytest.mark.parametrize("argv", [("--method", "grpo"), ("--no-bcq",), ("--aug", 0)])
def test_a_teacher_that_is_not_asked_is_not_blamed(run, argv):
    r = run(*argv)
    for _ in range(4):
        r.step(MIXED, group(1, WRONG, WRONG), solved=0)
    assert r.told == [[]] * 4


def test_summaries_that_are_unusable(run):
    r = run().step(MIXED, asked=19).step(MIXED, asked=1).step(MIXED, asked=20)
    assert [len(told) for told in r.told] == [0, 1, 0]  # of twenty at least
    assert "only 0 of 20 (0%)" in r.told[1][0] and WORDS["summaries"] in r.told[1][0]
    assert run().step(MIXED, asked=100, usable=21).told == [[]]
    assert run().step(MIXED, asked=100, usable=20).told != [[]]
    assert run("--no-compress").step(MIXED, asked=100, usable=0).told == [[]]


def test_a_run_shorter_than_the_early_steps_is_told_at_its_end(run):
    r = run("--steps", 1).step(group(0, WRONG, WRONG), solved=0)
    assert len(r.told[0]) == 2 and "the first 1 step are 0" in r.told[0][0]


def test_a_resumed_run_counts_on_and_says_nothing_twice(run):
    all_wrong = group(0, WRONG, CUT)
    r = run().step(all_wrong).step(all_wrong)
    saved = json.loads(json.dumps(r.state))  # as in state.json
    again = run(state=saved).step(all_wrong).step(all_wrong)
    assert [len(told) for told in r.told] == [1, 0] and WORDS["truncated"] in r.told[0][0]
    assert [len(told) for told in again.told] == [1, 0] and WORDS["all wrong"] in again.told[0][0]


# ---- in the loop ---------------------------------------------------------------------------------


class Stop:
    """A StopSignal that nobody pulls."""

    bar = None

    def __call__(self):
        return False

    def on_all_ranks(self):
        pass


def ask(k):
    return Question(f"q{k:02d}", f"Item q{k:02d}?", str(100 + k))


SMALL = "--batch 4 --iterations 1 --n 2 --aug 1 --save-every 0 --max-response 12".split()


def play(job, cfg, student):
    """Run the loop with an engine for the student; returns {alarm: step} of what was told."""
    job.engine, job.method = student, job.method or train.ZPPO
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "check_sampler", lambda *a: None)  # scripted log-probs
        train.train(cfg, job, Stop())
    told = {}
    for record in read_jsonl(job.out / "metrics.jsonl"):
        for message in record["alarms"]:
            [name] = [n for n, words in WORDS.items() if words in message]
            assert name not in told
            told[name] = record["step"]
    return told


def test_a_random_student_with_a_random_teacher(make_job, lm, cfg, capsys):
    """Nothing is ever right, all is cut off, and no summary has its tags."""
    settings = cfg(*SMALL, "--steps", 4)
    job = make_job(settings, questions=tiny.questions("train")[:8], student=tiny.new_model(0))
    told = play(job, settings, job.engine)
    late = {name: told.pop(name) for name in ("summaries",)}
    assert told == {"truncated": 1, "all wrong": 3, "teacher wrong": 3} and late["summaries"] <= 4
    err = capsys.readouterr().err
    assert all(err.count(WORDS[name]) == 1 for name in told) and "cut off" in err
    # the end says it once more
    text = console.summary({}, {}, job.state.buffer, job.out)
    assert "learned nothing" in text and all(f"warning: {m}" in text for m in messages(job))


def messages(job):
    return [m for r in read_jsonl(job.out / "metrics.jsonl") for m in r["alarms"]]


@pytest.fixture
def scripted_run(make_job, scripted, lm, cfg):
    """scripted_run(right, *flags) -> {alarm: step}; right(k): whether try k of a prompt is."""

    def run(right, *argv, teacher=True, summary=True, resume=None):
        settings = cfg(*SMALL, *argv)

        def said(prompt, good):
            k = int(prompt.split("Item q")[1][:2])
            return f"\\boxed{{{100 + k if good else 77}}}"

        def reply(prompt, k):
            if "<response>" in prompt:
                text = prompt.split("<response>")[1].split("</response>")[0].strip()
                return f"<summary>{text}</summary>" if summary else "no"
            return said(prompt, teacher)

        job = make_job(settings, reply, [ask(k) for k in range(8)], student=tiny.new_model(0))
        if resume:
            job.state.load(json.loads(json.dumps(resume)))
        told = play(job, settings, scripted(lm, lambda prompt, k: said(prompt, right(k))))
        run.samples = read_jsonl(job.out / "samples.jsonl")
        return told, job.checkpoints.captured

    return run


def test_all_right_in_the_loop(scripted_run):
    assert scripted_run(lambda k: True, "--steps", 4)[0] == {"all right": 3}


def test_all_wrong_in_the_loop_is_not_told_again_after_a_resume(scripted_run):
    told, saved = scripted_run(lambda k: False, "--steps", 3)
    assert told == {"all wrong": 3} and saved["step"] == 3
    assert scripted_run(lambda k: False, "--steps", 5, resume=saved)[0] == {}
    begun = scripted_run(lambda k: False, "--steps", 5)[1]
    assert begun["alarms"]["told"] == ["all wrong"]


def test_a_weak_teacher_in_the_loop(scripted_run):
    spread = lambda k: k % 2 == 0 and k % 8 == 0
    told, _ = scripted_run(spread, "--steps", 5, teacher=False, summary=False)
    assert told["teacher wrong"] == 3 and "summaries" in told
    assert set(told) == {"teacher wrong", "summaries"}
    # what was sampled can be looked at although nothing was reformulated
    shown = scripted_run.samples
    assert {r["step"] for r in shown} == set(range(1, 6)) and {r["kind"] for r in shown} == {
        "plain"
    }
    assert scripted_run(spread, "--steps", 5, "--no-compress")[0] == {}


def test_no_spread_in_the_loop(make_job, scripted, lm, cfg):
    settings = cfg("--method", "grpo", "--batch", 4, "--iterations", 1, "--n", 2, "--steps", 4)
    job = make_job(settings, questions=[ask(k) for k in range(8)], student=tiny.new_model(0))
    job.method = baselines.method_of("grpo")

    def said(prompt, k):
        number = int(prompt.split("Item q")[1][:2])
        return f"\\boxed{{{100 + number if number % 2 else 77}}}"

    assert play(job, settings, scripted(lm, said)) == {"no spread": 3}


@pytest.mark.slow
def test_the_tiny_run_rings_nothing(make_job, cfg):
    """The default run's first steps: trained student, trained teacher."""
    settings = cfg("--steps", 6, "--save-every", 0)
    student = model.load(settings.student_path, "float32", "cpu")
    job = make_job(settings, questions=tiny.questions("train"), student=student)
    teacher = HFEngine(model.load(settings.teacher_path, "float32", "cpu"))
    job.teacher = Teacher(teacher, job.teacher.memo, settings)
    assert play(job, settings, job.engine) == {}


# ---- samples are always shown --------------------------------------------------------------------


def question_group(i, name, reward, kind="plain"):
    sample = Sample(Prompt((1,)), (2,), (0.0,), "", False, i, kind, name, reward)
    return Group(i, kind, "new", Question(name, name, "1"), (sample, sample))


@pytest.mark.parametrize(
    "groups, k, shown",
    [
        ([("a", 0, "plain"), ("b", 0, "plain"), ("c", 0, "plain")], 2, {"a", "b"}),
        ([("a", 0, "plain"), ("b", 0.5, "plain"), ("c", 1, "plain")], 1, {"a", "c"}),
        ([("a", 0, "plain"), ("b", 0, "plain"), ("b", 1, "ncq")], 1, {"b"}),
        ([("a", 0, "plain"), ("b", 0, "plain"), ("b", 1, "bcq")], 3, {"a", "b"}),
        ([("a", 0, "plain")], 0, set()),
        ([], 3, set()),
    ],
)
def test_which_questions_are_shown(groups, k, shown):
    made = [question_group(i, *g) for i, g in enumerate(groups)]
    assert shown_questions(made, k) == shown


# ---- the last words of a run ---------------------------------------------------------------------


BUFFER = SimpleNamespace(counts={"admitted": {}, "graduated": {}})


def last_words(tmp_path, monkeypatch, before, after, told=()):
    monkeypatch.setattr(console, "draw", lambda out: [])
    new = {"correct": 0, "samples": 8}
    records = [{"step": k, "groups": {"new": new}, "alarms": list(told)} for k in range(1, 2)]
    append_jsonl(tmp_path / "metrics.jsonl", records)
    return console.summary(before, after, BUFFER, tmp_path)


def answers(n, right):
    """Held-out results: (question id, family, 0.0 or 1.0), as eval gives them."""
    rows = [(f"q{k}", "sums", float(k < right)) for k in range(n)]
    assert by_family(rows)["all"] == [right, n]
    return {"heldout": rows}


@pytest.mark.parametrize(
    "n, was, now, learned",
    [
        (40, 10, 30, True),
        (40, 10, 10, False),
        (40, 30, 10, False),
        (2, 0, 2, False),
        (1, 0, 1, False),
    ],
)
def test_a_run_that_learned_nothing_says_so(tmp_path, monkeypatch, n, was, now, learned):
    text = last_words(tmp_path, monkeypatch, answers(n, was), answers(n, now))
    assert ("learned nothing" in text) == (not learned) and ("gained" in text) == learned


def test_without_held_out_questions_it_says_so_too(tmp_path, monkeypatch):
    text = last_words(tmp_path, monkeypatch, {}, {}, told=["the teacher is wrong"])
    assert "learned nothing" in text and "warning: the teacher is wrong" in text
