"""A reference function that the package has only inside `choose_solutions`."""

from __future__ import annotations

from collections.abc import Sequence


def mixed(groups: Sequence[Sequence[bool]]) -> list[int]:
    """Indices of the problems to learn from: those with a right and a wrong solution (StepWiser §3.2).

    `groups[i]` says of each solution of problem i whether its answer is right. A group may be empty.
    """
    return [i for i, group in enumerate(groups) if any(group) and not all(group)]
