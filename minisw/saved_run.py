"""Run folders to read: the recipe, the records, the results, and the model with all adapters of a run."""

from __future__ import annotations

import fnmatch
import json
import os
from functools import cached_property
from pathlib import Path

from minisw.engine.loading import load_base
from minisw.engine.model import LanguageModel
from minisw.judges import registry
from minisw.judges.base import Judge
from minisw.recipe import Recipe
from minisw.records import AnnotatedSolution, Answer, BenchItem, Judgment, Solution, Try, read_jsonl
from minisw.runs import RunFolder
from minisw.stages.evaluate import bench_items

RUN_VARIABLE = "MINISW_RUN"  # names the folder that `open_run()` opens
STUDY_VARIABLE = "MINISW_STUDY"  # names the folder of a study, or of several, for `study_results`
KINDS = (  # which records a file of a run folder holds; the first pattern counts
    ("segment/*", Solution),
    ("annotate/*-solutions", Solution),
    ("annotate/train", AnnotatedSolution),
    ("annotate/validation", AnnotatedSolution),
    ("evaluate/solutions", Solution),
    ("evaluate/*", Judgment),
    ("search/samples", Solution),
    ("search/*-tries", Try),
    ("search/*", Answer),
    ("select/scores-*", Judgment),
    ("select/*", Solution),
    ("dense/*", Solution),
    ("pareto/tries-*", Try),
    ("pareto/*", Answer),
)


class SavedRun(RunFolder):
    """A run folder, finished or not, that is only read; made by `open_run`."""

    @cached_property
    def lm(self) -> LanguageModel:
        """The base model with all adapters of the run: `lm.using("policy")`, `lm.using("stepwiser")`, …"""
        lm = load_base(self.recipe.model)
        for config in sorted(self.folder.glob("*/*/adapter_config.json")):
            lm.load_adapter(config.parent.name, config.parent)
        return lm

    def records(self, name: str) -> list:
        """The records of one file by its name in the folder: `records("annotate/train")`, `records("evaluate/stepwiser")`."""
        kind = next((kind for pattern, kind in KINDS if fnmatch.fnmatch(name, pattern)), None)
        path = self.folder / f"{name}.jsonl"
        if kind is None or not path.is_file():
            names = sorted(str(f.relative_to(self.folder).with_suffix("")) for f in self.folder.glob("*/*.jsonl"))
            names = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern, _ in KINDS)]
            raise ValueError(f"{self.folder} has no records {name!r}; it has {', '.join(names) or 'none'}")
        return read_jsonl(path, kind)

    def metrics(self, stage: str) -> dict:
        """The results of a finished stage. Raises ValueError if it has not finished."""
        path = self.folder / stage / "metrics.json"
        if not path.is_file():
            raise ValueError(f"{self.folder} has no results of stage {stage!r}: {path} is missing")
        return json.loads(path.read_text(encoding="utf-8"))

    def items(self) -> list[BenchItem]:
        """The solutions that the judges of the run were evaluated on, with exact labels.

        The records "evaluate/JUDGE" are judgments of their steps, in order. Raises ValueError if the task has no exact labels.
        """
        if self.task.exact_labels is None:
            raise ValueError(f"the task {self.task.name!r} has no exact labels")
        problems = self.task.load("test", self.recipe.problems.test, self.seed)
        return bench_items(self.task, problems, self.records("evaluate/solutions"), self.recipe.evaluate.solutions)

    def judge(self, name: str) -> Judge:
        """A judge of the run by its id in judges/registry.py. Raises ValueError if the run has no such judge."""
        entries = {entry.id: entry for entry in registry.REGISTRY if entry.wanted(self.recipe)}
        if name not in entries:
            raise ValueError(f"no judge {name!r}: choose one of {', '.join(entries)}")
        if not entries[name].trained:
            return entries[name].build(self.judge_context, {})
        if entries[name].has_adapter:
            self.require(name, self.folder / "judges" / name)
        return entries[name].build(self.judge_context, self.metrics("judges").get(name, {}))


def shipped_folder() -> Path:
    """The folder of the run that ships with minisw: data/run of the checkout, or the copy in an installed package.

    Raises ValueError if neither exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data" / "run", package / "data" / "run"):
        if (folder / "recipe.json").is_file():
            return folder
    raise ValueError("the run that ships (data/run) is missing: get a complete checkout or wheel, or give open_run a folder")


def open_run(folder: Path | str | None = None) -> SavedRun:
    """A run folder to read: recipe, records, results, and its model with all adapters. Writes nothing and takes no lock.

        run = open_run("runs/tiny-0")
        run.recipe.judge.steps; run.metrics("evaluate"); run.records("annotate/train")
        run.judge("stepwiser").judge(steps, seed=0)

    Without a folder: the one that the environment variable MINISW_RUN names, or else the run that ships with minisw
    (`shipped_folder`). Raises ValueError, in one line, if the folder holds no run.
    """
    folder = Path(folder or os.environ.get(RUN_VARIABLE) or shipped_folder())
    if not (folder / "recipe.json").is_file():
        raise ValueError(f"{folder} holds no run: it has no recipe.json")
    return SavedRun(Recipe.from_json(folder / "recipe.json"), folder)


def study_results(name: str) -> dict | None:
    """What a study measured, its results.json (`study_results("search")["pareto"]`), or None if it has not been run.

    Looked for in the folder that the environment variable MINISW_STUDY names, which is the study's own or holds it as a folder
    `name`; without the variable in data/results/study of the checkout, or its copy in an installed package. Raises ValueError
    if the variable names no folder.
    """
    package = Path(__file__).resolve().parent
    folders = [package.parent / "data" / "results" / "study", package / "data" / "results" / "study"]
    if own := os.environ.get(STUDY_VARIABLE):
        if not Path(own).is_dir():
            raise ValueError(f"{STUDY_VARIABLE} names {own}, which is no folder: give the --out of a --study")
        folders = [Path(own)]
    for path in [path for folder in folders for path in (folder / name / "results.json", folder / "results.json")]:
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("study") == name:
                return found
    return None


def shipped_results(name: str) -> Path:
    """The folder with the kept results of a run, such as "gsm8k-0.5b", which are files of metrics without records.

    It is in data/results of the checkout, or its copy in an installed package. Raises ValueError if there is none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data" / "results" / name, package / "data" / "results" / name):
        if (folder / "run.json").is_file():
            return folder
    raise ValueError(f"the results of {name} are missing: get a complete checkout or wheel")
