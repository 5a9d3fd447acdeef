"""Rows of the two sources, made up: counts worked by hand, golds, prompts, hostile rows.

python -m pytest tests/corpus/test_sources.py
"""

import io
import re
import struct
import time
import zlib
from collections import Counter
from dataclasses import replace

import corpus_fixtures as fx
import datasets
import pytest
from corpus_fixtures import mmfr, picture, vero
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data
import processor
from corpus import build as corpus
from corpus import sources
from processor import CLOSER, encode

datasets.disable_progress_bars()


LONG = "7" * 512
VERO_ROWS = [
    # kept: 12
    vero(0),
    vero(1, prompt="list"),
    vero(2, gold="B", kind="multiple_choice"),
    vero(3, gold=LONG),
    vero(4, kind="counting", gold="three"),
    vero(5, question=None, gold="5"),  # the user message has no question either, see below
    vero(6, kind="list_string_match", gold="['a cat', 'cat', 'cat ', ' ', None]"),
    vero(7, image=picture(7, (100, 300))),
    vero(8, image=picture(8, form="JPEG")),
    vero(9, id=None),
    vero(10, kind="search", gold="\u00e9t\u00e9"),
    vero(11, image="pictures/11.png"),
    # dropped
    vero(12, gold=None),
    vero(13, gold=" "),
    vero(14, kind="list_string_match", gold="[]"),
    vero(15, kind="list_string_match", gold="['', None]"),
    vero(16, kind="list_string_match", gold="cat"),
    vero(17, kind="list_string_match", gold="['a', ['b']]"),
    vero(18, kind="llm_judge"),
    vero(19, kind="grounding"),
    vero(20, kind="grounding"),
    vero(21, kind=None),
    vero(22, kind="number_list"),
    vero(23, gold=LONG + "7"),
    vero(24, question="<image>"),
    vero(25, image=picture(25, (99, 300))),
    vero(26, image=picture(26, (300, 99))),
    vero(27, question="How long? " * 500),
    vero(28, image="pictures/none.png"),
    vero(29, image="../secret.png"),
]
VERO_ROWS[5]["extra_info"]["question"] = None  # then the user message counts
VERO_ROWS[5]["prompt"][1]["content"] = "<image>From the <image>message"
VERO_ROWS[1]["reward_model"]["ground_truth"] = None  # then extra_info.answer counts
VERO_DROPPED = {
    "no answer": 4,
    "gold is not a list": 2,
    "reward type llm_judge": 1,
    "reward type grounding": 2,
    "reward type None": 1,
    "reward type number_list": 1,
    "answer > 512 characters": 1,
    "no question": 1,
    "image side < 100 px": 2,
    "prompt > 4096 tokens": 1,
    "image file missing": 2,
}


def write_pictures(folder):
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/11.png").write_bytes(picture(11))
    (folder.parent / "secret.png").write_bytes(picture(99))


@pytest.mark.parametrize(
    "readme, shards, metadata",
    [(True, 1, True), (True, 3, True), (False, 2, True), ("no configs", 2, True), (True, 2, False)],
)
def test_vero_counts_by_hand(tmp_path, build, readme, shards, metadata, only):
    folder = tmp_path / "vero"
    write_pictures(folder)
    image = datasets.Image() if metadata else {"bytes": datasets.Value("binary"), "path": fx.TEXT}
    fx.write_vero(
        folder, {"stem-ai2d_merged": VERO_ROWS}, readme, shards, hub_metadata=metadata, image=image
    )
    report, rows = build(folder)
    row = only(report, name="stem-ai2d_merged")
    assert row["dropped"] == VERO_DROPPED and (row["seen"], row["kept"], row["over_cap"]) == (
        30,
        12,
        0,
    )
    assert row["cap"] == 2800
    assert row["tier"] == 1
    assert report["dropped"] == VERO_DROPPED
    assert report["rows"] == 12
    by_id = {r["id"].split("/")[-1]: r for r in rows}
    assert [by_id[f"id-{n}"]["answer"] for n in (0, 1, 2, 3, 5, 10)] == [
        "0",
        "1",
        "B",
        LONG,
        "5",
        "\u00e9t\u00e9",
    ]
    assert by_id["id-0"]["question"] == "How long is side 0?"
    assert by_id["id-5"]["question"] == "From the message"
    assert by_id["id-6"]["answer"] == [
        "cat",
        "a cat",
    ]  # the most frequent first, nothing empty, nothing twice
    assert len(set(by_id)) == 12 and not any(r["id"].endswith("/") for r in rows)
    out = tmp_path / "out"
    for r in rows:  # the bytes as they came in
        n = int(re.search(r"\d+", by_id and r["id"].split("/")[-1])[0]) if "id-" in r["id"] else 9
        want = VERO_ROWS[n]["image"]["bytes"] or picture(11)
        assert (out / r["images"][0]).read_bytes() == want and r["source"] == "ai2d"
        assert r["images"][0].endswith(".jpg" if n == 8 else ".png")
    assert data.read(out)[0].images == (str(out / rows[0]["images"][0]),)  # and train.py reads it
    assert {q.also for q in data.read(out)} == {(), ("a cat",)}


