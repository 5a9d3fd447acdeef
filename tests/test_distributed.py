"""Ranks: who is who; their collectives; and that 1, 2 and 3 ranks, and 1, 2 and 6 micro-batches,
make the same update.

    python -m pytest tests/test_distributed.py
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ranks
import torch

from config import flags
from distributed import Roles, World, as_shared, roles
from engines.base import Stopped
from loss import advantages
from packing import micro_batches, shard_micro_batches

ROOT = Path(__file__).parent.parent


# ---- roles ---------------------------------------------------------------------------------------


def environment(rank, world, local):
    numbers = {"RANK": rank, "WORLD_SIZE": world}
    numbers |= {"LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
    return {name: str(n) for name, n in numbers.items()}


def test_the_papers_node_is_six_and_two():
    found = [roles(environment(r, 16, 8), -1) for r in range(16)]
    assert [f.student for f in found] == ([True] * 6 + [False] * 2) * 2
    assert [f.rank for f in found if f.student] == list(range(12))
    assert [f.rank for f in found if not f.student] == list(range(4))
    assert {(f.students, f.teachers, f.nodes) for f in found} == {(12, 4, 2)}
    assert [f.local_rank for f in found] == [*range(8)] * 2


SPLITS = [
    (1, -1, (1, 0)),
    (2, -1, (1, 1)),
    (3, -1, (2, 1)),
    (4, -1, (3, 1)),
    (8, -1, (6, 2)),
    (8, 0, (8, 0)),
    (8, 5, (3, 5)),
]


@pytest.mark.parametrize("local, teachers, want", SPLITS)
def test_the_split(local, teachers, want):
    who = roles(environment(0, local, local), teachers)
    assert (who.students, who.teachers) == want


def test_a_plain_process_is_a_world_of_one():
    assert roles({}, -1) == Roles()


@pytest.mark.parametrize("local, teachers", [(2, 2), (1, 1), (4, 9)])
def test_no_student_left(local, teachers):
    with pytest.raises(ValueError, match="no student rank"):
        roles(environment(0, local, local), teachers)


def test_nodes_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="12 processes are not 8 on every node"):
        roles(environment(0, 12, 8), -1)


# ---- a world of one ------------------------------------------------------------------------------


def test_a_world_of_one_does_the_work_itself():
    world = World()
    assert world.all_gather(lambda: 3) == [3]
    assert world.broadcast_from_rank0(lambda: 4) == world.on_rank0(lambda: 4) == 4
    assert world.all_reduce({"a": 2, "b": 5}, largest=("b",)) == {"a": 2, "b": 5}
    with pytest.raises(ZeroDivisionError):  # as it is, with its traceback
        world.all_gather(lambda: 1 / 0)


def test_errors_are_shared_as_kinds_that_every_rank_can_read():
    class Odd(ValueError):
        def __init__(self, a, b):
            super().__init__(f"{a} {b}")

    kinds = (Odd(1, 2), ValueError), (FileNotFoundError("x"), OSError), (Stopped(), Stopped)
    for error, kind in kinds:
        shared = as_shared(error)
        assert type(shared) is kind and shared.shared and str(shared) == str(error)


# ---- micro-batches -------------------------------------------------------------------------------


def tokens(sample):
    return len(sample.prompt.ids) + len(sample.response_ids)


def test_micro_batches_fill_the_budget(engine, few, cfg, rollouts):
    c = cfg("--n", 3, "--max-response", 12)
    rows = [(s, 1.0) for g in rollouts(engine, few, [[1, 0, 0]] * len(few), c) for s in g.samples]
    long = max(tokens(s) for s, _ in rows)
    for budget in (1, long, 2 * long, 5 * long, 10**6):
        batches = micro_batches(rows, budget)
        assert sorted(id(r) for b in batches for r in b) == sorted(map(id, rows))  # each row once
        for b in batches:
            assert len(b) == 1 or len(b) * max(tokens(s) for s, _ in b) <= budget
    assert len(micro_batches(rows, 10**6)) == 1
    assert len(micro_batches(rows, 1)) == len(rows)


@pytest.mark.parametrize("n, size", [(0, 2), (1, 2), (5, 2), (6, 3), (7, 3)])
def test_every_rank_runs_equally_many(engine, few, cfg, rollouts, n, size):
    c = cfg("--n", 2, "--max-response", 4)
    some = few[: (n + 1) // 2]
    rows = [(s, 1.0) for g in rollouts(engine, some, [[1, 0]] * len(some), c) for s in g.samples]
    rows = rows[:n]
    shares = [shard_micro_batches(rows, 1, World(r, size)) for r in range(size)]
    assert len({len(s) for s in shares}) == 1
    counted = [id(row) for s in shares for batch, weight in s if weight for row in batch]
    assert sorted(counted) == sorted(map(id, rows))  # each counts once


# ---- one rank = two ranks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(engine, few, rollouts):
    """Text, image and video samples of unequal lengths; two groups without spread."""
    c = flags("--n 4 --max-response 24 --device cpu".split())
    rewards = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]]

    def cut(s, k):
        n = 3 + 5 * (k % 4)
        return replace(s, response_ids=s.response_ids[:n], sampler_logp=s.sampler_logp[:n])

    groups = [
        replace(g, samples=tuple(cut(s, i + j) for j, s in enumerate(g.samples)))
        for i, g in enumerate(rollouts(engine, few, rewards, c))
    ]
    samples = [s for g in groups for s in g.samples]
    assert len({len(s.response_ids) for s in samples}) > 2
    adv = advantages([s.reward for s in samples], [s.group_id for s in samples]).tolist()
    return {"groups": groups, "adv": adv, "n": 4, "iterations": 2, "method": "grpo"}


def torchrun(n, *argv):
    """tests/ranks.py on n processes."""
    launch = f"-m torch.distributed.run --standalone --nproc_per_node={n}".split()
    command = [sys.executable, *launch, str(ROOT / "tests/ranks.py"), *argv]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def play(folder, given, n, *argv, **changes):
    """What rank 0 of n writes down of an update; a single one runs in this process."""
    name = len(list(folder.iterdir()))
    source, target = folder / f"{name}-in.pt", folder / f"{name}-out.pt"
    torch.save({**given, **changes}, source)
    argv = [str(x) for x in (source, target, *argv)]
    if n == 1:
        ranks.main(*argv)
    else:
        done = torchrun(n, *argv)
        assert done.returncode == 0, done.stderr[-3000:]
    out = torch.load(target, weights_only=False)
    assert out["ranks"] == n
    return out


def assert_same_update(a, b, tolerance=2e-5):
    assert a["rng"] == b["rng"] and len(a["grads"]) == len(b["grads"]) > 0
    for one, two in zip(a["grads"], b["grads"]):
        largest = max(float(g.abs().max()) for g in one.values())
        assert largest > 1e-4 and all(torch.isfinite(g).all() for g in two.values())
        for name in one:
            assert float((one[name] - two[name]).abs().max()) <= tolerance * largest, name
    for key, x in a["numbers"].items():
        # the gap to the sampler is float noise itself
        noise = 2e-5 if key.startswith("gap") else 1e-6
        assert b["numbers"][key] == pytest.approx(x, rel=1e-4, abs=noise), key
    assert a["weights"].keys() == b["weights"].keys()


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory):
    """The update of full rows, which all others are compared with."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, play(folder, given, 1, rows=True)


