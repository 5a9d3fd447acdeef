"""Numbers of a comparison, from the metrics.jsonl of its runs: means, intervals, paired
differences, Markdown and CSV.

Written by compare.py. Decisions:

* The spread is over seeds: mean and 95 % t-interval of k runs; one run has no interval. Three seeds
  make wide ones (t = 4.30).
* Differences to GRPO† are paired: seed s of a method minus seed s of GRPO†, then mean and
  t-interval of these. Seeds of one number share the order of the questions, so much of the noise is
  common. Where the runs log every held-out question ("heldout_right"), the standard error over
  questions stands beside it: the other half of what chance could do.
* Counts are pooled over seeds before they are divided.
* A method without buffer graduates questions, too: train.py keeps the books and replays none.
* FLOPs by Table 9's convention: 2N per sampled token, 6N per trained one, N of the model in
  question; prompts, old log-probs and vision cost nothing in it.
"""

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from figures import plot

BASE = "grpo+buffer"  # what all are compared with: GRPO†
SPLITS = {"heldout": "images", "heldout_text": "text only", "heldout_video": "video"}


class Arm(NamedTuple):
    name: str
    label: str  # as the paper calls it
    runs: dict  # seed -> plot.Run, cut to the steps that are compared


# ---- reading -------------------------------------------------------------------------------------


def read(out, steps, labels):
    """([Arm] in the order of `labels`, lines about runs that are left out). labels: {arm: label}.

    The runs are the folders ARM-seedS in `out`, cut to `steps` (0: to the steps of the longest);
    shorter ones are left out.
    """
    found, left_out = {}, []
    for folder in sorted(Path(out).glob("*-seed*")):
        name, _, seed = folder.name.rpartition("-seed")
        if name not in labels or not seed.isdigit() or not folder.is_dir():
            continue
        try:
            found[name, int(seed)] = plot.read(folder)
        except (
            ValueError
        ) as e:  # killed before or in its first line; the others are still worth a table
            left_out.append(f"{folder.name}: {e}")
    last = {key: run.rows[-1]["step"] if run.rows else 0 for key, run in found.items()}
    steps = steps or max(last.values(), default=0)
    left_out += [
        f"{name}-seed{seed}: {last[name, seed]} of {steps} steps"
        for name, seed in found
        if last[name, seed] < steps
    ]
    arms = [
        Arm(
            name,
            label,
            {
                seed: cut(run, steps)
                for (n, seed), run in sorted(found.items())
                if n == name and last[n, seed] >= steps
            },
        )
        for name, label in labels.items()
    ]
    return [a for a in arms if a.runs], left_out


def cut(run, step):
    """The run as it was after `step`."""
    return run._replace(
        rows=[r for r in run.rows if r["step"] <= step],
        held_out=[r for r in run.held_out if r["step"] <= step],
    )


def equal_tokens(arms):
    """The arms with every run cut where the student had sampled no more tokens than in the cheapest
    whole run of its seed.

    Tokens of all kinds of prompts count. A held-out accuracy at the cut lies on the line between
    the evaluations around it.
    """
    budget = {
        seed: min(generated(a.runs[seed])[-1] for a in arms if seed in a.runs)
        for a in arms
        for seed in a.runs
    }
    return [
        a._replace(
            runs={
                seed: between(
                    run,
                    max(
                        [
                            0,
                            *(
                                r["step"]
                                for r, n in zip(run.rows, generated(run))
                                if n <= budget[seed]
                            ),
                        ]
                    ),
                )
                for seed, run in a.runs.items()
            }
        )
        for a in arms
    ]


def between(run, step):
    """cut(), and the held-out accuracy at `step` on the line between the evaluations around it."""
    out, later = cut(run, step), [r for r in run.held_out if r["step"] > step]
    if not out.held_out or out.held_out[-1]["step"] == step or not later:
        return out
    a, b = out.held_out[-1], later[0]
    w = (step - a["step"]) / (b["step"] - a["step"])
    mix = {
        s: {
            "all": [
                (1 - w) * a["heldout"][s]["all"][0] + w * b["heldout"][s]["all"][0],
                a["heldout"][s]["all"][1],
            ]
        }
        for s in a["heldout"]
        if s in b["heldout"]
    }
    return out._replace(held_out=[*out.held_out, {"step": step, "heldout": mix}])


def generated(run):
    """Tokens that the student sampled up to each step, cumulative."""
    return np.cumsum(plot.column(run.rows, "tokens", "generated", absent=0.0))


# ---- one run, one number -------------------------------------------------------------------------


def held_out(run, split):
    """Percent right at the last evaluation."""
    return ([math.nan] + plot.held_out_points(run, split)[1])[-1]


