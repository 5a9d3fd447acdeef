"""BCQ and NCQ: which questions, what the prompts say, and that nothing gives a label away or breaks
out of its block.

python -m pytest tests/test_reformulate.py
"""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import reformulate
import train
from processor import CLOSER, control_strings
from records import KINDS, Group, RolloutRequest, Sample
from reformulate import CANDIDATE, TAGS, bcq, clean, distinct, ncq, post_cap, pre_cap
from reward import grade
from rollout import request_prompt, rollout
from runtime.metrics import Clock


def blocks(text):
    """What stands in the candidate blocks of a prompt text."""
    return re.findall(r"<candidate>\n(.*?)\n</candidate>", text, re.DOTALL)


# ---- pre-cap and post-cap (Algorithm 1, steps 3 and 5) -------------------------------------------

MEANS = [0.25, 0.0, 0.5, 0.125, 0.0, 1.0, 0.25]


@pytest.mark.parametrize(
    "cap, want",
    [(0, []), (1, [1]), (2, [1, 4]), (3, [1, 4, 3]), (4, [1, 4, 3, 0]), (9, [1, 4, 3, 0, 6])],
)
def test_pre_cap_by_hand(cap, want):
    """Ascending mean, a question at tau is not hard; ties (1 and 4, 0 and 6) fall by lot, so only
    their sets are certain.
    """
    got = pre_cap(MEANS, 0.5, cap, random.Random(0))
    assert MEANS == [0.25, 0.0, 0.5, 0.125, 0.0, 1.0, 0.25]
    assert [MEANS[i] for i in got] == [MEANS[i] for i in want] and len(set(got)) == len(got)
    if cap >= 5:
        assert sorted(got) == sorted(want)


def test_ties_fall_by_lot():
    """In the order of the batch the replayed questions, which stand last, would never be
    reformulated.
    """
    rng, first = random.Random(0), [0] * 5
    for _ in range(3000):
        first[pre_cap([0.0] * 5, 0.5, 1, rng)[0]] += 1
    assert all(500 < n < 700 for n in first), first  # 600 expected, standard deviation 22


def test_pre_cap_without_hard_questions():
    for means in ([0.5, 1.0], []):
        assert pre_cap(means, 0.5, 5, random.Random(0)) == []


@pytest.mark.parametrize("cap", [0, 1, 2, 3, 5, 99])
def test_post_cap_by_hand(cap):
    """At 3 one slot is left: the BCQ takes it. 7 has no BCQ, so its NCQ takes a slot; 8 has
    neither.
    """
    want = ["3b", "3n", "1b", "1n", "7n"][:cap]
    assert post_cap([["3b", "3n"], ["1b", "1n"], ["7n"], []], cap) == want


# ---- no leak of the label ------------------------------------------------------------------------


def test_order_is_even_over_many_draws():
    """50 +- 3 % from one run rng, over all and for each question, with the other draws of a run in
    between.
    """
    rng, first = random.Random(0), Counter()
    for i in range(12_000):
        rng.choice("abcd")
        first[i % 4] += blocks(bcq(f"question {i % 4}", "RIGHT", "WRONG", rng))[0] == "RIGHT"
    assert first.total() / 12_000 == pytest.approx(0.5, abs=0.03)
    assert all(n / 3000 == pytest.approx(0.5, abs=0.03) for n in first.values())


def test_swapping_right_and_wrong_gives_the_same_texts():
    pairs = ("one 1", "two 2"), ("two 2", "one 1")
    texts = [{bcq("Q?", *pair, random.Random(i)) for i in range(40)} for pair in pairs]
    assert texts[0] == texts[1] and len(texts[0]) == 2
    assert sorted(map(blocks, texts[0])) == [["one 1", "two 2"], ["two 2", "one 1"]]


def test_ncq_order_is_shuffled_and_its_argument_is_not():
    wrong = ["a", "b", "c"]
    seen = {tuple(blocks(ncq("Q?", wrong, ["1"], random.Random(i)))) for i in range(200)}
    assert len(seen) == 6 and wrong == ["a", "b", "c"]


# ---- what they say -------------------------------------------------------------------------------


