"""The figures of the notebooks: what they show of records and metrics, and that all of them can be read without colour."""

import math

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from minisw.engine.machine import GB
from minisw.engine.memory import Estimate
from minisw.evaluate.stats import wilson
from minisw.labels import label
from minisw.pictures import COLOURS, canvas, machine, steps, training, values
from minisw.records import Try

CHUNKS = ["Add.\n12+3=15.", "Cost: $5. " + "long " * 20, "The answer is 15."]
Q = (1, 0.9, 0.6, 0.05, 0, 0.5)
FOUR = ("abs_q", "rel_effective", "rel_ratio", "relative_progress")


def row(judge: str, f1: float, **more) -> dict:
    return {"id": judge, "name": judge.upper(), "f1": f1, "interval": (f1 - 0.1, f1 + 0.2), **more}


ROWS = [
    row("base", 0.3, f1_sampled=0.5, interval_sampled=(0.4, 0.55), **{"habits/look": 0.8, "habits/redo": 0.2}),
    row("plain", 0.2),
    row("grpo", 0.9, f1_sampled=0.7, interval_sampled=(0.6, 0.8), **{"habits/look": 0.03, "habits/redo": 0.97}),
]
CURVE = [
    {"step": n, "reward": 0.5 + n / 10, "completions/mean_length": 40 * n, "habits/look": 1 - n / 3, "habits/redo": n / 3}
    for n in (1, 2, 3)
]
TRIES = [
    Try("p", position, attempt, "t", verdict, "", kept, 1, 1)
    for position, attempt, verdict, kept in [(0, 1, True, True), (1, 1, False, False), (1, 2, None, True), (2, 1, True, True)]
]
AGREEMENT = [
    {"rule": rule, "m": m, "balanced_agreement": value}
    for rule, m, value in [("abs_q", 1, 0.6), ("abs_q", 4, 0.7), ("rel_ratio", 1, 0.8), ("rel_ratio", 4, 0.75)]
]
INTERVALS = {(r["rule"], r["m"]): (r["balanced_agreement"] - 0.1, r["balanced_agreement"] + 0.05) for r in AGREEMENT}
RATIOS = [0.5, 0.7, 0.9, 1.1]
SMALL = Estimate(*(GB * n for n in (1, 0.5, 2, 0.25, 3, 0, 0.5)))  # 3.75 to train, 5 to sample
DIFFERENCES = {"a − b": (0.3, (0.1, 0.5)), "a − c": (0.1, (-0.1, 0.25)), "a − d": (-0.2, (-0.4, -0.1))}
HALVES = {"a − b": 0.2, "a − c": 0.3}
FIGURES = {
    "strip": lambda: steps.solution_strip(CHUNKS, "title", [True, False, None]),
    "bare": lambda: steps.solution_strip(CHUNKS, "title"),
    "cuts": lambda: steps.cuts({"a": ["12", "3"], "b": ["123"]}, "title"),
    "stairs": lambda: steps.staircase((0.5, 0.75, 0.0), [[True, False] * 2, [True] * 3 + [False]]),
    "f1": lambda: steps.judge_f1(ROWS, ["base", "plain", "grpo"]),
    "tree": lambda: steps.search_tree(TRIES),
    "advantages": lambda: training.advantages_of_groups([[1, 0], [1, 1]], [[1, -1], [0, 0]]),
    "tokens": lambda: training.shaded_tokens(["Due", ": $", "\n", "x"], [-0.1, -0.7, -3, math.log(0.5)]),
    "clip": lambda: training.clip_curves(RATIOS, {"A = 1": [1, 2, 2, 4], "A = −1": [0, 0, 1, 1]}, 0.2, 0.3),
    "curves": lambda: training.training_curves({"a": CURVE, "b": CURVE[:2]}, {"reward": "Reward", "kl": "KL"}, "title"),
    "habits": lambda: training.habits_in_training(CURVE, ["look", "redo"]),
    "judges": lambda: training.habits_of_judges(ROWS, ["base", "grpo"], ["look", "redo"]),
    "along": lambda: training.p_positive_lines({"right": [0.5, 0.9, 1.0], "wrong": [0.4, 0.1]}),
    "spread": lambda: values.estimate_spread([0.5, 0.1], [1, 4, 16]),
    "shared": lambda: values.shared_tokens([10, 20, 30], 8, 100),
    "grid": lambda: values.rules_grid(Q, FOUR),
    "plane": lambda: values.rule_plane(FOUR),
    "agreement": lambda: values.agreement_curves(AGREEMENT, INTERVALS),
    "memory": lambda: machine.memory_parts({"p": SMALL, "q": SMALL}, {"p": 4, "q": 8}),
    "zero": lambda: machine.intervals_beside_zero(DIFFERENCES),
    "halves": lambda: machine.half_widths(60, HALVES, [60, 240, 960], 0.1),
    "counts": lambda: values.label_counts({"all": [True, False, False], "balanced": [True, False]}),
}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def title_of(figure) -> str:
    return figure.get_suptitle() or figure.axes[0].get_title()


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_nine_points_and_every_figure_has_a_title(name):
    figure = FIGURES[name]()
    figure.canvas.draw()  # no text breaks the renderer, such as one with a dollar sign
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
    assert title_of(figure)


