"""--optim-dtype bfloat16: AdamW's moments in half the bytes, and nothing lost on the way; and
--freeze-vision.

    python -m pytest tests/test_optimizer.py
"""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import model
import optimizer
import tiny
from distributed import World
from loss import advantages
from optimizer import AdamWBF16, adamw, stochastic_bf16
from policy import update
from runtime import checkpoint, launch

ROOT = Path(__file__).parent.parent
HALF_ULP = 2**-9  # of bfloat16, relative


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- stochastic rounding -------------------------------------------------------------------------


@pytest.mark.parametrize("x", [1.001, -1.001, 0.3, 3e-30, 1e-41, -7.77e20, 255.9])
def test_the_mean_of_many_roundings_is_the_number(x):
    """And each of them is one of its two neighbours in bfloat16."""
    n = 200_000
    rounded = stochastic_bf16(torch.full((n,), x), generator())
    below, above = sorted({float(v) for v in rounded})
    exact = float(torch.tensor(x))
    assert below < exact < above
    assert float(torch.tensor(below).nextafter(torch.tensor(above))) < above  # not one float32 step
    spacing = above - below
    assert torch.tensor([below, above]).bfloat16().float().tolist() == [below, above]
    assert float(rounded.double().mean()) == pytest.approx(exact, abs=4 * spacing / math.sqrt(n))


def test_what_bfloat16_holds_stays_as_it_is():
    numbers = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-133, 3.3895e38, math.inf, -math.inf])
    numbers = numbers.bfloat16().float()
    rounded = stochastic_bf16(numbers, generator())
    assert torch.equal(rounded.float(), numbers)
    assert stochastic_bf16(torch.tensor([math.nan]), generator()).isnan().all()


# ---- beside float32 AdamW ------------------------------------------------------------------------

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def follow(kind, gradients, start=1.0, **changes):
    """(displacements of 1,000 equal weights after each step, the optimizer's state)."""
    p = torch.nn.Parameter(torch.full((1000,), start))
    opt = kind([p], **SETTINGS | changes)
    moved = []
    for g in gradients:
        p.grad = torch.full_like(p, g)
        opt.step()
        moved.append((p.detach() - start).double())
    return moved, opt.state[p]


def test_a_short_run_is_that_of_float32():
    """Thirty steps of gradients of both signs: within the spacing of bfloat16, and on the mean of
    the weights an order of magnitude closer.
    """
    draw = torch.randn(30, generator=generator(3)).tolist()
    (full, _), (half, state) = (follow(kind, draw) for kind in (torch.optim.AdamW, AdamWBF16))
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    for one, two in zip(full, half):
        assert float((one - two).abs().max()) < 0.02 * SETTINGS["lr"] * 30
        assert float((one - two).mean().abs()) < 0.002 * SETTINGS["lr"] * 30
    assert max(float(x.abs().max()) for x in full) > SETTINGS["lr"]


def test_the_first_step_is_exactly_adamws():
    """The moments of the step itself are not rounded before the weights are moved."""
    (full, _), (half, _) = (follow(kind, [0.37]) for kind in (torch.optim.AdamW, AdamWBF16))
    assert float((full[0] - half[0]).abs().max()) < 1e-7


def test_updates_below_bfloat16s_spacing_are_not_lost():
    """lr 1e-6 at weights of 1, whose spacing in bfloat16 is 0.0078: 2,000 steps move them by 0.002,
    as in float32.
    """
    steps = {"lr": 1e-6, "weight_decay": 0.0}
    (full, _), (half, _) = (
        follow(kind, [0.5] * 2000, **steps) for kind in (torch.optim.AdamW, AdamWBF16)
    )
    # 1e-6 is 17 of float32's own spacings, which rounds as well
    assert float(full[-1].mean()) == pytest.approx(-0.002, rel=0.02)
    assert float(half[-1].mean()) == pytest.approx(float(full[-1].mean()), rel=0.01)
    assert torch.tensor(1.0 - 1e-6).bfloat16() == 1.0  # as a bfloat16 weight they would be


