"""First-error metrics: by hand, and relations that must hold for any judge."""

import dataclasses
import itertools
import random
import subprocess
import sys

import pytest

from minisw.evaluate import metrics
from minisw.evaluate.stats import bootstrap
from minisw.records import BenchItem, Judgment, LabelledStep
from minisw.verdicts import vote


def item(label: int, correct: bool, n: int = 3, id: str = "i", question: str = "?") -> BenchItem:
    return BenchItem(id, question, tuple("abc"[:n]), label, correct)


def judged(*verdicts: bool | None) -> list[Judgment]:
    return [Judgment(v) for v in verdicts]


def test_predict_takes_the_first_negative_and_refuses_what_it_cannot_read():
    assert metrics.predict([True, True]) == -1
    assert metrics.predict([True, False, True, False]) == 1
    assert metrics.predict([None, False]) == metrics.predict([True, None, True]) == metrics.WRONG
    assert metrics.predict([False, None]) == 0
    assert metrics.predict([]) == -1


LABELS = [1, 0, -1, -1, -1]
PREDICTIONS = [1, 1, -1, -1, 2]


def test_f1_by_hand():
    assert metrics.accuracies(LABELS, PREDICTIONS) == pytest.approx((1 / 2, 2 / 3))
    assert metrics.f1_official(LABELS, PREDICTIONS) == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    # by final answer: wrong (the first two and the last) 1 of 3, right 2 of 2
    assert metrics.f1_by_answer(LABELS, PREDICTIONS, [False, False, True, True, False]) == pytest.approx(2 * (1 / 3) / (4 / 3))
    assert metrics.f1_by_answer(LABELS, PREDICTIONS, [True, True, False, False, True]) == pytest.approx(2 * (1 / 3) / (4 / 3))
    assert metrics.f1_by_answer([-1, 0, -1], [-1, 0, 0], [False, False, True]) == 0  # by label it would be 2/3


def test_f1_of_judges_that_never_or_always_object():
    assert metrics.f1_official([0, 1, -1], [-1, -1, -1]) == metrics.f1_official([0, 1, -1], [0, 0, 0]) == 0
    assert metrics.f1_official([0, 1, -1], [0, 1, -1]) == 1
    assert metrics.f1_official([0, 1, -1], [1, 0, -1]) == 0  # an error elsewhere is not found


def test_more_items_of_the_same_kind_change_nothing():
    assert metrics.f1_official(LABELS * 3, PREDICTIONS * 3) == pytest.approx(metrics.f1_official(LABELS, PREDICTIONS))
    assert metrics.f1_official([*LABELS, -1, -1, -1], [*PREDICTIONS, -1, -1, 0]) == metrics.f1_official(LABELS, PREDICTIONS)


def test_binary_f1_asks_only_whether_there_is_a_mistake():
    # found 2 (one at the wrong step), missed 1, false alarm 1
    assert metrics.f1_binary([1, 0, 2, -1, -1], [1, 2, -1, 0, -1]) == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert metrics.f1_binary([1, -1], [metrics.WRONG, metrics.WRONG]) == 0
    assert metrics.f1_binary([1, 1, -1], [0, metrics.WRONG, metrics.WRONG]) == pytest.approx(2 / (2 + 2))
    assert metrics.f1_binary([-1, -1], [-1, -1]) == 0 and metrics.f1_binary([0], [4]) == 1


def test_balanced_accuracy_counts_the_unreadable_as_missed():
    assert metrics.balanced_accuracy([True, True, False], [True, None, False]) == pytest.approx(0.75)
    assert metrics.balanced_accuracy([True, True, True, False], [True, True, False, None]) == pytest.approx(1 / 3)
    assert metrics.balanced_accuracy([True, True], [True, False]) == 0.5  # one side only


# --- thresholds ------------------------------------------------------------------------------------------------------------


def test_the_threshold_is_the_middle_of_the_best_plateau():
    labels, scores = [2, -1, 0], [[0.5, 0.45, 0.11], [0.6, 0.26, 0.7], [0.05]]
    threshold, f1 = metrics.best_threshold(labels, scores)
    assert f1 == 1 and 0.16 <= threshold <= 0.22  # best from 0.12 to 0.26
    assert metrics.best_threshold(labels, [[1 - s for s in row] for row in scores])[1] < 1
    predictions = [metrics.predict_by_threshold(row, threshold) for row in scores]
    assert metrics.f1_official(labels, predictions) == f1


