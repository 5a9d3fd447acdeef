"""Advantages, policy loss, chunked log-probs, Jensen-Shannon divergence.

python -m pytest tests/test_loss.py
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loss
from loss import advantages, chunked_logp, jsd_sum, policy_loss_sum, tis_weight

# ---- advantages (Eqs. 2-3) -----------------------------------------------------------------------

# Group 7: rewards 1 0 0 0, mean 1/4, A' = 3/4, -1/4, -1/4, -1/4, sum of squares 9/16 + 3/16 = 3/4.
# Group 8 is flat.
REWARDS, IDS = [1, 0, 0, 0, 1, 1], [7, 7, 7, 7, 8, 8]


@pytest.mark.parametrize("norm, variance", [("nonzero", 0.75 / 4), ("all", 0.75 / 6), ("none", 1)])
def test_advantages_by_hand(norm, variance):
    want = [a / math.sqrt(variance) for a in (0.75, -0.25, -0.25, -0.25, 0.0, 0.0)]
    assert advantages(REWARDS, IDS, norm).tolist() == pytest.approx(want, rel=1e-6)


def test_one_standard_deviation_for_all_groups():
    # A' = 1/2 -1/2 | 3/4 -1/4 -1/4 -1/4: squares 1/2 + 3/4 over 6 samples. Per-group scaling would
    # give 1, -1 first.
    want = [a / math.sqrt(1.25 / 6) for a in (0.5, -0.5, 0.75, -0.25, -0.25, -0.25)]
    got = advantages([1, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]).tolist()
    assert got == pytest.approx(want, rel=1e-6)


def test_with_zero_is_without_zero_over_root_f_by_hand():
    # One live group of four, f = 1/4. Without the flat ones the std is 1/2: advantages 1, -1. Over
    # all eight samples the squares 1/4 + 1/4 give a std of 1/4: 2, -2.
    rewards, ids = [1, 0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3]
    for norm, a in (("nonzero", 1), ("all", 2), ("none", 0.5)):
        want = [a, -a] + [0] * 6
        assert advantages(rewards, ids, norm).tolist() == pytest.approx(want, abs=1e-7)


def rewards_of(n, values=(0.0, 1.0)):
    return st.lists(st.sampled_from(values), min_size=n, max_size=n)


equal_groups = st.integers(2, 6).flatmap(lambda n: st.lists(rewards_of(n), min_size=1, max_size=8))


def flat(groups):
    """(rewards, group ids) of lists of rewards."""
    return [r for g in groups for r in g], [i for i, g in enumerate(groups) for _ in g]


@given(equal_groups)
def test_with_zero_is_without_zero_over_root_f(groups):
    """Eqs. 4-6: with equal group sizes and a share f of non-trivial groups, A(all) sqrt(f) =
    A(nonzero).
    """
    f = sum(len(set(g)) > 1 for g in groups) / len(groups)
    with_zero, without = (advantages(*flat(groups), norm, eps=0.0) for norm in ("all", "nonzero"))
    assert torch.allclose(with_zero * math.sqrt(f), without, rtol=1e-12, atol=1e-12)


@given(equal_groups)
def test_advantages_are_standardized(groups):
    a = advantages(*flat(groups), eps=0.0)
    live = torch.tensor([len(set(g)) > 1 for g in groups for _ in g])
    assert (a[~live] == 0).all()
    if live.any():
        assert float(a[live].mean()) == pytest.approx(0, abs=1e-12)
        assert float((a[live] ** 2).mean()) == pytest.approx(1)


fractions = st.sampled_from([0.1, 0.3, 0.7, 1 / 3, 2 / 3, 0.9])


@given(fractions, st.integers(2, 12), st.sampled_from(loss.NORMS))
def test_equal_fractional_rewards_are_exactly_trivial(r, n, norm):
    # sum([0.1] * 3) / 3 != 0.1: a floating-point spread would turn rounding into advantages
    a = advantages([r] * n + [1.0, 0.0], [0] * n + [1, 1], norm).tolist()
    assert a[:n] == [0.0] * n and a[n] > 0 > a[n + 1]


@pytest.mark.parametrize("norm", loss.NORMS)
def test_all_flat_is_all_zero(norm):
    assert advantages([1, 1, 0, 0, 0.1, 0.1], [0, 0, 1, 1, 2, 2], norm).tolist() == [0.0] * 6
    assert advantages([], [], norm).tolist() == []


def test_group_of_one_and_unknown_norm_are_errors():
    with pytest.raises(ValueError, match="single sample"):
        advantages([1, 0, 1], [0, 0, 1])
    with pytest.raises(ValueError, match="median"):
        advantages([1, 0], [0, 0], "median")


def test_the_same_question_twice_is_two_groups():
    # Kept apart: A' = 1/2 -1/2 | 0 0, so 1 -1 0 0. Merged by question they would be 3/4 -1/4 -1/4
    # -1/4.
    assert advantages([1, 0, 0, 0], [3, 3, 9, 9]).tolist() == pytest.approx([1, -1, 0, 0], abs=1e-7)


@given(rewards_of(9, (0.0, 0.25, 1.0)), st.permutations(range(9)))
def test_order_of_samples_does_not_matter(rewards, order):
    ids = [5, 5, 5, 2, 2, 2, 11, 11, 11]
    straight = advantages(rewards, ids)
    shuffled = advantages([rewards[i] for i in order], [ids[i] for i in order])
    assert torch.allclose(shuffled, straight[list(order)], atol=1e-12)


@pytest.mark.parametrize("norm", loss.NORMS)
def test_arguments_are_not_written_to(norm):
    # float64: a view would be shared
    of_advantages = torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(IDS)
    of_loss = [torch.randn(5) for _ in range(3)]
    of_logp = torch.randn(5, 3), torch.randn(7, 3), torch.arange(5)
    given_ = [*of_advantages, *of_loss, *of_logp]
    copies = [x.clone() for x in given_]
    advantages(*of_advantages, norm)
    policy_loss_sum(*of_loss)
    chunked_logp(*of_logp, torch.tensor([6]), 0.7, 2)
    assert all(torch.equal(a, b) for a, b in zip(given_, copies))


# ---- policy loss ---------------------------------------------------------------------------------

# ratio, advantage, loss, d loss / d logp; clip 0.8 ... 1.28, dual clip 10
TOKENS = [
    (1.0, 1.0, -1.0, -1.0),
    (1.5, 2.0, -2.56, 0.0),  # 1.28 * 2: clipped above
    (1.25, 2.0, -2.5, -2.5),  # inside the asymmetric band; a symmetric 1.2 would clip it
    (0.5, 2.0, -1.0, -1.0),  # a good token that became rarer is not clipped
    (0.5, -1.0, 0.8, 0.0),  # 0.8 * 1: clipped below
    (1.5, -1.0, 1.5, 1.5),  # a bad token that became likelier is not clipped
    (9.9, -3.0, 29.7, 29.7),  # just below the dual clip
    (20.0, -1.0, 10.0, 0.0),  # 10 * 1: dual clip
    (3.0, 0.0, 0.0, 0.0),
]


def test_policy_loss_and_gradient_by_hand():
    ratio, adv, want, grad = (torch.tensor(x, dtype=torch.float64) for x in zip(*TOKENS))
    old = torch.full_like(ratio, -2.0)
    logp = (old + ratio.log()).requires_grad_()
    total, stats = policy_loss_sum(logp, old, adv)
    total.backward()
    assert float(total.detach()) == pytest.approx(float(want.sum()))
    assert torch.allclose(logp.grad, grad, atol=1e-9)
    assert stats == {"tokens": 9, "clipped": 2, "dual_clipped": 1, "ratio_max": pytest.approx(20.0)}
    for row in TOKENS:  # a sum: each token's loss stands alone
        r, a = torch.tensor([row[0]]), torch.tensor([row[1]])
        alone, _ = policy_loss_sum(r.log(), torch.zeros(1), a)
        assert float(alone) == pytest.approx(row[2], rel=1e-5)


def test_clip_bounds_are_arguments():
    r, one, zero = torch.tensor([2.0]).log(), torch.ones(1), torch.zeros(1)
    assert float(policy_loss_sum(r, zero, one, clip_high=0.5)[0]) == pytest.approx(-1.5)
    assert float(policy_loss_sum(-r, zero, -one, clip_low=0.4)[0]) == pytest.approx(0.6)
    assert float(policy_loss_sum(r, zero, -one, dual_clip=1.5)[0]) == pytest.approx(1.5)


def test_policy_loss_of_no_tokens():
    logp = torch.zeros(0, requires_grad=True)
    total, stats = policy_loss_sum(logp, torch.zeros(0), torch.zeros(0))
    total.backward()
    assert float(total.detach()) == 0
    assert stats == {"tokens": 0, "clipped": 0, "dual_clipped": 0, "ratio_max": 1.0}


def test_truncated_importance_weights_by_hand():
    old = torch.tensor([0.5, 0.2, 0.9, 1.0]).log()
    sampler = torch.tensor([0.5, 0.4, 0.1, 1e-30]).log().requires_grad_()
    weight = tis_weight(old, sampler, 2.0)
    assert weight.tolist() == pytest.approx([1.0, 0.5, 2.0, 2.0])  # 9 and 1e30 are capped
    assert not weight.requires_grad
    assert tis_weight(old, sampler.detach(), 10.0).tolist() == pytest.approx([1.0, 0.5, 9.0, 10.0])


def test_weights_multiply_the_loss_of_a_token_and_carry_no_gradient():
    # at ratio 1: losses -2 and 3; weighted by 1/2 and 4: -1 and 12; d loss / d logp the same
    # numbers
    logp, adv = torch.zeros(2, requires_grad=True), torch.tensor([2.0, -3.0])
    weight = torch.tensor([0.5, 4.0], requires_grad=True)
    total, stats = policy_loss_sum(logp, torch.zeros(2), adv, weight=weight)
    total.backward()
    assert float(total.detach()) == pytest.approx(11) and logp.grad.tolist() == [-1.0, 12.0]
    assert weight.grad is None
    # what was clipped does not depend on it
    assert stats == policy_loss_sum(logp, torch.zeros(2), adv)[1]
    # after the dual clip: ratio 20 and advantage -1 cost 10, and 5 at weight 1/2
    token = torch.tensor([20.0]).log(), torch.zeros(1), -torch.ones(1)
    assert float(policy_loss_sum(*token, weight=torch.tensor([0.5]))[0]) == pytest.approx(5)


# ---- chunked log-probs ---------------------------------------------------------------------------


def leaves():
    """(7, 5) hidden states and an (11, 5) head, always the same, that want a gradient."""
    seeds = {n: torch.Generator().manual_seed(n) for n in (7, 11)}
    return (torch.randn(n, 5, generator=g).requires_grad_() for n, g in seeds.items())


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 4096])
@pytest.mark.parametrize("banned", [None, [], [2, 9]])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_chunked_is_naive_in_value_and_gradient(chunk, banned, temperature):
    torch.manual_seed(0)
    tokens, up = torch.tensor([0, 1, 3, 10, 4, 4, 8]), torch.randn(7)
    banned = None if banned is None else torch.tensor(banned, dtype=torch.long)
    results = []
    for chunked in (True, False):
        hidden, head = leaves()
        if chunked:
            logp, entropy = chunked_logp(hidden, head, tokens, banned, temperature, chunk)
        else:
            logits = hidden @ head.T
            if banned is not None:
                logits = logits.masked_fill(torch.isin(torch.arange(11), banned), -math.inf)
            full = torch.distributions.Categorical(logits=logits / temperature)
            logp, entropy = full.log_prob(tokens), full.entropy()
        (logp * up).sum().backward()
        results.append((logp.detach(), entropy.detach(), hidden.grad, head.grad))
        assert not chunked or not entropy.requires_grad
    for ours, naive in zip(*results):
        assert torch.allclose(ours, naive, rtol=1e-4, atol=2e-6)


def test_never_more_than_a_chunk_of_logits(monkeypatch):
    rows, real = [], loss._chunk_logits
    seen = lambda hidden, *rest: rows.append(len(hidden)) or real(hidden, *rest)
    monkeypatch.setattr(loss, "_chunk_logits", seen)
    hidden = torch.randn(10, 4, requires_grad=True)
    chunked_logp(hidden, torch.randn(6, 4), torch.arange(10) % 6, chunk=4)[0].sum().backward()
    # forward, then each once more in the backward
    assert rows[:3] == [4, 4, 2] and sorted(rows[3:]) == [2, 4, 4]


def test_chunked_logp_of_nothing_keeps_the_graph():
    hidden = torch.zeros(0, 4, requires_grad=True)
    logp, entropy = chunked_logp(hidden, torch.zeros(6, 4), torch.zeros(0, dtype=torch.long))
    logp.sum().backward()
    assert len(logp) == len(entropy) == 0 and hidden.grad.shape == (0, 4)


def test_entropy_and_banned_ids_by_hand():
    # four equal logits, one banned: three tokens of probability 1/3
    ones, third = torch.ones(4, 1), math.log(3)
    logp, entropy = chunked_logp(ones, ones, torch.arange(4), banned=torch.tensor([3]))
    assert logp[:3].tolist() == pytest.approx([-third] * 3)
    assert float(entropy[0]) == pytest.approx(third)
    assert float(logp[3].exp()) == 0.0  # banned: probability 0, even when asked for
    # logits ln 2 and 0: 2/3 and 1/3, entropy ln 3 - 2/3 ln 2
    one = torch.ones(1, 1), torch.tensor([[math.log(2)], [0.0]]), torch.tensor([0])
    logp, entropy = chunked_logp(*one)
    assert float(logp) == pytest.approx(math.log(2 / 3))
    assert float(entropy) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    # temperature 1/2 doubles the logits: 4/5
    assert float(chunked_logp(*one, temperature=0.5)[0]) == pytest.approx(math.log(4 / 5))


def test_softmax_is_fp32_even_of_bf16():
    hidden, head = torch.randn(3, 8).bfloat16(), torch.randn(9, 8).bfloat16()
    logp, entropy = chunked_logp(hidden, head, torch.arange(3))
    naive = torch.log_softmax((hidden @ head.T).float(), -1)[torch.arange(3), torch.arange(3)]
    assert logp.dtype == entropy.dtype == torch.float32
    assert float((logp - naive).abs().max()) < 1e-5  # a softmax in bf16 would be off by 1e-2


def test_written_out_gradient_is_autograds():
    """In float64, against finite differences: banned ids, a temperature, chunks that do not divide,
    an unused entropy.
    """
    hidden, head = (torch.randn(n, 4).double().requires_grad_() for n in (5, 6))
    tokens, banned = torch.tensor([0, 5, 2, 2, 4]), torch.tensor([1, 3])
    weights = torch.randn(5).double()

    def plain(h, w):
        logits = (h @ w.T / 0.7).index_fill(-1, banned, -math.inf)
        return torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]

    want = torch.autograd.grad((plain(hidden, head) * weights).sum(), (hidden, head))
    for entropy in (True, False):
        logp, _ = chunked_logp(hidden, head, tokens, banned, 0.7, chunk=2, entropy=entropy)
        assert float((logp - plain(hidden, head)).detach().abs().max()) < 1e-5  # logp is float32
        for a, b in zip(torch.autograd.grad((logp * weights).sum(), (hidden, head)), want):
            assert float((a - b).abs().max()) < 1e-5
    assert not chunked_logp(hidden, head, tokens)[1].requires_grad


# ---- Jensen-Shannon divergence of the distillation baselines -------------------------------------


def rows_of(*distributions):
    """Hidden states (N, V) that give these distributions under the identity as head."""
    return torch.tensor(distributions, dtype=torch.float32).log()


def jsd(p, q, **kw):
    """Divergences of two lists of distributions."""
    p, q = rows_of(*p), rows_of(*q)
    return jsd_sum(p, torch.eye(p.shape[1]), q, torch.eye(q.shape[1]), **kw)[1]


def naive_jsd(student, student_head, teacher, teacher_head, banned, temperature):
    """From the definition, with probabilities, in float64, all tokens at once: (N,)."""
    V = min(len(student_head), len(teacher_head))
    keep = torch.ones(V, dtype=torch.bool)
    keep[[i for i in banned if i < V]] = False
    pairs = (student, student_head), (teacher, teacher_head)
    logits = ((h.double() @ w[:V][keep].double().T) / temperature for h, w in pairs)
    p, q = (torch.softmax(some, -1) for some in logits)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


def test_jsd_by_hand():
    # p = (.5, .5), q = (.9, .1), m = (.7, .3). KL(p||m) = .5 ln(5/7) + .5 ln(5/3) = .087177;
    # KL(q||m) = .9 ln(9/7) + .1 ln(1/3) = .116322; half of each: .101749
    got = jsd([(0.5, 0.5), (0.9, 0.1)], [(0.9, 0.1), (0.5, 0.5)])
    assert got.tolist() == pytest.approx([0.101749] * 2, abs=1e-6)  # symmetric
    # temperature 2 turns (.9, .1) into odds of 3: (.75, .25), m = (.625, .375)
    want = 0.25 * (math.log(0.8) + math.log(4 / 3))
    want += 0.5 * (0.75 * math.log(1.2) + 0.25 * math.log(2 / 3))
    assert float(jsd([(0.5, 0.5)], [(0.9, 0.1)], temperature=2.0)) == pytest.approx(want, abs=1e-6)
    # the third id banned: the first two are renormalized to the example above
    banned = jsd([(0.2, 0.2, 0.6)], [(0.45, 0.05, 0.5)], banned=torch.tensor([2]), temperature=1.0)
    assert float(banned) == pytest.approx(0.101749, abs=1e-6)


@given(st.lists(st.lists(st.floats(-60, 60), min_size=5, max_size=5), min_size=2, max_size=2))
def test_jsd_is_within_its_bounds_and_symmetric(logits):
    p, q = (torch.tensor([x]) for x in logits)
    there, back = (float(jsd_sum(a, torch.eye(5), b, torch.eye(5))[1]) for a, b in ((p, q), (q, p)))
    assert -1e-6 <= there <= math.log(2) + 1e-6 and there == pytest.approx(back, abs=1e-6)


def test_jsd_of_equals_is_exactly_zero_and_of_strangers_ln_2():
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 4).requires_grad_(), torch.randn(50, 4)
    options = {"banned": torch.tensor([3]), "temperature": 0.5}
    total, values = jsd_sum(hidden, head, hidden.detach(), head, **options)
    total.backward()
    assert float(total.detach()) == 0 and (values == 0).all() and (hidden.grad == 0).all()
    far = torch.tensor([[300.0, 0.0, -300.0]]).requires_grad_()  # exp(-300) is 0 in float32
    total, _ = jsd_sum(far, torch.eye(3), -far.detach(), torch.eye(3))
    total.backward()
    assert float(total.detach()) == pytest.approx(math.log(2)) and torch.isfinite(far.grad).all()


@pytest.mark.parametrize("chunk", [1, 3, 7, 4096])
@pytest.mark.parametrize("banned", [[], [2, 9]])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_jsd_is_naive_in_value_and_gradient(chunk, banned, temperature):
    """Other widths (5, 3) and other padded vocabularies (11, 13) of student and teacher; the
    gradient also of the head.
    """
    torch.manual_seed(0)
    teacher = [torch.randn(n, 3).requires_grad_() for n in (7, 13)]
    rest = torch.tensor(banned, dtype=torch.long), temperature, chunk
    hidden, head = leaves()
    total, values = jsd_sum(hidden, head, *teacher, *rest)
    assert not values.requires_grad and float(total.detach()) == pytest.approx(float(values.sum()))
    total.backward()
    assert all(x.grad is None for x in teacher)  # the teacher is a constant
    plain = list(leaves())
    naive = naive_jsd(*plain, *[x.detach() for x in teacher], banned, temperature)
    naive.sum().backward()
    pairs = (
        (values, naive.detach().float()),
        (hidden.grad, plain[0].grad),
        (head.grad, plain[1].grad),
    )
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)
    with torch.no_grad():  # and without a graph
        assert torch.equal(jsd_sum(hidden, head, *teacher, *rest)[1], values)


def test_jsd_gradient_is_the_slope_by_finite_differences():
    torch.manual_seed(1)
    hidden, head, teacher, teacher_head = (torch.randn(n, 4) for n in (3, 6, 3, 6))
    live = hidden.clone().requires_grad_()
    jsd_sum(live, head, teacher, teacher_head, torch.tensor([5]))[0].backward()
    slope, h = torch.zeros(3, 4, dtype=torch.float64), 1e-6
    for i in range(3):
        for j in range(4):
            step = torch.zeros(3, 4, dtype=torch.float64)
            step[i, j] = h
            moved = (hidden.double() + s for s in (step, -step))
            up, down = (naive_jsd(h, head, teacher, teacher_head, [5], 1.0).sum() for h in moved)
            slope[i, j] = (up - down) / (2 * h)
    assert torch.allclose(live.grad.double(), slope, atol=1e-6)


def test_never_more_than_a_chunk_of_logits_for_jsd(monkeypatch):
    rows, mask = [], loss.mask_logits
    seen = lambda logits, banned: rows.append(len(logits)) or mask(logits, banned)
    monkeypatch.setattr(loss, "mask_logits", seen)
    hidden = torch.randn(10, 4, requires_grad=True)
    jsd_sum(hidden, torch.randn(6, 4), torch.randn(10, 4), torch.randn(6, 4), chunk=4)[0].backward()
    # student and teacher, then again
    assert rows[:6] == [4, 4, 4, 4, 2, 2] and sorted(rows[6:]) == [2, 2, 4, 4, 4, 4]


def test_jsd_of_nothing_keeps_the_graph():
    hidden = torch.zeros(0, 4, requires_grad=True)
    total, values = jsd_sum(hidden, torch.zeros(6, 4), torch.zeros(0, 3), torch.zeros(6, 3))
    total.backward()
    assert len(values) == 0 and float(total.detach()) == 0 and hidden.grad.shape == (0, 4)
