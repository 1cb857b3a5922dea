"""Published step labels in place of rollouts: PRM800K, Math-Shepherd, and any set in TRL's stepwise-supervision format.

TRL's format has one row for each solution: `prompt`, `completions` (its steps) and `labels` (a bool for each step). Stage 2
writes the same format.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minisw.problems import files
from minisw.records import AnnotatedSolution

PRM800K, SHEPHERD = "prm800k", "math_shepherd"
SEPARATOR = "\n\n"  # added to each step: the end of a chunk
_MARK = "ки"  # Math-Shepherd's step tag

Row = tuple[str, list[str], list[bool]]  # question, steps, labels


def load(source: str, folder: Path | None, split: str, count: int, seed: int) -> tuple[list[AnnotatedSolution], dict[str, str]]:
    """Up to `count` labelled solutions, half of them with an error if there are enough, and their questions by problem id.

    `source` is "prm800k", "math_shepherd", a file or a hub name. One question in five belongs to "validation", the others to
    "train". Labels become values Q of 1 or 0, from which every label rule restores them. Raises ValueError if the source
    cannot be read or has another format.
    """
    questions: dict[str, str] = {}
    sides: dict[bool, list[AnnotatedSolution]] = {True: [], False: []}
    numbers: dict[str, int] = {}  # question -> its number in the source
    for question, steps, labels in read(source, folder):
        number = numbers.setdefault(question, len(numbers))
        if (number % 5 == 0) is (split == "validation"):
            problem_id = f"{Path(source).stem}-{number}"
            questions[problem_id] = question
            chunks, values = tuple(step.strip() + SEPARATOR for step in steps), (1.0, *map(float, labels))
            sides[all(labels)].append(AnnotatedSolution(problem_id, chunks, all(labels), values))
    rng = random.Random(seed)
    for side in sides.values():
        rng.shuffle(side)
    wrong = min(len(sides[False]), max(count // 2, count - len(sides[True])))
    chosen = sides[False][:wrong] + sides[True][: count - wrong]
    if not chosen:
        raise ValueError(f"{source} has no labelled solution for {split}: give --annotate.source another one")
    return chosen, {s.problem_id: questions[s.problem_id] for s in chosen}


def read(source: str, folder: Path | None) -> Iterator[Row]:
    """Every labelled solution of a source. Raises ValueError if the source cannot be read or has another format."""
    check_source(source)
    kinds = {PRM800K: _prm800k, SHEPHERD: _shepherd}
    if source == PRM800K:
        rows = files.rows(folder, "prm800k/*train.parquet", "tasksource/PRM800K", "train")
    elif source == SHEPHERD:
        rows = files.rows(folder, "math_shepherd/*.jsonl", "peiyi9979/Math-Shepherd", "train")
    elif Path(source).is_file():
        rows = files.rows(Path(source).parent, Path(source).name, "", "train")
    else:
        rows = files.rows(None, "a file in TRL's stepwise format", source, "train")
    try:
        for question, steps, labels in kinds.get(source, _trl)(rows):
            if steps and len(steps) == len(labels):
                yield question.strip(), steps, labels
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"a row of {source} lacks a field: is it the published file, or in TRL's stepwise format?") from None


def check_source(source: str) -> None:
    """Raises ValueError if `source` can only be a file and there is no such file. Opens nothing: for a check before a run."""
    known = source in (PRM800K, SHEPHERD) or Path(source).is_file()
    if not known and (Path(source).suffix in (".json", ".jsonl", ".parquet") or "/" not in source):
        raise ValueError(f"--annotate.source {source}: no such file; give rollouts, {PRM800K}, {SHEPHERD}, a file or a hub name")


def _trl(rows: Iterable[dict]) -> Iterator[Row]:
    for row in rows:
        yield row["prompt"], list(row["completions"]), [bool(label) for label in row["labels"]]


def _prm800k(rows: Iterable[dict]) -> Iterator[Row]:
    """A row is one candidate for the next step, after the steps chosen before it.

    A candidate rated wrong makes a solution with an error; a final step not rated wrong makes a right one. A neutral rating
    (0) counts as right (Lightman et al. 2023, §2.6).
    """
    for row in rows:
        if row["rating"] is not None and row["next_response"] and (row["rating"] < 0 or row["is_solution"]):
            before = list(row["responses"])
            yield row["instruction"], [*before, row["next_response"]], [True] * len(before) + [row["rating"] >= 0]


def _shepherd(rows: Iterable[dict]) -> Iterator[Row]:
    """`input` holds the question and the steps, with a tag after each step; `label` has + or - in the place of the tag."""
    for row in rows:
        question, start, rest = row["input"].partition("Step 1:")
        parts = (start + rest).split(_MARK)
        steps, labels = [part.strip() for part in parts if part.strip()], []
        position = len(question)  # in `label`, where every tag is one character long
        for part in parts[:-1]:
            position += len(part)
            labels.append(row["label"][position : position + 1] == "+")
            position += 1
        yield question, steps, labels


def to_trl(annotated: Sequence[AnnotatedSolution], labels: Sequence[Sequence[bool]], questions: dict[str, str]) -> list[dict]:
    """Rows in TRL's stepwise-supervision format."""
    return [
        {"prompt": questions[s.problem_id], "completions": list(s.chunks), "labels": list(row)}
        for s, row in zip(annotated, labels, strict=True)
    ]
