"""Corners of a step that its ordinary numbers do not reach: a rank with less to do than the others,
samples without advantage, a prompt that just fits, ratios beyond all bounds.

python -m pytest tests/test_corners.py
"""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from question_fixtures import write

import tiny
from data import QuestionCheck, open_questions
from distributed import World
from engines.hf import HFEngine
from loss import policy_loss_sum, tis_weight
from policy import Policy, update
from processor import length
from records import RolloutRequest
from rollout import fitting, request_prompt, rollout
from runtime.dataset import next_questions
from runtime.launch import check_window


class OneOf(World):
    """A rank of several, alone in its process: sums stay its own, and are kept."""

    def all_gather(self, work):
        return [work()]

    def all_reduce(self, sums, largest=()):
        self.sums, self.largest = dict(sums), set(largest)
        return dict(sums)


@pytest.fixture(scope="module")
def step(lm, few, rollouts, cfg):
    """(groups, advantages): two groups with advantage, three without, every response of its own
    length, the sampler a little off.
    """
    c = cfg("--n 3 --max-response 14")
    groups, out = rollouts(HFEngine(lm), few[:5], [[0] * 3] * 5, c, seed=2), []
    for g, group in enumerate(groups):
        samples = []
        for k, s in enumerate(group.samples):
            n = 3 + (5 * g + 3 * k) % 11
            logp = tuple(x - 0.05 * (k + 1) for x in s.sampler_logp[:n])
            samples.append(replace(s, response_ids=s.response_ids[:n], sampler_logp=logp))
        out.append(replace(group, samples=tuple(samples)))
    return out, [1.0, -0.3, -0.7, *[0.0] * 6, 0.4, 0.4, -0.8, *[0.0] * 3]


def share(step, cfg, rank, size):
    """(gradient, raw sums, names of the largest, forwards made) of one rank's update."""
    lm, (groups, adv), forwards = tiny.new_model(0), step, []
    policy, world = Policy(lm), OneOf(rank, size)
    policy.register_forward_pre_hook(lambda policy, args: forwards.append(len(args[0])))
    optimizer = torch.optim.SGD(lm.net.parameters(), lr=0.0)
    update(policy, optimizer, groups, adv, cfg, world, random.Random(0))
    grad = torch.cat([p.grad.flatten() for p in lm.net.parameters()]).double()
    return grad, world.sums, world.largest, sum(forwards)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_rank_that_has_nothing_left_repeats_a_micro_batch_and_counts_nothing(step, cfg, size):
    """Whatever the split: the ranks' sums are those of one rank, and FSDP's mean of their gradients
    is its gradient. One row a micro-batch, 6 with advantage and 9 without.
    """
    c = cfg("--n 3 --iterations 1 --micro-tokens 1 --grad-clip 1e9 --flat-share 0.5")
    whole, sums, largest, forwards = share(step, c, 0, 1)
    parts = [share(step, c, rank, size) for rank in range(size)]
    mean = sum(grad for grad, *_ in parts) / size
    assert float((mean - whole).norm() / whole.norm()) < 1e-5
    for name, value in sums.items():
        over = max if name in largest else sum
        assert over(p[1][name] for p in parts) == pytest.approx(value, rel=1e-5), name
    made = [p[3] for p in parts]
    assert len(set(made)) == 1  # or FSDP would wait for ever
    assert sum(made) - forwards == 2 * (-6 % size)  # 2 of the 3 flat groups are measured


@pytest.mark.parametrize("flat", [1.0, 0.5, 0.2])
def test_samples_without_advantage_stand_for_all_of_their_kind(lm, step, cfg, flat):
    """Entropy and gap are means over all tokens, those of flat samples estimated from a share."""
    (groups, adv), read = step, []
    rows = list(zip([s for g in groups for s in g.samples], adv))
    policy = Policy(tiny.new_model(0))
    c = cfg(f"--n 3 --iterations 1 --grad-clip 1e9 --flat-share {flat}")
    policy.register_forward_pre_hook(lambda policy, args: read.extend(args[0]))
    optimizer = torch.optim.SGD(policy.net.parameters(), lr=0.0)
    metrics = update(policy, optimizer, groups, adv, c, World(), random.Random(1))
    flats = [s for s, a in rows if not a]
    looked = [s for s in flats if any(s is r for r in read)]
    assert len(looked) == 3 * math.ceil(flat * 3)  # whole groups of 3
    sums = {"tokens": 0.0, "entropy": 0.0, "gap": 0.0}
    plain = dict(sums)
    for s, weight in [(s, 1) for s, a in rows if a] + [(s, 9 / len(looked)) for s in looked]:
        with torch.no_grad():
            logp, entropy = Policy(lm)([s])
        gap = (logp - torch.tensor(s.sampler_logp)).abs().sum()
        for name, value in zip(sums, (len(logp), float(entropy.sum()), float(gap))):
            sums[name] += weight * value
            plain[name] += value
    assert metrics["entropy"] == pytest.approx(sums["entropy"] / sums["tokens"], rel=1e-5)
    assert metrics["gap_mean"] == pytest.approx(sums["gap"] / sums["tokens"], rel=1e-4)
    off = abs(plain["gap"] / plain["tokens"] / metrics["gap_mean"] - 1)
    assert flat == 1 or off > 0.005  # the weight is felt


