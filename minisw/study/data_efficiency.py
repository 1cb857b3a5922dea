"""Data efficiency (ThinkPRM §4, StepWiser §4.2): F1 of every judge against the number of its labels, and against its compute.

The labels of an arm are the first of one balanced pool, so a smaller budget is part of every larger one. The pool has exact
labels, which cost no rollouts; arms whose name begins with "mc" have Monte-Carlo labels of the same kind of solutions, up to a
tenth of the pool, for the claim that such labels suffice; only StepWiser and the classifier are trained on them.

    classifiers                settings are chosen on validation labels in each arm: three learning rates up to a tenth of the
                               pool, and one (1e-3) above it, because a sweep would take hours; epochs are always chosen
    RS-FT, GenPRM, ThinkPRM    the same number of sampled replies in all, but at least two a label
    StepWiser                  the same number of GRPO steps, whatever the number of labels
"""

from __future__ import annotations

from minisw.judges.discriminative import DISCRIMINATIVE
from minisw.judges.genprm import GENPRM
from minisw.judges.prompted import FEW_SHOT
from minisw.judges.registry import UNTRAINED
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.scalar_head import SCALAR_HEAD
from minisw.judges.self_supervised import SELF_SUPERVISED
from minisw.judges.stepwiser import STEPWISER
from minisw.judges.thinkprm import THINKPRM
from minisw.study.base import Arm, Change, Contrast, Study, several, with_knobs

POOL = 8000
BUDGETS = tuple(round(share * POOL) for share in (0.003, 0.01, 0.03, 0.1, 0.3, 1))
MOST_MC = POOL // 10
EXACT, MC = "exact", "mc"
REPLIES = 8000  # that RS-FT samples in all


def budget(labels: int) -> Change:
    """At most `labels` labels."""
    samples = max(2, REPLIES // labels)
    rates = (5e-4, 1e-3, 2e-3) if labels <= MOST_MC else (1e-3,)
    return several(
        with_knobs("judge", labels=labels, rs_samples=samples, rs_keep=3 if labels <= MOST_MC else 1),
        with_knobs("classifier", prompts=("judge",), lrs=rates, max_lrs=len(rates)),
    )


def solutions_for(labels: int) -> Change:
    """Enough annotated solutions for a balanced pool of `labels` labels: every wrong solution has one negative."""
    wrong = labels // 2
    return with_knobs("annotate", problems=wrong, keep=2, max_solutions=round(wrong / 0.7))


DATA_EFFICIENCY = Study(
    "data-efficiency",
    "F1 against labels and against compute",
    (
        Arm("0", "no labels", labels=EXACT, judges=(UNTRAINED, FEW_SHOT, SELF_SUPERVISED)),
        *(Arm(str(count), f"{count} labels", budget(count), labels=EXACT) for count in BUDGETS),
        *(
            Arm(f"mc{count}", f"{count} Monte-Carlo labels", budget(count), labels=MC, judges=(STEPWISER, DISCRIMINATIVE))
            for count in BUDGETS
            if count <= MOST_MC
        ),
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
    judges=(STEPWISER, DISCRIMINATIVE, REJECTION_SAMPLED, GENPRM, THINKPRM, SCALAR_HEAD),
    labels={
        EXACT: several(solutions_for(POOL), with_knobs("annotate", source="exact")),
        MC: solutions_for(MOST_MC),
    },
)
