"""Each fork: one step of the tiny world's real student and teacher, and what it claims to change.

python -m pytest -n 0 tests/forks
"""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

import train
from baselines import hint_of
from forks import (
    bread,
    cog_drift,
    dynamic_sampling,
    own_grader,
    pruned_ncq,
    self_distill,
    self_hint,
    teacher_in_gradient,
    zvp,
)
from records import RolloutRequest, Sample
from reward import last_boxed
from runtime.files import read_jsonl
from tiny import digits_of, printed, trace

ROOT = Path(__file__).parent.parent.parent
OTHERS = ("__init__", "trl_zppo")
FILES = sorted(p for p in (ROOT / "forks").glob("*.py") if p.stem not in OTHERS)
CFG = SimpleNamespace(clip_low=0.2, clip_high=0.28, dual_clip=10.0)


def failed(groups):
    return [g for g in groups if g.kind == "plain" and not g.mean_reward]


# ---- the form of a fork --------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_a_fork_is_short_and_says_what_differs_and_what_was_measured(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80 and "class " not in text
    said = importlib.import_module(f"forks.{file.stem}").__doc__
    assert "\nDiffers: " in said and "\nMeasured: " in said
    assert "arXiv" in said or "no paper" in said.lower()


def test_the_trl_script_is_short_and_imports_pure_files_only():
    text = (ROOT / "forks/trl_zppo.py").read_text(encoding="utf-8")
    modules = {line.split()[1].split(".")[0] for line in text.splitlines() if line[:5] == "from "}
    ours = {m for m in modules if (ROOT / f"{m}.py").is_file()}
    assert len(text.splitlines()) <= 120
    assert ours == {"buffer", "loss", "processor", "reformulate", "reward"}


def test_the_shared_groups_are_what_the_tests_below_need(opened):
    _, plain = opened
    assert len(failed(plain)) >= 4 and any(g.mean_reward == 1 for g in plain)


# ---- one by one ----------------------------------------------------------------------------------


def test_teacher_in_gradient_trains_on_the_teachers_tokens(step, opened):
    job, plain = opened
    read = []
    hook = job.policy.register_forward_pre_hook(lambda policy, args: read.extend(args[0]))
    played = step(teacher_in_gradient)
    hook.remove()
    assert played.made.requests == [] and played.moved
    assert played.metrics["drift"] == pytest.approx(0, abs=1e-5)  # measured before the update
    theirs = {s.group_id: s for s in read if s.kind == "teacher"}
    answers = {g.id: played.made.teacher_answers.get(g.id, []) for g in plain}
    want = [g.id for g in failed(plain) if answers[g.id]]
    assert want and set(theirs) <= set(want) and len(theirs) == min(len(want), 6)
    for i, s in theirs.items():
        assert s.reward == 1 and s.response_ids in {a.response_ids for a in answers[i]}
        assert s.prompt.ids == plain[i].samples[0].prompt.ids
    assert played.metrics["gap_mean"] < 1e-4  # teacher tokens do not count as a broken sampler
    again = step(teacher_in_gradient, method=played.method)
    assert again.metrics["drift"] > 1e-4  # the start policy's responses have lost probability


def test_the_off_policy_loss_by_hand():
    """A token of the teacher, probability 0.3, advantage 2; one of the student at ratio 1."""
    rows = [("teacher", 2.0), ("plain", -1.0)]
    batch = [(Sample(None, (5,), (0.0,), "", False, kind=k), a) for k, a in rows]
    logp = torch.tensor([math.log(0.3), math.log(0.5)], requires_grad=True)
    rest = logp.detach(), torch.tensor([2.0, -1.0]), None, None, CFG
    loss, _ = teacher_in_gradient.off_policy_loss(batch, logp, *rest)
    assert loss.item() == pytest.approx(-2 * 0.3 / 0.4 + 1)
    loss.backward()
    # d p/(p + g) / d log p = g p / (p + g)^2
    assert logp.grad.tolist() == pytest.approx([-2 * 0.1 * 0.3 / 0.16, 1.0])


