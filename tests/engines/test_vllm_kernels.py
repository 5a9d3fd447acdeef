"""What a GPU runs in vLLM, on a CPU by Triton's interpreter: the log-probs of the V2 model runner
are the trainer's, and drafts are checked so that the samples are the policy's.

    .ci/vllm-cpu VENV && VENV/bin/python -m pytest tests/engines/test_vllm_kernels.py -n 0 -m vllm

In processes of their own, because vLLM decides at its import which kernels there are.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WHY = "vLLM is not installed here; .ci/vllm-cpu VENV makes an environment that has it, for a CPU"
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason=WHY)]


@pytest.mark.parametrize("tests, which", [("test_vllm.py", "agree"), ("drafts.py", "test")])
def test_with_the_kernels_of_a_gpu(tests, which):
    words = "-p interpreted_triton -n 0 -q -m vllm --tb=short --show-capture=no -k".split()
    command = [sys.executable, "-m", "pytest", *words, which, HERE / tests]
    env = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    # a dot each: passed, and none skipped
    assert done.returncode == 0 and done.stdout.startswith("..."), done.stdout[-4000:]
    assert " skipped" not in done.stdout
