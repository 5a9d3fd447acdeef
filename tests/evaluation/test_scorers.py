r"""The deterministic scorers: numbers worked by hand, hostile replies, and agreement with public
reference implementations.

python -m pytest tests/test_scorers.py
pip install anls==0.0.2 zss==1.2.0 math-verify==0.9.0 latex2sympy2_extended==1.11.0
antlr4-python3-runtime==4.13.2   # the references pip install --no-deps lm_eval==0.4.13        # one
more; what is not installed is skipped
"""

import importlib.util
import json
import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import letters, trees
from evaluation import ocrbench as o
from evaluation import scorers as s
from evaluation.rows import LETTERS, Item
from evaluation.scorers import Score

T = "Thinking it over.</think>"


def item(gold, options=(), **meta):
    return Item("1", "Q?", gold, tuple(options), meta=meta)


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


# ---- OCRBench v2 ---------------------------------------------------------------------------------


def ocr(kind, answers, question="Read it.", **meta):
    return Item(
        "1",
        question,
        answers,
        meta={"type": kind, "eval": "", "bbox": [], "bbox_list": [], "content": [], **meta},
    )


def test_groups_are_the_official_30_types():
    assert len(o.GROUP_OF) == 30 and [
        sum(g.startswith(x) for g in o.GROUPS) for x in ("EN", "CN")
    ] == [8, 5]


@pytest.mark.parametrize(
    "answer, golds, kw, want",
    [
        ("It says Hello World", ["hello"], {}, 1),
        ("hello", ["Hello"], {"case": True}, 0),
        ("nothing", ["hello"], {}, 0),
        ("one two three four six", ["one two three four five"], {}, 1 - 3 / 23),
        ("x", ["one two three four five"], {}, 0),  # long golds: similarity
        ("红 色 的", ["红色"], {"chinese": True}, 1),
        ("1,2,3,5", ["1,2,3,4"], {"chinese": True}, 6 / 7),
        ("", [""], {}, 1),
    ],
)
def test_vqa_rule(answer, golds, kw, want):
    assert o.vqa(answer, golds, **kw) == pytest.approx(want)


@pytest.mark.parametrize(
    "answer, gold, rule, want",
    [
        ("8", "10", "regression", 0.8),
        ("about 12 of them", "10", "regression", 0.8),
        ("5", "10", "regression", 0),
        ("0", "10", "regression", 0),
        ("20", "10", "regression", 0),
        ("none", "10", "regression", 0),
        ("110", "10", "exact match", 1),
        ("9", "10", "exact match", 0),
    ],
)
def test_counting(answer, gold, rule, want):
    assert o.counting(answer, [gold], rule) == pytest.approx(want)


def test_multiple_choice_takes_the_letter_where_the_official_filter_fails():
    it = ocr("math QA en", ["A"], eval="multiple choice")
    for reply in (r"\boxed{A}", r"\boxed{A. cat}", "A"):
        assert s.score(o.ocr, it, T + reply).value == 1
    assert "".join(filter(str.isalpha, r"\boxed{A}")) == "boxedA"


def test_boxes():
    assert (
        o.iou([0, 0, 10, 10], ["5", "0", "15", "10"]) == pytest.approx(1 / 3)
        and o.iou(None, ["1"] * 4) == 0
        and o.iou([0, 0, 1], [0, 0, 1, 1]) == 0
    )
    assert o.last_box("first [1, 2, 3, 4] then (5,6,7,8)") == [5, 6, 7, 8] and o.last_box(
        "1, 2, 3, 4"
    ) == [1, 2, 3, 4]
    assert o.last_box("[1, 2, 3, 4000]") is None and o.last_box("none") is None


