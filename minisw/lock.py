"""A lock on a file, held by one process at a time, on Windows too."""

from __future__ import annotations

from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


def lock(path: Path) -> IO:
    """Open `path` and lock it until it is closed or the process ends. Raises BlockingIOError if it is locked."""
    file = open(path, "w")  # noqa: SIM115 - stays open as long as the lock
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        file.close()
        raise BlockingIOError(str(error)) from None
    return file