def nearest(x, _):
    return x.bfloat16()


@pytest.mark.parametrize("rounding, right", [(stochastic_bf16, True), (nearest, False)])
def test_the_second_moment_comes_down_again(monkeypatch, rounding, right):
    """After a burst of large gradients, small ones for three times beta2's memory: rounded to
    nearest it stays where it was, and the weights would hardly move any more.
    """
    monkeypatch.setattr(optimizer, "stochastic_bf16", rounding)
    gradients = [1.0] * 20 + [0.01] * 3000
    (full, want), (half, state) = (
        follow(kind, gradients, lr=1e-5, weight_decay=0.0)
        for kind in (torch.optim.AdamW, AdamWBF16)
    )
    assert 0.001 < HALF_ULP
    moments = (s["exp_avg_sq"].double().mean() for s in (state, want))
    moment, exact = (float(m) for m in moments)
    found = float((half[-1] - half[20]).mean()), float((full[-1] - full[20]).mean())
    if right:
        assert moment == pytest.approx(exact, rel=0.05)
        assert found[0] == pytest.approx(found[1], rel=0.05)
    else:
        assert moment > 10 * exact and abs(found[0]) < 0.5 * abs(found[1])


def test_in_parts_or_at_once(monkeypatch):
    """The size of the parts decides which random bits go where, and nothing else."""
    results = []
    for part in (1 << 24, 7):
        monkeypatch.setattr(optimizer, "PART", part)
        results.append(follow(AdamWBF16, [0.3, -0.2, 0.1])[0][-1])
    one, two = results
    assert not torch.equal(one, two) or len(one) < 7
    assert float((one - two).abs().max()) < 0.02 * SETTINGS["lr"] * 3


def test_parameters_draw_different_bits_and_every_step_new_ones():
    p, q = (torch.nn.Parameter(torch.ones(512)) for _ in range(2))
    opt = AdamWBF16([p, q], **SETTINGS)
    rounded = []
    for _ in range(2):
        p.grad, q.grad = (torch.full_like(p, 0.77) for _ in range(2))
        opt.step()
        rounded += [opt.state[x]["exp_avg_sq"].clone() for x in (p, q)]
    assert not torch.equal(rounded[0], rounded[1])
    up = [r > r.float().mean() for r in rounded]
    assert not torch.equal(up[0], up[2])


def test_the_flag_chooses(fresh_lm, cfg):
    assert type(adamw(fresh_lm.net, cfg(""))) is torch.optim.AdamW
    opt = adamw(fresh_lm.net, cfg("--optim-dtype bfloat16 --lr 3e-4 --beta2 0.99 --seed 5"))
    assert type(opt) is AdamWBF16 and opt.seed == 5
    group = opt.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.9, 0.99), 0.0)


# ---- a frozen vision tower -----------------------------------------------------------------------


@pytest.fixture
def frozen(fresh_lm):
    model.freeze_vision(fresh_lm)
    return fresh_lm


def test_the_tower_is_all_that_is_frozen(frozen):
    kept = {name for name, p in frozen.net.named_parameters() if not p.requires_grad}
    assert kept == {n for n, _ in frozen.net.named_parameters() if ".visual." in n}
    assert any("merger" in name for name in kept) and not model.trains_vision(frozen)


def test_an_update_moves_the_language_model_only(frozen, few, rollouts, cfg, make_job, weights):
    c = cfg("--n 2 --iterations 1 --max-response 6 --freeze-vision --weight-decay 0.1 --lr 1e-2")
    job, before = make_job(c, student=frozen), weights(frozen)
    groups = rollouts(job.engine, few[:2], [[1, 0], [0, 1]], c)
    assert all(g.samples[0].prompt.images for g in groups)
    scored = [s for g in groups for s in g.samples]
    adv = advantages([s.reward for s in scored], [s.group_id for s in scored]).tolist()
    numbers = update(job.policy, job.optimizer, groups, adv, c, job.world, job.state.rng)
    assert numbers["grad_norm"] > 0
    after = weights(frozen)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".visual." not in name}
    assert all(p.grad is None for p in model.vision_tower(frozen).parameters())
    assert len(job.optimizer.state) == len(moved)


