"""The oracle judge: search with it is the upper bound for every judge.

The other controls: plain sampling is the method "plain" (search/methods.py); random rejection and always accepting are
`RandomReject` and `AlwaysPositive` (judges/base.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minisw.records import Judgment, LabelledStep, Problem


class OracleJudge:
    """Judges by a task's exact labels, for measuring only. It costs no tokens.

    `exact_labels(problem, chunks)` is False from the first error on (`Task.exact_labels`): once a wrong chunk was kept, all
    chunks behind it are rejected. Raises KeyError for a step of a problem that it was not given.
    """

    name = "oracle"

    def __init__(self, exact_labels: Callable[[Problem, Sequence[str]], list[bool]], problems: Sequence[Problem]):
        self.exact_labels, self.problems = exact_labels, {p.id: p for p in problems}

    def judge(
        self, steps: Sequence[LabelledStep], seed: int = 0, progress: Callable[[int], None] | None = None
    ) -> list[Judgment]:
        """One judgment for each step, with `p_positive` 1 or 0."""
        labels = [self.exact_labels(self.problems[s.problem_id], (*s.history, s.chunk))[-1] for s in steps]
        return [Judgment(label, p_positive=float(label)) for label in labels]
