r"""OCRBench v2's official metrics, one function per kind of task, and its 8 English and 5 Chinese
groups. Structured answers are in trees.py.

Restated from the behaviour of Yuliang-Liu/MultimodalOCR, OCRBench_v2/eval_scripts (read, not
copied): the 30 task types, which metric each one has, and that the overall score is the unweighted
mean of the group means (lmms-eval weights by rows, another number).

Where this differs from the official scripts, and why:
* A metric sees the extracted answer (the box), never the reasoning: most of them reward containment
  and so verbosity. What the box does to a text (escapes, \text{}) is undone; the better reading
  counts. Formulas are compared as they are written.
* Multiple choice compares the letter that letters.pick_letter finds; keeping only letters of
  "\boxed{A}" gives "boxedA" there.
* Spotting is computed on rectangles in memory; there the same rectangles go through zip files in a
  fixed folder.
* METEOR's synonym step needs the WordNet corpus on disk. Where nltk finds none, that step is off
  (the table says so): exact and stemmed matches still count, scores of the 4-way mean are then
  lower by a little.

    ocr(Item(..., gold=["7"], meta={"type": "text counting en", "eval": "regression", ...}),
    r"\boxed{6}")
"""

import re
import warnings
from functools import cache, partial

from evaluation.letters import pick_letter, readings
from evaluation.rows import LETTERS
from evaluation.scorers import Score, similarity
from evaluation.trees import chart, combinations, document, literal, pairs_f1, table, to_dict
from reward import last_boxed

GROUPS = {  # task type -> group; the suffix is the language
    "EN text recognition": (
        "text recognition en",
        "fine-grained text recognition en",
        "full-page OCR en",
    ),
    "EN text detection": ("text grounding en", "VQA with position en"),
    "EN text spotting": ("text spotting en",),
    "EN relation extraction": ("key information extraction en", "key information mapping en"),
    "EN element parsing": (
        "document parsing en",
        "chart parsing en",
        "table parsing en",
        "formula recognition en",
    ),
    "EN mathematical calculation": ("math QA en", "text counting en"),
    "EN visual text understanding": (
        "document classification en",
        "cognition VQA en",
        "diagram QA en",
    ),
    "EN knowledge reasoning": (
        "reasoning VQA en",
        "science QA en",
        "APP agent en",
        "ASCII art classification en",
    ),
    "CN text recognition": ("full-page OCR cn",),
    "CN relation extraction": ("key information extraction cn", "handwritten answer extraction cn"),
    "CN element parsing": ("document parsing cn", "table parsing cn", "formula recognition cn"),
    "CN visual text understanding": ("cognition VQA cn",),
    "CN knowledge reasoning": ("reasoning VQA cn", "text translation cn"),
}
GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
MAX_CHARS = 20_000  # a longer answer is cut before any quadratic metric
PAGE = (
    "full-page OCR en",
    "full-page OCR cn",
    "fine-grained text recognition en",
    "text translation cn",
)
# Kinds whose whole reply may be the answer: a transcription may end in "Answer: 4".
TRANSCRIPTS = (
    *PAGE,
    *GROUPS["EN text recognition"],
    *GROUPS["EN text detection"],
    *GROUPS["EN text spotting"],
    *GROUPS["EN relation extraction"],
    *GROUPS["EN element parsing"],
    *GROUPS["CN relation extraction"],
    *GROUPS["CN element parsing"],
)
JOINTS = ("", ".", ". ", ",", ", ", "、", ";", "; ", " ", "和")  # between handwritten answers


def ocr(item, text):
    """Score of one OCRBench v2 row. item.gold: `answers`, a list of strings; item.meta: type, eval,
    bbox, bbox_list, content. Rows that the official script ignores are "ignored".
    """
    kind, rule = item.meta["type"], (item.meta["eval"] or "").lower()
    golds = [str(a) for a in item.gold]
    if kind not in GROUP_OF:
        raise ValueError(f"OCRBench v2 has no task type {kind!r}; the data set changed")
    if kind.startswith("formula recognition"):
        box = last_boxed(text)
        answers = (text if box is None else box,)
    else:
        answers = readings(text, stated=kind not in TRANSCRIPTS)
    answers = [a[:MAX_CHARS] for a in answers]
    if kind != "text spotting en" and not golds or by_page(item) and not golds[0].strip():
        return Score(None, "ignored", answers[-1])
    if rule == "multiple choice":
        letter = pick_letter(text, len(LETTERS)) or answers[-1]
        return Score(float(letter == golds[0]), "metric", answers[-1])
    value = max(metric(item, kind, rule, golds, answer) for answer in answers)
    return Score(float(value), "metric", answers[-1])