def test_cog_drift_asks_without_a_teacher_and_gets_harder_when_solved(step, opened):
    job, plain = opened
    asked = job.teacher.engine.tokens
    played = step(cog_drift)
    assert job.teacher.engine.tokens == asked
    easier = played.groups[len(plain) :]
    assert len(easier) == 6 and {g.kind for g in easier} == {"choice"}
    for g in easier:
        text = job.policy.lm.tokenizer.decode(g.samples[0].prompt.ids)
        [of_plain] = [p for p in plain if p.question.id == g.question.id]
        options = text.split("wrong.")[1].split("Think")[0]
        assert f"\\boxed{{{g.question.answer}}}" in options
        wrong = {last_boxed(s.text) for s in of_plain.samples if not s.reward} - {None}
        assert 2 <= options.count("\\boxed") <= cog_drift.OPTIONS
        assert sum(f"\\boxed{{{w}}}" in options for w in wrong) == options.count("\\boxed") - 1
    again = step(cog_drift, method=played.method)
    kinds = {g.question.id: g.kind for g in again.groups[len(plain) :]}
    solved = {g.question.id for g in easier if g.mean_reward >= 0.5}
    for name, kind in kinds.items():
        assert kind == ("cloze" if name in solved else "choice")


def test_a_form_that_is_solved_gives_way_and_comes_back(opened):
    job, plain = opened
    g, form = plain[0], {}
    settings = job.policy, job.optimizer, [], [], SimpleNamespace(tau=0.5)
    for kind, rewards, want in [
        ("choice", "00001111", "cloze"),
        ("cloze", "00000001", "cloze"),
        ("cloze", "00000000", "choice"),
        ("choice", "00000111", "choice"),
    ]:
        samples = tuple(replace(s, reward=float(r)) for s, r in zip(g.samples, rewards))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cog_drift, "update", lambda *args: {})
            groups = [replace(g, kind=kind, samples=samples)]
            cog_drift.promoting_update(form, *settings[:2], groups, [], *settings[4:], *"wrc")
        assert form[g.question.id] == want
    q = SimpleNamespace(question="How many?", golds=("504",))
    assert "The answer is 50_, where" in cog_drift.cloze(q)
    assert "The answer is 7, where" in cog_drift.cloze(SimpleNamespace(question="", golds=("7",)))


def test_self_distill_moves_the_student_towards_itself_with_help(step, opened):
    """The divergence is that of the two prompts, and is smaller after the step."""
    job, plain = opened
    played = step(self_distill)
    assert {g.kind for g in played.groups} == {"plain"} and played.moved
    first = played.metrics["self_jsd"]
    assert 0 < first < math.log(2)
    again = step(self_distill, method=played.method)
    assert 0 < again.metrics["self_jsd"] < first


def test_self_hint_takes_the_students_own_hints_for_unsolved_questions(step, opened):
    """The tiny student does not know how to write one, so its words are put into its mouth."""
    job, plain = opened
    real, asked = job.engine.sample, []

    def sample(prompts, n, *settings, **named):
        texts = [job.policy.lm.tokenizer.decode(p.ids) for p in prompts]
        if n != 1:
            return real(prompts, n, *settings, **named)
        asked.extend(texts)
        says = ["<hint>Mind the carry.</hint>", "<hint>no end", r"<hint>It is \boxed{1}</hint>"]
        return [[Sample(p, (1,), (0.0,), says[i % 3], False)] for i, p in enumerate(prompts)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.engine, "sample", sample)
        played = step(self_hint)
    unsolved = {g.question.id: g.question for g in failed(plain)}
    assert len(asked) == min(6, len(unsolved))
    assert all(any(f"\\boxed{{{q.answer}}}" in t for q in unsolved.values()) for t in asked)
    hinted = [g for g in played.groups if g.kind == "hint"]
    assert len(hinted) == math.ceil(len(asked) / 3)  # the other two kinds of reply are no hints
    assert {g.question.id for g in hinted} <= set(unsolved)
    for g in hinted:
        text = job.policy.lm.tokenizer.decode(g.samples[0].prompt.ids)
        assert "<hint>\nMind the carry.\n</hint>" in text
        assert hint_of("<hint>Mind the carry.</hint>", g.question.golds) is not None


def test_self_hint_asks_the_real_student(step, opened):
    job, plain = opened
    asked = job.teacher.engine.tokens
    step(self_hint)
    assert job.teacher.engine.tokens == asked


