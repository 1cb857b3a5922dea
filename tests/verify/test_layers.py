"""Each layer of the sandbox alone, in a fork of this process: what worked before is refused after it."""

# ruff: noqa: SIM115 (opening is what is tried)

import ctypes
import os
import signal
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from minisw.verify import layers

pytest.importorskip("resource")  # not on Windows; loaded here, because another user may not be able to


def in_fork(work, user=None):
    """Do some work in a fork, first becoming another user if asked; the text it returns, or the name of what it raised."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        try:
            if user is not None and os.getuid() == 0:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            answer = str(work())
        except BaseException as error:
            answer = type(error).__name__
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        answer = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return answer or f"signal {os.WTERMSIG(status)}"


def names_of(*attempts):
    """What each attempt raises, or "done"."""
    names = []
    for attempt in attempts:
        try:
            attempt()
            names.append("done")
        except Exception as error:
            names.append(type(error).__name__)
    return " ".join(names)


def after(*steps):
    for step in steps:
        step()


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become others")


def needs(*steps):
    """Skip, with the layer's name, where this machine lacks one."""
    for name, first in (("namespaces", []), ("empty_root", ["namespaces"]), ("landlock", ["no_privileges"])):
        if name in steps and in_fork(lambda n=name, f=first: after(*(getattr(layers, x) for x in [*f, n]))) != "None":
            pytest.skip(f"this machine lacks {name}")


USERS = [pytest.param(None, id="as it is"), pytest.param(12345, id="as an ordinary user", marks=needs_root)]


@needs_root
def test_root_becomes_nobody_for_good():
    def work():
        os.setgroups([0, 4])
        layers.ordinary_user()
        return os.getresuid(), os.getresgid(), os.getgroups(), names_of(lambda: os.setuid(0), lambda: os.setgid(0))

    nobody = (layers.NOBODY,) * 3
    assert in_fork(work) == str((nobody, nobody, [], "PermissionError PermissionError"))


@needs_root
def test_an_ordinary_user_stays_who_it_is():
    assert in_fork(lambda: (layers.ordinary_user(), os.getresuid(), os.getresgid()), user=12345) == str(
        (None, (12345,) * 3, (12345,) * 3)
    )


@pytest.mark.parametrize("user", USERS)
def test_in_namespaces_there_is_no_network_and_no_shared_memory_of_others(user):
    needs("namespaces")
    libc = ctypes.CDLL(None)
    shared = libc.shmget(0x5EED, 4096, 0o1666)  # created with a key that everybody can look up
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def connect():
                with socket.socket() as client:
                    client.connect(("127.0.0.1", port))

            "x".encode("idna")  # connecting needs it, and another user may not be able to load it

            def look():
                return names_of(connect), libc.shmget(0x5EED, 4096, 0) >= 0

            assert in_fork(look, user) == str(("done", True))
            assert in_fork(lambda: (layers.namespaces(), look()), user) == str((None, ("OSError", False)))
    finally:
        libc.shmctl(shared, 0, None)  # IPC_RMID


def test_the_first_fork_in_namespaces_has_number_1_and_cannot_be_signalled_by_its_own_fork():
    needs("namespaces")

    def second():
        os.kill(1, signal.SIGKILL)
        os.kill(1, signal.SIGTERM)
        return os.getpid(), os.getppid()

    def first():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return os.getpid(), os.getppid(), in_fork(second)

    assert in_fork(lambda: (layers.namespaces(), in_fork(first))) == str((None, str((1, 0, str((2, 1))))))


@pytest.mark.parametrize("user", USERS)
def test_below_an_empty_root_nothing_exists_and_nothing_can_be_created(user):
    needs("namespaces", "empty_root")

    def work():
        after(layers.namespaces, layers.empty_root)
        missing = names_of(
            lambda: open("/etc/passwd"),
            lambda: open(__file__),
            lambda: os.stat("/proc"),
            lambda: open("../../../../../../etc/passwd"),
            lambda: open("new", "w"),
            lambda: os.mkdir("/new"),
            lambda: os.symlink("/etc", "/etc"),
        )
        return os.listdir("/"), os.listdir(".."), set(missing.split())

    assert in_fork(work, user) == str(([], [], {"FileNotFoundError"}))


def test_the_folder_of_the_empty_root_is_gone_from_the_disk(tmp_path, monkeypatch):
    needs("namespaces", "empty_root")
    monkeypatch.setattr(layers.tempfile, "tempdir", str(tmp_path))
    assert in_fork(lambda: after(layers.namespaces, layers.empty_root)) == "None"
    assert list(tmp_path.iterdir()) == []


def test_without_privileges_nothing_is_gained_even_inside_the_namespaces():
    needs("namespaces")
    libc = ctypes.CDLL(None)

    def privileges():
        return names_of(lambda: os.chroot("/")), [libc.prctl(get, 0, 0, 0, 0) for get in (39, 3)]  # no_new_privs, dumpable

    assert in_fork(lambda: (layers.namespaces(), privileges()[0])) == str((None, "done"))
    assert in_fork(lambda: (layers.namespaces(), layers.no_privileges(), privileges())) == str(
        (None, None, ("PermissionError", [1, 0]))
    )


