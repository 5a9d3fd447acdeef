"""One command for a GPU day: what only a GPU can show of the trainer, in under ten minutes.

    python -m bench gpu                      # one GPU, the four published shapes, runs/bench-gpu/
    python -m bench gpu --students 0.8b      # also on a CPU: the same parts on shapes of nothing

No weights to download and no vLLM: the shapes of assets/presets are filled with random numbers,
text only, with the tiny world's tokenizer. Flags that are not known here go to train.py
(--optim-dtype bfloat16, --no-checkpointing, ...). Writes gpu.md and gpu.json. The parts:

* kernels     what attention and linear attention are bound to; the first linear-attention layer of
              each shape against plain torch on the CPU: output and gradient (runtime/kernels.py)
* update      policy.update on responses of 2k and 8k tokens: seconds, tokens/s, MFU by the model's
              own FLOPs (meter.flops) over a plain matrix product's rate, here and now; the most
              memory that PyTorch had allocated, and the plan's figure for the same model
              (runtime/plan.py), CUDA's own and a sleeping vLLM apart. A shape that does not fit is
              cut to its first layers
* prompts     a group's prompt computed once, against once a response
* head        forward and backward of the chunked head by the size of its chunks
* FSDP        the update under FSDP of one rank, against the bare model under autocast
* checkpoint  written and read again: seconds, bytes beside the plan's, and whether it is the same

A part that fails, or for which no time is left, says so in its place. Exit status 1: one failed, a
kernel disagrees with plain torch, or a checkpoint is not what was saved.
"""

import argparse
import copy
import gc
import json
import platform
import tempfile
import time
import traceback
from pathlib import Path

import torch
import transformers

import model
from bench.contenders import Trainer, grouped, guarded, invented
from bench.meter import Meter, flops, matmul_rate
from bench.table import median
from bench.work import PADDING, meta_lm, random_lm, spread_rewards, text_config
from config import SIZES, flags
from distributed import World
from loss import chunked_logp, head_chunk
from optimizer import adamw
from policy import full_tensor, shard_policy
from records import Prompt
from runtime import checkpoint, kernels, plan
from runtime.shapes import shape_of

STUDENTS = ("0.8b", "2b", "4b", "9b")
GOAL = 0.45  # MFU of the 0.8b update on an H100 or H200
OUTSIDE = ("CUDA", "sleeping vLLM", "sampler")  # of the plan: not this process's PyTorch
N = 8  # responses a prompt (Table 8)
# tokens of: the prompt, the responses, the long prompt of `prompts`, the head's input; on a CPU
ON_GPU = {"prompt": 512, "responses": (2048, 8192), "long": 4096, "short": 512, "head": 8192}
ON_CPU = {"prompt": 16, "responses": (24, 48), "long": 64, "short": 8, "head": 256}


def parse(argv):
    """(our arguments, the config of train.py)."""
    p = argparse.ArgumentParser(prog="python -m bench gpu", allow_abbrev=False)
    p.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    p.add_argument("--repeat", type=int, default=2, help="updates, after one that warms up")
    p.add_argument("--minutes", type=float, default=9.0, help="no part begins after so many")
    p.add_argument("--out", default="runs/bench-gpu", help="folder for gpu.md and gpu.json")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args, rest = p.parse_known_args(argv)
    fixed = f"--student random --method grpo --data tiny --device {args.device} --n {N}".split()
    return args, flags([*fixed, "--iterations", "1", *rest])


class Bench:
    """What all parts know, and what they have found. students: {name: its config here}."""

    def __init__(self, args, cfg):
        self.args, self.cfg, self.begin = args, cfg, time.perf_counter()
        self.cuda = cfg.device.startswith("cuda")
        self.unit = "seconds" if self.cuda else "core-seconds"
        self.sizes = ON_GPU if self.cuda else ON_CPU
        self.memory = torch.cuda.get_device_properties(cfg.device).total_memory if self.cuda else 0
        self.rate = matmul_rate(cfg.device, getattr(torch, cfg.dtype))
        self.students = {name: self.config(name) for name in args.students}
        self.failed, self.parts = [], {}  # {title: (columns, rows, a line below)}

    def config(self, name, layers=0):
        """The transformers config of a shape: as published, or as small as a CPU needs it."""
        config = text_config(name, layers)
        return config if self.cuda else shrunk(config)

    def of(self, name):
        """train.py's flags for a student's size."""
        cfg = copy.copy(self.cfg)
        vars(cfg).update(SIZES.get(name, {}) if self.cuda else {"micro_tokens": 512})
        return cfg

    @property
    def first(self):
        """Name and config of the first student, on which what does not depend on size is shown."""
        return next(iter(self.students.items()))

    def run(self, title, columns, part):
        """Rows of a part, or why there are none. part(self) returns (rows, a line below)."""
        if time.perf_counter() - self.begin > 60 * self.args.minutes:
            rows, below = [], f"not measured: {self.args.minutes:g} minutes were over (--minutes)"
        else:
            try:
                found = guarded(lambda: part(self))
            except (RuntimeError, ValueError, OSError) as e:  # the other parts are worth as much
                traceback.print_exc()
                found = (str(e).splitlines() or [""])[0][:200]
                self.failed.append(f"{title}: {found}")
            rows, below = ([], f"not measured: {found}") if isinstance(found, str) else found
        self.parts[title] = columns, rows, below
        print("\n".join(section(title, columns, rows, below)), flush=True)


