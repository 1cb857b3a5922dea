"""Stage 4: how good are the judges? First-error F1 in both definitions, with intervals, on items with known labels."""

from __future__ import annotations

import json
from collections.abc import Sequence

from minisw import stats
from minisw.records import BenchItem, Judgment, Problem, Solution, write_json
from minisw.runs import Run
from minisw.segment import POLICY, TAG_TOKENS, flat, sample_solutions

WRONG = -2  # a prediction that no label equals


def predict(judgments: Sequence[Judgment]) -> int:
    """Index of the first Negative, −1 where all are Positive, `WRONG` where an unreadable verdict comes before that."""
    for i, judgment in enumerate(judgments):
        if judgment.verdict is None:
            return WRONG
        if not judgment.verdict:
            return i
    return -1


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def f1_official(rows: Sequence[tuple[BenchItem, int]]) -> float:
    """ProcessBench's F1: harmonic mean of the accuracies on items with an error (its exact index) and without (−1)."""
    return harmonic_mean(*accuracies(rows))


def accuracies(rows: Sequence[tuple[BenchItem, int]]) -> tuple[float, float]:
    """(accuracy on items with a labelled error, accuracy on items labelled −1)."""
    return (
        stats.mean([p == item.label for item, p in rows if item.label >= 0]),
        stats.mean([p == item.label for item, p in rows if item.label < 0]),
    )


def f1_by_answer(rows: Sequence[tuple[BenchItem, int]]) -> float:
    """StepWiser's own split: by final answer wrong / right instead of by label (paper-facts: Table 5's two metrics)."""
    return harmonic_mean(
        stats.mean([p == item.label for item, p in rows if not item.final_correct]),
        stats.mean([p == item.label for item, p in rows if item.final_correct]),
    )


def score(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    """All figures of one judge: both F1 with their intervals, accuracies, step accuracy up to the first error, unreadable share,
    the item's predictions; of every part on its own where there are several."""
    parts: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        parts.setdefault(item.id.rpartition("-")[0], []).append(i)
    found = _figures(items, judgments, seed, resamples)
    if len(parts) > 1:
        found["by_part"] = {
            part: _figures([items[i] for i in some], [judgments[i] for i in some], seed, resamples)
            for part, some in parts.items()
        }
        for figures in found["by_part"].values():
            del figures["predictions"]
    return found


def _figures(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]], seed: int, resamples: int) -> dict:
    rows = [(item, predict(j)) for item, j in zip(items, judgments, strict=True)]
    upto = [
        (s.label, j.verdict)
        for item, js in zip(items, judgments, strict=True)
        for s, j in list(zip(item.steps(), js, strict=True))[: item.label + 1 if item.label >= 0 else None]
    ]
    with_error, without = accuracies(rows)
    sides = [stats.mean([verdict is label for label, verdict in upto if label is side]) for side in (True, False)]
    every = flat(judgments)
    return {
        "f1": f1_official(rows),
        "interval": stats.bootstrap(rows, f1_official, seed, resamples),
        "f1_by_answer": f1_by_answer(rows),
        "interval_by_answer": stats.bootstrap(rows, f1_by_answer, seed, resamples),
        "accuracy_error": with_error,
        "accuracy_correct": without,
        "balanced_accuracy": stats.mean(sides),
        "unparseable": stats.mean([j.verdict is None for j in every]),
        "tokens_per_step": stats.mean([j.tokens for j in every]),
        "predictions": [p for _, p in rows],
    }


def f1_difference(
    items: Sequence[BenchItem], a: Sequence[int], b: Sequence[int], seed: int, resamples: int
) -> tuple[float, tuple[float, float]]:
    """F1 of predictions `a` minus that of `b`, and its paired bootstrap interval."""
    rows = list(zip(items, a, b, strict=True))

    def difference(sample: Sequence[tuple[BenchItem, int, int]]) -> float:
        return f1_official([(item, p) for item, p, _ in sample]) - f1_official([(item, p) for item, _, p in sample])

    return difference(rows), stats.bootstrap(rows, difference, seed, resamples)


