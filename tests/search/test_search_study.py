"""The study of search at equal compute, on the scripted policy and judge: budgets, controls, and contrasts."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os

import pytest
from fakes import fake_run, fake_task
from rich.console import Console

from minisw.cli import parse
from minisw.evaluate import stats
from minisw.judges import registry
from minisw.judges.base import AlwaysPositive, RandomReject
from minisw.recipe import EvaluateKnobs, JudgeKnobs, PolicyKnobs, ProblemKnobs, Recipe, SearchKnobs
from minisw.records import Answer, Judgment, Problem, Try, read_jsonl
from minisw.saved_run import SavedRun
from minisw.search.chunk_reset import rejection_rate
from minisw.search.controls import OracleJudge
from minisw.search.methods import METHODS
from minisw.study import SEARCH
from minisw.study import search as study

RECIPE = Recipe(
    seed=5,
    problems=ProblemKnobs(validation=8, test=12, hard=3),
    policy=PolicyKnobs(temperature=0.8, max_text_tokens=200, max_chunks=4, max_chunk_tokens=60),
    judge=JudgeKnobs(judges=("discriminative", "stepwiser", "stepwiser_tenth")),
    evaluate=EvaluateKnobs(solutions=12, resamples=50),
    search=SearchKnobs(problems=10),
)
SPLITS = {name: [Problem(f"{name}{i}", f"Q{i}?", str(i)) for i in range(11, 23)] for name in ("validation", "test", "hard")}
PARAMETERS = 10


def labels(problem, chunks) -> list[bool]:
    """A chunk is wrong if it or one before it says so."""
    return ["wrong" not in "".join(chunks[: i + 1]) for i in range(len(chunks))]


class Coin(RandomReject):
    """A judge that knows nothing."""

    def __init__(self, name: str):
        super().__init__(0.4, name)


@pytest.fixture
def a_run(scene, tmp_path, monkeypatch):
    """A run whose policy and StepWiser judge are scripted; the other judges know nothing. Two budgets: 1 and 8."""
    s = scene(wrong=0.4)
    monkeypatch.setattr(study, "MULTIPLES", (1, 8))
    monkeypatch.setattr(study, "base_parameters", lambda lm: PARAMETERS)
    monkeypatch.setattr(study, "load_judge", lambda run, name: s.judge if name == "stepwiser" else Coin(name))
    task = fake_task(SPLITS, exact_labels=labels, has_hard=True)
    return fake_run(tmp_path / "run", RECIPE, task, s.sampler)


def rows_of(run, arm: str) -> list[dict]:
    return study.measure(run, arm)["pareto"]


def at(rows, split: str, multiple: int) -> dict:
    (row,) = [row for row in rows if (row["split"], row["multiple"]) == (split, multiple)]
    return row


def saved(run, name: str) -> list[Answer]:
    return read_jsonl(run.folder / "pareto" / f"{name}.jsonl", Answer)


# --- what is searched ----------------------------------------------------------------------------------------------------


def test_the_study_has_six_budgets_every_method_and_three_controls():
    assert study.MULTIPLES == (1, 2, 4, 8, 16, 32) and study.JUDGES_AT in study.MULTIPLES
    assert SEARCH.arms == (*METHODS, "random_rejection", "always_accepting", "oracle", "judges") and SEARCH.name == "search"


def test_splits_have_as_many_problems_as_are_searched(a_run):
    assert {name: len(problems) for name, problems in study.splits(a_run).items()} == {"validation": 8, "test": 10, "hard": 3}
    a_run.recipe = dataclasses.replace(RECIPE, problems=dataclasses.replace(RECIPE.problems, hard=0))
    assert list(study.splits(a_run)) == ["validation", "test"]
    a_run.recipe, a_run.task = RECIPE, dataclasses.replace(a_run.task, has_hard=False)
    assert list(study.splits(a_run)) == ["validation", "test"]


def test_the_embedded_task_has_hard_problems_if_the_recipe_asks_for_none():
    assert study.with_more_judges(Recipe()).problems.hard == Recipe().search.problems
    assert study.with_more_judges(RECIPE).problems == RECIPE.problems
    real = parse(["--preset", "smoke"])
    assert study.with_more_judges(real).problems == real.problems
    assert SEARCH.change is study.with_more_judges


def test_at_least_eight_judges_steer_a_search_each_trained_once():
    for recipe in (Recipe(), parse(["--judge.judges", "discriminative", "stepwiser", "genprm", "rejection_sampled"])):
        changed = study.with_more_judges(recipe)
        judges = changed.judge.judges
        assert judges[: len(recipe.judge.judges)] == tuple(recipe.judge.judges) and len(set(judges)) == len(judges)
        assert len(registry.entries(changed)) >= 8
    assert dataclasses.replace(changed.judge, judges=recipe.judge.judges) == recipe.judge


@pytest.mark.parametrize("arm", METHODS)
def test_every_method_has_a_row_for_each_split_and_budget(a_run, arm):
    rows = rows_of(a_run, arm)
    multiples = (1,) if arm == "plain" else (1, 8)
    expected = [(split, multiple) for split in ("validation", "test", "hard") for multiple in multiples]
    assert [(row["split"], row["multiple"]) for row in rows] == expected
    judge = "none" if arm in ("plain", "majority") else "stepwiser"
    assert {row["judge"] for row in rows} == {judge} and {row["method"] for row in rows} == {arm}
    assert all((row["judge_tokens"] > 0) is (judge != "none") for row in rows)
    for row in rows:
        name = f"{row['split']}-{arm}-{judge}-{row['multiple']}"
        assert [a.problem_id for a in saved(a_run, name)] == [p.id for p in study.splits(a_run)[row["split"]]]


def test_the_budget_is_a_multiple_of_a_plain_sample_of_the_same_split(a_run):
    rows = rows_of(a_run, "majority")
    for split in ("validation", "test", "hard"):
        plain = stats.mean([a.policy_tokens for a in saved(a_run, f"{split}-plain-none-1")])
        assert study.unit(a_run, split) == plain
        assert at(rows, split, 1)["tokens"] == plain  # the vote shares its first sample with plain sampling
        assert at(rows, split, 8)["tokens"] == pytest.approx(8 * plain, rel=0.1)


def test_the_budget_that_a_method_gets_is_rounded(a_run, monkeypatch):
    given = {}

    def method(problems, policy, judge, budget, seed, progress=None):
        given[budget] = (len(problems), judge, seed)
        return METHODS["plain"](problems, policy, judge, budget, seed)

    monkeypatch.setattr(study, "METHODS", METHODS | {"beam": method})
    monkeypatch.setattr(study, "unit", lambda run, split: 10.05)
    study.answers(a_run, "test", "beam", "none", 8)
    assert given == {81: (10, None, a_run.seed_of("pareto-test"))}  # 80 would not pay for the eighth sample of 10.05 tokens


@pytest.mark.parametrize("arm", ["chunk_reset", "best_of_n", "oracle"])
def test_a_budget_that_pays_for_no_second_search_is_not_searched_again(a_run, monkeypatch, arm):
    """The answers are the same as those of the search itself."""
    monkeypatch.setattr(study, "MULTIPLES", (1, 2, 16))
    small, middle, large = (at(rows_of(a_run, arm), "test", multiple) for multiple in (1, 2, 16))
    once, twice = (small["tokens"] * count for count in (1, 2))
    assert (middle["tokens"] == once) is (2 * study.unit(a_run, "test") < twice)
    judge = arm if arm == "oracle" else "stepwiser"
    method = "chunk_reset" if arm == "oracle" else arm
    for multiple in (1, 2, 16):
        budget = math.ceil(multiple * study.unit(a_run, "test"))
        chosen = study.judge_of(a_run, judge, "test")
        anew = METHODS[method](study.splits(a_run)["test"], a_run.policy(), chosen, budget, a_run.seed_of("pareto-test"))
        assert saved(a_run, f"test-{method}-{judge}-{multiple}") == anew
    assert large["tokens"] > middle["tokens"]


def test_all_methods_of_a_split_have_one_seed_and_splits_have_their_own(a_run, monkeypatch):
    seeds = {}
    for name in ("plain", "majority", "beam"):
        method = METHODS[name]

        def noted(problems, policy, judge, budget, seed, progress=None, name=name, method=method):
            seeds.setdefault(problems[0].id, set()).add(seed)
            return method(problems, policy, judge, budget, seed, progress)

        monkeypatch.setitem(study.METHODS, name, noted)
    rows_of(a_run, "beam")
    assert seeds == {f"{split}11": {a_run.seed_of(f"pareto-{split}")} for split in ("validation", "test", "hard")}


def test_finished_searches_are_read(a_run):
    rows = rows_of(a_run, "chunk_reset")
    calls = len(a_run.sampler.calls)
    assert rows_of(a_run, "chunk_reset") == rows and len(a_run.sampler.calls) == calls
    for multiple in (1, 8):
        (a_run.folder / "pareto" / f"test-chunk_reset-stepwiser-{multiple}.jsonl").unlink()
    assert rows_of(a_run, "chunk_reset") == rows and len(a_run.sampler.calls) > calls  # the same answers, sampled again
    reader = SavedRun(a_run.recipe, a_run.folder)
    assert type(reader.records("pareto/test-chunk_reset-stepwiser-8")[0]) is Answer


# --- figures -------------------------------------------------------------------------------------------------------------


def test_accuracy_and_account_are_means_of_the_answers(a_run):
    row, answers = at(rows_of(a_run, "chunk_reset"), "test", 1), saved(a_run, "test-chunk_reset-stepwiser-1")
    assert row["accuracy"] == sum(a.correct for a in answers) / 10
    keys = ("policy_tokens", "judge_tokens", "rejected_tokens", "policy_prompt_tokens", "judge_prompt_tokens")
    for key in keys:
        assert row[key] == sum(getattr(a, key) for a in answers) / 10 > 0
    assert row["tokens"] == row["policy_tokens"] + row["judge_tokens"]
    read = row["tokens"] + row["policy_prompt_tokens"] + row["judge_prompt_tokens"]
    assert row["flops"] == pytest.approx(2 * PARAMETERS * read)
    assert row["interval"] == stats.wilson(sum(a.correct for a in answers), 10)


def test_parameters_are_those_of_the_base_without_adapters(tiny_lm, new_lm):
    count = sum(p.numel() for p in tiny_lm.causal_lm.parameters())
    assert study.base_parameters(tiny_lm) == study.base_parameters(new_lm("policy", "stepwiser")) == count


def test_a_search_is_compared_with_the_cheapest_vote_that_pays_for_it(a_run, monkeypatch):
    monkeypatch.setattr(study, "MULTIPLES", (1, 2, 4, 8, 16))
    row = at(rows_of(a_run, "chunk_reset"), "test", 1)
    unit = study.unit(a_run, "test")
    assert row["against"] == next(m for m in study.MULTIPLES if row["tokens"] <= 1.1 * m * unit) > 1  # a search has its price
    mine = saved(a_run, "test-chunk_reset-stepwiser-1")
    votes = saved(a_run, f"test-majority-none-{row['against']}")
    pairs = [(a.correct, b.correct) for a, b in zip(mine, votes, strict=True)]
    difference, interval = stats.paired_bootstrap([(float(a), float(b)) for a, b in pairs], stats.mean, 5, 50)
    assert row["difference"] == difference == sum(a for a, _ in pairs) / 10 - sum(b for _, b in pairs) / 10
    assert row["difference_interval"] == interval


@pytest.mark.parametrize(("factor", "against"), [(1.0, 1), (1.09, 1), (1.11, 8), (8.0, 8), (8.81, None)])
def test_a_vote_of_equal_cost_may_spend_a_tenth_less(a_run, monkeypatch, factor, against):
    monkeypatch.setattr(study, "account", lambda run, method, found: {"tokens": factor * 100})
    monkeypatch.setattr(study, "unit", lambda run, split: 100)
    row = study.pareto_row(a_run, "test", "beam", 1)
    assert row.get("against") == against and ("difference" in row) is (against is not None)


def test_plain_sampling_and_the_vote_are_compared_with_nothing(a_run):
    assert not any("difference" in row for arm in ("plain", "majority") for row in rows_of(a_run, arm))


# --- controls ------------------------------------------------------------------------------------------------------------


KINDS = {"random_rejection": RandomReject, "always_accepting": AlwaysPositive, "oracle": OracleJudge}


@pytest.mark.parametrize(("arm", "kind"), KINDS.items())
def test_controls_steer_chunk_reset_and_cost_no_judging(a_run, arm, kind):
    rows = rows_of(a_run, arm)
    assert [(row["split"], row["multiple"]) for row in rows] == [(s, m) for s in ("test", "hard") for m in (1, 8)]
    assert {(row["method"], row["judge"], row["judge_tokens"]) for row in rows} == {("chunk_reset", arm, 0)}
    assert isinstance(study.judge_of(a_run, arm, "test"), kind)
    assert "difference" in at(rows, "test", 1)
    rejected = at(rows, "test", 8)["rejected_tokens"]
    assert (rejected == 0) is (arm == "always_accepting")


@pytest.mark.parametrize("split", ["test", "hard"])
def test_random_rejection_has_the_rate_of_the_judge_on_the_same_problems(a_run, split):
    rate = study.judge_rate(a_run, split)
    tries = read_jsonl(a_run.folder / "pareto" / f"tries-{split}.jsonl", Try)
    assert rate == rejection_rate(tries) and 0 < rate < 1 and study.judge_of(a_run, "random_rejection", split).rate == rate
    assert {t.problem_id for t in tries} == {p.id for p in study.splits(a_run)[split]}
    assert max(t.attempt for t in tries) <= 5
    calls = len(a_run.sampler.calls)
    assert study.judge_rate(a_run, split) == rate and len(a_run.sampler.calls) == calls
    assert type(SavedRun(a_run.recipe, a_run.folder).records(f"pareto/tries-{split}")[0]) is Try


def test_the_oracle_knows_the_labels_of_its_problems(a_run):
    judge = study.judge_of(a_run, "oracle", "test")
    assert judge.exact_labels is labels and set(judge.problems) == {p.id for p in SPLITS["test"][:10]}
    oracle, always = (at(rows_of(a_run, arm), "test", 8)["accuracy"] for arm in ("oracle", "always_accepting"))
    assert oracle >= always


def test_without_exact_labels_there_is_no_oracle(a_run):
    a_run.task = dataclasses.replace(a_run.task, exact_labels=None)
    assert study.measure(a_run, "oracle") == {} and not a_run.sampler.calls


# --- judges and contrasts ------------------------------------------------------------------------------------------------


def test_every_judge_has_its_f1_and_steers_a_search(a_run):
    rows = study.measure(a_run, "judges")["judges"]
    assert [row["id"] for row in rows] == ["always_positive", "untrained", "discriminative", "stepwiser", "stepwiser_tenth"]
    by_id = {row["id"]: row for row in rows}
    assert by_id["stepwiser"]["f1"] == 1.0 > by_id["discriminative"]["f1"]  # the scripted judge is always right
    assert by_id["stepwiser"]["f1_interval"] == (1.0, 1.0) and by_id["discriminative"]["name"] == "discriminative"
    for name, row in by_id.items():
        answers = saved(a_run, f"test-chunk_reset-{name}-8")
        assert row["accuracy"] == sum(a.correct for a in answers) / 10 and row["flops"] > 0
        single = saved(a_run, f"test-chunk_reset-{name}-1")
        assert row["accuracy_once"] == sum(a.correct for a in single) / 10
        assert row["tokens_once"] == sum(a.policy_tokens + a.judge_tokens for a in single) / 10 <= row["tokens"]
        judgments = read_jsonl(a_run.folder / "evaluate" / f"{name}.jsonl", Judgment)
        assert len(judgments) == 36  # three chunks of twelve solutions
    calls = len(a_run.sampler.calls)
    at_eight = at(rows_of(a_run, "chunk_reset"), "test", 8)
    assert at_eight["accuracy"] == by_id["stepwiser"]["accuracy"] and len(a_run.sampler.calls) > calls


def test_ranks_of_equals_are_their_mean():
    assert study.ranks([0.3, 0.1, 0.3, 0.9]) == [2.5, 1, 2.5, 4] and study.ranks([]) == []


def test_spearman_is_the_correlation_of_ranks():
    assert study.spearman([1, 2, 3, 9], [10, 20, 30, 31]) == pytest.approx(1)
    assert study.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert study.spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)  # 1 - 6·4 / (5·24)
    assert study.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert study.spearman([1, 2], [1, 2]) is None and study.spearman([1, 1, 1], [1, 2, 3]) is None
    assert study.spearman([1, 2, 3], [0, 0, 0]) is None


def row(seed: int, split: str, arm: str, multiple: int, difference: float | None, judge: str = "stepwiser") -> dict:
    found = {"seed": seed, "split": split, "arm": arm, "multiple": multiple, "judge": judge}
    return found if difference is None else found | {"difference": difference}


PARETO = [
    row(0, "validation", "beam", 1, 0.1), row(0, "validation", "beam", 8, 0.3), row(0, "validation", "best_of_n", 8, 0.3),
    row(0, "validation", "best_of_n", 1, None), row(0, "validation", "plain", 1, 0.9, "none"),
    row(0, "test", "beam", 8, 0.05), row(0, "test", "best_of_n", 8, 0.8), row(0, "test", "beam", 1, 0.7),
    row(0, "hard", "beam", 8, 0.9), row(0, "test", "oracle", 8, 0.9, "oracle"),
    row(1, "validation", "beam", 1, -0.1), row(1, "validation", "best_of_n", 8, -0.2), row(1, "test", "beam", 1, -0.3),
    row(2, "test", "beam", 1, 0.9),  # of this seed there is no validation
]  # fmt: skip


def test_the_claim_is_measured_where_validation_problems_say():
    (found,) = study.contrasts({"pareto": PARETO})
    assert found["id"] == "best-search-beats-majority" and found["figure"] == "accuracy"
    assert found["seeds"] == [0, 1] and found["each"] == [0.05, -0.3]  # of equal gains the first one
    assert found["measured"] == pytest.approx(-0.125) and found["chosen"] == ["beam at 8×", "beam at 1×"]
    assert study.contrasts({"pareto": [PARETO[4], PARETO[9]]}) == []


def test_the_claim_about_chunk_reset_chooses_its_budget_alone():
    own = [
        row(0, "validation", "chunk_reset", 8, 0.1), row(0, "validation", "chunk_reset", 16, 0.2),
        row(0, "test", "chunk_reset", 8, 0.6), row(0, "test", "chunk_reset", 16, 0.4),
        row(0, "validation", "chunk_reset", 16, 0.9, "oracle"), row(0, "test", "chunk_reset", 16, 0.9, "oracle"),
    ]  # fmt: skip
    chunk_reset, best = study.contrasts({"pareto": PARETO + own})
    assert chunk_reset["id"] == "search-beats-majority-somewhere" and chunk_reset["chosen"] == ["chunk_reset at 16×"]
    assert chunk_reset["each"] == [0.4] and best["each"] == [0.05, -0.3]  # validation prefers another method


def test_better_judges_are_ranked_within_a_seed():
    judges = [
        {"seed": seed, "id": str(i), "f1": f1, "accuracy": accuracy, "accuracy_once": 1 - accuracy}
        for seed, pairs in enumerate(
            ([(0.1, 0.2), (0.5, 0.3), (0.9, 0.8)], [(0.1, 0.9), (0.5, 0.3), (0.9, 0.2)], [(0.1, 0.2), (0.5, 0.4)])
        )
        for i, (f1, accuracy) in enumerate(pairs)
    ]
    found, once = study.contrasts({"judges": judges})
    assert found["id"] == "better-judge-better-search" and found["figure"] == "spearman"
    assert found["seeds"] == [0, 1] and found["each"] == pytest.approx([1, -1]) and "chosen" not in found
    assert once["figure"] == "spearman, one search" and once["each"] == pytest.approx([-1, 1])
    both = study.contrasts({"judges": judges, "pareto": PARETO})
    assert [c["id"] for c in both] == ["best-search-beats-majority", *["better-judge-better-search"] * 2]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MINISW_LONG"), reason="takes minutes: set MINISW_LONG=1")
def test_a_toy_study_on_the_embedded_model(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MULTIPLES", (1, 8))
    flags = (
        "--problems.train 40 --problems.validation 8 --problems.test 4 --segment.training.epochs 6 --segment.training.batch 4 "
        "--annotate.problems 10 --annotate.samples 6 --annotate.keep 3 --annotate.branches 2 --annotate.max-solutions 12 "
        "--judge.labels 12 --judge.steps 2 --judge.prompts 3 --judge.group 2 --judge.max-new-tokens 60 --judge.rs-samples 4 "
        "--classifier.max-epochs 1 --classifier.lrs 1e-3 --classifier.max-lrs 1 --evaluate.solutions 4 --evaluate.resamples 20 "
        "--judge.judges discriminative rejection_sampled stepwiser --search.problems 2"
    )
    command = parse(flags.split())
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in dataclasses.fields(Recipe)})
    console = Console(file=io.StringIO(), width=200)
    SEARCH.run(recipe, tmp_path / "s", 1, console, ["plain", "majority", "chunk_reset", "random_rejection", "oracle", "judges"])
    found = json.loads((tmp_path / "s" / "results.json").read_text(encoding="utf-8"))
    assert {row["split"] for row in found["pareto"]} == {"validation", "test", "hard"}
    assert all(0 <= row["accuracy"] <= 1 and row["flops"] > 0 for row in [*found["pareto"], *found["judges"]])
    assert len(found["judges"]) == 8 and "method, harder problems" in console.file.getvalue()
