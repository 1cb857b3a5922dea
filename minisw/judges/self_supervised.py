"""A self-supervised judge (SPRM of MetaStone-S1): a small head on the policy's own hidden states, taught by outcomes alone.

    step score      P = sigmoid(MLP(h)),   h: the policy's state at the last token of the step's closing tag
    solution score  the geometric mean of its step scores
    loss            Σ w · BCE(P, outcome of the whole solution),   w > 0 only if P is on the outcome's side of 0.5

In the first epoch, the warm-up, every step has a weight: an untrained head has no opinion. The warm-up, the head's width and
equal weights of right and wrong solutions in a batch are our choices. The policy is frozen, so its states are computed once
and kept in memory.

No step label is trained on; learning rate, epochs and threshold are chosen on the run's validation labels (`sweep.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import torch

from minisw.engine import distributed
from minisw.engine.heads import Head
from minisw.engine.model import LanguageModel, copy_adapter
from minisw.evaluate import stats
from minisw.judges.base import JudgeContext, JudgeTrainer, Outcome, Progress
from minisw.judges.heads import judgments, new_head, scores, step_states
from minisw.judges.sweep import TRIAL, Method, chosen, figures, tune
from minisw.policy import POLICY
from minisw.recipe import Training
from minisw.records import Judgment, LabelledStep
from minisw.training.monitor import Monitor
from minisw.training.sft import train_epochs
from minisw.training.step import attempts

SELF_SUPERVISED = "self_supervised"
WIDTH = 128  # of the head's hidden layer
REQUEST = "solve_chunked"  # the prompt that the steps follow (prompts.Prompts)


class SelfSupervisedJudge:
    """Judges by the head's P at a step's end: Positive at `threshold` and above. `adapter` is the policy, or a copy of it."""

    name = "self-supervised"

    def __init__(self, context: JudgeContext, head: Head, threshold: float = 0.5, adapter: str = POLICY):
        self.context, self.head, self.threshold, self.adapter = context, head, threshold, adapter

    def judge(self, steps: Sequence[LabelledStep], seed: int = 0, progress: Progress = None) -> list[Judgment]:
        """One judgment for each step. Counted as no token: the policy computes these states while it samples the step."""
        states = step_states(self.context, self.adapter, steps)
        if progress:
            progress(len(steps))
        return judgments(scores(self.head, states), self.threshold, tokens=0)


def solution_score(step_scores: Sequence[float]) -> float:
    """The geometric mean of a solution's step scores; 0 if one of them is 0."""
    if 0.0 in step_scores:
        return 0.0
    return math.exp(stats.mean([math.log(score) for score in step_scores]))


def outcome_accuracy(outcomes: Sequence[Outcome], step_scores: Sequence[float]) -> float:
    """The share of solutions whose score is on their outcome's side of 0.5. `step_scores` holds those of all, in order."""
    own = iter(step_scores)
    solutions = [solution_score(list(itertools.islice(own, len(outcome.chunks)))) for outcome in outcomes]
    return stats.mean([(score >= 0.5) == outcome.correct for score, outcome in zip(solutions, outcomes, strict=True)])


def outcome_steps(outcomes: Sequence[Outcome]) -> list[LabelledStep]:
    """Every step of every solution, labelled with the outcome of the whole solution."""
    return [
        LabelledStep("", outcome.question, outcome.chunks[:i], chunk, outcome.correct)
        for outcome in outcomes
        for i, chunk in enumerate(outcome.chunks)
    ]


def step_weights(logits: torch.Tensor, outcomes: torch.Tensor, masked: bool) -> torch.Tensor:
    """The weight of each step of a batch in the loss: 0 if it is masked; the used steps of either outcome sum to 1/2.

    `logits` and `outcomes` (1 right, 0 wrong): [steps]. A logit of 0 is on neither side. Without the balance, the side with
    more agreeing steps would pull every prediction to itself: then the mask hides the other side, and training never returns.
    """
    used = (logits * (2 * outcomes - 1) > 0) | (not masked)
    weights = torch.zeros_like(outcomes)
    for side in (0.0, 1.0):
        own = used & (outcomes == side)
        weights[own] = 0.5 / max(1, int(own.sum()))
    return weights


