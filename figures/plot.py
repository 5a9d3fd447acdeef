"""Figures of a run, from its metrics.jsonl alone.

    # -> runs/zppo-tiny-1/figures/*.png
    python plot.py runs/zppo-tiny-1
    # the same curves of several runs, overlaid
    python plot.py runs/zppo-tiny-1 runs/grpo-tiny-1 --out figures

| figure | shows | paper |
| --- | --- | --- |
| accuracy.png | share of right answers by kind of prompt (new, replayed, BCQ, NCQ, ...), held-out points | Figs. 22, 25 |
| graduations.png | graduated / admitted, cumulative, by the accuracy at which a question entered | Fig. 4 |
| dynamics.png | entropy, share of answers with positive advantage, loss, gradient norm | Figs. 22, 25 |
| buffer.png, composition.png, fate.png | occupancy; easy and eligible shares; fate by number of attempts | 20, 5a, 24 |
| cost.png | seconds by phase, tokens | - |

The first three also compare runs; the others speak of one run only. A figure without data is not
written. Left out: the audit (Tables 16, 17), which is a table and not a curve.

Decisions. Every rate is a sum over a sum: the thick line pools the counts of the last w steps (so a
step with four BCQ groups weighs half of one with eight), the thin line is the single step. Null and
missing numbers are gaps, missing counters are zero. After a resume metrics.jsonl may hold a step
twice; the later line wins. Figures are built without pyplot, so drawing inside train.py needs no
display. Colours: Okabe and Ito's set, which survives colour-blindness.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

KINDS = {
    "new": ("new prompts", "#0072B2"),
    "replay": ("replayed prompts", "#56B4E9"),
    "bcq": ("BCQ", "#009E73"),
    "ncq": ("NCQ", "#D55E00"),
    "hint": ("Hint", "#CC79A7"),
    "prefix": ("Prefix", "#E69F00"),
}
EASY, TEACHER, GREY = "#E69F00", "#CC79A7", "#8C8C8C"
RUNS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2"]
PHASES = {
    "rollout": ("plain rollouts", KINDS["new"][1]),
    "teacher": ("teacher", TEACHER),
    "reformulate": ("build aided prompts", "#F0E442"),
    "reformulated_rollout": ("aided rollouts", KINDS["bcq"][1]),
    "old_logp": ("old log-probs", KINDS["replay"][1]),
    "update": ("update", KINDS["ncq"][1]),
}
FATES = {
    "graduated": ("graduated", EASY),
    "improved": ("improved, still hard", "#F6DDA6"),
    "never": ("never improved", GREY),
}
HELD_OUT = {
    "heldout": "held-out",
    "heldout_text": "held-out, text",
    "heldout_video": "held-out, video",
}
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
    "figure.dpi": 200,
    "savefig.dpi": 200,
}  # 8 in wide: 800 px in a README, sharp at 2x


class Run(NamedTuple):
    label: str
    rows: list[dict[str, Any]]  # lines with training numbers, one a step, ascending
    held_out: list[dict[str, Any]]  # lines with an evaluation; step 0 may be here and not in rows
    config: dict[str, Any]


# ---- numbers: metrics.jsonl -> series ----


def read(folder, label=""):
    """One run folder as a Run. Raises ValueError with file and line where metrics.jsonl is missing,
    empty or broken.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; is {folder} the run folder that train.py wrote?")
    by_step = {}
    for i, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {i}: not JSON ({error.msg}): {line[:60]!r}") from None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ValueError(
                f'{path}, line {i}: expected an object with a whole-number "step", got {line[:60]!r}'
            )
        by_step[row["step"]] = {**by_step.get(row["step"], {}), **row}
    if not by_step:
        raise ValueError(f"{path}, line 1: the file is empty")
    rows = [by_step[s] for s in sorted(by_step)]
    config = Path(folder) / "config.json"
    config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return Run(
        label or Path(folder).resolve().name,
        [r for r in rows if "groups" in r],
        [r for r in rows if r.get("heldout")],
        config,
    )


def column(rows, *keys, absent=math.nan):
    """rows[i][keys[0]][keys[1]]... as floats; `absent` where a key is missing, or the number null
    or not finite.
    """

    def one(value):
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else absent

    return np.array([one(row) for row in rows], dtype=float)


