"""Votes, best-of-N and token budgets, on plain lists and on solutions."""

from dataclasses import dataclass, field

import pytest

from minisw.records import Judgment, LabelledStep, Solution
from minisw.search.baselines import best_of_n_answers, score_solutions, vote_answers
from minisw.search.budget import best_of_n, majority, samples_within
from minisw.verify import algebra

needs_algebra = pytest.mark.skipif(not algebra.installed(), reason="math-verify is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["4", "5", "5"], "5"),
        (["4", "$18", "18.00"], "$18"),  # equal values, one vote each
        (["3", "1/2", "0.5", "3", ".5"], "1/2"),
        (["7", "18", "18 dollars"], "18"),
        (["7", "18 dollars", "18"], "18 dollars"),
        (["x + 1", "2", "x+1"], "x + 1"),
        (["4", "5", "5", "4"], "4"),  # a tie: the first
        (["5", "4", "4", "5"], "5"),
        ([None, None, None, "5"], "5"),  # None does not vote
        ([None, "4", None, "5"], "4"),
        ([None, None], None),
        ([], None),
    ],
)
def test_a_vote_counts_values(answers, winner):
    assert majority(answers) == winner


@needs_algebra
def test_a_vote_counts_values_that_only_algebra_knows_to_be_equal():
    assert majority(["3", "\\frac12", "0.5"]) == "\\frac12"
    assert majority(["3", "0.5", "\\frac{1}{2}"]) == "0.5"
    assert majority(["2", "\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"]) == "\\frac{\\sqrt{2}}{2}"


def test_a_vote_on_numbers_needs_no_algebra(monkeypatch):
    monkeypatch.setattr(algebra, "equal", lambda *_: pytest.fail("algebra was asked"))
    assert majority(["1", "2", "3.0", "3", "1,000", "2/1", "2"]) == "2"


@pytest.mark.parametrize(
    ("costs", "budget", "counts"),
    [
        ([[10, 10, 10], [10, 10, 10]], 45, [2, 2]),
        ([[10, 10], [10, 10]], 35, [2, 1]),
        ([[10, 10], [10, 10]], 40, [2, 2]),  # exactly the budget
        ([[10, 10], [10, 10]], 39, [2, 1]),
        ([[30, 1], [30, 1]], 25, [1, 1]),  # one each, at least
        ([[5], [5, 5]], 100, [1, 2]),  # all there are
        ([[1, 1, 1, 1], [9, 9, 9, 9]], 21, [3, 2]),  # in rounds, not problem by problem
        ([[5, 20, 1], [5, 5, 1]], 20, [1, 1]),  # stops at the first sample that does not fit
        ([], 10, []),
    ],
)
def test_samples_within_a_budget(costs, budget, counts):
    assert samples_within(costs, budget) == counts


def test_best_of_n_takes_the_best_score_that_the_budget_pays_for():
    scores, policy = [[0.1, 0.5, 0.9], [0.3, 0.2, 0.9]], [[10] * 3] * 2
    assert best_of_n(scores, policy, [[5] * 3] * 2, 60) == [1, 0]
    assert best_of_n(scores, policy, [[5] * 3] * 2, 90) == [2, 2]
    assert best_of_n(scores, policy, [[0] * 3] * 2, 60) == [2, 2]  # the judge's tokens count
    assert best_of_n(scores, policy, [[5] * 3] * 2, 30) == [0, 0]
    assert best_of_n([[0.5, 0.5]], [[1, 1]], [[1, 1]], 9) == [0]


# --- on solutions --------------------------------------------------------------------------------------------------------


def solutions(problem: str, *answers: str | None) -> list[Solution]:
    """Solutions of 10, 11, 12, … tokens; "5" is right, None was cut off."""
    return [
        Solution(problem, ("a", "b"), a, a == "5", tokens=10 + i, finished=a is not None) for i, a in enumerate(answers)
    ]


def test_vote_answers_count_only_the_samples_that_the_budget_pays_for():
    groups = [solutions("p", "4", "5", "5", "5"), solutions("q", None, None, "5", "5")]
    answers = vote_answers(groups, 66)  # three rounds
    assert [(a.problem_id, a.method, a.answer, a.correct, a.finished) for a in answers] == [
        ("p", "majority vote", "5", True, True),
        ("q", "majority vote", "5", True, True),
    ]
    assert [(a.policy_tokens, a.judge_tokens) for a in answers] == [(33, 0), (33, 0)]
    answers = vote_answers(groups, 65)  # the third sample of q does not fit
    assert [(a.answer, a.correct, a.finished, a.policy_tokens) for a in answers] == [
        ("5", True, True, 33),
        (None, False, False, 21),
    ]


def test_best_of_n_answers_and_their_tokens():
    groups = [solutions("p", "4", "5", "6"), solutions("q", "5", "4", "6")]
    answers = best_of_n_answers(groups, [[0.1, 0.5, 0.9], [0.3, 0.2, 0.9]], [[5, 6, 7], [1, 2, 3]], 60)
    assert [(a.problem_id, a.answer, a.correct) for a in answers] == [("p", "5", True), ("q", "5", True)]
    assert [(a.policy_tokens, a.judge_tokens) for a in answers] == [(21, 11), (21, 3)]


@dataclass
class Scorer:
    """P(Positive) by the chunk's text; records what it was asked."""

    p: dict[str, float]
    steps: list[LabelledStep] = field(default_factory=list)

    def judge(self, steps, seed, progress=None, probabilities=False):
        assert probabilities and seed == 7
        self.steps += steps
        return [Judgment(True, p_positive=self.p[s.chunk], tokens=len(s.history) + 1) for s in steps]


def test_a_solution_scores_the_mean_of_its_own_chunks():
    groups = [
        [Solution("p", ("a", "b"), "1", True), Solution("p", ("c",), "1", True)],
        [Solution("q", ("b", "b", "a"), "1", True), Solution("q", (), None, False)],
    ]
    judge = Scorer({"a": 1.0, "b": 0.5, "c": 0.25})
    scores, costs = score_solutions(judge, {"p": "P?", "q": "Q?"}, groups, 7)
    assert scores == [[0.75, 0.25], [pytest.approx(2 / 3), 0.0]] and costs == [[3, 1], [6, 0]]
    assert [(s.problem_id, s.question, s.history, s.chunk) for s in judge.steps] == [
        ("p", "P?", (), "a"),
        ("p", "P?", ("a",), "b"),
        ("p", "P?", (), "c"),
        ("q", "Q?", (), "b"),
        ("q", "Q?", ("b",), "b"),
        ("q", "Q?", ("b", "b"), "a"),
    ]
