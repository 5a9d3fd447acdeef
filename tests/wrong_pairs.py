r"""A generator of pairs of different answers, made to come to the same value where that can be had.

Numbers joined by an operator (ranges, scores, orders, sizes, dates, sums) with units, currencies,
percent and degree signs on both sides or one, in all the dress that models put around them. Every
pair must earn 0.

    python tests/wrong_pairs.py 100000          # how many were tried, and which earned 1
"""

import random
import re
import sys
from fractions import Fraction
from pathlib import Path

MINUS = ["-", "–", "—", "--", " - ", " – ", r"\text{-}", r"\text{--}", " to ", r" \text{ to } "]
MINUS += [r"\sim ", "～", "−"]
PLUS = ["+", " + "]
TIMES = ["x", " x ", r"\times ", r" \times ", "×", " × ", "*", r"\cdot ", r" \cdot ", " by "]
# before each number, after each number, after the last number only, before the first only
DRESS = [("", "", "", "")] * 4
DRESS += [
    ("", unit, "", "")
    for unit in (" cm", "cm", r"\text{ cm}", " years", r"\%", "%", "^\\circ", "°")
]
DRESS += [
    ("", "", unit, "")
    for unit in (" cm", r"\text{ km}", " years", r"\%", r"^\circ", " apples", " kg")
]
DRESS += [(sign, "", "", "") for sign in (r"\$", "€", "£", "¥")]
DRESS += [
    ("", "", "", r"\$"),
    ("", "", " million", ""),
    ("", " million", "", ""),
    (r"\$", " million", "", ""),
]
DRESS += [("", " dollars", "", ""), ("", "", " dollars", ""), ("", "m", "", ""), ("", "x", "", "")]
FRAMES = ["%s"] * 6 + [
    r"\text{%s}",
    "[%s]",
    "{%s}",
    "$%s$",
    r"\mathbf{%s}",
    "x = %s",
    r"\text{Range: }%s",
]
FRAMES += [r"\left(%s\right)", "(%s)", r"\{%s\}", "**%s**", r"\large %s", "about %s"]


def number(v: Fraction, rng) -> str:
    """A decimal or an integer, sometimes with commas."""
    if v.denominator > 1:
        return f"{float(v):g}"
    return f"{int(v):,}" if v >= 1000 and rng.random() < 0.3 else str(int(v))


def joined(parts, operator, dress, rng) -> str:
    before, after, last, first = dress
    texts = [before + number(p, rng) + after for p in parts]
    return first + operator.join(texts) + last


def draw(rng, n=None) -> list:
    """Numbers of one kind: ages, years, prices, scores, decimals."""
    low, high = rng.choice([(0, 9), (1, 99), (1900, 2030), (100, 9999), (10, 60)])
    n = n or rng.choice([2, 2, 2, 3, 4])
    parts = [Fraction(rng.randint(low, high)) for _ in range(n)]
    if rng.random() < 0.2:
        parts = [p + Fraction(rng.randint(1, 9), 10) for p in parts]
    return parts


def shifted(parts, rng) -> list:
    """Other numbers with the same difference a-b-c."""
    d = Fraction(rng.randint(1, 30))
    return [parts[0] + d, parts[1] + d, *parts[2:]]


def exchanged(parts, rng) -> list | None:
    """Other numbers with the same sum."""
    d = Fraction(rng.randint(1, 9))
    other = [parts[0] + d, parts[1] - d, *parts[2:]]
    return other if min(other) >= 0 and sorted(other) != sorted(parts) else None


def factored(parts, rng) -> list | None:
    """Other numbers with the same product."""
    d = rng.choice([2, 3, 5])
    other = [parts[0] * d, parts[1] / d, *parts[2:]]
    whole = all(p.denominator in (1, 2, 5, 10) for p in other)
    return other if whole and sorted(other) != sorted(parts) else None


def permuted(parts, rng) -> list | None:
    other = rng.sample(parts, len(parts))
    return other if other != parts else None


def differences(rng):
    parts, dress = draw(rng), rng.choice(DRESS)
    other = rng.choice([shifted, shifted, permuted])(parts, rng)
    if other is None:
        return None
    a, b = rng.choice(MINUS), rng.choice(MINUS)
    one_unit = rng.choice([dress, dress, DRESS[0]])
    return joined(parts, a, dress, rng), joined(other, b, one_unit, rng)


def result_of_difference(rng):
    """Unspaced joined numbers against what they come to."""
    parts = draw(rng)
    value = parts[0] - sum(parts[1:])
    operator = rng.choice(["-", "–", "--", r"\text{-}", " to ", r"\sim "])
    return joined(parts, operator, rng.choice(DRESS[:4] + DRESS[12:18]), rng), number(value, rng)


