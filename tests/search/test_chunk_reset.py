"""Chunk-reset with scripted policies and judges: no model is needed."""

import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from minisw.records import Judgment, LabelledStep, Problem, Proposal, Try
from minisw.search.chunk_reset import Retries, chunk_reset, rejection_rate

TOM, ANNA = Problem("tom", "Tom?", "5"), Problem("anna", "Anna?", "7")
FIVE, SEVEN = "The answer is \\boxed{5}.", "The answer is \\boxed{7}."


def chunk(text: str, tokens: int = 10) -> Proposal:
    return Proposal(text, closed=True, finished=True, tokens=tokens)


CUT = Proposal("1+1=2, so ", closed=False, finished=False, tokens=80)
END = Proposal("", closed=False, finished=True, tokens=1)  # the policy's end token


@dataclass
class Script:
    """A policy that plays a list of proposals for each question and repeats the last; it records every call."""

    lines: dict[str, list[Proposal]]
    paths: dict[str, list[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(list))
    seeds: list[int] = field(default_factory=list)
    tokens: int = 0

    def __call__(self, questions, paths, seed):
        self.seeds.append(seed)
        proposals = []
        for question, path in zip(questions, paths, strict=True):
            lines = self.lines[question]
            proposals.append(lines[min(len(self.paths[question]), len(lines) - 1)])
            self.paths[question].append(tuple(path))
            self.tokens += proposals[-1].tokens
        return proposals


@dataclass
class Referee:
    """A judge that rejects chunks with the word "wrong", or gives the verdict `always`; it records every step."""

    always: bool | None | str = "by text"
    steps: list[LabelledStep] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    tokens: int = 0

    def __call__(self, steps, seed):
        self.seeds.append(seed)
        judgments = []
        for step in steps:
            self.steps.append(step)
            tokens = 3 + len(self.steps) % 5
            self.tokens += tokens
            verdict = "wrong" not in step.chunk if self.always == "by text" else self.always
            judgments.append(Judgment(verdict, f"analysis of {step.chunk}", tokens=tokens))
        return judgments


def two_problems() -> Script:
    """Tom's solution has two chunks and a wrong first try; Anna's has three and two wrong tries in the middle."""
    return Script(
        {
            "Tom?": [chunk("wrong a", 11), chunk("right a", 12), chunk(FIVE, 13)],
            "Anna?": [chunk("right b", 21), chunk("wrong c", 22), chunk("wrong d", 23), chunk("right e", 24), chunk(SEVEN, 25)],
        }
    )


def of(tries: list[Try]) -> list[tuple[int, int, str, bool]]:
    return [(t.position, t.attempt, t.text, t.kept) for t in tries]


def test_a_perfect_judge_keeps_only_right_chunks():
    tom, anna = chunk_reset([TOM, ANNA], two_problems(), Referee(), tries=5, max_chunks=9)
    assert tom.chunks == ["right a", FIVE] and anna.chunks == ["right b", "right e", SEVEN]
    assert of(tom.tries) == [(0, 1, "wrong a", False), (0, 2, "right a", True), (1, 1, FIVE, True)]
    assert of(anna.tries) == [
        (0, 1, "right b", True),
        (1, 1, "wrong c", False),
        (1, 2, "wrong d", False),
        (1, 3, "right e", True),
        (2, 1, SEVEN, True),
    ]
    assert [t.verdict for t in anna.tries] == [True, False, False, True, True]
    assert all(t.problem_id == "anna" and t.analysis == f"analysis of {t.text}" for t in anna.tries)


def test_a_rejected_chunk_is_sampled_again_at_the_same_position():
    policy = two_problems()
    chunk_reset([TOM, ANNA], policy, Referee(), tries=5, max_chunks=9)
    assert policy.paths["Tom?"] == [(), (), ("right a",)]
    assert policy.paths["Anna?"] == [(), ("right b",), ("right b",), ("right b",), ("right b", "right e")]


def test_the_judge_sees_every_try_with_its_own_question_and_history():
    judge = Referee()
    paths = chunk_reset([TOM, ANNA], two_problems(), judge, tries=5, max_chunks=9)
    assert [(s.problem_id, s.question, s.history, s.chunk) for s in judge.steps] == [
        ("tom", "Tom?", (), "wrong a"),
        ("anna", "Anna?", (), "right b"),
        ("tom", "Tom?", (), "right a"),
        ("anna", "Anna?", ("right b",), "wrong c"),
        ("tom", "Tom?", ("right a",), FIVE),
        ("anna", "Anna?", ("right b",), "wrong d"),
        ("anna", "Anna?", ("right b",), "right e"),
        ("anna", "Anna?", ("right b", "right e"), SEVEN),
    ]
    assert len(judge.steps) == sum(len(path.tries) for path in paths)


def test_with_a_judge_that_always_says_yes_it_is_plain_sampling():
    tom, anna = chunk_reset([TOM, ANNA], two_problems(), Referee(always=True), tries=5, max_chunks=9)
    assert tom.chunks == ["wrong a", "right a", FIVE]
    assert anna.chunks == ["right b", "wrong c", "wrong d", "right e", SEVEN]
    assert all(t.kept for path in (tom, anna) for t in path.tries)
    assert [path.answer("m").rejected_tokens for path in (tom, anna)] == [0, 0]


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_with_a_judge_that_always_says_no_the_last_try_is_kept(tries):
    lines = [chunk(f"a{i}") for i in range(tries)] + [chunk(f"b{i}") for i in range(tries)] + [chunk(FIVE)] * tries
    policy, judge = Script({"Tom?": lines, "Anna?": [chunk(SEVEN)]}), Referee(always=False)
    tom, anna = chunk_reset([TOM, ANNA], policy, judge, tries=tries, max_chunks=9)
    assert tom.chunks == [f"a{tries - 1}", f"b{tries - 1}", FIVE] and anna.chunks == [SEVEN]
    assert [t.attempt for t in tom.tries] == [*range(1, tries + 1)] * 3
    assert [t.kept for t in tom.tries] == ([False] * (tries - 1) + [True]) * 3
    assert len(judge.steps) == 4 * tries  # the last try is judged too


def test_the_count_of_tries_starts_anew_at_every_position_and_for_every_problem():
    policy = Script(
        {
            "Tom?": [chunk("wrong"), chunk("right"), chunk("wrong"), chunk("right"), chunk(FIVE)],
            "Anna?": [chunk("wrong")] * 2 + [chunk("right"), chunk(SEVEN)],
        }
    )
    tom, anna = chunk_reset([TOM, ANNA], policy, Referee(), tries=3, max_chunks=9)
    assert tom.chunks == ["right", "right", FIVE] and anna.chunks == ["right", SEVEN]
    policy = Script({"Tom?": [chunk("wrong"), chunk("right")] * 3 + [chunk(FIVE)], "Anna?": [chunk(SEVEN)]})
    tom, _ = chunk_reset([TOM, ANNA], policy, Referee(), tries=2, max_chunks=9)
    assert tom.chunks == ["right"] * 3 + [FIVE]


# --- variants ------------------------------------------------------------------------------------------------------------


@dataclass
class Scorer:
    """Rejects every chunk; P(Positive) is the number at its end."""

    def __call__(self, steps, seed):
        return [Judgment(False, p_positive=float(step.chunk.split()[-1]), tokens=1, prompt_tokens=100) for step in steps]


def scored(*scores: float) -> list[Proposal]:
    return [chunk(f"try {score}", 10 + n) for n, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("keep", "scores", "kept"),
    [
        ("last", (0.1, 0.9, 0.3), 2),
        ("best", (0.1, 0.9, 0.3), 1),
        ("best", (0.9, 0.1, 0.3), 0),
        ("best", (0.1, 0.2, 0.3), 2),
        ("best", (0.3, 0.3, 0.1), 1),  # the later of equals
        ("best", (0.5, 0.5, 0.5), 2),
    ],
)
def test_when_all_tries_are_rejected_the_last_or_the_best_is_kept(keep, scores, kept):
    policy = Script({"Tom?": [*scored(*scores), *scored(*scores), *scored(0.5)], "Anna?": scored(0.5)})
    tom, _ = chunk_reset([TOM, ANNA], policy, Scorer(), Retries(3, keep), max_chunks=2)
    assert tom.chunks == [f"try {scores[kept]}"] * 2 and not tom.finished
    assert [t.kept for t in tom.tries] == [n == kept for n in range(3)] * 2
    assert [t.p_positive for t in tom.tries] == [*scores, *scores]
    answer = tom.answer("m")
    assert answer.rejected_tokens == answer.policy_tokens - 2 * (10 + kept) and answer.policy_tokens == 66
    assert answer.judge_prompt_tokens == 600


def test_the_best_try_ends_the_solution_if_it_has_an_answer():
    last, end = chunk("try 0.1"), Proposal("end 0.4", False, True, 1)
    policy = Script({"Tom?": [chunk(FIVE + " 0.9"), last], "Anna?": [chunk("try 0.2"), end, last]})
    tom, anna = chunk_reset([TOM, ANNA], policy, Scorer(), Retries(2, "best"), max_chunks=9)
    assert tom.finished and tom.answer("m").answer == "5" and len(tom.tries) == 2
    assert anna.finished and anna.chunks == ["end 0.4"] and anna.answer("m").answer is None


def test_the_best_try_is_one_that_was_not_cut_off_if_there_is_one():
    cut = Proposal("try 0.9", closed=False, finished=False, tokens=80)
    policy = Script({"Tom?": [cut, chunk("try 0.1"), cut], "Anna?": [cut]})
    tom, anna = chunk_reset([TOM, ANNA], policy, Scorer(), Retries(3, "best"), max_chunks=1)
    assert [t.kept for t in tom.tries] == [False, True, False] and [t.kept for t in anna.tries] == [False, False, True]


def test_an_accepted_try_is_kept_even_if_a_rejected_one_has_a_better_score():
    def judge(steps, seed):
        return [Judgment("wrong" not in s.chunk, p_positive=0.9 if "wrong" in s.chunk else 0.6) for s in steps]

    tom, _ = chunk_reset([TOM, ANNA], two_problems(), judge, Retries(2, "best"), max_chunks=9)
    assert tom.chunks == ["right a", FIVE] and [t.kept for t in tom.tries] == [False, True, True]


def test_retries_may_have_a_temperature_of_their_own():
    policy, calls = two_problems(), []

    def propose(questions, paths, seed, **changes):
        calls.append((list(questions), changes))
        return policy(questions, paths, seed)

    tom, anna = chunk_reset([TOM, ANNA], propose, Referee(), Retries(5, temperature=1.5), max_chunks=9)
    assert tom.chunks == ["right a", FIVE] and anna.chunks == ["right b", "right e", SEVEN]
    hot = {"temperature": 1.5}
    assert calls == [
        (["Tom?", "Anna?"], {}),
        (["Anna?"], {}),
        (["Tom?"], hot),  # Tom's first chunk again
        (["Tom?"], {}),
        (["Anna?"], hot),
        (["Anna?"], hot),
        (["Anna?"], {}),
    ]
    assert len(set(policy.seeds)) == len(policy.seeds)


def test_a_number_of_tries_is_all_that_the_plain_search_needs():
    assert Retries() == Retries(5, "last", None)
    plain, variant = (chunk_reset([TOM, ANNA], two_problems(), Referee(), tries, 9) for tries in (4, Retries(4)))
    assert [path.tries for path in plain] == [path.tries for path in variant]


def test_impossible_variants_are_refused():
    with pytest.raises(ValueError, match="keeps the last or the best of rejected tries, not 'first'"):
        Retries(keep="first")
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="would all be the same: sample above 0"):
            Retries(temperature=temperature)
    with pytest.raises(ValueError, match="at least 1, not 0 and 9"):
        chunk_reset([TOM], two_problems(), Referee(), Retries(0), 9)


