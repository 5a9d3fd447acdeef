"""data.py overlap: questions that stand in two sets, by text and by picture.

python -m pytest tests/corpus/test_overlap.py
"""

import io
import json

import numpy as np
import pytest
from corpus_fixtures import picture
from PIL import Image

import data
from corpus.overlap import alike, compare, near, normal_text, picture_hash, questions_of, shrunken


def test_normal_text():
    same = [
        "What is 1.5 x 2?",
        "what is  1.5 x 2",
        "<image>\nWhat is \u201c1.5\u201d x 2 ?",
        "WHAT is (1.5) x 2.",
        "What is \uff11.5 x 2?",
    ]
    assert len({normal_text(t) for t in same}) == 1
    different = ["What is 15 x 2?", "What is 1.5 + 2?", "What is -1.5 x 2?", "What is 1.5 x 2 x 2?"]
    assert len({normal_text(t) for t in same[:1] + different}) == 5


def other_edition(raw, scale, quality):
    image, buffer = Image.open(io.BytesIO(raw)), io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(
        buffer, "JPEG", quality=quality
    )
    return buffer.getvalue()


def opened(raw):
    return data.decode((raw,), "q")[0]


def same(a, b):
    pair = np.stack([picture_hash(opened(a))]), np.stack([picture_hash(opened(b))])
    return near(*pair) == [(0, 0)] and bool(alike(shrunken(opened(a), 32), shrunken(opened(b), 32)))


def test_pictures_survive_scaling_and_jpeg_and_differ_from_each_other():
    raws = [picture(n, (300, 240)) for n in range(30)]
    found = [
        same(r, other_edition(r, scale, quality))
        for r in raws
        for scale, quality in ((0.5, 75), (1, 50), (1.5, 95))
    ]
    assert np.mean(found) >= 0.95
    assert not any(same(a, b) for i, a in enumerate(raws) for b in raws[:i])


def test_plain_pictures_are_left_out():
    assert picture_hash(Image.new("RGB", (100, 100), "white")) is None
    assert picture_hash(Image.new("RGB", (1, 1))) is None
    noise = Image.effect_noise((300, 300), 3)
    assert picture_hash(noise) is None  # sensor noise is no edge


def test_near_is_what_one_pair_at_a_time_says():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**62, (40, 8), dtype=np.uint64)
    b = np.concatenate(
        [
            a[:10] ^ np.uint64(1),
            a[:5] ^ np.uint64(2**60 - 1),
            rng.integers(0, 2**62, (7, 8), dtype=np.uint64),
        ]
    )
    bits = lambda x: bin(int.from_bytes(x.tobytes(), "little")).count("1")  # noqa: E731
    want = [
        (i, j)
        for i in range(40)
        for j in range(len(b))
        if bits(a[i] ^ b[j]) <= 0.25 * (bits(a[i]) + bits(b[j])) / 2
    ]
    assert sorted(near(a, b, chunk=64)) == sorted(near(a, b)) == want and len(want) >= 10
    assert near(a[:0], b) == near(a, b[:0]) == []


@pytest.fixture
def sets(tmp_path):
    """(train, eval) folders. By hand: e0 = t0 as another edition, e1 has t1's picture, e2 has t2's
    text, e3 = t3 without pictures.
    """

    def write(name, rows):
        folder = tmp_path / name
        folder.mkdir()
        with open(folder / "questions.jsonl", "w") as lines:
            for n, (text, raw) in enumerate(rows):
                if raw:
                    (folder / f"{n}.img").write_bytes(raw)
                lines.write(
                    json.dumps(
                        {
                            "id": f"{name[0]}{n}",
                            "question": text,
                            "answer": "1",
                            "images": [f"{n}.img"] * bool(raw),
                        }
                    )
                    + "\n"
                )
        return str(folder)

    size = (300, 240)
    train = [
        ("How long is AB?", picture(0, size)),
        ("Find x.", picture(1, size)),
        ("Find y.", picture(2, size)),
        ("What is 2+2?", None),
        ("Alone", picture(4, size)),
        ("Plain", _plain()),
    ]
    test = [
        ("how long is AB", other_edition(picture(0, size), 0.5, 75)),
        ("Name the figure.", other_edition(picture(1, size), 1, 60)),
        ("Find y", picture(20, size)),
        ("What is 2 + 2?".replace(" + ", "+"), None),
        ("New", picture(5, size)),
        ("Broken", picture(6)[:100]),
    ]
    return write("train", train), write("eval", test)


def _plain():
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def test_compare_by_hand(sets):
    train, test = (questions_of(s, {}) for s in sets)
    assert compare(train, test) == {
        "both": [("t0", "e0"), ("t3", "e3")],
        "picture": [("t1", "e1")],
        "text": [("t2", "e2")],
        "plain": 1,
        "broken": 1,
        "n": [6, 6],
    }


def test_command_line(sets, tmp_path, capsys):
    assert data.main(["overlap", *sets, "--json", str(tmp_path / "pairs.json")]) == 1
    out = capsys.readouterr().out
    assert "leaks: 2 of the second set's questions, 2 of the first's" in out
    assert "'t0'  =  'e0'" in out
    assert "1 that do not open" in out
    assert json.loads((tmp_path / "pairs.json").read_text())["picture"] == [["t1", "e1"]]
    (tmp_path / "other.jsonl").write_text(
        json.dumps({"id": 1, "question": "Something else", "answer": "1"}) + "\n"
    )
    assert data.main(["overlap", sets[0], str(tmp_path / "other.jsonl")]) == 0
