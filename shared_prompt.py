"""A group's prompt is computed once, and all of its responses against it.

ZPPO samples every prompt several times (G = 8 or 16), and its own BCQ and NCQ prompts, which show
candidates, are the longest by far. As rows of prompt + response, a prompt is computed as often as
it was answered. Here one forward has two passes: the distinct prompts of a micro-batch, each once;
then the responses, which start from what every block kept of their prompt, with its graph:

* an attention block keeps keys and values;
* a gated-DeltaNet block keeps the last columns of its convolution, and its recurrent state.

Both passes lie in one forward of the policy, as FSDP wants it. The gradients of all responses add
up in what was kept, and go through the prompt once. It is exact: the log-probs and gradients of
full rows, but for the order of additions (tests/test_shared_prompt.py).

    lm.share_prompts = trial(lm) == ""               # else the text says why not
    hidden, tokens = response_states(lm, samples)    # as model.response_hidden of full rows

transformers' own caches are made for sampling: they overwrite states that the backward pass needs,
and activation checkpointing drops them. So each block gets a cache of one layer of its own
(KeepsAttention, KeepsDeltaNet), made from what came in and thrown away: states are inputs and
outputs of the block, so that a checkpointed block can be computed again without a trace. What a
model needs for this can't be read off its config; `trial` runs it both ways.
"""

from contextlib import ExitStack, contextmanager

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer, get_layer_types_and_kwargs

from model import collate, features, glance, hidden_states, response_hidden
from processor import pixels, positions
from records import Prompt, Sample

TOLERANCE = {torch.float32: 1e-4}  # of the trial, relative; float32 is near 1e-6
ROUNDED = 0.05  # of the same in bfloat16, where other additions give other roundings
TRIED = ((70, (5, 1, 3)), (9, (2,)))  # prompt lengths of the trial, each with its responses'


class KeepsAttention(DynamicLayer):
    """Keys and values of one attention block, (B, heads, tokens, width) each."""

    def __init__(self, states=()):
        super().__init__()
        if states:
            self.keys, self.values = states
            self.is_initialized = True

    def update(self, keys, values, *args, **kwargs):
        """Called by the block: what it shall attend to."""
        if self.is_initialized:
            keys = torch.cat([self.keys, keys], dim=-2)
            values = torch.cat([self.values, values], dim=-2)
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values

    @property
    def states(self):
        """What a later pass starts from."""
        return (self.keys, self.values) if self.is_initialized else ()


class KeepsDeltaNet(LinearAttentionLayer):
    """Convolution columns (B, channels, kernel) and recurrent state (B, heads, keys, values) of one
    gated-DeltaNet block; replaced, never written to.
    """

    def __init__(self, states=()):
        super().__init__()
        if states:
            self.conv_states[0], self.recurrent_states[0] = states
            self.has_previous_state[0] = True

    def update_conv_state(self, columns, state_idx=0, conv_kernel_size=None, **kwargs):
        """Called by the block: its new columns behind those before them."""
        before = self.conv_states[0]
        if before is None:
            before = columns.new_zeros(*columns.shape[:-1], conv_kernel_size)
        columns = torch.cat([before, columns], dim=-1)
        # cloned: a view would keep the columns of the whole prompt
        self.conv_states[0] = columns[..., -before.shape[-1] :].clone()
        self.has_previous_state[0] = True
        return columns

    def update_recurrent_state(self, state, state_idx=0, **kwargs):
        """Called by the block at its end."""
        self.recurrent_states[0] = state
        return state

    @property
    def states(self):
        """What a later pass starts from."""
        kept = self.conv_states[0], self.recurrent_states[0]
        return kept if self.has_previous_state[0] else ()


KEEPS = {"full_attention": KeepsAttention, "linear_attention": KeepsDeltaNet}


def empty_cache(lm):
    """A Cache of nothing yet, one layer a block. Raises ValueError for a kind of block whose states
    can't be handed on here (a sliding window, several states a block, ...).
    """
    kinds, details = get_layer_types_and_kwargs(lm.net.config.get_text_config(decoder=True))
    for kind, detail in zip(kinds, details):
        if kind not in KEEPS or detail.get("number_of_states", 1) != 1:
            raise ValueError(f"its blocks of kind {kind} are not known here")
    if len(kinds) != len(lm.blocks()):
        raise ValueError("some of its blocks share their keys and values")
    return Cache(layers=[KEEPS[kind]() for kind in kinds])


# ---- the two passes ------------------------------------------------------------------------------


