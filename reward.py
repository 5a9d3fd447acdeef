r"""The reward: 1.0 if the last \boxed{...} of a response equals the gold answer, else 0.0. ZPPO (arXiv 2606.18216), Appendix D.1.

    from reward import grade                       # this file alone can be copied into another project
    grade(r"so the area is \boxed{\frac12}", "0.5")   # 1.0

What the paper fixes: binary; only the content of the last \boxed{...} (balanced braces) counts; it is compared with the gold
mathematically; if that fails, degree and percent signs are stripped from both sides and the two are compared once more.

How "mathematically" is done here. Model text is hostile input, so it is never handed to sympify, eval or latex2sympy (pitfalls 15
and 34: those run shell commands and hang). A small recursive-descent parser turns the usual LaTeX and plain spellings into tuples,
with caps on length and depth before any arithmetic; then
  1. numbers are exact Fractions, and equal normal forms are equal (so 10^{10^{10}} needs no evaluation);
  2. rational expressions are compared modulo two fixed large primes at pseudo-random points (polynomials, huge powers, units);
  3. the rest (roots, logarithms, sines) in mpmath at two precisions, the second above the scale of every number that occurs; a value
     too large or small for that is refused, which means "not equal". There is no float tolerance anywhere.
What the grammar does not know (sums, integrals, words, code) is compared as text: spaces collapsed, words without case.

Choices, each one a place where graders differ:
  * `1,2` without brackets is a list of solutions: order-free, equal to \{1,2\}. (1,2) is ordered; (0,1) and [0,1] differ.
  * `1,234` is a number, `12,34` a list, `100,200` equals `100, 200` only where the other side is clearly a list.
  * A unit (or currency, am/pm) on one side only is forgiven; on both sides it must agree, with 100 cm = 1 m.
  * 50% equals 0.5 by value and 50 by the paper's second pass; 50 is not 0.5.
  * `x=5` equals `5`; `x=5` is not `y=5`; an unsolved `2x=10` is not `x=5`; the exact side of `\sqrt2 \approx 1.41` counts. Option letters ignore case, other letters do not.
  * log without a base is base 10.
Deliberately left out: evaluation of sums, integrals, limits and determinants; set-builder notation; synonyms; free-form answers
(the judge model's business). No subprocess, thread or alarm: every step has a cap, so it works in any thread.

    python reward.py            # prints ordinary answers per second on this machine
"""

import math
import random
import re
import threading
import unicodedata
from collections import Counter
from fractions import Fraction
from functools import lru_cache

MAX_CHARS = 2000      # longer boxes are compared as text; golds have at most 512; also below CPython's 4300-digit limit of int(str)
MAX_RAW = 10_000      # longer still: compared as they are, and never kept in a cache
MAX_DEPTH = 30        # nesting in the parser, about ten Python frames each
MAX_BITS = 20_000     # an exact number never gets larger; beyond it a power stays symbolic
MAX_DIGITS = 1500     # mpmath never works beyond this
BUDGET = 20_000       # units of numeric work for one comparison, about 0.3 s


class Refuse(Exception):
    """Not in the grammar, undefined (0/0), or over a cap: the caller falls back to comparing text."""


# ---------------------------------------------------------------- the box

_BOX_SCAN = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[^b]|[{}]")


def last_boxed(response: str) -> str | None:
    r"""Content of the last \boxed{...}; None if there is none or the last one never closes. One pass, linear time.

    "Last" is the box opened last. If that one lies inside another box, the outermost closed box is the answer, so that
    \boxed{4 or \boxed{5}} cannot hide its hedge; an earlier box that was never closed does not count against a later good one.
    """
    start = response.find("\\boxed")
    if start < 0:
        return None
    stack, boxes, last_open = [], [], -1      # stack: (start of content, is a box); boxes: closed (start, end)
    for m in _BOX_SCAN.finditer(response, start):
        token = m.group()
        if token[-1] == "{" and token != "\\{":
            stack.append((m.end(), len(token) > 1))
            if len(token) > 1:
                last_open = m.end()
        elif token == "}" and stack:
            begin, is_box = stack.pop()
            if is_box:
                boxes.append((begin, m.start()))
    # boxes are in order of closing: a box that holds the last-opened one closes after it, the outermost last
    begin, end = next(((b, e) for b, e in reversed(boxes) if b <= last_open <= e), (-1, -1))
    return response[begin:end] if begin >= 0 else None


# ---------------------------------------------------------------- text: one spelling for the same characters

_CHARS = {ord(k): v for k, v in {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "º": r"^\circ ", "≤": r"\le ",
    "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "′": "'", "’": "'", "‘": "'",
    "“": '"', "”": '"', "，": ",", "、": ",", "；": ";", "：": ":", "⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "△": r"\triangle ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ",
    "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "ρ": r"\rho ", "τ": r"\tau ", "Δ": r"\Delta ", "Ω": r"\Omega ", "ε": r"\epsilon ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∧": r"\land ", "∨": r"\lor ", "…": r"\ldots ",
}.items()}
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|emph|mathrm|mathbf|mathit|mathsf|mathtt|operatorname\*?"
                      r"|mbox|hbox|boldsymbol|bm|pmb|underline)\s*\{([^{}]*)\}")
_TEXT, _END = "\x02", "\x03"     # stand for \text{ and } once the wrapper is gone; control characters of the input are dropped before


def _fold_char(c: str) -> str:
    kind = unicodedata.category(c)
    if kind == "Zs" or c in "\t\n\r\u2028\u2029":
        return "\\," if c in "\u00a0\u2009\u202f" else " "
    if kind in ("Cc", "Cf") or "\ufe00" <= c <= "\ufe0f":      # NUL, zero-width space, byte order mark, variation selectors
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    wide = unicodedata.normalize("NFKC", c)
    if kind == "No" and "\u2044" in wide:                      # vulgar fractions
        return r"\frac{%s}{%s}" % tuple((wide + "1" if wide[-1] == "\u2044" else wide).split("\u2044"))
    if "\uff01" <= c <= "\uff5e" or "\U0001d400" <= c <= "\U0001d7ff":       # full-width and mathematical alphabets, nothing else:
        return wide.translate(_CHARS)                                        # look-alikes of other scripts stay different
    return c


def _dollars(s: str) -> str:
    """Removes $ as a math delimiter and keeps $ as a currency sign."""
    bare = re.sub(r"\\\$", "", s)
    n = bare.count("$")
    if n and n % 2 == 0 and (bare.endswith("$") or not re.match(r"\s*\$\s*[\d.]", bare)):
        s = re.sub(r"(?<!\\)\$", "", s)
    return s.replace("\\$", "$")


