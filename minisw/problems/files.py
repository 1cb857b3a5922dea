"""Rows of a published data set: from a folder that holds the published files, or from the hub."""

from __future__ import annotations

import json
from pathlib import Path


def rows(folder: Path | None, path: str, hub: str, split: str, config: str | None = None) -> list[dict]:
    """The rows of `folder/path`, or of `split` of the hub's data set `hub` if `folder` is None.

    `path` may be a pattern that several files match; they are .jsonl, .json or .parquet. Raises ValueError, in one line, if
    a file is missing or damaged, or if the hub cannot be reached.
    """
    if folder is None:
        try:
            from datasets import load_dataset

            return list(load_dataset(hub, config, split=split))
        except Exception as error:  # the hub's errors have no common base
            raise ValueError(
                f"cannot load {hub} from the hub ({type(error).__name__}); give --problems.data-dir a folder with {path}"
            ) from None
    matches = sorted(folder.glob(path))
    if not matches:
        raise ValueError(f"cannot read {folder / path}: no such file; --problems.data-dir must hold the published files")
    return [row for file in matches for row in read(file)]


def read(file: Path) -> list[dict]:
    """The rows of one .jsonl, .json or .parquet file. Raises ValueError, in one line, if it is missing or damaged."""
    kinds = {".json": "it is no JSON list", ".jsonl": "a line is not JSON", ".parquet": "it is not parquet"}
    if file.suffix not in kinds:
        raise ValueError(f"cannot read {file}: give a .jsonl, .json or .parquet file")
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise ValueError
            return rows
        # not splitlines, which also splits at the U+2028 that a string may hold
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        if file.suffix == ".parquet" and error.errno is None:  # pyarrow's error for a truncated file
            raise ValueError(f"{file} is damaged: {kinds[file.suffix]}; download it again") from None
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError:
        raise ValueError(f"{file} is damaged: {kinds[file.suffix]}; download it again") from None


class TooFewProblems(ValueError):
    """A split has fewer problems than a recipe needs."""


def take(name: str, problems: list, count: int) -> list:
    """The first `count` problems of the set called `name`. Raises TooFewProblems if it has fewer."""
    if len(problems) < count:
        raise TooFewProblems(f"{name} has {len(problems)} problems, not {count}: ask for fewer")
    return problems[:count]
