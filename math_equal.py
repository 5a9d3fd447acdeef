r"""Are two LaTeX answers equal? Imports nothing of this project, only mpmath: copy the file and use it.

    from math_equal import answers_equal
    answers_equal(r"\frac12", "0.5")       # True
    answers_equal("(0,1)", "[0,1]")        # False

How "mathematically" is done here. Model text is hostile input: it never reaches sympify, eval or a
LaTeX library (those run shell commands and hang), and every step has a cap instead of a time limit.
Two answers are equal if
  1. they are the same text, once characters, spacing and wrappers have one spelling (clean,
     text_form), or
  2. they parse to the same tree: lists, sets, intervals, equations of expressions (parse, same),
     where two expressions are the same if they agree at random points, to 150 digits out of 400
     (equal_values), or
  3. a habit of answering says so: option letters, clock times, lists of words (by_habit).
What the grammar does not know (sums, integrals, sentences, code) has only the first way.

Choices, each one a place where graders differ:
  * `1,2` without brackets is a list of solutions: order-free, equal to \{1,2\}. (1,2) is ordered;
    (0,1) and [0,1] differ.
  * `1,234` is a number, `12,34` a list, `100,200` equals `100, 200` only where the other side is
    clearly a list.
  * A unit (or currency, am/pm) on one side only is forgiven; on both sides it must agree, with 100
    cm = 1 m.
  * 50% equals 0.5 by value and 50 by the paper's second pass; 50 is not 0.5.
  * `x=5` equals `5`, not `y=5`; an unsolved `2x=10` is not `x=5`; the exact side of `\sqrt2 \approx
    1.41` counts.
  * Option letters ignore case, other letters do not. "A or B" is a hedge. log without a base is
    base 10.
Known limits: free-form answers are the judge's business; a bare list cannot ask for an order;
irrational sums with terms beyond 10^100 are refused, which means not equal unless spelled alike.
"""

import math
import random
import re
import threading
import unicodedata
from fractions import Fraction
from functools import lru_cache, partial

import mpmath

# longer answers are compared as they are; golds have at most 512; int(str) raises beyond 4300
# digits
MAX_CHARS = 2000
MAX_DEPTH = 30  # nesting in the parser, about ten Python frames each
MAX_BITS = 10_000  # an exact power never gets longer, it stays symbolic
BUDGET = 20_000  # units of work for one comparison, about 0.3 s


class Refuse(Exception):
    """Not in the grammar, undefined (0/0), or over a cap: what is left is to compare text."""


# ---------------------------------------------------------------- text: one spelling for the same c


def rules(*pairs) -> list:
    """Compiled (pattern, replacement). A replacement by function is much faster than a template
    where nothing matches.
    """
    return [
        (re.compile(old, re.S), new if callable(new) else lambda m, new=new: m.expand(new))
        for old, new in pairs
    ]


def rewrite(s: str, table: list) -> str:
    for pattern, new in table:
        s = pattern.sub(new, s)
    return s


