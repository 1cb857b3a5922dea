"""Figures of search (§4.4): trees of tries, tokens, votes, what a judge keeps, accuracy against tokens, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.stats import wilson
from minisw.pictures import COLOURS, MARKERS, canvas, pareto_curves, pareto_front, pareto_points
from minisw.pictures.judges import STYLES
from minisw.pictures.steps import NEGATIVE, POSITIVE, SIGNS
from minisw.report.study_tables import SPLITS
from minisw.search.theory import Rates, kept_right

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minisw.records import Try

KINDS = (  # of tokens: name, hatch, colour
    ("policy, kept", "", COLOURS[0]),
    ("policy, rejected", "//", COLOURS[1]),
    ("judge", "..", COLOURS[2]),
)


def trees(searches: Mapping[str, Sequence[Try]]) -> Figure:
    """A panel for each search on one problem: its tries from top to bottom at every place, the kept ones joined.

    The word beside a try is the first of its text, the sign the verdict.
    """
    figure, axes = canvas(9, 3.6, len(searches), sharey=True)
    most = max(t.attempt for tries in searches.values() for t in tries)
    for axis, (name, tries) in zip(axes, searches.items(), strict=True):
        kept = [t for t in tries if t.kept]
        axis.plot([t.position + 1 for t in kept], [t.attempt for t in kept], color=POSITIVE, zorder=1)
        for label, own, marker, colour in (
            ("kept", kept, "o", POSITIVE),
            ("rejected", [t for t in tries if not t.kept], "X", NEGATIVE),
        ):
            x, y = [t.position + 1 for t in own], [t.attempt for t in own]
            axis.scatter(x, y, marker=marker, color=colour, label=label, s=70, zorder=2)
        for t in tries:
            word = f"{SIGNS[t.verdict]} {t.text.split()[0]}"
            place = {"xytext": (7, 5), "textcoords": "offset points", "bbox": {"color": "white", "pad": 0.5}}
            axis.annotate(word, (t.position + 1, t.attempt), fontsize=9, **place)
        places = sorted({t.position + 1 for t in tries})
        axis.set(xlabel="chunk", xticks=places, yticks=range(1, most + 1), title=f"{name}: {len(tries)} tries")
        axis.set(xlim=(0.6, places[-1] + 0.95), ylim=(most + 0.5, 0.4))
    axes[0].set_ylabel("try")
    axes[0].legend(fontsize=9, loc="lower left")
    counts = {name: len(tries) for name, tries in searches.items()}
    fewest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    figure.suptitle(f"The same policy: “{fewest}” samples {counts[fewest]} chunks, “{largest}” {counts[largest]}")
    return figure


def tries_grid(searches: Sequence[Sequence[Try]], outcomes: Sequence[bool], most: int) -> Figure:
    """A row for each problem: how many tries each chunk took; hatched where all of the `most` tries were rejected.

    `outcomes` says whether each answer is right.
    """
    figure, (axis,) = canvas(8, 0.48 * len(searches) + 1.2)
    columns = max(t.position for tries in searches for t in tries) + 1
    for row, (tries, right) in enumerate(zip(searches, outcomes, strict=True)):
        for t in [t for t in tries if t.kept]:
            count = sum(other.position == t.position for other in tries)
            given_up = t.verdict is False
            style = {"color": "white", "edgecolor": NEGATIVE if given_up else POSITIVE, "hatch": "//" if given_up else ""}
            axis.bar(t.position + 1, 0.8, bottom=row - 0.4, width=0.9, linewidth=2, **style)
            axis.text(t.position + 1, row, str(count), ha="center", va="center", fontsize=10, backgroundcolor="white")
        axis.text(columns + 0.6, row, "answer right" if right else "answer wrong", va="center", fontsize=9)
    every = [t for tries in searches for t in tries]
    rejected = sum(not t.kept for t in every)
    axis.set(xlim=(0.4, columns + 1.8), ylim=(len(searches) - 0.4, -0.6), xticks=range(1, columns + 1))
    axis.set_xlabel(f"chunk (in its box the number of tries; hatched: the judge rejected all {most})")
    axis.set(yticks=range(len(searches)), yticklabels=[f"problem {n + 1}" for n in range(len(searches))])
    axis.set_title(f"{len(every)} chunks were sampled and {rejected} of them discarded")
    return figure


def token_bars(rows: Sequence[dict]) -> Figure:
    """Mean tokens of a problem for each method, by who sampled them; beside each bar its accuracy.

    A row has `method`, `accuracy`, `policy_tokens`, `judge_tokens` and `rejected_tokens`, as in the metrics of stage search.
    """
    figure, (axis,) = canvas(8.5, 0.52 * len(rows) + 1.4)
    for place, row in enumerate(rows):
        start = 0.0
        parts = (row["policy_tokens"] - row["rejected_tokens"], row["rejected_tokens"], row["judge_tokens"])
        for (name, hatch, colour), part in zip(KINDS, parts, strict=True):
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": name if place == 0 else None}
            axis.barh(place, part, left=start, height=0.7, **style)
            start += part
        text = f" {start:.0f}, accuracy {row['accuracy']:.2f}"
        axis.text(start, place, text, va="center", fontsize=9)
    axis.set(yticks=range(len(rows)), yticklabels=[row["method"] for row in rows], ylim=(len(rows) - 0.4, -0.6))
    axis.set(xlabel="sampled tokens per problem", xlim=(0, 1.45 * max(r["policy_tokens"] + r["judge_tokens"] for r in rows)))
    dearest = max(rows, key=lambda row: row["judge_tokens"])
    share = dearest["judge_tokens"] / (dearest["policy_tokens"] + dearest["judge_tokens"])
    axis.set_title(f"{dearest['method']}: {share:.0%} of the tokens are the judge's")
    axis.legend(fontsize=9, loc="lower right")
    return figure


def votes_curve(counts: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Accuracy against the number of samples of a problem, a curve for each way to choose among them."""
    figure, (axis,) = canvas(8, 3.4)
    for number, (name, values) in enumerate(curves.items()):
        style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": STYLES[number % 4]}
        axis.plot(counts, values, label=name, **style)
    first, last = list(curves)[0], list(curves)[-1]
    axis.set(xlabel="samples of each problem", ylabel="accuracy", ylim=(0, 1.02), xticks=list(counts))
    axis.grid(alpha=0.3)
    axis.set_title(f"With {counts[-1]} samples: {first} {curves[first][-1]:.2f}, {last} {curves[last][-1]:.2f}")
    axis.legend(fontsize=9, loc="lower right")
    return figure


