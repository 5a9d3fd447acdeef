"""What all contenders work on: a model of random weights, prompts, gold answers, rewards."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GenerationConfig, Qwen3_5ForCausalLM, Qwen3_5TextConfig

import model
import tiny
from processor import CLOSER, encode
from records import Prompt
from reward import grade

PRESETS = Path(__file__).parent.parent / "assets/presets"
STEP = Path(__file__).parent / "zppo_step.json"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PADDING = 243  # ids of the real vocabulary that no token has, banned in sampler and trainer alike


def text_config(name, layers=0):
    """The transformers config of a preset, with its first `layers` layers (0: all)."""
    shape = json.loads((PRESETS / f"{name}.json").read_text())
    del shape["about"]
    if name == "tiny":  # its tokenizer grows with the prompt templates
        shape["vocab_size"] = len(tiny.new_tokenizer())
    if layers:
        shape["num_hidden_layers"] = layers
        shape.pop("layer_types", None)
    return Qwen3_5TextConfig(**shape)


def meta_lm(config):
    """A model without storage, for counting: .net and .base as model.LM has them."""
    with torch.device("meta"):
        net = Qwen3_5ForCausalLM(config)
    return SimpleNamespace(net=net, base=net.base_model)


def random_lm(config, cfg):
    """A model.LM of random weights with the tiny world's tokenizer, whose end token can't be drawn:
    lengths are exact.
    """
    torch.manual_seed(0)
    tokenizer = tiny.new_tokenizer()
    with torch.device(cfg.device):
        net = Qwen3_5ForCausalLM(config)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    net.generation_config = GenerationConfig(**ends)
    lm = model.from_parts(net, tokenizer, None, "random")
    banned = [tokenizer.eos_token_id]
    if config.vocab_size > len(tokenizer):
        banned += range(config.vocab_size - PADDING, config.vocab_size)
    lm.banned = torch.tensor(banned, device=cfg.device)
    lm.eos_ids, lm.compute = (-1,), getattr(torch, cfg.dtype)
    if cfg.checkpointing:
        net.gradient_checkpointing_enable()
    return lm


@dataclass(frozen=True)
class Work:
    """One rollout step: n responses of exactly `response` tokens a prompt, then the updates."""

    prompts: list[Prompt]
    texts: list[str]  # the same prompts, for those that tokenize themselves
    golds: list[tuple[str, ...]]
    n: int
    response: int
    iterations: int
    micro_batch: int  # rows of a forward and backward
    flat: tuple[bool, ...] = ()  # which groups of a recorded step had no spread of rewards

    @property
    def tokens(self):
        """Response tokens of the step."""
        return len(self.prompts) * self.n * self.response

    @property
    def longest(self):
        """Tokens of the longest row."""
        return max(len(p.ids) for p in self.prompts) + self.response


def recorded():
    """The groups of bench.record's step, as dicts."""
    return json.loads(STEP.read_text())


def text_reader(tokenizer):
    """What processor.encode takes of a model.LM, for texts."""
    ids = {"eos_ids": (tokenizer.eos_token_id,), "image_id": -1, "video_id": -1}
    return SimpleNamespace(tokenizer=tokenizer, path="", image_processor=None, **ids)


def make_work(cfg, args, response):
    """The Work of one response length: the recorded step's prompt lengths, the tiny world's text
    questions, or random letters.
    """
    tokenizer, flat = tiny.new_tokenizer(), ()
    reader = text_reader(tokenizer)
    if args.recorded:
        rng, groups = random.Random(0), recorded()
        written = ["".join(rng.choices(LETTERS, k=g["prompt"])) for g in groups]
        prompts = [Prompt(tuple(tokenizer(x)["input_ids"])) for x in written]
        assert [len(p.ids) for p in prompts] == [g["prompt"] for g in groups]
        golds, flat = [("1",)] * len(groups), tuple(g["flat"] for g in groups)
    elif args.student == "tiny":
        asked = tiny.questions("heldout_text")[: args.prompts]
        prompts = [encode(reader, q.question + CLOSER) for q in asked]
        golds = [q.golds for q in asked]
    else:
        rng = random.Random(0)
        written = ["".join(rng.choices(LETTERS, k=args.prompt)) for _ in range(args.prompts)]
        prompts = [Prompt(tuple(tokenizer(x)["input_ids"])) for x in written]
        golds = [("1",)] * args.prompts
    texts = [tokenizer.decode(p.ids) for p in prompts]
    again = [tuple(ids) for ids in tokenizer(texts)["input_ids"]]
    assert again == [p.ids for p in prompts], "TRL would read other prompts"
    sizes = cfg.group_size, response, cfg.iterations, args.micro_batch
    return Work(prompts, texts, golds, *sizes, flat)


def rewards(texts, golds, n, flat=0):
    """Grades each text, then returns rewards with spread in every group, or in only every flat-th
    one; flat may say of each group whether it is.

    Random weights solve nothing: the grader is called for its cost, its verdict replaced.
    """
    for i, text in enumerate(texts):
        grade(text, golds[i // n])
    return spread_rewards(len(texts), n, flat)


def spread_rewards(rows, n, flat=0):
    """0, 1, 0, 1, ...; with `flat`, all 1 in the groups that are not the flat-th."""
    groups = range(rows // n)
    if not isinstance(flat, tuple):
        flat = tuple(bool(flat) and k % flat != flat - 1 for k in groups)
    flat = flat or (False,) * len(groups)
    return [1.0 if flat[i // n] else float(i % 2) for i in range(rows)]
