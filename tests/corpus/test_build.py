"""The corpus builder: sample and caps, kills and restarts, hostile names, the command line, memory.

python -m pytest tests/corpus/test_build.py       # -m slow -s: 100,000 rows, rows/s, peak memory
"""

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import corpus_fixtures as fx
import datasets
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import mmfr, picture, vero
from PIL import Image

import data
from corpus import build as corpus
from corpus import sources

HERE = Path(__file__).resolve().parent.parent.parent
datasets.disable_progress_bars()


def command(out, vero, mmfr, tokenizer):
    """What follows `python data.py`."""
    options = {"out": out, "vero": vero, "mmfr": mmfr, "tokenizer": tokenizer}
    return ["build", *(str(x) for k, v in options.items() for x in (f"--{k}", v))]


def tree(folder):
    """{relative path: hash of the bytes} of everything in a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def test_cap_and_sample(tmp_path, build, monkeypatch, only):
    monkeypatch.setitem(sources.CAPS, 1, 10)
    fx.write_vero(
        tmp_path / "vero",
        {
            "stem-wemath20_pro": [vero(n) for n in range(30)],
            "stem-wemath20_standard": [
                vero(100 + n, kind="numeric" if n % 2 else "llm_judge") for n in range(40)
            ],
        },
    )
    first, second, again = (
        build(tmp_path / "vero", out=out, seed=seed) for out, seed in (("a", 0), ("b", 1), ("c", 0))
    )
    assert first[1] == again[1] != second[1] and len(first[1]) == 10
    rows = [only(first[0], name=f"stem-wemath20_{kind}") for kind in ("pro", "standard")]
    assert sum(r["kept"] for r in rows) == 10 and all(
        r["kept"] for r in rows
    )  # one cap for both configs
    assert rows[1]["dropped"] == {"reward type llm_judge": 20}
    assert rows[0]["over_cap"] + rows[1]["over_cap"] == 40
    assert len(list((tmp_path / "a/images").rglob("*.png"))) == 10  # displaced images are gone


def test_a_bad_row_leaves_its_place_to_the_next(tmp_path, build, monkeypatch, only):
    """The cap counts rows that pass everything, the expensive filters included."""
    monkeypatch.setitem(sources.CAPS, 1, 10)
    fx.write_vero(
        tmp_path / "vero",
        {"stem-tqa": [vero(n, image=None if n % 2 else b"no image") for n in range(60)]},
    )
    report, rows = build(tmp_path / "vero")
    assert len(rows) == 10
    assert all(int(r["answer"]) % 2 for r in rows)
    assert only(report, name="stem-tqa")["dropped"]["image does not open"] > 0


def test_the_sample_is_uniform():
    """Which rows have the smallest draws does not depend on their place: 400 seeds, 10 of 40."""
    hits = Counter()
    for seed in range(400):
        draws = [
            hashlib.blake2b(f"{seed}/vero-x/0/{n}".encode(), digest_size=8).digest()
            for n in range(40)
        ]
        hits.update(sorted(range(40), key=draws.__getitem__)[:10])
    assert all(60 < hits[n] < 140 for n in range(40))  # 100 expected, standard deviation 8.7


def test_a_sub_set_of_which_nothing_is_left_stands_in_the_report(tmp_path, build, capsys, only):
    fx.write_vero(
        tmp_path / "vero", {"stem-tqa": [vero(0, kind="llm_judge")], "stem-raven": [vero(0)]}
    )
    file = tmp_path / "vero/stem-raven/train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    report, rows = build(tmp_path / "vero")
    assert rows == []
    assert only(report, name="stem-raven")["seen"] == 0
    assert only(report, name="stem-tqa")["kept"] == 0


def test_free_form_golds_are_marked_and_the_rule_is_in_the_report(tmp_path, build, only):
    golds = ["4", "B", "a cat", "x^2", "['two', '2']", "['2', 'two']"]
    kinds = [
        "numeric",
        "multiple_choice",
        "string_match",
        "string_match",
        *["list_string_match"] * 2,
    ]
    rows = [vero(n, gold=g, kind=k) for n, (g, k) in enumerate(zip(golds, kinds))]
    fx.write_vero(tmp_path / "vero", {"stem-tqa": rows})
    report, rows = build(tmp_path / "vero")
    assert [r.get("free_form", False) for r in rows] == [False, False, True, False, True, False]
    assert report["free_form"] == only(report, name="stem-tqa")["free_form"] == 2
    assert sources.EXACT_RULE in report["choices"]
    text = (tmp_path / "out/report.md").read_text()
    assert sources.EXACT_RULE in text and "6 rows, 2 of them free-form" in text
    assert [q.free_form for q in data.read(tmp_path / "out")] == [
        bool(r.get("free_form")) for r in rows
    ]


def test_limit(tmp_path, build, only):
    fx.write_vero(tmp_path / "vero", {"stem-tqa": [vero(n) for n in range(20)]}, shards=3)
    assert only(build(tmp_path / "vero", limit=9)[0], name="stem-tqa")["seen"] == 9


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(Vero folder, MMFineReason folder), small, with several shards."""
    folder = tmp_path_factory.mktemp("pair")
    configs = {
        "stem-ai2d_merged": [vero(n) for n in range(24)],
        "stem-tqa": [vero(n, prompt="dict", image=b"x" if n % 5 == 0 else None) for n in range(24)],
    }
    names = ["MMR1", "Euclid30K", "FineVision-tqa"]
    return (
        fx.write_vero(folder / "vero", configs, shards=2),
        fx.write_mmfr(folder / "mmfr", [mmfr(n, source=names[n % 3]) for n in range(45)], shards=3),
    )


