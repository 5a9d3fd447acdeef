"""Shared by the tests of the corpus builder."""

import json

import pytest

import model
from corpus import build as corpus


@pytest.fixture(scope="session")
def tokenizer(lm, tmp_path_factory):
    """The folder of a vision model, as --tokenizer takes it. Its prompts have about one token a
    character.
    """
    folder = tmp_path_factory.mktemp("model")
    model.save(lm, folder)
    return str(folder)


@pytest.fixture
def build(tokenizer, tmp_path):
    """build(vero folder, mmfr folder, ...) -> (report, rows of questions.jsonl), the sources being
    "" when left out.
    """

    def run(vero="", mmfr="", out="out", **options):
        report = corpus.build(tmp_path / out, str(vero), str(mmfr), tokenizer, **options)
        text = (tmp_path / out / "questions.jsonl").read_text(encoding="utf-8")
        return report, [json.loads(line) for line in text.splitlines()]

    return run


@pytest.fixture
def only():
    """only(report, name=..., ...): the one entry of the report that matches; its counts add up."""

    def find(report, **match):
        [row] = [r for r in report["subsets"] if all(r[k] == v for k, v in match.items())]
        assert row["seen"] == row["kept"] + row["over_cap"] + sum(row["dropped"].values())
        return row

    return find
