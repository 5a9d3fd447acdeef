"""--grader FILE:FUNCTION: whose word a reward is, of student, teacher and held-out questions.

python -m pytest -n 0 tests/runtime/test_grader.py
"""

import pytest

from data import BadRow, Question, QuestionCheck, in_memory
from distributed import World
from eval import evaluate_on_all_ranks
from records import RolloutRequest
from reward import grade
from rollout import rollout
from runtime.grader import grader

LONG = "def long(response, golds):\n    return len(response) >= int(golds[0])\n"


@pytest.fixture
def spec(tmp_path):
    """spec(source, name) -> FILE:FUNCTION."""

    def write(source=LONG, name="long"):
        path = tmp_path / "mine.py"
        path.write_text(source)
        return f"{path}:{name}"

    yield write
    grader.cache_clear()  # the next test's file may have this one's name


def test_without_the_flag_it_is_the_papers():
    assert grader("") is grade


def test_the_function_is_asked(spec):
    mine = grader(spec())
    assert [mine(text, ("3",)) for text in ("abc", "ab")] == [1.0, 0.0]
    assert type(mine("abc", ("3",))) is float


@pytest.mark.parametrize(
    "source, name, message",
    [
        (LONG, "short", "has no function short"),
        ("x = 1", "x", "has no function x"),
        ("import nothing_of_this_name", "f", "does not run .ModuleNotFoundError"),
        ("def f(:", "f", "does not run .SyntaxError"),
    ],
)
def test_a_bad_file_is_told_before_any_work(spec, cfg, source, name, message):
    with pytest.raises(ValueError, match=message) as e:
        cfg("--grader", spec(source, name))
    assert "\n" not in str(e.value) and "--grader" in str(e.value)


@pytest.mark.parametrize(
    "given, message",
    [("grade", "give FILE:FUNCTION"), ("a.py:", "give FILE"), ("none.py:f", "no file none.py")],
)
def test_a_bad_flag(cfg, given, message):
    with pytest.raises(ValueError, match=message):
        cfg("--grader", given)


@pytest.mark.parametrize("body", ["0.5", "None", "'1'", "float('nan')", "2", "1 / 0", "golds[9]"])
def test_a_verdict_is_1_or_0(spec, body):
    mine = grader(spec(f"def f(response, golds):\n    return {body}\n", "f"))
    with pytest.raises(ValueError, match="--grader .*the end of it'") as e:
        mine("x" * 500 + "the end of it", ("1",))
    assert "\n" not in str(e.value) and len(str(e.value)) < 500


def test_student_teacher_and_held_out_questions_are_graded_by_it(spec, cfg, make_job, questions):
    """A grader that calls everything right, where the paper's calls everything wrong."""
    settings = "--n 2 --max-response 4 --teacher-n 2 --batch 1 --iterations 1"
    for source, want in (("1", 1.0), ("0", 0.0)):
        path = spec(f"def f(response, golds):\n    return {source}\n", "f")
        c, q = cfg(settings, "--grader", path), questions["text"][0]
        grader.cache_clear()
        job = make_job(c, lambda prompt, k: "no box")
        engine, request = job.engine, RolloutRequest("plain", "new", q, q.question)
        [group] = rollout(engine, [request], 1, c, World())
        [answers] = job.teacher.answers([q], step=1)
        rows = evaluate_on_all_ranks(engine, {"heldout": [q]}, c, World())["heldout"]
        found = [s.reward for s in (*group.samples, *answers)] + [rows[0][2]]
        assert found == [want] * 5


def test_golds_need_not_be_what_the_papers_grader_would_take():
    q = Question("q", "Write a haiku.", "")
    with pytest.raises(BadRow, match="earn nothing"):
        in_memory([q], check=QuestionCheck())
    assert len(in_memory([q], check=QuestionCheck(own_grader=True)).good) == 1
