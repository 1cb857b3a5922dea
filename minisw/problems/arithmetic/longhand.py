"""Arithmetic as text: calculations in long hand, comparisons of numbers, and plausible wrong results."""

from __future__ import annotations

import random


def longhand(left: int, operator: str, right: int) -> tuple[str, int]:
    """`left operator right` calculated in long hand; returns (text, result).

    Addition and subtraction start at the last digit, with columns `a+b+carry=…` and `a-b-borrow=…` (10 is added to a where it
    has to borrow). Multiplication is digit by number, division digit by digit with the remainder.
    """
    columns = []
    if operator == "+":
        a, b, carry = str(left)[::-1], str(right)[::-1], 0
        for i in range(max(len(a), len(b))):
            x, y = int(a[i : i + 1] or 0), int(b[i : i + 1] or 0)
            columns.append(f"{x}+{y}+{carry}={x + y + carry}")
            carry = (x + y + carry) // 10
        result = left + right
    elif operator == "-":
        a, b, borrow = str(left)[::-1], str(right)[::-1], 0
        for i in range(len(a)):
            x, y = int(a[i]), int(b[i : i + 1] or 0)
            lent = 10 if x - y - borrow < 0 else 0
            columns.append(f"{x + lent}-{y}-{borrow}={x + lent - y - borrow}")
            borrow = 1 if lent else 0
        result = left - right
    elif operator == "*":
        if left <= 12 < right:  # the digits of the longer number make the columns
            left, right = right, left
        carry = 0
        for digit in str(left)[::-1]:
            columns.append(f"{digit}*{right}+{carry}={int(digit) * right + carry}")
            carry = (int(digit) * right + carry) // 10
        result = left * right
    else:
        rest = 0
        for digit in str(left):
            whole, new = divmod(rest * 10 + int(digit), right)
            columns.append(f"{rest * 10 + int(digit)}={whole}*{right}+{new}")
            rest = new
        result = left // right
    return f"{left}{operator}{right}: {', '.join(columns)}, {result}.", result


def code(left: int, operator: str, right: int) -> tuple[str, int]:
    """`left operator right` as a line of Python and what it prints; returns (text, result)."""
    operator = "//" if operator == "/" else operator
    result = {"+": left + right, "-": left - right, "*": left * right, "//": left // right if right else 0}[operator]
    return f"print({left}{operator}{right})\nOutput: {result}", result


def compare(left: int, right: int) -> str:
    """Two numbers digit by digit from the left, up to the first difference: "4=4, 2#7, different"."""
    a, b, parts = str(left), str(right), []
    for i in range(max(len(a), len(b))):
        x, y = a[i : i + 1] or "end", b[i : i + 1] or "end"
        parts.append(f"{x}={y}" if x == y else f"{x}#{y}")
        if x != y:
            return ", ".join(parts) + ", different"
    return ", ".join(parts) + ", same"


def random_calculation(rng: random.Random, top: int = 999) -> tuple[int, str, int]:
    """A calculation (left, operator, right) whose result is a whole number in 3…`top`."""
    operator = rng.choice("+-*/")
    if operator == "+":
        a = rng.randint(3, top - 3)
        return a, operator, rng.randint(3, top - a)
    if operator == "-":
        a = rng.randint(13, top)
        return a, operator, rng.randint(3, a - 3)
    k = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 12))
    q = rng.randint(3, top // k)
    return (q, operator, k) if operator == "*" else (q * k, operator, k)


def near_miss(rng: random.Random, value: int) -> int:
    """A plausible wrong result: one digit changed, two digits swapped, or another number."""
    digits = list(str(value))
    while True:
        how = rng.random()
        new = digits.copy()
        if how < 0.6:
            i = rng.randrange(len(new))
            new[i] = str((int(new[i]) + rng.choice((-2, -1, 1, 2))) % 10)
        elif how < 0.75 and len(new) > 1:
            i = rng.randrange(len(new) - 1)
            new[i], new[i + 1] = new[i + 1], new[i]
        else:
            new = list(str(rng.randint(3, 999)))
        if new != digits and new[0] != "0":
            return int("".join(new))
