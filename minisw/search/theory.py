"""How good a judge must be for rejection to pay: what it keeps, by its two rates and the policy's.

At one position the policy proposes a right chunk with probability p. The judge accepts a right chunk with probability t
(true positives) and a wrong one with probability f (false positives). The first accepted chunk is kept. By Bayes' rule it is
right with probability

    kept_right = p·t / (p·t + (1 − p)·f)

so the odds of a right chunk grow by t / f, whatever p is: a judge with t = f changes nothing, at any rate of rejection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw.records import Problem, Try


def kept_right(p: float, t: float, f: float, tries: int | None = None) -> float:
    """Probability that the kept chunk is right.

    With at most `tries` tries, the last of which is kept in any case: with a = p·t + (1 − p)·f, the share of accepted chunks,

        p·t · (1 + (1 − a) + … + (1 − a)^(tries − 1))  +  p·(1 − t) · (1 − a)^(tries − 1)

    which is p for one try and the formula above for endlessly many (`tries` None). A judge that accepts nothing keeps a chunk
    only because it is the last one: p. Raises ValueError for rates outside 0…1, and for fewer than one try.
    """
    if not all(0 <= rate <= 1 for rate in (p, t, f)):
        raise ValueError(f"p, t and f are probabilities, not {p}, {t} and {f}")
    if tries is not None and tries < 1:
        raise ValueError(f"a chunk has at least 1 try, not {tries}")
    accepted = p * t + (1 - p) * f
    if accepted == 0:
        return p
    if tries is None:
        return p * t / accepted
    rejected = 1 - accepted
    return p * t * sum(rejected**i for i in range(tries)) + p * (1 - t) * rejected ** (tries - 1)


@dataclass(frozen=True)
class Rates:
    """What a search measured. A rate without cases is None."""

    p: float | None  # share of right ones among the tries
    t: float | None  # share of accepted ones among the right tries
    f: float | None  # share of accepted ones among the wrong tries
    kept_right: float | None  # share of right ones among the kept chunks
    tries: int
    positions: int  # kept chunks


def measure(
    tries: Sequence[Try], problems: Sequence[Problem], exact_labels: Callable[[Problem, Sequence[str]], list[bool]]
) -> Rates:
    """p, t, f and the share of right kept chunks, from the tries of one search with each problem once, in their order.

    Only tries behind right chunks count: behind a wrong one, nothing is right (`Task.exact_labels`). A try is accepted if its
    verdict is not Negative, as in chunk-reset.
    """
    by_id = {p.id: p for p in problems}
    history: dict[str, list[str]] = {}  # the kept chunks of each problem so far
    cases: list[tuple[bool, bool, bool]] = []  # right, accepted, kept
    at, before_right = {}, {}  # position of each problem, and whether the chunks before it are right
    for t in tries:
        chunks = history.setdefault(t.problem_id, [])
        if at.get(t.problem_id) != t.position:
            at[t.problem_id] = t.position
            before = tuple(chunks)
            before_right[t.problem_id] = before, not before or exact_labels(by_id[t.problem_id], before)[-1]
        before, counts = before_right[t.problem_id]
        if counts:
            cases.append((exact_labels(by_id[t.problem_id], (*before, t.text))[-1], t.verdict is not False, t.kept))
        if t.kept:
            chunks.append(t.text)
    right = [accepted for is_right, accepted, _ in cases if is_right]
    wrong = [accepted for is_right, accepted, _ in cases if not is_right]
    kept = [is_right for is_right, _, was_kept in cases if was_kept]
    return Rates(
        p=_share([is_right for is_right, _, _ in cases]),
        t=_share(right),
        f=_share(wrong),
        kept_right=_share(kept),
        tries=len(cases),
        positions=len(kept),
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
