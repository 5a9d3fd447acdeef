"""The update alone, against an outside reference: rows one by one through the stock transformers
forward, and PPO's clips, the importance weights, the norm clip and AdamW written out here.

python -m pytest tests/test_policy.py
"""

import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stock import stock_logp

import model
import tiny
from distributed import World
from engines.hf import HFEngine
from loss import advantages
from packing import micro_batches
from policy import Policy, shard_policy, update
from records import Group
from reformulate import ncq
from reward import grade
from rollout import prompt_of
from runtime.launch import adamw

ROOT = Path(__file__).parent.parent


def made_update(lm, groups, adv, cfg, optimizer=None):
    optimizer = optimizer or adamw(lm.net, cfg)
    return update(Policy(lm), optimizer, groups, adv, cfg, World(), random.Random(0))


def gradient(lm, groups, adv, cfg):
    """({parameter: gradient} that an update leaves which moves nothing, its metrics)."""
    metrics = made_update(lm, groups, adv, cfg, torch.optim.SGD(lm.net.parameters(), lr=0.0))
    return {name: p.grad.clone() for name, p in lm.net.named_parameters()}, metrics


def samples_of(groups):
    return [s for g in groups for s in g.samples]


def tokens_of(groups):
    return sum(len(s.response_ids) for s in samples_of(groups))


# ---- the outside reference -----------------------------------------------------------------------

# Every number of the update away from its default, and such that each of them is felt: the second
# minibatch's ratios reach all three clips, and the norm clip binds in the first minibatch only, or
# it would hide the denominator.
FLAGS = """--n 3 --iterations 2 --temperature 1.3 --tis 1.1 --clip-low 0.1 --clip-high 0.15
--dual-clip 1.1 --grad-clip 7 --lr 1e-2 --beta1 0.6 --beta2 0.5 --adam-eps 3e-3 --weight-decay 0.5
--flat-share 1 --micro-tokens 150 --max-response 12"""
# the groups' advantages; the second group has none, and counts in the denominator
ADV = [[1.5, -0.4, 0.9], [0.0] * 3, [-1.7, 0.6, -0.5], [0.8, 1.1, -1.3], [-0.9, 1.2, 0.4]]


@pytest.fixture(scope="module")
def step(lm, few, rollouts, cfg):
    """Five groups of three samples, image, text and video, each response of its own length; the
    sampler's log-probs are as far from the trainer's as another engine's might be.
    """
    c, g = cfg(FLAGS), torch.Generator().manual_seed(0)
    groups = rollouts(HFEngine(lm), few[:5], [[0] * 3] * 5, c, seed=4)
    out = []
    for group in groups:
        samples = []
        for s in group.samples:
            n = int(torch.randint(3, 13, (), generator=g))
            noise = 0.3 * torch.randn(len(s.sampler_logp), generator=g)
            sampler = (torch.tensor(s.sampler_logp) + noise).tolist()
            s = replace(s, response_ids=s.response_ids[:n], sampler_logp=tuple(sampler[:n]))
            samples.append(s)
        out.append(replace(group, samples=tuple(samples)))
    return out


