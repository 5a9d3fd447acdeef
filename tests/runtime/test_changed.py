"""Which flags a run may go on with: each flag has its reason, and a refusal says how to insist.

python -m pytest tests/runtime/test_changed.py
"""

import json
import shutil
from dataclasses import fields

import pytest
from question_fixtures import write

import tiny
import train
from config import FREE, Config
from runtime.checkpoint import changed, comparable
from runtime.files import read_jsonl

# what must be the same, and what it would change
SAME = {
    "student": "who is trained",
    "teacher": "who teaches",
    "map": "what a row says",
    "heldout": "before and after would be of different questions",
    "seed": "order, samples, candidates",
    "method": "the method",
    "buffer": "the method",
    "bcq": "the method",
    "ncq": "the method",
    "compress": "what a candidate is",
    "fresh_teacher": "what the teacher is asked",
    "teacher_scope": "what the teacher is asked",
    "thinking": "every prompt",
    "norm": "the advantages",
    "grader": "the rewards",
    "tis": "the loss",
    "batch": "how many tokens an update sees",
    "iterations": "updates a step",
    "group_size": "the baseline",
    "teacher_n": "what the teacher is asked",
    "teacher_max": "what the teacher is asked",
    "temperature": "what is sampled, and the policy itself",
    "top_p": "what the teacher says",
    "max_pixels": "what the model sees",
    "max_response": "what is cut off, and so the reward",
    "max_summary": "what a candidate is",
    "replay": "what is replayed",
    "aug": "how much is reformulated",
    "tau": "what is hard",
    "capacity": "what leaves the buffer",
    "lr": "the update",
    "beta1": "the update",
    "beta2": "the update",
    "adam_eps": "the update",
    "weight_decay": "the update",
    "grad_clip": "the update",
    "clip_low": "the loss",
    "clip_high": "the loss",
    "dual_clip": "the loss",
    "dtype": "the numbers of the policy",
    "optim_dtype": "the update",
    "freeze_vision": "the update",
    "engine": "other responses to the same seeds",
    "mtp": "other responses to the same seeds",
    "flat_share": "draws from the run's own generator",
}
# what may change, and why it decides nothing
MAY = {
    "data": "its content is compared, wherever it lies",
    "skip_bad": "what is skipped keeps its place in the order",
    "out": "the run itself",
    "steps": "how long",
    "max_prompt": "upward: no question becomes unusable",
    "device": "where; what it changes is --dtype",
    "threads": "speed",
    "micro_tokens": "memory and speed",
    "checkpointing": "memory and speed",
    "vllm_memory": "memory",
    "max_num_seqs": "memory and speed",
    "max_context": "what is skipped",
    "teacher_memory": "memory",
    "teacher_ranks": "speed",
    "teacher_url": "a server that moved; not whether there is one",
    "timeout": "patience",
    "plan": "runs nothing",
    "resume": "the question itself",
    "force": "the answer to it",
    "save_every": "how often it is saved",
    "keep": "how often it is saved",
    "eval_every": "how it is watched",
    "show": "how it is watched",
    "teacher_cache": "what is not found there is drawn again, from the same seeds",
    "tensorboard": "how it is watched",
    "wandb": "how it is watched",
}
SMALL = "--student tiny --batch 1 --iterations 1 --n 2 --max-response 16 --show 0 --no-compress"


def test_each_flag_is_one_or_the_other():
    """A new flag needs its reason here; without `free` it is refused, the careful side."""
    names = {f.name for f in fields(Config)}
    assert set(MAY) == set(FREE)
    unknown = names - SAME.keys() - MAY.keys()
    assert not unknown, f"say whether a run may go on with another {unknown}"
    assert not SAME.keys() & MAY.keys()


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("lr", 0.1, 0.2, "--lr 0.1 -> 0.2"),
        ("group_size", 8, 4, "--n 8 -> 4"),
        ("max_prompt", 300, 299, "--max-prompt 300 -> 299"),
        ("max_prompt", 300, 301, None),
        ("teacher_url", "http://a", "http://b,http://c", None),
        ("teacher_url", "http://a", "", "--teacher-url http://a -> "),
        ("teacher_url", "", "http://a", "--teacher-url  -> http://a"),
        ("data_digest", "abc", "def", "the questions of --data abc -> def"),
        ("teacher_given", False, True, "a named --teacher False -> True"),
        ("threads", 1, 2, None),  # of a checkpoint that still compared it
    ],
)
def test_what_is_told(cfg, name, old, new, words):
    now = comparable(cfg())
    was = now | {name: old}
    if FREE.get(name) is not True:
        now = now | {name: new}
    assert changed(was, now) == ([words] if words else [])


def test_a_checkpoint_of_another_version_is_no_changed_run(cfg):
    """It has flags that are no more, and has not those that came later."""
    now = comparable(cfg())
    was = {k: v for k, v in now.items() if k not in ("tis", "aug")} | {"an_old_flag": 3}
    assert changed(was, now) == []


def test_a_run_goes_on_elsewhere(tmp_path, monkeypatch):
    """Its data moved, more room, other speed: no word. Other questions, or less room: refused, with
    the way to insist.
    """
    monkeypatch.setattr("runtime.console.draw", lambda out: [])
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)  # of this test process
    rows = [
        {"id": q.id, "question": q.question, "answer": q.answer}
        for q in tiny.questions("heldout_text")[:6]
    ]
    file, out = write(tmp_path, *rows), tmp_path / "run"
    train.main(f"{SMALL} --data {file} --steps 1 --out {out}".split())
    (tmp_path / "b").mkdir()
    moved = shutil.move(file, tmp_path / "b/q.jsonl")
    again = f"{SMALL} --resume --out {out} --steps 2"
    train.main(
        f"{again} --data {moved} --max-prompt 300 --micro-tokens 4096 --skip-bad --threads 2 "
        f"--teacher-cache {tmp_path / 'cache.jsonl'}".split()
    )
    assert [r["step"] for r in read_jsonl(out / "metrics.jsonl")] == [0, 1, 2]
    state = json.loads((out / "checkpoints/step-000002/state.json").read_text())
    assert state["config"]["max_prompt"] == 300
    for flags, words in (
        ("--max-prompt 200", "--max-prompt 300 -> 200"),
        ("--lr 1", "--lr 0.0002"),
    ):
        with pytest.raises(ValueError, match=words) as e:
            train.main(f"{again} --data {moved} --max-prompt 300 {flags}".split())
        assert "or --force" in str(e.value) and "\n" not in str(e.value)
    other = write(tmp_path, *rows[1:])
    with pytest.raises(ValueError, match="the questions of --data .*--force"):
        train.main(f"{again} --data {other} --max-prompt 300".split())
    train.main(f"{again} --steps 3 --data {other} --max-prompt 200 --force --lr 1e-5".split())
