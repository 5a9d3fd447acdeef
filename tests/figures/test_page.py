"""The page of samples: what it holds, and that nothing in the data can become markup.

python -m pytest tests/figures/test_page.py
"""

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest

from figures import page as samples_page

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
    return samples_page.write_html(folder).read_text(encoding="utf-8")


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
    (policy,) = [v for _, name, v in page.attributes if name == "content" and "default" in v]
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'")
    assert policy == "; ".join([*rules, f"script-src 'sha256-{digest}'"])
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text


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


def test_candidates_are_marked_right_wrong_or_unknown(tmp_path):
    # as in the prompt: tags gone from the first candidate, the order shuffled, one block that
    # nobody claims, one that stands in both lists
    blocks = "".join(f"<candidate>\n{c}\n</candidate>\n" for c in "bacd")
    lists = {"right": ["a", "d"], "wrong": ["<think>b</think>\n", "d"]}
    page = Page(write(tmp_path, [group(kind="bcq", prompt=blocks, **lists)]))
    marks = [v for _, name, v in page.attributes if name == "class" and v.startswith("cand")]
    wanted = ["cand wrong", "cand right", "cand unknown", "cand unknown"]
    assert [v for v in marks if "key" not in v] == wanted
    plain = Page(write(tmp_path, [group(prompt=blocks)]))
    assert ("b", "class", "cand wrong") not in plain.attributes


def test_a_row_of_image_tokens_is_written_once(tmp_path):
    text = write(tmp_path, [group(prompt="<|image_pad|>" * 64 + "x<|im_end|>")])
    assert "<i>&lt;|image_pad|&gt; ×64</i>x<i>&lt;|im_end|&gt;</i>" in text


def test_answers_rewards_and_groups_without_gradient(tmp_path):
    text = write(tmp_path, [group()])  # the right one first
    assert text.index("advantage +1.50") < text.index("advantage -1.50")
    assert "no gradient" not in text
    one = dict.fromkeys(("advantage", "tokens", "answer")) | {"text": "", "reward": 0.0}
    text = write(tmp_path, [group(responses=[one | {"truncated": True}] * 7, mean_reward=None)])
    for part in (
        "all alike: no gradient",
        "3 more answers",
        "advantage –",
        "truncated",
        "no answer",
        "mean reward –",
    ):
        assert part in text
    assert "more answers" not in write(tmp_path, [group(responses=[one] * 4)])


def test_choose_keeps_the_newest_half_and_an_even_sample():
    assert samples_page.choose([1, 2, 3], 3) == [3, 2, 1]
    # 9 and 8; then two of 0..7, four apart
    assert samples_page.choose(list(range(10)), 4) == [9, 8, 4, 0]
    got = samples_page.choose(list(range(5000)), 240)
    assert len(set(got)) == 240 and got == sorted(got, reverse=True)
    assert got[:120] == list(range(4999, 4879, -1))


def test_thousands_of_groups_are_cut_and_the_page_says_so(tmp_path):
    text = write(
        tmp_path, [group(step=s, question_id=f"q{q}") for s in range(1, 301) for q in range(10)]
    )
    assert Page(text).tags.count("article") == samples_page.LIMIT
    assert f"{samples_page.LIMIT} of 3000 questions-at-a-step are on this page" in text
    assert "are on this page" not in write(tmp_path, [group()])


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    assert "a?b" in write(tmp_path, [group(question="a\ud800b")])


@pytest.mark.parametrize(
    "line, says",
    [
        ({"step": 1}, "without kind, prompt"),
        (group(kind="x y"), "kind 'x y'"),
        (group(step="1"), "step '1'"),
    ],
)
def test_a_record_of_something_else_is_named(tmp_path, line, says):
    with pytest.raises(ValueError, match=r"samples\.jsonl, record 2: ") as error:
        write(tmp_path, [group(), line])
    assert says in str(error.value)


def test_a_torn_line_is_skipped(tmp_path):
    write(tmp_path, [group()])
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write('{"step": 2, "ki')
    assert "1 plain groups" in samples_page.write_html(tmp_path).read_text(encoding="utf-8")


def test_a_missing_folder_is_named_and_a_run_without_samples_is_a_page(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        samples_page.write_html(tmp_path / "nowhere")
    page = samples_page.write_html(tmp_path)  # --show 0
    assert "0 plain groups" in page.read_text(encoding="utf-8")
