"""How the judge's training calls GRPO: prompts, rewards, start, adapter and configuration of every call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.judges import stepwiser
from minisw.judges.base import JudgeContext, JudgeTrainer
from minisw.judges.generative import GenerativeJudge
from minisw.prompts import ARITHMETIC, NEGATIVE, POSITIVE
from minisw.recipe import ClassifierKnobs, JudgeKnobs, Lora
from minisw.records import LabelledStep
from minisw.training.grpo import batch_indices, step_seed

STEPS = [
    LabelledStep("a", "Tom has 12 apples.", (), "12+3=15.", True),
    LabelledStep("b", "Ben has 24 eggs.", ("24-7=17.",), "17+2=18.", False),
    LabelledStep("c", "Anna has 5 coins.", ("5+5=10.",), "10+1=11.", True),
]
KNOBS = JudgeKnobs(steps=2, prompts=2, group=4, max_new_tokens=50, temperature=0.8, lr=1e-2)
REPLIES = (f"The step says 15. {POSITIVE}", f"The step says 18. {NEGATIVE}", f"{POSITIVE}", "The step says")


class ScriptedSampler:
    """Gives every prompt the four replies above, and notes what it was asked and the weights of the active adapter."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.calls: list[tuple[list[Request], Sampling, int]] = []
        self.adapters: list[tuple[str, torch.Tensor]] = []

    def generate(self, requests: list[Request], sampling: Sampling, seed: int) -> list[list[Completion]]:
        self.calls.append((requests, sampling, seed))
        name = self.lm.model.active_adapter
        self.adapters.append((name, torch.cat([p.detach().flatten() for p in self.lm.adapter_parameters(name).values()])))
        return [[Completion(self.lm.encode(reply), True) for reply in REPLIES] for _ in requests]


@pytest.fixture
def trained(new_lm) -> tuple[ScriptedSampler, dict, list]:
    """Two steps of GRPO of adapter "judge" from adapter "start": (sampler, result, what `train_adapter` was told)."""
    lm = new_lm("start", "judge", noise=0.1)
    sampler, told = ScriptedSampler(lm), []

    def train_adapter(name: str, fit: Callable, total: int, what: str) -> object:
        told.append((name, total))
        return fit(None, lambda n, metrics: told.append(metrics["step"]))

    trainer = JudgeTrainer(
        context=JudgeContext(lm, sampler, ARITHMETIC, 50, 4096),
        steps=STEPS,
        validation=STEPS,
        knobs=KNOBS,
        classifier=ClassifierKnobs(),
        lora=Lora(),
        seed_of=lambda name: len(name),
        train_adapter=train_adapter,
    )
    start = torch.cat([p.detach().flatten() for p in lm.adapter_parameters("start").values()])
    result = stepwiser.train_stepwiser(trainer, "judge", "start")
    assert torch.equal(start, torch.cat([p.detach().flatten() for p in lm.adapter_parameters("start").values()]))
    assert torch.equal(sampler.adapters[0][1], start)
    return sampler, result, told


def test_prompts_settings_and_seeds_of_every_call(trained) -> None:
    sampler, _, told = trained
    judge = GenerativeJudge(JudgeContext(sampler.lm, sampler, ARITHMETIC, 50, 4096), "judge")
    seed = len("grpo-judge")
    for step, (requests, sampling, used) in enumerate(sampler.calls):
        chosen = batch_indices(3, 2, step, seed)
        assert requests == [Request(judge.prompt(STEPS[i]), 4) for i in chosen]
        assert sampling == Sampling(50, 0.8) and used == step_seed(seed, step)
    assert len(sampler.calls) == 2 and told == [("judge", 2), 1, 2]
    assert [name for name, _ in sampler.adapters] == ["judge"] * 2
    assert not torch.equal(sampler.adapters[0][1], sampler.adapters[1][1])  # the second step samples from the trained judge


def test_curve(trained) -> None:
    """Of four replies one has the right verdict with an analysis, whatever the label; two say Positive."""
    _, result, _ = trained
    assert result["labels"] == 3 and [m["step"] for m in result["curve"]] == [1, 2]
    assert all(m["reward"] == 0.25 and m["verdicts/positive"] == 0.5 for m in result["curve"])


def test_the_reply_with_the_right_verdict_gains(trained) -> None:
    """Positive for steps that are right, Negative for the one that is wrong: rewards belong to the step that was asked."""
    sampler, _, _ = trained
    lm = sampler.lm
    judge = GenerativeJudge(JudgeContext(lm, sampler, ARITHMETIC, 50, 4096), "judge")

    def gap(adapter: str, step: LabelledStep) -> float:
        values = []
        for reply in REPLIES[:2]:
            ids, prompt = lm.encode(reply), judge.prompt(step)
            with lm.using(adapter), torch.no_grad():
                logprobs = lm.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            values.append(logprobs[torch.arange(len(ids)), torch.tensor(ids)].sum().item())
        return values[0] - values[1]

    for step in STEPS:
        gain = gap("judge", step) - gap("start", step)
        assert gain > 0 if step.label else gain < 0, step


def test_fewer_labels_than_prompts_of_a_step(new_lm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.setattr(stepwiser, "train_grpo", lambda *args: calls.append(args) or [])
    lm = new_lm("start", "judge")
    trainer = JudgeTrainer(
        context=JudgeContext(lm, ScriptedSampler(lm), ARITHMETIC, 50, 321),
        steps=STEPS,
        validation=STEPS,
        knobs=dataclasses.replace(KNOBS, prompts=32, steps=7),
        classifier=ClassifierKnobs(),
        lora=Lora(),
        seed_of=lambda name: 5,
        train_adapter=lambda name, fit, total, what: fit(tmp_path / "checkpoint", print),
        warn=calls.append,
    )
    stepwiser.train_stepwiser(trainer, "judge", "start")
    (_, name, prompts, _, config, seed, monitor) = calls[0]
    assert (name, len(prompts), seed) == ("judge", 3, 5)
    assert (config.prompts, config.steps, config.micro_tokens, config.temperature) == (3, 7, 321, 0.8)
    assert monitor.checkpoint == tmp_path / "checkpoint" and monitor.progress is print
    monitor.warn("text")
    assert calls[1] == "text"