CHARS = {
    ord(pair[0]): pair[1:] + " " * (pair[1] == "\\")
    for pair in r"""−- –- ‐- ‑- ‒- ﹣- ×\times ⋅\cdot ·\cdot ∙\cdot ÷/
 ∕/ ⁄/ ∞\infty √\sqrt °^\circ º^\circ ≤\le ⩽\le ≥\ge ⩾\ge ≠\ne ≈\approx ±\pm ∓\mp ∪\cup ∩\cap ∅\emptyset ∈\in ℝ\mathbb{R}
 ∧\land ∨\lor ∖\setminus ′' ’' ‘' “" ”" ，, 、, ；; ：: ⟨\langle ⟩\rangle ∠\angle ⌊\lfloor ⌋\rfloor ⌈\lceil ⌉\rceil""".split()
}
RAISED = re.compile(
    "(?<=[\\wͰ-Ͽ)}\\]'|])(?<![⁰-⁹⁺⁻ⁿ¹²³₀-₉])(?:([⁰-⁹⁺⁻ⁿ¹²³]+)|[₀-₉]+)"
)  # x² but not a lone ²
STYLE = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|emph|math(?:rm|bf|it|sf|tt)|operatorname\*?|[mh]box|boldsymbol|bm|pmb|boxed"
    r"|underline)\s*"
)
WRAPPER = (
    STYLE + r"\{([^{}]*)\}",
    r"~\1~",
)  # ~ stays where text begins and ends: a letter alone there may be a unit
DEGREE_SIGN = r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\(?:text)?degree(?![A-Za-z])|°|º|(?i:\bdeg(?:ree)?s?\b)"
TEXT_RULES = rules(  # in this order
    (
        r"(?<!\\)\$((?:\\\$|[^$])*)(?<!\\)\$|(?<!\\)\\[()\[\]]",
        r"\1",
    ),  # math delimiters; a lone $ is a currency
    (r"\\\$", "$"),
    (r"\\(?:left|right|middle)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
    (r"\\(?:(?:display|text|script)style|rm|bf|it|limits|nolimits)(?![A-Za-z])", ""),
    (r"\\(?:color|phantom|label|textcolor)\s*\{[^{}]*\}", ""),
    (r"\\[dtc](frac|binom)(?![A-Za-z])", r"\\\1"),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"),  # a segment
    (r"(?<=\d)(?:\\[, !:;]|~|\{,\})+(?=\d{3}(?!\d))", ""),  # 1\,234 and 1{,}234
    (r"(?<!\\)\\[,;:! >]|\\q?quad(?![A-Za-z])|~|\\[hv]s(?:pace|kip)\*?\{[^{}]*\}", " "),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*(?=[{\\A-Za-z])", r"\\frac{\1}"),
    WRAPPER,
    WRAPPER,
    WRAPPER,
    (STYLE + r"(?=\{)", ""),  # they nest
    (DEGREE_SIGN, "°"),
    (r"\s*°[\s~]*([CF])(?:elsius|ahrenheit)?\b", r" ~deg\1~"),
    (r"^[*`_]{1,3}(?=[^*`_\s])(.*[^*`_\s])[*`_]{1,3}$", r"\1"),  # markdown
    (r"\s+", " "),
    (r"(?:\\\\|[.,;\s])+(~?)$", r"\1"),  # trailing full stop
    (
        r"(?i)^[\s~]*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*(?=[^\s:=])",
        "",
    ),
    (r"^[-+]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?$", lambda m: m[0].replace(" ", "")),
)
NUMBER = re.compile(
    r"([-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d*)?)(?:\s*/\s*([-+]?0*[1-9]\d*))?"
)
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def ascii_char(c: str) -> str:
    """One character as LaTeX would spell it; look-alikes of other alphabets stay what they are."""
    kind, name, plain = (
        unicodedata.category(c),
        unicodedata.name(c, ""),
        unicodedata.normalize("NFKC", c),
    )
    if " " <= c <= "~" or kind == "Nd":
        return c if c <= "~" else str(unicodedata.decimal(c))
    if kind[0] == "Z" or c in "\t\n\r":
        return "\\," if c in "\u00a0\u2009\u202f" else " "
    if (
        kind in ("Cc", "Cf") or "\ufe00" <= c <= "\ufe0f"
    ):  # NUL, zero-width space, byte order mark, variation selectors
        return ""
    if kind == "No" and "\u2044" in plain:  # vulgar fractions
        return r"\frac{%s}{%s}" % tuple(plain.split("\u2044"))
    if name.startswith(("GREEK SMALL", "GREEK CAPITAL", "MICRO")):
        letter = name.split()[-1].replace("SIGN", "MU").replace("LAMDA", "LAMBDA")
        return "\\%s " % (letter.capitalize() if kind == "Lu" else letter.lower())
    return (
        "".join(map(ascii_char, plain))
        if plain != c and name.startswith(("FULLWIDTH", "MATHEMATICAL"))
        else c
    )


def clean(s: str) -> str:
    """One spelling for characters, spacing, sizing and wrappers. Long answers only get their spaces
    collapsed.
    """
    s = s.replace("\x0crac", r"\frac").strip()  # a \frac damaged by JSON: MathVision ships one
    if len(s) <= MAX_CHARS and not (s.isascii() and s.isprintable()):
        s = RAISED.sub(
            lambda m: "^_"[not m[1]] + "{" + unicodedata.normalize("NFKC", m[0]) + "}", s
        )
        s = "".join(map(ascii_char, s.translate(CHARS))).strip()
    if len(s) > MAX_CHARS:
        return " ".join(s.split())
    return rewrite(s, TEXT_RULES).strip()


def plain_number(s: str) -> Fraction | None:
    r"""The fast path: integers, decimals, a/b and \frac{a}{b} of integers."""
    m = NUMBER.fullmatch(re.sub(r"^([-+]?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", s))
    return Fraction(m[1].replace(",", "")) / int(m[2] or 1) if m else None


def text_form(s: str) -> str:
    """A cleaned answer as text: numbers reduced, words without case, one space between tokens, no
    braces around one.
    """
    if len(s) > MAX_CHARS:
        return s
    s = re.sub(r"^[(\[]\s*([A-Za-z])\s*[)\]]$", r"\1", s.replace("~", " ").strip())
    if (value := plain_number(s)) is not None:
        return str(value)
    s = re.sub(r"^([\"'])(.*)\1$", r"\2", s)
    s = re.sub(r"(?<=[A-Za-z)])\s*_\s*(?=[\w{])", "", s)  # CO_2 and CO2
    s = re.sub(r"(?<!\\)\{\s*(\w+|[^\s\\{}])\s*\}", r" \1 ", s)
    tokens = re.findall(r"\\[A-Za-z]+|[A-Za-z]+|\d+|\S", s.rstrip(". "))
    s = " ".join(t.lower() if len(t) > 1 and t[0] != "\\" else t for t in tokens)
    return str(NUMBER_WORDS.index(s.lower())) if s.lower() in NUMBER_WORDS else s


# ---------------------------------------------------------------- expressions: tuples (operator, *a
# leaves: ("num", Fraction)  ("var", name)  ("unit", base, factor)  ("const", name); operators: + *
# ^ and mpmath's functions structures: ("list" | "set", *items)  ("seq", "(]", *items)  ("named",
# name, value)  ("zero", lhs - rhs)  ("inf", sign)

STRUCTURES = {"list", "set", "seq", "named", "zero", "inf"}  # nothing is computed with them
ZERO, ONE, MINUS, TWO, TEN, PERCENT = (
    ("num", Fraction(v)) for v in ("0", "1", "-1", "2", "10", "1/100")
)
PI, E, I, DEGREE, INF, MINUS_INF = (
    *(("const", name) for name in ("pi", "e", "i", "deg")),
    ("inf", 1),
    ("inf", -1),
)


def bits(v: Fraction) -> int:
    return max(v.numerator.bit_length(), v.denominator.bit_length())


def expression(op: str, *args) -> tuple:
    """(op, *args) in a normal form: numbers computed where that is exact and short, sums and
    products in one order.
    """
    if any(a[0] in STRUCTURES for a in args):
        raise Refuse("arithmetic on something that is no number")
    numbers, rest = [a[1] for a in args if a[0] == "num"], [a for a in args if a[0] != "num"]
    if op in ("+", "*"):
        total = Fraction(op == "*")
        for v in numbers:
            total = total + v if op == "+" else total * v
            if bits(total) > 2 * MAX_BITS:
                raise Refuse("number too long")
        if op == "*" and total == 0:
            return ZERO
        rest = sorted(rest, key=repr) + (
            [("num", total)] if total != (op == "*") or not rest else []
        )
        return (op, *rest) if len(rest) > 1 else rest[0]
    if op == "^" and not rest:
        base, e = numbers
        if base == 0 and e <= 0:
            raise Refuse("division by zero")
        if base == 1 or e.denominator == 1 and abs(e) * bits(base) <= MAX_BITS:
            return ("num", base ** int(e))
        if base < 0 and e.numerator == 1 and e.denominator % 2:
            return minus(
                expression("^", ("num", -base), args[1])
            )  # the cube root of -8 is -2, as in school
    return args[0] if op == "^" and args[1] == ONE else (op, *args)


def minus(a: tuple) -> tuple:
    return MINUS_INF if a == INF else expression("*", MINUS, a)


def over(a: tuple, b: tuple) -> tuple:
    return expression("*", a, expression("^", b, MINUS))


def integers(function, *args) -> tuple:
    if any(a[0] != "num" or a[1].denominator > 1 for a in args) or args[-1] == ZERO:
        raise Refuse("integers wanted")
    return ("num", Fraction(function(*(int(a[1]) for a in args))))


def leaves(n: tuple) -> set:
    return (
        {n}
        if n[0] in ("num", "var", "unit", "const")
        else set().union(*(leaves(x) for x in n if isinstance(x, tuple)))
    )


def has_letters(*nodes: tuple) -> bool:
    return any(leaf[0] in ("var", "unit") for n in nodes for leaf in leaves(n))


# ---------------------------------------------------------------- tokens: (kind, value), kinds op,

UNITS = {
    name: ("unit", line.split()[0], Fraction(line.split()[1]))
    for line in """m 1 m meter; m 1/100 cm centimeter;
 m 1/1000 mm millimeter; m 1000 km kilometer; ft 1 ft foot feet; ft 1/12 in inch inches; ft 3 yd yard; ft 5280 mi mile;
 g 1 g gram; g 1000 kg kilogram; g 1/1000 mg milligram; lb 1 lb lbs pound; lb 1/16 oz ounce; s 1 s sec second; s 1/1000 ms;
 s 60 min minute; s 3600 h hr hour; day 1 day; day 7 week; month 1 month; month 12 year yr; L 1 L l liter; mph 1 mph;
 L 1/1000 mL ml milliliter; USD 1 dollar USD $; USD 1/100 cent; EUR 1 euro EUR €; GBP 1 GBP £; RMB 1 yuan RMB CNY ¥;
 N 1 N newton; N 1000 kN; J 1 J joule; J 1000 kJ; W 1 W watt; W 1000 kW; V 1 V volt; A 1 A amp ampere; A 1/1000 mA; C 1 C;
 K 1 K kelvin; ohm 1 ohm; Pa 1 Pa pascal; Pa 1000 kPa; Hz 1 Hz hertz; mol 1 mol mole; T 1 T; degC 1 degC; degF 1 degF;
 rad 1 rad radian; unit 1 unit; atm 1 atm; eV 1 eV; kWh 1 kWh; cal 1 cal; ha 1 ha hectare; acre 1 acre; gallon 1 gal gallon;
 people 1 people person; child 1 children child; men 1 men; fish 1 fish""".split(";")
    for name in line.split()[2:]
}
MPMATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "abs": "fabs", "binom": "binomial"}
CALLS = {
    "frac": over,
    "sqrt": lambda x, n=TWO: expression("^", x, over(ONE, n)),
    "exp": lambda x: expression("^", E, x),
    "log": lambda x, base=TEN: expression("log", x, base),
    "rowvector": lambda *items: ("seq", "row", *items),
    "gcd": partial(integers, math.gcd),
    "lcm": partial(integers, math.lcm),
}
CALLS |= {
    name: partial(expression, MPMATH.get(name, name))
    for name in "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln abs floor ceil binom max min".split()
}
NAMES = {name: ("fn", name) for name in CALLS}
NAMES |= {
    name: ("val", ("var", name.removeprefix("var")))
    for name in "alpha beta gamma delta epsilon zeta eta theta iota "
    "kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell hbar "
    "varphi varepsilon".split()
}
NAMES |= {"pi": ("val", PI), "e": ("val", E), "i": ("val", I)} | dict.fromkeys(
    ("infty", "infinity", "inf"), ("val", INF)
)
NAMES |= dict.fromkeys(("emptyset", "varnothing"), ("val", ("set",)))
NAMES |= {
    name: ("op", op)
    for name, op in (
        pair.split("→")
        for pair in r"""cdot→* times→* ast→* div→/ le→<= leq→<=
 leqslant→<= ge→>= geq→>= geqslant→>= lt→< gt→> ne→!= neq→!= approx→~ simeq→~ in→in cup→cup land→, lor→, vee→, wedge→, and→,
 or→, per→per bmod→mod mod→mod colon→: lbrace→\{ rbrace→\} langle→( rangle→) lbrack→[ rbrack→] **→^ ==→= \%→%""".split()
    )
}
PARTS = re.compile(
    r"halves|\w*(?:thirds|ths|quarters|times|less|plus|minus|is|as|ss|us)"
)  # "5 halves" is not 5 things
AFTER_UNIT = re.compile(r"\s*(?:$|[\^/*),;.|\]}°~A-Za-z=]|\\(?:times|cdot|cup))")
MATH_RULES = rules(
    (r"^\s*\\approx", ""),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (r"\\mathbb\s*\{?\s*R\s*\}?", r"(-\\infty,\\infty)"),
    (
        r"^\\\{\s*([A-Za-z])(?:\s*\\in\s*\(-\\infty,\\infty\))?\s*(?:\||:|\\mid)(.*)\\\}$",
        r"\2",
    ),  # \{x | x>2\}
    (r"(?:\||\\[lr]?vert)([^|]*?)(?:\||\\[lr]?vert)", r"abs(\1)"),
    (r"\\l(floor|ceil)(?![A-Za-z])(.*?)\\r\1(?![A-Za-z])", r"\1(\2)"),
    (
        r"\\begin\s*\{(\w*matrix|array|cases|aligned)\*?\}(?:\{[clr| ]*\})?(.*?)\\end\s*\{\1\*?\}",
        lambda m: matrix(m[1], m[2]),
    ),
    (r",[\s~]*(?:and|or)\b", ","),
    (r"\b(?:sq(?:uare|\.)?)[\s~]+([A-Za-z]+)|\b([A-Za-z]+)[\s~]+squared\b", r"\1\2^2"),
    (r"\bcubic[\s~]+([A-Za-z]+)|\b([A-Za-z]+)[\s~]+cubed\b", r"\1\2^3"),
    (r"(?<=[\d\s~])((?:[mck]?m)|ft|in|yd|mi)([23])(?!\d)", r"\1^\2"),  # 12 cm2
    (r"(?<=\d)[\s~]*\\Omega", "~ohm~"),
    (r"(?<=\d)[\s~]*per\s?cent\b", "%"),
    *(
        (rf"(?<=\d)[\s~]*{name}\b", rf"*{factor}")
        for name, factor in zip(
            "hundred thousand million billion trillion dozen".split(),
            "100 1000 10^6 10^9 10^{12} 12".split(),
        )
    ),
    (r"(?<!\\)\blog(?=_)", r"\\log"),
    (r"(\d)[eE]([-+]?\d{1,12})(?![\d.])", r"\1*10^{\2}"),
    (
        r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))",
        lambda m: repeating(m[1], m[2], m[3] or m[4] or m[5]),
    ),
    (
        r"(?<![\d.])(\d+)_\s*(?:\{(\d+)\}|(\d+))",
        lambda m: str(int(m[1], int(m[2] or m[3]) or 1)),
    ),  # 1011_2
    (r"(?<![\w.^_}/])(\d+)[\s~]+(\d+)/(\d+)(?!\d)", r"\1\\frac{\2}{\3}"),
    (
        r"(?<![\w.^_}/])(\d+)[\s~]*\\frac\{(\d+)\}\{(\d+)\}",  # 1\frac{1}{2}
        lambda m: f"({m[1]}+{m[2]}/{m[3]})" if int(m[2]) < int(m[3]) else m[0],
    ),
)
TOKEN = re.compile(
    r"""(?P<gap>[\s~]+)|(?P<number>\d+\.?\d*|\.\d+)
 |(?P<name>\\(?:overline|bar|hat|vec|tilde|widehat)\s*\{?\s*[A-Za-z]{1,2}\s*\}?          # \vec{v}
   |(?!\\(?:log|sum|prod|int|lim))(?:\\[A-Za-z]+|[A-Za-z])_\s*(?:\{[^{}]*\}|\w)'*|[A-Za-z]'+    # x_1, \alpha_{max}, y'
   |(?:m\s*)?\\angle[^=<>,]{1,20}(?==)|(?!(?:and|or|sin|cos|tan|log)\b)[A-Za-z]{3,}[A-Za-z ~]*(?==))          # Area =
 |\\(?P<command>[A-Za-z]+)|(?P<word>[A-Za-z]+(?![A-Za-z_']))
 |(?P<symbol>(?<=\s)!=|<=|>=|==|\*\*|\\[{}%]|[-+*/^_(){}\[\],;:!=<>%°$€£¥])""",
    re.X,
)


