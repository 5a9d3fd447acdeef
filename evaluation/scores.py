r"""From scored responses to the table: headline, 95 % interval, other numbers, the paper's number,
family averages, paired comparison.

* Headline: the mean over questions (micro), or the unweighted mean of group means (macro), as the
  benchmark's row says.
* Interval over questions: Wilson's for a mean of zeros and ones (and where all are equal); else the
  percentile bootstrap (2,000 resamples, questions resampled within their group). Questions about
  one picture or video are treated as independent, so it is a little narrow there.
* Rows that need a judge that was not given are unscored. They are neither right nor wrong, and the
  others are not a fair sample, so the headline is then the range from "all of them wrong" to "all
  of them right", and no average counts it.
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
    if set(values) <= {0.0, 1.0} and (
        not macro or len(set(values)) == 1
    ):  # a bootstrap of equal values would claim certainty
        return wilson(sum(values), len(values)), "Wilson"
    rng, by = np.random.default_rng(0), {}
    for value, group in zip(values, groups):
        by.setdefault(group if macro else "", []).append(value)
    total = np.zeros(resamples)
    for group in by.values():
        distinct, counts = np.unique(
            np.asarray(group, float), return_counts=True
        )  # a resample is a multinomial draw of them
        total += (
            rng.multinomial(len(group), counts / len(group), size=resamples) @ distinct / len(group)
        )
    return [float(x) for x in np.percentile(100 * total / len(by), [2.5, 97.5])], "bootstrap"


def summarize(bench, graded, records, paper=None, malformed=0):
    """The row of one benchmark. graded: [(Item, Score)]; records: {id: response record}; paper:
    {name: percent}.
    """
    counted = [(i, s) for i, s in graded if s.how != "ignored"]
    scored = [(i, s.value) for i, s in counted if s.value is not None]
    unscored, macro = len(counted) - len(scored), bench.mean == "macro"
    groups = [i.group for i, _ in counted]

    def headline(fill):
        return mean([fill if s.value is None else s.value for _, s in counted], groups, macro)

    score = None if unscored or not counted else headline(0.0)
    ci, method = (
        interval([v for _, v in scored], groups, macro) if score is not None else (None, None)
    )
    hows = [s.how for _, s in counted]
    found = [records[i.id] for i, _ in counted]
    return {
        "name": bench.name,
        "title": bench.title,
        "family": bench.family,
        "score": score,
        "n": len(counted),
        "interval": ci,
        "interval_method": method,
        "unscored": unscored,
        "low": headline(0.0),
        "high": headline(1.0),
        "paper": (paper or {}).get(bench.name),
        "judged": hows.count("judged") + hows.count("malformed"),
        "malformed": malformed,
        "no_answer": hows.count("no answer"),
        "unreadable": hows.count("unreadable"),
        "ignored": len(graded) - len(counted),
        "truncated": sum(r.get("truncated", False) for r in found),
        "tokens": sum(r.get("tokens", 0) for r in found),
        "also": {k: v for k, v in bench.also(scored).items() if v is not None}
        if not unscored
        else {},
        "choice": bench.note,
        "remarks": remarks(bench, [i for i, _ in graded]),
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


def paper_results(student, method):
    """{benchmark: percent} of the paper; {} when it has no such row."""
    with open(PAPER, newline="") as f:
        return {
            r["benchmark"]: float(r["accuracy_percent"])
            for r in csv.DictReader(f)
            if r["student"] == student and r["method"] == method and r["benchmark"] != "Avg"
        }


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
        parts, name = (
            [k for k in ("buffer", "bcq", "ncq") if config.get(k)],
            config.get("method", "zppo"),
        )
        method = (
            "zppo"
            if len(parts) == 3
            else "+".join(["grpo" if name in ("grpo", "zppo") else name, *parts])
        )
    return student, method


# ---- tables --------------------------------------------------------------------------------------

COLUMNS = ("benchmark", "ours", "95 % interval", "n", "paper", "difference", "remarks")


def num(x, sign=False):
    return "-" if x is None else f"{x:+.1f}" if sign else f"{x:.1f}"


def cells(results, student="", method=""):
    """The table as rows of strings under COLUMNS, family by family, each family's average last."""
    out = []
    means = averages(results)
    for family, title in FAMILIES.items():
        rows = [r for r in results if r["family"] == family]
        for r in rows:
            ours = num(r["score"]) if not r["unscored"] else f"{r['low']:.1f} to {r['high']:.1f}"
            ci = f"{r['interval'][0]:.1f} to {r['interval'][1]:.1f}" if r["interval"] else "-"
            notes = [f"{r['unscored']} unscored: need --judge"] * bool(r["unscored"])
            notes += [
                f"{r[k]} {label}"
                for k, label in (
                    ("truncated", "cut"),
                    ("no_answer", "without an answer"),
                    ("unreadable", "unreadable"),
                    ("malformed", "malformed verdicts"),
                    ("ignored", "ignored"),
                )
                if r[k]
            ]
            gap = (
                r["score"] - r["paper"]
                if r["score"] is not None and r["paper"] is not None
                else None
            )
            out.append(
                [
                    r["title"],
                    ours,
                    ci,
                    str(r["n"]),
                    num(r["paper"]),
                    num(gap, True),
                    "; ".join(notes + r["remarks"]),
                ]
            )
        if family in means:
            m = means[family]
            gap = (
                m["score"] - m["paper"]
                if m["score"] is not None and m["paper"] is not None
                else None
            )
            # the paper's average is taken over the same benchmarks as ours, and said so when these
            # are not all
            out.append(
                [
                    f"{title} average",
                    num(m["score"]),
                    "",
                    "",
                    num(m["paper"]),
                    num(gap, True),
                    f"{m['benchmarks']} of {m['of']} benchmarks" if family != "tiny" else "",
                ]
            )
    return out


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
    rows = filled([heading(student, method), *cells(results)])
    width = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = [
        "  ".join(
            x.ljust(w) if c in (0, 6) else x.rjust(w) for c, (x, w) in enumerate(zip(r, width))
        ).rstrip()
        for r in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    notes = choices(results)
    return "\n".join([*lines, *["", *notes] * bool(notes), *missing])


def markdown(results, missing=(), student="", method=""):
    head, *rows = filled([heading(student, method), *cells(results)])
    lines = [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" if c in ("benchmark", "remarks") else "---:" for c in head) + " |",
    ]
    lines += [
        "| " + " | ".join(f"**{x}**" if "average" in r[0] and x else x for x in r) + " |"
        for r in rows
    ]
    return (
        "\n".join([*lines, "", *[f"* {c}" for c in choices(results)], *[f"* {m}" for m in missing]])
        + "\n"
    )


def as_csv(results):
    text = io.StringIO()
    keys = (
        "name",
        "title",
        "family",
        "score",
        "low",
        "high",
        "n",
        "unscored",
        "paper",
        "interval_method",
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "interval_low", "interval_high"])
    for r in results:
        writer.writerow(
            [
                *[
                    "" if r[k] is None else round(r[k], 3) if isinstance(r[k], float) else r[k]
                    for k in keys
                ],
                *[round(x, 3) for x in r["interval"] or ()],
            ]
        )
    return text.getvalue()


