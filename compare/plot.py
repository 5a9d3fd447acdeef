"""Figures of a comparison, drawn by compare.py; the numbers are compare_table.py's.

| figure | shows | paper |
| --- | --- | --- |
| accuracy.png, differences.png | held-out accuracy, and its paired difference to GRPO†, with 95 % intervals | Tables 1-4 |
| graduations.png, graduations_by_entry.png | graduated / admitted over steps: of those at 0 %, of every class | Fig. 4 |
| fate.png, attempts.png | what became of the admitted questions; and by number of attempts | Figs. 23, 24 |
| composition.png | easy and BCQ-eligible questions in a batch, questions in the buffer | Figs. 5a, 20 |
| dynamics.png | loss, accuracies, positive advantages, entropy | Figs. 22, 25 |
| recipe.png | updates per step, normalization | Fig. 6 |
| cost.png | tokens and minutes | Table 9 |
| equal_tokens.png | graduations against sampled tokens (--equal-tokens) | - |

An arm has one colour in all of them. Thick lines are means over seeds, thin ones single seeds
(where few arms share the axes). A figure without data is not written. The recipe's arms have their
own figure and stay out of the others, unless they are alone.
"""

import math
from pathlib import Path

import matplotlib
import matplotlib.lines
import matplotlib.ticker
import numpy as np

from compare.study import table as numbers
from compare.table import SPLITS, interval, values
from figures import plot

LOOKS = {
    "zppo": ("#009E73", "-"),
    "grpo+buffer": ("#000000", "-"),
    "grpo": ("#8C8C8C", "-"),
    "bcq+ncq": ("#009E73", (0, (4, 2))),
    "grpo+buffer+bcq": ("#0072B2", "-"),
    "grpo+buffer+ncq": ("#D55E00", "-"),
    "off-distill": ("#CC79A7", (0, (1, 1.2))),
    "off-distill+buffer": ("#CC79A7", "-"),
    "on-distill": ("#7B4FA3", (0, (1, 1.2))),
    "on-distill+buffer": ("#7B4FA3", "-"),
    "hint": ("#E69F00", "-"),
    "prefix": ("#56B4E9", "-"),
    "i1": ("#56B4E9", "-"),
    "i8": ("#0072B2", "-"),
    "i16": ("#CC79A7", "-"),
    "norm-all": ("#D55E00", (0, (4, 2))),
    "norm-none": ("#E69F00", (0, (4, 2))),
}
RECIPE = {
    "updates per rollout step, I": [("i1", "1"), ("zppo", "4"), ("i8", "8"), ("i16", "16")],
    "normalization": [("norm-none", "none"), ("zppo", "without\nzero"), ("norm-all", "with\nzero")],
}
FEW = 4  # arms whose single seeds can be told apart in one panel


def legend(fig, arms, labels=None):
    """One legend below all panels."""
    lines = [
        matplotlib.lines.Line2D([], [], color=LOOKS[a.name][0], ls=LOOKS[a.name][1], lw=2.2)
        for a in arms
    ]
    fig.legend(
        lines,
        labels or [a.label for a in arms],
        loc="outside lower left",
        ncols=2 if labels else 4,
        handlelength=2.2,
        columnspacing=1.4,
    )


def curves(ax, arms, series, across=lambda run: plot.column(run.rows, "step"), few=FEW):
    """series(run) -> values, against across(run): the mean over seeds thick, single seeds thin.
    Nothing where no run has any.

    Seeds are brought to common places by interpolation (exact for steps) and averaged where all of
    them have a value.
    """
    for a in arms:
        colour, style = LOOKS[a.name]
        pairs = [(across(r), series(r)) for r in a.runs.values() if r.rows]
        pairs = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in pairs if np.isfinite(y).any()]
        if not pairs:
            continue
        low, high = max(x[0] for x, _ in pairs), min(x[-1] for x, _ in pairs)
        grid = np.unique(np.concatenate([x for x, _ in pairs]))
        grid = grid[(grid >= low) & (grid <= high)]
        if len(pairs) > 1 and len(arms) <= few:
            for x, y in pairs:
                ax.plot(x, y, color=colour, ls=style, lw=0.8, alpha=0.45)
        mean = np.mean([np.interp(grid, x, y) for x, y in pairs], axis=0) if len(grid) else grid
        ax.plot(
            grid,
            mean,
            color=colour,
            ls=style,
            lw=2.2,
            marker="o" if len(grid) == 1 else None,
            ms=5,
            zorder=3 if a.name == "zppo" else 2.5,
        )


