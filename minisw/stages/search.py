"""Stage 5, StepWiser §4.4: chunk-reset search with the judge, against baselines that may spend as many tokens.

    1. problems of the test split (and of the hard split, if the recipe has one)
    2. chunk-reset with the StepWiser judge: the tokens of policy and judge together are the budget of every baseline
    3. chunk-reset with random rejections at the judge's rate: the control
    4. independent samples: plain sampling and majority vote
    5. the judge scores some of these samples: best-of-N
    6. accuracy, tokens and cut-off share of each method, and paired differences

The paper counts no judge tokens and has no baseline of equal cost; here the judge's tokens count. A solution has the same
limits in every method: tokens of text and number of chunks (`Policy.within_budget`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.judges.base import Judge, RandomReject
from minisw.judges.generative import GenerativeJudge
from minisw.judges.stepwiser import STEPWISER
from minisw.records import Answer, Problem, Solution, Try, flat, read_jsonl, write_json, write_jsonl
from minisw.runs import Run
from minisw.search.baselines import answer_of, best_of_n_answers, score_solutions, vote_answers
from minisw.search.chunk_reset import chunk_reset, rejection_rate

# Samples drawn and samples scored, over what the budget pays for at mean cost: single solutions may be cheaper.
EXTRA_DRAWN, EXTRA_SCORED = 1.2, 1.15


def run_stage(run: Run) -> None:
    """Writes search/: answers, tries and samples of the methods (JSONL), trace.json, and metrics.json with the rows of the test
    split and, under "hard", those of the hard split."""
    recipe, folder = run.recipe, run.folder / "search"
    run.require(STEPWISER, run.folder / "judges" / STEPWISER)
    judge = GenerativeJudge(run.judge_context, STEPWISER)

    # 1. problems: both splits in one batch, because a round with few rows costs almost as much as a round with many
    problems = run.task.load("test", recipe.problems.test, run.seed)[: recipe.search.problems]
    parts = {"test": slice(0, len(problems))}
    if run.task.has_hard and recipe.problems.hard:
        parts["hard"] = slice(len(problems), None)
        problems = problems + run.task.load("hard", recipe.problems.hard, run.seed)

    # 2. chunk-reset with the judge; what it spends on a part is the budget of that part's baselines
    reset, tries = search(run, "chunk-reset", problems, judge)
    budgets = {name: spent_tokens(reset[part]) for name, part in parts.items()}

    # 3. the control: chunk-reset with random rejections at the judge's rate
    rate = rejection_rate(tries)
    random, _ = search(run, "random", problems, RandomReject(rate))

    # 4. independent samples, for plain sampling and the vote: as many as the larger budget pays for
    plain = {name: sum(a.policy_tokens - a.rejected_tokens for a in reset[part]) for name, part in parts.items()}
    wanted = max(int(EXTRA_DRAWN * budgets[name] / plain[name]) + 1 for name in parts)
    samples = sample_solutions(run, problems, max(2, min(recipe.search.votes, wanted)))

    # 5. best-of-N: the judge scores as many of the samples as the budget pays for
    judge_tokens = stats.mean([t.judge_tokens for t in tries])  # of one judgment
    candidates = flat([affordable(samples[part], judge_tokens, budgets[name]) for name, part in parts.items()])
    best = choose_best(run, problems, candidates, judge, {name: (parts[name], budgets[name]) for name in parts})

    # 6. metrics
    metrics = {
        name: summary(reset[part], random[part], samples[part], best[part], budgets[name], run.seed, recipe.evaluate.resamples)
        for name, part in parts.items()
    }
    write_json(folder / "trace.json", trace(problems, reset, tries))
    write_json(folder / "metrics.json", metrics.pop("test") | {"rejection_rate": rate} | metrics)


# --- the methods ---------------------------------------------------------------------------------------------------------


def search(run: Run, name: str, problems: Sequence[Problem], judge: Judge) -> tuple[list[Answer], list[Try]]:
    """Chunk-reset with one judge: answers and tries, from search/`name`.jsonl and search/`name`-tries.jsonl if they exist."""
    policy, recipe, folder = run.policy(), run.recipe, run.folder / "search"

    def make(tick) -> list[Answer]:
        paths = chunk_reset(
            problems,
            policy.propose,
            judge.judge,
            recipe.search.tries,
            recipe.policy.max_chunks,
            run.seed_of(name),
            policy.within_budget,
            tick,
        )
        write_jsonl(folder / f"{name}-tries.jsonl", flat([path.tries for path in paths]))
        return [path.answer(name) for path in paths]

    answers = run.records(folder / f"{name}.jsonl", Answer, name, len(problems), make)
    return answers, read_jsonl(folder / f"{name}-tries.jsonl", Try)


def spent_tokens(answers: Sequence[Answer]) -> int:
    """Tokens of policy and judge for all answers."""
    return sum(a.policy_tokens + a.judge_tokens for a in answers)


def sample_solutions(run: Run, problems: Sequence[Problem], count: int) -> list[list[Solution]]:
    """`count` independent solutions of every problem: [problems][count]."""
    samples = run.records_in_shards(
        run.folder / "search" / "samples.jsonl",
        Solution,
        "plain samples",
        "votes",
        [(p, count) for p in problems],
        lambda shard, seed, tick: flat(run.policy().solve(shard, count, seed, tick)),
    )
    return [samples[i : i + count] for i in range(0, len(samples), count)]


def affordable(groups: Sequence[Sequence[Solution]], judge_tokens: float, budget: int) -> list[list[Solution]]:
    """The first samples of every problem (at least one), about as many in all as `budget` pays for with their judging.

    `judge_tokens` is the mean cost of one judgment. Which of them count is decided later, by what they really cost.
    """
    cost = stats.mean([s.tokens + judge_tokens * len(s.chunks) for s in flat(groups)])
    total, problems = int(EXTRA_SCORED * budget / cost) + 1, len(groups)
    return [list(group[: max(1, -(-(total - i) // problems))]) for i, group in enumerate(groups)]


def choose_best(
    run: Run,
    problems: Sequence[Problem],
    candidates: Sequence[Sequence[Solution]],
    judge: GenerativeJudge,
    parts: dict[str, tuple[slice, int]],
) -> list[Answer]:
    """Best-of-N answers to all problems, from search/best-of-n.jsonl if it exists. `parts`: problems and budget of each split."""

    def make(tick) -> list[Answer]:
        questions = {p.id: p.question for p in problems}
        scores, costs = score_solutions(judge, questions, candidates, run.seed_of("best-of-n"), tick)
        return flat([best_of_n_answers(candidates[part], scores[part], costs[part], budget) for part, budget in parts.values()])

    steps = sum(len(s.chunks) for s in flat(candidates))
    return run.records(run.folder / "search" / "best-of-n.jsonl", Answer, "best of N", steps, make)


# --- metrics -------------------------------------------------------------------------------------------------------------


def summary(
    reset: Sequence[Answer],
    random: Sequence[Answer],
    samples: Sequence[Sequence[Solution]],
    best: Sequence[Answer],
    budget: int,
    seed: int,
    resamples: int,
) -> dict:
    """Rows of all methods on the problems of one split; accuracy of chunk-reset minus that of three others, paired by problem.

    Plain sampling's accuracy and cut-off share are means over all samples of a problem: the expectation of one sample, with
    less noise.
    """
    voted = vote_answers(samples, budget)
    methods = {
        "plain sampling": [answer_of("plain sampling", group[:1], group[0]) for group in samples],
        "chunk-reset with the judge": reset,
        "majority vote, same tokens": voted,
        "best of N by the judge, same tokens": best,
        "random rejection, same rate": random,
    }
    rows = [row(name, answers) for name, answers in methods.items()]
    rates = [stats.mean([s.correct for s in group]) for group in samples]
    rows[0] |= {
        "accuracy": stats.mean(rates),
        "interval": stats.bootstrap(rates, stats.mean, seed, resamples),
        "cut_off": stats.mean([not s.finished for s in flat(samples)]),
    }

    def gain(others: Sequence[float]) -> dict:
        differences = [float(a.correct) - float(other) for a, other in zip(reset, others, strict=True)]
        return {"measured": stats.mean(differences), "interval": stats.bootstrap(differences, stats.mean, seed, resamples)}

    return {
        "rows": rows,
        "difference": gain(rates),
        "random_difference": gain([a.correct for a in random]),
        "majority_difference": gain([a.correct for a in voted]),
    }


def row(method: str, answers: Sequence[Answer]) -> dict:
    """One method's accuracy with Wilson's interval, mean tokens per problem, and the share of cut-off solutions.

    A vote counts as cut off only if all its samples were: then there is no answer.
    """
    correct = sum(a.correct for a in answers)
    means = {
        key: stats.mean([getattr(a, key) for a in answers]) for key in ("policy_tokens", "judge_tokens", "rejected_tokens")
    }
    return {
        "method": method,
        "accuracy": correct / len(answers),
        "interval": stats.wilson(correct, len(answers)),
        **means,
        "tokens": means["policy_tokens"] + means["judge_tokens"],
        "cut_off": stats.mean([not a.finished for a in answers]),
    }


def trace(problems: Sequence[Problem], answers: Sequence[Answer], tries: Sequence[Try]) -> dict:
    """One search for the report: of those that end with a right answer, the one with the most rejections."""
    by_problem: dict[str, list[Try]] = {p.id: [] for p in problems}
    for t in tries:
        by_problem[t.problem_id].append(t)

    def interest(i: int) -> tuple[bool, int]:
        return answers[i].correct, sum(not t.kept for t in by_problem[problems[i].id])

    n = max(range(len(problems)), key=interest)
    return {
        "question": problems[n].question,
        "answer": problems[n].answer,
        "given": answers[n].answer,
        "correct": answers[n].correct,
        "tries": [dataclasses.asdict(t) for t in by_problem[problems[n].id]],
    }
