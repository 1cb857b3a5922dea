"""GSM8K (Cobbe et al. 2021): grade-school word problems, from the published files or from the hub."""

from __future__ import annotations

import random
from pathlib import Path

from minisw.problems import files
from minisw.records import Problem

HUB_NAME = "openai/gsm8k"


def read(folder: Path | None, split: str, max_steps: int = 0) -> list[Problem]:
    """The problems of the published split "train" or "test" whose reference solution has at most `max_steps` lines (0: all).

    The answer is the text after "####". Raises ValueError, in one line, if the file is missing, damaged or another one.
    """
    rows = files.rows(folder, f"gsm8k/{split}.jsonl", HUB_NAME, split, "main")
    try:
        return [
            Problem(f"gsm8k-{split}-{i}", row["question"].strip(), row["answer"].split("####")[-1].strip().replace(",", ""))
            for i, row in enumerate(rows)
            if not max_steps or row["answer"].split("####")[0].strip().count("\n") < max_steps
        ]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"a row of GSM8K's {split} split has no question or no answer: is it the published file?") from None


def load_split(folder: Path | None, split: str, count: int, seed: int, max_steps: int = 0) -> list[Problem]:
    """`count` problems of a split, shuffled by `seed`.

    "validation" is a fifth of the published train split, "train" the rest. Raises ValueError for an unknown split, or if
    there are fewer problems.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"GSM8K has no split {split!r}: choose train, validation or test")
    rows = read(folder, "test" if split == "test" else "train", max_steps)
    random.Random(seed).shuffle(rows)
    cut = len(rows) // 5
    rows = {"test": rows, "validation": rows[:cut], "train": rows[cut:]}[split]
    return files.take(f"GSM8K's {split} split", rows, count)
