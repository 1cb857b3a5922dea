"""TODO."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.judges.generative import GenerativeJudge
from minisw.records import Answer, LabelledStep, Solution
from minisw.verify.answers import canonical

# --- baselines from independent samples ------------------------------------------------------------------------------


def majority(solutions: Sequence[Solution]) -> Solution:
    """The solution whose answer is the commonest (the first of them at a tie); one without an answer only if all lack one."""
    keys = [None if s.answer is None else canonical(s.answer) for s in solutions]
    return solutions[max(range(len(keys)), key=lambda i: -1 if keys[i] is None else keys.count(keys[i]))]


def samples_within(costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """How many samples of each problem the budget pays for in all: every problem's first, then every second, … until the next
    one would pass it. One each at least. `costs` [problems][samples]."""
    counts, spent = [1] * len(costs), sum(row[0] for row in costs)
    for number in range(1, max(len(row) for row in costs)):
        for problem, row in enumerate(costs):
            if number < len(row):
                if spent + row[number] > budget:
                    return counts
                spent += row[number]
                counts[problem] += 1
    return counts


def score_solutions(
    judge: GenerativeJudge, questions: dict[str, str], solutions: Sequence[Solution], seed: int, progress=None
) -> tuple[list[float], list[int]]:
    """For best-of-N: the mean P(Positive) of each solution's chunks, and the judge's tokens spent on it."""
    steps = [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], chunk, False)
        for s in solutions
        for i, chunk in enumerate(s.chunks)
    ]
    judgments, at, scores, costs = judge.judge(steps, seed, progress, probabilities=True), 0, [], []
    for s in solutions:
        part = judgments[at : at + len(s.chunks)]
        at += len(s.chunks)
        scores.append(stats.mean([j.p_positive for j in part]))
        costs.append(sum(j.tokens for j in part))
    return scores, costs


def best_of_n(
    groups: Sequence[Sequence[Solution]], scores: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int
) -> list[Answer]:
    """The sample with the best mean chunk score, among as many as the budget pays for, the judge's tokens included."""
    totals = [[s.tokens + c for s, c in zip(g, row, strict=True)] for g, row in zip(groups, costs, strict=True)]
    counts = samples_within(totals, budget)
    return [
        _answer("best of N", g[:n], g[max(range(n), key=row.__getitem__)], sum(cost[:n]))
        for g, row, cost, n in zip(groups, scores, costs, counts, strict=True)
    ]


def _answer(method: str, drawn: Sequence[Solution], chosen: Solution, judge_tokens: int = 0) -> Answer:
    return Answer(chosen.problem_id, method, chosen.answer, chosen.correct, sum(s.tokens for s in drawn), judge_tokens)