def by_page(item):
    """Whether the mean of four text measures scores a row."""
    kind = item.meta["type"]
    return kind in PAGE or kind == "handwritten answer extraction cn" and "简答" in item.question


def metric(item, kind, rule, golds, answer):
    """The measure of a task type, 0 to 1."""
    if by_page(item):
        return page(answer, golds[0])
    if kind == "handwritten answer extraction cn":
        return any(joint.join(golds[0]) in answer for joint in JOINTS)
    if kind == "text counting en":
        return counting(answer, golds, rule)
    if kind.startswith("formula recognition"):
        return formula(answer, golds, tags=kind.endswith("cn"))
    if kind.startswith("table parsing"):
        return table(answer, golds[0], item.question if kind.endswith("en") else "html")
    if kind == "chart parsing en":
        return chart(answer, golds[0])
    if kind.startswith("document parsing"):
        return document(answer, golds[0])
    if kind.startswith("key information"):
        return max((pairs_f1(to_dict(answer), g) for g in combinations(golds[0])), default=0.0)
    if kind == "VQA with position en":
        return with_position(to_dict(answer), golds, item.meta["bbox"])
    if kind == "text grounding en":
        return iou(last_box(answer), golds)
    if kind == "text spotting en":
        boxes = item.meta["bbox_list"] or [item.meta["bbox"]]
        return spotting(spotted(answer), boxes, item.meta["content"])
    case = rule == "case sensitive"
    return vqa(answer, golds, case=case, chinese=kind.endswith("cn") and not case)


# ---- words ---------------------------------------------------------------------------------------


def vqa(answer, golds, case=False, chinese=False):
    """1 if a short gold stands in the answer; a long one (5 words, or 4 comma parts in Chinese) by
    similarity, from 0.5 up.
    """

    def norm(s):
        s = (s if case else s.lower()).strip().replace("\n", " ")
        return s.replace(" ", "") if chinese else s

    best, answer = 0.0, norm(answer)
    for gold in map(norm, golds):
        if (len(gold.split(",")) < 4) if chinese else (len(gold.split()) < 5):
            best = max(best, float(gold in answer))
        else:
            close = similarity(answer, gold)
            best = max(best, close if close >= 0.5 else 0.0)
    return best


def counting(answer, golds, rule):
    """ "exact match": containment. "regression": 1 - relative error of the first integer, if above
    0.5.
    """
    best = 0.0
    for gold in golds:
        if rule == "exact match":
            best = max(best, float(gold.lower().strip() in answer))
        else:
            m = re.search(r"\d+", answer)
            got, want = int(m[0]) if m and len(m[0]) < 10 else 0, int(gold)
            close = 1 - abs(got - want) / want if 0 < got < 2 * want else 0.0
            best = max(best, close if close > 0.5 else 0.0)
    return best


def formula(answer, golds, tags=False):
    r"""Containment without blanks and math delimiters, on both sides; tags: \text{} is taken off
    first (Chinese rows).
    """

    def norm(s):
        s = re.sub(r"\\text\{([^{}]*)\}", r"\1", s) if tags else s
        s = re.sub(r"^\s*(?:\$+|\\[\[(])|(?:\$+|\\[\])])\s*$", "", s)
        return s.strip().replace("\n", " ").replace(" ", "")

    return float(any(norm(g) in norm(answer) for g in golds))


@cache
def _nltk():
    """(sentence BLEU, METEOR, whether METEOR has synonyms). Imported late: only page-level rows pay
    for it.
    """
    import nltk.translate.bleu_score
    import nltk.translate.meteor_score
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
        known = True
    except LookupError:

        class wordnet:  # a dictionary without entries: the synonym step finds nothing
            synsets = staticmethod(lambda word: [])

        known = False
    meteor = partial(nltk.translate.meteor_score.meteor_score, wordnet=wordnet)
    return nltk.translate.bleu_score.sentence_bleu, meteor, known


def meteor_note():
    """What a reader of a number should know about METEOR here."""
    if _nltk()[2]:
        return "METEOR with WordNet synonyms"
    return "METEOR without synonyms: nltk finds no WordNet corpus on this disk"


@cache
def _jieba():
    import logging

    import jieba

    jieba.setLogLevel(logging.ERROR)
    return jieba.lcut


