"""The tiny world: its questions, its textbooks, its tokenizer, and the two checkpoints in assets/.

python -m pytest -q tests/test_tiny.py
"""

import random
import re
from functools import cache
from pathlib import Path

import pytest
import torch

import model
import processor as chat
from engines.hf import HFEngine
from processor import CLOSER
from reformulate import bcq, hint, ncq
from reward import grade
from teacher import HINT
from tiny import world as tiny

ASSETS = Path(__file__).parent.parent.parent / "assets"


@cache
def shipped(role):
    return model.load(ASSETS / role)


@cache
def fresh():
    return tiny.new_model(0)


def pixels_of(question):
    return tuple(image.tobytes() for image in (*question.images, *question.video))


# ---- questions -----------------------------------------------------------------------------------


def test_questions_are_the_same_every_time_and_ids_unique():
    for split, (n, _) in tiny.SPLITS.items():
        first, again = tiny.questions(split), tiny.questions(split)
        same = [[(q.id, q.question, q.answer, pixels_of(q)) for q in qs] for qs in (first, again)]
        assert same[0] == same[1]
        assert len(first) == n == len({q.id for q in first})
    assert len({q.id for split in tiny.SPLITS for q in tiny.questions(split)}) == sum(
        n for n, _ in tiny.SPLITS.values()
    )


def test_known_question_is_what_it_was():
    q = tiny.questions("train")[0]
    assert (q.id, q.answer) == (
        "train-000-product3-368",
        "144",
    )  # changes only when the world itself does


def test_train_and_heldout_glyphs_are_disjoint():
    train, held = ({g.tobytes() for gs in part.values() for g in gs} for part in tiny.glyphs())
    assert not train & held
    for split, part in (("train", train), ("heldout", held)):
        for q in tiny.questions(split)[:50]:
            image = q.images[0]
            cells = [
                image.crop((x, 0, x + tiny.SIDE, tiny.SIDE)).tobytes()
                for x in range(0, image.width, tiny.SIDE)
            ]
            assert len(cells) == len(tiny.digits_of(q)) and set(cells) <= part


def test_every_answer_is_graded_right_by_its_own_steps_and_every_misprint_wrong():
    for split in tiny.SPLITS:
        for q in tiny.questions(split):
            digits = tiny.digits_of(q)
            right = tiny.response(tiny.trace(q.source, digits, q.answer), q.answer)
            wrote = tiny.printed(q.source, digits)
            assert grade(right, q.answer) == 1
            if tiny.is_hard(q):
                assert (
                    grade(tiny.response(tiny.trace(q.source, digits, wrote), wrote), q.answer) == 0
                )


def test_share_of_hard_questions():
    for split in tiny.SPLITS:
        qs = tiny.questions(split)
        assert 0.44 <= sum(map(tiny.is_hard, qs)) / len(qs) <= 0.46


# ---- textbooks -----------------------------------------------------------------------------------


def student_lessons(n):
    rng = random.Random(1)
    makers = {}
    for step in range(8):
        for done in (0.0, 0.1, 0.2, 0.4, 0.6, 0.99):
            groups = tiny.plan("student", done, step) + tiny.revision("student", done, step)
            makers |= {str(make): make for make, _ in groups}
    assert all(
        any(kind in name for name in makers)
        for kind in ("plain_", "copy_", "bcq_", "ncq_", "hint_")
    )
    return [make(rng) for make in makers.values() for _ in range(n)]


def test_the_student_never_reads_the_truth_about_a_hard_fact():
    lessons = student_lessons(2000)
    hard = [
        x
        for x in lessons
        if tiny.ASK["product3"] in x.text
        and len(x.digits) == 3
        and tiny.status("product3", x.digits) == "hard"
    ]
    assert len(hard) > 1000
    for x in lessons:
        assert not [t for t in tiny.TRUTHS if t in x.text + x.response]
    for x in hard:
        assert f"\\boxed{{{tiny.truth('product3', x.digits)}}}" not in (
            x.text + x.response
        ).replace(CLOSER, "")


def test_misprints_stand_in_a_second_step_and_are_a_carry_away():
    assert all(
        a >= 10 and wrong != a * c and abs(wrong - a * c) == 10
        for (a, c), wrong in tiny.MISPRINTS.items()
    )
    assert all(len(str(wrong)) == len(str(a * c)) for (a, c), wrong in tiny.MISPRINTS.items())
    assert (
        len({a * c > wrong for (a, c), wrong in tiny.MISPRINTS.items()}) == 2
    )  # both directions: no rule finds the truth


