"""What lives as long as a run: models, optimizer, buffer, rng, data position, logs; how it is
sampled from and saved.

train.py holds the algorithm; this file keeps its state, so that a checkpoint has one place that
knows all that decides the next step. Between two steps the state is taken as JSON values
(`snapshot`), so that an error in the middle of a step can still save the steps before it. On
several student ranks each holds the same state; sampling is split by prompt, and the teacher with
its cache belongs to rank 0.
"""

import copy
import random
import sys
from dataclasses import replace

import torch
from tqdm import tqdm

from buffer import Buffer
from config import comparable, share
from data import decode, fetch
from distributed import named_weights, policy_of
from engines.base import Stopped, seed_of
from engines.hf import HFEngine
from eval import evaluate
from processor import CLOSER, control_strings, encode
from records import Group
from reward import grade
from runtime import checkpoint
from runtime.metrics import Clock, Log
from teacher import judge_item


class Run:
    """What lives as long as the run: models, optimizer, buffer, rng, data position, logs, and how
    they are saved.

    engine: samples from the student; teacher: a teacher.Teacher, None where nobody asks it or on
    ranks above 0; distiller: the teacher's LM for the distillation baselines, else None.
    """

    def __init__(self, cfg, world, student, engine, teacher, questions, out, distiller=None):
        self.cfg, self.world, self.student, self.out = cfg, world, student, out
        self.engine, self.teacher = engine, teacher
        self.questions, self.skipped = questions, 0
        self.own = (
            isinstance(engine, HFEngine) and engine.lm.net is student.net
        )  # it samples from the trained weights
        self.policy = policy_of(student, world, distiller, checkpointing=cfg.checkpointing)
        self.optimizer = torch.optim.AdamW(
            student.net.parameters(),
            lr=cfg.lr,
            betas=(cfg.beta1, cfg.beta2),
            eps=cfg.adam_eps,
            weight_decay=cfg.weight_decay,
        )
        self.buffer = Buffer(cfg.capacity, cfg.tau)
        self.rng = random.Random(cfg.seed)  # replay draws, candidates and their order, minibatches
        self.control = control_strings(student.tokenizer)
        self.done = self.position = 0  # steps finished; questions taken from the data order
        self.before = self.record = (
            None  # held-out results before training; metrics of the last step
        )
        self.stop = None  # console.StopSignal, once training begins
        self.same_tokens = False  # student and teacher have the same token ids
        self.n_aug = share(cfg.aug, cfg.batch * cfg.iterations)
        self.wants_answers = (
            self.n_aug
            and (cfg.bcq or cfg.method in ("hint", "prefix"))
            or cfg.method == "off-distill"
        )
        state = None
        if cfg.resume_from:
            state = checkpoint.load(cfg.resume_from, student, self.optimizer, world)
            self.done, self.position, self.before = (
                state[k] for k in ("step", "position", "heldout")
            )
            self.rng = checkpoint.set_rng_state(state["rng"])
            self.buffer.load(state["buffer"])
            self.sync()
        if teacher:
            teacher.pulse = self.pulse
            if state:
                teacher.load(state["teacher"])
        self.log = world.first_only(
            lambda: Log(
                out, self.done if cfg.resume_from else -1, cfg.tensorboard, cfg.wandb, vars(cfg)
            )
        )
        if state and self.log:
            self.log.restore(state["record"])
        self.state = self.snapshot()

    # ---- one step --------------------------------------------------------------------------------

    def start_step(self):
        """A fresh Clock, and counters at zero."""
        self.engine.tokens = 0
        if self.teacher:
            self.teacher.engine.tokens = 0
            self.teacher.reset()
        return Clock(self.world.alive)

    def new_questions(self, indices):
        """The questions at these indices. With --skip-bad, one whose image does not open is left
        out, with a counted warning.
        """
        if not self.cfg.skip_bad:
            return [self.questions[i] for i in indices]
        good, bad = self.world.first(
            lambda: fetch(self.questions, indices)
        )  # one rank decides, or a bad disk would split them
        for e in bad:
            self.skipped += 1
            if self.world.rank == 0:
                tqdm.write(f"warning: {e}; skipped ({self.skipped} so far)", file=sys.stderr)
        return good

    def sample(self, kind, asks, first_id, step):
        """Student rollouts: cfg.n graded samples to each Ask, as Groups numbered from first_id; all
        of them on every rank.

        Each rank samples every world.size-th prompt; its seed is the prompt's own, so that the
        split does not show. Raises ValueError when a plain prompt is longer than --max-prompt,
        Stopped when a rank was told to stop.
        """
        cfg, world, lm = self.cfg, self.world, self.student
        mine = range(world.rank, len(asks), world.size)

        if kind == "plain":
            self.look_ahead(asks, step)

        def draw():
            self.turn("student")
            prompts = [
                prompt_of(lm, asks[i].question, asks[i].text, cfg, asks[i].prefix) for i in mine
            ]
            drawn = self.engine.sample(
                prompts,
                cfg.n,
                cfg.max_response,
                [seed_of(cfg.seed, step, kind, i) for i in mine],
                cfg.temperature,
                stop=self.pulse,
            )
            groups = {}
            for i, samples in zip(mine, drawn):
                if kind == "plain":
                    check_length(asks[i].question, len(samples[0].prompt.ids), cfg)
                groups[i] = self.graded(asks[i], samples, first_id + i, kind, step)
            return (
                groups if world.size == 1 else {i: light(samples) for i, samples in groups.items()}
            )

        parts = {i: samples for part in world.each(draw) for i, samples in part.items()}
        return self.judged(
            [
                Group(first_id + i, kind, a.origin, a.question, tuple(parts[i]))
                for i, a in enumerate(asks)
            ]
        )

    def graded(self, ask, samples, group_id, kind, step):
        """The samples with their reward by exact matching, and where they come from. A forced
        prefix counts as written.
        """
        if ask.prefix:  # decoded as one: the cut may go through a letter
            whole = lambda s: self.student.tokenizer.decode(
                (*ask.prefix, *s.response_ids), skip_special_tokens=True
            )
            samples = [replace(s, text=whole(s)) for s in samples]
        return [
            replace(
                s,
                group_id=group_id,
                kind=kind,
                question_id=ask.question.id,
                policy_step=step,
                reward=grade(s.text, ask.question.golds),
            )
            for s in samples
        ]

    def judged(self, groups):
        """The groups with the judge's word on what exact matching left open in free-form questions
        (ZPPO Appendix D.1).
        """
        todo = [
            (g.question, s)
            for g in groups
            if g.question.free_form
            for s in g.samples
            if not s.reward
        ]
        if not todo:
            return groups
        items = [judge_item(q, s) for q, s in todo]
        right = iter(self.world.first(lambda: self.asked_teacher(todo[0][0]).judge(items)))
        return [
            replace(
                g,
                samples=tuple(
                    replace(s, reward=float(next(right))) if not s.reward else s for s in g.samples
                ),
            )
            if g.question.free_form
            else g
            for g in groups
        ]

    def asked_teacher(self, question):
        """The teacher, where there has to be one. Raises ValueError."""
        if self.teacher is None:
            raise ValueError(
                f"question {question.id} is free-form and needs a judge: give --teacher or --teacher-url"
            )
        return self.teacher

    def correct_answers(self, groups, step, fresh=False):
        """{group id: the teacher's correct answers}. fresh: G_T new ones each (off-distill), not
        the cache.
        """

        def ask():
            self.turn("teacher")
            questions = [g.question for g in groups]
            self.teacher.keep_only(questions)
            if fresh:
                return self.teacher.fresh_answers(questions, step, self.cfg.teacher_n)
            return self.teacher.answers(questions, step)

        answers = self.world.first(
            lambda: [light([a for a in known if a.reward]) for known in ask()]
        )
        return {g.id: known for g, known in zip(groups, answers)}

    def with_pictures(self, samples):
        """Samples with the pictures of their prompts, which do not travel between ranks."""
        if self.world.size == 1:
            return samples
        prompts = {}
        for s in samples:
            if id(s.prompt) not in prompts:
                q = self.questions.find(s.question_id)
                prompts[id(s.prompt)] = replace(
                    s.prompt,
                    images=tuple(decode(q.images, q.id)),
                    video=tuple(decode(q.video, q.id)),
                )
        return [replace(s, prompt=prompts[id(s.prompt)]) for s in samples]

    # ---- overlap, turns, signals -----------------------------------------------------------------

    def look_ahead(self, asks, step):
        """Let a teacher on servers begin with this step's questions, while the students sample."""
        if self.teacher and self.wants_answers:
            questions = [a.question for a in asks]
            self.teacher.begin(questions, step, self.cfg.method == "off-distill")

    def pulse(self):
        """Asked by the engine between its steps: True when this rank was told to stop."""
        self.world.alive()
        return bool(self.stop and self.stop.signal)

    def turn(self, who):
        """Who has the accelerator next: "student", "teacher" or "update". What shares its memory
        sleeps.
        """
        local = self.teacher and not self.teacher.engine.remote
        if who != "student" and (who == "update" or local):
            self.engine.sleep()
        if who != "teacher" and local:
            self.teacher.engine.sleep()

    def check_stop(self):
        """Raise Stopped on every rank when one of them was told to stop."""
        if any(self.world.everyone(self.pulse())):
            raise Stopped

    # ---- what is told ----------------------------------------------------------------------------

    def say(self, text):
        """Print on rank 0; text: a string, or a function that makes it. Returns 0."""
        if self.world.rank == 0:
            print(text() if callable(text) else text, flush=True)
        return 0

    def write_step(self, record, groups=(), advantage=None, show=()):
        """A line of metrics.jsonl, and the groups of the `show` question ids for samples.jsonl; on
        rank 0, where the log is.
        """

        def write():
            self.log.metrics(record)
            some = [
                replace(g, samples=tuple(self.with_pictures(g.samples)))
                for g in groups
                if g.question.id in show
            ]
            self.log.samples(record["step"], some, advantage, show, self.student.tokenizer)

        self.world.first(write)

    def counts(self, numbers):
        """Tokens of this step, over all ranks, and the seconds that the students waited for the
        teacher.

        The teacher's are those that it wrote, and those that it read for a distillation.
        """
        made = self.world.total({"generated": self.engine.tokens})["generated"]
        wrote, waited, judged = self.world.first(
            lambda: (
                (self.teacher.engine.tokens, self.teacher.waited, self.teacher.judged)
                if self.teacher
                else (0, 0.0, {})
            )
        )
        return {
            "tokens": {
                "generated": made,
                "trained": numbers["trained"],
                "teacher": wrote + numbers.get("read", 0),
            },
            "teacher_waited": waited,
            "judged": judged,
        }

    def close(self):
        """Give back what other processes wait for: the teacher's cache and ranks, the process
        group.
        """
        if self.teacher:
            self.teacher.close()
        if self.log:
            self.log.close()
        self.world.close()

    # ---- weights and state -----------------------------------------------------------------------

    def weights_move(self):
        """From here to end_step() the state of the last step is no longer there to be saved."""
        self.turn("update")
        self.state = None

    def sync(self):
        """The sampler takes over the trained weights."""
        self.engine.sync_weights(
            None if self.own else named_weights(self.student, self.student.compute)
        )

    def end_step(self, step, n_new, record):
        """A step is finished; its metrics record is kept in the state until the next, in case it
        can't be written now.
        """
        self.done, self.position, self.record = step, self.position + n_new, record
        self.state = self.snapshot()

    def snapshot(self):
        """All that decides the next step and is not in checkpoint.save's shards, as JSON values."""
        return {
            "position": self.position,
            "rng": checkpoint.rng_state(self.rng),
            "buffer": copy.deepcopy(self.buffer.state()),
            "teacher": self.teacher.state() if self.teacher else None,
            "heldout": self.before,
            "config": comparable(self.cfg),
            "record": self.record,
        }

    def save(self):
        """A checkpoint of the last finished step, unless its weights have already moved on (then
        None).
        """
        if self.state is None or not self.done:
            return None
        return checkpoint.save(
            self.out / "checkpoints",
            self.done,
            self.student,
            self.optimizer,
            self.state,
            self.cfg.keep,
            self.world,
        )

    def held_out(self, heldout):
        """{split: [[question id, family, reward], ...]}, greedy, each rank its share of the
        questions.
        """
        self.turn("student")
        out = {}
        with tqdm(
            total=sum(map(len, heldout.values())),
            desc="held-out questions",
            leave=False,
            dynamic_ncols=True,
            disable=self.world.rank > 0,
        ) as bar:
            for split, questions in heldout.items():
                mine = [
                    questions[i] for i in range(self.world.rank, len(questions), self.world.size)
                ]
                parts = self.world.each(
                    lambda: evaluate(
                        self.engine,
                        mine,
                        self.cfg.max_response,
                        self.cfg.thinking,
                        bar=bar,
                        stop=self.pulse,
                    )
                )
                out[split] = [
                    parts[i % self.world.size][i // self.world.size] for i in range(len(questions))
                ]
        return out


def light(samples):
    """The samples of one prompt without its pictures; all with the same Prompt, as before."""
    bare = [replace(s.prompt, images=(), video=()) for s in samples[:1]]
    return [replace(s, prompt=bare[0]) for s in samples]


def check_length(question, tokens, cfg):
    """Raise ValueError when the plain prompt of a question, of that many tokens, is longer than
    --max-prompt.
    """
    if tokens > cfg.max_prompt:
        raise ValueError(
            f"question {question.id}: its prompt has {tokens} tokens, more than --max-prompt {cfg.max_prompt}; "
            f"take it out, or allow more"
        )


def prompt_of(lm, question, text, cfg, prefix=()):
    """The Prompt of a question under the given wording: its images, the text, and always the
    closer.

    prefix: token ids that the response is forced to begin with; they stand in the prompt, so
    nothing trains on them.
    """
    prompt = encode(
        lm,
        text + CLOSER,
        decode(question.images, question.id),
        decode(question.video, question.id),
        cfg.thinking,
    )
    return replace(prompt, ids=(*prompt.ids, *prefix)) if prefix else prompt
