"""The replay buffer, through the calls that train.py makes: draw, refresh with means by question,
state and load as JSON.

python -m pytest tests/test_buffer.py
"""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer import Buffer


def refresh(buffer, groups, step):
    """Step 7 of train.py: rewards of the plain groups [(question id, [rewards])], a question that
    stands twice once.
    """
    rewards = {}
    for qid, rs in groups:
        rewards.setdefault(qid, []).extend(rs)
    return buffer.refresh({q: sum(r) / len(r) for q, r in rewards.items()}, step)


def ids(buffer):
    return list(buffer.entries)


def happened(admitted="", graduated="", evicted=""):
    """refresh's events of one-letter ids."""
    return {"admitted": [*admitted], "graduated": [*graduated], "evicted": [*evicted]}


def filled(capacity, letters):
    """A Buffer whose step 1 admitted these."""
    buffer = Buffer(capacity)
    refresh(buffer, [(q, [0, 0]) for q in letters], 1)
    return buffer


def test_admission_at_tau_by_hand():
    buffer = Buffer(10, tau=0.5)
    right = {"0": 0, "3": 3, "4": 4, "8": 8}  # of 8
    events = refresh(buffer, [(q, [1] * n + [0] * (8 - n)) for q, n in right.items()], 1)
    assert events == happened(admitted="03")  # 4 of 8 = tau is not hard
    kept = [(e.question_id, e.accuracy, e.step, e.visits) for e in buffer.entries.values()]
    assert kept == [("0", 0, 1, 0), ("3", 0.375, 1, 0)]
    assert buffer.occupancy() == {"0.000": 1, "0.375": 1}


def test_admission_and_graduation_are_different_visits():
    """One refresh never admits and graduates a question; the next one, at tau exactly, graduates
    it.
    """
    buffer, once = Buffer(10), {"0.000": 1}
    assert refresh(buffer, [("q", [0, 0])], 1) == happened(admitted="q")
    assert refresh(buffer, [("q", [1, 0])], 2) == happened(graduated="q")
    assert buffer.counts == {"admitted": once, "graduated": once, "evicted": {}}
    assert len(buffer) == 0
    assert buffer.outcomes_by_visits() == {"1": {"never": 0, "improved": 0, "graduated": 1}}
    assert refresh(buffer, [("q", [1, 1])], 3) == happened()
    assert refresh(buffer, [("q", [0, 0])], 4)["admitted"] == ["q"]  # it may come back


def test_twice_in_a_batch_is_one_visit():
    # new: 0/2, replayed: 2/2. Together 1/2 = tau: admitted by neither, and no admission followed by
    # graduation.
    buffer = Buffer(10)
    assert refresh(buffer, [("q", [0, 0]), ("q", [1, 1])], 1) == happened()
    refresh(buffer, [("q", [0, 0])], 2)
    refresh(buffer, [("q", [0, 0]), ("q", [1, 0])], 3)  # 1/4, once
    assert buffer.entries["q"].visits == 1 and buffer.entries["q"].best == 0.25


def test_failing_again_keeps_its_place_and_its_entry_accuracy():
    buffer = Buffer(2)
    refresh(buffer, [("a", [0, 0, 0, 1]), ("b", [0] * 4)], 1)
    refresh(buffer, [("a", [0] * 4)], 2)
    first = buffer.entries["a"]
    assert ids(buffer) == ["a", "b"] and (first.accuracy, first.step) == (0.25, 1)
    assert refresh(buffer, [("c", [0] * 4)], 3)["evicted"] == ["a"]  # admitted longest ago


def test_eviction_is_first_in_first_out_also_within_one_refresh():
    buffer = filled(3, "ab")
    events = refresh(buffer, [(q, [0, 0]) for q in "cdefg"], 2)
    assert events == happened(admitted="cdefg", evicted="abcd")
    assert ids(buffer) == list("efg")


def test_graduation_makes_room_before_anything_is_evicted():
    events = refresh(filled(2, "ab"), [("c", [0, 0]), ("b", [1, 1])], 2)
    assert events == happened(admitted="c", graduated="b")


def test_capacity_one():
    buffer = Buffer(1)
    assert refresh(buffer, [("a", [0, 0]), ("b", [0, 0])], 1)["evicted"] == ["a"]
    assert buffer.draw(3, random.Random(0)) == ["b"]
    assert refresh(buffer, [("b", [0, 0])], 2)["evicted"] == []


def test_empty_buffer():
    buffer = Buffer(4)
    assert buffer.draw(8, random.Random(0)) == [] and buffer.draw(0, random.Random(0)) == []
    assert refresh(buffer, [], 1) == happened()
    assert buffer.occupancy() == buffer.outcomes_by_visits() == {} and len(buffer) == 0
    other = Buffer(4)
    other.load(json.loads(json.dumps(buffer.state())))
    assert len(other) == 0 and other.state() == buffer.state()


