"""One run as one page: each claim beside its measurement, then what every stage did, read from the files of the run folder.

    claims.json, <stage>/metrics.json, evaluate/showcase.json, search/trace.json, run.json ─▶ report.html, and a terminal table

The page is a single file without scripts; its own policy forbids it to load anything.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from minisw.records import write_text
from minisw.report.html import STYLE, Html, duration, element, interval, join, number
from minisw.report.sections import SECTIONS, Section, _hardware, _verdict


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the files that are there, atomically, and return its path.

    A file that is missing or holds nothing makes its section say "not run yet". Raises ValueError with the file's name where a
    file is not JSON, and FileNotFoundError without the folder `run`.
    """
    path = run / "report.html"
    write_text(path, page(run))
    return path


def table(claims: list[dict]) -> Table:
    """The claims for the terminal: claim, source, paper, measured [95% interval], holds / does not hold / not tested."""
    made = Table()
    for name in ("claim", "source", "paper", "measured [95% interval]", ""):
        # Text, because rich would take square brackets in a plain string for its own markup.
        made.add_column(Text(name), overflow="fold", justify="right" if name.startswith(("paper", "measured")) else "left")
    for claim in claims:
        _, words, style = _verdict(claim)
        made.add_row(
            Text(claim["claim"]),
            Text(claim["source"]),
            number(claim.get("paper")),
            Text(interval(claim.get("measured"), claim.get("interval"))),
            Text(words, style=style),
        )
    return made


def page(run: Path) -> str:
    """The whole page as text. Raises as `write_report` does."""
    facts_of_run = _read(run / "run.json") or {}
    title = f"minisw: {facts_of_run['preset']}, seed {facts_of_run['seed']}" if facts_of_run else f"minisw: {run.resolve().name}"
    head = element(
        "head",
        Html(
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            'style-src \'unsafe-inline\'"><link rel="icon" href="data:,">'
        ),
        element("title", title),
        element("style", STYLE),
    )
    links = element("nav", *(join(element("a", section.id, href=f"#{section.id}"), " ") for section in SECTIONS))
    sections = [_section(section, _read(run / section.file)) for section in SECTIONS]
    top = element("header", element("h1", title), element("p", _summary(_read(run / "claims.json") or [], facts_of_run)), links)
    return "<!doctype html>\n" + element("html", head, "\n", element("body", top, *sections), lang="en") + "\n"


def _read(path: Path) -> dict | list | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _section(section: Section, value: dict | list | None) -> Html:
    body = section.body(value) if value else element("p", "not run yet", class_="missing")
    heading = element("h2", section.title, " ", element("small", section.paper))
    return element("section", heading, element("p", section.says), body, "\n", id=section.id)


def _summary(claims: list[dict], run: dict) -> str:
    tested = [claim for claim in claims if claim.get("holds") is not None]
    parts = [f"{sum(claim['holds'] for claim in tested)} of {len(tested)} tested claims hold" if claims else "no claims yet"]
    if run:
        parts += [duration(run.get("seconds")), _hardware(run.get("hardware") or {})]
    return " · ".join(parts)
