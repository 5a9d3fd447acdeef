"""Rows of a data set on disk: a JSONL file, Parquet files, or a set on the hub, under our keys.

    rows = open_rows("my-questions", parse_map("question=problem"))
    for handle, number, row in rows.scan(): ...       # row: a dict, or the BadRow that it is
    rows.at(handle); rows.where(number); rows.content.hexdigest()       # of all that scan() read

Files of another kind are refused by what they are. Below: the values of a row, as data.py wants
them, or a BadRow that says what is wrong.
"""

import hashlib
import json
import math
import os
import re
from decimal import Decimal
from pathlib import Path

from reward import last_boxed

KEYS = ("id", "question", "answer", "images", "source", "free_form", "choices")
MAX_LINE = 500_000_000  # bytes of one JSONL line, inline pictures included
# what a gold answer stands in elsewhere; the last group is the answer
DRESS = (
    re.compile(r"(?is).*[<\[]((?:final[_ ])?answer|ans|conclusion)[>\]](.*?)(?:[<\[]/\1[>\]]|\Z)"),
    re.compile(r"(?is).*<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)"),
    re.compile(r"(?s).*####[ \t]*([^\n#]+)\s*\Z"),  # GSM8K
    re.compile(r"(?s)\s*[$\s]*\\fbox\{(.*)\}[$.\s]*\Z"),
)
# the end of a solution in sentences
SENTENCE = re.compile(
    r"(?is).*\banswer(?: is:?|:)[ \t]+([^\n]{1,80}?)\.?(?: I hope it is correct\.?)?\s*\Z"
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# how files begin that are no JSONL
SIGNS = {
    b"\x1f\x8b": "packed (gzip); gunzip {0}",
    b"BZh": "packed (bzip2); bunzip2 {0}",
    b"\xfd7zXZ": "packed (xz); unxz {0}",
    b"\x28\xb5\x2f\xfd": "packed (Zstandard); unzstd {0}",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; git lfs pull",
    b"<": "a web page or XML; was the download complete?",
    b"PK\x03\x04": "packed (zip, or a spreadsheet); unpack it, or export it as CSV",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"\xff\xfe": "UTF-16 text; iconv -f UTF-16 -t UTF-8 {0} > my.jsonl",
    b"\xfe\xff": "UTF-16 text; iconv -f UTF-16 -t UTF-8 {0} > my.jsonl",
}


class BadRow(ValueError):
    """A row that can't be used. reason: a short name to count by; its text names file and row."""

    def __init__(self, where, reason, detail):
        super().__init__(f"{where}: {detail}")
        self.where, self.reason, self.detail = where, reason, detail

    def __reduce__(self):  # it travels between ranks
        return BadRow, (self.where, self.reason, self.detail)


def parse_map(text):
    """ "question=problem,answer=solution" -> {"question": "problem", ...}. Raises ValueError."""
    out = {}
    for part in filter(None, (text or "").split(",")):
        key, _, column = part.partition("=")
        key = {"image": "images"}.get(key.strip(), key.strip())
        if key not in KEYS or not column.strip():
            raise ValueError(f"--map: {part!r} is not KEY=COLUMN with a KEY of {', '.join(KEYS)}")
        out[key] = column.strip()
    return out


def open_rows(spec, columns=None):
    """What `spec` names, as JsonLines or Table. Raises ValueError saying what a data set may be."""
    path = Path(spec)
    if path.is_dir():
        file, tables = path / "questions.jsonl", sorted(path.rglob("*.parquet"))
        if not file.is_file() and tables:
            return Table(str(path), tables, columns)
        path = file
    if path.is_file():
        head = path.open("rb").read(4096)
        if head.startswith(b"PAR1") or (path.suffix == ".parquet" and b"git-lfs" not in head):
            return Table(str(path), [path], columns)
        refuse_format(path, head)
        return JsonLines(path, columns)
    # names and revisions may hold dots
    hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[^:@]*){0,2}(@.+)?", str(spec))
    files = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst")
    if hub and path.suffix not in files:
        return Table(str(spec), None, columns)
    there = sorted(p.name for p in path.parent.iterdir())[:6] if Path(spec).is_dir() else ()
    raise ValueError(
        f"{path}: no such file; --data takes a JSONL file or a folder with questions.jsonl, a "
        f"Parquet file or a folder of them, or a hub set as owner/name:config:split@revision"
        + (f"; the folder has {', '.join(there)}" if there else "")
    )


def refuse_format(path, head):
    """Raise ValueError saying what a file is that is no JSONL, and how to make one of it."""
    what = next((what for sign, what in SIGNS.items() if head.startswith(sign)), None)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if what is None and b"\0" in head[:2] and len(head) > 1:
        what = SIGNS[b"\xff\xfe"]
    elif what is None and text.startswith(b"["):
        what = (
            'one JSON array, not an object a line; python -c "import json; [print(json.dumps(row)) '
            "for row in json.load(open('{0}'))]\" > my.jsonl"
        )
    elif what is None and re.match(rb"\{\s*\n", text):
        what = "JSON over several lines; each line must be an object of its own"
    elif what is None and (path.suffix in (".csv", ".tsv") or re.match(rb'[\w" ]+[,;\t]', text)):
        what = (
            'a table of text (CSV); python -c "import datasets; '
            "datasets.Dataset.from_csv('{0}').to_parquet('my.parquet')\""
        )
    if what:
        raise ValueError(f"{path} is {what.format(path)}")


