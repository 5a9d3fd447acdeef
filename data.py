"""Questions: the record, the format on disk, reading it row by row, and a seeded order with a
position.

A data set is a folder with questions.jsonl (or Parquet files) and its images beside it, or one such
file, or a set on the hub:

    {"id": "q1", "question": "How many bars?", "answer": "4", "images": ["images/q1.png"]}

    id         unique in the set (Parquet and hub sets without one are numbered)
    question   the text; `<image>` markers are not needed, the images stand before it
    answer     the gold answer; or a list of accepted ones, the first being the one that is shown
    images     optional: paths relative to the file, or "data:image/png;base64,..."; in Parquet also
    bytes or {bytes, path}.
               One image needs no list, and the key may be `image`. No images: a text question,
               which is legal
    source     optional: name of a sub-set, for reports
    free_form  optional, true: the answer needs a judge; otherwise it is compared exactly
    (reward.py) choices    optional list of texts: appended to the question as lines "A. ...", "B.
    ..."; the answer is then a letter, the
               text of a choice, or its position as a number from 0, and becomes the letter

    # a folder; or my.jsonl, or my.parquet
    python train.py --data my-questions
    python train.py --data owner/name:config:split@revision --map
    question=problem,answer=solution,image=image python data.py build --out zppo-77k
    # the paper's corpus, from its two public sources (corpus.py) python data.py check my-questions
    [--fix OUT]               # every row and image; exit status 1 if any can't be used python
    data.py show my-questions -n 5 [--html page.html] python data.py overlap zppo-77k my-benchmark
    # questions that stand in both (overlap.py)

Decisions. Rows stay on disk: a JSONL is read once at the start (every row's schema, every image
file's existence) and then by byte offset; Parquet and hub sets are memory-mapped by the `datasets`
library. Images are opened when a prompt is made; one that does not open is a BadImage, which
train.py can skip. Errors name file and row; rows and lines count from 1.
"""

import argparse
import base64
import binascii
import hashlib
import io
import json
import os
import random
import re
import sys
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # Pillow knows stranger ones, some call programs
MAX_PIXELS = 89_478_485  # Pillow's own default limit: 256 MB decoded
MAX_BYTES = 50_000_000  # of one image file
MAX_TEXT = 200_000  # characters of a question: beyond any context window
MAX_LINE = 500_000_000  # bytes of one JSONL line, inline images included
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)  # control characters, what reverses text
KEYS = ("id", "question", "answer", "images", "source", "free_form", "choices")
warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # decode() has the same limit, as an error


class BadRow(ValueError):
    """A row that can't be used. reason: a short name to count by; the message names file and row."""

    def __init__(self, where, reason, detail):
        super().__init__(f"{where}: {detail}")
        self.reason = reason


class BadImage(BadRow):
    """An image that is not there or does not open: what --skip-bad skips."""


@dataclass(frozen=True)
class Question:
    """One question with its gold answer. images, video: paths, data URIs, raw bytes or PIL images,
    decoded for a prompt.
    """

    id: str
    question: str
    answer: str
    images: tuple = ()
    video: tuple = ()
    source: str = ""
    free_form: bool = False
    also: tuple = ()  # further answers that are accepted too

    @property
    def golds(self):
        """All accepted answers, the one to show first."""
        return (self.answer, *self.also)


class Questions(Sequence):
    """A read-only sequence of Question that keeps ids in memory and loads a row when it is asked
    for.

    ids: all ids, in order; load: index -> Question; name: what the set is called in messages.
    """

    def __init__(self, ids, load, name):
        self.name, self._load = name, load
        self._index = {q: i for i, q in enumerate(ids)}

    def __len__(self):
        return len(self._index)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self._load(k) for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.name}: there is no question {i} among {len(self)}")
        return self._load(i % len(self))

    def find(self, id):
        """The Question with this id. Raises ValueError: a replay buffer of another data set asks
        for ids that are not here.
        """
        if id not in self._index:
            raise ValueError(
                f"{self.name}: there is no question with the id {id!r}; is it the data set that this run began with?"
            )
        return self._load(self._index[id])


