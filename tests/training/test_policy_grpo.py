"""GRPO of the policy: the reward of a solution, what is logged to see it gamed, and what a training is given."""

from __future__ import annotations

import pytest
import torch
from fakes import CUT, EOS, PROMPTS, FakeLM

from minisw.chunks import tag
from minisw.engine.requests import Completion, Request, Sampling
from minisw.judges.base import JudgeContext
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.policy import Outcome, Policy
from minisw.prompts import ARITHMETIC
from minisw.recipe import JudgeKnobs, PolicyKnobs
from minisw.records import Judgment, LabelledStep, Problem
from minisw.training import policy_grpo
from minisw.training.grpo import Group, GroupReward, GRPOConfig
from minisw.training.monitor import Monitor
from minisw.training.policy_grpo import policy_reward, process_rewards, solution_metrics, train_policy_grpo

PROBLEMS = [Problem("p0", "Q0?", "7"), Problem("p1", "Q1?", "8")]
ANSWER = "So it is \\boxed{7}."
KNOBS = PolicyKnobs(temperature=0.7, max_text_tokens=60, max_chunks=3)
P = {"good": 0.8, "bad": 0.2, "unsure": 0.5, ANSWER: 1.0}  # the judge's P(Positive) by chunk


class Judge:
    """Gives every chunk its P, and notes what it was asked."""

    def __init__(self):
        self.calls: list[tuple[list[LabelledStep], int]] = []

    def __call__(self, steps, seed):
        self.calls.append((list(steps), seed))
        return [Judgment(None if s.chunk == "unsure" else P[s.chunk] >= 0.5, p_positive=P[s.chunk]) for s in steps]


def policy_of(adapter="policy", knobs=KNOBS) -> Policy:
    return Policy(FakeLM("policy"), None, PROMPTS, knobs, adapter)


def group(index: int, *texts: str) -> Group:
    lm = FakeLM()
    completions = [Completion(lm.encode(t.removesuffix(CUT)) + [EOS], not t.endswith(CUT)) for t in texts]
    return Group(index, [1], completions, [lm.decode(c.ids) for c in completions])


RIGHT, WRONG = tag(["good", ANSWER]), tag(["good", "bad", "\\boxed{9}"])
P["\\boxed{9}"] = 0.2
# right; wrong; right and cut off; right without the format | of the other problem: 7 is wrong there; right
GROUPS = [group(1, tag(["good", ANSWER]), tag(["bad", "\\boxed{8}"])), group(0, RIGHT, WRONG), group(0, RIGHT + CUT, ANSWER)]
P["\\boxed{8}"] = 0.6


# --- the reward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_reward_is_outcome_plus_weighted_mean_of_the_chunks(weight: float) -> None:
    rewards, metrics = policy_reward(policy_of(), PROBLEMS, Judge(), weight).of(GROUPS, 3)
    outcomes = [[0, 1], [1, 0], [0, 1]]
    process = [[0.9, 0.4], [0.9, 0.4], [0, 0]]  # cut off, and without chunks: nothing is judged
    expected = [[o + weight * p for o, p in zip(*rows, strict=True)] for rows in zip(outcomes, process, strict=True)]
    assert rewards == [pytest.approx(row) for row in expected]
    assert metrics["policy/outcome"] == 3 / 6 and metrics["policy/format_kept"] == 4 / 6
    assert metrics["policy/process"] == pytest.approx((0.9 + 0.4 + 0.9 + 0.4) / 6)
    assert metrics["policy/process_wrong"] == pytest.approx((0.9 + 0.4) / 2)  # one is wrong in each of the first two groups
    assert metrics["policy/chunks"] == (2 + 2 + 2 + 3) / 4


def test_without_a_judge_the_outcome_alone_is_rewarded() -> None:
    rewards, metrics = policy_reward(policy_of(), PROBLEMS).of(GROUPS, 3)
    assert rewards == [[0, 1], [1, 0], [0, 1]]
    assert metrics["policy/outcome"] == 0.5 and not {"policy/process", "policy/process_wrong"} & metrics.keys()


def test_all_chunks_are_judged_in_one_call_with_their_problem_and_history() -> None:
    judge = Judge()
    policy_reward(policy_of(), PROBLEMS, judge, 1.0).of(GROUPS, 11)
    ((steps, seed),) = judge.calls
    assert seed == 11
    assert [(s.problem_id, s.question, s.history, s.chunk) for s in steps] == [
        ("p1", "Q1?", (), "good"),
        ("p1", "Q1?", ("good",), ANSWER),
        ("p1", "Q1?", (), "bad"),
        ("p1", "Q1?", ("bad",), "\\boxed{8}"),
        ("p0", "Q0?", (), "good"),
        ("p0", "Q0?", ("good",), ANSWER),
        ("p0", "Q0?", (), "good"),
        ("p0", "Q0?", ("good",), "bad"),
        ("p0", "Q0?", ("good", "bad"), "\\boxed{9}"),
    ]


