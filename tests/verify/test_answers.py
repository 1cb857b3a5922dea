"""Final answers out of texts, and their equality."""

import sys

import pytest

from minisw.verify import algebra
from minisw.verify.answers import final_answer, verify


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
def test_final_answer_is_what_stands_in_the_last_box(text, answer):
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
        ("5", "x = 5", True),  # what is odd in the answer: an assignment is stripped
    ],
)
def test_algebra_compares_what_texts_and_numbers_do_not(gold, answer, equal):
    assert verify(gold, answer) is equal


def test_a_child_that_hangs_is_killed_and_another_started():
    """A child that sleeps over one pair and answers the others."""
    program = (
        "import json, sys, time\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    gold, answer = json.loads(line)\n"
        "    time.sleep(60 if answer == 'hang' else 0)\n"
        "    print(int(gold == answer), flush=True)\n"
    )
    referee = algebra.Referee(seconds=1.0, command=(sys.executable, "-c", program))
    try:
        assert referee.equal("1", "1") and not referee.equal("1", "2")
        assert not referee.equal("1", "hang") and referee.killed == 1
        assert referee.equal("2", "2")  # by a new child
        referee._child.kill()
        referee._child.wait()
        assert referee.equal("3", "3")
    finally:
        referee.close()


@needs_algebra
def test_the_child_survives_what_is_no_mathematics():
    assert not algebra.equal("\\frac{1}{", "{{{") and not algebra.equal("x", "\\begin{cases} \n \\end")
    assert algebra.equal("2x", "x+x")


def test_numbers_and_equal_texts_need_no_algebra(monkeypatch):
    monkeypatch.setattr(algebra, "equal", lambda *_: pytest.fail("asked"))
    assert verify("18", "18.0") and not verify("18", "19") and verify("x^2", " x^2 ") and not verify("x", "—")
    assert not verify("x", "y" * 1000)