def evaluated(run):
    """The step of the last evaluation."""
    return float(run.held_out[-1]["step"]) if run.held_out else math.nan


def buffer_count(run, event, keys=None):
    """Questions admitted, graduated or evicted so far; keys: only those with these entry
    accuracies.
    """
    last = next((r["buffer"] for r in reversed(run.rows) if r.get("buffer")), {})
    return sum(n for key, n in (last.get(event) or {}).items() if keys is None or key in keys)


def graduated(run, keys=("0.000",)):
    """Percent graduated of the questions admitted with these entry accuracies."""
    return percent(buffer_count(run, "graduated", keys), buffer_count(run, "admitted", keys))


def right(run, kind):
    """Percent right of all samples of a kind of prompt."""
    return percent(
        *(v.sum() for v in (np.nan_to_num(x) for x in plot.accuracy_counts(run.rows, kind)))
    )


def percent(top, bottom):
    return 100 * top / bottom if bottom else math.nan


def total(run, *keys):
    return float(plot.column(run.rows, *keys, absent=0.0).sum())


def flops(run):
    """Table 9's convention; NaN where config.json does not say how many parameters the models have."""
    student, teacher = (
        run.config.get(f"{who}_params") or math.nan for who in ("student", "teacher")
    )
    sampled, trained, asked = (
        total(run, "tokens", name) for name in ("generated", "trained", "teacher")
    )
    return (2 * sampled + 6 * trained) * student + (2 * asked * teacher if asked else 0.0)


QUANTITIES = {
    **{split: lambda r, split=split: held_out(r, split) for split in SPLITS},
    "graduated_at_0": graduated,
    "graduated_all": lambda r: graduated(r, None),
    **{f"{kind}_right": lambda r, kind=kind: right(r, kind) for kind in plot.KINDS},
    "steps": lambda r: float(len(r.rows)),
    "evaluated_at_step": evaluated,
    "tokens_generated": lambda r: total(r, "tokens", "generated"),
    "tokens_trained": lambda r: total(r, "tokens", "trained"),
    "tokens_teacher": lambda r: total(r, "tokens", "teacher"),
    "flops": flops,
    "seconds": lambda r: total(r, "seconds", "total"),
}


# ---- several runs --------------------------------------------------------------------------------


def interval(values):
    """(mean, half the width of its 95 % t-interval) of finite values; NaN for the half of a single
    one.
    """
    v = np.array([x for x in values if math.isfinite(x)], dtype=float)
    if len(v) == 0:
        return math.nan, math.nan
    return v.mean(), student_t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / math.sqrt(len(v)) if len(
        v
    ) > 1 else math.nan


def values(arm, quantity):
    """{seed: the quantity}."""
    return {seed: QUANTITIES[quantity](run) for seed, run in arm.runs.items()}


def differences(arm, base, quantity):
    """The quantity of an arm minus that of the base, for each seed that both have; [] without a
    base, and for the base itself.
    """
    if base is None or arm.name == base.name:
        return []
    ours, theirs = values(arm, quantity), values(base, quantity)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def question_error(arm, base, split):
    """Standard error, in points, of the difference to the base over the questions, each the mean
    over the seeds of both.

    NaN where the runs do not log "heldout_right": {split: "0110..."}, a digit a question.
    """

    def digits(run):
        text = ((run.held_out or [{}])[-1].get("heldout_right") or {}).get(split) or ""
        return np.array([int(c) for c in text], dtype=float)

    seeds = [s for s in arm.runs if s in base.runs]
    rows = [(digits(arm.runs[s]), digits(base.runs[s])) for s in seeds]
    if not rows or not all(len(a) == len(b) == len(rows[0][0]) > 1 for a, b in rows):
        return math.nan
    d = np.mean([a - b for a, b in rows], axis=0)
    return 100 * d.std(ddof=1) / math.sqrt(len(d))


def find(arms, name=BASE):
    return next((a for a in arms if a.name == name), None)


def buffered(arms):
    """The arms that replay."""
    return [a for a in arms if all(r.config.get("buffer", True) for r in a.runs.values())]


# ---- Markdown ------------------------------------------------------------------------------------


def table(head, rows):
    return "\n".join(
        "| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]
    )


def plus_minus(mean, half, digits=1, sign=""):
    if not math.isfinite(mean):
        return "-"
    return f"{mean:{sign},.{digits}f}" + (f" ± {half:,.{digits}f}" if math.isfinite(half) else "")


