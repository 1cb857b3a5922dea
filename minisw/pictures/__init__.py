"""Pictures for documents and notebooks, drawn with matplotlib (extra "pictures").

    python -m minisw.pictures data/results/study/data-efficiency     writes curves.svg and curves.png beside results.json
    python -m minisw.pictures data/results/study/search              writes pareto.svg and pareto.png beside results.json
    python -m minisw.pictures data/results/ladder                    writes ladder.svg and ladder.png beside results.json

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every series also has a marker of its own, and lines are
dashed where markers begin anew. A picture's finding stands in its title or its alt text, written from the numbers.

The figures of the notebooks are functions of records and metrics too: `steps` (solutions, verdicts, search), `values` (§3.2),
`training` (§3.3), `judges` (how judges compare) and `search` (§4.4). No text is smaller than 9 points, and no meaning is in a
colour alone: signs, numbers, hatches and markers say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minisw.evaluate.stats import mean
from minisw.report.claims import read_json
from minisw.report.study_tables import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
LABELS, COMPUTE = "labels", "compute"
ORACLE = "oracle"  # as study/search.py names it


def canvas(width: float, height: float, panels: int = 1, **options: object) -> tuple[Figure, list[Axes]]:
    """A new figure of this size in inches, and its panels, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return figure, list(axes[0])


