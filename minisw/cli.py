"""The command line of `python -m minisw.reproduce`: a preset, changed by knobs, checked before anything runs.

Every field of `Recipe` is a flag (`--judge.steps 60`); its help is the text below the field in `recipe.py`. A mistake of the
user is one line on standard error and exit status 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from minisw.presets import PRESETS
from minisw.recipe import EMBEDDED, MADE, Recipe
from minisw.records import writes

STAGES = ("segment", "annotate", "judges", "evaluate", "search", "select", "report")


@dataclass(frozen=True)
class Command(Recipe):
    """Reproduce StepWiser: segment, annotate, train judges, evaluate, search, report. Interrupted runs resume: rerun the
    same command."""

    out: Path | None = None
    """Run folder; without it, runs/PRESET-SEED."""
    stage: str | None = None
    """Run only this stage: segment, annotate, judges, evaluate, search, select (with --select.problems) or report."""
    dry_run: bool = False
    """Print the plan and write nothing."""
    study: Literal["", "ablations", "habits", "components", "data-efficiency", "ladder", "selection", "search"] = ""
    """Compare arms over several seeds instead of a whole run (minisw/study/); --out is the study's folder."""
    arms: tuple[str, ...] = ()
    """Only these arms of the study (for search: methods; for selection: its two parts); without it, all."""
    seeds: int = 3
    """Seeds of a study, from --seed on."""


def parse(arguments: Sequence[str]) -> Command:
    """The command line as a `Command`. Raises ValueError, in one line, for an unknown flag, preset or stage and a bad value."""
    # --data-dir is short for --problems.data-dir; "--flag=value" becomes two arguments
    arguments = ["--problems." + a[2:] if a.split("=")[0] == "--data-dir" else a for a in arguments]
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
            raise ValueError(f"unknown flag {argument}: " + (f"did you mean {near[0]}?" if near else "see --help"))
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            command = tyro.cli(Command, default=default, args=list(arguments))
    except SystemExit:
        message = " ".join("".join(" " if c in "│─╭╮╰╯" else c for c in output.getvalue()).split())
        raise ValueError(f"cannot read the command line: {message[:300].strip()}") from None
    if command.stage is not None and command.stage not in STAGES:
        raise ValueError(f"unknown stage {command.stage!r}: choose one of {', '.join(STAGES)}")
    if command.stage == "select" and not command.select.problems:
        raise ValueError("--stage select has no problems to select on: give --select.problems")
    if command.out is not None and command.out.is_file():
        raise ValueError(f"--out {command.out} is a file: give a folder")
    if command.study and (command.stage or command.dry_run):
        raise ValueError("--study runs its own stages: leave out --stage and --dry-run")
    if command.arms and not command.study:
        raise ValueError("--arms belongs to a study: give --study too")
    if command.seeds < 1:
        raise ValueError(f"--seeds is {command.seeds}: it must be above 0")
    check(command)
    return command


# --- checks of a recipe ----------------------------------------------------------------------------------------------------

MOST = 10_000_000  # of anything that is counted: five times the paper's labels
LOWEST = {  # lowest value of a number; otherwise 1 for integers and above 0 for real numbers
    "--seed": 0,
    "--problems.max-steps": 0,
    "--problems.hard": 0,
    "--select.problems": 0,
    "--judge.kl": 0,
    "--judge.group": 2,  # advantages compare the replies of a group
    "--annotate.samples": 2,  # only problems with right and wrong solutions are annotated
    "--evaluate.resamples": 10,
}
HIGHEST = {  # highest value of a number; otherwise MOST for integers and none for real numbers
    "--seed": 2**63 - 1,
    "--judge.clip-low": 1,
    "--policy.temperature": 10,
    "--judge.temperature": 10,
}
LABEL_SOURCES = ("rollouts", "exact", MADE, "prm800k", "math_shepherd")


def check(recipe: Recipe) -> None:
    """Raises ValueError, in one line that names the knob, if a run of `recipe` could not work.

    What depends on the machine (memory, a GPU, the model's files) is checked by `stages/preflight.py`.
    """
    for flag, value in _flags(recipe, values=True):
        _check_value(flag, value)
    _check_model(recipe)
    _check_problems(recipe)
    _check_label_source(recipe)
    _check_judges(recipe)
    _check_select(recipe)


def _check_value(flag: str, value: object) -> None:
    """The value of one knob by itself: its range; for several values, that there is one and none is repeated."""
    if isinstance(value, tuple):
        if not value and flag != "--arms":
            raise ValueError(f"{flag} is empty: give at least one value")
        if len(set(value)) < len(value):
            raise ValueError(f"{flag} has a value twice: give each once")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        whole = isinstance(number, int)
        low, high = LOWEST.get(flag, 1 if whole else None), HIGHEST.get(flag, MOST if whole else math.inf)
        if flag.endswith((".lr", ".lrs")):
            high = 1
        if not math.isfinite(number):
            raise ValueError(f"{flag} is {number}: give a finite number")
        if number <= 0 if low is None else number < low:
            raise ValueError(f"{flag} is {number}: it must be {'above 0' if low in (None, 1) else f'at least {low}'}")
        if number > high:
            raise ValueError(f"{flag} is {number}: it must be at most {high}")


