"""Assignment 2: what must hold of values, label rules and balancing. The anchor of each function stands first."""

from __future__ import annotations

import random
from collections.abc import Callable

from minisw.course.relations import expect

Call = Callable[..., list]
P, N = True, False
GRID = [i / 16 for i in range(17)]  # exact in binary, so that products with such numbers have no rounding


def random_q(rng: random.Random, zeros: float = 0.2) -> list[float]:
    """Values of a solution of three to eight chunks; a share of them is 0."""
    return [0.0 if rng.random() < zeros else rng.choice(GRID) for _ in range(rng.randint(4, 9))]


def expect_default(call: Call, reference: Call, rng: random.Random, argument: str, others: list, fixed: dict) -> None:
    """Without `argument` the function uses the default of this assignment, on pairs where other values give other labels."""
    for other in others:
        for _ in range(3000):
            q = [rng.random(), rng.random()]
            want = reference(q, **fixed)
            if reference(q, **fixed, **{argument: other}) != want:
                expect(call(q, **fixed), want, f"q = {q} with the default {argument}")
                break


# --- values ------------------------------------------------------------------------------------------------------------


def values_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """One hit of four, then two of two, then three of five, then the outcome."""
    hits = [[P, N, N, N], [P, P], [N, N, P, P, P]]
    expect(call(hits, True), [0.25, 1.0, 0.6, 1.0], "three rows with 1 of 4, 2 of 2 and 3 of 5 hits, a right solution")
    expect(call(hits, False), [0.25, 1.0, 0.6, 0.0], "three rows with 1 of 4, 2 of 2 and 3 of 5 hits, a wrong solution")


def values_of_rows_of_any_length(call: Call, reference: Call, rng: random.Random) -> None:
    """Each value times the number of completions of its row is the number of hits."""
    for _ in range(10):
        hits = [[rng.random() < 0.5 for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(2, 6))]
        q = call(hits, rng.random() < 0.5)
        expect(len(q), len(hits) + 1, f"the number of values for {len(hits)} rows")
        products = [value * len(row) for value, row in zip(q, hits, strict=False)]
        what = f"rows with {[sum(row) for row in hits]} hits of {[len(row) for row in hits]}: each value times its row's length"
        expect(products, [sum(row) for row in hits], what)


def values_end_with_the_outcome(call: Call, reference: Call, rng: random.Random) -> None:
    """The last value is the outcome, whatever was sampled before it."""
    for correct in (True, False):
        hits = [[rng.random() < 0.5 for _ in range(4)] for _ in range(3)] + [[not correct] * 4]
        expect(call(hits, correct)[-1], float(correct), f"the last value of a solution with correct = {correct}")


# --- Abs-Q -------------------------------------------------------------------------------------------------------------


def abs_q_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """Above zero is positive, whatever came before."""
    expect(call([1.0, 0.9, 0.1, 0.0, 0.0, 0.5, 1.0]), [P, P, N, N, P, P], "q = (1, .9, .1, 0, 0, .5, 1)")


def abs_q_ignores_the_prompt(call: Call, reference: Call, rng: random.Random) -> None:
    """Q_0 has no say: it belongs to no chunk."""
    for _ in range(10):
        q = random_q(rng, zeros=0.5)
        expect(call([0.0, *q]), call([1.0, *q]), f"the labels of {q} after Q_0 = 0 and after Q_0 = 1")
        expect(len(call([0.0, *q])), len(q), "the number of labels")


def abs_q_of_rising_values(call: Call, reference: Call, rng: random.Random) -> None:
    """A chunk has the same label whatever stands before it, and only zero is negative."""
    for _ in range(10):
        q = random_q(rng, zeros=0.5)
        expect([call([before, value])[0] for before, value in zip(q[:-1], q[1:], strict=True)], call(q), f"pairs of {q}")
        kept = [value for value, label in zip(q[1:], call(q), strict=True) if label]
        expect(kept, [value for value in q[1:] if value > 0], f"the values of the positive chunks of q = {q}")


# --- Rel-Ratio -----------------------------------------------------------------------------------------------------------


