"""Reference functions of assignments that repeat something of the package on plain values do what the package does."""

import random

import pytest

from minisw.course.assignments import all_assignments
from minisw.prompts import ARITHMETIC, ENGLISH
from minisw.records import Judgment, Problem, Proposal
from minisw.search.chunk_reset import chunk_reset

A4, A5 = (all_assignments()[name].load("extra") for name in ("a4", "a5"))


@pytest.mark.parametrize("prompts", [ENGLISH, ARITHMETIC], ids=["english", "arithmetic"])
@pytest.mark.parametrize("history", [(), (" \n",), ("a \n\n", " b {c}\n")], ids=["none", "blank", "two"])
def test_a_judges_prompt_is_the_packages(prompts, history):
    want = prompts.for_judge("2 + {x}?", history, " c\n")
    assert A4.judge_prompt(prompts.judge, "2 + {x}?", history, " c\n") == want


def test_p_positive_is_a_softmax_over_two_tokens():
    assert A4.p_positive([[1.0, 2.0, 2.0], [0.0, 1e3, -1e3]], 1, 2) == [0.5, 1.0]


@pytest.mark.parametrize("seed", range(12))
def test_chunk_reset_is_the_packages(seed):
    """The same script for both: chunks, end and books are the same."""
    rng = random.Random(seed)
    tries, max_chunks, length = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 5)
    counts: dict[tuple, int] = {}

    def proposal(question: str, history) -> tuple[str, int, bool]:
        place = question, len(history)
        counts[place] = counts.get(place, 0) + 1
        text = f"{question} {len(history)} {counts[place]}\n"
        return text, random.Random(f"{seed}{text}").randint(1, 50), len(history) + 1 == length

    def verdict(text: str) -> tuple[bool | None, int]:
        own = random.Random(f"{seed}judge{text}")
        return own.choice([True, False, False, None]), own.randint(1, 50)

    def propose(questions, histories, _):
        rows = [proposal(*row) for row in zip(questions, histories, strict=True)]
        return [Proposal(text, not ended, True, tokens) for text, tokens, ended in rows]

    def judge(steps, _):
        return [Judgment(said, tokens=tokens) for said, tokens in (verdict(step.chunk) for step in steps)]

    names = ["p", "q", "r"]
    paths = chunk_reset([Problem(name, name, "0") for name in names], propose, judge, tries, max_chunks)
    counts.clear()
    got = A5.chunk_reset(
        names,
        lambda problems, histories: [proposal(*row) for row in zip(problems, histories, strict=True)],
        lambda problems, histories, texts: [verdict(text) for text in texts],
        tries,
        max_chunks,
    )
    assert any(path.tries for path in paths)
    for path, own in zip(paths, got, strict=True):
        answer = path.answer("chunk-reset")
        books = {key: getattr(answer, key) for key in ("policy_tokens", "judge_tokens", "rejected_tokens")}
        assert own == {"chunks": path.chunks, "finished": path.finished, **books}
