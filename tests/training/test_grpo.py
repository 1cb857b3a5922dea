"""GRPO: each part of the loop by itself, a step against a naive copy, and that it learns, resumes and warns."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from minisw.engine.logprobs import Batch, Example, collate, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs
from minisw.training import grpo
from minisw.training.grpo import (
    Group,
    GroupReward,
    GRPOConfig,
    Reward,
    Sample,
    batch_indices,
    group_advantages,
    logprobs_of,
    rollout,
    sampling_metrics,
    score,
    score_step,
    step_seed,
    train_grpo,
    update,
    weights_swapped,
)
from minisw.training.losses import importance_weights, kl_k3
from minisw.training.monitor import Monitor
from minisw.training.step import epoch_order

KNOBS = JudgeKnobs(steps=4, prompts=3, group=4, lr=1e-2, max_new_tokens=8, kl=0.0, updates=1, temperature=1.0)
CONFIG = GRPOConfig.of(KNOBS, 4096)
Weights = dict[str, torch.Tensor]


def config(**changes: object) -> GRPOConfig:
    return dataclasses.replace(CONFIG, **changes)


def has_digit(_: int, text: str) -> float:
    return float(any(character.isdigit() for character in text))


def adapter(lm: LanguageModel) -> Weights:
    return {key: p.detach().clone() for key, p in lm.adapter_parameters("judge").items()}


def equal(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def assert_close(one: Weights, two: Weights, atol: float) -> None:
    for key, weight in one.items():
        torch.testing.assert_close(weight, two[key], rtol=0, atol=atol)


def train(
    lm: LanguageModel, prompts: Sequence[list[int]], reward: Reward, monitor: Monitor | None = None, /, **changes: object
) -> list[dict]:
    return train_grpo(Sampler(lm, 64), "judge", prompts, reward, config(**changes), 0, monitor or Monitor())


def trainable(lm: LanguageModel) -> list[torch.nn.Parameter]:
    parameters = list(lm.adapter_parameters("judge").values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def descend(
    lm: LanguageModel, groups: Sequence[Group], advantages: torch.Tensor, chosen: GRPOConfig, lr: float = 1.0, reference=None
) -> tuple[dict[str, float], Weights]:
    """`update` by plain gradient descent, which shows gradients as they are: (metrics, adapter after it)."""
    metrics = update(lm, groups, advantages, torch.optim.SGD(trainable(lm), lr=lr), chosen, reference)
    return metrics, adapter(lm)


@pytest.fixture
def groups(prompts: list[list[int]]) -> list[Group]:
    """Three groups of four completions of different lengths, as a sampler without log-probabilities returns them."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for number in range(3):
        lengths = [2 + 5 * (4 * number + k) % 11 for k in range(4)]
        completions = [Completion(torch.randint(4, 400, (n,), generator=generator).tolist(), True) for n in lengths]
        made.append(Group(number, prompts[number], completions, [""] * 4))
    return made


ADVANTAGES = torch.tensor([[1.2, -0.4, -0.4, -0.4], [0.0, 0.0, 0.0, 0.0], [0.9, 0.9, -0.9, -0.9]])  # one group is tied


def examples_of(groups: Sequence[Group]) -> list[Example]:
    return [Example(group.prompt, completion.ids) for group in groups for completion in group.completions]


class FakeSampler:
    """Returns completions that were written beforehand, and notes what it was asked, and with which adapter."""

    def __init__(self, lm: LanguageModel, texts: Callable[[list[int], int], str]):
        self.lm, self.texts = lm, texts
        self.calls: list[tuple[str, list[Request], Sampling, int]] = []

    def generate(self, requests: list[Request], sampling: Sampling, seed: int) -> list[list[Completion]]:
        self.calls.append((self.lm.model.active_adapter, requests, sampling, seed))
        end = self.lm.tokenizer.eos_token_id
        return [[Completion(self.lm.encode(self.texts(r.ids, k)) + [end], True) for k in range(r.count)] for r in requests]


# --- configuration -------------------------------------------------------------------------------------------------------


