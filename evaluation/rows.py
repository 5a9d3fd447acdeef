r"""One row of a benchmark's data -> its questions: the functions that benchmarks.TABLE names, for
images and text (video.py: video).

Each function takes a row as `datasets` gives it (images undecoded: {"bytes", "path"}) and a Where,
and returns a list of Items, empty when the row is left out. The oddities of each data set are
handled here and nowhere else; each has a test in tests/test_benchmarks.py. No function adds a
format directive: the closer of training is appended to all (chat.CLOSER), and what the data set
itself says about form ("answer in one word") is stripped where it only concerns form, kept where it
defines the task.
"""

import ast
import base64
import hashlib
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.scorers import LETTERS


@dataclass(frozen=True)
class Item:
    """One question of a benchmark. `id` is unique in it; `gold` is what its scorer expects; `group`
    is what its aggregate means over.
    """

    id: str
    question: str
    gold: Any
    options: tuple = ()  # texts, lettered once in the prompt: A. ...
    images: tuple = ()  # bytes, paths or PIL images, in the order of the prompt
    video: Any = None  # video.Video, or a tuple of PIL frames
    turns: tuple = ()  # (role, text) of a conversation, instead of `question` (MultiChallenge)
    group: str = ""
    meta: dict = field(default_factory=dict)

    def text(self):
        """What the model reads, without the closer."""
        return self.question + "".join(f"\n{LETTERS[i]}. {o}" for i, o in enumerate(self.options))


@dataclass(frozen=True)
class Where:
    """Where a row stands: its config, split and index, and the folder with the local copy of its
    data set.
    """

    config: str
    split: str
    index: int
    root: Path


