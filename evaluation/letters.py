r"""What a response answers: the content of the box, the letter it settles on, the number that it
is. No model, no network, no execution of model text.

    answer_of(r"So it is \boxed{\text{B. stem}}.")                    # "B. stem"
    readings(r"\boxed{\$5 \text{ million}}")                          # (as written, "$5 million")
    pick_letter("The answer is (B).", 4)                              # "B"

A letter is picked only where the response settles on one. Two letters ("B or C"), a copied list of
options, or a choice that is taken back later leave it open (None): a judge decides then.
"""

import re
import unicodedata
from functools import lru_cache

from evaluation.rows import LETTERS
from reward import answers_equal, last_boxed

_STATED = re.compile(r"\banswer\b(?:[\s:：*]+(?:is\b)?|\s+is\b)[\s:：*]*(\S.{0,80}?)[\s.*]*$", re.I)


def answer_of(text, stated=True):
    """What a metric should see: the content of the last box, wrappers off; else what the last line
    calls the answer (not with stated=False: a transcription may end so); else all.
    """
    box = last_boxed(text)
    if box is not None:
        return unwrap(box)
    found = _STATED.search(text.rstrip().split("\n")[-1][-200:]) if stated else None
    return unwrap(found[1]) if found else text


_WORDS = (
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|emph|math(?:rm|bf|it|sf|tt)|operatorname|[mh]box"
    r"|underline|boldsymbol|boxed)\*?\s*"
)
_OPENING = re.compile(_WORDS + r"\{")
_DELIMITED = re.compile(
    r"\$\$(.*)\$\$|\$([^$]*)\$|\\\((.*)\\\)|\\\[(.*)\\\]|\*\*(.*)\*\*|`([^`]*)`", re.DOTALL
)


@lru_cache(maxsize=1024)
def unwrap(text):
    r"""Text without \text{...}, $...$, ** and outer blanks around all of it. Inner content is
    untouched, so JSON and tables survive.
    """
    text = text.strip()
    while True:
        if (m := _OPENING.match(text)) and _closes_at_end(text, m.end()):
            text = text[m.end() : -1].strip()
        elif m := _DELIMITED.fullmatch(text):
            inner = next(g for g in m.groups() if g is not None)
            if "**" in inner or "\\(" in inner or "\\[" in inner:  # two of them side by side
                return text
            text = inner.strip()
        else:
            return text


def _closes_at_end(text, start):
    """Whether the brace that opens just before `start` closes with the last character."""
    depth = 1
    for m in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(m[0], 0)
        if depth == 0:
            return start + m.end() == len(text)
    return False


_SIGNS = {
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "circ": "°", "degree": "°",
    "textdegree": "°", "to": "→", "rightarrow": "→", "leftarrow": "←", "ldots": "...",
    "dots": "...", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠",
    "pounds": "£", "euro": "€", "texteuro": "€", "yen": "¥", "textdollar": "$", "infty": "∞",
    "textbackslash": "\\", "quad": " ", "qquad": " ", "left": "", "right": "", "displaystyle": "",
    "lt": "<", "gt": ">",
    "colon": ":", "lbrace": "{", "rbrace": "}", "copyright": "©", "textregistered": "®",
}  # fmt: skip
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_WORD = re.compile(_WORDS + r"\{([^{}]*)\}")
# (pattern, replacement), in order; \0 and \1 stand for escaped braces meanwhile
_PLAIN = [
    (re.compile(old), new)
    for old, new in (
        (r"\\\\(?=\s|\[|\\text|$)", "\n"),
        (r"\\\{", "\0"),
        (r"\\\}", "\1"),
        (r"\\[()\[\]]", ""),
        (r"\{([,.:;!?])\}", r"\1"),
        (r"\\[dt]?frac\s*(\d)\s*(\d)", r"\1/\2"),
        (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\circ(?![A-Za-z]))", "°"),
    )
]
_LATE = [
    (re.compile(old), new)
    for old, new in (
        (r"\\!|(?:\\,|~|\s+)(?=\\%)|~(?=%)|(?<!\\)\{\}", ""),
        (r"\^\{?(st|nd|rd|th|\+)\}?(?![A-Za-z])", r"\1"),
        (r"(?<![\\\w}^_])\{(\w+)\}", r"\1"),
        (r"(?<!\\)_(?:\{(\w+)\}|(\w))", lambda m: m[1] or m[2]),
        (r"\^\{(\w+)\}", r"^\1"),
        (r"\\([~^])", "\2\\1"),
        (r"\\([%$&#_])", r"\1"),
        (r"(?<![\\\x02])(?:\\[ ,;:>\n]|~)", " "),
        (r"\\(pounds|euro|texteuro|yen|textdollar)(?![A-Za-z])\s*", lambda m: _SIGNS[m[1]]),
        (r"\\([A-Za-z]+)(?![A-Za-z])", lambda m: _SIGNS.get(m[1], m[0])),
        (r"[ \t]+", " "),
    )
]


