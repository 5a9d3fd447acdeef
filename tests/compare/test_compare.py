"""The comparison: intervals, paired differences, graduations and cuts worked by hand; figures; the
runner with children that fail.

python -m pytest tests/compare
python -m pytest tests/compare -m slow     # real runs: one killed that goes on, one that fails
"""

import csv
import fcntl
import io
import json
import math
import os
import runpy
import signal
import sys
import threading
import time

import matplotlib.image
import pytest
import run_fixtures
from run_fixtures import groups, write

import tiny
from compare import plot, study, table
from config import flags
from figures import curves, series
from figures import plot as run_figures
from runtime.checkpoint import comparable


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setitem(curves.STYLE, "savefig.dpi", 50)


def line(step, tokens=100, graduated=0, **kw):
    buffer = {
        "size": 3,
        "capacity": 10,
        "occupancy": {"0.000": 3},
        "admitted": {"0.000": 10, "0.125": 4},
        "graduated": {"0.000": graduated, "0.125": 1},
        "evicted": {"0.000": 2},
    }
    audit = {
        "bcq": {
            "right": {"positive": 5, "negative": 0, "neither": 1},
            "wrong": {"positive": 0, "negative": 3, "neither": 1},
        },
        "ncq": {"repeats": 3, "answers": 4},
    }
    return run_fixtures.line(
        step,
        groups={"new": groups(4, 8, 1), "bcq": groups(3, 4, 1), "ncq": groups(1, 4, 1)},
        buffer=buffer,
        audit=audit,
        tokens={"generated": tokens, "trained": 20, "teacher": 5},
        seconds={"rollout": 1.0, "total": 2.0},
        **kw,
    )


def held(step, right, n=100, **kw):
    """A line of an evaluation: `right` of n images; as many minus 10 of n texts."""
    heldout = {"heldout": {"all": [right, n]}, "heldout_text": {"all": [right - 10, n]}}
    return {"step": step, "heldout": heldout, **kw}


def made(out, name, accuracies, steps=4, tokens=100, graduated=2, config=None):
    """Runs of an arm: held-out images right before (50) and after each; evaluated in the middle,
    too (55).
    """
    for seed, right in enumerate(accuracies):
        rows = [held(0, 50)]
        for step in range(1, steps):
            middle = held(step, 55) if step == steps // 2 else {}
            rows.append({**line(step, tokens, 1), **middle})
        rows.append({**line(steps, tokens, graduated), **held(steps, right)})
        write(out / f"{name}-seed{seed}", rows, config)


def runs(out, steps=0):
    return table.read(out, steps, study.LABELS)[0]


def numbers(out_or_table, quantity, arm):
    """{seed: value}."""
    read = runs(out_or_table) if not hasattr(out_or_table, "columns") else out_or_table
    return table.summary(read)[quantity].loc[arm].to_dict()


# ---- numbers -------------------------------------------------------------------------------------


def test_interval_by_hand():
    # 1 2 3: standard deviation 1, over root 3, times t(0.975, 2) = 4.302653
    assert series.interval([1, 2, 3]) == pytest.approx((2, 4.302653 / math.sqrt(3)), rel=1e-6)
    # 4 6: standard deviation root 2, over root 2, times t(0.975, 1) = 12.706205
    assert series.interval([4, 6, math.nan]) == pytest.approx((5, 12.706205), rel=1e-6)
    mean, half = series.interval([7])
    assert mean == 7 and math.isnan(half) and all(map(math.isnan, series.interval([])))


def test_differences_are_paired_by_seed(tmp_path):
    made(tmp_path, "zppo", [61, 60, 62])
    made(tmp_path, "grpo+buffer", [59, 57, 60, 90])  # seed 3 has no partner
    by_run = table.summary(runs(tmp_path))
    got = table.differences(by_run, "ZPPO", "heldout")
    assert got.to_dict() == pytest.approx({0: 2, 1: 3, 2: 2})
    # mean 7/3, standard deviation root(1/3); unpaired, the spread of the means alone would be
    # larger
    half = 4.302653 * math.sqrt(1 / 3) / math.sqrt(3)
    assert series.interval(got) == pytest.approx((7 / 3, half), rel=1e-6)
    assert len(table.differences(by_run, "GRPO†", "heldout")) == 0
    assert len(table.differences(by_run.drop("GRPO†"), "ZPPO", "heldout")) == 0