def repeating(whole: str, fixed: str, loop: str) -> str:
    """0.1\\overline{6} is 0.1 + 6/90."""
    return f"(0{whole}.{fixed}+{loop}/{'9' * len(loop)}{'0' * len(fixed)})"


def matrix(environment: str, body: str) -> str:
    """A matrix as a sequence of its rows, a column as a vector, cases as a list."""
    rows = [row.replace("&", ",") for row in body.split(r"\\") if row.strip("~ ")]
    if environment in ("cases", "aligned"):
        return ",".join(row.replace(",", "") for row in rows)
    if len(rows) == 1:
        return rf"\rowvector({rows[0]})"
    return "(" + ",".join(f"({row})" if "&" in body else row for row in rows) + ")"


def word(run: str, gap: str, out: list, after: str) -> list:
    """The tokens of a run of letters: a unit after a value, a known name, or a product of letters."""
    after_value = bool(out) and (
        out[-1][0] in ("val", "unit") or out[-1][1] in (")", "}", "]", "°", "%", "per")
    )
    long = run.lower().replace("metre", "meter").replace("litre", "liter")
    unit = UNITS.get(run) or len(run) > 2 and (UNITS.get(long) or UNITS.get(long.removesuffix("s")))
    if unit and after_value and AFTER_UNIT.match(after):
        recent = out[-20:]
        last = max((i for i, t in enumerate(recent) if t[1] in ("=", ",")), default=-1)
        kinds = {t[1][0] for t in recent[last + 1 :] if t[0] == "val"} & {
            "num",
            "var",
        }  # \pi r^2 h is no hour
        if (
            "~" in gap
            or out[-1][0] == "unit"
            or out[-1][1] == "per"
            or kinds == {"num"}
            and (gap or len(run) > 1)
        ):
            return [("unit", unit)]
    known = NAMES.get(run) or NAMES.get(run.lower())
    if known and (
        len(run) > 2 or run in ("pi", "ln", "or")
    ):  # lt and mu are letters unless they are commands
        return [known]
    if m := re.fullmatch(r"(sin|cos|tan|ln|log)([a-z])", run):
        return [NAMES[m[1]], ("val", ("var", m[2]))]
    if len(run) > 3:
        if after_value and gap and run.endswith("s") and not PARTS.fullmatch(run):
            return [("unit", ("unit", run.lower(), Fraction(1)))]  # "5 apples": a count noun
        raise Refuse("a word")
    return [NAMES[c] if c in "ei" else ("val", ("var", c)) for c in run]


