"""Critic-refine (GenPRM §4): the judge's analysis of the first bad step goes back to the policy, which solves anew.

    1. the policy writes a whole solution
    2. the judge judges its steps; a solution without a rejected step is accepted
    3. the first rejected step and its analysis go back to the policy, which writes a new solution
    4. repeat 2 and 3, at most `rounds` times; the last solution is the answer

With a `refine` template in its prompts, the policy reads the old solution and the analysis. Where there is none (the embedded
base has never seen such a request), the policy continues the old solution from before the rejected step: the judge then says
where to begin again, and not what was wrong. `Policy.refine` does either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from minisw.engine.requests import common_length
from minisw.records import Account, Answer, LabelledStep, Problem, Solution
from minisw.search.paths import JudgeSteps, Solver, subseed

ROUNDS = 3  # GenPRM's


@dataclass
class Draft:
    """The current solution of one problem."""

    problem: Problem
    solution: Solution
    account: Account
    live: int  # sampled tokens of the current solution; those of older ones are rejected
    passed: int = 0  # chunks at its beginning that the judge has passed already
    accepted: bool = False
    bad: int = -1  # index of the first rejected chunk
    analysis: str = ""  # of that chunk

    def answer(self, method: str) -> Answer:
        """The current solution as an `Answer` of `method`."""
        account = self.account + Account(rejected_tokens=self.account.policy_tokens - self.live)
        s = self.solution
        return Answer(s.problem_id, method, s.answer, s.correct, finished=s.finished, **dataclasses.asdict(account))


def critic_refine(
    problems: Sequence[Problem],
    policy: Solver,
    judge: JudgeSteps,
    rounds: int = ROUNDS,
    budget: float | None = None,
    seed: int = 0,
) -> list[Draft]:
    """Solve every problem, with at most `rounds` new solutions each; one `Draft` per problem, in the order of `problems`.

    `budget`, in tokens of policy and judge per problem on average: a round that costs as much as the one before (the first
    round: as the first solutions) begins only if it fits. Rounds get cheaper, because accepted solutions take no part.
    """
    solutions = [group[0] for group in policy.solve(problems, 1, subseed(seed, "solve"))]
    drafts = [
        Draft(p, s, Account(policy_tokens=s.tokens, policy_prompt_tokens=s.prompt_tokens), s.tokens)
        for p, s in zip(problems, solutions, strict=True)
    ]
    before = 0
    for number in range(rounds):
        open_drafts = [draft for draft in drafts if not draft.accepted]
        _judge(open_drafts, judge, subseed(seed, f"judge-{number}"))
        open_drafts = [draft for draft in open_drafts if not draft.accepted]
        spent = sum(draft.account.policy_tokens + draft.account.judge_tokens for draft in drafts)
        if not open_drafts or (budget is not None and spent + (spent - before) > budget * len(drafts)):
            break
        before = spent
        _refine(open_drafts, policy, subseed(seed, f"refine-{number}"))
    return drafts


def _judge(drafts: Sequence[Draft], judge: JudgeSteps, seed: int) -> None:
    """Judge the chunks that are not passed yet; sets `accepted`, or `bad` and `analysis`, of every draft."""
    steps = [
        LabelledStep(d.problem.id, d.problem.question, d.solution.chunks[:i], d.solution.chunks[i], False)
        for d in drafts
        for i in range(d.passed, len(d.solution.chunks))
    ]
    judgments = iter(judge(steps, seed) if steps else ())
    for draft in drafts:
        draft.accepted = True
        for i in range(draft.passed, len(draft.solution.chunks)):
            judgment = next(judgments)
            draft.account += Account(judge_tokens=judgment.tokens, judge_prompt_tokens=judgment.prompt_tokens)
            if judgment.verdict is False and draft.accepted:
                draft.accepted, draft.bad, draft.analysis = False, i, judgment.analysis


def _refine(drafts: Sequence[Draft], policy: Solver, seed: int) -> None:
    """A new solution for every draft. Chunks that it has in common with the old one, before the bad chunk, stay passed."""
    problems, old = [d.problem for d in drafts], [d.solution for d in drafts]
    solutions = policy.refine(problems, old, [(d.bad, d.analysis) for d in drafts], seed)
    for draft, new in zip(drafts, solutions, strict=True):
        before_bad = draft.solution.chunks[: draft.bad]
        draft.passed = common_length(new.chunks, before_bad)
        draft.account += Account(policy_tokens=new.tokens, policy_prompt_tokens=new.prompt_tokens)
        draft.live = new.tokens if policy.rewrites else new.tokens + sum(map(len, policy.encode_chunks(before_bad)))
        draft.solution = new
