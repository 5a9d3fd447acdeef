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
| composition.png | easy, BCQ- and NCQ-eligible groups of a batch (BCQ: of those asked) | Fig. 5a |
| dynamics.png | policy loss, entropy, positive advantages, gradient norm | Figs. 22, 25 |
| seconds.png, tokens.png | time by phase, tokens of student and teacher | Table 9 |

A figure is a list of curves; curves.py says how one arm, several arms and several seeds look. A
figure without data is not written. The audit (Tables 16, 17) is a table and no curve: `python -m
compare` writes it.
"""

import math
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from figures import curves, series
from figures.curves import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, YELLOW, Curve

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
FEW_QUESTIONS = 10  # a class of two jumps from 0 to 100 % and hides the others
OUTCOMES = {"graduated": ORANGE, "improved": "#F6DDA6", "never": GREY}


# ---- figures: (table, looks) -> Figure or None; looks: {arm: (colour, line style)} ----


def accuracy(table, looks):
    steps, found = series.trained(table), []
    for kind, (label, colour) in KINDS.items():
        of = partial(series.accuracy, steps, kind)
        found.append(curves.smoothed(steps, label, colour, of))
    for split, marker in zip(series.SPLITS, "Dsv"):
        label, values = f"held-out, {series.SPLITS[split]}", series.held_out(table, split)
        found.append(Curve(label, "black", values, marker=marker))
    title, unit = "Accuracy by kind of prompt", "right answers (%)"
    return curves.draw(table, looks, title, unit, found, top=102)


def graduations(table, looks):
    steps, classes = series.trained(table), series.entry_classes(table)
    shades, single, labels, found = entry_shades(classes), len(looks) == 1, {}, []
    many = []
    for label, keys in classes.items():
        if series.counter(steps, "admitted", keys).max() >= FEW_QUESTIONS:
            many.append(label)
    for label in many or classes:
        keys = classes[label]
        counts, n = final_counts(steps, keys), series.final_count(steps, "admitted", keys)
        labels = labels or {arm: f"{arm}: {text}" for arm, text in counts.items()}
        text = counts[n.index[0]] if single else f"{n.min():.0f} to {n.max():.0f} questions"
        values = series.graduated(steps, keys)
        found.append(Curve(f"entered at {label}: {text}", shades[label], values))
    notes = [] if single else [f"counts: at {next(iter(many or classes), '')}, all seeds"]
    if many and len(many) < len(classes):
        notes.append(f"without classes of fewer than {FEW_QUESTIONS} questions")
    title = "Graduated / admitted, by accuracy on entry"
    options = {"labels": labels, "note": "; ".join(notes)}
    return curves.draw(table, looks, title, "graduated (%)", found, **options)


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
    shades, found = entry_shades(classes), []
    for label, keys in classes.items():
        inside = series.occupancy(steps, keys)
        if inside.any():
            found.append(Curve(f"entered at {label}", shades[label], inside))
    title = "Questions in the replay buffer, by accuracy on entry"
    capacity = series.column(table, "buffer/capacity").dropna().unique()
    if len(capacity) == 1:
        title += f"  (capacity {capacity[0]:,.0f})"
    return curves.draw(table, looks, title, "questions", found, stack=True)


def composition(table, looks):
    steps, found = series.trained(table), []
    groups = series.column(steps, "composition/groups")
    tau = series.column(table, "config/tau").dropna().unique()
    names = {
        "easy": (f"easy (mean reward ≥ {tau[0] if len(tau) == 1 else 'τ'})", ORANGE),
        "bcq": ("BCQ-eligible", GREEN),
        "ncq": ("NCQ-eligible", RED),
    }
    asked, hard = (series.column(steps, f"composition/{name}") for name in ("asked", "ncq"))
    lazy = asked.between(1, hard - 1).any()  # by --teacher-scope it is known of those asked only
    if lazy:
        names["bcq"] = ("solved by the teacher, of those it was asked about", GREEN)
    for name, (label, colour) in names.items():
        part, whole = series.column(steps, f"composition/{name}"), groups
        if name == "bcq":  # an arm without a teacher does not know which groups are
            part = part.where(part.groupby("arm").transform("max") > 0)
            whole = asked if lazy else groups
        found.append(curves.smoothed(steps, label, colour, partial(series.ratio, part, whole)))
    title, unit = "Composition of the plain groups", "share of plain groups (%)"
    fig = curves.draw(table, looks, title, unit, found, top=102)
    if fig and len(looks) == 1:  # where every hard question has both, the BCQ curve shows through
        fig.axes[0].lines[-1].set_linestyle((0, (3, 2)))
    return fig


def dynamics(table, looks):
    steps, found = series.trained(table), []
    panels = {
        (loss_name(table), "loss"): partial(series.mean, steps, "loss"),
        ("policy entropy, all prompts", "nats per token"): partial(series.mean, steps, "entropy"),
        ("positive advantage, all prompts", "samples (%)"): partial(series.positive, steps),
        ("gradient norm before clipping", "norm"): partial(series.mean, steps, "grad_norm"),
    }
    for (label, _), of in panels.items():
        found.append(curves.smoothed(steps, label, BLUE, of))
    return curves.panels(table, looks, "Dynamics", [unit for _, unit in panels], found)


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
    found = []
    for phase, values in parts.items():
        if values.any():
            label, colour = PHASES.get(phase, (phase.replace("_", " "), GREY))
            found.append(Curve(label, colour, values))
    hours = total.sum() / 3600
    spent = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    peak = series.column(steps, "peak_gb").max()
    title = f"Seconds a step ({spent}" + (f", peak {peak:.1f} GB)" if peak > 0 else ")")
    title = title if len(looks) == 1 else "Seconds a step"
    return curves.draw(table, looks, title, "seconds", found, stack=True)


def tokens(table, looks):
    steps, found = series.trained(table), []
    for name, (label, colour) in TOKENS.items():
        of = partial(series.mean, steps, f"tokens/{name}", scale=1 / 1000)
        found.append(curves.smoothed(steps, label, colour, of))
    return curves.draw(table, looks, "Tokens a step", "thousand tokens", found)


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
    fig, (ax,) = curves.new_figure(title, height=1.5 + 0.36 * len(counts))
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
    curves.legend_above(ax, 3)
    return fig


def outcomes_by_visits(table, looks):
    tables = {arm: series.outcomes_by_visits(table.loc[[arm]]) for arm in series.replaying(table)}
    tables = {arm: counts for arm, counts in tables.items() if len(counts)}
    if not tables:
        return None
    cols = min(3, len(tables))
    rows = math.ceil(len(tables) / cols)
    title = "Outcomes of replayed questions, by number of visits"
    height = 4.2 if len(tables) == 1 else 1.3 + 2.3 * rows
    note = "above the bars: questions"
    fig, axes = curves.new_figure(title, rows, cols, height, note, sharey=True)
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
    place = {"loc": "outside lower left", "ncols": 3}
    fig.legend(*axes[0].get_legend_handles_labels(), **place)
    return fig


FIGURES = (accuracy, graduations, buffer, outcomes, outcomes_by_visits)
FIGURES += (composition, dynamics, seconds, tokens)


def draw_table(table, out, known=None, figures=FIGURES):
    """Write the figures of a table into a folder; return their paths. known: looks of some arms."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    looks, written = curves.looks_of(table, known), []
    with matplotlib.rc_context(curves.STYLE):
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