def reference(groups, adv, cfg, first, **changes):
    """(weights by name, metrics) after two updates of a fresh model: on the groups in `first`, then
    on the others. changes: flags that are read otherwise; whole_step: the denominator counts the
    tokens of both minibatches; on_policy: all ratios are 1.
    """
    lm, c = tiny.new_model(0), {**vars(cfg), "whole_step": False, "on_policy": False} | changes
    weights = dict(lm.net.named_parameters())
    m, v = ({k: torch.zeros_like(p) for k, p in weights.items()} for _ in range(2))
    rows = [[(s, a) for s, a in zip(g.samples, own)] for g, own in zip(groups, adv)]
    with torch.no_grad():
        old = {id(s): stock_logp(lm, s, c["temperature"]) for s in samples_of(groups)}
    off = {id(s): old[id(s)] - torch.tensor(s.sampler_logp) for s in samples_of(groups)}
    seen = {"ratio": [], "loss": 0.0, "norms": [], "clipped": 0, "dual_clipped": 0}
    seen["gap"] = torch.cat(list(off.values())).abs().tolist()
    deal = list(first), [i for i in range(len(groups)) if i not in first]
    for t, chosen in enumerate(deal, 1):
        n_tokens = tokens_of(groups if c["whole_step"] else [groups[i] for i in chosen])
        for p in weights.values():
            p.grad = torch.zeros_like(p)
        for s, a in (row for i in chosen for row in rows[i]):
            logp = stock_logp(lm, s, c["temperature"])
            before = logp.detach() if c["on_policy"] else old[id(s)]
            ratio = (logp - before).exp()
            inside = ratio.clamp(1 - c["clip_low"], 1 + c["clip_high"])
            surrogate = torch.min(ratio * a, inside * a)
            bounded = (
                surrogate if a >= 0 else torch.max(surrogate, torch.tensor(c["dual_clip"] * a))
            )
            weight = 1.0
            if c["tis"]:
                weight = off[id(s)].exp().clamp(max=c["tis"])
            loss = -(bounded * weight).sum()
            (loss / n_tokens).backward()
            seen["loss"] += float(loss.detach())
            if a:
                seen["ratio"] += ratio.tolist()
                seen["clipped"] += int((ratio > inside if a > 0 else ratio < inside).sum())
                seen["dual_clipped"] += int((bounded != surrogate).sum())
        norm = torch.cat([p.grad.flatten() for p in weights.values()]).norm()
        seen["norms"].append(float(norm))
        for k, p in weights.items():
            grad = p.grad * min(1.0, c["grad_clip"] / float(norm))
            m[k] = c["beta1"] * m[k] + (1 - c["beta1"]) * grad
            v[k] = c["beta2"] * v[k] + (1 - c["beta2"]) * grad**2
            direction = m[k] / (1 - c["beta1"] ** t)
            direction = direction / ((v[k] / (1 - c["beta2"] ** t)).sqrt() + c["adam_eps"])
            with torch.no_grad():
                p -= c["lr"] * (direction + c["weight_decay"] * p)
    return {k: p.detach() for k, p in weights.items()}, seen


def distance(ours, other, start):
    """How far two sets of weights are apart, in units of how far the first one moved."""
    flat = lambda w: torch.cat([w[k].flatten() for k in sorted(w)]).double()
    return float((flat(ours) - flat(other)).norm() / (flat(ours) - flat(start)).norm())


@pytest.fixture(scope="module", params=[False, True], ids=["rows", "shared prompts"])
def outside(step, cfg, weights, request):
    """Our weights and metrics after the update, the weights before it, and the groups of its first
    minibatch, however they were dealt.
    """
    lm, c, read = tiny.new_model(0), cfg(FLAGS), []
    policy, optimizer, start = Policy(lm), adamw(lm.net, c), weights(lm)
    lm.share_prompts = request.param

    def watch(policy, args):
        if torch.is_grad_enabled() and not optimizer.state:  # no step has been made
            read.extend(args[0])

    policy.register_forward_pre_hook(watch)
    adv = [a for own in ADV for a in own]
    metrics = update(policy, optimizer, step, adv, c, World(), random.Random(0))
    ours, first = weights(lm), {s.group_id for s in read}
    either = [first, first | {1}]  # the group without advantage runs no backward
    near = [distance(ours, reference(step, ADV, c, deal)[0], start) for deal in either]
    return ours, metrics, start, either[near[1] < near[0]]