class JsonLines:
    """A JSONL file. Handles are byte offsets. A row is a dict with our keys."""

    def __init__(self, file, columns):
        self.name, self.folder, self.columns = str(file), str(file.parent), columns or {}
        self.content = hashlib.sha256()  # of all that scan() has read

    def scan(self, pictures=True):
        with open(self.name, "rb") as lines:
            at = number = 0
            while line := lines.readline(MAX_LINE):
                number += 1
                self.content.update(line)
                if len(line) == MAX_LINE:
                    detail = f"more than {MAX_LINE} bytes; is this a JSONL file?"
                    raise BadRow(self.where(number), "line too long", detail)
                if line.strip():
                    try:
                        yield at, number, self._row(line, self.where(number))
                    except BadRow as e:
                        yield at, number, e
                at += len(line)

    def where(self, number):
        return f"{self.name}, line {number}"

    def at(self, offset):
        with open(self.name, "rb") as lines:  # anew, so that forked processes share no position
            lines.seek(offset)
            return self._row(lines.readline(), f"{self.name}, byte {offset}")

    def _row(self, line, where):
        try:
            row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError) as e:
            raise BadRow(where, "not JSON", f"not JSON ({e})") from None
        if not isinstance(row, dict):
            example = '{"id": ..., "question": ..., "answer": ...}'
            raise BadRow(where, "not JSON", f"expected an object like {example}")
        return renamed(row, self.columns)


class Table:
    """Parquet files, or a hub set (files: None), memory-mapped. Handles are row numbers from 0."""

    def __init__(self, name, files, columns):
        try:
            import datasets  # seconds to import, and only some data sets need it
        except ImportError as e:
            raise ValueError(f"{name}: needs a package; pip install datasets ({e})") from e
        datasets.disable_progress_bars()
        self.name, self.content = name, hashlib.sha256()
        self.folder = name if Path(name).is_dir() else str(Path(name).parent)
        self._starts = [(0, name)]  # (first row, file)
        try:
            data = self._load(datasets, files)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
            why = str(e).strip().splitlines()[0][:300]
            raise ValueError(f"{name}: the data set does not load ({why})") from e
        self.columns = self._wanted(data.column_names, columns or {})
        roots = {c.split(".")[0] for c in self.columns.values()} & set(data.column_names)
        # raw storage: no picture is decoded behind our back
        self._data = data.select_columns(sorted(roots)).with_format("arrow")
        kinds = {f.name: str(f.type) for f in self._data.features.arrow_schema}
        self._short = [c for c, kind in kinds.items() if kind in ("float", "halffloat")]
        heavy = self.columns["images"].split(".")[0]
        self._heavy = heavy if "binary" in kinds.get(heavy, "") else None

    def _load(self, datasets, files):
        if files is None:
            path, _, revision = self.name.partition("@")
            path, config, split = (*path.split(":"), "", "")[:3]
            split, revision = split or "train", revision or None
            return datasets.load_dataset(path, config or None, split=split, revision=revision)
        from pyarrow.parquet import ParquetFile

        at, self._starts = 0, []
        for file in files:
            self._starts.append((at, str(file)))
            at += ParquetFile(file).metadata.num_rows
            # pictures inside are not read for the fingerprint; another one has another size
            self.content.update(b"%d " % os.path.getsize(file))
        files = [str(f) for f in files]
        return datasets.load_dataset("parquet", data_files=files, split="train")

    def _wanted(self, there, columns):
        # {our key: its column}. Raises ValueError naming the columns that are there.
        wanted = {k: columns.get(k, k) for k in KEYS}
        if "images" not in there and "image" in there and "images" not in columns:
            wanted["images"] = "image"
        for key, column in wanted.items():
            needed = key in columns or key in ("question", "answer")
            if needed and column.split(".")[0] not in there:
                raise ValueError(
                    f"{self.name}: no column {column!r} for {key!r}; it has {', '.join(there)}. "
                    f"Say which is which: --map question=...,answer=...,image=..."
                )
        return wanted

    def scan(self, pictures=False):
        """pictures: with those that stand in the rows, which is much to read."""
        number, data = 0, self._data
        if self._heavy and not pictures:
            data = data.remove_columns([self._heavy])
        for some in data.iter(100):
            for row in some.to_pylist():
                known = {k: v for k, v in row.items() if k != self._heavy}
                self.content.update(repr(known).encode("utf-8", "replace"))
                number += 1
                yield number - 1, number, self._row(row, number)

    def where(self, number):
        start, file = next((s, f) for s, f in reversed(self._starts) if s < number)
        return f"{file}, row {number - start}"

    def at(self, n):
        return self._row(self._data[n : n + 1].to_pylist()[0], n + 1)

    def _row(self, row, number):
        for column in self._short:  # 0.1 in 32 bits would become 0.10000000149011612
            if row.get(column) is not None:
                row[column] = float(f"{row[column]:.7g}")
        row = renamed(row, self.columns)
        return row if row.get("id") is not None else {**row, "id": f"row-{number}"}


