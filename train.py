"""ZPPO (arXiv 2606.18216), Algorithm 1, read top to bottom: `train` is the algorithm box, what it calls stands below it.

    python train.py                              # the tiny world: a 0.8 M-parameter Qwen3.5 student, two CPU cores, minutes
    python train.py --no-bcq --no-ncq            # GRPO with the replay buffer, for comparison
    python train.py --data my.jsonl --student some/folder --teacher other/folder

The student learns by PPO from its own tokens only. The frozen teacher is read in prompts: on a hard question, BCQ shows one
correct teacher answer beside one wrong answer of the student, NCQ shows all the wrong ones, and a replay buffer brings the
question back until the student solves it alone.

Left out on purpose: KL term and reference model, online filtering, learning-rate schedule (the paper has none of them), and
a trainer class. Where the paper leaves a choice, the flag's help says what it does; README.md lists them all.
"""
import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

import torch
from tqdm import tqdm

import checkpoint
import model
import reformulate
from buffer import Buffer
from chat import CLOSER, control_strings, encode
from data import decode, read, take
from eval import SPLITS, by_family, evaluate
from loss import NORMS, advantages, chunked_logp, policy_loss_sum
from metrics import Clock, Log, audit, by_kind, peak_gb
from model import collate, response_hidden
from reward import grade, last_boxed
from rollout import HFEngine, seed_of
from sample import Group
from dataclasses import replace
from teacher import Cache, Teacher, fingerprint

HERE = Path(__file__).parent
MODELS = {("student", "tiny"): HERE / "assets/student", ("teacher", "tiny"): HERE / "assets/teacher"}

# name: (paper's Table 8, tiny world, what it is). The tiny column is the default of --student tiny, the paper's of any other.
KNOBS = {
    "steps":         (200, 45, "rollout steps"),
    "batch":         (96, 8, "new prompts per gradient update"),
    "iterations":    (4, 4, "I, gradient updates per rollout step; each sampled token is used in one of them"),
    "n":             (8, 8, "G_S, student samples per prompt"),
    "teacher_n":     (4, 4, "G_T, teacher samples per hard question"),
    "temperature":   (1.0, 1.0, "of student and teacher while training; no top-k, no penalties"),
    "top_p":         (1.0, 1.0, "of the teacher's samples; the student's is 1, or the sampled policy is not the trained one"),
    "max_prompt":    (4096, 256, "tokens of a plain prompt, image tokens included; BCQ and NCQ only by the context window"),
    "max_response":  (12288, 40, "tokens of a response, student and teacher"),
    "max_summary":   (512, 40, "tokens of a compressed candidate"),
    "replay":        (0.25, 0.25, "rho_replay: replayed prompts per new prompt, in addition to them"),
    "aug":           (0.25, 0.25, "rho_aug: cap of BCQ + NCQ prompts per new prompt"),
    "tau":           (0.5, 0.5, "a question is hard below this mean reward, and graduates at or above it"),
    "capacity":      (10_000, 10_000, "questions in the replay buffer, first in first out"),
    "lr":            (1e-6, 2e-4, "AdamW, constant, no warm-up"),
    "beta1":         (0.9, 0.9, "AdamW"),
    "beta2":         (0.999, 0.95, "AdamW; tiny: 180 updates are too few for 0.999"),
    "adam_eps":      (1e-8, 1e-8, "AdamW"),
    "weight_decay":  (0.1, 0.0, "AdamW"),
    "grad_clip":     (1.0, 1.0, "largest global gradient norm"),
    "clip_low":      (0.20, 0.20, "PPO clip below 1"),
    "clip_high":     (0.28, 0.28, "PPO clip above 1"),
    "dual_clip":     (10.0, 10.0, "ceiling of a negative-advantage token's loss, in units of |advantage|"),
    "micro_batch":   (4, 64, "sequences per forward and backward; changes speed and memory, not the gradient"),
}


