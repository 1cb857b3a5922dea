"""Beam search with a scripted policy and judge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from minisw.records import Account, Judgment, Problem, Proposal
from minisw.search.beam import Beam, BeamPath, Beams, beam_search

TOM, ANNA = Problem("tom", "Tom?", "5"), Problem("anna", "Anna?", "7")
FIVE, SIX, SEVEN = (f"\\boxed{{{n}}}" for n in (5, 6, 7))
CUT = Proposal("and so", closed=False, finished=False, tokens=80)


class Script:
    """A policy with the proposals for each (question, chunks), taken from the start; it records its calls."""

    def __init__(self, lines, max_chunks=5, longest=99):
        self.lines, self.knobs, self.longest = lines, SimpleNamespace(max_chunks=max_chunks), longest
        self.calls, self.tokens, self.prefilled = [], 0, 0

    def propose_several(self, questions, paths, count, seed):
        self.calls.append((list(zip(questions, paths, strict=True)), count, seed))
        groups = []
        for question, path in zip(questions, paths, strict=True):
            texts = self.lines[question, *path]
            group = [t if isinstance(t, Proposal) else Proposal(t, True, True, 10 + len(t)) for t in texts[:count]]
            group = [Proposal(p.text, p.closed, p.finished, p.tokens, 0 if n else 100) for n, p in enumerate(group)]
            self.tokens += sum(p.tokens for p in group)
            self.prefilled += 100
            groups.append(group)
        return groups

    def within_budget(self, chunks):
        return len("".join(chunks)) <= self.longest


class Scores:
    """A judge whose P(Positive) is given by the chunk's text; it rejects everything, which a beam does not look at."""

    def __init__(self, **p):
        self.p, self.steps, self.seeds = p, [], []

    def __call__(self, steps, seed):
        self.steps += steps
        self.seeds.append(seed)
        return [Judgment(False, p_positive=self.p.get(s.chunk, 0.5), tokens=3, prompt_tokens=20) for s in steps]


def test_the_best_partial_solutions_go_on():
    policy = Script(
        {
            ("Tom?",): ["a", "b", "c", "d"],
            ("Tom?", "b"): ["e", "f"],
            ("Tom?", "d"): ["g", FIVE],
            ("Tom?", "b", "e"): [SIX, "h"],
        }
    )
    judge = Scores(a=0.1, b=0.9, c=0.2, d=0.8, e=0.9, f=0.3, g=0.2, h=0.0, **{FIVE: 0.4, SIX: 0.2})
    (search,) = beam_search([TOM], policy, judge, Beam(2, 2))
    assert [(calls, count) for calls, count, _ in policy.calls] == [
        ([("Tom?", ())], 4),  # N·k proposals at first
        ([("Tom?", ("b",)), ("Tom?", ("d",))], 2),  # the best two, best first
        ([("Tom?", ("b", "e"))], 2),  # d + FIVE is kept (0.6, above b + f and d + g) and finished
    ]
    assert [p.chunks for p in search.finished] == [("d", FIVE), ("b", "e", SIX)]
    assert [round(p.score, 3) for p in search.finished] == [0.6, 0.667]
    assert search.best.chunks == ("b", "e", SIX)  # the best mean, not the last score or the first finished one
    answer = search.answer("beam")
    assert (answer.problem_id, answer.method, answer.answer, answer.correct, answer.finished) == ("tom", "beam", "6", False, True)
    assert answer.policy_tokens == policy.tokens and answer.policy_prompt_tokens == policy.prefilled == 400
    assert answer.judge_tokens == 3 * 10 and answer.judge_prompt_tokens == 20 * 10
    assert answer.rejected_tokens == policy.tokens - (11 + 11 + 10 + len(SIX))


def test_the_judge_sees_the_path_of_every_proposal():
    policy = Script({("Tom?",): ["a"], ("Tom?", "a"): [FIVE], ("Anna?",): ["b"], ("Anna?", "b"): [SEVEN]})
    judge = Scores()
    beam_search([TOM, ANNA], policy, judge, Beam(1, 1))
    assert [(s.problem_id, s.question, s.history, s.chunk) for s in judge.steps] == [
        ("tom", "Tom?", (), "a"),
        ("anna", "Anna?", (), "b"),
        ("tom", "Tom?", ("a",), FIVE),
        ("anna", "Anna?", ("b",), SEVEN),
    ]


def test_problems_are_searched_apart_and_verified_against_their_own_answer():
    policy = Script({("Tom?",): ["a", "b"], ("Tom?", "b"): [SEVEN, FIVE], ("Anna?",): [SEVEN, FIVE]})
    judge = Scores(a=0.2, b=0.9, **{SEVEN: 0.7, FIVE: 0.1})
    tom, anna = (s.answer("m") for s in beam_search([TOM, ANNA], policy, judge, Beam(1, 2)))
    assert (tom.answer, tom.correct, anna.answer, anna.correct) == ("7", False, "7", True)
    assert anna.policy_tokens == 2 * (10 + len(SEVEN)) and anna.judge_tokens == 6 and tom.judge_tokens == 12


