"""ZPPO (arXiv 2606.18216), Algorithm 1, read top to bottom: `train` is the algorithm box.

    python train.py                              # the tiny world: a 0.84 M-parameter Qwen3.5
    python train.py --method grpo                # GRPO with the replay buffer, for comparison
    python train.py --data my.jsonl --student some/folder --teacher other/folder
    torchrun --nproc_per_node=8 train.py --student 0.8b     # 6 student and 2 teacher ranks, Table 8

The student learns by PPO from its own tokens only. The frozen teacher is read in prompts: on a hard
question, BCQ shows one correct teacher answer beside one wrong answer of the student, NCQ shows all
the wrong ones, and a replay buffer brings the question back until the student solves it alone.

On several ranks each runs this same loop: sampling and the update's micro-batches are split, all
decisions are taken by every rank from the same gathered rewards and the same rng. Left out on
purpose: KL term and reference model, online filtering, learning-rate schedule (the paper has none
of them), and a trainer class. Where the paper leaves a choice, the flag's help says what it does;
docs/choices.md lists them all.
"""

import signal

if __name__ == "__main__":
    # until there is something to save, Ctrl-C simply ends the program, also during the imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys
import time
from collections import defaultdict

from baselines import method_of
from config import flags
from distributed import exit_process, roles
from engines.base import Stopped
from eval import evaluate_on_all_ranks
from loss import advantages
from policy import update
from records import KINDS, Method, Reformulation, RolloutRequest
from reformulate import bcq, clean, distinct, ncq, post_cap, pre_cap
from reward import last_boxed
from rollout import fitting, rollout, sync_weights
from runtime import alarms, console, launch, plan
from runtime.ahead import begin_ahead
from runtime.metrics import Clock, heldout_record, peak_gb, reset_counters, step_record
from runtime.sampler_check import check_sampler
from teacher import correct_answers


def train(cfg, job, stop):
    """Algorithm 1. job: launch.Job, all that was opened for this run; stop: console.StopSignal.

    Raises Stopped when a rank was told to stop; the last finished step can then be saved.
    """
    world, engine, teacher, state = job.world, job.engine, job.teacher, job.state
    buffer, rng = state.buffer, state.rng
    bar = stop.bar = console.progress_bar(cfg, state, world)  # closed by an error, too

    for step in range(state.step + 1, cfg.steps + 1):
        clock = Clock(world.heartbeat)
        reset_counters(engine, teacher)

        # 1. Plain rollouts: X = X_new + X_replay. The replayed prompts come in addition to the new.
        with clock("rollout"):
            replayed_ids = buffer.draw(cfg.replayed_prompts, rng)
            new, replayed, position = launch.next_questions(job, replayed_ids, cfg)
            requests = [RolloutRequest("plain", "new", q, q.question) for q in new]
            requests += [RolloutRequest("plain", "replay", q, q.question) for q in replayed]
            begin_ahead(requests, step, cfg, teacher, state)  # works beside the students
            plain = rollout(engine, requests, step, cfg, world, teacher=teacher, stop=stop)
            check_sampler(job.policy, engine, plain, cfg, world)

        # 2. Teacher answers, on hard questions only.  3. Pre-cap: the hardest of them.
        # 4. Their BCQ and NCQ prompts, from compressed candidates.  5. Post-cap, and sample them.
        reformulated = job.method.reformulate(plain, step, cfg, engine, teacher, world, rng, clock)
        with clock("reformulated_rollout"):
            more = {"first_id": len(plain), "teacher": teacher, "stop": stop}
            groups = plain + rollout(engine, reformulated.requests, step, cfg, world, **more)

        # 6. Update: each group has its own baseline (Eq. 2), and the whole step shares one standard
        # deviation (Eq. 3); then I minibatches.
        samples = [s for g in groups for s in g.samples]
        rewards, group_ids = [s.reward for s in samples], [s.group_id for s in samples]
        adv = advantages(rewards, group_ids, cfg.norm).tolist()
        engine.sleep()
        job.checkpoints.weights_move()
        metrics = job.method.update(job.policy, job.optimizer, groups, adv, cfg, world, rng, clock)
        sync_weights(job.policy, engine)

        # 7. Buffer refresh, from the plain rollouts only.
        buffer.refresh(mean_reward_by_question(plain), step)

        # What happened, for people and for the next run.
        state.finish_step(step, position)
        record = step_record(step, groups, adv, reformulated, metrics, clock, job)
        record["alarms"] = alarms.check(state.alarms, record, groups, reformulated, cfg)
        job.checkpoints.capture(state, record)
        if due(step, cfg.eval_every, cfg):
            state.heldout_now = evaluate_on_all_ranks(engine, job.heldout, cfg, world, stop)
            record |= heldout_record(state.heldout_now)
        world.on_rank0(lambda: job.log.step(record, groups, adv, cfg.show))
        if due(step, cfg.save_every, cfg):
            job.checkpoints.save()
        console.show_step(bar, record)
        if step < cfg.steps:
            stop.on_all_ranks()
    bar.close()


def due(step, every, cfg):
    """Whether something that is done every so many steps, and after the last, is done now."""
    return step == cfg.steps or (every > 0 and step % every == 0)


def mean_reward_by_question(plain):
    """{question id: mean reward of all its plain rollouts}: a question that stood twice in the
    batch, new and replayed, is one visit.
    """
    rewards = defaultdict(list)
    for g in plain:
        rewards[g.question.id] += [s.reward for s in g.samples]
    return {question_id: sum(r) / len(r) for question_id, r in rewards.items()}


# ---- steps 2 to 5: how hard questions come back --------------------------------------------------


