"""Each claim of the papers against what was measured.

python -m minisw.claims data/results/tiny/seed-*      one table over several runs: mean over seeds and its 95% interval
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from minisw import stats
from minisw.records import Claim, write_json
from minisw.runs import Run

# 97.5% quantiles of Student's t for 1…9 degrees of freedom, for the mean over seeds
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

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
    "grpo-beats-its-start": (
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
        ("judge-beats-classifier", "judge-classifier"),
        ("grpo-beats-untrained", "judge-untrained"),
        ("grpo-beats-its-start", "judge-start"),
        ("tenth-of-labels", "tenth-classifier"),
    ):
        entry = evaluate.get("differences", {}).get(key, {})
        found[name] = (entry.get("measured"), entry.get("interval"))
    for name, key in (("search-beats-sampling", "difference"), ("search-beats-random-rejection", "random_difference")):
        entry = search.get(key, {})
        found[name] = (entry.get("measured"), entry.get("interval"))
    return [make_claim(name, *found[name], rule=run.recipe.annotate.rule) for name in CLAIMS]


def run_stage(run: Run) -> None:
    """Writes claims.json and report.html."""
    import dataclasses

    from minisw.report import write_report

    write_json(run.folder / "claims.json", [dataclasses.asdict(claim) for claim in collect_claims(run)])
    write_report(run.folder)


def over_seeds(folders: Sequence[Path]) -> list[dict]:
    """Each claim's mean over runs, with Student's t interval of that mean (`interval`: other seeds) and the interval from the
    runs' own bootstraps (`items_interval`: other test items). Raises ValueError where a folder has no claims."""
    runs = []
    for folder in folders:
        try:
            runs.append({c["id"]: c for c in json.loads((folder / "claims.json").read_text(encoding="utf-8"))})
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} has no readable claims.json ({error})") from None
    if any(r.keys() != runs[0].keys() for r in runs):
        raise ValueError("the runs have different claims: they were made by different versions of minisw")
    rows = []
    for name, first in runs[0].items():
        tested = [r[name] for r in runs if r[name]["measured"] is not None]
        values = [claim["measured"] for claim in tested]
        interval = items = None
        if tested:  # the runs' own intervals put together: what other test items would change, the trained models being these
            half = math.sqrt(sum(((c["interval"][1] - c["interval"][0]) / 2) ** 2 for c in tested)) / len(tested)
            items = (stats.mean(values) - half, stats.mean(values) + half)
        if len(values) > 1:
            middle = stats.mean(values)
            spread = math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
            half = T_QUANTILES[min(len(values) - 2, 8)] * spread
            interval = (middle - half, middle + half)
        rows.append(
            {
                **first,
                "measured": stats.mean(values) if values else None,
                "interval": interval,
                "items_interval": items,
                "each": values,
                "each_holds": [claim["holds"] for claim in tested],
                "holds": holds(name, interval),
            }
        )
    return rows


_INTERVALS = {"f1": "interval", "f1_by_answer": "interval_by_answer", "accuracy": "interval"}


def row_tables(folders: Sequence[Path]) -> list[str]:
    """Markdown tables of the stages' rows: figures the mean over the runs and each run's own, or one run's with its interval."""

    def each(stage: str) -> list[dict]:
        paths = [folder / stage / "metrics.json" for folder in folders]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def figure(values: Sequence[float], digits: int = 2) -> str:
        own = " ".join(f"{v:.{digits}f}" for v in values)
        return f"{stats.mean(values):.{digits}f} ({own})" if len(values) > 1 else own

    def rows(metrics: Sequence[dict], name: str, columns: Sequence[str]) -> list[list[str]]:
        by_name = [{row[name]: row for row in m["rows"]} for m in metrics]
        if any(found.keys() != by_name[0].keys() for found in by_name):
            raise ValueError("the runs have different rows: put runs of one recipe together")

        def cell(key: str, column: str) -> str:
            text = figure([found[key][column] for found in by_name], 0 if "tokens" in column or "labels" in column else 2)
            interval = by_name[0][key].get(_INTERVALS.get(column))
            return f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]" if len(by_name) == 1 and interval else text

        return [[key, *(cell(key, column) for column in columns)] for key in by_name[0]]

    tables = []
    if found := each("annotate"):
        columns = ("balanced_agreement", "exact_positive_called_positive", "exact_negative_called_negative")
        agreement = [
            [first["rule"], str(first["m"]), *(figure([m["agreement"][i][c] for m in found]) for c in columns)]
            for i, first in enumerate(found[0]["agreement"])
        ]
        if agreement:
            head = ("label rule", "M", "balanced agreement with exact labels", "right called positive", "wrong called negative")
            tables.append(markdown(head, agreement))
    if found := each("evaluate"):
        columns = (
            "labels_used",
            "f1",
            "f1_by_answer",
            "accuracy_error",
            "accuracy_correct",
            "balanced_accuracy",
            "unparseable",
            "tokens_per_step",
        )
        head = (
            "judge",
            "labels",
            "F1",
            "F1 by answer",
            "error found",
            "right passed",
            "balanced, a step",
            "unreadable",
            "tokens a step",
        )
        tables.append(markdown(head, rows(found, "name", columns)))
        for part in found[0]["rows"][0].get("by_part", {}):
            split = [{"rows": [{"name": row["name"], **row["by_part"][part]} for row in m["rows"]]} for m in found]
            tables.append(markdown((part, *head[2:]), rows(split, "name", columns[1:])))
    if found := each("search"):
        head = ("search", "accuracy", "policy tokens", "judge tokens")
        tables.append(markdown(head, rows(found, "method", ("accuracy", "policy_tokens", "judge_tokens"))))
    return tables


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def main() -> None:
    import sys

    folders = [Path(argument) for argument in sys.argv[1:]]
    try:
        if not folders:
            raise ValueError("name the run folders: python -m minisw.claims data/results/tiny/seed-*")
        tables = row_tables(folders)
        # a run that was stopped after some stage has rows to show and no claims yet
        begun = tables and not any((folder / "claims.json").exists() for folder in folders)
        rows = [] if begun else over_seeds(folders)
    except ValueError as error:
        print(f"minisw: {error}", file=sys.stderr)
        raise SystemExit(2) from None

    def shown(value: float | Sequence[float] | None) -> str:
        if value is None:
            return "–"
        return f"{value:+.3f}" if isinstance(value, float) else f"{value[0]:+.3f} … {value[1]:+.3f}"

    head = ("claim", "paper", "mean", "95%, other test items", "95%, other seeds", "each run", "each run says", "over seeds")
    table = [
        [
            f"`{row['id']}`",
            shown(row["paper"]),
            shown(row["measured"]),
            shown(row["items_interval"]),
            shown(row["interval"]),
            " ".join(f"{v:+.3f}" for v in row["each"]),
            f"{sum(h is True for h in row['each_holds'])} of {len(row['each_holds'])} hold",
            verdict(row["holds"], row["measured"]),
        ]
        for row in rows
    ]
    print("\n".join([markdown(head, table), *tables] if rows else tables))


if __name__ == "__main__":
    main()
