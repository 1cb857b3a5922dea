"""Figures of data selection (StepWiser §4.4): luck, chunk scores, what the chosen sets teach, and a judge that is gamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.stats import mean
from minisw.pictures import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minisw.evaluate.stats import Interval

EDGES = (0.5, 0.7, 0.9, 1.0)  # of the bins of scores: below the first, between two of them, and the last one itself
NARROW = 0.06  # share of a bar that its number does not fit into
HONEST, LUCKY, WRONG = "right, every chunk right", "right by luck", "wrong answer"
STYLES = {HONEST: (COLOURS[0], ""), LUCKY: (COLOURS[1], "//"), WRONG: ("#BBBBBB", "..")}


def luck_bars(counts: Mapping[str, tuple[int, int, int]], title: str) -> Figure:
    """A bar for each set of solutions: shares that are honestly right, right by luck, and wrong. `counts` has the numbers."""
    figure, (axis,) = canvas(8, 0.6 * len(counts) + 1.4)
    for at, own in enumerate(counts.values()):
        start, total = 0.0, max(1, sum(own))
        for (name, (colour, hatch)), count in zip(STYLES.items(), own, strict=True):
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": None if at else name}
            axis.barh(at, count / total, left=start, height=0.7, **style)
            narrow = count / total < NARROW  # its number stands above the bar
            if count:
                style = {"va": "bottom"} if narrow else {"va": "center", "backgroundcolor": "white"}
                axis.text(start + count / total / 2, at - 0.36 * narrow, str(count), ha="center", fontsize=9, **style)
            start += count / total
    axis.set(yticks=range(len(counts)), yticklabels=list(counts), xlim=(0, 1), ylim=(len(counts) - 0.5, -0.7))
    axis.set(xlabel="share of the solutions (numbers: how many)", title=title)
    figure.legend(fontsize=9, ncols=len(STYLES), loc="outside lower center")
    return figure


def score_bin(score: float) -> int:
    """The bin of a mean chunk score: the number of edges that it reaches."""
    return sum(score >= edge for edge in EDGES)


def luck_scores(honest: Sequence[float], lucky: Sequence[float]) -> Figure:
    """Mean chunk scores of right solutions, honest and lucky: the share of each in bins of the score."""
    names = [f"below {EDGES[0]:g}", *(f"{a:g} to {b:g}" for a, b in zip(EDGES, EDGES[1:], strict=False)), f"{EDGES[-1]:g}"]
    figure, (axis,) = canvas(8, 3.2)
    for number, (name, own) in enumerate({HONEST: honest, LUCKY: lucky}.items()):
        colour, hatch = STYLES[name]
        for k in range(len(names)):
            count = sum(score_bin(score) == k for score in own)
            share, at = count / max(1, len(own)), k + 0.4 * number - 0.2
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": None if k else f"{name} ({len(own)})"}
            axis.bar(at, share, width=0.38, **style)
            axis.annotate(str(count), (at, share), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
    axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1.12), xlabel="mean chunk score by the judge")
    axis.set_ylabel("share (numbers: how many)")
    full = [mean([score_bin(score) == len(EDGES) for score in own]) for own in (honest, lucky)]
    axis.set_title(f"The full score goes to {full[0]:.0%} of the honest solutions, and to {full[1]:.0%} of the lucky ones")
    axis.legend(fontsize=9, loc="upper left")
    return figure


def taught(rows: Mapping[str, dict], baseline: str) -> Figure:
    """Left: the accuracy of policies with 95% intervals. Right: paired differences from `baseline`, with theirs.

    A row has `accuracy` and `interval`; all but the baseline's have `difference` and `difference_interval` too.
    """
    figure, axes = canvas(9, 0.55 * len(rows) + 1.6, 2)
    panels = (("accuracy", "interval"), ("difference", "difference_interval"))
    for number, (axis, (value, interval)) in enumerate(zip(axes, panels, strict=True)):
        for at, row in enumerate(rows.values()):
            if value in row:
                low, high = row[interval]
                error = [[max(0.0, row[value] - low)], [max(0.0, high - row[value])]]
                axis.errorbar(row[value], at, xerr=error, color=COLOURS[number], marker=MARKERS[number], capsize=4)
                text = f"{row[value]:+.2f}" if number else f"{row[value]:.2f}"
                axis.annotate(text, (row[value], at), xytext=(0, 6), textcoords="offset points", fontsize=9, ha="center")
        axis.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.6))
    axes[0].set(yticklabels=list(rows), xlim=(0, 1), title="accuracy")
    axes[1].set(yticklabels=[], title=f"minus “{baseline}”, same problems")
    axes[1].axvline(0, color="black", linewidth=0.8)
    last = list(rows)[-1]
    low, high = rows[last]["difference_interval"]
    finding = "no difference is shown" if low <= 0 <= high else "a difference is shown"
    figure.suptitle(f"“{last}” against “{baseline}”: {finding}, the interval is {low:+.2f} to {high:+.2f}")
    return figure


def gamed(scores: Mapping[str, tuple[float, Interval]]) -> Figure:
    """The judge's mean score of the same wrong solutions in several forms, with 95% intervals. The first form is the original."""
    figure, (axis,) = canvas(8, 0.5 * len(scores) + 1.2)
    for at, (value, (low, high)) in enumerate(scores.values()):
        error = [[max(0.0, value - low)], [max(0.0, high - value)]]
        style = {"color": COLOURS[1 if at else 0], "marker": MARKERS[1 if at else 0], "capsize": 4}
        axis.errorbar(value, at, xerr=error, **style)
        axis.annotate(f"{value:.2f}", (value, at), xytext=(0, 6), textcoords="offset points", fontsize=9, ha="center")
    axis.set(yticks=range(len(scores)), yticklabels=list(scores), xlim=(0, 1.02), ylim=(len(scores) - 0.5, -0.6))
    axis.set_xlabel("mean chunk score of solutions with a wrong answer")
    (original, (before, _)), *_ = scores.items()
    best = max(scores, key=lambda form: scores[form][0])
    found = f"“{best}” lifts the score of wrong solutions from {before:.2f} to {scores[best][0]:.2f}"
    axis.set_title(f"No other form scores higher than {before:.2f}" if best == original else found)
    return figure
