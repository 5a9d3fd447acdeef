"""The sampling engine for a GPU: vLLM, in this process, one engine a rank, each with its own
prompts.

Why each setting is what it is:
* What is sampled is what is trained: processed log-probs, no prefix caching, the generation config
  ignored, every sampling parameter explicit, and the trainer's banned ids at -inf in the logits
  themselves (they are thousands, where an embedding is padded: a logit bias per request would send
  them to the GPU with each one).
* A prompt goes in as ids with ONE placeholder per image or video, and comes back expanded. We
  expand it as well (processor.expand) and compare: an expansion that differs would train on other
  ids than were sampled. Pictures are resized here, by the trainer's own image processor's rule, so
  that both sides see the same pixels.
* Weights arrive through vLLM's reload_weights; then every cache is dropped (an old encoder cache
  would show old images).
* On several ranks vLLM must not build one engine over all of them: OnThisDevice gives each process
  an engine on its own GPU. The first engine is made by all ranks together (vLLM opens process
  groups then); after that each rank is on its own.
* At most 512 sequences side by side: larger batches run outside of vLLM's CUDA graphs.
* Drafts (mtp) are checked by vLLM's rejection sampling, so samples and log-probs stay the policy's.
  The drafting head keeps the checkpoint's weights; its embedding and output head are the policy's.
* An engine lives as long as its process: vLLM's own end would close torch.distributed for the
  trainer as well.

A CPU can run it, through .ci/vllm-cpu, which is how tests/engines/test_vllm.py does; it is slow
there and keeps no memory to give back.
"""

import logging
import os
import random
from contextlib import contextmanager

# the engine in this process: weights are handed over, not sent
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# leaves the cores of this process as they are
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.triton_utils import HAS_TRITON  # noqa: E402
from vllm.v1.executor.uniproc_executor import UniProcExecutor  # noqa: E402

from engines.base import Engine  # noqa: E402
from processor import opened  # noqa: E402
from records import Sample  # noqa: E402

# said at every sync of what no checkpoint brings: a head that is the embedding, and constants
UNLOADED = ("ParallelLMHead", "FusedMMInputNorm", "RotaryEmbedding", "MRotaryEmbedding")
UNLOADED = {f"{name}: Failed to load weights" for name in UNLOADED}
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(
    lambda record: record.getMessage() not in UNLOADED
)

# expand_kernel's CPU form writes into a copy, and what divides the logits was never written
NO_DRAFTS = "vLLM checks drafts on GPUs only; on a CPU its log-probs come out as NaN"
CPU_CACHE = 1 << 28  # bytes of KV cache on a CPU, where `memory` would count the machine's memory


