"""Several processes, one run: `accelerate launch -m minisw.reproduce …` (several GPUs), `torchrun --nproc-per-node 2 -m …` (CPU).

Every process walks through the same program with the same numbers. What is dear is shared out and put together again, so that
all go on with the same result: requests to sample (`rollout.py`) and micro-batches to learn from (`training.py`). The first
process alone writes files. With one process nothing here does anything.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


@functools.cache
def _state():

    return PartialState(cpu=not torch.cuda.is_available())  # joins the others


def shard(items: Sequence) -> list:
    """This process's share: every n-th."""
    return list(items[rank() :: count()])


def all_gather(value: object) -> list:
    """What every process has there, in the order of their ranks; all must call this."""
    if count() == 1:
        return [value]
    _state()

    return gather_object([value])


def broadcast(value: object) -> object:
    """What the first process has there; all must call this."""
    return all_gather(value)[0]


def barrier() -> None:
    """Until all are here."""
    if count() > 1:
        _state().wait_for_everyone()


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Every gradient becomes the sum over the processes; all must call this with the same parameters."""
    if count() == 1:
        return
    _state()

    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    parts = reduce(flat, "sum").split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.grad = part.view_as(p)
