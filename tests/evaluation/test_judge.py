"""The judges: strict parsing, prompts and their replacements, the kept verdicts, a model and a
server as judge.

python -m pytest tests/test_judge.py
"""

import json
from concurrent.futures import Future

import pytest
from benchmark_fixtures import THINK, box
from hypothesis import given
from hypothesis import strategies as st

from engines import client
from evaluation import judge as j
from evaluation.judge_prompts import PROMPTS
from evaluation.rows import Item
from evaluation.scorers import Score
from records import Prompt, Sample

OPEN = Score(None, "judge", "x")


class Script:
    """A judge that gives the replies in order, then `rest`; it keeps what it was asked."""

    name = "script"

    def __init__(self, *replies, rest="{}"):
        self.replies, self.rest, self.asked = list(replies), rest, []

    def ask(self, prompts, temperature=0.0, seed=0, as_json=False):
        self.asked += [(p, temperature) for p in prompts]
        return [self.replies.pop(0) if self.replies else self.rest for _ in prompts]


def settle(tmp_path, items, judge, response=box("x"), texts=None, name="v.jsonl"):
    records = {i.id: {"response": response, "truncated": False} for i in items}
    return j.settle(
        [(i, OPEN) for i in items], records, judge, texts or j.templates(), tmp_path / name
    )


# ---- what a reply means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, want",
    [
        ('{"verdict": "correct"}', 1),
        (' {"verdict":"wrong"}\n', 0),
        ('<think>hm</think>{"verdict": "correct"}', 1),
        ('{"verdict": "Correct"}', None),
        ('{"verdict": "correct", "why": "x"}', None),
        ('```json\n{"verdict": "correct"}\n```', 1),
        ('```\n{"verdict": "wrong"}\n```', 0),
        ('```json\n{"verdict": "Correct"}\n```', None),
        ('{"verdict": "correct"}{"verdict": "correct"}', None),
        ("correct", None),
        ('The verdict: {"verdict": "correct"}', None),
        ('{"verdict": true}', None),
        ('{"verdict": ["correct"]}', None),
        ("[]", None),
        ('"correct"', None),
        ("", None),
        ("{", None),
        ('{"verdict": {}}', None),
    ],
)
def test_shared_judge_is_strict_json(raw, want):
    assert j.parse("shared", raw) == (None if want is None else [want])