@pytest.mark.parametrize("name", ["f1", "curves", "along", "spread", "plane", "agreement", "zero", "halves"])
def test_series_differ_in_more_than_colour(name):
    figure = FIGURES[name]()
    lines = [line for axis in figure.axes for line in axis.lines if line.get_color() in COLOURS]
    lines = [line for line in lines if line.get_marker() not in ("", "None", "|", "_")]  # no caps
    marks = {(line.get_color(), line.get_marker()) for line in lines}
    by_colour = {colour: {mark[1] for mark in marks if mark[0] == colour} for colour, _ in marks}
    assert len(by_colour) > 1 and all(len(own) == 1 for own in by_colour.values())
    assert len(set.union(*by_colour.values())) == len(by_colour)


def test_a_canvas_has_its_panels_side_by_side():
    figure, axes = canvas(6, 2, 3)
    assert len(axes) == 3 and tuple(figure.get_size_inches()) == (6, 2)


# --- solutions -------------------------------------------------------------------------------------------------------------


def test_a_strip_has_each_chunk_in_a_line_with_its_sign():
    shown = texts(FIGURES["strip"]())
    assert "Add. 12+3=15." in shown and [t for t in shown if t in "+−?"] == ["+", "−", "?"]
    (long,) = [t for t in shown if t.startswith("Cost")]
    assert len(long.replace("\\", "")) == steps.CHARACTERS and long.endswith("…") and r"\$5" in long
    assert not {"+", "−", "?"} & {*texts(FIGURES["bare"]())}
    hatches = [bar.get_hatch() for bar in FIGURES["strip"]().axes[0].patches]
    assert hatches == ["", "//", ""]
    assert [steps.colour_of(v) for v in (True, False, None)] == [steps.POSITIVE, steps.NEGATIVE, steps.UNKNOWN]


def test_cuts_are_as_wide_as_their_parts():
    axis = FIGURES["cuts"]().axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches] == [(0, 2), (2, 1), (0, 3)]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a: 2", "b: 1"]


def test_a_staircase_has_values_intervals_and_its_steepest_fall():
    figure = FIGURES["stairs"]()
    assert title_of(figure) == "The value falls most at chunk 2: 0.75 → 0.00"
    assert {"2/4", "3/4", "outcome"} <= {*texts(figure)}
    (first, second) = [c.get_segments()[0] for c in figure.axes[0].collections]
    assert [tuple(point) for point in second] == [(1, pytest.approx(end)) for end in wilson(3, 4)]
    assert [tuple(point) for point in first] == [(0, pytest.approx(end)) for end in wilson(2, 4)]
    assert steps.steepest((0.5, 0.6, 0.6)) == 2 and steps.steepest((0.9, 0.1, 0.0)) == 1


def test_f1_has_both_kinds_of_reply_where_they_were_measured():
    figure = FIGURES["f1"]()
    assert title_of(figure) == "GRPO finds the first error best: F1 0.90"
    points = sorted((round(line.get_ydata()[0]), line.get_xdata()[0], line.get_marker()) for line in figure.axes[0].lines
                    if line.get_marker() in "os")  # fmt: skip
    assert points == [(0, 0.3, "o"), (0, 0.5, "s"), (1, 0.2, "o"), (2, 0.7, "s"), (2, 0.9, "o")]
    ends = {tuple(round(float(x), 2) for x, _ in c.get_segments()[0]) for c in figure.axes[0].collections}
    assert {(0.2, 0.5), (0.4, 0.55), (0.8, 1.1)} <= ends
    legend = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert legend == ["greedy", "one sample"]
    assert [t.get_text() for t in steps.judge_f1(ROWS, ["plain"]).axes[0].get_legend().get_texts()] == ["greedy"]


