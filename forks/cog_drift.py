"""A failed question comes back as multiple choice, and, once solved so, as a cloze; no teacher.

Differs: `reformulate`. From Cog-DRIFT (arXiv 2604.04767), where a language model writes the easier
forms ahead of training; here they are made of the gold answer and the student's own wrong answers.
Measured: not measured.
"""

from functools import partial

import forks
from policy import update
from records import Method, Reformulation, RolloutRequest
from reformulate import CANDIDATE, clean, distinct, pre_cap
from reward import last_boxed
from rollout import fitting

FLAGS = ["--method", "grpo"]
CHOICE = (
    "{question}\n\nOne of the answers in <candidate> </candidate> tags is correct, the others are "
    "wrong.\n{options}"
)
CLOZE = "{question}\n\nThe answer is {form}, where each _ stands for a character."
OPTIONS = 4


def method(job):
    """The Method; form: {question id: "choice" or "cloze"}, how it comes back."""
    form = {}
    return Method(partial(reformulate, form), partial(promoting_update, form))


def reformulate(form, plain, step, cfg, engine, teacher, world, rng, clock):
    """Requests of the hardest questions in an easier form."""
    with clock("reformulate"):
        hard = [g for g in plain if g.mean_reward < cfg.tau]
        order = pre_cap([g.mean_reward for g in hard], cfg.tau, cfg.max_reformulated, rng)
        requests = []
        for g in [hard[i] for i in order]:
            kind, q = form.get(g.question.id, "choice"), g.question
            text = cloze(q) if kind == "cloze" else choice(g, rng, engine.control)
            requests.append(RolloutRequest(kind, g.origin, q, text))
        requests, too_long = fitting(requests, engine, cfg)
    return Reformulation(requests, {g.id: [] for g in hard}, too_long)


def choice(group, rng, control):
    """The question with the gold answer among the student's wrong ones, in random order."""
    q = group.question
    wrong = [last_boxed(s.text) or "" for s in group.samples if not s.reward]
    options = [q.golds[0], *distinct([clean(w, control) for w in wrong])[: OPTIONS - 1]]
    rng.shuffle(options)
    blocks = [CANDIDATE.format(text=f"\\boxed{{{option}}}") for option in options]
    return CHOICE.format(question=q.question, options="\n".join(blocks))


def cloze(question):
    """The question with the first half of its gold answer."""
    gold = question.golds[0]
    shown = (len(gold) + 1) // 2
    return CLOZE.format(question=question.question, form=gold[:shown] + "_" * len(gold[shown:]))


def promoting_update(form, policy, optimizer, groups, advantages, cfg, world, rng, clock):
    """policy.update; a form that was solved gives way to the harder one, and back."""
    for g in groups:
        if g.kind == "choice" and g.mean_reward >= cfg.tau:
            form[g.question.id] = "cloze"
        elif g.kind == "cloze" and not g.mean_reward:
            form[g.question.id] = "choice"
    return update(policy, optimizer, groups, advantages, cfg, world, rng, clock)


if __name__ == "__main__":
    forks.run(__file__, FLAGS, method)