def kept_right_curves(judges: Mapping[str, Rates], tries: int) -> Figure:
    """The share of right kept chunks against the policy's p, by theory, for each judge's rates, and what was measured.

    Solid lines have no limit of tries, dotted ones keep the last of `tries`. Points have Wilson's interval.
    """
    figure, (axis,) = canvas(8, 3.9)
    grid = [i / 100 for i in range(101)]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="no judge")
    for number, (name, rates) in enumerate(judges.items()):
        colour = COLOURS[number]
        axis.plot(grid, [kept_right(p, rates.t, rates.f) for p in grid], color=colour, label=f"{name}: no limit")
        limited = [kept_right(p, rates.t, rates.f, tries) for p in grid]
        axis.plot(grid, limited, color=colour, linestyle=":", linewidth=2.5, label=f"{name}: {tries} tries")
        low, high = wilson(round(rates.kept_right * rates.positions), rates.positions)
        error = [[max(0.0, rates.kept_right - low)], [max(0.0, high - rates.kept_right)]]
        style = {"color": colour, "marker": MARKERS[number], "markersize": 9, "capsize": 4, "linestyle": "none"}
        axis.errorbar(rates.p, rates.kept_right, error, label=f"{name}: measured", **style)
    best = max(judges.values(), key=lambda rates: rates.kept_right)
    axis.set(xlabel="p: share of right chunks among the tries", ylabel="share of right chunks among the kept", xlim=(0, 1))
    axis.set_title(f"The judge lifts the share of right chunks from {best.p:.2f} to {best.kept_right:.2f}")
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def judge_scatter(points: Mapping[str, tuple[float, float]], xlabel: str, ylabel: str, title: str) -> Figure:
    """A point for each judge, with a marker of its own: its F1 and what it is worth in a search."""
    figure, (axis,) = canvas(8, 3.4)
    for number, (name, (x, y)) in enumerate(points.items()):
        again, place = divmod(number, len(COLOURS))
        style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 9, "fillstyle": ("full", "none")[again % 2]}
        axis.plot(x, y, linestyle="none", label=name, **style)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(-0.03, 1.03))
    axis.margins(y=0.15)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pareto(rows: Sequence[dict]) -> Figure:
    """`pareto_curves` with its finding as a title, the ends of the front in the first panel, and plain ticks.

    A row has `arm` (the method), `split`, `multiple` (of the cheapest budget), `tokens` and `accuracy`.
    """
    figure = pareto_curves(rows)
    tokens = [row["tokens"] for row in rows]
    ticks = [tick for tick in (25 * 2**i for i in range(16)) if min(tokens) / 2 < tick < max(tokens) * 2]
    for axis in figure.axes:
        limits = axis.get_xlim()
        axis.set(xticks=ticks, xticklabels=[str(tick) for tick in ticks], xlim=limits)
        axis.minorticks_off()
    front = next(filter(None, (pareto_front(pareto_points(rows, split)) for split in SPLITS)))
    ends = [f"{arm.replace('_', ' ')} ({x:.0f} tokens, {accuracy:.2f})" for x, accuracy, arm in (front[0], front[-1])]
    figure.suptitle(f"The Pareto front begins with {ends[0]}\nand ends with {ends[1]}", fontsize=11)
    return figure


def paired_differences(rows: Mapping[str, tuple[float, tuple[float, float]]], title: str) -> Figure:
    """Differences of accuracy with their intervals, a row for each, and the line of no difference."""
    figure, (axis,) = canvas(8, 0.5 * len(rows) + 1.3)
    for place, (measured, (low, high)) in enumerate(rows.values()):
        clear = low > 0 or high < 0
        error = [[max(0.0, measured - low)], [max(0.0, high - measured)]]
        style = {"color": POSITIVE if clear else "#555555", "marker": "o" if clear else "s", "capsize": 4, "markersize": 7}
        axis.errorbar(measured, place, xerr=error, **style)
        axis.annotate(f"{measured:+.2f}", (measured, place), xytext=(0, 7), textcoords="offset points", fontsize=9, ha="center")
    axis.axvline(0, color="grey", linestyle="--")
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.7), xlabel="difference of accuracies")
    axis.set_title(title)
    return figure
