"""Pictures of a study: which rows make a point, what the curves and the alt text say, and one line for bad input."""

import json

import pytest

from minisw import pictures
from minisw.pictures import (
    COMPUTE,
    LABELS,
    efficiency_alt,
    efficiency_curves,
    efficiency_points,
    flops_of_a_label,
    pareto_alt,
    pareto_curves,
    pareto_front,
    pareto_points,
)


def row(judge: str, arm: str, labels: int, f1: float, flops: int = 0, seed: int = 0) -> dict:
    return {"judge": judge, "arm": arm, "labels": labels, "f1": f1, "seed": seed, "training": {"flops": flops}}


ROWS = [
    row("stepwiser", "80", 80, 0.7, 500),
    row("stepwiser", "24", 24, 0.5, 900),
    row("stepwiser", "24", 22, 0.7, 700, seed=1),
    row("discriminative", "24", 24, 0.1, 10),
    row("discriminative", "mc24", 24, 0.9, 10),
    row("untrained", "0", 0, 0.3),
]


def test_points_are_means_over_seeds_in_the_order_of_x():
    assert efficiency_points(ROWS, LABELS) == {
        "stepwiser": [(23, pytest.approx(0.6), 0.5, 0.7), (80, 0.7, 0.7, 0.7)],
        "discriminative": [(24, 0.1, 0.1, 0.1)],
    }
    assert [point[0] for point in efficiency_points(ROWS, COMPUTE)["stepwiser"]] == [500, 800]
    assert efficiency_points(ROWS[-2:], LABELS) == {}  # Monte-Carlo labels and no labels


def test_compute_counts_the_rollouts_of_as_many_labels():
    """A label costs what the largest pool of Monte-Carlo labels took for each of its labels, mean over seeds."""
    pools = [
        row("stepwiser", "mc8", 8, 0.5) | {"labelling": {"flops": 80_000}},
        row("stepwiser", "mc80", 50, 0.5) | {"labelling": {"flops": 500}},
        row("stepwiser", "mc80", 40, 0.5, seed=1) | {"labelling": {"flops": 1200}},
    ]
    assert flops_of_a_label(ROWS) == 0 and flops_of_a_label(ROWS + pools) == pytest.approx((10 + 30) / 2)
    points = efficiency_points(ROWS + pools, COMPUTE)
    assert [point[0] for point in points["stepwiser"]] == pytest.approx([800 + 23 * 20, 500 + 80 * 20])
    assert efficiency_points(ROWS + pools, LABELS) == efficiency_points(ROWS, LABELS)


def test_the_curves_hold_the_points_on_logarithmic_axes():
    figure = efficiency_curves(ROWS)
    for axis, x in zip(figure.axes, (LABELS, COMPUTE), strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        assert list(lines) == ["stepwiser", "discriminative", "untrained"]
        points = efficiency_points(ROWS, x)
        for judge, own in points.items():
            assert list(lines[judge].get_xdata()) == [p[0] for p in own]
            assert list(lines[judge].get_ydata()) == [p[1] for p in own]
        assert set(lines["untrained"].get_ydata()) == {0.3}
        assert axis.get_xscale() == "log" and axis.get_ylim() == (0, 1)
        assert len({line.get_color() for line in lines.values()}) == len({line.get_marker() for line in lines.values()}) == 3
    assert [axis.get_xlabel() for axis in figure.axes] == ["labelled steps", "labels and training (FLOPs)"]
    assert [line.get_label() for line in efficiency_curves(ROWS[:4]).axes[0].lines] == ["stepwiser", "discriminative"]


def test_the_alt_text_says_where_curves_begin_and_end():
    text = efficiency_alt(ROWS)
    assert "stepwiser goes from 0.60 with 23 labels to 0.70 with 80" in text
    assert "discriminative goes from 0.10 with 24 labels to 0.10 with 24" in text


def test_the_command_writes_both_files(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"rows": ROWS}))
    pictures.main([str(tmp_path)])
    assert (tmp_path / "curves.svg").read_text().lstrip().startswith("<?xml")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == efficiency_alt(ROWS)


