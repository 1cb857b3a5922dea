"""A run and its folder. Every product of a stage is a file that is written whole, so interrupted runs resume.

`Run.records`, `Run.records_in_shards` and `Run.train` make a product only if its file is missing, and always return what the
file says: an uninterrupted run and one that was killed and restarted return the same. `saved_run.py` reads
run folders without writing to them.

    recipe.json           the recipe (Recipe.to_json)
    run.json              times, tokens, memory, versions, hardware
    STAGE/metrics.json    the results of a finished stage
    STAGE/*.jsonl         records (minisw/records.py), one JSON object a line
    STAGE/ADAPTER/        a trained adapter
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from minisw.engine import distributed
from minisw.engine.loading import load_base
from minisw.engine.machine import hardware, peak_memory_gb, versions
from minisw.engine.model import LanguageModel
from minisw.engine.sampler import make_sampler
from minisw.engine.simple_sampler import SimpleSampler
from minisw.judges.base import JudgeContext, seeds_from
from minisw.lock import lock
from minisw.policy import POLICY, Policy
from minisw.problems import Task, load_task
from minisw.progress import Tick, progress
from minisw.recipe import Recipe
from minisw.records import read_jsonl, write_json, write_jsonl, write_text, writes

SHARD_ROUNDS = 20  # a shard fills the sampler's slots about this often: a few minutes of sampling
SECONDS_BETWEEN_NOTES = 30.0  # run.json is written about this often while a product is made


class RunFolder:
    """What a run in progress and a run that is only read have in common. Model and task are loaded when first used."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder, self.seed = recipe, folder, recipe.seed

    def seed_of(self, use: str) -> int:
        """The seed for one use: a function of the run's seed and a name, so that no use changes the numbers of another."""
        return seeds_from(self.seed)(use)

    @cached_property
    def task(self) -> Task:
        return load_task(self.recipe.problems)

    @cached_property
    def lm(self) -> LanguageModel:
        return load_base(self.recipe.model)

    @cached_property
    def sampler(self) -> SimpleSampler:
        return make_sampler(self.lm, self.recipe.model)

    @cached_property
    def judge_context(self) -> JudgeContext:
        knobs = self.recipe.judge
        tokens = knobs.max_new_tokens, self.recipe.model.micro_tokens
        return JudgeContext(self.lm, self.sampler, self.task.prompts, *tokens, knobs.analysis)

    def policy(self, adapter: str | None = POLICY) -> Policy:
        """The segmented policy of stage 1, or the base for None. Raises ValueError if its adapter is missing."""
        if adapter:
            self.require(adapter, self.folder / "segment" / adapter)
        return Policy(self.lm, self.sampler, self.task.prompts, self.recipe.policy, adapter)

    def require(self, name: str, folder: Path) -> None:
        """Load adapter `name` from `folder` unless it is loaded. Raises ValueError if the folder holds none."""
        if name not in self.lm.adapters:
            self.lm.load_adapter(name, folder)


