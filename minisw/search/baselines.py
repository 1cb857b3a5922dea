"""Baselines from independent solutions: plain sampling, (weighted) majority vote, and best-of-N by a judge's scores.

All of them draw from the same samples; `search/budget.py` decides how many samples a token budget pays for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minisw.evaluate import stats
from minisw.judges.base import Judge
from minisw.records import Answer, Judgment, LabelledStep, Solution, flat
from minisw.search import budget
from minisw.search.paths import Progress, judging

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {  # a solution's score from those of its steps (0.0 without steps)
    "mean": stats.mean,
    "minimum": lambda scores: min(scores, default=0.0),
    "last": lambda scores: scores[-1] if scores else 0.0,
}


def answer_of(
    method: str, drawn: Sequence[Solution], chosen: Solution, judge_tokens: int = 0, judge_prompt_tokens: int = 0
) -> Answer:
    """`chosen` as the answer of a method that sampled all of `drawn` to find it."""
    return Answer(
        problem_id=chosen.problem_id,
        method=method,
        answer=chosen.answer,
        correct=chosen.correct,
        policy_tokens=sum(s.tokens for s in drawn),
        judge_tokens=judge_tokens,
        finished=chosen.finished,
        policy_prompt_tokens=sum(s.prompt_tokens for s in drawn),
        judge_prompt_tokens=judge_prompt_tokens,
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


def voted_answer(method: str, drawn: Sequence[Solution], judged: Sequence[Sequence[Judgment]] = ()) -> Answer:
    """The majority's answer among all of `drawn`; with their judgments [samples][chunks], votes count as much as their scores.

    A score is the mean P(Positive) of the steps.
    """
    weights = [stats.mean([j.p_positive for j in row]) for row in judged] if judged else None
    given = [s.answer for s in drawn]
    chosen = drawn[given.index(budget.majority(given, weights))]
    return answer_of(method, drawn, chosen, *_judge_costs(judged))


def best_answer(method: str, drawn: Sequence[Solution], judged: Sequence[Sequence[Judgment]], aggregate: str = "mean") -> Answer:
    """The sample with the best score, the first of equals, given the judgments of all samples: [samples][chunks].

    `aggregate` is a name in `AGGREGATES`.
    """
    scores = [AGGREGATES[aggregate]([j.p_positive for j in row]) for row in judged]
    return answer_of(method, drawn, drawn[scores.index(max(scores))], *_judge_costs(judged))


def _judge_costs(judged: Sequence[Sequence[Judgment]]) -> tuple[int, int]:
    """The judge's sampled and its prompt tokens."""
    return sum(j.tokens for j in flat(judged)), sum(j.prompt_tokens for j in flat(judged))


def judge_solutions(
    judge: Judge,
    questions: dict[str, str],
    groups: Sequence[Sequence[Solution]],
    seed: int,
    progress: Progress = None,
) -> list[list[list[Judgment]]]:
    """Judgments of every chunk, with P(Positive) where the judge can measure it: [problems][samples][chunks].

    `questions` maps problem id to question.
    """
    steps = [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], chunk, False)
        for s in flat(groups)
        for i, chunk in enumerate(s.chunks)
    ]
    judgments = iter(judging(judge, scores=True)(steps, seed, progress) if steps else ())
    return [[[next(judgments) for _ in s.chunks] for s in group] for group in groups]


def score_solutions(
    judge: Judge,
    questions: dict[str, str],
    groups: Sequence[Sequence[Solution]],
    seed: int,
    progress: Progress = None,
) -> tuple[list[list[float]], list[list[int]]]:
    """Scores for best-of-N: the mean P(Positive) of each solution's chunks, and the judge's tokens spent on it.

    `questions` maps problem id to question. Both results have the shape of `groups`.
    """
    judged = judge_solutions(judge, questions, groups, seed, progress)
    scores = [[stats.mean([j.p_positive for j in row]) for row in group] for group in judged]
    return scores, [[sum(j.tokens for j in row) for row in group] for group in judged]
