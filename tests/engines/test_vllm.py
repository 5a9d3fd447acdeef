"""The real vLLM engine, on a CPU, against the trainer: what it samples, with which log-probs, under
which weights.

    .ci/vllm-cpu VENV && VENV/bin/python -m pytest tests/engines/test_vllm.py -n 0 -m vllm

One engine for all tests (a start takes 10 to 30 s); skipped where vLLM is not installed. Its model
is a random one with a padded vocabulary, saved and loaded as a folder. bf16 on both sides: the
bounds are some times what was measured.
"""

import io
import logging
import os
import random
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import model  # noqa: E402
import tiny  # noqa: E402
from config import flags  # noqa: E402
from engines import open_engine  # noqa: E402
from engines.base import Stopped  # noqa: E402
from loss import mask_logits  # noqa: E402
from policy import Policy  # noqa: E402
from processor import encode, expand, length, pixels  # noqa: E402
from rollout import prompt_of  # noqa: E402

WHY = "vLLM is not installed here; .ci/vllm-cpu VENV makes an environment that has it, for a CPU"
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason=WHY)]

# Nats between sampler and trainer at temperature 1. Measured: mean up to 0.023, max 0.18; on this
# model the bf16 trainer alone is as far from the fp32 trainer (0.015 and 0.18).
MEAN, MAX = 0.03, 0.3
MEMORY = {}  # random state before and after the engine started


