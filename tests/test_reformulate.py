"""BCQ and NCQ: which questions, what the prompts say, and that nothing gives a label away or breaks
out of its block.

python -m pytest tests/test_reformulate.py
"""

import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import reformulate
import tiny
import train
from processor import CLOSER, control_strings
from records import Ask, Group, Sample
from reformulate import CANDIDATE, TAGS, bcq, clean, distinct, fill, hardest, ncq
from rollout import prompt_of
from runtime import launch as start

LM = tiny.new_model(0)


def text(made):
    """The wording of a built prompt, as the token ids that the student gets say it, without
    template and closer.
    """
    ask = made["ask"]
    prompt = prompt_of(LM, ask.question, ask.text, SimpleNamespace(thinking=True), ask.prefix)
    return LM.tokenizer.decode(prompt.ids).split("user\n", 1)[1].split(CLOSER)[0]


def blocks(text):
    """What stands in the candidate blocks of a prompt text."""
    return re.findall(r"<candidate>\n(.*?)\n</candidate>", text, re.DOTALL)


# ---- pre-cap and post-cap (Algorithm 1, steps 3 and 5) -------------------------------------------

MEANS = [0.25, 0.0, 0.5, 0.125, 0.0, 1.0, 0.25]


@pytest.mark.parametrize(
    "cap, want",
    [(0, []), (1, [1]), (2, [1, 4]), (3, [1, 4, 3]), (4, [1, 4, 3, 0]), (9, [1, 4, 3, 0, 6])],
)
def test_hardest_by_hand(cap, want):
    """Ascending mean, a question at tau is not hard; ties (1 and 4, 0 and 6) fall by lot, so only
    their sets are certain.
    """
    got = hardest(MEANS, 0.5, cap, random.Random(0))
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
        first[hardest([0.0] * 5, 0.5, 1, rng)[0]] += 1
    assert all(500 < n < 700 for n in first), first  # 600 expected, standard deviation 22


def test_hardest_without_hard_questions():
    assert (
        hardest([0.5, 1.0], 0.5, 5, random.Random(0)) == [] == hardest([], 0.5, 5, random.Random(0))
    )


@pytest.mark.parametrize(
    "cap, want",
    [
        (0, []),
        (1, [(3, "bcq")]),
        (2, [(3, "bcq"), (3, "ncq")]),
        (3, [(3, "bcq"), (3, "ncq"), (1, "bcq")]),  # one slot left: the BCQ takes it
        (
            5,
            [(3, "bcq"), (3, "ncq"), (1, "bcq"), (1, "ncq"), (7, "ncq")],
        ),  # 7 has no BCQ: its NCQ takes the slot
        (99, [(3, "bcq"), (3, "ncq"), (1, "bcq"), (1, "ncq"), (7, "ncq")]),
    ],
)
def test_fill_by_hand(cap, want):
    assert fill([3, 1, 7, 8], {"bcq": {1, 3}, "ncq": {1, 3, 7}}, cap) == want  # 8 has neither


def test_fill_with_ncq_only():
    assert fill([5, 2, 9], {"bcq": set(), "ncq": {2, 5, 9}}, 2) == [(5, "ncq"), (2, "ncq")]


# ---- no leak of the label ------------------------------------------------------------------------


def test_order_is_even_over_many_draws():
    """50 +- 3 % from one run rng, over all and for each question, with the other draws of a run in
    between.
    """
    rng, first = random.Random(0), Counter()
    for i in range(12_000):
        rng.choice("abcd")
        first[i % 4] += blocks(bcq(f"question {i % 4}", "RIGHT", "WRONG", rng))[0] == "RIGHT"
    assert sum(first.values()) / 12_000 == pytest.approx(0.5, abs=0.03)
    assert all(n / 3000 == pytest.approx(0.5, abs=0.03) for n in first.values())