def test_a_tree_joins_what_was_kept():
    axis = FIGURES["tree"]().axes[0]
    assert [tuple(map(int, xy)) for xy in axis.lines[0].get_xydata()] == [(1, 1), (2, 2), (3, 1)]
    kept, rejected = ([tuple(map(int, xy)) for xy in c.get_offsets()] for c in axis.collections)
    assert (kept, rejected) == ([(1, 1), (2, 2), (3, 1)], [(2, 1)])
    assert [t.get_text() for t in axis.texts] == ["+", "−", "?", "+"] and axis.yaxis_inverted()
    assert axis.get_title() == "3 chunks are kept and 1 rejected"


# --- training --------------------------------------------------------------------------------------------------------------


def test_lollipops_point_where_the_advantage_does():
    figure = FIGURES["advantages"]()
    lines = [[line for line in axis.lines if line.get_marker() != "None"] for axis in figure.axes]
    marks = [[(line.get_ydata()[0], line.get_marker()) for line in own] for own in lines]
    assert marks == [[(1, "^"), (-1, "v")], [(0, "o"), (0, "o")]]
    assert title_of(figure) == "Tied groups, which teach nothing: 1 of 2"


def test_unlikely_tokens_are_underlined_and_lines_break():
    axis = FIGURES["tokens"]().axes[0]
    assert axis.get_title() == "Tokens less likely than ½ (underlined): 2 of 4"
    assert [tuple(line.get_xdata()) for line in axis.lines] == [(3, 6)]  # ": $" alone: a line break is not drawn
    assert [(t.get_position(), t.get_text()) for t in axis.texts][-1] == ((0, 1), "x")
    wide = training.shaded_tokens(["a" * training.LINE_WIDTH, "b"], [0, 0]).axes[0]
    assert [t.get_position() for t in wide.texts] == [(0, 0), (0, 1)]


def test_the_slope_is_that_of_the_loss():
    figure = FIGURES["clip"]()
    (first, second) = figure.axes[1].lines[:2]
    assert list(first.get_xdata()) == pytest.approx([0.6, 0.8, 1.0]) and list(first.get_ydata()) == pytest.approx([5, 0, 10])
    assert first.get_linestyle() != second.get_linestyle()
    assert title_of(figure).startswith("Outside 0.8 to 1.3 the clip")


def test_curves_leave_out_what_a_step_did_not_measure():
    left, right = FIGURES["curves"]().axes
    assert [list(line.get_xdata()) for line in left.lines] == [[1, 2, 3], [1, 2]]
    assert list(left.lines[1].get_ydata()) == [0.6, 0.7] and [len(line.get_xdata()) for line in right.lines] == [0, 0]
    assert (left.get_title(), right.get_title()) == ("Reward", "KL")


def test_habits_are_shares_and_the_title_names_the_winner():
    figure = FIGURES["habits"]()
    assert title_of(figure) == "“redo” takes over, and the analysis grows to 3.0 times its length"
    assert list(figure.axes[1].lines[0].get_ydata()) == [40, 80, 120]
    assert len({band.get_hatch() for band in figure.axes[0].collections}) == 2
    bars = FIGURES["judges"]()
    widths = [(round(patch.get_x(), 2), round(patch.get_width(), 2)) for patch in bars.axes[0].patches]
    assert widths == [(0, 0.8), (0, 0.03), (0.8, 0.2), (0.03, 0.97)]
    assert title_of(bars) == "Most frequent: BASE look, GRPO redo"
    assert {"80%", "20%", "97%"} <= {*texts(bars)} and "3%" not in texts(bars)


def test_the_lines_of_p_positive_begin_before_the_first_line():
    figure = FIGURES["along"]()
    assert [list(line.get_xdata()) for line in figure.axes[0].lines[:2]] == [[0, 1, 2], [0, 1]]
    assert title_of(figure) == "The analysis moves the verdict: 0.50 → 1.00, 0.40 → 0.10"


# --- values ----------------------------------------------------------------------------------------------------------------


def test_the_band_is_that_of_a_share():
    axis = FIGURES["spread"]().axes[0]
    (half, tenth) = (band.get_paths()[0].vertices for band in axis.collections)
    at_16 = {round(float(y), 3) for x, y in half if x == 16}
    assert at_16 == {0.255, 0.745}  # 0.5 ± 1.96 · 0.5 / 4
    assert {round(float(y), 3) for x, y in tenth if x == 4} == {0.0, 0.394}
    assert axis.get_title() == "16 times the completions narrow the band 4 times"


