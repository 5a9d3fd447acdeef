"""One rank of tests/test_parallel.py: an update of the tiny student on given samples, its gradients
and numbers written down.

torchrun --nproc_per_node=2 tests/ranks.py in.pt out.pt --micro-tokens 300
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tiny  # noqa: E402
import train  # noqa: E402
from config import flags  # noqa: E402
from data import in_memory  # noqa: E402
from distributed import connect, full_state_dict, leave, roles, whole  # noqa: E402
from engines.hf import HFEngine  # noqa: E402
from runtime.metrics import Clock  # noqa: E402


def main(source, target, *argv):
    torch.set_num_threads(1)
    given = torch.load(source, weights_only=False)  # written by the test itself
    cfg = flags(
        [
            "--method",
            given["method"],
            "--teacher-ranks",
            "0",
            "--iterations",
            str(given["iterations"]),
            "--n",
            str(given["n"]),
            "--device",
            "cpu",
            "--timeout",
            "60",
            *argv,
        ]
    )
    cfg.resume_from = ""
    world = connect(cfg, roles(os.environ, 0))
    student, out = tiny.new_model(0), Path(target).parent / f"run-{Path(target).stem}"
    if world.rank == 0:
        out.mkdir()
    world.everyone(None)
    distiller = tiny.new_model(1) if given["method"] == "on-distill" else None
    run = Run(
        cfg,
        world,
        student,
        HFEngine(tiny.new_model(0)),
        None,
        in_memory(given["questions"]),
        out,
        distiller,
    )
    grads, step = [], run.optimizer.step

    def record():
        grads.append({name: whole(p.grad).clone() for name, p in student.net.named_parameters()})
        step()

    run.optimizer.step = record
    groups = given["groups"]
    if given["method"] == "on-distill":
        numbers = train.distill(run, [s for g in groups for s in g.samples], Clock())
    else:
        numbers = train.update(run, groups, given["adv"], Clock())
    weights = {name: w.clone() for name, w in full_state_dict(student)}
    if world.rank == 0:
        torch.save(
            {
                "numbers": numbers,
                "grads": grads,
                "weights": weights,
                "rng": run.rng.random(),
                "ranks": world.size,
            },
            target,
        )
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave(0)
