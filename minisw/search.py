"""Stage 5, StepWiser §4.4: the judge steers generation (chunk-reset), beside baselines at the same number of tokens.

Chunk-reset: generate one chunk; judge it; Positive keeps it, Negative throws it away and samples again from the same place,
at most `tries` times, then the last is kept (the paper leaves that open). All problems advance side by side, a batch of
chunks and a batch of judgments a round.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from minisw import stats
from minisw.answers import canonical, final_answer, verify
from minisw.judges import Judge, RandomReject
from minisw.judges.generative import JUDGE, GenerativeJudge
from minisw.model import LanguageModel
from minisw.problems import World
from minisw.prompts import CLOSE, OPEN
from minisw.recipe import SearchKnobs
from minisw.records import Answer, LabelledStep, Problem, Solution, write_json
from minisw.rollout import Request, Sampler, Sampling
from minisw.runs import Run
from minisw.segment import POLICY, TAG_TOKENS, flat, sample_solutions, tag


@dataclass
class _Path:
    """One problem's solution as it grows."""

    problem: Problem
    chunks: list[str] = field(default_factory=list)
    failed: int = 0  # tries thrown away at this place
    done: bool = False
    policy_tokens: int = 0
    judge_tokens: int = 0
    rejected_tokens: int = 0
    tries: list[dict] = field(default_factory=list)

    def answer(self, method: str) -> Answer:
        given = final_answer("".join(self.chunks))
        return Answer(
            self.problem.id,
            method,
            given,
            verify(self.problem.answer, given),
            self.policy_tokens,
            self.judge_tokens,
            self.rejected_tokens,
        )


def chunk_reset(
    lm: LanguageModel,
    sampler: Sampler,
    world: World,
    problems: Sequence[Problem],
    judge: Judge,
    knobs: SearchKnobs,
    method: str,
    seed: int,
    progress=None,
) -> tuple[list[Answer], list[list[dict]]]:
    """Search every problem; returns the answers and, a problem, every try (position, try, text, verdict, analysis, kept)."""
    paths = [_Path(p) for p in problems]
    for number in range(knobs.max_chunks * knobs.tries):
        active = [p for p in paths if not p.done]
        if not active:
            break
        with lm.using(POLICY):
            requests = [
                Request(lm.chat(world.prompts.solve_chunked.format(question=p.problem.question), tag(p.chunks))) for p in active
            ]
            groups = sampler.generate(requests, Sampling(knobs.max_chunk_tokens, world.temperature, CLOSE), seed * 1009 + number)
        texts, cut_off = [], []
        for path, (completion,) in zip(active, groups, strict=True):
            raw = lm.decode(completion.ids)
            path.policy_tokens += len(completion.ids)
            # what is behind the closing tag in the same token goes; a text without tags is the answer behind the chunks
            texts.append((raw.split(CLOSE)[0].replace(OPEN, ""), CLOSE in raw, len(completion.ids)))
            cut_off.append(not completion.finished)
        steps = [
            LabelledStep(p.problem.id, p.problem.question, tuple(p.chunks), text, False)
            for p, (text, _, _) in zip(active, texts, strict=True)
        ]
        judgments = judge.judge(steps, seed * 2003 + number)
        for path, (text, closed, tokens), cut, judgment in zip(active, texts, cut_off, judgments, strict=True):
            path.judge_tokens += judgment.tokens
            # an unreadable verdict rejects nothing: the judge has to say Negative; what was cut off or is blank is no chunk
            whole = not cut and bool(text.strip() or not closed)
            keep = (judgment.verdict is not False and whole) or path.failed + 1 >= knobs.tries
            path.tries.append(
                {
                    "position": len(path.chunks),
                    "try": path.failed + 1,
                    "text": text,
                    "verdict": judgment.verdict,
                    "analysis": judgment.analysis,
                    "kept": keep,
                }
            )
            if not keep:
                path.failed += 1
                path.rejected_tokens += tokens
                continue
            path.failed = 0
            path.chunks.append(text)
            ended = not closed and not cut
            path.done = ended or final_answer(text) is not None or len(path.chunks) >= knobs.max_chunks
            if path.done and progress:
                progress(1)
    return [p.answer(method) for p in paths], [p.tries for p in paths]


