"""A run and its folder: what is done stays done, and what was killed goes on.

Every product of a stage is a file, written whole or not at all. `Run.records` and `Run.train` make a product only where it
is not there yet, so a run that is started again walks through its finished parts in a moment and goes on behind them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar

from minisw.engine import distributed
from minisw.engine.loading import load_base
from minisw.engine.machine import hardware, peak_memory_gb, versions
from minisw.engine.model import LanguageModel
from minisw.engine.sampler import make_sampler
from minisw.engine.simple_sampler import SimpleSampler
from minisw.judges.base import JudgeContext
from minisw.policy import POLICY, Policy
from minisw.problems import Task, load_task
from minisw.recipe import Recipe
from minisw.records import read_jsonl, write_json, write_jsonl, writes


class Run:
    """The recipe, the folder, the model and the clock of one run."""

    def __init__(self, recipe: Recipe, folder: Path, console: Console | None = None):
        self.recipe, self.folder, self.seed = recipe, folder, recipe.seed
        self.console = (console or Console(stderr=True)) if writes() else Console(quiet=True)
        self._lock = None
        self._entry: dict | None = None  # of the stage that runs, in run.json
        self._booked = (0.0, 0)  # when it was booked last: time, tokens sampled
        if writes():
            self._open()
        distributed.barrier()
        self.facts = self._read_facts()

    # --- the folder ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make or recognise the folder. Raises ValueError where it belongs to another recipe or another process runs in it."""
        recipe_file = self.folder / "recipe.json"
        wanted, found = plain(self.recipe), None
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: give --out a folder")
        if recipe_file.exists():
            try:
                found = json.loads(recipe_file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(f"cannot read {recipe_file} ({error}): give --out another folder, or mend that file") from None
        elif self.folder.exists() and {f.name for f in self.folder.iterdir()} - {".lock", "recipe.json.part"}:
            raise ValueError(f"{self.folder} is not empty and holds no run: give --out a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115 - held as long as the run
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process is running in {self.folder}: wait for it, or give --out another folder") from None
        if found not in (None, wanted):
            if any(file.is_file() for folder in self.folder.iterdir() if folder.is_dir() for file in folder.rglob("*")):
                raise ValueError(
                    f"{self.folder} holds a run of another recipe ({_difference(found, wanted)}): "
                    "give --out another folder, or the recipe it was begun with"
                )
            (self.folder / "run.json").unlink(missing_ok=True)  # it was begun, perhaps with a wrong name, and made nothing
            found = None
        if found is None:
            write_json(recipe_file, wanted)

    def _read_facts(self) -> dict:
        path = self.folder / "run.json"
        if path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"cannot read {path} ({error}): remove it; only times are lost") from None
        return {
            "preset": self.recipe.preset,
            "seed": self.seed,
            "recipe": plain(self.recipe),
            "versions": versions(),
            "hardware": hardware(),
            "stages": {},
            "seconds": 0.0,
            "peak_memory_gb": 0.0,
        }

    def seed_of(self, what: str) -> int:
        """A seed for one use: a function of the run's seed and a name, so that no use shifts another."""
        return zlib.crc32(f"{self.seed}/{what}".encode())

    # --- the model and the task, when first asked for --------------------------------------------------------------

    @cached_property
    def task(self) -> Task:
        return load_task(self.recipe.problems)

    @cached_property
    def lm(self) -> LanguageModel:
        disable_progress_bar()  # a line of its own among ours
        return load_base(self.recipe.model)

    @cached_property
    def sampler(self) -> SimpleSampler:
        return make_sampler(self.lm, self.recipe.model)

    @cached_property
    def judge_context(self) -> JudgeContext:
        knobs = self.recipe.judge
        return JudgeContext(self.lm, self.sampler, self.task.prompts, knobs.max_new_tokens, self.recipe.model.micro_tokens)

    def policy(self, adapter: str | None = POLICY) -> Policy:
        """The segmented policy (loaded from stage 1 if needed), or the base for None."""
        if adapter:
            self.require(adapter, self.folder / "segment" / adapter)
        return Policy(self.lm, self.sampler, self.task.prompts, self.recipe.policy, adapter)

    # --- products ----------------------------------------------------------------------------------------------------

    def records(self, path: Path, kind: type, what: str, total: int, make: Callable[[Callable[[int], None]], list]) -> list:
        """The records in `path`; made by `make(tick)` and written first where the file is not there yet."""
        if not distributed.broadcast(path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.progress(what, total) as tick:
                made = make(tick)
            write_jsonl(path, made)
            self._book()
            distributed.barrier()
        return read_jsonl(path, kind)  # always read back: a resumed run then sees the same as this one

    def train(self, name: str, folder: Path, fit: Callable[[Path, Callable], Any], total: int, what: str) -> Any:
        """Adapter `name`, trained by `fit(checkpoint, tick)` and saved in folder/name, or loaded from there.

        Returns what `fit` returned (JSON values, such as the training curve), from `folder/name-curve.json`.
        """
        adapter, curve = folder / name, folder / f"{name}-curve.json"
        if not distributed.broadcast(curve.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            if name in self.lm.adapters:
                self.lm.drop_adapter(name)
            self.lm.new_adapter(name, self.recipe.lora, self.seed_of(f"lora-{name}"))
            with self.progress(what, total) as tick:
                metrics = fit(folder / f"{name}.checkpoint", tick)
            self.lm.save_adapter(name, adapter)
            write_json(curve, metrics)
            self._book()
            distributed.barrier()
            if writes():
                (folder / f"{name}.checkpoint").unlink(missing_ok=True)
        elif name not in self.lm.adapters:
            self.lm.load_adapter(name, adapter)
        return json.loads(curve.read_text(encoding="utf-8"))

    def require(self, name: str, folder: Path) -> None:
        """Load the adapter that an earlier stage saved in `folder`, unless it is loaded. Raises ValueError if it is missing."""
        if name not in self.lm.adapters:
            self.lm.load_adapter(name, folder)

    # --- clock and screen --------------------------------------------------------------------------------------------

    def finished(self, stage: str) -> bool:
        return self.facts["stages"].get(stage, {}).get("finished", False)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Yields True where the stage still has to run; adds its seconds and tokens to run.json, and marks it finished."""
        entry = self.facts["stages"].setdefault(name, {"seconds": 0.0, "tokens": 0, "finished": False})
        if entry["finished"]:
            yield False
            return
        self._entry, self._booked = entry, (time.time(), self._tokens())
        try:
            yield True
            distributed.barrier()
            entry["finished"] = True
        finally:
            with contextlib.suppress(OSError):
                self._book()
            self._entry = None

    def _tokens(self) -> int:
        return self.sampler.tokens if "sampler" in self.__dict__ else 0  # not every stage needs the model

    def _book(self) -> None:
        """Add what the stage took since it was booked; every half minute and after every product, so that a kill loses little."""
        if self._entry is None:
            return
        (begin, before), self._booked = self._booked, (time.time(), self._tokens())
        entry, facts = self._entry, self.facts
        entry["seconds"] = round(entry["seconds"] + self._booked[0] - begin, 2)
        entry["tokens"] += self._booked[1] - before
        entry |= peak_memory_gb()  # of the process up to here: host, and GPU if there is one
        facts["seconds"] = round(sum(e["seconds"] for e in facts["stages"].values()), 1)
        facts |= {name: max(facts.get(name, 0.0), value) for name, value in peak_memory_gb().items()}
        write_json(self.folder / "run.json", facts)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable]:
        """A line with bar, rate and time left; yields tick(n, metrics=None)."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        begin = time.time()
        with Progress(*columns, console=self.console, refresh_per_second=2, transient=False) as bars:
            task = bars.add_task(what, total=total, rate="", note="")

            def tick(n: int, metrics: dict | None = None) -> None:
                shown = {k: v for k, v in (metrics or {}).items() if k in ("loss", "reward", "completions/mean_length")}
                bars.update(task, advance=n, note="  ".join(f"{k} {v:.3g}" for k, v in shown.items()))
                rate = bars.tasks[0].completed / max(1e-6, time.time() - begin)
                bars.update(task, rate=f"{rate:.1f}/s" if rate >= 1 else f"{1 / max(rate, 1e-6):.1f} s each")
                if time.time() - self._booked[0] > 30:
                    self._book()

            yield tick
            bars.update(task, completed=total)


def plain(recipe: Recipe) -> dict:
    """A recipe as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(recipe), default=str))


def _difference(found: dict, wanted: dict, prefix: str = "") -> str:
    for key in sorted({*found, *wanted}):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return _difference(a, b, f"{prefix}{key}.")
        if a != b:
            return f"{prefix}{key} is {a!r} there and {b!r} here"
    return "it differs"
