"""The baselines of ZPPO section 4 and Appendix D.2 (hint, prefix, off- and on-policy distillation,
GRPO), through train.train.

    python -m pytest tests/test_methods.py

First with scripted engines, where all that a step holds can be written down by hand; then real
updates of the tiny student.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import N, World, buffers, names, of, second_reading, signals  # noqa: F401

import model
import tiny
import train
from config import DISTILL, flags
from distributed import Roles, policy_of
from records import Ask
from rollout import prompt_of
from runtime import launch as start
from runtime.metrics import Clock

ROOT = Path(__file__).parent.parent


class Baseline(World):
    """A World whose teacher also writes hints, hint(name), and answers by answer_text(name, k), k
    counted over all its draws.

    steps hold, for the distillation baselines, the plain groups and the lessons. updates: gradient
    updates made.
    """

    def __init__(
        self, monkeypatch, *args, hint=None, says=None, continues=None, distiller=None, **more
    ):
        super().__init__(monkeypatch, *args, **more)
        self.hint, self.says, self.continues, self.updates = hint, says, continues, 0
        step = self.run.optimizer.step
        self.run.optimizer.step = lambda: (step(), setattr(self, "updates", self.updates + 1))
        real = train.distilled

        def distilled(run, plain, step):
            before = list(run.buffer.entries)
            lessons = real(run, plain, step)
            self.steps.append(
                {
                    "groups": plain,
                    "lessons": lessons,
                    "buffer": before,
                    "calls": len(run.teacher.engine.calls),
                }
            )
            return lessons

        monkeypatch.setattr(train, "distilled", distilled)
        if distiller:
            self.run.policy = policy_of(self.run.student, self.run.world, distiller)

    def respond(self, prompt, k):
        name = re.search(r"Item (q\d\d)\?", prompt)[1]
        kind = (
            "hint" if "<hint>" in prompt else "plain" if prompt.endswith("<think>\n") else "prefix"
        )
        visit, i = divmod(self.visits[name, kind], N)
        self.visits[name, kind] += 1
        if kind == "prefix" and self.continues:
            return self.continues(name, i)
        good = i < self.right(name, kind, visit)
        return f"{name} try {i}</think>\\boxed{{{self.gold[name] if good else 900 + i % 3}}}"

    def answer(self, prompt, k):
        name = re.search(r"Item (q\d\d)\?", prompt)[1]
        if "Write a hint" in prompt:
            assert (
                f"{name} by the teacher" in prompt and self.gold[name] in prompt
            )  # from a correct response
            return self.hint(name) if self.hint else f"<hint>Look at {name} twice.</hint>"
        return self.says(name, k) if self.says else super().answer(prompt, k)


@pytest.fixture
def play(monkeypatch, make_run, scripted, fresh_lm, cfg):
    real = train.update, train.distilled

    def make(right, *argv, **more):
        monkeypatch.setattr(train, "update", real[0])
        monkeypatch.setattr(train, "distilled", real[1])
        return Baseline(monkeypatch, make_run, scripted, fresh_lm, cfg, right, *argv, **more).play()

    return make


def four_hard(name, kind, visit):
    """q00 ... q03 have 0 ... 3 of 8 right, the others all; helped, one is right."""
    return 1 if kind != "plain" else int(name[1:]) if name < "q04" else 8


def ids_of(lm, text):
    return tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


# ---- hint and prefix: which questions ------------------------------------------------------------


@pytest.mark.parametrize("method", ["hint", "prefix"])
@pytest.mark.parametrize(
    "cap, solved, want",
    [
        (1, "0123", "0"),
        (2, "0123", "01"),
        (2, "123", "12"),
        (2, "3", "3"),
        (2, "", ""),
        (8, "0123", "0123"),
        (0, "0123", ""),
    ],
)
def test_the_hardest_that_the_teacher_solves(play, method, cap, solved, want):
    """A harder question without a correct teacher answer takes no slot; one that is not hard is not
    asked about.
    """
    world = play(
        four_hard,
        "--method",
        method,
        "--batch",
        8,
        "--aug",
        cap / 8,
        steps=1,
        teacher={f"q0{i}" for i in solved},
    )
    step = world.steps[0]
    helped = of(step, method)
    assert sorted(names(helped)) == [f"q0{i}" for i in want] and len(step["groups"]) == 8 + len(
        want
    )
    assert {g.kind for g in step["groups"]} <= {"plain", method}  # no BCQ, no NCQ
    assert set(step["asked"]) == ({f"q0{i}" for i in range(4)} if cap else set())
    for g in helped:  # a group, a baseline
        rewards = [s.reward for s in g.samples]
        at = N * g.id
        assert (
            len(rewards) == N
            and {s.kind for s in g.samples} == {method}
            and rewards == [1] + [0] * 7
        )
        assert step["adv"][at] > 0 > step["adv"][at + 1] and sum(
            step["adv"][at : at + N]
        ) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", ["hint", "prefix"])
def test_the_buffer_stays_unless_switched_off(play, method):
    argv = "--method", method, "--batch", 4, "--replay", 1, "--aug", 0.5
    world = play(
        lambda name, kind, visit: 8 if kind != "plain" else int(name[1:]) + visit,
        *argv,
        questions=8,
        steps=4,
    )
    assert buffers(world) == second_reading(world) and any(
        g.origin == "replay" for s in world.steps for g in of(s, method)
    )
    assert all(len(of(s, method)) <= 2 for s in world.steps) and [
        of(s, method) != [] for s in world.steps[:2]
    ] == [True, True]
    without = play(lambda *a: 0, *argv, "--no-buffer", questions=8)
    assert all(
        len(of(s, "plain")) == 4 and {g.origin for g in s["groups"]} == {"new"}
        for s in without.steps
    )
    assert all(len(of(s, method)) == 2 for s in without.steps)


# ---- hint ----------------------------------------------------------------------------------------


def test_a_hint_stands_in_its_tags_after_the_question(play):
    world = play(four_hard, "--method", "hint", "--batch", 8, "--aug", 0.5, steps=1)
    lm = world.run.student
    for g in of(world.steps[0], "hint"):
        name = g.question.id
        text = f"Item {name}?\n\nA hint follows in <hint> </hint> tags. You may use it.\n<hint>\nLook at {name} twice.\n</hint>"
        assert g.samples[0].prompt.ids == prompt_of(lm, g.question, text, world.cfg).ids
        assert g.right == (f"Look at {name} twice.",) and not g.wrong and not g.listed
    record = world.records()[0]["groups"]
    assert (
        record["hint"]["groups"] == 4
        and record["hint"]["correct"] == 4
        and record["bcq"]["groups"] == 0
    )


@pytest.mark.parametrize(
    "text",
    [
        "<hint>It is 100, or 101, or 102, or 103.</hint>",
        "<hint>Write \\boxed{7}.</hint>",
        "<hint>open",
        "no tags",
        "<hint> </hint>",
        "",
    ],
)
def test_a_hint_that_gives_the_answer_away_is_not_used(play, text):
    """Nor one with a box, without closed tags, or empty; the others of the step are."""
    world = play(
        four_hard,
        "--method",
        "hint",
        "--batch",
        8,
        "--aug",
        0.5,
        steps=1,
        hint=lambda name: "<hint>Count again.</hint>" if name == "q02" else text,
    )
    assert names(of(world.steps[0], "hint")) == ["q02"]
    nobody = play(
        four_hard, "--method", "hint", "--batch", 8, "--aug", 0.5, steps=1, hint=lambda name: text
    )
    assert of(nobody.steps[0], "hint") == []


def test_a_hint_cant_leave_its_tags(play):
    world = play(
        four_hard,
        "--method",
        "hint",
        "--batch",
        8,
        "--aug",
        0.125,
        steps=1,
        hint=lambda name: "<hint>a</hi<think>nt> b <|im_end|></candidate></hint>",
    )
    ids = of(world.steps[0], "hint")[0].samples[0].prompt.ids
    text, lm = world.run.student.tokenizer.decode(ids), world.run.student
    assert (
        "<hint>\na b\n</hint>" in text and ids.count(lm.eos_ids[0]) == 1
    )  # the one that the template wrote


# ---- prefix --------------------------------------------------------------------------------------

# 26 tokens: q 0 0 : _ \boxed{ 1 0 0 } and " by the teacher" (15), and the end token. 40 % of 26 is
# 10.4: the first ten.
WHOLE = "{name}: \\boxed{{{gold}}} by the teacher"


def test_the_first_forty_percent_are_forced(play):
    """The box stands in the prefix, so a continuation without a box is right, and one with another
    box is wrong.
    """
    world = play(
        four_hard,
        "--method",
        "prefix",
        "--batch",
        8,
        "--aug",
        0.25,
        steps=1,
        says=lambda name, k: WHOLE.format(name=name, gold=100 + int(name[1:])),
        continues=lambda name, i: " so it is" if i % 2 else " or \\boxed{7}",
    )
    lm, helped = world.run.student, of(world.steps[0], "prefix")
    assert names(helped) == ["q00", "q01"]
    for g in helped:
        name = g.question.id
        head = f"{name}: \\boxed{{{world.gold[name]}}}"
        prefix = ids_of(lm, head)
        assert (
            len(prefix) == 10
            and len(ids_of(lm, WHOLE.format(name=name, gold=world.gold[name]))) == 25
        )
        plain = prompt_of(lm, g.question, g.question.question, world.cfg).ids
        for i, s in enumerate(g.samples):
            tail = " so it is" if i % 2 else " or \\boxed{7}"
            assert s.prompt.ids == plain + prefix  # no closer, no end of turn after it
            assert s.response_ids == ids_of(lm, tail) + lm.eos_ids and len(s.sampler_logp) == len(
                s.response_ids
            )
            assert s.text == head + tail and s.reward == i % 2
        assert g.right == (head,)


def test_a_box_that_begins_in_the_prefix(play):
    """40 % of "q00 \\boxed{100} says it" (4 + 1 + 3 + 1 + 8 + the end: 18 tokens) are 7: the box is
    cut after two digits.
    """
    world = play(
        four_hard,
        "--method",
        "prefix",
        "--batch",
        8,
        "--aug",
        0.125,
        steps=1,
        says=lambda name, k: f"{name} \\boxed{{{world_gold(name)}}} says it",
        continues=lambda name, i: f"{i}}}",
    )
    (g,) = of(world.steps[0], "prefix")
    assert [s.text for s in g.samples] == [f"q00 \\boxed{{10{i}}}" for i in range(8)]
    assert [s.reward for s in g.samples] == [1] + [0] * 7


def world_gold(name):
    return 100 + int(name[1:])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 12288])
def test_the_share_is_rounded_down_to_at_least_one(make_run, cfg, questions, n):
    run = make_run(cfg("--method", "prefix"))
    g = type("G", (), {"id": 0, "origin": "new", "question": questions["text"][0]})
    answer = type("A", (), {"response_ids": tuple(range(n)), "text": ""})
    ((_, kind, ask, *_),) = train.prefixes([g], {0: [answer]}, run)
    assert kind == "prefix" and ask.prefix == tuple(range(max(1, 2 * n // 5)))


def test_only_continuations_are_trained_on(cfg, fresh_lm, make_run, questions):
    """The gradient of an update on real continuations of a forced prefix, against plain forwards of
    the whole string, one a row, through the model's own forward, whose loss covers the continuation
    only; one that covers the prefix too is another.
    """
    lm, c = (
        fresh_lm,
        cfg(
            "--method",
            "prefix",
            "--n",
            3,
            "--max-response",
            9,
            "--iterations",
            1,
            "--grad-clip",
            1e9,
            "--lr",
            0,
        ),
    )
    some = [questions["image"][0], questions["text"][0]]
    run = make_run(c, questions=some, student=lm)
    prefixes = [ids_of(lm, "7*8=56,"), ids_of(lm, "</think>\\box")]
    groups = run.sample(
        "prefix", [Ask("new", q, q.question, p) for q, p in zip(some, prefixes)], 0, 1
    )
    assert all(
        s.prompt.ids[-len(p) :] == p and len(s.response_ids) <= 9
        for g, p in zip(groups, prefixes)
        for s in g.samples
    )
    adv = [1.5, -0.5, -1.0, -0.7, 0.4, 0.3]
    grads = {}
    run.optimizer.step = lambda: grads.update(
        {k: p.grad.clone() for k, p in lm.net.named_parameters()}
    )
    train.update(run, groups, adv, Clock())

    def by_hand(covers):
        lm.net.zero_grad()
        rows = [
            (s, a, len(p))
            for g, p, k in zip(groups, prefixes, (0, 3))
            for s, a in zip(g.samples, adv[k : k + 3])
        ]
        n_tokens = sum(len(s.response_ids) + extra * covers for s, _, extra in rows)
        for s, a, extra in rows:
            ids = torch.tensor([[*s.prompt.ids, *s.response_ids]])
            vision = {}
            if s.prompt.images:
                x = lm.image_processor(images=list(s.prompt.images), return_tensors="pt")
                vision = {
                    "pixel_values": x["pixel_values"],
                    "image_grid_thw": x["image_grid_thw"],
                    "mm_token_type_ids": (ids == lm.image_id).int(),
                }
            logits = lm.net(input_ids=ids, **vision).logits[0].float()
            logits[:, lm.banned] = -1e30
            first = len(s.prompt.ids) - extra * covers
            logp = torch.log_softmax(logits[first - 1 : -1], -1).gather(1, ids[0, first:, None])
            (-a * logp.sum() / n_tokens).backward()
        return {k: p.grad.clone() for k, p in lm.net.named_parameters()}

    largest = max(float(g.abs().max()) for g in grads.values())
    off = {
        covers: max(float((grads[k] - g).abs().max()) for k, g in by_hand(covers).items()) / largest
        for covers in (0, 1)
    }
    assert largest > 1e-3 and off[0] < 1e-4 and off[1] > 0.05, off


# ---- distillation: what is trained on ------------------------------------------------------------


def takes(name, k):
    """A teacher whose first and third of four draws are right, each draw with its number in it."""
    return f"{name} take {k}</think>\\boxed{{{world_gold(name) if k % 4 in (0, 2) and name != 'q01' else 555}}}"


def test_off_policy_lessons_are_fresh_correct_teacher_responses(play, fresh_lm):
    """To every plain question, hard or easy, new or replayed, and none to q01, which the teacher
    can't solve.
    """
    world = play(
        lambda name, kind, visit: int(name[1:]),
        "--method",
        "off-distill",
        "--batch",
        4,
        "--replay",
        1,
        questions=12,
        says=takes,
        distiller=tiny.new_model(1),
        fresh=False,
    )
    lm, visits = world.run.student, {}
    for step in world.steps:
        by_question = {}
        for s in step["lessons"]:
            by_question.setdefault(s.question_id, []).append(s)
        assert (
            set(by_question) == set(names(step["groups"])) - {"q01"}
            and of(step, "plain") == step["groups"]
        )
        assert sorted(step["asked"]) == sorted(names(step["groups"]))
        for name, lessons in by_question.items():
            first = 4 * visits.get(name, 0)  # drawn anew at each visit
            assert [s.text for s in lessons] == [takes(name, first), takes(name, first + 2)]
            question = world.questions[int(name[1:])]
            for s in lessons:
                assert s.response_ids == ids_of(lm, s.text) + lm.eos_ids and s.reward == 1
                assert s.prompt.ids == prompt_of(lm, question, question.question, world.cfg).ids
        for g in step["groups"]:
            visits[g.question.id] = visits.get(g.question.id, 0) + 1
    assert max(visits.values()) > 1 and visits["q01"]
    records = world.records()
    assert [r["trained"] for r in records] == [
        sum(len(s.response_ids) for s in st["lessons"]) for st in world.steps
    ]
    assert all(0 < r["loss"] < math.log(2) and r["grad_norm"] > 0 for r in records)


@pytest.mark.parametrize("method", DISTILL)
def test_rollouts_still_feed_buffer_and_metrics(play, method):
    world = play(
        lambda name, kind, visit: int(name[1:]) + visit,
        "--method",
        method,
        "--batch",
        4,
        "--replay",
        1,
        questions=6,
        steps=3,
        distiller=tiny.new_model(1),
    )
    assert buffers(world) == second_reading(world) and any(
        g.origin == "replay" for s in world.steps for g in s["groups"]
    )
    assert world.updates == 3  # one a rollout step
    for record, step in zip(world.records(), world.steps):
        new = of(step, "plain", origin="new")
        assert (
            record["groups"]["new"]["correct"] == sum(s.reward for g in new for s in g.samples)
            and len(new) == 4
        )
        assert all(
            record["groups"][kind]["groups"] == 0 for kind in ("bcq", "ncq", "hint", "prefix")
        )
        assert record["buffer"]["size"] == len(second_reading(world)[record["step"] - 1])
    alone = play(
        lambda *a: 0,
        "--method",
        method,
        "--batch",
        4,
        "--no-buffer",
        steps=2,
        distiller=tiny.new_model(1),
    )
    assert all(len(s["groups"]) == 4 for s in alone.steps)


def test_on_policy_lessons_are_the_students_own(play):
    world = play(
        lambda name, kind, visit: int(name[1:]),
        "--method",
        "on-distill",
        "--batch",
        4,
        distiller=tiny.new_model(1),
    )
    for step, record in zip(world.steps, world.records()):
        assert (
            step["lessons"] == [s for g in step["groups"] for s in g.samples]
            and step["asked"] == []
        )
        assert (
            record["trained"] == sum(len(s.response_ids) for s in step["lessons"])
            and record["loss"] > 0
        )
    assert world.run.teacher.engine.calls == []  # its weights are read, not its words


def test_nothing_solved_is_a_legal_step(play, weights):
    world = play(
        lambda *a: 4,
        "--method",
        "off-distill",
        "--batch",
        4,
        "--weight-decay",
        0,
        steps=2,
        teacher=set(),
        distiller=tiny.new_model(1),
    )
    assert [s["lessons"] for s in world.steps] == [[], []] and world.updates == 2
    assert [(r["loss"], r["grad_norm"], r["trained"]) for r in world.records()] == [
        (0.0, 0.0, 0)
    ] * 2
    assert all(
        torch.equal(w, v)
        for w, v in zip(weights(world.run.student).values(), weights(tiny.new_model(0)).values())
    )


# ---- distillation: real updates ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six questions of the tiny world: two that its student fails and its teacher solves, four that
    both know.
    """
    folder, rows = tmp_path_factory.mktemp("questions"), []
    for q in (
        sorted(tiny.questions("train")[:40], key=tiny.is_hard, reverse=True)[:2]
        + [q for q in tiny.questions("train") if not tiny.is_hard(q)][:4]
    ):
        q.images[0].save(folder / f"{q.id}.png")
        rows.append(
            {"id": q.id, "question": q.question, "answer": q.answer, "images": [f"{q.id}.png"]}
        )
    (folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder)