def noise(width, height, seed):
    """An RGB image in which no two patches are alike."""
    values = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random model whose embedding has rows beyond the tokenizer, as a folder and loaded for
    training in bf16.
    """
    lm, folder = tiny.new_model(0), tmp_path_factory.mktemp("student")
    lm.net.resize_token_embeddings(len(lm.tokenizer) + 61)
    model.save(lm, folder)
    return model.load(folder, "bfloat16")


@pytest.fixture(scope="module")
def engine(student):
    torch._dynamo.config.disable = True  # one sampler kernel would be compiled for 20 s
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    engine = open_engine("vllm", student, seed=7)
    kept = torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    MEMORY["kept"] = kept and (before[2] == np.random.get_state()[1]).all()
    return engine


@pytest.fixture(autouse=True)
def same_weights(student, engine):
    """A test that moves the weights finds and leaves both sides alike."""
    before = {k: v.clone() for k, v in student.net.state_dict().items()}
    yield
    assert not engine.busy
    if any(not torch.equal(v, before[k]) for k, v in student.net.state_dict().items()):
        student.net.load_state_dict(before)
        engine.sync_weights(iter(before.items()))


@pytest.fixture(scope="module")
def prompts(student, few):
    """Two image, two text and two video prompts of the tiny world; then pictures that must be
    resized: one, two, a video of 3.
    """
    return [prompt_of(student, q, q.question, flags([])) for q in few] + [
        encode(student, "Look.", (noise(50, 37, 0),)),
        encode(student, "Compare.", (noise(48, 32, 1), noise(300, 90, 2))),
        encode(student, "Watch.", video=tuple(noise(37, 45, k) for k in range(3))),
    ]


def flat(groups):
    return [s for g in groups for s in g]


def responses(groups):
    return [s.response_ids for s in flat(groups)]


def gap(lm, samples, temperature=1.0):
    """Mean and largest difference between the sampler's log-probs and the trainer's, in nats."""
    with torch.no_grad(), lm.autocast():
        logp, _ = Policy(lm)(samples, temperature)
    gap = (logp - torch.tensor([x for s in samples for x in s.sampler_logp])).abs()
    print(f"gap {len(gap)} tokens: mean {gap.mean():.4f} max {gap.max():.4f}")
    return float(gap.mean()), float(gap.max())


def agree(lm, samples, temperature=1.0):
    mean, most = gap(lm, samples, temperature)
    return mean < MEAN / temperature and most < MAX / temperature  # differences are in the logits


def shift(parameters, size):
    """Move weights, by a noise of their own each; parameters: (seed, parameter) pairs."""
    with torch.no_grad():
        for seed, p in parameters:
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))


# ---- sampler = trainer ---------------------------------------------------------------------------

PARTS = {
    "image": slice(0, 2),
    "text": slice(2, 4),
    "video": slice(4, 6),
    "resized images": slice(6, 8),
    "resized video": slice(8, 9),
    "all at once": slice(0, 9),
}


@pytest.mark.parametrize("part", PARTS)
def test_sampler_and_trainer_agree(student, engine, prompts, part):
    samples = flat(engine.sample(prompts[PARTS[part]], 4, 24, seed=3))
    assert agree(student, samples)
    for s in samples:
        assert len(s.response_ids) == len(s.sampler_logp) and all(x <= 0 for x in s.sampler_logp)


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_they_agree_at_other_temperatures(student, engine, prompts, temperature):
    samples = flat(engine.sample(prompts, 2, 12, seed=0, temperature=temperature))
    assert agree(student, samples, temperature)


def test_the_ids_are_those_of_the_trainer(student, engine, prompts):
    """One pad in, as many out as processor.expand writes, timestamps included; all n samples hold
    one Prompt object.
    """
    for prompt, group in zip(prompts, engine.sample(prompts, 2, 2, seed=0)):
        assert group[0].prompt is group[1].prompt
        assert group[0].prompt == expand(student, prompt, pixels(student, prompt))
        assert prompt.ids.count(student.image_id) == len(prompt.images)
    with pytest.raises(ValueError, match="placeholders"):  # expanded already (pitfall 29)
        engine.sample([group[0].prompt], 1, 2, seed=0)


def test_pictures_may_be_files_or_bytes(engine, prompts, tmp_path):
    """A data set's pictures are opened when they are needed; transparent pixels are white then."""

    def stored(image, k):
        file, clear = io.BytesIO(), image.convert("RGBA")
        clear.putpixel((3, 3), (9, 9, 9, 0))
        image.putpixel((3, 3), (255, 255, 255))
        clear.save(file, "PNG")
        (tmp_path / f"{k}.png").write_bytes(file.getvalue())
        return str(tmp_path / f"{k}.png") if k % 2 else file.getvalue()

    opened = [replace(p, images=tuple(i.copy() for i in p.images)) for p in prompts[6:8]]
    opened.append(replace(prompts[8], video=tuple(i.copy() for i in prompts[8].video)))
    packed = [replace(p, images=tuple(map(stored, p.images, range(9)))) for p in opened[:2]]
    packed.append(replace(opened[2], video=tuple(map(stored, opened[2].video, range(9)))))
    assert all(isinstance(i, str | bytes) for p in packed for i in (*p.images, *p.video))
    one, two = (engine.sample(some, 2, 8, seed=4) for some in (opened, packed))
    assert responses(one) == responses(two)


def test_what_vllm_would_expand_otherwise_is_refused(engine, prompts, monkeypatch):
    """The check that stands between a processor of another version and training on ids that were
    not sampled.
    """
    small = lambda lm, image, grid: image.resize((64, 64))
    monkeypatch.setattr("engines.vllm._resized", small)
    with pytest.raises(ValueError, match="expanded a prompt to .* not train on what was sampled"):
        engine.sample(prompts[6:7], 1, 2, seed=0)


def test_what_vllm_was_given(engine):
    """More than 512 sequences would leave its CUDA graphs; other log-probs, or a prefix cache,
    would not be of what is trained.
    """
    config = engine.engine.vllm_config
    assert config.scheduler_config.max_num_seqs == 512
    assert config.model_config.logprobs_mode == "processed_logprobs"
    assert not config.cache_config.enable_prefix_caching and config.speculative_config is None


# ---- weights -------------------------------------------------------------------------------------


