"""Prompts -> samples: the engine that draws responses from the current policy.

Every engine has the same three verbs, so that train.py does not know which one it holds:
    sample(prompts, n, ...) -> n Samples a prompt        sync_weights(lm)        tokens: generated so far, may be reset
HFEngine samples with the trainer's own `transformers` model: no second copy, nothing to sync, right on a CPU and in tests.
It prefills each prompt once, repeats the cache n times, and drops rows as they end.

What shapes the distribution is written out: temperature, top-p, top-k and banned ids; the model's generation config is
ignored (its sampling defaults would make the policy that is sampled another one than the policy that is trained).

    engine = HFEngine(lm)
    groups = engine.sample([encode(lm, "What is 2+2?" + CLOSER)], n=8, max_new_tokens=32, seed=0)
"""
import hashlib

import torch
from transformers import DynamicCache
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from loss import mask_logits
from model import expand, features, hidden_states, pixels, positions
from sample import Sample


def seed_of(*parts):
    """A 63-bit seed from anything printable: every engine call gets its own, from run seed, rank, step and purpose."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class HFEngine:
    """Samples with a transformers model in this process. max_rows: responses that are decoded side by side."""

    def __init__(self, lm, max_rows=512):
        self.lm, self.max_rows = lm, max_rows
        self.tokens = 0                                          # generated so far, for the cost figures

    def sync_weights(self, lm):
        """Nothing to do: the engine reads the weights that the optimizer writes."""
        assert lm.net is self.lm.net, "HFEngine samples from the model it was made with"

    @torch.no_grad()
    def sample(self, prompts, n, max_new_tokens, seed, temperature=1.0, top_p=1.0, top_k=0, presence_penalty=0.0):
        """n responses to each prompt. prompts: list of sample.Prompt (one placeholder id per image).

        max_new_tokens: the end token included; temperature 0 means greedy; presence_penalty is taken off the logit of every
        token that the response already holds (evaluation only: training must sample the policy it trains). Returns a list
        over prompts of lists of n Samples, all n with the SAME Prompt object, its placeholders expanded. Raises ValueError
        when the prompt and the response do not fit the context window.
        """
        with self.lm.autocast():
            return self._sample(prompts, n, max_new_tokens, seed, temperature, top_p, top_k, presence_penalty)

    def _sample(self, prompts, n, max_new_tokens, seed, temperature, top_p, top_k, presence_penalty):
        generator = torch.Generator(device=self.lm.device).manual_seed(seed)
        visions = [pixels(self.lm, p) for p in prompts]
        prompts = [expand(self.lm, p, v) for p, v in zip(prompts, visions)]
        for p in prompts:
            if len(p.ids) + max_new_tokens > self.lm.window:
                raise ValueError(f"a prompt of {len(p.ids)} tokens and a response of {max_new_tokens} do not fit the "
                                 f"context of {self.lm.window} tokens; lower --max-response")
        out = [None] * len(prompts)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))     # neighbours pad each other least
        step = max(1, self.max_rows // n)
        for i in range(0, len(prompts), step):
            some = by_length[i:i + step]
            drawn = self._batch([prompts[j] for j in some], [visions[j] for j in some], n, max_new_tokens, generator,
                                temperature, top_p, top_k, presence_penalty)
            for j, group in zip(some, drawn):
                out[j] = group
        return out

    def _batch(self, prompts, visions, n, max_new_tokens, generator, temperature, top_p, top_k, presence_penalty):
        lm, dev = self.lm, self.lm.device
        N, P = len(prompts), max(len(p.ids) for p in prompts)
        ids, pos = torch.zeros(N, P, dtype=torch.long), torch.zeros(3, N, P, dtype=torch.long)
        mask = torch.zeros_like(ids)
        after = torch.zeros(N, dtype=torch.long)
        for i, (p, v) in enumerate(zip(prompts, visions)):       # left-padded, so that all rows decode at one column
            L = len(p.ids)
            prompt_pos, after[i] = positions(lm, p, v)
            ids[i, P - L:], mask[i, P - L:], pos[:, i, P - L:] = torch.tensor(p.ids), 1, prompt_pos
        cache = DynamicCache(config=lm.net.config.get_text_config())
        h = hidden_states(lm, ids.to(dev), mask.to(dev), pos.to(dev), features(lm, visions), range(N), cache)[:, -1]
        repeat = torch.arange(N, device=dev).repeat_interleave(n)            # (N*n,) one row a response from here on
        cache.reorder_cache(repeat)
        h, mask, next_pos = h[repeat], mask.to(dev)[repeat], after.to(dev)[repeat]

        eos = torch.tensor(lm.eos_ids, device=dev)
        alive = torch.arange(N * n, device=dev)                               # which response each live row is
        tokens = torch.zeros(N * n, max_new_tokens, dtype=torch.long, device=dev)
        logps = torch.zeros(N * n, max_new_tokens, device=dev)
        length = torch.full((N * n,), max_new_tokens, device=dev)
        ended = torch.zeros(N * n, dtype=torch.bool, device=dev)
        penalty = torch.zeros(N * n, lm.head.shape[0], device=dev) if presence_penalty else None    # to take off each logit
        for t in range(max_new_tokens):
            token, logp = self._draw(h, generator, temperature, top_p, top_k, None if penalty is None else penalty[alive])
            tokens[alive, t], logps[alive, t] = token, logp
            if penalty is not None:
                penalty[alive, token] = presence_penalty
            stop = torch.isin(token, eos) & ~ended[alive]                     # an ended row may still be decoded for a while
            length[alive[stop]], ended[alive[stop]] = t + 1, True
            live = ~ended[alive]
            if t + 1 == max_new_tokens or not live.any():
                break
            if live.sum() < 0.75 * len(alive):                # ended rows are dropped now and then, not each time
                rows = live.nonzero()[:, 0]
                cache.reorder_cache(rows)
                alive, token, mask, next_pos = alive[rows], token[rows], mask[rows], next_pos[rows]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            h = hidden_states(lm, token[:, None], mask, next_pos.expand(3, -1)[:, :, None], None, (), cache)[:, -1]
            next_pos = next_pos + 1

        tokens, logps, length, ended = tokens.tolist(), logps.tolist(), length.tolist(), ended.tolist()
        self.tokens += sum(length)
        samples = [Sample(prompts[r // n], tuple(tokens[r][:length[r]]), tuple(logps[r][:length[r]]),
                          lm.tokenizer.decode(tokens[r][:length[r]], skip_special_tokens=True), not ended[r])
                   for r in range(N * n)]
        return [samples[i * n:(i + 1) * n] for i in range(N)]

    def _draw(self, h, generator, temperature, top_p, top_k, penalty=None):
        """One token a row and its log-prob under the distribution it was drawn from. h: (rows, D); penalty: (rows, V)."""
        logits = mask_logits(h @ self.lm.head.T, self.lm.banned)
        if penalty is not None:
            logits = logits - penalty
        if temperature == 0:
            logp, token = torch.log_softmax(logits, -1).max(-1)
            return token, logp
        logits = logits / temperature
        if top_k:
            logits = TopKLogitsWarper(top_k)(None, logits)
        if top_p < 1:
            logits = TopPLogitsWarper(top_p)(None, logits)
        logp = torch.log_softmax(logits, -1)
        token = torch.multinomial(logp.exp(), 1, generator=generator)
        return token[:, 0], logp.gather(-1, token)[:, 0]
