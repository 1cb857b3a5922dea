"""Values, label rules, selection and balancing on hand-made numbers."""

import json
import random

import pytest

from minisw import labels
from minisw.problems import load_task
from minisw.recipe import AnnotateKnobs, ProblemKnobs
from minisw.records import AnnotatedSolution, LabelledStep, Problem, Solution, write_jsonl

P, N = True, False

# --- values ------------------------------------------------------------------------------------------------------------


def test_values_are_the_shares_of_hits_and_the_outcome():
    hits = [(P, N, N, N), (P, P), (N, N, P, P, P)]  # any number of completions per boundary
    assert labels.values(hits, True) == (0.25, 1.0, 0.6, 1.0)
    assert labels.values(hits, False) == (0.25, 1.0, 0.6, 0.0)
    assert labels.values([(P, N)], False) == (0.5, 0.0)  # a solution of one chunk


def test_a_boundary_without_completions_is_an_error():
    with pytest.raises(ValueError, match="--annotate.branches"):
        labels.values([(P,), ()], True)


# --- rules -------------------------------------------------------------------------------------------------------------


def test_abs_q_is_positive_above_zero_whatever_came_before():
    assert labels.abs_q([0.0, 0.1, 0.0, 1.0]) == [P, N, P]
    assert labels.abs_q([1.0, 0.0, 0.0]) == [N, N]


def test_rel_ratio_compares_with_the_boundary_before():
    # ratios 0.75, 1/3, 4, 1
    assert labels.rel_ratio([1.0, 0.75, 0.25, 1.0, 1.0], 0.8) == [N, N, P, P]
    assert labels.rel_ratio([1.0, 0.75, 0.25, 1.0, 1.0], 0.7) == [P, N, P, P]


def test_rel_ratio_at_its_edges():
    assert labels.rel_ratio([0.5, 0.25, 0.125], 0.5) == [N, N]  # a ratio of gamma is not above gamma
    assert labels.rel_ratio([0.0, 0.0], 0.8) == [N]
    assert labels.rel_ratio([0.0, 0.125], 0.8) == [P]  # a recovery
    assert labels.rel_ratio([0.5, 0.0], 0.8) == [N]


@pytest.mark.parametrize(
    "before,after,alpha,positive",
    [
        (0.625, 0.25, 0.8, True),  # 0.013; negative for the best of 1, 2 or 3
        (0.625, 0.25, 1.0, False),  # -0.047; positive for the best of 5
        (1.0, 0.375, 1.0, True),  # 0.222; negative for the best of 1 or 2
        (0.25, 0.125, 0.8, False),  # -0.091; positive for the best of 1
        (1.0, 0.25, 0.4, True),  # 0.123; negative for the best of 1
        (0.25, 0.0, 0.4, False),
        (0.0, 0.0, 0.4, False),  # exactly 0 is not above 0
        (0.0, 0.125, 1.0, True),
    ],
)
def test_rel_effective_adds_the_gain_of_the_best_of_four(before, after, alpha, positive):
    assert labels.rel_effective([before, after], alpha) == [positive]


def test_rel_effective_takes_other_sizes_and_every_neighbour():
    q = [0.625, 0.25, 0.625, 0.25]
    assert labels.rel_effective(q, 0.8) == [P, P, P]
    assert labels.rel_effective(q, 0.8, n=2) == [N, P, N]
    assert labels.rel_effective(q, 1.0, n=5) == [P, P, P]


def test_abs_q_is_the_limit_of_both_relative_rules():
    rng = random.Random(0)
    for _ in range(200):
        q = [rng.randint(0, 16) / 16 for _ in range(6)]
        strict, loose = labels.rel_ratio(q, 1.0), labels.rel_ratio(q, 0.5)
        assert all(b for a, b in zip(strict, loose, strict=True) if a)  # fewer positives with a larger gamma
        assert labels.rel_ratio(q, 0.0) == labels.rel_effective(q, 0.0) == labels.abs_q(q) == labels.hard_estimate(q)


def test_relative_progress_takes_the_ratio_gamma_and_ends_at_the_first_zero():
    assert labels.relative_progress([1.0, 0.5, 0.25, 0.125], 0.5) == [P, P, P]  # ratios of exactly gamma
    assert labels.relative_progress([1.0, 0.5, 0.25, 0.25], 0.8) == [N, N, P]  # goes on after a negative
    assert labels.relative_progress([0.5, 0.0, 0.5, 1.0], 0.8) == [N, N, N]  # nothing is positive after a zero
    assert labels.relative_progress([0.0, 0.5, 1.0], 0.8) == [N, N]


