"""Every flag of train.py, and the run folder they lead to.

One flat list: the name, the paper's number (Table 8), the tiny world's number, and what it is.
`--student tiny` takes the tiny column; any other student takes the paper's. Flags that the caller
gives win over both. What a method is made of stands in METHODS.

    python train.py --help
"""

import argparse
import math
from itertools import count
from pathlib import Path

import torch
import transformers

from loss import NORMS
from runtime import checkpoint

HERE = Path(__file__).parent
STUDENTS = {
    "tiny": HERE / "assets/student",
    **{size: f"Qwen/Qwen3.5-{size.upper()}" for size in ("0.8b", "2b", "4b", "9b")},
}
TEACHERS = {
    "tiny": HERE / "assets/teacher",
    "4b": "Qwen/Qwen3.5-4B",
    "9b": "Qwen/Qwen3.5-9B",
    "27b": "Qwen/Qwen3.5-27B-FP8",
}

# What each method turns on (ZPPO section 4, Appendix D.2). None: may not be changed; else the
# default of --buffer, --bcq, --ncq.
METHODS = {
    "zppo": {"buffer": True, "bcq": True, "ncq": True},
    "grpo": {
        "buffer": True,
        "bcq": None,
        "ncq": None,
    },  # the paper's GRPO with a dagger; --no-buffer: GRPO
    "off-distill": {
        "buffer": True,
        "bcq": None,
        "ncq": None,
    },  # divergence on the teacher's correct responses
    "on-distill": {"buffer": True, "bcq": None, "ncq": None},  # divergence on the student's own
    "hint": {
        "buffer": True,
        "bcq": None,
        "ncq": None,
    },  # an answer-free hint in the prompt instead of BCQ, NCQ
    "prefix": {"buffer": True, "bcq": None, "ncq": None},
}  # the first 40 % of a correct teacher response, forced
DISTILL = ("off-distill", "on-distill")

# name: (paper's Table 8, tiny world, what it is). The tiny column is the default of --student tiny,
# the paper's of any other.
KNOBS = {
    "steps": (200, 45, "rollout steps"),
    "batch": (96, 8, "new prompts per gradient update"),
    "iterations": (
        4,
        4,
        "I, gradient updates per rollout step; each sampled token is used in one of them",
    ),
    "n": (8, 8, "G_S, student samples per prompt (under torchrun: --rollouts)"),
    "teacher_n": (4, 4, "G_T, teacher samples per hard question"),
    "temperature": (1.0, 1.0, "of student and teacher while training; no top-k, no penalties"),
    "top_p": (
        1.0,
        1.0,
        "of the teacher's samples; the student's is 1, or the sampled policy is not the trained one",
    ),
    "teacher_max": (
        32,
        32,
        "teacher answers to ask for in all to a question that none of them solves (ours)",
    ),
    "max_prompt": (
        4096,
        256,
        "tokens of a plain prompt, image tokens included; BCQ and NCQ only by the context window",
    ),
    "max_response": (12288, 40, "tokens of a response, student and teacher"),
    "max_summary": (512, 40, "tokens of a compressed candidate"),
    "replay": (0.25, 0.25, "rho_replay: replayed prompts per new prompt, in addition to them"),
    "aug": (0.25, 0.25, "rho_aug: cap of BCQ + NCQ prompts per new prompt"),
    "tau": (0.5, 0.5, "a question is hard below this mean reward, and graduates at or above it"),
    "capacity": (10_000, 10_000, "questions in the replay buffer, first in first out"),
    "lr": (1e-6, 2e-4, "AdamW, constant, no warm-up"),
    "beta1": (0.9, 0.9, "AdamW"),
    "beta2": (0.999, 0.999, "AdamW"),
    "adam_eps": (1e-8, 1e-8, "AdamW"),
    "weight_decay": (0.1, 0.0, "AdamW"),
    "grad_clip": (1.0, 1.0, "largest global gradient norm"),
    "clip_low": (0.20, 0.20, "PPO clip below 1"),
    "clip_high": (0.28, 0.28, "PPO clip above 1"),
    "dual_clip": (
        10.0,
        10.0,
        "ceiling of a negative-advantage token's loss, in units of |advantage|",
    ),
    "threads": (
        0,
        1,
        "CPU threads, 0: PyTorch's choice; two spin on each other when anything else wants a core",
    ),
    "micro_tokens": (
        65_536,
        8192,
        "padded tokens per forward and backward (paper: 4 sequences of up to 16,384); changes speed "
        "and memory, not the gradient",
    ),
    "flat_share": (
        0.125,
        0.25,
        "share of the samples without advantage that entropy and log-prob gap are measured on (ours)",
    ),
    "vllm_memory": (
        0.45,
        0.45,
        "share of a GPU's memory for vLLM's weights and cache on a student rank",
    ),
}


