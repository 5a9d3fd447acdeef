"""One row of an image benchmark's data -> its questions (rows.py says how)."""

import ast
import re
from pathlib import Path

from evaluation.ocrbench import GROUP_OF
from evaluation.rows import LETTERS, Item, clean, lettered, options_of, pictures

IN_THE_IMAGE = "Answer the question that is shown in the image."


def ai2d(row, where):
    # the gold is the 0-based index as a string; there is no id
    gold, options = LETTERS[int(row["answer"])], options_of(row["options"])
    return [Item(str(where.index), clean(row["question"]), gold, options, pictures(row["image"]))]


def babyvision(row, where):
    chosen = row["ansType"] == "choice"
    blank = row["blankAns"]
    blank = "" if blank in (None, "null", "None") else clean(blank)  # unused: the string "null"
    gold = LETTERS[int(row["choiceAns"])] if chosen else blank
    options = options_of(row["options"] or []) if chosen else ()
    question, images = clean(row["question"]), pictures(row["image"])
    return [Item(str(row["taskId"]), question, gold, options, images, group=row["type"])]


# The 19 descriptive templates of CharXiv, in our words; what they define (axis, precision, when
# nothing applies) is the task itself.
CHARXIV = dict(
    enumerate(
        Path(__file__).with_name("charxiv_questions.txt").read_text("utf-8").splitlines(), start=1
    )
)
CHARXIV_REASONING = {
    1: "The answer is a piece of text that is written in the chart.",
    2: "The answer is text: one of the choices that the question names, or a phrase in general "
    "terms.",
    3: "The answer is a number that is written in the chart, exactly as it is there.",
}


def charxiv(row, where):
    """One reasoning and four descriptive questions a figure."""
    image, figure = pictures(row["image"]), row["figure_path"]
    # not reasoning_q_source, which two harnesses read
    kind, gold = int(row["reasoning_a_type"]), clean(row["reasoning_a"])
    question = clean(row["reasoning_q"])
    meta = {"judge": "charxiv_reasoning", "rubric": kind, "ask": question}
    form = CHARXIV_REASONING.get(kind) or _decimals(gold)
    ask = f"{question}\n{form}"
    out = [Item(f"{figure}-r", ask, gold, images=image, group="reasoning", meta=meta)]
    prefix = _subplot(row["subplot_loc"], row["subplot_row"], row["subplot_col"])
    for i in range(1, 5):
        number = int(row[f"descriptive_q{i}"])
        ask = CHARXIV[number] if number in (18, 19) else prefix + CHARXIV[number]
        gold = clean(row[f"descriptive_a{i}"])
        meta = {"judge": "charxiv_descriptive", "rubric": number, "ask": CHARXIV[number]}
        out.append(Item(f"{figure}-d{i}", ask, gold, images=image, group="descriptive", meta=meta))
    return out


def _decimals(gold):
    places = len(gold.split(".")[1]) if "." in gold else 0
    if not places:
        return "The answer is an integer."
    return f"The answer is a number with {places} decimal place{'s' if places > 1 else ''}."


def _subplot(name, row, column):
    if name:
        return f"For {name}, "
    return f"For the subplot in row {row} and column {column}, " if row else "For this plot, "


def dynamath(row, where):
    # decoded_image is the picture, image a path; an id comes back in every split
    question, gold = clean(row["question"]), clean(row["ground_truth"])
    meta = {"answer_type": row["answer_type"], "seed": str(row["id"])}
    if row["answer_type"] == "multiple choice":
        meta |= lettered(question)
    id_, group = f"{where.split}-{row['id']}", " ".join(row["subject"].split())
    return [Item(id_, question, gold, images=_decoded(row), group=group, meta=meta)]


def _decoded(row):
    return pictures(row.get("decoded_image") or row.get("image"))


def embspatial(row, where):
    images = pictures(row.get("image") or row.get("image_base64"))
    gold, options = LETTERS[int(row["answer"])], options_of(row["answer_options"])
    question, group = clean(row["question"]), row["relation"]
    return [Item(str(row["question_id"]), question, gold, options, images, group=group)]


def infographic(row, where):
    golds, images = [str(a) for a in row["answers"]], pictures(row["image"])
    return [Item(str(row["questionId"]), clean(row["question"]), golds, images=images)]


def mathverse(row, where):
    version = row["problem_version"]
    if version == "Text Only":
        return []  # an ablation; never part of the five versions
    # Vision Only has its question in the picture; query_wo and query_cot carry directives, so
    # neither is used
    text, gold = clean(row["question"]) or IN_THE_IMAGE, clean(row["answer"])
    meta = {"ask": clean(row.get("question_for_eval") or text), "version": version}
    if row["question_type"] == "multi-choice":
        meta |= lettered(meta["ask"])
        gold = re.sub(r"^\(([A-Z])\)$", r"\1", gold)  # a few golds are "(C)"
    id_, images = str(row["sample_index"]), pictures(row["image"])
    return [Item(id_, text, gold, images=images, group=version, meta=meta)]