def sums(rng):
    parts, dress = draw(rng), rng.choice(DRESS)
    other = exchanged(parts, rng)
    return other and (
        joined(parts, rng.choice(PLUS), dress, rng),
        joined(other, rng.choice(PLUS), dress, rng),
    )


def sizes(rng):
    parts, dress = draw(rng, 2), rng.choice(DRESS[:20])
    other = rng.choice([factored, permuted])(parts, rng)
    operators = [o for o in TIMES if "*" not in o and "cdot" not in o]
    return other and (
        joined(parts, rng.choice(operators), dress, rng),
        joined(other, rng.choice(operators), dress, rng),
    )


def products(rng):
    parts = draw(rng)
    other = factored(parts, rng)
    return other and (
        joined(parts, rng.choice(TIMES), DRESS[0], rng),
        joined(other, rng.choice(TIMES), DRESS[0], rng),
    )


def slashes(rng):
    """Three parts: dates, steps, shares."""
    a, b, c = (Fraction(rng.randint(1, 30)) for _ in range(3))
    d = rng.choice([2, 3])
    return joined([a, b, c], "/", DRESS[0], rng), joined([a * d, b * d, c], "/", DRESS[0], rng)


def colons(rng):
    """Scores with nothing, clock times, races."""
    a, b = rng.randint(1, 11), rng.randint(1, 29)
    return rng.choice(
        [
            (f"0:{a}", f"0:{a + b}"),
            (f"0:{a}", "0"),
            (f"{a}:{b:02d}", f"{2 * a}:{2 * b:02d}"),
            (f"{a}:0{a % 9 + 1}", f"{a}:{a % 9 + 1}"),
            (f"{a}:{b + 10}.5", f"{a + 1}:{b + 10}.5"),
            (f"{a}:{a + b}", f"{a + b}:{a}"),
        ]
    )


def dots(rng):
    parts = [rng.randint(0, 255) for _ in range(rng.choice([3, 4]))]
    other = rng.sample(parts, len(parts))
    return other != parts and (".".join(map(str, parts)), ".".join(map(str, other)))


def other_operator(rng):
    parts = draw(rng, 2)
    a, b = rng.sample(["-", "/", "+", "x", ".", ", ", "^"], 2)
    pair = joined(parts, a, DRESS[0], rng), joined(parts, b, DRESS[0], rng)
    return min(parts) > 2 and all(p.denominator == 1 and p < 1000 for p in parts) and pair


def other_unit(rng):
    parts = draw(rng)
    units = rng.sample([" cm", " kg", r"\text{ s}", " years", " dollars", " months", " euros"], 2)
    operator = rng.choice(MINUS)
    texts = [joined(parts, operator, ("", "", unit, ""), rng) for unit in units]
    return any(parts) and texts


def lists(rng):
    """Lists, tuples and sets of joined numbers."""
    one, two = draw(rng, 2), draw(rng, 2)
    operator = rng.choice(MINUS[:5])
    items = [joined(p, operator, DRESS[0], rng) for p in (one, two)]
    others = [joined(shifted(p, rng), operator, DRESS[0], rng) for p in (one, two)]
    frame = rng.choice(["%s, %s", "(%s, %s)", r"\{%s, %s\}", r"%s \text{ and } %s"])
    return not {*items} & {*others} and (frame % tuple(items), frame % tuple(others))


def identifiers(rng):
    groups = [
        f"{rng.randint(0, 999):03d}",
        f"{rng.randint(0, 999):03d}",
        f"{rng.randint(0, 9999):04d}",
    ]
    other = rng.choice([rng.sample(groups, 3), [g.lstrip("0") or "0" for g in groups]])
    return other != groups and ("-".join(groups), "-".join(other))


KINDS = [differences, differences, result_of_difference, sums, sizes, products, slashes, colons]
KINDS += [dots, other_operator, other_unit, lists, identifiers]


def wrong_pairs(count: int, seed: int = 0):
    """count pairs (answer, gold), repeatable."""
    rng = random.Random(seed)
    while count:
        kind = rng.choice(KINDS)
        pair = kind(rng)
        if not pair:
            continue
        frame = rng.choice(FRAMES)
        if "=" in frame and kind in (result_of_difference, colons):
            continue  # an equals sign says arithmetic
        if frame[-1] in ")]}" and re.search(r"\d,\d{3}[mx]", "".join(pair)):
            continue  # in brackets 1,911m is two items, and like terms add up
        other = rng.choice([frame, "%s"]) if "=" not in frame else frame
        answer, gold = (frame.replace("%s", pair[0]), other.replace("%s", pair[1]))
        yield (answer, gold) if rng.random() < 0.5 else (gold, answer)
        count -= 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from reward import grade

    tried = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    paid = [p for p in wrong_pairs(tried) if grade(rf"\boxed{{{p[0]}}}", p[1])]
    print(*paid[:100], sep="\n")
    print(f"{tried} wrong pairs tried, {len(paid)} earned 1")
