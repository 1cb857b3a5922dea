"""Judged steps in HTML: solutions chunk by chunk, and the tries of one search."""

from __future__ import annotations

import itertools

from minisw.report.html import Html, element, join, number

VERDICT = {True: ("good", "✓ Positive"), False: ("bad", "✗ Negative"), None: ("none", "? unreadable")}
LABEL = {True: "right", False: "wrong"}


def badge(kind: str, words: str) -> Html:
    """A coloured word: `kind` is good, bad or none."""
    return element("span", words, class_=f"badge {kind}")


def solutions_body(solutions: list[dict]) -> Html:
    """The solutions of evaluate/showcase.json."""
    return join(
        *(
            element(
                "article",
                element("div", solution["question"], class_="question"),
                element("p", _outcome(solution.get("correct"))),
                *(_chunk(chunk) for chunk in solution["chunks"]),
            )
            for solution in solutions
        )
    )


def trace_body(trace: dict) -> Html:
    """The search of search/trace.json: every try at every chunk; discarded tries are struck through."""
    steps: list[Html] = []
    tries = itertools.groupby(trace.get("tries") or [], key=lambda attempt: attempt["position"])
    for place, (_, attempts) in enumerate(tries, 1):
        steps.append(element("div", f"Chunk {place}", class_="turn"))
        for number_of_try, attempt in enumerate(attempts, 1):
            mark = element("span", f"try {number_of_try}, {'kept' if attempt['kept'] else 'discarded'}", class_="mark")
            steps.append(_step(attempt, mark, discarded=not attempt["kept"]))
    given = "none" if trace.get("given") is None else trace["given"]
    return element(
        "article",
        element("div", trace["question"], class_="question"),
        element("p", _outcome(trace.get("correct")), f" answer given: {given}, right answer: {trace.get('answer')}"),
        *steps,
    )


def _chunk(chunk: dict) -> Html:
    label, mark = chunk.get("label"), None
    if label is not None:
        differs = chunk.get("verdict") is not label
        mark = element("span", f"label: {LABEL[label]}", " ≠ verdict" if differs else None, class_=f"mark{' differs' * differs}")
    return _step(chunk, mark, element("span", f"P(Positive) {number(chunk.get('p_positive'))}", class_="mark"))


def _step(step: dict, *marks: Html | None, discarded: bool = False) -> Html:
    kind, words = VERDICT[step.get("verdict")]
    shown = element("del" if discarded else "span", step["text"], class_="text")
    return element(
        "details",
        element("summary", badge(kind, words), *marks, shown),
        element("div", step.get("analysis") or "(no analysis)", class_="analysis"),
        class_=f"step {kind}",
    )


def _outcome(correct: bool | None) -> Html:
    return badge("good", "✓ right answer") if correct else badge("bad", "✗ wrong answer")
