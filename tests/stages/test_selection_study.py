"""The study of data selection and dense rewards, with a scripted model: rows, what GRPO is given, and contrasts."""

from __future__ import annotations

import dataclasses
import io
import json
import os

import pytest
from fakes import FakeLM, FakeSampler, fake_run, fake_task
from rich.console import Console

from minisw.chunks import tag
from minisw.cli import check, parse
from minisw.engine.requests import Completion
from minisw.evaluate import stats
from minisw.recipe import AnnotateKnobs, EvaluateKnobs, JudgeKnobs, PolicyKnobs, ProblemKnobs, Recipe, SelectKnobs
from minisw.records import Judgment, Problem, Solution
from minisw.saved_run import SavedRun
from minisw.study import SELECTION
from minisw.study import selection as study
from minisw.training.grpo import Group, GRPOConfig

TRAIN = [Problem(f"train-{i}", f"TRAIN{i}?", "7") for i in range(8)]
TEST = [Problem(f"test-{i}", f"TEST{i}?", "7") for i in range(2)]
RECIPE = Recipe(
    seed=3,
    problems=ProblemKnobs(train=1, test=2),
    policy=PolicyKnobs(temperature=0.6, max_text_tokens=60, max_chunks=4),
    annotate=AnnotateKnobs(problems=1),
    judge=JudgeKnobs(steps=3),
    evaluate=EvaluateKnobs(resamples=50),
    select=SelectKnobs(problems=2, rounds=2),
)
RIGHT, WRONG = tag(["good", "\\boxed{7}"]), tag(["good", "\\boxed{9}"])
P = {"good": 0.75, "\\boxed{7}": 0.25, "\\boxed{9}": 0.25}
REWARDS = ("process", "outcome", "outcome_same_tokens")
LOGS = {"step": 1, "reward": 0.5, "loss": 9.0}


class Judge:
    """Measures P(Positive) only if it is asked to."""

    name = "judge"

    def judge(self, steps, seed, progress=None, probabilities=False):
        return [Judgment(True, p_positive=P[s.chunk] if probabilities else 1.0, tokens=7) for s in steps]


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """Arguments of every GRPO of the policy, which is not carried out; its curve has three steps."""
    calls = []

    def train(policy, problems, reward, config, seed, monitor, start):
        calls.append({"adapter": policy.adapter, "problems": problems, "reward": reward, "config": config, "seed": seed})
        calls[-1] |= {"start": start, "monitor": monitor}
        return [LOGS | {"step": n, **dict.fromkeys(study.GAMED, n / 10)} for n in (1, 2, 3)]

    monkeypatch.setattr(study, "train_policy_grpo", train)
    monkeypatch.setattr(study, "load_judge", lambda run, name: {"stepwiser": Judge()}[name])
    return calls


@pytest.fixture
def a_run(tmp_path, trained):
    """The first policy is right on one test problem, that of the dense reward on both, those of the outcome on none."""
    lm = FakeLM("policy")

    def script(text: str, sample: int) -> str:
        right = {"policy": "TEST0" in text, "dense_process": True}.get(lm.active, False)
        return RIGHT if right else WRONG

    return fake_run(tmp_path / "run", RECIPE, fake_task({"train": TRAIN, "test": TEST}), FakeSampler(lm, script))


def test_the_recipe_has_enough_problems_samples_and_rounds():
    changed = SELECTION.change(Recipe())
    judges = ("stepwiser", "discriminative", "rejection_sampled")
    assert changed.select == dataclasses.replace(Recipe().select, problems=500, samples=16, rounds=2, judges=judges)
    assert changed.problems == dataclasses.replace(Recipe().problems, test=500)
    assert dataclasses.replace(changed, select=Recipe().select, problems=Recipe().problems) == Recipe()
    knobs = SelectKnobs(problems=2, samples=20, rounds=3, judges=("rejection_sampled",))
    more = dataclasses.replace(RECIPE, select=knobs)
    assert SELECTION.change(more) == more
    without = dataclasses.replace(more, judge=JudgeKnobs(judges=("stepwiser",)), select=SelectKnobs(problems=2))
    assert SELECTION.change(without).select.judges == ("stepwiser", "discriminative")  # no judge that the run has not
    check(changed)
    assert SELECTION.arms == ("selection", "dense")


def figures(greedy: float, sampled: float, **more) -> dict:
    return {how: {"accuracy": a, "interval": [0, a], **more} for how, a in (("greedy", greedy), ("sampled", sampled))}