def tokenize(s: str) -> list:
    out, pos, gap = [], 0, ""
    while pos < len(s):
        m = TOKEN.match(s, pos)
        if not m or m["command"] and m["command"] not in NAMES:
            raise Refuse("unknown")
        pos, kind, text = m.end(), m.lastgroup, m[0]
        if kind == "number":
            out.append(("val", ("num", Fraction(text))))
        elif kind == "name":
            out.append(("val", ("var", re.sub(r"[\s{}~]", "", text))))
        elif kind == "word":
            out += word(text, gap, out, s[pos : pos + 8])
        elif kind != "gap":
            per = text == "/" and out and out[-1][0] == "unit"  # km/h
            out.append(("op", "per") if per else NAMES.get(m["command"] or text) or ("op", text))
        gap = text + " " if kind == "gap" else ""
    return out + [("op", "end")]


# ---------------------------------------------------------------- parser

LEVELS = "= ~ < > <= >= != in", "cup", ": mod", "+ -", "* / per"  # of precedence, loosest first
INFIX = {o: level for level, ops in enumerate(LEVELS) for o in ops.split()}
PRODUCT, CLOSERS = INFIX["*"], {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",)}


class Parser:
    """Precedence climbing over tokens, to one tree per item of the answer."""

    def __init__(self, tokens):
        self.tokens, self.i, self.depth = tokens, 0, 0

    def op(self, *values):
        """The next token if it is one of these operators, which is then consumed."""
        kind, value = self.tokens[self.i]
        self.i += kind == "op" and value in values
        return value if kind == "op" and value in values else None

    def items(self, *closers):
        """Relations up to a closing token, and that token."""
        out = [self.level(0)]
        while self.op(",", ";"):
            out.append(self.level(0))
        if closer := self.op(*closers):
            return out, closer
        raise Refuse("syntax")

    def infix(self, level):
        """The next operator of a level. Two values side by side are a product, but 5 5 is neither
        25 nor 55.
        """
        kind, value = self.tokens[self.i]
        if kind == "op" and INFIX.get(value) == level:
            self.i += 1
            return value
        starts = kind != "op" or value in ("(", "[", "{")
        return (
            "*"
            if level == PRODUCT
            and starts
            and (value[0] != "num" or self.tokens[self.i - 1][1] == "!")
            else None
        )

    def level(self, level):
        if level > PRODUCT:
            return self.factor()
        parts, ops = [self.level(level + 1)], []
        while o := self.infix(level):
            ops.append(o)
            parts.append(self.level(level + 1))
        return (
            (relation, union, ratio, arithmetic, arithmetic)[level](parts, ops) if ops else parts[0]
        )

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
            if sign := self.op("%", "°"):
                out = expression("*", out, PERCENT if sign == "%" else DEGREE)
            if self.op("^"):
                out = expression("^", out, self.factor())  # 2^3^2 groups to the right
        self.depth -= 1
        return out

    def atom(self):
        kind, value = self.tokens[self.i]
        self.i += value != "end"
        if kind == "fn":
            return self.function(value)
        if value in CLOSERS:
            return self.bracket(value)
        if value in UNITS:  # a currency sign
            return expression("*", self.factor(), UNITS[value])
        if kind == "op":
            raise Refuse("syntax")
        if value[0] == "var" and value[1].rstrip("'") in ("f", "g", "h") and self.op("("):
            return (
                "var",
                f"{value[1]}{self.items(')')}",
            )  # an unknown function at an argument is one more unknown
        return value

    def bracket(self, opener):
        if opener == "\\{" and self.op("\\}"):
            return ("set",)
        items, closer = self.items(*CLOSERS[opener])
        if len(items) == 1 and (opener == "{" or opener + closer in ("()", "[]")):
            return items[0]
        if "{" in opener:
            return ("set", *items)
        if all(
            x[0] == "seq" for x in items
        ):  # a matrix, points: brackets matter only around two numbers
            return ("seq", "()", *(("seq", "()", *x[2:]) for x in items))
        return ("seq", opener + closer if len(items) == 2 else "()", *items)

    def function(self, name):
        exponent, index = None, []
        while o := self.op("[") if name == "sqrt" else self.op("^", "_"):
            if o == "^":
                exponent = self.factor()
            else:
                index = self.items("]")[0] if o == "[" else [self.atom()]
        if exponent == MINUS and name in ("sin", "cos", "tan"):
            name, exponent = "arc" + name, None
        braced = {"sqrt": 1, "frac": 2, "binom": 2}.get(name)
        args = [self.atom() for _ in range(braced)] if braced else self.arguments()
        try:
            out = CALLS[name](*args, *index)
        except TypeError:
            raise Refuse("number of arguments") from None
        return expression("^", out, exponent) if exponent else out

    def arguments(self):
        r"""(a, b), or \sin 2x: a product without signs, up to the next function, bracket or number."""
        if opener := self.op("(", "[", "{"):
            return self.items(CLOSERS[opener][-1], ")")[0]
        out = [self.factor()]
        while self.tokens[self.i][0] in ("val", "unit") and self.tokens[self.i][1][0] != "num":
            out.append(self.factor())
        return [expression("*", *out)]


def arithmetic(parts, ops):
    """A sum of signed terms or a product of factors and divisors."""
    turned = [
        minus(p) if o == "-" else over(ONE, p) if o in ("/", "per") else p
        for o, p in zip(ops, parts[1:])
    ]
    return expression("+" if ops[0] in "+-" else "*", parts[0], *turned)


def union(parts, ops):
    return ("set", *parts)


def ratio(parts, ops):
    """2:4 is 1/2; of 2:4:6 the proportions are kept."""
    if "mod" in ops:
        return integers(lambda a, b: a % b, *parts)
    quotients = [over(p, parts[-1]) for p in parts[:-1]]
    return ("seq", ":", *quotients) if len(ops) > 1 else quotients[0]


def is_name(n) -> bool:
    """Can n stand left of '=' as the name of the answer? x, x_1, f(x), AB, (x,y)."""
    return (
        n[0] == "var"
        or n in (E, I)
        or n[0] in ("*", "seq")
        and all(x[0] == "var" for x in n[1 + (n[0] == "seq") :])
    )


def relation(sides, ops):
    """x=5 names a value, x>2 an interval."""
    if set(ops) <= {"=", "~"}:
        return equation(sides, "~" in ops)
    if ops[0] in (">", ">="):
        sides, ops = sides[::-1], [o.replace(">", "<") for o in ops[::-1]]
    if ops in (["<"], ["<="]):
        sides, ops = (
            ([MINUS_INF, *sides], ["<", *ops])
            if is_name(sides[0])
            else ([*sides, INF], [*ops, "<"])
        )
    if len(ops) == 2 and set(ops) <= {"<", "<="} and is_name(sides[1]):
        return (
            "named",
            sides[1],
            ("seq", "(["[ops[0] == "<="] + ")]"[ops[1] == "<="], sides[0], sides[2]),
        )
    if ops in (["in"], ["!="]) and is_name(sides[0]):
        return ("named", sides[0], sides[1] if ops == ["in"] else ("seq", "!=", sides[1]))
    raise Refuse("relation")


def equation(sides, approx):
    """name = value, or lhs - rhs; a = b without a letter must hold, and then its end is the answer,
    as in 2+3=5.
    """
    names, values = [s for s in sides if is_name(s)], [s for s in sides if not is_name(s)]
    if approx:
        values = values[:1]  # sqrt2 = 1.41 is no identity: the exact side counts
    elif len(values) > 1:
        if all(equal_values(values[0], v, Budget()) for v in values):
            values = values[-1:]
        elif names or len(sides) > 2 or not has_letters(*sides):
            raise Refuse("does not hold")
    if names:
        return ("named", names[0], values[0] if values else names[-1])
    return values[0] if len(values) == 1 else ("zero", expression("+", sides[0], minus(sides[1])))


@lru_cache(maxsize=256)
def parse(s: str, thousands: bool = True) -> tuple | None:
    """Tree of a cleaned answer; None if it is not in the grammar and can only be compared as text."""
    if re.fullmatch(
        r"~?(?:\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[-/]\d{1,2}[-/]\d{4})~?", s
    ):  # a date
        return None
    if thousands and not re.search(r"[(\[]|\\\{", s):  # (1,234) is a pair
        s = re.sub(
            r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)", lambda m: m[0].replace(",", ""), s
        )
    try:
        s = rewrite(s, MATH_RULES)
        items = []
        for signs in ("+-", "-+") if re.search(r"\\[pm][pm](?![A-Za-z])", s) else ("+-",):
            tokens = tokenize(re.sub(r"\\([pm])[pm](?![A-Za-z])", lambda m: signs[m[1] == "m"], s))
            items += [x for x in Parser(tokens).items("end")[0] if x not in items]
    except (Refuse, ValueError):  # ValueError: 12_2 has no value
        return None
    names = {x[1] for x in items if x[0] == "named"}
    if len(names) == len(items) > 1:  # x=1, y=2 is the point (x,y) = (1,2)
        return (
            "named",
            *(("seq", "()", *column) for column in zip(*sorted((x[1:] for x in items), key=repr))),
        )
    return items[0] if len(items) == 1 else ("list", *items)


