"""What lives as long as a run: models, optimizer, buffer, rng, data position, logs; how it is sampled from and saved.

train.py holds the algorithm; this file keeps its state, so that a checkpoint has one place that knows all that decides the next
step. Between two steps the state is taken as JSON values (`snapshot`), so that an error in the middle of a step can still save
the steps before it.
"""
import copy
import random
import sys
from dataclasses import replace
from itertools import count

import torch
from tqdm import tqdm

import checkpoint
from buffer import Buffer
from chat import CLOSER, control_strings, encode
from config import comparable
from data import decode, fetch
from metrics import Clock, Log
from reward import grade
from rollout import HFEngine, seed_of
from sample import Group
from teacher import Cache, Teacher, fingerprint


class Run:
    """What lives as long as the run: models, optimizer, buffer, rng, data position, logs, and how they are saved."""

    def __init__(self, cfg, student, teacher, questions, out):
        self.cfg, self.student, self.out = cfg, student, out
        self.questions, self.skipped = questions, 0
        self.engine = HFEngine(student)                      # samples from the very weights that are trained
        self.optimizer = torch.optim.AdamW(student.net.parameters(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2),
                                           eps=cfg.adam_eps, weight_decay=cfg.weight_decay)
        self.buffer = Buffer(cfg.capacity, cfg.tau)
        self.rng = random.Random(cfg.seed)                   # replay draws, candidates and their order, minibatches
        self.control = control_strings(student.tokenizer)
        self.done = self.position = 0                        # steps finished; questions taken from the data order
        self.before = self.record = None                     # held-out results before training; metrics of the last step
        seen = None                                          # byte ranges of the teacher cache; None: all of it
        if cfg.resume and not cfg.resume_from:
            seen = []                                        # died before its first checkpoint: begin again, as if alone
        if cfg.resume_from:
            state = checkpoint.load(cfg.resume_from, student, self.optimizer)
            self.done, self.position, self.before, seen = (state[k] for k in ("step", "position", "heldout", "teacher_cache"))
            self.rng = checkpoint.set_rng_state(state["rng"])
            self.buffer.load(state["buffer"])
        cache = Cache(cfg.teacher_cache or out / "teacher.jsonl", fingerprint(cfg.teacher_path), seen)
        self.teacher = Teacher(HFEngine(teacher), cache, cfg.teacher_n, cfg.max_response, cfg.seed, cfg.max_summary,
                               cfg.temperature, cfg.top_p, cfg.fresh_teacher, cfg.teacher_max)
        self.log = Log(out, self.done if cfg.resume_from else -1, cfg.tensorboard, cfg.wandb, vars(cfg))
        if cfg.resume_from:
            self.log.restore(state["record"])
        self.state = self.snapshot()

    def start_step(self):
        """A fresh Clock, and token counters at zero."""
        self.engine.tokens = self.teacher.engine.tokens = 0
        return Clock()

    def new_questions(self, indices):
        """The questions at these indices. With --skip-bad, one whose image does not open is left out, with a counted warning."""
        if not self.cfg.skip_bad:
            return [self.questions[i] for i in indices]
        good, bad = fetch(self.questions, indices)
        for e in bad:
            self.skipped += 1
            tqdm.write(f"warning: {e}; skipped ({self.skipped} so far)", file=sys.stderr)
        return good

    def sample(self, kind, asked, first_id, step):
        """Student rollouts: cfg.n graded samples to each (origin, question, Prompt), as Groups numbered from first_id.

        Raises ValueError when a plain prompt is longer than --max-prompt.
        """
        cfg = self.cfg
        drawn = self.engine.sample([prompt for _, _, prompt in asked], cfg.n, cfg.max_response,
                                   seed_of(cfg.seed, 0, step, kind), cfg.temperature)
        for (_, q, _), samples in zip(asked, drawn):
            if kind == "plain":
                check_length(q, len(samples[0].prompt.ids), cfg)
        return [Group(i, kind, origin, q, tuple(
                    replace(s, group_id=i, kind=kind, question_id=q.id, policy_step=step, reward=grade(s.text, q.golds))
                    for s in samples))
                for i, (origin, q, _), samples in zip(count(first_id), asked, drawn)]

    def correct_answers(self, hard, step):
        """{group id: the teacher's correct answers} for the hard groups."""
        prompts = [prompt_of(self.teacher.engine.lm, g.question, g.question.question, self.cfg) for g in hard]
        answers = self.teacher.answers([g.question.golds for g in hard], prompts, step)
        return {g.id: [a for a in known if a.reward] for g, known in zip(hard, answers)}

    def weights_move(self):
        """From here to end_step() the state of the last step is no longer there to be saved."""
        self.state = None

    def end_step(self, step, n_new, record):
        """A step is finished; its metrics record is kept in the state until the next, in case it can't be written now."""
        self.done, self.position, self.record = step, self.position + n_new, record
        self.state = self.snapshot()

    def snapshot(self):
        """All that decides the next step and is not weights, moments or torch's rng, as JSON values."""
        return {"position": self.position, "rng": checkpoint.rng_state(self.rng), "buffer": copy.deepcopy(self.buffer.state()),
                "teacher_cache": self.teacher.cache.state(), "heldout": self.before, "config": comparable(self.cfg),
                "record": self.record}

    def save(self):
        """A checkpoint of the last finished step, unless its weights have already moved on (then None)."""
        if self.state is None or not self.done:
            return None
        return checkpoint.save(self.out / "checkpoints", self.done, self.student, self.optimizer, self.state, self.cfg.keep)


def check_length(question, tokens, cfg):
    """Raise ValueError when the plain prompt of a question, of that many tokens, is longer than --max-prompt."""
    if tokens > cfg.max_prompt:
        raise ValueError(f"question {question.id}: its prompt has {tokens} tokens, more than --max-prompt {cfg.max_prompt}; "
                         f"take it out, or allow more")


def prompt_of(lm, question, text, cfg):
    """The Prompt of a question under the given wording: its images, the text, and always the closer."""
    return encode(lm, text + CLOSER, decode(question.images, question.id), decode(question.video, question.id), cfg.thinking)