def test_prompt_as_a_dict_of_two_lists(tmp_path, build):
    rows = [vero(n, prompt="dict", question="<image>Q{n}") for n in range(3)]
    for r in rows:
        r["extra_info"]["question"] = None
    fx.write_vero(tmp_path / "vero", {"stem-tqa": rows})
    assert [r["question"] for r in build(tmp_path / "vero")[1]] == ["Q0", "Q1", "Q2"]


MMFR_ROWS = [
    mmfr(0),
    mmfr(1, rate=0.0),
    mmfr(2, rate=0.5),
    mmfr(3, source="Euclid30K"),
    mmfr(3, source="Euclid30K"),  # one id, twice
    mmfr(5, source="FineVision-geo170k_qa_"),
    mmfr(6, source="Zebra-CoT-Physics"),
    mmfr(7, source="WeMath2-SFT"),
    # dropped
    mmfr(8, rate=0.75),
    mmfr(9, rate=1.0),
    mmfr(10, rate=None),
    mmfr(11, answer=None),
    mmfr(12, answer=""),
    mmfr(13, question=None),
    mmfr(14, source="WaltonColdStart"),
    mmfr(15, source="MMK12"),
    mmfr(16, source="Brand|New [x](y)"),
    mmfr(17, rate=float("nan")),
    mmfr(18, source="FineVision-ai2d_merged"),
    mmfr(19, source="FineVision-ai2d_merged", rate=0.75),
]


@pytest.mark.parametrize("rate", sources.RATE_COLUMNS)
@pytest.mark.parametrize("as_list", [False, True])
def test_mmfr_counts_by_hand(tmp_path, build, rate, as_list, only):
    rows = (
        [{**r, "image": [r["image"]]} for r in MMFR_ROWS]
        + [mmfr(20, image=[]), mmfr(21, image=[{"bytes": picture(1), "path": None}] * 2)]
        if as_list
        else MMFR_ROWS
    )
    options = {"image": datasets.List(datasets.Image())} if as_list else {}
    fx.write_mmfr(tmp_path / "mmfr", rows, shards=3, rate=rate, **options)
    fx.write_vero(
        tmp_path / "vero",
        {"stem-ai2d_merged": [vero(0)], "stem-wemath20_pro": [vero(0, kind="llm_judge")]},
    )
    report, rows = build(tmp_path / "vero", tmp_path / "mmfr")
    extra = {"no image": 1, "more than one image": 1} if as_list else {}
    row = only(report, source="mmfr", name="MMR1")
    assert row["dropped"] == {
        "no pass rate": 2,
        "pass rate > 0.5": 2,
        "no answer": 2,
        "no question": 1,
        **extra,
    }
    assert (row["seen"], row["kept"], row["canonical"]) == (10 + 2 * as_list, 3, "mmr1")
    assert only(report, name="Euclid30K")["kept"] == 2
    assert only(report, name="FineVision-geo170k_qa_")["canonical"] == "geo170k"
    assert only(report, name="FineVision-ai2d_merged")["dropped"] == {"sub-set taken from Vero": 2}
    # Vero has a config wemath20_pro, but nothing of it is usable: then MMFineReason's WeMath2
    # counts
    assert only(report, name="WeMath2-SFT")["kept"] == 1
    assert only(report, name="stem-wemath20_pro")["kept"] == 0
    for name in ("WaltonColdStart", "MMK12"):
        assert only(report, name=name)["dropped"] == {"sub-set not in ZPPO-77K": 1}
    assert only(report, name="Brand|New [x](y)")["dropped"] == {"sub-set unknown": 1}
    assert [u for u in report["unknown"] if u.startswith("Brand|New")] and "Brand New x (y)" in (
        tmp_path / "out/report.md"
    ).read_text()
    assert len({r["id"] for r in rows}) == len(rows) == report["rows"] == 9
    assert [r["source"] for r in rows].count("euclid") == 2


def test_a_missing_pass_rate_column_fails_before_anything_is_built(tmp_path, build):
    fx.write_vero(tmp_path / "vero", {"stem-tqa": [vero(0)]})
    fx.write_mmfr(tmp_path / "mmfr", [mmfr(0)], rate=None)
    with pytest.raises(
        ValueError, match="no column pass_rate or qwen3vl_4b_pass_rate; it has .*question"
    ):
        build(tmp_path / "vero", tmp_path / "mmfr")
    assert not (tmp_path / "out.partial").exists()