def test_new_weights_and_no_old_cache(student, engine, prompts):
    """The same images before and after: log-probs are those of the new weights and no longer those
    of the old (pitfall 10).
    """
    before, net = flat(engine.sample(prompts, 2, 12, seed=0)), student.net
    assert agree(student, before)
    # a tied head once, or twice
    for names in (net.named_parameters, lambda: net.state_dict().items()):
        shift(((len(name), p) for name, p in net.named_parameters()), 0.03)
        assert gap(student, before)[0] > 5 * MEAN  # the old samples under the new weights
        engine.sync_weights((name, p.detach()) for name, p in names())
        after = flat(engine.sample(prompts, 2, 12, seed=0))
        assert agree(student, after) and responses([after]) != responses([before])
        before = after


def test_a_tied_head_stays_tied(student, engine):
    """Where no packed copy exists (a GPU), the head is new after a sync because it is the
    embedding's memory (pitfall 10).
    """
    engine.sync_weights(student.net.named_parameters())

    def tied(net):
        lm = net.language_model
        return lm.lm_head.weight.data_ptr() == lm.model.embed_tokens.weight.data_ptr()

    assert student.net.config.tie_word_embeddings and engine.llm.apply_model(tied) == [True]


def test_a_sync_warns_of_nothing(student, engine):
    """vLLM says at each what a checkpoint never brings; with the filter off it does, of each."""
    log, said = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise"), []
    handler, [quiet] = logging.Handler(), log.filters
    handler.emit = lambda record: said.append(record.getMessage())
    log.addHandler(handler)
    try:
        engine.sync_weights(student.net.named_parameters())
        assert said == []
        log.removeFilter(quiet)
        engine.sync_weights(student.net.named_parameters())
        assert {text.removesuffix(": Failed to load weights") for text in said} == {
            "ParallelLMHead",
            "FusedMMInputNorm",
            "RotaryEmbedding",
            "MRotaryEmbedding",
        }
    finally:
        log.removeHandler(handler)
        log.addFilter(quiet)


def test_the_vision_tower_alone(student, engine, prompts):
    """Only the tower moves: a stale encoder cache would go unnoticed by everything else. bf16
    weights, as FSDP sends them.
    """
    before = flat(engine.sample(prompts[6:8], 4, 8, seed=0))
    shift(((p.numel(), p) for p in student.base.visual.parameters()), 0.2)
    assert gap(student, before)[0] > 2 * MEAN
    engine.sync_weights((name, p.detach().bfloat16()) for name, p in student.net.named_parameters())
    assert agree(student, flat(engine.sample(prompts[6:8], 4, 8, seed=0)))


def test_banned_ids_are_never_sampled_even_when_the_head_prefers_them(student, engine, prompts):
    """Placeholders and the rows beyond the tokenizer; before and after a sync, in training and in
    greedy decoding.
    """
    banned = student.banned.tolist()
    assert {student.image_id, student.video_id, len(student.tokenizer) + 60} <= set(banned)
    ids = torch.tensor([prompts[2].ids])
    places = torch.arange(ids.shape[1]).expand(3, 1, -1)
    h = model.hidden_states(student, ids, torch.ones_like(ids), places, None, ())[0, -1]
    with torch.no_grad():
        student.head[banned] = 40 * h / h.norm()
        assert int((student.head @ h).argmax()) in banned  # unbanned, it would be certain
    engine.sync_weights(student.net.named_parameters())
    for temperature in (0.0, 1.0):
        samples = flat(engine.sample(prompts, 4, 12, seed=1, temperature=temperature))
        assert not {t for s in samples for t in s.response_ids} & set(banned)
        assert agree(student, samples) or not temperature


# ---- seeds, ends, penalties ----------------------------------------------------------------------


def test_seeds(engine, prompts):
    groups = engine.sample(prompts, 4, 16, seed=3)
    assert all(len(set(responses([g]))) == 4 for g in groups)  # not all alike (pitfall 30)
    assert responses(engine.sample(prompts, 4, 16, seed=3)) == responses(groups)
    assert responses(engine.sample(prompts, 4, 16, seed=4)) != responses(groups)
    a, b, c = engine.sample([prompts[2]] * 3, 4, 16, seed=[5, 6, 5])
    assert responses([a]) == responses([c]) != responses([b])
    # samples 1.. of seed 5 are not samples 0.. of seed 6 once seeds are hashes, which one int makes
    # them
    x, y = engine.sample([prompts[2]] * 2, 4, 16, seed=5)
    assert not set(responses([x])) & set(responses([y]))