@pytest.fixture
def opened(folder, tmp_path):
    """A Run as train.main opens it."""
    runs = []

    def make(*argv):
        out = str(tmp_path / f"o{len(runs)}")
        run, _ = start.open_all(
            flags(["--data", folder, "--out", out, "--device", "cpu", *map(str, argv)]), Roles()
        )
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def divergence(run, lessons):
    with torch.no_grad():
        loss, each = run.policy(lessons, run.cfg.temperature, distill=True)
    return float(loss) / len(each)


@pytest.mark.parametrize("method", DISTILL)
def test_the_student_comes_nearer_to_the_teacher(opened, weights, method):
    run = opened("--method", method, "--n", 2, "--batch", 6, "--iterations", 1)
    plain = run.sample(
        "plain", [Ask("new", run.questions[i], run.questions[i].question) for i in range(6)], 0, 1
    )
    lessons = train.distilled(run, plain, 1)
    assert (
        len(lessons) == 12
        if method == "on-distill"
        else 12 < len(lessons) <= 24 and all(s.reward for s in lessons)
    )
    teacher, student = weights(run.policy.frozen.lm), weights(run.student)
    seen = [divergence(run, lessons)]
    for _ in range(4):
        numbers = train.distill(run, lessons, Clock())
        assert numbers["loss"] == pytest.approx(
            seen[-1], rel=1e-4
        )  # logged before the update it makes
        seen.append(divergence(run, lessons))
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.8 * seen[0] and seen[0] > 0.005, seen
    assert all(torch.equal(w, teacher[k]) for k, w in weights(run.policy.frozen.lm).items())
    assert all(p.grad is None for p in run.policy.frozen.lm.net.parameters())
    assert any(not torch.equal(w, student[k]) for k, w in weights(run.student).items())


