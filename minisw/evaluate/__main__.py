"""Measure anyone's judge: first-error F1 and more, from a file of its verdicts.

    python -m minisw.evaluate predictions.jsonl                              labels are in the file
    python -m minisw.evaluate predictions.jsonl --items processbench/        labels of the published files (gsm8k.json, …)
    python -m minisw.evaluate scores.jsonl --validation held-out.jsonl       a judge that gives scores
    python -m minisw.evaluate a.jsonl --items gsm8k.json --compare b.jsonl   paired differences, a minus b

One line for each solution: its id and, for each step, a verdict (true, false, or null if it cannot be read), a list of
votes, or a score from 0 to 1:

    {"id": "gsm8k-0", "verdicts": [true, false, null]}
    {"id": "gsm8k-0", "verdicts": [[true, true], [false, null], [true, false]], "tokens": [310, 290, 275]}
    {"id": "gsm8k-0", "scores": [0.93, 0.12, 0.40]}
    {"id": "gsm8k-0", "prediction": 1}     for a judge of whole solutions: first wrong step, -1 for none, null if unreadable

Without --items a line also has "label", the index of the first wrong step from 0 (-1 if all are right), and may have "part",
"question", "steps" and "final_answer_correct". The majority of several votes decides; a tie rejects the step. Figures are
percentages, with 95% intervals that resample questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from minisw.evaluate import metrics
from minisw.evaluate.calibration import reliability
from minisw.evaluate.predictions import Predictions, in_parts_of, judge, published, read, require_all, threshold_from
from minisw.evaluate.stats import bootstrap, mean, paired_bootstrap
from minisw.options import Parser
from minisw.records import BenchItem, Judgment

NONE = "–"  # in place of a figure that a file does not give
LEAST_RESAMPLES = 10
F1S = {  # key of the figure: its title and what is computed
    "f1": ("F1", metrics.average_f1),
    "f1_by_answer": ("F1 by final answer", metrics.average_f1_by_answer),
    "f1_binary": ("F1 binary", metrics.average_f1_binary),
}

# --- figures -------------------------------------------------------------------------------------------------------------


def measure(predictions: Predictions, judgments: list[list[Judgment]], seed: int, resamples: int) -> dict:
    """All figures of one judge: those of `metrics.score`, and more; None where the file does not say.

    `by_part` has the figures of each part, if there are several; `reliability` the rows of a reliability diagram; `majority`
    Maj@k and pass@k, if there are several votes.
    """
    items = list(predictions.items.values())
    figures = metrics.score(items, judgments, seed, resamples)
    own = figures.pop("predictions")
    figures |= _more_figures(predictions, items, judgments, seed, resamples)
    for part, values in figures.get("by_part", {}).items():
        chosen = [i for i, item in enumerate(items) if metrics.part_of(item) == part]
        values |= _more_figures(predictions, [items[i] for i in chosen], [judgments[i] for i in chosen], seed, resamples)
    if predictions.judges_steps:
        labelled = metrics.steps_until_error(items, judgments)
        figures["reliability"] = reliability([j.p_positive for _, j in labelled], [label for label, _ in labelled])
    if judgments[0][0].votes:
        passes = {row["k"]: row for row in metrics.pass_curve(items, judgments)}
        figures["majority"] = [
            row | {f"pass_{key}": passes.get(row["k"], {}).get(key) for key in ("solutions", "steps")}
            for row in metrics.majority_curve(items, judgments, seed, resamples)
        ]
    figures["predictions"] = dict(zip(predictions.items, own, strict=True))
    return figures


def _more_figures(
    predictions: Predictions, items: list[BenchItem], judgments: list[list[Judgment]], seed: int, resamples: int
) -> dict:
    """Figures that `metrics.score` lacks, and None for those of its figures that the file does not give."""
    rows = [(item, metrics.predict([j.verdict for j in own])) for item, own in zip(items, judgments, strict=True)]
    questions = [item.question for item in items]
    labelled = metrics.steps_until_error(items, judgments)
    labels, verdicts = [label for label, _ in labelled], [j.verdict for _, j in labelled]
    right, wrong = metrics.step_accuracies(labels, verdicts)
    figures = {
        "f1_binary": metrics.average_f1_binary(rows),
        "interval_binary": bootstrap(rows, metrics.average_f1_binary, seed, resamples, questions),
        "right_steps_passed": right if True in labels else None,
        "wrong_steps_rejected": wrong if False in labels else None,
        "solutions": len(items),
        "with_error": sum(item.label >= 0 for item in items),
        "questions": len(set(questions)),
    }
    if judgments[0][0].votes:
        figures["unparseable_votes"] = mean([vote is None for own in judgments for j in own for vote in j.votes])
    if not predictions.judges_steps:  # its verdicts stand for the one prediction
        steps = ("right_steps_passed", "wrong_steps_rejected", "balanced_accuracy", "calibration_error")
        figures |= dict.fromkeys(steps) | {"unparseable": mean([prediction == metrics.WRONG for _, prediction in rows])}
    if not predictions.counts_tokens:
        figures["tokens_per_step"] = None
    if not predictions.knows_answers:
        figures |= {"f1_by_answer": None, "interval_by_answer": None}
    return figures


def differences(predictions: Predictions, a: dict, b: dict, seed: int, resamples: int) -> list[dict]:
    """The F1s of judge `a` minus those of `b`, given their figures, with paired intervals over questions."""
    rows = [((item, a["predictions"][id]), (item, b["predictions"][id])) for id, item in predictions.items.items()]
    found = []
    for key, (title, f1) in F1S.items():
        if a[key] is not None:
            found.append({"name": title, **_difference(rows, f1, seed, resamples)})
    for part in a.get("by_part", ()):
        own = [row for row in rows if metrics.part_of(row[0][0]) == part]
        found.append({"name": f"F1, {part or 'other'}", **_difference(own, metrics.average_f1, seed, resamples)})
    return found


def _difference(rows: Sequence[tuple], f1: Callable, seed: int, resamples: int) -> dict:
    questions = [item.question for (item, _), _ in rows]
    measured, interval = paired_bootstrap(rows, f1, seed, resamples, questions)
    return {"measured": measured, "interval": interval}


# --- tables --------------------------------------------------------------------------------------------------------------


def percent(value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
    """A share in percent with one digit, as papers print it, and its interval."""
    if value is None:
        return NONE
    written = [format(100 * v, f"{sign}.1f") for v in (value, *(interval or ()))]
    return written[0] if len(written) == 1 else f"{written[0]} [{written[1]}, {written[2]}]"


def count(value: float | None) -> str:
    return NONE if value is None else format(value, ",.0f")


ROWS: tuple[tuple[str, str, str | None], ...] = (  # title, key of the figure, key of its interval
    ("F1 (official)", "f1", "interval"),
    ("error found", "accuracy_error", None),
    ("right solution passed", "accuracy_correct", None),
    ("F1 (official), pooled", "f1_pooled", None),
    ("F1 by final answer", "f1_by_answer", "interval_by_answer"),
    ("F1 binary (any mistake?)", "f1_binary", "interval_binary"),
    ("right steps passed", "right_steps_passed", None),
    ("wrong steps rejected", "wrong_steps_rejected", None),
    ("mean of these two", "balanced_accuracy", None),
    ("calibration error (ECE)", "calibration_error", None),
    ("unreadable", "unparseable", None),
    ("unreadable votes", "unparseable_votes", None),
)
COUNTS = (
    ("tokens per step", "tokens_per_step"),
    ("solutions", "solutions"),
    ("with an error", "with_error"),
    ("questions", "questions"),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned as text too."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [[row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, len(head)))] for row in cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(name: str, figures: dict) -> list[str]:
    """The tables of one judge."""
    parts = figures.get("by_part", {})
    columns = [figures, *parts.values()]
    rows = [
        [title, *(percent(own.get(key), own.get(interval) if interval else None) for own in columns)]
        for title, key, interval in ROWS
        if key in figures and (key != "f1_pooled" or parts)
    ]
    rows += [[title, *(count(own[key]) for own in columns)] for title, key in COUNTS]
    tables = [table([name, "all", *(part or "other" for part in parts)], rows)]
    if "majority" in figures:
        rows = [
            [str(row["k"]), percent(row["f1"], row["interval"]), percent(row["pass_solutions"]), percent(row["pass_steps"])]
            for row in figures["majority"]
        ]
        tables.append(table(["votes", "F1 of the majority (Maj@k)", "one right: solutions", "one right: steps"], rows))
    if "reliability" in figures:
        rows = [
            [f"{row['low']:.1f}–{row['high']:.1f}", count(row["count"]), percent(row["probability"]), percent(row["share"])]
            for row in figures["reliability"]
        ]
        tables.append(table(["P(right)", "steps", "mean P(right)", "right"], rows))
    return tables


# --- the command -----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m minisw.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="the judge's verdicts, JSON Lines")
    parser.add_argument("--items", type=Path, metavar="PATH", help="labels: a file in ProcessBench's form, or its folder")
    parser.add_argument("--partial", action="store_true", help="measure on some of these items: those in PREDICTIONS")
    parser.add_argument("--threshold", type=float, metavar="T", help="steps with a score below T are called wrong")
    parser.add_argument("--validation", type=Path, metavar="FILE", help="scores of other solutions, which choose the threshold")
    parser.add_argument("--compare", type=Path, metavar="OTHER", help="another judge's verdicts on the same solutions")
    parser.add_argument("--compare-threshold", type=float, metavar="T", help="as --threshold, for OTHER")
    parser.add_argument("--compare-validation", type=Path, metavar="FILE", help="as --validation, for OTHER")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the bootstrap (default 0)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A mistake of the user ends it with one line and exit status 2."""
    try:
        run(_parser().parse_args(arguments))
    except (ValueError, OSError) as error:
        print(f"minisw: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def run(options: argparse.Namespace) -> None:
    """Read the files, measure and print."""
    _check(options)
    known = published(options.items) if options.items else None
    predictions = read(options.predictions, known)
    if known and not options.partial:
        remedy = "add it, or measure the others alone with --partial"
        require_all(predictions, in_parts_of(predictions, known), remedy)
    found, notes = _measured(predictions, known, options.threshold, options.validation, options)
    result = {"judge": str(options.predictions), **found}
    if options.compare:
        other = read(options.compare, predictions)
        require_all(other, predictions.items, f"--compare needs the solutions of {options.predictions}")
        theirs, more = _measured(other, known, options.compare_threshold, options.compare_validation, options)
        notes += more
        result["compared_with"] = {"judge": str(options.compare), **theirs}
        result["differences"] = differences(predictions, found, theirs, options.seed, options.resamples)
    if options.json:
        print(json.dumps({**_plain(result), "notes": notes}, indent=1, ensure_ascii=False))
        return
    if "by_part" in found:
        notes.append("the three F1s under “all” are means over the parts; the other figures there count everything together")
    tables = shown(options.predictions.stem, found)
    if options.compare:
        tables += shown(options.compare.stem, theirs)
        rows = [[row["name"], percent(row["measured"], row["interval"], "+")] for row in result["differences"]]
        tables.append(table([f"{options.predictions.stem} minus {options.compare.stem}", "difference [95%]"], rows))
    print("\n".join([*tables, *(f"{note}." for note in notes)]))


def _plain(figures: dict) -> dict:
    """Figures for JSON: an unreadable prediction is null there, as in the predictions file."""
    if "compared_with" in figures:
        figures = figures | {"compared_with": _plain(figures["compared_with"])}
    return figures | {"predictions": {id: None if p == metrics.WRONG else p for id, p in figures["predictions"].items()}}


def _check(options: argparse.Namespace) -> None:
    """Raises ValueError, in one line, for options that cannot be used."""
    for prefix in ("", "compare_"):
        threshold, validation = (getattr(options, prefix + name) for name in ("threshold", "validation"))
        flag = "--" + prefix.replace("_", "-")
        if prefix and not options.compare and (threshold is not None or validation):
            raise ValueError(f"{flag}threshold and {flag}validation are about another judge: name it with --compare")
        if threshold is not None and validation:
            raise ValueError(f"{flag}threshold and {flag}validation both set the threshold: leave one out")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"{flag}threshold is {threshold}: give a number from 0 to 1")
    if options.partial and not options.items:
        raise ValueError("--partial is about published items: name them with --items")
    if options.resamples < LEAST_RESAMPLES:
        raise ValueError(f"--resamples is {options.resamples}: it must be at least {LEAST_RESAMPLES}")
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}: it must be 0 or more")


