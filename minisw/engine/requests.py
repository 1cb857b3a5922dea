"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ALIKE = 0.3  # requests share a sequence where they have at least this share of their tokens in common


@dataclass(frozen=True)
class Request:
    """Sample `count` continuations of each prefix length in `starts` (default: of the whole of `ids`)."""

    ids: list[int]
    count: int = 1
    starts: tuple[int, ...] = ()

    def branches(self) -> list[int]:
        return [start for start in (self.starts or (len(self.ids),)) for _ in range(self.count)]


@dataclass
class Completion:
    """One sampled continuation. `ids` ends with the end token where the model ended by itself (`finished`)."""

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `stop` ends a row behind that text as if it were an end token."""

    max_new_tokens: int
    temperature: float = 1.0
    stop: str | None = None


@dataclass(frozen=True)
class Trunk:
    """A sequence that is kept once, and who stands on it: request number → how many tokens it has in common with it."""

    ids: list[int]
    members: dict[int, int]


def trunks(requests: Sequence[Request]) -> list[Trunk]:
    """A trunk for every request: its own sequence or, where single rows begin alike, the longest of theirs. Longest first."""
    found = [Trunk(r.ids, {i: len(r.ids)}) for i, r in enumerate(requests) if r.count > 1 or (r.count and r.starts)]
    single = [i for i, r in enumerate(requests) if r.count == 1 and not r.starts]
    runs: list[list[int]] = []  # of requests that begin alike
    commons: list[list[int]] = []  # tokens that each of a run has in common with the one before it
    for i in sorted(single, key=lambda i: requests[i].ids):  # sorted, those that begin alike stand side by side
        ids, last = requests[i].ids, requests[runs[-1][-1]].ids if runs else []
        common = next((at for at, (a, b) in enumerate(zip(ids, last, strict=False)) if a != b), min(len(ids), len(last)))
        if not runs or common < ALIKE * min(len(ids), len(last)):
            runs.append([])
            commons.append([])
        runs[-1].append(i)
        commons[-1].append(common)
    for run, common in zip(runs, commons, strict=True):
        longest = max(range(len(run)), key=lambda at: len(requests[run[at]].ids))
        trunk = requests[run[longest]].ids
        # in a sorted list two have as much in common as those between them, one with the next, at the least
        shared = {i: min([len(trunk), *common[min(at, longest) + 1 : max(at, longest) + 1]]) for at, i in enumerate(run)}
        found.append(Trunk(trunk, {i: shared[i] for i in sorted(run)}))
    # long rows run beside each other, and the short ones fill the gaps at the end
    return sorted(found, key=lambda trunk: (-len(trunk.ids), min(trunk.members)))


def _tails(requests: Sequence[Request], batch: Sequence[Trunk]) -> dict[int, tuple[int, int, list[int]]]:
    """Request → (number of its trunk, where it leaves it, the tokens behind, but for the last, which is read first)."""
    return {
        i: (number, common, requests[i].ids[common:-1])
        for number, trunk in enumerate(batch)
        for i, common in trunk.members.items()
        if common and common < len(requests[i].ids) - 1
    }


def _work(requests: Sequence[Request], batch: Sequence[Trunk]) -> int:
    """Tokens of a prefill of these trunks, padding included."""
    tails = [len(tail) for *_, tail in _tails(requests, batch).values()]
    return len(batch) * max(len(trunk.ids) for trunk in batch) + len(tails) * max(tails, default=0)