@pytest.mark.parametrize("method", DISTILL)
def test_a_student_that_is_its_teacher_learns_nothing(opened, weights, method):
    run = opened(
        "--method",
        method,
        "--teacher",
        ROOT / "assets/student",
        "--n",
        2,
        "--batch",
        6,
        "--iterations",
        1,
    )
    assert run.policy.frozen.lm.net is not run.student.net
    plain = run.sample(
        "plain", [Ask("new", run.questions[i], run.questions[i].question) for i in range(6)], 0, 1
    )
    lessons = [s for g in plain for s in g.samples]
    before = weights(run.student)
    numbers = train.distill(run, lessons, Clock())
    assert abs(numbers["loss"]) < 1e-9 and numbers["grad_norm"] < 1e-6 and numbers["trained"] > 100
    assert all(float((w - before[k]).abs().max()) < 1e-3 for k, w in weights(run.student).items())


@pytest.mark.parametrize("method", DISTILL)
def test_different_tokenizers_are_refused_at_the_start(folder, tmp_path, method):
    lm = tiny.new_model(1)
    lm.tokenizer.add_tokens(["something"])
    model.save(lm, tmp_path / "other")
    with pytest.raises(ValueError, match="different tokenizers") as e:
        train.main(
            [
                "--data",
                folder,
                "--out",
                str(tmp_path / "out"),
                "--method",
                method,
                "--teacher",
                str(tmp_path / "other"),
                "--device",
                "cpu",
            ]
        )
    assert (
        "\n" not in str(e.value)
        and "other" in str(e.value)
        and method in str(e.value)
        and not (tmp_path / "out").exists()
    )


