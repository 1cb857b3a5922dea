"""The figures of notebooks 01 and 06: what they show of chunks, targets, luck and scores, and that they can be read in grey."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from minisw.evaluate.stats import wilson
from minisw.pictures import COLOURS, segments, selection

KINDS = [["prompt", "target", "end token", "padding"], ["prompt", "prompt", "target", "target"]]
WORDS = [["Add:", "$5", "<end>", "<pad>"], ["Add:", "7", "8", "9"]]
CURVE = [{"step": n, "loss": 2 / n} for n in (1, 2, 3)]
ROWS = {
    "before": {"accuracy": 0.6, "interval": (0.5, 0.7), "difference": 0.1, "difference_interval": (0.02, 0.2)},
    "any": {"accuracy": 0.5, "interval": (0.4, 0.6)},
    "judge": {"accuracy": 0.52, "interval": (0.4, 0.65), "difference": 0.02, "difference_interval": (-0.05, 0.1)},
}
FORMS = {"original": (0.5, (0.4, 0.6)), "padded": (0.8, (0.7, 0.95)), "cut": (0.3, (0.1, 0.4))}
SHARES = {"strict": {"exact": 1.0, "spaces": 0.0}, "lenient": {"exact": 1.0, "spaces": 0.9}}
FIGURES = {
    "accepted": lambda: segments.accepted(SHARES),
    "targets": lambda: segments.target_rows(WORDS, KINDS),
    "format": lambda: segments.format_learnt(CURVE, {"before": (0, 5, 10), "after": (9, 4, 10)}),
    "counts": lambda: segments.chunk_counts({"chunks": [2, 2, 4], "lines": [4, 5, 3], "all": [1, 1, 1]}),
    "bars": lambda: selection.luck_bars({"train": (6, 1, 3), "test": (2, 0, 2)}, "1 of 9 is luck"),
    "scores": lambda: selection.luck_scores([1.0, 1.0, 0.8, 0.2], [0.75, 1.0]),
    "taught": lambda: selection.taught(ROWS, "any"),
    "gamed": lambda: selection.gamed(FORMS),
}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def title_of(figure) -> str:
    return figure.get_suptitle() or figure.axes[0].get_title()


def points(axis) -> list[tuple[float, float]]:
    """The points of error bars, as (value, row)."""
    lines = [line for line in axis.lines if line.get_marker() in "osD^v" and line.get_marker()]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def ends(axis) -> list[tuple[float, float]]:
    """The ends of the intervals of error bars."""
    segments_ = [collection.get_segments()[0] for collection in axis.collections]
    return [(pytest.approx(segment[0][0]), pytest.approx(segment[1][0])) for segment in segments_]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_nine_points_and_every_figure_has_a_title(name):
    figure = FIGURES[name]()
    figure.canvas.draw()  # no text breaks the renderer, such as one with a dollar sign
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
    assert title_of(figure)


@pytest.mark.parametrize("name", ["format", "counts", "taught", "gamed"])
def test_series_differ_in_more_than_colour(name):
    lines = [line for axis in FIGURES[name]().axes for line in axis.lines if line.get_color() in COLOURS]
    marks = {(line.get_color(), line.get_marker()) for line in lines if line.get_marker() not in ("", "None", "|", "_")}
    assert len({colour for colour, _ in marks}) == len({marker for _, marker in marks}) == len(marks) > 1


@pytest.mark.parametrize("name", ["accepted", "bars", "scores"])
def test_bars_differ_in_their_hatches(name):
    bars = FIGURES[name]().axes[0].patches
    pairs = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(pairs) == len({hatch for _, hatch in pairs}) > 1


# --- segments --------------------------------------------------------------------------------------------------------------


def test_filters_are_compared_by_kind():
    figure = FIGURES["accepted"]()
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 0, 1, 0.9]
    assert title_of(figure) == "“spaces”: strict accepts 0% of the copies, lenient 90%"
    assert title_of(segments.accepted({"a": {"x": 1.0}, "b": {"x": 1.0}})).endswith("a accepts 100% of the copies, b 100%")


def test_kinds_of_a_row_follow_its_targets_and_not_its_tokens():
    target = [False, True, True, False]
    assert segments.kinds_of([7, 8, 0, 0], target, end=0, length=3) == ["prompt", "target", "end token", "padding"]
    assert segments.kinds_of([7, 0, 8, 0], target, end=0, length=3) == ["prompt", "target", "target", "padding"]
    assert segments.kinds_of([0, 8], [False, False], end=0, length=1) == ["prompt", "padding"]


def test_trained_tokens_are_underlined_and_counted():
    axis = FIGURES["targets"]().axes[0]
    assert title_of(axis.figure).startswith("4 of 8 positions are trained")
    assert [tuple(line.get_xdata()) for line in axis.lines] == [(4, 6), (6, 11), (5, 6), (6, 7)]
    first, *_, last = axis.patches
    assert (first.get_y(), last.get_y()) == (pytest.approx(-0.45), pytest.approx(1.15))  # a gap between two rows
    hatches = {bar.get_hatch() for bar in axis.patches}
    assert "...." in hatches and len({bar.get_facecolor() for bar in axis.patches}) == 4


def test_long_rows_break_at_the_width():
    wide = ["x" * segments.LINE_WIDTH, "y"]
    axis = segments.target_rows([wide], [["prompt", "target"]]).axes[0]
    assert [(bar.get_x(), round(bar.get_y() + 0.45, 2)) for bar in axis.patches] == [(0, 0), (0, 1)]


def test_the_format_has_shares_with_wilson_intervals():
    left, right = FIGURES["format"]().axes
    assert list(left.lines[0].get_ydata()) == [2, 1, 2 / 3]
    assert [value for value, _ in points(right)] == [0, 0.9, 0.5, 0.4]
    assert ends(right) == [wilson(0, 10), wilson(9, 10), wilson(5, 10), wilson(4, 10)]
    assert title_of(right.figure).endswith("0 of 10 solutions keep it at first, 9 of 10 at last")


def test_histograms_of_chunks_are_shares_and_add_up():
    figure = FIGURES["counts"]()
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert all(sum(shares) == pytest.approx(1) for shares in lines.values())
    assert lines["chunks: mean 2.7"] == pytest.approx([0, 2 / 3, 0, 1 / 3, 0])
    assert title_of(figure) == "On average 2.7 chunks per solution; cut at lines, 4.0 parts"


# --- selection -------------------------------------------------------------------------------------------------------------


def test_bars_of_luck_are_shares_with_their_counts():
    figure = FIGURES["bars"]()
    bars = [(round(bar.get_x(), 2), round(bar.get_width(), 2)) for bar in figure.axes[0].patches]
    assert bars == [(0, 0.6), (0.6, 0.1), (0.7, 0.3), (0, 0.5), (0.5, 0), (0.5, 0.5)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["6", "1", "3", "2", "2"]  # no 0
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [selection.HONEST, selection.LUCKY, selection.WRONG]


@pytest.mark.parametrize("score, at", [(0, 0), (0.49, 0), (0.5, 1), (0.7, 2), (0.9, 3), (0.999, 3), (1, 4)])
def test_a_bin_begins_at_its_edge(score, at):
    assert selection.score_bin(score) == at


def test_the_number_of_a_narrow_bar_stands_above_it():
    axis = selection.luck_bars({"train": (98, 2, 0)}, "title").axes[0]
    assert [(text.get_text(), text.get_position()[1] < 0) for text in axis.texts] == [("98", False), ("2", True)]


def test_scores_are_shares_of_each_kind():
    figure = FIGURES["scores"]()
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [0.25, 0, 0.25, 0, 0.5, 0, 0, 0.5, 0, 0.5]
    assert title_of(figure) == "The full score goes to 50% of the honest solutions, and to 50% of the lucky ones"
    assert selection.luck_scores([1.0], []).axes[0].get_title().endswith("0% of the lucky ones")


def test_differences_are_shown_where_there_are_any_and_the_title_reads_the_interval():
    figure = FIGURES["taught"]()
    left, right = figure.axes
    assert points(left) == [(0.6, 0), (0.5, 1), (0.52, 2)] and points(right) == [(0.1, 0), (0.02, 2)]
    assert ends(right) == [(0.02, 0.2), (-0.05, 0.1)]
    assert "no difference is shown, the interval is -0.05 to +0.10" in title_of(figure)
    clear = ROWS | {"judge": ROWS["judge"] | {"difference": 0.08, "difference_interval": (0.01, 0.2)}}
    assert ": a difference is shown" in title_of(selection.taught(clear, "any"))


def test_the_best_form_is_named_unless_it_is_the_original():
    assert title_of(FIGURES["gamed"]()) == "“padded” lifts the score of wrong solutions from 0.50 to 0.80"
    assert points(FIGURES["gamed"]().axes[0]) == [(0.5, 0), (0.8, 1), (0.3, 2)]
    honest = {"original": (0.5, (0.4, 0.6)), "cut": (0.3, (0.1, 0.4))}
    assert title_of(selection.gamed(honest)) == "No other form scores higher than 0.50"
