"""Curves in panels: how the figures of figures/plot.py and compare/plot.py are drawn.

One arm: all curves in one panel, a colour each. Several arms: a panel a curve, a colour an arm. One
seed: the single steps thin, their mean over the last steps thick. Several seeds: their mean, and
the range from the lowest to the highest. (At three seeds a 95 % t-interval is 4.3 standard errors
to each side, and would hide the curves; intervals stand in the tables and dot plots, where one
compares.)

Built without pyplot, so drawing inside train.py needs no display. Colours: Okabe and Ito's set,
which survives colour-blindness. Tried and left out: seaborn, which draws the same panels from the
same table, but bootstraps its intervals (9 s for a figure of four panels) and would save few lines.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures import series

BLUE, SKY, GREEN, RED = "#0072B2", "#56B4E9", "#009E73", "#D55E00"
PINK, ORANGE, YELLOW, GREY = "#CC79A7", "#E69F00", "#F0E442", "#8C8C8C"
ARMS = ["black", ORANGE, SKY, GREEN, PINK, RED, BLUE, GREY]
FEW = 4  # arms whose ranges can be told apart in one panel
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "savefig.dpi": 200,
}  # 8 in wide: 800 px in a README, sharp at 2x


class Curve(NamedTuple):
    label: str
    colour: str  # where one arm is drawn
    values: pd.Series  # by (arm, seed, step)
    raw: pd.Series | None = None  # the same, not smoothed
    marker: str = ""  # values at a few steps only


def looks_of(table, known=None):
    """{arm: (colour, line style)} in the order of the table; `known` ones as they are."""
    arms = list(dict.fromkeys(table.index.get_level_values("arm")))
    known = known or {}
    dashes = ("-", (0, (4, 2)), (0, (1, 1.2)))
    return {
        arm: known.get(arm) or (ARMS[i % len(ARMS)], dashes[i // len(ARMS) % len(dashes)])
        for i, arm in enumerate(arms)
    }


def new_figure(title, rows=1, cols=1, height=4.2, note="", **kw):
    """An 8-inch figure with a bold title and a small note below; its axes in one flat array."""
    fig = Figure(figsize=(8, height), layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if note:
        fig.supxlabel(note, x=0.99, ha="right", fontsize=9, color="#555555")
    return fig, fig.subplots(rows, cols, squeeze=False, **kw).ravel()


def step_axis(ax):
    ax.set_xlabel("rollout step")
    ax.tick_params(labelbottom=True)
    places = MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    ax.xaxis.set_major_locator(places)


def legend_above(ax, cols):
    """Above the axes, where it cannot cover a curve."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(**place, ncols=cols, handlelength=1.6, columnspacing=1.4)


def legend_below(fig, looks, labels=None, cols=4, note=""):
    """One legend for all panels, from the looks and not from a panel, which may lack an arm."""
    lines = [Line2D([], [], color=colour, ls=style, lw=2.2) for colour, style in looks.values()]
    names = [(labels or {}).get(arm, arm) for arm in looks]
    style = {"title": note, "title_fontsize": 9, "alignment": "left", "columnspacing": 1.4}
    fig.legend(lines, names, loc="outside lower left", ncols=cols, handlelength=2.2, **style)


def seeds_note(table):
    """ "3 seeds", or "2 to 3 seeds"; "" where no arm has more than one."""
    runs = table.groupby(series.RUN).size()
    counts = sorted(set(runs.groupby("arm").size()))
    if not counts or counts[-1] == 1:
        return ""
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def lines_note(table, looks, found=(), more=""):
    """What the lines of some curves are, and `more`."""
    smooth, parts = any(c.raw is not None for c in found), []
    window, seeds = series.window_of(table) if smooth else 1, seeds_note(table)
    if seeds:
        parts.append(f"mean{' and range' if len(looks) <= FEW else ''} of {seeds}")
    if window > 1:
        parts.append(f"{'' if seeds else 'thick: '}mean of the last {window} steps")
    return "; ".join(text for text in (", ".join(parts), more) if text)


