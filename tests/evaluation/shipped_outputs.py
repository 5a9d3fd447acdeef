r"""Model outputs that official repositories ship, beside the verdicts that came with them.

    python tests/evaluation/shipped_outputs.py REPOS 20     # and that many of the differences

REPOS is a folder with git repositories called MATH-V, MathVista, MMLU-Pro and MMMU (bare ones do);
what a partial clone lacks is left out. Nothing of them is kept here. Prints, for each repository,
the outputs, those that our rules leave to a judge, and those with another verdict.
"""

import ast
import io
import json
import random
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
MMLU_PRO = "Mistral-7B-Instruct-v0.2", "gemini-1.5-flash-002", "Llama-2-7b-hf"


def git(repo, *what):
    return subprocess.run(["git", "-C", str(repo), *what], capture_output=True)


def files(repo, folder, ending=""):
    """(name, bytes) of the files of a folder that are there."""
    names = git(repo, "ls-tree", "-r", "--name-only", "-z", "HEAD", folder).stdout.decode()
    for name in names.split("\0"):
        if name.endswith(ending) and name:
            got = git(repo, "show", f"HEAD:{name}")
            if got.returncode == 0:
                yield name, got.stdout


def lines(raw):
    return [json.loads(line) for line in raw.decode().split("\n") if line]


def math_v(root):
    test = {x["id"]: x for _, raw in files(root / "MATH-V", "data/test.jsonl") for x in lines(raw)}
    for _, raw in files(root / "MATH-V", "outputs/", ".jsonl"):
        for x in lines(raw):
            if "correct" in x and x["id"] in test:
                row = test[x["id"]]
                item = {"gold": str(row["answer"]), "options": row["options"]}
                yield "exact", item, str(x["response"]), x["correct"]


def mathvista(root):
    for name, raw in files(root / "MathVista", "results/", ".json"):
        if "/output_" not in name or "template" in name:
            continue
        for x in json.loads(raw).values():
            if "true_false" in x and isinstance(x.get("extraction"), str):
                meta = {key: x[key] for key in ("answer_type", "precision", "unit")}
                item = {"gold": x["answer"], "options": x["choices"] or (), "meta": meta}
                yield "mathvista", item, x["extraction"], x["true_false"]


def mmlu_pro(root):
    """Every third output of three models."""
    for name, raw in files(root / "MMLU-Pro", "eval_results/", ".zip"):
        if not any(model in name for model in MMLU_PRO):
            continue
        archive = zipfile.ZipFile(io.BytesIO(raw))
        for x in json.loads(archive.read(archive.namelist()[0]))[::3]:
            reply = x.get("model_outputs") or x.get("generated_text")
            if isinstance(reply, str):
                item = {"gold": x["answer"], "options": x["options"]}
                yield "choice", item, reply, x["pred"] == x["answer"]


def mmmu_pro(root):
    """The verdicts are made by the official parser here."""
    import numpy as np
    from make_agreement import functions

    (script,) = (raw for _, raw in files(root / "MMMU", "mmmu-pro/evaluate.py"))
    names = "parse_multi_choice_response", "get_multi_choice_info"
    parse, info = functions(script.decode(), *names, random=random, np=np)
    for _, raw in files(root / "MMMU", "mmmu-pro/output/", ".jsonl"):
        for x in lines(raw):
            options = ast.literal_eval(x["options"])
            index, letters = info(options)
            if isinstance(x["response"], str):
                said = parse(x["response"], letters, index)
                item = {"gold": x["answer"], "options": options}
                yield "choice", item, x["response"], said == x["answer"]


def main(root, shown):
    from test_agreement import said_by_us

    for maker in (math_v, mathvista, mmlu_pro, mmmu_pro):
        random.seed(0)
        counts, differ = Counter(), []
        for scorer, item, reply, official in maker(root):
            ours = said_by_us(scorer, item, reply)
            counts["outputs"] += 1
            counts["left to a judge"] += ours == "judge"
            if ours != "judge" and (ours == 1) != bool(official):
                differ.append((item["gold"], reply[-80:], bool(official), ours))
        counts["differ"] = len(differ)
        counts["differ, ours is 0"] = sum(row[-1] == 0 for row in differ)
        print(maker.__name__, dict(counts))
        print(*random.sample(differ, min(shown, len(differ))), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