def test_label_selects_the_rule_and_passes_its_parameters():
    q = [0.625, 0.25, 0.0, 0.25, 0.25]
    assert labels.label(q, "abs_q") == labels.label(q, "hard_estimate") == [P, N, P, P]
    assert labels.label(q, "rel_ratio") == [N, N, P, P]  # gamma 0.8
    assert labels.label(q, "rel_ratio", gamma=0.3) == [P, N, P, P]
    assert labels.label(q, "rel_ratio", gamma=1.0) == [N, N, P, N]
    assert labels.label(q, "relative_progress") == [N, N, N, N]
    assert labels.label(q, "relative_progress", gamma=0.4) == [P, N, N, N]
    assert labels.label(q, "rel_effective") == labels.label(q, "rel_effective", alpha=0.8) == [P, N, P, P]
    assert labels.label(q, "rel_effective", alpha=1.0) == labels.label(q, "rel_effective", alpha=0.8, n=2) == [N, N, P, P]
    with pytest.raises(ValueError, match="unknown label rule 'best': choose one of abs_q, "):
        labels.label(q, "best")


def test_label_with_takes_rule_and_parameters_from_the_recipe():
    q = [0.625, 0.25, 0.25]
    for rule in labels.RULES:
        knobs = AnnotateKnobs(rule=rule, alpha=1.0, gamma=0.3)
        assert labels.label_with(knobs, q) == labels.label(q, rule, alpha=1.0, gamma=0.3)
        assert labels.label_with(knobs, q, "rel_ratio") == [P, P] and labels.label_with(knobs, q, "rel_effective") == [N, P]


# --- steps -------------------------------------------------------------------------------------------------------------


def test_labels_end_with_the_first_negative():
    assert labels.until_first_negative([P, P, N, P, N]) == [P, P, N]
    assert labels.until_first_negative((P, P)) == [P, P]
    assert labels.until_first_negative([N, N]) == [N]
    assert labels.until_first_negative([]) == []


def test_labelled_steps_have_their_own_question_history_and_solution():
    annotated = [
        AnnotatedSolution("p", ("a", "b", "c"), False, (0.5, 0.75, 0.0, 0.5)),
        AnnotatedSolution("q", ("d", "e"), True, (1.0, 0.5, 1.0)),
    ]
    steps = labels.labelled_steps(annotated, {"q": "Q?", "p": "P?"}, AnnotateKnobs(rule="abs_q"))
    assert steps == [
        LabelledStep("p", "P?", (), "a", True, 0),
        LabelledStep("p", "P?", ("a",), "b", False, 0),
        LabelledStep("q", "Q?", (), "d", True, 1),
        LabelledStep("q", "Q?", ("d",), "e", True, 1),
    ]
    by_ratio = labels.labelled_steps(annotated, {"q": "Q?", "p": "P?"}, AnnotateKnobs(rule="rel_ratio", gamma=0.8))
    assert [(s.chunk, s.label) for s in by_ratio] == [("a", True), ("b", False), ("d", False)]


@pytest.mark.parametrize(("branches", "signs"), [(1, [N]), (2, [P, N]), (3, [P, P, P]), (4, [P, P, P]), (9, [P, P, P])])
def test_only_the_first_completions_of_a_boundary_count(branches, signs):
    """Right completions after chunk 1: the second; after chunk 2: the third; the stored Q is that of four."""
    hits = ((P, P, P, P), (N, P, N, N), (N, N, P, N))
    solution = AnnotatedSolution("p", ("a", "b", "c"), True, labels.values(hits, True), hits)
    knobs = AnnotateKnobs(branches=branches)
    assert [s.label for s in labels.labelled_steps([solution], {"p": "P?"}, knobs)] == signs
    stored = AnnotatedSolution("p", ("a", "b", "c"), True, (1.0, 0.5, 0.0, 1.0))  # without hits, its own Q counts
    assert [s.label for s in labels.labelled_steps([stored], {"p": "P?"}, knobs)] == [P, N]