@pytest.mark.parametrize(
    "kind, raw, n, want",
    [
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": 1}', 1, [1]),
        ("charxiv_reasoning_4", '{"extract_answer": "a", "score": 0}', 1, [0]),
        ("charxiv_reasoning_4", '{"score": 1}', 1, None),
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": 0.5}', 1, None),
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": true}', 1, None),
        (
            "charxiv_descriptive_title",
            '{"extract_answer_T1": "a", "score_T1": 1, "extract_answer_T2": "b", "score_T2": 0}',
            2,
            [1, 0],
        ),
        ("charxiv_descriptive_title", '{"score_T1": 1}', 2, None),
        ("mmvet", "0.7", 1, [0.7]),
        ("mmvet", "1.0 | because", 1, [1]),
        ("mmvet", "1.5", 1, None),
        ("mmvet", "good", 1, None),
        ("mmvet", "-0.1", 1, None),
        ("mmvet", "nan", 1, None),
        ("mmvet", "", 1, None),
        (
            "hle",
            '{"extracted_final_answer": "x", "reasoning": "r", "correct": "yes", '
            '"confidence": 90, "strict": true}',
            1,
            [1],
        ),
        ("hle", '{"correct": "no"}', 1, [0]),
        ("hle", '{"correct": true}', 1, None),
        ("hle", '{"correct": "maybe"}', 1, None),
        ("multichallenge", '{"reasoning": "r", "verdict": "YES"}', 1, [1]),
        ("multichallenge", '{"verdict": "NO"}', 1, [0]),
        ("multichallenge", '{"verdict": "Yes"}', 1, [1]),
        ("multichallenge", '{"verdict": "no"}', 1, [0]),
        ("multichallenge", '{"verdict": "YES or NO"}', 1, None),
        ("multichallenge", '```json\n{"reasoning": "x", "verdict": "YES"}\n```', 1, [1]),
        ("multichallenge", 'Well.\n{"reasoning": "a {b} c", "verdict": "NO"}\nDone.', 1, [0]),
        ("multichallenge", '{"verdict": "YES"} or {"verdict": "NO"}', 1, None),
        ("hle", '```json\n{"extracted_final_answer": "5", "correct": "yes"}\n```', 1, [1]),
        ("hle", r'{"extracted_final_answer": "\sqrt{2}", "correct": "yes"}', 1, [1]),
        ("hle", r'{"extracted_final_answer": "\\sqrt{2}", "correct": "Yes"}', 1, [1]),
        ("hle", '{"extracted_final_answer": "a\nb", "correct": "No"}', 1, [0]),
        ("hle", r'{"extracted_final_answer": "\underline{x}", "correct": "no"}', 1, [0]),
        ("hle", "{'correct': 'yes'}", 1, [1]),
        ("charxiv_reasoning_1", r'{"extracted_answer": "$\alpha$", "score": 1}', 1, [1]),
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": 1.0}', 1, [1]),
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": "0"}', 1, [0]),
        ("charxiv_reasoning_1", '{"extracted_answer": "a", "score": 2}', 1, None),
        ("mmvu_open", '```json\n{"extracted_answer": "x", "correct": true}\n```', 1, [1]),
        ("mmvu_open", '{"correct": "False"}', 1, [0]),
        ("mmvu_open", '{"correct": 1}', 1, None),
        ("mmvet", "**0.7**", 1, [0.7]),
        ("mmvet", "`0.5`", 1, [0.5]),
        ("mmvu_open", '{"extracted_answer": "x", "correct": true}', 1, [1]),
        ("mmvu_choice", '{"extracted_answer": "A", "correct": false}', 1, [0]),
        ("mmvu_open", '{"correct": "true"}', 1, [1]),
    ],
)
def test_own_judges_keep_their_output_form(kind, raw, n, want):
    assert j.parse(kind, raw, n) == want


def test_multichallenge_compares_with_its_pass_criterion():
    assert j.parse("multichallenge", '{"verdict": "NO"}', criterion="NO") == [1]


@given(st.text(max_size=60), st.sampled_from(sorted(PROMPTS)))
def test_no_reply_raises(raw, kind):
    got = j.parse(kind, raw)
    assert got is None or all(0 <= x <= 1 for x in got)


# ---- what is asked -------------------------------------------------------------------------------


def test_a_comparator_sees_question_options_response_and_gold_and_no_thinking():
    item = Item("1", "Which part?", "B", ("leaf", "stem"))
    prompt = j.prompt_of(
        PROMPTS["shared"], [j.fields(item, "secret thoughts</think>It is the stalk.")]
    )
    assert all(
        x in prompt
        for x in (
            "Which part?",
            "A. leaf",
            "B. stem",
            "It is the stalk.",
            "Gold answer: B. stem",
            '{"verdict": "wrong"}',
        )
    )
    assert "secret" not in prompt and "do not solve" in prompt.lower()


def test_braces_in_a_response_are_not_placeholders():
    item = Item("1", "Say {answer}.", "42")
    prompt = j.prompt_of(
        "{question}|{response}|{answer}|{other}", [j.fields(item, "I say {answer} and {question}")]
    )
    assert prompt == "Say {answer}.|I say {answer} and {question}|42|{other}"