def plain(text):
    r"""Text as a person would type it, without what a box does to it: escapes (\%, \_), {,},
    \text{...} inside, spacing commands, simple fractions and signs.
    """
    if not any(c in text for c in "\\{~_^"):
        return text
    for pattern, new in _PLAIN:
        text = pattern.sub(new, text)
    before = None
    while before != text:
        before, text = text, _FRACTION.sub(r"\1/\2", _WORD.sub(r"\1", text))
    for pattern, new in _LATE:
        text = pattern.sub(new, text)
    return text.replace("\0", "{").replace("\1", "}").replace("\2", "").strip()


def readings(text, stated=True):
    """The answer as it is written, and in plain text where that differs: string metrics take the
    better one.
    """
    answer = answer_of(text, stated)
    return tuple(dict.fromkeys((answer, unwrap(plain(answer)))))


def fold(text):
    """Lower case, half-width, blanks collapsed, outer punctuation gone: for comparing words."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).strip(" .,:;!?\"'`")


# ---- letters -------------------------------------------------------------------------------------

# looking ahead for what is chosen, so that a phrase inside of another one is found, too
_PHRASE = re.compile(
    # "the answer is ...", "Answer: ...", "the correct option is ..."
    r"(?:\banswer(?:\s+to\s+th(?:e|is)\s+question)?|\b(?:correct|right|best)\s+(?:option|choice)"
    r"|\b(?:my|final)\s+(?:choice|selection|pick)"
    r"|\b(?:i|we)(?:\s+would|['’]d)?\s+(?:choose|select|pick|go\s+with))"
    r"\s*(?P<no1>is\s*not\b|isn['’]t)?(?:\s*(?:is|would\s+be|should\s+be))?"
    r"(?:\s+(?:indeed|clearly|therefore|thus))?\s*[:：=>–—-]?\s*(?=(?P<a>.{1,60}))"
    # 答案是 ..., 正确选项为 ..., 正确的是 ...
    r"|(?:答案】?|正确的?选项|正确的?(?=[是为]))\s*(?P<no2>不)?(?:应该|应当|应|就)?\s*"
    r"(?:选项|选择|[是为選选])*\s*[:：]?\s*(?=(?P<b>.{1,60}))"
    # 故选B, 选择 B
    r"|(?P<no3>[不别未]能?|排除)?(?:故选|应选|选择|选)(?:选?项)?\s*[:：]?\s*"
    r"(?=(?P<c>\(?[A-Ja-jＡ-Ｊ]\)?(?![a-z]).{0,8}))"
    # "option B is correct", B选项正确
    r"|\b(?:option|choice)\s*(?P<d>\(?[A-Z]\)?)\s+is\s+(?:the\s+)?(?:correct|right|best|answer)"
    r"|(?P<e>[A-JＡ-Ｊ])\s*(?:选项|项|答案)?(?:是|为)?(?:正确|对的)",
    re.I,
)
# what says that the choice before it is taken back
_BACK = re.compile(
    r"\bwait\b|\bscratch that|\bon second thought|\bi made (?:a|an) (?:mistake|error)"
    r"|\bcorrection\b|\blet me (?:re|correct|double)|\bactually,? (?:no\b|it|the|that|i)"
    r"|\bno,? (?:that|it|this)"
    r"|\b(?:that|this|it)(?:['’]s| is| was| seems| must be)"
    r" (?:not (?:correct|right)|incorrect|wrong|false|a mistake)"
    r"|这(?:是|个)?(?:不对|错)|不对[,，。]|更正|等等",
    re.I,
)
_SECOND = re.compile(
    r"\s*\)?\s*(?:,|/|&|\band\b|\bor\b|\bas well as\b|和|或|、|与|及)\s*"
    r"(?:\b(?:option|choice)\b\s*)?\(?[A-Z]\)?(?![\w'])",
    re.I,
)
_OPTION_LINE = re.compile(r"[\s*>-]*[(\[]?([A-Z])(?:[)\]][.:]?|[.:、])\s*\S")


# \boxed{A} or \boxed{B}
_TWO_BOXES = re.compile(r"\}[\s$.]*(?:,|/|\bor\b|\band\b|或|和)[\s$]*\\boxed\s*\{[^{}]*\}[\s$.]*$")
_CHOSEN = re.compile(r"\banswer is:?\s*\(?([A-Z])\)?(?![\w'])")


def pick_letter(text, n, options=()):
    """The letter that a response settles on, or None. Last box; else last answer phrase; else a
    reply that is only a letter.

    n: how many letters there are; options: their texts. A letter outside the range is no letter.
    """
    box = last_boxed(text)
    if box is not None:
        if _TWO_BOXES.search(text):
            return None
        letter = as_letter(unwrap(box), n, options)
        return letter if letter and not _taken_back(text[text.rfind(box) :], letter) else None
    text = without_lists(text)
    phrases = list(_PHRASE.finditer(text))
    if len({m[1] for m in _CHOSEN.finditer(text)}) > 2:
        return None  # one after the other: nothing is settled
    for m in reversed(phrases):
        if m["no1"] or m["no2"] or m["no3"]:
            return None
        letter, certain = _letter_in(next(g for g in map(m.group, "abcde") if g), n, options)
        if certain:
            return letter if letter and not _taken_back(text[m.end() :], letter) else None
    last = text.rstrip().split("\n")[-1]
    return as_letter(last, n, options) if len(last) < 40 else None


def _letter_in(phrase, n, options):
    """(letter or None, whether the phrase decides): "B", "(B) stem", "B because ...", "B or C"."""
    phrase = unicodedata.normalize("NFKC", phrase).strip()
    if re.match(r"(?:not|neither|none)\b", phrase, re.I):
        return None, True
    clause = re.split(r"[。\n]|(?<=[\w)}])\.(?:\s|$)|,\s", phrase)[0]
    # A and I may be words, so these need a bracket or a stop behind them
    m = re.match(
        r"[*\s$]*\(?(?:([B-HJ-Z])\)?(?![\w'])|([AI])(?=[).,:;*/&<]|\s+(?:or|and)\b|\s*\())", phrase
    )
    if m and _SECOND.match(phrase[m.end() :]):
        return None, True
    if letter := as_letter(clause, n, options):
        return letter, True
    if m and (m[1] or m[2]) in LETTERS[:n]:
        return m[1] or m[2], True
    return None, False


def _taken_back(rest, letter):
    """Whether the text after a choice rejects it."""
    wrong = rf"\b{letter}\)?\s+(?:is|was)\s+(?:not|wrong|incorrect)"
    return bool(_BACK.search(rest) or re.search(wrong, rest))


def without_lists(text):
    """Text without copied lists of options: two or more lines in a row that begin with A, B, ..."""
    lines, letters = text.split("\n"), []
    for line in lines:
        m = _OPTION_LINE.match(line)
        letters.append(m[1] if m else "" if line.strip() else None)  # None: a blank line
    kept, run = [], []
    for line, letter in [*zip(lines, letters), ("", "")]:
        if letter is None and run:
            continue
        if letter and (not run or LETTERS.index(letter) == LETTERS.index(run[-1][1]) + 1):
            run.append((line, letter))
            continue
        kept += [x for x, _ in run] if len(run) < 2 else []
        run = [(line, letter)] if letter else []
        kept += [] if letter else [line]
    return "\n".join(kept[:-1])


_BARE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is)?\s*:?\s*|选项?\s*)?"
    r"[(\[{<*\"'$\s]*([A-Za-z])[)\]}>*\"'$\s.:、,]*(?:选?项|项)?[。.]?",
    re.I,
)
_LABELED = re.compile(r"[(\[]?([A-Z])(?:[)\]][.:]?|[.:、])\s*(?=\S)")


def as_letter(text, n, options=()):
    """`text` as one of n letters: bare in any bracket, in front of a text ("B. cat"), or the text
    of exactly one option.
    """
    text = unicodedata.normalize("NFKC", unwrap(text)).strip()
    m = _BARE.fullmatch(text)
    if m is None and not re.search(r"[\s,;/(][B-Z][).:]", text[2:]):
        m = _LABELED.match(text)
        m = None if m and _SECOND.match(text[m.end() :]) else m
    if m is None:
        return _letter_of_text(text, options)
    letter = m[1].upper()
    return letter if letter in LETTERS[:n] else None


def _letter_of_text(text, options):
    """The letter of the one option that reads, or is in mathematics, the same as `text`."""
    # one-letter option texts (AI2D names diagram parts so) are never matched as text: a letter is
    # an option's letter
    wanted = _squeezed(text)
    same = [i for i, o in enumerate(options) if len(o.strip()) > 1 and _squeezed(o) == wanted]
    if not same and _mathematical(text):  # other notations
        same = [i for i, o in enumerate(options) if _mathematical(o) and answers_equal(o, text)]
    return LETTERS[same[0]] if len(same) == 1 else None


@lru_cache(maxsize=4096)
def _mathematical(text):
    """Whether a short text has signs or digits, and no words but LaTeX's commands."""
    words = re.search(r"[^\W\d_]{4,}", re.sub(r"\\[A-Za-z]+", " ", text))
    return len(text) < 100 and not words and bool(re.search(r"[\d\\/^<>=]", text))


