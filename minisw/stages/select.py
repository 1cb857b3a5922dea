"""Data selection, StepWiser §4.4: a judge chooses the solutions that make the next policy.

In every round

    1. the policy samples N solutions of training problems that no earlier stage and no earlier round has used
    2. each judge scores the chunks of the right solutions; the first one those of all solutions
    3. every method of minisw/selection.py chooses one solution per problem; all sets have the same problems
    4. SFT of the base on each set and on some of what stage 1 taught, as in stage 1; all begin with the same weights
    5. each new policy solves the test problems, greedily and by samples; it is compared with outcome-only selection

New problems, because the policy is right more often on those that SFT has taught it, and the judges have learned from solutions
of those of stage 2. The second round samples from the policy that the first judge's set has made; its SFT starts from the base
again, so rounds differ in their data only. The paper has one round, and compares with neither majority nor exact labels.

A little of what stage 1 taught is in every set, the same for all methods, so that the base learns the format from few problems.
A judge can improve a set of right solutions only where some of them are right by luck (`pools.lucky`); its choice without a
reference answer is to be compared with the majority's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw import selection
from minisw.evaluate import stats
from minisw.judges import registry
from minisw.judges.base import Judge
from minisw.judges.generative import GenerativeJudge
from minisw.policy import POLICY, Policy
from minisw.problems import training_problems
from minisw.problems.files import TooFewProblems
from minisw.records import BenchItem, Judgment, Problem, Solution, flat, read_jsonl, write_json, write_jsonl
from minisw.runs import Run
from minisw.training.policy_sft import policy_sft

BEFORE, OUTCOME, MAJORITY, EXACT = "before", "outcome", "majority", "exact"  # rows beside those of the judges
UNLABELLED = "unlabelled"  # the first judge's choice without a reference answer
TITLES = {
    BEFORE: "the policy that sampled",
    OUTCOME: "at random among right answers",
    MAJORITY: "the most frequent answer, without a reference",
    EXACT: "exact labels among right answers (ceiling)",
}
TEST_SAMPLES = 4  # sampled solutions of a test problem; their share of right ones is the problem's sampled accuracy


class NothingToChoose(ValueError):
    """No set can be made: no solution is right and usable, or there is no problem for which every method can choose."""


@dataclass(frozen=True)
class Round:
    """One round of selection."""

    number: int  # from 1
    problems: Sequence[Problem]
    before: str  # the adapter that samples
    after: str  # the new adapter that samples the next round


def run_stage(run: Run) -> None:
    """Writes select/: pools-ROUND.jsonl, scores-ROUND-JUDGE.jsonl, and for each set chosen-ROUND-METHOD.jsonl, the adapter
    select_ROUND_METHOD and its test solutions; and after each round metrics.json with the rows of all rounds so far.

    Raises ValueError for a judge that the run has not, and NothingToChoose in the first round. In a later one, that error is
    the `note` of the metrics, and the stage ends with the rounds before.
    """
    knobs, folder = run.recipe.select, run.folder / "select"
    folder.mkdir(parents=True, exist_ok=True)
    judges = {name: load_judge(run, name) for name in knobs.judges}
    problems = new_problems(run)
    metrics, before = {"samples": knobs.samples, "rounds": []}, POLICY
    for number in range(1, knobs.rounds + 1):
        own = problems[(number - 1) * knobs.problems : number * knobs.problems]
        this = Round(number, own, before, adapter_name(number, next(iter(judges), OUTCOME)))
        try:
            metrics["rounds"].append({"round": number, "policy": before, **run_round(run, judges, this)})
        except NothingToChoose as error:
            if number == 1:
                raise
            write_json(folder / "metrics.json", metrics | {"note": f"round {number}: {error}"})
            return
        write_json(folder / "metrics.json", metrics)
        before = this.after


def run_round(run: Run, judges: dict[str, Judge], this: Round) -> dict:
    """One round; returns its metrics: counts, the pools, and a row for the policy that sampled and for every method."""
    # 1. sample
    pools = sample_pools(run, this, run.recipe.select.samples)
    if not any(selection.right_indices(pool) for pool in pools):
        raise NothingToChoose("no sampled solution is right and in chunks: raise --select.problems or --select.samples")
    # 2. score the right solutions, and for the first judge all
    first = next(iter(judges), None)
    candidates = {name: selection.usable_indices if name == first else selection.right_indices for name in judges}
    scores = {name: score_pools(run, this, name, judge, pools, candidates[name]) for name, judge in judges.items()}
    # 3. choose
    labels = exact_labels(run, this, pools)
    choices = choose(pools, scores, labels, run.seed_of(f"select-{this.number}"), first)
    chosen = selection.chosen_sets(pools, choices)
    if not chosen[OUTCOME]:
        raise NothingToChoose(
            "there is no problem for which every method can choose: raise --select.problems or --select.samples"
        )
    # 4. train, and 5. solve the test problems
    taught = read_jsonl(run.folder / "segment" / "taught.jsonl", Solution)[: run.recipe.select.taught]
    tests = f"select/test-{this.number}"
    solved, facts = {BEFORE: solve_test(run, f"{tests}-{BEFORE}", this.before)}, {BEFORE: {}}
    for method, solutions in chosen.items():
        write_jsonl(run.folder / "select" / f"chosen-{this.number}-{method}.jsonl", solutions)
        name = adapter_name(this.number, method)
        curve = train_set(run, name, this, [*taught, *solutions])
        facts[method] = {**describe(solutions, method, choices, labels), "final_loss": curve[-1]["loss"] if curve else None}
        solved[method] = solve_test(run, f"{tests}-{method}", name)
        if name != this.after:
            run.lm.drop_adapter(name)  # a dozen adapters of a large base take gigabytes
    titles = TITLES | {name: judge.name for name, judge in judges.items()}
    titles |= {UNLABELLED: f"{titles[first]}, without a reference"} if first else {}
    rows = [{"id": id_, "name": titles[id_], **accuracies(run, solved, id_), **facts[id_]} for id_ in solved]
    counts = {"problems": len(this.problems), "chosen": len(chosen[OUTCOME]), "taught": len(taught)}
    return {**counts, "pools": describe_pools(pools, labels), "rows": rows}


def adapter_name(number: int, method: str) -> str:
    """The adapter trained on what `method` chose in a round."""
    return f"select_{number}_{method}"


# --- 1. problems and pools -----------------------------------------------------------------------------------------------


def new_problems(run: Run) -> list[Problem]:
    """The training problems of all rounds: those after the problems of stages 1 and 2. Raises TooFewProblems."""
    knobs = run.recipe.select
    used, wanted = sum(map(len, training_problems(run.task, run.recipe))), knobs.rounds * knobs.problems
    try:
        return run.task.load("train", used + wanted, run.recipe.seed)[used:]
    except TooFewProblems as error:
        raise TooFewProblems(f"{error}: {used} for stages 1 and 2, {wanted} others for --select.problems and rounds") from None


def sample_pools(run: Run, this: Round, samples: int) -> list[list[Solution]]:
    """`samples` solutions of every problem of the round: [problems][samples]."""
    drawn = run.records_in_shards(
        run.folder / "select" / f"pools-{this.number}.jsonl",
        Solution,
        f"round {this.number}: solutions to choose from",
        f"select-pools-{this.number}",
        [(p, samples) for p in this.problems],
        lambda shard, seed, tick: flat(policy_of(run, this.before).solve(shard, samples, seed, tick)),
    )
    return [drawn[i : i + samples] for i in range(0, len(drawn), samples)]


def policy_of(run: Run, adapter: str, **changes: object) -> Policy:
    """The policy with an adapter of stage 1 or of this stage; `changes` are fields of its knobs, such as temperature=0.0."""
    if adapter == POLICY:
        run.require(adapter, run.folder / "segment" / adapter)
    return Policy(run.lm, run.sampler, run.task.prompts, dataclasses.replace(run.recipe.policy, **changes), adapter)


# --- 2. scores -----------------------------------------------------------------------------------------------------------


def load_judge(run: Run, name: str) -> Judge:
    """A judge of the run by its id in judges/registry.py. Raises ValueError if the run has no such judge."""
    entries = {entry.id: entry for entry in registry.entries(run.recipe)}
    if name not in entries:
        raise ValueError(f"no judge {name!r} to select with: choose --select.judges among {', '.join(entries)}")
    if not entries[name].trained:
        return entries[name].build(run.judge_context, {})
    if entries[name].has_adapter:
        run.require(name, run.folder / "judges" / name)
    trained = json.loads((run.folder / "judges" / "metrics.json").read_text(encoding="utf-8"))
    return entries[name].build(run.judge_context, trained.get(name, {}))


def score_pools(
    run: Run,
    this: Round,
    name: str,
    judge: Judge,
    pools: Sequence[Sequence[Solution]],
    candidates: Callable[[Sequence[Solution]], list[int]],
) -> list[list[list[float | None]]]:
    """P(Positive) of every chunk of the candidates of each pool, [problems][N][chunks]; an empty list for all others.

    None stands for an unreadable reply. P(Positive) of a generative judge is measured at the verdict token of its greedy reply.
    """
    chosen = [(i, n) for i, pool in enumerate(pools) for n in candidates(pool)]
    asked = [(this.problems[i], pools[i][n].chunks) for i, n in chosen]
    steps = flat([BenchItem(p.id, p.question, chunks, -1, True).steps() for p, chunks in asked])
    options = {"probabilities": True} if isinstance(judge, GenerativeJudge) else {}
    path = run.folder / "select" / f"scores-{this.number}-{name}.jsonl"
    judgments = run.records_in_shards(
        path,
        Judgment,
        f"round {this.number}: {judge.name}",
        f"select-scores-{this.number}-{name}",
        [(step, getattr(judge, "votes", 1)) for step in steps],
        lambda shard, seed, tick: judge.judge(shard, seed, tick, **options),
    )
    if len(judgments) != len(steps):
        raise ValueError(f"{path} has {len(judgments)} judgments for {len(steps)} steps: delete it and run the stage again")
    scores: list[list[list[float | None]]] = [[[] for _ in pool] for pool in pools]
    iterator = iter(judgments)
    for i, n in chosen:
        own = [next(iterator) for _ in pools[i][n].chunks]
        scores[i][n] = [None if j.verdict is None else j.p_positive for j in own]
    return scores


# --- 3. choices ----------------------------------------------------------------------------------------------------------


def exact_labels(run: Run, this: Round, pools: Sequence[Sequence[Solution]]) -> list[list[list[bool]]] | None:
    """Exact labels of every solution, [problems][N][chunks]; None for a task without them."""
    if run.task.exact_labels is None:
        return None
    return [[run.task.exact_labels(p, s.chunks) for s in pool] for p, pool in zip(this.problems, pools, strict=True)]


def choose(
    pools: Sequence[Sequence[Solution]], scores: dict[str, list], labels: list | None, seed: int, unlabelled: str | None = None
) -> dict[str, list[selection.Choice]]:
    """The choices of every method: outcome, judges, majority, and exact labels if there are any.

    The judge `unlabelled`, if one is named, also chooses without a reference answer; its scores are those of all solutions.

    `scores`, by judge, and `labels` are [problems][N][chunks].
    """
    choices = {OUTCOME: selection.at_random(pools, seed)}
    choices |= {name: selection.by_score(pools, own, seed) for name, own in scores.items()}
    choices[MAJORITY] = selection.by_majority(pools, seed)
    if unlabelled:
        choices[UNLABELLED] = selection.by_score(pools, scores[unlabelled], seed, selection.usable_indices)
    if labels is not None:
        choices[EXACT] = selection.by_score(pools, labels, seed)
    return choices


# --- 4. and 5. new policies ----------------------------------------------------------------------------------------------


def train_set(run: Run, name: str, this: Round, solutions: Sequence[Solution]) -> list[dict]:
    """SFT of the base on one set: the adapter `name`; returns its curve. All sets are shuffled alike, and begin alike."""
    recipe, policy = run.recipe, Policy(run.lm, run.sampler, run.task.prompts, run.recipe.policy, name)
    questions = {p.id: p.question for p in [*training_problems(run.task, recipe)[0], *this.problems]}
    seed, tokens = run.seed_of("select-sft"), recipe.model.micro_tokens
    fit, steps = policy_sft(policy, questions, solutions, recipe.segment.training, tokens, seed)
    return run.train(name, run.folder / "select", fit, steps, f"SFT: {name}", start="select")


def solve_test(run: Run, name: str, adapter: str) -> dict[str, list[float]]:
    """The share of right solutions of every test problem, of one greedy solution and of `TEST_SAMPLES` sampled ones.

    All policies sample with the same seeds, so that a difference between two of them has less noise. The solutions are in
    `name`-greedy.jsonl and `name`-sampled.jsonl in the run folder.
    """
    problems = run.task.load("test", run.recipe.problems.test, run.seed)
    shares = {}
    for how, count, changes in (("greedy", 1, {"temperature": 0.0}), ("sampled", TEST_SAMPLES, {})):
        policy = policy_of(run, adapter, **changes)
        solutions = run.records_in_shards(
            run.folder / f"{name}-{how}.jsonl",
            Solution,
            f"{name}, {how}",
            f"select-test-{how}",
            [(p, count) for p in problems],
            lambda shard, seed, tick, policy=policy, count=count: flat(policy.solve(shard, count, seed, tick)),
        )
        groups = [solutions[i : i + count] for i in range(0, len(solutions), count)]
        shares[how] = [stats.mean([s.correct for s in group]) for group in groups]
    return shares


def accuracies(run: Run, solved: dict[str, dict[str, list[float]]], method: str) -> dict:
    """Accuracy of one policy with its interval, and minus that of outcome-only selection, by how it was measured."""
    seed, resamples, row = run.seed, run.recipe.evaluate.resamples, {}
    for how, shares in solved[method].items():
        row[how] = {"accuracy": stats.mean(shares), "interval": stats.bootstrap(shares, stats.mean, seed, resamples)}
        if method != OUTCOME:
            pairs = list(zip(shares, solved[OUTCOME][how], strict=True))
            measured, interval = stats.paired_bootstrap(pairs, stats.mean, seed, resamples)
            row[how] |= {"difference": measured, "difference_interval": interval}
    return row


def describe(solutions: Sequence[Solution], method: str, choices: dict[str, list], labels: list | None) -> dict:
    """One set: shares of right and lucky solutions, and of those that outcome-only selection chose too; mean lengths."""
    chosen = [(i, choices[method][i]) for i in selection.common_problems(choices)]
    return {
        "right": stats.mean([s.correct for s in solutions]),
        "lucky": None if labels is None else selection.lucky_share(solutions, [labels[i][n] for i, n in chosen]),
        "as_outcome": stats.mean([choices[OUTCOME][i] == n for i, n in chosen]),
        "chunks": stats.mean([len(s.chunks) for s in solutions]),
        "tokens": stats.mean([s.tokens for s in solutions]),
    }


def describe_pools(pools: Sequence[Sequence[Solution]], labels: list[list[list[bool]]] | None) -> dict:
    """The pools: accuracy of the samples, share of problems with a usable right one, and lucky ones among all of these."""
    right = [(i, n) for i, pool in enumerate(pools) for n in selection.right_indices(pool)]
    lucky = None
    if labels is not None:
        lucky = selection.lucky_share([pools[i][n] for i, n in right], [labels[i][n] for i, n in right])
    return {
        "accuracy": stats.mean([s.correct for s in flat(pools)]),
        "with_right": stats.mean([bool(selection.right_indices(pool)) for pool in pools]),
        "lucky": lucky,
    }
