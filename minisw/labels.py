"""Step labels from Monte-Carlo values (StepWiser §3.2): values, label rules, balancing. Everything here is pure Python.

A solution of n chunks has n + 1 boundaries. Q_i is the share of completions from boundary i that reach the right answer:
Q_0 is the prompt's own pass rate, and Q_n, behind the last chunk, is the outcome itself. Files store Q; labels are pure
functions of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from minisw.recipe import AnnotateKnobs
from minisw.records import AnnotatedSolution, LabelledStep, Solution, read_jsonl

RULES = ("abs_q", "rel_effective", "rel_ratio")  # StepWiser's three, compared in the annotate stage

# --- values ------------------------------------------------------------------------------------------------------------


def values(hits: Sequence[Sequence[bool]], correct: bool) -> tuple[float, ...]:
    """Q of every boundary: the mean of `hits[i]` (any number of completions a boundary), then the outcome `correct` as 1 or 0.

    `hits` has one row for the prompt and one behind every chunk but the last.
    """
    return (*(sum(row) / len(row) for row in hits), float(correct))


# --- label rules: Q of every boundary in, one label a chunk out ---------------------------------------------------------


def abs_q(q: Sequence[float]) -> list[bool]:
    """Abs-Q (StepWiser §3.2): positive iff Q_i > 0."""
    return [after > 0 for after in q[1:]]


def rel_effective(q: Sequence[float], alpha: float = 0.4, n: int = 4) -> list[bool]:
    """Rel-Effective (StepWiser §3.2): positive iff Q_i + α·(Qμ_i − Qμ_{i−1}) > 0.

    Qμ = 1 − (1 − Q)^n is the pass rate of the best of n.
    """
    best = [1 - (1 - value) ** n for value in q]
    return [q[i] + alpha * (best[i] - best[i - 1]) > 0 for i in range(1, len(q))]


def rel_ratio(q: Sequence[float], gamma: float = 0.8) -> list[bool]:
    """Rel-Ratio (StepWiser §3.2): positive iff Q_i > γ·Q_{i−1}; so 0 after 0 is negative and a recovery from 0 positive."""
    return [q[i] > gamma * q[i - 1] for i in range(1, len(q))]


def relative_progress(q: Sequence[float], gamma: float = 0.8) -> list[bool]:
    """Relative progress (GenPRM §3.2): positive iff Q_i / Q_{i−1} ≥ γ. From the first Q_i = 0 on, every label is negative."""
    labels, alive = [], True
    for i in range(1, len(q)):
        alive = alive and q[i] > 0
        labels.append(alive and q[i] >= gamma * q[i - 1])
    return labels


def hard_estimate(q: Sequence[float]) -> list[bool]:
    """Hard estimation (Math-Shepherd §3.3): positive iff any completion from behind the chunk is right. On the same completions
    this is Abs-Q."""
    return abs_q(q)


def label(q: Sequence[float], rule: str, alpha: float = 0.4, gamma: float = 0.8, n: int = 4) -> list[bool]:
    """The labels of one rule by name. `alpha` and `n` belong to rel_effective, `gamma` to rel_ratio and relative_progress.

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
    """The labels by the rule of a recipe, or by another rule with that recipe's parameters."""
    return label(q, rule or knobs.rule, knobs.alpha, knobs.gamma)


def until_first_negative(labels: Sequence[bool]) -> list[bool]:
    """Labels up to and including the first negative: what follows an error says nothing about itself."""
    end = labels.index(False) + 1 if False in labels else len(labels)
    return list(labels[:end])


def labelled_steps(annotated: Sequence[AnnotatedSolution], questions: dict[str, str], knobs: AnnotateKnobs) -> list[LabelledStep]:
    """Every chunk with its label, up to and including a solution's first negative. `questions` maps problem id to text."""
    return [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], s.chunks[i], positive, number)
        for number, s in enumerate(annotated)
        for i, positive in enumerate(until_first_negative(label_with(knobs, s.q)))
    ]


def load_steps(folder: Path, split: str, knobs: AnnotateKnobs) -> list[LabelledStep]:
    """The labelled steps of a split, by the recipe's rule, from the folder that the annotate stage wrote."""
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return labelled_steps(read_jsonl(folder / f"{split}.jsonl", AnnotatedSolution), questions, knobs)


# --- which solutions, which labels ---------------------------------------------------------------------------------------


def balanced(labels: Sequence[bool], count: int, seed: int, passes: int = 1) -> list[int]:
    """Indices of at most `count` labels a pass, half of them positive: the majority is sampled down (StepWiser §3.3).

    Each pass takes other members of the majority until they run out, then starts over; down-sampling once would throw most of
    them away. Positives and negatives alternate, so every prefix of even length is balanced too.
    """
    rng = random.Random(seed)
    sides = [[i for i, positive in enumerate(labels) if positive is side] for side in (True, False)]
    for side in sides:
        rng.shuffle(side)
    half = min(count // 2, *(len(side) for side in sides))
    return [side[i % len(side)] for i in range(passes * half) for side in sides]


def balanced_steps(steps: Sequence[LabelledStep], count: int, seed: int, passes: int = 1) -> list[LabelledStep]:
    """`balanced` applied to steps."""
    return [steps[i] for i in balanced([s.label for s in steps], count, seed, passes)]


def choose_solutions(
    groups: Sequence[Sequence[Solution]], keep: int, most: int, right: float = 0.25
) -> list[Solution]:
    """Solutions to annotate: at most `keep` of each problem and `most` in all; a share `right` of them have the right answer.

    `groups` holds the solutions of one problem each. Problems whose solutions are all right or all wrong are dropped
    (StepWiser §3.2), and so are solutions that broke the format. Wrong solutions are preferred, because negatives run short
    when labels are balanced, and the chunks before an error are positives too.
    """
    chosen: list[Solution] = []
    mixed = 0
    for group in groups:
        usable = [s for s in group if s.well_formed]
        bad, good = [s for s in usable if not s.correct], [s for s in usable if s.correct]
        if bad and good:
            due = int((mixed + 1) * keep * right) - int(mixed * keep * right)  # spreads the share evenly over the problems
            goods = min(len(good), max(due, keep - len(bad)))
            chosen += bad[: keep - goods] + good[:goods]
            mixed += 1
    return chosen[:most]


# --- how noisy the labels are ----------------------------------------------------------------------------------------------


def agreement(annotated: Sequence[AnnotatedSolution], exact: Sequence[Sequence[bool]], knobs: AnnotateKnobs) -> list[dict]:
    """Agreement of each rule's labels with the exact ones for M = 1, 2, 4, … completions, up to the first exact error.

    `exact[i]` holds the exact labels of `annotated[i]`. A row has the plain agreement and the mean over both classes.
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
    """Mean Q of the prompt (`start`) and before the last chunk, and the mean change of Q over a chunk by its label."""
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
