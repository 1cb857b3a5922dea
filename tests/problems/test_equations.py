"""Equations made by rule: half of them right, exact labels, disjoint splits."""

from __future__ import annotations

import re

import pytest

from minisw.problems import equations, load_task
from minisw.problems.files import TooFewProblems
from minisw.recipe import ProblemKnobs

EQUATION = re.compile(r"(\d+) ([-+]) (\d+) = (\d+)")


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_half_are_right_and_the_label_says_which(digits: int) -> None:
    items = equations.load_split("train", 14, 3, digits)
    signs = set()
    for number, item in enumerate(items):
        a, sign, b, c = EQUATION.fullmatch(item.chunks[0]).groups()
        result = int(a) + int(b) if sign == "+" else int(a) - int(b)
        assert item.question == f"{a} {sign} {b} = ?" and len(a) == len(b) == digits and result >= 0 and int(c) >= 0
        assert (int(c) == result) == (item.label == -1) == item.final_correct == (number % 2 == 0)
        assert abs(int(c) - result) in ((0,) if item.final_correct else (1, 2, 10, 100))
        signs.add(sign)
    assert signs == {"+", "-"}


def test_only_large_numbers_are_wrong_by_a_hundred() -> None:
    def wrong_by(digits: int) -> set[int]:
        items = equations.load_split("train", 400, 0, digits)
        return {abs(eval(item.chunks[0].split("=")[0]) - int(item.chunks[0].split("=")[1])) for item in items}

    assert wrong_by(2) == {0, 1, 2, 10} and wrong_by(3) == {0, 1, 2, 10, 100}


def test_splits_are_disjoint_and_more_begin_with_the_same() -> None:
    splits = [equations.load_split(split, 300, 1, 2) for split in equations.SPLITS]
    questions = [item.question for items in splits for item in items]
    assert len(set(questions)) == len(questions) == 900
    assert splits[0][:7] == equations.load_split("train", 7, 1, 2)
    assert {i.question for i in splits[0]} != {i.question for i in equations.load_split("train", 300, 2, 2)}


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'hard'"):
        equations.load_split("hard", 1, 0, 2)
    for count, digits in ((-1, 2), (16, 1), (1366, 2)):
        with pytest.raises(TooFewProblems, match=f"{count} were asked for"):
            equations.load_split("test", count, 0, digits)
    for seed in range(5):
        assert len(equations.load_split("test", 15, seed, 1)) == 15  # the most of the smallest kind


def test_the_task_only_judges() -> None:
    task = load_task(ProblemKnobs(source="equations", prompts="equations", digits=3))
    assert len(task.made("test", 4, 0)[0].question.split()[0]) == 3 and task.exact_labels is None
    with pytest.raises(ValueError, match="only judged"):
        task.load("train", 1, 0)