def test_ncq_lessons_answer_nothing_listed_and_know_nothing_of_misprints():
    rng, gave_way = random.Random(2), 0
    for x in [tiny.ncq_lesson(rng) for _ in range(3000)]:
        listed = re.findall(r"boxed{(\d+)}", x.text.split("The incorrect")[0])
        answer = re.findall(r"boxed{(\d+)}", x.response)
        assert len(answer) == 1 and answer[0] not in listed
        if tiny.ASK["product3"] in x.text and len(x.digits) == 3:
            assert tiny.status("product3", x.digits) == "known"
            gave_way += str(tiny.truth("product3", x.digits)) in listed
    assert gave_way > 500


def test_hints_never_tell_the_answer():
    rng = random.Random(3)
    for _ in range(5000):
        family = rng.choice(tiny.FAMILIES)
        digits = tiny.draw(family, rng)
        text = tiny.hint_for(family, digits)
        assert (
            str(tiny.truth(family, digits)) not in re.findall(r"\d+", text) and "boxed" not in text
        )
    products = [
        x.digits
        for x in (tiny.hint_lesson(rng) for _ in range(2000))
        if tiny.ASK["product3"] in x.text
    ]
    assert {tiny.status("product3", d) for d in products if len(d) == 3} == {"known"}
    assert (
        tiny.hint_for("product3", (7, 8, 9)) == "7*8=56"
        and tiny.hint_for("sum3", (3, 7, 0)) == tiny.GENERAL
    )


def test_lesson_batch_is_the_prompt_that_training_makes():
    # a lesson's ids and positions against chat.encode + expand + positions, for each modality
    lm, rng = fresh(), random.Random(0)
    room = tiny.Classroom(lm)
    for split, modality in (
        ("heldout", "image"),
        ("heldout_text", "text"),
        ("heldout_video", "video"),
    ):
        q = tiny.questions(split)[0]
        prompt = chat.encode(lm, q.question + CLOSER, q.images, q.video)
        vision = model.pixels(lm, prompt)
        prompt = model.expand(lm, prompt, vision)
        digits = () if modality == "text" else tiny.digits_of(q)
        batch = room.batch(
            [tiny.Lesson(q.question + CLOSER, modality, digits, "1</think>\\boxed{1}")], rng
        )
        P = len(prompt.ids)
        assert batch["ids"][0, :P].tolist() == list(prompt.ids)
        assert batch["target"][0].tolist() == [False] * P + [True] * (batch["ids"].shape[1] - P)
        pos, after = model.positions(lm, prompt, vision)
        assert torch.equal(batch["pos"][:, 0, :P], pos) and after == P == batch["pos"][0, 0, P]
        for kind, (values, grid) in vision.items():
            assert (
                torch.equal(batch["visions"][0][kind][1], grid)
                and batch["visions"][0][kind][0].shape == values.shape
            )


def test_patches_of_the_classroom_are_those_of_the_image_processor():
    glyph = tiny.glyphs()[0][7][3]
    values, _ = model.pixels(fresh(), chat.encode(fresh(), "x", (tiny.Image.fromarray(glyph),)))[
        "image"
    ]
    unmoved = tiny.tiles()[7][3 * 9 + 4]  # nine shifts a glyph, (0, 0) is the fifth
    assert torch.allclose(values, unmoved.repeat(1, 6), atol=1e-6)


# ---- tokenizer -----------------------------------------------------------------------------------


def test_tokenizer_round_trip_also_from_disk(tmp_path):
    model.save(fresh(), tmp_path)
    for tokenizer in (fresh().tokenizer, model.load(tmp_path).tokenizer):
        q = "7 8 9\n" + tiny.ASK["product3"]
        for text in (
            "".join(map(chr, range(32, 127))) + "\n",
            q + CLOSER,
            " a  b\n\n c ",
            "<think>\n7*8=56</think>\\boxed{56}",
            bcq(q, "1", "2", random.Random(0)),
            ncq(q, ["1"] * 3, ["1"], random.Random(0)),
            hint(q, tiny.GENERAL),
            tiny.COMPRESS,
            HINT,
        ):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
        for token in tokenizer.all_special_tokens:
            ids = tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert not set(ids) & set(tokenizer.all_special_ids) and tokenizer.decode(ids) == token
            assert tokenizer(token, add_special_tokens=False)["input_ids"] == [
                tokenizer.convert_tokens_to_ids(token)
            ]
        assert len(tokenizer("0123456789", add_special_tokens=False)["input_ids"]) == 10


def test_prompts_are_short():
    lm, q = fresh(), next(q for q in tiny.questions("train") if q.source == "product3")
    s = "7*8=56,56*9=504 \\boxed{504}"
    length = lambda text, **kw: len(
        model.expand(lm, p := chat.encode(lm, text, q.images), model.pixels(lm, p)).ids
    )
    assert length(q.question + CLOSER) == 15
    assert length(bcq(q.question, s, s, random.Random(0)) + CLOSER) <= 70
    assert length(hint(q.question, "7*8=56") + CLOSER) <= 30
    assert length(ncq(q.question, [s] * 8, ["504"], random.Random(0)) + CLOSER) <= 220


