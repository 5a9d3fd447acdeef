"""Text sides of models of other families: tokenizers trained here on a few sentences, with the
templates that such families have.
"""

from types import SimpleNamespace

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from processor import CLOSER

TEXTS = ["How many bars are there? 12, 7.5 or x_1?", "Caf\u00e9 \u2014 \u4e09\u89d2\u5f62"]
UNSEEN = "\u00fcber \u0416 Zz \U0001f600"  # letters that no corpus here has
TEXTS += ["  two  spaces \n\n and\ttabs ", "\n\nfirst", "last\n", "1", ""]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return raw, BpeTrainer(vocab_size=600, initial_alphabet=sorted(alphabet), show_progress=False)


def sentencepiece(scheme):
    """As Llama 2's ("old": a normalizer writes the space), or as newer ones write it."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if scheme == "old":
        steps = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
        raw.normalizer = normalizers.Sequence(list(steps))
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()
    raw.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    all_bytes = [f"<0x{b:02X}>" for b in range(256)]
    return raw, BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *all_bytes], show_progress=False
    )


def unigram():
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    more = {"initial_alphabet": list("<|>[]/_?.,\n")}
    return raw, UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False, **more
    )


FAMILIES = {
    "bytes": byte_level,
    "first": lambda: sentencepiece("first"),
    "always": lambda: sentencepiece("always"),
    "old": lambda: sentencepiece("old"),
    "unigram": unigram,
}


def made(family, template, markers, special):
    """The text side of a model: a tokenizer of the family, its markers flagged or not."""
    raw, trainer = FAMILIES[family]()
    corpus = [*TEXTS, template, CLOSER, "user assistant system candidate response"] * 3
    raw.train_from_iterator(corpus, trainer)
    raw.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>")])
    tokens = [AddedToken(t, special=special, normalized=not special) for t in markers]
    (raw.add_special_tokens if special else raw.add_tokens)(tokens)
    ends = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **ends)
    tokenizer.chat_template = template
    eos = (tokenizer.eos_token_id,)
    parts = {"image_processor": None, "path": "made", "eos_ids": eos}
    return SimpleNamespace(tokenizer=tokenizer, image_id=-1, video_id=-1, **parts)


def own(side, text):
    """The ids of a question by the template's own tokenization."""
    messages = [{"role": "user", "content": text}]
    return side.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
