"""Rollouts: requests -> graded groups, the same on every rank (ZPPO Algorithm 1, steps 1 and 5).

    groups = rollout(engine, requests, step, cfg, World())

Each rank samples its share of the prompts with its own engine (vLLM on a GPU, transformers on a
CPU) and grades what it sampled; then all ranks hold all groups. A prompt's seed is its own, so that
the split over ranks does not show. Left out: multi-turn rollouts, tools, partial rollouts.
"""

from collections import Counter
from dataclasses import replace

from tqdm import tqdm

from engines.base import seed_of
from policy import full_state_dict
from processor import CLOSER, encode, length
from records import Group
from runtime.grader import grader
from teacher import judge_item


def rollout(engine, requests, step, cfg, world, first_id=0, teacher=None, stop=None):
    """cfg.group_size graded samples to each RolloutRequest, as Groups numbered from first_id, in
    the order of the requests; all of them on every rank. Every rank calls this.

    teacher: judges what exact matching leaves open in free-form questions (Appendix D.1); on rank
    0, else None. stop: () -> bool, asked while sampling. Raises Stopped where it says so, and
    ValueError when a plain prompt is longer than --max-prompt or a judge is missing.
    """
    seeds = _seeds(requests, step, cfg)
    own = range(world.rank, len(requests), world.size)

    def sample_own():
        prompts = [request_prompt(engine.lm, requests[i], cfg) for i in own]
        settings = cfg.group_size, cfg.max_response, [seeds[i] for i in own], cfg.temperature
        quiet = world.rank > 0
        with tqdm(total=len(own), desc="rollouts", leave=False, delay=10, disable=quiet) as bar:
            drawn = engine.sample(prompts, *settings, done=lambda *_: bar.update(), stop=stop)
        graded = {}
        for i, samples in zip(own, drawn):
            check_length(requests[i], samples, cfg)
            settings = engine, requests[i], first_id + i, grader(cfg.grader)
            graded[i] = [_graded(s, *settings) for s in samples]
        return graded

    parts = {i: samples for part in world.all_gather(sample_own) for i, samples in part.items()}
    groups = [_group(first_id + i, r, parts[i]) for i, r in enumerate(requests)]
    return judged(groups, world, teacher)


def _seeds(requests, step, cfg):
    """One seed a request, from run seed, step, kind and its place among those of its kind."""
    seen, seeds = Counter(), []
    for r in requests:
        seeds.append(seed_of(cfg.seed, step, r.kind, seen[r.kind]))
        seen[r.kind] += 1
    return seeds


def prompt_of(lm, question, text, cfg, prefix=()):
    """The Prompt of a question under the given wording: its images, the text, and always the
    closer (section 4.1).

    prefix: token ids that the response is forced to begin with; they stand in the prompt, so
    nothing trains on them.
    """
    prompt = encode(lm, text + CLOSER, question.images, question.video, cfg.thinking)
    return replace(prompt, ids=(*prompt.ids, *prefix)) if prefix else prompt


def request_prompt(lm, request, cfg):
    """prompt_of, of a RolloutRequest."""
    return prompt_of(lm, request.question, request.text, cfg, request.prefix)


def fitting(requests, engine, cfg):
    """(the requests whose prompt and response fit the engine's window, how many do not)."""

    def fits(request):
        tokens = length(engine.lm, request_prompt(engine.lm, request, cfg))
        return tokens + cfg.max_response <= engine.window

    kept = [r for r in requests if fits(r)]
    return kept, len(requests) - len(kept)


def check_length(request, samples, cfg):
    """Raise ValueError when a plain prompt, as it was sampled, is longer than --max-prompt."""
    tokens = len(samples[0].prompt.ids)
    if request.kind == "plain" and tokens > cfg.max_prompt:
        raise ValueError(
            f"question {request.question.id}: its prompt has {tokens} tokens, more than "
            f"--max-prompt {cfg.max_prompt}; take it out, or allow more"
        )


def _graded(sample, engine, request, group_id, grade):
    """A sample with its reward by exact matching, and where it comes from. A forced prefix counts
    as written. Without pictures: they need not travel between ranks.
    """
    text = sample.text
    if request.prefix:  # decoded as one: the cut may go through a letter
        ids = (*request.prefix, *sample.response_ids)
        text = engine.lm.tokenizer.decode(ids, skip_special_tokens=True)
    return replace(
        sample,
        prompt=replace(sample.prompt, images=(), video=()),
        text=text,
        group_id=group_id,
        kind=request.kind,
        question_id=request.question.id,
        reward=grade(text, request.question.golds),
    )


def _group(group_id, request, samples):
    """The Group of a request's samples, which all hold one and the same Prompt."""
    q = request.question
    prompt = replace(samples[0].prompt, images=tuple(q.images), video=tuple(q.video))
    return Group(
        group_id,
        request.kind,
        request.origin,
        q,
        tuple(replace(s, prompt=prompt) for s in samples),
        request.correct_candidates,
        request.wrong_candidates,
        request.listed_answers,
    )


def judged(groups, world, teacher):
    """The groups with the judge's word on what exact matching left open in free-form questions."""
    open_samples = [
        (g.question, s) for g in groups if g.question.free_form for s in g.samples if not s.reward
    ]
    if not open_samples:
        return groups

    def ask():
        if teacher is None:
            raise ValueError(
                f"question {open_samples[0][0].id} is free-form and needs a judge: give --teacher "
                f"or --teacher-url"
            )
        return teacher.judge([judge_item(q, s) for q, s in open_samples])

    verdicts = iter(world.broadcast_from_rank0(ask))
    out = []
    for g in groups:
        if g.question.free_form:
            again = (s if s.reward else replace(s, reward=float(next(verdicts))) for s in g.samples)
            g = replace(g, samples=tuple(again))
        out.append(g)
    return out


def sync_weights(policy, engine):
    """The sampler takes over the trained weights; nothing to do where it samples with the trainer's
    own net. Every rank calls this.
    """
    lm = policy.lm
    engine.sync_weights(None if engine.holds(lm.net) else full_state_dict(lm, lm.compute))
