"""Critic-refine with a scripted policy and judge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from minisw.records import Judgment, Problem, Solution
from minisw.search.critic_refine import ROUNDS, critic_refine

TOM, ANNA = Problem("tom", "Tom?", "5"), Problem("anna", "Anna?", "7")


class Script:
    """Plays a list of solutions for each problem and records what it is asked to refine. A chunk has ten tokens."""

    def __init__(self, lines, rewrites=True):
        self.lines = {name: iter(solutions) for name, solutions in lines.items()}
        self.rewrites, self.criticism, self.seeds, self.knobs = rewrites, [], [], SimpleNamespace()
        self.tokens = 0

    def _next(self, problem, kept=()):
        chunks = (*kept, *next(self.lines[problem.id]))
        answer = chunks[-1] if chunks[-1].isdigit() else None
        tokens = 10 * (len(chunks) - len(kept))
        self.tokens += tokens
        return Solution(
            problem.id, chunks, answer, answer == problem.answer, tokens=tokens, finished=answer is not None, prompt_tokens=100
        )

    def solve(self, problems, count, seed):
        assert count == 1
        self.seeds.append(seed)
        return [[self._next(p)] for p in problems]

    def refine(self, problems, solutions, criticism, seed):
        self.seeds.append(seed)
        self.criticism.append([(p.id, s.chunks, *c) for p, s, c in zip(problems, solutions, criticism, strict=True)])
        kept = [() if self.rewrites else s.chunks[:bad] for s, (bad, _) in zip(solutions, criticism, strict=True)]
        return [self._next(p, own) for p, own in zip(problems, kept, strict=True)]

    def encode_chunks(self, chunks):
        return [[0] * 10 for _ in chunks]


class Referee:
    """Rejects chunks with the word "wrong"; cannot be read about "mumble"."""

    def __init__(self):
        self.steps, self.seeds = [], []

    def __call__(self, steps, seed):
        self.seeds.append(seed)
        self.steps.append([(s.problem_id, s.question, s.history, s.chunk) for s in steps])
        verdicts = {"wrong": False, "mumble": None}
        return [Judgment(verdicts.get(s.chunk.split()[0], True), f"about {s.chunk}", tokens=3, prompt_tokens=20) for s in steps]


def test_the_first_bad_chunk_and_its_analysis_go_back_until_the_judge_accepts():
    of_tom = [("a", "wrong b", "wrong c", "6"), ("d", "wrong e", "6"), ("f", "5")]
    policy = Script({"tom": of_tom, "anna": [("g", "mumble", "8")]})
    judge = Referee()
    drafts = critic_refine([TOM, ANNA], policy, judge)
    assert policy.criticism == [
        [("tom", ("a", "wrong b", "wrong c", "6"), 1, "about wrong b")],  # Anna's is accepted: unreadable rejects nothing
        [("tom", ("d", "wrong e", "6"), 1, "about wrong e")],
    ]
    tom, anna = (d.answer("critic") for d in drafts)
    assert (tom.method, tom.answer, tom.correct, anna.answer, anna.correct) == ("critic", "5", True, "8", False)
    assert (tom.policy_tokens, tom.rejected_tokens, tom.policy_prompt_tokens) == (90, 70, 300)
    assert (tom.judge_tokens, tom.judge_prompt_tokens) == (3 * 9, 20 * 9)
    assert (anna.policy_tokens, anna.rejected_tokens, anna.policy_prompt_tokens, anna.judge_tokens) == (30, 0, 100, 9)
    assert judge.steps[0][:3] == [("tom", "Tom?", (), "a"), ("tom", "Tom?", ("a",), "wrong b")] + [
        ("tom", "Tom?", ("a", "wrong b"), "wrong c")
    ]
    assert judge.steps[0][-1] == ("anna", "Anna?", ("g", "mumble"), "8") and len(judge.steps) == 3
    assert len(set(policy.seeds + judge.seeds)) == 6


def test_a_policy_that_continues_keeps_what_is_before_the_bad_chunk():
    policy = Script({"tom": [("a", "b", "wrong c", "6"), ("wrong d", "6"), ("5",)]}, rewrites=False)
    judge = Referee()
    (draft,) = critic_refine([TOM], policy, judge)
    answer = draft.answer("m")
    assert draft.solution.chunks == ("a", "b", "5") and answer.correct
    # chunks that the judge has passed are not judged again
    assert [[s[3] for s in steps] for steps in judge.steps] == [["a", "b", "wrong c", "6"], ["wrong d", "6"], ["5"]]
    assert judge.steps[1][0][2] == ("a", "b")
    assert answer.policy_tokens == 70 and answer.rejected_tokens == 70 - 30 and answer.judge_tokens == 3 * 7


def test_a_rewritten_solution_is_judged_from_where_it_differs():
    policy = Script({"tom": [("a", "b", "wrong c", "6"), ("a", "x", "wrong c", "6"), ("a", "x", "wrong c", "5")]})
    judge = Referee()
    critic_refine([TOM], policy, judge, rounds=2)
    assert [s[3] for s in judge.steps[1]] == ["x", "wrong c", "6"]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_after_the_last_round_the_last_solution_is_the_answer_unjudged(rounds):
    policy = Script({"tom": [("wrong", str(n)) for n in range(9)]})
    judge = Referee()
    (draft,) = critic_refine([TOM], policy, judge, rounds)
    assert draft.answer("m").answer == str(rounds) and len(policy.criticism) == len(judge.steps) == rounds
    assert draft.answer("m").policy_tokens == policy.tokens


def test_there_are_three_rounds():
    policy = Script({"tom": [("wrong", str(n)) for n in range(9)]})
    assert ROUNDS == 3 and critic_refine([TOM], policy, Referee())[0].answer("m").answer == "3"


@pytest.mark.parametrize(("budget", "rounds"), [(51, 0), (52, 1), (77, 1), (78, 2), (1000, 2), (None, 2)])
def test_a_round_begins_only_if_the_budget_pays_for_one_like_the_one_before(budget, rounds):
    """A solution costs 20 tokens and its judgment 6: a round like the one before makes 52, the next one 78."""
    policy = Script({"tom": [("wrong", str(n)) for n in range(9)]})
    (draft,) = critic_refine([TOM], policy, Referee(), 2, budget)
    assert draft.answer("m").answer == str(rounds)


def test_the_budget_is_a_mean_over_the_problems():
    """Anna's solution is accepted: together 52 tokens after the first judgment, and 104 with another such round."""
    for budget, answer in ((51.9, "0"), (52, "1")):
        policy = Script({"tom": [("wrong", "0"), ("right", "1")], "anna": [("right", "7")]})
        assert critic_refine([TOM, ANNA], policy, Referee(), 3, budget)[0].answer("m").answer == answer


def test_a_cut_off_solution_has_no_answer_and_one_without_chunks_is_accepted():
    policy = Script({"tom": [("a", "b")]})
    policy.solve = lambda problems, count, seed: [[Solution("tom", (), None, False, tokens=1, finished=False)]]
    judge = Referee()
    (draft,) = critic_refine([TOM], policy, judge)
    assert draft.accepted and not draft.answer("m").finished and draft.answer("m").answer is None and judge.steps == []
    assert critic_refine([], Script({}), judge) == []


def test_seeds_follow_from_the_seed():
    seeds = []
    for seed in (0, 1):
        policy, judge = Script({"tom": [("wrong", "1")] * 9}), Referee()
        critic_refine([TOM], policy, judge, seed=seed)
        seeds += policy.seeds + judge.seeds
    assert len(set(seeds)) == len(seeds) == 14
