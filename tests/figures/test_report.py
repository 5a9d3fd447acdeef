"""report.py: what the page holds, and that nothing in the data can become markup.

python -m pytest tests/test_report.py
"""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from figures import page as report

PIXEL = "data:image/png;base64,iVBORw0KGgo="
EVIL = "</script></div><img src=x onerror=alert(1)>\"'><svg onload=alert(2)>&lt;b&gt;"


def group(**kw):
    answer = {
        "text": "7*8=56</think>\\boxed{56}",
        "reward": 1.0,
        "advantage": 1.5,
        "truncated": False,
        "tokens": 9,
        "answer": "56",
    }
    return {
        "step": 1,
        "kind": "plain",
        "origin": "new",
        "question_id": "q1",
        "source": "product2",
        "question": "Product?",
        "answer": "56",
        "images": [PIXEL],
        "prompt": "<|im_start|>user\nProduct?",
        "mean_reward": 0.5,
        "responses": [{**answer, "reward": 0.0, "advantage": -1.5}, answer],
        **kw,
    }


def write(folder, groups):
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps(g) + "\n" for g in groups), encoding="utf-8"
    )
    return report.write_html(folder).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and visible text, as a parser sees them: the judge of what became markup."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_data(self, data):
        self.text += data


def test_hostile_text_in_every_field_stays_text(tmp_path):
    evil = group(
        kind="bcq",
        question_id=EVIL,
        source=EVIL,
        question=EVIL,
        answer=EVIL,
        origin=EVIL,
        mean_reward=EVIL,
        prompt=f"{EVIL}\n<candidate>\n{EVIL}\n</candidate><|{EVIL}|>",
        right=[EVIL],
        wrong=[],
        images=[EVIL, f'data:image/png;base64,AAAA"{EVIL}'],
        responses=[
            {
                "text": EVIL,
                "reward": 1.0,
                "advantage": EVIL,
                "truncated": False,
                "tokens": EVIL,
                "answer": EVIL,
            }
        ],
    )
    harmless = group(kind="bcq", right=[], wrong=[], images=[])
    got, clean = Page(write(tmp_path, [evil])), Page(write(tmp_path, [harmless]))
    assert (
        set(got.tags) - {"option", "b", "p", "i"} <= set(clean.tags)
        and got.tags.count("script") == 1
    )
    assert "img" not in got.tags and "svg" not in got.tags
    assert not [a for a in got.attributes if a[1].startswith("on") or a[1] == "src"]
    assert ("article", "data-source", EVIL) in got.attributes  # whole, inside its attribute
    assert got.text.count(EVIL) >= 8  # and shown as it was written


def test_the_folder_name_is_escaped_too(tmp_path):
    folder = tmp_path / "<img src=x>"
    folder.mkdir()
    assert "img" not in Page(write(folder, [group(images=[])])).tags


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.png",
        "javascript:alert(1)",
        "data:text/html;base64,AAAA",
        "file:///a.png",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,AA" onload="x',
        PIXEL + "\n",
        None,
        3,
    ],
)
def test_only_bitmap_data_uris_become_pictures(uri, tmp_path):
    page = Page(write(tmp_path, [group(images=[uri])]))
    assert "img" not in page.tags and "picture left out" in page.text


def test_nothing_is_fetched_and_the_policy_names_the_script(tmp_path):
    text = write(tmp_path, [group()])
    page = Page(text)
    assert [v for _, name, v in page.attributes if name in ("src", "href")] == [PIXEL]
    policy = next(
        v
        for tag, name, v in page.attributes
        if (tag, name) == ("meta", "content") and "default-src" in v
    )
    assert (
        policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    )
    assert "http" not in report.SCRIPT + report.CSS and "url(" not in report.CSS


def test_a_question_is_one_block_with_plain_bcq_ncq_in_this_order(tmp_path):
    text = write(
        tmp_path,
        [
            group(kind="ncq"),
            group(kind="plain"),
            group(kind="bcq"),
            group(step=2),
            group(question_id="q2"),
        ],
    )
    page = Page(text)
    assert page.tags.count("article") == 3
    kinds = [v for tag, name, v in page.attributes if name == "data-kinds"]
    assert kinds == [
        "plain",
        "plain",
        "plain bcq ncq",
    ]  # newest first: step 2, then q2 and q1 of step 1
    assert "3 plain, 1 BCQ, 1 NCQ groups of 3 questions" in page.text


