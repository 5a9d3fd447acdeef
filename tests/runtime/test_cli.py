"""What a user can get wrong on the command line ends in one clear line and a status that is not 0.

python -m pytest tests/runtime/test_cli.py
"""

import json
import shutil
import socket

import pytest
from PIL import Image

import config
import tiny
import train
from runtime.files import read_jsonl

SMALL = "--batch 1 --n 2".split()


def fails(capsys, *flags):
    """The error of train.py with these flags, as its one line."""
    with pytest.raises((ValueError, OSError, SystemExit)) as e:
        train.main([str(flag) for flag in flags])
    if isinstance(e.value, SystemExit):
        assert e.value.code != 0
        return capsys.readouterr().err.strip().splitlines()[-1]
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture
def out(tmp_path):
    """A folder that is not there yet."""
    return tmp_path / "run"


@pytest.fixture
def data(tmp_path):
    """data(row, key=value): a data folder with one image question and one text question, of which
    some values are others.
    """
    q = tiny.questions("train")[0]
    q.images[0].save(tmp_path / "a.png")
    rows = [
        {"id": "a", "question": q.question, "answer": q.answer, "images": ["a.png"]},
        {"id": "b", "question": "2 3\n" + q.question, "answer": "6"},
    ]

    def write(row=0, **changed):
        rows[row].update(changed)
        (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return tmp_path

    return write


def halve(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def test_unknown_flag(capsys):
    assert "--lrr" in fails(capsys, "--lrr", 1)


def test_missing_data(capsys):
    assert "no/such.jsonl" in fails(capsys, "--data", "no/such.jsonl")


def test_question_without_answer(capsys, data):
    message = fails(capsys, "--data", data(1, answer=""))
    assert "line 2" in message and "'answer'" in message


def test_image_that_does_not_open(capsys, data, tmp_path, out):
    folder = data()
    (tmp_path / "a.png").write_bytes(b"not a picture")
    message = fails(capsys, "--data", folder, "--out", out)
    assert "question a" in message and "a.png" in message


def test_truncated_image(capsys, data, tmp_path, out):
    folder = data()
    halve(tmp_path / "a.png")
    assert "a.png" in fails(capsys, "--data", folder, "--out", out)


def test_model_folder_without_tokenizer(capsys, tmp_path):
    shutil.copytree(config.HERE / "assets/student", tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "m" / name).unlink(missing_ok=True)
    message = fails(capsys, "--student", tmp_path / "m", "--teacher", "tiny")
    assert str(tmp_path / "m") in message and "tokenizer" in message


def test_missing_model_folder(capsys):
    flags = "--student ./no-model --teacher tiny --device cpu".split()
    assert "./no-model" in fails(capsys, *flags)


def test_a_student_of_ones_own_needs_a_teacher_of_ones_own(capsys):
    assert "--teacher" in fails(capsys, "--student", "./no-model", "--device", "cpu")


def test_lengths_beyond_the_context_fail_before_the_run_folder_is_made(capsys, out):
    assert "context of 1024" in fails(capsys, "--max-response", 2000, "--out", out)
    assert not out.exists()


def test_out_folder_exists(capsys, tmp_path):
    (tmp_path / "x").write_text("mine")
    message = fails(capsys, "--out", tmp_path)
    assert "exists" in message and "--resume" in message
    assert (tmp_path / "x").read_text() == "mine"


def test_resume_without_a_checkpoint(capsys, tmp_path):
    assert "no complete checkpoint" in fails(capsys, "--resume", "--out", tmp_path)


OUT_OF_RANGE = {
    "--n 1": "baseline",
    "--tau 0": "--tau",
    "--batch 0": "--batch",
    "--temperature 0": "--temperature",
    "--micro-tokens 0": "--micro-tokens",
    "--timeout 1": "--timeout",
    "--micro-batch 4": "--micro-batch",
}


@pytest.mark.parametrize("flags", OUT_OF_RANGE)
def test_numbers_out_of_range(capsys, flags):
    assert OUT_OF_RANGE[flags] in fails(capsys, *flags.split())


SERVER = "--teacher-url http://127.0.0.1:9/v1"
CONTRADICTIONS = {
    "--method grpo --bcq": "--method grpo has no BCQ, --method zppo",
    "--method hint --ncq": "--method hint has no NCQ",
    "--method on-distill --iterations 4": "one update per rollout step, --iterations 4",
    "--teacher-ranks 1": "--teacher-ranks 1, no student rank, --teacher-ranks 0",
    SERVER: "http://127.0.0.1:9",
    f"{SERVER} --teacher tiny": "--teacher-url, without --teacher",
    "--student 0.8b": "zppo-77k, data.py build",
}


@pytest.mark.parametrize("flags", CONTRADICTIONS)
def test_what_contradicts_itself_or_is_not_there(capsys, tmp_path, out, monkeypatch, flags):
    """One line, no run folder, and no network but the one that was asked for."""
    real = socket.socket.connect

    def connect(self, address):
        assert address[0] == "127.0.0.1", f"{address} was asked for a file"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("engines.client.WAITS", (0.01, 0.01, 0.01))
    monkeypatch.chdir(tmp_path)  # no folder zppo-77k here
    message = fails(capsys, *flags.split(), "--device", "cpu", "--out", out)
    assert all(words in message for words in CONTRADICTIONS[flags].split(", "))
    assert not out.exists()


def test_prompt_longer_than_allowed(capsys, data, out):
    message = fails(capsys, "--data", data(1, question="x" * 300), "--out", out)
    assert "question b" in message and "--max-prompt" in message


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(monkeypatch, data, out):
    """The metrics of step 3 can't be written, as on a full disk: it and the steps before must be in
    a checkpoint.
    """
    from runtime import metrics

    real, calls = metrics.append_jsonl, []

    def full(path, records):
        calls.append(path)
        if len(calls) == 6:  # metrics of step 0, metrics and samples of steps 1 and 2; of step 3
            raise OSError(28, "No space left on device", str(path))
        return real(path, records)

    monkeypatch.setattr(metrics, "append_jsonl", full)
    argv = ["--data", data(), "--out", out, "--steps", 5, *SMALL]
    with pytest.raises(ValueError, match="No space left on device.*\n.*--resume"):
        train.main([str(x) for x in argv])
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000003"]
    assert [r["step"] for r in read_jsonl(out / "metrics.jsonl")] == [0, 1, 2]
    # the record that was not written is in the checkpoint, and written by the run that goes on
    monkeypatch.setattr(metrics, "append_jsonl", real)
    assert train.main([*map(str, argv), "--resume"]) == 0
    assert [r["step"] for r in read_jsonl(out / "metrics.jsonl")] == [0, 1, 2, 3, 4, 5]


def test_an_image_that_breaks_in_the_middle_of_a_run_loses_nothing(monkeypatch, data, out):
    import processor

    real, calls = processor.decode, []

    def breaks(images, where, *more):
        calls.extend(images)
        if len(calls) > 9 and images:
            raise ValueError(f"{where}: the image a.png does not open")
        return real(images, where)

    monkeypatch.setattr(processor, "decode", breaks)
    argv = ["--data", data(), "--out", out, "--steps", 50, *SMALL]
    with pytest.raises(ValueError, match="does not open.*\n.*--resume"):
        train.main([str(x) for x in argv])
    assert len(list((out / "checkpoints").iterdir())) == 1


def test_text_only_questions_and_images_mix(data, out):
    argv = ["--data", data(), "--out", out, "--steps", 1, *SMALL]
    assert train.main([str(x) for x in argv]) == 0
    assert (out / "final/model.safetensors").is_file()
    assert Image.open(out / "figures/accuracy.png").width > 100


def test_a_corrupt_image_met_later_is_skipped_and_counted_only_when_asked(tmp_path, capsys):
    """Row 36 of 40 is beyond the rows whose images are opened at the start; one step draws all."""
    rows = []
    for i, q in enumerate(tiny.questions("train")[:40]):
        q.images[0].save(tmp_path / f"{i}.png")
        row = {"id": str(i), "question": q.question, "answer": q.answer, "images": [f"{i}.png"]}
        rows.append(json.dumps(row) + "\n")
    halve(tmp_path / "35.png")
    (tmp_path / "questions.jsonl").write_text("".join(rows))
    small = ["--data", str(tmp_path), *"--steps 1 --batch 10 --n 2".split()]
    message = fails(capsys, *small, "--out", tmp_path / "a")
    assert "question 35" in message and "35.png" in message
    assert train.main([*small, "--out", str(tmp_path / "b"), "--skip-bad"]) == 0
    said = capsys.readouterr().err
    assert "35.png" in said and "(1 so far)" in said
    assert read_jsonl(tmp_path / "b/metrics.jsonl")[1]["groups"]["new"]["groups"] == 39
