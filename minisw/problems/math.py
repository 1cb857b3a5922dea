"""MATH (Hendrycks et al. 2021) with MATH-500 (Lightman et al. 2023) as its test, and NuminaMath-CoT, StepWiser's training set.

Preprocessing as in StepWiser §3.1: duplicates go, and so does what cannot be verified against its own reference.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from minisw.problems import files
from minisw.records import Problem
from minisw.verify import algebra
from minisw.verify.answers import final_answer, number

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


MATH, MATH500, NUMINA = "EleutherAI/hendrycks_math", "HuggingFaceH4/MATH-500", "AI-MO/NuminaMath-CoT"


def read(folder: Path | None, source: str) -> list[dict]:
    """The published rows of "math" (its train split), "math500" or "numina": dicts with problem and solution."""
    if source == "math500":
        return files.rows(folder, "math500/test.jsonl", MATH500, "test")
    if source == "numina":
        return files.rows(folder, "numina/*.parquet", NUMINA, "train")
    if folder is not None:
        return files.rows(folder, "math/train*", MATH, "train")
    return [row for subject in SUBJECTS for row in files.rows(None, "math/train.jsonl", MATH, "train", subject)]


def problems(rows: Iterable[dict], name: str) -> Iterator[Problem]:
    """A problem for every row that has an answer, each question once. Raises ValueError where the rows are another set's."""
    seen = set()
    for at, row in enumerate(rows):
        try:
            question, answer = row["problem"].strip(), row.get("answer") or final_answer(row["solution"])
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"a row of {name} has no problem or no solution: is it the published file?") from None
        key = " ".join(question.lower().split())
        if answer and key not in seen:
            seen.add(key)
            yield Problem(f"{name}-{row.get('unique_id', at)}", question, answer.strip())


def verifiable(problem: Problem) -> bool:
    """Whether the reference answer verifies against itself: a proof or a whole sentence does not, by algebra."""
    if number(problem.answer) is not None or not algebra.installed():
        return True
    return algebra.equal(problem.answer, problem.answer)


def load_split(folder: Path | None, source: str, split: str, count: int, seed: int) -> list[Problem]:
    """`count` problems of "math" or "numina"; "train" and "validation" are parts of its own, "test" is MATH-500, whose
    questions are taken out of the others. Raises ValueError for an unknown split or where too few problems are there."""
    if split not in ("train", "validation", "test"):
        raise ValueError(f"{source} has no split {split!r}: choose train, validation or test")
    test = list(problems(read(folder, "math500"), "math500"))
    rng = random.Random(seed)
    if split == "test":
        rng.shuffle(test)
        return files.picked("MATH-500", test, count)
    hidden = {" ".join(p.question.lower().split()) for p in test}
    found = [p for p in problems(read(folder, source), source) if " ".join(p.question.lower().split()) not in hidden]
    rng.shuffle(found)
    cut = len(found) // 5
    part = found[:cut] if split == "validation" else found[cut:]
    kept: list[Problem] = []  # checked only as far as they are wanted: a check takes milliseconds, and there may be 860,000
    for problem in part:
        if len(kept) == count:
            break
        if verifiable(problem):
            kept.append(problem)
    return files.picked(f"{source}'s {split} part", kept, count)
