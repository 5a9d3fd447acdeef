r"""The grader against its case files, and properties that must hold for any text.

    python -m pytest -q tests/test_reward.py          # CPU, one core, well under 40 s

grader_cases.tsv is the project's contract; grader_cases_extra.tsv is our own, written before the
grader was run on it. Fields: response, gold, expected reward, why. Markers in a field: <<NL>>
<<TAB>> <<NUL>> <<BS>>, and <<REP n=N s=S>>, S repeated N times.
"""

import os
import re
import resource
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from math_equal import answers_equal, clean, text_form  # noqa: E402
from reward import grade, last_boxed  # noqa: E402

HERE = Path(__file__).parent
SECONDS = 2.0  # per case, the contract; ordinary ones take microseconds
ATOMS = r"""\frac \sqrt \sin \ln \log _ ^ { } ( ) [ ] \{ \} , ; : = < > \le \ne \in \cup \pm + - * / \cdot ! % ° ' x n e i \pi \infty 5 12 0.5
 1,234 1e3 \text{ \text{cm} cm m $ \$ and or per \% ^\circ A (A) not \begin{pmatrix} \end{pmatrix} & \\ \binom | \lfloor \mathbb{R} f( \sqrt[3]
 0.\overline{3} \max mod \approx degrees million apples ² ½ 10^ 9^9 99999999 e^{ \vec{v} U \boxed{""".split()
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


def cases():
    for name in ("grader_cases.tsv", "grader_cases_extra.tsv"):
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
    start = time.perf_counter()
    assert grade(response, gold) == expected
    assert time.perf_counter() - start < SECONDS


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
        start = time.perf_counter()
        last_boxed("\\boxed{1}" + piece * (1_000_000 // len(piece)))
        assert time.perf_counter() - start < SECONDS, piece


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
        start = time.perf_counter()
        grade(r"\boxed{" + bomb + "}", gold)
        assert time.perf_counter() - start < SECONDS


@few
@given(anything | soup, anything | soup)
def test_never_raises_and_is_binary_and_symmetric(a, b):
    assert grade(a, b) in (0.0, 1.0) and grade(r"\boxed{" + a + "}", b) in (0.0, 1.0)
    assert answers_equal(a, b) == answers_equal(b, a)
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
    import subprocess

    code = r"from reward import grade; print([grade(r'\boxed{%s}' % a, b) for a, b in ((r'\sin 2x', r'2\sin x\cos x'), ('b+a', 'a+b'), (r'\ln x^2', r'2\ln x'))])"
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
