"""Whether a run fits its GPUs, from configs alone: no weights, no GPU.

    python train.py --plan 8x80 --student 0.8b [all other flags]      # status 0: it fits, 1: not

A student rank of n holds, for P parameters, T tokens a micro-batch, D the hidden width, V the
vocabulary, c bytes a number of compute (bfloat16: 2), R parameters outside of the blocks:

* states       (4 weights + 4 gradients + 8 AdamW) P / n, float32; 4 AdamW with --optim-dtype
               bfloat16; weights only of a frozen vision tower (--freeze-vision)
* gathered     c (R + 2 blocks): FSDP keeps the root, and has one block ahead
* kept         c D T a block (checkpointing), and 4 c Dv I a block of the vision tower, I image
               tokens: 0.6 T, unless it is frozen. Without checkpointing: all that a block saves
* the largest of what comes one after the other in the backward pass:
  head         8 chunk V (logits and softmax), (4 + c) V D (its gradient, float32 over the chunks)
  a block      w c D T, 6 bytes a parameter to reduce, and the head's gradient c V D, which waits
  the root     (4 + c) R (gradients, and their float32 copy to reduce), a block of the vision tower
* beside it    a sleeping vLLM 2.5 GB, CUDA and NCCL 1 GB

w, what autograd saves in a linear-attention block in widths D, was measured with hooks: 61, 41, 53,
40 for 0.8b, 2b, 4b, 9b; w = 12 + 4 I/D + 17 V'/D (I: MLP, V': value heads) is within 1.4 of them.
With the plain torch form (a CPU) the last term is 28.5 in float32, 45 in bfloat16 (measured too).

vLLM takes its share of the GPU at once: weights, 3.3 GB + 12 max_num_seqs V to work with (fitted to
one published log of the 27B on an H100: 856 blocks at 0.95; here 847), the rest is cache. A block
of a hybrid model is the recurrent state of a quarter of the layers (27B: 51.4 MB), or as many bytes
of keys and values; a sequence has three for its states, and the others for its tokens.

Before FSDP shards it, each rank has all of the float32 weights beside its vLLM ("start").

Error: -8 to +20 % of four peaks measured on a CPU, of 0.8b and 2b cut to four layers and a small
vocabulary (tests/runtime/test_plan.py, slow). On a GPU nothing was measured; a plan that needs more
than 95 % of one does not fit.
"""

import math
from copy import copy
from dataclasses import dataclass
from itertools import product

from config import DISTILL, WORDING, context, flag_of, needs_teacher
from distributed import roles
from loss import head_chunk
from runtime.shapes import named_shape, shape_of, teacher_shape

IMAGE_SHARE = 0.6  # of a micro-batch's tokens, at most (estimate)
VISION_WIDTH = 18  # what a block of the vision tower saves, in its widths (counted)
SLEEPING, CUDA, USABLE = 2.5e9, 1e9, 0.95
WORKING, LOGITS = 3.3e9, 12  # of vLLM: bytes, and bytes a sequence and id
TEACHER_SEQS, TEACHER_SEQS_BESIDE, TEACHER_WINDOW_BESIDE = 256, 64, 32_768


# ---- what each role needs ------------------------------------------------------------------------


