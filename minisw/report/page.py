"""One run as one HTML page, and its claims as a table for the terminal.

    claims.json, STAGE/metrics.json, evaluate/showcase.json, search/trace.json, run.json ─▶ report.html

The page is a single file without scripts; its content security policy forbids it to load anything.
"""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path

from rich.table import Table
from rich.text import Text

from minisw.records import write_json, write_text
from minisw.report import columns
from minisw.report.claims import HOLDS, UNTESTED, collect_claims, read_json
from minisw.report.columns import claim_cells, pick
from minisw.report.html import Html, duration, element, join
from minisw.report.sections import OUTCOME, SECTIONS, Section, hardware


def write_results(folder: Path) -> Path:
    """Write claims.json and report.html of a run folder from its stages' metrics; the path of the page."""
    write_json(folder / "claims.json", [dataclasses.asdict(claim) for claim in collect_claims(folder)])
    return write_report(folder)


def write_report(folder: Path) -> Path:
    """Write report.html from the files of a run folder, atomically; its path.

    A section whose file is missing or empty says "not run yet". Raises ValueError with the name of a file that is not JSON.
    """
    path = folder / "report.html"
    write_text(path, page(folder))
    return path


def claims_table(claims: list[dict]) -> Table:
    """The claims of claims.json for the terminal."""
    shown = pick(columns.CLAIM, "claim", "source", "paper", "measured", "outcome")
    table = Table()
    for column in shown:
        # Text objects, because rich reads square brackets in plain strings as its own markup.
        table.add_column(Text(column.title), overflow="fold", justify="right" if column.key in ("paper", "measured") else "left")
    for claim in claims:
        cells = claim_cells(claim)
        _, sign, colour = OUTCOME[claim["outcome"]]
        outcome = Text(f"{sign} {claim['outcome']}", style=colour)
        table.add_row(*(Text(cells[column.key]) for column in shown[:-1]), outcome)
    return table


def page(folder: Path) -> str:
    """The whole page as text. Raises as `write_report` does."""
    run = read_json(folder / "run.json") or {}
    title = f"minisw: {run['preset']}, seed {run['seed']}" if run else f"minisw: {folder.resolve().name}"
    head = element(
        "head",
        Html(
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            'style-src \'unsafe-inline\'"><link rel="icon" href="data:,">'
        ),
        element("title", title),
        element("style", Html("\n" + files("minisw.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    links = element("nav", *(join(element("a", section.title, href=f"#{section.id}"), " ") for section in SECTIONS))
    sections = [_section(section, read_json(folder / section.file)) for section in SECTIONS]
    summary = element("p", _summary(read_json(folder / "claims.json") or [], run))
    top = element("header", element("h1", title), summary, links)
    return "<!doctype html>\n" + element("html", head, "\n", element("body", top, *sections), lang="en") + "\n"


def _section(section: Section, value: dict | list | None) -> Html:
    body = section.body(value) if value else element("p", "not run yet", class_="missing")
    heading = element("h2", section.title, " ", element("small", section.paper))
    return element("section", heading, element("p", section.introduction), body, "\n", id=section.id)


def _summary(claims: list[dict], run: dict) -> str:
    tested = [claim["outcome"] for claim in claims if claim["outcome"] != UNTESTED]
    parts = [f"{tested.count(HOLDS)} of {len(tested)} tested claims hold" if claims else "no claims yet"]
    if run:
        parts += [duration(run.get("seconds")), hardware(run.get("hardware") or {})]
    return " · ".join(parts)