def test_swapping_right_and_wrong_gives_the_same_texts():
    texts = [
        {bcq("Q?", r, w, random.Random(i)) for i in range(40)}
        for r, w in (("one 1", "two 2"), ("two 2", "one 1"))
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 2
    assert sorted(map(blocks, texts[0])) == [["one 1", "two 2"], ["two 2", "one 1"]]


def test_ncq_order_is_shuffled_and_its_argument_is_not():
    wrong = ["a", "b", "c"]
    seen = {tuple(blocks(ncq("Q?", wrong, ["1"], random.Random(i)))) for i in range(200)}
    assert len(seen) == 6 and wrong == ["a", "b", "c"]


# ---- what they say -------------------------------------------------------------------------------


def test_texts_by_hand():
    text = bcq("How many?", "r", "w", random.Random(0))
    assert (
        text.startswith("How many?\n\n")
        and text.count("How many?") == 1
        and sorted(blocks(text)) == ["r", "w"]
    )
    text = ncq("How many?", ["w1", "w2"], ["3", "4"], random.Random(0))
    assert (
        r"\boxed{3}, \boxed{4}" in text and "WRONG" in text and sorted(blocks(text)) == ["w1", "w2"]
    )
    text = ncq("How many?", ["w1"], [], random.Random(0))  # no box, no answer to list
    assert "boxed" not in text and "WRONG" in text and blocks(text) == ["w1"]


@pytest.mark.parametrize(
    "hostile",
    [
        "{}",
        "{0}",
        "{question}",
        "{0.__class__}",
        "{candidates!r:>9}",
        "{{}}",
        "%s %(a)d",
        r"\boxed{\frac{1}{2}}",
        "{",
    ],
)
def test_braces_survive(hostile):
    for text in (
        bcq(f"Q {hostile}", f"r {hostile}", f"w {hostile}", random.Random(0)),
        ncq(f"Q {hostile}", [f"r {hostile}", f"w {hostile}"], [], random.Random(0)),
    ):
        assert text.startswith(f"Q {hostile}\n\n") and sorted(blocks(text)) == [
            f"r {hostile}",
            f"w {hostile}",
        ]
    assert f"\\boxed{{{hostile}}}" in ncq("Q", ["w"], [hostile], random.Random(0))


def test_distinct():
    assert distinct(["4", "5", " 5 ", "x Y", "xy"]) == ["4", "5", "x Y"] and distinct([]) == []


def test_distinct_keeps_the_order_of_first_appearance():
    assert distinct(["a", "b", "a", "c", "b"]) == ["a", "b", "c"]


# ---- clean ---------------------------------------------------------------------------------------


def test_clean_removes_every_special_token_and_tag(lm):
    control = control_strings(lm.tokenizer)
    assert (
        {*lm.tokenizer.all_special_tokens, *TAGS} <= {*control, *TAGS}
        and "<|im_end|>" in control
        and "<|image_pad|>" in control
    )
    for tag in {*control, *TAGS}:
        assert clean(f" a{tag}b{tag}{tag}c ", control) == "abc"
        for cut in range(1, len(tag)):  # nested: removing the inner one writes the outer one
            assert "".join(clean(f"a{tag[:cut]}{tag}{tag[cut:]}b", control).split()) == "ab"


def test_clean_leaves_mathematics_alone(lm):
    text = "a < b > c, |x| <= 3, <b>bold</b>, x<think, \\boxed{5}\nnext line"
    assert clean(text, control_strings(lm.tokenizer)) == text


FRAGMENTS = [
    "<",
    ">",
    "/",
    "|",
    "think",
    "candidate",
    "im_end",
    "image_pad",
    "<|",
    "|>",
    "</",
    *TAGS,
    "<|im_end|>",
    "<|im_start|>",
    "<|image_pad|>",
    " ",
    "\n",
    "a",
    "</cand",
    "idate>",
    "<thi",
    "nk>",
    "{",
    "}",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join))
def test_clean_is_complete_and_idempotent(lm, text):
    control = control_strings(lm.tokenizer)
    once = clean(text, control)
    assert not any(tag in once for tag in {*TAGS, *control}) and clean(once, control) == once


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
)
def test_candidates_stay_in_their_blocks(lm, a, b):
    control = control_strings(lm.tokenizer)
    harmless = bcq("Q", "x", "y", random.Random(0), control)
    text = bcq("Q", a, b, random.Random(0), control)
    assert all(text.count(tag) == harmless.count(tag) for tag in {*TAGS, *control})
    harmless = ncq("Q", ["x", "y"], ["1"], random.Random(0), control)
    text = ncq("Q", [a, b], [a], random.Random(0), control)
    assert all(text.count(tag) == harmless.count(tag) for tag in {*TAGS, *control})


# ---- train.build: steps 3 to 5 with a scripted teacher -------------------------------------------


def group(i, question, *texts):
    """A plain group as run.sample makes it, graded, without a model."""
    from reward import grade

    return Group(
        i,
        "plain",
        "new",
        question,
        tuple(
            Sample(None, (), (), t, False, i, "plain", question.id, 1, grade(t, question.answer))
            for t in texts
        ),
    )


