"""A function's value together with its gradient: what a relation between a loss and its inputs needs.

The same code runs for a submission in its worker and for a reference in the grader. torch is there already, or is not needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any


def value_and_gradient(function: Callable, position: int, args: Sequence) -> tuple[Any, list]:
    """The value of a call, and gradients by its argument at `position`: (value, [[gradient or None, calls], …]).

    If the argument is a tensor, there is one gradient: that of Σ i · value_i over the value's elements (of the first of a
    tuple), where i = 1, 2, … tells the elements apart; a scalar has its own gradient. If the argument is a function, each tensor
    that it returned is differentiated: the called function runs `backward` itself. `calls` counts how often it had been called
    when the gradient came.
    """
    torch = sys.modules["torch"]
    leaves: list = []
    calls: list[int] = []
    chosen, args = args[position], list(args)

    def leaf(tensor: Any) -> Any:
        number = len(leaves)
        leaves.append(tensor.detach().clone().requires_grad_())
        calls.append(0)
        leaves[-1].register_post_accumulate_grad_hook(lambda _: calls.__setitem__(number, len(leaves)))
        return leaves[-1]

    args[position] = (lambda *inner: leaf(chosen(*inner))) if callable(chosen) else leaf(chosen)
    value = function(*args)
    result = value[0] if isinstance(value, tuple | list) and value else value
    if not callable(chosen) and isinstance(result, torch.Tensor) and result.requires_grad:
        weights = torch.arange(1, result.numel() + 1, dtype=result.dtype).reshape(result.shape)
        (result * weights).sum().backward()
    return value, [[tensor.grad, count] for tensor, count in zip(leaves, calls, strict=True)]