def shrunk(config):
    """A shape with all its proportions, a 256th of its width and four layers, for a CPU."""
    c = config.to_dict()
    layers = {"num_hidden_layers": 4, "layer_types": c["layer_types"][:4]}
    widths = {"hidden_size": c["hidden_size"] // 16, "vocab_size": 256}
    widths["intermediate_size"] = c["intermediate_size"] // 16
    heads = dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    return type(config)(**c | layers | widths | heads | rope)


# ---- the parts -----------------------------------------------------------------------------------


def kernel_check(bench):
    """The first linear-attention layer of each shape, on this device and in plain torch."""
    rows, used = [], ""
    for name in bench.students:
        cfg = bench.of(name)
        lm = made(bench.config(name, layers=4), cfg)
        layer = next(b.linear_attn for b in lm.blocks() if hasattr(b, "linear_attn"))
        error = kernels.disagreement(layer, lm.device, torch.device("cpu"), 192, lm.compute)
        right = error < kernels.TOLERANCE
        if not right:
            bench.failed.append(f"{name}: linear attention is off by {error:.0%}")
        rows.append([name, f"{error:.4f}", "right" if right else "WRONG"])
        used = kernels.used(model.attention(cfg.device), lm.net)
        del lm, layer
        give_back(bench)
    return rows, f"{used}. Relative, output and gradient; right below {kernels.TOLERANCE}."


def made(config, cfg):
    """A random model.LM with the attention that train.py would take."""
    lm = random_lm(config, cfg)
    lm.net.set_attn_implementation(model.attention(cfg.device))
    return lm


def give_back(bench):
    """Memory of a model that is gone."""
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()


def fitting(bench, name):
    """(config, layers cut or 0): the shape with as many layers as the plan finds room for."""
    cfg, config = bench.of(name), bench.students[name]
    full = config.num_hidden_layers
    for layers in range(full, 3, -4) if bench.cuda else (full,):
        config = config if layers == full else bench.config(name, layers)
        if not bench.cuda or sum(planned(config, cfg, bench).values()) < 0.85 * bench.memory:
            return config, (0 if layers == full else layers)
    return config, layers


def planned(config, cfg, bench):
    """{part: bytes} of the plan for an update of this bench: no vLLM, rows of our lengths."""
    cfg = copy.copy(cfg)
    cfg.max_context = bench.sizes["prompt"] + max(bench.sizes["responses"])
    parts = plan.training(shape_of(config), cfg, 1)
    return {part: size for part, size in parts.items() if part not in OUTSIDE}


class Update:
    """policy.update on invented responses to random prompts, all of them with a gradient: as many
    groups of N as fill a micro-batch. shares: the prompt of a group is computed once; else each row
    computes it, and FLOPs are those of whole rows.
    """

    def __init__(self, bench, config, cfg, prompt, response, bare=False, shares=False):
        self.config, self.prompt, self.response = config, prompt, response
        lm = made(config, cfg)
        row = prompt + response
        groups = -(-(cfg.micro_tokens // row) // N) or 1
        prompts = [Prompt(tuple(range(20, 70)) * (prompt // 50) + (20,) * (prompt % 50))] * groups
        prompts = [copy.copy(p) for p in prompts]  # each group has a prompt of its own
        self.rows = groups * N
        scores = spread_rewards(self.rows, N)
        self.groups, self.adv = grouped(invented(prompts, N, response), scores, N)
        self.trainer = Trainer(lm, cfg, max(1, cfg.micro_tokens // row), row, bare)
        assert lm.share_prompts or not shares, "this model's prompts can't be shared"
        lm.share_prompts = shares
        self.device, self.repeat = cfg.device, bench.args.repeat

    def measure(self):
        """(median seconds of an update, GB at most)."""
        meters = []
        for _ in range(1 + self.repeat):
            meters.append(Meter(self.device, memory=True))
            self.trainer.update(self.groups, self.adv, meters[-1])
        seconds = median(m.seconds["update"] for m in meters[1:])
        return seconds, max(m.peak["update"] for m in meters[1:])

    @property
    def flops(self):
        """Of the model, forward and backward."""
        lm = meta_lm(self.config)
        return self.rows * flops(lm, self.prompt, self.response, backward=True)


def updates(bench):
    """MFU and peak memory of each shape at each length."""
    rows, below = [], "Goal: 45 % MFU for 0.8b on an H100 or H200."
    for name in bench.students:
        config, cut = fitting(bench, name)
        for response in bench.sizes["responses"]:
            update = Update(bench, config, bench.of(name), bench.sizes["prompt"], response)
            found = guarded(update.measure)
            who = f"{name}, {cut} layers" if cut else name
            if isinstance(found, str):
                rows.append([who, f"{response:,}", found, *["-"] * 6])
                continue
            seconds, peak = found
            mfu = update.flops / seconds / bench.rate
            tokens = update.rows * (update.prompt + response)
            parts = planned(config, update.trainer.cfg, bench)
            need = sum(parts.values()) / 1e9
            figures = f"{seconds:.3f}", f"{tokens / seconds:,.0f}", f"{100 * mfu:.1f} %"
            rate = f"{update.flops / seconds / 1e12:.3g}"
            rows.append([who, f"{response:,}", *figures, rate, f"{peak:.2f}", f"{need:.2f}"])
            if name == "0.8b" and bench.cuda:
                below += f" {response:,}: {'reached' if mfu >= GOAL else 'missed'}."
            del update
            give_back(bench)
    if not bench.cuda:
        below += " Memory on a CPU is the whole process's; the plan's is of the model alone."
    return rows, below


def prompts(bench):
    """The same update with prompts shared and repeated, where a prompt is long."""
    (name, config), rows = bench.first, []
    lengths = bench.sizes["long"], bench.sizes["short"]
    for kind, shares in (("shared", True), ("repeated", False)):
        update = Update(bench, config, bench.of(name), *lengths, shares=shares)
        seconds, peak = update.measure()
        rows.append([kind, f"{seconds:.3f}", f"{peak:.2f}"])
        del update
        give_back(bench)
    ratio = float(rows[1][1]) / max(1e-9, float(rows[0][1]))
    text = f"{name}: prompts of {lengths[0]:,} tokens, {N} responses of {lengths[1]:,}"
    return rows, f"{text}; repeated / shared = {ratio:.2f}"


def heads(bench):
    """The chunked head by its chunk."""
    (name, config), tokens = bench.first, bench.sizes["head"]
    cfg, rows = bench.of(name), []
    compute, device = getattr(torch, cfg.dtype), cfg.device
    V, D = config.vocab_size, config.hidden_size
    weight = torch.randn(V, D, device=device, dtype=compute).mul_(0.02).requires_grad_()
    hidden = torch.randn(tokens, D, device=device, dtype=compute).requires_grad_()
    target = torch.randint(0, V // 2, (tokens,), device=device)
    banned = torch.arange(V, device=device)[-min(PADDING, V // 4) :]
    own = head_chunk(V)

    def measure(chunk):
        meters = []
        for _ in range(1 + bench.args.repeat):
            hidden.grad = weight.grad = None
            meters.append(Meter(device, memory=True))
            with meters[-1]("head"):
                chunked_logp(hidden, weight, target, banned, 1.0, chunk)[0].sum().backward()
        return median(m.seconds["head"] for m in meters[1:]), max(m.peak["head"] for m in meters)

    for chunk in sorted({tokens // 32, tokens // 8, tokens // 2, tokens, min(own, tokens)}):
        found = guarded(lambda: measure(chunk))
        cells = [found, "-"] if isinstance(found, str) else [f"{found[0]:.4f}", f"{found[1]:.2f}"]
        rows.append([f"{chunk:,}{' (default)' if chunk == own else ''}", *cells])
    return rows, f"{name}: {tokens:,} tokens, vocabulary {V:,}, forward and backward"


def fsdp(bench):
    """FSDP of one rank against the bare model."""
    (name, config), rows = bench.first, []
    lengths = bench.sizes["prompt"], bench.sizes["responses"][0]
    for kind, bare in (("FSDP of one rank", False), ("bare, under autocast", True)):
        update = Update(bench, config, bench.of(name), *lengths, bare=bare)
        seconds, peak = update.measure()
        rows.append([kind, f"{seconds:.3f}", f"{peak:.2f}"])
        del update
        give_back(bench)
    below = "" if bench.cuda else " (one rank on a CPU is not sharded: both are the bare model)"
    return rows, f"{name}, responses of {lengths[1]:,}{below}"


def checkpoints(bench):
    """A checkpoint written, and read into new objects."""
    (name, _), cfg = bench.first, bench.of(bench.first[0])
    config, cut = fitting(bench, name)
    update = Update(bench, config, cfg, bench.sizes["prompt"], bench.sizes["responses"][0])
    update.trainer.update(update.groups, update.adv, Meter(cfg.device))
    lm, optimizer, world = (
        update.trainer.policy.lm,
        update.trainer.optimizer,
        World(device=cfg.device),
    )
    before = fingerprints(lm, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = checkpoint.save(folder, 1, lm, optimizer, {}, 1, world)
        written = time.perf_counter() - start
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e9
        need = disk(config, cfg) / 1e9
        del update, lm, optimizer
        give_back(bench)
        start = time.perf_counter()
        lm = model.load(path / "model", cfg.dtype, cfg.device)
        shard_policy(lm, world)
        optimizer = adamw(lm.net, cfg)
        checkpoint.load(path, lm, optimizer, world)
        read = time.perf_counter() - start
    same = before == fingerprints(lm, optimizer)
    if not same:
        bench.failed.append("the checkpoint that was read is not the one that was saved")
    speeds = f"{written:.1f}", f"{size / written:.2f}", f"{read:.1f}"
    row = [f"{size:.3f}", f"{need:.3f}", *speeds, "bit for bit" if same else "DIFFERENT"]
    return [row], name + (f", {cut} layers" if cut else "")


def disk(config, cfg):
    """The plan's bytes of a checkpoint."""
    params = shape_of(config).params
    return (4 + plan.state_bytes(cfg) + (4 if cfg.dtype == "float32" else 2)) * params


def fingerprints(lm, optimizer):
    """{name: sum of its bits} of weights and moments, so that two models need not exist at once."""
    found = {}
    for name, p in lm.net.named_parameters():
        state = optimizer.state[p]
        for kind, t in (("", p.detach()), *((k, state[k]) for k in ("exp_avg", "exp_avg_sq"))):
            t = full_tensor(t)
            bits = t.view(torch.int16 if t.dtype == torch.bfloat16 else torch.int32)
            weights = torch.arange(1, bits.numel() + 1, device=t.device) % 8191
            found[name, kind] = int((bits.flatten().long() * weights).sum())
    return found


PARTS = {
    "kernels": (("shape", "error", "verdict"), kernel_check),
    "update": (
        ("shape", "response", "UNIT", "tokens/s", "MFU", "TFLOP/s", "peak GB", "planned GB"),
        updates,
    ),
    "prompts": (("prompts", "UNIT", "peak GB"), prompts),
    "head": (("chunk", "UNIT", "peak GB"), heads),
    "FSDP": (("kind", "UNIT", "peak GB"), fsdp),
    "checkpoint": (
        ("GB", "planned GB", "seconds", "GB/s", "read, seconds", "the same"),
        checkpoints,
    ),
}


# ---- the report ----------------------------------------------------------------------------------


def section(title, columns, rows, below):
    """Markdown lines of a part."""
    lines = ["", f"## {title}", ""]
    if rows:
        table = [columns, ["---"] * len(columns), *rows]
        lines += [f"| {' | '.join(map(str, row))} |" for row in table] + [""]
    return [*lines, below]


def facts(bench):
    """What it ran on."""
    where = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    if bench.cuda:
        name, gb = torch.cuda.get_device_name(bench.cfg.device), bench.memory / 1e9
        where = f"{name}, {gb:.1f} GB, CUDA {torch.version.cuda}"
    small = (
        "" if bench.cuda else "; shapes of a 256th of the width and four layers: times mean nothing"
    )
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    python = f"Python {platform.python_version()}"
    rate = f"{bench.rate / 1e12:.3g} TFLOP/s in {bench.cfg.dtype}"
    return f"{where}; {versions}, {python}; a plain matrix product: {rate}{small}"


def write(bench, seconds):
    """gpu.md and gpu.json."""
    folder = Path(bench.args.out)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# bench gpu", "", facts(bench)]
    for title, part in bench.parts.items():
        lines += section(title, *part)
    lines += ["", *bench.failed, f"{seconds:.0f} s in all"]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")
    parts = {
        title: {"rows": [dict(zip(columns, row)) for row in rows], "note": below}
        for title, (columns, rows, below) in bench.parts.items()
    }
    numbers = {"where": facts(bench), "matmul_flops": bench.rate, "seconds": seconds}
    numbers |= {"flags": vars(bench.cfg), "failed": bench.failed, "parts": parts}
    (folder / "gpu.json").write_text(json.dumps(numbers, indent=1) + "\n")


def main(argv=None):
    """All parts, printed and written. Returns the exit status."""
    bench = Bench(*parse(argv))
    print(f"# bench gpu\n\n{facts(bench)}", flush=True)
    for title, (columns, part) in PARTS.items():
        bench.run(title, [bench.unit if c == "UNIT" else c for c in columns], part)
    seconds = time.perf_counter() - bench.begin
    write(bench, seconds)
    print("", *bench.failed, f"{seconds:.0f} s; {bench.args.out}/gpu.md and gpu.json", sep="\n")
    return 1 if bench.failed else 0
