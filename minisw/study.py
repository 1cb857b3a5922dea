"""Studies: judges that differ in one setting, trained and measured with several seeds.

    python -m minisw.reproduce --study ablations
    python -m minisw.reproduce --study habits

For each seed one run makes the labels and the test solutions. Each arm is a folder of its own beside it: a judge (GRPO, and
RS-FT if the study compares it) trained on these labels with one setting changed, and measured on these test solutions. All of
it is saved, and an interrupted study resumes. The unit of a contrast between two arms is the seed.

    OUT/labels-SEED/        the run that made labels and test solutions (stages segment and annotate)
    OUT/ARM-SEED/           the judges of one arm, with result.json
    OUT/results.json        all rows and contrasts
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from minisw.evaluate.metrics import sampled, score
from minisw.evaluate.stats import mean, t_interval
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.judges.stepwiser import STEPWISER, train_stepwiser
from minisw.pipeline import run_stage
from minisw.problems.arithmetic import pretraining
from minisw.recipe import Recipe
from minisw.records import BenchItem, write_json
from minisw.report.tables import STUDY_TABLES
from minisw.runs import Run
from minisw.stages.evaluate import habits, judge_items, load_items, sample_items, up_to_error
from minisw.stages.judges import judge_trainer

Change = Callable[[Recipe], Recipe]
FIGURES = ("f1", "interval", "accuracy_error", "accuracy_correct", "balanced_accuracy", "unparseable", "tokens_per_step")


@dataclass(frozen=True)
class Arm:
    """One setting. `change` makes its recipe from the study's; `own_labels`: it needs a segmentation and labels of its own."""

    id: str
    title: str
    change: Change = lambda recipe: recipe
    own_labels: bool = False


@dataclass(frozen=True)
class Contrast:
    """A claim: F1 of arm `a` is higher than F1 of arm `b`."""

    id: str
    claim: str
    a: str
    b: str
    source: str
    paper: float | None = None  # the paper's difference


@dataclass(frozen=True)
class Study:
    """Arms that are compared. `labels` changes the recipe of the run that makes the labels; `judges` are those of every arm."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...] = ()
    judges: tuple[str, ...] = (STEPWISER,)
    labels: Change = lambda recipe: recipe
    make_models: Callable[[Path, Console], None] = lambda folder, console: None  # what arms need beside labels


def with_knobs(part: str, **changes: Any) -> Change:
    """A change of some knobs of one part of the recipe: `with_knobs("judge", kl=0.02)`."""
    return lambda recipe: dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **changes)})


# --- the studies -----------------------------------------------------------------------------------------------------------

MOST_BRANCHES = 16


def _group(size: int) -> Change:
    """Another group size with as many replies in a step."""
    return lambda recipe: with_knobs("judge", group=size, prompts=recipe.judge.prompts * recipe.judge.group // size)(recipe)


def _blank_lines(recipe: Recipe) -> Recipe:
    """Steps are cut at blank lines; a solution has more of them than chunks."""
    recipe = with_knobs("segment", teacher="blank_lines")(recipe)
    return with_knobs("policy", max_chunks=4 * recipe.policy.max_chunks)(recipe)


ABLATIONS = Study(
    "ablations",
    "What GRPO of the judge needs",
    (
        Arm("base", "as in the recipe"),
        Arm("unbalanced", "labels not balanced", with_knobs("judge", balanced=False)),
        Arm("no_analysis", "verdict without an analysis", with_knobs("judge", analysis=False)),
        Arm("blank_lines", "steps cut at blank lines", _blank_lines, own_labels=True),
        Arm("updates", "4 updates a step", with_knobs("judge", updates=4)),
        Arm("no_clip_higher", "4 updates a step, no clip-higher", with_knobs("judge", updates=4, clip_high=0.2)),
        Arm("kl", "KL term of weight 0.02", with_knobs("judge", kl=0.02)),
        Arm("rel_effective", "labels by rel_effective", with_knobs("annotate", rule="rel_effective")),
        Arm("rel_ratio", "labels by rel_ratio", with_knobs("annotate", rule="rel_ratio")),
        *(Arm(f"m{m}", f"M = {m} rollouts", with_knobs("annotate", branches=m)) for m in (1, 4, MOST_BRANCHES)),
        *(Arm(f"group{size}", f"groups of {size}", _group(size)) for size in (4, 16)),
    ),
    (
        Contrast(
            "balancing-helps", "balanced labels help", "base", "unbalanced", "StepWiser §4.3, 7B, Rel-Ratio: 60.5 − 47.9", 0.126
        ),
        Contrast("clip-higher-helps", "clip-higher helps with 4 updates a step", "updates", "no_clip_higher", "StepWiser §3.3"),
        Contrast(
            "analysis-helps", "an analysis before the verdict helps", "base", "no_analysis", "StepWiser, 1.5B: 36.2 − 34.3", 0.019
        ),
        Contrast(
            "chunks-help-under-rl", "chunks help under RL", "base", "blank_lines", "StepWiser, 1.5B, Abs-Q: 36.1 − 32.4", 0.037
        ),
    ),
    labels=with_knobs("annotate", branches=MOST_BRANCHES),
)


REDO_SHARES = (0.0, 0.02, 0.06, 0.18, 0.40)
HABIT_TOKENS = 4_000_000


def _base_with(redo: float) -> Change:
    return lambda recipe: with_knobs("model", name=f"redo-{redo:g}")(recipe)


def habit_shares(redo: float) -> dict[str, float]:
    """The habits' shares when redo has the share `redo`; the others keep their ratio."""
    rest = 1 - redo
    return {"glance": rest * 0.55 / 0.82, "equation": rest * 0.27 / 0.82, "redo": redo}


