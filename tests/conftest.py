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
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start; two workers share the cores
torch.set_num_threads(1)
profile = {"deadline": None, "derandomize": True, "database": None}
profile["suppress_health_check"] = [HealthCheck.function_scoped_fixture]
settings.register_profile("zppo", **profile)
settings.load_profile("zppo")

import scripted as scripts  # noqa: E402

import shared_prompt  # noqa: E402
import tiny  # noqa: E402
from baselines import FrozenTeacher  # noqa: E402
from buffer import Buffer  # noqa: E402
from config import flags  # noqa: E402
from data import in_memory  # noqa: E402
from distributed import World  # noqa: E402
from engines.hf import HFEngine  # noqa: E402
from policy import shard_policy  # noqa: E402
from records import Group  # noqa: E402
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
    out = []
    for some in questions.values():
        out += [some[0], next(q for q in some if len(q.id) != len(some[0].id))]
    return out


@pytest.fixture(scope="session")
def cfg():
    """The flags of train.py, as it parses them: cfg("--n 2 --method grpo"), cfg("--n", 2)."""
    return lambda *argv: flags(" ".join(map(str, argv)).split())


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
            of_group = {"group_id": i, "question_id": q.id}
            graded = [replace(s, reward=r, **of_group) for s, r in zip(samples, rs)]
            groups.append(Group(i, kind, "new", q, tuple(graded)))
        return groups

    return make


@pytest.fixture(scope="session")
def scripted():
    return scripts.Scripted


@pytest.fixture
def make_job(lm, tmp_path):
    """A launch.Job on the tiny model, as launch.open_job makes it; with `reply`, its teacher is
    Scripted.
    """
    made = []

    def make(cfg, reply=None, questions=(), student=None, method=None, distiller=None):
        student, world = student or tiny.new_model(0), World()  # trained: not the shared one
        out = tmp_path / f"run{len(made)}"
        out.mkdir()
        engine = scripts.Scripted(lm, reply) if reply else HFEngine(lm)
        teacher = Teacher(engine, Memo(out / "teacher.jsonl", "t"), cfg)
        shared_prompt.decide([lm for lm in (student, distiller) if lm], world)
        frozen, sampler = FrozenTeacher(distiller) if distiller else None, HFEngine(student)
        policy = shard_policy(student, world, frozen, sampler=sampler)
        optimizer = launch.adamw(student.net, cfg)
        state = RunState(Buffer(cfg.capacity, cfg.tau), Random(cfg.seed))
        checkpoints = Checkpoints(out / "checkpoints", cfg, student, optimizer, world, teacher)
        models = policy, optimizer, sampler, teacher
        job = launch.Job(world, *models, in_memory(questions), {}, state, checkpoints)
        job.log, job.out = Log(out, student.tokenizer), out
        job.same_tokens, job.method = True, method
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


@pytest.fixture
def play(make_job, fresh_lm, cfg):
    """A finished scripted.World; several in one test share the student, whose weights no scripted
    engine looks at.
    """
    make = lambda right, *argv, **more: scripts.World(make_job, fresh_lm, cfg, right, *argv, **more)
    return lambda *args, **more: make(*args, **more).play()
