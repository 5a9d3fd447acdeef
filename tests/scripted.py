"""Scripted engines, and the real loop of train.train around them: how many of a question's rollouts
are right is a table, so every number that a step has to arrive at can be written down by hand.
"""

import re
from collections import Counter

import train
from baselines import method_of
from data import Question
from engines.base import Engine
from records import Method, Sample
from runtime.console import StopSignal
from runtime.files import read_jsonl

N = 8  # samples a prompt
NAME = r"Item (q\d\d)\?"


class Scripted(Engine):
    """An engine whose k-th response to a prompt is reply(prompt text, k), with k counted over all
    calls.

    calls: what it was asked between two times that it was idle, as dicts.
    """

    def __init__(self, lm, reply):
        super().__init__(lm)
        self.reply, self.calls, self.asked, self.queue = reply, [], {}, []

    def submit(self, key, prompt, n, max_new_tokens, seed, temperature=1.0, top_p=1.0, **more):
        if not self.queue:
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
            self.calls.append({"prompts": [], "n": n, "seeds": [], "top_p": top_p, **settings})
        self.calls[-1]["prompts"].append(prompt)
        self.calls[-1]["seeds"].append(seed)
        self.queue.append((key, prompt, n))

    def step(self):
        done, self.queue = self.queue, []
        return [(key, [self.respond(prompt) for _ in range(n)]) for key, prompt, n in done]

    def respond(self, p):
        prompt = self.lm.tokenizer.decode(p.ids)
        k = self.asked[prompt] = self.asked.get(prompt, -1) + 1
        text = self.reply(prompt, k)
        ids = ids_of(self.lm, text) + self.lm.eos_ids[:1]
        return Sample(p, ids, (0.0,) * len(ids), text, False)

    @property
    def busy(self):
        return bool(self.queue)

    def abort(self):
        self.queue = []

    def holds(self, net):
        return True  # nothing to sync, and no log-probs that check_sampler could compare

    def sync_weights(self, named):
        pass


def ids_of(lm, text):
    return tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


def number(name):
    """7 of "q07"."""
    return int(name[1:])


class World:
    """A scripted run. right: (question id, kind, how often asked before) -> how many of the N
    rollouts are right. script: its teacher solves the questions in `teacher` (all by default), or
    answers says(name, k), k counted over its draws; hint(name): its reply to a request for a hint;
    continues(name, i): the student's i-th continuation of a prefix.

    After play() `steps` holds, for each rollout step: groups and adv as the update got them;
    buffer: the ids in it before the step; asked: ids of the questions put to the teacher;
    summarized: ids of those whose responses it was to summarize; read: the Samples that the policy
    was run on. updates: gradient updates made. Answers of the teacher are drawn afresh, so that
    each asking is seen; its summaries are kept (the default), so that a text is summarized once.
    """

    def __init__(self, make_job, lm, cfg, right, argv="", questions=8, steps=3, **script):
        self.right, self.steps, self.visits, self.updates = right, [], Counter(), 0
        self.script = {"teacher": None, "says": None, "hint": None, "continues": None} | script
        settings = f"--n {N} --steps {steps} --iterations 1 --save-every 0 --show 0"
        self.cfg = cfg(settings, argv.replace("--no-fresh-teacher", ""))
        self.cfg.fresh_teacher = "--no-fresh" not in argv  # as a flag it is idle for some methods
        ids = [f"q{k:02d}" for k in range(questions)]
        self.questions = [Question(name, f"Item {name}?", gold(name)) for name in ids]
        self.gold = {q.id: q.answer for q in self.questions}
        method = train.ZPPO if self.cfg.method == "zppo" else method_of(self.cfg.method)
        distiller = self.script.get("distiller")
        self.job = make_job(self.cfg, self.answer, self.questions, lm, distiller=distiller)
        self.job.method, self.real = Method(method.reformulate, self.update), method
        self.job.engine = Scripted(lm, self.respond)
        self.job.checkpoints.save = lambda: None  # takes longer than all the rest
        self.read = []
        self.job.policy.register_forward_pre_hook(lambda policy, args: self.read.extend(args[0]))
        self.job.optimizer.register_step_post_hook(self.count)

    def count(self, *args):
        self.updates += 1

    def update(self, policy, optimizer, groups, advantages, *rest):
        """What a step came to, then the method's own update; of the policy loss, whose numbers are
        for tests/test_policy.py, on one group.
        """
        step = {"groups": list(groups), "adv": list(advantages), "read": []}
        step |= {"buffer": list(self.job.state.buffer.entries), "calls": len(self.calls())}
        self.steps.append(step)
        if self.job.policy.teacher is None:
            groups, advantages = groups[:1], advantages[:N]
        self.read = step["read"]
        return self.real.update(policy, optimizer, groups, advantages, *rest)

    def calls(self):
        return self.job.teacher.engine.calls

    def respond(self, prompt, k):
        name, kind = re.search(NAME, prompt)[1], kind_of(prompt)
        visit, i = divmod(self.visits[name, kind], N)
        self.visits[name, kind] += 1
        if kind == "prefix" and self.script["continues"]:
            return self.script["continues"](name, i)
        good = i < self.right(name, kind, visit)
        return f"{name} try {i}</think>\\boxed{{{self.gold[name] if good else 900 + i % 3}}}"

    def answer(self, prompt, k):
        response = re.findall(r"<response>\s*(.*?)\s*</response>", prompt, re.DOTALL)
        if response and "Write a hint" not in prompt:
            return f"<summary>{response[0]}</summary>"
        name = re.search(NAME, prompt)[1]
        if response:  # the request for a hint shows a correct response
            assert f"{name} by the teacher" in response[-1] and self.gold[name] in response[-1]
            hint = self.script["hint"]
            return hint(name) if hint else f"<hint>Look at {name} twice.</hint>"
        if self.script["says"]:
            return self.script["says"](name, k)
        solved = self.script["teacher"]
        solves = solved is None or name in solved
        return f"{name} by the teacher \\boxed{{{self.gold[name] if solves else 555}}}"

    def play(self):
        with StopSignal(self.job) as stop:
            train.train(self.cfg, self.job, stop)
        done = 0
        for step in self.steps:
            prompts = [p for c in self.calls()[done : step["calls"]] for p in c["prompts"]]
            texts = [self.text(p) for p in prompts]
            done = step["calls"]
            step["asked"] = [re.search(NAME, t)[1] for t in texts if "<response>" not in t]
            shown = [t.split("<response>")[1] for t in texts if "<response>" in t]
            step["summarized"] = {re.search(r"q\d\d", t)[0] for t in shown}
        assert done == len(self.calls()) and len(self.steps) == self.cfg.steps
        return self

    def text(self, prompt):
        return self.job.policy.lm.tokenizer.decode(prompt.ids)

    def records(self):
        """The lines of metrics.jsonl, one a step."""
        return read_jsonl(self.job.out / "metrics.jsonl")

    def buffers(self):
        """The buffer after each step, as it was."""
        return [s["buffer"] for s in self.steps[1:]] + [list(self.job.state.buffer.entries)]


def gold(name):
    """The answer of a question: "107" of "q07"."""
    return str(100 + number(name))


def kind_of(prompt):
    marks = {"Two candidate": "bcq", "WRONG": "ncq", "<hint>": "hint"}
    plain = "plain" if prompt.endswith("<think>\n") else "prefix"
    return next((kind for mark, kind in marks.items() if mark in prompt), plain)


def of(step, *kinds, origin=None):
    return [g for g in step["groups"] if g.kind in kinds and origin in (None, g.origin)]


def names(groups):
    return [g.question.id for g in groups]
