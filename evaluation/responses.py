"""The responses of a benchmark on disk, and the scores that rules give them.

    records = by_key("runs/eval/x/responses/AIME25.jsonl", "id")
    pairs = graded(bench, items, records)                              # [(Item, Score)]

A response record: {"id", "asked", "response", "truncated", "tokens"}. `asked` is a digest of the
question, so that a changed data set is asked again. With "error" the picture, the video or the
prompt cannot be used (wrong, and counted); with "missing" its file is not there: that row is not
evaluated, and asked again by the next call.
"""

import hashlib

from tqdm import tqdm

from evaluation.scorers import Score, score, training
from runtime.files import read_jsonl


def asked(item):
    """A digest of what the model is asked."""
    return hashlib.sha256(repr((item.text(), item.turns, item.gold)).encode()).hexdigest()[:16]


def by_key(path, key):
    """{record[key]: record} of a JSONL file; later lines win."""
    return {record[key]: record for record in read_jsonl(path) if key in record}


def progress(what, total):
    return tqdm(total=total, desc=what, unit="row", leave=False, dynamic_ncols=True)


def graded(bench, items, records):
    """[(Item, Score)] of the Items that have a record. The training reward sees the whole response,
    all else what follows </think>.
    """
    return [
        (item, _score(bench, item, records[item.id]))
        for item in items
        if item.id in records and records[item.id]["asked"] == asked(item)
    ]


def _score(bench, item, record):
    if "missing" in record:
        return Score(None, "missing", record["missing"])
    if "error" in record:
        return Score(0.0, "unreadable", record["error"])
    if bench.scorer is training:
        return training(item, record["response"])
    return score(bench.scorer, item, record["response"], record["truncated"])
