"""The run that ships with minisw: a slim copy of a finished run, small enough for the repository and for a wheel.

    python -m minisw.course ship runs/tiny-0 data/run

Results, curves and records are copied as they are. Adapters are rounded to bf16, which halves them. What only its maker needs
is left out: the report, the replies that RS-FT learnt from, the judges that the course does not ask.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path

from minisw.recipe import EMBEDDED, Recipe
from minisw.records import write_json

LIMIT = 9_000_000  # bytes of the whole copy
ADAPTERS = (
    "segment/policy",
    "judges/discriminative",
    "judges/rejection_sampled",
    "judges/stepwiser",
    "judges/stepwiser_tenth",
)
COPIED = ("recipe.json", "run.json", "claims.json", "*/metrics.json", "*/*-curve.json", "*/trace.json", "*/showcase.json",
          "annotate/*.json*", "segment/*.jsonl", "evaluate/*.jsonl", "search/*.jsonl")  # fmt: skip
FIRST_TO_GO = ("evaluate/*-pass.jsonl", "evaluate/*-sampled.jsonl")  # left out, in this order, if the copy is too large
WEIGHTS = "adapter_model.safetensors"


def ship(run: Path, out: Path) -> int:
    """Write the slim copy of the run in folder `run` to the new folder `out`; returns its size in bytes.

    Raises ValueError if `run` holds no run or lacks an adapter of `ADAPTERS`, if `out` is not empty, and if the copy would have
    more than `LIMIT` bytes without the files of `FIRST_TO_GO`; then nothing is left in `out`.
    """
    if not (run / "recipe.json").is_file():
        raise ValueError(f"{run} holds no run: it has no recipe.json")
    missing = [name for name in ADAPTERS if not (run / name / WEIGHTS).is_file()]
    if missing:
        raise ValueError(f"{run} has no adapter {missing[0]}: ship a finished run of --preset tiny")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another folder")
    embedded = Recipe.from_json(run / "recipe.json").model.name == EMBEDDED
    for name in ADAPTERS:
        _ship_adapter(run / name, out / name, embedded)
    for file in files(run):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / file, out / file)
    for pattern in FIRST_TO_GO:
        if size(out) > LIMIT:
            for path in out.glob(pattern):
                path.unlink()
    total = size(out)
    if total > LIMIT:
        shutil.rmtree(out)
        raise ValueError(f"the copy of {run} would have {total} bytes, more than {LIMIT}: ship a smaller run")
    return total


def files(run: Path) -> list[str]:
    """The names of the run's files that are copied as they are, sorted."""
    names = sorted(str(path.relative_to(run).as_posix()) for path in run.rglob("*") if path.is_file())
    return [name for name in names if any(fnmatch.fnmatch(name, p) and name.count("/") == p.count("/") for p in COPIED)]


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _ship_adapter(source: Path, target: Path, embedded: bool) -> None:
    """Copy one adapter, its weights rounded to bf16. An embedded base is named as in recipes, not by its maker's folder."""
    import torch  # only here, so that the other commands of the course start at once
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(source / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    if embedded:
        config["base_model_name_or_path"] = EMBEDDED
    write_json(target / "adapter_config.json", config)
