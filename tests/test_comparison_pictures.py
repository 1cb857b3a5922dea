"""The figures that compare judges and searches: what they show of scores, judgments and tries, and that they need no colour."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from minisw.evaluate.stats import wilson
from minisw.pictures import COLOURS, judges, search
from minisw.records import Try
from minisw.search.theory import Rates, kept_right

MAJORITY = {
    "A": [{"k": 1, "f1": 0.6, "interval": (0.5, 0.7)}, {"k": 2, "f1": 0.5, "interval": (0.4, 0.6)}],
    "B": [{"k": 1, "f1": 0.3, "interval": (0.2, 0.4)}, {"k": 2, "f1": 0.45, "interval": (0.3, 0.6)}],
}
COSTS = {
    "labels": {"A": [(100, 0.9, (0.8, 1.0)), (10, 0.8, (0.7, 0.9))], "B": [(100, 0.3, (0.2, 0.4))]},
    "tokens": {"A": [(5000, 0.9, (0.8, 1.0)), (2000, 0.8, (0.7, 0.9))], "B": [(4000, 0.3, (0.2, 0.4))]},
}
DRAWS = {"paired": [i / 100 for i in range(21)], "not paired": [i / 50 for i in range(21)]}
GROUPS = {"right": {"no": (3, 4), "yes": (4, 4)}, "wrong": {"no": (0, 0), "yes": (1, 2)}}


def a_try(position: int, attempt: int, text: str, verdict: bool | None, kept: bool) -> Try:
    return Try("p", position, attempt, text, verdict, "", kept, 1, 1)


SEARCHES = {
    "yes": [a_try(0, 1, "bad $1", True, True)],
    "perfect": [
        a_try(0, 1, "bad", False, False), a_try(0, 2, "good", True, True),
        *(a_try(1, n, "bad", False, n == 3) for n in (1, 2, 3)),
    ],
}  # fmt: skip
METHODS = [
    {"method": "plain", "accuracy": 0.4, "policy_tokens": 100, "judge_tokens": 0, "rejected_tokens": 0},
    {"method": "reset", "accuracy": 0.6, "policy_tokens": 150, "judge_tokens": 450, "rejected_tokens": 40},
]
RATES = {
    "good": Rates(p=0.5, t=0.9, f=0.1, kept_right=0.8, tries=20, positions=10),
    "blind": Rates(p=0.6, t=0.5, f=0.5, kept_right=0.6, tries=20, positions=10),
}
PARETO = [
    {"arm": arm, "split": "test", "multiple": multiple, "tokens": tokens, "accuracy": accuracy}
    for arm, multiple, tokens, accuracy in (("plain", 1, 110, 0.4), ("majority", 8, 900, 0.5), ("chunk_reset", 8, 850, 0.7))
]
FIGURES = {
    "thresholds": lambda: judges.threshold_curves([0.2, 0.4, 0.6], {"validation": [0.1, 0.5, 0.3], "test": [0.2, 0.3, 0.6]}, 0.4),
    "scores": lambda: judges.score_histograms([0.1, 0.6, 0.7, 0.9, 0.2], [True, True, True, True, False], 0.6),
    "kinds": lambda: judges.kinds_of_f1({"A": {"x": 0.5, "y": 0.6}, "B": {"x": 0.1, "y": 0.9}}),
    "differences": lambda: judges.difference_histograms(DRAWS, 0.05),
    "reliability": lambda: judges.reliability_diagram({"A": ([0.9] * 4, [True] * 3 + [False]), "B": ([0.1, 0.5], [True, False])}),
    "shares": lambda: judges.grouped_shares(GROUPS, "share", "a title"),
    "majority": lambda: judges.majority_curves(MAJORITY),
    "costs": lambda: judges.cost_panels(COSTS),
    "trees": lambda: search.trees(SEARCHES),
    "grid": lambda: search.tries_grid(list(SEARCHES.values()), [False, True], 3),
    "tokens": lambda: search.token_bars(METHODS),
    "votes": lambda: search.votes_curve([1, 2], {"majority": [0.4, 0.5], "at least one right": [0.4, 0.7]}),
    "theory": lambda: search.kept_right_curves(RATES, 5),
    "scatter": lambda: search.judge_scatter({f"J{n}": (n / 10, n / 20) for n in range(9)}, "F1", "worth", "a title"),
    "pareto": lambda: search.pareto(PARETO),
    "forest": lambda: search.paired_differences({"a": (0.2, (0.1, 0.3)), "b": (0.1, (-0.1, 0.3)), "c": (0, (0, 0))}, "a title"),
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
def test_every_figure_has_a_title_inside_it_and_no_small_text(name):
    figure = FIGURES[name]()
    figure.canvas.draw()  # no text breaks the renderer
    assert title_of(figure)
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
    titles = [*(axis.title for axis in figure.axes), *([figure._suptitle] if figure._suptitle else [])]
    for title in titles:
        box = title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, title.get_text()


@pytest.mark.parametrize("name", ["thresholds", "kinds", "majority", "costs", "votes", "scatter", "theory", "pareto"])
def test_series_differ_in_more_than_colour(name):
    lines = [line for axis in FIGURES[name]().axes for line in axis.lines if line.get_color() in COLOURS]
    lines = [line for line in lines if line.get_marker() not in ("", "None", "|", "_")]  # no caps
    marks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in lines}
    assert len(marks) > 1 and len({mark[1:] for mark in marks}) == len(marks)


# --- judges ----------------------------------------------------------------------------------------------------------------


def test_the_threshold_is_judged_where_it_was_chosen():
    figure = FIGURES["thresholds"]()
    assert title_of(figure) == "The threshold with F1 0.50 on validation has F1 0.30 on test"
    assert list(figure.axes[0].lines[-1].get_xdata()) == [0.4, 0.4] and " chosen: 0.40" in texts(figure)


def test_scores_of_wrong_steps_hang_below_and_shares_add_up_to_one():
    figure = FIGURES["scores"]()
    assert title_of(figure) == "The threshold 0.60 passes 75% of right, 0% of wrong steps"
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(h for h in heights if h > 0) == pytest.approx(1) and sum(h for h in heights if h < 0) == pytest.approx(-1)
    assert {"right steps (4)", "wrong steps (1)"} <= {*texts(figure)}


def test_the_title_names_the_judge_whose_kinds_of_f1_differ_most():
    assert title_of(FIGURES["kinds"]()) == "“B” has an F1 of 0.10 or 0.90: say which F1 you mean"


def test_the_interval_of_differences_is_that_of_the_draws():
    figure = FIGURES["differences"]()
    assert title_of(figure) == "The interval is 0.19 wide if paired, 0.38 if not paired"
    ends = [tuple(round(float(x), 4) for x in line.get_xdata()) for line in figure.axes[0].lines[:2]]
    assert ends == [(0.005, 0.195), (0.01, 0.39)]


def test_reliability_has_the_share_and_the_count_of_each_bin():
    figure = FIGURES["reliability"]()
    assert title_of(figure) == "Calibration errors: the smallest is that of “A”, 0.15"
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("A: 0.15", "B: 0.70")
    points = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in second.lines if line.get_marker() == "s"]
    assert points == [(0.1, 1.0), (0.5, 0.0)] and [t.get_text() for t in first.texts] == ["4"]


def test_shares_have_counts_and_intervals_and_empty_ones_are_left_out():
    axis = FIGURES["shares"]().axes[0]
    assert [t.get_text() for t in axis.texts] == ["3/4", "4/4", "1/2"]
    assert [bar.get_height() for bar in axis.patches if bar.get_height()] == [0.75, 1, 0.5]
    ends = {tuple(round(float(y), 3) for _, y in segment) for c in axis.collections for segment in c.get_segments()}
    assert {tuple(round(end, 3) for end in wilson(k, n)) for k, n in ((3, 4), (4, 4), (1, 2))} == ends


def test_the_title_names_who_gains_most_from_votes():
    assert title_of(FIGURES["majority"]()) == "“B” gains most from 2 votes: +0.15"


def test_costs_compare_the_ends_of_the_best_judge():
    figure = FIGURES["costs"]()
    assert title_of(figure) == "A with 1/10 of the labels: F1 0.80 instead of 0.90, for 1/2.5 of the cost"
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert list(lines[0].get_xdata()) == [10, 100] and all(axis.get_xscale() == "log" for axis in figure.axes)


# --- search ----------------------------------------------------------------------------------------------------------------


def test_trees_have_a_panel_each_with_verdict_and_first_word():
    figure = FIGURES["trees"]()
    assert title_of(figure) == "The same policy: “yes” samples 1 chunks, “perfect” 5"
    assert [axis.get_title() for axis in figure.axes] == ["yes: 1 tries", "perfect: 5 tries"]
    assert [t.get_text() for t in figure.axes[1].texts] == ["− bad", "+ good", "− bad", "− bad", "− bad"]
    assert [tuple(map(int, xy)) for xy in figure.axes[1].lines[0].get_xydata()] == [(1, 2), (2, 3)]


def test_the_grid_counts_tries_and_hatches_what_was_kept_unwillingly():
    figure = FIGURES["grid"]()
    assert title_of(figure) == "6 chunks were sampled and 3 of them discarded"
    shown = [t.get_text() for t in figure.axes[0].texts]
    assert shown == ["1", "answer wrong", "2", "3", "answer right"]
    assert [bar.get_hatch() for bar in figure.axes[0].patches] == ["", "", "//"]


def test_token_bars_add_up_to_what_was_spent():
    figure = FIGURES["tokens"]()
    assert [bar.get_width() for bar in figure.axes[0].patches] == [100, 0, 0, 110, 40, 450]
    assert title_of(figure) == "reset: 75% of the tokens are the judge's"
    assert {" 100, accuracy 0.40", " 600, accuracy 0.60"} <= {*texts(figure)}


def test_theory_has_both_curves_and_the_measured_point():
    figure = FIGURES["theory"]()
    assert title_of(figure) == "The judge lifts the share of right chunks from 0.50 to 0.80"
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["good: no limit"].get_ydata()[50] == pytest.approx(0.9)
    assert lines["good: 5 tries"].get_ydata()[30] == pytest.approx(kept_right(0.3, 0.9, 0.1, 5))
    assert list(lines["blind: no limit"].get_ydata()) == pytest.approx([i / 100 for i in range(101)])


def test_the_title_of_a_pareto_picture_names_the_ends_of_the_front():
    figure = FIGURES["pareto"]()
    assert title_of(figure) == (
        "The Pareto front begins with plain (110 tokens, 0.40)\nand ends with chunk reset (850 tokens, 0.70)"
    )
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["100", "200", "400", "800", "1600"]


def test_differences_that_hold_zero_look_otherwise():
    axis = FIGURES["forest"]().axes[0]
    marks = [line.get_marker() for line in axis.lines if line.get_marker() in "os"]
    assert marks == ["o", "s", "s"] and [t.get_text() for t in axis.texts] == ["+0.20", "+0.10", "+0.00"]
