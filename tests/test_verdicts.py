"""Verdicts of a reply, what counts as an analysis, votes and the reward."""

import pytest

from minisw.records import LabelledStep
from minisw.verdicts import has_analysis, parse_verdict, verdict_prefix, verdict_reward, vote

P, N = "\\boxed{Positive}", "\\boxed{Negative}"
RIGHT, WRONG = f"The sum is right.\nVerdict: {P}", f"The sum is wrong.\nVerdict: {N}"


@pytest.mark.parametrize(
    "reply,expected",
    [
        (RIGHT, True),
        (WRONG, False),
        (f"Either {P} or {N}.", False),  # the last one counts
        (f"Either {N} or {P}, it seems.", True),
        (f"{P} {N} {P}", True),
        (f"{N} {N}", False),
        (f"{P} and the answer is \\boxed{{12}}", True),  # other boxes do not count
        ("", None),
        ("Positive", None),
        ("Verdict: Negative", None),
        ("\\boxed{12}", None),
        ("\\boxed{positive}", None),
    ],
)
def test_the_last_boxed_verdict_counts(reply, expected):
    assert parse_verdict(reply) is expected


def test_the_prefix_ends_before_the_word_of_the_last_verdict():
    assert verdict_prefix(f"Not {N} but {P}. Done.") == f"Not {N} but \\boxed{{"
    assert verdict_prefix(f"Not {P} but {N}.") == f"Not {P} but \\boxed{{"
    assert verdict_prefix(f"{P}, the answer is \\boxed{{3}}") == "\\boxed{"
    assert verdict_prefix("The answer is \\boxed{3}, Positive.") is None


@pytest.mark.parametrize(
    "analysis",
    ["The sum is right.\n", "12+3=15. ", "Analysis: it adds up.\nVerdict: ", f"Is it {N}? No, all is well. "],
)
def test_three_words_before_the_verdict_are_an_analysis(analysis):
    assert has_analysis(analysis + P) and has_analysis(analysis + N)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        P,
        f"Verdict: {P}",
        f"**Verdict:** {P}",
        f"Analysis:\nVerdict: {P}",
        f"Analysis. Analysis: analysis; Verdict: {P}",
        f"{P} {P} {P} {P}",  # repeated boxes
        f"{N} {N} {N} {P}",
        f"It is {P}",  # two words
        "... --- !!! ___ " + P,  # no words
        f"{P} because the sum is right and all numbers are from the problem.",  # the analysis has to come first
        "The sum is right, so the step is Positive.",  # no verdict
    ],
)
def test_other_replies_have_no_analysis(reply):
    assert not has_analysis(reply)


@pytest.mark.parametrize(
    "verdicts,expected",
    [
        ([True, True, False], True),
        ([True, False, False], False),
        ([True, False], False),  # a tie is Negative
        ([False, True, True, False], False),
        ([True, None, None, None], True),  # unreadable verdicts have no vote
        ([False, None, True, True, None], True),
        ([None, False], False),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority_of_readable_verdicts_counts(verdicts, expected):
    assert vote(verdicts) is expected


def test_the_reward_is_one_for_an_analysis_and_the_verdict_of_its_own_step():
    steps = [LabelledStep("p", "?", (), "step", label) for label in (True, False, True)]
    reward = verdict_reward(steps)
    assert [reward(i, RIGHT) for i in range(3)] == [1.0, 0.0, 1.0]
    assert [reward(i, WRONG) for i in range(3)] == [0.0, 1.0, 0.0]


def test_with_a_beginning_the_verdict_alone_is_paid():
    steps = [LabelledStep("p", "?", (), "step", label) for label in (True, False)]
    reward = verdict_reward(steps, "\\boxed{")
    assert [reward(i, "Positive}") for i in range(2)] == [1.0, 0.0]
    assert [reward(i, "Negative}") for i in range(2)] == [0.0, 1.0]
    assert [reward(i, "4}") for i in range(2)] == [0.0, 0.0]
    assert [verdict_reward(steps)(i, word + "}") for i, word in enumerate(("Positive", "Negative"))] == [0.0, 0.0]


def test_the_reward_of_a_bare_or_unreadable_verdict_is_zero():
    reward = verdict_reward([LabelledStep("p", "?", (), "a", True), LabelledStep("p", "?", (), "a", False)])
    assert [reward(0, P), reward(0, f"Verdict: {P}"), reward(1, N), reward(1, f"Verdict: {N}")] == [0.0] * 4
    assert [reward(i, "The step is right, I think.") for i in range(2)] == [0.0] * 2  # None is not False
