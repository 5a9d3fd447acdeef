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
import signal

if __name__ == "__main__":      # until there is something to save, Ctrl-C simply ends the program, also during the imports below
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math
import sys
import time
from dataclasses import replace

import torch
from tqdm import tqdm

import checkpoint
import model
import reformulate
from config import flags, make_folder, open_run, share
from console import StopSignal, bar_text, restored_signals, run_table, summary
from data import digest, in_memory, open_questions, parse_map, take
from eval import SPLITS, by_family, evaluate
from loss import advantages, chunked_logp, policy_loss_sum
from metrics import audit, by_kind, composition, peak_gb
from model import collate, response_hidden
from reward import last_boxed
from run import Run, check_length, prompt_of


def train(cfg, run, student, heldout, out):
    """Algorithm 1. Returns the exit status: 0, or 130 / 143 after an interruption, with everything saved."""
    engine, buffer, rng, questions, n_new = run.engine, run.buffer, run.rng, run.questions, cfg.batch * cfg.iterations
    n_replay, n_aug = share(cfg.replay, n_new), share(cfg.aug, n_new)
    stop, after = StopSignal(), None
    if run.before is None:
        run.before = held_out(engine, heldout, cfg)
        run.log.metrics({"step": 0, "heldout": families(run.before)})
    bar = tqdm(total=cfg.steps, initial=run.done, desc="ZPPO", unit="step", dynamic_ncols=True)

    for step in range(run.done + 1, cfg.steps + 1):
        clock = run.start_step()

        # 1. Plain rollouts: X = X_new + X_replay. The replayed prompts come in addition to the new ones.
        with clock("rollout"):
            new = [("new", q) for q in run.new_questions(take(len(questions), cfg.seed, run.position, n_new))]
            replayed = [("replay", questions.find(i)) for i in buffer.draw(n_replay, rng)] if cfg.buffer else []
            asked = [(origin, q, prompt_of(student, q, q.question, cfg)) for origin, q in new + replayed]
            plain = run.sample("plain", asked, 0, step)

        # 2. Teacher rollouts, on the hard questions only; the correct ones are the BCQ pool.
        with clock("teacher"):
            hard = [g for g in plain if g.mean < cfg.tau]
            pool = run.correct_answers(hard, step) if cfg.bcq and n_aug else {g.id: [] for g in hard}

        # 3. Pre-cap: the rho_aug * |X_new| hardest.   4. Their BCQ and NCQ prompts, from compressed candidates.
        with clock("reformulate"):
            kept = [plain[i] for i in reformulate.hardest([g.mean for g in plain], cfg.tau, n_aug, rng)]
            built, too_long = build(kept, pool, run, step)

        # 5. Post-cap: one pool of at most rho_aug * |X_new| prompts, hardest question first, BCQ before NCQ. Sample them.
        with clock("reformulated_rollout"):
            have = {kind: {i for i, k in built if k == kind} for kind in ("bcq", "ncq")}
            chosen = [built[key] for key in reformulate.fill([g.id for g in kept], have["bcq"], have["ncq"], n_aug)]
            groups = list(plain)
            for kind in ("bcq", "ncq"):
                some = [c for c in chosen if c["kind"] == kind]
                asked = run.sample(kind, [(c["origin"], c["question"], c["prompt"]) for c in some], len(groups), step)
                groups += [replace(g, right=c["right"], wrong=c["wrong"], listed=c["listed"]) for g, c in zip(asked, some)]

        # 6. Update. Each group has its own baseline (Eq. 2), the step one standard deviation (Eq. 3); then I minibatches.
        samples = [s for g in groups for s in g.samples]
        adv = advantages([s.reward for s in samples], [s.group_id for s in samples], cfg.norm).tolist()
        run.weights_move()
        numbers = update(student, run.optimizer, groups, adv, rng, cfg, clock)
        engine.sync_weights(student)

        # 7. Buffer refresh, from the plain rollouts only. A question that stood twice in the batch is one visit.
        rewards = {}
        for g in plain:
            rewards.setdefault(g.question.id, []).extend(s.reward for s in g.samples)
        buffer.refresh({q: sum(r) / len(r) for q, r in rewards.items()}, step)

        # What happened, for people and for the next run.
        of_group = {g.id: adv[i * cfg.n:(i + 1) * cfg.n] for i, g in enumerate(groups)}
        record = {"step": step, "groups": by_kind(groups, of_group), "composition": composition(plain, pool),
                  "buffer": {"size": len(buffer), "capacity": cfg.capacity, "occupancy": buffer.occupancy(), **buffer.counts},
                  "fate": buffer.fates(), **numbers, "audit": audit(groups), "too_long": too_long,
                  "tokens": {"generated": engine.tokens, "trained": numbers["trained"], "teacher": run.teacher.engine.tokens},
                  "seconds": clock.total(), "peak_gb": peak_gb()}
        run.end_step(step, n_new, record)
        last = step == cfg.steps
        if last or (cfg.eval_every and step % cfg.eval_every == 0):
            after = held_out(engine, heldout, cfg)
            record["heldout"] = families(after)
        run.log.metrics(record)
        run.log.samples(step, groups, of_group, shown(plain, chosen, cfg.show), student.tokenizer)
        if last or stop.signal or (cfg.save_every and step % cfg.save_every == 0):
            run.save()
        bar.set_postfix_str(bar_text(record), refresh=False)
        bar.update()
        if stop.signal and not last:
            bar.close()
            print(f"stopped after step {step}, all saved; go on with the same command and --resume --out {out}")
            return 128 + stop.signal

    bar.close()
    if after is None and (out / "final").is_dir():
        print(f"{out}: its {run.done} steps are done; --steps N goes further")
        return 0
    after = after or held_out(engine, heldout, cfg)
    checkpoint.publish(student, out / "final")
    print(summary(run.before, after, buffer, out))
    return 0


