"""Keep libraries quiet: no bars while weights load, and no bitsandbytes unless 4 bits are asked for.

peft imports bitsandbytes wherever it is installed. That takes a second, and on some CPUs prints a warning about a package
`kernels` that this project does not use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator

from transformers.utils import import_utils, logging


@contextlib.contextmanager
def bitsandbytes_hidden() -> Iterator[None]:
    """Make bitsandbytes look uninstalled inside the block, unless it is imported already."""
    if "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # an import of it now raises ImportError, and find_spec returns None
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        # libraries remember the answer, and 4 bits may be asked for later in the same process
        import_utils.is_bitsandbytes_available.cache_clear()
        peft = sys.modules.get("peft.import_utils")
        if peft is not None:
            peft.is_bnb_available.cache_clear()
            peft.is_bnb_4bit_available.cache_clear()


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed (it is not imported)."""
    return importlib.util.find_spec("bitsandbytes") is not None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars of transformers and no FutureWarning inside the block: they concern names that libraries use
    among themselves (peft reads one that transformers 6 will drop)."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if bars:
            logging.enable_progress_bar()
