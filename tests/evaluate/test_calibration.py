"""Expected calibration error, by hand."""

import pytest

from minisw.evaluate.calibration import calibration_error, reliability


def test_rows_by_hand():
    rows = reliability([0.0, 0.05, 0.3, 0.35, 0.9, 1.0], [False, True, False, True, True, True], bins=10)
    assert [(r["low"], r["high"], r["count"]) for r in rows] == [(0.0, 0.1, 2), (0.3, 0.4, 2), (0.9, 1.0, 2)]
    assert [r["probability"] for r in rows] == pytest.approx([0.025, 0.325, 0.95])
    assert [r["share"] for r in rows] == [0.5, 0.5, 1.0]


def test_error_weighs_bins_by_their_counts():
    # bin 0.8: three steps at 0.8, one of them right; bin 0.1: one step at 0.1, right
    error = calibration_error([0.8, 0.8, 0.8, 0.1], [True, False, False, True])
    assert error == pytest.approx((3 * abs(0.8 - 1 / 3) + 1 * 0.9) / 4)


def test_over_and_under_confidence_do_not_cancel():
    assert calibration_error([0.85] * 2 + [0.15] * 2, [False] * 2 + [True] * 2) == pytest.approx(0.85)


def test_certainty_falls_into_the_last_bin():
    assert [r["low"] for r in reliability([1.0, 0.95], [True, True])] == [0.9]
    assert calibration_error([1.0, 0.0], [True, False]) == 0 and calibration_error([1.0], [False]) == 1


def test_perfect_calibration_and_number_of_bins():
    p = [0.25] * 4 + [0.75] * 4
    outcomes = [True, False, False, False, True, True, True, False]
    assert calibration_error(p, outcomes) == 0
    assert calibration_error([0.2, 0.8], [True, False], bins=1) == 0  # one bin sees only the mean
    assert calibration_error([], []) == 0.0


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match="1.5 is no probability"):
        reliability([0.2, 1.5], [True, True])
    with pytest.raises(ValueError, match="1 outcomes for 2 probabilities"):
        calibration_error([0.2, 0.5], [True])
