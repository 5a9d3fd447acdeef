"""Figures of runs: one run, several, or arms of several seeds each, all drawn the same way.

    python -m figures runs/zppo-tiny-1                     # -> runs/zppo-tiny-1/figures/*.png
    python -m figures runs/a-seed0 runs/a-seed1 runs/b-seed0 --out figures

| figure | shows | paper |
| --- | --- | --- |
| accuracy.png | right answers by kind of prompt and on held-out questions | Figs. 22, 25 |
| graduations.png | graduated / admitted, cumulative, by accuracy on entry | Fig. 4 |
| buffer.png | questions in the replay buffer, by accuracy on entry | Fig. 20 |
| outcomes.png | graduated, evicted and still inside, of the admitted questions | Fig. 23 |
| outcomes_by_visits.png | graduated, improved or never improved, by times sampled again | Fig. 24 |
| composition.png | easy, BCQ- and NCQ-eligible groups of a batch | Fig. 5a |
| dynamics.png | policy loss, entropy, positive advantages, gradient norm | Figs. 22, 25 |
| seconds.png, tokens.png | time by phase, tokens of student and teacher | Table 9 |

A figure is a list of curves. One arm: all of them in one panel, a colour each. Several arms: a
panel a curve, a colour an arm. One seed: the single steps thin, their mean over the last steps
thick. Several seeds: their mean and its 95 % t-interval. A figure without data is not written. The
audit (Tables 16, 17) is a table and no curve: `python -m compare` writes it.

Built without pyplot, so drawing inside train.py needs no display. Colours: Okabe and Ito's set,
which survives colour-blindness. pandas reads and averages; seaborn draws the same panels, but
bootstraps its intervals (9 s a figure), and would save few lines.
"""

import math
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures import series

BLUE, SKY, GREEN, RED = "#0072B2", "#56B4E9", "#009E73", "#D55E00"
PINK, ORANGE, YELLOW, GREY = "#CC79A7", "#E69F00", "#F0E442", "#8C8C8C"
KINDS = {
    "new": ("new prompts", BLUE),
    "replay": ("replayed prompts", SKY),
    "bcq": ("BCQ", GREEN),
    "ncq": ("NCQ", RED),
    "hint": ("Hint", PINK),
    "prefix": ("Prefix", ORANGE),
}
PHASES = {
    "rollout": ("plain rollouts", BLUE),
    "teacher": ("teacher", PINK),
    "reformulate": ("build prompts", YELLOW),
    "reformulated_rollout": ("reformulated rollouts", GREEN),
    "old_logp": ("old log-probs", SKY),
    "update": ("update", RED),
}
TOKENS = {
    "generated": ("student, sampled", BLUE),
    "trained": ("student, trained", RED),
    "teacher": ("teacher", PINK),
}
OUTCOMES = {"graduated": ORANGE, "improved": "#F6DDA6", "never": GREY}
ARMS = ["black", ORANGE, SKY, GREEN, PINK, RED, BLUE, GREY]
FEW = 4  # arms whose intervals can be told apart in one panel
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


# ---- parts of a figure ----


