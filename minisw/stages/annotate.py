"""Stage 2, StepWiser §3.2: every chunk gets a label from rollouts that start before and after it.

    1. the policy solves problems that it was not fine-tuned on
    2. choose the solutions to annotate, from problems with both right and wrong solutions
    3. M rollouts from every boundary give the values Q
    4. compare the label rules with exact labels, if the task has them
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.labels import QUESTIONS, RULES, agreement, choose_solutions, label_with, until_first_negative, value_summary
from minisw.problems import first_mistakes, step_labels, training_problems
from minisw.recipe import MADE, AnnotateKnobs
from minisw.records import AnnotatedSolution, BenchItem, Problem, Solution, flat, write_json, write_jsonl, write_text
from minisw.runs import Run

VALIDATION_SHARE = 0.3  # solutions annotated for validation, as a share of those for training


def run_stage(run: Run) -> None:
    """Writes annotate/: train.jsonl and validation.jsonl (AnnotatedSolution), questions.json, stepwise.jsonl (the training
    labels in TRL's stepwise-supervision format) and metrics.json. No rollouts if `annotate.source` names other labels."""
    knobs, folder = run.recipe.annotate, run.folder / "annotate"
    folder.mkdir(parents=True, exist_ok=True)
    if knobs.published:
        questions, train, metrics = import_labels(run)
    else:
        questions, train, metrics = annotate_problems(run)
    rows = step_labels.to_trl(train, [label_with(knobs, s.q) for s in train], questions)
    write_text(folder / "stepwise.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(folder / QUESTIONS, questions)
    write_json(folder / "metrics.json", metrics)


def annotate_problems(run: Run) -> tuple[dict[str, str], list[AnnotatedSolution], dict]:
    """Labels of our own solutions (from rollouts, or exact): questions by problem id, annotated training solutions, metrics."""
    knobs, task = run.recipe.annotate, run.task
    _, problems = training_problems(task, run.recipe)
    validation = task.load("validation", run.recipe.problems.validation, run.seed)
    drawn, train = annotate_split(run, "train", problems, knobs.max_solutions, right=0.25)
    # as many right as wrong solutions for validation, because the classifier's threshold is chosen on both
    annotate_split(run, "validation", validation, validation_size(knobs), right=0.5)
    metrics = {
        "solutions": len(train),
        "steps": sum(len(s.chunks) for s in train),
        "drawn": len(drawn),
        "drawn_accuracy": stats.mean([s.correct for s in drawn]),
        "drawn_cut_off": stats.mean([not s.finished for s in drawn]),
        "problems_kept": len({s.problem_id for s in train}),
        "rules": [{"rule": rule, "positives": stats.mean(flat([label_with(knobs, s.q, rule) for s in train]))} for rule in RULES],
        "q": value_summary(train, knobs),
        "agreement": [],
        "exact_positive": None,
        "mistakes": {},
    }
    if task.exact_labels:
        by_id = {p.id: p for p in problems}
        exact = [until_first_negative(task.exact_labels(by_id[s.problem_id], s.chunks)) for s in drawn]
        metrics["exact_positive"] = stats.mean(flat(exact))
        metrics["mistakes"] = first_mistakes(task, by_id, drawn)
    if task.exact_labels and knobs.source == "rollouts":
        metrics["agreement"] = agreement(train, [task.exact_labels(by_id[s.problem_id], s.chunks) for s in train], knobs)
    return {p.id: p.question for p in [*problems, *validation]}, train, metrics


def annotate_split(
    run: Run, split: str, problems: Sequence[Problem], most: int, right: float
) -> tuple[list[Solution], list[AnnotatedSolution]]:
    """Sample solutions of one split, choose which to annotate, and annotate them.

    Returns the sampled and the annotated solutions; each list is read from its file if that exists.
    """
    knobs, folder, policy = run.recipe.annotate, run.folder / "annotate", run.policy()
    drawn = run.records_in_shards(
        folder / f"{split}-solutions.jsonl",
        Solution,
        f"{split}: solutions",
        f"annotate-{split}",
        [(p, knobs.samples) for p in problems],
        lambda shard, seed, tick: flat(policy.solve(shard, knobs.samples, seed, tick)),
    )
    groups = [drawn[i : i + knobs.samples] for i in range(0, len(drawn), knobs.samples)]
    chosen = choose_solutions(groups, knobs.keep, most, right)
    by_id = {p.id: p for p in problems}
    if knobs.source == "exact":
        path = folder / f"{split}.jsonl"
        what = f"{split}: exact labels"
        annotated = run.records(path, AnnotatedSolution, what, len(chosen), lambda tick: exact_values(run, chosen, by_id))
        return drawn, annotated
    annotated = run.records_in_shards(
        folder / f"{split}.jsonl",
        AnnotatedSolution,
        f"{split}: rollouts",
        f"rollouts-{split}",
        [(s, len(s.chunks) * knobs.branches) for s in chosen],
        lambda shard, seed, tick: policy.annotate(shard, by_id, knobs.branches, seed, tick),
    )
    return drawn, annotated


def exact_values(run: Run, solutions: Sequence[Solution], problems: dict[str, Problem]) -> list[AnnotatedSolution]:
    """The solutions with the task's exact labels as values: 1 before the first wrong chunk, 0 behind it."""
    annotated = []
    for s in solutions:
        labels = run.task.exact_labels(problems[s.problem_id], s.chunks)
        right = labels.index(False) if False in labels else len(labels)
        q = tuple(float(i <= right) for i in range(len(labels) + 1))
        annotated.append(AnnotatedSolution(s.problem_id, s.chunks, s.correct, q))
    return annotated


def validation_size(knobs: AnnotateKnobs) -> int:
    """The number of solutions annotated for validation."""
    return max(2, int(knobs.max_solutions * VALIDATION_SHARE))


def made_solutions(items: Sequence[BenchItem]) -> tuple[list[AnnotatedSolution], dict[str, str]]:
    """Solutions that a task made, with labels as values (1 before the first wrong chunk, 0 behind it), and their questions."""
    annotated = []
    for item in items:
        right = len(item.chunks) if item.label < 0 else item.label
        q = tuple(float(i <= right) for i in range(len(item.chunks) + 1))
        annotated.append(AnnotatedSolution(item.id, item.chunks, item.final_correct, q))
    return annotated, {item.id: item.question for item in items}


def import_labels(run: Run) -> tuple[dict[str, str], list[AnnotatedSolution], dict]:
    """Labels of a published set, or of solutions that the task makes; returns the same three things as `annotate_problems`."""
    knobs, folder = run.recipe.annotate, run.folder / "annotate"
    questions: dict[str, str] = {}
    loaded: dict[str, list[AnnotatedSolution]] = {}
    for split, count in (("train", knobs.max_solutions), ("validation", validation_size(knobs))):
        if knobs.source == MADE:
            loaded[split], of_split = made_solutions(run.task.made(split, count, run.seed))
        else:
            loaded[split], of_split = step_labels.load(knobs.source, run.recipe.problems.data_dir, split, count, run.seed)
        questions |= of_split
        write_jsonl(folder / f"{split}.jsonl", loaded[split])
    train = loaded["train"]
    metrics = {
        "source": knobs.source,
        "solutions": len(train),
        "steps": sum(len(s.chunks) for s in train),
        "rules": [{"rule": "as given", "positives": stats.mean(flat([label_with(knobs, s.q) for s in train]))}],
    }
    return questions, train, metrics
