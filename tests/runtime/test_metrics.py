"""Counts, the candidate-match audit, and logs that survive a kill.

python -m pytest tests/test_metrics.py
"""

import json

import pytest
from PIL import Image

from data import Question
from records import Group, Prompt, Sample
from runtime.metrics import Clock, Log, _cut, _flatten, audit, by_kind, composition, count_groups

QUESTION = Question("q", "2+3?", "5", source="sums")


def group(i, *rows, kind="plain", origin="new", **kwargs):
    """rows: (text, reward, response tokens, truncated)."""
    samples = tuple(
        Sample(Prompt((1, 2)), tuple(range(n)), (-1.0,) * n, text, cut, i, kind, "q", 1, reward)
        for text, reward, n, cut in rows
    )
    return Group(i, kind, origin, QUESTION, samples, **kwargs)


GROUPS = [
    group(0, ("\\boxed{5}", 1, 3, False), ("\\boxed{6}", 0, 5, True)),
    group(1, ("\\boxed{6}", 0, 2, False), ("\\boxed{7}", 0, 4, False)),
    group(2, ("\\boxed{5}", 1, 1, False), ("\\boxed{5}", 1, 1, False), origin="replay"),
    group(
        3,
        ("\\boxed{5}", 1, 7, False),
        ("none", 0, 9, True),
        kind="bcq",
        right=("2+3 \\boxed{5}",),
        wrong=("\\boxed{6}",),
    ),
    group(
        4,
        ("\\boxed{6}", 0, 2, False),
        ("\\boxed{5}", 1, 2, False),
        kind="ncq",
        origin="replay",
        listed=("6", "7"),
    ),
]
ADVANTAGE = {0: [1.0, -1.0], 1: [0.0, 0.0], 2: [0.0, 0.0], 3: [0.5, -0.5], 4: [-2.0, 2.0]}


def test_by_kind_by_hand():
    got = by_kind(GROUPS, ADVANTAGE)
    assert got["new"] == {
        "groups": 2,
        "samples": 4,
        "correct": 1,
        "flat": 1,
        "truncated": 1,
        "tokens": 14,
        "positive": 1,
    }
    assert got["replay"] == {
        "groups": 1,
        "samples": 2,
        "correct": 2,
        "flat": 1,
        "truncated": 0,
        "tokens": 2,
        "positive": 0,
    }
    assert got["bcq"] == {
        "groups": 1,
        "samples": 2,
        "correct": 1,
        "flat": 0,
        "truncated": 1,
        "tokens": 16,
        "positive": 1,
    }
    assert got["ncq"] == {
        "groups": 1,
        "samples": 2,
        "correct": 1,
        "flat": 0,
        "truncated": 0,
        "tokens": 4,
        "positive": 1,
    }


def test_hint_and_prefix_groups_are_kinds_of_their_own():
    hint, prefix = (
        group(
            i, ("\\boxed{5}", 1, 3, False), ("\\boxed{6}", 0, 3, False), kind=kind, origin="replay"
        )
        for i, kind in ((0, "hint"), (1, "prefix"))
    )
    got = by_kind([hint, prefix, prefix], {0: [1.0, -1.0], 1: [0.0, 0.0]})
    assert list(got) == ["new", "replay", "bcq", "ncq", "hint", "prefix"]
    assert got["hint"] == {
        "groups": 1,
        "samples": 2,
        "correct": 1,
        "flat": 0,
        "truncated": 0,
        "tokens": 6,
        "positive": 1,
    }
    assert (
        got["prefix"]["groups"] == 2
        and got["prefix"]["positive"] == 0
        and got["replay"]["groups"] == 0
    )
    assert audit([hint, prefix]) == audit([])


def test_kinds_sum_to_the_whole():
    """Each group is in exactly one kind, a replayed question's NCQ among the NCQ ones."""
    parts, whole = by_kind(GROUPS, ADVANTAGE).values(), count_groups(GROUPS, ADVANTAGE)
    assert {k: sum(p[k] for p in parts) for k in whole} == whole
    assert all(v == 0 for p in by_kind([], {}).values() for v in p.values())


def test_composition_by_hand():
    # three plain groups, two of them hard, one of those solved by the teacher
    assert composition(GROUPS[:3], {0: ["an answer"], 1: []}) == {
        "groups": 3,
        "easy": 1,
        "bcq": 1,
        "ncq": 2,
    }


# ---- audit (Tables 16, 17) -----------------------------------------------------------------------


def bcq(*rows):
    return group(
        0,
        *[(text, reward, 1, False) for text, reward in rows],
        kind="bcq",
        right=("so \\boxed{1/2}",),
        wrong=("so \\boxed{6}",),
    )


def test_bcq_audit_by_hand():
    got = audit(
        [
            bcq(
                ("\\boxed{1/2}", 1),
                ("\\boxed{0.5}", 1),
                ("\\boxed{\\frac12}", 1),
                ("\\boxed{6}", 0),
                ("\\boxed{7}", 0),
                ("no box", 0),
                ("\\boxed{6} or \\boxed{7}", 0),
            )
        ]
    )
    assert got == {
        "bcq": {
            "right": {"positive": 3, "negative": 0, "neither": 0},
            "wrong": {"positive": 0, "negative": 1, "neither": 3},
        },
        "ncq": {"repeats": 0, "answers": 0},
    }


def test_bcq_audit_when_a_candidate_has_no_box():
    g = group(
        0,
        ("\\boxed{6}", 0, 1, False),
        ("hm", 0, 1, False),
        kind="bcq",
        right=("\\boxed{5}",),
        wrong=("no box",),
    )
    assert audit([g])["bcq"]["wrong"] == {
        "positive": 0,
        "negative": 0,
        "neither": 2,
    }  # no box equals no box? no


