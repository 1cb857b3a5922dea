"""What a judge is for in training: data selection, and dense rewards of the policy (StepWiser §4.4).

    selection   stage select in two rounds: SFT on what each method chose; greedy and sampled accuracy, share of lucky solutions
    dense       GRPO of the policy from that of stage 1 on the problems of the first round, with outcome and process as reward,
                with the outcome alone and as many rollouts, and with the outcome alone and as many tokens as policy and
                judge have sampled together. The judge is asked in the first two, so that the logs show whether it was gamed

The process reward has a weight below 1, so that no wrong solution is worth more than a right one (training/policy_grpo.py).
GRPO has the steps, groups and learning rate of the judge's (recipe.JudgeKnobs).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minisw.evaluate.stats import mean
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.stepwiser import STEPWISER
from minisw.pipeline import run_stage
from minisw.policy import POLICY
from minisw.recipe import Recipe
from minisw.records import Problem
from minisw.runs import Run
from minisw.search.paths import judging
from minisw.stages.select import (
    BEFORE,
    MAJORITY,
    OUTCOME,
    UNLABELLED,
    accuracies,
    load_judge,
    new_problems,
    policy_of,
    solve_test,
)
from minisw.study.base import Contrast, over_seeds, with_knobs
from minisw.study.whole_runs import RunStudy, Tables
from minisw.training.grpo import GRPOConfig
from minisw.training.monitor import Monitor
from minisw.training.policy_grpo import policy_reward, train_policy_grpo

PROBLEMS, SAMPLES, ROUNDS = 500, 16, 2  # of stage select: problems if the recipe has none, and at least so many of the others
TEST = 500  # test problems at least: differences between policies are small
PROCESS, SAME_TOKENS, WEIGHT = "process", "outcome_same_tokens", 0.5
REWARDED = {
    PROCESS: f"the outcome and {WEIGHT:g} × the judge's score",
    OUTCOME: "the outcome, as many rollouts",
    SAME_TOKENS: "the outcome, as many tokens",
}
ENDS = 5  # steps that the table of hacking shows the mean of, at the beginning and at the end
SELECTION_ARM, DENSE_ARM = "selection", "dense"
GAMED = (  # what the table of hacking shows of the logs
    "policy/outcome",
    "policy/process",
    "policy/process_wrong",
    "completions/mean_length",
    "policy/chunks",
    "policy/empty_chunks",
    "policy/repeated_chunks",
    "policy/judge_tokens",
)

SELECTION_HELPS = Contrast(
    "selection-beats-outcome",
    "solutions chosen by the judge teach more than any right ones",
    f"{SELECTION_ARM}/{STEPWISER}",
    f"{SELECTION_ARM}/{OUTCOME}",
    "StepWiser Table 8, 7B: 63.0 − 60.9",
    0.021,
)
UNLABELLED_HELPS = Contrast(
    "selection-without-labels",
    "without reference answers, solutions chosen by the judge teach more than the majority's",
    f"{SELECTION_ARM}/{UNLABELLED}",
    f"{SELECTION_ARM}/{MAJORITY}",
    "ours",
)
DENSE_HELPS = Contrast(
    "dense-reward-beats-outcome",
    "the judge's score as a further reward makes a better policy with as many rollouts",
    f"{DENSE_ARM}/{PROCESS}",
    f"{DENSE_ARM}/{OUTCOME}",
    "ours",
)
DENSE_HELPS_FOR_ITS_TOKENS = dataclasses.replace(
    DENSE_HELPS,
    id="dense-reward-beats-outcome-tokens",
    claim="the judge's score as a further reward makes a better policy with as many tokens",
    b=f"{DENSE_ARM}/{SAME_TOKENS}",
)


def with_selection(recipe: Recipe) -> Recipe:
    """The recipe with problems for stage select and enough of all that it compares by; RS-FT's judge chooses too."""
    knobs, judges = recipe.select, recipe.select.judges
    if REJECTION_SAMPLED in recipe.judge.judges and REJECTION_SAMPLED not in judges:
        judges = (*judges, REJECTION_SAMPLED)
    more = {"samples": max(knobs.samples, SAMPLES), "rounds": max(knobs.rounds, ROUNDS), "judges": judges}
    recipe = with_knobs("select", problems=knobs.problems or PROBLEMS, **more)(recipe)
    return with_knobs("problems", test=max(recipe.problems.test, TEST))(recipe) if not knobs.problems else recipe


def measure(run: Run, arm: str) -> Tables:
    """The rows of data selection, or of GRPO of the policy."""
    return selection_rows(run) if arm == SELECTION_ARM else dense_rows(run)