def test_one_run_by_hand(tmp_path):
    made(tmp_path, "zppo", [60], config={"student_params": 10, "teacher_params": 1000})
    got = table.summary(runs(tmp_path)).loc[("ZPPO", 0)].to_dict()
    assert got["heldout"] == 60 and got["heldout_text"] == 50 and math.isnan(got["heldout_video"])
    assert got["graduated_at_0"] == 20  # 2 of 10
    assert got["graduated_all"] == pytest.approx(100 * 3 / 14)  # 2 + 1 of 10 + 4
    assert got["bcq_right"] == 75 and got["ncq_right"] == 25 and math.isnan(got["hint_right"])
    tokens = [got[f"tokens_{name}"] for name in ("generated", "trained", "teacher")]
    assert tokens == [400, 80, 20] and got["seconds"] == 8
    assert got["flops"] == (2 * 400 + 6 * 80) * 10 + 2 * 20 * 1000
    assert (got["steps"], got["evaluated_at_step"]) == (4, 4)


def test_error_over_questions_by_hand(tmp_path):
    def answered(name, *answers):
        for seed, text in enumerate(answers):
            row = {**line(1), **held(1, 50, heldout_right={"heldout": text})}
            write(tmp_path / f"{name}-seed{seed}", [held(0, 50), row])

    # per question, mean over seeds of the difference: 1/2, 1, 0, 0; mean 3/8, squares 1/64 + 25/64
    # + 9/64 + 9/64 over 3
    answered("zppo", "1101", "0100")
    answered("grpo+buffer", "0001", "0000")
    read = runs(tmp_path)
    error = 100 * math.sqrt(44 / 64 / 3) / 2
    assert table.question_error(read, "ZPPO", "heldout") == pytest.approx(error)
    assert math.isnan(table.question_error(read, "ZPPO", "heldout_text"))  # not logged
    assert "(23.9)" in table.difference_table(read)


def test_equal_tokens_cut_by_hand(tmp_path):
    made(tmp_path, "grpo", [58, 58], tokens=40)  # 160 in all
    made(tmp_path, "zppo", [60, 61], tokens=70, graduated=9)  # 140 after two steps, 210 after three
    made(tmp_path, "grpo+buffer", [60], tokens=50)  # 150 after three
    cheap = [held(0, 50), *(line(s, tokens=20) for s in range(1, 4)), {**line(4, 9), **held(4, 58)}]
    write(tmp_path / "grpo-seed1", cheap)  # 69: not one step of zppo
    cut = table.equal_tokens(runs(tmp_path))
    assert numbers(cut, "steps", "GRPO") == {0: 4, 1: 4}
    assert numbers(cut, "steps", "GRPO†") == {0: 3}
    assert numbers(cut, "steps", "ZPPO") == {0: 2, 1: 0}
    # measured at step 2, and before any
    assert numbers(cut, "heldout", "ZPPO") == {0: 55, 1: 50}
    at_0 = numbers(cut, "graduated_at_0", "ZPPO")
    assert at_0[0] == 10 and math.isnan(at_0[1])
    # cut at step 3, half way between the evaluations of steps 2 (55) and 4 (60)
    assert numbers(cut, "evaluated_at_step", "GRPO†") == {0: 3}
    assert numbers(cut, "heldout", "GRPO†") == {0: 57.5}
    text = table.markdown(cut, equal=True)
    assert "at equal tokens" in text and "(0 to 4 steps)" in text
    assert table.as_csv(cut, study.LABELS)
    (path,) = plot.draw(cut, tmp_path / "figures", equal=True)
    assert path.name == "equal_tokens.png"


