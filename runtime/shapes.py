"""What a model's memory depends on, from its config alone: a preset by name, or a folder's or hub
id's config.json.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Qwen3_5Config,
)

from config import DISTILL, HERE, needs_teacher

# depth, width, MLP width of the vision towers; 0.8b gives the published 853 M parameters with it
VISION = {"0.8b": (12, 768, 3072), "2b": (24, 1024, 4096), "4b": (24, 1024, 4096)}
VISION |= {"9b": (27, 1152, 4304), "27b": (27, 1152, 4304)}
SERVED = {"27b": 31e9}  # bytes of a checkpoint that is not bfloat16 (FP8)


@dataclass(frozen=True)
class Shape:
    """What a model's memory depends on."""

    params: int
    served: float  # bytes of its weights in vLLM
    block: int  # parameters of the largest decoder block
    depth: int
    hidden: int
    vocab: int
    window: int
    root: int  # parameters outside of the decoder blocks
    ratios: tuple  # MLP width and value heads' width, in hidden widths
    kv: int  # bytes a token and full-attention layer
    full: int  # full-attention layers
    linear: int  # linear-attention layers
    state: int  # bytes a sequence and linear-attention layer
    vision: tuple  # depth, width
    vision_params: int  # of the vision tower, merger included

    def width(self, last):
        """Hidden widths that autograd saves in a block; last: the factor of the value heads."""
        mlp, values = self.ratios
        return 12 + 4 * mlp + last * values

    @property
    def block_tokens(self):
        """Tokens of a vLLM cache block."""
        return math.ceil(self.state / self.kv / 16) * 16 if self.linear else 16

    @property
    def block_bytes(self):
        """Bytes of a cache block, over the layers that share it."""
        return self.block_tokens * self.kv * self.full

    @property
    def state_blocks(self):
        """Cache blocks of a sequence's recurrent states."""
        return math.ceil(self.linear / self.full)


def preset(name):
    """The transformers config of assets/presets/NAME.json, with its vision tower."""
    text = json.loads((HERE / f"assets/presets/{name}.json").read_text())
    del text["about"]
    names = ("depth", "hidden_size", "intermediate_size", "out_hidden_size")
    vision = dict(zip(names, (*VISION[name], text["hidden_size"])))
    tied = text["tie_word_embeddings"]
    return Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=tied)


@lru_cache
def named_shape(name, path):
    """The Shape of a model by name (a preset), or of a folder or hub id (its config.json). Raises
    ValueError.
    """
    if name in VISION:
        return shape_of(preset(name), SERVED.get(name))
    try:
        return shape_of(AutoConfig.from_pretrained(path))
    except (OSError, ValueError, KeyError) as e:
        why = str(e).strip().splitlines()[0][:120]
        raise ValueError(f"--plan: no config of {path} ({why}); a plan needs only that") from e


def shape_of(config, served=None):
    """The Shape of a transformers config; served: bytes of its checkpoint, where not bfloat16."""
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        net = auto.from_config(config)
    base = net.base_model
    layers = getattr(base, "language_model", base).layers
    count = lambda module: sum(p.numel() for p in module.parameters())
    sizes, params = [count(block) for block in layers], count(net)
    t = config.get_text_config()
    heads = getattr(t, "head_dim", None) or t.hidden_size // t.num_attention_heads
    linear = sum(kind == "linear_attention" for kind in getattr(t, "layer_types", None) or ())
    state, values = 0, t.num_attention_heads * heads
    if linear:
        values = t.linear_num_value_heads * t.linear_value_head_dim
        keys = t.linear_num_key_heads * t.linear_key_head_dim
        window = (t.linear_conv_kernel_dim - 1) * (2 * keys + values)
        state = 4 * values * t.linear_key_head_dim + 2 * window
    vision = getattr(config, "vision_config", None)
    return Shape(
        params,
        served or 2 * params,
        max(sizes),
        len(sizes),
        t.hidden_size,
        t.vocab_size,
        t.max_position_embeddings,
        params - sum(sizes),
        (t.intermediate_size / t.hidden_size, values / t.hidden_size),
        2 * 2 * heads * getattr(t, "num_key_value_heads", t.num_attention_heads),
        len(sizes) - linear,
        linear,
        state,
        (vision.depth, vision.hidden_size) if hasattr(vision, "depth") else (0, 0),
        count(net.get_encoder(modality="image")) if vision else 0,
    )


def teacher_shape(cfg):
    """The Shape of the teacher whose weights this run loads, else None. Raises ValueError."""
    if cfg.teacher_url or not (needs_teacher(cfg) or cfg.method in DISTILL):
        return None
    if cfg.teacher == "27b" and cfg.method in DISTILL:  # read in bfloat16
        return shape_of(preset("27b"))
    return named_shape(cfg.teacher, cfg.teacher_path)
