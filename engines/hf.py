"""The sampling engine that needs nothing but `transformers`: right on a CPU and in tests, slow on a
GPU.

It samples with the trainer's own net (no second copy, nothing to sync), or with a copy that
sync_weights() keeps up to date. It prefills each prompt once, repeats the cache n times, and drops
rows as they end.

Row j of a prompt with seed s draws its uniforms from its own generator, seed_of(s, j), on the CPU,
and a token is the inverse of the cumulative distribution at the next uniform. So a prompt's samples
are the same alone and in any batch, up to float noise.
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from engines.base import Engine, seed_of
from model import features, hidden_states
from processor import positions
from records import Sample


class HFEngine(Engine):
    """Samples with a transformers model in this process. max_rows: responses that are decoded side
    by side.
    """

    def __init__(self, lm, max_rows=512):
        super().__init__(lm)
        self.max_rows = max_rows
        # (key, expanded Prompt, vision inputs, seed, settings), in order of submission
        self.queue = []

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
        prompt, vision = self.fitted(prompt, max_new_tokens)
        settings = n, max_new_tokens, temperature, top_p, top_k, presence_penalty
        self.queue.append((key, prompt, vision, seed, settings))

    def step(self):
        """One batch of at most max_rows responses: the prompt that waits longest, and those nearest
        to it in length.
        """
        if not self.queue:
            return []
        first, settings = self.queue[0], self.queue[0][-1]
        same = [q for q in self.queue if q[-1] == settings]
        same.sort(key=lambda q: len(q[1].ids))  # stable
        size = max(1, self.max_rows // settings[0])
        start = next(i for i, q in enumerate(same) if q is first) // size * size
        batch = same[start : start + size]  # neighbours in length pad each other least
        taken = {id(q) for q in batch}
        self.queue = [q for q in self.queue if id(q) not in taken]
        keys, prompts, visions, seeds, _ = zip(*batch)
        with torch.no_grad(), cast_once(self.lm), self.lm.autocast():
            return list(zip(keys, self._batch(prompts, visions, seeds, *settings)))

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.queue)

    def abort(self):
        """Engine.abort"""
        self.queue = []

    def holds(self, net):
        """Engine.holds"""
        return self.lm.net is net

    @torch.no_grad()
    def sync_weights(self, named):
        """Copy tensors into the net, in place; None: the net is the trainer's own. Raises
        ValueError naming a parameter that is missing, unknown, or of another shape.
        """
        if named is None:
            return
        net, written = self.lm.net.state_dict(), set()
        for name, tensor in named:
            if name not in net or net[name].shape != tensor.shape:
                have = tuple(net[name].shape) if name in net else "no such parameter"
                raise ValueError(
                    f"{self.name}: {name} of shape {tuple(tensor.shape)} does not fit ({have} in "
                    f"the engine)"
                )
            net[name].copy_(tensor)
            written.add(net[name].data_ptr())  # a tied head has two names and one memory
        missing = [name for name, tensor in net.items() if tensor.data_ptr() not in written]
        if missing:
            raise ValueError(
                f"{self.name}: no new weights came for {missing[0]} ({len(missing)} missing)"
            )

    def _batch(self, prompts, visions, seeds, n, length, temperature, top_p, top_k, penalty):
        """n Samples of at most `length` tokens to each of the expanded prompts."""
        rows = len(prompts) * n  # one a response
        h, cache, mask, next_pos = self._prefill(prompts, visions, n)
        device = self.lm.device
        out = _Responses(rows, length, self.lm)
        uniforms = draws(seeds, n, length).to(device) if temperature else None
        penalties = None  # to take off each logit
        if penalty:
            penalties = torch.zeros(rows, self.lm.head.shape[0], device=device)
        for t in range(length):
            logits = self.lm.logits(h)
            if penalties is not None:
                logits = logits - penalties[out.active]
            uniform = uniforms[out.active, t] if temperature else None
            token, logp = choose(logits, uniform, temperature, top_p, top_k)
            if penalties is not None:
                penalties[out.active, token] = penalty
            unfinished = out.add(t, token, logp)
            if t + 1 == length or not unfinished.any():
                break
            if unfinished.sum() < 0.75 * len(unfinished):  # dropped now and then, not each time
                keep = unfinished.nonzero()[:, 0]
                cache.reorder_cache(keep)
                out.active = out.active[keep]
                token, mask, next_pos = token[keep], mask[keep], next_pos[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            pos = next_pos.expand(3, -1)[:, :, None]
            h = hidden_states(self.lm, token[:, None], mask, pos, None, (), cache)[:, -1]
            next_pos = next_pos + 1
        samples = out.samples(prompts, n)
        self.tokens += sum(len(s.response_ids) for group in samples for s in group)
        return samples

    def _prefill(self, prompts, visions, n):
        """Each prompt once, then n rows of it: last hidden state (N*n, D), cache, mask (N*n, P) and
        next position (N*n,).
        """
        lm = self.lm
        N, P = len(prompts), max(len(p.ids) for p in prompts)
        ids, pos = torch.zeros(N, P, dtype=torch.long), torch.zeros(3, N, P, dtype=torch.long)
        mask, after = torch.zeros_like(ids), torch.zeros(N, dtype=torch.long)
        for i, (prompt, vision) in enumerate(zip(prompts, visions)):
            start = P - len(prompt.ids)  # left-padded, so that all rows decode at one column
            ids[i, start:] = torch.tensor(prompt.ids)
            mask[i, start:] = 1
            pos[:, i, start:], after[i] = positions(lm, prompt, vision)
        ids, mask, pos, after = (x.to(lm.device) for x in (ids, mask, pos, after))
        cache = DynamicCache(config=lm.net.config.get_text_config())
        h = hidden_states(lm, ids, mask, pos, features(lm, visions), range(N), cache)[:, -1]
        repeat = torch.arange(N, device=lm.device).repeat_interleave(n)
        cache.reorder_cache(repeat)
        return h[repeat], cache, mask[repeat], after[repeat]


@contextmanager
def cast_once(lm):
    """Within, linear layers and head multiply with lm.compute copies of their float32 weights, made
    once: the numbers of autocast, which would cast all weights again for every decoded token.
    """
    stored = next(lm.net.parameters()).dtype
    if lm.sharded or lm.compute in (torch.float32, stored):  # there is nothing to cast
        yield
        return
    head = lm.net.get_output_embeddings()  # often the embedding as well: only LM.logits uses it
    layers = [m for m in lm.net.modules() if type(m) is nn.Linear and m is not head]
    lm.cast_head = lm.head.detach().to(lm.compute)
    for layer in layers:  # the parameters stay: a checkpoint may be reading them
        bias = None if layer.bias is None else layer.bias.detach().to(lm.compute)
        weight = layer.weight.detach().to(lm.compute)
        layer.forward = partial(F.linear, weight=weight, bias=bias)
    try:
        yield
    finally:
        lm.cast_head = None
        for layer in layers:
            del layer.forward


class _Responses:
    """The tokens of a batch as they come. active: (rows now decoded,) which response each is."""

    def __init__(self, rows, length, lm):
        self.lm, device = lm, lm.device
        self.eos = torch.tensor(lm.eos_ids, device=device)
        self.active = torch.arange(rows, device=device)
        self.tokens = torch.zeros(rows, length, dtype=torch.long, device=device)
        self.logps = torch.zeros(rows, length, device=device)
        self.length = torch.full((rows,), length, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)

    def add(self, t, token, logp):
        """Token t of the active rows; returns which of them are unfinished."""
        self.tokens[self.active, t], self.logps[self.active, t] = token, logp
        # an ended row may still be decoded for a while
        ends = torch.isin(token, self.eos) & ~self.ended[self.active]
        self.length[self.active[ends]] = t + 1
        self.ended[self.active[ends]] = True
        return ~self.ended[self.active]

    def samples(self, prompts, n):
        """n Samples a prompt."""
        tokens, logps, ended = self.tokens.tolist(), self.logps.tolist(), self.ended.tolist()
        samples = []
        for row, length in enumerate(self.length.tolist()):
            ids = tokens[row][:length]
            text = self.lm.tokenizer.decode(ids, skip_special_tokens=True)
            prompt, logp = prompts[row // n], tuple(logps[row][:length])
            samples.append(Sample(prompt, tuple(ids), logp, text, not ended[row]))
        return [samples[i : i + n] for i in range(0, len(samples), n)]


def draws(seeds, n, length):
    """(len(seeds) * n, length) uniforms in [0, 1), float64: row i * n + j is the stream of
    seed_of(seeds[i], j).
    """
    streams = [torch.Generator().manual_seed(seed_of(s, j)) for s in seeds for j in range(n)]
    return torch.stack([torch.rand(length, dtype=torch.float64, generator=g) for g in streams])


def choose(logits, uniform, temperature, top_p, top_k):
    """One token a row and its log-prob under the distribution it was drawn from: (rows,) int64 and
    (rows,) float32.

    logits: (rows, V) float32; uniform: (rows,) float64 in [0, 1), not used when temperature is 0
    (greedy).
    """
    if temperature == 0:
        logp, token = torch.log_softmax(logits, -1).max(-1)
        return token, logp
    logits = logits / temperature
    if top_k:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    logp = torch.log_softmax(logits, -1)
    cdf = logp.exp().cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    # the first id whose cdf is above the target: never one of probability 0, whose cdf is its
    # predecessor's
    target = torch.minimum(
        uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    token = torch.searchsorted(cdf, target, right=True)
    return token[:, 0], logp.gather(-1, token)[:, 0]
