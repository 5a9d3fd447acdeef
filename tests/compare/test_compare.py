"""compare.py: intervals, paired differences, graduations and cuts worked by hand; figures; the
runner with children that fail.

python -m pytest tests/test_compare.py
python -m pytest tests/test_compare.py -m slow     # real runs: one that is killed and goes on, one
that fails
"""

import csv
import fcntl
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import matplotlib
import matplotlib.image
import pytest

import tiny
from compare import study as compare
from compare.study import plot as compare_plot
from compare.study import table as ct
from config import comparable, flags
from figures import plot

LABELS = {name: label for name, (label, _) in compare.ARMS.items()}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setitem(plot.STYLE, "savefig.dpi", 50)


def counts(correct, samples):
    return {
        "groups": samples // 8,
        "samples": samples,
        "correct": correct,
        "flat": 0,
        "truncated": 0,
        "tokens": 9,
        "positive": 1,
    }


def line(step, tokens=100, graduated=0, admitted=10, **kw):
    return {
        "step": step,
        "groups": {"new": counts(4, 8), "bcq": counts(3, 4), "ncq": counts(1, 4)},
        "composition": {"groups": 4, "easy": 1, "bcq": 2, "ncq": 3},
        "buffer": {
            "size": 3,
            "capacity": 10,
            "occupancy": {"0.000": 3},
            "admitted": {"0.000": admitted, "0.125": 4},
            "graduated": {"0.000": graduated, "0.125": 1},
            "evicted": {"0.000": 2},
        },
        "fate": {"1": {"never": 1, "improved": 1, "graduated": 2}},
        "loss": 0.1,
        "entropy": 0.1,
        "audit": {
            "bcq": {
                "right": {"positive": 5, "negative": 0, "neither": 1},
                "wrong": {"positive": 0, "negative": 3, "neither": 1},
            },
            "ncq": {"repeats": 3, "answers": 4},
        },
        "tokens": {"generated": tokens, "trained": 20, "teacher": 5},
        "seconds": {"rollout": 1.0, "total": 2.0},
        **kw,
    }


def held(step, right, n=100, **kw):
    """A line of an evaluation: `right` of n images; as many minus 10 of n texts."""
    return {
        "step": step,
        "heldout": {"heldout": {"all": [right, n]}, "heldout_text": {"all": [right - 10, n]}},
        **kw,
    }


def write(folder, lines, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "config.json").write_text(json.dumps(config or {}))


