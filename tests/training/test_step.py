"""One optimizer step: micro-batches that fit into memory, loss scaling that repeats an overflow, checkpointing."""

from __future__ import annotations

import json
import logging
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from minisw.engine.logprobs import Batch, Example, collate, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs, Training
from minisw.training import sft, step
from minisw.training.grpo import GRPOConfig, train_grpo
from minisw.training.monitor import Monitor
from minisw.training.step import attempts, batches, epoch_order, trainable

Weights = dict[str, torch.Tensor]


@pytest.fixture
def examples(prompts: list[list[int]]) -> list[Example]:
    return [Example(ids, [7 + i, 8, 9 + i, 2]) for i, ids in enumerate(prompts)]


@pytest.fixture
def many(examples: list[Example]) -> list[Example]:
    """21 examples whose prompts differ, so that none shares its forward."""
    return [Example([20 + k, *e.prompt], [*e.completion, 30 + k]) for k in range(3) for e in examples]


@pytest.fixture
def judge_lm(new_lm) -> Callable[..., LanguageModel]:
    """`judge_lm(checkpointing=True)`: the tiny model with a noisy adapter "judge" and these attributes."""

    def make(**changes: object) -> LanguageModel:
        lm = new_lm("judge", noise=0.3)
        for name, value in changes.items():
            setattr(lm, name, value)
        return lm

    return make


def weights(lm: LanguageModel) -> Weights:
    return {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}


def assert_close(one: Weights, two: Weights, atol: float = 2e-5) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=atol, rtol=1e-3)


def descend(lm: LanguageModel, examples: list[Example], micro_tokens: int = 4096, steps: int = 1, lr: float = 1.0) -> Weights:
    """The adapter after plain gradient descent: weights show gradients as they are, which Adam would normalise."""
    parameters = list(lm.adapter_parameters("judge").values())
    optimizer = torch.optim.SGD(parameters, lr=lr)
    with lm.using("judge"), trainable(parameters):
        for _ in range(steps):
            sft.update(lm, examples, optimizer, micro_tokens)
    return weights(lm)


