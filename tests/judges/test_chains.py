"""Verification chains: their text, ThinkPRM's filter, and the prefixes and comments that they are composed from."""

from __future__ import annotations

import dataclasses

import pytest

from minisw.judges.chains import (
    answered,
    balance,
    choose_prefixes,
    compose,
    is_correct,
    keep_chain,
    kept_chains,
    right_critiques,
    step_verdicts,
    whole_prefixes,
)
from minisw.prompts import ARITHMETIC, ENGLISH, NEGATIVE, POSITIVE
from minisw.records import LabelledStep

P, N = f"It says 4. {POSITIVE}", f"It says 5. {NEGATIVE}"


def solution(labels, problem="tom", number=0):
    """The labelled steps "0. ", "1. ", … of one solution."""
    chunks = [f"{i}. " for i in range(len(labels))]
    return [LabelledStep(problem, "Q?", tuple(chunks[:i]), chunks[i], label, number) for i, label in enumerate(labels)]


# --- text ------------------------------------------------------------------------------------------------------------------


def test_a_chain_has_each_critique_under_its_number_then_the_question_and_its_answer():
    chain = ENGLISH.numbered([f" {P}\n", N])
    assert chain == f"Step 1:\n{P}\nStep 2:\n{N}"
    assert answered(chain, False, ENGLISH) == f"{chain}\nIs the solution correct? no"
    assert answered(chain, True, ENGLISH) == f"{chain}\nIs the solution correct? yes"
    assert answered(ARITHMETIC.numbered([P]), True, ARITHMETIC) == f"Now step 1:\n{P}\nIs each step right? +"
    assert answered("", False, ARITHMETIC) == "\nIs each step right? -"


@pytest.mark.parametrize("prompts", [ENGLISH, ARITHMETIC])
def test_the_verdict_of_each_step_is_read_back(prompts):
    critiques = [P, N, "no verdict", f"{NEGATIVE} No: {POSITIVE}", *[P] * 7, N]
    assert step_verdicts(prompts.numbered(critiques), prompts) == [True, False, None, True, *[True] * 7, False]
    assert step_verdicts(answered(prompts.numbered([P, N]), True, prompts), prompts) == [True, False]


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("", []),
        (P, []),  # no step
        (f"Step 1: {P}", [True]),  # on the same line
        (f"Step 2:\n{P}", []),
        (f"Step 1:\n{P}\nStep 3:\n{P}", []),
        (f"Step 1:\n{P}\nStep 1:\n{P}", []),
        (f"Step 1:\nSee Step 2: it is next.\n{P}", [True]),  # a head begins its line
        (f"Step 1:\n{P}\nStep two:\n{N}", [False]),  # no head: the last verdict of step 1 counts
    ],
)
def test_steps_count_only_with_their_numbers_in_order(chain, expected):
    assert step_verdicts(chain, ENGLISH) == expected


def test_the_words_of_a_head_are_no_pattern():
    prompts = dataclasses.replace(ENGLISH, verify_step="No.")
    assert step_verdicts(f"No. 1:\n{P}\nNot 2:\n{N}", prompts) == [False]
    assert step_verdicts(f"Not 1:\n{P}", prompts) == []


@pytest.mark.parametrize(
    ("verdicts", "labels", "tokens", "kept"),
    [
        ([True, True, False], [True, True, False], 9, True),
        ([True], [True], 10, True),
        ([True], [True], 11, False),  # too long
        ([True, False], [True, True], 9, False),
        ([False, True], [True, True], 9, False),  # every verdict counts, not the last one alone
        ([True, None], [True, False], 9, False),  # unreadable is not Negative
        ([None, True], [True, True], 9, False),
        ([True], [True, True], 9, False),  # a step left out
        ([True, True], [True], 9, False),  # one too many
        ([], [True], 0, False),
    ],
)
def test_the_filter_keeps_a_chain_if_every_verdict_matches_and_it_is_not_too_long(verdicts, labels, tokens, kept):
    assert keep_chain(verdicts, labels, tokens, 10) is kept
    assert keep_chain(tuple(verdicts), tuple(labels), tokens, 10) is kept


# --- prefixes --------------------------------------------------------------------------------------------------------------


def test_a_prefix_is_whole_if_all_its_steps_are_labelled(steps):
    tom, ben = steps[:3], steps[3:]
    assert whole_prefixes(steps) == [*(tuple(tom[:n]) for n in (1, 2, 3)), *(tuple(ben[:n]) for n in (1, 2))]
    assert whole_prefixes([steps[0], steps[2], steps[4]]) == [(steps[0],)]  # the others lack a step
    assert whole_prefixes(tom[::-1]) == [tuple(tom[:n]) for n in (3, 2, 1)]  # in any order
    assert whole_prefixes([*tom[:1], *tom, *tom[:1]]) == whole_prefixes(tom)  # repetitions do not count
    assert whole_prefixes([]) == []


@pytest.mark.parametrize("change", [{"problem_id": "ben"}, {"solution": 1}, {"chunk": "12+1=14. "}])
def test_a_step_of_another_solution_does_not_complete_a_prefix(change, steps):
    first = dataclasses.replace(steps[0], **change)
    assert whole_prefixes([first, steps[1]]) == [(first,)]


def test_a_prefix_is_correct_if_all_steps_are_right():
    assert is_correct(tuple(solution([True, True]))) and not is_correct(tuple(solution([True, False])))
    assert not is_correct(tuple(solution([False, True])))


