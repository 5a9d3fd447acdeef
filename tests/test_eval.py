"""eval.py: the tiny world as train.py measures it, the command line, and who holds the model.

python -m pytest tests/test_eval.py
"""

import subprocess
import sys
from pathlib import Path

import pytest

import evaluation.suite as ev
import tiny
from engines.hf import HFEngine
from eval import SPLITS, evaluate
from model import load

REPO = Path(__file__).resolve().parent.parent

# ---- the tiny world ------------------------------------------------------------------------------


def test_tiny_is_measured_as_train_measures_it(lm, tmp_path, capsys):
    args = ev.flags(["m", "--tiny", "--limit", "12", "--out", str(tmp_path)])
    results, missing = ev.run(args, engine=HFEngine(lm))
    assert not missing and [r["name"] for r in results] == ["image", "text", "video"]
    for r, split in zip(results, SPLITS):
        qs = tiny.questions(split)
        some = [qs[k * len(qs) // 12] for k in range(12)]
        expected = evaluate(HFEngine(lm), some, 40)
        assert r["score"] == pytest.approx(100 * sum(x[2] for x in expected) / 12) and r["n"] == 12
    assert "tiny world average" in capsys.readouterr().out


def test_tiny_command_line(tmp_path, lm):
    from model import save as save_model

    save_model(lm, tmp_path / "model")
    done = subprocess.run(
        [
            sys.executable,
            "eval.py",
            str(tmp_path / "model"),
            "--tiny",
            "--only",
            "text",
            "--limit",
            "6",
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "tiny world, as text" in done.stdout and {
        p.name for p in (tmp_path / "out").iterdir()
    } >= {"results.md", "results.csv", "results.json", "settings.json", "responses"}


def test_decoding_defaults():
    a, t = ev.flags(["m"]), ev.flags(["m", "--tiny"])
    assert (a.temperature, a.top_p, a.top_k, a.presence_penalty, a.max_new) == (
        0.6,
        0.95,
        20,
        1.5,
        12_288,
    )
    assert (a.min_pixels, a.max_pixels) == (256 * 32 * 32, 1280 * 32 * 32)
    assert (t.temperature, t.presence_penalty, t.max_new) == (0.0, 0.0, 40) and ev.flags(
        ["m", "--tiny", "--temperature", "0.6"]
    ).temperature == 0.6


class Served(HFEngine):
    """A stand-in for engines.client.ClientEngine over a server of the model at url."""

    opened = []

    def __init__(self, url, model="", lm=None, who="", flag=""):
        super().__init__(load(url))
        Served.opened.append((url, lm.path, who, flag))

    def close(self):
        Served.opened.append("closed")


def test_several_gpus_are_one_server_with_data_parallelism(tmp_path, lm, monkeypatch):
    from contextlib import contextmanager

    from model import save as save_model

    started = []

    @contextmanager
    def vllm_server(model, log, **options):
        started.append((model, log, options))
        yield str(tmp_path / "model")
        started.append("stopped")

    monkeypatch.setattr("engines.server.vllm_server", vllm_server)
    monkeypatch.setattr("engines.client.ClientEngine", Served)
    save_model(lm, tmp_path / "model")
    path, scores_ = str(tmp_path / "model"), []
    for flags in (["--engine", "hf"], ["--engine", "vllm", "--workers", "8"]):
        out = ["--out", str(tmp_path / flags[1])]
        args = ev.flags([path, "--tiny", "--only", "text", "--limit", "6", *flags, *out])
        results, missing = ev.run(args)
        scores_.append([(r["n"], r["score"]) for r in results])
        assert not missing
    assert scores_[0] == scores_[1]
    log = tmp_path / "vllm/server.log"
    assert started == [(path, log, {"data_parallel_size": 8}), "stopped"]
    assert Served.opened == [(path, path, "the model", "--engine"), "closed"]
    with pytest.raises(ValueError, match="--workers needs --engine vllm"):
        ev.flags([path, "--engine", "hf", "--workers", "2"])


def test_presence_penalty_in_the_engine(lm, few):
    from processor import CLOSER, encode

    engine = HFEngine(lm)
    prompts = [encode(lm, q.question + CLOSER, q.images, q.video) for q in few]
    plain = engine.sample(prompts, 2, 24, 0, 0.0)
    same = engine.sample(prompts, 2, 24, 0, 0.0, presence_penalty=1e-9)
    assert [s.response_ids for g in plain for s in g] == [s.response_ids for g in same for s in g]
    never = engine.sample(
        prompts, 2, 24, 0, 0.0, presence_penalty=1e9
    )  # no token twice in a response
    assert all(len(set(s.response_ids)) == len(s.response_ids) for g in never for s in g)
    assert any(len(set(s.response_ids)) < len(s.response_ids) for g in plain for s in g)
    drawn = engine.sample(prompts, 2, 24, 3, 0.6, 0.95, 20, presence_penalty=1.5)
    assert (
        drawn == engine.sample(prompts, 2, 24, 3, 0.6, 0.95, 20, presence_penalty=1.5)
        and drawn[0][0].response_ids != drawn[0][1].response_ids
    )
