"""Assignment 4: what must hold of prompts, verdicts, votes, F1, intervals and calibration. The anchor stands first."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from minisw.course.relations import expect

P, N = True, False
BOX = "\\boxed{"
WORDS = "so 3 + 4 = 7 , which is right ; then Positive numbers add to 12 ( not Negative )".split()
SPACES = [" ", " ", "\n", "\n\n", "  "]


def random_text(rng: random.Random, words: int = 6) -> str:
    return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(words))


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if len(values) else 0.0


# --- judge_prompt --------------------------------------------------------------------------------------------------------


def judge_prompt_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A history of two chunks; none, with the word of this assignment and with another one."""
    template = "Q: {question}\nSo far:\n{history}\nNew: {chunk}\nSay {{yes}}."
    expect(
        call(template, "2+3?", ["a\n", " b\n\n"], " c\n"),
        "Q: 2+3?\nSo far:\na\n b\nNew: c\nSay {yes}.",
        "history 'a\\n', ' b\\n\\n' and chunk ' c\\n'",
    )
    nothing = reference.__defaults__[-1]
    expect(call("{question} {history}: {chunk}", "q", [], "c"), f"q {nothing}: c", "no history")
    expect(call("{question} {history}: {chunk}", "q", [], "c", "-"), "q -: c", "no history, with '-' for nothing")


