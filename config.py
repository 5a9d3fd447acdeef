"""Every flag of train.py: one dataclass, one line a flag.

Each field has the paper's value (Table 8), the tiny world's where it differs, its range, and what
it is. `--student tiny` takes the tiny column; any other student takes the paper's. Flags that the
caller gives win over both. What a method is made of stands in METHODS.

    python train.py --help
"""

import argparse
import math
import os
import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import torch

from loss import NORMS

HERE = Path(__file__).parent
STUDENTS = {
    "tiny": str(HERE / "assets/student"),
    "0.8b": "Qwen/Qwen3.5-0.8B",
    "2b": "Qwen/Qwen3.5-2B",
    "4b": "Qwen/Qwen3.5-4B",
    "9b": "Qwen/Qwen3.5-9B",
}
TEACHERS = {
    "tiny": str(HERE / "assets/teacher"),
    "4b": "Qwen/Qwen3.5-4B",
    "9b": "Qwen/Qwen3.5-9B",
    "27b": "Qwen/Qwen3.5-27B-FP8",
}
# Section 4 and Appendix D.2; all have the buffer (the paper's dagger) unless --no-buffer. Only zppo
# has BCQ and NCQ, each of which can be switched off.
METHODS = ("zppo", "grpo", "off-distill", "on-distill", "hint", "prefix")
DISTILL = ("off-distill", "on-distill")

# Flags whose value follows the student's size, so that 80 GB are enough (runtime/plan.py).
SIZES = {"4b": {"micro_tokens": 32_768}, "9b": {"micro_tokens": 16_384}}

# tokens of the words around the candidates, and of the listed answers (estimate)
WORDING = 1024

TINY, MANY = 1e-12, 1e12  # above zero; no bound that matters


def knob(paper, why, low=None, high=MANY, tiny=MISSING, choices=None, free=False, alias=()):
    """A flag. low, high: its range, both inside; choices: its values; alias: further names; free:
    it may differ when a run goes on, because it changes how long, how fast and how it is watched,
    not what the next step does.
    """
    facts = {"why": why, "low": low, "high": high, "choices": choices, "free": free}
    facts |= {"tiny": paper if tiny is MISSING else tiny, "alias": alias}
    return field(default=paper, metadata=facts)


