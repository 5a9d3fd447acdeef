"""What users of neighbouring projects reported, tried here; docs/reports.md lists all of it. What
another test covers already is not repeated.

python -m pytest tests/test_reports.py
"""

import json
import os
import resource
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chat_server import ChatServer
from PIL import Image
from question_fixtures import GOOD, write
from tokenizers import processors
from turn_fixtures import CHATML, INST, made, own

import data
from data import QuestionCheck, open_questions, read
from engines import client
from engines.client import ClientEngine
from engines.hf import HFEngine
from model import from_parts
from pictures import decode
from policy import Policy
from processor import CLOSER, encode, encode_turns
from runtime import checkpoint
from runtime.rows import BadRow, parse_map

STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]{% else %} "
    "{{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)


# ---- templates -----------------------------------------------------------------------------------


def test_a_template_that_wants_alternating_roles():
    """unsloth 334, Medusa 102, clemcore 24: a question is one user turn; a conversation that does
    not alternate is one line.
    """
    side = made("old", STRICT, ["[INST]", "[/INST]"], True)
    assert list(encode(side, "How many?").ids) == own(side, "How many?")
    assert encode_turns(side, [("user", "a"), ("assistant", "b"), ("user", "c")]).ids
    with pytest.raises(ValueError, match="roles must alternate") as e:
        encode_turns(side, [("user", "a"), ("user", "b")])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("family", ["bytes", "old"])
def test_one_beginning_of_sequence(family):
    """open-r1 462, mlx-examples 1095, Soup 781: template and tokenizer both write a BOS."""
    side = made(family, INST, ["[INST]", "[/INST]"], True)
    bos = side.tokenizer.bos_token_id
    side.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    assert side.tokenizer("x")["input_ids"][0] == bos  # it does add one where it is asked to
    for text in ("How many?", "How <s> many?"):
        assert list(encode(side, text).ids).count(bos) == 1
    assert list(encode(side, "How many?").ids) == own(side, "How many?")


def test_a_template_without_a_switch_for_thinking_and_one_that_never_opens_it():
    """transformers 37949: Qwen3 opens no <think> where thinking is on, and writes an empty block
    where it is off.
    """
    switch = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    for template, closed in ((CHATML + switch, True), (CHATML, False)):
        side = made("bytes", template, ["<think>", "</think>"], False)
        on, off = (encode(side, "x", thinking=t).ids for t in (True, False))
        text = side.tokenizer.decode(off[len(on) :] if closed else off)
        assert ("<think>" in text) == closed and (on != off) == closed


# ---- where a response ends -----------------------------------------------------------------------


@pytest.mark.parametrize("listed", [[5, 102], 102, None])
def test_every_end_token_that_a_model_names(lm, questions, listed):
    """trl 7039, lighteval 1279, mlx-vlm 2112, ChatLearn 263: the tokenizer's and the generation
    config's, one or several; a response that ends with any of them is not cut off.
    """
    net = SimpleNamespace(
        config=lm.net.config, eval=lambda: None, modules=lambda: (), device=torch.device("cpu")
    )
    net.generation_config = SimpleNamespace(eos_token_id=listed)
    found = from_parts(net, lm.tokenizer, lm.image_processor, "made").eos_ids
    several = listed if isinstance(listed, list) else [listed]
    assert set(found) == ({*several, lm.tokenizer.eos_token_id} - {None})
    q = questions["text"][0]
    ends = replace(lm, eos_ids=tuple(range(20, 60)))  # about half of what a random model writes
    drawn = HFEngine(ends).sample([encode(lm, q.question)], 8, 30, 0)[0]
    last = [s.response_ids[-1] for s in drawn if not s.truncated]
    assert len(set(last)) > 1 and all(i in ends.eos_ids for i in last)
    # dllm 118: nothing after the first end token is kept or graded
    assert all(i not in ends.eos_ids for s in drawn for i in s.response_ids[:-1])


