"""The arithmetic of GRPO as pure functions of tensors: advantages, clipped loss, KL estimate, importance weights."""

from __future__ import annotations

import torch

MAX_IMPORTANCE_WEIGHT = 2.0


def group_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Advantages A = (r - mean) / (std + 1e-4) within each group: [groups, n] -> [groups, n].

    std is the population's (divided by n). A group of equal rewards gets exactly 0: the computed mean of equal floats may
    differ from them by rounding, which must not become an advantage.
    """
    rewards = rewards.float()
    tied = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)  # [groups, 1]
    deviations = (rewards - rewards.mean(1, keepdim=True)).masked_fill(tied, 0.0)
    std = deviations.square().mean(1, keepdim=True).sqrt()  # [groups, 1]
    return deviations / (std + 1e-4)


def clipped_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    num_tokens: int,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """The clipped policy loss of tokens, a scalar (StepWiser §3.3; clip-higher: Yu et al. 2025).

        -1/num_tokens · Σ min(ratio · A, clip(ratio, 1 - clip_low, 1 + clip_high) · A),   ratio = exp(logprobs - old_logprobs)

    logprobs, old_logprobs and advantages A: [tokens]. Gradients flow into `logprobs` only. `num_tokens` counts the tokens of the
    whole mini-batch, so that the losses of its micro-batches add up.
    """
    old_logprobs, advantages = old_logprobs.detach(), advantages.detach()
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum() / num_tokens


@torch.no_grad()
def clip_counts(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[int, int]:
    """How many tokens `clipped_loss` clips from below and from above, which have no gradient. All tensors: [tokens].

    The minimum takes the clipped term only below the range if A < 0, and only above it if A > 0.
    """
    ratio = (logprobs - old_logprobs).exp()
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return int(low.sum()), int(high.sum())


def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """A per-token estimate of KL(policy || reference), for tokens sampled from the policy: [tokens] -> [tokens].

        exp(d) - d - 1,   d = ref_logprobs - logprobs

    Unbiased and never negative (the estimator k3 of Schulman 2020). Gradients flow into `logprobs` only.
    """
    difference = ref_logprobs.detach() - logprobs
    return difference.exp() - difference - 1


def importance_weights(old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor) -> torch.Tensor:
    """Truncated importance weights min(exp(old_logprobs - sampler_logprobs), 2), without gradient: [tokens] -> [tokens].

    They turn a mean over tokens from the sampler's distribution into one over the training distribution; truncation bounds
    the variance (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    """
    return (old_logprobs.detach() - sampler_logprobs.detach()).exp().clamp(max=MAX_IMPORTANCE_WEIGHT)
