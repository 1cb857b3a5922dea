"""The columns of every table, once for HTML, Markdown and the terminal, with a sentence about each figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw.evaluate.stats import mean
from minisw.records import Claim
from minisw.report.claims import SPECS

NONE = "–"  # shown in place of a missing number


def finite(value: object) -> bool:
    """Whether a value is a number that can be shown: no None, bool, NaN or infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _format(value: object, spec: str) -> str:
    return format(value, spec).replace("-", "−") if finite(value) else NONE


def text(value: object) -> str:
    return NONE if value is None else str(value)


def share(value: object) -> str:
    return _format(value, ".2f")


def difference(value: object) -> str:
    return _format(value, "+.3f")


def ratio(value: object) -> str:
    return _format(value, ".3f")


def one_digit(value: object) -> str:
    return _format(value, ".1f")


def count(value: object) -> str:
    return _format(value, ",.0f")


def rough(value: object) -> str:
    return _format(value, ".2g")


def bounds(interval: Sequence[float] | None, form: Callable[[object], str]) -> str:
    """`[0.41, 0.48]`, or "–" without an interval."""
    return f"[{form(interval[0])}, {form(interval[1])}]" if interval else NONE


@dataclass(frozen=True)
class Column:
    """One column: the key of its value in a row, its title, how a value is written, and what it means."""

    key: str
    title: str
    format: Callable[[object], str] = text
    meaning: str = ""
    interval: str = ""  # key of the value's 95% interval, if it has one


def cell(column: Column, rows: Sequence[dict]) -> str:
    """The text of one cell. `rows` holds the same row of several runs.

    One run: the value, with its interval if it has one. Several: their mean; for figures that have an interval, also
    the value of each run in brackets, unless all look the same.
    """
    values = [row.get(column.key) for row in rows]
    if column.format is text:
        return text(values[0])
    if len(values) > 1:
        known = [v for v in values if finite(v)]
        written = [column.format(v) for v in values]
        average = column.format(mean(known)) if known else NONE
        return f"{average} ({' '.join(written)})" if column.interval and len(set(written)) > 1 else average
    interval = rows[0].get(column.interval) if column.interval else None
    written = column.format(values[0])
    return f"{written} {bounds(interval, column.format)}" if interval and written != NONE else written


def used(columns: Sequence[Column], rows: Sequence[dict]) -> list[Column]:
    """The columns for which at least one row has a value."""
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def pick(columns: Sequence[Column], *keys: str) -> list[Column]:
    """The columns with these keys, in this order."""
    by_key = {column.key: column for column in columns}
    return [by_key[key] for key in keys]


CLAIM = (
    Column("id", "claim"),
    Column("claim", "claim"),
    Column("source", "source"),
    Column("paper", "paper", text, "The paper's own figure; in brackets where the paper compares something else."),
    Column("measured", "measured [95%]", text, "What this run measured, and its 95% interval over test items."),
    Column("mean", "mean", text, "The mean over the runs."),
    Column("over_seeds", "95%, other seeds", text, "Student's t interval of that mean over the runs: the unit is the seed."),
    Column("over_items", "95%, other test items", text, "The runs' own intervals combined: the trained models stay as they are."),
    Column("each", "each run", text, "The figure of each run."),
    Column("baseline", "compared with"),
    Column("outcome", "outcome", text, "What the interval says: holds, does not hold, not settled, or not tested."),
)

SEGMENT = (
    Column("name", "solver"),
    Column("accuracy", "accuracy", share, "Share of test problems with the right final answer.", "interval"),
    Column("chunks", "chunks", one_digit, "Mean chunks of a well-formed solution."),
    Column("blank_line_chunks", "split at blank lines", one_digit, "Mean parts of the same solutions split at blank lines."),
    Column("newline_chunks", "split at newlines", one_digit, "Mean parts of the same solutions split at every newline."),
    Column("tokens", "tokens", count, "Mean sampled tokens of a solution, tags included."),
    Column("format_kept", "well formed", share, "Share of solutions that keep the chunk format."),
    Column("cut_off", "cut off", share, "Share of solutions that reached the token budget; they count as wrong."),
)

RULE = (
    Column("rule", "label rule"),
    Column("positives", "positive", share, "Share of annotated steps that the rule labels positive."),
)

AGREEMENT = (
    Column("rule", "label rule"),
    Column("m", "M", text, "Completions sampled at every boundary."),
    Column(
        "balanced_agreement",
        "balanced agreement",
        share,
        "Mean of the next two columns; a rule that calls everything positive gets 0.5.",
    ),
    Column("exact_positive_called_positive", "right called positive", share, "Share of right steps with a positive label."),
    Column("exact_negative_called_negative", "wrong called negative", share, "Share of wrong steps with a negative label."),
)