def renamed(row, columns):
    """A row under our keys; other keys stay. A column "a.b" that does not exist as such is looked
    up in the struct a.
    """
    if columns:
        taken = {*KEYS, *columns.values()}
        out = {k: v for k, v in row.items() if k not in taken}
    else:
        out = dict(row)
    for key in KEYS if columns else ():
        column, value = columns.get(key, key), row
        if column in row:
            out[key] = row[column]
            continue
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            out[key] = value
    if "image" in out and "images" not in out and "images" not in columns:
        out["images"] = out.pop("image")
    return out


# ---- values of a row -----------------------------------------------------------------------------


def as_text(value, key, where):
    """A text, or a number as text; "" for none. Raises BadRow for all else: no answer looks like
    the Python form of a list.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if number and math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.strip() if key == "answer" else value
    raise wrong_type(value, key, where)


def wrong_type(value, key, where):
    """The BadRow of a value that is neither text nor number."""
    what, advice = f"{value!r:.60}", "expected a text"
    if isinstance(value, dict):
        what = f"an object with the keys {', '.join(map(str, value))[:100]}"
        advice = f"--map {key}=COLUMN.KEY takes one of them"
    elif isinstance(value, float):
        what = f"{value}, not a finite number"
    elif isinstance(value, (list, tuple)):
        what = f"a list ({what})"
    return BadRow(where, f"{key} of a wrong type", f"{key!r} is {what}; {advice}")


def golds_of(answer, free_form, where):
    """The accepted answers of a row as texts, unwrapped, each once. Raises BadRow."""
    golds = answer if isinstance(answer, (list, tuple)) else [answer]
    golds = [unwrapped(as_text(g, "answer", where), free_form) for g in golds]
    return list(dict.fromkeys(filter(None, golds)))


def unwrapped(gold, free_form=False):
    """A gold answer without what other sets wrap it in: reasoning, tags, "#### 4", a box, and,
    unless a judge reads it, the sentences before "the answer is 4".
    """
    before = None
    while gold != before:
        before = gold
        gold = gold.rpartition("</think>")[2]
        for pattern in DRESS if free_form else (*DRESS, SENTENCE):
            if found := pattern.match(gold):
                gold = found[found.lastindex]
        boxed = last_boxed(gold)
        gold = (gold if boxed is None else boxed).strip()
    return gold


def with_choices(text, golds, row, where):
    """(the question's text with lettered lines, the golds as letters). Raises BadRow."""
    choices, answer = row["choices"], row["answer"]
    fine = isinstance(choices, list) and all(isinstance(c, str) for c in choices)
    if not fine or len(choices) > len(LETTERS):
        detail = f"'choices' must be a list of at most {len(LETTERS)} texts"
        raise BadRow(where, "bad choices", detail)
    letters = LETTERS[: len(choices)]
    lines = [f"{letter}. {c}" for letter, c in zip(letters, choices)]
    answers = answer if isinstance(answer, (list, tuple)) else [answer]
    positions = {as_text(g, "answer", where) for g in answers if not isinstance(g, str)}
    found = [_letter(gold, choices, letters, gold in positions, where) for gold in golds]
    return "\n".join([text, *lines]), list(dict.fromkeys(found))


def _letter(gold, choices, letters, is_position, where):
    same = [letter for letter, c in zip(letters, choices) if c.strip() == gold]
    named = gold.strip("().: ").upper()
    if is_position and gold.isdecimal() and int(gold) < len(choices):
        named = letters[int(gold)]
    elif (m := re.match(r"\(?([A-Z])[).:]\s*(.+)", gold)) and m[2] in map(str.strip, choices):
        named = m[1]  # "B. four"
    if len(same) == 1 and named in letters and same[0] != named:
        detail = f"the answer {gold!r} is the text of one choice and names another one"
        raise BadRow(where, "answer is no choice", detail)
    if not same and (len(named) != 1 or named not in letters):
        detail = f"the answer {gold!r} is neither a letter nor a position from 0 nor a choice"
        raise BadRow(where, "answer is no choice", detail)
    return same[0] if same else named


def images_of(images, where, folder):
    """Paths joined to the folder, bytes and data URIs as they are. Files must exist; nothing is
    opened. Raises BadRow.
    """
    images = [] if images is None else images
    out = []
    for image in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if not isinstance(image, (str, bytes)) or not image:
            detail = f"'images' must be a list of paths, not {str(image)[:60]!r}"
            raise BadRow(where, "bad images", detail)
        if isinstance(image, str) and not image.startswith("data:"):
            if re.match(r"\w+://", image):
                detail = f"the image {image[:100]} is a link; download it and give its path"
                raise BadRow(where, "image is a link", detail)
            image = os.path.join(folder, image)
            if "\0" in image or not os.path.isfile(image):  # a pipe or a device is no file either
                raise BadRow(where, "image missing", f"there is no image {image}")
        out.append(image)
    return tuple(out)
