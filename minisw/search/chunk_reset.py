"""Chunk-reset search (StepWiser §4.4): the judge steers generation chunk by chunk.

Sample one chunk and judge it. If the verdict is Positive, keep the chunk and continue after it; if it is Negative, discard
the chunk and sample another at the same position, up to `tries` times. Then the last try is kept, or the one with the best
score (the paper does not say what happens). All problems advance together: each round samples one batch of chunks and
judges them in one batch.

This module needs no model: policy and judge are functions, so a script can play either of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minisw.records import Account, Answer, Judgment, LabelledStep, Problem, Proposal, Try
from minisw.search.paths import JudgeSteps, Propose, answer_from, ending, record_try, subseed, usable


@dataclass(frozen=True)
class Retries:
    """What happens to rejected chunks. Raises ValueError for values that make no search."""

    tries: int = 5  # most tries per chunk
    keep: str = "last"  # kept of rejected tries: the "last", or the "best" by P(Positive) (of equals, the later one)
    temperature: float | None = None  # of every try but the first; None: the policy's own

    def __post_init__(self):
        if self.keep not in ("last", "best"):
            raise ValueError(f"chunk-reset keeps the last or the best of rejected tries, not {self.keep!r}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"retries at temperature {self.temperature} would all be the same: sample above 0")


@dataclass
class SearchPath:
    """The growing solution of one problem, with every try."""

    problem: Problem
    chunks: list[str] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    rejected: list[Proposal] = field(default_factory=list)  # at the current position
    done: bool = False  # no further chunk is sampled
    finished: bool = False  # complete: the policy ended it within the limits; a done path that is not finished was cut off

    def answer(self, method: str) -> Answer:
        """The path as an `Answer` of `method`, verified against its own problem; a cut-off solution has no answer."""
        account = Account(
            policy_tokens=sum(t.policy_tokens for t in self.tries),
            judge_tokens=sum(t.judge_tokens for t in self.tries),
            rejected_tokens=sum(t.policy_tokens for t in self.tries if not t.kept),
            policy_prompt_tokens=sum(t.policy_prompt_tokens for t in self.tries),
            judge_prompt_tokens=sum(t.judge_prompt_tokens for t in self.tries),
        )
        return answer_from(self.problem, method, self.chunks, self.finished, account)


def chunk_reset(
    problems: Sequence[Problem],
    propose: Propose,
    judge: JudgeSteps,
    tries: int | Retries,
    max_chunks: int,
    seed: int = 0,
    within_budget: Callable[[Sequence[str]], bool] = lambda chunks: True,
    progress: Callable[[int], None] | None = None,
) -> list[SearchPath]:
    """Solve every problem by chunk-reset; one `SearchPath` per problem, in the order of `problems`.

    `propose(questions, chunks so far, seed)` samples the next chunk of each open solution (`Policy.propose`);
    `judge(steps, seed)` judges these chunks. `tries` is the most tries per chunk, or `Retries` with more about them.
    `progress(1)` is called for each problem that is done.

    - A verdict that cannot be read (None) rejects nothing.
    - A chunk that was cut off or is blank is sampled again, whatever its verdict.
    - A solution is finished when the policy ends it, or when a chunk holds a final answer. It is cut off after `max_chunks`
      chunks, or when `within_budget(chunks)` is False.

    Raises ValueError if `tries` or `max_chunks` is below 1.
    """
    retries = Retries(tries) if isinstance(tries, int) else tries
    if retries.tries < 1 or max_chunks < 1:
        raise ValueError(f"chunk-reset needs tries and max_chunks of at least 1, not {retries.tries} and {max_chunks}")
    paths = [SearchPath(p) for p in problems]
    for number in range(max_chunks * retries.tries):
        open_paths = [path for path in paths if not path.done]
        if not open_paths:
            break
        # 1. sample the next chunk of every open solution
        proposals = _propose(open_paths, propose, retries.temperature, seed, number)
        # 2. judge these chunks, given the chunks kept so far
        steps = [
            LabelledStep(path.problem.id, path.problem.question, tuple(path.chunks), proposal.text, False)
            for path, proposal in zip(open_paths, proposals, strict=True)
        ]
        judgments = judge(steps, subseed(seed, f"judge-{number}"))
        # 3. keep or discard each of them
        for path, proposal, judgment in zip(open_paths, proposals, judgments, strict=True):
            kept = _decide(path, proposal, judgment, retries)
            if kept is not None:
                path.chunks.append(kept.text)
                path.done, path.finished = ending(kept, path.chunks, max_chunks, within_budget)
            if path.done and progress:
                progress(1)
    return paths


def _propose(paths: Sequence[SearchPath], propose: Propose, temperature: float | None, seed: int, number: int) -> list[Proposal]:
    """The next chunk of every path; retries are sampled apart from first tries if they have a `temperature` of their own."""

    def sample(some: Sequence[SearchPath], use: str, **changes: float) -> list[Proposal]:
        questions, chunks = [path.problem.question for path in some], [tuple(path.chunks) for path in some]
        return propose(questions, chunks, subseed(seed, f"{use}-{number}"), **changes) if some else []

    if temperature is None:
        return sample(paths, "propose")
    first = iter(sample([path for path in paths if not path.rejected], "propose"))
    again = iter(sample([path for path in paths if path.rejected], "retry", temperature=temperature))
    return [next(again if path.rejected else first) for path in paths]


def _decide(path: SearchPath, proposal: Proposal, judgment: Judgment, retries: Retries) -> Proposal | None:
    """Record one try; the proposal that is kept at its position, or None if another one is to be sampled."""
    accepted = usable(proposal) and judgment.verdict is not False
    attempt = len(path.rejected) + 1
    path.tries.append(record_try(path.problem, len(path.chunks), attempt, proposal, judgment, accepted))
    proposals = [*path.rejected, proposal]
    if not accepted and len(proposals) < retries.tries:
        path.rejected = proposals
        return None
    path.rejected = []
    if accepted:
        return proposal
    here = range(len(path.tries) - len(proposals), len(path.tries))  # the tries at this position

    def rank(at: int) -> tuple[bool, float, int]:
        return usable(proposals[at - here.start]), path.tries[at].p_positive, at

    chosen = max(here, key=rank) if retries.keep == "best" else here[-1]
    path.tries[chosen] = dataclasses.replace(path.tries[chosen], kept=True)
    return proposals[chosen - here.start]


def rejection_rate(tries: Sequence[Try]) -> float:
    """Share of tries whose verdict was Negative."""
    return sum(t.verdict is False for t in tries) / len(tries) if tries else 0.0