def test_runs_are_cut_to_the_same_steps_and_short_ones_left_out(tmp_path):
    made(tmp_path, "zppo", [60], steps=6)
    made(tmp_path, "grpo", [58], steps=4)
    write(tmp_path / "hint-seed0", [held(0, 50), line(1)])
    write(tmp_path / "prefix-seed0", [])
    (tmp_path / "prefix-seed1").mkdir()
    made(tmp_path, "mine", [70])  # no arm of ours
    got, left_out = table.read(tmp_path, 4, study.LABELS)
    assert table.summary(got)["steps"].to_dict() == {("GRPO", 0): 4, ("ZPPO", 0): 4}
    # of step 3, the last evaluation at or before step 4
    assert numbers(got, "heldout", "ZPPO") == {0: 55}
    said = "\n".join(left_out)
    assert "hint-seed0: 1 of 4 steps" in said
    assert "prefix-seed0/metrics.jsonl: no step" in said
    assert "prefix-seed1/metrics.jsonl: no such file" in said
    # by default, the steps of the longest
    assert table.arms_of(runs(tmp_path)) == ["ZPPO"]


def test_tables_by_hand(tmp_path):
    made(tmp_path, "zppo", [60, 62])
    made(tmp_path, "grpo", [58, 58], config={"buffer": False})
    got = runs(tmp_path)
    text = table.markdown(got)
    # before any RL, and the main table
    assert "| before any RL |  | 50.0 | 40.0 | - |" in text
    main = "| ZPPO | 2 | 61.0 ± 12.7 | 51.0 ± 12.7 | - | 20.0 ± 0.0 | 0 | 0 | 0 | 2.0 |"
    assert main in text
    # by entry accuracy; what became of them (without a buffer nothing leaves it)
    assert "| ZPPO | 4 / 20 (20 %) | 2 / 8 (25 %) |" in text
    assert "| ZPPO | 28 | 6 (21.4 %) | 4 (14.3 %) | 18 (64.3 %) |" in text
    assert "GRPO |" not in table.leaving_table(got)
    # the audit: 6 of 10 right; each cell a share of all
    assert "| ZPPO | 80 | 60.0 | 50.0 | 0.0 | 10.0 | 0.0 | 30.0 | 10.0 |" in text
    assert "| ZPPO | 32 | 25.0 | 75.0 |" in text
    assert "| ZPPO | 4 | 0.4 | 0.1 | 0.0 | - | 0.1 | - |" in table.cost_table(got)
    assert "no run of GRPO†" in text


def test_csv_by_hand(tmp_path):
    made(tmp_path, "zppo", [61, 60, 62])
    made(tmp_path, "grpo+buffer", [59, 57, 60])
    text = table.as_csv(runs(tmp_path), study.LABELS)
    rows = {(r["method"], r["quantity"]): r for r in csv.DictReader(io.StringIO(text))}
    r = rows["zppo", "heldout"]
    half = 4.302653 / math.sqrt(3)
    got = [float(r[k]) for k in ("seeds", "mean", "low", "high")]
    assert got == pytest.approx([3, 61, 61 - half, 61 + half], rel=1e-5)
    assert float(r["difference"]) == pytest.approx(7 / 3, rel=1e-5) and r["question_error"] == ""
    assert r["label"] == "ZPPO" and r["by_seed"] == "0:61 1:60 2:62"
    assert rows["grpo+buffer", "heldout"]["difference"] == ""
    assert ("zppo", "heldout_video") not in rows


# ---- figures -------------------------------------------------------------------------------------

ALL = {make.__name__ for make in run_figures.FIGURES}
ALL |= {"heldout", "differences"}


def test_arms_and_recipe_draw(tmp_path):
    for i, name in enumerate(("zppo", "grpo+buffer", "grpo", "hint", "i1", "norm-all")):
        buffer = "--no-buffer" not in study.ARMS[name][1]
        made(tmp_path, name, [60 + i, 61], config={"buffer": buffer})
    written = plot.draw(runs(tmp_path), tmp_path / "figures")
    assert {p.stem for p in written} == ALL | {"recipe"}
    assert all(matplotlib.image.imread(p).shape[1] == 400 for p in written)


def test_every_arm_has_a_look_of_its_own():
    assert set(plot.LOOKS) == set(study.LABELS.values())
    assert len(set(plot.LOOKS[study.LABELS[name]] for name in study.TEN)) == 10


def test_one_run_alone_draws(tmp_path):
    made(tmp_path, "i8", [60])  # a variant alone is not hidden
    written = plot.draw(runs(tmp_path), tmp_path / "figures")
    assert {p.stem for p in written} == ALL - {"differences"}