def test_an_end_token_that_is_also_the_padding_is_trained(lm, questions):
    """Megatron-Bridge 4660, verl 535: masks come from lengths, never from the id."""
    q = questions["text"][0]
    same = replace(lm, eos_ids=(0,))  # the id that short rows are filled up with
    drawn = HFEngine(same).sample([encode(lm, q.question)], 4, 12, 3)[0]
    ended = [
        replace(s, response_ids=(*s.response_ids[:k], 0), sampler_logp=s.sampler_logp[: k + 1])
        for k, s in enumerate(drawn, 2)
    ]
    together, _ = Policy(same)(ended)
    alone = torch.cat([Policy(same)([s])[0] for s in ended])
    assert len(together) == sum(len(s.response_ids) for s in ended)
    assert torch.allclose(together, alone, atol=1e-5)


def test_pictures_can_not_be_sampled(lm, questions):
    """R1-V 91, verl 3469: a policy that writes a placeholder breaks the trainer's forward."""
    assert {lm.image_id, lm.video_id} <= set(lm.banned.tolist())
    q = questions["image"][0]
    drawn = HFEngine(lm).sample([encode(lm, q.question, q.images)], 16, 40, 0, 5.0)[0]
    assert not {i for s in drawn for i in s.response_ids} & set(lm.banned.tolist())


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2000, 4), (4, 2000), (1, 300), (27, 257)])
def test_pictures_of_odd_shapes(lm, tmp_path, size):
    """Qwen-VL-Series-Finetune 133 (an aspect ratio above 200), ollama 11297 (below one patch):
    either the row is named at the start, or the picture can be sampled.
    """
    Image.new("RGB", size).save(tmp_path / "a.png")
    file = write(tmp_path, {**GOOD, "image": "a.png"}, {**GOOD, "id": "q2"})
    found = open_questions(file, check=QuestionCheck(lm, 4000), skip_bad=True)
    if found.bad:
        [error] = found.bad.values()
        assert error.reason == "image does not fit the model" and "a.png" not in str(error.reason)
        assert f"{size[0]} x {size[1]}" in str(error) and "question q1" in str(error)
    else:
        q = found[0]
        [[sample]] = HFEngine(lm).sample([encode(lm, q.question, q.images)], 1, 4, 0)
        assert sample.response_ids


def test_thousands_of_pictures_with_few_handles(tmp_path):
    """gaussian-splatting 309, SpacetimeGaussians 31: each file is closed when it has been read."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [{**GOOD, "id": str(k), "image": "a.png"} for k in range(300)]
    file = write(tmp_path, *rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 8, hard))
    try:
        found = open_questions(file)
        good, bad = data.fetch(found, range(300))
        pictures = [decode(q.images, q.id)[0] for q in good]  # all kept
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(pictures) == 300 and not bad


def test_an_image_marker_in_the_text_is_text(lm, tmp_path):
    """Qwen-VL-Series-Finetune 181: with or without `<image>`, one picture is one placeholder."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    texts = ["How many?", "<image>\nHow many?", "<image><image> <|image_pad|> How many?"]
    rows = [{**GOOD, "id": str(k), "question": t, "image": "a.png"} for k, t in enumerate(texts)]
    for q in open_questions(write(tmp_path, *rows), check=QuestionCheck(lm, 400)):
        assert encode(lm, q.question + CLOSER, q.images).ids.count(lm.image_id) == 1


# ---- data ----------------------------------------------------------------------------------------


def test_rows_that_differ_in_their_further_columns(tmp_path):
    """datasets 5596, 7159, 7222, 7092, 6460: columns that nobody asked for may hold anything."""
    extra = [None, {"a": 1}, {"a": "b", "c": None}, [[0, 4, "x"]], "text", 3.5]
    rows = [{**GOOD, "id": str(k), "meta": x, "ner": [x]} for k, x in enumerate(extra)]
    assert [q.id for q in read(write(tmp_path, *rows))] == list("012345")


def test_a_byte_order_mark_hides_no_row(tmp_path):
    """datasets 8241, promptflow 4172, MedQA-ChatGLM 2."""
    rows = [{**GOOD, "id": str(k)} for k in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "q.jsonl").write_text(text, encoding="utf-8-sig")
    found = open_questions(tmp_path / "q.jsonl")
    assert [q.id for q in found] == list("012") and found[1].id == "1"


