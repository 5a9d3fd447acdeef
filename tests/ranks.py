"""One rank of tests/test_distributed.py: an update of the tiny student on given samples, its
gradients and numbers written down; or a rank that hangs.

    torchrun --nproc_per_node=2 tests/ranks.py in.pt out.pt --micro-tokens 300
    torchrun --nproc_per_node=2 tests/ranks.py hang
"""

import os
import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import shared_prompt  # noqa: E402
import tiny  # noqa: E402
from baselines import FrozenTeacher, distill  # noqa: E402
from config import flags  # noqa: E402
from distributed import exit_process, init_student_rank, roles  # noqa: E402
from policy import full_state_dict, full_tensor, shard_policy, update  # noqa: E402
from runtime.launch import adamw  # noqa: E402
from runtime.metrics import Clock  # noqa: E402


def main(source, target, *argv):
    torch.set_num_threads(1)
    given = torch.load(source, weights_only=False)  # written by the test itself
    method = given["method"]
    fixed = f"--method {method} --iterations {given['iterations']} --n {given['n']}".split()
    cfg = flags([*fixed, *"--device cpu --timeout 60".split(), *argv])
    world = init_student_rank(cfg, roles(os.environ, 0))
    student, frozen = tiny.new_model(0), None
    if method == "on-distill":
        frozen = FrozenTeacher(tiny.new_model(1))
    shared_prompt.decide([student, *([frozen.lm] if frozen else [])], world)
    assert student.share_prompts  # this model can
    if given.get("rows"):
        student.share_prompts = False
    policy = shard_policy(student, world, frozen, cfg.checkpointing)
    optimizer, rng = adamw(student.net, cfg), random.Random(cfg.seed)
    grads, step = [], optimizer.step

    def record():
        parameters = student.net.named_parameters()
        grads.append({name: full_tensor(p.grad).clone() for name, p in parameters})
        step()

    optimizer.step = record
    learn = distill if frozen else update
    groups, adv = given["groups"], given["adv"]
    numbers = learn(policy, optimizer, groups, adv, cfg, world, rng, Clock(world.heartbeat))
    weights = {name: w.clone() for name, w in full_state_dict(student)}
    out = {"numbers": numbers, "grads": grads, "weights": weights, "rng": rng.random()}
    if world.rank == 0:
        torch.save(out | {"ranks": world.size}, target)
    world.close()


def hang():
    """Rank 1 never comes to the gathering; rank 0 goes through the timeout of gloo, rank 1 through
    the watchdog's, both shortened.
    """
    import faulthandler

    plain = faulthandler.dump_traceback_later
    faulthandler.dump_traceback_later = lambda seconds, exit: plain(seconds - 60 + 3, exit=exit)
    cfg = flags("--device cpu --timeout 5".split())
    world = init_student_rank(cfg, roles(os.environ, 0))
    world.all_gather(lambda: None)
    time.sleep(1.1)  # heartbeats within a second are one
    world.heartbeat("rollout")
    if world.rank == 1:
        stuck_on_purpose()
    try:
        world.all_gather(lambda: None)
    except OSError as e:
        print(f"error: {e}", file=sys.stderr, flush=True)
        time.sleep(30)  # torchrun would end rank 1 when this one ends
    return 1


def stuck_on_purpose():
    time.sleep(60)


if __name__ == "__main__":
    status = hang() if sys.argv[1] == "hang" else main(*sys.argv[1:])
    exit_process(status or 0)