def exact_items(run: Run) -> list[BenchItem]:
    """Test solutions of the segmented policy with the world's exact labels."""
    world, count = run.world, run.recipe.evaluate.solutions
    problems = world.load("test", run.recipe.problems.test, run.seed)
    each = -(-count // len(problems))
    with run.lm.using(POLICY):
        solutions = run.records(
            run.folder / "evaluate" / "solutions.jsonl",
            Solution,
            "test: solutions to judge",
            len(problems) * each,
            lambda tick: flat(
                sample_solutions(
                    run.lm,
                    run.sampler,
                    world,
                    problems,
                    each,
                    run.seed_of("evaluate"),
                    run.recipe.segment.max_new_tokens + TAG_TOKENS,
                    True,
                    tick,
                )
            ),
        )
    by_id: dict[str, Problem] = {p.id: p for p in problems}
    items = []
    for s in [s for s in solutions if s.well_formed][:count]:
        labels = world.exact_labels(by_id[s.problem_id], s.chunks)
        items.append(
            BenchItem(
                s.problem_id, by_id[s.problem_id].question, s.chunks, labels.index(False) if False in labels else -1, s.correct
            )
        )
    return items


def load_items(run: Run) -> list[BenchItem]:
    if run.recipe.evaluate.source == "exact":
        if run.world.exact_labels is None:
            raise ValueError(f"the world {run.world.name!r} has no exact labels: use --evaluate.source processbench")
        return exact_items(run)
    if run.world.bench is None:
        raise ValueError(f"the world {run.world.name!r} has no ProcessBench part: use --evaluate.source exact")
    knobs = run.recipe.evaluate
    return [item for part in knobs.parts for item in run.world.bench(part, knobs.solutions, run.seed)]


def run_stage(run: Run) -> None:
    """Writes evaluate/: each judge's judgments (JSONL), metrics.json with a row each, showcase.json."""
    from minisw.judges import AlwaysPositive
    from minisw.judges.discriminative import CLASSIFIER, DiscriminativeJudge
    from minisw.judges.generative import JUDGE, START, TENTH, ElicitedJudge, GenerativeJudge

    recipe, lm, folder = run.recipe, run.lm, run.folder / "evaluate"
    run.require(POLICY, run.folder / "segment")
    run.require(CLASSIFIER, run.folder / "classifier")
    names = [START, JUDGE] + ([TENTH] if recipe.judge.tenth else [])
    for name in names:
        run.require(name, run.folder / "judge")
    items = load_items(run)
    micro = recipe.model.micro_tokens
    threshold = json.loads((run.folder / "classifier" / "metrics.json").read_text(encoding="utf-8"))["threshold"]

    def generative(adapter: str | None, name: str, votes: int = 1) -> GenerativeJudge:
        return GenerativeJudge(
            lm,
            run.sampler,
            run.world.prompts,
            adapter,
            recipe.judge.max_new_tokens,
            micro,
            name,
            recipe.judge.temperature if votes > 1 else 0.0,
            votes,
        )

    judges = {
        "always": AlwaysPositive(),
        "untrained": generative(None, "untrained judge"),
        "classifier": DiscriminativeJudge(lm, run.world.prompts, CLASSIFIER, micro, threshold),
        "start": generative(START, "judge before GRPO (RS-FT)"),
        "judge": generative(JUDGE, "judge after GRPO"),
    }
    if run.world.elicit is not None:
        judges["elicited"] = ElicitedJudge(lm, run.sampler, run.world)
    if recipe.judge.votes > 1:
        judges["vote"] = generative(JUDGE, f"judge after GRPO, majority of {recipe.judge.votes}", recipe.judge.votes)
    if recipe.judge.tenth:
        judges["tenth"] = generative(TENTH, "judge, a tenth of the labels")
    used = run_labels(run)
    rows, results = [], {}
    for key, judge in judges.items():
        results[key] = judge_items(run, key, judge, items)
        rows.append(
            {
                "id": key,
                "name": judge.name,
                "labels_used": used.get(key, 0),
                **score(items, results[key], run.seed, recipe.evaluate.resamples),
            }
        )
    predictions = {row["id"]: row.pop("predictions") for row in rows}
    pairs = [("judge", other) for other in ("classifier", "untrained", "start", "elicited")] + [("tenth", "classifier")]
    differences = {}
    for a, b in [(a, b) for a, b in pairs if {a, b} <= predictions.keys()]:
        measured, interval = f1_difference(items, predictions[a], predictions[b], run.seed, recipe.evaluate.resamples)
        differences[f"{a}-{b}"] = {"measured": measured, "interval": interval}
    write_json(folder / "showcase.json", showcase(items, results["judge"]))
    write_json(
        folder / "metrics.json",
        {"rows": rows, "differences": differences, "items": len(items), "with_error": sum(item.label >= 0 for item in items)},
    )


def run_labels(run: Run) -> dict[str, int]:
    """Labels each judge was trained with."""
    metrics = json.loads((run.folder / "judge" / "metrics.json").read_text(encoding="utf-8"))
    full = metrics["labels"]
    used = {"classifier": full, "start": metrics["format"]["labels"], "judge": full, "vote": full}
    return used | {"tenth": metrics.get("tenth_labels", 0)}


def judge_items(run: Run, key: str, judge, items: Sequence[BenchItem]) -> list[list[Judgment]]:
    """Judgments of every step of every item; from the file where it is there."""
    path = run.folder / "evaluate" / f"{key}.jsonl"
    steps = flat([item.steps() for item in items])
    extra = {"probabilities": True} if key == "judge" else {}  # one more forward over all of it: for the judge in question
    flat_judgments = run.records(
        path,
        Judgment,
        judge.name,
        len(steps) * getattr(judge, "votes", 1),
        lambda tick: judge.judge(steps, run.seed_of(f"evaluate-{key}"), tick, **extra),
    )
    out, at = [], 0
    for item in items:
        out.append(flat_judgments[at : at + len(item.chunks)])
        at += len(item.chunks)
    return out


def showcase(items: Sequence[BenchItem], judgments: Sequence[Sequence[Judgment]]) -> list[dict]:
    """Three solutions for the report: an error that was found, a right solution passed, and a miss where there is one."""
    kinds = {
        "found": lambda i, p: i.label >= 0 and p == i.label,
        "passed": lambda i, p: i.label < 0 and p == -1,
        "missed": lambda i, p: p != i.label,
    }
    picked: list[int] = []
    for fits in kinds.values():
        picked += [
            n for n, (item, j) in enumerate(zip(items, judgments, strict=True)) if n not in picked and fits(item, predict(j))
        ][:1]
    return [
        {
            "question": items[n].question,
            "correct": items[n].final_correct,
            "chunks": [
                {
                    "text": s.chunk,
                    "verdict": j.verdict,
                    "analysis": j.analysis,
                    "p_positive": j.p_positive,
                    "label": s.label if items[n].label < 0 or i <= items[n].label else None,
                }
                for i, (s, j) in enumerate(zip(items[n].steps(), judgments[n], strict=True))
            ],
        }
        for n in picked
    ]


__all__ = ["f1_by_answer", "f1_official", "predict", "run_stage", "score"]
