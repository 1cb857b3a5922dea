"""GRPO of the policy: reward its answers alone, or its answers and every chunk that a judge calls right.

The reward of a sampled solution of n chunks is

    r = outcome + w · process
    outcome = 1 if it ended by itself within the budget and its answer is right, else 0
    process = (P_1 + … + P_n) / n, where P_i is the judge's P(Positive) of chunk i (0.5 for an unreadable reply);
              0 if it was cut off or breaks the chunk format: then it has no chunks to judge

w = 0 rewards the outcome alone. Trainings with the same `GRPOConfig` and seed sample equally many solutions of the same
problems, so they are compared at equal rollouts; what the judge samples comes on top. A judge that is given with w = 0 is asked
and logged, but rewards nothing: the control.

GRPO divides by the standard deviation within a group. So w weighs process against outcome only in groups with right and wrong
solutions; where all outcomes are equal, any w > 0 makes the judge the only teacher. That is what makes the reward dense.

The mean over chunks is what selection uses too (StepWiser §4.4). It can be gamed: by chunks that are always right because they
say nothing, by repeating a right chunk, by whatever this judge wrongly passes. So each step logs, beside the metrics of
training/grpo.py (`completions/mean_length` is the length of a solution in tokens):
    policy/outcome          share of right solutions
    policy/format_kept      share of solutions that keep the chunk format and were not cut off
    policy/chunks           chunks in one of these, on average
    policy/empty_chunks     share of their chunks with fewer than `FEWEST_WORDS` words
    policy/repeated_chunks  share of their chunks that repeat an earlier chunk of the same solution
and with a judge
    policy/process          mean process reward of all solutions
    policy/process_wrong    mean process reward of those that keep the format and are wrong: it rises when the judge is fooled
    policy/judge_tokens     tokens that the judge sampled for a solution, on average
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from minisw.engine.model import copy_adapter
from minisw.evaluate.stats import mean
from minisw.policy import Outcome, Policy
from minisw.records import BenchItem, Judgment, LabelledStep, Problem, flat
from minisw.training.grpo import Group, GroupReward, GRPOConfig, train_grpo
from minisw.training.monitor import DEFAULT_MONITOR, Monitor

JudgeSteps = Callable[[Sequence[LabelledStep], int], list[Judgment]]  # (steps, seed), as in search/chunk_reset.py
FEWEST_WORDS = 3  # a word is a run of letters or digits: "12+3=15" has three


def policy_reward(
    policy: Policy, problems: Sequence[Problem], judge: JudgeSteps | None = None, weight: float = 0.0
) -> GroupReward:
    """The reward of the module's docstring, with w = `weight`. `problems` are those that `train_policy_grpo` gets.

    Raises ValueError for a negative weight, and for a weight without a judge.
    """
    if weight < 0 or (weight and judge is None):
        raise ValueError(f"the weight of the process reward is {weight}: give a judge and a weight of at least 0")

    def of(groups: Sequence[Group], seed: int) -> tuple[list[list[float]], dict[str, float]]:
        asked = [problems[group.index] for group in groups for _ in group.completions]
        completions = flat([group.completions for group in groups])
        outcomes = [policy.read(problem, c) for problem, c in zip(asked, completions, strict=True)]
        metrics, process = solution_metrics(outcomes), [0.0] * len(outcomes)
        if judge:
            process, sampled = process_rewards(judge, asked, outcomes, seed)
            wrong = [p for p, o in zip(process, outcomes, strict=True) if o.well_formed and not o.correct]
            metrics |= {"policy/process": mean(process), "policy/process_wrong": mean(wrong)}
            metrics["policy/judge_tokens"] = sampled / len(outcomes)
        rewards = iter([float(o.correct) + weight * p for o, p in zip(outcomes, process, strict=True)])
        return [[next(rewards) for _ in group.completions] for group in groups], metrics

    return GroupReward(of)


def process_rewards(
    judge: JudgeSteps, problems: Sequence[Problem], outcomes: Sequence[Outcome], seed: int
) -> tuple[list[float], int]:
    """The process reward of every solution, `outcomes[i]` being one of `problems[i]`; and the tokens that the judge sampled.

    All chunks are judged in one call.
    """
    steps = [
        BenchItem(problem.id, problem.question, o.chunks, -1, o.correct).steps() if o.well_formed else []
        for problem, o in zip(problems, outcomes, strict=True)
    ]
    every = flat(steps)
    judgments = judge(every, seed) if every else []
    scores = iter([judgment.p_positive for judgment in judgments])
    return [mean([next(scores) for _ in own]) for own in steps], sum(judgment.tokens for judgment in judgments)


def solution_metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The metrics of the module's docstring that need no judge; 0 where no solution keeps the format."""
    kept = [o.chunks for o in outcomes if o.well_formed]
    return {
        "policy/outcome": mean([o.correct for o in outcomes]),
        "policy/format_kept": len(kept) / len(outcomes),
        "policy/chunks": mean([len(chunks) for chunks in kept]),
        "policy/empty_chunks": mean([len(re.findall(r"[^\W_]+", chunk)) < FEWEST_WORDS for chunk in flat(kept)]),
        "policy/repeated_chunks": mean(flat([_repeated(chunks) for chunks in kept])),
    }


def _repeated(chunks: Sequence[str]) -> list[bool]:
    """For every chunk whether an earlier one has the same text, white space at its ends aside."""
    texts = [chunk.strip() for chunk in chunks]
    return [text in texts[:i] for i, text in enumerate(texts)]


def train_policy_grpo(
    policy: Policy,
    problems: Sequence[Problem],
    reward: GroupReward,
    config: GRPOConfig,
    seed: int,
    monitor: Monitor = DEFAULT_MONITOR,
    start: str | None = None,
) -> list[dict]:
    """Train the policy's adapter by GRPO on `problems` in place; returns the metrics of every step.

    With `start`, it begins with the weights of that adapter, such as the one of stage 1. Temperature and longest completion are
    the policy's own, whatever `config` says: a solution has the same budget in every stage. A step has at most as many prompts
    as there are problems. Raises ValueError without problems, and for the bare base, which has no adapter.
    """
    if policy.adapter is None:
        raise ValueError("GRPO of the policy trains an adapter, and this policy is the bare base: give it an adapter's name")
    if not problems:
        raise ValueError("no problems for GRPO of the policy: load more training problems")
    if start:
        copy_adapter(policy.lm, start, policy.adapter)
    own = policy.sampling
    prompts, size = [policy.prompt(p.question) for p in problems], min(config.prompts, len(problems))
    config = dataclasses.replace(config, prompts=size, temperature=own.temperature, max_new_tokens=own.max_new_tokens)
    return train_grpo(policy.sampler, policy.adapter, prompts, reward, config, seed, monitor)
