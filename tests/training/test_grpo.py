"""GRPO: its loss by hand and by a naive copy, that it learns, that it goes on after a kill, and that it speaks up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minisw.engine.logprobs import Batch, Example, collate, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs
from minisw.training import grpo
from minisw.training.grpo import (
    Episode,
    Reward,
    collect,
    prompts_of_step,
    reference_logprobs,
    train_grpo,
    update,
    warn_if_stalled,
)

KNOBS = JudgeKnobs(steps=4, prompts=3, group=4, lr=1e-2, max_new_tokens=8, kl=0.0, updates=1, temperature=1.0)


def knobs(**changes: object) -> JudgeKnobs:
    return dataclasses.replace(KNOBS, **changes)


def has_digit(_: int, text: str) -> float:
    return float(any(character.isdigit() for character in text))


def adapter(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in lm.adapter_parameters("judge").items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def train(
    lm: LanguageModel, prompts: list[list[int]], reward: Reward, warn: Callable[[str], None] = print, /, **changes: object
) -> list[dict]:
    return train_grpo(lm, "judge", prompts, reward, knobs(**changes), Sampler(lm, 64), 4096, seed=0, warn=warn)


def trainable(lm: LanguageModel) -> dict[str, torch.nn.Parameter]:
    parameters = lm.adapter_parameters("judge")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return parameters


@pytest.fixture
def episodes(prompts: list[list[int]]) -> list[Episode]:
    """Twelve episodes of different lengths; one group of four has equal rewards."""
    generator = torch.Generator().manual_seed(3)
    advantages = [1.2, -0.4, -0.4, -0.4, 0.0, 0.0, 0.0, 0.0, 0.9, 0.9, -0.9, -0.9]
    completions = [torch.randint(4, 400, (2 + 5 * i % 11,), generator=generator).tolist() for i in range(12)]
    return [Episode(Example(prompts[i // 4], completions[i]), 0.0, advantage, True) for i, advantage in enumerate(advantages)]


# --- the loss ------------------------------------------------------------------------------------------------------------


def naive_logprobs(lm: LanguageModel, example: Example, temperature: float) -> torch.Tensor:
    logits = lm.model(torch.tensor([example.prompt + example.completion])).logits[0, len(example.prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(logits)), torch.tensor(example.completion)]


def naive_update(lm: LanguageModel, episodes: list[Episode], knobs: JudgeKnobs, lr: float) -> list[float]:
    """The textbook's clipped loss with plain gradient descent, an episode at a time; returns the loss of each part."""
    parameters = trainable(lm)
    optimizer = torch.optim.SGD(parameters.values(), lr=lr)
    with torch.no_grad():
        old = [naive_logprobs(lm, e.example, knobs.temperature) for e in episodes]
    share = math.ceil(len(episodes) / knobs.updates)
    losses = []
    for begin in range(0, len(episodes), share):
        part = range(begin, min(begin + share, len(episodes)))
        total = sum(len(episodes[i].example.completion) for i in part)
        loss = torch.zeros(())
        for i in part:
            ratio = (naive_logprobs(lm, episodes[i].example, knobs.temperature) - old[i]).exp()
            clipped, advantage = ratio.clamp(1 - knobs.clip_low, 1 + knobs.clip_high), episodes[i].advantage
            loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() / total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_update_equals_the_textbook(updates: int, new_lm, episodes: list[Episode]) -> None:
    """Later parts are held against the log-probabilities from before the first step: their ratio is not 1."""
    chosen = knobs(updates=updates, temperature=0.9)
    one, two = new_lm("judge", noise=0.3), new_lm("judge", noise=0.3)
    parameters, before = trainable(one), adapter(one)
    record = update(one, episodes, parameters, torch.optim.SGD(parameters.values(), lr=1.0), chosen, 60, {})
    losses = naive_update(two, episodes, chosen, lr=1.0)
    assert record["loss"] == pytest.approx(sum(losses) / updates, abs=1e-4)
    for key, weight in adapter(two).items():
        torch.testing.assert_close(adapter(one)[key], weight, rtol=0, atol=2e-4)
    assert max((weight - before[key]).abs().max().item() for key, weight in adapter(one).items()) > 0.01
    clipped = record["clip_ratio/low_mean"] + record["clip_ratio/high_mean"]
    assert clipped == 0 if updates == 1 else 0 < clipped < 1


