"""Figures of a run on one's own machine: its memory, and what its intervals settle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.engine.machine import GB
from minisw.engine.memory import USABLE, Estimate
from minisw.pictures import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOMENTS = {  # a run's two largest moments, and the parts of an Estimate that each needs
    "training": ("weights", "adapters", "activations", "logits"),
    "sampling": ("weights", "adapters", "merged", "cache", "sampling"),
}
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")


def memory_parts(estimates: Mapping[str, Estimate], cards: Mapping[str, float]) -> Figure:
    """The parts of memory while a run trains and while it samples: two stacked bars a preset, in GB.

    `cards` has the memory of each preset's card in GB; a line marks the share of it that a run may use.
    """
    figure, (axis,) = canvas(8.6, 0.95 * len(estimates) + 1.5)
    names = dict.fromkeys(name for parts in MOMENTS.values() for name in parts)
    styles = {name: {"color": COLOURS[i], "hatch": HATCHES[i], "edgecolor": "white"} for i, name in enumerate(names)}
    ticks, row = [], 0.0
    for preset, needed in estimates.items():
        for moment, parts in MOMENTS.items():
            start = 0.0
            for part in parts:
                width = getattr(needed, part) / GB
                axis.barh(row, width, left=start, height=0.8, **styles[part])
                start += width
            axis.text(start + 0.1, row, f"{start:.1f}", va="center", fontsize=9)
            ticks.append((row, f"{preset}, {moment}"))
            row += 1
        usable = USABLE * cards[preset]
        axis.plot([usable] * 2, [row - 2.45, row - 0.55], color="black", linewidth=2, linestyle="--")
        limit = f"{USABLE:.0%} of {cards[preset]:g} GB"
        axis.text(usable - 0.1, row - 1.5, limit, ha="right", va="center", fontsize=9)
        row += 0.5
    axis.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axis.set(ylim=(row - 0.8, -0.7), xlim=(0, USABLE * max(cards.values()) + 0.5), xlabel="GB")
    fit = sum(needed.peak <= USABLE * cards[preset] * GB for preset, needed in estimates.items())
    axis.set_title(f"{fit} of {len(estimates)} presets fit their cards")
    labels = {"sampling": "probabilities"}  # the part, not the moment
    handles = [axis.barh([0], [0], label=labels.get(name, name), **style) for name, style in styles.items()]
    figure.legend(handles=handles, fontsize=9, ncols=len(names), loc="outside lower center")
    return figure


def intervals_beside_zero(differences: Mapping[str, tuple[float, Sequence[float]]]) -> Figure:
    """Differences (measured, 95% interval) as points on a line each, beside the line of no difference.

    Where the interval holds zero, the marker is empty and "not settled" stands beside it; else "settled".
    """
    figure, (axis,) = canvas(8, 0.6 * len(differences) + 1.3)
    settled = 0
    for row, (measured, (low, high)) in enumerate(differences.values()):
        clear = not low <= 0 <= high
        settled += clear
        style = {"color": COLOURS[0 if clear else 1], "marker": "o" if clear else "s", "capsize": 4, "markersize": 8}
        error = [[max(0.0, measured - low)], [max(0.0, high - measured)]]
        axis.errorbar(measured, row, xerr=error, markerfacecolor=None if clear else "white", **style)
        told = f"{measured:+.2f}, {'settled' if clear else 'not settled'}"
        place = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center"}
        axis.annotate(told, (measured, row), fontsize=9, bbox={"color": "white", "pad": 1}, **place)
    axis.axvline(0, color="black", linewidth=0.8, linestyle="--", zorder=0)
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set(ylim=(len(differences) - 0.5, -0.6), xlabel="difference in F1, with its 95% interval")
    axis.set_title(f"{settled} of {len(differences)} differences are settled")
    return figure


def half_widths(items: int, halves: Mapping[str, float], sizes: Sequence[int], effect: float) -> Figure:
    """How the half-width of an interval falls with the number of solutions: as 1/√n, from that measured on `items`.

    `halves` has the measured half-width of each comparison. A line marks `effect`, the difference that one looks for.
    """
    figure, (axis,) = canvas(8, 3.4)
    for number, (name, half) in enumerate(halves.items()):
        values = [half * math.sqrt(items / size) for size in sizes]
        axis.plot(sizes, values, color=COLOURS[number], marker=MARKERS[number], markersize=5, label=name)
    axis.axhline(effect, color="black", linewidth=0.8, linestyle="--", label=f"a difference of {effect:g}")
    axis.set(xscale="log", xlabel=f"labelled solutions (measured on {items})")
    axis.set(ylabel="half-width of the interval", ylim=(0, None))
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    most = max(needed_items(items, half, effect) for half in halves.values())
    axis.set_title(f"A half-width of {effect:g} needs up to {most} solutions")
    axis.legend(fontsize=9)
    return figure


def needed_items(items: int, half: float, effect: float) -> int:
    """Solutions on which an interval would have the half-width `effect`, if it has `half` on `items` of them."""
    return math.ceil(items * (half / effect) ** 2)