def rel_ratio_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """Ratios 3/4, 1/3, 4, 1, 1/2 and the edges; then the default of gamma."""
    q = [1.0, 0.75, 0.25, 1.0, 1.0, 0.5]
    expect(call(q, 0.625), [P, N, P, P, N], f"q = {q} with gamma = 0.625")
    expect(call(q, 0.5), [P, N, P, P, N], f"q = {q} with gamma = 0.5")
    expect(call(q, 0.25), [P, P, P, P, P], f"q = {q} with gamma = 0.25")
    expect_default(call, reference, rng, "gamma", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], {})


def rel_ratio_at_zero(call: Call, reference: Call, rng: random.Random) -> None:
    """0 after 0 is negative; a recovery from 0 is positive; a fall to 0 is negative."""
    value = rng.choice(GRID[1:])
    expect(call([0.0, 0.0, value, 0.0], 0.5), [N, P, N], f"q = (0, 0, {value}, 0)")


def rel_ratio_is_strict(call: Call, reference: Call, rng: random.Random) -> None:
    """A ratio of exactly gamma is not above gamma."""
    value = rng.choice([0.25, 0.5, 1.0])
    expect(call([value, value / 2, value / 4, value / 4], 0.5), [N, N, P], "ratios 1/2, 1/2, 1 with gamma = 0.5")


def rel_ratio_falls_with_gamma(call: Call, reference: Call, rng: random.Random) -> None:
    """A larger gamma never turns a negative into a positive, and some pairs change."""
    changed = 0
    for _ in range(20):
        q = random_q(rng)
        strict, loose = call(q, 0.75), call(q, 0.25)
        assert all(b for a, b in zip(strict, loose, strict=True) if a), f"{q}: positive at gamma = 0.75 but not at 0.25"
        changed += sum(loose) - sum(strict)
    assert changed > 0, "gamma changes no label"


def rel_ratio_with_gamma_zero(call: Call, reference: Call, rng: random.Random) -> None:
    """With gamma = 0 it is Abs-Q."""
    for _ in range(20):
        q = random_q(rng, zeros=0.4)
        expect(call(q, 0.0), [value > 0 for value in q[1:]], f"q = {q} with gamma = 0")


def rel_ratio_looks_one_step_back(call: Call, reference: Call, rng: random.Random) -> None:
    """A label depends on its own value and the one before it only."""
    for _ in range(20):
        q = random_q(rng)
        expect(call(q, 0.5), [call(q[i : i + 2], 0.5)[0] for i in range(len(q) - 1)], f"q = {q} against its pairs")


# --- Rel-Effective ---------------------------------------------------------------------------------------------------------


def rel_effective_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """Best of two: 1/2 becomes 3/4 and 1/4 becomes 7/16. Then the defaults of n and alpha."""
    q = [0.5, 0.25, 0.0, 0.0, 0.25, 1.0]  # 1/4 - 5/16 alpha, -7/16 alpha, 0, 1/4 + 7/16 alpha, 1 + 9/16 alpha
    expect(call(q, 0.75, 2), [P, N, N, P, P], f"q = {q} with alpha = 0.75, n = 2")
    expect(call(q, 1.0, 2), [N, N, N, P, P], f"q = {q} with alpha = 1, n = 2")
    expect_default(call, reference, rng, "n", [1, 2, 3, 4, 5, 6, 7, 8], {"alpha": 1.0})
    expect_default(call, reference, rng, "alpha", [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], {"n": 1})
    expect_default(call, reference, rng, "alpha", [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], {})


def rel_effective_with_alpha_zero(call: Call, reference: Call, rng: random.Random) -> None:
    """With alpha = 0 it is Abs-Q."""
    for _ in range(20):
        q = random_q(rng, zeros=0.4)
        expect(call(q, 0.0, 4), [value > 0 for value in q[1:]], f"q = {q} with alpha = 0")


def rel_effective_of_a_good_start(call: Call, reference: Call, rng: random.Random) -> None:
    """From 1 to 0.4 is positive for the best of four, 0.4 - 0.8·0.6⁴ > 0, and negative for the best of one."""
    expect(call([1.0, 0.4], 0.8, 4), [P], "q = (1, .4) with alpha = 0.8, n = 4")
    expect(call([1.0, 0.4], 0.8, 1), [N], "q = (1, .4) with alpha = 0.8, n = 1")


