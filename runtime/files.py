"""Files that must survive a kill: lines appended to a JSONL file, small files replaced as a whole.

append_jsonl("metrics.jsonl", [{"step": 1}])
read_jsonl("metrics.jsonl")  # [{"step": 1}]
"""

import json
import os
from pathlib import Path


def append_jsonl(path, records):
    """Append dicts as lines, on disk when this returns. Raises OSError that names the file.

    A line that an earlier process left torn is ended first, so that it costs itself only.
    """
    lines = [json.dumps(r, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for r in records]
    if not lines:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        raise OSError(f"{path}: {e.strerror}") from e


def read_jsonl(path):
    """The objects of a JSONL file, [] where there is none; a torn or damaged line is skipped."""
    if not Path(path).is_file():
        return []
    records = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def write_atomic(path, content):
    """Replace a file by text or bytes: a reader sees the old one or the new one, never half."""
    content = content.encode() if isinstance(content, str) else content
    temporary = Path(f"{path}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise OSError(f"{path}: {e.strerror}") from e
