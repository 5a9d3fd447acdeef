"""Shared by all tests: the repository on sys.path, one thread, a random tiny model, and stand-ins for slow parts.

    python -m pytest tests
"""
import copy
import os
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"         # of the processes that tests start; two workers share the cores
torch.set_num_threads(1)
settings.register_profile("zppo", deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("zppo")

import tiny  # noqa: E402
from config import flags  # noqa: E402
from data import in_memory  # noqa: E402
from rollout import HFEngine  # noqa: E402
from run import Run, prompt_of  # noqa: E402
from sample import Group, Sample  # noqa: E402

MODALITIES = {"image": "train", "text": "heldout_text", "video": "heldout_video"}


@pytest.fixture(scope="session")
def lm():
    """A random Qwen3.5 vision-language model. Shared: a test that changes weights takes `fresh_lm`."""
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
    return [q for name in MODALITIES for q in (questions[name][0],
            next(x for x in questions[name] if len(x.id) != len(questions[name][0].id)))]


@pytest.fixture
def cfg():
    """The flags of train.py, as it parses them: cfg("--n", 2)."""
    return lambda *argv: flags([str(a) for a in argv])


@pytest.fixture(scope="session")
def rollouts():
    """What train.py hands to update(): graded Groups of real samples. rewards: one list a question, in order."""
    def make(engine, questions, rewards, cfg, seed=0, kind="plain"):
        prompts = [prompt_of(engine.lm, q, q.question, cfg) for q in questions]
        drawn = engine.sample(prompts, cfg.n, cfg.max_response, seed, cfg.temperature)
        return [Group(i, kind, "new", q, tuple(replace(s, group_id=i, question_id=q.id, reward=r) for s, r in zip(samples, rs)))
                for i, q, samples, rs in zip(count(), questions, drawn, rewards)]
    return make


class Scripted:
    """An engine whose k-th response to a prompt is reply(prompt text, k), with k counted over all calls.

    calls: what each call of sample() was given, as dicts.
    """

    def __init__(self, lm, reply):
        self.lm, self.reply, self.calls, self.tokens, self.asked = lm, reply, [], 0, {}

    def sample(self, prompts, n, max_new_tokens, seed, temperature=1.0, top_p=1.0, top_k=0):
        self.calls.append({"prompts": list(prompts), "n": n, "max_new_tokens": max_new_tokens, "seed": seed,
                           "temperature": temperature, "top_p": top_p})
        out = []
        for p in prompts:
            prompt, group = self.lm.tokenizer.decode(p.ids), []
            for _ in range(n):
                k = self.asked[prompt] = self.asked.get(prompt, -1) + 1
                text = self.reply(prompt, k)
                ids = tuple(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]) + (self.lm.eos_ids[0],)
                group.append(Sample(p, ids, (0.0,) * len(ids), text, False))
            out.append(group)
        return out


@pytest.fixture(scope="session")
def scripted():
    return Scripted


@pytest.fixture
def make_run(lm, tmp_path):
    """A run.Run on the tiny model, as main() makes it; with `reply`, its teacher is Scripted."""
    made = []

    def make(cfg, reply=None, questions=(), student=None):
        cfg.resume_from = ""
        out = tmp_path / f"run{len(made)}"
        out.mkdir()
        run = Run(cfg, student or lm, lm, in_memory(questions), out)
        if reply:
            run.teacher.engine = Scripted(lm, reply)
        made.append(run)
        return run
    yield make
    for run in made:
        run.teacher.cache.close()


@pytest.fixture(scope="session")
def weights():
    """A copy of all parameters by name, to compare bit for bit."""
    return lambda lm: {name: copy.deepcopy(p.detach()) for name, p in lm.net.named_parameters()}