def rel_effective_with_the_best_of_one(call: Call, reference: Call, rng: random.Random) -> None:
    """With n = 1 it compares Q_i·(1 + alpha) with alpha·Q_{i-1}."""
    for _ in range(20):
        q = random_q(rng)
        want = [q[i] * 1.5 > 0.5 * q[i - 1] for i in range(1, len(q))]
        expect(call(q, 0.5, 1), want, f"q = {q} with alpha = 0.5, n = 1")


def rel_effective_near_its_boundary(call: Call, reference: Call, rng: random.Random) -> None:
    """Pairs on which the best of n - 1 or of n + 1 would give another label."""
    for n in (2, 3, 4, 5):
        for other in (n - 1, n + 1):
            while True:
                q = [rng.random(), rng.random()]
                if reference(q, 1.0, n) != reference(q, 1.0, other):
                    break
            expect(call(q, 1.0, n), reference(q, 1.0, n), f"q = {q} with alpha = 1, n = {n}")


# --- relative progress -----------------------------------------------------------------------------------------------------


def relative_progress_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """Ratios 1/2, 1/4 and 4, then a zero; then the default of gamma."""
    expect(call([1.0, 0.5, 0.125, 0.5, 0.0, 1.0, 1.0], 0.5), [P, N, P, N, N, N], "q = (1, .5, .125, .5, 0, 1, 1), gamma = 0.5")
    expect_default(call, reference, rng, "gamma", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], {})


def relative_progress_behind_a_zero(call: Call, reference: Call, rng: random.Random) -> None:
    """Nothing is positive from the first zero on, and a zero Q_0 is one."""
    for _ in range(20):
        q = random_q(rng, zeros=0.0)
        dead = rng.randrange(len(q))
        q[dead] = 0.0
        got = call(q, 0.25)
        assert not any(got[max(dead - 1, 0) :]), f"q = {q}, gamma = 0.25: a positive at or behind Q_{dead} = 0: {got}"


def relative_progress_is_not_strict(call: Call, reference: Call, rng: random.Random) -> None:
    """A ratio of exactly gamma is positive."""
    value = rng.choice([0.25, 0.5, 1.0])
    expect(call([value, value / 2, value / 8, value], 0.5), [P, N, P], "ratios 1/2, 1/4, 8 with gamma = 0.5")


def relative_progress_without_zeros(call: Call, reference: Call, rng: random.Random) -> None:
    """Without zeros, each label depends on its own ratio only."""
    for _ in range(20):
        q = [max(value, 0.0625) for value in random_q(rng, zeros=0.0)]
        want = [after >= 0.5 * before for before, after in zip(q[:-1], q[1:], strict=True)]
        expect(call(q, 0.5), want, f"q = {q} with gamma = 0.5")


# --- truncation and balancing ----------------------------------------------------------------------------------------------


def until_first_negative_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """The first negative is the last label that stays."""
    expect(call([P, P, N, P, N]), [P, P, N], "labels + + - + -")
    expect(call([N, P]), [N], "labels - +")
    expect(call([P, P]), [P, P], "labels + +")


def until_first_negative_is_a_beginning(call: Call, reference: Call, rng: random.Random) -> None:
    """Positives, then at most one negative; what follows the first negative has no say."""
    for _ in range(10):
        count, rest = rng.randint(0, 4), [rng.random() < 0.5 for _ in range(rng.randint(1, 4))]
        expect(call([P] * count + [N] + rest), [P] * count + [N], f"{count} positives, a negative and {len(rest)} more")


def balanced_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """One of each side: nothing is left to chance. In a pass no index comes twice."""
    expect(sorted(call([N, P], 2, 0)), [0, 1], "labels - +, count 2")
    expect(sorted(call([P, N], 8, 1, 3)), [0, 0, 0, 1, 1, 1], "labels + -, count 8, three passes")
    expect(call([P, P, P], 4, 0), [], "no negative")
    expect(sorted(call([P, N, P, N], 4, 3)), [0, 1, 2, 3], "labels + - + -, count 4")


def random_labels(rng: random.Random) -> list[bool]:
    labels = [P] * rng.randint(18, 24) + [N] * rng.randint(8, 12)
    rng.shuffle(labels)
    return labels


