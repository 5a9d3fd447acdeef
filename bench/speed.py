"""Speed and memory of rollout, old_logp and update on random weights, beside plain `transformers`
code and TRL's GRPOTrainer.

    pip install -r requirements-bench.txt                # TRL, for that comparison only
    # the tiny preset, two CPU cores, two minutes
    python bench.py
    # one GPU; --response 2048 8192 is the default there
    python bench.py --student 0.8b
    python bench.py --student 0.8b --device cpu --layers 4 --response 32 --n 2 --prompt 32 --what
    old_logp update head

No download: a preset is a shape, assets/presets/NAME.json, filled with random weights. The model is
text-only in all three, so that TRL reads the same prompts. Flags that this file does not know go to
train.py (--dtype, --device, --n, --engine, ...).

What is compared: whole rollout steps of --prompts x --n responses of exactly --response tokens (the
end token is banned on all sides), each graded by reward.grade, then I gradient updates (mu = 1)
with AdamW, gradient clipping, PPO clipping and old log-probs from a pass of their own, in
micro-batches of the same size. A step is
* ours: engine.sample, grade, train.update; these are the production calls, and old_logp and update
  are timed by its own clock;
* transformers: the loop that one writes first: generate(), a forward with all logits, log_softmax,
  gather, backward;
* TRL: GRPOTrainer, its newest version, configured to the same work (bench_trl.py says how, and what
  differs).
In `ours` each group has both rewards, so every row has a gradient. In RL most groups are flat (82 %
of them in a ZPPO run of the tiny world, 93 % in one of GRPO); we skip their backward, the other two
train them with weight zero: the columns `ours, 50 % flat` and `ours, 80 % flat` are the same step
with so many flat groups.

Numbers: medians over --repeat steps after one that warms up, the contenders taking turns, because
the machine may be shared; a ratio is the median of the ratios inside a turn. On a CPU seconds are
core-seconds (process_time: all threads), on a GPU wall-clock with synchronization. tokens/s are
response tokens. MFU is model FLOPs (`flops` below; padding, recomputation and repeated work do not
count as useful) per second over the rate of large square matrix products measured here, in this
dtype. Memory: on a GPU the most that was allocated in a phase, weights and optimizer included; each
contender runs alone there. On a CPU the process's resident memory at its highest in the phase,
measured in the warm-up step.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import GenerationConfig, Qwen3_5ForCausalLM, Qwen3_5TextConfig

import model
import train
from config import flags
from distributed import World, named_weights, policy_of
from engines.base import open_engine
from loss import advantages, chunked_logp, mask_logits
from processor import CLOSER, encode
from records import Group, Prompt, Sample
from reward import grade
from tiny import world as tiny

PRESETS = Path(__file__).parent.parent / "assets/presets"
PARTS = ("rollout", "old_logp", "update", "head", "single", "transformers", "trl")
PADDING = 243  # ids of the real vocabulary that no token has, banned in sampler and trainer alike


# ---- the model and the work ----------------------------------------------------------------------


def text_config(name, layers=0):
    """The transformers config of a preset, with its first `layers` layers (0: all)."""
    shape = json.loads((PRESETS / f"{name}.json").read_text())
    del shape["about"]
    if name == "tiny":  # its tokenizer grows with the prompt templates
        shape["vocab_size"] = len(tiny.new_tokenizer())
    if layers:
        shape["num_hidden_layers"] = layers
        shape.pop("layer_types", None)
    return Qwen3_5TextConfig(**shape)


def random_lm(config, cfg):
    """A model.LM of random weights with the tiny world's tokenizer, whose end token can't be drawn:
    lengths are exact.
    """
    torch.manual_seed(0)
    tokenizer = tiny.new_tokenizer()
    with torch.device(cfg.device):
        net = Qwen3_5ForCausalLM(config)
    net.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    lm = model.from_parts(net, tokenizer, None, "random")
    padding = (
        range(config.vocab_size - PADDING, config.vocab_size)
        if config.vocab_size > len(tokenizer)
        else ()
    )
    lm.banned = torch.tensor([tokenizer.eos_token_id, *padding], device=cfg.device)
    lm.eos_ids, lm.compute = (-1,), getattr(torch, cfg.dtype)
    if cfg.checkpointing:
        net.gradient_checkpointing_enable()
    return lm


def make_work(lm, cfg, args, response):
    """The prompts as ids and as text, and the gold answers that the grader compares with."""
    count = args.prompts
    if args.student == "tiny":
        asked = tiny.questions("heldout_text")[:count]
        prompts, golds = [encode(lm, q.question + CLOSER) for q in asked], [q.golds for q in asked]
    else:
        rng = random.Random(0)
        letters = [
            "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=args.prompt)) for _ in range(count)
        ]
        prompts, golds = (
            [Prompt(tuple(lm.tokenizer(x)["input_ids"])) for x in letters],
            [("1",)] * count,
        )
    texts = [lm.tokenizer.decode(p.ids) for p in prompts]
    assert [tuple(x) for x in lm.tokenizer(texts)["input_ids"]] == [p.ids for p in prompts], (
        "TRL would read other prompts"
    )
    return SimpleNamespace(
        prompts=prompts,
        texts=texts,
        golds=golds,
        n=cfg.n,
        response=response,
        iterations=cfg.iterations,
        micro_batch=args.micro_batch,
        tokens=count * cfg.n * response,
    )


def rewards(texts, golds, n, flat=0):
    """Grades each text, then returns rewards with spread in every group, or in only every flat-th
    one.

    Random weights solve nothing: the grader is called for its cost, its verdict replaced.
    """
    for i, text in enumerate(texts):
        grade(text, golds[i // n])
    return [
        1.0 if flat and (i // n) % flat != flat - 1 else float(i % 2) for i in range(len(texts))
    ]


# ---- FLOPs, matrix-product rate, seconds and memory ----------------------------------------------


def flops(lm, prompt, response, backward=False):
    """Model FLOPs of one row of prompt + response tokens; the head works on the response tokens
    only.

    A multiplication with addition is two. Per token 2 N, N the weights of the layers (no embedding
    table, no norms); attention reads i keys at position i, which is 4 H d i for H heads of width d;
    a gated-DeltaNet head of k x v reads its state, corrects it and answers from it: 6 k v a token;
    the head 2 D V a response token. The backward pass is twice the forward. Recomputation (gradient
    checkpointing, the chunked head) is hardware's work, not the model's, and is not counted.
    """
    c, T = lm.net.config.get_text_config(), prompt + response
    weights = sum(
        p.numel()
        for name, p in lm.base.named_parameters()
        if p.dim() > 1 and "embed_tokens" not in name
    )
    full = c.layer_types.count("full_attention")
    linear = len(c.layer_types) - full
    quadratic = full * 4 * c.num_attention_heads * c.head_dim * T * (T + 1) // 2
    state = (
        linear * 6 * c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim * T
    )
    forward = 2 * weights * T + quadratic + state + 2 * c.hidden_size * c.vocab_size * response
    return forward * (3 if backward else 1)


def work_flops(lm, work):
    """{phase: model FLOPs} of one step with all rows live. Rollouts prefill a prompt once, old_logp
    and update once a row.
    """
    total = dict.fromkeys(("rollout", "old_logp", "update"), 0)
    for p in work.prompts:
        row, prefill = flops(lm, len(p.ids), work.response), flops(lm, len(p.ids), 0)
        total["rollout"] += work.n * row - (work.n - 1) * prefill
        total["old_logp"] += work.n * row
        total["update"] += work.n * flops(lm, len(p.ids), work.response, backward=True)
    return total


def matmul_rate(device, dtype):
    """FLOP/s of the fastest of some large square matrix products, per core-second on a CPU."""
    best = 0.0
    for size in (4096, 8192, 16384) if device.startswith("cuda") else (1024, 1536):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        a @ b
        for _ in range(5):
            meter = Meter(device)
            with meter("matmul"):
                a @ b
                a @ b
            best = max(best, 2 * 2 * size**3 / meter.seconds["matmul"])
    return best


class Meter:
    """Seconds and peak memory by phase; train.update takes it for its clock. memory: also measure
    it (CPU: slows the phase).
    """

    def __init__(self, device, memory=False):
        self.cuda, self.memory = device.startswith("cuda"), memory
        self.seconds, self.wall, self.peak = {}, {}, {}

    def now(self):
        """(seconds that count, wall-clock seconds)."""
        if self.cuda:
            torch.cuda.synchronize()
        wall = time.perf_counter()
        return (wall if self.cuda else time.process_time()), wall

    def add(self, phase, start, end):
        """Seconds between two now() to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + end[0] - start[0]
        self.wall[phase] = self.wall.get(phase, 0.0) + end[1] - start[1]

    @contextmanager
    def __call__(self, phase):
        if self.memory:
            reset_peak(self.cuda)
        start = self.now()
        yield
        self.add(phase, start, self.now())
        if self.memory:
            self.peak[phase] = max(self.peak.get(phase, 0.0), read_peak(self.cuda))


