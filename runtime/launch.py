"""From flags to a run: data, models, engines, teacher, each in its place, checked and told before
any long work; and how a run ends.

What a step does stands in train.py; here is what it needs to begin: its questions, opened.
"""

import json
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from torch import distributed as dist
from tqdm import tqdm

import data
import model
from baselines import FrozenTeacher
from buffer import Buffer
from config import DISTILL, comparable, context, flag_of, needs_teacher, run_name
from distributed import init_student_rank, open_store
from engines import open_engine
from engines.base import default_kind
from engines.client import ClientEngine
from engines.server import own_host, run_teacher_server, visible_gpus, vllm_server
from eval import SPLITS, evaluate_on_all_ranks
from policy import shard_policy
from records import Method
from rollout import sync_weights
from runtime import checkpoint, console, plan
from runtime.checkpoint import Checkpoints, RunState
from runtime.errors import errors_in_one_line, in_one_line
from runtime.files import write_atomic
from runtime.kernels import check_gpu, check_kernels
from runtime.memo import Memo, fingerprint
from runtime.metrics import Log, heldout_record
from teacher import Teacher


@dataclass
class Job:
    """All that is opened for a run. teacher, log: on rank 0, else None."""

    world: Any
    policy: Any
    optimizer: Any
    engine: Any  # samples from the student
    teacher: Any
    questions: Any
    heldout: dict  # {split: questions}
    state: RunState
    checkpoints: Checkpoints
    log: Any = None
    out: Path = Path()
    check: Any = None  # data.QuestionCheck: whether the student can use a question
    same_tokens: bool = False  # student and teacher have the same token ids
    method: Method | None = None  # chosen by train.main
    resources: ExitStack = field(default_factory=ExitStack)

    def close(self):
        """Give back what other processes wait for: the teacher, its server, the process group."""
        self.resources.close()


def open_job(cfg, who):
    """The Job of a student rank. Raises ValueError and OSError with one line; what fails in here
    leaves nothing behind.
    """
    check_gpu(cfg)
    with errors_in_one_line(cfg), ExitStack() as resources:
        world = init_student_rank(cfg, who)
        resources.callback(world.close)
        check = data.QuestionCheck(
            model.text_side(cfg.student_path), cfg.max_prompt, cfg.thinking, cfg.max_pixels
        )
        questions, heldout = open_data(cfg, check)
        cfg.data_digest = data.digest(questions)
        out = world.broadcast_from_rank0(lambda: open_run(cfg))
        cfg.resume_from = world.broadcast_from_rank0(lambda: cfg.resume_from)
        student = load_student(cfg, world)
        check_window(student, cfg)
        distiller = load_distiller(cfg, world, student) if cfg.method in DISTILL else None
        table = console.run_table(cfg, who, student, questions, check, out)
        console.print0(world, table)
        torch.manual_seed(cfg.seed)
        # vLLM's first engine is made by all student ranks together
        engine = student_engine(cfg, world, student)
        engine.sleep()  # makes room for a teacher on this device
        source = None
        if needs_teacher(cfg):
            opened = lambda: open_teacher_engine(cfg, who, world, distiller, out, resources)
            source = world.on_rank0(opened)
        world.broadcast_from_rank0(lambda: make_folder(out, cfg, student))
        teacher = world.on_rank0(lambda: open_teacher(cfg, source, out, resources))
        same = world.broadcast_from_rank0(lambda: source is not None and same_ids(student, source))

        frozen = FrozenTeacher(distiller) if distiller else None
        policy = shard_policy(student, world, frozen, cfg.checkpointing)
        optimizer = adamw(student.net, cfg)
        state = RunState(Buffer(cfg.capacity, cfg.tau), Random(cfg.seed))
        checkpoints = Checkpoints(out / "checkpoints", cfg, student, optimizer, world, teacher)
        job = Job(world, policy, optimizer, engine, teacher, questions, heldout, state, checkpoints)
        job.out, job.same_tokens, job.check = out, same, check
        record = resume(cfg, job) if cfg.resume_from else None
        job.log = world.on_rank0(lambda: open_log(cfg, job, record, resources))
        checkpoints.capture(state, record)
        job.resources = resources.pop_all()
        return job


def adamw(net, cfg):
    """AdamW with the flags' numbers (Table 8)."""
    betas, decay = (cfg.beta1, cfg.beta2), cfg.weight_decay
    parameters = net.parameters()
    return torch.optim.AdamW(parameters, cfg.lr, betas, cfg.adam_eps, weight_decay=decay)


def resume(cfg, job):
    """Put the checkpoint cfg.resume_from in place; returns the last step's metrics record."""
    saved = checkpoint.load(cfg.resume_from, job.policy.lm, job.optimizer, job.world)
    job.state.load(saved)
    if job.teacher:
        job.teacher.load(saved["teacher"])
    sync_weights(job.policy, job.engine)
    return saved["record"]