def rejection_rate(tries: Sequence[Sequence[dict]]) -> float:
    every = flat(tries)
    return stats.mean([t["verdict"] is False for t in every])


# --- baselines from independent samples ------------------------------------------------------------------------------


def majority(solutions: Sequence[Solution]) -> Solution:
    """The solution whose answer is the commonest (the first of them at a tie); one without an answer only if all lack one."""
    keys = [None if s.answer is None else canonical(s.answer) for s in solutions]
    return solutions[max(range(len(keys)), key=lambda i: -1 if keys[i] is None else keys.count(keys[i]))]


def within(costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """How many samples of each problem the budget pays for in all: every problem's first, then every second, … until the next
    one would pass it. One each at least. `costs` [problems][samples]."""
    counts, spent = [1] * len(costs), sum(row[0] for row in costs)
    for number in range(1, max(len(row) for row in costs)):
        for problem, row in enumerate(costs):
            if number < len(row):
                if spent + row[number] > budget:
                    return counts
                spent += row[number]
                counts[problem] += 1
    return counts


def score_solutions(
    judge: GenerativeJudge, questions: dict[str, str], solutions: Sequence[Solution], seed: int, progress=None
) -> tuple[list[float], list[int]]:
    """For best-of-N: the mean P(Positive) of each solution's chunks, and the judge's tokens spent on it."""
    steps = [
        LabelledStep(s.problem_id, questions[s.problem_id], s.chunks[:i], chunk, False)
        for s in solutions
        for i, chunk in enumerate(s.chunks)
    ]
    judgments, at, scores, costs = judge.judge(steps, seed, progress, probabilities=True), 0, [], []
    for s in solutions:
        part = judgments[at : at + len(s.chunks)]
        at += len(s.chunks)
        scores.append(stats.mean([j.p_positive for j in part]))
        costs.append(sum(j.tokens for j in part))
    return scores, costs


# --- the stage -------------------------------------------------------------------------------------------------------


def run_stage(run: Run) -> None:
    """Writes search/: the answers of every method, metrics.json (accuracy, interval, tokens; test and hard), trace.json."""
    recipe, knobs, lm, world, sampler, folder = (
        run.recipe,
        run.recipe.search,
        run.lm,
        run.world,
        run.sampler,
        run.folder / "search",
    )
    run.require(POLICY, run.folder / "segment")
    run.require(JUDGE, run.folder / "judge")
    test = world.load("test", recipe.problems.test, run.seed)[: knobs.problems]
    hard = world.load("hard", recipe.problems.hard, run.seed) if world.has_hard and recipe.problems.hard else []
    problems = test + hard  # one batch: rounds with few rows cost almost as much as rounds with many
    questions = {p.id: p.question for p in problems}
    judge = GenerativeJudge(lm, sampler, world.prompts, JUDGE, recipe.judge.max_new_tokens, recipe.model.micro_tokens)

    def search(name: str, by: Judge, tick) -> list[Answer]:
        answers, tries = chunk_reset(lm, sampler, world, problems, by, knobs, name, run.seed_of(name), tick)
        write_json(folder / f"{name}-tries.json", tries)
        return answers

    reset = run.records(
        folder / "chunk-reset.jsonl", Answer, "chunk-reset", len(problems), lambda tick: search("chunk-reset", judge, tick)
    )
    tries = json.loads((folder / "chunk-reset-tries.json").read_text(encoding="utf-8"))
    rate = rejection_rate(tries)
    control = RandomReject(rate)
    random = run.records(
        folder / "random.jsonl", Answer, "random rejection", len(problems), lambda tick: search("random", control, tick)
    )

    # independent samples: as many as the tokens of chunk-reset pay for, on each part; the longest need decides how many are drawn
    parts = {"test": slice(0, len(test))} | ({"hard": slice(len(test), None)} if hard else {})
    budgets = {name: sum(a.policy_tokens + a.judge_tokens for a in reset[part]) for name, part in parts.items()}
    plain = {name: sum(a.policy_tokens - a.rejected_tokens for a in reset[part]) for name, part in parts.items()}
    votes = max(2, min(knobs.votes, max(int(1.2 * budgets[name] / plain[name]) + 1 for name in parts)))

    def draw(tick) -> list[Solution]:
        longest = recipe.segment.max_new_tokens + TAG_TOKENS
        return flat(sample_solutions(lm, sampler, world, problems, votes, run.seed_of("votes"), longest, True, tick))

    with lm.using(POLICY):
        samples = run.records(folder / "samples.jsonl", Solution, "plain samples", len(problems) * votes, draw)
    groups = [samples[i : i + votes] for i in range(0, len(samples), votes)]
    # what one judged sample costs, from the judgments already made: as many are scored as that pays for, and a few more
    a_judgment = sum(a.judge_tokens for a in reset) / max(1, len(flat(tries)))
    a_sample = stats.mean([s.tokens + a_judgment * len(s.chunks) for s in samples])
    candidates = []
    for name, part in parts.items():
        count, among = int(1.15 * budgets[name] / a_sample) + 1, groups[part]
        candidates += [g[: max(1, -(-(count - i) // len(among)))] for i, g in enumerate(among)]

    def choose(tick) -> list[Answer]:
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
    metrics = {name: summary(reset, random, groups, best, part, run.seed) for name, part in parts.items()}
    write_json(folder / "metrics.json", metrics.pop("test") | {"rejection_rate": rate} | metrics)


def summary(
    reset: Sequence[Answer],
    random: Sequence[Answer],
    groups: Sequence[Sequence[Solution]],
    best: Sequence[Answer],
    part: slice,
    seed: int,
) -> dict:
    """Every method's row on some of the problems; chunk-reset minus sampling, random rejection and majority, paired."""
    reset, random, groups, best = reset[part], random[part], groups[part], best[part]
    counts = within([[s.tokens for s in g] for g in groups], sum(a.policy_tokens + a.judge_tokens for a in reset))
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
    rows[0] |= {"accuracy": stats.mean(rates), "interval": stats.bootstrap(rates, stats.mean, seed)}

    def gain(others: Sequence[float]) -> dict:
        over = [float(a.correct) - float(other) for a, other in zip(reset, others, strict=True)]
        return {"measured": stats.mean(over), "interval": stats.bootstrap(over, stats.mean, seed)}

    return {
        "rows": rows,
        "difference": gain(rates),
        "random_difference": gain([a.correct for a in random]),
        "majority_difference": gain([a.correct for a in voted]),
    }


def best_of_n(
    groups: Sequence[Sequence[Solution]], scores: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int
) -> list[Answer]:
    """The sample with the best mean chunk score, among as many as the budget pays for, the judge's tokens included."""
    counts = within([[s.tokens + c for s, c in zip(g, row, strict=True)] for g, row in zip(groups, costs, strict=True)], budget)
    return [
        _answer("best of N", g[:n], g[max(range(n), key=row.__getitem__)], sum(cost[:n]))
        for g, row, cost, n in zip(groups, scores, costs, counts, strict=True)
    ]


def _answer(method: str, drawn: Sequence[Solution], chosen: Solution, judge_tokens: int = 0) -> Answer:
    return Answer(chosen.problem_id, method, chosen.answer, chosen.correct, sum(s.tokens for s in drawn), judge_tokens)


def _row(method: str, answers: Sequence[Answer]) -> dict:
    right = sum(a.correct for a in answers)
    row = {"method": method, "accuracy": right / len(answers), "interval": stats.wilson(right, len(answers))}
    for key in ("policy_tokens", "judge_tokens", "rejected_tokens"):
        row[key] = stats.mean([getattr(a, key) for a in answers])
    return row | {"tokens": row["policy_tokens"] + row["judge_tokens"]}


def _trace(problems: Sequence[Problem], answers: Sequence[Answer], tries: Sequence[list[dict]]) -> dict:
    """A search for the report: right in the end, with the most rejections among those."""
    n = max(range(len(problems)), key=lambda i: (answers[i].correct, sum(not t["kept"] for t in tries[i])))
    return {
        "question": problems[n].question,
        "answer": problems[n].answer,
        "given": answers[n].answer,
        "correct": answers[n].correct,
        "tries": tries[n],
    }