def page(answer, gold):
    """Mean of BLEU, METEOR, F1 of the token sets, and 1 - normalized edit distance; jieba's words
    where there is Chinese.
    """
    if not answer:
        return 0.0
    cut = _jieba() if re.search("[\u4e00-\u9fa5]", answer + gold) else str.split
    ref, hyp = cut(gold), cut(answer)
    bleu, meteor, _ = _nltk()
    with warnings.catch_warnings():
        # BLEU of a short text has no 4-grams; 0 is what the official script takes
        warnings.simplefilter("ignore")
        scores = [bleu([ref], hyp) if hyp else 0.0, meteor([ref], hyp)]
    both = len(set(ref) & set(hyp))
    scores.append(2 * both / (len(set(ref)) + len(set(hyp))) if both else 0.0)
    scores.append(similarity(answer, gold))
    return sum(scores) / 4


# ---- boxes ---------------------------------------------------------------------------------------


def iou(box, gold):
    """Overlap of two [x1, y1, x2, y2]; 0 for what is not four numbers (golds are strings)."""
    try:
        (a, b, c, d), (e, f, g, h) = ([int(float(x)) for x in b[:4]] for b in (box, gold))
    except (TypeError, ValueError, OverflowError):
        return 0.0
    inter = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - inter
    return inter / union if union > 0 else 0.0


_BOX = re.compile(r"[(\[]\s*(\d{1,4})" + 3 * r"\s*,\s*(\d{1,4})" + r"\s*[)\]]")


def last_box(answer):
    """The last four integers of 0 to 1000 in brackets; around the whole answer they may be missing.
    None if there are none.
    """
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+){3}\s*", answer):
        answer = f"[{answer}]"
    found = [list(map(int, m)) for m in _BOX.findall(answer)]
    found = [b for b in found if max(b) <= 1000]
    return found[-1] if found else None


def with_position(got, golds, bbox):
    """Half for the answer, half for the overlap of its box. got: to_dict() of the reply."""
    got = {key.lower(): value for key, value in got.items()}
    box = literal(got.get("bbox", ""))
    box = box[0] if isinstance(box, list) and len(box) == 1 else box
    said = vqa(got["answer"], golds) if "answer" in got else 0.0
    return 0.5 * said + 0.5 * iou(box, bbox)


def spotted(answer):
    """[(x1, y1, x2, y2, text)] of a list literal, or of bracketed groups; within 0 to 1000, without
    repeats.
    """
    data = literal(answer)
    if not isinstance(data, (list, tuple)):
        data = [m.split(",", 4) for m in re.findall(r"[\[(]\s*([^\[\]()]*?)\s*[\])]", answer)]
    out = {}
    for row in data:
        if not isinstance(row, (list, tuple)) or len(row) < 5:
            continue
        try:
            box = tuple(int(str(x).strip()) for x in row[:4])
        except ValueError:
            continue
        if all(0 <= x <= 1000 for x in box):
            out[(*box, str(row[4]).replace("\n", "").strip().strip("\"'"))] = True
    return list(out)


def spotting(found, boxes, texts):
    """ICDAR end-to-end H-mean: a detection counts if it overlaps an unmatched gold by more than
    half and reads the same.
    """
    found = [f for f in found if f[0] < f[2] and f[1] < f[3]]
    rectangles = [(min(b[0::2]), min(b[1::2]), max(b[0::2]), max(b[1::2])) for b in boxes]
    golds = list(zip(rectangles, texts))
    if not found or not golds:
        return 0.0
    ignore = [b for b, t in golds if t == "###"]  # unreadable text in the picture
    found = [f for f in found if not any(_covered(f[:4], b) > 0.5 for b in ignore)]
    golds = [(b, t) for b, t in golds if t != "###"]
    used, right = set(), 0
    for box, text in golds:
        for i, f in enumerate(found):
            if i not in used and iou(f[:4], box) > 0.5:
                used.add(i)
                right += _reads(text.upper(), f[4].upper())
                break
    return 2 * right / (len(golds) + len(found)) if right else 0.0


def _covered(box, by):
    w, h = min(box[2], by[2]) - max(box[0], by[0]), min(box[3], by[3]) - max(box[1], by[1])
    return max(0, w) * max(0, h) / ((box[2] - box[0]) * (box[3] - box[1]))


def _reads(gold, got):
    """Equal, or equal after one special character of the gold is taken off its front, its end, or
    both.
    """
    special = tuple("!?.:,*\"()·[]/'")
    fronts = (0, 1) if gold.startswith(special) else (0,)
    ends = (0, 1) if gold.endswith(special) else (0,)
    return any(got == gold[f : len(gold) - e] for f in fronts for e in ends)
