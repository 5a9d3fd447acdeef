"""The sampler against the trainer, and both against the stock transformers forward and generate.

python -m pytest tests/engines/test_hf.py
"""

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from stock import stock_inputs, stock_logp
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import model
import tiny
from config import flags
from engines import hf, open_engine
from engines.base import Stopped, seed_of
from engines.hf import HFEngine, choose, draws
from policy import Policy
from processor import encode, expand, length, pixels, positions
from rollout import prompt_of

TOLERANCE = 1e-4  # nats; fp32, two orders of summation


def noise(width, height, seed):
    """An RGB image in which no two patches are alike."""
    rng = np.random.RandomState(seed)
    return Image.fromarray(rng.randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def prompts(lm, few):
    """Two image, two text and two video prompts of the tiny world, then an image of 3 x 2 tokens
    and a video of 2 x 2 x 2.

    The tiny world's pictures are one token high, where a token takes one position; in the last two,
    positions run slower.
    """
    return [prompt_of(lm, q, q.question, flags([])) for q in few] + [
        encode(lm, "Look.", (noise(48, 32, 0),)),
        encode(lm, "Watch.", video=tuple(noise(32, 32, k) for k in range(3))),
    ]


@pytest.fixture(scope="module")
def sampled(engine, prompts):
    return engine.sample(prompts, 8, 24, seed=3)


def flat(groups):
    return [s for g in groups for s in g]


def sampler_logp(samples):
    return torch.tensor([x for s in samples for x in s.sampler_logp])


def trainer_logp(lm, samples, temperature=1.0):
    """(N,) log-probs and entropies as the update takes them."""
    with lm.autocast():
        return Policy(lm)(samples, temperature)


def assert_near(logp, samples, tolerance=TOLERANCE):
    assert (logp - sampler_logp(samples)).abs().max() < tolerance


def assert_agree(lm, samples, temperature=1.0, tolerance=TOLERANCE):
    """Sampler and trainer."""
    assert_near(trainer_logp(lm, samples, temperature)[0], samples, tolerance)


def responses(groups):
    return [s.response_ids for s in flat(groups)]


# ---- sampler = trainer = stock model -------------------------------------------------------------


def test_sampler_and_trainer_agree(lm, sampled, cfg):
    """Image, text and video prompts in one padded batch; sampled with a cache, trained without
    (pitfall: two engines).
    """
    samples = flat(sampled)
    logp, _ = trainer_logp(lm, samples)
    assert_near(logp, samples)
    assert (logp <= 0).all() and (sampler_logp(samples) <= 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_they_agree_at_other_temperatures(lm, engine, prompts, cfg, temperature):
    samples = flat(engine.sample(prompts, 2, 12, seed=0, temperature=temperature))
    assert_agree(lm, samples, temperature)


def test_both_agree_with_the_stock_forward(lm, sampled):
    for group in sampled:
        for s in group[:2]:
            assert_near(stock_logp(lm, s), [s])


def test_greedy_is_stock_generate(lm, engine, prompts):
    for p, group in zip(prompts, engine.sample(prompts, 1, 16, seed=0, temperature=0)):
        s = group[0]
        ends = {"pad_token_id": 0, "eos_token_id": list(lm.eos_ids)}
        how = {"do_sample": False, "max_new_tokens": 16, "suppress_tokens": lm.banned.tolist()}
        out = lm.net.generate(**stock_inputs(lm, s.prompt.ids, p), **how, **ends)
        assert tuple(out[0, len(s.prompt.ids) :].tolist()) == s.response_ids


def test_agree_after_the_weights_move(fresh_lm, prompts, cfg):
    """No cache of weights, images or prompts outlives an update (pitfall: stale samplers)."""
    engine = HFEngine(fresh_lm)
    before = engine.sample(prompts, 1, 8, seed=0, temperature=0)
    with torch.no_grad():
        for name, p in fresh_lm.net.named_parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    engine.sync_weights(None)
    after = engine.sample(prompts, 2, 12, seed=0)
    assert_agree(fresh_lm, flat(after))
    assert responses(before) != responses(engine.sample(prompts, 1, 8, seed=0, temperature=0))


def test_bfloat16_sampler_and_trainer_are_near(prompts, cfg):
    """Same autocast on both sides, fp32 softmax and fp32 weights; a gap of some hundredths is
    bf16's, not a bug's.
    """
    lm = tiny.new_model(0)
    lm.compute = torch.bfloat16
    samples = flat(HFEngine(lm).sample(prompts, 2, 12, seed=0))
    logp, entropy = trainer_logp(lm, samples)
    gap = (logp - sampler_logp(samples)).abs()
    assert logp.dtype == entropy.dtype == torch.float32 and (logp <= 0).all()
    assert 0 < gap.max() < 0.2 and gap.mean() < 0.03
    logp.sum().backward()
    trained = [p for p in lm.net.parameters() if p.grad is not None]
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)


# ---- batching and padding ------------------------------------------------------------------------


def test_padded_is_alone_in_training(lm, sampled, cfg):
    """Right-padded rows of mixed lengths and kinds give the log-probs and entropies of each row by
    itself.
    """
    samples = [g[k] for g in sampled for k in (0, 1)]
    together = trainer_logp(lm, samples)
    alone = [trainer_logp(lm, [s]) for s in samples]
    for a, b in zip(together, zip(*alone)):
        assert (a - torch.cat(b)).abs().max() < TOLERANCE


def test_small_batches_give_the_same_greedy_outputs(lm, prompts):
    """max_rows 1: one prompt at a time, no padding; 3: pairs would not fit n=2; 512: all at once,
    left-padded.
    """
    settings = {"seed": 0, "temperature": 0}
    first = HFEngine(lm, max_rows=1).sample(prompts, 2, 20, **settings)
    for rows in (3, 5, 512):
        out = HFEngine(lm, max_rows=rows).sample(prompts, 2, 20, **settings)
        assert responses(out) == responses(first)
        assert_near(sampler_logp(flat(out)), flat(first))


def test_results_stand_in_the_order_of_the_prompts(engine, prompts):
    for order in ([5, 0, 3, 7, 1, 6, 4, 2], [2, 2, 0]):
        groups = engine.sample([prompts[i] for i in order], 2, 4, seed=0)
        pictures = [(prompts[i].images, prompts[i].video) for i in order]
        assert [(g[0].prompt.images, g[0].prompt.video) for g in groups] == pictures
        assert all(len(g) == 2 and g[0].prompt is g[1].prompt for g in groups)


def test_no_prompts():
    assert HFEngine(tiny.new_model(0)).sample([], 4, 8, seed=0) == []


# ---- images: one pad in, the right number out ----------------------------------------------------


def test_one_pad_in_the_right_number_out(lm, engine, few, prompts, sampled):
    """A strip of k digits is 16 k x 16 pixels, patches of 8 merged 2 x 2: k tokens. k digits of
    video: k patches of 1.
    """
    for q, prompt, group in zip(few, prompts, sampled):
        k, out = len(tiny.digits_of(q)), group[0].prompt
        image, video = bool(q.images), bool(q.video)
        for p, n in ((prompt, 1), (out, k)):
            assert (p.ids.count(lm.image_id), p.ids.count(lm.video_id)) == (n * image, n * video)
        if video:  # frames 2j and 2j + 1 of a 1-fps video: 0.5, 2.5, 4.5 seconds
            block = "<{} seconds><|vision_start|><|video_pad|><|vision_end|>"
            text = lm.tokenizer.decode(out.ids)
            assert "".join(block.format(2 * j + 0.5) for j in range(k)) in text
            assert text.count("<|vision_start|>") == k
        if not image and not video:
            assert out.ids == prompt.ids
        assert replace(out, ids=prompt.ids) == prompt  # nothing else changed


def test_a_video_patch_holds_two_consecutive_frames(lm):
    """Black, white, gray: the first patch is -1 then +1 (mean and std 0.5), the second gray twice,
    the last frame repeated.
    """
    gray = 51  # 51 / 255 = 0.2, normalized -0.6
    frames = [Image.new("RGB", (32, 16), (v, v, v)) for v in (0, 255, gray)]
    values, grid = pixels(lm, encode(lm, "Watch.", video=frames))["video"]
    assert grid.tolist() == [[2, 2, 4]]  # 2 patches of time, 2 x 4 of 8 x 8 pixels
    values = values.view(2, 8, 3, 2, 8, 8)  # time, patch, channel, frame, height, width
    for frame, want in (((0, 0), -1.0), ((0, 1), 1.0), ((1, 0), -0.6), ((1, 1), -0.6)):
        assert torch.allclose(values[frame[0], :, :, frame[1]], torch.tensor(want), atol=1e-5)


def test_a_video_of_equal_frames_is_an_image(lm):
    """Patch for patch: the image processor fills a patch of time with copies of its one frame."""
    image = noise(48, 32, 1)
    [one], [two] = (
        pixels(lm, encode(lm, "x", **kwargs)).values()
        for kwargs in ({"images": (image,)}, {"video": (image, image)})
    )
    assert torch.equal(one[0], two[0]) and one[1].tolist() == two[1].tolist() == [[1, 4, 6]]


def test_positions_run_slower_than_tokens_in_a_picture(lm, prompts):
    """3 x 2 visual tokens take max(3, 2) = 3 positions, so the next free one is 3 behind the number
    of tokens.
    """
    for prompt, behind in ((prompts[6], 3), (prompts[0], 0), (prompts[2], 0)):
        vision = pixels(lm, prompt)
        out = expand(lm, prompt, vision)
        pos, after = positions(lm, out, vision)
        assert after == len(out.ids) - behind == int(pos.max()) + 1
        assert pos.shape == (3, len(out.ids))


def test_an_expanded_prompt_is_refused(engine, sampled):
    """Expanding twice would give 2N - 1 pads without an error elsewhere (pitfall 29)."""
    with pytest.raises(ValueError, match="placeholders"):
        engine.sample([sampled[0][0].prompt], 1, 4, seed=0)


def test_two_images_of_different_sizes(lm, engine, questions, cfg):
    by_length = {len(tiny.digits_of(q)): q.images for q in questions["image"]}
    prompt = encode(lm, "Compare.", (*by_length[2], *by_length[3]))
    samples = flat(engine.sample([prompt], 2, 8, seed=0))
    assert samples[0].prompt.ids.count(lm.image_id) == 5
    assert_agree(lm, samples)


# ---- seeds ---------------------------------------------------------------------------------------


def test_seeds(engine, prompts, sampled):
    assert all(len(set(responses([g]))) == 8 for g in sampled)  # a group's samples differ
    again = engine.sample(prompts, 8, 24, seed=3)
    assert again == sampled  # ids, log-probs and texts, exactly
    assert responses(engine.sample(prompts, 8, 24, seed=4)) != responses(sampled)
    a, b = engine.sample([prompts[2], prompts[2]], 4, 24, seed=3)
    assert responses([a]) != responses([b])  # one int is a seed for each place
    a, b = engine.sample([prompts[2], prompts[2]], 4, 24, seed=[7, 7])
    assert responses([a]) == responses([b])


def test_samples_do_not_depend_on_the_batch(lm, engine, prompts):
    """Alone, among others, in another order, in batches of another size: what makes one rank and
    two ranks the same run.
    """
    seeds = [seed_of("batch", i) for i in range(len(prompts))]
    together = engine.sample(prompts, 4, 24, seeds)
    alone = [engine.sample([p], 4, 24, [s])[0] for p, s in zip(prompts, seeds)]
    assert responses(alone) == responses(together)
    assert_near(sampler_logp(flat(alone)), flat(together))
    order = [5, 0, 3, 7, 1, 6, 4, 2]
    for rows in (1, 9, 512):
        mixed_prompts, mixed_seeds = zip(*[(prompts[i], seeds[i]) for i in order])
        mixed = HFEngine(lm, rows).sample(mixed_prompts, 4, 24, mixed_seeds)
        assert responses(mixed) == responses([together[i] for i in order])
    # the first two of four samples are the two of two, and a shorter response is the beginning of
    # the longer one
    two = engine.sample(prompts, 2, 24, seeds)
    assert responses([g[:2] for g in together]) == responses(two)
    short = engine.sample(prompts, 4, 5, seeds)
    assert responses(short) == [r[:5] for r in responses(together)]


def test_uniforms():
    """A stream per response; a shorter one is the longer one's beginning."""
    u = draws([3, 4], 5, 2000)
    assert u.shape == (10, 2000) and u.dtype == torch.float64 and (u >= 0).all() and (u < 1).all()
    assert abs(float(u.mean()) - 0.5) < 0.01 and len(set(u[:, 0].tolist())) == 10
    assert torch.equal(draws([4], 2, 7), u[5:7, :7])


def test_the_inverse_of_the_distribution():
    """By hand: 0.1, 0, 0.6, 0.3, 0; ids of probability 0 are out of reach even at the ends of [0,
    1).
    """
    p = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0])
    u = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-53], dtype=torch.float64)
    token, logp = choose(p.log().expand(len(u), -1), u, 1.0, 1.0, 0)
    assert token.tolist() == [0, 0, 2, 2, 3, 3]
    assert torch.allclose(logp, p[token].log())
    # what top-k and top-p leave is scaled to 1, and so are the log-probs
    token, logp = choose(p.log().expand(len(u), -1), u, 1.0, 1.0, 2)
    assert token.tolist() == [2, 2, 2, 3, 3, 3]
    assert torch.allclose(logp.exp(), torch.where(token == 2, 2 / 3, 1 / 3))
    token, logp = choose(p.log().expand(len(u), -1), u, 0.5, 0.8, 0)  # squares: 1/46, 36/46, 9/46
    assert set(token.tolist()) == {2, 3}
    assert torch.allclose(logp.exp(), torch.where(token == 2, 36 / 45, 9 / 45))