def draw_curve(ax, curve, arm, look, label=None, bands=True):
    """One arm's values: a thin line of steps and a thick smoothed one, or mean and range."""
    if arm not in curve.values.index.get_level_values("arm"):
        return
    values = curve.values.loc[arm]
    if values.isna().all():
        return
    (colour, style), mean = look, series.over_seeds(values)
    if values.index.get_level_values("seed").nunique() > 1:
        if bands:
            ax.fill_between(mean.index, mean["low"], mean["high"], color=colour, alpha=0.15, lw=0)
    elif curve.raw is not None:
        raw = series.over_seeds(curve.raw.loc[arm])["mean"]
        ax.plot(raw.index, raw, color=colour, lw=0.8, alpha=0.35)
    line = {"color": colour, "label": label, "lw": 2.2, "ls": style}
    mean = mean["mean"]
    if curve.marker:
        mean = mean.dropna()
        line |= {"marker": curve.marker, "ms": 5, "lw": 1.2, "ls": ":"}
    elif len(mean) <= 3:
        line |= {"marker": "o", "ms": 5, "clip_on": False}
    ax.plot(mean.index, mean, **line)


def stacked(ax, found):
    """The curves of one arm on top of each other, as filled steps: a run of one step shows, too."""
    frame = pd.DataFrame({c.label: c.values.groupby("step").mean() for c in found}).fillna(0)
    steps = frame.index.to_numpy(dtype=float)
    between = (steps[1:] + steps[:-1]) / 2
    edges = np.concatenate([[steps[0] - 0.5], between, [steps[-1] + 0.5]])
    base = np.zeros(len(steps))
    for c in found:
        top = base + frame[c.label].to_numpy()
        ax.stairs(top, edges, baseline=base, fill=True, color=c.colour, label=c.label, lw=0)
        base = top
    ax.set_xlim(edges[0], edges[-1])
    usual = np.percentile(base, 95)
    if base.max() > 2 * usual > 0:  # one step that compiles must not flatten all the others
        ax.set_ylim(0, 1.3 * usual)
        text = f"cut: step {steps[base.argmax()]:.0f} reaches {base.max():,.0f}"
        place = {"xycoords": "axes fraction", "ha": "right", "va": "top", "fontsize": 9}
        ax.annotate(text, (0.99, 0.97), **place)


def draw(table, looks, title, unit, found, labels=None, stack=False, top=None, note=""):
    """A figure of curves, `overlay` of one arm or `panels` of several; None without any value."""
    if not looks:
        return None
    if len(looks) == 1:
        return overlay(table, looks, title, unit, found, stack, top, note)
    return panels(table, looks, title, unit, found, labels, top, note)


def overlay(table, looks, title, unit, found, stack=False, top=None, note=""):
    """All curves of one arm in one panel, on top of each other if `stack`."""
    found = [c for c in found if c.values.notna().any()]
    if not found:
        return None
    (arm,) = looks
    fig, (ax,) = new_figure(title, note=lines_note(table, looks, found, note))
    ax.set_ylabel(unit)
    if stack:
        stacked(ax, found)
    else:
        for c in found:
            draw_curve(ax, c, arm, (c.colour, "-"), c.label)
        ax.set_ylim(0, top)
    widest = max(len(c.label) for c in found)
    legend_above(ax, 2 if widest > 30 else 3 if len(found) == 3 else 4)
    step_axis(ax)
    return fig


def panels(table, looks, title, unit, found, labels=None, top=None, note=""):
    """A panel a curve, a colour an arm. unit: one for all or a list; labels: legend text by arm."""
    units = [unit] * len(found) if isinstance(unit, str) else unit
    found = [(c, u) for c, u in zip(found, units) if c.values.notna().any()]
    if not found:
        return None
    cols, several = min(2, len(found)), len(looks) > 1
    rows = math.ceil(len(found) / cols)
    legend = 0.3 + 0.22 * math.ceil(len(looks) / 4) if several else 0.0
    height = 0.9 + 2.3 * max(rows, 1.3) + legend
    note = lines_note(table, looks, [c for c, _ in found], note)
    fig, axes = new_figure(title, rows, cols, height, "" if several else note, sharex=True)
    for i, (ax, (c, u)) in enumerate(zip(axes, found)):
        for arm, look in looks.items():
            look = look if several else (c.colour, "-")
            draw_curve(ax, c, arm, look, bands=len(looks) <= FEW)
        ax.set_title(c.label)
        if i % cols == 0 or u != unit:
            ax.set_ylabel(u)
        if u == "questions":
            ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if not c.values.min() < 0:
            ax.set_ylim(0, top)
        if i + cols >= len(found):
            step_axis(ax)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    if several:
        legend_below(fig, looks, labels, 2 if labels else 4, note)
    return fig


def smoothed(table, label, colour, of):
    """The curve of of(window=...) -> values, with the single steps beside it."""
    window = series.window_of(table)
    return Curve(label, colour, of(window=window), of(window=1) if window > 1 else None)
