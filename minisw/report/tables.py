"""Each claim of the papers against what was measured.

python -m minisw.claims data/results/tiny/seed-*      one table over several runs: mean over seeds and its 95% interval
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from minisw.evaluate import stats
from minisw.report.claims import holds, verdict

# 97.5% quantiles of Student's t for 1…9 degrees of freedom, for the mean over seeds
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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
