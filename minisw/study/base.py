"""What all studies have in common: arms that differ in one setting, trained and measured with several seeds.

For each seed, one run for each set of labels makes the labels; the first also makes the test solutions. Each arm is a folder
beside it: judges trained on these labels with some settings changed, and measured on these test solutions. Everything is saved,
and an interrupted study resumes with the judge that was not finished. The unit of a contrast between two arms is the seed.

    OUT/labels-NAME-SEED/   a run that made labels (stages segment and annotate)
    OUT/ARM-SEED/           the judges of one arm, with result.json
    OUT/results.json        all rows and contrasts
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from minisw.engine.usage import counted
from minisw.evaluate.metrics import sampled, score
from minisw.evaluate.stats import mean, t_interval
from minisw.judges import registry
from minisw.judges.generative import GenerativeJudge
from minisw.judges.self_supervised import SELF_SUPERVISED
from minisw.judges.stepwiser import STEPWISER
from minisw.pipeline import run_stage
from minisw.recipe import Recipe
from minisw.records import BenchItem, write_json
from minisw.report.tables import STUDY_TABLES
from minisw.runs import Run
from minisw.stages.evaluate import habits, judge_items, load_items, sample_items, up_to_error
from minisw.stages.judges import judge_trainer

Change = Callable[[Recipe], Recipe]
FIGURES = ("f1", "interval", "accuracy_error", "accuracy_correct", "balanced_accuracy", "unparseable", "tokens_per_step")
OWN = "own"  # an arm with a segmentation and labels of its own


def unchanged(recipe: Recipe) -> Recipe:
    """The recipe as it is."""
    return recipe


@dataclass(frozen=True)
class Arm:
    """One setting. `change` makes its recipe from the study's; `labels` names one of the study's sets of labels, or `OWN`.

    `judges`: those that are trained in this arm; empty for the study's.
    """

    id: str
    title: str
    change: Change = unchanged
    labels: str = ""
    judges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """A claim: F1 of `a` is higher than F1 of `b`. Each is an arm and a judge, as "ARM/JUDGE"; `figures` are the F1s compared."""

    id: str
    claim: str
    a: str
    b: str
    source: str
    paper: float | None = None  # the paper's difference
    figures: tuple[str, ...] = ("f1", "f1_sampled")


@dataclass(frozen=True)
class Study:
    """Arms that are compared.

    `labels` has a change of the recipe for each set of labels, by name; `judges` are those of every arm that names none.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...] = ()
    judges: tuple[str, ...] = (STEPWISER,)
    labels: Mapping[str, Change] = field(default_factory=lambda: {"": unchanged})
    make_models: Callable[[Path, Console], None] = lambda folder, console: None  # what arms need beside labels

    def run(self, recipe: Recipe, folder: Path, seeds: int, console: Console, only: Sequence[str] = ()) -> None:
        """Run the study: see `run_study`."""
        run_study(self, recipe, folder, seeds, console, only)


def with_knobs(part: str, **changes: Any) -> Change:
    """A change of some knobs of one part of the recipe: `with_knobs("judge", kl=0.02)`."""
    return lambda recipe: dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **changes)})


def several(*changes: Change) -> Change:
    """All of the changes, one after another."""

    def change(recipe: Recipe) -> Recipe:
        for each in changes:
            recipe = each(recipe)
        return recipe

    return change


# --- running one -----------------------------------------------------------------------------------------------------------


