"""Counts, the candidate-match audit, and logs that survive a kill.

python -m pytest tests/runtime/test_metrics.py
"""

import sys
from dataclasses import replace

import pytest
from PIL import Image

from data import Question
from records import Group, Prompt, Sample
from runtime.files import read_jsonl
from runtime.metrics import (
    Clock,
    Log,
    advantages_by_group,
    audit,
    by_kind,
    composition,
    count_groups,
    shown_questions,
)

QUESTION = Question("q", "2+3?", "5", source="sums")


def group(i, *rows, kind="plain", origin="new", **shown):
    """rows: (text, reward, response tokens, truncated)."""
    samples = tuple(
        Sample(Prompt((1, 2)), tuple(range(n)), (-1.0,) * n, text, cut, i, kind, "q", reward)
        for text, reward, n, cut in rows
    )
    return Group(i, kind, origin, QUESTION, samples, **shown)


def boxed(*answers, **how):
    """A group with a response of one token to each (answer, reward)."""
    return group(0, *[(f"\\boxed{{{a}}}", reward, 1, False) for a, reward in answers], **how)


GROUPS = [
    group(0, ("\\boxed{5}", 1, 3, False), ("\\boxed{6}", 0, 5, True)),
    group(1, ("\\boxed{6}", 0, 2, False), ("\\boxed{7}", 0, 4, False)),
    group(2, ("\\boxed{5}", 1, 1, False), ("\\boxed{5}", 1, 1, False), origin="replay"),
    group(3, ("\\boxed{5}", 1, 7, False), ("none", 0, 9, True), kind="bcq"),
    group(4, ("\\boxed{6}", 0, 2, False), ("\\boxed{5}", 1, 2, False), kind="ncq", origin="replay"),
]
GROUPS[3] = replace(
    GROUPS[3], correct_candidates=("2+3 \\boxed{5}",), wrong_candidates=("\\boxed{6}",)
)
GROUPS[4] = replace(GROUPS[4], listed_answers=("6", "7"))
ADV = [1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.5, -0.5, -2.0, 2.0]
COUNTS = "groups samples correct flat truncated tokens positive".split()


def counts(*numbers):
    return dict(zip(COUNTS, numbers, strict=True))


def test_by_kind_by_hand():
    got = by_kind(GROUPS, ADV)
    assert got["new"] == counts(2, 4, 1, 1, 1, 14, 1)
    assert got["replay"] == counts(1, 2, 2, 1, 0, 2, 0)
    assert got["bcq"] == counts(1, 2, 1, 0, 1, 16, 1)
    assert got["ncq"] == counts(1, 2, 1, 0, 0, 4, 1)


