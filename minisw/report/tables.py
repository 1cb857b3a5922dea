"""Markdown tables of one run, or of several runs of one recipe with different seeds; and tables inside documents.

A document marks a table with its name and run folders; `update` writes what stands between the marks:

    <!-- table: claims data/results/tiny/seed-* -->
    <!-- end -->
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from minisw.evaluate.stats import mean, t_interval
from minisw.records import Claim, write_text
from minisw.report import columns
from minisw.report.claims import SPECS, ClaimSpec, collect_claims, decide, make_claim, read_json
from minisw.report.columns import claim_cells, pick
from minisw.report.markdown import aligned, markdown, render
from minisw.report.study_tables import STUDY_TABLES, is_claim, read_study


def _metrics(folders: Sequence[Path], stage: str) -> list[dict]:
    """The metrics of a stage in the folders that have them."""
    found = [read_json(folder / stage / "metrics.json") for folder in folders]
    return [metrics for metrics in found if metrics]


# --- claims --------------------------------------------------------------------------------------------------------------


def pool(folders: Sequence[Path]) -> list[dict]:
    """Each claim over runs with different seeds, decided on Student's t interval of the mean: the unit is the run.

    A row has the fields of `Claim`, where `measured` is the mean and `interval` that t interval, and `each` (the figure
    of each run) and `items_interval` (the runs' own intervals combined: other test items, the same trained models).
    For a single run, `interval` is its own.
    """
    runs = [collect_claims(folder) for folder in folders]
    return [_pooled([claims[i] for claims in runs]) for i in range(len(runs[0]))]


def _pooled(claims: Sequence[Claim]) -> dict:
    tested = [claim for claim in claims if claim.measured is not None]
    values = [claim.measured for claim in tested]
    if len(claims) == 1:
        return {**dataclasses.asdict(claims[0]), "each": values, "items_interval": claims[0].interval}
    measured, interval, items = (mean(values) if values else None), t_interval(values), None
    if tested and all(claim.interval for claim in tested):
        halves = [(claim.interval[1] - claim.interval[0]) / 2 for claim in tested]
        half = math.sqrt(sum(h * h for h in halves)) / len(halves)
        items = (measured - half, measured + half)
    outcome = decide(SPECS[claims[0].id], measured, interval)
    pooled = {"measured": measured, "interval": interval, "outcome": outcome, "each": values, "items_interval": items}
    return {**dataclasses.asdict(claims[0]), **pooled}


def claims_table(folders: Sequence[Path]) -> str:
    """Every claim, by its id."""
    several = ("mean", "over_seeds", "over_items", "each")
    return _claims(folders, "id", "paper", *(several if len(folders) > 1 else ("measured",)), "outcome")


def study_claims(folder: Path) -> list[dict]:
    """The contrasts of a study, without those of sampled figures, as rows like those of `pool`: the unit is the seed."""
    rows = []
    for contrast in read_study([folder])["contrasts"]:
        if is_claim(contrast):
            spec = ClaimSpec(contrast["id"], contrast["claim"], contrast["source"], contrast["paper"], contrast["b"], "")
            claim = make_claim(spec, contrast["measured"], contrast["interval"])
            rows.append({**dataclasses.asdict(claim), "each": contrast["each"], "items_interval": None})
    return rows


def summary_table(folders: Sequence[Path]) -> str:
    """Every claim in words, for a reader in a hurry."""
    return _claims(folders, "claim", "paper", *(("mean", "over_seeds") if len(folders) > 1 else ("measured",)), "outcome")


def _claims(folders: Sequence[Path], *keys: str) -> str:
    """Folders of runs make the rows of `CLAIMS`; each folder of a study adds the claims that it tests."""
    studies = [folder for folder in folders if (folder / "results.json").exists()]
    runs = [folder for folder in folders if folder not in studies]
    shown = pick(columns.CLAIM, *keys)
    rows = [claim_cells(row) for row in [*(pool(runs) if runs else []), *(row for f in studies for row in study_claims(f))]]
    return markdown([column.title for column in shown], [[row[column.key] for column in shown] for row in rows])


# --- stages --------------------------------------------------------------------------------------------------------------


def segment_table(folders: Sequence[Path]) -> str:
    """Base and segmented policy on the test problems."""
    runs = [
        [{"name": name, **metrics[name]} for name in ("base", "policy") if name in metrics]
        for metrics in _metrics(folders, "segment")
    ]
    return render(columns.SEGMENT, aligned(runs, "name")) if runs else ""


def agreement_table(folders: Sequence[Path]) -> str:
    """How often Monte-Carlo labels agree with exact ones, by rule and M; "" if the task has no exact labels."""
    runs = [metrics["agreement"] for metrics in _metrics(folders, "annotate") if metrics.get("agreement")]
    return render(columns.AGREEMENT, aligned(runs, "rule", "m")) if runs else ""


def judges_table(folders: Sequence[Path]) -> str:
    """Every judge; then the same for each part, if there are several."""
    runs = [metrics["rows"] for metrics in _metrics(folders, "evaluate") if metrics.get("rows")]
    if not runs:
        return ""
    rows = aligned(runs, "id")
    parts = list(rows[0][0].get("by_part") or {})
    wanted = columns.JUDGE if parts else [column for column in columns.JUDGE if column.key != "f1_pooled"]
    tables = [render(wanted, rows)]
    for part in parts:
        shown = [dataclasses.replace(columns.PART[0], title=f"judge, {part} only"), *columns.PART[1:]]
        tables.append(render(shown, [[{"name": run["name"], **run["by_part"][part]} for run in row] for row in rows]))
    return "\n".join(tables)


def pass_table(folders: Sequence[Path]) -> str:
    """pass@k of the untrained judge and of StepWiser's."""
    found = [metrics for metrics in _metrics(folders, "evaluate") if metrics.get("pass")]
    runs = []
    for metrics in found:
        names = {row["id"]: row["name"] for row in metrics["rows"]}
        runs.append([{"name": names.get(judge, judge), **row} for judge, rows in metrics["pass"].items() for row in rows])
    return render(columns.PASS, aligned(runs, "name", "k")) if runs else ""


def search_table(folders: Sequence[Path]) -> str:
    """Every search method; then the same on the harder problems, if the run has them."""
    found = [metrics for metrics in _metrics(folders, "search") if metrics.get("rows")]
    if not found:
        return ""
    tables = [render(columns.SEARCH, aligned([metrics["rows"] for metrics in found], "method"))]
    if all(metrics.get("hard") for metrics in found):
        shown = [dataclasses.replace(columns.SEARCH[0], title="method, harder problems"), *columns.SEARCH[1:]]
        tables.append(render(shown, aligned([metrics["hard"]["rows"] for metrics in found], "method")))
    return "\n".join(tables)


def replies_table(folders: Sequence[Path]) -> str:
    """The steps of the first run's showcase up to the first error, with the judge's whole replies before and after GRPO."""
    rows = []
    for solution in read_json(folders[0] / "evaluate" / "showcase.json") or []:
        wrong = next((i for i, chunk in enumerate(solution["chunks"]) if chunk["label"] is False), len(solution["chunks"]))
        for chunk in solution["chunks"][: wrong + 1]:
            texts = (solution["question"], chunk["text"], chunk["before"]["analysis"], chunk["analysis"])
            question, step, before, after = ("<br>".join(html.escape(t.strip(), quote=False).split("\n")) for t in texts)
            rows.append([question, step, "right" if chunk["label"] else "wrong", before, after])
    return markdown(["problem", "step", "label", "before GRPO", "after GRPO"], rows) if rows else ""


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "claims": claims_table,
    "summary": summary_table,
    "segment": segment_table,
    "agreement": agreement_table,
    "judges": judges_table,
    "pass": pass_table,
    "search": search_table,
    "replies": replies_table,
}
ONLY_IN_DOCUMENTS = ("summary", "replies")


