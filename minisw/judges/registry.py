"""All judges, one entry each: what it is, how it is trained, and how it is built.

A new judge is one file and one entry here. The stages judges, evaluate and search and the report read this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minisw.judges.base import AlwaysPositive, Judge, JudgeContext, JudgeTrainer
from minisw.judges.discriminative import DISCRIMINATIVE, train_classifier
from minisw.judges.genprm import GENPRM, Parts, judge_of, train_genprm
from minisw.judges.kinds import GENERATIVE, Settings, build
from minisw.judges.prompted import FEW_SHOT, FewShotJudge, choose_examples, untrained_judge
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.judges.scalar_head import SCALAR_HEAD, train_scalar_head
from minisw.judges.self_supervised import SELF_SUPERVISED, train_self_supervised
from minisw.judges.stepwiser import (
    FROM_RS,
    HUNDREDTH,
    STEPWISER,
    TENTH,
    train_as_the_recipe_says,
    train_stepwiser,
    with_fewer_labels,
)
from minisw.judges.thinkprm import THINKPRM, train_thinkprm
from minisw.recipe import Recipe

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Entry:
    """One judge.

    `id` names its row in tables, its metrics and, if it has one, its adapter. `train(trainer)` makes what the judge needs and
    returns its metrics (judges/metrics.json); entries are trained in the order of the registry, so one may start from the
    adapter of an earlier one. `build(context, metrics)` makes the judge, with adapter `id` loaded if it has one.
    """

    id: str
    title: str
    source: str
    build: Callable[[JudgeContext, dict], Judge]
    train: Callable[[JudgeTrainer], dict] | None = None
    has_adapter: bool = True  # False: its training changes no weights
    kind: str = GENERATIVE  # of judges/kinds.py: how a saved adapter is served
    analysis: bool = True  # False: the verdict comes at once, whatever the recipe says

    @property
    def trained(self) -> bool:
        return self.train is not None

    def wanted(self, recipe: Recipe) -> bool:
        """Whether a run of `recipe` has this judge: judges without training always, the others if `judge.judges` names them."""
        return not self.trained or self.id in recipe.judge.judges


def _trained(adapter: str, title: str, source: str, train: Callable, kind: str = GENERATIVE) -> Entry:
    """An entry with a trained adapter, whose judge is of this kind."""

    def judge(context: JudgeContext, metrics: dict) -> Judge:
        settings = Settings(title, metrics.get("threshold"), metrics.get("prompt", "classify"))
        return build(kind, context, adapter, settings)

    return Entry(adapter, title, source, judge, train, kind=kind)


def _genprm_with(parts: Parts) -> Entry:
    """An entry of GenPRM's ablation: its judge with only these parts of a reply before the verdict."""
    adapter, title = f"{GENPRM}_{parts}", f"GenPRM, {parts}"
    return Entry(
        adapter,
        title,
        "GenPRM, ablation",
        build=lambda context, metrics: judge_of(context, adapter, title, parts),
        train=lambda trainer: train_genprm(trainer, adapter, parts),
        kind=GENPRM if parts == "code" else GENERATIVE,
        analysis=parts != "neither",
    )


REGISTRY: tuple[Entry, ...] = (
    Entry("always_positive", AlwaysPositive.name, "baseline", build=lambda context, metrics: AlwaysPositive()),
    Entry(UNTRAINED, "untrained judge", "StepWiser §3.3", build=lambda context, metrics: untrained_judge(context)),
    _trained(DISCRIMINATIVE, "discriminative", "StepWiser §3.3, Math-Shepherd", train_classifier, DISCRIMINATIVE),
    _trained(SCALAR_HEAD, "scalar head", "Math-Shepherd", train_scalar_head, SCALAR_HEAD),
    _trained(SELF_SUPERVISED, "self-supervised", "MetaStone-S1", train_self_supervised, SELF_SUPERVISED),
    Entry(
        FEW_SHOT,
        "few-shot",
        "baseline",
        build=lambda context, metrics: FewShotJudge(context, metrics["examples"]),
        train=choose_examples,
        has_adapter=False,
    ),
    _trained(REJECTION_SAMPLED, "RS-FT", "StepWiser §3.3", train=train_rejection_sampled),
    _trained(GENPRM, "GenPRM", "GenPRM", train_genprm, GENPRM),
    *(_genprm_with(parts) for parts in ("analysis", "code", "neither")),
    _trained(THINKPRM, "ThinkPRM", "ThinkPRM", train_thinkprm, THINKPRM),
    _trained(STEPWISER, "StepWiser", "StepWiser §3.3", train=train_as_the_recipe_says),
    _trained(
        FROM_RS,
        "StepWiser, GRPO from RS-FT",
        "ours",
        train=lambda trainer: train_stepwiser(trainer, FROM_RS, REJECTION_SAMPLED),
    ),
    _trained(
        TENTH,
        "StepWiser, a tenth of the labels",
        "ThinkPRM (data efficiency)",
        train=lambda trainer: train_as_the_recipe_says(with_fewer_labels(trainer, 0.1), TENTH),
    ),
    _trained(
        HUNDREDTH,
        "StepWiser, a hundredth of the labels",
        "ThinkPRM (data efficiency)",
        train=lambda trainer: train_as_the_recipe_says(with_fewer_labels(trainer, 0.01), HUNDREDTH),
    ),
)


def by_id(name: str) -> Entry:
    """The entry of one judge."""
    return next(entry for entry in REGISTRY if entry.id == name)


def entries(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` evaluates."""
    return [entry for entry in REGISTRY if entry.wanted(recipe)]


def trainings(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` trains, in order."""
    return [entry for entry in REGISTRY if entry.wanted(recipe) and entry.trained]
