"""Ranks and their roles: who samples and trains, who is the teacher, and the few collectives that
train.py needs.

Under torchrun the last `teacher_ranks` processes of each node are teachers, the others students
(the paper: 2 and 6 of 8, Table 8). Only the students form torch.distributed's world, which is
FSDP's data-parallel group as well; teachers answer requests (remote.py) and meet the students
through torchrun's store. A plain `python train.py` is a world of one, without any of it.

Every student rank holds the whole state of Algorithm 1 (buffer, rng, rewards of all groups) and
takes the same decisions; what is split is the sampling (by prompt) and the update (by micro-batch).
So the collectives are few: `everyone` gathers what was sampled, `first` shares what only rank 0 may
do (the teacher and its cache), `total` adds up the numbers of an update.

    world = connect(cfg, roles(os.environ, -1))   # World(rank=0, size=1) without torchrun
    parts = world.everyone({"rank": world.rank})
"""

import faulthandler
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from engines.base import Stopped
from loss import chunked_logp, jsd_sum
from model import collate, response_hidden


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
    """The Roles of this process, from torchrun's environment variables. teacher_ranks: of each
    node; -1: a quarter of them.

    Raises ValueError when no student would be left.
    """
    world, local = (
        int(env.get("WORLD_SIZE", 1)),
        int(env.get("LOCAL_WORLD_SIZE", env.get("WORLD_SIZE", 1))),
    )
    local_rank, node = int(env.get("LOCAL_RANK", 0)), int(env.get("RANK", 0)) // local
    if world % local:
        raise ValueError(
            f"{world} processes are not {local} on every node; start the same --nproc_per_node everywhere"
        )
    t = (max(1, local // 4) if local > 1 else 0) if teacher_ranks < 0 else teacher_ranks
    s = local - t
    if s < 1:
        raise ValueError(
            f"--teacher-ranks {t} of {local} processes a node leave no student rank; start more "
            f"(--nproc_per_node), or --teacher-ranks 0: the teacher then shares student rank 0's device"
        )
    nodes = world // local
    if local_rank < s:
        return Roles(True, node * s + local_rank, s * nodes, t * nodes, local_rank, nodes)
    return Roles(False, node * t + local_rank - s, s * nodes, t * nodes, local_rank, nodes)


def open_store(timeout):
    """torchrun's key-value store, where students and teachers find each other."""
    agent = (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    )  # torchrun hosts it; else global rank 0 does
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=not agent and os.environ.get("RANK") == "0",
            timeout=timedelta(seconds=timeout),
        )
    except (KeyError, ValueError, RuntimeError) as e:
        raise ValueError(f"no rendezvous store ({e}); start with torchrun") from e
    return dist.PrefixStore(f"zppo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@dataclass
class World:
    """The student ranks as one of them sees them. size 1: every verb is local and nothing is
    initialised.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    timeout: float = 1800.0
    store: Any = None
    roles: Roles = field(default_factory=Roles)
    firsts: int = 0  # calls of first() so far
    phase: str = "start"  # what this rank is doing, for the message when something hangs
    beat: float = 0.0

    def everyone(self, value):
        """[value of rank 0, value of rank 1, ...] on every rank. value: anything picklable."""
        if self.size == 1:
            return [value]
        out = [None] * self.size
        with self.waiting("gathering from all ranks"):
            dist.all_gather_object(out, value)
        return out

    def first(self, work):
        """work() on rank 0 only; its result on every rank. An error there is raised on every rank,
        so that none waits for ever.
        """
        if self.size == 1:
            return work()
        box, self.firsts = [None], self.firsts + 1
        done = f"first/{self.firsts}"
        if self.rank == 0:
            try:
                box = [(work(), None)]
            except (ValueError, OSError, Stopped) as e:
                box = [(None, shared(e))]
            self.store.set(done, "")
        else:  # a slow teacher is no hang: rank 0's own watchdog looks after it
            pause = 0.005
            while not self.store.check([done]):
                self.alive()
                time.sleep(pause := min(0.2, pause * 1.5))
        with self.waiting("waiting for rank 0"):
            dist.broadcast_object_list(box, src=0)
        value, error = box[0]
        if error is not None:
            raise shared(error)
        return value

    def first_only(self, work):
        """work() on rank 0, None on the others; an error is raised on every rank."""
        made = []
        self.first(lambda: made.append(work()))
        return made[0] if made else None

    def each(self, work):
        """work() on every rank, and what all of them returned, by rank; an error on one is raised
        on every rank.
        """
        if self.size == 1:
            return [work()]
        try:
            mine = work(), None
        except (ValueError, OSError, Stopped) as e:
            mine = None, shared(e)
        parts = self.everyone(mine)
        errors = [e for _, e in parts if e is not None]
        if errors:  # a real error says more than that somebody was told to stop
            raise shared(next((e for e in errors if not isinstance(e, Stopped)), errors[0]))
        return [value for value, _ in parts]

    def agree(self, error=None):
        """Raise on every rank if one of them has an error (a message or an exception); for work
        that each rank does alone.
        """
        errors = [e for e in self.everyone(error and str(error)) if e]
        if errors:
            raise shared(OSError(errors[0]))

    def total(self, sums, largest=()):
        """{name: number} added up over the ranks; the names in `largest` take the maximum."""
        if self.size == 1:
            return sums
        parts = self.everyone(sums)
        return {k: (max if k in largest else sum)(p[k] for p in parts) for k in sums}

    @contextmanager
    def waiting(self, what):
        """Collectives go in here: what fails or takes too long is told with the phase and the rank."""
        self.beat = time.monotonic()
        try:
            yield
        except RuntimeError as e:
            raise OSError(
                f"rank {self.rank} of {self.size}, phase {self.phase!r}, {what}: another rank died or is more than "
                f"{self.timeout:.0f} s late ({str(e).strip().splitlines()[0][:160]})"
            ) from e
        self.beat = time.monotonic()

    def alive(self, phase=None):
        """Tell the watchdog that something happened."""
        self.phase, self.beat = phase or self.phase, time.monotonic()

    def close(self):
        """Leave the process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def shared(e):
    """An error as every rank can read it back (kinds of other packages may not survive pickling),
    marked: all ranks have it.
    """
    e = e if isinstance(e, Stopped) else (OSError if isinstance(e, OSError) else ValueError)(str(e))
    e.shared = True
    return e


def own_gpu(who):
    """This process's GPU, by its local rank; made the current one. Raises ValueError when there is
    none.
    """
    if who.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {who.local_rank} has no GPU: this node has {torch.cuda.device_count()}; lower "
            f"--nproc_per_node, or --device cpu"
        )
    # every vLLM here believes to be rank 0: one folder of compiled kernels each, or they would
    # write into each other's
    os.environ.setdefault(
        "VLLM_CACHE_ROOT", os.path.expanduser(f"~/.cache/vllm/zppo-{who.local_rank}")
    )
    torch.cuda.set_device(who.local_rank)
    return f"cuda:{who.local_rank}"


def connect(cfg, who):
    """The World of a student rank; joins torch.distributed when there are several. Raises
    ValueError for a missing GPU.
    """
    device = cfg.device
    if device == "cuda" and who.students + who.teachers > 1:
        device = own_gpu(who)
    world = World(who.rank, who.students, device, cfg.timeout, None, who)
    if who.students + who.teachers > 1:
        world.store = open_store(cfg.timeout)
    if who.students > 1:
        # vLLM in this process asks these variables who it is; to it, the students are all there is
        os.environ.update(RANK=str(who.rank), WORLD_SIZE=str(who.students))
        join(world, dist.PrefixStore("students", world.store))
        watch(world)
    elif device.startswith("cuda"):
        join(
            world, dist.HashStore()
        )  # a world of one, for FSDP's mixed precision; before vLLM would make its own
    return world


def join(world, store):
    """Join torch.distributed: gloo for what is on the CPU, NCCL for what is on GPUs."""
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if world.device.startswith("cuda") else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=world.timeout),
    )