# ---- steps 3 to 5: the reformulated prompts --------------------------------------------------------------------------

def build(kept, pool, run, step):
    """The BCQ and NCQ prompts of the kept groups, and how many were left out because they fill the context window.

    pool: {group id: correct teacher answers}. A candidate is a response's summary, used only if it still carries the
    response's label (teacher.faithful). Returns {(group id, kind): dict of kind, origin, question, prompt, right, wrong,
    listed}, in which the last three are the candidates and answers that the prompt shows.
    """
    cfg, built, too_long = run.cfg, {}, 0
    if not (cfg.bcq or cfg.ncq):
        return built, too_long                          # GRPO asks the teacher for nothing
    right = candidates(kept, {g.id: pool[g.id] for g in kept}, run, step, 0)
    wrong = candidates(kept, {g.id: [s for s in g.samples if not s.reward] for g in kept}, run, step, 1)
    for g in kept:
        texts = {}
        if cfg.bcq and right[g.id] and wrong[g.id]:
            r, w = run.rng.choice(right[g.id]), run.rng.choice(wrong[g.id])
            texts["bcq"] = reformulate.bcq(g.question.question, r, w, run.rng, run.control), (r,), (w,), ()
        if cfg.ncq and wrong[g.id]:
            boxes = [reformulate.clean(last_boxed(s.text) or "", run.control) for s in g.samples if not s.reward]
            listed = reformulate.distinct(boxes)      # a response without a box lists nothing
            text = reformulate.ncq(g.question.question, wrong[g.id], listed, run.rng, run.control)
            texts["ncq"] = text, (), tuple(wrong[g.id]), tuple(listed)
        for kind, (text, *shown_there) in texts.items():
            prompt = prompt_of(run.student, g.question, text, cfg)
            if model.length(run.student, prompt) + cfg.max_response > run.student.window:
                too_long += 1
                continue
            built[g.id, kind] = {"kind": kind, "origin": g.origin, "question": g.question, "prompt": prompt,
                                 **dict(zip(("right", "wrong", "listed"), shown_there))}
    return built, too_long


