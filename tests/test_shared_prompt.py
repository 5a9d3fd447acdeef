"""Shared prompts against full rows: the same log-probs and gradients, for every kind of prompt, on
a hybrid and on a plain transformer; and what happens to a model that can't.

python -m pytest tests/test_shared_prompt.py
"""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import model
import shared_prompt
import tiny
from distributed import World
from engines.hf import HFEngine
from packing import computed, micro_batches, shard_micro_batches
from policy import Policy, shard_policy
from records import Prompt, Sample
from reformulate import bcq, ncq
from rollout import prompt_of

LENGTHS = (1, 7, 2, 24)  # of the responses of a group; one token has no token before it


def llama(config=LlamaConfig, net=LlamaForCausalLM, **more):
    """A random plain transformer that reads the tiny world's tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    tokenizer = tiny.new_tokenizer()
    net = net(config(vocab_size=len(tokenizer), **sizes, **more))
    net.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    return model.from_parts(net, tokenizer, None, "llama")


def qwen():
    """The tiny world's random Qwen3.5, with a memory: as it is drawn, its DeltaNet heads forget a
    token within a few more, and nothing would show that a state is lost.
    """
    lm = tiny.new_model(0)
    for name, p in lm.net.named_parameters():
        if name.endswith("A_log"):
            p.data = torch.linspace(-5.0, -1.0, len(p))
    return lm


MODELS = {"qwen3.5": qwen, "llama": llama}


def prompts_of(lm, questions, cfg):
    """{name: prompts}: plain, BCQ and NCQ, of images, text and video where the model reads them."""
    kinds = {name: questions[name][:2] for name in ("image", "text", "video")}
    if lm.image_processor is None:
        kinds = {"text": kinds["text"]}
    wrong, rng = ["7*8=56,56*9=495 so \\boxed{495}"] * 5, random.Random(0)
    found = {}
    for name, some in kinds.items():
        texts = {
            "plain": lambda q: q.question,
            "bcq": lambda q: bcq(q.question, wrong[0], wrong[1], rng),
            "ncq": lambda q: ncq(q.question, wrong, ["495", "496"], rng),
        }
        for kind, text in texts.items():
            found[f"{name} {kind}"] = [prompt_of(lm, q, text(q), cfg) for q in some]
    return found


@pytest.fixture(scope="module")
def sampled(questions, cfg):
    """{model: {name of its prompts: samples of two groups}}, each response of its own length."""

    def cut(s, n):
        return replace(s, response_ids=s.response_ids[:n], sampler_logp=s.sampler_logp[:n])

    out = {}
    for name, make in MODELS.items():
        lm = make()
        kinds = prompts_of(lm, questions, cfg("--n 4"))
        drawn = HFEngine(lm).sample([p for ps in kinds.values() for p in ps], 4, 24, seed=3)
        groups = [[cut(s, n) for s, n in zip(g, LENGTHS)] for g in drawn]
        pairs = zip(groups[::2], groups[1::2])
        out[name] = {kind: [*a, *b] for kind, (a, b) in zip(kinds, pairs)}
    return out


def logp_and_grads(lm, samples, share, checkpointing=False):
    """Log-probs of the response tokens, and the gradients of a random weighing of them."""
    lm.share_prompts = share
    policy = shard_policy(lm, World(), checkpointing=checkpointing)
    lm.net.train(checkpointing)
    lm.net.zero_grad()
    with lm.autocast():
        logp, entropy = policy(samples)
    weights = torch.randn(logp.shape, generator=torch.Generator().manual_seed(0))
    (logp * weights).sum().backward()
    lm.net.eval()
    grads = {n: p.grad.clone() for n, p in lm.net.named_parameters() if p.grad is not None}
    return logp.detach(), grads, entropy


def assert_same(one, two, tolerance=1e-5):
    """Log-probs and gradients, to so much of the largest."""
    for a, b in ((one[0], two[0]), (one[2], two[2])):
        assert a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(a.abs().max())
    assert one[1].keys() == two[1].keys()
    largest = max(float(g.abs().max()) for g in one[1].values())
    for name, g in one[1].items():
        assert float((g - two[1][name]).abs().max()) <= tolerance * largest, name


# ---- exact ---------------------------------------------------------------------------------------


KINDS = ("plain", "bcq", "ncq")
KINDS = ("plain", "bcq", "ncq")
CASES = [("qwen3.5", f"{m} {k}") for m in ("image", "text", "video") for k in KINDS]
CASES += [("llama", f"text {k}") for k in KINDS]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name, kind", CASES)
def test_shared_prompts_are_full_rows(name, kind, checkpointing, sampled):
    lm, samples = MODELS[name](), sampled[name][kind]
    rows = logp_and_grads(lm, samples, False)
    assert len(rows[0]) == sum(len(s.response_ids) for s in samples) > 20
    assert_same(rows, logp_and_grads(lm, samples, True, checkpointing))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_all_lengths_in_one_forward(name, checkpointing, sampled):
    """Padded on the left, in any order of the rows; a group of one row; responses of one token."""
    lm = MODELS[name]()
    samples = [s for some in sampled[name].values() for s in some]
    assert len({len(s.prompt.ids) for s in samples}) > 2
    random.Random(1).shuffle(samples)
    rows = logp_and_grads(lm, samples[:21], False)
    assert_same(rows, logp_and_grads(lm, samples[:21], True, checkpointing))


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (2,), (0, 3), (2, 2, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_short_responses(name, lengths, sampled):
    """A second pass of one column would be taken for decoding, which overwrites states."""
    lm, whole = MODELS[name](), sampled[name]["text plain"][3]
    samples = [replace(whole, response_ids=whole.response_ids[:n]) for n in lengths]
    rows = logp_and_grads(lm, samples, False)
    assert len(rows[0]) == sum(lengths)
    assert_same(rows, logp_and_grads(lm, samples, True))


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_of_one_token(name):
    lm, ids = MODELS[name](), tuple(range(5, 15))
    prompt = Prompt(ids[:1])
    samples = [Sample(prompt, ids[:n], (0.0,) * n, "", False) for n in (10, 3)]
    assert_same(logp_and_grads(lm, samples, False), logp_and_grads(lm, samples, True))


def test_the_sampler_agrees(sampled):
    """Against another forward than ours: what the engine said when it drew the tokens."""
    for name, make in MODELS.items():
        lm = make()
        lm.share_prompts = True
        for samples in sampled[name].values():
            with torch.no_grad():
                logp, _ = Policy(lm)(samples)
            drawn = torch.tensor([x for s in samples for x in s.sampler_logp])
            assert float((logp - drawn).abs().max()) < 2e-5


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_no_further_from_float32_than_full_rows(name, checkpointing, sampled):
    """Other sums round in other places: not to more, in the norm over all."""
    lm = MODELS[name]()
    samples = [s for k in KINDS for s in sampled[name][f"text {k}"][1:6]]
    flat = lambda grads: torch.cat([grads[n].flatten() for n in sorted(grads)])
    exact = logp_and_grads(lm, samples, False)
    lm.compute = torch.bfloat16
    rows = logp_and_grads(lm, samples, False)
    shared = logp_and_grads(lm, samples, True, checkpointing)
    off = [float((rows[0] - exact[0]).norm()), float((flat(rows[1]) - flat(exact[1])).norm())]
    assert off[0] > 1e-3 and off[1] > 1e-3  # or there was nothing to round
    assert float((shared[0] - exact[0]).norm()) < 1.3 * off[0]
    assert float((flat(shared[1]) - flat(exact[1])).norm()) < 1.3 * off[1]


# ---- what is computed, what is kept --------------------------------------------------------------


def passes(lm, samples, monkeypatch):
    """((rows, columns), mask given) of each pass of a forward."""
    seen, plain = [], model.hidden_states

    def watch(lm, ids, mask, *rest):
        seen.append((tuple(ids.shape), mask is not None))
        return plain(lm, ids, mask, *rest)

    for module in (model, shared_prompt):
        monkeypatch.setattr(module, "hidden_states", watch)
    with torch.no_grad():
        Policy(lm)(samples)
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_each_prompt_once_and_no_mask_where_none_is_needed(name, sampled, monkeypatch):
    lm, kinds = MODELS[name](), sampled[name]
    one, other = kinds["text plain"], kinds["text ncq"]
    P = len(one[0].prompt.ids)
    assert {len(s.prompt.ids) for s in one} == {P}
    assert passes(lm, one, monkeypatch) == [((8, P + 24), False)]
    lm.share_prompts = True
    assert passes(lm, one, monkeypatch) == [((2, P), False), ((8, 23), False)]
    longest = max(len(s.prompt.ids) for s in other)
    assert passes(lm, one + other, monkeypatch) == [((4, longest), True), ((16, 23), True)]


def test_the_budget_counts_what_is_computed(sampled, monkeypatch):
    """But for the last token of a response, which nothing follows."""
    lm = MODELS["qwen3.5"]()
    for share in (False, True):
        lm.share_prompts = share
        for samples in sampled["qwen3.5"].values():
            tokens = sum(r * c for (r, c), _ in passes(lm, samples, monkeypatch))
            said = computed([(s, 1.0) for s in samples], share)
            assert tokens == said - share * len(samples)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_keeps_hidden_and_states_only(name, sampled):
    """What autograd holds after the forward; and the model is afterwards as it was."""
    samples, held = sampled[name]["text ncq"], {}
    for checkpointing in (False, True):
        lm, seen = MODELS[name](), {}

        def keep(x):
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            logp_and_grads(lm, samples, True, checkpointing)
        held[checkpointing] = sum(seen.values()) - 4 * lm.n_params()
        for block in lm.blocks():
            assert "forward" not in vars(block) and block.gradient_checkpointing == checkpointing
    assert held[True] < 0.5 * held[False]


# ---- can it? -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_these_models_can(name):
    lm = MODELS[name]()
    assert shared_prompt.decide([lm], World()) == "" and lm.share_prompts
    assert all(p.grad is None for p in lm.net.parameters())
    lm.net.requires_grad_(False)  # a frozen teacher
    assert shared_prompt.trial(lm) == ""


def test_a_sliding_window_repeats_its_prompts(sampled):
    lm = llama(MistralConfig, MistralForCausalLM, sliding_window=16)
    able = MODELS["llama"]()
    why = shared_prompt.decide([able, lm], World())
    assert "sliding_attention" in why and not lm.share_prompts and not able.share_prompts
    logp_and_grads(lm, sampled["llama"]["text plain"], False)


def forgets(self, *args, **kwargs):
    raise IndexError("list index out of range\nin some cache")


def wrong(kind, method, change):
    """A state keeper whose method changes what it keeps."""
    plain = getattr(kind, method)

    def changed(self, *args, **kwargs):
        return change(self, plain(self, *args, **kwargs))

    return type(kind.__name__, (kind,), {method: changed})


def no_gradient(self, out):
    self.recurrent_states[0] = out.detach()
    return out


def zero(self, out):
    self.recurrent_states[0] = torch.zeros_like(out)
    return out


DELTA, ATTENTION = shared_prompt.KeepsDeltaNet, shared_prompt.KeepsAttention
BROKEN = {
    "no gradient through the state": wrong(DELTA, "update_recurrent_state", no_gradient),
    "a lost state": wrong(DELTA, "update_recurrent_state", zero),
    "lost columns": wrong(DELTA, "update_conv_state", lambda self, x: x * 0 + x.roll(1, -1)),
    "lost keys": wrong(ATTENTION, "update", lambda self, kv: (kv[0].flip(-2), kv[1])),
    "an error": type("Forgets", (DELTA,), {"update_conv_state": forgets}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_model_that_comes_out_otherwise_repeats_its_prompts(fault, monkeypatch):
    kind = "full_attention" if "keys" in fault else "linear_attention"
    monkeypatch.setitem(shared_prompt.KEEPS, kind, BROKEN[fault])
    lm = MODELS["qwen3.5"]()
    why = shared_prompt.trial(lm)
    assert why and "\n" not in why and not lm.share_prompts
    assert ("off by" in why) == (fault != "an error")


# ---- micro-batches -------------------------------------------------------------------------------


def rows_of(groups):
    """Rows of made-up groups: (prompt length, response lengths)."""
    rows = []
    for p, lengths in groups:
        prompt = Prompt((1,) * p)
        rows += [(Sample(prompt, (2,) * n, (0.0,) * n, "", False), 1.0) for n in lengths]
    return rows


GROUPS = st.lists(
    st.tuples(st.integers(1, 300), st.lists(st.integers(1, 60), min_size=1, max_size=9)),
    max_size=12,
)


@given(GROUPS, st.integers(1, 4000))
def test_batches_of_groups(groups, budget):
    """Each row once; no batch above the budget unless it is a single row."""
    rows = rows_of(groups)
    batches = micro_batches(rows, budget, True)
    assert sorted(id(r) for b in batches for r in b) == sorted(map(id, rows))
    assert all(len(b) == 1 or computed(b, True) <= budget for b in batches)


@given(GROUPS, st.integers(1, 4000), st.integers(1, 4), st.booleans())
def test_ranks_get_equally_many_batches(groups, budget, size, share):
    rows = rows_of(groups)
    shares = [shard_micro_batches(rows, budget, World(r, size), share) for r in range(size)]
    assert len({len(s) for s in shares}) == 1
    counted = [id(row) for s in shares for batch, weight in s if weight for row in batch]
    assert sorted(counted) == sorted(map(id, rows))
    batches = [batch for s in shares for batch, _ in s]
    assert all(len(b) == 1 or computed(b, share) <= budget for b in batches)
    whole = len(micro_batches(rows, budget, share))
    assert len(shares[0]) == -(-whole // size)  # no round more than the budget needs


def test_a_group_is_cut_by_the_budget_and_by_padding():
    whole = rows_of([(100, [20] * 8)])
    assert [len(b) for b in micro_batches(whole, 260, True)] == [8]
    assert sorted(len(b) for b in micro_batches(whole, 259, True)) == [1, 7]
    assert [len(b) for b in micro_batches(whole, 1, True)] == [1] * 8
    # seven short responses would be padded by 7 x 190, more than the prompt's 100
    uneven = rows_of([(100, [200] + [10] * 7)])
    assert [len(b) for b in micro_batches(uneven, 299, True)] == [1, 7]
    near = rows_of([(1400, [200] + [10] * 7)])  # and less than 1,400
    assert [len(b) for b in micro_batches(near, 10**5, True)] == [8]


def test_long_prompts_do_not_pad_short_ones():
    """24 plain groups beside two NCQ groups, the tiny world's lengths: two batches, not one."""
    rows = rows_of([(15, [20] * 8)] * 24 + [(212, [22] * 8)] * 2)
    batches = micro_batches(rows, 8192, True)
    assert sorted(len(b) for b in batches) == [16, 192]


def test_two_ranks_halve_the_work():
    """Nine equal groups and room for eight: four rounds of two would leave a rank idle in one."""
    rows = rows_of([(100, [50] * 8)] * 9)
    shares = [shard_micro_batches(rows, 8 * 500, World(r, 2), True) for r in range(2)]
    work = [sum(computed(b, True) for b, _ in s) for s in shares]
    assert sorted(work) == [4 * 500, 5 * 500]
