"""What all searches share: who proposes and who judges, how a solution ends, seeds, and the answer with its account.

A search needs no model: policy and judge are functions or objects with a few methods, so a script can play either of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from minisw.records import Account, Answer, Judgment, LabelledStep, Problem, Proposal, Solution, Try
from minisw.verify.answers import final_answer, verify

Propose = Callable[..., list[Proposal]]  # (questions, chunks so far, seed), and temperature= if retries have one of their own
JudgeSteps = Callable[[Sequence[LabelledStep], int], list[Judgment]]  # (steps, seed)
Progress = Callable[[int], None] | None  # called with the number of problems just finished


class Knobs(Protocol):
    """How a policy samples, as far as searches ask (`recipe.PolicyKnobs` has more)."""

    max_chunks: int
    temperature: float


class Solver(Protocol):
    """What searches need of a policy (`policy.Policy`)."""

    knobs: Knobs
    rewrites: bool  # whether `refine` writes whole solutions, or continues the old ones

    def solve(self, problems: Sequence[Problem], count: int, seed: int) -> list[list[Solution]]: ...

    def propose(
        self, questions: Sequence[str], paths: Sequence[Sequence[str]], seed: int, temperature: float | None = None
    ) -> list[Proposal]: ...

    def propose_several(
        self, questions: Sequence[str], paths: Sequence[Sequence[str]], count: int, seed: int
    ) -> list[list[Proposal]]: ...

    def refine(
        self, problems: Sequence[Problem], solutions: Sequence[Solution], criticism: Sequence[tuple[int, str]], seed: int
    ) -> list[Solution]: ...

    def within_budget(self, chunks: Sequence[str]) -> bool: ...

    def encode_chunks(self, chunks: Sequence[str]) -> list[list[int]]: ...


def subseed(seed: int, use: str) -> int:
    """A seed of its own for each use of randomness."""
    return zlib.crc32(f"{seed}/{use}".encode())


def usable(proposal: Proposal) -> bool:
    """Whether a proposal can be a chunk: neither cut off nor blank. (Not closed and blank: the policy ended the solution.)"""
    blank = proposal.closed and not proposal.text.strip()
    return proposal.finished and not blank


def ending(
    proposal: Proposal, chunks: Sequence[str], max_chunks: int, within_budget: Callable[[Sequence[str]], bool]
) -> tuple[bool, bool]:
    """Whether a solution ends with its last chunk, `proposal`, and whether it is finished then or was cut off.

    It is finished when the policy ends it, or when the chunk holds a final answer; it is cut off after `max_chunks` chunks, or
    when `within_budget(chunks)` is False.
    """
    fits = within_budget(chunks)
    ended_by_policy = proposal.finished and not proposal.closed
    finished = fits and (ended_by_policy or final_answer(proposal.text) is not None)
    return finished or not fits or len(chunks) >= max_chunks, finished


def record_try(problem: Problem, position: int, attempt: int, proposal: Proposal, judgment: Judgment, kept: bool) -> Try:
    """One judged proposal for chunk number `position`, with what it cost."""
    return Try(
        problem_id=problem.id,
        position=position,
        attempt=attempt,
        text=proposal.text,
        verdict=judgment.verdict,
        analysis=judgment.analysis,
        kept=kept,
        policy_tokens=proposal.tokens,
        judge_tokens=judgment.tokens,
        p_positive=judgment.p_positive,
        policy_prompt_tokens=proposal.prompt_tokens,
        judge_prompt_tokens=judgment.prompt_tokens,
    )


def answer_from(problem: Problem, method: str, chunks: Sequence[str], finished: bool, account: Account) -> Answer:
    """A solution as an `Answer` of `method`, verified against its own problem; a cut-off solution has no answer."""
    given = final_answer("".join(chunks)) if finished else None
    return Answer(problem.id, method, given, verify(problem.answer, given), finished=finished, **dataclasses.asdict(account))


def judging(judge: object, scores: bool = False) -> JudgeSteps:
    """`judge.judge` as a search calls it: (steps, seed) → judgments, with the prompt tokens of each.

    With `scores`, a judge that can measure P(Positive) at its verdict does so. One that votes keeps the share of Positive votes:
    that is what its further votes are for. The forward pass that measures P(Positive) is not in the account, because a
    sampler that kept the probabilities of what it sampled would not need it.

    A judge's prompt is counted if the judge has a method `prompt(step)` and has not counted it itself.
    """
    can_measure = "probabilities" in inspect.signature(judge.judge).parameters and getattr(judge, "votes", 1) == 1
    measured = {"probabilities": True} if scores and can_measure else {}

    def judge_steps(steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        judgments = judge.judge(steps, seed, progress, **measured)
        if not hasattr(judge, "prompt"):
            return judgments
        return [
            j if j.prompt_tokens else dataclasses.replace(j, prompt_tokens=len(judge.prompt(step)))
            for step, j in zip(steps, judgments, strict=True)
        ]

    return judge_steps
