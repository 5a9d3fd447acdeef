r"""The grader against its case files, and properties that must hold for any text.

    python -m pytest -q tests/test_reward.py          # CPU, one core, well under 40 s

grader_cases.tsv is the project's contract; grader_cases_extra.tsv is our own, written before the
grader was run on it; grader_cases_forms.tsv has what models write and graders got wrong, each kind
with right and wrong cases; grader_cases_neighbours.tsv holds both ways round. Fields: response,
gold, expected reward, why. Markers in a field: <<NL>> <<TAB>> <<NUL>> <<BS>>, and <<REP n=N s=S>>,
S repeated N times. wrong_pairs.py generates pairs that must all earn 0.
"""

import os
import re
import resource
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from answer_forms import pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from wrong_pairs import wrong_pairs

from math_equal import answers_equal, clean, text_form
from reward import grade, last_boxed

HERE = Path(__file__).parent
SECONDS = 2.0  # per case, the contract; ordinary ones take microseconds
ATOMS = r"""\frac \sqrt \sin \ln \log _ ^ { } ( ) [ ] \{ \} , ; : = < > \le \ne \in \cup \pm + - *
 / \cdot ! % ° ' x n e i \pi \infty 5 12 0.5 1,234 1e3 \text{ \text{cm} cm m $ \$ and or
 per \% ^\circ A (A)
 not \begin{pmatrix} \end{pmatrix} & \\ \binom | \lfloor \mathbb{R} f( \sqrt[3] 0.\overline{3} \max
 mod \approx degrees million apples ² ½ 10^ 9^9 99999999 e^{ \vec{v} U \boxed{ to x \times - 10-19
 \setminus \cap k\in\mathbb{Z} ... \pmod{ July 2020 \begin{array}{l} \end{array} \cos K. **
 # ~ " ['A'] p.m. 3:45 except all ft""".split()
anything = st.text(st.characters(), max_size=60)  # lone surrogates and NUL included
soup = st.lists(st.sampled_from(ATOMS), max_size=30).map("".join) | st.lists(
    st.sampled_from(ATOMS), max_size=8
).map(" ".join)
few = settings(max_examples=400, deadline=None)


def expand(field: str) -> str:
    field = re.sub(r"<<REP n=(\d+) s=(.*?)>>(?!>)", lambda m: m[2] * int(m[1]), field, flags=re.S)
    for name, char in (("NL", "\n"), ("TAB", "\t"), ("NUL", "\0"), ("BS", "\b")):
        field = field.replace(f"<<{name}>>", char)
    return field


CASE_FILES = [
    f"grader_cases{name}.tsv" for name in ("", "_extra", "_forms", "_neighbours", "_kinds")
]


def cases():
    for name in CASE_FILES:
        for number, line in enumerate((HERE / name).read_text(encoding="utf-8").split("\n"), 1):
            if line and not line.startswith("#"):
                response, gold, expected, why = line.split("\t")
                yield pytest.param(
                    response, gold, float(expected), id=f"{name[6:-4]}:{number} {why}"
                )


CASES = list(cases())


@pytest.mark.parametrize("response, gold, expected", CASES)
def test_case(response, gold, expected):
    response, gold = expand(response), expand(gold)
    start = time.process_time()
    assert grade(response, gold) == expected
    assert time.process_time() - start < SECONDS


def test_neighbours_the_other_way_round():
    for p in CASES:
        response, gold, expected = p.values
        if p.id.startswith(("_cases_neighbours", "_cases_kinds")):
            assert grade(rf"\boxed{{{gold}}}", last_boxed(response)) == expected, p.id


