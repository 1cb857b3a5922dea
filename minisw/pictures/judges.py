"""Figures that compare judges: thresholds, scores, kinds of F1, bootstrap, calibration, checks, chains, votes, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.calibration import calibration_error, reliability
from minisw.evaluate.stats import mean, wilson
from minisw.pictures import COLOURS, MARKERS, canvas
from minisw.pictures.steps import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 20  # of the histograms of scores and of differences
WIDE_BARS = 8  # as many bars of a figure have room for "k/n" above them
STYLES = ("-", "--", "-.", ":")
Point = tuple[float, float, tuple[float, float]]  # x, F1 and its interval


def threshold_curves(thresholds: Sequence[float], f1: Mapping[str, Sequence[float]], chosen: float) -> Figure:
    """F1 against the threshold, a curve for each split by its name, and the threshold that was chosen on the first of them."""
    figure, (axis,) = canvas(8, 3.4)
    for number, (split, values) in enumerate(f1.items()):
        style = {"color": COLOURS[number], "linestyle": STYLES[number], "marker": MARKERS[number], "markersize": 4}
        axis.plot(thresholds, values, label=split, **style)
    axis.axvline(chosen, color="black", linewidth=1)
    axis.annotate(f" chosen: {chosen:.2f}", (chosen, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9, xytext=(2, -6),
                  textcoords="offset points")  # fmt: skip
    first, *_, last = f1.values()
    at = min(range(len(thresholds)), key=lambda i: abs(thresholds[i] - chosen))
    axis.set(xlabel="threshold: steps with a lower score are called wrong", ylabel="first-error F1", ylim=(0, None))
    axis.set_title(f"The threshold with F1 {first[at]:.2f} on validation has F1 {last[at]:.2f} on test")
    axis.legend(fontsize=9)
    return figure


def score_histograms(scores: Sequence[float], labels: Sequence[bool], threshold: float) -> Figure:
    """The scores of right steps, upward, and of wrong ones, downward, as shares of each kind, and the threshold."""
    import numpy as np

    figure, (axis,) = canvas(8, 3.4)
    edges = np.linspace(0, 1, BINS + 1)
    shares = {}
    for side, sign, colour, hatch in ((True, 1, POSITIVE, ""), (False, -1, NEGATIVE, "//")):
        own = [score for score, label in zip(scores, labels, strict=True) if label is side]
        shares[side] = mean([score >= threshold for score in own])
        heights = np.histogram(own, edges)[0] / max(1, len(own)) * sign
        name = f"{'right' if side else 'wrong'} steps ({len(own)})"
        axis.bar(edges[:-1], heights, 1 / BINS, align="edge", color=colour, hatch=hatch, edgecolor="white", label=name)
    axis.axvline(threshold, color="black", linewidth=1)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
    axis.set(xlabel="score P(+)", ylabel="share of the steps", xlim=(0, 1))
    axis.set_title(f"The threshold {threshold:.2f} passes {shares[True]:.0%} of right, {shares[False]:.0%} of wrong steps")
    axis.legend(fontsize=9)
    return figure


def kinds_of_f1(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Several kinds of F1 for each judge: a row for each judge, a marker for each kind. `rows` is judge → kind → F1."""
    figure, (axis,) = canvas(8, 0.5 * len(rows) + 1.4)
    kinds = list(next(iter(rows.values())))
    for number, kind in enumerate(kinds):
        at = [place + 0.15 * (number - (len(kinds) - 1) / 2) for place in range(len(rows))]
        values = [own[kind] for own in rows.values()]
        axis.plot(values, at, color=COLOURS[number], marker=MARKERS[number], linestyle="none", markersize=7, label=kind)
    widest = max(rows, key=lambda judge: max(rows[judge].values()) - min(rows[judge].values()))
    low, high = min(rows[widest].values()), max(rows[widest].values())
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5), xlim=(-0.03, 1.03), xlabel="F1")
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(f"“{widest}” has an F1 of {low:.2f} or {high:.2f}: say which F1 you mean")
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def difference_histograms(draws: Mapping[str, Sequence[float]], measured: float) -> Figure:
    """Bootstrapped differences, a histogram and its 95% interval for each way to resample (its name: its draws)."""
    import numpy as np

    figure, (axis,) = canvas(8, 3.4)
    edges = np.linspace(min(map(min, draws.values())), max(map(max, draws.values())), 2 * BINS + 1)
    widths = []
    for number, (name, values) in enumerate(draws.items()):
        low, high = np.percentile(values, [2.5, 97.5])
        widths.append(high - low)
        label, fill = f"{name}: {low:+.2f} to {high:+.2f}", {"color": COLOURS[number], "linestyle": STYLES[number]}
        axis.hist(values, edges, histtype="step", linewidth=2, label=label, **fill)
        axis.plot([low, high], [-8 * (number + 1)] * 2, color=COLOURS[number], marker=MARKERS[number], linewidth=3)
    axis.axvline(measured, color="black", linewidth=1, label=f"measured: {measured:+.2f}")
    axis.axvline(0, color="grey", linestyle=":")
    axis.set(xlabel="difference of the two F1s", ylabel="resamples")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}" if value >= 0 else "")
    first, last = list(draws)[0], list(draws)[-1]
    axis.set_title(f"The interval is {widths[0]:.2f} wide if {first}, {widths[-1]:.2f} if {last}")
    axis.legend(fontsize=9, loc="upper right")
    return figure