def smooth(run, top, bottom, scale=100.0):
    return scale * plot.running(top, bottom, plot.smoothing(run.rows))


def mean_of(run, *keys):
    v = plot.column(run.rows, *keys)
    return smooth(run, v, np.ones(len(v)), 1.0)


def dots(ax, arms, of, before=math.nan):
    """A row an arm: mean and 95 % interval, single seeds as small circles. of(arm) -> values by
    seed.
    """
    for y, a in enumerate(reversed(arms)):
        v = [x for x in of(a) if math.isfinite(x)]
        if v:
            mean, half = interval(v)
            colour = LOOKS[a.name][0]
            ax.plot(
                v,
                np.full(len(v), y + 0.22),
                ls="",
                marker="o",
                ms=3.5,
                mfc="white",
                mec=colour,
                mew=0.9,
                clip_on=False,
            )
            ax.errorbar(
                mean,
                y - 0.08,
                xerr=np.nan_to_num(half),
                color=colour,
                marker="o",
                ms=6.5,
                lw=2,
                capsize=3,
            )
    if math.isfinite(before):
        ax.axvline(before, color="black", lw=1, ls="--")
    ax.set(
        ylim=(-0.6, len(arms) - 0.4),
        yticks=range(len(arms)),
        yticklabels=[a.label for a in reversed(arms)],
    )
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=5))
    ax.grid(axis="y", visible=False)


def seeds_note(arms):
    counts = sorted({len(a.runs) for a in arms})
    return f"{' to '.join(map(str, sorted({counts[0], counts[-1]})))} seed{'s' * (counts[-1] > 1)}"


# ---- figures: arms -> Figure or None -------------------------------------------------------------


def accuracy(arms):
    fig, axes = plot.new_figure(
        f"Held-out accuracy: mean and 95 % interval over {seeds_note(arms)}",
        1,
        3,
        height=1.5 + 0.42 * len(arms),
        sharex=True,
        sharey=True,
    )
    for ax, (split, name) in zip(axes, SPLITS.items()):
        of = {a.name: list(values(a, split).values()) for a in arms}
        before = [numbers.held_out(numbers.cut(r, 0), split) for a in arms for r in a.runs.values()]
        dots(ax, arms, lambda a, of=of: of[a.name], interval(before)[0])
        ax.set(title=name, xlabel="right answers (%)")
    if not any(math.isfinite(x) for a in arms for s in SPLITS for x in values(a, s).values()):
        return None
    fig.text(
        0.995,
        0.005,
        "circles: single seeds; dashed: before any RL",
        ha="right",
        va="bottom",
        fontsize=9,
        color="#555555",
    )
    fig.get_layout_engine().set(rect=(0, 0.06 if len(arms) < 6 else 0.035, 1, 0.95))
    return fig


def differences(arms):
    base = numbers.find(arms)
    others = [a for a in arms if numbers.differences(a, base, "steps")]
    if not others:
        return None
    fig, axes = plot.new_figure(
        "Difference to GRPO†, paired by seed: mean and 95 % interval (circles: single seeds)",
        1,
        4,
        height=1.6 + 0.42 * len(others),
        sharey=True,
    )
    for ax, (quantity, name) in zip(
        axes, {**SPLITS, "graduated_at_0": "graduated of\nthose at 0 %"}.items()
    ):
        dots(ax, others, lambda a, q=quantity: numbers.differences(a, base, q))
        ax.axvline(0, color="black", lw=1)
        ax.set(title=name, xlabel="points")
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=4))
    return fig


def percent_graduated(keys):
    """run -> graduated / admitted over steps, in percent; cumulative counters, so a line without
    them keeps the last ones.
    """

    def series(run):
        g, a = (
            np.maximum.accumulate(plot.buffer_table(run.rows, t, keys))
            for t in ("graduated", "admitted")
        )
        return plot.running(100 * g, a, 1)

    return series


def graduation_labels(arms):
    out = []
    for a in arms:
        g, n = (
            sum(numbers.buffer_count(r, event, ["0.000"]) for r in a.runs.values())
            for event in ("graduated", "admitted")
        )
        out.append(f"{a.label}: {numbers.percent(g, n):.0f} % ({g} of {n})" if n else a.label)
    return out


def by_end(arms):
    """The arms, the one that graduates most first: the order of the curves at their end."""
    return sorted(
        arms, key=lambda a: -np.nan_to_num(interval(values(a, "graduated_at_0").values())[0])
    )


