"""A Hugging Face model folder as an LM: weights, tokenizer, image processor, and the two forwards
that ZPPO needs.

Everything that knows about Qwen3.5's forward is here, what goes into it in processor.py, so that
the method sees token ids and hidden states only. Text-only models (Llama, Qwen3, ...) load the same
way and simply have no image processor.

    lm = load("assets/student")
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file, is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from loss import mask_logits
from processor import pixels, positions
from runtime.kernels import by_device

# hints about kernels that only a GPU has would bury our own lines
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass
class LM:
    """A loaded model. `banned` ids can't be sampled, and get probability 0 in training too (the
    same distribution).
    """

    net: Any  # the transformers model
    tokenizer: Any
    image_processor: Any  # None for a text-only model
    path: str
    eos_ids: tuple[int, ...]
    banned: torch.Tensor  # int64, on the model's device
    image_id: int = -1  # placeholder ids; -1: the model has none
    video_id: int = -1
    compute: torch.dtype = torch.float32  # of matrix products; the weights themselves stay float32
    max_pixels: int = 0  # larger pictures are scaled down to it; 0: as they are
    aside: dict[str, bytes] = field(default_factory=dict)  # files that are saved as they were read
    cast_head: Any = None  # the head in `compute`, while an engine samples (engines/hf.py)
    sharded: bool = False  # FSDP gathers the weights in `compute`: autocast has nothing left to do

    @property
    def device(self):
        """Where the weights are."""
        return self.net.device

    @property
    def base(self):
        """The net without its head: token ids in, hidden states out."""
        return self.net.base_model

    @property
    def head(self):
        """(V, D) output embedding weight."""
        return self.net.get_output_embeddings().weight

    @property
    def window(self):
        """Longest prompt + response, in tokens."""
        return self.net.config.get_text_config().max_position_embeddings

    def autocast(self):
        """Context in which sampler and trainer alike run their forwards."""
        stored = next(self.net.parameters()).dtype
        if self.sharded or self.compute in (torch.float32, stored):
            return nullcontext()
        return torch.autocast(self.device.type, self.compute)

    def logits(self, hidden):
        """(..., V) logits of (..., D) hidden states in fp32; probability 0 on the banned ids."""
        head = self.head if self.cast_head is None else self.cast_head
        return mask_logits(hidden @ head.T, self.banned)

    def blocks(self):
        """The decoder blocks, in order: what FSDP gathers one after the other."""
        return getattr(self.base, "language_model", self.base).layers

    def n_params(self):
        """Number of parameters, a tied head counted once."""
        return sum(p.numel() for p in self.net.parameters())


def load_parts(path):
    """(config, tokenizer, image processor or None) of a model folder or hub id: all of it but the
    weights.

    Raises ValueError with one line that names the folder and what is missing.
    """
    hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))  # owner/name
    if not hub_id and not Path(path).exists():
        raise ValueError(f"{path}: no such model folder")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as e:
        raise ValueError(
            f"{path}: not a model folder or hub id that transformers can read ({_first_line(e)})"
        ) from e
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as e:
        raise ValueError(
            f"{path}: no tokenizer in this model folder ({_first_line(e)}); "
            f"copy tokenizer.json and tokenizer_config.json there"
        ) from e
    if not tokenizer.chat_template:
        raise ValueError(
            f"{path}: the tokenizer has no chat template; add chat_template.jinja to the folder"
        )
    if not hasattr(config, "vision_config"):
        return config, tokenizer, None
    try:
        return config, tokenizer, AutoImageProcessor.from_pretrained(path, backend="pil")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(
            f"{path}: no image processor in this model folder ({_first_line(e)}); "
            f"copy preprocessor_config.json there"
        ) from e


def _auto_class(config):
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def attention(device):
    """The attention implementation: "flash_attention_2" where the package can be imported and the
    device is a GPU, else PyTorch's own "sdpa".
    """
    if not str(device).startswith("cuda") or not is_flash_attn_2_available():
        return "sdpa"
    try:  # flash-attn 4 has the same module name and not these functions; a build may not load
        from flash_attn import flash_attn_func, flash_attn_varlen_func  # noqa: F401
    except (ImportError, OSError):
        return "sdpa"
    return "flash_attention_2"


def load(path, dtype="float32", device="cpu", masters=True, attend="sdpa"):
    """Load a causal or image-text-to-text model folder (or hub id) with its tokenizer and chat
    template.

    dtype: "float32" or "bfloat16", of the matrix products. masters: the weights are float32 either
    way (in bfloat16 an update of lr 1e-6 is mostly rounded away); False for a model that is not
    trained: they are kept in dtype. attend: the attention implementation. Raises ValueError with
    one line that names the folder and what is missing.
    """
    path = str(path)
    config, tokenizer, image_processor = load_parts(path)
    compute = getattr(torch, dtype)
    stored = torch.float32 if masters else compute
    auto = _auto_class(config)
    try:
        net = auto.from_pretrained(path, dtype=stored, attn_implementation=attend).to(device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise ValueError(f"{path}: the weights do not load ({_first_line(e)})") from e
    lm = from_parts(net, tokenizer, image_processor, path)
    lm.compute = compute
    if image_processor is not None:
        lm.aside = read_aside(path)
    return lm


class NoNet:
    """Stands where the weights would be, for an LM that only reads and measures prompts."""

    def __init__(self, config, generation_config):
        self.config, self.generation_config = config, generation_config
        self.device = torch.device("cpu")

    def eval(self):
        """Nothing to switch off."""

    def modules(self):
        """None."""
        return ()


def count_params(path):
    """Number of parameters of a model folder or hub id, from its config alone."""
    config = load_parts(str(path))[0]
    with torch.device("meta"):
        return sum(p.numel() for p in _auto_class(config).from_config(config).parameters())


def text_side(path):
    """An LM of a model folder or hub id whose weights are elsewhere (behind a server): encode,
    window, end tokens, no forward.

    Raises ValueError as load() does.
    """
    config, tokenizer, image_processor = load_parts(str(path))
    try:
        generation = GenerationConfig.from_pretrained(str(path))
    except OSError:  # a folder without generation_config.json
        generation = GenerationConfig.from_model_config(config)
    return from_parts(NoNet(config, generation), tokenizer, image_processor, str(path))


def from_parts(net, tokenizer, image_processor, path):
    """An LM from its parts (the tiny world makes models without a folder)."""
    by_device(net)
    net.eval()  # no dropout in these models; eval keeps it so when a config says otherwise
    config = net.config
    image_id = getattr(config, "image_token_id", -1)
    video_id = getattr(config, "video_token_id", -1)
    eos = net.generation_config.eos_token_id if net.generation_config else None
    several = eos if isinstance(eos, (list, tuple)) else [eos]
    eos_ids = tuple(sorted({*several, tokenizer.eos_token_id} - {None}))
    if not eos_ids:
        raise ValueError(f"{path}: neither tokenizer nor generation config names an end token")
    # Placeholders break the training forward when sampled; ids beyond the tokenizer are padding of
    # the embedding.
    vocabulary = config.get_text_config().vocab_size
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    vision_ids = {getattr(config, name, None) for name in names} - {None}
    ids = sorted({*vision_ids, *range(len(tokenizer), vocabulary)} - set(eos_ids))
    banned = torch.tensor(ids, dtype=torch.long, device=net.device)
    return LM(net, tokenizer, image_processor, str(path), eos_ids, banned, image_id, video_id)


def save(lm, folder, weights=None):
    """A plain Hugging Face folder: safetensors, config, tokenizer with its template, image
    processor.

    weights: {name: full tensor} where the net itself holds only shards of them.
    """
    lm.net.save_pretrained(folder, state_dict=weights)
    lm.tokenizer.save_pretrained(folder)
    if lm.image_processor is not None:
        lm.image_processor.save_pretrained(folder)
    for name, content in lm.aside.items():
        (Path(folder) / name).write_bytes(content)


def read_aside(path):
    """{name: content} of the files of classes that are not loaded here (the video processor), so
    that servers find them in what is saved. Read at once: the folder may be a checkpoint that is
    gone by then.
    """
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo")}
    quiet["_raise_exceptions_for_connection_errors"] = False
    names = ("video_preprocessor_config.json", "processor_config.json")
    found = {name: cached_file(path, name, **quiet) for name in names}
    return {name: Path(file).read_bytes() for name, file in found.items() if file}


# ---- forward -------------------------------------------------------------------------------------


def features(lm, visions):
    """Vision tower, once per distinct prompt: a list over prompts of {"image": (tokens, D),
    "video": (tokens, D)}.
    """
    out = [{} for _ in visions]
    for kind in ("image", "video"):
        have = [i for i, v in enumerate(visions) if kind in v]
        if not have:
            continue
        values = torch.cat([visions[i][kind][0] for i in have]).to(lm.device)
        grid = torch.cat([visions[i][kind][1] for i in have]).to(lm.device)
        # one (tokens, D) a grid row
        parts = iter(lm.base.get_image_features(values, grid).pooler_output)
        for i in have:
            out[i][kind] = torch.cat([next(parts) for _ in visions[i][kind][1]])
    return out


def hidden_states(lm, ids, mask, pos, feats, rows, cache=None):
    """Hidden states of a padded batch.

    ids, mask: (B, T) int64; pos: (3, B, T) int64; feats: features() of the distinct prompts; rows:
    (B,) index of each row's prompt in feats. cache: a transformers Cache to fill and extend, or
    None. Returns (B, T, D).
    """
    kwargs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": pos if lm.image_processor else pos[0],
    }
    # said either way, or each training forward would fill a cache of its own
    kwargs |= {"past_key_values": cache, "use_cache": cache is not None}
    encoded = {}
    for kind in ("image", "video"):
        parts = [feats[r][kind] for r in rows if kind in feats[r]] if feats else []
        if parts:
            encoded[kind] = BaseModelOutputWithPooling(pooler_output=tuple(parts))
    if encoded:
        kwargs["mm_encoder_outputs"] = encoded
    return lm.base(**kwargs).last_hidden_state


def collate(lm, samples):
    """Right-padded rows prompt + response for training. Returns a dict:

    ids, mask (B, T) int64; pos (3, B, T); target (B, T) bool, True where ids are response tokens
    (the end token inside); visions: vision inputs of the distinct prompts; rows: list of B indices
    into visions.
    """
    prompts = {}  # id of the Prompt object -> (row in visions, positions, next position)
    visions, rows = [], []
    T = max(len(s.prompt.ids) + len(s.response_ids) for s in samples)
    ids = torch.zeros(len(samples), T, dtype=torch.long)
    mask, pos = torch.zeros_like(ids), torch.zeros(3, len(samples), T, dtype=torch.long)
    target = torch.zeros(len(samples), T, dtype=torch.bool)
    for i, s in enumerate(samples):
        if id(s.prompt) not in prompts:
            vision = pixels(lm, s.prompt)
            prompts[id(s.prompt)] = (len(visions), *positions(lm, s.prompt, vision))
            visions.append(vision)
        row, prompt_pos, start = prompts[id(s.prompt)]
        P, R = len(s.prompt.ids), len(s.response_ids)
        ids[i, : P + R] = torch.tensor((*s.prompt.ids, *s.response_ids))
        mask[i, : P + R] = 1  # masks come from lengths, never from ids == pad
        target[i, P : P + R] = True
        pos[:, i, :P] = prompt_pos
        pos[:, i, P : P + R] = torch.arange(start, start + R)
        rows.append(row)
    to = lm.device
    return {
        "ids": ids.to(to),
        "mask": mask.to(to),
        "pos": pos.to(to),
        "target": target.to(to),
        "visions": visions,
        "rows": rows,
    }


def response_hidden(lm, batch, always_look=False):
    """The hidden state BEFORE each response token, and that token: (N, D) and (N,) int64, row by
    row.

    always_look: run the vision tower, with weight zero, also on a batch without images: under FSDP
    a rank whose rows have none would reduce other gradients than the ranks whose rows have some.
    """
    feats = features(lm, batch["visions"])
    h = hidden_states(lm, batch["ids"], batch["mask"], batch["pos"], feats, batch["rows"])
    target = batch["target"][:, 1:]
    hidden = h[:, :-1][target]
    if always_look and not any(batch["visions"]):
        hidden = hidden + 0 * _glance(lm).sum()
    return hidden, batch["ids"][:, 1:][target]


def _glance(lm):
    p = lm.image_processor
    values = torch.zeros(
        p.merge_size**2, 3 * p.temporal_patch_size * p.patch_size**2, device=lm.device
    )
    grid = torch.tensor([[1, p.merge_size, p.merge_size]], device=lm.device)
    return lm.base.get_image_features(values, grid).pooler_output[0]


def _first_line(e):
    return str(e).strip().split("\n")[0][:200]