def test_dynamic_sampling_replaces_what_is_still_flat(step, opened):
    job, plain = opened
    played = step(dynamic_sampling)
    redrawn = [g for g in played.groups if g.kind == "redrawn"]
    known = {g.question.id for g in plain}
    assert played.made.requests == [] and played.moved
    assert not known & {g.question.id for g in redrawn}
    assert not any(g.zero_advantage for g in redrawn)
    ids = [g.id for g in played.groups]
    assert len(set(ids)) == len(ids) and all(
        s.group_id == g.id for g in played.groups for s in g.samples
    )
    # the denominator is that of the groups with a spread
    live = [g for g in played.groups if not g.zero_advantage]
    assert played.metrics["trained"] == sum(len(s.response_ids) for g in live for s in g.samples)


def test_dynamic_sampling_draws_as_many_as_are_flat(opened, monkeypatch):
    job, plain = opened
    calls = []

    def rollout(engine, requests, first_id=0, **settings):
        calls.append(requests)
        return []

    monkeypatch.setattr(dynamic_sampling, "rollout", rollout)
    cfg = SimpleNamespace(group_size=8)
    made = SimpleNamespace(requests=[], _replace=lambda **kw: kw)
    monkeypatch.setattr(train, "reformulate", lambda *args: made)
    job_args = 1, cfg, job.engine, None, job.world, Random(0)
    from runtime.metrics import Clock

    dynamic_sampling.reformulate(job.questions, plain, *job_args, Clock())
    flat = [g for g in plain if g.zero_advantage]
    assert len(calls[1]) == len(flat) and {r.kind for r in calls[1]} == {"redrawn"}


def test_zvp_leaves_no_group_without_a_gradient(step, opened):
    _, plain = opened
    played = step(zvp)
    tokens = sum(len(s.response_ids) for g in plain for s in g.samples)
    assert played.metrics["trained"] == tokens and played.moved
    assert {g.kind for g in played.groups} == {"plain"}


def test_the_entropy_shaped_advantage_by_hand():
    """Groups 0 (all right) and 1 (all wrong) are flat, group 2 is not."""
    rows = [(0, 0.1), (1, -0.1), (2, -3.0)]
    batch = [(Sample(None, (5, 6), (0.0,) * 2, "", False, group_id=i), a) for i, a in rows]
    logp = torch.full((6,), -1.0, requires_grad=True)
    advantage = torch.tensor([0.1, 0.1, -0.1, -0.1, -3.0, -3.0])
    entropy = torch.tensor([0.5, 2.0, 0.5, 2.0, 0.5, 2.0])
    rest = logp.detach(), advantage, entropy, None, CFG
    loss, _ = zvp.entropy_shaped_loss({0, 1}, batch, logp, *rest)
    loss.backward()  # at ratio 1 the gradient is minus the advantage
    assert (-logp.grad).tolist() == pytest.approx([0.05, 0.2, -0.15, 0.0, -3.0, -3.0])


def test_pruned_ncq_shows_no_answer_that_was_given_once(step, opened):
    _, plain = opened
    g = failed(plain)[0]
    wrongs = [printed(g.question.source, digits_of(g.question)), 1, 2]
    texts = []
    for answer in [wrongs[0]] * 5 + [wrongs[1]] * 2 + [wrongs[2]]:
        steps = trace(g.question.source, digits_of(g.question), answer)
        texts.append(f"{steps}</think>\\boxed{{{answer}}}")
    samples = tuple(replace(s, text=t, reward=0.0) for s, t in zip(g.samples, texts))
    played = step(pruned_ncq, groups=[replace(g, id=0, samples=samples)])
    [asked] = [r for r in played.made.requests if r.kind == "ncq"]
    assert set(asked.listed_answers) == {str(w) for w in wrongs[:2]}
    assert {last_boxed(c) for c in asked.wrong_candidates} <= {str(w) for w in wrongs[:2]}
    assert f"\\boxed{{{wrongs[2]}}}" not in asked.text and f"\\boxed{{{wrongs[1]}}}" in asked.text
    assert asked.text.count("<candidate>\n") == len(asked.wrong_candidates)


def test_pruned_ncq_keeps_a_prompt_of_which_nothing_would_be_left(opened):
    _, plain = opened
    g = failed(plain)[0]
    samples = tuple(replace(s, text=f"\\boxed{{{i}}}") for i, s in enumerate(g.samples))
    wrong = tuple(s.text for s in samples)
    answers = {"wrong_candidates": wrong, "listed_answers": tuple("01234567")}
    request = RolloutRequest("ncq", "new", g.question, "as it was", **answers)
    assert pruned_ncq.pruned(request, replace(g, samples=samples), Random(0), ()) is request


