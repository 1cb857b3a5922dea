"""The main command: all stages in order, each once.

    python -m minisw.reproduce [--preset tiny] [--seed 0] [--out runs/tiny-0] [--stage NAME] [--dry-run] [--judge.steps 60 …]
    python -m minisw.reproduce --study ablations|habits|components|data-efficiency|ladder|selection|search [--seeds 3] [--arms …]

    1 segment    the policy learns to write its reasoning in chunks                StepWiser §3.1
    2 annotate   every chunk gets a label from Monte-Carlo rollouts                §3.2
    3 judges     the classifier, RS-FT and GRPO, all on the same labels            §3.3
    4 evaluate   first-error F1 of every judge                                     §4.2
    5 search     chunk-reset search with the judge, and baselines                  §4.4
    6 report     claims.json and report.html

With --select.problems, stage select comes before the report: judges choose what the next policy is taught (§4.4).
Interrupted runs resume: rerun the same command. Finished stages are skipped.
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

from minisw.cli import Command, parse, stop
from minisw.pipeline import run_stage, stages_of
from minisw.progress import duration
from minisw.recipe import GENERATED, Recipe
from minisw.records import writes
from minisw.report.page import claims_table
from minisw.runs import Run
from minisw.stages import preflight, report
from minisw.study import STUDIES


def run(command: Command) -> None:
    """Run the stages that have not finished. Raises ValueError or OSError, in one line, if something prevents that."""
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in dataclasses.fields(Recipe)})
    folder = command.out or Path("runs") / f"{recipe.preset}-{recipe.seed}"
    stages = [command.stage] if command.stage else list(stages_of(recipe))
    if command.study:
        study_folder = command.out or Path("runs") / f"{command.study}-{recipe.preset}"
        quiet_libraries(recipe)
        console = Console(stderr=True, quiet=not writes())
        STUDIES[command.study].run(recipe, study_folder, command.seeds, console, command.arms)
        return
    if command.dry_run:
        print(plan(recipe, folder, stages))
        return
    quiet_libraries(recipe)
    console = Console(stderr=True, quiet=not writes())
    this = Run(recipe, folder, console)
    try:
        if not all(this.finished(name) for name in stages):
            preflight.check(this)
        for name in stages:
            run_stage(this, name)
        claims = folder / "claims.json"
        if claims.exists() and "report" in stages:
            report.run_stage(this)  # again, because the page also shows the time of the report stage
            console.print(claims_table(json.loads(claims.read_text(encoding="utf-8"))))
            console.print(f"{duration(this.facts['seconds'])} in all. Report: {folder / 'report.html'}", soft_wrap=True)
    finally:
        this.close()


def quiet_libraries(recipe: Recipe) -> None:
    """No network where everything is local, and no warnings of libraries about each other."""
    if Path(recipe.model.folder()).is_dir() and (recipe.problems.source in GENERATED or recipe.problems.data_dir):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft uses names that it will drop
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries; a failure ends in one line of ours


def plan(recipe: Recipe, folder: Path, stages: Sequence[str]) -> str:
    """What a run would do, a line for each stage."""
    problems, annotate_, judge, classifier = recipe.problems, recipe.annotate, recipe.judge, recipe.classifier
    select, order = recipe.select, stages_of(recipe)
    own, parts = problems.source in GENERATED, ", ".join(recipe.evaluate.parts)
    labels = (
        f"up to {annotate_.max_solutions} solutions of {annotate_.problems} problems × {annotate_.samples} samples and of "
        f"{problems.validation} for validation; {annotate_.branches} rollouts at every boundary; labels by {annotate_.rule}"
        if annotate_.source == "rollouts"
        else f"labels of up to {annotate_.max_solutions} solutions from {annotate_.source}"
    )
    lines = {
        "segment": f"{problems.test} test problems by base and policy; SFT on right solutions of {problems.train} problems × "
        f"{recipe.segment.samples} samples, {recipe.segment.training.epochs} epochs",
        "annotate": labels,
        "judges": f"up to {judge.labels} labels × {judge.passes} passes for {', '.join(judge.judges)}; classifier: up to "
        f"{classifier.max_lrs} learning rates × {classifier.max_epochs} epochs; GRPO: {judge.steps} steps of {judge.prompts} "
        f"prompts × {judge.group} replies",
        "evaluate": f"every judge, greedy and {recipe.evaluate.samples} times sampled, on {recipe.evaluate.solutions} "
        + ("test solutions with exact labels" if own else f"solutions of each part of ProcessBench ({parts})"),
        "search": f"{recipe.search.problems} test problems"
        + (f" and {problems.hard} harder ones" if problems.hard else "")
        + f", up to {recipe.search.tries} tries per chunk; baselines with the same number of tokens",
        "select": f"{select.rounds} × {select.problems} other training problems × {select.samples} samples; SFT on what "
        f"{', '.join(select.judges)} choose, and on what the outcome, the majority and exact labels choose",
        "report": "claims.json, report.html",
    }
    head = f"preset {recipe.preset}, seed {recipe.seed}, model {recipe.model.name}, problems {problems.source}; folder {folder}"
    return "\n".join([head, *(f"  {order.index(name) + 1} {name:9} {lines[name]}" for name in stages)])


def main() -> None:
    """Run the command line. Errors that the user can fix end in one line and exit status 2."""
    try:
        run(parse(sys.argv[1:]))
    except (ValueError, OSError) as error:
        stop(error)
    except KeyboardInterrupt:
        print("minisw: interrupted; rerun the same command to resume", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:  # safetensors and torch wrap a full disk in errors of their own
        if "No space left" in str(error) or "File too large" in str(error):
            stop(OSError(errno.ENOSPC, "No space left on device"))
        raise


if __name__ == "__main__":
    main()
