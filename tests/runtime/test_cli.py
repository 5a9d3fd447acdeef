"""What a user can get wrong on the command line ends in one clear line and a status that is not 0.

python -m pytest tests/test_cli.py
"""

import json
import shutil
import socket

import pytest
from PIL import Image

import config
import tiny
import train


def fails(capsys, *flags):
    """The error of train.py with these flags, as its one line."""
    with pytest.raises((ValueError, OSError, SystemExit)) as e:
        train.main(list(flags))
    if isinstance(e.value, SystemExit):
        assert e.value.code != 0
        return capsys.readouterr().err.strip().splitlines()[-1]
    return str(e.value)


@pytest.fixture
def data(tmp_path):
    """A data folder with one image question and one text question; returns (folder, rewrite)."""
    q = tiny.questions("train")[0]
    q.images[0].save(tmp_path / "a.png")
    rows = [
        {"id": "a", "question": q.question, "answer": q.answer, "images": ["a.png"]},
        {"id": "b", "question": "2 3\n" + q.question, "answer": "6"},
    ]

    def write(changed=None):
        for r in changed or []:
            rows[r[0]].update(r[1])
        (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(tmp_path)

    return write


def test_unknown_flag(capsys):
    assert "--lrr" in fails(capsys, "--lrr", "1")


def test_missing_data(capsys):
    assert "no/such.jsonl" in fails(capsys, "--data", "no/such.jsonl")


def test_question_without_answer(capsys, data):
    message = fails(capsys, "--data", data([(1, {"answer": ""})]))
    assert "line 2" in message and "'answer'" in message


def test_image_that_does_not_open(capsys, data, tmp_path):
    folder = data()
    (tmp_path / "a.png").write_bytes(b"not a picture")
    message = fails(capsys, "--data", folder, "--out", str(tmp_path / "out"))
    assert "question a" in message and "a.png" in message and "\n" not in message


def test_truncated_image(capsys, data, tmp_path):
    folder = data()
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert "a.png" in fails(capsys, "--data", folder, "--out", str(tmp_path / "out"))


def test_model_folder_without_tokenizer(capsys, tmp_path):
    shutil.copytree(config.HERE / "assets/student", tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    message = fails(capsys, "--student", str(tmp_path / "m"), "--teacher", "tiny")
    assert str(tmp_path / "m") in message and "tokenizer" in message


def test_missing_model_folder(capsys):
    assert "./no-model" in fails(capsys, "--student", "./no-model", "--teacher", "tiny")


def test_a_student_of_ones_own_needs_a_teacher_of_ones_own(capsys):
    assert "--teacher" in fails(capsys, "--student", "./no-model")


def test_lengths_beyond_the_context_fail_before_the_run_folder_is_made(capsys, tmp_path):
    assert "context of 1024" in fails(
        capsys, "--max-response", "2000", "--out", str(tmp_path / "o")
    )
    assert not (tmp_path / "o").exists()


def test_out_folder_exists(capsys, tmp_path):
    (tmp_path / "x").write_text("mine")
    message = fails(capsys, "--out", str(tmp_path))
    assert "exists" in message and "--resume" in message
    assert (tmp_path / "x").read_text() == "mine"


def test_resume_without_a_checkpoint(capsys, tmp_path):
    assert "no complete checkpoint" in fails(capsys, "--resume", "--out", str(tmp_path))


@pytest.mark.parametrize(
    "flags, word",
    [
        (("--n", "1"), "baseline"),
        (("--tau", "0"), "--tau"),
        (("--batch", "0"), "--batch"),
        (("--temperature", "0"), "--temperature"),
        (("--micro-tokens", "0"), "--micro-tokens"),
        (("--timeout", "1"), "--timeout"),
        (("--micro-batch", "4"), "--micro-batch"),
    ],
)
def test_numbers_out_of_range(capsys, flags, word):
    assert word in fails(capsys, *flags)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--method", "grpo", "--bcq"), ("--method grpo has no BCQ", "--method zppo")),
        (("--method", "hint", "--ncq"), ("--method hint has no NCQ",)),
        (
            ("--method", "on-distill", "--iterations", "4"),
            ("one update per rollout step", "--iterations 4"),
        ),
        (("--teacher-ranks", "1"), ("--teacher-ranks 1", "no student rank", "--teacher-ranks 0")),
        (
            ("--teacher-url", "http://127.0.0.1:9/v1", "--teacher", "tiny"),
            ("--teacher-url", "without --teacher"),
        ),
        (("--teacher-url", "http://127.0.0.1:9/v1", "--timeout", "5"), ("http://127.0.0.1:9",)),
        (("--student", "0.8b"), ("zppo-77k", "data.py build")),
    ],
)
def test_what_contradicts_itself_or_is_not_there(capsys, tmp_path, monkeypatch, flags, words):
    """One line, no run folder, and no network but the one that was asked for."""
    real = socket.socket.connect

    def connect(self, address):
        assert address[0] == "127.0.0.1", f"{address} was asked for a file"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.chdir(tmp_path)  # no folder zppo-77k here
    message = fails(capsys, *flags, "--device", "cpu", "--out", str(tmp_path / "out"))
    assert (
        all(w in message for w in words) and "\n" not in message and not (tmp_path / "out").exists()
    )


