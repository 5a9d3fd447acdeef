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
    grade=grade,
):
    """Grade one response to each question. Returns [question id, family, reward] rows, in order.

    temperature 0 is greedy; chunk: prompts in flight at a time, so that the images of a large set
    are not all decoded.
    """
    from engines.base import seed_of  # with transformers; `eval.py --list` is quick without

    rows = []
    for i in range(0, len(questions), chunk):
        some = questions[i : i + chunk]
        prompts = [
            encode(engine.lm, q.question + CLOSER, q.images, q.video, thinking) for q in some
        ]
        seed_here = seed_of(seed, "eval", i)
        groups = engine.sample(prompts, 1, max_response, seed_here, temperature, stop=stop)
        rows += [[q.id, q.source, grade(g[0].text, q.golds)] for q, g in zip(some, groups)]
        if bar is not None:
            bar.update(len(some))
    return rows


def evaluate_on_all_ranks(engine, heldout, cfg, world, stop=None):
    """{split: evaluate() rows} of {split: questions}, greedy, each rank its share of the questions;
    the same on every rank.
    """
    results, total = {}, sum(map(len, heldout.values()))
    settings = {"desc": "held-out questions", "leave": False, "dynamic_ncols": True}
    with tqdm(total=total, disable=world.rank > 0, **settings) as bar:
        for split, questions in heldout.items():
            own = [questions[i] for i in range(world.rank, len(questions), world.size)]
            more = {"bar": bar, "stop": stop, "grade": grader(cfg.grader)}
            parts = world.all_gather(
                lambda: evaluate(engine, own, cfg.max_response, cfg.thinking, **more)
            )
            rows = [parts[i % world.size][i // world.size] for i in range(len(questions))]
            results[split] = rows
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