def test_spotting_by_hand():
    boxes, texts = (
        [
            [0, 0, 10, 0, 10, 10, 0, 10],
            [20, 0, 30, 0, 30, 10, 20, 10],
            [40, 0, 50, 0, 50, 10, 40, 10],
        ],
        ["STOP!", "go", "###"],
    )
    perfect = [(0, 0, 10, 10, "stop"), (20, 0, 30, 10, "GO")]
    assert o.spotting(perfect, boxes, texts) == 1  # case and one outer mark are forgiven
    assert (
        o.spotting([*perfect, (41, 1, 49, 9, "blur")], boxes, texts) == 1
    )  # inside an unreadable gold: not counted
    assert o.spotting([perfect[0], (70, 70, 80, 80, "x")], boxes, texts) == pytest.approx(
        0.5
    )  # precision and recall 1 of 2
    assert (
        o.spotting([(0, 0, 10, 10, "stob")], boxes, texts) == 0
        and o.spotting([], boxes, texts) == 0
    )
    assert o.spotting([(10, 10, 0, 0, "stop")], boxes, texts) == 0  # an upside-down box is dropped
    assert o.spotted(
        "[[0, 0, 1, 1, 'a'], [0, 0, 1, 1, 'a'], [0, 0, 2000, 1, 'b'], ['x', 0, 1, 1, 'c']]"
    ) == [(0, 0, 1, 1, "a")]
    assert o.spotted("(1, 2, 3, 4, it's, ok) and (5,6,7)") == [(1, 2, 3, 4, "it's, ok")]