def main_table(arms):
    """One row a method: accuracies on held-out questions, graduations, tokens and seconds."""
    before = [
        interval(
            [
                ([math.nan] + plot.held_out_points(cut(r, 0), split)[1])[-1]
                for a in arms
                for r in a.runs.values()
            ]
        )[0]
        for split in SPLITS
    ]
    rows = [["before any RL", "", *(plus_minus(b, math.nan) for b in before), "", "", "", "", ""]]
    for a in arms:
        mean = {q: interval(values(a, q).values()) for q in QUANTITIES}
        steps = mean["steps"][0]
        rows.append(
            [
                a.label,
                len(a.runs),
                *(plus_minus(*mean[s]) for s in SPLITS),
                plus_minus(*mean["graduated_at_0"]),
                *(
                    f"{mean[f'tokens_{t}'][0] / 1000:,.0f}"
                    for t in ("generated", "trained", "teacher")
                ),
                f"{mean['seconds'][0] / steps:.1f}" if steps else "-",
            ]
        )
    return table(
        [
            "method",
            "seeds",
            *(f"{name}, %" for name in SPLITS.values()),
            "graduated of those admitted at 0 %, %",
            "sampled, k tokens",
            "trained, k tokens",
            "teacher, k tokens",
            "s / step",
        ],
        rows,
    )


def difference_table(arms):
    base, rows = find(arms), []
    for a in arms:
        if base is None or a.name == base.name:
            continue
        cells = []
        for q in (*SPLITS, "graduated_at_0"):
            cell, error = (
                plus_minus(*interval(differences(a, base, q)), sign="+"),
                question_error(a, base, q),
            )
            cells.append(cell + (f" ({error:.1f})" if cell != "-" and math.isfinite(error) else ""))
        rows.append([a.label, len(differences(a, base, "steps")), *cells])
    return table(["method", "pairs", *SPLITS.values(), "graduated at 0 %"], rows) if rows else ""


def entry_table(arms):
    """Fig. 4: graduated / admitted by entry accuracy, pooled over seeds."""
    classes = plot.entry_classes([r for a in arms for run in a.runs.values() for r in run.rows])
    rows = []
    for a in arms:
        counts = [
            [
                sum(buffer_count(r, event, keys) for r in a.runs.values())
                for event in ("graduated", "admitted")
            ]
            for _, keys in classes
        ]
        rows.append(
            [a.label, *(f"{g} / {n} ({percent(g, n):.0f} %)" if n else "-" for g, n in counts)]
        )
    return table(["method", *(f"at {label}" for label, _ in classes)], rows)


def leaving_table(arms):
    """Fig. 23: what became of the admitted questions, pooled over seeds; the arms with a buffer."""
    rows = []
    for a in buffered(arms):
        n, g, e = (
            sum(buffer_count(r, event) for r in a.runs.values())
            for event in ("admitted", "graduated", "evicted")
        )
        rows.append(
            [a.label, n, *(f"{k} ({percent(k, n):.1f} %)" if n else "-" for k in (g, e, n - g - e))]
        )
    return (
        table(["method", "admitted", "graduated", "evicted", "still inside"], rows)
        if rows
        else "No method here has a buffer."
    )


def audit_counts(arm, *keys):
    return sum(total(run, "audit", *keys) for run in arm.runs.values())


def audit_tables(arms):
    """Tables 16 and 17, pooled over seeds; the arms that had such prompts."""
    bcq, ncq = [], []
    for a in arms:
        cells = {
            (r, m): audit_counts(a, "bcq", r, m)
            for r in ("right", "wrong")
            for m in ("positive", "negative", "neither")
        }
        if n := sum(cells.values()):
            bcq.append(
                [
                    a.label,
                    f"{n:.0f}",
                    f"{percent(sum(v for (r, _), v in cells.items() if r == 'right'), n):.1f}",
                    *(f"{percent(v, n):.1f}" for v in cells.values()),
                ]
            )
        if n := audit_counts(a, "ncq", "answers"):
            accuracy = percent(
                *(
                    sum(total(r, "groups", "ncq", k) for r in a.runs.values())
                    for k in ("correct", "samples")
                )
            )
            ncq.append(
                [
                    a.label,
                    f"{n:.0f}",
                    f"{accuracy:.1f}",
                    f"{percent(audit_counts(a, 'ncq', 'repeats'), n):.1f}",
                ]
            )
    cells = [
        f"{r}, {m}, %"
        for r in ("right", "wrong")
        for m in ("= correct candidate", "= wrong candidate", "neither")
    ]
    return [
        table(["method", "BCQ responses", "right, %", *cells], bcq) if bcq else "",
        table(
            ["method", "NCQ responses with an answer", "right, %", "repeat a listed answer, %"], ncq
        )
        if ncq
        else "",
    ]