def _check_model(recipe: Recipe) -> None:
    model = recipe.model
    if not model.name:
        raise ValueError("--model.name is empty: give a folder, a hub name or embedded")
    if model.name == EMBEDDED and model.gguf_file:
        raise ValueError("--model.gguf-file is for another model than the embedded one: give --model.name too")
    if model.gguf_file and not model.gguf_file.endswith(".gguf"):
        raise ValueError(f"--model.gguf-file {model.gguf_file} is no GGUF file: give a name that ends with .gguf")
    halves = {"bf16", "fp16"}
    for flag, value in (("--model.autocast", model.autocast), ("--model.sampling-dtype", model.sampling_dtype)):
        if {model.dtype, value} == halves:
            raise ValueError(f"{flag} {value} does not go with --model.dtype {model.dtype}: give the same type, or fp32 weights")
    if model.four_bit and model.sampling_dtype not in ("", "auto"):
        raise ValueError("--model.sampling-dtype does not apply to 4-bit weights: leave it empty or leave out --model.four-bit")


def _check_problems(recipe: Recipe) -> None:
    problems = recipe.problems
    if problems.data_dir is not None and not problems.data_dir.is_dir():
        raise ValueError(f"--problems.data-dir {problems.data_dir} is no folder: give the folder with gsm8k/ and processbench/")
    if (problems.source == "file") != (problems.file is not None):
        raise ValueError("--problems.source file and --problems.file FILE belong together: give both")
    if problems.file is not None and not problems.file.is_file():
        raise ValueError(f"--problems.file {problems.file} is no file: give a JSONL file of problems")
    if problems.max_steps and problems.source not in ("gsm8k", "stories"):
        raise ValueError(f"--problems.max-steps is not for --problems.source {problems.source}: leave it at 0")
    if problems.source == "arithmetic":
        return
    for name in ("equations", "stories"):
        if (problems.source == name) != (problems.prompts == name):
            raise ValueError(f"--problems.source {name} and --problems.prompts {name} belong together: give both")
    if problems.hard:
        raise ValueError(f"{problems.source} has no harder problems: leave --problems.hard at 0")
    if problems.prompts == "arithmetic":
        raise ValueError(f"{problems.source} needs prompts in English: give --problems.prompts english")
    if recipe.segment.teacher == "rules" and problems.source != "stories":
        raise ValueError(f"{problems.source} has no rules for chunks: give --segment.teacher prompted or numbered")


def _check_label_source(recipe: Recipe) -> None:
    """A file that is missing is found here, and not after stage 1."""
    source = recipe.annotate.source
    if source == "exact" and recipe.problems.source not in ("arithmetic", "stories"):
        raise ValueError(f"{recipe.problems.source} has no exact labels: give --annotate.source rollouts")
    if (source == MADE) != (recipe.problems.source == "equations"):
        raise ValueError("--annotate.source made and --problems.source equations belong together: give both")
    if source in LABEL_SOURCES or Path(source).is_file():
        return
    is_path = Path(source).is_absolute() or Path(source).suffix in (".json", ".jsonl", ".parquet") or source.startswith(".")
    if is_path or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise ValueError(
            f"--annotate.source {source or repr(source)} is no file: give one of {', '.join(LABEL_SOURCES)}, "
            "a file, or a hub name (OWNER/NAME)"
        )


def _check_judges(recipe: Recipe) -> None:
    judges = recipe.judge.judges
    if "stepwiser" not in judges:
        raise ValueError("--judge.judges lacks stepwiser, whose judge the later stages use: name it too")
    wants_rejection_sampled = ["stepwiser_from_rs"] if recipe.judge.start == "base" else [j for j in judges if "stepwiser" in j]
    if "rejection_sampled" not in judges and (missing := [j for j in judges if j in wants_rejection_sampled]):
        raise ValueError(f"{missing[0]} starts from rejection_sampled: name it in --judge.judges too")


def _check_select(recipe: Recipe) -> None:
    missing = [judge for judge in recipe.select.judges if judge not in recipe.judge.judges]
    if recipe.select.problems and missing:
        raise ValueError(f"--select.judges names {missing[0]}, which is not trained: name it in --judge.judges too")


def _flags(recipe: object, prefix: str = "--", values: bool = False) -> Iterator:
    """Every flag of a recipe, the --no-… forms included; with `values`, pairs of a flag and its value, without these forms."""
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        name = prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, name + ".", values)
        elif values:
            yield name, value
        else:
            yield name
            if isinstance(value, bool):
                head, _, last = name.rpartition(".")
                yield f"{head}.no-{last}" if head else f"--no-{last[2:]}"


def stop(error: Exception) -> None:
    """Print the error as one line on standard error and exit with status 2."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = "the disk is full: make room and rerun the same command; finished work is kept"
    elif isinstance(error, PermissionError):
        message = f"no permission to write {error.filename}: give --out a folder that you own"
    process = "" if writes() else f" process {os.environ['RANK']}:"
    print(f"minisw:{process} {message}", file=sys.stderr)
    raise SystemExit(2) from None