def graduations(arms):
    arms = by_end(arms)
    fig, (ax,) = plot.new_figure(
        f"Graduated of the questions that no sample solved on entry (mean of {seeds_note(arms)})",
        height=4.2 + 0.24 * ((len(arms) + 1) // 2),
    )
    curves(ax, arms, percent_graduated(["0.000"]))
    if not ax.lines:
        return None
    plot.step_axis(ax)
    ax.set(ylabel="graduated / admitted at 0 %,\ncumulative (%)")
    ax.set_ylim(bottom=0)
    legend(fig, arms, graduation_labels(arms))
    return fig


def graduations_by_entry(arms):
    classes = plot.entry_classes(
        [r for a in arms for run in a.runs.values() for r in run.rows], most=4
    )
    if not classes:
        return None
    tall = (len(classes) + 1) // 2
    fig, axes = plot.new_figure(
        "Graduated / admitted, by accuracy on entry",
        tall,
        2,
        height=1.2 + 2.2 * tall + 0.24 * math.ceil(len(arms) / 4),
        sharex=True,
    )
    for ax, (name, keys) in zip(axes, classes):
        curves(ax, arms, percent_graduated(keys))
        n = [
            sum(numbers.buffer_count(run, "admitted", keys) for run in a.runs.values())
            for a in arms
        ]
        ax.set(
            title=f"admitted at {name} ({min(n):.0f} to {max(n):.0f} questions)",
            ylabel="graduated (%)",
        )
        ax.set_ylim(bottom=0)
    for ax in axes[len(classes) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(classes) - 2) : len(classes)]:
        plot.step_axis(ax)
    legend(fig, arms)
    return fig


def fate(arms):
    """Fig. 23: graduated, evicted, still inside; all seeds together; the arms with a buffer."""
    arms = numbers.buffered(arms)
    rows = [
        [
            sum(numbers.buffer_count(r, event) for r in a.runs.values())
            for event in ("graduated", "evicted", "admitted")
        ]
        for a in arms
    ]
    if not any(n for *_, n in rows):
        return None
    fig, (ax,) = plot.new_figure(
        f"What became of the admitted questions ({seeds_note(arms)} together)",
        height=1.5 + 0.36 * len(arms),
    )
    for y, (g, e, n) in enumerate(reversed(rows)):
        left = 0
        for k, colour, ink in (
            (g, plot.EASY, "black"),
            (e, "#555555", "white"),
            (n - g - e, "#D9D9D9", "black"),
        ):
            share = numbers.percent(k, n) if n else 0
            ax.barh(y, share, left=left, color=colour, height=0.7)
            if share > 6:
                ax.text(
                    left + share / 2, y, f"{k}", ha="center", va="center", fontsize=9, color=ink
                )
            left += share
    evicted = any(e for _, e, _ in rows)
    for name, colour in (
        ("graduated", plot.EASY),
        *([("evicted", "#555555")] if evicted else []),
        ("still inside", "#D9D9D9"),
    ):
        ax.barh(0, 0, color=colour, label=name)
    ax.set(
        yticks=range(len(arms)),
        yticklabels=[a.label for a in reversed(arms)],
        xlim=(0, 100),
        ylim=(-0.6, len(arms) - 0.4),
        xlabel="share of the admitted questions (%)",
    )
    ax.grid(axis="y", visible=False)
    plot.legend(ax, 3)
    return fig


def attempts(arms):
    """Fig. 24: fate by number of re-sample attempts; a panel an arm that replays."""
    tables = {}
    for a in numbers.buffered(arms):
        table = {}
        for run in a.runs.values():
            for n, row in plot.fate_table(run.rows, most=6).items():
                if n != "0":  # never sampled again yet: no fate
                    for k, v in row.items():
                        table.setdefault(n, dict.fromkeys(plot.FATES, 0))[k] += v
        if table:
            tables[a.label] = {n: table[n] for n in sorted(table, key=lambda x: int(x.rstrip("+")))}
    if not tables:
        return None
    tall = math.ceil(len(tables) / 3)
    fig, axes = plot.new_figure(
        "Fate of replayed questions, by number of attempts (numbers: questions, all seeds)",
        tall,
        min(3, len(tables)),
        height=1.3 + 2.3 * tall,
        sharey=True,
    )
    for ax, (label, table) in zip(axes, tables.items()):
        base, totals = np.zeros(len(table)), np.array([sum(row.values()) for row in table.values()])
        for k, (name, colour) in plot.FATES.items():
            share = 100 * np.array([row[k] for row in table.values()]) / totals
            ax.bar(list(table), share, bottom=base, color=colour, label=name, width=0.8)
            base = base + share
        for x, n in enumerate(totals):
            ax.text(x, 102, f"{n}", ha="center", va="bottom", fontsize=8)
        ax.set(ylim=(0, 112), yticks=range(0, 101, 25))
        ax.set_title(label, fontsize=10)
        ax.grid(axis="x", visible=False)
    for ax in axes[len(tables) :]:
        ax.set_visible(False)
    for i, ax in enumerate(axes[: len(tables)]):
        if i % 3 == 0:
            ax.set_ylabel("share (%)")
        if i + 3 >= len(tables):
            ax.set_xlabel("times sampled again")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return fig


