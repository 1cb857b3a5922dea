"""A child process that answers one line for each request line, and that can be killed at any moment.

For work that may hang or crash: no thread or signal reliably ends C code that holds the interpreter, but a process can
always be killed. The next request starts a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS = 60.0  # limit for the child's imports, on a busy machine


class Child:
    """A restartable child process; `command` must print one line when it is ready, then one line for each line it reads.

    `seconds` limits the time of one request; the child sees `environment`, by default this process's. Not for use by several
    threads at once.
    """

    def __init__(self, command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None):
        self.command, self.seconds, self.environment = tuple(command), seconds, environment
        self._process: subprocess.Popen | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def ask(self, request: str) -> str | None:
        """The child's answer to one line, without its newline; None if the child took too long or died.

        In that case it is killed. Raises ValueError for a request of several lines, and RuntimeError if the child does not
        start.
        """
        if "\n" in request:
            raise ValueError("a request to a child process must be one line")
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError:  # it died
            answer = None
        else:
            answer = self._next_line(self.seconds)
        if answer is None:
            self.close()
        return answer

    def _start(self) -> None:
        self.close()
        # the child must find this package wherever it was started from
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path} if self.environment is None else self.environment,
        )
        self._lines = queue.Queue()
        threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True).start()
        atexit.register(self.close)
        if self._next_line(START_SECONDS) is None:
            self.close()
            raise RuntimeError(f"the child process {' '.join(self.command)!r} did not start within {START_SECONDS:.0f} s")

    def _next_line(self, seconds: float) -> str | None:
        """The next line of the child's output; None at its end or after so many seconds."""
        with contextlib.suppress(queue.Empty):
            return self._lines.get(timeout=seconds)
        return None

    def close(self) -> None:
        """Kill the child, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(OSError):  # an unsent request in its buffer
                self._process.stdin.close()
            self._process = None
            atexit.unregister(self.close)


def _forward(stream, lines: queue.Queue[str | None]) -> None:
    """Put every line of a stream into a queue, then None; a queue can be read with a time limit, a pipe cannot."""
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)
    stream.close()
