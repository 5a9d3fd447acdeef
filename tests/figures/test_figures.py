"""The series behind the figures, worked by hand; figures of short, holey and broken runs, of arms.

python -m pytest tests/figures/test_figures.py
"""

from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from run_fixtures import groups, line, write

from figures import curves, plot, series
from figures.__main__ import main
from figures.diagram import diagram

NAN = float("nan")
EVERY = {make.__name__ for make in plot.FIGURES}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """A quarter of the pixels a side: rendering is most of what these tests cost."""
    monkeypatch.setitem(curves.STYLE, "savefig.dpi", 50)


def figure(make, *folders):
    table = series.read(folders)
    with matplotlib.rc_context(curves.STYLE):
        return make(table, curves.looks_of(table))


def drawn(ax):
    """{label: values} of the lines that have a legend entry."""
    lines = [x for x in ax.lines if not x.get_label().startswith("_")]
    return {x.get_label(): list(x.get_ydata()) for x in lines}


def legend_texts(holder):
    return [t.get_text() for t in holder.get_texts()]


def names(written):
    return {p.stem for p in written}


# ---- series ----


def a_run(*values, seed=0):
    index = pd.MultiIndex.from_tuples([("a", seed, i) for i in range(1, len(values) + 1)])
    return pd.Series(list(values), index.set_names(["arm", "seed", "step"]), dtype=float)


def test_ratio_pools_counts_over_the_window():
    top, bottom = a_run(1, 3, 0, 2), a_run(2, 4, 0, 2)
    np.testing.assert_allclose(series.ratio(top, bottom), [50, 75, NAN, 100])
    # (1+3)/(2+4), (3+0)/(4+0), (0+2)/(0+2)
    np.testing.assert_allclose(series.ratio(top, bottom, 2), [50, 400 / 6, 75, 100])
    np.testing.assert_allclose(series.ratio(top, bottom, 99), [50, 400 / 6, 400 / 6, 75])


def test_ratio_skips_gaps_and_does_not_run_into_the_next_run():
    np.testing.assert_allclose(series.ratio(a_run(2, NAN, 4), a_run(1, 1, 1), 2), [200, 200, 400])
    two = pd.concat([a_run(1, 1), a_run(0, 0, seed=1)])
    np.testing.assert_allclose(series.ratio(two, two * 0 + 1, 2), [100, 100, 0, 0])


def test_null_missing_and_infinite_numbers_are_gaps(tmp_path):
    values = [1, None, "x", float("inf")]
    rows = [line(i, loss=v) for i, v in enumerate(values, 1)] + [{"step": 5}]
    table = series.read([write(tmp_path, rows)])
    np.testing.assert_equal(series.column(table, "loss").to_numpy(), [1, NAN, NAN, NAN, NAN])
    assert series.column(table, "no/such").isna().all()


def test_graduations_by_hand(tmp_path):
    counts = [
        ({}, {}),
        ({"0.000": 4}, {}),
        ({"0.000": 4, "0.125": 2}, {"0.000": 1}),
        ({"0.000": 8, "0.125": 2}, {"0.000": 3, "0.125": 2}),
    ]
    rows = [line(i, buffer={"admitted": a, "graduated": g}) for i, (a, g) in enumerate(counts, 1)]
    rows.append(line(5, buffer=None))  # cumulative: it must not fall back to zero
    table = series.read([write(tmp_path, rows)])
    assert series.entry_classes(table) == {"0 %": ["0.000"], "12.5 %": ["0.125"]}
    np.testing.assert_allclose(series.graduated(table, ["0.000"]), [NAN, 0, 25, 37.5, 37.5])
    np.testing.assert_allclose(series.graduated(table, ["0.125"]), [NAN, NAN, 0, 100, 100])
    np.testing.assert_allclose(series.graduated(table), [NAN, 0, 100 / 6, 50, 50])


def test_entry_classes_of_other_group_sizes(tmp_path):
    occupancy = {f"{k / 16:.3f}": 1 for k in range(8)}
    table = series.read([write(tmp_path, [line(1, buffer={"occupancy": occupancy})])])
    assert series.entry_classes(table, most=4) == {
        "0 %": ["0.000"],
        "6.2 to 18.8 %": ["0.062", "0.125", "0.188"],
        "25 to 31.2 %": ["0.250", "0.312"],
        "37.5 to 43.8 %": ["0.375", "0.438"],
    }


