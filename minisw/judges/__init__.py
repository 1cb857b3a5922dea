"""Judges: one file each, all answering one call, `judge(steps) -> judgments`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from minisw.records import Judgment, LabelledStep

Progress = Callable[[int], None] | None


class Judge(Protocol):
    """Whatever can judge steps. The `label` of a step is not for it to see. `seed` makes a sampling judge repeatable."""

    name: str

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]: ...


class AlwaysPositive:
    """The row that shows what a metric gives for nothing."""

    name = "always positive"

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        return [Judgment(True, p_positive=1.0, vote=1.0) for _ in steps]


class RandomReject:
    """Rejects at a fixed rate whatever it sees: the control for chunk-reset."""

    name = "random rejection"

    def __init__(self, rate: float):
        self.rate = rate

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        import random

        rng = random.Random(seed)
        return [Judgment(rng.random() >= self.rate) for _ in steps]