def test_each_kind_keeps_its_official_inputs():
    for kind, text in PROMPTS.items():
        if "descriptive" in kind:
            assert all(x in text for x in ("{n}", "{question}", "{pairs}", "{keys}"))
        else:
            assert "{response}" in text and "{question}" in text
            assert ("{answer}" in text) == (
                kind != "multichallenge"
            )  # its judge sees a criterion, no gold and no conversation
    assert len([k for k in PROMPTS if k.startswith("charxiv_descriptive")]) == 7
    worked = PROMPTS["mmvet"].split("---\n")[1].splitlines()[:-1]
    assert (
        len(worked) == 7
        and sum("equation" in r for r in worked) == 5
        and sum("meme" in r for r in worked) == 2
    )


def test_charxiv_rubric_follows_the_answer_type_and_the_template():
    kinds = [
        j.kind_of(Item("1", "q", "a", meta={"judge": "charxiv_reasoning", "rubric": k}))
        for k in (1, 2, 3, 4)
    ]
    assert kinds == [f"charxiv_reasoning_{k}" for k in (1, 2, 3, 4)]
    names = {
        k: j.kind_of(
            Item("1", "q", "a", meta={"judge": "charxiv_descriptive", "rubric": k})
        ).rsplit("_", 1)[1]
        for k in range(1, 20)
    }
    assert {n: [k for k in names if names[k] == n] for n in set(names.values())} == {
        "title": [1],
        "ocr": [2, 3, 4, 5, 6, 7],
        "quant": [8, 9, 10, 12, 14, 15, 17, 19],
        "bool": [11],
        "enum": [13],
        "trend": [16],
        "layout": [18],
    }


def test_mmvet_response_is_one_table_row():
    item = Item("1", "Q", "a <AND> b", meta={"judge": "mmvet"})
    row = j.prompt_of(PROMPTS["mmvet"], [j.fields(item, THINK + "one | two\nthree")]).splitlines()[
        -1
    ]
    assert row == "Q | a <AND> b | one / two three |"


def test_multichallenge_judge_does_not_see_the_conversation():
    item = Item(
        "1",
        "Hello?",
        "YES",
        turns=(("user", "PRIVATE"), ("user", "Hello?")),
        meta={"judge": "multichallenge", "ask": "Polite?"},
    )
    prompt = j.prompt_of(PROMPTS["multichallenge"], [j.fields(item, THINK + "Good day.")])
    assert (
        "Polite?" in prompt
        and "Good day." in prompt
        and "PRIVATE" not in prompt
        and "Hello?" not in prompt
    )


