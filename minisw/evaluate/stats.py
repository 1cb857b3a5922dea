"""Means and 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def mean(values: Sequence[float]) -> float:
    """The mean, 0.0 of nothing."""
    return float(sum(values) / len(values)) if len(values) else 0.0


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    if trials == 0:
        return (0.0, 1.0)
    z, p = 1.959964, successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return (max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(rows: Sequence, statistic: Callable[[Sequence], float], seed: int, resamples: int = 1000) -> tuple[float, float]:
    """The 95% percentile interval of `statistic` over resampled rows. A row may hold two methods' results: then it is paired."""
    if not rows:
        return (0.0, 0.0)
    rng = np.random.default_rng(seed)
    values = [statistic([rows[i] for i in rng.integers(0, len(rows), len(rows))]) for _ in range(resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return (float(low), float(high))


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in order, ties half; 0.5 without pairs."""
    positive = [score for score, label in zip(scores, labels, strict=True) if label]
    negative = [score for score, label in zip(scores, labels, strict=True) if not label]
    if not positive or not negative:
        return 0.5
    return mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