@contextmanager
def keeping_states(lm, cache, repeat=None):
    """Inside, each block of the LM reads its states from `cache`, a Cache of KEEPS layers.

    repeat None: the first pass, which puts them there. repeat: (rows,) int64, the prompt of each
    row: the second pass, which repeats them inside of the block, where checkpointing frees them.
    """
    with ExitStack() as undo:
        for index, block in enumerate(lm.blocks()):
            own = getattr(
                block, "gradient_checkpointing", False
            )  # transformers' own, without states
            again = own and block.training and torch.is_grad_enabled()
            if own:
                block.gradient_checkpointing = False
                undo.callback(setattr, block, "gradient_checkpointing", True)
            block.forward = _with_states(block.forward, index, cache, repeat, again)
            undo.callback(delattr, block, "forward")  # uncovers the class's
        yield


def _with_states(plain, index, cache, repeat, again):
    """The forward of a block with its states as inputs and outputs; again: checkpointed."""
    keeps = type(cache.layers[index])

    def forward(hidden, *args, past_key_values, **kwargs):
        def block(hidden, *states):
            if repeat is not None:
                states = [s.index_select(0, repeat) for s in states]
            layer = keeps(states)
            only = Cache(layers=[layer] * (index + 1))  # the block looks at its own place
            out = plain(hidden, *args, past_key_values=only, **kwargs)
            return (out, *layer.states) if repeat is None else out

        states = cache.layers[index].states
        out = (
            checkpoint(block, hidden, *states, use_reentrant=False)
            if again
            else block(hidden, *states)
        )
        if repeat is not None:
            return out
        hidden, *kept = out
        cache.layers[index] = keeps(kept)
        return hidden

    return forward


class _Bridge(torch.autograd.Function):
    """From the first pass to the second: hands on what was kept, and goes back through the first
    pass in a backward pass of its own, when all gradients of what was kept are there.

    In one graph, autograd holds each weight's gradient from the second pass until it can add the
    first pass's: a copy of the whole model's gradients, under FSDP unsharded.
    """

    @staticmethod
    def forward(ctx, kept, anchor):
        ctx.kept = kept
        ctx.set_materialize_grads(False)
        return tuple(x.detach() for x in kept)

    @staticmethod
    def backward(ctx, *grads):
        pairs = [(x, g) for x, g in zip(ctx.kept, grads) if x.requires_grad and g is not None]
        ctx.kept = None
        torch.autograd.backward(*zip(*pairs))
        return None, None


def _bridged(last, cache):
    """The last hidden states of the first pass, and the cache that it filled, behind a _Bridge."""
    if not last.requires_grad:
        return last, cache
    kept = [last, *(x for layer in cache.layers for x in layer.states)]
    last, *states = _Bridge.apply(kept, torch.zeros((), requires_grad=True))
    pairs = zip(states[::2], states[1::2])  # each kind of block keeps two
    return last, Cache(layers=[type(layer)(pair) for layer, pair in zip(cache.layers, pairs)])


def response_states(lm, samples, always_look=False):
    """The hidden state BEFORE each response token, and that token: (N, D) and (N,) int64, row by
    row in the order of the samples; model.response_hidden's, with shared prompts where the LM has
    them.

    Samples of one prompt hold the same Prompt object. always_look: see model.response_hidden.
    """
    if not lm.share_prompts:
        return response_hidden(lm, collate(lm, samples), always_look)
    batch = collate_shared(lm, samples)
    cache, N = empty_cache(lm), len(batch["prompt_ids"])
    feats = features(lm, batch["visions"])
    with keeping_states(lm, cache):
        inputs = batch["prompt_ids"], batch["prompt_mask"], batch["prompt_pos"]
        last = hidden_states(lm, *inputs, feats, range(N), cache)[:, -1]  # before any first token
    last, cache = _bridged(last, cache)
    with keeping_states(lm, cache, batch["repeat"]):
        inputs = batch["ids"], batch["mask"], batch["pos"]
        later = hidden_states(lm, *inputs, None, (), cache)
    hidden = torch.cat([last[batch["repeat"], None], later], dim=1)[batch["target"]]
    if always_look and not any(batch["visions"]):
        hidden = hidden + 0 * glance(lm).sum()
    return hidden, batch["tokens"]


