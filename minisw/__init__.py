"""minisw: StepWiser's stepwise generative judges, reproduced on one machine.

    from minisw import load_judge, open_run

`load_judge(folder)` loads one saved judge; `open_run(folder)` reads a whole run folder, by default that of the
run that ships with minisw. torch is imported only by their calls.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from minisw.judges.saved import LoadedJudge
    from minisw.saved_run import SavedRun

# oneDNN caches a compiled kernel for every shape, by default 1024 of them. Sampling meets hundreds of shapes, and a run grew by
# gigabytes; 128 are enough for the shapes of one stage. Set here, because torch reads it when it is imported.
for _variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_variable, "128")

# In a notebook without ipywidgets, tqdm warns as soon as transformers imports it. minisw shows none of its bars.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"


def load_judge(path: str | Path, **changes: object) -> LoadedJudge:
    """The judge saved in a folder: `load_judge("runs/tiny-0/judges/stepwiser").judge(problem, steps)`.

    `changes` are fields of `ModelKnobs`, such as device="cpu". See minisw/judges/saved.py.
    """
    from minisw.judges.saved import load_judge

    return load_judge(path, **changes)


def open_run(folder: str | Path | None = None) -> SavedRun:
    """A run folder to read: `.recipe`, `.records(name)`, `.metrics(stage)`, `.lm`, `.judge(name)`. See minisw/saved_run.py.

    Without a folder: the one that the environment variable MINISW_RUN names, or else the run that ships with minisw.
    """
    from minisw.saved_run import open_run

    return open_run(folder)