def judge_prompt_history_as_it_stands(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The history is the text so far, with its own line breaks; only at its ends is white space lost."""
    for _ in range(5):
        history = [random_text(rng, rng.randint(1, 4)) for _ in range(rng.randint(2, 4))]
        expect(call("{history}", "q", history, "the chunk"), "".join(history).strip(), f"the history {history}")
        expect(call("[{history}|{chunk}]", "q", [" \n"], " c ", "-"), "[-|c]", "a blank history")


def judge_prompt_braces(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Braces in a question, a history or a chunk stay as they are."""
    got = call("{question} {history} {chunk}", "a set {history} of {chunk}", ["{chunk} {1}"], "\\frac{1}{2}")
    expect(got, "a set {history} of {chunk} {chunk} {1} \\frac{1}{2}", "texts with braces")


# --- verdicts ------------------------------------------------------------------------------------------------------------


def boxes(reference: Callable) -> dict[bool, str]:
    """The two verdicts of this assignment."""
    return {P: reference.__globals__["POSITIVE"], N: reference.__globals__["NEGATIVE"]}


def parse_verdict_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """One verdict, two, none."""
    box = boxes(reference)
    expect(call(f"It holds. {box[P]}"), True, "a positive verdict")
    expect(call(f"It fails.\nVerdict: {box[N]}."), False, "a negative verdict")
    expect(call(f"{box[P]}, no: {box[N]}"), False, "a positive, then a negative verdict")
    expect(call(f"{box[N]}, no: {box[P]}"), True, "a negative, then a positive verdict")
    expect(call("The step is right."), None, "no verdict")
    expect(call(""), None, "an empty reply")


def parse_verdict_takes_the_last(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Of several verdicts the last one counts, whatever the others and however many."""
    box = boxes(reference)
    for last in (P, N):
        for _ in range(4):
            verdicts = [not last, *(rng.random() < 0.5 for _ in range(2)), not last, last]
            reply = "".join(random_text(rng) + box[v] for v in verdicts) + random_text(rng)
            expect(call(reply), last, f"verdicts {verdicts}")


def parse_verdict_needs_a_whole_box(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Words without a box, other boxes and a box that was cut off are no verdict, and change none."""
    box = boxes(reference)
    for verdict in (P, N):
        word = box[not verdict].removeprefix(BOX).removesuffix("}")
        for other in (f" {word}.", f" {BOX}7}}", f" {box[not verdict][:-1]}", f" {{{word}}}", f" {BOX}}}"):
            expect(call(random_text(rng) + other), None, f"a reply that ends in {other!r}")
            expect(call(random_text(rng) + box[verdict] + other), verdict, f"a verdict, then {other!r}")


def verdict_prefix_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Up to the brace of the last verdict; none without a verdict."""
    box = boxes(reference)
    for verdict in (P, N):
        expect(call(f"3 + 4 = 7. Verdict: {box[verdict]}."), f"3 + 4 = 7. Verdict: {BOX}", "a reply with one verdict")
    expect(call("3 + 4 = 7."), None, "no verdict")


def verdict_prefix_of_several(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Of several verdicts the last one is left to be said."""
    box = boxes(reference)
    for _ in range(4):
        before = "".join(random_text(rng) + box[rng.random() < 0.5] for _ in range(2)) + random_text(rng)
        for verdict in (P, N):
            expect(call(before + box[verdict] + random_text(rng)), before + BOX, "a reply with three verdicts")


def verdict_prefix_and_other_boxes(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A box that holds no verdict is none."""
    box = boxes(reference)
    for verdict in (P, N):
        text = random_text(rng)
        expect(call(f"{text}{box[verdict]} as {BOX}7}}"), text + BOX, "a verdict, then another box")
    expect(call(f"It is {BOX}7}}."), None, "only another box")


# --- P(Positive) -----------------------------------------------------------------------------------------------------------


def p_positive_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Three times as likely is 3/4; two rows."""
    expect(call([[0.0, math.log(3), 5.0], [2.0, 2.0, 0.0]], 1, 0), [0.75, 0.5], "logits (0, ln 3, 5) and (2, 2, 0)")


def p_positive_sums_to_one(call: Callable, reference: Callable, rng: random.Random) -> None:
    """P(+) and P(-) are positive and add up to 1."""
    logits = [[rng.gauss(0, 2) for _ in range(6)] for _ in range(5)]
    plus, minus = rng.sample(range(6), 2)
    sums = [a + b for a, b in zip(call(logits, plus, minus), call(logits, minus, plus), strict=True)]
    expect(sums, [1.0] * 5, "P(+) + P(-) of five rows")


def p_positive_of_two_tokens(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Other tokens have no say, and the odds are the exponential of the difference."""
    for _ in range(5):
        row, (plus, minus) = [rng.gauss(0, 2) for _ in range(6)], rng.sample(range(6), 2)
        other = [value if i in (plus, minus) else rng.gauss(0, 9) for i, value in enumerate(row)]
        want = 1 / (1 + math.exp(row[minus] - row[plus]))
        expect(call([row, other], plus, minus), [want, want], f"tokens {plus} and {minus} of two rows")


def p_positive_of_large_logits(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A constant more or less changes nothing, and nothing overflows."""
    gap = rng.choice([-1.5, -0.5, 0.5, 1.5])
    want = 1 / (1 + math.exp(-gap))
    for shift in (1000.0, -1000.0):
        expect(call([[shift, shift + gap]], 1, 0), [want], f"logits {shift} and {shift + gap}")
    expect(call([[-1000.0, 1000.0]], 1, 0), [1.0], "logits -1000 and 1000")


# --- vote and predict ------------------------------------------------------------------------------------------------------


def vote_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Majorities, a tie, unreadable verdicts."""
    rows = {(P, P, N): True, (N, N, P): False, (P, N): False, (P, None, None): True, (N, None, None): False, (None,): None}
    for verdicts, want in rows.items():
        expect(call(list(verdicts)), want, f"verdicts {list(verdicts)}")


def vote_by_more_than_half(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Positive if more than half are, in any order."""
    for count in (1, 2, 5, 6):
        for positive in range(count + 1):
            verdicts = [P] * positive + [N] * (count - positive)
            rng.shuffle(verdicts)
            expect(call(verdicts), positive > count / 2, f"verdicts {verdicts}")


def vote_without_the_unreadable(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Unreadable verdicts change nothing; alone they give None."""
    for _ in range(6):
        readable = [rng.random() < 0.5 for _ in range(rng.randint(1, 4))]
        verdicts = readable + [None] * rng.randint(3, 6)
        rng.shuffle(verdicts)
        expect(call(verdicts), 2 * sum(readable) > len(readable), f"verdicts {verdicts}")
    expect(call([None] * rng.randint(2, 5)), None, "only unreadable verdicts")
    expect(call([]), None, "no verdict")


def predict_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The first Negative, none, an unreadable one before and behind."""
    rows = {(P, N, N): 1, (P, P): -1, (P, None, N): -2, (P, P, N, None): 2, (N, P): 0}
    for verdicts, want in rows.items():
        expect(call(list(verdicts)), want, f"verdicts {list(verdicts)}")


def predict_ignores_what_follows(call: Callable, reference: Callable, rng: random.Random) -> None:
    """What stands behind the first Negative has no say."""
    for _ in range(8):
        count, rest = rng.randint(0, 4), [rng.choice([P, N, None]) for _ in range(3)]
        expect(call([P] * count + [N] + rest), count, f"{count} Positive, a Negative, {rest}")


def predict_of_the_unreadable(call: Callable, reference: Callable, rng: random.Random) -> None:
    """An unreadable verdict before any Negative equals no label; without one all pass."""
    for count in range(4):
        rest = [rng.choice([P, N, None]) for _ in range(2)]
        expect(call([P] * count + [None] + rest), -2, f"{count} Positive, an unreadable one, {rest}")
        expect(call([P] * count), -1, f"{count} Positive")


# --- F1 ------------------------------------------------------------------------------------------------------------------


def f1_official_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """1/4 of the errors and all right items: 2/5. All errors and half of the right items, one unreadable: 2/3."""
    for labels, predictions, want, shares in (
        ([0, 2, 1, 3, -1, -1], [0, 1, 0, -1, -1, -1], 0.4, "1/4 and 1"),
        ([-1, 1, -1], [-1, 1, -2], 2 / 3, "1 and 1/2"),
    ):
        expect(call(labels, predictions), want, f"labels {labels}, predictions {predictions}, so shares {shares}")


def items(rng: random.Random, found: int, errors: int, passed: int, right: int) -> tuple[list[int], list[int]]:
    """Labels and predictions of items in random order: so many errors are found exactly, so many right items pass."""
    pairs = []
    for i in range(errors):
        label = rng.randint(1, 4)
        pairs.append((label, label if i < found else rng.choice([label - 1, label + 1, -1, -2])))
    pairs += [(-1, -1 if i < passed else rng.choice([0, 1, 2, -2])) for i in range(right)]
    rng.shuffle(pairs)
    labels, predictions = zip(*pairs, strict=True)
    return list(labels), list(predictions)


def f1_official_of_judges_that_never_look(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A judge that passes all has 0, and so has one that objects to every first step; a perfect one has 1."""
    labels, _ = items(rng, 0, 5, 0, 7)
    expect(call(labels, [-1] * 12), 0.0, "a judge that passes everything")
    expect(call(labels, [0] * 12), 0.0, "a judge that rejects every first step")
    expect(call(labels, labels), 1.0, "a perfect judge")


def f1_official_of_two_shares(call: Callable, reference: Callable, rng: random.Random) -> None:
    """It is the harmonic mean of both shares, however many items each side has."""
    for _ in range(8):
        errors, right = rng.randint(2, 6), rng.randint(7, 12)
        found, passed = rng.randint(1, errors), rng.randint(1, right)
        want = 2 / (errors / found + right / passed)
        what = f"{found} of {errors} errors, {passed} of {right} right items"
        expect(call(*items(rng, found, errors, passed, right)), want, what)


def f1_official_with_more_right_items(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Three copies of every right item change nothing."""
    labels, predictions = items(rng, 1, 3, 3, 4)
    more = [pair for pair in zip(labels, predictions, strict=True) for _ in range(1 if pair[0] >= 0 else 3)]
    expect(call([a for a, _ in more], [b for _, b in more]), call(labels, predictions), "right items three times and once")


def f1_by_answer_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """1/2 of the items with a wrong answer, 3/4 of those with a right one: 3/5."""
    labels, predictions = [-1, 0, 1, -1, 2, -1], [-1, 0, -1, 0, 2, -1]
    what = f"labels {labels}, predictions {predictions}, final answers right: items 0, 1, 3, 5"
    expect(call(labels, predictions, [P, P, N, P, N, P]), 0.6, what)


def f1_by_answer_of_two_shares(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The answer decides on which side an item counts: whether it is erroneous has no say."""
    for _ in range(6):
        rows = []
        counts = {side: (rng.randint(1, 2), rng.randint(3, 5)) for side in (P, N)}
        for side, (hits, total) in counts.items():
            labels = [rng.choice([-1, 0, 1, 2]) for _ in range(total)]
            rows += [(label, label if i < hits else label + 1, side) for i, label in enumerate(labels)]
        rng.shuffle(rows)
        want = 2 / sum(total / hits for hits, total in counts.values())
        columns = [list(column) for column in zip(*rows, strict=True)]
        expect(call(*columns), want, f"labels {columns[0]}, predictions {columns[1]}, right answers {columns[2]}")


# --- intervals -------------------------------------------------------------------------------------------------------------


def paired_bootstrap_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A constant difference; and the statistic of each side, not of the differences."""
    expect(call([(3.0, 1.0), (7.0, 5.0), (2.0, 0.0)], average, 0, 50), (2.0, (2.0, 2.0)), "differences of 2")
    expect(call([(5.0, 1.0), (3.0, 4.0)], max, 0, 50)[0], 1.0, "max 5 against max 4")


def paired_bootstrap_is_paired(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Where the difference is the same on every item, the interval has no width, however much the items differ."""
    gap = rng.choice([-0.5, 0.25, 1.0])
    rows = [(value + gap, value) for value in (float(rng.randint(0, 9)) for _ in range(9))]
    expect(call(rows, average, rng.randrange(1000), 60), (gap, (gap, gap)), f"differences of {gap}")


def paired_bootstrap_width(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The width is that of the normal distribution, 2 · 1.96 · s / √n, on average of eight intervals within 10%."""
    ratios = []  # several short calls: a single long one would reach the limit of time where other jobs run
    for count in (16, 36) * 4:
        rows = [(hard + rng.random(), hard) for hard in (rng.random() * 9 for _ in range(count))]
        gaps = [a - b for a, b in rows]
        deviation = math.sqrt(average([(gap - average(gaps)) ** 2 for gap in gaps]))
        _, (low, high) = call(rows, average, rng.randrange(1000), 250)
        ratios.append((high - low) / (2 * 1.96 * deviation / math.sqrt(count)))
    found = average(ratios)
    assert abs(found - 1) < 0.1, f"the width should be 2 · 1.96 · s / √n; it is {found:.2f} times that, with 250 resamples"


def paired_bootstrap_by_seed(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The same seed gives the same interval; five seeds give several. One resample alone has no width."""
    rows = [(rng.random(), rng.random()) for _ in range(9)]
    seed = rng.randrange(1000)
    expect(call(rows, average, seed, 30), call(rows, average, seed, 30), "the same seed twice")
    assert len({call(rows, average, seed + i, 30)[1][0] for i in range(5)}) > 1, "five seeds give the same interval"
    low, high = call(rows, average, seed, 1)[1]
    expect(low, high, "the ends of the interval from one resample")


def paired_bootstrap_of_groups(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Rows of one group come together: of two equal groups, a resample has one, the other or both."""
    rows = [(1.0, 0.0)] * 8 + [(0.0, 0.0)] * 8
    groups = ["first"] * 8 + ["second"] * 8
    both = list(zip(rows, groups, strict=True))
    rng.shuffle(both)
    got = call([row for row, _ in both], average, rng.randrange(1000), 100, [group for _, group in both])
    expect(got, (0.5, (0.0, 1.0)), "two groups, one with differences of 1, one with 0")


# --- threshold -------------------------------------------------------------------------------------------------------------


def best_threshold_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Best from 0.62 to 0.82, so 0.72; best from 0.12 to 0.32, so 0.22."""
    expect(call([-1, 1], [[0.91, 0.83], [0.95, 0.61]]), (0.72, 1.0), "scores (.91, .83) right, (.95, .61) wrong at 1")
    expect(call([-1, 1], [[0.33, 0.43], [0.35, 0.11]]), (0.22, 1.0), "scores (.33, .43) right, (.35, .11) wrong at 1")


def best_threshold_takes_the_longest_run(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two runs are equally good: half of the errors and all right items, or the other way round. The longer one counts."""
    begin = rng.choice([0.11, 0.15, 0.19])
    short, long = rng.choice([0.06, 0.1]), rng.choice([0.34, 0.38])
    for first, second in ((short, long), (long, short)):
        ends = [begin, begin + first, begin + first + 0.1, begin + first + 0.1 + second]
        scores = [[ends[0]], [ends[2]], [ends[1]], [ends[3]]]  # two errors, then two right items
        start = ends[0] if first > second else ends[2]
        want = round((start + 0.01 + (max(first, second) - 0.02) / 2) * 50) / 50
        expect(call([0, 0, -1, -1], scores), (want, 2 / 3), f"one step each with scores {[round(s[0], 2) for s in scores]}")


def best_threshold_passes_what_reaches_it(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A step passes if its score is at least the threshold."""
    below = rng.choice([0.485, 0.49, 0.495])
    expect(call([-1, 0], [[0.5], [below]]), (0.5, 1.0), f"scores .5 right and {below} wrong")


def best_threshold_is_best(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Its F1 is that of its threshold, and none of the others has more."""
    for _ in range(3):
        labels, scores = [], []
        for _ in range(12):
            size = rng.randint(1, 5)
            label = rng.choice([-1, rng.randrange(size)])
            labels.append(label)
            scores.append([min(max(rng.gauss(0.4 if i == label else 0.6, 0.15), 0.0), 1.0) for i in range(size)])
        threshold, best = call([-1, 0, *labels], [[0.9], [0.1], *scores])
        expect(best, reference([-1, 0, *labels], [[0.9], [0.1], *scores])[1], "the best F1 on 14 items")
        expect(f1_at(threshold, [-1, 0, *labels], [[0.9], [0.1], *scores]), best, f"the F1 at the threshold {threshold}")


def f1_at(threshold: float, labels: Sequence[int], scores: Sequence[Sequence[float]]) -> float:
    found = [next((i for i, s in enumerate(row) if s < threshold), -1) for row in scores]
    hits = [average([a == b for a, b in zip(labels, found, strict=True) if (a < 0) is side]) for side in (P, N)]
    return 2 * hits[0] * hits[1] / sum(hits) if sum(hits) else 0.0


# --- calibration -----------------------------------------------------------------------------------------------------------


def calibration_error_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two bins: 1/4 against 1/3 three times, 3/4 against 0 once: 1/4. Then the default number of bins."""
    expect(call([0.25, 0.25, 0.25, 0.75], [P, N, N, N], 2), 0.25, "p = (1/4, 1/4, 1/4, 3/4), outcomes + - - -, two bins")
    for other in (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 25):
        for _ in range(20):
            p, outcomes = [rng.random() for _ in range(9)], [rng.random() < 0.5 for _ in range(9)]
            if abs(reference(p, outcomes) - reference(p, outcomes, other)) > 1e-3:
                expect(call(p, outcomes), reference(p, outcomes), f"nine probabilities with the default, not {other} bins")
                break


def calibration_error_in_one_bin(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With one bin it is the distance of two means."""
    for _ in range(4):
        p, outcomes = [rng.random() for _ in range(7)], [rng.random() < 0.5 for _ in range(7)]
        expect(call(p, outcomes, 1), abs(average(p) - average(outcomes)), f"p = {p}, outcomes {outcomes}, one bin")


def calibration_error_does_not_cancel(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Too high in one bin and too low in another do not cancel, and each counts by its size."""
    low, high = rng.randint(2, 5), rng.randint(6, 9)
    p, outcomes = [0.125] * low + [0.625] * high, [P] * low + [N] * high
    want = (0.875 * low + 0.625 * high) / (low + high)
    expect(call(p, outcomes, 4), want, f"{low} times 1/8, all right, {high} times 5/8, all wrong, four bins")


def calibration_error_of_certainty(call: Callable, reference: Callable, rng: random.Random) -> None:
    """p = 1 belongs to the last bin, and any other edge to the bin above it; none of any has error 0."""
    bins = rng.choice([4, 8])
    edge = rng.randint(1, bins // 2) / bins
    p = [edge - 0.5 / bins, edge, edge + 0.5 / bins]
    want = (p[0] + 2 * abs(edge + 0.25 / bins - 0.5)) / 3  # the edge shares a bin with the third, not with the first
    expect(call(p, [N, P, N], bins), want, f"p = {p}, outcomes - + -, {bins} bins")
    expect(call([1.0, 0.875, 0.75], [N, P, N], 4), 0.875 - 1 / 3, "p = (1, 7/8, 3/4), outcomes - + -, four bins")
    expect(call([1.0, 1.0], [P, P], rng.randint(2, 9)), 0.0, "p = (1, 1), both right")
    expect(call([], []), 0.0, "no probability")


RELATIONS = {
    "judge_prompt": [judge_prompt_anchor, judge_prompt_history_as_it_stands, judge_prompt_braces],
    "parse_verdict": [parse_verdict_anchor, parse_verdict_takes_the_last, parse_verdict_needs_a_whole_box],
    "verdict_prefix": [verdict_prefix_anchor, verdict_prefix_of_several, verdict_prefix_and_other_boxes],
    "p_positive": [p_positive_anchor, p_positive_sums_to_one, p_positive_of_two_tokens, p_positive_of_large_logits],
    "vote": [vote_anchor, vote_by_more_than_half, vote_without_the_unreadable],
    "predict": [predict_anchor, predict_ignores_what_follows, predict_of_the_unreadable],
    "f1_official": [
        f1_official_anchor,
        f1_official_of_judges_that_never_look,
        f1_official_of_two_shares,
        f1_official_with_more_right_items,
    ],
    "f1_by_answer": [f1_by_answer_anchor, f1_by_answer_of_two_shares],
    "paired_bootstrap": [
        paired_bootstrap_anchor,
        paired_bootstrap_is_paired,
        paired_bootstrap_width,
        paired_bootstrap_by_seed,
        paired_bootstrap_of_groups,
    ],
    "best_threshold": [
        best_threshold_anchor,
        best_threshold_takes_the_longest_run,
        best_threshold_passes_what_reaches_it,
        best_threshold_is_best,
    ],
    "calibration_error": [
        calibration_error_anchor,
        calibration_error_in_one_bin,
        calibration_error_does_not_cancel,
        calibration_error_of_certainty,
    ],
}