def reset_peak(cuda):
    """Start a new high-water mark of memory (on a CPU: Linux only)."""
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory of the phase before still counts
        Path("/proc/self/clear_refs").write_text("5")


def read_peak(cuda):
    """GB at most since reset_peak."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform != "linux":
        return float("nan")
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e9


# ---- ours ----------------------------------------------------------------------------------------


def new_optimizer(net, cfg):
    """The optimizer of run.py."""
    return torch.optim.AdamW(
        net.parameters(),
        lr=cfg.lr,
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.adam_eps,
        weight_decay=cfg.weight_decay,
    )


def our_run(lm, cfg, longest):
    """What train.update and run.sync use of a run.Run, on one rank. longest: tokens of the longest
    row, for the micro-batches.
    """
    world = World(device=cfg.device)
    policy = policy_of(lm, world)  # first: it replaces the parameters where it shards
    return SimpleNamespace(
        cfg=argparse.Namespace(**{**vars(cfg), "micro_tokens": cfg.micro_batch * longest}),
        world=world,
        student=lm,
        policy=policy,
        optimizer=new_optimizer(lm.net, cfg),
        rng=random.Random(0),
        with_pictures=lambda samples: samples,
    )


def our_update(run, groups, adv, clock):
    """train.update, the one place that knows its signature."""
    return train.update(run, groups, adv, clock)


def our_engine(lm, config, cfg, longest):
    """The engine that train.py would sample with, and whether it reads the trainer's own weights."""
    if (
        cfg.engine == "vllm"
        or not cfg.engine
        and cfg.device.startswith("cuda")
        and importlib.util.find_spec("vllm")
    ):
        folder = tempfile.mkdtemp(prefix="zppo-bench-")
        model.save(lm, folder)
        return open_engine(
            "vllm", lm, path=folder, memory=cfg.vllm_memory, max_len=longest, dtype=cfg.dtype
        ), False
    if not cfg.device.startswith("cuda"):
        return open_engine("hf", lm), True
    copy = random_lm(config, cfg)  # the trainer's own net is sharded there
    copy.net.to(getattr(torch, cfg.dtype))
    return open_engine("hf", copy), False