def open_log(cfg, job, record, resources):
    """The Log of the run folder, cut back to the step that the run goes on from."""
    step = job.state.step if cfg.resume_from else -1
    tokenizer = job.policy.lm.tokenizer
    log = Log(job.out, tokenizer, step, cfg.tensorboard, cfg.wandb, vars(cfg))
    resources.callback(log.close)
    log.restore(record)
    return log


# ---- data ----------------------------------------------------------------------------------------


def open_data(cfg, check):
    """The training questions, and {split: held-out questions}, those left out that can't be used
    (--skip-bad). check: data.QuestionCheck. Raises ValueError naming the bad rows.
    """
    columns, heldout = data.parse_map(cfg.map), {}
    if cfg.data == "tiny":
        import tiny  # the tiny world as a data set: a door to the surroundings

        questions = data.in_memory(tiny.questions("train"), "tiny", check, cfg.skip_bad)
        heldout = {split: tiny.questions(split) for split in SPLITS}
    else:
        questions = data.open_questions(cfg.data, columns, check, cfg.skip_bad)
    if cfg.heldout:
        found = data.open_questions(cfg.heldout, columns, check, cfg.skip_bad)
        heldout = {"heldout": [found[i] for i in found.good]}
    return questions, heldout


def check_window(student, cfg):
    """Lengths that can't work are told before any long work. Raises ValueError."""
    if cfg.max_prompt + cfg.max_response > student.window:
        raise ValueError(
            f"{cfg.student}: --max-prompt {cfg.max_prompt} and --max-response {cfg.max_response} "
            f"do not fit its context of {student.window} tokens; lower them"
        )


def next_questions(job, replayed_ids, cfg):
    """(new questions, replayed questions, data position after them) of a step, all of their
    pictures opened once, so that nothing is sampled before a bad one is known.

    With --skip-bad, one that can't be used is left out, with a counted warning; else ValueError
    names them all. Every rank looks at its share.
    """
    questions, world, state = job.questions, job.world, job.state
    indices, position = data.take_good(questions, cfg.seed, state.position, cfg.new_prompts)
    new = len(indices)
    indices += [questions.place(i) for i in replayed_ids]
    own = range(world.rank, len(indices), world.size)
    look = lambda: {k: data.fetch(questions, [indices[k]], job.check)[1] for k in own}
    bad = {k: e for part in world.all_gather(look) for k, some in part.items() for e in some}
    if bad and not cfg.skip_bad:
        data.refuse([bad[k] for k in sorted(bad)])
    for k in sorted(bad):
        state.skipped += 1
        if world.rank == 0:
            tqdm.write(f"warning: {bad[k]}; skipped ({state.skipped} so far)", file=sys.stderr)
    good = [(k, questions[i]) for k, i in enumerate(indices) if k not in bad]
    return [q for k, q in good if k < new], [q for k, q in good if k >= new], position


# ---- models and engines --------------------------------------------------------------------------


def load_student(cfg, world):
    """The student's model.LM, of the checkpoint that the run goes on from."""
    attend = model.attention(world.device)
    student = model.load(student_folder(cfg), cfg.dtype, world.device, attend=attend)
    student.max_pixels = cfg.max_pixels
    if world.device.startswith("cuda"):
        check_kernels(student)
    return student


def student_folder(cfg):
    """Where the weights are that the run starts with."""
    return f"{cfg.resume_from}/model" if cfg.resume_from else cfg.student_path


def load_distiller(cfg, world, student):
    """The teacher's model.LM for a distillation baseline. Raises ValueError when its tokens are not
    the student's.
    """
    # on the CPU: fully_shard moves it to the GPU block by block, the sampler wants the room before
    masters, attend = world.device == "cpu", model.attention(world.device)
    distiller = model.load(cfg.teacher_path, cfg.dtype, "cpu", masters, attend)
    if distiller.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ValueError(
            f"--method {cfg.method} compares distributions token by token, and {cfg.student} and "
            f"{cfg.teacher} have different tokenizers; use a teacher of the student's family"
        )
    return distiller


def engine_kind(cfg, device):
    """What samples on a device: --engine's, else the default."""
    return cfg.engine or default_kind(device)


def student_engine(cfg, world, student):
    """What samples from the student: vLLM; or transformers, with the trainer's own net where it is
    not sharded, or a copy.
    """
    if engine_kind(cfg, world.device) == "vllm":
        seed = cfg.seed + world.rank
        path = student_folder(cfg)
        longest = context(cfg, student.window)
        sizes = {"max_len": longest, "max_num_seqs": cfg.max_num_seqs}
        return open_engine("vllm", student, path=path, memory=cfg.vllm_memory, seed=seed, **sizes)
    if world.size > 1 or world.device.startswith("cuda"):
        masters, path = cfg.dtype == "float32", student_folder(cfg)
        copy = model.load(path, cfg.dtype, world.device, masters)  # the trained one is shards
        copy.max_pixels = cfg.max_pixels
        return open_engine("hf", copy, max_rows=side_by_side(cfg))
    return open_engine("hf", student, max_rows=side_by_side(cfg))