# ---- the queue -----------------------------------------------------------------------------------


def test_submit_and_step(lm, prompts):
    """Groups come back under their keys, settings may differ, and the same seeds give what sample()
    gives.
    """
    engine = HFEngine(lm, max_rows=6)
    want = engine.sample(prompts, 2, 8, list(range(len(prompts))))
    engine.tokens = 0
    for i, p in enumerate(prompts):
        engine.submit(("q", i), p, 2, 8, i)
    engine.submit("greedy", prompts[0], 1, 3, 0, temperature=0)
    got, steps = {}, 0
    while engine.busy:
        out = engine.step()
        assert 1 <= len(out) <= 6
        got |= dict(out)
        steps += 1
    assert steps == 4 and engine.step() == []  # 3 + 3 + 2 prompts of 2 samples, then the other
    assert responses([got["q", i] for i in range(len(prompts))]) == responses(want)
    [greedy] = engine.sample(prompts[:1], 1, 3, 0, temperature=0)
    assert responses([got["greedy"]]) == responses([greedy])
    assert engine.tokens == sum(map(len, responses([*got.values(), greedy])))


def test_the_longest_waiting_prompt_is_in_the_next_batch(lm, prompts):
    engine = HFEngine(lm, max_rows=1)
    by_length = sorted(range(len(prompts)), key=lambda i: length(lm, prompts[i]))
    engine.submit("long", prompts[by_length[-1]], 1, 2, 0)
    for i in by_length[:3]:
        engine.submit(i, prompts[i], 1, 2, 0)
    assert [key for key, _ in engine.step()] == ["long"]
    engine.abort()
    assert not engine.busy and engine.step() == []


