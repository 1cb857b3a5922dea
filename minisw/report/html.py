"""The building blocks of the HTML page: escaped elements, numbers, tables.

Escaping is the default: `element` escapes every child that is not already `Html`, so a model's text never becomes markup.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from minisw.report.columns import NONE, Column, cell, finite, used


class Html(str):
    """A string that is already markup."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag …>children</tag>`. Children that are not Html are escaped, None is left out.

    In attribute names a trailing `_` is dropped (`class_`) and an inner `_` becomes `-`.
    """
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: object) -> Html:
    """The children in a row, escaped where they are not Html; None is left out."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def escape(text: object) -> Html:
    """Text as markup. A carriage return is written as a reference, because browsers read a bare one as a line feed."""
    return Html(html.escape(str(text)).replace("\r", "&#13;"))


def number(value: object) -> str:
    """Three significant digits, or all digits before the point with thousands separated; "–" for None, NaN and infinity."""
    if not finite(value):
        return NONE
    whole = isinstance(value, int) or abs(value) >= 999.5  # three significant digits would give 1e+03
    return format(value, ",.0f" if whole else ".3g").replace("-", "−")


def interval(value: object, bounds: Sequence[float] | None) -> str:
    """`0.447 [0.41, 0.48]`, or the number alone if there are no bounds."""
    return f"{number(value)} [{number(bounds[0])}, {number(bounds[1])}]" if bounds else number(value)


def duration(seconds: object) -> str:
    """`12.3 s`, `3 min 20 s`, `2 h 5 min`, from seconds."""
    if not finite(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def grid(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table: first column text, the others numbers and right-aligned; it scrolls sideways on a narrow screen."""
    top = element("thead", element("tr", *(element("th", name, scope="col") for name in head))) if head else None
    body = element("tbody", *(element("tr", *(element("td", value) for value in row)) for row in rows))
    return element("div", element("table", top, body), class_="scroll")


def table(columns: Sequence[Column], rows: Sequence[dict]) -> Html:
    """The rows under those columns that have values, then a sentence about each of these; "" without rows."""
    shown = used(columns, rows)
    if not shown:
        return Html("")
    cells = [[cell(column, [row]) for column in shown] for row in rows]
    return join(grid([column.title for column in shown], cells), legend(shown))


def legend(columns: Sequence[Column]) -> Html:
    """What the columns mean, folded away."""
    meanings = [element("li", element("b", c.title), ": ", c.meaning) for c in columns if c.meaning]
    return element("details", element("summary", "What the columns mean"), element("ul", *meanings), class_="legend")


def facts(values: dict) -> Html:
    """A nested dict of plain values as a table of two columns; nested names are joined by " / "."""
    return grid((), list(_flat(values))) if values else Html("")


def _flat(values: dict, above: str = ""):
    for name, value in values.items():
        name = f"{above}{str(name).replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name} / ")
        elif isinstance(value, list):
            yield name, f"[{', '.join(_plain(v) for v in value)}]"
        else:
            yield name, _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number(value)