# ---------------------------------------------------------------- values at random points

MP, MP_LOCK = (
    mpmath.mp.clone(),
    threading.Lock(),
)  # mpmath changes the precision of its context inside some functions
MP.dps = 400
TINY, SCALE = (
    MP.mpf(10) ** -250,
    333,
)  # sums are zero below TINY, refused if a term is beyond 2^+-SCALE
LIMITS = dict.fromkeys("sin cos tan cot sec csc sinh cosh tanh".split(), 30) | {
    "factorial": 12,
    "binomial": 12,
}
UNDEFINED = (Refuse, ArithmeticError, ValueError, TypeError, mpmath.libmp.NoConvergence)


@lru_cache(maxsize=4096)
def point(seed, name, k) -> Fraction:
    """Value of a letter at the k-th point. Seeded by the two answers: repeatable, and nobody can
    aim at the points.
    """
    return (
        Fraction(random.Random(f"{seed} {name} {k}").randrange(10**8, 10**9), 10**9)
        * (1, 3, -1, -3, 9, 40)[k]
    )


class Budget:
    """What one comparison may spend, its seed, and whether everything was real since this was last
    asked.
    """

    def __init__(self, seed=""):
        self.left, self.seed, self.real = BUDGET, ascii(seed), True

    def spend(self, cost):
        self.left -= cost
        if self.left < 0:
            raise Refuse("budget")


