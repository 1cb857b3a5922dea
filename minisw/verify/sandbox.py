"""Runs Python that a model wrote, and treats it as hostile.

    run_code(code)      any code, in a process of its own
    run_checks(codes)   many small checks (a GenPRM's `print(652 // 2)`), which must also pass the whitelist

Neither raises for what the code does: an `Output` holds what it printed, and one plain line if it failed.

    this process ── a worker: a fresh interpreter with an empty environment, in which every module that a check may use is
                    loaded; it becomes an ordinary user, enters namespaces of its own (no network), has a deleted folder as its
                    root, gives up all privileges, and Landlock refuses every path
                      └─ a fork for each check: no new file descriptor or process, limits on memory and CPU time, and seccomp
                         refuses every system call but 23. It is killed when its time is over.

Promised: the code reads and changes no file, reaches no network and no other process, keeps nothing running, stays within its
limits, and cannot answer for another check; what it printed is only ever treated as text. Not promised: this is no virtual
machine. A bug of the kernel or a side channel of the processor opens it; the code can measure time; every check may use up its
limits; what it printed may be false. Where a layer is missing (macOS, an old kernel, many containers) nothing is run, unless
`unsafe=True` says to do without that layer. Windows cannot run checks at all.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import math
import os
import queue
import random
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from minisw.verify import layers, whitelist
from minisw.verify.child import Child
from minisw.verify.whitelist import allowed

__all__ = ["Limits", "Output", "SandboxMissing", "allowed", "missing_layers", "run_checks", "run_code"]

WORKERS = 2  # checks that run at the same time
SPARE_SECONDS = 5.0  # a worker that answers so much later than the limit is killed itself
ERROR_BYTES = 4096  # of a check's stderr
# What sympy imports in the middle of its work: nothing can be loaded once the worker is closed.
SYMPY_PARTS = (
    "assumptions.wrapper codegen.ast combinatorics.named_groups combinatorics.pc_groups concrete.delta integrals.heurisch "
    "integrals.manualintegrate integrals.risch integrals.prde physics.units polys.polymatrix polys.domains.old_fractionfield "
    "polys.domains.old_polynomialring sets.handlers.functions sets.handlers.issubset sets.setexpr tensor.tensor"
).split()


@dataclass(frozen=True)
class Limits:
    """What one piece of code may use."""

    seconds: float = 5.0  # by the clock; and of CPU time, rounded up
    megabytes: int = 512  # of address space, the interpreter's own (20, with sympy 60) included
    output_bytes: int = 4096


@dataclass(frozen=True)
class Output:
    text: str  # what the code printed, up to the limit
    ok: bool  # whether it ran to its end
    error: str  # if not, one line that begins with "check failed: "


class SandboxMissing(RuntimeError):
    """This machine cannot contain hostile code."""


def run_code(code: str, limits: Limits = Limits(), unsafe: bool = False) -> Output:  # noqa: B008 (it is frozen)
    """Run any code in a new process. Raises SandboxMissing where this machine lacks a layer, unless `unsafe`."""
    _require_layers(unsafe)
    worker = _worker(limits, unsafe, sympy="sympy" in code)
    try:
        return _ask(worker, code, strict=False)
    finally:
        worker.close()


def run_checks(codes: Sequence[str], limits: Limits = Limits(), unsafe: bool = False) -> list[Output]:  # noqa: B008
    """The output of each check, in their order. Raises as `run_code`. The workers stay ready for the next call."""
    _require_layers(unsafe)

    pools = {sympy: _idle_workers(limits, unsafe, sympy) for sympy in {"sympy" in code for code in codes}}

    def run(code: str) -> Output:
        idle = pools["sympy" in code]
        worker = idle.get()
        try:
            return _ask(worker, code, strict=True)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run, codes))


def missing_layers() -> list[str]:
    """The layers that this machine lacks. Found by applying them, in a process that then ends."""
    return list(_missing_layers())


@functools.cache
def _missing_layers() -> tuple[str, ...]:
    if not hasattr(os, "fork"):
        return ("fork",)
    worker = _worker(Limits(), unsafe=True, sympy=False)
    answer = worker.ask(json.dumps(["", False]))
    worker.close()
    return tuple(json.loads(answer)["missing"]) if answer else ("a process that answers",)


def _require_layers(unsafe: bool) -> None:
    missing = missing_layers()
    if missing and (not unsafe or "fork" in missing):
        raise SandboxMissing(f"this machine cannot contain the code of a model; it lacks: {', '.join(missing)}")


@functools.cache
def _idle_workers(limits: Limits, unsafe: bool, sympy: bool) -> queue.LifoQueue[Child]:
    idle: queue.LifoQueue[Child] = queue.LifoQueue()  # last in, first out: for one check after another one process is enough
    for _ in range(WORKERS):
        idle.put(_worker(limits, unsafe, sympy))
    return idle


def _worker(limits: Limits, unsafe: bool, sympy: bool) -> Child:
    """A process that closes itself in and then runs codes; it starts at the first request."""
    spec = importlib.util.find_spec("sympy") if sympy else None
    site = str(Path(spec.origin).parents[1]) if spec else None
    package = str(Path(__file__).resolve().parents[2])
    call = f"_serve(limits=Limits(**{asdict(limits)!r}), unsafe={unsafe!r}, site={site!r})"
    program = f"import sys; sys.path.insert(0, {package!r}); from minisw.verify.sandbox import Limits, _serve; {call}"
    # -S: no site-packages, -s and -P: nor those of the user or of this folder. The hash seed makes the order in a set the same.
    return Child(
        (sys.executable, "-S", "-s", "-P", "-c", program), limits.seconds + SPARE_SECONDS, environment={"PYTHONHASHSEED": "0"}
    )


def _ask(worker: Child, code: str, strict: bool) -> Output:
    line = worker.ask(json.dumps([code, strict]))
    answer = json.loads(line) if line else {"text": "", "error": "check failed: its process ended"}
    return Output(answer["text"], not answer["error"], answer["error"])


# ---- In the worker


def _serve(limits: Limits, unsafe: bool, site: str | None) -> None:
    """Prepare, close this process in, then answer each line [code, strict] with {text, error, missing}."""
    _load(site)
    missing = layers.failing(
        {"ordinary user": layers.ordinary_user, "namespaces": layers.namespaces, "empty root": layers.empty_root}
    )
    if first := os.fork():  # the first process of its namespace: the forks cannot signal it, and end when it ends
        os.waitpid(first, 0)
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what has a handler would be delivered
    missing += layers.failing({"no privileges": layers.no_privileges, "Landlock": layers.landlock})
    inner = {
        "limits": functools.partial(layers.limits, limits.megabytes, math.ceil(limits.seconds)),
        "seccomp": layers.seccomp,
    }
    tried, failure = _forked(lambda: print(*layers.failing(inner)), Limits())
    missing += [name for name in inner if failure or name in tried.split()]
    print("ready", flush=True)
    for line in sys.stdin:
        text, error = "", f"check failed: this machine lacks {', '.join(missing)}"
        if unsafe or not missing:
            text, error = _forked(functools.partial(_run, *json.loads(line), inner, missing), limits)
        print(json.dumps({"text": text, "error": error, "missing": missing}), flush=True)


def _load(site: str | None) -> None:
    """Import all that a check may use."""
    del sys.path[0]  # this package
    for name in ["resource", *whitelist.MODULES]:
        if name != "sympy":
            importlib.import_module(name)
    if site:
        sys.path.append(site)
        for name in ["sympy", *(f"sympy.{part}" for part in SYMPY_PARTS)]:
            with contextlib.suppress(ImportError):  # another version of sympy
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a fork copies less


def _run(code: str, strict: bool, inner: dict[str, Callable[[], None]], missing: Sequence[str]) -> None:
    """In the fork: apply the last layers, then run the code."""
    if failing := set(layers.failing(inner)) - set(missing):
        raise SandboxMissing(", ".join(failing))
    if strict and (reason := allowed(code)):
        raise PermissionError(reason)
    random.seed(0)  # a fork gets a new seed
    exec(compile(code, "<check>", "exec"), whitelist.names() if strict else {"__name__": "__main__"})


def _forked(work: Callable[[], None], limits: Limits) -> tuple[str, str]:
    """Do some work in a fork: what it printed, and a line why it failed (empty if it did not)."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    process = os.fork()
    if not process:
        _work_and_exit(work, out_end, err_end)
    os.close(out_end)
    os.close(err_end)
    read, failure = _read({out: limits.output_bytes, err: ERROR_BYTES}, limits.seconds)
    os.kill(process, signal.SIGKILL)  # a process that has already ended keeps its status
    status = os.waitpid(process, 0)[1]
    os.close(out)
    os.close(err)
    if status and not failure:
        said = "".join(c if c.isprintable() else " " for c in read[err].decode("utf-8", "replace")).strip()
        failure = said[:200] or "it crashed, or was killed for its memory or time"
    return read[out].decode("utf-8", "replace"), failure and f"check failed: {failure}"


def _read(most: dict[int, int], seconds: float) -> tuple[dict[int, bytes], str]:
    """What comes from pipes until all are closed, and why it was cut off: one gave more than its most, or time is over."""
    until = time.monotonic() + seconds
    read = dict.fromkeys(most, b"")
    with selectors.DefaultSelector() as selector:
        for pipe in most:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(until - time.monotonic())
            if time.monotonic() >= until:
                return read, f"it took more than {seconds:g} s"
            for key, _ in ready:
                data = os.read(key.fd, most[key.fd] - len(read[key.fd]) + 1)
                if not data:
                    selector.unregister(key.fd)
                elif len(read[key.fd]) + len(data) > most[key.fd]:
                    read[key.fd] += data[:-1]
                    return read, f"it printed more than {most[key.fd]} bytes"
                read[key.fd] += data
    return read, ""


def _work_and_exit(work: Callable[[], None], out: int, err: int) -> None:
    """In the fork: only the ends of the two pipes stay open. This never returns: the caller's loop is the worker's."""
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(0)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 (to the end)
        work()
        sys.stdout.flush()
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:ERROR_BYTES])
    finally:
        os._exit(status)
