"""Lessons to batches to weights: how assets/student and assets/teacher were made.

    build("assets")          # both, in two processes: about 6 minutes on 2 cores

Left out: a general data pipeline; batches are made from lessons, not from Questions.
"""

import random
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm
from transformers.utils import logging

import model
import processor
from tiny.lessons import (
    bcq_lesson,
    copy_lesson,
    hint_lesson,
    hinting_lesson,
    ncq_lesson,
    plain_lesson,
    summary_lesson,
)
from tiny.models import new_model
from tiny.world import SIDE, glyphs

STEPS = {"student": 1700, "teacher": 1700}
LR = 2e-3

# ---- batches -------------------------------------------------------------------------------------


@cache
def tiles():
    """Train glyphs as patches, each also moved by a pixel: {digit: (glyphs * 9, 4, 64) float}."""
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    out = {}
    for digit, arrays in glyphs()[0].items():
        padded = [np.pad(g, 1) for g in arrays]
        moved = [np.roll(g, shift, (0, 1))[1:-1, 1:-1] for g in padded for shift in shifts]
        x = torch.tensor(np.stack(moved)).float().view(-1, 2, 8, 2, 8)
        out[digit] = (x.transpose(2, 3).reshape(-1, 4, 64) / 255 - 0.5) / 0.5
    return out


class Classroom:
    """Turns lessons into batches. The parts of a prompt around its text are encoded once for each
    kind of input.
    """

    def __init__(self, lm):
        self.lm, self.frames = lm, {}

    def encode(self, text):
        """The ids of a text, special tokens included."""
        return self.lm.tokenizer._tokenizer.encode(text, add_special_tokens=False).ids

    def frame(self, modality, n, thinking):
        """(ids before the text, their positions (3, P), ids after it)."""
        key = modality, n, thinking
        if key not in self.frames:
            blank = Image.new("L", (SIDE, SIDE))
            images = (Image.new("L", (SIDE * n, SIDE)),) if modality == "image" else ()
            video = (blank,) * (2 * n) if modality == "video" else ()
            prompt = processor.encode(self.lm, "0", images, video, thinking)
            vision = processor.pixels(self.lm, prompt)
            ids = list(processor.expand(self.lm, prompt, vision).ids)
            cut = ids.index(self.encode("0")[0])
            head = replace(prompt, ids=tuple(ids[:cut]))
            self.frames[key] = (
                ids[:cut],
                processor.positions(self.lm, head, vision)[0],
                ids[cut + 1 :],
            )
        return self.frames[key]

    def vision(self, lesson, rng):
        """{"image" or "video": (patches, grid)}, as processor.pixels gives them; {} for a text."""
        if lesson.modality == "text":
            return {}
        n, bank = len(lesson.digits), tiles()
        drawn = [bank[d][rng.randrange(len(bank[d]))] for d in lesson.digits]
        values = torch.cat(drawn).repeat(1, 6)  # RGB x two frames
        grid = [[1, 2, 2 * n]] if lesson.modality == "image" else [[n, 2, 2]]
        return {lesson.modality: (values, torch.tensor(grid))}

    def batch(self, lessons, rng):
        """The dict that model.response_hidden takes (see model.collate)."""
        rows = []
        for x in lessons:
            head, pos, tail = self.frame(x.modality, len(x.digits), x.thinking)
            written = self.encode(x.response) + [self.lm.eos_ids[0]]
            rows.append((head + self.encode(x.text) + tail, written, pos))
        B, T = len(rows), max(len(p) + len(r) for p, r, _ in rows)
        ids, mask = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
        target, positions = torch.zeros(B, T, dtype=torch.bool), torch.arange(T).repeat(3, B, 1)
        for i, (p, r, pos) in enumerate(rows):
            end = len(p) + len(r)
            ids[i, :end] = torch.tensor(p + r)
            mask[i, :end] = 1
            target[i, len(p) : end] = True
            # one row of digits takes as many positions as tokens: what follows counts on
            positions[:, i, : pos.shape[1]] = pos
        visions = [self.vision(x, rng) for x in lessons]
        batch = {"ids": ids, "mask": mask, "pos": positions, "target": target}
        return batch | {"visions": visions, "rows": list(range(B))}

    def loss(self, lessons, rng):
        """(summed negative log-likelihood of the responses, their tokens)."""
        hidden, target = model.response_hidden(self.lm, self.batch(lessons, rng))
        loss = cross_entropy(hidden @ self.lm.head.T, target, reduction="sum")
        return loss, len(target)