def test_dictionaries():
    assert trees.to_dict('```json\n{"a": 1, "b": "x"}\n```') == {
        "a": "1",
        "b": "x",
    } and trees.to_dict("{'a': [1]}") == {"a": "[1]"}
    assert (
        trees.to_dict("total: 12\ndate = today") == {"total": "12", "date": "today"}
        and trees.to_dict("") == {}
    )
    golds = trees.combinations("\"{'a': ['1', '2'], 'b': '3'}\"")  # quoted twice
    assert golds == [{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]
    assert trees.combinations("{not a dict") == []
    assert trees.pairs_f1({"a": "1 0", "c": "9"}, {"a": "10", "b": "3"}) == pytest.approx(1 / 3)


def test_teds_by_hand():
    html = "<table><tr><td>ab</td><td>c</td></tr></table>"
    assert trees.table(f"Here:\n{html}", html, "as HTML please") == 1
    assert trees.table(html.replace("ab<", "ax<"), html, "html") == pytest.approx(
        1 - 0.5 / 3
    )  # half a cell of three nodes
    assert trees.table("<table><tr><td>ab</td></tr></table>", html, "html") == pytest.approx(
        1 - 1 / 3
    )
    assert trees.table("no table", html, "html") == 0 and trees.table(html, html, "as LaTeX") == 0
    md = "| a | b |\n| --- | --- |\n| 1 | |"
    assert trees.table(f"```markdown\n{md}\n```", md, "Markdown") == 1
    assert trees.table(md.replace("1", "2"), md, "markdown") == pytest.approx(1 - 1 / 6)
    assert trees.teds("<html><body>x</body></html>", trees.wrap_table(html)) == 0
    assert (
        trees.chart("data = {'a': 1}  # mine", "{'a': 1}") == 1
        and trees.chart("nothing", "{'a': 1}") == 0
    )
    assert trees.chart("{'a': 12}", "{'a': 34}") == pytest.approx(
        1 - (2 / 3) / 3
    )  # "1 2" against "3 4": two of three characters


def test_documents_are_compared_by_structure():
    assert (
        trees.document("# T\ntext", "# Other\nwords") == 1
    )  # any two non-empty nodes are equal, upstream too
    assert trees.document("# T\na\nb", "# T\na") == pytest.approx(1 - 1 / 5)
    assert trees.document("plain", "plain\n") == pytest.approx(1 - 1 / 4)


def test_page_metric_of_equal_texts():
    text = "the quick brown fox jumps"
    assert o.page(text, text) == pytest.approx(
        (1 + (1 - 0.5 / 125) + 1 + 1) / 4
    )  # METEOR of 5 words in one chunk
    assert o.page("", text) == 0 and o.page("zzz", text) < 0.05
    assert s.score(o.ocr, ocr("text translation cn", [""]), T + "x").how == "ignored"


def test_formula_and_handwriting():
    assert o.formula("x = a + b + c", ["a+b"]) == 1 and o.formula("a-b", ["a+b"]) == 0
    assert (
        o.formula("面积=a", ["\\text{面积}=a"], tags=True) == 1
        and o.formula("面积=a", ["\\text{面积}=a"]) == 0
    )
    for reply in ("AB", "A.B", "A, B", "A和B"):
        assert (
            s.score(
                o.ocr, ocr("handwritten answer extraction cn", ["AB"]), T + f"\\boxed{{{reply}}}"
            ).value
            == 1
        )
    assert (
        0
        < s.score(
            o.ocr,
            ocr("handwritten answer extraction cn", ["这是一个答案"], question="简答题"),
            T + "\\boxed{这是答案}",
        ).value
        < 1
    )


def test_unknown_task_type_is_said():
    with pytest.raises(ValueError, match="no task type"):
        o.ocr(ocr("new task en", ["x"]), "x")


# ---- agreement with public implementations -------------------------------------------------------


def pairs(n, seed):
    rng = random.Random(seed)
    words = "four million people 1,234 40% New York  Total sales é 24.5".split(" ")
    for _ in range(n):
        gold = " ".join(rng.choices(words, k=rng.randint(1, 4)))
        text = list(gold)
        for _ in range(rng.choice((0, 0, 1, 2, 5, 9))):
            k = rng.randrange(len(text) + 1)
            text[k : k + rng.randint(0, 1)] = rng.choice(string.ascii_letters + " ")
        yield (
            rng.choice(
                (
                    "".join(text),
                    "".join(text).upper(),
                    f" {''.join(text)}  ",
                    f"It is {''.join(text)}.",
                )
            ),
            [gold, rng.choice(words) or "x"],
        )


def test_anls_agrees_with_the_anls_package():
    """600 generated answers. Disagreements: a similarity of exactly 0.5 counts here (as in
    lmms-eval) and not there.
    """
    reference = pytest.importorskip("anls").anls_score
    differ = []
    for answer, golds in pairs(600, 0):
        ours, theirs = s.anls(answer, golds), reference(answer, golds, 0.5)
        if ours != pytest.approx(theirs):
            differ.append((answer, golds, ours, theirs))
    assert all(ours == 0.5 and theirs == 0 for *_, ours, theirs in differ), differ
    assert len(differ) < 40


def test_edit_distance_and_tree_distance_agree():
    import nltk

    zss = pytest.importorskip("zss")
    for answer, (gold, _) in pairs(200, 1):
        assert o.Levenshtein.distance(answer, gold) == nltk.edit_distance(answer, gold)

    def convert(node):
        out = zss.Node(node.name)
        for c in node.children:
            out.addkid(convert(c))
        return out

    rng = random.Random(2)
    for _ in range(60):
        docs = [
            "\n".join(
                rng.choice(("# A", "# B", "text", "", "more text"))
                for _ in range(rng.randint(1, 7))
            )
            for _ in range(2)
        ]
        trees = [trees.outline(d) for d in docs]
        far = zss.simple_distance(
            *map(convert, trees), label_dist=lambda a, b: float(not a.split() or not b.split())
        )
        assert trees.document(*docs) == pytest.approx(1 - far / max(map(trees.size, trees))), docs


def responses(n, seed, answers):
    """Generated final parts in the forms that models write, as (reply, the answer in it)."""
    rng = random.Random(seed)
    forms = [
        r"\boxed{%s}",
        r"So the answer is \boxed{%s}.",
        r"The answer is (%s).",
        "The answer is %s",
        "Answer: %s",
        "**Answer:** %s",
        r"First \boxed{0}? No: \boxed{%s}",
        r"$$\boxed{%s}$$",
        "%s",
        "After some work we get %s.",
        r"\boxed{\text{%s}}",
        r"\[ \boxed{ %s } \]",
        "I don't know.",
        r"\boxed{}",
    ]
    for _ in range(n):
        answer, form = rng.choice(answers), rng.choice(forms)
        yield (form % answer if "%s" in form else form), answer, form


def official_mmlu_pro(text):
    """TIGER-AI-Lab/MMLU-Pro evaluate_from_local.py: three expressions in turn."""
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"[A-J](?=[^A-J]*$)"):
        if m := re.search(pattern, text):
            return m[1] if m.groups() else m[0]
    return None


