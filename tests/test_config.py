"""What the flags of train.py come to: Table 8 by name, what each method turns on, and combinations
that contradict each other.

python -m pytest tests/test_config.py
"""

from dataclasses import fields

import pytest

import train
from config import DISTILL, METHODS, RANGES, Config, flag_of, run_name

# Table 8 once more, from the paper; the test below says that a student by name gets exactly these.
PAPER = {"batch": 96, "iterations": 4, "group_size": 8, "teacher_n": 4, "steps": 200}
PAPER |= {"temperature": 1.0, "top_p": 1.0, "replay": 0.25, "aug": 0.25, "tau": 0.5}
PAPER |= {"max_prompt": 4096, "max_response": 12288, "max_summary": 512, "capacity": 10_000}
PAPER |= {"lr": 1e-6, "beta1": 0.9, "beta2": 0.999, "adam_eps": 1e-8, "weight_decay": 0.1}
PAPER |= {"grad_clip": 1.0, "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A working directory with a folder zppo-77k."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zppo-77k").mkdir()


@pytest.fixture
def wrong(cfg):
    """The error of these flags, which has to be one line."""

    def message(*argv):
        with pytest.raises(ValueError) as e:
            cfg(*argv)
        assert "\n" not in str(e.value)
        return str(e.value)

    return message


def numbers(cfg):
    return {name: getattr(cfg, name) for name in PAPER}


# ---- defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["0.8b", "2b", "4b", "9b"])
def test_a_student_by_name_is_the_papers_run(corpus, cfg, size):
    c = cfg(f"--student {size} --device cpu")
    assert c.student_path == f"Qwen/Qwen3.5-{size.upper()}"
    assert c.teacher_path == "Qwen/Qwen3.5-27B-FP8" and c.data == "zppo-77k"
    assert numbers(c) == PAPER and (c.method, c.norm) == ("zppo", "nonzero")
    assert c.buffer is c.bcq is c.ncq is c.compress is True


def test_the_tiny_student_has_its_own_column(cfg):
    c = cfg()
    assert c.student == c.teacher == c.data == "tiny" and c.student_path.endswith("assets/student")
    # what the method and the machine decide is filled in
    filled = "teacher data buffer bcq ncq device dtype checkpointing teacher_ranks".split()
    column = {f.name: f.metadata["tiny"] for f in fields(Config) if f.name not in filled}
    assert {name: getattr(c, name) for name in column} == column
    assert (column["steps"], column["lr"], column["weight_decay"]) == (45, 2e-4, 0.0)
    c = cfg("--lr 1e-6 --n 4")
    assert c.lr == 1e-6 and c.group_size == 4  # given ones win
    assert cfg("--rollouts 4").group_size == 4  # torchrun takes --n for its own


def test_a_student_of_ones_own(cfg, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    c = cfg("--student ./my-model --teacher x/y")
    assert (c.student_path, c.teacher_path) == ("./my-model", "x/y") and numbers(c) == PAPER
    assert "needs a --teacher" in wrong("--student ./my-model")
    assert cfg("--student ./my-model --method grpo")
    assert cfg("--student ./my-model --no-bcq --no-ncq")  # nobody is asked anything


@pytest.mark.parametrize("name, path", [("4b", "4B"), ("9b", "9B"), ("27b", "27B-FP8")])
def test_the_papers_three_teachers(corpus, cfg, name, path):
    c = cfg(f"--student 2b --teacher {name} --device cpu")
    assert c.teacher_path == f"Qwen/Qwen3.5-{path}"


def test_the_papers_corpus_is_not_downloaded_behind_ones_back(tmp_path, monkeypatch, cfg, wrong):
    monkeypatch.chdir(tmp_path)
    message = wrong("--student 0.8b --device cpu")
    assert "zppo-77k" in message and "data.py build" in message and "--data" in message
    with pytest.raises(ValueError, match="zppo-77k"):
        train.main(["--student", "0.8b", "--device", "cpu"])
    assert list(tmp_path.iterdir()) == []
    assert cfg("--student 0.8b --device cpu --data my.jsonl").data == "my.jsonl"


@pytest.mark.parametrize("student", ["0.8b", "owner/name"])
def test_a_model_of_size_does_not_go_to_the_cpu_unasked(monkeypatch, cfg, wrong, student):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    argv = f"--student {student} --teacher tiny --data my.jsonl"
    assert "sees no CUDA device" in wrong(argv) and "--device cpu" in wrong(argv)
    assert "--device cpu works" in wrong(argv, "--device cuda")
    c = cfg(argv, "--device cpu")
    assert (c.device, c.dtype, c.checkpointing, c.teacher_ranks) == ("cpu", "float32", False, 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    c = cfg(argv)
    assert (c.device, c.dtype, c.checkpointing, c.teacher_ranks) == ("cuda", "bfloat16", True, -1)
    assert cfg().device == "cpu"  # the tiny world means the CPU, also there


# ---- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m != "zppo"])
@pytest.mark.parametrize("part", ["bcq", "ncq"])
def test_only_zppo_has_reformulations(cfg, wrong, method, part):
    message = wrong(f"--method {method} --{part}")
    assert f"--method {method} has no {part.upper()}" in message and "--method zppo has" in message
    c = cfg(f"--method {method} --no-{part}")  # saying what is so is no error
    assert not c.bcq and not c.ncq and c.buffer


@pytest.mark.parametrize("method", DISTILL)
def test_distillation_is_one_update_a_step(corpus, cfg, wrong, method):
    """With the same new prompts a step as the other methods, or those that --batch says."""
    message = wrong(f"--method {method} --iterations 4")
    assert "one update per rollout step" in message and "--iterations 4" in message
    sizes = {"": 32, "--batch 5": 5, "--batch 5 --iterations 1": 5}
    for argv, batch in (sizes | {"--student 0.8b --device cpu": 384}).items():
        c = cfg(f"--method {method}", argv)
        assert (c.batch, c.iterations) == (batch, 1), argv
    for idle in ("--norm all", "--clip-low 0.1", "--tis 2"):
        assert f"{idle.split()[0]} would do nothing" in wrong(f"--method {method}", idle)
    # its forward is sharded and multiplied in bfloat16: no FP8
    assert c.teacher_path == "Qwen/Qwen3.5-27B"
    assert "needs a --teacher" in wrong(f"--student ./my-model --device cpu --method {method}")


@pytest.mark.parametrize("argv", ["--teacher tiny", "--teacher-ranks 1", "--method off-distill"])
def test_a_server_is_the_only_teacher(cfg, wrong, argv):
    message = wrong("--teacher-url http://localhost:1", argv)
    assert "--teacher-url is the teacher" in message
    assert all(w in message for w in ("--teacher,", "--teacher-ranks", "distillation"))
    assert cfg("--teacher-url http://localhost:1 --method hint").teacher_ranks == 0


NAMES = {"": "zppo", "--no-bcq": "grpo-ncq", "--no-ncq": "grpo-bcq", "--no-bcq --no-ncq": "grpo"}
NAMES |= {f"--method {m}": m for m in METHODS}
NAMES |= {f"{argv} --no-buffer": f"{name}-nobuffer" for argv, name in NAMES.items()}


@pytest.mark.parametrize("argv", NAMES)
def test_names(cfg, argv):
    assert run_name(cfg(argv)) == NAMES[argv]


@pytest.mark.parametrize("method", METHODS)
def test_who_needs_a_teacher_rank(monkeypatch, cfg, method):
    """GRPO frees the processes that would have been teachers, and on-policy distillation, which
    reads the teacher's weights in the students' processes. A teacher that is named for GRPO is its
    judge. On a CPU nobody serves unless it is said.
    """
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_gpu = f"--method {method} --device cuda"
    assert cfg(on_gpu).teacher_ranks == (0 if method in ("grpo", "on-distill") else -1)
    assert cfg(f"--method {method}").teacher_ranks == 0
    for argv in (on_gpu, f"--method {method}"):
        if method != "on-distill":  # there it would do nothing
            assert cfg(argv, "--teacher tiny --teacher-ranks 1").teacher_ranks == 1


RECIPES = {"iterations": [1, 4, 8, 16], "norm": ["nonzero", "all", "none"]}


@pytest.mark.parametrize("flag", RECIPES)
def test_the_papers_recipes(corpus, cfg, flag):
    made = [cfg(f"--student 2b --device cpu --{flag} {v}") for v in RECIPES[flag]]
    assert [getattr(c, flag) for c in made] == RECIPES[flag]


# ---- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_range_names_its_flag(cfg, wrong, name):
    (low, high), flag = RANGES[name], flag_of(name)
    kind = type(getattr(cfg(), name))
    below, above = low - (1 if kind is int else 0.5), kind(high) + 1
    if 0 < low < 1e-6:
        below = 0.0
    for bad in (below, above) if kind is int else (below, above, "nan"):
        message = wrong(f"{flag}={bad}")
        assert message.startswith(f"{flag} must be from") and str(bad) in message
    lowest = 0 if name == "teacher_ranks" else kind(low)  # on a CPU a quarter is none
    assert getattr(cfg(f"{flag}={kind(low)}"), name) == lowest


@pytest.mark.parametrize(
    "argv", ["--n eight", "--method ppo", "--norm some", "--engine x", "--iter 2"]
)
def test_what_argparse_refuses(capsys, cfg, argv):
    """No abbreviations either: --iter is not --iterations."""
    with pytest.raises(SystemExit) as e:
        cfg(argv)
    assert e.value.code == 2 and argv.split()[0] in capsys.readouterr().err
