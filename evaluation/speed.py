"""How fast responses become scores, without a model or a judge: `python eval.py bench`."""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from evaluation import benchmarks, scores
from evaluation.loading import Questions
from evaluation.responses import asked, by_key, graded
from runtime.files import append_jsonl

REPLIES = ("\\boxed{D}", "\\boxed{A}", "(D).", "{0} apples", "\\boxed{D. ok}")


def write_rows(root, n):
    """n rows in the schema of MMLU-Pro."""
    import datasets

    datasets.disable_progress_bars()
    root.mkdir(parents=True)
    fixed = {"answer": "D", "answer_index": 3, "cot_content": "", "src": ""}
    rows = [
        fixed
        | {
            "question_id": i,
            "question": f"Which number is {i}?",
            "options": [f"{i + k} apples" for k in range(10)],
            "category": f"c{i % 14}",
        }
        for i in range(n)
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(root / "test.parquet"))


def scripted(item, k):
    """A response record of reply k."""
    text = "Let me think. " * 60 + "</think>So the answer is " + REPLIES[k % len(REPLIES)]
    record = SimpleNamespace(id=item.id, asked=asked(item), response=text)
    return vars(record) | {"truncated": False, "tokens": 9}


def bench(n=10_000, chunk=256):
    """The path of n scripted responses: rows, questions, JSONL on disk, scores, table."""
    row = benchmarks.find(["MMLU-Pro"])[0]
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "responses.jsonl"
        write_rows(Path(tmp) / "data/TIGER-Lab/MMLU-Pro", n)
        clock = [time.perf_counter()]
        items = list(Questions(row, f"{tmp}/data"))
        clock.append(time.perf_counter())
        for i in range(0, n, chunk):
            append_jsonl(path, [scripted(x, k) for k, x in enumerate(items[i : i + chunk])])
        clock.append(time.perf_counter())
        records = by_key(path, "id")
        pairs = graded(row, items, records)
        clock.append(time.perf_counter())
        scores.summarize(row, pairs, records)
        clock.append(time.perf_counter())
    read, written, scored, table = (b - a for a, b in zip(clock, clock[1:]))
    print(
        f"{n:,} responses: rows to questions {read:.2f} s, written {written:.2f} s, "
        f"read and scored {scored:.2f} s, table {table:.2f} s\n"
        f"{n / scored:,.0f} scored a second, {n / (clock[-1] - clock[0]):,.0f} through all of it"
    )
