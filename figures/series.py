"""Numbers of one or many runs as one table, read once from their metrics.jsonl.

    table = read(["runs/zppo-tiny-1"])
    ratio(column(table, "groups/bcq/correct"), column(table, "groups/bcq/samples"), window=5)

A row is a step of a run, indexed (arm, seed, step); a column is a number of the record, named by
its path ("groups/bcq/correct", as in TensorBoard), or a setting of the run ("config/tau"). An arm
is what is compared: runs that differ in nothing but the seed.

Decisions. Every rate is a sum over a sum: smoothing pools the counts of the last steps, so that a
step with four BCQ groups weighs half of one with eight. Null and missing numbers are gaps, missing
counters zero. After a resume the file may hold a step twice; the later line wins.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from runtime.files import read_jsonl

RUN = ["arm", "seed"]
KINDS = ("new", "replay", "bcq", "ncq", "hint", "prefix")
SPLITS = {"heldout": "images", "heldout_text": "text only", "heldout_video": "video"}
OUTCOMES = ("graduated", "improved", "never")


def read(folders, names=None):
    """The table of some run folders. names: {folder: (arm, seed)}; by default `name_runs`.

    Raises ValueError where a folder has no metrics.jsonl, or no step in it.
    """
    folders = [Path(f) for f in folders]
    names, rows = names or name_runs(folders), {}
    for folder in folders:
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; is {folder} a run folder of train.py?")
        config, by_step = dict(flatten(read_config(folder), "config/")), {}
        for record in read_jsonl(path):
            step = record.get("step")
            if type(step) is int:
                by_step[step] = by_step.get(step, config) | dict(flatten(record))
        if not by_step:
            raise ValueError(f"{path}: no step in it")
        rows |= {(*names[folder], step): by_step[step] for step in sorted(by_step)}
    return pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(rows, names=[*RUN, "step"]))


def read_config(folder):
    """config.json of a run, {} without one."""
    path = Path(folder) / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def name_runs(folders):
    """{folder: (arm, seed)}: the arm is the folder's name without "-seedN", and with the path
    before it where two runs would be called the same.
    """
    names = {}
    for folder in folders:
        match = re.fullmatch(r"(.+)-seed(\d+)", folder.resolve().name)
        names[folder] = (match[1], int(match[2])) if match else (folder.resolve().name, 0)
    taken = list(names.values())
    twice = {arm for arm, seed in taken if taken.count((arm, seed)) > 1}
    return {
        folder: (f"{folder.parent}/{arm}" if arm in twice else arm, seed)
        for folder, (arm, seed) in names.items()
    }


def flatten(record, prefix=""):
    """Pairs of path and value: {"groups": {"new": {"samples": 8}}} gives ("groups/new/samples", 8).

    A list is [right, asked] of held-out questions: ".../correct" and ".../samples".
    """
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, list):
            value = dict(zip(("correct", "samples"), value))
        if isinstance(value, dict):
            yield from flatten(value, f"{name}/")
        elif isinstance(value, str) or (value is not None and math.isfinite(value)):
            yield name, value


# ---- columns ----


def column(table, name):
    """A column as floats; NaN where a row lacks it or holds no number."""
    if name not in table:
        return pd.Series(math.nan, table.index)
    return pd.to_numeric(table[name], errors="coerce").astype(float)


def columns(table, pattern):
    """The names that match a regular expression as a whole."""
    return [name for name in table.columns if re.fullmatch(pattern, name)]


def summed(table, names):
    """The sum of some columns, missing numbers counted as zero."""
    return sum((column(table, name).fillna(0) for name in names), pd.Series(0.0, table.index))


def counter(table, event, keys=None):
    """Questions admitted to, graduated or evicted from the buffer so far, of the entry accuracies
    `keys` (None: of all); a line without the buffer repeats the one before.
    """
    paths = columns(table, rf"buffer/{event}/.*")
    wanted = [p for p in paths if keys is None or p.split("/")[-1] in keys]
    counts = [column(table, p).groupby(RUN, sort=False).ffill().fillna(0) for p in wanted]
    return sum(counts, pd.Series(0.0, table.index))


def final_count(table, event, keys=None):
    """`counter` at the end, by arm, all seeds together."""
    by_run = counter(table, event, keys).groupby(RUN, sort=False).max()
    return by_run.groupby("arm", sort=False).sum()


def replaying(table):
    """The arms that replay questions. Without a buffer train.py keeps the books, and nothing
    leaves.
    """
    arms = list(dict.fromkeys(table.index.get_level_values("arm")))
    if "config/buffer" not in table:
        return arms
    without = table["config/buffer"].eq(False).groupby("arm").any()
    return [arm for arm in arms if not without[arm]]


def window_of(table):
    """Steps that are pooled: a tenth of the longest run, at most 25."""
    steps = trained(table).groupby(RUN).size()
    return max(1, min(25, steps.max() // 10)) if len(steps) else 1


def trained(table):
    """The rows of training steps."""
    return table[table.index.get_level_values("step") > 0]


def before_training(table):
    """The rows of step 0: an evaluation before any training."""
    return table[table.index.get_level_values("step") == 0]


def ratio(top, bottom, window=1):
    """Percent: the sum of `top` over the sum of `bottom` in the last `window` steps of each run;
    NaN where there was nothing. A step in which either is missing is skipped.
    """
    known = top.notna() & bottom.notna()
    top, bottom = top.where(known, 0.0), bottom.where(known, 0.0)
    if window > 1:
        runs = (v.groupby(RUN, sort=False) for v in (top, bottom))
        top, bottom = (r.transform(lambda v: v.rolling(window, min_periods=1).sum()) for r in runs)
    return 100 * top / bottom.where(bottom > 0)


def mean(table, name, window=1, scale=1.0):
    """A column, smoothed: the mean of the last `window` steps, of those that have a value."""
    values = column(table, name)
    return ratio(values * scale, values * 0 + 1, window) / 100


def accuracy(table, kind, window=1):
    """Percent right of the samples of a kind of prompt."""
    counts = (column(table, f"groups/{kind}/{name}") for name in ("correct", "samples"))
    return ratio(*counts, window)


def positive(table, window=1):
    """Percent of the samples of all prompts that have a positive advantage (Figs. 22, 25)."""
    counts = (summed(table, columns(table, f"groups/[^/]+/{n}")) for n in ("positive", "samples"))
    return ratio(*counts, window)


def held_out(table, split):
    """Percent right on held-out questions, at the steps that have an evaluation."""
    return ratio(*(column(table, f"heldout/{split}/all/{n}") for n in ("correct", "samples")))


def graduated(table, keys=None):
    """Percent graduated of the questions admitted so far (Fig. 4), NaN before the first
    admission.
    """
    return ratio(counter(table, "graduated", keys), counter(table, "admitted", keys))


def entry_classes(table, most=6):
    """{label: entry accuracies}, hardest first: those that occur. Beyond `most`, neighbours are
    merged, except the lowest.
    """
    paths = columns(table, "buffer/(occupancy|admitted|graduated|evicted)/.*")
    keys = sorted({path.split("/")[-1] for path in paths}, key=float)
    parts = [[k] for k in keys]
    if len(keys) > most:
        parts = [keys[:1], *(list(part) for part in np.array_split(keys[1:], most - 1))]
    classes = {}
    for part in parts:
        low, high = (f"{100 * float(k):.3g}" for k in (part[0], part[-1]))
        label = f"{low} %" if low == high else f"{low} to {high} %"
        classes[label] = [str(k) for k in part]
    return classes


def occupancy(table, keys):
    """Questions in the buffer that entered with these accuracies; NaN where a line has no
    buffer.
    """
    counts = summed(table, [f"buffer/occupancy/{key}" for key in keys])
    return counts.where(column(table, "buffer/size").notna())


def outcomes_by_visits(table, most=6):
    """Outcomes of replayed questions by number of visits (Fig. 24), all runs of `table` together: a
    row for 1, 2, ... visits, those from `most` on in one; columns OUTCOMES. Empty without any.
    """
    paths = columns(table, r"outcomes_by_visits/[1-9]\d*/\w+")  # 0 visits: no outcome yet
    last = table[paths].dropna(how="all").groupby(RUN).tail(1)
    counts = {}
    for path in paths:
        _, visits, outcome = path.split("/")
        row = counts.setdefault(min(int(visits), most), dict.fromkeys(OUTCOMES, 0.0))
        row[outcome] += column(last, path).sum()
    names = {row: f"{row}+" if row == most else str(row) for row in sorted(counts)}
    frame = pd.DataFrame([counts[row] for row in names], names.values(), list(OUTCOMES))
    return frame[frame.sum(axis=1) > 0]


# ---- over seeds ----


def interval(values):
    """(mean, half the width of its 95 % t-interval) of some numbers, NaN ones left out; the half is
    NaN for a single one.
    """
    values = pd.Series(values, dtype=float).dropna()
    return values.mean(), values.sem() * student_t.ppf(0.975, len(values) - 1)


def over_seeds(values):
    """One arm's values by step: columns mean, low and high (the lowest and the highest seed). Where
    a seed has no value there is no mean: a jump in it would be a seed's end and no change.
    """
    by_step = values.groupby("step")
    whole = by_step.count() == by_step.count().max()
    found = {"mean": by_step.mean(), "low": by_step.min(), "high": by_step.max()}
    return pd.DataFrame(found).where(whole)


def against(values, places, points=60):
    """`values` with other numbers in place of the steps, ascending in each run (tokens spent, say):
    interpolated at places that all runs share.
    """
    ends = places.groupby(RUN, sort=False).max()
    grid = np.linspace(0, ends.min(), points)
    runs = {}
    for run, part in values.dropna().groupby(RUN, sort=False):
        x = places.loc[part.index]
        at = np.interp(grid, x, part, left=math.nan)
        runs[run] = pd.Series(at, pd.Index(grid, name="step"))
    return pd.concat(runs, names=RUN)
