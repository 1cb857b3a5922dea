"""The short stories for chat models: splits, lines, and exact labels of any solution in lines."""

from __future__ import annotations

import pytest

from minisw.problems import load_task, short_stories
from minisw.problems.files import TooFewProblems
from minisw.recipe import ProblemKnobs
from minisw.records import Problem

LENA = Problem("a", "Lena has 25 cards. Lena buys 13 more cards. Then Lena loses 16 cards. How many?", "22", (38, 22))
MAX = Problem("b", "Max has 54 stones. Max packs the stones into bags of 6. The bus is 20 minutes late. How many?", "9", (9,))


@pytest.mark.parametrize(("steps", "largest"), [(1, 60), (3, 400)])
def test_stories_keep_their_limits_and_their_split(steps: int, largest: int) -> None:
    splits = {s: short_stories.load_split(s, 60, 5, steps, largest) for s in ("train", "validation", "test")}
    texts = [p.question for problems in splits.values() for p in problems]
    assert len(set(texts)) == len(texts) == 180
    for problem in sum(splits.values(), []):
        assert 1 <= len(problem.reference) <= steps and max(problem.reference) <= largest
        assert problem.answer == str(problem.reference[-1])
    assert {len(p.reference) for p in splits["train"]} == set(range(1, steps + 1))


def test_more_stories_begin_with_the_same_and_seeds_differ() -> None:
    few, more, other = (short_stories.load_split("train", n, seed, 2, 60) for n, seed in ((5, 1), (9, 1), (9, 2)))
    assert more[:5] == few and [p.question for p in more] != [p.question for p in other]


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'hard'"):
        short_stories.load_split("hard", 1, 0, 1, 60)
    for count in (-1, short_stories.MOST + 1):
        with pytest.raises(TooFewProblems, match=f"{count} were asked for"):
            short_stories.load_split("test", count, 0, 1, 60)


def test_every_line_is_a_chunk() -> None:
    text = "25 + 13 = 38\n\n38 - 16 = 22\n---\nThe answer is \\boxed{22}."
    chunks = short_stories.teacher_chunks(text)
    assert "".join(chunks) == text
    assert chunks == ["25 + 13 = 38\n\n", "38 - 16 = 22\n---\n", "The answer is \\boxed{22}."]
    assert short_stories.teacher_chunks("") == [] and short_stories.teacher_chunks("\n5") == ["\n", "5"]


RIGHT = [
    (LENA, ["25 + 13 = 38\n", "38 - 16 = 22\n", "The answer is \\boxed{22}."]),
    (LENA, ["25+13=38\n", "So 38 - 16 = 22 cards.\n", "\\boxed{22}"]),
    (LENA, ["Lena has 25 cards.\n", "She buys 13, which makes 38.\n", "38 - 16 = 22\n", "The answer is \\boxed{ 22 }."]),
    (LENA, ["25 + 13 = 38\n", "Now there are 38 cards.\n", "38 - 16 = 22. The answer is \\boxed{22}."]),
    (MAX, ["54 / 6 = 9\n", "The answer is \\boxed{9}."]),
    (MAX, ["54 ÷ 6 = 9 bags\n", "Done.\n", "The answer is \\boxed{9}."]),
]
WRONG = [  # and the first wrong line
    (LENA, ["25 + 13 = 48\n", "48 - 16 = 32\n", "The answer is \\boxed{32}."], 0),
    (LENA, ["25 + 13 = 38\n", "38 + 16 = 54\n", "The answer is \\boxed{54}."], 1),
    (LENA, ["25 + 13 = 38\n", "The answer is \\boxed{38}."], 1),  # ends early
    (LENA, ["25 + 13 = 38\n", "38 - 16 = 22\n", "22 - 2 = 20\n", "The answer is \\boxed{20}."], 2),  # goes on
    (LENA, ["25 + 13 = 38\n", "38 - 16 = 22\n", "The answer is \\boxed{38}."], 2),
    (LENA, ["25 + 13 = 38\n", "13 + 25 = 38\n", "38 - 16 = 22\n"], 1),  # a step twice
    (LENA, ["That makes 22 cards.\n", "25 + 13 = 38\n"], 0),  # a value before its time
    (LENA, ["25 - 16 = 9\n", "9 + 13 = 22\n", "The answer is \\boxed{22}."], 0),
    (MAX, ["54 * 6 = 324\n", "The answer is \\boxed{324}."], 0),
    (MAX, ["54 / 6 = 9\n", "9 + 20 = 29\n", "The answer is \\boxed{29}."], 1),
    (MAX, ["54 / 20 = 2\n", "The answer is \\boxed{2}."], 0),  # does not come out even
    (MAX, ["There are 7 bags.\n", "The answer is \\boxed{7}."], 0),
    (LENA, ["The answer is \\boxed{22}.\n", "25 + 13 = 38\n"], 0),  # right, but nothing leads to it
]


@pytest.mark.parametrize(("problem", "chunks"), RIGHT)
def test_right_solutions_are_right_in_every_line(problem: Problem, chunks: list[str]) -> None:
    assert short_stories.exact_labels(problem, chunks) == [True] * len(chunks)


@pytest.mark.parametrize(("problem", "chunks", "first"), WRONG)
def test_labels_are_false_from_the_first_wrong_line_on(problem: Problem, chunks: list[str], first: int) -> None:
    assert short_stories.exact_labels(problem, chunks) == [i < first for i in range(len(chunks))]


def test_kinds_of_mistakes() -> None:
    kinds = {(chunks[0], i): short_stories.mistake_kind(problem, chunks, i) for problem, chunks, i in WRONG}
    assert kinds["25 + 13 = 48\n", 0] == kinds["54 / 20 = 2\n", 0] == "arithmetic"
    assert short_stories.mistake_kind(*WRONG[2]) == short_stories.mistake_kind(*WRONG[4]) == "wrong or early answer"
    assert short_stories.mistake_kind(*WRONG[3]) == short_stories.mistake_kind(*WRONG[9]) == "a step too many"
    assert short_stories.mistake_kind(*WRONG[1]) == short_stories.mistake_kind(*WRONG[8]) == "wrong calculation"


def test_the_task_reads_its_knobs() -> None:
    task = load_task(ProblemKnobs(source="stories", prompts="stories", max_steps=3, largest=200))
    plain = load_task(ProblemKnobs(source="stories", prompts="stories"))
    longest, shortest = task.load("train", 40, 0), plain.load("train", 40, 0)
    assert max(len(p.reference) for p in longest) == 3 and max(len(p.reference) for p in shortest) == 2
    assert max(max(p.reference) for p in longest) > 60 >= max(max(p.reference) for p in shortest)
    assert task.exact_labels(LENA, ["25 + 13 = 39"]) == [False] and task.teacher("1\n2") == ["1\n", "2"]
