"""What a person reads: the table before a run, the numbers beside the bar, the summary after it."""
import math
import os
import signal
from contextlib import contextmanager

import torch

import plot
import report
from config import share
from eval import by_family


@contextmanager
def restored_signals():
    """Give SIGINT and SIGTERM back as they were, whatever runs inside."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class StopSignal:
    """Ctrl-C or SIGTERM: finish the step, save, exit. The second one exits at once."""

    def __init__(self):
        self.signal = 0
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.catch)

    def catch(self, number, frame):
        """The handler. os.write, because a print inside a print raises."""
        if self.signal:
            os.write(2, b"\nstopped at once; the last checkpoint is untouched\n")
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\nfinishing this step, then saving; once more stops at once\n")


def run_table(cfg, student, teacher, questions, out):
    """What this run will be, before it starts."""
    new = cfg.batch * cfg.iterations
    aided = cfg.bcq or cfg.ncq
    parts = [name for name in ("buffer", "bcq", "ncq") if getattr(cfg, name)] + ["compress"] * (cfg.compress and aided)
    replayed = f" + up to {share(cfg.replay, new)} replayed" * cfg.buffer
    reformulated = f" + up to {share(cfg.aug, new)} BCQ/NCQ" * aided
    rows = [("student", f"{cfg.student}, {student.n_params() / 1e6:.2f} M parameters"),
            ("teacher", f"{cfg.teacher}, {teacher.n_params() / 1e6:.2f} M parameters, frozen"),
            ("data", f"{cfg.data}, {len(questions)} questions" + ", each several times a step" * (new > len(questions))),
            ("method", "GRPO + " + " + ".join(parts) if parts else "GRPO"),
            ("a step", f"{new} new{replayed}{reformulated} prompts, "
                       f"{cfg.n} samples each, {cfg.iterations} updates"),
            ("run", f"{cfg.steps} steps, seed {cfg.seed}, {cfg.dtype} on {student.device}, "
                    f"{torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)),
            ("output", str(out))]
    if cfg.resume_from:
        rows.append(("resumes", cfg.resume_from))
    return "\n".join(f"{name:10s}{text}" for name, text in rows)


def bar_text(record):
    """The numbers beside the progress bar."""
    def accuracy(kind):
        c = record["groups"][kind]
        return f"{c['correct'] / c['samples']:.2f}" if c["samples"] else "-"
    b = record["buffer"]
    return (f"acc {accuracy('new')} bcq {accuracy('bcq')} ncq {accuracy('ncq')} buffer {b['size']} "
            f"graduated {sum(b['graduated'].values())}/{sum(b['admitted'].values())}")


def summary(before, after, buffer, out):
    """Before and after on held-out questions per family, what graduated, and where everything is."""
    lines, gains = [""], []
    if before:
        lines.append(f"{'held-out accuracy':28s} {'before':>8s} {'after':>8s} {'change':>8s}  questions")
    else:
        lines.append(new_prompt_accuracy(out))
    for split in before:
        old, new = by_family(before[split]), by_family(after[split])
        for family in old:
            (c0, n), (c1, _) = old[family], new[family]
            name = split if family == "all" else f"  {family}"
            lines.append(f"{name:28s} {c0 / n:8.1%} {c1 / n:8.1%} {100 * (c1 - c0) / n:+8.1f}  {n}")
        diff = [b[2] - a[2] for a, b in zip(before[split], after[split])]
        mean = sum(diff) / len(diff)
        error = math.sqrt(sum((d - mean) ** 2 for d in diff)) / len(diff)        # paired, over questions
        gains.append((split, mean, error))
    for split, mean, error in gains:
        verdict = "gained" if mean > 2 * error else "lost" if mean < -2 * error else "no change beyond chance"
        lines.append(f"{split}: {verdict} ({100 * mean:+.1f} points, standard error {100 * error:.1f})")
    if gains and not any(mean > 2 * error for _, mean, error in gains):
        lines.append("This run learned nothing that held-out questions show.")
    counts = buffer.counts
    for key in sorted(counts["admitted"]):
        a, g = counts["admitted"][key], counts["graduated"].get(key, 0)
        lines.append(f"admitted at {100 * float(key):5.1f} %: {a:4d} questions, {g:4d} graduated ({g / a:.0%})")
    lines += ["", f"model     {out / 'final'}", f"metrics   {out / 'metrics.jsonl'}"]
    return "\n".join(lines + draw(out))


def new_prompt_accuracy(out):
    """Without held-out questions: accuracy on the new prompts of the first and of the last quarter of the run."""
    rows = [r["groups"]["new"] for r in plot.read(out).rows]
    quarter = max(1, len(rows) // 4)
    first, last = ([sum(r[k] for r in part) for k in ("correct", "samples")] for part in (rows[:quarter], rows[-quarter:]))
    a, b = first[0] / first[1], last[0] / last[1]
    error = math.sqrt(a * (1 - a) / first[1] + b * (1 - b) / last[1])
    verdict = "learned" if b - a > 2 * error else "learned nothing that this shows"
    return (f"new prompts: {a:.1%} right in the first {quarter} steps, {b:.1%} in the last {quarter}: {verdict} "
            f"(no held-out questions; --heldout FILE measures them)")


def draw(out):
    """Draw the figures and the page of samples of a run; lines that say where they are."""
    figures = plot.draw(out)
    return [f"samples   {report.write_html(out)}"] + [f"figure    {p}" for p in figures]
