"""The presets: each is named as it is found, and its knobs of stage 4 are those that it was sized with."""

from __future__ import annotations

import dataclasses

import pytest

from minisw.presets import PRESETS
from minisw.recipe import EvaluateKnobs, Recipe

EVALUATE = {  # preset: what differs from the defaults
    "tiny": {},
    "smoke": {"solutions": 6, "samples": 2, "pass_samples": 2, "pass_solutions": 4, "resamples": 500},
    "rung-1": {"solutions": 150, "samples": 4, "pass_samples": 8, "pass_solutions": 30},
    **{f"rung-{n}": {"solutions": 100, "samples": 4, "pass_samples": 8} for n in (2, 3, 4, 5)},
    "gpu-8gb": {"parts": ("gsm8k", "math"), "solutions": 400, "pass_solutions": 50},
    "gpu-12gb": {"parts": ("gsm8k", "math"), "solutions": 400, "pass_solutions": 50},
    "gpu-24gb": {"parts": ("gsm8k", "math"), "solutions": 400, "pass_solutions": 50},
    "paper": {"parts": ("gsm8k", "math", "olympiadbench", "omnimath"), "solutions": 1000, "pass_solutions": 200},
}


def test_presets_are_named_as_they_are_found() -> None:
    assert PRESETS.keys() == EVALUATE.keys()
    assert all(recipe.preset == name for name, recipe in PRESETS.items())
    assert PRESETS["tiny"] == Recipe()


@pytest.mark.parametrize("preset", EVALUATE)
def test_evaluate_knobs_differ_from_the_defaults_as_written(preset: str) -> None:
    knobs = PRESETS[preset].evaluate
    assert knobs == dataclasses.replace(EvaluateKnobs(), **EVALUATE[preset])
    assert 0 < knobs.pass_solutions <= knobs.solutions  # pass@k is measured on some of the solutions judged
