"""What a person should be told while a run goes on, once each: that it can't learn like this.

    told = alarms.check(state.alarms, record, groups, reformulation, cfg)    # new messages

`state.alarms` is part of the run's state, plain JSON values: sums since the run began, and the
names of the alarms that were told. A resumed run does not repeat them.
"""

from collections import Counter

from config import DISTILL, wants_answers
from reward import last_boxed

EARLY = (
    3  # steps (all, of a shorter run) after which a right answer, a wrong one and a spread are due
)
TRUNCATED = 0.25  # share of responses cut off
USABLE = 0.2  # share of summaries that keep their label ...
ENOUGH = 20  # ... of at least so many


def check(state, record, groups, reformulation, cfg):
    """The messages of alarms that ring for the first time, a list of str. Changes `state`, in
    place. record: the step's metrics; groups: all of its groups; reformulation: what was made of
    the hard ones.
    """
    add_step(state, record, reformulation)
    told = state.setdefault("told", [])
    messages = []
    for name, ring in ALARMS.items():
        if name not in told and (message := ring(state, record, groups, cfg)):
            told.append(name)
            messages.append(message)
    return messages


def add_step(state, record, reformulation):
    """Add a step to the sums."""
    counts = record["groups"].values()
    sums = {
        "steps": 1,
        "samples": sum(c["samples"] for c in counts),
        "correct": int(sum(c["correct"] for c in counts)),
        "spread": sum(c["groups"] - c["flat"] for c in counts),
        "hard": record["composition"]["asked"],
        "solved": record["composition"]["bcq"],
        "candidates": reformulation.candidates_asked,
        "usable": reformulation.candidates_usable,
    }
    for name, value in sums.items():
        state[name] = state.get(name, 0) + value


def due(state, cfg):
    """Whether the early steps end with this one."""
    return state["steps"] == min(EARLY, cfg.steps)


def plural(n, noun):
    """1 step, 2 steps."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _all_wrong(state, record, groups, cfg):
    if not due(state, cfg) or state["correct"]:
        return None
    reasons = Counter(_reason(s, g.question) for g in groups for s in g.samples)
    common = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common(3))
    return (
        f"all {state['samples']} rewards of the first {plural(state['steps'], 'step')} are 0. Of "
        f"this step's responses: {common}"
    )


def _reason(sample, question):
    if sample.truncated:
        return "were cut off by --max-response"
    answer = last_boxed(sample.text)
    if answer is None:
        return "have no \\boxed{}"
    return f"answer {answer[:20]!r} where {question.answer[:20]!r} is right"


def _all_right(state, record, groups, cfg):
    if not due(state, cfg) or state["correct"] < state["samples"] or cfg.method in DISTILL:
        return None
    steps = plural(state["steps"], "step")
    return f"all rewards of the first {steps} are 1: these questions teach nothing"


def _truncated(state, record, groups, cfg):
    counts = record["groups"].values()
    samples = max(1, sum(c["samples"] for c in counts))
    share = sum(c["truncated"] for c in counts) / samples
    if share <= TRUNCATED:
        return None
    return (
        f"{share:.0%} of the responses were cut off at --max-response {cfg.max_response} tokens "
        f"and earn nothing; raise it, or give --no-thinking"
    )


def _no_spread(state, record, groups, cfg):
    if not due(state, cfg) or state["spread"] or cfg.method in DISTILL:
        return None
    if not 0 < state["correct"] < state["samples"]:
        return None
    steps = plural(state["steps"], "step")
    return (
        f"no group of the first {steps} has both right and wrong responses: there is no gradient; "
        f"more --n, or questions nearer to what the student can do"
    )


def _teacher_wrong(state, record, groups, cfg):
    late = state["steps"] >= min(EARLY, cfg.steps)
    if not wants_answers(cfg) or not late or state["solved"] or not state["hard"]:
        return None
    what = "BCQ" if cfg.method == "zppo" else "token to learn from"
    what = f"{cfg.method} prompt" if cfg.method in ("hint", "prefix") else what
    return (
        f"the teacher solved none of the {state['hard']} hard questions so far, so there is no "
        f"{what}; is --teacher the right model, and --max-response long enough for it?"
    )


def _summaries(state, record, groups, cfg):
    asked, usable = state["candidates"], state["usable"]
    if not cfg.compress or asked < ENOUGH or usable > USABLE * asked:
        return None
    return (
        f"only {usable} of {asked} ({usable / asked:.0%}) of the teacher's summaries kept their "
        f"answer and could be shown; --no-compress shows the responses themselves"
    )


ALARMS = {
    "all wrong": _all_wrong,
    "all right": _all_right,
    "truncated": _truncated,
    "no spread": _no_spread,
    "teacher wrong": _teacher_wrong,
    "summaries": _summaries,
}
