"""A small model of the ordinary kind on ordinary data: a Llama with a byte-level vocabulary of
49,152 tokens, trained here on the standard library's sources, with random weights and a ChatML
template; word problems with worked solutions that end in `#### 72`. What goes wrong with those is
told while it goes wrong.

python -m pytest -n 0 -m slow tests/test_real_vocabulary.py
"""

import json
import random
import sysconfig
from pathlib import Path

import pytest
import torch
from scripted import Scripted
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import train
from data import QuestionCheck, read
from model import text_side
from processor import CLOSER, encode
from runtime import console, launch
from runtime.files import read_jsonl

pytestmark = pytest.mark.slow

V = 49_152
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\n"
    "You answer questions.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL = """--steps 3 --batch 4 --iterations 1 --n 4 --max-prompt 256 --max-response 24 --aug 1
--max-summary 24 --device cpu --engine hf --save-every 0 --lr 1e-4 --micro-tokens 2048
--weight-decay 0 --threads 1"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model folder: 3.2 M parameters, all but 0.1 M of them the embedding."""
    sources, texts = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")), []
    sources += sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-r]*/*.py"))
    while sum(map(len, texts)) < 9e6:
        texts.append(sources.pop(0).read_text(encoding="utf-8", errors="replace"))
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=V,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            min_frequency=1,
            show_progress=False,
        ),
    )
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    more = {"clean_up_tokenization_spaces": False, "model_max_length": 8192}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **ends, **more)
    tokenizer.chat_template = TEMPLATE
    assert len(tokenizer) == V
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192}
    net = LlamaForCausalLM(LlamaConfig(vocab_size=V, tie_word_embeddings=True, **sizes))
    net.generation_config = GenerationConfig(eos_token_id=2)
    out = tmp_path_factory.mktemp("smol")
    net.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return str(out)


def problems(n):
    """(question, solution, answer) of made-up word problems."""
    rng, out = random.Random(0), []
    for _ in range(n):
        name, thing = rng.choice(["Mia", "Omar", "Lena"]), rng.choice(["pears", "stamps", "cards"])
        a, b = rng.randint(3, 60), rng.randint(2, 9)
        total, left = a * b, a * b - a
        question = f"{name} has {a} boxes with {b} {thing} in each, and gives away one {thing[:-1]}"
        question += f" of each box. How many {thing} are left?"
        steps = f"In all there are {a}*{b} = <<{a}*{b}={total}>>{total} {thing}.\n{total}-{a} = "
        out.append(
            (question, f"{steps}<<{total}-{a}={left}>>{left} are left.\n#### {left:,}", left)
        )
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gsm") / "train.jsonl"
    rows = [
        {"id": f"{k}", "question": q, "answer": solution}
        for k, (q, solution, _) in enumerate(problems(24))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(folder, file, tmp_path, monkeypatch, capsys):
    """run(reply, flags): train.main with the student's own samples, or scripted ones; returns
    (records, what was said, run folder).
    """
    monkeypatch.setattr(console, "draw", lambda out: [])

    def make(reply=None, flags=""):
        if reply:
            engine = lambda cfg, world, student: Scripted(student, reply)
            monkeypatch.setattr(launch, "student_engine", engine)
        argv = f"{SMALL} --student {folder} --teacher {folder} --data {file} {flags}"
        if "--method" in argv:
            argv = argv.replace("--aug 1", "").replace("--max-summary 24", "")
        assert train.main([*argv.split(), "--out", str(tmp_path / "run")]) == 0
        said = capsys.readouterr()
        return read_jsonl(tmp_path / "run/metrics.jsonl")[1:], said, tmp_path / "run"

    return make


def told(records):
    return [message for r in records for message in r["alarms"]]


def test_golds_and_prompts_of_word_problems(folder, file):
    """`#### 1,234` is unwrapped; the ids are the template's own, its system turn included."""
    assert [q.answer.replace(",", "") for q in read(file)] == [str(a) for *_, a in problems(24)]
    lm = text_side(folder)
    check = QuestionCheck(lm, 256)
    for q in read(file):
        check(q, q.id)
        messages = [{"role": "user", "content": q.question + CLOSER}]
        own = lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert list(encode(lm, q.question + CLOSER).ids) == own
        assert check.tokens(q, q.id) == len(own)


def test_random_weights(run):
    """ZPPO with itself as teacher: all is wrong and cut off, no summary holds, nobody solves."""
    records, said, out = run()
    alarms = "\n".join(told(records))
    for words in (
        "rewards of the first 3 steps are 0",
        "were cut off by --max-response",
        "100% of the responses were cut off at --max-response 24",
        "the teacher solved none of the",
        "of the teacher's summaries kept their answer",
    ):
        assert words in alarms and alarms.count(words) == 1, words
        assert words in said.err and words in said.out  # while it runs, and at the end
    assert len(told(records)) == 4 and all(r["gap_max"] < 1e-3 for r in records)
    assert "learned nothing that this shows" in said.out
    shown = read_jsonl(out / "samples.jsonl")
    assert {g["kind"] for g in shown} >= {"plain"}  # there is something to look at
    assert (out / "final/model.safetensors").is_file()


def test_all_right(run):
    gold = {q: a for q, _, a in problems(24)}

    def reply(prompt, k):
        return f"\\boxed{{{next(a for q, a in gold.items() if q in prompt)}}}"

    records, said, _ = run(reply, "--method grpo")
    [alarm] = told(records)
    assert "all rewards of the first 3 steps are 1: these questions teach nothing" in alarm
    assert alarm in said.err


def test_no_spread(run):
    gold = {q: a for q, _, a in problems(24)}

    def reply(prompt, k):
        a = next(a for q, a in gold.items() if q in prompt)
        return f"\\boxed{{{a if a % 2 else 'no'}}}"

    records, said, _ = run(reply, "--method grpo")
    [alarm] = told(records)
    assert "no group of the first 3 steps has both right and wrong responses" in alarm
    assert alarm in said.err