def test_all_cases_in_a_thread_without_side_effects_or_memory(tmp_path, monkeypatch):
    """Off the main thread (alarm-based time limits fail there), with the bombs, in an empty folder
    that must stay empty.
    """
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []

    def work():
        for p in CASES:
            response, gold, expected = p.values
            if grade(expand(response), expand(gold)) != expected:
                wrong.append(p.id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert not thread.is_alive() and wrong == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024  # KiB on Linux
    assert os.listdir(tmp_path) == [] and Path.cwd() == tmp_path
    quit  # the builtin is still there


@pytest.mark.parametrize(
    "answer, gold, expected",
    [
        ("\x0crac{1}{2}", "0.5", True),
        (r"\mathbf{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\frac12}", "0.5", True),
        ("12 cm2", r"12\text{ cm}^2", True),
        ("red, blue", "blue, red", True),
        (r"\{x \mid x > 2\}", r"(2,\infty)", True),
        (r"\tan^{-1} 1", r"\frac{\pi}{4}", True),
        ("y>2", "x>2", False),
        (r"\log_{10} 10^{50}", "50", True),
        (r"\frac{1}{\pi\cdot10^{-50}}", r"\frac{10^{50}}{\pi}", True),
        (r"\pi+10^{-90}", r"\pi", False),
        ("x^2+y^2=25", "2x^2+2y^2=50", True),
        (r"2\pi r h", r"2\pi rh", True),
        ("1,1,2", "1,2,2", False),
        (r"\begin{cases}x=1\\y=2\end{cases}", "(1,2)", True),
        ("Area = 5", "5", True),
        ("Area = 5", "Perimeter = 5", False),
        ("(no)", "on", False),
        ("{A or C}", "A, C", False),
        (r"0.\bar3", r"\frac13", True),
    ],
)
def test_answers_equal(answer, gold, expected):
    assert answers_equal(answer, gold) == answers_equal(gold, answer) == expected


def test_grade_forgives_what_is_not_even_text():
    assert grade(None, "5") == grade(r"\boxed{5}", None) == grade(b"5", 5) == 0.0


def test_several_accepted_answers():
    assert (
        grade(r"\boxed{5}", ["4", "5"]) == 1.0
        and grade(r"\boxed{5}", ("4",)) == grade(r"\boxed{5}", []) == 0.0
    )


def test_threads_do_not_share_precision():
    """mpmath's contexts are shared between threads; several comparing at once must not disturb each
    other.
    """
    pairs = [
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt{2}", True),
        (r"\sqrt2+10^{-60}", r"\sqrt{2}", False),
        (r"\arctan 1", r"\pi/4", True),
    ]
    wrong = []

    def work():
        wrong.extend(p for _ in range(30) for p in pairs if answers_equal(*p[:2]) != p[2])

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert wrong == []


@pytest.mark.parametrize(
    "response, content",
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {a{b}c}", "a{b}c"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed{1 \boxed{2}", "2"),
        (r"\boxed{a \\ b}", r"a \\ b"),
        (r"\boxed", None),
        ("", None),
        (r"\fbox{5}", None),
        (r"\boxed{}", ""),
        (r"{ \boxed{5} } }", "5"),
    ],
)
def test_last_boxed(response, content):
    assert last_boxed(response) == content