# fmt: off
@dataclass
class Config:
    """The flags as parsed and resolved by `flags`."""

    # What is trained, on what, where to.
    student: str = knob("tiny", f"{', '.join(STUDENTS)}, or a model folder or hub id")
    teacher: str = knob("", f"{', '.join(TEACHERS)}, or a model folder or hub id; frozen; default: "
        f"tiny for the tiny student, 27b for the others by name")
    data: str = knob("", "tiny, a folder or file of questions (see data.py), or a hub data set; "
        "default: tiny for the tiny student, the folder zppo-77k for the others by name")
    map: str = knob("", "our key = the data set's column: "
        "question=problem,answer=solution,image=image")
    skip_bad: bool = knob(False, "skip questions that can't be used (picture, length, "
        "type, gold), with a counted warning",
        free=True)
    heldout: str = knob("", "questions to measure before and after; the tiny world brings its own")
    out: str = knob("", "folder of the run; default: the next free runs/NAME-N", free=True)
    seed: int = knob(0, "of data order, sampling, candidates")

    # The method.
    method: str = knob("zppo", "zppo is grpo + buffer + bcq + ncq; the others: docs/methods.md",
        choices=METHODS)
    buffer: bool = knob(None, "replay hard questions; default: yes")
    bcq: bool = knob(None, "show a correct teacher answer beside a wrong one of the student; "
        "default: yes for zppo")
    ncq: bool = knob(None, "show the student all its wrong answers; default: yes for zppo")
    compress: bool = knob(True, "candidates are the teacher's summaries")
    fresh_teacher: bool = knob(False, "draw new teacher answers on each visit, as the paper does; "
        "default: a memo that grows")
    teacher_scope: str = knob("used", "asked are all hard questions, as in the paper, or the "
        "hardest until the pool of reformulated prompts is full", choices=("used", "hard"))
    thinking: bool = knob(True, "let the chat template open <think>; the paper is silent")
    norm: str = knob("nonzero", "which groups the standard deviation of Eq. 3 is over",
        choices=NORMS)
    tis: float = knob(0.0, "cap of truncated importance weights between sampler and trainer; 0: "
        "off", 0)

    # Table 8.
    steps: int = knob(200, "rollout steps", 1, tiny=45, free=True)
    batch: int = knob(96, "new prompts per gradient update", 1, tiny=8)
    iterations: int = knob(4, "I, gradient updates per rollout step; each sampled token is used in "
        "one of them", 1)
    group_size: int = knob(8, "G_S, student samples per prompt (under torchrun: --rollouts)",
        2, alias=("--n", "--rollouts"))
    teacher_n: int = knob(4, "G_T, teacher samples per hard question", 1)
    temperature: float = knob(1.0, "of student and teacher while training; no top-k, no penalties",
        TINY, 1000)
    top_p: float = knob(1.0, "of the teacher's samples; the student's is 1, or the sampled policy "
        "is not the trained one", TINY, 1)
    teacher_max: int = knob(32, "teacher answers to ask for in all to a question that none of them "
        "solves (ours)", 1)
    max_prompt: int = knob(4096, "tokens of a plain prompt, image tokens included; BCQ and NCQ "
        "only by the context window", 1, tiny=256)
    max_pixels: int = knob(0, "scale larger pictures down to so many pixels; 0: as they are", 0)
    max_response: int = knob(12288, "tokens of a response, student and teacher", 1, tiny=40)
    max_summary: int = knob(512, "tokens of a compressed candidate", 1, tiny=40)
    replay: float = knob(0.25, "rho_replay: replayed prompts per new prompt, in addition to them",
        0, 1000)
    aug: float = knob(0.25, "rho_aug: cap of BCQ + NCQ prompts per new prompt", 0, 1000)
    tau: float = knob(0.5, "a question is hard below this mean reward, and graduates at or above "
        "it", TINY, 1)
    capacity: int = knob(10_000, "questions in the replay buffer, first in first out", 1)
    lr: float = knob(1e-6, "AdamW, constant, no warm-up", 0, 1000, tiny=2e-4)
    beta1: float = knob(0.9, "AdamW", 0, 1 - 1e-9)
    beta2: float = knob(0.999, "AdamW", 0, 1 - 1e-9)
    adam_eps: float = knob(1e-8, "AdamW", TINY, 1)
    weight_decay: float = knob(0.1, "AdamW", 0, 1000, tiny=0.0)
    grad_clip: float = knob(1.0, "largest global gradient norm", TINY)
    clip_low: float = knob(0.20, "PPO clip below 1", TINY, 1)
    clip_high: float = knob(0.28, "PPO clip above 1", TINY)
    dual_clip: float = knob(10.0, "ceiling of a negative-advantage token's loss, in units of "
        "|advantage|", 1)

    # The machine.
    device: str = knob("", "where the student lives; default: cuda, and cpu for the tiny world")
    dtype: str = knob("", "of compute, weights stay float32; default: bfloat16 on a GPU, else "
        "float32", choices=("", "float32", "bfloat16"))
    engine: str = knob("", "what samples; default: vllm on a GPU, else hf",
        choices=("", "vllm", "hf"))
    threads: int = knob(0, "CPU threads, 0: PyTorch's choice; two spin on each other when anything "
        "else wants a core", 0, 4096, tiny=1)
    micro_tokens: int = knob(65_536, "padded tokens per forward and backward (paper: 4 sequences "
        "of up to 16,384); changes speed and memory, not the gradient; 4b: 32768, 9b: 16384",
        1, tiny=8192, free=True)
    checkpointing: bool = knob(None, "recompute activations in the backward pass: less memory, "
        "about a third more time; default: on a GPU", free=True)
    flat_share: float = knob(0.125, "share of the samples without advantage that entropy and "
        "log-prob gap are measured on (ours)", TINY, 1, tiny=0.25)
    vllm_memory: float = knob(0.45, "share of a GPU's memory for vLLM's weights and cache on a "
        "student rank; beside a teacher on the same GPU 0.2", 0.01, 1, free=True)
    max_num_seqs: int = knob(512, "responses that a student rank's vLLM decodes side by side; more "
        "would leave its CUDA graphs", 1, free=True)
    max_context: int = knob(0, "longest prompt + response of the student's vLLM, in tokens; what "
        "is longer is left out; 0: what the lengths above need, the model's window at most", 0)
    teacher_memory: float = knob(0.9, "share of a GPU's memory for the teacher's server; beside a "
        "student 0.7 less --vllm-memory", 0.01, 1, free=True)
    teacher_ranks: int = knob(-1, "torchrun processes of each node that serve the teacher; -1: a "
        "quarter (the paper: 2 of 8), on a CPU none; 0: the teacher lives beside student rank 0",
        -1, free=True)
    teacher_url: str = knob("", "an OpenAI-compatible server is the teacher (vllm serve ...); "
        "several: URL,URL")
    timeout: float = knob(1800.0, "seconds that ranks wait for each other before an error says "
        "where", 5, free=True)

    # The run.
    plan: str = knob("", "only say whether it fits N GPUs of so many GB, and what to change if "
        "not: 8x80", free=True)
    resume: bool = knob(False, "go on from the newest checkpoint in --out (default: newest run)",
        free=True)
    force: bool = knob(False, "resume although flags changed", free=True)
    save_every: int = knob(10, "steps between checkpoints; 0: only at the end", 0, free=True)
    keep: int = knob(2, "checkpoints to keep", 1, free=True)
    eval_every: int = knob(0, "steps between held-out evaluations; 0: before and after only",
        0, free=True)
    show: int = knob(3, "reformulated questions a step written to samples.jsonl", 0, free=True)
    teacher_cache: str = knob("", "file with the teacher's answers, to share between runs; "
        "default: in the run folder")
    tensorboard: bool = knob(False, "needs the package tensorboard", free=True)
    wandb: bool = knob(False, "needs the package wandb", free=True)

    # Not flags: found out on the way.
    student_path = teacher_path = resume_from = data_digest = ""
    notes = ()  # what the flags come to and one might not expect, for the run table
    teacher_given = False  # a teacher that was named also judges free-form answers for GRPO

    @property
    def new_prompts(self):
        """|X_new| of a rollout step."""
        return self.batch * self.iterations

    @property
    def replayed_prompts(self):
        """|X_replay|, at most."""
        return share(self.replay, self.new_prompts) if self.buffer else 0

    @property
    def max_reformulated(self):
        """The cap of BCQ + NCQ prompts of a step."""
        return share(self.aug, self.new_prompts)