def efficiency_points(rows: Sequence[dict], x: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """The curve of each judge: points (x, mean F1, lowest, highest) over seeds, by rising x.

    `x` is "labels", or "compute": FLOPs of the training, and of the rollouts that so many Monte-Carlo labels take. Rows are
    those of a study's results.json; a judge that uses no labels, and arms with Monte-Carlo labels, have no point.
    """
    cost = flops_of_a_label(rows)
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["labels"] and not row["arm"].startswith("mc"):
            groups.setdefault((row["judge"], row["arm"]), []).append(row)
    curves: dict[str, list] = {}
    for (judge, _), own in groups.items():
        at = mean([row["labels"] if x == LABELS else row["training"]["flops"] + cost * row["labels"] for row in own])
        f1 = [row["f1"] for row in own]
        curves.setdefault(judge, []).append((at, mean(f1), min(f1), max(f1)))
    return {judge: sorted(points) for judge, points in curves.items()}


def flops_of_a_label(rows: Sequence[dict]) -> float:
    """What a balanced Monte-Carlo label costs: FLOPs of the largest such pool over its labels, mean of seeds; 0 without one."""
    pools = [row for row in rows if row["arm"].startswith("mc") and row["labels"] and row.get("labelling")]
    most = max((int(row["arm"].removeprefix("mc")) for row in pools), default=0)
    costs = [row["labelling"]["flops"] / row["labels"] for row in pools if row["arm"] == f"mc{most}"]
    return mean(costs) if costs else 0.0


def efficiency_curves(rows: Sequence[dict]) -> Figure:
    """Two panels: first-error F1 of every judge against its labels, and against the compute of its training and its labels.

    Lines are means over seeds, bands reach from the lowest to the highest seed; a dashed line is the untrained judge.
    """
    figure, axes = canvas(9, 3.6, 2, sharey=True)
    for axis, x, title in ((axes[0], LABELS, "labelled steps"), (axes[1], COMPUTE, "labels and training (FLOPs)")):
        for number, (judge, points) in enumerate(efficiency_points(rows, x).items()):
            at, f1, low, high = zip(*points, strict=True)
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(at, f1, color=colour, marker=MARKERS[number % len(MARKERS)], label=judge.replace("_", " "))
            axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        untrained = [row["f1"] for row in rows if row["judge"] == "untrained"]
        if untrained:
            axis.axhline(mean(untrained), color="grey", linestyle="--", label="untrained")
        axis.set(xscale="log", xlabel=title, ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("first-error F1, greedy")
    axes[0].legend(fontsize=9)
    return figure


def efficiency_alt(rows: Sequence[dict]) -> str:
    """The alt text of `efficiency_curves`: where each judge's curve begins and ends."""
    parts = [
        f"{judge.replace('_', ' ')} goes from {points[0][1]:.2f} with {points[0][0]:.0f} labels to {points[-1][1]:.2f} with "
        f"{points[-1][0]:.0f}"
        for judge, points in efficiency_points(rows, LABELS).items()
    ]
    return "First-error F1 against labels and against the compute of labels and training: " + "; ".join(parts) + "."


# --- search at equal compute ---------------------------------------------------------------------------------------------


def pareto_points(rows: Sequence[dict], split: str) -> dict[str, list[tuple[float, float]]]:
    """The curve of each method and control on a split: points (tokens of policy and judge, accuracy), means over seeds."""
    curves: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        if row["split"] == split:
            curves.setdefault(row["arm"], {}).setdefault(row["multiple"], []).append(row)
    return {
        arm: sorted((mean([row["tokens"] for row in own]), mean([row["accuracy"] for row in own])) for own in budgets.values())
        for arm, budgets in curves.items()
    }


def pareto_front(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[tuple[float, float, str]]:
    """The points that no cheaper point reaches, (tokens, accuracy, method), by rising tokens.

    Oracles are left out: their labels are not to be had.
    """
    points = [(tokens, accuracy, arm) for arm, own in curves.items() if arm != ORACLE for tokens, accuracy in own]
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def pareto_curves(rows: Sequence[dict]) -> Figure:
    """A panel for each split: accuracy against all sampled tokens of a problem; a grey line of steps is the Pareto front."""
    import matplotlib.pyplot as plt

    splits = {split: title for split, title in SPLITS.items() if pareto_points(rows, split)}
    size = (4.5 * len(splits) + 2, 4)
    figure, axes = plt.subplots(1, len(splits), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (split, title) in zip(axes[0], splits.items(), strict=True):
        curves = pareto_points(rows, split)
        for number, (arm, points) in enumerate(curves.items()):
            again, place = divmod(number, len(COLOURS))
            style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 4, "linestyle": DASHES[again % 3]}
            axis.plot(*zip(*points, strict=True), label=arm.replace("_", " "), **style)
        front = pareto_front(curves)
        steps = {"where": "post", "color": "grey", "alpha": 0.4, "linewidth": 4}
        axis.step([point[0] for point in front], [point[1] for point in front], label="Pareto front", **steps)
        axis.set(xscale="log", xlabel="tokens of policy and judge a problem", ylim=(0, 1), title=title)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy")
    axes[0][-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pareto_alt(rows: Sequence[dict]) -> str:
    """The alt text of `pareto_curves`: the points of each front."""
    parts = []
    for split, title in SPLITS.items():
        front = pareto_front(pareto_points(rows, split))
        points = [f"{arm.replace('_', ' ')} {accuracy:.2f} with {tokens:.0f} tokens" for tokens, accuracy, arm in front]
        if points:
            parts.append(f"{title}: {', '.join(points)}")
    return "Accuracy against tokens of policy and judge, log scale; the Pareto front on " + "; on ".join(parts) + "."


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture of a study's folder. A mistake of the user ends in one line and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1:
            raise ValueError("give one folder with the results.json of --study data-efficiency, search or ladder")
        folder = Path(arguments[0])
        found = read_json(folder / "results.json") or {}
        if any(pareto_points(found.get("pareto", []), split) for split in SPLITS):
            name, rows, draw, describe = "pareto", found["pareto"], pareto_curves, pareto_alt
        elif found.get("ladder"):
            from minisw.pictures.ladder import ladder_alt, ladder_figure

            name, rows, draw, describe = "ladder", found["ladder"], ladder_figure, ladder_alt
        elif efficiency_points(found.get("rows", []), LABELS):
            name, rows, draw, describe = "curves", found["rows"], efficiency_curves, efficiency_alt
        else:
            raise ValueError(f"{folder} holds no results of --study data-efficiency, search or ladder: run one of them first")
        try:
            import matplotlib
        except ImportError:
            raise ValueError("drawing needs matplotlib: pip install 'minisw[pictures]'") from None
        matplotlib.use("agg")
        figure = draw(rows)
        for kind in ("svg", "png"):
            figure.savefig(folder / f"{name}.{kind}", dpi=110)
        print(describe(rows))
    except (ValueError, OSError) as error:
        print(f"minisw: {error}", file=sys.stderr)
        raise SystemExit(2) from None