@lru_cache(maxsize=4096)
def _squeezed(text):
    return fold(unwrap(plain(unwrap(text)))).replace(" ", "").replace("$", "")


# ---- numbers -------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")


def number(text):
    """The number that `text` is, as a float, or None. Commas, percent, degree and dollar signs are
    allowed around it; a fraction of two numbers is one.
    """
    text = plain(unwrap(text)).strip(" \t\n%°$").replace("−", "-")
    top, slash, bottom = text.partition("/")
    if slash:
        value, divisor = _decimal(top.strip()), _decimal(bottom.strip())
        return value / divisor if value is not None and divisor else None
    return _decimal(text)


def _decimal(text):
    if not text or not text[-1].isdigit() or not _NUMBER.fullmatch(text):
        return None
    return float(text.replace(",", ""))


_ROW = re.compile(r"(?:row|行)s?", re.I)
_COLUMN = re.compile(r"(?:column|col|列)s?", re.I)


def row_and_column(text):
    """(row, column) of a text, in this order whichever is named first; None without two numbers.

    "5, 6", "rows={5} columns={6}", "6 columns and 5 rows", "(columns, rows) = (6, 5)", 第5行第6列
    """
    found = re.findall(r"(?<!\d)\d{1,9}(?!\d)", text)
    row, column = _ROW.search(text), _COLUMN.search(text)
    if len(found) != 2:
        return None
    first, second = map(int, found)
    if row and column and row.start() > column.start():
        first, second = second, first
    return first, second
