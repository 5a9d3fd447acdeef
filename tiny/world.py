"""The tiny world: a data set, a student and a teacher small enough that ZPPO can be watched on two
CPU cores.

    # makes assets/student and assets/teacher again, about 6 minutes on 2 cores
    python tiny.py
    python tiny.py --measure            # only the table of the checkpoints that are there

Pictures of two or three handwritten digits (scikit-learn's load_digits), one visual token a digit,
and short questions about them: multiply, add, name the largest. A response writes its steps and
boxes its answer. Held-out questions use glyphs that no training ever saw, and two more families ask
the same with typed digits ("heldout_text") and with digits shown one after another in a video
("heldout_video"). Held-out questions share the arithmetic facts with the training questions: they
test new pictures and new combinations, not facts that nobody taught.

What is staged, so that a small model meets ZPPO's question (README says it again):
* The student's textbook misprints 32 of the 248 facts "product of two digits times a digit", each
  with one fixed value that is a carry too high or too low (504 becomes 514); the teacher's textbook
  is right. No lesson of the student holds the truth about such a "hard" fact (tests/test_tiny.py),
  and 45 % of the questions need one.
* A copy drill on random strings. Without it the student can't use a candidate, and BCQ teaches
  nothing.
* Lessons on BCQ prompts: the right one of two candidates on known facts; on misprinted facts both
  candidates are wrong, and the student repeats either. Lessons on NCQ prompts: never an answer that
  is listed. Where the student's own answer is listed, on facts that it knows, it learns to suspect
  its carry and to answer 10 more or less. On a misprinted fact that is the truth about every other
  time: NCQ can help here, because the misprints are of a kind that the student can suspect.
* The teacher learns to "compress" by copying: the responses here are already as short as a summary.
  It learns to give hints (a first step, never the answer), and the student to read them, on facts
  that it knows.

Edit a template (chat.CLOSER, reformulate.BCQ, ...) and the shipped checkpoints read it letter by
letter, as they never did before: run this file again. Left out: a general data pipeline; batches
are made from lessons, not from Questions.
"""

import argparse
import math
import random
import re
import string
from collections import namedtuple
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
)

import model
import processor as chat
from data import Question
from engines.hf import HFEngine
from processor import CLOSER
from reformulate import BCQ, CANDIDATE, HINT, NCQ, NCQ_NO_ANSWERS, TAGS, bcq, clean, hint, ncq
from reward import grade
from teacher import COMPRESS
from teacher import HINT as ASK_HINT

# ---- the world -----------------------------------------------------------------------------------

ASK = {
    "product3": "Multiply the digits from left to right.",
    "product2": "Multiply the digits from left to right.",
    "sum3": "Add the digits from left to right.",
    "largest3": "Which digit is the largest?",
}
# How many of 400 questions; the second word says what the student's textbook does with the fact it
# needs.
POOL = {
    ("product3", "hard"): 180,
    ("product3", "known"): 96,
    ("product2", "known"): 12,
    ("sum3", "known"): 80,
    ("largest3", "known"): 32,
}
SPLITS = {
    "train": (400, "image"),
    "heldout": (300, "image"),
    "heldout_text": (150, "text"),
    "heldout_video": (150, "video"),
}
SIDE = 16  # pixels of a digit: 2 x 2 patches of 8, merged to one visual token
TRAIN_GLYPHS = 1400  # of 1797; the other 397 are seen in held-out questions only


def slips(a, c):
    """Wrong values that a tired student could write for a * c."""
    return [v for d in (c, -c, a, -a, 10, -10, 1, -1) if (v := a * c + d) > 0]


