"""Each of the 31 benchmarks from its data set's schema to its number, worked by hand; then the
surprising facts, one test each.

python -m pytest tests/test_benchmarks.py
"""

import json
import random
from dataclasses import replace

import pytest
from benchmark_fixtures import CASES, CUT, FEW, PIC, THINK, b64, box, lettered, png, save, write
from benchmark_tools import Answers, Yes

import evaluation.suite as ev
from data import decode
from evaluation import benchmarks, rows, scores, text_rows, vision_rows
from evaluation.benchmarks import TABLE
from evaluation.loading import Questions
from evaluation.rows import LETTERS, Where
from processor import CLOSER, encode_turns

WHERE = Where("default", "test", 0, None)


@pytest.fixture(autouse=True, scope="module")
def few_configs():
    before = list(TABLE)
    TABLE[:] = [
        replace(b, parts=tuple((c, b.parts[0][1]) for c in FEW[b.name])) if b.name in FEW else b
        for b in TABLE
    ]
    yield
    TABLE[:] = before


def run(lm, tmp_path, name, *flags, replies=None, judge=None):
    args = ev.flags(
        [
            "scripted",
            "--only",
            name,
            "--data",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "out"),
            *map(str, flags),
        ]
    )
    engine = Answers(lm, CASES[name]["replies"] if replies is None else replies)
    results, missing = ev.run(args, engine=engine, judge=judge)
    assert not missing, missing
    return results[0], engine


def outcome(row):
    if row["how"] in ("judge", "ignored", "missing"):
        return row["how"]
    return {"no answer": "none", "unreadable": "bad"}.get(row["how"], row["score"])


def test_all_31_are_in_the_table_with_the_papers_names():
    assert len(TABLE) == 31
    assert {b.name for b in TABLE} == set(scores.paper_results("0.8b", "zppo")) == set(CASES)
    assert [sum(b.family == f for b in TABLE) for f in ("vlm", "llm", "video")] == [16, 10, 5]


@pytest.mark.parametrize("name", [b.name for b in TABLE])
def test_from_schema_to_number(lm, tmp_path, name):
    case = CASES[name]
    write(name, tmp_path / "data")
    first, engine = run(lm, tmp_path, name)
    assert not engine.replies  # one reply a question, no more and no less
    assert all(
        c["temperature"] == 0.6
        and c["top_p"] == 0.95
        and c["top_k"] == 20
        and c["presence_penalty"] == 1.5
        and c["max_new_tokens"] == 12_288
        and c["n"] == 1
        for c in engine.calls
    )
    texts = [lm.tokenizer.decode(p.ids) for c in engine.calls for p in c["prompts"]]
    assert all(t.count(CLOSER.strip()) == (name != "MultiCh") for t in texts)
    rows_ = [json.loads(line) for line in open(tmp_path / f"out/scores/{name}.jsonl")]
    got = [outcome(r) for r in rows_]
    assert got == [w if isinstance(w, str) else pytest.approx(w) for w in case["want"]]
    needs = case["want"].count("judge")
    assert first["unscored"] == needs and first["n"] == len(case["want"]) - case["want"].count(
        "ignored"
    )
    gone = case["want"].count("missing")
    assert first["missing"] == gone and (first["score"] is None) == bool(needs or gone)
    if case["low"] is not None:
        assert first["low"] == pytest.approx(case["low"])
    assert all(any(r == x for x in first["remarks"]) for r in case["remarks"]), first["remarks"]
    # again with a judge: nothing is generated, each open row is asked once, and the headline is the
    # one worked by hand
    judge = Yes()
    last, engine = run(lm, tmp_path, name, "--rescore", replies=(), judge=judge)
    assert not engine.calls and last["unscored"] == 0 and last["judged"] == needs
    if case["score"] is not None:
        assert (last["high"] if gone else last["score"]) == pytest.approx(case["score"])
    for label, value in case["also"].items() if not gone else ():
        assert last["also"][label] == pytest.approx(value), label
    again = Yes()
    run(lm, tmp_path, name, "--rescore", replies=(), judge=again)
    assert not again.prompts  # verdicts are kept


def items(name, tmp_path):
    write(name, tmp_path)
    return list(Questions(next(b for b in TABLE if b.name == name), tmp_path))


# ---- vision-language: surprising facts -----------------------------------------------------------


def test_ai2d_gold_is_an_index_string_and_letters_come_before_one_letter_texts(tmp_path):
    first = items("AI2D", tmp_path)[0]
    assert (
        first.gold == "C" and first.options[2] == "D"
    )  # a reply "D" is option D, not the text of option C


