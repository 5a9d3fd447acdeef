"""What of a checkpoint is neither loaded nor trained, and goes unchanged into what is saved: files
of classes that are not used here, and the drafting head of Qwen3.5 (multi-token prediction).

transformers leaves the head's weights (mtp.*) out of its models, vLLM drafts with them (--mtp).
They are mapped from the files, not read, and stay readable when the folder is removed.
"""

import json
from pathlib import Path

from safetensors import safe_open
from transformers.utils import cached_file

PREFIX = "mtp."
# cached_file: None for what is not there, rather than an error
QUIET = {f"_raise_exceptions_for_{w}": False for w in ("missing_entries", "gated_repo")}
QUIET["_raise_exceptions_for_connection_errors"] = False


def read_aside(path):
    """{name: content} of the files of classes that are not loaded here (the video processor), so
    that servers find them in what is saved. Read at once: the folder may be a checkpoint that is
    gone by then.
    """
    names = ("video_preprocessor_config.json", "processor_config.json")
    found = {name: cached_file(path, name, **QUIET) for name in names}
    return {name: Path(file).read_bytes() for name, file in found.items() if file}


def drafting_layers(config):
    """Decoder layers of the drafting head that a transformers config names; 0: none."""
    return getattr(config.get_text_config(), "mtp_num_hidden_layers", None) or 0


def read_drafter(path, config):
    """{name: tensor} of the drafting head of a model folder or hub id, as stored; empty where the
    config or the weights have none.
    """
    if not drafting_layers(config):
        return {}
    names = ["model.safetensors"]
    if index := cached_file(path, "model.safetensors.index.json", **QUIET):
        places = json.loads(Path(index).read_text())["weight_map"]
        names = sorted({file for name, file in places.items() if name.startswith(PREFIX)})
    found = {}
    for file in filter(None, (cached_file(path, name, **QUIET) for name in names)):
        with safe_open(file, "pt") as weights:
            mtp = [name for name in weights.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            found |= {name: weights.get_tensor(name) for name in mtp}
    return found


def require_drafter(lm, n):
    """Raise ValueError where --mtp n has no head to draft with."""
    if n and not lm.drafter:
        raise ValueError(
            f"--mtp {n}: {lm.path} has no drafting head (weights mtp.*, which the published "
            f"Qwen3.5 models bring): leave --mtp out, or start from a checkpoint that has one"
        )
