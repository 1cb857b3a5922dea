"""Worlds: where problems come from, and all that a stage may ask of them.

A stage never knows which world it is in. It gets a `World`, and what a world cannot offer is None: the embedded one has
exact step labels and a rule-based teacher; real sets have neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisw import prompts
from minisw.prompts import Prompts
from minisw.recipe import ProblemKnobs
from minisw.records import BenchItem, LabelledStep, Problem


@dataclass(frozen=True)
class World:
    """One source of problems.

    `load(split, count, seed)` gives problems of "train", "validation", "test" or "hard". `teacher` cuts a text into chunks
    by rule. `exact_labels` and `mistake_kind` measure. `elicit(lm, sampler, steps, samples, seed)` gets first analyses
    with a verdict out of a base that cannot follow the judge's prompt yet; where it is None the base is asked with that
    prompt. `bench(part, count, seed)` gives step-labelled items that were not made here (ProcessBench). `temperature` is that
    of the policy's solutions and rollouts.
    """

    name: str
    prompts: Prompts
    load: Callable[[str, int, int], list[Problem]]
    teacher: Callable[[str], list[str]] | None = None
    exact_labels: Callable[[Problem, Sequence[str]], list[bool]] | None = None
    mistake_kind: Callable[[Problem, Sequence[str], int], str] | None = None
    elicit: Callable[..., list[list[str]]] | None = None
    bench: Callable[[str, int, int], list[BenchItem]] | None = None
    has_hard: bool = False
    temperature: float = 1.0


def load_world(knobs: ProblemKnobs) -> World:
    """The world that a recipe names. Raises ValueError where its data cannot be had."""
    chosen = prompts.BY_NAME[knobs.prompts]
    if knobs.source == "arithmetic":
        from minisw.problems import arithmetic, elicit, rules

        return World(
            "arithmetic",
            chosen,
            arithmetic.load_split,
            rules.teacher_chunks,
            rules.exact_labels,
            rules.mistake_kind,
            elicit.chain if knobs.prompts == "arithmetic" else None,
            has_hard=True,
            temperature=knobs.temperature,
        )
    from minisw.problems import gsm8k, mathematics, processbench

    folder = Path(knobs.data_dir) if knobs.data_dir else None
    if folder is not None and not folder.is_dir():
        raise ValueError(f"no such data folder: {folder}; give --problems.data-dir the folder with gsm8k/ and processbench/")

    def load(split: str, count: int, seed: int) -> list[Problem]:
        if knobs.source == "gsm8k":
            return gsm8k.load_split(folder, split, count, seed, knobs.max_steps)
        return mathematics.load_split(folder, knobs.source, split, count, seed)

    return World(
        knobs.source,
        chosen,
        functools.cache(load),  # a stage asks again for what the one before it asked for
        bench=lambda part, count, seed: processbench.load(folder, part, count, seed),
        temperature=knobs.temperature,
    )


__all__ = ["LabelledStep", "World", "load_world"]
