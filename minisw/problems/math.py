"""MATH (Hendrycks et al. 2021) and NuminaMath-CoT (StepWiser's training set), both tested on MATH-500 (Lightman et al. 2023).

As in StepWiser §3.1, duplicates are dropped, and so are problems whose reference answer cannot be verified.
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
    """The published rows of "math" (its train split), "math500" or "numina": dicts with `problem` and `solution`."""
    if source == "math500":
        return files.rows(folder, "math500/test.jsonl", MATH500, "test")
    if source == "numina":
        return files.rows(folder, "numina/*.parquet", NUMINA, "train")
    if folder is not None:
        return files.rows(folder, "math/train*", MATH, "train")
    return [row for subject in SUBJECTS for row in files.rows(None, "math/train.jsonl", MATH, "train", subject)]


def problems(rows: Iterable[dict], name: str) -> Iterator[Problem]:
    """One problem for each question that has an answer; of equal questions the first.

    Raises ValueError if a row has other fields.
    """
    seen = set()
    for i, row in enumerate(rows):
        try:
            question, answer = row["problem"].strip(), row.get("answer") or final_answer(row["solution"])
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"a row of {name} has no problem or no solution: is it the published file?") from None
        key = _key(question)
        if answer and key not in seen:
            seen.add(key)
            yield Problem(f"{name}-{row.get('unique_id', i)}", question, answer.strip())


def _key(question: str) -> str:
    """The question without case and white space, to find duplicates."""
    return " ".join(question.lower().split())


def verifiable(problem: Problem) -> bool:
    """Whether the reference answer equals itself by algebra: a proof or a sentence does not."""
    if number(problem.answer) is not None or not algebra.installed():
        return True
    return algebra.equal(problem.answer, problem.answer)


def load_split(folder: Path | None, source: str, split: str, count: int, seed: int) -> list[Problem]:
    """`count` problems of a split of "math" or "numina", shuffled by `seed`.

    "test" is MATH-500, whose questions are removed from the other splits. "validation" is a fifth of what remains, "train"
    the rest. Raises ValueError for an unknown split, or if there are fewer problems.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"{source} has no split {split!r}: choose train, validation or test")
    test = list(problems(read(folder, "math500"), "math500"))
    rng = random.Random(seed)
    if split == "test":
        rng.shuffle(test)
        return files.take("MATH-500", test, count)
    test_keys = {_key(p.question) for p in test}
    others = [p for p in problems(read(folder, source), source) if _key(p.question) not in test_keys]
    rng.shuffle(others)
    cut = len(others) // 5
    part = others[:cut] if split == "validation" else others[cut:]
    kept: list[Problem] = []  # verified only until there are enough: each takes milliseconds, and NuminaMath has 860,000
    for problem in part:
        if len(kept) == count:
            break
        if verifiable(problem):
            kept.append(problem)
    return files.take(f"{source}'s {split} part", kept, count)