def test_update_is_that_of_the_outside_reference(outside, step, cfg):
    ours, metrics, start, first = outside
    want, seen = reference(step, ADV, cfg(FLAGS), first)
    assert distance(ours, want, start) < 5e-4 and len(first) in (2, 3)
    all_tokens = tokens_of(step)
    assert metrics["loss"] == pytest.approx(seen["loss"] / all_tokens, abs=1e-4)
    assert metrics["trained"] == len(seen["ratio"]) == all_tokens - tokens_of([step[1]])
    assert metrics["ratio_max"] == pytest.approx(max(seen["ratio"]), rel=1e-3)
    assert metrics["grad_norm"] == pytest.approx(statistics.fmean(seen["norms"]), rel=1e-3)
    assert metrics["clip_share"] == seen["clipped"] / all_tokens
    assert metrics["dual_clip_share"] == seen["dual_clipped"] / all_tokens
    assert metrics["gap_mean"] == pytest.approx(statistics.fmean(seen["gap"]), rel=1e-3)
    assert seen["clipped"] > 5 and seen["dual_clipped"] > 2
    assert seen["norms"][1] < 7 < seen["norms"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"on_policy": True},
        {"whole_step": True},
        {"clip_low": 0.15, "clip_high": 0.1},
        {"clip_low": 1.0},
        {"clip_high": 1e9},
        {"dual_clip": 1e9},
        {"tis": 0.0},
        {"tis": 1e9},
        {"grad_clip": 1e9},
        {"beta1": 0.9},
        {"beta2": 0.999},
        {"adam_eps": 1e-8},
        {"weight_decay": 0.0},
        {"temperature": 1.0},
    ],
    ids=lambda change: " ".join(change),
)
def test_the_reference_feels_each_flag(outside, step, cfg, change):
    """Or an update that ignored it would agree as well."""
    ours, _, start, first = outside
    assert distance(ours, reference(step, ADV, cfg(FLAGS), first, **change)[0], start) > 0.01


# ---- micro-batches and minibatches ---------------------------------------------------------------


def test_micro_batches_hold_every_row_once(step):
    rows = [(s, i) for i, s in enumerate(samples_of(step))]
    longest = max(len(s.prompt.ids) + len(s.response_ids) for s, _ in rows)
    for most in range(1, 17):
        batches = micro_batches(rows, most * longest)
        assert sorted(i for b in batches for _, i in b) == list(range(15))
        for b in batches:
            padded = max(len(s.prompt.ids) + len(s.response_ids) for s, _ in b)
            assert 1 <= len(b) and padded * len(b) <= most * longest
    assert len(micro_batches(rows, 1)) == 15 and micro_batches([], 4) == []


def test_one_two_and_many_micro_batches_give_one_gradient(lm, step, cfg):
    """Rows are padded, and a mean of means would differ."""
    adv, samples = [a for own in ADV for a in own], samples_of(step)
    assert len({len(s.response_ids) for s in samples}) > 2
    rows = [row for row in zip(samples, adv) if row[1]]
    longest = max(len(s.prompt.ids) + len(s.response_ids) for s in samples)
    grads = []
    for number, budget in ((1, 12 * longest), (2, 7 * longest), (12, 1)):
        assert len(micro_batches(rows, budget)) == number
        c = cfg("--n 3 --iterations 1 --grad-clip 1e9 --micro-tokens", budget)
        grad, metrics = gradient(lm, step, adv, c)
        assert metrics["trained"] == sum(len(s.response_ids) for s, _ in rows)
        grads.append(torch.cat([grad[k].flatten() for k in sorted(grad)]).double())
    for other in grads[1:]:
        assert float((other - grads[0]).norm() / grads[0].norm()) < 2e-5