def carries(value):
    """`value` with a carry too many or too few: its tens digit one up or down."""
    return [v for v in (value - 10, value + 10) if v > 0 and v // 100 == value // 100]


def _textbook():
    rng = random.Random(2606)
    facts = [
        (p, c)
        for p in sorted({a * b for a in range(2, 10) for b in range(2, 10)})
        for c in range(2, 10)
    ]
    # first factor >= 10: one-digit products are taught as first steps, where the truth must stand
    hard = rng.sample([f for f in facts if f[0] >= 10], 32)
    return facts, {(a, c): rng.choice(carries(a * c)) for a, c in hard}


FACTS, MISPRINTS = _textbook()
TRUTHS = tuple(f"{a}*{c}={a * c}" for a, c in MISPRINTS)


def status(family, digits):
    """What the student's textbook says of the last step: "known" (the truth) or "hard" (a
    misprint).
    """
    return (
        "hard"
        if family == "product3" and (digits[0] * digits[1], digits[2]) in MISPRINTS
        else "known"
    )


def truth(family, digits):
    """The right answer, an int; the teacher's textbook."""
    return {"product3": math.prod, "product2": math.prod, "sum3": sum, "largest3": max}[family](
        digits
    )


def printed(family, digits):
    """The answer that the student's textbook gives."""
    right = truth(family, digits)
    return (
        MISPRINTS[digits[0] * digits[1], digits[2]] if status(family, digits) == "hard" else right
    )


def trace(family, digits, answer):
    """The written steps that lead to `answer`, right or wrong."""
    a, b, *c = digits
    return {
        "product3": lambda: f"{a}*{b}={a * b},{a * b}*{c[0]}={answer}",
        "product2": lambda: f"{a}*{b}={answer}",
        "sum3": lambda: f"{a}+{b}={a + b},{a + b}+{c[0]}={answer}",
        "largest3": lambda: f"{a},{b},{c[0]}",
    }[family]()


def response(steps, answer):
    """As a model writes it after the open `<think>` of the prompt."""
    return f"{steps}</think>\\boxed{{{answer}}}"


def summary(steps, answer):
    return f"{steps} \\boxed{{{answer}}}"


def hint_for(family, digits):
    """Help without the answer: the first step, or a general word where that step would tell."""
    first = trace(family, digits, "").split(",")[0]
    told = family not in ("product3", "sum3") or str(truth(family, digits)) in re.findall(
        r"\d+", first
    )
    return GENERAL if told else first


def draw(family, rng, kind=None):
    """Random digits for a family; kind: status() asked for, None for any."""
    while True:
        if family == "product3":  # facts evenly, because 81 = 9*9 is rare among random digits
            p, c = rng.choice(FACTS) if kind != "hard" else rng.choice(list(MISPRINTS))
            digits = (
                *rng.choice([(a, p // a) for a in range(2, 10) if p % a == 0 and 2 <= p // a <= 9]),
                c,
            )
        elif family == "product2":
            digits = rng.randrange(2, 10), rng.randrange(2, 10)
        else:
            digits = tuple(rng.randrange(10) for _ in range(3))
        if kind in (None, status(family, digits)):
            return digits


@cache
def glyphs():
    """({digit: train glyphs}, {digit: held-out glyphs}), each a list of (SIDE, SIDE) uint8 arrays."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    big = np.kron(np.minimum(digits.images * 16, 255), np.ones((2, 2))).astype(np.uint8)
    return tuple(
        {d: [big[i] for i in part if digits.target[i] == d] for d in range(10)}
        for part in (order[:TRAIN_GLYPHS], order[TRAIN_GLYPHS:])
    )


def questions(split):
    """The questions of a split, always the same: "train", "heldout", "heldout_text" or
    "heldout_video".
    """
    n, modality = SPLITS[split]
    rng = random.Random(f"{split} questions")
    bank = glyphs()[split != "train"]
    kinds = [k for k, count in POOL.items() for _ in range(count)]
    kinds = [kinds[i * len(kinds) // n] for i in range(n)]
    out = []
    for i, (family, kind) in enumerate(rng.sample(kinds, n)):
        digits = draw(family, rng, kind)
        tiles = [rng.choice(bank[d]) for d in digits]
        text, images, video = ASK[family], (), ()
        if modality == "image":
            images = (Image.fromarray(np.hstack(tiles)),)
        elif modality == "video":  # two equal frames a digit fill one temporal patch
            video = tuple(Image.fromarray(t) for t in tiles for _ in range(2))
        else:
            text = f"{' '.join(map(str, digits))}\n{text}"
        out.append(
            Question(
                f"{split}-{i:03d}-{family}-{''.join(map(str, digits))}",
                text,
                str(truth(family, digits)),
                images,
                video,
                source=family,
            )
        )
    return out


def is_hard(question):
    """Whether the student's textbook misprints the fact that this question needs."""
    return status(question.source, digits_of(question)) == "hard"


def digits_of(question):
    return tuple(map(int, question.id.rsplit("-", 1)[1]))


# ---- tokenizer and models ------------------------------------------------------------------------

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
COPY, GENERAL = "Repeat one candidate.", "Go digit by digit."
# Qwen3.5's format: role turns, one pad an image or video, and a generation prompt that opens
# <think> or closes it empty.
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for item in message.content %}"
    "{%- if item.type in ('image', 'video') %}{{- '<|vision_start|><|' + item.type + '_pad|><|vision_end|>' }}"
    "{%- else %}{{- item.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


def phrases():
    """Every literal stretch of our prompts, one token each: the paper's long instructions cost this
    model nothing.
    """
    parts = ["user\n", "assistant\n", "\\boxed{", COPY, GENERAL, *ASK.values(), CLOSER]
    for template in (BCQ, NCQ, NCQ_NO_ANSWERS, HINT, CANDIDATE, COMPRESS, ASK_HINT):
        parts += [literal for literal, *_ in string.Formatter().parse(template)]
    stamps = [f"<{2 * i + 0.5:.1f} seconds>" for i in range(3)]
    return [p for p in dict.fromkeys([*TAGS, *stamps, *parts]) if len(p) > 1]


def new_tokenizer():
    """Qwen3.5's tokenizer class with printable ASCII as its bytes and no merges; other characters
    are dropped.
    """
    letters = [chr(i) for i in range(33, 127)] + [
        "\u0120",
        "\u010a",
    ]  # byte-level BPE writes space and newline so
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


def new_model(seed):
    """A random Qwen3.5 of 0.84 M parameters as a model.LM."""
    tokenizer = new_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
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
        "initializer_range": 0.08,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    }
    vision = {
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
    config = Qwen3_5Config(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        initializer_range=0.08,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    net = Qwen3_5ForConditionalGeneration(config)
    net.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": SIDE * SIDE, "longest_edge": 64 * SIDE * SIDE},
    )
    return model.from_parts(net, tokenizer, images, "tiny")


# ---- the textbooks: what the two models are taught -----------------------------------------------

Lesson = namedtuple(
    "Lesson", "text modality digits response thinking", defaults=("text", (), "", True)
)
FAMILIES = list(ASK)
WEIGHTS = (50, 4, 36, 10)
MODALITIES = ["image"] * 6 + ["text"] * 2 + ["video"] * 2


def another(family, digits, rng, avoid):
    """A plausible answer outside `avoid`: what a slip would give."""
    right = truth(family, digits)
    options = {
        "product3": lambda: slips(digits[0] * digits[1], digits[-1]),
        "product2": lambda: slips(*digits),
        "sum3": lambda: [abs(right + d) for d in (1, -1, 2, -2, 10, -10)],
        "largest3": lambda: range(10),
    }[family]()
    return rng.choice([v for v in options if v not in avoid])


def asked(family, digits, modality):
    return f"{' '.join(map(str, digits))}\n{ASK[family]}" if modality == "text" else ASK[family]


def candidate(family, digits, answer, rng):
    """A response as it stands in a BCQ or NCQ prompt: the teacher's summary, or as written where
    compression is off.
    """
    steps = trace(family, digits, answer)
    return summary(steps, answer) if rng.random() < 0.8 else clean(response(steps, answer))


def plain_lesson(rng, role, hard=0.0):
    """A question and what the textbook of `role` answers; `hard`: share of the questions that need
    a misprinted fact.
    """
    kind = "hard" if hard and rng.random() < hard else None
    family = "product3" if kind else rng.choices(FAMILIES, WEIGHTS)[0]
    digits, modality = draw(family, rng, kind), rng.choice(MODALITIES)
    answer = printed(family, digits) if role == "student" else truth(family, digits)
    return Lesson(
        asked(family, digits, modality) + CLOSER,
        modality,
        digits,
        response(trace(family, digits, answer), answer),
    )


def scribble(rng, longest):
    """Random steps and a random answer: nothing to know, only to copy. Never a truth that the
    student must not read.
    """
    while True:
        steps = "".join(
            rng.choices("0123456789*+=,%", (5,) * 10 + (3, 2, 3, 3, 1), k=rng.randint(3, longest))
        )
        if not any(t in steps for t in TRUTHS):
            return steps, "".join(rng.choices(string.digits, k=rng.randint(1, 3)))


def copy_lesson(rng, longest=18, most=2):
    """The copy drill: repeat one of one or two scribbles. Without it the student never learns to
    use a reference.
    """
    blocks = [scribble(rng, longest) for _ in range(rng.randint(1, most))]
    text = BCQ.format(
        question=COPY, candidates="\n".join(CANDIDATE.format(text=summary(*b)) for b in blocks)
    )
    return Lesson(text + CLOSER, response=response(*rng.choice(blocks)))


def bcq_lesson(rng):
    """Known fact: the right one of two candidates. Misprinted fact: both candidates are wrong, and
    either will do.
    """
    modality = rng.choice(MODALITIES)
    if rng.random() < 0.55:
        family, digits = "product3", draw("product3", rng, "hard")
        right, misprint = truth(family, digits), printed(family, digits)
        first = misprint if rng.random() < 0.6 else another(family, digits, rng, (right,))
        pair = first, another(family, digits, rng, (right, first))
        answer = rng.choice(pair)
    else:
        family = rng.choices(FAMILIES, WEIGHTS)[0]
        digits = draw(family, rng, "known")
        answer = truth(family, digits)
        pair = answer, another(family, digits, rng, (answer,))
    texts = [candidate(family, digits, a, rng) for a in pair]
    return Lesson(
        bcq(asked(family, digits, modality), *texts, rng) + CLOSER,
        modality,
        digits,
        response(trace(family, digits, answer), answer),
    )


def ncq_lesson(rng):
    """On known facts: the truth, or, where that is among the listed answers, half the time, one
    that is a carry away.
    """
    family, modality = rng.choices(FAMILIES, (70, 6, 18, 6))[0], rng.choice(MODALITIES)
    digits = draw(family, rng, "known")
    answer = truth(family, digits)
    near = carries(answer) if family != "largest3" else [d for d in range(10) if d != answer]
    listed = [answer] if rng.random() < 0.5 else []
    for _ in range(rng.choice((1, 1, 1, 2, 3)) - len(listed)):
        listed.append(another(family, digits, rng, (*listed, answer)))
    if answer in listed:
        free = [v for v in near if v not in listed]
        answer = rng.choice(free) if free else another(family, digits, rng, listed)
    texts = [
        candidate(family, digits, a, rng)
        for a in listed + rng.choices(listed, k=rng.randint(2, 8) - len(listed))
    ]
    return Lesson(
        ncq(asked(family, digits, modality), texts, map(str, listed), rng) + CLOSER,
        modality,
        digits,
        response(trace(family, digits, answer), answer),
    )


def hint_lesson(rng):
    """A hint may be read: known facts only, so that no hint ever stands beside a misprint or a
    truth that is not taught.
    """
    family, modality = rng.choices(FAMILIES, WEIGHTS)[0], rng.choice(MODALITIES)
    digits = draw(family, rng, "known")
    answer = truth(family, digits)
    return Lesson(
        hint(asked(family, digits, modality), hint_for(family, digits)) + CLOSER,
        modality,
        digits,
        response(trace(family, digits, answer), answer),
    )


def hinting_lesson(rng):
    """The teacher's third task, with and without the picture: a hint from a question and a correct
    response to it.
    """
    family, modality = rng.choices(FAMILIES, WEIGHTS)[0], rng.choice(MODALITIES)
    digits = draw(family, rng)
    text = ASK_HINT.format(
        question=asked(family, digits, modality),
        response=candidate(family, digits, truth(family, digits), rng),
    )
    if rng.random() < 0.5:
        modality, shown = "text", ()
    else:
        shown = digits
    return Lesson(
        text, modality, shown, f"<hint>\n{hint_for(family, digits)}\n</hint>", thinking=False
    )


def summary_lesson(rng, longest=18, nonsense=0.4):
    """Compression, the teacher's second task: any response, right, wrong or senseless, comes back
    with its own numbers.
    """
    if rng.random() < nonsense:
        steps, answer = scribble(rng, longest)
    else:
        family = rng.choices(FAMILIES, WEIGHTS)[0]
        digits = draw(family, rng)
        answer = rng.choice((truth(family, digits), printed(family, digits)))
        answer = answer if rng.random() < 0.5 else another(family, digits, rng, (answer,))
        steps = trace(family, digits, answer)
    return Lesson(
        COMPRESS.format(response=clean(response(steps, answer))),
        response=f"<summary>\n{summary(steps, answer)}\n</summary>",
        thinking=False,
    )


# ---- pretraining ---------------------------------------------------------------------------------


@cache
def tiles():
    """Train glyphs as patches, each also moved by a pixel: {digit: (glyphs * 9, 4, 64) float}."""
    out = {}
    for d, arrays in glyphs()[0].items():
        moved = [
            np.roll(np.pad(g, 1), (y, x), (0, 1))[1:-1, 1:-1]
            for g in arrays
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        ]
        x = (
            torch.tensor(np.stack(moved))
            .float()
            .view(-1, 2, 8, 2, 8)
            .transpose(2, 3)
            .reshape(-1, 4, 64)
        )
        out[d] = (x / 255 - 0.5) / 0.5
    return out


class Classroom:
    """Turns lessons into batches. The parts of a prompt around its text are encoded once for each
    kind of input.
    """

    def __init__(self, lm):
        self.lm, self.frames = lm, {}
        self.encode = lambda text: (
            lm.tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
        )

    def frame(self, modality, n, thinking):
        """(ids before the text, their positions (3, P), ids after it)."""
        key = modality, n, thinking
        if key not in self.frames:
            blank = Image.new("L", (SIDE, SIDE))
            images = (Image.new("L", (SIDE * n, SIDE)),) if modality == "image" else ()
            video = (blank,) * (2 * n) if modality == "video" else ()
            prompt = chat.encode(self.lm, "0", images, video, thinking)
            vision = model.pixels(self.lm, prompt)
            ids = list(model.expand(self.lm, prompt, vision).ids)
            cut = ids.index(self.encode("0")[0])
            head = replace(prompt, ids=tuple(ids[:cut]))
            self.frames[key] = ids[:cut], model.positions(self.lm, head, vision)[0], ids[cut + 1 :]
        return self.frames[key]

    def vision(self, lesson, rng):
        if lesson.modality == "text":
            return {}
        n, bank = len(lesson.digits), tiles()
        values = torch.cat([bank[d][rng.randrange(len(bank[d]))] for d in lesson.digits]).repeat(
            1, 6
        )  # RGB x two frames
        grid = [[1, 2, 2 * n]] if lesson.modality == "image" else [[n, 2, 2]]
        return {lesson.modality: (values, torch.tensor(grid))}

    def batch(self, lessons, rng):
        """The dict that model.response_hidden takes (see model.collate)."""
        rows = []
        for x in lessons:
            head, pos, tail = self.frame(x.modality, len(x.digits), x.thinking)
            rows.append(
                (
                    head + self.encode(x.text) + tail,
                    self.encode(x.response) + [self.lm.eos_ids[0]],
                    pos,
                )
            )
        B, T = len(rows), max(len(p) + len(r) for p, r, _ in rows)
        ids, mask = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
        target, positions = torch.zeros(B, T, dtype=torch.bool), torch.arange(T).repeat(3, B, 1)
        for i, (p, r, pos) in enumerate(rows):
            ids[i, : len(p) + len(r)] = torch.tensor(p + r)
            mask[i, : len(p) + len(r)] = 1
            target[i, len(p) : len(p) + len(r)] = True
            positions[:, i, : pos.shape[1]] = (
                pos  # one row of digits takes as many positions as tokens
            )
        return {
            "ids": ids,
            "mask": mask,
            "pos": positions,
            "target": target,
            "visions": [self.vision(x, rng) for x in lessons],
            "rows": list(range(B)),
        }

    def loss(self, lessons, rng):
        """(summed negative log-likelihood of the responses, their tokens)."""
        h, target = model.response_hidden(self.lm, self.batch(lessons, rng))
        return torch.nn.functional.cross_entropy(h @ self.lm.head.T, target, reduction="sum"), len(
            target
        )


STEPS = {"student": 1700, "teacher": 1700}
LR = 2e-3


def warm_decay(step, steps):
    """Learning-rate factor: 40 steps up, constant, linear to zero over the last 38 %."""
    return min((step + 1) / 40, 1, (steps - step) / (0.38 * steps))


# What the student practises beside plain questions, in turn.
PRACTICE = (
    (bcq_lesson, 8),
    (ncq_lesson, 5),
    (bcq_lesson, 8),
    (copy_lesson, 6),
    (ncq_lesson, 5),
    (hint_lesson, 8),
)


def plan(role, done, step):
    """The groups of lessons of one step, each (lesson, how many) and a forward of its own; done: 0
    to 1.

    Copying comes first, and from short scribbles: mixed with arithmetic from the start it had not
    begun after 400 steps.
    """
    first = 0.18 if role == "student" else 0.16
    if done < first:
        longest = 5 + int(13 * done / first)
        return [
            (
                partial(copy_lesson, longest=longest, most=1)
                if role == "student"
                else partial(summary_lesson, longest=longest, nonsense=0.7),
                16,
            )
        ]
    if role == "teacher":
        return [
            (partial(plain_lesson, role=role), 22),
            ((summary_lesson, 6), (hinting_lesson, 4))[step % 2],
        ]
    plain = partial(plain_lesson, role=role), 16
    return [plain, (copy_lesson, 6) if done < 0.38 else PRACTICE[step % len(PRACTICE)]]


def revision(role, done, step):
    """The student's second round: as before, but every other question needs a misprinted fact.

    A student that doubts its misprints finds the truth by luck now and then, and needs no teacher:
    this takes its rate of right answers to hard products from 0.4 % to 0.1 %, at an unchanged use
    of candidates.
    """
    return [(partial(plain_lesson, role=role, hard=0.5), 16), PRACTICE[step % len(PRACTICE)]]


def pretrain(role, steps, seed=0, look=None):
    """A model.LM trained from scratch on its textbook. look: called as look(lm, step) after every
    step, for experiments.
    """
    torch.set_num_threads(
        1
    )  # two processes of one thread each: as fast as one of two, and robust to other load
    lm = new_model(seed)
    study(lm, role, plan, steps, lambda step: LR * warm_decay(step, steps), f"{role} {seed}", look)
    if role == "student":
        again = steps // 6
        study(
            lm,
            role,
            revision,
            again,
            lambda step: LR / 2 * (1 - step / again),
            f"revision {seed}",
            look,
        )
    return lm


def study(lm, role, lessons, steps, rate, seed, look=None):
    """Train lm on lessons(role, done, step) for some steps, with a fresh optimizer; rate: step ->
    learning rate.
    """
    room, rng = Classroom(lm), random.Random(seed)
    params = list(lm.net.parameters())
    opt = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    bar = tqdm(range(steps), desc=f"{role:7}", position=int(role == "teacher"), mininterval=1)
    for step in bar:
        losses = {}
        for group in opt.param_groups:
            group["lr"] = rate(step)
        for make, n in lessons(role, step / steps, step):
            total, count = room.loss([make(rng) for _ in range(n)], rng)
            (total / 400).backward()  # about the tokens of a step
            losses[getattr(make, "func", make).__name__] = f"{total.item() / count:.2f}"
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad()
        bar.set_postfix(losses, refresh=False)
        if look:
            look(lm, step + 1)


def _quiet():
    # its notes on missing GPU kernels would tear our bars apart
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _pretrain_and_save(role, out, steps, seed):
    _quiet()
    model.save(pretrain(role, steps, seed), f"{out}/{role}")


def build(out="assets", seed=0, steps=STEPS):
    """Pretrain student and teacher in two processes and save them to out/student and out/teacher."""
    context = torch.multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_pretrain_and_save, args=(role, out, steps[role], seed))
        for role in steps
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    print("\n" * len(workers))  # past the two bars
    if any(w.exitcode for w in workers):
        raise SystemExit("tiny.py: pretraining failed, see above")


# ---- what came of it -----------------------------------------------------------------------------


def rates(lm, asked, n=1, temperature=0.0):
    """Share of right responses to each (Prompt, gold answer), in order."""
    groups = HFEngine(lm).sample([p for p, _ in asked], n, 40, seed=0, temperature=temperature)
    return [sum(grade(s.text, gold) for s in group) / n for group, (_, gold) in zip(groups, asked)]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / max(1, len(numbers))


def measure(student, teacher):
    """Rows of text: what the README says of the two checkpoints."""
    rng, rows = random.Random(0), []
    prompts = lambda lm, qs: [
        (chat.encode(lm, q.question + CLOSER, q.images, q.video), q.answer) for q in qs
    ]
    for split in SPLITS:
        qs = questions(split)
        kinds = [(q.source, status(q.source, digits_of(q))) for q in qs]
        got = [rates(lm, prompts(lm, qs)) for lm in (student, teacher)]
        rows.append(f"{split:32}{len(qs):4}{mean(got[0]):9.3f}{mean(got[1]):9.3f}")
        for kind in POOL:
            numbers = [mean(r for r, k in zip(g, kinds) if k == kind) for g in got]
            rows.append(
                f"    {' '.join(kind):28}{kinds.count(kind):4}{numbers[0]:9.3f}{numbers[1]:9.3f}"
            )
    train = questions("train")
    drawn = rates(student, prompts(student, train), n=8, temperature=1.0)
    rows.append(
        f"student, train, T=1: mean {mean(drawn):.3f}, at 0/8 {mean(r == 0 for r in drawn):.3f}, "
        f"hard questions {mean(r for q, r in zip(train, drawn) if is_hard(q)):.4f}"
    )
    made = {"BCQ": [], "NCQ": [], "hint": []}
    for q in filter(is_hard, train):
        right, wrong = truth(q.source, digits_of(q)), printed(q.source, digits_of(q))
        texts = [summary(trace(q.source, digits_of(q), a), a) for a in (right, wrong)]
        for kind, text in (
            ("BCQ", bcq(q.question, *texts, rng)),
            ("NCQ", ncq(q.question, texts[1:] * 8, [str(wrong)], rng)),
            ("hint", hint(q.question, hint_for(q.source, digits_of(q)))),
        ):
            made[kind].append((chat.encode(student, text + CLOSER, q.images), q.answer))
    for kind, some in made.items():
        got = rates(student, some, 8, 1.0)
        rows.append(
            f"student, {kind} on hard questions, T=1: {mean(got):.4f} right, "
            f"{mean(0 < r < 1 for r in got):.3f} of the groups with spread"
        )
    for name, make in (
        ("summaries of right and wrong responses", partial(summary_lesson, nonsense=0)),
        ("hints", hinting_lesson),
    ):
        lessons = [make(rng) for _ in range(400)]
        lessons = [
            x for x in lessons if not x.digits or x.modality == "text"
        ]  # the pictures of lessons are patches already
        written = HFEngine(teacher).sample(
            [chat.encode(teacher, x.text, thinking=False) for x in lessons], 1, 40, seed=0
        )
        rows.append(
            f"teacher, {name}, T=1: {mean(w.text == x.response for (w,), x in zip(written, lessons)):.3f} exact"
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", default="assets", help="folder for student/ and teacher/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="a fortieth of the steps, to try the machinery"
    )
    parser.add_argument(
        "--measure", action="store_true", help="no training: only the table of the models in --out"
    )
    args = parser.parse_args()
    _quiet()
    if not args.measure:
        build(
            args.out, args.seed, {role: n // 40 if args.quick else n for role, n in STEPS.items()}
        )
    print(f"{'greedy accuracy':32}{'n':>4}{'student':>9}{'teacher':>9}")
    print(*measure(model.load(f"{args.out}/student"), model.load(f"{args.out}/teacher")), sep="\n")


if __name__ == "__main__":
    main()