def test_positive_advantages_are_counted_over_all_kinds(tmp_path):
    rows = [line(1), line(2, groups={"new": groups(4, 8, 3), "hint": groups(6, 8, 5)})]
    got = series.positive(series.read([write(tmp_path, rows)]))
    np.testing.assert_allclose(got, [100 * 3 / 16, 100 * 8 / 16])


def test_outcomes_are_the_last_ones_and_many_visits_share_a_row(tmp_path):
    last = {str(a): {"never": 1} for a in range(13)} | {"3": {}, "2": {"graduated": 4}}
    rows = [line(1), line(2, outcomes_by_visits=last), {"step": 3}]
    got = series.outcomes_by_visits(series.read([write(tmp_path, rows)]), most=10)
    assert list(got.index) == ["1", "2", "4", "5", "6", "7", "8", "9", "10+"]
    assert list(got["graduated"]) == [0, 4, *[0] * 7] and got.loc["10+", "never"] == 3


def test_held_out_points(tmp_path):
    before = {"step": 0, "heldout": {"heldout": {"all": [1, 4], "sum3": [0, 1]}}}
    after = {"heldout": {"all": [3, 4]}, "heldout_text": {"all": [0, 0]}}
    table = series.read([write(tmp_path, [before, line(1, heldout=after)])])
    assert list(series.held_out(table, "heldout")) == [25, 75]
    assert series.held_out(table, "heldout_text").isna().all()
    assert len(series.trained(table)) == 1  # step 0 is not a training step


def test_after_a_resume_the_later_line_wins(tmp_path):
    rows = [line(1, loss=1.0), line(3, loss=9.0), line(2, loss=2.0), line(3, loss=3.0)]
    table = series.read([write(tmp_path, rows)])
    assert list(series.column(table, "loss")) == [1, 2, 3]


def test_seeds_are_averaged_where_all_have_a_value(tmp_path):
    folders = [
        write(tmp_path / "a-seed0", [line(1, loss=1.0), line(2, loss=2.0), line(3, loss=9.0)]),
        write(tmp_path / "a-seed1", [line(1, loss=3.0), line(2, loss=6.0)]),
    ]
    loss = series.column(series.read(folders), "loss")
    got = series.over_seeds(loss.loc["a"])
    np.testing.assert_allclose(got, [[2, 1, 3], [4, 2, 6], [NAN, NAN, NAN]])


def test_runs_are_named_by_their_folders():
    folders = [Path(name) for name in ("x/a-seed0", "x/a-seed1", "y/z/a-seed0", "b-seed12", "c")]
    named = list(series.name_runs(folders).values())
    assert named == [("x/a", 0), ("x/a", 1), ("y/z/a", 0), ("b", 12), ("c", 0)]


def test_values_against_tokens_are_interpolated_to_what_all_runs_have(tmp_path):
    folders = [
        write(tmp_path / "a", [line(s, loss=10.0 * s) for s in (1, 2, 3)]),
        write(tmp_path / "b", [line(s, loss=1.0 * s) for s in (1, 2)]),
    ]
    table = series.read(folders)
    steps = pd.Series(table.index.get_level_values("step"), table.index, dtype=float)
    got = series.against(series.column(table, "loss"), 100 * steps, points=5)
    np.testing.assert_allclose(got.loc["a", 0], [NAN, NAN, 10, 15, 20])  # at 0, 50, ..., 200
    np.testing.assert_allclose(got.loc["b", 0], [NAN, NAN, 1, 1.5, 2])


# ---- figures of one run ----


def test_accuracy_shows_the_numbers(tmp_path):
    hinted = {"new": groups(6, 8), "hint": groups(6, 8), "bcq": groups(0, 0)}
    (ax,) = figure(plot.accuracy, write(tmp_path, [line(1), line(2, groups=hinted)])).axes
    lines = drawn(ax)
    assert set(lines) == {"new prompts", "replayed prompts", "Hint"}  # nothing for absent kinds
    np.testing.assert_allclose(lines["new prompts"], [50, 75])
    np.testing.assert_allclose(lines["replayed prompts"], [12.5, NAN])
    np.testing.assert_allclose(lines["Hint"], [NAN, 75])