def train(cfg, student, teacher, questions, heldout, out):
    """Algorithm 1. Returns the exit status: 0, or 130 / 143 after a saved interruption."""
    by_id = {q.id: q for q in questions}
    engine = HFEngine(student)                                     # samples from the very weights that are trained
    optimizer = torch.optim.AdamW(student.net.parameters(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.adam_eps,
                                  weight_decay=cfg.weight_decay)
    buffer = Buffer(cfg.capacity, cfg.tau)
    rng = random.Random(cfg.seed)                                  # replay draws, candidates and their order, minibatches
    control = control_strings(student.tokenizer)
    n_new = cfg.batch * cfg.iterations
    n_replay, n_aug = round(cfg.replay * n_new), round(cfg.aug * n_new)
    done, position = 0, 0                                          # steps finished; questions taken from the data order
    state = None
    if cfg.resume_from:
        state = checkpoint.load(cfg.resume_from, student, optimizer)
        done, position, rng = state["step"], state["position"], checkpoint.set_rng_state(state["rng"])
        buffer.load(state["buffer"])
    teacher = Teacher(HFEngine(teacher), Cache(cfg.teacher_cache or out / "teacher.jsonl", fingerprint(cfg.teacher_path),
                                               state and state["teacher_cache"]),
                      cfg.teacher_n, cfg.max_response, cfg.seed, cfg.max_summary, cfg.temperature, cfg.top_p,
                      fresh=cfg.fresh_teacher, thinking=cfg.thinking)
    log = Log(out, done, cfg.tensorboard, cfg.wandb, vars(cfg))
    stop = StopSignal()

    def ask(groups_of, texts, kind, first_id, step):
        """Student rollouts: cfg.n graded samples to each text, as Groups. groups_of: (origin, question) of each text."""
        prompts = [prompt_of(student, q, text, cfg) for (_, q), text in zip(groups_of, texts)]
        drawn = engine.sample(prompts, cfg.n, cfg.max_response, seed_of(cfg.seed, 0, step, kind), cfg.temperature)
        return [Group(i, kind, origin, q, tuple(
                    replace(s, group_id=i, kind=kind, question_id=q.id, policy_step=step, reward=grade(s.text, q.answer))
                    for s in samples))
                for i, (origin, q), samples in zip(count(first_id), groups_of, drawn)]

    before = state["heldout"] if state else held_out(engine, heldout, cfg)
    if not state:
        log.metrics({"step": 0, "heldout": families(before)})
    bar = tqdm(total=cfg.steps, initial=done, desc="ZPPO", unit="step", dynamic_ncols=True)
    for step in range(done + 1, cfg.steps + 1):
        clock = Clock()
        engine.tokens = teacher.engine.tokens = 0

        # 1. Plain rollouts: X = X_new + X_replay. Replayed prompts come in addition to the new ones.
        with clock("rollout"):
            new = [questions[i] for i in take(len(questions), cfg.seed, position, n_new)]
            position += n_new
            replayed = [by_id[i] for i in buffer.draw(n_replay, rng)] if cfg.buffer else []
            batch = [("new", q) for q in new] + [("replay", q) for q in replayed]
            plain = ask(batch, [q.question for _, q in batch], "plain", 0, step)

        # 2. Teacher rollouts, on the hard questions only; the correct ones are the BCQ pool.
        hard = [g for g in plain if g.mean < cfg.tau]
        with clock("teacher"):
            pool = {g.id: [] for g in hard}
            if cfg.bcq and hard:
                prompts = [prompt_of(teacher.engine.lm, g.question, g.question.question, cfg) for g in hard]
                answers = teacher.answers([g.question.answer for g in hard], prompts, step)
                pool = {g.id: [a for a in known if a.reward] for g, known in zip(hard, answers)}

        # 3. Pre-cap: the rho_aug * |X_new| hardest. 4. Build their BCQ and NCQ prompts from compressed candidates.
        kept = [plain[i] for i in reformulate.hardest([g.mean for g in plain], cfg.tau, n_aug)]
        with clock("reformulate"):
            built = build(kept, pool, teacher, rng, control, cfg, step)
            too_long = drop_too_long(built, student, cfg)

        # 5. Post-cap: one pool of at most rho_aug * |X_new| prompts, hardest question first, BCQ before NCQ. Sample them.
        chosen = [built[i, kind] for i, kind in reformulate.fill(
            [g.id for g in kept], {i for i, kind in built if kind == "bcq"}, {i for i, kind in built if kind == "ncq"}, n_aug)]
        with clock("reformulated_rollout"):
            groups = list(plain)
            for kind in ("bcq", "ncq"):
                some = [c for c in chosen if c["kind"] == kind]
                asked = ask([(c["origin"], c["question"]) for c in some], [c["text"] for c in some], kind, len(groups), step)
                groups += [replace(g, right=c["right"], wrong=c["wrong"], listed=c["listed"]) for g, c in zip(asked, some)]

        # 6. Update. Each group has its own baseline (Eq. 2); one standard deviation for the whole step (Eq. 3).
        samples = [s for g in groups for s in g.samples]
        adv = advantages([s.reward for s in samples], [s.group_id for s in samples], cfg.norm).tolist()
        numbers = update(student, optimizer, groups, adv, rng, cfg, clock)
        engine.sync_weights(student)

        # 7. Buffer refresh, from the plain rollouts only; a question that stood twice in the batch counts once.
        rewards = {}
        for g in plain:
            rewards.setdefault(g.question.id, []).extend(s.reward for s in g.samples)
        buffer.refresh({q: sum(r) / len(r) for q, r in rewards.items()}, step)

        # What happened: numbers, samples to read, checkpoint.
        of_group = {g.id: adv[i * cfg.n:(i + 1) * cfg.n] for i, g in enumerate(groups)}
        record = {"step": step, "groups": by_kind(groups, of_group),
                  "composition": composition(plain, pool, cfg),
                  "buffer": {"size": len(buffer), "capacity": cfg.capacity, "occupancy": buffer.occupancy(), **buffer.counts},
                  "fate": buffer.fates(), **numbers, "audit": audit(groups), "too_long": too_long,
                  "tokens": {"generated": engine.tokens, "trained": numbers.pop("trained"), "teacher": teacher.engine.tokens},
                  "seconds": clock.total(), "peak_gb": peak_gb()}
        if cfg.eval_every and step % cfg.eval_every == 0 and step < cfg.steps:
            record["heldout"] = families(held_out(engine, heldout, cfg))
        last = step == cfg.steps
        if last:
            after = held_out(engine, heldout, cfg)
            record["heldout"] = families(after)
        log.metrics(record)
        log.samples(step, groups, of_group, shown(plain, chosen, cfg.show), student.tokenizer)
        bar.set_postfix_str(postfix(record), refresh=False)
        bar.update()
        if last or stop.signal or (cfg.save_every and step % cfg.save_every == 0):
            checkpoint.save(out / "checkpoints", step, student, optimizer,
                            {"position": position, "rng": checkpoint.rng_state(rng), "buffer": buffer.state(),
                             "teacher_cache": teacher.cache.state(), "heldout": before, "config": comparable(cfg)}, cfg.keep)
        if stop.signal and not last:
            bar.close()
            print(f"stopped after step {step}, all saved; go on with: python train.py --resume --out {out}")
            return 128 + stop.signal
    bar.close()
    if done >= cfg.steps:
        print(f"{out}: all {cfg.steps} steps are done already; --steps N goes further")
        return 0
    checkpoint.publish(student, out / "final")
    print(summary(before, after, buffer, out, cfg))
    return 0


# ---- steps 3 to 5: the reformulated prompts --------------------------------------------------------------------------

def build(kept, pool, teacher, rng, control, cfg, step):
    """The BCQ and NCQ prompts of the kept questions: {(group id, kind): {kind, origin, question, text, right, wrong, listed}}.

    pool: group id -> correct teacher answers. A candidate is a response's summary, used only if it still carries the
    response's label. Every wrong rollout is compressed once, and equal texts once, whatever the number of questions.
    """
    def candidates(groups, samples_of, call):
        flat = [(g, s) for g in groups for s in samples_of(g)]
        texts = teacher.candidates([s for _, s in flat], [g.question.answer for g, _ in flat], step, cfg.compress, call)
        out = {g.id: [] for g in groups}
        for (g, _), text in zip(flat, texts):
            if text:
                out[g.id].append(text)
        return out

    built = {}
    wrong = candidates(kept, lambda g: [s for s in g.samples if not s.reward], 0) if cfg.bcq or cfg.ncq else {}
    right = candidates(kept, lambda g: pool[g.id], 1) if cfg.bcq else {}
    for g in kept:
        base = {"origin": g.origin, "question": g.question}
        if cfg.bcq and right[g.id] and wrong[g.id]:
            r, w = rng.choice(right[g.id]), rng.choice(wrong[g.id])
            text = reformulate.bcq(g.question.question, r, w, rng, control)
            built[g.id, "bcq"] = {**base, "kind": "bcq", "text": text, "right": (r,), "wrong": (w,), "listed": ()}
        if cfg.ncq and any(not s.reward for s in g.samples):
            boxes = [last_boxed(s.text) for s in g.samples if not s.reward]
            listed = reformulate.distinct([b for b in boxes if b])
            text = reformulate.ncq(g.question.question, wrong[g.id], listed, rng, control)
            built[g.id, "ncq"] = {**base, "kind": "ncq", "text": text, "right": (), "wrong": tuple(wrong[g.id]),
                                  "listed": tuple(listed)}
    return built


def drop_too_long(built, student, cfg):
    """Take out the prompts that leave no room for a response in the context window, and say how many."""
    window = student.net.config.get_text_config().max_position_embeddings
    long = [key for key, c in built.items()
            if len(prompt_of(student, c["question"], c["text"], cfg).ids) + cfg.max_response > window]
    for key in long:
        del built[key]
    return len(long)


def prompt_of(lm, question, text, cfg):
    """The Prompt of a question under the given wording: its images, the text, and always the closer."""
    return encode(lm, text + CLOSER, decode(question.images, question.id), decode(question.video, question.id), cfg.thinking)


# ---- step 6: the update ----------------------------------------------------------------------------------------------

def update(lm, optimizer, groups, adv, rng, cfg, clock):
    """I gradient updates on the groups of one rollout step; every sampled token is used in exactly one of them.

    adv: one advantage a sample, in the order of the groups. Samples with advantage 0 have gradient 0: they count in the
    denominator and in the metrics, but run no backward. Returns the numbers to log, as sums over the step divided once.
    """
    rows = [(s, a) for s, a in zip([s for g in groups for s in g.samples], adv)]
    order = list(range(len(groups)))
    rng.shuffle(order)
    minibatches = [[r for g in order[k::cfg.iterations] for r in rows[g * cfg.n:(g + 1) * cfg.n]]
                   for k in range(cfg.iterations)]
    # The same micro-batches for old_logp and for the update: in bf16 another grouping alone moves the ratios.
    micro = [(micro_batches([r for r in mini if r[1] != 0], cfg.micro_batch),
              micro_batches([r for r in mini if r[1] == 0], cfg.micro_batch)) for mini in minibatches]

    total = {"entropy": 0.0, "tokens": 0, "gap": 0.0, "gap_max": 0.0, "loss": 0.0, "clipped": 0, "dual_clipped": 0,
             "trained": 0, "ratio_max": 1.0}
    old_logp = {}
    with clock("old_logp"), torch.no_grad():
        for live, flat in micro:
            for batch in (*live, *flat):
                logp, entropy = response_logp(lm, [s for s, _ in batch], cfg)
                old_logp[id(batch)] = logp
                gap = (logp.cpu() - torch.tensor([x for s, _ in batch for x in s.sampler_logp])).abs()
                total["entropy"] += float(entropy.sum())
                total["tokens"] += len(logp)
                total["gap"] += float(gap.sum())
                total["gap_max"] = max(total["gap_max"], float(gap.max()))

    norms = []
    with clock("update"):
        for mini, (live, _) in zip(minibatches, micro):
            n_tokens = max(1, sum(len(s.response_ids) for s, _ in mini))       # of the whole minibatch, before any division
            optimizer.zero_grad(set_to_none=False)                             # a minibatch with nothing to learn is legal
            for batch in live:
                logp, _ = response_logp(lm, [s for s, _ in batch], cfg)
                a = torch.tensor([x for s, x in batch for _ in s.response_ids], device=logp.device, dtype=logp.dtype)
                loss, stats = policy_loss_sum(logp, old_logp[id(batch)], a, cfg.clip_low, cfg.clip_high, cfg.dual_clip)
                (loss / n_tokens).backward()
                total["loss"] += float(loss.detach())
                total["trained"] += stats["tokens"]
                total["clipped"] += stats["clipped"]
                total["dual_clipped"] += stats["dual_clipped"]
                total["ratio_max"] = max(total["ratio_max"], stats["ratio_max"])
            norms.append(float(torch.nn.utils.clip_grad_norm_(lm.net.parameters(), cfg.grad_clip)))
            if not math.isfinite(norms[-1]):
                raise ValueError(f"the gradient norm is {norms[-1]}; lower --lr, or look at the last samples")
            optimizer.step()
    n = max(1, total["tokens"])
    return {"loss": total["loss"] / n, "grad_norm": sum(norms) / len(norms), "entropy": total["entropy"] / n,
            "clip_share": total["clipped"] / n, "dual_clip_share": total["dual_clipped"] / n, "ratio_max": total["ratio_max"],
            "gap_mean": total["gap"] / n, "gap_max": total["gap_max"], "trained": total["trained"]}


def micro_batches(rows, size):
    """Rows (sample, advantage) in lists of at most `size`, neighbours in length together, so that little is padded."""
    rows = sorted(rows, key=lambda r: len(r[0].prompt.ids) + len(r[0].response_ids))
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def response_logp(lm, samples, cfg):
    """Log-prob and entropy of every response token of `samples`, row by row: two (N,) tensors."""
    with torch.autocast(lm.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16"):
        hidden, tokens = response_hidden(lm, collate(lm, samples))
    return chunked_logp(hidden, lm.head.to(hidden.dtype), tokens, lm.banned, cfg.temperature)


# ---- what is measured and shown --------------------------------------------------------------------------------------

def composition(plain, pool, cfg):
    """Fig. 5a: how many plain groups are easy, and how many could become a BCQ and an NCQ."""
    hard = [g for g in plain if g.mean < cfg.tau]                  # tau <= 1, so each of them has a wrong rollout
    return {"groups": len(plain), "easy": len(plain) - len(hard), "bcq": sum(bool(pool[g.id]) for g in hard), "ncq": len(hard)}


def shown(plain, chosen, k):
    """Ids of the questions whose groups are written to samples.jsonl: up to k reformulated ones, and one solved one."""
    ids = list(dict.fromkeys(c["question"].id for c in chosen))[:k]
    return {*ids, *[g.question.id for g in plain if g.mean == 1][:1]} if k else set()


def held_out(engine, heldout, cfg):
    """{split: [[question id, family, reward], ...]}, greedy."""
    return {split: evaluate(engine, qs, cfg.max_response, cfg.thinking) for split, qs in heldout.items()}


def families(results):
    return {split: by_family(rows) for split, rows in results.items()}


def postfix(record):
    def accuracy(kind):
        c = record["groups"][kind]
        return f"{c['correct'] / c['samples']:.2f}" if c["samples"] else "-"
    b = record["buffer"]
    return (f"acc {accuracy('new')} bcq {accuracy('bcq')} ncq {accuracy('ncq')} buffer {b['size']} "
            f"graduated {sum(b['graduated'].values())}/{sum(b['admitted'].values())}")


def summary(before, after, buffer, out, cfg):
    """Before and after on held-out questions per family, what graduated, and where everything is."""
    lines, gains = ["", f"{'held-out accuracy':28s} {'before':>8s} {'after':>8s} {'change':>8s}  questions"], []
    for split in before:
        old, new = by_family(before[split]), by_family(after[split])
        for family in old:
            (c0, n), (c1, _) = old[family], new[family]
            name = split if family == "all" else f"  {family}"
            lines.append(f"{name:28s} {c0 / n:8.1%} {c1 / n:8.1%} {100 * (c1 - c0) / n:+8.1f}  {n}")
        diff = [b[2] - a[2] for a, b in zip(before[split], after[split])]
        mean = sum(diff) / len(diff)
        error = math.sqrt(sum((d - mean) ** 2 for d in diff)) / len(diff)        # paired, over questions
        gains.append((split, mean, error))
    for split, mean, error in gains:
        verdict = "gained" if mean > 2 * error else "lost" if mean < -2 * error else "no change beyond chance"
        lines.append(f"{split}: {verdict} ({100 * mean:+.1f} points, standard error {100 * error:.1f})")
    if gains and not any(mean > 2 * error for _, mean, error in gains):
        lines.append("This run learned nothing that held-out questions show.")
    counts = buffer.counts
    for key in sorted(counts["admitted"]):
        a, g = counts["admitted"][key], counts["graduated"].get(key, 0)
        lines.append(f"admitted at {100 * float(key):5.1f} %: {a:4d} questions, {g:4d} graduated ({g / a:.0%})")
    lines += ["", f"model     {out / 'final'}", f"metrics   {out / 'metrics.jsonl'}"]
    return "\n".join(lines + draw(out))


def draw(out):
    """Figures and the page of samples; a figure that fails must not take a finished run with it, so it is reported."""
    import plot
    import report
    figures = plot.draw(out)
    return [f"samples   {report.write_html(out)}"] + [f"figure    {p}" for p in figures]


# ---- start and stop --------------------------------------------------------------------------------------------------

class StopSignal:
    """Ctrl-C or SIGTERM: finish the step, save, exit. The second one exits at once."""

    def __init__(self):
        self.signal = 0
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.catch)

    def catch(self, number, frame):
        if self.signal:
            print("\nstopped at once; the last checkpoint is untouched", file=sys.stderr)
            os._exit(128 + number)
        self.signal = number
        print("\nfinishing this step, then saving; once more stops at once", file=sys.stderr)


# Flags that may differ when a run goes on: they change how long and how it is watched, not what the next step does.
FREE = {"steps", "out", "resume", "force", "resume_from", "save_every", "keep", "eval_every", "show", "tensorboard", "wandb",
        "teacher_cache", "student_path", "teacher_path"}


def comparable(cfg):
    return {k: v for k, v in vars(cfg).items() if k not in FREE}


def flags(argv):
    """Parse and resolve the flags: every knob of Table 8 has the paper's default, or the tiny world's."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--student", default="tiny", help="tiny, or a model folder or hub id")
    p.add_argument("--teacher", default="tiny", help="tiny, or a model folder or hub id; frozen")
    p.add_argument("--data", default="tiny", help="tiny, a JSONL file, or a folder with questions.jsonl")
    p.add_argument("--heldout", default="", help="questions to measure before and after; the tiny world brings its own")
    p.add_argument("--out", default="", help="folder of the run; default: the next free runs/NAME-N")
    p.add_argument("--seed", type=int, default=0, help="of data order, sampling, candidates")
    flag = argparse.BooleanOptionalAction
    p.add_argument("--buffer", action=flag, default=True, help="replay hard questions")
    p.add_argument("--bcq", action=flag, default=True, help="show a correct teacher answer beside a wrong one of the student")
    p.add_argument("--ncq", action=flag, default=True, help="show the student all its wrong answers")
    p.add_argument("--compress", action=flag, default=True, help="candidates are the teacher's summaries")
    p.add_argument("--fresh-teacher", action=flag, default=False,
                   help="draw new teacher answers on each visit, as the paper does; default: a cache that grows")
    p.add_argument("--thinking", action=flag, default=True, help="let the chat template open <think>; the paper is silent")
    p.add_argument("--norm", choices=NORMS, default="nonzero", help="which groups the standard deviation of Eq. 3 is over")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of compute; weights stay float32")
    p.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out (default: newest run)")
    p.add_argument("--force", action="store_true", help="resume although flags changed")
    p.add_argument("--save-every", type=int, default=10, help="steps between checkpoints; 0: only at the end")
    p.add_argument("--keep", type=int, default=2, help="checkpoints to keep")
    p.add_argument("--eval-every", type=int, default=0, help="steps between held-out evaluations; 0: before and after only")
    p.add_argument("--show", type=int, default=3, help="reformulated questions a step written to samples.jsonl")
    p.add_argument("--teacher-cache", default="", help="share the teacher's answers between runs; default: in the run folder")
    p.add_argument("--tensorboard", action="store_true", help="needs the package tensorboard")
    p.add_argument("--wandb", action="store_true", help="needs the package wandb")
    table = p.add_argument_group("Table 8 (first number: the paper; second: --student tiny)")
    for name, (paper, small, why) in KNOBS.items():
        table.add_argument(f"--{name.replace('_', '-')}", type=type(paper), default=None, metavar=type(paper).__name__.upper(),
                           help=f"{why} [{paper} | {small}]")
    cfg = p.parse_args(argv)
    for name, (paper, small, _) in KNOBS.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, small if cfg.student == "tiny" else paper)
    for name in ("steps", "batch", "iterations", "teacher_n", "max_prompt", "max_response", "max_summary", "capacity",
                 "micro_batch", "keep"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(cfg, name)}")
    if cfg.n < 2:
        raise ValueError(f"--n must be at least 2, not {cfg.n}: a group of one has no baseline")
    if not 0 < cfg.tau <= 1 or cfg.replay < 0 or cfg.aug < 0 or cfg.temperature <= 0:
        raise ValueError("--tau must be in (0, 1], --replay and --aug at least 0, --temperature above 0")
    cfg.student_path = str(MODELS.get(("student", cfg.student), cfg.student))
    cfg.teacher_path = str(MODELS.get(("teacher", cfg.teacher), cfg.teacher))
    return cfg


def open_run(cfg):
    """The run folder of a new run, or of the one to resume (then cfg.resume_from is set). Raises ValueError."""
    cfg.resume_from = ""
    name = "zppo" if cfg.bcq and cfg.ncq else "grpo" + "-bcq" * cfg.bcq + "-ncq" * cfg.ncq
    stem = f"{name}-{Path(cfg.student).name}"
    if not cfg.resume:
        out = Path(cfg.out) if cfg.out else next(p for n in count(1) if not (p := Path(f"runs/{stem}-{n}")).exists())
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} exists already; go on with --resume --out {out}, or give another --out")
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        return out
    runs = [Path(cfg.out)] if cfg.out else sorted(Path("runs").glob("*/checkpoints"), key=lambda p: p.stat().st_mtime)
    if not runs:
        raise ValueError("--resume: there is no run under runs/; name one with --out")
    out = runs[-1] if cfg.out else runs[-1].parent
    found = checkpoint.latest(out / "checkpoints")
    if found is None:
        raise ValueError(f"{out}: no complete checkpoint to resume from; start again with another --out")
    was, now = json.loads((found / "state.json").read_text())["config"], comparable(cfg)
    changed = [f"--{k.replace('_', '-')} {was.get(k)} -> {now.get(k)}" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]
    if changed and not cfg.force:
        raise ValueError(f"{out} was started with other flags ({'; '.join(changed)}): this would be a different run. "
                         f"Give the same flags, or --force")
    cfg.resume_from = str(found)
    return out


def main(argv=None):
    begin = time.perf_counter()
    cfg = flags(argv)
    if cfg.data == "tiny":
        import tiny
        questions, heldout = tiny.questions("train"), {split: tiny.questions(split) for split in SPLITS}
    else:
        questions, heldout = read(cfg.data), {}
    if cfg.heldout:
        heldout = {"heldout": read(cfg.heldout)}
    student = model.load(cfg.student_path)                # a bad folder must fail before the run folder is made
    teacher = model.load(cfg.teacher_path)
    out = open_run(cfg)
    if cfg.resume_from:
        student = model.load(f"{cfg.resume_from}/model")
    check_prompts(student, questions, cfg)
    checkpoint.write_json(out / "config.json", {**vars(cfg), "torch": torch.__version__, "threads": torch.get_num_threads()})
    print(run_table(cfg, student, teacher, questions, out), flush=True)
    torch.manual_seed(cfg.seed)
    status = train(cfg, student, teacher, questions, heldout, out)
    print(f"{time.perf_counter() - begin:.0f} s, {peak_gb():.2f} GB of memory at most")
    return status


def check_prompts(student, questions, cfg):
    """The plain prompt of the first questions, as a cheap check of the data before any long work. Raises ValueError."""
    for q in questions[:32]:
        length = len(prompt_of(student, q, q.question, cfg).ids)
        if length > cfg.max_prompt:
            raise ValueError(f"question {q.id}: its prompt has {length} tokens, more than --max-prompt {cfg.max_prompt}")


def run_table(cfg, student, teacher, questions, out):
    """What this run will be, before it starts."""
    new = cfg.batch * cfg.iterations
    parts = [name for name in ("buffer", "bcq", "ncq", "compress") if getattr(cfg, name)]
    rows = [("student", f"{cfg.student_path}, {student.n_params() / 1e6:.2f} M parameters"),
            ("teacher", f"{cfg.teacher_path}, {teacher.n_params() / 1e6:.2f} M parameters, frozen"),
            ("data", f"{cfg.data}, {len(questions)} questions"),
            ("method", "GRPO + " + " + ".join(parts) if parts else "GRPO"),
            ("a step", f"{new} new + up to {round(cfg.replay * new)} replayed + up to {round(cfg.aug * new)} BCQ/NCQ prompts, "
                       f"{cfg.n} samples each, {cfg.iterations} updates"),
            ("run", f"{cfg.steps} steps, seed {cfg.seed}, {cfg.dtype} on {student.device}, {torch.get_num_threads()} threads"),
            ("output", str(out))]
    if cfg.resume_from:
        rows.append(("resumes", cfg.resume_from))
    return "\n".join(f"{name:10s}{text}" for name, text in rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
