"""Stage 3, StepWiser §3.3: train every judge of the registry on the same balanced labels.

    1. read the labels; balance them in `passes` passes
    2. run each training of judges/registry.py
    3. save each adapter with a model card, and all metrics
"""

from __future__ import annotations

from minisw.judges.base import JudgeTrainer
from minisw.judges.registry import TRAININGS
from minisw.judges.saved import write_card
from minisw.labels import balanced_steps, load_steps
from minisw.records import write_json
from minisw.runs import Run


def run_stage(run: Run) -> None:
    """Writes judges/: a folder an adapter, their curves, and metrics.json (by adapter name)."""
    knobs, folder, labels = run.recipe.judge, run.folder / "judges", run.folder / "annotate"
    steps = balanced_steps(
        load_steps(labels, "train", run.recipe.annotate), knobs.labels, run.seed_of("balance"), knobs.passes
    )
    validation = load_steps(labels, "validation", run.recipe.annotate)
    if len(steps) < 4 or not validation:
        raise ValueError(
            f"{len(steps)} balanced training labels and {len(validation)} validation labels are too few: annotate more "
            "problems (--annotate.problems, --problems.validation, --annotate.samples), in a new --out"
        )
    trainer = JudgeTrainer(
        context=run.judge_context,
        steps=steps,
        validation=validation,
        knobs=knobs,
        classifier=run.recipe.classifier,
        lora=run.recipe.lora,
        seed_of=run.seed_of,
        train_adapter=lambda name, fit, total, what: run.train(name, folder, fit, total, f"{name}: {what}"),
        warn=lambda text: run.console.print(f"  [yellow]{text}[/]"),
        in_parts=run.recipe.problems.prompts == "arithmetic",
    )
    metrics: dict[str, dict] = {}
    for train, wanted in TRAININGS:
        if wanted(run.recipe):
            metrics |= train(trainer)
    for name in metrics:
        write_card(folder / name, run.recipe, name)
    write_json(folder / "metrics.json", metrics)
