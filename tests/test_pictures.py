"""Pictures of a study: which rows make a point, what the curves and the alt text say, and one line for bad input."""

import json

import pytest

from minisw import pictures
from minisw.pictures import COMPUTE, LABELS, efficiency_alt, efficiency_curves, efficiency_points


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
    assert [axis.get_xlabel() for axis in figure.axes] == ["labelled steps", "training compute (FLOPs)"]
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


@pytest.mark.parametrize("content", [None, {"rows": []}, {"rows": ROWS[-1:]}])
def test_a_folder_without_the_study_is_refused_in_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        pictures.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"minisw: {tmp_path} holds no results of --study data-efficiency: run it first\n"


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_one_folder_is_needed(arguments, capsys):
    with pytest.raises(SystemExit):
        pictures.main(arguments)
    assert capsys.readouterr().err.startswith("minisw: give one folder")