def reliability_diagram(judges: Mapping[str, tuple[Sequence[float], Sequence[bool]]]) -> Figure:
    """A panel for each judge: the share of right steps in each bin of P(Positive), with Wilson's interval and the count.

    `judges` is name → (P(Positive) of the steps, whether they are right).
    """
    figure, axes = canvas(3 * len(judges) + 0.5, 3.9, len(judges), sharey=True)
    errors = {name: calibration_error(p, right) for name, (p, right) in judges.items()}
    for number, (axis, (name, (p, right))) in enumerate(zip(axes, judges.items(), strict=True)):
        rows = reliability(p, right)
        axis.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
        for row in rows:
            low, high = wilson(round(row["share"] * row["count"]), row["count"])
            error = [[max(0.0, row["share"] - low)], [max(0.0, high - row["share"])]]
            style = {"color": COLOURS[number], "marker": MARKERS[number], "capsize": 3}
            axis.errorbar(row["probability"], row["share"], error, **style)
            place = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center", "bbox": {"color": "white", "pad": 0.3}}
            axis.annotate(str(row["count"]), (row["probability"], low), fontsize=9, **place)
        axis.set(xlabel="P(Positive), mean of the bin\n(numbers: steps in the bin)", title=f"{name}: {errors[name]:.2f}")
        axis.set(xlim=(-0.05, 1.05), ylim=(-0.12, 1.05))
    axes[0].set_ylabel("share of right steps")
    axes[0].legend(fontsize=9, loc="lower right")
    best = min(errors, key=errors.__getitem__)
    figure.suptitle(f"Calibration errors: the smallest is that of “{best}”, {errors[best]:.2f}")
    return figure