def test_updates_use_every_token_once(lm, few, rollouts, cfg):
    """I = 3 minibatches over 6 groups: trained tokens = tokens of the groups with advantage. At
    ratio 1 the loss is the mean of -A over all tokens, however small the policy's gradient is.
    """
    c = cfg("--n 2 --iterations 3 --max-response 6 --micro-tokens 120")
    groups = rollouts(HFEngine(lm), few, [[1, 0]] * 4 + [[1, 1]] * 2, c)
    samples = samples_of(groups)
    adv = advantages([s.reward for s in samples], [s.group_id for s in samples]).tolist()
    _, metrics = gradient(lm, groups, adv, c)
    want = -sum(a * len(s.response_ids) for s, a in zip(samples, adv)) / tokens_of(groups)
    assert metrics["trained"] == tokens_of(groups[:4])
    assert metrics["loss"] == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert metrics["ratio_max"] == 1.0 and metrics["clip_share"] == 0  # learning rate 0
    assert metrics["gap_max"] < 1e-4


def test_a_step_with_nothing_to_learn_is_legal(fresh_lm, few, rollouts, weights, cfg):
    """No advantage at all, and fewer groups than updates: finite numbers, no weight moves."""
    c = cfg("--n 2 --iterations 4 --max-response 5 --lr 0.1 --weight-decay 0")
    groups = rollouts(HFEngine(fresh_lm), few[:2], [[0, 0], [1, 1]], c)
    before = weights(fresh_lm)
    metrics = made_update(fresh_lm, groups, [0.0] * 4, c)
    assert all(math.isfinite(v) for v in metrics.values()) and metrics["entropy"] > 0
    assert metrics["grad_norm"] == metrics["loss"] == metrics["trained"] == 0
    assert all(torch.equal(p, before[name]) for name, p in fresh_lm.net.named_parameters())


# ---- old_logp that the sampler knows -------------------------------------------------------------


@pytest.fixture
def known(few, rollouts, cfg, weights):
    """updated(change, ...): (weights, metrics, groups of which log-probs were computed without
    gradient, next draw) of an update whose sampler is the trained net; change: of each Sample
    before it. Nine groups have advantages, three have none, one of which is measured.
    """
    flags = "--n 3 --iterations 3 --lr 1e-3 --max-response 12 --device cpu --flat-share"

    def updated(change=lambda s: s, itself=True, compute=torch.float32, share=0.3):
        c, lm = cfg(flags, share), tiny.new_model(0)
        engine = HFEngine(lm)
        groups = rollouts(engine, few + few, [[1, 0, 0]] * 9 + [[0] * 3] * 3, c)
        groups = [replace(g, samples=tuple(map(change, g.samples))) for g in groups]
        lm.compute, lm.share_prompts = compute, True
        sampler = engine if itself else HFEngine(tiny.new_model(0))
        policy, looked = shard_policy(lm, World(), sampler=sampler), []

        def watch(policy, args):
            if not torch.is_grad_enabled():
                looked.extend(s.group_id for s in args[0])

        policy.register_forward_pre_hook(watch)
        samples, rng = samples_of(groups), random.Random(0)
        adv = advantages([s.reward for s in samples], [s.group_id for s in samples]).tolist()
        metrics = update(policy, adamw(lm.net, c), groups, adv, c, World(), rng)
        assert len(looked) % 3 == 0  # whole groups
        return weights(lm), metrics, looked[::3], rng.random()

    return updated


def test_the_samplers_log_probs_are_old_logp(known):
    """Where the trained net itself sampled: the same update, of fewer forwards."""
    (ours, numbers, checked, draw), (want, other, computed, same) = known(), known(itself=False)
    start = {k: p.detach() for k, p in tiny.new_model(0).net.named_parameters()}
    assert distance(want, ours, start) < 1e-3 and draw == same
    live = len(computed) - 1  # of the second and third minibatch
    assert live >= 5 and len(checked) == math.ceil(0.3 * live) + 1
    for key in ("loss", "clip_share", "ratio_max", "grad_norm"):
        assert numbers[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6)
    assert 0 < numbers["gap_max"] < 2e-5