def new_figure(title, rows=1, cols=1, height=4.2, **kw):
    """An 8-inch figure with a bold title, and its axes in one flat array."""
    fig = Figure(figsize=(8, height), layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
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


def legend_below(fig, looks, labels=None, cols=4):
    """One legend for all panels, from the looks and not from a panel, which may lack an arm."""
    lines = [Line2D([], [], color=colour, ls=style, lw=2.2) for colour, style in looks.values()]
    names = [(labels or {}).get(arm, arm) for arm in looks]
    place = {"loc": "outside lower left", "ncols": cols}
    fig.legend(lines, names, **place, handlelength=2.2, columnspacing=1.4)


def seeds_note(table):
    """ "3 seeds", or "2 to 3 seeds"; "" where no arm has more than one."""
    runs = table.groupby(series.RUN).size()
    counts = sorted(set(runs.groupby("arm").size()))
    if not counts or counts[-1] == 1:
        return ""
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def note(table, bands=True, smoothed=True):
    """What thick and thin lines are, for a title."""
    window, seeds = series.window_of(table) if smoothed else 1, seeds_note(table)
    parts = []
    if seeds:
        parts.append(f"mean of {seeds}" + (" and its 95 % interval" if bands else ""))
    if window > 1:
        parts.append(f"over the last {window} steps" if seeds else f"thick: last {window} steps")
    return f"  ({', '.join(parts)})" if parts else ""


def draw_curve(ax, curve, arm, look, label=None, bands=True):
    """One arm's values: a thin line of steps and a thick smoothed one, or mean and interval."""
    if arm not in curve.values.index.get_level_values("arm"):
        return
    values = curve.values.loc[arm]
    if values.isna().all():
        return
    (colour, style), mean = look, series.over_seeds(values)
    if mean["low"].notna().any():
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


def draw_curves(title, unit, found, looks, panels=False, stack=False, top=None, labels=None):
    """A figure of curves, None where none has a value. One arm: all in one panel, unless `panels`;
    several arms: a panel a curve. `unit` may be a list, one a curve.
    """
    units = [unit] * len(found) if isinstance(unit, str) else unit
    found = [(c, u) for c, u in zip(found, units) if c.values.notna().any()]
    if not found:
        return None
    if len(looks) == 1 and not panels:
        fig, axes = new_figure(title)
        overlay(axes[0], [c for c, _ in found], next(iter(looks)), stack)
        axes[0].set(ylabel=found[0][1], ylim=(0, top))
        step_axis(axes[0])
        return fig
    rows, bands = math.ceil(len(found) / 2), len(looks) <= FEW
    legend_rows = 0 if len(looks) == 1 else math.ceil(len(looks) / 4)
    height = 1.0 + 2.3 * max(rows, 1.3) + 0.24 * legend_rows
    fig, axes = new_figure(title, rows, min(2, len(found)), height, sharex=True)
    for ax, (c, u) in zip(axes, found):
        for arm, look in looks.items():
            draw_curve(ax, c, arm, (c.colour, "-") if len(looks) == 1 else look, bands=bands)
        ax.set_title(c.label)
        if u != unit or ax.get_subplotspec().is_first_col():
            ax.set_ylabel(u)
        if u == "questions":
            ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if ax.get_ylim()[0] > 0 or top or c.values.min() >= 0:
            ax.set_ylim(0, top)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(found) - 2) : len(found)]:
        step_axis(ax)
    if len(looks) > 1:
        legend_below(fig, looks, labels)
    return fig


def overlay(ax, found, arm, stack):
    """All curves of one arm in one panel."""
    if stack:
        stacked(ax, [c for c in found if c.values.fillna(0).any()])
    else:
        for c in found:
            draw_curve(ax, c, arm, (c.colour, "-"), c.label)
    widest = max(len(c.label) for c in found)
    legend_above(ax, 2 if widest > 30 else 3 if len(found) == 3 else 4)


def curve(table, label, colour, of):
    """of(window) -> values: the curve of them, smoothed, with the single steps beside it."""
    window = series.window_of(table)
    return Curve(label, colour, of(window), of(1) if window > 1 else None)


# ---- the figures: (table, looks) -> Figure or None ----


def accuracy(table, looks):
    steps = series.trained(table)
    found = [
        curve(steps, label, colour, lambda w, kind=kind: series.accuracy(steps, kind, w))
        for kind, (label, colour) in KINDS.items()
    ]
    for split, marker in zip(series.SPLITS, "Dsv"):
        label = f"held-out, {series.SPLITS[split]}"
        found.append(Curve(label, "black", series.held_out(table, split), marker=marker))
    title = "Accuracy by kind of prompt" + note(table, len(looks) <= FEW)
    return draw_curves(title, "right answers (%)", found, looks, top=102)


def graduations(table, looks):
    steps, classes = series.trained(table), series.entry_classes(table)
    shades, single, labels = entry_shades(classes), len(looks) == 1, {}
    found = []
    for label, keys in reversed(classes.items()):
        counts = final_counts(steps, keys)
        labels = {arm: f"{arm}: {text}" for arm, text in counts.items()}
        admitted = series.final_count(steps, "admitted", keys)
        many = f" ({admitted.min():.0f} to {admitted.max():.0f} questions)"
        text = f"entered at {label}" + (f": {counts[admitted.index[0]]}" if single else many)
        found.insert(0, Curve(text, shades[label], series.graduated(steps, keys)))
    title = "Graduated of the questions admitted to the buffer, by accuracy on entry"
    if not single:
        title = f"Graduated, by accuracy on entry  (below: at {next(iter(classes), 0)}, all seeds)"
    return draw_curves(title, "graduated / admitted (%)", found, looks, labels=labels)


