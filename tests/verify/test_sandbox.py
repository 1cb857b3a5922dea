"""Hostile code: each way out ends in one plain line "check failed: ...", and the next check is not affected."""

import importlib.util
import json
import os
import signal
import sys
import time

import pytest

from minisw.verify import layers, sandbox
from minisw.verify.child import Child
from minisw.verify.sandbox import Limits, Output, SandboxMissing, run_checks, run_code

pytest.importorskip("resource")  # not on Windows; loaded here, because a fork that is another user may not be able to

HERE = os.path.abspath(__file__)
# The attacker has the C library. An attack that works ends without an exception, and then its test fails.
PRELUDE = f"""
import ctypes, os, random, sys, time
libc = ctypes.CDLL(None, use_errno=True)
HERE = {HERE!r}
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""

ATTACKS = {
    # reading
    "open a file": "open('/etc/passwd').read()",
    "open the repository": "open(HERE).read()",
    "open with the C library": "must(libc.open(b'/etc/passwd', 0))",
    "open relative to the top": "must(libc.openat(-100, b'../../../../etc/passwd', 0))",
    "list the root": "os.listdir('/')",
    "look at a file": "os.stat('/etc/passwd')",
    "follow a link of /proc": "os.readlink('/proc/self/exe')",
    "environment of the worker": "open('/proc/1/environ').read()",
    "memory of the worker": "open('/proc/1/mem', 'rb').read(1)",
    "memory by system call": "must(libc.process_vm_readv(1, None, 0, None, 0, 0))",
    "the working directory": "os.getcwd()",
    "import from the repository": "from minisw.engine import model",
    "import from the disk": "import socket",
    "read the request pipe": "os.read(0, 1)",
    "read another descriptor": "[os.read(fd, 1) for fd in range(3, 64)]",
    # writing
    "write a file here": "open('x', 'w')",
    "write a file in /tmp": "open('/tmp/sandbox-broken', 'w')",
    "make a folder": "os.mkdir('/tmp/sandbox-broken')",
    "make a symbolic link": "os.symlink('/etc', 'etc'); os.listdir('etc')",
    "make a hard link": "os.link('/etc/passwd', 'passwd')",
    "make a pipe with a name": "os.mkfifo('/tmp/sandbox-broken')",
    "rename": "os.rename('/tmp', '/tmp2')",
    "delete": "os.unlink(HERE + '.no')",
    "change a mode": "must(libc.chmod(HERE.encode(), 0o644))",
    "change times": "os.utime(HERE)",
    "file in memory": "os.memfd_create('x')",
    "the parent's pipe": "[os.write(fd, b'{}\\n') for fd in range(3, 256)]",
    "duplicate a descriptor": "os.dup(1)",
    "new pipe": "os.pipe()",
    # network
    "internet socket": "must(libc.socket(2, 1, 0))",
    "unix socket": "must(libc.socket(1, 1, 0))",
    "netlink socket": "must(libc.socket(16, 3, 0))",
    "pair of sockets": "must(libc.socketpair(1, 1, 0, (ctypes.c_int * 2)()))",
    # processes
    "fork": "os.fork() or os._exit(0)",
    "fork with the C library": "libc.fork.restype = int; must(libc.fork() or os._exit(0))",
    "run a program": "os.execv('/bin/true', ['true'])",
    "shell": "must(-os.system('true'))",
    "thread": "import _thread; _thread.start_new_thread(print, ())",
    "signal to the worker": "os.kill(1, 0)",
    "trace the worker": "must(libc.ptrace(16, 1, 0, 0))",
    "limits of the worker": "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))",
    "its own limits": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "priority": "must(libc.setpriority(0, 0, -5))",
    "handle of a process": "must(libc.syscall(434, 1, 0))",
    # privileges and the rest of the kernel
    "become root": "os.setuid(0)",
    "new namespaces": "must(libc.unshare(0x10000000))",
    "enter a namespace": "must(libc.setns(0, 0))",
    "new root": "os.chroot('/')",
    "mount": "must(libc.mount(b'proc', b'/', b'proc', 0, None))",
    "host name": "must(libc.sethostname(b'broken', 6))",
    "shared memory": "must(libc.shmget(0, 4096, 0o1600))",
    "message queue": "must(libc.msgget(0, 0o1600))",
    "io_uring": "must(libc.syscall(425, 1, None))",
    "performance counters": "must(libc.perf_event_open(0)) if hasattr(libc, 'perf_event_open') else must(-1)",
    # memory
    "memory bomb": "bytearray(2 * 10**9)",
    "many small objects": "x = [[]]\nwhile True:\n    x.append([x[-1]] * 10**6)",
    "memory of the C library": "must(libc.sbrk(ctypes.c_long(1 << 31)))",
    "memory locked": "must(libc.mlockall(3))",
    # output
    "giant output": "print('x' * 10**6)",
    "endless output": "while True: print('x')",
    "output past Python": "while True: os.write(1, b'x' * 1000)",
    "giant error": "while True: os.write(2, b'x' * 1000)",
    "giant exception": "raise ValueError('x' * 10**7)",
    "input": "input()",
    # crashes and the interpreter
    "bad pointer": "ctypes.string_at(0)",
    "abort": "libc.abort()",
    "endless recursion": "def f(): f()\nf()",
    "deep brackets": "eval('(' * 10**5)",
    "exit": "sys.exit(0)",
    "hostile exception": "class E(BaseException):\n    def __str__(self): raise self\nraise E",
    "interrupt": "raise KeyboardInterrupt",
    "null byte": "\0",
    "surrogate": "'\ud800'",
    "not Python": "import",
    "back into the loop of the worker": "os._exit = lambda status: None; raise ValueError",
    "frames": "f = sys._getframe()\nwhile f: f.f_locals.update(missing=[]); last, f = f, f.f_back\nlast.f_locals['no']",
    "subclasses": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['true'])",
    "builtins of the worker": "sys.modules['builtins'].exec = None; sys.modules['json'].dumps = None; raise ValueError",
}

ENDLESS = {
    "loop": "while True: pass",
    "loop that catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleep": "time.sleep(60)",
    "a long sum": "sum(range(10**12))",
    "a long power": "10 ** 10 ** 9",
    "a regular expression": "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
    "signals ignored": "import signal\nfor s in (2, 15, 24): libc.signal(s, 1)\nwhile True: pass",
    "a trickle of output": "while True:\n    print(end='x', flush=True); time.sleep(0.05)",
}


@pytest.fixture(scope="module")
def worker():
    """One closed worker for many checks; it lacks what this machine lacks."""
    worker = sandbox._worker(Limits(megabytes=150), unsafe=True, sympy=False)
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def hurried():
    worker = sandbox._worker(Limits(seconds=0.3), unsafe=True, sympy=False)
    yield worker
    worker.close()


def needs_all_layers():
    if missing := sandbox.missing_layers():
        pytest.skip(f"this machine lacks {', '.join(missing)}")


def run(worker, code):
    return sandbox._ask(worker, code, strict=False)


def check(worker, code):
    return sandbox._ask(worker, code, strict=True)


def assert_failed(output):
    assert not output.ok
    assert output.error.startswith("check failed: ") and len(output.error) > len("check failed: ")
    assert output.error.isprintable() and len(output.error) <= 220  # one line
    assert len(output.text) <= 4096


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_way_out_ends_in_check_failed_and_the_worker_goes_on(worker, attack):
    needs_all_layers()
    assert run(worker, PRELUDE).ok
    process = worker._process.pid
    assert_failed(run(worker, PRELUDE + attack))
    assert check(worker, "print(652 // 2)") == Output("326\n", True, "")
    assert worker._process.pid == process
    assert not os.path.exists("/tmp/sandbox-broken")


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_code_without_an_end_is_stopped_at_the_limit(hurried, code):
    assert check(hurried, "print(1)").ok
    start = time.monotonic()
    output = run(hurried, PRELUDE + code)
    assert_failed(output)
    assert output.error == "check failed: it took more than 0.3 s"
    assert time.monotonic() - start >= 0.3
    assert check(hurried, "print(2)") == Output("2\n", True, "")


STRICT = {
    "import os": ("import os", "import of os is not allowed"),
    "open": ("open('/etc/passwd')", "name 'open' is not defined"),
    "subclasses": ("().__class__.__base__.__subclasses__()", "the attribute __subclasses__ is not allowed"),
    "module of a module": ("import fractions\nfractions.sys.exit()", "no attribute 'sys'"),
    "too long": ("x = 1\n" * 1000, "longer than 4000 characters"),
    "wrong sum": ("assert 2 + 2 == 5, 'not equal'", "AssertionError: not equal"),
    "division by zero": ("print(1)\n1 / 0", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("code, reason", STRICT.values(), ids=STRICT)
def test_a_check_that_the_whitelist_refuses_or_that_fails_says_why(worker, code, reason):
    output = check(worker, code)
    assert_failed(output)
    assert reason in output.error
    assert output.text == ("1\n" if code.startswith("print(1)") else "")


def test_only_checks_must_pass_the_whitelist(worker):
    code = "import json\nprint(json.dumps(list({1: 2}.items())))"
    assert not check(worker, code).ok
    assert run(worker, code) == Output("[[1, 2]]\n", True, "")


def test_a_check_sees_nothing_of_this_process(worker, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with open(tmp_path / "secret", "w+b") as secret:
        os.set_inheritable(secret.fileno(), True)
        fresh = sandbox._worker(Limits(), unsafe=True, sympy=False)
        code = f"import os, sys\nprint('SECRET_KEY' in os.environ, os.path.dirname({HERE!r}) in sys.path)\n"
        code += f"try:\n    os.read({secret.fileno()}, 1)\nexcept OSError as error:\n    print(error.errno)"
        try:
            assert run(fresh, code).text == "False False\n9\n"
        finally:
            fresh.close()


def test_one_check_leaves_nothing_to_the_next(worker):
    code = "import random, sys\nprint(random.random(), hasattr(sys, 'mark'))\nsys.mark = 1\nrandom.seed(5)"
    first = run(worker, code)
    assert first.ok and first == run(worker, code)
    assert not check(worker, "x = 1\ny = 2\nprint(undefined)").ok
    assert "NameError" in check(worker, "print(x)").error


def test_every_worker_gives_the_same_random_numbers_and_the_same_order_of_a_set(worker, hurried):
    code = "import random\nprint(random.random(), {'a', 'b', 'c', 'd', 'e', 'f'}, list({str(i) for i in range(30)}))"
    assert check(worker, code) == check(hurried, code) and check(worker, code).ok


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_output_of_exactly_the_limit_is_whole_and_one_byte_more_is_cut(limit):
    def forked(size):
        return sandbox._forked(lambda: print("a" * size, end=""), Limits(output_bytes=limit))

    assert forked(limit) == ("a" * limit, "")
    assert forked(limit - 1) == ("a" * (limit - 1), "")
    for size in (limit + 1, limit + 2, 10**6):
        assert forked(size) == ("a" * limit, f"check failed: it printed more than {limit} bytes")


def test_output_that_is_not_text_is_made_text():
    def write(data):
        return sandbox._forked(lambda: os.write(1, data) and None, Limits(output_bytes=4))

    assert write("é".encode() + b"\xff") == ("é\ufffd", "")
    assert write(("é" * 3).encode()) == ("éé", "check failed: it printed more than 4 bytes")
    assert write(("aé" * 3).encode()) == ("aéa", "check failed: it printed more than 4 bytes")
    assert sandbox._forked(lambda: print("\ud800é"), Limits()) == ("\\ud800é\n", "")


def test_the_error_is_one_line_of_at_most_200_characters():
    def fail(message):
        def work():
            raise ValueError(message)

        return sandbox._forked(work, Limits())[1]

    assert fail("two\nlines\t\x1b[31m") == "check failed: ValueError: two lines  [31m"
    assert fail("x" * 5000) == "check failed: " + ("ValueError: " + "x" * 5000)[:200]
    assert fail("é" * 10) == "check failed: ValueError: " + "é" * 10
    assert fail("é" * 5000).startswith("check failed: ValueError: ééé")


def test_text_on_stderr_is_no_failure_and_not_part_of_the_output():
    assert sandbox._forked(lambda: os.write(2, b"warning") and print("1"), Limits()) == ("1\n", "")


def test_a_fork_that_dies_without_a_word_has_failed():
    for work in (lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGSEGV), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert sandbox._forked(work, Limits()) == ("", "check failed: it crashed, or was killed for its memory or time")


def test_what_was_printed_before_a_failure_is_kept():
    def work():
        print("before")
        raise SystemExit("stop")

    assert sandbox._forked(work, Limits()) == ("before\n", "check failed: SystemExit: stop")


def test_a_fork_that_closes_its_output_and_goes_on_is_killed_at_once():
    def work():
        os.close(1)
        os.close(2)
        time.sleep(60)

    start = time.monotonic()
    assert sandbox._forked(work, Limits(seconds=30))[1] == "check failed: it crashed, or was killed for its memory or time"
    assert time.monotonic() - start < 20


def test_a_fork_holds_no_descriptor_but_its_two_pipes_and_leaves_none_here():
    held = os.open(os.devnull, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None

    def work():
        for fd in range(256):
            try:
                os.fstat(fd)
                print(fd)
            except OSError:
                pass

    assert sandbox._forked(work, Limits())[0].split() == ["1", "2"]
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before
    os.close(held)


def test_no_fork_is_left_behind():
    children = [sandbox._forked(lambda: print(os.getpid()), Limits())[0] for _ in range(3)]
    children += [sandbox._forked(lambda: print(os.getpid()) or time.sleep(60), Limits(seconds=0.1))[0]]
    for pid in map(int, children):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# ---- Where layers are missing


def serve(patches, requests, unsafe, user=None):
    """The answers of a worker in which some layers are replaced; it is a fork of this process, of another user if asked."""
    read, write = os.pipe()
    answers, answers_end = os.pipe()
    if not (pid := os.fork()):
        try:
            os.dup2(read, 0)
            os.dup2(answers_end, 1)
            os.closerange(3, 256)
            sys.stdin, sys.stdout = open(0), open(1, "w", closefd=False)  # noqa: SIM115
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            for name, layer in patches.items():
                setattr(layers, name, layer)
            sandbox._load = lambda site: __import__("resource")  # this process has a lot of modules already
            sandbox._serve(Limits(megabytes=1 << 20), unsafe, None)
        finally:
            os._exit(1)
    os.close(read)
    os.close(answers_end)
    os.write(write, "".join(json.dumps(r) + "\n" for r in requests).encode())
    os.close(write)
    with open(answers) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(pid, 0)
    assert lines[0] == "ready"
    return [json.loads(line) for line in lines[1:]]


def lacking(*_):
    raise OSError(38, "Function not implemented")


LAYERS = {
    "ordinary_user": "ordinary user",
    "namespaces": "namespaces",
    "empty_root": "empty root",
    "no_privileges": "no privileges",
    "landlock": "Landlock",
    "limits": "limits",
    "seccomp": "seccomp",
}


@pytest.mark.parametrize("function", LAYERS)
def test_a_worker_without_one_layer_names_it_and_runs_nothing_unless_told_to(function):
    requests = [["print(1)", True], ["print(2)", False]]
    refused = serve({function: lacking}, requests, unsafe=False)
    assert len(refused) == 2
    for answer in refused:
        assert LAYERS[function] in answer["missing"]
        assert answer["text"] == "" and answer["error"].startswith("check failed: this machine lacks ")
        assert LAYERS[function] in answer["error"]
    (done,) = serve({function: lacking}, requests[:1], unsafe=True)
    assert done == {"text": "1\n", "error": "", "missing": refused[0]["missing"]}


def test_a_worker_with_all_layers_misses_none_of_them():
    needs_all_layers()
    for unsafe in (False, True):
        (answer,) = serve({}, [["print(1)", True]], unsafe)
        assert answer == {"text": "1\n", "error": "", "missing": []}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become others; without root every test here is of an ordinary user")
def test_an_ordinary_user_contains_code_with_the_same_layers():
    needs_all_layers()
    attacks = [
        f"open({HERE!r})",
        "open('x', 'w')",
        "import os\nos.fork()",
        "import os\nos.kill(1, 0)",
        "import os\nos.listdir('/')",
    ]
    good, *bad = serve({}, [["print(652 // 2)", True], *([attack, False] for attack in attacks)], unsafe=False, user=12345)
    assert good == {"text": "326\n", "error": "", "missing": []}
    assert len(bad) == 5 and all(a["error"].startswith("check failed: ") and a["missing"] == [] for a in bad)


@pytest.mark.parametrize("function", ["landlock", "limits", "seccomp"])
def test_without_one_layer_the_others_still_refuse_files_and_processes(function):
    needs_all_layers()
    attacks = ["open('/etc/passwd')", "import os\nos.fork()"]
    answers = serve({function: lacking}, [[attack, False] for attack in attacks], unsafe=True)
    assert [a["missing"] for a in answers] == [[LAYERS[function]]] * 2
    assert all(a["error"].startswith("check failed: ") for a in answers)


def test_no_signal_of_a_check_ends_its_worker_even_without_seccomp():
    needs_all_layers()
    signals = "import os\nfor s in (2, 1, 3, 15, 10, 9, 19):\n    os.kill(1, s)\nprint('sent')"
    answers = serve({"seccomp": lambda: None}, [[signals, False], ["print(1)", True]], unsafe=True)
    assert [(a["text"], a["error"]) for a in answers] == [("sent\n", ""), ("1\n", "")]


def test_a_layer_that_fails_only_in_the_fork_of_a_check_stops_that_check():
    inner = {"limits": lacking, "seccomp": lambda: None}
    for missing, answer in (([], ("", "check failed: SandboxMissing: limits")), (["limits"], ("1\n", ""))):
        assert sandbox._forked(lambda m=missing: sandbox._run("print(1)", True, inner, m), Limits()) == answer


def test_layers_that_kill_the_trial_count_as_missing():
    answers = serve({"seccomp": lambda: os.kill(os.getpid(), signal.SIGKILL)}, [["print(1)", True]], unsafe=False)
    assert answers[0]["missing"][-2:] == ["limits", "seccomp"] and answers[0]["error"]


@pytest.mark.parametrize("call", [lambda **k: run_code("print(1)", **k), lambda **k: run_checks(["print(1)"], **k)])
def test_without_a_layer_nothing_is_run_unless_told_to(call, monkeypatch):
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ("Landlock", "seccomp"))
    monkeypatch.setattr(sandbox, "_ask", lambda *_, **__: Output("ran", True, ""))
    with pytest.raises(SandboxMissing, match="lacks: Landlock, seccomp"):
        call()
    done = call(unsafe=True)
    assert done in (Output("ran", True, ""), [Output("ran", True, "")])
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ())
    assert call() == done


def test_without_fork_even_unsafe_runs_nothing(monkeypatch):
    monkeypatch.delattr(sandbox.os, "fork")
    monkeypatch.setattr(sandbox, "_missing_layers", sandbox._missing_layers.__wrapped__)
    assert sandbox.missing_layers() == ["fork"]
    for unsafe in (False, True):
        with pytest.raises(SandboxMissing, match="fork"):
            run_code("print(1)", unsafe=unsafe)
        with pytest.raises(SandboxMissing, match="fork"):
            run_checks([], unsafe=unsafe)


class Answering:
    """In place of a child process: gives one answer to every request."""

    def __init__(self, answer):
        self.answer, self.requests, self.closed = answer, [], 0

    def ask(self, request):
        self.requests.append(json.loads(request))
        return self.answer

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    "answer, missing",
    [
        ('{"text": "", "error": "", "missing": []}', []),
        ('{"text": "", "error": "", "missing": ["Landlock", "seccomp"]}', ["Landlock", "seccomp"]),
        (None, ["a process that answers"]),
    ],
)
def test_missing_layers_are_those_that_a_worker_reports(answer, missing, monkeypatch):
    child, made = Answering(answer), []
    monkeypatch.setattr(sandbox, "_worker", lambda *arguments, **named: made.append((arguments, named)) or child)
    monkeypatch.setattr(sandbox, "_missing_layers", sandbox._missing_layers.__wrapped__)
    assert sandbox.missing_layers() == missing
    assert made == [((Limits(),), {"unsafe": True, "sympy": False})]  # it must answer even where layers are missing
    assert child.requests == [["", False]] and child.closed == 1


def test_the_list_of_missing_layers_is_the_callers_own(monkeypatch):
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ("seccomp",))
    sandbox.missing_layers().clear()
    assert sandbox.missing_layers() == ["seccomp"]


# ---- This process's side


@pytest.mark.parametrize("code, sympy", [("print(1)", False), ("import sympy", True)])
def test_a_single_code_has_a_process_of_its_own_that_is_ended(code, sympy, monkeypatch):
    made = []

    def worker(limits, unsafe, sympy):
        made.append((Answering('{"text": "1", "error": "", "missing": []}'), limits, unsafe, sympy))
        return made[-1][0]

    monkeypatch.setattr(sandbox, "_worker", worker)
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ())
    limits = Limits(seconds=1.5)
    assert run_code(code, limits) == run_code(code, limits) == Output("1", True, "")
    assert [m[1:] for m in made] == [(limits, False, sympy)] * 2
    assert [m[0].requests for m in made] == [[[code, False]]] * 2 and [m[0].closed for m in made] == [1, 1]
    made.clear()
    monkeypatch.setattr(sandbox, "_ask", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_code(code)
    assert made[0][0].closed == 1


def test_run_code_gives_the_output_of_a_real_process():
    if missing := sandbox.missing_layers():
        with pytest.raises(SandboxMissing):
            run_code("print(1)")
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    assert run_code("import math\nprint(math.comb(5, 2))") == Output("10\n", True, "")


def test_checks_come_back_in_order_from_few_processes_that_stay(monkeypatch):
    made = []

    def worker(limits, unsafe, sympy):
        made.append(sandbox_worker(limits, True, sympy))
        return made[-1]

    sandbox_worker = sandbox._worker
    monkeypatch.setattr(sandbox, "_worker", worker)
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ())
    sandbox._idle_workers.cache_clear()
    try:
        outputs = run_checks([f"print({i} // 2)" for i in range(12)])
        assert [o.text for o in outputs] == [f"{i // 2}\n" for i in range(12)] and all(o.ok for o in outputs)
        assert len(made) == sandbox.WORKERS == 2
        started = {w._process.pid for w in made if w._process}
        assert run_checks(["1 / 0", "print(7)"])[1].text == "7\n"
        assert {w._process.pid for w in made if w._process} >= started and len(made) == 2
        assert run_checks([]) == []
    finally:
        for child in made:
            child.close()
        sandbox._idle_workers.cache_clear()


def test_checks_one_after_another_need_one_process_and_other_limits_others(monkeypatch):
    made = []

    def worker(limits, unsafe, sympy):
        made.append((Answering('{"text": "", "error": "check failed: x", "missing": []}'), limits, unsafe, sympy))
        return made[-1][0]

    monkeypatch.setattr(sandbox, "_worker", worker)
    monkeypatch.setattr(sandbox, "_missing_layers", lambda: ())
    sandbox._idle_workers.cache_clear()
    try:
        for i in range(3):
            assert run_checks([f"print({i})"]) == [Output("", False, "check failed: x")]
        assert sorted(len(m[0].requests) for m in made) == [0, 3]
        assert [r for m in made for r in m[0].requests] == [[f"print({i})", True] for i in range(3)]
        run_checks(["import sympy"], Limits(seconds=1), unsafe=True)
        assert [m[1:] for m in made] == [(Limits(), False, False)] * 2 + [(Limits(seconds=1), True, True)] * 2
        monkeypatch.setattr(sandbox, "_ask", lambda *_, **__: 1 / 0)
        for _ in range(3):  # a worker comes back whatever happens
            with pytest.raises(ZeroDivisionError):
                run_checks(["print(1)"])
        assert not any(m[0].closed for m in made)
    finally:
        sandbox._idle_workers.cache_clear()


def test_a_worker_that_dies_or_hangs_fails_its_check_only():
    program = "import sys, time\nprint('ready', flush=True)\nfor line in sys.stdin:\n"
    program += "    if 'hang' in line: time.sleep(60)\n    if 'die' in line: sys.exit()\n"
    program += '    print(\'{"text": "1", "error": ""}\', flush=True)'
    child = Child((sys.executable, "-S", "-c", program), 0.3, environment={})
    for bad in ("hang", "die"):
        assert run(child, bad) == Output("", False, "check failed: its process ended")
        assert child._process is None
    child.close()
    assert sandbox._worker(Limits(seconds=2), False, False).seconds == 2 + sandbox.SPARE_SECONDS


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sympy") is None, reason="needs sympy")
def test_the_usual_calls_of_sympy_work_though_nothing_can_be_loaded():
    worker = sandbox._worker(Limits(seconds=60), unsafe=True, sympy=True)
    code = """
