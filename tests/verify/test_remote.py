"""Calls of untrusted functions: values, callbacks, tensors, failures, and restarts."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minisw import records
from minisw.records import Solution
from minisw.verify import remote, wire
from minisw.verify.remote import Failure, Worker, plain
from minisw.verify.sandbox import missing_layers

if missing_layers():
    pytest.skip(f"this machine cannot contain code: {missing_layers()}", allow_module_level=True)

pytestmark = pytest.mark.slow  # together a quarter of a minute: they start many worker processes
RECORDS = {"minisw": "", "minisw.records": Path(records.__file__).read_text(encoding="utf-8")}

CODE = """
import os, sys, time
from minisw.records import Solution

def echo(*args, **kwargs):
    return [list(args), kwargs]

def twice(f, x):
    return f(f(x))

def text(solution):
    return [type(solution).__name__, solution.text, isinstance(solution, Solution)]

def loops():
    while True: pass

def dies():
    os._exit(1)

def memory():
    return [bytes(1 << 24) for _ in range(100)]

def pid():
    return os.getpid()

def environment():
    return sorted(os.environ)

count = 0
def counted():
    global count
    count += 1
    return count
"""


@pytest.fixture(scope="module")
def worker():
    with contextlib.closing(Worker(RECORDS, [])) as worker:
        yield worker


@pytest.fixture()
def call(worker):
    worker.load(CODE)
    yield lambda name, *args, seconds=10.0, **kwargs: worker.call(name, args, kwargs, seconds)
    worker.end()


def test_values_arrive_as_they_were_sent(call):
    values = [None, True, 3, -0.5, "ü\n\0", [1, [2]], (1, (2,)), {"a": [1], 2: (3,)}, float("inf"), 1 << 60]
    assert call("echo", *values, key=(1,)) == [values, {"key": (1,)}]


def test_functions_among_the_arguments_run_in_the_grader(call):
    pids = []

    def f(x):
        pids.append(os.getpid())
        return x * 2 + 1

    assert call("twice", f, 3) == 15 and pids == [os.getpid()] * 2


def test_an_exception_of_a_callback_is_the_graders(call):
    def f(x):
        raise AssertionError("asked twice")

    with pytest.raises(AssertionError, match="asked twice"):
        call("twice", f, 3)


def test_time_spent_in_callbacks_does_not_count(call):
    assert call("twice", lambda x: time.sleep(0.6) or x, 3, seconds=1.0) == 3


def test_records_are_records_of_the_submission(call):
    assert call("text", Solution("p", ("a", "b"), None, True)) == ["Solution", "ab", True]


def test_the_environment_is_empty_but_for_threads(call):
    assert set(call("environment")) <= {"PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LC_CTYPE"} | {
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "LRU_CACHE_CAPACITY",
    }


@pytest.mark.parametrize(
    "name,status,sentence",
    [
        ("loops", "time", "it took too long"),
        ("dies", "died", "the process ended during the call"),
        ("memory", "memory", "MemoryError (line 21 of student.py)"),
        ("nothing", "not_implemented", "NotImplementedError: there is no function nothing"),
    ],
)
def test_failures(worker, call, name, status, sentence):
    with pytest.raises(Failure) as failure:
        call(name, seconds=1.0)
    assert (failure.value.status, str(failure.value)) == (status, sentence)
    assert failure.value.ends_part is (status != "not_implemented")


def test_a_part_after_a_failure_is_a_new_process_and_nothing_stays(worker):
    worker.load(CODE)
    process = worker._process
    with pytest.raises(Failure):
        worker.call("dies", (), {}, 5.0)
    assert process.poll() is not None
    worker.load(CODE)
    assert worker.call("counted", (), {}, 5.0) == 1 and worker.call("counted", (), {}, 5.0) == 2
    worker.end()
    kept = worker._process
    worker.load(CODE)
    assert worker.call("counted", (), {}, 5.0) == 1 and worker._process is kept  # a fork, not a new worker
    worker.end()


def test_a_killed_worker_leaves_no_process(worker):
    worker.load(CODE)
    group = worker._process.pid
    with pytest.raises(Failure):
        worker.call("loops", (), {}, 0.5)
    wait_for_end(group)


def test_an_endless_call_ends_with_its_grader():
    """A grader that is killed cannot kill its worker."""
    code = (
        "from minisw.verify.remote import Worker\n"
        "worker = Worker({'minisw': ''}, [])\nworker.load('def f():\\n    while True: pass')\n"
        "print(worker._process.pid, flush=True)\nworker.call('f', (), {}, 100.0)"
    )
    grader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    group = int(grader.stdout.readline())
    time.sleep(0.2)
    grader.kill()
    grader.wait()
    grader.stdout.close()
    wait_for_end(group)


def wait_for_end(group: int) -> None:
    """AssertionError if a process of the group is left after some seconds."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process of the group is left")


