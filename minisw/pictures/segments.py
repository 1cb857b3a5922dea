"""Figures of segmentation (StepWiser §3.1): what SFT trains, how the format is learnt, and how many chunks a solution has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.stats import mean, wilson
from minisw.pictures import COLOURS, MARKERS, canvas
from minisw.pictures.training import LINE_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HATCHES = ("", "//")
PROMPT, TARGET, END, PAD = "prompt", "target", "end token", "padding"
SHADES = {PROMPT: "#DDDDDD", TARGET: "#CCE3F2", END: COLOURS[4], PAD: "white"}
GIVEN_HATCH = {PROMPT: "", TARGET: "", END: "", PAD: "...."}


def accepted(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """The share of copies that each filter accepts, by what is wrong with the copy: `shares` maps a filter to kind and share."""
    figure, (axis,) = canvas(8, 2.8)
    kinds = list(next(iter(shares.values())))
    for number, (name, own) in enumerate(shares.items()):
        for at, kind in enumerate(kinds):
            style = {"color": COLOURS[number], "hatch": HATCHES[number], "edgecolor": "white", "label": None if at else name}
            axis.bar(at + 0.4 * number - 0.2, own[kind], width=0.38, **style)
            text = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9}
            axis.annotate(f"{own[kind]:.0%}", (at + 0.4 * number - 0.2, own[kind]), **text)
    axis.set(xticks=range(len(kinds)), xticklabels=kinds, ylim=(0, 1.18), ylabel="share accepted")
    (first, one), (second, other) = list(shares.items())[:2]
    widest = max(kinds, key=lambda kind: abs(other[kind] - one[kind]))
    axis.set_title(f"“{widest}”: {first} accepts {one[widest]:.0%} of the copies, {second} {other[widest]:.0%}")
    figure.legend(fontsize=9, ncols=2, loc="outside lower center")
    return figure


def kinds_of(ids: Sequence[int], target: Sequence[bool], end: int, length: int) -> list[str]:
    """What each position of a padded row is: prompt, target, end token (the last target, if it is that token) or padding.

    `length` is that of the row without its padding.
    """
    kinds = []
    for i, (token, wanted) in enumerate(zip(ids, target, strict=True)):
        last = wanted and i == length - 1 and token == end
        kinds.append(END if last else TARGET if wanted else PROMPT if i < length else PAD)
    return kinds


def target_rows(rows: Sequence[Sequence[str]], kinds: Sequence[Sequence[str]]) -> Figure:
    """The rows of a batch, a paragraph each: every token on the shade of its kind; those that are trained are underlined."""
    places, line = [], 0  # (row, token, line, column)
    for number, row in enumerate(rows):
        column = 0
        for i, token in enumerate(row):
            if column + len(token) > LINE_WIDTH:
                line, column = line + 1, 0
            places.append((number, i, line, column))
            column += len(token)
        line += 1.6
    figure, (axis,) = canvas(8.6, 0.3 * (line + 1) + 0.8)
    shown = set()
    for number, i, at, column in places:
        text, kind = rows[number][i], kinds[number][i]
        style = {"color": SHADES[kind], "hatch": GIVEN_HATCH[kind], "edgecolor": "white" if kind != PAD else "#AAAAAA"}
        axis.barh(at, len(text), left=column, height=0.9, linewidth=0.5, label=None if kind in shown else kind, **style)
        shown.add(kind)
        axis.text(column, at, text.replace("$", r"\$"), family="monospace", fontsize=9, va="center")
        if kind in (TARGET, END):
            axis.plot([column, column + len(text)], [at + 0.45] * 2, color=COLOURS[0], linewidth=1.5)
    axis.set(xlim=(0, LINE_WIDTH), ylim=(line - 0.6, -0.7))
    trained = sum(kind in (TARGET, END) for own in kinds for kind in own)
    axis.set_title(f"{trained} of {sum(map(len, kinds))} positions are trained (underlined), the end tokens among them")
    axis.axis("off")
    figure.legend(fontsize=9, ncols=len(shown), loc="outside lower center")
    return figure


def format_learnt(curve: Sequence[dict], groups: Mapping[str, tuple[int, int, int]]) -> Figure:
    """Left: the SFT loss against the steps. Right: the shares of solutions that keep the format and that are right.

    `groups` maps a policy to (solutions that keep the format, right solutions, all solutions); shares have Wilson's 95% interval.
    """
    figure, axes = canvas(9, 3.4, 2)
    figure.get_layout_engine().set(wspace=0.08)
    axes[0].plot([step["step"] for step in curve], [step["loss"] for step in curve], color=COLOURS[0], marker="o", markersize=3)
    axes[0].set(xlabel="step", ylabel="loss (nats per target token)", ylim=(0, None))
    axes[0].grid(alpha=0.3)
    for number, name in enumerate(("keeps the format", "right answer")):
        for at, (*counts, total) in enumerate(groups.values()):
            share, (low, high) = counts[number] / total, wilson(counts[number], total)
            error = [[max(0.0, share - low)], [max(0.0, high - share)]]
            style = {"color": COLOURS[number], "marker": MARKERS[number], "capsize": 4, "label": None if at else name}
            axes[1].errorbar(share, at + 0.24 * number - 0.12, xerr=error, linestyle="none", **style)
            axes[1].annotate(f"{share:.2f}", (share, at + 0.24 * number - 0.12), xytext=(0, 5), textcoords="offset points",
                             fontsize=9, ha="center")  # fmt: skip
    axes[1].set(yticks=range(len(groups)), yticklabels=list(groups), xlim=(-0.12, 1.12), xlabel="share of the solutions")
    axes[1].set_ylim(len(groups) - 0.5, -0.6)
    figure.legend(fontsize=9, ncols=2, loc="outside lower right")
    (first, *_, all_first), (last, *_, all_last) = list(groups.values())[0], list(groups.values())[-1]
    figure.suptitle(f"The format is learnt: {first} of {all_first} solutions keep it at first, {last} of {all_last} at last")
    return figure


def chunk_counts(counts: Mapping[str, Sequence[int]]) -> Figure:
    """How many parts a solution has under some segmentations of the same texts: a histogram each, with its mean in the legend.

    The title compares the first segmentation with the second one.
    """
    figure, (axis,) = canvas(8, 3.4)
    most = max(max(own) for own in counts.values())
    for number, (name, own) in enumerate(counts.items()):
        shares = [own.count(k) / len(own) for k in range(1, most + 1)]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
        axis.plot(range(1, most + 1), shares, label=f"{name}: mean {mean(own):.1f}", **style)
    axis.set(xlabel="parts of a solution", ylabel="share of the solutions", ylim=(0, None), xticks=range(1, most + 1))
    (first, own), (second, others) = list(counts.items())[:2]
    axis.set_title(f"On average {mean(own):.1f} {first} per solution; cut at {second}, {mean(others):.1f} parts")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="upper right")
    return figure
