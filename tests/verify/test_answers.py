"""Final answers in texts, and their equality."""

import subprocess
import sys

import pytest

from minisw.verify import algebra
from minisw.verify.answers import final_answer, number, same_value, verify


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("no box", None),
        ("\\boxed{never closed", None),
        ("\\boxed{ 7 }", "7"),
    ],
)
def test_the_final_answer_is_the_content_of_the_last_box(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("42", "42", True),
        ("1234", "1,234", True),
        ("18", "$18", True),
        ("18", "18.00", True),
        ("18", "18 dollars", True),
        ("18", "81", False),
        ("18", "18.5", False),  # exact, not approximate
        ("1/3", "0.33", False),
        ("18", None, False),
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "\\dfrac{1}{2}", True),
        ("x+1", "x + 1", True),
        ("x+1", "x+2", False),
        ("3", "-3", False),
        ("5", "-5 dollars", False),
        ("-5", "-5 dollars", True),
        ("2", "2x", False),
        ("3", "3i", False),
        ("2", "2 pi", False),
        ("4", "4 or more", False),
        ("12", "1,2", False),
        ("1234", "1,234 miles", True),
        ("18", "18\\text{ cm}", True),
        ("10", "10 (dollars)", True),
    ],
)
def test_verify(gold, answer, equal):
    assert verify(gold, answer) is equal


needs_algebra = pytest.mark.skipif(not algebra.installed(), reason="math-verify is not installed")


@needs_algebra
@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("(x+1)^2", "x^2+2x+2", False),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)", True),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(\\pi/2, 3)", False),
        ("\\frac{1}{2}", "0.5", True),
        ("10\\%", "0.1", True),
        ("p - q", "q - p", False),
        ("52_8", "52_9", False),
        ("52_8", "52_{8}", True),
        ("15\\mbox{ cm}^2", "15\\mbox{ cm}^3", False),
        ("15\\mbox{ cm}^2", "15 \\text{ cm}^{2}", True),
        ("5", "x = 5", True),  # an assignment in the answer
    ],
)
def test_algebra_compares_what_texts_and_numbers_do_not(gold, answer, equal):
    assert verify(gold, answer) is equal


@pytest.mark.parametrize(
    ("answer", "value"),
    [("1,234", "1234"), ("$3.50", "7/2"), ("2/3", "2/3"), ("-.5", "-1/2"), ("5.", "5"), ("x", None), ("1/0", None), ("", None)],
)
def test_plain_numbers_have_an_exact_value(answer, value):
    assert (None if number(answer) is None else str(number(answer))) == value


@pytest.mark.parametrize("a, b", [("18", "18 dollars"), ("1/2", "0.5"), ("x+1", "x + 1")])
def test_two_answers_of_a_vote_are_compared_both_ways(a, b):
    assert same_value(a, b) and same_value(b, a)
    assert not same_value(a, "7") and not same_value("7", b)


@needs_algebra
def test_a_pair_that_takes_too_long_counts_as_different(monkeypatch):
    class Hanging:
        def ask(self, request):
            return None

    monkeypatch.setattr(algebra, "_child", Hanging)
    assert not algebra.equal("a_hanging_pair", "another")


@needs_algebra
def test_algebra_survives_texts_that_are_not_mathematics():
    assert not algebra.equal("\\frac{1}{", "{{{") and not algebra.equal("x", "\\begin{cases} \n \\end")
    assert algebra.equal("2x", "x+x")


def test_numbers_and_equal_texts_need_no_algebra(monkeypatch):
    monkeypatch.setattr(algebra, "equal", lambda *_: pytest.fail("asked"))
    assert verify("18", "18.0") and not verify("18", "19") and verify("x^2", " x^2 ") and not verify("x", "—")
    assert not verify("x", "y" * 1000)


def test_comparing_answers_needs_no_heavy_import():
    code = "import sys, minisw.verify.answers; print(any(m in sys.modules for m in ('torch', 'numpy', 'sympy', 'math_verify')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
