"""What a person reads: the table before a run, the numbers beside the bar, the summary after it."""

import math
import os
import signal
import sys
import time

import torch
from tqdm import tqdm

from config import DISTILL, comparable, flag_of, needs_teacher, run_name
from data import prompt_lengths, skipped
from engines.base import Stopped, default_kind
from eval import by_family
from model import attention
from runtime import kernels, plan
from runtime.files import read_jsonl


class StopSignal:
    """Ctrl-C or SIGTERM: leave the rollouts, or finish the update; save; exit. The second one exits
    at once. A context, in which `stop()` says whether this rank was told to stop.

    torchrun passes on what the terminal has sent already: the same again within a second is not a
    second one. bar: the progress bar, closed at the end, also after an error, so that what is said
    next stands on a line of its own.
    """

    def __init__(self, job):
        self.world, self.signal, self.when = job.world, 0, 0.0
        self.bar = None
        if job.teacher:
            job.teacher.should_stop = self

    def __enter__(self):
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.catch) for number in numbers}
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.bar is not None:
            self.bar.close()

    def catch(self, number, frame):
        """The handler. os.write, because a print inside a print raises."""
        by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        if by_torchrun and number == self.signal and time.monotonic() - self.when < 1:
            return
        if self.signal:
            os.write(2, b"\nstopped at once; the last checkpoint is untouched\n")
            os._exit(128 + number)
        self.signal, self.when = number, time.monotonic()
        os.write(2, b"\nsaving the last finished step, then leaving; once more stops at once\n")

    def __call__(self):
        """Asked wherever this rank waits or samples: a sign of life as well."""
        self.world.heartbeat()
        return bool(self.signal)

    def on_all_ranks(self):
        """Raise Stopped on every rank when one of them was told to stop."""
        if any(self.world.all_gather(self)):
            raise Stopped


def print0(world, text):
    """Print on rank 0."""
    if world.rank == 0:
        print(text, flush=True)


def progress_bar(cfg, state, world):
    """The bar over the rollout steps, on rank 0."""
    quiet = world.rank > 0
    return tqdm(
        total=cfg.steps,
        initial=state.step,
        desc=run_name(cfg),
        unit="step",
        dynamic_ncols=True,
        disable=quiet,
    )


def show_step(bar, record):
    """Move the bar on, with the numbers of the step beside it; alarms stand above it."""
    for message in [] if bar.disable else record["alarms"]:
        tqdm.write(f"warning: {message}", file=sys.stderr)
    bar.set_postfix_str(bar_text(record), refresh=False)
    bar.update()


def run_table(cfg, who, student, questions, check, out, repeats=""):
    """What this run will be, before it starts. repeats: why the update can't share prompts."""
    helps = [name for name in ("bcq", "ncq") if getattr(cfg, name)]
    if cfg.method in ("hint", "prefix"):
        helps = [cfg.method]
    new = cfg.new_prompts
    most = new + cfg.replayed_prompts
    prompts = f"{new} new"
    if cfg.buffer:
        prompts += f" + up to {cfg.replayed_prompts} replayed"
    if helps:
        prompts += f" + up to {cfg.max_reformulated} {'/'.join(helps).upper()}"
        most += cfg.max_reformulated
    often = ", each several times a step" if new > len(questions.good) else ""
    on_ranks = f", on {plural(who.students, 'rank')}" if who.students + who.teachers > 1 else ""
    rows = [
        ("student", f"{cfg.student}, {student.n_params() / 1e6:.2f} M parameters{on_ranks}"),
        ("teacher", teacher_row(cfg, who)),
        ("data", f"{cfg.data}, {len(questions)} questions{often}"),
        ("", data_row(questions, check)),
        ("method", method_row(cfg, helps)),
        (
            "a step",
            f"{prompts} prompts, {cfg.group_size} samples each, {plural(cfg.iterations, 'update')}",
        ),
        ("", f"at most {most * cfg.group_size:,} samples of {cfg.max_response:,} tokens"),
        ("run", f"{cfg.steps} steps, seed {cfg.seed}, {cfg.dtype} on {device_row(student.device)}"),
        ("engine", cfg.engine or default_kind(student.device)),
    ]
    if student.device.type != "cpu":
        rows.append(("kernels", kernels.used(attention(student.device), student.net)))
        gpu = torch.cuda.get_device_properties(student.device).total_memory
        rows += [("planned", ""), *plan.memory_rows(cfg, who, student.net.config, gpu)]
    if repeats:
        rows.append(("update", f"slower: a prompt is computed again for each response ({repeats})"))
    rows += [("note", text) for text in cfg.notes]
    rows.append(("output", str(out)))
    if cfg.resume_from:
        rows.append(("resumes", cfg.resume_from))
    return "\n".join(f"{name:10s}{text}" for name, text in rows)


