r"""Are two LaTeX answers equal? Imports nothing of this project, only mpmath: copy it and use it.

    from math_equal import answers_equal
    answers_equal(r"\frac12", "0.5")       # True
    answers_equal("(0,1)", "[0,1]")        # False

Model text is hostile input: it never reaches sympify, eval or a LaTeX library (those run shell
commands and hang), and every step has a cap instead of a time limit. Two answers are equal if
  1. they are the same text, once characters, spacing and wrappers have one spelling (clean,
     text_form), or
  2. they parse to the same tree: lists, sets, intervals, equations of expressions (parse, same),
     where two expressions are the same if they agree at random points, to 150 digits out of 400
     (equal_values), or
  3. a habit of answering says so: option letters, clock times, dates, lists of words (by_habit).
What the grammar does not know (sums, integrals, sentences, code) has only the first way.

Choices, each one a place where graders differ:
  * Numbers joined by an operator (10-19, 2-1, 3x4, 2:1, 2020-07-04, 1+4) may be a range, a score, a
    size, a ratio or a date. Two of them are equal part by part, never because the results agree.
    One of them equals a single number only where it is arithmetic: with spaces around the minus, a
    fraction command, a plus or \times, or in an equation. Anything with other letters, roots or
    powers is arithmetic. Two parts joined by a slash are a fraction, by a colon a ratio.
  * `1,2` without brackets is a list of solutions: order-free, equal to \{1,2\}. (1,2) is ordered;
    (0,1) and [0,1] differ. Sets of reals are compared as sets: x \ne 2 is all but one point.
  * `1,234` is a number, `12,34` a list, `100,200` equals `100, 200` only where the other side is
    clearly a list.
  * A unit (or currency, am/pm) on one side only is forgiven; on both sides it must agree, with 100
    cm = 1 m.
  * 50% equals 0.5 by value and 50 by the paper's second pass; 50 is not 0.5.
  * `x=5` and `\cos A=5` equal `5`, not `y=5`; an unsolved `2x=10` is not `x=5`; the exact side of
    `\sqrt2 \approx 1.41` counts.
  * Option letters A to J ignore case, other letters do not. "A or B" is a hedge. log without a base
    is base 10.
  * 0.333... repeats and is 1/3; 0.333 is not.
  * A decimal comma is read where it can't separate items: 3{,}5, 0,75, 1,5 cm, 1.234,56, (0,5; 1).
  * \pi/4 + k\pi and 5\pi/4 + k\pi are one family where k is said to be any integer.
  * ]0,1[ is (0,1). Chinese units, numbers and dates are read as English ones.
  * Small letters do, except where the case tells things apart: Co and CO, mW and MW.
Known limits: a bare list cannot ask for an order; irrational sums with terms beyond 10^100 are
refused, which means not equal unless spelled alike.
"""

import math
import random
import re
import threading
import unicodedata
from fractions import Fraction
from functools import lru_cache, partial
from operator import eq

import mpmath

MAX_CHARS = 2000  # longer answers are compared as they are; golds have at most 512
MAX_DEPTH = 30  # nesting in the parser, about ten Python frames each
MAX_BITS = 10_000  # an exact power never gets longer, it stays symbolic
MAX_ENDS = 40  # end points of a set of reals
BUDGET = 20_000  # units of work for one comparison, about 0.3 s


class Refuse(Exception):
    """Not in the grammar, undefined (0/0), or over a cap: what is left is to compare text."""


# ---------------------------------------------------------------- text: one spelling for all


def rules(*rows) -> list:
    """Rows (needle, pattern, replacement), applied in order: a pattern is tried only where its
    needle occurs, which is several times faster than a search that fails.
    """
    table = []
    for needle, pattern, new in rows:
        if isinstance(new, str) and not re.search(r"\\\d", new):
            # a replacement by function is faster than a template where nothing matches
            new = partial(lambda text, m: text, new.replace("\\\\", "\\"))
        table.append((needle, re.compile(pattern, re.S), new))
    return table


def rewrite(s: str, table: list) -> str:
    for needle, pattern, new in table:
        if needle in s:
            s = pattern.sub(new, s)
    return s


# one character, then how LaTeX or a keyboard spells it
CHARS = {
    ord(pair[0]): pair[1:] + " " * ("\\" in pair)
    for pair in r"""−- –- ‐- ‑- ‒- —- ―- ﹣- ×\times ⋅\cdot ·\cdot ∙\cdot ∗* ÷\div ∕/ ⁄/ ∶: ∣|
 ∞\infty √\sqrt °^\circ º^\circ ˚^\circ ◦\circ ∘\circ ≤\le ⩽\le ≥\ge ⩾\ge ≠\ne ≈\approx ≡\equiv
 ±\pm ∓\mp ∪\cup ∩\cap ∅\emptyset ∈\in ℝ\mathbb{R} ℤ\mathbb{Z} ∧\land ∨\lor ∖\setminus …\ldots
 ⋯\ldots →\to ⟶\to ⇒\Rightarrow ∴\therefore ～\sim 〜\sim ∼\sim △\triangle ′' ″'' ’' ‘' “" ”" ，,
 、, ；; ：: 。. ⟨\langle ⟩\rangle ‰\cdot10^{-3} ∛\sqrt[3]
 ℃^\circ\text{C} ℉^\circ\text{F} ∠\angle ⌊\lfloor ⌋\rfloor ⌈\lceil ⌉\rceil""".split()
}
# x² and x₂, but not a lone ²
RAISED = re.compile("(?<=[\\wͰ-Ͽ)}\\]'|])(?<![⁰-⁹⁺⁻ⁿ¹²³₀-₉])(?:([⁰-⁹⁺⁻ⁿ¹²³]+)|[₀-₉]+)")
STYLE = (
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|emph"
    r"|math(?:rm|bf|it|sf|tt|cal|scr|frak|normal|op|ord)|operatorname\*?|[mhf]box|boldsymbol|bm|pmb|boxed|underline|ensuremath|ce|num"
    r"|unit|si)\s*"
)
# ~ stays where text begins and ends: a letter alone there may be a unit
WRAPPER = ("\\", STYLE + r"\{([^{}]*)\}", r"~\1~")
SIZES = (
    r"\\(?:(?:display|text|script|scriptscript)style|rm|bf|it|sf|tt|limits|nolimits|tiny|scriptsize"
    r"|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|centering|notag|nonumber"
    r"|strut|displaylimits)(?![A-Za-z])"
)
ONE_CELL = (
    r"\\begin\s*\{(array|tabular|matrix|aligned|align\*?|gathered|split|equation\*?|center)\}"
    r"(?:\[\w\])?(?:\{[^{}]*\})?((?:(?!\\\\|\\begin|[^\\]&).)*?)(?:\\\\)?\s*\\end\s*\{\1\}"
)
DEGREE_SIGN = (
    r"\s*\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\circ(?![A-Za-z]))|\\(?:text)?degrees?(?![A-Za-z])|°|º"
    r"|(?i:\bdeg(?:ree)?s?\b)"
    r"|(?<=[\d)}])\s*(?:\^\s*(?:\{\s*)?~?o~?(?![A-Za-z])(?:\s*\})?|\\circ(?![A-Za-z])(?!\s*[\w(\\]))"
)
PREFIX = (
    r"(?i)^[\s~]*(?:so\s+)?(?:the\s+|my\s+)?(?:final\s+|correct\s+|best\s+)*"
    r"(?:answers?|ans|options?|choices?)\b(?:\s+is)?[\s~]*[:=]?\s*(?=[^\s:=])"
)
MARKDOWN = r"^([\s~]*)[*`_]{1,3}(?=[^*`_\s])([^*`]*[^*`_\s])[*`_]{1,3}([\s~]*)$"
BIG_NUMBER = r"^[-+]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?$"
BOUNDS = (
    ("at least", r"\\ge "),
    ("no less than", r"\\ge "),
    ("at most", r"\\le "),
    ("no more than", r"\\le "),
    ("more than", "> "),
    ("greater than", "> "),
    ("less than", "< "),
    ("fewer than", "< "),
)
LETTER_SCALES = ("[kK]", "thousand"), ("M", "million"), ("[Bb]n?", "billion")
NO_SOLUTION = r"(?i)^[\s~]*(?:there\s+(?:is|are)\s+)?no\s+solutions?[\s~]*$"
DNE = r"(?i)^[\s~]*(?:DNE|(?:the )?(?:limit )?does(?:n't| not) exist)[\s~]*$"


