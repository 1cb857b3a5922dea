"""Grade one submission: every function by its relations, then the bugs found. Scores are made here, never in the worker."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from minisw.course import mutants
from minisw.course.assignments import BUG_POINTS, REPORT_POINTS, Assignment
from minisw.course.relations import failures, same, with_arguments
from minisw.course.skeleton import visible_modules
from minisw.verify.remote import Failure, Worker, plain
from minisw.verify.sandbox import SandboxMissing, missing_layers

VERSION = 1  # of the grader: results of another version are not comparable
LEAST_SECONDS, TIMES_REFERENCE = 5.0, 20.0  # a call may take the larger of the first and so many times the reference
LEAST_SECONDS_WITH_FUNCTIONS = 30.0  # a call that is given functions: each use of one waits twice for the other process
TOO_LONG = (
    f"a call may take {LEAST_SECONDS:.0f} s ({LEAST_SECONDS_WITH_FUNCTIONS:.0f} s if it is given functions), or "
    f"{TIMES_REFERENCE:.0f} times as long as ours; if other programs are busy, try again without them"
)
MAX_FILE = 2 << 20
MAX_NUMBERS, MAX_CHARACTERS = 12, 80  # of a counterexample
FILES = ("student.py", "counterexamples.json")


class ReferenceFails(RuntimeError):
    """The reference does not pass its own relations on this machine: nothing is graded."""


def read_submission(path: Path) -> dict[str, str]:
    """The texts of student.py and counterexamples.json in a folder or a zip, or a single file as student.py.

    Nothing is unpacked and no link is followed. Raises ValueError in one line for what cannot be read.
    """
    try:
        if path.is_symlink():
            raise OSError("it is a link")
        if path.is_dir():
            found = {name: _read(path / name) for name in FILES if os.path.lexists(path / name)}
        elif path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(_read(path))) as archive:
                found = {n: _checked(n, archive.open(n).read(MAX_FILE + 1)) for n in FILES if n in archive.namelist()}
        else:
            found = {"student.py": _read(path)}
        texts = {name: data.decode("utf-8") for name, data in found.items()}
    except Exception as error:  # a hostile zip raises errors of many kinds
        raise ValueError(f"{path} cannot be read: {error}") from None
    if "student.py" not in texts:
        raise ValueError(f"there is no student.py in {path}")
    return texts


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is not a plain file")
        return _checked(path.name, file.read(MAX_FILE + 1))


def _checked(name: str, data: bytes) -> bytes:
    if len(data) > MAX_FILE:
        raise OSError(f"{name} is larger than {MAX_FILE >> 20} MB")
    return data


def grade(assignment: Assignment, texts: dict[str, str], seed: int, variant: str = "", unsafe: bool = False) -> dict:
    """The result of a submission (`read_submission`) as plain values, with the seed that repeats it.

    Raises SandboxMissing where this machine cannot contain a submission, unless `unsafe`, and ReferenceFails.
    """
    lacking = missing_layers()
    if lacking and (not unsafe or "fork" in lacking):
        raise SandboxMissing(f"this machine cannot contain code; it lacks: {', '.join(lacking)} (--unsafe does without)")
    relations = assignment.load("relations").RELATIONS
    check_reference(assignment, relations, seed, variant)
    worker = Worker(visible_modules(assignment, assignment.settings(variant)), lacking)
    parts: list[dict] = []
    with contextlib.closing(worker):
        for function in assignment.functions:
            reference = mutants.function_of(assignment, function.name, variant=variant)
            begin, sentences = time.monotonic(), relations[function.name]
            failed = run_part(worker, texts["student.py"], function.name, reference, sentences, f"{seed}/{function.name}")
            held = 0 if sentences[0].__name__ in failed else len(sentences) - len(failed)  # without the anchor none counts
            parts.append(_part(function.name, function.points, held, len(sentences), failed, time.monotonic() - begin))
    parts.append(grade_bugs(assignment, texts.get("counterexamples.json", "{}"), variant, lacking))
    return {
        "assignment": assignment.name,
        "variant": variant,
        "seed": seed,
        "grader": VERSION,
        "sha256": digest(texts),
        "isolation": f"without {', '.join(lacking)}" if lacking else "full",
        "parts": parts,
        "automatic": round(sum(part["points"] for part in parts), 1),
        "manual": None,
        "of": {"automatic": 100 - REPORT_POINTS, "manual": REPORT_POINTS},
    }


def digest(texts: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def check_reference(assignment: Assignment, relations: dict, seed: int, variant: str) -> None:
    """Raise ReferenceFails if the reference does not pass all relations in this process."""
    for function in assignment.functions:
        reference = mutants.function_of(assignment, function.name, variant=variant)
        for name, (_, sentence) in failures(relations[function.name], reference, reference, f"{seed}/{function.name}").items():
            raise ReferenceFails(f"the reference of {function.name} fails here ({name}: {sentence}); nothing was graded")


def run_part(worker: Worker, source: str, name: str, reference: Callable, relations: list, seed: str) -> dict:
    """The failed relations (`relations.failures`) of one function of a source, run in the worker."""

    def limit(args, kwargs) -> float:
        # functions that count their calls are not to be called by the reference too; a layer of torch is data
        if any(callable(a) and not type(a).__module__.startswith("torch.") for a in args):
            return LEAST_SECONDS_WITH_FUNCTIONS
        begin = time.perf_counter()  # not CPU time: on a busy machine a right function waits as long as ours
        reference(*args, **kwargs)
        return max(LEAST_SECONDS, TIMES_REFERENCE * (time.perf_counter() - begin))

    def timed(ask: Callable, *request, seconds: float) -> object:
        try:
            return ask(name, *request, seconds)
        except Failure as failure:
            if failure.status == "time":
                raise Failure("time", f"{failure}: {TOO_LONG}") from None
            raise

    def call(*args, **kwargs):
        return timed(worker.call, args, kwargs, seconds=limit(args, kwargs))

    call.gradient = lambda position, args: timed(worker.gradient, args, position, seconds=limit(args, {}))
    try:
        worker.load(source)
    except Failure as failure:
        worker.end()
        sentence = f"student.py cannot be loaded: {failure}"
        return {relation.__name__: (failure.status, sentence) for relation in relations}
    failed = failures(relations, with_arguments(call), reference, seed)
    worker.end()
    return failed


def _part(name: str, of: int, held: int, tests: int, failed: dict[str, tuple[str, str]], seconds: float = 0) -> dict:
    """One part of a result: its points are shared among its tests, its status is that of the first one that failed."""
    return {
        "name": name,
        "points": round(of * held / tests, 1),
        "of": of,
        "status": next(iter(failed.values()))[0] if failed else "ok",
        "failed": {test: sentence for test, (_, sentence) in failed.items()},
        "seconds": round(seconds, 2),
    }


def grade_bugs(assignment: Assignment, text: str, variant: str, lacking: list[str]) -> dict:
    """The part "find the bug": a bug counts if right and wrong version give different results on the submitted arguments."""
    bugs = mutants.bugs(assignment, variant)
    failed: dict[str, str] = {}
    missing = "no arguments were submitted"
    try:
        examples = json.loads(text)
    except (ValueError, RecursionError) as error:
        examples, missing = None, f"counterexamples.json is no JSON: {error}"
    with contextlib.closing(Worker(visible_modules(assignment, assignment.settings(variant), whole=True), lacking)) as worker:
        for name, mutant in bugs.items():
            example = examples.get(name) if isinstance(examples, dict) else None
            if sentence := missing if example in (None, []) else _bad_example(example):
                failed[name] = sentence
                continue
            try:
                values = mutants.arguments(mutants.function_of(assignment, mutant.function, variant=variant), example)
            except (ValueError, TypeError, RuntimeError) as error:
                failed[name] = f"a list of numbers is no tensor: {plain(error)}"
                continue
            right = _result(worker, mutants.source_with(assignment, mutant.function, None, variant), mutant.function, values)
            wrong = _result(worker, mutants.source_with(assignment, mutant.function, mutant, variant), mutant.function, values)
            if isinstance(right, Failure):
                reason = re.sub(r" \(line \d+ of student\.py\)$", "", str(right))  # a line of the reference
                failed[name] = f"the right function does not take these arguments: {reason}"
            elif same(right, wrong):
                failed[name] = "both versions give the same result"
    told = {name: ("wrong", sentence) for name, sentence in failed.items()}
    return _part("bugs", BUG_POINTS, len(bugs) - len(failed), len(bugs), told)


def _bad_example(example: object) -> str:
    """Why arguments are refused, or an empty text."""
    numbers, characters, stack = 0, 0, [example]
    if not isinstance(example, list):
        return "the arguments must be a list"
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, str):
            characters += len(item)
        elif item is None or isinstance(item, bool) or (isinstance(item, int | float) and abs(item) <= 1000):
            numbers += 1
        else:
            return "only lists, texts, true, false and numbers up to 1000 are allowed"
    fits = numbers <= MAX_NUMBERS and characters <= MAX_CHARACTERS
    return "" if fits else f"more than {MAX_NUMBERS} numbers or {MAX_CHARACTERS} characters"


def _result(worker: Worker, source: str, name: str, arguments: tuple) -> object:
    """The value of a call, or the Failure."""
    try:
        worker.load(source)
        return worker.call(name, arguments, {}, LEAST_SECONDS)
    except Failure as failure:
        return failure
    finally:
        worker.end()
