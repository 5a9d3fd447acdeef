"""The tokenizer and a random model of the tiny world: real Qwen3.5 classes, 0.84 M parameters.

Every literal stretch of our prompts is one token, so that the paper's long instructions cost this
model nothing. Edit a template (processor.CLOSER, reformulate.BCQ, ...) and the shipped checkpoints
read it letter by letter, as they never did before: make them again with `python -m tiny`.
"""

import string

import torch
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
)

import model
from baselines import HINT
from processor import CLOSER
from reformulate import BCQ, CANDIDATE, NCQ, NCQ_NO_ANSWERS, TAGS
from teacher import COMPRESS
from teacher import HINT as ASK_HINT
from tiny.world import ASK, COPY, GENERAL, SIDE

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Qwen3.5's format: role turns, one pad an image or video, and a generation prompt that opens
# <think> or closes it empty.
TEMPLATE = r"""
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{- message.content }}
{%- else %}{%- for item in message.content %}
{%- if item.type in ('image', 'video') %}
{{- '<|vision_start|><|' + item.type + '_pad|><|vision_end|>' }}
{%- else %}{{- item.text }}{%- endif %}{%- endfor %}{%- endif %}
{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '\n</think>\n\n' }}{%- endif %}{%- endif %}
""".replace("\n", "")


def phrases():
    """The tags, timestamps and literal stretches of our prompts that become one token each."""
    parts = ["user\n", "assistant\n", "\\boxed{", COPY, GENERAL, *ASK.values(), CLOSER]
    for template in (BCQ, NCQ, NCQ_NO_ANSWERS, HINT, CANDIDATE, COMPRESS, ASK_HINT):
        parts += [literal for literal, *_ in string.Formatter().parse(template)]
    stamps = [f"<{2 * i + 0.5:.1f} seconds>" for i in range(3)]
    return [p for p in dict.fromkeys([*TAGS, *stamps, *parts]) if len(p) > 1]


def new_tokenizer():
    """Qwen3.5's tokenizer class with printable ASCII as its bytes and no merges; other characters
    are dropped.
    """
    # byte-level BPE writes space as \u0120 and newline as \u010a
    letters = [*map(chr, range(33, 127)), "\u0120", "\u010a"]
    tokenizer = Qwen3_5Tokenizer(
        vocab={c: i for i, c in enumerate(letters)},
        merges=[],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": CONTROL})
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in phrases()])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "initializer_range": 0.08,  # at 0.02 the digits take twice as long to read
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 1,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_heads": 1,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": 16,
    "initializer_range": 0.08,
}


def new_model(seed):
    """A random model.LM of 0.84 M parameters; the same seed gives the same weights."""
    tokenizer = new_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3_5Config(
        text_config=TEXT | ends | {"vocab_size": len(tokenizer)},
        vision_config=VISION,
        tie_word_embeddings=True,
        initializer_range=0.08,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    net = Qwen3_5ForConditionalGeneration(config)
    net.generation_config = GenerationConfig(**ends)
    images = Qwen2VLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": SIDE * SIDE, "longest_edge": 64 * SIDE * SIDE},
    )
    return model.from_parts(net, tokenizer, images, "tiny")
