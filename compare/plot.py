"""The figures of a comparison: those of figures/plot.py, and four that only a comparison has.

| figure | shows | paper |
| --- | --- | --- |
| heldout.png, differences.png | held-out accuracy; its paired difference to GRPO† | Tables 1-4 |
| recipe.png | updates per step, normalization | Fig. 6 |
| equal_tokens.png | graduations against sampled tokens (--equal-tokens) | - |

An arm has one colour in all of them. The recipe's arms have their own figure and stay out of the
others, unless they are alone.
"""

import numpy as np
from matplotlib.ticker import MaxNLocator

from compare import table as numbers
from compare.table import HARDEST, SPLITS, interval
from figures import curves, plot, series
from figures.curves import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.2))
PURPLE = "#7B4FA3"
LOOKS = {
    "ZPPO": (GREEN, "-"),
    "GRPO†": ("#000000", "-"),
    "GRPO": (GREY, "-"),
    "GRPO + BCQ + NCQ": (GREEN, DASHED),
    "GRPO† + BCQ": (BLUE, "-"),
    "GRPO† + NCQ": (RED, "-"),
    "Off-Distill": (PINK, DOTTED),
    "Off-Distill†": (PINK, "-"),
    "On-Distill": (PURPLE, DOTTED),
    "On-Distill†": (PURPLE, "-"),
    "GRPO† + Hint": (ORANGE, "-"),
    "GRPO† + Prefix": (SKY, "-"),
    "ZPPO, I = 1": (SKY, "-"),
    "ZPPO, I = 8": (BLUE, "-"),
    "ZPPO, I = 16": (PINK, "-"),
    "ZPPO, norm with zero": (RED, DASHED),
    "ZPPO, no norm": (ORANGE, DASHED),
}
UPDATES = {"ZPPO, I = 1": "1", "ZPPO": "4", "ZPPO, I = 8": "8", "ZPPO, I = 16": "16"}
NORMS = {"ZPPO, no norm": "none", "ZPPO": "without\nzero", "ZPPO, norm with zero": "with\nzero"}
RECIPE = {"updates per rollout step, I": UPDATES, "normalization": NORMS}
CIRCLES = {"ls": "", "marker": "o", "ms": 3.5, "mfc": "white", "mew": 0.9}
BARS = {"marker": "o", "ms": 6.5, "lw": 2, "capsize": 3}


def dots(ax, looks, of):
    """A row an arm: mean and 95 % interval, single seeds as small circles. of(arm) -> values."""
    arms = list(reversed(looks))
    for y, arm in enumerate(arms):
        values, colour = of(arm).dropna(), looks[arm][0]
        if len(values):
            mean, half = interval(values)
            ax.plot(values, np.full(len(values), y + 0.22), mec=colour, clip_on=False, **CIRCLES)
            ax.errorbar(mean, y - 0.08, xerr=np.nan_to_num(half), color=colour, **BARS)
    ax.set(ylim=(-0.6, len(arms) - 0.4), yticks=range(len(arms)), yticklabels=arms)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.grid(axis="y", visible=False)


def dots_note(table):
    """What circles and bars are."""
    seeds = curves.seeds_note(table)
    return f"mean and 95 % interval of {seeds}; circles: single seeds" if seeds else "one seed"


def heldout(table, looks):
    by_run = numbers.summary(table)
    if by_run[list(SPLITS)].isna().all(axis=None):
        return None
    title, height = "Held-out accuracy", 1.6 + 0.42 * len(looks)
    note = f"{dots_note(table)}; dashed: before any RL"
    fig, axes = curves.new_figure(title, 1, 3, height, note, sharex=True, sharey=True)
    start = series.before_training(table)
    for ax, (split, name) in zip(axes, SPLITS.items()):
        dots(ax, looks, lambda arm, split=split: by_run.loc[arm, split])
        before = series.held_out(start, split).mean()
        if np.isfinite(before):
            ax.axvline(before, color="black", lw=1, ls="--")
        ax.set(title=name, xlabel="right answers (%)")
    return fig


