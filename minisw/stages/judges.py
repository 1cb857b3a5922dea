"""Stage 3, StepWiser §3.3: train every judge of the registry on the same balanced labels.

    1. read the labels; balance them in `passes` passes
    2. train each judge of judges/registry.py
    3. save each adapter with a model card, and the metrics of all
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

from minisw.engine.loading import load_base
from minisw.engine.sampler import make_sampler
from minisw.judges.base import JudgeContext, JudgeTrainer, Outcome
from minisw.judges.registry import trainings
from minisw.judges.saved import write_card
from minisw.judges.self_supervised import SELF_SUPERVISED
from minisw.labels import QUESTIONS, balanced_steps, load_steps, whole_solutions
from minisw.records import Solution, read_jsonl, write_json
from minisw.runs import Run


def run_stage(run: Run) -> None:
    """Writes judges/: ADAPTER/ (weights, model card), ADAPTER-curve.json, and metrics.json by adapter name.

    Raises ValueError if there are too few labels.
    """
    trainer, metrics = judge_trainer(run), {}
    for entry in trainings(run.recipe):
        metrics[entry.id] = entry.train(trainer)
        if entry.has_adapter:
            judge = dataclasses.replace(run.recipe.judge, analysis=run.recipe.judge.analysis and entry.analysis)
            recipe = dataclasses.replace(run.recipe, judge=judge)
            write_card(run.folder / "judges" / entry.id, recipe, entry.title, metrics[entry.id], entry.kind)
    write_json(run.folder / "judges" / "metrics.json", metrics)


def judge_trainer(run: Run) -> JudgeTrainer:
    """The run's labels, knobs and seeds for training judges; trainings are saved in judges/ and resume there."""
    recipe, labels = run.recipe, run.folder / "annotate"
    if SELF_SUPERVISED in recipe.judge.judges:
        run.policy()  # it reads the hidden states of the policy, which this loads
    train, validation = (load_steps(labels, split, recipe.annotate) for split in ("train", "validation"))
    if recipe.judge.balanced:
        steps = balanced_steps(train, recipe.judge.labels, run.seed_of("balance"), recipe.judge.passes)
    else:
        steps = random.Random(run.seed_of("balance")).sample(train, min(recipe.judge.labels, len(train)))
    if len(set(steps)) < 4 or not validation:
        raise ValueError(
            f"{len(set(steps))} balanced training labels and {len(validation)} validation labels are too few: annotate more "
            "problems (--annotate.problems, --problems.validation, --annotate.samples), in a new --out"
        )
    return JudgeTrainer(
        context=run.judge_context,
        steps=steps,
        validation=validation,
        solutions=whole_solutions(train, len(set(steps)), run.seed_of("solutions")),
        outcomes=load_outcomes(labels),
        rationale_writer=writer_context(run) if recipe.judge.writer else None,
        knobs=recipe.judge,
        classifier=recipe.classifier,
        lora=recipe.lora,
        seed_of=run.seed_of,
        train_adapter=lambda name, fit, total, what: run.train(name, run.folder / "judges", fit, total, f"{name}: {what}"),
        warn=lambda text: run.console.print(f"  [yellow]{text}[/]"),
        measures=run.task.reply_measures(),
    )


def load_outcomes(folder: Path) -> list[Outcome]:
    """The policy's solutions that the annotate stage chose from, with their outcomes; none if the labels are published ones."""
    path = folder / "train-solutions.jsonl"
    if not path.exists():
        return []
    questions = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
    solutions = [s for s in read_jsonl(path, Solution) if s.well_formed]
    return [Outcome(questions[s.problem_id], s.chunks, s.correct) for s in solutions]


def writer_context(run: Run) -> JudgeContext:
    """The model that the recipe names as writer of analyses, asked with the run's prompts."""
    model = dataclasses.replace(run.recipe.model, name=run.recipe.judge.writer, gguf_file="")
    lm = load_base(model)
    return dataclasses.replace(run.judge_context, lm=lm, sampler=make_sampler(lm, model))
