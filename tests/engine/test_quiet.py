"""Loading is silent, and bitsandbytes is imported only if 4 bits are asked for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils import logging

import minisw
from minisw.engine.quiet import bitsandbytes_hidden, has_bitsandbytes, quiet_loading

PLAIN = """
from pathlib import Path
import sys
from minisw.engine.loading import load_base
from minisw.recipe import Lora, ModelKnobs
lm = load_base(ModelKnobs(device="cpu"))
lm.new_adapter("judge", Lora(4, 8), 0)
lm.save_adapter("judge", Path("judge"))
lm.load_adapter("again", Path("judge"))
with lm.using("again"):
    assert lm.chat("Tom has 12 apples.")
assert "bitsandbytes" not in sys.modules
"""
FOUR_BITS = """
import dataclasses
assert dataclasses  # more to run after PLAIN, in the same process
lm = load_base(ModelKnobs(device="cpu", four_bit=True))
lm.new_adapter("judge", Lora(4, 8), 0)
kinds = {type(m).__name__ for m in lm.model.modules()}
assert "Linear4bit" in kinds, kinds
assert type(lm.causal_lm.model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.bnb"
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(minisw.__file__).parents[1])}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_plain_script_that_loads_the_embedded_base_prints_nothing(tmp_path: Path) -> None:
    done = run(PLAIN, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_work_after_a_base_without_them(tmp_path: Path) -> None:
    done = run(PLAIN + FOUR_BITS, tmp_path)
    assert done.returncode == 0, done.stderr


def test_hiding_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    installed = has_bitsandbytes()
    with pytest.raises(KeyboardInterrupt), bitsandbytes_hidden():
        assert not has_bitsandbytes()
        with pytest.raises(ImportError):
            import bitsandbytes  # noqa: F401
        raise KeyboardInterrupt
    assert "bitsandbytes" not in sys.modules and has_bitsandbytes() == installed
    imported = object()
    monkeypatch.setitem(sys.modules, "bitsandbytes", imported)
    with bitsandbytes_hidden():  # too late to hide it
        assert sys.modules["bitsandbytes"] is imported


@pytest.mark.parametrize("bars", [True, False])
def test_progress_bars_are_as_before_after_loading(bars: bool) -> None:
    before = logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        with quiet_loading():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled() == bars
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
