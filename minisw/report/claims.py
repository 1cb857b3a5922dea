"""The claims of the papers: what each one says, where it is measured, and the one rule that decides it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minisw.records import Claim

HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "not settled", "not tested"
MARGIN = 0.05  # a loss of accuracy of five points would matter

Kind = Literal["superiority", "non-inferiority", "ratio-below"]


@dataclass(frozen=True)
class ClaimSpec:
    """One claim: what it says, what the paper found, and how it is decided."""

    id: str
    claim: str
    source: str
    paper: float | None  # the paper's difference or ratio
    baseline: str  # what the measured figure is compared with
    measured_in: str  # path in a run folder: STAGE/KEY/… within STAGE/metrics.json
    kind: Kind = "superiority"
    margin: float = 0.0  # non-inferiority: the largest loss that does not matter; ratio-below: the bar
    same_contrast: bool = True  # False: the paper compares something else, or gives no figure
    paper_by_rule: Mapping[str, float] | None = None  # the paper's figure, where it depends on the label rule


CLAIMS: tuple[ClaimSpec, ...] = (
    ClaimSpec(
        "segment-fewer-chunks",
        "self-segmented solutions have fewer chunks (ratio)",
        "StepWiser §3.1, Table 1: 9.6 → 6.0 at 1.5B",
        6.0 / 9.6,
        "the same solutions split at blank lines",
        "segment/ratio",
        kind="ratio-below",
        margin=1.0,
    ),
    ClaimSpec(
        "segment-keeps-accuracy",
        "learning to segment loses less than five points of accuracy",
        "StepWiser Table 4: 44.2 → 44.7 at 1.5B",
        0.005,
        "the base on the same problems",
        "segment/difference",
        kind="non-inferiority",
        margin=MARGIN,
    ),
    ClaimSpec(
        "judge-beats-classifier",
        "StepWiser's judge beats the classifier on the same labels (F1)",
        "StepWiser Table 5, 1.5B: 36.2 − 24.1 (Rel-Ratio), 36.1 − 27.2 (Abs-Q), 34.8 − 29.2 (Rel-Effective)",
        None,
        "the classifier, tuned on validation labels",
        "evaluate/differences/stepwiser-discriminative",
        paper_by_rule={"rel_ratio": 0.121, "abs_q": 0.089, "rel_effective": 0.056},
    ),
    ClaimSpec(
        "grpo-beats-untrained",
        "StepWiser's judge beats the untrained base (F1)",
        "StepWiser §3.3, without a figure",
        None,
        "the base, asked with the same request",
        "evaluate/differences/stepwiser-untrained",
        same_contrast=False,
    ),
    ClaimSpec(
        "grpo-beats-rejection-sampling",
        "StepWiser's judge beats RS-FT, one sampled judgment (F1)",
        "StepWiser Table 5, 1.5B, Rel-Ratio: 36.2 − 23.1",
        0.131,
        "RS-FT on the same labels and at least as many sampled tokens; mean over samples at temperature 1",
        "evaluate/differences_sampled/stepwiser-rejection_sampled",
    ),
    ClaimSpec(
        "grpo-beats-rejection-sampling-greedy",
        "StepWiser's judge beats RS-FT, greedy decoding (F1)",
        "StepWiser Table 5, 1.5B, Rel-Ratio: 36.2 − 23.1",
        0.131,
        "the same, both judges greedy",
        "evaluate/differences/stepwiser-rejection_sampled",
    ),
    ClaimSpec(
        "votes-help",
        "the majority of eight judgments of StepWiser's judge beats one (F1)",
        "StepWiser Table 5, 7B: 61.9 → 64.1 (Rel-Effective), 60.5 → 61.8 (Rel-Ratio), 53.8 → 55.8 (Abs-Q)",
        None,
        "one judgment sampled at temperature 1, mean of the same samples",
        "evaluate/gain_of_votes/stepwiser",
        paper_by_rule={"rel_effective": 0.022, "rel_ratio": 0.013, "abs_q": 0.020},
    ),
    ClaimSpec(
        "tenth-of-labels",
        "a tenth of the labels beats the classifier with all (F1)",
        "ThinkPRM at 14B: about +9 in binary F1 at 1% of the labels",
        0.09,
        "the classifier with all labels",
        "evaluate/differences/stepwiser_tenth-discriminative",
        same_contrast=False,
    ),
    ClaimSpec(
        "hundredth-of-labels",
        "a hundredth of the labels (at least 8) beats the classifier with all (F1)",
        "ThinkPRM at 14B: about +9 in binary F1 at 1% of the labels",
        0.09,
        "the classifier with all labels",
        "evaluate/differences/stepwiser_hundredth-discriminative",
        same_contrast=False,
    ),
    ClaimSpec(
        "search-beats-sampling",
        "chunk-reset with the judge beats plain sampling (accuracy)",
        "StepWiser Table 7, 1.5B: 31.2 → 36.9",
        0.057,
        "one plain sample",
        "search/difference",
    ),
    ClaimSpec(
        "search-beats-random-rejection",
        "chunk-reset with the judge beats random rejection (accuracy)",
        "asked for by reviewers of StepWiser",
        None,
        "random rejection at the judge's own rate",
        "search/random_difference",
        same_contrast=False,
    ),
)
SPECS = {spec.id: spec for spec in CLAIMS}


def decide(spec: ClaimSpec, measured: float | None, interval: Sequence[float] | None) -> str:
    """What a figure and its 95% interval [low, high] say about a claim: one of four outcomes.

    | kind            | holds         | does not hold  | otherwise   |
    |-----------------|---------------|----------------|-------------|
    | superiority     | low > 0       | high ≤ 0       | not settled |
    | non-inferiority | low > −margin | high ≤ −margin | not settled |
    | ratio-below     | high < margin | low ≥ margin   | not settled |

    So a proven loss (high < 0) is non-inferior only if the whole interval is within the margin. Without a figure the
    outcome is "not tested"; with a figure but no interval it is "not settled".
    """
    if measured is None:
        return UNTESTED
    if interval is None:
        return OPEN
    low, high = interval
    if spec.kind == "ratio-below":
        holds, fails = high < spec.margin, low >= spec.margin
    else:
        bar = -spec.margin if spec.kind == "non-inferiority" else 0.0
        holds, fails = low > bar, high <= bar
    return HOLDS if holds else FAILS if fails else OPEN


def make_claim(spec: ClaimSpec, measured: float | None, interval: Sequence[float] | None, rule: str = "") -> Claim:
    """A claim with its outcome. `rule` is the label rule of the run, on which some of the paper's figures depend."""
    return Claim(
        id=spec.id,
        claim=spec.claim,
        source=spec.source,
        paper=spec.paper_by_rule.get(rule) if spec.paper_by_rule else spec.paper,
        measured=measured,
        interval=tuple(interval) if interval is not None else None,
        baseline=spec.baseline,
        outcome=decide(spec, measured, interval),
        same_contrast=spec.same_contrast,
    )


def collect_claims(folder: Path) -> list[Claim]:
    """All claims, from the metrics in a run folder; those of stages that were not run are "not tested"."""
    run = read_json(folder / "run.json") or {}
    rule = run.get("recipe", {}).get("annotate", {}).get("rule", "")
    metrics = {stage: read_json(folder / stage / "metrics.json") or {} for stage in ("segment", "evaluate", "search")}
    return [make_claim(spec, *_figure(metrics, spec.measured_in), rule=rule) for spec in CLAIMS]


def _figure(metrics: dict, path: str) -> tuple[float | None, Sequence[float] | None]:
    """The figure at `path` and its interval: an entry {"measured", "interval"}, or a number beside KEY_interval."""
    *folders, key = path.split("/")
    for name in folders:
        metrics = metrics.get(name) or {}
    value = metrics.get(key)
    if isinstance(value, dict):
        return value.get("measured"), value.get("interval")
    return value, metrics.get(f"{key}_interval")


def read_json(path: Path) -> dict | list | None:
    """The value of a JSON file; None if there is no such file. Raises ValueError with its name if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it and run its stage again") from None