def side_by_side(cfg):
    """Responses that HFEngine decodes at once: about a million tokens of cache."""
    return max(cfg.group_size, min(512, 2**20 // (cfg.max_prompt + cfg.max_response)))


def open_teacher_engine(cfg, who, world, distiller, out, resources):
    """The engine behind the teacher, on student rank 0: servers, or a model in this process."""
    if cfg.teacher_url:
        return entered(ClientEngine(cfg.teacher_url.split(",")), resources)
    if who.teachers:
        resources.callback(world.store.set, "students/done", "1")
        urls = [teacher_rank_url(world.store, i, cfg) for i in range(who.teachers)]
        return entered(ClientEngine(urls, lm=teacher_text_side(cfg)), resources)
    if engine_kind(cfg, world.device) == "vllm":
        lm, room = teacher_text_side(cfg), plan.teacher_room(cfg, beside=True)
        room["max_model_len"] = min(room["max_model_len"], lm.window)
        log = out.with_name(f"{out.name}.teacher.log")
        server = vllm_server(cfg.teacher_path, log, timeout=cfg.timeout, **room)
        url = resources.enter_context(server)
        return entered(ClientEngine(url, lm=lm), resources)
    lm = distiller
    if lm is None or world.size > 1 or world.device != "cpu":  # there its weights will be shards
        masters, attend = cfg.dtype == "float32", model.attention(world.device)
        lm = model.load(cfg.teacher_path, cfg.dtype, world.device, masters, attend)
    lm.max_pixels = cfg.max_pixels
    return open_engine("hf", lm, max_rows=side_by_side(cfg))


def teacher_text_side(cfg):
    """What the client has to know of a teacher that is served: its special tokens, its window."""
    lm = model.text_side(cfg.teacher_path)
    lm.max_pixels = cfg.max_pixels
    return lm


def entered(client, resources):
    """The client, closed with the run."""
    resources.callback(client.close)
    return client


def teacher_rank_url(store, rank, cfg):
    """The URL of the server that a teacher rank starts, as soon as it is up. Raises ValueError."""
    try:
        found = json.loads(store.get(f"teacher/{rank}"))
    except (dist.DistStoreError, RuntimeError) as e:
        why = str(e).splitlines()[0][:100]
        raise ValueError(
            f"teacher rank {rank} is not ready after {cfg.timeout:.0f} s (--timeout); see its own "
            f"lines above ({why})"
        ) from e
    if "error" in found:
        raise ValueError(found["error"])
    return found["url"]


def open_teacher(cfg, engine, out, resources):
    """The Teacher with its memo; None without an engine."""
    if engine is None:
        return None
    name = engine.name if cfg.teacher_url else fingerprint(cfg.teacher_path)
    teacher = Teacher(engine, Memo(cfg.teacher_cache or out / "teacher.jsonl", name), cfg)
    resources.callback(teacher.close)
    return teacher


def same_ids(student, engine):
    """Whether student and teacher write the same text with the same token ids."""
    vocabulary = student.tokenizer.get_vocab()
    return engine.lm is not None and engine.lm.tokenizer.get_vocab() == vocabulary


def serve_teacher(cfg, who):
    """A teacher rank: start vLLM's server, tell student rank 0 where it is, and stop it when the
    students are done. Returns the exit status.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the students decide when to stop, and save
        signal.signal(number, signal.SIG_IGN)
    if engine_kind(cfg, cfg.device) != "vllm":
        raise ValueError(
            "--teacher-ranks: a teacher rank serves with vLLM; with --engine hf give 0: the "
            "teacher then lives on student rank 0"
        )
    check_gpu(cfg)
    store = open_store(cfg.timeout)
    gpus = [visible_gpus()[who.local_rank]] if cfg.device == "cuda" else None
    host = own_host(os.environ["MASTER_ADDR"]) if who.nodes > 1 else "127.0.0.1"
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"zppo-teacher-{os.getpid()}.log"
    room = plan.teacher_room(cfg, beside=False)
    where = {"gpus": gpus, "host": host}
    try:
        run_teacher_server(cfg.teacher_path, store, who.rank, log, cfg.timeout, **where, **room)
    except (ValueError, OSError):
        return 1  # student rank 0 tells it
    return 0


# ---- the run folder ------------------------------------------------------------------------------


def open_run(cfg):
    """The run folder of a new run, or of the one to resume (then cfg.resume_from is set). Raises
    ValueError.
    """
    cfg.resume_from = ""
    if not cfg.resume:
        return new_folder(cfg)
    out = Path(cfg.out) if cfg.out else newest_run()
    found = checkpoint.latest(out / "checkpoints")
    if found is None and not (out / "config.json").is_file():
        raise ValueError(
            f"{out}: no complete checkpoint to resume from; start again with another --out"
        )
    now = comparable(cfg)
    if found:
        was = checkpoint.read_json(found / "state.json")["config"]
    else:  # it died before its first checkpoint: begin again in its place
        print(f"{out}: no complete checkpoint yet, so this begins at step 1")
        was = checkpoint.read_json(out / "config.json")
        was = {name: was.get(name) for name in now}
    changed = [
        f"{flag_of(name)} {was.get(name)} -> {now.get(name)}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    if changed and not cfg.force:
        raise ValueError(
            f"{out} was started with other flags ({'; '.join(changed)}): this would be a different "
            f"run. Give the same flags, or --force"
        )
    cfg.resume_from = str(found) if found else ""
    return out


def new_folder(cfg):
    """--out, or the next free runs/NAME-N. Raises ValueError when there is something in it."""
    stem = f"{run_name(cfg)}-{Path(cfg.student).name}"
    free = (p for n in count(1) if not (p := Path(f"runs/{stem}-{n}")).exists())
    out = Path(cfg.out) if cfg.out else next(free)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists already; go on with --resume --out {out}, or give another --out"
        )
    return out


def newest_run():
    """The newest run that has a checkpoint, rather than a newer one that failed at its start."""
    folders = Path("runs").glob("*/checkpoints")
    runs = sorted(folders, key=lambda p: (bool(checkpoint.complete(p)), p.stat().st_mtime))
    if not runs:
        raise ValueError("--resume: there is no run under runs/; name one with --out")
    return runs[-1].parent


def make_folder(out, cfg, student):
    """Make the run folder, and in it config.json: the flags as used, and what they ran on."""
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    teacher_is_known = not cfg.teacher_url and (needs_teacher(cfg) or cfg.method in DISTILL)
    facts = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "student_params": student.n_params(),
        "teacher_params": model.count_params(cfg.teacher_path) if teacher_is_known else 0,
    }
    write_atomic(out / "config.json", json.dumps(vars(cfg) | facts, indent=1))


# ---- before, after, and in between ---------------------------------------------------------------


def measure_before(cfg, job, stop):
    """Held-out questions before any training, once a run."""
    if job.state.heldout is None:
        results = evaluate_on_all_ranks(job.engine, job.heldout, cfg, job.world, stop)
        job.state.heldout = results
        record = {"step": 0, **heldout_record(results)}
        job.world.on_rank0(lambda: job.log.metrics(record))


def finish(cfg, job, stop):
    """Publish the trained model as final/ and say what happened."""
    state, out = job.state, job.out
    if state.heldout_now is None and (out / "final").is_dir():
        console.print0(job.world, f"{out}: its {state.step} steps are done; --steps N goes further")
        return
    after = state.heldout_now
    if after is None:
        after = evaluate_on_all_ranks(job.engine, job.heldout, cfg, job.world, stop)
    checkpoint.publish(job.policy.lm, out / "final", job.world)
    if job.world.rank == 0:
        write_atomic(out / "final/README.md", console.model_card(cfg, state.heldout, after))
        print(console.summary(state.heldout, after, state.buffer, out), flush=True)


def stopped(job, stop):
    """Save after a signal. Returns the exit status."""
    again = f"--resume --out {job.out}"
    if job.checkpoints.save():
        done = f"stopped after step {job.state.step}, all saved"
        text = f"{done}; go on with the same command and {again}"
    else:
        text = f"stopped before the first step was done; {again} begins again in its place"
    console.print0(job.world, text)
    return 128 + stop.signal if stop.signal else 143


def save_after_error(error, job):
    """Save the last finished step after an error; returns the error to raise, which says so."""
    error = in_one_line(error, job.checkpoints.cfg)
    shared = getattr(error, "shared", False)
    kept = ""
    try:
        # where not all ranks have the error, the others may be gone
        if job.world.size == 1 or shared:
            job.checkpoints.save()
    except OSError as e:
        kept = f"\nthe last finished step could not be saved: {e}"
    if found := checkpoint.complete(job.out / "checkpoints"):
        steps = int(found[-1].name.removeprefix("step-"))
        some = steps if steps == job.state.step else f"first {steps} of {job.state.step}"
        again = f"go on with --resume --out {job.out}"
        kept += f"\nthe {some} finished steps are in {found[-1]}; {again}"
    if not isinstance(error, (ValueError, OSError)):  # a bug of ours: its traceback is wanted
        print(kept.strip(), file=sys.stderr)
        return error
    told = ValueError(f"{error}{kept}")
    told.shared = shared
    return told