def selection_rows(run: Run) -> Tables:
    """Stage select: its methods, by round."""
    run_stage(run, "select")
    metrics = json.loads((run.folder / "select" / "metrics.json").read_text(encoding="utf-8"))
    rows = [{"round": own["round"], **flattened(row)} for own in metrics["rounds"] for row in own["rows"]]
    return {"selection": rows, "notes": [{"note": metrics["note"]}] if "note" in metrics else []}


def flattened(row: dict) -> dict:
    """A row of `select.accuracies` in which each figure has a key of its own: greedy, greedy_interval, greedy_difference, …"""
    flat = {key: value for key, value in row.items() if key not in ("greedy", "sampled")}
    for how in ("greedy", "sampled"):
        figures = dict(row[how])
        flat[how] = figures.pop("accuracy")
        flat |= {f"{how}_{key}": value for key, value in figures.items()}
    return flat


def dense_rows(run: Run) -> Tables:
    """GRPO of the policy with each reward: accuracy before and after, and the logs of the first and the last steps."""
    problems = new_problems(run)[: run.recipe.select.problems]
    solved, hacking, curves = {BEFORE: solve_test(run, f"dense/test-{BEFORE}", POLICY)}, [], {}
    for reward, title in REWARDED.items():
        steps = run.recipe.judge.steps if reward != SAME_TOKENS else steps_of_same_tokens(curves[PROCESS])
        curves[reward] = curve = train_policy(run, reward, problems, steps)
        for when, own in (("first", curve[:ENDS]), ("last", curve[-ENDS:])):
            logged = {key: mean([step[key] for step in own]) for key in GAMED if key in own[0]}
            hacking.append({"id": reward, "name": title, "when": when, **logged})
        solved[reward] = solve_test(run, f"dense/test-{reward}", f"dense_{reward}")
    titles = REWARDED | {BEFORE: "nothing: the policy of stage 1"}
    rows = [{"id": name, "name": titles[name], **flattened(accuracies(run, solved, name))} for name in solved]
    for row in rows:
        row["steps"] = len(curves.get(row["id"], []))
    kept = ("step", "reward", *GAMED)
    logs = [{"id": name, **{key: step[key] for key in kept if key in step}} for name, curve in curves.items() for step in curve]
    return {"dense": rows, "hacking": hacking, "curves": logs}


def steps_of_same_tokens(curve: Sequence[dict]) -> int:
    """The GRPO steps without a judge that sample as many tokens as those of `curve` with policy and judge."""
    policy, judge = (sum(step[key] for step in curve) for key in ("completions/mean_length", "policy/judge_tokens"))
    return round(len(curve) * (policy + judge) / policy)


def train_policy(run: Run, reward: str, problems: Sequence[Problem], steps: int) -> list[dict]:
    """GRPO of the adapter dense_REWARD from the policy of stage 1; returns its curve. All rewards have the same seeds."""
    policy_of(run, POLICY)  # loads the adapter that it starts from
    name, judge = f"dense_{reward}", load_judge(run, STEPWISER)
    policy = policy_of(run, name)
    asked = None if reward == SAME_TOKENS else judging(judge, scores=True)
    rewarded = policy_reward(policy, problems, asked, WEIGHT if reward == PROCESS else 0.0)
    config = GRPOConfig.of(dataclasses.replace(run.recipe.judge, steps=steps), run.recipe.model.micro_tokens)

    def fit(checkpoint: Path | None, tick: Callable) -> list[dict]:
        monitor = Monitor(checkpoint, progress=tick, warn=lambda text: run.console.print(f"  [yellow]{text}[/]"))
        return train_policy_grpo(policy, problems, rewarded, config, run.seed_of("dense"), monitor, start=POLICY)

    return run.train(name, run.folder / "dense", fit, config.steps, f"GRPO: {name}")


def contrasts(tables: Mapping[str, Sequence[dict]]) -> list[dict]:
    """The claims, by greedy and by sampled accuracy: the first round of selection, as in the paper, and dense rewards."""
    first = [row for row in tables.get("selection", []) if row["round"] == 1]
    claims = {contrast: first for contrast in (SELECTION_HELPS, UNLABELLED_HELPS)}
    claims |= {contrast: tables.get("dense", []) for contrast in (DENSE_HELPS, DENSE_HELPS_FOR_ITS_TOKENS)}
    found = []
    for contrast, rows in claims.items():
        a, b = (side.partition("/")[2] for side in (contrast.a, contrast.b))
        for how in ("greedy", "sampled"):
            by_id = {name: {row["seed"]: row[how] for row in rows if row["id"] == name} for name in (a, b)}
            seeds = sorted(by_id[a].keys() & by_id[b].keys())
            if seeds:
                found.append(over_seeds(contrast, how, {seed: by_id[a][seed] - by_id[b][seed] for seed in seeds}))
    return found


SELECTION = RunStudy(
    "selection",
    "Data selection and dense rewards",
    (SELECTION_ARM, DENSE_ARM),
    with_selection,
    measure,
    contrasts,
)