def test_bread_keeps_only_branches_with_a_spread(step, opened):
    """The tiny student is all wrong or, a token later, all right, so there may be none."""
    job, plain = opened
    played = step(bread)
    branches = [g for g in played.groups if g.kind == "prefix"]
    assert all(not g.zero_advantage for g in branches) and played.made.requests == []
    assert [g.id for g in played.groups] == list(range(len(played.groups)))
    assert {g.question.id for g in branches} <= {g.question.id for g in failed(plain)}
    for g in branches:
        [shown] = g.correct_candidates
        assert all(s.text.startswith(shown) for s in g.samples)


def test_breads_search_ends_at_the_shortest(opened, monkeypatch):
    """A student that is right in half of its branches from 7 forced tokens on, always from 9 on."""
    job, plain = opened
    g = failed(plain)[0]
    ids = tuple(range(5, 25))
    answer = Sample(None, ids, (), "", False, reward=1.0)
    lengths = []

    def rollout(engine, requests, *rest, **more):
        out = []
        for r in requests:
            n = len(r.prefix)
            lengths.append(n)
            assert r.prefix == ids[:n]
            right = 0 if n < 7 else 4 if n < 9 else 8
            samples = (replace(s, reward=float(i < right)) for i, s in enumerate(g.samples))
            out.append(
                replace(g, kind="prefix", samples=tuple(samples), wrong_candidates=(str(n),))
            )
        return out

    monkeypatch.setattr(bread, "rollout", rollout)
    monkeypatch.setattr(bread, "correct_answers", lambda *args: {g.id: [answer]})
    plain = [g, *(x for x in plain if x.mean_reward)]
    sizes = {"max_prompt": 256, "max_response": 40}
    cfg = SimpleNamespace(max_reformulated=8, tau=0.5, thinking=True, **sizes)
    from runtime.metrics import Clock

    args = 1, cfg, job.engine, None, job.world, Random(0), Clock()
    made = bread.reformulate(plain, *args)
    [branch] = made.groups
    assert branch.wrong_candidates == ("7",) and branch.id == len(plain)
    assert lengths == [10, 5, 7, 6] and {s.group_id for s in branch.samples} == {len(plain)}


@pytest.mark.parametrize(
    "response, reward",
    [
        ("7*8=56,56*9=504</think>\\boxed{504}", 1),
        ("7*8=54,54*9=504</think>\\boxed{504}", 0),  # right by wrong steps
        ("7*8=56,56*9=514</think>\\boxed{514}", 0),
        ("\\boxed{504}", 1),
        ("3+4=7,7+9=16</think>\\boxed{504}", 1),
        ("3+4=8</think>\\boxed{504}", 0),
        ("", 0),
    ],
)
def test_own_grader(response, reward):
    assert own_grader.steps_hold(response, ("504",)) == reward


# ---- whole runs ----------------------------------------------------------------------------------

RUN = "--steps 2 --batch 2 --iterations 2 --n 4 --max-response 40 --save-every 1".split()


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_a_fork_runs_as_train_does_and_goes_on(file, tmp_path):
    """Two steps of train.main, then a third by --resume; train.py itself refuses to go on."""
    questions = [
        {"id": f"q{i}", "question": f"{a} {b} {c}\n{'Multiply the digits from left to right.'}"}
        | {"answer": str(a * b * c), "source": "product3"}
        for i, (a, b, c) in enumerate([(7, 8, 9), (6, 7, 8), (9, 9, 9), (3, 4, 5), (8, 8, 7)])
    ]
    data = tmp_path / "my.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    fork, out = importlib.import_module(f"forks.{file.stem}"), tmp_path / "run"
    argv = [*fork.FLAGS, *RUN, "--data", str(data), "--out", str(out)]
    method = getattr(fork, "method", None)
    assert train.main(argv, method, file.stem) == 0
    assert train.main([*argv, "--steps", "3", "--resume"], method, file.stem) == 0
    steps = [r["step"] for r in read_jsonl(out / "metrics.jsonl")]
    assert steps == [0, 1, 2, 3] and (out / "final/model.safetensors").is_file()
    assert json.loads((out / "config.json").read_text())["fork"] == file.stem
    with pytest.raises(ValueError, match="fork"):
        train.main([*argv, "--steps", "4", "--resume"])