def candidates(kept, responses, run, step, call):
    """{group id: the texts that may stand in its prompts}, of graded responses by group id, in one teacher call."""
    flat = [(g, s) for g in kept for s in responses[g.id]]
    texts = run.teacher.candidates([s for _, s in flat], [g.question.golds for g, _ in flat], step, run.cfg.compress, call)
    out = {g.id: [] for g in kept}
    for (g, _), text in zip(flat, texts):
        if text:
            out[g.id].append(text)
    return out


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
    live = [micro_batches([r for r in mini if r[1] != 0], cfg.micro_batch) for mini in minibatches]
    flat = [micro_batches([r for r in mini if r[1] == 0], cfg.micro_batch) for mini in minibatches]

    total = {"entropy": 0.0, "tokens": 0, "gap": 0.0, "gap_max": 0.0, "loss": 0.0, "clipped": 0, "dual_clipped": 0,
             "trained": 0, "ratio_max": 1.0}
    old_logp = [[] for _ in minibatches]                                       # one (N,) tensor a live micro-batch
    with clock("old_logp"), torch.no_grad():
        for k in range(cfg.iterations):
            for batch in live[k] + flat[k]:
                logp, entropy = response_logp(lm, [s for s, _ in batch], cfg)
                old_logp[k].append(logp)
                gap = (logp.cpu() - torch.tensor([x for s, _ in batch for x in s.sampler_logp])).abs()
                total["entropy"] += float(entropy.sum())
                total["tokens"] += len(logp)
                total["gap"] += float(gap.sum())
                total["gap_max"] = max(total["gap_max"], float(gap.max()))

    norms = []
    with clock("update"):
        for k, mini in enumerate(minibatches):
            n_tokens = max(1, sum(len(s.response_ids) for s, _ in mini))       # of the whole minibatch, before any division
            for p in lm.net.parameters():                                      # zeros, not None: a minibatch with nothing to
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()      # learn is legal, and momentum goes on
            for batch, old in zip(live[k], old_logp[k]):
                logp, _ = response_logp(lm, [s for s, _ in batch], cfg)
                a = torch.tensor([x for s, x in batch for _ in s.response_ids], device=logp.device, dtype=logp.dtype)
                loss, stats = policy_loss_sum(logp, old, a, cfg.clip_low, cfg.clip_high, cfg.dual_clip)
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
    with lm.autocast():
        hidden, tokens = response_hidden(lm, collate(lm, samples))
        return chunked_logp(hidden, lm.head, tokens, lm.banned, cfg.temperature)


# ---- held-out questions, and what is written for people --------------------------------------------------------------

def held_out(engine, heldout, cfg):
    """{split: [[question id, family, reward], ...]}, greedy."""
    with tqdm(total=sum(map(len, heldout.values())), desc="held-out questions", leave=False, dynamic_ncols=True) as bar:
        return {split: evaluate(engine, qs, cfg.max_response, cfg.thinking, bar=bar) for split, qs in heldout.items()}


def families(results):
    """{split: {family: [correct, questions]}} of a held_out() result."""
    return {split: by_family(rows) for split, rows in results.items()}


def shown(plain, chosen, k):
    """Ids of the questions whose groups are written to samples.jsonl: up to k reformulated ones, and one solved one."""
    ids = list(dict.fromkeys(c["question"].id for c in chosen))[:k]
    return {*ids, *[g.question.id for g in plain if g.mean == 1][:1]} if k else set()


# ---- start -----------------------------------------------------------------------------------------------------------

def main(argv=None):
    """Parse, check, print what the run will be, run it. Returns the exit status."""
    begin = time.perf_counter()
    cfg = flags(argv)
    if cfg.data == "tiny":
        import tiny
        questions, heldout = in_memory(tiny.questions("train"), "tiny"), {split: tiny.questions(split) for split in SPLITS}
    else:
        questions, heldout = open_questions(cfg.data, parse_map(cfg.map)), {}
    if cfg.heldout:
        heldout = {"heldout": open_questions(cfg.heldout, parse_map(cfg.map))}
    cfg.data_digest = digest(questions)
    out = open_run(cfg)
    student = model.load(f"{cfg.resume_from}/model" if cfg.resume_from else cfg.student_path, cfg.dtype, cfg.device)
    teacher = model.load(cfg.teacher_path, cfg.dtype, cfg.device)
    check_prompts(student, questions, cfg)
    if cfg.max_prompt + cfg.max_response > student.window:
        raise ValueError(f"{cfg.student}: --max-prompt {cfg.max_prompt} and --max-response {cfg.max_response} do not fit its "
                         f"context of {student.window} tokens; lower them")
    print(run_table(cfg, student, teacher, questions, out), flush=True)
    make_folder(out, cfg)                                     # only now: what fails above leaves nothing behind
    torch.manual_seed(cfg.seed)
    run = Run(cfg, student, teacher, questions, out)
    try:
        with restored_signals():
            status = train(cfg, run, student, heldout, out)
    except Exception as e:
        saved = run.save()
        kept = f"\nthe {run.done} finished steps are in {saved}; go on with --resume --out {out}" if saved else ""
        if not isinstance(e, (ValueError, OSError)):           # a bug of ours: its traceback is wanted
            print(kept.strip(), file=sys.stderr)
            raise
        raise ValueError(f"{e}{kept}") from e
    print(f"{time.perf_counter() - begin:.0f} s, {peak_gb():.2f} GB of memory at most")
    return status


def check_prompts(student, questions, cfg):
    """The plain prompt of the first questions, as a cheap check of the data before any long work. Raises ValueError."""
    for q in questions[:32]:
        check_length(q, model.length(student, prompt_of(student, q, q.question, cfg)), cfg)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
