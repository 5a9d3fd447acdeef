r"""Does a hint give the answer away? Hints of the teacher (ZPPO Appendix D.2, Fig. 19) must be free
of it, and are checked here.

hint_of("<hint>Add the two sides.</hint>", ("5",))       # "Add the two sides."
hint_of("<hint>So it is 5.0 cm.</hint>", ("5",))         # None
"""

import re
from fractions import Fraction

from math_equal import NUMBER_WORDS, answers_equal, options, plain_number
from math_equal import clean as spell
from reformulate import clean
from reward import SIGNS, last_boxed


def hint_of(reply, golds, question="", control=()):
    """The hint inside the last closed <hint></hint>; None if there is none, it holds a box, or
    gives any of the golds away.

    golds: a text or a tuple of accepted ones; question: with its lettered options, whose right text
    must not be said either.
    """
    found = re.findall(r"<hint>((?:(?!</?hint>).)*)</hint>", reply, re.DOTALL)
    hint = clean(found[-1], control) if found else ""
    golds = (golds,) if isinstance(golds, str) else golds
    bad = (
        not hint
        or re.search(r"\\f?box(?:ed)?(?![A-Za-z])", hint)
        or any(gives_away(hint, g, question) for g in golds)
    )
    return None if bad else hint


_NUM = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?"
_NUMBERS = re.compile(rf"(?<![\w.])({_NUM})(\s*\\?%)?")
_QUANTITY = re.compile(
    rf"[\s~$£€¥]*(?:[A-Za-z]\s*=\s*)?({_NUM})[\s~]*(?:\\?%|°|[A-Za-z][A-Za-z.~\s]+[23]?|[mgsLl])?[\s~]*"
)
_SAID_TO_BE = r"(?:\b(?:is|are|be|equals?|to|gives?|gets?|makes?|answer)|[=:])\s+"
_WORD_NUMBERS = re.compile(rf"{_SAID_TO_BE}({'|'.join(NUMBER_WORDS)})\b", re.I)


def gives_away(hint, gold, question=""):
    """Whether a hint says the gold answer: as a number of the same value, as words, as an equal
    formula, as an option.

    A number counts when it stands alone (5 in "5 cm" or "-5", not in "15", "5.2" or "x5"), a number
    word only where it is said to be something ("is five"), a single letter only as an option
    ("(B)", "B.", "option B", "answer is B"). It rather drops a good hint than lets an answer
    through.
    """
    gold = spell((last_boxed(gold) or gold).strip())
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r" \1/\2 ", spell(hint))
    if label := re.fullmatch(r"[(\[]?([A-Z])[.):\]]+[\s~]*(\S.*)", gold):
        return gives_away(hint, label[1], question) or gives_away(hint, label[2])
    letters = options(gold) or ({gold.upper()} if re.fullmatch("[A-Za-z]", gold) else set())
    if letters:
        if all(_as_option(letter, hint) for letter in letters):
            return True
        said = [
            re.search(rf"^[ \t]*\(?{letter}[.):][ \t]+(\S.*)$", question, re.M)
            for letter in letters
        ]
        if any(m and gives_away(hint, m[1]) for m in said):
            return True
    if len(gold) < 2 and not gold.isdigit():
        return False
    if quantity := _QUANTITY.fullmatch(
        re.sub(r"^([-+]?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", SIGNS.sub("", gold))
    ):
        want = plain_number(quantity[1].replace(" ", ""))
        values = {want, want / 100} if "%" in gold else {want}
        for m in _NUMBERS.finditer(text):
            value = plain_number(re.sub(r"\s", "", m[1])) or Fraction(0)
            if {value, abs(value)} & values or m[2] and value / 100 in values:
                return True
        return any(NUMBER_WORDS.index(m[1].lower()) in values for m in _WORD_NUMBERS.finditer(text))
    if any(
        answers_equal(side, gold)
        for m in re.finditer(r"\$([^$]+)\$|\\\((.+?)\\\)", hint)
        for side in {m[1] or m[2], *(m[1] or m[2]).split("=")}
    ):
        return True
    tokens = re.findall(r"\\?[A-Za-z]+|\d+(?:\.\d+)?|\S", gold)
    said = r"[\s~$]*".join(map(re.escape, tokens))
    return (
        re.search(
            rf"(?<![\w.]){said}(?!\w)" if re.match(r"\w", said) else rf"{said}(?!\w)",
            spell(hint),
            re.I,
        )
        is not None
    )


def _as_option(letter, hint):
    low = letter.lower()
    return bool(
        re.search(
            rf"[(\[]\s*[{letter}{low}]\s*[)\]]|(?<![\w.]){letter}\s*[.):](?!\w)|\*\*{letter}\*\*"
            rf"|\b(?i:option|choice|letter)s?\b[\s:(\"'*]*[{letter}{low}](?!\w)"
            rf"|\b(?i:answer|is|be|choose|pick|select)\b[\s:=(\"'*]*{letter}(?!\w|\s+[a-z])",
            hint,
        )
        or hint.strip() in (letter, low)
    )