def run_study(study: Study, recipe: Recipe, folder: Path, seeds: int, console: Console, only: Sequence[str] = ()) -> None:
    """Run every arm with every seed, then write results.json and print its tables. Finished judges are read.

    `only`: the ids of the arms to run; empty for all. Arms that were finished earlier are in the results in any case. Raises
    ValueError for an unknown arm.
    """
    check_arms(study.name, [arm.id for arm in study.arms], only)
    folder.mkdir(parents=True, exist_ok=True)
    study.make_models(folder, console)
    for seed in range(recipe.seed, recipe.seed + seeds):
        seeded = dataclasses.replace(recipe, seed=seed)
        wanted = [arm for arm in study.arms if not only or arm.id in only]
        if all(finished(study, arm, folder / f"{arm.id}-{seed}") for arm in wanted):
            continue
        first = next(iter(study.labels))
        labels = {name: folder / f"labels-{name}-{seed}".replace("--", "-") for name in study.labels}
        items = make_labels(study.labels[first](seeded), labels[first], console)
        for arm in wanted:
            if arm.labels not in (first, OWN):
                make_labels(study.labels[arm.labels](seeded), labels[arm.labels], console, labels[first])
            run_arm(study, arm, seeded, folder / f"{arm.id}-{seed}", labels.get(arm.labels), items, console)
            write_json(folder / "results.json", results(study, all_rows(study, folder)))
    write_json(folder / "results.json", results(study, all_rows(study, folder)))
    print_tables(folder, console)


def check_arms(study: str, arms: Sequence[str], only: Sequence[str]) -> None:
    """Raises ValueError if one of `only` is no arm of the study."""
    if unknown := [name for name in only if name not in arms]:
        raise ValueError(f"unknown arm {unknown[0]!r} of study {study}: choose from {', '.join(arms)}")


def print_tables(folder: Path, console: Console) -> None:
    """Print the tables of the results.json in `folder`."""
    tables = [table([folder]) for table in STUDY_TABLES.values()]
    console.print("\n".join(table for table in tables if table), markup=False, soft_wrap=True)


def all_rows(study: Study, folder: Path) -> list[dict]:
    """The rows of all arms and seeds that have been measured, in the order of seed, arm and judge."""
    order = {arm.id: number for number, arm in enumerate(study.arms)}
    rows = [row for path in folder.glob("*/result.json") for row in json.loads(path.read_text(encoding="utf-8"))]
    return sorted((row for row in rows if row["arm"] in order), key=lambda row: (row["seed"], order[row["arm"]]))


def make_labels(recipe: Recipe, folder: Path, console: Console, segment_from: Path | None = None) -> list[BenchItem]:
    """The labels of a seed (stages segment and annotate), and the test solutions that all arms are measured on.

    With `segment_from`, a folder of the same recipe but for the labels, stage segment is copied from there. usage.json counts
    what stage annotate cost; one that was interrupted is therefore started anew.
    """
    run = Run(recipe, folder, console)
    try:
        if segment_from is not None and not (folder / "segment").exists():
            shutil.copytree(segment_from / "segment", folder / "segment")
        run_stage(run, "segment")
        usage = folder / "usage.json"
        if not usage.exists():
            shutil.rmtree(folder / "annotate", ignore_errors=True)
        with counted(run.lm) as labelling:
            run_stage(run, "annotate")
        if not usage.exists():
            write_json(usage, labelling.to_json())
        return load_items(run)
    finally:
        run.close()


def judges_of(study: Study, arm: Arm) -> tuple[str, ...]:
    """The judges that are trained in an arm."""
    return arm.judges or study.judges


def finished(study: Study, arm: Arm, folder: Path) -> bool:
    """Whether every judge of an arm has been measured."""
    return [row["judge"] for row in read_rows(folder)] == list(judges_of(study, arm))