def test_holes_draw(tmp_path):
    holes = {**line(2), "buffer": None, "loss": None, "outcomes_by_visits": None}
    write(tmp_path / "zppo-seed0", [{"step": 1, "groups": {}}, holes])
    got = runs(tmp_path)
    assert {p.stem for p in plot.draw(got, tmp_path / "figures")} >= {"dynamics", "tokens"}
    assert "ZPPO" in table.markdown(got) and "zppo" in table.as_csv(got, study.LABELS)


# ---- what is run ---------------------------------------------------------------------------------


def test_every_arm_is_a_run_of_train(tmp_path):
    for name, argv in study.plan(tmp_path, study.ARMS, [3], 7).items():
        cfg = flags(argv)
        assert (cfg.student, cfg.seed, cfg.steps, cfg.out) == ("tiny", 3, 7, str(tmp_path / name))
        assert cfg.batch * cfg.iterations == 32, name  # the same new prompts a step
    assert len(study.TEN) == 10 and not set(study.TEN) & set(study.RECIPE)
    assert study.arguments(["--methods", "all"]).methods == study.TEN
    assert study.arguments(["--methods", "recipe", "zppo"]).methods == ["zppo", *study.RECIPE]
    assert study.arguments(["--seeds", "4", "--", "--lr", "1"]).train == ["--lr", "1"]


def test_seeds_run_one_after_the_other(tmp_path):
    assert list(study.plan(tmp_path, ["zppo", "grpo"], [0, 1], 2)) == [
        "zppo-seed0",
        "grpo-seed0",
        "zppo-seed1",
        "grpo-seed1",
    ]


