"""Micro-batches in the memory that there is, loss scaling, checkpointing."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from minisw.engine.logprobs import Example, collate, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs, Training
from minisw.training import checkpoints, sft, step
from minisw.training.grpo import train_grpo
from minisw.training.step import accumulate, clipped_step


@pytest.fixture
def examples(prompts: list[list[int]]) -> list[Example]:
    return [Example(ids, [7 + i, 8, 9 + i, 2]) for i, ids in enumerate(prompts)]


def trained(lm: LanguageModel, examples: list[Example], micro_tokens: int = 4096) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sft.train_sft(lm, "judge", examples, Training(1e-2, 2, 3), micro_tokens, seed=0)
    return {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 2e-5) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=atol, rtol=1e-3)


@pytest.fixture
def judge_lm(new_lm):
    def make(**changes: object) -> LanguageModel:
        lm = new_lm("judge")
        for name, value in changes.items():
            setattr(lm, name, value)
        return lm

    return make


def test_out_of_memory_halves_the_micro_batches_and_changes_nothing(judge_lm, examples, monkeypatch, caplog):
    """The third forward fails once: what was summed is thrown away, and done again in smaller parts."""
    expected = trained(judge_lm(), examples)
    calls = []

    def short_of_memory(lm, batch, temperature=1.0):
        calls.append(batch.ids.numel())
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no memory")
        return token_logprobs(lm, batch, temperature)

    monkeypatch.setattr(sft, "token_logprobs", short_of_memory)
    lm = judge_lm()
    with caplog.at_level(logging.WARNING, logger="minisw"):
        found = trained(lm, examples)
    close(expected, found)
    assert lm.halvings == 1 and "micro-batches of 2048 tokens" in caplog.text


def test_where_nothing_fits_the_knobs_are_named(judge_lm, examples, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(sft, "token_logprobs", never)
    lm = judge_lm()
    with pytest.raises(ValueError, match=r"out of memory with the smallest micro-batches: give --model\.checkpointing"):
        trained(lm, examples)
    assert 4096 >> (lm.halvings + 1) < step.FLOOR


def test_checkpointing_changes_no_gradient(judge_lm, examples):
    plain, checkpointed = trained(judge_lm(), examples), trained(judge_lm(checkpointing=True), examples)
    close(plain, checkpointed)


def test_checkpointing_keeps_less_and_is_off_outside(judge_lm, examples):
    kept = {}
    for on in (False, True):
        lm = judge_lm(checkpointing=on)
        bytes_kept = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += t.numel() * t.element_size()
            return t

        for p in lm.adapter_parameters("judge").values():
            p.requires_grad_(True)
        batch = collate(examples, 0, lm.device, share=False)
        with lm.using("judge"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), lm.training():
            assert lm.causal_lm.training is on
            token_logprobs(lm, batch)[0].sum().backward()
        kept[on] = bytes_kept
        assert not lm.causal_lm.training and not lm.causal_lm.is_gradient_checkpointing
    assert kept[True] < 0.6 * kept[False]


def test_a_scaled_loss_gives_the_same_step_and_an_overflow_none(judge_lm, examples):
    expected = trained(judge_lm(), examples)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    lm = judge_lm(scaler=scaler, new_scaler=lambda: scaler)
    close(expected, trained(lm, examples))

    parameters = lm.adapter_parameters("judge")
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)

    def overflowing(item):
        return sum(p.sum() for p in parameters.values()) * float("inf"), {"n": 1.0}

    assert accumulate(lm, 100, lambda tokens: [1], overflowing, parameters.values()) == {"n": 1.0}
    scale = lm.scaler.get_scale()
    assert clipped_step(lm, optimizer, parameters.values()) == 0.0
    assert all(torch.equal(p, before[name]) for name, p in parameters.items()) and lm.scaler.get_scale() < scale


def test_a_resumed_training_goes_on_with_its_loss_scale(judge_lm, examples, tmp_path):
    lm, path = judge_lm(), tmp_path / "judge.checkpoint"
    parameters = lm.adapter_parameters("judge")
    optimizer = torch.optim.AdamW(parameters.values())
    lm.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    checkpoints.save(path, parameters, optimizer, 1, [], lm.scaler)
    fresh = torch.amp.GradScaler("cpu")
    checkpoints.load(path, parameters, optimizer, fresh)
    fresh.scale(torch.zeros(1))
    assert fresh.get_scale() == 2.0**7


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_training_starts_with_a_fresh_loss_scale_and_keeps_it_in_its_checkpoint(kind, judge_lm, examples, tmp_path):
    used = torch.amp.GradScaler("cpu", init_scale=2.0**3)
    lm, path = judge_lm(scaler=used, new_scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**7)), tmp_path / "checkpoint"

    def train() -> None:
        if kind == "sft":
            sft.train_sft(lm, "judge", examples, Training(1e-3, 1, 3), 4096, seed=0, checkpoint=path)
            return
        knobs = JudgeKnobs(steps=1, prompts=2, group=2, max_new_tokens=2)
        train_grpo(
            lm, "judge", [e.prompt for e in examples], lambda i, text: float(len(text)), knobs, Sampler(lm, 4), 4096, 0, path
        )

    train()
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["scaler"])["scale"] == 2.0**7
    resumed = torch.amp.GradScaler("cpu", init_scale=2.0**5)
    lm.new_scaler = lambda: resumed
    train()  # all done: it only reads where it stood
    resumed.scale(torch.zeros(1))
    assert resumed.get_scale() == 2.0**7


def test_what_checkpointing_computes_again_is_cast_as_it_was(judge_lm):
    """peft's own casting is off in the forward pass, so it must be off where the backward pass repeats that."""
    lm = judge_lm(checkpointing=True, autocast_dtype=torch.bfloat16)
    adapted = [m for m in lm.model.modules() if isinstance(m, BaseTunerLayer)]
    with lm.training():
        assert adapted and not any(m.cast_input_dtype_enabled for m in adapted)
    assert all(m.cast_input_dtype_enabled for m in adapted)


def test_sampling_without_a_cache_is_refused(judge_lm, prompts):
    lm = judge_lm(checkpointing=True)
    sampler = Sampler(lm, 4)
    assert sampler.generate([Request(prompts[0])], Sampling(3, 0.0), 0)[0][0].ids
    with lm.training(), pytest.raises(RuntimeError, match="sampled without its cache"):
        sampler.generate([Request(prompts[0])], Sampling(3, 0.0), 0)