_SOME, _TINY, _MUCH = 1, 1e-12, 1e12  # at least one; above zero; no bound that matters
RANGES = {
    **{
        name: (_SOME, _MUCH)
        for name in (
            "steps",
            "batch",
            "iterations",
            "teacher_n",
            "teacher_max",
            "max_prompt",
            "max_response",
            "max_summary",
            "capacity",
            "micro_tokens",
            "keep",
        )
    },
    "n": (2, _MUCH),
    "tau": (_TINY, 1),
    "replay": (0, 1000),
    "aug": (0, 1000),
    "temperature": (_TINY, 1000),
    "top_p": (_TINY, 1),
    "lr": (0, 1000),
    "beta1": (0, 1 - 1e-9),
    "beta2": (0, 1 - 1e-9),
    "adam_eps": (_TINY, 1),
    "weight_decay": (0, 1000),
    "grad_clip": (_TINY, _MUCH),
    "clip_low": (_TINY, 1),
    "clip_high": (_TINY, _MUCH),
    "dual_clip": (1, _MUCH),
    "flat_share": (_TINY, 1),
    "vllm_memory": (0.01, 1),
    "tis": (0, _MUCH),
    "timeout": (5, _MUCH),
    "teacher_ranks": (-1, _MUCH),
    "threads": (0, 4096),
    "save_every": (0, _MUCH),
    "eval_every": (0, _MUCH),
    "show": (0, _MUCH),
}

# Flags that may differ when a run goes on: they change how long and how it is watched, not what the
# next step does.
FREE = {
    "steps",
    "skip_bad",
    "out",
    "resume",
    "force",
    "resume_from",
    "save_every",
    "keep",
    "eval_every",
    "show",
    "tensorboard",
    "wandb",
    "student_path",
    "teacher_path",
    "teacher_ranks",
    "timeout",
    "checkpointing",
    "vllm_memory",
}


def share(rho, n):
    """rho * n prompts, rounded down, because Table 8 caps them; the small term keeps 0.29 * 100 at
    29.
    """
    return math.floor(rho * n + 1e-9)


def comparable(cfg):
    """The flags that must be the same when a run goes on, as JSON values."""
    return {k: v for k, v in vars(cfg).items() if k not in FREE}


