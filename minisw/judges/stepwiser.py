"""StepWiser's judge (§3.3): RS-FT teaches the format, then GRPO with the reward 1 for an analysis with a right verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from minisw.engine.model import copy_adapter
from minisw.judges.base import JudgeTrainer
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.training.grpo import GRPOConfig, train_grpo
from minisw.training.monitor import Monitor
from minisw.verdicts import parse_verdict, verdict_reward

STEPWISER = "stepwiser"
TENTH, TENTH_START = "stepwiser_tenth", "rejection_sampled_tenth"  # with a tenth of the labels


def says_positive(reply: str) -> bool:
    """Whether the verdict of a reply is Positive; GRPO logs the share of such replies."""
    return parse_verdict(reply) is True


def train_stepwiser(trainer: JudgeTrainer, name: str = STEPWISER, start: str = REJECTION_SAMPLED) -> dict:
    """Train adapter `name` by GRPO on the trainer's labels; returns its curve and the number of labels.

    It starts from the weights of adapter `start`, which RS-FT has trained. Raises ValueError if that adapter is not loaded.
    """
    context, steps = trainer.context, trainer.steps
    if start not in context.lm.adapters:
        raise ValueError(f"GRPO starts from adapter {start!r}, which is not loaded: run train_rejection_sampled first")
    knobs = dataclasses.replace(trainer.knobs, prompts=min(trainer.knobs.prompts, len(steps)))
    judge = GenerativeJudge(context, name)
    prompts = [judge.prompt(step) for step in steps]

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        copy_adapter(context.lm, start, name)
        monitor = Monitor(checkpoint, progress=tick, warn=trainer.warn, measures={"verdicts/positive": says_positive})
        config, seed = GRPOConfig.of(knobs, context.micro_tokens), trainer.seed_of(f"grpo-{name}")
        return train_grpo(context.sampler, name, prompts, verdict_reward(steps), config, seed, monitor)

    curve = trainer.train(name, fit, knobs.steps, "GRPO")
    described = f"GRPO from {start}: {knobs.steps} steps of {knobs.prompts} prompts × {knobs.group} replies"
    return {"training": described, "labels": len(set(steps)), "curve": curve}


def train_judge(trainer: JudgeTrainer) -> dict[str, dict]:
    """RS-FT, then GRPO from there: the metrics of adapters `rejection_sampled` and `stepwiser` by name."""
    return {REJECTION_SAMPLED: train_rejection_sampled(trainer), STEPWISER: train_stepwiser(trainer)}


def with_a_tenth(trainer: JudgeTrainer) -> JudgeTrainer:
    """The same trainer with a tenth of the distinct labels (at least 4, half of them positive), for the data-efficiency row.

    RS-FT takes about as many steps as with all labels, by more epochs. GRPO takes as many passes over its prompts, at least
    3 steps: with as many steps it would see each label ten times as often.
    """
    steps, knobs = trainer.steps, trainer.knobs
    tenth = steps[: max(4, len(set(steps)) // 20 * 2)]  # the list alternates: any even number from its start is balanced
    epochs = round(knobs.format_training.epochs * len(steps) / len(tenth))
    fewer = dataclasses.replace(
        knobs,
        format_training=dataclasses.replace(knobs.format_training, epochs=epochs),
        steps=max(3, round(knobs.steps * len(tenth) / len(steps))),
    )
    return dataclasses.replace(trainer, steps=tenth, knobs=fewer)
