"""Final answers: find one in a text, and decide whether two are equal.

Equal texts and plain numbers are compared exactly, in microseconds; only other pairs go to algebra (`algebra.py`), which
takes milliseconds.
"""

from __future__ import annotations

import re
from fractions import Fraction

from minisw.verify import algebra

MAX_LENGTH = 300  # characters of an answer that algebra is tried on; a longer one is prose
_BASE = re.compile(r"\w_\{?(\d+)\}?$")  # the base of 52_8
_UNIT = re.compile(r"\\(?:text|mbox|mathrm)\{[^}]*\}\^?\{?(\d*)\}?$")  # the power in 15\mbox{ cm}^2
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"-?\$?(?:{_DIGITS})(?:/\d+)?%?$")
_WITH_UNIT = re.compile(rf"[^\w.-]*(-?(?:{_DIGITS}))(?:[\s(]|\\[ ,;]|\\text\{{)+((?:[A-Za-z]{{2,}} ?)+)\W*")  # 18 dollars
_NO_UNITS = {"or", "and", "to", "more", "less", "pi"}


def final_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` of `text` (with balanced braces), or None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None


def number(answer: str) -> Fraction | None:
    """The exact value of a plain number ("1,234", "$3.50", "2/3"), or None for anything else."""
    plain = answer.strip().strip("$").replace("\\$", "").replace("\\!", "").rstrip(".").strip()
    if not _NUMBER.match(plain):
        return None
    try:
        return Fraction(plain.replace(",", "").replace("$", "").rstrip("%"))
    except (ValueError, ZeroDivisionError):
        return None


def _normal(answer: str) -> str:
    """The text without what never changes a value: layout commands, white space, dollar signs, case."""
    text = re.sub(r"\\text\{([^}]*)\}", r"\1", answer)
    text = text.replace("\\left", "").replace("\\right", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"\s+", "", text).strip("$.").lower()


def _ends_differ(pattern: re.Pattern, gold: str, answer: str) -> bool:
    """Whether both answers end in a base, or in the power of a unit, and the two differ: algebra would ignore these."""
    left, right = pattern.search(gold), pattern.search(answer)
    return bool(left and right and left[1] != right[1])


def verify(gold: str, answer: str | None) -> bool:
    """Whether `answer` equals the reference `gold`: as text, as exact numbers if both are numbers, else by algebra.

    Not symmetric: the answer may add a unit or an assignment ("18 dollars", "x = 5") that the reference lacks. Without
    math-verify, only texts and numbers are compared.
    """
    if answer is None:
        return False
    if _normal(gold) == _normal(answer):
        return True
    left, right = number(gold), number(answer)
    if right is None:  # a number with a unit, such as "18 dollars"
        match = _WITH_UNIT.fullmatch(answer)
        if match and _NO_UNITS & set(match[2].split()):
            return False  # such as "4 or more"
        right = number(match[1]) if match else None
    if left is not None and right is not None:
        return left == right
    if _ends_differ(_BASE, gold, answer) or _ends_differ(_UNIT, gold, answer):
        return False
    if len(answer) > MAX_LENGTH or not any(c.isalnum() for c in answer) or not algebra.installed():
        return False
    return algebra.equal(gold, answer)


def same_value(a: str, b: str) -> bool:
    """Whether two answers are equal where neither is the reference, such as the answers of a vote. Symmetric."""
    return verify(a, b) or verify(b, a)