def training(shape, cfg, ranks, teacher=None):
    """{part: bytes} of a student rank in the update; teacher: the Shape whose weights a
    distillation baseline shards with the student's.
    """
    on_gpu, c = cfg.device.startswith("cuda"), 4 if cfg.dtype == "float32" else 2
    tokens = max(cfg.micro_tokens, context(cfg, shape.window))  # a row is never split
    width = shape.width(17 if on_gpu else {4: 28.5, 2: 45}[c]) * shape.hidden * tokens * c
    depth, vision_hidden = shape.vision
    tower = 4 * IMAGE_SHARE * tokens * vision_hidden * c
    head, frozen = shape.vocab * shape.hidden, shape.params - trained_params(shape, cfg)
    trained = trained_params(shape, cfg) / ranks
    if frozen:
        tower = 0
    parts = {"weights": 4 * shape.params / ranks, "gradients": 4 * trained}
    parts["AdamW"] = state_bytes(cfg) * trained
    parts["gathered"] = c * (shape.root + 2 * shape.block) if on_gpu else 0
    parts["activations"] = shape.depth * shape.hidden * tokens * c
    parts["vision"] = depth * tower
    if not cfg.checkpointing:
        parts["activations"], parts["vision"] = shape.depth * width, depth * tower * VISION_WIDTH
    if teacher:
        parts["teacher"] = 2 * teacher.params / ranks + 2 * (teacher.root + 2 * teacher.block)
        parts["teacher"] += 20 * tokens * teacher.hidden + 40 * 1024 * shape.vocab
    logits = 8 * head_chunk(shape.vocab) * shape.vocab
    backward = {
        "logits and head": logits + (4 + c) * head + 2 * shape.hidden * tokens * c,
        "a block": width + c * head + (6 * shape.block if on_gpu else 0),
        "the rest": ((4 + c) * (shape.root - frozen) if on_gpu else 0) + tower * VISION_WIDTH,
    }
    largest = max(backward, key=backward.get)
    parts[f"backward ({largest})"] = backward[largest]
    if on_gpu:
        asleep = sampler(cfg) == "vllm"
        parts["sleeping vLLM" if asleep else "sampler"] = SLEEPING if asleep else 2 * shape.params
        parts["CUDA"] = CUDA
    return parts


def trained_params(shape, cfg):
    """Parameters with a gradient and optimizer state."""
    return shape.params - (shape.vision_params if cfg.freeze_vision else 0)


def state_bytes(cfg):
    """Bytes of AdamW's two moments a parameter."""
    return 4 if cfg.optim_dtype == "bfloat16" else 8


def sampler(cfg):
    """What samples on a GPU."""
    return cfg.engine or "vllm"


@dataclass(frozen=True)
class Serving:
    """A vLLM engine on a GPU: bytes of its share, weights, working memory and cache; cache blocks;
    sequences of `longest` tokens that fit side by side, and the longest that fits alone.
    """

    share: float
    weights: float
    working: float
    cache: float
    blocks: int
    seqs: int
    longest: int
    at_length: int
    reach: int

    @property
    def starts(self):
        """Whether vLLM would start: a state for each sequence, and room for the longest."""
        return self.blocks >= self.seqs and self.at_length >= 1


