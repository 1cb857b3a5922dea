"""Two ways to spend a budget of tokens per problem: more independent solutions, or more whole searches and a vote.

In both, the first one of every problem shows the mean cost, and all others are sampled in one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from minisw.evaluate import stats
from minisw.judges.base import Judge
from minisw.records import Account, Answer, Judgment, Problem, Solution, flat
from minisw.search.baselines import judge_solutions
from minisw.search.budget import majority, more_within, tokens
from minisw.search.paths import Solver, subseed

Drawn = tuple[list[Solution], list[list[Judgment]]]  # solutions of a problem, and the judgments of each one's chunks
Search = Callable[[Sequence[Problem], int], list[Answer]]  # (problems, seed)


def draw(problems: Sequence[Problem], policy: Solver, judge: Judge | None, budget_tokens: int, seed: int) -> list[Drawn]:
    """Independent solutions of every problem, as many as the budget pays for (at least one), each judged if there is a judge.

    Without a judge the list of judgments is empty.
    """
    questions = {p.id: p.question for p in problems}

    def sample(count: int, use: str) -> list[Drawn]:
        groups = policy.solve(problems, count, subseed(seed, use))
        if judge is None:
            return [(group, []) for group in groups]
        judged = judge_solutions(judge, questions, groups, subseed(seed, f"judge-{use}"))
        return list(zip(groups, judged, strict=True))

    first = sample(1, "first")
    costs = [sum(s.tokens for s in group) + sum(j.tokens for j in flat(judged)) for group, judged in first]
    more = more_within(budget_tokens, stats.mean(costs))
    if not more:
        return first
    return [(a + c, b + d) for (a, b), (c, d) in zip(first, sample(more, "more"), strict=True)]


def repeated(method: str, problems: Sequence[Problem], search: Search, budget_tokens: int, seed: int) -> list[Answer]:
    """Whole searches, as many as the budget pays for (at least one), and for each problem the most frequent answer.

    An answer of `method` has the costs of all searches of its problem.
    """
    rows = [[answer] for answer in search(problems, subseed(seed, "first"))]
    more = more_within(budget_tokens, stats.mean([tokens(row[0]) for row in rows]))
    if more:
        for i, answer in enumerate(search([*problems] * more, subseed(seed, "more"))):
            rows[i % len(rows)].append(answer)
    answers = []
    for row in rows:
        given = [a.answer for a in row]
        chosen = row[given.index(majority(given))]
        costs = {f.name: sum(getattr(a, f.name) for a in row) for f in dataclasses.fields(Account)}
        answers.append(dataclasses.replace(chosen, method=method, **costs))
    return answers