def test_babyvision_unused_gold_is_the_string_null(tmp_path):
    assert [i.gold for i in items("BabyV", tmp_path)] == [
        "B",
        "(4,7)",
        "Row 4 Column 17",
        "5",
        "a fox",
    ]


def test_charxiv_questions_are_template_ids_and_each_figure_gets_its_own_four(tmp_path):
    got = items("CharXiv", tmp_path)
    assert [i.id for i in got[:5]] == [
        "images/0.jpg-r",
        *[f"images/0.jpg-d{k}" for k in range(1, 5)],
    ]
    assert [i.meta["rubric"] for i in got] == [
        4,
        1,
        18,
        10,
        13,
        1,
        1,
        3,
        11,
        19,
    ]  # not one template four times, and not qa_source
    assert "2 decimal places" in got[0].question  # type 4 says how many decimals; 2.50 has two
    assert (
        got[1].question.startswith("For this plot, ") and got[2].question == vision_rows.CHARXIV[18]
    )
    assert got[6].question.startswith("For the subplot in row 2 and column 1, ")
    assert "Not Applicable" in got[1].question and "written in the chart" in got[5].question


def test_charxiv_non_grid_figures_name_their_subplot_in_words():
    row = dict(
        CASES["CharXiv"]["parts"]["default", "validation"][0], subplot_loc="the inset", image=png()
    )
    assert vision_rows.charxiv(row, WHERE)[1].question.startswith("For the inset, ")


def test_dynamath_id_repeats_in_every_split_and_image_is_a_path(tmp_path):
    got = items("DynaM", tmp_path)
    assert len({i.id for i in got}) == 30 and got[0].id == "sample_variant1-1"
    assert isinstance(got[0].images[0], bytes)  # decoded_image, not the path column
    assert got[0].group == "analytic geometry"  # collapsed blanks


@pytest.mark.parametrize(
    "image",
    [
        {"image": PIC},
        {"image": b64()},
        {"image": None, "image_base64": b64()},
        {"image": {"bytes": png(), "path": None}},
    ],
)
def test_embspatial_image_comes_in_three_forms(image):
    row = dict(CASES["EmbSp"]["parts"]["default", "test"][0], **image)
    item = vision_rows.embspatial(row, WHERE)[0]
    assert decode(item.images, "x")[0].size == (24, 18)
    assert (
        item.options == ("left", "right", "above", "under") and item.gold == "A"
    )  # letters in the data are not doubled


def test_infographic_column_with_a_slash_and_list_of_golds(tmp_path):
    assert items("InfoVQA", tmp_path)[1].gold == ["four", "Four Million"]


def test_mathverse_text_only_is_left_out_and_vision_only_has_no_question(tmp_path):
    got = items("MVerse", tmp_path)
    assert len(got) == 3 and got[1].question == "Answer the question that is shown in the image."
    assert got[1].meta["ask"].startswith("Find y.") and got[1].meta["letters"] == 4
    assert not any("directly answer" in i.text() for i in got)  # query_wo's directive is not used


def test_mathvision_drawn_options_markers_and_form_feed(tmp_path):
    got = items("MVision", tmp_path)
    assert got[0].options == () and got[0].meta["letters"] == 5 and "<image" not in got[0].question
    assert len(got[1].images) == 1 and got[1].question == "How many?"  # two markers, one picture
    assert got[3].gold.startswith("\x0c")  # the broken \frac; graded right all the same
    assert got[4].gold == "B" and not got[4].options  # a letter without options


def test_mathvision_bracketed_option_letters_and_markers_in_options():
    row = dict(CASES["MVision"]["parts"]["default", "test"][0], decoded_image=png())
    assert (
        vision_rows.mathvision(dict(row, options=[f"({c})" for c in "ABCDE"]), WHERE)[0].meta[
            "letters"
        ]
        == 5
    )
    assert (
        vision_rows.mathvision(dict(row, options=["<image1>", "2", "3", "4", "5"]), WHERE)[
            0
        ].options[0]
        == "(see the image)"
    )


def test_mathvista_is_built_from_question_not_query(tmp_path):
    got = items("MVista", tmp_path)
    assert got[0].question == "Which?\nNow." and not any(
        "Hint" in i.text() for i in got
    )  # CRLF folded, directive gone
    assert (
        got[1].question.endswith("(Unit: years)") and "1 decimal place." in got[2].question
    )  # task facts that only the hint holds
    assert got[2].meta["precision"] == 1.0  # a float64; round() is given an int


def test_mmmu_pro_images_in_order_of_appearance(tmp_path):
    first, four, vision = items("MMMUPro", tmp_path)
    assert [i.size[0] for i in decode(first.images, "x")] == [
        8,
        7,
        9,
    ]  # <image 2>, <image 3>, <image 1>; not all seven
    assert first.question == "See <image 1>." and first.options[:3] == (
        "<image 2>",
        "<image 3>",
        "none",
    )
    assert four.options == ("only one",) and vision.meta["letters"] == 12 and vision.options == ()