def test_done_and_stop(lm, prompts):
    engine, seen = HFEngine(lm, max_rows=4), []
    out = engine.sample(prompts, 2, 4, seed=0, done=lambda i, samples: seen.append((i, samples)))
    assert len(seen) == len(prompts) and all(out[i] is samples for i, samples in seen)
    asked = []
    with pytest.raises(Stopped):
        engine.sample(prompts, 2, 4, seed=0, stop=lambda: asked.append(0) or len(asked) > 2)
    assert len(asked) == 3 and not engine.busy
    with pytest.raises(ValueError, match="context"):
        engine.sample([*prompts, prompts[0]], 2, 10_000, seed=0)
    # what was submitted before is forgotten
    assert not engine.busy and engine.sample(prompts[:1], 1, 4, seed=0)


# ---- a copy of the model -------------------------------------------------------------------------


def test_a_copy_takes_the_trainers_weights(fresh_lm, prompts, cfg):
    copy, own = HFEngine(tiny.new_model(1)), HFEngine(fresh_lm)
    one, two = (e.sample(prompts, 1, 8, seed=0) for e in (copy, own))
    assert responses(one) != responses(two)
    tensors = ((k, v.clone()) for k, v in fresh_lm.net.state_dict().items())
    for named in (fresh_lm.net.named_parameters(), tensors):
        with torch.no_grad():
            for p in fresh_lm.net.parameters():
                p.mul_(1.05)
        copy.sync_weights(named)
        assert copy.sample(prompts, 2, 8, seed=0) == own.sample(prompts, 2, 8, seed=0)
    p = next(copy.lm.net.parameters())
    assert p.requires_grad and p.data_ptr() != next(fresh_lm.net.parameters()).data_ptr()


