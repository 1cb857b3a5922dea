"""The arithmetic of GRPO against values computed by hand and relations that must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch

from minisw.training.losses import clip_counts, clipped_loss, group_advantages, importance_weights, kl_k3

LOW, HIGH = 0.2, 0.28


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


# --- advantages ----------------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    """Mean and population standard deviation of each row: (1/4, √3/4) and (2, 1)."""
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, 3.0]]))
    std = math.sqrt(3) / 4
    assert advantages[0].tolist() == pytest.approx([0.75 / (std + 1e-4), *[-0.25 / (std + 1e-4)] * 3])
    assert advantages[1].tolist() == pytest.approx([1 / 1.0001, -1 / 1.0001, -1 / 1.0001, 1 / 1.0001])


def test_the_only_right_one_of_n_has_advantage_root_of_n_minus_one() -> None:
    for n in (2, 3, 8, 64):
        assert group_advantages(torch.eye(n)[:1])[0, 0].item() == pytest.approx(math.sqrt(n - 1), rel=2e-3)


def test_each_group_stands_for_itself() -> None:
    rewards = torch.rand(5, 6)
    together = group_advantages(rewards)
    for row, alone in zip(together, rewards, strict=True):
        assert torch.equal(row, group_advantages(alone[None])[0])
    assert together.shape == (5, 6)


def test_shift_and_scale_change_nothing_and_order_is_kept() -> None:
    rewards = torch.rand(4, 8)
    advantages = group_advantages(rewards)
    torch.testing.assert_close(group_advantages(100 * rewards + 7), advantages, rtol=2e-3, atol=2e-3)
    assert torch.equal(advantages.argsort(1), rewards.argsort(1))
    torch.testing.assert_close(advantages.sum(1), torch.zeros(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7, -1e6])
@pytest.mark.parametrize("n", [2, 3, 7, 8])
def test_a_tied_group_gets_exactly_zero(value: float, n: int) -> None:
    """The mean of eight times 0.1 is not 0.1 in float32."""
    mixed = torch.arange(n).float()
    advantages = group_advantages(torch.stack([torch.full((n,), value), mixed]))
    assert (advantages[0] == 0).all() and (advantages[1].abs().sum() > 0)


def test_integer_rewards() -> None:
    assert torch.equal(group_advantages(torch.tensor([[1, 0], [1, 1]])), group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]])))


# --- the clipped loss ----------------------------------------------------------------------------------------------------

RATIOS = (0.5, 1.0, 1.5, 0.5, 1.0, 1.5)
ADVANTAGES = (2.0, 2.0, 2.0, -1.0, -1.0, -1.0)


def six_tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logprobs with gradient, old_logprobs, advantages) of six tokens with the ratios above."""
    old_logprobs = tensor(-2.0, -1.0, -0.5, -3.0, -0.1, -1.0)
    return (old_logprobs + tensor(*RATIOS).log()).requires_grad_(True), old_logprobs, tensor(*ADVANTAGES)


def test_clipped_loss_by_hand() -> None:
    """A = 2: min(0.5·2, 0.8·2) = 1, 2, min(1.5·2, 1.28·2) = 2.56; A = -1: min(-0.5, -0.8) = -0.8, -1, min(-1.5, -1.28) = -1.5."""
    logprobs, old_logprobs, advantages = six_tokens()
    loss = clipped_loss(logprobs, old_logprobs, advantages, 10, LOW, HIGH)
    assert loss.item() == pytest.approx(-(1 + 2 + 2.56 - 0.8 - 1 - 1.5) / 10)
    loss.backward()
    # d(ratio)/d(logprob) = ratio; clipped tokens have no gradient
    assert logprobs.grad.tolist() == pytest.approx([-0.5 * 2 / 10, -2 / 10, 0, 0, 1 / 10, 1.5 / 10])
    assert clip_counts(logprobs, old_logprobs, advantages, LOW, HIGH) == (1, 1)


