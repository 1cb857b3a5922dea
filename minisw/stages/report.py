"""Stage 6: each claim beside what was measured, and the run as one HTML page."""

from __future__ import annotations

from minisw.report.page import write_results
from minisw.runs import Run


def run_stage(run: Run) -> None:
    """Writes claims.json and report.html, from whatever the other stages have written so far."""
    write_results(run.folder)
