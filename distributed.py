"""Ranks and their roles: who samples and trains, who serves the teacher, and the few collectives
that the loop needs.

Under torchrun the last `teacher_ranks` processes of each node serve the teacher, the others are
students (the paper: 2 and 6 of 8, Table 8). Only the students form torch.distributed's world, which
is FSDP's data-parallel group as well; students and teachers find each other through torchrun's
store. A plain `python train.py` is a world of one, without any of it.

Every student rank holds the whole state of Algorithm 1 (buffer, rng, rewards of all groups) and
takes the same decisions; what is split is the sampling (by prompt) and the update (by micro-batch).
So the collectives are few: all_gather for what was sampled, broadcast_from_rank0 for what only rank
0 may do (the teacher, the log), all_reduce for the numbers of an update. Each takes a callable and
carries its error to every rank, so that none waits for ever and all end with the same line.

    world = init_student_rank(cfg, roles(os.environ, -1))   # World(rank=0, size=1) without torchrun
    parts = world.all_gather(lambda: {"rank": world.rank})
"""

import faulthandler
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from engines.base import Stopped


@dataclass
class Roles:
    """Who this process is. Student ranks count from 0 over all nodes, teacher ranks too."""

    student: bool = True
    rank: int = 0  # among the processes of its role
    students: int = 1
    teachers: int = 0
    local_rank: int = 0
    nodes: int = 1


