"""What a step is measured by, and where it is written: metrics.jsonl, samples.jsonl, TensorBoard,
W&B.

Metrics are sums and counts, added up over the whole rollout step and divided once, by whoever reads
them: a mean of means, or the last micro-batch alone, would lie. The paper's own measurements (ZPPO
section 5 and Appendix F; Figs. 4, 5a, 20-25, Tables 16 and 17) are all here, so that plot.py can
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

from math_equal import answers_equal
from records import KINDS
from reward import last_boxed


class Clock:
    """Seconds by phase of one step: `with clock("rollout"): ...`; a phase that runs twice adds up."""

    def __init__(self, tell=None):
        self.seconds, self.begin, self.tell = (
            {},
            time.perf_counter(),
            tell,
        )  # tell(phase): for the watchdog of parallel.py

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


def count_groups(groups, advantage):
    """Sums over the samples of some groups. advantage: group id -> list of its samples' advantages."""
    samples = [s for g in groups for s in g.samples]
    return {
        "groups": len(groups),
        "samples": len(samples),
        "correct": sum(s.reward for s in samples),
        "flat": sum(g.flat for g in groups),
        "truncated": sum(s.truncated for s in samples),
        "tokens": sum(len(s.response_ids) for s in samples),
        "positive": sum(a > 0 for g in groups for a in advantage[g.id]),
    }


def by_kind(groups, advantage):
    """count_groups of new and replayed plain groups, and of each aided kind (sample.KINDS); all
    zero where there are none.
    """
    parts = {name: [] for name in ("new", "replay", *KINDS[1:])}
    for g in groups:
        parts[g.origin if g.kind == "plain" else g.kind].append(g)
    return {name: count_groups(part, advantage) for name, part in parts.items()}


def composition(plain, pool):
    """Fig. 5a: how many plain groups are easy, and how many could become a BCQ and an NCQ (every
    hard one has a wrong rollout).

    pool: {hard group's id: correct teacher answers}.
    """
    return {
        "groups": len(plain),
        "easy": len(plain) - len(pool),
        "bcq": sum(map(bool, pool.values())),
        "ncq": len(pool),
    }


def audit(groups):
    """Candidate-match audit (Tables 16, 17): whose answer does a BCQ response give; does an NCQ
    response repeat a listed one.

    Returns {"bcq": {"right": {positive, negative, neither}, "wrong": {...}}, "ncq": {"repeats",
    "answers"}}; responses without a box count as neither, and not among the NCQ answers.
    """
    out = {
        "bcq": {k: {"positive": 0, "negative": 0, "neither": 0} for k in ("right", "wrong")},
        "ncq": {"repeats": 0, "answers": 0},
    }
    for g in groups:
        for s in g.samples:
            answer = last_boxed(s.text)
            if g.kind == "bcq":
                match = [_same(answer, last_boxed(c)) for c in (g.right[0], g.wrong[0])]
                kind = "positive" if match[0] else "negative" if match[1] else "neither"
                out["bcq"]["right" if s.reward else "wrong"][kind] += 1
            elif g.kind == "ncq" and answer is not None:
                out["ncq"]["answers"] += 1
                out["ncq"]["repeats"] += any(_same(answer, a) for a in g.listed)
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
    resumes; optional TensorBoard, W&B.

    Raises ValueError when --tensorboard or --wandb is asked for and the package is missing.
    """

    def __init__(self, out, step=0, tensorboard=False, wandb=False, config=None):
        self.out = Path(out)
        for name in ("metrics.jsonl", "samples.jsonl"):
            _cut(self.out / name, step)
        self.board = self.run = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError(
                    "--tensorboard needs the package: pip install tensorboard"
                ) from None
            self.board = SummaryWriter(self.out / "tensorboard", purge_step=step + 1)
        if wandb:
            try:
                import wandb as package
            except ImportError:
                raise ValueError("--wandb needs the package: pip install wandb") from None
            try:
                self.run = package.init(
                    project="zppo",
                    name=self.out.name,
                    id=self.out.name,
                    dir=self.out,
                    config=config,
                    resume="allow",
                )
            except Exception as e:
                raise ValueError(
                    f"--wandb: {e}; run `wandb login`, or set WANDB_MODE=offline"
                ) from e

    def restore(self, record):
        """Write the record of the last finished step if a full disk kept it from being written."""
        rows = (
            (self.out / "metrics.jsonl").read_text(encoding="utf-8").split("\n") if record else []
        )
        if (
            record
            and json.loads(rows[-2] if len(rows) > 1 else '{"step": -1}')["step"] < record["step"]
        ):
            self.metrics(record)

    def close(self):
        """Let TensorBoard and W&B write what they still hold."""
        if self.board:
            self.board.close()
        if self.run:
            self.run.finish()

    def metrics(self, record):
        """Append one step's record."""
        _append(self.out / "metrics.jsonl", [record])
        flat = dict(_flatten(record))
        if self.board:
            for key, value in flat.items():
                self.board.add_scalar(key, value, record["step"])
        if self.run:
            self.run.log(flat, step=record["step"])

    def samples(self, step, groups, advantage, show, tokenizer):
        """Write the groups of the `show` question ids: prompt, images, responses, rewards,
        advantages.
        """
        _append(
            self.out / "samples.jsonl",
            [
                _group_record(step, g, advantage[g.id], tokenizer)
                for g in groups
                if g.question.id in show
            ],
        )


def _group_record(step, g, advantage, tokenizer):
    prompt = g.samples[0].prompt
    return {
        "step": step,
        "kind": g.kind,
        "origin": g.origin,
        "question_id": g.question.id,
        "source": g.question.source,
        "question": g.question.question,
        "answer": g.question.answer,
        "images": [_data_uri(i) for i in (*prompt.images, *prompt.video)],
        "prompt": tokenizer.decode(prompt.ids),
        "mean_reward": g.mean,
        "right": g.right,
        "wrong": g.wrong,
        "responses": [
            {
                "text": s.text,
                "reward": s.reward,
                "advantage": a,
                "truncated": s.truncated,
                "tokens": len(s.response_ids),
                "answer": last_boxed(s.text),
            }
            for s, a in zip(g.samples, advantage)
        ],
    }


def _data_uri(image, limit=320):
    image = image.copy()
    image.thumbnail((limit, limit))  # the page is for looking; the full image stays where it was
    png = io.BytesIO()
    image.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _append(path, records):
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write("".join(json.dumps(r) + "\n" for r in records))
    except OSError as e:
        raise OSError(f"{path}: {e.strerror}") from e


def _cut(path, step):
    """Keep the lines of steps up to `step`: what a killed run wrote after its last checkpoint will
    be written again.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # the torn last line of a killed run
    tmp = Path(f"{path}.tmp")
    tmp.write_text("".join(kept), encoding="utf-8")
    tmp.replace(path)


def _flatten(value, prefix=""):
    for key, v in value.items():
        if isinstance(v, dict):
            yield from _flatten(v, f"{prefix}{key}/")
        elif isinstance(v, (int, float)) and not isinstance(v, bool):
            yield prefix + key, v