def test_prompt_tokens_are_added_up():
    policy = Script({"Tom?": [Proposal("wrong", True, True, 1, 50), Proposal(FIVE, True, True, 2, 60)]})

    def judge(steps, seed):
        return [Judgment("wrong" not in s.chunk, tokens=3, prompt_tokens=7) for s in steps]

    (tom,) = chunk_reset([TOM], policy, judge, 5, 9)
    answer = tom.answer("m")
    assert (answer.policy_prompt_tokens, answer.judge_prompt_tokens, answer.judge_tokens) == (110, 14, 6)
    assert [(t.policy_prompt_tokens, t.judge_prompt_tokens) for t in tom.tries] == [(50, 7), (60, 7)]


# --- verdicts and accounts -----------------------------------------------------------------------------------------------


def test_an_unreadable_verdict_rejects_nothing():
    tom, anna = chunk_reset([TOM, ANNA], two_problems(), Referee(always=None), tries=5, max_chunks=9)
    assert len(tom.tries) == 3 and len(anna.tries) == 5 and all(t.kept for t in tom.tries + anna.tries)
    assert {t.verdict for t in tom.tries} == {None}


def test_every_problem_is_verified_against_its_own_answer():
    policy = Script({"Tom?": [chunk(SEVEN)], "Anna?": [chunk(SEVEN)]})
    answers = [path.answer("search") for path in chunk_reset([TOM, ANNA], policy, Referee(), 5, 9)]
    assert [(a.problem_id, a.method, a.answer, a.correct) for a in answers] == [
        ("tom", "search", "7", False),
        ("anna", "search", "7", True),
    ]


