"""Stage 1, StepWiser §3.1: the policy learns to write its reasoning in chunks of thought.

    1. the base solves the test problems and the training problems
    2. keep right solutions that were not cut off; the teacher segments them; keep the segmentations that rejoin exactly
    3. SFT of a LoRA adapter on all of these: the policy of the later stages
    4. the policy solves the test problems; compare its chunks and its accuracy with the base
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from minisw.chunks import chunk_statistics, split_blank_lines
from minisw.evaluate import stats
from minisw.policy import POLICY, Policy
from minisw.problems import first_mistakes, training_problems
from minisw.records import Problem, Solution, flat, write_json
from minisw.runs import Run
from minisw.teacher import segmentations
from minisw.training.policy_sft import policy_sft


def run_stage(run: Run) -> None:
    """Writes segment/: solutions of the base and the policy, taught.jsonl, the SFT curve, the adapter `policy` and metrics.json.

    Raises ValueError if the teacher's filter leaves nothing to learn from.
    """
    knobs, task, folder = run.recipe.segment, run.task, run.folder / "segment"
    test = task.load("test", run.recipe.problems.test, run.seed)
    train, _ = training_problems(task, run.recipe)  # now, so that too few problems for stage 2 are noticed here
    base_policy = run.policy(None)

    base = solve(run, base_policy, "base-test", test, 1)
    sampled = solve(run, base_policy, "base-train", train, knobs.samples)
    right = right_solutions(sampled, knobs.keep)
    taught = run.records(
        folder / "taught.jsonl", Solution, "teacher: segmentations", len(right), lambda tick: segment(run, base_policy, right)
    )
    if not taught:
        raise ValueError("no segmentation passed the filter: raise --problems.train, --segment.samples or --segment.tries")
    curve = train_policy(run, train, taught)
    policy = solve(run, run.policy(), "policy-test", test, 1)

    metrics = compare(base, policy, run.seed, run.recipe.evaluate.resamples)
    metrics |= {"taught": len(taught), "sampled": len(sampled), "right": len(right)}
    metrics["final_loss"] = curve[-1]["loss"] if curve else None
    if task.mistake_kind:
        metrics["mistakes"] = first_mistakes(task, {p.id: p for p in test}, policy)
    write_json(folder / "metrics.json", metrics)


def solve(run: Run, policy: Policy, name: str, problems: Sequence[Problem], count: int) -> list[Solution]:
    """`count` solutions of every problem; read from segment/`name`.jsonl if it exists."""
    return run.records_in_shards(
        run.folder / "segment" / f"{name}.jsonl",
        Solution,
        name,
        name,
        [(p, count) for p in problems],
        lambda shard, seed, tick: flat(policy.solve(shard, count, seed, tick)),
    )


def right_solutions(solutions: Sequence[Solution], keep: int) -> list[Solution]:
    """The first `keep` solutions of every problem that are right and were not cut off."""
    by_problem: dict[str, list[Solution]] = {}
    for s in solutions:
        if s.correct and s.finished and len(by_problem.setdefault(s.problem_id, [])) < keep:
            by_problem[s.problem_id].append(s)
    return [s for group in by_problem.values() for s in group]


def segment(run: Run, base: Policy, solutions: Sequence[Solution]) -> list[Solution]:
    """The solutions in the teacher's chunks: one record for every distinct segmentation that passes the filter.

    Segmentations with more chunks than the policy may write (`PolicyKnobs.max_chunks`) are dropped.
    """
    offers = segmentations(base, run.task, [s.text for s in solutions], run.recipe.segment, run.seed_of("teacher"))
    return [
        dataclasses.replace(s, chunks=tuple(chunks))
        for s, offer in zip(solutions, offers, strict=True)
        for chunks in offer
        if base.within_budget(chunks)
    ]


def train_policy(run: Run, problems: Sequence[Problem], taught: Sequence[Solution]) -> list[dict]:
    """SFT of the adapter `policy` on segmented solutions; returns the training curve."""
    knobs, policy = run.recipe.segment.training, Policy(run.lm, run.sampler, run.task.prompts, run.recipe.policy)
    questions = {p.id: p.question for p in problems}
    fit, steps = policy_sft(policy, questions, taught, knobs, run.recipe.model.micro_tokens, run.seed_of("segment-sft"))
    return run.train(POLICY, run.folder / "segment", fit, steps, "SFT: the policy learns to write chunks")


def compare(base: Sequence[Solution], policy: Sequence[Solution], seed: int, resamples: int) -> dict:
    """Chunks, tokens, accuracy and cut-off share of base and policy on the same problems (StepWiser Tables 1 and 4).

    `ratio` is the policy's chunks over blank-line parts of the same texts; `difference` is its accuracy minus that of the base,
    paired by problem. Both have a bootstrap interval.
    """
    kept = [s for s in policy if s.well_formed]
    statistics = chunk_statistics(policy)
    counts = [(len(s.chunks), len(split_blank_lines(s.text))) for s in kept]
    gains = [float(b.correct) - float(a.correct) for a, b in zip(base, policy, strict=True)]
    return {
        "base": {**_summary(base), **{k: v for k, v in chunk_statistics(base).items() if "_line_" in k or "newline" in k}},
        "policy": {**_summary(policy), **statistics, "format_kept": stats.mean([s.well_formed for s in policy])},
        "ratio": statistics["ratio"],
        "ratio_interval": stats.bootstrap(counts, _ratio, seed, resamples),
        "difference": stats.mean(gains),
        "difference_interval": stats.bootstrap(gains, stats.mean, seed, resamples),
    }


def _summary(solutions: Sequence[Solution]) -> dict:
    """Accuracy with its interval, mean sampled tokens, and the share of solutions that were cut off at the budget."""
    right = sum(s.correct for s in solutions)
    return {
        "accuracy": right / len(solutions),
        "interval": stats.wilson(right, len(solutions)),
        "tokens": stats.mean([s.tokens for s in solutions]),
        "cut_off": stats.mean([not s.finished for s in solutions]),
    }


def _ratio(rows: Sequence[tuple[int, int]]) -> float:
    """Sum of own chunks over sum of blank-line parts, for one resample."""
    return sum(a for a, _ in rows) / max(1, sum(b for _, b in rows))
