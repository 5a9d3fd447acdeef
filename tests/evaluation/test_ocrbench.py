r"""OCRBench v2's metrics, worked by hand.

python -m pytest tests/evaluation/test_ocrbench.py
"""

import json

import pytest
from test_scorers import T, ocr

from evaluation import ocrbench as o
from evaluation import scorers as s
from evaluation import trees

# ---- OCRBench v2 ---------------------------------------------------------------------------------


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


def test_json_literals_never_run_code(tmp_path):
    mark = tmp_path / "ran"
    for text in (
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"{{'a': open({str(mark)!r}, 'w')}}",
    ):
        assert trees.literal(text) is None and trees.to_dict(text) is not None
        o.ocr(ocr("chart parsing en", [json.dumps({"a": 1})]), text)
    assert not mark.exists()