def test_a_judge_is_not_asked_about_nothing() -> None:
    judge = Judge()
    rewards, metrics = policy_reward(policy_of(), PROBLEMS, judge, 1.0).of([GROUPS[2]], 0)
    assert rewards == [[0, 1]] and not judge.calls
    assert metrics["policy/process"] == metrics["policy/process_wrong"] == metrics["policy/chunks"] == 0


def test_an_unreadable_reply_counts_a_half() -> None:
    outcome = Outcome(("unsure", "good"), True, True, None, False)
    assert process_rewards(Judge(), PROBLEMS[:1], [outcome], 0)[0] == [pytest.approx((0.5 + 0.8) / 2)]


def test_the_tokens_of_the_judge_are_counted_for_each_solution() -> None:
    """Also those about solutions that are wrong; a solution without chunks costs none."""
    judge = lambda steps, seed: [Judgment(True, p_positive=0.5, tokens=10 + i) for i in range(len(steps))]  # noqa: E731
    read = ((("a", "b"), True), ((), False), (("c",), True))  # chunks, and whether the format is kept
    outcomes = [Outcome(chunks, kept, True, None, len(chunks) == 2) for chunks, kept in read]
    rewards, sampled = process_rewards(judge, PROBLEMS[:1] * 3, outcomes, 0)
    assert rewards == [0.5, 0, 0.5] and sampled == 10 + 11 + 12
    _, metrics = policy_reward(policy_of(), PROBLEMS, judge, 1.0).of(GROUPS, 0)
    solutions = sum(len(group.completions) for group in GROUPS)
    steps = metrics["policy/chunks"] * metrics["policy/format_kept"] * solutions
    assert metrics["policy/judge_tokens"] == pytest.approx(sum(10 + i for i in range(round(steps))) / solutions)


def test_a_solution_over_the_budget_of_the_policy_is_rewarded_nothing() -> None:
    short = policy_of(knobs=PolicyKnobs(max_text_tokens=60, max_chunks=1))
    rewards, _ = policy_reward(short, PROBLEMS, Judge(), 1.0).of([group(0, RIGHT, tag([ANSWER]))], 0)
    assert rewards == [[0.0, 2.0]]


@pytest.mark.parametrize(("judge", "weight"), [(None, 0.1), (Judge(), -0.1)])
def test_a_weight_needs_a_judge_and_is_not_negative(judge, weight: float) -> None:
    with pytest.raises(ValueError, match=f"process reward is {weight}: give a judge and a weight of at least 0"):
        policy_reward(policy_of(), PROBLEMS, judge, weight)


# --- what shows that it is gamed -----------------------------------------------------------------------------------------


def outcome(*chunks: str, well_formed: bool = True) -> Outcome:
    return Outcome(chunks, well_formed, True, None, False)


@pytest.mark.parametrize(
    ("chunk", "empty"), [("", True), ("So.", True), ("12+3=", True), ("a_b !?", True), ("12+3=15", False), ("a_b_c", False)]
)
def test_a_chunk_of_fewer_than_three_words_is_empty(chunk: str, empty: bool) -> None:
    assert solution_metrics([outcome(chunk)])["policy/empty_chunks"] == empty


def test_shares_of_chunks_are_taken_over_all_chunks_that_keep_the_format() -> None:
    texts = outcome("a b c", "so", "a b c ", " a b c"), outcome("so"), outcome("x", "x", well_formed=False)
    metrics = solution_metrics(texts)
    assert metrics == {
        "policy/outcome": 0.0,
        "policy/format_kept": 2 / 3,
        "policy/chunks": 2.5,
        "policy/empty_chunks": 2 / 5,  # "so", in two solutions
        "policy/repeated_chunks": 2 / 5,  # the second solution repeats nothing of its own
    }


# --- training ------------------------------------------------------------------------------------------------------------

CONFIG = GRPOConfig.of(JudgeKnobs(steps=2, prompts=2, group=3, lr=1e-2, temperature=1.9, max_new_tokens=1000, updates=1), 4096)


@pytest.fixture
def called(monkeypatch) -> list:
    calls = []
    monkeypatch.setattr(policy_grpo, "train_grpo", lambda *args: calls.append(args) or [{"step": 1}])
    monkeypatch.setattr(policy_grpo, "copy_adapter", lambda lm, source, target: calls.append((source, target)))
    return calls


