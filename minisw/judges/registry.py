"""All judges, one entry each: what it is, how it is trained, and how it is built.

A new judge is one file and one entry here. The stages judges, evaluate and search and the report read this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minisw.judges.base import AlwaysPositive, Judge, JudgeContext, JudgeTrainer
from minisw.judges.discriminative import DISCRIMINATIVE, DiscriminativeJudge, train_classifier
from minisw.judges.generative import GenerativeJudge
from minisw.judges.prompted import untrained_judge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.judges.stepwiser import (
    FROM_RS,
    HUNDREDTH,
    STEPWISER,
    TENTH,
    train_as_the_recipe_says,
    train_stepwiser,
    with_fewer_labels,
)
from minisw.recipe import Recipe

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Entry:
    """One judge.

    `id` names its row in tables, its metrics and, if it is trained, its adapter. `train(trainer)` trains that adapter and
    returns its metrics (judges/metrics.json); entries are trained in the order of the registry, so one may start from the
    adapter of an earlier one. `build(context, metrics)` makes the judge, with adapter `id` loaded if it is trained.
    """

    id: str
    title: str
    source: str
    build: Callable[[JudgeContext, dict], Judge]
    train: Callable[[JudgeTrainer], dict] | None = None
    wanted: Callable[[Recipe], bool] = lambda recipe: True

    @property
    def trained(self) -> bool:
        return self.train is not None


def _generative(adapter: str, title: str, source: str, train: Callable, wanted: Callable = lambda recipe: True) -> Entry:
    """An entry whose judge is a `GenerativeJudge` with the trained adapter."""
    return Entry(adapter, title, source, lambda context, metrics: GenerativeJudge(context, adapter, title), train, wanted)


REGISTRY: tuple[Entry, ...] = (
    Entry("always_positive", AlwaysPositive.name, "baseline", build=lambda context, metrics: AlwaysPositive()),
    Entry(UNTRAINED, "untrained judge", "StepWiser §3.3", build=lambda context, metrics: untrained_judge(context)),
    Entry(
        DISCRIMINATIVE,
        DiscriminativeJudge.name,
        "StepWiser §3.3, Math-Shepherd",
        build=lambda context, metrics: DiscriminativeJudge(context, DISCRIMINATIVE, metrics["threshold"], metrics["prompt"]),
        train=train_classifier,
    ),
    _generative(REJECTION_SAMPLED, "RS-FT", "StepWiser §3.3", train=train_rejection_sampled),
    _generative(STEPWISER, "StepWiser", "StepWiser §3.3", train=train_as_the_recipe_says),
    _generative(
        FROM_RS,
        "StepWiser, GRPO from RS-FT",
        "ours",
        train=lambda trainer: train_stepwiser(trainer, FROM_RS, REJECTION_SAMPLED),
        wanted=lambda recipe: recipe.judge.from_rejection_sampled,
    ),
    _generative(
        TENTH,
        "StepWiser, a tenth of the labels",
        "ThinkPRM (data efficiency)",
        train=lambda trainer: train_as_the_recipe_says(with_fewer_labels(trainer, 0.1), TENTH),
        wanted=lambda recipe: recipe.judge.tenth,
    ),
    _generative(
        HUNDREDTH,
        "StepWiser, a hundredth of the labels",
        "ThinkPRM (data efficiency)",
        train=lambda trainer: train_as_the_recipe_says(with_fewer_labels(trainer, 0.01), HUNDREDTH),
        wanted=lambda recipe: recipe.judge.hundredth,
    ),
)


def entries(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` evaluates."""
    return [entry for entry in REGISTRY if entry.wanted(recipe)]


def trainings(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` trains, in order."""
    return [entry for entry in REGISTRY if entry.wanted(recipe) and entry.trained]
