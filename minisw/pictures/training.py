"""Figures of GRPO: advantages, log-probabilities, clipped loss, curves of a training, habits, P(Positive) along a reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.pictures import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HATCHES = ("", "//", "..", "xx")
LINE_WIDTH = 104  # characters of a line of shaded tokens


def advantages_of_groups(rewards: Sequence[Sequence[float]], advantages: Sequence[Sequence[float]]) -> Figure:
    """A panel for each group: the advantage of every completion as a lollipop, its reward below it."""
    figure, axes = canvas(8, 3, len(rewards), sharey=True)
    for number, (axis, own, values) in enumerate(zip(axes, rewards, advantages, strict=True)):
        markers = ["^" if value > 0 else "v" if value < 0 else "o" for value in values]
        for i, (value, marker) in enumerate(zip(values, markers, strict=True)):
            colour = COLOURS[0] if value > 0 else COLOURS[1] if value < 0 else "grey"
            axis.plot([i, i], [0, value], color=colour)
            axis.plot(i, value, color=colour, marker=marker, markersize=9)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xticks=range(len(own)), xticklabels=[f"{reward:g}" for reward in own], xlabel="rewards")
        axis.set_title(f"group {number + 1}")
        axis.margins(0.2)
    axes[0].set_ylabel("advantage")
    tied = sum(not any(values) for values in advantages)
    figure.suptitle(f"Tied groups, which teach nothing: {tied} of {len(rewards)}")
    return figure


def shaded_tokens(tokens: Sequence[str], logprobs: Sequence[float]) -> Figure:
    """A reply with every token on the colour of its log-probability (cividis); tokens below log ½ are underlined too."""
    import matplotlib as mpl

    colours, scale = mpl.colormaps["cividis"], mpl.colors.Normalize(-3, 0)
    places, line, column = [], 0, 0
    for token in tokens:
        if column + len(token) > LINE_WIDTH:
            line, column = line + 1, 0
        places.append((line, column))
        line, column = (line + 1, 0) if "\n" in token else (line, column + len(token))
    figure, (axis,) = canvas(8.6, 0.34 * (places[-1][0] + 1) + 1.1)
    for token, logprob, (row, at) in zip(tokens, logprobs, places, strict=True):
        text, shade = token.replace("\n", ""), colours(scale(logprob))
        axis.barh(row, len(text), left=at, height=0.9, color=shade)
        ink = "black" if scale(logprob) > 0.5 else "white"
        axis.text(at, row, text.replace("$", r"\$"), family="monospace", fontsize=9, va="center", color=ink)
        if logprob < math.log(0.5) and text:
            axis.plot([at, at + len(text)], [row + 0.45] * 2, color=COLOURS[1], linewidth=2)
    unsure = sum(logprob < math.log(0.5) for logprob in logprobs)
    axis.set(xlim=(0, LINE_WIDTH), ylim=(places[-1][0] + 0.6, -0.6))
    axis.set_title(f"Tokens less likely than ½ (underlined): {unsure} of {len(tokens)}")
    axis.axis("off")
    bar = figure.colorbar(mpl.cm.ScalarMappable(scale, colours), ax=axis, orientation="horizontal", fraction=0.08, aspect=60)
    bar.set_label("log-probability", fontsize=9)
    return figure


def clip_curves(ratios: Sequence[float], losses: Mapping[str, Sequence[float]], low: float, high: float) -> Figure:
    """The loss of one token and its slope against the ratio; `losses` has a curve for each advantage, by its name.

    Slopes are differences of neighbouring points.
    """
    figure, axes = canvas(8, 3.2, 2)
    for number, (name, values) in enumerate(losses.items()):
        style = {"color": COLOURS[number], "linestyle": ("-", "--")[number % 2], "label": name}
        axes[0].plot(ratios, values, **style)
        middle = [(a + b) / 2 for a, b in zip(ratios, ratios[1:], strict=False)]
        pairs = zip(zip(values, values[1:], strict=False), zip(ratios, ratios[1:], strict=False), strict=True)
        axes[1].plot(middle, [(b - a) / (y - x) for (a, b), (x, y) in pairs], **style)
    for axis, title in zip(axes, ("loss", "its slope: what the gradient gets"), strict=True):
        axis.axvspan(1 - low, 1 + high, color="grey", alpha=0.15)
        axis.set(xlabel="ratio", title=title)
    axes[0].legend(fontsize=9)
    figure.suptitle(f"Outside {1 - low:g} to {1 + high:g} the clip takes the gradient away, on one side only")
    return figure


def training_curves(curves: Mapping[str, Sequence[dict]], metrics: Mapping[str, str], title: str) -> Figure:
    """A panel for each metric (its key: its name), a curve for each training against its steps."""
    figure, axes = canvas(9, 3, len(metrics))
    for axis, (key, name) in zip(axes, metrics.items(), strict=True):
        for number, (training, steps) in enumerate(curves.items()):
            points = [(step["step"], step[key]) for step in steps if key in step]
            style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
            axis.plot([at for at, _ in points], [value for _, value in points], label=training, **style)
        axis.set(xlabel="step", title=name)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    figure.suptitle(title)
    return figure


def habits_in_training(curve: Sequence[dict], habits: Sequence[str]) -> Figure:
    """Two panels against the steps of a GRPO training: the share of each habit among the replies, and their mean length."""
    figure, axes = canvas(9, 3.4, 2)
    steps = [step["step"] for step in curve]
    shares = [[step[f"habits/{habit}"] for step in curve] for habit in habits]
    bands = axes[0].stackplot(steps, shares, labels=habits, colors=COLOURS, edgecolor="black", linewidth=0.5)
    for band, hatch in zip(bands, HATCHES, strict=False):
        band.set_hatch(hatch)
    axes[0].set(ylim=(0, 1), xlabel="step", title="share of the replies")
    axes[0].legend(fontsize=9, loc="lower left")
    lengths = [step["completions/mean_length"] for step in curve]
    axes[1].plot(steps, lengths, color=COLOURS[0], marker="o", markersize=4)
    axes[1].set(xlabel="step", title="tokens of a reply", ylim=(0, None))
    last, grown = max(habits, key=lambda habit: curve[-1][f"habits/{habit}"]), lengths[-1] / lengths[0]
    figure.suptitle(f"“{last}” takes over, and the analysis grows to {grown:.1f} times its length")
    return figure


def habits_of_judges(rows: Sequence[dict], judges: Sequence[str], habits: Sequence[str]) -> Figure:
    """The share of each habit in the greedy replies of some judges: a stacked bar each. `rows` as in `steps.judge_f1`."""
    by_id = {row["id"]: row for row in rows}
    figure, (axis,) = canvas(8, 0.6 * len(judges) + 1.3)
    starts = [0.0] * len(judges)
    for number, habit in enumerate(habits):
        shares = [by_id[judge][f"habits/{habit}"] for judge in judges]
        style = {"color": COLOURS[number], "hatch": HATCHES[number % len(HATCHES)], "edgecolor": "white", "label": habit}
        axis.barh(range(len(judges)), shares, left=starts, **style)
        for at, share in enumerate(shares):
            if share >= 0.05:
                style = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
                axis.text(starts[at] + share / 2, at, f"{share:.0%}", **style)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    most = {judge: max(habits, key=lambda habit: by_id[judge][f"habits/{habit}"]) for judge in judges}
    axis.set(yticks=range(len(judges)), yticklabels=[by_id[judge]["name"] for judge in judges], xlim=(0, 1))
    axis.set(ylim=(len(judges) - 0.5, -0.5), xlabel="share of the replies")
    axis.set_title("Most frequent: " + ", ".join(f"{by_id[judge]['name']} {habit}" for judge, habit in most.items()))
    figure.legend(fontsize=9, ncols=len(habits), loc="outside lower center")
    return figure


def p_positive_lines(curves: Mapping[str, Sequence[float]]) -> Figure:
    """P(Positive) if the verdict came after 0, 1, 2, … lines of an analysis; a curve for each reply."""
    figure, (axis,) = canvas(8, 3.2)
    for number, (name, values) in enumerate(curves.items()):
        axis.plot(range(len(values)), values, color=COLOURS[number], marker=MARKERS[number], label=name)
    axis.axhline(0.5, color="grey", linestyle="--", linewidth=0.8)
    axis.set(xlabel="lines of the analysis read", ylabel="P(Positive)", ylim=(-0.05, 1.05))
    moves = [f"{values[0]:.2f} → {values[-1]:.2f}" for values in curves.values()]
    axis.set_title("The analysis moves the verdict: " + ", ".join(moves))
    axis.legend(fontsize=9)
    return figure
