"""Starting vLLM's own OpenAI-compatible server, as a child of this process.

    with vllm_server("Qwen/Qwen3.5-27B-FP8", "teacher.log") as url:
        engine = ClientEngine(url)

It is what `vllm serve` runs, in a process group of its own: it ends with the block, and with this
process when that is killed. `run_teacher_server` is all that a teacher rank of torchrun does. The
settings are those that an 80 GB GPU needs and that our samples want:
* max_num_seqs 256: vLLM would take 1024 there, and a 27B hybrid model has state for about 770.
* max_model_len "auto": as long as the memory that is left allows, the model's own at most.
* scheduling by priority: summaries and verdicts before answers that were asked ahead.
* The checkpoint's sampling defaults are ignored, and no prefix is kept: requests say all they want,
  and a response does not depend on what was asked before.
* Frames of a video come with their times in each request (--trust-request-mm-kwargs): the server
  listens to our own ranks. It has no key, so it should not be reachable from strangers.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch

# Between fork and vLLM: the kernel ends the server when the thread that started it ends, and its
# server does not ignore the signals that a teacher rank ignores.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_DFL)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]): sys.exit("the process that wanted a server is gone")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
TORCHRUN = re.compile("((GROUP|LOCAL|ROLE)_)?(RANK|WORLD_SIZE|NAME)|MASTER_.*|TORCHELASTIC_.*")
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"} | {
    "TORCHDYNAMO_DISABLE": "1"  # one sampler kernel would be compiled for 20 s
}
GRACE = 20  # seconds from SIGTERM to SIGKILL


class VLLMServer:
    """The server process, starting. Arguments as in vllm_server. url: its address; log: a Path."""

    def __init__(
        self,
        model,
        log,
        data_parallel_size=1,
        tensor_parallel_size=1,
        gpus=None,
        max_num_seqs=256,
        max_model_len=None,
        memory=0.9,
        host="127.0.0.1",
        priority=True,
    ):
        port = free_port(host)
        self.model, self.log, self.url = str(model), Path(log), f"http://{host}:{port}/v1"
        options = {
            "model": model,
            "host": host,
            "port": port,
            "data-parallel-size": data_parallel_size,
            "tensor-parallel-size": tensor_parallel_size,
            "max-num-seqs": max_num_seqs,
            "max-model-len": max_model_len or "auto",
            "gpu-memory-utilization": memory,
            "scheduling-policy": "priority" if priority else "fcfs",
            "generation-config": "vllm",
            "dtype": "bfloat16",
        }
        switches = ["--no-enable-prefix-caching", "--trust-request-mm-kwargs"]
        env = {k: v for k, v in os.environ.items() if not TORCHRUN.fullmatch(k)}
        # our folders must not be found as modules of that process (`python -m` looks here first)
        env |= {"PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1"}
        if gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        if not torch.cuda.is_available():
            # no prompt in two parts: after the first, vLLM sets a seeded generator back in a way
            # that only a GPU's can be
            switches += ["--enforce-eager", "--no-enable-chunked-prefill"]
            options["max-num-batched-tokens"] = max(8192, max_model_len or 0)
            env = CPU | env
        words = [f"--{name}={value}" for name, value in options.items()]
        command = ["-m", "vllm.entrypoints.openai.api_server", *words, *switches]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
            )

    def wait(self, timeout):
        """Until it answers. Raises ValueError with what its log says last."""
        end, health = time.monotonic() + timeout, self.url.removesuffix("/v1") + "/health"
        with httpx.Client(trust_env=False, timeout=5) as http:
            while True:
                self.check()
                try:
                    if http.get(health).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass  # not yet
                if time.monotonic() > end:
                    raise ValueError(
                        f"vLLM's server of {self.model} is not up after {timeout:.0f} s "
                        f"(--timeout): {last_words(self.log)} ({self.log})"
                    )
                time.sleep(0.5)

    def check(self):
        """Raise ValueError when it has ended."""
        if self.process.poll() is not None:
            raise ValueError(
                f"vLLM's server of {self.model} ended with status {self.process.returncode}: "
                f"{last_words(self.log)} ({self.log})"
            )

    def stop(self):
        """End it and all that it has started."""
        for s, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, s)
                self.process.wait(wait)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@contextmanager
def vllm_server(model, log, timeout=1800.0, **options):
    """The URL ("http://127.0.0.1:PORT/v1") of a server of `model`, which ends with the block.

    log: the file that takes its output; timeout: seconds until it must answer; options, of
    VLLMServer: data_parallel_size, tensor_parallel_size: GPUs; gpus: which ones, None for those
    that are visible; max_num_seqs: responses at a time; max_model_len: longest prompt and response,
    None for what fits; memory: share of each GPU; host: address of this machine that it listens at;
    priority: whether requests say how urgent they are. Enter it in a thread that lives as long as
    the block (the server ends with the thread). Raises ValueError, with the last lines of the log,
    when it does not come up.
    """
    server = VLLMServer(model, log, **options)
    try:
        server.wait(timeout)
        yield server.url
    finally:
        server.stop()


def run_teacher_server(model, store, rank, log, timeout=1800.0, **options):
    """A teacher rank of torchrun: serve the model until the students are done. Returns nothing.

    store: the job's torch.distributed store. The key teacher/RANK becomes {"url": ...}, or
    {"error": ...} when the server does not start or ends early. It stops when somebody sets the key
    students/done, or when the store is gone with student rank 0. Raises ValueError.
    """
    publish = lambda **what: store.set(f"teacher/{rank}", json.dumps(what))
    server = None
    try:
        server = VLLMServer(model, log, **options)
        server.wait(timeout)
        publish(url=server.url)
        while not _students_done(store):
            server.check()
            time.sleep(1)
    except (ValueError, OSError) as e:
        publish(error=f"teacher rank {rank}: {e}")
        raise
    finally:
        if server:
            server.stop()


def _students_done(store):
    try:
        return store.check(["students/done"])
    except RuntimeError:  # torch.distributed's errors are: nobody is there any more
        return True


def last_words(log):
    """The line of a log that says why its process ended, without the prefixes of vLLM's logger."""
    text = Path(log).read_text(errors="replace") if Path(log).is_file() else ""
    prefix = r"^(\([\w .]+pid=\d+\) ?)?((ERROR|INFO|WARNING|CRITICAL) [\d-]+ [\d:]+ \[[^]]*\] ?)?"
    lines = [re.sub(prefix, "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    errors = [k for k, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception): ", line)]
    # not those of the processes that waited for the one that failed
    errors = [k for k in errors if not re.search("root cause|initialization failed", lines[k])]
    if not errors:
        return (lines or ["its log is empty"])[-1][:500]
    last = lines[errors[-1]]
    if "validation error" in last:  # pydantic's own come with the reason on the lines below
        last = " ".join(lines[errors[-1] : errors[-1] + 3]).split(" [type=")[0]
    return last[:500]


def free_port(host="127.0.0.1"):
    """A TCP port that nobody listens at now."""
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def own_host(towards):
    """This node's address as seen from the host `towards` (MASTER_ADDR), for other nodes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((towards, 9))  # sends nothing: only asks which way it would go
        return s.getsockname()[0]


def visible_gpus():
    """The names that CUDA_VISIBLE_DEVICES may give this process's GPUs, [] without any."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
