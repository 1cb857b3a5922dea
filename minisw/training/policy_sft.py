"""SFT of a policy on chunked solutions: stage 1 teaches the chunk format with it, data selection the chosen solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minisw.engine.logprobs import Example
from minisw.policy import Policy
from minisw.recipe import Training
from minisw.records import Solution
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft


def policy_sft(
    policy: Policy,
    questions: Mapping[str, str],
    solutions: Sequence[Solution],
    training: Training,
    micro_tokens: int,
    seed: int,
) -> tuple[Callable[[Path | None, Callable], list[dict]], int]:
    """The training of the policy's adapter as `Run.train` takes it: `fit(checkpoint, tick)`, and its number of steps.

    Each solution is taught as the reply to its problem's request: all chunks, then the end token. `questions` maps problem id
    to question.
    """
    examples = [Example(policy.prompt(questions[s.problem_id]), policy.sft_target(s.chunks)) for s in solutions]

    def fit(checkpoint: Path | None, tick: Callable) -> list[dict]:
        monitor = Monitor(checkpoint, progress=tick)
        return train_sft(policy.lm, policy.adapter, examples, training, micro_tokens, seed, monitor)

    return fit, training.epochs * (len(examples) // max(1, min(training.batch, len(examples))))