# fmt: on


RANGES = {
    f.name: (f.metadata["low"], f.metadata["high"])
    for f in fields(Config)
    if f.metadata["low"] is not None
}
FREE = {f.name for f in fields(Config) if f.metadata["free"]}


def share(rho, n):
    """rho * n prompts, rounded down, because Table 8 caps them; the small term keeps 0.29 * 100 at
    29.
    """
    return math.floor(rho * n + 1e-9)


def comparable(cfg):
    """The flags that must be the same when a run goes on, as JSON values."""
    found = {"data_digest": cfg.data_digest, "teacher_given": cfg.teacher_given}
    return {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in FREE} | found


def flag_of(name):
    """The flag of a field, as it is written: group_size is --n."""
    return "--n" if name == "group_size" else f"--{name.replace('_', '-')}"


def parser():
    """The argparse parser of all flags; what is not given stays away from its result."""
    p = argparse.ArgumentParser(
        prog="train.py",
        description="ZPPO: train a student with a frozen teacher in its prompts. In brackets: the "
        "paper's value (Table 8), then --student tiny's where it differs.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for f in fields(Config):
        facts = f.metadata
        values = [f.default]
        if facts["tiny"] != f.default:
            values.append(facts["tiny"])
        shown = [str(v) for v in values if v not in (None, "")]
        text = facts["why"] + (f" [{' | '.join(shown)}]" if shown else "")
        names = facts["alias"] or (flag_of(f.name),)
        settings = {"dest": f.name, "help": text.replace("%", "%%")}
        if f.type is bool and f.default is False and f.name != "fresh_teacher":
            settings["action"] = "store_true"
        elif f.type is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"type": f.type, "choices": facts["choices"]}
            settings["metavar"] = None if facts["choices"] else f.type.__name__.upper()
        p.add_argument(*names, **settings)
    return p


