"""What a judge's two rates predict, what is measured, and the judge that is always right."""

from __future__ import annotations

import random

import pytest

from minisw.records import LabelledStep, Problem, Proposal, Try
from minisw.search.chunk_reset import chunk_reset
from minisw.search.controls import OracleJudge
from minisw.search.theory import Rates, kept_right, measure

TOM, ANNA = Problem("tom", "Tom?", "5"), Problem("anna", "Anna?", "7")


def exact_labels(problem, chunks):
    """False from the first chunk on that says "wrong" or names another problem."""
    bad = [("wrong" in c or (problem.id == "anna" and "tom" in c)) for c in chunks]
    return [not any(bad[: i + 1]) for i in range(len(chunks))]


# --- the formula -----------------------------------------------------------------------------------------------------------


def test_kept_right_is_bayes_rule():
    assert kept_right(0.5, 0.8, 0.2) == pytest.approx(0.8)
    assert kept_right(0.6, 0.9, 0.3) == pytest.approx(0.54 / (0.54 + 0.12))
    assert kept_right(0.4, 1.0, 0.0) == 1.0 and kept_right(0.0, 0.9, 0.5) == 0.0 and kept_right(1.0, 0.5, 0.5) == 1.0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_relations_that_hold_for_every_policy(p):
    assert kept_right(p, 0.7, 0.7) == pytest.approx(p)  # random rejection changes nothing,
    assert kept_right(p, 0.7, 0.7, tries=4) == pytest.approx(p)
    assert kept_right(p, 0.3, 0.6) < p < kept_right(p, 0.6, 0.3)
    odds = kept_right(p, 0.8, 0.2) / (1 - kept_right(p, 0.8, 0.2))
    assert odds == pytest.approx(4 * p / (1 - p))  # the odds grow by t / f
    assert kept_right(p, 0.8, 0.2, tries=1) == pytest.approx(p)  # one try is plain sampling
    within = [kept_right(p, 0.8, 0.2, tries) for tries in range(1, 9)]
    assert within == sorted(within) and within[-1] < kept_right(p, 0.8, 0.2)
    assert kept_right(p, 0.8, 0.2, 500) == pytest.approx(kept_right(p, 0.8, 0.2))


def test_a_judge_that_accepts_nothing_keeps_the_last_try():
    assert kept_right(0.3, 0.0, 0.0) == kept_right(0.3, 0.0, 0.0, 5) == 0.3
    assert kept_right(0.0, 1.0, 0.0) == 0.0


@pytest.mark.parametrize("rates", [(-0.1, 0.5, 0.5), (0.5, 1.1, 0.5), (0.5, 0.5, 2.0)])
def test_rates_are_probabilities(rates):
    with pytest.raises(ValueError, match="p, t and f are probabilities, not"):
        kept_right(*rates)
    with pytest.raises(ValueError, match="at least 1 try, not 0"):
        kept_right(0.5, 0.5, 0.5, 0)


# --- measuring -------------------------------------------------------------------------------------------------------------


def a_try(problem, position, text, verdict, kept):
    return Try(problem, position, 1, text, verdict, "", kept, 1, 1)


def test_rates_are_measured_behind_right_chunks_only():
    tries = [
        a_try("tom", 0, "wrong", False, False),
        a_try("anna", 0, "right", True, True),
        a_try("tom", 0, "right", None, True),  # unreadable: accepted
        a_try("anna", 1, "of tom", True, True),  # wrong for Anna, and kept
        a_try("tom", 1, "right", False, False),
        a_try("anna", 2, "right", True, True),  # behind a wrong chunk: not counted
        a_try("tom", 1, "wrong", False, True),
        a_try("anna", 3, "wrong", False, True),
    ]
    found = measure(tries, [TOM, ANNA], exact_labels)
    assert found == Rates(p=3 / 6, t=2 / 3, f=1 / 3, kept_right=2 / 4, tries=6, positions=4)


def test_a_kept_try_need_not_be_the_last():
    tries = [a_try("tom", 0, "wrong", False, True), a_try("tom", 0, "right", False, False), a_try("tom", 1, "right", True, True)]
    assert measure(tries, [TOM], exact_labels) == Rates(p=1 / 2, t=0.0, f=0.0, kept_right=0.0, tries=2, positions=1)


def test_a_rate_without_cases_is_none():
    assert measure([], [TOM], exact_labels) == Rates(None, None, None, None, 0, 0)
    assert measure([a_try("tom", 0, "right", True, True)], [TOM], exact_labels) == Rates(1.0, 1.0, None, 1.0, 1, 1)


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_a_simulated_search_keeps_what_the_formula_says(tries):
    p, t, f = 0.5, 0.8, 0.3
    rng = random.Random(0)
    problems = [Problem(f"p{i}", "?", "1") for i in range(3000)]

    def propose(questions, paths, seed):
        return [Proposal("right" if rng.random() < p else "wrong", True, True, 1) for _ in questions]

    class Noisy(OracleJudge):
        def judge(self, steps, seed):
            return [type(j)(rng.random() < (t if j.verdict else f)) for j in super().judge(steps, seed)]

    judge = Noisy(exact_labels, problems)
    paths = chunk_reset(problems, propose, judge.judge, tries, max_chunks=1)
    found = measure([t for path in paths for t in path.tries], problems, exact_labels)
    assert found.positions == 3000 and found.tries >= 3000
    assert found.kept_right == pytest.approx(kept_right(p, t, f, tries), abs=0.03)
    assert (found.p, found.t, found.f) == (pytest.approx(p, abs=0.03), pytest.approx(t, abs=0.03), pytest.approx(f, abs=0.03))


# --- the oracle ------------------------------------------------------------------------------------------------------------


def step(problem, history, chunk):
    return LabelledStep(problem.id, problem.question, tuple(history), chunk, False)


def test_the_oracle_knows_the_exact_label_of_each_step_of_its_own_problem():
    judge = OracleJudge(exact_labels, [TOM, ANNA])
    steps = [
        step(TOM, (), "right"),
        step(TOM, (), "wrong"),
        step(TOM, ("wrong",), "right"),  # behind an error
        step(TOM, ("right",), "tom"),
        step(ANNA, ("right",), "tom"),
    ]
    judgments = judge.judge(steps, 0)
    assert [j.verdict for j in judgments] == [True, False, False, True, False]
    assert [j.p_positive for j in judgments] == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert all(j.tokens == j.prompt_tokens == 0 for j in judgments) and judge.name == "oracle"
    assert judge.judge([], 0, None) == []
    with pytest.raises(KeyError):
        OracleJudge(exact_labels, [TOM]).judge([step(ANNA, (), "right")])