def test_columns_of_another_name_are_told(tmp_path):
    """Soup 565, training_hub 83: an Alpaca row says what it has; mapped, its numbers are golds."""
    file = write(tmp_path, {"id": "a", "instruction": "1 + 1?", "input": "", "output": 2})
    with pytest.raises(BadRow, match="no 'question' .*instruction, input, output.*--map"):
        read(file)
    [q] = read(file, parse_map("question=instruction,answer=output"))
    assert (q.question, q.golds) == ("1 + 1?", ("2",))


# ---- resume --------------------------------------------------------------------------------------


def test_a_checkpoint_whose_state_was_cut_is_named(tmp_path, cfg):
    """unsloth 6796, SimpleTuner 2613, RLinf 1469: an empty or torn state file of the newest one."""
    from runtime.launch import open_run

    for step in (1, 2):
        folder = tmp_path / f"checkpoints/step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text('{"config": {}}' if step == 1 else "")
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step-000002"
    with pytest.raises(ValueError, match="step-000002/state.json can't be read") as e:
        open_run(cfg("--resume --out", tmp_path))
    assert "remove its folder to go on from an older checkpoint" in str(e.value)
    (tmp_path / "checkpoints/step-000002/state.json").unlink()
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step-000001"


# ---- servers -------------------------------------------------------------------------------------


class Says(ChatServer):
    """A server whose every answer is the given reply, with its status."""

    def __init__(self, lm, reply, status=200):
        super().__init__(HFEngine(lm))
        handler = self.http.RequestHandlerClass
        handler.answer = lambda self, body: self.reply(reply, status)


def said(lm, reply, status=200, n=1):
    with Says(lm, reply, status) as server:
        engine = ClientEngine(server.url)
        try:
            return engine.request(engine.encode("x"), n, 0, max_new_tokens=8).result(20)
        finally:
            engine.close()


def choice(message, end="stop"):
    return {"choices": [{"index": 0, "finish_reason": end, "message": message}]}


@pytest.mark.parametrize(
    "message, end, text",
    [
        # vllm 52640: cut off while it thinks
        ({"content": None, "reasoning": "so 4"}, "length", "<think>so 4</think>"),
        # vllm 30139: all of it in the reasoning
        ({"content": None, "reasoning_content": "\\boxed{4}"}, "stop", None),
        # vllm 41902: tokens, and neither
        ({"content": None, "reasoning": None}, "stop", ""),
        # ray 53324: the tags in the content, a null beside it
        ({"content": "<think>a</think>b", "reasoning_content": None}, "stop", "<think>a</think>b"),
        ({}, "stop", ""),  # mistral-vibe 130
    ],
)
def test_where_servers_put_what_a_model_says(lm, message, end, text):
    [sample] = said(lm, choice(message, end))
    assert sample.text == text if text is not None else "\\boxed{4}" in sample.text
    assert sample.truncated == (end == "length")


@pytest.mark.parametrize(
    "message",
    [
        # vllm 20409, ogx 4534
        "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens",
        # vllm 42474
        "You passed 9 input tokens and requested 65535 output tokens. However, the model's context "
        "length is only 128000 tokens",
        # vllm 10440
        "Input prompt (36893 tokens) is too long and exceeds limit of 1000",
    ],
)
def test_a_prompt_that_a_server_can_not_hold_is_an_empty_answer(lm, message):
    for body in ({"error": {"message": message}}, {"object": "error", "message": message}):
        [sample] = said(lm, body, 400)
        assert (sample.text, sample.response_ids, sample.truncated) == ("", (), False)


def test_a_template_error_of_the_server_is_told(lm, monkeypatch):
    """mistral-vibe 1006, raycast-openai-translator 34: it comes as a 500, so it is asked again."""
    monkeypatch.setattr(client, "WAITS", (0, 0))
    message = "Jinja Exception: Conversation roles must alternate"
    with pytest.raises(ValueError, match="Jinja Exception: Conversation roles") as e:
        said(lm, {"error": {"code": 500, "message": message}}, 500)
    assert "\n" not in str(e.value) and "the teacher at http" in str(e.value)


def test_a_reply_without_choices_is_asked_again(lm, monkeypatch):
    """yourbench 52."""
    monkeypatch.setattr(client, "WAITS", (0, 0))
    with pytest.raises(ValueError, match="no choices in its reply"):
        said(lm, {"id": "x", "object": "chat.completion"})