def test_after_a_resume_the_later_line_wins(tmp_path):
    text = write(tmp_path, [group(question="old"), group(question="young")])
    assert "young" in text and "old<" not in text


def test_candidates_are_marked_right_wrong_or_unknown():
    # as in the prompt: tags gone from the first candidate, the order shuffled, one block that
    # nobody claims
    prompt = (
        "<candidate>\nb\n</candidate>\n<candidate>\na\n</candidate>\n<candidate>\nc\n</candidate>"
    )
    text = report.prompt_html(
        group(kind="bcq", prompt=prompt, right=["a"], wrong=["<think>b</think>\n"])
    )
    assert [text.index(f'cand {label}"') for label in ("wrong", "right", "unknown")] == sorted(
        text.index(f'cand {label}"') for label in ("wrong", "right", "unknown")
    )
    assert (
        report.candidate_label("a", ["a"], ["a"]) == "unknown"
    )  # in both lists: no colour is better than a guess
    assert "cand" not in report.prompt_html(group(prompt="What is a <candidate> here?")).replace(
        "&lt;candidate", ""
    )


def test_a_row_of_image_tokens_is_written_once():
    text = report.plain_text("<|image_pad|>" * 64 + "x<|im_end|>")
    assert text == "<i>&lt;|image_pad|&gt; ×64</i>x<i>&lt;|im_end|&gt;</i>"


def test_answers_rewards_and_flat_groups():
    text = report.group_html(group())
    assert (
        text.index("advantage +1.50") < text.index("advantage -1.50") and "flat" not in text
    )  # the right one first
    one = {
        "text": "",
        "reward": 0.0,
        "advantage": None,
        "truncated": True,
        "tokens": None,
        "answer": None,
    }
    text = report.group_html(group(responses=[one] * 7, mean_reward=None))
    for part in (
        "flat: no gradient",
        "3 more answers",
        "advantage –",
        "truncated",
        "no answer",
        "mean reward –",
    ):
        assert part in text
    assert "more answers" not in report.group_html(group(responses=[one] * 4))


def test_choose_keeps_the_newest_half_and_an_even_sample():
    assert report.choose([1, 2, 3], 3) == [3, 2, 1]
    assert report.choose(list(range(10)), 4) == [
        9,
        8,
        4,
        0,
    ]  # 9 and 8; then two of 0..7, four apart
    got = report.choose(list(range(5000)), 240)
    assert (
        len(set(got)) == 240
        and got == sorted(got, reverse=True)
        and got[:120] == list(range(4999, 4879, -1))
    )


def test_thousands_of_groups_are_cut_and_the_page_says_so(tmp_path):
    text = write(
        tmp_path, [group(step=s, question_id=f"q{q}") for s in range(1, 301) for q in range(10)]
    )
    assert Page(text).tags.count("article") == report.LIMIT
    assert f"{report.LIMIT} of 3000 questions-at-a-step are on this page" in text
    assert "are on this page" not in write(tmp_path, [group()])


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    assert "a?b" in write(tmp_path, [group(question="a\ud800b")])


@pytest.mark.parametrize(
    "line, says",
    [
        ("{broken", "not JSON"),
        ("[]", "expected an object"),
        ('{"step": 1}', "expected an object"),
        (json.dumps(group(kind="x")), "kind 'x'"),
        (json.dumps(group(step="1")), "step '1'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, says):
    (tmp_path / "samples.jsonl").write_text(json.dumps(group()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 2") as error:
        report.write_html(tmp_path)
    assert says in str(error.value)


def test_a_missing_file_is_named_and_an_empty_one_is_a_page(tmp_path):
    with pytest.raises(ValueError, match=r"samples\.jsonl: no such file"):
        report.write_html(tmp_path)
    assert "0 plain groups" in write(tmp_path, [])


def test_command_line(tmp_path):
    write(tmp_path, [group()])
    script = Path(report.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "samples.html")