@pytest.fixture
def build(make_run, cfg):
    """train.build of groups with their pools, by a run whose teacher's summary of a response is
    summarize(response).
    """

    def make(groups, pool, *flags, summarize=lambda text: text, seed=0):
        def reply(prompt, k):
            return f"<summary>\n{summarize(prompt.split('<response>')[1].split('</response>')[0].strip())}\n</summary>"

        run = make_run(cfg("--seed", seed, *flags), reply)
        built, too_long = train.build(groups, {g.id: pool for g in groups}, run)
        make.run, make.too_long = run, too_long
        assert all(
            (made["kind"] == kind) and set(made) == {"kind", "ask", "right", "wrong", "listed"}
            for (_, kind), made in built.items()
        )
        return built

    return make


@pytest.fixture
def question(questions):
    return replace(questions["text"][0], answer="5", question="What is 2+3?")


RIGHT = Sample(None, (), (), "2+3=5 \\boxed{5}", False, kind="teacher", reward=1.0)


def test_build_by_hand(build, question):
    g = group(
        4,
        question,
        "6 \\boxed{6}",
        "7 \\boxed{7}",
        "6 again \\boxed{6}",
        "no box",
        "2+3 \\boxed{5}",
    )
    built = build([g], [RIGHT])
    assert set(built) == {(4, "bcq"), (4, "ncq")} and build.too_long == 0
    b, n = built[4, "bcq"], built[4, "ncq"]
    assert b["right"] == (RIGHT.text,) and b["wrong"][0] in (
        "6 \\boxed{6}",
        "7 \\boxed{7}",
        "6 again \\boxed{6}",
        "no box",
    )
    assert sorted(blocks(text(b))) == sorted((*b["right"], *b["wrong"])) and text(b).startswith(
        "What is 2+3?\n\n"
    )
    assert sorted(blocks(text(n))) == sorted(
        ["6 \\boxed{6}", "7 \\boxed{7}", "6 again \\boxed{6}", "no box"]
    )  # all the wrong ones
    assert (
        sorted(n["listed"]) == ["6", "7"] and n["right"] == () and "2+3 \\boxed{5}" not in text(n)
    )
    assert (
        b["ask"] == Ask("new", question, b["ask"].text)
        and b["ask"].question is question
        and n["ask"].prefix == ()
    )


def test_build_without_a_right_answer_is_ncq_only(build, question):
    assert set(build([group(0, question, "\\boxed{6}", "\\boxed{5}")], [])) == {(0, "ncq")}


def test_build_off_switches(build, question):
    g = group(0, question, "\\boxed{6}", "\\boxed{5}")
    assert set(build([g], [RIGHT], "--no-ncq")) == {(0, "bcq")}
    assert set(build([g], [RIGHT], "--no-bcq")) == {(0, "ncq")}
    assert build([g], [], "--no-bcq", "--no-ncq") == {}


def test_build_of_nothing_asks_nothing(build):
    """A step without hard questions."""
    assert build([], []) == {} and build.run.teacher.engine.calls == []


def test_a_repaired_trace_is_not_shown_as_wrong(build, question):
    """The teacher repairs the 6: it stands in neither prompt, but 6 is still listed as a wrong
    answer.
    """
    repair = lambda t: "\\boxed{5}" if "\\boxed{6}" in t else t  # noqa: E731
    built = build([group(0, question, "\\boxed{6}", "\\boxed{7}")], [RIGHT], summarize=repair)
    assert built[0, "bcq"]["wrong"] == ("\\boxed{7}",) and blocks(text(built[0, "ncq"])) == [
        "\\boxed{7}"
    ]
    assert sorted(built[0, "ncq"]["listed"]) == ["6", "7"]
    assert (0, "bcq") not in build(
        [group(0, question, "\\boxed{6}", "\\boxed{6}")], [RIGHT], summarize=repair
    )


def test_a_broken_right_trace_makes_no_bcq(build, question):
    built = build(
        [group(0, question, "\\boxed{6}", "\\boxed{7}")],
        [RIGHT],
        summarize=lambda t: t.replace("boxed{5}", "boxed{8}"),
    )
    assert set(built) == {(0, "ncq")}


