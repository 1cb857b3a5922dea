"""README and REPRODUCE: their size, and what they say of the files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| ((?:`minisw/[\w/]+\.py`(?:, )?)+) \| (\d+) \|", re.M)


def test_the_readme_is_short_and_its_lines_are() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    assert all(len(line) <= 120 for line in lines if not line.startswith("|"))


def test_the_reading_order_names_files_and_their_lines() -> None:
    rows = ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) >= 8
    for files, lines in rows:
        paths = [ROOT / name for name in re.findall(r"`([^`]+)`", files)]
        total = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        assert abs(total - int(lines)) <= 0.1 * total, (files, total)


@pytest.mark.parametrize("name", ["README.md", "REPRODUCE.md"])
def test_documents_name_only_modules_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:minisw|benchmarks)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for file in re.findall(r"`((?:minisw|benchmarks|tests)/[\w/]+\.py)`", text):
        assert (ROOT / file).is_file(), file