def collate_shared(lm, samples):
    """The inputs of both passes, B samples of N distinct prompts. A dict:

    prompt_ids (N, P) int64, left-padded, so that all end in one column; prompt_pos (3, N, P);
    prompt_mask (N, P), None where no prompt is padded; visions: vision inputs of the prompts;
    repeat (B,) int64: each sample's prompt; ids (B, T), right-padded responses without their last
    token, which nothing follows; pos (3, B, T); mask (B, P + T) or None; target (B, 1 + T) bool:
    which hidden states stand before a response token; tokens (N,) int64: these, row by row.
    """
    prompts = list({id(s.prompt): s.prompt for s in samples}.values())
    places = {id(prompt): i for i, prompt in enumerate(prompts)}
    visions = [pixels(lm, p) for p in prompts]
    N, P = len(prompts), max(len(p.ids) for p in prompts)
    prompt_ids = torch.zeros(N, P, dtype=torch.long)
    mask, prompt_pos = torch.zeros_like(prompt_ids), torch.zeros(3, N, P, dtype=torch.long)
    after = torch.zeros(N, dtype=torch.long)  # the position of a first response token
    for i, (prompt, vision) in enumerate(zip(prompts, visions)):
        start = P - len(prompt.ids)
        prompt_ids[i, start:] = torch.tensor(prompt.ids)
        mask[i, start:] = 1
        prompt_pos[:, i, start:], after[i] = positions(lm, prompt, vision)
    repeat = torch.tensor([places[id(s.prompt)] for s in samples])
    lengths = torch.tensor([len(s.response_ids) for s in samples])
    # two columns at least: one alone is decoding to a DeltaNet block, which writes in place then
    B, T = len(samples), max(2, int(lengths.max()) - 1)
    ids = torch.zeros(B, T, dtype=torch.long)
    for i, s in enumerate(samples):
        ids[i, : max(0, len(s.response_ids) - 1)] = torch.tensor(s.response_ids[:-1])
    padded = not bool(mask.all())
    batch = {
        "prompt_ids": prompt_ids,
        "prompt_mask": mask if padded else None,
        "prompt_pos": prompt_pos,
        "repeat": repeat,
        "ids": ids,
        "pos": (after[repeat, None] + torch.arange(T)).expand(3, B, T),
        "mask": torch.cat([mask[repeat], mask.new_ones(B, T)], dim=1) if padded else None,
        "target": torch.arange(1 + T) < lengths[:, None],
        "tokens": torch.tensor([t for s in samples for t in s.response_ids], dtype=torch.long),
    }
    batch = {name: None if x is None else x.to(lm.device) for name, x in batch.items()}
    return batch | {"visions": visions}


# ---- can this model do it? -----------------------------------------------------------------------


def trial(lm):
    """Run an LM, not yet sharded, on a few random tokens both ways; compare hidden states and the
    gradients that go through what was kept. Returns "" where they agree, else why prompts are to be
    repeated. lm.share_prompts is left as it was.
    """
    before = lm.share_prompts
    try:
        rows, shared = (_tried(lm, share) for share in (False, True))
    except Exception as e:  # whatever a model makes of a cache that it does not know
        return (str(e).strip() or type(e).__name__).splitlines()[0][:120]
    finally:
        lm.share_prompts = before
    far = lambda a, b: float((a.float() - b.float()).norm() / a.float().norm().clamp(min=1e-12))
    # the worst token's hidden state, and the gradients
    error = max(*map(far, rows[0], shared[0]), *map(far, rows[1:], shared[1:]))
    if error <= TOLERANCE.get(lm.compute, ROUNDED):  # false for nan as well
        return ""
    return f"log-probs or gradients were off by {error:.1g} on random tokens"


def decide(models, world):
    """Set share_prompts of the LMs, of all or of none, alike on every rank. Returns why not, or "".
    Every rank calls this.
    """
    reasons = world.all_gather(lambda: [trial(lm) for lm in models])
    why = next((text for part in reasons for text in part if text), "")
    for lm in models:
        lm.share_prompts = not why
    return why


def _tried(lm, share):
    """Hidden states of random samples, (tokens, D) each, and the gradient that reaches the prompts'
    embeddings from what comes after the first response token: all of it through what was kept.
    """
    lm.share_prompts = share
    samples, embedding = _random_samples(lm), lm.net.get_input_embeddings().weight
    others = [p for p in lm.net.parameters() if p.requires_grad and p is not embedding]
    with torch.set_grad_enabled(embedding.requires_grad), _without_grad(others):
        with lm.autocast():
            hidden, _ = response_states(lm, samples)
        if not embedding.requires_grad:
            return (hidden,)
        # a random weighing: the final norm makes a plain sum of squares the same for any input
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
        later = torch.tensor([i > 0 for s in samples for i in range(len(s.response_ids))])
        (hidden.float() * (weights * later[:, None]).to(hidden.device)).sum().backward()
    grad, embedding.grad = embedding.grad, None
    return hidden.detach(), grad[sorted({i for s in samples for i in s.prompt.ids})]


@contextmanager
def _without_grad(parameters):
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def _random_samples(lm):
    """Samples of the lengths in TRIED; no token of a prompt stands in a response."""
    random = torch.Generator().manual_seed(0)
    banned = {*lm.banned.tolist(), lm.image_id, lm.video_id}
    allowed = [i for i in range(min(1000, len(lm.head))) if i not in banned]

    def tokens(n, half):
        places = torch.randint(len(allowed) // 2, (n,), generator=random)
        return tuple(allowed[2 * i + half] for i in places.tolist())

    samples = []
    for length, responses in TRIED:
        prompt = Prompt(tokens(length, 0))
        samples += [Sample(prompt, tokens(n, 1), (0.0,) * n, "", False) for n in responses]
    return samples
