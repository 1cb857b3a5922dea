"""TODO."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.records import BenchItem, Judgment, LabelledStep, flat

WRONG = -2  # a prediction that no label equals


def predict(judgments: Sequence[Judgment]) -> int:
    """Index of the first Negative, −1 where all are Positive, `WRONG` where an unreadable verdict comes before that."""
    for i, judgment in enumerate(judgments):
        if judgment.verdict is None:
            return WRONG
        if not judgment.verdict:
            return i
    return -1


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def f1_official(rows: Sequence[tuple[BenchItem, int]]) -> float:
    """ProcessBench's F1: harmonic mean of the accuracies on items with an error (its exact index) and without (−1)."""
    return harmonic_mean(*accuracies(rows))


def accuracies(rows: Sequence[tuple[BenchItem, int]]) -> tuple[float, float]:
    """(accuracy on items with a labelled error, accuracy on items labelled −1)."""
    return (
        stats.mean([p == item.label for item, p in rows if item.label >= 0]),
        stats.mean([p == item.label for item, p in rows if item.label < 0]),
    )


def f1_by_answer(rows: Sequence[tuple[BenchItem, int]]) -> float:
    """StepWiser's own split: by final answer wrong / right instead of by label (paper-facts: Table 5's two metrics)."""
    return harmonic_mean(
        stats.mean([p == item.label for item, p in rows if not item.final_correct]),
        stats.mean([p == item.label for item, p in rows if item.final_correct]),
    )


def score(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    """All figures of one judge: both F1 with their intervals, accuracies, step accuracy up to the first error, unreadable share,
    the item's predictions; of every part on its own where there are several."""
    parts: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        parts.setdefault(item.id.rpartition("-")[0], []).append(i)
    found = _figures(items, judgments, seed, resamples)
    if len(parts) > 1:
        found["by_part"] = {
            part: _figures([items[i] for i in some], [judgments[i] for i in some], seed, resamples)
            for part, some in parts.items()
        }
        for figures in found["by_part"].values():
            del figures["predictions"]
    return found


def _figures(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    rows = [(item, predict(j)) for item, j in zip(items, judgments, strict=True)]
    upto = [
        (s.label, j.verdict)
        for item, js in zip(items, judgments, strict=True)
        for s, j in list(zip(item.steps(), js, strict=True))[: item.label + 1 if item.label >= 0 else None]
    ]
    with_error, without = accuracies(rows)
    sides = [stats.mean([verdict is label for label, verdict in upto if label is side]) for side in (True, False)]
    every = flat(judgments)
    return {
        "f1": f1_official(rows),
        "interval": stats.bootstrap(rows, f1_official, seed, resamples),
        "f1_by_answer": f1_by_answer(rows),
        "interval_by_answer": stats.bootstrap(rows, f1_by_answer, seed, resamples),
        "accuracy_error": with_error,
        "accuracy_correct": without,
        "balanced_accuracy": stats.mean(sides),
        "unparseable": stats.mean([j.verdict is None for j in every]),
        "tokens_per_step": stats.mean([j.tokens for j in every]),
        "predictions": [p for _, p in rows],
    }


def f1_difference(
    items: Sequence[BenchItem], a: Sequence[int], b: Sequence[int], seed: int, resamples: int
) -> tuple[float, tuple[float, float]]:
    """F1 of predictions `a` minus that of `b`, and its paired bootstrap interval."""
    rows = list(zip(items, a, b, strict=True))

    def difference(sample: Sequence[tuple[BenchItem, int, int]]) -> float:
        return f1_official([(item, p) for item, p, _ in sample]) - f1_official([(item, p) for item, _, p in sample])

    return difference(rows), stats.bootstrap(rows, difference, seed, resamples)


def best_threshold(p: Sequence[float], steps: Sequence[LabelledStep]) -> tuple[float, float]:
    """The threshold with the best first-error F1 on labelled steps, and that F1; steps of a solution stand in a row.

    Trained half and half, a classifier at 0.5 calls too many steps wrong where few are. The generative judge has no
    threshold to choose; the baseline gets this advantage, on validation labels.
    """
    items: list[BenchItem] = []
    values: list[list[float]] = []
    for value, step in zip(p, steps, strict=True):
        if not step.history:
            items.append(BenchItem(step.problem_id, step.question, (), -1, True))
            values.append([])
        items[-1] = dataclasses.replace(
            items[-1], chunks=(*items[-1].chunks, step.chunk), label=items[-1].label if step.label else len(step.history)
        )
        values[-1].append(value)

    def f1(threshold: float) -> float:
        return f1_official(
            [(item, next((i for i, v in enumerate(vs) if v < threshold), -1)) for item, vs in zip(items, values, strict=True)]
        )

    tried = [(t, f1(t)) for t in (i / 50 for i in range(1, 50))]
    best = max(score for _, score in tried)
    plateau = [t for t, score in tried if score == best]
    return plateau[len(plateau) // 2], best  # its middle: an edge would be as good here and worse elsewhere


def balanced_accuracy(judgments: Sequence[Judgment], labels: Sequence[bool]) -> float:
    """Mean of the hit rates on positive and on negative labels; an unread verdict is a miss."""
    sides = [[j.verdict is side for j, label in zip(judgments, labels, strict=True) if label is side] for side in (True, False)]
    return stats.mean([stats.mean(side) for side in sides if side])
