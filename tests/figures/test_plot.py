"""plot.py: the series behind the figures, worked by hand; and figures of short, holey and broken
runs.

python -m pytest tests/test_plot.py
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from figures import plot

NAN = float("nan")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """A quarter of the pixels a side: rendering is most of what these tests cost."""
    monkeypatch.setitem(plot.STYLE, "savefig.dpi", 50)


def groups(correct, samples, positive=0):
    return {
        "groups": samples // 8,
        "samples": samples,
        "correct": correct,
        "flat": 0,
        "truncated": 0,
        "tokens": 9,
        "positive": positive,
    }


def line(step, **kw):
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
        "fate": {"1": {"never": 1, "improved": 1, "graduated": 2}},
        "loss": 0.1,
        "grad_norm": 0.3,
        "entropy": 0.1,
        "tokens": {"generated": 7000, "trained": 1000, "teacher": 0},
        "seconds": {"rollout": 1.0, "update": 0.5, "total": 1.75},
        "peak_gb": None,
        **kw,
    }


def write(folder, lines, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def figure(make, folder, *more):
    with matplotlib.rc_context(plot.STYLE):
        runs = [plot.read(f) for f in (folder, *more)]
        return make(runs if make in (plot.accuracy, plot.graduations, plot.dynamics) else runs[0])


# ---- series ----


def test_running_pools_counts_over_the_window():
    top, bottom = np.array([1.0, 3, 0, 2]), np.array([2.0, 4, 0, 2])
    np.testing.assert_allclose(plot.running(top, bottom, 1), [0.5, 0.75, NAN, 1.0])
    np.testing.assert_allclose(
        plot.running(top, bottom, 2), [0.5, 4 / 6, 0.75, 1.0]
    )  # (1+3)/(2+4), (3+0)/(4+0), (0+2)/(0+2)
    np.testing.assert_allclose(plot.running(top, bottom, 99), [0.5, 4 / 6, 4 / 6, 6 / 8])


def test_running_skips_gaps():
    np.testing.assert_allclose(plot.running(np.array([2.0, NAN, 4]), np.ones(3), 2), [2, 2, 4])


def test_column_takes_null_missing_and_infinite_for_gaps():
    rows = [
        {"a": {"b": 1}},
        {"a": {"b": None}},
        {"a": None},
        {},
        {"a": {"b": float("inf")}},
        {"a": {"b": "2"}},
    ]
    np.testing.assert_equal(plot.column(rows, "a", "b"), [1.0] + [NAN] * 5)
    np.testing.assert_equal(plot.column(rows, "a", "b", absent=0.0), [1.0] + [0.0] * 5)


def test_graduation_curves_by_hand():
    tables = [
        ({}, {}),
        ({"0.000": 4}, {}),
        ({"0.000": 4, "0.125": 2}, {"0.000": 1}),
        ({"0.000": 8, "0.125": 2}, {"0.000": 3, "0.125": 2}),
    ]
    rows = [line(i, buffer={"admitted": a, "graduated": g}) for i, (a, g) in enumerate(tables, 1)]
    curves = plot.graduation_curves(rows)
    assert list(curves) == ["0 %", "12.5 %"]
    np.testing.assert_allclose(curves["0 %"][0], [NAN, 0, 25, 37.5])
    np.testing.assert_allclose(curves["12.5 %"][0], [NAN, NAN, 0, 100])
    assert [c[-1] for c in curves["0 %"][1:]] == [3, 8]


def test_graduations_do_not_fall_where_a_line_lacks_the_buffer():
    curves = plot.graduation_curves([line(1), line(2, buffer=None), line(3)])
    np.testing.assert_allclose(curves["0 %"][0], [25, 25, 25])


def test_entry_classes_of_other_group_sizes():
    rows = [line(1, buffer={"occupancy": {f"{k / 16:.3f}": 1 for k in range(8)}})]
    classes = plot.entry_classes(rows, most=4)
    assert [keys for _, keys in classes] == [
        ["0.000"],
        ["0.062", "0.125", "0.188"],
        ["0.250", "0.312"],
        ["0.375", "0.438"],
    ]
    assert [label for label, _ in classes] == [
        "0 %",
        "6.2 to 18.8 %",
        "25 to 31.2 %",
        "37.5 to 43.8 %",
    ]


def test_positive_share_counts_all_kinds():
    positive, samples = plot.positive_counts([line(1), line(2, groups={"new": groups(4, 8, 3)})])
    assert list(positive) == [3, 3] and list(samples) == [16, 8]


def test_phase_seconds_names_what_the_total_has_beyond_its_phases():
    seconds = plot.phase_seconds(
        [line(1), line(2, seconds={"rollout": 2.0, "checkpoint": 3.0, "total": 5.0})]
    )
    assert {k: list(v) for k, v in seconds.items()} == {
        "rollout": [1, 2],
        "update": [0.5, 0],
        "checkpoint": [0, 3],
        "other": [0.25, 0],
    }


def test_fate_is_the_last_one_and_long_waits_share_a_row():
    fate = {str(a): {"never": 1} for a in range(1, 13)} | {"3": {}}
    table = plot.fate_table([line(1), line(2, fate=fate), line(3, fate={})], most=10)
    assert (
        list(table) == ["1", "2", "4", "5", "6", "7", "8", "9", "10+"]
        and table["10+"]["never"] == 3
    )


def test_held_out_points(tmp_path):
    run = plot.read(
        write(
            tmp_path,
            [
                {"step": 0, "heldout": {"heldout": {"all": [1, 4], "sum3": [0, 1]}}},
                line(1, heldout={"heldout": {"all": [3, 4]}, "heldout_text": {"all": [0, 0]}}),
            ],
        )
    )
    assert plot.held_out_points(run, "heldout") == ([0, 1], [25.0, 75.0])
    assert plot.held_out_points(run, "heldout_text") == ([], [])
    assert [r["step"] for r in run.rows] == [1]  # step 0 is not a training step


# ---- figures ----


def test_accuracy_figure_shows_the_numbers(tmp_path):
    (ax,) = figure(
        plot.accuracy, write(tmp_path, [line(1), line(2, groups={"new": groups(6, 8)})])
    ).axes
    drawn = {text.get_label(): list(text.get_ydata()) for text in ax.lines}
    np.testing.assert_allclose(drawn["new prompts"], [50, 75])
    np.testing.assert_allclose(drawn["replayed prompts"], [12.5, NAN])
    assert set(drawn) == {
        "new prompts",
        "replayed prompts",
    }  # no line, no legend entry for BCQ and NCQ


def test_kinds_of_other_methods_are_drawn_and_absent_ones_are_not(tmp_path):
    hinted = {"new": groups(4, 8), "hint": groups(6, 8), "bcq": groups(0, 0)}
    (ax,) = figure(plot.accuracy, write(tmp_path, [line(1), line(2, groups=hinted)])).axes
    drawn = {text.get_label(): list(text.get_ydata()) for text in ax.lines}
    np.testing.assert_allclose(drawn["Hint"], [NAN, 75])
    assert set(drawn) == {
        "new prompts",
        "replayed prompts",
        "Hint",
    }  # lines of before this kind existed have none of it
    assert list(plot.positive_counts([line(1), line(2, groups=hinted)])[1]) == [16, 16]


@pytest.mark.parametrize(
    "methods, name",
    [
        (["zppo"], "policy loss"),
        (["on-distill"], "Jensen-Shannon divergence (nats per token)"),
        (["grpo", "off-distill"], "loss (policy; distillation: JSD in nats)"),
    ],
)
def test_the_loss_is_called_what_it_is(tmp_path, methods, name):
    folders = [write(tmp_path / m, [line(1)], {"method": m}) for m in methods]
    assert name in {
        ax.get_title() or ax.get_title("left") for ax in figure(plot.dynamics, *folders).axes
    }


def test_graduation_legend_has_the_final_counts(tmp_path):
    (ax,) = figure(plot.graduations, write(tmp_path, [line(1)])).axes
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "entry 0 %: 1 of 4 (25.0 %)",
        "entry 12.5 %: 0 of 1 (0.0 %)",
    ]


def test_composition_names_the_tau_of_the_run(tmp_path):
    (ax,) = figure(plot.composition, write(tmp_path, [line(1)], {"tau": 0.25})).axes
    assert ax.get_legend().get_texts()[0].get_text() == "easy (mean reward ≥ 0.25)"


@pytest.mark.parametrize("steps", [1, 2, 45])
def test_short_and_long_runs_draw(tmp_path, steps):
    written = plot.draw(
        write(tmp_path, [line(i) for i in range(1, steps + 1)], {"tau": 0.5, "n": 8})
    )
    names = ("accuracy", "buffer", "graduations", "composition", "dynamics", "cost", "fate")
    assert {p.name for p in written} == {f"{name}.png" for name in names}
    assert all(
        p.parent == tmp_path / "figures" and matplotlib.image.imread(p).shape[1] == 400
        for p in written
    )


def test_nulls_and_missing_keys_draw(tmp_path):
    bare = {"step": 1, "groups": {}}
    nulls = line(
        2,
        loss=None,
        entropy=None,
        grad_norm=NAN,
        buffer=None,
        fate=None,
        composition=None,
        seconds=None,
        tokens={"teacher": None},
    )
    assert "dynamics.png" in {p.name for p in plot.draw(write(tmp_path / "a", [bare, nulls]))}
    assert plot.draw(write(tmp_path / "b", [line(1), bare, nulls, line(3)]))
    held_out = {"step": 0, "heldout": {"heldout": {"all": [1, 2]}}}
    assert [p.name for p in plot.draw(write(tmp_path / "c", [held_out]))] == ["accuracy.png"]


def test_several_runs_are_overlaid_under_their_names(tmp_path):
    a, b = (
        write(tmp_path / "x" / "zppo", [line(1), line(2)]),
        write(tmp_path / "y" / "zppo", [line(1)]),
    )
    assert plot.labels([a, b, tmp_path / "grpo"]) == ["x/zppo", "y/zppo", "grpo"]
    written = plot.draw([a, b], tmp_path / "out")
    assert {p.name for p in written} == {
        "accuracy.png",
        "graduations.png",
        "dynamics.png",
    } and written[0].parent == tmp_path / "out"
    assert plot.draw([a, b])[0].parent == a / "figures" / "compare"
    (ax,) = figure(plot.graduations, a, b).axes
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "zppo: 1 of 4 (25.0 %)"
    ] * 2  # the lowest entry only


def test_after_a_resume_the_later_line_wins(tmp_path):
    run = plot.read(write(tmp_path, [line(1, loss=1.0), line(2, loss=2.0), line(2, loss=3.0)]))
    assert list(plot.column(run.rows, "loss")) == [1.0, 3.0]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "line 1: the file is empty"),
        ('{"step": 1}\n{"ste', "line 2: not JSON"),
        ("[]", "line 1: expected an object"),
        ('{"step": "1"}', 'whole-number "step"'),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, says):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl") as error:
        plot.draw(tmp_path)
    assert says in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no such file"):
        plot.draw(tmp_path)


def test_command_lines(tmp_path):
    def run(script, *args):
        return subprocess.run(
            [sys.executable, str(Path(plot.__file__).with_name(script)), *args],
            capture_output=True,
            text=True,
        )

    done = run("diagram.py", str(tmp_path / "assets" / "zppo.png"))
    assert done.returncode == 0 and (tmp_path / "assets" / "zppo.png").stat().st_size > 20_000, (
        done.stderr
    )
    assert "RUN" in run("plot.py").stderr and run("plot.py").returncode != 0