def test_the_trainers_randomness_is_left_alone(engine):
    assert MEMORY["kept"]


def test_greedy_top_k_and_top_p(engine, prompts):
    greedy = engine.sample(prompts[:6], 1, 12, seed=0, temperature=0)
    for kwargs in ({"top_k": 1}, {"top_p": 1e-6}):
        narrow = engine.sample(prompts[:6], 1, 12, seed=9, **kwargs)
        same = sum(a == b for a, b in zip(responses(narrow), responses(greedy)))
        assert same >= 5  # bf16: a tie may fall the other way
        # the log-prob under what was sampled from
        assert all(abs(x) < 1e-3 for s in flat(narrow) for x in s.sampler_logp)


def test_the_end_token_is_inside_and_truncation_is_a_fact(student, engine, prompts):
    [end] = student.eos_ids
    long, short = (flat(engine.sample(prompts, 16, k, seed=2)) for k in (40, 3))
    ended = [s for s in long if not s.truncated]
    assert ended and any(s.truncated for s in long)
    for s in (*long, *short):
        assert s.response_ids.count(end) == (0 if s.truncated else 1)
        assert s.truncated or s.response_ids[-1] == end
        assert s.text == student.tokenizer.decode(s.response_ids, skip_special_tokens=True)
    assert all(len(s.response_ids) == 3 for s in short if s.truncated)


def test_a_response_that_ends_with_its_last_allowed_token_is_whole(engine, prompts):
    drawn = flat(engine.sample(prompts[2:3], 32, 40, seed=2))
    whole = next(s for s in drawn if not s.truncated and len(s.response_ids) < 20)
    [again] = engine.sample(prompts[2:3], 32, len(whole.response_ids), seed=2)
    same = [s for s in again if s.response_ids == whole.response_ids]
    assert same and not same[0].truncated


def test_presence_penalty(student, engine, prompts):
    """Against the trainer's logits with the penalty taken off by hand, once for each token that the
    response holds.
    """
    for s in flat(engine.sample(prompts[:4], 2, 16, seed=0, presence_penalty=1.5)):
        with torch.no_grad(), student.autocast():
            hidden, ids = model.response_hidden(student, model.collate(student, [s]))
            logits = mask_logits(hidden @ student.head.T, student.banned)
        for t in range(len(ids)):
            logits[t, ids[:t].unique()] -= 1.5
        want = torch.log_softmax(logits, -1).gather(-1, ids[:, None])[:, 0]
        assert (want - torch.tensor(s.sampler_logp)).abs().max() < MAX


# ---- the queue -----------------------------------------------------------------------------------


def test_groups_come_back_as_they_finish(engine, prompts):
    seen, engine.tokens = [], 0
    for key, k, most in (("long", 2, 20), (("a", 1), 0, 1), ("other", 4, 5)):
        engine.submit(key, prompts[k], 2, most, 11, temperature=0.7)
    while engine.busy:
        seen += engine.step()
    assert seen[0][0] == ("a", 1) and {k for k, _ in seen} == {"long", ("a", 1), "other"}
    assert all(len(samples) == 2 for _, samples in seen) and engine.step() == []
    assert engine.tokens == sum(len(r) for r in responses(samples for _, samples in seen))


def test_done_and_stop(engine, prompts):
    asked, seen = [], []
    with pytest.raises(Stopped):
        engine.sample(prompts, 2, 30, seed=0, stop=lambda: asked.append(0) or len(asked) > 4)
    assert not engine.busy and len(asked) == 5
    out = engine.sample(prompts, 2, 6, seed=0, done=lambda i, samples: seen.append((i, samples)))
    assert len(seen) == len(prompts) and all(out[i] is samples for i, samples in seen)
    assert out == engine.sample(prompts, 2, 6, seed=0)


