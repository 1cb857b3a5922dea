"""All judges, one entry each: what it is, how it is trained, and how it is built.

A new judge is one file and one entry here. The stages judges, evaluate and search and the report read this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minisw.judges.base import AlwaysPositive, Judge, JudgeContext, JudgeTrainer
from minisw.judges.discriminative import DISCRIMINATIVE, DiscriminativeJudge, train_classifier
from minisw.judges.generative import GenerativeJudge
from minisw.judges.prompted import ElicitedJudge, untrained_judge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.judges.stepwiser import STEPWISER, TENTH, TENTH_START, train_stepwiser, with_a_tenth
from minisw.recipe import Recipe

UNTRAINED, ELICITED = "untrained", "elicited"


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
    evaluated: bool = True  # False: trained only because another judge starts from it

    @property
    def trained(self) -> bool:
        return self.train is not None


def _generative(adapter: str, title: str) -> Callable[[JudgeContext, dict], Judge]:
    return lambda context, metrics: GenerativeJudge(context, adapter, title)


def _with_tenth(recipe: Recipe) -> bool:
    return recipe.judge.tenth


REGISTRY: tuple[Entry, ...] = (
    Entry("always_positive", AlwaysPositive.name, "baseline", build=lambda context, metrics: AlwaysPositive()),
    Entry(UNTRAINED, "untrained judge", "StepWiser §3.3", build=lambda context, metrics: untrained_judge(context)),
    Entry(
        ELICITED,
        ElicitedJudge.name,
        "embedded model only",
        build=lambda context, metrics: ElicitedJudge(context),
        wanted=lambda recipe: recipe.problems.prompts == "arithmetic",
    ),
    Entry(
        DISCRIMINATIVE,
        DiscriminativeJudge.name,
        "StepWiser §3.3, Math-Shepherd",
        build=lambda context, metrics: DiscriminativeJudge(context, DISCRIMINATIVE, metrics["threshold"]),
        train=train_classifier,
    ),
    Entry(
        REJECTION_SAMPLED,
        "RS-FT",
        "StepWiser §3.3",
        build=_generative(REJECTION_SAMPLED, "RS-FT"),
        train=train_rejection_sampled,
    ),
    Entry(STEPWISER, "StepWiser", "StepWiser §3.3", build=_generative(STEPWISER, "StepWiser"), train=train_stepwiser),
    Entry(
        TENTH_START,
        "RS-FT, a tenth of the labels",
        "StepWiser §3.3",
        build=_generative(TENTH_START, "RS-FT, a tenth of the labels"),
        train=lambda trainer: train_rejection_sampled(with_a_tenth(trainer), TENTH_START),
        wanted=_with_tenth,
        evaluated=False,
    ),
    Entry(
        TENTH,
        "StepWiser, a tenth of the labels",
        "ThinkPRM (data efficiency)",
        build=_generative(TENTH, "StepWiser, a tenth of the labels"),
        train=lambda trainer: train_stepwiser(with_a_tenth(trainer), TENTH, TENTH_START),
        wanted=_with_tenth,
    ),
)


def entries(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` evaluates."""
    return [entry for entry in REGISTRY if entry.wanted(recipe) and entry.evaluated]


def trainings(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` trains, in order."""
    return [entry for entry in REGISTRY if entry.wanted(recipe) and entry.trained]
