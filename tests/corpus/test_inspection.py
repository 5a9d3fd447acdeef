"""data.py check and data.py show: what they find, what they write, and that nothing from the data
drives terminal or page.

python -m pytest tests/corpus/test_inspection.py
"""

import json
import re

import pytest
from corpus_fixtures import picture
from PIL import Image

import data
import model
from corpus.inspection import as_text, half_blocks, visible

GOOD = {"question": "How many?", "answer": "4"}


@pytest.fixture
def mixed(tmp_path):
    """A folder with 4 good rows and 9 bad ones; {reason: lines}."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for n in range(4):
        (folder / f"images/{n}.png").write_bytes(picture(n))
    (folder / "images/cut.png").write_bytes(picture(0)[:200])
    (tmp_path / "beside.jpg").write_bytes(picture(7, form="JPEG"))
    rows = [
        {**GOOD, "id": "a", "images": ["images/0.png"], "mine": {"kept": 1}},
        "{",
        {**GOOD, "id": "a"},
        {**GOOD, "id": "b", "images": ["../beside.jpg"]},
        {**GOOD, "id": "c", "images": ["images/cut.png"]},
        {**GOOD, "id": "d", "images": ["images/none.png"]},
        {"id": "e", "question": "Q"},
        {**GOOD, "id": "f", "question": "abc\x1b[2J"},
        {**GOOD, "id": "g", "answer": "\u202e4"},
        {**GOOD, "id": "h", "images": ["images/cut.png"]},
        {**GOOD, "id": "text"},
        {**GOOD, "id": "i", "choices": ["4", "5"], "image": "images/1.png"},
        {**GOOD, "id": "\ud800"},
    ]
    (folder / "questions.jsonl").write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    )
    return folder, {
        "not JSON": [2],
        "repeated id": [3],
        "image does not open": [5, 10],
        "image missing": [6],
        "no answer": [7],
        "hidden character": [8, 9],
        "broken text": [13],
    }


def reported(out):
    """{reason: line numbers} as check printed them."""
    found = {}
    for line in out.splitlines():
        if m := re.fullmatch(r"(\S.*): (\d+) rows", line):
            found[m[1]] = []
        elif line.startswith("  ") and (m := re.search(r"questions\.jsonl, line (\d+)", line)):
            found[list(found)[-1]].append(int(m[1]))
    return found


def test_check_names_reason_file_and_row(mixed, capsys):
    folder, want = mixed
    assert data.main(["check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert reported(out) == want and "13 rows, 4 can be used, 9 can't" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_fix_writes_a_copy_that_passes(mixed, tmp_path, capsys):
    folder, _ = mixed
    assert data.main(["check", str(folder), "--fix", str(tmp_path / "ok")]) == 1
    assert "4 rows written to" in capsys.readouterr().out
    (tmp_path / "beside.jpg").unlink()  # the copy stands alone
    assert data.main(["check", str(tmp_path / "ok")]) == 0
    rows = [json.loads(line) for line in open(tmp_path / "ok/questions.jsonl")]
    assert [r["id"] for r in rows] == ["a", "b", "text", "i"]
    assert rows[0]["mine"] == {"kept": 1}
    assert rows[0]["images"] == ["images/0.png"]
    new = data.read(tmp_path / "ok")
    assert [len(q.images) for q in new] == [1, 1, 0, 1]
    assert new[3].question.endswith("\nA. 4\nB. 5")
    assert new[3].answer == "A"
    assert open(new[1].images[0], "rb").read() == picture(7, form="JPEG")
    with pytest.raises(ValueError, match="exists already"):
        data.main(["check", str(folder), "--fix", str(tmp_path / "ok")])


def test_check_of_nothing_and_of_nowhere(tmp_path):
    (tmp_path / "questions.jsonl").write_text("\n")
    assert data.main(["check", str(tmp_path)]) == 1
    with pytest.raises(ValueError, match="no such file"):
        data.main(["check", str(tmp_path / "nowhere")])


def test_check_lists_twenty_and_all_on_demand(tmp_path, capsys):
    (tmp_path / "questions.jsonl").write_text("x\n" * 30)
    data.main(["check", str(tmp_path)])
    out = capsys.readouterr().out
    assert len(reported(out)["not JSON"]) == 20 and "... and 10 more" in out
    data.main(["check", str(tmp_path), "--all"])
    assert len(reported(capsys.readouterr().out)["not JSON"]) == 30


def test_check_measures_prompts(tmp_path, lm, capsys):
    model.save(lm, tmp_path / "model")
    Image.new("1", (10, 5000)).save(tmp_path / "thin.png")
    rows = [
        {**GOOD, "id": "short"},
        {**GOOD, "id": "long", "question": "x" * 5000},
        {**GOOD, "id": "thin", "images": ["thin.png"]},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert data.main(["check", str(tmp_path)]) == 0
    assert data.main(["check", str(tmp_path), "--tokenizer", str(tmp_path / "model")]) == 1
    assert reported(capsys.readouterr().out) == {
        "prompt too long": [2],
        "image does not fit the model": [3],
    }


def test_check_finds_answers_that_nobody_can_give(tmp_path, capsys):
    """A messages list, an object, not-a-number; a gold that earns nothing in its own box; and, as
    a remark, sentences that are compared exactly.
    """
    long = "because " * 11
    rows = [
        {"id": 1, "question": [{"role": "user", "content": "Q"}], "answer": "3"},
        {**GOOD, "id": 2, "answer": {"ground_truth": "3"}},
        {**GOOD, "id": 3, "answer": float("nan")},
        {**GOOD, "id": 4, "answer": "3}"},
        {**GOOD, "id": 5, "answer": "<answer> 3 </answer>"},
        {**GOOD, "id": 6, "answer": long},
        {**GOOD, "id": 7, "answer": long + "it", "free_form": True},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert data.main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert reported(out) == {
        "answer of a wrong type": [2, 3],
        "question of a wrong type": [1],
        "answer can't be matched": [4],
    }
    assert "7 rows, 3 can be used, 4 can't" in out
    assert "1 answers are sentences and compared exactly" in out and "line 6" in out


def test_check_of_parquet(tmp_path, capsys, monkeypatch):
    import corpus_fixtures as fx
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    fx.write_mmfr(
        tmp_path / "set",
        [
            fx.mmfr(n, answer="" if n == 3 else "{n}", image=b"x" if n == 4 else None)
            for n in range(6)
        ],
        shards=2,
    )
    assert data.main(["check", str(tmp_path / "set"), "--fix", str(tmp_path / "ok")]) == 1
    out = capsys.readouterr().out
    assert "train-00001-of-00002.parquet, row 1: the row has no 'answer'" in out
    assert "train-00001-of-00002.parquet, row 2, question" in out
    new = data.read(tmp_path / "ok")
    assert [q.answer for q in new] == ["0", "1", "2", "5"] and open(
        new[3].images[0], "rb"
    ).read() == picture(1005)


# ---- show ----------------------------------------------------------------------------------------


def test_show_in_the_terminal(mixed, capsys):
    folder, _ = mixed
    assert data.main(["show", str(folder), "-n", "13"]) == 0
    out = capsys.readouterr().out
    assert out.count("── ") == 13
    assert "[image, 120 x 110]" in out
    assert "How many?" in out
    assert "answer (exact): 4" in out
    assert out.count("CAN'T BE USED") == 7
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "abc\\x1b[2J" in out
    data.main(["show", str(folder), "-n", "3", "--random", "1"])
    lines = [int(x) for x in re.findall(r"── .*line (\d+)", capsys.readouterr().out)]
    assert len(set(lines)) == 3 and lines == sorted(lines)


def test_half_blocks_are_two_pixels_a_character():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    lines = half_blocks(image, 64).split("\n")
    assert len(lines) == 4 and all(
        line.count("▀") == 8 and line.endswith("\x1b[0m") and "38;2;1;2;3" in line for line in lines
    )
    assert half_blocks(Image.new("RGB", (2000, 3)), 64).count("\n") == 0
    assert half_blocks(Image.new("RGB", (1, 1000)), 64).count("▀") >= 1
    assert "\x1b[38" in as_text("w", data.Question("q", "Q\x1b[2J", "A"), (image,), "", True)
    assert "\x1b[2J" not in as_text("w", data.Question("q", "Q\x1b[2J", "A"), (image,), "", True)


def test_show_as_a_page(mixed, tmp_path):
    folder, _ = mixed
    with open(folder / "questions.jsonl", "a") as lines:
        lines.write(
            json.dumps(
                {
                    "id": "<b>",
                    "question": "</script><script>alert(1)</script><img src=x onerror=alert(2)>",
                    "answer": "&\x00",
                }
            )
            + "\n"
        )
    assert data.main(["show", str(folder), "-n", "99", "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 14 and page.count("data:image/png;base64,") == 3
    assert "<script" not in page
    assert "<img src" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert "\x00" not in page and "\x1b" not in page and "can't be used" in page


def test_visible():
    assert visible("a\x1b[2J\u202eb\r\ud800\nc\té") == "a\\x1b[2J\\u202eb\\r\\ud800\nc\té"
