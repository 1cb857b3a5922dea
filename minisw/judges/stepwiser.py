"""StepWiser's judge (§3.3): GRPO with the reward 1 for an analysis with a right verdict, from the base as in the paper."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from minisw.engine.model import copy_adapter
from minisw.judges.base import JudgeTrainer
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.training.grpo import GRPOConfig, train_grpo
from minisw.training.monitor import Monitor
from minisw.verdicts import parse_verdict, verdict_reward

STEPWISER = "stepwiser"
FROM_RS = "stepwiser_from_rs"  # GRPO that starts from RS-FT
TENTH, HUNDREDTH = "stepwiser_tenth", "stepwiser_hundredth"  # with fewer labels
FEWEST_LABELS = 8


def says_positive(reply: str) -> bool:
    """Whether the verdict of a reply is Positive; GRPO logs the share of such replies."""
    return parse_verdict(reply) is True


def train_stepwiser(trainer: JudgeTrainer, name: str = STEPWISER, start: str | None = None) -> dict:
    """Train adapter `name` by GRPO on the trainer's labels; returns its curve and the number of labels.

    It starts from the base or, with `start`, from the weights of another adapter, such as that of RS-FT. Raises ValueError if
    that adapter is not loaded.
    """
    context, steps = trainer.context, trainer.steps
    if start and start not in context.lm.adapters:
        raise ValueError(f"GRPO starts from adapter {start!r}, which is not loaded: train it first")
    knobs = dataclasses.replace(trainer.knobs, prompts=min(trainer.knobs.prompts, len(steps)))
    judge = GenerativeJudge(context, name)
    prompts = [judge.prompt(step) for step in steps]
    reward = verdict_reward(steps, judge.beginning)
    measures = {"verdicts/positive": lambda reply: says_positive(judge.beginning + reply), **trainer.measures}

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        if start:
            copy_adapter(context.lm, start, name)
        monitor = Monitor(checkpoint, progress=tick, warn=trainer.warn, measures=measures)
        config, seed = GRPOConfig.of(knobs, context.micro_tokens), trainer.seed_of(f"grpo-{name}")
        return train_grpo(context.sampler, name, prompts, reward, config, seed, monitor)

    curve = trainer.train(name, fit, knobs.steps, "GRPO")
    described = f"GRPO from {start or 'the base'}: {knobs.steps} steps of {knobs.prompts} prompts × {knobs.group} replies"
    return {"training": described, "labels": len(set(steps)), "curve": curve}


def train_as_the_recipe_says(trainer: JudgeTrainer, name: str = STEPWISER) -> dict:
    """`train_stepwiser` from where `judge.start` says: the base, or RS-FT, which must have been trained."""
    return train_stepwiser(trainer, name, None if trainer.knobs.start == "base" else REJECTION_SAMPLED)


def with_fewer_labels(trainer: JudgeTrainer, share: float) -> JudgeTrainer:
    """The same trainer with a share of the distinct labels (at least `FEWEST_LABELS`, half of them positive).

    GRPO takes two thirds as many steps, because fewer labels are learnt sooner. A step has at most as many prompts as there
    are labels; then up to twice as many replies are sampled to each, so that a step does not become too small.
    """
    steps, knobs = trainer.steps, trainer.knobs
    count = max(FEWEST_LABELS, 2 * round(share * len(set(steps)) / 2))
    fewer = steps[:count]  # the list alternates: any even number from its start is balanced
    prompts = min(knobs.prompts, len(fewer))
    group = min(2 * knobs.group, knobs.group * knobs.prompts // prompts)
    fewer_steps = max(1, 2 * knobs.steps // 3)
    smaller = dataclasses.replace(knobs, steps=fewer_steps, prompts=prompts, group=group)
    return dataclasses.replace(trainer, steps=fewer, knobs=smaller)
