"""First-error metrics: how well does a judge find the first wrong step of a solution? Nothing here imports torch.

An item is a solution. Its label is the index of its first wrong step, or −1 if all steps are right; a prediction has the
same form. An unreadable verdict makes a prediction `WRONG`, which equals no label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from minisw.evaluate.calibration import calibration_error
from minisw.evaluate.stats import bootstrap, mean, paired_bootstrap
from minisw.records import BenchItem, Judgment, LabelledStep, flat
from minisw.verdicts import vote

WRONG = -2  # a prediction that equals no label

# --- predictions ---------------------------------------------------------------------------------------------------------


def predict(verdicts: Sequence[bool | None]) -> int:
    """The index of the first Negative verdict, −1 if all are Positive, `WRONG` if an unreadable one (None) comes first."""
    for i, verdict in enumerate(verdicts):
        if verdict is None:
            return WRONG
        if not verdict:
            return i
    return -1


def predict_by_threshold(scores: Sequence[float], threshold: float) -> int:
    """The index of the first step whose score is below `threshold`, −1 if there is none."""
    return predict([score >= threshold for score in scores])


# --- F1 ------------------------------------------------------------------------------------------------------------------


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def accuracies(labels: Sequence[int], predictions: Sequence[int]) -> tuple[float, float]:
    """(share of erroneous items whose first error is found exactly, share of error-free items that pass)."""
    pairs = list(zip(labels, predictions, strict=True))
    return (
        mean([prediction == label for label, prediction in pairs if label >= 0]),
        mean([prediction == label for label, prediction in pairs if label < 0]),
    )


def f1_official(labels: Sequence[int], predictions: Sequence[int]) -> float:
    """ProcessBench's F1: the harmonic mean of two accuracies, on items with an error and on items without.

    An item with an error counts if the prediction is its label, the first error; one without if it is predicted as −1. A
    judge that never or always objects gets 0.
    """
    return harmonic_mean(*accuracies(labels, predictions))


def f1_by_answer(labels: Sequence[int], predictions: Sequence[int], final_correct: Sequence[bool]) -> float:
    """StepWiser's variant (Table 5): items are divided by final answer wrong / right instead of by label."""
    rows = list(zip(labels, predictions, final_correct, strict=True))
    return harmonic_mean(
        mean([prediction == label for label, prediction, correct in rows if not correct]),
        mean([prediction == label for label, prediction, correct in rows if correct]),
    )


def f1_binary(labels: Sequence[int], predictions: Sequence[int]) -> float:
    """ThinkPRM's F1: is there a mistake at all? 2·TP / (2·TP + FP + FN), where a mistake is the positive class.

    An unreadable prediction (`WRONG`) is an error on either side.
    """
    pairs = list(zip(labels, predictions, strict=True))
    found = sum(label >= 0 and prediction >= 0 for label, prediction in pairs)
    wrong = sum(prediction == WRONG or (label >= 0) != (prediction >= 0) for label, prediction in pairs)
    return 2 * found / (2 * found + wrong) if found else 0.0


def step_accuracies(labels: Sequence[bool], verdicts: Sequence[bool | None]) -> tuple[float, float]:
    """(hit rate on right steps, hit rate on wrong ones), 0 for a side without steps; an unreadable verdict is a miss."""
    pairs = list(zip(labels, verdicts, strict=True))
    right, wrong = (mean([verdict is side for label, verdict in pairs if label is side]) for side in (True, False))
    return right, wrong


def balanced_accuracy(labels: Sequence[bool], verdicts: Sequence[bool | None]) -> float:
    """The mean of the hit rates on positive and on negative step labels; an unreadable verdict is a miss.

    If all labels are of one side, its hit rate alone.
    """
    pairs = list(zip(labels, verdicts, strict=True))
    sides = [[verdict is side for label, verdict in pairs if label is side] for side in (True, False)]
    return mean([mean(side) for side in sides if side])


# --- a threshold for judges that give scores -----------------------------------------------------------------------------


