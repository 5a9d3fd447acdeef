"""From flags to a run: data, models, engines, teacher, each in its place; checked and told before
any long work.

train.py calls `open_all` on a student rank and `serve_teacher` on a teacher rank; nothing here
decides what a step does.
"""

import json
import os
import signal

import torch
import torch.distributed as dist

import model
from config import DISTILL, make_folder, needs_teacher, open_run
from data import digest, in_memory, open_questions, parse_map
from distributed import connect, open_store
from engines.base import default_kind, open_engine
from engines.client import ClientEngine
from engines.server import own_host, run_teacher_server, visible_gpus
from eval import SPLITS
from run import Run, check_length, prompt_of
from runtime.console import run_table
from runtime.kernels import check_kernels
from runtime.memo import Memo, fingerprint
from teacher import Teacher


def open_all(cfg, who):
    """(Run, {split: held-out questions}) on a student rank. Raises ValueError and OSError with one
    line; leaves nothing behind.
    """
    world = connect(cfg, who)
    questions, heldout = open_data(cfg)
    cfg.data_digest = digest(questions)
    out = world.first(lambda: open_run(cfg))
    cfg.resume_from = world.first(lambda: cfg.resume_from)
    attend = model.attention(world.device)
    start = f"{cfg.resume_from}/model" if cfg.resume_from else cfg.student_path
    student = model.load(start, cfg.dtype, world.device, attend=attend)
    if world.device.startswith("cuda"):
        check_kernels(student)
    check_prompts(student, questions, cfg)
    if cfg.max_prompt + cfg.max_response > student.window:
        raise ValueError(
            f"{cfg.student}: --max-prompt {cfg.max_prompt} and --max-response {cfg.max_response} do not fit its "
            f"context of {student.window} tokens; lower them"
        )
    distiller = None
    if cfg.method in DISTILL:
        # on the CPU: fully_shard moves it to the GPU block by block, and the sampler wants the room
        # before that
        distiller = model.load(
            cfg.teacher_path, cfg.dtype, "cpu", masters=world.device == "cpu", attend=attend
        )
        if not same_ids(student, distiller):
            raise ValueError(
                f"--method {cfg.method} compares distributions token by token, and {cfg.student} and {cfg.teacher} "
                f"have different tokenizers; use a teacher of the student's family"
            )
    world.first_only(
        lambda: print(run_table(cfg, who, student, questions, out, attend), flush=True)
    )
    torch.manual_seed(cfg.seed)
    engine = student_engine(
        cfg, world, student, start
    )  # vLLM's first engine is made by all student ranks together
    engine.sleep()  # makes room for a teacher in this process
    source = world.first_only(
        lambda: teacher_source(cfg, who, world, distiller) if needs_teacher(cfg) else None
    )
    known = not cfg.teacher_url and (needs_teacher(cfg) or distiller)
    sizes = {
        "student_params": student.n_params(),
        "teacher_params": model.count_params(cfg.teacher_path) if known else 0,
    }
    world.first(
        lambda: make_folder(out, cfg, **sizes)
    )  # only now: what fails above leaves nothing behind
    teacher = world.first_only(lambda: open_teacher(cfg, source, out))
    run = Run(cfg, world, student, engine, teacher, questions, out, distiller)
    run.same_tokens = world.first(lambda: source is not None and same_ids(student, source.lm))
    return run, heldout


def open_data(cfg):
    """The training questions, and {split: held-out questions}."""
    if cfg.data == "tiny":
        from tiny import world as tiny  # the tiny world as a data set: a door to the surroundings

        questions, heldout = (
            in_memory(tiny.questions("train"), "tiny"),
            {split: tiny.questions(split) for split in SPLITS},
        )
    else:
        questions, heldout = open_questions(cfg.data, parse_map(cfg.map)), {}
    return questions, {
        "heldout": open_questions(cfg.heldout, parse_map(cfg.map))
    } if cfg.heldout else heldout


def check_prompts(student, questions, cfg):
    """The plain prompt of the first questions, as a cheap check of the data before any long work.
    Raises ValueError.
    """
    for q in questions[:32]:
        check_length(q, model.length(student, prompt_of(student, q, q.question, cfg)), cfg)


