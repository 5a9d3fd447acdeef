"""What the flags of train.py come to: Table 8 by name, what each method turns on, and combinations
that contradict each other.

python -m pytest tests/test_config.py
"""

import pytest

import train
from config import DISTILL, KNOBS, METHODS, RANGES, flags, run_name

# Table 8 once more, from the paper; the test below says that a student by name gets exactly these.
PAPER = {
    "batch": 96,
    "iterations": 4,
    "n": 8,
    "teacher_n": 4,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_prompt": 4096,
    "max_response": 12288,
    "max_summary": 512,
    "replay": 0.25,
    "aug": 0.25,
    "tau": 0.5,
    "capacity": 10_000,
    "lr": 1e-6,
    "beta1": 0.9,
    "beta2": 0.999,
    "adam_eps": 1e-8,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "clip_low": 0.2,
    "clip_high": 0.28,
    "dual_clip": 10.0,
    "steps": 200,
}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A working directory with a folder zppo-77k."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zppo-77k").mkdir()


def wrong(*argv):
    """The error of these flags, which has to be one line."""
    with pytest.raises(ValueError) as e:
        flags([str(a) for a in argv])
    assert "\n" not in str(e.value)
    return str(e.value)


# ---- defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["0.8b", "2b", "4b", "9b"])
def test_a_student_by_name_is_the_papers_run(corpus, size):
    cfg = flags(["--student", size])
    assert (
        cfg.student_path == f"Qwen/Qwen3.5-{size.upper()}"
        and cfg.teacher_path == "Qwen/Qwen3.5-27B-FP8"
    )
    assert {k: getattr(cfg, k) for k in PAPER} == PAPER and cfg.data == "zppo-77k"
    assert (cfg.method, cfg.buffer, cfg.bcq, cfg.ncq, cfg.compress, cfg.norm) == (
        "zppo",
        True,
        True,
        True,
        True,
        "nonzero",
    )


def test_the_tiny_student_has_its_own_column():
    cfg = flags([])
    assert (cfg.student, cfg.teacher, cfg.data) == (
        "tiny",
        "tiny",
        "tiny",
    ) and cfg.student_path.endswith("assets/student")
    assert {k: getattr(cfg, k) for k in KNOBS} == {k: small for k, (_, small, _) in KNOBS.items()}
    assert (
        flags(["--lr", "1e-6", "--n", "4"]).lr == 1e-6 and flags(["--n", "4"]).n == 4
    )  # given ones win
    assert flags(["--rollouts", "4"]).n == 4  # torchrun takes --n for its own


def test_a_student_of_ones_own():
    cfg = flags(["--student", "./my-model", "--teacher", "x/y"])
    assert (cfg.student_path, cfg.teacher_path) == ("./my-model", "x/y")
    assert {k: getattr(cfg, k) for k in PAPER} == PAPER
    assert "needs a --teacher" in wrong("--student", "./my-model") and flags(
        ["--student", "./my-model", "--method", "grpo"]
    )
    assert flags(["--student", "./my-model", "--no-bcq", "--no-ncq"])  # nobody is asked anything


@pytest.mark.parametrize(
    "name, path",
    [("4b", "Qwen/Qwen3.5-4B"), ("9b", "Qwen/Qwen3.5-9B"), ("27b", "Qwen/Qwen3.5-27B-FP8")],
)
def test_the_papers_three_teachers(corpus, name, path):
    assert flags(["--student", "2b", "--teacher", name]).teacher_path == path


def test_the_papers_corpus_is_not_downloaded_behind_ones_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = wrong("--student", "0.8b")
    assert "zppo-77k" in message and "data.py build" in message and "--data" in message
    with pytest.raises(ValueError, match="zppo-77k"):
        train.main(["--student", "0.8b"])
    assert (
        list(tmp_path.iterdir()) == []
        and flags(["--student", "0.8b", "--data", "my.jsonl"]).data == "my.jsonl"
    )


# ---- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m != "zppo"])
@pytest.mark.parametrize("part", ["bcq", "ncq"])
def test_only_zppo_has_reformulations(method, part):
    message = wrong("--method", method, f"--{part}")
    assert f"--method {method} has no {part.upper()}" in message and "--method zppo has" in message
    cfg = flags(["--method", method, f"--no-{part}"])  # saying what is so is no error
    assert not cfg.bcq and not cfg.ncq and cfg.buffer