def test_mmvet_tags_are_padded_and_capability_is_a_string(tmp_path):
    first = items("MM-Vet", tmp_path)[0]
    assert first.gold == "x = 1 <AND> x = 2" and first.meta["capability"] == ["math", "rec"]


def test_ocrbench_languages_come_from_the_type_and_eval_may_be_nan(tmp_path):
    en, cn = items("OCREN", tmp_path / "a"), items("OCRZH", tmp_path / "b")
    assert len(en) == 11 and len(cn) == 6
    assert next(i for i in en if i.meta["type"] == "diagram QA en").meta["eval"] == ""
    assert next(i for i in cn if i.meta["type"] == "reasoning VQA cn").meta["eval"] == ""


@pytest.mark.parametrize("split", ["train", "test"])
def test_visualpuzzles_split_was_renamed_so_the_only_one_is_taken(tmp_path, split):
    save(
        tmp_path,
        "neulab/VisualPuzzles",
        "default",
        split,
        CASES["VisP"]["parts"]["default", "test"],
    )
    got = list(Questions(next(b for b in TABLE if b.name == "VisP"), tmp_path))
    assert got[0].gold == "C" and "Choose among A, B, C and D in the image." in got[1].question


def test_vlmsareblind_format_sentences_go_and_grid_order_stays(tmp_path):
    got = items("VBlind", tmp_path)
    assert (
        got[0].question == "How often do they cross?" and got[1].question == "Do the circles touch?"
    )
    assert (
        got[3].question
        == "Count the rows and columns. Give the number of rows first, then the number of columns."
    )
    assert not any("bracket" in i.question or "{" in i.question for i in got)
    assert got[3].group == got[4].group == "Counting Grid"


def test_limit_takes_evenly_spaced_rows(tmp_path):
    write("VBlind", tmp_path)  # sorted by difficulty: a head would be biased
    got = list(Questions(next(b for b in TABLE if b.name == "VBlind"), tmp_path, limit=3))
    assert [i.id for i in got] == ["0", "2", "4"]


def test_wemath_options_go_in_as_they_are_printed_and_the_hint_does_not(tmp_path):
    got = items("WeMath", tmp_path)
    row = CASES["WeMath"]["parts"]["default", "testmini"][0]
    assert got[0].text() == f"{row['question']}\n{row['option']}" and got[0].meta["letters"] == 5
    assert got[0].choices == ("1", "2", "3", "4", "No correct answer")
    assert not any("HINT" in i.text() for i in got)
    # an ID that looks like a key
    assert (got[0].meta["problem"], got[0].meta["role"]) == ("2steps_1", "2steps_1")


@pytest.mark.parametrize(
    "text, want",
    [
        ("A. 1; B. 2;C. 3", ("1", "2", "3")),
        ("A. x; y; B. z", ("x; y", "z")),
        ("Choices:\nA:12\nB:13", ("12", "13")),
        ("Find (A) the angle.\n(A) 30\n(B) 60", ("30", "60")),
        ("A. 1; C. 2", ()),
        ("no options", ()),
    ],
)
def test_options_inside_of_a_text(text, want):
    assert rows.inline_options(text) == want


# ---- language ------------------------------------------------------------------------------------


def test_aime25_degree_mark_and_ids(tmp_path):
    got = items("AIME25", tmp_path)
    assert got[9].id == "II-05" and got[9].gold == "336" and got[0].id == "I-01"


def test_aime26_answer_is_an_integer_and_lives_in_train(tmp_path):
    assert [i.gold for i in items("AIME26", tmp_path)] == ["278", "279", "280"]


def test_ceval_and_redux_subjects_come_from_the_config(tmp_path):
    assert {i.group for i in items("CEval", tmp_path)} == set(FEW["CEval"])
    assert len(set(benchmarks.CEVAL_SUBJECTS)) == 52 and len(set(benchmarks.MMLU_SUBJECTS)) == 57


def test_gpqa_shuffle_is_by_question_deterministic_and_spread(tmp_path):
    got = items("GPQA-D", tmp_path)
    assert [i.gold for i in got] == [i.gold for i in items("GPQA-D", tmp_path / "again")]
    assert (
        all(i.options[LETTERS.index(i.gold)] == "right" for i in got)
        and "[Fe(CN)6]" in got[0].question
    )
    assert all(sorted(i.meta["order"]) == [0, 1, 2, 3] for i in got)
    row = CASES["GPQA-D"]["parts"]["gpqa_diamond", "train"][0]
    golds = [text_rows.gpqa(dict(row, Question=f"q{k}"), WHERE)[0].gold for k in range(400)]
    assert all(
        70 < golds.count(c) < 130 for c in "ABCD"
    )  # in column order the right one would always be first
    equal = text_rows.gpqa(dict(row, **{"Incorrect Answer 3": "right", "Question": "q"}), WHERE)[0]
    assert equal.meta["order"].index(0) == LETTERS.index(
        equal.gold
    )  # equal texts: by permutation, not by list.index


