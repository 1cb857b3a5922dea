"""Calibration: of the steps that a judge calls 80% likely to be right, are 80% right?"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.evaluate.stats import mean


def reliability(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> list[dict]:
    """The rows of a reliability diagram: one for each non-empty bin of equal width, lowest first.

    `probabilities[i]` is the predicted P(Positive) of a step and `outcomes[i]` whether it is right. A bin holds
    low ≤ p < high; p = 1 falls into the last bin. A row has `low`, `high`, `count`, `probability` (mean prediction) and
    `share` (of outcomes that are True). Raises ValueError for a probability outside 0…1.
    """
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, p in enumerate(probabilities):
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is no probability: give values from 0 to 1")
        members[min(int(p * bins), bins - 1)].append(i)
    if len(outcomes) != len(probabilities):
        raise ValueError(f"{len(outcomes)} outcomes for {len(probabilities)} probabilities: give one for each")
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "count": len(indices),
            "probability": mean([probabilities[i] for i in indices]),
            "share": mean([bool(outcomes[i]) for i in indices]),
        }
        for b, indices in enumerate(members)
        if indices
    ]


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error: mean |prediction − share| over bins of equal width, weighted by their counts.

    A bin holds low ≤ p < high; p = 1 belongs to the last. 0 is perfect calibration; 0.0 for no probability at all.
    """
    rows = reliability(probabilities, outcomes, bins)
    total = sum(row["count"] for row in rows)
    return sum(row["count"] * abs(row["probability"] - row["share"]) for row in rows) / total if total else 0.0
