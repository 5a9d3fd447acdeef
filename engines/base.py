"""What every sampling engine can do.

An engine draws responses from one model; rollout.py, teacher.py and eval.py do not know which:
    sample(prompts, n, ...)        n Samples a prompt, all at once
    submit(...), step(), abort()   the same as a queue: groups come back one by one, as they finish
    sync_weights(named)            take the trainer's new weights
    sleep(), wake()                give the accelerator's memory to the trainer, and take it again

engines.hf.HFEngine samples with a transformers model in this process: slow, and right anywhere.
engines.vllm.VLLMEngine holds a vLLM engine in this process: what a GPU samples with.
engines.client.ClientEngine speaks to a server: the teacher's, a judge's.

What shapes the distribution is written out: temperature, top-p, top-k, presence penalty and banned
ids; the model's generation config is ignored (its sampling defaults would make the policy that is
sampled another one than the policy that is trained). Every prompt has its own seed, so its samples
do not depend on what else is in the batch, nor on the rank that draws them.

    engine = engines.open_engine("", lm)
    prompt = engine.encode("What is 2+2?" + CLOSER)
    groups = engine.sample([prompt], n=8, max_new_tokens=32, seed=0)
"""

import hashlib
from functools import cached_property

from processor import control_strings, encode, expand, pixels

ENGINES = ("hf", "vllm")


class Stopped(Exception):
    """Sampling was broken off because its caller's stop() said so."""


def seed_of(*parts):
    """A 63-bit seed from anything printable: every prompt gets its own, from run seed, step,
    purpose and place in the batch.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def default_kind(device):
    """What samples on a device unless somebody says otherwise: vllm on a GPU, hf elsewhere."""
    return "vllm" if str(device).startswith("cuda") else "hf"


class Engine:
    """What all engines share. lm: the model.LM whose tokenizer, image processor, end tokens and
    banned ids hold.

    tokens: generated so far, may be reset. name: of the model, for cache keys. remote: whether it
    samples in another process. Subclasses write submit, step, busy, abort and sync_weights.
    """

    remote = False

    def __init__(self, lm, name=""):
        self.lm, self.name, self.tokens = lm, name or lm.path, 0

    @property
    def window(self):
        """Longest prompt + response, in tokens."""
        return self.lm.window

    @cached_property
    def control(self):
        """The tags that mean something to this model (processor.control_strings)."""
        return control_strings(self.lm.tokenizer)

    def encode(self, text, images=(), video=(), thinking=True):
        """A user turn as this model reads it (processor.encode)."""
        return encode(self.lm, text, images, video, thinking)

    def fitted(self, prompt, max_new_tokens):
        """(the prompt with its placeholders expanded, its vision inputs). Raises ValueError when it
        does not fit the window.
        """
        vision = pixels(self.lm, prompt)
        prompt = expand(self.lm, prompt, vision)
        if len(prompt.ids) + max_new_tokens > self.window:
            raise ValueError(
                f"a prompt of {len(prompt.ids)} tokens and a response of {max_new_tokens} do not "
                f"fit the context of {self.window} tokens; lower --max-response"
            )
        return prompt, vision

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
        """Queue one prompt for n responses.

        key: any hashable, comes back with them; prompt: records.Prompt, one placeholder id per
        image or video; max_new_tokens: the end token included; seed: an int, of this prompt;
        temperature 0 means greedy; presence_penalty is taken off the logit of every token that the
        response already holds (evaluation only: training must sample the policy it trains).

        Raises ValueError when the prompt and the response do not fit the context window.
        """
        raise NotImplementedError

    def step(self):
        """Sample for a while. Returns [(key, n Samples), ...] that finished now, maybe none; all n
        hold the SAME Prompt object, its placeholders expanded.
        """
        raise NotImplementedError

    @property
    def busy(self):
        """Whether something that was submitted has not come back."""
        raise NotImplementedError

    def abort(self):
        """Forget everything that was submitted."""
        raise NotImplementedError

    def sync_weights(self, named):
        """Take new weights. named: iterator of (name, tensor), names as in the transformers state
        dict, full tensors, used one by one; None where the engine samples with the trainer's own
        net and has nothing to do.
        """
        raise NotImplementedError

    def holds(self, net):
        """Whether it samples with this very net, so that there is nothing to sync."""
        return False

    def sleep(self, until_sync=False):
        """Give accelerator memory back. Nothing may be under way. until_sync: the next thing is
        sync_weights(), so that the weights need not be kept.
        """

    def wake(self):
        """Take it again; submit() and step() do it by themselves."""

    def close(self):
        """Give back what lives outside of this process."""

    def sample(self, prompts, n, max_new_tokens, seed, *sampling, done=None, stop=None, **named):
        """n responses to each prompt: a list over prompts of lists of n Samples.

        sampling, named: temperature and the rest, as in submit(). seed: one int (prompt i gets
        seed_of(seed, i)), or one int a prompt. done(i, samples): called as each prompt's group
        finishes. stop(): asked between steps; when true, all is aborted and Stopped raised.
        """
        assert not self.busy, "sample() on an engine that still works on what was submitted"
        if isinstance(seed, int):
            seeds = [seed_of(seed, i) for i in range(len(prompts))]
        else:
            seeds = list(seed)
        assert len(seeds) == len(prompts), f"{len(seeds)} seeds for {len(prompts)} prompts"
        out = [None] * len(prompts)
        try:
            for i, prompt in enumerate(prompts):
                self.submit(i, prompt, n, max_new_tokens, seeds[i], *sampling, **named)
            while self.busy:
                if stop and stop():
                    raise Stopped
                for i, samples in self.step():
                    out[i] = samples
                    if done:
                        done(i, samples)
        except BaseException:  # Ctrl-C as well: the next call starts empty
            self.abort()
            raise
        return out