def best_threshold(labels: Sequence[int], scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The threshold with the best official F1 on these items, and that F1. `scores` holds the step scores of each item.

    A classifier that was trained on balanced labels rejects too much at 0.5 where few steps are wrong; the generative
    judge has no threshold. Of 0.02, 0.04, …, 0.98 the middle of the longest run of best values is taken: its edge would
    do as well on these items and worse on others.
    """
    tried = [i / 50 for i in range(1, 50)]
    f1 = [f1_official(labels, [predict_by_threshold(row, t) for row in scores]) for t in tried]
    best, runs = max(f1), [[]]
    for threshold, value in zip(tried, f1, strict=True):
        if value == best:
            runs[-1].append(threshold)
        elif runs[-1]:
            runs.append([])
    plateau = max(runs, key=len)
    return plateau[len(plateau) // 2], best


def by_solution(steps: Sequence[LabelledStep], scores: Sequence[float]) -> tuple[list[int], list[list[float]]]:
    """First-error labels and step scores of each solution, for `best_threshold`.

    The steps of a solution follow one another, the first of them has no history.
    """
    labels: list[int] = []
    grouped: list[list[float]] = []
    for step, score in zip(steps, scores, strict=True):
        if not step.history:
            labels.append(-1)
            grouped.append([])
        if not step.label and labels[-1] < 0:
            labels[-1] = len(step.history)
        grouped[-1].append(score)
    return labels, grouped


# --- all figures of one judge --------------------------------------------------------------------------------------------

Row = tuple[BenchItem, int]  # an item and the prediction for it


def part_of(item: BenchItem) -> str:
    """The part of a benchmark that an item belongs to: its id without the number ("gsm8k-12": "gsm8k")."""
    return item.id.rpartition("-")[0]


def _official(rows: Sequence[Row]) -> float:
    return f1_official([item.label for item, _ in rows], [prediction for _, prediction in rows])


def _by_answer(rows: Sequence[Row]) -> float:
    labels, final_correct = [item.label for item, _ in rows], [item.final_correct for item, _ in rows]
    return f1_by_answer(labels, [prediction for _, prediction in rows], final_correct)


def _binary(rows: Sequence[Row]) -> float:
    return f1_binary([item.label for item, _ in rows], [prediction for _, prediction in rows])


def _averaged(f1: Callable[[Sequence[Row]], float]) -> Callable[[Sequence[Row]], float]:
    """The mean of `f1` over the parts of the items, as the papers report ProcessBench."""

    def average(rows: Sequence[Row]) -> float:
        parts: dict[str, list[Row]] = {}
        for row in rows:
            parts.setdefault(part_of(row[0]), []).append(row)
        return mean([f1(part) for part in parts.values()])

    return average


average_f1 = _averaged(_official)
average_f1_by_answer = _averaged(_by_answer)
average_f1_binary = _averaged(_binary)


def score(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    """All figures of one judge, with 95% intervals that resample questions.

    `f1` and `f1_by_answer` are averages over the parts, as in the papers; `f1_pooled` counts all items as one part. With
    several parts, `by_part` has the figures of each. `predictions` holds one prediction for each item.
    """
    figures = _figures(items, judgments, seed, resamples)
    parts: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        parts.setdefault(part_of(item), []).append(i)
    if len(parts) > 1:
        figures["by_part"] = {}
        for part, indices in parts.items():
            own = _figures([items[i] for i in indices], [judgments[i] for i in indices], seed, resamples)
            figures["by_part"][part] = {key: own[key] for key in own if key not in ("f1_pooled", "predictions")}
    return figures


def _figures(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    rows = [(item, predict([j.verdict for j in own])) for item, own in zip(items, judgments, strict=True)]
    questions = [item.question for item in items]
    with_error, without = accuracies([item.label for item in items], [prediction for _, prediction in rows])
    every = flat(judgments)
    labelled = steps_until_error(items, judgments)
    return {
        "f1": average_f1(rows),
        "interval": bootstrap(rows, average_f1, seed, resamples, questions),
        "f1_pooled": _official(rows),
        "f1_by_answer": average_f1_by_answer(rows),
        "interval_by_answer": bootstrap(rows, average_f1_by_answer, seed, resamples, questions),
        "accuracy_error": with_error,
        "accuracy_correct": without,
        "balanced_accuracy": balanced_accuracy([label for label, _ in labelled], [j.verdict for _, j in labelled]),
        "calibration_error": calibration_error([j.p_positive for _, j in labelled], [label for label, _ in labelled]),
        "unparseable": mean([j.verdict is None for j in every]),
        "tokens_per_step": mean([j.tokens for j in every]),
        "predictions": [prediction for _, prediction in rows],
    }


def steps_until_error(
    items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]]
) -> list[tuple[bool, Judgment]]:
    """(label, judgment) of every step up to and including each item's first error; later steps have no label of their own."""
    return [
        (step.label, judgment)
        for item, own in zip(items, judgments, strict=True)
        for step, judgment in list(zip(item.steps(), own, strict=True))[: item.label + 1 if item.label >= 0 else None]
    ]


def f1_difference(
    items: Sequence[BenchItem],
    a: Sequence[int | tuple[int, ...]],
    b: Sequence[int | tuple[int, ...]],
    seed: int,
    resamples: int,
) -> tuple[float, tuple[float, float]]:
    """Average F1 of the predictions `a` minus that of `b` on the same items, and its paired interval over questions.

    With several predictions for each item, as `sampled` returns them, the F1 of a judge is the mean F1 of its samples.
    """
    f1 = mean_f1 if isinstance(a[0], tuple) else average_f1
    rows = [((item, p), (item, q)) for item, p, q in zip(items, a, b, strict=True)]
    return paired_bootstrap(rows, f1, seed, resamples, [item.question for item in items])


# --- several sampled judgments of each step ------------------------------------------------------------------------------


def mean_f1(rows: Sequence[tuple[BenchItem, tuple[int, ...]]]) -> float:
    """The mean over samples of the average F1; a row has an item and one prediction of each sample."""
    return mean([average_f1([(item, own[k]) for item, own in rows]) for k in range(len(rows[0][1]))])


def sampled(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    """Figures of a judge that was sampled several times for each step (`Judgment.sampled_verdicts`).

    Sample k of an item takes vote k of every step. `f1_sampled` is the mean F1 of the samples, `f1_majority` that of the
    majority's verdicts, both with intervals over questions; `gain_of_votes` is their difference, paired by question.
    `predictions_sampled` holds the samples' predictions for each item.
    """
    predictions = [tuple(predict(votes) for votes in zip(*(j.sampled_verdicts for j in own), strict=True)) for own in judgments]
    majority = [(item, predict([j.verdict for j in own])) for item, own in zip(items, judgments, strict=True)]
    voted = [(prediction,) for _, prediction in majority]
    gain, interval = f1_difference(items, voted, predictions, seed, resamples)
    rows, questions = list(zip(items, predictions, strict=True)), [item.question for item in items]
    return {
        "f1_sampled": mean_f1(rows),
        "interval_sampled": bootstrap(rows, mean_f1, seed, resamples, questions),
        "f1_majority": average_f1(majority),
        "interval_majority": bootstrap(majority, average_f1, seed, resamples, questions),
        "gain_of_votes": {"measured": gain, "interval": interval},
        "unparseable_sampled": mean([vote is None for own in judgments for j in own for vote in j.sampled_verdicts]),
        "samples": len(predictions[0]),
        "predictions_sampled": predictions,
    }


def majority_curve(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> list[dict]:
    """Maj@k for k = 1, 2, 4, … and all votes: the F1 of the majority of k votes per step, and its interval over questions.

    The votes of a step are cut into groups of k, in their order; Maj@k is the mean F1 of the groups. Votes that fill no
    group are left out. Maj@1 is the mean F1 of one sample, and with all votes it is the majority that `sampled` measures.
    """
    votes = len(judgments[0][0].sampled_verdicts)
    rows, questions = [], [item.question for item in items]
    for k in [*(2**i for i in range(votes.bit_length()) if 2**i < votes), votes]:
        groups = [
            (item, tuple(predict([vote(j.sampled_verdicts[at : at + k]) for j in own]) for at in range(0, votes - k + 1, k)))
            for item, own in zip(items, judgments, strict=True)
        ]
        rows.append({"k": k, "f1": mean_f1(groups), "interval": bootstrap(groups, mean_f1, seed, resamples, questions)})
    return rows


def pass_at_k(right: int, samples: int, k: int) -> float:
    """The probability that at least one of `k` of the `samples` is right, if `right` of them are (Chen et al. 2021, §2.1)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_curve(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]]) -> list[dict]:
    """pass@k for k = 1, 2, 4, … up to the number of votes: of steps, and of whole solutions.

    A step passes if one of k verdicts is right; counted are the steps up to the first error, right and wrong ones with equal
    weight. With only two verdicts, guessing passes soon. A solution passes if one of k samples finds its first error, or
    accepts it all if there is none; solutions with and without an error have equal weight.
    """
    samples = len(judgments[0][0].sampled_verdicts)
    steps = [(label, sum(vote is label for vote in j.sampled_verdicts)) for label, j in steps_until_error(items, judgments)]
    solutions = []
    for item, own in zip(items, judgments, strict=True):
        predictions = [predict(votes) for votes in zip(*(j.sampled_verdicts for j in own), strict=True)]
        solutions.append((item.label < 0, sum(prediction == item.label for prediction in predictions)))
    rows, k = [], 1
    while k <= samples:
        rows.append({"k": k, "steps": _pass(steps, samples, k), "solutions": _pass(solutions, samples, k)})
        k *= 2
    return rows


def _pass(counted: Sequence[tuple[bool, int]], samples: int, k: int) -> float:
    """Mean pass@k over the two sides of `counted`, pairs of a side and the number of right samples."""
    sides = [[pass_at_k(right, samples, k) for own, right in counted if own is side] for side in (True, False)]
    return mean([mean(side) for side in sides if side])