def test_texts_by_hand():
    text = bcq("How many?", "r", "w", random.Random(0))
    assert text.startswith("How many?\n\n") and text.count("How many?") == 1
    assert sorted(blocks(text)) == ["r", "w"]
    text = ncq("How many?", ["w1", "w2"], ["3", "4"], random.Random(0))
    assert r"\boxed{3}, \boxed{4}" in text and "WRONG" in text
    assert sorted(blocks(text)) == ["w1", "w2"]
    text = ncq("How many?", ["w1"], [], random.Random(0))  # no box, no answer to list
    assert "boxed" not in text and "WRONG" in text and blocks(text) == ["w1"]


HOSTILE = "{} {0} {question} {0.__class__} {candidates!r:>9} {{}} %s%(a)d \\boxed{\\frac{1}{2}} {"


@pytest.mark.parametrize("hostile", HOSTILE.split())
def test_braces_survive(hostile):
    q, r, w = (f"{letter} {hostile}" for letter in "Qrw")
    for text in (bcq(q, r, w, random.Random(0)), ncq(q, [r, w], [], random.Random(0))):
        assert text.startswith(f"{q}\n\n") and sorted(blocks(text)) == [r, w]
    assert f"\\boxed{{{hostile}}}" in ncq("Q", ["w"], [hostile], random.Random(0))


def test_distinct():
    """Spaces and case aside, in the order of first appearance."""
    assert distinct(["4", "5", " 5 ", "x Y", "xy"]) == ["4", "5", "x Y"] and distinct([]) == []
    assert distinct(["a", "b", "a", "c", "b"]) == ["a", "b", "c"]


def test_template_constants_can_be_replaced():
    assert CANDIDATE.count("{text}") == 1
    for template in (reformulate.BCQ, reformulate.NCQ, reformulate.NCQ_NO_ANSWERS):
        assert template.count("{question}") == template.count("{candidates}") == 1


# ---- clean ---------------------------------------------------------------------------------------


def test_clean_removes_every_special_token_and_tag(lm):
    control = control_strings(lm.tokenizer)
    assert {*lm.tokenizer.all_special_tokens, "<|im_end|>", "<|image_pad|>"} <= {*control}
    for tag in {*control, *TAGS}:
        assert clean(f" a{tag}b{tag}{tag}c ", control) == "abc"
        for cut in range(1, len(tag)):  # nested: removing the inner one writes the outer one
            assert "".join(clean(f"a{tag[:cut]}{tag}{tag[cut:]}b", control).split()) == "ab"


def test_clean_leaves_mathematics_alone(lm):
    text = "a < b > c, |x| <= 3, <b>bold</b>, x<think, \\boxed{5}\nnext line"
    assert clean(text, control_strings(lm.tokenizer)) == text


PIECES = "< > / | think candidate im_end image_pad <| |> </ a </cand idate> <thi nk> { }".split()
PIECES += [*TAGS, "<|im_end|>", "<|im_start|>", "<|image_pad|>", " ", "\n"]


def hostile(most):
    return st.lists(st.sampled_from(PIECES), max_size=most).map("".join)


@given(hostile(24))
def test_clean_is_complete_and_idempotent(lm, text):
    control = control_strings(lm.tokenizer)
    once = clean(text, control)
    assert not any(tag in once for tag in {*TAGS, *control}) and clean(once, control) == once


@given(hostile(12), hostile(12))
def test_candidates_stay_in_their_blocks(lm, a, b):
    control, rng = control_strings(lm.tokenizer), random.Random(0)
    for harmless, text in (
        (bcq("Q", "x", "y", rng, control), bcq("Q", a, b, rng, control)),
        (ncq("Q", ["x", "y"], ["1"], rng, control), ncq("Q", [a, b], [a], rng, control)),
    ):
        assert all(text.count(tag) == harmless.count(tag) for tag in {*TAGS, *control})


# ---- train.reformulate: steps 2 to 5 with a scripted teacher -------------------------------------


def group(i, question, *texts):
    """A plain group as rollout() makes it, graded, without a model."""
    own = {"group_id": i, "question_id": question.id}
    graded = [(t, grade(t, question.answer)) for t in texts]
    samples = [Sample(None, (), (), t, False, reward=reward, **own) for t, reward in graded]
    return Group(i, "plain", "new", question, tuple(samples))


