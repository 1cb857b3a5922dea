"""The exact rules of the embedded task: its teacher's segmentation, and the correctness of every step of a solution.

Exact labels are for measuring only; no judge is trained on them. `teacher_chunks` does what a prompted chat model does for
real text (StepWiser §3.1).
"""

from __future__ import annotations

import re

from minisw.records import Problem

_SENTENCE = re.compile(r".*?(?:[.?!](?!\d)\s*|$)", re.S)
_CONCLUSION = re.compile(r"(?:So now|Now there are|That makes|So it is) (\d+) [a-z]+\.\s*")
_ANSWER = re.compile(r"(?:So the|The) answer is \\boxed\{(\d+)\}\.?\s*")
_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def sentences(text: str) -> list[str]:
    """The sentences of `text`, each with the white space after it; joined, they are the text."""
    return [part for part in _SENTENCE.findall(text) if part]


def teacher_chunks(text: str) -> list[str]:
    """The teacher's segmentation (StepWiser §3.1): a chunk ends after a conclusion; the answer is a chunk of its own."""
    chunks, current = [], ""
    for sentence in sentences(text):
        current += sentence
        if _CONCLUSION.fullmatch(sentence):
            chunks.append(current)
            current = ""
    return chunks + ([current] if current else [])


def step_results(chunk: str) -> list[tuple[str, int]]:
    """The conclusions of a chunk in order: ("step", value) for each step, ("answer", value) for the final answer."""
    results = []
    for sentence in sentences(chunk):
        if match := _CONCLUSION.fullmatch(sentence):
            results.append(("step", int(match[1])))
        elif match := _ANSWER.fullmatch(sentence):
            results.append(("answer", int(match[1])))
    return results


def exact_labels(problem: Problem, chunks: list[str] | tuple[str, ...]) -> list[bool]:
    """Exact correctness of every chunk; False from the first error on.

    A chunk is right if it concludes the next values of `problem.reference` in order, and every equation in it is true. The
    final answer must come after the last value. A chunk without a conclusion is right if its equations are true.
    """
    values, done, labels, right = problem.reference, 0, [], True
    for chunk in chunks:
        for what, value in step_results(chunk):
            if what == "step" and done < len(values) and value == values[done]:
                done += 1
            elif not (what == "answer" and done == len(values) and value == values[-1]):
                right = False
        right = right and all(equation_is_true(*match) for match in _EQUATION.findall(chunk))
        labels.append(right)
    return labels


def equation_is_true(left: str, operator: str, right: str, result: str) -> bool:
    """Whether "left operator right = result" is true; a division must come out even."""
    a, b, c = int(left), int(right), int(result)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[operator]


def mistake_kind(problem: Problem, chunks: list[str] | tuple[str, ...], index: int) -> str:
    """The kind of mistake in chunk `index`, the first wrong one; the report counts the kinds."""
    values = problem.reference
    done = sum(1 for chunk in chunks[:index] for what, _ in step_results(chunk) if what == "step")
    if not all(equation_is_true(*match) for match in _EQUATION.findall(chunks[index])):
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
