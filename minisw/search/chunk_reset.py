"""Chunk-reset search (StepWiser §4.4): the judge steers generation chunk by chunk.

Sample one chunk; judge it; keep it if the verdict is Positive, otherwise discard it and sample again from the same place, at
most `tries` times, after which the last try is kept (the paper leaves that open). All problems advance side by side: one
batch of chunks and one batch of judgments a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minisw.records import Answer, Judgment, LabelledStep, Problem, Proposal, Try
from minisw.verify.answers import final_answer, verify

Propose = Callable[[Sequence[str], Sequence[Sequence[str]], int], list[Proposal]]  # (questions, chunks so far, seed)
JudgeSteps = Callable[[Sequence[LabelledStep], int], list[Judgment]]  # (steps, seed)


@dataclass
class SearchPath:
    """The solution of one problem as it grows, with every try."""

    problem: Problem
    chunks: list[str] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    rejected: int = 0  # tries discarded at the current position
    done: bool = False
    finished: bool = False  # ended by itself within the budget

    def answer(self, method: str) -> Answer:
        """The path as an `Answer`; a solution that was cut off has none."""
        given = final_answer("".join(self.chunks)) if self.finished else None
        return Answer(
            problem_id=self.problem.id,
            method=method,
            answer=given,
            correct=verify(self.problem.answer, given),
            policy_tokens=sum(t.policy_tokens for t in self.tries),
            judge_tokens=sum(t.judge_tokens for t in self.tries),
            rejected_tokens=sum(t.policy_tokens for t in self.tries if not t.kept),
            finished=self.finished,
        )


def chunk_reset(
    problems: Sequence[Problem],
    propose: Propose,
    judge: JudgeSteps,
    tries: int,
    max_chunks: int,
    seed: int = 0,
    within_budget: Callable[[Sequence[str]], bool] = lambda chunks: True,
    progress: Callable[[int], None] | None = None,
) -> list[SearchPath]:
    """Search every problem; `propose` samples next chunks (`Policy.propose`), `judge` judges them.

    An unreadable verdict rejects nothing. A chunk that was cut off or is blank is tried again whatever the judge says. A
    solution ends when the policy closes it, when a chunk holds the final answer, after `max_chunks`, or when
    `within_budget(chunks)` says that its text is too long; in the last two cases it counts as cut off.
    """
    paths = [SearchPath(p) for p in problems]
    for number in range(max_chunks * tries):
        active = [path for path in paths if not path.done]
        if not active:
            break
        proposals = propose([p.problem.question for p in active], [p.chunks for p in active], seed * 1009 + number)
        steps = [
            LabelledStep(path.problem.id, path.problem.question, tuple(path.chunks), proposal.text, False)
            for path, proposal in zip(active, proposals, strict=True)
        ]
        judgments = judge(steps, seed * 2003 + number)
        for path, proposal, judgment in zip(active, proposals, judgments, strict=True):
            _advance(path, proposal, judgment, tries, max_chunks, within_budget)
            if path.done and progress:
                progress(1)
    return paths


def _advance(
    path: SearchPath,
    proposal: Proposal,
    judgment: Judgment,
    tries: int,
    max_chunks: int,
    within_budget: Callable[[Sequence[str]], bool],
) -> None:
    """Keep or discard one proposal, and note the try."""
    usable = proposal.finished and bool(proposal.text.strip() or not proposal.closed)
    keep = (judgment.verdict is not False and usable) or path.rejected + 1 >= tries
    path.tries.append(
        Try(
            problem_id=path.problem.id,
            position=len(path.chunks),
            attempt=path.rejected + 1,
            text=proposal.text,
            verdict=judgment.verdict,
            analysis=judgment.analysis,
            kept=keep,
            policy_tokens=proposal.tokens,
            judge_tokens=judgment.tokens,
        )
    )
    if not keep:
        path.rejected += 1
        return
    path.rejected = 0
    path.chunks.append(proposal.text)
    closed_by_policy = proposal.finished and not proposal.closed
    fits = within_budget(path.chunks)
    path.finished = fits and (closed_by_policy or final_answer(proposal.text) is not None)
    path.done = path.finished or not fits or len(path.chunks) >= max_chunks


def rejection_rate(tries: Sequence[Try]) -> float:
    """Share of tries whose verdict was Negative."""
    return sum(t.verdict is False for t in tries) / len(tries) if tries else 0.0
