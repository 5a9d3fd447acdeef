"""What a step is measured by, and where it is written: metrics.jsonl, samples.jsonl, TensorBoard,
W&B.

Metrics are sums and counts, added up over the whole rollout step and divided once, by whoever reads
them: a mean of means, or the last micro-batch alone, would lie. The paper's own measurements (ZPPO
section 5 and Appendix F; Figs. 4, 5a, 20-25, Tables 16 and 17) are all here, so that figures/ can
draw them.
"""

import base64
import io
import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from eval import by_family
from math_equal import answers_equal
from pictures import decode
from processor import CACHE
from records import KINDS
from reward import last_boxed
from runtime.boards import TensorBoard, WandB, draw
from runtime.files import append_jsonl, read_jsonl, write_atomic


class Clock:
    """Seconds by phase of one step: `with clock("rollout"): ...`; a phase that runs twice adds up.

    tell(phase): called at each phase's begin, for the watchdog (distributed.World.heartbeat).
    """

    def __init__(self, tell=None):
        self.seconds, self.begin, self.tell = {}, time.perf_counter(), tell
        self.cores = time.process_time()

    @contextmanager
    def __call__(self, phase):
        start = time.perf_counter()
        if self.tell:
            self.tell(phase)
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def total(self):
        """{phase: seconds, "total": seconds since the step began}."""
        return {**self.seconds, "total": time.perf_counter() - self.begin}

    def core_seconds(self):
        """Of this process, all its threads, since the step began: other programs do not count."""
        return time.process_time() - self.cores


def reset_counters(engine, teacher):
    """Before a step: count tokens and waiting from here; the last step's pictures are done with."""
    CACHE.clear()
    engine.tokens = 0
    if teacher:
        teacher.engine.tokens = 0
        teacher.reset()


def step_record(step, groups, adv, reformulation, metrics, clock, job):
    """The line of metrics.jsonl of a step, the same on every rank; all ranks call this.

    adv: one advantage a sample, in the order of the groups; metrics: what the update returned.
    """
    world, teacher, buffer, plain = job.world, job.teacher, job.state.buffer, plain_of(groups)
    sampled = world.all_reduce({"generated": job.engine.tokens})["generated"]

    def teacher_counts():
        if not teacher:
            return 0, 0.0, {}
        return teacher.engine.tokens, teacher.waited, dict(teacher.judged)  # it counts on

    # the teacher's tokens are those that it wrote, and those that it read for a distillation
    wrote, waited, judged = world.broadcast_from_rank0(teacher_counts)
    read = metrics.get("read", 0)
    return {
        "step": step,
        "groups": by_kind(groups, adv),
        "composition": composition(plain, reformulation.teacher_answers),
        "buffer": {
            "size": len(buffer),
            "capacity": buffer.capacity,
            "occupancy": buffer.occupancy(),
            **buffer.counts,
        },
        "outcomes_by_visits": buffer.outcomes_by_visits(),
        **metrics,
        "audit": audit(groups),
        "too_long": reformulation.too_long,
        "tokens": {"generated": sampled, "trained": metrics["trained"], "teacher": wrote + read},
        "teacher_waited": waited,
        "judged": judged,
        "seconds": clock.total(),
        "core_seconds": clock.core_seconds(),
        "peak_gb": peak_gb(),
    }


def plain_of(groups):
    """The plain groups."""
    return [g for g in groups if g.kind == "plain"]


def advantages_by_group(groups, adv):
    """{group id: its samples' advantages}; adv: one a sample, in the order of the groups."""
    out, at = {}, 0
    for g in groups:
        out[g.id] = adv[at : at + len(g.samples)]
        at += len(g.samples)
    return out


def heldout_record(results):
    """Held-out results for the log: {split: {family: [correct, questions]}}, and each question's 0
    or 1 in their order.
    """
    counts = {split: by_family(rows) for split, rows in results.items()}
    right = {split: "".join(str(int(r)) for *_, r in rows) for split, rows in results.items()}
    return {"heldout": counts, "heldout_right": right}