def test_the_longest_of_several_plateaus_counts():
    labels, scores = [0, -1, 0, -1], [[0.2], [0.5], [0.75], [0.98]]
    threshold, f1 = metrics.best_threshold(labels, scores)  # as good from 0.22 to 0.50 as from 0.76 to 0.98
    assert f1 == pytest.approx(2 / 3) and 0.3 < threshold < 0.42
    threshold, _ = metrics.best_threshold(labels, [[0.2], [0.4], [0.5], [0.98]])  # from 0.22 to 0.40, from 0.52 to 0.98
    assert 0.7 < threshold < 0.8


def test_the_threshold_is_chosen_by_first_error_f1_and_not_by_steps():
    """Five right steps before one wrong one: accuracy of steps would accept nearly all of them at any price."""
    labels, scores = [5, -1], [[0.6] * 5 + [0.55], [0.58] * 6]
    threshold, f1 = metrics.best_threshold(labels, scores)
    assert f1 == 1 and 0.55 < threshold <= 0.58
    assert metrics.predict_by_threshold([0.7, 0.5], 0.5) == -1 and metrics.predict_by_threshold([0.7, 0.5, 0.1], 0.51) == 1


def test_steps_are_grouped_by_solution():
    def solution(p: str, labels: str) -> list[LabelledStep]:
        return [LabelledStep(p, "?", ("x",) * i, "x", sign == "+") for i, sign in enumerate(labels)]

    steps = solution("a", "++-") + solution("a", "+++") + solution("c", "-+-")
    labels, scores = metrics.by_solution(steps, [float(i) for i in range(9)])
    assert labels == [2, -1, 0] and scores == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


# --- all figures of a judge ------------------------------------------------------------------------------------------------


def test_constant_judges_score_nothing_and_the_labels_score_all():
    items = [item(1, False), item(-1, True), item(2, False)]
    assert metrics.score(items, [judged(True, True, True)] * 3, 0, 50)["f1"] == 0
    best = metrics.score(items, [[Judgment(s.label) for s in i.steps()] for i in items], 0, 50)
    assert best["f1"] == best["f1_pooled"] == best["balanced_accuracy"] == 1 and best["predictions"] == [1, -1, 2]
    unread = metrics.score(items, [judged(None, None, None)] * 3, 0, 50)
    assert unread["f1"] == 0 and unread["unparseable"] == 1 and unread["predictions"] == [metrics.WRONG] * 3


def two_parts():
    """Nine items of part `easy`, all judged rightly, and three of `very-hard`, of which only the right ones pass."""
    easy = [item(i % 3 - 1, i % 3 == 0, id=f"easy-{i}", question=f"e{i}") for i in range(9)]
    hard = [item(label, label < 0, id=f"very-hard-{i}", question=f"h{i}") for i, label in enumerate((-1, 0, 1))]
    right = [[Judgment(s.label) for s in i.steps()] for i in easy]
    return easy, hard, right, [judged(True, True, True)] * 3


def test_parts_are_averaged_and_the_pooled_f1_is_named_so():
    easy, hard, right, passed = two_parts()
    found = metrics.score(easy + hard, right + passed, 0, 20)
    assert found["by_part"].keys() == {"easy", "very-hard"}
    assert [found["by_part"][part]["f1"] for part in ("easy", "very-hard")] == [1, 0] and found["f1"] == 0.5
    assert found["f1_by_answer"] == 0.5
    assert found["f1_pooled"] == pytest.approx(metrics.harmonic_mean(6 / 8, 1)) != found["f1"]
    alone = metrics.score(easy, right, 0, 20)
    assert "by_part" not in alone and found["by_part"]["easy"] == {
        key: value for key, value in alone.items() if key not in ("f1_pooled", "predictions")
    }
    assert alone["predictions"] == found["predictions"][:9]
    difference, _ = metrics.f1_difference(easy + hard, found["predictions"], [-1] * 12, 0, 20)
    assert difference == 0.5


