"""Shared by all tests: the repository on sys.path, one thread, a random tiny model, and stand-ins
for slow parts.

python -m pytest tests
"""

import copy
import os
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["OMP_NUM_THREADS"] = (
    "1"  # of the processes that tests start; two workers share the cores
)
torch.set_num_threads(1)
settings.register_profile(
    "zppo",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("zppo")

import tiny  # noqa: E402
from baselines import FrozenTeacher  # noqa: E402
from buffer import Buffer  # noqa: E402
from config import flags  # noqa: E402
from data import in_memory  # noqa: E402
from distributed import World  # noqa: E402
from engines.base import Engine  # noqa: E402
from engines.hf import HFEngine  # noqa: E402
from policy import shard_policy  # noqa: E402
from records import Group, Sample  # noqa: E402
from rollout import prompt_of  # noqa: E402
from runtime import launch  # noqa: E402
from runtime.checkpoint import Checkpoints, RunState  # noqa: E402
from runtime.memo import Memo  # noqa: E402
from runtime.metrics import Log  # noqa: E402
from teacher import Teacher  # noqa: E402

MODALITIES = {"image": "train", "text": "heldout_text", "video": "heldout_video"}


@pytest.fixture(scope="session")
def lm():
    """A random Qwen3.5. Shared: a test that changes weights takes `fresh_lm`."""
    return tiny.new_model(0)


@pytest.fixture
def fresh_lm():
    return tiny.new_model(0)


@pytest.fixture(scope="session")
def engine(lm):
    return HFEngine(lm)


@pytest.fixture(scope="session")
def questions():
    """{"image" | "text" | "video": list of questions}."""
    return {name: tiny.questions(split) for name, split in MODALITIES.items()}


@pytest.fixture(scope="session")
def few(questions):
    """Two questions of each modality, of different lengths where the world has them."""
    return [
        q
        for name in MODALITIES
        for q in (
            questions[name][0],
            next(x for x in questions[name] if len(x.id) != len(questions[name][0].id)),
        )
    ]


@pytest.fixture
def cfg():
    """The flags of train.py, as it parses them: cfg("--n", 2)."""
    return lambda *argv: flags([str(a) for a in argv])


@pytest.fixture(scope="session")
def rollouts():
    """What train.py hands to update(): graded Groups of real samples. rewards: one list a question,
    in order.
    """

    def make(engine, questions, rewards, cfg, seed=0, kind="plain"):
        prompts = [prompt_of(engine.lm, q, q.question, cfg) for q in questions]
        drawn = engine.sample(prompts, cfg.group_size, cfg.max_response, seed, cfg.temperature)
        groups = []
        for i, (q, samples, rs) in enumerate(zip(questions, drawn, rewards)):
            graded = [
                replace(s, group_id=i, question_id=q.id, reward=r) for s, r in zip(samples, rs)
            ]
            groups.append(Group(i, kind, "new", q, tuple(graded)))
        return groups

    return make


class Scripted(Engine):
    """An engine whose k-th response to a prompt is reply(prompt text, k), with k counted over all
    calls.

    calls: what it was asked between two times that it was idle, as dicts.
    """

    def __init__(self, lm, reply):
        super().__init__(lm)
        self.reply, self.calls, self.asked, self.queue = reply, [], {}, []

    def submit(self, key, prompt, n, max_new_tokens, seed, temperature=1.0, top_p=1.0, **more):
        if not self.queue:
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
            self.calls.append({"prompts": [], "n": n, "seeds": [], "top_p": top_p, **settings})
        self.calls[-1]["prompts"].append(prompt)
        self.calls[-1]["seeds"].append(seed)
        self.queue.append((key, prompt, n))

    def step(self):
        out = []
        for key, p, n in self.queue:
            prompt, group = self.lm.tokenizer.decode(p.ids), []
            for _ in range(n):
                k = self.asked[prompt] = self.asked.get(prompt, -1) + 1
                text = self.reply(prompt, k)
                ids = tuple(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]) + (
                    self.lm.eos_ids[0],
                )
                group.append(Sample(p, ids, (0.0,) * len(ids), text, False))
            out.append((key, group))
        self.queue = []
        return out

    @property
    def busy(self):
        return bool(self.queue)

    def abort(self):
        self.queue = []

    def sync_weights(self, named):
        pass


@pytest.fixture(scope="session")
def scripted():
    return Scripted


@pytest.fixture
def make_job(lm, tmp_path):
    """A launch.Job on the tiny model, as launch.open_job makes it; with `reply`, its teacher is
    Scripted.
    """
    made = []

    def make(cfg, reply=None, questions=(), student=None, method=None, distiller=None):
        student, world = student or lm, World()
        out = tmp_path / f"run{len(made)}"
        out.mkdir()
        engine = Scripted(lm, reply) if reply else HFEngine(lm)
        teacher = Teacher(engine, Memo(out / "teacher.jsonl", "t"), cfg)
        policy = shard_policy(student, world, FrozenTeacher(distiller) if distiller else None)
        optimizer = launch.adamw(student.net, cfg)
        state = RunState(Buffer(cfg.capacity, cfg.tau), Random(cfg.seed))
        checkpoints = Checkpoints(out / "checkpoints", cfg, student, optimizer, world, teacher)
        job = launch.Job(
            world,
            policy,
            optimizer,
            HFEngine(student),
            teacher,
            in_memory(questions),
            {},
            state,
            checkpoints,
            Log(out, student.tokenizer),
            out,
            same_tokens=True,
            method=method,
        )
        job.resources.callback(teacher.close)
        made.append(job)
        return job

    yield make
    for job in made:
        job.close()


@pytest.fixture(scope="session")
def weights():
    """A copy of all parameters by name, to compare bit for bit."""
    return lambda lm: {name: copy.deepcopy(p.detach()) for name, p in lm.net.named_parameters()}