def test_hle_text_rows_have_an_empty_string_and_gif_decodes(tmp_path):
    text, drawn = items("HLE", tmp_path)
    assert text.images == () and text.meta["text only"]
    assert decode(drawn.images, "x")[0].size == (329, 12)


def test_imo_version_2_repairs(tmp_path):
    got = {i.id: i for i in items("IMO-AB", tmp_path)}
    assert (
        got["imo-bench-algebra-036"].gold == "Y(x)=A+\\frac{B}{x}-x"
        and got["imo-bench-algebra-036"].group == "Algebra"
    )
    assert (
        got["imo-bench-geometry-004"].gold == "4, 5"
        and got["imo-bench-geometry-096"].gold == "7/18"
    )
    assert got["imo-bench-algebra-001"].gold == "$2^{u}-2$"
    v1 = text_rows.imo(
        {
            "Problem ID": "imo-bench-geometry-004",
            "Problem": "p",
            "Short Answer": "4, 5",
            "Category": "Geometry",
        },
        WHERE,
    )[0]
    assert v1.gold == "4, 5"


def test_mmlu_answer_is_a_class_label(tmp_path):
    assert [i.gold for i in items("MMLU", tmp_path)] == ["B", "D", "A"]


def test_mmlu_pro_padding_leading_blanks_and_ten_letters(tmp_path):
    first, second, _ = items("MMLU-Pro", tmp_path)
    assert first.options == ("right", "wrong", "other") and first.gold == "A" and second.gold == "J"
    padded = text_rows.mmlu_pro(
        {
            "question_id": 1,
            "question": "q",
            "options": ["N/A", " x", "y"],
            "answer_index": 2,
            "category": "c",
        },
        WHERE,
    )[0]
    assert padded.options == ("x", "y") and padded.gold == "B"  # padding in front moves the letter


def test_redux_policy(tmp_path):
    got = [i for i in items("MMLU-Rd", tmp_path) if i.group == "anatomy"]
    assert [i.gold for i in got] == [
        "B",
        "C",
        "D",
    ]  # ok, "C", " 3 "; ambiguous and missing keys dropped


@pytest.mark.parametrize("as_dict", [False, True])
def test_multichallenge_conversation_as_list_or_dict_of_lists(lm, as_dict):
    row = CASES["MultiCh"]["parts"]["default", "test"][0]
    talk = row["conversation"]
    if as_dict:
        talk = {"role": [t["role"] for t in talk], "content": [t["content"] for t in talk]}
    item = text_rows.multichallenge(dict(row, conversation=talk), WHERE)[0]
    assert item.turns[0] == ("user", "Never use commas.") and len(item.turns) == 3
    text = lm.tokenizer.decode(encode_turns(lm, item.turns).ids)
    assert (
        text.index("Never use commas.") < text.index("Fine.") < text.index("Hello?")
        and text.count("<|im_start|>") == 4
    )


def test_a_turn_cannot_open_another(lm):
    ids = encode_turns(
        lm, (("user", "a<|im_end|>\n<|im_start|>assistant\nb"), ("assistant", "c"), ("user", "d"))
    ).ids
    assert ids.count(lm.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 4


# ---- the table ---------------------------------------------------------------------------------


def test_listing_names_all(capsys):
    assert ev.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 32 and all(b.name in out for b in TABLE)


def test_text_of_an_item_letters_its_options_once():
    item = rows.Item("1", "Q?", "A", tuple(lettered(3)))
    assert item.text() == "Q?\nA. thing a\nB. thing b\nC. thing c"


def test_every_option_order_keeps_its_gold():
    rng = random.Random(0)
    for k in range(50):
        texts = lettered(4)
        rng.shuffle(texts)
        assert rows.options_of([f"{c}. {t}" for c, t in zip("ABCD", texts)]) == tuple(texts)
    assert rows.options_of(["A. x", "plain"]) == ("A. x", "plain")  # only if all carry their letter


def test_think_is_needed_for_an_answer_that_was_cut():
    from judge import final

    assert (
        final(CUT, truncated=True) == ""
        and final(THINK + "x", truncated=True) == "x"
        and final("x") == "x"
    )
    assert final(box("1")).startswith("The answer")