def test_rows_of_selection_are_those_of_the_stage_by_round(a_run, monkeypatch):
    def run_stage(run, name):
        assert (run, name) == (a_run, "select")
        (run.folder / "select").mkdir()
        row = {"id": "outcome", "name": "at random", "lucky": 0.5}
        rounds = [{"round": n, "policy": "p", "rows": [row | figures(n / 10, n / 5)]} for n in (1, 2)]
        (run.folder / "select" / "metrics.json").write_text(json.dumps({"rounds": rounds, "note": "round 3: none"}))

    monkeypatch.setattr(study, "run_stage", run_stage)
    found = study.measure(a_run, "selection")
    common = {"id": "outcome", "name": "at random", "lucky": 0.5}
    assert found == {
        "selection": [{"round": n, **study.flattened(common | figures(n / 10, n / 5))} for n in (1, 2)],
        "notes": [{"note": "round 3: none"}],
    }
    (a_run.folder / "select" / "metrics.json").write_text(json.dumps({"rounds": []}))
    monkeypatch.setattr(study, "run_stage", lambda run, name: None)
    assert study.measure(a_run, "selection") == {"selection": [], "notes": []}


def test_each_figure_has_a_key_of_its_own():
    row = {"id": "x", **figures(0.5, 0.25, difference=-0.5)}
    assert study.flattened(row) == {
        "id": "x", "greedy": 0.5, "greedy_interval": [0, 0.5], "greedy_difference": -0.5,
        "sampled": 0.25, "sampled_interval": [0, 0.25], "sampled_difference": -0.5,
    }  # fmt: skip


def test_policies_are_trained_alike_from_that_of_stage_one(a_run, trained):
    study.measure(a_run, "dense")
    assert [call["adapter"] for call in trained] == ["dense_process", "dense_outcome", "dense_outcome_same_tokens"]
    for call in trained:
        assert call["problems"] == TRAIN[2:4]  # after those of stages 1 and 2: the first round's
        assert call["start"] == "policy" and call["seed"] == a_run.seed_of("dense")
        assert dataclasses.replace(call["config"], steps=3) == GRPOConfig.of(RECIPE.judge, RECIPE.model.micro_tokens)
        assert call["monitor"].checkpoint == a_run.folder / "dense" / f"{call['adapter']}.checkpoint"
        assert call["monitor"].progress is not None
        assert (a_run.folder / "dense" / call["adapter"] / "adapter_config.json").is_file()


def test_steps_pay_for_the_tokens_of_the_judge(a_run, trained):
    """One training has as many rollouts, the other as many tokens of policy and judge together: here twice as many."""
    rows = {row["id"]: row["steps"] for row in study.measure(a_run, "dense")["dense"]}
    assert [call["config"].steps for call in trained] == [3, 3, 6]  # the logs have as many tokens of the judge as of the policy
    assert rows == {"before": 0, "process": 3, "outcome": 3, "outcome_same_tokens": 3}  # the script's curves have three
    curve = [{"completions/mean_length": 100, "policy/judge_tokens": judge} for judge in (300, 500, 400, 400)]
    assert study.steps_of_same_tokens(curve) == 4 * 5


def test_only_one_of_them_is_rewarded_for_its_chunks(a_run, trained):
    study.measure(a_run, "dense")
    lm = a_run.lm
    groups = [Group(0, [1], [Completion(lm.encode(t) + [0], True) for t in (RIGHT, WRONG)], [RIGHT, WRONG])]
    process, outcome, alone = (call["reward"].of(groups, 0) for call in trained)
    assert outcome[0] == alone[0] == [[1, 0]] and process[0] == [[1 + 0.5 * 0.5, 0.5 * 0.5]]  # the mean P(Positive) is a half
    assert outcome[1]["policy/process"] == process[1]["policy/process"] == 0.5  # the judge is asked in both
    assert process[1]["policy/judge_tokens"] == 7 * 2 and "policy/process" not in alone[1]
    assert 0 < study.WEIGHT < 1  # no wrong solution is worth more than a right one


def test_rows_of_dense_rewards_compare_test_accuracies_with_the_outcome_alone(a_run, trained):
    found = study.measure(a_run, "dense")
    rows = {row["id"]: row for row in found["dense"]}
    assert list(rows) == ["before", "process", "outcome", "outcome_same_tokens"]
    assert [(row["greedy"], row["sampled"]) for row in rows.values()] == [(0.5, 0.5), (1, 1), (0, 0), (0, 0)]
    assert [row["name"] for row in rows.values()] == [
        "nothing: the policy of stage 1", "the outcome and 0.5 × the judge's score",
        "the outcome, as many rollouts", "the outcome, as many tokens",
    ]  # fmt: skip
    measured, interval = stats.paired_bootstrap([(1, 0), (1, 0)], stats.mean, 3, 50)
    assert (rows["process"]["greedy_difference"], rows["process"]["sampled_difference_interval"]) == (measured, interval)
    assert "greedy_difference" not in rows["outcome"]
    saved = SavedRun(RECIPE, a_run.folder)
    assert all(type(s) is Solution for s in saved.records("dense/test-process-sampled"))
    assert [len(saved.records(f"dense/test-before-{how}")) for how in ("greedy", "sampled")] == [2, 8]