def evaluate(n, k, budget):
    """Value at the k-th point. Products of powers keep their relative precision at any size; sums
    and functions do not.
    """
    op = n[0]
    if op == "const":
        return {"pi": +MP.pi, "e": +MP.e, "i": MP.mpc(0, 1), "deg": MP.pi / 180}[n[1]]
    if op in ("num", "var", "unit"):
        v = n[1] if op == "num" else point(budget.seed, n[1], k) * (n[2] if op == "unit" else 1)
        if bits(v) > SCALE:
            raise Refuse("long number in an inexact expression")
        return MP.mpf(v.numerator) / v.denominator
    args = [evaluate(x, k, budget) for x in n[1:]]
    budget.spend(200 if op in ("factorial", "binomial") else 2)
    if op == "^" and (
        args[0] == 0 and MP.re(args[1]) <= 0 or args[0] and abs(MP.log(args[0]) * args[1]) > 10**12
    ):
        raise Refuse("division by zero, or too large")
    out = MP.fprod(args) if op == "*" else args[0] ** args[1] if op == "^" else scaled(op, args)
    out = (
        MP.chop(out, TINY) if isinstance(out, MP.mpc) else out
    )  # no imaginary part left by rounding
    budget.real = budget.real and not isinstance(out, MP.mpc)
    return out


