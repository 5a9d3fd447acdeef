"""Small copies of both sources' schema, made up here: rows, images and Parquet files, with the
oddities of the real ones.

    python tests/corpus_fixtures.py FOLDER    # FOLDER/vero and FOLDER/mmfr, to try data.py build
"""

import io
import random
import shutil
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

SYSTEM = "Think inside tags, then answer in a box."
MESSAGES = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})
COLUMNS = {
    "role": datasets.List(datasets.Value("string")),
    "content": datasets.List(datasets.Value("string")),
}
TEXT = datasets.Value("string")


def picture(seed=0, size=(120, 110), form="PNG", **options):
    """Encoded bytes of a drawing that depends on the seed."""
    rng, buffer = random.Random(seed), io.BytesIO()
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        draw.line(
            [
                rng.randrange(size[0]),
                rng.randrange(size[1]),
                rng.randrange(size[0]),
                rng.randrange(size[1]),
            ],
            fill=(rng.randrange(200), rng.randrange(200), rng.randrange(200)),
            width=3,
        )
    image.save(buffer, form, **options)
    return buffer.getvalue()


def vero(
    n=0,
    question="<image>\nHow long is side {n}?",
    gold="{n}",
    kind="numeric",
    image=None,
    prompt="list",
    id="id-{n}",
    **info,
):
    """A Vero row. image: bytes, a path, or None for a drawing; prompt: "list" or "dict", the two
    forms of `prompt`.
    """

    def fill(text):
        return text.replace("{n}", str(n)) if isinstance(text, str) else text

    content = [SYSTEM, fill(question)]
    messages = [{"role": r, "content": c} for r, c in zip(("system", "user"), content)]
    image = (
        {"bytes": image, "path": None}
        if isinstance(image, bytes)
        else {"bytes": None, "path": image}
        if image
        else {"bytes": picture(n), "path": f"{n}.png"}
    )
    return {
        "id": fill(id),
        "data_source": "made up",
        "ability": "stem",
        "image": image,
        "prompt": messages
        if prompt == "list"
        else {"role": ["system", "user"], "content": content},
        "reward_model": {"style": "rule", "ground_truth": fill(gold)},
        "extra_info": {
            "question": fill(question),
            "answer": fill(gold),
            "reward_type": kind,
            "tolerance": None,
            "index": n,
            "split": "train",
            **info,
        },
    }


def mmfr(
    n=0, source="MMR1", question="<image>What is {n} + 0?", answer="{n}", rate=0.25, image=None
):
    """A MMFineReason row, its long text columns included."""
    image = (
        image
        if isinstance(image, (list, dict))
        else {"bytes": image or picture(1000 + n), "path": None}
    )
    return {
        "source": source,
        "id": str(n),
        "original_question": "raw",
        "original_answer": "<think>" + "long " * 300 + "</think>",
        "image": image,
        "question": question and question.replace("{n}", str(n)),
        "answer": answer and answer.replace("{n}", str(n)),
        "qwen3vl_235b_instruct_caption": "a caption",
        "qwen3vl_235b_thinking_response": "<think>...</think>",
        "pass_rate": rate,
        "is_consistent": True,
        "consistency_analysis": "fine",
    }


def write(rows, file, image=datasets.Image(), hub_metadata=True, **features):
    """Rows as one Parquet file with a hub-like Arrow schema. features: of columns whose type can't
    be seen from the rows.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    seen = datasets.Dataset.from_list(
        [{k: v for k, v in r.items() if k not in ("image", *features)} for r in rows]
    ).features
    info = dict(seen.get("extra_info") or {})
    if info:
        info["tolerance"] = datasets.Value("float64")
        seen["extra_info"] = {
            k: TEXT if v == datasets.Value("null") else v for k, v in info.items()
        }
    kinds = {k: TEXT if v == datasets.Value("null") else v for k, v in seen.items()}
    order = {k: {**kinds, "image": image, **features}[k] for k in rows[0]}
    data = datasets.Dataset.from_list(rows, features=datasets.Features(order))
    metadata = data.features.arrow_schema.metadata if hub_metadata else None
    pq.write_table(
        data.data.table.replace_schema_metadata(metadata), file
    )  # to_parquet() would open the paths


def write_vero(folder, configs, readme=True, shards=1, **options):
    """configs: {config: rows}. readme: declare the configs in a README as the hub does; otherwise
    they are just folders.
    """
    for config, rows in configs.items():
        size = -(-len(rows) // shards)
        for s in range(shards):
            kind = {} if isinstance(rows[0]["prompt"], list) else {"prompt": COLUMNS}
            write(
                rows[s * size : (s + 1) * size],
                folder / config / f"train-{s:05d}-of-{shards:05d}.parquet",
                **kind,
                **options,
            )
        write(rows[:1], folder / config / "val-00000-of-00001.parquet", **kind, **options)
    if readme == "no configs":
        (folder / "README.md").write_text("A copy.\n")
    elif readme:
        lines = ""
        for c in configs:
            lines += f"- config_name: {c}\n  data_files:\n"
            for split in ("train", "val"):
                lines += f"  - split: {split}\n    path: {c}/{split}-*\n"
        (folder / "README.md").write_text(f"---\nconfigs:\n{lines}---\n")
    return folder


def write_mmfr(folder, rows, shards=1, rate="pass_rate", **options):
    """rate: the name of the pass-rate column, or None to leave it out."""
    rows = [
        {(rate if k == "pass_rate" else k): v for k, v in r.items() if rate or k != "pass_rate"}
        for r in rows
    ]
    size = -(-len(rows) // shards)
    for s in range(shards):
        write(
            rows[s * size : (s + 1) * size],
            folder / "data" / f"train-{s:05d}-of-{shards:05d}.parquet",
            **options,
        )
    return folder


if __name__ == "__main__":
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    datasets.disable_progress_bars()
    print(
        write_vero(
            out / "vero",
            {
                "stem-ai2d_merged": [vero(n) for n in range(40)],
                "stem-geo170k": [vero(n, prompt="dict") for n in range(40)],
                "knowledge_recognition-vizwiz": [vero(n) for n in range(5)],
                "stem-new_one": [vero(n) for n in range(5)],
                "chart_ocr-reachqa": [
                    vero(n, gold="['{n}', 'about {n}', '{n}']", kind="list_string_match")
                    for n in range(9)
                ],
            },
        )
    )
    names = ["MMR1", "Euclid30K", "FineVision-geo170k(qa)", "WaltonColdStart", "SomethingNew"]
    print(
        write_mmfr(
            out / "mmfr",
            [mmfr(n, source=names[n % 5], rate=(n % 4) / 4) for n in range(100)],
            shards=3,
        )
    )
