"""Every search method under one budget: B tokens of policy and judge per problem, on average over the problems of a call.

How each method spends its budget (all that is sampled is in the account, and each samples at least once, whatever B is):

    plain               one solution
    majority            one solution measures the cost; then as many more as B allows; the most frequent answer
    weighted_majority   likewise, each solution judged; votes count as much as the solution's mean score
    best_of_n           likewise, each solution judged; the best mean score of its steps (_minimum, _last: the least, the last)
    beam                a beam of one path shows the cost; then the largest of `BEAMS` that B pays for beside it
    chunk_reset         one search with 5 tries per chunk; then as many more searches as B pays for; the most frequent answer
    chunk_reset_best    likewise; of 5 rejected tries the one with the best score is kept, not the last
    chunk_reset_hot     likewise; retries are sampled at a higher temperature
    critic_refine       as many rounds, up to 3, as B pays for; then whole searches and a vote, as in chunk_reset

"Pays for" is by mean costs: a method spends about B, or less where its next larger step does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minisw.evaluate import stats
from minisw.judges.base import Judge
from minisw.records import Answer, Problem
from minisw.search.baselines import answer_of, best_answer, voted_answer
from minisw.search.beam import Beam, Beams, beam_search
from minisw.search.budget import more_within, tokens
from minisw.search.chunk_reset import Retries, chunk_reset
from minisw.search.critic_refine import ROUNDS, critic_refine
from minisw.search.paths import Progress, Solver, judging, subseed
from minisw.search.spend import draw, repeated

Method = Callable[[Sequence[Problem], Solver, Judge, int, int, Progress], list[Answer]]  # …, budget_tokens, seed, progress

BEAMS = (Beam(1, 2), Beam(2, 2), Beam(2, 4), Beam(4, 4), Beam(4, 8), Beam(8, 8))  # each costs twice as much as the one before
HOTTER = 1.3  # temperature of retries over the policy's


def _plain(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
    return [answer_of("plain", group, group[0]) for group in policy.solve(problems, 1, subseed(seed, "first"))]


def _majority(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
    return [voted_answer("majority", group) for group, _ in draw(problems, policy, None, budget_tokens, seed)]


def _weighted_majority(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
    return [voted_answer("weighted_majority", *drawn) for drawn in draw(problems, policy, judge, budget_tokens, seed)]


def _best_of_n(name: str, aggregate: str) -> Callable[..., list[Answer]]:
    def method(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
        return [best_answer(name, *drawn, aggregate) for drawn in draw(problems, policy, judge, budget_tokens, seed)]

    return method


def _beam(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
    judge_steps = judging(judge, scores=True)
    searches = beam_search(problems, policy, judge_steps, Beam(1, 1), subseed(seed, "first"))
    more = more_within(budget_tokens, stats.mean([tokens(s.account) for s in searches]))
    fitting = [size for size in BEAMS if size.paths * size.proposals <= more]
    if fitting:
        larger = beam_search(problems, policy, judge_steps, fitting[-1], subseed(seed, "more"))
        searches = [  # the path of the first search is one more candidate
            Beams(a.problem, [], a.finished + b.finished, a.account + b.account) for a, b in zip(searches, larger, strict=True)
        ]
    return [s.answer("beam") for s in searches]


def _chunk_reset(name: str, keep: str = "last", hotter: float | None = None) -> Callable[..., list[Answer]]:
    def method(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
        retries = Retries(keep=keep, temperature=hotter and hotter * policy.knobs.temperature)
        judge_steps, limit = judging(judge, scores=keep == "best"), policy.knobs.max_chunks

        def search(some: Sequence[Problem], seed: int) -> list[Answer]:
            paths = chunk_reset(some, policy.propose, judge_steps, retries, limit, seed, policy.within_budget)
            return [path.answer(name) for path in paths]

        return repeated(name, problems, search, budget_tokens, seed)

    return method


def _critic_refine(problems, policy, judge, budget_tokens, seed) -> list[Answer]:
    def search(some: Sequence[Problem], seed: int) -> list[Answer]:
        drafts = critic_refine(some, policy, judging(judge), ROUNDS, budget_tokens, seed)
        return [draft.answer("critic_refine") for draft in drafts]

    return repeated("critic_refine", problems, search, budget_tokens, seed)


def _complete(method: Callable[..., list[Answer]]) -> Method:
    """The method, which also takes no problems, and tells `progress` how many are done."""

    def run(
        problems: Sequence[Problem], policy: Solver, judge: Judge, budget_tokens: int, seed: int = 0, progress: Progress = None
    ) -> list[Answer]:
        answers = method(problems, policy, judge, budget_tokens, seed) if problems else []
        if progress:
            progress(len(answers))
        return answers

    return run


METHODS: dict[str, Method] = {
    name: _complete(method)
    for name, method in {
        "plain": _plain,
        "majority": _majority,
        "weighted_majority": _weighted_majority,
        "best_of_n": _best_of_n("best_of_n", "mean"),
        "best_of_n_minimum": _best_of_n("best_of_n_minimum", "minimum"),
        "best_of_n_last": _best_of_n("best_of_n_last", "last"),
        "beam": _beam,
        "chunk_reset": _chunk_reset("chunk_reset"),
        "chunk_reset_best": _chunk_reset("chunk_reset_best", keep="best"),
        "chunk_reset_hot": _chunk_reset("chunk_reset_hot", hotter=HOTTER),
        "critic_refine": _critic_refine,
    }.items()
}