def said(lm, request, cfg):
    """The wording of a request, as the token ids that the student gets say it, without template and
    closer.
    """
    ids = request_prompt(lm, request, cfg).ids
    return lm.tokenizer.decode(ids).split("user\n", 1)[1].split(CLOSER)[0]


@pytest.fixture
def build(make_job, cfg, lm):
    """{kind: its requests} that train.reformulate makes of plain groups, by a job whose teacher
    answers every question with `pool` and whose summary of a response is summarize(response).
    """

    def make(groups, pool, argv="", summarize=lambda text: text):
        def reply(prompt, k):
            response = prompt.split("<response>")[1].split("</response>")[0].strip()
            return f"<summary>\n{summarize(response)}\n</summary>"

        make.cfg = cfg("--tau 1", argv)
        make.job = make_job(make.cfg, reply)
        make.job.teacher.answers = lambda questions, step: [pool for _ in questions]
        return again(groups)

    def again(groups):
        job = make.job
        args = job.engine, job.teacher, job.world, job.state.rng, Clock()
        made = train.reformulate(groups, 1, make.cfg, *args)
        make.too_long, out = made.too_long, {}
        assert [r.kind for r in made.requests] == sorted(r.kind for r in made.requests)
        for r in made.requests:
            out.setdefault(r.kind, []).append(r)
        return out

    make.again, make.text = again, lambda request: said(lm, request, make.cfg)
    return make


@pytest.fixture
def question(questions):
    return replace(questions["text"][0], answer="5", question="What is 2+3?")


RIGHT = Sample(None, (), (), "2+3=5 \\boxed{5}", False, kind="teacher", reward=1.0)


def test_both_by_hand(build, question):
    wrong = ["6 \\boxed{6}", "7 \\boxed{7}", "6 again \\boxed{6}", "no box"]
    built = build([group(4, question, *wrong, "2+3 \\boxed{5}")], [RIGHT])
    [b], [n] = built["bcq"], built["ncq"]
    assert set(built) <= set(KINDS) and build.too_long == 0
    assert b.correct_candidates == (RIGHT.text,) and b.wrong_candidates[0] in wrong
    assert sorted(blocks(build.text(b))) == sorted((RIGHT.text, *b.wrong_candidates))
    assert build.text(b).startswith("What is 2+3?\n\n")
    assert sorted(blocks(build.text(n))) == sorted(wrong)  # all the wrong ones
    assert sorted(n.listed_answers) == ["6", "7"] and n.correct_candidates == ()
    assert "2+3 \\boxed{5}" not in build.text(n)
    shown = {"correct_candidates": b.correct_candidates, "wrong_candidates": b.wrong_candidates}
    assert b == RolloutRequest("bcq", "new", question, b.text, **shown)
    assert b.question is n.question is question and n.prefix == ()


def test_without_a_right_answer_ncq_only(build, question):
    assert set(build([group(0, question, "\\boxed{6}", "\\boxed{5}")], [])) == {"ncq"}


def test_off_switches(build, question):
    groups = [group(0, question, "\\boxed{6}", "\\boxed{5}")]
    assert set(build(groups, [RIGHT], "--no-ncq")) == {"bcq"}
    assert set(build(groups, [RIGHT], "--no-bcq")) == {"ncq"}
    assert build(groups, [], "--no-bcq --no-ncq") == {}


def test_nothing_asks_nothing(build):
    """A step without hard questions."""
    assert build([], []) == {} and build.job.teacher.engine.calls == []


def test_a_repaired_trace_is_not_shown_as_wrong(build, question):
    """The teacher repairs the 6: it stands in neither prompt, but 6 is still listed as a wrong
    answer.
    """
    repair = lambda t: "\\boxed{5}" if "\\boxed{6}" in t else t
    built = build([group(0, question, "\\boxed{6}", "\\boxed{7}")], [RIGHT], summarize=repair)
    [b], [n] = built["bcq"], built["ncq"]
    assert b.wrong_candidates == ("\\boxed{7}",) and blocks(build.text(n)) == ["\\boxed{7}"]
    assert sorted(n.listed_answers) == ["6", "7"]
    groups = [group(0, question, "\\boxed{6}", "\\boxed{6}")]
    assert "bcq" not in build(groups, [RIGHT], summarize=repair)