class Run(RunFolder):
    """A run in progress. It holds a lock on its folder until it is closed or the process ends.

    Raises ValueError if the folder belongs to another recipe, holds something else, or is in use by another process.
    """

    def __init__(self, recipe: Recipe, folder: Path, console: Console | None = None):
        super().__init__(recipe, folder)
        self.console = (console or Console(stderr=True)) if writes() else Console(quiet=True)
        self._lock: IO | None = None
        self._entry: dict | None = None  # the running stage's entry in run.json
        self._noted = (0.0, 0)  # time and sampled tokens when usage was last recorded
        if writes():
            self._claim_folder()
        distributed.barrier()
        self.facts = self._read_facts()

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()

    # --- the folder ------------------------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Make the folder, or check that it is this recipe's; then lock it."""
        recipe_file, ours, theirs = self.folder / "recipe.json", self.recipe.to_json(), None
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: give --out a folder")
        if recipe_file.exists():
            try:
                theirs = json.loads(recipe_file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(f"cannot read {recipe_file} ({error}): repair it, or give --out another folder") from None
        elif self.folder.exists() and {f.name for f in self.folder.iterdir()} - {".lock", "recipe.json.part"}:
            raise ValueError(f"{self.folder} is not empty and holds no run: give --out a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(self.folder / ".lock")
        except BlockingIOError:
            raise ValueError(f"another process is using {self.folder}: wait for it, or give --out another folder") from None
        if theirs not in (None, ours):
            if any(file.is_file() for folder in self.folder.iterdir() if folder.is_dir() for file in folder.rglob("*")):
                self.close()
                raise ValueError(
                    f"{self.folder} holds a run of another recipe ({_difference(theirs, ours)}): "
                    "give --out another folder, or use that recipe"
                )
            (self.folder / "run.json").unlink(missing_ok=True)  # it failed before it made anything: take the folder over
            theirs = None
        if theirs is None:
            write_json(recipe_file, ours)

    def _read_facts(self) -> dict:
        path = self.folder / "run.json"
        if path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"cannot read {path} ({error}): delete it; only the times are lost") from None
        return {
            "preset": self.recipe.preset,
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "versions": versions(),
            "hardware": hardware(),
            "stages": {},
            "seconds": 0.0,
            "peak_memory_gb": 0.0,
        }

    # --- products ----------------------------------------------------------------------------------------------------

    def records(self, path: Path, kind: type, what: str, total: int, make: Callable[[Tick], list]) -> list:
        """The records in `path`, made by `make(tick)` if the file is missing. `total` units of progress are expected."""
        if not distributed.broadcast(path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.progress(what, total) as tick:
                made = make(tick)
            write_jsonl(path, made)
            self._record_usage()
            distributed.barrier()
        return read_jsonl(path, kind)

    def records_in_shards(
        self,
        path: Path,
        kind: type,
        what: str,
        use: str,
        work: Sequence[tuple[Any, int]],
        make: Callable[[list, int, Tick], list],
    ) -> list:
        """Like `records`, for a product that takes hours: made in shards, so that a kill loses minutes.

        `work` holds each item with the number of rows that it samples. A shard is a slice of consecutive items;
        `make(items, seed, tick)` returns its records, and the records of all shards in order are the product. The first shard
        has the seed `seed_of(use)`, shard n has `seed_of("use/n")`. Shards depend on the recipe alone, so a kill changes
        nothing. Finished shards are in `path`.parts/ until all are.
        """
        parts = path.with_name(path.name + ".parts")
        if not distributed.broadcast(path.exists()):
            parts.mkdir(parents=True, exist_ok=True)
            shards, files = split(work, SHARD_ROUNDS * self.recipe.model.slots), []
            with self.progress(what, sum(rows for _, rows in work)) as tick:
                for number, shard in enumerate(shards):
                    files.append(parts / f"{number:05}.jsonl")
                    if distributed.broadcast(files[-1].exists()):
                        tick(sum(rows for _, rows in shard))
                        continue
                    seed = self.seed_of(f"{use}/{number}" if number else use)
                    write_jsonl(files[-1], make([item for item, _ in shard], seed, tick))
                    self._record_usage()
                    distributed.barrier()
            if writes():
                write_text(path, "".join(file.read_text(encoding="utf-8") for file in files))
            distributed.barrier()
        if writes():
            shutil.rmtree(parts, ignore_errors=True)
        return read_jsonl(path, kind)

    def train(self, name: str, folder: Path, fit: Callable[[Path, Tick], Any], total: int, what: str, start: str = "") -> Any:
        """Adapter `name`, trained by `fit(checkpoint, tick)` and saved in folder/name, or loaded from there.

        Its first weights depend on its name; trainings that are compared begin alike with one `start` for all.

        Returns what `fit` returned (JSON values, such as the training curve), from `folder/name-curve.json`. That file is
        written last: until it exists, training resumes from its checkpoint and the adapter is saved again.
        """
        adapter, curve = folder / name, folder / f"{name}-curve.json"
        if not distributed.broadcast(curve.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            if name in self.lm.adapters:
                self.lm.drop_adapter(name)
            self.lm.new_adapter(name, self.recipe.lora, self.seed_of(f"lora-{start or name}"))
            with self.progress(what, total) as tick:
                metrics = fit(folder / f"{name}.checkpoint", tick)
            self.lm.save_adapter(name, adapter)
            write_json(curve, metrics)
            self._record_usage()
            distributed.barrier()
        elif name not in self.lm.adapters:
            self.lm.load_adapter(name, adapter)
        if writes():
            (folder / f"{name}.checkpoint").unlink(missing_ok=True)
        return json.loads(curve.read_text(encoding="utf-8"))

    # --- clock and screen --------------------------------------------------------------------------------------------

    def finished(self, stage: str) -> bool:
        """Whether a stage has been run to its end."""
        return self.facts["stages"].get(stage, {}).get("finished", False)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Yields True if the stage still has to run; adds its time and tokens to run.json and marks it as finished."""
        entry = self.facts["stages"].setdefault(name, {"seconds": 0.0, "tokens": 0, "finished": False})
        if entry["finished"]:
            yield False
            return
        self._entry, self._noted = entry, (time.time(), self._tokens())
        try:
            yield True
            distributed.barrier()
            entry["finished"] = True
        finally:
            with contextlib.suppress(OSError):  # a full disk: the error that stopped the stage matters more
                self._record_usage()
            self._entry = None

    def _tokens(self) -> int:
        return self.sampler.tokens if "sampler" in self.__dict__ else 0  # not every stage needs the model

    def _record_usage(self) -> None:
        """Add the running stage's time and sampled tokens since the last call to run.json."""
        if self._entry is None:
            return
        (time_before, tokens_before), self._noted = self._noted, (time.time(), self._tokens())
        entry, facts = self._entry, self.facts
        entry["seconds"] = round(entry["seconds"] + self._noted[0] - time_before, 2)
        entry["tokens"] += self._noted[1] - tokens_before
        entry |= peak_memory_gb()  # of the process so far: host, and GPU if there is one
        facts["seconds"] = round(sum(e["seconds"] for e in facts["stages"].values()), 1)
        facts |= {name: max(facts.get(name, 0.0), value) for name, value in peak_memory_gb().items()}
        write_json(self.folder / "run.json", facts)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Tick]:
        """A progress line (minisw/progress.py) that also keeps run.json up to date; yields tick(n, metrics=None)."""
        with progress(self.console, what, total) as show:

            def tick(n: int, metrics: dict | None = None) -> None:
                show(n, metrics)
                if time.time() - self._noted[0] > SECONDS_BETWEEN_NOTES:
                    self._record_usage()

            yield tick


def split(work: Sequence[tuple[Any, int]], rows_per_shard: int) -> list[list[tuple[Any, int]]]:
    """Consecutive slices of `work`, pairs of an item and its rows, of nearly equally many rows and about `rows_per_shard`."""
    total = sum(rows for _, rows in work)
    count = max(1, round(total / rows_per_shard))
    shards: list[list] = [[]]
    before = 0
    for item, rows in work:
        if before >= total * len(shards) / count and shards[-1]:
            shards.append([])
        shards[-1].append((item, rows))
        before += rows
    return shards


def _difference(theirs: dict, ours: dict, prefix: str = "") -> str:
    """The first knob that differs between two recipes, as text."""
    for key in sorted({*theirs, *ours}):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return _difference(a, b, f"{prefix}{key}.")
        if a != b:
            return f"{prefix}{key} is {a!r} there and {b!r} here"
    return "it differs"
