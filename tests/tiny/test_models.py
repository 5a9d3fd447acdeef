"""The tiny tokenizer, and the two checkpoints in assets/.

python -m pytest tests/tiny/test_models.py
"""

import random
from functools import cache
from pathlib import Path

import pytest

import model
import tiny
from processor import CLOSER, encode, expand, pixels
from reformulate import bcq, ncq
from teacher import COMPRESS, HINT
from tiny import lessons, measure, world

ASSETS = Path(__file__).parent.parent.parent / "assets"


@cache
def shipped(role):
    return model.load(ASSETS / role)


# ---- tokenizer -----------------------------------------------------------------------------------


def test_tokenizer_round_trip_also_from_disk(lm, tmp_path):
    model.save(lm, tmp_path)
    q, rng = "7 8 9\n" + world.ASK["product3"], random.Random(0)
    texts = ["".join(map(chr, range(32, 127))) + "\n", q + CLOSER, " a  b\n\n c ", COMPRESS, HINT]
    texts += ["<think>\n7*8=56</think>\\boxed{56}", lessons.hint_prompt(q, world.GENERAL)]
    texts += [bcq(q, "1", "2", rng), ncq(q, ["1"] * 3, ["1"], rng)]
    for tokenizer in (lm.tokenizer, model.load(tmp_path).tokenizer):
        ids = lambda text, **kw: tokenizer(text, add_special_tokens=False, **kw)["input_ids"]
        for text in texts:
            assert tokenizer.decode(ids(text)) == text
        for token in tokenizer.all_special_tokens:
            typed = ids(token, split_special_tokens=True)
            assert not set(typed) & set(tokenizer.all_special_ids)
            assert tokenizer.decode(typed) == token
            assert ids(token) == [tokenizer.convert_tokens_to_ids(token)]
        assert len(ids("0123456789")) == 10


def test_prompts_are_short(lm):
    q, rng = next(q for q in tiny.questions("train") if q.source == "product3"), random.Random(0)
    s = "7*8=56,56*9=504 \\boxed{504}"

    def length(text):
        prompt = encode(lm, text + CLOSER, q.images)
        return len(expand(lm, prompt, pixels(lm, prompt)).ids)

    assert length(q.question) == 15
    assert length(bcq(q.question, s, s, rng)) <= 70
    assert length(lessons.hint_prompt(q.question, "7*8=56")) <= 30
    assert length(ncq(q.question, [s] * 8, ["504"], rng)) <= 220


def test_template_opens_thinking_once(lm):
    think, close = (lm.tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))
    ids = encode(lm, "1+1" + CLOSER).ids
    assert ids.count(think) == 1 and ids.count(close) == 0
    assert lm.tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n")
    off = encode(lm, "1+1", thinking=False).ids
    assert lm.tokenizer.decode(off).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("split", ["heldout", "heldout_video"])
def test_one_visual_token_a_digit_and_timestamps_in_videos(lm, split):
    for q in tiny.questions(split)[:20]:
        prompt = encode(lm, q.question + CLOSER, q.images, q.video)
        ids = expand(lm, prompt, pixels(lm, prompt)).ids
        pad, n = (lm.image_id if q.images else lm.video_id), len(tiny.digits_of(q))
        assert ids.count(pad) == n
        if q.video:
            text = lm.tokenizer.decode(ids)
            assert [f"<{t} seconds>" in text for t in (0.5, 2.5, 4.5)] == [True, True, n == 3]
            assert lm.tokenizer.convert_tokens_to_ids("<0.5 seconds>") in ids  # not 13 tokens


# ---- the checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_checkpoint_loads_and_fits_vllm(role):
    lm = shipped(role)
    config = lm.net.config.text_config
    assert {*config.layer_types} == {"linear_attention", "full_attention"}
    assert {config.head_dim, config.linear_key_head_dim, config.linear_value_head_dim} <= {64, 128}
    assert 0.5e6 < lm.n_params() < 2e6
    assert sum(f.stat().st_size for f in (ASSETS / role).iterdir()) < 8e6
    # else a template was edited: python -m tiny makes the checkpoints again
    assert lm.tokenizer.get_vocab() == tiny.new_tokenizer().get_vocab()
    assert lm.eos_ids == (lm.tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def accuracy(role, questions):
    lm = shipped(role)
    return measure.mean(measure.rates(lm, measure.plain(lm, questions)))


def test_student_is_partly_competent_and_teacher_stronger():
    asked = tiny.questions("heldout")
    assert accuracy("student", [q for q in asked if tiny.is_hard(q)]) <= 0.05
    assert accuracy("student", [q for q in asked if not tiny.is_hard(q)]) >= 0.8
    assert accuracy("teacher", asked) >= 0.93


@pytest.mark.parametrize("split", ["heldout_text", "heldout_video"])
def test_both_can_read_the_other_families(split):
    asked = tiny.questions(split)[:60]
    assert 0.35 <= accuracy("student", asked) <= 0.65
    assert accuracy("teacher", asked) >= 0.9


def test_teacher_summaries_copy_wrong_numbers_too():
    make = lambda rng: lessons.summary_lesson(rng, nonsense=0)
    assert measure.exact(shipped("teacher"), make, 60, random.Random(5)) >= 0.95


def test_teacher_writes_hints_and_student_reads_them():
    teacher, student = shipped("teacher"), shipped("student")
    assert measure.exact(teacher, lessons.hinting_lesson, 120, random.Random(6)) >= 0.95
    asked = []
    for q in [q for q in tiny.questions("heldout") if not tiny.is_hard(q)]:
        text = lessons.hint_prompt(q.question, lessons.hint_for(q.source, tiny.digits_of(q)))
        asked.append((encode(student, text + CLOSER, q.images), q.answer))
    assert measure.mean(measure.rates(student, asked)) >= 0.8


@pytest.mark.slow
def test_table_of_the_checkpoints(monkeypatch):
    monkeypatch.setattr(measure, "questions", lambda split: tiny.questions(split)[:16])
    rows = measure.measure(shipped("student"), shipped("teacher"))
    heads = [r.split() for r in rows if not r.startswith((" ", "student", "teacher"))]
    assert [h[0] for h in heads] == list(world.SPLITS) and heads[0][1] == "16"
    assert sum("NCQ" in r for r in rows) == 1 and rows[-1].endswith("exact")