# ---- engines -------------------------------------------------------------------------------------


def student_engine(cfg, world, student, path):
    """What samples from the student: vLLM; or transformers, with the trainer's own net where it is
    not sharded, or a copy.
    """
    if _kind(cfg, world.device) == "vllm":
        return open_engine("vllm", student, memory=cfg.vllm_memory, seed=cfg.seed + world.rank)
    if world.size > 1 or world.device.startswith("cuda"):
        student = model.load(
            path, cfg.dtype, world.device, masters=cfg.dtype == "float32"
        )  # a copy: ours is shards
    return open_engine("hf", student, max_rows=side_by_side(cfg))


def teacher_source(cfg, who, world, distiller):
    """The engine behind the teacher, on student rank 0: a server, the teacher ranks, or a model in
    this process.
    """
    if cfg.teacher_url:
        return ClientEngine(cfg.teacher_url)
    if who.teachers:
        found = [
            json.loads(_get(world.store, f"teacher/{i}", f"teacher rank {i} is not ready", cfg))
            for i in range(who.teachers)
        ]
        for f in found:
            if "error" in f:
                raise ValueError(f["error"])
        return ClientEngine([f["url"] for f in found], lm=model.text_side(cfg.teacher_path))
    alone = (
        world.size == 1 and world.device == "cpu"
    )  # elsewhere the distiller's weights will be shards
    return teacher_engine(cfg, world.device, distiller if alone else None, 0.9 - cfg.vllm_memory)


def teacher_engine(cfg, device, lm=None, memory=0.9):
    """The teacher's model in this process. memory: share of the GPU for vLLM; next to a student
    that share is what is left.
    """
    if _kind(cfg, device) == "vllm":
        # vLLM's sleep mode is one engine's a process, and the student has it: the teacher keeps its
        # share of the memory
        return open_engine(
            "vllm",
            model.text_side(cfg.teacher_path),
            memory=memory,
            seed=cfg.seed,
            sleep=False,
            stays=True,
        )
    lm = lm or model.load(
        cfg.teacher_path,
        cfg.dtype,
        device,
        masters=cfg.dtype == "float32",
        attend=model.attention(device),
    )
    return open_engine("hf", lm, max_rows=side_by_side(cfg))


def side_by_side(cfg):
    """Responses that HFEngine decodes at once: about a million tokens of cache."""
    return max(cfg.n, min(512, 2**20 // (cfg.max_prompt + cfg.max_response)))


def serve_teacher(cfg, who):
    """A teacher rank: serve the model until the students have left. Returns the exit status."""
    for s in (signal.SIGINT, signal.SIGTERM):  # the students decide when to stop
        signal.signal(s, signal.SIG_IGN)
    store = open_store(cfg.timeout)
    gpus = [visible_gpus()[who.local_rank]] if cfg.device == "cuda" else None
    host = own_host(os.environ["MASTER_ADDR"]) if who.nodes > 1 else "127.0.0.1"
    log = f"teacher-{who.rank}.log"
    run_teacher_server(cfg.teacher_path, store, who.rank, log, cfg.timeout, gpus=gpus, host=host)
    return 0


def _get(store, key, what, cfg):
    try:
        return store.get(key)
    except (dist.DistStoreError, RuntimeError) as e:
        raise ValueError(
            f"{what} after {cfg.timeout:.0f} s (--timeout); see its own lines above "
            f"({str(e).splitlines()[0][:100]})"
        ) from e


def _kind(cfg, device):
    return cfg.engine or default_kind(device)


def open_teacher(cfg, source, out):
    """The Teacher with its cache, as far as a resumed run has seen it; None without a source."""
    if source is None:
        return None
    name = source.name if cfg.teacher_url else fingerprint(cfg.teacher_path)
    return Teacher(source, Memo(cfg.teacher_cache or out / "teacher.jsonl", name), cfg)


def same_ids(one, other):
    """Whether two LMs write the same text with the same token ids."""
    return other is not None and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
