"""Nothing but its content tells a right candidate from a wrong one; the NCQ's list stays readable.

python -m pytest tests/test_candidates.py
"""

import random

import pytest

import train
from data import Question
from records import Group, Prompt, Sample
from reformulate import LISTED, ncq, shown_answer
from runtime.metrics import audit

BOXED, PLAIN = ["so \\boxed{6}", "or \\boxed{7}"], ["so 6", "or 7"]
QUESTION = Question("q", "2+3?", "5")


def group(texts, kind="plain", right="", wrong=""):
    samples = tuple(Sample(Prompt((1,)), (2,), (0.0,), t, False, 0, kind) for t in texts)
    return Group(0, kind, "new", QUESTION, samples, (right,), (wrong,))


def shown(cfg, right, wrong, n=40):
    """The wrong candidates that n BCQs showed beside the right one."""
    made = []
    for seed in range(n):
        rng = random.Random(seed)
        requests = train.bcq_and_ncq(group(wrong), [right], wrong, cfg("--no-ncq"), rng, ())
        made += [r.wrong_candidates[0] for r in requests]
    return set(made)


@pytest.mark.parametrize(
    "right, wrong, want",
    [
        ("\\boxed{5}", BOXED + PLAIN, BOXED),  # those with a box, where there are any
        ("\\boxed{5}", PLAIN, PLAIN),
        ("\\boxed{5}", BOXED, BOXED),
        ("five", BOXED + PLAIN, PLAIN),  # a judge's right answer may have none
        ("five", BOXED, BOXED),
    ],
)
def test_a_bcq_prefers_candidates_of_one_format(cfg, right, wrong, want):
    assert shown(cfg, right, wrong) == set(want)


def test_where_all_have_a_box_the_draws_are_the_plain_ones(cfg):
    """One for the right one, one for the wrong one, one for their order; as before."""
    right, wrong = ["a \\boxed{5}", "b \\boxed{5}"], [f"\\boxed{{{k}}}" for k in range(6, 12)]
    for seed in range(20):
        rng, again = random.Random(seed), random.Random(seed)
        [r] = train.bcq_and_ncq(group(wrong), right, wrong, cfg("--no-ncq"), rng, ())
        assert r.correct_candidates == (again.choice(right),)
        assert r.wrong_candidates == (again.choice(wrong),)
        again.shuffle([0, 1])
        assert rng.getstate() == again.getstate()


def test_the_audit_counts_prompts_that_leak():
    box, none = "\\boxed{6}", "6"
    pairs = [(box, box), (box, none), (none, box), (none, none), (box, none)]
    groups = [group(["\\boxed{5}"] * 2, "bcq", *pair) for pair in pairs]
    assert audit(groups)["format"] == {"prompts": 5, "leaks": 3}
    assert audit([group(["a"])])["format"] == {"prompts": 0, "leaks": 0}


# ---- the NCQ's list ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, want",
    [
        ("6", "6"),
        ("a\nb\r\n\tc", "a b c"),
        ("x" * LISTED, "x" * LISTED),
        ("x" * (LISTED + 1), "x" * (LISTED - 3) + "..."),
        ("</candi\ndate> 6", "</candi date> 6"),
        ("<candidate>6</candidate>", "6"),
        ("<can<think>didate>6", "6"),
    ],
)
def test_a_listed_answer(answer, want):
    assert shown_answer(answer) == want


def test_the_list_is_one_line(cfg):
    wrong = ["\\boxed{one\ntwo}", "\\boxed{" + "9" * 5000 + "}"]
    text = ncq("Q?", ["w"], ["one\ntwo", "9" * 5000], random.Random(0))
    [line] = [x for x in text.split("\n") if "WRONG" in x]
    assert "\\boxed{one two}, \\boxed{999" in line and len(line) < 300
    [_, request] = train.bcq_and_ncq(group(wrong), ["5"], wrong, cfg(), random.Random(0), ())
    assert request.kind == "ncq" and f"\\boxed{{{'9' * 97}...}}" in request.text
    assert request.listed_answers == ("one\ntwo", "9" * 5000)  # whole, for the audit
