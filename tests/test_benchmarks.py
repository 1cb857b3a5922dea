"""The benchmarks at a small size: both sides do the same work in the same types."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest
import torch

from benchmarks import floor, gpu, memory_count, side_by_side, works
from minisw.engine import loading, memory
from minisw.presets import PRESETS
from minisw.recipe import ModelKnobs

SMALL = works.Setting(
    ModelKnobs(slots=16), prompts=2, group=4, completion=3, solutions=1, branches=2, judged=4, batch=8, warm=0, repeats=1
)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["annotate", "judge"])
def test_both_sides_write_as_many_tokens(work):
    ours, peer = works.WORKS[work, "ours"](SMALL), works.WORKS[work, "peer"](SMALL)
    assert ours["tokens"] == peer["tokens"] == {"annotate": 1 * 5 * 2 * 3, "judge": 4 * 3}[work]
    assert len(ours["seconds"]) == len(peer["seconds"]) == 1


@pytest.mark.slow
def test_a_grpo_step_of_ours_leaves_no_group_out(monkeypatch):
    from minisw.training import grpo

    seen = []
    update = grpo.update
    monkeypatch.setattr(grpo, "update", lambda lm, groups, *rest: (seen.append((groups, rest[0])), update(lm, groups, *rest))[1])
    result = works.grpo_ours(dataclasses.replace(SMALL, completion=16))  # of three tokens all four may be the same
    assert len(result["seconds"]) == 1 and result["tokens"] == 2 * 4 * 16
    assert all(len(c.ids) == 16 for groups, _ in seen for group in groups for c in group.completions)
    assert all(advantages.shape == (2, 4) and (advantages != 0).any(1).all() for _, advantages in seen)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the extra `bench` is not installed")
def test_a_grpo_step_of_trl():
    result = works.grpo_trl(SMALL)
    assert len(result["seconds"]) == 1 and result["tokens"] == 2 * 4 * 3


@pytest.mark.parametrize("hardware", [True, False])
def test_trl_gets_our_types(hardware, monkeypatch):
    monkeypatch.setattr(loading, "fast_bf16", lambda: hardware)
    fast = torch.bfloat16 if hardware else torch.float32
    for knobs in (ModelKnobs(device="cpu"), ModelKnobs(device="cpu", dtype="auto", sampling_dtype="")):
        ours = loading.precision(knobs, torch.device("cpu"))
        model, bf16 = works.peer_types(knobs)
        assert loading.precision(model, torch.device("cpu")).weights == (ours.sampling or ours.weights) == fast
        assert bf16 == (ours.autocast == torch.bfloat16) == hardware


@pytest.mark.slow
def test_the_decoding_limit_counts_a_shared_prefix_once(monkeypatch):
    monkeypatch.setattr(floor, "copy_bandwidth", lambda: 1e10)
    monkeypatch.setattr(floor, "matmul_rate", lambda *_: 1e11)
    alone, grouped = floor.decode(SMALL, 1), floor.decode(SMALL, 8)
    assert alone["rows"] == grouped["rows"] == 16
    assert grouped["bytes"] < alone["bytes"] and grouped["operations"] == pytest.approx(alone["operations"], rel=0.1)


def test_growth_is_compared_with_proportion():
    assert floor.proportional([(2, 1.0), (8, 3.0)]) == [(2, 1.0), (8, 4.0)]


def test_the_table_compares_time_for_each_token():
    runs = {side: [{"seconds": [t], "tokens": n, "peak_gb": m}] for side, t, n, m in (("ours", 1.0, 10, 1), ("peer", 4.0, 20, 2))}
    answers = {side: iter(found) for side, found in runs.items()}
    row = side_by_side.compare("judge", "embedded", [], 1, measure=lambda work, side, *rest: next(answers[side]))
    assert row["time_ratio"] == pytest.approx(0.5) and row["memory_ratio"] == 0.5
    assert "**0.50**" in side_by_side.table([row | {"bar": 0.5, "memory_bar": None}])


@pytest.mark.slow
def test_the_gpu_script_measures_every_part(tmp_path):
    recipe = gpu.shortened(PRESETS["gpu-12gb"], 16)
    recipe = dataclasses.replace(
        recipe,
        model=ModelKnobs(slots=16, autocast="", sampling_dtype="", checkpointing=True),
        judge=dataclasses.replace(recipe.judge, max_new_tokens=8, group=2),
    )
    values = gpu.measure(recipe, tmp_path / "gpu.json", gpu.Sizes(steps=2, prompts=2, problems=2, branches=2), small=True)
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == values
    assert [m["step"] for m in values["curve"]] == [1, 2] and values["grpo"]["prompts"] == 2
    assert values["solutions"]["tokens"] > 0 and values["annotation"]["tokens_per_second"] > 0
    assert values["load"]["peak_memory_gb"] > 0 and "memory" not in values


@pytest.mark.slow
def test_the_gpu_script_stops_in_time(tmp_path):
    recipe = gpu.shortened(dataclasses.replace(PRESETS["tiny"], model=ModelKnobs(slots=16, autocast="", sampling_dtype="")), 8)
    recipe = dataclasses.replace(recipe, judge=dataclasses.replace(recipe.judge, group=2))
    sizes = gpu.Sizes(steps=9, prompts=1, problems=1, branches=1, minutes=0)
    values = gpu.measure(recipe, tmp_path / "gpu.json", sizes, small=True)
    assert len(values["curve"]) == 1


def test_labelled_steps_are_wrong_where_their_label_says_so():
    from minisw.problems import load_task
    from minisw.recipe import ProblemKnobs

    steps = gpu.labelled_steps(20, 0)
    assert [s.label for s in steps] == [True, False] * 10
    problems = load_task(ProblemKnobs()).load("train", 20, 0)
    for step, problem in zip(steps, problems, strict=True):
        right = f"After this there are {problem.reference[len(step.history)]}.\n\n"
        assert step.question == problem.question and (step.chunk == right) == step.label


def test_the_counter_counts_live_storages_and_their_peak():
    with memory_count.Counter() as counter:
        kept = torch.zeros(1000)
        view = kept[:10]
        del kept
        gone = torch.zeros(500) + 1  # two of them for a moment
        del gone
        assert counter.now == 4000 and len(view) == 10
    assert counter.peak == 4000 + 2 * 2000


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_estimate_of_a_micro_batch_is_above_what_is_counted_and_below_twice_that(checkpointing):
    recipe = memory.on_a_gpu(PRESETS["gpu-8gb"])
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, checkpointing=checkpointing, micro_tokens=2400))
    counted = memory_count.count(memory_count.MODELS["0.5b"], recipe, 900, 300, 2)
    estimate = memory.estimate(memory_count.MODELS["0.5b"], recipe, 900, 300, rows=2 if checkpointing else 0)
    assert counted < estimate.activations + estimate.logits < 2 * counted
