"""eval.py and scores.py: the tiny world end to end, resume, rescoring, unscored rows, intervals,
tables, comparison.

python -m pytest tests/test_eval.py
"""

import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_fixtures import box, save
from test_benchmarks import Answers, Yes

import evaluation.suite as ev
from engines.hf import HFEngine
from eval import SPLITS, evaluate
from evaluation import scores, speed
from evaluation.benchmarks import TINY, find
from evaluation.rows import Item
from evaluation.scorers import Score
from model import load
from tiny import world as tiny

ROOT = Path(__file__).parent.parent

REPO = Path(__file__).resolve().parent.parent


def args_of(tmp_path, *flags):
    return ev.flags(
        [
            "model",
            "--data",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "out"),
            *map(str, flags),
        ]
    )


def mmlu(tmp_path, n=30):
    save(
        tmp_path / "data",
        "cais/mmlu",
        "all",
        "test",
        [
            {
                "question": f"q{k}?",
                "subject": f"s{k % 3}",
                "choices": ["w", "x", "y", "z"],
                "answer": 1,
            }
            for k in range(n)
        ],
    )


class Hashed(Answers):
    """Replies that depend on the prompt and the seed only, as an engine's do."""

    def __init__(self, lm, stop_after=None):
        super().__init__(lm, ())
        self.stop_after = stop_after

    def sample(self, prompts, n, max_new_tokens, seed, *sampling, **kw):
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.replies = [
            box("B" if random.Random(repr((p.ids, seed))).random() < 0.5 else "C") for p in prompts
        ]
        return super().sample(prompts, n, max_new_tokens, seed, *sampling, **kw)


# ---- the tiny world ------------------------------------------------------------------------------


