"""Chunk-reset search (StepWiser §4.4): the judge steers generation chunk by chunk.

Sample one chunk and judge it. If the verdict is Positive, keep the chunk and continue after it; if it is Negative, discard
the chunk and sample another at the same position, up to `tries` times. The last try is kept (the paper does not say what
happens then). All problems advance together: each round samples one batch of chunks and judges them in one batch.

This module needs no model: policy and judge are functions, so a script can play either of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minisw.records import Answer, Judgment, LabelledStep, Problem, Proposal, Try
from minisw.verify.answers import final_answer, verify

Propose = Callable[[Sequence[str], Sequence[Sequence[str]], int], list[Proposal]]  # (questions, chunks so far, seed)
JudgeSteps = Callable[[Sequence[LabelledStep], int], list[Judgment]]  # (steps, seed)


@dataclass
class SearchPath:
    """The growing solution of one problem, with every try."""

    problem: Problem
    chunks: list[str] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    rejected: int = 0  # tries discarded at the current position
    done: bool = False  # no further chunk is sampled
    finished: bool = False  # complete: the policy ended it within the limits; a done path that is not finished was cut off

    def answer(self, method: str) -> Answer:
        """The path as an `Answer` of `method`, verified against its own problem; a cut-off solution has no answer."""
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
    """Solve every problem by chunk-reset; one `SearchPath` per problem, in the order of `problems`.

    `propose(questions, chunks so far, seed)` samples the next chunk of each open solution (`Policy.propose`);
    `judge(steps, seed)` judges these chunks. `progress(1)` is called for each problem that is done.

    - A verdict that cannot be read (None) rejects nothing.
    - A chunk that was cut off or is blank is sampled again, whatever its verdict.
    - A solution is finished when the policy ends it, or when a chunk holds a final answer. It is cut off after `max_chunks`
      chunks, or when `within_budget(chunks)` is False.

    Raises ValueError if `tries` or `max_chunks` is below 1.
    """
    if tries < 1 or max_chunks < 1:
        raise ValueError(f"chunk-reset needs tries and max_chunks of at least 1, not {tries} and {max_chunks}")
    paths = [SearchPath(p) for p in problems]
    for number in range(max_chunks * tries):
        open_paths = [path for path in paths if not path.done]
        if not open_paths:
            break
        # 1. sample the next chunk of every open solution
        questions = [path.problem.question for path in open_paths]
        proposals = propose(questions, [tuple(path.chunks) for path in open_paths], _seed(seed, f"propose-{number}"))
        # 2. judge these chunks, given the chunks kept so far
        steps = [
            LabelledStep(path.problem.id, path.problem.question, tuple(path.chunks), proposal.text, False)
            for path, proposal in zip(open_paths, proposals, strict=True)
        ]
        judgments = judge(steps, _seed(seed, f"judge-{number}"))
        # 3. keep or discard each of them
        for path, proposal, judgment in zip(open_paths, proposals, judgments, strict=True):
            _advance(path, proposal, judgment, tries, max_chunks, within_budget)
            if path.done and progress:
                progress(1)
    return paths


def _seed(seed: int, use: str) -> int:
    """A seed of its own for each use of randomness."""
    return zlib.crc32(f"{seed}/{use}".encode())


def _advance(
    path: SearchPath,
    proposal: Proposal,
    judgment: Judgment,
    tries: int,
    max_chunks: int,
    within_budget: Callable[[Sequence[str]], bool],
) -> None:
    """Keep or discard one proposed chunk, and record the try."""
    blank = proposal.closed and not proposal.text.strip()  # not closed and blank: the policy ended the solution
    usable = proposal.finished and not blank
    last_try = path.rejected + 1 >= tries
    keep = (usable and judgment.verdict is not False) or last_try
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
    ended_by_policy = proposal.finished and not proposal.closed
    fits = within_budget(path.chunks)
    path.finished = fits and (ended_by_policy or final_answer(proposal.text) is not None)
    path.done = path.finished or not fits or len(path.chunks) >= max_chunks


def rejection_rate(tries: Sequence[Try]) -> float:
    """Share of tries whose verdict was Negative."""
    return sum(t.verdict is False for t in tries) / len(tries) if tries else 0.0
