r"""Verification chains (ThinkPRM): their text, the filter of the training data, and chains composed from comments on steps.

    Step 1:                                ┐
    12+1 is 13. \boxed{Positive}           │ the chain: a critique of each step, with its verdict
    Step 2:                                │
    13+2 is 15, not 16. \boxed{Negative}   ┘
    Is the solution correct? no              the final question and its answer

A *prefix* is a solution up to and with one of its steps; it is correct if all these steps are right. Everything here is pure
Python.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from minisw.labels import balanced
from minisw.prompts import Prompts
from minisw.records import LabelledStep
from minisw.verdicts import parse_verdict

Prefix = tuple[LabelledStep, ...]  # the steps of a prefix, in order
Item = TypeVar("Item")

# --- text ----------------------------------------------------------------------------------------------------------------


def answered(chain: str, correct: bool, prompts: Prompts) -> str:
    """A chain with the final question and its answer behind it."""
    return f"{chain}\n{prompts.verify_question} {prompts.verify_yes if correct else prompts.verify_no}"


def step_verdicts(chain: str, prompts: Prompts) -> list[bool | None]:
    """The verdict of each step of a chain, None where it cannot be read. Empty if the steps are not numbered 1, 2, 3, …"""
    parts = re.split(rf"^{re.escape(prompts.verify_step)} (\d+):", chain, flags=re.MULTILINE)
    numbers, critiques = parts[1::2], parts[2::2]
    if numbers != [str(number) for number in range(1, len(numbers) + 1)]:
        return []
    return [parse_verdict(critique) for critique in critiques]


def keep_chain(verdicts: Sequence[bool | None], labels: Sequence[bool], tokens: int, limit: int) -> bool:
    """ThinkPRM's filter: the verdict of every step can be read and matches its label, and the chain is not too long."""
    return list(verdicts) == list(labels) and tokens <= limit


# --- prefixes and their chains -------------------------------------------------------------------------------------------


def whole_prefixes(steps: Sequence[LabelledStep]) -> list[Prefix]:
    """The prefix that ends with each distinct step, if all of its steps are among `steps`, with their labels."""

    def place(step: LabelledStep, length: int) -> tuple:
        return step.problem_id, step.solution, (*step.history, step.chunk)[:length]

    known = {place(step, len(step.history) + 1): step for step in steps}
    prefixes = [[known.get(place(step, length)) for length in range(1, len(step.history) + 2)] for step in known.values()]
    return [tuple(prefix) for prefix in prefixes if None not in prefix]


def is_correct(prefix: Prefix) -> bool:
    """Whether every step of a prefix is labelled right."""
    return all(step.label for step in prefix)


def choose_prefixes(steps: Sequence[LabelledStep], most: int, seed: int) -> list[Prefix]:
    """Whole prefixes that use at most `most` labels (distinct steps) in all.

    Correct and incorrect prefixes are drawn in turn while their labels are within the limit. Every prefix of the drawn labels is
    returned, because it costs no more labels. Empty if all prefixes are correct, or none is.
    """
    prefixes = whole_prefixes(steps)
    chosen: set[LabelledStep] = set()
    for i in balanced([is_correct(prefix) for prefix in prefixes], len(prefixes), seed):
        if len(chosen.union(prefixes[i])) <= most:
            chosen.update(prefixes[i])
    return [prefix for prefix in prefixes if chosen.issuperset(prefix)]


def compose(prefix: Prefix, critiques: Mapping[LabelledStep, Sequence[str]], keep: int, prompts: Prompts) -> list[str]:
    """Up to `keep` chains over a prefix, from the `critiques` of each step; no chain if a step has no critique.

    Chains take the critiques of a step in turn, and prefixes of other lengths begin at other ones, so that one critique is not
    repeated in all chains over a solution.
    """
    groups = [critiques[step] for step in prefix]
    if not all(groups):
        return []
    first = len(prefix) * keep
    count = min(keep, max(map(len, groups)))
    return [prompts.numbered([group[(first + k) % len(group)] for group in groups]) for k in range(count)]


def balance(kept: Sequence[tuple[bool, Item]], seed: int) -> list[Item]:
    """From pairs (is its prefix correct, item): as many items of one kind as of the other, taken in turn; the rarer ones are
    repeated until each of the others is in. Empty if all are of one kind."""
    labels = [correct for correct, _ in kept]
    counts = Counter(labels).values()
    passes = -(-max(counts) // min(counts)) if counts else 0
    return [kept[i][1] for i in balanced(labels, len(labels), seed, passes)]