def test_single_steps_are_thin_and_the_mean_is_thick(tmp_path):
    rows = [line(s, groups={"new": groups(8 * (s % 2), 8)}) for s in range(1, 31)]
    (ax,) = figure(plot.accuracy, write(tmp_path, rows)).axes
    thin, thick = sorted(ax.lines, key=lambda x: x.get_linewidth())
    assert set(thin.get_ydata()) == {0, 100}
    np.testing.assert_allclose(thick.get_ydata()[-2:], [200 / 3, 100 / 3])  # three steps of thirty


@pytest.mark.parametrize(
    "methods, name",
    [
        (["zppo"], "policy loss"),
        (["on-distill"], "Jensen-Shannon divergence (nats)"),
        (["grpo", "off-distill"], "policy loss; distillation: JSD in nats"),
    ],
)
def test_the_loss_is_called_what_it_is(tmp_path, methods, name):
    folders = [write(tmp_path / m, [line(1)], {"method": m}) for m in methods]
    assert figure(plot.dynamics, *folders).axes[0].get_title("left") == name


def test_legends_have_counts_and_tau(tmp_path):
    folder = write(tmp_path, [line(1)], {"tau": 0.25})
    (ax,) = figure(plot.graduations, folder).axes
    counts = ["entered at 0 %: 1 of 4 (25 %)", "entered at 12.5 %: 0 of 1 (0 %)"]
    assert legend_texts(ax.get_legend()) == counts
    (ax,) = figure(plot.composition, folder).axes
    assert legend_texts(ax.get_legend())[0] == "easy (mean reward ≥ 0.25)"


@pytest.mark.parametrize(
    "asked, label, share",
    [
        (2, "solved by the teacher, of those it was asked about", 50),
        (4, "BCQ-eligible", 10),
        (None, "BCQ-eligible", 10),  # a run of before
    ],
)
def test_what_the_teacher_solves_is_of_those_asked(tmp_path, asked, label, share):
    counts = {"groups": 10, "easy": 6, "bcq": 1, "ncq": 4} | ({"asked": asked} if asked else {})
    rows = [line(step, composition=counts) for step in (1, 2)]
    (ax,) = figure(plot.composition, write(tmp_path, rows)).axes
    labels = legend_texts(ax.get_legend())
    assert labels[1] == label
    assert [round(curve.get_ydata()[-1]) for curve in ax.lines][:3] == [60, share, 40]


def test_entry_classes_of_few_questions_are_left_out_beside_larger_ones(tmp_path):
    buffer = {"admitted": {"0.000": 40, "0.125": 9}, "graduated": {"0.125": 9}}
    (ax,) = figure(plot.graduations, write(tmp_path, [line(1, buffer=buffer)])).axes
    assert legend_texts(ax.get_legend()) == ["entered at 0 %: 0 of 40 (0 %)"]
    assert ax.figure.get_supxlabel() == "without classes of fewer than 10 questions"


def test_seconds_name_what_the_total_has_beyond_its_phases(tmp_path):
    rows = [line(1), line(2, seconds={"rollout": 2.0, "checkpoint": 3.0, "total": 5.0})]
    (ax,) = figure(plot.seconds, write(tmp_path, rows)).axes
    assert legend_texts(ax.get_legend()) == ["plain rollouts", "update", "checkpoint", "other"]
    tops = [list(patch.get_data().values) for patch in ax.patches]
    assert tops == [[1, 2], [1.5, 2], [1.5, 5], [1.75, 5]]


def test_one_long_step_does_not_flatten_the_others(tmp_path):
    rows = [line(s, seconds={"total": 500.0 if s == 2 else 1.0}) for s in range(1, 41)]
    (ax,) = figure(plot.seconds, write(tmp_path, rows)).axes
    assert ax.get_ylim()[1] < 2 and "step 2 reaches 500" in ax.texts[0].get_text()