def leave(status):
    """End this process with an exit status; under torchrun without Python's own teardown, in which
    gloo's threads may abort it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        os._exit(status)
    sys.exit(status)


def watch(world):
    """A thread that ends this process, with a message that names the phase, when nothing has
    happened for world.timeout seconds.

    gloo raises by itself; NCCL and a stuck sampler do not.
    """
    world.alive()

    def loop():
        while True:
            time.sleep(min(5.0, world.timeout / 4))
            silent = time.monotonic() - world.beat
            if (
                silent > world.timeout + 60
            ):  # a little later than gloo's own timeout, which says more
                print(
                    f"error: rank {world.rank} of {world.size}: nothing has happened for {silent:.0f} s in phase "
                    f"{world.phase!r} (--timeout {world.timeout:.0f}); the stacks follow",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)

    threading.Thread(target=loop, daemon=True).start()


# ---- the model that is trained -------------------------------------------------------------------


class Policy(nn.Module):
    """Samples in, log-probs out, in one forward: the unit that FSDP wraps, so that head and
    embedding are read while whole.

    (A head read outside of the wrapped forward loses the other ranks' gradients without a word.)
    With a teacher, the same forward gives the Jensen-Shannon divergence of the two (the
    distillation baselines).
    """

    def __init__(self, lm, teacher=None, always_look=False):
        super().__init__()
        self.net, self.frozen = lm.net, Frozen(teacher) if teacher else None
        self.always_look = always_look and lm.image_processor is not None
        object.__setattr__(self, "lm", lm)  # not a submodule: its net is one already

    def forward(self, samples, temperature=1.0, distill=False):
        """samples: list of Sample. Returns (N,) log-probs and (N,) entropies of their N response
        tokens, row by row.

        distill: returns the sum and the (N,) divergences instead.
        """
        lm = self.lm
        hidden, tokens = response_hidden(lm, collate(lm, samples), self.always_look)
        if distill:
            return self.frozen(samples, hidden, lm.head, lm.banned, temperature)
        return chunked_logp(hidden, lm.head, tokens, lm.banned, temperature)


class Frozen(nn.Module):
    """The teacher of the distillation baselines: its distribution at the student's tokens. Never
    trained.
    """

    def __init__(self, lm):
        super().__init__()
        self.net = lm.net.requires_grad_(False)
        object.__setattr__(self, "lm", lm)

    def forward(self, samples, student_hidden, student_head, banned, temperature):
        """The sum of the per-token divergences, and (N,) each."""
        with torch.no_grad():
            hidden, _ = response_hidden(self.lm, collate(self.lm, samples))
        return jsd_sum(student_hidden, student_head, hidden, self.lm.head, banned, temperature)


def policy_of(lm, world, teacher=None, shard=None, checkpointing=False):
    """The Policy of an LM; sharded with FSDP2 over the student ranks when there are several or the
    device is a GPU.

    checkpointing: keep one hidden state a block and compute the rest again in the backward pass (in
    training mode).

    One unit a decoder block, one for all else (embedding, head, vision tower: small beside the
    blocks, and a batch without images must not make a rank skip a collective). Masters stay
    float32; lm.compute is what is gathered and multiplied.
    """
    shard = (world.size > 1 or world.device.startswith("cuda")) if shard is None else shard
    policy = Policy(lm, teacher, always_look=world.size > 1)
    if checkpointing:
        lm.net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not shard:
        return policy
    if not dist.is_initialized():
        join(world, dist.HashStore())
    mesh = dist.init_device_mesh(world.device.partition(":")[0], (world.size,))
    precision = MixedPrecisionPolicy(
        param_dtype=lm.compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    if teacher:
        for block in teacher.blocks():
            fully_shard(block, mesh=mesh, mp_policy=precision)
        # kept whole after its forward: the backward of the divergence reads the teacher's head once
        # more
        fully_shard(policy.frozen, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for block in lm.blocks():
        fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    lm.sharded = True
    return policy


def whole(tensor):
    """The full tensor of a possibly sharded one; every rank has to call this in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def named_weights(lm, dtype=None):
    """(name, full tensor) of every parameter, one after the other, so that never a second copy of
    the model exists.

    Collective: every rank iterates over all of it. dtype: cast before it is gathered, which halves
    the traffic of bfloat16.
    """
    shards = not lm.sharded or all(isinstance(p, DTensor) for p in lm.net.parameters())
    assert shards, (
        "a forward without a backward leaves the root's parameters whole: reshard() first"
    )
    for name, p in lm.net.named_parameters():
        p = p.detach()
        yield name, whole(p if dtype is None else p.to(dtype))