def balanced_in_every_prefix(call: Call, reference: Call, rng: random.Random) -> None:
    """Every even number of first indices has as many positives as negatives."""
    labels = random_labels(rng)
    seed = rng.randrange(1000)
    sides = [labels[i] for i in call(labels, 12, seed, 2)]
    assert sides, "nothing was chosen"
    for end in range(2, len(sides) + 1, 2):
        expect(sum(sides[:end]), end // 2, f"count 12, seed {seed}, two passes: positives among the first {end} indices")


def balanced_count(call: Call, reference: Call, rng: random.Random) -> None:
    """`count` is both sides of one pass together, and the smaller side limits it."""
    labels = random_labels(rng)
    expect(len(call(labels, 12, 5, 3)), 36, "count 12, three passes: how many indices")
    expect(len(call(labels, 7, 5)), 6, "count 7, one pass: how many indices")
    small = labels.count(N)
    expect(len(call(labels, 1000, 5)), 2 * small, f"count 1000, {small} negatives and more positives: how many indices")


def balanced_passes_take_others(call: Call, reference: Call, rng: random.Random) -> None:
    """Later passes take members of the majority that were not taken before; in one pass no index comes twice."""
    labels, what = [P] * 12 + [N] * 4, "12 positives, 4 negatives, count 8, three passes"
    rng.shuffle(labels)
    for turn in range(3):
        taken = call(labels, 8, turn, 3)
        expect(len({i for i in taken if labels[i]}), 12, f"{what}: different positives in all")
        for start in (0, 8, 16):
            expect(len({*taken[start : start + 8]}), 8, f"{what}: different indices in one pass")


def balanced_by_seed(call: Call, reference: Call, rng: random.Random) -> None:
    """The same seed gives the same indices; other seeds choose others, of both sides."""
    labels = random_labels(rng)
    expect(call(labels, 6, 7), call(labels, 6, 7), "the same seed twice")
    for side in (P, N):
        chosen = {tuple(sorted(i for i in call(labels, 6, seed) if labels[i] is side)) for seed in range(5)}
        assert len(chosen) > 1, f"five seeds choose the same {'positives' if side else 'negatives'}"


# --- mixed ---------------------------------------------------------------------------------------------------------------


def mixed_anchor(call: Call, reference: Call, rng: random.Random) -> None:
    """Problems 1 and 4 have a right and a wrong solution."""
    groups = [[P, P], [P, N], [N, N], [], [N, N, P]]
    expect(call(groups), [1, 4], f"groups = {groups}")


def mixed_without_the_others(call: Call, reference: Call, rng: random.Random) -> None:
    """Groups that are all right or all wrong are never chosen, whatever their size."""
    groups = [[rng.random() < 0.5] * rng.randint(1, 5) for _ in range(10)] + [[P] * 3, [N] * 3]
    expect(call(groups), [], "12 groups, each all right or all wrong")
    expect(call([[N, *group, P] for group in groups]), list(range(12)), "12 groups, each with right and wrong solutions")


RELATIONS = {
    "values": [values_anchor, values_of_rows_of_any_length, values_end_with_the_outcome],
    "abs_q": [abs_q_anchor, abs_q_ignores_the_prompt, abs_q_of_rising_values],
    "rel_ratio": [
        rel_ratio_anchor,
        rel_ratio_at_zero,
        rel_ratio_is_strict,
        rel_ratio_falls_with_gamma,
        rel_ratio_with_gamma_zero,
        rel_ratio_looks_one_step_back,
    ],
    "rel_effective": [
        rel_effective_anchor,
        rel_effective_with_alpha_zero,
        rel_effective_of_a_good_start,
        rel_effective_with_the_best_of_one,
        rel_effective_near_its_boundary,
    ],
    "relative_progress": [
        relative_progress_anchor,
        relative_progress_behind_a_zero,
        relative_progress_is_not_strict,
        relative_progress_without_zeros,
    ],
    "until_first_negative": [until_first_negative_anchor, until_first_negative_is_a_beginning],
    "balanced": [
        balanced_anchor,
        balanced_in_every_prefix,
        balanced_count,
        balanced_passes_take_others,
        balanced_by_seed,
    ],
    "mixed": [mixed_anchor, mixed_without_the_others],
}