@pytest.mark.parametrize("steps", [1, 45])
def test_short_and_long_runs_draw(tmp_path, steps):
    rows = [line(i) for i in range(1, steps + 1)]
    written = plot.draw(write(tmp_path, rows, {"tau": 0.5, "buffer": True}))
    assert names(written) == EVERY
    for path in written:
        assert path.parent == tmp_path / "figures" and matplotlib.image.imread(path).shape[1] == 400


def test_nulls_and_missing_keys_draw(tmp_path):
    bare, nothing = {"step": 1, "groups": {}}, dict.fromkeys(line(1), None)
    nulls = {**nothing, "step": 2, "tokens": {"teacher": None}, "grad_norm": NAN}
    plot.draw(write(tmp_path / "a", [bare, nulls]))
    assert names(plot.draw(write(tmp_path / "b", [line(1), bare, nulls, line(3)]))) == EVERY
    held_out = {"step": 0, "heldout": {"heldout": {"all": [1, 2]}}}
    assert names(plot.draw(write(tmp_path / "c", [held_out]))) == {"accuracy"}


def test_without_a_buffer_nothing_is_replayed(tmp_path):
    written = plot.draw(write(tmp_path, [line(1), line(2)], {"buffer": False}))
    assert names(written) == EVERY - {"buffer", "outcomes", "outcomes_by_visits"}


def test_a_torn_line_is_skipped_and_a_file_without_steps_is_named(tmp_path):
    folder = write(tmp_path, [line(1), line(2)])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "gro')
    assert len(series.read([folder])) == 2
    for text in ("", "[]", '{"step": "1"}\n', '{"ste'):
        (folder / "metrics.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.jsonl: no step"):
            plot.draw(folder)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no such file"):
        plot.draw(tmp_path / "nowhere")


# ---- figures of several runs ----


def test_several_arms_have_a_panel_a_curve_and_one_legend(tmp_path):
    runs = ("zppo-seed0", "zppo-seed1", "grpo")
    folders = [write(tmp_path / name, [line(1), line(2)]) for name in runs]
    fig = figure(plot.accuracy, *folders)
    assert [ax.get_title("left") for ax in fig.axes] == ["new prompts", "replayed prompts"]
    assert legend_texts(fig.legends[0]) == ["zppo", "grpo"]
    assert fig.legends[0].get_title().get_text() == "mean and range of 1 to 2 seeds"
    fig = figure(plot.graduations, *folders)  # the legend: the hardest entries, seeds together
    assert legend_texts(fig.legends[0]) == ["zppo: 2 of 8 (25 %)", "grpo: 1 of 4 (25 %)"]


def test_seeds_are_one_line_with_their_range(tmp_path):
    def run(seed, graduated):
        buffer = {"admitted": {"0.000": 10}, "graduated": {"0.000": graduated}}
        return write(tmp_path / f"a-seed{seed}", [line(1, buffer={}), line(2, buffer=buffer)])

    (ax,) = figure(plot.graduations, run(0, 2), run(1, 6)).axes
    (thick,) = ax.lines
    np.testing.assert_allclose(thick.get_ydata(), [NAN, 40])  # 20 % and 60 %
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).intervaly.tolist() == [20, 60]


def test_many_arms_differ_in_colour_or_dashes(tmp_path):
    folders = [write(tmp_path / f"{i}", [line(1)]) for i in range(11)]
    looks = curves.looks_of(series.read(folders))
    assert len(set(looks.values())) == 11
    fig = figure(plot.outcomes_by_visits, *folders)
    assert len([ax for ax in fig.axes if ax.get_visible()]) == 11


# ---- command lines ----


def test_command_line(tmp_path, capsys):
    a, b = (write(tmp_path / name, [line(1)]) for name in "ab")
    main([str(a), str(b)])
    said = capsys.readouterr().out.splitlines()
    assert [x.removeprefix(f"{a}/figures/compare/") for x in said] == [
        f"{make.__name__}.png" for make in plot.FIGURES
    ]
    main([str(a), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert str(a / "samples.html") in said and str(tmp_path / "out/tokens.png") in said
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no such file"):
        main([str(tmp_path / "nowhere")])


def test_the_diagram_is_drawn(tmp_path):
    assert diagram(tmp_path / "assets" / "zppo.png").stat().st_size > 20_000
