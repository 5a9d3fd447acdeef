r"""OCRBench v2's official metrics, one function per kind of task, and its 8 English and 5 Chinese
groups.

Restated from the behaviour of Yuliang-Liu/MultimodalOCR, OCRBench_v2/eval_scripts (read, not
copied): the 30 task types, which metric each one has, and that the overall score is the unweighted
mean of the group means (lmms-eval weights by rows, another number).

Where this differs from the official scripts, and why:
* A metric sees the extracted answer (the box), never the reasoning: most of them reward containment
  and so verbosity.
* Multiple choice compares the letter that scorers.pick_letter finds; keeping only letters of
  "\boxed{A}" gives "boxedA" there.
* Spotting is computed on rectangles in memory; there the same rectangles go through zip files in a
  fixed folder.
* METEOR's synonym step needs the WordNet corpus on disk. Where nltk finds none, that step is off
  (METEOR_SYNONYMS says so, and the table prints it): exact and stemmed matches still count, scores
  of the 4-way mean are then lower by a little.

    ocr(Item(..., gold=["7"], meta={"type": "text counting en", "eval": "regression", ...}),
    r"\boxed{6}")
"""

import ast
import json
import re
import warnings
from functools import cache
from html import escape
from itertools import product

from rapidfuzz.distance import Levenshtein

from evaluation.scorers import LETTERS, Score, answer_of, pick_letter

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


def ocr(item, text):
    """Score of one OCRBench v2 row. item.gold: `answers`, a list of strings; item.meta: type, eval,
    bbox, bbox_list, content.
    """
    kind, rule, golds = (
        item.meta["type"],
        (item.meta["eval"] or "").lower(),
        [str(a) for a in item.gold],
    )
    answer = answer_of(text)[:MAX_CHARS]
    if rule == "multiple choice":
        return Score(
            float((pick_letter(text, len(LETTERS)) or answer) == golds[0]), "metric", answer
        )
    if kind in PAGE and not golds[0]:
        return Score(None, "ignored", answer)
    if kind in PAGE or kind == "handwritten answer extraction cn" and "简答" in item.question:
        value = page(answer, golds[0])
    elif kind == "handwritten answer extraction cn":
        value = float(
            any(
                sep.join(golds[0]) in answer
                for sep in ("", ".", ". ", ",", ", ", "、", ";", "; ", " ", "和")
            )
        )
    elif kind == "text counting en":
        value = counting(answer, golds, rule)
    elif kind.startswith("formula recognition"):
        value = formula(answer, golds, tags=kind.endswith("cn"))
    elif kind.startswith("table parsing"):
        value = table(answer, golds[0], item.question if kind.endswith("en") else "html")
    elif kind == "chart parsing en":
        value = chart(answer, golds[0])
    elif kind.startswith("document parsing"):
        value = document(answer, golds[0])
    elif kind.startswith("key information"):
        value = max((pairs_f1(to_dict(answer), g) for g in combinations(golds[0])), default=0.0)
    elif kind == "VQA with position en":
        value = with_position(to_dict(answer), golds, item.meta["bbox"])
    elif kind == "text grounding en":
        value = iou(last_box(answer), golds)
    elif kind == "text spotting en":
        value = spotting(
            spotted(answer), item.meta["bbox_list"] or [item.meta["bbox"]], item.meta["content"]
        )
    elif kind in GROUP_OF:
        value = vqa(
            answer,
            golds,
            case=rule == "case sensitive",
            chinese=kind.endswith("cn") and rule != "case sensitive",
        )
    else:
        raise ValueError(f"OCRBench v2 has no task type {kind!r}; the data set changed")
    return Score(float(value), "metric", answer)


PAGE = (
    "full-page OCR en",
    "full-page OCR cn",
    "fine-grained text recognition en",
    "text translation cn",
)


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
            similar = Levenshtein.normalized_similarity(answer, gold)
            best = max(best, similar if similar >= 0.5 else 0.0)
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
    r"""Containment without blanks; tags: \text{} is taken off first (Chinese rows)."""

    def norm(s):
        return (
            (re.sub(r"\\text\{([^{}]*)\}", r"\1", s) if tags else s)
            .strip()
            .replace("\n", " ")
            .replace(" ", "")
        )

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
    return (
        nltk.translate.bleu_score.sentence_bleu,
        lambda r, h: nltk.translate.meteor_score.meteor_score(r, h, wordnet=wordnet),
        known,
    )


