"""Figures of Monte-Carlo values and labels (StepWiser §3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.labels import label
from minisw.pictures import COLOURS, MARKERS, canvas
from minisw.pictures.steps import NEGATIVE, POSITIVE, SIGNS, colour_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", "-.", ":")
GRID = 100  # points of a boundary in the plane


def estimate_spread(values: Sequence[float], sizes: Sequence[int]) -> Figure:
    """For each true value Q, the band Q ± 1.96 · √(Q(1 − Q)/M) of its estimate against the number M of completions."""
    figure, (axis,) = canvas(8, 3.4)
    for number, q in enumerate(values):
        half = [1.96 * math.sqrt(q * (1 - q) / m) for m in sizes]
        low, high = [max(0.0, q - h) for h in half], [min(1.0, q + h) for h in half]
        axis.fill_between(sizes, low, high, color=COLOURS[number], alpha=0.2, hatch=("//", "", "..")[number % 3])
        axis.plot(sizes, [q] * len(sizes), color=COLOURS[number], marker=MARKERS[number], label=f"Q = {q:g}")
    axis.set(xscale="log", xticks=sizes, xticklabels=[str(m) for m in sizes])
    axis.set(ylim=(0, 1), xlabel="completions M", ylabel="estimate")
    axis.minorticks_off()
    axis.set_title(f"{sizes[-1] // sizes[0]} times the completions narrow the band {math.sqrt(sizes[-1] / sizes[0]):.0f} times")
    axis.legend(fontsize=9)
    return figure


def shared_tokens(starts: Sequence[int], branches: int, sampled: int) -> Figure:
    """Tokens to annotate one solution with and without sharing its prefix. `starts`: the prefix lengths of its boundaries.

    Without sharing, each of `branches` completions of each boundary reads its prefix anew; with it, the longest prefix is read
    once. `sampled`: the tokens sampled, which sharing does not change.
    """
    read = {"a prefix for each completion": branches * sum(starts), "one shared prefix": max(starts)}
    figure, (axis,) = canvas(8, 2.4)
    for row, tokens in enumerate(read.values()):
        for start, width, hatch, name in ((0, tokens, "//", "read"), (tokens, sampled, "", "sampled")):
            label_once = name if row == 0 else None
            colour = COLOURS[0] if name == "read" else COLOURS[4]
            axis.barh(row, width, left=start, color=colour, hatch=hatch, edgecolor="white", label=label_once)
        axis.text(tokens + sampled, row, f" {tokens} + {sampled}", va="center", fontsize=9)
    times = read["a prefix for each completion"] / read["one shared prefix"]
    axis.set(yticks=range(len(read)), yticklabels=list(read), xlabel="tokens", ylim=(1.6, -0.6))
    axis.set_title(f"Sharing reads {times:.0f} times fewer tokens")
    axis.margins(x=0.22)
    axis.legend(fontsize=9, loc="lower right")
    return figure


def rules_grid(q: Sequence[float], rules: Sequence[str]) -> Figure:
    """What every rule says of every chunk of a solution with the values `q`: a sign in each cell."""
    labels = [label(q, rule) for rule in rules]
    figure, (axis,) = canvas(8, 0.55 * len(rules) + 1.3)
    for row, own in enumerate(labels):
        for column, positive in enumerate(own):
            style = {"color": "white", "edgecolor": colour_of(positive), "linewidth": 2, "hatch": "" if positive else "//"}
            axis.bar(column, 0.8, bottom=row - 0.4, width=0.9, **style)
            axis.text(column, row, SIGNS[positive], ha="center", va="center", fontsize=14, weight="bold", backgroundcolor="white")
    differ = sum(len(set(column)) > 1 for column in zip(*labels, strict=True))
    names = [f"{a:g} → {b:g}" for a, b in zip(q, q[1:], strict=False)]
    axis.set(xticks=range(len(names)), xticklabels=names, yticks=range(len(rules)), yticklabels=rules)
    axis.set(ylim=(len(rules) - 0.5, -0.5), xlabel="value before → after the chunk")
    axis.set_title(f"The rules disagree about {differ} of {len(names)} chunks")
    return figure


def boundary(rule: str, before: float) -> float | None:
    """The smallest Q_i of a grid of hundredths that the rule calls positive after Q_{i−1} = `before`; None if there is none."""
    return next((i / GRID for i in range(GRID + 1) if label((before, i / GRID), rule)[0]), None)


def rule_plane(rules: Sequence[str]) -> Figure:
    """The plane of Q before and after a chunk: on and above its line, a rule says positive."""
    figure, (axis,) = canvas(6, 4.6)
    before = [i / GRID for i in range(GRID + 1)]
    for number, rule in enumerate(rules):
        points = [(b, at) for b in before if (at := boundary(rule, b)) is not None]
        style = {"color": COLOURS[number], "linestyle": STYLES[number % 4], "marker": MARKERS[number], "markevery": 20}
        axis.plot([b for b, _ in points], [at for _, at in points], label=rule, linewidth=2, **style)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axis.set(xlabel="Q before the chunk", ylabel="Q after the chunk", xlim=(0, 1), ylim=(-0.02, 1))
    axis.set_title("The higher Q before the chunk, the more a rule of progress asks for")
    axis.legend(fontsize=9, loc="upper left", title="positive on and above")
    return figure


def agreement_curves(rows: Sequence[dict], intervals: Mapping[tuple[str, int], tuple[float, float]]) -> Figure:
    """Balanced agreement of each rule's labels with exact ones against M (rows of `labels.agreement`), with intervals."""
    figure, (axis,) = canvas(8, 3.4)
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    for number, rule in enumerate(rules):
        own = [row for row in rows if row["rule"] == rule]
        x = [row["m"] * 1.04 ** (number - 1) for row in own]  # side by side, so that intervals do not cover each other
        y = [row["balanced_agreement"] for row in own]
        low = [max(0.0, value - intervals[rule, row["m"]][0]) for value, row in zip(y, own, strict=True)]
        high = [max(0.0, intervals[rule, row["m"]][1] - value) for value, row in zip(y, own, strict=True)]
        axis.errorbar(x, y, [low, high], color=COLOURS[number], marker=MARKERS[number], capsize=3, label=rule)
    best = max(rows, key=lambda row: row["balanced_agreement"])
    sizes = sorted({row["m"] for row in rows})
    axis.set(xscale="log", xticks=sizes, xticklabels=[str(m) for m in sizes], xlabel="completions M", ylabel="balanced agreement")
    axis.minorticks_off()
    axis.set_title(f"{best['rule']} with M = {best['m']} agrees best with exact labels: {best['balanced_agreement']:.2f}")
    axis.legend(fontsize=9)
    return figure


def label_counts(stages: Mapping[str, Sequence[bool]]) -> Figure:
    """How many labels are positive and negative at each stage: two bars a stage, with their numbers."""
    figure, (axis,) = canvas(8, 3)
    for offset, side, colour, hatch in ((-0.2, True, POSITIVE, ""), (0.2, False, NEGATIVE, "//")):
        counts = [sum(value is side for value in labels) for labels in stages.values()]
        at = [i + offset for i in range(len(stages))]
        name = f"{'positive' if side else 'negative'} ({SIGNS[side]})"
        bars = axis.bar(at, counts, 0.38, color=colour, hatch=hatch, edgecolor="white", label=name)
        axis.bar_label(bars, fontsize=9)
    first, last = (len(labels) for labels in (list(stages.values())[0], list(stages.values())[-1]))
    axis.set(xticks=range(len(stages)), xticklabels=list(stages), ylabel="labels")
    axis.set_title(f"{last} of {first} labels are left")
    axis.margins(y=0.15)
    axis.legend(fontsize=9)
    return figure
