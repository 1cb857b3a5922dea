"""The stages of a run in order, and how one of them is run once."""

from __future__ import annotations

from collections.abc import Callable

from minisw.runs import Run
from minisw.stages import annotate, evaluate, judges, report, search, segment

STAGE_FUNCTIONS: dict[str, Callable[[Run], None]] = {
    "segment": segment.run_stage,
    "annotate": annotate.run_stage,
    "judges": judges.run_stage,
    "evaluate": evaluate.run_stage,
    "search": search.run_stage,
    "report": report.run_stage,
}
STAGES = tuple(STAGE_FUNCTIONS)


def run_stage(run: Run, name: str) -> None:
    """Run one stage unless it has finished. Raises ValueError if an earlier stage has not finished."""
    number = STAGES.index(name) + 1
    missing = [earlier for earlier in STAGES[: number - 1] if not run.finished(earlier)]
    if missing and name != "report":  # the report can show an unfinished run
        raise ValueError(f"stage {name} needs the results of {missing[0]}: run --stage {missing[0]} first, or leave --stage out")
    with run.stage(name) as needed:
        run.console.print(f"[bold]{number}/{len(STAGES)} {name}[/]" + ("" if needed else "  finished before"))
        if needed:
            STAGE_FUNCTIONS[name](run)
