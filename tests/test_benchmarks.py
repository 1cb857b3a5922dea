"""The benchmarks at the smallest size: both sides do the same work."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest
import torch

from benchmarks import floor, gpu, memory_count, side_by_side, works
from minisw.engine import memory
from minisw.presets import PRESETS
from minisw.recipe import ModelKnobs

SMALL = works.Setting(
    ModelKnobs(slots=16), prompts=2, group=4, completion=3, solutions=1, branches=2, judged=4, batch=8, warm=0, repeats=1
)


@pytest.mark.parametrize("work", ["annotate", "judge"])
def test_both_sides_write_as_many_tokens(work):
    ours, peer = works.WORKS[work, "ours"](SMALL), works.WORKS[work, "peer"](SMALL)
    assert ours["tokens"] == peer["tokens"] == {"annotate": 1 * 5 * 2 * 3, "judge": 4 * 3}[work]
    assert len(ours["seconds"]) == len(peer["seconds"]) == 1


def test_a_grpo_step_of_ours_leaves_no_group_out(monkeypatch):
    from minisw.training import grpo

    seen = []
    update = grpo.update
    monkeypatch.setattr(grpo, "update", lambda lm, groups, *rest: (seen.append((groups, rest[0])), update(lm, groups, *rest))[1])
    result = works.grpo_ours(dataclasses.replace(SMALL, completion=16))  # of three tokens all four may be the same
    assert len(result["seconds"]) == 1 and result["tokens"] == 2 * 4 * 16
    assert all(len(c.ids) == 16 for groups, _ in seen for group in groups for c in group.completions)
    assert all(advantages.shape == (2, 4) and (advantages != 0).any(1).all() for _, advantages in seen)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the extra `bench` is not installed")
def test_a_grpo_step_of_trl():
    result = works.grpo_trl(SMALL)
    assert len(result["seconds"]) == 1 and result["tokens"] == 2 * 4 * 3


def test_the_limit_counts_a_shared_prefix_once():
    alone, grouped = floor.decode(SMALL, 1), floor.decode(SMALL, 8)
    assert alone["rows"] == grouped["rows"] == 16
    assert grouped["bytes"] < alone["bytes"] and grouped["operations"] == pytest.approx(alone["operations"], rel=0.1)
    assert floor.proportional([(2, 1.0), (8, 3.0)]) == [(2, 1.0), (8, 4.0)]


def test_the_table_compares_time_a_token():
    runs = {side: [{"seconds": [t], "tokens": n, "peak_gb": m}] for side, t, n, m in (("ours", 1.0, 10, 1), ("peer", 4.0, 20, 2))}
    answers = {side: iter(found) for side, found in runs.items()}
    row = side_by_side.compare("judge", "embedded", [], 1, measure=lambda work, side, *rest: next(answers[side]))
    assert row["time_ratio"] == pytest.approx(0.5) and row["memory_ratio"] == 0.5
    assert "**0.50**" in side_by_side.table([row | {"bar": 0.5, "memory_bar": None}])


def test_the_gpu_script_runs_at_small_size(tmp_path):
    recipe = dataclasses.replace(
        PRESETS["gpu-12gb"],
        model=ModelKnobs(slots=16, autocast="", sampling_dtype="", checkpointing=True),
        segment=dataclasses.replace(PRESETS["gpu-12gb"].segment, max_new_tokens=16),
        judge=dataclasses.replace(PRESETS["gpu-12gb"].judge, max_new_tokens=8, group=2),
    )
    gpu.measure(recipe, tmp_path / "gpu.json", steps=2, prompts=2, branches=2, problems=2, minutes=5)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["curve"]) == 2 and found["annotation"]["tokens"] > 0 and found["memory"]["estimated_gb"]["training"] > 0
    labels = [s.label for s in gpu.labelled_steps(20, 0)]
    assert labels == [True, False] * 10


def test_the_counter_sees_what_lives_and_what_is_gone():
    with memory_count.Counter() as counter:
        kept = torch.zeros(1000)
        view = kept[:10]
        del kept
        gone = torch.zeros(500) + 1  # two of them for a moment
        del gone
        assert counter.now == 4000 and len(view) == 10
    assert counter.peak == 4000 + 2 * 2000


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_estimate_of_a_micro_batch_is_above_what_is_counted_and_below_twice_that(checkpointing):
    recipe = PRESETS["gpu-8gb"]
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, checkpointing=checkpointing, micro_tokens=2400))
    counted = memory_count.count(memory_count.MODELS["0.5b"], recipe, 900, 300, 2)
    found = memory.estimate(memory_count.MODELS["0.5b"], recipe, 900, 300, rows=2 if checkpointing else 0)
    assert counted < found.activations + found.logits < 2 * counted
