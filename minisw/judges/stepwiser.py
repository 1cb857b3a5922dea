"""StepWiser's judge (§3.3): GRPO on verdicts, from the RS-FT judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from minisw.engine.model import copy_adapter
from minisw.judges.base import JudgeTrainer
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import train_rejection_sampled
from minisw.records import LabelledStep
from minisw.training.grpo import GRPOConfig, train_grpo
from minisw.training.monitor import Monitor
from minisw.verdicts import parse_verdict, verdict_reward

STEPWISER, REJECTION_SAMPLED = "stepwiser", "rejection_sampled"
TENTH, TENTH_START = "stepwiser_tenth", "rejection_sampled_tenth"


def says_positive(reply: str) -> bool:
    """Whether the verdict of a reply is Positive; GRPO logs the share of such replies."""
    return parse_verdict(reply) is True


def train_stepwiser(trainer: JudgeTrainer, name: str, start: str, steps: Sequence[LabelledStep], grpo_steps: int) -> dict:
    """Train adapter `name` by GRPO from the weights of adapter `start`; returns its curve and the number of labels."""
    context, knobs = trainer.context, trainer.knobs
    judge = GenerativeJudge(context, name)
    prompts = [judge.prompt(step) for step in steps]

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        copy_adapter(context.lm, start, name)
        config = dataclasses.replace(
            GRPOConfig.of(knobs, context.micro_tokens), steps=grpo_steps, prompts=min(knobs.prompts, len(steps))
        )
        monitor = Monitor(checkpoint, progress=tick, warn=trainer.warn, measures={"verdicts/positive": says_positive})
        seed = trainer.seed_of(f"grpo-{name}")
        return train_grpo(context.sampler, name, prompts, verdict_reward(steps), config, seed, monitor)

    curve = trainer.train_adapter(name, fit, grpo_steps, "GRPO")
    return {"labels": len(set(steps)), "curve": curve}


def train_with_all_labels(trainer: JudgeTrainer) -> dict[str, dict]:
    """RS-FT on all labels, then GRPO from there: metrics of both adapters by name."""
    start = train_rejection_sampled(trainer, REJECTION_SAMPLED, trainer.steps, trainer.knobs.format_training)
    grpo = train_stepwiser(trainer, STEPWISER, REJECTION_SAMPLED, trainer.steps, trainer.knobs.steps)
    return {REJECTION_SAMPLED: start, STEPWISER: grpo}


def train_with_a_tenth(trainer: JudgeTrainer) -> dict[str, dict]:
    """The same with a tenth of the labels (at least 4): as many SFT steps, and as many passes of GRPO, or 3 steps."""
    steps, knobs = trainer.steps, trainer.knobs
    few = steps[: max(4, len(set(steps)) // 20 * 2)]
    epochs = round(knobs.format_training.epochs * len(steps) / len(few))
    start = train_rejection_sampled(trainer, TENTH_START, few, dataclasses.replace(knobs.format_training, epochs=epochs))
    grpo = train_stepwiser(trainer, TENTH, TENTH_START, few, max(3, round(knobs.steps * len(few) / len(steps))))
    return {TENTH_START: start, TENTH: grpo}