def test_longer_than_the_context(student, engine, prompts):
    long = student.window - length(student, prompts[6]) + 1
    with pytest.raises(ValueError, match=f"response of {long} do not fit"):
        engine.sample(prompts[6:7], 1, long, seed=0)
    assert not engine.busy
    assert engine.window == student.window and engine.name == student.path


def test_a_sync_brings_back_all_that_a_sleep_drops(student, engine, prompts):
    """Before an update the weights are not kept (level 2); else they are (1). A CPU keeps them, so
    they are wiped here: every parameter must come from the sync (the matrices that a CPU has in
    another form are not wiped; that those are new is shown above).
    """
    before, levels, sleep = engine.sample(prompts, 2, 8, seed=0), [], engine.llm.sleep
    engine.llm.sleep = lambda level: levels.append(level) or sleep(level)
    engine.can_sleep = True
    engine.sleep()
    assert engine.sample(prompts, 2, 8, seed=0) == before and not engine.asleep
    engine.sleep(until_sync=True)
    for wake in (engine.wake, lambda: engine.submit(0, prompts[0], 1, 2, 0)):
        with pytest.raises(RuntimeError, match="without weights.*sync_weights"):
            wake()

    def wipe(net):
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(torch.nan)

    engine.llm.apply_model(wipe)
    engine.sync_weights(student.net.named_parameters())
    del engine.llm.sleep
    engine.can_sleep = False
    assert levels == [1, 2] and not engine.asleep
    assert engine.sample(prompts, 2, 8, seed=0) == before


def test_drafts_need_the_kernels_of_a_gpu(student):
    """drafts.py has the tests of drafts, with such kernels (test_vllm_kernels.py)."""
    from vllm.triton_utils import HAS_TRITON

    if not HAS_TRITON:
        with pytest.raises(ValueError, match="--mtp 1: vLLM checks drafts on GPUs only"):
            open_engine("vllm", student, mtp=1)


def test_sleep_on_a_cpu_is_nothing(engine, prompts):
    engine.sleep()
    assert not engine.asleep and len(engine.sample(prompts[:1], 1, 2, seed=0)[0]) == 1
    engine.wake()


# ---- several ranks -------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False])
def test_every_rank_has_its_own_engine(student, connected):
    """Two ranks, other prompts, other numbers of steps, an engine more on rank 0; and ranks that
    share no process group.
    """
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node 2".split()]
    command = [*torchrun, __file__, student.path, str(int(connected))]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, env=env, timeout=240, capture_output=True, text=True)
    done = "rank 0 is done" in out.stdout and "rank 1 is done" in out.stdout
    assert out.returncode == 0 and done, out.stdout[-2000:] + out.stderr[-4000:]


def on_a_rank(folder, connected):
    """What each of two processes does (started by the test above)."""
    rank = int(os.environ["RANK"])
    torch._dynamo.config.disable = True
    if connected:
        torch.distributed.init_process_group("gloo")
    lm = model.load(folder, "bfloat16")
    engine = open_engine("vllm", lm, seed=rank)
    questions = tiny.questions("train")[: 1 + 3 * rank]
    prompts = [prompt_of(lm, q, q.question, flags([])) for q in questions]
    settings = 2, (3, 24)[rank], 5
    groups = engine.sample(prompts, *settings)
    if rank == 0:  # one more, that no other rank makes
        extra = open_engine("vllm", lm) if connected else engine
        assert extra.sample(prompts, *settings) == groups
    engine.sync_weights(lm.net.named_parameters())
    assert engine.sample(prompts, *settings) == groups and agree(lm, flat(groups))
    if connected:
        first = [None, None]
        torch.distributed.all_gather_object(first, [s.response_ids[:3] for s in groups[0]])
        assert first[0] == first[1]  # same prompt and seed on both ranks
        assert torch.distributed.get_world_size() == 2
        torch.distributed.destroy_process_group()
    print(f"rank {rank} is done", flush=True)


if __name__ == "__main__":
    on_a_rank(sys.argv[1], sys.argv[2] == "1")