def mixed_items(count: int, question: str = "q{}"):
    rng = random.Random(1)
    items = [item(rng.choice([-1, 0, 1, 2]), rng.random() < 0.5, question=question.format(i)) for i in range(count)]
    judgments = [
        [Judgment(s.label if rng.random() < 0.8 else not s.label) for s in i.steps()] for i in items
    ]
    return items, judgments


def width(interval):
    return interval[1] - interval[0]


def test_intervals_resample_questions_not_items():
    """Each item twice is no more evidence than once."""
    items, judgments = mixed_items(60)
    single, double = metrics.score(items, judgments, 0, 300), metrics.score(items * 2, judgments * 2, 0, 300)
    for key in ("interval", "interval_by_answer"):
        assert double[key] == pytest.approx(single[key])
    rows = list(zip(items * 2, double["predictions"], strict=True))
    naive = bootstrap(rows, metrics.average_f1, 0, 300)
    assert width(naive) < 0.85 * width(double["interval"])
    b = [-1] * 60
    assert metrics.f1_difference(items * 2, single["predictions"] * 2, b * 2, 0, 300)[1] == pytest.approx(
        metrics.f1_difference(items, single["predictions"], b, 0, 300)[1]
    )


def test_steps_behind_the_first_error_change_nothing_but_their_share_of_unreadable_ones():
    rng = random.Random(0)
    for _ in range(20):
        items = [item(rng.choice([-1, 0, 1]), True) for _ in range(6)]
        before = [judged(*(rng.random() < 0.5 for _ in range(3))) for _ in items]
        after = [
            [Judgment(not j.verdict, p_positive=0.1) if 0 <= i.label < at else j for at, j in enumerate(own)]
            for i, own in zip(items, before, strict=True)
        ]
        a, b = metrics.score(items, before, 0, 5), metrics.score(items, after, 0, 5)
        assert a["balanced_accuracy"] == b["balanced_accuracy"] and a["calibration_error"] == b["calibration_error"]


def test_figures_about_steps_by_hand():
    items = [item(1, False), item(-1, True, n=1)]
    judgments = [
        [Judgment(True, p_positive=0.95, tokens=10), Judgment(True, p_positive=0.65, tokens=20), Judgment(None, tokens=30)],
        [Judgment(True, p_positive=0.95, tokens=40)],
    ]
    found = metrics.score(items, judgments, 0, 5)
    assert found["balanced_accuracy"] == 0.5 and found["unparseable"] == 0.25 and found["tokens_per_step"] == 25
    assert found["calibration_error"] == pytest.approx((2 * 0.05 + 0.65) / 3)
    assert (found["accuracy_error"], found["accuracy_correct"]) == (0, 1)


def test_difference_is_paired_and_antisymmetric():
    rng = random.Random(1)
    items = [item(rng.choice([-1, 0, 1, 2]), True, question=str(i)) for i in range(60)]
    a = [i.label if rng.random() < 0.8 else 0 for i in items]
    b = [i.label if rng.random() < 0.4 else 0 for i in items]
    forward, (low, high) = metrics.f1_difference(items, a, b, 0, 300)
    backward, _ = metrics.f1_difference(items, b, a, 0, 300)
    assert forward == pytest.approx(-backward) and low < forward < high and low > 0
    assert metrics.f1_difference(items, a, a, 0, 100) == (0, (0, 0))
    better = [p if p == i.label else i.label if n % 2 else p for n, (p, i) in enumerate(zip(a, items, strict=True))]
    low, high = metrics.f1_difference(items, better, a, 0, 300)[1]
    assert low >= 0  # `better` is right wherever `a` is; unpaired resamples would not know