def test_weights_that_do_not_fit(lm, prompts):
    copy, named = HFEngine(tiny.new_model(1)), dict(lm.net.named_parameters())
    name, last = "model.language_model.norm.weight", list(named)[-1]
    unknown = "other.weight of shape .* does not fit .no such parameter"
    for key, match in ((name, f"{name} of shape .3,. does not fit"), ("other.weight", unknown)):
        with pytest.raises(ValueError, match=match):
            copy.sync_weights(iter((named | {key: torch.zeros(3)}).items()))
    with pytest.raises(ValueError, match=f"no new weights came for {last} .1 missing"):
        copy.sync_weights((k, v) for k, v in named.items() if k != last)


# ---- opening one ---------------------------------------------------------------------------------


def test_open_engine(lm, monkeypatch):
    for kind in ("", "hf"):
        engine = open_engine(kind, lm, memory=0.5)  # a CPU: no vLLM unless asked for
        assert isinstance(engine, HFEngine) and engine.lm is lm and not engine.remote
        assert (engine.name, engine.window) == (lm.path, lm.window)
        assert "<|im_end|>" in engine.control and engine.sleep() is engine.wake() is None
        assert engine.holds(lm.net) and not engine.holds(None)
        assert engine.encode("What?") == encode(lm, "What?")
    monkeypatch.setattr("engines.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="requirements-gpu.txt.*--engine hf"):
        open_engine("vllm", lm)
    with pytest.raises(ValueError, match="--engine sglang"):
        open_engine("sglang", lm)


def test_seed_of_everything_that_must_differ():
    """Run seed, rank, step and purpose; a resumed run (a later step) does not repeat the first."""
    kinds = "plain", "bcq", "ncq"
    parts = list(product(range(3), range(3), range(20), kinds))  # seed, rank, step
    parts += [(seed, "teacher", k) for seed in range(3) for k in range(20)]
    seeds = [seed_of(*p) for p in parts]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)
    assert seed_of(0, 0, 1, "plain") == seed_of(0, 0, 1, "plain")
    assert seed_of(1, 11) != seed_of(11, 1) and seed_of("1") != seed_of(1)


