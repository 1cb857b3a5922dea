"""Calls functions of untrusted code in a process of its own: start it, load a file, call its functions within limits, kill it.

The course's grader uses it for submissions. What the process may do, and how it closes itself in: remote_worker.py.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisw.verify import wire

LOAD_SECONDS = 10.0  # for the import of a submission
END_SECONDS = 5.0  # to end a part
MEGABYTES, MEGABYTES_WITH_TORCH = 512, 128  # of address space, above what the imports take
MAX_SENTENCE = 300
DIED = "the process ended during the call"


class Failure(Exception):
    """Why a call gave no value: `status` is not_implemented, exception, time, memory, output or died; the text is one line."""

    def __init__(self, status: str, sentence: str):
        super().__init__(plain(sentence))
        self.status = status

    @property
    def ends_part(self) -> bool:
        """Whether the process was killed, so that nothing more can be asked in this part."""
        return self.status not in ("not_implemented", "exception")


def plain(text: object) -> str:
    """A text of a submission as one short printable line."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:MAX_SENTENCE]).strip()


class Worker:
    """A restartable untrusted process. `modules` are the sources that a submission may import, `lacking` the layers that this
    machine lacks and that the teacher does without."""

    def __init__(self, modules: dict[str, str], lacking: list[str]):
        self.modules, self.lacking = modules, lacking
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self._until = 0.0

    def load(self, source: str) -> None:
        """Begin a part: a new fork reads the submission. Raises Failure if it cannot be read."""
        if self._process is None:
            self._start()
        self._until = time.monotonic() + LOAD_SECONDS
        self._send(wire.pack("load", source))
        self._value([])

    def call(self, name: str, args: tuple, kwargs: dict, seconds: float) -> Any:
        """The value of a call. Functions among the arguments run here when the submission calls them. Raises Failure."""
        return self._result("call", (name, args, kwargs), seconds)

    def gradient(self, name: str, args: tuple, position: int, seconds: float) -> Any:
        """Value and gradients of a call by its argument at `position` (verify/gradients.py). Raises Failure."""
        return self._result("gradient", (name, args, position), seconds)

    def _result(self, kind: str, request: tuple, seconds: float) -> Any:
        callbacks: list[Callable] = []
        self._until = time.monotonic() + seconds
        self._send(wire.pack(kind, request, callbacks))
        return self._value(callbacks)

    def end(self) -> None:
        """End a part; the worker is then ready for the next."""
        if self._process is None:
            return
        self._until = time.monotonic() + END_SECONDS
        with contextlib.suppress(Failure):
            self._send(wire.pack("end", None))
            if self._frame()[0] == "exited":
                return
        self.close()

    def close(self) -> None:
        """Kill the worker with all its processes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._socket.close()
            self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        program = f"import sys; sys.path.insert(0, {root!r}); from minisw.verify.remote_worker import serve; serve()"
        self._socket = ours
        self._process = subprocess.Popen(  # -S, -s, -P: no site-packages until the worker adds them, nothing of this folder
            [sys.executable, "-S", "-s", "-P", "-c", program],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,
        )
        theirs.close()
        torch = _import(self.modules, "torch")
        self._until = time.monotonic() + 60.0  # for the imports, on a busy machine
        try:
            sites = site.getsitepackages() if torch or _import(self.modules, "numpy") else []
            self._send(wire.pack("start", [self.modules, sites, MEGABYTES_WITH_TORCH if torch else MEGABYTES, self.lacking]))
            if self._frame()[0] == "ready":
                return
        except Failure:
            pass
        self.close()
        raise RuntimeError("the process for submissions does not start on this machine (if other programs are busy, try again)")

    def _value(self, callbacks: list[Callable]) -> Any:
        while True:
            kind, payload = self._frame()
            if kind == "value":
                return payload
            try:
                number, args = payload  # of an error: its status and sentence
                if kind == "error" and number in ("not_implemented", "exception", "memory", "output"):
                    failure = Failure(number, args)
                    if failure.ends_part:
                        self.close()
                    raise failure
                callback = callbacks[number] if kind == "callback" else None
            except (TypeError, ValueError, LookupError):
                callback = None
            if callback is None or not isinstance(args, list):
                self.close()
                raise Failure("died", DIED) if kind == "exited" else Failure("output", "no answer")
            begin = time.monotonic()
            try:
                answer = wire.pack("value", callback(*args))
            except BaseException:
                self.close()
                raise
            self._until += time.monotonic() - begin
            self._send(answer)

    def _send(self, frame: bytes) -> None:
        with self._limited():
            self._socket.sendall(frame)

    def _frame(self) -> tuple[str, Any]:
        with self._limited():
            return wire.unpack(self._read)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._socket.settimeout(max(self._until - time.monotonic(), 1e-3))
            piece = self._socket.recv(min(count - len(data), 1 << 16))
            if not piece:
                raise ConnectionError
            data += piece
        return bytes(data)

    @contextlib.contextmanager
    def _limited(self):
        """Kill the worker and raise Failure if time is over, if it has died, or if it sends what is no frame."""
        self._socket.settimeout(max(self._until - time.monotonic(), 1e-3))
        try:
            yield
        except TimeoutError:
            failure = Failure("time", "it took too long")
        except wire.Unreadable as error:
            failure = Failure("output", f"the result cannot be used: {error}")
        except OSError:
            failure = Failure("died", DIED)
        else:
            return
        self.close()
        raise failure


def _import(modules: dict[str, str], library: str) -> bool:
    """Whether any of these sources imports a library, such as torch."""
    nodes = [node for source in modules.values() for node in ast.walk(ast.parse(source))]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return any(name.partition(".")[0] == library for name in names)