def grouped_shares(groups: Mapping[str, Mapping[str, tuple[int, int]]], ylabel: str, title: str) -> Figure:
    """Shares as bars with Wilson's interval and "k/n": a group of bars for each key, a bar for each of its kinds.

    Many bars are too narrow for "k/n": they have percentages, and the largest n stands below their group.
    """
    figure, (axis,) = canvas(8, 3.4)
    kinds = list(dict.fromkeys(kind for own in groups.values() for kind in own))
    crowded = len(groups) * len(kinds) > WIDE_BARS
    names = [f"{name}\nn = {max(n for _, n in own.values())}" if crowded else name for name, own in groups.items()]
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        for place, own in enumerate(groups.values()):
            if kind not in own or not own[kind][1]:
                continue
            k, n = own[kind]
            low, high = wilson(k, n)
            at = place + (number - (len(kinds) - 1) / 2) * width
            error = [[max(0.0, k / n - low)], [max(0.0, high - k / n)]]
            hatch = ("", "//", "..", "xx")[number % 4]
            axis.bar(at, k / n, width * 0.9, yerr=error, capsize=3, color=COLOURS[number], hatch=hatch, edgecolor="white")
            text = f"{k / n:.0%}" if crowded else f"{k}/{n}"
            axis.annotate(text, (at, high), xytext=(0, 2), textcoords="offset points", fontsize=9, ha="center")
        axis.bar(0, 0, color=COLOURS[number], hatch=("", "//", "..", "xx")[number % 4], edgecolor="white", label=kind)
    axis.set(xticks=range(len(groups)), xticklabels=names, ylabel=ylabel, ylim=(0, 1.13), title=title)
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def majority_curves(curves: Mapping[str, Sequence[dict]]) -> Figure:
    """Maj@k against k with 95% intervals, a curve for each judge (rows of `metrics.majority_curve`)."""
    figure, (axis,) = canvas(8, 3.6)
    gains = {}
    for number, (judge, rows) in enumerate(curves.items()):
        k = [row["k"] * 1.03 ** (number - (len(curves) - 1) / 2) for row in rows]  # side by side
        f1 = [row["f1"] for row in rows]
        low = [max(0.0, row["f1"] - row["interval"][0]) for row in rows]
        high = [max(0.0, row["interval"][1] - row["f1"]) for row in rows]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": STYLES[number % 4], "capsize": 3}
        axis.errorbar(k, f1, [low, high], label=judge, **style)
        gains[judge] = f1[-1] - f1[0]
    most, votes = max(gains, key=gains.__getitem__), [row["k"] for row in next(iter(curves.values()))]
    axis.set(xscale="log", xticks=votes, xticklabels=[str(k) for k in votes], xlabel="votes per step", ylabel="first-error F1")
    axis.minorticks_off()
    axis.set(ylim=(0, 1.02))
    axis.set_title(f"“{most}” gains most from {votes[-1]} votes: {gains[most]:+.2f}")
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cost_panels(panels: Mapping[str, Mapping[str, Sequence[Point]]]) -> Figure:
    """A panel for each cost (its name, the x axis): F1 with its interval against the cost, points of a judge joined.

    The title compares the two ends of the curve of the judge that reaches the best F1; the cost is that of the last panel.
    """
    figure, axes = canvas(9.5, 3.8, len(panels), sharey=True)
    for axis, (cost, judges) in zip(axes, panels.items(), strict=True):
        for number, (judge, points) in enumerate(judges.items()):
            _points(axis, number, judge, sorted(points))
        axis.set(xscale="log", xlabel=cost, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("first-error F1")
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    first, last = list(panels)[0], list(panels)[-1]
    best = max(panels[first], key=lambda judge: max(f1 for _, f1, _ in panels[first][judge]))
    (few, *least), (many, *most) = min(panels[first][best]), max(panels[first][best])
    spent = {tuple(own): cost for cost, *own in panels[last][best]}  # by F1 and interval
    share, cost = f"1/{many / few:.0f} of the {first}", f"1/{spent[tuple(most)] / spent[tuple(least)]:.1f} of the cost"
    figure.suptitle(f"{best} with {share}: F1 {least[0]:.2f} instead of {most[0]:.2f}, for {cost}")
    return figure


def _points(axis: Axes, number: int, judge: str, points: Sequence[Point]) -> None:
    """One judge's points with their intervals."""
    f1 = [value for _, value, _ in points]
    low = [max(0.0, value - interval[0]) for _, value, interval in points]
    high = [max(0.0, interval[1] - value) for _, value, interval in points]
    style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": STYLES[number % 4], "capsize": 3}
    axis.errorbar([x for x, _, _ in points], f1, [low, high], label=judge, **style)
