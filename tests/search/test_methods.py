"""Every method under one budget: what it spends, that all of it is in its account, and what it answers."""

from __future__ import annotations

import dataclasses

import pytest

from minisw.evaluate import stats
from minisw.judges.base import AlwaysPositive
from minisw.records import Account, Answer, Judgment, Proposal, Solution
from minisw.search import methods
from minisw.search.baselines import best_answer, voted_answer
from minisw.search.beam import Beam, BeamPath, Beams
from minisw.search.budget import flops, flops_of, majority, more_within, tokens
from minisw.search.methods import BEAMS, METHODS
from minisw.search.paths import judging

BUDGET = 900  # the tokens of about five solutions, or of two judged ones
JUDGED = [name for name in METHODS if name not in ("plain", "majority")]


def spent(answers):
    return stats.mean([tokens(a) for a in answers])


# --- the account ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, BUDGET, 3 * BUDGET])
@pytest.mark.parametrize("name", METHODS)
def test_the_tokens_of_every_method_add_up_to_what_was_sampled_and_prefilled(scene, name, budget):
    s = scene()
    answers = METHODS[name](s.problems, s.policy, s.judge, budget, 0, None)
    total = sum((Account(*(getattr(a, f.name) for f in dataclasses.fields(Account))) for a in answers), Account())
    assert total.policy_tokens == s.sampler.sampled["policy"] > 0
    assert total.judge_tokens == s.sampler.sampled["judge"]
    assert total.policy_prompt_tokens == s.sampler.prefilled["policy"] > 0
    assert total.judge_prompt_tokens == s.sampler.prefilled["judge"]
    assert (total.judge_tokens > 0) is (name in JUDGED)
    assert all(0 <= a.rejected_tokens < a.policy_tokens for a in answers)
    assert [a.problem_id for a in answers] == [p.id for p in s.problems] and {a.method for a in answers} == {name}


@pytest.mark.parametrize("refine", ["", "REFINE {solve}|{solution}|{chunk}|{analysis}"])
def test_refining_adds_up_with_and_without_a_request_for_it(scene, refine):
    s = scene(wrong=0.7, refine=refine)
    answers = METHODS["critic_refine"](s.problems, s.policy, s.judge, 5 * BUDGET, 0, None)
    assert sum(a.policy_tokens for a in answers) == s.sampler.sampled["policy"]
    assert sum(a.policy_prompt_tokens for a in answers) == s.sampler.prefilled["policy"]
    assert sum(a.judge_prompt_tokens for a in answers) == s.sampler.prefilled["judge"]


def test_an_account_is_added_field_by_field():
    assert Account(1, 2, 3, 4, 5) + Account(10, 20, 30, 40, 50) == Account(11, 22, 33, 44, 55)
    assert Account(1, 2) + Account(rejected_tokens=7) == Account(1, 2, 7)


def test_flops_are_two_for_each_parameter_and_token():
    assert flops(10, 3, 4) == 2 * 10 * 7
    answer = Answer("p", "m", None, False, 100, 20, 50, True, 1000, 300)
    assert flops_of(answer, 10, 7) == 2 * 10 * 1100 + 2 * 7 * 320
    assert flops_of(Account(100, 20, 50, 1000, 300), 10, 7) == flops_of(answer, 10, 7)
    assert tokens(answer) == 120


# --- the budget ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "cost", "more"),
    [(100, 30, 2), (100, 50, 1), (99, 50, 0), (10, 50, 0), (100, 100, 0), (200, 100, 1), (5, 0, 4)],
)
def test_more_within_leaves_out_the_first(budget, cost, more):
    assert more_within(budget, cost) == more


@pytest.mark.parametrize("name", [name for name in METHODS if name != "plain"])
def test_a_larger_budget_is_spent_and_kept_on_average(scene, name):
    costs = []
    for budget in (1, BUDGET, 4 * BUDGET):
        s = scene(problems=16)
        costs.append(spent(METHODS[name](s.problems, s.policy, s.judge, budget, 0, None)))
    least, middle, most = costs
    assert least < most and middle <= most
    assert middle <= 1.15 * max(BUDGET, least) and 0.3 * 4 * BUDGET <= most <= 1.15 * 4 * BUDGET


def test_plain_sampling_is_one_solution_at_any_budget(scene):
    s = scene()
    answers = METHODS["plain"](s.problems, s.policy, s.judge, 10**6, 0, None)
    assert [count for _, _, count, _ in s.sampler.calls] == [1] * len(s.problems)
    assert all(a.judge_tokens == 0 and a.rejected_tokens == 0 for a in answers)


