"""Drafts of the student's own head in the real vLLM engine (--mtp): the tests that
test_vllm_kernels.py runs.
"""

import pytest
import torch
from drafter_fixtures import add_head
from vllm.triton_utils import HAS_TRITON
from vllm.v1.worker.gpu.model_runner import GPUModelRunner

import model
import tiny
from config import flags
from engines import open_engine
from loss import mask_logits
from policy import Policy
from processor import encode
from rollout import prompt_of

pytestmark = pytest.mark.vllm
MEAN, MAX = 0.03, 0.3  # nats, as in test_vllm.py


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    model.save(tiny.new_model(0), folder)
    add_head(folder)
    return model.load(folder, "bfloat16")


@pytest.fixture(scope="module")
def engine(student):
    assert HAS_TRITON
    torch._dynamo.config.disable = True
    return open_engine("vllm", student, seed=7, mtp=2)


@pytest.fixture(scope="module")
def prompts(student):
    questions = tiny.questions("train")[:5]
    drawn = [prompt_of(student, q, q.question, flags([])) for q in questions]
    return [*drawn, encode(student, "Look.")]


def worker(engine):
    return engine.engine.model_executor.driver_worker.worker


def agree(student, groups, temperature=1.0):
    samples = [s for g in groups for s in g]
    with torch.no_grad(), student.autocast():
        logp, _ = Policy(student)(samples, temperature)
    gap = (logp - torch.tensor([x for s in samples for x in s.sampler_logp])).abs()
    print(f"gap {len(gap)} tokens: mean {gap.mean():.4f} max {gap.max():.4f}")
    return gap.mean() < MEAN / temperature and gap.max() < MAX / temperature


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_policys(student, engine, prompts, temperature):
    assert isinstance(worker(engine).model_runner, GPUModelRunner)  # V2
    assert agree(student, engine.sample(prompts, 2, 16, 3, temperature), temperature)


def test_drafts_are_accepted(engine, prompts):
    """Greedy, a random model repeats itself, which its head foresees: fewer steps than tokens. And
    a seed gives the same samples again.
    """
    steps, step = [], engine.engine.step
    engine.engine.step = lambda: steps.append(0) or step()
    drawn = [engine.sample([p], 1, 24, seed=1, temperature=0)[0][0] for p in prompts[:3]]
    del engine.engine.step
    tokens = sum(len(s.response_ids) for s in drawn)
    print(f"{tokens} tokens in {len(steps)} steps")
    assert len(steps) < tokens
    assert engine.sample(prompts[:2], 2, 8, seed=1) == engine.sample(prompts[:2], 2, 8, seed=1)


def test_the_samples_are_the_policys(student, engine, prompts):
    """Over the trainer's own distributions at each prefix, log p(x) + entropy has mean 0 and a
    known variance. Drafts taken without rejection would be too probable.
    """
    samples = [s for g in engine.sample(prompts, 4, 16, seed=5) for s in g]
    excess = variance = 0.0
    for k in range(0, len(samples), 48):
        with torch.no_grad(), student.autocast():
            hidden, ids = model.response_hidden(
                student, model.collate(student, samples[k : k + 48])
            )
            logp = mask_logits(hidden @ student.head.T, student.banned).float().log_softmax(-1)
        p = logp.exp()
        finite = torch.where(p > 0, logp, 0)
        mean = (p * finite).sum(-1)
        excess += float((finite.gather(-1, ids[:, None])[:, 0] - mean).sum())
        variance += float(((p * finite**2).sum(-1) - mean**2).sum())
    print(f"excess {excess:.1f}, deviation {variance**0.5:.1f}")
    assert abs(excess) < 4 * variance**0.5


def test_a_sync_moves_the_policy_and_not_the_head(student, engine, prompts):
    """Embedding and output head of the drafts are the policy's own; its other weights stay, also
    over a sleep in which the policy's weights are not kept.
    """
    target, draft = worker(engine).model_runner.get_model(), worker(engine).get_draft_model()
    weight = student.drafter["mtp.fc.weight"].bfloat16()
    probe = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    before = draft.model.fc(probe)  # a CPU keeps the matrix in another form
    assert torch.allclose(before, probe @ weight.T, atol=0.1)
    shared = {id(p) for p in target.parameters()} & {id(p) for p in draft.parameters()}
    assert id(target.language_model.model.embed_tokens.weight) in shared
    old = engine.sample(prompts[:3], 2, 8, seed=0)
    with torch.no_grad():
        for k, p in enumerate(student.net.parameters()):
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(k))
            p.add_(0.03 * noise)
    engine.can_sleep = True
    engine.sleep(until_sync=True)
    with torch.no_grad():
        for p in target.parameters():
            p.fill_(torch.nan)
    engine.sync_weights(student.net.named_parameters())
    engine.can_sleep = False
    new = engine.sample(prompts[:3], 2, 8, seed=0)
    assert agree(student, new) and new != old and torch.equal(before, draft.model.fc(probe))
