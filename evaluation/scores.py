r"""From scored responses to the table: headline, 95 % interval, other numbers, the paper's number,
family averages, paired comparison.

* Headline: the mean over questions (micro), or the unweighted mean of group means (macro), as the
  benchmark's row says.
* Interval over questions: Wilson's for a mean of zeros and ones (and where all are equal); else the
  percentile bootstrap (2,000 resamples, questions resampled within their group). Questions about
  one picture or video are treated as independent, so it is a little narrow there.
* Rows that need a judge that was not given are unscored; rows whose picture or video is missing are
  not evaluated. They are neither right nor wrong, and the others are not a fair sample, so the
  headline is then the range from "all of them wrong" to "all of them right", and no average counts
  it.
* compare: Appendix F.6. The benchmarks of a family are resampled 10,000 times, percentile 95 %
  interval of the mean paired difference; one resample is shared by all comparisons; wins are
  counted.

    summary = summarize(bench, [(item, Score(1.0, "match"))], responses, paper={"AI2D": 76.5})
"""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np

from evaluation.benchmarks import remarks

FAMILIES = {"vlm": "VLM", "llm": "LLM", "video": "Video", "tiny": "tiny world"}
PAPER = Path(__file__).parent.parent / "assets/paper_results.csv"


def mean(values, groups, macro):
    """Headline in percent of values with their group names; None for nothing."""
    if not values:
        return None
    if not macro:
        return 100 * sum(values) / len(values)
    by = {}
    for value, group in zip(values, groups):
        by.setdefault(group, []).append(value)
    return 100 * sum(sum(g) / len(g) for g in by.values()) / len(by)


def wilson(k, n, z=1.959964):
    """95 % interval of k right of n, in percent."""
    p, d = k / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / d, z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / d
    return [100 * max(0.0, centre - half), 100 * min(1.0, centre + half)]


def interval(values, groups, macro, resamples=2000):
    """(95 % interval in percent, its method) over questions."""
    distinct = set(values)
    # groups of one question (--limit) can't be resampled; their mean is that of the questions
    macro = macro and len(set(groups)) < len(groups)
    # a bootstrap of equal values would claim certainty
    if distinct <= {0.0, 1.0} and (not macro or len(distinct) == 1):
        return wilson(sum(values), len(values)), "Wilson"
    rng, by = np.random.default_rng(0), {}
    for value, group in zip(values, groups):
        by.setdefault(group if macro else "", []).append(value)
    total = np.zeros(resamples)
    for group in by.values():
        # a resample is a multinomial draw of the distinct values
        distinct, counts = np.unique(np.asarray(group, float), return_counts=True)
        draws = rng.multinomial(len(group), counts / len(group), size=resamples)
        total += draws @ distinct / len(group)
    return [float(x) for x in np.percentile(100 * total / len(by), [2.5, 97.5])], "bootstrap"


def summarize(bench, graded, records, paper=None, malformed=0, limited=0):
    """The row of one benchmark. graded: [(Item, Score)]; records: {id: response record}; paper:
    {name: percent}; limited: whether only some data rows were asked for.
    """
    counted = [(i, s) for i, s in graded if s.how != "ignored"]
    scored = [(i, s.value) for i, s in counted if s.value is not None]
    values, groups = [v for _, v in scored], [i.group for i, _ in counted]
    macro = bench.mean == "macro"
    hows = [s.how for _, s in counted]
    low, high = (
        mean([fill if s.value is None else s.value for _, s in counted], groups, macro)
        for fill in (0.0, 1.0)
    )
    whole = counted and len(scored) == len(counted)
    ci, method = interval(values, groups, macro) if whole else (None, None)
    found = [records[i.id] for i, _ in counted]
    also = bench.also(scored) if len(scored) == len(counted) else {}
    return {
        "name": bench.name,
        "title": bench.title,
        "family": bench.family,
        "score": low if whole else None,
        "n": len(counted),
        "interval": ci,
        "interval_method": method,
        "unscored": len(counted) - len(scored) - hows.count("missing"),
        "missing": hows.count("missing"),
        "low": low,
        "high": high,
        "paper": (paper or {}).get(bench.name),
        "judged": hows.count("judged") + hows.count("malformed"),
        "malformed": malformed,
        "no_answer": hows.count("no answer"),
        "unreadable": hows.count("unreadable"),
        "ignored": len(graded) - len(counted),
        "truncated": sum(r.get("truncated", False) for r in found),
        "tokens": sum(r.get("tokens", 0) for r in found),
        "also": {k: v for k, v in also.items() if v is not None},
        "choice": bench.note,
        "remarks": remarks(bench, [i for i, _ in graded], limited),
    }