def flags(argv):
    """The Config of train.py's flags, parsed and resolved. Raises ValueError with one line."""
    given = vars(parser().parse_args(argv))
    cfg = Config(**given)
    if cfg.student == "tiny":
        for f in fields(Config):
            setattr(cfg, f.name, given.get(f.name, f.metadata["tiny"]))
    for name, value in SIZES.get(cfg.student, {}).items():
        setattr(cfg, name, given.get(name, value))
    resolve_method(cfg, given)
    check_ranges(cfg)
    resolve_device(cfg)
    resolve_teacher(cfg)
    refuse_idle(cfg, given)
    cfg.notes = notes(cfg, given)
    resolve_memory(cfg, given)
    by_name = cfg.student in STUDENTS and cfg.student != "tiny"
    cfg.student_path = STUDENTS.get(cfg.student, cfg.student)
    cfg.data = cfg.data or ("zppo-77k" if by_name else "tiny")
    if cfg.data == "zppo-77k" and not cfg.plan and not Path(cfg.data).exists():
        raise ValueError(
            "there is no folder zppo-77k here; build it with `python data.py build --out "
            "zppo-77k`, or give --data"
        )
    return cfg


def resolve_method(cfg, given):
    """Fill in what --method decides. Raises ValueError for a flag that contradicts it."""
    cfg.buffer = cfg.buffer is not False
    for part in ("bcq", "ncq"):
        wanted = getattr(cfg, part)
        if wanted and cfg.method != "zppo":
            raise ValueError(
                f"--method {cfg.method} has no {part.upper()}; --method zppo has (with --no-bcq or "
                f"--no-ncq for one)"
            )
        setattr(cfg, part, cfg.method == "zppo" and wanted is not False)
    if cfg.method not in DISTILL:
        return
    if given.get("iterations", 1) != 1:
        raise ValueError(
            f"--method {cfg.method} makes one update per rollout step (Appendix D.2), not "
            f"--iterations {cfg.iterations}; --batch sets its size"
        )
    # one update: of --batch prompts, or else of as many new ones as a step of the other methods
    cfg.batch, cfg.iterations = given.get("batch", cfg.new_prompts), 1


ANSWERS = ("teacher_n", "teacher_max", "fresh_teacher", "teacher_scope")
POLICY_LOSS = ("clip_high", "clip_low", "dual_clip", "norm", "tis", "flat_share")


def refuse_idle(cfg, given):
    """Raise ValueError for a flag that was given and would do nothing in this run."""
    for names, idle, why in idle_flags(cfg):
        # saying what is so is no error: --no-compress, --replay 0, --teacher-ranks -1
        found = [name for name in names if given.get(name) not in (None, False, 0, -1)]
        if idle and found:
            raise ValueError(f"{why}: {flag_of(found[0])} would do nothing")


