"""The files of the command: problems to solve, and the answers that an interrupted search has written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from minisw.records import Answer, Problem, read_jsonl, write_json


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


def digest(problems: Sequence[Problem]) -> str:
    """A fingerprint of the problems, by which a search recognises its own."""
    return hashlib.sha256(json.dumps([dataclasses.astuple(p) for p in problems]).encode()).hexdigest()


def finished_answers(out: Path, settings: dict, problems: Sequence[Problem]) -> list[Answer]:
    """The answers that an interrupted search with the same `settings` has written, none for a new one.

    The settings lie beside the answers, in OUT.settings.json. Raises ValueError if the file
    belongs to another search.
    """
    note = out.with_name(out.name + ".settings.json")
    if not out.exists():
        if not out.parent.is_dir():
            raise ValueError(f"no such folder: {out.parent}; make it, or give --out another file")
        write_json(note, settings)
        return []
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{out} exists and is no search that can be resumed: give --out a new file") from None
    changed = [key for key, value in settings.items() if not isinstance(before, dict) or before.get(key) != value]
    if changed:
        raise ValueError(f"{out} holds answers of another search (other {', '.join(changed)}): give --out a new file")
    answers = read_jsonl(out, Answer)
    whole = len(answers) % settings["batch"] == 0 or len(answers) == len(problems)
    if not whole or [a.problem_id for a in answers] != [p.id for p in problems[: len(answers)]]:
        raise ValueError(f"{out} has been changed: give --out a new file")
    return answers
