"""Baselines at equal tokens, on plain lists: majority vote, best-of-N, and how many samples a budget pays for; FLOPs.

Pure Python: answers are texts, costs are tokens. `search/baselines.py` applies these to sampled solutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.records import Account, Answer
from minisw.verify.answers import same_value


def majority(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> str | None:
    r"""The most frequent answer, counted by value: `\frac12`, `1/2` and `0.5` are three votes for one answer.

    With `weights`, such as a judge's scores, each vote counts as much as its weight. Returns the first text of the winning
    value, and of tied values the one that appears first. None (no answer) never wins, unless there is nothing else.
    """
    votes: dict[str, float] = {}  # first text of a value -> its votes, in order of appearance
    for answer, weight in zip(answers, weights or [1] * len(answers), strict=True):
        if answer is not None:
            first = next((text for text in votes if same_value(text, answer)), answer)
            votes[first] = votes.get(first, 0) + weight
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


def more_within(budget: float, cost: float) -> int:
    """How many more samples or searches of mean cost `cost` a budget pays for, after one that is paid already (0 at least)."""
    return max(0, int(budget // max(cost, 1)) - 1)


def tokens(account: Account | Answer) -> int:
    """Sampled tokens of policy and judge: the unit of every token budget."""
    return account.policy_tokens + account.judge_tokens


def flops(parameters: int, sampled: int, prefilled: int) -> float:
    """FLOPs of a model's forward passes: 2 · parameters · (sampled + prefilled tokens).

    One multiplication and one addition for each weight and token (Kaplan et al. 2020, §2.1). Attention over the context is left
    out: it is small as long as the context is short beside the model's width times its depth.
    """
    return 2.0 * parameters * (sampled + prefilled)


def flops_of(account: Account | Answer, policy_parameters: int, judge_parameters: int) -> float:
    """FLOPs of a search, or of an answer: those of the policy and those of the judge."""
    return flops(policy_parameters, account.policy_tokens, account.policy_prompt_tokens) + flops(
        judge_parameters, account.judge_tokens, account.judge_prompt_tokens
    )


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
