"""Step labels made elsewhere, in place of rollouts: PRM800K, Math-Shepherd, and any set in TRL's stepwise-supervision format.

TRL's format is one row a solution: `prompt`, `completions` (the steps), `labels` (a bool a step). It is also what stage 2 writes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minisw.problems import files
from minisw.records import AnnotatedSolution

PRM800K, SHEPHERD = "prm800k", "math_shepherd"


_MARK = "ки"  # Math-Shepherd's step tag


BETWEEN = "\n\n"


Row = tuple[str, list[str], list[bool]]  # question, steps, labels


def load(source: str, folder: Path | None, split: str, count: int, seed: int) -> tuple[list[AnnotatedSolution], dict[str, str]]:
    """`count` labelled solutions of a source ("prm800k", "math_shepherd", a file, or a hub name), half with an error where
    there are so many, and the questions by problem id. "validation" shares no question with "train".

    A label becomes a value of 1 or 0, of which every rule makes that label again. Raises ValueError where the source cannot
    be had or is in another format.
    """
    questions: dict[str, str] = {}
    sides: dict[bool, list[AnnotatedSolution]] = {True: [], False: []}
    ids: dict[str, str] = {}
    for question, steps, labels in read(source, folder):
        i = ids.setdefault(question, f"{Path(source).stem}-{len(ids)}")
        # one question in five is for validation, whatever is asked for
        if (int(i.rpartition("-")[2]) % 5 == 0) is (split == "validation"):
            questions[i] = question
            right = all(labels)
            values = (1.0, *map(float, labels))
            sides[right].append(AnnotatedSolution(i, tuple(s.strip() + BETWEEN for s in steps), right, values))
    rng = random.Random(seed)
    for side in sides.values():
        rng.shuffle(side)
    wrong = min(len(sides[False]), max(count // 2, count - len(sides[True])))
    chosen = sides[False][:wrong] + sides[True][: count - wrong]
    if not chosen:
        raise ValueError(f"{source} has no labelled solution for {split}")
    return chosen, {s.problem_id: questions[s.problem_id] for s in chosen}


def read(source: str, folder: Path | None) -> Iterator[Row]:
    """Every labelled solution of a source. Raises ValueError where it cannot be had or is in another format."""
    kinds = {PRM800K: _prm800k, SHEPHERD: _shepherd}
    if source == PRM800K:
        found = files.rows(folder, "prm800k/*train.parquet", "tasksource/PRM800K", "train")
    elif source == SHEPHERD:
        found = files.rows(folder, "math_shepherd/*.jsonl", "peiyi9979/Math-Shepherd", "train")
    elif Path(source).is_file():
        found = files.rows(Path(source).parent, Path(source).name, "", "train")
    elif Path(source).suffix in (".json", ".jsonl", ".parquet") or "/" not in source:
        raise ValueError(f"--annotate.source {source}: no such file; give rollouts, {PRM800K}, {SHEPHERD}, a file or a hub name")
    else:
        found = files.rows(None, "a file in TRL's stepwise format", source, "train")
    try:
        for question, steps, labels in kinds.get(source, _trl)(found):
            if steps and len(steps) == len(labels):
                yield question.strip(), steps, labels
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"a row of {source} lacks a field: is it the published file, or in TRL's stepwise format?") from None


def _trl(rows: Iterable[dict]) -> Iterator[Row]:
    for row in rows:
        yield row["prompt"], list(row["completions"]), [bool(label) for label in row["labels"]]


def _prm800k(rows: Iterable[dict]) -> Iterator[Row]:
    """Its rows are single candidate steps behind the chosen ones before: a wrong one ends a solution with an error, a final
    one that is not wrong a right solution. A neutral rating (0) counts as right (Lightman et al. 2023, §2.6)."""
    for row in rows:
        if row["rating"] is not None and row["next_response"] and (row["rating"] < 0 or row["is_solution"]):
            before = list(row["responses"])
            yield row["instruction"], [*before, row["next_response"]], [True] * len(before) + [row["rating"] >= 0]


def _shepherd(rows: Iterable[dict]) -> Iterator[Row]:
    """`input` holds question and steps, a tag behind each step; `label` is the same text with + or - in the tags' places."""
    for row in rows:
        question, start, rest = row["input"].partition("Step 1:")
        parts = (start + rest).split(_MARK)
        steps, at, labels = [part.strip() for part in parts if part.strip()], len(question), []
        for part in parts[:-1]:  # walk through the label beside the input
            at += len(part)
            labels.append(row["label"][at : at + 1] == "+")
            at += 1
        yield question, steps, labels


def to_trl(annotated: Sequence[AnnotatedSolution], labels: Sequence[Sequence[bool]], questions: dict[str, str]) -> list[dict]:
    """Rows in TRL's stepwise-supervision format."""
    return [
        {"prompt": questions[s.problem_id], "completions": list(s.chunks), "labels": list(row)}
        for s, row in zip(annotated, labels, strict=True)
    ]
