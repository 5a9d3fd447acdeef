"""Accuracy of a checkpoint on held-out questions: greedy, pass@1, one number a family.

For now the tiny world: held-out glyphs (image), typed digits (text) and digits shown one after another (video); training
sees image questions only, so the last two measure generalization. The paper's 31 benchmarks come later.

    python eval.py assets/student
    python eval.py runs/zppo-tiny-1/final --splits heldout
"""
import argparse
import sys

from chat import CLOSER, encode
from data import decode
from model import load
from reward import grade
from rollout import HFEngine, seed_of

SPLITS = ("heldout", "heldout_text", "heldout_video")


def evaluate(engine, questions, max_response, thinking=True, seed=0, temperature=0.0, chunk=256, bar=None):
    """Grade one response to each question. Returns [question id, family, reward] rows, in order.

    temperature 0 is greedy; chunk: prompts in flight at a time, so that the images of a large set are not all decoded.
    """
    out = []
    for i in range(0, len(questions), chunk):
        some = questions[i:i + chunk]
        prompts = [encode(engine.lm, q.question + CLOSER, decode(q.images, q.id), decode(q.video, q.id), thinking)
                   for q in some]
        groups = engine.sample(prompts, 1, max_response, seed_of(seed, "eval", i), temperature)
        out += [[q.id, q.source, grade(group[0].text, q.answer)] for q, group in zip(some, groups)]
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


def main():
    import tiny
    from tqdm import tqdm
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model", help="a model folder, for example runs/NAME/final or assets/student")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=[*SPLITS, "train"], help="held-out families")
    parser.add_argument("--max-response", type=int, default=40, help="tokens")
    args = parser.parse_args()
    engine = HFEngine(load(args.model))
    rows = {split: tiny.questions(split) for split in args.splits}
    with tqdm(total=sum(map(len, rows.values())), desc="questions", leave=False) as bar:
        for split, questions in rows.items():
            for family, (correct, n) in by_family(evaluate(engine, questions, args.max_response, bar=bar)).items():
                bar.write(f"{split if family == 'all' else '':14s} {family:12s} {correct / n:6.1%}  of {n}", file=sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
