"""The registry: every judge in one list, trained in an order in which it can be built; and training without a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.registry import REGISTRY, entries, trainings
from minisw.recipe import Recipe

ADAPTERS = ["discriminative", "rejection_sampled", "stepwiser", "rejection_sampled_tenth", "stepwiser_tenth"]
RECIPE = Recipe()


def test_ids_are_unique_and_adapter_names_have_no_dot():
    ids = [entry.id for entry in REGISTRY]
    assert len(set(ids)) == len(ids) and all(name.isidentifier() for name in ids)
    assert ids == ["always_positive", "untrained", "elicited", *ADAPTERS]


def test_what_a_recipe_trains_and_evaluates():
    assert [entry.id for entry in trainings(RECIPE)] == ADAPTERS
    evaluated = [entry.id for entry in entries(RECIPE)]
    assert evaluated == ["always_positive", "untrained", "elicited", *ADAPTERS[:3], "stepwiser_tenth"]
    plain = dataclasses.replace(
        RECIPE,
        judge=dataclasses.replace(RECIPE.judge, tenth=False),
        problems=dataclasses.replace(RECIPE.problems, prompts="english"),
    )
    assert [entry.id for entry in trainings(plain)] == ADAPTERS[:3]
    assert [entry.id for entry in entries(plain)] == ["always_positive", "untrained", *ADAPTERS[:3]]


def test_every_judge_is_built_with_its_own_adapter_title_and_threshold(tiny_lm, context_of):
    for entry in REGISTRY:
        judge = entry.build(context_of(tiny_lm), {"threshold": 0.125})
        assert judge.name == entry.title
        assert getattr(judge, "adapter", None) == (entry.id if entry.trained else None)
        assert getattr(judge, "threshold", 0.125) == 0.125


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


@pytest.mark.parametrize("entry", trainings(RECIPE), ids=lambda entry: entry.id)
def test_a_stage_trains_the_adapter_that_the_entry_names(entry, tiny_lm, context_of, steps):
    """With a `train_adapter` that trains nothing: the name it is asked for is the entry's."""
    asked = []

    def train_adapter(name, fit, total, what):
        asked.append(name)
        assert total > 0
        if "rejection" in name:
            return {"replies": 1, "right": 1, "curve": []}
        return [{"lr": 1e-3, "epochs": 1, "auc": 0.5, "threshold": 0.5}]

    class Adapters:
        adapters = ("rejection_sampled", "rejection_sampled_tenth")
        chat, encode = tiny_lm.chat, tiny_lm.encode

    context = dataclasses.replace(context_of(tiny_lm), lm=Adapters)
    metrics = entry.train(JudgeTrainer(context, steps, steps, train_adapter=train_adapter))
    assert asked == [entry.id] and metrics["labels"] == (4 if entry.id.endswith("tenth") else 5) and metrics["training"]