def all_tables(folders: Sequence[Path]) -> list[str]:
    """Every table that the folders have metrics for; the claims only once one of them has been tested.

    Of a study's folder: the tables of the study.
    """
    if (folders[0] / "results.json").exists():
        return [found for found in (table(folders) for table in STUDY_TABLES.values()) if found]
    tested = any(claim["measured"] is not None for claim in pool(folders))
    names = [name for name in TABLES if name not in ONLY_IN_DOCUMENTS and (name != "claims" or tested)]
    return [table for table in (TABLES[name](folders) for name in names) if table]


# --- tables inside documents ---------------------------------------------------------------------------------------------

_MARK = re.compile(r"<!-- table: (?P<words>[^\n]*?) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)


def update(path: Path) -> bool:
    """Rewrite the marked tables of a Markdown file; folders are relative to it. Returns whether anything changed.

    Raises ValueError, and writes nothing, for a mark without an end, an unknown table, or folders that do not exist.
    """
    with open(path, encoding="utf-8", newline="") as file:
        before = file.read()

    def replacement(match: re.Match) -> str:
        name, *patterns = match["words"].split()
        if name not in TABLES | STUDY_TABLES:
            raise ValueError(f"{path}: unknown table {name!r}: choose one of {', '.join(TABLES | STUDY_TABLES)}")
        folders = [folder for pattern in patterns for folder in sorted(path.parent.glob(pattern)) if folder.is_dir()]
        if not folders:
            raise ValueError(f"{path}: no folder matches {' '.join(patterns) or 'the empty pattern'} of table {name!r}")
        table = (TABLES | STUDY_TABLES)[name](folders)
        if not table:
            raise ValueError(f"{path}: the folders of table {match['words']!r} have no metrics for it")
        return f"<!-- table: {match['words']} -->\n{table}<!-- end -->"

    if before.count("<!-- table:") != len(_MARK.findall(before)):
        raise ValueError(f"{path}: a mark <!-- table: NAME FOLDER --> has no <!-- end --> on a later line")
    after = _MARK.sub(replacement, before)
    if after != before:
        write_text(path, after)
    return after != before