def averages(results):
    """{family: {"score", "paper", "of", "benchmarks"}}; both means are over the benchmarks that
    have a score here.
    """
    out = {}
    for family in FAMILIES:
        rows = [r for r in results if r["family"] == family]
        done = [r for r in rows if r["score"] is not None]
        both = [r["paper"] for r in done if r["paper"] is not None]
        if rows:
            out[family] = {
                "score": sum(r["score"] for r in done) / len(done) if done else None,
                "benchmarks": len(done),
                "of": {"vlm": 16, "llm": 10, "video": 5}.get(family, len(rows)),
                "paper": sum(both) / len(both) if both and len(both) == len(done) else None,
            }
    return out


# ---- the paper's numbers -------------------------------------------------------------------------


def paper_rows():
    """{(student, method): {(family, benchmark): percent}}, without the averages."""
    out = {}
    with open(PAPER, newline="") as f:
        for r in csv.DictReader(f):
            if r["benchmark"] != "Avg":
                row = out.setdefault((r["student"], r["method"]), {})
                row[r["family"], r["benchmark"]] = float(r["accuracy_percent"])
    return out


def paper_results(student, method):
    """{benchmark: percent} of the paper; {} when it has no such row."""
    row = paper_rows().get((student, method), {})
    return {benchmark: percent for (_, benchmark), percent in row.items()}


def guess(path):
    """(student, method) of the paper that a model folder corresponds to: from its name, and from
    the config.json of the run it ends.
    """
    path, student, method = Path(path), "", "base"
    run = path.parent / "config.json"
    config = json.loads(run.read_text()) if path.name == "final" and run.is_file() else {}
    for text in (config.get("student", ""), str(path)):
        m = re.search(r"(?<![\d.])(0\.8|2|4|9|27)b(?![a-z0-9])", str(text).lower())
        student = student or (f"{m[1]}b" if m else "")
    if config:
        parts = [k for k in ("buffer", "bcq", "ncq") if config.get(k)]
        name = config.get("method", "zppo")
        method = "+".join(["grpo" if name == "zppo" else name, *parts])
        method = "zppo" if len(parts) == 3 else method
    return student, method


# ---- tables --------------------------------------------------------------------------------------

COLUMNS = ("benchmark", "ours", "95 % interval", "n", "paper", "difference", "remarks")


def num(x, sign=False):
    return "-" if x is None else f"{x:+.1f}" if sign else f"{x:.1f}"


TOLD = (
    ("truncated", "cut"),
    ("no_answer", "without an answer"),
    ("unreadable", "unreadable"),
    ("malformed", "malformed verdicts"),
    ("ignored", "ignored"),
)


def cells(results):
    """The table as rows of strings under COLUMNS, family by family, each family's average last."""
    out, means = [], averages(results)
    for family, title in FAMILIES.items():
        out += [_row(r) for r in results if r["family"] == family]
        if family in means:
            m = means[family]
            # the paper's average is taken over the same benchmarks as ours, and said so when these
            # are not all
            of = f"{m['benchmarks']} of {m['of']} benchmarks" if family != "tiny" else ""
            gap = difference(m["score"], m["paper"])
            out.append([f"{title} average", num(m["score"]), "", "", num(m["paper"]), gap, of])
    return out


def _row(r):
    notes = []
    if r["unscored"]:
        notes.append(f"{r['unscored']} unscored: need --judge")
    if r["missing"]:
        notes.append(f"{r['missing']} not evaluated: no picture or video")
    notes += [f"{r[key]} {label}" for key, label in TOLD if r[key]]
    whole = not r["unscored"] and not r["missing"]
    ours = num(r["score"]) if whole else f"{r['low']:.1f} to {r['high']:.1f}"
    ci = f"{r['interval'][0]:.1f} to {r['interval'][1]:.1f}" if r["interval"] else "-"
    gap = difference(r["score"], r["paper"])
    remarks_ = "; ".join(notes + r["remarks"])
    return [r["title"], ours, ci, str(r["n"]), num(r["paper"]), gap, remarks_]


def difference(ours, paper):
    return num(None if ours is None or paper is None else ours - paper, True)


def filled(rows):
    """Rows of cells without the columns that are empty from the second row on (the tiny world has
    no paper).
    """
    keep = [c for c in range(len(rows[0])) if c < 4 or any(r[c] not in ("", "-") for r in rows[1:])]
    return [[r[c] for c in keep] for r in rows]


def choices(results):
    """Lines that print, where there is more than one way to report, the default and the
    alternatives.
    """
    out = []
    for r in results:
        if r["choice"] or r["also"]:
            also = "; ".join(f"{k} {v:.1f}" for k, v in r["also"].items())
            out.append(f"{r['title']}: " + ". ".join(x for x in (r["choice"], also) if x))
    return out