def flags(argv):
    """Parse and resolve the flags: every knob of Table 8 has the paper's default, or the tiny
    world's.
    """
    p = argparse.ArgumentParser(
        prog="train.py",
        description="ZPPO: train a student with a frozen teacher in its prompts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--student", default="tiny", help=f"{', '.join(STUDENTS)}, or a model folder or hub id"
    )
    p.add_argument(
        "--teacher",
        default="",
        help=f"{', '.join(TEACHERS)}, or a model folder or hub id; frozen; default: tiny for "
        f"the tiny student, 27b for the others by name",
    )
    p.add_argument(
        "--data",
        default="",
        help="tiny, a folder or file of questions (see data.py), or a hub data set; default: tiny "
        "for the tiny student, the folder zppo-77k for the others by name",
    )
    p.add_argument(
        "--map",
        default="",
        help="our key = the data set's column: question=problem,answer=solution,image=image",
    )
    p.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip questions whose image does not open, with a counted warning",
    )
    p.add_argument(
        "--heldout",
        default="",
        help="questions to measure before and after; the tiny world brings its own",
    )
    p.add_argument(
        "--out", default="", help="folder of the run; default: the next free runs/NAME-N"
    )
    p.add_argument("--seed", type=int, default=0, help="of data order, sampling, candidates")
    flag = argparse.BooleanOptionalAction
    p.add_argument(
        "--method",
        choices=METHODS,
        default="zppo",
        help="zppo is grpo + buffer + bcq + ncq; the others: README.md",
    )
    p.add_argument(
        "--buffer", action=flag, default=None, help="replay hard questions; default: yes"
    )
    p.add_argument(
        "--bcq",
        action=flag,
        default=None,
        help="show a correct teacher answer beside a wrong one of the student",
    )
    p.add_argument(
        "--ncq", action=flag, default=None, help="show the student all its wrong answers"
    )
    p.add_argument(
        "--compress", action=flag, default=True, help="candidates are the teacher's summaries"
    )
    p.add_argument(
        "--fresh-teacher",
        action=flag,
        default=False,
        help="draw new teacher answers on each visit, as the paper does; default: a cache that grows",
    )
    p.add_argument(
        "--thinking",
        action=flag,
        default=True,
        help="let the chat template open <think>; the paper is silent",
    )
    p.add_argument(
        "--norm",
        choices=NORMS,
        default="nonzero",
        help="which groups the standard deviation of Eq. 3 is over",
    )
    p.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
        help="of compute; weights stay float32",
    )
    p.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where student and teacher live",
    )
    p.add_argument(
        "--engine",
        choices=("", "vllm", "hf"),
        default="",
        help="what samples; default: vllm on a GPU, else hf",
    )
    p.add_argument(
        "--teacher-ranks",
        type=int,
        default=-1,
        help="torchrun processes of each node that are teachers; -1: a quarter "
        "(the paper: 2 of 8); 0: the teacher lives on student rank 0",
    )
    p.add_argument(
        "--teacher-url",
        default="",
        help="an OpenAI-compatible server is the teacher (vllm serve ...)",
    )
    p.add_argument(
        "--checkpointing",
        action=flag,
        default=torch.cuda.is_available(),
        help="recompute activations in the backward pass: less memory, about a third more time",
    )
    p.add_argument(
        "--tis",
        type=float,
        default=0.0,
        help="cap of truncated importance weights between sampler and trainer; 0: off",
    )
    p.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        help="seconds that ranks wait for each other before an error says where",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --out (default: newest run)",
    )
    p.add_argument("--force", action="store_true", help="resume although flags changed")
    p.add_argument(
        "--save-every", type=int, default=10, help="steps between checkpoints; 0: only at the end"
    )
    p.add_argument("--keep", type=int, default=2, help="checkpoints to keep")
    p.add_argument(
        "--eval-every",
        type=int,
        default=0,
        help="steps between held-out evaluations; 0: before and after only",
    )
    p.add_argument(
        "--show", type=int, default=3, help="reformulated questions a step written to samples.jsonl"
    )
    p.add_argument(
        "--teacher-cache",
        default="",
        help="share the teacher's answers between runs; default: in the run folder",
    )
    p.add_argument("--tensorboard", action="store_true", help="needs the package tensorboard")
    p.add_argument("--wandb", action="store_true", help="needs the package wandb")
    table = p.add_argument_group("Table 8 (first number: the paper; second: --student tiny)")
    for name, (paper, small, why) in KNOBS.items():
        also = (
            ["--rollouts"] if name == "n" else []
        )  # torchrun takes a bare --n for an abbreviation of its own flags
        table.add_argument(
            f"--{name.replace('_', '-')}",
            *also,
            dest=name,
            type=type(paper),
            default=argparse.SUPPRESS,
            metavar=type(paper).__name__.upper(),
            help=f"{why} [{paper} | {small}]",
        )
    cfg = p.parse_args(argv)
    given = {name for name in KNOBS if hasattr(cfg, name)}
    for name, (paper, small, _) in KNOBS.items():
        if not hasattr(cfg, name):
            setattr(cfg, name, small if cfg.student == "tiny" else paper)
    choose_method(cfg, given)
    for name, (low, high) in RANGES.items():
        if not low <= getattr(cfg, name) <= high:  # also false for nan
            why = ": a group of one has no baseline" if name == "n" else ""
            raise ValueError(
                f"--{name.replace('_', '-')} must be from {low:g} to {high:g}, not {getattr(cfg, name)}{why}"
            )
    cfg.teacher_given = bool(cfg.teacher)  # also judges free-form answers for GRPO
    if cfg.teacher_url and (cfg.teacher or cfg.method in DISTILL or cfg.teacher_ranks > 0):
        raise ValueError(
            "--teacher-url is the teacher: give it without --teacher, --teacher-ranks and distillation, which reads "
            "the teacher's weights"
        )
    if (
        not cfg.teacher
        and not cfg.teacher_url
        and cfg.student not in STUDENTS
        and (needs_teacher(cfg) or cfg.method in DISTILL)
    ):
        raise ValueError(
            f"--student {cfg.student} needs a --teacher (or --method grpo); the tiny one knows only digits"
        )
    if cfg.teacher_url or not needs_teacher(cfg):
        cfg.teacher_ranks = 0  # no process has to be one
    cfg.teacher = cfg.teacher or (
        "tiny" if cfg.student not in STUDENTS or cfg.student == "tiny" else "27b"
    )
    cfg.data = cfg.data or (
        "tiny" if cfg.student == "tiny" or cfg.student not in STUDENTS else "zppo-77k"
    )
    if cfg.data == "zppo-77k" and not Path(cfg.data).exists():
        raise ValueError(
            "there is no folder zppo-77k here; build it with `python data.py build --out zppo-77k`, or give --data"
        )
    if cfg.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"--device {cfg.device}: this PyTorch sees no CUDA device; --device cpu works everywhere"
        )
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    cfg.student_path = str(STUDENTS.get(cfg.student, cfg.student))
    cfg.teacher_path = str(TEACHERS.get(cfg.teacher, cfg.teacher))
    if cfg.method in DISTILL:
        cfg.teacher_path = cfg.teacher_path.removesuffix(
            "-FP8"
        )  # its forward is sharded and multiplied in bfloat16
    return cfg