def _measured(
    predictions: Predictions,
    known: dict[str, BenchItem] | None,
    threshold: float | None,
    validation: Path | None,
    options: argparse.Namespace,
) -> tuple[dict, list[str]]:
    """The figures of one judge, and what a reader must know about them."""
    notes = []
    if validation:
        chosen_on = read(validation, known, own_labels=True)
        threshold, f1 = threshold_from(chosen_on)
        notes.append(f"{predictions.path}: threshold {threshold:.2f}, chosen on {validation} (F1 there {percent(f1)})")
        questions = {item.question for item in predictions.items.values()}
        seen = sum(id in predictions.items or item.question in questions for id, item in chosen_on.items.items())
        if seen:
            notes.append(f"{seen} solutions of {validation} are about measured questions: the F1 above may be too high")
    judgments = judge(predictions, threshold)
    figures = measure(predictions, judgments, options.seed, options.resamples)
    for part, own in figures.get("by_part", {"": figures}).items():
        if own["with_error"] in (0, own["solutions"]):
            side = "with" if own["with_error"] == 0 else "without"
            notes.append(f"no solution {side} an error{f' in {part}' if part else ''}: its F1 is 0 for any judge")
    return {"threshold": threshold, **figures}, notes


if __name__ == "__main__":
    main()