def test_the_configuration_takes_every_knob() -> None:
    """Every field has a value of its own, so that none can stand for another."""
    sizes = dict(steps=11, prompts=12, group=13, updates=14, max_new_tokens=20)
    knobs = JudgeKnobs(lr=0.15, clip_low=0.16, clip_high=0.17, kl=0.18, temperature=1.9, **sizes)
    chosen = GRPOConfig.of(knobs, 21)
    assert dataclasses.astuple(chosen) == (11, 12, 13, 14, 0.15, 0.16, 0.17, 0.18, 1.9, 20, 21)
    assert all(getattr(chosen, f.name) == getattr(knobs, f.name, 21) for f in dataclasses.fields(chosen))


# --- 1. the batch and its samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 4), (7, 7), (3, 8), (1, 2)])
def test_batches_are_consecutive_pieces_of_shuffled_epochs(count: int, batch: int) -> None:
    drawn = [i for step in range(12) for i in batch_indices(count, batch, step, seed=1)]
    endless = [i for epoch in range(-(-12 * batch // count)) for i in epoch_order(count, epoch, 1)]
    assert drawn == endless[: 12 * batch]
    assert all(sorted(drawn[at : at + count]) == list(range(count)) for at in range(0, len(drawn) - count + 1, count))


def test_batches_depend_on_step_and_seed_only() -> None:
    forwards = [batch_indices(50, 8, step, 3) for step in range(20)]
    assert [batch_indices(50, 8, step, 3) for step in reversed(range(20))] == forwards[::-1]
    assert batch_indices(50, 8, 0, 4) != forwards[0]


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each prompt: at two million labels that would take minutes a step."""
    shuffled: list[int] = []
    shuffle = random.Random.shuffle
    monkeypatch.setattr(random.Random, "shuffle", lambda self, items: (shuffled.append(len(items)), shuffle(self, items))[1])
    epoch_order.cache_clear()
    for step in range(60):  # 60 · 64 prompts of 1000: four epochs
        batch_indices(1000, 64, step, seed=0)
    assert shuffled == [1000] * 4


def test_rollout_samples_a_group_for_each_prompt(new_lm, prompts: list[list[int]]) -> None:
    sampler = FakeSampler(new_lm("judge"), lambda ids, k: f"{len(ids)}+{k}")
    groups = rollout(sampler, prompts, [4, 1, 4], config(group=3, temperature=0.7, max_new_tokens=9), 77)
    [(_, requests, sampling, seed)] = sampler.calls
    assert requests == [Request(prompts[i], 3) for i in (4, 1, 4)]
    assert sampling == Sampling(9, 0.7) and seed == 77
    assert [(group.index, group.prompt) for group in groups] == [(i, prompts[i]) for i in (4, 1, 4)]
    assert [group.texts for group in groups] == [[f"{len(prompts[i])}+{k}" for k in range(3)] for i in (4, 1, 4)]
    assert all(sampler.lm.decode(c.ids) == text for g in groups for c, text in zip(g.completions, g.texts, strict=True))


def test_every_step_has_a_seed_of_its_own() -> None:
    assert len({step_seed(seed, step) for seed in range(20) for step in range(20)}) == 400


# --- 2. rewards ----------------------------------------------------------------------------------------------------------


def some_groups() -> list[Group]:
    """Two groups of three; lengths 1 … 6; the second's last completion is cut off."""
    completions = [Completion(list(range(n)), n != 6) for n in range(1, 7)]
    return [Group(5, [1], completions[:3], ["a", "b", "c"]), Group(2, [2], completions[3:], ["d", "e", "f"])]


def test_a_reward_belongs_to_its_prompt_and_its_text() -> None:
    calls = []

    def reward(index: int, text: str) -> float:
        calls.append((index, text))
        return 10 * index + ord(text) - ord("a")

    rewards = score(some_groups(), reward)
    assert calls == [(5, "a"), (5, "b"), (5, "c"), (2, "d"), (2, "e"), (2, "f")]
    assert rewards.tolist() == [[50, 51, 52], [23, 24, 25]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        score(some_groups(), lambda index, text: value if text == "e" else 0.0)


def test_metrics_of_the_samples() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    metrics = sampling_metrics(some_groups(), rewards, {"early": lambda text: text < "c", "all": lambda text: 1})
    assert metrics == pytest.approx(
        {
            "reward": 2.5 / 6,
            "reward_std": (math.sqrt(2) / 3 + 0) / 2,
            "frac_reward_zero_std": 0.5,
            "completions/mean_length": 3.5,
            "completions/clipped_ratio": 1 / 6,
            "completions/num_tokens": 21,
            "early": 2 / 6,
            "all": 1.0,
        }
    )


# --- 4. the update -------------------------------------------------------------------------------------------------------


def naive_logprobs(lm: LanguageModel, example: Example, temperature: float) -> torch.Tensor:
    logits = lm.model(torch.tensor([example.prompt + example.completion])).logits[0, len(example.prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(logits)), torch.tensor(example.completion)]


def naive_update(lm: LanguageModel, examples: list[Example], advantages: list[float], chosen: GRPOConfig) -> list[float]:
    """The textbook's clipped loss, one completion at a time, with plain gradient descent; returns each mini-batch's loss."""
    parameters = trainable(lm)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    with torch.no_grad():
        old = [naive_logprobs(lm, e, chosen.temperature) for e in examples]
    size = math.ceil(len(examples) / chosen.updates)
    losses = []
    for begin in range(0, len(examples), size):
        part = range(begin, min(begin + size, len(examples)))
        num_tokens = sum(len(examples[i].completion) for i in part)
        loss = torch.zeros(())
        for i in part:
            ratio = (naive_logprobs(lm, examples[i], chosen.temperature) - old[i]).exp()
            clipped = ratio.clamp(1 - chosen.clip_low, 1 + chosen.clip_high)
            loss = loss - torch.minimum(ratio * advantages[i], clipped * advantages[i]).sum() / num_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2, 3])
def test_update_equals_the_textbook(updates: int, new_lm, groups: list[Group]) -> None:
    """Later mini-batches are compared with log-probabilities from before the first step: their ratio is not 1."""
    chosen = config(updates=updates, temperature=0.9, micro_tokens=60)
    one, two = new_lm("judge", noise=0.3), new_lm("judge", noise=0.3)
    before = adapter(one)
    metrics, weights = descend(one, groups, ADVANTAGES, chosen)
    losses = naive_update(two, examples_of(groups), ADVANTAGES.flatten().tolist(), chosen)
    assert metrics["loss"] == pytest.approx(sum(losses) / updates, abs=1e-4)
    assert_close(weights, adapter(two), atol=2e-4)
    assert max((weight - before[key]).abs().max().item() for key, weight in weights.items()) > 0.01
    clipped = metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"]
    assert clipped == 0 if updates == 1 else 0 < clipped < 1


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2])
def test_micro_batches_change_nothing(updates: int, new_lm, groups: list[Group]) -> None:
    results = [
        descend(new_lm("judge", noise=0.3), groups, ADVANTAGES, config(micro_tokens=n, updates=updates)) for n in (10**6, 60, 1)
    ]
    for metrics, weights in results[1:]:
        assert metrics == pytest.approx(results[0][0], rel=1e-4, abs=1e-5)
        assert_close(weights, results[0][1], atol=2e-5)


