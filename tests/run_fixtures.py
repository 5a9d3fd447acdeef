"""Run folders made up for the tests of figures and comparisons."""

import json


def groups(correct, samples, positive=0):
    return {"samples": samples, "correct": correct, "positive": positive}


def line(step, **kw):
    """A record of metrics.jsonl as train.py writes it, of round numbers."""
    none = groups(0, 0)
    return {
        "step": step,
        "groups": {"new": groups(4, 8, 2), "replay": groups(1, 8, 1), "bcq": none, "ncq": none},
        "composition": {"groups": 2, "easy": 1, "bcq": 1, "ncq": 1},
        "buffer": {
            "size": 3,
            "capacity": 10,
            "occupancy": {"0.000": 2, "0.125": 1},
            "admitted": {"0.000": 4, "0.125": 1},
            "graduated": {"0.000": 1},
            "evicted": {},
        },
        "outcomes_by_visits": {"1": {"never": 1, "improved": 1, "graduated": 2}},
        "loss": 0.1,
        "grad_norm": 0.3,
        "entropy": 0.1,
        "tokens": {"generated": 7000, "trained": 1000, "teacher": 0},
        "seconds": {"rollout": 1.0, "update": 0.5, "total": 1.75},
        "peak_gb": None,
        **kw,
    }


def write(folder, lines, config=None):
    """A run folder of these lines; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder
