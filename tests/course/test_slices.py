"""Modules reduced to some functions."""

import pytest

from minisw.course.slices import sliced

SOURCE = '''"""A module."""

from __future__ import annotations

import heavy
import os.path, math as m
from other import Big, small as little

LIMIT: int = 3
FIRST, SECOND = 1, 2
UNUSED = heavy.x


def wanted(a: Big, b: int = LIMIT) -> int:
    """It names heavy only here."""
    return _helper(a) + little(b)


@little
class _Helper:
    size = SECOND


def _helper(a):
    return m.sqrt(a) + len(os.path.sep) + _Helper.size


def other():
    return wanted(UNUSED)
'''


def test_what_a_function_uses_stays_in_its_order_and_nothing_else():
    text = sliced(SOURCE, ["wanted"])
    imports = "from __future__ import annotations\nimport os.path, math as m\nfrom other import Big, small as little\n"
    assert text.startswith(f"{imports}\n\nLIMIT: int = 3\n")
    kept = ["LIMIT", "FIRST, SECOND", "def wanted", "@little\nclass _Helper", "def _helper"]
    positions = [text.index(name) for name in kept]
    assert positions == sorted(positions)
    assert "import heavy" not in text and "UNUSED" not in text and "def other" not in text and "A module" not in text


def test_a_slice_of_a_slice_is_itself_and_names_add_up():
    text = sliced(SOURCE, ["wanted"])
    assert sliced(text, ["wanted"]) == text
    both = sliced(SOURCE, ["wanted", "other"])
    assert "import heavy" in both and "UNUSED" in both and "def other" in both
    assert sliced("import os\nimport re\n\n\ndef f():\n    return re\n", ["f"]) == "import re\n\n\ndef f():\n    return re\n"


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        sliced(SOURCE, ["nothing"])
