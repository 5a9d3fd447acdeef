"""Questions from disk, their images, and the seeded order with a position.

python -m pytest tests/test_data.py
"""

import base64
import datetime
import gzip
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import model
from data import (
    Question,
    QuestionCheck,
    check_pictures,
    digest,
    fetch,
    in_memory,
    open_questions,
    parse_map,
    read,
    refuse,
    skipped,
    take,
    take_good,
)
from pictures import BadImage, decode
from processor import CLOSER, encode
from reward import grade
from runtime.rows import BadRow


def write(folder, *rows, name="questions.jsonl"):
    file = folder / name
    file.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return file


def png(folder, name="a.png", size=(4, 4)):
    Image.new("RGB", size, (10, 20, 30)).save(folder / name)
    return name


GOOD = {"id": "q1", "question": "How many?", "answer": "4"}


# ---- reading -------------------------------------------------------------------------------------


def test_read(tmp_path):
    png(tmp_path)
    rows = [
        {**GOOD, "images": ["a.png", "a.png"], "source": "bars", "free_form": True},
        "",
        {"id": 2, "question": "\u00e9?", "answer": 0},
    ]
    write(tmp_path, *rows)
    want = [
        Question(
            "q1", "How many?", "4", (str(tmp_path / "a.png"),) * 2, source="bars", free_form=True
        ),
        Question("2", "\u00e9?", "0"),
    ]  # ids and answers that are numbers become text; 0 is an answer
    assert read(tmp_path) == read(tmp_path / "questions.jsonl") == want


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


