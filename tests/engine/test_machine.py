"""What is said about the machine, with and without a GPU, and on systems that do not say much."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minisw
from minisw.engine import machine

ROOT = Path(minisw.__file__).parents[1]


def test_peak_memory_of_host_and_gpu_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    host = machine.peak_memory_gb()
    assert host.keys() == {"peak_memory_gb"} and 0.05 < host["peak_memory_gb"] < 1000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    both = machine.peak_memory_gb()
    assert both["peak_gpu_memory_gb"] == 3.0 and both["peak_memory_gb"] >= host["peak_memory_gb"]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_resident_memory_is_counted_in_the_unit_of_the_system(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        ru_maxrss = 2 * 2**30 // unit

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(machine.resource, "getrusage", lambda who: Usage)
    assert machine.peak_memory_gb()["peak_memory_gb"] == 2.0


def test_a_system_without_resource_and_sysconf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "resource", None)
    monkeypatch.delattr(os, "sysconf")
    assert "peak_memory_gb" not in machine.peak_memory_gb()
    assert machine.total_memory() is None and machine.hardware()["memory_gb"] is None


@pytest.mark.slow
def test_it_imports_without_the_modules_that_windows_lacks() -> None:
    program = (
        "import torch, sys; sys.modules['resource'] = sys.modules['fcntl'] = None\n"
        "from minisw.engine import machine\n"
        "assert machine.resource is None and 'peak_memory_gb' not in machine.peak_memory_gb()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUBLAS_STATUS_ALLOC_FAILED"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert machine.is_out_of_memory(error) == expected


def test_versions_and_hardware() -> None:
    assert machine.versions()["torch"] == torch.__version__
    found = machine.hardware()
    assert found["cpu"] and found["cores"] >= 1 and found["memory_gb"] > 0.5
