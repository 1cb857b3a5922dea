"""ProcessBench (Zheng et al. 2024): solutions whose first wrong step was labelled by human experts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from minisw.problems import files
from minisw.records import BenchItem

HUB_NAME = "Qwen/ProcessBench"
PARTS = ("gsm8k", "math", "olympiadbench", "omnimath")


def from_rows(rows: Sequence[dict], name: str) -> list[BenchItem]:
    """The items of published rows, in their order. Raises ValueError, in one line with `name`, if a row lacks a field."""
    try:
        return [
            BenchItem(
                row["id"],
                row["problem"],
                tuple(step + "\n\n" for step in row["steps"]),
                row["label"],
                bool(row["final_answer_correct"]),
            )
            for row in rows
        ]
    except (KeyError, TypeError):
        raise ValueError(f"a row of {name} lacks a field: is it the published file?") from None


def load(folder: Path | None, part: str, count: int, seed: int) -> list[BenchItem]:
    """`count` items of a part (0: all), shuffled by `seed`.

    The share of items with an error is that of the whole part, with at least one item of each side. Raises ValueError, in
    one line, if there is no such part, or if its file is missing, damaged or another one.
    """
    if part not in PARTS:
        raise ValueError(f"ProcessBench has no part {part!r}: choose one of {', '.join(PARTS)}")
    rows = files.rows(folder, f"processbench/{part}.json", HUB_NAME, part)
    items = from_rows(rows, f"ProcessBench's part {part}")
    random.Random(seed).shuffle(items)
    if not count or count >= len(items):
        return items
    wrong, right = [i for i in items if i.label >= 0], [i for i in items if i.label < 0]
    with_error = min(max(round(count * len(wrong) / len(items)), min(1, len(wrong))), count - min(1, len(right)))
    return wrong[:with_error] + right[: count - with_error]
