"""minisw: StepWiser's stepwise generative judges, reproduced on one machine."""

import os

# oneDNN keeps a compiled kernel for every shape it has met, by default 1024 of them. Sampling meets hundreds of shapes, and
# a run grew by gigabytes; 128 are enough for the shapes of one stage. Read when torch starts, so it has to stand here.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "128")

__version__ = "0.1.0"


def load_judge(path, **changes):
    """The judge saved in a folder: `load_judge(path).judge(problem, steps)` (see minisw/judge.py)."""
    from minisw.judges.saved import load_judge

    return load_judge(path, **changes)
