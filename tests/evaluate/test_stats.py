"""Intervals cover what they should, and know which rows belong together."""

import random

import pytest

from minisw.evaluate import stats


def width(interval):
    return interval[1] - interval[0]


def normal(count, seed=0, spread=1.0):
    rng = random.Random(seed)
    return [rng.gauss(1, spread) for _ in range(count)]


def test_wilson_by_hand_and_at_the_ends():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert stats.wilson(0, 10)[0] == 0 and stats.wilson(10, 10)[1] == pytest.approx(1)
    assert stats.wilson(1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-3)


@pytest.mark.slow
def test_bootstrap_covers_the_mean_about_95_times_in_100():
    hits = sum(low <= 1 <= high for low, high in (stats.bootstrap(normal(60, s), stats.mean, s, 200) for s in range(120)))
    assert 0.88 <= hits / 120 <= 0.99


@pytest.mark.slow
def test_bootstrap_is_as_wide_as_the_normal_interval_and_repeatable():
    rows = normal(400)
    spread = (sum((r - stats.mean(rows)) ** 2 for r in rows) / len(rows)) ** 0.5
    interval = stats.bootstrap(rows, stats.mean, 0, 2000)
    assert width(interval) == pytest.approx(2 * 1.96 * spread / 400**0.5, rel=0.06)  # 90% would be 16% narrower
    assert interval == stats.bootstrap(rows, stats.mean, 0, 2000) != stats.bootstrap(rows, stats.mean, 1, 2000)
    assert stats.bootstrap([], stats.mean, 0) == (0.0, 0.0)


def test_bootstrap_calls_the_statistic_once_a_resample_with_as_many_rows():
    sizes = []
    stats.bootstrap([1.0, 2.0, 3.0], lambda rows: sizes.append(len(rows)) or 0.0, 0, 17)
    assert sizes == [3] * 17


def test_repeated_items_do_not_narrow_a_clustered_interval():
    rows = normal(150)
    twice, groups = rows + rows, [*range(150), *range(150)]
    single = stats.bootstrap(rows, stats.mean, 0, 1000)
    clustered = stats.bootstrap(twice, stats.mean, 0, 1000, groups)
    naive = stats.bootstrap(twice, stats.mean, 0, 1000)
    assert clustered == pytest.approx(single)  # the same groups are drawn
    assert width(naive) == pytest.approx(width(single) / 2**0.5, rel=0.08)


def test_groups_are_drawn_whole():
    rows, groups = ["a1", "a2", "b", "c1", "c2", "c3"], "aabccc"
    samples = []
    stats.bootstrap(rows, lambda sample: samples.append(list(sample)) or 0.0, 0, 50, groups)
    for sample in samples:
        assert sample.count("a1") == sample.count("a2") and sample.count("c1") == sample.count("c3")
        assert sum(sample.count(first) for first in ("a1", "b", "c1")) == 3
    assert len({len(sample) for sample in samples}) > 1
    with pytest.raises(ValueError, match="2 groups for 6 rows"):
        stats.bootstrap(rows, len, 0, 5, "ab")


def test_paired_differences_cancel_what_is_hard_for_both():
    hard = normal(100, spread=5)
    difference, interval = stats.paired_bootstrap([(h + 0.5, h) for h in hard], stats.mean, 0, 500)
    assert difference == pytest.approx(0.5) and interval == pytest.approx((0.5, 0.5))  # unpaired it would be about 2.8 wide
    backward, (low, high) = stats.paired_bootstrap([(h, h + 0.5) for h in hard], stats.mean, 0, 500)
    assert (backward, low, high) == pytest.approx((-0.5, -0.5, -0.5))


def test_paired_differences_resample_groups():
    pairs = list(zip(normal(80, 1), normal(80, 2), strict=True))
    single = stats.paired_bootstrap(pairs, stats.mean, 3, 500)
    assert stats.paired_bootstrap(pairs * 2, stats.mean, 3, 500, [*range(80)] * 2)[1] == pytest.approx(single[1])
    naive = stats.paired_bootstrap(pairs * 2, stats.mean, 3, 500)
    assert naive[0] == pytest.approx(single[0]) and width(naive[1]) < 0.85 * width(single[1])


def test_students_t_by_hand():
    assert stats.t_interval([0.1, 0.2, 0.3]) == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5))
    assert stats.t_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.706 * 0.5, 0.5 + 12.706 * 0.5))
    assert stats.t_interval([0.3]) is None and stats.t_interval([]) is None
    quantiles = stats.T_QUANTILES
    assert list(quantiles) == sorted(quantiles, reverse=True) and quantiles[9] == pytest.approx(2.228, abs=1e-3)
    many = [0.0, 1.0] * 50
    low, high = stats.t_interval(many)
    assert width((low, high)) == pytest.approx(2 * 2.145 * (0.25 * 100 / 99) ** 0.5 / 10)


def test_auc_is_the_share_of_pairs_in_order():
    assert stats.auc([0.9, 0.8, 0.1], [True, True, False]) == 1 and stats.auc([0.1, 0.9], [True, False]) == 0
    assert stats.auc([0.5, 0.5, 0.7], [True, False, False]) == pytest.approx(0.25)
    assert stats.auc([0.3], [True]) == 0.5
    rng = random.Random(0)
    assert stats.auc([rng.random() for _ in range(400)], [i % 2 == 0 for i in range(400)]) == pytest.approx(0.5, abs=0.07)


def test_mean_of_nothing_is_zero():
    assert stats.mean([]) == 0.0 and stats.mean([1, 2, 6]) == 3
