"""Grade a folder of submissions: a result file for each, which makes it resumable, then one table."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minisw.course import grade
from minisw.course.assignments import Assignment
from minisw.records import write_json

DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs cells that begin so


def grade_folder(
    assignment: Assignment, folder: Path, table: Path, jobs: int = 1, say: Callable = print, **options
) -> list[dict]:
    """Grade every student.py, zip or folder in `folder`, and write `table` with a row for each. Returns the results.

    Results lie in the folder TABLE.results; a submission that has not changed since its result is not graded again. `options`
    are variant, unsafe and seed; without a seed, that of the earlier results is used, else a new one. Errors of single
    submissions are rows, too.
    """
    results = table.with_name(f"{table.name}.results")
    results.mkdir(parents=True, exist_ok=True)
    students = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path != table and path != results)
    if (seed := options.pop("seed", None)) is None:
        seed = _earlier_seed(results)

    def one(path: Path) -> dict:
        file = results / f"{path.name}.json"
        try:
            texts = grade.read_submission(path)
        except ValueError as error:
            return {"student": path.name, "error": str(error)}
        wanted = {"assignment": assignment.name, "variant": options.get("variant", ""), "seed": seed}
        wanted |= {"grader": grade.VERSION, "sha256": grade.digest(texts)}
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if wanted.items() <= result.items():
                return result
        except (OSError, ValueError):  # not graded yet
            pass
        result = {"student": path.name, **grade.grade(assignment, texts, seed, **options)}
        write_json(file, result)
        say(f"{path.name}: {result['automatic']} of {result['of']['automatic']}")
        return result

    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(one, students))
    write_table(assignment, rows, table)
    return rows


def _earlier_seed(results: Path) -> int:
    file = results / ".seed"  # no student has a name that begins with a dot
    if not file.exists():
        write_json(file, secrets.randbelow(1 << 32))
    return json.loads(file.read_text(encoding="utf-8"))


def write_table(assignment: Assignment, rows: list[dict], table: Path) -> None:
    """A CSV file: student, total, points and status of each part, and why a submission could not be read."""
    names = [*(f.name for f in assignment.functions), "bugs"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "automatic", *(f"{name} {what}" for name in names for what in ("points", "status")), "error"])
    for row in rows:
        parts = {part["name"]: part for part in row.get("parts", [])}
        cells = [parts[name][what] if name in parts else "" for name in names for what in ("points", "status")]
        writer.writerow([cell(c) for c in [row["student"], row.get("automatic", 0), *cells, row.get("error", "")]])
    temporary = table.with_name(f"{table.name}.part")
    temporary.write_text(text.getvalue(), encoding="utf-8")
    temporary.replace(table)


def cell(value: object) -> str:
    """A value as the text of a cell that no spreadsheet runs and that has one line."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return f"'{text}" if isinstance(value, str) and str(value).startswith(DANGEROUS) else text