def idle_flags(cfg):
    """(names of flags, whether they are idle in this run, why), the most telling reason first."""
    who = f"--method {cfg.method}"
    if cfg.method == "zppo" and not cfg.bcq:
        who += " without BCQ" if cfg.ncq else " without BCQ and NCQ"
    shows = cfg.bcq or cfg.ncq
    helps = shows or cfg.method in ("hint", "prefix")
    answers = cfg.bcq or cfg.method in ("hint", "prefix", "off-distill")
    writes = cfg.method == "hint" or (shows and cfg.compress)
    needs = helps or answers or needs_teacher(cfg)  # a judge's replies are kept, too
    unwritten = (
        f"{who} asks for no summaries" if cfg.compress else "--no-compress asks for no summaries"
    )
    return (
        (POLICY_LOSS, cfg.method in DISTILL, f"{who} has no policy loss"),
        (("replay", "capacity"), not cfg.buffer, "--no-buffer replays nothing"),
        (("aug",), not helps, f"{who} reformulates nothing"),
        (("compress",), not shows, f"{who} shows no candidates"),
        (("max_summary",), not writes, unwritten),
        (ANSWERS, not answers, f"{who} asks the teacher for no answers"),
        (ANSWERS[1:3], cfg.method == "off-distill", f"{who} draws new answers at each step"),
        (("teacher_scope",), not helps, f"{who} asks about every question"),
        (ANSWERS[1:2], cfg.fresh_teacher, "--fresh-teacher draws new answers at each visit"),
        (("top_p",), not (helps or answers), f"{who} samples from no teacher"),
        (("teacher_cache", "teacher_ranks"), not needs, f"{who} asks the teacher nothing"),
    )


def notes(cfg, given):
    """Lines for the run table: what flags come to that one might not expect."""
    found = []
    if "iterations" in given and "batch" not in given and cfg.method not in DISTILL:
        found.append(
            f"--iterations {cfg.iterations} without --batch: {cfg.new_prompts} new prompts a step, "
            f"{cfg.batch} an update"
        )
    helps = cfg.bcq or cfg.ncq or cfg.method in ("hint", "prefix")
    if helps and not cfg.max_reformulated:
        found.append(
            f"--aug {cfg.aug:g} of {cfg.new_prompts} new prompts is less than one: no hard "
            f"question comes back reformulated"
        )
    return tuple(found)


def check_ranges(cfg):
    """Raise ValueError for a number outside of its range, naming the flag."""
    for name, (low, high) in RANGES.items():
        value = getattr(cfg, name)
        if not low <= value <= high:  # also true for nan
            why = ": a group of one has no baseline" if name == "group_size" else ""
            raise ValueError(f"{flag_of(name)} must be from {low:g} to {high:g}, not {value}{why}")
    if cfg.max_context and cfg.max_context < cfg.max_prompt + cfg.max_response:
        raise ValueError(
            f"--max-context {cfg.max_context} is less than --max-prompt {cfg.max_prompt} and "
            f"--max-response {cfg.max_response} together"
        )
    if cfg.plan and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", cfg.plan):
        raise ValueError(f"--plan {cfg.plan}: give the number of GPUs and the GB of each, as 8x80")


def resolve_device(cfg):
    """Fill in device, dtype and checkpointing. Raises ValueError rather than letting a model of
    size go to the CPU unasked.
    """
    has_gpu = bool(cfg.plan) or torch.cuda.is_available()  # a plan is for another machine
    if cfg.device.startswith("cuda") and not has_gpu:
        raise ValueError(
            f"--device {cfg.device}: this PyTorch sees no CUDA device; --device cpu works "
            f"everywhere"
        )
    if not cfg.device:
        if cfg.student != "tiny" and not has_gpu and not Path(cfg.student).is_dir():
            raise ValueError(
                f"--student {cfg.student}: this PyTorch (built for CUDA {torch.version.cuda}) sees "
                f"no CUDA device. With a GPU, update its driver, or install a PyTorch for the "
                f"driver's CUDA; --device cpu trains on the CPU all the same"
            )
        # the tiny world means the CPU, also on a GPU machine
        cfg.device = "cuda" if cfg.plan or (has_gpu and cfg.student != "tiny") else "cpu"
    on_gpu = cfg.device.startswith("cuda")
    cfg.dtype = cfg.dtype or ("bfloat16" if on_gpu else "float32")
    if cfg.checkpointing is None:
        cfg.checkpointing = on_gpu
    if cfg.threads:
        torch.set_num_threads(cfg.threads)


