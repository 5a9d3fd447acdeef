"""The sampling engine for a GPU: vLLM, in this process, one engine a rank, each with its own
prompts.

Why each setting is what it is:
* What is sampled is what is trained: processed log-probs, no prefix caching, the generation config
  ignored, every sampling parameter explicit, and the trainer's banned ids at -inf in the logits
  themselves (they are thousands, where an embedding is padded: a logit bias per request would send
  them to the GPU with each one).
* A prompt goes in as ids with ONE placeholder per image or video, and comes back expanded. We
  expand it as well (model.expand) and compare: an expansion that differs would train on other ids
  than were sampled. Pictures are resized here, by the trainer's own image processor's rule, so that
  both sides see the same pixels.
* Weights arrive through vLLM's reload_weights; then every cache is dropped (an old encoder cache
  would show old images).
* On several ranks vLLM must not build one engine over all of them: OnThisDevice gives each process
  an engine on its own GPU. The first engine is made by all ranks together (vLLM opens process
  groups then); after that each rank is on its own.
* An engine that is let go closes torch.distributed for the whole process, other engines and the
  trainer included: keep it to the end, or let it go before anything else is opened.

A CPU can run it, through .ci/vllm-cpu, which is how tests/test_vllm.py does; it is slow there and
keeps no memory to give back.
"""

import os
import random

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
    "0"  # the engine in this process: weights are handed over, not sent
)
os.environ.setdefault(
    "VLLM_USE_V2_MODEL_RUNNER", "0"
)  # the runner that tests/test_vllm.py has shown to sample what we train
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault(
    "VLLM_CPU_OMP_THREADS_BIND", "nobind"
)  # leaves the cores of this process as they are

import numpy as np  # noqa: E402
import torch  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.v1.executor.uniproc_executor import UniProcExecutor  # noqa: E402

from engines.base import Engine  # noqa: E402
from processor import opened  # noqa: E402
from records import Sample  # noqa: E402

CPU_CACHE = 1 << 28  # bytes of KV cache on a CPU, where `memory` would count the machine's memory


