"""The embedded task: seeded word problems in plain English.

A problem is a chain: it states a quantity, each *fact* changes the quantity, and the question asks for the last value. The
generator knows the value after every fact, so the correctness of every step of any solution is known exactly (`rules.py`),
which no real data set offers. The text that the embedded base model is pretrained on is in `pretraining.py`.

A `Style` sets how hard a story is to follow. The plain style tells the facts in order. The rich style tells some of them out of
order, adds sentences that do not matter, and has facts that need two calculations.

The random stream is part of the format: the problems of a seed must stay the same across versions, and a test holds their
hash. So every random choice below keeps its place in the order of choices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass, field

from minisw.problems.arithmetic.facts import CONTAINERS, KINDS, ONE_CALCULATION, THINGS, Fact, Now, make_fact
from minisw.problems.files import TooFewProblems
from minisw.records import Problem

NAMES = (
    "Tom Anna Ben Clara David Ella Felix Grace Henry Iris Jack Kate Leo Mia Noah Olive Paul Rosa Sam Tina Uma Victor Wendy Zoe"
).split()

# The layout between any two sentences is random: blank lines say nothing about steps, so that splitting at "\n\n" yields
# fragments and the policy has to learn to segment.
LAYOUT = (("\n\n", 0.62), ("\n", 0.18), (" ", 0.20))


@dataclass(frozen=True)
class Story:
    """A generated problem with everything that the generator knows about it."""

    start: str
    start_value: int
    unit: str
    facts: tuple[Fact, ...]
    question: str
    sentences: tuple[str, ...] = field(default=())  # start, facts and distractors in the order of the text

    @property
    def text(self) -> str:
        return " ".join(self.sentences) + " " + self.question

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(fact.value for fact in self.facts)


@dataclass(frozen=True)
class Style:
    """How hard the stories are to follow, and how often quick solutions repeat a fact before they calculate."""

    kinds: tuple[str, ...]  # kinds of facts
    swapped: float  # probability that two neighbouring facts are told in reverse order
    distractors: tuple[float, ...]  # probability of each sentence that does not matter
    foreign: float  # share of those sentences that say what somebody outside the story has
    retold: float  # probability that a quick step restates its fact before it calculates


PLAIN = Style(ONE_CALCULATION, swapped=0.0, distractors=(0.25,), foreign=0.0, retold=0.75)
RICH = Style(tuple(KINDS), swapped=0.5, distractors=(0.5, 0.5, 0.3), foreign=0.5, retold=0.5)


# --- stories -------------------------------------------------------------------------------------------------------------


SMALLEST = 12  # of what is added or taken


def make_story(rng: random.Random, steps: int, top: int = 999, style: Style = PLAIN) -> Story:
    """A random story of `steps` steps whose quantities stay within 3…`top`."""
    while True:
        first_holder = holder = rng.choice(NAMES)
        first_unit = unit = rng.choice(THINGS + CONTAINERS[:3])
        start, start_value, facts = _start(rng, holder, unit, top)
        value = facts[-1].value if facts else start_value
        hidden = len(facts)  # a fact inside the first sentence
        attempts = 0
        while len(facts) < steps and attempts < 200:
            attempts += 1
            other = rng.choice([name for name in NAMES if name != holder])
            kind = rng.choice(style.kinds)
            amount, factor = rng.randint(SMALLEST, max(SMALLEST + 1, min(top // 2, 399))), rng.randint(3, 9)
            made = make_fact(rng, Now(value, unit, holder, other, amount, factor, top), kind)
            if made is None or (facts and made[0].kind == facts[-1].kind):
                continue
            fact, holder = made
            facts.append(fact)
            value, unit = fact.value, fact.unit
        if len(facts) < steps or any(fact.value < 3 for fact in facts):
            continue
        sentences = [start]
        if style.swapped:
            facts[hidden:], told = _out_of_order(rng, facts[hidden:], style.swapped)
            sentences += told
        else:
            sentences += [fact.told for fact in facts[hidden:]]
        for probability in style.distractors:
            if rng.random() < probability:
                foreign = bool(style.foreign) and rng.random() < style.foreign
                distractor = _foreign(rng, " ".join(sentences)) if foreign else _distractor(rng, first_holder)
                places = [i for i in range(1, len(sentences)) if not sentences[i].startswith(BEFORE)]
                sentences.insert(rng.choice([*places, len(sentences)]), distractor)
        question = rng.choice(
            (
                f"How many {unit} are there in the end?",
                f"How many {unit} does {holder} have at last?",
                f"In the end, how many {unit} does {holder} have?",
            )
        )
        return Story(start, start_value, first_unit, tuple(facts), question, tuple(sentences))


BEFORE = "Before that, "


def _out_of_order(rng: random.Random, facts: list[Fact], swapped: float) -> tuple[list[Fact], list[str]]:
    """The facts with their sentences as told, and the sentences in the order of the text.

    Some neighbouring facts are told in reverse order: the later fact first, then the earlier one with "Before that, ".
    """
    facts, sentences, i = facts.copy(), [], 0
    while i < len(facts):
        if i + 1 < len(facts) and rng.random() < swapped:
            told = facts[i].told
            first = told.split()[0]
            told = BEFORE + (told if first in NAMES else first.lower() + told[len(first) :])
            facts[i] = dataclasses.replace(facts[i], told=told)
            sentences += [facts[i + 1].told, told]
            i += 2
        else:
            sentences.append(facts[i].told)
            i += 1
    return facts, sentences


def _start(rng: random.Random, holder: str, unit: str, top: int) -> tuple[str, int, list[Fact]]:
    """First sentence, its number, and the fact hidden in it, if it counts in dozens."""
    if rng.random() < 0.1 and unit in THINGS:
        n = rng.randint(3, min(60, top // 12))
        start = f"{holder} has {n} dozen {unit}."
        return start, n, [Fact("dozen", start, ("A dozen is 12.", f"Each dozen is 12 {unit}."), ((n, "*", 12, n * 12),), unit)]
    n = rng.randint(12, max(24, min(top // 2, 299)))
    start = rng.choice(("{h} has {n} {u}.", "{h} starts with {n} {u}.", "At first {h} has {n} {u}.", "{h} owns {n} {u}."))
    return start.format(h=holder, n=n, u=unit), n, []


def _distractor(rng: random.Random, holder: str) -> str:
    """A sentence with a number that does not matter."""
    n, windows = rng.randint(5, 60), rng.randint(2, 9)
    return rng.choice(
        (
            f"{holder} is {n} years old.",
            f"It is {n} degrees outside.",
            f"The bus is {n} minutes late.",
            f"The room has {windows} windows.",
        )
    )


def _foreign(rng: random.Random, text: str) -> str:
    """What somebody who is not in `text` has of something that is not in it."""
    name = rng.choice([name for name in NAMES if name not in text])
    thing = rng.choice([thing for thing in THINGS if thing[:-1] not in text])
    return f"{name} has {rng.randint(12, 299)} {thing}."


# --- solutions -----------------------------------------------------------------------------------------------------------

CONCLUSIONS = ("So now {v} {u}.", "Now there are {v} {u}.", "That makes {v} {u}.", "So it is {v} {u}.")
ANSWERS = ("The answer is \\boxed{{{v}}}.", "So the answer is \\boxed{{{v}}}.")


def quick_step(rng: random.Random, fact: Fact, style: Style = PLAIN) -> str:
    """One step in the quick style: perhaps a restatement, the bare equations, and a conclusion, each with a random gap."""
    sentences = []
    if rng.random() < style.retold:
        sentences.append(rng.choice(fact.retold))
    sentences += [f"{left}{sign}{right}={result}." for left, sign, right, result in fact.equations]
    sentences.append(rng.choice(CONCLUSIONS).format(v=fact.value, u=fact.unit))
    gaps, weights = zip(*LAYOUT, strict=True)
    return "".join(sentence + rng.choices(gaps, weights)[0] for sentence in sentences)


def quick_solution(rng: random.Random, story: Story, style: Style = PLAIN) -> list[str]:
    """The reference solution in the quick style as chunks: one for each step, then the answer. Joined, they are the text."""
    return [quick_step(rng, fact, style) for fact in story.facts] + [rng.choice(ANSWERS).format(v=story.facts[-1].value)]


# --- splits --------------------------------------------------------------------------------------------------------------

STEPS = {2: 1, 3: 2, 4: 2}  # number of steps: weight
SPLITS = {  # name: (seed, weights of the numbers of steps)
    "train": (11, STEPS),
    "validation": (12, STEPS),
    "test": (13, STEPS),
    "hard": (14, {6: 1, 7: 1, 8: 1}),
}
TOP = 999  # largest quantity
# The splits are harder to follow than the pretraining text, so that the policy errs in what it does as often as in arithmetic.
TOLD = dataclasses.replace(RICH, swapped=0.7, distractors=(0.7, 0.7, 0.7))
MOST = 1_000_000  # problems of one split: more would take hours to generate


def load_split(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split. Splits are disjoint by construction: a text's hash decides which split may hold it.

    Raises ValueError for an unknown split, TooFewProblems for a count outside 0…1,000,000.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= count <= MOST:
        raise TooFewProblems(f"cannot generate {count} problems: ask for at most {MOST} (--problems.{split})")
    number, steps = SPLITS[split]
    rng = random.Random(number * 1_000_003 + seed)
    problems: list[Problem] = []
    seen: set[str] = set()
    while len(problems) < count:
        story = make_story(rng, rng.choices(list(steps), list(steps.values()))[0], TOP, style=TOLD)
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
    """The only split that may hold a problem with this text ("pretraining" for six texts in ten)."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "validation", 2: "hard", 3: "train"}.get(bucket, "pretraining")