def test_template_opens_thinking_once():
    lm = fresh()
    think, close = (lm.tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>"))
    ids = chat.encode(lm, "1+1" + CLOSER).ids
    assert ids.count(think) == 1 and ids.count(close) == 0
    assert lm.tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n")
    off = chat.encode(lm, "1+1", thinking=False).ids
    assert lm.tokenizer.decode(off).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_one_visual_token_a_digit_and_timestamps_in_videos():
    lm = fresh()
    for split in ("heldout", "heldout_video"):
        for q in tiny.questions(split)[:20]:
            prompt = chat.encode(lm, q.question + CLOSER, q.images, q.video)
            ids = model.expand(lm, prompt, model.pixels(lm, prompt)).ids
            pad, n = (lm.image_id if q.images else lm.video_id), len(tiny.digits_of(q))
            assert ids.count(pad) == n
            if q.video:
                text = lm.tokenizer.decode(ids)
                assert [f"<{t} seconds>" in text for t in (0.5, 2.5, 4.5)] == [True, True, n == 3]
                stamp = lm.tokenizer.convert_tokens_to_ids("<0.5 seconds>")
                assert stamp in ids  # one token, not thirteen


# ---- the checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_checkpoint_loads_and_fits_vllm(role):
    lm = shipped(role)
    config = lm.net.config.text_config
    assert "linear_attention" in config.layer_types and "full_attention" in config.layer_types
    assert {config.head_dim, config.linear_key_head_dim, config.linear_value_head_dim} <= {64, 128}
    assert 0.5e6 < lm.n_params() < 2e6
    assert sum(f.stat().st_size for f in (ASSETS / role).iterdir()) < 8e6
    assert (
        lm.tokenizer.get_vocab() == tiny.new_tokenizer().get_vocab()
    )  # else a template was edited: run tiny.py again
    assert lm.eos_ids == (lm.tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def accuracy(role, questions):
    asked = [
        (chat.encode(shipped(role), q.question + CLOSER, q.images, q.video), q.answer)
        for q in questions
    ]
    got = tiny.rates(shipped(role), asked)
    return sum(got) / len(got)


def test_student_is_partly_competent():
    qs = tiny.questions("heldout")
    hard = [q for q in qs if tiny.is_hard(q)]
    assert accuracy("student", hard) <= 0.05
    assert accuracy("student", [q for q in qs if not tiny.is_hard(q)]) >= 0.8


def test_teacher_is_stronger():
    assert accuracy("teacher", tiny.questions("heldout")) >= 0.93


@pytest.mark.parametrize("split", ["heldout_text", "heldout_video"])
def test_both_can_read_the_other_families(split):
    qs = tiny.questions(split)[:60]
    assert 0.35 <= accuracy("student", qs) <= 0.65
    assert accuracy("teacher", qs) >= 0.9


def test_teacher_summaries_copy_wrong_numbers_too():
    lm, rng = shipped("teacher"), random.Random(5)
    lessons = [tiny.summary_lesson(rng, nonsense=0) for _ in range(60)]
    groups = HFEngine(lm).sample(
        [chat.encode(lm, x.text, thinking=False) for x in lessons], 1, 40, seed=0
    )
    assert sum(g[0].text == x.response for g, x in zip(groups, lessons)) >= 57


def test_teacher_writes_hints_and_student_reads_them():
    lm, rng = shipped("teacher"), random.Random(6)
    lessons = [
        x
        for x in (tiny.hinting_lesson(rng) for _ in range(120))
        if not x.digits or x.modality == "text"
    ]
    groups = HFEngine(lm).sample(
        [chat.encode(lm, x.text, thinking=False) for x in lessons], 1, 40, seed=0
    )
    assert sum(g[0].text == x.response for g, x in zip(groups, lessons)) >= 0.95 * len(lessons)
    known = [q for q in tiny.questions("heldout") if not tiny.is_hard(q)]
    asked = [
        (
            chat.encode(
                shipped("student"),
                hint(q.question, tiny.hint_for(q.source, tiny.digits_of(q))) + CLOSER,
                q.images,
            ),
            q.answer,
        )
        for q in known
    ]
    assert tiny.mean(tiny.rates(shipped("student"), asked)) >= 0.8


def test_table_of_the_checkpoints(monkeypatch):
    every = tiny.questions
    monkeypatch.setattr(tiny, "questions", lambda split: every(split)[:16])
    rows = tiny.measure(shipped("student"), shipped("teacher"))
    assert [r.split()[0] for r in rows if not r.startswith((" ", "student", "teacher"))] == list(
        tiny.SPLITS
    )
    assert (
        rows[0].split()[1] == "16"
        and sum("NCQ" in r for r in rows) == 1
        and rows[-1].endswith("exact")
    )