def test_a_worker_that_cannot_start_is_said():
    broken = Worker({"minisw": "", "x": "raise ValueError"}, [])
    with pytest.raises(RuntimeError, match="the process for submissions does not start on this machine"):
        broken.load("")


def test_a_request_that_is_not_read_does_not_block(worker):
    worker.load("import os\ndef f(x): os._exit(0)")
    with pytest.raises(Failure):
        worker.call("f", ("x" * (8 << 20),), {}, 2.0)
    worker.load("import time\nprint = 0\ndef f(x): time.sleep(100)")
    begin = time.monotonic()
    with pytest.raises(Failure) as failure:
        worker.call("f", (1,), {}, 0.5)
    assert failure.value.status == "time" and time.monotonic() - begin < 5


def test_torch_is_seen_in_any_form_of_import():
    for text in ("import torch", "import os, torch.nn as nn", "from torch import nn", "def f():\n    from torch.nn import x"):
        assert remote._import({"a": "import os", "b": text}, "torch"), text
    for text in ("import torchvision", "from minisw import torch", "torch = 1", ""):
        assert not remote._import({"b": text}, "torch"), text


def test_numpy_is_there_where_the_package_needs_it():
    code = "def f(n):\n    import numpy as np\n    return float(np.percentile(np.random.default_rng(n).integers(3, 4, 9), 2.5))\n"
    with contextlib.closing(Worker({"m": "import numpy as np\n"}, [])) as worker:
        worker.load(code)
        assert worker.call("f", (0,), {}, 10.0) == 3.0
        with pytest.raises(Failure) as failure:
            worker.call("f", (-1,), {}, 10.0)
        assert failure.value.status == "exception"
        worker.end()
        worker.load("def g(megabytes): return len(bytes(megabytes << 20))")
        with pytest.raises(Failure) as failure:
            worker.call("g", (remote.MEGABYTES + 64,), {}, 10.0)  # importing numpy leaves room in the address space
        assert failure.value.status == "memory"
    with contextlib.closing(Worker({"m": ""}, [])) as worker:
        worker.load(code)
        with pytest.raises(Failure, match="No module named 'numpy'"):
            worker.call("f", (0,), {}, 10.0)


def test_memory_is_limited(worker):
    worker.load("def f(megabytes): return len(bytes(megabytes << 20))")
    assert worker.call("f", (300,), {}, 10.0) == 300 << 20
    with pytest.raises(Failure) as failure:
        worker.call("f", (remote.MEGABYTES,), {}, 10.0)
    assert failure.value.status == "memory"


def test_plain_sentences():
    assert plain("a\nb\x1b[31m" + "x" * 1000) == ("a b [31m" + "x" * 1000)[: remote.MAX_SENTENCE]


# --- frames ----------------------------------------------------------------------------------------------------------------


def reader(data: bytes):
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        position += count
        return data[position - count : position]

    return read