# ---- whole runs ----------------------------------------------------------------------------------


def whole_run(monkeypatch, folder, out, *argv):
    """python train.py, but for its figures; hot and with tau 1, so that the sure student has groups
    of right and wrong ones. Returns (records, sample groups, final weights).
    """
    monkeypatch.setattr(train, "summary", lambda *a, **k: "")
    monkeypatch.setattr(train, "shown", lambda plain, *rest: {g.question.id for g in plain})
    assert (
        train.main(
            [
                "--data",
                folder,
                "--out",
                str(out),
                "--steps",
                "2",
                "--batch",
                "3",
                "--n",
                "4",
                "--aug",
                "1",
                "--tau",
                "1",
                "--temperature",
                "1.7",
                "--lr",
                "1e-3",
                "--device",
                "cpu",
                "--save-every",
                "0",
                *argv,
            ]
        )
        == 0
    )
    read = [
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "samples.jsonl")
    ]
    return *read, load_file(out / "final/model.safetensors")


def still(records):
    """Without what a clock or the machine decides."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "peak_gb")} for r in records]


def test_zppo_without_reformulations_is_grpo(monkeypatch, folder, tmp_path):
    """Step for step: the same groups, numbers and weights."""
    one = whole_run(
        monkeypatch, folder, tmp_path / "a", "--no-bcq", "--no-ncq", "--iterations", "2"
    )
    two = whole_run(monkeypatch, folder, tmp_path / "b", "--method", "grpo", "--iterations", "2")
    assert still(one[0]) == still(two[0]) and one[1] == two[1] and len(one[1]) > 1
    assert one[2].keys() == two[2].keys() and all(
        torch.equal(w, two[2][k]) for k, w in one[2].items()
    )
    assert all(
        r["groups"][k]["groups"] == 0 for r in one[0][1:] for k in ("bcq", "ncq", "hint", "prefix")
    )
    assert one[0][-1]["groups"]["replay"]["groups"] > 0 and one[0][-1]["tokens"]["teacher"] == 0


@pytest.mark.parametrize("method", ["hint", "prefix", *DISTILL])
def test_a_whole_run(monkeypatch, folder, tmp_path, method):
    """Two steps of the tiny student with the tiny teacher, each of the six questions at least once
    a step.
    """
    argv = ["--method", method, *([] if method in DISTILL else ["--iterations", "2"])]
    records, groups, final = whole_run(monkeypatch, folder, tmp_path / "run", *argv)
    first = load_file(ROOT / "assets/student/model.safetensors")
    assert any(not torch.equal(w, first[k]) for k, w in final.items()) and all(
        w.isfinite().all() for w in final.values()
    )
    assert all(r["grad_norm"] > 0 and r["trained"] > 0 for r in records[1:])
    if method in DISTILL:
        assert {g["kind"] for g in groups} == {"plain"}
        assert all(
            0 < r["loss"] < math.log(2) and r["groups"]["new"]["groups"] == 12 for r in records[1:]
        )
        return
    assert sum(r["groups"][method]["groups"] for r in records[1:]) >= 3 and {
        g["kind"] for g in groups
    } == {"plain", method}
    plain = {(g["step"], g["question_id"]): g["prompt"] for g in groups if g["kind"] == "plain"}
    for g in groups:
        if g["kind"] == "hint":
            assert (
                f"<hint>\n{g['right'][0]}\n</hint>" in g["prompt"]
                and g["answer"] not in g["right"][0]
            )
        elif g["kind"] == "prefix":
            head = g["right"][0]
            assert g["prompt"] == plain[g["step"], g["question_id"]] + head
            assert all(r["text"].startswith(head) for r in g["responses"])
