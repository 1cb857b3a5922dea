"""First-error F1: the official definition, by hand, and what must hold for any judge."""

import dataclasses
import random

import pytest

from minisw.evaluate import metrics
from minisw.records import BenchItem, Judgment


def item(label: int, correct: bool, n: int = 3) -> BenchItem:
    return BenchItem("i", "?", tuple("abc"[:n]), label, correct)


def said(*verdicts: bool | None) -> list[Judgment]:
    return [Judgment(v) for v in verdicts]


def test_predict():
    assert metrics.predict(said(True, True)) == -1
    assert metrics.predict(said(True, False, False)) == 1
    assert metrics.predict(said(None, False)) == metrics.WRONG
    assert metrics.predict(said(False, None)) == 0


def test_f1_by_hand():
    rows = [(item(1, False), 1), (item(0, False), 1), (item(-1, True), -1), (item(-1, True), -1), (item(-1, False), 2)]
    # with an error: 1 of 2; without: 2 of 3
    assert metrics.f1_official(rows) == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    # by final answer: wrong: 1 of 3; right: 2 of 2
    assert metrics.f1_by_answer(rows) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))


def test_constant_judges_score_nothing_and_the_labels_score_all():
    items = [item(1, False), item(-1, True), item(2, False)]
    always = [said(True, True, True)] * 3
    truth = [[Judgment(s.label) for s in i.steps()] for i in items]
    assert metrics.score(items, always, 0, 50)["f1"] == 0
    best = metrics.score(items, truth, 0, 50)
    assert best["f1"] == best["balanced_accuracy"] == 1
    unread = metrics.score(items, [said(None, None, None)] * 3, 0, 50)
    assert unread["f1"] == 0 and unread["unparseable"] == 1


def test_parts_are_scored_on_their_own():
    easy = [dataclasses.replace(item(1, False), id=f"easy-{i}") for i in range(3)] + [
        dataclasses.replace(item(-1, True), id=f"easy-{i}") for i in range(3, 5)
    ]
    hard = [dataclasses.replace(i, id=i.id.replace("easy", "very-hard")) for i in easy]
    truth = [[Judgment(s.label) for s in i.steps()] for i in easy]
    found = metrics.score(easy + hard, truth + [said(None, None, None)] * 5, 0, 20)
    assert found["by_part"].keys() == {"easy", "very-hard"}
    alone = metrics.score(easy, truth, 0, 20)
    assert "by_part" not in alone and alone.pop("predictions") == found["predictions"][:5]
    assert found["by_part"]["easy"] == alone and alone["f1"] == alone["f1_by_answer"] == 1
    assert found["by_part"]["very-hard"]["unparseable"] == 1 and found["unparseable"] == 0.5
    for low, high in (found["interval"], found["interval_by_answer"]):
        assert 0 <= low < high <= 1


def test_steps_behind_the_first_error_change_nothing():
    rng = random.Random(0)
    for _ in range(100):
        items = [item(rng.choice([-1, 0, 1]), True) for _ in range(6)]
        judgments = [said(*(rng.random() < 0.5 for _ in range(3))) for _ in items]
        other = [
            [Judgment(not j.verdict) if 0 <= i.label < at else j for at, j in enumerate(js)]
            for i, js in zip(items, judgments, strict=True)
        ]
        for a, b in ((metrics.score(items, judgments, 0, 5), metrics.score(items, other, 0, 5)),):
            assert a["balanced_accuracy"] == b["balanced_accuracy"]


def test_difference_is_paired_and_antisymmetric():
    rng = random.Random(1)
    items = [item(rng.choice([-1, 0, 1, 2]), True) for _ in range(60)]
    a = [i.label if rng.random() < 0.8 else 0 for i in items]
    b = [i.label if rng.random() < 0.4 else 0 for i in items]
    forward, (low, high) = metrics.f1_difference(items, a, b, 0, 300)
    backward, _ = metrics.f1_difference(items, b, a, 0, 300)
    assert forward == pytest.approx(-backward) and low < forward < high and low > 0
    same, interval = metrics.f1_difference(items, a, a, 0, 100)
    assert same == 0 and interval == (0, 0)
