"""What samplers take and return: `Request` → `Completion`; when a row has ended; and which requests begin alike.

Nothing here touches the model or the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

SHARED = 0.3  # requests share a prefix if they have at least this fraction of their tokens in common


@dataclass(frozen=True)
class Request:
    """Sample `count` continuations of every prefix `ids[:start]` for the lengths in `starts` (default: of all of `ids`)."""

    ids: list[int]
    count: int = 1
    starts: tuple[int, ...] = ()

    def branches(self) -> list[int]:
        """Length of the prefix that each completion continues, in the order of the results."""
        return [start for start in (self.starts or (len(self.ids),)) for _ in range(self.count)]


@dataclass
class Completion:
    """One sampled continuation.

    `ids` ends with the end token, or with the token that completes the stop text, if the model ended by itself (`finished`).
    `logprobs` has the log-probability of each token in `ids` under the distribution it was sampled from, that is at the
    sampling temperature (greedy: at temperature 1). It is left out of comparisons, because it depends on rounding.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    logprobs: list[float] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy. A completion also ends, as `finished`, once its text contains `stop`."""

    max_new_tokens: int
    temperature: float = 1.0
    stop: str | None = None


def check_requests(requests: Sequence[Request]) -> None:
    """Raise ValueError if a request asks to continue an empty prefix, or one longer than its tokens."""
    if any(start < 1 or start > len(request.ids) for request in requests for start in request.branches()):
        raise ValueError("every request needs at least one token before each start, and no start beyond its end")


class StopRule:
    """Decides whether a completion has ended. `lm` provides `end_ids`, `tokenizer` and `decode`."""

    def __init__(self, lm):
        self.lm = lm
        self._tokens_with: dict[str, frozenset[int]] = {}  # character → tokens whose text contains it

    def ended(self, ids: list[int], stop: str | None) -> bool:
        """Whether the last token of `ids` is an end token or completes the text `stop`."""
        if ids[-1] in self.lm.end_ids:
            return True
        if not stop or (stop[-1].isascii() and ids[-1] not in self._closing(stop[-1])):
            return False
        # a token adds at least a byte of text, unless it is a special token: two of those are allowed for
        return stop in self.lm.decode(ids[-(len(stop.encode()) + 2) :])

    def _closing(self, character: str) -> frozenset[int]:
        """The tokens that can complete a stop text which ends with an ASCII `character`: only after them text is decoded.

        Other characters may be spread over several byte tokens, none of which shows the character by itself.
        """
        if character not in self._tokens_with:
            texts = self.lm.tokenizer.batch_decode([[i] for i in range(len(self.lm.tokenizer))])
            self._tokens_with[character] = frozenset(i for i, text in enumerate(texts) if character in text)
        return self._tokens_with[character]


# --- shared prefixes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SharedPrefix:
    """A sequence that is prefilled and kept once. `members`: request number → how many tokens it has in common with it."""

    ids: list[int]
    members: dict[int, int]


def shared_prefixes(requests: Sequence[Request]) -> list[SharedPrefix]:
    """A shared prefix for every request with any completions, longest first.

    A request with several branches gets its own sequence. Requests with one branch that begin alike (the steps of one
    solution, judged one by one) share the longest of their sequences.
    """
    branching = [i for i, r in enumerate(requests) if r.count > 1 or (r.count and r.starts)]
    single = [i for i, r in enumerate(requests) if r.count == 1 and not r.starts]
    prefixes = [SharedPrefix(requests[i].ids, {i: len(requests[i].ids)}) for i in branching]
    prefixes += [_longest_of(requests, *group) for group in _alike(requests, single)]
    # rows of similar length run at the same time, and short ones fill the free slots at the end
    return sorted(prefixes, key=lambda prefix: (-len(prefix.ids), min(prefix.members)))


def _alike(requests: Sequence[Request], numbers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Groups of requests that begin alike: (request numbers in lexical order, tokens in common with the one before)."""
    groups: list[tuple[list[int], list[int]]] = []
    for i in sorted(numbers, key=lambda i: requests[i].ids):  # sorted, those that begin alike are neighbours
        ids, previous = requests[i].ids, requests[groups[-1][0][-1]].ids if groups else []
        common = common_length(ids, previous)
        if not groups or common < SHARED * min(len(ids), len(previous)):
            groups.append(([], []))
        groups[-1][0].append(i)
        groups[-1][1].append(common)
    return groups


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens at the beginning that `a` and `b` have in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _longest_of(requests: Sequence[Request], group: list[int], common: list[int]) -> SharedPrefix:
    """The longest sequence of a group (from `_alike`) as the prefix that its members share."""
    longest = max(range(len(group)), key=lambda k: len(requests[group[k]].ids))
    ids = requests[group[longest]].ids
    # in a sorted list, two sequences have in common the least that neighbours between them have in common
    shared = {i: min([len(ids), *common[min(k, longest) + 1 : max(k, longest) + 1]]) for k, i in enumerate(group)}
    return SharedPrefix(ids, {i: shared[i] for i in sorted(group)})


@dataclass(frozen=True)
class Suffix:
    """What a request has behind its shared prefix, number `prefix` of a batch: after `start` tokens the rest, without the
    last token, which is read when sampling begins."""

    prefix: int
    start: int
    ids: list[int]


def suffixes(requests: Sequence[Request], batch: Sequence[SharedPrefix]) -> dict[int, Suffix]:
    """Request number → its suffix, for those requests of a batch that have tokens to prefill behind their prefix."""
    return {
        i: Suffix(number, common, requests[i].ids[common:-1])
        for number, prefix in enumerate(batch)
        for i, common in prefix.members.items()
        if common and common < len(requests[i].ids) - 1
    }


def prefill_batches(
    requests: Sequence[Request], prefixes: Sequence[SharedPrefix], tokens: int
) -> Iterator[list[SharedPrefix]]:
    """The prefixes in order, in batches whose prefill takes at most `tokens` tokens, padding included (but at least one)."""

    def cost(batch: Sequence[SharedPrefix]) -> int:
        rest = [len(suffix.ids) for suffix in suffixes(requests, batch).values()]
        return len(batch) * max(len(prefix.ids) for prefix in batch) + len(rest) * max(rest, default=0)

    batch: list[SharedPrefix] = []
    for prefix in prefixes:
        if batch and cost([*batch, prefix]) > tokens:
            yield batch
            batch = []
        batch.append(prefix)
    if batch:
        yield batch
