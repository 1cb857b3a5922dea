"""Stage 1, StepWiser §3.1: the policy learns to cut its own reasoning into chunks of thought.

    1. the base solves the test problems and the training problems
    2. keep right solutions; a teacher segments them; keep the segmentations that rejoin exactly
    3. SFT with LoRA on the segmented solutions: this is the policy of all later stages
    4. the policy solves the test problems; compare chunks and accuracy with the base
"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.chunks import chunk_statistics, split_blank_lines
from minisw.engine.logprobs import Example
from minisw.evaluate import stats
from minisw.policy import POLICY, Policy
from minisw.problems import first_mistakes
from minisw.records import Problem, Solution, flat, write_json
from minisw.runs import Run
from minisw.teacher import segmentations
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft


def run_stage(run: Run) -> None:
    """Writes segment/: base and policy solutions on test, the SFT curve, metrics.json and the adapter `policy`."""
    knobs, task, folder = run.recipe.segment, run.task, run.folder / "segment"
    test = task.load("test", run.recipe.problems.test, run.seed)
    train = task.load("train", run.recipe.problems.train, run.seed)
    base_policy = run.policy(None)

    base = solve(run, base_policy, "base-test", test, 1)
    sampled = solve(run, base_policy, "base-train", train, knobs.samples)
    right = right_solutions(sampled, knobs.keep)
    taught = run.records(
        folder / "taught.jsonl", Solution, "the teacher segments them", len(right), lambda tick: segment(run, right)
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
    """`count` solutions of every problem, from segment/`name`.jsonl if it is there."""
    return run.records(
        run.folder / "segment" / f"{name}.jsonl",
        Solution,
        name,
        len(problems) * count,
        lambda tick: flat(policy.solve(problems, count, run.seed_of(name), tick)),
    )


def right_solutions(solutions: Sequence[Solution], keep: int) -> list[Solution]:
    """At most `keep` right, finished solutions of every problem."""
    by_problem: dict[str, list[Solution]] = {}
    for s in solutions:
        if s.correct and s.finished and len(by_problem.setdefault(s.problem_id, [])) < keep:
            by_problem[s.problem_id].append(s)
    return [s for group in by_problem.values() for s in group]


def segment(run: Run, solutions: Sequence[Solution]) -> list[Solution]:
    """The solutions as the teacher cuts them, once for each distinct segmentation that passes the filter."""
    knobs = run.recipe.segment
    with run.lm.using(None):
        cuts = segmentations(
            run.lm, run.sampler, run.task, [s.text for s in solutions], knobs.tries, knobs.teacher, run.seed_of("teacher")
        )
    return [
        Solution(s.problem_id, tuple(chunks), s.answer, s.correct, True, s.tokens)
        for s, offers in zip(solutions, cuts, strict=True)
        for chunks in offers
    ]


def train_policy(run: Run, problems: Sequence[Problem], taught: Sequence[Solution]) -> list[dict]:
    """SFT of the adapter `policy` on segmented solutions; returns the curve."""
    knobs, policy = run.recipe.segment.training, Policy(run.lm, run.sampler, run.task.prompts, run.recipe.policy)
    question = {p.id: p.question for p in problems}
    examples = [Example(policy.prompt(question[s.problem_id]), policy.sft_target(s.chunks)) for s in taught]

    def fit(checkpoint, tick) -> list[dict]:
        seed = run.seed_of("segment-sft")
        return train_sft(run.lm, POLICY, examples, knobs, run.recipe.model.micro_tokens, seed, Monitor(checkpoint, progress=tick))

    steps = knobs.epochs * (len(examples) // min(knobs.batch, len(examples)))
    return run.train(POLICY, run.folder / "segment", fit, steps, "SFT: the policy learns to segment")


def compare(base: Sequence[Solution], policy: Sequence[Solution], seed: int, resamples: int) -> dict:
    """Chunks, tokens and accuracy of base and policy on the same problems, with intervals (StepWiser Tables 1 and 4)."""
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
    right = sum(s.correct for s in solutions)
    return {
        "accuracy": right / len(solutions),
        "interval": stats.wilson(right, len(solutions)),
        "tokens": stats.mean([s.tokens for s in solutions]),
        "cut_off": stats.mean([not s.finished for s in solutions]),
    }


def _ratio(rows: Sequence[tuple[int, int]]) -> float:
    return sum(a for a, _ in rows) / max(1, sum(b for _, b in rows))