def count_groups(groups, advantage):
    """Sums over the samples of some groups. advantage: {group id: its samples' advantages}."""
    samples = [s for g in groups for s in g.samples]
    return {
        "groups": len(groups),
        "samples": len(samples),
        "correct": sum(s.reward for s in samples),
        "flat": sum(g.zero_advantage for g in groups),
        "truncated": sum(s.truncated for s in samples),
        "tokens": sum(len(s.response_ids) for s in samples),
        "positive": sum(a > 0 for g in groups for a in advantage[g.id]),
    }


def by_kind(groups, adv):
    """count_groups of new and replayed plain groups, and of each kind that helps (records.KINDS,
    and a fork's own); all zero where there are none. adv: one advantage a sample, in the order of
    the groups.
    """
    parts = {name: [] for name in ("new", "replay", *KINDS[1:])}
    for g in groups:
        parts.setdefault(g.origin if g.kind == "plain" else g.kind, []).append(g)
    advantage = advantages_by_group(groups, adv)
    return {name: count_groups(part, advantage) for name, part in parts.items()}


def composition(plain, teacher_answers):
    """Fig. 5a: how many plain groups are easy, and how many could become a BCQ and an NCQ (every
    hard one has a wrong rollout). "bcq" is known, and counted, of the "asked" groups only: with
    --teacher-scope hard those are all hard ones, with used the hardest.

    teacher_answers: {hard group's id: correct teacher answers, or None: not asked}.
    """
    return {
        "groups": len(plain),
        "easy": len(plain) - len(teacher_answers),
        "asked": sum(answers is not None for answers in teacher_answers.values()),
        "bcq": sum(map(bool, teacher_answers.values())),
        "ncq": len(teacher_answers),
    }


def audit(groups):
    """Candidate-match audit (Tables 16, 17): whose answer does a BCQ response give; does an NCQ
    response repeat a listed one.

    Returns {"bcq": {"right": {positive, negative, neither}, "wrong": {...}}, "ncq": {"repeats",
    "answers"}, "format": {"prompts", "leaks"}}; responses without a box count as neither, and not
    among the NCQ answers. A BCQ prompt leaks by its format where only one of its two candidates has
    a box.
    """
    out = {
        "bcq": {k: {"positive": 0, "negative": 0, "neither": 0} for k in ("right", "wrong")},
        "ncq": {"repeats": 0, "answers": 0},
        "format": {"prompts": 0, "leaks": 0},
    }
    for g in groups:
        if g.kind == "bcq":
            shown = g.correct_candidates[0], g.wrong_candidates[0]
            right_box, wrong_box = (last_boxed(c) for c in shown)
            out["format"]["prompts"] += 1
            out["format"]["leaks"] += (right_box is None) != (wrong_box is None)
        for s in g.samples:
            answer = last_boxed(s.text)
            if g.kind == "bcq":
                match = _same(answer, right_box), _same(answer, wrong_box)
                kind = "positive" if match[0] else "negative" if match[1] else "neither"
                out["bcq"]["right" if s.reward else "wrong"][kind] += 1
            elif g.kind == "ncq" and answer is not None:
                out["ncq"]["answers"] += 1
                out["ncq"]["repeats"] += any(_same(answer, a) for a in g.listed_answers)
    return out


def _same(a, b):
    return a is not None and b is not None and answers_equal(a, b)