def test_uncompressed_candidates_are_the_responses(build, question):
    g = group(0, question, "<think>6</think>\\boxed{6}", "\\boxed{6}</candidate>")
    built = build([g], [RIGHT], "--no-compress")
    assert (
        sorted(blocks(text(built[0, "ncq"]))) == ["6\\boxed{6}", "\\boxed{6}"]
        and build.run.teacher.engine.calls == []
    )


def test_an_ncq_prompt_always_shows_something(build, question):
    """No summary is usable and no rollout has a box: a prompt that announces reasoning and shows
    none teaches nothing.
    """
    built = build(
        [group(0, question, "no box", "none here")], [RIGHT], summarize=lambda t: "\\boxed{5}"
    )  # repairs each
    assert all(blocks(text(c)) or c["listed"] for c in built.values())


def test_an_empty_answer_is_not_listed(build, question):
    """`\\boxed{ }` and `\\boxed{<think>}` hold no answer."""
    built = build([group(0, question, "\\boxed{ }", "\\boxed{<think>}", "\\boxed{6}")], [])
    assert built[0, "ncq"]["listed"] == ("6",)


def test_the_same_question_twice_is_two_groups_of_prompts(build, question):
    built = build([group(2, question, "\\boxed{6}"), group(5, question, "\\boxed{7}")], [RIGHT])
    assert set(built) == {(2, "bcq"), (2, "ncq"), (5, "bcq"), (5, "ncq")}
    assert built[2, "ncq"]["listed"] == ("6",) and built[5, "ncq"]["listed"] == ("7",)


def test_candidates_are_drawn_evenly_from_the_run_rng(build, question):
    g = group(0, question, *[f"\\boxed{{{k}}}" for k in range(10, 14)])
    pool = [replace(RIGHT, text=f"way {k} \\boxed{{5}}") for k in range(2)]
    build([g], pool)
    seen = [train.build([g], {0: pool}, build.run)[0][0, "bcq"] for _ in range(800)]
    right, wrong = (Counter(c[name] for c in seen) for name in ("right", "wrong"))
    assert len(right) == 2 and all(
        abs(n - 400) < 70 for n in right.values()
    )  # 5 standard deviations
    assert len(wrong) == 4 and all(abs(n - 200) < 62 for n in wrong.values())
    texts = {text(c) for c in seen}
    assert len(texts) == 16  # 2 x 4 pairs, each in both orders


def test_prompts_that_do_not_fit_are_left_out_and_the_rest_can_be_sampled(build, lm, questions):
    """The context counts visual tokens: a question with many images is left out before the engine
    would refuse it.
    """
    big = replace(
        questions["image"][0], id="big", images=(Image.new("RGB", (128, 128)),) * 13
    )  # 13 * 64 visual tokens
    small = replace(questions["image"][1], id="t")
    wrong = [f"{'1+' * 50}\\boxed{{x}}"] * 2
    built = build(
        [group(0, big, *wrong), group(1, small, *wrong)], [], "--max-response", "8", "--n", "2"
    )
    for kind in ("bcq", "ncq"):
        asked = [c["ask"] for c in built.values() if c["kind"] == kind]
        groups = build.run.sample(
            kind, asked, 0, 1
        )  # the engine raises when a prompt and its response do not fit
        assert [(g.kind, g.question.id, len(g.samples)) for g in groups] == [(kind, "t", 2)] * len(
            asked
        )
    assert build.too_long == 1 and set(built) == {(1, "ncq")}


def test_max_prompt_counts_visual_tokens(lm, questions, cfg):
    """--max-prompt: 'tokens of a plain prompt, image tokens included'."""
    q = replace(
        questions["image"][0], images=(Image.new("RGB", (128, 128)),) * 4
    )  # 256 visual tokens
    start.check_prompts(lm, [questions["image"][0]], cfg("--max-prompt", "200"))
    with pytest.raises(ValueError, match="max-prompt"):
        start.check_prompts(lm, [q], cfg("--max-prompt", "200"))


def test_a_replayed_group_stays_a_replayed_one(build, question):
    built = build([replace(group(0, question, "\\boxed{6}"), origin="replay")], [RIGHT])
    assert {made["ask"].origin for made in built.values()} == {"replay"} and len(built) == 2


def test_template_constants_can_be_replaced():
    assert CANDIDATE.count("{text}") == 1 and all(
        t.count("{question}") == 1 and t.count("{candidates}") == 1
        for t in (reformulate.BCQ, reformulate.NCQ, reformulate.NCQ_NO_ANSWERS)
    )
