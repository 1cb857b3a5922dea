"""Tasks: where problems come from, and what else a stage may ask about them.

Stages work on any `Task`. What a task does not offer is None: the embedded task has exact step labels and a rule-based
teacher, but no published step labels; real sets are the other way round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisw import prompts
from minisw.problems.files import TooFewProblems
from minisw.prompts import Prompts
from minisw.recipe import ProblemKnobs, Recipe
from minisw.records import BenchItem, Problem, Solution


@dataclass(frozen=True)
class Task:
    """One source of problems, with its prompts.

    - `load(split, count, seed)`: problems of "train", "validation", "test" or, if `has_hard`, "hard";
      a larger count only appends problems
    - `teacher(text)`: the text cut into chunks by rule
    - `exact_labels(problem, chunks)` and `mistake_kind(problem, chunks, index)`: for measuring only
    - `bench(part, count, seed)`: items with published step labels (ProcessBench)
    - `made(split, count, seed)`: right and wrong solutions that the task makes by rule, with their labels
    - `habit_of(reply)`: which of the `habits` of judging a judge's reply shows, by its words
    """

    name: str
    prompts: Prompts
    load: Callable[[str, int, int], list[Problem]]
    teacher: Callable[[str], list[str]] | None = None
    exact_labels: Callable[[Problem, Sequence[str]], list[bool]] | None = None
    mistake_kind: Callable[[Problem, Sequence[str], int], str] | None = None
    bench: Callable[[str, int, int], list[BenchItem]] | None = None
    made: Callable[[str, int, int], list[BenchItem]] | None = None
    has_hard: bool = False
    habits: tuple[str, ...] = ()
    habit_of: Callable[[str], str] | None = None

    def reply_measures(self) -> dict[str, Callable[[str], float]]:
        """What GRPO measures on the sampled replies of a judge: the share of each habit, if the task names habits."""
        return {f"habits/{habit}": lambda reply, habit=habit: float(self.habit_of(reply) == habit) for habit in self.habits}


def load_task(knobs: ProblemKnobs) -> Task:
    """The task that a recipe names. Raises ValueError if its data folder does not exist."""
    chosen = prompts.BY_NAME[knobs.prompts]
    if knobs.source == "arithmetic":
        from minisw.problems.arithmetic import comments, rules, stories

        return Task(
            "arithmetic",
            chosen,
            stories.load_split,
            rules.teacher_chunks,
            rules.exact_labels,
            rules.mistake_kind,
            has_hard=True,
            habits=(*comments.HABITS, "other"),
            habit_of=comments.habit_of,
        )
    if knobs.source == "equations":
        from minisw.problems import equations

        return Task("equations", chosen, _no_problems, made=functools.partial(equations.load_split, digits=knobs.digits))
    if knobs.source == "stories":
        from minisw.problems import short_stories

        load = functools.partial(short_stories.load_split, steps=knobs.max_steps or 2, largest=knobs.largest)
        rules = short_stories.exact_labels, short_stories.mistake_kind
        return Task("stories", chosen, functools.cache(load), short_stories.teacher_chunks, *rules)
    from minisw.problems import gsm8k, math, own, processbench

    folder = Path(knobs.data_dir) if knobs.data_dir else None
    if folder is not None and not folder.is_dir():
        raise ValueError(f"no such data folder: {folder}; give --problems.data-dir the folder with gsm8k/ and processbench/")

    def load(split: str, count: int, seed: int) -> list[Problem]:
        try:
            if knobs.source == "file":
                return own.load_split(knobs.file, split, count, seed)
            if knobs.source == "gsm8k":
                return gsm8k.load_split(folder, split, count, seed, knobs.max_steps)
            return math.load_split(folder, knobs.source, split, count, seed)
        except TooFewProblems as error:
            raise TooFewProblems(f"{error} (--problems.{split})") from None

    return Task(
        knobs.source,
        chosen,
        functools.cache(load),  # several stages load the same problems
        bench=lambda part, count, seed: processbench.load(folder, part, count, seed),
    )


def _no_problems(split: str, count: int, seed: int) -> list[Problem]:
    raise ValueError("equations are only judged, not solved: run --stage annotate, judges, evaluate and report")


def training_problems(task: Task, recipe: Recipe) -> tuple[list[Problem], list[Problem]]:
    """The training problems of stage 1 (SFT of the policy) and those of stage 2 (annotation), which do not overlap.

    Labels come from problems that SFT has not taught, because there the policy is right more often than elsewhere. The list
    for stage 2 is empty if the labels are published ones. Raises TooFewProblems if the task has fewer than both need.
    """
    taught = recipe.problems.train
    annotated = 0 if recipe.annotate.published else recipe.annotate.problems
    try:
        problems = task.load("train", taught + annotated, recipe.seed)
    except TooFewProblems as error:
        if not annotated:
            raise
        raise TooFewProblems(f"{error}: {taught} for SFT, and {annotated} others for labels (--annotate.problems)") from None
    return problems[:taught], problems[taught:]


def first_mistakes(task: Task, problems: dict[str, Problem], solutions: Sequence[Solution]) -> dict[str, int]:
    """The number of first mistakes of each kind, the most frequent first. `problems` maps problem id to problem.

    Only for tasks with exact labels.
    """
    kinds: dict[str, int] = {}
    for s in solutions:
        labels = task.exact_labels(problems[s.problem_id], s.chunks)
        if False in labels:
            kind = task.mistake_kind(problems[s.problem_id], s.chunks, labels.index(False))
            kinds[kind] = kinds.get(kind, 0) + 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))
