"""Chunk-reset with made-up policies and judges; votes and budgets."""

from dataclasses import dataclass

import pytest

from minisw.engine.requests import Completion
from minisw.judges.base import AlwaysPositive, RandomReject
from minisw.problems import load_task
from minisw.recipe import ProblemKnobs, SearchKnobs
from minisw.records import Judgment, LabelledStep, Problem, Solution
from minisw.search import baselines, chunk_reset


class ScriptedSampler:
    """Gives the next line of a script, whatever it is asked."""

    def __init__(self, lm, lines):
        self.lm, self.lines, self.asked = lm, iter(lines), []

    def generate(self, requests, sampling, seed, progress=None):
        self.asked += [self.lm.decode(r.ids) for r in requests]
        lines = [next(self.lines) for _ in requests]
        return [[Completion(self.lm.encode(line), not line.endswith("(cut)"))] for line in lines]


@dataclass
class RejectText:
    """Negative on steps that hold a text."""

    text: str
    name: str = "test"

    def judge(self, steps: list[LabelledStep], seed: int, progress=None) -> list[Judgment]:
        return [Judgment(self.text not in s.chunk, tokens=3) for s in steps]


@pytest.fixture
def task():
    return load_task(ProblemKnobs())


@pytest.fixture
def lm(new_lm):
    return new_lm("policy")


PROBLEM = Problem("p", "Tom has 12 apples.", "5")
LAST = "<chunk>The answer is \\boxed{5}.</chunk>"


def reset(lm, task, lines, judge, **knobs):
    sampler = ScriptedSampler(lm, lines)
    answers, tries = chunk_reset.chunk_reset(lm, sampler, task, [PROBLEM], judge, SearchKnobs(**knobs), "m", 0)
    return answers[0], tries[0], sampler


def test_a_rejected_chunk_is_sampled_again_from_the_same_place(lm, task):
    answer, tries, sampler = reset(lm, task, ["<chunk>1+1=3. </chunk>", "<chunk>1+1=2. </chunk>", LAST], RejectText("3"))
    assert answer.correct and [t["kept"] for t in tries] == [False, True, True]
    assert sampler.asked[0] == sampler.asked[1] and sampler.asked[2].endswith("<chunk>1+1=2. </chunk>")
    assert answer.judge_tokens == 9 and answer.rejected_tokens == len(lm.encode("<chunk>1+1=3. </chunk>"))
    assert answer.policy_tokens == sum(len(lm.encode(x)) for x in ("<chunk>1+1=3. </chunk>", "<chunk>1+1=2. </chunk>", LAST))


def test_after_the_last_try_the_chunk_is_kept_and_the_count_starts_anew(lm, task):
    lines = [f"<chunk>1+1=3{i}. </chunk>" for i in range(3)] + ["<chunk>2+1=3. </chunk>", LAST]
    answer, tries, _ = reset(lm, task, lines, RejectText("1+1"), tries=3)
    assert [(t["position"], t["try"], t["kept"]) for t in tries] == [
        (0, 1, False),
        (0, 2, False),
        (0, 3, True),
        (1, 1, True),
        (2, 1, True),
    ]


def test_with_a_judge_that_rejects_nothing_it_is_plain_sampling(lm, task):
    answer, tries, sampler = reset(lm, task, ["<chunk>1+1=2. </chunk>", LAST], AlwaysPositive())
    assert len(tries) == 2 and answer.rejected_tokens == 0 and answer.correct


def test_an_unreadable_verdict_rejects_nothing(lm, task):
    class Mute:
        name = "mute"

        def judge(self, steps, seed, progress=None):
            return [Judgment(None) for _ in steps]

    assert all(t["kept"] for t in reset(lm, task, ["<chunk>1+1=2. </chunk>", LAST], Mute())[1])


def test_a_chunk_that_was_cut_off_is_tried_again_whatever_the_judge_says(lm, task):
    answer, tries, _ = reset(lm, task, ["<chunk>1+1=2, so (cut)", "<chunk>1+1=2. </chunk>", LAST], AlwaysPositive())
    assert answer.correct and [t["kept"] for t in tries] == [False, True, True]
    # cut off at every try, the last one is kept, and the solution goes on behind it
    answer, tries, _ = reset(lm, task, ["<chunk>1+1=2, so (cut)"] * 2 + [LAST], AlwaysPositive(), tries=2)
    assert answer.correct and [t["kept"] for t in tries] == [False, True, True]


def test_a_blank_chunk_is_tried_again_and_nothing_after_the_last_ends_the_solution(lm, task):
    answer, tries, _ = reset(lm, task, ["<chunk>\n</chunk>", "<chunk>1+1=2. </chunk>", LAST], AlwaysPositive())
    assert answer.correct and [t["kept"] for t in tries] == [False, True, True]
    answer, tries, _ = reset(lm, task, ["<chunk>1+1=2. </chunk>", ""], AlwaysPositive())
    assert [t["kept"] for t in tries] == [True, True] and not answer.correct


def test_a_solution_that_never_ends_is_cut_off(lm, task):
    answer, tries, _ = reset(lm, task, iter(lambda: "<chunk>1+1=2. </chunk>", None), AlwaysPositive(), max_chunks=4)
    assert len(tries) == 4 and not answer.correct


def test_random_rejection_keeps_its_rate():
    steps = [LabelledStep("p", "?", (), "x", True)] * 4000
    verdicts = [j.verdict for j in RandomReject(0.3).judge(steps, 1)]
    assert sum(v is False for v in verdicts) / 4000 == pytest.approx(0.3, abs=0.03)


def test_majority_and_budget():
    s = [Solution("p", ("x",), a, a == "5") for a in ("4", "5", "5", None, None, None)]
    assert baselines.majority(s).answer == "5"
    assert baselines.majority([Solution("p", ("x",), a, False) for a in ("4", "$18", "18.00")]).answer == "$18"  # equal answers
    assert baselines.samples_within([[10, 10, 10], [10, 10, 10]], 45) == [2, 2]
    assert baselines.samples_within([[10, 10], [10, 10]], 35) == [2, 1]
    assert baselines.samples_within([[30, 1], [30, 1]], 25) == [1, 1] and baselines.samples_within([[5], [5, 5]], 100) == [1, 2]


def test_best_of_n_takes_the_best_score_that_the_budget_pays_for():
    groups = [[Solution("p", ("x",), a, a == "5", tokens=10) for a in "456"]] * 2
    answers = baselines.best_of_n(groups, [[0.1, 0.5, 0.9], [0.3, 0.2, 0.9]], [[5, 5, 5]] * 2, 60)
    assert [a.answer for a in answers] == ["5", "4"]
    assert [(a.policy_tokens, a.judge_tokens) for a in answers] == [(20, 10)] * 2