def test_sources_are_what_train_imports(tmp_path, monkeypatch):
    names = {p.relative_to(study.HERE).as_posix() for p in study.sources()}
    assert {"train.py", "loss.py", "buffer.py", "reward.py", "engines/hf.py"} <= names
    assert {"tiny/world.py", "tiny/__init__.py", "runtime/metrics.py"} <= names
    assert not [n for n in names if n.startswith(("figures/", "compare/", "evaluation/"))]
    # of a package that imports: as a whole, a part, a part of a part, inside a function
    files = {
        "train.py": "import a\nfrom b import one, VALUE\nimport torch, c.deep.er\n",
        "a.py": "def f():\n    from b.two import x\n",
        "b/__init__.py": "",
        "b/one.py": "import figures.plot",
        "b/two.py": "",
        "b/three.py": "",
        "c/__init__.py": "",
        "c/deep/__init__.py": "",
        "c/deep/er.py": "import train",
        "figures/__init__.py": "",
        "figures/plot.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(study, "HERE", tmp_path)
    got = {p.relative_to(tmp_path).as_posix() for p in study.sources()}
    assert got == {n for n in files if "figures" not in n} - {"b/three.py"}


def test_last_step_of_a_file_that_is_being_written(tmp_path):
    assert study.last_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "gro')
    assert study.last_step(tmp_path) == 1 and not study.finished(tmp_path, 1)
    (tmp_path / "final").mkdir()
    assert study.finished(tmp_path, 1) and not study.finished(tmp_path, 2)


def test_a_flag_for_all_is_left_out_where_it_would_do_nothing(tmp_path):
    extra = ["--aug", "0.5", "--no-compress", "--capacity", "50", "--tau", "0.25"]
    runs = study.plan(tmp_path, ["zppo", "grpo+buffer", "grpo"], [0], 2, extra)
    zppo, buffered, plain = (flags(argv) for argv in runs.values())  # none is refused
    assert (zppo.aug, zppo.compress, zppo.capacity, zppo.tau) == (0.5, False, 50, 0.25)
    assert (buffered.capacity, buffered.tau, buffered.aug) == (50, 0.25, 0.25)
    assert "--capacity" not in runs["grpo-seed0"] and plain.tau == 0.25


def test_runs_made_differently_are_refused(tmp_path):
    runs = study.plan(tmp_path, ["zppo"], [0], 2)
    now = {"code": "abc", "commit": "1234"}
    study.check_same(tmp_path, runs, now, mix=False)  # nothing there yet
    write(tmp_path / "zppo-seed0", [], comparable(flags(runs["zppo-seed0"])))
    study.write_started(tmp_path, {"steps": 2, "runs": {"zppo-seed0": now}})
    study.check_same(tmp_path, runs, now, mix=False)
    other = study.plan(tmp_path, ["zppo"], [0], 9, ["--lr", "0.5"])  # other steps only go further
    with pytest.raises(ValueError, match=r"zppo-seed0 \(--lr 0.0002 -> 0.5\).*--mix"):
        study.check_same(tmp_path, other, now, mix=False)
    with pytest.raises(ValueError, match="code abc 1234 -> def 5678"):
        study.check_same(tmp_path, runs, {"code": "def", "commit": "5678"}, mix=False)
    study.check_same(tmp_path, other, {"code": "def", "commit": "5678"}, mix=True)


# ---- running, with a stand-in for train.py -------------------------------------------------------

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
a = sys.argv
out, steps, stop = Path(a[a.index("--out") + 1]), int(a[a.index("--steps") + 1]), []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
end = json.loads(os.environ["END"]).get(out.name)
if end == "fails":
    print("starting", flush=True); sys.exit("error: the dog ate it")
out.mkdir(exist_ok=True)
assert ("--resume" in a) == (out / "config.json").exists()
(out / "config.json").write_text("{}")
file = out / "metrics.jsonl"
done = len(file.read_text().splitlines()) if file.exists() else 0
for step in range(done + 1, steps + 1):
    row = json.loads(os.environ["LINE"]) | {"step": step}
    with open(file, "a") as f: f.write(json.dumps(row) + "\\n")
    if end == "dies" and step == 2 and not done: os.kill(os.getpid(), signal.SIGKILL)
    if end == "slow": time.sleep(0.2)
    if stop: sys.exit(130)
(out / "final").mkdir()
"""


def steps_of(folder):
    return list(series.trained(series.read([folder])).index.get_level_values("step"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Runs study.main with a train.py of a few lines, which ends as the test says; without
    figures.
    """
    monkeypatch.setattr(plot, "draw", lambda *a: [])
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(study, "TRAIN", script)
    monkeypatch.setattr(
        study, "comparable", lambda cfg: {}
    )  # the stand-in's config.json says nothing
    monkeypatch.setenv("LINE", json.dumps({**line(0), **held(0, 50)}))

    def run(*argv, out=tmp_path / "out", **ends):
        monkeypatch.setenv(
            "END", json.dumps({name.replace("_", "-"): how for name, how in ends.items()})
        )
        return study.main(
            ["--methods", "zppo", "grpo", "--seeds", "0", "--steps", "4", "--out", str(out), *argv]
        )

    return run


def test_runs_once_and_reports(tmp_path, stand_in, capsys):
    assert stand_in() == 0
    out = tmp_path / "out"
    text = capsys.readouterr().out
    assert (
        "2 runs of 4 steps, 0 of them finished" in text
        and "| ZPPO | 1 |" in text
        and str(out / "table.md") in text
    )
    assert (out / "table.csv").is_file()
    assert set(json.loads((out / "compare.json").read_text())["runs"]) == {
        "zppo-seed0",
        "grpo-seed0",
    }
    before = (out / "zppo-seed0/metrics.jsonl").stat().st_mtime_ns
    assert stand_in("--equal-tokens") == 0  # nothing is run again
    assert (
        "2 of them finished" in capsys.readouterr().out
        and (out / "zppo-seed0/metrics.jsonl").stat().st_mtime_ns == before
    )
    assert (out / "table-equal-tokens.md").is_file()
    (out / "table.md").unlink()
    assert study.main(["--report", str(out)]) == 0 and (out / "table.md").is_file()


@pytest.mark.slow
def test_more_steps_go_further(tmp_path, stand_in):
    assert stand_in() == 0
    (tmp_path / "out/zppo-seed0/final").rmdir()  # train.py publishes anew
    (tmp_path / "out/grpo-seed0/final").rmdir()
    assert stand_in("--steps", "6") == 0 and study.last_step(tmp_path / "out/zppo-seed0") == 6


@pytest.mark.slow
def test_a_failing_run_is_one_line_and_the_others_go_on(tmp_path, stand_in, capsys):
    assert stand_in("--jobs", "1", zppo_seed0="fails") == 1
    said = capsys.readouterr()
    assert (
        "zppo-seed0 failed (status 1): error: the dog ate it" in said.err
        and "| GRPO | 1 |" in said.out
    )
    assert stand_in() == 0 and "| ZPPO | 1 |" in capsys.readouterr().out
    assert (
        stand_in(out=tmp_path / "other", zppo_seed0="fails", grpo_seed0="fails") == 1
    )  # nothing to report on


def test_a_killed_run_goes_on(tmp_path, stand_in, capsys):
    assert stand_in(zppo_seed0="dies") == 1
    said = capsys.readouterr()
    assert "killed by signal 9" in said.err and "left out: zppo-seed0: 2 of 4 steps" in said.err
    assert stand_in() == 0  # the stand-in asserts that --resume was given
    assert steps_of(tmp_path / "out/zppo-seed0") == [1, 2, 3, 4]


@pytest.mark.slow
def test_ctrl_c_is_passed_on_once_and_the_same_command_goes_on(tmp_path, stand_in, capfd):
    folder = tmp_path / "out/zppo-seed0"

    def interrupt():
        while study.last_step(folder) < 1:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert stand_in("--steps", "60", "--jobs", "1", zppo_seed0="slow") == 130
    thread.join()
    assert "the same command goes on" in capfd.readouterr().out
    assert 0 < study.last_step(folder) < 60 and not (tmp_path / "out/grpo-seed0").exists()
    assert stand_in("--steps", "60") == 0


def test_a_run_of_another_process_is_left_alone(tmp_path, stand_in, capsys):
    (tmp_path / "out").mkdir()
    with open(
        tmp_path / "out/zppo-seed0.log", "ab"
    ) as log:  # a child whose study.py was killed still holds this
        fcntl.flock(log, fcntl.LOCK_EX)
        assert stand_in() == 1
    assert "zppo-seed0: another process is running it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--methods", "dpo"], "dpo"),
        (["--jobs", "0"], "--jobs"),
        (["--", "--lrr", "1"], "--lrr"),
        (["--report", "no/such"], "no finished run"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, argv, says):
    with pytest.raises((ValueError, SystemExit)) as e:
        study.main(["--out", str(tmp_path / "out"), *argv])
    message = (
        capsys.readouterr().err.strip().splitlines()[-1]
        if isinstance(e.value, SystemExit)
        else str(e.value)
    )
    assert says in message and "\n" not in message and not (tmp_path / "out").exists()


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "--report", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}: no finished run to report on$"):
        runpy.run_module("compare", run_name="__main__")