def mathvision(row, where):
    def strip(text):  # one picture a row, whatever the markers say
        return re.sub(r"\s*<image\d+>\s*", " ", clean(text)).strip()

    question, options = strip(row["question"]), [strip(o) for o in row["options"] or []]
    meta = {"level": row["level"]}
    if options and all(re.fullmatch(rf"\(?{LETTERS[i]}\)?", o) for i, o in enumerate(options)):
        # 415 rows draw their options: listing "A. A" would say nothing
        names = ", ".join(LETTERS[: len(options)])
        question += f"\nThe options {names} are in the image."
        meta["letters"], options = len(options), []
    options = tuple(o or "(see the image)" for o in options)
    id_, gold = str(row["id"]), clean(row["answer"])
    return [Item(id_, question, gold, options, _decoded(row), group=row["subject"], meta=meta)]


def mathvista(row, where):
    # built from question and choices, not from `query`, which opens with a directive; two task
    # facts live only there
    question = clean(row["question"])
    meta = {k: row[k] for k in ("answer_type", "precision", "unit")}
    if row["unit"]:
        question += f" (Unit: {row['unit']})"
    if row["answer_type"] == "float" and row["precision"]:
        places = int(row["precision"])
        question += f" (Round to {places} decimal place{'s' if places > 1 else ''}.)"
    chosen = row["question_type"] == "multi_choice"
    options = tuple(map(clean, row["choices"] or [])) if chosen else ()
    id_, gold = str(row["pid"]), clean(row["answer"])
    return [Item(id_, question, gold, options, _decoded(row), meta=meta)]


def mmmu_pro(row, where):
    # a string that looks like a list; 1 to 12 options
    options = tuple(map(clean, ast.literal_eval(row["options"])))
    id_, gold, group = f"{where.config}-{row['id']}", clean(row["answer"]), where.config
    if "question" not in row:  # vision: question and options are rendered
        images, meta = pictures(row["image"]), {"letters": len(options)}
        return [Item(id_, IN_THE_IMAGE, gold, images=images, group=group, meta=meta)]
    texts, order = [clean(row["question"]), *options], []

    def slot(m):  # in order of appearance, which the shuffled options have made any order
        if m[1] not in order:
            order.append(m[1])
        return f"<image {order.index(m[1]) + 1}>"

    question, *options = [re.sub(r"<image (\d)>", slot, text) for text in texts]
    images = pictures(*[row[f"image_{k}"] for k in order])
    return [Item(id_, question, gold, tuple(options), images, group=group)]


def mmvet(row, where):
    gold = re.sub(r"\s*<(AND|OR)>\s*", r" <\1> ", clean(row["answer"]))
    skills = row["capability"]
    skills = skills.split(",") if isinstance(skills, str) else skills
    meta = {"judge": "mmvet", "capability": sorted(s.strip() for s in skills)}
    id_, question = str(row["question_id"]), clean(row["question"])
    return [Item(id_, question, gold, images=pictures(row["image"]), meta=meta)]


def ocrbench(language):
    """The row function of one half of OCRBench v2: "en" or "cn"."""

    def row_items(row, where):
        if not row["type"].endswith(f" {language}"):
            return []
        meta = {key: row[key] for key in ("type", "bbox", "bbox_list", "content")}
        rule = row["eval"] or ""
        meta["eval"] = "" if rule.lower() in ("none", "nan") else rule
        id_, question, golds = str(row["id"]), clean(row["question"]), list(row["answers"])
        images, group = pictures(row["image"]), GROUP_OF[row["type"]]
        return [Item(id_, question, golds, images=images, group=group, meta=meta)]

    return row_items


def visualpuzzles(row, where):
    question, options = clean(row["question"]), tuple(map(clean, row["options"] or []))
    if not options:  # drawn in the picture
        question += "\nChoose among A, B, C and D in the image."
    gold, group = clean(row["answer"]).upper(), row.get("category") or ""
    more = {"images": pictures(row["image"]), "group": group, "meta": {"letters": 4}}
    return [Item(str(row["id"]), question, gold, options, **more)]


_DIRECTIVE = re.compile(
    r"[,;]?\s*(?:\band\s+)?(?:please\s+)?"
    r"\b(?:answer with|put your answer in|give your answer in|for example)\b.*$",
    re.I | re.S,
)


def vlmsareblind(row, where):
    task, text = row["task"], clean(row["prompt"])
    question = _DIRECTIVE.sub("", text).strip() or text
    question += "" if question[-1] in ".?!" else "."
    group = task
    if task.startswith("Counting Grid"):
        question += " Give the number of rows first, then the number of columns."
        group = "Counting Grid"
    more = {"images": pictures(row["image"]), "group": group, "meta": {"task": task}}
    return [Item(str(where.index), question, clean(row["groundtruth"]), **more)]


def wemath(row, where):
    # The options go in as they are printed: their separators are irregular, and cutting at them
    # damaged rows. image_path holds the picture; the knowledge concept would be a hint.
    options = clean(row["option"])
    meta = {"problem": str(row["ID"]), "role": row["key"]}
    meta |= lettered(options)
    question, images = f"{clean(row['question'])}\n{options}", pictures(row["image_path"])
    return [Item(str(where.index), question, clean(row["answer"]), images=images, meta=meta)]