def _clean_latex(s: str) -> str:
    s = re.sub(r"\\[()\[\]](?![A-Za-z])", " ", s) if re.match(r"\s*\\[(\[]", s) else s
    s = re.sub(r"\\(?:left|right|middle)(?![A-Za-z])\s*\.?|\\[bB]igg?[lrm]?(?![A-Za-z])|\\(?:display|text|script)style(?![A-Za-z])", "", s)
    s = re.sub(r"\\(?:color|phantom|label)\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}|\\(?:rm|bf|it|limits|nolimits)(?![A-Za-z])", "", s)
    s = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", s).replace("\\mid", "|")
    s = re.sub(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}", s)
    s = re.sub(r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1", s)        # a segment
    s = re.sub(r"(?<=\d)(?:\\[, !:;]|~|\{,\})+(?=\d{3}(?!\d))", "", s)          # 1\,234 and 1{,}234
    s = re.sub(r"(?<!\\)\\[,;:! >]|\\q?quad(?![A-Za-z])|~|\\(?:hspace|hskip|vspace)\*?\{[^{}]*\}", " ", s)
    for _ in range(5):
        s, hits = _WRAPPER.subn(_TEXT + r"\1" + _END, s)
        if not hits:
            break
    s = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", s)
    s = re.sub(r"\\frac\s*(\d)\s*(?=[{\\A-Za-z])", r"\\frac{\1}", s)
    s = re.sub(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\(?:degree|textdegree)(?![A-Za-z])", "°", s)
    return s


@lru_cache(maxsize=4096)
def _clean(s: str) -> str:
    """One spelling for characters, spacing, sizing and wrappers. Changes nothing that carries meaning for the parser."""
    s = s.replace("\x0crac", r"\frac")       # a JSON-damaged \frac: MathVision ships one
    s = s.translate(_CHARS)
    if not s.isascii() or not s.isprintable():
        s = re.sub(r"(?<=[\w)}\]'])[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_SUPER) + "}" if not
                   re.match(r"[⁰¹²³⁴-⁹]", s[m.start() - 1]) else m.group(), s)
        s = re.sub(r"(?<=[\w)}\]])[₀-₉]+", lambda m: "_{" + m.group().translate(_SUBS) + "}", s)
        s = "".join(c if " " <= c <= "~" else _fold_char(c) for c in s)
    s = s.strip()
    if len(s) > MAX_CHARS:
        return " ".join(s.split())
    s = _dollars(s)
    if "\\" in s or "~" in s or "{" in s:
        s = _clean_latex(s)
    if "°" in s or "deg" in s:
        s = re.sub(r"(?<=[\d\x03}\s])\s*\bdeg(?:ree)?s?\b", "°", s)
        s = re.sub(r"°[\s\x02]*(?:(C)|F)(?:elsius|ahrenheit)?\b", lambda m: " \x02deg%s\x03" % ("C" if m[1] else "F"), s, flags=re.I)
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?", s):                 # 1 234: a plain space does not even show in math mode
        s = s.replace(" ", "")
    s = re.sub(r"^[*`_]{1,3}(?=[^*`_\s])(.*[^*`_\s])[*`_]{1,3}$", r"\1", s, flags=re.S)         # markdown emphasis
    s = " ".join(s.split())
    return re.sub(r"(?:\\\\|[.,;\s])+(\x03?)$", r"\1", s)       # trailing full stop


_PREFIX = re.compile(r"^[\s\x02]*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*(?=[^\s:=])", re.I)
_NUMBER = re.compile(r"([+-]?)\s*(\d+|[1-9]\d{0,2}(?:,\d{3})+)?(\.\d*)?(?:\s*/\s*([+-]?\d+))?")
_WORD_NUMBERS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
                                                 "fifteen sixteen seventeen eighteen nineteen twenty".split())}


def _plain_number(s: str) -> Fraction | None:
    """The fast path: integers, decimals, a/b and \\frac{a}{b} of integers."""
    if len(s) > MAX_CHARS:
        return None
    s = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}$", r"\1/\2", s) if s.startswith(("\\frac", "-\\frac")) else s
    m = _NUMBER.fullmatch(s)
    if not m or not (m[2] or (m[3] and len(m[3]) > 1)):
        return None
    top = Fraction((m[2] or "0").replace(",", "") + (m[3] or ".") + "0")
    low = int(m[4]) if m[4] else 1
    return None if low == 0 else (-top if m[1] == "-" else top) / low


def _as_text(s: str) -> str:
    """Text form: words without case, one space between tokens, braces around one token dropped."""
    s = s.replace(_TEXT, " ").replace(_END, " ").strip()
    s = re.sub(r"^([\"'])(.*)\1$", r"\2", s)
    if len(s) > MAX_CHARS:
        return s
    s = re.sub(r"(?<=[A-Za-z)])\s*_\s*(?=[\w{])", "", s)                       # CO_2 and CO2
    s = re.sub(r"(?<!\\)\{\s*(\w+|[^\s\\{}])\s*\}", r" \1 ", s)
    s = " ".join(t.lower() if len(t) > 1 and t[0] != "\\" else t for t in re.findall(r"\\[A-Za-z]+|[A-Za-z]+|\d+|\S", s.rstrip(". ")))
    return _WORD_NUMBERS.get(s.lower(), s)


def normalize_answer(a: str) -> str:
    """A cheap canonical text for de-duplicating answer lists: equal text means equal answers, the reverse is answers_equal's work."""
    a = a.strip()
    return _normalize(a) if len(a) <= MAX_RAW else " ".join(a.split())


@lru_cache(maxsize=4096)
def _normalize(a: str) -> str:
    s = _PREFIX.sub("", _clean(a))
    m = re.fullmatch(r"\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]", s.replace(_TEXT, "").replace(_END, ""))
    if m:
        return m[1] or m[2]
    value = _plain_number(s)
    # bounded, because str() of an integer beyond 4300 digits raises
    return str(value) if value is not None and len(s) < 1000 else _as_text(s)


# ---------------------------------------------------------------- expressions as tuples, folded while they are built
# ("n", Fraction)  ("s", name)  ("c", "pi|e|i|deg|inf|pm")  ("u", factor, base)  ("+", args)  ("*", args)  ("^", base, exp)  ("f", name, *args)

SCALAR = ("n", "s", "c", "u", "+", "*", "^", "f")
ONE, ZERO, MINUS, INF, PM = ("n", Fraction(1)), ("n", Fraction(0)), ("n", Fraction(-1)), ("c", "inf"), ("c", "pm")


def num(v) -> tuple:
    v = Fraction(v)
    if max(v.numerator.bit_length(), v.denominator.bit_length()) > 2 * MAX_BITS:
        raise Refuse("number too long")
    return ("n", v)


def _finite(*nodes):
    for n in nodes:
        if n[0] not in SCALAR or n == INF or (n[0] == "*" and INF in n[1]):
            raise Refuse("arithmetic on a non-number")


def add(nodes) -> tuple:
    nodes = list(nodes)
    _finite(*nodes)
    flat = [x for n in nodes for x in (n[1] if n[0] == "+" else (n,))]
    total = Fraction(0)
    for x in flat:
        if x[0] == "n":
            total = num(total + x[1])[1]                 # capped at every step, not only at the end
    rest = [x for x in flat if x[0] != "n"] + ([num(total)] if total else [])
    return ("+", tuple(sorted(rest, key=hash))) if len(rest) > 1 else rest[0] if rest else ZERO


def mul(*nodes) -> tuple:
    if len(nodes) == 2 and MINUS in nodes and INF in nodes:
        return ("*", (INF, MINUS))
    _finite(*nodes)
    flat = [x for n in nodes for x in (n[1] if n[0] == "*" else (n,))]
    value = Fraction(1)
    for x in flat:
        if x[0] == "n":
            value = num(value * x[1])[1]
    rest = [x for x in flat if x[0] != "n"]
    if value == 0 or not rest:
        return num(value)
    if len(rest) == 1 and rest[0][0] == "+" and value == -1:          # so that -(a-b) and b-a have one form
        return add(mul(MINUS, x) for x in rest[0][1])
    rest += [num(value)] if value != 1 else []
    return ("*", tuple(sorted(rest, key=hash))) if len(rest) > 1 else rest[0]


def power(b: tuple, e: tuple) -> tuple:
    _finite(b, e)
    if e == ONE:
        return b
    if e[0] == "n":
        k = e[1]
        if b[0] == "n":
            v = b[1]
            if v == 0 and k <= 0:
                raise Refuse("division by zero")
            if v in (0, 1):
                return b
            if k.denominator == 1 and abs(k) * max(v.numerator.bit_length(), v.denominator.bit_length()) <= MAX_BITS:
                return num(v ** int(k))
            if k == Fraction(1, 2) and v > 0:
                root = Fraction(math.isqrt(v.numerator), math.isqrt(v.denominator))
                if root * root == v:
                    return num(root)
        if b[0] == "^" and k.denominator == 1 and b[2][0] == "n" and b[2][1].denominator == 1:
            return power(b[1], num(b[2][1] * k))
        if k == 0:
            return ONE
    return ("^", b, e)


def func(name: str, *args) -> tuple:
    _finite(*args)
    v = [a[1] for a in args] if all(a[0] == "n" for a in args) else None
    if v is None or name not in ("abs", "floor", "ceil", "fact", "gcd", "lcm", "mod", "max", "min", "binom"):
        return ("f", name, *args)
    if name in ("abs", "floor", "ceil", "max", "min"):
        f = {"abs": abs, "floor": math.floor, "ceil": math.ceil, "max": max, "min": min}[name]
        return num(f(*v) if name not in ("max", "min") or len(v) > 1 else v[0])
    if any(x.denominator != 1 or abs(x) > 10 ** 30 for x in v) or (name == "mod" and v[1] == 0):
        raise Refuse("integers wanted")
    v = [int(x) for x in v]
    if name in ("fact", "binom"):
        if min(v) < 0:
            raise Refuse("negative factorial")
        if max(v) > 2000:
            return ("f", name, *args)
        return num(math.factorial(*v) if name == "fact" else math.comb(*v))
    return num({"gcd": math.gcd, "lcm": math.lcm, "mod": lambda a, b: a % b}[name](*v))