@pytest.mark.parametrize("capacity, tau", [(0, 0.5), (-1, 0.5), (5, 0.0), (5, 1.1)])
def test_impossible_settings_are_errors(capacity, tau):
    with pytest.raises(ValueError, match="capacity"):
        Buffer(capacity, tau)


def test_draw_is_distinct_leaves_the_buffer_alone_and_repeats_with_its_rng():
    buffer = filled(50, range(50))
    before = json.dumps(buffer.state())
    drawn, again, other = (buffer.draw(20, random.Random(seed)) for seed in (7, 7, 8))
    assert len(set(drawn)) == 20 and drawn == again != other
    # more than there are: all, once
    assert sorted(buffer.draw(99, random.Random(7))) == sorted(ids(buffer))
    assert json.dumps(buffer.state()) == before


def test_draw_is_uniform():
    """Chi-square of 12,000 places over 20 entries: 19 degrees of freedom, 99.9 % below 43.8."""
    buffer, rng, seen = filled(100, range(20)), random.Random(0), Counter()
    for _ in range(3000):
        seen.update(buffer.draw(4, rng))
    expected = 12000 / 20
    assert sum((seen[i] - expected) ** 2 / expected for i in range(20)) < 43.8


rewards = st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4)
steps = st.lists(st.lists(st.tuples(st.integers(0, 9), rewards), max_size=8), max_size=12)


@given(steps, st.integers(1, 6))
def test_admitted_is_graduated_plus_evicted_plus_inside(batches, capacity):
    """Per entry accuracy, after each step; and the outcomes of Fig. 24 count each of them once."""
    buffer = Buffer(capacity)
    for step, groups in enumerate(batches, 1):
        was_inside = set(ids(buffer))
        events = refresh(buffer, [(str(q), rs) for q, rs in groups], step)
        assert not set(events["admitted"]) & set(events["graduated"])
        assert set(events["graduated"]) <= was_inside
        assert len(buffer) <= capacity
        inside = buffer.occupancy()
        for key in {k for table in buffer.counts.values() for k in table} | set(inside):
            admitted, graduated, evicted = (
                buffer.counts[e].get(key, 0) for e in ("admitted", "graduated", "evicted")
            )
            assert admitted == graduated + evicted + inside.get(key, 0)
        assert all(float(k) < buffer.tau for k in buffer.counts["admitted"])
        outcomes = buffer.outcomes_by_visits().values()
        total = {event: sum(table.values()) for event, table in buffer.counts.items()}
        assert sum(sum(row.values()) for row in outcomes) == total["admitted"]
        assert sum(row["graduated"] for row in outcomes) == total["graduated"]


def test_outcomes_by_hand():
    buffer = Buffer(10)
    refresh(buffer, [(q, [0, 0, 0, 1]) for q in "abc"], 1)
    again = {"a": [1, 1, 1, 0, 0, 0, 0, 0], "b": [0, 0, 0, 1], "c": [1, 1, 1, 1]}
    refresh(buffer, again.items(), 2)  # better, the same, solved
    assert buffer.outcomes_by_visits() == {"1": {"never": 1, "improved": 1, "graduated": 1}}
    refresh(buffer, [("a", [0] * 8)], 3)  # worse again: its best stays
    assert buffer.entries["a"].best == 0.375
    assert buffer.outcomes_by_visits()["2"] == {"never": 0, "improved": 1, "graduated": 0}


@given(steps, st.integers(0, 12), st.integers(1, 6))
def test_state_round_trip_has_the_same_future(batches, cut, capacity):
    """4 steps = 2 + kill + resume + 2: same draws, same events, same counts."""

    def play(buffer, rng, part, start):
        out = []
        for step, groups in enumerate(part, start):
            replayed = buffer.draw(2, rng)
            groups = [(str(q), rs) for q, rs in groups] + [(q, [0, 1, 1, 0]) for q in replayed]
            out.append((replayed, refresh(buffer, groups, step)))
        return out

    straight, rng = Buffer(capacity), random.Random(3)
    want = play(straight, rng, batches, 1)
    first, rng = Buffer(capacity), random.Random(3)
    got = play(first, rng, batches[:cut], 1)
    second = Buffer(capacity)
    second.load(json.loads(json.dumps(first.state())))
    got += play(second, rng, batches[cut:], 1 + len(batches[:cut]))
    assert got == want and second.state() == straight.state()
    assert second.outcomes_by_visits() == straight.outcomes_by_visits()


def test_load_into_a_smaller_buffer_evicts_at_the_next_refresh():
    big, small = filled(4, "abcd"), Buffer(2)
    small.load(json.loads(json.dumps(big.state())))
    assert small.refresh({}, 2) == happened(evicted="ab")
    assert ids(small) == ["c", "d"] and ids(big) == [*"abcd"]
