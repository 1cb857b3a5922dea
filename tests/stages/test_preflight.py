"""The check before stage 1, with a run that only has what the check uses."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from minisw.engine.memory import GB, prompt_length
from minisw.presets import PRESETS
from minisw.recipe import Recipe
from minisw.stages import preflight


def fake_run(recipe: Recipe, lm=None) -> SimpleNamespace:
    lines: list[str] = []
    return SimpleNamespace(recipe=recipe, facts={}, lines=lines, console=SimpleNamespace(print=lines.append), lm=lm)


def test_on_a_cpu_the_estimate_is_printed_and_kept_once() -> None:
    run = fake_run(PRESETS["tiny"])  # it has no model: nothing may be loaded
    run.recipe = dataclasses.replace(run.recipe, model=dataclasses.replace(run.recipe.model, device="cpu"))
    needed = preflight.preflight(run.recipe)
    preflight.check(run)
    assert run.facts == {"memory": {"estimated_gb": round(needed.peak / GB, 2)}}
    (line,) = run.lines
    peak, training, sampling = (f"{x / GB:.1f}" for x in (needed.peak, needed.training_peak, needed.sampling_peak))
    assert line == f"needs about {peak} GB (training {training}, sampling {sampling})"
    preflight.check(run)
    assert len(run.lines) == 1


def test_on_a_gpu_both_moments_are_tried_with_an_adapter_of_their_own(new_lm, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(lm, adapter, recipe, prompt, completion, rows):
        calls.append((adapter, adapter in lm.adapters, recipe, prompt, completion, rows))
        return {"training": 3.0 * GB, "sampling": 5.0 * GB}

    monkeypatch.setattr(preflight, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(preflight, "measure", measure)
    recipe = PRESETS["tiny"]
    run = fake_run(recipe, new_lm("policy"))
    preflight.check(run)
    prompt, completion = prompt_length(recipe), recipe.judge.max_new_tokens
    ((adapter, loaded, *arguments, rows),) = calls
    assert (adapter, loaded, arguments) == ("preflight", True, [recipe, prompt, completion])
    assert prompt + rows * completion <= recipe.model.micro_tokens < prompt + (rows + 1) * completion
    assert run.lm.adapters == ["policy"]
    assert run.facts["memory"]["measured_training_gb"] == 3.0 and run.facts["memory"]["measured_sampling_gb"] == 5.0
    preflight.check(run)
    assert len(calls) == 1


def test_a_run_that_cannot_fit_stops_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipe):
        raise ValueError("the run needs about 99.0 GB")

    monkeypatch.setattr(preflight, "preflight", refuse)
    run = fake_run(PRESETS["tiny"])
    with pytest.raises(ValueError, match="99.0 GB"):
        preflight.check(run)
    assert run.facts == {} and run.lines == []
    monkeypatch.setattr(preflight, "preflight", lambda recipe: None)  # the config says too little
    preflight.check(run)
    assert run.facts == {} and run.lines == []