# ---- running train.py ----------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_one_killed_one_failing(tmp_path, capsys, monkeypatch):
    """GRPO is killed in its third step of four and goes on; another arm gets a teacher that is not
    there.
    """
    heldout = tmp_path / "q.jsonl"
    heldout.write_text(
        "".join(
            json.dumps({"id": q.id, "question": q.question, "answer": q.answer}) + "\n"
            for q in tiny.questions("heldout_text")[:8]
        )
    )
    out = tmp_path / "out"
    argv = ["--methods", "grpo", "--seeds", "0", "--steps", "4", "--out", str(out)]
    small = ["--", "--batch", "2", "--n", "2", "--save-every", "1", "--heldout", str(heldout)]

    children, start = [], study.start
    monkeypatch.setattr(study, "start", lambda *a: children.append(start(*a)) or children[-1])

    def kill():
        while study.last_step(out / "grpo-seed0") < 2:
            time.sleep(0.02)
        children[0].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert study.main([*argv, *small]) == 1 and "killed by signal 9" in capsys.readouterr().err
    thread.join()
    assert study.last_step(out / "grpo-seed0") < 4
    assert study.main([*argv, *small]) == 0
    assert steps_of(out / "grpo-seed0") == [1, 2, 3, 4]
    assert "| GRPO | 1 |" in capsys.readouterr().out
    assert (
        study.main([*argv, "--methods", "zppo", *small, "--teacher", str(tmp_path / "nobody")]) == 1
    )
    assert "zppo-seed0 failed" in capsys.readouterr().err
