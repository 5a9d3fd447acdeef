"""Questions from disk, their images, and the seeded order with a position.

    python -m pytest tests/test_data.py
"""
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from data import Question, decode, read, take


def write(folder, *rows, name="questions.jsonl"):
    file = folder / name
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return file


def png(folder, name="a.png", size=(4, 4)):
    Image.new("RGB", size, (10, 20, 30)).save(folder / name)
    return name


GOOD = {"id": "q1", "question": "How many?", "answer": "4"}


# ---- reading -------------------------------------------------------------------------------------------------------------

def test_read(tmp_path):
    png(tmp_path)
    rows = [{**GOOD, "images": ["a.png", "a.png"], "source": "bars", "free_form": True}, "", {"id": 2, "question": "\u00e9?", "answer": 0}]
    write(tmp_path, *rows)
    want = [Question("q1", "How many?", "4", (str(tmp_path / "a.png"),) * 2, source="bars", free_form=True),
            Question("2", "\u00e9?", "0")]                             # ids and answers that are numbers become text; 0 is an answer
    assert read(tmp_path) == read(tmp_path / "questions.jsonl") == want


@pytest.mark.parametrize("bad, why", [
    ('{"id": "q2", "ques', "JSON"), ("[1, 2]", "object"), ('"text"', "object"), ("7", "object"),
    ({"question": "Q", "answer": "A"}, "'id'"), ({"id": "q2", "answer": "A"}, "'question'"), ({"id": "q2", "question": "Q"}, "'answer'"),
    ({"id": "q2", "question": "Q", "answer": None}, "'answer'"), ({"id": "q2", "question": " ", "answer": "A"}, "'question'"),
    ({"id": "q1", "question": "Q", "answer": "A"}, "'q1'.*earlier"),
    ({**GOOD, "id": "q2", "images": ["no.png"]}, "no.png"), ({**GOOD, "id": "q2", "images": [3]}, "list")])
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


# ---- images --------------------------------------------------------------------------------------------------------------

def test_decode_paths_bytes_and_images(tmp_path):
    png(tmp_path)
    path = str(tmp_path / "a.png")
    images = decode((path, Path(path).read_bytes(), Image.open(path)), "q")
    assert len(images) == 3 and all(i.mode == "RGB" and i.getpixel((1, 1)) == (10, 20, 30) for i in images)
    assert decode((), "q") == ()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_decode_makes_rgb_of_every_mode(tmp_path, mode):
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "x.tiff")
    assert decode((str(tmp_path / "x.tiff"),), "q")[0].mode == "RGB"
    assert decode((image,), "q")[0].mode == "RGB"                      # the tiny world hands over gray PIL images


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
    with pytest.raises(ValueError, match="q1.*bad.png"):
        read(tmp_path)
    png(tmp_path, "bad.png")
    [question] = read(tmp_path)
    (tmp_path / "bad.png").unlink()                                    # gone since it was read
    with pytest.raises(ValueError, match="q1.*bad.png"):
        decode(question.images, question.id)


@pytest.mark.filterwarnings("ignore")                                  # Pillow's own remarks on damaged TIFF tags
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


# ---- order ---------------------------------------------------------------------------------------------------------------

@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_position_is_all_there_is_to_save(n, seed, steps):
    """Taking in pieces, from saved positions, is taking straight; each epoch holds each question once."""
    straight, position, pieces = take(n, seed, 0, sum(steps)), 0, []
    for k in steps:
        pieces += take(n, seed, position, k)
        position += k
    assert pieces == straight
    for epoch in range(len(straight) // n):
        assert sorted(straight[epoch * n:(epoch + 1) * n]) == list(range(n))


@given(st.integers(1, 20), st.integers(0, 60), st.integers(0, 40), st.integers(1, 5))
def test_ranks_share_a_batch(n, position, k, world):
    """Rank r takes every world-th question: together they are the batch of one rank, in its order."""
    parts = [take(n, 0, position, k, rank, world) for rank in range(world)]
    assert [parts[i % world][i // world] for i in range(k)] == take(n, 0, position, k) and sum(map(len, parts)) == k


def test_epochs_and_seeds_differ():
    orders = [tuple(take(50, seed, 50 * epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16 and tuple(range(50)) not in orders


def test_a_batch_over_the_end_of_an_epoch():
    assert take(3, 0, 2, 3) == take(3, 0, 0, 6)[2:5] and take(3, 0, 7, 0) == []
    assert take(1, 0, 0, 4) == [0, 0, 0, 0]                            # one question, four times in a batch: legal