def meteor_note():
    return (
        "METEOR with WordNet synonyms"
        if _nltk()[2]
        else "METEOR without synonyms: nltk finds no WordNet corpus on this disk"
    )


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
        warnings.simplefilter(
            "ignore"
        )  # BLEU of a short text has no 4-grams; 0 is what the official script takes
        scores = [bleu([ref], hyp) if hyp else 0.0, meteor([ref], hyp)]
    both = len(set(ref) & set(hyp))
    scores.append(2 * both / (len(set(ref)) + len(set(hyp))) if both else 0.0)
    scores.append(Levenshtein.normalized_similarity(answer, gold))
    return sum(scores) / 4


# ---- boxes ---------------------------------------------------------------------------------------


def iou(box, gold):
    """Overlap of two [x1, y1, x2, y2]; 0 for what is not four integers (golds are strings)."""
    try:
        (a, b, c, d), (e, f, g, h) = (tuple(int(x) for x in b[:4]) for b in (box, gold))
    except (TypeError, ValueError):
        return 0.0
    inter = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - inter
    return inter / union if union > 0 else 0.0


def last_box(answer):
    """The last four integers of 0 to 1000 in brackets; around the whole answer they may be missing.
    None if there are none.
    """
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+){3}\s*", answer):
        answer = f"[{answer}]"
    found = [
        list(map(int, m))
        for m in re.findall(
            r"[(\[]\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*[)\]]", answer
        )
    ]
    found = [b for b in found if max(b) <= 1000]
    return found[-1] if found else None


def with_position(got, golds, bbox):
    box = literal(got.get("bbox", "")) if got else None
    return 0.5 * (vqa(got["answer"], golds) if "answer" in got else 0.0) + 0.5 * iou(box, bbox)


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
    golds = [
        ((min(b[0::2]), min(b[1::2]), max(b[0::2]), max(b[1::2])), t) for b, t in zip(boxes, texts)
    ]
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
    special = "!?.:,*\"()·[]/'"
    front, end = gold[:1] in special and gold != "", gold[-1:] in special and gold != ""
    return got in [gold, *[gold[1:]] * front, *[gold[:-1]] * end, *[gold[1:-1]] * (front and end)]


# ---- dictionaries and trees ----------------------------------------------------------------------