def data_row(questions, check):
    """How many questions have pictures, how long their prompts are, what is left out."""
    lengths = prompt_lengths(questions, check)
    median, longest = lengths[len(lengths) // 2], lengths[-1]
    text = (
        f"{questions.n_pictures} with pictures; plain prompts of {median} tokens, at most {longest}"
    )
    if len(lengths) < len(questions.good):
        text += f", of {len(lengths)} looked at"
    return text + (f"; {skipped(questions)}" if questions.bad else "")


def plural(n, noun):
    """1 rank, 2 ranks."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def device_row(device):
    """The device's name, and a CPU's threads."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    return f"cpu, {plural(torch.get_num_threads(), 'thread')}"


def method_row(cfg, helps):
    """What the method is made of."""
    buffer = ["buffer"] if cfg.buffer else []
    if cfg.method in DISTILL:
        whose = "teacher" if cfg.method == "off-distill" else "student"
        return " + ".join([f"{cfg.method}: divergence on {whose} tokens", *buffer])
    compress = ["compress"] if cfg.compress and (cfg.bcq or cfg.ncq) else []
    return " + ".join(["GRPO", *buffer, *helps, *compress])


def teacher_row(cfg, who):
    """Who the teacher is, and where."""
    if cfg.method in DISTILL:
        return f"{cfg.teacher}, frozen, its weights sharded with the student's"
    if not needs_teacher(cfg):
        return "none"
    if cfg.teacher_url:
        return f"the server at {cfg.teacher_url}"
    if who.teachers:
        return f"{cfg.teacher}, frozen, served by {plural(who.teachers, 'rank')}"
    if (cfg.engine or default_kind(cfg.device)) == "vllm":
        return f"{cfg.teacher}, frozen, served beside the student"
    return f"{cfg.teacher}, frozen, in this process"


def bar_text(record):
    """The numbers beside the progress bar."""

    def accuracy(kind):
        c = record["groups"][kind]
        return f"{c['correct'] / c['samples']:.2f}" if c["samples"] else "-"

    b = record["buffer"]
    return (
        f"acc {accuracy('new')} bcq {accuracy('bcq')} ncq {accuracy('ncq')} buffer {b['size']} "
        f"graduated {sum(b['graduated'].values())}/{sum(b['admitted'].values())}{cut_off(record)}"
    )


def cut_off(record):
    """The share of responses that were cut off, where there are any."""
    counts = record["groups"].values()
    share = sum(c["truncated"] for c in counts) / max(1, sum(c["samples"] for c in counts))
    return f" cut off {share:.0%}" if share else ""


def summary(before, after, buffer, out):
    """Before and after on held-out questions per family, what graduated, where everything is."""
    lines, gains = [""], []
    if before:
        head = f"{'held-out accuracy':28s} {'before':>8s} {'after':>8s} {'change':>8s}  questions"
        lines.append(head)
    else:
        lines.append(new_prompt_accuracy(out))
    for split in before:
        old, new = by_family(before[split]), by_family(after[split])
        for family in old:
            (c0, n), (c1, _) = old[family], new[family]
            name = split if family == "all" else f"  {family}"
            change = 100 * (c1 - c0) / n
            lines.append(f"{name:28s} {c0 / n:8.1%} {c1 / n:8.1%} {change:+8.1f}  {n}")
        diff = [b[2] - a[2] for a, b in zip(before[split], after[split])]
        mean = sum(diff) / len(diff)
        error = math.sqrt(sum((d - mean) ** 2 for d in diff)) / len(diff)  # paired, over questions
        # two questions that both changed are no proof
        gains.append((split, mean, max(error, 1 / len(diff))))
    lines += [gain_line(*gain) for gain in gains]
    if gains and not any(mean > 2 * error for _, mean, error in gains):
        lines.append("This run learned nothing that held-out questions show.")
    counts = buffer.counts
    for key in sorted(counts["admitted"]):
        a, g = counts["admitted"][key], counts["graduated"].get(key, 0)
        accuracy = f"admitted at {100 * float(key):5.1f} %"
        lines.append(f"{accuracy}: {a:4d} questions, {g:4d} graduated ({g / a:.0%})")
    told = [m for r in read_jsonl(out / "metrics.jsonl") for m in r.get("alarms", ())]
    lines += [f"warning: {message}" for message in told]
    lines += ["", f"model     {out / 'final'}", f"metrics   {out / 'metrics.jsonl'}"]
    return "\n".join(lines + draw(out))


def gain_line(split, mean, error):
    """One split's change with its standard error, and what two of them say."""
    verdict = "no change beyond chance"
    if abs(mean) > 2 * error:
        verdict = "gained" if mean > 0 else "lost"
    return f"{split}: {verdict} ({100 * mean:+.1f} points, standard error {100 * error:.1f})"


def model_card(cfg, before, after):
    """README.md of final/: what this model is, how it was made, and what it scored."""
    was_given = comparable(cfg) | {"steps": cfg.steps}
    was_given.pop("data_digest")
    given = {flag_of(k): v for k, v in was_given.items() if not isinstance(v, (bool, type(None)))}
    flags = "\n".join(f"    {flag} {value}" for flag, value in given.items() if value != "")
    rows = [
        f"| {split} | {100 * a[0] / a[1]:.1f} | {100 * b[0] / b[1]:.1f} | {a[1]} |"
        for split in before
        for a, b in [(by_family(before[split])["all"], by_family(after[split])["all"])]
    ]
    table = ["| held-out questions | before, % | after, % | number |", "| --- | --- | --- | --- |"]
    return MODEL_CARD.format(
        base=cfg.student,
        teacher=cfg.teacher_url or cfg.teacher if needs_teacher(cfg) else "none",
        method=run_name(cfg),
        results="\n".join(table + rows) if rows else "No held-out questions were given.",
        flags=flags,
    )


MODEL_CARD = """---
base_model: {base}
tags: [zppo, reinforcement-learning]
---

# {base}, trained with {method}

Post-trained with zppo, an independent implementation of Zone of Proximal Policy Optimization
(arXiv 2606.18216). Teacher, read in prompts only: {teacher}.

{results}

Greedy decoding, graded by exact matching. Flags:

{flags}

Please cite: Lee et al., Zone of Proximal Policy Optimization: Teacher in Prompts, Not Gradients,
arXiv 2606.18216, 2026.
"""


def new_prompt_accuracy(out):
    """Without held-out questions: accuracy on the new prompts of the first and of the last quarter
    of the run.
    """
    rows = [r["groups"]["new"] for r in read_jsonl(out / "metrics.jsonl") if r["step"]]
    if not any(r["samples"] for r in rows):
        return "new prompts: none was sampled"
    quarter = max(1, len(rows) // 4)
    first, last = (
        [sum(r[k] for r in part) for k in ("correct", "samples")]
        for part in (rows[:quarter], rows[-quarter:])
    )
    a, b = first[0] / max(1, first[1]), last[0] / max(1, last[1])
    error = math.sqrt(a * (1 - a) / max(1, first[1]) + b * (1 - b) / max(1, last[1]))
    verdict = "learned" if b - a > 2 * error else "learned nothing that this shows"
    return (
        f"new prompts: {a:.1%} right in the first {quarter} steps, {b:.1%} in the last {quarter}: "
        f"{verdict} (no held-out questions; --heldout FILE measures them)"
    )


def draw(out):
    """Draw the figures and the page of samples of a run; lines that say where they are."""
    # A door to the surroundings, which are drawn with if they are there.
    try:
        from figures import page, plot
    except ModuleNotFoundError as e:
        return [f"no figures ({e})"]
    figures = plot.draw(out)
    return [f"samples   {page.write_html(out)}"] + [f"figure    {p}" for p in figures]