def test_what_is_checked_stands_for_all(known):
    """With every group checked, the metrics are those of every group."""
    (_, ours, checked, _), (_, other, computed, _) = (
        known(itself=i, share=1) for i in (True, False)
    )
    assert sorted(checked) == sorted(computed)
    assert ours["entropy"] == pytest.approx(other["entropy"], rel=1e-4)
    assert ours["gap_mean"] == pytest.approx(other["gap_mean"], rel=0.2)  # float noise itself
    few = known(share=0.01)
    assert len(few[2]) == 1 + 1 and few[1]["entropy"] == pytest.approx(other["entropy"], rel=0.1)


def off(s, by=1e-3):
    return replace(s, sampler_logp=tuple(x + by for x in s.sampler_logp))


def nan(s):
    return replace(s, sampler_logp=(float("nan"), *s.sampler_logp[1:]))


@pytest.mark.parametrize("change", [off, nan])
def test_log_probs_that_do_not_agree_are_computed(known, change):
    """All of them; the metrics show the gap of each row once."""
    (ours, numbers, looked, _), (want, other, computed, _) = known(change), known(change, False)
    assert len(looked) == math.ceil(0.3 * (len(computed) - 1)) + len(computed)
    assert all(torch.equal(ours[k], want[k]) for k in ours)
    assert numbers["gap_mean"] == pytest.approx(other["gap_mean"], nan_ok=True)
    if change is off:
        assert numbers["gap_mean"] == pytest.approx(1e-3, rel=0.01)


def test_bfloat16_computes_its_log_probs(known):
    """There another batch is another rounding, and ratios would move."""
    own, other = (known(itself=i, compute=torch.bfloat16) for i in (True, False))
    assert own[2] == other[2] and len(own[2]) > 5


# ---- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewarded(cfg):
    """(cfg, groups, advantages) of the shipped student on NCQ prompts of hard questions, where it
    is right now and then, with their real rewards.
    """
    c, lm = cfg("--n 8 --device cpu --iterations 1"), model.load(ROOT / "assets/student")
    pool, rng = [q for q in tiny.questions("train") if tiny.is_hard(q)][:24], random.Random(0)
    prompts, groups = [], []
    for q in pool:
        digits = tiny.digits_of(q)
        wrong = tiny.printed(q.source, digits)
        text = tiny.summary(tiny.trace(q.source, digits, wrong), wrong)
        prompts.append(prompt_of(lm, q, ncq(q.question, [text] * 3, [str(wrong)], rng), c))
    drawn = HFEngine(lm).sample(prompts, c.group_size, c.max_response, 3, c.temperature)
    for i, (q, samples) in enumerate(zip(pool, drawn)):
        graded = [replace(s, group_id=i, reward=grade(s.text, q.golds)) for s in samples]
        groups.append(Group(i, "plain", "new", q, tuple(graded)))
    groups = [g for g in groups if not g.zero_advantage][:6]
    samples = samples_of(groups)
    adv = advantages([s.reward for s in samples], [s.group_id for s in samples]).tolist()
    assert len(groups) == 6
    return c, groups, adv


def margin(lm, groups):
    """Mean log-prob of the rewarded less that of the other responses, over the groups."""
    out = []
    for g in groups:
        with torch.no_grad():
            logp, _ = Policy(lm)(list(g.samples))
        each = logp.split([len(s.response_ids) for s in g.samples])
        good = [float(x.sum()) for x, s in zip(each, g.samples) if s.reward]
        bad = [float(x.sum()) for x, s in zip(each, g.samples) if not s.reward]
        out.append(statistics.fmean(good) - statistics.fmean(bad))
    return statistics.fmean(out)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_raises_what_was_rewarded(rewarded, sign):
    """One update of the shipped student at the default learning rate; with the advantages reversed,
    the reverse.
    """
    c, groups, adv = rewarded
    lm = model.load(ROOT / "assets/student")
    before = margin(lm, groups)
    made_update(lm, groups, [sign * a for a in adv], c)
    change = margin(lm, groups) - before
    assert math.isfinite(change) and sign * change > 0.05
