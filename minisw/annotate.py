"""Stage 2, StepWiser §3.2: every chunk gets a label from rollouts started before it and after it.

Q_i is the share of M completions from behind chunk i that reach the right answer; Q_0 is the prompt's own pass rate, and
behind the last chunk Q is the outcome itself. What is stored is Q; the labels are pure functions of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from minisw import stats
from minisw.answers import final_answer, verify
from minisw.model import LanguageModel
from minisw.problems import World
from minisw.recipe import AnnotateKnobs
from minisw.records import AnnotatedSolution, LabelledStep, Problem, Solution, read_jsonl, write_json, write_jsonl, write_text
from minisw.rollout import Request, Sampler, Sampling
from minisw.runs import Run
from minisw.segment import POLICY, TAG_TOKENS, flat, mistakes, sample_solutions, tag

RULES = ("abs_q", "rel_effective", "rel_ratio")
QUESTIONS = "questions.json"  # of imported labels, by problem id
VALIDATION_SHARE = 0.3  # solutions annotated for validation, as a share of those for training

# --- the label rules: Q of every boundary in, one label a chunk out --------------------------------------------------


def abs_q(q: Sequence[float]) -> list[bool]:
    """Abs-Q: positive iff some completion from behind the chunk is right, Q_i > 0."""
    return [after > 0 for after in q[1:]]


def rel_effective(q: Sequence[float], alpha: float, n: int = 4) -> list[bool]:
    """Rel-Effective: positive iff Q_i + α·(Qμ_i − Qμ_{i−1}) > 0 with Qμ = 1 − (1 − Q)^n, the pass rate of best of n."""
    best = [1 - (1 - value) ** n for value in q]
    return [q[i] + alpha * (best[i] - best[i - 1]) > 0 for i in range(1, len(q))]


def rel_ratio(q: Sequence[float], gamma: float) -> list[bool]:
    """Rel-Ratio: positive iff Q_i > γ·Q_{i−1}; so 0 after 0 is negative, and a recovery from 0 positive."""
    return [q[i] > gamma * q[i - 1] for i in range(1, len(q))]


def labels_of(q: Sequence[float], knobs: AnnotateKnobs, rule: str | None = None) -> list[bool]:
    rule = rule or knobs.rule
    if rule == "abs_q":
        return abs_q(q)
    return rel_effective(q, knobs.alpha) if rule == "rel_effective" else rel_ratio(q, knobs.gamma)


def labelled_steps(annotated: Sequence[AnnotatedSolution], questions: dict[str, str], knobs: AnnotateKnobs) -> list[LabelledStep]:
    """All chunks with their labels, up to and with the first negative of a solution: what follows an error says nothing."""
    steps = []
    for number, solution in enumerate(annotated):
        for i, label in enumerate(labels_of(solution.q, knobs)):
            steps.append(
                LabelledStep(
                    solution.problem_id, questions[solution.problem_id], solution.chunks[:i], solution.chunks[i], label, number
                )
            )
            if not label:
                break
    return steps


def balanced(steps: Sequence[LabelledStep], count: int, seed: int, passes: int = 1) -> list[LabelledStep]:
    """At most `count` steps a pass, half of each label: the majority is sampled down (StepWiser §3.3).

    Every pass takes other steps of a side as long as there are any, then those of before again: labels are dear, and most of
    the majority would be thrown away. Any even prefix is balanced too.
    """
    rng = random.Random(seed)
    sides = [[s for s in steps if s.label is side] for side in (True, False)]
    for side in sides:
        rng.shuffle(side)
    half = min(count // 2, *(len(side) for side in sides))
    return [side[i % len(side)] for i in range(passes * half) for side in sides]


# --- Monte-Carlo values ----------------------------------------------------------------------------------------------


def choose(groups: Sequence[Sequence[Solution]], keep: int, most: int, right: float = 0.25) -> list[Solution]:
    """Solutions to annotate: of problems neither all right nor all wrong, up to `keep` each, a share `right` of them right.

    Negatives are what runs short when labels are balanced, and a wrong solution holds one; its chunks before that are
    positives too. So few right ones are taken for training.
    """
    chosen: list[Solution] = []
    mixed = 0
    for group in groups:
        usable = [s for s in group if s.well_formed]
        bad, good = [s for s in usable if not s.correct], [s for s in usable if s.correct]
        if bad and good:
            due = int((mixed + 1) * keep * right) - int(mixed * keep * right)  # the share, spread over the problems
            goods = min(len(good), max(due, keep - len(bad)))
            chosen += bad[: keep - goods] + good[:goods]
            mixed += 1
    return chosen[:most]


def annotate(
    lm: LanguageModel,
    sampler: Sampler,
    world: World,
    solutions: Sequence[Solution],
    problems: dict[str, Problem],
    m: int,
    max_new_tokens: int,
    seed: int,
    progress=None,
) -> list[AnnotatedSolution]:
    """Monte-Carlo values of every boundary, by the active adapter (the segmented policy).

    One prefill of a solution serves all its boundaries and all M branches of each (see rollout.py). Its tokens are encoded
    chunk by chunk, so that every boundary falls between two tokens whatever the tokenizer would merge there.
    """
    ids = sorted({s.problem_id for s in solutions})
    prompts = {i: lm.chat(world.prompts.solve_chunked.format(question=problems[i].question)) for i in ids}
    requests = [Request(prompts[i], m) for i in ids]
    for s in solutions:
        sequence, starts = list(prompts[s.problem_id]), []
        for chunk in s.chunks[:-1]:
            sequence = sequence + lm.encode(tag([chunk]))
            starts.append(len(sequence))
        requests.append(Request(sequence, m, tuple(starts)) if starts else Request(sequence, 0))
    results = sampler.generate(requests, Sampling(max_new_tokens, world.temperature), seed, progress)
    first = dict(zip(ids, results, strict=False))
    annotated = []
    for s, group in zip(solutions, results[len(ids) :], strict=True):
        gold, hits = problems[s.problem_id].answer, []
        for i in range(len(s.chunks)):
            branch = first[s.problem_id] if i == 0 else group[(i - 1) * m : i * m]
            hits.append(tuple(verify(gold, final_answer(lm.decode(c.ids))) for c in branch))
        q = [stats.mean(h) for h in hits] + [float(s.correct)]
        annotated.append(AnnotatedSolution(s.problem_id, s.chunks, s.correct, tuple(q), tuple(hits)))
    return annotated


# --- how noisy the labels are ----------------------------------------------------------------------------------------


def agreement(
    world: World, annotated: Sequence[AnnotatedSolution], problems: dict[str, Problem], knobs: AnnotateKnobs
) -> list[dict]:
    """Agreement of each rule's labels with the exact ones as M grows, on the chunks up to the first exact error."""
    rows = []
    m = 1
    while m <= knobs.branches:
        for rule in RULES:
            pairs = []
            for s in annotated:
                exact = world.exact_labels(problems[s.problem_id], s.chunks)
                q = [stats.mean(h[:m]) for h in s.hits] + [s.q[-1]]
                upto = exact.index(False) + 1 if False in exact else len(exact)
                pairs += list(zip(labels_of(q, knobs, rule), exact, strict=True))[:upto]
            rates = [stats.mean([label == truth for label, truth in pairs if truth is side]) for side in (True, False)]
            rows.append(
                {
                    "rule": rule,
                    "m": m,
                    "agreement": stats.mean([a == b for a, b in pairs]),
                    "balanced_agreement": stats.mean(rates),
                    "exact_positive_called_positive": rates[0],
                    "exact_negative_called_negative": rates[1],
                }
            )
        m *= 2
    return rows