def scaled(op, args):
    """A sum or a function."""
    limit = LIMITS.get(op, SCALE)
    if any(x and (MP.mag(x) > limit or MP.mag(x) < -SCALE) for x in args):
        raise Refuse("too large or too small")
    near = MP.nint(MP.re(args[0]))
    if op in ("floor", "ceil") and abs(args[0] - near) < TINY:
        return near
    out = MP.fsum(args) if op == "+" else getattr(MP, op, max if op == "max" else min)(*args)
    return out if abs(out) > TINY else MP.zero


def equal_values(a, b, budget) -> bool:
    """With letters only points where everything is real count, unless i occurs: sqrt(x)sqrt(y) is
    sqrt(xy).
    """
    if a == b or a[0] in STRUCTURES or b[0] in STRUCTURES or a[0] == b[0] == "num":
        return a == b
    letters, agreed = has_letters(a, b), False
    for k in range(6 if letters else 1):
        budget.spend(1)
        budget.real = True
        try:
            with MP_LOCK:
                x, y = evaluate(a, k, budget), evaluate(b, k, budget)
                close = abs(x - y) <= MP.mpf(10) ** -150 * max(abs(x), abs(y))
        except UNDEFINED:  # at this point
            continue
        if budget.real or not letters or I in leaves(a) | leaves(b):
            agreed = close and MP.isfinite(x)
            if not agreed:
                return False
    return agreed


# ---------------------------------------------------------------- equality of answers


def without_units(n) -> tuple:
    """n without its units. 5 cm^2 and 60 km/h are looked into, sums and functions are not."""
    if n[0] == "unit" or n[0] == "^" and n[1][0] == "unit":
        return ONE
    return expression("*", *map(without_units, n[1:])) if n[0] == "*" else n


def primed(n) -> tuple:
    """n with other letters: equal to n only if n is constant."""
    return (
        ("var", n[1] + "'")
        if n[0] == "var"
        else (n[0], *(primed(x) if isinstance(x, tuple) else x for x in n[1:]))
    )


def same_equation(a, b, budget) -> bool:
    """Equal names and values, or one line: the quotient of the differences is a constant."""
    if a[0] == b[0] == "named" and same(a[1], b[1], budget) and same(a[2], b[2], budget):
        return True
    if any(n[0] == "named" and not has_letters(n[2]) for n in (a, b)):
        return False  # an unsolved 2x=10 is not x=5
    quotient = over(
        *(n[1] if n[0] == "zero" else expression("+", n[1], minus(n[2])) for n in (a, b))
    )
    return equal_values(quotient, primed(quotient), budget) and not equal_values(
        quotient, ZERO, budget
    )


def unordered(xs, ys, budget) -> bool:
    ys = list(ys)
    for x in xs:
        hit = x if x in ys else next((y for y in ys if same(x, y, budget)), None)
        if hit is None:
            return False
        ys.remove(hit)
    return not ys


