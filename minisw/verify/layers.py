"""Layers by which a Linux process closes itself in for hostile code, from plain Python and as an ordinary user.

Each function closes the calling process for good, and raises (OSError, or AttributeError on another system) where the machine
cannot. verify/sandbox.py says in which order they are applied. Numbers are those of the kernel's public headers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import tempfile
from collections.abc import Callable, Mapping

NOBODY = 65534


def failing(layers: Mapping[str, Callable[[], None]]) -> list[str]:
    """Apply layers to this process; the names of those that this machine lacks."""
    names = []
    for name, layer in layers.items():
        try:
            layer()
        except (OSError, AttributeError, ImportError, KeyError, ValueError):
            names.append(name)
    return names


def ordinary_user() -> None:
    """Root becomes nobody; anybody else stays."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def namespaces() -> None:
    """No network, no shared memory of others; and the next fork sees no process but itself and its own forks."""
    user, network, processes, ipc = 0x10000000, 0x40000000, 0x20000000, 0x08000000
    _call("unshare", user | network | processes | ipc)


def empty_root() -> None:
    """No path leads anywhere. Needs `namespaces`."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)  # in a deleted folder nothing can be created, by anybody
    os.chroot(".")


def no_privileges() -> None:
    """No capability, not even within the namespaces, and no way to gain one."""
    _call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _call("prctl", 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: a fork may not trace this process
    _call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the parent


def landlock() -> None:
    """No file is opened, created, removed or run. Needs `no_privileges`."""
    version = _call("syscall", 444, None, ctypes.c_size_t(0), 1)  # landlock_create_ruleset
    rights = (1 << (13, 14, 15, 15, 16)[min(version, 5) - 1]) - 1  # every right on files that this version knows
    rules = _call("syscall", 444, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
    _call("syscall", 446, rules, 0)  # landlock_restrict_self; no rule allows anything
    os.close(rules)


def limits(megabytes: int, seconds: int) -> None:
    """Limits on address space and CPU time; no new file descriptor, process or thread, nothing written to files."""
    import resource

    for name, value in {
        "AS": megabytes << 20, "CPU": seconds, "NOFILE": 0, "NPROC": 0, "FSIZE": 0, "CORE": 0, "MEMLOCK": 0
    }.items():  # fmt: skip
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


# For a machine its AUDIT_ARCH number, then the numbers of read write close fstat lseek mmap mprotect munmap brk rt_sigaction
# rt_sigprocmask rt_sigreturn mremap madvise getpid exit exit_group futex getrandom clock_gettime clock_nanosleep
# restart_syscall sigaltstack.
SYSTEM_CALLS = {
    "x86_64": (0xC000003E, "0 1 3 5 8 9 10 11 12 13 14 15 25 28 39 60 231 202 318 228 230 219 131"),
    "aarch64": (0xC00000B7, "63 64 57 80 62 222 226 215 214 134 135 139 216 233 172 93 94 98 278 113 115 128 132"),
}


def seccomp() -> None:
    """Only the system calls above; any other is "not permitted". Needs `no_privileges`."""
    machine, calls = SYSTEM_CALLS[platform.machine()]
    numbers = [int(number) for number in calls.split()]
    load, if_equal, answer = 0x20, 0x15, 0x06  # of the kernel's filter language: (what, steps if equal, if not, number)
    program = [(load, 0, 0, 4), (if_equal, 1, 0, machine), (answer, 0, 0, 0x80000000), (load, 0, 0, 0)]  # another: killed
    program += [(if_equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(answer, 0, 0, 0x00050001), (answer, 0, 0, 0x7FFF0000)]  # EPERM; allowed
    lines = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    _call("prctl", 22, 2, struct.pack("@HP", len(program), ctypes.addressof(lines)), 0, 0)  # PR_SET_SECCOMP, a filter


def _call(function: str, *arguments) -> int:
    """Call a function of the C library; OSError if it fails, AttributeError where there is no such function."""
    result = getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
