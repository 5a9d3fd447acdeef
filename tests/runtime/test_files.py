"""Files that survive a kill: appended lines, and small files replaced as a whole.

python -m pytest tests/runtime/test_files.py
"""

import os

import pytest

from runtime import files
from runtime.files import append_jsonl, read_jsonl, write_atomic

ROWS = [{"n": 1, "text": "plain"}, {"n": 2, "text": "\u00e9\u4e2d\U0001f600 \u2028\x85\x0b\r\n"}]


@pytest.fixture
def full(monkeypatch):
    """A disk that takes bytes and can't keep them."""

    def fsync(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)


def test_lines_round_trip(tmp_path):
    file = tmp_path / "a/b.jsonl"  # the folder is made
    for row in ROWS:
        append_jsonl(file, [row])
    append_jsonl(file, [])
    assert read_jsonl(file) == ROWS and file.read_bytes().count(b"\n") == 2
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    append_jsonl(tmp_path / "a.jsonl", [{"text": "\ud83d"}])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"text": "?"}]


def test_a_line_torn_at_any_byte_costs_itself_only(tmp_path):
    file = tmp_path / "a.jsonl"
    append_jsonl(file, ROWS[:1])
    start = file.stat().st_size
    append_jsonl(file, ROWS[1:])
    whole = file.read_bytes()
    for cut in range(start + 1, len(whole)):
        file.write_bytes(whole[:cut])
        append_jsonl(file, [{"n": 3}])
        kept = ROWS if cut == len(whole) - 1 else ROWS[:1]  # without its line end it is whole
        assert read_jsonl(file) == [*kept, {"n": 3}], cut


def test_what_is_no_object_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n[2]\n3\n\n\xff\xfe\n{"n": 4}\n')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"n": 1}, {"n": 4}]


def test_lines_are_on_disk_when_it_returns(tmp_path, monkeypatch):
    seen, real = [], os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda fd: seen.append(os.fstat(fd).st_size) or real(fd))
    append_jsonl(tmp_path / "a.jsonl", ROWS)
    assert seen == [(tmp_path / "a.jsonl").stat().st_size]


def test_an_error_names_the_file(tmp_path, full):
    for write in (lambda path: append_jsonl(path, ROWS), lambda path: write_atomic(path, "new")):
        with pytest.raises(OSError, match="a.json: No space left on device"):
            write(tmp_path / "a.json")


def test_a_replaced_file_is_whole_or_old(tmp_path, full):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("content", ["\u00e9\n", b"\x00\xff"])
def test_text_and_bytes(tmp_path, content):
    for _ in range(2):
        write_atomic(tmp_path / "a", content)
    written = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "a").read_bytes() == written
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