def test_load_steps_reads_one_split(tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps({"p": "P?", "q": "Q?"}))
    write_jsonl(tmp_path / "train.jsonl", [AnnotatedSolution("p", ("a",), True, (0.5, 1.0))])
    write_jsonl(tmp_path / "validation.jsonl", [AnnotatedSolution("q", ("b",), False, (0.5, 0.0))])
    assert labels.load_steps(tmp_path, "train", AnnotateKnobs()) == [LabelledStep("p", "P?", (), "a", True)]
    assert labels.load_steps(tmp_path, "validation", AnnotateKnobs()) == [LabelledStep("q", "Q?", (), "b", False)]


# --- balancing ---------------------------------------------------------------------------------------------------------

SKEWED = [i % 5 != 0 for i in range(50)]  # 40 positive, 10 negative


def test_balanced_is_half_and_half_and_so_is_every_even_prefix():
    indices = labels.balanced(SKEWED, 100, 0)
    assert len(indices) == len(set(indices)) == 20  # the minority once
    for n in range(2, 21, 2):
        assert sum(SKEWED[i] for i in indices[:n]) == n // 2
    few_positive = [not positive for positive in SKEWED]
    assert sum(few_positive[i] for i in labels.balanced(few_positive, 100, 0)) == 10


def test_balanced_counts_both_sides_together():
    assert len(labels.balanced(SKEWED, 8, 0)) == 8
    assert len(labels.balanced(SKEWED, 9, 0)) == 8
    assert len(labels.balanced(SKEWED, 8, 0, passes=2)) == 16
    assert labels.balanced([P, P], 4, 0) == labels.balanced([], 4, 0) == []


def test_balanced_depends_on_the_seed_and_not_on_the_order_of_labels():
    indices = labels.balanced(SKEWED, 100, 0)
    assert labels.balanced(SKEWED, 100, 0) == indices != labels.balanced(SKEWED, 100, 1)
    for side in (True, False):
        chosen = [i for i in indices if SKEWED[i] is side]
        assert chosen != sorted(chosen)  # shuffled


def test_every_pass_takes_other_members_of_the_majority():
    once, thrice = labels.balanced(SKEWED, 100, 0), labels.balanced(SKEWED, 100, 0, passes=3)
    assert thrice[:20] == once and len(thrice) == 60
    assert len({i for i in thrice if SKEWED[i]}) == 30
    assert [i for i in thrice if not SKEWED[i]] == 3 * [i for i in once if not SKEWED[i]]
    many = labels.balanced(SKEWED, 100, 0, passes=5)  # more passes than the majority lasts: it starts over
    assert len(many) == 100 and len({i for i in many if SKEWED[i]}) == 40


def test_balanced_steps_are_those_of_the_indices():
    steps = [LabelledStep("p", "?", (), str(i), positive) for i, positive in enumerate(SKEWED)]
    assert labels.balanced_steps(steps, 12, 3, 2) == [steps[i] for i in labels.balanced(SKEWED, 12, 3, 2)]


# --- which solutions are annotated -------------------------------------------------------------------------------------


def test_problems_all_right_or_all_wrong_are_dropped():
    def s(problem_id: str, right: bool, well_formed: bool = True) -> Solution:
        return Solution(problem_id, ("x",), "1", right, well_formed)

    groups = [
        [s("a", True), s("a", True)],
        [s("b", False), s("b", False)],
        [s("c", True), s("c", False), s("c", True)],
        [s("d", True), s("d", False, False)],  # the only wrong one broke the format
    ]
    assert [(x.problem_id, x.correct) for x in labels.choose_solutions(groups, 2, 100)] == [("c", False), ("c", True)]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 8])
def test_the_share_of_right_solutions_is_kept_over_all_problems(keep):
    groups = [[Solution(str(n), ("x",), "1", i % 2 == 0, True) for i in range(16)] for n in range(8)]
    chosen = labels.choose_solutions(groups, keep, 1000)
    assert len(chosen) == 8 * keep and 4 * sum(s.correct for s in chosen) == 8 * keep
    assert all(sum(s.problem_id == str(n) for s in chosen) == keep for n in range(8))
    half = labels.choose_solutions(groups, keep, 1000, right=0.5)
    assert len(half) == 8 * keep and 2 * sum(s.correct for s in half) == 8 * keep


@pytest.mark.parametrize(
    "wrong,right,keep,expected",
    [
        (5, 5, 4, (3, 1)),
        (5, 5, 8, (5, 3)),
        (9, 9, 8, (6, 2)),
        (1, 5, 4, (1, 3)),
        (5, 1, 4, (3, 1)),
        (3, 3, 1, (1, 0)),
        (2, 2, 9, (2, 2)),
    ],
)
def test_one_right_solution_for_three_wrong_if_there_are_enough(wrong, right, keep, expected):
    group = [Solution("p", ("x",), "1", i >= wrong, True) for i in range(wrong + right)]
    chosen = labels.choose_solutions([group], keep, 100)
    assert (sum(not s.correct for s in chosen), sum(s.correct for s in chosen)) == expected
    assert len(labels.choose_solutions([group] * 9, keep, 5)) == min(5, 9 * sum(expected))