def choose_method(cfg, given):
    """Fill in --buffer, --bcq, --ncq and what else --method decides. Raises ValueError for a
    combination that contradicts it.
    """
    for part, default in METHODS[cfg.method].items():
        if getattr(cfg, part) is None:
            setattr(cfg, part, bool(default))
        elif getattr(cfg, part) and default is None:
            raise ValueError(
                f"--method {cfg.method} has no {part.upper()}; --method zppo has (with --no-bcq or --no-ncq for one)"
            )
    if cfg.method in DISTILL:
        idle = (
            sorted(given & {"clip_low", "clip_high", "dual_clip"})
            + ["norm"] * (cfg.norm != "nonzero")
            + ["tis"] * bool(cfg.tis)
        )
        if idle:
            raise ValueError(
                f"--method {cfg.method} has no policy loss: --{idle[0].replace('_', '-')} would do nothing"
            )
        if "iterations" in given and cfg.iterations != 1:
            raise ValueError(
                f"--method {cfg.method} makes one update per rollout step (Appendix D.2), not --iterations "
                f"{cfg.iterations}; --batch sets its size"
            )
        # the same new prompts a step as the other methods, in one update
        cfg.batch, cfg.iterations = cfg.batch * cfg.iterations, 1


def needs_teacher(cfg):
    """Whether this run asks the teacher anything. (One that was named may also judge free-form
    answers for GRPO.)
    """
    if cfg.method == "on-distill":
        return bool(cfg.teacher_url)
    named = bool(cfg.teacher_url or cfg.teacher_given)
    return named or cfg.method != "grpo" and (cfg.method != "zppo" or cfg.bcq or cfg.ncq)


def run_name(cfg):
    """zppo, grpo, grpo-bcq, hint, ...: what the folder and the bar are called."""
    name = cfg.method
    if name == "zppo" and not (cfg.bcq and cfg.ncq):
        name = "grpo" + "-bcq" * cfg.bcq + "-ncq" * cfg.ncq
    return name + "-nobuffer" * (not cfg.buffer)


def open_run(cfg):
    """The run folder of a new run, or of the one to resume (then cfg.resume_from is set). Raises
    ValueError.
    """
    cfg.resume_from = ""
    stem = f"{run_name(cfg)}-{Path(cfg.student).name}"
    if not cfg.resume:
        out = (
            Path(cfg.out)
            if cfg.out
            else next(p for n in count(1) if not (p := Path(f"runs/{stem}-{n}")).exists())
        )
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"{out} exists already; go on with --resume --out {out}, or give another --out"
            )
        return out
    # the newest run that has a checkpoint, rather than a newer one that failed at its start
    runs = (
        [Path(cfg.out)]
        if cfg.out
        else sorted(
            Path("runs").glob("*/checkpoints"),
            key=lambda p: (bool(checkpoint.complete(p)), p.stat().st_mtime),
        )
    )
    if not runs:
        raise ValueError("--resume: there is no run under runs/; name one with --out")
    out = runs[-1] if cfg.out else runs[-1].parent
    found = checkpoint.latest(out / "checkpoints")
    if found is None and not (out / "config.json").is_file():
        raise ValueError(
            f"{out}: no complete checkpoint to resume from; start again with another --out"
        )
    if found is None:  # it died before its first checkpoint: begin again in its place
        print(f"{out}: no complete checkpoint yet, so this begins at step 1")
        was = checkpoint.read_json(out / "config.json")
        was = {k: was.get(k) for k in comparable(cfg)}
    else:
        was = checkpoint.read_json(found / "state.json")["config"]
    now = comparable(cfg)
    changed = [
        f"--{k.replace('_', '-')} {was.get(k)} -> {now.get(k)}"
        for k in sorted({*was, *now})
        if was.get(k) != now.get(k)
    ]
    if changed and not cfg.force:
        raise ValueError(
            f"{out} was started with other flags ({'; '.join(changed)}): this would be a different run. "
            f"Give the same flags, or --force"
        )
    cfg.resume_from = str(found) if found else ""
    return out


def make_folder(out, cfg, **facts):
    """Make the run folder and write config.json into it: the flags as used, what they ran on, and
    further facts.
    """
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(
        out / "config.json",
        {
            **vars(cfg),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            **facts,
        },
    )