def made(out, name, accuracies, steps=4, tokens=100, graduated=2, config=None):
    """Runs of an arm: held-out images right before (50) and after each; evaluated in the middle,
    too (55).
    """
    for seed, right in enumerate(accuracies):
        last = {**line(steps, tokens, graduated), **held(steps, right)}
        middle = [
            {**line(s, tokens, 1), **(held(s, 55) if s == steps // 2 else {})}
            for s in range(1, steps)
        ]
        write(out / f"{name}-seed{seed}", [held(0, 50), *middle, last], config)


def arms(out, steps=0):
    return ct.read(out, steps, LABELS)[0]


# ---- numbers -------------------------------------------------------------------------------------


def test_interval_by_hand():
    # 1 2 3: standard deviation 1, over root 3, times t(0.975, 2) = 4.302653
    assert ct.interval([1, 2, 3]) == pytest.approx((2, 4.302653 / math.sqrt(3)), rel=1e-6)
    # 4 6: standard deviation root 2, over root 2, times t(0.975, 1) = 12.706205
    assert ct.interval([4, 6, math.nan]) == pytest.approx((5, 12.706205), rel=1e-6)
    mean, half = ct.interval([7])
    assert mean == 7 and math.isnan(half) and all(map(math.isnan, ct.interval([])))


def test_differences_are_paired_by_seed(tmp_path):
    made(tmp_path, "zppo", [61, 60, 62])
    made(tmp_path, "grpo+buffer", [59, 57, 60, 90])  # seed 3 has no partner
    base, zppo = arms(tmp_path)
    assert (base.label, zppo.label) == ("GRPO†", "ZPPO")
    assert ct.differences(zppo, base, "heldout") == pytest.approx([2, 3, 2])
    # mean 7/3, standard deviation root(1/3); unpaired, the spread of the means alone would be
    # larger
    mean, half = ct.interval(ct.differences(zppo, base, "heldout"))
    assert (mean, half) == pytest.approx(
        (7 / 3, 4.302653 * math.sqrt(1 / 3) / math.sqrt(3)), rel=1e-6
    )
    assert ct.differences(base, base, "heldout") == ct.differences(zppo, None, "heldout") == []


def test_one_run_by_hand(tmp_path):
    made(tmp_path, "zppo", [60], config={"student_params": 10, "teacher_params": 1000})
    run = arms(tmp_path)[0].runs[0]
    got = {name: f(run) for name, f in ct.QUANTITIES.items()}
    assert got["heldout"] == 60 and got["heldout_text"] == 50 and math.isnan(got["heldout_video"])
    assert got["graduated_at_0"] == 20  # 2 of 10
    assert got["graduated_all"] == pytest.approx(100 * 3 / 14)  # 2 + 1 of 10 + 4
    assert got["bcq_right"] == 75 and got["ncq_right"] == 25 and math.isnan(got["hint_right"])
    assert (
        got["tokens_generated"],
        got["tokens_trained"],
        got["tokens_teacher"],
        got["seconds"],
    ) == (400, 80, 20, 8)
    assert got["flops"] == (2 * 400 + 6 * 80) * 10 + 2 * 20 * 1000
    assert (got["steps"], got["evaluated_at_step"]) == (4, 4)


def test_error_over_questions_by_hand(tmp_path):
    def runs(name, *answers):
        for seed, text in enumerate(answers):
            write(
                tmp_path / f"{name}-seed{seed}",
                [{**line(1), **held(1, 50, heldout_right={"heldout": text})}],
            )

    # per question, mean over seeds of the difference: 1/2, 1, 0, 0; mean 3/8, squares 1/64 + 25/64
    # + 9/64 + 9/64 over 3
    runs("zppo", "1101", "0100")
    runs("grpo+buffer", "0001", "0000")
    base, zppo = arms(tmp_path)
    assert ct.question_error(zppo, base, "heldout") == pytest.approx(
        100 * math.sqrt(44 / 64 / 3) / 2
    )
    assert math.isnan(ct.question_error(zppo, base, "heldout_text"))  # not logged
    assert "(23.9)" in ct.difference_table([base, zppo])


def test_equal_tokens_cut_by_hand(tmp_path):
    made(tmp_path, "grpo", [58, 58], tokens=40)  # 160 in all
    made(tmp_path, "zppo", [60, 61], tokens=70, graduated=9)  # 140 after two steps, 210 after three
    made(tmp_path, "grpo+buffer", [60], tokens=50)  # 150 after three
    cheap = [held(0, 50), *(line(s, tokens=20) for s in range(1, 4)), {**line(4, 9), **held(4, 58)}]
    write(tmp_path / "grpo-seed1", cheap)  # 69: not one step of zppo
    grpo, base, zppo = ct.equal_tokens(arms(tmp_path))
    assert [len(a.runs[0].rows) for a in (grpo, base, zppo)] == [4, 3, 2]
    assert [len(a.runs[1].rows) for a in (grpo, zppo)] == [4, 0]
    assert ct.values(zppo, "heldout") == {0: 55, 1: 50}  # measured at step 2, and before any
    assert ct.values(zppo, "graduated_at_0")[0] == 10 and math.isnan(
        ct.values(zppo, "graduated_at_0")[1]
    )
    # cut at step 3, half way between the evaluations of steps 2 (55) and 4 (60)
    assert ct.values(base, "evaluated_at_step") == {0: 3} and ct.values(base, "heldout") == {
        0: 57.5
    }
    text = ct.markdown([grpo, base, zppo], equal=True)
    assert "at equal tokens" in text and "(0 to 4 steps)" in text and ct.as_csv([grpo, base, zppo])
    assert [
        p.name for p in compare_plot.draw([grpo, base, zppo], tmp_path / "figures", equal=True)
    ] == ["equal_tokens.png"]


def test_runs_are_cut_to_the_same_steps_and_short_ones_left_out(tmp_path):
    made(tmp_path, "zppo", [60], steps=6)
    made(tmp_path, "grpo", [58], steps=4)
    write(tmp_path / "hint-seed0", [held(0, 50), line(1)])
    write(tmp_path / "prefix-seed0", [])
    (tmp_path / "prefix-seed1").mkdir()
    made(tmp_path, "mine", [70])  # no arm of ours
    got, left_out = ct.read(tmp_path, 4, LABELS)
    assert [a.name for a in got] == ["grpo", "zppo"] and [len(a.runs[0].rows) for a in got] == [
        4,
        4,
    ]
    assert ct.values(got[1], "heldout") == {
        0: 55
    }  # of step 3, the last evaluation at or before step 4
    assert any("hint-seed0: 1 of 4 steps" in x for x in left_out) and any(
        "prefix-seed0" in x and "empty" in x for x in left_out
    )
    assert any("prefix-seed1" in x and "no such file" in x for x in left_out)
    assert [a.name for a in arms(tmp_path)] == ["zppo"]  # by default, the steps of the longest


def test_tables_by_hand(tmp_path):
    made(tmp_path, "zppo", [60, 62])
    made(tmp_path, "grpo", [58, 58], config={"buffer": False})
    got = arms(tmp_path)
    assert "| ZPPO | 4 / 20 (20 %) | 2 / 8 (25 %) |" in ct.entry_table(got)
    leaving = ct.leaving_table(got)  # without a buffer nothing leaves it
    assert (
        "| ZPPO | 28 | 6 (21.4 %) | 4 (14.3 %) | 18 (64.3 %) |" in leaving
        and "GRPO |" not in leaving
    )
    bcq, ncq = ct.audit_tables(got)  # 6 of 10 right; each cell a share of all
    assert "| ZPPO | 80 | 60.0 | 50.0 | 0.0 | 10.0 | 0.0 | 30.0 | 10.0 |" in bcq
    assert "| ZPPO | 32 | 25.0 | 75.0 |" in ncq
    main = ct.main_table(got)
    assert "| before any RL |  | 50.0 | 40.0 | - |" in main
    assert (
        f"| ZPPO | 2 | 61.0 ± {12.706205:.1f} | 51.0 ± 12.7 | - | 20.0 ± 0.0 | 0 | 0 | 0 | 2.0 |"
        in main
    )
    assert "no run of GRPO†" in ct.markdown(got)
    assert "| ZPPO | 4 | 0.4 | 0.1 | 0.0 | - | 0.1 | - |" in ct.cost_table(got)


def test_csv_by_hand(tmp_path):
    made(tmp_path, "zppo", [61, 60, 62])
    made(tmp_path, "grpo+buffer", [59, 57, 60])
    rows = {
        (r["method"], r["quantity"]): r
        for r in csv.DictReader(io.StringIO(ct.as_csv(arms(tmp_path))))
    }
    r = rows["zppo", "heldout"]
    half = 4.302653 / math.sqrt(3)
    assert [float(r[k]) for k in ("seeds", "mean", "low", "high")] == pytest.approx(
        [3, 61, 61 - half, 61 + half], rel=1e-5
    )
    assert float(r["difference"]) == pytest.approx(7 / 3, rel=1e-5) and r["question_error"] == ""
    assert r["by_seed"] == "0:61 1:60 2:62"
    assert (
        rows["grpo+buffer", "heldout"]["difference"] == "" and ("zppo", "heldout_video") not in rows
    )


# ---- figures -------------------------------------------------------------------------------------

ALL = {
    "accuracy",
    "differences",
    "graduations",
    "graduations_by_entry",
    "fate",
    "attempts",
    "composition",
    "dynamics",
    "cost",
}


def test_all_methods_draw(tmp_path):
    for i, name in enumerate(compare.ARMS):
        made(
            tmp_path,
            name,
            [60 + i, 61],
            config={"buffer": "--no-buffer" not in compare.ARMS[name][1]},
        )
    written = compare_plot.draw(arms(tmp_path), tmp_path / "figures")
    assert {p.stem for p in written} == ALL | {"recipe"}
    assert all(matplotlib.image.imread(p).shape[1] == 400 for p in written)
    assert set(compare_plot.LOOKS) == set(compare.ARMS)


@pytest.mark.parametrize("steps", [1, 4])
def test_one_run_alone_draws(tmp_path, steps):
    made(tmp_path, "i8", [60], steps=steps)  # a variant alone is not hidden
    assert {p.stem for p in compare_plot.draw(arms(tmp_path), tmp_path / "figures")} == ALL - {
        "differences"
    }


def test_holes_draw(tmp_path):
    write(
        tmp_path / "zppo-seed0",
        [{"step": 1, "groups": {}}, {**line(2), "buffer": None, "loss": None, "fate": None}],
    )
    got = arms(tmp_path)
    assert {p.stem for p in compare_plot.draw(got, tmp_path / "figures")} >= {"dynamics", "cost"}
    assert "ZPPO" in ct.markdown(got) and "zppo" in ct.as_csv(got)


def test_curves_are_the_mean_over_seeds(tmp_path):
    for seed, graduated in ((0, 2), (1, 6)):
        write(tmp_path / f"zppo-seed{seed}", [line(1, graduated=0), line(2, graduated=graduated)])
    with matplotlib.rc_context(plot.STYLE):
        (ax,) = compare_plot.graduations(arms(tmp_path)).axes
    (thick,) = [x for x in ax.lines if x.get_linewidth() > 1]
    assert list(thick.get_xdata()) == [1, 2] and list(thick.get_ydata()) == pytest.approx(
        [0, 40]
    )  # 20 % and 60 %
    assert sorted(x.get_ydata()[-1] for x in ax.lines if x is not thick) == pytest.approx([20, 60])


# ---- what is run ---------------------------------------------------------------------------------


def test_every_arm_is_a_run_of_train(tmp_path):
    for name, argv in compare.plan(tmp_path, compare.ARMS, [3], 7).items():
        cfg = flags(argv)
        assert (cfg.student, cfg.seed, cfg.steps, cfg.out) == ("tiny", 3, 7, str(tmp_path / name))
        assert cfg.batch * cfg.iterations == 32, name  # the same new prompts a step
    assert len(compare.TEN) == 10 and not set(compare.TEN) & set(compare.RECIPE)
    assert compare.arguments(["--methods", "all"]).methods == compare.TEN
    assert compare.arguments(["--methods", "recipe", "zppo"]).methods == ["zppo", *compare.RECIPE]
    assert compare.arguments(["--seeds", "4", "--", "--lr", "1"]).train == ["--lr", "1"]


def test_seeds_run_one_after_the_other(tmp_path):
    assert list(compare.plan(tmp_path, ["zppo", "grpo"], [0, 1], 2)) == [
        "zppo-seed0",
        "grpo-seed0",
        "zppo-seed1",
        "grpo-seed1",
    ]


def test_sources_are_what_train_imports():
    names = {p.name for p in compare.sources()}
    assert {"train.py", "loss.py", "buffer.py", "model.py", "reward.py"} <= names
    assert not {"plot.py", "compare.py", "report.py"} & names


def test_last_step_of_a_file_that_is_being_written(tmp_path):
    assert compare.last_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "gro')
    assert compare.last_step(tmp_path) == 1 and not compare.finished(tmp_path, 1)
    (tmp_path / "final").mkdir()
    assert compare.finished(tmp_path, 1) and not compare.finished(tmp_path, 2)


def test_runs_made_differently_are_refused(tmp_path):
    runs = compare.plan(tmp_path, ["zppo"], [0], 2)
    now = {"code": "abc", "commit": "1234"}
    compare.check_same(tmp_path, runs, now, mix=False)  # nothing there yet
    write(tmp_path / "zppo-seed0", [], comparable(flags(runs["zppo-seed0"])))
    compare.write_started(tmp_path, {"steps": 2, "runs": {"zppo-seed0": now}})
    compare.check_same(tmp_path, runs, now, mix=False)
    other = compare.plan(tmp_path, ["zppo"], [0], 9, ["--lr", "0.5"])  # other steps only go further
    with pytest.raises(ValueError, match=r"zppo-seed0 \(--lr 0.0002 -> 0.5\).*--mix"):
        compare.check_same(tmp_path, other, now, mix=False)
    with pytest.raises(ValueError, match="code abc 1234 -> def 5678"):
        compare.check_same(tmp_path, runs, {"code": "def", "commit": "5678"}, mix=False)
    compare.check_same(tmp_path, other, {"code": "def", "commit": "5678"}, mix=True)


# ---- running, with a stand-in for train.py -------------------------------------------------------

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
a = sys.argv
out, steps, stop = Path(a[a.index("--out") + 1]), int(a[a.index("--steps") + 1]), []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
fate = json.loads(os.environ["FATE"]).get(out.name)
if fate == "fails":
    print("starting", flush=True); sys.exit("error: the dog ate it")
out.mkdir(exist_ok=True)
assert ("--resume" in a) == (out / "config.json").exists()
(out / "config.json").write_text("{}")
file = out / "metrics.jsonl"
done = len(file.read_text().splitlines()) if file.exists() else 0
for step in range(done + 1, steps + 1):
    with open(file, "a") as f: f.write(json.dumps(json.loads(os.environ["LINE"]) | {"step": step}) + "\\n")
    if fate == "dies" and step == 2 and not done: os.kill(os.getpid(), signal.SIGKILL)
    if fate == "slow": time.sleep(0.2)
    if stop: sys.exit(130)
(out / "final").mkdir()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Runs compare.main with a train.py of a few lines, which ends as the run's fate says; without
    figures.
    """
    monkeypatch.setattr(compare_plot, "draw", lambda *a: [])
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(compare, "TRAIN", script)
    monkeypatch.setattr(
        compare, "comparable", lambda cfg: {}
    )  # the stand-in's config.json says nothing
    monkeypatch.setenv("LINE", json.dumps({**line(0), **held(0, 50)}))

    def run(*argv, out=tmp_path / "out", **fates):
        monkeypatch.setenv(
            "FATE", json.dumps({name.replace("_", "-"): how for name, how in fates.items()})
        )
        return compare.main(
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
    assert compare.main(["--report", str(out)]) == 0 and (out / "table.md").is_file()


def test_more_steps_go_further(tmp_path, stand_in):
    assert stand_in() == 0
    (tmp_path / "out/zppo-seed0/final").rmdir()  # train.py publishes anew
    (tmp_path / "out/grpo-seed0/final").rmdir()
    assert stand_in("--steps", "6") == 0 and compare.last_step(tmp_path / "out/zppo-seed0") == 6


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
    assert [r["step"] for r in plot.read(tmp_path / "out/zppo-seed0").rows] == [1, 2, 3, 4]


def test_ctrl_c_is_passed_on_once_and_the_same_command_goes_on(tmp_path, stand_in, capfd):
    folder = tmp_path / "out/zppo-seed0"

    def interrupt():
        while compare.last_step(folder) < 1:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert stand_in("--steps", "60", "--jobs", "1", zppo_seed0="slow") == 130
    thread.join()
    assert "the same command goes on" in capfd.readouterr().out
    assert 0 < compare.last_step(folder) < 60 and not (tmp_path / "out/grpo-seed0").exists()
    assert stand_in("--steps", "60") == 0


def test_a_run_of_another_process_is_left_alone(tmp_path, stand_in, capsys):
    (tmp_path / "out").mkdir()
    with open(
        tmp_path / "out/zppo-seed0.log", "ab"
    ) as log:  # a child whose compare.py was killed still holds this
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
        compare.main(["--out", str(tmp_path / "out"), *argv])
    message = (
        capsys.readouterr().err.strip().splitlines()[-1]
        if isinstance(e.value, SystemExit)
        else str(e.value)
    )
    assert says in message and "\n" not in message and not (tmp_path / "out").exists()


def test_command_line(tmp_path):
    made(tmp_path, "zppo", [60])
    done = subprocess.run(
        [sys.executable, compare.__file__, "--report", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "| ZPPO | 1 |" in done.stdout and not done.stderr
    assert (
        "METHOD"
        in subprocess.run(
            [sys.executable, compare.__file__, "--help"], capture_output=True, text=True
        ).stdout
    )


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

    children, start = [], compare.start
    monkeypatch.setattr(compare, "start", lambda *a: children.append(start(*a)) or children[-1])

    def kill():
        while compare.last_step(out / "grpo-seed0") < 2:
            time.sleep(0.02)
        children[0].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert compare.main([*argv, *small]) == 1 and "killed by signal 9" in capsys.readouterr().err
    thread.join()
    assert compare.last_step(out / "grpo-seed0") < 4
    assert compare.main([*argv, *small]) == 0
    assert [r["step"] for r in plot.read(out / "grpo-seed0").rows] == [1, 2, 3, 4]
    assert "| GRPO | 1 |" in capsys.readouterr().out
    assert (
        compare.main([*argv, "--methods", "zppo", *small, "--teacher", str(tmp_path / "nobody")])
        == 1
    )
    assert "zppo-seed0 failed" in capsys.readouterr().err
