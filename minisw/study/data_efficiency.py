"""Data efficiency (ThinkPRM §4, StepWiser §4.2): F1 of every judge against the number of its labels, and against its compute.

The labels of an arm are the first of one balanced pool, so a smaller budget is part of every larger one. The pool has exact
labels, which cost no rollouts; one arm has Monte-Carlo labels of the same kind of solutions, as many as a tenth of the pool,
for the claim that such labels suffice.

    classifiers                settings are chosen on validation labels in each arm: three learning rates, two with the whole
                               pool; with few labels more epochs, so that no training is shorter than 100 steps
    RS-FT, GenPRM, ThinkPRM    about 9,600 sampled replies in all, but at least two a label; of these up to 2,400 are taught
    StepWiser                  24 GRPO steps, or as many as it takes to see every label once; not with the whole pool, which would
                               take 500
"""

from __future__ import annotations

import math

from minisw.judges.discriminative import DISCRIMINATIVE
from minisw.judges.genprm import GENPRM
from minisw.judges.prompted import FEW_SHOT
from minisw.judges.registry import UNTRAINED
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.scalar_head import SCALAR_HEAD
from minisw.judges.self_supervised import SELF_SUPERVISED
from minisw.judges.stepwiser import STEPWISER
from minisw.judges.thinkprm import THINKPRM
from minisw.recipe import Recipe
from minisw.study.base import Arm, Change, Contrast, Study, several, with_knobs

POOL = 8000
BUDGETS = tuple(round(share * POOL) for share in (0.003, 0.01, 0.03, 0.1, 0.3, 1))
MOST_MC = POOL // 10
EXACT, MC = "exact", "mc"
REPLIES = 9600  # sampled for SFT, in all
TAUGHT = 2400  # of these, the most that SFT is given
STEPS, PATIENCE = 100, 30  # of a classifier: its shortest training, and how long it may go without a better AUC


def budget(labels: int) -> Change:
    """At most `labels` labels."""

    def change(recipe: Recipe) -> Recipe:
        judge, classifier = recipe.judge, recipe.classifier
        rates = (5e-4, 1e-3) if labels == POOL else (5e-4, 1e-3, 2e-3)
        epochs = {name: math.ceil(steps * classifier.batch / labels) for name, steps in (("all", STEPS), ("patience", PATIENCE))}
        return several(
            with_knobs(
                "judge",
                labels=labels,
                rs_samples=max(2, REPLIES // labels),
                rs_keep=max(1, TAUGHT // labels),
                steps=max(judge.steps, math.ceil(labels / judge.prompts)),
            ),
            with_knobs(
                "classifier",
                prompts=("judge",),
                lrs=rates,
                max_lrs=len(rates),
                max_epochs=max(2 if labels == POOL else classifier.max_epochs, epochs["all"]),
                patience=max(classifier.patience, epochs["patience"]),
            ),
        )(recipe)

    return change


def judges_of(labels: int) -> tuple[str, ...]:
    """The judges that learn from so many labels. To save time, expensive judges are trained in every
    second arm only, and with the whole pool only two judges are."""
    if labels == POOL:
        return DISCRIMINATIVE, REJECTION_SAMPLED
    if BUDGETS.index(labels) % 2:
        return STEPWISER, DISCRIMINATIVE
    return STEPWISER, DISCRIMINATIVE, REJECTION_SAMPLED, GENPRM, THINKPRM, SCALAR_HEAD


def solutions_for(labels: int) -> Change:
    """Enough annotated solutions for a balanced pool of `labels` labels: a wrong solution has one negative, and about half of the
    four solutions of a problem are wrong."""
    wrong = labels // 2
    return with_knobs("annotate", problems=round(0.8 * wrong), keep=4, max_solutions=round(wrong / 0.7))


DATA_EFFICIENCY = Study(
    "data-efficiency",
    "F1 against labels and against compute",
    (
        Arm("0", "no labels", labels=EXACT, judges=(UNTRAINED, FEW_SHOT, SELF_SUPERVISED)),
        *(Arm(str(count), f"{count} labels", budget(count), labels=EXACT, judges=judges_of(count)) for count in BUDGETS),
        Arm(f"mc{MOST_MC}", f"{MOST_MC} Monte-Carlo labels", budget(MOST_MC), labels=MC, judges=(STEPWISER, DISCRIMINATIVE)),
    ),
    (
        Contrast(
            "one-percent-of-labels",
            "the reasoning judge with 1% of the labels beats the classifier with all",
            f"{BUDGETS[1]}/{STEPWISER}",
            f"{BUDGETS[-1]}/{DISCRIMINATIVE}",
            "ThinkPRM, 14B, read off a chart: 86 − 76.5 in binary F1",
            0.09,
        ),
        Contrast(
            "mc-labels-suffice-stepwiser",
            "StepWiser: exact labels beat Monte-Carlo labels",
            f"{MOST_MC}/{STEPWISER}",
            f"mc{MOST_MC}/{STEPWISER}",
            "ThinkPRM, 1.5B: 76.3 − 75.8 for its judge",
            0.005,
        ),
        Contrast(
            "mc-labels-suffice-classifier",
            "the classifier: exact labels beat Monte-Carlo labels",
            f"{MOST_MC}/{DISCRIMINATIVE}",
            f"mc{MOST_MC}/{DISCRIMINATIVE}",
            "ThinkPRM, 1.5B: 75.7 − 76.5 for its classifier",
            -0.008,
        ),
    ),
    labels={
        EXACT: several(solutions_for(POOL), with_knobs("annotate", source="exact")),
        MC: solutions_for(MOST_MC),
    },
)
