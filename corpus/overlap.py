"""Leak guard: which questions stand in a training set and in a benchmark.

    python data.py overlap zppo-77k my-benchmark    # exit status 1 if a question stands in both
    python data.py overlap zppo-77k owner/name:config:test --eval-map question=problem,answer=gold

Two signs, both reported. Text: equal after Unicode folding, case, spaces and punctuation (numbers
and operators stay). Picture: a difference hash (is a pixel brighter than its neighbour, on a 16 x
16 grid, across and down) that survives scaling and another JPEG quality, then the gray thumbnails,
which tell apart charts drawn by one program. Both together, or the text of a question without
pictures, is a leak; the text alone is often a stock phrase ("Find x.") and the picture alone may
carry another question: those are listed to be looked at. Pictures with next to no edges can't be
told apart by such a hash and are left out, which is counted. Paraphrases, crops and turned pictures
are not found.
"""

import argparse
import hashlib
import json
import re
import unicodedata

import numpy as np
from PIL import Image
from tqdm import tqdm

from corpus.inspection import MAP, SPEC
from data import scan
from pictures import BadImage, decode
from runtime.files import write_atomic
from runtime.rows import BadRow, open_rows, parse_map

GRID = 16
MARGIN = 4  # gray levels of 255: less is noise, which in flat areas would set random bits
PLAIN = 24  # a hash with fewer bits set says too little
# hashes may be one picture when they differ in at most this share of the bits that are set
NEAR = 0.25
# and are, when the thumbnails' mean difference is at most this share of their contrast. Measured on
# drawings and charts, rescaled by 0.5 to 1.5 and saved as JPEG of quality 30 to 95: the same 0.09
# at most, others 0.07 at least
ALIKE = 0.09
THUMB = 32
SHOWN = 10  # pairs printed of each kind


def normal_text(text):
    """A question's text without what editions of a data set change: case, spaces, punctuation,
    image markers.
    """
    text = unicodedata.normalize("NFKC", text.replace("<image>", " ")).casefold()
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[,;:!?'\"`$\\{}()\[\]_~\u2018-\u201d]", " ", text)
    return " ".join(text.split())


def shrunken(image, side):
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX), dtype=np.int16)


def picture_hash(image):
    """(8,) uint64: 512 bits, one per neighbouring pair of the shrunken gray picture, across and
    down; None if too plain.
    """
    gray = shrunken(image, GRID + 1)
    across, down = gray[:-1, 1:] > gray[:-1, :-1] + MARGIN, gray[1:, :-1] > gray[:-1, :-1] + MARGIN
    bits = np.stack([across, down])
    return np.packbits(bits).view(np.uint64) if bits.sum() >= PLAIN else None


def signs(questions, name):
    """What is compared of a data set: {"ids", "texts": {normal text's hash: rows}, "hashes": (P,
    8), "thumbs": (P, 32, 32), "rows": (P,) row of each picture, "pictures": {rows that have any},
    "plain", "broken": pictures left out}.
    """
    ids, texts, hashes, thumbs, rows, pictures, plain, broken = [], {}, [], [], [], set(), 0, 0
    for i, q in enumerate(tqdm(questions, desc=name, unit="row", mininterval=0.5)):
        ids.append(q.id)
        text = normal_text(q.question).encode("utf-8", "replace")
        texts.setdefault(hashlib.blake2b(text, digest_size=16).digest(), []).append(i)
        for image in q.images:
            pictures.add(i)
            try:
                [image] = decode((image,), q.id)
            except BadImage:
                broken += 1
                continue
            found = picture_hash(image)
            plain += found is None
            if found is not None:
                hashes.append(found)
                thumbs.append(shrunken(image, THUMB).astype(np.uint8))
                rows.append(i)
    words = 2 * GRID * GRID // 64
    hashes = np.array(hashes, dtype=np.uint64).reshape(-1, words)  # (0, 8) without pictures
    out = {"ids": ids, "texts": texts, "hashes": hashes, "thumbs": thumbs, "rows": rows}
    return out | {"pictures": pictures, "plain": plain, "broken": broken}


