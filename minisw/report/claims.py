"""TODO."""

from __future__ import annotations

import json
from collections.abc import Sequence

from minisw.records import Claim
from minisw.runs import Run

# id: (claim, source, figure of the paper as a difference or ratio, what it is measured against)
CLAIMS: dict[str, tuple[str, str, float | None, str]] = {
    "segment-fewer-chunks": (
        "self-segmented solutions have fewer chunks (ratio)",
        "StepWiser §3.1, Table 1: 9.6 → 6.0 at 1.5B",
        6.0 / 9.6,
        "the same solutions split at blank lines",
    ),
    "segment-keeps-accuracy": (
        "learning to segment leaves accuracy as it was (difference)",
        "StepWiser Table 4: 44.2 → 44.7 at 1.5B",
        0.005,
        "the base on the same problems",
    ),
    "judge-beats-classifier": (
        "the judge that reasons beats the classifier trained on the same labels (first-error F1)",
        "StepWiser Table 5, 1.5B: 36.2 − 24.1 (Rel-Ratio), 36.1 − 27.2 (Abs-Q), 34.8 − 29.2 (Rel-Effective)",
        None,
        "classifier, tuned on validation",
    ),
    "grpo-beats-untrained": (
        "GRPO makes the judge better than the untrained one (first-error F1)",
        "StepWiser §3.3",
        None,
        "the untrained base, asked with the judge's prompt (F1 0 where it writes no verdict, as the embedded base)",
    ),
    "grpo-beats-rejection-sampling": (
        "GRPO makes the judge better than SFT on its own analyses that agree with the labels, its start (first-error F1)",
        "StepWiser Table 5, 1.5B, Rel-Ratio: 36.2 − 23.1 (RS-FT)",
        0.131,
        "the judge before GRPO: RS-FT on the same labels",
    ),
    "tenth-of-labels": (
        "the judge with a tenth of the labels beats the classifier with all of them (F1)",
        "ThinkPRM, 14B, at 1% of the labels: about +9 (binary F1)",
        0.09,
        "classifier with all labels",
    ),
    "search-beats-sampling": (
        "chunk-reset with the judge beats plain sampling (accuracy)",
        "StepWiser Table 7, 1.5B: 31.2 → 36.9",
        0.057,
        "one plain sample",
    ),
    "search-beats-random-rejection": (
        "chunk-reset with the judge beats rejecting at random at the judge's rate (accuracy)",
        "asked for by reviewers of StepWiser",
        None,
        "random rejection at the judge's own rate",
    ),
}


MARGIN = 0.1  # a loss of accuracy that would matter: ten points


PAPER_BY_RULE = {"rel_ratio": 0.121, "abs_q": 0.089, "rel_effective": 0.056}  # judge − classifier at 1.5B, Table 5


def verdict(holds: bool | None, measured: float | None) -> str:
    """In words; where `holds` is None the claim was not tested, or what was measured does not settle it."""
    if holds is None:
        return "not tested" if measured is None else "not settled"
    return "holds" if holds else "does not hold"


def make_claim(name: str, measured: float | None, interval: Sequence[float] | None, rule: str = "") -> Claim:
    claim, source, paper, baseline = CLAIMS[name]
    if name == "judge-beats-classifier":
        paper = PAPER_BY_RULE.get(rule)
    return Claim(name, claim, source, paper, measured, tuple(interval) if interval else None, baseline, holds(name, interval))


def holds(name: str, interval: Sequence[float] | None) -> bool | None:
    """Whether the whole interval says so: a ratio below 1, a difference above 0. "Keeps" means that no loss of `MARGIN` is in the
    interval; it fails where the whole interval is a loss, and is None, not settled, in between."""
    if interval is None:
        return None
    if name == "segment-fewer-chunks":
        return interval[1] < 1
    if name == "segment-keeps-accuracy":
        return True if interval[0] > -MARGIN else (None if interval[1] >= 0 else False)
    return interval[0] > 0


def collect_claims(run: Run) -> list[Claim]:
    """The claims of one run, from its stages' metrics; what was not run is not tested (None)."""

    def read(stage: str) -> dict:
        path = run.folder / stage / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    segment, evaluate, search = read("segment"), read("evaluate"), read("search")
    found: dict[str, tuple[float | None, Sequence[float] | None]] = {
        "segment-fewer-chunks": (segment.get("ratio"), segment.get("ratio_interval")),
        "segment-keeps-accuracy": (segment.get("difference"), segment.get("difference_interval")),
    }
    for name, key in (
        ("judge-beats-classifier", "stepwiser-discriminative"),
        ("grpo-beats-untrained", "stepwiser-untrained"),
        ("grpo-beats-rejection-sampling", "stepwiser-rejection_sampled"),
        ("tenth-of-labels", "stepwiser_tenth-discriminative"),
    ):
        entry = evaluate.get("differences", {}).get(key, {})
        found[name] = (entry.get("measured"), entry.get("interval"))
    for name, key in (("search-beats-sampling", "difference"), ("search-beats-random-rejection", "random_difference")):
        entry = search.get(key, {})
        found[name] = (entry.get("measured"), entry.get("interval"))
    return [make_claim(name, *found[name], rule=run.recipe.annotate.rule) for name in CLAIMS]