def roles(env, teacher_ranks):
    """The Roles of this process, from torchrun's environment variables.

    teacher_ranks: of each node; -1: a quarter of them. Raises ValueError when no student is left.
    """
    world = int(env.get("WORLD_SIZE", 1))
    local = int(env.get("LOCAL_WORLD_SIZE", world))
    # a lone process is rank 0, whatever somebody left in RANK
    local_rank = int(env.get("LOCAL_RANK", 0)) if world > 1 else 0
    node = int(env.get("RANK", 0)) // local if world > 1 else 0
    if world % local:
        raise ValueError(
            f"{world} processes are not {local} on every node; start the same --nproc_per_node "
            f"everywhere"
        )
    teachers = teacher_ranks
    if teacher_ranks < 0:
        teachers = max(1, local // 4) if local > 1 else 0
    students = local - teachers
    if students < 1:
        raise ValueError(
            f"--teacher-ranks {teachers} of {local} processes a node leave no student rank; start "
            f"more (--nproc_per_node), or --teacher-ranks 0: the teacher then shares student rank "
            f"0's device"
        )
    nodes = world // local
    is_student = local_rank < students
    rank = node * students + local_rank
    if not is_student:
        rank = node * teachers + local_rank - students
    return Roles(is_student, rank, students * nodes, teachers * nodes, local_rank, nodes)


@dataclass
class World:
    """The student ranks as one of them sees them. size 1: all is local, nothing is initialised."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    timeout: float = 1800.0
    store: Any = None
    roles: Roles = field(default_factory=Roles)
    phase: str = "start"  # what this rank is doing, for the message when something hangs
    broadcasts: int = 0  # calls of broadcast_from_rank0 so far
    armed: float = 0.0

    def all_gather(self, work):
        """[work() of rank 0, work() of rank 1, ...] on every rank; an error on one is raised on
        all. What work returns is pickled.
        """
        if self.size == 1:
            return [work()]
        own = _caught(work)
        parts = [None] * self.size
        with self.waiting("gathering from all ranks"):
            dist.all_gather_object(parts, own)
        errors = [error for _, error in parts if error is not None]
        if errors:  # a real error says more than that somebody was told to stop
            raise as_shared(next((e for e in errors if not isinstance(e, Stopped)), errors[0]))
        return [value for value, _ in parts]

    def broadcast_from_rank0(self, work):
        """work() on rank 0 only; its result on every rank. An error there is raised on all."""
        if self.size == 1:
            return work()
        self.broadcasts += 1
        key = f"broadcast/{self.broadcasts}"
        box = [None]
        if self.rank == 0:
            box = [_caught(work)]
            self.store.set(key, "")
        else:  # a slow teacher is no hang: rank 0's own watchdog looks after it
            pause = 0.005
            while not self.store.check([key]):
                self.heartbeat()
                pause = min(0.2, pause * 1.5)
                time.sleep(pause)
        with self.waiting("waiting for rank 0"):
            dist.broadcast_object_list(box, src=0)
        value, error = box[0]
        if error is not None:
            raise as_shared(error)
        return value

    def on_rank0(self, work):
        """work() on rank 0, None on the others; for what need not, or can't, travel."""
        made = []
        self.broadcast_from_rank0(lambda: made.append(work()))
        return made[0] if made else None

    def all_reduce(self, sums, largest=()):
        """{name: number} added up over the ranks; the names in `largest` take the maximum."""
        parts = self.all_gather(lambda: sums)
        return {k: (max if k in largest else sum)(p[k] for p in parts) for k in sums}

    @contextmanager
    def waiting(self, what):
        """Collectives go in here: what fails or takes too long is told with phase and rank."""
        self.heartbeat()
        try:
            yield
        except RuntimeError as e:
            why = str(e).strip().splitlines()[0][:160]
            raise OSError(
                f"rank {self.rank} of {self.size}, phase {self.phase!r}, {what}: another rank died "
                f"or is more than {self.timeout:.0f} s late ({why})"
            ) from e

    def heartbeat(self, phase=""):
        """Something happened: wind the watchdog up again. It prints all stacks and ends the process
        after `timeout` silent seconds (gloo raises by itself, NCCL and a stuck sampler do not), and
        does so even when something holds the interpreter's lock. A world of one has none.
        """
        self.phase = phase or self.phase
        now = time.monotonic()
        if self.size > 1 and now - self.armed > 1:
            self.armed = now
            # a little later than gloo's own timeout, which says more
            faulthandler.dump_traceback_later(self.timeout + 60, exit=True)

    def close(self):
        """Leave the process group, if there is one."""
        faulthandler.cancel_dump_traceback_later()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _caught(work):
    try:
        return work(), None
    except (ValueError, OSError, Stopped) as e:
        return None, as_shared(e)


def as_shared(e):
    """An error as every rank can read it back (kinds of other packages may not survive pickling),
    marked: all ranks have it.
    """
    if not isinstance(e, Stopped):
        e = (OSError if isinstance(e, OSError) else ValueError)(str(e))
    e.shared = True
    return e


# ---- start and end of a process ------------------------------------------------------------------


def open_store(timeout):
    """torchrun's key-value store, where students and teachers find each other."""
    # torchrun hosts it; without its agent, global rank 0 does
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = not agent and os.environ.get("RANK") == "0"
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=hosts, timeout=timedelta(seconds=timeout))
    except (KeyError, ValueError, RuntimeError) as e:
        raise ValueError(f"no rendezvous store ({e}); start with torchrun") from e
    return dist.PrefixStore(f"zppo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def set_device(who):
    """This process's GPU, by its local rank, made the current one. Raises ValueError."""
    count = torch.cuda.device_count()
    if who.local_rank >= count:
        raise ValueError(
            f"local rank {who.local_rank} has no GPU: this node has {count}; lower "
            f"--nproc_per_node, or --device cpu"
        )
    # every vLLM here believes to be rank 0: one folder of compiled kernels each, or they would
    # write into each other's
    cache = os.path.expanduser(f"~/.cache/vllm/zppo-{who.local_rank}")
    os.environ.setdefault("VLLM_CACHE_ROOT", cache)
    torch.cuda.set_device(who.local_rank)
    return f"cuda:{who.local_rank}"


def init_student_rank(cfg, who):
    """The World of a student rank; joins torch.distributed when there are several. Raises
    ValueError for a missing GPU.
    """
    device, several = cfg.device, who.students + who.teachers > 1
    if device == "cuda" and several:
        device = set_device(who)
    world = World(who.rank, who.students, device, cfg.timeout, None, who)
    if several:
        world.store = open_store(cfg.timeout)
    if who.students > 1:
        # vLLM in this process asks these variables who it is; to it, the students are all there is
        os.environ.update(RANK=str(who.rank), WORLD_SIZE=str(who.students))
        init_process_group(world, dist.PrefixStore("students", world.store))
        world.heartbeat()
    elif device.startswith("cuda"):
        # a world of one, for FSDP's mixed precision; before vLLM would make its own
        init_process_group(world, dist.HashStore())
    return world


def init_process_group(world, store):
    """Join torch.distributed: gloo for what is on the CPU, NCCL for what is on GPUs."""
    backend = "cpu:gloo,cuda:nccl" if world.device.startswith("cuda") else "gloo"
    timeout = timedelta(seconds=world.timeout)
    dist.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout
    )


def exit_process(status):
    """End this process; under torchrun without Python's own teardown, in which gloo's threads may
    abort it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        os._exit(status)
    sys.exit(status)
