"""The questions of a run: opened and checked before any work, and a batch of them for each step.

questions, heldout = open_data(cfg, check, world)
new, replayed, position = next_questions(job, replayed_ids, cfg)
"""

import sys

from tqdm import tqdm

import data
from config import needs_teacher
from eval import SPLITS


def open_data(cfg, check, world):
    """The training questions, and {split: held-out questions}, those left out that can't be used
    (--skip-bad). check: data.QuestionCheck. Raises ValueError naming the bad rows, and where
    free-form questions have no judge.
    """
    columns, heldout = data.parse_map(cfg.map), {}
    if cfg.data == "tiny":
        import tiny  # the tiny world as a data set: a door to the surroundings

        questions = data.in_memory(tiny.questions("train"), "tiny", check, cfg.skip_bad)
        heldout = {split: tiny.questions(split) for split in SPLITS}
    else:
        questions = data.open_questions(cfg.data, columns, check, cfg.skip_bad)
    if cfg.heldout:
        found = data.open_questions(cfg.heldout, columns, check, cfg.skip_bad)
        good, _ = usable(found, found.good, check, world, cfg)
        if not good:
            raise ValueError(f"--heldout {cfg.heldout}: none of its questions can be used")
        heldout = {"heldout": [q for _, q in good]}
    check_judge(cfg, questions, heldout)
    return questions, heldout


def check_judge(cfg, questions, heldout):
    """Free-form questions and nobody to judge their answers are told before any work. Raises
    ValueError naming the first one.
    """
    held = [q for some in heldout.values() for q in some if q.free_form]
    n = len(questions.free_form) or len(held)
    if not n or needs_teacher(cfg):
        return
    if len(questions.free_form):
        where, flag = questions.where(questions.free_form[0]), "--data"
    else:
        where, flag = f"{cfg.heldout}, question {held[0].id}", "--heldout"
    give = "--teacher-url" if cfg.method == "on-distill" else "--teacher or --teacher-url"
    raise ValueError(
        f"{where}: {n} of the questions of {flag} are free-form and need a judge, and this run "
        f"has none; give {give}, or take them out"
    )


def next_questions(job, replayed_ids, cfg):
    """(new questions, replayed questions, data position after them) of a step, all of their
    pictures opened once, so that nothing is sampled before a bad one is known.

    With --skip-bad, one that can't be used is left out, with a counted warning; else ValueError
    names them all. Every rank looks at its share.
    """
    questions, state = job.questions, job.state
    indices, position = data.take_good(questions, cfg.seed, state.position, cfg.new_prompts)
    new = len(indices)
    indices += [questions.place(i) for i in replayed_ids]
    good, skipped = usable(questions, indices, job.check, job.world, cfg, state.skipped)
    state.skipped += skipped
    return [q for k, q in good if k < new], [q for k, q in good if k >= new], position


def usable(questions, indices, check, world, cfg, before=0):
    """([(place among the indices, question)] of those that a batch can hold, how many can't). All
    their pictures are decoded, each rank's share; what can't be used is an error that names all, or
    with --skip-bad a warning each, with `before` skipped earlier.
    """
    own = range(world.rank, len(indices), world.size)
    look = lambda: {k: data.fetch(questions, [indices[k]], check)[1] for k in own}
    bad = {k: e for part in world.all_gather(look) for k, some in part.items() for e in some}
    if bad and not cfg.skip_bad:
        data.refuse([bad[k] for k in sorted(bad)])
    for n, k in enumerate(sorted(bad), before + 1):
        if world.rank == 0:
            tqdm.write(f"warning: {bad[k]}; skipped ({n} so far)", file=sys.stderr)
    return [(k, questions[i]) for k, i in enumerate(indices) if k not in bad], len(bad)