# ---------------------------------------------------------------- tokens

_UNITS = {}
for _line in """m 1 m meter meters metre metres; m 1/100 cm centimeter centimeters centimetre centimetres; m 1/1000 mm millimeter
 millimeters millimetre millimetres; m 1000 km kilometer kilometers kilometre kilometres; ft 1 ft foot feet; ft 1/12 in inch inches; ft 3 yd yard yards;
 ft 5280 mi mile miles; g 1 g gram grams; g 1000 kg kilogram kilograms; g 1/1000 mg milligram milligrams; lb 1 lb lbs pound pounds;
 lb 1/16 oz ounce ounces; s 1 s sec secs second seconds; s 60 min mins minute minutes; s 3600 h hr hrs hour hours; s 1/1000 ms;
 day 1 day days; day 7 week weeks; month 1 month months; month 12 year years yr yrs; L 1 L l liter liters litre litres;
 L 1/1000 mL ml milliliter milliliters; USD 1 dollar dollars USD usd; USD 1/100 cent cents; EUR 1 euro euros EUR; RMB 1 yuan RMB CNY;
 N 1 N newton newtons; N 1000 kN; J 1 J joule joules; J 1000 kJ; W 1 W watt watts; W 1000 kW; V 1 V volt volts; A 1 A amp amps ampere amperes;
 ohm 1 ohm ohms; Pa 1 Pa pascal pascals; Pa 1000 kPa; Hz 1 Hz hertz; K 1 K kelvin; mol 1 mol mole moles; C 1 C; T 1 T; degC 1 degC; degF 1 degF;
 rad 1 rad radian radians; unit 1 unit units; atm 1 atm; eV 1 eV; mA 1 mA; people 1 people person persons; kWh 1 kWh; cal 1 cal;
 child 1 children child; men 1 men; gallon 1 gal gallon gallons; acre 1 acre acres; ha 1 ha hectare hectares""".split(";"):
    _base, _factor, *_names = _line.split()
    _UNITS |= {n: ("u", Fraction(_factor), _base) for n in _names}
_SCALE = {"hundred": 100, "thousand": 1000, "million": 10 ** 6, "billion": 10 ** 9, "trillion": 10 ** 12, "dozen": 12}
_FUNCS = set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp gcd lcm max min abs floor ceil sqrt".split())
_GREEK = set("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta "
             "Lambda Sigma Phi Psi Omega ell hbar".split())
_COMMANDS = {"cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
             "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~", "in": "in",
             "cup": "cup", "pm": "pm", "mp": "mp", "land": ",", "lor": ",", "vee": ",", "wedge": ",", "lbrace": "\\{", "rbrace": "\\}",
             "langle": "(", "rangle": ")", "lvert": "|", "rvert": "|", "vert": "|", "colon": ":", "lbrack": "[", "rbrack": "]",
             "lfloor": "lfloor", "rfloor": "rfloor", "lceil": "lceil", "rceil": "rceil", "frac": "frac", "sqrt": "sqrt",
             "binom": "binom", "dbinom": "binom", "tbinom": "binom", "bmod": "mod", "mod": "mod", "prime": "'"}
_CONSTS = {"pi": ("c", "pi"), "infty": INF, "infinity": INF, "inf": INF, "emptyset": ("set", ()), "varnothing": ("set", ())}
_FRACTIONAL = re.compile(r"(?:hal(?:f|ves)|\w*(?:thirds|ths|quarters|times|less|plus|minus|is|as|ss|us))$")     # "5 halves" is not 5 things
_TOKEN = re.compile(r"""(?P<space>\s+)|(?P<text>[\x02\x03])
 |(?P<rep>\d*\.\d*\\(?:overline|bar|dot)\s*\{?\d+\}?|\d+\.\(\d+\))
 |(?P<group>\d+(?:,\d+)+(?:\.\d+)?)|(?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,12}(?!\d))?)
 |\\begin\s*\{(?P<begin>[a-z]+)\*?\}(?:\{[^{}]*\})?|(?P<end>\\end\s*\{[a-zA-Z]+\*?\})|(?P<accent>\\(?:overline|bar|hat|vec|tilde|widehat)\s*\{?\s*[A-Za-z]{1,2}\s*\}?)
 |(?P<reals>\\mathbb\s*\{?\s*R\s*\}?)|(?P<row>\\\\)|\\(?P<cmd>[A-Za-z]+)|(?P<brace>\\[{}])|(?P<pct>\\?%)|(?P<run>[A-Za-z]+)
 |(?P<op><=|>=|!=|==|\*\*|[-+*/^_(){}\[\]|,;:!=<>&°'$€£¥])""", re.X)


def _letters(run, prev, spaced, in_text, follow):
    """Tokens of one run of letters: function, constant, unit after a value, connective, or single-letter variables."""
    after_value = prev and (prev[0] in ("val", "unit") or prev[1] in (")", "}", "'", "°", "per", "]"))
    lower = run.lower()
    if lower in ("and", "or"):
        return [("op", ",")]
    if lower in ("per", "over") and prev and prev[0] == "unit":
        return [("op", "per")]
    if lower == "percent" and after_value:
        return [("op", "%")]
    if lower in _SCALE and after_value:
        return [("op", "*"), ("val", num(_SCALE[lower]))]
    if lower == "mod":
        return [("op", "mod")]
    if run in _FUNCS and not (after_value and run in _UNITS and follow[:1] != "("):
        return [("fn", run)]
    known = _UNITS.get(run) or (_UNITS.get(lower) if len(run) > 2 else None)
    if run in ("hr", "mg", "ha") and not in_text and not (prev and prev[0] == "val" and prev[1][0] == "n" or prev and prev[1] == "per"):
        known = None                        # \pi hr^2 is a product
    clear = spaced or in_text or prev and prev[0] == "unit" or prev and prev[1] == "per"
    if known and after_value and re.match(r"\s*(?:$|[\^/*),;.\x02\x03|\]}°A-Za-z=]|\\(?:times|cdot|cup|text|\}))", follow) and (clear or len(run) > 1):
        return [("unit", known)]
    if run in _CONSTS or lower in ("infinity",):
        return [("val", _CONSTS[lower])]
    if run in _GREEK:
        return [("val", ("s", run))]
    if len(run) == 1:
        return [("val", {"e": ("c", "e"), "i": ("c", "i")}.get(run, ("s", run)))]
    for f in ("sin", "cos", "tan", "ln", "log"):
        if run.startswith(f) and len(run) == len(f) + 1:
            return [("fn", f), ("val", ("s", run[-1]))]
    if run.endswith("pi") and len(run) == 3:
        return _letters(run[0], prev, False, False, "") + [("val", ("c", "pi"))]
    if len(run) > 3 or in_text:
        if after_value and clear and (lower.endswith("s") or lower in ("fish", "sheep")) and not _FRACTIONAL.match(lower) and lower.isalpha():
            return [("unit", ("u", Fraction(1), lower))]               # "5 apples": a count noun
        raise Refuse("a word")
    return [t for c in run for t in _letters(c, prev, False, False, "x")]


def _repeating(text: str) -> tuple:
    whole, rest = text.split(".", 1)
    fixed = re.match(r"\d*", rest).group()
    loop = re.sub(r"\D", "", rest[len(fixed):])
    return num(Fraction(int(whole + fixed or 0), 10 ** len(fixed)) + Fraction(int(loop), 10 ** len(fixed) * (10 ** len(loop) - 1)))


