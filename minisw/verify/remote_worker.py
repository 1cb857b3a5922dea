"""The untrusted process: it runs a submission's functions and returns their values, and knows nothing of tests or points.

It starts as a fresh interpreter with an empty environment, loads what a submission may import, and closes itself in with the
layers of verify/layers.py: an ordinary user, no network, a deleted folder as root, no privileges, no file. Then it forks once
for each part: the fork gets the last limits, reads the submission and answers calls until the part ends. A part cannot change
another, and can only answer what the grader asked.

Frames (wire.py) on descriptor 0, a socket to the grader:
    grader: start [modules, sites, megabytes, lacking]   then for each part: load, call or gradient…, end
    worker: ready                                        then an answer to each, value or error; callback; exited
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.abc
import importlib.util
import os
import select
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from minisw.verify import gradients, layers, wire

CPU_SECONDS = 600  # of a whole part; the grader limits every call by the clock
MODULES = (  # what a submission may import: nothing can be loaded once the process is closed
    "abc bisect cmath collections collections.abc contextlib copy dataclasses decimal enum fractions functools heapq itertools "
    "json math numbers operator pathlib random re resource statistics string textwrap time typing unicodedata warnings"
).split()


class Sources(importlib.abc.InspectLoader, importlib.abc.MetaPathFinder):
    """Imports modules from a dictionary of sources."""

    def __init__(self, sources: dict[str, str]):
        self.sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None):
        return importlib.util.spec_from_loader(name, self) if name in self.sources else None

    def get_source(self, name: str) -> str:
        return self.sources[name]

    def is_package(self, name: str) -> bool:
        return any(other.startswith(f"{name}.") for other in self.sources)


def serve() -> None:
    """Prepare, close this process in, then fork for each part. It never returns."""
    kind, (modules, sites, megabytes, lacking) = wire.unpack(_read)
    _load(modules, sites)
    megabytes += _megabytes()
    names = {"ordinary user": layers.ordinary_user, "namespaces": layers.namespaces, "empty root": layers.empty_root}
    _require(names, lacking)
    if first := os.fork():  # the first process of its namespace: the parts cannot signal it, and end when it ends
        _wait(first)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _require({"no privileges": layers.no_privileges, "Landlock": layers.landlock}, lacking)
    _write(wire.pack("ready", None))
    while True:
        kind, source = wire.unpack(_read)
        if not (part := os.fork()):
            limits = functools.partial(layers.limits, megabytes, CPU_SECONDS)
            _require({"limits": limits, "seccomp": layers.seccomp}, lacking)
            _answer(source)
        status = os.waitpid(part, 0)[1]
        _write(wire.pack("exited", os.waitstatus_to_exitcode(status)))


def _wait(process: int) -> NoReturn:
    """Wait for a process to end, or end it when the grader is gone: a function in an endless loop would not see that."""
    poll = select.poll()
    poll.register(0, 0)  # no event but the end of the connection
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if poll.poll(200):
            os.kill(process, signal.SIGKILL)
            break
    os._exit(0)


def _load(modules: dict[str, str], sites: list[str]) -> None:
    """Import all that a submission may use, the package's modules from their cut sources; close the way to the originals."""
    for name in [name for name in sys.modules if name == "minisw" or name.startswith("minisw.")]:
        del sys.modules[name]
    sys.path[0:1] = sites  # in place of the package's folder
    sys.meta_path.insert(0, Sources(modules))
    for name in [*MODULES, *modules]:
        importlib.import_module(name)
    if "numpy" in sys.modules:
        for name in ("numpy.ma", "numpy.random"):  # numpy would load them later, when no file can be read
            importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        with contextlib.suppress(AttributeError):  # another C library
            # M_MMAP_THRESHOLD: large tensors are freed to the system; in glibc's heap they would leave gaps and grow it
            ctypes.CDLL(None).mallopt(-3, 1 << 20)


def _megabytes() -> int:
    """The address space of this process now, libraries included, so that limits do not depend on their size."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:  # not Linux
        return 4096


def _require(names: dict[str, Callable[[], None]], lacking: list[str]) -> None:
    """Apply layers. Without one of them the process ends, unless the grader said that this machine lacks it."""
    if not {*layers.failing(names)} <= {*lacking}:
        os._exit(3)


def _answer(source: str) -> NoReturn:
    """In the fork: read the submission, then answer calls until the grader ends the part."""
    try:
        student = types.ModuleType("student")
        sys.modules["student"] = student
        _reply(lambda: exec(compile(source, "student.py", "exec", dont_inherit=True), vars(student)) and None)
        while True:
            kind, payload = wire.unpack(_read, lambda number: functools.partial(_ask, number))
            if kind not in ("call", "gradient"):
                break
            _reply(functools.partial(_call if kind == "call" else _gradient, vars(student), *payload))
    finally:
        os._exit(0)


def _call(names: dict, name: str, args: tuple, kwargs: dict) -> Any:
    if not callable(names.get(name)):
        raise NotImplementedError(f"there is no function {name}")
    return names[name](*args, **kwargs)


def _gradient(names: dict, name: str, args: tuple, position: int) -> Any:
    return gradients.value_and_gradient(lambda *inner: _call(names, name, inner, {}), position, args)


def _reply(work: Callable[[], Any]) -> None:
    """Send the value of some work, or why there is none."""
    try:
        value = work()
    except BaseException as error:
        kinds = {NotImplementedError: "not_implemented", MemoryError: "memory"}
        kind = next((kind for base, kind in kinds.items() if isinstance(error, base)), "exception")
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # torch has no error of its own for it
            kind = "memory"
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "student.py"]
        where = f" (line {lines[-1]} of student.py)" if lines else ""
        frame = wire.pack("error", [kind, f"{type(error).__name__}: {error}"[:300].removesuffix(": ") + where])
    else:
        try:
            frame = wire.pack("value", value)
        except wire.Unreadable as error:
            frame = wire.pack("error", ["output", f"the result cannot be used: {error}"])
    _write(frame)


def _ask(number: int, *args: Any) -> Any:
    """Call a function of the grader."""
    _write(wire.pack("callback", [number, list(args)]))
    return wire.unpack(_read, lambda number: functools.partial(_ask, number))[1]


def _read(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = os.read(0, min(count - len(data), 1 << 16))
        if not piece:
            os._exit(0)  # the grader is gone
        data += piece
    return bytes(data)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(0, view) :]
