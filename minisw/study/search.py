"""Search at equal compute (StepWiser §4.4): accuracy against tokens, for every method and for every judge.

    budgets     1, 2, 4, … 32 times the mean tokens of a plain sample of the same split, policy and judge together
    methods     all of search/methods.py, with StepWiser's judge; plain sampling has one budget
    controls    chunk-reset with a judge that rejects at random at StepWiser's rate, one that accepts everything, and one that
                knows the exact labels (oracle)
    judges      chunk-reset at one budget with every judge of the run, beside its first-error F1; the recipe gets more judges for
                this, good and bad ones
    splits      test and hard problems; and validation problems, which choose the method and the budget of the claim

All searches of a split have the same seed: methods that sample whole solutions share them, which makes differences less noisy.
Within a seed, differences from the majority vote are paired by problem. A search spends what it spends at least once, even if
the budget is smaller; so it is compared with the cheapest vote whose budget pays for what it spent.

    OUT/run-SEED/pareto/SPLIT-METHOD-JUDGE-MULTIPLE.jsonl     the answers of one search (records.Answer)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from minisw.engine.model import LanguageModel
from minisw.engine.usage import counted
from minisw.evaluate import stats
from minisw.evaluate.metrics import score
from minisw.judges import registry
from minisw.judges.base import AlwaysPositive, Judge, RandomReject
from minisw.judges.genprm import GENPRM
from minisw.judges.scalar_head import SCALAR_HEAD
from minisw.judges.stepwiser import STEPWISER
from minisw.judges.thinkprm import THINKPRM
from minisw.recipe import Recipe
from minisw.records import Answer, Problem, Try, flat
from minisw.runs import Run
from minisw.search.budget import flops_of, more_within, tokens
from minisw.search.chunk_reset import Retries, chunk_reset, rejection_rate
from minisw.search.controls import OracleJudge
from minisw.search.methods import METHODS
from minisw.search.paths import judging
from minisw.stages.evaluate import judge_items, load_items
from minisw.stages.search import row as search_row
from minisw.stages.select import load_judge
from minisw.study.base import Contrast, over_seeds, with_knobs
from minisw.study.whole_runs import RunStudy, Tables

MULTIPLES = (1, 2, 4, 8, 16, 32)
JUDGES_AT = 8  # the multiple at which judges are compared: with StepWiser's judge, about one chunk-reset search
TOLERANCE = 1.1  # what a search may spend over the budget of a vote of equal cost: votes too spend it only on average
PLAIN, MAJORITY, CHUNK_RESET = "plain", "majority", "chunk_reset"
WHOLE = [name for name in METHODS if name not in (PLAIN, "beam", "critic_refine")]  # they spend a budget on equal pieces
VALIDATION, TEST, HARD = "validation", "test", "hard"
RANDOM, ALWAYS, ORACLE = CONTROLS = ("random_rejection", "always_accepting", "oracle")  # judges of chunk-reset
JUDGES = "judges"  # the arm that compares judges
MORE_JUDGES = (SCALAR_HEAD, GENPRM, THINKPRM)
NO_JUDGE = "none"

SOMEWHERE = Contrast(
    "search-beats-majority-somewhere",
    "chunk-reset with the judge beats the majority vote of equal cost at its best budget",
    "the budget with the largest gain on validation problems",
    "the majority vote of equal cost",
    "asked for by reviewers of StepWiser",
)
BEST_METHOD = dataclasses.replace(
    SOMEWHERE,
    id="best-search-beats-majority",
    claim="the best search with the judge beats the majority vote of equal cost at its best budget",
    a="the method and budget with the largest gain on validation problems",
)
BETTER_JUDGE = Contrast(
    "better-judge-better-search",
    "judges with a higher F1 steer to a higher accuracy (Spearman)",
    "F1",
    "no rank correlation",
    "StepWiser §4.4, without a figure",
)


def with_more_judges(recipe: Recipe) -> Recipe:
    """The recipe with the judges that its scatter of F1 and accuracy needs; and with as many hard problems as test problems are
    searched, if the task has them and the recipe asks for none."""
    judges = recipe.judge.judges
    recipe = with_knobs("judge", judges=judges + tuple(name for name in MORE_JUDGES if name not in judges))(recipe)
    if recipe.problems.source != "arithmetic" or recipe.problems.hard:
        return recipe
    return with_knobs("problems", hard=recipe.search.problems)(recipe)


def measure(run: Run, arm: str) -> Tables:
    """The rows of a method or a control at every budget on every split, or of all judges."""
    if arm == JUDGES:
        return {"judges": judge_rows(run)}
    if arm == ORACLE and run.task.exact_labels is None:
        return {}
    rows = []
    for split in splits(run):
        if split == VALIDATION and arm in CONTROLS:
            continue  # they are no choice
        for multiple in MULTIPLES[:1] if arm == PLAIN else MULTIPLES:
            rows.append(pareto_row(run, split, arm, multiple))
    return {"pareto": rows}


def pareto_row(run: Run, split: str, arm: str, multiple: int) -> dict:
    """Accuracy and account of one search; if a judge steers it, also its difference from a vote of equal cost, if any.

    `against` is the multiple of that vote.
    """
    method, judge = (CHUNK_RESET, arm) if arm in CONTROLS else (arm, NO_JUDGE if arm in (PLAIN, MAJORITY) else STEPWISER)
    found = answers(run, split, method, judge, multiple)
    row = {"split": split, "multiple": multiple, "judge": judge, **account(run, method, found)}
    against = next((m for m in MULTIPLES if row["tokens"] <= TOLERANCE * m * unit(run, split)), None)
    if judge != NO_JUDGE and against:
        votes = answers(run, split, MAJORITY, NO_JUDGE, against)
        pairs = [(float(a.correct), float(b.correct)) for a, b in zip(found, votes, strict=True)]
        difference, interval = stats.paired_bootstrap(pairs, stats.mean, run.seed, run.recipe.evaluate.resamples)
        row |= {"against": against, "difference": difference, "difference_interval": interval}
    return row


def account(run: Run, method: str, found: Sequence[Answer]) -> dict:
    """Accuracy, mean tokens by kind, and mean FLOPs of a problem."""
    parameters = base_parameters(run.lm)
    prompts = {key: stats.mean([getattr(a, key) for a in found]) for key in ("policy_prompt_tokens", "judge_prompt_tokens")}
    flops = stats.mean([flops_of(a, parameters, parameters) for a in found])
    return {**search_row(method, found), **prompts, "flops": flops}


def base_parameters(lm: LanguageModel) -> int:
    """The parameters that read a token, as engine/usage.py counts them: policy and judge are adapters of one base."""
    with counted(lm) as usage:
        return usage.parameters


# --- searching -----------------------------------------------------------------------------------------------------------


def splits(run: Run) -> dict[str, list[Problem]]:
    """The problems of every split, at most `search.problems` of validation and test."""
    knobs, most = run.recipe.problems, run.recipe.search.problems
    found = {
        VALIDATION: run.task.load(VALIDATION, knobs.validation, run.seed)[:most],
        TEST: run.task.load(TEST, knobs.test, run.seed)[:most],
    }
    if run.task.has_hard and knobs.hard:
        found[HARD] = run.task.load(HARD, knobs.hard, run.seed)
    return found


def answers(run: Run, split: str, method: str, judge: str, multiple: int) -> list[Answer]:
    """The answers of one search, from its file if it exists. `judge` names a judge of the run, a control, or `NO_JUDGE`."""
    problems = splits(run)[split]
    budget = 1 if method == PLAIN else math.ceil(multiple * unit(run, split))

    def make(tick) -> list[Answer]:
        if method in WHOLE and multiple > MULTIPLES[0]:
            once = answers(run, split, method, judge, MULTIPLES[0])
            if not more_within(budget, stats.mean([tokens(answer) for answer in once])):
                return once  # the budget does not pay for a second one
        chosen = None if judge == NO_JUDGE else judge_of(run, judge, split)
        return METHODS[method](problems, run.policy(), chosen, budget, run.seed_of(f"pareto-{split}"), tick)

    name = f"{split}-{method}-{judge}-{multiple}"
    return run.records(run.folder / "pareto" / f"{name}.jsonl", Answer, name, len(problems), make)


def unit(run: Run, split: str) -> float:
    """The budget of multiple 1: the mean tokens of a plain sample of the split."""
    return stats.mean([a.policy_tokens for a in answers(run, split, PLAIN, NO_JUDGE, 1)])


def judge_of(run: Run, name: str, split: str) -> Judge:
    """A judge of the run, or a control for the problems of a split."""
    if name == RANDOM:
        return RandomReject(judge_rate(run, split))
    if name == ALWAYS:
        return AlwaysPositive()
    return OracleJudge(run.task.exact_labels, splits(run)[split]) if name == ORACLE else load_judge(run, name)


def judge_rate(run: Run, split: str) -> float:
    """The share of tries that StepWiser's judge rejects in one chunk-reset search of the split's problems."""
    problems = splits(run)[split]

    def make(tick) -> list[Try]:
        policy, judge = run.policy(), judging(load_judge(run, STEPWISER))
        seed, limits = run.seed_of(f"pareto-rate-{split}"), (Retries(), policy.knobs.max_chunks)
        paths = chunk_reset(problems, policy.propose, judge, *limits, seed, policy.within_budget, tick)
        return flat([path.tries for path in paths])

    path = run.folder / "pareto" / f"tries-{split}.jsonl"
    return rejection_rate(run.records(path, Try, "the judge's rate", len(problems), make))


# --- judges and claims ---------------------------------------------------------------------------------------------------


def judge_rows(run: Run) -> list[dict]:
    """Every judge: its first-error F1 on the items of stage evaluate, and chunk-reset with it on the test problems.

    Chunk-reset has the same budget for all, so a cheap judge steers several searches and a vote; `accuracy_once` and
    `tokens_once` are those of a single search.
    """
    items, rows = load_items(run), []
    for entry in registry.entries(run.recipe):
        judge = load_judge(run, entry.id)
        figures = score(items, judge_items(run, entry.id, judge, items), run.seed, run.recipe.evaluate.resamples)
        found = account(run, CHUNK_RESET, answers(run, TEST, CHUNK_RESET, entry.id, JUDGES_AT))
        once = account(run, CHUNK_RESET, answers(run, TEST, CHUNK_RESET, entry.id, MULTIPLES[0]))
        found |= {"accuracy_once": once["accuracy"], "tokens_once": once["tokens"]}
        rows.append({"id": entry.id, "name": judge.name, "f1": figures["f1"], "f1_interval": figures["interval"], **found})
    return rows


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1 for the smallest; equal values share the mean of their ranks."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation: Pearson's of the ranks. None for fewer than three pairs or if one side is constant."""
    x, y = ranks(a), ranks(b)
    dx, dy = [v - stats.mean(x) for v in x], [v - stats.mean(y) for v in y]
    norm = (sum(v * v for v in dx) * sum(v * v for v in dy)) ** 0.5
    return sum(p * q for p, q in zip(dx, dy, strict=True)) / norm if len(x) > 2 and norm else None


