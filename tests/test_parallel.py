"""Ranks: who is who; and that 1, 2 and 3 ranks, and 1, 2 and 6 micro-batches, make the same update.

python -m pytest tests/test_parallel.py
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loss
import train
from distributed import Roles, World, roles

ROOT = Path(__file__).parent.parent


# ---- roles ---------------------------------------------------------------------------------------


def environment(rank, world, local):
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % local),
        "LOCAL_WORLD_SIZE": str(local),
    }


def test_the_papers_node_is_six_and_two():
    found = [roles(environment(r, 16, 8), -1) for r in range(16)]
    assert [f.student for f in found] == ([True] * 6 + [False] * 2) * 2
    assert [f.rank for f in found if f.student] == list(range(12)) and [
        f.rank for f in found if not f.student
    ] == list(range(4))
    assert {(f.students, f.teachers, f.nodes) for f in found} == {(12, 4, 2)}
    assert [f.local_rank for f in found] == [*range(8)] * 2


@pytest.mark.parametrize(
    "local, teachers, want",
    [
        (1, -1, (1, 0)),
        (2, -1, (1, 1)),
        (3, -1, (2, 1)),
        (4, -1, (3, 1)),
        (8, -1, (6, 2)),
        (8, 0, (8, 0)),
        (8, 5, (3, 5)),
    ],
)
def test_the_split(local, teachers, want):
    who = roles(environment(0, local, local), teachers)
    assert (who.students, who.teachers) == want


def test_a_plain_process_is_a_world_of_one():
    assert roles({}, -1) == Roles()


@pytest.mark.parametrize("local, teachers", [(2, 2), (1, 1), (4, 9)])
def test_no_student_left(local, teachers):
    with pytest.raises(ValueError, match="no student rank"):
        roles(environment(0, local, local), teachers)


# ---- micro-batches -------------------------------------------------------------------------------


def test_micro_batches_fill_the_budget(engine, few, cfg, rollouts):
    c = cfg("--n", 3, "--max-response", 12)
    rows = [(s, 1.0) for g in rollouts(engine, few, [[1, 0, 0]] * len(few), c) for s in g.samples]
    long = max(len(s.prompt.ids) + len(s.response_ids) for s, _ in rows)
    for budget in (1, long, 2 * long, 5 * long, 10**6):
        batches = train.micro_batches(rows, budget)
        assert sorted(id(r) for b in batches for r in b) == sorted(map(id, rows))  # each row once
        for b in batches:
            longest = max(len(s.prompt.ids) + len(s.response_ids) for s, _ in b)
            assert len(b) == 1 or len(b) * longest <= budget
    assert len(train.micro_batches(rows, 10**6)) == 1 and len(train.micro_batches(rows, 1)) == len(
        rows
    )


@pytest.mark.parametrize("n, size", [(0, 2), (1, 2), (5, 2), (6, 3), (7, 3)])
def test_every_rank_runs_equally_many(n, size):
    batches = [[i] for i in range(n)]
    shares = [train.mine(batches, World(r, size)) for r in range(size)]
    assert len({len(s) for s in shares}) == 1
    assert sorted(b[0] for s in shares for b, counts in s if counts) == list(
        range(n)
    )  # each counts once


# ---- one rank = two ranks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(engine, few, rollouts, tmp_path_factory):
    """Samples of text, image and video questions with unequal lengths; two groups without spread."""
    from config import flags

    c = flags(["--n", "4", "--max-response", "24", "--device", "cpu"])
    rewards = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]]
    groups = rollouts(engine, few, rewards, c)
    groups = [
        replace(
            g,
            samples=tuple(
                replace(
                    s,
                    response_ids=s.response_ids[: 3 + 5 * ((i + j) % 4)],
                    sampler_logp=s.sampler_logp[: 3 + 5 * ((i + j) % 4)],
                )
                for j, s in enumerate(g.samples)
            ),
        )
        for i, g in enumerate(groups)
    ]
    adv = loss.advantages(
        [s.reward for g in groups for s in g.samples], [g.id for g in groups for _ in g.samples]
    ).tolist()
    assert len({len(s.response_ids) for g in groups for s in g.samples}) > 2
    return {
        "groups": groups,
        "adv": adv,
        "n": 4,
        "questions": few,
        "iterations": 2,
        "method": "grpo",
    }


def play(folder, given, ranks, *argv, **changes):
    name = f"{ranks}-{'-'.join(a.strip('-') for a in argv)}-{len(list(folder.iterdir()))}"
    torch.save({**given, **changes}, folder / f"in-{name}.pt")
    target = folder / f"out-{name}.pt"
    start = (
        [sys.executable]
        if ranks == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={ranks}",
        ]
    )
    done = subprocess.run(
        [*start, str(ROOT / "tests/ranks.py"), str(folder / f"in-{name}.pt"), str(target), *argv],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = torch.load(target, weights_only=False)
    assert out["ranks"] == ranks
    return out


def assert_same_update(a, b, tolerance=2e-5):
    assert a["rng"] == b["rng"] and len(a["grads"]) == len(b["grads"]) > 0
    for one, two in zip(a["grads"], b["grads"]):
        largest = max(float(g.abs().max()) for g in one.values())
        assert largest > 1e-4 and all(torch.isfinite(g).all() for g in two.values())
        for name in one:
            assert float((one[name] - two[name]).abs().max()) <= tolerance * largest, name
    for key, x in a["numbers"].items():
        assert b["numbers"][key] == pytest.approx(x, rel=1e-4, abs=1e-6), key
    assert a["weights"].keys() == b["weights"].keys()


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, play(folder, given, 1)


def test_micro_batches_do_not_change_the_update(alone, given):
    folder, one = alone
    longest = max(
        len(s.prompt.ids) + len(s.response_ids) for g in given["groups"] for s in g.samples
    )
    for budget in (3 * longest, longest):  # a few rows a micro-batch, and about one
        assert_same_update(one, play(folder, given, 1, "--micro-tokens", str(budget)))


def test_two_ranks_are_one(alone, given):
    """Unequal token counts, text and image rows on different ranks, a number of micro-batches that
    two does not divide.
    """
    folder, one = alone
    assert_same_update(one, play(folder, given, 2, "--micro-tokens", "250"))


@pytest.mark.slow
def test_three_ranks_with_checkpointing_are_one(alone, given):
    folder, one = alone
    assert_same_update(one, play(folder, given, 3, "--micro-tokens", "120", "--checkpointing"))


def test_nothing_to_learn_is_a_legal_step_on_two_ranks(alone, given):
    folder, _ = alone
    both = [
        play(folder, given, r, "--micro-tokens", "250", adv=[0.0] * len(given["adv"]))
        for r in (1, 2)
    ]
    for out in both:
        assert out["numbers"]["trained"] == 0 and out["numbers"]["entropy"] > 0
        assert all(float(g.abs().max()) == 0 for grads in out["grads"] for g in grads.values())
    assert both[0]["numbers"]["entropy"] == pytest.approx(both[1]["numbers"]["entropy"], rel=1e-5)


@pytest.mark.slow
def test_distillation_on_two_ranks_is_one(alone, given):
    folder, _ = alone
    one, two = (
        play(folder, given, r, "--micro-tokens", "250", method="on-distill", iterations=1)
        for r in (1, 2)
    )
    assert 0 < one["numbers"]["loss"] < 0.7 and one["numbers"]["trained"] > 100
    assert_same_update(one, two)
