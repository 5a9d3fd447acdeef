"""What a person reads: the table before a run, the numbers beside the bar, the summary after it."""

import json
import math
import os
import signal
import time
from contextlib import contextmanager

import torch

from config import DISTILL, needs_teacher, share
from engines.base import default_kind
from eval import by_family
from runtime import kernels


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
    """Ctrl-C or SIGTERM: leave the rollouts, or finish the update; save; exit. The second one exits
    at once.

    torchrun passes on what the terminal has sent already: the same again within a second is not a
    second one.
    """

    def __init__(self):
        self.signal, self.when = 0, 0.0
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.catch)

    def catch(self, number, frame):
        """The handler. os.write, because a print inside a print raises."""
        if (
            self.signal
            and number == self.signal
            and "TORCHELASTIC_RUN_ID" in os.environ
            and time.monotonic() - self.when < 1
        ):
            return
        if self.signal:
            os.write(2, b"\nstopped at once; the last checkpoint is untouched\n")
            os._exit(128 + number)
        self.signal, self.when = number, time.monotonic()
        os.write(2, b"\nsaving the last finished step, then leaving; once more stops at once\n")


def run_table(cfg, who, student, questions, out, attend):
    """What this run will be, before it starts."""
    new = cfg.batch * cfg.iterations
    aids = [name for name in ("bcq", "ncq") if getattr(cfg, name)] or [cfg.method] * (
        cfg.method in ("hint", "prefix")
    )
    parts = (
        ["buffer"] * cfg.buffer
        + aids
        + ["compress"] * (cfg.compress and "bcq" in aids + ["bcq"] * ("ncq" in aids))
    )
    if cfg.method in DISTILL:
        what = (
            f"{cfg.method}: divergence on {'teacher' if cfg.method == 'off-distill' else 'student'} tokens"
            + " + buffer" * cfg.buffer
        )
    else:
        what = " + ".join(["GRPO", *parts])
    replayed, aided = share(cfg.replay, new) * cfg.buffer, share(cfg.aug, new) * bool(aids)
    prompts = (
        f"{new} new"
        + f" + up to {replayed} replayed" * cfg.buffer
        + f" + up to {aided} {'/'.join(aids).upper()}" * bool(aids)
    )
    device = (
        student.device.type
        if student.device.type == "cpu"
        else torch.cuda.get_device_name(student.device)
    )
    threads = (
        f", {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)
        if student.device.type == "cpu"
        else ""
    )
    many = who.students + who.teachers > 1
    rows = [
        (
            "student",
            f"{cfg.student}, {student.n_params() / 1e6:.2f} M parameters"
            + f", on {who.students} ranks" * many,
        ),
        ("teacher", teacher_row(cfg, who)),
        (
            "data",
            f"{cfg.data}, {len(questions)} questions"
            + ", each several times a step" * (new > len(questions)),
        ),
        ("method", what),
        (
            "a step",
            f"{prompts} prompts, {cfg.n} samples each, {cfg.iterations} update"
            + "s" * (cfg.iterations > 1),
        ),
        (
            "",
            f"at most {(new + replayed + aided) * cfg.n:,} samples of {cfg.max_response:,} tokens",
        ),
        ("run", f"{cfg.steps} steps, seed {cfg.seed}, {cfg.dtype} on {device}{threads}"),
        ("engine", cfg.engine or default_kind(student.device)),
    ]
    if student.device.type != "cpu":
        rows += [("kernels", kernels.used(attend)), ("memory", memory_row(cfg, who, student))]
    rows += [("output", str(out))] + [("resumes", cfg.resume_from)] * bool(cfg.resume_from)
    return "\n".join(f"{name:10s}{text}" for name, text in rows)


def teacher_row(cfg, who):
    """Who the teacher is, and where."""
    if cfg.method in DISTILL:
        return f"{cfg.teacher}, frozen, its weights sharded with the student's"
    if not needs_teacher(cfg):
        return "none"
    if cfg.teacher_url:
        return f"the server at {cfg.teacher_url}"
    if who.teachers:
        return f"{cfg.teacher}, frozen, on {who.teachers} rank" + "s" * (who.teachers > 1)
    return f"{cfg.teacher}, frozen, in this process"