def resolve_teacher(cfg):
    """Fill in who the teacher is and where. Raises ValueError for flags that exclude each other."""
    cfg.teacher_given = bool(cfg.teacher)
    refuse_two_teachers(cfg)
    own_student = cfg.student not in STUDENTS
    on_cpu = cfg.device == "cpu" and cfg.teacher_ranks < 0
    if cfg.teacher_url or on_cpu or not needs_teacher(cfg):
        cfg.teacher_ranks = 0  # no process has to serve it
    default = "tiny" if cfg.student == "tiny" or own_student else "27b"
    cfg.teacher = cfg.teacher or default
    cfg.teacher_path = TEACHERS.get(cfg.teacher, cfg.teacher)
    if cfg.method in DISTILL:  # its forward is sharded and multiplied in bfloat16
        cfg.teacher_path = cfg.teacher_path.removesuffix("-FP8")


def refuse_two_teachers(cfg):
    """Raise ValueError where --teacher-url meets another teacher, or where there is none at all."""
    distill = cfg.method in DISTILL
    # on-distill reads weights and asks nothing: a server beside it judges free-form answers
    judge_only = cfg.method == "on-distill" and cfg.teacher_ranks <= 0
    elsewhere = cfg.teacher or distill or cfg.teacher_ranks > 0
    if cfg.teacher_url and elsewhere and not judge_only:
        raise ValueError(
            "--teacher-url is the teacher: give it without --teacher, --teacher-ranks and "
            "off-policy distillation, which reads the teacher's weights (with on-distill it is "
            "the judge of free-form answers)"
        )
    own_student = cfg.student not in STUDENTS
    asked = needs_teacher(cfg) or distill
    if own_student and asked and not (cfg.teacher or (cfg.teacher_url and not distill)):
        raise ValueError(
            f"--student {cfg.student} needs a --teacher (or --method grpo); the tiny one knows "
            f"only digits"
        )


def resolve_memory(cfg, given):
    """Fill in the shares of a GPU: a teacher on the student's leaves room for both, and for the
    student's own weights and optimizer (0.8b: 14 GB).
    """
    local = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", 1))
    alone = (int(cfg.plan.split("x")[0]) if cfg.plan else int(local)) == 1
    beside = cfg.teacher_ranks == 0 or (cfg.teacher_ranks < 0 and alone)
    beside = beside and needs_teacher(cfg) and not cfg.teacher_url
    if not beside or cfg.device == "cpu":
        return
    cfg.vllm_memory = given.get("vllm_memory", 0.2)
    room = max(0.01, round(0.7 - cfg.vllm_memory, 3))
    cfg.teacher_memory = given.get("teacher_memory", room)


def context(cfg, window):
    """Longest prompt + response that the student's engine has to take, in tokens: an NCQ prompt
    shows up to G_S candidates (section 3.2), a hint or a prefix is one teacher response.
    """
    shown = cfg.max_summary if cfg.compress else cfg.max_response
    more = {"hint": cfg.max_response, "prefix": cfg.max_response}.get(cfg.method, 0)
    if cfg.bcq or cfg.ncq:
        more = max(2, cfg.group_size if cfg.ncq else 2) * shown + WORDING
    need = cfg.max_context or cfg.max_prompt + more + cfg.max_response
    return min(window, -(-need // 256) * 256)


def needs_teacher(cfg):
    """Whether this run asks the teacher anything. (One that was named may also judge free-form
    answers for GRPO.)
    """
    if cfg.method == "on-distill":
        return bool(cfg.teacher_url)
    if cfg.teacher_url or cfg.teacher_given or cfg.method == "off-distill":
        return True
    shows = cfg.bcq or cfg.ncq or cfg.method in ("hint", "prefix")
    return shows and cfg.max_reformulated > 0


def wants_answers(cfg):
    """Whether the teacher is to answer questions, and not only to summarize or judge."""
    helps = cfg.bcq or cfg.method in ("hint", "prefix")
    return cfg.method == "off-distill" or (helps and cfg.max_reformulated > 0)


def run_name(cfg):
    """zppo, grpo, grpo-bcq, hint, ...: what the folder and the bar are called."""
    name = cfg.method
    if name == "zppo" and not (cfg.bcq and cfg.ncq):
        name = "grpo" + ("-bcq" if cfg.bcq else "") + ("-ncq" if cfg.ncq else "")
    return name if cfg.buffer else f"{name}-nobuffer"
