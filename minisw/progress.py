"""Progress of one product: a bar on a terminal, elsewhere (a log file, a notebook, CI) at most one line a minute."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[..., None]  # tick(n, metrics=None): n more units are done
SHOWN = ("loss", "reward", "completions/mean_length")  # metrics shown beside the count
SECONDS_BETWEEN_LINES = 60.0


@contextlib.contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Tick]:
    """Show how many of `total` units are done; yields tick(n, metrics=None)."""
    with _bar(console, what, total) if console.is_terminal else _lines(console, what, total) as tick:
        yield tick


@contextlib.contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Tick]:
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
    start = time.time()
    with Progress(*columns, console=console, refresh_per_second=2, transient=False) as bars:
        task = bars.add_task(what, total=total, rate="", note="")

        def tick(n: int, metrics: dict | None = None) -> None:
            bars.update(task, advance=n, note=note(metrics))
            bars.update(task, rate=rate(bars.tasks[0].completed, time.time() - start))

        yield tick
        bars.update(task, completed=total)


@contextlib.contextmanager
def _lines(console: Console, what: str, total: int) -> Iterator[Tick]:
    start = last = time.time()
    done = 0

    def tick(n: int, metrics: dict | None = None) -> None:
        nonlocal done, last
        done += n
        now = time.time()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            last, seconds = now, now - start
            left = duration(seconds * (total - done) / max(done, 1))
            parts = [f"  {what}: {done} of {total}", rate(done, seconds), f"{left} left", note(metrics)]
            console.print(", ".join(filter(None, parts)), markup=False, highlight=False, soft_wrap=True)

    yield tick
    console.print(f"  {what}: {total} in {duration(time.time() - start)}", markup=False, highlight=False, soft_wrap=True)


def rate(done: int, seconds: float) -> str:
    """Units per second, or seconds per unit for slow ones."""
    per_second = done / max(1e-6, seconds)
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / max(per_second, 1e-6):.1f} s each"


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min" or "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def note(metrics: dict | None) -> str:
    """The metrics that are shown beside the count."""
    return "  ".join(f"{name} {value:.3g}" for name, value in (metrics or {}).items() if name in SHOWN)