def test_mmlu_pro_extraction_agrees_with_the_official_chain():
    """400 generated replies. Every disagreement is one where the official chain takes a letter that
    answers nothing, or none is there.
    """
    differ = {}
    for reply, answer, form in responses(400, 3, list("ABCDEFGHIJ")):
        ours, theirs = letters.pick_letter(reply, 10), official_mmlu_pro(reply)
        if ours != theirs:
            differ[form] = (ours, theirs)
    # "I don't know." -> I, the pronoun; "we get X." names no choice: to the judge
    assert set(differ) <= {"I don't know.", "After some work we get %s."}, differ
    assert all(ours is None for ours, _ in differ.values())


def test_aime_agrees_with_lm_eval_and_math_verify():
    """400 generated replies against the gold. Listed: where ours differs from lm-eval, and from
    math-verify.
    """
    spec = importlib.util.find_spec("lm_eval")
    mv = pytest.importorskip("math_verify")
    if spec is None:
        pytest.skip("lm_eval is not installed")
    import pathlib

    path = pathlib.Path(spec.origin).parent / "tasks/aime/utils.py"
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("aime_utils", path)
    )
    module.__spec__.loader.exec_module(module)
    rng, against = random.Random(4), {"lm-eval": {}, "math-verify": {}}
    for reply, answer, form in responses(
        400, 5, ["70", "070", "104", "336^\\circ", "1,000", "70.0", "007", "x=70", "588"]
    ):
        gold = rng.choice(
            (
                answer.replace("^\\circ", "")
                .replace("x=", "")
                .replace(",", "")
                .split(".")[0]
                .lstrip("0"),
                "70",
            )
        )
        ours = s.score(s.aime, item(gold), reply).value == 1
        theirs = {
            "lm-eval": bool(module.process_results({"answer": gold}, [reply])["exact_match"]),
            "math-verify": bool(mv.verify(mv.parse(gold), mv.parse(reply))),
        }
        for name, verdict in theirs.items():
            if verdict != ours:
                against[name].setdefault((ours, verdict), set()).add((form, answer))
    # lm-eval compares strings: a leading zero, 70.0, 1,000 and \text{70} fail there. It never says
    # right where ours says wrong.
    assert set(against["lm-eval"]) <= {(True, False)}, against["lm-eval"]
    # math-verify also reads numbers that stand outside of any box: ours leaves those to the judge
    # (unresolved, not wrong)
    assert all(
        "boxed" not in form or (ours, theirs) == (True, False)
        for (ours, theirs), some in against["math-verify"].items()
        for form, _ in some
    ), against["math-verify"]


def test_json_literals_never_run_code(tmp_path):
    mark = tmp_path / "ran"
    for text in (
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"{{'a': open({str(mark)!r}, 'w')}}",
    ):
        assert trees.literal(text) is None and trees.to_dict(text) is not None
        o.ocr(ocr("chart parsing en", [json.dumps({"a": 1})]), text)
    assert not mark.exists()


def test_every_letter_is_found():
    for n in range(1, 27):
        assert letters.pick_letter(f"\\boxed{{{LETTERS[n - 1]}}}", n) == LETTERS[n - 1]