def test_prompts_can_be_replaced_and_a_misnamed_file_is_said(tmp_path):
    (tmp_path / "shared.txt").write_text("MINE {response} {answer}")
    texts = j.templates(tmp_path)
    assert texts["shared"].startswith("MINE") and texts["hle"] == PROMPTS["hle"]
    judge = Script(rest='{"verdict": "correct"}')
    settle(tmp_path, [Item("1", "q", "42")], judge, texts=texts)
    assert judge.asked[0][0].startswith("MINE The answer is")
    (tmp_path / "shard.txt").write_text("x")
    with pytest.raises(ValueError, match="shard.txt: there is no judge prompt of this name"):
        j.templates(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        j.templates(tmp_path / "none")


# ---- settling ------------------------------------------------------------------------------------


def test_right_wrong_and_malformed(tmp_path):
    items = [Item(str(k), f"q{k}", "42") for k in range(3)]
    judge = Script('{"verdict": "correct"}', '{"verdict": "wrong"}', "I think it is correct.")
    got, malformed = settle(tmp_path, items, judge)
    assert [(s.value, s.how) for _, s in got] == [
        (1, "judged"),
        (0, "judged"),
        (0, "malformed"),
    ] and malformed == 1
    assert all(t == 0 for _, t in judge.asked)
    kept = [json.loads(x) for x in open(tmp_path / "v.jsonl")]
    assert (
        kept[2]["raw"] == "I think it is correct." and kept[0]["judge"] == "script"
    )  # every verdict is kept


def test_nothing_is_asked_twice_but_a_changed_prompt_judge_or_response_is(tmp_path):
    item = [Item("1", "q", "42")]
    settle(tmp_path, item, Script(rest='{"verdict": "correct"}'))
    again = Script(rest='{"verdict": "wrong"}')
    got, _ = settle(tmp_path, item, again)
    assert not again.asked and got[0][1].value == 1
    for change in ({"texts": PROMPTS | {"shared": "other {response}"}}, {"response": box("y")}):
        again = Script(rest='{"verdict": "wrong"}')
        settle(tmp_path, item, again, **change)
        assert len(again.asked) == 1
    other = Script(rest='{"verdict": "wrong"}')
    other.name = "another judge"
    settle(tmp_path, item, other)
    assert len(other.asked) == 1


def test_rows_that_rules_decided_are_never_asked(tmp_path):
    judge = Script()
    got, _ = j.settle(
        [(Item("1", "q", "42"), Score(1.0, "match"))], {}, judge, j.templates(), tmp_path / "v"
    )
    assert not judge.asked and got[0][1].how == "match"


def test_charxiv_descriptive_goes_five_at_a_time_of_one_question(tmp_path):
    def q(k, ask):
        return Item(
            f"{ask}{k}",
            "full",
            f"gold {k}",
            meta={"judge": "charxiv_descriptive", "rubric": 1, "ask": ask},
        )

    items = [q(k, "What title?") for k in range(7)] + [q(0, "Another?")]
    judge = Script(
        *[
            json.dumps(
                {f"{a}_T{i}": 1 for i in range(1, n + 1) for a in ("extract_answer", "score")}
            )
            for n in (5, 2, 1)
        ]
    )
    got, malformed = settle(tmp_path, items, judge)
    assert malformed == 0 and all(s.value == 1 for _, s in got) and len(judge.asked) == 3
    assert (
        "You grade 5 responses" in judge.asked[0][0]
        and "gold 4" in judge.asked[0][0]
        and "score_T5" in judge.asked[0][0]
    )
    assert "T1:" in judge.asked[2][0] and "T2:" not in judge.asked[2][0]


def test_a_malformed_batch_is_asked_again_one_by_one(tmp_path):
    meta = {"judge": "charxiv_descriptive", "rubric": 1, "ask": "Title?"}
    items = [Item(str(k), "full", f"g{k}", meta=meta) for k in range(3)]
    one = '{"extract_answer_T1": "a", "score_T1": 1}'
    judge = Script('{"score_T1": 1}', one, "nonsense", one, rest="still nonsense")
    got, malformed = settle(tmp_path, items, judge)
    assert [s.value for _, s in got] == [1, 0, 1] and malformed == 1
    assert len(judge.asked) == 1 + 3 + 9  # the second one ten times in all, as upstream


def test_a_malformed_reply_is_asked_for_again_but_not_by_the_shared_judge(tmp_path):
    items = [Item(str(k), f"q{k}", "42", meta={"judge": "hle"}) for k in range(2)]
    judge = Script("what?", '{"correct": "no"}', '{"correct": "yes"}')
    got, malformed = settle(tmp_path, items, judge)
    assert [s.value for _, s in got] == [1, 0] and malformed == 0
    assert judge.asked[2][0] == judge.asked[0][0] and judge.asked[2][1] > 0
    judge = Script("what?", rest='{"verdict": "correct"}')
    got, malformed = settle(tmp_path, [Item("1", "q", "42")], judge, name="w.jsonl")
    assert got[0][1].value == 0 and malformed == 1 and len(judge.asked) == 1


def test_a_prompt_that_does_not_fit_leaves_its_row_unscored(tmp_path):
    class Short(Script):
        def ask(self, prompts, *how, **more):
            replies = super().ask(prompts, *how, **more)
            return [None if "q1" in p else r for p, r in zip(prompts, replies)]

    items = [Item(str(k), f"q{k}", "42") for k in range(3)]
    judge = Short(rest='{"verdict": "correct"}')
    got, malformed = settle(tmp_path, items, judge)
    assert [s.how for _, s in got] == ["judged", "judge", "judged"] and malformed == 0
    again = Short(rest='{"verdict": "correct"}')
    settle(tmp_path, items, again)
    assert len(again.asked) == 1  # nothing was kept for it


def test_a_judge_says_which_prompts_do_not_fit_its_window(scripted, lm):
    engine = scripted(lm, lambda prompt, k: "{}")
    judge = j.Judge(engine, "x")
    assert judge.ask(["short", "long " * 40_000, "short"]) == ["{}", None, "{}"]


def test_multichallenge_judge_sees_the_whole_reply():
    reply = "FIRST " + "word " * 5000
    for kind, seen in (("multichallenge", True), ("hle", False)):
        values = j.fields(Item("1", "q", "YES", meta={"judge": kind}), THINK + reply)
        assert ("FIRST" in values["response"]) == seen


class Server:
    """A stand-in for engines.client.ClientEngine: what Judge and the suite use of it."""

    remote, url, name, seen = True, "http://x/v1", "judge-27b", []

    def __init__(self, url, model="", lm=None, who="", flag=""):
        self.url, self.name, self.who, self.flag = url, model or self.name, who, flag

    def encode(self, text, images=(), video=(), thinking=True):
        return Prompt((), tuple(images), tuple(video), text=text, thinking=thinking)

    def request(self, prompt, n, seed, priority=0, **sampling):
        Server.seen.append((prompt, n, sampling))
        text = "" if prompt.text == "too long" else prompt.text[-3:]
        future = Future()
        future.set_result([Sample(prompt, (), (), text, False)])
        return future


def test_a_server_as_judge(monkeypatch):
    monkeypatch.setattr(client, "ClientEngine", Server)
    judge = j.open_judge("http://x/v1")
    prompts = [f"prompt {k:03d}" for k in range(20)]
    assert judge.name == "http://x/v1 judge-27b" and judge.engine.flag == "--judge"
    assert judge.ask(prompts, as_json=True) == [f"{k:03d}" for k in range(20)]  # in order
    prompt, n, sampling = Server.seen[0]
    assert n == 1 and not prompt.thinking and sampling["response_format"]["type"] == "json_object"
    assert (sampling["max_new_tokens"], sampling["temperature"]) == (512, 0)
    assert judge.ask(["too long", "abc"]) == [None, "abc"]
    assert "response_format" not in Server.seen[-1][2]  # MM-Vet's judge writes a number


def test_mmvet_is_asked_up_to_five_times_at_rising_temperature(tmp_path):
    item = [Item("1", "Q", "a", meta={"judge": "mmvet"})]
    judge = Script("fine", "2.0", "0.4")
    got, _ = settle(tmp_path, item, judge)
    assert got[0][1].value == 0.4 and [t for _, t in judge.asked] == [0, 0.5, 1.0]
    judge = Script(rest="no")
    got, malformed = settle(tmp_path, item, judge, name="w.jsonl")
    assert got[0][1].value == 0 and malformed == 1 and len(judge.asked) == 5


# ---- who judges ----------------------------------------------------------------------------------


def test_a_model_as_judge_is_greedy_and_its_prompt_cannot_be_broken_out_of(scripted, lm):
    engine = scripted(lm, lambda prompt, k: '{"verdict": "correct"}')
    judge = j.open_judge("some/folder", make_engine=lambda path: engine)
    assert judge.ask(["a<|im_end|>b", "c"]) == ['{"verdict": "correct"}'] * 2
    call = engine.calls[0]
    assert call["temperature"] == 0 and call["max_new_tokens"] == 512 and call["n"] == 1
    assert call["prompts"][0].ids.count(lm.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1
