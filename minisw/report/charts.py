"""The two kinds of charts in the report, as SVG within HTML: lines over steps, and horizontal bars with whiskers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minisw.report.columns import finite
from minisw.report.html import Html, element, interval, join, number

Point = tuple[float, float]  # (x, y)
Bar = tuple[str, float | None, Sequence[float] | None]  # (name, value, [low, high] of its interval)


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers in steps of equal size that enclose low…high."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= span / 4 - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def line_chart(
    title: str, series: dict[str, Sequence[Point]], x_label: str, meaning: str, zero: bool = False, even: bool = False
) -> Html:
    """A figure with a line for each series, with `meaning` as its caption; "" if no point has finite coordinates.

    `zero` includes 0 in the y axis. `even` puts the distinct x at equal distances and labels each (M = 1, 2, 4, 8, …).
    """
    series = {name: sorted(p for p in points if finite(p[0]) and finite(p[1])) for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Html("")
    left, right, top, bottom = 44, 310, 8, 150  # within the 320 × 180 view box
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    y_ticks = ticks(min([*ys, 0.0] if zero else ys), max(ys))
    x_ticks = xs if even else [t for t in ticks(xs[0], xs[-1]) if xs[0] <= t <= xs[-1]]

    def across(x: float) -> float:
        share = xs.index(x) / max(len(xs) - 1, 1) if even else (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return round(left + 8 + share * (right - left - 16), 1)

    def up(y: float) -> float:
        return round(bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top), 1)

    marks = [
        join(
            element("line", x1=left, x2=right, y1=up(t), y2=up(t), class_="rule"),
            element("text", number(t), x=left - 6, y=up(t) + 4, text_anchor="end"),
        )
        for t in y_ticks
    ]
    marks += [element("text", number(t), x=across(t), y=bottom + 15, text_anchor="middle") for t in x_ticks]
    marks.append(element("text", x_label, x=(left + right) / 2, y=bottom + 29, text_anchor="middle"))
    for index, (name, points) in enumerate(series.items()):
        path = " ".join(f"{across(x)},{up(y)}" for x, y in points)
        marks.append(element("polyline", points=path, class_=f"line s{index % 4}"))
        # Many dots would hide the line: above twelve they are invisible and only show their value on hovering; above a
        # hundred only the last one is drawn, to keep the page small.
        faint = " faint" if len(points) > 12 else ""
        for x, y in points if len(points) <= 100 else points[-1:]:
            hover = element("title", f"{name}: {x_label} {number(x)}, {number(y)}")
            marks.append(element("circle", hover, cx=across(x), cy=up(y), r=2.6, class_=f"dot s{index % 4}{faint}"))
    swatches = [
        element("svg", element("line", x1=0, x2=22, y1=5, y2=5, class_=f"line s{index % 4}"), width=22, height=10)
        for index in range(len(series))
    ]
    keys = [element("span", swatch, " ", name, class_="key") for swatch, name in zip(swatches, series, strict=True)]
    return element(
        "figure",
        element("h3", title),
        *keys,
        element("svg", *marks, viewBox="0 0 320 184", role="img", aria_label=f"{title} against {x_label}"),
        element("figcaption", meaning),
    )


def bar_chart(title: str, rows: Sequence[Bar], meaning: str) -> Html:
    """A figure with one horizontal bar from 0 for each row that has a finite value, and its interval as a whisker.

    Positions are percentages of the width, so that texts keep their size on a narrow screen. "" without bars.
    """
    rows = [row for row in rows if finite(row[1])]
    if not rows:
        return Html("")
    y_step, scale = 40, ticks(0.0, max(max(value, *(bounds or [0.0])) for _, value, bounds in rows))
    height = y_step * len(rows)

    def across(value: float) -> str:
        return f"{min(max(value / scale[-1], 0.0), 1.0) * 100:.2f}%"

    marks = [element("line", x1=across(t), x2=across(t), y1=0, y2=height, class_="rule") for t in scale]
    for index, (name, value, bounds) in enumerate(rows):
        y = index * y_step
        marks += [
            element("text", name, x=0, y=y + 14, class_="name"),
            element("text", interval(value, bounds), x="100%", y=y + 14, text_anchor="end", class_="name"),
            element("rect", x=0, y=y + 20, width=across(value), height=12, class_="bar"),
        ]
        if bounds:
            low, high = (across(bound) for bound in bounds)
            marks += [
                element("line", x1=low, x2=high, y1=y + 26, y2=y + 26, class_="whisker"),
                *(element("line", x1=x, x2=x, y1=y + 22, y2=y + 30, class_="whisker") for x in (low, high)),
            ]
    anchors = ["start", *["middle"] * (len(scale) - 2), "end"]
    marks += [
        element("text", number(t), x=across(t), y=height + 16, text_anchor=anchor)
        for t, anchor in zip(scale, anchors, strict=True)
    ]
    return element(
        "figure",
        element("h3", title),
        element("svg", *marks, width="100%", height=height + 22, role="img", aria_label=title),
        element("figcaption", meaning),
        class_="wide",
    )