def test_clip_counts_are_those_without_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    old_logprobs = -torch.rand(200, generator=generator)
    logprobs = (old_logprobs + 0.5 * torch.randn(200, generator=generator)).requires_grad_(True)
    advantages = torch.where(torch.arange(200) < 60, 1.5, -0.5)  # not as many of each sign
    low, high = clip_counts(logprobs, old_logprobs, advantages, LOW, HIGH)
    clipped_loss(logprobs, old_logprobs, advantages, 1, LOW, HIGH).backward()
    dead = logprobs.grad == 0
    assert (low, high) == (int((dead & (advantages < 0)).sum()), int((dead & (advantages > 0)).sum()))
    assert low != high and min(low, high) > 5


def test_gradient_on_policy_is_minus_advantage() -> None:
    logprobs = tensor(-1.0, -2.0, -3.0).requires_grad_(True)
    advantages = tensor(1.0, -2.0, 0.5)
    clipped_loss(logprobs, logprobs, advantages, 4, LOW, HIGH).backward()  # the old ones are detached, or it would be zero
    assert logprobs.grad.tolist() == pytest.approx([-0.25, 0.5, -0.125])


def test_gradients_flow_into_logprobs_only() -> None:
    logprobs, old_logprobs, advantages = six_tokens()
    old_logprobs.requires_grad_(True)
    advantages.requires_grad_(True)
    clipped_loss(logprobs, old_logprobs, advantages, 6, LOW, HIGH).backward()
    assert old_logprobs.grad is None and advantages.grad is None and logprobs.grad is not None


def test_losses_of_parts_add_up() -> None:
    logprobs, old_logprobs, advantages = six_tokens()
    whole = clipped_loss(logprobs, old_logprobs, advantages, 6, LOW, HIGH)
    splits = zip(*(t.split([1, 3, 2]) for t in (logprobs, old_logprobs, advantages)), strict=True)
    assert sum(clipped_loss(*part, 6, LOW, HIGH).item() for part in splits) == pytest.approx(whole.item())


def test_a_positive_factor_on_the_advantage_is_a_factor_on_the_token_loss() -> None:
    """What importance weighting relies on."""
    logprobs, old_logprobs, advantages = six_tokens()
    weights = tensor(0.5, 2.0, 0.1, 1.7, 0.3, 1.0)
    each = [clipped_loss(*(t[i : i + 1] for t in (logprobs, old_logprobs, advantages)), 1, LOW, HIGH) for i in range(6)]
    weighted = clipped_loss(logprobs, old_logprobs, advantages * weights, 1, LOW, HIGH)
    assert weighted.item() == pytest.approx((weights * torch.stack(each)).sum().item(), rel=1e-5)


# --- KL and importance weights -------------------------------------------------------------------------------------------


def test_kl_by_hand() -> None:
    """d = ref - logprob = (log 2, -log 2, 0): exp(d) - d - 1."""
    kl = kl_k3(tensor(-2.0, -2.0, -2.0), tensor(-2.0 + math.log(2), -2.0 - math.log(2), -2.0))
    assert kl.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0], abs=1e-6)


def test_kl_is_never_negative_and_its_mean_is_the_divergence() -> None:
    policy, reference = torch.randn(2, 50).log_softmax(-1)
    kl = kl_k3(policy, reference)
    assert (kl >= -1e-6).all()
    exact = (policy.exp() * (policy - reference)).sum().item()
    assert (policy.exp() * kl).sum().item() == pytest.approx(exact, rel=1e-4) and exact > 0.3
    assert (reference.exp() * kl).sum().item() != pytest.approx(exact, rel=0.1)


def test_kl_pulls_towards_the_reference() -> None:
    logprobs, reference = tensor(-1.0, -1.0).requires_grad_(True), tensor(-2.0, -0.5).requires_grad_(True)
    kl_k3(logprobs, reference).sum().backward()
    assert reference.grad is None
    assert logprobs.grad[0] > 0 > logprobs.grad[1]  # descent lowers the first and raises the second


def test_importance_weights_by_hand() -> None:
    old = tensor(-1.0, -1.0, -1.0, -1.0).requires_grad_(True)
    weights = importance_weights(old, tensor(-1.0, -1.0 - math.log(1.5), -1.0 + math.log(4), -9.0))
    assert weights.tolist() == pytest.approx([1.0, 1.5, 0.25, 2.0]) and not weights.requires_grad