@pytest.mark.parametrize("always", ["by text", False, None])
def test_the_accounts_add_up_to_what_was_sampled(always):
    policy, judge = two_problems(), Referee(always)
    paths = chunk_reset([TOM, ANNA], policy, judge, tries=5, max_chunks=9)
    answers = [path.answer("m") for path in paths]
    assert sum(a.policy_tokens for a in answers) == policy.tokens
    assert sum(a.judge_tokens for a in answers) == judge.tokens
    for path, answer in zip(paths, answers, strict=True):
        kept = sum(t.policy_tokens for t in path.tries if t.kept)
        assert answer.rejected_tokens == answer.policy_tokens - kept
    if always == "by text":
        assert [(a.policy_tokens, a.rejected_tokens) for a in answers] == [(36, 11), (115, 45)]


# --- how a solution ends -------------------------------------------------------------------------------------------------


def test_a_chunk_that_was_cut_off_is_sampled_again_whatever_the_verdict():
    policy = Script({"Tom?": [CUT, chunk("right"), chunk(FIVE)], "Anna?": [CUT, CUT, chunk(SEVEN)]})
    tom, anna = chunk_reset([TOM, ANNA], policy, Referee(always=True), tries=2, max_chunks=9)
    assert tom.chunks == ["right", FIVE] and tom.finished
    assert anna.chunks == [CUT.text, SEVEN] and anna.finished  # the last try is kept, and the solution continues after it


