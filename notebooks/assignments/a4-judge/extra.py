"""Reference functions that the package has only as a method (`Prompts.for_judge`) or on a model (`judges/generative.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def judge_prompt(template: str, question: str, history: Sequence[str], chunk: str, nothing: str = "(nothing)") -> str:
    """The judge's prompt: `template` with {question}, {history} and {chunk} filled in (StepWiser §3.3).

    `history` has the chunks before `chunk`, each with its own white space. `nothing` stands for an empty history.
    """
    past = "".join(history).strip()
    return template.format(question=question, history=past or nothing, chunk=chunk.strip())


def p_positive(logits: Sequence[Sequence[float]], plus: int, minus: int) -> list[float]:
    """P(+) / (P(+) + P(−)) for each row of logits [rows, vocabulary]; `plus` and `minus` are the two tokens' indices.

    Logits may be large: their difference matters, and no exponential may overflow.
    """
    values = []
    for row in logits:
        best = max(row[plus], row[minus])
        yes, no = math.exp(row[plus] - best), math.exp(row[minus] - best)
        values.append(yes / (yes + no))
    return values