def read_rows(folder: Path) -> list[dict]:
    """The rows of an arm so far."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def run_arm(
    study: Study, arm: Arm, recipe: Recipe, folder: Path, labels: Path | None, items: Sequence[BenchItem], console: Console
) -> list[dict]:
    """The rows of one arm with one seed, one for each of its judges; finished ones are read from its result.json.

    `labels` is the folder with its labels; None if it makes its own.
    """
    rows = read_rows(folder)
    remaining = judges_of(study, arm)[len(rows) :]
    if not remaining:
        return rows
    console.print(f"[bold]{arm.title}[/], seed {recipe.seed}")
    changed = arm.change(recipe)
    if not changed.model.gguf_file and (folder.parent / changed.model.name).is_dir():  # a model that the study made
        changed = with_knobs("model", name=str(folder.parent / changed.model.name))(changed)
    run = Run(changed, folder, console)
    try:
        if labels is None:
            for stage in ("segment", "annotate"):
                run_stage(run, stage)
        else:
            for stage in ("segment", "annotate"):
                shutil.copytree(labels / stage, folder / stage, dirs_exist_ok=True)
        labelling = {} if labels is None else {"labelling": json.loads((labels / "usage.json").read_text(encoding="utf-8"))}
        for judge in remaining:
            row = measure(run, judge, items)
            rows.append({"arm": arm.id, "title": arm.title, "seed": recipe.seed, **row, **labelling})
            write_json(folder / "result.json", rows)
    finally:
        run.close()
    return rows


def measure(run: Run, judge: str, items: Sequence[BenchItem]) -> dict:
    """Train one judge of an arm and measure it on the items, greedy and sampled.

    What its training and its judging cost is counted in tokens (engine/usage.py); a judge that was interrupted is therefore
    trained and asked anew.
    """
    entry = registry.by_id(judge)
    for left in [*(run.folder / "judges").glob("*"), *(run.folder / "evaluate").glob("*")]:
        if re.fullmatch(rf"{re.escape(judge)}(\W.*)?", left.name):  # not a judge whose name only begins like this one's
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if judge == SELF_SUPERVISED:
        run.policy()  # it reads the hidden states of the policy, which this loads
    with counted(run.lm) as training:
        metrics = entry.train(judge_trainer(run)) if entry.trained else {}
    asked = entry.build(run.judge_context, metrics)
    with counted(run.lm) as judging:
        greedy = judge_items(run, judge, asked, items)
    knobs = run.recipe.evaluate
    figures = score(items, greedy, run.seed, knobs.resamples)
    row = {"judge": judge, "labels": metrics.get("labels", 0), "validation_labels": metrics.get("validation_labels", 0)}
    row |= {"training": training.to_json(), "judging": judging.to_json()}
    row |= {key: figures[key] for key in FIGURES}
    if knobs.samples and isinstance(asked, GenerativeJudge):
        beginnings = [up_to_error(item) for item in items]
        votes = sample_items(run, f"{judge}-sampled", asked, beginnings, knobs.samples)
        several_votes = sampled(beginnings, votes, run.seed, knobs.resamples)
        row |= {key: several_votes[key] for key in ("f1_sampled", "interval_sampled", "f1_majority")}
        row |= habits(run, greedy)
    curve = metrics.get("curve") or []
    if curve and "reward" in curve[0]:
        kept = ("reward", "entropy", "completions/mean_length", "verdicts/positive", *run.task.reply_measures())
        row["curve"] = [{key: step.get(key) for key in ("step", *kept)} for step in curve]
    return row


def results(study: Study, rows: Sequence[dict]) -> dict:
    """All rows, and each contrast over the seeds that have both sides: differences, their mean and Student's t interval."""
    contrasts = []
    for contrast in study.contrasts:
        for figure in contrast.figures:
            sides = {
                side: {row["seed"]: row[figure] for row in rows if f"{row['arm']}/{row['judge']}" == side and figure in row}
                for side in (contrast.a, contrast.b)
            }
            seeds = sorted(sides[contrast.a].keys() & sides[contrast.b].keys())
            if seeds:
                contrasts.append(over_seeds(contrast, figure, {s: sides[contrast.a][s] - sides[contrast.b][s] for s in seeds}))
    return {"study": study.name, "title": study.title, "rows": list(rows), "contrasts": contrasts}


def over_seeds(contrast: Contrast, figure: str, values: Mapping[int, float]) -> dict:
    """A contrast as results.json holds it: its value with each seed, their mean and Student's t interval."""
    each = list(values.values())
    outcome = {"figure": figure, "measured": mean(each), "interval": t_interval(each), "each": each, "seeds": list(values)}
    return {**dataclasses.asdict(contrast), **outcome}
