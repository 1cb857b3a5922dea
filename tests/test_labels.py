"""Label rules on hand-made values; Monte-Carlo values on a tiny model; balancing."""

import random

import pytest

from minisw import labels, policy
from minisw.chunks import tag
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.problems import load_task
from minisw.recipe import AnnotateKnobs, PolicyKnobs, ProblemKnobs
from minisw.records import AnnotatedSolution, LabelledStep, Problem, Solution


def test_rules_on_the_edge_cases():
    q = [0.5, 0.5, 0.25, 0.0, 0.0, 0.25]
    assert labels.abs_q(q) == [True, True, False, False, True]
    # 0.25 / 0.5 < 0.8 is negative; 0 after 0 is negative; a recovery from 0 is positive
    assert labels.rel_ratio(q, 0.8) == [True, False, False, False, True]
    # 0.25 + 0.4·((1 − 0.75⁴) − (1 − 0.5⁴)) = 0.25 − 0.4·0.254 > 0; at alpha 1 still (−0.004 < 0 → negative)
    assert labels.rel_effective(q, 0.4) == [True, True, False, False, True]
    assert labels.rel_effective(q, 1.0) == [True, False, False, False, True]


def test_rel_ratio_falls_with_gamma_and_abs_q_is_its_limit():
    rng = random.Random(0)
    for _ in range(200):
        q = [rng.randint(0, 16) / 16 for _ in range(6)]
        strict, loose = labels.rel_ratio(q, 1.0), labels.rel_ratio(q, 0.5)
        assert all(b for a, b in zip(strict, loose, strict=True) if a)
        assert labels.rel_ratio(q, 0.0) == labels.abs_q(q)


def test_steps_stop_behind_the_first_negative():
    solution = AnnotatedSolution("p", ("a", "b", "c"), False, (0.5, 0.6, 0.0, 0.5))
    steps = labels.labelled_steps([solution], {"p": "?"}, AnnotateKnobs(rule="abs_q"))
    assert [(s.history, s.chunk, s.label) for s in steps] == [((), "a", True), (("a",), "b", False)]


def test_balanced_is_half_and_half_and_so_is_every_even_prefix():
    steps = [LabelledStep("p", "?", (), str(i), i % 5 != 0) for i in range(50)]
    chosen = labels.balanced_steps(steps, 100, 0)
    assert len(chosen) == 20 and len({s.chunk for s in chosen}) == 20
    for n in range(2, 21, 2):
        assert sum(s.label for s in chosen[:n]) == n // 2
    assert labels.balanced_steps(steps, 100, 0) == chosen != labels.balanced_steps(steps, 100, 1)


def test_every_balanced_pass_takes_other_labels_of_the_majority():
    steps = [LabelledStep("p", "?", (), str(i), i % 5 != 0) for i in range(50)]  # 40 positive, 10 negative
    once, thrice = labels.balanced_steps(steps, 100, 0), labels.balanced_steps(steps, 100, 0, passes=3)
    assert thrice[:20] == once and len(thrice) == 60 and sum(s.label for s in thrice) == 30
    assert len({s.chunk for s in thrice if s.label}) == 30
    assert [s for s in thrice if not s.label] == 3 * [s for s in once if not s.label]
    many = labels.balanced_steps(steps, 100, 0, passes=5)  # more passes than the majority has steps: it begins again
    assert len(many) == 100 and len({s.chunk for s in many if s.label}) == 40


def test_problems_all_right_or_all_wrong_are_dropped():
    def s(i, right, well=True):
        return Solution(i, ("x",), "1", right, well)

    groups = [
        [s("a", True), s("a", True)],
        [s("b", False), s("b", False)],
        [s("c", True), s("c", False), s("c", True)],
        [s("d", True), s("d", False, False)],
    ]
    assert [(x.problem_id, x.correct) for x in labels.choose_solutions(groups, 2, 100)] == [("c", False), ("c", True)]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 8])
def test_one_right_solution_is_annotated_for_three_wrong(keep):
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
def test_one_right_solution_for_three_wrong_where_there_are_enough(wrong, right, keep, expected):
    group = [Solution("p", ("x",), "1", i >= wrong, True) for i in range(wrong + right)]
    chosen = labels.choose_solutions([group], keep, 100)
    assert (sum(not s.correct for s in chosen), sum(s.correct for s in chosen)) == expected
    assert len(labels.choose_solutions([group] * 9, keep, 5)) == min(5, 9 * sum(expected))


@pytest.fixture(scope="module")
def task():
    return load_task(ProblemKnobs())


def test_values_are_those_of_separate_rollouts(tiny_lm, task, monkeypatch):
    """Greedy branches from a shared prefill give the outcome that a rollout of each prefix by itself gives."""
    problem = Problem("p", "Tom has 12 apples.", "7")
    chunks = ("Add 3.\n\n", "12+3=15. ", "So now 15 apples.")
    ends = {}

    def judge_by_text(gold, answer):
        return ends[answer]

    sampler = Sampler(tiny_lm, slots=4)
    prompt = tiny_lm.chat(task.prompts.solve_chunked.format(question=problem.question))
    expected = []
    for i in range(3):
        ids = prompt + [t for c in chunks[:i] for t in tiny_lm.encode(tag([c]))]
        text = tiny_lm.decode(sampler.generate([Request(ids)], Sampling(12, 0), 0)[0][0].ids)
        ends[text] = i % 2 == 0
        expected.append(float(ends[text]))
    monkeypatch.setattr(policy, "final_answer", lambda text: text)
    monkeypatch.setattr(policy, "verify", judge_by_text)
    monkeypatch.setattr(policy.Policy, "within_budget", lambda *_: True)
    monkeypatch.setattr(policy, "parse_chunks", lambda text: ([text], True))
    solution = Solution("p", chunks, "7", True)
    solver = policy.Policy(tiny_lm, sampler, task.prompts, PolicyKnobs(temperature=0.0, max_text_tokens=12), None)
    (annotated,) = solver.annotate([solution], {"p": problem}, 2, 0)
    assert annotated.q == (*expected, 1.0)
    assert [len(h) for h in annotated.hits] == [2, 2, 2]


def test_agreement_is_perfect_where_values_tell_the_truth(task):
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


def test_summary_of_q_by_hand():
    solutions = [
        AnnotatedSolution("a", ("x", "y"), True, (0.5, 0.75, 1.0)),
        AnnotatedSolution("b", ("x", "y", "z"), False, (0.5, 0.25, 0.0, 0.0)),
    ]
    found = labels.value_summary(solutions, AnnotateKnobs(rule="abs_q"))  # after a, b: + +, + − −
    assert found == {"start": 0.5, "before_last": 0.375, "change_positive": pytest.approx(0.25 / 3), "change_negative": -0.125}
