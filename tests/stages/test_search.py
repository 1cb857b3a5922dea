"""The search stage with a scripted sampler: the adapter, the prompt and the result of every call, for three problems."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections import Counter

import pytest

from minisw.engine.requests import Completion
from minisw.judges.base import RandomReject
from minisw.prompts import CLOSE
from minisw.recipe import PolicyKnobs, ProblemKnobs, Recipe, SearchKnobs
from minisw.records import Answer, Problem, Solution, Try, read_jsonl
from minisw.runs import Run
from minisw.stages import search

RIGHT, WRONG = "12+3=15. So now 15 apples.", "12+3=16. So now 16 apples."
TEST = [Problem("t0", "Tom has 12 apples.", "15"), Problem("t1", "Anna has 12 eggs.", "15"), Problem("t2", "Ben has 1 egg.", "1")]
HARD = [Problem("h0", "Clara has 12 books.", "16")]
WRONG_TRIES = {"Tom": 0, "Anna": 2, "Clara": 1}
NAMES = re.compile("Tom|Anna|Ben|Clara")
POSITIVE, NEGATIVE = "12+3=15. 15 and 15: same.\n\\boxed{Positive}", "12+3=15. 15 and 16: different.\n\\boxed{Negative}"


class ScriptedSampler:
    """Plays policy and judge by the adapter in use; records (adapter, prompt, sampling, seed) of every request.

    In a search the policy's first tries are wrong, as often as `WRONG_TRIES` says, then right, and it always answers 15. Of
    the independent solutions only the second is right, and the third is cut off. The judge rejects every wrong chunk.
    """

    def __init__(self, lm, endless=False):
        self.lm, self.calls, self.endless = lm, [], endless  # endless: the policy never comes to an answer
        self.tries = Counter()  # of first chunks, by name
        self.tokens = Counter()  # sampled, by adapter and kind of request

    def generate(self, requests, sampling, seed, progress=None):
        groups = []
        for request in requests:
            prompt = self.lm.decode(request.ids)
            kind = "judge" if "Judge the new step" in prompt else "chunk" if sampling.stop else "solve"
            self.calls.append((kind, self.lm.active, prompt, sampling, seed, request.count))
            group = [self.completion(kind, prompt, i, sampling) for i in range(request.count)]
            self.tokens[kind] += sum(len(c.ids) for c in group)
            groups.append(group)
        return groups

    def completion(self, kind, prompt, number, sampling):
        if kind == "judge":
            text = NEGATIVE if WRONG in prompt.split("New step:")[1] else POSITIVE
        elif kind == "chunk":
            text = self.chunk(prompt) + CLOSE
        else:
            value = 15 if number == 1 else 16
            text = f"<chunk>{RIGHT if value == 15 else WRONG}</chunk><chunk>The answer is \\boxed{{{value}}}.</chunk>"
        cut = kind == "solve" and number == 2
        return Completion(self.lm.encode(text) + ([] if cut else [self.lm.tokenizer.eos_token_id]), not cut)

    def chunk(self, prompt):
        name = NAMES.search(prompt)[0]
        if RIGHT in prompt or WRONG in prompt:  # the first chunk was kept
            return "<chunk>So." if self.endless else "<chunk>The answer is \\boxed{15}."
        self.tries[name] += 1
        return "<chunk>" + (WRONG if self.tries[name] <= WRONG_TRIES[name] else RIGHT)


class Tracked:
    """A language model that knows which adapter is in use."""

    def __init__(self, lm):
        self._lm, self.active = lm, "none"

    def __getattr__(self, name):
        return getattr(self._lm, name)

    @contextlib.contextmanager
    def using(self, name):
        before, self.active = self.active, name
        try:
            with self._lm.using(name):
                yield
        finally:
            self.active = before


def make_run(tmp_path, new_lm, monkeypatch, hard=1, votes=8):
    recipe = Recipe(
        problems=ProblemKnobs(test=3, hard=hard),
        policy=PolicyKnobs(max_text_tokens=40, max_chunks=4, max_chunk_tokens=30),
        search=SearchKnobs(problems=2, tries=3, votes=votes),
    )
    run = Run(dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, resamples=50)), tmp_path / "run")
    loads = []

    def load(split, count, seed):
        loads.append((split, count, seed))
        return {"test": TEST, "hard": HARD}[split][:count]

    run.__dict__["task"] = dataclasses.replace(run.task, load=load)
    run.__dict__["lm"] = Tracked(new_lm("policy", "stepwiser"))
    run.__dict__["sampler"] = ScriptedSampler(run.lm)
    # P(Positive) of a judged reply by its own verdict, without a forward
    monkeypatch.setattr(
        "minisw.judges.generative.p_positive",
        lambda context, adapter, prompts, replies: [0.9 if "Positive" in reply else 0.2 for reply in replies],
    )
    return run, loads


@pytest.fixture
def finished(tmp_path, new_lm, monkeypatch):
    run, loads = make_run(tmp_path, new_lm, monkeypatch)
    search.run_stage(run)
    yield run, loads
    run._lock.close()


def metrics_of(run):
    return json.loads((run.folder / "search" / "metrics.json").read_text())


def answers_of(run, name):
    return read_jsonl(run.folder / "search" / f"{name}.jsonl", Answer)


def samples_of(run):
    samples = read_jsonl(run.folder / "search" / "samples.jsonl", Solution)
    return [[s for s in samples if s.problem_id == p.id] for p in TEST[:2] + HARD]


def test_splits_adapters_and_limits_of_every_call(finished):
    run, loads = finished
    assert loads == [("test", 3, 0), ("hard", 1, 0)]
    for kind, adapter, prompt, sampling, _, count in run.sampler.calls:
        assert adapter == ("stepwiser" if kind == "judge" else "policy")
        assert "Ben" not in prompt  # of three test problems two are searched
        assert sampling.temperature == (0.0 if kind == "judge" else run.recipe.policy.temperature)
        assert sampling.stop == (CLOSE if kind == "chunk" else None)
        assert count == (len(samples_of(run)[0]) if kind == "solve" else 1)
        if kind == "chunk":
            assert sampling.max_new_tokens == 30
    solved = [prompt for kind, _, prompt, *_ in run.sampler.calls if kind == "solve"]
    assert [NAMES.search(p)[0] for p in solved] == ["Tom", "Anna", "Clara"]


def test_every_method_has_a_seed_of_its_own(finished):
    run, _ = finished
    chunk_seeds = {seed for kind, *_, seed, _ in run.sampler.calls if kind == "chunk"}
    solve_seeds = {seed for kind, *_, seed, _ in run.sampler.calls if kind == "solve"}
    rounds = [read_jsonl(run.folder / "search" / f"{name}-tries.jsonl", Try) for name in ("chunk-reset", "random")]
    most = [max(Counter(t.problem_id for t in tries).values()) for tries in rounds]
    assert len(chunk_seeds) == sum(most) and solve_seeds == {run.seed_of("votes")}
    assert run.seed_of("best-of-n") in {seed for kind, *_, seed, _ in run.sampler.calls if kind == "judge"}
    assert len({run.seed_of(name) for name in ("votes", "chunk-reset", "random", "best-of-n")}) == 4


def test_chunk_reset_asks_policy_and_judge_about_the_same_place(finished):
    run, _ = finished
    tries = [t for t in read_jsonl(run.folder / "search" / "chunk-reset-tries.jsonl", Try)]
    answer = "The answer is \\boxed{15}."
    assert [(t.problem_id, t.position, t.text, t.verdict, t.kept) for t in tries] == [
        ("t0", 0, RIGHT, True, True),
        ("t0", 1, answer, True, True),
        ("t1", 0, WRONG, False, False),
        ("t1", 0, WRONG, False, False),
        ("t1", 0, RIGHT, True, True),
        ("t1", 1, answer, True, True),
        ("h0", 0, WRONG, False, False),
        ("h0", 0, RIGHT, True, True),
        ("h0", 1, answer, True, True),
    ]
    judged = [prompt for kind, _, prompt, *_ in run.sampler.calls if kind == "judge"]
    assert f"{TEST[0].question}\n\nSo far:\n(nothing)\n\nNew step:\n{RIGHT}\n\nJudge the new step." in judged[0]
    assert any(f"{HARD[0].question}\n\nSo far:\n{RIGHT}\n\nNew step:\nThe answer is" in prompt for prompt in judged)
    prompts = [prompt for kind, _, prompt, *_ in run.sampler.calls if kind == "chunk" and "Anna" in prompt]
    assert prompts[0] == prompts[1] == prompts[2] and prompts[3].endswith(f"<chunk>{RIGHT}</chunk>")


def test_every_answer_is_verified_against_its_own_problem(finished):
    run, _ = finished
    for name in ("chunk-reset", "random", "best-of-n"):
        answers = answers_of(run, name)
        assert [a.problem_id for a in answers] == ["t0", "t1", "h0"]
        gold = {p.id: p.answer for p in TEST + HARD}
        assert all(a.correct is (a.answer == gold[a.problem_id]) for a in answers)
    assert [a.correct for a in answers_of(run, "chunk-reset")] == [True, True, False]


def test_all_sampled_tokens_are_accounted_for(finished):
    run, _ = finished
    reset, random = answers_of(run, "chunk-reset"), answers_of(run, "random")
    assert sum(a.policy_tokens for a in reset + random) == run.sampler.tokens["chunk"]
    samples = read_jsonl(run.folder / "search" / "samples.jsonl", Solution)
    assert sum(s.tokens for s in samples) == run.sampler.tokens["solve"]
    scored = run.sampler.tokens["judge"] - sum(a.judge_tokens for a in reset)
    best = answers_of(run, "best-of-n")
    assert 0 < sum(a.judge_tokens for a in best) <= scored and all(a.judge_tokens == 0 for a in random)


def test_the_budget_of_the_baselines_includes_the_judge_and_is_kept_for_each_split(finished):
    run, _ = finished
    found = metrics_of(run)
    parts = {"test": (found, slice(0, 2)), "hard": (found["hard"], slice(2, 3))}
    groups = samples_of(run)
    for metrics, part in parts.values():
        reset = answers_of(run, "chunk-reset")[part]
        rows = {row["method"].split(",")[0]: row for row in metrics["rows"]}
        count = len(reset)
        budget = sum(a.policy_tokens + a.judge_tokens for a in reset)
        assert rows["chunk-reset with the judge"]["tokens"] == pytest.approx(budget / count)
        one_more = max(s.tokens for group in groups for s in group)
        vote = rows["majority vote"]["tokens"] * count
        assert budget - one_more < vote <= budget, "the vote spends the budget, and no more"
        assert vote > sum(a.policy_tokens for a in reset), "the judge's tokens count"
        best = rows["best of N by the judge"]
        assert best["tokens"] * count <= budget and best["judge_tokens"] > 0
        first = sum(g[0].tokens for g in groups[part]) / count
        assert rows["plain sampling"]["policy_tokens"] == pytest.approx(first)


def test_accuracies_differences_and_cut_off_shares(finished):
    run, _ = finished
    found = metrics_of(run)
    names = [row["method"] for row in found["rows"]]
    assert names == [
        "plain sampling",
        "chunk-reset with the judge",
        "majority vote, same tokens",
        "best of N by the judge, same tokens",
        "random rejection, same rate",
    ]
    plain, reset, vote, best, random = found["rows"]
    count = len(samples_of(run)[0])
    assert count >= 4
    assert [[s.answer for s in group] for group in samples_of(run)] == [["16", "15", None] + ["16"] * (count - 3)] * 3
    assert plain["accuracy"] == pytest.approx(1 / count) and plain["cut_off"] == pytest.approx(1 / count)
    assert reset["accuracy"] == 1.0 and reset["cut_off"] == 0.0 and reset["rejected_tokens"] > 0
    assert vote["accuracy"] == 0.0  # 16 has most votes
    # the budget pays for a second judged sample of the first problem only; it is the right one, and has the best score
    assert [a.correct for a in answers_of(run, "best-of-n")] == [True, False, True] and best["accuracy"] == 0.5
    assert found["difference"]["measured"] == pytest.approx(1 - 1 / count)
    assert found["random_difference"]["measured"] == pytest.approx(reset["accuracy"] - random["accuracy"])
    assert found["majority_difference"]["measured"] == pytest.approx(reset["accuracy"] - vote["accuracy"])
    assert found["rejection_rate"] == pytest.approx(3 / 9)
    assert all(low <= found[key]["measured"] <= high for key in ("difference",) for low, high in [found[key]["interval"]])
    assert all(0 <= row["cut_off"] <= 1 for row in found["rows"] + found["hard"]["rows"])


def test_random_rejection_has_the_rate_of_the_judge(tmp_path, new_lm, monkeypatch):
    rates = []

    class Recorded(RandomReject):
        def __init__(self, rate):
            rates.append(rate)
            super().__init__(rate)

    monkeypatch.setattr(search, "RandomReject", Recorded)
    run, _ = make_run(tmp_path, new_lm, monkeypatch)
    search.run_stage(run)
    assert rates == [pytest.approx(3 / 9)] and metrics_of(run)["rejection_rate"] == rates[0]
    run._lock.close()


def test_every_interval_has_the_seed_and_the_resamples_of_the_recipe(tmp_path, new_lm, monkeypatch):
    calls, bootstrap = [], search.stats.bootstrap

    def recorded(rows, statistic, seed, resamples):
        calls.append((len(rows), seed, resamples))
        return bootstrap(rows, statistic, seed, resamples)

    monkeypatch.setattr(search.stats, "bootstrap", recorded)
    run, _ = make_run(tmp_path, new_lm, monkeypatch)
    search.run_stage(run)
    assert calls == [(2, run.seed, 50)] * 4 + [(1, run.seed, 50)] * 4  # plain sampling and three differences, by split
    run._lock.close()


def test_the_trace_shows_the_right_answer_with_most_rejections(finished):
    run, _ = finished
    shown = json.loads((run.folder / "search" / "trace.json").read_text())
    assert shown["question"] == TEST[1].question and shown["correct"] and shown["given"] == "15"
    assert [t["kept"] for t in shown["tries"]] == [False, False, True, True]


def test_a_finished_stage_samples_nothing_when_it_runs_again(finished):
    run, _ = finished
    before, calls = metrics_of(run), len(run.sampler.calls)
    search.run_stage(run)
    assert metrics_of(run) == before and len(run.sampler.calls) == calls


def test_without_a_hard_split_nothing_is_loaded_from_it(tmp_path, new_lm, monkeypatch):
    run, loads = make_run(tmp_path, new_lm, monkeypatch, hard=0, votes=2)
    search.run_stage(run)
    assert [split for split, *_ in loads] == ["test"] and "hard" not in metrics_of(run)
    samples = read_jsonl(run.folder / "search" / "samples.jsonl", Solution)
    assert len(samples) == 4  # the recipe allows two a problem
    run._lock.close()


def test_a_search_ends_after_the_chunks_that_the_recipe_allows(tmp_path, new_lm, monkeypatch):
    run, _ = make_run(tmp_path, new_lm, monkeypatch)
    run.sampler.endless = True
    search.run_stage(run)
    tries = read_jsonl(run.folder / "search" / "chunk-reset-tries.jsonl", Try)
    for problem in (*TEST[:2], *HARD):
        assert max(t.position for t in tries if t.problem_id == problem.id) == 3
    assert all(not a.finished and a.answer is None for a in answers_of(run, "chunk-reset"))
    run._lock.close()


def test_a_solution_over_the_text_budget_is_cut_off_in_every_method(tmp_path, new_lm, monkeypatch):
    run, _ = make_run(tmp_path, new_lm, monkeypatch)
    run.recipe = dataclasses.replace(run.recipe, policy=dataclasses.replace(run.recipe.policy, max_text_tokens=20))
    search.run_stage(run)
    for row in metrics_of(run)["rows"]:
        assert row["cut_off"] == 1.0 and row["accuracy"] == 0.0, row
    assert all(a.answer is None for a in answers_of(run, "chunk-reset") + answers_of(run, "best-of-n"))
    run._lock.close()
