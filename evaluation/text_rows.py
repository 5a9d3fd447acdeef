"""One row of a language benchmark's data -> its questions (rows.py says how)."""

import hashlib
import random

from evaluation.rows import LETTERS, Item, clean, pictures


def aime25(row, where):
    gold = clean(row["answer"]).replace("^\\circ", "").replace("^{\\circ}", "")
    gold = gold.strip("$ ")  # II-05 is stored as 336^\circ
    id_ = f"{where.config.removeprefix('AIME2025-')}-{where.index + 1:02d}"
    return [Item(id_, clean(row["question"]), gold)]


def aime26(row, where):
    return [Item(str(row["problem_idx"]), clean(row["problem"]), str(row["answer"]))]  # an int64


def ceval(row, where):
    options = tuple(clean(row[k]) for k in "ABCD")
    id_, gold = f"{where.config}-{row['id']}", clean(row["answer"])
    return [Item(id_, clean(row["question"]), gold, options, group=where.config)]


def gpqa(row, where):
    """The right answer has a column of its own: shuffled by a hash of the question, so that neither
    order nor --limit moves it.
    """
    wrong = [clean(row[f"Incorrect Answer {k}"]) for k in (1, 2, 3)]
    texts, question = [clean(row["Correct Answer"]), *wrong], clean(row["Question"])
    order = [0, 1, 2, 3]
    random.Random(hashlib.sha256(question.encode()).hexdigest()).shuffle(order)
    # found by the permutation, not by text: two options may be equal after stripping
    gold, options = LETTERS[order.index(0)], tuple(texts[i] for i in order)
    id_, group = row.get("Record ID") or f"{where.index}", row.get("High-level domain") or ""
    return [Item(id_, question, gold, options, group=group, meta={"order": order})]


def hle(row, where):
    images = pictures(row["image"]) if row["image"] else ()  # "" marks the 2,158 text-only rows
    meta = {"judge": "hle", "text only": not row["image"]}
    question, gold, group = clean(row["question"]), clean(row["answer"]), row["category"]
    return [Item(row["id"], question, gold, images=images, group=group, meta=meta)]


IMO_REPAIRS = {  # defects of answerbench_v2.csv: (what stands there) -> what was meant
    ("algebra-036", "Algebra"): "Y(x)=A+\\frac{B}{x}-x",  # a missing quote shifted the columns
    ("geometry-004", "45752"): "4, 5",  # a spreadsheet read "4, 5" as a date
}


def imo(row, where):
    name, gold = row["Problem ID"].strip(), clean(row["Short Answer"])
    category = clean(row["Category"])
    repaired = IMO_REPAIRS.get((name.removeprefix("imo-bench-"), gold))
    if repaired:
        gold = repaired
        category = name.removeprefix("imo-bench-").rsplit("-", 1)[0].capitalize()
    if gold.count("$") % 2:
        gold = gold.replace("$", "")
    return [Item(name, clean(row["Problem"]), gold, group=category)]


def mmlu(row, where):
    subject, options = row["subject"], tuple(map(clean, row["choices"]))
    gold, id_ = LETTERS[int(row["answer"])], f"{subject}-{where.index}"
    return [Item(id_, clean(row["question"]), gold, options, group=subject)]


def mmlu_pro(row, where):
    # some revisions pad with "N/A"; a leading blank gives the right option away in some subjects
    kept = [i for i, o in enumerate(row["options"]) if o.strip() != "N/A"]
    gold = LETTERS[kept.index(int(row["answer_index"]))]
    options = tuple(clean(row["options"][i]) for i in kept)
    id_, question = str(row["question_id"]), clean(row["question"])
    return [Item(id_, question, gold, options, group=row["category"])]


def mmlu_redux(row, where):
    """`ok` rows, and wrong keys whose correction is one of the four options; ambiguous and
    unanswerable rows are dropped.
    """
    gold, fixed = row["answer"], row["correct_answer"]
    if row["error_type"] == "wrong_groundtruth":
        fixed = "" if fixed is None else str(fixed).strip().upper()
        if fixed not in tuple("0123ABCD"):
            return []  # "2 and 3", "(0, 1)", prose, nothing
        gold = int(fixed) if fixed.isdigit() else LETTERS.index(fixed)
    elif row["error_type"] != "ok":
        return []
    id_, options = f"{where.config}-{where.index}", tuple(map(clean, row["choices"]))
    meta, gold = {"error": row["error_type"]}, LETTERS[int(gold)]
    return [Item(id_, clean(row["question"]), gold, options, group=where.config, meta=meta)]


def multichallenge(row, where):
    row = {key.lower(): value for key, value in row.items()}  # upper case in its own repository
    turns = row["conversation"]
    if isinstance(turns, dict):  # older `datasets`: a dict of lists
        turns = [{"role": r, "content": c} for r, c in zip(turns["role"], turns["content"])]
    turns = tuple((t["role"], t["content"]) for t in turns)
    meta = {"judge": "multichallenge", "ask": row["target_question"]}
    more = {"turns": turns, "group": row["axis"], "meta": meta}
    return [Item(row["question_id"], turns[-1][1], row["pass_criteria"], **more)]