def test_sharing_reads_the_longest_prefix_once():
    figure = FIGURES["shared"]()
    assert [bar.get_width() for bar in figure.axes[0].patches] == [480, 100, 30, 100]
    assert title_of(figure) == "Sharing reads 16 times fewer tokens" and {" 480 + 100", " 30 + 100"} <= {*texts(figure)}


def test_the_grid_has_the_signs_of_the_rules():
    figure = FIGURES["grid"]()
    signs = [t.get_text() for t in figure.axes[0].texts]
    assert signs == [steps.SIGNS[value] for rule in FOUR for value in label(Q, rule)]
    assert title_of(figure) == "The rules disagree about 3 of 5 chunks"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()][:2] == ["1 → 0.9", "0.9 → 0.6"]


def test_a_boundary_is_the_smallest_value_that_passes():
    assert values.boundary("abs_q", 0.7) == 0.01
    assert values.boundary("rel_ratio", 0.5) == 0.41 and values.boundary("relative_progress", 0.5) == 0.4
    assert values.boundary("relative_progress", 0.0) is None
    lines = {line.get_label(): line for line in FIGURES["plane"]().axes[0].lines}
    assert [*lines][:4] == [*FOUR] and len(lines["relative_progress"].get_xdata()) == values.GRID
    assert len({line.get_linestyle() for line in list(lines.values())[:4]}) == 4


def test_agreement_has_its_intervals_and_its_best():
    figure = FIGURES["agreement"]()
    assert title_of(figure) == "rel_ratio with M = 1 agrees best with exact labels: 0.80"
    ends = [[tuple(round(float(y), 2) for _, y in segment) for segment in c.get_segments()] for c in figure.axes[0].collections]
    assert ends == [[(0.5, 0.65), (0.6, 0.75)], [(0.7, 0.85), (0.65, 0.8)]]


def test_counts_are_of_both_sides():
    figure = FIGURES["counts"]()
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 1, 2, 1]
    assert title_of(figure) == "2 of 3 labels are left"
    legend = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert legend == ["positive (+)", "negative (−)"]


# --- a machine of one's own ------------------------------------------------------------------------------------------------


def test_bars_of_memory_end_at_the_peaks_and_the_title_counts_what_fits():
    figure = FIGURES["memory"]()
    axis = figure.axes[0]
    assert title_of(figure) == "1 of 2 presets fit their cards"
    ends = {}
    for bar in axis.patches:
        if bar.get_width():
            row = round(bar.get_y() + bar.get_height() / 2, 2)
            ends[row] = max(ends.get(row, 0), bar.get_x() + bar.get_width())
    assert [ends[row] for row in sorted(ends)] == [SMALL.training_peak / GB, SMALL.sampling_peak / GB] * 2
    assert [round(line.get_xdata()[0], 2) for line in axis.lines] == [3.6, 7.2]
    labels = [tick.get_text() for tick in axis.get_yticklabels()]
    assert labels == ["p, training", "p, sampling", "q, training", "q, sampling"]
    styles = {(bar.get_facecolor(), bar.get_hatch()) for bar in axis.patches if bar.get_width()}
    assert len(styles) == len({hatch for _, hatch in styles}) == 6  # nothing was to be merged; no colour alone


def test_an_interval_is_settled_if_zero_is_outside():
    figure = FIGURES["zero"]()
    assert title_of(figure) == "2 of 3 differences are settled"
    assert {"+0.30, settled", "+0.10, not settled", "-0.20, settled"} <= {*texts(figure)}
    ends = [tuple(round(float(x), 2) for x, _ in c.get_segments()[0]) for c in figure.axes[0].collections]
    assert ends == [interval for _, interval in DIFFERENCES.values()]
    points = [line for line in figure.axes[0].lines if line.get_marker() in "os"]
    assert [(line.get_marker(), line.get_markerfacecolor() == "white") for line in points] == [
        ("o", False), ("s", True), ("o", False)
    ]  # fmt: skip


def test_half_widths_fall_with_the_root_of_the_number():
    axis = FIGURES["halves"]().axes[0]
    assert [list(line.get_ydata()) for line in axis.lines[:2]] == [
        pytest.approx([0.2, 0.1, 0.05]), pytest.approx([0.3, 0.15, 0.075])
    ]  # fmt: skip
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["60", "240", "960"]
    assert axis.get_title() == "A half-width of 0.1 needs up to 540 solutions"
    assert machine.needed_items(60, 0.2, 0.2) == 60 and machine.needed_items(60, 0.2, 0.1) == 240