def test_without_privileges_a_process_ends_with_its_parent():
    read, write = os.pipe()

    def parent():
        if not os.fork():
            layers.no_privileges()
            os.write(write, b"x")
            signal.pause()
        os.close(write)
        return os.read(read, 1)  # the grandchild is ready: now this parent ends

    assert in_fork(parent) == "b'x'"
    os.close(write)
    assert os.read(read, 1) == b""  # the other end is closed: the grandchild has ended
    os.close(read)


@pytest.fixture
def open_folder():
    """A temporary folder that every user may change; pytest's own lie below one that is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("user", USERS)
def test_landlock_refuses_every_path(user, open_folder):
    needs("landlock")
    tmp_path = open_folder
    (tmp_path / "file").write_text("secret")
    (tmp_path / "file").chmod(0o666)
    held = os.open(tmp_path / "file", os.O_RDONLY)

    def attempts(end):
        path = str(tmp_path / end)
        return names_of(
            lambda: os.listdir(tmp_path),
            lambda: open(tmp_path / "file").read(),
            lambda: open(tmp_path / "file", "a"),
            lambda: os.truncate(tmp_path / "file", 6),
            lambda: open(path + "new", "w"),
            lambda: os.mkdir(path + "folder"),
            lambda: os.symlink("/etc", path + "link"),
            lambda: os.mkfifo(path + "fifo"),
            lambda: os.unlink(path + "new"),
            lambda: os.rmdir(path + "folder"),
            lambda: os.execv("/bin/true", ["/bin/true"]) if end == "b" else None,
        ).split()

    def closed():
        after(layers.no_privileges, layers.landlock)
        return attempts("b")

    assert in_fork(lambda: attempts("a"), user) == str(["done"] * 11)
    (tmp_path / "bnew").write_text("")
    (tmp_path / "bfolder").mkdir()
    (tmp_path / "bfolder").chmod(0o777)
    refused = ["PermissionError"] * 11
    refused[4:6] = ["PermissionError", "FileExistsError"]  # it lies there already
    assert in_fork(closed, user) == str(refused)
    # what was open before stays open: the worker keeps its pipes
    assert in_fork(lambda: (after(layers.no_privileges, layers.landlock), os.read(held, 6)), user) == str((None, b"secret"))
    os.close(held)


def test_landlock_asks_for_every_right_that_the_kernel_knows(monkeypatch):
    """Bits 0 to 12 in version 1; REFER (13) from 2, TRUNCATE (14) from 3, IOCTL_DEV (15) from 5."""
    for version, bits in {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 9: 16}.items():
        asked = []
        rules = os.open(os.devnull, os.O_RDONLY)

        def call(function, number, *arguments, version=version, rules=rules, asked=asked):
            asked.append((function, number, arguments))
            return version if number == 444 and arguments[0] is None else rules if number == 444 else 0

        monkeypatch.setattr(layers, "_call", call)
        layers.landlock()
        assert struct.unpack("=Q", asked[1][2][0])[0] == 2**bits - 1
        assert asked[2] == ("syscall", 446, (rules, 0))
        with pytest.raises(OSError):
            os.fstat(rules)  # closed


@pytest.mark.parametrize("user", [pytest.param(12345, marks=needs_root), layers.NOBODY])
def test_limits_leave_no_new_file_process_thread_or_byte_on_disk(user, tmp_path):
    with open(tmp_path / "file", "wb", buffering=0) as file:

        def work():
            import _thread

            layers.limits(1 << 20, 5)
            file_errors = names_of(lambda: open("/dev/null"), os.pipe, lambda: file.write(b"x"))
            return file_errors, names_of(os.fork, lambda: _thread.start_new_thread(print, ()))

        # the hard limits hold too, and reading what was open goes on
        assert in_fork(work, user) == str(("OSError OSError OSError", "BlockingIOError RuntimeError"))
    assert (tmp_path / "file").stat().st_size == 0


def test_limits_are_hard_and_as_large_as_asked():
    import resource

    def work():
        layers.limits(1 << 20, 7)
        limits = [resource.getrlimit(n) for n in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]
        return [*limits, resource.getrlimit(resource.RLIMIT_MEMLOCK)]

    assert in_fork(work) == str([(1 << 40, 1 << 40), (7, 7), (0, 0), (0, 0)])


def test_memory_above_the_limit_is_refused_and_below_it_given():
    def work(megabytes, wanted):
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") >> 20
        layers.limits(used + megabytes, 5)
        return len(bytearray(wanted << 20)) >> 20

    assert in_fork(lambda: work(100, 60)) == "60"
    assert in_fork(lambda: work(100, 160)) == "MemoryError"


@pytest.mark.slow
def test_cpu_time_above_the_limit_ends_the_process():
    def work():
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        layers.limits(1 << 20, 1)
        while True:
            pass

    assert in_fork(work) == f"signal {signal.SIGKILL}"


def known_machine():
    import platform

    if platform.machine() not in layers.SYSTEM_CALLS:
        pytest.skip("this machine lacks a list for seccomp")


def test_seccomp_refuses_all_but_arithmetic_and_output():
    known_machine()
    held = os.open(os.devnull, os.O_RDONLY)

    def work():
        after(layers.no_privileges, layers.seccomp)
        refused = names_of(
            lambda: os.dup(held),
            lambda: open("/dev/null"),
            lambda: os.stat("/"),
            lambda: os.kill(os.getpid(), 0),
            lambda: os.chmod("/dev/null", 0o666),
            os.pipe,
            os.fork,
            socket.socket,
            layers.namespaces,
            layers.no_privileges,
        )
        return set(refused.split()), sum(bytearray(b"\x01" * 10**6)), os.read(held, 1)

    assert in_fork(work) == str(({"PermissionError"}, 10**6, b""))
    os.close(held)


def answer_of(program, machine, call):
    """The filter's answer to a system call, by the rules of the kernel's filter language."""
    step, value = 0, None
    while True:
        what, equal, other, number = program[step]
        if what == 0x20:
            value = {0: call, 4: machine}[number]
        elif what == 0x15:
            step += equal if value == number else other
        else:
            assert what == 0x06
            return number
        step += 1


@pytest.mark.parametrize("machine, architecture", [("x86_64", 62 | 0xC0000000), ("aarch64", 183 | 0xC0000000)])
def test_the_filter_of_seccomp_lets_through_exactly_the_listed_calls(machine, architecture, monkeypatch):
    programs = []

    def call(function, *arguments):
        assert (function, *arguments[:2]) == ("prctl", 22, 2)
        length, address = struct.unpack("@HP", arguments[2])
        lines = ctypes.string_at(address, 8 * length)
        programs.append([struct.unpack_from("=HBBI", lines, 8 * i) for i in range(length)])

    monkeypatch.setattr(layers, "_call", call)
    monkeypatch.setattr(layers.platform, "machine", lambda: machine)
    layers.seccomp()
    listed = {int(n) for n in layers.SYSTEM_CALLS[machine][1].split()}
    assert len(listed) == 23
    for number in [*range(600), 0x40000000, 0x40000001, 2**32 - 1]:  # x32 counts from 2 ** 30
        expected = 0x7FFF0000 if number in listed else 0x00050001  # allowed, or the error "not permitted" (1)
        assert answer_of(programs[0], architecture, number) == expected, number
    for other in (0x40000003, 0, 62, architecture ^ 1):
        assert {answer_of(programs[0], other, n) for n in (*listed, 2, 500)} == {0x80000000}  # killed


def test_the_two_machines_name_the_same_system_calls():
    x86 = "read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn mremap madvise getpid "
    x86 += "exit exit_group futex getrandom clock_gettime clock_nanosleep restart_syscall sigaltstack"
    numbers = {name: [calls.split()[i] for _, calls in layers.SYSTEM_CALLS.values()] for i, name in enumerate(x86.split())}
    # from the headers of Linux (asm/unistd_64.h, asm-generic/unistd.h)
    assert numbers["read"] == ["0", "63"] and numbers["mmap"] == ["9", "222"] and numbers["exit_group"] == ["231", "94"]
    assert numbers["getrandom"] == ["318", "278"] and numbers["clock_nanosleep"] == ["230", "115"]
    assert numbers["rt_sigreturn"] == ["15", "139"] and numbers["sigaltstack"] == ["131", "132"]


def test_seccomp_on_an_unknown_machine_counts_as_missing(monkeypatch):
    monkeypatch.setattr(layers.platform, "machine", lambda: "mips")
    assert layers.failing({"seccomp": layers.seccomp}) == ["seccomp"]


def test_a_missing_function_of_the_system_counts_as_missing(monkeypatch):
    """As on macOS: no unshare, no prctl, no chroot without being root."""
    monkeypatch.setattr(layers.ctypes, "CDLL", lambda *_, **__: object())
    needing = {name: getattr(layers, name) for name in ("namespaces", "no_privileges", "landlock", "seccomp")}
    assert layers.failing(needing) == list(needing)


def test_a_call_that_the_kernel_refuses_counts_as_missing_with_the_kernels_reason():
    with pytest.raises(OSError, match="Invalid argument"):
        layers._call("prctl", 22, 99, 0, 0, 0)
    assert layers._call("prctl", 39, 0, 0, 0, 0) in (0, 1)


def test_failing_tries_every_layer_and_names_those_that_fail_in_order():
    tried = []

    def layer(name, error=None):
        def apply():
            tried.append(name)
            if error:
                raise error

        return apply

    kinds = [OSError(1, "no"), AttributeError("no"), ImportError("no"), KeyError("no"), ValueError("no")]
    table = {"first": layer("first")} | {f"l{i}": layer(f"l{i}", e) for i, e in enumerate(kinds)} | {"last": layer("last")}
    assert layers.failing(table) == ["l0", "l1", "l2", "l3", "l4"]
    assert tried == list(table)
    assert layers.failing({}) == []
    with pytest.raises(TypeError):  # a mistake in a layer is no missing layer
        layers.failing({"wrong": layer("wrong", TypeError("no"))})