class Stop(BaseException):
    """Stands for kill -9: nothing in the builder catches it."""


def test_stopped_at_any_write_and_started_again(tmp_path, build, pair, monkeypatch):
    """An exception at every write, rename and removal in turn; started again, the bytes are those
    of a straight build.
    """
    monkeypatch.setitem(sources.CAPS, 1, 7)  # rows get displaced, so that images are removed too
    build(*pair, out="straight")
    calls, at = 0, -1

    def counted(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                if real is write_bytes:
                    real(args[0], args[1][:10])  # half an image
                raise Stop
            return real(*args, **kwargs)

        return call

    write_bytes = Path.write_bytes
    for owner, name in (
        (Path, "write_bytes"),
        (Path, "rename"),
        (os, "replace"),
        (os, "unlink"),
        (corpus.shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    build(*pair, out="counted")
    total, stops = calls, 0
    for at in sorted({1, 2, *range(3, total, 31), *range(total - 6, total + 1)}):
        calls = 0
        out = f"at{at}"
        with pytest.raises(Stop):
            build(*pair, out=out)
        at, calls, stops = -1, 0, stops + 1
        build(*pair, out=out)
        assert tree(tmp_path / out) == tree(tmp_path / "straight")
        assert not (tmp_path / f"{out}.partial").exists()
    assert stops > 6


def test_kill_9_and_again(tmp_path, build, pair, tokenizer, monkeypatch):
    """SIGKILL in the middle of MMFineReason's second shard, both Vero sub-sets being done."""
    row, done = 48 + 20, 2
    build(*pair, out="straight")
    code = f"""
import os, sys
sys.path.insert(0, sys.argv[1])
from corpus import build
import data
seen, offer = [], build.Reservoir.offer
def counted(*args):
    if len(seen) == {row}:
        os.kill(os.getpid(), 9)
    seen.append(1)
    offer(*args)
build.Reservoir.offer = counted
data.main(sys.argv[2:])
"""
    argv = [*command(tmp_path / "killed", *pair, tokenizer)]
    killed = subprocess.run([sys.executable, "-c", code, str(HERE), *argv], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    partial = tmp_path / "killed.partial"
    assert partial.exists() and not (tmp_path / "killed").exists()
    finished = {
        p: p.stat().st_mtime_ns
        for p in partial.glob("state-vero-*")
        if json.loads(p.read_text())["next"] == 2
    }
    assert len(finished) == done
    seen, real = [], corpus.write_atomic
    monkeypatch.setattr(corpus, "write_atomic", lambda f, text: (seen.append(f), real(f, text)))
    build(*pair, out="killed")
    assert not {*finished} & {*seen}  # sub-sets that were done are not done again
    assert tree(tmp_path / "killed") == tree(tmp_path / "straight")


def test_other_settings_or_a_finished_folder_are_refused(tmp_path, build, pair):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/settings.json").write_text(json.dumps({"seed": 3}))
    with pytest.raises(ValueError, match="other settings .*seed 3 -> 0"):
        build(*pair)
    build(pair[0], out="done", limit=2)
    with pytest.raises(ValueError, match="exists already"):
        build(pair[0], out="done", limit=2)
    with pytest.raises(ValueError, match="nothing to build from"):
        build(out="none")


def test_a_source_that_changed_meanwhile_is_refused(tmp_path, build, pair, monkeypatch):
    monkeypatch.setattr(corpus, "sweep", lambda *a: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):
        build(pair[0])
    monkeypatch.undo()
    fx.write_vero(tmp_path / "vero", {"stem-ai2d_merged": [vero(0)], "stem-tqa": [vero(0)]})
    state = json.loads((tmp_path / "out.partial/settings.json").read_text())
    (tmp_path / "out.partial/settings.json").write_text(
        json.dumps({**state, "vero": str(tmp_path / "vero")})
    )
    with pytest.raises(ValueError, match="1 shards now and had 2 when the build began; pin it"):
        build(tmp_path / "vero")


def test_hostile_names_and_ids(tmp_path, build):
    rows = [mmfr(n, source=f"name {n}" if n > 1 else "x" * 1_000_000) for n in range(700)] + [
        mmfr(0, source="MMR1"),
        mmfr(1, source="MMR1"),
    ]
    rows[-1]["id"], rows[-2]["id"] = "\u202e" + "i" * 10_000, "a/../b"
    for r in rows[:-2]:
        r["image"] = {"bytes": b"x", "path": None}
    fx.write_mmfr(tmp_path / "mmfr", rows)
    report, kept = build("", tmp_path / "mmfr")
    assert len(report["subsets"]) < 510
    assert report["seen"] == 702
    assert [r["id"] for r in kept] == ["mmfr/MMR1/a/../b", "mmfr/MMR1/000-0000701"]
    assert all(re.fullmatch(r"images/mmfr-mmr1/\d{3}-\d{7}\.png", r["images"][0]) for r in kept)


def test_ids_are_unique_and_readable_whatever_the_source_says(tmp_path, build, tokenizer, capsys):
    rows = [
        mmfr(n, source=s)
        for n, s in enumerate(("MMR1", "MMR1", "MMR1", "MMR1\u202e", "new\x1b[2J"))
    ]
    for r, id in zip(rows, ("x", "x@000-0000002", "x", "y", "z")):
        r["id"] = id
    fx.write_mmfr(tmp_path / "mmfr", rows)
    assert data.main(command(tmp_path / "out", "", tmp_path / "mmfr", tokenizer)) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert (
        data.main(["check", str(tmp_path / "out")]) == 0 and len(data.read(tmp_path / "out")) == 4
    )


def test_a_broken_shard_is_named(tmp_path, build):
    folder = fx.write_vero(tmp_path / "vero", {"stem-tqa": [vero(n) for n in range(20)]}, shards=2)
    file = folder / "stem-tqa/train-00001-of-00002.parquet"
    raw = bytearray(file.read_bytes())
    raw[200:2200] = bytes(2000)
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="stem-tqa, shard 1, after row 0: can't be read"):
        build(folder)
    file.write_bytes(raw[:-200])
    with pytest.raises(ValueError, match="stem-tqa"):
        build(folder, out="other")


def test_command_line(tmp_path, tokenizer, pair, capsys):
    out = tmp_path / "z"
    argv = [*command(out, *pair, tokenizer), "--limit", "30"]
    assert data.main(argv) == 0
    printed = capsys.readouterr()
    assert f"questions in {out}" in printed.out
    assert "vero-ai2d" in printed.err
    assert "rows/s" in printed.out
    assert data.main(["check", str(out)]) == 0
    with pytest.raises(ValueError, match="--extra stem-x=3: expected"):
        data.main([*argv, "--extra", "stem-x=3"])


@pytest.mark.slow
def test_100_000_rows_in_bounded_memory(tmp_path, tokenizer, only):
    """50,000 rows of each source, images of 30 KB and a few of 8 MB; prints rows per second and the
    peak of resident memory.
    """
    import pyarrow as pa

    rng = random.Random(0)
    pool = [Image.effect_noise((180, 160), 40) for _ in range(40)]
    pool = [(image.save(b := io.BytesIO(), "PNG"), b.getvalue())[1] for image in pool]
    big = Image.effect_noise((2400, 3200), 40)
    big.save(b := io.BytesIO(), "PNG")

    def many(make, file, n, start):
        """n rows made from one schema, written 1,000 at a time; every 500th has a big image."""
        fx.write([make(0)], file)
        schema, writer = pq.read_schema(file), None
        writer = pq.ParquetWriter(file, schema)
        for at in range(start, start + n, 1000):
            rows = [make(i) for i in range(at, at + min(1000, start + n - at))]
            for i, r in enumerate(rows, at):
                r["image"] = {
                    "bytes": b.getvalue() if i % 500 == 0 else rng.choice(pool),
                    "path": None,
                }
            writer.write_table(pa.Table.from_pylist(rows, schema))
        writer.close()

    tiny = picture(0)
    configs = [
        "stem-ai2d_merged",
        "stem-tqa",
        "chart_ocr-evochart",
        "counting_grounding_search-pixmo",
        "knowledge_recognition-gqa",
    ]
    for c in configs:
        for s in range(2):
            many(
                lambda n: vero(n, image=tiny),
                tmp_path / f"vero/{c}/train-{s:05d}-of-00002.parquet",
                5000,
                s * 5000,
            )
    names = [n for n, e in sources.MMFR_PLAN.items() if e][:10]
    for s in range(5):
        many(
            lambda n: mmfr(n, source=names[n % 10], rate=(n % 4) / 4, image=tiny),
            tmp_path / f"mmfr/data/train-{s:05d}-of-00005.parquet",
            10_000,
            s * 10_000,
        )
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
import data
t = time.time()
data.main(sys.argv[2:])
peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print("MEASURED", time.time() - t, int(peak) / 2**20)
"""
    argv = command(tmp_path / "out", tmp_path / "vero", tmp_path / "mmfr", tokenizer)
    argv = [sys.executable, "-c", code, str(HERE), *argv]
    out = subprocess.run(argv, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    seconds, peak = map(float, out.stdout.split("MEASURED")[1].split())
    report = json.loads((tmp_path / "out/report.json").read_text())
    rate = f"{seconds:.0f} s, {100_000 / seconds:.0f} rows/s, peak {peak:.2f} GB"
    print(f"\n100,000 rows in {rate}, {report['rows']} kept")
    assert report["seen"] == 100_000 and peak < 4
    assert report["rows"] == sum(r["kept"] for r in report["subsets"]) and all(
        r["kept"] <= (r["cap"] or 0) for r in report["subsets"]
    )
    assert only(report, name="stem-tqa")["kept"] == 2800
    assert only(report, name="chart_ocr-evochart")["kept"] == 1400
