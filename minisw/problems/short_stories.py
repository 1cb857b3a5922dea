"""Short stories for chat models: the embedded task's plain stories, solved in lines of one calculation each.

A solution is "25 + 13 = 38", "38 - 16 = 22", "The answer is \\boxed{22}.", a line each, and every line is a chunk. The rules
below label the lines of any solution in this form; a line of free text is labelled by its last number. The labels are for
measuring; judges are trained on rollouts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from minisw.problems.arithmetic.rules import equation_is_true
from minisw.problems.arithmetic.stories import PLAIN, SPLITS, make_story, split_of
from minisw.problems.files import TooFewProblems
from minisw.records import Problem

MOST = 20_000  # problems of one split: short stories begin to repeat
_EQUATION = re.compile(r"(?<![\d.])(\d+) ?([-+*/×÷]) ?(\d+) ?= ?(\d+)(?!\.?\d)")
_ANSWER = re.compile(r"\\boxed\{\s*(\d+)")
_NUMBER = re.compile(r"\d+")
_SIGNS = {"×": "*", "÷": "/"}


def load_split(split: str, count: int, seed: int, steps: int, largest: int) -> list[Problem]:
    """`count` stories of 1 to `steps` steps with quantities of at most `largest`; no two are alike, and splits are disjoint.

    Raises ValueError for an unknown split, TooFewProblems for more than 20,000.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, validation or test")
    if not 0 <= count <= MOST:
        raise TooFewProblems(f"there are {MOST} short stories for {split}, and {count} were asked for")
    rng = random.Random(f"{SPLITS[split][0]}/{steps}/{largest}/{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        story = make_story(rng, rng.randint(1, steps), largest, PLAIN)
        if split_of(story.text) == split and story.text not in problems:
            name = f"stories-{split}-{seed}-{len(problems)}"
            problems[story.text] = Problem(name, story.text, str(story.values[-1]), story.values)
    return list(problems.values())


def teacher_chunks(text: str) -> list[str]:
    """The lines of a solution, each with its line break; a line without a word or number belongs to the line before it."""
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if lines and not re.search(r"\w", line):
            lines[-1] += line
        else:
            lines.append(line)
    return lines


def exact_labels(problem: Problem, chunks: Sequence[str]) -> list[bool]:
    """Exact correctness of every chunk; False from the first error on.

    `problem.reference` holds the value after each step. A calculation is right if it is true and its result is the next value.
    The answer is right if it is the last value and comes after it. Any other chunk is right if its last number, if it has one,
    is in the problem or among the values so far; it may also be the next value.
    """
    values, done, labels = problem.reference, 0, []
    given = set(map(int, _NUMBER.findall(problem.question)))
    for chunk in chunks:
        right, done = _judge(chunk, values, done, given)
        labels.append(right and (not labels or labels[-1]))
    return labels


def _judge(chunk: str, values: Sequence[int], done: int, given: set[int]) -> tuple[bool, int]:
    """Whether a chunk that follows `done` right steps is right, and the number of right steps after it."""
    equations, numbers = _EQUATION.findall(chunk), [int(number) for number in _NUMBER.findall(chunk)]
    if not all(equation_is_true(a, _SIGNS.get(sign, sign), b, c) for a, sign, b, c in equations):
        return False, done
    answer = _ANSWER.search(chunk)
    if equations or (numbers and not answer):
        number = int(equations[-1][3]) if equations else numbers[-1]
        if done < len(values) and number == values[done]:
            done += 1
        elif equations or number not in given | set(values[:done]):
            return False, done
    return (answer is None or (done == len(values) and int(answer[1]) == values[-1])), done


def mistake_kind(problem: Problem, chunks: Sequence[str], index: int) -> str:
    """The kind of mistake in chunk `index`, the first wrong one; the report counts the kinds."""
    equations = _EQUATION.findall(chunks[index])
    if not all(equation_is_true(a, _SIGNS.get(sign, sign), b, c) for a, sign, b, c in equations):
        return "arithmetic"
    if _ANSWER.search(chunks[index]):
        return "wrong or early answer"
    done = sum(bool(_EQUATION.search(chunk)) for chunk in chunks[:index])
    return "a step too many" if done >= len(problem.reference) else "wrong calculation"
