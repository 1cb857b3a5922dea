"""What the two training loops share: gradients summed over micro-batches in the memory that there is, and a clipped step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

import torch

from minisw.engine import distributed
from minisw.engine.model import LanguageModel

FLOOR = 128  # tokens: smaller micro-batches than this are not tried


log = logging.getLogger("minisw")


def accumulate(
    lm: LanguageModel,
    micro_tokens: int,
    batches: Callable[[int], Iterable],
    work: Callable[..., tuple[torch.Tensor, dict[str, float]]],
    parameters: Iterable[torch.nn.Parameter],
) -> dict[str, float]:
    """Backward of the loss of every item of `batches(micro_tokens)`; returns the sums of what `work(item)` counts.

    Where a GPU's memory runs out, gradients are dropped and all is done again with micro-batches half as large, which the
    model remembers: a loss is divided by the step's tokens, so their size changes nothing. Raises ValueError where even
    the smallest do not fit.
    """
    parameters = list(parameters)
    while True:
        sums: dict[str, float] = {}
        failed = False
        try:
            with lm.training():
                for item in distributed.shard(list(batches(max(1, micro_tokens >> lm.halvings)))):
                    loss, counts = work(item)
                    lm.scaler.scale(loss).backward()
                    for key, value in counts.items():
                        sums[key] = sums.get(key, 0.0) + value
        except torch.OutOfMemoryError:
            failed = True
        # outside of `except`: a traceback would keep what is to be freed
        if not any(distributed.all_gather(failed)):
            distributed.all_reduce_gradients(parameters)
            every = distributed.all_gather(sums)
            return {key: sum(one.get(key, 0.0) for one in every) for one in every for key in one}
        for parameter in parameters:
            parameter.grad = None
        smaller = micro_tokens >> (lm.halvings + 1)
        if smaller < FLOOR:
            raise ValueError(
                "out of memory with the smallest micro-batches: give --model.checkpointing, --model.four-bit, a smaller "
                "--judge.max-new-tokens or a smaller model; the same command goes on from here"
            )
        lm.halvings += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory: going on with micro-batches of %d tokens (--model.micro-tokens)", smaller)


def clipped_step(lm: LanguageModel, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter]) -> float:
    """One optimizer step on gradients clipped to norm 1; returns the norm before.

    In fp16 losses were scaled, and a step whose gradients overflowed is left out (norm 0) and the scale halved.
    """
    lm.scaler.scale(torch.zeros(1, device=lm.device))  # a process whose share was empty has scaled nothing yet
    lm.scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), 1.0).item()
    lm.scaler.step(optimizer)
    lm.scaler.update()
    optimizer.zero_grad()
    return norm if math.isfinite(norm) else 0.0
