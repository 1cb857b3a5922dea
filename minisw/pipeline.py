"""The stages of a run in order, and how one of them is run once."""

from __future__ import annotations

from collections.abc import Callable

from minisw.recipe import MADE, Recipe
from minisw.runs import Run
from minisw.stages import annotate, evaluate, judges, report, search, segment, select

STAGE_FUNCTIONS: dict[str, Callable[[Run], None]] = {
    "segment": segment.run_stage,
    "annotate": annotate.run_stage,
    "judges": judges.run_stage,
    "evaluate": evaluate.run_stage,
    "search": search.run_stage,
    "select": select.run_stage,
    "report": report.run_stage,
}
NEEDS = {"select": ("segment", "annotate", "judges"), "report": ()}  # the report can show an unfinished run
WITHOUT_POLICY = ("annotate", "judges", "evaluate", "report")


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """The stages of a run in order. Stage select is one of them only if it has problems.

    A task whose solutions are made by rule has no policy, so what needs one is left out.
    """
    if recipe.annotate.source == MADE:
        return WITHOUT_POLICY
    return tuple(name for name in STAGE_FUNCTIONS if name != "select" or recipe.select.problems)


def run_stage(run: Run, name: str) -> None:
    """Run one stage unless it has finished.

    Raises ValueError if the recipe has no such stage, or if a stage that it needs has not finished.
    """
    stages = stages_of(run.recipe)
    if name not in stages:
        raise ValueError(f"this recipe has no stage {name}: choose from {', '.join(stages)}")
    number = stages.index(name) + 1
    missing = [earlier for earlier in NEEDS.get(name, stages[: number - 1]) if not run.finished(earlier)]
    if missing:
        raise ValueError(f"stage {name} needs the results of {missing[0]}: run --stage {missing[0]} first, or leave --stage out")
    with run.stage(name) as needed:
        run.console.print(f"[bold]{number}/{len(stages)} {name}[/]" + ("" if needed else "  finished before"))
        if needed:
            STAGE_FUNCTIONS[name](run)