def test_ncq_audit_by_hand():
    g = group(
        0,
        *[
            (t, 0, 1, False)
            for t in ("\\boxed{6}", "\\boxed{6.0}", "\\boxed{5}", "no box", "\\boxed{8}")
        ],
        kind="ncq",
        listed=("6", "7"),
    )
    assert audit([g])["ncq"] == {"repeats": 2, "answers": 4}
    g = group(0, ("\\boxed{6}", 0, 1, False), kind="ncq", listed=())
    assert audit([g])["ncq"] == {"repeats": 0, "answers": 1}


def test_plain_groups_are_not_audited():
    assert audit(GROUPS[:3]) == audit([])


def test_audit_totals_are_the_samples():
    rows = [(f"\\boxed{{{k}}}", k == 5, 1, False) for k in range(8)]
    got = audit([group(0, *rows, kind="bcq", right=("\\boxed{5}",), wrong=("\\boxed{6}",))])["bcq"]
    assert (
        sum(got["right"].values()) == 1
        and sum(got["wrong"].values()) == 7
        and got["right"]["positive"] == got["wrong"]["negative"] == 1
    )


# ---- logs ----------------------------------------------------------------------------------------


def records(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def test_cut_keeps_what_the_checkpoint_had(tmp_path):
    file = tmp_path / "m.jsonl"
    lines = [json.dumps({"step": s, "n": n}) + "\n" for s in (0, 1, 2, 3) for n in (0, 1)]
    file.write_text("".join(lines))
    _cut(file, 2)
    assert file.read_text() == "".join(lines[:6])
    _cut(file, 2)
    assert file.read_text() == "".join(lines[:6]) and [p.name for p in tmp_path.iterdir()] == [
        "m.jsonl"
    ]
    _cut(tmp_path / "not there.jsonl", 2)


@pytest.mark.parametrize(
    "text",
    ["plain", "\u00e9\u4e2d\U0001f600", "one\u2028two\u2029three\x85four\x0bfive\x0c\x1c\r\n six"],
)
def test_a_line_torn_at_any_byte_is_dropped_and_no_other(tmp_path, text):
    """Responses hold any character: an accent cut in half, or one of Unicode's line ends, must not
    cost more than that line.
    """
    log = Log(tmp_path)
    log.metrics({"step": 1, "text": text})
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    log.metrics({"step": 2, "text": text})
    both = file.read_bytes()
    _cut(file, 2)
    assert file.read_bytes() == both
    for cut in range(len(whole), len(both) - 1):
        file.write_bytes(both[:cut])
        Log(tmp_path, step=2)  # what a resumed run does
        assert records(file) == [{"step": 1, "text": text}], cut


def test_log_appends_and_resumes(tmp_path):
    log = Log(tmp_path)
    for step in range(4):
        log.metrics({"step": step})
    Log(tmp_path, step=1).metrics({"step": 2, "again": True})
    assert records(tmp_path / "metrics.jsonl") == [
        {"step": 0},
        {"step": 1},
        {"step": 2, "again": True},
    ]


def test_samples_are_readable(tmp_path, lm, questions):
    """Only the shown questions; every response with its reward, advantage and answer; images as
    data.
    """
    q = questions["image"][0]
    prompt = Prompt(
        tuple(lm.tokenizer("Hi", add_special_tokens=False)["input_ids"]),
        (Image.new("L", (900, 300)),),
    )
    samples = (
        Sample(prompt, (1, 2), (-1.0, -2.0), "so \\boxed{5}", False, reward=1.0),
        Sample(prompt, (3,), (-1.0,), "hm", True),
    )
    shown, hidden = (Group(i, "plain", "new", x, samples) for i, x in enumerate((q, QUESTION)))
    Log(tmp_path).samples(3, [shown, hidden], {0: [1.0, -1.0], 1: [0.0, 0.0]}, {q.id}, lm.tokenizer)
    [r] = records(tmp_path / "samples.jsonl")
    assert (r["step"], r["question_id"], r["prompt"], r["mean_reward"]) == (3, q.id, "Hi", 0.5)
    assert r["images"][0].startswith("data:image/png;base64,") and prompt.images[0].size == (
        900,
        300,
    )  # shrunk in a copy
    assert [
        (x["reward"], x["advantage"], x["answer"], x["truncated"], x["tokens"])
        for x in r["responses"]
    ] == [(1.0, 1.0, "5", False, 2), (0.0, -1.0, None, True, 1)]


def test_flatten():
    nested = {
        "step": 3,
        "a": {"b": {"c": 1.5, "d": 2}, "e": "text"},
        "f": None,
        "g": True,
        "h": [1, 2],
        "i": {},
    }
    assert dict(_flatten(nested)) == {"step": 3, "a/b/c": 1.5, "a/b/d": 2}


def test_a_phase_that_runs_twice_adds_up(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 10.0, 14.0, 20.0])  # made; in, out; in, out; total
    monkeypatch.setattr("metrics.time.perf_counter", lambda: next(ticks))
    clock = Clock()
    for _ in range(2):
        with clock("rollout"):
            pass
    assert clock.total() == {"rollout": 6.0, "total": 20.0}


def test_tensorboard_without_the_package_is_a_clear_error(tmp_path, monkeypatch):
    import sys

    for name, flag in (("torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=f"pip install {flag}"):
            Log(tmp_path, **{flag: True})
