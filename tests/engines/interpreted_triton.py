"""A pytest plugin (-p interpreted_triton): vLLM's Triton kernels on a CPU, by Triton's own
interpreter, so that what only runs on GPUs otherwise is tested: the V2 model runner, and rejection
sampling of drafts.

vLLM asks for a Triton with a CPU backend; here it is shown one that has a name and nothing else,
because the interpreter never compiles.
"""

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

from triton import backends  # noqa: E402

NEVER = SimpleNamespace(is_active=lambda: False)
backends.backends["cpu"] = SimpleNamespace(driver=NEVER, compiler=None)

import vllm.model_executor.models.qwen3_vl as vision  # noqa: E402
from vllm.triton_utils import HAS_TRITON  # noqa: E402

assert HAS_TRITON
vision.HAS_TRITON = False  # one kernel of the vision tower gives NaN when interpreted: plain torch
