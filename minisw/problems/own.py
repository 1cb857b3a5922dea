"""A user's own problems: a JSONL file with a line {"question": …, "answer": …, "id": …} for each; the id is optional."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from minisw.problems import files
from minisw.records import Problem

PARTS = 5  # one part in five is for testing, one for validation, the rest for training


def read_problems(path: Path) -> list[Problem]:
    """The problems in a file; one without an answer has "" there. Raises ValueError, in one line, for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    problems: dict[str, Problem] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            problem = _problem(json.loads(line), number)
        except (ValueError, RecursionError) as error:
            reason = error if type(error) is ValueError else "not JSON"
            raise ValueError(f"{path}:{number}: {reason}") from None
        if problem.id in problems:
            raise ValueError(f"{path}:{number}: a second problem with the id {problem.id!r}: give each an id of its own")
        problems[problem.id] = problem
    if not problems:
        raise ValueError(f'{path} holds no problem: give one a line, as {{"question": "…"}}')
    return list(problems.values())


def _problem(row: object, number: int) -> Problem:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise ValueError('a problem is an object with a "question", a text that is not empty')
    for key in ("id", "answer"):
        if isinstance(row.get(key), bool) or not isinstance(row.get(key), str | int | float | None):
            raise ValueError(f'"{key}" must be a text or a number')
    name = number if row.get("id") is None else row["id"]
    answer = "" if row.get("answer") is None else row["answer"]
    return Problem(str(name), row["question"].strip(), str(answer).strip())


def load_split(path: Path, split: str, count: int, seed: int) -> list[Problem]:
    """`count` problems of a split, shuffled by `seed`.

    A hash of its question decides which split a problem belongs to, so a test problem remains one when the file grows. Raises
    ValueError, in one line, for an unknown split, a problem without an answer, or too few problems.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"{path} has no split {split!r}: choose train, validation or test")
    problems = read_problems(path)
    without = next((p.id for p in problems if not p.answer), None)
    if without is not None:
        raise ValueError(f'{path}: problem {without!r} has no "answer": training and measuring need one for each')
    own = [p for p in problems if _split(p.question) == split]
    random.Random(seed).shuffle(own)
    return files.take(f"the {split} part of {path}", own, count)


def _split(question: str) -> str:
    part = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4]) % PARTS
    return {0: "test", 1: "validation"}.get(part, "train")
