"""Facts: what may happen to a quantity in a story of the embedded task, as a table of kinds.

The random stream is part of the format (see `stories.py`): the order of `KINDS` and of a kind's draws must not change. A new
kind goes to the end.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

THINGS = (
    "apples books cards coins eggs flowers marbles pens plates shells stamps stickers toys candles cookies ribbons "
    "buttons pencils"
).split()
CONTAINERS = "bags boxes jars baskets packs".split()
PEOPLE = "friends children pupils neighbors".split()
SINGULAR = {"bags": "bag", "boxes": "box", "jars": "jar", "baskets": "basket", "packs": "pack", "dollars": "dollar"}
SINGULAR |= {thing: thing[:-1] for thing in THINGS}


@dataclass(frozen=True)
class Fact:
    """One step of a problem: its sentence, how a quick solution restates it, and what it does to the quantity."""

    kind: str
    told: str  # the sentence in the problem
    retold: tuple[str, ...]  # restatements in a quick solution
    equations: tuple[tuple[int, str, int, int], ...]  # (left, operator, right, result); the last result is the new value
    unit: str  # unit of the new value

    @property
    def value(self) -> int:
        return self.equations[-1][3]


@dataclass(frozen=True)
class Now:
    """The state of a story before its next fact, with two random numbers that a fact may use."""

    v: int  # the quantity
    u: str  # its unit
    h: str  # who holds it
    o: str  # another person
    a: int  # an amount to add or to take
    k: int  # a factor, 3 to 9
    top: int  # the largest quantity allowed

    @property
    def countable(self) -> bool:
        return self.u not in ("dollars", "quarters")

    @property
    def things(self) -> bool:
        return self.countable and self.u not in CONTAINERS

    @property
    def divisors(self) -> list[int]:
        return [k for k in range(3, 10) if self.v % k == 0 and self.v // k >= 3]


@dataclass(frozen=True)
class Kind:
    """A kind of fact as templates. Names in braces are fields of `Now`, drawn words, and singulars (`{one_u}`).

    `work` holds the equations, such as "n * s; v + r", where r is the result of the equation before. `draws` are drawn in
    order, after `fits` allows the kind; a drawn word replaces a field of the same name.
    """

    told: str
    retold: tuple[str, ...]
    work: str
    fits: Callable[[Now], bool]
    draws: dict[str, Callable[[Now], Sequence]] = field(default_factory=dict)
    unit: str = "{u}"
    passes_on: bool = False  # afterwards the quantity asked for is the other person's


def _third(now: Now) -> bool:
    return now.v % 3 == 0 and now.v >= 30


# fmt: off
KINDS = {
    "add": Kind("{h} {verb} {a} more {u}.", ("{h} {verb} {a} more.", "Add {a}.", "Then {a} more {u}."), "v + a",
        lambda now: now.v + now.a <= now.top,
        {"verb": lambda now: ("finds", "gets", "buys", "receives") if now.countable else ("earns", "gets", "receives")}),
    "take": Kind("{h} {verb} {a} {u}.", ("{h} {verb} {a}.", "Take {a} away.", "Then {a} {u} are gone."), "v - a",
        lambda now: now.v - now.a >= 10, {"verb": lambda now: ("loses", "uses", "hides", "gives away")}),
    "add_groups": Kind("{h} buys {n} {c} with {s} {u} in each.", ("{h} buys {n} {c} of {s}.", "Now {n} {c} with {s} each."),
        "n * s; v + r", lambda now: now.things,
        {"n": lambda now: range(3, 10), "s": lambda now: range(11, 61), "c": lambda now: CONTAINERS}),
    "times": Kind("{o} has {k} times as many {u} as {h}.", ("{o} has {k} times as many.", "Take it {k} times for {o}."), "v * k",
        lambda now: now.v * now.k <= now.top, passes_on=True),
    "twice": Kind("{o} has twice as many {u} as {h}.", ("{o} has twice as many.", "Double it for {o}."), "v * 2",
        lambda now: now.v * 2 <= now.top, passes_on=True),
    "more_than": Kind("{o} has {a} more {u} than {h}.", ("{o} has {a} more.", "Add {a} for {o}."), "v + a",
        lambda now: now.v + now.a <= now.top, passes_on=True),
    "fewer_than": Kind("{o} has {a} fewer {u} than {h}.", ("{o} has {a} fewer.", "Take {a} away for {o}."), "v - a",
        lambda now: now.v - now.a >= 10, passes_on=True),
    "half": Kind("{h} {verb} half of the {u}.", ("{h} {verb} half.", "Half is gone.", "Half are left."), "v / 2",
        lambda now: now.v % 2 == 0 and now.v >= 20,
        {"verb": lambda now: ("sells", "loses", "spends" if now.u == "dollars" else "breaks")}),
    "third_gone": Kind("{h} gives a third of the {u} to {o}.", ("{h} gives a third away.", "A third goes to {o}."),
        "v / 3; v - r", _third),
    "third_left": Kind("{h} keeps only a third of the {u}.", ("{h} keeps a third.", "Only a third is left."), "v / 3", _third),
    "share": Kind("The {u} are shared equally among {k} {p}, and {o} gets one share.",
        ("Share among {k} {p}.", "{o} gets one of {k} shares."), "v / k", lambda now: bool(now.divisors),
        {"k": lambda now: now.divisors, "p": lambda now: PEOPLE}, passes_on=True),
    "pack": Kind("{h} packs the {u} into {c} of {k}.", ("Pack them into {c} of {k}.", "{k} go into each {one_c}."), "v / k",
        lambda now: now.things and bool(now.divisors),
        {"k": lambda now: now.divisors, "c": lambda now: CONTAINERS}, unit="{c}"),
    "price": Kind("{h} sells every {one_u} for {k} dollars.",
        ("Each sells for {k} dollars.", "Every {one_u} brings {k} dollars."), "v * k",
        lambda now: now.countable and now.v * now.k <= now.top, unit="dollars"),
    "hold": Kind("Each {one_u} holds {k} {t}.", ("Each {one_u} has {k} {t}.", "Count {k} {t} in each."), "v * k",
        lambda now: now.u in CONTAINERS and now.v * now.k <= now.top, {"t": lambda now: THINGS}, unit="{t}"),
    "days": Kind("{h} {verb} as many {u} on each of {k} days.", ("This happens on {k} days.", "The same on {k} days."), "v * k",
        lambda now: now.v * now.k <= now.top,
        {"verb": lambda now: ("earns", "saves") if now.u == "dollars" else ("makes", "collects")}),
    "quarters": Kind("{h} changes all the dollars into quarters.", ("A dollar is 4 quarters.", "Change them into quarters."),
        "v * 4", lambda now: now.u == "dollars" and now.v * 4 <= now.top, unit="quarters"),
    "give_each": Kind("{h} gives {s} {u} to each of {n} {p}.", ("Each of {n} {p} gets {s}.", "Then {n} times {s} {u} are gone."),
        "n * s; v - r", lambda now: now.v >= 70,
        {"n": lambda now: range(3, 6), "s": lambda now: range(6, now.v // 6), "p": lambda now: PEOPLE}),
    "twice_more": Kind("{o} has {a} more than twice as many {u} as {h}.", ("Double it and add {a} for {o}.",
        "{o} has {a} more than twice as many."), "v * 2; r + a", lambda now: now.v * 2 + now.a <= now.top, passes_on=True),
    "half_more": Kind("{o} has {a} more than half as many {u} as {h}.", ("Take half and add {a} for {o}.",
        "{o} has {a} more than half as many."), "v / 2; r + a",
        lambda now: now.v % 2 == 0 and now.v >= 20 and now.v // 2 + now.a <= now.top, passes_on=True),
    "half_and_take": Kind("{h} sells half of the {u} and loses {a} more.", ("Half is gone, then {a} more.",
        "{h} sells half and loses {a}."), "v / 2; r - a", lambda now: now.v % 2 == 0 and now.v // 2 - now.a >= 10),
}
# fmt: on
ONE_CALCULATION = tuple(KINDS)[:16]  # the kinds of the plain style: nearly all change the quantity by one calculation
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def _equations(work: str, names: dict) -> tuple[tuple[int, str, int, int], ...]:
    """The equations of a fact from `Kind.work` and the values of its names."""
    made: list[tuple[int, str, int, int]] = []
    for part in work.split("; "):
        left, sign, right = part.split()
        known = names | {"r": made[-1][3]} if made else names
        a, b = (int(known.get(name, name)) for name in (left, right))
        made.append((a, sign, b, _OPERATIONS[sign](a, b)))
    return tuple(made)


def make_fact(rng: random.Random, now: Now, name: str) -> tuple[Fact, str] | None:
    """A fact of kind `name`, and who holds the quantity after it; None if the kind does not fit."""
    kind = KINDS[name]
    if not kind.fits(now):
        return None
    names = vars(now) | {word: rng.choice(options(now)) for word, options in kind.draws.items()}
    names |= {f"one_{word}": SINGULAR[names[word]] for word in ("u", "c") if names.get(word) in SINGULAR}
    equations = _equations(kind.work, names)
    if equations[-1][3] > now.top:
        return None
    retold = tuple(text.format_map(names) for text in kind.retold)
    fact = Fact(name, kind.told.format_map(names), retold, equations, kind.unit.format_map(names))
    return fact, now.o if kind.passes_on else now.h