class VLLMEngine(Engine):
    """path: model folder or hub id; lm: the model.LM for its tokenizer, end tokens, banned ids and
    image processor.

    memory: share of the GPU for weights, activations and KV cache together; max_len: longest prompt
    + response, 0 for the model's own; seed: of the engine, other on each rank (prompts bring their
    own seeds); sleep: whether sleep() is wanted (of one engine a process, that is all that vLLM
    can); stays: whether it lives as long as the process, by default if it sleeps; options: more
    arguments of vllm.LLM.
    """

    def __init__(
        self,
        path,
        lm,
        dtype="bfloat16",
        memory=0.4,
        max_len=0,
        seed=0,
        sleep=True,
        stays=None,
        **options,
    ):
        super().__init__(lm, str(path))
        gpu = current_platform.is_cuda()
        self.max_len = min(max_len or lm.window, lm.window)
        self.can_sleep, self.asleep = sleep and gpu, False
        self.queued = {}  # request id -> (key, expanded Prompt, n)
        self.count = 0  # requests so far: their ids
        settings = {
            "dtype": dtype,
            "seed": seed % 2**32,
            "max_model_len": self.max_len,
            "enable_prefix_caching": False,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "gpu_memory_utilization": memory,
            "enable_sleep_mode": self.can_sleep,
            "distributed_executor_backend": OnThisDevice,
        }
        if not gpu:
            # no prompt in two parts: after the first, vLLM sets a seeded generator back in a way
            # that only a GPU's can be
            settings |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": CPU_CACHE,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, self.max_len),
            }
        if lm.image_processor is not None:  # frames come resized, see _vision
            settings["mm_processor_kwargs"] = {"videos_kwargs": {"do_resize": False}}
        with _own_randomness():
            self.llm = LLM(self.name, **settings | options)
        self.engine = self.llm.llm_engine
        if sleep if stays is None else stays:
            # vLLM's own end takes torch.distributed down for the whole process, trainer and other
            # engines included: an engine that shares a process with a trainer ends with it
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
        # sample j of n gets the seed s + j inside vLLM; seeds are hashes, so no two prompts
        # overlap. Greedy: one is all n.
        params = SamplingParams(
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
        return [
            self._group(out)
            for out in self.engine.step()
            if out.finished and out.request_id in self.queued
        ]

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
        assert not self.busy and named is not None, (
            "new weights, and not in the middle of a response"
        )
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        if current_platform.is_cpu():
            self.llm.apply_model(_pack_heads)
        self.llm.reset_mm_cache()
        self.engine.reset_encoder_cache()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM kept its prefix cache after a weight sync: some request is still running"
            )

    def sleep(self):
        """Engine.sleep; the weights wait in the CPU's memory."""
        assert not self.busy, "an engine goes to sleep with nothing under way"
        if self.can_sleep and not self.asleep:
            self.llm.sleep(level=1)
            self.asleep = True

    def wake(self):
        """Engine.wake"""
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False

    def _request(self, prompt, vision):
        """What vLLM takes: ids with one placeholder each, and pictures that need no resizing."""
        ids, data = list(prompt.ids), {}
        if "image" in vision:
            data["image"] = [
                _resized(self.lm, image, grid)
                for image, grid in zip(opened(prompt.images, prompt), vision["image"][1])
            ]
        if "video" in vision:
            data["video"] = [_video(self.lm, prompt, vision["video"][1][0])]
            k = ids.index(self.lm.video_id)
            del (
                ids[k + 1],
                ids[k - 1],
            )  # vLLM writes a <vision_start> and <vision_end> for each patch of time
        return {"prompt_token_ids": ids} | ({"multi_modal_data": data} if data else {})

    def _group(self, out):
        """(key, Samples) of a finished vllm.RequestOutput."""
        key, prompt, n = self.queued.pop(out.request_id)
        if tuple(out.prompt_token_ids) != prompt.ids:
            found, pads = out.prompt_token_ids, (self.lm.image_id, self.lm.video_id)
            raise ValueError(
                f"{self.name}: vLLM expanded a prompt to {len(found)} ids ({sum(i in pads for i in found)} visual), "
                f"the trainer to {len(prompt.ids)} ({sum(i in pads for i in prompt.ids)} visual): "
                f"it would not train on what was sampled"
            )
        samples = []
        for response in sorted(out.outputs, key=lambda r: r.index):
            ids = tuple(response.token_ids)
            logps = tuple(
                at[token].logprob for at, token in zip(response.logprobs, ids, strict=True)
            )
            assert response.finish_reason in ("stop", "length"), response.finish_reason
            self.tokens += len(ids)
            samples.append(
                Sample(
                    prompt,
                    ids,
                    logps,
                    self.lm.tokenizer.decode(ids, skip_special_tokens=True),
                    response.finish_reason == "length",
                )
            )
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
    net.compute_logits = lambda *args, **kwargs: plain(*args, **kwargs).index_fill_(
        -1, banned, -torch.inf
    )


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
    timestamps as model.expand's.
    """
    frames = [np.asarray(_resized(lm, f, grid)) for f in opened(prompt.video, prompt)]
    frames += [frames[-1]] * (-len(frames) % lm.image_processor.temporal_patch_size)
    return np.stack(frames), {
        "fps": prompt.video_fps,
        "frames_indices": list(range(len(frames))),
        "total_num_frames": len(frames),
        "duration": len(frames) / prompt.video_fps,
        "do_sample_frames": False,
    }


class _own_randomness:
    """vLLM seeds the process's generators when it starts; the trainer's go on as if it had not."""

    def __enter__(self):
        self.python, self.numpy, self.torch = (
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
        )
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def __exit__(self, *error):
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
