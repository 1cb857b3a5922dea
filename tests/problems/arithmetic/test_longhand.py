"""Arithmetic as text: long hand, comparisons of numbers, and wrong results that look right."""

from __future__ import annotations

import random
import re

from minisw.problems.arithmetic.longhand import compare, longhand, near_miss, random_calculation


def solve(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else 0}[operator]


def calculations() -> list[tuple[int, str, int]]:
    rng = random.Random(0)
    drawn = [random_calculation(rng) for _ in range(1500)]
    # and what the stories ask: both factors of any size, a divisor with two digits
    drawn += [(rng.randint(3, 99), "*", rng.randint(3, 99)) for _ in range(200)]
    drawn += [(q * k, "/", k) for q, k in ((rng.randint(3, 99), rng.randint(3, 12)) for _ in range(200))]
    return drawn + [(999, "+", 1), (100, "-", 1), (1000, "-", 999), (7, "-", 7), (5, "+", 995), (12, "*", 12), (60, "*", 12)]


def test_longhand_gives_the_result() -> None:
    for left, operator, right in calculations():
        text, result = longhand(left, operator, right)
        assert result == solve(left, operator, right), text
        assert text.endswith(f", {result}.")
        head = re.match(r"(\d+)([-+*/])(\d+): ", text)
        assert head and head[2] == operator
        given = (int(head[1]), int(head[3]))
        assert given == (left, right) or (operator == "*" and given == (right, left))


def test_longhand_columns_are_true_and_make_the_result() -> None:
    for left, operator, right in calculations():
        text, result = longhand(left, operator, right)
        columns = text.split(": ")[1].split(", ")[:-1]
        assert columns
        for column in columns:
            stated, expression = column.split("=")[::-1] if operator != "/" else column.split("=")
            assert re.fullmatch(r"[-+*\d]+", expression) and eval(expression) == int(stated), text
        if operator == "/":  # the quotient's digits from the left; the last column leaves the remainder
            assert int("".join(column.split("=")[1].split("*")[0] for column in columns)) == result
            assert int(columns[-1].rsplit("+", 1)[1]) == left % right
        else:  # the result's digits from the right; the first column stands in full at the left end
            values = [int(column.split("=")[1]) for column in columns]
            digits = [value % 10 for value in values[:-1]] + [values[-1]]
            assert sum(digit * 10**place for place, digit in enumerate(digits)) == result, text


def test_compare() -> None:
    assert compare(42, 47) == "4=4, 2#7, different"
    assert compare(42, 42) == "4=4, 2=2, same"
    assert compare(42, 421) == "4=4, 2=2, end#1, different"
    assert compare(7, 70) == "7=7, end#0, different"
    assert compare(100, 99) == "1#9, different"
    rng = random.Random(1)
    for _ in range(500):
        left, right = rng.randint(0, 999), rng.randint(0, 999)
        assert compare(left, left).endswith(", same")
        assert compare(left, right).endswith(", same" if left == right else ", different")


def test_near_miss_is_never_the_value() -> None:
    rng = random.Random(2)
    for value in [*range(3, 1000)] * 10:
        wrong = near_miss(rng, value)
        assert wrong != value and wrong > 0
    close = sum(abs(near_miss(rng, 512) - 512) in (1, 2, 10, 20, 100, 200) for _ in range(1000))
    assert close > 500  # most are slips of one digit


def test_random_calculation_stays_in_range() -> None:
    rng = random.Random(3)
    drawn = [random_calculation(rng) for _ in range(2000)]
    assert {operator for _, operator, _ in drawn} == set("+-*/")
    for left, operator, right in drawn:
        assert 3 <= solve(left, operator, right) <= 999
        assert operator != "/" or left % right == 0