# --- label noise -------------------------------------------------------------------------------------------------------


def test_agreement_is_perfect_if_values_tell_the_truth():
    task = load_task(ProblemKnobs())
    problem = Problem("p", "?", "5", (3, 5))
    right = ("1+2=3. So now 3 pens. ", "3+2=5. So now 5 pens. ", "The answer is \\boxed{5}.")
    wrong = ("1+2=3. So now 3 pens. ", "3+2=6. So now 6 pens. ", "The answer is \\boxed{6}.")
    sure, never = (True,) * 4, (False,) * 4
    annotated = [
        AnnotatedSolution("p", right, True, (1, 1, 1, 1), (sure, sure, sure)),
        AnnotatedSolution("p", wrong, False, (1, 1, 0, 0), (sure, sure, never)),
    ]
    rows = labels.agreement(annotated, [task.exact_labels(problem, s.chunks) for s in annotated], AnnotateKnobs(branches=4))
    assert {row["m"] for row in rows} == {1, 2, 4} and all(row["agreement"] == row["balanced_agreement"] == 1 for row in rows)


def test_agreement_by_hand():
    # exact: + + − (the last chunk is not counted). One completion per boundary misses the first chunk; two do not.
    annotated = [AnnotatedSolution("p", ("a", "b", "c", "d"), True, (), ((P, P), (N, P), (P, P), (P, N)))]
    rows = {(r["rule"], r["m"]): r for r in labels.agreement(annotated, [[P, P, N, N]], AnnotateKnobs(branches=2))}
    assert len(rows) == 6
    one, two = rows["abs_q", 1], rows["abs_q", 2]  # labels − + + and + + +
    assert one["agreement"] == pytest.approx(1 / 3) and one["exact_positive_called_positive"] == 0.5
    assert two["agreement"] == pytest.approx(2 / 3) and two["exact_positive_called_positive"] == 1.0
    assert one["exact_negative_called_negative"] == two["exact_negative_called_negative"] == 0.0
    assert one["balanced_agreement"] == 0.25 and two["balanced_agreement"] == 0.5
    assert rows["rel_ratio", 2]["agreement"] == pytest.approx(2 / 3)  # Q = 1, 0.5, 1, 0.5: − + −


def test_summary_of_q_by_hand():
    solutions = [
        AnnotatedSolution("a", ("x", "y"), True, (0.5, 0.75, 1.0)),
        AnnotatedSolution("b", ("x", "y", "z"), False, (0.5, 0.25, 0.0, 0.0)),
    ]
    summary = labels.value_summary(solutions, AnnotateKnobs(rule="abs_q"))  # labels + + and + − −
    assert summary == {
        "start": 0.5,
        "before_last": 0.375,
        "change_positive": pytest.approx(0.25 / 3),
        "change_negative": -0.125,
    }


def solution_steps(number: int, length: int) -> list[LabelledStep]:
    return [LabelledStep(f"p{number // 2}", "Q", (), f"{number}-{i}", i < length - 1, number) for i in range(length)]


@pytest.mark.parametrize("most", [1, 5, 9, 10, 14, 100])
def test_whole_solutions_have_at_most_so_many_steps_and_are_never_cut(most):
    """Solutions of one problem are different solutions; one is returned even if it alone is too long."""
    solutions = [solution_steps(number, length) for number, length in enumerate((3, 2, 4, 5))]
    everything = [step for own in solutions for step in own]
    found = [labels.whole_solutions(everything, most, seed) for seed in range(8)]
    for chosen in found:
        own = [steps for steps in solutions if steps[0] in chosen]
        assert sorted(map(id, chosen)) == sorted(id(step) for steps in own for step in steps)
        assert len(chosen) <= most or len(own) == 1
        rest = [len(steps) for steps in solutions if steps[0] not in chosen]
        assert all(len(chosen) + length > most for length in rest)  # no other one would have fitted
    assert labels.whole_solutions(everything, most, 3) == found[3] and (most >= 14 or len({tuple(f) for f in found}) > 1)