# ---- lengths -------------------------------------------------------------------------------------


def test_a_prompt_that_just_fits(lm, questions, cfg):
    """Prompt and response together may fill the window, and not be one token longer."""
    c = cfg("--max-response 30")
    ask = lambda q: RolloutRequest("ncq", "new", q, q.question)
    requests = [ask(questions["text"][0]), ask(questions["image"][0])]
    sizes = [length(lm, request_prompt(lm, r, c)) for r in requests]
    for longest in (max(sizes) + 30, max(sizes) + 29):
        kept, left = fitting(requests, SimpleNamespace(lm=lm, window=longest), c)
        want = [r for r, n in zip(requests, sizes) if n + 30 <= longest]
        assert kept == want and left == 2 - len(want)
    assert left == 1


def test_prompt_and_response_together_fill_the_context_at_most(cfg):
    student = SimpleNamespace(window=1024)
    check_window(student, cfg("--max-prompt 900 --max-response 124"))
    for flags in ("--max-prompt 900 --max-response 125", "--max-prompt 901 --max-response 124"):
        with pytest.raises(ValueError, match="do not fit its context of 1024 tokens"):
            check_window(student, cfg(flags))


def test_a_picture_that_grew_since_the_start_is_met_before_anything_is_sampled(
    lm, make_job, cfg, tmp_path
):
    """Both rows pass the check of the start; then one file is replaced by a larger picture."""
    rows = []
    for name in "ab":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
        rows.append({"id": name, "question": "Count", "answer": "4", "image": f"{name}.png"})
    file = write(tmp_path, *rows)
    c = cfg("--batch 2 --iterations 1 --max-prompt 60")
    job, job_check = make_job(c), QuestionCheck(lm, c.max_prompt)
    job.questions, job.check = open_questions(file, check=job_check), job_check
    new, replayed, position = next_questions(job, [], c)
    assert sorted(q.id for q in new) == ["a", "b"] and replayed == [] and position == 2
    Image.new("RGB", (512, 512)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="question b: its prompt has .* than --max-prompt 60"):
        next_questions(job, ["a"], c)
    c.skip_bad = True
    new, replayed, _ = next_questions(job, ["b", "a"], c)
    assert [q.id for q in new + replayed] == ["a", "a"] and job.state.skipped == 2


def test_the_students_own_samples_know_no_top_p(lm, questions, scripted, cfg):
    """--top-p is the teacher's: the policy that is sampled is the one that is trained."""
    student = scripted(lm, lambda prompt, k: "\\boxed{1}")
    q = questions["text"][0]
    rollout(
        student, [RolloutRequest("plain", "new", q, q.question)], 1, cfg("--top-p 0.3"), World()
    )
    assert student.calls[0]["top_p"] == 1.0


# ---- ratios beyond all bounds --------------------------------------------------------------------


def test_ratios_beyond_all_bounds_are_clipped_and_have_finite_gradients():
    """exp(200) is infinite in float32, and infinity times a zero gradient is no number."""
    logp = torch.tensor([200.0, -200.0, 200.0, -200.0, 200.0, -200.0], requires_grad=True)
    adv = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0])
    total, stats = policy_loss_sum(logp, torch.zeros(6), adv, 0.2, 0.28, 10.0)
    assert float(total.detach()) == pytest.approx(-1.28 - math.exp(-20) + 10 + 0.8)
    total.backward()
    assert logp.grad.isfinite().all() and logp.grad.abs().max() < 1e-6
    assert stats["clipped"] == 2 and stats["dual_clipped"] == 1
    assert math.isfinite(stats["ratio_max"])
    far = tis_weight(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]), cap=3.0)
    assert far.tolist() == pytest.approx([3.0, 0.0], abs=1e-8)
