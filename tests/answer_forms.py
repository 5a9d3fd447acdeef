r"""Kinds of answers whose values and spellings are known: two spellings of one value must earn 1,
of two values 0.

    python tests/answer_forms.py 100000          # pairs tried; wrong 1s and wrong 0s, by kind

A kind is (draw a value, spell it). Values that are near each other are drawn on purpose: one part
changed, two exchanged, another unit, sign, bracket, half of the day.
"""

import random
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

MONTHS = (
    "January February March April May June July August September October November December".split()
)
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
HAN = "零一二三四五六七八九"
# spellings of a unit; two lists are two units, of other size or kind
UNITS = [
    ["cm", r"\text{ cm}", "centimeters", r"\,\mathrm{cm}", "厘米"],
    ["m", r"\text{ m}", "meters", "metres", "米"],
    ["km", r"\text{ km}", "kilometers", "公里", "千米"],
    ["mm", "millimeters", "毫米"],
    ["kg", r"\text{ kg}", "kilograms", "千克"],
    ["g", r"\text{ g}", "grams", "克"],
    ["mg", "milligrams", "毫克"],
    ["s", "seconds", r"\text{ s}", "秒"],
    ["min", "minutes", r"\text{ min}", "分钟"],
    ["h", "hours", r"\text{ hours}", "小时"],
    ["L", "liters", "升"],
    ["mL", "milliliters", "毫升"],
    ["m^2", "square meters", r"\text{ m}^2", "平方米"],
    ["cm^3", "cubic centimeters", "立方厘米"],
    ["km/h", r"\text{ km/h}", "km per hour"],
    ["m/s", r"\text{ m/s}", "meters per second", "米/秒"],
    ["W", "watts"], ["kW", "kilowatts"], ["MW"], ["mW"], ["N", "newtons"], ["Hz", "hertz"],
    [r"^\circ\text{C}", "°C", "℃"],
    [r"^\circ\text{F}", "°F"],
    ["dollars", "美元"], ["euros", "欧元"], ["yuan", "元"], ["cents"], ["apples"], ["people"],
    ["miles"], ["feet", "ft"], ["inches", "in"], ["pounds"], ["months"], ["years"],
]  # fmt: skip


def one_of(*options):
    return lambda value, rng: rng.choice(options)(value)


def integer(rng):
    return rng.randint(-60, 60)


def in_words(n: int) -> str:
    if n < 0:
        return "minus " + in_words(-n)
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    return f"{in_words(n // 1000)} thousand" + (f" {in_words(n % 1000)}" if n % 1000 else "")