def final_counts(table, keys):
    """{arm: "12 of 40 (30 %)"}: graduated of the admitted, all seeds together."""
    events = (series.final_count(table, event, keys) for event in ("graduated", "admitted"))
    texts = {}
    for arm, (out, into) in pd.DataFrame(dict(zip("ga", events))).iterrows():
        texts[arm] = f"{out:.0f} of {into:.0f}" + (f" ({100 * out / into:.0f} %)" if into else "")
    return texts


def entry_shades(classes):
    """{entry class: colour}, the hardest darkest."""
    shades = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.88, len(classes)))
    return dict(zip(classes, shades))


def buffer(table, looks):
    looks = {arm: looks[arm] for arm in series.replaying(table)}
    steps, classes = series.trained(table), series.entry_classes(table, most=4)
    shades = entry_shades(classes)
    found = [
        Curve(f"entered at {label}", shades[label], series.occupancy(steps, keys))
        for label, keys in classes.items()
    ]
    found = [c for c in found if c.values.fillna(0).any()]
    capacity = column_note(table, "buffer/capacity", "capacity {:,.0f}")
    title = f"Questions in the replay buffer, by accuracy on entry{capacity}"
    return draw_curves(title, "questions", found, looks, stack=True)


def column_note(table, name, form):
    """The one value that a column has, in brackets for a title; "" for none or several."""
    values = series.column(table, name).dropna().unique()
    return f"  ({form.format(values[0])})" if len(values) == 1 else ""


def composition(table, looks):
    steps = series.trained(table)
    groups = series.column(steps, "composition/groups")
    tau = series.column(table, "config/tau").dropna().unique()
    names = {
        "easy": (f"easy (mean reward ≥ {tau[0] if len(tau) == 1 else 'τ'})", ORANGE),
        "bcq": ("BCQ-eligible", GREEN),
        "ncq": ("NCQ-eligible", RED),
    }
    found = []
    for name, (label, colour) in names.items():
        part = series.column(steps, f"composition/{name}")
        if name == "bcq":  # an arm without a teacher does not know which groups are
            part = part.where(part.groupby("arm").transform("max") > 0)
        found.append(curve(steps, label, colour, lambda w, n=part: series.ratio(n, groups, w)))
    title = "Composition of the plain groups" + note(table, len(looks) <= FEW)
    fig = draw_curves(title, "share of plain groups (%)", found, looks, top=102)
    if fig and len(looks) == 1:  # where every hard question has both, the BCQ curve shows through
        for line in fig.axes[0].lines[-1:]:
            line.set_linestyle((0, (3, 2)))
    return fig


def dynamics(table, looks):
    steps = series.trained(table)

    def mean_of(name):
        return lambda window: series.smooth(series.column(steps, name), window)

    found = [
        curve(steps, loss_name(table), BLUE, mean_of("loss")),
        curve(steps, "policy entropy, all prompts", BLUE, mean_of("entropy")),
        curve(steps, "positive advantage, all prompts", BLUE, lambda w: series.positive(steps, w)),
        curve(steps, "gradient norm before clipping", BLUE, mean_of("grad_norm")),
    ]
    units = ["loss", "nats per token", "samples (%)", "norm"]
    title = "Dynamics" + note(table, len(looks) <= FEW)
    return draw_curves(title, units, found, looks, panels=True)


def loss_name(table):
    """What "loss" is in these runs: a distillation minimizes a divergence, the others PPO's
    surrogate.
    """
    methods = set(table["config/method"].dropna()) if "config/method" in table else set()
    distill = {method.endswith("distill") for method in methods}
    if distill == {True}:
        return "Jensen-Shannon divergence (nats)"
    return "policy loss" if True not in distill else "policy loss; distillation: JSD in nats"


def seconds(table, looks):
    steps = series.trained(table)
    total = series.column(steps, "seconds/total").fillna(0)
    logged = [path.split("/")[1] for path in series.columns(steps, "seconds/.*")]
    phases = [p for p in dict.fromkeys([*PHASES, *logged]) if p != "total"]
    parts = {p: series.summed(steps, [f"seconds/{p}"]) for p in phases}
    if len(looks) > 1:
        parts = {"whole step": total} | parts
    else:
        parts["other"] = (total - sum(parts.values())).clip(lower=0)
    found = [
        Curve(*PHASES.get(p, (p.replace("_", " "), GREY)), v) for p, v in parts.items() if v.any()
    ]
    hours = total.sum() / 3600
    spent = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    peak = series.column(steps, "peak_gb").max()
    title = f"Seconds a step ({spent}" + (f", peak {peak:.1f} GB)" if peak > 0 else ")")
    title = title if len(looks) == 1 else "Seconds a step"
    return draw_curves(title, "seconds", found, looks, stack=True)


