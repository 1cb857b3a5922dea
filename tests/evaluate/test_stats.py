"""Intervals cover what they should."""

import random

import pytest

from minisw.evaluate import stats


def test_wilson_by_hand_and_at_the_ends():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    low, high = stats.wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert stats.wilson(0, 10)[0] == 0 and stats.wilson(10, 10)[1] == pytest.approx(1)


def test_bootstrap_covers_the_mean_about_95_times_in_100():
    rng, hits = random.Random(0), 0
    for seed in range(200):
        low, high = stats.bootstrap([rng.gauss(1, 1) for _ in range(60)], stats.mean, seed, 200)
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert stats.bootstrap([1, 2, 3], stats.mean, 5) == stats.bootstrap([1, 2, 3], stats.mean, 5)


def test_auc_is_the_share_of_pairs_in_order():
    assert stats.auc([0.9, 0.8, 0.1], [True, True, False]) == 1 and stats.auc([0.1, 0.9], [True, False]) == 0
    assert stats.auc([0.5, 0.5, 0.7], [True, False, False]) == pytest.approx(0.25)
    assert stats.auc([0.3], [True]) == 0.5
    rng = random.Random(0)
    assert stats.auc([rng.random() for _ in range(400)], [i % 2 == 0 for i in range(400)]) == pytest.approx(0.5, abs=0.07)
