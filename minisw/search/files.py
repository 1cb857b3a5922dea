"""The answers that an interrupted search has written, and how it recognises its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from minisw.records import Answer, Problem, read_jsonl, write_json


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
