"""Baselines from independent solutions: plain sampling, majority vote, and best-of-N by a judge's scores.

All of them draw from the same samples; `search/budget.py` decides how many samples a token budget pays for.
"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.judges.base import Progress
from minisw.judges.generative import GenerativeJudge
from minisw.records import Answer, LabelledStep, Solution, flat
from minisw.search import budget


def answer_of(method: str, drawn: Sequence[Solution], chosen: Solution, judge_tokens: int = 0) -> Answer:
    """`chosen` as the answer of a method that sampled all of `drawn` to find it."""
    return Answer(
        problem_id=chosen.problem_id,
        method=method,
        answer=chosen.answer,
        correct=chosen.correct,
        policy_tokens=sum(s.tokens for s in drawn),
        judge_tokens=judge_tokens,
        finished=chosen.finished,
    )


def vote_answers(groups: Sequence[Sequence[Solution]], limit: int) -> list[Answer]:
    """Majority vote among as many samples of each problem as `limit` tokens pay for. `groups` is [problems][samples]."""
    counts = budget.samples_within([[s.tokens for s in group] for group in groups], limit)
    answers = []
    for group, count in zip(groups, counts, strict=True):
        given = [s.answer for s in group[:count]]
        chosen = group[given.index(budget.majority(given))]
        answers.append(answer_of("majority vote", group[:count], chosen))
    return answers


def best_of_n_answers(
    groups: Sequence[Sequence[Solution]], scores: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], limit: int
) -> list[Answer]:
    """Best-of-N among as many samples of each problem as `limit` tokens pay for, the judge's tokens included.

    `groups`, `scores` and `costs` (the judge's tokens) are [problems][samples].
    """
    policy_costs = [[s.tokens for s in group] for group in groups]
    chosen = budget.best_of_n(scores, policy_costs, costs, limit)
    counts = budget.samples_within(budget.total_costs(policy_costs, costs), limit)
    return [
        answer_of("best of N", group[:n], group[i], sum(cost[:n]))
        for group, i, n, cost in zip(groups, chosen, counts, costs, strict=True)
    ]


def score_solutions(
    judge: GenerativeJudge,
    questions: dict[str, str],
    groups: Sequence[Sequence[Solution]],
    seed: int,
    progress: Progress = None,
) -> tuple[list[list[float]], list[list[int]]]:
    """Scores for best-of-N: the mean P(Positive) of each solution's chunks, and the judge's tokens spent on it.

    `questions` maps problem id to question. Both results have the shape of `groups`.
    """
    steps = [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], chunk, False)
        for s in flat(groups)
        for i, chunk in enumerate(s.chunks)
    ]
    judgments = iter(judge.judge(steps, seed, progress, probabilities=True))
    scores, costs = [], []
    for group in groups:
        judged = [[next(judgments) for _ in s.chunks] for s in group]
        scores.append([stats.mean([j.p_positive for j in row]) for row in judged])
        costs.append([sum(j.tokens for j in row) for row in judged])
    return scores, costs
