"""Look at a data set before training on it: `data.py check` and `data.py show`.

    # every row and image; exit status 1 if any can't be used
    python data.py check my-questions
    # and the length of every plain prompt
    python data.py check my-questions --tokenizer Qwen/Qwen3.5-0.8B
    # a copy without the rows that can't be used
    python data.py check my-questions --fix my-questions-ok
    # in the terminal, pictures in half blocks of colour
    python data.py show my-questions -n 5
    python data.py show my-questions -n 50 --random 0 --html page.html

check is stricter than the start of train.py: it opens every image, and reports control characters
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

from data import (
    HIDDEN,
    BadRow,
    Question,
    decode,
    open_rows,
    parse_map,
    raw_bytes,
    scan,
    to_question,
)

LISTED = 20  # rows named per reason unless --all
THUMBNAIL = 640  # longest side of a picture on the page, pixels
STYLE = """:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}
article{border:1px solid #8886;border-radius:8px;padding:1rem;margin:1rem 0}.meta{color:#777;font-size:.85rem;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:.5rem 0}img{max-width:100%;max-height:24rem;display:block;
margin:.5rem 0;border:1px solid #8884}.answer{font-weight:600}.bad{color:#c22}"""


def check(argv):
    """python data.py check PATH: report unusable rows by reason, with file and row. Returns 1 if
    there are any, else 0.
    """
    p = argparse.ArgumentParser(
        prog="data.py check",
        description="Read every row and image; report the rows that can't be used.",
    )
    p.add_argument(
        "path",
        help="a folder, a JSONL or Parquet file, or a hub data set owner/name:config:split@revision",
    )
    p.add_argument(
        "--map",
        default="",
        help="our key = its column: question=problem,answer=solution,image=image",
    )
    p.add_argument(
        "--fix", default="", metavar="OUT", help="write a copy without the rows that can't be used"
    )
    p.add_argument(
        "--tokenizer",
        default="",
        metavar="MODEL",
        help="model folder or hub id: also measure every plain prompt",
    )
    p.add_argument("--max-prompt", type=int, default=4096, help="tokens, with --tokenizer")
    p.add_argument("--all", action="store_true", help=f"name every row, not {LISTED} per reason")
    args = p.parse_args(argv)
    if args.fix and os.path.exists(args.fix):
        raise ValueError(f"{args.fix} exists already; give --fix another folder")
    lm = None
    if args.tokenizer:
        from corpus.build import sources  # imports torch and transformers

        lm = sources.prompt_parts(args.tokenizer)
    rows, bad, n = open_rows(args.path, parse_map(args.map)), {}, 0
    copy = Copy(args.fix, rows.folder) if args.fix else None
    for n, (handle, where, q) in enumerate(
        tqdm(scan(rows), desc="rows", unit="row", mininterval=0.5), 1
    ):
        try:
            if isinstance(q, BadRow):
                raise q
            row = rows.at(handle)
            q = to_question(row, where, rows.folder)
            _usable(q, where, lm, args.max_prompt)
            if copy:
                copy.add(row, q)
        except BadRow as e:
            bad.setdefault(e.reason, []).append(str(e))
    for reason, messages in sorted(bad.items(), key=lambda item: -len(item[1])):
        print(f"\n{reason}: {len(messages)} rows")
        for message in messages if args.all else messages[:LISTED]:
            print(f"  {visible(message)}")
        if not args.all and len(messages) > LISTED:
            print(f"  ... and {len(messages) - LISTED} more; --all names them")
    n_bad = sum(map(len, bad.values()))
    print(
        f"\n{rows.name}: {n} rows, {n - n_bad} can be used, {n_bad} can't"
        if n
        else f"{rows.name}: no questions in it"
    )
    if copy:
        print(f"{copy.finish()} rows written to {args.fix}")
    return 1 if n_bad or not n else 0


def _usable(q, where, lm, max_prompt):
    # Raises BadRow for what train.py would trip over later, or what a reader of the row would not
    # see.
    for text in (q.id, q.question, *q.golds, q.source):
        if found := HIDDEN.search(text):
            raise BadRow(
                where,
                "hidden character",
                f"U+{ord(found[0]):04X}, a control character or one that reverses text",
            )
    images = decode(q.images, f"{q.id} ({where})")
    if lm is not None:
        from corpus.build import sources

        try:
            length = sources.prompt_length(lm, q.question, images)
        except ValueError as e:
            raise BadRow(
                where,
                "image does not fit the model",
                f"the image processor refuses the image ({e})",
            ) from e
        if length > max_prompt:
            raise BadRow(
                where,
                "prompt too long",
                f"its plain prompt has {length} tokens, more than {max_prompt}",
            )


class Copy:
    """A data set being written: rows as they were, images as files beside them. Appears under its
    name when complete.
    """

    def __init__(self, out, folder):
        self.out, self.partial, self.folder, self.n = (
            Path(out),
            Path(f"{out}.fixing"),
            Path(folder).resolve(),
            0,
        )
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        # half a surrogate in a key of the user's own becomes its JSON escape again
        self.lines = open(
            self.partial / "questions.jsonl", "w", encoding="utf-8", errors="backslashreplace"
        )

    def add(self, row, q):
        self.n += 1
        row = {k: v for k, v in row.items() if k != "images"}
        if q.images:
            row["images"] = [self._image(image, k) for k, image in enumerate(q.images)]
        self.lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _image(self, image, k):
        name, raw = "", raw_bytes(image)
        if (
            isinstance(image, str)
            and not image.startswith("data:")
            and Path(image).resolve().is_relative_to(self.folder)
        ):
            name = str(Path(image).resolve().relative_to(self.folder))
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
    p.add_argument(
        "path",
        help="a folder, a JSONL or Parquet file, or a hub data set owner/name:config:split@revision",
    )
    p.add_argument(
        "--map",
        default="",
        help="our key = its column: question=problem,answer=solution,image=image",
    )
    p.add_argument("-n", type=int, default=5, help="rows to show")
    p.add_argument(
        "--random",
        type=int,
        metavar="SEED",
        help="rows from anywhere in the set instead of the first",
    )
    p.add_argument("--html", default="", metavar="FILE", help="write a page instead")
    args = p.parse_args(argv)
    rows = open_rows(args.path, parse_map(args.map))
    if args.random is None:
        chosen = list(islice(scan(rows), args.n))
    else:
        found = [(handle, where) for handle, where, _ in scan(rows)]
        chosen = [
            (h, w, None)
            for h, w in sorted(random.Random(args.random).sample(found, min(args.n, len(found))))
        ]
    blocks = []
    for handle, where, q in chosen:
        try:
            if isinstance(q, BadRow):
                raise q
            q = to_question(rows.at(handle), where, rows.folder)
            blocks.append((where, q, decode(q.images, q.id), ""))
        except BadRow as e:
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
        lines.append(
            visible(f"answer ({'free-form' if q.free_form else 'exact'}): {' | '.join(q.golds)}")
        )
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
        parts = [
            f'<p class="meta">{esc(where)}'
            + (f" · {esc(q.id)} · {esc(q.source)}" if q else "")
            + "</p>"
        ]
        for image in images:
            small = image.copy()
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            small.save(buffer, "PNG")
            parts.append(
                f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
            )
            parts.append(f'<p class="meta">{image.width} x {image.height} pixels</p>')
        if q:
            parts.append(f"<pre><bdi>{esc(q.question)}</bdi></pre>")
            kind = "free-form: " if q.free_form else ""
            parts.append(f'<p class="answer">{kind}<bdi>{esc(" | ".join(q.golds))}</bdi></p>')
        if error:
            parts.append(f'<p class="bad">can\'t be used: {esc(error)}</p>')
        out.append("<article>" + "".join(parts) + "</article>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{esc(name)}</title><style>{STYLE}</style><h1>{esc(name)}</h1>{''.join(out)}</html>\n"
    )
