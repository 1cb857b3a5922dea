"""The records that stages exchange, and functions that read and write them as JSON Lines.

    Problem ─▶ Solution ─▶ LabelledStep ─▶ Judgment ─▶ Answer ─▶ Claim

Each record is a frozen dataclass of plain values: any tool can read a run folder, and nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """A problem with a checkable final answer. `reference` holds the value after each step; it is used for measuring only."""

    id: str
    question: str
    answer: str
    reference: tuple[int, ...] = ()


@dataclass(frozen=True)
class Solution:
    """One sampled solution as chunks; `"".join(chunks)` is its text, without tags."""

    problem_id: str
    chunks: tuple[str, ...]
    answer: str | None
    correct: bool
    well_formed: bool = True  # it kept the chunk format and was not cut off
    tokens: int = 0  # sampled tokens, tags included
    finished: bool = True  # ended by itself within the budget of text tokens (recipe.PolicyKnobs)
    prompt_tokens: int = field(default=0, compare=False)  # prefilled; the first of several samples of a request has them all

    @property
    def text(self) -> str:
        return "".join(self.chunks)


@dataclass(frozen=True)
class AnnotatedSolution:
    """A solution with its Monte-Carlo values (StepWiser §3.2).

    `q[0]` is the prompt's own pass rate, `q[i]` the pass rate after chunk i (counted from 1), the last one the outcome.
    """

    problem_id: str
    chunks: tuple[str, ...]
    correct: bool
    q: tuple[float, ...]  # len(chunks) + 1 values in 0…1
    hits: tuple[tuple[bool, ...], ...] = ()  # outcome of every completion of each boundary but the last, to study smaller M


@dataclass(frozen=True)
class LabelledStep:
    """One item for a judge: is `chunk` right, given the problem and the chunks before it (`history`)?"""

    problem_id: str
    question: str
    history: tuple[str, ...]
    chunk: str
    label: bool
    solution: int = 0  # index of the annotated solution that it comes from


@dataclass(frozen=True)
class BenchItem:
    """A solution with the index of its first wrong chunk, or -1 if all are right (as in ProcessBench)."""

    id: str
    question: str
    chunks: tuple[str, ...]
    label: int
    final_correct: bool

    def steps(self) -> list[LabelledStep]:
        """Every chunk as an item for a judge. From the first error on, labels are False; after it they have no meaning."""
        return [
            LabelledStep(self.id, self.question, self.chunks[:i], chunk, self.label < 0 or i < self.label)
            for i, chunk in enumerate(self.chunks)
        ]


@dataclass(frozen=True)
class Judgment:
    """A judge's reply about one step. `verdict` is None if it is unreadable; metrics count that as wrong."""

    verdict: bool | None
    analysis: str = ""
    p_positive: float = 0.5  # P(Positive) at the verdict token if it was measured, else the share of Positive votes
    tokens: int = 0  # sampled for this judgment, over all votes
    votes: tuple[bool | None, ...] = ()  # all sampled verdicts, if there is more than one
    prompt_tokens: int = field(default=0, compare=False)  # prefilled for this judgment; counted where searches judge

    @property
    def sampled_verdicts(self) -> tuple[bool | None, ...]:
        """The verdict of every sampled reply: the votes, or the only one."""
        return self.votes or (self.verdict,)


@dataclass(frozen=True)
class Answer:
    """The answer of one search method to one problem, and its cost in sampled tokens."""

    problem_id: str
    method: str
    answer: str | None
    correct: bool
    policy_tokens: int
    judge_tokens: int = 0
    rejected_tokens: int = 0  # those of `policy_tokens` that were discarded
    finished: bool = True  # False if the solution was cut off at the budget
    policy_prompt_tokens: int = 0  # prefilled (see `Account`)
    judge_prompt_tokens: int = 0


@dataclass(frozen=True)
class Proposal:
    """A sampled next chunk of a solution."""

    text: str  # without tags
    closed: bool  # it ended with its closing tag
    finished: bool  # it ended by itself: with the closing tag or the end token
    tokens: int  # sampled tokens, tags included
    prompt_tokens: int = field(default=0, compare=False)  # prefilled; the first of several proposals for a path has them all


@dataclass(frozen=True)
class Try:
    """One try at one chunk in a search."""

    problem_id: str
    position: int  # index of the chunk
    attempt: int  # 1 for the first
    text: str
    verdict: bool | None
    analysis: str
    kept: bool
    policy_tokens: int
    judge_tokens: int
    p_positive: float = 0.5
    policy_prompt_tokens: int = 0
    judge_prompt_tokens: int = 0


@dataclass(frozen=True)
class Claim:
    """One claim of a paper beside what was measured. `outcome` is what `report.claims.decide` says about it."""

    id: str
    claim: str
    source: str
    paper: float | None
    measured: float | None
    interval: tuple[float, float] | None
    baseline: str
    outcome: str  # holds, does not hold, not settled, not tested
    same_contrast: bool = True  # False: the paper compares something else, or gives no figure


@dataclass(frozen=True)
class Account:
    """What a search cost, in tokens: those that policy and judge sampled, and those of the prompts that they read (prefill).

    A request's prompt is counted once for all its samples, and again in every request: what requests share is not subtracted.
    `Answer` has the same fields.
    """

    policy_tokens: int = 0
    judge_tokens: int = 0
    rejected_tokens: int = 0  # those of `policy_tokens` that the search discarded; a vote or a choice discards none
    policy_prompt_tokens: int = 0
    judge_prompt_tokens: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def to_json(record: object) -> str:
    """One record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


def _build(kind: type, values: dict) -> object:
    if not isinstance(values, dict):
        raise ValueError(f"not a {kind.__name__}: no JSON object")
    known = {f.name for f in dataclasses.fields(kind)}
    extra = set(values) - known
    if extra:
        raise ValueError(f"not a {kind.__name__}: unknown field {sorted(extra)[0]!r}")
    hints = typing.get_type_hints(kind)
    return kind(**{k: _tuples(v) if "tuple" in str(hints[k]) and v is not None else v for k, v in values.items()})


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def write_jsonl(path: Path, records: Iterable[object]) -> None:
    """Write all records, one per line. The file is replaced as a whole (see `write_text`)."""
    write_text(path, "".join(to_json(record) + "\n" for record in records))


def writes() -> bool:
    """Whether this process writes files: in a distributed run (engine/distributed.py) only the first process does."""
    return os.environ.get("RANK", "0") == "0"


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8: first to `path`.part, then renamed, so that an interrupted run leaves no partial file."""
    if not writes():
        return
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value, as `write_text` does."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, kind: type) -> list:
    """Read records of one kind. Raises ValueError with file and line number for a line that is no such record."""
    return list(_read(path, kind))


def _read(path: Path, kind: type) -> Iterator[object]:
    with open(path, "rb") as file:  # decoded line by line, so that a wrong encoding is reported with its line number too
        for number, line in enumerate(file, 1):
            try:
                yield _build(kind, json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}:{number}: {error}") from None


def flat(groups: Sequence[Sequence]) -> list:
    """The items of all groups in one list."""
    return [item for group in groups for item in group]