def tokens(table, looks):
    steps = series.trained(table)

    def thousands(name):
        return lambda w: series.smooth(series.column(steps, f"tokens/{name}") / 1000, w)

    found = [
        curve(steps, label, colour, thousands(name)) for name, (label, colour) in TOKENS.items()
    ]
    title = "Tokens a step" + note(table, len(looks) <= FEW)
    return draw_curves(title, "thousand tokens", found, looks)


def outcomes(table, looks):
    names = {"graduated": (ORANGE, "black"), "evicted": ("#555555", "white")}
    names["still inside"] = ("#D9D9D9", "black")
    counts = {event: series.final_count(table, event) for event in ("graduated", "evicted")}
    admitted = series.final_count(table, "admitted")
    counts["still inside"] = admitted - sum(counts.values())
    counts = pd.DataFrame(counts).loc[series.replaying(table)].loc[admitted > 0]
    if not len(counts):
        return None
    title = "What became of the questions admitted to the buffer"
    fig, (ax,) = new_figure(title, height=1.5 + 0.36 * len(counts))
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    left, places = 0, np.arange(len(counts))[::-1]
    for name, (colour, ink) in names.items():
        if not counts[name].any():
            continue
        bars = ax.barh(places, shares[name], left=left, color=colour, label=name, height=0.7)
        texts = [f"{n:.0f}" if share > 6 else "" for n, share in zip(counts[name], shares[name])]
        ax.bar_label(bars, texts, label_type="center", fontsize=9, color=ink)
        left = left + shares[name]
    ax.set(yticks=places, yticklabels=counts.index, xlim=(0, 100), xlabel="share of them (%)")
    ax.grid(axis="y", visible=False)
    legend_above(ax, 3)
    return fig


def outcomes_by_visits(table, looks):
    tables = {arm: series.outcomes_by_visits(table.loc[[arm]]) for arm in series.replaying(table)}
    tables = {arm: counts for arm, counts in tables.items() if len(counts)}
    if not tables:
        return None
    cols = min(3, len(tables))
    rows = math.ceil(len(tables) / cols)
    title = "Outcomes of replayed questions, by number of visits (above: questions)"
    height = 4.2 if len(tables) == 1 else 1.3 + 2.3 * rows
    fig, axes = new_figure(title, rows, cols, height, sharey=True)
    names = ("graduated", "improved, still hard", "never improved")
    for i, (ax, (arm, counts)) in enumerate(zip(axes, tables.items())):
        totals = counts.sum(axis=1)
        base = np.zeros(len(counts))
        for (outcome, colour), label in zip(OUTCOMES.items(), names):
            share = 100 * counts[outcome] / totals
            ax.bar(counts.index, share, bottom=base, color=colour, label=label, width=0.8)
            base = base + share
        for x, n in enumerate(totals):
            ax.text(x, 102, f"{n:.0f}", ha="center", va="bottom", fontsize=8)
        ax.set(ylim=(0, 112), yticks=range(0, 101, 25), xlim=(-0.6, max(len(counts), 4) - 0.4))
        ax.grid(axis="x", visible=False)
        if len(tables) > 1:
            ax.set_title(arm, fontsize=10)
        if i % cols == 0:
            ax.set_ylabel("share (%)")
        if i + cols >= len(tables):
            ax.set_xlabel("times sampled again")
    for ax in axes[len(tables) :]:
        ax.set_visible(False)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return fig


FIGURES = (accuracy, graduations, buffer, outcomes, outcomes_by_visits)
FIGURES += (composition, dynamics, seconds, tokens)


def draw_table(table, out, known=None, figures=FIGURES):
    """Write the figures of a table into the folder `out`; return their paths. known: {arm:
    look}.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    looks, written = looks_of(table, known), []
    with matplotlib.rc_context(STYLE):
        for make in figures:
            fig = make(table, looks)
            if fig is not None:
                written.append(out / f"{make.__name__}.png")
                fig.savefig(written[-1])
    return written


def draw(runs, out=None):
    """Write the figures of one run folder, or of a list of them; return their paths.

    out: the folder to write into; by default `figures` in the run folder, in that of the first of
    several `figures/compare`. Raises ValueError as `series.read` does.
    """
    folders = [runs] if isinstance(runs, (str, Path)) else list(runs)
    inside = "figures" if len(folders) == 1 else "figures/compare"
    return draw_table(series.read(folders), out or Path(folders[0]) / inside)
