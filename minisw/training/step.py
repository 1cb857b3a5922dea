"""What both training loops share: shuffled epochs, micro-batches that fit into memory, and one clipped optimizer step.

A *mini-batch* is what one optimizer step learns from. It goes through the model in *micro-batches*, as many tokens at a time
as memory allows. A loss is divided by the tokens of its mini-batch, so gradients of micro-batches add up to the gradient of the
mini-batch, and the size of a micro-batch changes nothing but memory and speed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from minisw.engine import distributed
from minisw.engine.logprobs import Batch, Example, collate, micro_batches
from minisw.engine.model import LanguageModel

SMALLEST = 128  # tokens: micro-batches below this size are not tried after running out of memory
MAX_NORM = 1.0  # gradients are clipped to this norm
MAX_OVERFLOWS = 16  # halvings of the loss scale in one optimizer step: from 65536, where a scaler starts, to 1

log = logging.getLogger("minisw")


@functools.lru_cache(maxsize=2)  # a step that crosses the end of an epoch reads two
def epoch_order(count: int, epoch: int, seed: int) -> tuple[int, ...]:
    """The order in which epoch `epoch` (from 0) goes through `count` items: a permutation of 0 … count - 1."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


@contextlib.contextmanager
def trainable(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Let gradients flow into `parameters` within the block, and not after it."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def batches(lm: LanguageModel, examples: Sequence[Example], micro_tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """This process's micro-batches, of at most `micro_tokens` tokens: (indices of their examples, in row order; batch)."""
    share = not lm.checkpointing
    for rows in distributed.shard(micro_batches(examples, micro_tokens, share)):
        yield rows, collate([examples[i] for i in rows], lm.tokenizer.pad_token_id, lm.device, share)


class Attempt:
    """One try at an optimizer step, or at forwards without gradients; see `attempts`.

    Within its `with` block, running out of memory ends the block but raises nothing. `sums` adds up what is given to
    `backward`, over micro-batches and processes.
    """

    def __init__(self, lm: LanguageModel, optimizer: torch.optim.Optimizer | None, micro_tokens: int, overflows: int):
        self.lm, self.optimizer = lm, optimizer
        self.micro_tokens = micro_tokens  # largest micro-batch, in tokens
        self.overflows = overflows  # tries at this step whose gradients overflowed, this one included
        self.sums: dict[str, float] = {}
        self.grad_norm = 0.0  # before clipping; 0 if no step was made
        self.out_of_memory = self.overflowed = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> bool:
        failed = error is not None and _is_out_of_memory(error)
        if error is not None and not failed:
            return False
        self.out_of_memory = any(distributed.all_gather(failed))
        return failed

    def backward(self, loss: torch.Tensor, sums: Mapping[str, float]) -> None:
        """Add the gradient of a micro-batch's loss, and its `sums` to those of the step.

        Pass the result of the forward on without naming it: a variable would keep its activations after an out-of-memory.
        """
        self.lm.scaler.scale(loss).backward()
        for key, value in sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def step(self) -> None:
        """Clip the summed gradients to norm 1 and take the optimizer step, unless memory ran out or a gradient is not finite."""
        if self.out_of_memory:
            return
        parameters, scaler = _parameters(self.optimizer), self.lm.scaler
        distributed.all_reduce_gradients(parameters)
        every = distributed.all_gather(self.sums)
        self.sums = {key: sum(one.get(key, 0.0) for one in every) for one in every for key in one}
        scaler.scale(torch.zeros(1, device=self.lm.device))  # a process without micro-batches has not scaled anything yet
        scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM).item()
        if math.isfinite(norm):
            scaler.step(self.optimizer)
            self.grad_norm = norm
        else:
            self.overflowed, self.overflows = True, self.overflows + 1
        scaler.update()  # halves the scale after an overflow
        self.optimizer.zero_grad()


def attempts(lm: LanguageModel, micro_tokens: int, optimizer: torch.optim.Optimizer | None = None) -> Iterator[Attempt]:
    """Yield attempts until one succeeds. An optimizer step is written as

        for attempt in attempts(lm, micro_tokens, optimizer):
            with attempt, lm.training():
                for rows, batch in batches(lm, examples, attempt.micro_tokens):
                    attempt.backward(*loss_and_sums(batch))
            attempt.step()

    After running out of memory, the next attempt has micro-batches half as large, and later steps keep that size. After an
    overflow in fp16 it has half the loss scale; samples are expensive, so a step that overflowed is repeated, not skipped. Each
    attempt begins without gradients. Raises ValueError if micro-batches of `SMALLEST` tokens do not fit. A gradient that is not
    finite for another reason than the loss scale is dropped with a warning: that step changes nothing.
    """
    overflows = 0
    while True:
        attempt = Attempt(lm, optimizer, max(1, micro_tokens >> lm.halvings), overflows)
        yield attempt
        if attempt.out_of_memory:  # here no traceback holds activations any more
            if optimizer:
                optimizer.zero_grad()  # gradients of the micro-batches that did fit
            _halve(lm, micro_tokens)
            continue
        overflows = attempt.overflows
        if not attempt.overflowed:
            return
        if not lm.scaler.is_enabled() or overflows >= MAX_OVERFLOWS:
            log.warning("a gradient was not finite: this optimizer step was left out; a lower learning rate may help")
            return


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_out_of_memory(error: BaseException) -> bool:
    """cuBLAS reports memory that it could not allocate by an error of another type."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def _halve(lm: LanguageModel, micro_tokens: int) -> None:
    smaller = micro_tokens >> (lm.halvings + 1)
    if smaller < SMALLEST:
        raise ValueError(
            "out of memory with the smallest micro-batches: give --model.checkpointing, --model.four-bit, a smaller "
            "--judge.max-new-tokens or a smaller model; the same command resumes from the last checkpoint"
        )
    lm.halvings += 1
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory: continuing with micro-batches of %d tokens (--model.micro-tokens)", smaller)
