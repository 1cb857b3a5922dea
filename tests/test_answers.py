"""Final answers out of texts, and their equality."""

import pytest

from minisw.answers import final_answer, verify


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
    ],
)
def test_verify(gold, answer, equal):
    assert verify(gold, answer) is equal