def same(a, b, budget) -> bool:
    """Are two parsed answers equal? Symmetric."""
    budget.spend(1)
    kinds = {a[0], b[0]}
    if a == b or kinds <= {"named", "zero"}:
        return a == b or same_equation(a, b, budget)
    if "named" in kinds:
        return same(*(n[2] if n[0] == "named" else n for n in (a, b)), budget)
    if "set" in kinds:
        xs, ys = (n[1:] if n[0] in ("set", "list") else (n,) for n in (a, b))
        return all(any(same(x, y, budget) for y in ys) for x in xs) and all(
            any(same(x, y, budget) for x in xs) for y in ys
        )
    if kinds == {"list"}:
        return unordered(a[1:], b[1:], budget)
    if kinds <= {"list", "seq"}:
        a, b = (("seq", "()", *n[1:]) if n[0] == "list" else n for n in (a, b))
        return (
            a[:2] == b[:2]
            and len(a) == len(b)
            and all(same(x, y, budget) for x, y in zip(a[2:], b[2:]))
        )
    if kinds & STRUCTURES:
        return False
    x, y = without_units(a), without_units(b)
    return (x == a) != (y == b) and equal_values(x, y, budget) or equal_values(a, b, budget)


# ---------------------------------------------------------------- habits of answering that are no m

OPTION = r"\b[A-J]\s*[.):]|\([A-J]\)|\b(?:or|not|and)\b|(?:^|[,;/&|])\s*[A-J]\b"
LABEL = re.compile(rf"[\s~]*\(?([A-J])\s*[.):][\s~]+(?!.*(?:{OPTION}))([^\s,;].*)", re.S)  # B) 12
PRODUCT_WORD = re.compile(
    r"[abc]+|[xyzt]+|[mnpqk]+|[uvw]+|[rst]+|pi|inf|infinity|[a-z]-[a-z]"
)  # on is not no, but ab is ba


def options(s: str) -> set:
    """The letters of a multiple choice: B, (B), "A, C", "A and C", AC. "A or C" keeps its "or": a
    hedge is no selection.
    """
    s = re.sub(r"[(\[]\s*([A-Ja-j])\s*[)\]]|\b([A-Ja-j])\)", r"\1\2", s.replace("~", " ")).strip(
        "(){} "
    )
    parts = (
        s
        if len(s) > 1 and re.fullmatch(r"A?B?C?D?E?F?G?H?", s)
        else re.split(r"\s*(?:,|;|\\?&|\band\b|\b(or)\b)\s*", s)
    )
    return (
        {p.upper() for p in parts if p}
        if all(re.fullmatch("[A-Ja-j]|or", p) for p in parts if p)
        else set()
    )


def clock(s: str) -> tuple | None:
    """(hour, minutes and seconds, is the half of the day known) of a clock time."""
    m = re.fullmatch(
        r"(1?\d|2[0-4])((?::[0-5]\d){0,2})(?:([ap])m)?", re.sub(r"[\s.~]|^0", "", s.lower())
    )
    if not m or not (m[2] or m[3]):
        return None
    return (
        int(m[1]) % 12 + 12 * (m[3] == "p") if m[3] else int(m[1]),
        m[2].replace(":00", ""),
        bool(m[3]) or int(m[1]) > 12,
    )


def words(s: str) -> list:
    """The words of "red, blue and green", sorted, or the one word; empty if it is something else."""
    parts = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", s.replace("~", " ").strip("(){} ").lower())
    return (
        sorted(parts)
        if all(re.fullmatch(r"[a-z][a-z' .-]+", w) and not PRODUCT_WORD.fullmatch(w) for w in parts)
        else []
    )


def by_habit(a: str, b: str) -> bool | None:
    """True or False where a habit decides, else None."""
    options_a, options_b, clock_a, clock_b = options(a), options(b), clock(a), clock(b)
    if options_a and options_b or "OR" in options_a | options_b:
        return options_a == options_b
    label_a, label_b = LABEL.fullmatch(a), LABEL.fullmatch(b)
    if label_a and label_b:
        return label_a[1] == label_b[1] and answers_equal(label_a[2], label_b[2])
    if label_a or label_b:
        m, other = (label_a, b) if label_a else (label_b, a)
        if options(other) == {m[1]} or answers_equal(m[2], other):
            return True
    if clock_a and clock_b:
        return (clock_a[0] - clock_b[0]) % (
            24 if clock_a[2] and clock_b[2] else 12
        ) == 0 and clock_a[1] == clock_b[1]
    return words(a) == words(b) if words(a) and words(b) else None


# ---------------------------------------------------------------- the verdict


def answers_equal(a: str, b: str) -> bool:
    """Are two answers equal as mathematics, or failing that as text? Symmetric; empty equals
    nothing; never raises.
    """
    a, b = clean(a), clean(b)
    text_a, text_b = text_form(a), text_form(b)
    if not text_a or not text_b or text_a == text_b:
        return text_a == text_b != ""
    if (
        max(len(a), len(b)) > MAX_CHARS
        or plain_number(a) is not None
        and plain_number(b) is not None
    ):
        return False
    if (verdict := by_habit(a, b)) is not None:
        return verdict
    one_is_list = (
        "," in a and "," in b and (parse(a, False) == parse(a)) != (parse(b, False) == parse(b))
    )
    budget = Budget(sorted((a, b)))
    try:  # 100,200 is a list if the other side can be nothing else
        trees = [
            (parse(a, thousands), parse(b, thousands))
            for thousands in (True, False)[: 1 + one_is_list]
        ]
        return any(x is not None and y is not None and same(x, y, budget) for x, y in trees)
    except Refuse:
        return False