def test_last_boxed_is_linear():
    for piece in ("\\boxed{", "{", "}", "\\", "$", "\\boxed ", "\\boxed{1} ", "a\\b{"):
        start = time.process_time()
        last_boxed("\\boxed{1}" + piece * (1_000_000 // len(piece)))
        assert time.process_time() - start < SECONDS, piece


@pytest.mark.parametrize(
    "bomb",
    [
        "+".join(f"1/{p}^{{1500}}" for p in range(1001, 1150)),
        "*".join(f"{n}!" for n in range(1700, 1990)),
        "+".join(f"(n+{n})!" for n in range(1, 199)),
        "+".join(rf"\sin(10^{{{n}}}\pi)" for n in range(1, 99)),
        r"e^{e^{x+" * 12 + "1" + "}}" * 12,
        r"\{" + ",".join(rf"\sin({n}x)" for n in range(180)) + r"\}",
        "xy" * 990,
        "A " * 990,
        "1," * 990,
        "A," * 990 + "or B",
        "x=" * 990 + "1",
        r"\pm1" * 490,
        r"\text{" * 300 + "a" + "}" * 300,
        "²" * 1990,
        "square " * 280,
        "\\ " * 990,
    ],
)
def test_bombs_inside_the_length_cap(bomb):
    """Against something unequal, almost equal, and itself plus nothing: the three ways to make a
    comparison work hard.
    """
    for gold in ("5", bomb + "+1", bomb + "+0", bomb[:-1]):
        start = time.process_time()
        grade(r"\boxed{" + bomb + "}", gold)
        assert time.process_time() - start < SECONDS


@few
@given(anything | soup, anything | soup)
def test_never_raises_and_is_binary_and_symmetric(a, b):
    start = time.process_time()
    assert grade(a, b) in (0.0, 1.0) and grade(r"\boxed{" + a + "}", b) in (0.0, 1.0)
    assert answers_equal(a, b) == answers_equal(b, a)
    assert time.process_time() - start < 4 * SECONDS
    assert grade(a, "") == 0.0


@few
@given(anything | soup)
def test_reflexive(a):
    box = last_boxed(r"\boxed{" + a + "}")
    if box == a and "\\boxed" not in a and text_form(clean(a)):
        assert grade(r"\boxed{" + a + "}", a) == 1.0


@few
@given(anything | soup)
def test_normal_form_is_stable_and_equal(a):
    assert text_form(clean(a)) == text_form(clean(" " + a + "\u200b "))
    if text_form(clean(a)):
        assert answers_equal(a, a)


def spellings(p, q):
    yield from (
        f"{p}/{q}",
        rf"\frac{{{p}}}{{{q}}}",
        rf"\dfrac{{{2 * p}}}{{{2 * q}}}",
        f"x = {p}/{q}",
        rf"$\frac{{{p}}}{{{q}}}$",
        f"({p}) / {q}",
        f"{3 * p}/{3 * q}",
    )
    if p > q > 1 and p % q:
        yield from (rf"{p // q}\frac{{{p % q}}}{{{q}}}", f"{p // q} {p % q}/{q}")
    if q in (1, 2, 4, 5, 8, 10, 20, 25):
        value = f"{p / q:.3f}"
        yield from (value, value + "0", value.rstrip("0"), value + r"\cdot10^0", value + "e0")
    if q == 1:
        yield from (f"{p:,}", f"{p}.0", rf"{p}\text{{ cm}}", f"${p}$", rf"\${p}")


@few
@given(
    st.integers(-(10**6), 10**6),
    st.sampled_from((1, 1, 2, 3, 4, 5, 7, 8, 10, 13, 25)),
    st.integers(-50, 50),
)
def test_rationals_in_any_spelling(p, q, other):
    for text in spellings(p, q):
        assert answers_equal(text, f"{p}/{q}"), text
        different = Fraction(p, q) + Fraction(other, 7)
        assert answers_equal(text, str(different)) == (other == 0), (text, different)


# ---------------------------------------------------------------- wrong pairs, forms of one value


@pytest.mark.parametrize("seed", range(4))
def test_wrong_pairs_earn_nothing(seed):
    """6,000 pairs of different ranges, scores, sizes, dates, sums; each the same way round and the
    other. More by hand: python tests/wrong_pairs.py 100000
    """
    paid = []
    for answer, gold in wrong_pairs(1500, seed):
        if grade(rf"\boxed{{{answer}}}", gold) or answers_equal(gold, answer):
            paid.append((answer, gold))
    assert paid == []


@pytest.mark.parametrize("seed", range(3))
def test_kinds_of_answers_by_generation(seed):
    """6,000 pairs of measures, times, dates, intervals, families, bases, formulas, letters,
    vectors, money, number words: one value in two spellings earns 1, two values nothing. More by
    hand: python tests/answer_forms.py 100000
    """
    wrong = []
    for kind, answer, gold, equal in pairs(2000, seed):
        box = rf"\boxed{{{answer}}}"
        if grade(box, gold) != equal or answers_equal(gold, answer) not in (
            equal,
            grade(box, gold),
        ):
            wrong.append((kind, answer, gold, equal))
    assert wrong == []


def number_forms(v: Fraction) -> list:
    """One value in the forms of the grammar."""
    p, q = v.numerator, v.denominator
    sign, size = "-" if p < 0 else "", abs(p)
    out = [f"{p}/{q}", rf"\frac{{{p}}}{{{q}}}", rf"{sign}\dfrac{{{size}}}{{{q}}}", f"({p})/({q})"]
    out += [rf"\boxed{{{p}/{q}}}", rf"\frac{{{-p}}}{{{-q}}}", rf"\text{{{p}/{q}}}", rf"x = {p}/{q}"]
    out += [
        rf"{100 * p}/{q}\%",
        rf"\frac{{{3 * p}}}{{{3 * q}}}",
        rf"{p} \div {q}",
        rf"{p}\cdot\frac1{{{q}}}",
    ]
    if 10**6 % q == 0:
        decimal = f"{p * 10**6 // q / 10**6:.6f}"
        out += [decimal, decimal.rstrip("0"), rf"{decimal}\times10^{{0}}", f"{decimal}e0"]
        out += [rf"\mathbf{{{decimal}}}", f"${decimal}$", rf"{decimal} \text{{ cm}}"]
    if q == 1:
        out += [f"{p:,}", f"{p}.", rf"\{{{p}\}}", rf"\large {p}", rf"\sqrt[3]{{{p**3}}}"]
        out += [rf"\begin{{array}}{{l}}{p}\end{{array}}", f"**{p}**", f"Answer: {p}"]
    if p > q > 1:
        out += [rf"{p // q}\frac{{{p % q}}}{{{q}}}", f"{p // q} {p % q}/{q}"]
    if q in (3, 7, 9, 11) and p > 0:
        digits = str(10 ** {3: 1, 7: 6, 9: 1, 11: 2}[q] * (p % q) // q).zfill(
            {3: 1, 7: 6, 9: 1, 11: 2}[q]
        )
        out += [rf"{p // q}.\overline{{{digits}}}", f"{p // q}.{digits * 3}..."]
    return out


values = st.builds(
    Fraction, st.integers(-9999, 9999), st.sampled_from((1, 1, 2, 3, 4, 5, 7, 8, 9, 11, 20))
)
picks = st.integers(0, 10**6)


@settings(max_examples=200, deadline=None)
@given(values, values, picks, picks)
def test_numbers_in_two_forms(v, w, i, j):
    forms, others = number_forms(v), number_forms(w)
    a, b, c = forms[i % len(forms)], forms[j % len(forms)], others[j % len(others)]
    assert answers_equal(a, b) and answers_equal(b, a), (a, b)
    if v.denominator == 1:
        for text in (f"{v - 7} + 7", f"{v + 9} - 9", f"x = {v + 9}-9"):
            assert answers_equal(text, a), (text, a)
    assert answers_equal(a, c) == answers_equal(c, a) == (v == w), (a, c)


def expression_forms(a: int, b: int, n: int) -> list:
    """a x + b sqrt(n), spelled in several ways."""
    return [
        rf"{a}x{b:+d}\sqrt{{{n}}}",
        rf"{b}\sqrt{n % 10}+{a}x" if n < 10 else rf"{b}*sqrt({n})+{a}*x",
        rf"x\cdot {a} - ({-b})\cdot {n}^{{1/2}}",
        rf"\frac{{{2 * a}x {2 * b:+d}\sqrt{{{n}}}}}{{2}}",
        rf"f(x) = {a}x {b:+d}\sqrt{{{n}}}",
        rf"\left({a} x\right) + \sqrt{{{n}}} \times ({b})",
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(2, 40), st.integers(-30, 30).filter(lambda b: b), st.integers(2, 30)),
    st.tuples(st.integers(2, 40), st.integers(-30, 30).filter(lambda b: b), st.integers(2, 30)),
    picks,
    picks,
)
def test_expressions_in_two_forms(one, other, i, j):
    forms, others = expression_forms(*one), expression_forms(*other)
    a, b, c = forms[i % 6], forms[j % 6], others[j % 6]
    assert answers_equal(a, b) and answers_equal(b, a), (a, b)
    square = one[1] * abs(one[1]) * one[2] == other[1] * abs(other[1]) * other[2]
    assert answers_equal(a, c) == (one[0] == other[0] and square), (a, c)


def set_forms(low: int, high: int, closed: bool) -> list:
    """What lies between low and high."""
    brackets, sign, tex = ("[]", "<=", r"\le") if closed else ("()", "<", "<")
    turned = tex.replace("<", ">").replace("le", "ge")
    middle = (low + high) / 2
    return [
        f"{brackets[0]}{low}, {high}{brackets[1]}",
        rf"x \in \left{brackets[0]}{low}, {high}\right{brackets[1]}",
        f"{low} {sign} x {sign} {high}",
        rf"{high} {turned} x {turned} {low}",
        rf"\{{x \mid {low} {tex} x {tex} {high}\}}",
        rf"x {turned} {low} \text{{ and }} x {tex} {high}",
        rf"{brackets[0]}{low}, {middle}]\cup({middle}, {high}{brackets[1]}",
        rf"{brackets[0]}{low}, {high + 5}]\cap[{low - 5}, {high}{brackets[1]}",
        rf"\mathbb{{R}} \setminus ((-\infty,{low}{'])'[closed]}\cup{'[('[closed]}{high},\infty))",
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*[st.integers(-20, 20)] * 2, st.booleans()),
    st.tuples(*[st.integers(-20, 20)] * 2, st.booleans()),
    picks,
    picks,
)
def test_intervals_in_two_forms(one, other, i, j):
    one, other = ((min(x[:2]), max(x[:2]) + 1, x[2]) for x in (one, other))
    forms, others = set_forms(*one), set_forms(*other)
    a, b, c = forms[i % 9], forms[j % 9], others[j % 9]
    assert answers_equal(a, b) and answers_equal(b, a), (a, b)
    assert answers_equal(a, c) == answers_equal(c, a) == (one == other), (a, c)


