"""ProcessBench (Zheng et al. 2024): solutions with the index of their first wrong step, labelled by people."""

from __future__ import annotations

import random
from pathlib import Path

from minisw.problems import files
from minisw.records import BenchItem

HUB_NAME = "Qwen/ProcessBench"


PARTS = ("gsm8k", "math", "olympiadbench", "omnimath")


def load(folder: Path | None, part: str, count: int, seed: int) -> list[BenchItem]:
    """`count` items of a part (all where `count` is 0), shuffled by `seed`, as many with an error as the part has in
    proportion, one of each side at least. Raises ValueError, in one line, where the part cannot be had."""
    if part not in PARTS:
        raise ValueError(f"ProcessBench has no part {part!r}: choose one of {', '.join(PARTS)}")
    rows = files.rows(folder, f"processbench/{part}.json", HUB_NAME, part)
    try:
        items = [
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
        raise ValueError(f"a row of ProcessBench's part {part} lacks a field: is it the published file?") from None
    random.Random(seed).shuffle(items)
    if not count or count >= len(items):
        return items
    wrong, right = [i for i in items if i.label >= 0], [i for i in items if i.label < 0]
    some = min(max(round(count * len(wrong) / len(items)), min(1, len(wrong))), count - min(1, len(right)))
    return wrong[:some] + right[: count - some]