def literal(text):
    """A JSON value or Python literal, or None. Nothing is executed."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def fenced(text):
    blocks = re.findall(r"```(?:python|json)?\n(.*?)\n```", text, re.DOTALL | re.IGNORECASE)
    return max(blocks, key=len) if blocks else text.strip()


def to_dict(text):
    """{key: text} of a JSON object, a literal, or "key: value" lines; {} when none is there."""
    data = literal(fenced(text))
    if not isinstance(data, dict):
        data = dict(
            re.findall(
                r"[\"']?([\w\s]+)[\"']?\s*[:=]\s*[\"']?([^\n,\"'{}]+)[\"']?", fenced(text)[:2000]
            )
        )  # quadratic
    return {str(k).strip(): str(v).strip() for k, v in data.items()}


def combinations(gold):
    """Every {key: value} of a gold whose values may be lists. Golds arrive as text, sometimes
    quoted twice.
    """
    for _ in range(3):
        if isinstance(gold, dict):
            break
        gold = literal(gold) or literal(str(gold).strip('"'))
    if not isinstance(gold, dict):
        return []
    lists = [v if isinstance(v, list) else [v] for v in gold.values()]
    out = []
    for values in product(*lists):
        out.append(dict(zip(gold, map(str, values))))
        if len(out) == 10_000:
            break
    return out


def pairs_f1(got, gold):
    """Mean over all keys of both sides of 1 for equal values (case and blanks aside), else 0."""

    def norm(s):
        return s.lower().replace("\n", " ").replace(" ", "")

    keys = {*got, *gold}
    return (
        sum(k in got and k in gold and norm(got[k]) == norm(gold[k]) for k in keys) / len(keys)
        if keys
        else 0.0
    )


def table(answer, gold, question):
    """TEDS of an HTML or Markdown table; which one, a word of the question says."""
    if "html" in question.lower():
        flat = answer.replace("\n", "")
        m = re.search("<body.*", flat) or re.search("<table.*", flat)
        return teds(wrap_table(m[0]), wrap_table(gold)) if m else 0.0
    if "markdown" in question.lower():
        return teds(markdown_table(answer), markdown_table(gold))
    return 0.0


def wrap_table(html):
    html = html.replace("\n", "")
    html = (
        ("" if "<table" in html else "<table>") + html + ("" if "</table>" in html else "</table>")
    )
    html = html if "<body>" in html else f"<body>{html}</body>"
    return html if "<html>" in html else f"<html>{html}</html>"


def markdown_table(text):
    lines = re.sub(r"^```\w*|```$", "", text.strip()).strip().split("\n")
    rows = [
        [c.strip() or " " for c in line.strip().split("|")[1:-1]] for line in [lines[0], *lines[2:]]
    ]
    return html_rows(rows)


def html_rows(rows):
    cells = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<html><body><table>{cells}</table></body></html>"


def chart(answer, gold):
    """TEDS of two dictionaries as two-column tables, each value spelled out character by character,
    as upstream does.
    """
    text = re.sub(r"#.*", "", re.sub(r"^\s*\w+\s*=\s*", "", fenced(answer), count=1))
    got, want = literal(text[: text.rfind("}") + 1] or text), literal(gold)
    if not isinstance(got, dict) or not got or not isinstance(want, dict):
        return 0.0
    return teds(
        *(
            html_rows([(escape(str(k)), escape(" ".join(str(v)))) for k, v in d.items()])
            for d in (got, want)
        )
    )


class Node:
    """A tree node for apted: a name, what it compares by, children."""

    def __init__(self, name, content=None, children=()):
        self.name, self.content, self.children = name, content, list(children)


def teds(got, gold):
    """Tree-edit-distance similarity of two HTML tables (PubTabNet's measure), 0 to 1; 0 when one
    has no table.
    """
    from apted import APTED, Config
    from lxml import etree, html

    class Cost(Config):
        def rename(self, a, b):
            if a.name != b.name:
                return 1.0
            if a.content is None or not (a.content or b.content):
                return 0.0
            return Levenshtein.normalized_distance(a.content, b.content)

    trees = []
    for text in (got, gold):
        try:
            root = html.fromstring(
                text, parser=html.HTMLParser(remove_comments=True, encoding="utf-8")
            )
        except (etree.ParserError, ValueError):
            return 0.0
        found = root.xpath("body/table")
        if not found:
            return 0.0
        trees.append(found[0])
    nodes = max(len(t.xpath(".//*")) for t in trees)
    if not 0 < nodes <= 2000:  # quadratic and worse beyond
        return 0.0
    return max(0.0, 1 - APTED(*map(_table_tree, trees), Cost()).compute_edit_distance() / nodes)


def _table_tree(element):
    if element.tag != "td":
        return Node(
            (element.tag,), None, [_table_tree(e) for e in element if isinstance(e.tag, str)]
        )
    spans = element.get("colspan", "1"), element.get("rowspan", "1")
    return Node(("td", *spans), tuple(_cell(element)))


def _cell(element):
    """The tokens of a cell: characters, and the tags of what stands in it."""
    yield from element.text or ""
    for e in element:
        if isinstance(e.tag, str):
            yield f"<{e.tag}>"
            yield from _cell(e)
            yield f"</{e.tag}>"
        yield from e.tail or ""


def document(answer, gold):
    """Structure of a Markdown document: tree edit distance in which any two non-empty nodes are
    equal, as upstream has it.
    """
    from apted import APTED, Config

    class Cost(Config):
        def rename(self, a, b):
            return float(not a.name.split() or not b.name.split())

    trees = [_outline(t) for t in (answer, gold)]
    nodes = max(_size(t) for t in trees)
    return 1 - APTED(*trees, Cost()).compute_edit_distance() / nodes if nodes <= 3000 else 0.0


def _outline(text):
    """ROOT with TITLE and one child a heading; each other line is a child of the first node that
    has the last heading's text.
    """
    title = Node("TITLE")
    root, under = Node("ROOT", children=[title]), title
    for line in text.split("\n"):
        line = line.replace("*", " ").replace("_", " ")
        if line.startswith("#"):
            line = line.replace("#", "")
            root.children.append(Node(line))
            under = _find(root, line) if line else title
        else:
            under.children.append(Node(line))
    return root


def _find(node, name):
    if node.name == name:
        return node
    return next((hit for child in node.children if (hit := _find(child, name))), None)


def _size(node):
    return 1 + sum(map(_size, node.children))