JOINS = st.tuples(
    st.lists(st.integers(0, 2000), min_size=2, max_size=4), st.sampled_from(("-", "–", " - ", "—"))
)


@few
@given(JOINS, JOINS)
def test_joined_numbers_are_their_parts(one, other):
    a, b = (join.join(map(str, parts)) for parts, join in (one, other))
    year = all(len(x[0]) == 2 and x[0][1] < 100 <= x[0][0] for x in (one, other))
    if one[0] == other[0]:
        assert answers_equal(a, b), (a, b)
    elif not year:
        assert not answers_equal(a, b) and not answers_equal(b, a), (a, b)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.integers(-3, 3))
def test_polynomials(roots, shift):
    product = "".join(f"(x-({r}))" for r in roots)
    coefficients = [1]
    for r in roots:
        coefficients = [a - r * b for a, b in zip(coefficients + [0], [0] + coefficients)]
    n = len(roots)
    expanded = "+".join(f"({c})x^{{{n - k}}}" for k, c in enumerate(coefficients))
    assert answers_equal(product, expanded)
    assert answers_equal(
        product, expanded + f"+{shift}" if shift >= 0 else expanded + str(shift)
    ) == (shift == 0)


def test_grading_is_deterministic_across_processes():
    """The random points come from the two texts, not from a global generator or from Python's hash
    seed.
    """
    pairs = ((r"\sin 2x", r"2\sin x\cos x"), ("b+a", "a+b"), (r"\ln x^2", r"2\ln x"))
    code = (
        f"from reward import grade; print([grade('\\\\boxed{{%s}}' % a, b) for a, b in {pairs!r}])"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=HERE.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outs == {"[1.0, 1.0, 1.0]\n"}


@pytest.mark.parametrize(
    "a, b",
    [
        ("0.5", r"\frac{1}{2}"),
        ("1,234", "1234"),
        (r"\text{Yes.}", "yes"),
        ("(B)", "B"),
        ("5.0", "5"),
        (r" \dfrac12 ", "1/2"),
    ],
)
def test_text_form_merges(a, b):
    assert text_form(clean(a)) == text_form(clean(b))


@pytest.mark.parametrize(
    "a, b",
    [
        ("1,2", "12"),
        ("5 5", "55"),
        ("x", "X"),
        ("-5", "5"),
        ("В", "B"),
        ("²", "2"),
        ("right angled", "rightangled"),
    ],
)
def test_text_form_keeps_apart(a, b):
    assert text_form(clean(a)) != text_form(clean(b))
