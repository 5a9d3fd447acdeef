"""The evaluation: resume, settings, unscored rows, missing files, what is said.

python -m pytest tests/evaluation/test_suite.py
"""

import json
import random

import pytest
from benchmark_fixtures import CASES, box, save, write
from benchmark_tools import Answers, Yes
from PIL import Image

import evaluation.suite as ev
from evaluation.benchmarks import TINY, find


def args_of(tmp_path, *flags):
    """The arguments of an evaluation whose data and results are below tmp_path."""
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    return ev.flags(["model", *where, *map(str, flags)])


def mmlu(tmp_path, n=30, last=""):
    """n rows of MMLU; last: added to the last question."""
    rows = [
        {"question": f"q{k}?", "subject": f"s{k % 3}", "choices": ["w", "x", "y", "z"], "answer": 1}
        for k in range(n)
    ]
    rows[-1]["question"] += last
    save(tmp_path / "data", "cais/mmlu", "all", "test", rows)


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
    mmlu(tmp_path, 3, last="!")
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


# ---- a student behind a server -------------------------------------------------------------------


def test_multichallenge_over_a_server(lm, tmp_path):
    """The way of the GPUs: the conversation goes as messages, and the answers are those of the
    engine in this process.
    """
    from chat_server import ChatServer

    from engines.client import ClientEngine
    from engines.hf import HFEngine

    rows = CASES["MultiCh"]["parts"]["default", "test"]
    save(tmp_path / "data", "ScaleAI/MultiChallenge", "default", "test", rows)
    flags = ("--only", "MultiCh", "--max-new", 6)
    with ChatServer(HFEngine(lm)) as server:
        engine = ClientEngine(server.url, lm=lm)
        ev.run(args_of(tmp_path, *flags, "--out", tmp_path / "there"), engine=engine)
        engine.close()
    ev.run(args_of(tmp_path, *flags, "--out", tmp_path / "here"), engine=HFEngine(lm))
    said = [(tmp_path / f / "responses/MultiCh.jsonl").read_text() for f in ("there", "here")]
    assert said[0] == said[1] and '"tokens": 0' not in said[0]
    sent = [m["role"] for m in server.seen[0]["messages"]]
    assert sent == ["user", "assistant", "user"]
