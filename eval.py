"""Accuracy of a model: one graded response to each question; train.py measures held-out questions
with it.

    python eval.py assets/student --tiny        # about ten seconds on two CPU cores
    python eval.py Qwen/Qwen3.5-0.8B --judge Qwen/Qwen3.5-27B-FP8       # the paper's 31 benchmarks
    python eval.py --help

The command line and the benchmarks (ZPPO Appendix B.2) stand in evaluation/, which training never
imports.
"""

import sys

from tqdm import tqdm

from pictures import BadImage, decode
from processor import CLOSER, encode
from reward import grade
from runtime.grader import grader

SPLITS = ("heldout", "heldout_text", "heldout_video")


def evaluate(
    engine,
    questions,
    max_response,
    thinking=True,
    seed=0,
    temperature=0.0,
    chunk=256,
    bar=None,
    stop=None,
    unsure=None,
    grade=grade,
):
    """Grade one response to each question. Returns [question id, family, reward] rows, in order.

    temperature 0 is greedy; chunk: prompts in flight at a time, so that the images of a large set
    are not all decoded; unsure: a list that takes (row number, what Teacher.judge wants to know) of
    the free-form responses that exact matching calls wrong. Raises BadImage naming a question.
    """
    from engines.base import seed_of  # with transformers; `eval.py --list` is quick without

    rows = []
    for i in range(0, len(questions), chunk):
        some = questions[i : i + chunk]
        seed_here = seed_of(seed, "eval", i)
        try:
            prompts = [
                encode(engine.lm, q.question + CLOSER, q.images, q.video, thinking) for q in some
            ]
            groups = engine.sample(prompts, 1, max_response, seed_here, temperature, stop=stop)
        except BadImage:
            for q in some:  # which of them it was, by its id
                decode((*q.images, *q.video), f"question {q.id}")
            raise
        for q, [sample] in zip(some, groups):
            rows.append([q.id, q.source, grade(sample.text, q.golds)])
            if unsure is not None and q.free_form and not rows[-1][2]:
                item = q.question, sample.text, q.golds, sample.truncated  # of teacher.judge_item
                unsure.append((len(rows) - 1, item))
        if bar is not None:
            bar.update(len(some))
    return rows


def evaluate_on_all_ranks(engine, heldout, cfg, world, stop=None, teacher=None):
    """{split: evaluate() rows} of {split: questions}, greedy, each rank its share of the questions;
    the same on every rank. teacher: on rank 0, judges free-form answers (Appendix D.1).
    """
    results, total = {}, sum(map(len, heldout.values()))
    settings = {"desc": "held-out questions", "leave": False, "dynamic_ncols": True}
    with tqdm(total=total, disable=world.rank > 0, **settings) as bar:
        for split, questions in heldout.items():
            own = [questions[i] for i in range(world.rank, len(questions), world.size)]

            def answer():
                unsure, settings = [], (cfg.max_response, cfg.thinking)
                more = {"bar": bar, "stop": stop, "unsure": unsure, "grade": grader(cfg.grader)}
                return evaluate(engine, own, *settings, **more), unsure

            parts = world.all_gather(answer)
            judged = [(rows[k], item) for rows, unsure in parts for k, item in unsure]
            ask = lambda: teacher.judge([item for _, item in judged])
            verdicts = world.broadcast_from_rank0(ask) if judged else []
            for (row, _), correct in zip(judged, verdicts):
                row[2] = float(correct)
            results[split] = [
                parts[i % world.size][0][i // world.size] for i in range(len(questions))
            ]
    return results


def by_family(results):
    """{"all": [correct, n], family: [correct, n], ...} of rows (question id, family, reward)."""
    out = {"all": [0, 0]}
    for _, family, r in results:
        for key in dict.fromkeys(("all", family or "all")):
            row = out.setdefault(key, [0, 0])
            row[0], row[1] = row[0] + int(r), row[1] + 1
    return out


if __name__ == "__main__":
    from evaluation.suite import main

    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        print("\nstopped; what was answered is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
