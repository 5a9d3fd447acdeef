"""One rank of tests/runtime/test_checkpoint.py: a checkpoint that is written, then one that fails
to be written; or the first one read.

    torchrun --nproc_per_node=2 tests/checkpoint_ranks.py save FOLDER out.pt
    torchrun --nproc_per_node=3 tests/checkpoint_ranks.py load FOLDER out.pt
"""

import os
import sys
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.tensor import DTensor, distribute_tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model  # noqa: E402
import tiny  # noqa: E402
from config import flags  # noqa: E402
from distributed import exit_process, init_student_rank, roles  # noqa: E402
from policy import full_tensor, shard_policy  # noqa: E402
from runtime import checkpoint  # noqa: E402


def train(lm, optimizer):
    """Two updates with made-up gradients, the same ones on any number of ranks."""
    for k in range(2):
        noise = torch.Generator().manual_seed(k)
        for p in lm.net.parameters():
            p.grad = torch.randn(p.shape, generator=noise)
            if isinstance(p, DTensor):
                p.grad = distribute_tensor(p.grad, p.device_mesh, p.placements)
        optimizer.step()


def tensors(lm, optimizer):
    """Weights and moments, whole."""
    out = {}
    for name, p in lm.net.named_parameters():
        parts = {"weight": p.detach(), **optimizer.state[p]}
        out[name] = {key: full_tensor(part).clone() for key, part in parts.items()}
    return out


def no_space(*args, **kwargs):
    raise OSError(28, "No space left on device")


def refused(world, lm, optimizer, folder, owner, name, rank):
    """What a save says on this rank when one rank can't write."""
    real = getattr(owner, name)

    def last_rename(old, new):  # DCP renames too, in shards/
        return real(old, new) if "shards" in str(new) else no_space()

    if world.rank == rank:
        setattr(owner, name, last_rename if name == "rename" else no_space)
    try:
        checkpoint.save(folder, 2, lm, optimizer, {}, 2, world)
        said = "saved"
    except OSError as e:
        said = str(e)
    setattr(owner, name, real)
    return [said, sorted(p.name for p in Path(folder).glob("step-*"))]


def main(mode, folder, target):
    torch.set_num_threads(1)
    world = init_student_rank(flags("--device cpu --timeout 60".split()), roles(os.environ, 0))
    path = Path(folder) / "step-000001"
    lm = model.load(path / "model", "bfloat16") if mode == "load" else tiny.new_model(0)
    lm.compute = torch.bfloat16
    shard_policy(lm, world)
    optimizer = torch.optim.AdamW(lm.net.parameters(), lr=1e-3, weight_decay=0.1)
    out = {}
    if mode == "load":
        torch.manual_seed(world.rank + 100)
        out["state"] = checkpoint.load(path, lm, optimizer, world)
    else:
        train(lm, optimizer)
        torch.manual_seed(7)
        checkpoint.save(folder, 1, lm, optimizer, {"position": 3}, 2, world)
        spots = [(FileSystemWriter, "write_data", 1), (model, "save", 0)]
        spots += [(checkpoint, "_flush", 0), (checkpoint.os, "rename", 0)]
        out["said"] = []
        for spot in spots:
            said = refused(world, lm, optimizer, folder, *spot)
            out["said"].append(world.all_gather(lambda: said))
        out["after"] = checkpoint.save(folder, 2, lm, optimizer, {}, 2, world).name
    out |= {"tensors": tensors(lm, optimizer), "ranks": world.size}
    out["draw"] = world.all_gather(lambda: torch.rand(2).tolist())
    if world.rank == 0:
        torch.save(out, target)
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    exit_process(0)