def test_hint_and_prefix_groups_are_kinds_of_their_own():
    rows = ("\\boxed{5}", 1, 3, False), ("\\boxed{6}", 0, 3, False)
    hint, prefix, another = (
        group(i, *rows, kind=kind, origin="replay")
        for i, kind in enumerate(("hint", "prefix", "prefix"))
    )
    got = by_kind([hint, prefix, another], [1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    assert list(got) == ["new", "replay", "bcq", "ncq", "hint", "prefix"]
    assert got["hint"] == counts(1, 2, 1, 0, 0, 6, 1)
    assert got["prefix"] == counts(2, 4, 2, 0, 0, 12, 0) and got["replay"]["groups"] == 0
    assert audit([hint, prefix]) == audit([])


def test_kinds_sum_to_the_whole():
    """Each group is in exactly one kind, a replayed question's NCQ among the NCQ ones."""
    parts = by_kind(GROUPS, ADV).values()
    whole = count_groups(GROUPS, advantages_by_group(GROUPS, ADV))
    assert {k: sum(p[k] for p in parts) for k in whole} == whole
    assert all(v == 0 for p in by_kind([], []).values() for v in p.values())


def test_composition_by_hand():
    # three plain groups, two of them hard, one of those solved by the teacher
    got = composition(GROUPS[:3], {0: ["an answer"], 1: []})
    assert got == {"groups": 3, "easy": 1, "asked": 2, "bcq": 1, "ncq": 2}
    got = composition(GROUPS[:3], {0: [], 1: None})  # it was asked about one, and did not solve it
    assert got == {"groups": 3, "easy": 1, "asked": 1, "bcq": 0, "ncq": 2}


def test_shown_questions():
    """Up to k, those that come back first; and one that was solved."""

    def asked(name, kind, *rewards):
        rows = [("x", reward, 1, False) for reward in rewards]
        return replace(group(0, *rows, kind=kind), question=replace(QUESTION, id=name))

    groups = [asked("a", "plain", 0, 1), asked("b", "plain", 0, 0), asked("c", "plain", 1, 1)]
    groups += [asked("d", "plain", 1, 1), asked("b", "bcq", 1, 0)]
    assert shown_questions(groups, 0) == set()
    assert shown_questions(groups, 1) == {"b", "c"}
    assert shown_questions(groups, 2) == {"b", "a", "c"}


# ---- audit (Tables 16, 17) -----------------------------------------------------------------------

BCQ = {"kind": "bcq", "correct_candidates": ("so \\boxed{1/2}",)}
BCQ |= {"wrong_candidates": ("so \\boxed{6}",)}


def matches(positive, negative, neither):
    return {"positive": positive, "negative": negative, "neither": neither}


def test_bcq_audit_by_hand():
    right = "\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{\\frac12}"
    wrong = "\\boxed{6}", "\\boxed{7}", "no box", "\\boxed{6} or \\boxed{7}"
    rows = [
        (text, reward, 1, False) for texts, reward in ((right, 1), (wrong, 0)) for text in texts
    ]
    want = {"right": matches(3, 0, 0), "wrong": matches(0, 1, 3)}
    got = audit([group(0, *rows, **BCQ)])
    assert got["bcq"] == want and got["ncq"] == {"repeats": 0, "answers": 0}
    assert got["format"] == {"prompts": 1, "leaks": 0}  # both candidates have a box


def test_bcq_audit_when_a_candidate_has_no_box():
    g = group(0, ("\\boxed{6}", 0, 1, False), ("hm", 0, 1, False), **BCQ)
    g = replace(g, correct_candidates=("\\boxed{5}",), wrong_candidates=("no box",))
    assert audit([g])["bcq"]["wrong"] == matches(0, 0, 2)  # no box equals no box? no


def test_ncq_audit_by_hand():
    texts = "\\boxed{6}", "\\boxed{6.0}", "\\boxed{5}", "no box", "\\boxed{8}"
    g = group(0, *[(t, 0, 1, False) for t in texts], kind="ncq", listed_answers=("6", "7"))
    assert audit([g])["ncq"] == {"repeats": 2, "answers": 4}
    assert audit([boxed((6, 0), kind="ncq")])["ncq"] == {"repeats": 0, "answers": 1}


def test_plain_groups_are_not_audited():
    assert audit(GROUPS[:3]) == audit([])


def test_audit_totals_are_the_samples():
    g = boxed(*[(k, int(k == 5)) for k in range(8)], **BCQ)
    got = audit([replace(g, correct_candidates=("\\boxed{5}",))])["bcq"]
    assert got == {"right": matches(1, 0, 0), "wrong": matches(0, 1, 6)}


# ---- logs ----------------------------------------------------------------------------------------


def test_cut_keeps_what_the_checkpoint_had(tmp_path, lm):
    file, log = tmp_path / "metrics.jsonl", Log(tmp_path, lm.tokenizer)
    for step in (0, 1, 2, 3):
        for n in (0, 1):
            log.metrics({"step": step, "n": n})
    lines = file.read_text().splitlines(keepends=True)
    for _ in range(2):
        Log(tmp_path, lm.tokenizer, step=2)
        assert file.read_text() == "".join(lines[:6])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


TEXTS = [
    "plain",
    "\u00e9\u4e2d\U0001f600",
    "one\u2028two\u2029three\x85four\x0bfive\x0c\x1c\r\n six",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_line_torn_at_any_byte_is_dropped_and_no_other(tmp_path, lm, text):
    """Responses hold any character: an accent cut in half, or one of Unicode's line ends, must not
    cost more than that line.
    """
    log, file = Log(tmp_path, lm.tokenizer), tmp_path / "metrics.jsonl"
    log.metrics({"step": 1, "text": text})
    whole = file.read_bytes()
    log.metrics({"step": 2, "text": text})
    both = file.read_bytes()
    rows = read_jsonl(file)
    assert [r["text"] for r in rows] == [text, text]
    for cut in range(len(whole), len(both) - 1):
        file.write_bytes(both[:cut])
        Log(tmp_path, lm.tokenizer, step=2)  # what a resumed run does
        assert read_jsonl(file) == rows[:1], cut
    file.write_bytes(both[:-1])  # whole but for its end
    Log(tmp_path, lm.tokenizer, step=2)
    assert read_jsonl(file) == rows


def test_log_appends_and_resumes(tmp_path, lm):
    log = Log(tmp_path, lm.tokenizer)
    for step in range(4):
        log.metrics({"step": step})
    log = Log(tmp_path, lm.tokenizer, step=1)
    again = {"step": 2, "again": True}
    log.metrics(again)
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 0}, {"step": 1}, again]
    # of the last finished step, which a full disk may have kept from being written
    for record, last in (({"step": 1}, again), (None, again), ({"step": 3}, {"step": 3})):
        log.restore(record)
        assert read_jsonl(tmp_path / "metrics.jsonl")[-1] == last


def test_samples_are_readable(tmp_path, lm, questions):
    """Only the shown questions; every response with its reward, advantage and answer; images as
    data.
    """
    q, wide = questions["image"][0], Image.new("L", (900, 300))
    ids = lm.tokenizer("Hi", add_special_tokens=False)["input_ids"]
    prompt = Prompt(tuple(ids), (wide,))
    right = Sample(prompt, (1, 2), (-1.0, -2.0), "so \\boxed{5}", False, reward=1.0)
    samples = right, Sample(prompt, (3,), (-1.0,), "hm", True)
    shown, hidden = (Group(i, "plain", "new", x, samples) for i, x in enumerate((q, QUESTION)))
    log = Log(tmp_path, lm.tokenizer)
    log.step({"step": 3}, [shown, hidden], [1.0, -1.0, 0.0, 0.0], 1)
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 3}]
    [r] = read_jsonl(tmp_path / "samples.jsonl")
    assert (r["step"], r["question_id"], r["prompt"], r["mean_reward"]) == (3, q.id, "Hi", 0.5)
    assert r["images"][0].startswith("data:image/png;base64,")
    assert wide.size == (900, 300)  # shrunk in a copy
    keys = "reward advantage answer truncated tokens".split()
    found = [tuple(response[k] for k in keys) for response in r["responses"]]
    assert found == [(1.0, 1.0, "5", False, 2), (0.0, -1.0, None, True, 1)]


def test_tensorboard_gets_all_numbers(tmp_path, lm):
    log, seen = Log(tmp_path, lm.tokenizer), []
    log.board = type("Board", (), {"add_scalar": lambda self, *args: seen.append(args)})()
    nested = {"a": {"b": {"c": 1.5, "d": 2}, "e": "text"}, "f": None, "g": True}
    log.metrics({"step": 3, **nested, "h": [1, 2], "i": {}})
    assert seen == [("step", 3, 3), ("a/b/c", 1.5, 3), ("a/b/d", 2, 3)]


@pytest.mark.parametrize(
    "module, flag", [("torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_is_a_clear_error(tmp_path, lm, monkeypatch, module, flag):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"pip install {flag}"):
        Log(tmp_path, lm.tokenizer, **{flag: True})


def test_a_phase_that_runs_twice_adds_up(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 10.0, 14.0, 20.0])  # made; in, out; in, out; total
    monkeypatch.setattr("runtime.metrics.time.perf_counter", lambda: next(ticks))
    phases = []
    clock = Clock(phases.append)
    for _ in range(2):
        with clock("rollout"):
            pass
    assert clock.total() == {"rollout": 6.0, "total": 20.0} and phases == ["rollout"] * 2