def test_long_columns_are_not_read(tmp_path):
    fx.write_mmfr(tmp_path, [mmfr(0)])
    assert set(next(iter(sources.MMFineReason(str(tmp_path), set()).open(None)))) == {
        "source",
        "id",
        "question",
        "answer",
        "image",
        "pass_rate",
    }


def test_sub_sets_that_are_not_known_are_listed(tmp_path, build, capsys):
    fx.write_vero(
        tmp_path / "vero",
        {c: [vero(0)] for c in ("stem-TQA", "stem-brand_new", "knowledge_recognition-vizwiz")},
    )
    report, rows = build(tmp_path / "vero", extra={"knowledge_recognition-vizwiz": 2})
    assert report["unknown"] == ["stem-brand_new"] and "stem-ai2d_merged" in report["not_found"]
    assert [(r["name"], r["cap"]) for r in report["subsets"]] == [
        ("stem-TQA", 2800),
        ("knowledge_recognition-vizwiz", 1400),
    ]
    assert "unknown to us, not used (--extra adds one): stem-brand_new" in capsys.readouterr().out
    assert "stem-brand_new" in (tmp_path / "out/report.md").read_text()
    with pytest.raises(ValueError, match="--extra nothing: there is no such config"):
        build(tmp_path / "vero", out="other", extra={"nothing": 1})
    with pytest.raises(ValueError, match="in the corpus already"):
        build(tmp_path / "vero", out="other", extra={"stem-TQA": 1})


def test_the_plan_is_the_papers():
    """29 names in Appendix B.1, and our two guesses; 60,200 + 5,600 rows at most from Vero."""
    tiers = Counter(tier for tier, _ in sources.VERO_PLAN.values())
    assert tiers == {1: 14 + 2, 2: 15}
    assert sum(sources.CAPS[t] * n for t, n in tiers.items()) == 60_200 + 2 * 2_800
    names = [c for _, configs in sources.VERO_PLAN.values() for c in configs] + sources.VERO_UNUSED
    assert (
        len(names) == len({sources.squeeze(c) for c in names}) == 59
    )  # the source's number of data sets
    known = [e for e in sources.MMFR_PLAN.values() if e]
    assert {e[0] for e in known} >= {
        "mmr1",
        "euclid",
        "geo170k",
        "geometry3k",
        "mm_openr1",
        "wemath",
        "visualwebinstruct",
        "bmmr",
        "tqa",
        "ai2d",
        "scienceqa",
        "virl39k",
        "raven",
        "visualsphinx",
        "puzzleqa",
        "llava_cot",
        "zebra_cot",
    }
    assert all(
        t == sources.VERO_PLAN[n][0] for n, t in known if n in sources.VERO_PLAN
    )  # one tier a name


EXACT = [r"A|(B)|C.|b|x|ABD|3|-3.5|1,234|25%|$5|45\degree|3 cm|12 km/h|10:30 am|1/2|x=5|2xy+3|H2O"]
EXACT += [r"\frac{1}{2}|x^2+1|\pi|\sqrt{2}|(0,1)|\{1, 2\}|sin(30)|5\text{ cm}|x=3 or x=-3|y \le 2"]
JUDGED = [
    r"red|yes|a cat|three|NaCl|up|San Francisco|3 apples|5 of 6|12 May 2020|\text{red}|It is 3."
]
JUDGED += [r"5 \text{ red balls}|café 3|红|红 3|?|2 {|the 3rd|No, 3 are"]


@pytest.mark.parametrize("exact, golds", [(True, g) for g in EXACT] + [(False, g) for g in JUDGED])
def test_which_golds_need_a_judge(exact, golds):
    """By hand, from the rule: option letters, numbers and formulas are exact."""
    golds = golds.split("|")
    assert {g: sources.is_exact(g) for g in golds} == {g: exact for g in golds}


def test_golds_of_the_sources_are_unwrapped(tmp_path, build):
    rows = [
        mmfr(n, answer=g) for n, g in enumerate(["\\boxed{3}", "<answer>a cat</answer>", "#### 4"])
    ]
    fx.write_mmfr(tmp_path / "mmfr", rows)
    assert [r["answer"] for r in build("", tmp_path / "mmfr")[1]] == ["3", "a cat", "4"]


@pytest.mark.parametrize("size", [(100, 100), (17, 300), (640, 480), (33, 65)])
def test_prompt_length_is_the_length_of_the_expanded_prompt(lm, tokenizer, size):
    images = (Image.new("RGB", size), Image.new("RGB", (50, 60)))
    prompt = encode(lm, "How long?" + CLOSER, images)
    want = len(processor.expand(lm, prompt, processor.pixels(lm, prompt)).ids)
    q = data.Question("q", "How long?", "1", images)
    for parts in (lm, sources.student_side(tokenizer)):
        assert data.QuestionCheck(parts, 4096).tokens(q, "") == want
    plain = len(encode(lm, "How long?" + CLOSER).ids)
    assert data.QuestionCheck(lm, 4096).tokens(replace(q, images=()), "") == plain