def test_sampling_leaves_the_global_generator_alone(engine, prompts):
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    engine.sample(prompts[:1], 2, 4, seed=0)
    assert torch.equal(torch.rand(1), want)


# ---- ends ----------------------------------------------------------------------------------------


def test_end_token_and_truncation(lm, engine, prompts):
    """Checked at every length limit: the end token is inside, once, last; truncated exactly where
    there is none.
    """
    seen = set()
    for limit in (1, 2, 5, 24):
        for s in flat(engine.sample(prompts, 16, limit, seed=limit)):
            ends = [i for i, t in enumerate(s.response_ids) if t in lm.eos_ids]
            assert ends == ([] if s.truncated else [len(s.response_ids) - 1])
            assert len(s.response_ids) == len(s.sampler_logp) <= limit
            assert not s.truncated or len(s.response_ids) == limit
            assert lm.tokenizer.decode(s.response_ids, skip_special_tokens=True) == s.text
            assert "<|im_end|>" not in s.text
            seen.add((s.truncated, len(s.response_ids) == limit))
    # an end at the very limit is no truncation
    assert seen == {(True, True), (False, True), (False, False)}


def test_masks_come_from_lengths(lm, sampled):
    """The end token also stands in the prompt, where it closes the user turn, and padding is id 0,
    a letter: lengths decide.
    """
    samples = [next(s for s in flat(sampled) if s.truncated == cut) for cut in (False, True)]
    batch = model.collate(lm, samples)
    for i, s in enumerate(samples):
        P, R = len(s.prompt.ids), len(s.response_ids)
        assert batch["target"][i].nonzero()[:, 0].tolist() == list(range(P, P + R))
        assert batch["mask"][i].sum() == P + R
        assert batch["ids"][i][batch["target"][i]].tolist() == list(s.response_ids)
        assert set(s.prompt.ids) & set(lm.eos_ids)


