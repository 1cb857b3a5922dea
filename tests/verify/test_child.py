"""The child process that answers line by line: time limit, death, restart."""

import subprocess
import sys
import time

import pytest

from minisw.verify import child
from minisw.verify.child import Child

# Answers with its process id and the request; sleeps, dies, or prints nothing on demand.
PROGRAM = """
import os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "hang":
        time.sleep(60)
    if word == "die":
        os._exit(3)
    print(os.getpid(), word, flush=True)
"""


@pytest.fixture
def echo():
    process = Child((sys.executable, "-c", PROGRAM), seconds=1.0)
    yield process
    process.close()


def pid_of(answer):
    return int(answer.split()[0])


def test_every_request_gets_its_own_answer_from_one_process(echo):
    answers = [echo.ask(word) for word in ("one", "two", "ünï")]
    assert [a.split()[1] for a in answers] == ["one", "two", "ünï"]
    assert len({pid_of(a) for a in answers}) == 1


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_killed_and_another_started(echo):
    first = pid_of(echo.ask("one"))
    begin = time.monotonic()
    assert echo.ask("hang") is None and 0.9 < time.monotonic() - begin < 10
    second = echo.ask("two")  # no late answer to the request before
    assert second.split()[1] == "two" and pid_of(second) != first


def test_a_child_that_dies_over_a_request_is_noticed_at_once(echo):
    echo.seconds = 30.0
    first = pid_of(echo.ask("one"))
    begin = time.monotonic()
    assert echo.ask("die") is None and time.monotonic() - begin < 10
    assert pid_of(echo.ask("two")) != first


def test_a_child_that_died_between_requests_is_replaced(echo):
    first = pid_of(echo.ask("one"))
    echo._process.kill()
    echo._process.wait()
    assert echo.ask("two").split()[1] == "two" and pid_of(echo.ask("three")) != first


def test_a_closed_child_is_gone_and_can_be_asked_again(echo):
    echo.ask("one")
    process = echo._process
    echo.close()
    assert process.poll() is not None
    assert echo.ask("two").split()[1] == "two"


def test_a_request_is_one_line(echo):
    with pytest.raises(ValueError, match="must be one line"):
        echo.ask("one\ntwo")


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "raise SystemExit(1)"])
def test_a_child_that_does_not_start_is_an_error(program, monkeypatch):
    monkeypatch.setattr(child, "START_SECONDS", 0.5)
    process = Child((sys.executable, "-c", program), seconds=1.0)
    with pytest.raises(RuntimeError, match="did not start"):
        process.ask("one")
    assert process._process is None


def test_a_child_finds_this_package_from_any_folder(tmp_path):
    code = (
        "import sys; from minisw.verify.child import Child; "
        "program = 'import minisw; print(1, flush=True); [print(2, flush=True) for line in sys.stdin]'; "
        "print(Child((sys.executable, '-c', 'import sys; ' + program), 5.0).ask('x'))"
    )
    import minisw

    folder = minisw.__path__[0].rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); " + code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "2", done.stderr


def test_a_child_sees_the_given_environment_and_no_other_variable(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    program = "import os; print('ready', flush=True); input(); print(*sorted(os.environ), os.environ.get('A'))"
    seen = {}
    for environment in ({}, {"A": "1"}, None):
        process = Child((sys.executable, "-c", program), 30.0, environment=environment)
        seen[str(environment)] = process.ask("x").split()
        process.close()
    assert "SECRET_KEY" not in seen["{}"] and "PYTHONPATH" not in seen["{}"] and seen["{}"][-1] == "None"
    assert "SECRET_KEY" not in seen["{'A': '1'}"] and seen["{'A': '1'}"][-1] == "1"
    assert {"SECRET_KEY", "PYTHONPATH", "PATH"} <= set(seen["None"])
