"""Rows as Markdown tables, whose columns are those of columns.py."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.report.columns import Column, cell, used


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"


def render(wanted: Sequence[Column], rows: Sequence[Sequence[dict]]) -> str:
    """A table of `rows`, each of which is the same row of several runs."""
    shown = used(wanted, [run for row in rows for run in row])
    return markdown([column.title for column in shown], [[cell(column, row) for column in shown] for row in rows])


def aligned(runs: Sequence[Sequence[dict]], *keys: str) -> list[list[dict]]:
    """The rows of several runs by the values of `keys`: [row][run]. Raises ValueError if the runs have different rows."""
    by_key = [{tuple(row.get(key) for key in keys): row for row in rows} for rows in runs]
    if any(rows.keys() != by_key[0].keys() for rows in by_key):
        raise ValueError("the runs have different rows: give runs of one recipe, which differ in the seed only")
    return [[rows[key] for rows in by_key] for key in by_key[0]]


def grouped(rows: Sequence[dict], *keys: str) -> list[list[dict]]:
    """The rows of several seeds by the values of `keys`, in order of first appearance: [row][seed]."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())