def test_the_learner_raises_what_has_a_positive_advantage(new_lm, groups: list[Group]) -> None:
    lm = new_lm("judge", noise=0.3)

    def total_logprobs() -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([naive_logprobs(lm, e, 1.0).sum() for e in examples_of(groups)])

    before = total_logprobs()
    descend(lm, groups, ADVANTAGES, CONFIG, lr=0.05)
    moved = (total_logprobs() - before).reshape(3, 4)
    assert ((moved * ADVANTAGES)[[0, 2]].sum(1) > 0).all()


def test_equal_rewards_still_count_in_the_denominator(new_lm, groups: list[Group]) -> None:
    """Leaving groups out saves their forward pass; it does not make the others weigh more."""
    lm = new_lm("judge", noise=0.3)
    lengths = [sum(len(c.ids) for c in group.completions) for group in groups]
    rate = sum(lengths) / (lengths[0] + lengths[2])
    whole, _ = descend(lm, groups, ADVANTAGES, CONFIG, lr=0.0)
    part, _ = descend(lm, [groups[0], groups[2]], ADVANTAGES[[0, 2]], CONFIG, lr=0.0)
    assert rate > 1.2
    assert part["loss"] == pytest.approx(rate * whole["loss"], rel=1e-4)
    assert part["grad_norm"] == pytest.approx(rate * whole["grad_norm"], rel=1e-4)
    assert part["entropy"] == pytest.approx(whole["entropy"])


