"""A flag that would do nothing is refused in one line, or said; and what the baselines do with what
their flags leave them.

python -m pytest tests/test_idle_flags.py
"""

import random
from dataclasses import replace

import pytest

import baselines
from config import DISTILL, METHODS, flags, needs_teacher, wants_answers
from data import Question
from distributed import World
from records import Group, Prompt, Sample
from rollout import prompt_of
from runtime import launch
from runtime.metrics import Clock
from train import ZPPO

GRPO, BARE = ("--method", "grpo"), ("--no-bcq", "--no-ncq")
OFF, ON = (("--method", method) for method in DISTILL)


def refused(argv):
    """The error of these flags, one line."""
    with pytest.raises(ValueError) as e:
        flags([str(a) for a in argv])
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    "argv, flag, why",
    [
        *[((*GRPO, *f), f[0], "grpo") for f in (("--teacher-n", 8), ("--teacher-max", 8))],
        *[((*GRPO, *f), f[0], "grpo") for f in (("--aug", 1), ("--max-summary", 99))],
        *[((*GRPO, f), f, "grpo") for f in ("--fresh-teacher", "--compress")],
        *[((*BARE, *f), f[0], "BCQ and NCQ") for f in (("--teacher-n", 8), ("--aug", 1))],
        *[((*BARE, f), f, "BCQ and NCQ") for f in ("--fresh-teacher", "--compress")],
        ((*BARE, "--max-summary", 9), "--max-summary", "BCQ and NCQ"),
        (("--no-bcq", "--teacher-max", 64), "--teacher-max", "without BCQ "),
        (("--no-buffer", "--replay", 0.5), "--replay", "--no-buffer"),
        (("--no-buffer", "--capacity", 9), "--capacity", "--no-buffer"),
        (("--no-compress", "--max-summary", 9), "--max-summary", "--no-compress"),
        (("--fresh-teacher", "--teacher-max", 9), "--teacher-max", "--fresh-teacher"),
        *[((*m, "--aug", 1), "--aug", m[1]) for m in (OFF, ON)],
        *[((*m, "--compress"), "--compress", m[1]) for m in (OFF, ON)],
        *[((*m, "--max-summary", 9), "--max-summary", m[1]) for m in (OFF, ON)],
        *[((*m, "--clip-low", 0.1), "--clip-low", m[1]) for m in (OFF, ON)],
        *[((*m, "--flat-share", 0.5), "--flat-share", m[1]) for m in (OFF, ON)],
        *[((*OFF, *f), f[0], "off-d") for f in (("--teacher-max", 8), ("--fresh-teacher",))],
        *[((*ON, *f), f[0], "on-d") for f in (("--teacher-n", 8), ("--fresh-teacher",))],
        *[((*ON, *f), f[0], "on-d") for f in (("--top-p", 0.9), ("--teacher-cache", "x"))],
        ((*ON, "--teacher-ranks", 1), "--teacher-ranks", "on-distill"),
        ((*GRPO, "--teacher-ranks", 1), "--teacher-ranks", "grpo"),
        (("--method", "hint", "--compress"), "--compress", "hint"),
        (("--method", "prefix", "--max-summary", 9), "--max-summary", "prefix"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(argv, flag, why):
    message = refused(argv)
    assert message.endswith(f"{flag} would do nothing") and why in message


@pytest.mark.parametrize(
    "argv",
    [
        *[("--method", m) for m in METHODS],
        (*GRPO, "--no-compress", "--aug", 0, "--no-fresh-teacher", "--teacher-ranks", -1),
        ("--no-buffer", "--replay", 0),
        ("--teacher-n", 8, "--teacher-max", 16, "--aug", 1, "--max-summary", 9, "--compress"),
        ("--no-bcq", "--aug", 1, "--max-summary", 9, "--compress"),
        ("--method", "hint", "--teacher-n", 8, "--fresh-teacher", "--aug", 1, "--max-summary", 9),
        ("--method", "prefix", "--teacher-n", 8, "--teacher-max", 9, "--aug", 1),
        (*OFF, "--teacher-n", 8, "--top-p", 0.9),
        (*GRPO, "--teacher", "tiny", "--teacher-cache", "x"),  # as a judge
        *[(*m, "--tau", 0.9, "--replay", 1, "--capacity", 9) for m in (GRPO, OFF, ON)],
    ],
)
def test_what_does_something_or_says_what_is_so_passes(argv):
    assert flags([str(a) for a in argv])


@pytest.mark.parametrize("argv", [(), ("--no-bcq",), ("--method", "hint"), ("--method", "prefix")])
def test_without_room_for_reformulated_prompts_there_is_no_teacher(argv):
    cfg = flags([*argv, "--aug", "0"])
    assert not needs_teacher(cfg) and not wants_answers(cfg) and "--aug 0 " in cfg.notes[0]
    assert flags(["--student", "./my-model", "--device", "cpu", "--aug", "0", *argv])
    assert needs_teacher(flags(list(argv))) and flags(list(argv)).notes == ()


def test_off_distill_without_reformulated_prompts_still_has_its_teacher():
    assert needs_teacher(flags([*OFF, "--aug", "0"]))


def test_what_costs_more_or_does_less_is_said():
    [note] = flags(["--iterations", "8"]).notes
    assert "--iterations 8" in note and "64 new prompts" in note
    assert flags(["--iterations", "8", "--batch", "4"]).notes == ()
    [note] = flags(["--batch", "1", "--iterations", "2"]).notes
    assert "--aug 0.25 of 2 new prompts" in note


@pytest.mark.parametrize("method", DISTILL)
def test_a_distillations_batch_is_what_the_flag_says(method):
    given = flags(["--method", method, "--batch", "5"])
    assert (given.batch, given.iterations, given.new_prompts) == (5, 1, 5)
    assert flags(["--method", method]).new_prompts == flags([]).new_prompts


def test_on_distill_may_have_a_judge():
    """Free-form answers need one, and its teacher is read, not asked."""
    url = ("--teacher-url", "http://localhost:1")
    judged = flags([*ON, *url, "--teacher", "tiny"])
    assert needs_teacher(judged) and not wants_answers(judged) and judged.teacher_ranks == 0
    assert flags([*ON, *url]).teacher == "tiny"
    assert "--teacher-url is the teacher" in refused([*OFF, *url])
    assert "--teacher-url is the teacher" in refused([*ON, *url, "--teacher-ranks", 1])
    assert "needs a --teacher" in refused([*ON, *url, "--student", "./x", "--device", "cpu"])


# ---- without a teacher ---------------------------------------------------------------------------


def hard_groups(n, reward=0.0):
    """n plain groups of two samples, all wrong."""
    groups = []
    for i in range(n):
        q = Question(f"q{i}", f"What is {i}+1?", str(i + 1))
        s = Sample(Prompt((1,)), (2,), (0.0,), "\\boxed{77}", False, i, "plain", q.id, reward)
        groups.append(Group(i, "plain", "new", q, (s, s)))
    return groups


@pytest.mark.parametrize("method", ["zppo", "hint", "prefix"])
def test_a_step_without_room_asks_nobody(method, engine, cfg):
    settings = cfg("--method", method, "--aug", 0)
    chosen = ZPPO if method == "zppo" else baselines.method_of(method)
    clock, rng = Clock(), random.Random(0)
    made = chosen.reformulate(hard_groups(3), 1, settings, engine, None, World(), rng, clock)
    assert made.requests == [] and list(made.teacher_answers) == [0, 1, 2]


# ---- hints and prefixes --------------------------------------------------------------------------


class Told:
    """A teacher that solves all questions; its hint gives the answer away where leaks says so."""

    def __init__(self, leaks):
        self.leaks, self.asked = leaks, []

    def keep_only(self, questions):
        pass

    def answers(self, questions, step):
        return [[Sample(Prompt(()), (5, 6), (), q.answer, False, reward=1.0)] for q in questions]

    def hints(self, questions, texts):
        self.asked.append([q.id for q in questions])
        said = lambda q: f"It is {q.answer}." if q.id in self.leaks else "Count on by one."
        return [f"<hint>{said(q)}</hint>" for q in questions]


def hinted(leaks, engine, cfg, cap=2, n=5):
    teacher, settings = Told(leaks), cfg("--method", "hint", "--batch", 1, "--aug", cap / 4)
    args = settings, engine, teacher, World(), random.Random(0), Clock()
    made = baselines.hints(hard_groups(n), 1, *args)
    return [r.question.id for r in made.requests], teacher.asked


def test_a_dropped_hint_passes_its_slot_on(engine, cfg):
    kept, asked = hinted((), engine, cfg)
    assert len(kept) == 2 and asked == [kept]  # nobody else was asked
    leaky = kept[0]
    again, asked = hinted((leaky,), engine, cfg)
    assert len(again) == 2 and leaky not in again and kept[1] in again
    assert [len(some) for some in asked] == [2, 1]


def test_where_all_hints_give_it_away_nothing_comes_back(engine, cfg):
    kept, asked = hinted([f"q{i}" for i in range(5)], engine, cfg)
    assert kept == [] and sorted(q for some in asked for q in some) == [f"q{i}" for i in range(5)]


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("text", ["<think>\nabc", "abc", "\n<think>abc"])
def test_a_prefix_never_opens_think_twice(engine, cfg, thinking, text):
    settings = cfg(*([] if thinking else ["--no-thinking"]), "--method", "prefix", "--aug", 1)
    tokenizer = engine.lm.tokenizer
    ids = tuple(tokenizer(f"{text}</think>" + "x" * 90, add_special_tokens=False)["input_ids"])
    teacher = Told(())
    answer = Sample(Prompt(()), ids, (), text, False, reward=1.0)
    teacher.answers = lambda questions, step: [[replace(answer)] for _ in questions]
    args = settings, engine, teacher, World(), random.Random(0), Clock()
    [request, *_] = baselines.prefixes(hard_groups(1), 1, *args).requests
    prompt = prompt_of(engine.lm, request.question, request.text, settings, request.prefix)
    written = tokenizer.decode(prompt.ids).partition("assistant\n")[2]
    assert written.count("<think>") == 1 and "abc" in written


def test_an_off_distillation_knows_what_its_teacher_solved(engine, cfg):
    """Or it would be told after three steps that the teacher solves nothing."""
    teacher = Told(())
    teacher.fresh_answers = lambda questions, step, n: teacher.answers(questions, step)
    method = baselines.method_of("off-distill")
    settings = cfg(*OFF)
    args = settings, engine, teacher, World(), random.Random(0), Clock()
    made = method.reformulate(hard_groups(2), 1, *args)
    assert {k: len(v) for k, v in made.teacher_answers.items()} == {0: 1, 1: 1}
    assert launch.needs_teacher(settings)
