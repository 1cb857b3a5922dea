"""Stage 4: how good are the judges? First-error F1 in two definitions, with intervals, on solutions with known labels.

    1. the items: test solutions of the policy with exact labels or, for tasks without exact labels, ProcessBench
    2. every judge of the registry judges every step of every item; generative ones greedily, and by several samples at
       temperature 1
    3. figures of each judge, paired differences between judges, and pass@k before and after GRPO
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from minisw.evaluate.metrics import f1_difference, pass_curve, predict, sampled, score
from minisw.evaluate.stats import mean
from minisw.judges import registry
from minisw.judges.base import Judge, RandomReject
from minisw.judges.discriminative import DISCRIMINATIVE
from minisw.judges.generative import GenerativeJudge
from minisw.judges.registry import UNTRAINED
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.stepwiser import FROM_RS, HUNDREDTH, STEPWISER, TENTH
from minisw.problems import Task
from minisw.records import BenchItem, Judgment, Problem, Solution, flat, write_json
from minisw.runs import Run

RANDOM = "random"
DIFFERENCES = (  # (a, b): F1 of a minus F1 of b; with samples, also that of the mean F1 of one sample
    *((STEPWISER, other) for other in (DISCRIMINATIVE, UNTRAINED, REJECTION_SAMPLED)),
    (FROM_RS, REJECTION_SAMPLED),
    (FROM_RS, STEPWISER),
    (TENTH, DISCRIMINATIVE),
    (HUNDREDTH, DISCRIMINATIVE),
)


def run_stage(run: Run) -> None:
    """Writes evaluate/: the judgments of each judge (JSONL), metrics.json with a row for each judge, showcase.json."""
    folder, knobs = run.folder / "evaluate", run.recipe.evaluate
    trained = json.loads((run.folder / "judges" / "metrics.json").read_text(encoding="utf-8"))
    items = load_items(run)
    beginnings = [up_to_error(item) for item in items]  # steps after the first error change neither F1 nor pass@k
    rows, predictions, sampled_predictions, passes, judgments, gains = [], {}, {}, {}, {}, {}
    judges = load_judges(run, trained)
    for name in [*judges, RANDOM]:
        judge = judges.get(name) or random_judge(judgments[STEPWISER])  # the control comes last: it needs the judge's rate
        judgments[name] = judge_items(run, name, judge, items)
        figures = score(items, judgments[name], run.seed, knobs.resamples)
        predictions[name] = figures.pop("predictions")
        if isinstance(judge, GenerativeJudge):
            figures |= habits(run, judgments[name])
            if knobs.samples:
                votes = sample_items(run, f"{name}-sampled", judge, beginnings, knobs.samples)
                figures |= sampled(beginnings, votes, run.seed, knobs.resamples)
                sampled_predictions[name] = figures.pop("predictions_sampled")
                gains[name] = figures.pop("gain_of_votes")
            if knobs.pass_samples and name in (UNTRAINED, STEPWISER):
                some = beginnings[: knobs.pass_solutions]
                passes[name] = pass_curve(some, sample_items(run, f"{name}-pass", judge, some, knobs.pass_samples))
        labels = trained.get(name, {})
        used = labels.get("labels", 0) + labels.get("validation_labels", 0)
        rows.append({"id": name, "name": judge.name, "labels_used": used, **figures})
    counts = {
        "items": len(items),
        "questions": len({item.question for item in items}),
        "with_error": sum(item.label >= 0 for item in items),
    }
    differences = {
        "differences": differences_of(run, items, predictions),
        "differences_sampled": differences_of(run, items, sampled_predictions),
    }
    write_json(folder / "showcase.json", showcase(items, judgments[STEPWISER], judgments[UNTRAINED]))
    write_json(folder / "metrics.json", {"rows": rows, **differences, "gain_of_votes": gains, "pass": passes, **counts})


def random_judge(judgments: Sequence[Sequence[Judgment]]) -> RandomReject:
    """The control that calls as many steps Negative as a judge with these judgments, but at random."""
    return RandomReject(mean([j.verdict is False for own in judgments for j in own]), "random, at StepWiser's rate")


def differences_of(run: Run, items: Sequence[BenchItem], predictions: dict[str, list]) -> dict[str, dict]:
    """The F1 differences of `DIFFERENCES` between the judges that have predictions, by "a-b"."""
    found = {}
    for a, b in DIFFERENCES:
        if {a, b} <= predictions.keys():
            resamples = run.recipe.evaluate.resamples
            measured, interval = f1_difference(items, predictions[a], predictions[b], run.seed, resamples)
            found[f"{a}-{b}"] = {"measured": measured, "interval": interval}
    return found


def load_judges(run: Run, trained: dict[str, dict]) -> dict[str, Judge]:
    """The judges of the run by id, with their adapters loaded. `trained` holds what training measured, by adapter."""
    judges: dict[str, Judge] = {}
    for entry in registry.entries(run.recipe):
        if entry.trained and entry.has_adapter:
            run.require(entry.id, run.folder / "judges" / entry.id)
        judges[entry.id] = entry.build(run.judge_context, trained.get(entry.id, {}))
    return judges


# --- the items -----------------------------------------------------------------------------------------------------------


def load_items(run: Run) -> list[BenchItem]:
    """Test solutions with exact labels if the task has such labels, else those that it makes, or the parts of ProcessBench.

    Raises ValueError if there are none.
    """
    knobs, task = run.recipe.evaluate, run.task
    if task.made is not None:
        return task.made("test", knobs.solutions, run.seed)
    if task.exact_labels is None and task.bench is None:
        raise ValueError(f"the task {task.name!r} has neither exact labels nor parts of ProcessBench to evaluate on")
    if task.exact_labels is None:
        items = [item for part in knobs.parts for item in task.bench(part, knobs.solutions, run.seed)]
    else:
        items = exact_items(run)
    if not items:
        raise ValueError(
            "no item to evaluate on: no test solution keeps the chunk format; train the policy longer (--segment.training.epochs)"
        )
    return items


def exact_items(run: Run) -> list[BenchItem]:
    """Well-formed test solutions of the segmented policy with the task's exact labels, at most `evaluate.solutions`."""
    task, count, policy = run.task, run.recipe.evaluate.solutions, run.policy()
    problems = task.load("test", run.recipe.problems.test, run.seed)
    each = -(-count // len(problems))
    solutions = run.records_in_shards(
        run.folder / "evaluate" / "solutions.jsonl",
        Solution,
        "test: solutions to judge",
        "evaluate",
        [(p, each) for p in problems],
        lambda shard, seed, tick: flat(policy.solve(shard, each, seed, tick)),
    )
    return bench_items(task, problems, solutions, count)


def bench_items(task: Task, problems: Sequence[Problem], solutions: Sequence[Solution], count: int) -> list[BenchItem]:
    """The first `count` well-formed solutions with the task's exact labels."""
    by_id = {p.id: p for p in problems}
    items = []
    for solution in [s for s in solutions if s.well_formed][:count]:
        problem = by_id[solution.problem_id]
        labels = task.exact_labels(problem, solution.chunks)
        first_error = labels.index(False) if False in labels else -1
        items.append(BenchItem(problem.id, problem.question, solution.chunks, first_error, solution.correct))
    return items


def judge_items(run: Run, name: str, judge: Judge, items: Sequence[BenchItem]) -> list[list[Judgment]]:
    """Judgments of every step of every item: [items][steps]; from evaluate/`name`.jsonl if that file exists."""
    steps = flat([item.steps() for item in items])
    options = {"probabilities": True} if name == STEPWISER else {}  # one more forward pass: only for the judge shown
    path = run.folder / "evaluate" / f"{name}.jsonl"
    judgments = run.records_in_shards(
        path,
        Judgment,
        judge.name,
        f"evaluate-{name}",
        [(step, getattr(judge, "votes", 1)) for step in steps],
        lambda shard, seed, tick: judge.judge(shard, seed, tick, **options),
    )
    if len(judgments) != len(steps):
        raise ValueError(f"{path} has {len(judgments)} judgments for {len(steps)} steps: delete it and run the stage again")
    iterator = iter(judgments)
    return [[next(iterator) for _ in item.chunks] for item in items]


def sample_items(run: Run, name: str, judge: GenerativeJudge, items: Sequence[BenchItem], samples: int) -> list[list[Judgment]]:
    """Judgments of every step with `samples` votes each, sampled at temperature 1."""
    voter = judge.with_votes(f"{judge.name}, {samples} samples", 1.0, samples)
    return judge_items(run, name, voter, items)


def up_to_error(item: BenchItem) -> BenchItem:
    """The item without the steps after its first error."""
    return item if item.label < 0 else dataclasses.replace(item, chunks=item.chunks[: item.label + 1])


def habits(run: Run, judgments: Sequence[Sequence[Judgment]]) -> dict:
    """Shares of the task's habits among the judge's replies; nothing if the task names none."""
    replies = [j.analysis for own in judgments for j in own]
    measures = run.task.reply_measures()
    return {name: mean([measure(reply) for reply in replies]) for name, measure in measures.items()}


# --- for the report ------------------------------------------------------------------------------------------------------


def showcase(
    items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], untrained: Sequence[Sequence[Judgment]]
) -> list[dict]:
    """Up to three solutions for the report: one whose first error was found, one right one that passed, and one miss.

    Each step has the judge's reply, and that of the untrained judge, "before".
    """
    kinds = (
        lambda item, prediction: item.label >= 0 and prediction == item.label,
        lambda item, prediction: item.label < 0 and prediction == -1,
        lambda item, prediction: prediction != item.label,
    )
    predictions = [predict([j.verdict for j in own]) for own in judgments]
    picked: list[int] = []
    for fits in kinds:
        picked += [n for n, item in enumerate(items) if n not in picked and fits(item, predictions[n])][:1]
    return [_shown(items[n], judgments[n], untrained[n]) for n in picked]


def _shown(item: BenchItem, judgments: Sequence[Judgment], untrained: Sequence[Judgment]) -> dict:
    chunks = []
    for i, (step, judgment, before) in enumerate(zip(item.steps(), judgments, untrained, strict=True)):
        known = item.label < 0 or i <= item.label
        chunks.append(
            {
                "text": step.chunk,
                "verdict": judgment.verdict,
                "analysis": judgment.analysis,
                "p_positive": judgment.p_positive,
                "label": step.label if known else None,
                "before": {"verdict": before.verdict, "analysis": before.analysis},
            }
        )
    return {"question": item.question, "correct": item.final_correct, "chunks": chunks}