def test_a_mini_batch_without_unequal_rewards_takes_no_step(new_lm, groups: list[Group]) -> None:
    """With momentum, a step on a zero gradient would move the adapter."""
    lm = new_lm("judge", noise=0.3)
    optimizer = torch.optim.AdamW(trainable(lm), lr=1e-2)
    update(lm, groups, ADVANTAGES, optimizer, CONFIG)
    before = adapter(lm)
    metrics = update(lm, groups, torch.zeros(3, 4), optimizer, config(updates=2, kl=0.1))
    assert metrics == {"loss": 0.0, "grad_norm": 0.0, "overflows": 0}  # no token, so no mean over tokens
    assert equal(adapter(lm), before)


@pytest.mark.slow
def test_the_temperature_of_sampling_divides_the_logits(new_lm, groups: list[Group]) -> None:
    lm = new_lm("judge", noise=0.3)
    entropies = [descend(lm, groups, ADVANTAGES, config(temperature=t), lr=0.0)[0]["entropy"] for t in (0.5, 1.0, 2.0)]
    assert entropies[0] < entropies[1] < entropies[2]
    samples = [Sample(e, 1.0, []) for e in examples_of(groups)]
    for temperature in (0.5, 2.0):
        for values, e in zip(logprobs_of(lm, samples, config(temperature=temperature)), examples_of(groups), strict=True):
            torch.testing.assert_close(values, naive_logprobs(lm, e, temperature).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths_differ", [False, True])
def test_logprobs_are_given_to_the_samples_that_they_belong_to(lengths_differ, new_lm, groups: list[Group]) -> None:
    lm = new_lm("judge", noise=0.3)
    examples = examples_of(groups) if lengths_differ else [Example(e.prompt, (e.completion * 3)[:6]) for e in examples_of(groups)]
    found = logprobs_of(lm, [Sample(e, 1.0, []) for e in examples], config(micro_tokens=70))
    for values, e in zip(found, examples, strict=True):
        torch.testing.assert_close(values, naive_logprobs(lm, e, 1.0).detach(), rtol=1e-4, atol=1e-4)
        assert not values.requires_grad


@pytest.mark.slow
def test_out_of_memory_while_old_logprobs_are_computed(new_lm, groups: list[Group], monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches are halved there too, and the update is the same."""
    chosen = config(updates=2, micro_tokens=1024)
    metrics, weights = descend(new_lm("judge", noise=0.3), groups, ADVANTAGES, chosen)
    calls = []

    def short_of_memory(lm: LanguageModel, batch: Batch, temperature: float = 1.0):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no memory")
        return token_logprobs(lm, batch, temperature)

    monkeypatch.setattr(grpo, "token_logprobs", short_of_memory)
    lm = new_lm("judge", noise=0.3)
    again, again_weights = descend(lm, groups, ADVANTAGES, chosen)
    assert calls[0] is False and lm.halvings == 1
    assert again == pytest.approx(metrics, abs=1e-5)
    assert_close(again_weights, weights, atol=2e-5)


# --- sampler and learner differ ------------------------------------------------------------------------------------------


def with_sampler_logprobs(lm: LanguageModel, groups: list[Group], shift: Callable[[int], float]) -> list[Group]:
    """The groups as a sampler returns them whose log-probability of token k of a completion is off by `shift(k)`."""
    groups = copy.deepcopy(groups)
    for group in groups:
        for completion in group.completions:
            values = naive_logprobs(lm, Example(group.prompt, completion.ids), 1.0)
            completion.logprobs = [value + shift(k) for k, value in enumerate(values.tolist())]
    return groups


@pytest.mark.slow
def test_a_sampler_that_agrees_changes_nothing(new_lm, groups: list[Group]) -> None:
    plain, weights = descend(new_lm("judge", noise=0.3), groups, ADVANTAGES, config(updates=2))
    lm = new_lm("judge", noise=0.3)
    metrics, corrected = descend(lm, with_sampler_logprobs(lm, groups, lambda k: 0.0), ADVANTAGES, config(updates=2))
    assert metrics.pop("sampling/logprob_difference") < 1e-4 and "sampling/logprob_difference" not in plain
    assert metrics == pytest.approx(plain, rel=1e-4, abs=1e-5)
    assert_close(corrected, weights, atol=2e-5)


@pytest.mark.parametrize(("shift", "weight"), [(-0.3, math.exp(0.3)), (0.5, math.exp(-0.5)), (-3.0, 2.0)])
def test_a_token_that_the_sampler_drew_too_rarely_weighs_more(shift: float, weight: float, new_lm, groups: list[Group]) -> None:
    """All tokens shifted alike: loss and gradient are multiplied by exp(-shift), and by 2 at most."""
    lm = new_lm("judge", noise=0.3)
    plain, _ = descend(lm, groups, ADVANTAGES, CONFIG, lr=0.0)
    metrics, _ = descend(lm, with_sampler_logprobs(lm, groups, lambda k: shift), ADVANTAGES, CONFIG, lr=0.0)
    assert metrics["sampling/logprob_difference"] == pytest.approx(abs(shift), rel=1e-3)
    assert metrics["loss"] == pytest.approx(weight * plain["loss"], rel=1e-3)
    assert metrics["grad_norm"] == pytest.approx(weight * plain["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_every_token_has_a_weight_of_its_own(new_lm, groups: list[Group]) -> None:
    """The loss of one on-policy step is -Σ weight · A / num_tokens, summed here by hand, in any order of micro-batches."""

    def shift(k: int) -> float:
        return 0.2 * k - 0.5

    lm = new_lm("judge", noise=0.3)
    lengths = [len(e.completion) for e in examples_of(groups)]
    expected = -sum(
        min(math.exp(-shift(k)), 2.0) * a for a, n in zip(ADVANTAGES.flatten().tolist(), lengths, strict=True) for k in range(n)
    ) / sum(lengths)
    for micro_tokens in (60, 10**6):
        metrics, _ = descend(lm, with_sampler_logprobs(lm, groups, shift), ADVANTAGES, config(micro_tokens=micro_tokens), lr=0.0)
        assert metrics["loss"] == pytest.approx(expected, rel=1e-3)
    plain, _ = descend(lm, groups, ADVANTAGES, CONFIG, lr=0.0)
    assert abs(plain["loss"] - expected) > 0.1 * abs(expected)


def test_later_mini_batches_are_weighted_by_the_adapter_that_sampled(new_lm, groups: list[Group], monkeypatch) -> None:
    """Their weights compare sampler and old log-probabilities, both from before the first update; the ratio covers the rest."""
    lm, weights = new_lm("judge", noise=0.3), []

    def noted(old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor) -> torch.Tensor:
        weights.append(importance_weights(old_logprobs, sampler_logprobs))
        return weights[-1]

    monkeypatch.setattr(grpo, "importance_weights", noted)
    metrics, _ = descend(lm, with_sampler_logprobs(lm, groups, lambda k: -0.1), ADVANTAGES, config(updates=3))
    assert len(weights) == 2 and metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"] > 0
    assert torch.cat(weights).tolist() == pytest.approx([math.exp(0.1)] * len(torch.cat(weights)), rel=1e-3)


# --- KL ------------------------------------------------------------------------------------------------------------------


def test_weights_are_swapped_and_put_back(new_lm) -> None:
    lm = new_lm("judge", noise=0.3)
    optimizer = torch.optim.SGD(trainable(lm), lr=1.0)
    own = adapter(lm)
    reference = [torch.full_like(p, 0.25) for p in lm.adapter_parameters("judge").values()]
    with pytest.raises(ValueError, match="out of memory"), weights_swapped(optimizer, reference):
        assert all((p == 0.25).all() for p in lm.adapter_parameters("judge").values())
        raise ValueError("out of memory")
    assert equal(adapter(lm), own)


@pytest.mark.parametrize("updates", [1, 2])
def test_the_kl_term_measures_the_distance_from_the_reference(updates: int, new_lm, groups: list[Group]) -> None:
    lm = new_lm("judge", noise=0.3)
    groups, advantages = [groups[0], groups[2]], ADVANTAGES[[0, 2]]
    samples = [Sample(e, 1.0, []) for e in examples_of(groups)]
    now, own = torch.cat(logprobs_of(lm, samples, CONFIG)), adapter(lm)
    generator = torch.Generator().manual_seed(0)
    reference = [p + 0.05 * torch.randn(p.shape, generator=generator) for p in own.values()]
    with weights_swapped(torch.optim.SGD(trainable(lm), lr=0.0), reference):
        ref_logprobs = torch.cat(logprobs_of(lm, samples, CONFIG))
    kl = kl_k3(now, ref_logprobs).mean().item()
    without, _ = descend(lm, groups, advantages, config(updates=updates), lr=0.0)
    with_kl, _ = descend(lm, groups, advantages, config(updates=updates, kl=0.5, micro_tokens=60), 0.0, reference)
    assert with_kl["kl"] == pytest.approx(kl, rel=1e-3) and kl > 1e-3 and "kl" not in without
    if updates == 1:  # otherwise mini-batches of different lengths weigh alike in the mean of losses
        assert with_kl["loss"] - without["loss"] == pytest.approx(0.5 * kl, rel=1e-2)
    assert equal(adapter(lm), own)


@pytest.mark.slow
def test_kl_pulls_towards_the_start(new_lm, prompts: list[list[int]]) -> None:
    drift, kls = {}, {}
    for kl in (0.0, 5.0):
        lm = new_lm("judge", rank=8)
        batch = collate([Example(prompts[0], prompts[5])], lm.tokenizer.pad_token_id, lm.device)
        start = token_logprobs(lm, batch)[0].detach()
        history = train(lm, prompts[:5], has_digit, steps=15, prompts=5, group=8, kl=kl)
        drift[kl] = (token_logprobs(lm, batch)[0].detach() - start).abs().mean().item()
        kls[kl] = [m["kl"] for m in history if "kl" in m]
    assert drift[5.0] < 0.6 * drift[0.0], drift
    assert not kls[0.0] and kls[5.0][0] == pytest.approx(0, abs=1e-6) and max(kls[5.0]) > 0


# --- the loop ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_samples_rewards_and_learns_from_the_same_texts(new_lm, prompts: list[list[int]]) -> None:
    """With a sampler that always writes "<length of the prompt>+k" for sample k of a prompt, and a reward for k = 1 only."""
    lm = new_lm("policy", "judge", noise=0.2)
    sampler, rewarded = FakeSampler(lm, lambda ids, k: f"{len(ids)}+{k}"), []

    def reward(index: int, text: str) -> float:
        rewarded.append((index, text))
        return float(text.endswith("+1"))

    def logprob(index: int, k: int) -> float:
        with lm.using("judge"), torch.no_grad():
            completion = lm.encode(f"{len(prompts[index])}+{k}") + [lm.tokenizer.eos_token_id]
            return naive_logprobs(lm, Example(prompts[index], completion), 1.0).sum().item()

    start = {(i, k): logprob(i, k) for i in range(4) for k in range(3)}
    monitor = Monitor(measures={"digits": lambda text: len(text)})
    chosen = config(steps=6, prompts=2, group=3, temperature=1.0, lr=3e-3)
    history = train_grpo(sampler, "judge", prompts[:4], reward, chosen, 9, monitor)
    assert [adapter for adapter, *_ in sampler.calls] == ["judge"] * 6
    assert [seed for *_, seed in sampler.calls] == [step_seed(9, step) for step in range(6)]
    batches = [batch_indices(4, 2, step, 9) for step in range(6)]
    assert [[r.ids for r in requests] for _, requests, *_ in sampler.calls] == [[prompts[i] for i in b] for b in batches]
    assert rewarded == [(i, f"{len(prompts[i])}+{k}") for batch in batches for i in batch for k in range(3)]
    assert all(m["reward"] == pytest.approx(1 / 3) and m["frac_reward_zero_std"] == 0 for m in history)
    assert all(m["digits"] == sum(len(f"{len(prompts[i])}+1") for i in b) / 2 for m, b in zip(history, batches, strict=True))
    for index in range(4):  # a prompt's rewarded completion has gained on both others
        gains = [logprob(index, k) - start[index, k] for k in range(3)]
        assert gains[1] > max(gains[0], gains[2]), index


@pytest.mark.slow
def test_training_raises_the_reward(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", rank=8)
    base = {name: p.clone() for name, p in lm.model.named_parameters() if "lora_" not in name}
    history = train(lm, prompts[:5], has_digit, steps=32, prompts=5, group=8)
    first, last = (sum(m["reward"] for m in some) / 3 for some in (history[:3], history[-3:]))
    assert first < 0.3 and last > 0.8, [m["reward"] for m in history]
    assert all(torch.equal(p, base[name]) for name, p in lm.model.named_parameters() if name in base)
    assert [m["step"] for m in history] == list(range(1, 33))


@pytest.mark.slow
def test_training_shortens_the_completions(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", rank=8)
    lm.end_ids = list(range(0, len(lm.tokenizer), 12))  # so that some completions end early by chance
    history = train(lm, prompts[:5], lambda index, text: -float(len(lm.encode(text))), steps=20, prompts=5, group=8)
    first, last = (sum(m["completions/mean_length"] for m in some) / 3 for some in (history[:3], history[-3:]))
    assert last < 0.7 * first, [m["completions/mean_length"] for m in history]


@pytest.mark.slow
def test_two_updates_learn_too(new_lm, prompts: list[list[int]]) -> None:
    history = train(new_lm("judge", rank=8), prompts[:6], has_digit, steps=30, prompts=6, group=8, updates=2)
    assert any(m.get("clip_ratio/low_mean", 0) + m.get("clip_ratio/high_mean", 0) > 0 for m in history)
    assert sum(m["reward"] for m in history[-3:]) > 2 * sum(m["reward"] for m in history[:3])


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_equal_rewards_teach_nothing(value: float, new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", noise=0.1)
    before = adapter(lm)
    history = train(lm, prompts, lambda index, text: value, group=8, steps=2)
    assert [m["frac_reward_zero_std"] for m in history] == [1.0, 1.0]
    assert [m["grad_norm"] for m in history] == [0.0, 0.0] and all("entropy" not in m for m in history)
    assert equal(adapter(lm), before)


@pytest.mark.parametrize(
    ("changes", "message"), [({}, "no prompts"), ({"group": 1}, "judge.group 2"), ({"temperature": 0.0}, "judge.temperature")]
)
def test_what_cannot_be_trained_is_refused(changes: dict, message: str, new_lm, prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=message):
        train(new_lm("judge"), prompts if changes else [], has_digit, **changes)


def test_only_its_own_adapter_is_trained(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("policy", "judge", noise=0.2)
    other = {key: p.clone() for key, p in lm.adapter_parameters("policy").items()}
    before = adapter(lm)
    train(lm, prompts, has_digit, steps=2, group=8)
    assert not equal(adapter(lm), before)
    assert all(torch.equal(p, other[key]) for key, p in lm.adapter_parameters("policy").items())
    assert lm.model.active_adapter == "policy"
    assert not any(p.requires_grad for p in lm.adapter_parameters("judge").values())


@pytest.mark.slow
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_resumed_equals_uninterrupted(kl: float, new_lm, prompts: list[list[int]], tmp_path: Path) -> None:
    chosen, path = config(kl=kl, group=8, updates=2, micro_tokens=200), tmp_path / "judge.checkpoint"

    def run(lm: LanguageModel, checkpoint: Path | None, progress=None) -> list[dict]:
        return train_grpo(Sampler(lm, 16), "judge", prompts, has_digit, chosen, 3, Monitor(checkpoint, 2, progress))

    def kill(_: int, metrics: dict) -> None:
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    lm = new_lm("judge")
    expected, start = run(lm, None), adapter(new_lm("judge"))
    whole = adapter(lm)
    assert not equal(whole, start) and len(expected) == 4
    with pytest.raises(KeyboardInterrupt):
        run(new_lm("judge"), path, kill)
    lm, steps = new_lm("judge"), []
    history = run(lm, path, lambda n, m: steps.append(m["step"]))
    assert steps == [3, 4]  # it resumed at the checkpoint
    assert history == expected
    assert equal(adapter(lm), whole)
    lm = new_lm("judge")
    assert run(lm, path, kill) == expected  # all is done: nothing runs, the adapter is restored
    assert equal(adapter(lm), whole)


def test_warnings_reach_the_caller(new_lm, prompts: list[list[int]]) -> None:
    texts: list[str] = []
    monitor = Monitor(warn=texts.append, measures={"verdicts/positive": lambda text: True})
    train(new_lm("judge"), prompts, lambda index, text: 1.0, monitor, steps=7, max_new_tokens=2)
    assert len(texts) == 3 and "LoRA B" in texts[0] and "equal rewards" in texts[1] and "100% of the replies" in texts[2]


def test_advantages_are_those_of_the_losses_module() -> None:
    """The loop calls the function that is tested by hand elsewhere."""
    assert group_advantages is grpo.group_advantages


# --- rewards of a whole step ---------------------------------------------------------------------------------------------


def test_a_group_reward_gets_all_groups_at_once_and_adds_its_metrics() -> None:
    calls, groups = [], some_groups()

    def of(given: Sequence[Group], seed: int):
        calls.append((given, seed))
        return [[1, 2, 3], [4, 5, 6]], {"mine": 0.5}

    rewards, metrics = score_step(groups, GroupReward(of), 77)
    assert rewards.tolist() == [[1, 2, 3], [4, 5, 6]] and rewards.dtype == torch.float32
    assert calls == [(groups, 77)] and metrics == {"mine": 0.5}


def test_a_reward_of_single_texts_adds_no_metrics() -> None:
    rewards, metrics = score_step(some_groups(), lambda index, text: index, 0)
    assert rewards.tolist() == [[5, 5, 5], [2, 2, 2]] and metrics == {}


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5, 6, 7]], []])
def test_a_group_reward_has_one_reward_for_each_completion(rows: list) -> None:
    with pytest.raises(ValueError, match="a GroupReward must return one reward for each completion of each group"):
        score_step(some_groups(), GroupReward(lambda groups, seed: (rows, {})), 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_group_reward_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        score_step(some_groups(), GroupReward(lambda groups, seed: ([[0, 0, 0], [0, value, 0]], {})), 0)


def test_samples_and_rewards_have_different_seeds() -> None:
    seeds = {step_seed(seed, step, use) for seed in range(10) for step in range(10) for use in ("rollout", "reward")}
    assert len(seeds) == 200 and step_seed(3, 4) == step_seed(3, 4, "rollout")


@pytest.mark.slow
def test_both_kinds_of_reward_train_alike(new_lm, prompts: list[list[int]]) -> None:
    """And the metrics of a group reward are logged with their step."""
    one, two, seeds = new_lm("judge"), new_lm("judge"), []

    def of(groups: Sequence[Group], seed: int):
        seeds.append(seed)
        return [[has_digit(g.index, text) for text in g.texts] for g in groups], {"call": len(seeds)}

    plain = train(one, prompts[:5], has_digit, steps=3)
    grouped = train(two, prompts[:5], GroupReward(of), steps=3)
    assert equal(adapter(one), adapter(two)) and any(adapter(one)[key].any() for key in adapter(one) if "lora_B" in key)
    assert [m.pop("call") for m in grouped] == [1, 2, 3] and grouped == plain
    assert seeds == [step_seed(0, step, "reward") for step in range(3)]
