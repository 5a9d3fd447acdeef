"""Questions from disk, their images, and the seeded order with a position.

python -m pytest tests/test_data.py
"""

import base64
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pictures import BadImage
from data import (
    BadRow,
    Question,
    decode,
    fetch,
    in_memory,
    open_questions,
    parse_map,
    read,
    refuse,
    take,
)


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


# ---- images --------------------------------------------------------------------------------------


def test_decode_paths_bytes_and_images(tmp_path):
    png(tmp_path)
    path = str(tmp_path / "a.png")
    images = decode((path, Path(path).read_bytes(), Image.open(path)), "q")
    assert len(images) == 3 and all(
        i.mode == "RGB" and i.getpixel((1, 1)) == (10, 20, 30) for i in images
    )
    assert decode((), "q") == ()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_decode_makes_rgb_of_every_mode(tmp_path, mode):
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "x.tiff")
    assert decode((str(tmp_path / "x.tiff"),), "q")[0].mode == "RGB"
    assert decode((image,), "q")[0].mode == "RGB"  # the tiny world hands over gray PIL images


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_format_opens(form):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3), "white").save(buffer, format=form)
    [image] = decode((buffer.getvalue(),), "q")
    assert image.size == (5, 3) and image.getpixel((2, 1)) == (255, 255, 255)


def test_an_image_that_does_not_open_names_question_and_file(tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(ValueError, match="q17.*bad.png"):
        decode((str(tmp_path / "bad.png"),), "q17")
    with pytest.raises(ValueError, match="q17.*12 bytes"):
        decode((b"not an image",), "q17")
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


@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks on damaged TIFF tags
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_broken_files_open_or_raise_value_error(form):
    """Cut at every byte, and with 300 random bytes flipped: never another exception."""
    buffer = io.BytesIO()
    Image.effect_noise((9, 7), 60).convert("RGB").save(buffer, format=form)
    data, rng = buffer.getvalue(), random.Random(0)
    broken = [data[:k] for k in range(0, len(data), 1 + len(data) // 300)]
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            flipped[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        broken.append(bytes(flipped))
    opened = 0
    for b in broken:
        try:
            opened += decode((b,), "q")[0].mode == "RGB"
        except ValueError as e:
            assert "question q" in str(e)
    assert opened < len(broken)


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
    """Rank r takes every world-th question: together they are the batch of one rank, in its order."""
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


def test_no_white_on_white_no_black_on_black():
    """Transparent pixels are white paper; 16-bit gray is scaled, not clipped."""
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    deep = io.BytesIO()
    Image.new("I;16", (4, 4), 32768).save(deep, "PNG")
    paper, gray = decode((buffer.getvalue(), deep.getvalue()), "q")
    assert paper.getpixel((0, 0)) == (255, 255, 255) and gray.getpixel((0, 0)) == (128, 128, 128)


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
    code = (
        # ru_maxrss would count the parent's memory
        "import sys, time; sys.path.insert(0, sys.argv[1]); import data\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before, t = peak(), time.process_time(); q = data.open_questions(sys.argv[2]); t = time.process_time() - t\n"
        "for i in data.take(len(q), 0, 0, 2000): assert q[i].answer == str(i) == q.find(f'set/part/{i}').answer\n"
        "print(t, peak() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, grown = map(float, out.stdout.split())
    print(f"\n77,000 rows opened in {seconds:.1f} s of CPU, {grown:.0f} MB more memory")
    assert seconds < 6 and grown < 100
