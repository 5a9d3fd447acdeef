"""scores.py: intervals, averages, tables, the paper's rows, comparison.

python -m pytest tests/evaluation/test_scores.py
"""

import csv
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from benchmark_fixtures import box
from benchmark_tools import Answers
from test_suite import args_of, mmlu

import evaluation.suite as ev
from evaluation import scores, speed
from evaluation.benchmarks import find
from evaluation.rows import Item
from evaluation.scorers import Score

REPO = Path(__file__).parent.parent.parent

# ---- numbers -------------------------------------------------------------------------------------


def test_wilson_by_hand():
    assert scores.wilson(5, 10) == pytest.approx([23.659, 76.341], abs=0.01)
    assert scores.wilson(0, 10) == pytest.approx([0, 27.753], abs=0.01) and scores.wilson(10, 10)[
        1
    ] == pytest.approx(100)


def test_equal_values_do_not_claim_certainty():
    assert scores.interval([0.0] * 10, list("aabbbccccc"), True) == (scores.wilson(0, 10), "Wilson")


def test_groups_of_one_question_do_not_claim_certainty():
    assert scores.interval([1.0, 0.0, 0.0], list("abc"), True) == (scores.wilson(1, 3), "Wilson")


def test_macro_and_micro():
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    assert (
        scores.mean(values, groups, False) == 75
        and scores.mean(values, groups, True) == 50
        and scores.mean([], [], True) is None
    )


def test_bootstrap_matches_the_plain_one():
    rng = np.random.default_rng(1)
    values, groups = rng.random(200).tolist(), rng.choice(["a", "b", "c"], 200).tolist()
    got, method = scores.interval(values, groups, True)
    by = {g: np.array([v for v, x in zip(values, groups) if x == g]) for g in "abc"}
    plain = [
        100 * np.mean([rng.choice(v, len(v)).mean() for v in by.values()]) for _ in range(3000)
    ]
    assert method == "bootstrap" and got == pytest.approx(
        np.percentile(plain, [2.5, 97.5]), abs=0.6
    )


def test_coverage_of_the_interval():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        k = rng.binomial(80, 0.3)
        low, high = scores.wilson(int(k), 80)
        hits += low <= 30 <= high
    assert 365 <= hits <= 396  # 95 % of 400 is 380


def test_ignored_rows_leave_the_denominator():
    b = find(["OCREN"])[0]
    pairs = [
        (Item("1", "q", ["x"], group="g"), Score(1.0, "metric")),
        (Item("2", "q", [""], group="g"), Score(None, "ignored")),
    ]
    got = scores.summarize(b, pairs, {"1": {}, "2": {}})
    assert got["n"] == 1 and got["score"] == 100 and got["ignored"] == 1 and got["unscored"] == 0


def result(name, score, family="llm", paper=None, **more):
    return {
        "name": name,
        "title": name,
        "family": family,
        "score": score,
        "n": 10,
        "interval": [1.0, 2.0],
        "interval_method": "Wilson",
        "unscored": 0,
        "missing": 0,
        "low": score,
        "high": score,
        "paper": paper,
        "judged": 0,
        "malformed": 0,
        "no_answer": 0,
        "unreadable": 0,
        "ignored": 0,
        "truncated": 0,
        "tokens": 0,
        "also": {},
        "choice": "",
        "remarks": [],
        **more,
    }


def test_averages_are_over_what_was_evaluated_and_say_so():
    rows = [
        result("a", 10.0, paper=20.0),
        result("b", 30.0, paper=20.0),
        result("c", None, unscored=3, low=1.0, high=5.0, paper=90.0),
    ]
    got = scores.averages(rows)["llm"]
    assert (got["score"], got["paper"], got["benchmarks"], got["of"]) == (20, 20, 2, 10)
    assert "2 of 10 benchmarks" in scores.terminal(rows)


def test_the_papers_averages_come_out_of_its_own_rows():
    for student in ("0.8b", "2b", "4b", "9b"):
        rows = list(csv.DictReader(open(REPO / "assets/paper_results.csv")))
        for family in ("vlm", "llm", "video"):
            some = {
                r["benchmark"]: float(r["accuracy_percent"])
                for r in rows
                if (r["student"], r["method"], r["family"]) == (student, "zppo", family)
            }
            average = some.pop("Avg")
            assert np.mean(list(some.values())) == pytest.approx(average, abs=0.11)


def test_choices_print_default_and_alternatives():
    line = scores.choices(
        [result("DynaMath", 50.0, choice="average; the paper is silent", also={"worst case": 20.0})]
    )[0]
    assert line == "DynaMath: average; the paper is silent. worst case 20.0"