def test_micro_batches_change_nothing(new_lm, episodes: list[Episode]) -> None:
    found = []
    for micro_tokens in (1, 60, 10**6):
        lm = new_lm("judge", noise=0.3)
        parameters = trainable(lm)
        record = update(lm, episodes, parameters, torch.optim.SGD(parameters.values(), lr=1.0), KNOBS, micro_tokens, {})
        found.append((record, adapter(lm)))
    for record, weights in found[1:]:
        assert record == pytest.approx(found[0][0], abs=1e-5)
        for key, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][key], rtol=0, atol=1e-5)


def test_equal_rewards_still_count_in_the_denominator(new_lm, episodes: list[Episode]) -> None:
    """Leaving groups out saves their forward pass; it does not make the others weigh more."""
    lm = new_lm("judge", noise=0.3)
    parameters, every = trainable(lm), sum(len(e.example.completion) for e in episodes)
    alive = [e for e in episodes if e.advantage]
    rate = every / sum(len(e.example.completion) for e in alive)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
    whole, part = (update(lm, some, parameters, optimizer, KNOBS, 10**6, {}) for some in (episodes, alive))
    assert rate > 1.2
    assert part["loss"] == pytest.approx(rate * whole["loss"], rel=1e-4)
    assert part["grad_norm"] == pytest.approx(rate * whole["grad_norm"], rel=1e-4)


