"""Rows of a published set: from a folder with its files as they are published, or from the hub by name."""

from __future__ import annotations

import json
from pathlib import Path


def rows(folder: Path | None, path: str, hub: str, split: str, config: str | None = None) -> list[dict]:
    """The rows of `folder/path` (.jsonl, .json or .parquet; several parquet parts by a pattern), or of the hub's `split`.

    Raises ValueError, in one line, where the file is missing or damaged, or the hub cannot be reached.
    """
    if folder is None:
        try:
            from datasets import load_dataset

            return list(load_dataset(hub, config, split=split))
        except Exception as error:  # the hub's errors have no common base
            raise ValueError(
                f"cannot load {hub} from the hub ({type(error).__name__}); give --problems.data-dir a folder with {path}"
            ) from None
    found = sorted(folder.glob(path))
    if not found:
        raise ValueError(f"cannot read {folder / path}: it is not there; --problems.data-dir must hold the published files")
    return [row for file in found for row in _read(file)]


def _read(file: Path) -> list[dict]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return json.loads(text)
        return [json.loads(line) for line in text.split("\n") if line.strip()]  # not splitlines: strings may hold U+2028
    except OSError as error:
        if file.suffix == ".parquet" and error.errno is None:  # pyarrow's word for a cut file
            raise ValueError(f"{file} is damaged: it is not parquet; download it again") from None
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError:
        kind = {".json": "it is not JSON", ".jsonl": "a line is not JSON", ".parquet": "it is not parquet"}[file.suffix]
        raise ValueError(f"{file} is damaged: {kind}; download it again") from None


class TooFewProblems(ValueError):
    """A split has fewer problems than a recipe needs."""


def picked(rows_of: str, found: list, count: int) -> list:
    """The first `count` rows. Raises TooFewProblems if there are fewer."""
    if len(found) < count:
        raise TooFewProblems(f"{rows_of} has {len(found)} problems, and {count} were asked for")
    return found[:count]