def frame(content: object, raw: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return wire.HEADER.pack(len(text), len(raw)) + text + raw


@pytest.mark.parametrize("content", [
    b"", b"{", b"[" * 100_000, 7, ["value"], ["value", {"record": ["os", "system", {}]}], ["value", {"callback": 0}],
    ["value", {"tuple": 1}], ["value", {"dict": [[[], 1]]}], ["value", {"a": 1, "b": 2}], ["value", {}],
    b"[\"value\", 1" + b"0" * 5000 + b"]",
])  # fmt: skip
def test_what_is_no_frame_is_unreadable(content):
    with pytest.raises(wire.Unreadable):
        wire.unpack(reader(frame(content)))


def test_sizes_are_checked_before_anything_is_read():
    asked = []

    def read(count):
        asked.append(count)
        return wire.HEADER.pack(wire.MAX_BYTES, 1)

    with pytest.raises(wire.Unreadable, match="larger than 16 MB"):
        wire.unpack(read)
    assert asked == [wire.HEADER.size]
    with pytest.raises(wire.Unreadable, match="larger than 16 MB"):
        wire.pack("value", "x" * wire.MAX_BYTES)


@dataclasses.dataclass(frozen=True)
class Other:
    x: int


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", lambda: 0, Other(1), 1j, iter([])])
def test_a_submission_cannot_send_other_types(value):
    with pytest.raises(wire.Unreadable, match=f"a value of the type {type(value).__name__} cannot be sent"):
        wire.pack("value", value)


@pytest.mark.slow
def test_tensors_travel_as_bytes():
    import torch

    tensors = [torch.randn(2, 3), torch.tensor([True, False]), torch.zeros(0, 4), torch.tensor(7), torch.randn(3, 2).T.double()]
    kind, got = wire.unpack(reader(wire.pack("value", tensors)))
    assert kind == "value" and all(a.dtype == b.dtype and a.equal(b) for a, b in zip(got, tensors, strict=True))
    with pytest.raises(wire.Unreadable, match="a tensor of bfloat16 cannot be sent"):
        wire.pack("value", torch.zeros(1, dtype=torch.bfloat16))
    assert wire.unpack(reader(frame(["value", {"tensor": ["int32", [1], 4]}], bytes(8))))[1].tolist() == [0]
    for tensor in (
        ["float32", [4], 0],
        ["int32", [1], 8],
        ["float32", [-1], 0],
        ["load", [1], 0],
        ["bool", [1] * 7, 0],
        ["bool", "x", 0],
        ["bool", [1 << 24] * 5 + [0], 0],  # no memory, but more strides than a number holds
        [["bool"], [1], 0],
    ):
        with pytest.raises(wire.Unreadable, match="a tensor|cannot be read"):
            wire.unpack(reader(frame(["value", {"tensor": tensor}], bytes(8))))
    with pytest.raises(wire.Unreadable, match="a tensor of bool with other values"):
        wire.unpack(reader(frame(["value", {"tensor": ["bool", [2], 0]}], bytes([1, 2]))))
    for strange in (torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()):
        with pytest.raises(wire.Unreadable):
            wire.pack("value", strange)
    with pytest.raises(wire.Unreadable, match="larger than 16 MB"):
        wire.pack("value", torch.zeros(1).expand(1 << 40))


@pytest.mark.slow
def test_only_the_grader_sends_layers_and_only_without_bias():
    import torch

    layer = torch.nn.Linear(2, 3, bias=False)
    with pytest.raises(wire.Unreadable, match="a value of the type Linear cannot be sent"):
        wire.pack("value", layer)
    sent = wire.pack("call", [layer], [])
    with pytest.raises(wire.Unreadable, match="unknown kind 'linear'"):
        wire.unpack(reader(sent))
    (got,) = wire.unpack(reader(sent), lambda number: print)[1]
    assert got.weight.equal(layer.weight) and got.bias is None and not got.weight.requires_grad
    callbacks: list = []
    wire.pack("call", [torch.nn.Linear(2, 3)], callbacks)
    assert len(callbacks) == 1  # with a bias it is a function of the grader


def test_a_reply_with_a_tensor_does_not_load_torch():
    code = (
        "import io, sys\nfrom minisw.verify import wire\n"
        'text = b\'["value", {"tensor": ["bool", [1], 0]}]\'\n'
        "try:\n    wire.unpack(io.BytesIO(wire.HEADER.pack(len(text), 1) + text + b'1').read)\n"
        "except wire.Unreadable as error:\n    print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a tensor where none is expected False\n"
