"""Figures of solutions: their chunks, values and verdicts, the F1 of judges, and the tries of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minisw.evaluate.stats import wilson
from minisw.pictures import COLOURS, canvas
from minisw.records import Try

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE, UNKNOWN = COLOURS[0], COLOURS[1], "#999999"
SIGNS = {True: "+", False: "−", None: "?"}
CHARACTERS = 80  # of a chunk that are shown


def colour_of(verdict: bool | None) -> str:
    """Blue for Positive, vermilion for Negative, grey for what is unknown."""
    return UNKNOWN if verdict is None else POSITIVE if verdict else NEGATIVE


def solution_strip(chunks: Sequence[str], title: str, verdicts: Sequence[bool | None] = ()) -> Figure:
    """The chunks of a solution, one below the other; with `verdicts`, each has its sign (+, −, or ? if unreadable)."""
    figure, (axis,) = canvas(8, 0.5 * len(chunks) + 0.6)
    for i, chunk in enumerate(chunks):
        text = " ".join(chunk.split())
        text = text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
        verdict = verdicts[i] if verdicts else None
        hatch = "//" if verdict is False else ""
        axis.barh(i, 1, height=0.8, color="white", edgecolor=colour_of(verdict), linewidth=2, hatch=hatch)
        axis.text(0.02, i, f"{i + 1}", va="center", fontsize=10, weight="bold", backgroundcolor="white")
        axis.text(0.07, i, text.replace("$", r"\$"), va="center", fontsize=10, backgroundcolor="white")
        if verdicts:
            axis.text(0.96, i, SIGNS[verdict], va="center", ha="center", fontsize=14, weight="bold", backgroundcolor="white")
    axis.set(xlim=(-0.005, 1.005), ylim=(len(chunks) - 0.5, -0.5), title=title)
    axis.axis("off")
    return figure


def cuts(ways: Mapping[str, Sequence[str]], title: str) -> Figure:
    """A text cut in several ways, a row for each: the parts as numbered boxes, as wide as they have characters."""
    figure, (axis,) = canvas(8, 0.6 * len(ways) + 1)
    for row, parts in enumerate(ways.values()):
        start = 0
        for number, part in enumerate(parts, 1):
            hatch = "//" if number % 2 else ""
            axis.barh(row, len(part), left=start, height=0.6, color="white", edgecolor=COLOURS[row], hatch=hatch, linewidth=1.5)
            axis.text(start + len(part) / 2, row, str(number), ha="center", va="center", fontsize=9, backgroundcolor="white")
            start += len(part)
    axis.set(yticks=range(len(ways)), yticklabels=[f"{name}: {len(parts)}" for name, parts in ways.items()])
    axis.set(ylim=(len(ways) - 0.5, -0.5), xlabel="characters of the text", title=title)
    return figure


def steepest(q: Sequence[float]) -> int:
    """The chunk, counted from 1, at which the value falls most."""
    return min(range(1, len(q)), key=lambda i: q[i] - q[i - 1])


def staircase(q: Sequence[float], hits: Sequence[Sequence[bool]]) -> Figure:
    """The value Q after every chunk, with Wilson's 95% interval and the counts behind it. The last value is the outcome."""
    figure, (axis,) = canvas(8, 3.4)
    axis.plot(range(len(q)), q, drawstyle="steps-post", color=COLOURS[0], alpha=0.5)
    for i, row in enumerate(hits):
        low, high = wilson(sum(row), len(row))
        axis.errorbar(i, q[i], [[max(0.0, q[i] - low)], [max(0.0, high - q[i])]], color=COLOURS[0], marker="o", capsize=4)
        axis.annotate(f"{sum(row)}/{len(row)}", (i, q[i]), xytext=(7, 4), textcoords="offset points", fontsize=9)
    axis.plot(len(q) - 1, q[-1], color=COLOURS[1], marker="s", linestyle="none", label="outcome")
    fall = steepest(q)
    axis.set(xlabel="chunks so far", ylabel="Q: share that ends right", ylim=(-0.08, 1.12), xticks=range(len(q)))
    axis.set_title(f"The value falls most at chunk {fall}: {q[fall - 1]:.2f} → {q[fall]:.2f}")
    axis.legend(fontsize=9)
    return figure