def reformulate(plain, step, cfg, engine, teacher, world, rng, clock):
    """ZPPO's own Method.reformulate (section 3.2): BCQ and NCQ prompts of the hardest questions.

    In Algorithm 1 the teacher answers all hard questions before the caps (--teacher-scope hard). As
    these go by the student's rewards, "used" can ask on the walk of the post-cap, only as many as
    must be asked, until the pool is full: the same prompts, and the other questions stay unasked.
    """
    hard = [g for g in plain if g.mean_reward < cfg.tau]
    answers, prompts = dict.fromkeys(g.id for g in hard), []
    too_long, shown, usable, most = 0, 0, 0, cfg.bcq + cfg.ncq  # most: prompts of one question
    # 3. Pre-cap: the rho_aug * |X_new| hardest.
    means = [g.mean_reward for g in plain if most]
    order = pre_cap(means, cfg.tau, cfg.max_reformulated, rng)
    while order and (room := cfg.max_reformulated - sum(map(len, prompts))) > 0:
        size = -(-room // most)  # rounded up
        some, order = [plain[i] for i in order[:size]], order[size:]
        # 2. Teacher answers, on hard questions only; the correct ones are the BCQ pool.
        with clock("teacher"):
            their = {g.question.id for g in (hard if cfg.teacher_scope == "hard" else some)}
            asked = [g for g in hard if g.question.id in their and answers[g.id] is None]
            if cfg.bcq and asked:
                answers |= correct_answers(asked, step, teacher, world)
        # 4. Their BCQ and NCQ prompts, from compressed candidates.
        with clock("reformulate"):
            correct = {g.id: answers[g.id] or [] for g in some}
            wrong = {g.id: [s for s in g.samples if not s.reward] for g in some}
            shown += sum(map(len, [*correct.values(), *wrong.values()]))
            correct, wrong = (candidates(some, c, cfg, teacher, world) for c in (correct, wrong))
            usable += sum(map(len, [*correct.values(), *wrong.values()]))
            for g in some:
                made = bcq_and_ncq(g, correct[g.id], wrong[g.id], cfg, rng, engine.control)
                made, left_out = fitting(made, engine, cfg)
                prompts.append(made)
                too_long += left_out
    # 5. Post-cap: one pool of at most rho_aug * |X_new| prompts, BCQ before NCQ.
    requests = post_cap(prompts, cfg.max_reformulated)
    requests.sort(key=lambda request: KINDS.index(request.kind))  # stable
    return Reformulation(requests, answers, too_long, shown, usable)


ZPPO = Method(reformulate, update)


def candidates(groups, samples, cfg, teacher, world):
    """{group id: the texts that may stand in its prompts}, one teacher call for all.

    samples: {group id: graded Samples}. A candidate is a response's summary, used only if it still
    carries the response's label (teacher.faithful).
    """
    pairs = [(g, s) for g in groups for s in samples[g.id]]
    questions, responses = [g.question for g, _ in pairs], [s for _, s in pairs]
    written = lambda: teacher.candidates(responses, questions, cfg.compress)
    texts = world.broadcast_from_rank0(written) if pairs else []  # --aug 0 has no teacher
    out = {g.id: [] for g in groups}
    for (g, _), text in zip(pairs, texts):
        if text:
            out[g.id].append(text)
    return out


def bcq_and_ncq(group, correct, wrong, cfg, rng, control):
    """The BCQ and NCQ RolloutRequests of a question, in this order, as far as its candidates allow
    them (Figs. 17, 18).
    """
    q, requests = group.question, []
    if cfg.bcq and correct and wrong:
        right = rng.choice(correct)
        # a box in one of the two only would tell which is right
        alike = [w for w in wrong if (last_boxed(w) is None) == (last_boxed(right) is None)]
        mistake = rng.choice(alike or wrong)
        request = RolloutRequest(
            "bcq",
            group.origin,
            q,
            bcq(q.question, right, mistake, rng, control),
            correct_candidates=(right,),
            wrong_candidates=(mistake,),
        )
        requests.append(request)
    if cfg.ncq and wrong:
        # a response without a box lists nothing
        boxes = [last_boxed(s.text) or "" for s in group.samples if not s.reward]
        listed = distinct([clean(box, control) for box in boxes])
        request = RolloutRequest(
            "ncq",
            group.origin,
            q,
            ncq(q.question, wrong, listed, rng, control),
            wrong_candidates=tuple(wrong),
            listed_answers=tuple(listed),
        )
        requests.append(request)
    return requests


# ---- start ---------------------------------------------------------------------------------------


def main(argv=None):
    """Parse, check, print what the run will be, run it. Returns the exit status."""
    begin = time.perf_counter()
    cfg = flags(argv)
    if cfg.plan:
        return plan.main(cfg)
    who = roles(os.environ, cfg.teacher_ranks)
    if not who.student:
        return launch.serve_teacher(cfg, who)
    job = launch.open_job(cfg, who)  # what fails in there leaves nothing behind
    job.method = ZPPO if cfg.method == "zppo" else method_of(cfg.method, job.same_tokens)
    try:
        with console.StopSignal(job) as stop:
            launch.measure_before(cfg, job, stop)
            train(cfg, job, stop)
            launch.finish(cfg, job, stop)
    except Stopped:
        return launch.stopped(job, stop)
    except Exception as e:
        raise launch.save_after_error(e, job) from e
    finally:
        job.close()
    console.print0(
        job.world, f"{time.perf_counter() - begin:.0f} s, {peak_gb():.2f} GB of memory at most"
    )
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except (ValueError, OSError) as e:
        # what all ranks know is said by rank 0
        if not getattr(e, "shared", False) or os.environ.get("RANK", "0") == "0":
            print(f"error: {e}", file=sys.stderr)
        status = 1
    exit_process(status)
