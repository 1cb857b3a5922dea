"""Every judge, one entry each: how it is trained, how it is built from what training left, and where it comes from.

A stage walks through `REGISTRY`; a new judge is one file and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minisw.judges import discriminative, prompted, stepwiser
from minisw.judges.base import AlwaysPositive, Judge, JudgeContext, JudgeTrainer
from minisw.judges.discriminative import DISCRIMINATIVE, DiscriminativeJudge
from minisw.judges.generative import GenerativeJudge
from minisw.judges.stepwiser import REJECTION_SAMPLED, STEPWISER, TENTH
from minisw.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """One judge. `id` names its row, its adapter (if `trained`) and its metrics; `build(context, metrics)` makes it."""

    id: str
    source: str
    build: Callable[[JudgeContext, dict], Judge]
    trained: bool = True
    wanted: Callable[[Recipe], bool] = lambda recipe: True


def _generative(adapter: str, name: str) -> Callable[[JudgeContext, dict], Judge]:
    return lambda context, metrics: GenerativeJudge(context, adapter, name)


REGISTRY: tuple[Entry, ...] = (
    Entry("always_positive", "a baseline", lambda context, metrics: AlwaysPositive(), trained=False),
    Entry("untrained", "StepWiser §3.3", lambda context, metrics: prompted.untrained_judge(context), trained=False),
    Entry(
        DISCRIMINATIVE,
        "StepWiser §3.3, Math-Shepherd",
        lambda context, metrics: DiscriminativeJudge(context, DISCRIMINATIVE, metrics["threshold"]),
    ),
    Entry(REJECTION_SAMPLED, "StepWiser §3.3 (RS-FT)", _generative(REJECTION_SAMPLED, "RS-FT")),
    Entry(STEPWISER, "StepWiser §3.3", _generative(STEPWISER, "StepWiser")),
    Entry(
        "elicited",
        "embedded model only",
        lambda context, metrics: prompted.ElicitedJudge(context),
        trained=False,
        wanted=lambda recipe: recipe.problems.prompts == "arithmetic",
    ),
    Entry(
        TENTH,
        "ThinkPRM's data efficiency",
        _generative(TENTH, "StepWiser, a tenth of the labels"),
        wanted=lambda recipe: recipe.judge.tenth,
    ),
)

# Trainings in order; each returns the metrics of the adapters that it made, by name.
TRAININGS: tuple[tuple[Callable[[JudgeTrainer], dict[str, dict]], Callable[[Recipe], bool]], ...] = (
    (discriminative.train_classifier, lambda recipe: True),
    (stepwiser.train_with_all_labels, lambda recipe: True),
    (stepwiser.train_with_a_tenth, lambda recipe: recipe.judge.tenth),
)


def entries(recipe: Recipe) -> list[Entry]:
    """The judges that a run of `recipe` has."""
    return [entry for entry in REGISTRY if entry.wanted(recipe)]