@pytest.mark.parametrize("name", ["majority", "weighted_majority", "best_of_n"])
def test_the_first_sample_shows_how_many_more_there_are(scene, name):
    s = scene()
    METHODS[name](s.problems, s.policy, s.judge, BUDGET, 0, None)
    counts = [count for who, _, count, _ in s.sampler.calls if who == "policy"]
    first, later = counts[: len(s.problems)], counts[len(s.problems) :]
    assert set(first) == {1} and len(later) == len(s.problems) and len(set(later)) == 1
    alone = scene()
    costs = [tokens(a) for a in METHODS[name](alone.problems, alone.policy, alone.judge, 1, 0, None)]
    assert later[0] == more_within(BUDGET, stats.mean(costs)) > 0


def test_the_beam_is_the_largest_that_the_budget_pays_for(scene, monkeypatch):
    assert [b.paths * b.proposals for b in BEAMS] == [2, 4, 8, 16, 32, 64]
    sizes = []

    def recorded(problems, policy, judge, size, seed):
        sizes.append(size)
        return real(problems, policy, judge, size, seed)

    real = methods.beam_search
    monkeypatch.setattr(methods, "beam_search", recorded)
    s = scene()
    cost = spent(METHODS["beam"](s.problems, s.policy, s.judge, 1, 0, None))
    assert sizes == [Beam(1, 1)]  # nothing else fits
    for times, size in ((2.9, None), (3.1, BEAMS[0]), (4.9, BEAMS[0]), (5.1, BEAMS[1]), (70, BEAMS[-1])):
        sizes.clear()
        METHODS["beam"](s.problems, s.policy, s.judge, int(times * cost), 0, None)
        assert sizes == [Beam(1, 1)] + ([size] if size else [])


def test_the_path_that_showed_the_cost_of_a_beam_is_a_candidate(scene, monkeypatch):
    """The first search has the better path of the first problem, the larger one that of the second; of equals the first."""
    scores = {Beam(1, 1): (0.9, 0.2, 0.5), BEAMS[0]: (0.5, 0.6, 0.5)}

    def searched(problems, policy, judge, size, seed):
        paths = [BeamPath((f"\\boxed{{{size.proposals}}}",), (score,), 10, True) for score in scores[size]]
        return [Beams(p, [], [path], Account(10, 5)) for p, path in zip(problems, paths, strict=True)]

    monkeypatch.setattr(methods, "beam_search", searched)
    s = scene(problems=3)
    answers = METHODS["beam"](s.problems, s.policy, s.judge, 45, 0, None)
    assert [a.answer for a in answers] == ["1", "2", "1"] and [a.problem_id for a in answers] == [p.id for p in s.problems]
    assert {(a.policy_tokens, a.judge_tokens, a.rejected_tokens) for a in answers} == {(20, 10, 10)}


@pytest.mark.parametrize("name", METHODS)
def test_no_seed_is_used_twice(scene, name):
    seeds = []
    for seed in (3, 4):
        s = scene(problems=4)
        METHODS[name](s.problems, s.policy, s.judge, 4 * BUDGET, seed, None)
        seeds += s.sampler.seeds
    assert len(set(seeds)) == len(seeds) > 1


def test_progress_and_no_problems(scene):
    s = scene()
    for name, method in METHODS.items():
        ticks = []
        assert method([], s.policy, s.judge, BUDGET, 0, ticks.append) == []
        method(s.problems[:3], s.policy, s.judge, BUDGET, 0, ticks.append)
        assert ticks == [0, 3], name


# --- the answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JUDGED)
def test_a_perfect_judge_raises_accuracy(scene, name):
    s = scene(problems=20)
    plain = stats.mean([a.correct for a in METHODS["plain"](s.problems, s.policy, s.judge, 1, 0, None)])
    steered = stats.mean([a.correct for a in METHODS[name](s.problems, s.policy, s.judge, 3 * BUDGET, 0, None)])
    assert plain < 0.6 and steered > plain + 0.2


def test_always_positive_makes_one_chunk_reset_plain_sampling(scene):
    s = scene()
    answers = METHODS["chunk_reset"](s.problems, s.policy, AlwaysPositive(), 1, 0, None)
    assert all(a.rejected_tokens == a.judge_tokens == a.judge_prompt_tokens == 0 for a in answers)
    assert 0 < sum(a.correct for a in answers) < len(answers)


def test_hot_retries_are_hotter_and_nothing_else_is(scene):
    temperatures = {}
    for name in METHODS:
        s = scene()
        METHODS[name](s.problems, s.policy, s.judge, BUDGET, 0, None)
        temperatures[name] = {sampling.temperature for who, _, _, sampling in s.sampler.calls if who == "policy"}
    assert sorted(temperatures.pop("chunk_reset_hot")) == pytest.approx([0.8, 1.3 * 0.8])
    assert set.union(*temperatures.values()) == {0.8}


def test_repeated_searches_vote(scene, monkeypatch):
    """Three searches with the answers 1, 2, 2: the second is the answer, with the costs of all; a tie goes to the first."""
    made = iter(["1", "2", "2"])
    problem = scene(problems=1).problems[0]

    def search(problems, seed):
        answers = [next(made) for _ in problems]
        return [Answer(problem.id, "x", a, a == "2", 10, 5, 3, True, 20, 30) for a in answers]

    (answer,) = methods.repeated("vote", [problem], search, 45, 0)
    assert answer == Answer(problem.id, "vote", "2", True, 30, 15, 9, True, 60, 90)
    made = iter(["1", "2"])
    assert methods.repeated("vote", [problem], search, 44, 0)[0].answer == "1"


