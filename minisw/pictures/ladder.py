"""The figure of the ladder (minisw/study/ladder.py): first-error F1 of every judge on every rung."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.stats import mean
from minisw.pictures import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_OUT = ("always_positive",)  # F1 0 by definition
STEPWISER, UNTRAINED = "stepwiser", "untrained"


def ladder_points(rows: Sequence[dict]) -> dict[str, dict[str, list[dict]]]:
    """The rows of each judge on each rung, one for each seed: {judge: {rung: rows}}; judges in order of first appearance."""
    points: dict[str, dict[str, list[dict]]] = {}
    for row in rows:
        if row["id"] not in LEFT_OUT:
            points.setdefault(row["id"], {}).setdefault(row["rung"], []).append(row)
    return points


def ladder_figure(rows: Sequence[dict]) -> Figure:
    """A group of points for each rung, one for each judge and seed, with 95% intervals over test problems.

    The judges of a rung stand side by side; a judge has its own colour and marker.
    """
    points = ladder_points(rows)
    rungs = sorted({row["rung"] for row in rows})
    figure, (axis,) = canvas(max(6.5, 2.6 * len(rungs) + 2.5), 3.8)
    names = {row["id"]: row["name"] for row in rows}
    for number, (judge, by_rung) in enumerate(points.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "label": names[judge]}
        for place, rung in enumerate(rungs):
            own = by_rung.get(rung, [])
            for seed, row in enumerate(own):
                at = place + 0.8 * ((number + 0.5) / len(points) - 0.5) + 0.04 * (seed - (len(own) - 1) / 2)
                low, high = row["interval"]
                error = [[max(0.0, row["f1"] - low)], [max(0.0, high - row["f1"])]]
                axis.errorbar([at], [row["f1"]], error, linestyle="", capsize=2, **style)
                style = {key: value for key, value in style.items() if key != "label"}  # one line of the legend for a judge
    axis.set_xticks(range(len(rungs)), [rung.replace("-", " ") for rung in rungs])
    axis.set(ylim=(-0.04, 1.02), ylabel="first-error F1, greedy", xlim=(-0.5, len(rungs) - 0.5))
    axis.set_title(ladder_finding(rows))
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ladder_finding(rows: Sequence[dict]) -> str:
    """What GRPO makes of the untrained judge on each rung, in words."""
    points, parts = ladder_points(rows), []
    for rung in sorted({row["rung"] for row in rows}):
        before, after = (mean([row["f1"] for row in points.get(judge, {}).get(rung, [])]) for judge in (UNTRAINED, STEPWISER))
        parts.append(f"{rung.replace('-', ' ')}: {before:.2f} to {after:.2f}")
    return "F1 before and after GRPO: " + ", ".join(parts)


def ladder_alt(rows: Sequence[dict]) -> str:
    """The alt text of `ladder_figure`: the mean F1 of every judge on every rung."""
    points = ladder_points(rows)
    parts = []
    for rung in sorted({row["rung"] for row in rows}):
        own = [f"{judge} {mean([row['f1'] for row in by[rung]]):.2f}" for judge, by in points.items() if rung in by]
        parts.append(f"{rung}: {', '.join(own)}")
    return "First-error F1 of the judges on each rung. " + "; ".join(parts).replace("_", " ") + "."
