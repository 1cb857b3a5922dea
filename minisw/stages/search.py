"""Stage 5, StepWiser §4.4: chunk-reset with the judge, beside baselines that may sample as many tokens.

    1. chunk-reset with the StepWiser judge; its tokens (the judge's included) are everyone's budget
    2. random rejection at the judge's rate: the control
    3. independent samples for plain sampling, majority vote and best-of-N
    4. accuracy and tokens of every method, and paired differences
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from minisw.evaluate import stats
from minisw.judges.base import Judge, RandomReject
from minisw.judges.generative import GenerativeJudge
from minisw.judges.stepwiser import STEPWISER
from minisw.records import Answer, Problem, Solution, Try, flat, read_jsonl, write_json, write_jsonl
from minisw.runs import Run
from minisw.search.baselines import _answer, best_of_n, majority, samples_within, score_solutions
from minisw.search.chunk_reset import chunk_reset, rejection_rate


def run_stage(run: Run) -> None:
    """Writes search/: the answers of every method, metrics.json (accuracy, interval, tokens; test and hard), trace.json."""
    recipe, folder = run.recipe, run.folder / "search"
    run.require(STEPWISER, run.folder / "judges" / STEPWISER)
    judge, policy = GenerativeJudge(run.judge_context, STEPWISER), run.policy()
    test = run.task.load("test", recipe.problems.test, run.seed)[: recipe.search.problems]
    hard = run.task.load("hard", recipe.problems.hard, run.seed) if run.task.has_hard and recipe.problems.hard else []
    problems = test + hard  # one batch: rounds with few rows cost almost as much as rounds with many

    reset = search(run, "chunk-reset", problems, judge)
    tries = read_jsonl(folder / "chunk-reset-tries.jsonl", Try)
    rate = rejection_rate(tries)
    random = search(run, "random", problems, RandomReject(rate))

    # independent samples: as many as the tokens of chunk-reset pay for, in each part; the larger need decides how many are drawn
    parts = {"test": slice(0, len(test))} | ({"hard": slice(len(test), None)} if hard else {})
    budgets = {name: sum(a.policy_tokens + a.judge_tokens for a in reset[part]) for name, part in parts.items()}
    plain = {name: sum(a.policy_tokens - a.rejected_tokens for a in reset[part]) for name, part in parts.items()}
    votes = max(2, min(recipe.search.votes, max(int(1.2 * budgets[name] / plain[name]) + 1 for name in parts)))
    samples = run.records(
        folder / "samples.jsonl",
        Solution,
        "plain samples",
        len(problems) * votes,
        lambda tick: flat(policy.solve(problems, votes, run.seed_of("votes"), tick)),
    )
    groups = [samples[i : i + votes] for i in range(0, len(samples), votes)]
    # what one judged sample costs, from the judgments already made: as many are scored as that pays for, and a few more
    a_judgment = sum(a.judge_tokens for a in reset) / max(1, len(tries))
    a_sample = stats.mean([s.tokens + a_judgment * len(s.chunks) for s in samples])
    candidates = []
    for name, part in parts.items():
        count, among = int(1.15 * budgets[name] / a_sample) + 1, groups[part]
        candidates += [g[: max(1, -(-(count - i) // len(among)))] for i, g in enumerate(among)]

    def choose(tick) -> list[Answer]:
        questions = {p.id: p.question for p in problems}
        scores, costs = score_solutions(judge, questions, flat(candidates), run.seed_of("best-of-n"), tick)
        at = [sum(map(len, candidates[:i])) for i in range(len(candidates) + 1)]
        scores, costs = [[v[a:b] for a, b in itertools.pairwise(at)] for v in (scores, costs)]
        return [
            answer
            for name, part in parts.items()
            for answer in best_of_n(candidates[part], scores[part], costs[part], budgets[name])
        ]

    best = run.records(folder / "best-of-n.jsonl", Answer, "best of N", sum(len(s.chunks) for c in candidates for s in c), choose)
    write_json(folder / "trace.json", _trace(problems, reset, tries))
    resamples = recipe.evaluate.resamples
    metrics = {name: summary(reset, random, groups, best, part, run.seed, resamples) for name, part in parts.items()}
    write_json(folder / "metrics.json", metrics.pop("test") | {"rejection_rate": rate} | metrics)


def search(run: Run, name: str, problems: Sequence[Problem], judge: Judge) -> list[Answer]:
    """Chunk-reset with one judge; its answers and, in search/`name`-tries.jsonl, every try."""
    policy, knobs, folder = run.policy(), run.recipe.policy, run.folder / "search"

    def make(tick) -> list[Answer]:
        paths = chunk_reset(
            problems,
            policy.propose,
            judge.judge,
            run.recipe.search.tries,
            knobs.max_chunks,
            run.seed_of(name),
            policy.within_budget,
            tick,
        )
        write_jsonl(folder / f"{name}-tries.jsonl", flat([path.tries for path in paths]))
        return [path.answer(name) for path in paths]

    return run.records(folder / f"{name}.jsonl", Answer, name, len(problems), make)


def summary(
    reset: Sequence[Answer],
    random: Sequence[Answer],
    groups: Sequence[Sequence[Solution]],
    best: Sequence[Answer],
    part: slice,
    seed: int,
    resamples: int,
) -> dict:
    """Every method's row on some of the problems; chunk-reset minus sampling, random rejection and majority, paired."""
    reset, random, groups, best = reset[part], random[part], groups[part], best[part]
    counts = samples_within([[s.tokens for s in g] for g in groups], sum(a.policy_tokens + a.judge_tokens for a in reset))
    voted = [_answer("majority vote", g[:n], majority(g[:n])) for g, n in zip(groups, counts, strict=True)]
    methods = {
        "plain sampling": [_answer("plain sampling", g[:1], g[0]) for g in groups],
        "chunk-reset with the judge": reset,
        "majority vote, same tokens": voted,
        "best of N by the judge, same tokens": best,
        "random rejection, same rate": random,
    }
    rows = [_row(name, answers) for name, answers in methods.items()]
    # plain sampling's accuracy from all samples of a problem: the same expectation with less noise
    rates = [stats.mean([s.correct for s in g]) for g in groups]
    rows[0] |= {"accuracy": stats.mean(rates), "interval": stats.bootstrap(rates, stats.mean, seed, resamples)}

    def gain(others: Sequence[float]) -> dict:
        over = [float(a.correct) - float(other) for a, other in zip(reset, others, strict=True)]
        return {"measured": stats.mean(over), "interval": stats.bootstrap(over, stats.mean, seed, resamples)}

    return {
        "rows": rows,
        "difference": gain(rates),
        "random_difference": gain([a.correct for a in random]),
        "majority_difference": gain([a.correct for a in voted]),
    }


def _row(method: str, answers: Sequence[Answer]) -> dict:
    right = sum(a.correct for a in answers)
    row = {"method": method, "accuracy": right / len(answers), "interval": stats.wilson(right, len(answers))}
    for key in ("policy_tokens", "judge_tokens", "rejected_tokens"):
        row[key] = stats.mean([getattr(a, key) for a in answers])
    return row | {"tokens": row["policy_tokens"] + row["judge_tokens"]}


def _trace(problems: Sequence[Problem], answers: Sequence[Answer], tries: Sequence[Try]) -> dict:
    """A search for the report: one that ends right, with the most rejections among those."""
    by_problem: dict[str, list[Try]] = {p.id: [] for p in problems}
    for t in tries:
        by_problem[t.problem_id].append(t)
    n = max(range(len(problems)), key=lambda i: (answers[i].correct, sum(not t.kept for t in by_problem[problems[i].id])))
    return {
        "question": problems[n].question,
        "answer": problems[n].answer,
        "given": answers[n].answer,
        "correct": answers[n].correct,
        "tries": [dataclasses.asdict(t) for t in by_problem[problems[n].id]],
    }
