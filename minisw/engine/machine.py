"""TODO."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("minisw", "torch", "transformers", "peft", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hardware() -> dict:
    import torch


    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def peak_memory_gb() -> float:
    """Peak resident memory of this process, in GiB."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB here
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