# --- several samples of each step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 4, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        subsets = list(itertools.combinations([i < right for i in range(samples)], k))
        assert metrics.pass_at_k(right, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def voted(rng, items, samples):
    """Random votes on every step of the items, some unreadable; the verdict is not the majority's everywhere."""
    draw = lambda: tuple(rng.choice([True, True, False, None]) for _ in range(samples))  # noqa: E731
    return [[Judgment(rng.choice([True, False]), votes=draw()) for _ in item.chunks] for item in items]


def test_sample_k_of_an_item_takes_vote_k_of_every_step():
    rng, samples = random.Random(2), 3
    items = [item(rng.choice([-1, 0, 1, 2]), True, question=str(i)) for i in range(40)]
    judgments = voted(rng, items, samples)
    found = metrics.sampled(items, judgments, 0, 30)
    each = [[metrics.predict([j.votes[k] for j in own]) for own in judgments] for k in range(samples)]
    assert found["predictions_sampled"] == list(zip(*each, strict=True)) and found["samples"] == samples
    gain = found["gain_of_votes"]
    assert gain["measured"] == pytest.approx(found["f1_majority"] - found["f1_sampled"])
    assert gain["interval"][0] <= gain["measured"] <= gain["interval"][1]
    labels = [i.label for i in items]
    f1s = [metrics.f1_official(labels, own) for own in each]
    assert found["f1_sampled"] == pytest.approx(sum(f1s) / samples) and len(set(f1s)) > 1
    rows = list(zip(items, found["predictions_sampled"], strict=True))
    assert metrics.mean_f1(rows) == found["f1_sampled"]
    majority = [metrics.predict([j.verdict for j in own]) for own in judgments]
    assert found["f1_majority"] == pytest.approx(metrics.f1_official(labels, majority)) != found["f1_sampled"]
    votes = [v for own in judgments for j in own for v in j.votes]
    assert found["unparseable_sampled"] == pytest.approx(votes.count(None) / len(votes))
    for key in ("sampled", "majority"):
        low, high = found[f"interval_{key}"]
        assert low < found[f"f1_{key}"] < high


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (7, [1, 2, 4, 7])])
def test_the_majority_of_k_votes_is_taken_in_groups_of_k(samples, ks):
    """Maj@k is the mean F1 of the first k votes of each step, the next k, and so on; votes that are left over do not count."""
    rng = random.Random(4)
    items = [item(rng.choice([-1, 0, 1, 2]), True, question=str(i)) for i in range(30)]
    judgments = voted(rng, items, samples)
    curve = metrics.majority_curve(items, judgments, 0, 20)
    assert [row["k"] for row in curve] == ks
    labels = [i.label for i in items]
    for row in curve:
        k, f1s = row["k"], []
        for n in range(samples // k):
            verdicts = [[vote(j.votes[n * k : n * k + k]) for j in own] for own in judgments]
            f1s.append(metrics.f1_official(labels, [metrics.predict(own) for own in verdicts]))
        assert row["f1"] == pytest.approx(sum(f1s) / len(f1s))
        assert row["interval"][0] <= row["f1"] <= row["interval"][1]
    one, whole = metrics.sampled(items, judgments, 0, 20), curve[-1]["f1"]
    assert (curve[0]["f1"], curve[0]["interval"]) == (one["f1_sampled"], one["interval_sampled"])
    decided = [[dataclasses.replace(j, verdict=vote(j.votes)) for j in own] for own in judgments]
    assert whole == pytest.approx(metrics.sampled(items, decided, 0, 20)["f1_majority"])


def test_one_sample_is_measured_as_the_verdict_itself():
    """A judgment of one reply has no votes; its verdict is the sample."""
    rng = random.Random(8)
    items = [item(rng.choice([-1, 0, 1]), True, question=str(i)) for i in range(40)]
    judgments = [[Judgment(rng.choice([True, True, False, None])) for _ in i.chunks] for i in items]
    found, greedy = metrics.sampled(items, judgments, 0, 20), metrics.score(items, judgments, 0, 20)
    assert found["f1_sampled"] == pytest.approx(greedy["f1"]) == found["f1_majority"] > 0
    assert found["gain_of_votes"]["measured"] == 0 and found["samples"] == 1
    assert found["predictions_sampled"] == [(prediction,) for prediction in greedy["predictions"]]
    assert 0 < found["unparseable_sampled"] < 1
    (row,) = metrics.pass_curve(items, judgments)
    two = [[Judgment(j.verdict, votes=(j.verdict,) * 2) for j in own] for own in judgments]
    assert row == metrics.pass_curve(items, two)[0] and 0 < row["solutions"] < 1
    assert [r["k"] for r in metrics.majority_curve(items, judgments, 0, 20)] == [1]


def test_a_difference_between_sampled_judges_is_that_of_their_mean_f1():
    rng = random.Random(3)
    items = [item(rng.choice([-1, 0, 1, 2]), True, question=str(i)) for i in range(40)]
    a, b = (metrics.sampled(items, voted(rng, items, n), 0, 5) for n in (3, 2))
    measured, (low, high) = metrics.f1_difference(items, a["predictions_sampled"], b["predictions_sampled"], 0, 50)
    assert measured == pytest.approx(a["f1_sampled"] - b["f1_sampled"]) and low <= measured <= high
    some = [i.label if n % 3 else 0 for n, i in enumerate(items)]
    other = [i.label if n % 2 else -1 for n, i in enumerate(items)]
    plain = metrics.f1_difference(items, some, other, 0, 50)
    assert plain[0] != 0 and metrics.f1_difference(items, [(p,) for p in some], [(p,) for p in other], 0, 50) == plain


def test_another_seed_gives_other_intervals_and_the_same_figures():
    items, judgments = mixed_items(60)
    votes = voted(random.Random(5), items, 3)

    def found(seed: int) -> tuple[list, list]:
        whole, several = metrics.score(items, judgments, seed, 40), metrics.sampled(items, votes, seed, 40)
        curve, gain = metrics.majority_curve(items, votes, seed, 40), several["gain_of_votes"]
        difference, interval = metrics.f1_difference(items, whole["predictions"], [-1] * 60, seed, 40)
        intervals = [whole["interval"], whole["interval_by_answer"], several["interval_sampled"], several["interval_majority"]]
        intervals += [gain["interval"], interval, *(row["interval"] for row in curve if row["f1"])]  # 0 has no spread
        figures = [whole["f1"], whole["f1_by_answer"], several["f1_sampled"], several["f1_majority"], gain["measured"]]
        return intervals, [*figures, difference, *(row["f1"] for row in curve)]

    (one, figures), (other, again) = found(1), found(2)
    assert figures == again and found(1) == (one, figures)
    assert all(a != b for a, b in zip(one, other, strict=True)) and len(one) >= 8


def test_the_pass_curve_by_hand():
    """Two solutions of four samples: an error at step 1, found by one sample; and none, accepted by two."""
    T, F, N = True, False, None
    items = [item(1, False), item(-1, True, n=2)]
    judgments = [
        [Judgment(T, votes=(T, T, F, T)), Judgment(F, votes=(F, T, F, N)), Judgment(T, votes=(T, T, T, T))],
        [Judgment(T, votes=(T, T, T, T)), Judgment(T, votes=(F, T, N, T))],
    ]
    curve = metrics.pass_curve(items, judgments)
    assert [row["k"] for row in curve] == [1, 2, 4]
    # steps: Positive ones have 3, 4 and 2 right votes of 4, the Negative one 2; what follows the error does not count
    positive = [(3 / 4 + 1 + 2 / 4) / 3, (1 + 1 + 5 / 6) / 3, 1]
    negative = [2 / 4, 5 / 6, 1]
    solutions = [(1 / 4 + 2 / 4) / 2, (1 / 2 + 5 / 6) / 2, 1]
    assert [row["steps"] for row in curve] == pytest.approx([(p + n) / 2 for p, n in zip(positive, negative, strict=True)])
    assert [row["solutions"] for row in curve] == pytest.approx(solutions)


def test_sides_of_a_pass_curve_have_equal_weight_and_one_side_alone_counts_whole():
    right, wrong = [[Judgment(True, votes=(True, True))]], [[Judgment(True, votes=(True, True))]]
    items = [item(-1, True, n=1)] * 9 + [item(0, False, n=1)]
    assert metrics.pass_curve(items, right * 9 + wrong)[0] == {"k": 1, "steps": 0.5, "solutions": 0.5}
    assert metrics.pass_curve(items[:9], right * 9)[1] == {"k": 2, "steps": 1, "solutions": 1}
    three = [[Judgment(True, votes=(True, True, False))]]
    assert [row["k"] for row in metrics.pass_curve(items[:1], three)] == [1, 2]


def test_the_metrics_import_no_torch():
    code = "import sys, minisw.evaluate.metrics, minisw.evaluate.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
