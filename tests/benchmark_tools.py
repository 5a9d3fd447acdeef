"""What benchmark_fixtures.py makes small copies of data sets with: pictures, clips, parquet."""

import base64
import io
import json
from pathlib import Path

import datasets
from PIL import Image

from records import Sample

PIC = Image.new("RGB", (24, 18), (200, 30, 30))
THINK = "I look at it.</think>"


def png(size=(24, 18), color=(10, 200, 30), form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, format=form)
    return out.getvalue()


def b64(**kw):
    return base64.b64encode(png(**kw)).decode()


def box(answer):
    return f"{THINK}The answer is \\boxed{{{answer}}}."


CUT = "I am still thinking"  # marked as truncated by the scripted engine: no </think>


def save(root, repo, config, split, rows, cast=None):
    """rows as root/repo/CONFIG/SPLIT.parquet, or SPLIT.parquet for the default config."""
    folder = root / repo if config == "default" else root / repo / config
    folder.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    for column, feature in (cast or {}).items():
        table = table.cast_column(column, feature)
    table.to_parquet(str(folder / f"{split}.parquet"))


def clip(path, frames=8, rate=4, last=None):
    """A real mp4 of `frames` frames, each another grey; `last` is the colour of the last one."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for k in range(frames):
            color = last if last and k == frames - 1 else (20 * k, 20 * k, 20 * k)
            for packet in stream.encode(
                av.VideoFrame.from_image(Image.new("RGB", (32, 32), color))
            ):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def lettered(n):
    return [f"thing {c}" for c in "abcdefghijklmn"[:n]]


CASES = {}


def case(
    name,
    repo,
    parts,
    replies,
    want,
    score,
    low,
    also=None,
    remarks=(),
    cast=None,
    files=lambda root: None,
):
    CASES[name] = {
        "repo": repo,
        "parts": parts,
        "replies": replies,
        "want": want,
        "score": score,
        "low": low,
        "also": also or {},
        "remarks": remarks,
        "cast": cast,
        "files": files,
    }


def write(name, root):
    c = CASES[name]
    for (config, split), rows in c["parts"].items():
        save(Path(root), c["repo"], config, split, rows, c["cast"])
    c["files"](Path(root) / c["repo"])


# ---- stand-ins for models ------------------------------------------------------------------------


class Answers:
    """An engine that gives the replies in order; CUT comes back as truncated."""

    remote = False

    def __init__(self, lm, replies):
        self.lm, self.replies, self.calls = lm, list(replies), []

    def sample(
        self,
        prompts,
        n,
        max_new_tokens,
        seed,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        presence_penalty=0.0,
    ):
        self.calls.append(
            {
                "prompts": prompts,
                "seed": seed,
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "presence_penalty": presence_penalty,
                "n": n,
            }
        )
        texts = [self.replies.pop(0) for _ in prompts]
        return [[Sample(p, (1, 2), (0.0, 0.0), t, t == CUT)] for p, t in zip(prompts, texts)]


class Yes:
    """A judge that finds everything right, MM-Vet's half right, in each kind's own form."""

    name = "yes"

    def __init__(self):
        self.prompts = []

    def ask(self, prompts, temperature=0.0, seed=0, as_json=False):
        self.prompts += prompts
        return [self.reply(p) for p in prompts]

    def reply(self, p):
        if '{"verdict": "wrong"}' in p:
            return '{"verdict": "correct"}'
        if "score_T1" in p:
            return json.dumps(
                {
                    f"{k}_T{i}": 1
                    for i in range(1, 6)
                    if f"score_T{i}" in p
                    for k in ("extract_answer", "score")
                }
            )
        for mark, reply in (
            ("| Correctness", "0.5"),
            ("extracted_final_answer", '{"correct": "yes"}'),
            ("<CRITERIA>", '{"verdict": "YES"}'),
            ("extracted_answer and score", '{"extract_answer": "x", "score": 1}'),
            ("true or false", '{"correct": true}'),
        ):
            if mark in p:
                return reply
        raise AssertionError(p)