SEARCHES = [
    {"arm": arm, "split": split, "multiple": multiple, "tokens": tokens, "accuracy": accuracy}
    for arm, split, multiple, tokens, accuracy in (
        ("plain", "test", 1, 100, 0.4),
        ("majority", "test", 8, 800, 0.6),
        ("majority", "test", 1, 110, 0.3),
        ("majority", "test", 1, 90, 0.5),
        ("chunk_reset", "test", 8, 700, 0.6),
        ("oracle", "test", 8, 300, 0.9),
        ("majority", "hard", 1, 90, 0.1),
        ("majority", "validation", 1, 90, 1.0),
    )
]


def test_the_points_of_a_search_are_means_over_seeds_by_rising_tokens():
    assert pareto_points(SEARCHES, "test") == {
        "plain": [(100, 0.4)], "majority": [(100, 0.4), (800, 0.6)], "chunk_reset": [(700, 0.6)], "oracle": [(300, 0.9)],
    }  # fmt: skip
    assert pareto_points(SEARCHES, "hard") == {"majority": [(90, 0.1)]} and pareto_points(SEARCHES, "none") == {}


def test_the_front_holds_what_no_cheaper_point_reaches():
    front = pareto_front(pareto_points(SEARCHES, "test"))
    assert front == [(100, 0.4, "plain"), (700, 0.6, "chunk_reset")]  # equal accuracy for more tokens is not on it
    assert pareto_front({"a": [(5, 0.5), (9, 0.4)], "b": [(5, 0.7), (10, 0.8)]}) == [(5, 0.7, "b"), (10, 0.8, "b")]
    assert pareto_front({"oracle": [(1, 1.0)]}) == []


def test_the_panels_hold_the_curves_and_the_front():
    figure = pareto_curves(SEARCHES)
    assert [axis.get_title() for axis in figure.axes] == ["test problems", "harder problems"]
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in figure.axes[0].lines}
    assert lines == {
        "plain": [(100, 0.4)], "majority": [(100, 0.4), (800, 0.6)], "chunk reset": [(700, 0.6)], "oracle": [(300, 0.9)],
        "Pareto front": [(100, 0.4), (700, 0.6)],
    }  # fmt: skip
    for axis in figure.axes:
        assert axis.get_xscale() == "log" and axis.get_ylim() == (0, 1)
        assert axis.get_xlabel() == "tokens of policy and judge a problem"
    assert len(pareto_curves(SEARCHES[:3]).axes) == 1


def test_more_series_than_colours_differ_in_their_lines():
    rows = [SEARCHES[0] | {"arm": f"m{number}"} for number in range(14)]
    lines = pareto_curves(rows).axes[0].lines[:-1]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 14
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 7


def test_the_alt_text_of_a_search_names_the_points_of_the_fronts():
    assert pareto_alt(SEARCHES) == (
        "Accuracy against tokens of policy and judge, log scale; the Pareto front on test problems: plain 0.40 with 100 tokens, "
        "chunk reset 0.60 with 700 tokens; on harder problems: majority 0.10 with 90 tokens."
    )


def test_the_command_draws_a_search(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"pareto": SEARCHES}))
    pictures.main([str(tmp_path)])
    assert (tmp_path / "pareto.svg").exists() and (tmp_path / "pareto.png").exists()
    assert capsys.readouterr().out.strip() == pareto_alt(SEARCHES)


@pytest.mark.parametrize("content", [None, {"rows": []}, {"rows": ROWS[-1:]}, {"pareto": []}, {"pareto": SEARCHES[-1:]}])
def test_a_folder_without_the_study_is_refused_in_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        pictures.main([str(tmp_path)])
    assert stopped.value.code == 2
    message = f"minisw: {tmp_path} holds no results of --study data-efficiency, search or ladder: run one of them first\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_one_folder_is_needed(arguments, capsys):
    with pytest.raises(SystemExit):
        pictures.main(arguments)
    assert capsys.readouterr().err.startswith("minisw: give one folder")
