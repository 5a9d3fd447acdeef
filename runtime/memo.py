"""What a frozen teacher has written, on disk, for the run that asked and for later ones.

    memo = Memo("runs/x/teacher.jsonl", fingerprint("assets/teacher"))
    memo.put([("a digest", 0, [{"text": "\\\\boxed{4}"}])])
    memo.get("a digest", 0, n=1)

Records are found by their key, their visit (how often a run had taken records of this key before)
and how many they are. The file says what was drawn; what a run has seen is state of the run
(Teacher.state).
"""

import fcntl
import hashlib
from pathlib import Path

from runtime.files import append_jsonl, read_jsonl


class Memo:
    """A JSONL file that runs may share, one after the other. teacher: a fingerprint; the lines of
    other teachers stay unread.

    The first records of a (key, visit) hold: whoever reads them sees what the first one saw. Raises
    ValueError when another run has the file open.
    """

    def __init__(self, path, teacher):
        self.path, self.teacher, self.records = Path(path), teacher, {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab")  # holds the lock, which goes with the process
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise ValueError(
                f"{self.path}: another run is writing this teacher cache; "
                f"give --teacher-cache another path"
            ) from None
        for line in read_jsonl(self.path):
            if line.get("teacher") == teacher and {"key", "visit", "records"} <= line.keys():
                at = line["key"], line["visit"], len(line["records"])
                self.records.setdefault(at, line["records"])

    def get(self, key, visit=0, n=1):
        """The n records of a visit, a list of dict, or None."""
        return self.records.get((key, visit, n))

    def put(self, items):
        """Keep (key, visit, records) triples; they are on disk when this returns."""
        new = {(key, visit, len(records)): records for key, visit, records in items}
        new = {at: records for at, records in new.items() if at not in self.records}
        lines = [{"key": k, "visit": v, "records": some} for (k, v, _), some in new.items()]
        append_jsonl(self.path, [{"teacher": self.teacher, **line} for line in lines])
        self.records |= new

    def close(self):
        """Let another run write."""
        self.file.close()


def fingerprint(path):
    """A short name of a teacher: of a folder's config and the ends of its weight files, or of the
    hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256(str(path).encode()).hexdigest()[:16]
    h = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        if file.is_file():
            with open(file, "rb") as f:
                h.update(f"{file.name} {file.stat().st_size}".encode() + f.read(1 << 20))
                f.seek(max(0, file.stat().st_size - (1 << 20)))
                h.update(f.read())
    return h.hexdigest()[:16]
