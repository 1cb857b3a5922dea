"""Step-level beam search (Snell et al. 2024, §5; GenPRM §4): the judge's scores decide which partial solutions go on.

    1. sample k chunks for each of the N paths of a problem (the first round: N·k chunks)
    2. judge them; a path scores the mean P(Positive) of its steps so far
    3. keep the N best paths
    4. repeat until all kept paths are finished; the answer is that of the best finished path

All problems advance together, as in chunk-reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from minisw.records import Account, Answer, Judgment, LabelledStep, Problem, Proposal
from minisw.search.paths import JudgeSteps, Solver, answer_from, ending, subseed, usable
from minisw.verify.answers import final_answer


@dataclass(frozen=True)
class Beam:
    """The size of a beam: `paths` (N) go on after each round, with `proposals` (k) each. Raises ValueError below 1."""

    paths: int
    proposals: int

    def __post_init__(self):
        if min(self.paths, self.proposals) < 1:
            raise ValueError(f"a beam needs at least 1 path and 1 proposal, not {self.paths} and {self.proposals}")


@dataclass(frozen=True)
class BeamPath:
    """A partial or finished solution, with the scores of its steps."""

    chunks: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()  # P(Positive) of each chunk
    tokens: int = 0  # sampled for these chunks
    finished: bool = False

    @property
    def score(self) -> float:
        """The mean of the steps' scores; 0.0 without a step."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


@dataclass
class Beams:
    """The search of one problem."""

    problem: Problem
    paths: list[BeamPath] = field(default_factory=lambda: [BeamPath()])  # the kept ones, best first
    finished: list[BeamPath] = field(default_factory=list)  # all that were ever finished, kept or not
    account: Account = Account()

    @property
    def best(self) -> BeamPath | None:
        """The finished path with the best score, the first of equals; one without an answer only if none has one."""
        ranked = [(final_answer("".join(path.chunks)) is not None, path.score) for path in self.finished]
        return self.finished[ranked.index(max(ranked))] if ranked else None

    def answer(self, method: str) -> Answer:
        """The best finished path as an `Answer`; cut off if no path was finished."""
        best = self.best or BeamPath()
        rejected = Account(rejected_tokens=self.account.policy_tokens - best.tokens)
        return answer_from(self.problem, method, best.chunks, best.finished, self.account + rejected)


def beam_search(problems: Sequence[Problem], policy: Solver, judge: JudgeSteps, size: Beam, seed: int = 0) -> list[Beams]:
    """Solve every problem by beam search; one `Beams` per problem, in the order of `problems`.

    `judge` should measure P(Positive) (`paths.judging`). A chunk that was cut off, is blank, or takes its solution over the
    limits is dropped without being judged. So is a second proposal of the same chunk for the same path: small models repeat
    themselves, and equal paths would fill the beam.
    """
    searches = [Beams(p) for p in problems]
    for number in range(policy.knobs.max_chunks):
        open_paths = [(s, path) for s in searches for path in s.paths if not path.finished]
        if not open_paths:
            break
        # 1. sample chunks for every open path
        questions, chunks = [s.problem.question for s, _ in open_paths], [path.chunks for _, path in open_paths]
        count = size.proposals * (1 if number else size.paths)
        groups = policy.propose_several(questions, chunks, count, subseed(seed, f"propose-{number}"))
        candidates = []
        for (search, path), group in zip(open_paths, groups, strict=True):
            search.account += Account(
                policy_tokens=sum(p.tokens for p in group), policy_prompt_tokens=sum(p.prompt_tokens for p in group)
            )
            candidates += [(search, path, *found) for found in _distinct(policy, path, group)]
        # 2. judge them, given the chunks of their path
        steps = [
            LabelledStep(search.problem.id, search.problem.question, path.chunks, proposal.text, False)
            for search, path, proposal, _ in candidates
        ]
        judgments = judge(steps, subseed(seed, f"judge-{number}")) if steps else []
        # 3. keep the best paths of every problem
        grown: dict[int, list[BeamPath]] = {id(search): [] for search in searches}
        for (search, path, proposal, finished), judgment in zip(candidates, judgments, strict=True):
            search.account += Account(judge_tokens=judgment.tokens, judge_prompt_tokens=judgment.prompt_tokens)
            grown[id(search)].append(_extended(path, proposal, judgment, finished))
        for search in searches:
            search.finished += [path for path in grown[id(search)] if path.finished]
            pool = [path for path in search.paths if path.finished] + grown[id(search)]
            search.paths = sorted(pool, key=lambda path: -path.score)[: size.paths]  # stable: the earlier of equals
    return searches


def _distinct(policy: Solver, path: BeamPath, group: Sequence[Proposal]) -> list[tuple[Proposal, bool]]:
    """The proposals that may continue a path, each once, and whether they finish it."""
    found: dict[str, tuple[Proposal, bool]] = {}
    for proposal in group:
        ended, finished = ending(proposal, [*path.chunks, proposal.text], policy.knobs.max_chunks, policy.within_budget)
        cut_off = ended and not finished
        if usable(proposal) and not cut_off:
            found.setdefault(proposal.text, (proposal, finished))
    return list(found.values())


def _extended(path: BeamPath, proposal: Proposal, judgment: Judgment, finished: bool) -> BeamPath:
    scores = (*path.scores, judgment.p_positive)
    return BeamPath((*path.chunks, proposal.text), scores, path.tokens + proposal.tokens, finished)
