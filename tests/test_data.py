"""Questions: opened, loaded when asked for, in a seeded order, and which of them a model can use.

python -m pytest tests/test_data.py
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from question_fixtures import GOOD, png, raw_png, write

import processor
from data import (
    Question,
    QuestionCheck,
    check_pictures,
    fetch,
    in_memory,
    open_questions,
    prompt_lengths,
    read,
    refuse,
    skipped,
    take,
    take_good,
)
from pictures import BadImage, decode
from processor import CLOSER, encode
from runtime.rows import BadRow


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """A cache of the `datasets` library for this test alone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return datasets


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


def test_a_sequence_that_loads_rows_when_asked(tmp_path):
    png(tmp_path)
    rows = [
        {"id": f"q{n}", "question": "\u00e9" * n + "?", "answer": n, "images": ["a.png"] * (n % 2)}
        for n in range(50)
    ]
    write(tmp_path, *rows)
    q = open_questions(tmp_path)
    assert len(q) == 50
    assert q[3].answer == "3"
    assert q[-1].id == "q49"
    assert [x.id for x in q[10:13]] == ["q10", "q11", "q12"]
    assert q.find("q7") == q[7]
    assert [x.answer for x in q] == [str(n) for n in range(50)]
    assert list(q) == read(tmp_path)
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


# ---- the fingerprint -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_fingerprint_covers_every_row(tmp_path, cache, form):
    """Rows all over the set changed in turn, in each of their values: always another digest."""

    def digest_of(rows):
        if form == "jsonl":
            return open_questions(write(tmp_path, *rows)).digest
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", compression="none")
        return open_questions(tmp_path / "a.parquet").digest

    png(tmp_path, "a.png")
    png(tmp_path, "b.png")
    rows = [
        {"id": f"q{n}", "question": "Q", "answer": "A", "image": "a.png", "source": "s"}
        for n in range(200)
    ]
    seen = {digest_of(rows)}
    assert seen == {digest_of(rows)}
    changes = [("question", "R"), ("answer", "B"), ("image", "b.png"), ("source", "t")]
    step = 9 if form == "jsonl" else 23
    for n in range(0, 200, step):
        key, value = changes[n // step % 4]
        seen.add(digest_of([*rows[:n], {**rows[n], key: value}, *rows[n + 1 :]]))
    assert len(seen) == 1 + len(range(0, 200, step))
    assert digest_of(rows[:-1]) not in seen
    one, other = (in_memory([Question("a", "Q", answer)]) for answer in "AB")
    assert one.digest != other.digest


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
    all_ = open_questions(late, check=QuestionCheck(lm, 2048))  # allowed more
    lengths = prompt_lengths(all_, check)
    assert len(lengths) == 34 and lengths[:32] == [lengths[0]] * 32 and lengths[32] > 256
    assert len(prompt_lengths(q, check)) == 32 and len(prompt_lengths(q, check, probes=4)) == 4


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
    assert q.digest == open_questions(late).digest  # a resumed run may skip others


@settings(max_examples=60)
@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=80),
    st.integers(60, 260),
    st.booleans(),
)
def test_the_check_is_the_length_of_the_prompt(lm, text, most, picture):
    image = (Image.new("RGB", (40, 70)),) if picture else ()
    q, check = Question("q", text, "1", image), QuestionCheck(lm, most)
    tokens = processor.length(lm, encode(lm, text + CLOSER, image))
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
        assert q.n_pictures == 2 and q.digest == open_questions(tmp_path, skip_bad=True).digest
        tokens = [QuestionCheck(lm, 999).tokens(q[i], "") for i in (0, 1)]
        least = open_questions(tmp_path, check=QuestionCheck(lm, tokens[0]), skip_bad=True)
        assert tokens[0] < tokens[1] and least.good == [0, 4]


def test_max_pixels_is_what_is_measured(tmp_path, lm):
    Image.new("RGB", (120, 120)).save(tmp_path / "a.png")
    [q] = open_questions(write(tmp_path, {**GOOD, "image": "a.png"}))
    for most in (0, 60 * 60):
        images = decode(q.images, q.id, most)
        want = processor.length(lm, encode(lm, q.question + CLOSER, images))
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