def outcome_loss(logits: torch.Tensor, outcomes: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """The weighted loss of some steps, and numbers to add up: `loss`, and `used`, the steps that have a weight."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, outcomes, reduction="none")
    loss = (losses * weights).sum()
    return loss, {"loss": loss.item(), "used": int((weights > 0).sum())}


def update(
    lm: LanguageModel, head: Head, states: torch.Tensor, outcomes: torch.Tensor, optimizer: torch.optim.Optimizer, masked: bool
) -> dict:
    """One optimizer step on `states` [steps, hidden] with `outcomes` [steps]; returns its metrics."""
    with torch.no_grad():
        weights = step_weights(head(states), outcomes, masked)
    for attempt in attempts(lm, len(states), optimizer):
        with attempt:
            own = distributed.shard(range(len(states)))
            attempt.backward(*outcome_loss(head(states[own]), outcomes[own], weights[own]))
        attempt.step()
    return {**attempt.sums, "grad_norm": attempt.grad_norm, "overflows": attempt.overflows}


def train_self_supervised(trainer: JudgeTrainer, name: str = SELF_SUPERVISED) -> dict:
    """Train a head on the policy's states; adapter `name` becomes a copy of the policy with that head. Returns metrics.

    These are as `train_classifier`'s, with the numbers of `outcomes` and of `right` ones, and `outcome_accuracy` in the rows.
    Raises ValueError without validation labels, right and wrong solutions, or the policy.
    """
    context, knobs, lm = trainer.context, trainer.classifier, trainer.context.lm
    outcomes = [outcome for outcome in trainer.outcomes if outcome.chunks]
    right, steps = sum(outcome.correct for outcome in outcomes), outcome_steps(outcomes)
    if not trainer.validation or right in (0, len(outcomes)):
        raise ValueError(
            f"{name} needs right and wrong solutions and validation labels, and there are {right}, {len(outcomes) - right} and "
            f"{len(trainer.validation)}: annotate more problems"
        )
    if POLICY not in lm.adapters:
        raise ValueError(f"{name} reads the policy's hidden states, and adapter {POLICY!r} is not loaded: load it first")

    @functools.cache
    def states_of(*, validation: bool) -> torch.Tensor:
        return torch.cat(step_states(context, POLICY, trainer.validation if validation else steps)).to(lm.device)

    def prepare(adapter: str) -> None:
        copy_adapter(lm, POLICY, adapter)
        lm.heads[adapter] = new_head(lm, trainer.seed_of(f"head-{name}"), WIDTH)

    def train(request: str, lr: float, monitor: Monitor) -> None:
        states, head = states_of(validation=False), lm.heads[TRIAL]
        labels = torch.tensor([float(step.label) for step in steps], device=lm.device)

        def step(batch: Sequence[int], optimizer: torch.optim.Optimizer, epoch: int) -> dict:
            return update(lm, head, states[batch], labels[batch], optimizer, masked=epoch > 0)

        training = Training(lr, knobs.max_epochs, knobs.batch)
        train_epochs(lm, TRIAL, range(len(steps)), training, trainer.seed_of(name), step, monitor)

    def measure(request: str) -> dict:
        own, validation = (scores(lm.heads[TRIAL], [states_of(validation=which)]) for which in (False, True))
        return {**figures(trainer.validation, validation), "outcome_accuracy": outcome_accuracy(outcomes, own)}

    one_request = dataclasses.replace(trainer, classifier=dataclasses.replace(knobs, prompts=(REQUEST,)))
    tuned = tune(one_request, Method(name, name, len(steps), train, measure, prepare))
    described = f"a head on the policy's states, on the outcomes of {len(outcomes)} solutions, no step labels: {chosen(tuned)}"
    return {"training": f"{described}, like the threshold", "labels": 0, "outcomes": len(outcomes), "right": right, **tuned}