JUDGE = (
    Column("name", "judge"),
    Column("labels_used", "labels", count, "Distinct labelled steps used in training, or in choosing knobs."),
    Column(
        "f1",
        "F1",
        share,
        "First-error F1 (ProcessBench): harmonic mean of the next two accuracies; over several parts their average.",
        "interval",
    ),
    Column("f1_sampled", "F1 sampled", share, "Mean F1 of one judgment sampled at temperature 1.", "interval_sampled"),
    Column("f1_majority", "F1 majority", share, "F1 of the majority of those samples.", "interval_majority"),
    Column("f1_pooled", "F1 pooled", share, "The same with the items of all parts in one pool."),
    Column("f1_by_answer", "F1 by answer", share, "F1 with items divided by final answer (StepWiser).", "interval_by_answer"),
    Column("accuracy_error", "error found", share, "Share of solutions with an error in which exactly its step is named."),
    Column("accuracy_correct", "right passed", share, "Share of solutions without an error in which no step is rejected."),
    Column("balanced_accuracy", "balanced, per step", share, "Mean accuracy on right and on wrong steps up to the first error."),
    Column(
        "calibration_error",
        "calibration error",
        share,
        "Expected calibration error of P(Positive); a judge that gives a bare verdict counts as certain of it.",
    ),
    Column("habits/glance", "glance", share, "Share of greedy replies that give a verdict without any work."),
    Column("habits/equation", "equation", share, "Share that check the step's own equations."),
    Column("habits/redo", "redo", share, "Share that do the step anew and compare."),
    Column("unparseable", "unreadable", share, "Share of steps whose verdict cannot be read; they count as wrong."),
    Column("tokens_per_step", "tokens per step", count, "Mean sampled tokens to judge one step."),
)
PART = tuple(column for column in JUDGE if column.key not in ("labels_used", "f1_pooled", "f1_sampled", "f1_majority"))

PASS = (
    Column("name", "judge"),
    Column("k", "k", text, "Samples at temperature 1."),
    Column("solutions", "solutions", share, "Share of solutions that at least one of k samples judges exactly right."),
    Column("steps", "steps", share, "Share of steps that at least one of k samples judges right; with k coins: 1 − 1/2ᵏ."),
)

STUDY = (
    Column("title", "arm"),
    Column("judge", "judge"),
    Column("labels", "labels", count, "Distinct labelled steps used in training."),
    Column("f1", "F1", share, "First-error F1, greedy.", "interval"),
    Column("f1_sampled", "F1 sampled", share, "Mean F1 of one judgment sampled at temperature 1.", "interval_sampled"),
    Column("f1_majority", "F1 majority", share, "F1 of the majority of those samples."),
    Column("unparseable", "unreadable", share, "Share of steps whose verdict cannot be read."),
    Column("tokens_per_step", "tokens per step", count, "Mean sampled tokens to judge one step."),
    Column("habits/glance", "glance", share, "Share of greedy replies that give a verdict without any work."),
    Column("habits/equation", "equation", share, "Share that check the step's own equations."),
    Column("habits/redo", "redo", share, "Share that do the step anew and compare."),
)

DIFFERENCE = (
    Column("name", "on the same items"),
    Column("measured", "difference [95%]", difference, "The first minus the second, resampled together.", "interval"),
)

SEARCH = (
    Column("method", "method"),
    Column("accuracy", "accuracy", share, "Share of problems with the right final answer.", "interval"),
    Column("policy_tokens", "policy tokens", count, "Mean tokens that the policy sampled for a problem."),
    Column("judge_tokens", "judge tokens", count, "Mean tokens that the judge sampled for a problem."),
    Column("rejected_tokens", "rejected tokens", count, "Mean policy tokens in chunks that were discarded."),
    Column("tokens", "all tokens", count, "Policy and judge together: compare accuracies at equal cost."),
    Column("cut_off", "cut off", share, "Share of solutions that reached the token budget; they count as wrong."),
)

TRAINING = (
    Column("name", "adapter"),
    Column("training", "training", text, "How the adapter was trained."),
    Column("labels", "labels", count, "Distinct labelled steps that it was trained on."),
    Column("validation_labels", "validation labels", count, "Labelled steps that chose its knobs."),
    Column("replies", "analyses", count, "Analyses of the base that RS-FT could choose from."),
    Column("right", "of these right", count, "Analyses whose verdict equals the label; RS-FT imitates them."),
    Column(
        "turned",
        "sweep turned",
        lambda value: NONE if value is None else "yes" if value else "no",
        "Whether lower and higher learning rates and longer training were tried and were no better than the best.",
    ),
)

SWEEP = (
    Column("prompt", "request", text, "The classifier's own request, or the one that the generative judge answers."),
    Column("lr", "learning rate", lambda value: _format(value, "g")),
    Column("epochs", "epochs"),
    Column("auc", "AUC", share, "Area under the ROC curve on validation labels; it chooses learning rate and epochs."),
    Column("f1", "F1", share, "First-error F1 on validation labels at the best threshold."),
    Column("threshold", "threshold", share, "Steps with P(+) below it are called Negative."),
    Column("balanced_accuracy", "balanced, per step", share, "Mean accuracy on positive and on negative labels at 0.5."),
)

STAGE = (
    Column("name", "stage"),
    Column("time", "time", text, "Wall-clock time, interruptions not counted."),
    Column("tokens", "tokens", count, "Sampled tokens."),
    Column("peak_memory_gb", "peak memory, GB", one_digit, "Largest memory of the process up to the end of the stage."),
)


def claim_cells(claim: Claim | dict) -> dict[str, str]:
    """The texts of the claim columns for one run or, with `each` and both intervals, for several (`tables.pool`)."""
    values = claim if isinstance(claim, dict) else vars(claim)
    spec = SPECS.get(values["id"])
    form = ratio if spec and spec.kind == "ratio-below" else difference
    paper, measured = form(values.get("paper")), form(values.get("measured"))
    interval = values.get("interval")
    return {
        "id": f"`{values['id']}`",
        "claim": values["claim"],
        "source": values["source"],
        "paper": paper if values.get("same_contrast", True) or paper == NONE else f"({paper})",
        "measured": f"{measured} {bounds(interval, form)}" if interval else measured,
        "mean": measured,
        "over_seeds": bounds(interval, form),
        "over_items": bounds(values.get("items_interval"), form),
        "each": " ".join(form(v) for v in values.get("each", ())) or NONE,
        "baseline": values["baseline"],
        "outcome": values["outcome"],
    }
