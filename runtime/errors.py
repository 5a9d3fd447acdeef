"""Errors told in one line: by a command at its end; and, where memory, disk or file handles run
out, with the name of what to lower.
"""

import os
import sys
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC

import torch

from distributed import exit_process

# the last two: how PyTorch's writer puts it (a file that is shorter than what was written to it)
FULL = ("No space left on device", "Disk quota exceeded", "unexpected pos", "failed writing file")


def command(main):
    """Run main() and end this process with the status that it returns; an error of the input or of
    the machine is told in one line, status 1.
    """
    try:
        status = main()
    except (ValueError, OSError) as e:
        # what all ranks know is said by rank 0
        if not getattr(e, "shared", False) or os.environ.get("RANK", "0") == "0":
            print(f"error: {e}", file=sys.stderr)
        status = 1
    exit_process(status)


@contextmanager
def errors_in_one_line(cfg):
    """What runs out while a run is opened is told as in_one_line()."""
    try:
        yield
    except Exception as e:
        told = in_one_line(e, cfg)
        if told is e:
            raise
        raise told from e


def in_one_line(error, cfg):
    """An error because memory, disk or file handles ran out, as a ValueError that names what to
    lower; any other error as it is.
    """
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0][:200]
    number = getattr(error, "errno", None)
    full = any(sign in text for sign in FULL)
    if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
        advice = f"the GPU's memory ran out ({first}); lower {memory_flags(cfg)}, or give "
        advice += "--checkpointing" if not cfg.checkpointing else "more GPUs"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text or number == ENOMEM:
        advice = f"this machine's memory ran out ({first}); lower {memory_flags(cfg)}"
    elif number in (ENOSPC, EDQUOT, EFBIG) or full:
        advice = f"the disk is full ({first}); make room (also `ulimit -f`), or lower --keep "
        advice += f"{cfg.keep} and "
        advice += f"--show {cfg.show}, or give another --out"
    elif number in (EMFILE, ENFILE):
        advice = f"too many files are open ({first}); raise the limit, `ulimit -n 65536`"
    else:
        return error
    told = ValueError(advice)
    told.shared = getattr(error, "shared", False)
    return told


def memory_flags(cfg):
    """The flags that decide a step's memory, with their values."""
    flags = f"--micro-tokens {cfg.micro_tokens}, --max-response {cfg.max_response}"
    on_gpu = cfg.device.startswith("cuda")
    return flags + (f", --vllm-memory {cfg.vllm_memory:g}" if on_gpu else f", --n {cfg.group_size}")
