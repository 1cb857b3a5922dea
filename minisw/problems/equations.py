"""Single equations, right or wrong: the easiest task in which a language model can learn to judge.

A problem is a sum or a difference; its solution is one chunk, "89 - 42 = 47". Half of the solutions have a wrong result. The
rules below make them, so no policy is needed and every label is exact.
"""

from __future__ import annotations

import random

from minisw.problems.files import TooFewProblems
from minisw.records import BenchItem

SPLITS = ("train", "validation", "test")


def load_split(split: str, count: int, seed: int, digits: int) -> list[BenchItem]:
    """`count` equations of numbers with `digits` digits, right and wrong in turn; no two have the same left side.

    Which left sides belong to which split depends on the seed, and splits are disjoint. A wrong result differs from the right
    one by 1, 2 or 10 (with three digits and more also by 100). Raises ValueError for an unknown split,
    TooFewProblems if there are not that many equations.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    low, high = 10 ** (digits - 1), 10**digits - 1
    numbers = high - low + 1
    most = numbers * (numbers + 1) // 2 // len(SPLITS)  # differences are the fewer: a ≥ b
    if not 0 <= count <= most:
        raise TooFewProblems(f"there are {most} equations with {digits} digits for {split}, and {count} were asked for")
    salt = random.Random(f"{seed}/{digits}").getrandbits(64)  # decides, with the left side, which split may hold an equation
    rng = random.Random(f"{seed}/{digits}/{split}")
    part, seen, items = SPLITS.index(split), set(), []
    while len(items) < count:
        a, b, sign = rng.randint(low, high), rng.randint(low, high), rng.choice("+-")
        if sign == "-" and a < b:
            a, b = b, a
        left = f"{a} {sign} {b}"
        if left in seen or random.Random(f"{salt}/{left}").randrange(len(SPLITS)) != part:
            continue
        seen.add(left)
        right = len(items) % 2 == 0
        result = a + b if sign == "+" else a - b
        shown = result if right else wrong_result(result, digits, rng)
        name = f"equations-{split}-{seed}-{len(items)}"
        items.append(BenchItem(name, f"{left} = ?", (f"{left} = {shown}",), -1 if right else 0, right))
    return items


def wrong_result(result: int, digits: int, rng: random.Random) -> int:
    """A number near `result`, at least 0 and not equal to it."""
    steps = (1, 2, 10) if digits < 3 else (1, 2, 10, 100)
    near = [result + sign * step for step in steps for sign in (-1, 1)]
    return rng.choice([number for number in near if number >= 0])
