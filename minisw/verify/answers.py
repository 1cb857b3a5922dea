"""The final answer out of a text, and whether two answers are equal.

Equal texts and plain numbers are compared exactly and at once; only what is left goes to algebra (`algebra.py`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from minisw.verify import algebra

_BASE = re.compile(r"\w_\{?(\d+)\}?$")  # 52_8


_UNIT = re.compile(r"\\(?:text|mbox|mathrm)\{[^}]*\}\^?\{?(\d*)\}?$")  # 15\mbox{ cm}^2


LONGEST = 300  # characters of an answer that algebra is tried on; what is longer is a text, not an answer


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"


_NUMBER = re.compile(rf"-?\$?(?:{_DIGITS})(?:/\d+)?%?$")


_WITH_UNIT = re.compile(rf"[^\w.-]*(-?(?:{_DIGITS}))(?:[\s(]|\\[ ,;]|\\text\{{)+((?:[A-Za-z]{{2,}} ?)+)\W*")  # 18 dollars


_NO_UNITS = {"or", "and", "to", "more", "less", "pi"}


def final_answer(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` of `text` (braces balanced), or None where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for at in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at].strip()
    return None


def number(answer: str) -> Fraction | None:
    """The exact value of a plain number ("1,234", "$3.50", "2/3"), or None where it is something else."""
    plain = answer.strip().strip("$").replace("\\$", "").replace("\\!", "").rstrip(".").strip()
    if not _NUMBER.match(plain):
        return None
    try:
        return Fraction(plain.replace(",", "").replace("$", "").rstrip("%"))
    except (ValueError, ZeroDivisionError):
        return None


def _normal(answer: str) -> str:
    text = re.sub(r"\\text\{([^}]*)\}", r"\1", answer)
    text = text.replace("\\left", "").replace("\\right", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"\s+", "", text).strip("$.").lower()


def _unlike(pattern: re.Pattern, gold: str, answer: str) -> bool:
    """Whether both end in a base, or in the power of a unit, and in another one: algebra reads neither."""
    left, right = pattern.search(gold), pattern.search(answer)
    return bool(left and right and left[1] != right[1])


def verify(gold: str, answer: str | None) -> bool:
    """Whether `answer` equals the reference `gold`: as text, as exact numbers where both are, else by algebra.

    The order matters: what is odd in the reference is forgiven, what is odd in the answer is not.
    """
    if answer is None:
        return False
    if _normal(gold) == _normal(answer):
        return True
    left, right = number(gold), number(answer)
    if right is None:  # "18 dollars" where 18 is asked for
        words = _WITH_UNIT.fullmatch(answer)
        if words and _NO_UNITS & set(words[2].split()):
            return False  # 4 or more
        right = number(words[1]) if words else None
    if left is not None and right is not None:
        return left == right
    if _unlike(_BASE, gold, answer) or _unlike(_UNIT, gold, answer):
        return False
    if len(answer) > LONGEST or not any(c.isalnum() for c in answer) or not algebra.installed():
        return False
    return algebra.equal(gold, answer)


def same_value(a: str, b: str) -> bool:
    """Whether two answers are equal where neither is the reference, such as the answers of a vote. Symmetric."""
    return verify(a, b) or verify(b, a)