def in_han(n: int) -> str:
    if n < 10:
        return HAN[n]
    if n < 100:
        return ("" if n < 20 else HAN[n // 10]) + "十" + (HAN[n % 10] if n % 10 else "")
    rest = n % 100
    zero = "零" if 0 < rest < 10 else ""
    tens = "一" if 10 <= rest < 20 else ""
    return HAN[n // 100] + "百" + (zero + tens + in_han(rest) if rest else "")


def measure(rng):
    return rng.choice([1, 2, 5, 12, 30, 90, 100]), rng.randrange(len(UNITS))


def spell_measure(value, rng):
    number, unit = value
    spelling = rng.choice(UNITS[unit])
    tight = spelling[0] in "^\\°℃" or spelling[0] > "\u4e00"
    return f"{number}{spelling if tight else ' ' + spelling}"


def same_measure(a, b):
    """1 m is 100 cm."""
    factors = {0: ("l", 1), 1: ("l", 100), 2: ("l", 100_000), 3: ("l", Fraction(1, 10))}
    factors |= {4: ("w", 10**6), 5: ("w", 1000), 6: ("w", 1), 7: ("t", 1), 8: ("t", 60)}
    factors |= {9: ("t", 3600), 10: ("v", 1000), 11: ("v", 1), 13: ("v", 1)}
    factors |= {16: ("p", 1000), 17: ("p", 10**6), 18: ("p", 10**9), 19: ("p", 1)}
    factors |= {14: ("q", Fraction(10, 36)), 15: ("q", 1), 24: ("d", 100), 27: ("d", 1)}
    factors |= {30: ("i", Fraction(63360)), 31: ("i", 12), 32: ("i", 1)}
    factors |= {34: ("y", 1), 35: ("y", 12)}
    (n, u), (m, v) = a, b
    if u == v:
        return n == m
    if u in (30, 31, 32) and v in (0, 1, 2, 3) or v in (30, 31, 32) and u in (0, 1, 2, 3):
        return False  # 2.54 is not among the numbers
    one, other = factors.get(u), factors.get(v)
    return bool(one and other) and one[0] == other[0] and n * one[1] == m * other[1]


def clock(rng):
    return rng.randrange(24), rng.choice([0, 5, 15, 30, 45, 50])


def spell_clock(value, rng):
    hour, minute = value
    half, twelve = ("pm" if hour > 11 else "am"), hour % 12 or 12
    forms = [f"{twelve}:{minute:02d} {half}", f"{twelve}:{minute:02d} {half[0]}.m."]
    forms += [f"{twelve}:{minute:02d}{half.upper()}", rf"{twelve}:{minute:02d}\text{{ {half}}}"]
    if hour > 12:
        forms += [
            f"{hour}:{minute:02d}",
            f"下午{twelve}点{minute}分" if minute else f"下午{twelve}点",
        ]
    if not minute:
        forms.append(f"{twelve} {half}")
    if hour == 12 and not minute:
        forms.append("noon")
    return rng.choice(forms)


def day(rng):
    return rng.randint(1990, 1993), rng.randint(1, 12), rng.randint(1, 28)


def spell_day(value, rng):
    year, month, number = value
    name = MONTHS[month - 1]
    return rng.choice(
        [
            f"{name} {number}, {year}", f"{number} {name} {year}", f"{name[:3]} {number}, {year}",
            f"{year}-{month:02d}-{number:02d}", f"{year}年{month}月{number}日",
            f"{year}/{month}/{number}",
            rf"\text{{{name} {number}, {year}}}", f"{number}th of {name} {year}",
        ]
    )  # fmt: skip


def interval(rng):
    low = rng.randint(-9, 8)
    return low, rng.randint(low + 1, 9), rng.random() < 0.5, rng.random() < 0.5


def spell_interval(value, rng):
    low, high, low_in, high_in = value
    left, right = "(["[low_in], ")]"[high_in]
    less, more = ("<", r"\le"), (">", r"\ge")
    return rng.choice(
        [
            f"{left}{low},{high}{right}", rf"\left{left}{low}, {high}\right{right}",
            f"{'][' [low_in]}{low};{high}{'[]'[high_in]}",
            f"{'][' [low_in]}{low},{high}{'[]'[high_in]}",
            f"{low} {less[low_in]} x {less[high_in]} {high}",
            f"{high} {more[high_in]} x {more[low_in]} {low}",
            rf"x \in {left}{low}, {high}{right}",
            rf"x {more[low_in]} {low} \text{{ and }} x {less[high_in]} {high}",
        ]
    )  # fmt: skip


def ray(rng):
    return rng.randint(1, 20), rng.randrange(4)


def spell_ray(value, rng):
    end, kind = value
    sign = (">", r"\ge", "<", r"\le")[kind]
    words = ("more than", "at least", "less than", "at most")[kind]
    opposite = ("<", r"\le", ">", r"\ge")[kind]
    span = (rf"({end},\infty)", rf"[{end},\infty)", rf"(-\infty,{end})", rf"(-\infty,{end}]")[kind]
    forms = [f"x {sign} {end}", f"{end} {opposite} x", f"{sign} {end}", span, f"{words} {end}"]
    return rng.choice(forms)


def family(rng):
    step = rng.choice([1, 2])
    return Fraction(rng.randrange(0, 12 * step), 12), step


def spell_family(value, rng):
    start, step = value
    start += step * rng.randint(-1, 1)
    letter = rng.choice("knm")
    period = rf"{'' if step == 1 else step}{letter}\pi"
    top, bottom = abs(start.numerator), start.denominator
    size = rf"\frac{{{'' if top == 1 else top}\pi}}{{{bottom}}}" if bottom > 1 else rf"{top}\pi"
    sign = "-" if start < 0 else "+"
    text = rng.choice([rf"{'-' if start < 0 else ''}{size} + {period}", f"{period} {sign} {size}"])
    name = rng.choice(["", "x = "])
    return rf"{name}{text}" + rng.choice(
        [rf", {letter} \in \mathbb{{Z}}", rf" \quad ({letter} \in \mathbb{{Z}})"]
    )


def same_family(a, b):
    return a[1] == b[1] and (a[0] - b[0]) % a[1] == 0


def based(rng):
    base = rng.choice([2, 3, 5, 8])
    return rng.randint(base, 60), base


def spell_based(value, rng):
    number, base = value
    digits, n = "", number
    while n:
        digits, n = str(n % base) + digits, n // base
    words = {2: "two", 3: "three", 5: "five", 8: "eight"}[base]
    forms = [
        f"{digits}_{base}",
        f"{digits}_{{{base}}}",
        f"({digits})_{base}",
        f"{digits} base {base}",
    ]
    forms += [rf"{digits}_{{\text{{{words}}}}}", f"{digits}_{{({base})}}", str(number)]
    return rng.choice(forms)


def formula(rng):
    parts = [
        (rng.choice("C H O N Co Na S Cl".split()), rng.randint(1, 4))
        for _ in range(rng.choice([2, 3]))
    ]
    return tuple(parts)


def same_formula(a, b):
    """None: the same atoms in another order, which may be said to be the same or not."""
    return a == b or (None if sorted(a) == sorted(b) else False)


def spell_formula(value, rng):
    style = rng.randrange(4)
    out = ""
    for symbol, n in value:
        count = "" if n == 1 else (str(n), f"_{n}", f"_{{{n}}}", f"_{n}")[style]
        out += symbol + count
    return (out, out, out, rf"\ce{{{out}}}", rf"\mathrm{{{out}}}")[
        style if style < 3 else rng.choice([3, 4])
    ]


def letters(rng):
    return frozenset(rng.sample("ABCDEF", rng.randint(1, 3)))


def spell_letters(value, rng):
    some = rng.sample(sorted(value), len(value))
    forms = [", ".join(some), ",".join(sorted(some)), " and ".join(some), "".join(sorted(some))]
    forms += [", ".join(f"({c})" for c in some), rf"\text{{{', '.join(some)}}}", "、".join(some)]
    return rng.choice(forms)


def vector(rng):
    return tuple(rng.randint(-4, 9) for _ in range(rng.choice([2, 3])))


def spell_vector(value, rng):
    row = ", ".join(map(str, value))
    column = r" \\ ".join(map(str, value))
    double = r" \\ ".join(str(2 * x) for x in value)
    return rng.choice(
        [
            f"({row})", rf"\langle {row} \rangle", rf"\begin{{pmatrix}} {column} \end{{pmatrix}}",
            rf"\begin{{bmatrix}} {column} \end{{bmatrix}}",
            rf"\frac{{1}}{{2}}\begin{{pmatrix}} {double} \end{{pmatrix}}",
        ]
    )  # fmt: skip


def decimal(rng):
    return Fraction(rng.randint(-400, 400) * 2 + 1, rng.choice([10, 100, 4]))


def spell_decimal(value, rng):
    forms = [
        f"{float(value)}",
        f"{float(value)}0",
        rf"\frac{{{value.numerator}}}{{{value.denominator}}}",
    ]
    forms.append(str(float(value)).replace(".", "{,}"))
    forms += [rf"{float(value * 100):g}\%", rf"{float(value)}\times 10^0"]
    return rng.choice(forms)


def statements(rng):
    return frozenset(rng.sample("①②③④⑤", rng.randint(1, 3)))


def spell_statements(value, rng):
    some = rng.sample(sorted(value), len(value))
    return rng.choice(["", "、", ",", " "]).join(some)


def money(rng):
    return (
        rng.choice([1, 2, 5, 10, 25]),
        rng.choice(["", "thousand", "million", "billion"]),
        rng.choice("$€£"),
    )


def spell_money(value, rng):
    number, scale, sign = value
    words = {"$": "dollars", "€": "euros", "£": "GBP"}[sign]
    zeros = {"": "", "thousand": ",000", "million": ",000,000", "billion": ",000,000,000"}[scale]
    tex = r"\$" if sign == "$" else sign
    forms = [f"{tex}{number}{zeros}", f"{number}{zeros} {words}"]
    if scale:
        forms += [f"{tex}{number} {scale}", f"{number} {scale} {words}"]
        if sign == "$":
            forms.append(
                f"{tex}{number}{ {'thousand': 'k', 'million': 'M', 'billion': 'B'}[scale] }"
            )
    return rng.choice(forms)


def counted(rng):
    return rng.randint(0, 999)


def spell_counted(value, rng):
    return rng.choice([str(value), in_words(value), in_han(value), rf"\text{{{in_words(value)}}}"])


def negated(rng):
    return rng.choice("ABCD"), rng.choice(["", "not ", "or E", "and E", "except "])


def spell_negated(value, rng):
    letter, word = value
    return f"{letter} {word}" if word[:1] in ("o", "a") else f"{word}{letter}"


def power_of_ten(rng):
    return Fraction(rng.choice([1, 2, 5, 12, 35]), rng.choice([1, 10])), rng.randint(-6, 9)


def spell_power(value, rng):
    digits, exponent = value
    number = f"{float(digits):g}"
    forms = [
        rf"{number} \times 10^{{{exponent}}}",
        rf"{number}\cdot 10^{{{exponent}}}",
        f"{number}e{exponent}",
    ]
    forms.append(f"{number}E{exponent:+03d}")
    return rng.choice(forms)


KINDS = {
    "measures": (measure, spell_measure, same_measure),
    "clock times": (clock, spell_clock, None),
    "dates": (day, spell_day, None),
    "intervals": (interval, spell_interval, None),
    "rays": (ray, spell_ray, None),
    "families over the integers": (family, spell_family, same_family),
    "bases": (based, spell_based, lambda a, b: a[0] == b[0]),
    "chemical formulas": (formula, spell_formula, same_formula),
    "letters": (letters, spell_letters, None),
    "vectors": (vector, spell_vector, None),
    "decimals": (decimal, spell_decimal, None),
    "circled statements": (statements, spell_statements, None),
    "money": (money, spell_money, None),
    "number words": (counted, spell_counted, None),
    "negations": (negated, spell_negated, None),
    "powers of ten": (
        power_of_ten,
        spell_power,
        lambda a, b: a[0] * Fraction(10) ** a[1] == b[0] * Fraction(10) ** b[1],
    ),
}


def changed(value, draw, rng):
    """A value near this one: one part of another drawn one, or two parts exchanged."""
    other = draw(rng)
    if isinstance(value, tuple) and len(value) == len(other) and rng.random() < 0.7:
        k = rng.randrange(len(value))
        if rng.random() < 0.3 and len(value) > 1:
            swapped = list(value)
            swapped[0], swapped[1] = swapped[1], swapped[0]
            if type(value[0]) is type(value[1]) and draw is vector or draw is formula:
                return tuple(swapped)
        return (*value[:k], other[k], *value[k + 1 :])
    return other


def pairs(count: int, seed: int = 0, kinds=None):
    """(kind, answer, gold, are they the same), repeatable; every fifth pair is one of the same."""
    rng = random.Random(seed)
    names = list(kinds or KINDS)
    while count:
        name = rng.choice(names)
        draw, spell, same = KINDS[name]
        value = draw(rng)
        other = value if rng.random() < 0.3 else changed(value, draw, rng)
        equal = same(value, other) if same else value == other
        if equal is None or name == "intervals" and other[0] >= other[1]:
            continue
        yield name, spell(value, rng), spell(other, rng), equal
        count -= 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from reward import grade

    tried, wrong = Counter(), {}
    for name, answer, gold, equal in pairs(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000):
        tried[name, equal] += 1
        if grade(rf"\boxed{{{answer}}}", gold) != equal:
            wrong.setdefault((name, equal), []).append((answer, gold))
    for (name, equal), count in sorted(tried.items()):
        some = wrong.get((name, equal), [])
        kind = "wrong 0s" if equal else "wrong 1s"
        print(f"{name:28s} {count:7d} {kind}: {len(some)}", *some[:6], sep="\n    ")