def _tokens(s: str, thousands: bool) -> list:
    """[(kind, value, spaced)], kinds: op, val, fn, unit, begin."""
    out, pos, depth, in_text, spaced = [], 0, 0, False, False
    s = re.sub(r"(?<![A-Za-z])sq(?:uare|\.)?\s+([A-Za-z]+)", r"\1^2", re.sub(r"cubic\s+([A-Za-z]+)", r"\1^3", s))
    s = re.sub(r"\bmph\b", "mi/h", s)
    s = re.sub(r"([A-Za-z]+)\s+squared\b", r"\1^2", re.sub(r"([A-Za-z]+)\s+cubed\b", r"\1^3", s))
    while pos < len(s):
        m = _TOKEN.match(s, pos)
        if not m:
            raise Refuse("unknown character")
        pos, kind, text = m.end(), m.lastgroup, m.group()
        prev = out[-1] if out else None
        if kind == "space" or kind == "text":
            in_text = in_text if kind == "space" else text == _TEXT
            spaced = spaced or kind == "space"
            continue
        new = None
        if kind == "num":
            mantissa, _, exp = text.lower().partition("e")
            v = num(mantissa.rstrip("."))
            new = [("val", mul(v, power(num(10), num(int(exp)))) if exp else v)]
        elif kind == "group":
            if thousands and not depth and re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", text):
                new = [("val", num(text.replace(",", "")))]
            else:
                new = [t for i, part in enumerate(text.split(",")) for t in ([("op", ",")] if i else []) + [("val", num(part))]]
        elif kind == "rep":
            new = [("val", _repeating(text))]
        elif kind == "run":
            value = None if len(text) == 1 and not in_text and out[-2:-1] and out[-2][1] == "^" else prev          # r^2 h is no hour
            new = _letters(text, value, spaced, in_text, s[pos:pos + 8])
        elif kind == "cmd":
            if text[1:] in _FUNCS - {"sqrt"}:
                new = [("fn", text[1:])]
            elif text[1:] in _CONSTS:
                new = [("val", _CONSTS[text[1:]])]
            elif text[1:] == "Omega" and prev and prev[0] == "val" and prev[1][0] == "n":
                new = [("unit", _UNITS["ohm"])]
            elif text[1:].removeprefix("var") in _GREEK:
                new = [("val", ("s", text[1:].removeprefix("var")))]
            elif _COMMANDS.get(text[1:]):
                new = [("op", _COMMANDS[text[1:]])]
            elif text[1:] in ("mathrm", "mathbf", "text", "boxed", "mathit", "textbf", "boldsymbol") and s[pos:pos + 1] == "{":
                continue
            else:
                raise Refuse("unknown command")
        elif kind == "accent":
            mark, name = re.match(r"\\(\w+?)\s*\{?\s*([A-Za-z]+)\s*\}?$", text).groups()
            new = [("val", ("s", mark + " " + name))]
        elif kind == "reals":
            new = [("val", ("seq", "(", ")", (mul(MINUS, INF), INF)))]
        elif kind == "begin":
            new = [("begin", m["begin"])]
        else:
            text = "per" if text == "/" and prev and prev[0] == "unit" else text            # km/h
            new = [("op", {"\\%": "%", "**": "^", "==": "=", "\\\\": "row"}.get(text, "end" if kind == "end" else text))]
        if new[0][0] == "op" and new[0][1] in ("(", "[", "\\{", ")", "]", "\\}"):
            depth += 1 if new[0][1] in ("(", "[", "\\{") else -1
        out += [(k, v, spaced and i == 0) for i, (k, v) in enumerate(new)]
        spaced = False
    return out


# ---------------------------------------------------------------- parser