def in_groups(drawn, scores, n):
    """Groups and advantages of drawn samples, as train.train makes them."""
    groups = [
        Group(
            i,
            "plain",
            "new",
            None,
            tuple(replace(s, group_id=i, reward=scores[i * n + j]) for j, s in enumerate(some)),
        )
        for i, some in enumerate(drawn)
    ]
    return groups, advantages(scores, [g.id for g in groups for _ in g.samples]).tolist()


def invented(prompts, n, response):
    """n Samples of random ids to each prompt, for the update alone: long responses take long to
    draw.
    """
    rng = random.Random(1)
    return [
        [
            Sample(p, tuple(rng.choices(range(90), k=response)), (0.0,) * response, "", True)
            for _ in range(n)
        ]
        for p in prompts
    ]


class Ours:
    """The production calls. flat: only every flat-th group has unequal rewards; draw: sample the
    responses, or invent them once.
    """

    def __init__(self, config, cfg, work, flat=0, draw=True):
        self.cfg, self.work, self.flat, self.turn = cfg, work, flat, 0
        lm = random_lm(config, cfg)
        longest = max(len(p.ids) for p in work.prompts) + work.response
        self.engine, self.own = our_engine(lm, config, cfg, longest) if draw else (None, True)
        self.drawn = None if draw else invented(work.prompts, work.n, work.response)
        self.run = our_run(lm, cfg, longest)

    def step(self, meter):
        """One rollout step."""
        work, drawn = self.work, self.drawn
        self.turn += 1
        if self.engine:
            with meter("rollout"):
                self.engine.wake()
                drawn = self.engine.sample(
                    work.prompts, work.n, work.response, self.turn, self.cfg.temperature
                )
                scores = rewards(
                    [s.text for some in drawn for s in some], work.golds, work.n, self.flat
                )
                groups, adv = in_groups(drawn, scores, work.n)
                self.engine.sleep()
        else:
            groups, adv = in_groups(
                drawn, [float(i % 2) for i in range(len(work.prompts) * work.n)], work.n
            )
        assert all(len(s.response_ids) == work.response for g in groups for s in g.samples)
        our_update(self.run, groups, adv, meter)
        if not self.own:
            with meter("sync"):
                self.engine.wake()
                self.engine.sync_weights(named_weights(self.run.student, self.run.student.compute))