def composition(arms):
    buffered = numbers.buffered(arms)
    asking = [
        a for a in arms if any(numbers.total(r, "composition", "bcq") for r in a.runs.values())
    ]
    fig, axes = plot.new_figure(
        "Batch and buffer", 2, 2, height=5.4 + 0.24 * math.ceil(len(arms) / 4), sharex=True
    )

    def share(name):
        return lambda run: smooth(
            run,
            plot.column(run.rows, "composition", name),
            plot.column(run.rows, "composition", "groups"),
        )

    curves(axes[0], arms, share("easy"))
    curves(axes[1], asking, share("bcq"))
    curves(axes[2], buffered, lambda run: plot.column(run.rows, "buffer", "size"))
    curves(axes[3], buffered, lambda run: plot.buffer_table(run.rows, "occupancy", ["0.000"]))
    for ax, title, unit in zip(
        axes,
        (
            "easy questions (the others: NCQ-eligible)",
            "BCQ-eligible: the teacher has it right",
            "questions in the buffer",
            "of these, admitted at 0 %",
        ),
        ("% of plain groups", "% of plain groups", "questions", "questions"),
    ):
        ax.set_title(title, fontsize=10)
        ax.set_ylabel(unit)
        if ax is not axes[0]:
            ax.set_ylim(bottom=0)
    for ax in axes[2:]:
        plot.step_axis(ax)
    legend(fig, arms)
    return fig if any(ax.lines for ax in axes) else None


def dynamics(arms):
    note = plot.window_note([r for a in arms for r in a.runs.values()]).replace("thick: ", "")
    fig, axes = plot.new_figure(
        "Dynamics" + note, 3, 2, height=7.2 + 0.24 * math.ceil(len(arms) / 4), sharex=True
    )

    def accuracy_of(kind):
        return lambda run: smooth(run, *plot.accuracy_counts(run.rows, kind))

    policy = [a for a in arms if "distill" not in a.name]
    few = FEW if len(arms) <= FEW else 0  # in all panels or in none
    curves(axes[0], policy, lambda run: mean_of(run, "loss"), few=few)
    curves(axes[1], arms, accuracy_of("new"), few=few)
    curves(axes[2], arms, accuracy_of("bcq"), few=few)
    curves(axes[3], arms, accuracy_of("ncq"), few=few)
    curves(axes[4], policy, lambda run: smooth(run, *plot.positive_counts(run.rows)), few=few)
    curves(axes[5], arms, lambda run: mean_of(run, "entropy"), few=few)
    titles = (
        "policy loss" + " (not of distillation)" * (len(policy) < len(arms)),
        "right answers to new prompts",
        "right answers to BCQ",
        "right answers to NCQ",
        "positive advantage, all prompts (not of distillation)",
        "policy entropy, all prompts (not of distillation)",
    )
    for ax, title, unit in zip(axes, titles, ("loss", "%", "%", "%", "%", "nats per token")):
        ax.set_title(title)
        ax.set_ylabel(unit)
        if ax not in axes[:2]:
            ax.set_ylim(bottom=0)
    for ax in axes[4:]:
        plot.step_axis(ax)
    legend(fig, arms)
    return fig if any(ax.lines for ax in axes) else None


