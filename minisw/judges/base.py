"""What every judge is: something with a name that answers `judge(steps, seed) -> judgments`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minisw.engine.model import LanguageModel
from minisw.engine.sampler import Sampler
from minisw.prompts import Prompts
from minisw.recipe import ClassifierKnobs, JudgeKnobs, Lora
from minisw.records import Judgment, LabelledStep

Progress = Callable[[int], None] | None


class Judge(Protocol):
    """Whatever judges steps. It must not look at a step's `label`. `seed` makes a sampling judge repeatable."""

    name: str

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]: ...


@dataclass(frozen=True)
class JudgeContext:
    """What all judges of a run share: model, sampler, prompts and limits (in tokens)."""

    lm: LanguageModel
    sampler: Sampler
    prompts: Prompts
    max_new_tokens: int  # longest analysis with its verdict
    micro_tokens: int  # of one forward without sampling


class AlwaysPositive:
    """The baseline that shows what a metric gives for nothing."""

    name = "always positive"

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        return [Judgment(True, p_positive=1.0) for _ in steps]


class RandomReject:
    """Rejects at a fixed rate, whatever the step: the control for chunk-reset."""

    name = "random rejection"

    def __init__(self, rate: float):
        self.rate = rate

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        rng = random.Random(seed)
        return [Judgment(rng.random() >= self.rate) for _ in steps]


@dataclass(frozen=True)
class JudgeTrainer:
    """What the training of a judge may use: labels, knobs, seeds, and a way to train an adapter that survives a kill.

    `train_adapter(name, fit, total, what)` makes adapter `name` by `fit(checkpoint, tick)` and returns what that returns (JSON
    values, such as the training curve); a stage saves and resumes it, a notebook just calls `fit`.
    """

    context: JudgeContext
    steps: Sequence[LabelledStep]  # training labels, balanced
    validation: Sequence[LabelledStep]  # only for choosing the classifier's knobs
    knobs: JudgeKnobs
    classifier: ClassifierKnobs
    lora: Lora
    seed_of: Callable[[str], int]
    train_adapter: Callable[[str, Callable, int, str], Any]
    warn: Callable[[str], None] = print
    in_parts: bool = False  # the base is asked in three requests (the embedded model)
