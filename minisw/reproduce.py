"""The whole cycle in one command: segment → annotate → judge → evaluate → search → report.

    python -m minisw.reproduce [--preset tiny] [--seed 0] [--out runs/tiny] [--stage NAME] [--dry-run] [--judge.steps 60 …]

A finished stage is not run again; a run that was killed at any moment goes on from where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.records import writes

STAGES = ("segment", "annotate", "classifier", "judge", "evaluate", "search", "report")


@dataclass(frozen=True)
class Command(Recipe):
    """Reproduce the cycle of StepWiser: segment, annotate, judge, evaluate, search, report."""

    out: Path | None = None
    """The run folder; runs/PRESET-SEED where it is not given."""
    stage: str | None = None
    """Run this stage alone: segment, annotate, classifier, judge, evaluate, search or report."""
    dry_run: bool = False
    """Say what would be run, and write nothing."""


def stage_functions() -> dict:
    from minisw import annotate, claims, evaluate, search, segment
    from minisw.judges import discriminative, generative

    return dict(
        zip(
            STAGES,
            (
                segment.run_stage,
                annotate.run_stage,
                discriminative.run_stage,
                generative.run_stage,
                evaluate.run_stage,
                search.run_stage,
                claims.run_stage,
            ),
            strict=True,
        )
    )


def parse(arguments: Sequence[str]) -> Command:
    """The command line as a `Command`. Raises ValueError, in one line, for an unknown preset, knob or value."""
    import tyro

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
            ("--evaluate.source", recipe.evaluate.source, ("processbench",)),
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


def run(command: Command) -> None:
    """Run the stages that are not finished yet. Raises ValueError or OSError where something is in the way."""
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in dataclasses.fields(Recipe)})
    folder = command.out or Path("runs") / f"{recipe.preset}-{recipe.seed}"
    stages = [command.stage] if command.stage else list(STAGES)
    if command.dry_run:
        print(plan(recipe, folder, stages))
        return
    if Path(recipe.model.folder()).is_dir() and (recipe.problems.source == "arithmetic" or recipe.problems.data_dir):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from rich.console import Console

    from minisw import memory
    from minisw.report import table
    from minisw.runs import Run

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of peft's use of it, not of ours
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries: where they fail we say so, in one line
    console = Console(stderr=True, quiet=not writes())
    this = Run(recipe, folder, console)
    if not all(this.finished(name) for name in stages):
        memory.check(this)
    functions = stage_functions()
    for number, name in enumerate(STAGES, 1):
        if name not in stages:
            continue
        missing = [before for before in STAGES[: number - 1] if not this.finished(before)]
        if missing and name != "report":  # the report says itself what has not been run
            raise ValueError(f"stage {name} needs what {missing[0]} makes: run --stage {missing[0]} first, or leave --stage out")
        with this.stage(name) as needed:
            console.print(f"[bold]{number}/{len(STAGES)} {name}[/]" + ("" if needed else "  done before"))
            if needed:
                functions[name](this)
    claims = folder / "claims.json"
    if claims.exists() and "report" in stages:
        functions["report"](this)  # once more, so that the page shows the report's own time
        console.print(table(json.loads(claims.read_text(encoding="utf-8"))))
        console.print(f"{this.facts['seconds']:.0f} s in all. The report: {folder / 'report.html'}")


def plan(recipe: Recipe, folder: Path, stages: Sequence[str]) -> str:
    """What a run would do, in words."""
    p, a, j, e, s = recipe.problems, recipe.annotate, recipe.judge, recipe.evaluate, recipe.search
    words = {
        "segment": f"{p.test} test problems by the base; SFT on right solutions of {p.train} × {recipe.segment.samples}",
        "annotate": f"{min(p.train, a.problems)} + {p.validation} problems × {a.samples} solutions; "
        f"up to {a.max_solutions} annotated, M = {a.branches} at every boundary; rule {a.rule}",
        "classifier": f"{j.passes} balanced passes of up to {j.labels} labels; {len(recipe.classifier.lrs)} learning rates × "
        f"{recipe.classifier.epochs} epochs, chosen on validation",
        "judge": f"SFT on the base's analyses that agree with the labels; GRPO {j.steps} steps × {j.prompts} prompts × {j.group}"
        + ("; again with a tenth of the labels" if j.tenth else ""),
        "evaluate": f"{e.solutions} solutions ({e.source} labels), every judge",
        "search": f"{s.problems} problems, {s.tries} tries a chunk; baselines at the same tokens"
        + (f"; {p.hard} harder problems" if p.hard else ""),
        "report": "claims.json, report.html",
    }
    lines = [f"preset {recipe.preset}, seed {recipe.seed}, model {recipe.model.name}, problems {p.source} → {folder}"]
    return "\n".join(lines + [f"  {STAGES.index(name) + 1} {name:10} {words[name]}" for name in stages])


def main() -> None:
    try:
        run(parse(sys.argv[1:]))
    except (ValueError, OSError) as error:
        stop(error)
    except KeyboardInterrupt:
        print("minisw: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:  # safetensors and torch wrap a full disk in errors of their own
        if "No space left" in str(error) or "File too large" in str(error):
            stop(OSError(errno.ENOSPC, "No space left on device"))
        raise


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


if __name__ == "__main__":
    main()
