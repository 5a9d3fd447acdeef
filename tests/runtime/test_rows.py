"""Rows on disk: formats, names of columns, values of a wrong type, answers in another dress.

python -m pytest tests/runtime/test_rows.py
"""

import base64
import datetime
import gzip
import json
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from question_fixtures import GOOD, png, raw_png, write

from data import open_questions, read, to_question
from pictures import decode
from reward import grade
from runtime.rows import KEYS, BadRow, parse_map


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """A cache of the `datasets` library for this test alone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return datasets


@pytest.mark.parametrize(
    "bad, why",
    [
        ('{"id": "q2", "ques', "JSON"),
        ("[1, 2]", "object"),
        ('"text"', "object"),
        ("7", "object"),
        ({"question": "Q", "answer": "A"}, "'id'"),
        ({"id": "q2", "answer": "A"}, "'question'"),
        ({"id": "q2", "question": "Q"}, "'answer'"),
        ({"id": "q2", "question": "Q", "answer": None}, "'answer'"),
        ({"id": "q2", "question": " ", "answer": "A"}, "'question'"),
        ({"id": "q1", "question": "Q", "answer": "A"}, "'q1'.*earlier"),
        ({**GOOD, "id": "q2", "images": ["no.png"]}, "no.png"),
        ({**GOOD, "id": "q2", "images": [3]}, "list"),
    ],
)
def test_errors_name_file_and_line(tmp_path, bad, why):
    file = write(tmp_path, GOOD, "", bad)
    with pytest.raises(ValueError, match=f"(?s){file}, line 3.*{why}"):
        read(tmp_path)


def test_bytes_that_are_not_text_name_the_file(tmp_path):
    file = write(tmp_path, GOOD)
    file.write_bytes(file.read_bytes() + b'{"id": "q2", "question": "\xff", "answer": "1"}\n')
    with pytest.raises(ValueError, match=str(file)):
        read(file)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no questions"):
        read(write(tmp_path, "", "  "))


@pytest.mark.parametrize("form", ["uri", "one uri", "one path", "image key"])
def test_images_inline_or_alone(tmp_path, form):
    png(tmp_path)
    uri = "data:image/png;base64," + base64.b64encode(raw_png(10)).decode()
    row = {
        "uri": {"images": [uri]},
        "one uri": {"images": uri},
        "one path": {"images": "a.png"},
        "image key": {"image": "a.png"},
    }[form]
    [q] = open_questions(write(tmp_path, {**GOOD, **row}))
    [image] = decode(q.images, q.id)
    assert image.getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64,!!!", "data:image/png,abc", "data:image/png;base64,", "data:"]
)
def test_bad_data_uris(tmp_path, uri):
    write(tmp_path, {**GOOD, "images": [uri]})
    with pytest.raises(BadRow, match="questions.jsonl, line 1, question q1: the image data:"):
        open_questions(tmp_path)


@pytest.mark.parametrize(
    "more, why",
    [
        ({"choices": ["3", "4"], "answer": "5"}, "neither a letter"),
        ({"choices": ["3", "4"], "answer": 2}, "neither"),
        ({"choices": "AB"}, "list of"),
        ({"choices": ["1", "2", "0"], "answer": 2}, "names another one"),
        ({"free_form": "yes"}, "true or false"),
        ({"images": ["http://a/b.png"]}, "link"),
        ({"images": [{"path": None}]}, "list of paths"),
        ({"images": ["/dev/zero"]}, "no image"),
        ({"images": ["a\0b"]}, "no image"),
        ({"question": "half \ud800"}, "surrogate"),
        ({"question": "x" * 50_000_000}, "50000000 characters"),
        ({"answer": []}, "'answer'"),
        ({"answer": [None, " "]}, "'answer'"),
        ({"id": None}, "'id'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, more, why):
    file = write(tmp_path, {"id": "q0", "question": "Q", "answer": "A"}, {**GOOD, **more})
    with pytest.raises(BadRow, match=f"{file}, line 2.*{why}"):
        open_questions(tmp_path)


@pytest.mark.parametrize(
    "answer, letter", [("b", "B"), ("(B)", "B"), ("four", "B"), (1, "B"), (0, "A"), ("A.", "A")]
)
def test_choices_become_lettered_lines(tmp_path, answer, letter):
    [q] = read(write(tmp_path, {**GOOD, "choices": ["three", "four"], "answer": answer}))
    assert q.question == "How many?\nA. three\nB. four" and q.answer == letter


def test_a_list_of_answers(tmp_path):
    [q] = read(write(tmp_path, {**GOOD, "answer": ["a cat", "cat", "cat", None]}))
    assert (q.answer, q.also) == ("a cat", ("cat",)) and q.golds == ("a cat", "cat")


def test_deep_json_and_byte_order_mark(tmp_path):
    file = write(tmp_path, "\ufeff" + json.dumps(GOOD))
    assert read(file)[0].id == "q1"
    with pytest.raises(BadRow, match="line 2: not JSON"):
        read(write(tmp_path, GOOD, "[" * 100_000))


def test_map():
    assert parse_map("question=problem, answer=solution.text,image=picture") == {
        "question": "problem",
        "answer": "solution.text",
        "images": "picture",
    }
    assert parse_map("") == parse_map(None) == {}
    for text in ("question", "what=ever", "question="):
        with pytest.raises(ValueError, match="--map: .*is not KEY=COLUMN"):
            parse_map(text)


def test_map_on_a_jsonl(tmp_path):
    png(tmp_path)
    row = {"uid": 1, "problem": "Q", "question": "not this", "sol": {"short": "4"}, "pic": "a.png"}
    [q] = read(
        write(tmp_path, row), parse_map("id=uid,question=problem,answer=sol.short,image=pic")
    )
    assert (q.id, q.question, q.answer, q.images) == ("1", "Q", "4", (str(tmp_path / "a.png"),))


@pytest.mark.parametrize("kind", ["feature", "list", "struct", "bytes", "path"])
def test_parquet(tmp_path, cache, kind):
    """Each way that Parquet files hold images: the hub's Image, a list of them, a plain struct,
    bytes, and paths.
    """
    import pyarrow.parquet as pq

    png(tmp_path, "p.png")
    raw, d = [raw_png(n) for n in range(6)], cache
    values = {
        "feature": [{"bytes": b, "path": None} for b in raw],
        "list": [[{"bytes": b, "path": "x.png"}] for b in raw],
        "struct": [{"bytes": b, "path": "x.png"} for b in raw],
        "bytes": raw,
        "path": ["p.png"] * 6,
    }[kind]
    feature = {
        "feature": d.Image(),
        "list": d.List(d.Image()),
        "struct": {"bytes": d.Value("binary"), "path": d.Value("string")},
        "bytes": d.Value("binary"),
        "path": d.Value("string"),
    }[kind]
    text, columns = d.Value("string"), parse_map("question=problem,answer=gold.text")
    features = {
        "problem": text,
        "gold": {"text": d.Value("int64")},
        "image": feature,
        "other": text,
    }

    def write_part(part, golds):
        rows = [
            {"problem": f"Q{n}", "gold": {"text": gold}, "image": values[n], "other": "x"}
            for n, gold in enumerate(golds, 3 * part)
        ]
        rows[0]["image"] = None
        data = d.Dataset.from_list(rows, features=d.Features(features))
        pq.write_table(data.data.table, tmp_path / f"part{part}.parquet")

    write_part(0, [0, 1, 2])
    write_part(1, [3, 4, 5])
    with pytest.raises(ValueError, match="no column 'question'.*gold, image, other.*--map"):
        open_questions(tmp_path)
    q = open_questions(tmp_path, columns)
    assert [x.answer for x in q] == list("012345")
    assert (q[4].question, q[4].id, q[0].images) == ("Q4", "row-5", ())
    [image] = decode(q[4].images, "q")
    assert image.getpixel((0, 0)) == ((10 if kind == "path" else 4), 20, 30)
    assert len(open_questions(tmp_path / "part1.parquet", columns)) == 3
    write_part(1, [None, 4, 5])
    with pytest.raises(BadRow, match=r"part1.parquet, row 1: the row has no 'answer'"):
        open_questions(tmp_path, columns)


def test_a_hub_data_set(tmp_path, cache, monkeypatch):
    """owner/name:config:split@revision is what the library is asked for; the rest is a Parquet
    table like any other.
    """
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return cache.Dataset.from_list([{"problem": "Q", "solution": "A", "image": None}])

    monkeypatch.setattr(cache, "load_dataset", load_dataset)
    [q] = open_questions("owner/name:sub:test@abc", parse_map("question=problem,answer=solution"))
    assert (q.id, q.question, q.answer) == ("row-1", "Q", "A")
    open_questions("owner/name", parse_map("question=problem,answer=solution"))
    assert asked == [
        (("owner/name", "sub"), {"split": "test", "revision": "abc"}),
        (("owner/name", None), {"split": "train", "revision": None}),
    ]
    for spec in (
        "owner/name-v1.5",
        "owner/name:v1.0:test",
        "owner/name@v1.0",
        "owner/name@refs/pr/1",
    ):
        open_questions(spec, parse_map("question=problem,answer=solution"))
    for spec in ("folder/my.jsonl", "a/b/c", "./a/b", "../b", "alone"):
        with pytest.raises(ValueError, match="no such file"):
            open_questions(spec)


# ---- values of a wrong type ----------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "What is 1+2?"}]


@pytest.mark.parametrize(
    "key, value, why",
    [
        ("question", MESSAGES, "'question' is a list"),
        ("question", {"text": "Q"}, "'question' is an object with the keys text"),
        ("question", float("nan"), "'question' is nan"),
        ("question", 7, "'question' is 7; expected a text"),
        ("question", True, "'question' is True"),
        (
            "answer",
            {"style": "rule", "ground_truth": "3"},
            "keys style, ground_truth; --map answer=",
        ),
        ("answer", float("nan"), "'answer' is nan"),
        ("answer", float("inf"), "'answer' is inf"),
        ("answer", True, "'answer' is True"),
        ("answer", [["3"]], "'answer' is a list"),
        ("answer", ["3", {"value": 3}], "'answer' is an object"),
        ("answer", ["3", float("nan")], "'answer' is nan"),
        ("id", [1], "'id' is a list"),
        ("id", float("nan"), "'id' is nan"),
        ("source", {"name": "x"}, "'source' is an object"),
        ("choices", [3, 4], "'choices' must be a list of"),
        ("images", float("nan"), "'images' must be a list of paths"),
        ("images", [["a.png"]], "'images' must be a list of paths"),
    ],
)
def test_values_of_a_wrong_type_are_refused_by_name(tmp_path, key, value, why):
    file = write(tmp_path, {"id": "q0", "question": "Q", "answer": "A"}, {**GOOD, key: value})
    with pytest.raises(BadRow, match=f"{file}, line 2.*{why}"):
        open_questions(tmp_path)


@pytest.mark.parametrize(
    "key, values, why",
    [
        ("question", [MESSAGES, MESSAGES], "row 1: 'question' is a list"),
        ("answer", [{"style": "rule", "gold": "3"}] * 2, "row 1: 'answer' is an object"),
        ("answer", [3.0, float("nan")], "row 2: 'answer' is nan"),
        ("answer", [b"3", b"4"], "row 1: 'answer' is b'3'"),
        ("answer", [True, False], "row 1: 'answer' is True"),
        ("answer", [datetime.date(2026, 1, 2)] * 2, "row 1: 'answer' is datetime.date"),
    ],
)
def test_values_of_a_wrong_type_in_parquet(tmp_path, cache, key, values, why):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": "Q", "answer": "A", key: value} for value in values]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(BadRow, match=f"a.parquet, {why}"):
        open_questions(tmp_path)


def test_numbers_of_parquet_are_what_was_written(tmp_path, cache):
    """Whole numbers in a column of doubles, decimal places in 16 and 32 bits, decimals."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for kind, value, want in (
        (pa.float64(), 3.0, "3"),
        (pa.float64(), 0.1, "0.1"),
        (pa.float32(), 0.1, "0.1"),
        (pa.float32(), 1e-9, "1e-09"),
        (pa.decimal128(5, 2), Decimal("1.50"), "1.50"),
        (pa.int64(), 2**53 + 1, str(2**53 + 1)),
    ):
        table = pa.table({"question": ["Q"], "answer": pa.array([value], kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        assert read(tmp_path)[0].answer == want


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional={key: JSON for key in KEYS}))
def test_any_json_is_a_question_or_a_bad_row(row):
    try:
        q = to_question({"id": 1, "question": "Q", "answer": "A", **row}, "here", "/nowhere")
    except BadRow as e:
        assert str(e).startswith("here: ") and e.reason
        return
    assert all(isinstance(text, str) for text in (q.id, q.question, q.source, *q.golds))
    assert q.id and q.question.strip() and all(q.golds) and not q.images


# ---- answers in another dress --------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold, want",
    [
        ("<answer> 3 </answer>", "3"),
        ("<think>2 + 1</think>\n<answer>3</answer>", "3"),
        ("<ANSWER>\nB\n</ANSWER>", "B"),
        ("<answer> 3", "3"),
        ("[ANSWER] 3 [/ANSWER]", "3"),
        ("<SUMMARY>s</SUMMARY><CONCLUSION> B </CONCLUSION>", "B"),
        ("<|begin_of_box|>3<|end_of_box|>", "3"),
        ("There are two and one.\n#### 3", "3"),
        ("2+1=<<2+1=3>>3 so #### 3\n", "3"),
        ("#### 1,234", "1,234"),
        ("\\boxed{3}", "3"),
        ("The answer is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("<answer>\\boxed{3}</answer>", "3"),
        ("First, two.\nThen one.\nThe answer is: 3", "3"),
        ("Two and one.\nAnswer: 3 apples", "3 apples"),
        ("reasoning</think>3", "3"),
        ("The answer is: 3", "3"),
        ("Final Answer: The final answer is $3$. I hope it is correct.", "$3$"),
        ("So the answer is 3.", "3"),
        ("\\fbox{3}", "3"),
        ("<final_answer>3</final_answer>", "3"),
        ("answering: 3", "answering: 3"),
        ("the answer", "the answer"),
        ("# 3", "# 3"),
        ("a < b", "a < b"),
        ("C#", "C#"),
        ("x > 3", "x > 3"),
        ("<b>3</b>", "<b>3</b>"),
    ],
)
def test_golds_in_another_dress_are_unwrapped(tmp_path, gold, want):
    [q] = read(write(tmp_path, {**GOOD, "answer": gold}))
    assert q.answer == want and grade(f"\\boxed{{{want}}}", q.golds) == 1
    [q] = read(write(tmp_path, {**GOOD, "answer": [gold, want, None]}))
    assert q.golds == (want,)


@pytest.mark.parametrize(
    "gold, letter",
    [
        ("<answer>B</answer>", "B"),
        ("B. four", "B"),
        ("four", "B"),
        ("(A) three", "A"),
        ("\\boxed{B}", "B"),
    ],
)
def test_dressed_letters_of_choices(tmp_path, gold, letter):
    [q] = read(write(tmp_path, {**GOOD, "choices": ["three", "four"], "answer": gold}))
    assert q.answer == letter


def test_a_number_is_a_position_and_its_text_is_not(tmp_path):
    numbers = {**GOOD, "choices": ["1", "2", "0"]}
    assert read(write(tmp_path, {**numbers, "answer": "2"}))[0].answer == "B"
    for answer in (2, 2.0):
        with pytest.raises(BadRow, match="names another one"):
            read(write(tmp_path, {**numbers, "answer": answer}))
    words = {**GOOD, "choices": ["three", "four"]}
    assert read(write(tmp_path, {**words, "answer": 1.0}))[0].answer == "B"
    with pytest.raises(BadRow, match="'1' is neither a letter"):
        read(write(tmp_path, {**words, "answer": "1"}))


def test_free_form_answers_keep_their_sentences(tmp_path):
    text = "It is long.\nThe answer is: a cat"
    assert read(write(tmp_path, {**GOOD, "answer": text, "free_form": True}))[0].answer == text
    assert read(write(tmp_path, {**GOOD, "answer": text}))[0].answer == "a cat"


@pytest.mark.parametrize("gold", ["}", "x {", "~", ".", "\\", "<answer></answer>", "\\boxed{ }"])
def test_golds_that_cannot_earn_a_reward_are_named(tmp_path, gold):
    file = write(tmp_path, {**GOOD, "id": "q0"}, {**GOOD, "answer": gold})
    with pytest.raises(BadRow, match=f"{file}, line 2.*(would earn nothing|no 'answer')"):
        open_questions(file)
    assert open_questions(file, skip_bad=True).good == [0]
    if grade("\\boxed{" + gold + "}", gold) == 0 and len(gold) < 9:  # one that can is enough
        [q] = read(write(tmp_path, {**GOOD, "answer": [gold, "4"]}))
        assert q.golds == (gold, "4")


# ---- files of another kind -----------------------------------------------------------------------

ROW = json.dumps(GOOD)


@pytest.mark.parametrize(
    "name, raw, what",
    [
        ("a.jsonl.gz", gzip.compress(ROW.encode(), mtime=0), "packed .gzip.; gunzip"),
        ("a.jsonl", gzip.compress(ROW.encode(), mtime=0), "packed .gzip.; gunzip"),
        ("a.jsonl", b"PK\x03\x04" + bytes(20), "zip"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard"),
        ("a.jsonl", b"BZh91AY" + bytes(20), "bzip2"),
        ("a.jsonl", b"\xfd7zXZ" + bytes(20), "xz"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS pointer"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS pointer"),
        ("a.jsonl", b"<!doctype html><title>404</title>", "web page"),
        ("a.arrow", b"ARROW1" + bytes(20), "Arrow file; write it as Parquet"),
        ("a.jsonl", ROW.encode("utf-16"), "UTF-16 text; iconv"),
        ("a.jsonl", ROW.encode("utf-16-le"), "UTF-16 text; iconv"),
        ("a.jsonl", ROW.encode("utf-16-be"), "UTF-16 text; iconv"),
        ("a.json", f"[{ROW},{ROW}]".encode(), "one JSON array.*python -c"),
        ("a.jsonl", json.dumps([GOOD], indent=1).encode(), "one JSON array"),
        ("a.json", b"\xef\xbb\xbf [" + ROW.encode() + b"]", "one JSON array"),
        ("a.json", json.dumps(GOOD, indent=2).encode(), "JSON over several lines"),
        ("a.csv", b"id,question,answer\n1,Q,A\n", "CSV.*from_csv"),
        ("a.jsonl", b"id,question,answer\n1,Q,A\n", "CSV"),
        ("a.tsv", b"id\tquestion\tanswer\n1\tQ\tA\n", "CSV"),
        ("a.csv", b'"id";"question"\n', "CSV"),
        ("a.json", json.dumps({"data": [GOOD]}).encode(), "no 'id' .it has data"),
        ("a.jsonl", b"\x89PNG\r\n", "line 1: not JSON"),
    ],
)
def test_files_of_another_kind_are_refused_by_what_they_are(tmp_path, name, raw, what):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=f"{name}.*{what}") as e:
        open_questions(tmp_path / name)
    assert "\n" not in str(e.value)


def test_the_recipe_for_an_array_works(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, {**GOOD, "id": 2}]))
    with pytest.raises(ValueError) as e:
        open_questions(tmp_path / "a.json")
    recipe = str(e.value).partition("; ")[2]
    recipe = recipe.replace("python", sys.executable, 1).replace(
        "my.jsonl", str(tmp_path / "my.jsonl")
    )
    subprocess.run(recipe, shell=True, check=True)
    assert [q.id for q in read(tmp_path / "my.jsonl")] == ["q1", "2"]


def test_a_folder_without_questions_says_what_it_has(tmp_path):
    write(tmp_path, GOOD, name="train.jsonl")
    with pytest.raises(ValueError, match="no such file.*the folder has train.jsonl"):
        open_questions(tmp_path)


def test_parquet_without_the_suffix_is_read(tmp_path, cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["Q"], "answer": ["A"]}), tmp_path / "rows")
    assert read(tmp_path / "rows")[0].answer == "A"