class Parser:
    r"""answer := relation {, relation};  relation := union [= < ...] union;  union := ratio \cup ratio;  then + - * / ^ as usual."""

    def __init__(self, tokens):
        self.t, self.i, self.depth, self.bars = tokens, 0, 0, 0

    def peek(self, ahead=0):
        return self.t[self.i + ahead] if self.i + ahead < len(self.t) else ("stop", None, False)

    def op(self, *values):
        """Consumes the next token if it is one of these operators."""
        kind, value, _ = self.peek()
        if kind == "op" and value in values:
            self.i += 1
            return value
        return None

    def want(self, *values):
        return self.op(*values) or self.fail()

    def fail(self):
        raise Refuse("syntax")

    def items(self):
        out = [self.relation()]
        while self.op(",", ";"):
            while self.op(","):             # "1, 2, and 3"
                pass
            out.append(self.relation())
        return out

    def relation(self):
        self.op("~")                        # "\approx 3.1"
        sides, ops, approx = [self.union()], [], False
        while o := self.op("=", "~", "<", ">", "<=", ">=", "!=", "in"):
            approx = approx or o == "~"
            ops.append("=" if o == "~" else o)
            sides.append(self.union())
        if not ops:
            return sides[0]
        if ops == ["in"]:
            return sides[1]
        if all(o == "=" for o in ops):
            return self.equation(sides, approx)
        if all(o in (">", ">=") for o in ops):
            sides, ops = sides[::-1], [o.replace(">", "<") for o in ops[::-1]]
        if all(o in ("<", "<=") for o in ops) or ops == ["!="]:
            return ("rel", *[x for pair in zip(ops, sides) for x in pair], sides[-1])
        raise Refuse("mixed relation")

    def equation(self, sides, approx):
        """name = value stays a relation; a = b without a name must hold, and then its end is the answer, as in 2+3=5."""
        names, values = [s for s in sides if _name(s)], [s for s in sides if not _name(s)]
        if len(values) > 1 and (names or len(sides) > 2 or approx or not _has_letters(tuple(sides)) or scalar_identity(values)):
            if not approx and not scalar_identity(values):
                raise Refuse("does not hold")
            values = [values[0] if approx else values[-1]]          # sqrt2 = 1.41 is no identity: the exact side counts
            if not names:
                return values[0]
        return ("rel", "=", names[0], values[0]) if names and values else ("rel", "=", *sides)

    def union(self):
        parts = [self.ratio()]
        while self.op("cup") or (parts[0][0] == "seq" and self.peek()[:2] == ("val", ("s", "U")) and self.skip()):
            parts.append(self.ratio())
        return parts[0] if len(parts) == 1 else ("union", tuple(parts))

    def skip(self):
        self.i += 1
        return True

    def ratio(self):
        parts = [self.sum()]
        while self.op(":"):
            parts.append(self.sum())
        if len(parts) > 1:
            _finite(*parts)
        return parts[0] if len(parts) == 1 else ("ratio", tuple(parts))

    def sum(self):
        total = [self.term()]
        while o := self.op("+", "-", "pm", "mp"):
            sign = {"+": ONE, "-": MINUS, "pm": PM, "mp": mul(MINUS, PM)}[o]
            total.append(mul(sign, self.term()))
        return total[0] if len(total) == 1 else add(total)

    def term(self):
        factors = [self.unary()]
        while True:
            kind, value, spaced = self.peek()
            if o := self.op("*", "/", "mod", "per"):
                right = self.unary()
                if o == "mod":
                    factors = [func("mod", mul(*factors), right)]
                else:
                    factors.append(right if o == "*" else power(right, MINUS))
            elif not self.starts_factor():
                return mul(*factors) if len(factors) > 1 else factors[0]
            else:
                before, last = self.t[self.i - 1], factors[-1]
                whole = before[0] == "val" and before[1][0] == last[0] == "n" and last[1].denominator == 1       # the 1 of 1\frac12 or 1 1/2
                if kind == "val" and value[0] == "n":
                    if before[:2] == ("op", "!"):                         # 3!2!
                        factors.append(self.unary(sign=False))
                        continue
                    if not (whole and spaced and self.peek(1)[:2] == ("op", "/") and self.peek(2)[0] == "val"):
                        raise Refuse("two numbers side by side")          # 5 5 is not 25
                    self.i += 1
                    right = mul(value, power((self.op("/"), self.single())[1], MINUS))
                else:
                    right = self.unary(sign=False)
                if whole and (value == "frac" or kind == "val" and value[0] == "n") and right[0] == "n" and 0 < right[1] < 1:
                    factors[-1] = num(last[1] + right[1] * (-1 if last[1] < 0 else 1))
                elif right[0] == "n" and (value == "{" or kind == "val" and value[0] == "n"):
                    raise Refuse("two numbers side by side")
                else:
                    factors.append(right)

    def starts_factor(self):
        kind, value, _ = self.peek()
        return kind in ("val", "fn", "unit") or kind == "op" and (value in ("(", "[", "{", "frac", "sqrt", "binom", "lfloor", "lceil")
                                                                 or value == "|" and not self.bars)

    def unary(self, sign=True):
        self.enter()
        o = self.op("-", "+", "pm", "mp") if sign else None
        if o:
            inner = self.unary()
            out = inner if o == "+" else mul({"-": MINUS, "pm": PM, "mp": mul(MINUS, PM)}[o], inner)
        else:
            out = self.power()
        self.depth -= 1
        return out

    def enter(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refuse("too deep")

    def power(self):
        base = self.postfix()
        if self.op("^"):
            base = power(base, self.exponent())
            base = self.postfix(base)
        return base

    def exponent(self):
        self.enter()
        if self.peek()[:2] in (("op", "-"), ("op", "+")):
            return self.unary()
        out = self.postfix()
        if self.op("^"):                    # plain 2^3^2 groups to the right
            out = power(out, self.exponent())
        self.depth -= 1
        return out

    def postfix(self, out=None):
        out = out or self.atom()
        while o := self.op("!", "%", "°", "_", "'"):
            if o == "!":
                if self.peek()[:2] == ("op", "!"):
                    raise Refuse("double factorial")
                out = func("fact", out)
            elif o == "_":
                out = self.subscript(out)
            elif o == "'":
                out = ("s", out[1] + "'") if out[0] == "s" else self.fail()
            else:
                out = mul(out, num(Fraction(1, 100)) if o == "%" else ("c", "deg"))
        return out

    def subscript(self, base):
        start = self.i
        sub = self.group() if self.peek()[:2] == ("op", "{") else self.single()
        if base[0] == "s":
            return ("s", base[1] + "_" + repr([t[1] for t in self.t[start:self.i] if t[1] not in ("{", "}")]))
        if base[0] == "n" and sub[0] == "n" and sub[1] in range(2, 37) and base[1].denominator == 1:
            digits = str(base[1].numerator) if base[1] < 10 ** 40 else ""
            if digits.isdigit() and all(int(d) < sub[1] for d in digits):
                return num(int(digits, int(sub[1])))                # 1011_2
        raise Refuse("subscript")

    def single(self):
        """An argument without braces: TeX takes one token, and one digit."""
        kind, value, _ = self.peek()
        if kind != "val":
            return self.atom() if value == "sqrt" or value == "(" else self.fail()
        self.i += 1
        return value

    def group(self):
        self.want("{")
        out = self.listed(self.items())
        self.want("}")
        return out

    def listed(self, items):
        return items[0] if len(items) == 1 else ("set", tuple(items))

    def argument(self):
        return self.group() if self.peek()[:2] == ("op", "{") else self.single()

    def atom(self):
        self.enter()
        kind, value, _ = self.peek()
        self.i += 1
        if kind in ("val", "unit"):
            out = value
            if value in (("s", "f"), ("s", "g"), ("s", "h")) and self.peek()[:2] == ("op", "("):
                self.i += 1
                args = self.items()
                _finite(*args)
                self.want(")")
                out = ("f", "call " + value[1], *args)
        elif kind == "fn":
            out = self.function(value)
        elif kind == "begin":
            out = self.matrix(value)
        elif kind == "op":
            out = self.bracket(value)
        else:
            raise Refuse("syntax")
        self.depth -= 1
        return out

    def bracket(self, o):
        if o in ("(", "["):
            items = self.items()
            close = self.want(")", "]")
            if len(items) == 1 and (o, close) in (("(", ")"), ("[", "]")):
                return items[0]
            return ("seq", o, close, tuple(items))
        if o == "\\{":
            items = [] if self.peek()[:2] == ("op", "\\}") else self.items()
            self.want("\\}")
            return ("set", tuple(items))
        if o == "{":
            self.i -= 1
            return self.group()
        if o in ("$", "€", "£", "¥"):
            amount = self.unary()
            return mul(amount, ("u", Fraction(1), {"$": "USD", "€": "EUR", "£": "GBP", "¥": "RMB"}[o]))
        if o in ("|", "lfloor", "lceil"):
            self.bars += o == "|"
            inner = self.sum()
            self.want({"|": "|", "lfloor": "rfloor", "lceil": "rceil"}[o])
            self.bars -= o == "|"
            return func({"|": "abs", "lfloor": "floor", "lceil": "ceil"}[o], inner)
        if o == "frac":
            top, low = self.argument(), self.argument()
            return mul(top, power(low, MINUS))
        if o == "binom":
            return func("binom", self.argument(), self.argument())
        if o == "sqrt":
            return self.root()
        raise Refuse("syntax")

    def root(self):
        index = num(2)
        if self.op("["):
            index = self.sum()
            self.want("]")
        inner = self.group() if self.peek()[:2] == ("op", "{") else self.single()
        if index == num(2):
            return power(inner, num(Fraction(1, 2)))
        return func("root", inner, index)

    def function(self, name):
        if name == "sqrt":
            return self.root()
        exponent = base = None
        for _ in range(2):
            if self.op("^"):
                exponent = self.exponent()
            elif self.op("_"):
                base = self.argument()
        if exponent == MINUS and name in ("sin", "cos", "tan"):
            name, exponent = "arc" + name, None
        if self.peek()[:2] in (("op", "("), ("op", "[")):
            close = {"(": ")", "[": "]"}[self.peek()[1]]
            self.i += 1
            args = self.items()
            self.want(close)
        elif self.peek()[:2] == ("op", "{"):
            args = [self.group()]
        else:                               # \sin 2x: a product without signs, up to the next function
            args = [self.unary() if self.peek()[:2] == ("op", "-") else self.power()]
            while self.starts_factor() and self.peek()[0] != "fn" and self.peek()[:2] not in (("op", "("), ("op", "|")) \
                    and not (self.peek()[0] == "val" and self.peek()[1][0] == "n"):
                args[0] = mul(args[0], self.power())
        if name == "log" and len(args) == 1:
            args.append(base or num(10))
        elif name == "lg" or name == "exp":
            args = args + [num(10)] if name == "lg" else args
            name = "log" if name == "lg" else name
        if len(args) != {"log": 2, "gcd": len(args), "lcm": len(args), "max": len(args), "min": len(args)}.get(name, 1):
            raise Refuse("arguments")
        out = power(("c", "e"), args[0]) if name == "exp" else func(name, *args)
        return power(out, exponent) if exponent else out

    def matrix(self, env):
        if env not in ("pmatrix", "bmatrix", "matrix", "smallmatrix", "array", "Bmatrix", "cases", "aligned"):
            raise Refuse("environment")
        rows = [[self.relation()]]
        while not self.op("end"):
            o = self.want("&", "row", ",")
            if o == "row":
                if self.peek()[:2] == ("op", "end"):
                    continue
                rows.append([self.relation()])
            elif o == "&":
                rows[-1].append(self.relation())
        if env in ("cases", "aligned"):
            return ("list", tuple(r[0] for r in rows)) if all(len(r) == 1 for r in rows) else self.fail()
        return ("matrix", tuple(map(tuple, rows)))


def _substitute(n, value):
    """n with the plus-minus marker replaced."""
    if n == PM:
        return value
    if n[0] in ("+", "*"):
        parts = [_substitute(x, value) for x in n[1]]
        return add(parts) if n[0] == "+" else mul(*parts)
    if n[0] == "^":
        return power(_substitute(n[1], value), _substitute(n[2], value))
    if n[0] == "f":
        return func(n[1], *(_substitute(x, value) for x in n[2:]))
    if n[0] in SCALAR:
        return n
    return tuple(x if isinstance(x, str) else _substitute(x, value) if x and isinstance(x[0], str) else
                 tuple(_substitute(y, value) for y in x) for x in n)


def _contains(n, leaf) -> bool:
    return n == leaf or isinstance(n, tuple) and any(_contains(x, leaf) for x in n)


_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/-]\d{1,2}[/-]\d{4}|\d{4}/\d{1,2}/\d{1,2}")
_TEXT_NAME = re.compile(r"((?:m\s*)?\\(?:angle|widehat)[^=<>,]{1,20}|[\s\x02]*[A-Za-z]{3,}[A-Za-z \x02\x03]*)=([^=<>]+)")    # \angle ABC = 50, Area = 5
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(?:([ap])m)?", re.I)


@lru_cache(maxsize=4096)
def _parse(s: str, thousands: bool = True):
    """Tree of a cleaned answer, or None if it is not in the grammar and has to be compared as text."""
    plain = s.replace(_TEXT, "").replace(_END, "")
    words = re.findall(r"[A-Za-z]+", plain)
    if len(s) > MAX_CHARS or _DATE.fullmatch(plain):
        return None
    if re.fullmatch(r"[A-Za-z][A-Za-z \-'.]+", plain) and not any(w.lower() in ("and", "or", "pi", "inf", "infinity") or w in _FUNCS for w in words):
        # letters only: a word, unless it is a short product of letters that are usual variables together
        if not (len(plain) <= 3 and any(set(plain) <= set(family) for family in ("abc", "xyzt", "mnpqk", "uvw", "rst"))):
            if not re.fullmatch(r"[a-zA-Z]-[a-zA-Z]", plain):
                return None
    named = _TEXT_NAME.fullmatch(s)
    if named and (value := _parse(named[2], thousands)):
        return ("rel", "=", ("s", _as_text(named[1])), value) if value[0] not in ("rel", "list") else None
    s = re.sub(r"^\](.*)\[$", r"(\1)", s)                    # ]0,1[ is the French open interval
    try:
        parser = Parser(_tokens(s, thousands))
        items = parser.items()
        if parser.i < len(parser.t):
            return None
        if any(_contains(x, PM) for x in items):
            items = [_substitute(x, sign) for x in items for sign in ((ONE, MINUS) if _contains(x, PM) else (ONE,))]
        return items[0] if len(items) == 1 else ("list", tuple(items))
    except (Refuse, ArithmeticError, ValueError, RecursionError):
        return None


