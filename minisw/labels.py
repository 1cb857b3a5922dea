"""Step labels from Monte-Carlo values (StepWiser §3.2): values, label rules, balancing. This module is pure Python.

A solution of n chunks has n + 1 boundaries. Q_i is the share of completions from boundary i that reach the right answer. Q_0 is
the prompt's own pass rate; Q_n, after the last chunk, is the outcome itself (1 or 0). Run folders store Q, and labels are pure
functions of Q.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from minisw.recipe import AnnotateKnobs
from minisw.records import AnnotatedSolution, LabelledStep, Solution, read_jsonl

QUESTIONS = "questions.json"  # in the annotate stage's folder: problem id -> question
RULES = ("abs_q", "rel_effective", "rel_ratio")  # StepWiser's three, compared in the annotate stage

# --- values ------------------------------------------------------------------------------------------------------------


def values(hits: Sequence[Sequence[bool]], correct: bool) -> tuple[float, ...]:
    """Q of every boundary: the mean of each row of `hits`, then the outcome `correct` as 1 or 0.

    `hits` has one row per boundary before the last: row 0 for the prompt, row i for the boundary after chunk i. Rows may have
    different lengths. Raises ValueError for an empty row.
    """
    if not all(hits):
        raise ValueError("a boundary has no completion: --annotate.branches must be at least 1")
    return (*(sum(row) / len(row) for row in hits), float(correct))


# --- label rules: Q of n + 1 boundaries → n labels, True for positive ----------------------------------------------------


def abs_q(q: Sequence[float]) -> list[bool]:
    """Abs-Q (StepWiser §3.2): positive iff Q_i > 0."""
    return [after > 0 for after in q[1:]]


def rel_effective(q: Sequence[float], alpha: float = 0.4, n: int = 4) -> list[bool]:
    """Rel-Effective (StepWiser §3.2): positive iff Q_i + α·(Qμ_i − Qμ_{i−1}) > 0.

    Qμ = 1 − (1 − Q)^n is the pass rate of the best of n completions.
    """
    best = [1 - (1 - value) ** n for value in q]
    return [q[i] + alpha * (best[i] - best[i - 1]) > 0 for i in range(1, len(q))]


def rel_ratio(q: Sequence[float], gamma: float = 0.8) -> list[bool]:
    """Rel-Ratio (StepWiser §3.2): positive iff Q_i / Q_{i−1} > γ, computed as Q_i > γ·Q_{i−1}.

    The product also decides Q_{i−1} = 0, which the paper leaves open: 0 after 0 is negative, a recovery from 0 is positive.
    """
    return [q[i] > gamma * q[i - 1] for i in range(1, len(q))]


def relative_progress(q: Sequence[float], gamma: float = 0.8) -> list[bool]:
    """Relative progress (GenPRM): positive iff Q_i / Q_{i−1} ≥ γ. From the first Q = 0 on (Q_0 included), all are negative."""
    labels, alive = [], q[0] > 0
    for i in range(1, len(q)):
        alive = alive and q[i] > 0
        labels.append(alive and q[i] >= gamma * q[i - 1])
    return labels


def hard_estimate(q: Sequence[float]) -> list[bool]:
    """Hard estimation (Math-Shepherd): positive iff any completion after the chunk is right. On the same Q it is Abs-Q."""
    return abs_q(q)


def label(q: Sequence[float], rule: str, alpha: float = 0.4, gamma: float = 0.8, n: int = 4) -> list[bool]:
    """The labels of the rule with this name. `alpha` and `n` apply to rel_effective, `gamma` to rel_ratio and relative_progress.

    Raises ValueError for an unknown rule.
    """
    rules: dict[str, Callable[[], list[bool]]] = {
        "abs_q": lambda: abs_q(q),
        "rel_effective": lambda: rel_effective(q, alpha, n),
        "rel_ratio": lambda: rel_ratio(q, gamma),
        "relative_progress": lambda: relative_progress(q, gamma),
        "hard_estimate": lambda: hard_estimate(q),
    }
    if rule not in rules:
        raise ValueError(f"unknown label rule {rule!r}: choose one of {', '.join(rules)}")
    return rules[rule]()


def label_with(knobs: AnnotateKnobs, q: Sequence[float], rule: str = "") -> list[bool]:
    """The labels by the recipe's rule, or by another `rule` with the recipe's parameters."""
    return label(q, rule or knobs.rule, knobs.alpha, knobs.gamma)


def until_first_negative(labels: Sequence[bool]) -> list[bool]:
    """Labels up to and including the first negative. Later labels are dropped: they say little about their own step."""
    end = labels.index(False) + 1 if False in labels else len(labels)
    return list(labels[:end])


def labelled_steps(annotated: Sequence[AnnotatedSolution], questions: dict[str, str], knobs: AnnotateKnobs) -> list[LabelledStep]:
    """Every chunk with its label, up to and including the first negative of its solution. `questions` maps problem id to text.

    If more than `knobs.branches` completions were sampled at each boundary, only the first `knobs.branches` count.
    """
    return [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], s.chunks[i], positive, number)
        for number, s in enumerate(annotated)
        for i, positive in enumerate(until_first_negative(label_with(knobs, _q(s, knobs.branches))))
    ]


def _q(solution: AnnotatedSolution, branches: int) -> Sequence[float]:
    """The values of a solution when only the first `branches` completions of every boundary count."""
    if not solution.hits or len(solution.hits[0]) <= branches:
        return solution.q
    return values([row[:branches] for row in solution.hits], solution.correct)


def load_steps(folder: Path, split: str, knobs: AnnotateKnobs) -> list[LabelledStep]:
    """The labelled steps of a split ("train" or "validation") by the recipe's rule, from the annotate stage's `folder`."""
    questions = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
    return labelled_steps(read_jsonl(folder / f"{split}.jsonl", AnnotatedSolution), questions, knobs)


# --- selecting solutions and labels --------------------------------------------------------------------------------------


def balanced(labels: Sequence[bool], count: int, seed: int, passes: int = 1) -> list[int]:
    """Indices of a balanced sample: at most `count` per pass, half positive; the majority is down-sampled (StepWiser §3.3).

    Each pass takes the next members of the majority and starts over when they run out, because a single down-sampling would
    discard most of them. Positives and negatives alternate, so every prefix of even length is balanced too. Empty if all labels
    agree.
    """
    rng = random.Random(seed)
    sides = [[i for i, positive in enumerate(labels) if bool(positive) is side] for side in (True, False)]
    for side in sides:
        rng.shuffle(side)
    half = min(count // 2, *(len(side) for side in sides))
    return [side[i % len(side)] for i in range(passes * half) for side in sides]


def balanced_steps(steps: Sequence[LabelledStep], count: int, seed: int, passes: int = 1) -> list[LabelledStep]:
    """The steps at the indices that `balanced` returns for their labels."""
    return [steps[i] for i in balanced([s.label for s in steps], count, seed, passes)]


def whole_solutions(steps: Sequence[LabelledStep], most: int, seed: int) -> list[LabelledStep]:
    """The steps of whole solutions, drawn at random, that have at most `most` steps together; at least one solution.

    For judges that learn from whole solutions: they get no more labels than the others.
    """
    solutions: dict[tuple[str, int], list[LabelledStep]] = {}
    for step in steps:
        solutions.setdefault((step.problem_id, step.solution), []).append(step)
    drawn = list(solutions.values())
    random.Random(seed).shuffle(drawn)
    chosen: list[LabelledStep] = []
    for own in drawn:
        if not chosen or len(chosen) + len(own) <= most:
            chosen += own
    return chosen


def choose_solutions(groups: Sequence[Sequence[Solution]], keep: int, most: int, right: float = 0.25) -> list[Solution]:
    """Solutions to annotate: at most `keep` per problem and `most` in all; a share `right` of them have the right answer.

    Each group holds the solutions of one problem. Solutions that broke the format or were cut off are dropped; then problems
    whose solutions are all right or all wrong (StepWiser §3.2). Wrong solutions are preferred by default: negatives are
    scarce when labels are balanced, and the chunks before an error give positives too.
    """
    chosen: list[Solution] = []
    mixed = 0
    for group in groups:
        usable = [s for s in group if s.well_formed]
        bad, good = [s for s in usable if not s.correct], [s for s in usable if s.correct]
        if bad and good:
            due = int((mixed + 1) * keep * right) - int(mixed * keep * right)  # spreads the right ones evenly over the problems
            goods = min(len(good), max(due, keep - len(bad)))
            chosen += bad[: keep - goods] + good[:goods]
            mixed += 1
    return chosen[:most]


# --- label noise -----------------------------------------------------------------------------------------------------------


def agreement(annotated: Sequence[AnnotatedSolution], exact: Sequence[Sequence[bool]], knobs: AnnotateKnobs) -> list[dict]:
    """Agreement of each rule's labels with the exact labels when only M = 1, 2, 4, … completions per boundary are used.

    `exact[i]` holds the exact labels of `annotated[i]`; chunks after the first exact error are not counted. Each row (one per
    rule and M) has the share of labels that agree, that share within exact positives and negatives, and the mean of the two.
    """
    rows = []
    m = 1
    while m <= knobs.branches:
        for rule in RULES:
            pairs = []
            for s, truth in zip(annotated, exact, strict=True):
                q = values([row[:m] for row in s.hits], s.correct)
                truth = until_first_negative(truth)
                pairs += list(zip(label_with(knobs, q, rule), truth, strict=False))
            rates = [_share([given == true for given, true in pairs if true is side]) for side in (True, False)]
            rows.append(
                {
                    "rule": rule,
                    "m": m,
                    "agreement": _share([given == true for given, true in pairs]),
                    "balanced_agreement": sum(rates) / 2,
                    "exact_positive_called_positive": rates[0],
                    "exact_negative_called_negative": rates[1],
                }
            )
        m *= 2
    return rows


def value_summary(annotated: Sequence[AnnotatedSolution], knobs: AnnotateKnobs) -> dict[str, float]:
    """Mean Q of the prompt (`start`) and before the last chunk (`before_last`), and the mean of Q_i − Q_{i−1} over the chunks of
    each label (`change_positive`, `change_negative`)."""
    changes: dict[bool, list[float]] = {True: [], False: []}
    for s in annotated:
        for before, after, positive in zip(s.q[:-1], s.q[1:], label_with(knobs, s.q), strict=True):
            changes[positive].append(after - before)
    return {
        "start": _share([s.q[0] for s in annotated]),
        "before_last": _share([s.q[-2] for s in annotated]),
        "change_positive": _share(changes[True]),
        "change_negative": _share(changes[False]),
    }


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
