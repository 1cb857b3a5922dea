"""A reference function that the package has only as a loop over the model's batches (training/step.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def backward_in_micro_batches(
    batches: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], logprobs: Callable[..., torch.Tensor]
) -> float:
    """Accumulate the gradient of a mini-batch from its micro-batches, and return the loss of the mini-batch.

        loss = -1/N · Σ A · log p(token),   over all N targets of all batches

    A batch is (ids int [rows, length], target bool [rows, length], advantages A [rows], one for each row).
    `logprobs(ids, target)` gives log-probabilities with gradient, [targets], in row order. The backward pass of a batch runs
    before the next forward pass, so that only one batch is in memory at a time.
    """
    num_tokens = sum(int(target.sum()) for _, target, _ in batches)
    total = 0.0
    for ids, target, advantages in batches:
        per_token = advantages.repeat_interleave(target.sum(1))  # [targets]
        loss = -(per_token * logprobs(ids, target)).sum() / num_tokens
        loss.backward()
        total += loss.item()
    return total
