"""Baselines at equal tokens, on plain lists: majority vote, best-of-N, and how many samples a budget pays for.

Pure Python: answers are texts, costs are tokens. `search/baselines.py` applies these to sampled solutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.verify.answers import same_value


def majority(answers: Sequence[str | None]) -> str | None:
    r"""The most frequent answer, counted by value: `\frac12`, `1/2` and `0.5` are three votes for one answer.

    Returns the first text of the winning value, and of tied values the one that appears first. None (no answer) never wins,
    unless there is nothing else.
    """
    votes: dict[str, int] = {}  # first text of a value -> its votes, in order of appearance
    for answer in answers:
        if answer is not None:
            first = next((text for text in votes if same_value(text, answer)), answer)
            votes[first] = votes.get(first, 0) + 1
    return max(votes, key=votes.__getitem__, default=None)


def samples_within(costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """How many samples of each problem a common budget pays for, at least one each.

    Samples are taken in rounds: the first of every problem, then the second of every problem, and so on, until the next one
    would exceed the budget. `costs` is [problems][samples], in tokens.
    """
    counts, spent = [1] * len(costs), sum(row[0] for row in costs)
    for number in range(1, max(map(len, costs), default=0)):
        for problem, row in enumerate(costs):
            if number < len(row):
                if spent + row[number] > budget:
                    return counts
                spent += row[number]
                counts[problem] += 1
    return counts


def total_costs(policy_costs: Sequence[Sequence[int]], judge_costs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Tokens of the policy and of the judge for each sample, added up: [problems][samples]."""
    return [[p + j for p, j in zip(*rows, strict=True)] for rows in zip(policy_costs, judge_costs, strict=True)]


def best_of_n(
    scores: Sequence[Sequence[float]],
    policy_costs: Sequence[Sequence[int]],
    judge_costs: Sequence[Sequence[int]],
    budget: int,
) -> list[int]:
    """For each problem the index of the sample with the best score (the first at a tie), among those the budget pays for.

    All arguments are [problems][samples]; the judge's tokens count as well, because every candidate must be judged.
    """
    counts = samples_within(total_costs(policy_costs, judge_costs), budget)
    return [max(range(count), key=row.__getitem__) for row, count in zip(scores, counts, strict=True)]