def recipe(arms):
    """Fig. 6, of zppo and its variants."""
    here = {a.name: a for a in arms}
    panels = {
        name: [(here[n], tick) for n, tick in points if n in here]
        for name, points in RECIPE.items()
    }
    panels = {name: points for name, points in panels.items() if len(points) > 1}
    if not panels:
        return None
    fig, axes = plot.new_figure(
        "Recipe of ZPPO: mean and 95 % interval over seeds (circles: single seeds)",
        2,
        len(panels),
        height=5.2,
        sharey="row",
        sharex="col",
    )
    axes = axes.reshape(2, len(panels))
    units = ("held-out images,\nright (%)", "graduated of those\nadmitted at 0 % (%)")
    for row, quantity, unit in zip(axes, ("heldout", "graduated_at_0"), units):
        for ax, (name, points) in zip(row, panels.items()):
            stats = [interval(values(a, quantity).values()) for a, _ in points]
            ax.errorbar(
                range(len(points)),
                [m for m, _ in stats],
                yerr=[np.nan_to_num(h) for _, h in stats],
                color="#009E73",
                marker="o",
                ms=6.5,
                lw=2,
                capsize=3,
                ls="-" if name.startswith("updates") else "",
            )
            for x, (a, _) in enumerate(points):
                v = list(values(a, quantity).values())
                ax.plot(
                    np.full(len(v), x + 0.13),
                    v,
                    ls="",
                    marker="o",
                    ms=3.5,
                    mfc="white",
                    mec="#009E73",
                    mew=0.9,
                )
            ax.set(
                xticks=range(len(points)),
                xticklabels=[tick for _, tick in points],
                xlim=(-0.5, len(points) - 0.5),
            )
            ax.grid(axis="x", visible=False)
        row[0].set_ylabel(unit)
    for ax, name in zip(axes[1], panels):
        ax.set_xlabel(name)
    return fig


def cost(arms):
    fig, (tokens, minutes) = plot.new_figure(
        "Cost of one run (mean over seeds)", 1, 2, height=1.9 + 0.44 * len(arms), sharey=True
    )
    parts = (
        ("tokens_generated", "student, sampled", plot.KINDS["new"][1]),
        ("tokens_trained", "student, trained", plot.KINDS["ncq"][1]),
        ("tokens_teacher", "teacher, sampled or read", plot.TEACHER),
    )
    y = np.arange(len(arms))[::-1]
    for k, (quantity, label, colour) in enumerate(parts):
        thousands = [interval(values(a, quantity).values())[0] / 1000 for a in arms]
        tokens.barh(y + 0.27 - 0.27 * k, thousands, height=0.25, color=colour, label=label)
    minutes.barh(
        y,
        [interval(values(a, "seconds").values())[0] / 60 for a in arms],
        height=0.6,
        color=plot.GREY,
    )
    tokens.set(
        ylim=(-0.6, len(arms) - 0.4),
        yticks=y,
        yticklabels=[a.label for a in arms],
        xlabel="thousand tokens",
    )
    tokens.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
    minutes.set_xlabel("minutes of training steps")
    for ax in (tokens, minutes):
        ax.grid(axis="y", visible=False)
    fig.legend(*tokens.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return fig


def equal_tokens(arms):
    """Graduations against what the student has sampled; the arms are already cut to equal tokens."""
    arms = by_end(arms)
    fig, (ax,) = plot.new_figure(
        f"Graduated of those unsolved on entry, at equal tokens (mean of {seeds_note(arms)})",
        height=4.2 + 0.24 * ((len(arms) + 1) // 2),
    )
    curves(ax, arms, percent_graduated(["0.000"]), across=lambda run: numbers.generated(run) / 1000)
    if not ax.lines:
        return None
    ax.set(
        xlabel="thousand tokens sampled by the student",
        ylabel="graduated / admitted at 0 %,\ncumulative (%)",
    )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    legend(fig, arms, graduation_labels(arms))
    return fig


def draw(arms, out, equal=False):
    """Write the figures of the arms into `out`; equal: only those of arms cut to equal tokens.
    Returns their paths.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    variants = {name for points in RECIPE.values() for name, _ in points} - {"zppo"}
    main = [a for a in arms if a.name not in variants]
    main = main if any(a.name != "zppo" for a in main) else arms
    figures = (
        (equal_tokens,)
        if equal
        else (
            accuracy,
            differences,
            graduations,
            graduations_by_entry,
            fate,
            attempts,
            composition,
            dynamics,
            cost,
        )
    )
    written = []
    with matplotlib.rc_context(plot.STYLE):
        made = {make.__name__: make(main) for make in figures} | (
            {} if equal else {"recipe": recipe(arms)}
        )
        for name, fig in made.items():
            if fig is not None:
                fig.savefig(out / f"{name}.png")
                written.append(out / f"{name}.png")
    return written
