"""The records that flow from stage to stage, and JSON Lines in and out.

    Problem ─▶ Solution ─▶ LabelledStep ─▶ Judgment ─▶ Answer ─▶ Claim

Each is a frozen dataclass of plain values, so that a run folder can be read with any tool and no pickle.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """A problem with a checkable final answer. `reference` (values after each step) is for measuring only."""

    id: str
    question: str
    answer: str
    reference: tuple[int, ...] = ()


@dataclass(frozen=True)
class Solution:
    """One sampled solution, cut into chunks; `"".join(chunks)` is its text, without any tag."""

    problem_id: str
    chunks: tuple[str, ...]
    answer: str | None
    correct: bool
    well_formed: bool = True  # the policy kept the chunk format
    tokens: int = 0  # sampled, tags included
    finished: bool = True  # ended by itself within the budget of text tokens (recipe.PolicyKnobs)

    @property
    def text(self) -> str:
        return "".join(self.chunks)


@dataclass(frozen=True)
class AnnotatedSolution:
    """A solution with its Monte-Carlo values (StepWiser §3.2).

    `q[0]` is the prompt's own pass rate, `q[i]` the pass rate from behind chunk i.
    """

    problem_id: str
    chunks: tuple[str, ...]
    correct: bool
    q: tuple[float, ...]  # len(chunks) + 1 values in 0…1
    hits: tuple[tuple[bool, ...], ...] = ()  # each boundary's single outcomes, so that any smaller M can be studied


@dataclass(frozen=True)
class LabelledStep:
    """One judging item: is `chunks[index]` right, given the problem and the chunks before it?"""

    problem_id: str
    question: str
    history: tuple[str, ...]
    chunk: str
    label: bool
    solution: int = 0  # which annotated solution it comes from


@dataclass(frozen=True)
class BenchItem:
    """A solution with the index of its first wrong step, -1 where there is none (the form of ProcessBench)."""

    id: str
    question: str
    chunks: tuple[str, ...]
    label: int
    final_correct: bool

    def steps(self) -> list[LabelledStep]:
        """Every chunk as a judging item. Behind the first error the label says nothing and is False."""
        return [
            LabelledStep(self.id, self.question, self.chunks[:i], chunk, self.label < 0 or i < self.label)
            for i, chunk in enumerate(self.chunks)
        ]


@dataclass(frozen=True)
class Judgment:
    """A judge's reply about one step. `verdict` is None if it cannot be read; metrics count that as wrong."""

    verdict: bool | None
    analysis: str = ""
    p_positive: float = 0.5  # P(Positive) at the verdict token if it was measured; otherwise 1 or 0, as the verdict
    tokens: int = 0  # sampled for this judgment, all votes together
    votes: tuple[bool | None, ...] = ()  # every sampled verdict, if there was more than one


@dataclass(frozen=True)
class Answer:
    """What one search method answered to one problem, and what it cost."""

    problem_id: str
    method: str
    answer: str | None
    correct: bool
    policy_tokens: int
    judge_tokens: int = 0
    rejected_tokens: int = 0  # of the policy's tokens
    finished: bool = True  # False if the solution was cut off at the budget


@dataclass(frozen=True)
class Proposal:
    """A sampled next chunk. `closed`: it ended with its closing tag; `finished`: it was not cut off; `tokens`: sampled."""

    text: str
    closed: bool
    finished: bool
    tokens: int


@dataclass(frozen=True)
class Try:
    """One attempt at one chunk of a search."""

    problem_id: str
    position: int  # index of the chunk
    attempt: int  # 1 for the first
    text: str
    verdict: bool | None
    analysis: str
    kept: bool
    policy_tokens: int
    judge_tokens: int


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


def to_json(record: object) -> str:
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
    """Write all records at once: to a neighbour first, then renamed, so that a killed run leaves no half a file."""
    write_text(path, "".join(to_json(record) + "\n" for record in records))


def writes() -> bool:
    """Whether this process writes files: of several that run together (processes.py) the first alone does."""
    return os.environ.get("RANK", "0") == "0"


def write_text(path: Path, text: str) -> None:
    if not writes():
        return
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, kind: type) -> list:
    """Read records of one kind. Raises ValueError with file and line where a line is not such a record."""
    return list(_read(path, kind))


def _read(path: Path, kind: type) -> Iterator[object]:
    with open(path, "rb") as file:  # json decodes line by line, so that a wrong encoding has a line number too
        for number, line in enumerate(file, 1):
            try:
                yield _build(kind, json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}:{number}: {error}") from None


def flat(groups: Sequence[Sequence]) -> list:
    return [item for group in groups for item in group]
