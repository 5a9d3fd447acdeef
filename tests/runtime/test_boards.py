"""What a run shows while it goes on: TensorBoard, read back by its own reader and text plugin; W&B,
by the files of an offline run; figures at a checkpoint.

python -m pytest -n 0 -m "slow or not slow" tests/runtime/test_boards.py
"""

import html
import json
import re
import sys

import pytest
import run_fixtures
from PIL import Image

from data import Question
from records import Group, Prompt, Sample
from runtime import boards
from runtime.metrics import Log

HOSTILE = "7*8=56,56*9=504</think> a|b `c` <script>alert(1)</script>\n_d_ \\boxed{504}"


@pytest.fixture
def groups(lm):
    picture = Image.new("L", (40, 20), 90)
    prompt = Prompt(tuple(lm.tokenizer("Hi")["input_ids"]), (picture,))
    samples = tuple(
        Sample(prompt, (1,), (-1.0,), text, False, 0, "plain", "q", reward)
        for text, reward in [(HOSTILE, 1.0), ("hm", 0.0)]
    )
    return [Group(0, "plain", "new", Question("q", "2+3?", "5", source="sums"), samples)]


def write(log, groups):
    """Steps 1 and 2, and the figures as of step 2."""
    for step in (1, 2):
        log.step(run_fixtures.line(step, loss=step / 4), groups, [1.5, -1.5], 1)
    log.draw(2)
    log.close()


def test_tensorboard_reads_numbers_tables_and_figures(tmp_path, lm, groups):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    write(Log(tmp_path, lm.tokenizer, tensorboard=True), groups)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 0.25), (2, 0.5)]
    assert [e.step for e in read.Tensors("samples/text_summary")] == [1, 2]
    shown = read.Tensors("samples/text_summary")[-1].tensor_proto.string_val[0].decode()
    page = markdown_to_safe_html(shown)
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in page.split("<tr>")[1:]]
    assert rows[0] == boards.COLUMNS and len(rows) == 3
    assert all(len(row) == len(boards.COLUMNS) for row in rows)
    assert html.unescape(rows[1][5].replace("<br>", "\n")) == HOSTILE
    assert rows[1][6:] == ["1", "1.5"]
    drawn = {p.stem for p in (tmp_path / "figures").glob("*.png")}
    assert {f"figures/{name}" for name in drawn} == set(read.Tags()["images"]) and drawn
    [image] = read.Images("figures/accuracy")
    assert (image.step, image.encoded_image_string[:4]) == (2, b"\x89PNG")
    assert (tmp_path / "samples.html").stat().st_size > 5000


@pytest.mark.slow
def test_wandb_offline_holds_numbers_tables_and_figures(tmp_path, lm, groups, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    write(Log(tmp_path, lm.tokenizer, wandb=True, config={"tau": 0.5}), groups)
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    [table, _] = sorted((folder / "files/media/table").glob("samples_*.table.json"))
    content = json.loads(table.read_text())
    assert content["columns"] == ["picture", *boards.COLUMNS]
    assert [row[6] for row in content["data"]] == [HOSTILE, "hm"]
    assert [row[7:] for row in content["data"]] == [[1, 1.5], [0, -1.5]]
    assert content["data"][0][0] == "Image"  # W&B keeps the picture itself in an artifact
    drawn = {p.stem for p in (tmp_path / "figures").glob("*.png")}
    found = {p.name for p in (folder / "files/media/images/figures").glob("*.png")}
    assert len(found) == len(drawn) > 0
    [file] = folder.glob("run-*.wandb")
    raw = file.read_bytes()
    assert all(word in raw for word in (b"groups/new/samples", b"loss", b"0.25", b"0.5"))


def test_what_cant_be_drawn_is_a_warning(tmp_path, lm, groups, capsys, monkeypatch):
    log = Log(tmp_path, lm.tokenizer)

    def broken(out):
        raise OSError("No space left on device")

    monkeypatch.setattr("runtime.metrics.draw", broken)
    log.draw(7)
    assert "no figures at step 7 (OSError: No space left" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "figures", None)  # deleted, with the other surroundings
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "figures", None)
    log.draw(7)
    assert capsys.readouterr().err == ""


def test_a_run_draws_at_every_checkpoint_but_the_last(play, monkeypatch):
    """After the last one finish() draws, with the held-out results."""
    drawn = []
    monkeypatch.setattr("runtime.metrics.Log.draw", lambda log, step: drawn.append(step))
    play(lambda *at: 0, "--batch 2 --save-every 2", questions=4, steps=5)
    assert drawn == [2, 4]


@pytest.mark.parametrize("value", ["a|b", "*a*", "[x](y)", "<b>", "a\nb", "&amp;", "", 0.5, 1e-9])
def test_a_cell_is_one_cell(value):
    text = boards.cell(value)
    assert not set("|*<>[]`_") & set(text.replace("<br>", "")) and "\n" not in text