def judge_f1(rows: Sequence[dict], judges: Sequence[str]) -> Figure:
    """First-error F1 of some judges with 95% intervals: of one greedy reply and, where it was measured, of one sampled reply.

    `rows` are those of the metrics of stage evaluate, `judges` the ids of the rows to show, from top to bottom.
    """
    by_id = {row["id"]: row for row in rows}
    figure, (axis,) = canvas(8, 0.6 * len(judges) + 1.2)
    for kind, marker, colour, offset in (("", "o", COLOURS[0], -0.12), ("_sampled", "s", COLOURS[1], 0.12)):
        for at, judge in enumerate(judges):
            row = by_id[judge]
            if f"f1{kind}" in row:
                f1, (low, high) = row[f"f1{kind}"], row[f"interval{kind}"]
                error = [[max(0.0, f1 - low)], [max(0.0, high - f1)]]
                label = {"": "greedy", "_sampled": "one sample"}[kind] if at == _first(by_id, judges, kind) else None
                axis.errorbar(f1, at + offset, xerr=error, marker=marker, color=colour, capsize=4, label=label)
                place = {"xytext": (0, -13 if kind else 5), "textcoords": "offset points", "ha": "center"}  # outside the pair
                axis.annotate(f"{f1:.2f}", (f1, at + offset), fontsize=9, **place)
    best = max(judges, key=lambda judge: by_id[judge]["f1"])
    axis.set(yticks=range(len(judges)), yticklabels=[by_id[judge]["name"] for judge in judges], xlim=(0, 1.02))
    axis.set(ylim=(len(judges) - 0.5, -0.5), xlabel="first-error F1")
    axis.set_title(f"{by_id[best]['name']} finds the first error best: F1 {by_id[best]['f1']:.2f}")
    axis.legend(fontsize=9)
    return figure


def _first(by_id: Mapping[str, dict], judges: Sequence[str], kind: str) -> int:
    """The first judge that has this F1: only its point is named in the legend."""
    return next((at for at, judge in enumerate(judges) if f"f1{kind}" in by_id[judge]), -1)


def search_tree(tries: Sequence[Try]) -> Figure:
    """The tries of a search on one problem: a column for each place, the tries from top to bottom, the kept ones joined."""
    figure, (axis,) = canvas(8, 3.2)
    kept = [t for t in tries if t.kept]
    axis.plot([t.position + 1 for t in kept], [t.attempt for t in kept], color=COLOURS[0], zorder=1)
    for own, marker, colour, label in (
        (kept, "o", COLOURS[0], "kept"),
        ([t for t in tries if not t.kept], "X", COLOURS[1], "rejected"),
    ):
        x, y = [t.position + 1 for t in own], [t.attempt for t in own]
        axis.scatter(x, y, marker=marker, color=colour, label=label, s=90, zorder=2)
    for t in tries:
        place = {"xytext": (0, 7) if t.kept else (9, -4), "textcoords": "offset points"}  # lines run beside kept tries
        place["ha"] = "center" if t.kept else "left"
        axis.annotate(SIGNS[t.verdict], (t.position + 1, t.attempt), fontsize=11, **place)
    rejected = len(tries) - len(kept)
    axis.set(xlabel="chunk", ylabel="try")
    axis.set(xticks=sorted({t.position + 1 for t in tries}), yticks=sorted({t.attempt for t in tries}))
    axis.set_title(f"{len(kept)} chunks are kept and {rejected} rejected")
    axis.margins(0.15, 0.2)
    axis.invert_yaxis()
    axis.legend(fontsize=9)
    return figure