def test_tiny_is_measured_as_train_measures_it(lm, tmp_path, capsys):
    args = args_of(tmp_path, "--tiny", "--limit", 12)
    results, missing = ev.run(args, engine=HFEngine(lm))
    assert not missing and [r["name"] for r in results] == ["image", "text", "video"]
    for r, split in zip(results, SPLITS):
        qs = tiny.questions(split)
        some = [qs[k * len(qs) // 12] for k in range(12)]
        expected = evaluate(HFEngine(lm), some, 40)
        assert r["score"] == pytest.approx(100 * sum(x[2] for x in expected) / 12) and r["n"] == 12
    assert "tiny world average" in capsys.readouterr().out


def test_tiny_command_line(tmp_path, lm):
    from model import save as save_model

    save_model(lm, tmp_path / "model")
    done = subprocess.run(
        [
            sys.executable,
            "eval.py",
            str(tmp_path / "model"),
            "--tiny",
            "--only",
            "text",
            "--limit",
            "6",
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "tiny world, as text" in done.stdout and {
        p.name for p in (tmp_path / "out").iterdir()
    } >= {"results.md", "results.csv", "results.json", "settings.json", "responses"}


def test_decoding_defaults():
    a, t = ev.flags(["m"]), ev.flags(["m", "--tiny"])
    assert (a.temperature, a.top_p, a.top_k, a.presence_penalty, a.max_new) == (
        0.6,
        0.95,
        20,
        1.5,
        12_288,
    )
    assert (a.min_pixels, a.max_pixels) == (256 * 32 * 32, 1280 * 32 * 32)
    assert (t.temperature, t.presence_penalty, t.max_new) == (0.0, 0.0, 40) and ev.flags(
        ["m", "--tiny", "--temperature", "0.6"]
    ).temperature == 0.6


class Served(HFEngine):
    """A stand-in for engines.client.ClientEngine over a server of the model at url."""

    opened = []

    def __init__(self, url, model="", lm=None, who="", flag=""):
        super().__init__(load(url))
        Served.opened.append((url, lm.path, who, flag))

    def close(self):
        Served.opened.append("closed")


def test_several_gpus_are_one_server_with_data_parallelism(tmp_path, lm, monkeypatch):
    from contextlib import contextmanager
    from types import ModuleType

    from model import save as save_model

    started = []

    @contextmanager
    def vllm_server(model, log, **options):
        started.append((model, log, options))
        yield str(tmp_path / "model")
        started.append("stopped")

    server = ModuleType("engines.server")
    server.vllm_server = vllm_server
    monkeypatch.setitem(sys.modules, "engines.server", server)
    monkeypatch.setattr("engines.client.ClientEngine", Served, raising=False)
    save_model(lm, tmp_path / "model")
    path, scores_ = str(tmp_path / "model"), []
    for flags in (["--engine", "hf"], ["--engine", "vllm", "--workers", "8"]):
        out = ["--out", str(tmp_path / flags[1])]
        args = ev.flags([path, "--tiny", "--only", "text", "--limit", "6", *flags, *out])
        results, missing = ev.run(args)
        scores_.append([(r["n"], r["score"]) for r in results])
        assert not missing
    assert scores_[0] == scores_[1]
    log = tmp_path / "vllm/server.log"
    assert started == [(path, log, {"data_parallel_size": 8}), "stopped"]
    assert Served.opened == [(path, path, "the model", "--engine"), "closed"]
    with pytest.raises(ValueError, match="--workers needs --engine vllm"):
        ev.flags([path, "--engine", "hf", "--workers", "2"])


def test_presence_penalty_in_the_engine(lm, few):
    from processor import CLOSER, encode

    engine = HFEngine(lm)
    prompts = [encode(lm, q.question + CLOSER, q.images, q.video) for q in few]
    plain = engine.sample(prompts, 2, 24, 0, 0.0)
    same = engine.sample(prompts, 2, 24, 0, 0.0, presence_penalty=1e-9)
    assert [s.response_ids for g in plain for s in g] == [s.response_ids for g in same for s in g]
    never = engine.sample(
        prompts, 2, 24, 0, 0.0, presence_penalty=1e9
    )  # no token twice in a response
    assert all(len(set(s.response_ids)) == len(s.response_ids) for g in never for s in g)
    assert any(len(set(s.response_ids)) < len(s.response_ids) for g in plain for s in g)
    drawn = engine.sample(prompts, 2, 24, 3, 0.6, 0.95, 20, presence_penalty=1.5)
    assert (
        drawn == engine.sample(prompts, 2, 24, 3, 0.6, 0.95, 20, presence_penalty=1.5)
        and drawn[0][0].response_ids != drawn[0][1].response_ids
    )


# ---- resume --------------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_and_ends_the_same(lm, tmp_path):
    mmlu(tmp_path)
    flags = ("--only", "MMLU", "--chunk", 8)
    straight, _ = ev.run(
        args_of(tmp_path, *flags, "--out", tmp_path / "straight"), engine=Hashed(lm)
    )
    with pytest.raises(KeyboardInterrupt):
        ev.run(args_of(tmp_path, *flags), engine=Hashed(lm, stop_after=2))
    assert len(open(tmp_path / "out/responses/MMLU.jsonl").readlines()) == 16
    rest = Hashed(lm)
    resumed, _ = ev.run(args_of(tmp_path, *flags), engine=rest)
    assert sum(len(c["prompts"]) for c in rest.calls) == 14
    assert resumed == straight and 0 < straight[0]["score"] < 100
    same = [(tmp_path / f / "responses/MMLU.jsonl").read_text() for f in ("straight", "out")]
    assert same[0] == same[1]  # seeds belong to the chunk, not to the call


def test_a_torn_last_line_costs_that_line(lm, tmp_path):
    mmlu(tmp_path, 6)
    args = args_of(tmp_path, "--only", "MMLU")
    first, _ = ev.run(args, engine=Answers(lm, [box("B")] * 6))
    file = tmp_path / "out/responses/MMLU.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    engine = Answers(lm, [box("B")])
    again, _ = ev.run(args, engine=engine)
    assert not engine.replies and again == first
    assert all(json.loads(x) for x in file.read_text().splitlines() if x.endswith("}"))


def test_a_larger_limit_asks_only_what_is_missing(lm, tmp_path):
    mmlu(tmp_path, 30)
    ev.run(args_of(tmp_path, "--only", "MMLU", "--limit", 10), engine=Answers(lm, [box("B")] * 10))
    engine = Answers(lm, [box("B")] * 20)
    result, _ = ev.run(args_of(tmp_path, "--only", "MMLU"), engine=engine)
    assert not engine.replies and result[0]["n"] == 30


def test_changed_data_are_asked_again(lm, tmp_path):
    mmlu(tmp_path, 3)
    ev.run(args_of(tmp_path, "--only", "MMLU"), engine=Answers(lm, [box("B")] * 3))
    save(
        tmp_path / "data",
        "cais/mmlu",
        "all",
        "test",
        [
            {
                "question": f"q{k}?" + "!" * (k == 2),
                "subject": f"s{k % 3}",
                "choices": ["w", "x", "y", "z"],
                "answer": 1,
            }
            for k in range(3)
        ],
    )
    engine = Answers(lm, [box("C")])
    result, _ = ev.run(args_of(tmp_path, "--only", "MMLU"), engine=engine)
    assert not engine.replies and result[0]["score"] == pytest.approx(200 / 3)


def test_other_settings_in_one_folder_are_refused(lm, tmp_path):
    mmlu(tmp_path, 2)
    ev.run(args_of(tmp_path, "--only", "MMLU"), engine=Answers(lm, [box("B")] * 2))
    with pytest.raises(
        ValueError, match=r"other settings \(temperature 0.6 -> 1.0\); give another --out"
    ):
        ev.run(args_of(tmp_path, "--only", "MMLU", "--temperature", 1.0), engine=Answers(lm, ()))


def test_a_model_folder_that_was_trained_on_is_another_model(lm, tmp_path):
    from safetensors.torch import load_file, save_file

    from model import save as save_model

    save_model(lm, tmp_path / "m")
    ev.run(
        ev.flags(
            [
                str(tmp_path / "m"),
                "--tiny",
                "--only",
                "text",
                "--limit",
                "2",
                "--out",
                str(tmp_path / "o"),
            ]
        ),
        engine=Answers(lm, [box("1")] * 2),
    )
    file = next((tmp_path / "m").glob("*.safetensors"))
    save_file({k: v * 1.01 for k, v in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="weights .* -> .*; give another --out"):
        ev.run(
            ev.flags(
                [str(tmp_path / "m"), "--tiny", "--only", "text", "--out", str(tmp_path / "o")]
            ),
            engine=Answers(lm, ()),
        )


def test_a_judge_that_fails_leaves_rows_unscored_and_is_said(lm, tmp_path):
    class Gone(Yes):
        def ask(self, prompts, temperature=0.0, seed=0, as_json=False):
            raise ValueError("the judge http://x does not answer")

    mmlu(tmp_path, 2)
    results, missing = ev.run(
        args_of(tmp_path, "--only", "MMLU"),
        engine=Answers(lm, [box("B"), "Nothing can be said about this one here."]),
        judge=Gone(),
    )
    assert results[0]["unscored"] == 1 and missing == [
        "not judged: MMLU: the judge http://x does not answer"
    ]


def test_seeds_differ_by_benchmark_chunk_and_seed(lm, tmp_path):
    mmlu(tmp_path, 9)
    seen = set()
    for seed in (0, 1):
        engine = Answers(lm, [box("B")] * 9)
        ev.run(
            args_of(
                tmp_path,
                "--only",
                "MMLU",
                "--chunk",
                3,
                "--seed",
                seed,
                "--out",
                tmp_path / f"o{seed}",
            ),
            engine=engine,
        )
        seen |= {c["seed"] for c in engine.calls}
    assert len(seen) == 6


# ---- rescoring and unscored rows -----------------------------------------------------------------


def test_unscored_rows_are_a_range_and_said_and_a_judge_settles_them(lm, tmp_path, capsys):
    mmlu(tmp_path, 4)
    replies = [box("B"), box("C"), "I really can't say which one it would be.", box("B")]
    first = ev.run(args_of(tmp_path, "--only", "MMLU"), engine=Answers(lm, replies))[0][0]
    out = capsys.readouterr().out
    assert (first["score"], first["low"], first["high"], first["unscored"], first["interval"]) == (
        None,
        50,
        75,
        1,
        None,
    )
    assert (
        "50.0 to 75.0" in out and "1 unscored: need --judge" in out and "--rescore --judge" in out
    )
    assert (
        json.loads((tmp_path / "out/results.json").read_text())["averages"]["llm"]["score"] is None
    )  # no average counts it
    judge = Yes()
    last = ev.run(args_of(tmp_path, "--only", "MMLU", "--rescore"), judge=judge)[0][0]
    assert last["score"] == 75 and last["judged"] == 1 and len(judge.prompts) == 1
    assert (tmp_path / "out/verdicts/MMLU.jsonl").is_file()


def test_a_missing_picture_is_not_a_wrong_answer(lm, tmp_path, capsys):
    """Its row is not evaluated, the number is a range, table and exit status tell, and the same
    command goes on when the file is there."""
    from PIL import Image
    from test_benchmarks import PIC

    folder = tmp_path / "data/lmms-lab/ai2d"
    folder.mkdir(parents=True)
    row = {"question": "Q", "options": ["leaf", "stem"], "answer": "0"}
    rows = [row | {"image": f"images/{k}.png"} for k in range(4)] + [row | {"image": None}]
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "images").mkdir()
    for k in (0, 2):
        PIC.save(folder / f"images/{k}.png")
    engine = Answers(lm, [box("A"), box("B")])
    results, missing = ev.run(args_of(tmp_path, "--only", "AI2D"), engine=engine)
    r = results[0]
    assert not missing and not engine.replies and (r["missing"], r["unscored"], r["n"]) == (3, 0, 5)
    assert (r["score"], r["low"], r["high"], r["interval"]) == (None, 20, 80, None)
    out = capsys.readouterr().out
    assert "20.0 to 80.0" in out and "3 not evaluated: no picture or video" in out
    kept = [json.loads(x) for x in open(tmp_path / "out/scores/AI2D.jsonl")]
    assert kept[1]["how"] == "missing" and "there is no images/1.png under" in kept[1]["answer"]
    for k in (1, 3):
        Image.new("RGB", (24, 18)).save(folder / f"images/{k}.png")
    engine = Answers(lm, [box("A"), box("A")])  # only the two that have come
    again, _ = ev.run(args_of(tmp_path, "--only", "AI2D"), engine=engine)
    assert not engine.replies and again[0]["missing"] == 1
    (folder / "images/0.png").write_bytes(b"damaged")  # answered already: stays as it was
    same, _ = ev.run(args_of(tmp_path, "--only", "AI2D", "--rescore"))
    assert same == again


def test_a_benchmark_without_any_of_its_files_is_one_line(lm, tmp_path, monkeypatch):
    from benchmark_fixtures import write

    write("VMME", tmp_path / "data")
    for file in (tmp_path / "data/lmms-lab/Video-MME/data").iterdir():
        file.unlink()
    results, missing = ev.run(args_of(tmp_path, "--only", "VMME"), engine=Answers(lm, ()))
    assert not results and missing[0].startswith("not evaluated: VMME: no file of its ")
    assert "there is no data/" in missing[0] and "\n" not in missing[0]
    monkeypatch.setattr(ev, "run", lambda args: (results, missing))
    assert ev.main(["m", "--out", str(tmp_path / "o")]) == 1


@pytest.mark.parametrize(
    "rows, missing, status",
    [([0], [], 0), ([1], [], 1), ([0], ["not evaluated: x"], 1), ([], [], 1)],
)
def test_the_exit_status_tells_whether_all_was_evaluated(monkeypatch, rows, missing, status):
    monkeypatch.setattr(ev, "run", lambda args: ([{"missing": n} for n in rows], missing))
    assert ev.main(["m"]) == status


def test_limit_does_not_remark_on_the_rows(lm, tmp_path):
    mmlu(tmp_path, 8)
    some, _ = ev.run(
        args_of(tmp_path, "--only", "MMLU", "--limit", 2), engine=Answers(lm, [box("B")] * 2)
    )
    whole, _ = ev.run(args_of(tmp_path, "--only", "MMLU"), engine=Answers(lm, [box("B")] * 6))
    assert some[0]["remarks"] == [] and whole[0]["remarks"] == ["8 rows, 14042 expected"]


def test_rescore_needs_something_to_score(tmp_path):
    with pytest.raises(ValueError, match="nothing to score again"):
        ev.run(args_of(tmp_path, "--rescore"))


def test_scores_are_written_for_people(lm, tmp_path):
    mmlu(tmp_path, 2)
    ev.run(args_of(tmp_path, "--only", "MMLU"), engine=Answers(lm, [box("b"), box("A")]))
    rows = [json.loads(x) for x in open(tmp_path / "out/scores/MMLU.jsonl")]
    assert [(r["score"], r["how"], r["answer"], r["gold"]) for r in rows] == [
        (1, "match", "B", "B"),
        (0, "mismatch", "A", "B"),
    ]


def test_a_text_model_skips_picture_benchmarks_in_one_line(lm, tmp_path):
    from dataclasses import replace

    from benchmark_fixtures import write

    write("AI2D", tmp_path / "data")
    mmlu(tmp_path, 2)
    text_only = replace(lm, image_processor=None)
    results, missing = ev.run(
        args_of(tmp_path, "--only", "AI2D", "MMLU"), engine=Answers(text_only, [box("B")] * 2)
    )
    assert (
        [r["name"] for r in results] == ["MMLU"]
        and missing[0].startswith("not evaluated: AI2D: ")
        and "reads text only" in missing[0]
        and "\n" not in missing[0]
    )


def test_unknown_names_and_flags_are_said():
    with pytest.raises(ValueError, match="no benchmark is called MMUL; there are AI2D"):
        find(["MMUL"])
    assert [b.name for b in find(["mathvista", "AIME25"])] == ["MVista", "AIME25"]
    assert len(find([], TINY)) == 3
    for bad in (
        ["m", "--limit", "-1"],
        ["m", "--source", "MMLU"],
        ["m", "--source", "X=a/b"],
        ["m", "--max-new", "0"],
    ):
        with pytest.raises(ValueError):
            ev.flags(bad)


# ---- numbers -------------------------------------------------------------------------------------


def test_wilson_by_hand():
    assert scores.wilson(5, 10) == pytest.approx([23.659, 76.341], abs=0.01)
    assert scores.wilson(0, 10) == pytest.approx([0, 27.753], abs=0.01) and scores.wilson(10, 10)[
        1
    ] == pytest.approx(100)


def test_equal_values_do_not_claim_certainty():
    assert scores.interval([0.0] * 10, list("aabbbccccc"), True) == (scores.wilson(0, 10), "Wilson")


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
