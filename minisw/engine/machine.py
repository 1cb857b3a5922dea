"""What machine a run used: versions, hardware, peak memory; and how a machine says that it is out of memory.

Imports on Windows too, where Python has no `resource` module and `os` no `sysconf`: what cannot be read there is left out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

GB = 2**30
PACKAGES = ("minisw", "torch", "transformers", "peft", "tokenizers", "numpy")
OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory", "can't allocate memory")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hardware() -> dict:
    """Name of the CPU, cores that this process may use, name of the GPU (None without one), and the machine's memory in GiB
    (None if it cannot be read)."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    memory = total_memory()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": None if memory is None else round(memory / GB, 1),
    }


def total_memory() -> int | None:
    """The machine's memory in bytes; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_gb() -> dict[str, float]:
    """Peak memory of this process so far, in GiB.

    `peak_memory_gb` is host memory (resident; left out on Windows). `peak_gpu_memory_gb`, present only with a GPU, is what
    PyTorch's allocator held in tensors on the current GPU, since the start or the last `reset_peak_memory_stats`.
    """
    peaks = {}
    if resource is not None:
        unit = GB if sys.platform == "darwin" else 2**20  # ru_maxrss counts bytes on macOS and KiB on Linux
        peaks["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
    if torch.cuda.is_available():
        peaks["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
    return peaks


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: torch's own error, or a RuntimeError of a library that could not allocate
    (cuBLAS and cuDNN take workspaces of their own, past PyTorch's allocator)."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in OUT_OF_MEMORY)