def test_a_finished_path_that_leaves_the_beam_can_still_be_the_answer():
    policy = Script({("Tom?",): [FIVE, "a"], ("Tom?", "a"): ["b", "b2"], ("Tom?", "a", "b"): [CUT, CUT]})
    (search,) = beam_search([TOM], policy, Scores(a=0.9, b=0.8, b2=0.1, **{FIVE: 0.6}), Beam(1, 2))
    assert search.paths == [] and search.answer("m").answer == "5"


def test_of_equals_the_earlier_goes_on_and_is_the_answer():
    policy = Script({("Tom?",): ["a", "b"], ("Tom?", "a"): [SIX, FIVE]})
    (search,) = beam_search([TOM], policy, Scores(), Beam(1, 2))
    assert search.answer("m").answer == "6"


def test_a_repeated_chunk_is_judged_once_and_fills_the_beam_once():
    policy = Script({("Tom?",): ["a", "a", "a", "b"], ("Tom?", "a"): [FIVE, FIVE], ("Tom?", "b"): [SIX, SIX]})
    judge = Scores(a=0.9, b=0.8)
    (search,) = beam_search([TOM], policy, judge, Beam(2, 2))
    assert [s.chunk for s in judge.steps] == ["a", "b", FIVE, SIX]
    assert search.account.policy_tokens == policy.tokens  # what was sampled counts


def test_of_equal_chunks_the_first_goes_on():
    """The first costs 11 tokens and continues; the second, with the same text, would end the solution."""
    policy = Script({("Tom?",): ["a", Proposal("a", closed=False, finished=True, tokens=2)], ("Tom?", "a"): [FIVE]})
    (search,) = beam_search([TOM], policy, Scores(), Beam(1, 2))
    answer = search.answer("m")
    assert answer.answer == "5" and answer.policy_tokens == policy.tokens and answer.rejected_tokens == 2


@pytest.mark.parametrize(
    "dropped",
    [CUT, Proposal(" \n", True, True, 5), "too long " * 12],
)
def test_what_cannot_go_on_is_dropped_unjudged(dropped):
    policy, judge = Script({("Tom?",): [dropped, "a"], ("Tom?", "a"): [dropped, FIVE]}), Scores()
    (search,) = beam_search([TOM], policy, judge, Beam(1, 2))
    assert [s.chunk for s in judge.steps] == ["a", FIVE] and search.answer("m").correct
    assert search.account.policy_tokens == policy.tokens
    (nothing,) = beam_search([TOM], Script({("Tom?",): [dropped]}), judge, Beam(1, 1))
    answer = nothing.answer("m")
    assert answer.answer is None and not answer.finished and not answer.correct and len(judge.steps) == 2
    assert answer.rejected_tokens == answer.policy_tokens > 0


@pytest.mark.parametrize(("limit", "answer"), [(1, None), (2, "5"), (3, "5")])
def test_a_solution_is_cut_off_after_max_chunks(limit, answer):
    policy = Script({("Tom?",): ["a"], ("Tom?", "a"): [FIVE]}, max_chunks=limit)
    (search,) = beam_search([TOM], policy, Scores(), Beam(1, 1))
    assert search.answer("m").answer == answer and search.answer("m").finished is (answer is not None)


def test_the_policy_may_end_a_solution_and_one_with_an_answer_is_preferred():
    end = Proposal("", closed=False, finished=True, tokens=1)
    policy = Script({("Tom?",): [end, FIVE]})
    (search,) = beam_search([TOM], policy, Scores(**{"": 0.9, FIVE: 0.1}), Beam(2, 1))
    assert len(search.finished) == 2 and search.answer("m").answer == "5"
    (alone,) = beam_search([TOM], Script({("Tom?",): [end]}), Scores(), Beam(1, 1))
    assert alone.answer("m").finished and alone.answer("m").answer is None


def test_every_round_has_seeds_of_its_own():
    lines = {("Tom?",): ["a"], ("Tom?", "a"): ["b"], ("Tom?", "a", "b"): [FIVE]}
    seeds = []
    for seed in (0, 1):
        policy, judge = Script(lines), Scores()
        beam_search([TOM], policy, judge, Beam(1, 1), seed)
        seeds += [s for *_, s in policy.calls] + judge.seeds
    assert len(set(seeds)) == len(seeds) == 12
    assert beam_search([], Script({}), Scores(), Beam(1, 1)) == []


def test_a_score_is_the_mean_and_a_beam_has_a_size():
    assert BeamPath().score == 0.0 and BeamPath(scores=(0.2, 0.6)).score == pytest.approx(0.4)
    assert Beams(TOM, account=Account(5)).answer("m").rejected_tokens == 5
    for size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1 path and 1 proposal, not"):
            Beam(*size)