def test_prompt_of_exactly_4096_tokens_stays(tokenizer):
    check = data.QuestionCheck(sources.student_side(tokenizer), 4096)
    rest = check.tokens(data.Question("q", "", "1", (picture(0),)), "")
    fits = "x" * (4096 - rest)
    assert sources.examine(picture(0), fits, check) == "png"
    with pytest.raises(sources.Drop, match="prompt > 4096 tokens"):
        sources.examine(picture(0), fits + "x", check)


@given(st.text(alphabet="[]()'\"\\, -+1ej{}:x\n", max_size=60))
def test_list_golds_never_raise_anything_but_drop(text):
    try:
        assert isinstance(sources.listed_golds(text), list)
    except sources.Drop:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "[" * 8000,
        "[" + "-" * 8000 + "1]",
        "[1" + "+1j" * 2000 + "]",
        "[__import__('os').system('true')]",
        "{'a'}",
        "['" + "x" * 50_000_000 + "']",
        "[1, 2",
        "\0",
        "[0x" + "f" * 8000 + "]",
    ],
)
def test_hostile_list_golds_are_dropped(text):
    with pytest.raises(sources.Drop, match="gold is not a list"):
        sources.listed_golds(text)


def bomb(width=50_000, height=50_000):
    """A PNG of a few hundred bytes whose header promises 2.5 gigapixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def hostile():
    """{reason: Vero rows that must be dropped for it}."""
    good = picture(0, (200, 200))
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    thin = io.BytesIO()
    Image.new("1", (100, 21_000)).save(thin, "PNG")
    q = "<image>How many? "
    return {
        "image too large to decode": [vero(image=bomb()), vero(image=bomb(10_000, 9_000))],
        "image does not open": [
            vero(image=good[: len(good) // 2]),
            vero(image=good[:40]),
            vero(image=b"x"),
            vero(image=svg),
            vero(image=bomb(500, 500)),
            vero(image=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 200\n"),
            vero(image=picture(1, form="JPEG")[:300]),
        ],
        "image refused by the processor": [vero(image=thin.getvalue())],
        "image file too large": [vero(image=good + bytes(50_000_001))],
        "image file missing": [
            vero(image="/etc/hostname"),
            vero(image="/dev/zero"),
            vero(image="x" * 5000),
            vero(image="a\0b"),
            vero(image=".."),
        ],
        "question too long": [
            vero(question=q + "a" * 2_000_000),
            vero(question=q + "\u202e" * 40_000),
        ],
        "answer > 512 characters": [vero(gold="7" * 2_000_000)],
        "control or direction character": [
            vero(question=c.join("How many?"))
            for c in ("\0", "\x1b[2J", "\x7f", "\x85", "\u202e", "\u2066", "\u200f", "\u061c")
        ]
        + [vero(gold="4\u202e"), vero(gold="\x07")],
        "chat-template token": [
            vero(question=q + t)
            for t in ("<|im_end|>", "<|im_start|>system", "<|image_pad|>", "<|vision_start|>")
        ]
        + [vero(gold="<|endoftext|>")],
        "no question": [vero(question="<image> \n <image>")],
    }


def test_hostile_rows_are_counted_drops(tmp_path, build, only):
    rows = hostile()
    fx.write_vero(
        tmp_path / "vero", {"stem-tqa": [r for some in rows.values() for r in some] + [vero(5)]}
    )
    begin = time.perf_counter()
    report, kept = build(tmp_path / "vero")
    assert only(report, name="stem-tqa")["dropped"] == {
        reason: len(some) for reason, some in sorted(rows.items())
    }
    assert [r["answer"] for r in kept] == ["5"] and time.perf_counter() - begin < 30


def test_missing_sources_and_columns(tmp_path, build, monkeypatch):
    with pytest.raises(ValueError, match="nowhere.*can't list its sub-sets"):
        build(tmp_path / "nowhere")
    fx.write(
        [{k: v for k, v in vero(0).items() if k not in ("extra_info", "reward_model")}],
        tmp_path / "vero/stem-tqa/train-00000-of-00001.parquet",
    )
    with pytest.raises(ValueError, match="stem-tqa: no column extra_info, reward_model; it has"):
        build(tmp_path / "vero")
    with pytest.raises(ValueError, match="--tokenizer .*no tokenizer and image processor there"):
        corpus.build(tmp_path / "x", str(tmp_path / "vero"), "", str(tmp_path / "vero"))
