"""Structured answers of OCRBench v2: dictionaries, tables, charts, documents.

Tree edit distances follow PubTabNet's measure (TEDS); nothing of the model's text is executed.
"""

import ast
import json
import re
from html import escape
from itertools import product

MAX_NODES = 3000  # of a tree; the distance is quadratic and worse


# ---- dictionaries --------------------------------------------------------------------------------


def literal(text):
    """A JSON value or Python literal, or None. Nothing is executed."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def fenced(text):
    """The longest fenced block of a text, or all of it."""
    blocks = re.findall(r"```(?:python|json)?\n(.*?)\n?```", text, re.DOTALL | re.IGNORECASE)
    return max(blocks, key=len) if blocks else text.strip()


def an_object(text):
    """The dictionary that a text holds: all of it, the first of a list, or between its braces."""
    between = text[text.find("{") : text.rfind("}") + 1]
    for part in (text, between):
        data = literal(part)
        if isinstance(data, list) and data and isinstance(data[0], dict):
            return data[0]
        if isinstance(data, dict):
            return data
    return None


def to_dict(text):
    """{key: text} of a JSON object, a literal, or "key: value" lines; {} when none is there."""
    text = fenced(text)
    data = an_object(text)
    if data is None:  # the expression is quadratic
        pattern = r"[\"']?([\w\s]+)[\"']?\s*[:=]\s*[\"']?([^\n,\"'{}]+)[\"']?"
        data = dict(re.findall(pattern, text[:2000]))
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
    same = sum(k in got and k in gold and norm(got[k]) == norm(gold[k]) for k in keys)
    return same / len(keys) if keys else 0.0


# ---- tables and charts ---------------------------------------------------------------------------


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
    html = html if "<table" in html else f"<table>{html}"
    html = html if "</table>" in html else f"{html}</table>"
    html = html if "<body>" in html else f"<body>{html}</body>"
    return html if "<html>" in html else f"<html>{html}</html>"


def markdown_table(text):
    lines = re.sub(r"^```\w*|```$", "", text.strip()).strip().split("\n")
    lines = [lines[0], *lines[2:]]
    return html_rows([[c.strip() or " " for c in line.strip().split("|")[1:-1]] for line in lines])


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
    return teds(_as_table(got), _as_table(want))


def _as_table(data):
    return html_rows([(escape(str(k)), escape(" ".join(str(v)))) for k, v in data.items()])


class Node:
    """A tree node for apted: a name, what it compares by, children."""

    def __init__(self, name, content=None, children=()):
        self.name, self.content, self.children = name, content, list(children)


def teds(got, gold):
    """Tree-edit-distance similarity of two HTML tables (PubTabNet's measure), 0 to 1; 0 when one
    has no table.
    """
    from apted import APTED, Config
    from rapidfuzz.distance import Levenshtein

    class Cost(Config):
        def rename(self, a, b):
            if a.name != b.name:
                return 1.0
            if a.content is None or not (a.content or b.content):
                return 0.0
            return Levenshtein.normalized_distance(a.content, b.content)

    found = [_first_table(text) for text in (got, gold)]
    if None in found:
        return 0.0
    nodes = max(len(t.xpath(".//*")) for t in found)
    if not 0 < nodes <= 2000:
        return 0.0
    return max(0.0, 1 - APTED(*map(_table_tree, found), Cost()).compute_edit_distance() / nodes)


def _first_table(text):
    from lxml import etree, html

    parser = html.HTMLParser(remove_comments=True, encoding="utf-8")
    try:
        tables = html.fromstring(text, parser=parser).xpath("body/table")
    except (etree.ParserError, ValueError):
        return None
    return tables[0] if tables else None


def _table_tree(element):
    if element.tag != "td":
        children = [_table_tree(e) for e in element if isinstance(e.tag, str)]
        return Node((element.tag,), None, children)
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


# ---- documents -----------------------------------------------------------------------------------


def document(answer, gold):
    """Structure of a Markdown document: tree edit distance in which any two non-empty nodes are
    equal, as upstream has it.
    """
    from apted import APTED, Config

    class Cost(Config):
        def rename(self, a, b):
            return float(not a.name.split() or not b.name.split())

    trees = [outline(t) for t in (answer, gold)]
    nodes = max(map(size, trees))
    return 1 - APTED(*trees, Cost()).compute_edit_distance() / nodes if nodes <= MAX_NODES else 0.0


def outline(text):
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


def size(node):
    """How many nodes a tree has."""
    return 1 + sum(map(size, node.children))
