"""What all judges have in common: the interface, what they share in a run, how they are trained, and two controls."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from minisw.engine.logprobs import next_token_probabilities
from minisw.engine.model import LanguageModel
from minisw.engine.sampler import Sampler
from minisw.prompts import Prompts
from minisw.recipe import ClassifierKnobs, JudgeKnobs, Lora
from minisw.records import Judgment, LabelledStep

Progress = Callable[[int], None] | None


class Judge(Protocol):
    """Anything that judges steps. It must not read a step's `label`. `seed` makes a sampling judge repeatable."""

    name: str

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]: ...


@dataclass(frozen=True)
class JudgeContext:
    """What all judges of a run share: model, sampler, prompts and limits (in tokens)."""

    lm: LanguageModel
    sampler: Sampler
    prompts: Prompts
    max_new_tokens: int  # of one reply: analysis and verdict
    micro_tokens: int  # of one forward pass, padding included
    analysis: bool = True  # False: a generative judge gives its verdict at once


def p_first(
    context: JudgeContext, adapter: str | None, prompts: Sequence[list[int]], pairs: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    """P(first) / (P(first) + P(second)) for each prompt, at the first token in which its two possible replies differ.

    Args:
        adapter: the adapter that answers; None for the bare base.
        prompts: token ids, one list for each prompt.
        pairs: token ids of the two replies to each prompt. Both are encoded whole, because a tokenizer may merge characters:
            some encode `{Positive` as `{P` + `ositive`, so the token after `{` is not the one that decides.

    Raises ValueError if one reply is the beginning of the other.
    """
    rows: dict[tuple[int, int], list[int]] = {}  # which prompts are decided by which two tokens; nearly always one entry
    contexts = []
    for i, (prompt, (first, second)) in enumerate(zip(prompts, pairs, strict=True)):
        at = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if at is None:
            raise ValueError("this tokenizer encodes one verdict as the beginning of the other: choose another base model")
        contexts.append(prompt + first[:at])
        rows.setdefault((first[at], second[at]), []).append(i)
    out = [0.0] * len(contexts)
    with context.lm.using(adapter):
        for tokens, indices in rows.items():
            some = [contexts[i] for i in indices]
            p = next_token_probabilities(context.lm, some, tokens, context.micro_tokens)[:, 0].tolist()
            for i, value in zip(indices, p, strict=True):
                out[i] = value
    return out


# --- controls ------------------------------------------------------------------------------------------------------------


class AlwaysPositive:
    """Calls every step Positive: shows what a metric gives without any judging."""

    name = "always positive"

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        return [Judgment(True, p_positive=1.0) for _ in steps]


class RandomReject:
    """Calls a share `rate` of the steps Negative at random: the control for every judge, and for chunk-reset."""

    def __init__(self, rate: float, name: str = "random rejection"):
        self.rate, self.name = rate, name

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        rng = random.Random(seed)
        return [Judgment(rng.random() >= self.rate) for _ in steps]


# --- training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A solution of the policy of which only the final answer is known to be right or wrong."""

    question: str
    chunks: tuple[str, ...]
    correct: bool


def seeds_from(seed: int) -> Callable[[str], int]:
    """Named seeds from one number: `seeds_from(0)("grpo")`. A new name changes no other name's seed (as `Run.seed_of`)."""
    return lambda name: zlib.crc32(f"{seed}/{name}".encode())


@dataclass(frozen=True)
class JudgeTrainer:
    """Everything that the training of a judge may use. In a notebook the first two fields are enough.

    `train_adapter` is how a stage saves and resumes a training (`Run.train`); without it, trainings run in memory only.
    """

    context: JudgeContext
    steps: Sequence[LabelledStep]  # training labels, balanced
    validation: Sequence[LabelledStep] = ()  # whole solutions that choose the classifier's settings; never trained on
    solutions: Sequence[LabelledStep] = ()  # as many labels of whole solutions, up to the first error: for judges of solutions
    outcomes: Sequence[Outcome] = ()  # solutions without step labels: for judges that learn from outcomes
    rationale_writer: JudgeContext | None = None  # who writes the analyses that SFT judges learn from; None: the base itself
    knobs: JudgeKnobs = JudgeKnobs()
    classifier: ClassifierKnobs = ClassifierKnobs()
    lora: Lora = Lora()
    seed_of: Callable[[str], int] = seeds_from(0)
    train_adapter: Callable[[str, Callable, int, str], Any] | None = None
    warn: Callable[[str], None] = print
    measures: Mapping[str, Callable[[str], float]] = field(default_factory=dict)  # GRPO logs their means over sampled replies

    @property
    def writer(self) -> JudgeContext:
        """The context of the model whose replies RS-FT, GenPRM and ThinkPRM learn from."""
        return self.rationale_writer or self.context

    @property
    def writer_name(self) -> str:
        """What the results call that model."""
        return self.knobs.writer if self.rationale_writer else "the base"

    def train(self, name: str, fit: Callable, total: int, what: str) -> Any:
        """Make a fresh adapter `name`, train it by `fit(checkpoint, tick)`, and return what `fit` returns (JSON values).

        `checkpoint` is a path at which `fit` may save its state to resume after a kill, or None. `tick(n, metrics)` reports
        `n` more of `total` units of work for the progress line `what`.
        """
        if self.train_adapter:
            return self.train_adapter(name, fit, total, what)
        lm = self.context.lm
        if name in lm.adapters:
            lm.drop_adapter(name)
        lm.new_adapter(name, self.lora, self.seed_of(f"lora-{name}"))
        return fit(None, lambda n, metrics=None: None)