from sympy import *
x, y, k, n = symbols('x y k n')
f = Function('f')
print(solve(x**2 - 5*x + 6), solve([x + y - 3, x - y - 1], [x, y]), simplify((x**2 - 1)/(x - 1)), factor(x**2 - 1))
print(expand((x + 1)**2), integrate(x**2, x), diff(sin(x)), limit(sin(x)/x, x, 0), summation(k, (k, 1, n)), N(sqrt(2), 5))
print(factorint(60), isprime(7), Matrix([[1, 2], [3, 4]]).inv(), solveset(x**2 - 1, x), Rational(1, 3) + 1, dsolve(f(x).diff(x)))
print(series(exp(x), x, 0, 3), roots(x**2 - 1), integrate(x*exp(x), x), latex(x/2), nsimplify(0.5), Mod(7, 3))
"""
    try:
        output = check(worker, code)
        assert output.error == "" and output.text.startswith("[2, 3] {x: 2, y: 1} x + 1 (x - 1)*(x + 1)\n")
        assert not check(worker, 'import sympy\nsympy.sympify(\'__import__("os").listdir("/")\')').ok  # it evaluates strings
        assert check(worker, "import sympy\nprint(sympy.gcd(12, 18))") == Output("6\n", True, "")
    finally:
        worker.close()


def test_without_sympy_a_check_that_imports_it_fails(worker):
    assert "there is no module sympy" in check(worker, "import sympy").error
    assert "sympy" not in sandbox._worker(Limits(), False, False).command[-1]


def test_the_package_where_sympy_lies_is_given_only_if_it_is_installed(monkeypatch):
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", lambda name: None)
    assert "site=None" in sandbox._worker(Limits(), False, True).command[-1]


def test_limits_are_checked_by_the_clock_even_while_output_comes():
    pipe, end = os.pipe()
    os.write(end, b"abc")
    assert sandbox._read({pipe: 10}, 0.0) == ({pipe: b""}, "it took more than 0 s")
    assert sandbox._read({pipe: 10}, 0.05) == ({pipe: b"abc"}, "it took more than 0.05 s")
    os.write(end, b"de")
    os.close(end)
    assert sandbox._read({pipe: 2}, 5.0) == ({pipe: b"de"}, "")
    os.close(pipe)
    assert layers.failing({}) == []
