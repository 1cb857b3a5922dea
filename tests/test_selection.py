"""Which solution of a pool each method chooses, and what the chosen sets hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from minisw import selection
from minisw.records import Solution
from minisw.selection import at_random, by_majority, by_score, chosen_sets, common_problems, lucky_share, mean_score

SEEDS = range(60)


def solution(problem: str, answer: str | None, correct: bool, chunks: int = 2, **changes: bool) -> Solution:
    return Solution(problem, tuple(f"chunk {i}" for i in range(chunks)), answer, correct, **changes)


def pool(problem: str, *answers: str | None, right: str = "7") -> list[Solution]:
    return [solution(problem, answer, answer == right) for answer in answers]


def alike(pools, score: float = 0.5) -> list[list[list[float]]]:
    """The same score for every chunk of every solution."""
    return [[[score] * len(s.chunks) for s in own] for own in pools]


# --- candidates ----------------------------------------------------------------------------------------------------------


def test_only_usable_right_solutions_are_chosen():
    own = [
        solution("a", "7", True, finished=False),
        solution("a", "7", True, well_formed=False),
        solution("a", "8", False),
        solution("a", "7", True),
    ]
    scores = [[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.1, 0.1]]]
    for seed in SEEDS:
        assert at_random([own], seed) == [3] == by_score([own], scores, seed)
        assert by_majority([own], seed) == [3]  # 7 has the votes of all three, and one of them is usable


def test_every_right_solution_is_chosen_equally_often():
    own = pool("a", "7", "8", "7", "7")
    counts = Counter(at_random([own], seed)[0] for seed in range(900))
    assert counts.keys() == {0, 2, 3} and min(counts.values()) > 240


def test_a_choice_depends_on_seed_and_problem_only():
    one, two = pool("a", *["7"] * 8), pool("b", *["7"] * 8)
    for seed in SEEDS:
        both = at_random([one], seed) + at_random([two], seed)
        assert at_random([one, two], seed) == both and at_random([two, one], seed) == both[::-1]
    differ = [at_random([one], seed) != at_random([two], seed) for seed in SEEDS]
    assert 0.7 < sum(differ) / len(differ) <= 1  # each problem has an order of its own


def test_a_random_order_has_every_index_once():
    assert sorted(selection.random_order(pool("a", *["7"] * 9), 3)) == list(range(9))
    assert selection.random_order([], 3) == []


@pytest.mark.parametrize("own", [[], pool("a", "8", None), [solution("a", "7", True, finished=False)]])
def test_a_pool_without_a_candidate_gives_no_choice(own):
    assert at_random([own], 0) == [None] == by_score([own], [[[] for _ in own]], 0)


# --- scores --------------------------------------------------------------------------------------------------------------


def test_the_best_mean_wins_whatever_the_length():
    own = [solution("a", "7", True, 1), solution("a", "7", True, 4), solution("a", "7", True, 2)]
    scores = [[0.6], [0.9, 0.9, 0.9, 0.3], [0.9, 0.4]]  # means 0.6, 0.75, 0.65; sums 0.6, 3.0, 1.3; minima 0.6, 0.3, 0.4
    assert {by_score([own], [scores], seed)[0] for seed in SEEDS} == {1}
    scores[1] = [0.9, 0.9, 0.9, 0.0]  # 0.675
    assert {by_score([own], [scores], seed)[0] for seed in SEEDS} == {1}
    scores[1] = [0.9, 0.6, 0.6, 0.3]  # 0.6, although it has the largest sum
    assert {by_score([own], [scores], seed)[0] for seed in SEEDS} == {2}


def test_a_better_scored_wrong_solution_is_not_chosen_and_its_scores_are_not_read():
    own = pool("a", "8", "7")
    assert by_score([own], [[[1.0, 1.0], [0.0, 0.0]]], 0) == [1]
    assert by_score([own], [[[], [0.0, 0.0]]], 0) == [1]


def test_equal_scores_choose_what_the_outcome_chooses():
    pools = [pool("a", *["7"] * 6), pool("b", "8", "7", "7", "7")]
    for seed in SEEDS:
        assert by_score(pools, alike(pools), seed) == at_random(pools, seed)
        assert by_majority(pools, seed) == at_random(pools, seed)  # all candidates are the same here


def test_differences_of_rounding_are_ties_and_larger_ones_are_not():
    """Means are equal to six decimals: 0.9 and 0.9000002 are, 0.9 and 0.900002 are not."""
    own = pool("a", "7", "7")
    tied = {by_score([own], [[[0.9, 0.9], [0.9, 0.9000004]]], seed)[0] for seed in SEEDS}
    apart = {by_score([own], [[[0.9, 0.9], [0.9, 0.900004]]], seed)[0] for seed in SEEDS}
    assert tied == {0, 1} and apart == {1}


def test_an_unreadable_score_counts_as_a_half():
    s = solution("a", "7", True, 2)
    assert mean_score(s, [None, 1.0]) == 0.75 and mean_score(s, [None, None]) == 0.5 and mean_score(s, [0.0, None]) == 0.25
    own = pool("a", "7", "7", "7")
    assert {by_score([own], [[[0.6, 0.6], [None, None], [0.4, 0.4]]], seed)[0] for seed in SEEDS} == {0}
    assert {by_score([own], [[[0.4, 0.4], [None, None], [0.4, 0.4]]], seed)[0] for seed in SEEDS} == {1}


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, 0.5, 0.5]])
def test_a_right_solution_needs_a_score_for_each_chunk(scores):
    with pytest.raises(ValueError, match=f"problem a has 2 chunks and {len(scores)} scores: score each chunk of every candidate"):
        by_score([pool("a", "7")], [[scores]], 0)


def test_a_solution_without_chunks_cannot_be_scored():
    with pytest.raises(ValueError, match="0 chunks and 0 scores"):
        mean_score(solution("a", "7", True, 0), [])


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan")])
def test_scores_are_probabilities(score):
    with pytest.raises(ValueError, match="a score of problem a is not in 0…1"):
        by_score([pool("a", "7")], [[[0.5, score]]], 0)
    assert [mean_score(solution("a", "7", True), [bound, bound]) for bound in (0.0, 1.0)] == [0.0, 1.0]


def test_every_solution_needs_a_list_of_scores():
    with pytest.raises(ValueError, match="a pool has 2 solutions and scores for 1: give each a list"):
        by_score([pool("a", "7", "8")], [[[0.5, 0.5]]], 0)
    with pytest.raises(ValueError):
        by_score([pool("a", "7"), pool("b", "7")], [[[0.5, 0.5]]], 0)


def test_exact_labels_as_scores_choose_no_lucky_solution_where_there_is_another():
    pools = [pool("a", "7", "7", "7"), pool("b", "7", "8")]
    labels = [[[True, False], [True, True], [False, False]], [[True, False], [True, True]]]
    for seed in SEEDS:
        assert by_score(pools, labels, seed) == [1, 0]  # in b only the lucky one has a right answer


# --- majority ------------------------------------------------------------------------------------------------------------


def test_the_majority_needs_no_right_answer():
    own = pool("a", "8", "7", "8", None)
    assert {by_majority([own], seed)[0] for seed in SEEDS} == {0, 2}


def test_answers_of_the_majority_are_counted_and_chosen_by_value():
    own = pool("a", "1/2", "7", "0.5", "7", "0.50")
    assert {by_majority([own], seed)[0] for seed in SEEDS} == {0, 2, 4}


def test_all_solutions_vote_and_only_usable_ones_are_chosen():
    own = [solution("a", "8", False, well_formed=False), solution("a", "8", False), *pool("a", "7")]
    assert {by_majority([own], seed)[0] for seed in SEEDS} == {1}
    own[1] = solution("a", "8", False, well_formed=False)
    assert by_majority([own], 0) == [None]
    own[1] = solution("a", "8", False, finished=False)
    assert by_majority([own], 0) == [None]


def test_of_tied_answers_the_first_wins():
    assert {by_majority([pool("a", "8", "7")], seed)[0] for seed in SEEDS} == {0}


@pytest.mark.parametrize("own", [[], pool("a", None, None)])
def test_without_answers_there_is_no_majority(own):
    assert by_majority([own], 0) == [None]


# --- sets ----------------------------------------------------------------------------------------------------------------


def test_sets_have_the_problems_for_which_every_method_chose():
    pools = [pool(name, "7", "7") for name in "abcd"]
    choices = {"one": [0, None, 1, 0], "two": [1, 0, 0, None]}
    assert common_problems(choices) == [0, 2]
    assert chosen_sets(pools, choices) == {"one": [pools[0][0], pools[2][1]], "two": [pools[0][1], pools[2][0]]}


def test_without_a_common_problem_all_sets_are_empty():
    assert chosen_sets([pool("a", "7")], {"one": [None], "two": [0]}) == {"one": [], "two": []}


def test_methods_choose_from_the_same_problems():
    with pytest.raises(ValueError):
        common_problems({"one": [0, 1], "two": [0]})


def test_lucky_is_a_right_answer_with_a_wrong_chunk():
    solutions = pool("a", "7", "7", "8", "7")
    labels = [[True, True], [False, True], [True, False], [True, False]]
    assert lucky_share(solutions, labels) == 2 / 4  # the third is wrong, so not lucky
    assert lucky_share(solutions[:1], labels[:1]) == 0.0 and lucky_share(solutions[1:2], labels[1:2]) == 1.0
    assert lucky_share([], []) == 0.0
    with pytest.raises(ValueError):
        lucky_share(solutions, labels[:3])


def test_selection_loads_neither_torch_nor_numpy():
    code = "import sys, minisw.selection; print(sorted({'torch', 'numpy', 'transformers', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