def make_bases(folder: Path, console: Console) -> None:
    """Pretrain a base for each share of redo from the model after the first stream; finished ones are kept."""
    start = pretraining.first_stream_model()
    for redo in REDO_SHARES:
        out = folder / f"redo-{redo:g}"
        if not pretraining.finished(out):
            console.print(f"pretraining the base with redo at {redo:.0%}")
            knobs = pretraining.Pretraining(out, start=start, second_tokens=HABIT_TOKENS, **habit_shares(redo), overwrite=True)
            pretraining.train(knobs)


HABITS = Study(
    "habits",
    "What GRPO and RS-FT make of a habit, by its share in the base",
    tuple(Arm(f"redo-{redo:g}", f"redo at {redo:.0%}", _base_with(redo)) for redo in REDO_SHARES),
    judges=("untrained", REJECTION_SAMPLED, STEPWISER),
    make_models=make_bases,
)

STUDIES = {study.name: study for study in (ABLATIONS, HABITS)}


# --- running one -----------------------------------------------------------------------------------------------------------


def run_study(study: Study, recipe: Recipe, folder: Path, seeds: int, console: Console) -> None:
    """Run every arm with every seed, then write results.json and print its tables. Finished arms are read."""
    folder.mkdir(parents=True, exist_ok=True)
    study.make_models(folder, console)
    rows: list[dict] = []
    for seed in range(recipe.seed, recipe.seed + seeds):
        seeded, labels = dataclasses.replace(recipe, seed=seed), folder / f"labels-{seed}"
        items = make_labels(study.labels(seeded), labels, console)
        for arm in study.arms:
            rows += run_arm(study, arm, seeded, folder / f"{arm.id}-{seed}", labels, items, console)
            write_json(folder / "results.json", results(study, rows))
    tables = [table([folder]) for table in STUDY_TABLES.values()]
    console.print("\n".join(table for table in tables if table), markup=False, soft_wrap=True)


def make_labels(recipe: Recipe, folder: Path, console: Console) -> list[BenchItem]:
    """The labels of a seed (stages segment and annotate), and the test solutions that all arms are measured on."""
    run = Run(recipe, folder, console)
    try:
        for stage in ("segment", "annotate"):
            run_stage(run, stage)
        return load_items(run)
    finally:
        run.close()


def run_arm(
    study: Study, arm: Arm, recipe: Recipe, folder: Path, labels: Path, items: Sequence[BenchItem], console: Console
) -> list[dict]:
    """The rows of one arm with one seed, one for each of the study's judges; from its result.json if that exists."""
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    console.print(f"[bold]{arm.title}[/], seed {recipe.seed}")
    changed = arm.change(recipe)
    if not changed.model.gguf_file and (folder.parent / changed.model.name).is_dir():  # a model that the study made
        changed = with_knobs("model", name=str(folder.parent / changed.model.name))(changed)
    run = Run(changed, folder, console)
    try:
        if arm.own_labels:
            for stage in ("segment", "annotate"):
                run_stage(run, stage)
        else:
            shutil.copytree(labels / "annotate", folder / "annotate", dirs_exist_ok=True)
        rows = [
            {"arm": arm.id, "title": arm.title, "seed": recipe.seed, **measure(run, judge, items)} for judge in study.judges
        ]
    finally:
        run.close()
    write_json(result, rows)
    return rows


def measure(run: Run, judge: str, items: Sequence[BenchItem]) -> dict:
    """Train one judge of an arm and measure it on the items, greedy and sampled."""
    trainer, adapter, metrics = judge_trainer(run), judge, {}
    if judge == "untrained":
        adapter = None
    elif judge == REJECTION_SAMPLED:
        metrics = train_rejection_sampled(trainer)
    else:
        metrics = train_stepwiser(trainer)
    curve, knobs = metrics.get("curve") or [], run.recipe.evaluate
    asked = GenerativeJudge(run.judge_context, adapter, judge)
    greedy = judge_items(run, judge, asked, items)
    figures = score(items, greedy, run.seed, knobs.resamples)
    row = {"judge": judge, "labels": metrics.get("labels", 0)}
    row |= {key: figures[key] for key in FIGURES}
    if knobs.samples:
        beginnings = [up_to_error(item) for item in items]
        votes = sample_items(run, f"{judge}-sampled", asked, beginnings, knobs.samples)
        several = sampled(beginnings, votes, run.seed, knobs.resamples)
        row |= {key: several[key] for key in ("f1_sampled", "interval_sampled", "f1_majority")}
    row |= habits(run, greedy)
    if curve and "reward" in curve[0]:
        kept = ("reward", "entropy", "completions/mean_length", "verdicts/positive", *run.task.reply_measures())
        row["curve"] = [{key: step.get(key) for key in ("step", *kept)} for step in curve]
    return row


def results(study: Study, rows: Sequence[dict]) -> dict:
    """All rows, and each contrast over the seeds that have both arms: differences, their mean and Student's t interval."""
    contrasts = []
    for contrast in study.contrasts:
        for figure in ("f1", "f1_sampled"):
            by_arm = {
                arm: {row["seed"]: row[figure] for row in rows if row["arm"] == arm and figure in row}
                for arm in (contrast.a, contrast.b)
            }
            seeds = sorted(by_arm[contrast.a].keys() & by_arm[contrast.b].keys())
            each = [by_arm[contrast.a][seed] - by_arm[contrast.b][seed] for seed in seeds]
            if each:
                contrasts.append(
                    {
                        **dataclasses.asdict(contrast),
                        "figure": figure,
                        "measured": mean(each),
                        "interval": t_interval(each),
                        "each": each,
                        "seeds": seeds,
                    }
                )
    return {"study": study.name, "title": study.title, "rows": list(rows), "contrasts": contrasts}