def unroll(m: re.Match) -> str:
    r"""0.1666... is 0.1\overline{6}; digits that do not repeat before the dots have no value."""
    whole, digits = m[1].split(".")
    for n in range(1, len(digits) // 2 + 1):
        loop = digits[-n:]
        head = digits[:-n]
        if head.endswith(loop):
            while head.endswith(loop):
                head = head[:-n]
            return rf"{whole}.{head}\overline{{{loop}}}"
    return m[1] + r"\ldots "


TEXT_RULES = rules(
    ("$", r"(?<!\\)\$((?:\\\$|[^$])*)(?<!\\)\$", r"\1"),  # a lone $ is a currency
    ("\\", r"(?<!\\)\\[()\[\]]", ""),
    ("\\$", r"\\\$", "$"),
    ("\\", r"\\(?:left|right|middle)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
    ("\\", SIZES, ""),
    ("\\", r"\\(?:color|phantom|label|tag\*?|textcolor)\s*\{[^{}]*\}", ""),
    ("\\", r"\\text(?:en|em)dash(?:\{\}|(?![A-Za-z]))", "-"),
    ("\\", r"\\(?:[dtcs]|nice)(frac|binom)(?![A-Za-z])", r"\\\1"),
    ("\\over", r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    ("\\choose", r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    ("\\", r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1 ~\2~"),
    ("\\overline", r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"),  # a segment
    ("\\", r"\\(?:ldots|cdots|dots[a-z]?|hdots)(?![A-Za-z])", r"\\ldots "),
    ("...", r"\.{3,}", r"\\ldots "),
    ("\\ldots", r"(?<![\d.])(\d*\.\d+)\s*\\ldots", unroll),
    ("\\ldots", r"(\\(?:overline|bar)\s*\{\d+\})\s*\\ldots", r"\1"),
    ("\\not", r"\\not\s*=", r"\\ne "),
    ("\\dot", r"(?<=[\d.])\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}"),
    ("\\", r"\\(?:right|Right|long|Long|longright|Longright)arrow(?![A-Za-z])", r"\\to "),
    *((c, r"(?<=\d)(?:\\[, !:;]|~|\{,\})+(?=\d{3}(?!\d))", "") for c in "\\~{"),  # 1\,234, 1{,}234
    ("{,}", r"(?<=\d)\{,\}(?=\d)", "."),  # 3{,}14
    ("\\", r"(?<!\\)\\[,;:! >]|\\q?quad(?![A-Za-z])|\\[hv]s(?:pace|kip)\*?\{[^{}]*\}", " "),
    ("~", "~", " "),
    ("\\begin", ONE_CELL, r"\2"),
    ("\\frac", r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    ("\\frac", r"\\frac\s*(\d)\s*(?=[{\\A-Za-z])", r"\\frac{\1}"),
    ("\\frac", r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    WRAPPER,
    WRAPPER,
    WRAPPER,
    ("\\", STYLE + r"(?=\{)", ""),  # they nest
    *((c, DEGREE_SIGN, "°") for c in ("circ", "eg", "^")),
    ("°", r"\s*°[\s~]*([CF])(?:elsius|ahrenheit)?\b", r" ~deg\1~"),
    ("*", r"(?<![\w)])\*\*([^\s*][^*]*?)\*\*(?![\w(])", r"\1"),
    *((c, MARKDOWN, r"\1\2\3") for c in "*_`"),
    ("  ", r"\s+", " "),
    ("", r"(?:\\\\|[.,;\s])+(~?)$", r"\1"),  # trailing full stop
    *((c, PREFIX, "") for c in ("ns", "NS", "tion", "hoice")),
    *((c, MARKDOWN, r"\1\2\3") for c in "*_`"),
    ("", r"^[\s~]*(?:=|\\(?:therefore|implies|Rightarrow|to)(?![A-Za-z]))\s*(?=[^\s=])", ""),
    (" ", BIG_NUMBER, lambda m: m[0].replace(" ", "")),
    *((c, rf"^(\d+)\s*\^?\s*\{{?[\s~]*{c}[\s~]*\}}?$", r"\1") for c in ("st", "nd", "rd", "th")),
    ("olution", NO_SOLUTION, r"\\emptyset"),
    *((c, DNE, "does not exist") for c in ("DNE", "exist")),
    ("{}", r"(?<!\\)\{\}", ""),  # {}^{14}C
    ("->", r"-+>", r"\\to "),
    (" base ", r"\b(\d+)\s+(?:in\s+)?base\s+(\w+)$", r"\1_{\2}"),
    ("etween ", r"(?i)^[\s~]*between\s+(\S+)\s+and\s+(\S+)$", r"\1 to \2"),
    ("rom ", r"(?i)^[\s~]*from\s+(?=\S+\s+to\s+\S+$)", ""),
    ("times", r"(?<=\d)[\s~]+times[\s~]*$", " ~folds~"),
    (" of ", r"(?<=\d)\s+out\s+of\s+(?=\d)", "/"),
    *((word, rf"(?i)^[\s~]*{word}[\s~]+(?=[\\$]*[\d.])", sign) for word, sign in BOUNDS),
    *(("$", rf"(?<=\$)\s*([\d.,]+)\s*{c}\b", rf"\1 ~{scale}~") for c, scale in LETTER_SCALES),
)
HAN = r"\u4e00-\u9fff"
HAN_DIGITS = {c: n % 10 for n, c in enumerate("零一二三四五六七八九〇")} | {"两": 2, "十": 10}
HAN_SCALES = {"百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
HAN_NUMBER = rf"[{''.join((*HAN_DIGITS, *HAN_SCALES))}]+"
HAN_DATE = r"^(?:(\d{4})年)?(\d{1,2})月(\d{1,2})[日号]$"
HAN_CLOCK = (
    r"^(上午|早上|凌晨|中午|下午|晚上)?\s*(\d{1,2})(?:点钟?|时)"
    r"(?:(半)|(一刻)|(?:(\d{1,2})分?)|整)?$"
)
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def han_number(text: str) -> int:
    """三百二十五, 十二, 二〇二〇, 五万."""
    if not {*text} & {"十", *HAN_SCALES}:
        return int("".join(str(HAN_DIGITS[c]) for c in text))
    total = section = digit = 0
    if re.search(rf"[{''.join(HAN_DIGITS).replace('零', '').replace('十', '')}]{{2}}", text):
        raise Refuse("two digits side by side")
    for c in text:
        if c in "万亿":
            total = (total + section + digit) * HAN_SCALES[c]
            section = digit = 0
        elif c in "十百千":
            section += (digit or 1) * (10 if c == "十" else HAN_SCALES[c])
            digit = 0
        else:
            digit = HAN_DIGITS[c]
    if digit and text[-2] in "百千万亿":
        digit *= HAN_SCALES[text[-2]] // 10  # 一百三 is 130
    return total + section + digit


def han_date(m: re.Match) -> str:
    if m[1]:
        return f"{m[1]}-{m[2]}-{m[3]}"
    return f"{MONTHS[int(m[2]) - 1]} {m[3]}" if 0 < int(m[2]) < 13 else m[0]


def han_clock(m: re.Match) -> str:
    minutes = "30" if m[3] else "15" if m[4] else f"{int(m[5] or 0):02d}"
    half = {"下": " pm", "晚": " pm", "上": " am", "早": " am", "凌": " am"}.get(
        (m[1] or "中")[0], ""
    )
    return f"{m[2]}:{minutes}{half}"


HAN_COMPOUNDS = (
    ("米", "厘米", "厘米"),
    ("小时", "分钟?", "分钟"),
    ("分钟", "秒", "秒"),
    ("元", "角", "角"),
    ("年", "个月", "个月"),
)
# for texts with characters outside of ASCII only
HAN_RULES = rules(
    *(
        (c, r"^(?:所以|因此|故|综上)?[,]?\s*(?:正确|最终)?答案(?:应该|应)?[是为]?\s*:?\s*", "")
        for c in "答"
    ),
    ("选", r"^(?:故|应)?选(?:择|项)?:?\s*(?=[A-J]+$)", ""),
    ("项", r"(?<=^[A-J])\s*(?:选?项)$", ""),
    ("月", HAN_DATE, han_date),
    *((c, HAN_CLOCK, han_clock) for c in "点时"),
    ("百分之", rf"^百分之\s*({HAN_NUMBER}|[\d.]+)$", lambda m: f"{han_or_digits(m[1])}%"),
    (
        "分之",
        rf"^({HAN_NUMBER}|\d+)\s*分之\s*({HAN_NUMBER}|\d+)$",
        lambda m: f"{han_or_digits(m[2])}/{han_or_digits(m[1])}",
    ),
    ("一半", "^一半$", "1/2"),
    ("", rf"^{HAN_NUMBER}(?=$|[{HAN}]+$)", lambda m: han_prefix(m[0])),
    *((c, rf"(?<=[\w)}}\]%°])\s*{c}者?\s*(?=[A-Za-z\d\\(\[-])", " or ") for c in "或"),
    *(
        (c, rf"(?<=[A-Za-z\d)}}\]%°])\s*{c}\s*(?=[A-Za-z\d\\(\[-])", " and ")
        for c in ("以及", "和", "且", "与", "及")
    ),
    ("度", r"(?<=\d)\s*度$", "°"),
    ("万", r"(?<=[\d}])\s*万", r" ~tenthousand~"),
    ("亿", r"(?<=[\d}])\s*亿", r" ~hundredmillion~"),
    ("每", rf"(?<=[{HAN}])每(?=[{HAN}])", "/"),
    ("倍", r"(?<=\d)\s*倍$", " ~folds~"),
    ("平方", rf"(?<=[\d)}}~])\s*平方([{HAN}]+)", r" ~\1~^2"),
    ("立方", rf"(?<=[\d)}}~])\s*立方([{HAN}]+)", r" ~\1~^3"),
    ("", rf"(?<=[\d)}}/~%])\s*([{HAN}]+)(?=$|[\s/,^)])", r" ~\1~"),
)


def han_or_digits(text: str) -> str:
    return han_prefix(text) if text[0] in HAN_DIGITS else text


def han_prefix(text: str) -> str:
    """A number in front; 万 alone, 一一 (one by one) are words."""
    if text[0] in HAN_SCALES or len({*text}) == 1 < len(text):
        return text
    try:
        return str(han_number(text))
    except Refuse:
        return text


NUMBER = re.compile(
    r"([-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d*)?)(?:\s*/\s*([-+]?0*[1-9]\d*))?"
)
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
DENOMINATORS = dict(
    zip("third fourth fifth sixth seventh eighth ninth tenth".split(), range(3, 11))
)
DENOMINATORS |= {"half": 2, "halve": 2, "quarter": 4}


def ascii_char(c: str) -> str:
    """One character as LaTeX would spell it; look-alikes of other alphabets stay what they are."""
    if " " <= c <= "~":
        return c
    kind = unicodedata.category(c)
    name = unicodedata.name(c, "")
    plain = unicodedata.normalize("NFKC", c)
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    if kind[0] == "Z" or c in "\t\n\r":
        return "\\," if c in "\u00a0\u2009\u202f" else " "
    if kind in ("Cc", "Cf") or "\ufe00" <= c <= "\ufe0f":
        return ""  # NUL, zero-width space, byte order mark, variation selectors
    if kind == "No" and "\u2044" in plain:  # vulgar fractions
        return r"\frac{%s}{%s}" % tuple(plain.split("\u2044"))
    if name.startswith(("GREEK SMALL", "GREEK CAPITAL", "MICRO")):
        letter = name.split()[-1].replace("SIGN", "MU").replace("LAMDA", "LAMBDA")
        return "\\%s " % (letter.capitalize() if kind == "Lu" else letter.lower())
    if plain != c and name.startswith(("FULLWIDTH", "MATHEMATICAL")):
        return "".join(map(ascii_char, plain))
    return c


def level_raised(m: re.Match) -> str:
    return "^_"[not m[1]] + "{" + unicodedata.normalize("NFKC", m[0]) + "}"


def clean(s: str) -> str:
    """One spelling for characters, spacing, sizing and wrappers. Long answers only get their spaces
    collapsed.
    """
    return " ".join(s.split()) if len(s) > MAX_CHARS else short_clean(s)


# a gold is seen with every answer of its group
@lru_cache(maxsize=2048)
def short_clean(s: str) -> str:
    s = s.replace("\x0crac", r"\frac").strip()  # a \frac damaged by JSON: MathVision ships one
    if not (s.isascii() and s.isprintable()):
        s = RAISED.sub(level_raised, s)
        s = "".join(map(ascii_char, s.translate(CHARS))).strip()
        if not s.isascii():
            s = rewrite(s, HAN_RULES)
    if len(s) > MAX_CHARS:
        return " ".join(s.split())
    return counted_in_words(rewrite(s, TEXT_RULES).strip())


def counted_in_words(s: str) -> str:
    """five dollars as 5 dollars."""
    first, _, rest = s.partition(" ")
    if not rest or first.lower() not in ONES:
        return s
    parts = s.split()
    for k in range(len(parts) - 1, 0, -1):
        if (value := whole_in_words([w.lower() for w in parts[:k]])) is not None:
            known = unit_of(parts[k]) or parts[k][-1] == "s" and not PARTS.fullmatch(parts[k])
            return f"{value} {' '.join(parts[k:])}" if known and k == len(parts) - 1 else s
    return s


def plain_number(s: str) -> Fraction | None:
    r"""The fast path: integers, decimals, a/b and \frac{a}{b} of integers."""
    if s.startswith(("\\frac", "-\\frac", "+\\frac")):
        s = re.sub(r"^([-+]?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", s)
    m = NUMBER.fullmatch(s)
    if not m:
        return None
    digits = m[1].replace(",", "")
    value = Fraction(digits if "." in digits else int(digits))
    return value / int(m[2]) if m[2] else value


WORD_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ONES = dict(zip(NUMBER_WORDS, range(21))) | {w: 20 + 10 * n for n, w in enumerate(TENS)}


def whole_in_words(parts: list) -> int | None:
    """three hundred (and) twenty one; None where the words are no number in their order."""
    total = section = 0
    last = None  # the word before, where nothing but a scale or a smaller word may follow
    for k, w in enumerate(parts):
        if w == "and" and last in WORD_SCALES and k + 1 < len(parts):
            continue
        if w in ONES:
            fits = last is None or last in WORD_SCALES or last in TENS and 0 < ONES[w] < 10
            if not fits or ONES[w] == 0 and len(parts) > 1:
                return None
            section += ONES[w]
        elif w == "hundred" and 0 < section < 20:
            section *= 100
        elif w in WORD_SCALES and w != "hundred" and 0 < section < 1000:
            if total and total < 1000 * WORD_SCALES[w]:
                return None
            total, section = total + section * WORD_SCALES[w], 0
        else:
            return None
        last = w
    return total + section if last else None


def number_in_words(s: str) -> Fraction | None:
    """twelve, twenty-one, minus five, two hundred and five, one half, two and a half."""
    parts = s.lower().replace("-", " ").split()
    if parts and parts[0] in ("minus", "negative"):
        value = number_in_words(" ".join(parts[1:]))
        return -value if value else None
    if len(parts) > 2 and parts[-2:] in (["a", "half"], ["one", "half"]) and parts[-3] == "and":
        whole = whole_in_words(parts[:-3])
        return None if whole is None else whole + Fraction(1, 2)
    if parts in (["a", "dozen"], ["one", "dozen"]):
        return Fraction(12)
    if parts[:1] == ["a"] and len(parts) > 1 and parts[1] in WORD_SCALES:
        parts = ["one", *parts[1:]]
    whole = whole_in_words(parts) if len(parts) < 12 else None
    if whole is not None:
        return Fraction(whole)
    first, second = (parts + ["", ""])[:2]
    if len(parts) > 2:
        return None
    numerator = 1 if first in ("a", "half") else 0
    if first in NUMBER_WORDS[1:]:
        numerator = NUMBER_WORDS.index(first)
    denominator = DENOMINATORS.get((second or first).removesuffix("s"))
    return Fraction(numerator, denominator) if numerator and denominator else None


BRACKETED = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
QUOTED = re.compile(r"([\"'])(.*)\1")
SUBSCRIPT = re.compile(r"(?<=[A-Za-z)])\s*_\s*(?=[\w{])")
BRACED = re.compile(r"(?<!\\)\{\s*(\d+|[^\s\\{}]|(?<!\^\{)[^\W\d_]\w*)\s*\}")
TEXT_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\d+|\S")


ELEMENTS = set(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br"
    " Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd W Re Os Ir Pt Au Hg"
    " Tl Pb Bi Po At Rn Fr Ra Hf Ta Th Pa U Np Pu Yb Er Ho".split()
)
# Co is not CO; No is a word
CLASHING = {e for e in ELEMENTS if len(e) == 2 and set(e.upper()) <= ELEMENTS} - {"In", "Ho"}
FORMULA = re.compile(r"(?:[A-Z][a-z]?)+")
MILLI_OR_MEGA = re.compile(r"[mM](?:[WgsAVJNL]|Hz|Pa|eV)")


def without_case(t: str) -> str:
    """A word in small letters, but for chemical formulas and milli and mega units."""
    if t.islower() and t[0] != "m" or MILLI_OR_MEGA.fullmatch(t):
        return t
    if FORMULA.fullmatch(t) and not t.isupper():
        symbols = re.findall(r"[A-Z][a-z]?", t)
        if CLASHING & {*symbols} and ELEMENTS >= {*symbols}:
            return t
    return t.lower()


def text_form(s: str) -> str:
    """A cleaned answer as text: numbers reduced, words without case, one space between tokens, no
    braces around one.
    """
    return s if len(s) > MAX_CHARS else short_text_form(s)


@lru_cache(maxsize=2048)
def short_text_form(s: str) -> str:
    s = s.replace("~", " ").strip()
    if m := BRACKETED.fullmatch(s):
        s = m[1]
    value = plain_number(s)
    if value is None and s.replace("-", "").replace(" ", "").isalpha():
        value = number_in_words(s)
    if value is not None:
        return str(value)
    if m := QUOTED.fullmatch(s):
        s = m[2]
    if "_" in s:
        s = SUBSCRIPT.sub("", s)  # CO_2 and CO2
    if "{" in s:
        s = BRACED.sub(r" \1 ", s)
    tokens = TEXT_TOKEN.findall(s.rstrip(". "))
    return " ".join(without_case(t) if len(t) > 1 and t[0] != "\\" else t for t in tokens)


# ---------------------------------------------------------------- expressions
# Trees are tuples (operator, *arguments). Leaves: ("num", Fraction), ("var", name),
# ("unit", base, factor), ("const", name). Operators: + * ^ and mpmath's functions. Structures, with
# which nothing is computed: ("list" | "set", *items), ("seq", "(]", *items), ("named", name,
# value), ("zero", lhs - rhs), ("except", value), ("inf", sign), ("id", digits). And numbers joined
# by an operator: ("join", operator, value or None, may it be computed, *parts).

STRUCTURES = {"list", "set", "seq", "named", "zero", "except", "inf", "id"}
ZERO, ONE, MINUS = ("num", Fraction(0)), ("num", Fraction(1)), ("num", Fraction(-1))
TWO, TEN, PERCENT = ("num", Fraction(2)), ("num", Fraction(10)), ("num", Fraction(1, 100))
PI, E, IMAGINARY, DEGREE = (("const", name) for name in ("pi", "e", "i", "deg"))
INF, MINUS_INF = ("inf", 1), ("inf", -1)
REALS = ("seq", "()", MINUS_INF, INF)


def bits(v: Fraction) -> int:
    return max(v.numerator.bit_length(), v.denominator.bit_length())


def plain(n: tuple) -> tuple:
    """n itself, or what joined numbers come to where something around them says: arithmetic."""
    if n[0] != "join":
        return n
    if n[2] is None:
        raise Refuse("joined numbers without a value")
    return n[2]


def expression(op: str, *args) -> tuple:
    """(op, *args) in a normal form: numbers computed where that is exact and short, sums and
    products in one order.
    """
    args = [plain(a) for a in args]
    if any(a[0] in STRUCTURES for a in args):
        vectors = [a for a in args if a[0] == "seq"]
        if op == "*" and len(vectors) == 1 and not has_letters(*args):
            return scaled_vector(vectors[0], [a for a in args if a is not vectors[0]])
        raise Refuse("arithmetic on something that is no number")
    if op in ("+", "*"):
        return total(op, args)
    if op == "^":
        return power(*args)
    return (op, *args)


def scaled_vector(vector: tuple, factors: list) -> tuple:
    """A number times a vector or matrix, component by component."""
    if vector[1] not in ("()", "row"):
        raise Refuse("a number times an interval")
    return (*vector[:2], *(expression("*", *factors, x) for x in vector[2:]))


def total(op: str, args: list) -> tuple:
    """A sum or a product, flat in one order, its numbers computed."""
    neutral = ONE if op == "*" else ZERO
    value = neutral[1]
    rest = []
    for a in args:
        if a[0] != "num":
            rest.append(a)
            continue
        value = value + a[1] if op == "+" else value * a[1]
        if bits(value) > 2 * MAX_BITS:
            raise Refuse("number too long")
    if op == "*" and value == 0:
        units = {leaf for a in rest for leaf in leaves(a) if leaf[0] == "unit"}
        return ("*", *sorted(units, key=repr), ZERO) if units else ZERO
    rest.sort(key=repr)
    if value != neutral[1] or not rest:
        rest.append(("num", value))
    return (op, *rest) if len(rest) > 1 else rest[0]


def power(base: tuple, exponent: tuple) -> tuple:
    """base ^ exponent, computed where that is exact and short."""
    if exponent == ONE:
        return base
    if base[0] != "num" or exponent[0] != "num":
        return ("^", base, exponent)
    b, e = base[1], exponent[1]
    if b == 0 and e <= 0:
        raise Refuse("division by zero")
    if b == 1 or e.denominator == 1 and abs(e) * bits(b) <= MAX_BITS:
        return ("num", b ** int(e))
    if b < 0 and e.numerator == 1 and e.denominator % 2:
        return minus(power(("num", -b), exponent))  # the cube root of -8 is -2, as in school
    return ("^", base, exponent)


def minus(a: tuple) -> tuple:
    return MINUS_INF if a == INF else expression("*", MINUS, a)


def over(a: tuple, b: tuple) -> tuple:
    return expression("*", a, expression("^", b, MINUS))


def times(n: tuple, factor: tuple) -> tuple:
    """n times a unit or a percent sign, which goes to each of joined numbers."""
    if n[0] != "join":
        return expression("*", n, factor)
    value = None if n[2] is None else expression("*", n[2], factor)
    return ("join", n[1], value, n[3], *(times(part, factor) for part in n[4:]))


def integers(function, *args) -> tuple:
    if any(a[0] != "num" or a[1].denominator > 1 for a in args) or args[-1] == ZERO:
        raise Refuse("integers wanted")
    return ("num", Fraction(function(*(int(a[1]) for a in args))))


def leaves(n: tuple) -> set:
    if n[0] in ("num", "var", "unit", "const"):
        return {n}
    return set().union(*(leaves(x) for x in n if isinstance(x, tuple)))


def has_letters(*nodes: tuple) -> bool:
    return any(leaf[0] in ("var", "unit") for n in nodes for leaf in leaves(n))


# ---------------------------------------------------------------- names

# base unit, how many of it, spellings
UNIT_TABLE = """m 1 m meter; m 1/100 cm centimeter; m 1/1000 mm millimeter; m 1000 km kilometer;
 m 1/10 dm decimeter; m 1/1000000 µm micrometer micron; m 1/1000000000 nm nanometer; m 381/1250
 ft foot feet; m 127/5000 in inch inches; m 1143/1250 yd yard; m 201168/125 mi mile; g 1 g gram;
 g 1000 kg kilogram kgs; g 1/1000 mg milligram; g 1000000 tonne ton; g 45359237/100000 lb lbs
 pound; g 45359237/1600000 oz ounce; s 1 s sec second; s 1/1000 ms; s 60 min minute; s 3600 h hr
 hour; s 86400 day; s 604800 week; month 1 month; month 12 year yr; month 120 decade; month 1200
 century; L 1 L l liter; L 1/1000 mL ml milliliter; L 1/100 cL cl; mph 1 mph; bit 1 bit; kmh 1
 kmh kmph kph; USD 1 dollar USD US$ $ buck; USD 1/100 cent ¢; EUR 1 euro EUR €; GBP 1 GBP £; RMB
 1 yuan RMB CNY ¥; INR 1 rupee INR Rs ₹; N 1 N newton; N 1000 kN; J 1 J joule; J 1000 kJ
 kilojoule; J 1000000 MJ; W 1 W watt; W 1000 kW kilowatt; W 1000000 MW megawatt; V 1 V volt; V
 1000 kV kilovolt; V 1/1000 mV; A 1 A amp ampere; A 1/1000 mA; C 1 C coulomb; K 1 K kelvin; ohm 1
 ohm; Pa 1 Pa pascal; Pa 1000 kPa kilopascal; Pa 1000000 MPa; Hz 1 Hz hertz; Hz 1000 kHz
 kilohertz; Hz 1000000 MHz; Hz 1000000000 GHz; mol 1 mol mole; mol 1/1000 mmol; T 1 T tesla; degC
 1 degC; degF 1 degF; rad 1 rad radian; rpm 1 rpm; unit 1 unit; atm 1 atm; bar 1 bar; eV 1 eV; eV
 1000 keV; eV 1000000 MeV; kWh 1 kWh; cal 1 cal; cal 1000 kcal; dB 1 dB decibel; byte 1 byte
 bytes; byte 1000 KB; byte 1000000 MB; byte 1000000000 GB; ha 1 ha hectare; acre 1 acre; gallon 1
 gal gallon; quart 1 qt quart; pint 1 pt pint; people 1 people person; child 1 children child;
 men 1 men; fish 1 fish"""
UNIT_TABLE += """; m 1/100 厘米; m 1/1000 毫米; m 1/10 分米; m 1 米; m 1000 千米 公里; g 1 克;
 g 1000 千克 公斤; g 500 斤; g 1/1000 毫克; g 1000000 吨; s 1 秒 秒钟; s 60 分钟; s 3600 小时 时
 个小时; s 86400 天 日; s 604800 周 星期; month 1 个月; month 12 年; L 1 升; L 1/1000 毫升; RMB 1
 元 块 人民币; RMB 1/10 角; USD 1 美元; EUR 1 欧元; GBP 1 英镑; ha 1 公顷; N 1 牛 牛顿; J 1 焦
 焦耳; W 1 瓦 瓦特; V 1 伏 伏特; A 1 安 安培; ohm 1 欧 欧姆; 个 1 个; 人 1 人; 名 1 名; 只 1 只;
 支 1 支; 本 1 本; 张 1 张; 条 1 条; 件 1 件; 次 1 次; 种 1 种; 棵 1 棵; 辆 1 辆; 岁 1 岁; 分 1
 分; 位 1 位"""
UNITS = {}
for line in UNIT_TABLE.split(";"):
    base, factor, *spellings = line.split()
    UNITS |= dict.fromkeys(spellings, ("unit", base, Fraction(factor)))
CURRENCIES = set("$€£¥₹¢")


def derived(factor, **powers) -> tuple:
    """factor times powers of the base units: derived(1000, m=-1, g=1)."""
    units = (("^", ("unit", u, ONE[1]), ("num", Fraction(p))) for u, p in powers.items())
    return ("*", *units, ("num", Fraction(factor)))


DERIVED = {
    "L": derived(Fraction(1, 1000), m=3),
    "J": derived(1000, g=1, m=2, s=-2),
    "N": derived(1000, g=1, m=1, s=-2),
    "W": derived(1000, g=1, m=2, s=-3),
    "Pa": derived(1000, g=1, m=-1, s=-2),
    "kmh": derived(Fraction(1000, 3600), m=1, s=-1),
    "mph": derived(Fraction("1609.344") / 3600, m=1, s=-1),
    "ha": derived(10_000, m=2),
    "acre": derived(Fraction("4046.8564224"), m=2),
    "kWh": derived(3_600_000_000, g=1, m=2, s=-2),
}
SCALES = {"dozen": ("num", Fraction(12))}
SCALES |= {"tenthousand": ("num", Fraction(10**4)), "hundredmillion": ("num", Fraction(10**8))}
for name, zeros in zip("hundred thousand million billion trillion".split(), (2, 3, 6, 9, 12)):
    SCALES |= dict.fromkeys((name, name + "s"), ("num", Fraction(10**zeros)))

MPMATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec"}
MPMATH |= {"arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh"}
MPMATH |= {"abs": "fabs", "binom": "binomial", "tg": "tan", "ctg": "cot", "cosec": "csc"}
MPMATH |= {"arctg": "atan", "asin": "asin", "acos": "acos", "atan": "atan"}
FUNCTIONS = """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh
 arcsinh arccosh arctanh ln abs floor ceil binom max min tg ctg cosec arctg asin acos
 atan""".split()
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
CALLS = {name: partial(expression, MPMATH.get(name, name)) for name in FUNCTIONS}
CALLS |= {
    "frac": over,
    "sqrt": lambda x, n=TWO: expression("^", x, over(ONE, n)),
    "exp": lambda x: expression("^", E, x),
    "log": lambda x, base=TEN: expression("log", x, base),
    "lg": lambda x: expression("log", x, TEN),
    "rowvector": lambda *items: ("seq", "row", *items),
    "gcd": partial(integers, math.gcd),
    "lcm": partial(integers, math.lcm),
}
GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau
 phi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell hbar varphi varepsilon
 vartheta""".split()
OPERATORS = r"""cdot→* times→× ast→* div→/ le→<= leq→<= leqslant→<= ge→>= geq→>= geqslant→>= lt→<
 gt→> ne→!= neq→!= approx→~ simeq→~ in→in cup→cup cap→cap setminus→setminus backslash→setminus
 land→and lor→or vee→or wedge→and and→and or→or per→per bmod→mod mod→mod colon→: lbrace→\{ rbrace→\}
 langle→( rangle→) lbrack→[ rbrack→] **→^ ==→= \%→% sim→to to→to""".split()
NAMES = {name: ("fn", name) for name in CALLS}
NAMES |= {name: ("val", ("var", name.removeprefix("var"))) for name in GREEK}
NAMES |= {"pi": ("val", PI), "e": ("val", E), "i": ("val", IMAGINARY)}
NAMES |= dict.fromkeys(("infty", "infinity", "inf"), ("val", INF))
NAMES |= dict.fromkeys(("emptyset", "varnothing"), ("val", ("set",)))
NAMES |= {name: ("op", op) for name, op in (pair.split("→") for pair in OPERATORS)}

# "5 halves" is not 5 things
PARTS = re.compile(r"halves|\w*(?:thirds|ths|quarters|less|plus|minus|is|as|ss|us)")
AFTER_UNIT = re.compile(
    r"[\s~]*(?:$|[\^/*),;.|\]}°~A-Za-z=:]|-[\s~$]*[\d.]|\\[}%]"
    r"|\\(?:times|cdot|cup|sim|to)(?![A-Za-z]))"
)
AFTER_BY = re.compile(r"[\s~]*[\d.]+[\s~]*(?:$|[^\sA-Za-z\d.+\-*/]|[xX][\s~]*\d|[A-Za-z]{2})")
SMALL = (
    r"(min(?:ute)?s?|in(?:ch(?:es)?)?|ounces?|oz|s|secs?|seconds?|cm|centimet(?:er|re)s?|months?)"
)
LARGE = r"(h|hrs?|hours?|min(?:ute)?s?|ft|foot|feet|lbs?|pounds?|m|met(?:er|re)s?|years?|yrs?)"
COMPOUND = rf"(\d)[\s~]*{LARGE}[\s~]*,?[\s~]*(?:and[\s~]*)?(\d+(?:\.\d+)?)[\s~]*{SMALL}(?=[\s~]*$)"
ALL_REALS = r"(?i)^[\s~]*(?:x\s*(?:\\in|is|can be)\s*)?all reals?(?: numbers?)?(?: x)?\b"
EXCEPT = (
    r"(?<=mathbb\{R\})[\s~,]*(?:except|but|other than|excluding)(?: for)?(?:[\s~]*x\s*=)?"
    r"\s*([^{}()|]+)$"
)
REAL_SET = r"\\mathbb\s*\{?\s*R\s*\}?"
SIGNED = r"\s*[\^_]\s*\{?\s*%s\s*\}?"
SET_BUILDER = (
    r"^\\\{\s*([A-Za-z])(?:\s*\\in\s*\(-\\infty,\\infty\))?\s*(?:\||:|\\mid(?![a-z]))(.*)\\\}$"
)
BARS = r"(?:\||\\[lr]?vert(?![A-Za-z]))([^|]*?)(?:\||\\[lr]?vert(?![A-Za-z]))"
ENVIRONMENT = (
    r"\\begin\s*\{(\w*matrix|array|cases|aligned|align|gathered|split)\*?\}"
    r"(?:\{[clr| ]*\})?(.*?)\\end\s*\{\1\*?\}"
)
MODULUS = r"\\pmod\s*(?:\{([^{}]*)\}|(\d))|\(\s*\\?mod\b[\s~]*([\w~ ]+)\)"
INTEGRAL = r"^\s*\\(?:lim|int|sum|prod|iint|oint)(?![A-Za-z])(?:[^={}]|\{[^{}]*\})*=(?=[^=]+$)"
DERIVATIVE = r"\\frac\s*\{\s*d\s*([a-z])\s*\}\s*\{\s*d([a-z])\s*\}(?=\s*=)"


def repeating(m: re.Match) -> str:
    r"""0.1\overline{6} is 15/90."""
    whole, fixed = m[1] or "0", m[2]
    loop = m[3] or m[4] or m[5]
    numerator = int(whole + fixed + loop) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{'9' * len(loop)}{'0' * len(fixed)}}}"


def mixed(m: re.Match) -> str:
    r"""1\frac{1}{2} is 3/2."""
    whole, numerator, denominator = int(m[1]), int(m[2]), int(m[3])
    if numerator >= denominator:
        return m[0]
    return rf"\frac{{{whole * denominator + numerator}}}{{{denominator}}}"


def based(m: re.Match) -> str:
    """1011_2, (1011)_2, FF_{16} are 11, 11, 255. ValueError: 12_2 has no value."""
    digits = m[1] or m[2]
    base = BASE_WORDS.get(m[3]) or (int(m[3]) if m[3].isdigit() else 0)
    if not base and m[3] != "1" or not digits.isdigit() and (base <= 10 or len(digits) == 1):
        return m[0]  # 5_{max}, A_{12}
    return str(int(digits, base))


def matrix(m: re.Match) -> str:
    """A matrix as a sequence of its rows, a column as a vector, cases as a list."""
    environment, body = m[1], m[2]
    rows = [row for row in body.split(r"\\") if row.strip("~ &")]
    if environment not in ("array",) and not environment.endswith("matrix"):
        rows = [re.sub(r"&\s*(?=[=<>]|\\[lg]eq?|\\approx)|^\s*&", "", row) for row in rows]
        rows = [re.sub(r"[\s~]*[,;]?[\s~]*$", "", row) for row in rows]
        rows = [re.sub(r",?\s*&[\s~]*(?:if|when|for)?\b", ",", row) for row in rows]
        return ",".join(f"({row})" if "," in row else row for row in rows)
    rows = [row.replace("&", ",") for row in rows]
    if len(rows) == 1:
        return rf"\rowvector({rows[0]})"
    return "(" + ",".join(f"({row})" if "&" in body else row for row in rows) + ")"


def outward(m: re.Match) -> str:
    """]0,1[ is (0,1): a bracket that turns its back leaves its end out."""
    return f"{m[1]}{'(' if m[2] == ']' else '['}{m[3]}{')' if m[4] == '[' else ']'}"


def degrees_minutes(m: re.Match) -> str:
    value = Fraction(m[1]) + Fraction(m[2]) / 60 + Fraction(m[3] or 0) / 3600
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}°"


BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
BASE_WORDS |= {"nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}
TURNED = (
    r"(^|\\(?:in|cup|cap)|[=\s])\s*([\[\]])([^\[\]();]*[,;][^\[\]();]*)([\[\]])"
    r"(?=\s*(?:$|\\c[ua]p))"
)
BOUND = r"^\s*(>=|<=|>|<|\\[gl]eq?(?:slant)?(?![A-Za-z]))\s*([^<>=]+)$"


def bound(m: re.Match) -> str:
    """> 5 without a name."""
    closed = m[1] not in "<>"
    if ">" in m[1] or "\\g" in m[1]:
        return rf"{'[' if closed else '('}{m[2]},\infty)"
    return rf"(-\infty,{m[2]}{']' if closed else ')'}"


MATH_RULES = rules(
    ("[", TURNED, outward),
    ("]", TURNED, outward),
    *((c, BOUND, bound) for c in ("<", ">", "\\ge", "\\le")),
    ("'", r"^\s*(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:''|\")$", r"\1~ft~ \2~in~"),
    ("'", r"(\d+)°\s*(\d+)'(?:\s*(\d+(?:\.\d+)?)(?:''|\"))?", degrees_minutes),
    ("\\approx", r"^\s*\\approx", ""),
    ("US", r"\bUS\s*(?=\$)", ""),
    ("USD", r"\bUSD[\s~]*(?=\d)", "$"),
    ("Rs", r"\bRs\.?[\s~]*(?=\d)", "₹"),
    ("\\", INTEGRAL, ""),
    ("=", r"\\(det|dim|arg|Re|Im)(?![A-Za-z])", r"\1 "),
    ("\\frac", DERIVATIVE, r"d\1d\2'"),
    ("U", r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    ("eal", ALL_REALS, r"\\mathbb{R}"),
    ("mathbb{R}", EXCEPT, r"\\setminus \\{\1\\}"),
    ("\\mathbb", REAL_SET + SIGNED % r"\+", r"(0,\\infty)"),
    ("\\mathbb", REAL_SET + SIGNED % "-", r"(-\\infty,0)"),
    ("\\mathbb", REAL_SET, r"(-\\infty,\\infty)"),
    ("\\{", SET_BUILDER, r"\2"),  # \{x | x>2\}
    ("\\", r"\\\||\\[lr]?Vert(?![A-Za-z])", "|"),  # a norm
    ("|", r"\|\s*([A-Z]{2})\s*\|", r"\1"),  # a length
    *((needle, BARS, r"abs(\1)") for needle in ("|", "vert")),
    ("\\l", r"\\l(floor|ceil)(?![A-Za-z])(.*?)\\r\1(?![A-Za-z])", r"\1(\2)"),
    ("\\begin", ENVIRONMENT, matrix),
    ("mod", MODULUS, lambda m: rf" \bmod {m[1] or m[2] or m[3]}"),
    ("\\equiv", r"\\equiv(?![A-Za-z])", "="),
    (",", r",[\s~]*(and|or)\b", r" \1 "),
    ("sq", r"\b(?:sq(?:uare|\.)?)[\s~]+([A-Za-z]+)|\b([A-Za-z]+)[\s~]+squared\b", r"\1\2^2"),
    ("cu", r"\bcu(?:bic|\.)?[\s~]+([A-Za-z]+)|\b([A-Za-z]+)[\s~]+cubed\b", r"\1\2^3"),
    ("", r"(?<=[\d\s~])((?:[mck]?m)|ft|in|yd|mi)([23])(?!\d)", r"\1^\2"),  # 12 cm2
    ("\\mu", r"(?<=\d)[\s~]*\\mu[\s~]*m(?![A-Za-z])~?", " ~micron~"),
    ("Omega", r"(?<=\d)[\s~]*\\Omega", "~ohm~"),
    ("cent", r"(?<=\d)[\s~]*per\s?cent\b", "%"),
    ("log_", r"(?<!\\)\blog(?=_)", r"\\log"),
    ("e", r"(\d)e([-+]?\d{1,12})(?![\d.])", r"\1*10^{\2}"),
    ("E", r"(\d)E([-+]?\d{1,12})(?![\d.])", r"\1*10^{\2}"),
    (".", r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))", repeating),
    (
        "_",
        r"(?<![\w.}])(?:([\dA-F]+)|\(([\dA-F]+)\))_\s*\{?\(?[\s~]*(\d+|[a-z]{3,7})[\s~]*\)?\}?",
        based,
    ),
    ("/", r"(?<![\w.^_}/])(\d+)[\s~]+(\d+)/(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),
    ("%", r"(?<![\w.^_}/])(\d+)/(\d+)(?=[\s~]*\\?%)", r"\\frac{\1}{\2}"),
    ("\\frac", r"(?<![\w.^_}/])(\d+)[\s~]*\\frac\{(\d+)\}\{(\d+)\}", mixed),
    ("--", r"(?<![-\d.])(\d+(?:\.\d+)?[\s~]*%?)[\s~]*-{2,3}[\s~]*(?=[\d$])", r"\1-"),
    *(
        (large, rf"(\d+)\s*{large}\s*(\d+)\s*{small}\s*$", rf"\1~{large}~+\2~{unit}~")
        for large, small, unit in HAN_COMPOUNDS
    ),
    ("", COMPOUND, r"\1~\2~+\3~\4"),  # 5 ft 3 in
)
TOKEN = re.compile(
    r"""(?P<gap>[\s~]+)|(?P<number>\d+\.?\d*|\.\d+)
 |(?P<name>\\(?:overline|bar|hat|vec|tilde|widehat|overrightarrow)\s*\{?\s*[A-Za-z]{1,2}\s*\}?
   |(?!\\(?:log|sum|prod|int|lim))(?:\\[A-Za-z]+|[A-Za-z])_\s*(?:\{[^{}]*\}|\w)'* # x_1
   |[A-Za-z]'+ # y'
   |d[a-z]d[a-z]'(?=\s*=)|P\s*\((?=[^()]*[A-Z=<>~])[^()]{1,40}\)(?=\s*=) # P(X=2)
   |(?:m\s*)?\\angle[^=<>,]{1,20}(?==)|\\triangle\s*[A-Z]{3}
   |(?!(?:and|or|a?sin|a?cos|a?tan|log|mod)\b)[A-Za-z]{3,}(?:[A-Za-z ~]|\\triangle)*(?==)) # Area
 |\\(?P<command>[A-Za-z]+)|(?P<word>[A-Za-z]+(?![A-Za-z_'])|[\u4e00-\u9fff]+)
 |(?P<symbol>(?<=\s)!=|<=|>=|==|\*\*|\\[{}%]|[-+*/^_(){}\[\],;:!=<>%°$€£¥₹¢])""",
    re.X,
)


def after_value(out: list) -> bool:
    """Does what was read last end a value, so that a unit may follow?"""
    if not out:
        return False
    kind, value = out[-1][:2]
    if value == "*" and len(out) > 1 and out[-2][0] == "unit":
        return True  # N \cdot m
    return kind in ("val", "unit", "scale") or value in (")", "}", "]", "°", "%", "per")


def is_unit(gap: str, run: str, out: list) -> bool:
    """h in 5 h or \\pi~h~, but not in \\pi r^2 h."""
    kind, value = out[-1][:2]
    if "~" in gap or kind in ("unit", "scale") or value == "per":
        return True
    if not gap and len(run) == 1:
        return False
    kinds = set()
    for kind, value, *_ in reversed(out[-20:]):
        if value in ("=", ",", "and", "or"):
            break
        if kind == "val":
            kinds.add(value[0])
    return kinds & {"num", "var"} == {"num"}


def unit_of(run: str) -> tuple | None:
    """The unit that a run of letters names: cm, metres, Hours."""
    if run in UNITS or len(run) < 3:
        return UNITS.get(run)
    long = run.lower().replace("metre", "meter").replace("litre", "liter")
    return UNITS.get(long) or UNITS.get(long.removesuffix("s"))


def dressing_word(run: str, gap: str, out: list, after: str) -> tuple | None:
    """The token of a word that belongs to the number before it: a unit, a scale, by."""
    if not after_value(out):
        return None
    if run.lower() in SCALES:
        return ("scale", SCALES[run.lower()])
    if run == "by" or run in ("x", "X") and out[-1][1][0] == "num" and AFTER_BY.match(after):
        return ("op", "by")  # 3x4
    unit = unit_of(run)
    if unit and AFTER_UNIT.match(after) and is_unit(gap, run, out):
        return ("unit", unit)
    known = run in NAMES or run.lower() in NAMES
    counted = out[-1][0] == "scale" or out[-1][1] in (")", "}", "]") or out[-1][1][0] == "num"
    if (
        len(run) > 3
        and not known
        and gap
        and counted
        and run.endswith("s")
        and not PARTS.fullmatch(run)
    ):
        return ("unit", ("unit", run.lower(), Fraction(1)))  # "5 apples": a count noun
    return None


def word(run: str, gap: str, out: list, after: str) -> list:
    """The tokens of a run of letters: a unit or the like, a known name, or a product of letters."""
    if dressing := dressing_word(run, gap, out, after):
        return [dressing]
    if not run.isascii():
        raise Refuse("a word")
    known = NAMES.get(run) or NAMES.get(run.lower())
    if known and (len(run) > 2 or run in ("pi", "ln", "lg", "tg", "or", "to")):
        return [known]  # lt and mu are letters unless they are commands
    if m := re.fullmatch(r"(sin|cos|tan|ln|log)([a-z])", run):
        return [NAMES[m[1]], ("val", ("var", m[2]))]
    if len(run) == 3 and run.isupper():
        return [("val", ("var", run))]  # an angle, an order: BAC is not ABC
    if len(run) > 3:
        raise Refuse("a word")
    return [NAMES[c] if c in "ei" else ("val", ("var", c)) for c in run]


def tokenize(s: str) -> list:
    """Tokens (kind, value, is there a space before, text); the last one is ("op", "end", ...).
    Kinds: op, fn (a function), val (a leaf), unit, scale (million).
    """
    out, pos, gap = [], 0, ""
    while pos < len(s):
        m = TOKEN.match(s, pos)
        if not m:
            raise Refuse("unknown")
        pos, kind, text = m.end(), m.lastgroup, m[0]
        space = gap.strip("~") != ""
        if kind == "number":
            value = Fraction(text if "." in text else int(text))
            out.append(("val", ("num", value), space, text))
        elif kind == "name":
            out.append(("val", ("var", re.sub(r"[\s{}~]", "", text)), space, text))
        elif kind == "word":
            for token in word(text, gap, out, s[pos : pos + 24]):
                out.append((*token, space, text))
        elif kind != "gap":
            token = command(m["command"], out) if m["command"] else NAMES.get(text, ("op", text))
            if text == "/" and out and out[-1][0] == "unit":
                token = ("op", "per")  # km/h
            out.append((*token, space, text))
        gap = text if kind == "gap" else ""
    return out + [("op", "end", gap.strip("~") != "", "")]


def command(name: str, out: list) -> tuple:
    if name in NAMES:
        return NAMES[name]
    if name in UNITS and after_value(out):
        return ("unit", UNITS[name])  # \SI{5}{\meter}
    raise Refuse("unknown")


# ---------------------------------------------------------------- parser

# operators by precedence, loosest first
LEVELS = "= ~ < > <= >= != in", "cup cap setminus", ": mod", "+ - to", "× * / per by"
INFIX = {o: level for level, ops in enumerate(LEVELS) for o in ops.split()}
RATIO, SUM, PRODUCT = INFIX[":"], INFIX["+"], INFIX["*"]
CLOSERS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",)}
SEPARATORS = ",", ";", "and", "or"
ENDS = {*SEPARATORS, ")", "]", "}", "\\}", "end"}

# What stands between joining operators, one letter a token (signature): a plain number with its
# currency before it and its scale, percent, unit or letters after it.
LITERAL = re.compile(
    r"(?P<bracket>\()?(?P<before>[-+]?\$?)[-+]?\$?"
    r"(?P<number>n(?:/n)?|\{n\}|f\{n\}\{n\}|n[×*b]n\^(?:n|\{[-+]?n\}))\)?"
    r"(?P<after>s?(?:[%°$]|u(?:\^n)?(?:[p/*]?u(?:\^n)?)*|v+)?)\)?"
)
SIGNATURE = {"num": "n", "var": "v"}


def signature(tokens: list) -> str:
    """One letter a token: n a number, v a letter, u a unit, s a scale, f a fraction command."""
    letters = []
    for kind, value, *_ in tokens:
        if kind == "val":
            letters.append(SIGNATURE.get(value[0], "?"))
        elif kind in ("unit", "scale"):
            letters.append(kind[0])
        elif value == "frac":
            letters.append("f")
        elif value in CURRENCIES:
            letters.append("$")
        else:
            letters.append({"per": "p", "by": "b"}.get(value, value if len(value) == 1 else "?"))
    return "".join(letters)


SUFFIXES = {"%": PERCENT, "°": DEGREE} | {name: UNITS[name] for name in CURRENCIES}


class Parser:
    """Precedence climbing over tokens, to one tree per item of the answer."""

    def __init__(self, tokens):
        self.tokens, self.i, self.depth = tokens, 0, 0
        self.separators = set()

    def op(self, *values):
        """The next token if it is one of these operators, which is then consumed."""
        kind, value = self.tokens[self.i][:2]
        if kind == "op" and value in values:
            self.i += 1
            return value
        return None

    def items(self, *closers):
        """Relations up to a closing token, and that token."""
        out, separators = [self.item()], set()
        while separator := self.op(*SEPARATORS):
            separators.add(separator)
            out.append(self.item())
        self.separators = separators
        if {",", ";"} <= separators:
            raise Refuse("which of the two separates?")
        if closer := self.op(*closers):
            return out, closer
        raise Refuse("syntax")

    def item(self):
        """A relation; quickly where it is a lone value."""
        kind, value = self.tokens[self.i][:2]
        if kind == "val" and self.tokens[self.i + 1][1] in ENDS:
            self.i += 1
            return value
        return self.level(0)

    def infix(self, level):
        """The next operator of a level. Two values side by side are a product, but 5 5 is neither
        25 nor 55.
        """
        kind, value = self.tokens[self.i][:2]
        if kind == "op":
            if INFIX.get(value) == level:
                self.i += 1
                return value
            if value not in ("(", "[", "{"):
                return None
        if level != PRODUCT:
            return None
        after_number = value[0] == "num" and self.tokens[self.i - 1][1] != "!"
        return None if after_number or kind == "scale" else "side by side"

    def level(self, level):
        if level > PRODUCT:
            return self.factor()
        starts, parts, ops = [self.i], [self.level(level + 1)], []
        while o := self.infix(level):
            ops.append(o)
            starts.append(self.i)
            parts.append(self.level(level + 1))
        if not ops:
            return parts[0]
        if level == SUM:
            return self.sum(parts, ops, starts)
        if level == PRODUCT:
            return self.product(parts, ops, starts)
        return (relation, union, ratio)[level](parts, ops, self.tokens[starts[0] : self.i])

    def literals(self, starts):
        """Matches of LITERAL, one for each stretch of tokens; None if one is something else."""
        ends = [s - 1 for s in starts[1:]] + [self.i]
        found = [LITERAL.fullmatch(signature(self.tokens[s:e])) for s, e in zip(starts, ends)]
        return found if all(found) else None

    def dressing(self, m, start):
        """The tokens of a currency before the number; of its scale, percent sign, unit after it."""
        before, after = ([*range(*m.span(group))] for group in ("before", "after"))
        before = [self.tokens[start + k] for k in before]
        after = [self.tokens[start + k] for k in after]
        return [t for t in before if t[1] in CURRENCIES], after

    def digits(self, part, start):
        """A part that must be compared by its digits, as in 0123; else the part."""
        text = self.tokens[start][3]
        return ("id", text) if re.fullmatch(r"0\d+", text) and len(text) != 2 else part

    def sum(self, parts, ops, starts):
        """Joined numbers if every part is one; with other letters (x-2, 10-20x) arithmetic."""
        found = self.literals(starts)
        dressings = [self.dressing(m, s) for m, s in zip(found or [], starts)]
        letters = {tuple(t[3] for t in after if t[1][0] == "var") for _, after in dressings}
        value = arithmetic(parts, ops)
        if "to" in ops and (len(letters) != 1 or len(ops) > 1):
            raise Refuse("to")
        if len(letters) != 1:
            return value
        parts, shared = self.share(parts, dressings)
        parts = [self.digits(p, s) for p, s in zip(parts, starts)]
        if "+" in ops:
            signed = [minus(p) if o == "-" else p for o, p in zip(["+", *ops], parts)]
            return ("join", "+", value, True, *signed)
        marked = letters != {()} or any(m["bracket"] or {*"f^"} & {*m["number"]} for m in found)
        arithmetical = ops[0] == "-" and not shared and (marked or self.spaced(starts))
        return ("join", ops[0], value, arithmetical, *parts)

    def share(self, parts, dressings):
        """10-20 cm is 10 cm to 20 cm; also $10-20. The parts, and whether it was so."""
        dressed = [dressing for dressing in dressings if any(dressing)]
        if len(dressed) != 1 or not any(dressings[0]) and not any(dressings[-1]):
            return parts, False
        factor = self.dress(*dressed[0])
        return [p if any(d) else times(p, factor) for p, d in zip(parts, dressings)], True

    def dress(self, before, after):
        """What a currency, a scale, a percent sign or a unit multiplies a number with."""
        one, end = ("val", ONE, False, "1"), ("op", "end", False, "")
        out = Parser([one, *after, end]).level(PRODUCT)
        for _, value, *_ in before:
            out = expression("*", out, UNITS[value])
        return out

    def spaced(self, starts):
        """Is there a space on both sides of every operator?"""
        return all(self.tokens[s - 1][2] and self.tokens[s][2] for s in starts[1:])

    def product(self, parts, ops, starts):
        """Joined numbers if every factor is one: a size, a factorization."""
        explicit = [k for k, o in enumerate(ops) if o != "side by side"]
        if not explicit:
            return self.side_by_side(parts)
        if any(ops[k] in ("/", "per") for k in explicit):
            return self.quotient(parts, ops, starts)
        groups = [0, *(k + 1 for k in explicit), len(parts)]
        factors = [expression("*", *parts[a:b]) for a, b in zip(groups, groups[1:])]
        value = expression("*", *factors)
        found = self.literals([starts[g] for g in groups[:-1]])
        if not found or any("v" in m[0] or "f" in m[0] for m in found):
            return value
        operators = {ops[k] for k in explicit}
        operator = "by" if "by" in operators else "×" if operators == {"×"} else "*"
        return ("join", operator, value, operator != "by", *factors)

    def quotient(self, parts, ops, starts):
        """Two numbers are a fraction; three joined by slashes a date or something alike."""
        value = arithmetic(parts, ops)
        if len(ops) < 2 or any(o != "/" for o in ops) or not self.literals(starts):
            return value
        parts = [self.digits(p, s) for p, s in zip(parts, starts)]
        return ("join", "/", value, self.spaced(starts), *parts)

    def side_by_side(self, parts):
        """2x, 5 cm, and (10-19) cm, where the unit goes to each of the joined numbers."""
        units = all(leaf[0] == "unit" for p in parts[1:] for leaf in leaves(p) if leaf[0] != "num")
        if parts[0][0] == "join" and units:
            return times(parts[0], expression("*", *parts[1:]))
        if parts[0] == ZERO and len(parts) > 1 and not all(p[0] == "unit" for p in parts[1:]):
            if len(parts) > 2 or parts[1][0] == "var" and parts[1][1].isupper():
                raise Refuse("0AB is a name, no product")
        return expression("*", *parts)

    def factor(self):
        """A signed power. Every recursion of the parser passes here."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refuse("too deep")
        if sign := self.op("-", "+"):
            out = minus(self.factor()) if sign == "-" else self.factor()
        else:
            out = self.atom()
            if self.op("!"):
                out = expression("factorial", out)
            while self.tokens[self.i][0] == "scale":
                out = times(out, self.tokens[self.i][1])
                self.i += 1
            if sign := self.op("%", "°", *CURRENCIES):
                out = times(out, SUFFIXES[sign])
            if self.op("^"):
                out = expression("^", out, self.factor())  # 2^3^2 groups to the right
        self.depth -= 1
        return out

    def atom(self):
        kind, value = self.tokens[self.i][:2]
        self.i += value != "end"
        if kind == "fn":
            return self.function(value)
        if value in CLOSERS:
            return self.bracket(value)
        if value in CURRENCIES:
            return times(self.factor(), UNITS[value])
        if kind in ("op", "scale"):
            raise Refuse("syntax")
        if value[0] == "var" and value[1].rstrip("'") in ("f", "g", "h") and self.op("("):
            # an unknown function at an argument is one more unknown
            return ("var", f"{value[1]}{self.items(')')}")
        return value

    def bracket(self, opener):
        if opener == "\\{" and self.op("\\}"):
            return ("set",)
        items, closer = self.items(*CLOSERS[opener])
        if len(items) == 1 and (opener == "{" or opener + closer in ("()", "[]")):
            return items[0]
        if "{" in opener:
            return ("set", *items)
        if all(x[0] == "seq" for x in items):
            # a matrix, points: brackets matter only around two numbers
            return ("seq", "()", *(("seq", "()", *x[2:]) for x in items))
        return ("seq", opener + closer if len(items) == 2 else "()", *items)

    def function(self, name):
        exponent, index = None, []
        while o := self.op("[") if name == "sqrt" else self.op("^", "_"):
            if o == "^":
                exponent = self.factor()
            else:
                index = self.items("]")[0] if o == "[" else [self.atom()]
        if exponent == MINUS and "arc" + name in CALLS:
            name, exponent = "arc" + name, None
        braced = {"sqrt": 1, "frac": 2, "binom": 2}.get(name)
        args = [self.atom() for _ in range(braced)] if braced else self.arguments()
        try:
            out = CALLS[name](*args, *index)
        except TypeError:
            raise Refuse("number of arguments") from None
        return expression("^", out, exponent) if exponent else out

    def arguments(self):
        r"""(a, b), or \sin 2x: a product without signs, up to the next function or number."""
        if opener := self.op("(", "[", "{"):
            return self.items(CLOSERS[opener][-1], ")")[0]
        out = [self.factor()]
        while self.tokens[self.i][0] in ("val", "unit") and self.tokens[self.i][1][0] != "num":
            out.append(self.factor())
        return [expression("*", *out)]


def arithmetic(parts, ops):
    """A sum of signed terms, a product of factors and divisors, or a difference of sets."""
    if parts[0][0] in ("seq", "set") and set(ops) == {"-"}:
        return union(parts, ["setminus"] * len(ops))
    if "to" in ops:
        return None
    terms = [parts[0]]
    for o, p in zip(ops, parts[1:]):
        if o == "-":
            terms.append(minus(p))
        else:
            terms.append(over(ONE, p) if o in ("/", "per") else p)
    return expression("+" if ops[0] in "+-" else "*", *terms)


def ratio(parts, ops, tokens):
    """2:4 is 1/2; of 2:4:6 the proportions are kept; 0:3 and 1:05 are a score and a time."""
    parts = [plain(p) for p in parts]
    if "mod" in ops:
        value = integers(lambda a, b: a % b, *parts)
        return ("join", "mod", value, True, value, parts[1])
    digits = [t[3] for t in tokens if t[1][0] == "num"]
    if any(re.fullmatch(r"0\d+", d) for d in digits) and len(digits) == len(parts):
        parts = [("id", d) for d in digits]
    if any(p == ZERO or p[0] in STRUCTURES for p in parts):
        return ("join", ":", None, False, *parts)
    value = over(*parts) if len(parts) == 2 else None
    return ("join", ":", value, value is not None, *parts)


# ---------------------------------------------------------------- sets of reals


def place(n: tuple):
    """An end point as an mpmath number."""
    if n[0] == "inf":
        return MP.inf * n[1]
    if n[0] in STRUCTURES or has_letters(n):
        raise Refuse("no real number")
    with MP_LOCK:
        budget = Budget()
        value = evaluate(n, 0, budget)
    if not budget.real:
        raise Refuse("no real number")
    return value


def pieces(n: tuple) -> list | None:
    """(low, is it in, high, is it in) of an interval, of a set of points and intervals."""
    if n[0] == "set":
        out = []
        for x in n[1:]:
            inner = pieces(x) if x[0] in ("set", "seq") else [(plain(x), True, plain(x), True)]
            if inner is None:
                return None
            out += inner
        return out
    if n[0] != "seq" or len(n) != 4 or n[1] not in ("()", "(]", "[)", "[]"):
        return None
    return [(plain(n[2]), n[1][0] == "[", plain(n[3]), n[1][1] == "]")]


def cut_line(ends: list) -> list:
    """The finite ends as (value, tree), in order, each once."""
    if len(ends) > MAX_ENDS:
        raise Refuse("too many ends")
    points = []
    for value, n in sorted(((place(n), n) for n in ends if n[0] != "inf"), key=lambda end: end[0]):
        if not points or abs(value - points[-1][0]) > TINY:
            points.append((value, n))
    return points


def cells(piece: tuple, points: list) -> range:
    """The cells of a piece: 0 is all below the first point, 1 the first point itself, 2 what lies
    between the first and the second, and so on.
    """
    low, low_in, high, high_in = piece
    if low == INF or high == MINUS_INF:
        raise Refuse("an interval that begins at infinity")
    low, high = place(low), place(high)
    first, last = 0, 2 * len(points)
    for k, (value, _) in enumerate(points):
        if abs(low - value) <= TINY:
            first = 2 * k + (1 if low_in else 2)
        if abs(high - value) <= TINY:
            last = 2 * k + (1 if high_in else 0)
    return range(first, last + 1)


def combine(a: list, b: list, keep) -> tuple:
    """The reals x with keep(x in a, x in b), as a tree of intervals and points in order."""
    points = cut_line([n for low, _, high, _ in a + b for n in (low, high)])
    in_a = {c for piece in a for c in cells(piece, points)}
    in_b = {c for piece in b for c in cells(piece, points)}
    runs = []
    for c in range(2 * len(points) + 1):
        if not keep(c in in_a, c in in_b):
            continue
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    out = [interval(first, last, [n for _, n in points]) for first, last in runs]
    return out[0] if len(out) == 1 and out[0][0] == "seq" else ("set", *out)


def interval(first: int, last: int, points: list) -> tuple:
    """The cells first..last as an interval, or as a point."""
    if first == last and first % 2:
        return points[first // 2]
    low = MINUS_INF if first == 0 else points[(first - 1) // 2]
    high = INF if last == 2 * len(points) else points[last // 2]
    return ("seq", "(["[first % 2] + ")]"[last % 2], low, high)


SET_OPERATIONS = {
    "cup": lambda a, b: a or b,
    "cap": lambda a, b: a and b,
    "setminus": lambda a, b: a and not b,
}


def union(parts, ops, tokens=()):
    """Unions, intersections and differences of intervals and sets of points."""
    try:
        out = parts[0]
        for o, p in zip(ops, parts[1:]):
            a, b = pieces(out), pieces(p)
            if a is None or b is None:
                raise Refuse("no set of reals")
            out = combine(a, b, SET_OPERATIONS[o])
        return out
    except Refuse:
        if set(ops) != {"cup"}:
            raise
        if any(p[0] == "var" for p in parts):
            return ("set", ("id", "union"), *parts)  # of sets with names: no list of them
        return ("set", *parts)


# ---------------------------------------------------------------- relations


def is_name(n) -> bool:
    """Can n stand left of '=' as the name of the answer? x, x_1, f(x), AB, (x,y), cos A, a:b."""
    if n[0] == "var" or n in (E, IMAGINARY):
        return True
    if n[0] == "join":
        return n[1] == ":" and all(is_name(x) for x in n[4:])
    if n[0] == "seq":
        return all(is_name(x) for x in n[2:])
    if n[0] == "*":  # AB, AB/CD
        segments = all(leaf == MINUS or str(leaf[1]).isupper() for leaf in leaves(n))
        return segments or all(x[0] == "var" for x in n[1:])
    if n[0] in TRIGONOMETRIC:
        # cos 2x = 1 is an equation for x
        unknown = {("var", c) for c in "xyzt"}
        return is_name(n[1]) or has_letters(n[1]) and not leaves(n[1]) & unknown
    if n[0] == "^":
        return n[2] == TWO and n[1][0] in TRIGONOMETRIC and is_name(n[1])
    if n[0] == "fabs":  # |x| = 5 is an equation too
        return is_name(n[1]) and not leaves(n[1]) & {("var", c) for c in "xyt"}
    return False


def relation(sides, ops, tokens=()):
    """x=5 names a value, x>2 an interval."""
    if set(ops) <= {"=", "~"}:
        return equation(sides, "~" in ops)
    if ops in (["in"], ["!="]) and is_name(sides[0]):
        return ("named", sides[0], sides[1] if ops == ["in"] else ("except", plain(sides[1])))
    sides = [plain(s) for s in sides]
    if len(ops) == 1 and sides[0][0] == "fabs" and sides[0][1][0] == "var" and ops[0] in "<=>=":
        return distance_from_zero(sides[0][1], ops[0], sides[1])
    if ops[0] in (">", ">=") and all(o[0] == ">" for o in ops):
        sides, ops = sides[::-1], [o.replace(">", "<") for o in ops[::-1]]
    if ops in (["<"], ["<="]):
        if is_name(sides[0]):
            sides, ops = [MINUS_INF, *sides], ["<", *ops]
        else:
            sides, ops = [*sides, INF], [*ops, "<"]
    if len(ops) == 2 and set(ops) <= {"<", "<="} and is_name(sides[1]):
        brackets = "(["[ops[0] == "<="] + ")]"[ops[1] == "<="]
        return ("named", sides[1], ("seq", brackets, sides[0], sides[2]))
    raise Refuse("relation")


def distance_from_zero(name, op, limit):
    """|x| < 2 is -2 < x < 2, and |x| > 2 all that is left."""
    if limit[0] != "num" or limit[1] <= 0:
        raise Refuse("relation")
    closed = "=" in op
    inner = ("seq", "[]" if closed == ("<" in op) else "()", minus(limit), limit)
    if "<" in op:
        return ("named", name, inner)
    return ("named", name, combine(pieces(REALS), pieces(inner), SET_OPERATIONS["setminus"]))


def equation(sides, approx):
    """name = value, or lhs - rhs; a = b without a letter must hold, and then its end is the answer,
    as in 2+3=5.
    """
    names = [s for s in sides if is_name(s)]
    values = [s for s in sides if not is_name(s)]
    if approx:
        values = values[:1]  # sqrt2 = 1.41 is no identity: the exact side counts
    elif len(values) > 1:
        values = [plain(v) for v in values]
        if all(equal_values(values[0], v, Budget()) for v in values):
            values = values[-1:]
        elif names or len(sides) > 2 or not has_letters(*sides):
            raise Refuse("does not hold")
    if not names and len(values) > 1:
        return ("zero", expression("+", sides[0], minus(sides[1])))
    value = values[0] if values else names[-1]
    if not values and all(n[0] == "var" and re.fullmatch("[A-J]", n[1]) for n in names[:2]):
        raise Refuse("A = B chooses no letter")
    if value[:2] == ("join", "-") and all(len(str(n[1])) == 1 for n in names):
        value = ("join", "-", value[2], True, *value[4:])  # x=3-1: the equals sign says arithmetic
    return ("named", names[0], value) if names else value


def conditions(items: list, separators: set) -> list:
    """x>2 and x<5, x<1 or x>2, x != 1, 2: one set of reals, if all items speak of one name."""
    names = {x[1] for x in items if x[0] == "named"}
    if len(names) != 1:
        return items
    excluded, rest = [], []
    for x in items:
        if x[0] == "named" and x[2][0] == "except":
            excluded.append(x[2][1])
        elif excluded and x[0] != "named":
            excluded.append(plain(x))
        else:
            rest.append(x)
    if any(x[0] != "named" for x in rest) or len(items) == 1 and not excluded:
        return items
    try:
        regions = [pieces(x[2]) for x in rest]
        if None in regions:
            return items
        whole = pieces(REALS)
        meet = join = pieces(combine(regions[0] if rest else whole, [], lambda a, b: a))
        for region in regions[1:]:
            meet = pieces(combine(meet, region, SET_OPERATIONS["cap"]))
            join = pieces(combine(join, region, SET_OPERATIONS["cup"]))
        region = join if "or" in separators or not meet else meet
        points = [(p, True, p, True) for p in excluded]
        return [("named", names.pop(), combine(region, points, SET_OPERATIONS["setminus"]))]
    except Refuse:
        return items


GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")  # 1,234,567
SIGNS = re.compile(r"\\([pm])[pm](?![A-Za-z])")


# 5(1), 0xFF, AB-123
NO_VALUE = re.compile(r"\s*(?:\d+\(\d+\)|0[xX][\dA-Fa-f]+|[A-Z]{2,}-?\d+)\s*$")
OR = re.compile(r"[\s~,]*(?:;|\bor\b|\\(?:lor|vee)(?![A-Za-z]))[\s~]*")


def solutions(s: str) -> list:
    """x=1, y=2 or x=2, y=1: the parts, if each names several values; else none."""
    if s.count("=") < 4 or not (";" in s or "or" in s or "\\vee" in s):
        return []
    parts = OR.split(s)
    return parts if len(parts) > 1 and all(p.count("=") > 1 for p in parts) else []


@lru_cache(maxsize=1024)
def parse(s: str, thousands: bool = True) -> tuple | None:
    """Tree of a cleaned answer; None if it is not in the grammar: only its text can be compared."""
    if thousands and "," in s and not re.search(r"[(\[]|\\\{", s):  # (1,234) is a pair
        s = GROUPED.sub(lambda m: m[0].replace(",", ""), s)
    if NO_VALUE.match(s):
        return None
    if parts := solutions(s):
        trees = [parse(part) for part in parts]
        return None if None in trees else ("list", *trees)
    try:
        s = rewrite(s, MATH_RULES)
        items, separators = [], set()
        for signs in ("+-", "-+") if SIGNS.search(s) else ("+-",):
            parser = Parser(tokenize(SIGNS.sub(lambda m: signs[m[1] == "m"], s)))
            items += [x for x in parser.items("end")[0] if x not in items]
            separators |= parser.separators
        items = conditions(items, separators)
    except (Refuse, ValueError):  # ValueError: 12_2 has no value
        return None
    if "or" in separators and all(x[0] == "var" for x in items):
        return None  # p or q is a statement
    names = {x[1] for x in items if x[0] == "named"}
    if len(names) < 2 or any(x[0] != "named" for x in items):
        return items[0] if len(items) == 1 else ("list", *items)
    # y=2, x=1 is the point (x,y) = (1,2); x=1, y=2, x=2, y=1 are two of them
    size = len(names)
    points = [items[k : k + size] for k in range(0, len(items), size)]
    if any({x[1] for x in point} != names for point in points):
        return None
    points = [named_point(point) for point in points]
    return points[0] if len(points) == 1 else ("list", *points)


def named_point(items: list) -> tuple:
    """x=1, y=2 as (x,y) = (1,2)."""
    if all(len(x[1][1]) == 1 for x in items):
        items = sorted(items, key=repr)
    return ("named", *(("seq", "()", *column) for column in zip(*(x[1:] for x in items))))


# ---------------------------------------------------------------- values at random points

# mpmath changes the precision of its context inside some functions
MP, MP_LOCK = mpmath.mp.clone(), threading.Lock()
MP.dps = 400
# sums are zero below TINY, refused if a term is beyond 2^+-SCALE
TINY, SCALE = MP.mpf(10) ** -250, 333
LIMITS = dict.fromkeys("sin cos tan cot sec csc sinh cosh tanh".split(), 30)
LIMITS |= {"factorial": 12, "binomial": 12}
UNDEFINED = (Refuse, ArithmeticError, ValueError, TypeError, mpmath.libmp.NoConvergence)
POINTS, INTEGER_POINTS = 6, 16  # so many that (-1)^n is not taken for 1
COUNTERS = set("jkmnpq")  # letters that may stand for whole numbers only


@lru_cache(maxsize=4096)
def point(seed, name, k) -> Fraction:
    """Value of a letter at the k-th point. Seeded by the two answers: repeatable, and nobody can
    aim at the points.
    """
    draw = random.Random(f"{seed} {name} {k}")
    if k >= POINTS:
        return Fraction(draw.randrange(1, 60))
    return Fraction(draw.randrange(10**8, 10**9), 10**9) * (1, 3, -1, -3, 9, 40)[k]


class Budget:
    """What one comparison may spend, its seed, and whether everything was real since this was last
    asked.
    """

    def __init__(self, seed="", forgive_units=True):
        self.left, self.seed, self.real = BUDGET, ascii(seed), True
        self.forgive_units = forgive_units

    def spend(self, cost):
        self.left -= cost
        if self.left < 0:
            raise Refuse("budget")


def constant(name):
    if name == "i":
        return MP.mpc(0, 1)
    return {"pi": +MP.pi, "e": +MP.e, "deg": MP.pi / 180}[name]


def evaluate(n, k, budget):
    """Value at the k-th point. Products of powers keep their relative precision at any size; sums
    and functions do not.
    """
    op = n[0]
    if op == "const":
        return constant(n[1])
    if op in ("num", "var", "unit"):
        v = n[1] if op == "num" else point(budget.seed, n[1], k)
        if op == "unit":
            v *= n[2]
        if bits(v) > SCALE:
            raise Refuse("long number in an inexact expression")
        return MP.mpf(v.numerator) / v.denominator
    if op in STRUCTURES or op == "join":
        raise Refuse("no value")
    args = [evaluate(x, k, budget) for x in n[1:]]
    budget.spend(200 if op in ("factorial", "binomial") else 2)
    if op == "*":
        out = MP.fprod(args)
    else:
        out = raised(*args) if op == "^" else scaled(op, args)
    if isinstance(out, MP.mpc):
        out = MP.chop(out, TINY)  # no imaginary part left by rounding
        budget.real = budget.real and not isinstance(out, MP.mpc)
    return out


def raised(base, exponent):
    if base == 0 and MP.re(exponent) <= 0:
        raise Refuse("division by zero")
    if base and abs(MP.log(base) * exponent) > 10**12:
        raise Refuse("too large")
    return base**exponent


def scaled(op, args):
    """A sum or a function."""
    limit = LIMITS.get(op, SCALE)
    if any(x and (MP.mag(x) > limit or MP.mag(x) < -SCALE) for x in args):
        raise Refuse("too large or too small")
    near = MP.nint(MP.re(args[0]))
    if op in ("floor", "ceil") and abs(args[0] - near) < TINY:
        return near
    if op == "+":
        out = MP.fsum(args)
    elif op in ("max", "min"):
        out = max(args) if op == "max" else min(args)
    else:
        out = getattr(MP, op)(*args)
    return out if abs(out) > TINY else MP.zero


def agree_at(a, b, k, budget) -> bool | None:
    """Do a and b agree at the k-th point? None if that does not count: with letters only points
    where everything is real do, unless i occurs: sqrt(x)sqrt(y) is sqrt(xy).
    """
    budget.spend(1)
    budget.real = True
    try:
        with MP_LOCK:
            x, y = evaluate(a, k, budget), evaluate(b, k, budget)
            close = abs(x - y) <= MP.mpf(10) ** -150 * max(abs(x), abs(y)) and MP.isfinite(x)
    except UNDEFINED:
        return None
    if budget.real or not has_letters(a, b) or IMAGINARY in leaves(a) | leaves(b):
        return bool(close)
    return None


def equal_values(a, b, budget) -> bool:
    """Are two expressions the same function of their letters?"""
    if a == b or a[0] in STRUCTURES or b[0] in STRUCTURES or a[0] == b[0] == "num":
        return a == b
    if not has_letters(a, b):
        return agree_at(a, b, 0, budget) is True
    seen = False
    for k in range(POINTS):
        verdict = agree_at(a, b, k, budget)
        if verdict is False:
            return False
        seen = seen or verdict is True
    names = {leaf[1] for leaf in leaves(a) | leaves(b) if leaf[0] == "var"}
    if seen or not names <= COUNTERS:
        return seen
    # (-1)^n is real at whole numbers only
    return all(agree_at(a, b, POINTS + k, budget) is True for k in range(INTEGER_POINTS))


# ---------------------------------------------------------------- equality of answers


def without_units(n) -> tuple:
    """n without its units. 5 cm^2 and 60 km/h are looked into, sums and functions are not."""
    if n[0] == "unit" or n[0] == "^" and n[1][0] == "unit":
        return ONE
    return expression("*", *map(without_units, n[1:])) if n[0] == "*" else n


def primed(n) -> tuple:
    """n with other letters: equal to n only if n is constant."""
    if n[0] == "var":
        return ("var", n[1] + "'")
    return (n[0], *(primed(x) if isinstance(x, tuple) else x for x in n[1:]))


def by_name(n) -> tuple:
    """sin A = 0.6, cos A = 0.8 in the order of the names."""
    if n[0] != "named" or n[1][0] != "seq" or n[2][0] != "seq" or len(n[1]) != len(n[2]):
        return n
    columns = sorted(zip(n[1][2:], n[2][2:]), key=repr)
    return ("named", *((*side[:2], *column) for side, column in zip(n[1:], zip(*columns))))


def out_of_order(n) -> bool:
    """(y, x) = ...: against a bare pair nobody knows which is which."""
    if n[0] != "named" or n[1][0] != "seq":
        return False
    names = [x[1] for x in n[1][2:] if x[0] == "var"]
    alike = {*names} <= {*"xyz"} or {*names} <= {*"abcd"}
    return alike and names != sorted(names)


def same_equation(a, b, budget) -> bool:
    """Equal names and values, or one line: the quotient of the differences is a constant."""
    a, b = by_name(a), by_name(b)
    if a[0] == b[0] == "named" and same(a[1], b[1], budget):
        return same(a[2], b[2], budget)
    if any(n[0] == "named" and (n[2][0] == "join" or not has_letters(n[2])) for n in (a, b)):
        return False  # an unsolved 2x=10 is not x=5
    sides = [n[1] if n[0] == "zero" else expression("+", n[1], minus(n[2])) for n in (a, b)]
    quotient = over(*sides)
    if not equal_values(quotient, primed(quotient), budget):
        return False
    return not equal_values(quotient, ZERO, budget)


def unordered(xs, ys, budget) -> bool:
    ys = list(ys)
    for x in xs:
        hit = x if x in ys else next((y for y in ys if same(x, y, budget)), None)
        if hit is None:
            return False
        ys.remove(hit)
    return not ys


def ordered(xs, ys, budget) -> bool:
    return len(xs) == len(ys) and all(same(x, y, budget) for x, y in zip(xs, ys))


def whole_years(parts: tuple) -> tuple:
    """2018-19 is 2018-2019."""
    if len(parts) != 2 or any(p[0] != "num" or p[1].denominator > 1 for p in parts):
        return parts
    first, second = parts[0][1], parts[1][1]
    if 1500 <= first <= 2100 and first % 100 < second < 100:
        return (parts[0], ("num", first - first % 100 + second))
    return parts


def proportional(xs, ys, budget) -> bool:
    """2:4:6 and 1:2:3; with a zero, as digits or as times (1:23.45) part by part."""
    times_of_race = all(
        len(n) == 2 and n[1][0] == "num" and n[1][1].denominator > 1 and 10 <= n[1][1] < 60
        for n in (xs, ys)
    )
    signed = any(p[0] == "num" and p[1] < 0 for p in xs + ys)
    if times_of_race or signed or any(p == ZERO or p[0] in STRUCTURES for p in xs + ys):
        return ordered(xs, ys, budget)
    return ordered([over(x, xs[-1]) for x in xs], [over(y, ys[-1]) for y in ys], budget)


def same_join(a, b, budget) -> bool:
    """Numbers joined by an operator: part by part, never by what they come to."""
    if a[0] != "join":
        a, b = b, a
    if b[0] != "join":
        return a[3] and same(a[2], b, budget)
    xs, ys = a[4:], b[4:]
    operators = {a[1], b[1]}
    if len(xs) != len(ys):
        return False
    if operators == {":"} or operators == {":", "to"}:
        return proportional(xs, ys, budget)
    if operators <= {"-", "to"} or operators == {"-", "/"} and len(xs) == 3:
        return ordered(whole_years(xs), whole_years(ys), budget)
    if operators <= {"×", "*", "by"} and (len(xs) > 2 or operators == {"*"}) or operators == {"+"}:
        return unordered(xs, ys, budget)
    if len(operators) == 1 or operators <= {"×", "*", "by"}:
        return ordered(xs, ys, budget)
    return False


def same_set(xs, ys, budget) -> bool:
    """Is each in the other? Duplicates do not count."""
    for some, others in ((xs, ys), (ys, xs)):
        if not all(any(same(x, y, budget) for y in others) for x in some):
            return False
    return True


def bases(n) -> set:
    """The base units in a tree."""
    return {leaf[1] for leaf in leaves(n) if leaf[0] == "unit"}


def base_units(n) -> tuple:
    """n with litres, joules, hectares, km/h as products of metres, grams, seconds."""
    if n[0] == "unit" and n[1] in DERIVED:
        return expression("*", ("num", n[2]), DERIVED[n[1]])
    if n[0] in ("num", "var", "const", "unit"):
        return n
    return expression(n[0], *map(base_units, n[1:]))


def same_expression(a, b, budget) -> bool:
    """Equal values; a unit on one side only is forgiven."""
    some = bases(a)
    others = some and bases(b)
    if others and some != others:
        if not (some | others) & DERIVED.keys():
            return False
        a, b = base_units(a), base_units(b)
        return equal_values(a, b, budget)
    x, y = without_units(a), without_units(b)
    if budget.forgive_units and (x == a) != (y == b) and equal_values(x, y, budget):
        return True
    return equal_values(a, b, budget)


def same(a, b, budget) -> bool:
    """Are two parsed answers equal? Symmetric."""
    budget.spend(1)
    kinds = {a[0], b[0]}
    if a == b or kinds <= {"named", "zero"}:
        return a == b or same_equation(a, b, budget)
    if "named" in kinds:
        if any(out_of_order(n) for n in (a, b)):
            return False
        return same(*(n[2] if n[0] == "named" else n for n in (a, b)), budget)
    if "set" in kinds:
        return same_set(*(n[1:] if n[0] in ("set", "list") else (n,) for n in (a, b)), budget)
    if kinds == {"list"}:
        return unordered(a[1:], b[1:], budget)
    if kinds <= {"list", "seq"}:
        if any(n[0] == "list" and n[1][0] == "named" for n in (a, b)):
            return False  # x=1 or x=2 is no pair
        a, b = (("seq", "()", *n[1:]) if n[0] == "list" else n for n in (a, b))
        return a[1] == b[1] and ordered(a[2:], b[2:], budget)
    if "join" in kinds:
        return same_join(a, b, budget)
    if kinds == {"except"}:
        return same(a[1], b[1], budget)
    return not kinds & STRUCTURES and same_expression(a, b, budget)


# ---------------------------------------------------------------- habits of answering

OPTIONS_TEXT = re.compile(r"[A-Za-z\s~()\[\]{}\\,;&'\"`.]{1,80}")
OPTION = r"\b[A-Z]\s*[.):]|\([A-Z]\)|\b(?:or|not|and)\b|(?:^|[,;/&|])\s*[A-Z]\b"
# B) 12, (B)12, ~B~. 12
LABEL = re.compile(
    rf"[\s~]*(?:\(?([A-Z])[\s~]*[.):][\s~]+|\(([A-Z])\)[\s~]*)(?!.*(?:{OPTION}))([^\s,;].*)", re.S
)
HAN_WORDS = re.compile(rf"[\s~]*[{HAN}]+(?:\s*,\s*[{HAN}]+)+[\s~]*")
WORDS_TEXT = re.compile(r"[A-Za-z' .,~(){}-]+")
# on is not no, but ab is ba
PRODUCT_WORD = re.compile(r"[abc]+|[xyzt]+|[mnpqk]+|[uvw]+|[rst]+|pi|inf|infinity|[a-z]-[a-z]")
MONTH = (
    r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
    r"(?:(?<=jan|feb)r?uary|(?<=mar)ch|(?<=apr)il|(?<=jun)e|(?<=jul)y|(?<=aug)ust"
    r"|(?<=sep)t(?:ember)?|(?<=oct)ober|(?<=nov|dec)ember)?\.?"
)
DATES = (
    re.compile(rf"{MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?"),
    re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {MONTH}(?:,? (\d{{4}}))?"),
    re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"),
)
INTEGER_LETTER = re.compile(
    r"[\s~]*(?:[,;(:|]|\\mid)?[\s~]*(?:where|for|with)?[\s~]*(?:(?:any|all|every|some|an)[\s~]+)?"
    r"(?:integers?[\s~]+([a-z])|(?:integers?[\s~]+)?([a-z])[\s~]*"
    r"(?:\\in(?![a-z])[\s~]*(?:(?:\\(?:mathbb|mathbf)\s*)?\{?\s*(Z|N)\s*\}?|integers?)"
    r"|(?:is|are)[\s~]+(?:an?[\s~]+|any[\s~]+)?integers?))[\s~)]*(\\\}[\s~]*)?$"
)
COUNTER = r"(?<![A-Za-z\\])%s(?![A-Za-z])"


def options(s: str) -> set:
    """The letters of a multiple choice: B, (B), "A, C", "A and C", AC, ['A', 'C']. "A or C" keeps
    its "or": a hedge is no selection. Only A to J may be written small.
    """
    if not OPTIONS_TEXT.fullmatch(s):
        return set()
    s = re.sub(r"([\"'`])(\w*)\1|\\(?=[{}])", r"\2", s.replace("~", " ")).strip()
    small = "a-j" if "," not in s or s[0] not in "([{" else ""
    s = re.sub(rf"[(\[]\s*([A-Z{small}])\s*[)\]]|\b([A-Z{small}])\)", r"\1\2", s)
    s = re.sub(r"^(?:both|only)\s|\sonly$", "", s.strip("(){} "))
    s = re.sub(r"^\[(.*)\]$", r"\1", s).strip()
    if len(s) > 1 and re.fullmatch(r"A?B?C?D?E?F?G?H?", s):
        return set(s)
    if re.fullmatch(r"[A-Z](?: [A-Z])+", s):
        return set(s) - {" "}
    parts = [p for p in re.split(r"\s*(?:,|;|\\?&|\band\b|\b(or)\b)\s*", s) if p]
    if all(re.fullmatch(f"[A-Z{small}]|or", p) for p in parts):
        return {p.upper() for p in parts}
    return set()


CLOCK_WORDS = {"noon": "pm", "midnight": "am"}


def spoken_clock(m: re.Match) -> str:
    """half past three, quarter to 4."""
    hour = int(m[3]) if m[3].isdigit() else ONES.get(m[3], 0)
    if not 0 < hour < 13 or m[1] == "half" and m[2] == "to":
        return m[0]
    if m[2] == "to":
        return f"{hour - 1 or 12}:45"
    return f"{hour}:{30 if m[1] == 'half' else 15}"


CIRCLED = re.compile(r"(?:[①-⑳][\s,~]*(?:and)?[\s~]*)+")


def circled(s: str) -> set:
    """The statements that ①③ names."""
    return {*re.findall("[①-⑳]", s)} if not s.isascii() and CIRCLED.fullmatch(s) else set()


def clock(s: str) -> tuple | None:
    """(hour, minutes and seconds, is the half of the day known) of a clock time."""
    if ":" not in s and not re.search("(?i)m|clock|noon|past|quarter", s):
        return None
    s = re.sub(r"^[\s~]*(half|quarter) (past|to) (\w+)[\s~]*$", spoken_clock, s.lower())
    s = re.sub(r"^[\s~]*(?:12 )?(noon|midnight)[\s~]*$", lambda m: f"12:00{CLOCK_WORDS[m[1]]}", s)
    s = re.sub(r"[\s.~(){}\[\]\\]|^0", "", s.lower().replace("o'clock", ":00"))
    m = re.fullmatch(r"(1?\d|2[0-4])((?::[0-5]\d){0,2})(?:([ap])m)?", s)
    if not m or not (m[2] or m[3]):
        return None
    hour = int(m[1]) % 12 + 12 * (m[3] == "p") if m[3] else int(m[1])
    return hour, m[2].replace(":00", ""), bool(m[3]) or int(m[1]) > 12


def same_clock(a: tuple, b: tuple) -> bool:
    day = 24 if a[2] and b[2] else 12
    return (a[0] - b[0]) % day == 0 and a[1] == b[1]


def date(s: str) -> tuple | None:
    """(year or None, month, day) of July 4, 2020, of 4 July or of 2020-07-04."""
    s = s.replace("~", " ").strip().lower()
    for form, order in zip(DATES, ((3, 1, 2), (3, 2, 1), (1, 2, 3))):
        if m := form.fullmatch(s):
            year, month, day = (m[k] for k in order)
            month = MONTHS.index(month) + 1 if month in MONTHS else int(month)
            return year, month, int(day)
    return None


def words(s: str) -> list:
    """The words of "red, blue and green", sorted, or the one word; else none."""
    if not s.isascii() and HAN_WORDS.fullmatch(s):
        return sorted(re.split(r"\s*,\s*", s.replace("~", " ").strip()))
    if not WORDS_TEXT.fullmatch(s):
        return []
    parts = re.split(r"\s*,\s*(?:(?i:and)\s+)?|\s+(?i:and)\s+", s.replace("~", " ").strip("(){} "))
    parts = [" ".join(map(without_case, w.split())) for w in parts]
    if any(
        not re.fullmatch(r"[A-Za-z][A-Za-z' .-]+", w) or PRODUCT_WORD.fullmatch(w.lower())
        for w in parts
    ):
        return []
    return sorted(parts)


def same_labelled(label: re.Match, other: str) -> bool:
    return options(other) == {label[1] or label[2]} or cleaned_equal(label[3], other)


def same_labels(a: str, b: str) -> bool | None:
    """B) 12 and B, B) 12 and 12, but not B) 12 and C) 12; None if no label decides."""
    label_a, label_b = LABEL.fullmatch(a), LABEL.fullmatch(b)
    if label_a and label_b:
        letters = [m[1] or m[2] for m in (label_a, label_b)]
        return letters[0] == letters[1] and cleaned_equal(label_a[3], label_b[3])
    if label_a and same_labelled(label_a, b) or label_b and same_labelled(label_b, a):
        return True
    return None


READINGS = ((clock, same_clock), (date, eq), (words, eq), (circled, eq))


def by_habit(a: str, b: str) -> bool | None:
    """True or False where a habit decides, else None."""
    options_a, options_b = options(a), options(b)
    in_order = a[:1] == b[:1] == "(" and len(options_a) > 1
    if options_a and options_b and not in_order or "OR" in options_a | options_b:
        return options_a == options_b
    if (verdict := same_labels(a, b)) is not None:
        return verdict
    for reading, equal in READINGS:
        if (x := reading(a)) and (y := reading(b)):
            return equal(x, y)
    return None


def without_range(s: str) -> tuple:
    r"""\pi/4 + k\pi, k \in \mathbb{Z} without saying where the letter runs, the letter, Z or N."""
    m = INTEGER_LETTER.search(s)
    if not m:
        return s, None, None
    s = s[: m.start()]
    return s.removeprefix("\\{") if m[4] else s, m[1] or m[2], m[3] or "Z"


def same_families(a: str, b: str) -> tuple | None:
    """Two families over the integers without their ranges, the letter of b named as in a, and that
    letter where it surely runs over all integers on both sides; None if the ranges differ.
    """
    named = [re.match(UNKNOWN, s) is not None for s in (a, b)]
    a, letter_a, range_a = without_range(a)
    b, letter_b, range_b = without_range(b)
    if range_a and range_b and range_a != range_b:
        return None
    if not letter_a and not letter_b:
        return a, b, None
    sure = "Z" in (range_a, range_b) and (range_a or named[0]) and (range_b or named[1])
    counters = [{c for c in COUNTERS if re.search(COUNTER % c, s)} for s in (a, b)]
    if not letter_a and len(counters[0]) == 1:
        (letter_a,) = counters[0]
    if not letter_b and len(counters[1]) == 1:
        (letter_b,) = counters[1]
    if letter_a and letter_b and not re.search(COUNTER % letter_a, b):
        b = re.sub(COUNTER % letter_b, letter_a, b)
    return a, b, letter_a if sure else None


UNKNOWN = r"[\s~]*(?:[xyt\u03b1]|\\(?:theta|alpha|phi))\s*="
MOST_CLASSES = 60


def put(n, name, value) -> tuple:
    """n with a number in place of a letter."""
    if n == ("var", name):
        return value
    if n[0] in ("num", "var", "unit", "const"):
        return n
    return expression(n[0], *(put(x, name, value) for x in n[1:]))


def progressions(n, letter: str) -> list | None:
    """(start, step) of each item start + step * letter of a family, as mpmath numbers."""
    out = []
    for item in n[1:] if n[0] == "list" else (n,):
        item = plain(item[2] if item[0] == "named" else item)
        first, second, third = (place(put(item, letter, v)) for v in (ZERO, ONE, TWO))
        step = second - first
        if abs(third - second - step) > TINY or abs(step) <= TINY:
            return None
        out.append((first, abs(step)))
    return out


def fraction_of(x) -> Fraction:
    """A number with a small denominator. Raises Refuse."""
    for q in range(1, 25):
        if abs(x * q - MP.nint(x * q)) < TINY:
            return Fraction(int(MP.nint(x * q)), q)
    raise Refuse("steps without a common multiple")


def classes(family: list, unit, steps: list, whole: Fraction) -> list:
    """The members of a family from 0 up to `whole`, in units of one step."""
    out = []
    for (start, _), step in zip(family, steps):
        for k in range(int(whole / step)):
            shift = k * step
            x = start / unit + MP.mpf(shift.numerator) / shift.denominator
            size = MP.mpf(whole.numerator) / whole.denominator
            x -= size * MP.floor(x / size)
            out.append(MP.zero if abs(x - size) < TINY else x)
    return out


def shifted_families(a: str, b: str, letter: str) -> bool:
    r"""\pi/4 + k\pi and 5\pi/4 + k\pi, k any integer: the same numbers in all."""
    trees = parse(a), parse(b)
    names = [{x[1] for x in (n[1:] if n[0] == "list" else (n,)) if x[0] == "named"}
             for n in trees if n]  # fmt: skip
    if None in trees or names[0] and names[1] and names[0] != names[1]:
        return False
    try:
        families = [progressions(n, letter) for n in trees]
        if None in families:
            return False
        unit = families[0][0][1]
        steps = [[fraction_of(step / unit) for _, step in f] for f in families]
        every = [x for some in steps for x in some]
        parts = math.lcm(*(x.denominator for x in every))
        whole = Fraction(math.lcm(*(int(x * parts) for x in every)), parts)
        if sum(whole / x for x in every) > MOST_CLASSES:
            return False
        one, other = (classes(f, unit, s, whole) for f, s in zip(families, steps))
    except Refuse:
        return False
    far = MP.mpf(10) ** -150
    return all(
        any(abs(x - y) < far for y in ys) for xs, ys in ((one, other), (other, one)) for x in xs
    )


# ---------------------------------------------------------------- the verdict

NUMERAL = re.compile(r"-?\d+(?:/\d+)?")  # the text form of a plain number
SIMPLE = re.compile(r"-?(?:0|[1-9]\d{0,15})(\.\d{1,15})?|[A-Za-z]")


def simple_verdict(a: str, b: str) -> bool | None:
    """The verdict on two plain numbers or single letters, without any parsing; None for others."""
    form_a, form_b = SIMPLE.fullmatch(a), SIMPLE.fullmatch(b)
    if not form_a or not form_b:
        return None
    if a == b:
        return True
    if a.isalpha() or b.isalpha():
        return a.upper() == b.upper() and a.upper() in "ABCDEFGHIJ"
    if form_a[1] or form_b[1]:
        return Fraction(a) == Fraction(b)
    return a == b or {a, b} == {"0", "-0"}


def answers_equal(a: str, b: str) -> bool:
    """Are two answers equal as mathematics, or failing that as text? Symmetric; empty equals
    nothing; never raises.
    """
    verdict = simple_verdict(a, b)
    return cleaned_equal(clean(a), clean(b)) if verdict is None else verdict


def cleaned_equal(a: str, b: str, forgive_units: bool = True) -> bool:
    """The same of texts that went through clean. forgive_units: may a unit be on one side only?"""
    text_a, text_b = text_form(a), text_form(b)
    if not text_a or not text_b or text_a == text_b:
        return text_a == text_b != ""
    if max(len(a), len(b)) > MAX_CHARS:
        return False
    if NUMERAL.fullmatch(text_a) and NUMERAL.fullmatch(text_b):
        return False
    if (verdict := by_habit(a, b)) is not None:
        return verdict
    if "in" in a or "in" in b:
        families = same_families(a, b)
        if families is None:
            return False
        a, b, letter = families
        if letter and shifted_families(a, b, letter):
            return True
    return equal_trees(a, b, forgive_units)


DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d+),(\d+)(?![\d,.])")


def with_decimal_point(s: str) -> str | None:
    """0,75 and 1,5 cm and 1.234,56 and (0,5; 1) with points; None where a comma may list items."""
    if ";" in s:
        new = re.sub(
            r"[(\[][^()\[\]]*;[^()\[\]]*[)\]]", lambda m: DECIMAL_COMMA.sub(r"\1.\2", m[0]), s
        )
        return new if new != s else None
    if re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{3})+,\d+", s):
        return s.replace(".", "").replace(",", ".")
    m = DECIMAL_COMMA.search(s)
    if not m or s.count(",") > 1 or re.search(r"[(\[=]|\\\{", s) or not m[2].strip("0"):
        return None
    dressed = re.fullmatch(r"\s*(?:\\?%|~.*)", s[m.end() :]) and len(m[2]) != 3
    sure = m[1] == "0" or m.start() <= 1 and dressed
    return DECIMAL_COMMA.sub(r"\1.\2", s) if sure else None


def equal_trees(a: str, b: str, forgive_units: bool) -> bool:
    budget = Budget(sorted((a, b)), forgive_units)
    readings = [(parse(a), parse(b))]
    for x, y in ((a, b), (b, a)) if "," in a or "," in b else ():
        if "," in x and not DECIMAL_COMMA.search(y) and (pointed := with_decimal_point(x)):
            readings.append((parse(pointed), parse(y)))
    if "," in a and "," in b and (parse(a, False) == parse(a)) != (parse(b, False) == parse(b)):
        # 100,200 is a list if the other side can be nothing else
        readings.append((parse(a, False), parse(b, False)))
    try:
        return any(x is not None and y is not None and same(x, y, budget) for x, y in readings)
    except Refuse:
        return False
