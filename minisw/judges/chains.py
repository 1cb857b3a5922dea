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
from collections.abc import Callable, Mapping, Sequence

from minisw.labels import balanced
from minisw.prompts import Prompts
from minisw.records import LabelledStep
from minisw.verdicts import parse_verdict, verdict_reward

Prefix = tuple[LabelledStep, ...]  # the steps of a prefix, in order

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

    Correct and incorrect prefixes are drawn in turn while their labels are within the limit. Every prefix of the drawn labels
    is returned, because it costs no more labels: so each of these labels belongs to the last step of exactly one prefix. Empty
    if all prefixes are correct, or none is.
    """
    prefixes = whole_prefixes(steps)
    chosen: set[LabelledStep] = set()
    for i in balanced([is_correct(prefix) for prefix in prefixes], len(prefixes), seed):
        if len(chosen.union(prefixes[i])) <= most:
            chosen.update(prefixes[i])
    return [prefix for prefix in prefixes if chosen.issuperset(prefix)]


def right_critiques(
    steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]], beginning: str = ""
) -> dict[LabelledStep, list[str]]:
    """The replies about each step whose analysis and verdict the judge's reward pays. `replies`: [steps][any number].

    A `beginning` of all replies that was not sampled is put before them.
    """
    reward = verdict_reward(steps, beginning)
    return {
        step: [beginning + reply for reply in group if reward(i, reply)]
        for i, (step, group) in enumerate(zip(steps, replies, strict=True))
    }


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


def kept_chains(
    prefixes: Sequence[Prefix],
    critiques: Mapping[LabelledStep, Sequence[str]],
    keep: int,
    prompts: Prompts,
    length: Callable[[str], int],
    limit: int,
) -> tuple[list[tuple[Prefix, str]], int]:
    """(prefix, chain with its answer) of every chain that passes the filter, and how many chains were tried.

    Chains are composed from the `critiques`, at most `keep` over a prefix. `length` counts tokens; a chain with its answer may
    have `limit` for each step.
    """
    kept, tried = [], 0
    for prefix in prefixes:
        for chain in compose(prefix, critiques, keep, prompts):
            tried += 1
            reply = answered(chain, is_correct(prefix), prompts)
            labels = [step.label for step in prefix]
            if keep_chain(step_verdicts(chain, prompts), labels, length(reply), limit * len(prefix)):
                kept.append((prefix, reply))
    return kept, tried


def balance(kept: Sequence[tuple[Prefix, str]], seed: int) -> list[tuple[Prefix, str]]:
    """As many chains over correct as over incorrect prefixes, taken in turn; `kept` as returned by `kept_chains`.

    Chains of the rarer kind are repeated until all of the other kind are in. Empty if all are of one kind.
    """
    labels = [is_correct(prefix) for prefix, _ in kept]
    counts = Counter(labels).values()
    passes = -(-max(counts) // min(counts)) if counts else 0
    return [kept[i] for i in balanced(labels, len(labels), seed, passes)]
