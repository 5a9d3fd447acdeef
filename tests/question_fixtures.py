"""Small data sets for the tests of questions."""

import io
import json

from PIL import Image


def write(folder, *rows, name="questions.jsonl"):
    file = folder / name
    file.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return file


def png(folder, name="a.png", size=(4, 4)):
    Image.new("RGB", size, (10, 20, 30)).save(folder / name)
    return name


GOOD = {"id": "q1", "question": "How many?", "answer": "4"}


def raw_png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()
