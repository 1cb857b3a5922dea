"""A class on one machine: is the gradebook true, does it survive a kill, and does a busy machine cost anyone points?

    python -m benchmarks.grading [--assignment a2] [--submissions 100] [--repeats 50] [--json FILE]

    1 a gradebook of submissions of four kinds is killed when half of them are graded, and started again
    2 the same gradebook, not interrupted: both tables must be equal, and every submission have the points of its kind
    3 the reference is graded many times with fresh seeds, while two busy processes compete for the cores

The kinds: the reference, the reference with one wrong version of one function, the untouched skeleton, and a file whose functions
all return None. Exits with status 1 if anything differs from what must be.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minisw.course import grade, mutants
from minisw.course.assignments import Assignment, all_assignments
from minisw.course.skeleton import student_file
from minisw.options import Parser
from minisw.records import write_json

SEED = 20261130  # of the gradebook
Range = tuple[float, float]  # lowest and highest
KINDS = ("reference", "one function wrong", "skeleton", "returns None")


def submission(assignment: Assignment, number: int) -> tuple[str, dict[str, Range]]:
    """A submission of the kind `number` % 4, and the points that each of its functions must get.

    A wrong function loses points, but not all of them if some of its relations hold.
    """
    full = {f.name: (float(f.points), float(f.points)) for f in assignment.functions}
    none = dict.fromkeys(full, (0.0, 0.0))
    kind = KINDS[number % len(KINDS)]
    if kind == "reference":
        return mutants.submission(assignment), full
    if kind == "one function wrong":
        pool = [m for m in assignment.load("mutants").MUTANTS if not (m.endless or m.large)]
        mutant = random.Random(number).choice(pool)
        return mutants.submission(assignment, mutant), full | {mutant.function: (0.0, full[mutant.function][1] - 0.1)}
    skeleton = student_file(assignment)
    if kind == "skeleton":
        return skeleton, none
    return skeleton.replace("raise NotImplementedError", "return None"), none


def gradebook(assignment: Assignment, folder: Path, table: Path, kill_after: int = 0) -> None:
    """Run the gradebook command; with `kill_after`, kill it when that many results exist."""
    words = ["gradebook", assignment.name, str(folder), "--csv", str(table), "--jobs", "2", "--seed", str(SEED)]
    process = subprocess.Popen([sys.executable, "-m", "minisw.course", *words], stdout=subprocess.DEVNULL)
    results = table.with_name(f"{table.name}.results")
    while process.poll() is None:
        time.sleep(0.2)
        if kill_after and results.is_dir() and len(list(results.glob("*.json"))) >= kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
    if process.returncode:
        raise SystemExit(f"the gradebook ended with {process.returncode}")


def wrong_rows(table: Path, expected: dict[str, dict[str, Range]]) -> list[str]:
    """Submissions whose points in the table are not those expected, a sentence each."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return [
        f"{student}, {function}: {rows[student][f'{function} points']}, which is not from {low:g} to {high:g}"
        for student, own in expected.items()
        for function, (low, high) in own.items()
        if not low <= float(rows[student][f"{function} points"]) <= high
    ]


def busy(parent: int) -> None:
    """Compute as long as the process `parent` lives, even if it is killed."""
    while os.getppid() == parent:
        sum(i * i for i in range(10_000))


def regrade(assignment: Assignment, times: int) -> list[float]:
    """The points of the reference's functions in `times` gradings with fresh seeds, beside two busy processes."""
    texts = {"student.py": mutants.submission(assignment), "counterexamples.json": "{}"}
    others = [multiprocessing.get_context("spawn").Process(target=busy, args=(os.getpid(),), daemon=True) for _ in range(2)]
    for process in others:
        process.start()
    try:
        results = [grade.grade(assignment, texts, seed) for seed in range(SEED, SEED + times)]
    finally:
        for process in others:
            process.terminate()
    return [sum(part["points"] for part in result["parts"] if part["name"] != "bugs") for result in results]


def measure(assignment: Assignment, submissions: int, repeats: int) -> dict:
    """All three parts; `problems` says what differs from what must be."""
    with tempfile.TemporaryDirectory() as made:
        folder, expected = Path(made) / "class", {}
        folder.mkdir()
        for number in range(submissions):
            name = f"student-{number:03}.py"
            source, expected[name] = submission(assignment, number)
            (folder / name).write_text(source, encoding="utf-8")
        interrupted, whole = Path(made) / "interrupted.csv", Path(made) / "whole.csv"
        gradebook(assignment, folder, interrupted, kill_after=max(1, submissions // 2))
        gradebook(assignment, folder, interrupted)
        start = time.perf_counter()
        gradebook(assignment, folder, whole)
        seconds = time.perf_counter() - start
        problems = wrong_rows(whole, expected)
        equal = interrupted.read_bytes() == whole.read_bytes()
    points = regrade(assignment, repeats)
    full = sum(f.points for f in assignment.functions)
    problems += [] if equal else ["the table of the gradebook that was killed differs"]
    problems += [f"grading {i} of the reference: {p} of {full} points" for i, p in enumerate(points) if p != full]
    return {
        "assignment": assignment.name,
        "submissions": submissions,
        "kinds": {kind: len(range(n, submissions, len(KINDS))) for n, kind in enumerate(KINDS)},
        "seconds": round(seconds, 1),
        "killed_and_restarted_equal": equal,
        "regraded": repeats,
        "regraded_in_full": sum(p == full for p in points),
        "problems": problems,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m benchmarks.grading", description=__doc__, formatter_class=raw)
    parser.add_argument("--assignment", default="a2", choices=tuple(all_assignments()))
    parser.add_argument("--submissions", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    found = measure(all_assignments()[options.assignment], options.submissions, options.repeats)
    print(json.dumps(found, indent=1))
    if options.json:
        write_json(options.json, found)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