@pytest.mark.parametrize("method", DISTILL)
def test_distillation_is_one_update_a_step(corpus, method):
    """With the same new prompts a step as the other methods: batch * iterations of them."""
    message = wrong("--method", method, "--iterations", 4)
    assert "one update per rollout step" in message and "--iterations 4" in message
    for argv, batch in (
        ([], 32),
        (["--batch", "5"], 20),
        (["--batch", "5", "--iterations", "1"], 5),
        (["--student", "0.8b"], 384),
    ):
        cfg = flags(["--method", method, *argv])
        assert (cfg.batch, cfg.iterations) == (batch, 1), argv
    for idle in (("--norm", "all"), ("--clip-low", 0.1), ("--tis", 2)):
        assert f"{idle[0]} would do nothing" in wrong("--method", method, *idle)
    assert (
        cfg.teacher_path == "Qwen/Qwen3.5-27B"
    )  # its forward is sharded and multiplied in bfloat16: no FP8
    assert "needs a --teacher" in wrong("--student", "./my-model", "--method", method)


@pytest.mark.parametrize(
    "argv",
    [
        ("--teacher", "tiny"),
        ("--teacher-ranks", 1),
        ("--method", "off-distill"),
        ("--method", "on-distill"),
    ],
)
def test_a_server_is_the_only_teacher(argv):
    message = wrong("--teacher-url", "http://localhost:1", *argv)
    assert "--teacher-url is the teacher" in message
    assert all(w in message for w in ("--teacher,", "--teacher-ranks", "distillation"))
    assert flags(["--teacher-url", "http://localhost:1", "--method", "hint"]).teacher_ranks == 0


@pytest.mark.parametrize(
    "argv, name",
    [
        ((), "zppo"),
        (("--no-bcq",), "grpo-ncq"),
        (("--no-ncq",), "grpo-bcq"),
        (("--no-bcq", "--no-ncq"), "grpo"),
        (("--no-buffer",), "zppo-nobuffer"),
        (("--no-buffer", "--no-ncq"), "grpo-bcq-nobuffer"),
        (("--no-buffer", "--no-bcq"), "grpo-ncq-nobuffer"),
        (("--no-buffer", "--no-bcq", "--no-ncq"), "grpo-nobuffer"),
        *[(("--method", m), m) for m in METHODS],
        *[(("--method", m, "--no-buffer"), f"{m}-nobuffer") for m in METHODS],
    ],
)
def test_names(argv, name):
    assert run_name(flags(list(argv))) == name


@pytest.mark.parametrize(
    "method, teacher",
    [
        ("zppo", True),
        ("grpo", False),
        ("hint", True),
        ("prefix", True),
        ("off-distill", True),
        ("on-distill", False),
    ],
)
def test_who_needs_a_teacher_rank(method, teacher):
    """GRPO frees the processes that would have been teachers, and on-policy distillation, which
    reads the teacher's weights in the students' processes. A teacher that is named for GRPO is its
    judge.
    """
    assert flags(["--method", method]).teacher_ranks == (-1 if teacher else 0)
    named = flags(["--method", method, "--teacher", "tiny", "--teacher-ranks", "1"]).teacher_ranks
    assert named == (0 if method == "on-distill" else 1)


@pytest.mark.parametrize("iterations", [1, 4, 8, 16])
def test_the_papers_recipes(corpus, iterations):
    assert flags(["--student", "2b", "--iterations", str(iterations)]).iterations == iterations
    assert [flags(["--norm", n]).norm for n in ("nonzero", "all", "none")] == [
        "nonzero",
        "all",
        "none",
    ]


# ---- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_range_names_its_flag(name):
    low, high = RANGES[name]
    kind, flag = type(getattr(flags([]), name)), f"--{name.replace('_', '-')}"
    below, above = (
        (low - 1 if kind is int else 0.0 if 0 < low < 1e-6 else low - 0.5),
        kind(high) + 1,
    )
    for bad in (below, above) if kind is int else (below, above, "nan"):
        message = wrong(f"{flag}={bad}")
        assert message.startswith(f"{flag} must be from") and str(bad) in message
    assert getattr(flags([f"{flag}={kind(low)}"]), name) == kind(low)


@pytest.mark.parametrize(
    "argv",
    [("--n", "eight"), ("--method", "ppo"), ("--norm", "some"), ("--engine", "x"), ("--iter", "2")],
)
def test_what_argparse_refuses(capsys, argv):
    """No abbreviations either: --iter is not --iterations."""
    with pytest.raises(SystemExit) as e:
        flags(list(argv))
    assert e.value.code == 2 and argv[0] in capsys.readouterr().err