def memory_row(cfg, who, student):
    """An estimate of the memory of a student's GPU while it trains, in GB. Activations: with
    --checkpointing, one hidden state a block.
    """
    text = student.net.config.get_text_config()
    shard = student.n_params() * 16 / who.students / 1e9  # float32 weight, gradient and two moments
    whole = (
        (text.vocab_size * text.hidden_size * 2 + 3 * student.n_params() / len(student.blocks()))
        * 2
        / 1e9
    )
    a_block = cfg.micro_tokens * text.hidden_size * 2 / 1e9
    activations = (
        a_block * (len(student.blocks()) + 24)
        if cfg.checkpointing
        else a_block * 24 * len(student.blocks())
    )
    logits = 4096 * text.vocab_size * 4 * 3 / 1e9
    total = torch.cuda.get_device_properties(student.device).total_memory / 1e9
    return (
        f"about {shard + whole + activations + logits:.0f} of {total:.0f} GB in the update ({shard:.0f} weights and AdamW, "
        f"{activations:.0f} activations, {whole + logits:.0f} gathered weights and logits); vLLM {cfg.vllm_memory:.0%} while it samples"
    )


def bar_text(record):
    """The numbers beside the progress bar."""

    def accuracy(kind):
        c = record["groups"][kind]
        return f"{c['correct'] / c['samples']:.2f}" if c["samples"] else "-"

    b = record["buffer"]
    return (
        f"acc {accuracy('new')} bcq {accuracy('bcq')} ncq {accuracy('ncq')} buffer {b['size']} "
        f"graduated {sum(b['graduated'].values())}/{sum(b['admitted'].values())}"
    )


def summary(before, after, buffer, out):
    """Before and after on held-out questions per family, what graduated, and where everything is."""
    lines, gains = [""], []
    if before:
        lines.append(
            f"{'held-out accuracy':28s} {'before':>8s} {'after':>8s} {'change':>8s}  questions"
        )
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
        error = math.sqrt(sum((d - mean) ** 2 for d in diff)) / len(diff)  # paired, over questions
        gains.append((split, mean, error))
    for split, mean, error in gains:
        verdict = (
            "gained"
            if mean > 2 * error
            else "lost"
            if mean < -2 * error
            else "no change beyond chance"
        )
        lines.append(
            f"{split}: {verdict} ({100 * mean:+.1f} points, standard error {100 * error:.1f})"
        )
    if gains and not any(mean > 2 * error for _, mean, error in gains):
        lines.append("This run learned nothing that held-out questions show.")
    counts = buffer.counts
    for key in sorted(counts["admitted"]):
        a, g = counts["admitted"][key], counts["graduated"].get(key, 0)
        lines.append(
            f"admitted at {100 * float(key):5.1f} %: {a:4d} questions, {g:4d} graduated ({g / a:.0%})"
        )
    lines += ["", f"model     {out / 'final'}", f"metrics   {out / 'metrics.jsonl'}"]
    return "\n".join(lines + draw(out))


def new_prompt_accuracy(out):
    """Without held-out questions: accuracy on the new prompts of the first and of the last quarter
    of the run.
    """
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [r["groups"]["new"] for r in map(json.loads, lines) if r["step"]]
    quarter = max(1, len(rows) // 4)
    first, last = (
        [sum(r[k] for r in part) for k in ("correct", "samples")]
        for part in (rows[:quarter], rows[-quarter:])
    )
    a, b = first[0] / first[1], last[0] / last[1]
    error = math.sqrt(a * (1 - a) / first[1] + b * (1 - b) / last[1])
    verdict = "learned" if b - a > 2 * error else "learned nothing that this shows"
    return (
        f"new prompts: {a:.1%} right in the first {quarter} steps, {b:.1%} in the last {quarter}: {verdict} "
        f"(no held-out questions; --heldout FILE measures them)"
    )


def draw(out):
    """Draw the figures and the page of samples of a run; lines that say where they are."""
    from figures import page, plot  # a door to the surroundings: here, and nowhere else in the core

    figures = plot.draw(out)
    return [f"samples   {page.write_html(out)}"] + [f"figure    {p}" for p in figures]