# --- epochs and micro-batches --------------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation() -> None:
    orders = [epoch_order(20, epoch, seed) for seed in (0, 1) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 6
    assert orders[4] == epoch_order(20, 1, 1)


def test_micro_batches_hold_every_example_once(judge_lm, examples) -> None:
    lm = judge_lm()
    for micro_tokens, least in ((10**6, 1), (60, 3), (1, 7)):
        parts = list(batches(lm, examples, micro_tokens))
        assert sorted(i for rows, _ in parts for i in rows) == list(range(7)) and len(parts) >= least
        for rows, batch in parts:
            targets = batch.ids[batch.target].tolist()
            assert targets == [token for i in rows for token in examples[i].completion]


def test_gradients_flow_only_within_the_block(judge_lm) -> None:
    parameters = list(judge_lm().adapter_parameters("judge").values())
    with pytest.raises(KeyboardInterrupt), trainable(iter(parameters)):
        assert all(p.requires_grad for p in parameters)
        raise KeyboardInterrupt
    assert not any(p.requires_grad for p in parameters)


# --- memory --------------------------------------------------------------------------------------------------------------


class ShortOfMemory:
    """`token_logprobs` that runs out of memory at the calls numbered `failing` (from 1), in the forward or the backward pass."""

    def __init__(self, *failing: int, backward: bool = False, error: Exception | None = None):
        self.failing, self.backward, self.error = failing, backward, error or torch.OutOfMemoryError("no memory")
        self.sizes: list[int] = []  # tokens of every micro-batch
        self.graphs: list[weakref.ref] = []
        self.alive: list[int] = []  # graphs that are kept when a forward begins

    def __call__(self, lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(batch.ids.numel())
        self.alive.append(sum(graph() is not None for graph in self.graphs))
        fails = len(self.sizes) in self.failing
        if fails and not self.backward:
            raise self.error
        logprobs, entropy = token_logprobs(lm, batch, temperature)
        self.graphs.append(weakref.ref(logprobs))
        if fails:
            logprobs.register_hook(self.fail)
        return logprobs, entropy

    def fail(self, gradient: torch.Tensor) -> None:
        raise self.error


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
def test_out_of_memory_drops_gradients_and_changes_nothing(backward, judge_lm, many, monkeypatch, caplog) -> None:
    """The third micro-batch fails: the gradients of the first two must not count twice."""
    expected = descend(judge_lm(), many, 256)
    fake, lm = ShortOfMemory(3, backward=backward), judge_lm()
    monkeypatch.setattr(sft, "token_logprobs", fake)
    with caplog.at_level(logging.WARNING, logger="minisw"):
        found = descend(lm, many, 256)
    assert_close(expected, found)
    assert lm.halvings == 1 and "micro-batches of 128 tokens" in caplog.text
    assert max(fake.sizes[:2]) > 128 >= max(fake.sizes[3:]) and len(fake.sizes) > 5
    assert fake.alive[3] == 0  # nothing of the failed try is kept in memory


def test_the_size_that_fits_is_kept(judge_lm, many, monkeypatch) -> None:
    fake = ShortOfMemory(1)
    monkeypatch.setattr(sft, "token_logprobs", fake)
    lm = judge_lm()
    descend(lm, many, 512, steps=3)
    assert lm.halvings == 1 and fake.sizes[0] > 256 >= max(fake.sizes[1:]) and len(fake.sizes) > 7


def test_memory_that_cublas_could_not_get(judge_lm, examples, monkeypatch) -> None:
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    monkeypatch.setattr(sft, "token_logprobs", ShortOfMemory(1, error=error))
    lm = judge_lm()
    descend(lm, examples, 512)
    assert lm.halvings == 1


def test_other_errors_are_not_taken_for_lack_of_memory(judge_lm, examples, monkeypatch) -> None:
    monkeypatch.setattr(sft, "token_logprobs", ShortOfMemory(1, error=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        descend(judge_lm(), examples)


def test_if_nothing_fits_the_error_names_the_knobs(judge_lm, examples, monkeypatch) -> None:
    monkeypatch.setattr(sft, "token_logprobs", ShortOfMemory(*range(1, 100)))
    lm = judge_lm()
    with pytest.raises(ValueError, match=r"out of memory with the smallest micro-batches: give --model\.checkpointing"):
        descend(lm, examples)
    assert 4096 >> lm.halvings >= step.SMALLEST > 4096 >> (lm.halvings + 1)


# --- loss scaling --------------------------------------------------------------------------------------------------------


def fp16_scaler(lm: LanguageModel, scale: float, largest: float) -> None:
    """Give `lm` a loss scaler, and gradients that overflow above `largest`, as fp16 does above 65504."""
    lm.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    lm.new_scaler = lambda: lm.scaler
    with trainable(lm.adapter_parameters("judge").values()):
        for parameter in lm.adapter_parameters("judge").values():
            parameter.register_hook(lambda gradient: gradient.masked_fill(gradient.abs() > largest, float("inf")))


def test_a_scaled_loss_gives_the_same_step(judge_lm, examples) -> None:
    lm = judge_lm()
    fp16_scaler(lm, 1024.0, float("inf"))
    assert_close(descend(judge_lm(), examples), descend(lm, examples))


@pytest.mark.slow
def test_a_step_that_overflows_is_repeated_until_it_fits(judge_lm, examples) -> None:
    lm, optimizers = judge_lm(), []
    fp16_scaler(lm, 2.0**20, 1000.0)
    before, expected = weights(lm), descend(judge_lm(), examples)
    parameters = list(lm.adapter_parameters("judge").values())
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    optimizer.register_step_post_hook(lambda *args: optimizers.append(args))
    with lm.using("judge"), trainable(parameters):
        metrics = sft.update(lm, examples, optimizer, 60)
    assert metrics["overflows"] > 2 and lm.scaler.get_scale() == 2.0 ** (20 - metrics["overflows"])
    assert len(optimizers) == 1 and metrics["grad_norm"] > 0
    assert_close(expected, weights(lm))
    assert any(not torch.equal(p, before[name]) for name, p in weights(lm).items())


@pytest.mark.slow
def test_an_overflow_costs_no_sampled_step(judge_lm, prompts) -> None:
    """GRPO with overflows: one rollout a step, and the same adapter and metrics as without loss scaling."""
    config = GRPOConfig.of(JudgeKnobs(steps=2, prompts=3, group=4, lr=1e-3, max_new_tokens=4, temperature=1.0), 4096)
    results = []
    for overflowing in (False, True):
        lm, seeds = judge_lm(), []
        if overflowing:
            fp16_scaler(lm, 2.0**16, 100.0)
        sampler = Sampler(lm, 16)
        generate = sampler.generate
        sampler.generate = lambda requests, sampling, seed, g=generate, s=seeds: (s.append(seed), g(requests, sampling, seed))[1]
        history = train_grpo(sampler, "judge", prompts, lambda i, text: float(len(text) % 3), config, 0)
        results.append((history, weights(lm), seeds))
    (plain, plain_weights, plain_seeds), (scaled, scaled_weights, scaled_seeds) = results
    assert scaled_seeds == plain_seeds and len(set(plain_seeds)) == 2
    assert [m.pop("overflows") for m in plain] == [0, 0] and [m.pop("overflows") for m in scaled][0] > 2
    assert all(m["grad_norm"] > 0 for m in plain)
    for one, two in zip(plain, scaled, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    assert_close(plain_weights, scaled_weights, atol=1e-4)


@pytest.mark.slow
def test_a_gradient_that_is_never_finite_is_dropped(judge_lm, examples, caplog) -> None:
    """With loss scaling after 16 tries, without it at once; the adapter stays as it was."""
    for scaled, tries in ((True, step.MAX_OVERFLOWS), (False, 1)):
        lm = judge_lm()
        before, parameters = weights(lm), list(lm.adapter_parameters("judge").values())
        fp16_scaler(lm, 2.0**16, -1.0)
        if not scaled:
            lm.scaler = torch.amp.GradScaler("cpu", enabled=False)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="minisw"), lm.using("judge"), trainable(parameters):
            metrics = sft.update(lm, examples, torch.optim.AdamW(parameters, lr=1.0), 4096)
        assert metrics["overflows"] == tries and metrics["grad_norm"] == 0 and "not finite" in caplog.text
        assert all(torch.equal(p, before[name]) for name, p in weights(lm).items())
        assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_training_starts_with_a_fresh_loss_scale_and_keeps_it_in_its_checkpoint(kind, judge_lm, examples, tmp_path) -> None:
    path = tmp_path / "checkpoint"
    lm = judge_lm(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**3))  # of another training

    def train(init_scale: float) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)

        def new_scaler() -> torch.amp.GradScaler:
            lm.scaler = scaler
            return scaler

        lm.new_scaler = new_scaler
        if kind == "sft":
            sft.train_sft(lm, "judge", examples, Training(1e-3, 1, 3), 4096, 0, Monitor(path))
        else:
            config = GRPOConfig.of(JudgeKnobs(steps=1, prompts=2, group=2, max_new_tokens=2), 4096)
            prompts = [e.prompt for e in examples]
            train_grpo(Sampler(lm, 4), "judge", prompts, lambda i, text: random.random(), config, 0, Monitor(path))

    train(2.0**7)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["scaler"])["scale"] == 2.0**7
    train(2.0**5)  # all is done, so it only restores the state
    lm.scaler.scale(torch.zeros(1))
    assert lm.scaler.get_scale() == 2.0**7


# --- attempts by themselves ----------------------------------------------------------------------------------------------


def test_an_attempt_adds_up_what_it_counts(judge_lm) -> None:
    lm = judge_lm()
    parameters = list(lm.adapter_parameters("judge").values())
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    with trainable(parameters):
        for attempt in attempts(lm, 100, optimizer):
            with attempt:
                for count in (1.0, 2.0):
                    attempt.backward(sum(p.sum() for p in parameters), {"n": count})
            attempt.step()
    size = sum(p.numel() for p in parameters)
    assert attempt.sums == {"n": 3.0} and attempt.grad_norm == pytest.approx(2 * size**0.5, rel=1e-5)
    assert all(p.grad is None for p in parameters)


def test_gradients_are_clipped_to_norm_1(judge_lm) -> None:
    lm = judge_lm()
    before, parameters = weights(lm), list(lm.adapter_parameters("judge").values())
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    with trainable(parameters):
        for attempt in attempts(lm, 100, optimizer):
            with attempt:
                attempt.backward(50 * sum(p.sum() for p in parameters), {})
            attempt.step()
    moved = sum((p - before[name]).square().sum() for name, p in weights(lm).items()).sqrt().item()
    assert moved == pytest.approx(1.0, rel=1e-3) and attempt.grad_norm > 100


# --- gradient checkpointing ----------------------------------------------------------------------------------------------


def test_checkpointing_changes_no_gradient(judge_lm, examples) -> None:
    assert_close(descend(judge_lm(), examples), descend(judge_lm(checkpointing=True), examples))


def test_checkpointing_keeps_less_and_is_off_outside_of_training(judge_lm, examples) -> None:
    kept = {}
    for on in (False, True):
        lm = judge_lm(checkpointing=on)
        bytes_kept = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += t.numel() * t.element_size()
            return t

        batch = collate(examples, 0, lm.device, "plain")
        with trainable(lm.adapter_parameters("judge").values()), lm.using("judge"), lm.training():
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                assert lm.causal_lm.training is on
                token_logprobs(lm, batch)[0].sum().backward()
        kept[on] = bytes_kept
        assert not lm.causal_lm.training and not lm.causal_lm.is_gradient_checkpointing
    assert kept[True] < 0.6 * kept[False]


def test_recomputed_layers_are_cast_as_in_the_forward_pass(judge_lm) -> None:
    """peft's own casting is off in the forward pass, so it must be off where the backward pass repeats that."""
    lm = judge_lm(checkpointing=True, autocast_dtype=torch.bfloat16)
    adapted = [m for m in lm.model.modules() if isinstance(m, BaseTunerLayer)]
    with lm.training():
        assert adapted and not any(m.cast_input_dtype_enabled for m in adapted)
    assert all(m.cast_input_dtype_enabled for m in adapted)


def test_sampling_without_a_cache_is_refused(judge_lm, prompts) -> None:
    lm = judge_lm(checkpointing=True)
    sampler = Sampler(lm, 4)
    assert sampler.generate([Request(prompts[0])], Sampling(3, 0.0), 0)[0][0].ids
    with lm.training(), pytest.raises(RuntimeError, match="sampling needs the model.s cache"):
        sampler.generate([Request(prompts[0])], Sampling(3, 0.0), 0)
