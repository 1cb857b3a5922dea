"""Selection of training data (StepWiser §4.4): which of the N solutions sampled for a problem the policy is taught.

The solutions of one problem are its pool. A method names, for every pool, the index of the solution that it chooses, or None if
it finds no candidate. Five methods, and what each of them has to know:

    `at_random`     any solution with a right answer: outcome only     the reference answer
    `by_score`      of these, the one with the best mean chunk score   the reference answer, and a judge's scores
    `by_score`      with exact labels (1 or 0) as scores: the ceiling  the reference answer, and exact labels
    `by_majority`   any solution with the pool's most frequent answer  nothing
    `by_score`      of all solutions, the one with the best score      a judge's scores

Rules that all of them share:
- Only usable solutions are candidates: they ended by themselves and keep the chunk format, which they are to teach.
- "Any", and the choice among equals, is the first in a random order of the pool that is the same for every method. So a judge
  that scores all solutions alike chooses what `at_random` chooses, and methods differ only where they have a reason to.
- Sets are compared on the problems for which every method chooses (`chosen_sets`), so that all have the same size.

This module is pure Python: scores are plain lists, [problems][N][chunks].
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from minisw.records import Solution
from minisw.search.budget import majority
from minisw.verify.answers import same_value

Pool = Sequence[Solution]
Choice = int | None  # index of the chosen solution in its pool; None: the method has no candidate
Scores = Sequence[float | None]  # of the chunks of one solution, each 0…1; None: the judge's reply was unreadable

UNREADABLE = 0.5  # what an unreadable score counts as: it speaks neither for nor against the chunk
DIGITS = 6  # mean scores are compared after rounding to so many decimals: smaller differences are rounding, not judgment


# --- candidates ----------------------------------------------------------------------------------------------------------


def usable(solution: Solution) -> bool:
    """Whether a solution can be taught: it ended by itself and keeps the chunk format."""
    return solution.finished and solution.well_formed


def usable_indices(pool: Pool) -> list[int]:
    """Indices of the usable solutions, whatever their answer."""
    return [n for n, solution in enumerate(pool) if usable(solution)]


def right_indices(pool: Pool) -> list[int]:
    """Indices of the usable solutions with a right answer."""
    return [n for n, solution in enumerate(pool) if usable(solution) and solution.correct]


def majority_indices(pool: Pool) -> list[int]:
    """Indices of the usable solutions with the pool's most frequent answer; none if no solution has an answer.

    All solutions vote, because a vote needs no chunks. Answers are counted by value, and of values with equally many votes the
    one that appears first in the pool wins (`search.budget.majority`).
    """
    winner = majority([solution.answer for solution in pool])
    if winner is None:
        return []
    return [n for n, s in enumerate(pool) if usable(s) and s.answer is not None and same_value(s.answer, winner)]


# --- methods: pools → the choice in every pool ---------------------------------------------------------------------------


def at_random(pools: Sequence[Pool], seed: int) -> list[Choice]:
    """In every pool any usable solution with a right answer: selection by the outcome only."""
    return [_best(pool, dict.fromkeys(right_indices(pool), 0.0), seed) for pool in pools]


def by_majority(pools: Sequence[Pool], seed: int) -> list[Choice]:
    """In every pool any usable solution with the most frequent answer. It looks at no reference answer."""
    return [_best(pool, dict.fromkeys(majority_indices(pool), 0.0), seed) for pool in pools]


def by_score(
    pools: Sequence[Pool],
    scores: Sequence[Sequence[Scores]],
    seed: int,
    candidates: Callable[[Pool], list[int]] = right_indices,
) -> list[Choice]:
    """In every pool the candidate whose chunks have the best mean score: of the usable solutions with a right answer (StepWiser
    §4.4), or with `usable_indices` of all usable ones, which needs no reference answer.

    `scores`: [problems][N][chunks]. Those of solutions that are no candidates are not read and may be empty. Raises ValueError
    if a candidate has not one score in 0…1 (or None) for each chunk.
    """
    choices = []
    for pool, own in zip(pools, scores, strict=True):
        if len(own) != len(pool):
            raise ValueError(f"a pool has {len(pool)} solutions and scores for {len(own)}: give each a list, even an empty one")
        choices.append(_best(pool, {n: mean_score(pool[n], own[n]) for n in candidates(pool)}, seed))
    return choices


def mean_score(solution: Solution, scores: Scores) -> float:
    """The mean of a solution's chunk scores, rounded to `DIGITS` decimals; an unreadable score counts as `UNREADABLE`."""
    if not scores or len(scores) != len(solution.chunks):
        raise ValueError(
            f"a solution of problem {solution.problem_id} has {len(solution.chunks)} chunks and {len(scores)} scores: "
            "score each chunk of every candidate"
        )
    values = [UNREADABLE if score is None else score for score in scores]
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(
            f"a score of problem {solution.problem_id} is not in 0…1: give P(Positive), or None for an unreadable reply"
        )
    return round(sum(values) / len(values), DIGITS)


def _best(pool: Pool, candidates: Mapping[int, float], seed: int) -> Choice:
    """The candidate with the best score, of equals the first in the pool's random order; None without candidates."""
    return max((n for n in random_order(pool, seed) if n in candidates), key=candidates.__getitem__, default=None)


def random_order(pool: Pool, seed: int) -> list[int]:
    """The indices of a pool in an order that depends on the seed, the problem and the pool's size only."""
    order = list(range(len(pool)))
    if pool:
        random.Random(f"{seed}/{pool[0].problem_id}").shuffle(order)
    return order


# --- the sets, and what they hold ----------------------------------------------------------------------------------------


def common_problems(choices: Mapping[str, Sequence[Choice]]) -> list[int]:
    """Indices of the pools in which every method chose. `choices` maps a method's name to its choices."""
    return [i for i, row in enumerate(zip(*choices.values(), strict=True)) if None not in row]


def chosen_sets(pools: Sequence[Pool], choices: Mapping[str, Sequence[Choice]]) -> dict[str, list[Solution]]:
    """The solutions that each method chose for the common problems: all sets have the same problems in the same order."""
    problems = common_problems(choices)
    return {name: [pools[i][own[i]] for i in problems] for name, own in choices.items()}


def lucky_share(solutions: Sequence[Solution], labels: Sequence[Sequence[bool]]) -> float:
    """The share of solutions that are right by luck: a right answer, and a wrong chunk by exact `labels` [solutions][chunks].

    0.0 without solutions.
    """
    lucky = [solution.correct and not all(own) for solution, own in zip(solutions, labels, strict=True)]
    return sum(lucky) / len(lucky) if lucky else 0.0