def test_shared_prompts_and_micro_batches_do_not_change_the_update(alone, given):
    folder, one = alone
    assert_same_update(one, play(folder, given, 1))
    longest = max(tokens(s) for g in given["groups"] for s in g.samples)
    for budget in (3 * longest, longest):  # a few rows a micro-batch, and about one
        assert_same_update(one, play(folder, given, 1, "--micro-tokens", budget))


def test_two_ranks_are_one(alone, given):
    """Shared prompts on two ranks, full rows on one. Unequal token counts, text and image rows on
    different ranks.
    """
    folder, one = alone
    assert_same_update(one, play(folder, given, 2, "--micro-tokens", 250))


@pytest.mark.slow
def test_three_ranks_with_checkpointing_are_one(alone, given):
    folder, one = alone
    assert_same_update(one, play(folder, given, 3, "--micro-tokens", 120, "--checkpointing"))


@pytest.mark.slow
def test_nothing_to_learn_is_a_legal_step_on_two_ranks(alone, given):
    settings = {"adv": [0.0] * len(given["adv"])}
    both = [play(alone[0], given, r, "--micro-tokens", 250, **settings) for r in (1, 2)]
    for out in both:
        assert out["numbers"]["trained"] == 0 and out["numbers"]["entropy"] > 0
        assert all(float(g.abs().max()) == 0 for grads in out["grads"] for g in grads.values())
    one, two = (out["numbers"]["entropy"] for out in both)
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
def test_distillation_on_two_ranks_is_one(alone, given):
    settings = {"method": "on-distill", "iterations": 1}
    one, two = (play(alone[0], given, r, "--micro-tokens", 250, **settings) for r in (1, 2))
    assert 0 < one["numbers"]["loss"] < 0.7 and one["numbers"]["trained"] > 100
    assert_same_update(one, two)


# ---- what hangs ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rank_that_hangs_is_told_with_its_stack(tmp_path):
    """The waiting rank says phase and collective; the one that hangs prints its stack, and ends."""
    begin = time.monotonic()
    done = torchrun(2, "hang")
    assert done.returncode != 0 and time.monotonic() - begin < 60
    assert "rank 0 of 2, phase 'rollout', gathering from all ranks" in done.stderr
    assert "more than 5 s late" in done.stderr
    assert "Timeout (0:00:08)!" in done.stderr and "stuck_on_purpose" in done.stderr


def test_a_heartbeat_winds_the_watchdog_up(monkeypatch):
    """Not more than once a second; a world of one has none."""
    wound, now = [], [10.0]
    monkeypatch.setattr("distributed.time.monotonic", lambda: now[0])
    later = lambda seconds, exit: wound.append((seconds, exit))
    monkeypatch.setattr("distributed.faulthandler.dump_traceback_later", later)
    world = World(0, 2, timeout=30)
    for now[0] in (10.0, 10.5, 11.5):
        world.heartbeat("update")
    World().heartbeat("update")
    assert wound == [(90, True)] * 2 and world.phase == "update"
