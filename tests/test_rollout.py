"""Requests to graded groups: order and numbers, seeds, lengths, the judge.

python -m pytest tests/test_rollout.py
"""

from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from distributed import World
from engines.base import Stopped, seed_of
from engines.hf import HFEngine
from processor import CLOSER
from records import RolloutRequest
from rollout import rollout


@pytest.fixture
def right(lm, few, scripted):
    """A scripted student whose first of three responses to any prompt is right."""
    gold = {q.id: q.answer for q in few}

    def reply(prompt, k):
        name = prompt.split("Item ")[1].split()[0]
        return f"\\boxed{{{gold[name] if k == 0 else 'no'}}}"

    return scripted(lm, reply)


def request(q, kind="plain", **more):
    return RolloutRequest(kind, "new", q, f"{kind} Item {q.id} ?", **more)


def test_groups_stand_in_the_order_of_the_requests(right, few, cfg):
    """Numbered from first_id; what was asked, shown and drawn is all there."""
    kinds = ["plain", "bcq", "plain", "ncq", "bcq", "plain"]
    shown = {"correct_candidates": ("r",), "wrong_candidates": ("w",), "listed_answers": ("9",)}
    asked = [request(q, kind, **shown) for q, kind in zip(few, kinds)]
    asked[2] = replace(asked[2], origin="replay")
    groups = rollout(right, asked, 4, cfg("--n 3"), World(), first_id=7)
    for i, (r, g) in enumerate(zip(asked, groups, strict=True), 7):
        assert (g.id, g.kind, g.origin, g.question) == (i, r.kind, r.origin, r.question)
        assert (g.correct_candidates, g.wrong_candidates, g.listed_answers) == (
            ("r",),
            ("w",),
            ("9",),
        )
        assert [s.reward for s in g.samples] == [1, 0, 0]
        said = {(s.group_id, s.kind, s.question_id) for s in g.samples}
        assert said == {(i, r.kind, r.question.id)}
        prompt = g.samples[0].prompt
        assert prompt.images == tuple(r.question.images) and prompt.video == tuple(r.question.video)
        assert all(s.prompt is prompt for s in g.samples)
        assert r.text + CLOSER in right.lm.tokenizer.decode(prompt.ids)


def test_a_seed_is_of_run_step_kind_and_place(right, few, cfg):
    """So the kinds may be sampled in one call or apart, and no two requests share a seed."""
    kinds = ["plain", "bcq", "plain", "ncq", "bcq", "plain"]
    asked, place, seeds = [request(q, kind) for q, kind in zip(few, kinds)], Counter(), []
    for run, step in ((0, 1), (0, 2), (5, 1)):
        rollout(right, asked, step, cfg(f"--n 3 --seed {run} --temperature 0.7"), World())
        place.clear()
        for kind, seed in zip(kinds, right.calls[-1]["seeds"], strict=True):
            assert seed == seed_of(run, step, kind, place[kind])
            place[kind] += 1
            seeds.append(seed)
    call = right.calls[-1]
    assert (call["n"], call["temperature"], call["top_p"]) == (3, 0.7, 1.0)
    assert call["max_new_tokens"] == 40 and len(set(seeds)) == 18


def test_a_prompt_that_is_too_long_is_told(lm, questions, cfg):
    """--max-prompt counts visual tokens, of plain prompts only."""
    q = replace(questions["image"][0], images=(Image.new("RGB", (128, 128)),) * 4)  # 256 tokens
    c = cfg("--n 2 --max-prompt 200 --max-response 2")
    with pytest.raises(ValueError, match=f"question {q.id}: its prompt has .*--max-prompt 200"):
        rollout(HFEngine(lm), [request(q)], 1, c, World())
    [group] = rollout(HFEngine(lm), [request(q, "ncq")], 1, c, World())
    assert len(group.samples[0].prompt.ids) > 256


def test_a_stop_is_passed_on(engine, questions, cfg):
    with pytest.raises(Stopped):
        rollout(
            engine, [request(questions["text"][0])], 1, cfg("--n 2"), World(), stop=lambda: True
        )


def test_the_judge_sees_what_matching_left_open(right, few, cfg):
    """Of free-form questions only, each of their wrong responses, and its word holds."""
    asked = [request(replace(q, free_form=i % 2 == 0)) for i, q in enumerate(few)]

    class Judge:
        def judge(self, items):
            self.items = items
            return [k % 2 == 1 for k in range(len(items))]

    judge = Judge()
    groups = rollout(right, asked, 1, cfg("--n 3"), World(), teacher=judge)
    assert [[s.reward for s in g.samples] for g in groups] == [[1, 0, 1], [1, 0, 0]] * 3
    shown = [(r.question.question, "\\boxed{no}", r.question.golds, False) for r in asked[::2]]
    assert judge.items == [item for item in shown for _ in range(2)]
    with pytest.raises(ValueError, match=f"question {few[0].id} is free-form and needs a judge"):
        rollout(right, asked, 1, cfg("--n 3"), World())
