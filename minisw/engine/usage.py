"""What a piece of work costs: the token positions that go through the model, counted by a hook, whoever calls it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from minisw.engine.model import LanguageModel


@dataclass
class Usage:
    """Token positions that the model has read, padding included: without a gradient, and with one (training)."""

    parameters: int  # of the base, without its input embeddings, which are looked up
    forward: int = 0
    trained: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations by the usual estimate: 2 a parameter and position, and 4 more for the backward pass.

        Attention over earlier positions is left out. With LoRA the backward pass costs less than 4: this is an upper bound.
        """
        return self.parameters * (2 * self.forward + 6 * self.trained)

    def to_json(self) -> dict[str, int]:
        return {"forward": self.forward, "trained": self.trained, "flops": self.flops}


@contextlib.contextmanager
def counted(lm: LanguageModel) -> Iterator[Usage]:
    """Counts what goes through the model within the block."""
    model = lm.causal_lm
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    looked_up = 0 if embeddings.weight is head.weight else embeddings.weight.numel()
    usage = Usage(sum(_size(p) for name, p in model.named_parameters() if "lora_" not in name) - looked_up)

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if torch.is_grad_enabled():
            usage.trained += ids.numel()
        else:
            usage.forward += ids.numel()

    handle = model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield usage
    finally:
        handle.remove()


def _size(parameter: torch.nn.Parameter) -> int:
    """The number of weights in a parameter; weights in 4 bits are stored two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()