def gains_chosen_on_validation(rows: Sequence[dict]) -> tuple[dict[int, float], list[str]]:
    """By seed, the gain on test problems of the arm and budget that gain most on validation problems; and which these are."""
    gains, choices = {}, []
    for seed in sorted({row["seed"] for row in rows}):
        own = {split: [row for row in rows if (row["seed"], row["split"]) == (seed, split)] for split in (VALIDATION, TEST)}
        best = max(own[VALIDATION], key=lambda row: row["difference"], default=None)  # of equals, the earlier and cheaper one
        for row in own[TEST]:
            if best and (row["arm"], row["multiple"]) == (best["arm"], best["multiple"]):
                gains[seed] = row["difference"]
                choices.append(f"{row['arm']} at {row['multiple']}×")
    return gains, choices


def correlations(rows: Sequence[dict], figure: str) -> dict[int, float]:
    """By seed, the rank correlation of the judges' F1 with `figure` of the searches that they steer."""
    by_seed = {seed: [row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})}
    found = {seed: spearman([row["f1"] for row in own], [row[figure] for row in own]) for seed, own in by_seed.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def contrasts(tables: Mapping[str, Sequence[dict]]) -> list[dict]:
    """The claims, over the seeds that have what they need."""
    found = []
    rows = [row for row in tables.get("pareto", []) if row["judge"] == STEPWISER and "difference" in row]
    for contrast, own in ((SOMEWHERE, [row for row in rows if row["arm"] == CHUNK_RESET]), (BEST_METHOD, rows)):
        gains, choices = gains_chosen_on_validation(own)
        if gains:
            found.append(over_seeds(contrast, "accuracy", gains) | {"chosen": choices})
    for name, figure in (("spearman", "accuracy"), ("spearman, one search", "accuracy_once")):
        if values := correlations(tables.get("judges", []), figure):
            found.append(over_seeds(BETTER_JUDGE, name, values))
    return found


SEARCH = RunStudy(
    "search",
    "Search at equal compute",
    (*METHODS, *CONTROLS, JUDGES),
    with_more_judges,
    measure,
    contrasts,
)
