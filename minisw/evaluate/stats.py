"""Means, shares and 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

Interval = tuple[float, float]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; 0.0 for an empty sequence."""
    return float(sum(values) / len(values)) if len(values) else 0.0


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's 95% interval of a share."""
    if trials == 0:
        return (0.0, 1.0)
    z, p = 1.959964, successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return (max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(
    rows: Sequence,
    statistic: Callable[[Sequence], float],
    seed: int,
    resamples: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """The 95% percentile interval of `statistic` over `resamples` resamplings of `rows` with replacement.

    `groups` names the group of each row. Whole groups are then resampled (cluster bootstrap), because rows of one group,
    such as two solutions of one question, are not independent. Without it every row is a group of its own.
    """
    if not rows:
        return (0.0, 0.0)
    clusters = _clusters(len(rows), groups)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(clusters), len(clusters))
        values.append(statistic([rows[i] for cluster in drawn for i in clusters[cluster]]))
    low, high = np.percentile(values, [2.5, 97.5])
    return (float(low), float(high))


def paired_bootstrap(
    rows: Sequence[tuple],
    statistic: Callable[[Sequence], float],
    seed: int,
    resamples: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, Interval]:
    """`statistic` of the first entries of `rows` minus `statistic` of the second ones, and its 95% interval.

    A row is a pair (a, b) of two methods' results on the same item. Both sides always use the same resampled items, so
    what is hard for both methods cancels. `groups` names the group of each row; whole groups are then resampled, because
    two solutions of one question, say, are not independent.
    """

    def difference(sample: Sequence[tuple]) -> float:
        return statistic([a for a, _ in sample]) - statistic([b for _, b in sample])

    return difference(rows), bootstrap(rows, difference, seed, resamples, groups)


def _clusters(count: int, groups: Sequence[Hashable] | None) -> list[list[int]]:
    """Row indices by group, in order of first appearance."""
    if groups is None:
        return [[i] for i in range(count)]
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups for {count} rows: name one group for each row")
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    return list(members.values())


# 97.5% quantiles of Student's t for 1, 2, … degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's t 95% interval of the mean of `values`, such as one figure of several runs; None for fewer than two.

    Beyond the table the last quantile is used, which makes the interval slightly too wide.
    """
    if len(values) < 2:
        return None
    middle, n = mean(values), len(values)
    error = math.sqrt(sum((v - middle) ** 2 for v in values) / (n - 1) / n)
    half = T_QUANTILES[min(n - 2, len(T_QUANTILES) - 1)] * error
    return (middle - half, middle + half)


def slope(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The least-squares slope of `values` over 0, 1, 2, …, and its 95% interval; None for fewer than three values.

    The interval assumes independent errors of equal spread (Student's t with n − 2 degrees of freedom).
    """
    n, middle = len(values), mean(values)
    if n < 2:
        return 0.0, None
    x = [i - (n - 1) / 2 for i in range(n)]
    spread = sum(a * a for a in x)
    trend = sum(a * v for a, v in zip(x, values, strict=True)) / spread
    if n < 3:
        return trend, None
    squares = sum((v - middle - trend * a) ** 2 for a, v in zip(x, values, strict=True))
    half = T_QUANTILES[min(n - 3, len(T_QUANTILES) - 1)] * math.sqrt(squares / (n - 2) / spread)
    return trend, (trend - half, trend + half)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in order, ties count half; 0.5 without pairs."""
    positive = [score for score, label in zip(scores, labels, strict=True) if label]
    negative = [score for score, label in zip(scores, labels, strict=True) if not label]
    if not positive or not negative:
        return 0.5
    return mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
