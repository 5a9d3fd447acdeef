"""The comparison as rows and as text."""

import statistics

PHASES = ("rollout", "old_logp", "update")
NAN = float("nan")


def median(numbers):
    """The median, NaN of nothing."""
    numbers = list(numbers)
    return statistics.median(numbers) if numbers else NAN


def table(found, work, useful, rate):
    """Rows (dicts) of one shape: a contender's phase, its speed, and how many times our seconds it
    takes.

    found: {contender: [Meter], the first from the warm-up step, or why there is none}; useful:
    {phase: model FLOPs}; rate: FLOP/s of this machine.
    """
    measured = {who: meters for who, meters in found.items() if not isinstance(meters, str)}
    of_ours = measured["ours"][1].seconds
    phases = [p for p in PHASES if p in of_ours]
    rows = []
    for phase in [*phases, "step"]:
        parts = [phase]
        if phase == "step":
            parts = phases + [p for p in ("sync",) if p in of_ours]
        flops = sum(useful.get(p, 0) for p in parts)
        spent = {who: sums(meters[1:], "seconds", parts) for who, meters in measured.items()}
        for who, seconds in spent.items():
            meters, s = measured[who], median(seconds)
            peaks = [m.peak.get(p, NAN) for m in meters for p in parts]
            row = {"phase": phase, "who": who, "seconds": s, "tokens_per_s": work.tokens / s}
            row["wall"] = median(sums(meters[1:], "wall", parts))
            # a flat group is not trained, so its FLOPs were not spent
            skips = "flat" in who or (who == "ours" and any(work.flat))
            row["mfu"] = None if skips else flops / s / rate
            row["peak_gb"] = max(peaks, default=NAN)
            row["of_ours"] = median(a / b for a, b in zip(seconds, spent["ours"]))
            rows.append(row)
    return rows


def sums(meters, clock, parts):
    """Seconds of some phases together, one number a meter."""
    return [sum(getattr(m, clock).get(p, 0.0) for p in parts) for m in meters]


def cells(row):
    """A row as text."""
    return [
        row["phase"],
        row["who"],
        f"{row['tokens_per_s']:,.0f}",
        f"{row['seconds']:.3f}",
        f"{row['wall']:.3f}",
        "-" if row["mfu"] is None else f"{100 * row['mfu']:.0f} %",
        "-" if row["peak_gb"] != row["peak_gb"] else f"{row['peak_gb']:.2f}",  # NaN is not itself
        f"{row['of_ours']:.2f}",
    ]


def lines(rows, unit, markdown=False):
    """The rows as aligned text, or as a Markdown table."""
    heads = ["phase", "who", "tokens/s", unit, "wall-s", "MFU", "peak GB", "x ours"]
    body = [cells(row) for row in rows]
    if markdown:
        return [f"| {' | '.join(r)} |" for r in [heads, ["---"] * len(heads), *body]]
    return aligned([heads, *body], left=2)


def aligned(rows, left):
    """Rows of text as lines; so many columns flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    out = []
    for row in rows:
        cells = [c.ljust(w) for c, w in zip(row[:left], widths)]
        out.append("  ".join(cells + [c.rjust(w) for c, w in zip(row[left:], widths[left:])]))
    return out