def test_pad_id_that_is_the_end_id_is_harmless(prompts, sampled, cfg):
    lm = tiny.new_model(0)
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    for config in (lm.net.config.get_text_config(), lm.net.generation_config):
        config.pad_token_id = lm.eos_ids[0]
    samples = HFEngine(lm).sample(prompts, 8, 24, seed=3)
    assert samples == sampled
    assert_agree(lm, flat(samples))


def test_several_end_tokens(prompts):
    """Generation configs may name more end tokens than the tokenizer; each ends a response."""
    lm = tiny.new_model(0)
    extra = lm.tokenizer.convert_tokens_to_ids("7")
    lm.net.generation_config.eos_token_id = [lm.eos_ids[0], extra]
    lm = model.from_parts(lm.net, lm.tokenizer, lm.image_processor, "two ends")
    samples = flat(HFEngine(lm).sample(prompts, 16, 40, seed=0))
    ended = {s.response_ids[-1] for s in samples if not s.truncated}
    assert ended == {extra, lm.tokenizer.eos_token_id}


# ---- banned ids ----------------------------------------------------------------------------------


def test_banned_ids_are_never_sampled_even_when_the_head_prefers_them(prompts, cfg):
    lm = tiny.new_model(0)
    h = lm.base(input_ids=torch.tensor([prompts[2].ids])).last_hidden_state[0, -1]
    with torch.no_grad():
        for i, token in enumerate((lm.image_id, lm.video_id)):
            lm.head[token] = (40 - i) * h / h.norm()
        assert int((lm.head @ h).argmax()) == lm.image_id  # unbanned, it would be certain
        assert float(torch.softmax(lm.head @ h, -1)[lm.image_id]) > 0.99
    assert {lm.image_id, lm.video_id} <= set(lm.banned.tolist())
    engine = HFEngine(lm)
    for temperature in (0.0, 0.3, 1.0):
        samples = flat(engine.sample(prompts, 4, 16, seed=1, temperature=temperature))
        assert not {t for s in samples for t in s.response_ids} & set(lm.banned.tolist())
        if temperature:
            assert_agree(lm, samples, temperature, 5 * TOLERANCE)


def test_ids_beyond_the_tokenizer_are_banned(prompts):
    """Embeddings are padded to a round number of rows; those rows have no text (pitfall 18)."""
    lm = tiny.new_model(0)
    lm.net.resize_token_embeddings(len(lm.tokenizer) + 60)
    lm = model.from_parts(lm.net, lm.tokenizer, lm.image_processor, "padded")
    assert set(range(len(lm.tokenizer), len(lm.tokenizer) + 60)) <= set(lm.banned.tolist())
    drawn = responses(HFEngine(lm).sample(prompts, 8, 16, seed=0))
    assert max(map(max, drawn)) < len(lm.tokenizer)


# ---- the distribution ----------------------------------------------------------------------------


def test_top_k_1_is_greedy(engine, prompts):
    greedy = engine.sample(prompts, 2, 16, seed=0, temperature=0)
    top1 = engine.sample(prompts, 2, 16, seed=9, top_k=1)
    assert responses(top1) == responses(greedy)
    assert (sampler_logp(flat(top1)).abs() < 1e-6).all()  # the log-prob under what was sampled from
    assert responses(engine.sample(prompts, 2, 16, seed=9, top_p=1e-6)) == responses(greedy)


def test_first_tokens_follow_the_model(lm, engine, prompts):
    """4,000 first tokens against the softmax: total variation near what chance gives (about sqrt(V
    / 4000) / 2.5).
    """
    n = 4000
    [drawn] = engine.sample(prompts[2:3], n, 1, seed=0)
    first = torch.tensor([s.response_ids[0] for s in drawn])
    share = torch.bincount(first, minlength=len(lm.tokenizer)) / n
    logits = lm.net(**stock_inputs(lm, prompts[2].ids, prompts[2])).logits[0, -1]
    p = torch.softmax(logits.index_fill(0, lm.banned, -math.inf), -1)
    assert 0.5 * (share - p).abs().sum() < 0.09 and drawn[0].sampler_logp[0] <= 0