# --- the stage -------------------------------------------------------------------------------------------------------


def run_stage(run: Run) -> None:
    """Writes annotate/: train.jsonl and validation.jsonl (AnnotatedSolution), stepwise.jsonl (the training labels in TRL's
    format) and metrics.json. Where the recipe names another source of labels, no rollout is made."""
    knobs, world = run.recipe.annotate, run.world
    if knobs.source != "rollouts":
        import_labels(run)
        return
    run.require(POLICY, run.folder / "segment")
    problems = world.load("train", run.recipe.problems.train, run.seed)[: knobs.problems]
    by_id = {p.id: p for p in problems}
    drawn, annotated = annotate_split(run, "train", problems, knobs.max_solutions, right=0.25)
    held_out = world.load("validation", run.recipe.problems.validation, run.seed)
    # as many right ones: thresholds are chosen by how many of both are judged well
    annotate_split(run, "validation", held_out, validation_size(knobs), right=0.5)
    metrics = {
        "solutions": len(annotated),
        "steps": sum(len(s.chunks) for s in annotated),
        "drawn": len(drawn),
        "drawn_accuracy": stats.mean([s.correct for s in drawn]),
        "problems_kept": len({s.problem_id for s in annotated}),
        "rules": [
            {"rule": rule, "positives": stats.mean(flat([labels_of(s.q, knobs, rule) for s in annotated]))} for rule in RULES
        ],
        "q": q_summary(annotated, knobs),
        "agreement": [],
        "exact_positive": None,
        "mistakes": {},
    }
    if world.exact_labels:
        exact = [world.exact_labels(by_id[s.problem_id], s.chunks) for s in drawn]
        # chunks up to the first error: those behind it are neither right nor wrong by themselves
        judged = sum(e.index(False) + 1 if False in e else len(e) for e in exact)
        metrics["exact_positive"] = 1 - sum(False in e for e in exact) / max(1, judged)
        metrics["mistakes"] = mistakes(world, by_id, drawn)
        metrics["agreement"] = agreement(world, annotated, by_id, knobs)
    write_stepwise(run, annotated, {p.id: p.question for p in problems})
    write_json(run.folder / "annotate" / "metrics.json", metrics)