def test_a_picture_that_does_not_open_names_row_question_and_file(tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    write(tmp_path, {**GOOD, "images": ["bad.png"]})
    with pytest.raises(
        ValueError, match="questions.jsonl, line 1, question q1: the image .*bad.png"
    ):
        read(tmp_path)
    png(tmp_path, "bad.png")
    [question] = read(tmp_path)
    (tmp_path / "bad.png").unlink()  # gone since it was read
    with pytest.raises(ValueError, match="q1.*bad.png"):
        decode(question.images, question.id)


# ---- order ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_position_is_all_there_is_to_save(n, seed, steps):
    """Taking in pieces, from saved positions, is taking straight; each epoch holds each question
    once.
    """
    straight, position, pieces = take(n, seed, 0, sum(steps)), 0, []
    for k in steps:
        pieces += take(n, seed, position, k)
        position += k
    assert pieces == straight
    for epoch in range(len(straight) // n):
        assert sorted(straight[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 40), st.integers(1, 5))
def test_ranks_share_a_batch(n, position, k, world):
    """Rank r takes every world-th question: together they are the batch of one rank, in order."""
    parts = [take(n, 0, position, k, rank, world) for rank in range(world)]
    assert [parts[i % world][i // world] for i in range(k)] == take(n, 0, position, k) and sum(
        map(len, parts)
    ) == k


def test_epochs_and_seeds_differ():
    orders = [tuple(take(50, seed, 50 * epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16 and tuple(range(50)) not in orders


def test_a_batch_over_the_end_of_an_epoch():
    assert take(3, 0, 2, 3) == take(3, 0, 0, 6)[2:5] and take(3, 0, 7, 0) == []
    assert take(1, 0, 0, 4) == [0, 0, 0, 0]  # one question, four times in a batch: legal


@given(st.integers(1, 25), st.integers(1, 6), st.integers(1, 9), st.integers(1, 3))
def test_a_row_is_used_once_per_epoch_however_many_ranks(n, world, k, epochs):
    """Batches of k over `world` ranks, to the end of the last epoch: each row once an epoch, all
    ranks together.
    """
    used = [
        i
        for position in range(0, n * epochs, k)
        for rank in range(world)
        for i in take(n, 1, position, min(k, n * epochs - position), rank, world)
    ]
    assert len(used) == n * epochs and all(used.count(i) == epochs for i in range(n))
    batches = [
        [i for rank in range(world) for i in take(n, 1, p, k, rank, world)]
        for p in range(0, n * epochs, k)
    ]
    assert [sorted(b) for b in batches] == [
        sorted(take(n, 1, p, k)) for p in range(0, n * epochs, k)
    ]  # whatever `world` is


# ---- Questions: on disk, by index and by id ------------------------------------------------------


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """A cache of the `datasets` library for this test alone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return datasets


def raw_png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_sequence_that_loads_rows_when_asked(tmp_path):
    png(tmp_path)
    rows = [
        {"id": f"q{n}", "question": "\u00e9" * n + "?", "answer": n, "images": ["a.png"] * (n % 2)}
        for n in range(50)
    ]
    write(tmp_path, *rows)
    q = open_questions(tmp_path)
    assert (
        len(q) == 50
        and q[3].answer == "3"
        and q[-1].id == "q49"
        and [x.id for x in q[10:13]] == ["q10", "q11", "q12"]
    )
    assert (
        q.find("q7") == q[7]
        and [x.answer for x in q] == [str(n) for n in range(50)]
        and list(q) == read(tmp_path)
    )
    with pytest.raises(IndexError):
        q[50]
    with pytest.raises(ValueError, match="no question with the id 'other'"):
        q.find("other")
    assert list(in_memory(q)) == list(q) and in_memory(q).find("q7") == q[7]
    write(tmp_path, *rows[::-1])
    with pytest.raises(
        ValueError, match="question 'q0' is no longer where it was|not JSON"
    ):  # edited while in use
        q[0]


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


def test_a_corrupt_image_met_later_can_be_skipped(tmp_path):
    png(tmp_path)
    (tmp_path / "bad.png").write_bytes(raw_png()[:50])
    write(
        tmp_path,
        *(
            {
                "id": f"q{n}",
                "question": "Q",
                "answer": "A",
                "images": ["bad.png" if n == 40 else "a.png"],
            }
            for n in range(50)
        ),
    )
    q = open_questions(tmp_path)  # the first 32 are decoded, of the others headers are read
    with pytest.raises(BadImage, match="question q40: the image .*bad.png does not open"):
        decode(q[40].images, q[40].id)
    good, [bad] = fetch(q, [39, 40, 41])
    assert [x.id for x in good] == ["q39", "q41"]
    assert "questions.jsonl, line 41, question q40: the image" in str(bad)
    (tmp_path / "a.png").unlink()  # even the file is gone: still one named error a row
    assert len(fetch(q, [1, 40])[1]) == 2
    with pytest.raises(BadRow, match="line 2, question q1: .*no image.*; .*line 41.*--skip-bad"):
        refuse(fetch(q, [1, 40])[1])


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
    features = d.Features(
        {
            "problem": d.Value("string"),
            "gold": {"text": d.Value("int64")},
            "image": feature,
            "other": d.Value("string"),
        }
    )
    for part in range(2):
        rows = [
            {
                "problem": f"Q{n}",
                "gold": {"text": n},
                "image": values[n] if n else None,
                "other": "x",
            }
            for n in range(3 * part, 3 * part + 3)
        ]
        data = d.Dataset.from_list(rows, features=features)
        import pyarrow.parquet as pq

        pq.write_table(data.data.table, tmp_path / f"part{part}.parquet")
    with pytest.raises(
        ValueError,
        match="no column 'question'.*gold, image, other.*--map"
        if kind == "feature"
        else "no column",
    ):
        open_questions(tmp_path)
    q = open_questions(tmp_path, parse_map("question=problem,answer=gold.text"))
    assert (
        len(q) == 6
        and [x.answer for x in q] == list("012345")
        and q[4].question == "Q4"
        and q[4].id == "row-5"
        and q[0].images == ()
    )
    [image] = decode(q[4].images, "q")
    assert image.getpixel((0, 0)) == ((10 if kind == "path" else 4), 20, 30)
    assert (
        len(
            open_questions(
                tmp_path / "part1.parquet", parse_map("question=problem,answer=gold.text")
            )
        )
        == 3
    )
    with pytest.raises(BadRow, match=r"part1.parquet, row 1: the row has no 'answer'"):
        rows[0]["gold"]["text"] = None
        pq.write_table(
            cache.Dataset.from_list(rows, features=features).data.table, tmp_path / "part1.parquet"
        )
        open_questions(tmp_path, parse_map("question=problem,answer=gold.text"))


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
    [("<answer>B</answer>", "B"), ("B. four", "B"), ("(A) three", "A"), ("\\boxed{B}", "B")],
)
def test_dressed_letters_of_choices(tmp_path, gold, letter):
    [q] = read(write(tmp_path, {**GOOD, "choices": ["three", "four"], "answer": gold}))
    assert q.answer == letter


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
        ("a.jsonl.gz", gzip.compress(ROW.encode()), "packed .gzip.; gunzip"),
        ("a.jsonl", gzip.compress(ROW.encode()), "packed .gzip.; gunzip"),
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


# ---- the fingerprint -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_fingerprint_covers_every_row(tmp_path, cache, form):
    """Each of 200 rows changed in turn, in question, answer, picture or source: another digest."""

    def digest_of(rows):
        if form == "jsonl":
            return digest(open_questions(write(tmp_path, *rows)))
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", compression="none")
        return digest(open_questions(tmp_path / "a.parquet"))

    png(tmp_path, "a.png")
    png(tmp_path, "b.png")
    rows = [
        {"id": f"q{n}", "question": "Q", "answer": "A", "image": "a.png", "source": "s"}
        for n in range(200)
    ]
    seen = {digest_of(rows)}
    assert seen == {digest_of(rows)}
    changes = [("question", "R"), ("answer", "B"), ("image", "b.png"), ("source", "t")]
    step = 1 if form == "jsonl" else 23
    for n in range(0, 200, step):
        key, value = changes[n % 4]
        seen.add(digest_of([*rows[:n], {**rows[n], key: value}, *rows[n + 1 :]]))
    assert len(seen) == 1 + len(range(0, 200, step))
    assert digest_of(rows[:-1]) not in seen
    assert digest(in_memory([Question("a", "Q", "A")])) != digest(
        in_memory([Question("a", "Q", "B")])
    )


# ---- which questions a model can use -------------------------------------------------------------


@pytest.fixture
def late(tmp_path):
    """34 questions; the last two are too long for 256 tokens."""
    text = lambda n: "What is 1+2?" if n < 32 else "Add one and two. " * (20 if n == 32 else 90)
    return write(
        tmp_path, *({"id": f"l{n}", "question": text(n), "answer": "3"} for n in range(34))
    )


def test_a_long_prompt_anywhere_is_named_at_the_start(late, lm):
    check = QuestionCheck(lm, 256)
    with pytest.raises(BadRow, match="line 33, question l32: its prompt has [0-9]+ tokens") as e:
        open_questions(late, check=check)
    assert "line 34, question l33" in str(e.value) and "--max-prompt 256" in str(e.value)
    assert "--skip-bad" in str(e.value) and "\n" not in str(e.value)
    q = open_questions(late, check=check, skip_bad=True)
    assert len(q) == 34 and q.good == list(range(32)) and list(q.bad) == [32, 33]
    assert skipped(q).startswith(
        "2 of 34 questions can't be used and are skipped: prompt too long: 2 ("
    )
    with pytest.raises(BadRow, match="question l32"):
        q[32]
    with pytest.raises(ValueError, match="no question with the id 'l33'"):
        q.find("l33")
    good, bad = fetch(q, range(30, 34), check)
    assert [x.id for x in good] == ["l30", "l31"] and len(bad) == 2
    open_questions(late, check=QuestionCheck(lm, 2048))  # allowed more


def test_the_order_passes_over_bad_rows_and_keeps_its_place(late, lm):
    """What a run draws with two rows left out is what it draws with all, less these two."""
    q = open_questions(late, check=QuestionCheck(lm, 256), skip_bad=True)
    some, position = [], 0
    for k in (5, 17, 1, 30, 40):
        got, position = take_good(q, 0, position, k)
        assert len(got) == k
        some += got
    assert some == [i for i in take(34, 0, 0, position) if i < 32]
    assert take_good(open_questions(late), 0, 3, 9) == (take(34, 0, 3, 9), 12)
    assert digest(q) == digest(open_questions(late))  # a resumed run may skip others


@settings(max_examples=60)
@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=80),
    st.integers(60, 260),
    st.booleans(),
)
def test_the_check_is_the_length_of_the_prompt(lm, text, most, picture):
    image = (Image.new("RGB", (40, 70)),) if picture else ()
    q, check = Question("q", text, "1", image), QuestionCheck(lm, most)
    tokens = model.length(lm, encode(lm, text + CLOSER, image))
    assert check.tokens(q, "here") == tokens
    if tokens <= most:
        check(q, "here")
    else:
        with pytest.raises(BadRow, match=f"here: its prompt has {tokens} tokens, more than"):
            check(q, "here")


def test_pictures_of_every_kind_are_checked_by_their_headers(tmp_path, lm):
    Image.new("1", (10, 5000)).save(tmp_path / "thin.png")
    Image.effect_noise((100, 100), 50).save(tmp_path / "cut.png")
    Image.new("RGB", (1200, 1200)).save(tmp_path / "large.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:400])
    (tmp_path / "text.png").write_text("not an image")
    pictures = ["no.png", "text.png", "cut.png", "thin.png", "large.png", "large.png"]
    rows = [{**GOOD, "id": name + str(n), "image": name} for n, name in enumerate(pictures)]
    file = write(tmp_path, *rows)
    check = QuestionCheck(lm, 256)
    reasons = lambda q: {i: e.reason for i, e in q.bad.items()}
    q = open_questions(file, check=check, skip_bad=True)
    assert reasons(q) == {
        0: "image missing",
        1: "image does not open",
        2: "image does not open",
        3: "image does not fit the model",
    }
    assert q.n_pictures == 2
    with pytest.raises(BadRow, match="line 1: there is no image.*line 2.*line 3.*line 4.*refuses"):
        open_questions(file, check=check)
    text_only = replace(lm, image_processor=None)
    q = [{**GOOD, "id": "t"}, *rows[4:]]
    q = open_questions(write(tmp_path, *q), check=QuestionCheck(text_only, 256), skip_bad=True)
    assert q.good == [0] and {e.reason for e in q.bad.values()} == {"picture for a text model"}
    with pytest.raises(BadRow, match="line 1, question large.png4: .*reads text only"):
        open_questions(
            write(tmp_path, *rows[4:]), check=QuestionCheck(text_only, 256), skip_bad=True
        )


def test_pictures_inside_parquet_files_are_checked_like_others(tmp_path, cache, lm):
    import pyarrow as pa
    import pyarrow.parquet as pq

    large = io.BytesIO()
    Image.new("RGB", (120, 120)).save(large, "PNG")
    images = [raw_png(1), large.getvalue(), b"not an image", raw_png(2)[:40], None]
    for form in ("bytes", "struct", "list"):
        wrap = {
            "bytes": lambda b: b,
            "struct": lambda b: {"bytes": b, "path": "x.png"},
            "list": lambda b: [{"bytes": b, "path": "x.png"}],
        }[form]
        rows = [{"question": "Q", "answer": "A", "image": b and wrap(b)} for b in images]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        q = open_questions(tmp_path, check=QuestionCheck(lm, 256), skip_bad=True)
        assert {i: e.reason for i, e in q.bad.items()} == {
            2: "image does not open",
            3: "image does not open",
        }
        assert q.n_pictures == 2 and digest(q) == digest(open_questions(tmp_path, skip_bad=True))
        tokens = [QuestionCheck(lm, 999).tokens(q[i], "") for i in (0, 1)]
        least = open_questions(tmp_path, check=QuestionCheck(lm, tokens[0]), skip_bad=True)
        assert tokens[0] < tokens[1] and least.good == [0, 4]


def test_max_pixels_is_what_is_measured(tmp_path, lm):
    Image.new("RGB", (120, 120)).save(tmp_path / "a.png")
    [q] = open_questions(write(tmp_path, {**GOOD, "image": "a.png"}))
    for most in (0, 60 * 60):
        images = decode(q.images, q.id, most)
        want = model.length(lm, encode(lm, q.question + CLOSER, images))
        assert QuestionCheck(lm, 999, max_pixels=most).tokens(q, "") == want
    assert QuestionCheck(lm, 999).tokens(q, "") > want


def test_a_row_that_turns_bad_later_is_found_when_it_is_fetched(tmp_path, lm):
    png(tmp_path)
    check = QuestionCheck(lm, 256)
    file = write(tmp_path, *({**GOOD, "id": f"q{n}", "image": "a.png"} for n in range(40)))
    q = open_questions(file, check=check)
    (tmp_path / "a.png").unlink()
    good, bad = fetch(q, [3, 35], check)
    assert not good and [e.reason for e in bad] == ["image missing"] * 2
    assert "questions.jsonl, line 4, question q3" in str(bad[0])
    check_pictures(Question("x", "Q", "A"), "")


def test_the_tiny_world_can_be_used_as_it_is(questions, lm):
    for some in questions.values():
        q = in_memory(some, "tiny", QuestionCheck(lm, 256))
        assert len(q) == len(some) and not q.bad
    with pytest.raises(BadRow, match="tiny, question .*--max-prompt 3.* more rows"):
        in_memory(questions["text"], "tiny", QuestionCheck(lm, 3))


def test_training_on_jsonl_needs_no_package_of_the_corpus_builder(tmp_path):
    file = write(tmp_path, GOOD)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['datasets'] = None\n"
        "import data; print(len(data.open_questions(sys.argv[2])), 'torch' in sys.modules)\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'corpus'])"
    )
    argv = [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(file)]
    out = subprocess.run(argv, capture_output=True, text=True)
    assert out.stdout == "1 False\n[]\n", out.stderr


@pytest.mark.slow
def test_77000_rows_open_in_seconds_and_do_not_live_in_memory(tmp_path):
    """Rows of 4 kB, 300 MB in all, each with an image file: printed are the seconds to open and the
    growth of resident memory.
    """
    for n in range(0, 77_000, 1000):
        (tmp_path / f"{n}").mkdir()
        png(tmp_path / f"{n}", "p.png")
    with open(tmp_path / "questions.jsonl", "w") as lines:
        for n in range(77_000):
            os.link(
                tmp_path / f"{n // 1000 * 1000}/p.png", tmp_path / f"{n // 1000 * 1000}/{n}.png"
            )
            lines.write(
                json.dumps(
                    {
                        "id": f"set/part/{n}",
                        "question": "word " * 800 + str(n),
                        "answer": str(n),
                        "images": [f"{n // 1000 * 1000}/{n}.png"],
                    }
                )
                + "\n"
            )
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
import data
# ru_maxrss would count the parent's memory
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, t = peak(), time.process_time()
q = data.open_questions(sys.argv[2])
t = time.process_time() - t
for i in data.take(len(q), 0, 0, 2000):
    assert q[i].answer == str(i) == q.find(f"set/part/{i}").answer
print(t, peak() - before)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, grown = map(float, out.stdout.split())
    print(f"\n77,000 rows opened in {seconds:.1f} s of CPU, {grown:.0f} MB more memory")
    assert seconds < 30 and grown < 100
