"""What samples: in this process (hf, vllm), or behind a server (client, server)."""

from importlib.util import find_spec

from engines.base import ENGINES, default_kind


def open_engine(kind, lm, **options):
    """The engine that samples lm (model.LM): kind "hf", "vllm", or "" for default_kind's.

    options: of VLLMEngine, with the path of its weights where that is not lm's; of HFEngine
    max_rows only. Raises ValueError when vLLM is wanted and not installed.
    """
    if kind not in (*ENGINES, ""):
        raise ValueError(f"--engine {kind} is not one of {', '.join(ENGINES)}")
    kind = kind or default_kind(lm.device)
    if kind == "hf":
        from engines.hf import HFEngine

        return HFEngine(lm, options.get("max_rows", 512))
    if find_spec("vllm") is None:
        raise ValueError(
            "vLLM is not installed, and samples on a GPU: pip install -r requirements-gpu.txt, "
            "or go without it, slowly, with --engine hf"
        )
    from engines.vllm import VLLMEngine  # minutes of imports, for those who want it

    return VLLMEngine(options.pop("path", lm.path), lm, **options)
