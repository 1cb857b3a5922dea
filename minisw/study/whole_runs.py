"""Studies of whole runs: for each seed a run with labels and judges, and measurements of policies and searches.

Each arm is one measurement, whose rows go into tables by name. Everything is saved, and an interrupted study resumes: an arm
that has finished is read, and what an unfinished arm has made is a file in its run folder. The unit of a contrast is the seed.

    OUT/run-SEED/               stages segment, annotate and judges, and what the arms make
    OUT/run-SEED/arms.json      the rows of finished arms
    OUT/results.json            all rows, by table, and contrasts
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from minisw.cli import check
from minisw.pipeline import run_stage
from minisw.recipe import Recipe
from minisw.records import write_json
from minisw.runs import Run
from minisw.study.base import Change, check_arms, print_tables

Tables = dict[str, list[dict]]  # rows by the name of their table
STAGES = ("segment", "annotate", "judges")


@dataclass(frozen=True)
class RunStudy:
    """A study of whole runs.

    `change` makes a run's recipe from the study's. `measure(run, arm)` returns the rows of one arm; `contrasts(tables)` the
    contrasts of results.json (`base.over_seeds`), from rows that also have their "seed" and "arm".
    """

    name: str
    title: str
    arms: tuple[str, ...]
    change: Change
    measure: Callable[[Run, str], Tables]
    contrasts: Callable[[Mapping[str, Sequence[dict]]], list[dict]]

    def run(self, recipe: Recipe, folder: Path, seeds: int, console: Console, only: Sequence[str] = ()) -> None:
        """Measure every arm with every seed, then write results.json and print its tables. Finished arms are read.

        `only`: the arms to measure; empty for all. What was measured earlier is in the results in any case. Raises ValueError
        for an unknown arm, and for a recipe that could not work.
        """
        check_arms(self.name, self.arms, only)
        check(self.change(recipe))
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(recipe.seed, recipe.seed + seeds):
            self._run_seed(dataclasses.replace(recipe, seed=seed), folder / f"run-{seed}", only or self.arms, console)
            write_json(folder / "results.json", self.results(folder))
        print_tables(folder, console)

    def _run_seed(self, recipe: Recipe, folder: Path, wanted: Sequence[str], console: Console) -> None:
        """Measure the arms that have not finished; each is saved when it has."""
        if all(arm in read_arms(folder) for arm in wanted):
            return
        run = Run(self.change(recipe), folder, console)
        try:
            for stage in STAGES:
                run_stage(run, stage)
            for arm in self.arms:
                finished = read_arms(folder)
                if arm in wanted and arm not in finished:
                    console.print(f"[bold]{self.name}: {arm}[/], seed {recipe.seed}")
                    write_json(folder / "arms.json", finished | {arm: self.measure(run, arm)})
        finally:
            run.close()

    def results(self, folder: Path) -> dict:
        """What has been measured so far, in the order of seed and arm."""
        tables: Tables = {}
        runs = {int(path.parent.name.removeprefix("run-")): path.parent for path in folder.glob("run-*/arms.json")}
        for seed in sorted(runs):
            measured = read_arms(runs[seed])
            for arm in [arm for arm in self.arms if arm in measured]:
                for table, rows in measured[arm].items():
                    tables.setdefault(table, []).extend({"seed": seed, "arm": arm, **row} for row in rows)
        return {"study": self.name, "title": self.title, **tables, "contrasts": self.contrasts(tables)}


def read_arms(folder: Path) -> dict[str, Tables]:
    """The rows of the finished arms of a run, by arm."""
    path = folder / "arms.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