def test_hacking_shows_the_first_and_the_last_steps(a_run, trained, monkeypatch):
    monkeypatch.setattr(study, "ENDS", 2)
    found = study.measure(a_run, "dense")
    assert [(row["id"], row["when"]) for row in found["hacking"]] == [
        (reward, when) for reward in REWARDS for when in ("first", "last")
    ]
    assert [row["policy/process"] for row in found["hacking"]] == pytest.approx([0.15, 0.25] * 3)  # means of two steps
    assert set(found["hacking"][0]) == {"id", "name", "when", *study.GAMED}
    wanted = {"policy/outcome", "policy/process", "policy/process_wrong", "policy/chunks", "policy/empty_chunks"}
    assert wanted | {"completions/mean_length"} <= set(study.GAMED)
    assert [(row["id"], row["step"]) for row in found["curves"]] == [(r, n) for r in REWARDS for n in (1, 2, 3)]
    assert set(found["curves"][0]) == {"id", "step", "reward", *study.GAMED}


def test_what_is_finished_is_not_trained_again(a_run, trained):
    found, calls = study.measure(a_run, "dense"), len(a_run.sampler.calls)
    assert study.measure(a_run, "dense") == found
    assert len(trained) == 3 and len(a_run.sampler.calls) == calls


def row(seed: int, name: str, greedy: float, sampled: float, number: int = 1) -> dict:
    return {"seed": seed, "id": name, "greedy": greedy, "sampled": sampled, "round": number}


def test_contrasts_are_differences_by_seed():
    selection = [
        row(0, "stepwiser", 0.5, 0.25), row(0, "outcome", 0.25, 0.5), row(0, "discriminative", 0.9, 0.9),
        row(0, "stepwiser", 0.9, 0.9, 2), row(0, "outcome", 0.1, 0.1, 2),
        row(1, "stepwiser", 0.75, 0.25), row(1, "outcome", 0.25, 0.25), row(2, "stepwiser", 1, 1),
    ]  # fmt: skip
    dense = [row(4, "process", 0.5, 0.75), row(4, "outcome", 0.75, 0.5), row(4, "before", 0, 0)]
    dense += [row(5, "process", 0.5, 0.75), row(5, "outcome_same_tokens", 0.25, 1)]
    selection += [row(0, "majority", 0.125, 0.25), row(0, "unlabelled", 0.25, 0.5), row(0, "unlabelled", 0, 0, 2)]
    found = study.contrasts({"selection": selection, "dense": dense})
    assert [(c["id"], c["figure"], c["seeds"], c["each"]) for c in found] == [
        ("selection-beats-outcome", "greedy", [0, 1], [0.25, 0.5]),
        ("selection-beats-outcome", "sampled", [0, 1], [-0.25, 0]),
        ("selection-without-labels", "greedy", [0], [0.125]),
        ("selection-without-labels", "sampled", [0], [0.25]),
        ("dense-reward-beats-outcome", "greedy", [4], [-0.25]),
        ("dense-reward-beats-outcome", "sampled", [4], [0.25]),
        ("dense-reward-beats-outcome-tokens", "greedy", [5], [0.25]),
        ("dense-reward-beats-outcome-tokens", "sampled", [5], [-0.25]),
    ]
    half = 12.706 * 0.125
    assert found[0]["measured"] == 0.375 and found[0]["interval"] == pytest.approx((0.375 - half, 0.375 + half))
    assert (found[0]["paper"], found[4]["paper"]) == (0.021, None)
    assert study.contrasts({"selection": selection[-1:]}) == []


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MINISW_LONG"), reason="takes minutes: set MINISW_LONG=1")
def test_a_toy_study_on_the_embedded_model(tmp_path):
    flags = (
        "--problems.train 40 --problems.validation 8 --problems.test 4 --segment.training.epochs 6 --segment.training.batch 4 "
        "--annotate.problems 10 --annotate.samples 6 --annotate.keep 3 --annotate.branches 2 --annotate.max-solutions 12 "
        "--judge.labels 12 --judge.steps 2 --judge.prompts 3 --judge.group 2 --judge.max-new-tokens 60 "
        "--evaluate.resamples 20 --judge.judges stepwiser --select.judges stepwiser --select.problems 12 --select.samples 4"
    )
    command = parse(flags.split())
    recipe = Recipe(**{f.name: getattr(command, f.name) for f in dataclasses.fields(Recipe)})
    console = Console(file=io.StringIO(), width=200)
    SELECTION.run(recipe, tmp_path / "s", 1, console)
    found = json.loads((tmp_path / "s" / "results.json").read_text(encoding="utf-8"))
    assert {row["id"] for row in found["selection"]} == {"before", "outcome", "stepwiser", "majority", "exact"}
    assert [row["id"] for row in found["dense"]] == ["before", "outcome", "process"] and len(found["curves"]) == 4
    assert all(0 <= row[how] <= 1 for row in [*found["selection"], *found["dense"]] for how in ("greedy", "sampled"))
    assert [c["id"] for c in found["contrasts"]][::2] == ["selection-beats-outcome", "dense-reward-beats-outcome"]
    assert "rewarded by GRPO" in console.file.getvalue()