def test_tables_hold_the_same_numbers():
    rows = [result("a", 12.34, paper=10.0), result("b", None, unscored=2, low=0.0, high=20.0)]
    text, md, table = (
        scores.terminal(rows, ["not evaluated: x: not here"], "0.8b", "zppo"),
        scores.markdown(rows, ["not evaluated: x: not here"], "0.8b", "zppo"),
        scores.as_csv(rows),
    )
    for out in (text, md):
        assert (
            "12.3" in out
            and "+2.3" in out
            and "0.0 to 20.0" in out
            and "paper, 0.8b zppo" in out
            and "not evaluated: x: not here" in out
        )
    assert (
        list(csv.DictReader(table.splitlines()))[0]["score"] == "12.34"
        and list(csv.DictReader(table.splitlines()))[1]["score"] == ""
    )


# ---- the paper's row -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, want",
    [
        ("Qwen/Qwen3.5-0.8B", ("0.8b", "base")),
        ("models/qwen3.5-2b-x", ("2b", "base")),
        ("assets/student", ("", "base")),
        ("x/27B-FP8", ("27b", "base")),
        ("12b", ("", "base")),
    ],
)
def test_guess_from_the_name(path, want):
    assert scores.guess(path) == want


@pytest.mark.parametrize(
    "flags, method",
    [
        ({"buffer": True, "bcq": True, "ncq": True}, "zppo"),
        ({"buffer": True, "bcq": False, "ncq": False}, "grpo+buffer"),
        ({"buffer": False, "bcq": True, "ncq": True}, "grpo+bcq+ncq"),
        ({"buffer": False, "bcq": False, "ncq": False}, "grpo"),
        ({"buffer": True, "bcq": True, "ncq": False}, "grpo+buffer+bcq"),
    ],
)
def test_guess_from_a_run(tmp_path, flags, method):
    (tmp_path / "config.json").write_text(json.dumps({"student": "Qwen/Qwen3.5-4B", **flags}))
    assert scores.guess(tmp_path / "final") == ("4b", method)
    assert not scores.paper_results("4b", method) or len(scores.paper_results("4b", method)) in (
        16,
        31,
    )


# ---- compare -------------------------------------------------------------------------------------


def test_compare_by_hand():
    base = {("llm", n): 10.0 for n in "abcd"}
    got = scores.compare(
        base,
        [
            {
                ("llm", "a"): 20.0,
                ("llm", "b"): 20.0,
                ("llm", "c"): 10.0,
                ("llm", "d"): 6.0,
                ("vlm", "z"): 1.0,
            }
        ],
    )[0]["llm"]
    assert got["difference"] == 4 and (got["wins"], got["ties"], got["n"]) == (2, 1, 4)
    # exact distribution of the mean of 4 draws from {10, 10, 0, -4}
    import itertools

    exact = sorted(np.mean(x) for x in itertools.product((10, 10, 0, -4), repeat=4))
    assert got["interval"] == pytest.approx(
        [exact[int(0.025 * 256)], exact[int(0.975 * 256)]], abs=1.01
    )


def test_one_resample_is_shared_by_all_comparisons():
    rng = random.Random(0)
    base, other = ({("vlm", str(k)): rng.random() * 100 for k in range(16)} for _ in range(2))
    shifted = {k: v + 7 for k, v in other.items()}
    a, b = scores.compare(base, [other, shifted])
    assert np.subtract(b["vlm"]["interval"], a["vlm"]["interval"]) == pytest.approx([7, 7])
    assert scores.compare(base, [other]) == [a] == scores.compare(base, [other])  # deterministic


def test_compare_reproduces_the_papers_gains(capsys):
    assert ev.main(["compare", "paper:0.8b:base", "paper:0.8b:zppo"]) == 0
    out = capsys.readouterr().out
    got = {
        line.split()[1]: float(line.split()[2])
        for line in out.splitlines()
        if line.startswith("paper:0.8b:zppo")
    }
    assert got == {
        "VLM": pytest.approx(9.3, abs=0.15),
        "LLM": pytest.approx(7.9, abs=0.15),
        "Video": pytest.approx(4.5, abs=0.15),
    }  # zppo.md section 1
    assert "16 of 16" in out


def test_compare_two_folders(lm, tmp_path, capsys):
    for name, letter in (("A", "C"), ("B", "B")):
        mmlu(tmp_path, 4)
        ev.run(
            args_of(tmp_path, "--only", "MMLU", "--out", tmp_path / name),
            engine=Answers(lm, [box(letter)] * 4),
        )
    capsys.readouterr()
    ev.main(["compare", str(tmp_path / "A"), str(tmp_path / "B")])
    assert re.search(r"LLM\s+\+100.0\s+\+100.0 to \+100.0\s+1 of 1", capsys.readouterr().out)
    with pytest.raises(ValueError, match="takes two"):
        ev.main(["compare", str(tmp_path / "A")])
    with pytest.raises(ValueError, match="no such file"):
        ev.main(["compare", str(tmp_path / "A"), str(tmp_path / "none")])
    with pytest.raises(ValueError, match="no such row; students and methods"):
        ev.main(["compare", "paper:1b:x", str(tmp_path / "A")])


def test_bench_prints_a_rate(capsys):
    speed.bench(500)
    assert "scored a second" in capsys.readouterr().out


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="^./nowhere: no such model folder$"):
        ev.main(["./nowhere", "--tiny", "--out", str(tmp_path / "o")])