def test_a_blank_chunk_is_sampled_again():
    policy = Script({"Tom?": [chunk("\n"), chunk("right"), chunk(FIVE)], "Anna?": [chunk(SEVEN)]})
    tom, _ = chunk_reset([TOM, ANNA], policy, Referee(always=True), tries=2, max_chunks=9)
    assert [t.kept for t in tom.tries] == [False, True, True] and tom.chunks == ["right", FIVE]


def test_the_policy_may_end_a_solution_without_an_answer():
    policy = Script({"Tom?": [chunk("right"), END], "Anna?": [Proposal(SEVEN, False, True, 9)]})
    tom, anna = chunk_reset([TOM, ANNA], policy, Referee(), 5, 9)
    assert tom.finished and len(tom.tries) == 2 and tom.answer("m").answer is None and not tom.answer("m").correct
    assert anna.finished and anna.answer("m").correct


@pytest.mark.parametrize("limit", [1, 3])
def test_a_solution_is_cut_off_after_max_chunks(limit):
    policy = Script({"Tom?": [chunk("right")], "Anna?": [chunk("right")] * (limit - 1) + [chunk(SEVEN)]})
    tom, anna = chunk_reset([TOM, ANNA], policy, Referee(), 5, max_chunks=limit)
    assert len(tom.chunks) == limit == len(anna.chunks)
    assert not tom.answer("m").finished and anna.answer("m").finished and anna.answer("m").correct