def cost_table(arms):
    base = find(arms)
    rows = []
    for a in arms:
        mean = {q: interval(values(a, q).values())[0] for q in QUANTITIES}
        ratio = (
            mean["seconds"] / interval(values(base, "seconds").values())[0] if base else math.nan
        )
        rows.append(
            [
                a.label,
                f"{mean['steps']:.0f}",
                *(
                    f"{mean[f'tokens_{t}'] / 1000:,.1f}"
                    for t in ("generated", "trained", "teacher")
                ),
                f"{mean['flops']:.2e}" if math.isfinite(mean["flops"]) else "-",
                f"{mean['seconds'] / 60:.1f}",
                f"{ratio:.2f}" if math.isfinite(ratio) else "-",
            ]
        )
    return table(
        [
            "method",
            "steps",
            "sampled, k tokens",
            "trained, k tokens",
            "teacher, k tokens",
            "FLOPs",
            "minutes",
            "time / GRPO†'s",
        ],
        rows,
    )


def markdown(arms, equal=False, made=()):
    """The whole table.md. equal: the arms were cut by equal_tokens(); made: lines about the code
    that made the runs.
    """
    steps = sorted({len(r.rows) for a in arms for r in a.runs.values()})
    evaluated_at = ", ".join(
        f"{a.label} {interval(values(a, 'evaluated_at_step').values())[0]:.0f}" for a in arms
    )
    errors = (
        any(math.isfinite(question_error(a, find(arms), s)) for a in arms for s in SPLITS)
        if find(arms)
        else False
    )
    bcq, ncq = audit_tables(arms)
    scope = (
        f"Equal tokens: each run is cut where its student had sampled as many tokens as in the cheapest run of its seed "
        f"({steps[0]} to {steps[-1]} steps). Held-out accuracies lie on the line between the evaluations around it, "
        f"on average at step: {evaluated_at}. Graduations are exact."
        if equal
        else f"All methods: {' to '.join(map(str, sorted({steps[0], steps[-1]})))} rollout steps of the tiny world."
    )
    parts = [
        "# Methods on the tiny world" + ", at equal tokens" * equal,
        scope + (f" Made by commit {', '.join(made)}." if made else ""),
        "Mean ± half of the 95 % t-interval over seeds. † = with the replay buffer; a method without it never replays a "
        "question, and its graduations are only counted.",
        main_table(arms),
        "## Paired differences to GRPO†, in points",
        "Seed by seed; mean ± half of the 95 % t-interval over these differences."
        + " In parentheses the standard error over the questions." * errors,
        difference_table(arms) or "There is no run of GRPO† (grpo+buffer) to compare with.",
        "## Graduated / admitted by accuracy on entry, all seeds (Fig. 4)",
        entry_table(arms),
        "## What became of the admitted questions, all seeds (Fig. 23)",
        leaving_table(arms),
        *(["## Whose answer a BCQ response gives, all seeds (Table 16)", bcq] if bcq else []),
        *(["## What an NCQ response answers, all seeds (Table 17)", ncq] if ncq else []),
        "## Cost of one run, mean over seeds (Table 9)",
        "FLOPs: 2N per sampled token, 6N per trained token, N the parameters of student or teacher. Minutes are of the steps, "
        "without held-out questions, and depend on what else ran.",
        cost_table(arms),
    ]
    return "\n\n".join(parts) + "\n"


def as_csv(arms):
    """Every quantity of every arm, a line each: mean, interval, difference to GRPO† with interval,
    the values by seed.
    """
    out, base = io.StringIO(), find(arms)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "method",
            "label",
            "quantity",
            "seeds",
            "mean",
            "low",
            "high",
            "difference",
            "difference_low",
            "difference_high",
            "question_error",
            "by_seed",
        ]
    )
    for a in arms:
        for q in QUANTITIES:
            v = values(a, q)
            if not any(map(math.isfinite, v.values())):
                continue
            (mean, half), (diff, dhalf) = interval(v.values()), interval(differences(a, base, q))
            error = (
                question_error(a, base, q)
                if base and a.name != base.name and q in SPLITS
                else math.nan
            )
            row = (mean, mean - half, mean + half, diff, diff - dhalf, diff + dhalf, error)
            writer.writerow(
                [
                    a.name,
                    a.label,
                    q,
                    len(v),
                    *map(_number, row),
                    " ".join(f"{seed}:{_number(x)}" for seed, x in v.items()),
                ]
            )
    return out.getvalue()


def _number(x):
    return f"{x:.6g}" if math.isfinite(x) else ""
