"""Numbers of a comparison: means, intervals, paired differences, as Markdown and CSV.

Decisions:

* The spread is over seeds: mean and 95 % t-interval of k runs; one run has no interval. Three seeds
  make wide ones (t = 4.30).
* Differences to GRPO† are paired: seed s of a method minus seed s of GRPO†, then mean and
  t-interval of these. Seeds of one number share the order of the questions, so much of the noise is
  common. Where the runs log every held-out question ("heldout_right"), the standard error over
  questions stands beside it: the other half of what chance could do.
* Counts are pooled over seeds before they are divided.
* FLOPs by Table 9's convention: 2N per sampled token, 6N per trained one, N of the model in
  question; prompts, old log-probs and vision cost nothing in it.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from figures import series
from figures.series import KINDS, RUN, SPLITS, column, final_count, interval

BASE = "GRPO†"  # what all are compared with
HARDEST = ["0.000"]  # entry accuracy of a question that no sample solved
TOKENS = ("generated", "trained", "teacher")


def read(out, steps, labels):
    """(table of figures.series with labels as arms, in their order; lines about runs left out).

    The runs are the folders ARM-seedS in `out`, cut to `steps` (0: to the steps of the longest);
    shorter ones are left out. labels: {arm: label}.
    """
    tables, left_out = {}, []
    for folder in sorted(Path(out).glob("*-seed*")):
        arm, _, seed = folder.name.rpartition("-seed")
        if arm in labels and seed.isdigit() and folder.is_dir():
            try:
                run = series.read([folder], {folder: (labels[arm], int(seed))})
                tables[folder.name] = run
            except ValueError as e:  # killed before its first line; the others are worth a table
                left_out.append(f"{folder.name}: {e}")
    last = {name: run.index[-1][2] for name, run in tables.items()}
    steps = steps or max(last.values(), default=0)
    left_out += [f"{name}: {n} of {steps} steps" for name, n in last.items() if n < steps]
    order = {label: place for place, label in enumerate(labels.values())}
    whole = [run for name, run in tables.items() if last[name] >= steps]
    whole.sort(key=lambda run: (order[run.index[0][0]], run.index[0][1]))
    if not whole:
        return pd.DataFrame(), left_out
    table = pd.concat(whole)
    return table[table.index.get_level_values("step") <= steps], left_out


def arms_of(table):
    return list(dict.fromkeys(table.index.get_level_values("arm")))


def tokens_spent(table):
    """Tokens that the student sampled up to each step."""
    return series.summed(table, ["tokens/generated"]).groupby(RUN, sort=False).cumsum()


def equal_tokens(table):
    """The table with every run cut where the student had sampled no more tokens than in the
    cheapest whole run of its seed.

    Tokens of all kinds of prompts count. A held-out accuracy at the cut lies on the line between
    the evaluations around it.
    """
    spent = tokens_spent(table)
    budget = spent.groupby(RUN).max().groupby("seed").min()
    # single answers do not lie on a line: without them there is no error over questions
    table = table.drop(columns=series.columns(table, "heldout_right/.*"))
    for name in series.columns(table, "heldout/.*/all/.*"):
        runs = table[name].groupby(RUN, sort=False)
        table[name] = runs.transform(lambda run: run.interpolate(limit_area="inside"))
    return table[spent.to_numpy() <= budget[table.index.get_level_values("seed")].to_numpy()]


# ---- numbers ----


def summary(table):
    """One row a run, indexed (arm, seed): its quantities, NaN where a run has none."""

    def last(values):
        return values.dropna().groupby(RUN).last()

    def total(name):
        return series.summed(table, [name]).groupby(RUN, sort=False).sum()

    steps = pd.Series(table.index.get_level_values("step"), table.index)
    out = {split: last(series.held_out(table, split)) for split in SPLITS}
    out["graduated_at_0"] = last(series.graduated(table, HARDEST))
    out["graduated_all"] = last(series.graduated(table))
    for kind in KINDS:
        correct, samples = (total(f"groups/{kind}/{name}") for name in ("correct", "samples"))
        out[f"{kind}_right"] = 100 * correct / samples.where(samples > 0)
    out["steps"] = (steps > 0).groupby(RUN).sum().astype(float)
    out["evaluated_at_step"] = last(steps.where(column(table, "heldout/heldout/all/samples") > 0))
    for name in TOKENS:
        out[f"tokens_{name}"] = total(f"tokens/{name}")
    student, teacher = (
        last(column(table, f"config/{who}_params")) for who in ("student", "teacher")
    )
    sampled, trained, asked = (out[f"tokens_{name}"] for name in TOKENS)
    out["flops"] = (2 * sampled + 6 * trained) * student.reindex(sampled.index)
    out["flops"] += (2 * asked * teacher.reindex(asked.index)).where(asked > 0, 0.0)
    out["seconds"] = total("seconds/total")
    return pd.DataFrame(out, index=sampled.index)


def means(numbers):
    """The mean over seeds: a row an arm."""
    return numbers.groupby("arm", sort=False).mean()


def differences(numbers, arm, quantity):
    """The quantity of an arm minus that of GRPO†, by seed, for seeds that both have; empty for
    GRPO† itself and without it.
    """
    by_arm = numbers[quantity].unstack("arm")
    if arm == BASE or BASE not in by_arm:
        return pd.Series(dtype=float)
    return (by_arm[arm] - by_arm[BASE]).dropna()


def question_error(table, arm, split):
    """Standard error, in points, of the difference to GRPO† over the questions, each the mean over
    the seeds of both; NaN where the runs do not log "heldout_right": {split: "0110..."}.
    """
    name = f"heldout_right/{split}"
    if name not in table or arm == BASE or BASE not in arms_of(table):
        return math.nan
    last = table[name].dropna().groupby(RUN).last()
    pairs = last.unstack("arm").reindex(columns=[arm, BASE]).dropna()
    digits = [[np.array(list(text), dtype=float) for text in pair] for pair in pairs.to_numpy()]
    if len({len(answers) for pair in digits for answers in pair}) != 1:
        return math.nan
    by_question = np.mean([ours - theirs for ours, theirs in digits], axis=0)
    return 100 * pd.Series(by_question).sem()


# ---- Markdown ----


def markdown_table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plus_minus(mean, half, sign=""):
    if not math.isfinite(mean):
        return "-"
    return f"{mean:{sign},.1f}" + (f" ± {half:,.1f}" if math.isfinite(half) else "")


def number(value, form):
    return format(value, form) if math.isfinite(value) else "-"


def percent(part, whole, form=".1f"):
    return f"{100 * part / whole:{form}}" if whole else "-"


def main_table(table):
    """One row a method: accuracies on held-out questions, graduations, tokens and seconds."""
    numbers, start = summary(table), series.before_training(table)
    before = [number(series.held_out(start, split).mean(), ".1f") for split in SPLITS]
    rows = [["before any RL", "", *before, "", "", "", "", ""]]
    for arm, mean in means(numbers).iterrows():
        seeds = numbers.loc[arm]
        cells = [plus_minus(*interval(seeds[q])) for q in (*SPLITS, "graduated_at_0")]
        spent = [f"{mean[f'tokens_{name}'] / 1000:,.0f}" for name in TOKENS]
        a_step = mean["seconds"] / mean["steps"] if mean["steps"] else math.nan
        rows.append([arm, len(seeds), *cells, *spent, number(a_step, ".1f")])
    head = ["method", "seeds", *(f"{name}, %" for name in SPLITS.values())]
    head += ["graduated of those admitted at 0 %, %", "sampled, k tokens", "trained, k tokens"]
    return markdown_table([*head, "teacher, k tokens", "s / step"], rows)


def difference_table(table):
    """ "" without GRPO†, or without another method."""
    numbers, rows = summary(table), []
    for arm in arms_of(table):
        pairs = len(differences(numbers, arm, "steps"))
        if not pairs:
            continue
        cells = []
        for q in (*SPLITS, "graduated_at_0"):
            cell = plus_minus(*interval(differences(numbers, arm, q)), sign="+")
            error = question_error(table, arm, q)
            cells.append(cell + (f" ({error:.1f})" if math.isfinite(error) else ""))
        rows.append([arm, pairs, *cells])
    head = ["method", "pairs", *SPLITS.values(), "graduated at 0 %"]
    return markdown_table(head, rows) if rows else ""


def entry_table(table):
    """Fig. 4: graduated / admitted by entry accuracy, pooled over seeds."""
    rows = {arm: [arm] for arm in arms_of(table)}
    classes = series.entry_classes(table)
    for keys in classes.values():
        graduated, admitted = (final_count(table, e, keys) for e in ("graduated", "admitted"))
        for arm, row in rows.items():
            g, n = graduated[arm], admitted[arm]
            row.append(f"{g:.0f} / {n:.0f} ({percent(g, n, '.0f')} %)" if n else "-")
    return markdown_table(["method", *(f"at {label}" for label in classes)], rows.values())


def leaving_table(table):
    """Fig. 23: what became of the admitted questions, pooled over seeds; arms that replay."""
    events = ("admitted", "graduated", "evicted")
    counts = pd.DataFrame({event: final_count(table, event) for event in events})
    rows = []
    for arm, (n, g, e) in counts.loc[series.replaying(table)].iterrows():
        shares = [f"{k:.0f} ({percent(k, n)} %)" if n else "-" for k in (g, e, n - g - e)]
        rows.append([arm, f"{n:.0f}", *shares])
    head = ["method", *events, "still inside"]
    return markdown_table(head, rows) if rows else "No method here has a buffer."


def audit_tables(table):
    """Tables 16 and 17, pooled over seeds; the arms that had such prompts, "" where none had."""
    sides, matches = ("right", "wrong"), ("positive", "negative", "neither")
    bcq, ncq = [], []
    for arm in arms_of(table):
        runs = table.loc[[arm]]

        def total(path, runs=runs):
            return column(runs, path).sum()

        cells = [[total(f"audit/bcq/{side}/{match}") for match in matches] for side in sides]
        if n := sum(map(sum, cells)):
            shares = [percent(sum(cells[0]), n), *(percent(v, n) for row in cells for v in row)]
            bcq.append([arm, f"{n:.0f}", *shares])
        if n := total("audit/ncq/answers"):
            right = percent(total("groups/ncq/correct"), total("groups/ncq/samples"))
            ncq.append([arm, f"{n:.0f}", right, percent(total("audit/ncq/repeats"), n)])
    whose = ("= correct candidate", "= wrong candidate", "neither")
    head = ["method", "BCQ responses", "right, %"]
    head += [f"{side}, {match}, %" for side in sides for match in whose]
    other = ["method", "NCQ responses with an answer", "right, %", "repeat a listed answer, %"]
    return [markdown_table(h, rows) if rows else "" for h, rows in ((head, bcq), (other, ncq))]


def cost_table(table):
    """Table 9: the cost of one run, mean over seeds."""
    mean, rows = means(summary(table)), []
    base = mean["seconds"].get(BASE, math.nan)
    for arm, m in mean.iterrows():
        spent = [f"{m[f'tokens_{name}'] / 1000:,.1f}" for name in TOKENS]
        cost = [number(m["flops"], ".2e"), f"{m['seconds'] / 60:.1f}"]
        rows.append([arm, f"{m['steps']:.0f}", *spent, *cost, number(m["seconds"] / base, ".2f")])
    head = ["method", "steps", "sampled, k tokens", "trained, k tokens", "teacher, k tokens"]
    return markdown_table([*head, "FLOPs", "minutes", f"time / {BASE}'s"], rows)


def scope(table, equal):
    """What the numbers are of: the steps of all, or the cut at equal tokens."""
    numbers = summary(table)
    steps = " to ".join(f"{n:.0f}" for n in sorted({numbers.steps.min(), numbers.steps.max()}))
    if not equal:
        return f"All methods: {steps} rollout steps of the tiny world."
    evaluated = means(numbers)["evaluated_at_step"].items()
    at = ", ".join(f"{arm} {step:.0f}" for arm, step in evaluated)
    return (
        "Equal tokens: each run is cut where its student had sampled as many tokens as in the "
        f"cheapest run of its seed ({steps} steps). Held-out accuracies lie on the line between "
        f"the evaluations around it, on average at step: {at}. Graduations are exact."
    )


def markdown(table, equal=False, made=()):
    """The whole table.md. equal: the table was cut by equal_tokens(); made: the commits that made
    the runs.
    """
    errors = [question_error(table, arm, split) for arm in arms_of(table) for split in SPLITS]
    paired = "Seed by seed; mean ± half of the 95 % t-interval over these differences."
    if any(map(math.isfinite, errors)):
        paired += " In parentheses the standard error over the questions."
    bcq, ncq = audit_tables(table)
    parts = [
        "# Methods on the tiny world" + (", at equal tokens" if equal else ""),
        scope(table, equal) + (f" Made by commit {', '.join(made)}." if made else ""),
        "Mean ± half of the 95 % t-interval over seeds. † = with the replay buffer; a method "
        "without it never replays a question, and its graduations are only counted.",
        main_table(table),
        f"## Paired differences to {BASE}, in points",
        paired,
        difference_table(table) or f"There is no run of {BASE} (grpo+buffer) to compare with.",
        "## Graduated / admitted by accuracy on entry, all seeds (Fig. 4)",
        entry_table(table),
        "## What became of the admitted questions, all seeds (Fig. 23)",
        leaving_table(table),
        *(["## Whose answer a BCQ response gives, all seeds (Table 16)", bcq] if bcq else []),
        *(["## What an NCQ response answers, all seeds (Table 17)", ncq] if ncq else []),
        "## Cost of one run, mean over seeds (Table 9)",
        "FLOPs: 2N per sampled token, 6N per trained token, N the parameters of student or "
        "teacher. Minutes are of the steps, without held-out questions, and depend on what else "
        "ran.",
        cost_table(table),
    ]
    return "\n\n".join(parts) + "\n"


def as_csv(table, labels):
    """Every quantity of every arm, a line each: mean, interval, difference to GRPO† with interval,
    the values by seed. labels: {arm: label}.
    """
    numbers, rows = summary(table), []
    names = {label: name for name, label in labels.items()}
    for arm in arms_of(table):
        for q in numbers:
            v = numbers.loc[arm, q].dropna()
            if not len(v):
                continue
            (mean, half), (diff, by) = interval(v), interval(differences(numbers, arm, q))
            row = {"method": names[arm], "label": arm, "quantity": q, "seeds": len(v)}
            row |= {"mean": mean, "low": mean - half, "high": mean + half, "difference": diff}
            row |= {"difference_low": diff - by, "difference_high": diff + by}
            row["question_error"] = question_error(table, arm, q)
            row["by_seed"] = " ".join(f"{seed}:{x:.6g}" for seed, x in v.items())
            rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