def test_every_position_has_all_its_tries_before_the_search_ends():
    tom, anna = chunk_reset([TOM, ANNA], Script({"Tom?": [chunk("a")], "Anna?": [chunk(SEVEN)]}), Referee(always=False), 4, 3)
    assert len(tom.tries) == 12 and len(tom.chunks) == 3 and len(anna.tries) == 4


def test_a_text_over_the_budget_is_cut_off_and_has_no_answer():
    """Each problem has the whole budget; rejected chunks do not count towards it."""
    policy = Script(
        {
            "Tom?": [chunk("right"), chunk(FIVE)],
            "Anna?": [chunk("right"), chunk("wrong and long, but discarded" * 9), chunk("right, and long, and so on " + SEVEN)],
        }
    )
    tom, anna = chunk_reset([TOM, ANNA], policy, Referee(), 5, 9, within_budget=lambda chunks: len("".join(chunks)) <= 40)
    assert tom.finished and tom.answer("m").answer == "5"
    assert anna.done and not anna.finished and anna.answer("m").answer is None and not anna.answer("m").correct
    assert anna.chunks[-1].endswith(SEVEN) and len(anna.tries) == 3


def test_done_problems_are_no_longer_sampled_and_progress_is_called_for_each():
    policy, ticks = two_problems(), []
    chunk_reset([TOM, ANNA], policy, Referee(), 5, 9, progress=ticks.append)
    assert ticks == [1, 1] and len(policy.paths["Tom?"]) == 3 and len(policy.paths["Anna?"]) == 5
    assert chunk_reset([], policy, Referee(), 5, 9) == []


def test_every_round_has_seeds_of_its_own():
    runs = {}
    for seed in (0, 1):
        policy, judge = two_problems(), Referee()
        chunk_reset([TOM, ANNA], policy, judge, 5, 9, seed)
        runs[seed] = policy.seeds + judge.seeds
    assert len(set(runs[0] + runs[1])) == 2 * len(runs[0]) == 20


@pytest.mark.parametrize("tries, max_chunks", [(0, 5), (5, 0)])
def test_a_search_without_tries_or_chunks_is_refused(tries, max_chunks):
    with pytest.raises(ValueError, match="at least 1, not"):
        chunk_reset([TOM], two_problems(), Referee(), tries, max_chunks)


def test_the_rejection_rate_is_the_share_of_negative_verdicts():
    def a_try(verdict):
        return Try("p", 0, 1, "a", verdict, "", True, 1, 1)

    assert rejection_rate([a_try(v) for v in (False, True, True, None)]) == 0.25
    assert rejection_rate([]) == 0.0


def test_the_search_needs_no_torch():
    names = ("chunk_reset", "budget", "beam", "critic_refine", "theory", "controls")
    modules = ", ".join(f"minisw.search.{name}" for name in names)
    code = f"import sys, {modules}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
