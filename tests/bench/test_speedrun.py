"""The speedrun: what it counts, by hand; and one real run.

python -m pytest tests/bench/test_speedrun.py
"""

import pytest

from bench import speedrun


def line(step, core_seconds, right=None):
    heldout = {} if right is None else {"heldout": {"heldout": {"all": [right, 300]}}}
    return {"step": step, "core_seconds": core_seconds} | heldout


def test_the_first_evaluation_at_the_target_counts_with_all_steps_before_it():
    start = {"step": 0, "heldout": {"heldout": {"all": [160, 300]}}}  # has no seconds of a step
    lines = [start, line(1, 2.5), line(2, 2.0, 194), line(3, 3.0, 195), line(4, 9.0, 300)]
    assert speedrun.reached(lines, 65) == ((3, 7.5), 65.0)  # 194 of 300 are 64.7 %
    found, best = speedrun.reached(lines[:3], 65)
    assert found is None and best == pytest.approx(64.667, abs=1e-3)
    assert speedrun.reached([], 65) == (None, 0.0)


@pytest.mark.slow
def test_a_run_is_stopped_once_it_is_there(capfd):
    """The shipped student has 53.3 % before any training: there at step 0, after no seconds."""
    assert speedrun.main(["--seeds", "0", "--target", "50"]) == 0
    out = capfd.readouterr().out
    assert "| 0 | 0 | 0.0 | 53.3 |" in out and "median 0.0 core-seconds to 50 %" in out


@pytest.mark.slow
def test_a_run_that_fails_says_why():
    with pytest.raises(ValueError, match="seed 0 failed: error: --lr must be from"):
        speedrun.main(["--seeds", "0", "--", "--lr", "-1"])


@pytest.mark.slow
def test_a_run_that_ends_below_the_target_has_no_time(capfd):
    assert speedrun.main(["--seeds", "0", "--target", "99", "--", "--steps", "1"]) == 1
    assert "| 0 | - | inf | 5" in capfd.readouterr().out