def near(a, b, chunk=1 << 21):
    """Pairs (i, j) of hashes a (P, W) and b (Q, W) that may be one picture."""
    set_a = np.bitwise_count(a).sum(1, dtype=np.int32)
    set_b = np.bitwise_count(b).sum(1, dtype=np.int32)
    out, step = [], max(1, chunk // max(1, len(b)))
    for start in range(0, len(a), step):
        part, bits = a[start : start + step], set_a[start : start + step]
        differ = np.zeros((len(part), len(b)), dtype=np.uint16)
        for word in range(a.shape[1]):
            differ += np.bitwise_count(part[:, None, word] ^ b[None, :, word])
        i, j = np.nonzero(differ <= NEAR * (bits[:, None] + set_b[None]) / 2)
        out += zip((i + start).tolist(), j.tolist())
    return out


def alike(a, b):
    """Whether two thumbnails show one picture."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.abs(a - b).mean() <= ALIKE * max(2.0, (a.std() + b.std()) / 2)


def compare(train, test):
    """{"both" | "text" | "picture": [(train id, test id), ...]} of two runs of Questions; "n": how
    many there are in each; "plain", "broken": pictures left out.
    """
    a, b = signs(train, "train"), signs(test, "eval")
    same_text = set()
    for key, rows in b["texts"].items():
        same_text |= {(i, j) for i in a["texts"].get(key, ())[:1000] for j in rows}
    same_picture = {
        (a["rows"][i], b["rows"][j])
        for i, j in near(a["hashes"], b["hashes"])
        if alike(a["thumbs"][i], b["thumbs"][j])
    }
    textual = {(i, j) for i, j in same_text if i not in a["pictures"] and j not in b["pictures"]}
    both = same_text & same_picture | textual
    out = {"n": [len(a["ids"]), len(b["ids"])]}
    out |= {key: a[key] + b[key] for key in ("plain", "broken")}
    kinds = {"both": both, "text": same_text - both, "picture": same_picture - both}
    for kind, pairs in kinds.items():
        in_order = sorted(pairs, key=lambda p: p[::-1])
        out[kind] = [(a["ids"][i], b["ids"][j]) for i, j in in_order]
    return out


def questions_of(spec, columns):
    """The Questions of a data set, whatever its pictures are like. Raises BadRow."""
    for _, _, q in scan(open_rows(spec, columns)):
        if isinstance(q, BadRow):
            raise q
        yield q


def main(argv):
    """python data.py overlap. Returns 1 if a question stands in both sets, else 0."""
    p = argparse.ArgumentParser(
        prog="data.py overlap", description="Report questions that stand in two data sets."
    )
    p.add_argument("train", help=f"a data set: {SPEC}")
    p.add_argument("eval", help="another one")
    p.add_argument("--map", default="", help=f"of the first: {MAP}")
    p.add_argument("--eval-map", default="", help="of the second")
    p.add_argument("--json", default="", metavar="FILE", help="write all pairs of ids")
    args = p.parse_args(argv)
    train = questions_of(args.train, parse_map(args.map))
    found = compare(train, questions_of(args.eval, parse_map(args.eval_map)))
    n_train, n_test = found["n"]
    print(f"{args.train}: {n_train} questions; {args.eval}: {n_test} questions")
    for kind, title in (
        ("both", "same text and picture (or same text, no pictures): leaks"),
        ("picture", "same picture, other text"),
        ("text", "same text, other picture"),
    ):
        pairs = found[kind]
        ours, theirs = {t for t, _ in pairs}, {t for _, t in pairs}
        n = f"{len(theirs)} of the second set's questions, {len(ours)} of the first's"
        print(f"{title}: {n}")
        for one, other in pairs[:SHOWN]:
            print(f"  {one!r}  =  {other!r}")
        if len(pairs) > SHOWN:
            print(f"  ... and {len(pairs) - SHOWN} more pairs; --json FILE writes all")
    left = f"{found['plain']} with next to no edges, {found['broken']} that do not open"
    print(f"not compared by picture: {left}")
    if args.json:
        write_atomic(args.json, json.dumps(found, indent=1, ensure_ascii=False))
    return 1 if found["both"] else 0