def peak_gb():
    """Peak resident memory of this process, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# ---- writing -------------------------------------------------------------------------------------


class Log:
    """metrics.jsonl and samples.jsonl of a run folder, cut back to `step` (-1: emptied) when a run
    resumes; optional TensorBoard, W&B. On rank 0.

    Raises ValueError when --tensorboard or --wandb is asked for and the package is missing.
    """

    def __init__(self, out, tokenizer, step=-1, tensorboard=False, wandb=False, config=None):
        self.out, self.tokenizer = Path(out), tokenizer
        for name in ("metrics.jsonl", "samples.jsonl"):
            # what a killed run wrote after its last checkpoint will be written again
            kept = [r for r in read_jsonl(self.out / name) if r["step"] <= step]
            if (self.out / name).is_file():
                write_atomic(self.out / name, "".join(json.dumps(r) + "\n" for r in kept))
        self.boards = [TensorBoard(self.out, step)] if tensorboard else []
        if wandb:
            self.boards.append(WandB(self.out, config))

    def restore(self, record):
        """Write the record of the last finished step if a full disk kept it from being written."""
        if record:
            rows = read_jsonl(self.out / "metrics.jsonl")
            if not rows or rows[-1]["step"] < record["step"]:
                self.metrics(record)

    def close(self):
        """Let TensorBoard and W&B write what they still hold."""
        for board in self.boards:
            board.close()

    def metrics(self, record):
        """Append one step's record."""
        append_jsonl(self.out / "metrics.jsonl", [record])
        for board in self.boards:
            board.numbers(record["step"], dict(_flatten(record)))

    def step(self, record, groups, adv, show):
        """Append a step's record, and some of its groups for people: prompt, images, responses,
        rewards, advantages.
        """
        self.metrics(record)
        chosen, advantage = shown_questions(groups, show), advantages_by_group(groups, adv)
        shown = [g for g in groups if g.question.id in chosen]
        rows = [group_record(record["step"], g, advantage[g.id], self.tokenizer) for g in shown]
        append_jsonl(self.out / "samples.jsonl", rows)
        for board in self.boards if rows else ():
            board.samples(record["step"], rows)

    def draw(self, step):
        """The figures and samples.html as of this step; what can't be drawn must not stop a run."""
        try:
            self.figures(step, draw(self.out)[1])
        except ModuleNotFoundError:
            pass  # said at the end
        except Exception as e:
            why = f"{type(e).__name__}: {e}".splitlines()[0]
            tqdm.write(f"warning: no figures at step {step} ({why})", file=sys.stderr)

    def figures(self, step, paths):
        """Show drawn figures on the boards."""
        for board in self.boards:
            board.figures(step, paths)


def shown_questions(groups, k):
    """Ids of the questions whose groups are written to samples.jsonl: up to k, reformulated ones
    first, and a solved one.
    """
    if not k:
        return set()
    reformulated = [g.question.id for g in groups if g.kind != "plain"]
    plain = [g.question.id for g in plain_of(groups)]
    solved = [g.question.id for g in plain_of(groups) if g.mean_reward == 1]
    return {*list(dict.fromkeys(reformulated + plain))[:k], *solved[:1]}


def group_record(step, g, advantage, tokenizer):
    """A group as a line of samples.jsonl."""
    prompt = g.samples[0].prompt
    responses = [
        {
            "text": s.text,
            "reward": s.reward,
            "advantage": a,
            "truncated": s.truncated,
            "tokens": len(s.response_ids),
            "answer": last_boxed(s.text),
        }
        for s, a in zip(g.samples, advantage)
    ]
    return {
        "step": step,
        "kind": g.kind,
        "origin": g.origin,
        "question_id": g.question.id,
        "source": g.question.source,
        "question": g.question.question,
        "answer": g.question.answer,
        "images": [_data_uri(i) for i in decode((*prompt.images, *prompt.video), g.question.id)],
        "prompt": tokenizer.decode(prompt.ids),
        "mean_reward": g.mean_reward,
        "right": g.correct_candidates,
        "wrong": g.wrong_candidates,
        "responses": responses,
    }


def _data_uri(image, limit=320):
    image = image.copy()
    image.thumbnail((limit, limit))  # the page is for looking; the full image stays where it was
    png = io.BytesIO()
    image.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _flatten(value, prefix=""):
    for key, v in value.items():
        if isinstance(v, dict):
            yield from _flatten(v, f"{prefix}{key}/")
        elif isinstance(v, (int, float)) and not isinstance(v, bool):
            yield prefix + key, v