# ---- plain transformers --------------------------------------------------------------------------


class Plain:
    """What one would write with `transformers` alone: generate(), all logits, log_softmax, gather."""

    def __init__(self, config, cfg, work):
        self.lm, self.cfg, self.work = random_lm(config, cfg), cfg, work
        self.net, self.optimizer = self.lm.net, new_optimizer(self.lm.net, cfg)

    def logp(self, ids, mask):
        """(rows, response) log-probs and entropies of the last `response` tokens."""
        with self.lm.autocast():
            logits = self.net(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, -self.work.response - 1 : -1].float() / self.cfg.temperature
        logp = torch.log_softmax(logits, -1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(-1, ids[:, -self.work.response :, None])[..., 0], entropy

    def step(self, meter):
        """One rollout step."""
        work, cfg, lm = self.work, self.cfg, self.lm
        rows = len(work.prompts) * work.n
        with meter("rollout"), torch.no_grad(), lm.autocast():
            x = lm.tokenizer(work.texts, return_tensors="pt", padding=True, padding_side="left").to(
                cfg.device
            )
            ids = self.net.generate(
                input_ids=x["input_ids"],
                attention_mask=x["attention_mask"],
                do_sample=True,
                top_k=0,
                temperature=cfg.temperature,
                num_return_sequences=work.n,
                max_new_tokens=work.response,
                min_new_tokens=work.response,
            )
            texts = lm.tokenizer.batch_decode(ids[:, -work.response :], skip_special_tokens=True)
            scores = rewards(texts, work.golds, work.n)
            adv = advantages(scores, [i // work.n for i in range(rows)]).to(
                cfg.device, torch.float32
            )
            mask = torch.cat(
                [
                    x["attention_mask"].repeat_interleave(work.n, 0),
                    torch.ones(rows, work.response, dtype=torch.long, device=cfg.device),
                ],
                dim=1,
            )
        assert ids.shape[1] == mask.shape[1], "generate() stopped early"
        minibatches = [
            part.split(work.micro_batch)
            for part in torch.randperm(rows, device=cfg.device).chunk(work.iterations)
        ]
        with meter("old_logp"), torch.no_grad():
            old = [[self.logp(ids[i], mask[i])[0] for i in mini] for mini in minibatches]
        with meter("update"):
            for mini, olds in zip(minibatches, old):
                tokens = sum(len(i) for i in mini) * work.response
                self.optimizer.zero_grad()
                for i, before in zip(mini, olds):
                    ratio = torch.exp(self.logp(ids[i], mask[i])[0] - before)
                    a = adv[i, None]
                    loss = (
                        -torch.min(
                            ratio * a, ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * a
                        ).sum()
                        / tokens
                    )
                    loss.backward()
                clip_grad_norm_(self.net.parameters(), cfg.grad_clip)
                self.optimizer.step()


# ---- taking turns --------------------------------------------------------------------------------


def compare(config, cfg, args, work):
    """{name: list of Meters, the first from the warm-up step}, or {name: why it was not measured}."""
    makers = {"ours": lambda: Ours(config, cfg, work, draw="rollout" in args.what)}
    if "rollout" in args.what:
        if args.student == "tiny":
            makers["ours, 50 % flat"] = lambda: Ours(config, cfg, work, flat=2)
            makers["ours, 80 % flat"] = lambda: Ours(config, cfg, work, flat=5)
        if "transformers" in args.what:
            makers["transformers"] = lambda: Plain(config, cfg, work)
    trl = "trl" in args.what and "rollout" in args.what
    installed = importlib.util.find_spec("trl") is not None
    found = {name: [] for name in makers}
    if trl:
        found["trl"] = (
            [] if installed else "trl is not installed: pip install -r requirements-bench.txt"
        )
    if cfg.device.startswith("cuda"):  # one at a time: each has the GPU's memory to itself
        for name, make in makers.items():
            found[name] = guarded(lambda: alone(make, cfg, args.repeat))
        if trl and installed:
            from bench.speed import trl_side as bench_trl

            found["trl"] = guarded(
                lambda: bench_trl.steps(
                    random_lm(config, cfg), cfg, work, args.repeat, lambda turn: None
                )
            )
        return found
    contenders = {name: make() for name, make in makers.items()}

    def turn(k):
        for name, x in contenders.items():
            meter = Meter(cfg.device, memory=k == 0)
            x.step(meter)
            found[name].append(meter)

    if trl and installed:
        from bench.speed import trl_side as bench_trl

        found["trl"] = bench_trl.steps(random_lm(config, cfg), cfg, work, args.repeat, turn)
    else:
        for k in range(args.repeat + 1):
            turn(k)
    return found


def alone(make, cfg, repeat):
    """The Meters of a warm-up step and `repeat` more of one contender."""
    x, meters = make(), []
    for k in range(repeat + 1):
        meters.append(Meter(cfg.device, memory=True))
        x.step(meters[-1])
    return meters


def guarded(measure):
    """measure(), or the words "out of memory"; what it held is given back."""
    try:
        return measure()
    except torch.cuda.OutOfMemoryError:
        return "out of memory"
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def single(config, cfg, tokens, prompt):
    """The Meter of the second update of one response of that many tokens: its peak memory is the
    question.
    """
    cfg = argparse.Namespace(**{**vars(cfg), "n": 1, "iterations": 1, "micro_batch": 1})
    run = our_run(random_lm(config, cfg), cfg, prompt + tokens)
    groups = [
        Group(0, "plain", "new", None, tuple(invented([Prompt((20,) * prompt)], 1, tokens)[0]))
    ]
    for _ in range(2):  # the first makes the optimizer's states
        meter = Meter(cfg.device, memory=True)
        our_update(run, groups, [1.0], meter)
    return meter


def head(config, cfg, tokens, repeat):
    """[Meters]: forward and backward of the head over `tokens` tokens, "chunked" as in the update
    and "full" in one piece.
    """
    torch.manual_seed(0)
    compute = getattr(torch, cfg.dtype)
    weight = (
        torch.randn(config.vocab_size, config.hidden_size, device=cfg.device)
        .mul_(0.02)
        .requires_grad_()
    )
    hidden = torch.randn(
        tokens, config.hidden_size, device=cfg.device, dtype=compute
    ).requires_grad_()
    target = torch.randint(0, config.vocab_size // 2, (tokens,), device=cfg.device)
    banned = torch.arange(config.vocab_size, device=cfg.device)[
        -min(PADDING, config.vocab_size // 4) :
    ]

    def full():
        logp = torch.log_softmax(mask_logits(hidden @ weight.T, banned) / cfg.temperature, -1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp.clamp(min=torch.finfo(torch.float32).min / 2)).sum(-1)
        return logp.gather(-1, target[:, None])[:, 0], entropy

    def autocast():
        return torch.autocast(
            torch.device(cfg.device).type, compute, enabled=compute != torch.float32
        )

    kinds = {
        "chunked": lambda: chunked_logp(hidden, weight, target, banned, cfg.temperature),
        "full": full,
    }
    meters = []
    for k in range(repeat + 1):
        meters.append(Meter(cfg.device, memory=k == 0))
        for kind, logp in kinds.items():
            hidden.grad = weight.grad = None
            with meters[-1](kind), autocast():
                logp()[0].sum().backward()
    return meters


# ---- the table -----------------------------------------------------------------------------------


def median(numbers):
    numbers = list(numbers)
    return statistics.median(numbers) if numbers else float("nan")


def table(found, work, lm_flops, rate):
    """Rows (dicts) of one shape: a contender's phase, its speed, and how many times our seconds it
    takes.
    """
    rows = []
    phases = [p for p in ("rollout", "old_logp", "update") if p in found["ours"][1].seconds]
    for phase in [*phases, "step"]:
        names = phases if phase == "step" else [phase]
        useful = sum(lm_flops[p] for p in names)
        names = (
            [*names, "sync"] if phase == "step" and "sync" in found["ours"][1].seconds else names
        )
        spent = {
            who: [sum(m.seconds.get(p, 0.0) for p in names) for m in meters[1:]]
            for who, meters in found.items()
            if not isinstance(meters, str)
        }
        for who, seconds in spent.items():
            meters, s = found[who], median(seconds)
            rows.append(
                {
                    "phase": phase,
                    "who": who,
                    "seconds": s,
                    "tokens_per_s": work.tokens / s,
                    "wall": median(sum(m.wall.get(p, 0.0) for p in names) for m in meters[1:]),
                    # a flat group is not trained, so its FLOPs were not spent
                    "mfu": None if "flat" in who else useful / s / rate,
                    "peak_gb": max(
                        (m.peak.get(p, float("nan")) for m in meters for p in names),
                        default=float("nan"),
                    ),
                    "of_ours": median(a / b for a, b in zip(seconds, spent["ours"])),
                }
            )
    return rows


def lines(rows, unit, markdown=False):
    """The rows as text, or as a Markdown table."""
    head_cells = ["phase", "who", "tokens/s", unit, "wall-s", "MFU", "peak GB", "x ours"]
    body = [
        [
            r["phase"],
            r["who"],
            f"{r['tokens_per_s']:,.0f}",
            f"{r['seconds']:.3f}",
            f"{r['wall']:.3f}",
            "-" if r["mfu"] is None else f"{100 * r['mfu']:.0f} %",
            "-" if r["peak_gb"] != r["peak_gb"] else f"{r['peak_gb']:.2f}",
            f"{r['of_ours']:.2f}",
        ]
        for r in rows
    ]
    if markdown:
        return ["| " + " | ".join(r) + " |" for r in [head_cells, ["---"] * len(head_cells), *body]]
    widths = [max(len(r[i]) for r in [head_cells, *body]) for i in range(len(head_cells))]
    return [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths)))
        for r in [head_cells, *body]
    ]


def parse(argv):
    """(our arguments, the flags of train.py)."""
    p = argparse.ArgumentParser(
        prog="bench.py",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        epilog="Other flags go to train.py: --n, --iterations, --dtype, --device, --engine, ...",
    )
    p.add_argument(
        "--student",
        default="tiny",
        choices=sorted(x.stem for x in PRESETS.glob("*.json")),
        help="preset",
    )
    p.add_argument("--layers", type=int, default=0, help="only its first layers; 0: all")
    p.add_argument("--prompts", type=int, default=0, help="a step; default: 32, large presets 4")
    p.add_argument(
        "--prompt",
        type=int,
        default=512,
        help="tokens of a prompt; the tiny preset has its own questions",
    )
    p.add_argument(
        "--response",
        type=int,
        nargs="+",
        default=None,
        help="tokens; default: 28, large presets 2048 8192",
    )
    p.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        help="rows per forward and backward; default: 64, large presets 4",
    )
    p.add_argument(
        "--single",
        type=int,
        default=12288,
        help="tokens of the single response whose update's memory is measured",
    )
    p.add_argument(
        "--what", nargs="+", choices=PARTS, default=None, help="default: all (tiny: all but single)"
    )
    p.add_argument(
        "--repeat", type=int, default=5, help="steps of each contender, after one that warms up"
    )
    p.add_argument("--out", default="", help="folder for bench.json and bench.md")
    args, rest = p.parse_known_args(argv)
    small = args.student == "tiny"
    args.prompts = args.prompts or (32 if small else 4)
    args.response = args.response or ([28] if small else [2048, 8192])
    args.what = args.what or [x for x in PARTS if not small or x != "single"]
    if small and args.prompts > 150:
        raise ValueError("the tiny preset has 150 text questions; --prompts 150 is the most")
    args.micro_batch = args.micro_batch or (64 if small else 4)
    # a folder that need not exist stands for a large student: the paper's numbers, and no question
    # about its data
    cfg = flags(
        ["--student", "tiny" if small else "random", "--method", "grpo", "--data", "tiny", *rest]
    )
    rows = args.prompts * cfg.n // cfg.iterations
    cfg.micro_batch = args.micro_batch = min(args.micro_batch, rows)
    if args.prompts % cfg.iterations or rows % args.micro_batch:
        raise ValueError(
            f"--prompts {args.prompts} must be a multiple of --iterations {cfg.iterations}, and the {rows} rows of "
            f"an update one of --micro-batch {args.micro_batch}: TRL takes whole micro-batches only"
        )
    return args, cfg


