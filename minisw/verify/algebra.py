"""Equality of mathematical answers by algebra (math-verify), in a process of its own that can be killed.

Sympy may think for hours about one odd answer, and hold the interpreter meanwhile, so no thread or signal ends it for
certain. A child process does the thinking; what takes longer than the time limit is killed and counts as different.

    python -m minisw.verify.algebra      the child: one JSON pair [gold, answer] a line in, 1 or 0 a line out
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

SECONDS = 5.0  # for one pair


START = 60.0  # for the child's imports, on a busy machine


class Referee:
    """Asks a child process whether two answers are equal; a new one is started when the old one had to be killed."""

    def __init__(self, seconds: float = SECONDS, command: tuple[str, ...] = (sys.executable, "-m", "minisw.verify.algebra")):
        self.seconds, self.command = seconds, command
        self.killed = 0  # pairs that took too long
        self._child: subprocess.Popen | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def equal(self, gold: str, answer: str) -> bool:
        """Whether math-verify takes `answer` for the reference `gold`; its order matters. False where it takes too long."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        try:
            self._child.stdin.write(json.dumps([gold, answer]) + "\n")
            self._child.stdin.flush()
            return self._lines.get(timeout=self.seconds).strip() == "1"
        except (queue.Empty, OSError):
            self.killed += 1
            self.close()
            return False

    def _start(self) -> None:
        # the child must find this package wherever it was started from
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path},
        )
        self._lines = queue.Queue()
        threading.Thread(target=_forward, args=(self._child.stdout, self._lines), daemon=True).start()
        atexit.register(self.close)
        try:
            self._lines.get(timeout=START)
        except queue.Empty:
            self.close()
            raise RuntimeError(f"the process that compares answers did not start within {START:.0f} s") from None

    def close(self) -> None:
        """Kill the child. The next question starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child = None
            atexit.unregister(self.close)


def _forward(stream, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    stream.close()


@functools.cache
def installed() -> bool:
    return importlib.util.find_spec("math_verify") is not None


@functools.cache
def _referee() -> Referee:
    return Referee()


@functools.lru_cache(1 << 16)
def equal(gold: str, answer: str) -> bool:
    """Whether two answers are equal by algebra. Answers repeat over rollouts, so each pair is asked once."""
    return _referee().equal(gold, answer)


def _serve() -> None:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def parsed(text: str) -> list:
        # math-verify reads LaTeX within dollars and plain expressions without
        return parse(f"${text}$", parsing_timeout=None) or parse(text, parsing_timeout=None)

    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            same = verify(parsed(gold), parsed(answer), timeout_seconds=None)
        except Exception:  # whatever sympy could not do with it, it is not the reference
            same = False
        print(int(same), flush=True)


if __name__ == "__main__":
    _serve()
