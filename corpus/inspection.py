"""Look at a data set before training on it: `data.py check` and `data.py show`.

    python data.py check my-questions                # exit status 1 if a row can't be used
    python data.py check my-questions --tokenizer Qwen/Qwen3.5-0.8B    # by this student
    python data.py check my-questions --fix my-questions-ok    # a copy without those rows
    python data.py show my-questions -n 5            # in the terminal, pictures as half blocks
    python data.py show my-questions -n 50 --random 0 --html page.html

check is stricter than the start of train.py: it decodes every image, and reports control characters
and characters that reverse the text around them, which a reader does not see and a model does.
Nothing from the data reaches the terminal or the page as it is: such characters are written as
escapes, pictures are decoded and encoded again, and the page forbids scripts and addresses.
"""

import argparse
import base64
import html
import io
import json
import os
import random
import shutil
import sys
from itertools import islice
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data import HIDDEN, Question, QuestionCheck, check_pictures, scan, to_question
from pictures import BadImage, decode, raw_bytes
from runtime.rows import BadRow, open_rows, parse_map

LISTED = 20  # rows named per reason unless --all
WORDS = 10  # an answer of more words is hardly ever written the same way twice
THUMBNAIL = 640  # longest side of a picture on the page, pixels
SPEC = "a folder, a JSONL or Parquet file, or a hub data set owner/name:config:split@revision"
MAP = "our key = its column: question=problem,answer=solution,image=image"
STYLE = """:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
article{border:1px solid #8886;border-radius:8px;padding:1rem;margin:1rem 0}
.meta{color:#777;font-size:.85rem;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:.5rem 0}
img{max-width:100%;max-height:24rem;display:block;margin:.5rem 0;border:1px solid #8884}
.answer{font-weight:600}.bad{color:#c22}"""


def check(argv):
    """python data.py check PATH: report unusable rows by reason, with file and row. Returns 1 if
    there are any, else 0.
    """
    p = argparse.ArgumentParser(
        prog="data.py check",
        description="Read every row and image; report the rows that can't be used.",
    )
    p.add_argument("path", help=SPEC)
    p.add_argument("--map", default="", help=MAP)
    p.add_argument("--fix", default="", metavar="OUT", help="write a copy without those rows")
    model = "model folder or hub id: also measure every plain prompt"
    p.add_argument("--tokenizer", default="", metavar="MODEL", help=model)
    p.add_argument("--max-prompt", type=int, default=4096, help="tokens, with --tokenizer")
    p.add_argument("--max-pixels", type=int, default=0, help="as in train.py, with --tokenizer")
    p.add_argument("--all", action="store_true", help=f"name every row, not {LISTED} per reason")
    args = p.parse_args(argv)
    if args.fix and os.path.exists(args.fix):
        raise ValueError(f"{args.fix} exists already; give --fix another folder")
    usable = QuestionCheck()
    if args.tokenizer:
        from corpus.sources import student_side  # imports torch and transformers

        lm = student_side(args.tokenizer)
        usable = QuestionCheck(lm, args.max_prompt, max_pixels=args.max_pixels)
    rows, bad, n, wordy = open_rows(args.path, parse_map(args.map)), {}, 0, []
    copy = Copy(args.fix, rows.folder) if args.fix else None
    found = tqdm(scan(rows), desc="rows", unit="row", mininterval=0.5)
    for n, (handle, number, q) in enumerate(found, 1):
        try:
            if isinstance(q, BadRow):
                raise q
            row = rows.at(handle)
            q = to_question(row, rows.where(number), rows.folder)
            check_row(q, f"{rows.where(number)}, question {q.id}", usable)
            if copy:
                copy.add(row, q)
            if not q.free_form and len(q.answer.split()) > WORDS:
                wordy.append(f"{rows.where(number)}: {q.answer[:80]!r}")
        except BadRow as e:
            bad.setdefault(e.reason, []).append(str(e))
    report(bad, args.all)
    if wordy:
        print(
            f"\n{len(wordy)} answers are sentences and compared exactly, such as "
            f'{visible(wordy[0])}; "free_form": true asks a judge'
        )
    n_bad = sum(map(len, bad.values()))
    print(
        f"\n{rows.name}: {n} rows, {n - n_bad} can be used, {n_bad} can't"
        if n
        else f"{rows.name}: no questions in it"
    )
    if copy:
        print(f"{copy.finish()} rows written to {args.fix}")
    return 1 if n_bad or not n else 0


def check_row(q, where, usable):
    """Raise BadRow for what train.py would trip over, or what a reader of the row would not see."""
    for text in (q.id, q.question, *q.golds, q.source):
        if found := HIDDEN.search(text):
            detail = f"U+{ord(found[0]):04X}, a control character or one that reverses text"
            raise BadRow(where, "hidden character", detail)
    usable(q, where)
    check_pictures(q, where)


def report(bad, everything):
    """Print {reason: messages}, the commonest first."""
    for reason, messages in sorted(bad.items(), key=lambda item: -len(item[1])):
        print(f"\n{reason}: {len(messages)} rows")
        for message in messages if everything else messages[:LISTED]:
            print(f"  {visible(message)}")
        if not everything and len(messages) > LISTED:
            print(f"  ... and {len(messages) - LISTED} more; --all names them")


