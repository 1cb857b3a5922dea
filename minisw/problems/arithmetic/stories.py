"""The embedded task: seeded word problems in plain English.

One problem is a chain: a quantity is given, then each *fact* changes it, then it is asked for. Because the generator
knows the value after every fact, the correctness of every step of any solution is known exactly (`rules.py`), which no
real data set offers. What the embedded base model reads before all this is in `pretraining.py`.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from minisw.records import Problem

NAMES = (
    "Tom Anna Ben Clara David Ella Felix Grace Henry Iris Jack Kate Leo Mia Noah Olive Paul Rosa Sam Tina Uma Victor Wendy Zoe"
).split()


THINGS = (
    "apples books cards coins eggs flowers marbles pens plates shells stamps stickers toys candles cookies ribbons "
    "buttons pencils"
).split()


CONTAINERS = "bags boxes jars baskets packs".split()


SINGULAR = {"bags": "bag", "boxes": "box", "jars": "jar", "baskets": "basket", "packs": "pack", "dollars": "dollar"}


SINGULAR |= {thing: ("box" if thing == "boxes" else thing[:-1]) for thing in THINGS}


PEOPLE = "friends children pupils neighbors".split()


# Between any two sentences the layout is random: line breaks and blank lines mean little here, so that splitting at
# "\n\n" yields fragments and segmenting is something to learn.
LAYOUT = (("\n\n", 0.62), ("\n", 0.18), (" ", 0.20))


@dataclass(frozen=True)
class Fact:
    """One step of a problem: how it is told, how a quick writer retells it, and what it does to the quantity."""

    kind: str
    told: str  # the sentence in the problem
    retold: tuple[str, ...]  # how a quick solution may restate it
    equations: tuple[tuple[int, str, int, int], ...]  # (left, operator, right, result); the last result is the new value
    unit: str  # the unit of the new value

    @property
    def value(self) -> int:
        return self.equations[-1][3]


@dataclass(frozen=True)
class Story:
    """A generated problem with everything the generator knows of it."""

    start: str
    start_value: int
    unit: str
    facts: tuple[Fact, ...]
    question: str
    sentences: tuple[str, ...] = field(default=())  # start, facts and distractors in the order told

    @property
    def text(self) -> str:
        return " ".join(self.sentences) + " " + self.question

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(fact.value for fact in self.facts)


KINDS = (
    "add",
    "take",
    "add_groups",
    "times",
    "twice",
    "more_than",
    "fewer_than",
    "half",
    "third_gone",
    "third_left",
    "share",
    "pack",
    "price",
    "hold",
    "days",
    "quarters",
)


ADDITIVE_KINDS = ("add", "take", "more_than", "fewer_than")


def _divisors(value: int, choices: range) -> list[int]:
    return [k for k in choices if value % k == 0 and value // k >= 3]


def _make_fact(
    rng: random.Random, value: int, unit: str, holder: str, other: str, top: int, smallest: int, additive: float
) -> tuple[Fact, str] | None:
    """One random fact applied to `value`; returns (fact, the holder afterwards), or None where the kind does not fit."""
    kind = rng.choice(ADDITIVE_KINDS if additive and rng.random() < additive else KINDS)
    a = rng.randint(smallest, max(smallest + 1, min(top // 2, 399)))
    k = rng.randint(3, 9)
    h, o, u = holder, other, unit
    pick = rng.choice
    countable = u != "dollars" and u != "quarters"
    if kind == "add" and value + a <= top:
        verb = pick(("finds", "gets", "buys", "receives")) if countable else pick(("earns", "gets", "receives"))
        return Fact(
            kind,
            f"{h} {verb} {a} more {u}.",
            (f"{h} {verb} {a} more.", f"Add {a}.", f"Then {a} more {u}."),
            ((value, "+", a, value + a),),
            u,
        ), h
    if kind == "take" and value - a >= 10:
        verb = pick(("loses", "uses", "hides", "gives away"))
        return Fact(
            kind,
            f"{h} {verb} {a} {u}.",
            (f"{h} {verb} {a}.", f"Take {a} away.", f"Then {a} {u} are gone."),
            ((value, "-", a, value - a),),
            u,
        ), h
    if kind == "add_groups" and countable and u not in CONTAINERS:
        n, size = rng.randint(3, 9), rng.randint(11, 60)
        c = pick(CONTAINERS)
        if value + n * size <= top:
            return Fact(
                kind,
                f"{h} buys {n} {c} with {size} {u} in each.",
                (f"{h} buys {n} {c} of {size}.", f"Now {n} {c} with {size} each."),
                ((n, "*", size, n * size), (value, "+", n * size, value + n * size)),
                u,
            ), h
    if kind == "times" and value * k <= top:
        return Fact(
            kind,
            f"{o} has {k} times as many {u} as {h}.",
            (f"{o} has {k} times as many.", f"Take it {k} times for {o}."),
            ((value, "*", k, value * k),),
            u,
        ), o
    if kind == "twice" and value * 2 <= top:
        return Fact(
            kind,
            f"{o} has twice as many {u} as {h}.",
            (f"{o} has twice as many.", f"Double it for {o}."),
            ((value, "*", 2, value * 2),),
            u,
        ), o
    if kind == "more_than" and value + a <= top:
        return Fact(
            kind, f"{o} has {a} more {u} than {h}.", (f"{o} has {a} more.", f"Add {a} for {o}."), ((value, "+", a, value + a),), u
        ), o
    if kind == "fewer_than" and value - a >= 10:
        return Fact(
            kind,
            f"{o} has {a} fewer {u} than {h}.",
            (f"{o} has {a} fewer.", f"Take {a} away for {o}."),
            ((value, "-", a, value - a),),
            u,
        ), o
    if kind == "half" and value % 2 == 0 and value >= 20:
        verb = pick(("sells", "loses", "spends" if u == "dollars" else "breaks"))
        return Fact(
            kind,
            f"{h} {verb} half of the {u}.",
            (f"{h} {verb} half.", "Half is gone.", "Half are left."),
            ((value, "/", 2, value // 2),),
            u,
        ), h
    if kind == "third_gone" and value % 3 == 0 and value >= 30:
        return Fact(
            kind,
            f"{h} gives a third of the {u} to {o}.",
            (f"{h} gives a third away.", f"A third goes to {o}."),
            ((value, "/", 3, value // 3), (value, "-", value // 3, value - value // 3)),
            u,
        ), h
    if kind == "third_left" and value % 3 == 0 and value >= 30:
        return Fact(
            kind,
            f"{h} keeps only a third of the {u}.",
            (f"{h} keeps a third.", "Only a third is left."),
            ((value, "/", 3, value // 3),),
            u,
        ), h
    if kind == "share" and (ks := _divisors(value, range(3, 10))):
        k = pick(ks)
        p = pick(PEOPLE)
        return Fact(
            kind,
            f"The {u} are shared equally among {k} {p}, and {o} gets one share.",
            (f"Share among {k} {p}.", f"{o} gets one of {k} shares."),
            ((value, "/", k, value // k),),
            u,
        ), o
    if kind == "pack" and countable and u not in CONTAINERS and (ks := _divisors(value, range(3, 10))):
        k, c = pick(ks), pick(CONTAINERS)
        return Fact(
            kind,
            f"{h} packs the {u} into {c} of {k}.",
            (f"Pack them into {c} of {k}.", f"{k} go into each {SINGULAR[c]}."),
            ((value, "/", k, value // k),),
            c,
        ), h
    if kind == "price" and countable and value * k <= top:
        return Fact(
            kind,
            f"{h} sells every {SINGULAR[u]} for {k} dollars.",
            (f"Each sells for {k} dollars.", f"Every {SINGULAR[u]} brings {k} dollars."),
            ((value, "*", k, value * k),),
            "dollars",
        ), h
    if kind == "hold" and u in CONTAINERS and value * k <= top:
        t = pick(THINGS)
        return Fact(
            kind,
            f"Each {SINGULAR[u]} holds {k} {t}.",
            (f"Each {SINGULAR[u]} has {k} {t}.", f"Count {k} {t} in each."),
            ((value, "*", k, value * k),),
            t,
        ), h
    if kind == "days" and value * k <= top:
        verb = pick(("earns", "saves")) if u == "dollars" else pick(("makes", "collects"))
        return Fact(
            kind,
            f"{h} {verb} as many {u} on each of {k} days.",
            (f"This happens on {k} days.", f"The same on {k} days."),
            ((value, "*", k, value * k),),
            u,
        ), h
    if kind == "quarters" and u == "dollars" and value * 4 <= top:
        return Fact(
            kind,
            f"{h} changes all the dollars into quarters.",
            ("A dollar is 4 quarters.", "Change them into quarters."),
            ((value, "*", 4, value * 4),),
            "quarters",
        ), h
    return None


def make_story(rng: random.Random, steps: int, top: int = 999, smallest: int = 12, additive: float = 0.0) -> Story:
    """A random story of `steps` steps whose quantities stay within 3…`top`; what is added or taken is at least `smallest`, and
    a share `additive` of the steps is drawn from the kinds that add or take."""
    while True:
        holder = rng.choice(NAMES)
        unit = rng.choice(THINGS + CONTAINERS[:3])
        facts: list[Fact] = []
        told: list[str] = []
        first_holder, first_unit = holder, unit
        if rng.random() < 0.1 and unit in THINGS:  # a unit change hidden in the start: dozens
            n = rng.randint(3, min(60, top // 12))
            start = f"{holder} has {n} dozen {unit}."
            value = start_value = n
            facts.append(Fact("dozen", start, ("A dozen is 12.", f"Each dozen is 12 {unit}."), ((n, "*", 12, n * 12),), unit))
            value = n * 12
        else:
            value = start_value = rng.randint(12, max(24, min(top // 2, 299)))
            start = rng.choice(
                (
                    f"{holder} has {value} {unit}.",
                    f"{holder} starts with {value} {unit}.",
                    f"At first {holder} has {value} {unit}.",
                    f"{holder} owns {value} {unit}.",
                )
            )
        told.append(start)
        tries = 0
        while len(facts) < steps and tries < 200:
            tries += 1
            other = rng.choice([name for name in NAMES if name != holder])
            made = _make_fact(rng, value, unit, holder, other, top, smallest, additive)
            if made is None or (facts and made[0].kind == facts[-1].kind):
                continue
            fact, holder = made
            facts.append(fact)
            told.append(fact.told)
            value, unit = fact.value, fact.unit
        if len(facts) < steps or any(fact.value < 3 for fact in facts):
            continue
        if rng.random() < 0.25:  # a fact that doesn't matter
            n = rng.randint(5, 60)
            idle = rng.choice(
                (
                    f"{first_holder} is {n} years old.",
                    f"It is {n} degrees outside.",
                    f"The bus is {n} minutes late.",
                    f"The room has {rng.randint(2, 9)} windows.",
                )
            )
            told.insert(rng.randint(1, len(told)), idle)
        question = rng.choice(
            (
                f"How many {unit} are there in the end?",
                f"How many {unit} does {holder} have at last?",
                f"In the end, how many {unit} does {holder} have?",
            )
        )
        return Story(start, start_value, first_unit, tuple(facts), question, tuple(told))


def equation(parts: tuple[int, str, int, int]) -> str:
    left, operator, right, result = parts
    return f"{left}{operator}{right}={result}"


def _layout(rng: random.Random) -> str:
    return rng.choices([gap for gap, _ in LAYOUT], [weight for _, weight in LAYOUT])[0]


CONCLUSIONS = ("So now {v} {u}.", "Now there are {v} {u}.", "That makes {v} {u}.", "So it is {v} {u}.")


ANSWERS = ("The answer is \\boxed{{{v}}}.", "So the answer is \\boxed{{{v}}}.")


def quick_step(rng: random.Random, fact: Fact) -> str:
    """One step in the quick style: maybe a restatement, the bare equation(s), a conclusion; layout random, ends with a gap."""
    sentences = []
    if rng.random() < 0.75:
        sentences.append(rng.choice(fact.retold))
    sentences += [equation(parts) + "." for parts in fact.equations]
    sentences.append(rng.choice(CONCLUSIONS).format(v=fact.value, u=fact.unit))
    return "".join(sentence + _layout(rng) for sentence in sentences)


def quick_solution(rng: random.Random, story: Story) -> list[str]:
    """The reference solution in the quick style as chunks: one a step, then the answer. Joined, they are the text."""
    return [quick_step(rng, fact) for fact in story.facts] + [rng.choice(ANSWERS).format(v=story.facts[-1].value)]


# --- the splits ------------------------------------------------------------------------------------------------------

STEPS = {2: 1, 3: 1, 4: 2, 5: 3, 6: 4}  # how often the splits' problems have how many steps


SPLITS = {  # name: (seed, weights of the numbers of steps); quantities up to TOP
    "train": (11, STEPS),
    "validation": (12, STEPS),
    "test": (13, STEPS),
    "hard": (14, {6: 1, 7: 1, 8: 1}),
}


TOP = 999


# The splits are harder than what the base was trained on: longer, and more often with sums and differences of three-digit
# numbers, where its quick style errs most.
SMALLEST, ADDITIVE = 100, 0.7


def load_split(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split. Disjoint by construction: a text's hash decides which split may hold it.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    base, steps = SPLITS[split]
    rng = random.Random(base * 1_000_003 + seed)
    problems, seen = [], set()
    while len(problems) < count:
        story = make_story(rng, rng.choices(list(steps), list(steps.values()))[0], TOP, SMALLEST, ADDITIVE)
        if story.text in seen or split_of(story.text) != split:
            continue
        seen.add(story.text)
        problems.append(
            Problem(
                id=f"arithmetic-{split}-{seed}-{len(problems)}",
                question=story.text,
                answer=str(story.values[-1]),
                reference=story.values,
            )
        )
    return problems


def split_of(text: str) -> str:
    """The one split that may hold a problem with this text ("pretraining" for most of them)."""

    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "validation", 2: "hard", 3: "train"}.get(bucket, "pretraining")