def serving(shape, share, seqs, longest):
    """The Serving of a model in `share` bytes with at most seqs sequences side by side."""
    working = WORKING + LOGITS * seqs * shape.vocab
    cache = max(0.0, share - shape.served - working)
    blocks = int(cache // shape.block_bytes)
    each = shape.state_blocks + math.ceil(longest / shape.block_tokens)
    reach = max(0, blocks - shape.state_blocks) * shape.block_tokens
    fits = share, shape.served, working, cache, blocks, seqs, longest
    return Serving(*fits, min(seqs, blocks // each), min(reach, shape.window))


def teacher_room(cfg, beside):
    """What the teacher's vLLM server is given: its share of the GPU, sequences side by side, and
    beside a student no more context than fits.
    """
    room = {"memory": cfg.teacher_memory, "max_num_seqs": TEACHER_SEQS}
    if beside:
        longest = max(TEACHER_WINDOW_BESIDE, teacher_context(cfg))
        room |= {"max_num_seqs": TEACHER_SEQS_BESIDE, "max_model_len": longest}
    return room


def teacher_context(cfg):
    """Tokens of the longest request to the teacher: a question, an answer, a summary of it."""
    return cfg.max_prompt + cfg.max_response + cfg.max_summary + WORDING


@dataclass(frozen=True)
class Plan:
    """A run's memory. gpu: bytes of each; phases: {phase: {part: bytes}} of a student rank;
    student, teacher: Serving or None; host, disk: {part: bytes} of a node.
    """

    gpu: float
    phases: dict
    student: Serving | None
    teacher: Serving | None
    host: dict
    disk: dict

    @property
    def problems(self):
        """What does not fit, one line each."""
        room, found = USABLE * self.gpu, []
        for what, parts in self.phases.items():
            need = sum(parts.values())
            if need > room:
                found.append(f"the {what} needs {gb(need)} GB, of {gb(room)} that are safe")
        for who, s in (("student's", self.student), ("teacher's", self.teacher)):
            if s and not s.starts:
                text = f"the {who} vLLM has {s.blocks} cache blocks for {s.seqs} sequences"
                found.append(f"{text} of up to {s.longest:,} tokens")
        return found


def make_plan(cfg, who, shape, teacher, gpu):
    """The Plan of a run. who: distributed.Roles; shape, teacher: Shapes, the latter None without
    a teacher of ours; gpu: bytes of each.
    """
    served = teacher if needs_teacher(cfg) and not cfg.teacher_url else None
    distills = teacher if cfg.method in DISTILL else None
    beside = bool(served and not who.teachers and sampler(cfg) == "vllm")
    server = None
    if served and sampler(cfg) == "vllm":
        room = teacher_room(cfg, beside)
        longest = min(served.window, teacher_context(cfg))
        server = serving(served, room["memory"] * gpu, room["max_num_seqs"], longest)
    update = training(shape, cfg, who.students, distills)
    sampling = {k: update[k] for k in ("weights", "gradients", "AdamW", "CUDA")}
    student = None
    if sampler(cfg) == "vllm":
        longest = context(cfg, shape.window)
        student = serving(shape, cfg.vllm_memory * gpu, cfg.max_num_seqs, longest)
        sampling["vLLM"] = student.share
    else:
        sampling["sampler"] = 2 * shape.params + 4e9  # a copy, and its cache (estimate)
    if distills:
        sampling["teacher"] = 2 * distills.params / who.students
    if beside:
        update["teacher"] = sampling["teacher"] = server.share
    # of all ranks of a node: before FSDP, and vLLM's weights asleep
    n = who.students // who.nodes
    host = {"loading": 4 * shape.params * n, "asleep": 2 * shape.params * n}
    final = (4 if cfg.dtype == "float32" else 2) * shape.params
    shards = 4 * shape.params + state_bytes(cfg) * trained_params(shape, cfg)
    disk = {"checkpoint": shards + final, "final": final}
    disk["downloads"] = shape.served + (teacher.served if teacher else 0)
    disk["all"] = (cfg.keep + 1) * disk["checkpoint"] + disk["final"] + disk["downloads"]
    start = {"weights": 4 * shape.params, "CUDA": CUDA, "vLLM": student.share if student else 0}
    phases = {"start": start, "sampling": sampling, "update": update}
    return Plan(gpu, phases, student, server, host, disk)


# ---- what is said --------------------------------------------------------------------------------


def gb(size):
    """Bytes as GB (10^9) with one decimal."""
    return f"{size / 1e9:.1f}"


def rows(plan):
    """(name, text) of the short lines that a person reads."""
    lines = []
    for name, parts in plan.phases.items():
        text = ", ".join(f"{part} {gb(size)}" for part, size in parts.items() if size)
        lines.append((name, f"{gb(sum(parts.values()))} of {gb(plan.gpu)} GB: {text}"))
    for name, s in (("sampler", plan.student), ("teacher", plan.teacher)):
        if not s:
            continue
        text = f"weights {gb(s.weights)}, working {gb(s.working)}, {s.blocks:,} cache blocks"
        lines.append((name, f"vLLM {gb(s.share)} GB: {text} {gb(s.cache)}"))
        text = f"up to {s.seqs} sequences side by side, {s.at_length} of {s.longest:,} tokens"
        lines.append(("", f"{text}; one alone {s.reach:,}"))
    d, host = plan.disk, plan.host
    text = f"{gb(host['loading'])} GB while the ranks of a node load, later {gb(host['asleep'])}"
    lines.append(("host", f"{text} for sleeping vLLMs"))
    text = f"{gb(d['all'])} GB: a checkpoint {gb(d['checkpoint'])}, final/ {gb(d['final'])}"
    return [*lines, ("disk", f"{text}, models to download {gb(d['downloads'])}")]


def memory_rows(cfg, who, config, gpu):
    """rows() of a run that starts, and what does not fit. config: the student's transformers
    config; gpu: bytes of the GPU.
    """
    plan = make_plan(cfg, who, shape_of(config), teacher_shape(cfg), gpu)
    trouble = [("warning", f"{text} (planned)") for text in plan.problems]
    return [(f"  {name}" if name else "", text) for name, text in rows(plan) + trouble]


# what may change so that a run fits, from what costs least
CHOICES = {
    "micro_tokens": (65_536, 32_768, 16_384, 8192, 4096),
    "vllm_memory": (0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.5, 0.6),
    "max_num_seqs": (512, 256, 128, 64, 32),
    "teacher_memory": (0.9, 0.7, 0.6, 0.55, 0.5),
}


def advice(cfg, who, shape, teacher, gpu):
    """The fewest flags with values under which it fits, as text; "" where none do."""
    best, urls = None, [""]
    if teacher and cfg.method not in DISTILL:
        urls.append("http://HOST:8000/v1")
    grid = [[getattr(cfg, name), *values] for name, values in CHOICES.items()]
    for url, *values in product([cfg.teacher_url] if cfg.teacher_url else urls, *grid):
        other = copy(cfg)
        vars(other).update(zip(CHOICES, values), teacher_url=url)
        changed = changes(cfg, other)
        if best is not None and len(changed) >= len(best):
            continue
        then = copy(who)
        if url:  # the ranks that would have served it train
            then.students, then.teachers = who.students + who.teachers, 0
        if not make_plan(other, then, shape, teacher, gpu).problems:
            best = changed
    return " ".join(f"{flag_of(name)} {value}" for name, value in best or ())


def changes(cfg, other):
    """[(name, value)] of the flags that differ; with a server elsewhere --vllm-memory has another
    default, so its value is said in any case.
    """
    differs = lambda name: getattr(other, name) != getattr(cfg, name)
    said = {"vllm_memory"} if differs("teacher_url") else set()
    names = ("teacher_url", *CHOICES)
    return [(name, getattr(other, name)) for name in names if differs(name) or name in said]


def main(cfg):
    """Print the plan of --plan GPUSxGB. Returns the exit status: 0 if it fits, else 1."""
    n, size = map(int, cfg.plan.split("x"))
    gpu = 0.985 * size * 2**30  # what CUDA shows of it: 79 GiB of an H100's 80
    shape, teacher = named_shape(cfg.student, cfg.student_path), teacher_shape(cfg)
    who = roles_of(n, cfg)
    plan = make_plan(cfg, who, shape, teacher, gpu)
    served = f", teacher on {who.teachers}" if who.teachers else ""
    print(f"{cfg.plan} GB: {cfg.student} on {who.students}{served}; planned, not measured")
    print("\n".join(f"{name:10s}{text}" for name, text in rows(plan)))
    if not plan.problems:
        names = [*CHOICES] if plan.teacher else [n for n in CHOICES if n != "teacher_memory"]
        print(f"fits      {' '.join(f'{flag_of(n)} {getattr(cfg, n)}' for n in names)}")
        return 0
    print("\n".join(f"too much  {text}" for text in plan.problems))
    print(f"change    {what_to_change(cfg, n, shape, teacher, gpu)}")
    return 1


def what_to_change(cfg, n, shape, teacher, gpu):
    """What makes a run fit, as text: flags of memory alone, the paper's optimizer states, GPUs."""
    half = copy(cfg)
    half.optim_dtype = "bfloat16"
    more = [(f"--nproc_per_node {k} ({k} GPUs in all)", cfg, k) for k in (2, 4, 8, 16, 32, 64)]
    tried = [("", cfg, n), ("--optim-dtype bfloat16", half, n)]
    for text, other, gpus in tried + [x for x in more if x[2] > n]:
        who = roles_of(gpus, other)
        change = advice(other, who, shape, teacher, gpu)
        if change or not make_plan(other, who, shape, teacher, gpu).problems:
            return f"{text} {change}".strip()
    return "--student to a smaller one"


def roles_of(n, cfg):
    """The distributed.Roles of student rank 0 on n GPUs, eight a node."""
    return roles({"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": min(n, 8)}, cfg.teacher_ranks)