def test_repeated_searches_keep_the_problems_apart(scene):
    """Three searches of each problem; an answer about the second problem costs 15 tokens, about the first 10."""
    two = scene(problems=2).problems
    costs = {two[0].id: 10, two[1].id: 15}

    def search(some, seed):
        return [Answer(p.id, "x", p.answer, True, costs[p.id]) for p in some]

    (a, b) = methods.repeated("vote", two, search, 38, 0)
    assert (a.problem_id, a.answer, a.policy_tokens) == (two[0].id, "11", 30)
    assert (b.problem_id, b.answer, b.policy_tokens) == (two[1].id, "12", 45)


def drawn(*rows):
    """Solutions with these answers and the judgments of their steps: (answer, scores)."""
    solutions = [Solution("p", tuple("ab"), a, a == "5", tokens=10, prompt_tokens=0 if i else 7) for i, (a, _) in enumerate(rows)]
    judged = [[Judgment(True, p_positive=p, tokens=3, prompt_tokens=11) for p in scores] for _, scores in rows]
    return solutions, judged


def test_best_of_n_by_mean_minimum_and_last():
    samples = drawn(("1", [0.9, 0.1, 0.8]), ("2", [0.5, 0.5, 0.5]), ("3", [0.2, 0.3, 0.9]))
    chosen = {a: best_answer("m", *samples, a).answer for a in ("mean", "minimum", "last")}
    assert chosen == {"mean": "1", "minimum": "2", "last": "3"}
    assert best_answer("m", *samples).answer == "1"
    assert best_answer("m", *drawn(("1", []), ("2", [0.1]))).answer == "2"
    for aggregate in ("mean", "minimum", "last"):
        assert best_answer("m", *drawn(("1", []), ("2", [0.0])), aggregate).answer == "1"  # 0.0 without steps; the first
    answer = best_answer("m", *samples)
    assert (answer.policy_tokens, answer.policy_prompt_tokens) == (30, 7)
    assert (answer.judge_tokens, answer.judge_prompt_tokens) == (27, 99)


def test_votes_weighted_by_score():
    samples = drawn(("1", [0.9, 0.9]), ("5", [0.3, 0.3]), ("5.0", [0.4, 0.4]), (None, [1.0, 1.0]))
    assert voted_answer("m", samples[0]).answer == "5"
    weighted = voted_answer("m", *samples)
    assert weighted.answer == "1" and weighted.method == "m" and not weighted.correct
    assert (weighted.policy_tokens, weighted.judge_tokens, weighted.judge_prompt_tokens) == (40, 24, 88)
    assert majority(["1", "5", "5.0"], [0.6, 0.3, 0.4]) == "5" and majority(["1", "5", "5"], [0.8, 0.3, 0.4]) == "1"
    assert majority(["1", "5"], [0.5, 0.5]) == "1" and majority(["1", "5"], [0.0, 0.0]) == "1"


# --- how judges are asked ------------------------------------------------------------------------------------------------


class Asked:
    """A judge that records whether it was asked for P(Positive)."""

    def __init__(self, votes=1):
        self.votes, self.asked = votes, []

    def judge(self, steps, seed, progress=None, probabilities=False):
        self.asked.append(probabilities)
        if progress:
            progress(len(steps))
        return [Judgment(True, prompt_tokens=5 * n) for n, _ in enumerate(steps)]


def test_scores_are_asked_for_where_they_matter_and_votes_keep_their_share(scene):
    s = scene()
    steps = [object(), object()]
    for votes, scores, expected in ((1, True, True), (1, False, False), (3, True, False)):
        judge = Asked(votes)
        assert [j.prompt_tokens for j in judging(judge, scores)(steps, 0)] == [0, 5]  # no `prompt`: nothing to count
        assert judge.asked == [expected]
    for name in JUDGED:
        judge = Asked()
        METHODS[name](s.problems[:2], s.policy, judge, 1, 0, None)
        assert set(judge.asked) == {name not in ("chunk_reset", "chunk_reset_hot", "critic_refine")}, name


def test_a_judge_that_counts_its_prompts_is_believed():
    judge, done = Asked(), []
    judging(judge)([object(), object()], 0, done.append)
    assert done == [2]
    judge.prompt = lambda step: [0] * 42
    assert [j.prompt_tokens for j in judging(judge)([object(), object()], 0)] == [42, 5]


def test_prompt_tokens_are_left_out_of_comparisons():
    assert Proposal("a", True, True, 1, 5) == Proposal("a", True, True, 1) and Judgment(True, prompt_tokens=5) == Judgment(True)
