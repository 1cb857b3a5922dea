"""The registry: every judge in one list, trained in an order in which it can be built; and training without a run."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from minisw.judges.base import JudgeTrainer, Outcome, seeds_from
from minisw.judges.registry import REGISTRY, by_id, entries, trainings
from minisw.recipe import Recipe, TrainedJudge

FEWER = ["stepwiser_tenth", "stepwiser_hundredth"]
TRAINED = [
    "discriminative", "scalar_head", "self_supervised", "few_shot", "rejection_sampled", "genprm",
    "genprm_analysis", "genprm_code", "genprm_neither", "thinkprm", "stepwiser", "stepwiser_from_rs", *FEWER,
]  # fmt: skip
RECIPE = Recipe()


def test_ids_are_unique_and_adapter_names_have_no_dot():
    ids = [entry.id for entry in REGISTRY]
    assert len(set(ids)) == len(ids) and all(name.isidentifier() for name in ids)
    assert ids == ["always_positive", "untrained", *TRAINED]
    assert [entry.id for entry in REGISTRY if entry.trained] == TRAINED == list(get_args(TrainedJudge))  # what a recipe may name
    assert [entry.id for entry in REGISTRY if not entry.has_adapter] == ["few_shot"]
    assert all(by_id(name).id == name for name in ids)
    assert [entry.id for entry in REGISTRY if not entry.analysis] == ["genprm_neither"]


@pytest.mark.parametrize(
    ("judges", "trained"),
    [
        (RECIPE.judge.judges, ["discriminative", "rejection_sampled", "stepwiser", *FEWER]),
        (("stepwiser", "few_shot"), ["few_shot", "stepwiser"]),
        (("stepwiser_from_rs", "rejection_sampled"), ["rejection_sampled", "stepwiser_from_rs"]),
    ],
)
def test_what_a_recipe_trains_and_evaluates(judges, trained):
    """In the order of the registry, whatever the order in the recipe; judges without training are always evaluated."""
    recipe = dataclasses.replace(RECIPE, judge=dataclasses.replace(RECIPE.judge, judges=judges))
    assert [entry.id for entry in trainings(recipe)] == trained
    assert [entry.id for entry in entries(recipe)] == ["always_positive", "untrained", *trained]


def test_every_judge_is_built_with_its_own_adapter_title_and_threshold(new_lm, context_of):
    tiny_lm = new_lm()
    tiny_lm.heads = {"scalar_head": "a head", "self_supervised": "another"}
    for entry in REGISTRY:
        judge = entry.build(context_of(tiny_lm), {"threshold": 0.125, "prompt": "judge", "examples": {"true": [["a", "b"]]}})
        assert judge.name == entry.title
        assert getattr(judge, "adapter", None) == (entry.id if entry.trained and entry.has_adapter else None)
        assert getattr(judge, "examples", {"true": [["a", "b"]]}) == {"true": [["a", "b"]]}
        assert entry.id == "thinkprm" or getattr(judge, "threshold", 0.125) == 0.125
        assert getattr(judge, "head", tiny_lm.heads.get(entry.id)) == tiny_lm.heads.get(entry.id)
        assert entry.id != "discriminative" or judge.request == "judge"


def test_a_trainer_without_a_run_makes_a_fresh_adapter_each_time(new_lm, context_of, steps):
    lm = new_lm()
    trainer = JudgeTrainer(context_of(lm), steps)

    def fit(checkpoint, tick):
        assert checkpoint is None
        tick(1)
        tick(1, {"loss": 0.5})
        first = next(iter(lm.adapter_parameters("mine").values()))
        before = first.detach().clone()
        first.data += 1
        return before

    a, b = (trainer.train("mine", fit, 2, "what") for _ in range(2))
    assert torch.equal(a, b) and lm.adapters == ["mine"]
    c = dataclasses.replace(trainer, seed_of=seeds_from(1)).train("mine", fit, 2, "what")
    assert not torch.equal(a, c)


def test_seeds_differ_by_number_and_by_name():
    assert len({seeds_from(n)(name) for n in (0, 1) for name in ("a", "b")}) == 4
    assert seeds_from(3)("a") == seeds_from(3)("a")


@pytest.mark.parametrize("entry", [e for e in REGISTRY if e.trained and e.has_adapter], ids=lambda entry: entry.id)
def test_a_stage_trains_the_adapter_that_the_entry_names(entry, tiny_lm, context_of, steps):
    """With a `train_adapter` that trains nothing: the name it is asked for is the entry's."""
    asked = []

    def train_adapter(name, fit, total, what):
        asked.append(name)
        assert total > 0
        counts = dict.fromkeys(("replies", "right", "solutions", "dropped", "chains_tried", "chains_kept"), 1)
        if "prm" in name or name == "rejection_sampled":
            return counts | {"curve": []}
        return [{"prompt": "judge", "lr": 1e-3, "epochs": 1, "auc": 0.5, "threshold": 0.5}]

    class Adapters:
        adapters = ("rejection_sampled", "policy")
        chat, encode = tiny_lm.chat, tiny_lm.encode

    context = dataclasses.replace(context_of(tiny_lm), lm=Adapters)
    outcomes = [Outcome("Q", ("a",), right) for right in (True, False)]
    metrics = entry.train(JudgeTrainer(context, steps, steps, outcomes=outcomes, train_adapter=train_adapter))
    assert asked == [entry.id] and metrics["labels"] == (0 if entry.id == "self_supervised" else 5) and metrics["training"]


@pytest.mark.parametrize("start", ["base", "rejection_sampled"])
def test_grpo_starts_where_the_recipe_says_and_from_rs_always_from_rs_ft(start, tiny_lm, context_of, steps):
    class Adapters:
        adapters = ("rejection_sampled",)
        chat, encode = tiny_lm.chat, tiny_lm.encode

    context = dataclasses.replace(context_of(tiny_lm), lm=Adapters)
    knobs = dataclasses.replace(RECIPE.judge, start=start)
    many = [dataclasses.replace(step, problem_id=f"{i}") for i in range(40) for step in steps[1:3]]  # 80, in turn + and -
    trainer = JudgeTrainer(context, many, knobs=knobs, train_adapter=lambda name, fit, total, what: [])
    by_id = {entry.id: entry.train(trainer) for entry in REGISTRY if entry.id.startswith("stepwiser")}
    default = "the base" if start == "base" else "rejection_sampled"
    starts = {name: metrics["training"].split(":")[0].removeprefix("GRPO from ") for name, metrics in by_id.items()}
    assert starts.pop("stepwiser_from_rs") == "rejection_sampled" and set(starts.values()) == {default} and len(starts) == 3
    assert {name: metrics["labels"] for name, metrics in by_id.items()} == {
        "stepwiser": 80, "stepwiser_from_rs": 80, "stepwiser_tenth": 8, "stepwiser_hundredth": 8
    }  # fmt: skip