def test_the_generation_config_of_the_checkpoint_is_ignored(prompts, sampled):
    lm = tiny.new_model(0)
    said = {"temperature": 0.1, "top_k": 1, "top_p": 0.1, "repetition_penalty": 5.0}
    for key, value in (said | {"do_sample": False}).items():
        setattr(lm.net.generation_config, key, value)
    assert HFEngine(lm).sample(prompts, 8, 24, seed=3) == sampled


def test_longer_than_the_context(fresh_lm, prompts):
    """At the window exactly it samples, one token more is an error; visual tokens count (3 digits:
    3 tokens, one placeholder).
    """
    engine = HFEngine(fresh_lm)
    for prompt in prompts:
        expanded = engine.sample([prompt], 1, 1, seed=0)[0][0].prompt
        window = len(expanded.ids) + 3
        fresh_lm.net.config.get_text_config().max_position_embeddings = window
        assert len(engine.sample([prompt], 2, 3, seed=0)[0]) == 2
        message = f"prompt of {len(expanded.ids)} tokens.*context of {window}"
        with pytest.raises(ValueError, match=message):
            engine.sample([prompt], 1, 4, seed=0)
        fresh_lm.net.config.get_text_config().max_position_embeddings = 1024


def test_tokens_are_counted(lm, prompts):
    engine = HFEngine(lm)
    groups = engine.sample(prompts, 3, 9, seed=0)
    assert engine.tokens == sum(len(r) for r in responses(groups))


# ---- text-only models ----------------------------------------------------------------------------

SIMPLE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "config, auto", [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]
)
def test_text_only_models(config, auto, questions, cfg):
    tokenizer = tiny.new_tokenizer()
    tokenizer.chat_template = SIMPLE
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0, "bos_token_id": None}
    vocabulary = {"vocab_size": len(tokenizer) + 4, "initializer_range": 0.2}
    net = auto(config(**sizes, **ids, **vocabulary))
    lm = model.from_parts(net, tokenizer, None, "text only")
    assert lm.banned.tolist() == [len(tokenizer) + k for k in range(4)]
    some = enumerate(questions["text"][:3])
    asked = [prompt_of(lm, q, q.question + " again" * k, cfg()) for k, q in some]
    samples = flat(HFEngine(lm).sample(asked, 4, 12, seed=0))
    assert_agree(lm, samples)
    for s in samples[::4]:
        assert_near(stock_logp(lm, s), [s])
    for p, group in zip(asked, HFEngine(lm).sample(asked, 1, 12, seed=0, temperature=0)):
        how = {"do_sample": False, "suppress_tokens": lm.banned.tolist()}
        out = net.generate(torch.tensor([p.ids]), max_new_tokens=12, **how)
        assert tuple(out[0, len(p.ids) :].tolist()) == group[0].response_ids


# ---- bfloat16 from float32 masters ---------------------------------------------------------------


class Casts(TorchDispatchMode):
    """How often each tensor was cast, by its memory."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.count[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [True, False])
def test_weights_are_cast_once_and_nothing_else_changes(monkeypatch, trained):
    """Not at each token, whether they have gradients (which autocast keeps casts of) or not; bit
    for bit what autocast alone samples, and what an error breaks off leaves no trace.
    """
    lm = tiny.new_model(0)
    lm.compute, lm.eos_ids = torch.bfloat16, (-1,)
    lm.net.requires_grad_(trained)
    prompts = [encode(lm, f"What is {k}+2?") for k in (1, 234)]
    with Casts() as casts:
        got = HFEngine(lm).sample(prompts, 3, 6, 0)
    linear = [m for m in lm.net.modules() if type(m) is torch.nn.Linear]
    assert {casts.count[x.weight.data_ptr()] for x in linear} == {1}
    assert casts.count[lm.head.data_ptr()] == 1
    monkeypatch.setattr(hf, "cast_once", lambda lm: nullcontext())
    assert got == HFEngine(lm).sample(prompts, 3, 6, 0)
    monkeypatch.undo()
    monkeypatch.setattr(hf, "choose", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        HFEngine(lm).sample(prompts, 3, 6, 0)
    assert lm.cast_head is None and not any("forward" in vars(x) for x in linear)
    assert {p.dtype for p in lm.net.parameters()} == {torch.float32}