def heading(student, method):
    return ["paper, " + f"{student} {method}" if c == "paper" and student else c for c in COLUMNS]


def terminal(results, missing=(), student="", method=""):
    """The table for a terminal, what is missing below it."""
    rows = filled([heading(student, method), *cells(results)])
    width = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]

    def padded(row):
        cells = (
            x.ljust(w) if c in (0, 6) else x.rjust(w) for c, (x, w) in enumerate(zip(row, width))
        )
        return "  ".join(cells).rstrip()

    head, *lines = map(padded, rows)
    rule = "-" * max(map(len, [head, *lines]))
    notes = choices(results)
    return "\n".join([head, rule, *lines, *([""] if notes else []), *notes, *missing])


def markdown(results, missing=(), student="", method=""):
    """The table for results.md."""
    head, *rows = filled([heading(student, method), *cells(results)])
    sides = ["---" if c in ("benchmark", "remarks") else "---:" for c in head]
    lines = [head, sides]
    for r in rows:
        lines.append([f"**{x}**" if "average" in r[0] and x else x for x in r])
    lines = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*lines, "", *(f"* {c}" for c in (*choices(results), *missing))]) + "\n"


def as_csv(results):
    """The numbers, a line a benchmark."""
    text = io.StringIO()
    keys = "name title family score low high n unscored missing paper interval_method".split()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "interval_low", "interval_high"])
    for r in results:
        values = [r[k] for k in keys] + list(r["interval"] or ())
        values = ["" if v is None else v for v in values]
        writer.writerow([round(v, 3) if isinstance(v, float) else v for v in values])
    return text.getvalue()


# ---- comparison ----------------------------------------------------------------------------------


def read_scores(where):
    """{(family, benchmark): percent} of an evaluation folder, a results.json, or the paper
    ("paper:0.8b:zppo"). Raises ValueError.
    """
    if str(where).startswith("paper:"):
        rows, (_, student, method) = paper_rows(), (str(where).split(":") + ["", ""])[:3]
        if (student, method) not in rows:
            names = ", ".join(sorted(f"{s}:{m}" for s, m in rows))
            raise ValueError(f"{where}: the paper has no such row; students and methods: {names}")
        return rows[student, method]
    file = Path(where) / "results.json" if Path(where).is_dir() else Path(where)
    if not file.is_file():
        takes = "eval.py compare takes two folders that eval.py wrote, or paper:STUDENT:METHOD"
        raise ValueError(f"{file}: no such file; {takes}")
    rows = json.loads(file.read_text())["results"]
    return {(r["family"], r["name"]): r["score"] for r in rows if r["score"] is not None}


def compare(base, others, resamples=10_000, seed=0):
    """Appendix F.6. base, others: {(family, benchmark): percent}. Returns a list (one an `others`)
    of {family: {"difference", "interval", "wins", "ties", "n"}}, over the benchmarks that all of
    them have.
    """
    common = set(base).intersection(*others)
    rng, out = np.random.default_rng(seed), [{} for _ in others]
    for family in FAMILIES:
        names = sorted(n for f, n in common if f == family)
        if not names:
            continue
        # one resample for all comparisons
        draw = rng.integers(0, len(names), (resamples, len(names)))
        for result, other in zip(out, others):
            diff = np.array([other[family, n] - base[family, n] for n in names])
            low, high = np.percentile(diff[draw].mean(1), [2.5, 97.5])
            result[family] = {
                "difference": float(diff.mean()),
                "interval": [float(low), float(high)],
                "wins": int((diff > 0).sum()),
                "ties": int((diff == 0).sum()),
                "n": len(names),
            }
    return out


def comparison(names, base, others):
    """The table of compare(). names: of the base and of the others."""
    lines = [
        f"paired difference to {names[0]}, mean over benchmarks, "
        "95 % benchmark bootstrap (10,000 resamples)",
        f"{'':32s} {'family':10s} {'difference':>10s}  {'95 % interval':>17s}  {'wins':>8s}",
    ]
    for name, result in zip(names[1:], compare(base, others)):
        for family, r in result.items():
            ties = f", {r['ties']} tie{'s' if r['ties'] > 1 else ''}" if r["ties"] else ""
            low, high = r["interval"]
            row = f"{name[-32:]:32s} {FAMILIES[family]:10s} {r['difference']:+10.1f}"
            row += f"  {low:+7.1f} to {high:+6.1f}  {r['wins']:>3d} of {r['n']:<2d}{ties}"
            lines.append(row.rstrip())
    if len(lines) == 2:
        raise ValueError("the evaluations have no benchmark with a score in common")
    return "\n".join(lines)
