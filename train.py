"""ZPPO (arXiv 2606.18216), Algorithm 1, read top to bottom: `train` is the algorithm box, what it
calls stands below it.

    # the tiny world: a 0.8 M-parameter Qwen3.5 student, two CPU cores, minutes
    python train.py
    # GRPO with the replay buffer, for comparison; also hint, prefix, off-distill, ...
    python train.py --method grpo
    python train.py --data my.jsonl --student some/folder --teacher other/folder
    # 6 student ranks and 2 teacher ranks, as in the paper
    torchrun --nproc_per_node=8 train.py --student 0.8b

The student learns by PPO from its own tokens only. The frozen teacher is read in prompts: on a hard
question, BCQ shows one correct teacher answer beside one wrong answer of the student, NCQ shows all
the wrong ones, and a replay buffer brings the question back until the student solves it alone.

On several ranks each runs this same loop: sampling and the update's micro-batches are split
(run.sample, `mine`), all decisions are taken by every rank from the same gathered rewards and the
same rng. Left out on purpose: KL term and reference model, online filtering, learning-rate schedule
(the paper has none of them), and a trainer class. Where the paper leaves a choice, the flag's help
says what it does; README.md lists them all.
"""

import signal

if (
    __name__ == "__main__"
    # until there is something to save, Ctrl-C simply ends the program, also during the imports below
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import math
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import torch
from tqdm import tqdm

import model
import reformulate
from baselines import hint_of
from config import DISTILL, flags, run_name, share
from data import take
from distributed import leave, roles, whole
from engines.base import Stopped
from eval import by_family
from loss import advantages, policy_loss_sum, tis_weight
from records import KINDS, Ask
from reward import last_boxed
from run import prompt_of
from runtime import checkpoint
from runtime.console import StopSignal, bar_text, restored_signals, summary
from runtime.launch import open_all, serve_teacher
from runtime.metrics import audit, by_kind, composition, peak_gb


def train(cfg, run, student, heldout, out):
    """Algorithm 1. Returns the exit status 0; raises rollout.Stopped when a signal asked to save
    and leave.
    """
    buffer, rng, questions, world, n_new = (
        run.buffer,
        run.rng,
        run.questions,
        run.world,
        cfg.batch * cfg.iterations,
    )
    n_replay, n_aug = share(cfg.replay, n_new), run.n_aug
    run.stop, after = StopSignal(), None
    if run.before is None:
        run.before = run.held_out(heldout)
        run.write_step({"step": 0, **measured(run.before)})
    bar = tqdm(
        total=cfg.steps,
        initial=run.done,
        desc=run_name(cfg),
        unit="step",
        dynamic_ncols=True,
        disable=world.rank > 0,
    )

    for step in range(run.done + 1, cfg.steps + 1):
        clock = run.start_step()

        # 1. Plain rollouts: X = X_new + X_replay. The replayed prompts come in addition to the new
        # ones.
        with clock("rollout"):
            new = [
                ("new", q)
                for q in run.new_questions(take(len(questions), cfg.seed, run.position, n_new))
            ]
            replayed = (
                [("replay", questions.find(i)) for i in buffer.draw(n_replay, rng)]
                if cfg.buffer
                else []
            )
            plain = run.sample(
                "plain", [Ask(origin, q, q.question) for origin, q in new + replayed], 0, step
            )

        # 2. Teacher rollouts, on the hard questions only; the correct ones are the BCQ pool (of
        # hint and prefix as well).
        with clock("teacher"):
            hard = [g for g in plain if g.mean < cfg.tau]
            wanted = run.wants_answers and cfg.method not in DISTILL
            pool = run.correct_answers(hard, step) if wanted else {g.id: [] for g in hard}
            lessons = distilled(run, plain, step) if cfg.method in DISTILL else None

        # 3. Pre-cap: the rho_aug * |X_new| hardest.   4. Their BCQ and NCQ prompts, from compressed
        # candidates.
        with clock("reformulate"):
            able = [g for g in plain if g.id in pool and (pool[g.id] or cfg.ncq or cfg.bcq)]
            kept = [
                able[i] for i in reformulate.hardest([g.mean for g in able], cfg.tau, n_aug, rng)
            ]
            built, too_long = build(kept, pool, run)

        # 5. Post-cap: one pool of at most rho_aug * |X_new| prompts, hardest question first, BCQ
        # before NCQ. Sample them.
        with clock("reformulated_rollout"):
            have = {kind: {i for i, k in built if k == kind} for kind in KINDS}
            chosen = [built[key] for key in reformulate.fill([g.id for g in kept], have, n_aug)]
            groups = list(plain)
            for kind in KINDS[1:]:
                some = [c for c in chosen if c["kind"] == kind]
                asked = run.sample(kind, [c["ask"] for c in some], len(groups), step)
                groups += [
                    replace(g, right=c["right"], wrong=c["wrong"], listed=c["listed"])
                    for g, c in zip(asked, some)
                ]

        # 6. Update. Each group has its own baseline (Eq. 2), the step one standard deviation (Eq.
        # 3); then I minibatches.
        samples = [s for g in groups for s in g.samples]
        adv = advantages(
            [s.reward for s in samples], [s.group_id for s in samples], cfg.norm
        ).tolist()
        run.weights_move()
        numbers = (
            update(run, groups, adv, clock) if lessons is None else distill(run, lessons, clock)
        )
        run.sync()

        # 7. Buffer refresh, from the plain rollouts only. A question that stood twice in the batch
        # is one visit.
        rewards = {}
        for g in plain:
            rewards.setdefault(g.question.id, []).extend(s.reward for s in g.samples)
        buffer.refresh({q: sum(r) / len(r) for q, r in rewards.items()}, step)

        # What happened, for people and for the next run.
        of_group = {g.id: adv[i * cfg.n : (i + 1) * cfg.n] for i, g in enumerate(groups)}
        record = {
            "step": step,
            "groups": by_kind(groups, of_group),
            "composition": composition(plain, pool),
            "buffer": {
                "size": len(buffer),
                "capacity": cfg.capacity,
                "occupancy": buffer.occupancy(),
                **buffer.counts,
            },
            "fate": buffer.fates(),
            **numbers,
            "audit": audit(groups),
            "too_long": too_long,
            **run.counts(numbers),
            "seconds": clock.total(),
            "peak_gb": peak_gb(),
        }
        run.end_step(step, n_new, record)
        last = step == cfg.steps
        if last or (cfg.eval_every and step % cfg.eval_every == 0):
            after = run.held_out(heldout)
            record |= measured(after)
        run.write_step(record, groups, of_group, shown(plain, chosen, cfg.show))
        if last or (cfg.save_every and step % cfg.save_every == 0):
            run.save()
        bar.set_postfix_str(bar_text(record), refresh=False)
        bar.update()
        if not last:
            run.check_stop()

    bar.close()
    if after is None and (out / "final").is_dir():
        return run.say(f"{out}: its {run.done} steps are done; --steps N goes further")
    after = after or run.held_out(heldout)
    checkpoint.publish(student, out / "final", world)
    return run.say(lambda: summary(run.before, after, buffer, out))


# ---- steps 2 to 5: what the teacher gives, and the reformulated prompts --------------------------


def build(kept, pool, run):
    """The aided prompts of the kept groups, and how many were left out because they fill the
    context window.

    pool: {group id: correct teacher answers}. A candidate is a response's summary, used only if it
    still carries the response's label (teacher.faithful). Returns {(group id, kind): dict of kind,
    ask, right, wrong, listed}, in which the last three are the candidates and answers that the
    prompt shows.
    """
    cfg, built, too_long = run.cfg, {}, 0
    if cfg.method == "hint":
        offers = hints(kept, pool, run)
    elif cfg.method == "prefix":
        offers = prefixes(kept, pool, run)
    elif cfg.bcq or cfg.ncq:
        offers = reformulated(kept, pool, run)
    else:
        offers = []  # GRPO asks the teacher for nothing
    for g, kind, ask, *shown_there in offers:
        prompt = prompt_of(run.student, g.question, ask.text, cfg, ask.prefix)
        if model.length(run.student, prompt) + cfg.max_response > run.student.window:
            too_long += 1
        else:
            built[g.id, kind] = {
                "kind": kind,
                "ask": ask,
                **dict(zip(("right", "wrong", "listed"), shown_there)),
            }
    return built, too_long


def reformulated(kept, pool, run):
    """(group, kind, Ask, right, wrong, listed) of every BCQ and NCQ prompt that the kept groups
    allow (section 3.2).
    """
    cfg = run.cfg
    right = candidates(kept, {g.id: pool[g.id] for g in kept}, run)
    wrong = candidates(kept, {g.id: [s for s in g.samples if not s.reward] for g in kept}, run)
    for g in kept:
        if cfg.bcq and right[g.id] and wrong[g.id]:
            r, w = run.rng.choice(right[g.id]), run.rng.choice(wrong[g.id])
            text = reformulate.bcq(g.question.question, r, w, run.rng, run.control)
            yield g, "bcq", Ask(g.origin, g.question, text), (r,), (w,), ()
        if cfg.ncq and wrong[g.id]:
            boxes = [
                reformulate.clean(last_boxed(s.text) or "", run.control)
                for s in g.samples
                if not s.reward
            ]
            listed = reformulate.distinct(boxes)  # a response without a box lists nothing
            text = reformulate.ncq(g.question.question, wrong[g.id], listed, run.rng, run.control)
            yield g, "ncq", Ask(g.origin, g.question, text), (), tuple(wrong[g.id]), tuple(listed)


def candidates(kept, responses, run):
    """{group id: the texts that may stand in its prompts}, of graded responses by group id, in one
    teacher call.
    """
    flat = [(g, s) for g in kept for s in responses[g.id]]
    texts = run.world.first(
        lambda: run.teacher.candidates(
            [s for _, s in flat], [g.question for g, _ in flat], run.cfg.compress
        )
    )
    out = {g.id: [] for g in kept}
    for (g, _), text in zip(flat, texts):
        if text:
            out[g.id].append(text)
    return out


def hints(kept, pool, run):
    """The hint baseline (Fig. 19): one answer-free hint from a correct teacher response; none,
    where every hint gave it away.
    """
    picked = [(g, run.rng.choice(pool[g.id])) for g in kept]
    texts = run.world.first(
        lambda: run.teacher.hints([g.question for g, _ in picked], [a.text for _, a in picked])
    )
    for (g, _), reply in zip(picked, texts):
        text = hint_of(reply, g.question.golds, g.question.question, run.control)
        if text:
            yield (
                g,
                "hint",
                Ask(g.origin, g.question, reformulate.hint(g.question.question, text, run.control)),
                (text,),
                (),
                (),
            )


def prefixes(kept, pool, run):
    """The prefix baseline (section 4, "teacher response"): the first 40 % of a correct teacher
    response's tokens are forced.
    """
    tokenizer = run.student.tokenizer
    for g in kept:
        answer = run.rng.choice(pool[g.id])
        ids = (
            answer.response_ids
            if run.same_tokens
            else tokenizer(answer.text, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
        )
        prefix = tuple(ids[: max(1, int(PREFIX * len(ids)))])
        yield (
            g,
            "prefix",
            Ask(g.origin, g.question, g.question.question, prefix),
            (tokenizer.decode(prefix),),
            (),
            (),
        )


PREFIX = 0.4


def distilled(run, plain, step):
    """The samples whose tokens the distillation baselines learn from: the student's own, or the
    teacher's correct ones.
    """
    if run.cfg.method == "on-distill":
        return [s for g in plain for s in g.samples]
    answers = run.correct_answers(
        plain, step, fresh=True
    )  # no correct one: no loss for that question
    return [
        replace(a, prompt=g.samples[0].prompt, question_id=g.question.id)
        for g in plain
        for a in answers[g.id]
        if a.response_ids
    ]


# ---- step 6: the update --------------------------------------------------------------------------


def update(run, groups, adv, clock):
    """I gradient updates on the groups of one rollout step; every sampled token is used in exactly
    one of them.

    adv: one advantage a sample, in the order of the groups. Samples with advantage 0 have gradient
    0: they count in the denominator, but run no backward, and only --flat-share of them is looked
    at, for entropy and log-prob gap. Returns the numbers to log, as sums over the step and over all
    ranks, divided once.
    """
    cfg, world, rng = run.cfg, run.world, run.rng
    rows = list(zip([s for g in groups for s in g.samples], adv))
    order = list(range(len(groups)))
    rng.shuffle(order)
    minibatches = [
        [r for g in order[k :: cfg.iterations] for r in rows[g * cfg.n : (g + 1) * cfg.n]]
        for k in range(cfg.iterations)
    ]
    # The same micro-batches for old_logp and for the update: in bf16 another grouping alone moves
    # the ratios.
    live = [
        mine(micro_batches([r for r in mini if r[1] != 0], cfg.micro_tokens), world)
        for mini in minibatches
    ]
    flat = [r for r in rows if r[1] == 0]
    looked = rng.sample(flat, math.ceil(cfg.flat_share * len(flat)))
    seen = mine(micro_batches(looked, cfg.micro_tokens), world)

    total = dict.fromkeys(
        (
            "entropy",
            "gap",
            "gap_max",
            "outside",
            "tokens",
            "loss",
            "clipped",
            "dual_clipped",
            "trained",
        ),
        0.0,
    )
    total["ratio_max"] = 1.0

    def before(batch, counts, weight, logp, entropy):
        """old_logp and sampler_logp of a micro-batch, logged on the way; weight: samples that each
        of these stands for.
        """
        sampler = torch.tensor([x for s, _ in batch for x in s.sampler_logp], device=logp.device)
        if counts:
            gap = (logp - sampler).abs()
            total["entropy"] += weight * float(entropy.sum())
            total["gap"] += weight * float(gap.sum())
            total["outside"] += weight * float((gap > math.log(1.1)).sum())
            total["tokens"] += weight * len(logp)
            total["gap_max"] = max(total["gap_max"], float(gap.max()) if len(gap) else 0.0)
        return logp, sampler

    def look(batch):
        return run.policy(run.with_pictures([s for s, _ in batch]), cfg.temperature)

    with clock("old_logp"), torch.no_grad(), run.student.autocast():
        # (N,) and (N,) a micro-batch. None for the first minibatch: before any step, its logp is
        # old_logp.
        old = [
            [before(batch, counts, 1, *look(batch)) if k else None for batch, counts in live[k]]
            for k in range(len(live))
        ]
        for batch, counts in seen:
            before(batch, counts, len(flat) / max(1, len(looked)), *look(batch))

    norms = []
    with clock("update"):
        for k, mini in enumerate(minibatches):
            n_tokens = max(
                1, sum(len(s.response_ids) for s, _ in mini)
            )  # of the whole minibatch, on all ranks
            with descent(run, norms):
                for (batch, counts), known in zip(live[k], old[k]):
                    with run.student.autocast():
                        logp, entropy = look(batch)
                    old_logp, sampler = known or before(batch, counts, 1, logp.detach(), entropy)
                    a = torch.tensor(
                        [x for s, x in batch for _ in s.response_ids],
                        device=logp.device,
                        dtype=logp.dtype,
                    )
                    weight = tis_weight(old_logp, sampler, cfg.tis) if cfg.tis else None
                    loss, stats = policy_loss_sum(
                        logp, old_logp, a, cfg.clip_low, cfg.clip_high, cfg.dual_clip, weight
                    )
                    (
                        loss * counts * world.size / n_tokens
                    ).backward()  # FSDP averages over the ranks; this is a sum
                    if counts:
                        total["loss"] += float(loss.detach())
                        total["trained"] += stats["tokens"]
                        total["clipped"] += stats["clipped"]
                        total["dual_clipped"] += stats["dual_clipped"]
                        total["ratio_max"] = max(total["ratio_max"], stats["ratio_max"])
                    world.alive()
    total = world.total(total, largest=("gap_max", "ratio_max"))
    n, tokens = max(1, total["tokens"]), max(1, sum(len(s.response_ids) for s, _ in rows))
    return {
        "loss": total["loss"] / tokens,
        "grad_norm": sum(norms) / len(norms),
        "entropy": total["entropy"] / n,
        "clip_share": total["clipped"] / tokens,
        "dual_clip_share": total["dual_clipped"] / tokens,
        "ratio_max": total["ratio_max"],
        "gap_mean": total["gap"] / n,
        "gap_max": total["gap_max"],
        "gap_outside": total["outside"] / n,
        "trained": int(total["trained"]),
    }


def distill(run, lessons, clock):
    """The distillation baselines: one update on the mean Jensen-Shannon divergence over all tokens
    of the lessons.

    The paper's average over a question's sequences is taken over their tokens, as the policy loss
    is. Returns the numbers to log.
    """
    cfg, world, norms = run.cfg, run.world, []
    batches = mine(micro_batches([(s, 1.0) for s in lessons], cfg.micro_tokens), world)
    n_tokens = max(1, sum(len(s.response_ids) for s in lessons))
    total = {"loss": 0.0, "trained": 0}
    with clock("update"), descent(run, norms):
        for batch, counts in batches:
            with run.student.autocast():
                loss, each = run.policy(
                    run.with_pictures([s for s, _ in batch]), cfg.temperature, distill=True
                )
            (loss * counts * world.size / n_tokens).backward()
            total["loss"] += counts * float(loss.detach())
            total["trained"] += counts * len(each)
            world.alive()
    total = world.total(total)
    return {
        "loss": total["loss"] / n_tokens,
        "grad_norm": norms[0],
        "trained": total["trained"],
        "read": total["trained"],
    }


@contextmanager
def descent(run, norms):
    """One optimizer step on the gradients that are accumulated inside; appends their global norm,
    before it is clipped.
    """
    net = run.student.net
    if run.student.sharded:
        run.policy.reshard()  # a forward without a backward leaves the root's parameters whole
    for p in net.parameters():  # zeros, not None: a minibatch with nothing to learn is legal,
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()  # and momentum goes on
    net.train(run.cfg.checkpointing)  # transformers recomputes activations in training mode only
    yield
    net.eval()
    norms.append(float(whole(torch.nn.utils.clip_grad_norm_(net.parameters(), run.cfg.grad_clip))))
    if not math.isfinite(norms[-1]):
        raise ValueError(
            f"the gradient norm is {norms[-1]}; lower --lr, or look at the last samples"
        )
    run.optimizer.step()


def micro_batches(rows, budget):
    """Rows (sample, number) in lists of at most `budget` padded tokens each, at least one row;
    neighbours in length together.
    """
    out, longest = [], 0
    for row in sorted(rows, key=lambda r: -len(r[0].prompt.ids) - len(r[0].response_ids)):  # stable
        length = len(row[0].prompt.ids) + len(row[0].response_ids)
        if out and (len(out[-1]) + 1) * longest <= budget:
            out[-1].append(row)
        else:
            out.append([row])
            longest = length
    return out


def mine(batches, world):
    """This rank's share of the micro-batches as (rows, counts): equally many on every rank, or FSDP
    would wait for ever.

    counts is 0 for a repeat that only fills up, else 1.
    """
    share = [(b, 1) for b in batches[world.rank :: world.size]]
    fill = math.ceil(len(batches) / world.size) - len(share)
    return share + [(b, 0) for b in batches[:1]] * fill


# ---- held-out questions, and what is written for people ------------------------------------------


def measured(results):
    """A run.held_out() result for the log: {split: {family: [correct, questions]}}, and each
    question's 0 or 1 in their order.
    """
    return {
        "heldout": {split: by_family(rows) for split, rows in results.items()},
        "heldout_right": {
            split: "".join(str(int(r)) for *_, r in rows) for split, rows in results.items()
        },
    }


def shown(plain, chosen, k):
    """Ids of the questions whose groups are written to samples.jsonl: up to k reformulated ones,
    and one solved one.
    """
    ids = list(dict.fromkeys(c["ask"].question.id for c in chosen))[:k]
    return {*ids, *[g.question.id for g in plain if g.mean == 1][:1]} if k else set()


# ---- start ---------------------------------------------------------------------------------------


def main(argv=None):
    """Parse, check, print what the run will be, run it. Returns the exit status."""
    begin = time.perf_counter()
    cfg = flags(argv)
    who = roles(os.environ, cfg.teacher_ranks)
    if not who.student:
        return serve_teacher(cfg, who)
    run, heldout = open_all(cfg, who)  # what fails in there leaves nothing behind
    try:
        with restored_signals():
            train(cfg, run, run.student, heldout, run.out)
    except Stopped:
        saved = run.save()
        run.say(
            f"stopped after step {run.done}, all saved; go on with the same command and --resume --out {run.out}"
            if saved
            else f"stopped before the first step was done; --resume --out {run.out} begins again in its place"
        )
        return 128 + run.stop.signal if run.stop.signal else 143
    except Exception as e:
        saved = (
            run.save() if run.world.size == 1 or getattr(e, "shared", False) else None
        )  # else the other ranks may be gone
        kept = (
            f"\nthe {run.done} finished steps are in {saved}; go on with --resume --out {run.out}"
            if saved
            else ""
        )
        if not isinstance(e, (ValueError, OSError)):  # a bug of ours: its traceback is wanted
            print(kept.strip(), file=sys.stderr)
            raise
        error = ValueError(f"{e}{kept}")
        error.shared = getattr(e, "shared", False)
        raise error from e
    finally:
        run.close()
    run.say(f"{time.perf_counter() - begin:.0f} s, {peak_gb():.2f} GB of memory at most")
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except (ValueError, OSError) as e:
        if (
            not getattr(e, "shared", False) or os.environ.get("RANK", "0") == "0"
        ):  # rank 0 says what all ranks know
            print(f"error: {e}", file=sys.stderr)
        status = 1
    leave(status)
