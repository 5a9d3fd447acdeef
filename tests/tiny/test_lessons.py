"""What the two tiny models are taught, and the batches made of it.

python -m pytest tests/tiny/test_lessons.py
"""

import random
import re

import pytest
import torch
from PIL import Image

import tiny
from processor import CLOSER, encode, expand, pixels, positions
from tiny import lessons, pretrain, world


def is_hard(lesson):
    asks = world.ASK["product3"] in lesson.text and len(lesson.digits) == 3
    return asks and world.status("product3", lesson.digits) == "hard"


@pytest.fixture(scope="module")
def of_student():
    """Some thousand lessons of each kind that the student's two rounds hold."""
    makers = {}
    for step in range(8):
        for done in (0.0, 0.1, 0.2, 0.4, 0.6, 0.99):
            groups = pretrain.plan("student", done, step) + pretrain.revision("student", done, step)
            makers |= {str(make): make for make, _ in groups}
    for kind in ("plain_", "copy_", "bcq_", "ncq_", "hint_"):
        assert any(kind in name for name in makers)
    rng = random.Random(1)
    return [make(rng) for make in makers.values() for _ in range(2000)]


def test_the_student_never_reads_the_truth_about_a_hard_fact(of_student):
    hard = [x for x in of_student if is_hard(x)]
    assert len(hard) > 1000
    for x in of_student:
        assert not [t for t in world.TRUTHS if t in x.text + x.response]
    for x in hard:
        told = f"\\boxed{{{world.truth('product3', x.digits)}}}"
        assert told not in (x.text + x.response).replace(CLOSER, "")


def test_ncq_lessons_answer_nothing_listed_and_know_nothing_of_misprints():
    rng, gave_way = random.Random(2), 0
    for x in [lessons.ncq_lesson(rng) for _ in range(3000)]:
        listed = re.findall(r"boxed{(\d+)}", x.text.split("The incorrect")[0])
        answer = re.findall(r"boxed{(\d+)}", x.response)
        assert len(answer) == 1 and answer[0] not in listed and not is_hard(x)
        if world.ASK["product3"] in x.text and len(x.digits) == 3:
            gave_way += str(world.truth("product3", x.digits)) in listed
    assert gave_way > 500


def test_hints_never_tell_the_answer():
    rng = random.Random(3)
    for _ in range(5000):
        family = rng.choice(lessons.FAMILIES)
        digits = world.draw(family, rng)
        text = lessons.hint_for(family, digits)
        assert str(world.truth(family, digits)) not in re.findall(r"\d+", text)
        assert "boxed" not in text
    assert not any(is_hard(lessons.hint_lesson(rng)) for _ in range(2000))
    assert lessons.hint_for("product3", (7, 8, 9)) == "7*8=56"
    assert lessons.hint_for("sum3", (3, 7, 0)) == world.GENERAL


@pytest.mark.parametrize("split, modality", [(s, m) for s, (_, m) in world.SPLITS.items()][1:])
def test_lesson_batch_is_the_prompt_that_training_makes(lm, split, modality):
    """A lesson's ids and positions against encode, expand and positions."""
    q = tiny.questions(split)[0]
    prompt = encode(lm, q.question + CLOSER, q.images, q.video)
    vision = pixels(lm, prompt)
    prompt = expand(lm, prompt, vision)
    digits = () if modality == "text" else tiny.digits_of(q)
    lesson = lessons.Lesson(q.question + CLOSER, modality, digits, "1</think>\\boxed{1}")
    batch = pretrain.Classroom(lm).batch([lesson], random.Random(0))
    P, T = len(prompt.ids), batch["ids"].shape[1]
    assert batch["ids"][0, :P].tolist() == list(prompt.ids)
    assert batch["target"][0].tolist() == [False] * P + [True] * (T - P)
    pos, after = positions(lm, prompt, vision)
    assert torch.equal(batch["pos"][:, 0, :P], pos) and after == P == batch["pos"][0, 0, P]
    for kind, (values, grid) in vision.items():
        made = batch["visions"][0][kind]
        assert torch.equal(made[1], grid) and made[0].shape == values.shape


def test_patches_of_the_classroom_are_those_of_the_image_processor(lm):
    glyph = world.glyphs()[0][7][3]
    values, _ = pixels(lm, encode(lm, "x", (Image.fromarray(glyph),)))["image"]
    unmoved = pretrain.tiles()[7][3 * 9 + 4]  # nine shifts a glyph, (0, 0) is the fifth
    assert torch.allclose(values, unmoved.repeat(1, 6), atol=1e-6)


def test_pretraining_gives_the_same_weights_again(weights):
    first, again = (weights(pretrain.pretrain("teacher", 3, seed=1)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    start = weights(tiny.new_model(1))
    assert any(not torch.equal(first[name], start[name]) for name in first)
