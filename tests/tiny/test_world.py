"""The tiny world's questions.

python -m pytest tests/tiny
"""

import hashlib

import pytest

import tiny
from reward import grade
from tiny import world


def pixels_of(question):
    return tuple(image.tobytes() for image in (*question.images, *question.video))


# changes only when the world itself does, and then every number in the README with it
DIGESTS = {
    "train": "be6f4dcf62057e82",
    "heldout": "04538d33ad107c2b",
    "heldout_text": "7391989e14a69599",
    "heldout_video": "183c438b6a90ee2a",
}


@pytest.mark.parametrize("split", DIGESTS)
def test_questions_are_what_they_were(split):
    asked = [
        (q.id, q.question, q.answer, q.source, list(pixels_of(q))) for q in tiny.questions(split)
    ]
    assert hashlib.sha256(repr(asked).encode()).hexdigest()[:16] == DIGESTS[split]


def test_ids_are_unique():
    ids = [q.id for split in world.SPLITS for q in tiny.questions(split)]
    assert len(ids) == len(set(ids)) == sum(n for n, _ in world.SPLITS.values())


def test_train_and_heldout_glyphs_are_disjoint():
    train, held = ({g.tobytes() for gs in part.values() for g in gs} for part in world.glyphs())
    assert not train & held
    for split, part in (("train", train), ("heldout", held)):
        for q in tiny.questions(split)[:50]:
            image, side = q.images[0], world.SIDE
            lefts = range(0, image.width, side)
            cells = [image.crop((x, 0, x + side, side)).tobytes() for x in lefts]
            assert len(cells) == len(tiny.digits_of(q)) and set(cells) <= part


@pytest.mark.parametrize("split", DIGESTS)
def test_every_answer_is_graded_right_by_its_own_steps_and_every_misprint_wrong(split):
    for q in tiny.questions(split):
        digits = tiny.digits_of(q)
        right = world.response(tiny.trace(q.source, digits, q.answer), q.answer)
        assert grade(right, q.answer) == 1
        misprint = tiny.printed(q.source, digits)
        wrong = world.response(tiny.trace(q.source, digits, misprint), misprint)
        assert grade(wrong, q.answer) == (not tiny.is_hard(q))


@pytest.mark.parametrize("split", DIGESTS)
def test_share_of_hard_questions(split):
    asked = tiny.questions(split)
    assert 0.44 <= sum(map(tiny.is_hard, asked)) / len(asked) <= 0.46


def test_misprints_stand_in_a_second_step_and_are_a_carry_away():
    assert len(world.MISPRINTS) == 32
    for (a, c), wrong in world.MISPRINTS.items():
        assert a >= 10 and abs(wrong - a * c) == 10
        assert len(str(wrong)) == len(str(a * c))
    higher = {wrong > a * c for (a, c), wrong in world.MISPRINTS.items()}
    assert higher == {True, False}  # both directions: no rule finds the truth
