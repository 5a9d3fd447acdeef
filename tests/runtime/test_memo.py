"""The memo of what a teacher has written.

python -m pytest tests/runtime/test_memo.py
"""

import shutil
import subprocess
import sys

import pytest

from config import HERE
from runtime.files import append_jsonl, read_jsonl
from runtime.memo import Memo, fingerprint

A, B = [{"text": "a"}], [{"text": "b", "ids": [1, 2]}, {"text": ""}]


@pytest.fixture
def opened(tmp_path):
    """opened(teacher): the memo of a file, after closing the one that was open before."""
    made = []

    def open_memo(teacher="t"):
        for memo in made:
            memo.close()
        made.append(Memo(tmp_path / "runs/teacher.jsonl", teacher))
        return made[-1]

    yield open_memo
    made[-1].close()


def test_records_are_found_by_key_visit_and_number(opened):
    opened().put([("k", 0, A), ("k", 1, B)])
    for memo in (opened(), opened()):
        assert memo.get("k") == A and memo.get("k", 1, 2) == B
        assert memo.get("k", 1) is None and memo.get("k", 2) is None and memo.get("other") is None


def test_the_first_records_hold(opened):
    memo = opened()
    memo.put([("k", 0, A)])
    memo.put([("k", 0, [{"text": "later"}]), ("l", 0, A)])
    assert memo.get("k") == opened().get("k") == A
    assert len(read_jsonl(opened().path)) == 2


def test_another_teacher_reads_nothing(opened):
    opened("one").put([("k", 0, A)])
    memo = opened("two")
    assert memo.get("k") is None and not memo.records
    memo.put([("k", 0, [{"text": "two"}])])
    assert opened("one").get("k") == A and opened("two").get("k") == [{"text": "two"}]


def test_damaged_and_foreign_lines_are_skipped(opened):
    memo = opened()
    memo.put([("k", 0, A), ("l", 0, A)])
    whole = memo.path.read_bytes()
    memo.path.write_bytes(whole[:-5])  # torn by a kill
    append_jsonl(memo.path, [{"teacher": "t", "key": "m"}, {"step": 1}])
    memo = opened()
    assert memo.get("k") == A and memo.get("l") is None and len(memo.records) == 1
    memo.put([("l", 0, A)])
    assert opened().get("l") == A


def test_records_that_are_not_on_disk_are_not_given(opened, monkeypatch):
    memo = opened()

    def full(path, records):
        raise OSError("No space left on device")

    monkeypatch.setattr("runtime.memo.append_jsonl", full)
    with pytest.raises(OSError):
        memo.put([("k", 0, A)])
    assert memo.get("k") is None


def test_one_run_at_a_time(opened):
    memo = opened()
    with pytest.raises(ValueError, match="another run is writing.*--teacher-cache"):
        Memo(memo.path, "t")
    memo.close()
    Memo(memo.path, "t").close()


def test_the_lock_goes_with_a_killed_process(opened):
    path = opened().path
    opened().close()
    code = f"import os; from runtime.memo import Memo; m = Memo({str(path)!r}, 't'); os.abort()"
    assert subprocess.run([sys.executable, "-c", code], cwd=HERE).returncode < 0
    Memo(path, "t").close()


def test_fingerprint(tmp_path):
    folders = HERE / "assets/teacher", HERE / "assets/student"
    one, two = map(fingerprint, folders)
    assert one != two and len(one) == 16
    shutil.copytree(folders[0], tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == one  # wherever it is
    weights = tmp_path / "copy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert fingerprint(tmp_path / "copy") != one
    assert fingerprint("Qwen/a") != fingerprint("Qwen/b")