def test_a_text_only_model_has_none(cfg, fresh_lm):
    text = replace(fresh_lm, image_processor=None)
    with pytest.raises(ValueError, match="--freeze-vision: .* has no vision tower"):
        model.freeze_vision(text)
    assert model.vision_tower(text) is None and not model.trains_vision(text)


# ---- both, in checkpoints and whole runs ---------------------------------------------------------

BOTH = "--optim-dtype bfloat16 --freeze-vision".split()


def test_a_checkpoint_bit_for_bit(frozen, cfg, tmp_path):
    """Frozen weights are in it as well: model/ has them in the compute dtype only."""
    c = cfg(*BOTH)
    opt = adamw(frozen.net, c)
    frozen.compute = torch.bfloat16

    def learn(lm, opt, k):
        ids = torch.arange(7 + k)[None]
        opt.zero_grad()
        lm.net(input_ids=ids, labels=ids).loss.backward()
        opt.step()

    learn(frozen, opt, 0)
    path = checkpoint.save(tmp_path, 1, frozen, opt, {})
    again = model.load(path / "model", "bfloat16")
    model.freeze_vision(again)
    other = adamw(again.net, c)
    checkpoint.load(path, again, other)
    for _ in range(2):
        for (name, p), (_, q) in zip(frozen.net.named_parameters(), again.net.named_parameters()):
            assert p.dtype == q.dtype == torch.float32 and torch.equal(p, q), name
            one, two = (o.state.get(x, {}) for o, x in ((opt, p), (other, q)))
            assert one.keys() == two.keys() and bool(one) == p.requires_grad
            assert all(one[k].dtype == two[k].dtype and torch.equal(one[k], two[k]) for k in one)
        learn(frozen, opt, 1), learn(again, other, 1)


def test_states_of_the_other_dtype_are_read_with_force(fresh_lm, cfg, tmp_path):
    """--resume --force --optim-dtype bfloat16 on a float32 run: rounded, and it goes on."""
    opt = adamw(fresh_lm.net, cfg(""))
    for p in fresh_lm.net.parameters():
        p.grad = torch.full_like(p, 0.3)
    opt.step()
    path = checkpoint.save(tmp_path, 1, fresh_lm, opt, {})
    half = adamw(fresh_lm.net, cfg("--optim-dtype bfloat16"))
    checkpoint.load(path, fresh_lm, half)
    p = next(fresh_lm.net.parameters())
    assert half.state[p]["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(half.state[p]["exp_avg"], opt.state[p]["exp_avg"].bfloat16())


def test_the_students_tower_is_frozen_when_it_is_loaded(cfg):
    c = cfg("--freeze-vision")
    assert not model.trains_vision(launch.load_student(c, World()))


@pytest.mark.slow
def test_a_resumed_run_is_the_straight_one(tmp_path):
    """Two steps, then two more, against four; final/ is complete, its tower that of the start."""
    heldout = tmp_path / "q.jsonl"
    rows = [
        {"id": q.id, "question": q.question, "answer": q.answer}
        for q in tiny.questions("heldout_text")[:4]
    ]
    heldout.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = f"--batch 3 --n 4 --aug 0.5 --heldout {heldout} --threads 1".split() + BOTH

    def run(*argv):
        command = [sys.executable, ROOT / "train.py", *fixed, *argv]
        done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("--steps", 4, "--out", tmp_path / "one")
    run("--steps", 2, "--out", tmp_path / "two")
    run("--steps", 4, "--out", tmp_path / "two", "--resume")
    one, two = (load_file(tmp_path / f / "final/model.safetensors") for f in ("one", "two"))
    start = load_file(ROOT / "assets/student/model.safetensors")
    assert one.keys() == two.keys() == start.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    moved = {k for k in start if not torch.equal(one[k], start[k])}
    assert moved and not any(".visual." in k for k in moved)
