"""scoring_cases.tsv: what the benchmarks' own rules give for responses as models write them.

python -m pytest tests/evaluation/test_scoring_cases.py
"""

import json
import re
from pathlib import Path

import pytest

from evaluation import ocrbench, scorers
from evaluation.rows import Item

LINES = Path(__file__).with_name("scoring_cases.tsv").read_text("utf-8").splitlines()
CASES = [line.split("\t") for line in LINES if line and not line.startswith("#")]


def item_of(scorer, gold):
    """(scorer function, Item) of the first two columns."""
    name, detail, options = re.fullmatch(r"(\w+)(?:\((.*)\))?(?:\[(.*)\])?", scorer).groups()
    options = tuple(options.split("|")) if options else ()
    gold = json.loads(gold) if gold.startswith("[") else gold
    if name == "ocr":
        meta = {"type": detail, "eval": "", "bbox_list": [], "content": []}
        meta["bbox"] = ["0", "0", "10", "10"]
        return ocrbench.ocr, Item("1", "Read.", gold, meta=meta)
    meta = {"letters": 4}
    if name == "exact":
        meta = {"letters": int(detail)}
    if name == "dynamath":
        meta = {"answer_type": detail}
    if name == "blind":
        meta = {"task": detail}
    if name == "coordinates":
        meta = {}
    return getattr(scorers, name), Item("1", "Which?", gold, options, meta=meta)


@pytest.mark.parametrize("scorer, gold, response, right, why", CASES)
def test_case(scorer, gold, response, right, why):
    function, item = item_of(scorer, gold)
    response = re.sub(r"\\n(?![a-z])", "\n", response)
    got = scorers.score(function, item, "Hm.</think>" + response)
    if right in ("judge", "ignored"):
        assert (got.value, got.how) == (None, right)
    else:
        assert got.value == pytest.approx(float(right), abs=2e-3)