def test_clipped_loss_by_hand(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six tokens whose ratios are set by hand: value, gradient and counts, with clip_low 0.2 and clip_high 0.28."""
    ratios = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5])
    theta = torch.nn.Parameter(torch.zeros(6))
    grads: list[torch.Tensor] = []
    theta.register_hook(lambda grad: grads.append(grad.clone()))

    def fake(lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        n = int(batch.target.sum())
        entropy = torch.full((n,), 0.25)
        if n == 4:  # the first part, which says nothing about theta
            return torch.zeros(n) + 0 * theta.sum(), entropy
        old = torch.full((n,), -2.0)
        return (old + ratios.log() + theta if torch.is_grad_enabled() else old), entropy

    monkeypatch.setattr(grpo, "token_logprobs", fake)
    idle = Episode(Example([1, 2], [3, 4]), 1.0, 0.5, True)
    good, bad = Episode(Example([1], [5, 6, 7]), 1.0, 2.0, True), Episode(Example([1], [7, 8, 9]), 0.0, -1.0, True)
    optimizer = torch.optim.SGD([theta], lr=0.0)
    record = update(tiny_lm, [idle, idle, good, bad], {"theta": theta}, optimizer, knobs(updates=2), 10**6, {})
    # the first part is the two idle ones, with ratio 1: a loss of −0.5. Of the second,
    #   good, A = 2:  min(0.5·2, 0.8·2) = 1, 2, min(1.5·2, 1.28·2) = 2.56;   bad, A = −1:  min(−0.5, −0.8) = −0.8, −1, −1.5
    second = -(1 + 2 + 2.56 - 0.8 - 1 - 1.5) / 6
    assert grads[-1].tolist() == pytest.approx([-0.5 * 2 / 6, -2 / 6, 0, 0, 1 / 6, 1.5 / 6])
    assert (grads[-1] == 0).tolist() == [False, False, True, True, False, False]
    assert record["loss"] == pytest.approx((-0.5 + second) / 2)
    assert record["clip_ratio/low_mean"] == record["clip_ratio/high_mean"] == pytest.approx(1 / 10)
    assert record["entropy"] == pytest.approx(0.25)


def test_gradient_norm_is_clipped(new_lm, episodes: list[Episode]) -> None:
    lm = new_lm("judge", noise=0.3)
    parameters, before = trainable(lm), adapter(lm)
    strong = [dataclasses.replace(e, advantage=100 * e.advantage) for e in episodes]
    record = update(lm, strong, parameters, torch.optim.SGD(parameters.values(), lr=1.0), KNOBS, 10**6, {})
    moved = sum((weight - before[key]).pow(2).sum() for key, weight in adapter(lm).items()).sqrt()
    assert record["grad_norm"] > 10
    assert moved.item() == pytest.approx(1.0, rel=1e-3)


# --- groups, rewards, advantages -----------------------------------------------------------------------------------------


def test_advantages_of_a_group(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", noise=0.1)
    calls: list[tuple[int, str]] = []

    def reward(index: int, text: str) -> float:
        calls.append((index, text))
        return has_digit(index, text) + 0.1 * index

    episodes, record = collect(prompts, [4, 1, 5], reward, knobs(group=16), Sampler(lm, 8), seed=5)
    assert len(episodes) == 48
    assert [index for index, _ in calls] == [4] * 16 + [1] * 16 + [5] * 16
    assert [lm.decode(e.example.completion) for e in episodes] == [text for _, text in calls]
    for at, index in enumerate((4, 1, 5)):
        group = episodes[16 * at : 16 * at + 16]
        assert all(e.example.prompt == prompts[index] for e in group)
        rewards = torch.tensor([e.reward for e in group])
        assert rewards.max() > rewards.min()  # a mixed group, for this seed
        assert sum(e.advantage for e in group) == pytest.approx(0, abs=1e-4)
        expected = (rewards - rewards.mean()) / rewards.std(unbiased=False)
        torch.testing.assert_close(torch.tensor([e.advantage for e in group]), expected, rtol=1e-3, atol=1e-3)
    lengths = [len(e.example.completion) for e in episodes]
    assert record["num_tokens"] == sum(lengths) and record["completions/mean_length"] == sum(lengths) / 48
    assert record["completions/clipped_ratio"] == sum(e.example.completion[-1] not in lm.end_ids for e in episodes) / 48
    assert record["reward"] == pytest.approx(sum(e.reward for e in episodes) / 48)
    assert record["frac_reward_zero_std"] == 0 < record["reward_std"]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7])
def test_equal_rewards_teach_nothing(value: float, new_lm, prompts: list[list[int]]) -> None:
    """For any value: the mean of eight times 0.1 is not 0.1 in float32, which must not make an advantage."""
    lm = new_lm("judge", noise=0.1)
    before = adapter(lm)
    metrics = train(lm, prompts, lambda index, text: value, group=8, steps=2)
    assert [m["frac_reward_zero_std"] for m in metrics] == [1.0, 1.0]
    assert [m["grad_norm"] for m in metrics] == [0.0, 0.0]
    assert all("entropy" not in m for m in metrics)  # of no trained token there is no mean
    assert equal(adapter(lm), before)


def test_some_groups_with_equal_rewards(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge")
    turn = iter(range(10**6))

    def reward(index: int, text: str) -> float:
        return float(index == 2 and next(turn) % 2)

    episodes, record = collect(prompts, [0, 1, 2, 3], reward, knobs(group=4), Sampler(lm), 0)
    assert record["frac_reward_zero_std"] == 0.75
    assert [e.advantage != 0 for e in episodes] == [False] * 8 + [True] * 4 + [False] * 4


def test_prompts_of_a_step_are_shuffled_passes() -> None:
    drawn = [i for step in range(6) for i in prompts_of_step(10, 5, step, seed=1)]
    passes = [drawn[at : at + 10] for at in range(0, 30, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert drawn[:5] == prompts_of_step(10, 5, 0, seed=1) != prompts_of_step(10, 5, 0, seed=2)
    assert prompts_of_step(3, 7, 0, seed=0)[:6].count(1) == 2  # more than there are: they come again


# --- training ------------------------------------------------------------------------------------------------------------


def test_training_raises_the_reward(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", rank=8)
    base = {name: p.clone() for name, p in lm.model.named_parameters() if "lora_" not in name}
    metrics = train(lm, prompts[:5], has_digit, steps=32, prompts=5, group=8)
    first, last = (sum(m["reward"] for m in some) / 3 for some in (metrics[:3], metrics[-3:]))
    assert first < 0.3 and last > 0.8, [m["reward"] for m in metrics]
    assert all(torch.equal(p, base[name]) for name, p in lm.model.named_parameters() if name in base)
    assert [m["step"] for m in metrics] == list(range(1, 33))


def test_training_shortens_the_completions(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", rank=8)
    lm.end_ids = list(range(0, len(lm.tokenizer), 12))  # so that some rows end early by chance
    metrics = train(lm, prompts[:5], lambda index, text: -float(len(lm.encode(text))), steps=20, prompts=5, group=8)
    first, last = (sum(m["completions/mean_length"] for m in some) / 3 for some in (metrics[:3], metrics[-3:]))
    assert last < 0.7 * first, [m["completions/mean_length"] for m in metrics]


def test_two_updates_learn_too(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", rank=8)
    metrics = train(lm, prompts[:6], has_digit, steps=15, prompts=6, group=8, updates=2)
    assert any(m["clip_ratio/low_mean"] + m["clip_ratio/high_mean"] > 0 for m in metrics)
    assert sum(m["reward"] for m in metrics[-3:]) > 2 * sum(m["reward"] for m in metrics[:3])


def test_no_prompts(new_lm) -> None:
    lm = new_lm("judge")
    with pytest.raises(ValueError, match="no prompts"):
        train(lm, [], has_digit)


def test_only_its_own_adapter_is_trained(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("policy", "judge", noise=0.2)
    other = {key: p.clone() for key, p in lm.adapter_parameters("policy").items()}
    before = adapter(lm)
    train(lm, prompts, has_digit, steps=2, group=8)
    assert not equal(adapter(lm), before)
    assert all(torch.equal(p, other[key]) for key, p in lm.adapter_parameters("policy").items())
    assert lm.model.active_adapter == "policy"
    assert not any(p.requires_grad for p in lm.adapter_parameters("judge").values())


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_resumed_equals_uninterrupted(kl: float, new_lm, prompts: list[list[int]], tmp_path: Path) -> None:
    chosen, path = knobs(kl=kl, group=8, updates=2), tmp_path / "judge.checkpoint"

    def run(lm: LanguageModel, checkpoint: Path | None, progress=None) -> list[dict]:
        return train_grpo(
            lm, "judge", prompts, has_digit, chosen, Sampler(lm, 16), 200, 3, checkpoint, progress=progress, save_every=2
        )

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
    metrics = run(lm, path, lambda n, m: steps.append(m["step"]))
    assert steps == [3, 4]  # it went on behind the checkpoint
    assert metrics == expected
    assert equal(adapter(lm), whole)
    lm = new_lm("judge")
    assert run(lm, path, kill) == expected  # all done: nothing runs, the adapter is put back
    assert equal(adapter(lm), whole)


# --- KL ------------------------------------------------------------------------------------------------------------------


def test_reference_is_the_start_and_leaves_the_adapter_alone(new_lm, episodes: list[Episode]) -> None:
    lm = new_lm("judge", noise=0.3)
    parameters = trainable(lm)
    reference = {name: p.detach().clone() for name, p in parameters.items()}
    batch = collate([e.example for e in episodes], lm.tokenizer.pad_token_id, lm.device)
    at_start = token_logprobs(lm, batch)[0].detach()
    with torch.no_grad():
        for p in parameters.values():
            p.add_(0.1 * torch.randn_like(p))
    now, moved = adapter(lm), token_logprobs(lm, batch)[0].detach()
    logp = reference_logprobs(lm, batch, parameters, reference, KNOBS)
    assert not logp.requires_grad
    assert torch.equal(logp, at_start) and not torch.equal(logp, moved)
    assert equal(adapter(lm), now)
    assert torch.equal(token_logprobs(lm, batch)[0], moved)


def test_memory_that_runs_out_under_the_reference_leaves_the_adapter_alone(new_lm, episodes: list[Episode], monkeypatch) -> None:
    lm = new_lm("judge", noise=0.3)
    parameters = trainable(lm)
    reference = {name: torch.zeros_like(p) for name, p in parameters.items()}
    now = adapter(lm)

    def never(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(grpo, "token_logprobs_of", never)
    with pytest.raises(torch.OutOfMemoryError):
        reference_logprobs(lm, collate([e.example for e in episodes], 0, lm.device), parameters, reference, KNOBS)
    assert equal(adapter(lm), now)


def test_kl_term_by_hand(new_lm, episodes: list[Episode]) -> None:
    lm = new_lm("judge", noise=0.3)
    parameters = trainable(lm)
    alive = [e for e in episodes if e.advantage]
    reference = {name: p.detach() + 0.05 * torch.randn(p.shape) for name, p in parameters.items()}
    batch = collate([e.example for e in alive], lm.tokenizer.pad_token_id, lm.device)
    gap = reference_logprobs(lm, batch, parameters, reference, KNOBS) - token_logprobs(lm, batch)[0].detach()
    kl = (gap.exp() - gap - 1).mean().item()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
    without = update(lm, alive, parameters, optimizer, KNOBS, 60, {})
    with_kl = update(lm, alive, parameters, optimizer, knobs(kl=0.5), 60, reference)
    assert with_kl["kl"] == pytest.approx(kl, rel=1e-3) and kl > 1e-3
    assert with_kl["loss"] - without["loss"] == pytest.approx(0.5 * kl, rel=1e-2)
    assert without["kl"] == 0


def test_kl_pulls_towards_the_start(new_lm, prompts: list[list[int]]) -> None:
    drift, kls = {}, {}
    for kl in (0.0, 5.0):
        lm = new_lm("judge", rank=8)
        completion = Example(prompts[0], prompts[5])
        batch = collate([completion], lm.tokenizer.pad_token_id, lm.device)
        start = token_logprobs(lm, batch)[0].detach()
        metrics = train(lm, prompts[:5], has_digit, steps=15, prompts=5, group=8, kl=kl)
        drift[kl] = (token_logprobs(lm, batch)[0].detach() - start).abs().mean().item()
        kls[kl] = [m["kl"] for m in metrics]
    assert drift[5.0] < 0.6 * drift[0.0], drift
    assert set(kls[0.0]) == {0} and kls[5.0][0] == pytest.approx(0, abs=1e-6) and max(kls[5.0]) > 0


# --- alarms --------------------------------------------------------------------------------------------------------------


def heard(zero_std: list[float], lengths: list[float] | None = None, b: float = 1.0) -> list[tuple[int, str]]:
    """(step, first words) of every warn_if_stalled along a course of metrics."""
    words: list[tuple[int, str]] = []
    metrics: list[dict] = []
    parameters = {
        f"layer.lora_{side}.judge.weight": torch.nn.Parameter(torch.full((2,), value)) for side, value in (("A", 1.0), ("B", b))
    }
    for zero, length in zip(zero_std, lengths or [50.0] * len(zero_std), strict=True):
        metrics.append({"frac_reward_zero_std": zero, "completions/mean_length": length})
        warn_if_stalled(metrics, parameters, lambda text: words.append((len(metrics), text)))
    return words


def test_no_alarm_while_it_learns() -> None:
    assert heard([0.5] * 20) == []
    assert heard([1.0] * 4 + [0.9] + [1.0] * 4) == []
    assert heard([0.0] * 9, [40.0, 41.0, 30.0, 20.0, 11.0, 10.1, 12.0, 20.0, 60.0]) == []


def test_alarm_for_equal_rewards_fires_once() -> None:
    [(step, text)] = heard([0.2] * 3 + [1.0] * 20)
    assert step == 8 and "equal rewards" in text
    assert [step for step, _ in heard([1.0] * 12)] == [5]


def test_alarm_for_a_dead_adapter_fires_once() -> None:
    [(step, text)] = heard([0.2] * 12, b=0.0)
    assert step == 3 and "LoRA B" in text


def test_alarm_for_shrinking_analyses_fires_once() -> None:
    [(step, text)] = heard([0.2] * 12, [40.0] * 4 + [9.0] * 8)
    assert step == 5 and "shrunk from 40 tokens to 9" in text


def test_each_cause_is_told_once_though_it_comes_and_goes() -> None:
    assert len(heard([0.2] * 8, [40.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0])) == 1
    assert len(heard([1.0] * 6 + [0.5] + [1.0] * 6)) == 1


def test_alarms_reach_the_caller(new_lm, prompts: list[list[int]]) -> None:
    lm, words = new_lm("judge"), []
    train(lm, prompts, lambda index, text: 1.0, words.append, steps=7, max_new_tokens=2)
    assert len(words) == 2 and "LoRA B" in words[0] and "equal rewards" in words[1]
