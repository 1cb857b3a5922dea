"""The ladder: where does a small real chat model start to learn to judge? The same judges on tasks of rising difficulty.

    rung-1   single equations of two digits, exact labels       rung-4   GSM8K problems with at most two lines
    rung-2   stories of one step, labels by own rollouts        rung-5   GSM8K
    rung-3   stories of up to three steps

Each rung is a preset (presets.py), of which the study takes everything but the model and the data folder. A rung with a seed is
a run of its own, without stage search; an interrupted study resumes where it was.

    OUT/RUNG-SEED/          the run, with claims.json and report.html
    OUT/results.json        a row for each rung, seed and judge, and the trend of the reward in each GRPO
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from minisw.cli import check
from minisw.evaluate.stats import slope
from minisw.pipeline import run_stage, stages_of
from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.records import write_json
from minisw.runs import Run
from minisw.study.base import check_arms, print_tables

RUNGS = tuple(name for name in PRESETS if name.startswith("rung-"))
LEFT_OUT = ("search", "select")
FIGURES = (
    *("name", "f1", "interval", "balanced_accuracy", "unparseable", "tokens_per_step"),
    *("f1_sampled", "interval_sampled", "f1_majority", "labels"),
)


@dataclass(frozen=True)
class LadderStudy:
    """The study of `RUNGS`; its arms are the rungs."""

    name: str = "ladder"
    title: str = "Where does a small chat model start to learn to judge?"

    def run(self, recipe: Recipe, folder: Path, seeds: int, console: Console, only: Sequence[str] = ()) -> None:
        """Run every rung with every seed, then write results.json and print its table. Finished runs are read.

        `only`: the rungs to run; empty for all. Raises ValueError for an unknown rung, for knobs that the rungs would not take,
        and for a recipe that could not work.
        """
        check_arms(self.name, RUNGS, only)
        check_knobs(recipe)
        recipes = [rung_recipe(rung, recipe, recipe.seed + n) for rung in only or RUNGS for n in range(seeds)]
        for each in recipes:
            check(each)
        folder.mkdir(parents=True, exist_ok=True)
        for each in recipes:
            run_rung(each, folder / f"{each.preset}-{each.seed}", console)
            write_json(folder / "results.json", results(self, folder))
        print_tables(folder, console)


def check_knobs(recipe: Recipe) -> None:
    """Raises ValueError if `recipe` sets a knob that the rungs do not take from it."""
    default = PRESETS[recipe.preset]
    taken = {"name": default.model.name, "gguf_file": default.model.gguf_file, "device": default.model.device}
    rest = dataclasses.replace(
        recipe,
        seed=default.seed,
        model=dataclasses.replace(recipe.model, **taken),
        problems=dataclasses.replace(recipe.problems, data_dir=default.problems.data_dir),
    )
    if rest != default:
        raise ValueError(
            "study ladder has its knobs from the presets rung-1 to rung-5: give --model.name, --model.gguf-file, --model.device, "
            "--problems.data-dir, --seed and --seeds only; for other knobs run one rung with --preset"
        )


def rung_recipe(rung: str, recipe: Recipe, seed: int) -> Recipe:
    """The preset of a rung with the model and the data folder of `recipe`; a recipe with the embedded model leaves the preset's.

    Of the model, its name and files are taken; number types and batch sizes are the preset's.
    """
    preset = PRESETS[rung]
    model = preset.model
    if recipe.model.name != Recipe().model.name:
        model = dataclasses.replace(model, name=recipe.model.name, gguf_file=recipe.model.gguf_file, device=recipe.model.device)
    problems = dataclasses.replace(preset.problems, data_dir=recipe.problems.data_dir)
    return dataclasses.replace(preset, seed=seed, model=model, problems=problems)


def run_rung(recipe: Recipe, folder: Path, console: Console) -> None:
    """All stages of a run but search, each once."""
    stages = [stage for stage in stages_of(recipe) if stage not in LEFT_OUT]
    if (folder / "claims.json").exists():
        return
    console.print(f"[bold]ladder: {recipe.preset}[/], seed {recipe.seed}")
    run = Run(recipe, folder, console)
    try:
        for stage in stages:
            run_stage(run, stage)
    finally:
        run.close()


def results(study: LadderStudy, folder: Path) -> dict:
    """What has been measured so far: a row for each judge, and one for each claim, of each finished run."""
    rows, claims = [], []
    for path in sorted(folder.glob("rung-*/claims.json")):
        rung, _, seed = path.parent.name.rpartition("-")
        run = {"rung": rung, "seed": int(seed)}
        rows += [run | row for row in judge_rows(path.parent)]
        measured = [claim for claim in json.loads(path.read_text(encoding="utf-8")) if claim["measured"] is not None]
        claims += [run | {key: claim[key] for key in ("id", "claim", "measured", "interval", "outcome")} for claim in measured]
    return {"study": study.name, "title": study.title, "ladder": rows, "claims": claims, "contrasts": []}


def judge_rows(folder: Path) -> list[dict]:
    """A row for each judge of a run; one trained by GRPO also has the trend of its reward: what a step adds, and its interval."""
    read = {part: json.loads((folder / part / "metrics.json").read_text(encoding="utf-8")) for part in ("judges", "evaluate")}
    rows = []
    for judge in read["evaluate"]["rows"]:
        row = {key: judge[key] for key in ("id", *FIGURES) if key in judge}
        curve = read["judges"].get(judge["id"], {}).get("curve") or []
        if curve and "reward" in curve[0]:
            rewards = [step["reward"] for step in curve]
            trend, interval = slope(rewards)
            row |= {"first_reward": rewards[0], "last_reward": rewards[-1], "trend": trend, "trend_interval": interval}
        rows.append(row)
    return rows
