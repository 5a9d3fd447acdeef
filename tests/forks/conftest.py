"""One opened run of the tiny world for all tests of forks: its real student and teacher, and the
plain groups of one rollout, made once.
"""

import copy
from types import SimpleNamespace

import pytest

from config import flags
from distributed import Roles
from loss import advantages
from records import RolloutRequest
from rollout import rollout
from runtime import launch
from runtime.metrics import Clock
from tiny import is_hard

SIZES = "--batch 6 --iterations 2 --n 8 --aug 0.5 --seed 3".split()


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """(Job, plain groups): six questions that need a misprinted fact, six that do not."""
    out = tmp_path_factory.mktemp("forks") / "run"
    cfg = flags([*SIZES, "--out", str(out)])
    job = launch.open_job(cfg, Roles())
    hard = [q for q in job.questions if is_hard(q)][:6]
    easy = [q for q in job.questions if not is_hard(q)][:6]
    requests = [RolloutRequest("plain", "new", q, q.question) for q in hard + easy]
    plain = rollout(job.engine, requests, 1, cfg, job.world)
    yield job, plain
    job.close()


@pytest.fixture
def step(opened):
    """step(fork): one step of train.train's order with the fork's method, on the shared groups; the
    weights and the optimizer are put back afterwards.
    """
    job, plain = opened
    net, optimizer = job.policy.lm.net, job.optimizer
    weights = copy.deepcopy(net.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())

    def play(fork, *argv, method=None, groups=None, step=1):
        name = fork.__name__.rpartition(".")[2]
        cfg = flags([*fork.FLAGS, *SIZES, *argv], name)
        method, clock = method or fork.method(job), Clock()
        given = list(groups or plain)
        settings = step, cfg, job.engine, job.teacher, job.world, copy.deepcopy(job.state.rng)
        made = method.reformulate(given, *settings, clock)
        all_ = [*given, *made.groups]
        all_ += rollout(job.engine, made.requests, step, cfg, job.world, first_id=len(all_))
        samples = [s for g in all_ for s in g.samples]
        rewards, ids = [s.reward for s in samples], [s.group_id for s in samples]
        adv = advantages(rewards, ids, cfg.norm).tolist()
        rng = copy.deepcopy(job.state.rng)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        more = cfg, job.world, rng, clock
        metrics = method.update(job.policy, optimizer, all_, adv, *more)
        moved = any(not v.equal(before[k]) for k, v in net.state_dict().items())
        found = {"made": made, "groups": all_, "adv": adv, "metrics": metrics, "moved": moved}
        return SimpleNamespace(cfg=cfg, method=method, **found)

    yield play
    net.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    job.policy.teacher = None