class VLLMEngine(Engine):
    """path: model folder or hub id; lm: the model.LM for its tokenizer, end tokens, banned ids and
    image processor.

    memory: share of the GPU for weights, activations and KV cache together; max_len: longest prompt
    + response, 0 for the model's own; seed: of the engine, other on each rank (prompts bring their
    own seeds); mtp: tokens that the checkpoint's own drafting head proposes at a time; options:
    more arguments of vllm.LLM.
    """

    def __init__(self, path, lm, dtype="bfloat16", memory=0.4, max_len=0, seed=0, mtp=0, **options):
        super().__init__(lm, str(path))
        self.max_len = min(max_len or lm.window, lm.window)
        self.can_sleep, self.asleep = current_platform.is_cuda(), False
        self.bare = False  # asleep without weights
        self.queued = {}  # request id -> (key, expanded Prompt, n)
        self.count = 0  # requests so far: their ids
        settings = {
            "dtype": dtype,
            "seed": seed % 2**32,
            "max_model_len": self.max_len,
            "max_num_seqs": 512,
            "enable_prefix_caching": False,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "gpu_memory_utilization": memory,
            "enable_sleep_mode": self.can_sleep,
            "distributed_executor_backend": OnThisDevice,
        }
        if not current_platform.is_cuda():
            # no prompt in two parts: after the first, vLLM sets a seeded generator back in a way
            # that only a GPU's can be
            settings |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": CPU_CACHE,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, self.max_len),
            }
        # the runner that the tests have shown to sample what we train
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "1" if mtp else "0")
        if mtp:
            if not HAS_TRITON:
                raise ValueError(f"--mtp {mtp}: {NO_DRAFTS}")
            settings["speculative_config"] = {"method": "mtp", "num_speculative_tokens": mtp}
            settings["sleep_preserve_parameter_names"] = ["draft.*"]
        if lm.image_processor is not None:  # frames come resized, see _video
            settings["mm_processor_kwargs"] = {"videos_kwargs": {"do_resize": False}}
        with _own_randomness():
            self.llm = LLM(self.name, **settings | options)
        self.engine = self.llm.llm_engine
        # or its end would take torch.distributed down for the whole process
        self.engine.engine_core._finalizer.detach()
        banned = lm.banned.tolist()
        self.llm.apply_model(lambda net: _ban(net, banned))

    @property
    def window(self):
        """Engine.window"""
        return self.max_len

    def submit(
        self,
        key,
        prompt,
        n,
        max_new_tokens,
        seed,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        presence_penalty=0.0,
    ):
        """Engine.submit"""
        expanded, vision = self.fitted(prompt, max_new_tokens)
        self.wake()
        params = SamplingParams(
            # sample j of n gets the seed s + j inside vLLM; seeds are hashes, so no two prompts
            # overlap. Greedy: one is all n.
            n=n if temperature else 1,
            seed=seed % 2**62,
            max_tokens=max_new_tokens,
            min_tokens=0,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=0.0,
            presence_penalty=presence_penalty,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            stop_token_ids=list(self.lm.eos_ids),
            ignore_eos=False,
            logprobs=0,
            flat_logprobs=True,  # lists of numbers, not a dictionary and an object a token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.count += 1
        self.engine.add_request(str(self.count), self._request(prompt, vision), params)
        self.queued[str(self.count)] = key, expanded, n

    def step(self):
        """One token for each response under way."""
        if not self.queued:
            return []
        self.wake()
        finished = [o for o in self.engine.step() if o.finished and o.request_id in self.queued]
        return [self._group(out) for out in finished]

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.queued)

    def abort(self):
        """Engine.abort"""
        self.engine.abort_request(list(self.queued))
        self.queued = {}

    def sync_weights(self, named):
        """Engine.sync_weights; a sleeping engine is awake afterwards. Old weights, new weights and
        KV cache never exist at once: memory for the weights comes back first, and for the cache
        when they are in place.
        """
        assert not self.busy, "new weights in the middle of a response"
        assert named is not None, "vLLM has weights of its own"
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = self.bare = False
        if current_platform.is_cpu():
            self.llm.apply_model(_pack_heads)
        self.llm.reset_mm_cache()
        self.engine.reset_encoder_cache()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: some request is still running")

    def sleep(self, until_sync=False):
        """Engine.sleep; the weights wait in the CPU's memory, or with until_sync nowhere (a
        drafting head's always wait: no sync brings them).
        """
        assert not self.busy, "an engine goes to sleep with nothing under way"
        if self.can_sleep and not self.asleep:
            self.llm.sleep(level=2 if until_sync else 1)
            self.asleep, self.bare = True, until_sync

    def wake(self):
        """Engine.wake; raises RuntimeError after sleep(until_sync=True) without a sync."""
        if self.bare:
            raise RuntimeError(f"{self.name}: vLLM sleeps without weights; sync_weights() first")
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False

    def _request(self, prompt, vision):
        """What vLLM takes: ids with one placeholder each, and pictures that need no resizing."""
        ids, data = list(prompt.ids), {}
        if "image" in vision:
            images = opened(prompt.images, prompt, self.lm.max_pixels)
            pairs = zip(images, vision["image"][1])
            data["image"] = [_resized(self.lm, image, grid) for image, grid in pairs]
        if "video" in vision:
            data["video"] = [_video(self.lm, prompt, vision["video"][1][0])]
            # vLLM writes a <vision_start> and <vision_end> for each patch of time
            k = ids.index(self.lm.video_id)
            del ids[k + 1], ids[k - 1]
        request = {"prompt_token_ids": ids}
        return request | {"multi_modal_data": data} if data else request

    def _group(self, out):
        """(key, Samples) of a finished vllm.RequestOutput."""
        key, prompt, n = self.queued.pop(out.request_id)
        found = tuple(out.prompt_token_ids)
        if found != prompt.ids:
            pads = self.lm.image_id, self.lm.video_id
            theirs, ours = (sum(i in pads for i in ids) for ids in (found, prompt.ids))
            raise ValueError(
                f"{self.name}: vLLM expanded a prompt to {len(found)} ids ({theirs} visual), the "
                f"trainer to {len(prompt.ids)} ({ours} visual): it would not train on what was "
                f"sampled"
            )
        samples = []
        for r in sorted(out.outputs, key=lambda r: r.index):
            assert r.finish_reason in ("stop", "length"), r.finish_reason
            ids = tuple(r.token_ids)
            assert r.logprobs.token_ids == list(ids), "log-probs of other tokens"
            logps = tuple(r.logprobs.logprobs)
            text = self.lm.tokenizer.decode(ids, skip_special_tokens=True)
            samples.append(Sample(prompt, ids, logps, text, r.finish_reason == "length"))
            self.tokens += len(ids)
        return key, samples * (n // len(samples))


class OnThisDevice(UniProcExecutor):
    """vLLM's executor for one process, on the GPU that this process has chosen
    (torch.cuda.set_device) rather than the first.
    """

    def _distributed_args(self):
        method, rank, device = super()._distributed_args()
        return method, rank, torch.cuda.current_device() if current_platform.is_cuda() else device


def _ban(net, banned):
    """Put the logits of the banned ids at -inf, before any sampler sees them. Changes net, a vLLM
    model, in place.
    """
    plain, device = net.compute_logits, next(net.parameters()).device
    banned = torch.tensor(banned, dtype=torch.long, device=device)
    net.compute_logits = lambda *a, **k: plain(*a, **k).index_fill_(-1, banned, -torch.inf)


def _pack_heads(net):
    """On a CPU a head multiplies with a packed copy of its weight; vLLM's reload forgets it where
    head and embedding are tied.
    """
    for module in net.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def _resized(lm, image, grid):
    """The picture in the size that the trainer's image processor gives it; resizing it again
    changes nothing.
    """
    _, h, w = grid.tolist()
    patch = lm.image_processor.patch_size
    return image.resize((w * patch, h * patch), lm.image_processor.resample)


def _video(lm, prompt, grid):
    """vLLM's video item: ((frames, height, width, 3) uint8, metadata), an even number of frames,
    timestamps as processor.expand's.
    """
    frames = [np.asarray(_resized(lm, f, grid)) for f in opened(prompt.video, prompt)]
    frames += [frames[-1]] * (-len(frames) % lm.image_processor.temporal_patch_size)
    n, fps = len(frames), prompt.video_fps
    facts = {"fps": fps, "frames_indices": list(range(n)), "total_num_frames": n}
    return np.stack(frames), facts | {"duration": n / fps, "do_sample_frames": False}


@contextmanager
def _own_randomness():
    """vLLM seeds the process's generators when it starts; the trainer's go on as if it had not."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
