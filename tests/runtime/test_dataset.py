"""Held-out questions: judged where they are free-form, looked at before anything is sampled; and a
judge that is missing is missed at the start.

python -m pytest tests/runtime/test_dataset.py
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import scripted
from question_fixtures import write

import tiny
import train
from data import Question
from distributed import World
from engines.hf import HFEngine
from eval import evaluate, evaluate_on_all_ranks
from runtime import launch
from runtime.console import StopSignal

SMALL = "--student tiny --steps 1 --batch 1 --iterations 1 --n 2"


def test_heldout_free_form_answers_are_judged(make_job, fresh_lm, cfg, monkeypatch):
    """Before the run, within it and after it: what exact matching calls wrong, where the question
    is free-form.
    """
    monkeypatch.setattr(scripted.Scripted, "window", 4096)  # of the judge
    right = lambda name, kind, visit: 8
    world = scripted.World(make_job, fresh_lm, cfg, right, "--batch 4 --eval-every 1 --aug 0")
    job, answer = world.job, world.answer

    def reply(prompt, k):
        if "Gold answer" not in prompt:
            return answer(prompt, k)
        verdict = "correct" if "boxed{101}" in prompt else "wrong"
        return json.dumps({"verdict": verdict})

    job.teacher.engine.reply = reply
    ask = lambda name, gold, free: Question(f"h{name}", f"Item {name}?", gold, (), (), "s", free)
    job.heldout = {
        "heldout": [ask("q01", "a dog", True), ask("q02", "a cat", True), ask("q03", "x", False)],
        "other": [ask("q01", "a dog", False), ask("q04", "104", True), ask("q01", "a pup", True)],
    }
    want = {
        "heldout": [["hq01", "s", 1], ["hq02", "s", 0], ["hq03", "s", 0]],
        "other": [["hq01", "s", 0], ["hq04", "s", 1], ["hq01", "s", 1]],
    }
    with StopSignal(job) as stop:
        launch.measure_before(world.cfg, job, stop)
        assert job.state.heldout == want
        train.train(world.cfg, job, stop)
        assert job.state.heldout_now == want == launch.heldout_results(world.cfg, job, stop)
    sets = {split: {"all": [sum(r[2] for r in rows), 3]} for split, rows in want.items()}
    for record in world.records():
        assert {k: {"all": v["all"]} for k, v in record["heldout"].items()} == sets
    assert job.teacher.judged["asked"] == 0  # a verdict is kept
    exact = evaluate_on_all_ranks(
        job.engine, {"a": [replace(q, free_form=False) for q in job.heldout["other"]]},
        world.cfg, World(), teacher=None,
    )  # fmt: skip
    assert [r[2] for r in exact["a"]] == [0, 1, 0]


@pytest.mark.parametrize("flag", ["--data", "--heldout"])
@pytest.mark.parametrize(
    "method, give", [("grpo", "--teacher or --teacher-url"), ("on-distill", "--teacher-url")]
)
def test_a_missing_judge_is_told_before_any_work(tmp_path, flag, method, give):
    rows = [{"id": f"r{k}", "question": f"{k}?", "answer": str(k)} for k in range(3)]
    rows[1] |= {"free_form": True, "answer": "a barking animal"}
    file, out = write(tmp_path, *rows), tmp_path / "run"
    argv = f"{SMALL} --out {out} {flag} {file} --method {method}".split()
    with pytest.raises(ValueError) as e:
        train.main(argv)
    said = str(e.value)
    assert "\n" not in said and "question r1" in said and str(file) in said
    assert f"1 of the questions of {flag} are free-form" in said and f"give {give}" in said
    assert not out.exists()


@pytest.fixture
def pictures(tmp_path):
    """40 questions with a picture each, of which the 36th is cut in half."""
    rows = []
    for i, q in enumerate(tiny.questions("train")[:40]):
        q.images[0].save(tmp_path / f"{i}.png")
        rows.append(
            {"id": f"p{i}", "question": q.question, "answer": q.answer, "image": f"{i}.png"}
        )
    whole = (tmp_path / "35.png").read_bytes()
    (tmp_path / "35.png").write_bytes(whole[: len(whole) // 2])
    return write(tmp_path, *rows)


def test_a_heldout_picture_that_breaks_late_is_known_at_the_start(pictures, tmp_path, capsys):
    argv = f"{SMALL} --heldout {pictures} --method grpo --out"
    with pytest.raises(ValueError) as e:
        train.main([*argv.split(), str(tmp_path / "a")])
    said = str(e.value)
    assert all(word in said for word in ("line 36", "question p35", "35.png", "--skip-bad"))
    assert not (tmp_path / "a").exists()
    assert train.main([*argv.split(), str(tmp_path / "b"), "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "question p35" in said.err and "(1 so far)" in said.err
    record = json.loads((tmp_path / "b/metrics.jsonl").read_text().splitlines()[0])
    assert record["heldout"]["heldout"]["all"][1] == 39


def test_heldout_questions_none_of_which_can_be_used(tmp_path):
    file = write(tmp_path, {"id": "a", "question": "1?", "answer": "1", "image": "no.png"})
    argv = f"{SMALL} --heldout {file} --method grpo --skip-bad --out {tmp_path / 'run'}"
    with pytest.raises(ValueError, match="no.png"):
        train.main(argv.split())


def test_a_picture_that_breaks_while_it_is_measured_names_its_question(lm, pictures):
    q = tiny.questions("train")[0]
    broken = replace(q, id="p35", images=(str(Path(pictures).parent / "35.png"),))
    for name in ("p35", "another"):
        with pytest.raises(ValueError, match=f"question {name}: .*35.png") as e:
            evaluate(HFEngine(lm), [q, replace(broken, id=name)], 4)
        assert "\n" not in str(e.value)