# ---- what is taught when -------------------------------------------------------------------------

# What the student practises beside plain questions, in turn.
PRACTICE = (
    (bcq_lesson, 8),
    (ncq_lesson, 5),
    (bcq_lesson, 8),
    (copy_lesson, 6),
    (ncq_lesson, 5),
    (hint_lesson, 8),
)


def plan(role, done, step):
    """The groups of lessons of one step, each (lesson, how many) and a forward of its own; done: 0
    to 1.

    Copying comes first, and from short scribbles: mixed with arithmetic from the start it had not
    begun after 400 steps.
    """
    drill = 0.18 if role == "student" else 0.16
    longest = 5 + int(13 * done / drill)
    plain = partial(plain_lesson, role=role)
    if role == "teacher":
        if done < drill:
            return [(partial(summary_lesson, longest=longest, nonsense=0.7), 16)]
        return [(plain, 22), ((summary_lesson, 6), (hinting_lesson, 4))[step % 2]]
    if done < drill:
        return [(partial(copy_lesson, longest=longest, most=1), 16)]
    practice = (copy_lesson, 6) if done < 0.38 else PRACTICE[step % len(PRACTICE)]
    return [(plain, 16), practice]


def revision(role, done, step):
    """The student's second round: as before, but every other question needs a misprinted fact.

    A student that doubts its misprints finds the truth by luck now and then, and needs no teacher:
    this takes its rate of right answers to hard products from 0.4 % to 0.1 %, at an unchanged use
    of candidates.
    """
    return [(partial(plain_lesson, role=role, hard=0.5), 16), PRACTICE[step % len(PRACTICE)]]


def warm_decay(step, steps):
    """Learning-rate factor: 40 steps up, constant, linear to zero over the last 38 %."""
    return min((step + 1) / 40, 1, (steps - step) / (0.38 * steps))


# ---- training ------------------------------------------------------------------------------------


def pretrain(role, steps, seed=0):
    """A model.LM trained from scratch on its textbook."""
    # two processes of one thread each: as fast as one of two, and robust to other load
    torch.set_num_threads(1)
    lm = new_model(seed)
    study(lm, role, plan, steps, lambda step: LR * warm_decay(step, steps), f"{role} {seed}")
    if role == "student":
        again = steps // 6
        falling = lambda step: LR / 2 * (1 - step / again)
        study(lm, role, revision, again, falling, f"revision {seed}")
    return lm


def study(lm, role, lessons, steps, rate, seed):
    """Train lm on lessons(role, done, step) for some steps, with a fresh optimizer; rate: step ->
    learning rate.
    """
    room, rng = Classroom(lm), random.Random(seed)
    params = list(lm.net.parameters())
    opt = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    bar = tqdm(range(steps), desc=f"{role:7}", position=int(role == "teacher"), mininterval=1)
    for step in bar:
        losses = {}
        for group in opt.param_groups:
            group["lr"] = rate(step)
        for make, n in lessons(role, step / steps, step):
            total, count = room.loss([make(rng) for _ in range(n)], rng)
            (total / 400).backward()  # about the tokens of a step
            losses[getattr(make, "func", make).__name__] = f"{total.item() / count:.2f}"
        clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad()
        bar.set_postfix(losses, refresh=False)


def quiet():
    """Switch off transformers' notes on missing GPU kernels, which would tear our bars apart."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def pretrain_and_save(role, out, steps, seed):
    """What each process of build() does."""
    quiet()
    model.save(pretrain(role, steps, seed), f"{out}/{role}")


def build(out="assets", seed=0, steps=STEPS):
    """Pretrain student and teacher in two processes; saved to out/student and out/teacher."""
    start = torch.multiprocessing.get_context("spawn").Process
    jobs = [start(target=pretrain_and_save, args=(r, out, steps[r], seed)) for r in steps]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    print("\n" * len(jobs))  # past the two bars
    if any(job.exitcode for job in jobs):
        raise ValueError("pretraining failed, see above")
