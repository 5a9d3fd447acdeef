"""Questions: the record, reading them from disk, and a seeded order with a position.

A data set is a JSONL file, or a folder with questions.jsonl, one object a line:

    {"id": "q1", "question": "How many bars?", "answer": "4", "images": ["images/q1.png"]}

`id` must be unique; `images` (paths relative to the file) may be missing for text questions; `source` names a sub-set for
reports; `free_form: true` marks answers that need a judge. Rows are small, images stay on disk until a prompt is made.
"""
import io
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class Question:
    """One question with its gold answer. images, video: paths, raw bytes or PIL images, decoded when a prompt is made."""
    id: str
    question: str
    answer: str
    images: tuple = ()
    video: tuple = ()
    source: str = ""
    free_form: bool = False


def read(path):
    """All questions of a JSONL file or of a folder with questions.jsonl, as a list of Question.

    Raises ValueError that names file and line: not JSON, no question, no answer, a repeated id, an image that is not there.
    """
    path = Path(path)
    file = path / "questions.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file}: no such file; --data takes a JSONL file or a folder with questions.jsonl")
    out, seen = [], set()
    with open(file, encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            if line.strip():
                q = _row(line, f"{file}, line {n}", file.parent)
                if q.id in seen:
                    raise ValueError(f"{file}, line {n}: the id {q.id!r} stands on an earlier line too; ids must be unique")
                seen.add(q.id)
                out.append(q)
    if not out:
        raise ValueError(f"{file}: no questions in it")
    return out


def _row(line, where, folder):
    try:
        row = json.loads(line)
    except ValueError as e:
        raise ValueError(f"{where}: not JSON ({e})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object like {{\"id\": ..., \"question\": ..., \"answer\": ...}}")
    for key in ("id", "question", "answer"):
        if not str(row.get(key) if row.get(key) is not None else "").strip():
            raise ValueError(f"{where}: the row has no {key!r}; give it one or take the row out")
    images = row.get("images") or []
    if not isinstance(images, list) or not all(isinstance(p, str) for p in images):
        raise ValueError(f"{where}: 'images' must be a list of paths")
    for p in images:
        if not (folder / p).is_file():
            raise ValueError(f"{where}: there is no image {folder / p}")
    return Question(str(row["id"]), str(row["question"]), str(row["answer"]), tuple(str(folder / p) for p in images),
                    source=str(row.get("source", "")), free_form=bool(row.get("free_form", False)))


def decode(images, where):
    """Decoded RGB images of a Question's images or video. where: what to name in the error (the question's id).

    Raises ValueError naming question and file when one does not open.
    """
    out = []
    for image in images:
        if isinstance(image, Image.Image):
            out.append(image)
            continue
        name = image if isinstance(image, str) else f"{len(image)} bytes"
        try:
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                out.append(opened.convert("RGB"))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as e:
            raise ValueError(f"question {where}: the image {name} does not open ({e})") from e
    return tuple(out)


@lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    order = list(range(n))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def take(n, seed, position, k):
    """Indices of the k questions that follow `position` in the endless, seeded order of n questions.

    Each epoch is another permutation; a question stands once in it, whatever k is. The position is all there is to save.
    """
    return [_permutation(n, seed, p // n)[p % n] for p in range(position, position + k)]