def digest(questions, probes=64):
    """A short name of a data set's content, of its length and a few rows: a resumed run must go on
    with the same questions.
    """
    n = len(questions)
    rows = [questions[i * n // probes] for i in range(probes)]
    return hashlib.sha256(
        repr([n, [(q.id, q.question, q.answer) for q in rows]]).encode("utf-8", "replace")
    ).hexdigest()[:16]


def in_memory(questions, name="questions"):
    """A list of Question in the form of Questions (the tiny world's, tests)."""
    questions = list(questions)
    return Questions([q.id for q in questions], questions.__getitem__, name)


def open_questions(spec, columns=None, first=32):
    """The Questions of a folder, a JSONL or Parquet file, or a hub data set
    "owner/name:config:split@revision".

    columns: {our key: the set's column}, from parse_map(). Checks, before anything long: the schema
    of all rows, unique ids, that image files exist, and that the images of the `first` rows open.
    Raises ValueError (a BadRow) naming file and row.
    """
    rows, ids, handles = open_rows(spec, columns), {}, array("Q")
    for handle, where, q in scan(rows):
        if isinstance(q, BadRow):
            raise q
        ids[q.id] = where
        handles.append(handle)
    if not ids:
        raise ValueError(f"{rows.name}: no questions in it")
    places, ids = list(islice(ids.values(), first)), list(ids)

    def load(i):
        q = to_question(rows.at(handles[i]), f"{rows.name}, question {ids[i]}", rows.folder)
        if q.id != ids[i]:
            raise ValueError(
                f"{rows.name}: question {ids[i]!r} is no longer where it was; the file changed while it was in use"
            )
        return q

    out = Questions(ids, load, rows.name)
    for where, q in zip(places, out[:first]):
        decode(q.images, f"{q.id} ({where})")
    return out


def read(path, columns=None):
    """All questions of a data set as a list, for small ones. Same errors as open_questions()."""
    return list(open_questions(path, columns))


def parse_map(text):
    """ "question=problem,answer=solution,image=picture" -> {"question": "problem", ...}. Raises
    ValueError on unknown keys.
    """
    out = {}
    for part in filter(None, (text or "").split(",")):
        key, _, column = part.partition("=")
        key = {"image": "images"}.get(key.strip(), key.strip())
        if key not in KEYS or not column.strip():
            raise ValueError(f"--map: {part!r} is not KEY=COLUMN with a KEY of {', '.join(KEYS)}")
        out[key] = column.strip()
    return out


def fetch(questions, indices):
    """(the Questions at these indices whose images open, the BadImage of each other one): for
    skipping bad rows.
    """
    good, bad = [], []
    for i in indices:
        try:
            q = questions[i]
            decode(q.images, q.id)
            good.append(q)
        except BadImage as e:
            bad.append(e)
    return good, bad


# ---- the order -----------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    order = list(range(n))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def take(n, seed, position, k, rank=0, world=1):
    """Indices of the k questions that follow `position` in the endless, seeded order of n
    questions; a rank's part of them.

    Each epoch is another permutation; a question stands once in it, whatever k and world are. The
    position, which counts the questions of all ranks together, is all there is to save.
    """
    return [
        _permutation(n, seed, p // n)[p % n] for p in range(position + rank, position + k, world)
    ]


# ---- rows on disk: .name, .folder, .scan() -> (handle, where, row or BadRow), .at(handle) -> row -


def open_rows(spec, columns=None):
    """What `spec` names, as JsonLines or Table. Raises ValueError saying what a data set may be."""
    path = Path(spec)
    if path.is_dir():
        file, tables = path / "questions.jsonl", sorted(path.rglob("*.parquet"))
        if not file.is_file() and tables:
            return Table(str(path), tables, columns)
        path = file
    if path.is_file():
        return (
            Table(str(path), [path], columns)
            if path.suffix == ".parquet"
            else JsonLines(path, columns)
        )
    hub = re.fullmatch(
        r"\w[\w.-]*/\w[\w.-]*(:[^:@]*){0,2}(@.+)?", str(spec)
    )  # names and revisions may hold dots
    if not hub or path.suffix in (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt"):
        raise ValueError(
            f"{path}: no such file; --data takes a JSONL file or a folder with questions.jsonl, a Parquet file or "
            f"a folder of them, or a data set on the hub as owner/name:config:split@revision"
        )
    return Table(str(spec), None, columns)


class JsonLines:
    """A JSONL file. Handles are byte offsets. A row is a dict with our keys."""

    def __init__(self, file, columns):
        self.name, self.folder, self.columns = str(file), str(file.parent), columns or {}

    def scan(self):
        with open(self.name, "rb") as lines:
            at = n = 0
            while line := lines.readline(MAX_LINE):
                n += 1
                where = f"{self.name}, line {n}"
                if len(line) == MAX_LINE:
                    raise BadRow(
                        where, "line too long", f"more than {MAX_LINE} bytes; is this a JSONL file?"
                    )
                if line.strip():
                    try:
                        yield at, where, self._row(line, where)
                    except BadRow as e:
                        yield at, where, e
                at += len(line)

    def at(self, offset):
        with open(
            self.name, "rb"
        ) as lines:  # opened anew, so that forked processes share no position
            lines.seek(offset)
            return self._row(lines.readline(), f"{self.name}, byte {offset}")

    def _row(self, line, where):
        try:
            row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError) as e:
            raise BadRow(where, "not JSON", f"not JSON ({e})") from None
        if not isinstance(row, dict):
            raise BadRow(
                where,
                "not JSON",
                'expected an object like {"id": ..., "question": ..., "answer": ...}',
            )
        return renamed(row, self.columns)


class Table:
    """Parquet files, or a hub data set, memory-mapped. Handles are row numbers from 0."""

    def __init__(self, name, files, columns):
        import datasets  # seconds to import, and only some data sets need it

        datasets.disable_progress_bars()
        self.name, self.folder, self.columns, self._starts = (
            name,
            str(Path(name).parent),
            columns or {},
            [],
        )
        try:
            if files is None:
                self._starts = [(0, name)]
                path, _, revision = name.partition("@")
                path, config, split = (*path.split(":"), "", "")[:3]
                data = datasets.load_dataset(
                    path, config or None, split=split or "train", revision=revision or None
                )
            else:
                self.folder = name if Path(name).is_dir() else self.folder
                from pyarrow.parquet import ParquetFile

                at = 0
                for file in files:
                    self._starts.append((at, str(file)))
                    at += ParquetFile(file).metadata.num_rows
                data = datasets.load_dataset(
                    "parquet", data_files=[str(f) for f in files], split="train"
                )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
            raise ValueError(
                f"{name}: the data set does not load ({str(e).strip().splitlines()[0][:300]})"
            ) from e
        wanted = {k: self.columns.get(k, k) for k in KEYS}
        if (
            "images" not in data.column_names
            and "image" in data.column_names
            and "images" not in self.columns
        ):
            wanted["images"] = "image"
        for key, column in wanted.items():
            if column.split(".")[0] not in data.column_names and (
                key in self.columns or key in ("question", "answer")
            ):
                raise ValueError(
                    f"{name}: no column {column!r} for {key!r}; it has {', '.join(data.column_names)}. "
                    f"Say which is which: --map question=...,answer=...,image=..."
                )
        self.columns = wanted
        self._data = data.select_columns(
            sorted({r for c in wanted.values() if (r := c.split(".")[0]) in data.column_names})
        )
        self._data = self._data.with_format(
            "arrow"
        )  # raw storage: no image is decoded behind our back
        heavy = wanted["images"].split(".")[0]
        kind = (
            str(self._data.features.arrow_schema.field(heavy).type)
            if heavy in self._data.column_names
            else ""
        )
        self._light = self._data.remove_columns([heavy]) if "binary" in kind else self._data

    def scan(self):
        n = 0
        for some in self._light.iter(1000):
            for row in some.to_pylist():
                yield n, self._where(n), self._row(row, n)
                n += 1

    def at(self, n):
        return self._row(self._data[n : n + 1].to_pylist()[0], n)

    def _row(self, row, n):
        row = renamed(row, self.columns)
        return row if row.get("id") is not None else {**row, "id": f"row-{n + 1}"}

    def _where(self, n):
        start, file = next((s, f) for s, f in reversed(self._starts) if s <= n)
        return f"{file}, row {n - start + 1}"


def renamed(row, columns):
    """A row under our keys; other keys stay. A column "a.b" that does not exist as such is looked
    up in the struct a.
    """
    out = (
        {k: v for k, v in row.items() if k not in KEYS and k not in columns.values()}
        if columns
        else dict(row)
    )
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


def scan(rows):
    """(handle, where, Question or BadRow) of every row; a repeated id is a BadRow too. Images are
    not opened.
    """
    seen = set()
    for handle, where, row in rows.scan():
        if not isinstance(row, BadRow):
            try:
                row = to_question(row, where, rows.folder)
                if row.id in seen:
                    raise BadRow(
                        where,
                        "repeated id",
                        f"the id {row.id!r} stands on an earlier line too; ids must be unique",
                    )
                seen.add(row.id)
            except BadRow as e:
                row = e
        yield handle, where, row


# ---- a row -> Question ---------------------------------------------------------------------------


def to_question(row, where, folder):
    """A Question from a dict with our keys. Raises BadRow, or BadImage for an image that is not
    there.
    """
    text, golds = row.get("question"), row.get("answer")
    golds = golds if isinstance(golds, (list, tuple)) else [golds]
    golds = [
        g if isinstance(g, int) and row.get("choices") else str(g).strip()
        for g in golds
        if g is not None
    ]
    golds = [g for g in golds if g != ""]
    for key, value in (("id", row.get("id")), ("question", text), ("answer", golds)):
        if value is None or value == [] or not str(value).strip():
            raise BadRow(
                where, f"no {key}", f"the row has no {key!r}; give it one or take the row out"
            )
    text = str(text)
    if row.get("choices"):
        text, golds = _with_choices(text, golds, row["choices"], where)
    id = str(row["id"])
    for value in (id, text, *golds):
        if len(value) > MAX_TEXT:
            raise BadRow(
                where,
                "text too long",
                f"a text of {len(value)} characters; at most {MAX_TEXT} make sense",
            )
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise BadRow(
                where, "broken text", "half of a surrogate pair, which no tokenizer can encode"
            )
    free_form = row.get("free_form") or False
    if not isinstance(free_form, bool):
        raise BadRow(
            where,
            "free_form is not true or false",
            f"'free_form' is {free_form!r}; expected true or false",
        )
    return Question(
        id,
        text,
        golds[0],
        _images(row.get("images"), where, folder),
        source=str(row.get("source") or ""),
        free_form=free_form,
        also=tuple(dict.fromkeys(golds[1:])),
    )


def _with_choices(text, golds, choices, where):
    if (
        not isinstance(choices, list)
        or not all(isinstance(c, str) for c in choices)
        or len(choices) > len(LETTERS)
    ):
        raise BadRow(
            where, "bad choices", f"'choices' must be a list of at most {len(LETTERS)} texts"
        )
    out = []
    for gold in golds:
        by_text = [LETTERS[i] for i, c in enumerate(choices) if c.strip() == str(gold)]
        letter = (
            LETTERS[gold]
            if type(gold) is int and 0 <= gold < len(choices)
            else str(gold).strip("().: ").upper()
        )
        if len(by_text) == 1 and letter in LETTERS[: len(choices)] and by_text[0] != letter:
            raise BadRow(
                where,
                "answer is no choice",
                f"the answer {gold!r} is the text of one choice and names another one",
            )
        if not (by_text or len(letter) == 1 and letter in LETTERS[: len(choices)]):
            raise BadRow(
                where,
                "answer is no choice",
                f"the answer {gold!r} is neither a letter, nor a position from 0, nor one of the choices",
            )
        out.append(by_text[0] if by_text else letter)
    return "\n".join([text, *(f"{letter}. {c}" for letter, c in zip(LETTERS, choices))]), list(
        dict.fromkeys(out)
    )


def _images(images, where, folder):
    """Paths joined to the folder, bytes and data URIs as they are. Files must exist; nothing is
    opened.
    """
    out = []
    for image in (
        images if isinstance(images, (list, tuple)) else [images] if images is not None else []
    ):
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if not isinstance(image, (str, bytes)) or not image:
            raise BadRow(
                where, "bad images", f"'images' must be a list of paths, not {str(image)[:60]!r}"
            )
        if isinstance(image, str) and not image.startswith("data:"):
            if re.match(r"\w+://", image):
                raise BadRow(
                    where,
                    "image is a link",
                    f"the image {image[:100]} is a link; download it and give its path",
                )
            image = os.path.join(folder, image)
            if "\0" in image or not os.path.isfile(image):  # a pipe or a device is no file either
                raise BadImage(where, "image missing", f"there is no image {image}")
        out.append(image)
    return tuple(out)


# ---- images --------------------------------------------------------------------------------------


def decode(images, where):
    """Decoded RGB images of a Question's images or video. where: what to name in the error (the
    question's id).

    Transparent pixels become white. Raises BadImage naming question and file when one does not open
    or is unreasonably large.
    """
    out = []
    for image in images:
        if isinstance(image, Image.Image):
            out.append(_rgb(image))
            continue
        name = (
            f"{len(image)} bytes"
            if isinstance(image, bytes)
            else image[:40] + "..."
            if image.startswith("data:")
            else image
        )
        try:
            with Image.open(io.BytesIO(raw_bytes(image)), formats=FORMATS) as opened:
                if (
                    opened.width * opened.height > MAX_PIXELS
                ):  # from the header: nothing is decoded yet
                    raise ValueError(
                        f"{opened.width} x {opened.height} pixels; at most {MAX_PIXELS} in all"
                    )
                out.append(_rgb(opened))
        # Pillow's decoders raise whatever comes on damaged files: struct.error, EOFError, ...
        except Exception as e:
            raise BadImage(
                f"question {where}", "image does not open", f"the image {name} does not open ({e})"
            ) from e
    return tuple(out)


def raw_bytes(image):
    """The encoded bytes of an image given as path, data URI or bytes. Raises ValueError or OSError."""
    if isinstance(image, str) and image.startswith("data:"):
        head, _, body = image.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URI must be base64")
        try:
            image = base64.b64decode(body, validate=True)
        except binascii.Error as e:
            raise ValueError(f"not base64: {e}") from None
    size = len(image) if isinstance(image, bytes) else os.path.getsize(image)
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes; at most {MAX_BYTES}")
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _rgb(image):
    if (
        image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    ):  # else black lines on nothing turn black on black
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I;16"):  # Pillow clips these at 255 instead of scaling
        return image.convert("I").point(lambda v: v * (1 / 256)).convert("L").convert("RGB")
    return image.convert("RGB")


# ---- command line --------------------------------------------------------------------------------


def main(argv=None):
    """python data.py build | check | show | overlap. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "build": "make ZPPO-77K from its two public sources",
        "check": "read everything, report rows that can't be used",
        "show": "look at rows, in the terminal or as a page",
        "overlap": "questions that stand in two data sets",
    }
    parser = argparse.ArgumentParser(
        prog="data.py",
        description=__doc__.split("\n")[0],
        epilog="\n".join(f"{name:9s}{text}" for name, text in commands.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=commands, help="one of these; COMMAND --help says more")
    command = parser.parse_args(argv[:1]).command
    if command == "build":
        from corpus import build as corpus

        return corpus.main(argv[1:])
    if command == "overlap":
        from corpus.build import overlap

        return overlap.main(argv[1:])
    from corpus.build import inspection

    return getattr(inspection, command)(argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