def running(top, bottom, window):
    """Sum of `top` over sum of `bottom` in the last `window` steps; NaN where there was nothing.
    Steps with a gap are skipped.
    """
    known = np.isfinite(top) & np.isfinite(bottom)
    sums = [np.cumsum(np.where(known, v, 0.0)) for v in (top, bottom)]
    top, bottom = [np.concatenate([s[:window], s[window:] - s[:-window]]) for s in sums]
    return np.divide(top, bottom, out=np.full(len(top), math.nan), where=bottom > 0)


def smoothing(rows):
    """Steps in the running mean: a tenth of the run, at most 25."""
    return max(1, min(25, len(rows) // 10))


def accuracy_counts(rows, kind):
    return column(rows, "groups", kind, "correct"), column(rows, "groups", kind, "samples")


def positive_counts(rows):
    """(samples with positive advantage, samples), all kinds together."""
    return tuple(
        sum(column(rows, "groups", kind, name, absent=0.0) for kind in KINDS)
        for name in ("positive", "samples")
    )


def held_out_points(run, name):
    """Steps and percent right of one held-out set (name: a key of HELD_OUT)."""
    pairs = [(r["step"], (r["heldout"].get(name) or {}).get("all")) for r in run.held_out]
    pairs = [(step, pair) for step, pair in pairs if pair and pair[1]]
    return [step for step, _ in pairs], [100 * right / n for _, (right, n) in pairs]


def entry_classes(rows, most=6):
    """[(label, keys)], hardest first: the entry accuracies that occur. Beyond `most`, neighbours
    are merged, except the lowest.
    """
    tables = [
        r["buffer"].get(t) or {}
        for r in rows
        if r.get("buffer")
        for t in ("occupancy", "admitted", "graduated", "evicted")
    ]
    keys = sorted({key for table in tables for key in table}, key=float)
    runs = [[k] for k in keys]
    if len(keys) > most:
        runs = [keys[:1]] + [list(part) for part in np.array_split(keys[1:], most - 1)]
    names = [[f"{100 * float(k):.3g}" for k in (run[0], run[-1])] for run in runs]
    return [
        (f"{a} %" if a == b else f"{a} to {b} %", [str(k) for k in run])
        for (a, b), run in zip(names, runs)
    ]


def buffer_table(rows, table, keys):
    return sum(column(rows, "buffer", table, key, absent=0.0) for key in keys)


def graduation_curves(rows):
    """{entry class: (percent, graduated, admitted)}, arrays over steps (Fig. 4); percent is NaN
    before the first admission.
    """
    curves = {}
    for label, keys in entry_classes(rows):
        # running maximum: the counters are cumulative, so a line without them must not fall back to
        # zero
        graduated, admitted = [
            np.maximum.accumulate(buffer_table(rows, t, keys)) for t in ("graduated", "admitted")
        ]
        curves[label] = running(100 * graduated, admitted, 1), graduated, admitted
    return {label: c for label, c in curves.items() if c[2][-1] > 0}


def fate_table(rows, most=10):
    """{attempts: {fate: count}} of the last line that has one (Fig. 24); attempts from `most` on
    share a row.
    """
    last = next((r["fate"] for r in reversed(rows) if r.get("fate")), {})
    table = {}
    for attempts in sorted(last, key=int):
        row = table.setdefault(
            attempts if int(attempts) < most else f"{most}+", dict.fromkeys(FATES, 0)
        )
        for fate in FATES:
            row[fate] += last[attempts].get(fate) or 0
    return {attempts: row for attempts, row in table.items() if sum(row.values())}


def phase_seconds(rows):
    """{phase: seconds a step}; "other" is what the total has beyond its phases."""
    names = dict.fromkeys(
        [*PHASES, *(k for r in rows for k in r.get("seconds") or {} if k != "total")]
    )
    parts = {name: column(rows, "seconds", name, absent=0.0) for name in names}
    other = column(rows, "seconds", "total", absent=0.0) - sum(parts.values())
    return {name: v for name, v in {**parts, "other": np.maximum(other, 0)}.items() if v.any()}


# ---- drawing ----


def new_figure(title, rows=1, cols=1, height=4.2, **kw):
    fig = Figure(figsize=(8, height), layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return fig, fig.subplots(rows, cols, squeeze=False, **kw).ravel()


def legend(ax, cols):
    """Above the axes, where it cannot cover a curve."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=cols,
            borderaxespad=0.2,
            handlelength=1.6,
            columnspacing=1.4,
        )


def curve(ax, run, top, bottom, colour, label, scale=1.0, thin=0.35):
    """Single steps thin (`thin`: their alpha), the running mean thick; nothing at all where no step
    has a value.
    """
    steps, window = column(run.rows, "step"), smoothing(run.rows)
    raw, mean = scale * running(top, bottom, 1), scale * running(top, bottom, window)
    if np.isfinite(raw).any():
        few = len(steps) <= 3
        if window > 1:
            ax.plot(steps, raw, color=colour, lw=0.8, alpha=thin)
        ax.plot(
            steps,
            mean,
            color=colour,
            lw=2.2,
            label=label,
            marker="o" if few else None,
            ms=5,
            clip_on=not few,
        )


def mean_curve(ax, run, values, colour, label, thin=0.35):
    curve(ax, run, values, np.ones(len(values)), colour, label, thin=thin)


def stacked(ax, rows, parts):
    """parts: [(label, colour, values)] as filled steps, so that a run of one step is visible too."""
    steps = column(rows, "step")
    edges = np.concatenate([[steps[0] - 0.5], (steps[1:] + steps[:-1]) / 2, [steps[-1] + 0.5]])
    base = np.zeros(len(steps))
    for label, colour, values in parts:
        ax.stairs(base + values, edges, baseline=base, fill=True, color=colour, label=label, lw=0)
        base = base + values
    ax.set_xlim(edges[0], edges[-1])
    return base


def entry_colours(rows):
    """{entry class: colour}, the hardest darkest; the same in every figure of a run."""
    names = [label for label, _ in entry_classes(rows)]
    return dict(zip(names, matplotlib.colormaps["cividis"](np.linspace(0.0, 0.88, len(names)))))


def window_note(runs):
    windows = sorted({smoothing(r.rows) for r in runs if r.rows})
    return f"  (thick: mean of the last {windows[-1]} steps)" if windows and windows[-1] > 1 else ""


def accuracy(runs):
    """One run: all kinds in one panel, colour = kind. Several: a panel a kind, colour = run."""
    panels = [k for k in KINDS if any(np.nansum(accuracy_counts(r.rows, k)[1]) > 0 for r in runs)]
    panels += [name for name in HELD_OUT if any(held_out_points(r, name)[0] for r in runs)]
    if not panels:
        return None
    single, tall = len(runs) == 1, (len(panels) + 1) // 2
    if single:
        fig, axes = new_figure("Accuracy by kind of prompt" + window_note(runs))
        axes = np.repeat(axes, len(panels))
    else:
        fig, axes = new_figure(
            "Accuracy" + window_note(runs), tall, 2, height=0.9 + 2.4 * tall, sharex=True
        )
        runs_legend(fig, runs)
    for ax, panel in zip(axes, panels):
        name, kind_colour = KINDS.get(panel) or (HELD_OUT[panel], "black")
        for run, run_colour in zip(runs, RUNS * len(runs)):
            colour, label = (kind_colour, name) if single else (run_colour, run.label)
            if panel in KINDS:
                curve(
                    ax,
                    run,
                    *accuracy_counts(run.rows, panel),
                    colour,
                    label,
                    scale=100,
                    thin=0.35 if single else 0.2,
                )
            else:
                ax.plot(
                    *held_out_points(run, panel),
                    color=colour,
                    ls=":",
                    lw=1.2,
                    ms=5,
                    label=label,
                    marker="Dsv"[list(HELD_OUT).index(panel)],
                )
        ax.set(ylabel="right answers (%)", ylim=(0, 102), title="" if single else name)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(panels) - 2) : len(panels)]:
        step_axis(ax)
    if single:
        legend(axes[0], 4)
    return fig


def step_axis(ax):
    ax.set_xlabel("rollout step")
    ax.tick_params(labelbottom=True)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def runs_legend(fig, runs):
    """One legend for all panels, from the colours and not from a panel, which may lack a run."""
    lines = [
        matplotlib.lines.Line2D([], [], color=colour, lw=2.2)
        for _, colour in zip(runs, RUNS * len(runs))
    ]
    fig.legend(lines, [r.label for r in runs], loc="outside lower left", ncols=3)


def graduations(runs):
    if len(runs) > 1:
        fig, (ax,) = new_figure(
            "Graduated of the questions admitted at 0 % (or the lowest accuracy)"
        )
    else:
        fig, (ax,) = new_figure(
            "Graduated of the questions admitted to the buffer, by accuracy on entry"
        )
    for run, colour in zip(runs, RUNS * len(runs)):
        curves = graduation_curves(run.rows) if run.rows else {}
        for entry in list(curves)[: 1 if len(runs) > 1 else None]:
            percent, graduated, admitted = curves[entry]
            ax.plot(
                column(run.rows, "step"),
                percent,
                lw=2.2,
                color=colour if len(runs) > 1 else entry_colours(run.rows)[entry],
                label=f"{run.label if len(runs) > 1 else f'entry {entry}'}: "
                f"{graduated[-1]:.0f} of {admitted[-1]:.0f} ({percent[-1]:.1f} %)",
                marker="o" if len(run.rows) <= 3 else None,
                ms=5,
                clip_on=len(run.rows) > 3,
            )
    if not ax.lines:
        return None
    step_axis(ax)
    ax.set(ylabel="graduated / admitted,\ncumulative (%)")
    ax.set_ylim(0, max(5.0, 1.08 * max(np.nanmax(line.get_ydata()) for line in ax.lines)))
    legend(ax, 2)
    return fig


def dynamics(runs):
    if not any(r.rows for r in runs):
        return None
    fig, axes = new_figure(
        "Dynamics" + window_note(runs), 2, 2, height=5.4 if len(runs) == 1 else 5.8, sharex=True
    )
    thin = 0.35 if len(runs) == 1 else 0.2
    titles = (
        "entropy (nats per token)",
        "answers with positive advantage (%)",
        loss_name(runs),
        "gradient norm before clipping",
    )
    for run, colour in zip(runs, RUNS * len(runs) if len(runs) > 1 else [KINDS["new"][1]]):
        if run.rows:
            curve(axes[1], run, *positive_counts(run.rows), colour, run.label, scale=100, thin=thin)
            for ax, name in ((axes[0], "entropy"), (axes[2], "loss"), (axes[3], "grad_norm")):
                mean_curve(ax, run, column(run.rows, name), colour, run.label, thin=thin)
    for ax, title in zip(axes, titles):
        ax.set_title(title)
    for ax in axes[:2]:
        ax.set_ylim(bottom=0)
    for ax in axes[2:]:
        step_axis(ax)
    if len(runs) > 1:
        runs_legend(fig, runs)
    return fig


def loss_name(runs):
    """What "loss" is in these runs: the distillation methods minimize a divergence, the others
    PPO's surrogate.
    """
    distill = {r.config.get("method", "").endswith("distill") for r in runs}
    return (
        "loss (policy; distillation: JSD in nats)"
        if len(distill) > 1
        else "Jensen-Shannon divergence (nats per token)"
        if True in distill
        else "policy loss"
    )


def buffer(run):
    colours = entry_colours(run.rows)
    parts = [
        (f"entry {label}", colours[label], buffer_table(run.rows, "occupancy", keys))
        for label, keys in entry_classes(run.rows)
    ]
    parts = [part for part in parts if part[2].any()]
    capacity = column(run.rows, "buffer", "capacity")
    capacity = capacity[np.isfinite(capacity)][-1:]
    fig, (ax,) = new_figure(
        "Questions in the replay buffer, by accuracy on entry"
        + "".join(f"  (capacity {c:,.0f})" for c in capacity)
    )
    if not parts:
        return None
    top = stacked(ax, run.rows, parts)
    if capacity.size and top.max() > 0.5 * capacity[0]:
        ax.axhline(capacity[0], color="black", lw=1, ls="--", label="capacity")
    step_axis(ax)
    ax.set_ylabel("questions")
    legend(ax, 4)
    return fig


def composition(run):
    tau = run.config.get("tau")
    names = {
        "easy": (f"easy (mean reward ≥ {'τ' if tau is None else tau})", EASY),
        "bcq": ("BCQ-eligible", KINDS["bcq"][1]),
        "ncq": ("NCQ-eligible", KINDS["ncq"][1]),
    }
    fig, (ax,) = new_figure("Composition of the plain groups" + window_note([run]))
    for name, (label, colour) in names.items():
        curve(
            ax,
            run,
            column(run.rows, "composition", name),
            column(run.rows, "composition", "groups"),
            colour,
            label,
            scale=100,
        )
    for line in ax.lines[-2:]:
        line.set_linestyle(
            (0, (3, 2))
        )  # where every hard question has both, the BCQ curve shows through
    step_axis(ax)
    ax.set(ylabel="share of plain groups (%)", ylim=(0, 102))
    legend(ax, 3)
    return fig if ax.lines else None


def cost(run):
    seconds = phase_seconds(run.rows)
    peak = column(run.rows, "peak_gb")
    parts = [
        (*PHASES.get(name, (name.replace("_", " "), GREY)), values)
        for name, values in seconds.items()
    ]
    hours = sum(v.sum() for v in seconds.values()) / 3600
    spent = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    fig, (ax, tokens) = new_figure(
        f"Cost: {spent} in {len(run.rows)} step{'s' * (len(run.rows) > 1)}"
        + (f", peak {np.nanmax(peak):.1f} GB" if np.isfinite(peak).any() else ""),
        2,
        1,
        height=6.2,
        sharex=True,
    )
    top = stacked(ax, run.rows, parts)
    usual = np.percentile(top, 95)
    if (
        top.max() > 2 * usual > 0
    ):  # one compiling or evaluating step must not flatten all the others
        ax.set_ylim(0, 1.3 * usual)
        ax.annotate(
            f"cut: step {run.rows[int(top.argmax())]['step']} took {top.max():.0f} s",
            (0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=9,
        )
    ax.set_ylabel("seconds a step")
    ax.tick_params(labelbottom=True)
    legend(ax, 4)
    for name, label, colour in (
        ("generated", "student, generated", KINDS["new"][1]),
        ("trained", "student, trained", KINDS["ncq"][1]),
        ("teacher", "teacher, generated", TEACHER),
    ):
        mean_curve(tokens, run, column(run.rows, "tokens", name) / 1000, colour, label)
    step_axis(tokens)
    tokens.set_ylabel("thousand tokens a step")
    tokens.set_ylim(bottom=0)
    legend(tokens, 3)
    return fig if parts or tokens.lines else None


def fate(run):
    table = fate_table(run.rows)
    if not table:
        return None
    fig, (ax,) = new_figure("Fate of replayed questions, by number of attempts")
    totals = np.array([sum(row.values()) for row in table.values()])
    base = np.zeros(len(totals))
    for name, (label, colour) in FATES.items():
        share = 100 * np.array([row[name] for row in table.values()]) / totals
        ax.bar(list(table), share, bottom=base, color=colour, label=label, width=0.75)
        base = base + share
    for x, n in enumerate(totals):
        ax.text(x, 101, f"n = {n}", ha="center", va="bottom", fontsize=9)
    ax.set(
        xlabel="times sampled again",
        ylabel="share of questions (%)",
        ylim=(0, 108),
        yticks=range(0, 101, 20),
    )
    ax.set_xlim(-0.6, max(len(totals), 4) - 0.4)
    ax.grid(axis="x", visible=False)
    legend(ax, 3)
    return fig


def labels(folders):
    """The folder's name; with its parent where two names clash."""
    paths = [Path(f).resolve() for f in folders]
    names = [p.name for p in paths]
    return [p.name if names.count(p.name) == 1 else f"{p.parent.name}/{p.name}" for p in paths]


def draw(run, out=None):
    """Write the figures of one run folder, or of a list of them overlaid; return their paths.

    out: folder to write into; by default `figures` in the run folder, `figures/compare` in the
    first one when there are several.
    """
    folders = [run] if isinstance(run, (str, Path)) else list(run)
    runs = [read(folder, label) for folder, label in zip(folders, labels(folders))]
    out = Path(out or Path(folders[0]) / ("figures" if len(runs) == 1 else "figures/compare"))
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        figures = {make.__name__: make(runs) for make in (accuracy, graduations, dynamics)}
        if len(runs) == 1 and runs[0].rows:
            figures |= {make.__name__: make(runs[0]) for make in (buffer, composition, cost, fate)}
        for name, fig in figures.items():
            if fig is not None:
                fig.savefig(out / f"{name}.png")
                written.append(out / f"{name}.png")
    return written


def main():
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("runs", nargs="+", metavar="RUN", help="run folders with a metrics.jsonl")
    flags.add_argument(
        "--out", help="folder for the figures; by default inside the (first) run folder"
    )
    args = flags.parse_args()
    print("\n".join(map(str, draw(args.runs, args.out))))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as e:
        raise SystemExit(f"error: {e}") from None