def q_summary(annotated: Sequence[AnnotatedSolution], knobs: AnnotateKnobs) -> dict[str, float]:
    """Means of Q: before the first chunk, before the last (its own is the outcome), and its change over a chunk by label."""
    changes: dict[bool, list[float]] = {True: [], False: []}
    for s in annotated:
        for before, after, label in zip(s.q[:-1], s.q[1:], labels_of(s.q, knobs), strict=True):
            changes[label].append(after - before)
    return {
        "start": stats.mean([s.q[0] for s in annotated]),
        "before_last": stats.mean([s.q[-2] for s in annotated]),
        "change_positive": stats.mean(changes[True]),
        "change_negative": stats.mean(changes[False]),
    }


def validation_size(knobs: AnnotateKnobs) -> int:
    return max(2, int(knobs.max_solutions * VALIDATION_SHARE))


def import_labels(run: Run) -> None:
    """The labels of a published set in place of our own: the same files, and questions.json."""
    from minisw.problems import stepwise

    knobs, folder = run.recipe.annotate, run.folder / "annotate"
    folder.mkdir(parents=True, exist_ok=True)
    questions: dict[str, str] = {}
    for split, count in (("train", knobs.max_solutions), ("validation", validation_size(knobs))):
        found, asked = stepwise.load(knobs.source, run.recipe.problems.data_dir, split, count, run.seed)
        questions |= asked
        write_jsonl(folder / f"{split}.jsonl", found)
        if split == "train":
            labels = [labels_of(s.q, knobs) for s in found]
            write_stepwise(run, found, asked)
            metrics = {
                "source": knobs.source,
                "solutions": len(found),
                "steps": sum(len(s.chunks) for s in found),
                "rules": [{"rule": "as published", "positives": stats.mean(flat(labels))}],
            }
    write_json(folder / QUESTIONS, questions)
    write_json(folder / "metrics.json", metrics)


def write_stepwise(run: Run, annotated: Sequence[AnnotatedSolution], questions: dict[str, str]) -> None:
    from minisw.problems import stepwise

    rows = stepwise.to_trl(annotated, [labels_of(s.q, run.recipe.annotate) for s in annotated], questions)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(run.folder / "annotate" / "stepwise.jsonl", text)


def annotate_split(
    run: Run, split: str, problems: Sequence[Problem], most: int, right: float
) -> tuple[list[Solution], list[AnnotatedSolution]]:
    """Draw solutions of one split, choose which to annotate, and annotate them: both lists, from their files where they are."""
    knobs, folder, lm = run.recipe.annotate, run.folder / "annotate", run.lm
    longest = run.recipe.segment.max_new_tokens + TAG_TOKENS
    by_id = {p.id: p for p in problems}

    def draw(tick) -> list[Solution]:
        seed = run.seed_of(f"annotate-{split}")
        return flat(sample_solutions(lm, run.sampler, run.world, problems, knobs.samples, seed, longest, True, tick))

    def label(tick) -> list[AnnotatedSolution]:
        seed = run.seed_of(f"rollouts-{split}")
        return annotate(lm, run.sampler, run.world, chosen, by_id, knobs.branches, longest, seed, tick)

    with lm.using(POLICY):
        path = folder / f"{split}-solutions.jsonl"
        drawn = run.records(path, Solution, f"{split}: solutions", len(problems) * knobs.samples, draw)
        groups = [drawn[i : i + knobs.samples] for i in range(0, len(drawn), knobs.samples)]
        chosen = choose(groups, knobs.keep, most, right)
        boundaries = sum(len(s.chunks) - 1 for s in chosen) + len({s.problem_id for s in chosen})
        path = folder / f"{split}.jsonl"
        annotated = run.records(path, AnnotatedSolution, f"{split}: rollouts", boundaries * knobs.branches, label)
    return drawn, annotated


def load_steps(run: Run, split: str) -> list[LabelledStep]:
    """The labelled steps of a split, by the recipe's rule."""
    folder = run.folder / "annotate"
    if run.recipe.annotate.source != "rollouts":
        questions = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
    else:
        count = run.recipe.problems.train if split == "train" else run.recipe.problems.validation
        questions = {p.id: p.question for p in run.world.load(split, count, run.seed)}
    return labelled_steps(read_jsonl(folder / f"{split}.jsonl", AnnotatedSolution), questions, run.recipe.annotate)