def main(argv=None):
    """Measure what was asked for and print it. Returns the exit status."""
    begin = time.perf_counter()
    args, cfg = parse(argv)
    config, cuda = text_config(args.student, args.layers), cfg.device.startswith("cuda")
    unit, report, missing = "seconds" if cuda else "core-s", {"args": vars(args), "shapes": []}, []
    with torch.device("meta"):
        shape = Qwen3_5ForCausalLM(config)
    lm = SimpleNamespace(net=shape, base=shape.base_model)
    rate = matmul_rate(cfg.device, getattr(torch, cfg.dtype))
    where = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} thread(s)"
    text = [
        f"{args.student}: {sum(p.numel() for p in shape.parameters()) / 1e6:,.2f} M parameters, random, text only, "
        f"{cfg.dtype} on {where}; matrix products {rate / 1e12:.3g} TFLOP/s"
        + ("" if cuda else " a core")
    ]
    report |= {"where": where, "dtype": cfg.dtype, "matmul_flops": rate, "torch": torch.__version__}
    print(text[0], flush=True)

    def say(more):
        text.extend(more)
        print("\n".join(more), flush=True)

    if {"rollout", "old_logp", "update"} & {*args.what}:
        for response in args.response:
            work = make_work(
                SimpleNamespace(tokenizer=tiny.new_tokenizer(), path="", image_processor=None),
                cfg,
                args,
                response,
            )
            found = compare(config, cfg, args, work)
            missing += [
                f"not measured: {who}: {why}" for who, why in found.items() if isinstance(why, str)
            ]
            say(
                [
                    "",
                    f"{len(work.prompts)} prompts of {min(len(p.ids) for p in work.prompts)} to "
                    f"{max(len(p.ids) for p in work.prompts)} tokens x {work.n} responses of {response}, {work.iterations} updates, "
                    f"micro-batches of {work.micro_batch}; medians of {args.repeat}",
                ]
            )
            if isinstance(found["ours"], str):
                continue
            rows = table(found, work, work_flops(lm, work), rate)
            report["shapes"].append(
                {"response": response, "prompts": len(work.prompts), "n": work.n, "rows": rows}
            )
            say(lines(rows, unit))
    if "head" in args.what:
        for tokens in (
            args.response if args.student != "tiny" else [cfg.micro_batch * args.response[0]]
        ):
            meters = (
                guarded(lambda: head(config, cfg, tokens, args.repeat))
                if cuda
                else head(config, cfg, tokens, args.repeat)
            )
            if isinstance(meters, str):
                missing.append(f"not measured: head over {tokens} tokens: {meters}")
                continue
            pair = {
                k: (median(m.seconds[k] for m in meters[1:]), meters[0].peak[k])
                for k in ("chunked", "full")
            }
            ratio = median(m.seconds["chunked"] / m.seconds["full"] for m in meters[1:])
            report.setdefault("head", []).append({"tokens": tokens, **pair, "ratio": ratio})
            say(
                [
                    "",
                    f"head over {tokens:,} tokens, forward and backward: chunked {pair['chunked'][0]:.4f} {unit}, "
                    f"{pair['chunked'][1]:.2f} GB; in one piece {pair['full'][0]:.4f} {unit}, {pair['full'][1]:.2f} GB; "
                    f"chunked / full = {ratio:.2f}",
                ]
            )
    if "single" in args.what:
        meter = (
            guarded(lambda: single(config, cfg, args.single, args.prompt))
            if cuda
            else single(config, cfg, args.single, args.prompt)
        )
        if isinstance(meter, str):
            missing.append(f"not measured: update of one response of {args.single} tokens: {meter}")
        else:
            mfu = (
                flops(lm, args.prompt, args.single, backward=True) / meter.seconds["update"] / rate
            )
            report["single"] = {
                "tokens": args.single,
                "seconds": meter.seconds["update"],
                "peak_gb": meter.peak["update"],
                "mfu": mfu,
            }
            say(
                [
                    "",
                    f"update of one response of {args.single:,} tokens after a prompt of {args.prompt}: "
                    f"{meter.seconds['update']:.3f} {unit}, {100 * mfu:.0f} % MFU, {meter.peak['update']:.1f} GB at most",
                ]
            )
    missing += [f"not asked for: {x} (--what)" for x in PARTS if x not in args.what]
    say([*missing, f"{time.perf_counter() - begin:.0f} s in all"])
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.json").write_text(json.dumps({**report, "missing": missing}, indent=1) + "\n")
        tables = [
            [f"responses of {s['response']} tokens", "", *lines(s["rows"], unit, markdown=True), ""]
            for s in report["shapes"]
        ]
        (out / "bench.md").write_text(
            "\n".join([text[0], "", *[x for t in tables for x in t], *missing]) + "\n"
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