def picture(value):
    """An image column as something data.decode opens: {"bytes", "path"}, bytes, PIL, base64 text or
    a data URI. None if empty.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        if value.startswith("data:"):
            return base64.b64decode(value.split(",", 1)[1])
        return (
            value
            if len(value) < 1000 and re.search(r"\.\w{3,4}$", value)
            else base64.b64decode(value)
        )
    return value or None


def pictures(*values):
    return tuple(p for p in map(picture, values) if p is not None)


def clean(text):
    return (
        str(text).replace("\r\n", "\n").strip(" \t\n")
    )  # not a form feed: one gold begins with a damaged \\frac


def options_of(texts):
    """Option texts without letters that the data may carry already: "B. cat" -> "cat", if all of
    them do.
    """
    texts = [clean(t) for t in texts]
    if texts and all(re.match(rf"\(?{LETTERS[i]}[.):]\s*\S", t) for i, t in enumerate(texts)):
        texts = [re.sub(r"^\(?[A-Z][.):]\s*", "", t) for t in texts]
    return tuple(texts)


def inline_letters(text):
    """How many lettered options stand in a question text, as (A) or A: or A."""
    found = set(re.findall(r"(?:^|[\s(])([A-H])(?:[.:)]|\))\s*\S", text))
    n = 0
    while LETTERS[n] in found:
        n += 1
    return n if n > 1 else 8


# ---- vision-language -----------------------------------------------------------------------------


def ai2d(row, where):
    # the gold is the 0-based index as a string; there is no id
    return [
        Item(
            str(where.index),
            clean(row["question"]),
            LETTERS[int(row["answer"])],
            options_of(row["options"]),
            pictures(row["image"]),
        )
    ]


def babyvision(row, where):
    def known(v):
        return None if v in (None, "", "null", "None") else v  # an unused gold is the string "null"

    chosen = row["ansType"] == "choice"
    gold = LETTERS[int(row["choiceAns"])] if chosen else clean(known(row["blankAns"]) or "")
    return [
        Item(
            str(row["taskId"]),
            clean(row["question"]),
            gold,
            options_of(row["options"] or []) if chosen else (),
            pictures(row["image"]),
            group=row["type"],
        )
    ]


# The 19 descriptive templates of CharXiv, in our words; what they define (axis, precision, when
# nothing applies) is the task itself.
_NA = ' If there is none, answer "Not Applicable".'
_TICK = (
    " Give the tick value as it is written, also on an axis that subplots share; with two such axes, take the {} one. Leave out "
    "units and scale factors that stand apart from the tick."
)
_STEP = (
    " With two such axes, take the {} one. If there are no written ticks, they are not numbers, or their differences are not all "
    'the same, answer "Not Applicable".'
)
_LINES = ' Grid lines, tick marks and auxiliary lines do not count. If this is not a plot with lines, answer "Not Applicable".'
_LEGEND = ' Count only labels that concern this plot, wherever the legend stands. If it has no legend, answer "Not Applicable".'
_BAR = ' Leave out a percent sign. If this plot has no continuous legend, answer "Not Applicable".'
CHARXIV = {
    1: "what title is written on the plot? A letter that only names the subplot is not part of it."
    + _NA,
    2: "what is the written label of the x-axis, also if subplots share it? With two x-axes, take the bottom one."
    + _NA,
    3: "what is the written label of the y-axis, also if subplots share it? With two y-axes, take the left one."
    + _NA,
    4: "which labeled tick of the x-axis is leftmost?" + _TICK.format("bottom"),
    5: "which labeled tick of the x-axis is rightmost?" + _TICK.format("bottom"),
    6: "which labeled tick of the y-axis is lowest in the picture?" + _TICK.format("left"),
    7: "which labeled tick of the y-axis is highest in the picture?" + _TICK.format("left"),
    8: "by how much do consecutive tick values of the x-axis differ?" + _STEP.format("bottom"),
    9: "by how much do consecutive tick values of the y-axis differ?" + _STEP.format("left"),
    10: "how many lines does the plot have?" + _LINES,
    11: 'do any of the lines intersect? Answer "Yes" or "No".' + _LINES,
    12: "how many discrete labels does the legend have?" + _LEGEND,
    13: "what are the labels in the legend? List them from top to bottom, then left to right, separated by commas."
    + _LEGEND,
    14: "what is the difference between the largest and the smallest tick label of the continuous legend (the colorbar)?"
    + _BAR,
    15: "what is the largest tick label of the continuous legend (the colorbar)?" + _BAR,
    16: 'how do the data develop from left to right, in a few words (for example "increases", or "increases then stabilizes")?',
    17: "how many ticks are explicitly labeled on all axes together, shared axes included?",
    18: 'How are the subplots laid out? Answer as "n by m", rows by columns; "1 by 1" if there are no subplots.',
    19: "How many subplots are there? Answer 1 if there are no subplots.",
}
CHARXIV_REASONING = {
    1: "The answer is a piece of text that is written in the chart.",
    2: "The answer is text: one of the choices that the question names, or a phrase in general terms.",
    3: "The answer is a number that is written in the chart, exactly as it is there.",
}


def charxiv(row, where):
    """One reasoning and four descriptive questions a figure."""
    image, figure = pictures(row["image"]), row["figure_path"]
    kind, gold = (
        int(row["reasoning_a_type"]),
        clean(row["reasoning_a"]),
    )  # not reasoning_q_source, which two harnesses read
    if kind == 4:
        places = len(gold.split(".")[1]) if "." in gold else 0
        form = (
            f"The answer is a number with {places} decimal place{'s' * (places != 1)}."
            if places
            else "The answer is an integer."
        )
    else:
        form = CHARXIV_REASONING[kind]
    question = clean(row["reasoning_q"])
    out = [
        Item(
            f"{figure}-r",
            f"{question}\n{form}",
            gold,
            images=image,
            group="reasoning",
            meta={"judge": "charxiv_reasoning", "rubric": kind, "ask": question},
        )
    ]
    loc, r, c = row["subplot_loc"], row["subplot_row"], row["subplot_col"]
    prefix = (
        f"For {loc}, "
        if loc
        else "For this plot, "
        if not r
        else f"For the subplot in row {r} and column {c}, "
    )
    for i in range(1, 5):
        qid = int(row[f"descriptive_q{i}"])
        ask = CHARXIV[qid] if qid in (18, 19) else prefix + CHARXIV[qid]
        out.append(
            Item(
                f"{figure}-d{i}",
                ask,
                clean(row[f"descriptive_a{i}"]),
                images=image,
                group="descriptive",
                meta={"judge": "charxiv_descriptive", "rubric": qid, "ask": CHARXIV[qid]},
            )
        )
    return out


def dynamath(row, where):
    # decoded_image is the picture, image a path; an id comes back in every split
    return [
        Item(
            f"{where.split}-{row['id']}",
            clean(row["question"]),
            clean(row["ground_truth"]),
            images=pictures(row["decoded_image"]),
            group=" ".join(row["subject"].split()),
            meta={"answer_type": row["answer_type"], "seed": str(row["id"])},
        )
    ]


def embspatial(row, where):
    image = pictures(row.get("image") or row.get("image_base64"))
    return [
        Item(
            str(row["question_id"]),
            clean(row["question"]),
            LETTERS[int(row["answer"])],
            options_of(row["answer_options"]),
            image,
            group=row["relation"],
        )
    ]


def infographic(row, where):
    return [
        Item(
            str(row["questionId"]),
            clean(row["question"]),
            [str(a) for a in row["answers"]],
            images=pictures(row["image"]),
        )
    ]


def mathverse(row, where):
    version = row["problem_version"]
    if version == "Text Only":
        return []  # an ablation; never part of the five versions
    # Vision Only has its question in the picture; query_wo and query_cot carry directives, so
    # neither is used
    text = clean(row["question"]) or "Answer the question that is shown in the image."
    lettered = row["question_type"] == "multi-choice"
    meta = {"ask": clean(row.get("question_for_eval") or text), "version": version}
    return [
        Item(
            str(row["sample_index"]),
            text,
            clean(row["answer"]),
            images=pictures(row["image"]),
            group=version,
            meta=meta | ({"letters": inline_letters(meta["ask"])} if lettered else {}),
        )
    ]


def mathvision(row, where):
    def strip(text):
        return re.sub(
            r"\s*<image\d+>\s*", " ", clean(text)
        ).strip()  # one picture a row, whatever the markers say

    question, options = strip(row["question"]), [strip(o) for o in row["options"] or []]
    meta = {"level": row["level"]}
    if options and all(re.fullmatch(rf"\(?{LETTERS[i]}\)?", o) for i, o in enumerate(options)):
        # 415 rows draw their options: listing "A. A" would say nothing
        question, meta["letters"], options = (
            f"{question}\nThe options {', '.join(LETTERS[: len(options)])} are in the image.",
            len(options),
            [],
        )
    options = [o or "(see the image)" for o in options]
    return [
        Item(
            str(row["id"]),
            question,
            clean(row["answer"]),
            tuple(options),
            pictures(row["decoded_image"]),
            group=row["subject"],
            meta=meta,
        )
    ]


def mathvista(row, where):
    # built from question and choices, not from `query`, which opens with a directive; two task
    # facts live only there
    question, meta = (
        clean(row["question"]),
        {k: row[k] for k in ("answer_type", "precision", "unit")},
    )
    if row["unit"]:
        question += f" (Unit: {row['unit']})"
    if row["answer_type"] == "float" and row["precision"]:
        question += (
            f" (Round to {int(row['precision'])} decimal place{'s' * (row['precision'] != 1)}.)"
        )
    chosen = row["question_type"] == "multi_choice"
    return [
        Item(
            str(row["pid"]),
            question,
            clean(row["answer"]),
            tuple(map(clean, row["choices"] or [])) if chosen else (),
            pictures(row["decoded_image"]),
            meta=meta,
        )
    ]


def mmmu_pro(row, where):
    options = tuple(
        map(clean, ast.literal_eval(row["options"]))
    )  # a string that looks like a list; 1 to 12 options
    if "question" not in row:  # vision: question and options are rendered
        return [
            Item(
                f"{where.config}-{row['id']}",
                "Answer the question that is shown in the image.",
                clean(row["answer"]),
                images=pictures(row["image"]),
                group=where.config,
                meta={"letters": len(options)},
            )
        ]
    texts, order = [clean(row["question"]), *options], []

    def slot(m):  # in order of appearance, which the shuffled options have made any order
        if m[1] not in order:
            order.append(m[1])
        return f"<image {order.index(m[1]) + 1}>"

    question, *options = [re.sub(r"<image (\d)>", slot, t) for t in texts]
    images = pictures(*[row[f"image_{k}"] for k in order])
    return [
        Item(
            f"{where.config}-{row['id']}",
            question,
            clean(row["answer"]),
            tuple(options),
            images,
            group=where.config,
        )
    ]


def mmvet(row, where):
    gold = re.sub(r"\s*<(AND|OR)>\s*", r" <\1> ", clean(row["answer"]))
    skills = (
        row["capability"].split(",") if isinstance(row["capability"], str) else row["capability"]
    )
    return [
        Item(
            str(row["question_id"]),
            clean(row["question"]),
            gold,
            images=pictures(row["image"]),
            meta={"judge": "mmvet", "capability": sorted(s.strip() for s in skills)},
        )
    ]


def ocrbench(language):
    def row_items(row, where):
        if not row["type"].endswith(f" {language}"):
            return []
        from evaluation.ocrbench import GROUP_OF

        rule = row["eval"] if row["eval"] and row["eval"].lower() not in ("none", "nan") else ""
        meta = {
            "type": row["type"],
            "eval": rule,
            "bbox": row["bbox"],
            "bbox_list": row["bbox_list"],
            "content": row["content"],
        }
        return [
            Item(
                str(row["id"]),
                clean(row["question"]),
                list(row["answers"]),
                images=pictures(row["image"]),
                group=GROUP_OF[row["type"]],
                meta=meta,
            )
        ]

    return row_items


def visualpuzzles(row, where):
    question, options = clean(row["question"]), tuple(map(clean, row["options"] or []))
    if not options:  # drawn in the picture
        question += "\nChoose among A, B, C and D in the image."
    return [
        Item(
            str(row["id"]),
            question,
            clean(row["answer"]).upper(),
            options,
            pictures(row["image"]),
            group=row.get("category") or "",
            meta={"letters": 4},
        )
    ]


_DIRECTIVE = re.compile(
    r"[,;]?\s*(?:\band\s+)?(?:please\s+)?\b(?:answer with|put your answer in|give your answer in|for example)\b.*$",
    re.I | re.S,
)


def vlmsareblind(row, where):
    task, text = row["task"], clean(row["prompt"])
    question = _DIRECTIVE.sub("", text).strip() or text
    question += "" if question[-1] in ".?!" else "."
    if task.startswith("Counting Grid"):
        question += " Give the number of rows first, then the number of columns."
    return [
        Item(
            str(where.index),
            question,
            clean(row["groundtruth"]),
            images=pictures(row["image"]),
            group="Counting Grid" if task.startswith("Counting Grid") else task,
            meta={"task": task},
        )
    ]


def wemath(row, where):
    options = options_of(re.split(r";\s*(?=[A-G]\.)", clean(row["option"]).rstrip(";")))
    # image_path holds the picture; the knowledge concept would be a hint
    return [
        Item(
            str(where.index),
            clean(row["question"]),
            clean(row["answer"]),
            options,
            pictures(row["image_path"]),
            meta={"problem": str(row["ID"]), "role": row["key"]},
        )
    ]


# ---- language ------------------------------------------------------------------------------------


def aime25(row, where):
    gold = (
        clean(row["answer"]).replace("^\\circ", "").replace("^{\\circ}", "").strip("$ ")
    )  # II-05 is stored as 336^\circ
    return [
        Item(
            f"{where.config.removeprefix('AIME2025-')}-{where.index + 1:02d}",
            clean(row["question"]),
            gold,
        )
    ]


def aime26(row, where):
    return [Item(str(row["problem_idx"]), clean(row["problem"]), str(row["answer"]))]  # an int64


def ceval(row, where):
    return [
        Item(
            f"{where.config}-{row['id']}",
            clean(row["question"]),
            row["answer"],
            tuple(clean(row[k]) for k in "ABCD"),
            group=where.config,
        )
    ]


def gpqa(row, where):
    """The right answer has a column of its own: shuffled by a hash of the question, so that neither
    order nor --limit moves it.
    """
    texts = [
        clean(row["Correct Answer"]),
        *[clean(row[f"Incorrect Answer {k}"]) for k in (1, 2, 3)],
    ]
    question = clean(row["Question"])
    order = [0, 1, 2, 3]
    random.Random(hashlib.sha256(question.encode()).hexdigest()).shuffle(order)
    # found by the permutation, not by text: two options may be equal after stripping
    return [
        Item(
            row.get("Record ID") or f"{where.index}",
            question,
            LETTERS[order.index(0)],
            tuple(texts[i] for i in order),
            group=row.get("High-level domain") or "",
            meta={"order": order},
        )
    ]


def hle(row, where):
    image = pictures(row["image"]) if row["image"] else ()  # "" marks the 2,158 text-only rows
    return [
        Item(
            row["id"],
            clean(row["question"]),
            clean(row["answer"]),
            images=image,
            group=row["category"],
            meta={"judge": "hle", "text only": not row["image"]},
        )
    ]


IMO_REPAIRS = {  # defects of answerbench_v2.csv: (what stands there) -> what was meant
    ("algebra-036", "Algebra"): "Y(x)=A+\\frac{B}{x}-x",  # a missing quote shifted the columns
    ("geometry-004", "45752"): "4, 5",  # a spreadsheet read "4, 5" as a date
}


def imo(row, where):
    name = row["Problem ID"].strip()
    gold = clean(row["Short Answer"])
    category = clean(row["Category"])
    repaired = IMO_REPAIRS.get((name.removeprefix("imo-bench-"), gold))
    if repaired:
        gold, category = repaired, name.removeprefix("imo-bench-").rsplit("-", 1)[0].capitalize()
    if gold.count("$") % 2:
        gold = gold.replace("$", "")
    return [Item(name, clean(row["Problem"]), gold, group=category)]


def mmlu(row, where):
    return [
        Item(
            f"{row['subject']}-{where.index}",
            clean(row["question"]),
            LETTERS[row["answer"]],
            tuple(map(clean, row["choices"])),
            group=row["subject"],
        )
    ]


def mmlu_pro(row, where):
    # some revisions pad with "N/A"; a leading blank gives the right option away in some subjects
    kept = [i for i, o in enumerate(row["options"]) if o.strip() != "N/A"]
    gold = LETTERS[kept.index(row["answer_index"])]
    return [
        Item(
            str(row["question_id"]),
            clean(row["question"]),
            gold,
            tuple(clean(row["options"][i]) for i in kept),
            group=row["category"],
        )
    ]


def mmlu_redux(row, where):
    """`ok` rows, and wrong keys whose correction is one of the four options; ambiguous and
    unanswerable rows are dropped.
    """
    gold = row["answer"]
    if row["error_type"] == "wrong_groundtruth":
        fixed = (
            str(row["correct_answer"] if row["correct_answer"] is not None else "").strip().upper()
        )
        if fixed not in ("0", "1", "2", "3", "A", "B", "C", "D"):
            return []  # "2 and 3", "(0, 1)", prose, nothing
        gold = int(fixed) if fixed.isdigit() else LETTERS.index(fixed)
    elif row["error_type"] != "ok":
        return []
    return [
        Item(
            f"{where.config}-{where.index}",
            clean(row["question"]),
            LETTERS[gold],
            tuple(map(clean, row["choices"])),
            group=where.config,
            meta={"error": row["error_type"]},
        )
    ]


def multichallenge(row, where):
    turns = row["conversation"]
    if isinstance(turns, dict):  # older `datasets`: a dict of lists
        turns = [{"role": r, "content": c} for r, c in zip(turns["role"], turns["content"])]
    turns = tuple((t["role"], t["content"]) for t in turns)
    return [
        Item(
            row["question_id"],
            turns[-1][1],
            row["pass_criteria"],
            turns=turns,
            group=row["axis"],
            meta={"judge": "multichallenge", "ask": row["target_question"]},
        )
    ]
