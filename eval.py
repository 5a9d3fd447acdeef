"""Accuracy of a model: one graded response to each question. train.py calls `evaluate` for its
held-out questions.

    python eval.py assets/student --tiny                 # about ten seconds on two CPU cores
    # the paper's 31 benchmarks
    python eval.py Qwen/Qwen3.5-0.8B --judge Qwen/Qwen3.5-27B-FP8
    python eval.py --help

The command line and the benchmarks (ZPPO Appendix B.2) stand in evaluation/, which training never
imports.
"""

import sys

from data import decode
from processor import CLOSER, encode
from reward import grade

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
):
    """Grade one response to each question. Returns [question id, family, reward] rows, in order.

    temperature 0 is greedy; chunk: prompts in flight at a time, so that the images of a large set
    are not all decoded.
    """
    from engines.base import seed_of  # with transformers; `eval.py --list` is quick without

    out = []
    for i in range(0, len(questions), chunk):
        some, prompts = questions[i : i + chunk], []
        for q in some:
            images, video = decode(q.images, q.id), decode(q.video, q.id)
            prompts.append(encode(engine.lm, q.question + CLOSER, images, video, thinking))
        seeds = seed_of(seed, "eval", i)
        groups = engine.sample(prompts, 1, max_response, seeds, temperature, stop=stop)
        out += [[q.id, q.source, grade(group[0].text, q.golds)] for q, group in zip(some, groups)]
        if bar is not None:
            bar.update(len(some))
    return out


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