def test_prompt_longer_than_allowed(capsys, data, tmp_path):
    folder = data([(1, {"question": "x" * 300})])
    message = fails(capsys, "--data", folder, "--out", str(tmp_path / "out"))
    assert "question b" in message and "--max-prompt" in message


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(tmp_path, monkeypatch, data):
    """The metrics of step 3 can't be written, as on a full disk: it and the steps before must be in
    a checkpoint.
    """
    from runtime import metrics

    real, calls = metrics._append, []

    def full(path, records):
        calls.append(path)
        if len(calls) == 7:  # metrics and samples of steps 0, 1, 2; the metrics of step 3
            raise OSError(28, "No space left on device", str(path))
        return real(path, records)

    monkeypatch.setattr(metrics, "_append", full)
    with pytest.raises(ValueError, match="No space left on device"):
        train.main(
            [
                "--data",
                data(),
                "--out",
                str(tmp_path / "run"),
                "--steps",
                "5",
                "--batch",
                "1",
                "--n",
                "2",
            ]
        )
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"]


def test_an_image_that_breaks_in_the_middle_of_a_run_loses_nothing(tmp_path, monkeypatch, data):
    import run

    real, calls = run.decode, []

    def breaks(images, where):
        calls.append(where)
        if len(calls) > 30:
            raise ValueError(f"question {where}: the image a.png does not open")
        return real(images, where)

    monkeypatch.setattr(run, "decode", breaks)
    with pytest.raises(ValueError, match="does not open.*\n.*--resume"):
        train.main(
            [
                "--data",
                data(),
                "--out",
                str(tmp_path / "run"),
                "--steps",
                "50",
                "--batch",
                "1",
                "--n",
                "2",
            ]
        )
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1


def test_text_only_questions_and_images_mix(tmp_path, data):
    assert (
        train.main(
            [
                "--data",
                data(),
                "--out",
                str(tmp_path / "run"),
                "--steps",
                "1",
                "--batch",
                "1",
                "--n",
                "2",
            ]
        )
        == 0
    )
    assert (tmp_path / "run/final/model.safetensors").is_file() and Image.open(
        tmp_path / "run/figures/accuracy.png"
    ).width > 100


def test_a_corrupt_image_met_later_is_skipped_and_counted_only_when_asked(tmp_path, capsys):
    """Row 36 of 40 is beyond the rows whose images are opened at the start; one step draws all 40."""
    rows = []
    for i, q in enumerate(tiny.questions("train")[:40]):
        q.images[0].save(tmp_path / f"{i}.png")
        rows.append(
            {"id": str(i), "question": q.question, "answer": q.answer, "images": [f"{i}.png"]}
        )
    whole = (tmp_path / "35.png").read_bytes()
    (tmp_path / "35.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    small = ["--data", str(tmp_path), "--steps", "1", "--batch", "10", "--n", "2"]
    message = fails(capsys, *small, "--out", str(tmp_path / "a"))
    assert "question 35" in message and "35.png" in message
    assert train.main([*small, "--out", str(tmp_path / "b"), "--skip-bad"]) == 0
    assert "35.png" in (err := capsys.readouterr().err) and "(1 so far)" in err
    new = json.loads((tmp_path / "b/metrics.jsonl").read_text().split("\n")[1])["groups"]["new"]
    assert new["groups"] == 39
