"""Several processes, one run: `accelerate launch -m minisw.reproduce …` for several GPUs, or `torchrun … -m …` on a CPU.

Every process runs the same program on the same data. Two kinds of work are split between them, and the results are gathered so
that all processes continue with the same values: sampling requests (`sampler.py`) and training micro-batches
(`training/step.py`). Only rank 0 writes files. With one process every function here is a no-op.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

# Rank 0 may sample or write for hours while the others wait in a gather or a barrier; NCCL would abort after 10 minutes.
TIMEOUT = timedelta(hours=24)


def count() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process among those of its machine: which GPU it uses."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@functools.cache
def _state() -> PartialState:
    """Join the process group, once."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def shard(items: Sequence) -> list:
    """This process's share of `items`: items rank, rank + n, rank + 2n, … of n processes."""
    return list(items[rank() :: count()])


def all_gather(value: object) -> list:
    """The values of all processes, in the order of their ranks. Every process must call this."""
    if count() == 1:
        return [value]
    _state()
    return gather_object([value])


def broadcast(value: object) -> object:
    """The value of rank 0. Every process must call this."""
    return all_gather(value)[0]


def barrier() -> None:
    """Wait until every process has called this."""
    if count() > 1:
        _state().wait_for_everyone()


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes. Every process must call this with the same parameters.

    A parameter without a gradient counts as zero: a process may have had no micro-batch.
    """
    if count() == 1:
        return
    _state()
    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    parts = reduce(flat, "sum").split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.grad = part.view_as(p)