# ---------------------------------------------------------------- equality of expressions

PRIMES = (926889744478186291877650722637140821, 312256317659358735440852067313319287)     # random, so no power is 1 by design


class Budget:
    """What one comparison may spend, and its source of points. Seeded by the two texts: deterministic, and nobody can aim at the points."""

    def __init__(self, seed: str):
        self.left, self.seed, self.points = BUDGET, seed, {}

    def spend(self, cost):
        self.left -= cost
        if self.left < 0:
            raise Refuse("budget")

    def point(self, name, k) -> Fraction:
        key = (name, k)
        if key not in self.points:
            rng = random.Random(f"{self.seed}|{name}|{k}".encode("utf-8", "surrogatepass"))
            scale = (1, 3, 1, 3, 9, 1)[k % 6]
            value = Fraction(rng.randrange(10 ** 9, 10 ** 10), 10 ** 10) * scale
            self.points[key] = -value if k in (2, 3) or k == 4 and rng.random() < 0.5 else value
        return self.points[key]


def _mod(n, p, k, budget):
    """Value of a rational expression modulo p, pi and units being letters; Refuse if it is not rational or has a zero denominator."""
    budget.spend(1)
    kind = n[0]
    if kind == "n" or kind == "u":
        if n[1].denominator % p == 0:
            raise Refuse("zero")
        v = n[1].numerator * pow(n[1].denominator, -1, p)
        return v * _mod(("s", n[2]), p, k, budget) % p if kind == "u" else v % p
    if kind == "s" or n == ("c", "pi"):
        v = budget.point(n[1] if kind == "s" else "\\pi", k)
        return v.numerator * pow(v.denominator, -1, p) * 3 ** 200 % p
    if n == ("c", "deg"):
        return _mod(("c", "pi"), p, k, budget) * pow(180, -1, p) % p
    if kind == "+":
        return sum(_mod(x, p, k, budget) for x in n[1]) % p
    if kind == "*":
        out = 1
        for x in n[1]:
            out = out * _mod(x, p, k, budget) % p
        return out
    if kind == "^" and n[2][0] == "n" and n[2][1].denominator == 1:
        e = n[2][1].numerator
        b = _mod(n[1], p, k, budget)
        budget.spend(e.bit_length() // 10)
        if b == 0 and e < 0:
            raise Refuse("zero")
        return pow(b, e, p)
    raise Refuse("not rational")


_LOCAL = threading.local()     # mpmath's global context is shared between threads; ours is per thread


class Work:
    """One numeric evaluation: precision, and the range of magnitudes that occurred (in decimal digits)."""

    def __init__(self, digits, budget):
        import mpmath       # only when a root or a sine is really there
        if not hasattr(_LOCAL, "mp"):
            _LOCAL.mp = mpmath.ctx_mp.MPContext()
        self.mp, self.digits, self.budget, self.high, self.low, self.real = _LOCAL.mp, digits, budget, 0, 0, True
        self.mp.dps = digits

    def letter(self, name, k):
        v = self.budget.point(name, k)
        return self.mp.mpf(v.numerator) / v.denominator

    def note(self, v):
        self.budget.spend(1 + self.digits // 60)
        if not self.mp.isfinite(v):
            raise Refuse("not finite")
        self.real = self.real and self.small(self.mp.im(v))
        if v != 0:
            mag = int(self.mp.mag(v) * 0.302)
            if abs(mag) > MAX_DIGITS:
                raise Refuse("too large or too small")
            self.high, self.low = max(self.high, mag), min(self.low, mag)
        return v

    def small(self, v):
        return v == 0 or self.mp.mag(v) * 0.302 < -0.6 * self.digits


def _value(n, k, w):
    """mpmath value of an expression. Raises Refuse rather than work on anything huge."""
    mp, kind = w.mp, n[0]
    if kind == "n":
        return w.note(mp.mpf(n[1].numerator) / n[1].denominator)
    if kind == "s":
        return w.letter(n[1], k)
    if kind == "u":
        return w.note(w.letter(n[2], k) * n[1].numerator / n[1].denominator)
    if kind == "c":
        if n in (INF, PM):
            raise Refuse("not a number")
        return {"pi": lambda: +mp.pi, "e": lambda: +mp.e, "i": lambda: mp.mpc(0, 1), "deg": lambda: mp.pi / 180}[n[1]]()
    if kind == "+":
        return w.note(mp.fsum(_value(x, k, w) for x in n[1]))
    if kind == "*":
        out = mp.mpf(1)
        for x in n[1]:
            out = w.note(out * _value(x, k, w))
        return out
    if kind == "^":
        return w.note(_power(_value(n[1], k, w), n[2], k, w))
    if n[1].startswith("call"):
        return w.letter(repr(n), k)
    return w.note(_function(n[1], [_value(x, k, w) for x in n[2:]], w))


def _power(b, exponent, k, w):
    mp = w.mp
    e = _value(exponent, k, w)
    if w.small(b):
        if mp.re(e) <= 0:
            raise Refuse("division by something that is zero as far as we can see")
        return mp.mpf(0) if b == 0 else b ** e
    log = mp.log(b) * e
    if abs(log) > 2.3 * MAX_DIGITS:
        raise Refuse("too large")
    if exponent[0] == "n" and exponent[1].denominator == 1:
        return b ** int(exponent[1])
    return mp.exp(log)


def _function(name, a, w):
    mp, x = w.mp, a[0]
    if name in ("floor", "ceil"):
        near = mp.nint(mp.re(x))
        return near if w.small(x - near) else getattr(mp, name)(x)
    if name == "root":
        k = a[1]
        if k == mp.nint(k) and int(k) % 2 and mp.im(x) == 0 and mp.re(x) < 0:
            return -mp.exp(mp.log(-x) / k)          # the real cube root, as in school
        return mp.exp(mp.log(x) / k) if not w.small(x) else mp.mpf(0)
    if name in ("ln", "log"):
        if w.small(x) or name == "log" and (w.small(a[1]) or w.small(a[1] - 1)):
            raise Refuse("log of zero")
        return mp.log(x) / (mp.log(a[1]) if name == "log" else 1)
    if name in ("fact", "binom"):
        w.budget.spend(300)             # the gamma function is slow, and far slower beyond a few hundred digits
        if w.digits > 400 or max(abs(v) for v in a) > 300:
            raise Refuse("too large")
    if name in ("sinh", "cosh", "tanh") and abs(x) > 3000:
        raise Refuse("too large")
    if name in ("max", "min", "gcd", "lcm", "mod"):
        if name not in ("max", "min") or any(mp.im(v) for v in a):
            raise Refuse("integers wanted")
        return max(a) if name == "max" else min(a)
    table = {"abs": abs, "fact": mp.factorial, "binom": mp.binomial, "arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan}
    if name in ("tan", "sec") and w.small(mp.cos(x)) or name in ("cot", "csc") and w.small(mp.sin(x)):
        raise Refuse("pole")
    return (table.get(name) or getattr(mp, name))(*a)


def _numeric_equal(a, b, budget) -> bool:
    """Two precisions, several points. Only points where everything is real count, unless i occurs or no point is real."""
    has_i = _contains(a, ("c", "i")) or _contains(b, ("c", "i"))
    symbolic = _has_letters(a) or _has_letters(b)
    real, complex_ = [], []
    for k in range(6 if symbolic else 1):
        try:
            verdict, is_real = _agree(a, b, k, budget)
        except ZeroDivisionError:
            continue
        (real if is_real or has_i else complex_).append(verdict)
        if verdict is False and (is_real or has_i):
            return False
    votes = real or complex_
    return bool(votes) and all(votes)


def _agree(a, b, k, budget):
    digits = 60
    for attempt in range(2):
        w = Work(digits, budget)
        x, y = _value(a, k, w), _value(b, k, w)
        is_real = w.real
        gap, size = abs(x - y), max(abs(x), abs(y), 1)
        if gap > size * w.mp.mpf(10) ** int(-0.6 * digits + (w.high - w.low if attempt == 0 else 0)):
            return False, is_real
        digits = 200 + 2 * (w.high - w.low)
        if digits > MAX_DIGITS:
            raise Refuse("scale too wide")
    return True, is_real


def _has_letters(n) -> bool:
    """Does a tree hold a variable, a unit or an unknown function?"""
    return isinstance(n, tuple) and (n[:1] in (("s",), ("u",)) or n[:1] == ("f",) and n[1].startswith("call") or any(map(_has_letters, n)))


def scalar_identity(nodes) -> bool:
    try:
        return all(n[0] in SCALAR and scalar_equal(nodes[0], n, Budget("")) for n in nodes)
    except Refuse:
        return False


def scalar_equal(a, b, budget) -> bool:
    if a == b:
        return True
    if a[0] == b[0] == "n" or _contains(a, INF) or _contains(b, INF):
        return False
    budget.spend(1)
    try:
        return all(_mod(a, p, k, budget) == _mod(b, p, k, budget) for k, p in enumerate(PRIMES))
    except Refuse:
        return _numeric_equal(a, b, budget)


# ---------------------------------------------------------------- equality of answers

def _drop_units(n):
    """(n without its units, whether there were any): 5 cm^2 and a sum are looked at, functions are not."""
    if n[0] == "u":
        return ONE, True
    if n[0] == "^" and n[1][0] == "u":
        return ONE, True
    if n[0] == "*":
        parts = [_drop_units(x) for x in n[1]]
        return mul(*(x for x, _ in parts)), any(u for _, u in parts)
    return n, False


def _name(n) -> bool:
    """Can n stand left of '=' as the name of the answer? x, x_1, f(x), AB."""
    return n[0] in ("s", "c") and n != INF or n[0] == "f" and (n[1].startswith("call")) or n[0] == "*" and all(x[0] == "s" for x in n[1])


def _named(n):
    """(name, value) of x=5 or 5=x, else None."""
    if n[0] == "rel" and n[1] == "=":
        if _name(n[2]):
            return n[2], n[3]
        if _name(n[3]):
            return n[3], n[2]
        if n[2][0] == "seq" and all(map(_name, n[2][3])):            # (x,y) = (1,2)
            return n[2], n[3]
    return None


def _interval(n):
    """The interval of a < x <= b, x > a and the like, or None."""
    if n[0] != "rel" or n[1] not in ("<", "<="):
        return None
    ops, sides = [x for x in n[1:] if isinstance(x, str)], [x for x in n[1:] if not isinstance(x, str)]
    left, right = {"<": "(", "<=": "["}, {"<": ")", "<=": "]"}
    if len(sides) == 3 and sides[1][0] == "s":
        return ("seq", left[ops[0]], right[ops[1]], (sides[0], sides[2]))
    if len(sides) == 2 and sides[0][0] == "s":
        return ("seq", "(", right[ops[0]], (mul(MINUS, INF), sides[1]))
    if len(sides) == 2 and sides[1][0] == "s":
        return ("seq", left[ops[0]], ")", (sides[0], INF))
    return None


def _match(xs, ys, budget) -> bool:
    """Order-free matching: equal normal forms first, the few others pair by pair."""
    counts = Counter(ys)
    left = []
    for x in xs:
        if counts[x]:
            counts[x] -= 1
        else:
            left.append(x)
    rest = list(counts.elements())
    if len(left) != len(rest) or len(left) > 40:
        return False
    for x in left:
        hit = next((i for i, y in enumerate(rest) if same(x, y, budget)), None)
        if hit is None:
            return False
        rest.pop(hit)
    return True


def _distinct(xs, budget):
    out = []
    for x in dict.fromkeys(xs):
        if len(out) > 40 or not any(same(x, y, budget) for y in out):
            out.append(x)
    return out


def _ordered(xs, ys, budget) -> bool:
    return len(xs) == len(ys) and all(same(x, y, budget) for x, y in zip(xs, ys))


def _assignment(n):
    """Values of x=1, y=2 in the order of their names, or None."""
    pairs = [_named(x) for x in n[1]] if n[0] == "list" else []
    if len(pairs) > 1 and all(pairs) and len({p[0] for p in pairs}) == len(pairs):
        return [v for _, v in sorted(pairs, key=lambda p: str(p[0]))]
    return None


def _rows(n):
    """A matrix as rows, also from [[1,2],[3,4]]; vectors as one column."""
    if n[0] == "matrix":
        return n[1]
    if n[0] == "seq" and all(x[0] == "seq" and len(x[3]) > 1 for x in n[3]):
        return tuple(x[3] for x in n[3])
    return None


def same(a, b, budget) -> bool:
    """Are two parsed answers equal? Symmetric: every rule that looks at one side is tried on the other too."""
    budget.spend(1)
    if a == b:
        return True
    if a[0] in SCALAR and b[0] in SCALAR:
        if scalar_equal(a, b, budget):
            return True
        (x, ux), (y, uy) = _drop_units(a), _drop_units(b)
        return ux != uy and scalar_equal(x, y, budget)
    if a[0] == b[0] == "rel":
        return _same_relation(a, b, budget)
    return _same_kinds(a, b, budget) or _same_kinds(b, a, budget)


def _same_relation(a, b, budget):
    ops_a, ops_b = ([x for x in n[1:] if isinstance(x, str)] for n in (a, b))
    sides_a, sides_b = ([x for x in n[1:] if not isinstance(x, str)] for n in (a, b))
    if ops_a != ops_b:
        return False
    if _ordered(sides_a, sides_b, budget) or ops_a in (["="], ["!="]) and _ordered(sides_a, sides_b[::-1], budget):
        return True
    if ops_a == ["="]:
        pairs = [_named(a), _named(b)]
        if any(p and not _has_letters(p[1]) for p in pairs) or not all(s[0] in SCALAR for s in sides_a + sides_b):
            return False                    # an unsolved 2x=10 is not x=5
    elif ops_a not in (["<"], ["<="]) or not all(s[0] in SCALAR for s in sides_a + sides_b):
        return False
    # one line, one half-plane: the differences are proportional, with a positive factor for inequalities
    try:
        fa, fb = (add([s[0], mul(MINUS, s[1])]) for s in (sides_a, sides_b))
        p = PRIMES[0]
        va, vb = ([_mod(f, p, k, budget) for k in range(3)] for f in (fa, fb))
        if not all(va) or not all(vb) or any(va[0] * vb[k] % p != va[k] * vb[0] % p for k in (1, 2)):
            return False
        w = Work(60, budget)
        return ops_a == ["="] or _value(fa, 0, w) * _value(fb, 0, w) > 0
    except Refuse:
        return False


def _same_kinds(a, b, budget):
    if _named(a) and b[0] != "rel" and (b[0] != "list" or _named(a)[0][0] == "seq" and _assignment(b)):
        return same(_named(a)[1], b, budget)
    if a[0] == "list" and b[0] in ("list", "seq"):
        x, y = _assignment(a), _assignment(b)
        if (x or y) and b[0] == "seq" or (x is None) != (y is None):
            return _ordered(x or a[1], y or (b[3] if b[0] == "seq" else b[1]), budget)
        return _match(a[1], b[1], budget) if b[0] == "list" else (b[1:3] == ("(", ")") or len(b[3]) > 2) and _ordered(a[1], b[3], budget)
    if a[0] == "set":
        other = b[1] if b[0] in ("set", "list") else (b,)
        return _match(_distinct(a[1], budget), _distinct(other, budget), budget)
    if a[0] == "seq" and b[0] == "seq":
        brackets = len(a[3]) != 2 or a[1:3] == b[1:3]
        if brackets and _ordered(a[3], b[3], budget):
            return True
    if _rows(a) and (_rows(b) or b[0] == "seq"):
        rows = _rows(b) or (tuple((x,) for x in b[3]) if len(_rows(a)) > 1 else (b[3],))
        return len(rows) == len(_rows(a)) and all(_ordered(x, y, budget) for x, y in zip(_rows(a), rows))
    if a[0] == "union" and b[0] == "union":
        return _match(a[1], b[1], budget)
    if a[0] == "union" and b[0] == "list":          # x<1 or x>2
        return _match(a[1], [(_interval(x) if x[0] == "rel" else x) or x for x in b[1]], budget)
    if a[0] == "rel" and _interval(a) and b[0] == "seq":
        return same(_interval(a), b, budget)
    if a[0] == "ratio":
        if b[0] == "ratio" and len(a[1]) == len(b[1]):
            return all(scalar_equal(mul(x, b[1][0]), mul(y, a[1][0]), budget) for x, y in zip(a[1], b[1])) and ZERO not in a[1] + b[1]
        return b[0] in SCALAR and len(a[1]) == 2 and a[1][1] != ZERO and scalar_equal(mul(a[1][0], power(a[1][1], MINUS)), b, budget)
    return False


def _clock(s):
    """(minutes past midnight with seconds, am/pm known) of a clock time, or None."""
    m = _CLOCK.fullmatch(s)
    if not m or not (m[2] or m[4]) or int(m[1]) > 24 or int(m[2] or 0) > 59 or (m[4] and not 0 < int(m[1]) <= 12):
        return None
    hour = int(m[1]) if not m[4] else int(m[1]) % 12 + 12 * (m[4].lower() == "p")
    return hour, int(m[2] or 0), int(m[3] or 0), bool(m[4])


def _option_letters(s):
    """The set of letters of a multiple-choice answer (B, (B), "A, C", "A and C", "AC"), or None."""
    s = re.sub(r"[(\[]\s*([A-Ja-j])\s*[)\]]", r"\1", re.sub(r"[\x02\x03\s]+", " ", s).strip())
    s = re.sub(r"^([A-Ja-j])\)$", r"\1", s)
    letters = re.split(r"\s*(?:,|;|\\?&|\band\b)\s*", s)
    if all(re.fullmatch("[A-Ja-j]", x) for x in letters):
        return frozenset(x.upper() for x in letters)
    if re.fullmatch(r"A?B?C?D?E?F?G?H?", s) and len(s) > 1:
        return frozenset(s)
    return None


def _word_list(s):
    """The words of "red, blue and green" in alphabetical order (solutions have no order), or None."""
    parts = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.sub(r"[\x02\x03]", " ", s).strip().lower())
    return sorted(parts) if len(parts) > 1 and all(re.fullmatch(r"[a-z][a-z' -]+", w) for w in parts) else None


_EQUATION = re.compile(r"[A-Za-z]\s*=([^=]*\w[^=]*)")
_HEDGE = re.compile(r"[\s(\x02]*[A-J][\s)\x03]*(?:,[\s(\x02]*[A-J][\s)\x03]*)*,?[\s\x02]*or[\s(\x02\x03]*[A-J][\s)\x03]*")       # "A or B" is not a selection


def _label(s):
    """('B', '12') of "B) 12", "(B) 12", "B. 12 cm"; None if there is no label or the rest names another option."""
    m = re.fullmatch(r"[\s\x02]*(?:\(\s*([A-J])\s*\)|([A-J])\s*[.):])(?:[\s\x03]+(\S.*)|[\s\x03]*)", s, re.S)
    rest = (m[3] or "").strip() if m else ""
    if not m or re.search(r"\b[A-J]\s*[.):]|\([A-J]\)|\bor\b|\bnot\b|\band\b|(?:^|[,;/&|])\s*[A-J]\b", rest):
        return None
    return m[1] or m[2], rest


def _equal_clean(a: str, b: str) -> bool:
    """Two cleaned, unequal texts."""
    la, lb = _option_letters(a), _option_letters(b)
    if la and lb and la == lb and (len(la) > 1 or len(a) + len(b) < 20):
        return True
    if bool(_HEDGE.fullmatch(a)) != bool(_HEDGE.fullmatch(b)):
        return False
    pa, pb = _label(a), _label(b)
    if pa and pb:
        return pa[0] == pb[0] and (not pa[1] or not pb[1] or answers_equal(pa[1], pb[1]))
    if pa or pb:
        (letter, rest), other, letters = (pa, b, lb) if pa else (pb, a, la)
        if letters == {letter} or rest and answers_equal(rest, other):
            return True
    ca, cb = _clock(re.sub(r"[\s.\x02\x03]", "", a)), _clock(re.sub(r"[\s.\x02\x03]", "", b))
    if ca and cb:
        known = ca[3] and cb[3] or any(c[0] > 12 and not c[3] for c in (ca, cb))
        return ca[:3] == cb[:3] if known else (ca[0] - cb[0]) % 12 == 0 and ca[1:3] == cb[1:3]
    ea, eb = _EQUATION.fullmatch(a), _EQUATION.fullmatch(b)
    if bool(ea) != bool(eb) and normalize_answer((ea or eb)[1]) == normalize_answer(b if ea else a):
        return True                 # F = ma against ma, which alone is a word
    ra, rb = _word_list(a), _word_list(b)
    if ra and ra == rb:
        return True
    budget = Budget("\0".join(sorted((a, b))))
    ta, tb = _parse(a), _parse(b)
    try:
        if ta and tb and same(ta, tb, budget):
            return True
        # 100,200 read as a list, if the other side cannot be anything else
        if "," not in a + b:
            return False
        ka, kb = _parse(a, False), _parse(b, False)
        return bool(ka and kb and (ka == ta) != (kb == tb) and same(ka, kb, budget))
    except (Refuse, ArithmeticError, ValueError, RecursionError):
        return False


def answers_equal(a: str, b: str) -> bool:
    """Are two answer strings equal as mathematics, or failing that as text? Symmetric; empty equals nothing; never raises."""
    na, nb = normalize_answer(a), normalize_answer(b)
    if not na or not nb:
        return False
    if na == nb:
        return True
    if len(a) > MAX_RAW or len(b) > MAX_RAW:
        return False
    a, b = _PREFIX.sub("", _clean(a)), _PREFIX.sub("", _clean(b))
    va, vb = _plain_number(a), _plain_number(b)
    if va is not None and vb is not None and "," not in a + b:
        return va == vb
    if len(a) > MAX_CHARS or len(b) > MAX_CHARS:
        return False
    return _equal_clean(a, b)


_SIGNS = re.compile(r"\\?%|\bper\s?cent\b|\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|º|\\degree(?![A-Za-z])|\bdeg(?:ree)?s?\b")


def grade(response: str, gold: str) -> float:
    r"""1.0 if the last \boxed{...} of the response equals the gold answer, else 0.0. Never raises, needs no time limit around it."""
    if not isinstance(gold, str):        # several accepted answers
        return max((grade(response, g) for g in gold), default=0.0)
    answer = last_boxed(response)
    if answer is None:
        return 0.0
    for _ in range(8):           # \boxed{\boxed{5}}; deeper nesting is refused below like any deep nesting
        answer = answer.strip()
        direct, inner = re.match(r"\\boxed\s*\{", answer), last_boxed(answer)
        if not direct or inner is None or direct.end() + len(inner) + 1 != len(answer):        # \boxed{5} or 6 is not just 5
            break
        answer = inner
    if "\\boxed" in gold and (inner := last_boxed(gold)) is not None:
        gold = inner
    if answers_equal(answer, gold):
        return 1.0
    if len(answer) > MAX_CHARS or not (_SIGNS.search(answer) or _SIGNS.search(gold)):
        return 0.0
    return float(answers_equal(_SIGNS.sub("", answer), _SIGNS.sub("", gold)))


def _bench(seconds: float = 3.0):
    """Ordinary short answers, every pair different from the ones before so that no cache helps more than in training."""
    import time
    shapes = [("%d", "%d"), ("%d.5", r"\frac{%d}{2}"), (r"\frac{%d}{7}", "%d/7"), ("%d cm", "%d"), (r"\text{B%d}", "B%d"), ("%d,000", "%d000"),
              ("(%d, 2)", "(%d,2)"), (r"%d\sqrt{3}", r"%d\sqrt3"), ("x=%d", "%d"), (r"%d^\circ", "%d")]
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for answer, gold in shapes:
            for shift in (0, 0, 1, 2):
                grade(r"... so the answer is \boxed{" + answer % (done + shift) + "}.", gold % done)
            done += 4
    print(f"{done / (time.process_time() - start):,.0f} answers/s")


if __name__ == "__main__":
    _bench()
