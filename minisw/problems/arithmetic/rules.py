"""The embedded task's exact rules: its teacher segmentation, and whether each step of a solution is right.

Reference values only *measure*; no judge is trained on them. `teacher_chunks` is the source of segmentations that a
prompted chat model is for real text (StepWiser §3.1).
"""

from __future__ import annotations

import re

from minisw.records import Problem

_SENTENCE = re.compile(r".*?(?:[.?!](?!\d)\s*|$)", re.S)


_CONCLUSION = re.compile(r"(?:So now|Now there are|That makes|So it is) (\d+) [a-z]+\.\s*")


_ANSWER = re.compile(r"(?:So the|The) answer is \\boxed\{(\d+)\}\.?\s*")


_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def sentences(text: str) -> list[str]:
    """The sentences of `text` with the gaps behind them; joined, they are the text."""
    return [part for part in _SENTENCE.findall(text) if part]


def teacher_chunks(text: str) -> list[str]:
    """The task's teacher segmentation (StepWiser §3.1): a chunk ends behind a conclusion; the answer is its own chunk."""
    chunks, current = [], ""
    for sentence in sentences(text):
        current += sentence
        if _CONCLUSION.fullmatch(sentence):
            chunks.append(current)
            current = ""
    return chunks + ([current] if current else [])


def step_results(chunk: str) -> list[tuple[str, int]]:
    """What a chunk concludes, in order: ("step", value) for each conclusion, ("answer", value) for a final answer."""
    found = []
    for sentence in sentences(chunk):
        if match := _CONCLUSION.fullmatch(sentence):
            found.append(("step", int(match[1])))
        elif match := _ANSWER.fullmatch(sentence):
            found.append(("answer", int(match[1])))
    return found


def exact_labels(problem: Problem, chunks: list[str] | tuple[str, ...]) -> list[bool]:
    """Exact correctness of each chunk, given that those before it are right (False from the first error on).

    A chunk is right iff it concludes the values that are due next, in order, and every equation in it is true; the
    answer is due only after the last step. A chunk that concludes nothing is right while its equations are true.
    """
    values, done, labels, alive = problem.reference, 0, [], True
    for chunk in chunks:
        for what, value in step_results(chunk):
            if what == "step" and done < len(values) and value == values[done]:
                done += 1
            elif not (what == "answer" and done == len(values) and value == values[-1]):
                alive = False
        labels.append(alive and all(_equation_is_true(*match) for match in _EQUATION.findall(chunk)))
        alive = labels[-1]
    return labels


def _equation_is_true(left: str, operator: str, right: str, result: str) -> bool:
    a, b, c = int(left), int(right), int(result)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[operator]


def mistake_kind(problem: Problem, chunks: list[str] | tuple[str, ...], index: int) -> str:
    """A name for the mistake in chunk `index`, the first wrong one: what the report's mix of mistakes counts."""
    values = problem.reference
    done = sum(1 for chunk in chunks[:index] for what, _ in step_results(chunk) if what == "step")
    if not all(_equation_is_true(*match) for match in _EQUATION.findall(chunks[index])):
        return "arithmetic"
    results = step_results(chunks[index])
    if not results:
        return "no conclusion"
    what, value = results[0]
    if what == "answer":
        return "steps left out at the end" if done < len(values) else "wrong answer copied"
    if done >= len(values):
        return "a step too many"
    equations = _EQUATION.findall(chunks[index])
    if equations and int(equations[-1][3]) != value:
        return "wrong value copied"
    if value in values[done + 1 :]:
        return "fact skipped"
    before = values[done - 1] if done else None
    if equations and before is not None and str(before) not in (equations[0][0], equations[-1][0], equations[-1][2]):
        return "wrong number carried on"
    return "fact skipped, repeated or misread"
