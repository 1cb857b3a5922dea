"""TODO."""

from __future__ import annotations

import dataclasses

from minisw.records import write_json
from minisw.report.claims import collect_claims
from minisw.report.page import write_report
from minisw.runs import Run


def run_stage(run: Run) -> None:
    """Writes claims.json and report.html."""

    write_json(run.folder / "claims.json", [dataclasses.asdict(claim) for claim in collect_claims(run)])
    write_report(run.folder)
