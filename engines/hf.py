"""The sampling engine that needs nothing but `transformers`: right on a CPU and in tests, slow on a
GPU.

It samples with the trainer's own net (no second copy, nothing to sync), or with a copy that
sync_weights() keeps up to date. It prefills each prompt once, repeats the cache n times, and drops
rows as they end.

Row j of a prompt with seed s draws its uniforms from its own generator, seed_of(s, j), on the CPU,
and a token is the inverse of the cumulative distribution at the next uniform. So a prompt's samples
are the same alone and in any batch, up to float noise.
"""

import torch
from transformers import DynamicCache
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from engines.base import Engine, seed_of
from loss import mask_logits
from model import features, hidden_states, positions
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
        same = sorted(
            (q for q in self.queue if q[-1] == settings), key=lambda q: len(q[1].ids)
        )  # stable
        size = max(1, self.max_rows // settings[0])
        start = next(i for i, q in enumerate(same) if q is first) // size * size
        batch = same[start : start + size]  # neighbours in length pad each other least
        taken = {id(q) for q in batch}
        self.queue = [q for q in self.queue if id(q) not in taken]
        keys, prompts, visions, seeds, _ = zip(*batch)
        with torch.no_grad(), self.lm.autocast():
            return list(zip(keys, self._batch(prompts, visions, seeds, *settings)))

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.queue)

    def abort(self):
        """Engine.abort"""
        self.queue = []

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
                    f"{self.name}: {name} of shape {tuple(tensor.shape)} does not fit ({have} in the engine)"
                )
            net[name].copy_(tensor)
            written.add(net[name].data_ptr())  # a tied head has two names and one memory
        missing = [name for name, tensor in net.items() if tensor.data_ptr() not in written]
        if missing:
            raise ValueError(
                f"{self.name}: no new weights came for {missing[0]} ({len(missing)} missing)"
            )

    def _batch(
        self,
        prompts,
        visions,
        seeds,
        n,
        max_new_tokens,
        temperature,
        top_p,
        top_k,
        presence_penalty,
    ):
        lm, dev = self.lm, self.lm.device
        N, P = len(prompts), max(len(p.ids) for p in prompts)
        ids, pos = torch.zeros(N, P, dtype=torch.long), torch.zeros(3, N, P, dtype=torch.long)
        mask = torch.zeros_like(ids)
        after = torch.zeros(N, dtype=torch.long)
        for i, (p, v) in enumerate(
            zip(prompts, visions)
        ):  # left-padded, so that all rows decode at one column
            L = len(p.ids)
            prompt_pos, after[i] = positions(lm, p, v)
            ids[i, P - L :], mask[i, P - L :], pos[:, i, P - L :] = (
                torch.tensor(p.ids),
                1,
                prompt_pos,
            )
        cache = DynamicCache(config=lm.net.config.get_text_config())
        h = hidden_states(
            lm, ids.to(dev), mask.to(dev), pos.to(dev), features(lm, visions), range(N), cache
        )[:, -1]
        repeat = torch.arange(N, device=dev).repeat_interleave(
            n
        )  # (N*n,) one row a response from here on
        cache.reorder_cache(repeat)
        h, mask, next_pos = h[repeat], mask.to(dev)[repeat], after.to(dev)[repeat]

        eos = torch.tensor(lm.eos_ids, device=dev)
        alive = torch.arange(N * n, device=dev)  # which response each live row is
        uniforms = draws(seeds, n, max_new_tokens).to(dev) if temperature else None
        tokens = torch.zeros(N * n, max_new_tokens, dtype=torch.long, device=dev)
        logps = torch.zeros(N * n, max_new_tokens, device=dev)
        length = torch.full((N * n,), max_new_tokens, device=dev)
        ended = torch.zeros(N * n, dtype=torch.bool, device=dev)
        penalty = (
            torch.zeros(N * n, lm.head.shape[0], device=dev) if presence_penalty else None
        )  # to take off each logit
        for t in range(max_new_tokens):
            logits = mask_logits(h @ lm.head.T, lm.banned)
            if penalty is not None:
                logits = logits - penalty[alive]
            token, logp = choose(
                logits, uniforms[alive, t] if temperature else None, temperature, top_p, top_k
            )
            tokens[alive, t], logps[alive, t] = token, logp
            if penalty is not None:
                penalty[alive, token] = presence_penalty
            stop = (
                torch.isin(token, eos) & ~ended[alive]
            )  # an ended row may still be decoded for a while
            length[alive[stop]], ended[alive[stop]] = t + 1, True
            live = ~ended[alive]
            if t + 1 == max_new_tokens or not live.any():
                break
            if live.sum() < 0.75 * len(alive):  # ended rows are dropped now and then, not each time
                rows = live.nonzero()[:, 0]
                cache.reorder_cache(rows)
                alive, token, mask, next_pos = alive[rows], token[rows], mask[rows], next_pos[rows]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            h = hidden_states(
                lm, token[:, None], mask, next_pos.expand(3, -1)[:, :, None], None, (), cache
            )[:, -1]
            next_pos = next_pos + 1

        tokens, logps, length, ended = (
            tokens.tolist(),
            logps.tolist(),
            length.tolist(),
            ended.tolist(),
        )
        self.tokens += sum(length)
        samples = [
            Sample(
                prompts[r // n],
                tuple(tokens[r][: length[r]]),
                tuple(logps[r][: length[r]]),
                lm.tokenizer.decode(tokens[r][: length[r]], skip_special_tokens=True),
                not ended[r],
            )
            for r in range(N * n)
        ]
        return [samples[i * n : (i + 1) * n] for i in range(N)]


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