def test_a_training_gets_the_requests_and_the_budget_of_the_policy(called: list) -> None:
    policy, reward, monitor = policy_of(), GroupReward(lambda groups, seed: ([], {})), Monitor()
    policy.sampler = object()
    assert train_policy_grpo(policy, PROBLEMS, reward, CONFIG, 9, monitor) == [{"step": 1}]
    ((sampler, adapter, prompts, given, config, seed, passed),) = called
    assert (sampler, adapter, given, seed, passed) == (policy.sampler, "policy", reward, 9, monitor)
    assert prompts == [policy.prompt(p.question) for p in PROBLEMS]
    assert (config.temperature, config.max_new_tokens) == (0.7, policy.sampling.max_new_tokens)
    assert (config.steps, config.prompts, config.group, config.lr, config.micro_tokens) == (2, 2, 3, 1e-2, 4096)


def test_a_step_has_at_most_as_many_prompts_as_there_are_problems(called: list) -> None:
    three, reward = [*PROBLEMS, Problem("p2", "Q2?", "9")], policy_reward(policy_of(), PROBLEMS)
    for problems in (PROBLEMS[:1], PROBLEMS, three):
        train_policy_grpo(policy_of(), problems, reward, CONFIG, 9)
    assert [config.prompts for _, _, _, _, config, *_ in called] == [1, 2, 2] and [len(c[2]) for c in called] == [1, 2, 3]


def test_a_training_may_start_from_another_adapter(called: list) -> None:
    train_policy_grpo(policy_of(), PROBLEMS, policy_reward(policy_of(), PROBLEMS), CONFIG, 9, start="first")
    assert called[0] == ("first", "policy") and len(called) == 2


def test_the_bare_base_and_no_problems_are_refused(called: list) -> None:
    reward = policy_reward(policy_of(), PROBLEMS)
    with pytest.raises(ValueError, match="this policy is the bare base: give it an adapter's name"):
        train_policy_grpo(policy_of(None), PROBLEMS, reward, CONFIG, 9)
    with pytest.raises(ValueError, match="no problems for GRPO of the policy: load more training problems"):
        train_policy_grpo(policy_of(), [], reward, CONFIG, 9)
    assert not called


class ScriptedSampler:
    """Sample 0 of every prompt is right; the others are wrong, each in its own way."""

    def __init__(self, lm):
        self.lm, self.calls = lm, 0

    def generate(self, requests: list[Request], sampling: Sampling, seed: int) -> list[list[Completion]]:
        self.calls += 1
        texts = [tag(["12+3=15. So now 15 apples. ", f"The answer is \\boxed{{{15 + k}}}."]) for k in range(3)]
        end = [self.lm.tokenizer.eos_token_id]
        return [[Completion(self.lm.encode(text) + end, True) for text in texts[: r.count]] for r in requests]


def weights(lm, adapter: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in lm.adapter_parameters(adapter).values()])


def trained(new_lm, judged: bool, weight: float):
    lm = new_lm("start", "policy", "judge", noise=0.2)
    sampler = ScriptedSampler(lm)
    policy = Policy(lm, sampler, ARITHMETIC, PolicyKnobs(max_text_tokens=80), "policy")
    problems = [Problem("a", "Tom has 12 apples.", "15"), Problem("b", "Anna has 12 apples.", "15")]
    judge = DiscriminativeJudge(JudgeContext(lm, sampler, ARITHMETIC, 40, 4096), "judge").judge if judged else None
    reward = policy_reward(policy, problems, judge, weight)
    return lm, train_policy_grpo(policy, problems, reward, CONFIG, 4, Monitor(), "start")


@pytest.mark.slow
def test_asking_a_judge_changes_nothing_but_the_reward(new_lm) -> None:
    """The judge is another adapter of the model that is being trained."""
    alone, history = trained(new_lm, False, 0.0)
    asked, logged = trained(new_lm, True, 0.0)
    dense, paid = trained(new_lm, True, 1.0)
    start = new_lm("start", "policy", "judge", noise=0.2)
    assert torch.equal(weights(alone, "policy"), weights(asked, "policy"))
    assert not torch.equal(weights(alone, "policy"), weights(dense, "policy"))
    assert not torch.equal(weights(alone, "policy"), weights(start, "start"))
    for lm in (alone, asked, dense):
        assert all(torch.equal(weights(lm, name), weights(start, name)) for name in ("start", "judge"))
        names = ("policy", "judge")
        assert not any(p.requires_grad for name in names for p in lm.adapter_parameters(name).values())
    for plain, control, both in zip(history, logged, paid, strict=True):
        assert plain["reward"] == control["reward"] == pytest.approx(1 / 3) and plain["policy/outcome"] == pytest.approx(1 / 3)
        assert 0 < control["policy/process"] < 1 and "policy/process" not in plain
        assert both["reward"] == pytest.approx(1 / 3 + both["policy/process"])
        assert both["policy/chunks"] == 2 and both["policy/format_kept"] == 1
