"""TODO."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.records import writes

STAGES = ("segment", "annotate", "judges", "evaluate", "search", "report")


@dataclass(frozen=True)
class Command(Recipe):
    """Reproduce the cycle of StepWiser: segment, annotate, judge, evaluate, search, report."""

    out: Path | None = None
    """The run folder; runs/PRESET-SEED where it is not given."""
    stage: str | None = None
    """Run this stage alone: segment, annotate, judges, evaluate, search or report."""
    dry_run: bool = False
    """Say what would be run, and write nothing."""


def parse(arguments: Sequence[str]) -> Command:
    """The command line as a `Command`. Raises ValueError, in one line, for an unknown preset, knob or value."""

    arguments = ["--problems." + a[2:] if a.startswith("--data-dir") else a for a in arguments]  # the one knob with a short name
    arguments = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--") and "=" in a else [a])]
    preset = "tiny"
    if "--preset" in arguments:
        preset = next(iter(arguments[arguments.index("--preset") + 1 :]), "")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    default = Command(**{f.name: getattr(PRESETS[preset], f.name) for f in dataclasses.fields(Recipe)})
    if {"-h", "--help"} & set(arguments):
        return tyro.cli(Command, default=default, prog="python -m minisw.reproduce", args=["--help"])
    known = list(_flags(default))
    for argument in arguments:
        if argument.startswith("--") and argument.replace("_", "-") not in known:
            near = difflib.get_close_matches(argument, known, 1)
            raise ValueError(f"unknown knob {argument}" + (f": did you mean {near[0]}?" if near else ": see --help"))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            command = tyro.cli(Command, default=default, args=list(arguments))
    except SystemExit:
        words = " ".join(said.getvalue().replace("│", " ").split())
        words = "".join(c for c in words if c not in "─╭╮╰╯")
        raise ValueError(f"cannot read the command line: {words[:300].strip()}") from None
    if command.stage is not None and command.stage not in STAGES:
        raise ValueError(f"unknown stage {command.stage!r}: choose one of {', '.join(STAGES)}")
    check(command)
    return command


MAY_BE_ZERO = {"--seed", "--problems.max-steps", "--problems.hard", "--judge.kl"}


def check(recipe: Recipe) -> None:
    """Raises ValueError for a knob that cannot be: so now, and not after an hour."""
    for name, value in _flags(recipe, values=True):
        numbers = [v for v in (value if isinstance(value, tuple) else [value]) if isinstance(v, int | float)]
        if any(v < 0 or (v == 0 and not isinstance(v, bool) and name not in MAY_BE_ZERO) for v in numbers):
            raise ValueError(f"{name} is {value}: it must be above 0")
    if recipe.judge.group < 2:
        raise ValueError("--judge.group is 1: a sample is compared with the others of its group, so it must be at least 2")
    if recipe.problems.source != "arithmetic":
        for name, found, wanted in (
            ("--problems.prompts", recipe.problems.prompts, ("english",)),
            ("--segment.teacher", recipe.segment.teacher, ("prompted", "numbered")),
        ):
            if found not in wanted:
                raise ValueError(f"{recipe.problems.source} has nothing for {name} {found}: give {name} {' or '.join(wanted)}")


def _flags(value: object, prefix: str = "--", values: bool = False):
    """Every flag of a recipe; with `values` pairs of a flag and what it says."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        name = prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(inner):
            yield from _flags(inner, name + ".", values)
        elif values:
            yield name, inner
        else:
            yield name
            if isinstance(inner, bool):
                head, _, last = name.rpartition(".")
                yield f"{head}.no-{last}" if head else f"--no-{last[2:]}"


def stop(error: Exception) -> None:
    """One line on standard error, exit status 2."""
    words = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        words = "the disk is full: make room and run the same command again; what is written stays"
    elif isinstance(error, PermissionError):
        words = f"no right to write {error.filename}: give --out a folder of yours"
    process = "" if writes() else f" process {os.environ['RANK']}:"
    print(f"minisw:{process} {words}", file=sys.stderr)
    raise SystemExit(2) from None
