"""Supervised fine-tuning (SFT) of an adapter: token-level cross-entropy on completions, written out.

A step takes a batch of examples, sums the negative log-probabilities of all targets, divides by their number, and makes one
AdamW step. The targets are the tokens of the completions: the end token included, the prompt and what was `given` excluded.

Metrics of a step:
    step                     number of the step, from 1
    loss                     mean negative log-probability of a target, in nats
    lr                       learning rate of the step
    grad_norm                norm of the gradient before clipping; 0 if no step was made
    completions/num_tokens   targets in the step
    overflows                repetitions of the step because its gradient overflowed in fp16
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from minisw.engine.logprobs import Batch, Example, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.recipe import Training
from minisw.training import checkpoints
from minisw.training.monitor import DEFAULT_MONITOR, Monitor
from minisw.training.step import attempts, batches, epoch_order, trainable

Step = Callable[[Sequence, torch.optim.Optimizer, int], dict]
Loss = Callable[[LanguageModel, Batch, int], tuple[torch.Tensor, dict[str, float]]]


def train_sft(
    lm: LanguageModel,
    adapter: str,
    examples: Sequence[Example],
    training: Training,
    micro_tokens: int,
    seed: int,
    monitor: Monitor = DEFAULT_MONITOR,
) -> list[dict]:
    """Train `adapter` in place; returns the metrics of every step (see `train_epochs`). `micro_tokens` limits one forward and
    changes nothing else."""

    def step(batch: Sequence[Example], optimizer: torch.optim.Optimizer, epoch: int) -> dict:
        return update(lm, batch, optimizer, micro_tokens)

    return train_epochs(lm, adapter, examples, training, seed, step, monitor)


def train_epochs(
    lm: LanguageModel,
    adapter: str,
    examples: Sequence,
    training: Training,
    seed: int,
    step: Step,
    monitor: Monitor = DEFAULT_MONITOR,
) -> list[dict]:
    """Train `adapter`, with its head if it has one, by `step(batch, optimizer, epoch)`, which makes one optimizer step and
    returns its metrics; epochs count from 0. Returns the metrics of every step.

    Every epoch has an order of its own; the examples that do not fill its last batch are left out of it. Training ends early if
    `monitor.on_epoch` returns True. State is saved after every epoch, after that call: a training that was killed resumes from
    the last saved epoch with the same numbers. Raises ValueError without examples.
    """
    if not examples:
        raise ValueError("no examples to train on: all were filtered out; sample more of them")
    parameters = lm.adapter_parameters(adapter)
    optimizer = torch.optim.AdamW(parameters.values(), lr=training.lr, weight_decay=0.0)
    scaler = lm.new_scaler()
    first_epoch, history = checkpoints.load(monitor.checkpoint, parameters, optimizer, scaler)
    batch_size = min(training.batch, len(examples))
    steps_per_epoch = len(examples) // batch_size
    with lm.using(adapter), trainable(parameters.values()):
        for epoch in range(first_epoch, training.epochs):
            order = epoch_order(len(examples), epoch, seed)
            for number in range(steps_per_epoch):
                done = epoch * steps_per_epoch + number
                lr = learning_rate(training.lr, done, training.epochs * steps_per_epoch)
                optimizer.param_groups[0]["lr"] = lr
                batch = [examples[i] for i in order[number * batch_size : (number + 1) * batch_size]]
                history.append({"step": done + 1, "lr": lr, **step(batch, optimizer, epoch)})
                if monitor.progress:
                    monitor.progress(1, history[-1])
            stop = bool(monitor.on_epoch and monitor.on_epoch(epoch + 1))
            if monitor.checkpoint:
                cursor = training.epochs if stop else epoch + 1
                checkpoints.save(monitor.checkpoint, parameters, optimizer, cursor, history, scaler)
            if stop:
                break
    return history


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0): warm-up over the first tenth of the steps, times a linear decay to zero over all."""
    return peak * min(1.0, (step + 1) / max(1, steps // 10)) * (1 - step / steps)


def cross_entropy(lm: LanguageModel, batch: Batch, num_tokens: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a micro-batch, -Σ log p / num_tokens over its target tokens, as a tensor and as a number to add up."""
    logprobs, _ = token_logprobs(lm, batch)  # [targets]
    loss = -logprobs.sum() / num_tokens
    return loss, {"loss": loss.item()}


def update(
    lm: LanguageModel,
    examples: Sequence[Example],
    optimizer: torch.optim.Optimizer,
    micro_tokens: int,
    loss: Loss = cross_entropy,
) -> dict:
    """One optimizer step on `examples` with the active adapter; returns its metrics.

    `loss(lm, batch, num_tokens)` gives the loss of a micro-batch, divided by the target tokens of the whole step.
    """
    num_tokens = sum(sum(example.targets()) for example in examples)
    for attempt in attempts(lm, micro_tokens, optimizer):
        with attempt, lm.training():
            for _, batch in batches(lm, examples, attempt.micro_tokens):
                attempt.backward(*loss(lm, batch, num_tokens))
        attempt.step()
    return {
        "loss": attempt.sums["loss"],
        "grad_norm": attempt.grad_norm,
        "completions/num_tokens": num_tokens,
        "overflows": attempt.overflows,
    }