class Copy:
    """A data set being written: rows as they were, images as files beside them. Appears under its
    name when complete.
    """

    def __init__(self, out, folder):
        self.out, self.partial = Path(out), Path(f"{out}.fixing")
        self.folder, self.n = Path(folder).resolve(), 0
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        # half a surrogate in a key of the user's own becomes its JSON escape again
        file = self.partial / "questions.jsonl"
        self.lines = open(file, "w", encoding="utf-8", errors="backslashreplace")

    def add(self, row, q):
        self.n += 1
        row = {k: v for k, v in row.items() if k != "images"}
        if q.images:
            row["images"] = [self._image(image, k) for k, image in enumerate(q.images)]
        self.lines.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def _image(self, image, k):
        name, raw = "", raw_bytes(image)
        if isinstance(image, str) and not image.startswith("data:"):
            path = Path(image).resolve()
            if path.is_relative_to(self.folder):
                name = str(path.relative_to(self.folder))
        if not name or name == "questions.jsonl":
            with Image.open(io.BytesIO(raw)) as opened:
                name = f"images/copied/{self.n:06d}-{k}.{opened.format.lower()}"
        (self.partial / name).parent.mkdir(parents=True, exist_ok=True)
        (self.partial / name).write_bytes(raw)
        return name

    def finish(self):
        self.lines.close()
        self.partial.rename(self.out)
        return self.n


def show(argv):
    """python data.py show PATH: rows with their images, in the terminal or as an HTML page. Returns
    0.
    """
    p = argparse.ArgumentParser(prog="data.py show", description="Look at rows with their images.")
    p.add_argument("path", help=SPEC)
    p.add_argument("--map", default="", help=MAP)
    p.add_argument("-n", type=int, default=5, help="rows to show")
    p.add_argument("--random", type=int, metavar="SEED", help="rows from anywhere, not the first")
    p.add_argument("--html", default="", metavar="FILE", help="write a page instead")
    args = p.parse_args(argv)
    rows = open_rows(args.path, parse_map(args.map))
    if args.random is None:
        chosen = list(islice(scan(rows), args.n))
    else:
        found = [(handle, number, None) for handle, number, _ in scan(rows)]
        chosen = sorted(random.Random(args.random).sample(found, min(args.n, len(found))))
    blocks = []
    for handle, number, q in chosen:
        where = rows.where(number)
        try:
            if isinstance(q, BadRow):
                raise q
            q = to_question(rows.at(handle), where, rows.folder)
            blocks.append((where, q, decode(q.images, q.id), ""))
        except (BadRow, BadImage) as e:
            blocks.append((where, q if isinstance(q, Question) else None, (), str(e)))
    if not blocks:
        raise ValueError(f"{rows.name}: no questions in it")
    if args.html:
        Path(args.html).write_text(page(rows.name, blocks), encoding="utf-8")
        print(f"{len(blocks)} rows in {args.html}")
    else:
        for block in blocks:
            print(as_text(*block, colour=sys.stdout.isatty()))
    return 0


def visible(text):
    """Text for people: hidden characters as escapes, so that data can't drive a terminal or reverse
    a line.
    """
    text = HIDDEN.sub(lambda m: m[0].encode("unicode_escape").decode(), text.replace("\r", "\\r"))
    return text.encode("utf-8", "backslashreplace").decode()


def as_text(where, q, images, error, colour):
    """One row for the terminal."""
    lines = [visible(f"── {where}" + (f"   {q.id}   {q.source}" if q else ""))]
    for image in images:
        lines.append(f"[image, {image.width} x {image.height}]")
        if colour:
            lines.append(half_blocks(image, min(64, shutil.get_terminal_size().columns)))
    if q:
        lines.append(visible(q.question))
        kind = "free-form" if q.free_form else "exact"
        lines.append(visible(f"answer ({kind}): {' | '.join(q.golds)}"))
    if error:
        lines.append(visible(f"CAN'T BE USED: {error}"))
    return "\n".join(lines) + "\n"


def half_blocks(image, width):
    """A picture as lines of upper half blocks: two pixels a character, 24-bit colour."""
    width = min(width, image.width)
    height = max(2, min(width, round(image.height * width / image.width)) // 2 * 2)
    small = image.resize((width, height)).load()
    return "\n".join(
        "".join(
            "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*small[x, y], *small[x, y + 1])
            for x in range(width)
        )
        + "\x1b[0m"
        for y in range(0, height, 2)
    )


def page(name, blocks):
    """One self-contained HTML page."""

    def esc(text):
        return html.escape(visible(str(text)))

    out = []
    for where, q, images, error in blocks:
        names = f" · {esc(q.id)} · {esc(q.source)}" if q else ""
        parts = [f'<p class="meta">{esc(where)}{names}</p>']
        for image in images:
            small, buffer = image.copy(), io.BytesIO()
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small.save(buffer, "PNG")
            uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            parts.append(f'<img alt="" src="{uri}">')
            parts.append(f'<p class="meta">{image.width} x {image.height} pixels</p>')
        if q:
            parts.append(f"<pre><bdi>{esc(q.question)}</bdi></pre>")
            kind = "free-form: " if q.free_form else ""
            parts.append(f'<p class="answer">{kind}<bdi>{esc(" | ".join(q.golds))}</bdi></p>')
        if error:
            parts.append(f'<p class="bad">can\'t be used: {esc(error)}</p>')
        out.append("<article>" + "".join(parts) + "</article>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{esc(name)}</title><style>{STYLE}</style>"
        f"<h1>{esc(name)}</h1>{''.join(out)}</html>\n"
    )