# ---- comparison ----------------------------------------------------------------------------------


def read_scores(where):
    """{(family, benchmark): percent} of an evaluation folder, a results.json, or the paper
    ("paper:0.8b:zppo"). Raises ValueError.
    """
    if str(where).startswith("paper:"):
        _, student, method = (str(where).split(":") + ["", ""])[:3]
        with open(PAPER, newline="") as f:
            rows = list(csv.DictReader(f))
        found = {
            (r["family"], r["benchmark"]): float(r["accuracy_percent"])
            for r in rows
            if (r["student"], r["method"]) == (student, method) and r["benchmark"] != "Avg"
        }
        if not found:
            raise ValueError(
                f"{where}: the paper has no such row; students and methods: "
                + ", ".join(sorted({f"{r['student']}:{r['method']}" for r in rows}))
            )
        return found
    file = Path(where) / "results.json" if Path(where).is_dir() else Path(where)
    if not file.is_file():
        raise ValueError(
            f"{file}: no such file; eval.py compare takes two folders that eval.py wrote, or paper:STUDENT:METHOD"
        )
    return {
        (r["family"], r["name"]): r["score"]
        for r in json.loads(file.read_text())["results"]
        if r["score"] is not None
    }


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
        draw = rng.integers(
            0, len(names), (resamples, len(names))
        )  # one resample for all comparisons
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
        f"paired difference to {names[0]}, mean over benchmarks, 95 % benchmark bootstrap (10,000 resamples)",
        f"{'':32s} {'family':10s} {'difference':>10s}  {'95 % interval':>17s}  {'wins':>8s}",
    ]
    for name, result in zip(names[1:], compare(base, others)):
        for family, r in result.items():
            ties = f", {r['ties']} tie{'s' * (r['ties'] > 1)}" if r["ties"] else ""
            lines.append(
                f"{name[-32:]:32s} {FAMILIES[family]:10s} {r['difference']:+10.1f}  {r['interval'][0]:+7.1f} to {r['interval'][1]:+6.1f}"
                f"  {r['wins']:>3d} of {r['n']:<2d}{ties}".rstrip()
            )
    if len(lines) == 2:
        raise ValueError("the evaluations have no benchmark with a score in common")
    return "\n".join(lines)