def test_a_broken_right_trace_makes_no_bcq(build, question):
    breaks = lambda t: t.replace("boxed{5}", "boxed{8}")
    groups = [group(0, question, "\\boxed{6}", "\\boxed{7}")]
    assert set(build(groups, [RIGHT], summarize=breaks)) == {"ncq"}


def test_uncompressed_candidates_are_the_responses(build, question):
    g = group(0, question, "<think>6</think>\\boxed{6}", "\\boxed{6}</candidate>")
    [n] = build([g], [RIGHT], "--no-compress")["ncq"]
    assert sorted(blocks(build.text(n))) == ["6\\boxed{6}", "\\boxed{6}"]
    assert build.job.teacher.engine.calls == []


def test_an_ncq_prompt_always_shows_something(build, question):
    """No summary is usable and no rollout has a box: a prompt that announces reasoning and shows
    none teaches nothing.
    """
    repairs = lambda t: "\\boxed{5}"
    built = build([group(0, question, "no box", "none here")], [RIGHT], summarize=repairs)
    requests = [r for some in built.values() for r in some]
    assert all(blocks(build.text(r)) or r.listed_answers for r in requests)


def test_an_empty_answer_is_not_listed(build, question):
    """`\\boxed{ }` and `\\boxed{<think>}` hold no answer."""
    [n] = build([group(0, question, "\\boxed{ }", "\\boxed{<think>}", "\\boxed{6}")], [])["ncq"]
    assert n.listed_answers == ("6",)


def test_the_same_question_twice_is_two_groups_of_prompts(build, question):
    groups = [group(2, question, "\\boxed{6}"), group(5, question, "\\boxed{7}")]
    built = build(groups, [RIGHT])
    for kind in ("bcq", "ncq"):
        shown = sorted(r.wrong_candidates for r in built[kind])
        assert shown == [("\\boxed{6}",), ("\\boxed{7}",)]
    listed = {r.wrong_candidates[0]: r.listed_answers for r in built["ncq"]}
    assert listed == {"\\boxed{6}": ("6",), "\\boxed{7}": ("7",)}


def test_candidates_are_drawn_evenly_from_the_run_rng(build, question):
    groups = [group(0, question, *[f"\\boxed{{{k}}}" for k in range(10, 14)])]
    build(groups, [replace(RIGHT, text=f"way {k} \\boxed{{5}}") for k in range(2)], "--no-ncq")
    seen = [build.again(groups)["bcq"][0] for _ in range(800)]
    right, wrong = (
        Counter(r.correct_candidates for r in seen),
        Counter(r.wrong_candidates for r in seen),
    )
    assert len(right) == 2 and all(abs(n - 400) < 70 for n in right.values())  # 5 deviations
    assert len(wrong) == 4 and all(abs(n - 200) < 62 for n in wrong.values())
    assert len({r.text for r in seen}) == 16  # 2 x 4 pairs, each in both orders


def test_prompts_that_do_not_fit_are_left_out_and_the_rest_can_be_sampled(build, questions):
    """The context counts visual tokens: a question with many images is left out before the engine
    would refuse it.
    """
    pictures = (Image.new("RGB", (128, 128)),) * 13  # 13 * 64 visual tokens
    big = replace(questions["image"][0], id="big", images=pictures)
    small = replace(questions["image"][1], id="t")
    wrong = [f"{'1+' * 50}\\boxed{{x}}"] * 2
    groups = [group(0, big, *wrong), group(1, small, *wrong)]
    built = build(groups, [], "--max-response 8 --n 2")
    assert build.too_long == 1 and set(built) == {"ncq"}
    # the engine raises when a prompt and its response do not fit
    sampled = rollout(build.job.engine, built["ncq"], 1, build.cfg, build.job.world)
    assert [(g.kind, g.question.id, len(g.samples)) for g in sampled] == [("ncq", "t", 2)]


def test_a_replayed_group_stays_a_replayed_one(build, question):
    built = build([replace(group(0, question, "\\boxed{6}"), origin="replay")], [RIGHT])
    [b], [n] = built["bcq"], built["ncq"]
    assert b.origin == n.origin == "replay"