def differences(table, looks):
    by_run = numbers.summary(table)
    looks = {a: look for a, look in looks.items() if len(numbers.differences(by_run, a, "steps"))}
    if not looks:
        return None
    title, height = "Difference to GRPO†, paired by seed", 1.7 + 0.42 * len(looks)
    fig, axes = curves.new_figure(title, 1, 4, height, dots_note(table), sharey=True)
    names = {**SPLITS, "graduated_at_0": "graduated of\nthose at 0 %"}
    for ax, (quantity, name) in zip(axes, names.items()):
        dots(ax, looks, lambda arm, q=quantity: numbers.differences(by_run, arm, q))
        ax.axvline(0, color="black", lw=1)
        ax.set(title=name, xlabel="points")
    return fig


def equal_tokens(table, looks):
    """The runs are already cut to equal tokens. The legend is in the order of the curves' ends."""
    steps = series.trained(table)
    spent = numbers.tokens_spent(steps) / 1000
    values = series.against(series.graduated(steps, HARDEST), spent)
    if values.isna().all():
        return None
    end = numbers.means(numbers.summary(table))["graduated_at_0"].fillna(-1)
    looks = {arm: looks[arm] for arm in end.sort_values(ascending=False, kind="stable").index}
    title, height = "Graduated of the questions that no sample solved on entry", 4.4
    fig, (ax,) = curves.new_figure(title, height=height + 0.24 * ((len(looks) + 1) // 2))
    for arm, look in looks.items():
        curve = curves.Curve(arm, look[0], values)
        curves.draw_curve(ax, curve, arm, look, bands=len(looks) <= curves.FEW)
    ax.set(
        xlabel="thousand tokens sampled by the student", ylabel="graduated / admitted at 0 % (%)"
    )
    ax.set_ylim(bottom=0)
    counts = plot.final_counts(table, HARDEST)
    labels = {arm: f"{arm}: {text}" for arm, text in counts.items()}
    curves.legend_below(fig, looks, labels, 2, curves.lines_note(table, looks))
    return fig


def recipe(table, looks):
    by_run, found = numbers.summary(table), {}
    for name, points in RECIPE.items():
        points = {arm: tick for arm, tick in points.items() if arm in looks}
        if len(points) > 1:
            found[name] = points
    if not found:
        return None
    shared = {"sharey": "row", "sharex": "col"}
    fig, axes = curves.new_figure("Recipe of ZPPO", 2, len(found), 5.2, dots_note(table), **shared)
    axes = axes.reshape(2, len(found))
    units = ("held-out images,\nright (%)", "graduated of those\nadmitted at 0 % (%)")
    for row, quantity, unit in zip(axes, ("heldout", "graduated_at_0"), units):
        for ax, (name, points) in zip(row, found.items()):
            mean, half = zip(*(interval(by_run.loc[arm, quantity]) for arm in points))
            style = "-" if name.startswith("updates") else ""
            error = {"yerr": np.nan_to_num(half), "color": GREEN, "ls": style}
            ax.errorbar(range(len(points)), mean, **error, **BARS)
            for x, arm in enumerate(points):
                values = by_run.loc[arm, quantity]
                ax.plot(np.full(len(values), x + 0.13), values, mec=GREEN, **CIRCLES)
            ax.set(xticks=range(len(points)), xticklabels=points.values())
            ax.set_xlim(-0.5, len(points) - 0.5)
            ax.grid(axis="x", visible=False)
        row[0].set_ylabel(unit)
    for ax, name in zip(axes[1], found):
        ax.set_xlabel(name)
    return fig


FIGURES = (heldout, differences, *plot.FIGURES)


def draw(table, out, equal=False):
    """Write the figures of a comparison into `out`; equal: only that of runs cut to equal tokens.
    Returns their paths.
    """
    arms = numbers.arms_of(table)
    variants = {arm for points in RECIPE.values() for arm in points} - {"ZPPO"}
    main = [arm for arm in arms if arm not in variants]
    main = main if set(main) - {"ZPPO"} else arms
    written = plot.draw_table(table.loc[main], out, LOOKS, (equal_tokens,) if equal else FIGURES)
    return written if equal else written + plot.draw_table(table, out, LOOKS, (recipe,))