def test_prefixes_are_chosen_within_the_limit_of_labels():
    steps = [step for number in range(12) for step in solution([True, True, False], number=number)]
    for most, least in ((2, 1), (5, 3), (9, 7), (17, 15), (36, 34), (99, 36)):
        chosen = choose_prefixes(steps, most, seed=1)
        labels = {step for prefix in chosen for step in prefix}
        assert least <= len(labels) <= most and len(labels) == len(chosen) == len({prefix[-1] for prefix in chosen})
        assert set(chosen) == {prefix for prefix in whole_prefixes(steps) if labels.issuperset(prefix)}
    assert any(not is_correct(prefix) for prefix in choose_prefixes(steps, 9, seed=1))
    assert choose_prefixes(steps, 9, seed=1) == choose_prefixes(steps, 9, seed=1) != choose_prefixes(steps, 9, seed=2)


def test_a_limit_may_be_used_up():
    steps = solution([True, True, False])
    assert choose_prefixes(steps, 3, seed=0) == whole_prefixes(steps)
    assert len({step for prefix in choose_prefixes(steps, 2, seed=0) for step in prefix}) < 3


@pytest.mark.parametrize("labels", [[], [True, True], [False]])
def test_prefixes_of_one_kind_are_not_chosen(labels):
    assert choose_prefixes(solution(labels), 9, seed=0) == []


# --- composing -------------------------------------------------------------------------------------------------------------


def test_right_critiques_have_an_analysis_and_the_verdict_of_the_label(steps):
    replies = [[P, N, POSITIVE], [N], [N, P, N], [], [P]]
    assert right_critiques(steps, replies) == dict(zip(steps, [[P], [], [N, N], [], []], strict=True))
    ends = [["Positive}", "Negative}"]] * 2
    found = right_critiques([steps[0], steps[2]], ends, beginning="\\boxed{")
    assert found == {steps[0]: [POSITIVE], steps[2]: [NEGATIVE]}


def test_chains_take_the_critiques_of_each_step_in_turn(steps):
    prefix = tuple(steps[:2])
    critiques = {steps[0]: [f"a{i}" for i in range(5)], steps[1]: ["b0", "b1"]}
    chains = compose(prefix, critiques, 3, ENGLISH)
    assert chains == [f"Step 1:\n{a}\nStep 2:\n{b}" for a, b in (("a1", "b0"), ("a2", "b1"), ("a3", "b0"))]
    (first, *_) = compose(prefix[:1], critiques, 3, ENGLISH)
    assert first == "Step 1:\na3"  # another length begins elsewhere


@pytest.mark.parametrize(("keep", "count"), [(0, 0), (1, 1), (3, 3), (5, 5), (6, 5)])
def test_at_most_keep_chains_and_as_many_as_one_step_has_critiques(keep, count, steps):
    critiques = {steps[0]: [f"a{i}" for i in range(5)], steps[1]: ["b"], steps[2]: []}
    assert len(set(compose(tuple(steps[:2]), critiques, keep, ENGLISH))) == count
    assert compose(tuple(steps[:3]), critiques, keep, ENGLISH) == []  # one step has none


def test_kept_chains_pass_the_filter_and_carry_the_answer(steps):
    prefixes = whole_prefixes(steps)
    critiques = {steps[0]: [P, f"Aha. {P}"], steps[1]: [P], steps[2]: [N], steps[3]: [N], steps[4]: [N]}
    kept, tried = kept_chains(prefixes, critiques, 2, ENGLISH, length=lambda reply: 1, limit=1)
    assert tried == 8  # two each over tom's three prefixes, one each over ben's two
    assert {prefix for prefix, _ in kept} == set(prefixes[:3]) and len(kept) == 6  # ben's first verdict is wrong
    replies = {prefix: reply for prefix, reply in kept}
    assert replies[prefixes[1]].endswith(f"Step 2:\n{P}\nIs the solution correct? yes")
    assert replies[prefixes[2]].endswith(f"Step 3:\n{N}\nIs the solution correct? no")


def test_a_chain_with_its_answer_may_have_the_limit_for_each_step(steps):
    prefixes, critiques = [tuple(steps[:1]), tuple(steps[:2])], {steps[0]: [P], steps[1]: [P]}
    lengths = {len(answered(ENGLISH.numbered([P] * n), True, ENGLISH)): n for n in (1, 2)}
    for tokens, expected in ((10, 2), (11, 0)):  # for each step
        kept, tried = kept_chains(prefixes, critiques, 1, ENGLISH, lambda reply, t=tokens: t * lengths[len(reply)], 10)
        assert (len(kept), tried) == (expected, 2)
    kept, _ = kept_chains(prefixes, critiques, 1, ENGLISH, lambda reply: 15, 10)
    assert [prefix for prefix, _ in kept] == prefixes[1:]


def test_a_critique_with_heads_of_its_own_is_not_kept(steps):
    critiques = {steps[0]: [f"Step 1:\n{P}"]}
    assert kept_chains([tuple(steps[:1])], critiques, 1, ENGLISH, len, 999) == ([], 1)


def test_chains_of_the_rarer_kind_are_repeated(steps):
    right, wrong = tuple(steps[:1]), tuple(steps[3:])
    kept = [*((right, f"r{i}") for i in range(7)), *((wrong, f"w{i}") for i in range(3))]
    for pairs in (kept, kept[::-1]):
        taught = balance(pairs, seed=3)
        prefixes = [prefix for prefix, _ in taught]
        assert set(taught) == set(kept)  # all are in
        assert prefixes.count(right) == prefixes.count(wrong) == 9
        assert prefixes[:4] in ([right, wrong] * 2, [wrong, right] * 2)  # they alternate
    assert balance(kept, 3) == balance(kept, 3) != balance(kept, 4)
    even = balance([kept[0], kept[-1]], 0)
    assert sorted(reply for _, reply in even) == ["r0", "w2"]  # once each
    assert balance([*kept[:1]] * 3, 0) == [] and balance(kept[7:], 0) == [] and balance([], 0) == []
