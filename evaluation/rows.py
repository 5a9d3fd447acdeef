"""What the functions that turn a data row into questions share: the question itself, where a row
stands, pictures and option texts.

A row function (vision_rows.py, text_rows.py, video.py) takes a row as `datasets` gives it (images
undecoded: {"bytes", "path"}) and a Where, and returns a list of Items, empty when the row is left
out. The oddities of each data set are handled there and nowhere else; each has a test. No function
adds a format directive: the closer of training is appended to all, and what the data set itself
says about form ("answer in one word") is stripped where it only concerns form, kept where it
defines the task.
"""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Item:
    """One question of a benchmark. `id` is unique in it; `gold` is what its scorer expects; `group`
    is what its aggregate means over.
    """

    id: str
    question: str
    gold: Any
    options: tuple = ()  # texts, lettered once in the prompt: A. ...
    images: tuple = ()  # bytes, paths, PIL images, or None where the data have none
    video: Any = None  # video.Video, or a tuple of PIL frames
    turns: tuple = ()  # (role, text) of a conversation, instead of `question` (MultiChallenge)
    group: str = ""
    meta: dict = field(default_factory=dict)

    def text(self):
        """What the model reads, without the closer."""
        return self.question + "".join(f"\n{LETTERS[i]}. {o}" for i, o in enumerate(self.options))

    @property
    def choices(self):
        """Option texts to recognize an answer by, also where they stand in the question itself."""
        return self.options or self.meta.get("choices", ())


@dataclass(frozen=True)
class Where:
    """Where a row stands: its config, split and index, and the folder with the local copy of its
    data set.
    """

    config: str
    split: str
    index: int
    root: Path


def picture(value):
    """An image column as something data.decode opens: {"bytes", "path"}, bytes, PIL, base64 text or
    a data URI. None if empty.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str) or not value:
        return value or None
    if value.startswith("data:"):
        return base64.b64decode(value.split(",", 1)[1])
    is_path = len(value) < 1000 and re.search(r"\.\w{3,4}$", value)
    return value if is_path else base64.b64decode(value)


def pictures(*values):
    """The pictures of a row, in order; None stays where one is missing (generate.py says so)."""
    return tuple(map(picture, values))


def clean(text):
    """Text of a cell. A form feed is not stripped: one gold begins with a damaged \\frac."""
    return str(text).replace("\r\n", "\n").strip(" \t\n")


def options_of(texts):
    """Option texts without letters that the data may carry already: "B. cat" -> "cat", if all of
    them do.
    """
    texts = [clean(t) for t in texts]
    if texts and all(re.match(rf"\(?{LETTERS[i]}[.):]\s*\S", t) for i, t in enumerate(texts)):
        texts = [re.sub(r"^\(?[A-Z][.):]\s*", "", t) for t in texts]
    return tuple(texts)


def inline_letters(text):
    """How many lettered options stand in a question text, as (A) or A: or A."""
    found = set(re.findall(r"(?:^|[\s(])([A-H])(?:[.:)]|\))\s*\S", text))
    n = 0
    while LETTERS[n] in found:
        n += 1
    return n if n > 1 else 8


_INLINE = re.compile(r"(?:^|(?<=[\s;,]))\(?([A-H])[.:)]\s*(?=\S)")


def inline_options(text):
    """The texts of options that stand lettered in a text, A first; () unless they are in order."""
    marks = list(_INLINE.finditer(text))
    start = max((i for i, m in enumerate(marks) if m[1] == "A"), default=len(marks))
    marks = marks[start:]
    if len(marks) < 2 or [m[1] for m in marks] != list(LETTERS[: len(marks)]):
        return ()
    ends = [m.start() for m in marks[1:]] + [len(text)]
    return tuple(text[m.end() : end].strip(" ;,\n\t") for m, end in zip(marks, ends))


def lettered(text):
    """What a scorer should know of the options that stand in a text: their number and texts."""
    choices = inline_options(text)
    return {"letters": len(choices) or inline_letters(text), "choices": choices}
