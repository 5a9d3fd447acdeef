"""One rank of tests/test_checkpoint.py: a checkpoint that is written, then one that fails to be
written; or the first one read.

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
from distributed import connect, leave, policy_of, roles, whole  # noqa: E402
from runtime import checkpoint  # noqa: E402


def trained(lm, optimizer):
    """Two updates with made-up gradients, the same ones on any number of ranks."""
    for k in range(2):
        noise = torch.Generator().manual_seed(k)
        for p in lm.net.parameters():
            grad = torch.randn(p.shape, generator=noise)
            p.grad = (
                distribute_tensor(grad, p.device_mesh, p.placements)
                if isinstance(p, DTensor)
                else grad
            )
        optimizer.step()


def tensors(lm, optimizer):
    """Weights and moments, whole."""
    out = {}
    for name, p in lm.net.named_parameters():
        out[name] = {
            "weight": whole(p.detach()).clone(),
            **{k: whole(v).clone() for k, v in optimizer.state[p].items()},
        }
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
    world = connect(flags(["--device", "cpu", "--timeout", "60"]), roles(os.environ, 0))
    path = Path(folder) / "step-000001"
    lm = model.load(path / "model", "bfloat16") if mode == "load" else tiny.new_model(0)
    lm.compute = torch.bfloat16
    policy_of(lm, world)  # shards it
    optimizer = torch.optim.AdamW(lm.net.parameters(), lr=1e-3, weight_decay=0.1)
    out = {}
    if mode == "load":
        torch.manual_seed(world.rank + 100)
        out["state"] = checkpoint.load(path, lm, optimizer, world)
    else:
        trained(lm, optimizer)
        torch.manual_seed(7)
        checkpoint.save(folder, 1, lm, optimizer, {"position": 3}, 2, world)
        spots = [
            (FileSystemWriter, "write_data", 1),
            (model, "save", 0),
            (checkpoint, "_flush", 0),
            (checkpoint.os, "rename", 0),
        ]
        out["said"] = [
            world.everyone(refused(world, lm, optimizer, folder, *spot)) for spot in spots
        ]
        out["after"] = checkpoint.save(folder, 2, lm, optimizer, {}, 2, world).name
    out |= {
        "tensors": tensors(lm, optimizer),
        "draw": world.everyone(torch.rand(2).tolist()),
        "ranks": world.size,
    }
    if world.rank == 0:
        torch.save(out, target)
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave(0)
