"""The whole cycle in one command: segment → annotate → judge → evaluate → search → report.

    python -m minisw.reproduce [--preset tiny] [--seed 0] [--out runs/tiny] [--stage NAME] [--dry-run] [--judge.steps 60 …]

A finished stage is not run again; a run that was killed at any moment goes on from where it was.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from minisw.cli import STAGES, Command, parse, stop
from minisw.recipe import Recipe
from minisw.records import writes
from minisw.report.page import claims_table
from minisw.runs import Run
from minisw.stages import annotate, evaluate, judges, preflight, report, search, segment


def stage_functions() -> dict:
    return dict(
        zip(
            STAGES,
            (
                segment.run_stage,
                annotate.run_stage,
                judges.run_stage,
                evaluate.run_stage,
                search.run_stage,
                report.run_stage,
            ),
            strict=True,
        )
    )


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

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of peft's use of it, not of ours
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries: where they fail we say so, in one line
    console = Console(stderr=True, quiet=not writes())
    this = Run(recipe, folder, console)
    if not all(this.finished(name) for name in stages):
        preflight.check(this)
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
        console.print(claims_table(json.loads(claims.read_text(encoding="utf-8"))))
        console.print(f"{this.facts['seconds']:.0f} s in all. The report: {folder / 'report.html'}")


def plan(recipe: Recipe, folder: Path, stages: Sequence[str]) -> str:
    """What a run would do, in words."""
    p, a, j, e, s = recipe.problems, recipe.annotate, recipe.judge, recipe.evaluate, recipe.search
    words = {
        "segment": f"{p.test} test problems by the base; SFT on right solutions of {p.train} × {recipe.segment.samples}",
        "annotate": f"{min(p.train, a.problems)} + {p.validation} problems × {a.samples} solutions; "
        f"up to {a.max_solutions} annotated, M = {a.branches} at every boundary; rule {a.rule}",
        "judges": f"{j.passes} balanced passes of up to {j.labels} labels; classifier: "
        f"up to {recipe.classifier.max_lrs} learning rates × {recipe.classifier.max_epochs} epochs; RS-FT; "
        f"GRPO {j.steps} steps × {j.prompts} prompts × {j.group}"
        + ("; RS-FT and GRPO again with a tenth of the labels" if j.tenth else ""),
        "evaluate": f"{e.solutions} solutions (of each part, with ProcessBench), every judge",
        "search": f"{s.problems} problems, {s.tries} tries a chunk; baselines at the same tokens"
        + (f"; {p.hard} harder problems" if p.hard else ""),
        "report": "tables.json, report.html",
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


if __name__ == "__main__":
    main()
