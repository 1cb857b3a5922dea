"""Relations: what must hold between a function's inputs and outputs, tried on fresh random inputs.

A relation is a function `(call, reference, rng)` that raises AssertionError with one plain sentence. `call` runs the student's
function, `reference` ours; both take the same arguments. An assignment's relations.py has RELATIONS, a list for each function.
The first is the anchor: values worked out by hand, which no function passes by accident. The others count only if it holds.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from minisw.verify import gradients
from minisw.verify.remote import Failure, plain

SHOWN = 90  # characters of a value in a message, which has at most MAX_SENTENCE (remote.py)
NOT_TRIED = "not tried"  # the sentence of a relation behind a failed anchor
Relation = Callable[[Callable, Callable, random.Random], None]


def expect(got: Any, want: Any, what: str) -> None:
    """AssertionError unless both are equal, floats up to rounding; a list may stand for a tuple."""
    if not same(got, want):
        raise AssertionError("{}: expected {}, got {}".format(what, *_excerpts(_text(want), _text(got))))


def with_arguments(call: Callable) -> Callable:
    """The call of a student's function; a message about an error that it raises also has the arguments.

    Not if one of them is a function, which has no readable text.
    """

    @functools.wraps(call)  # also copies `call.gradient`
    def shown(*args, **kwargs):
        try:
            return call(*args, **kwargs)
        except Failure as failure:
            if failure.status != "exception" or any(map(callable, (*args, *kwargs.values()))):
                raise
            values = [*map(_text, args), *(f"{name}={_text(value)}" for name, value in kwargs.items())]
            raise Failure("exception", f"{failure}, called with ({_excerpts(', '.join(values))[0]})") from None

    return shown


def value_and_gradient(call: Callable, position: int, *args: Any) -> tuple[Any, list]:
    """Value and gradients of a call by its argument at `position` (verify/gradients.py), in the worker if the call is there."""
    if hasattr(call, "gradient"):
        return call.gradient(position, args)
    return gradients.value_and_gradient(call, position, args)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: numbers up to 1e-6, sequences item by item. Nothing equals NaN.

    Tensors are equal in shape and in kind (bool, whole or real numbers), and their numbers up to 1e-4 of them or 1e-5: float32
    rounds, and a sum of it in another order more so.
    """
    if is_tensor(a) and is_tensor(b):
        kinds = [(t.is_floating_point(), str(t.dtype) == "torch.bool") for t in (a, b)]
        return kinds[0] == kinds[1] and a.shape == b.shape and bool(a.double().isclose(b.double(), 1e-4, 1e-5).all())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float | int) and isinstance(b, float | int) and bool in (type(a), type(b)):
        return type(a) is type(b) and a == b  # 1 is no label
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, float | int) and isinstance(b, float | int)
        return numbers and (a == b or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6))
    return type(a) is type(b) and a == b


def is_tensor(value: Any) -> bool:
    return type(value).__module__ == "torch" and type(value).__name__ == "Tensor"


def failures(relations: Sequence[Relation], call: Callable, reference: Callable, seed: str) -> dict[str, tuple[str, str]]:
    """Status and sentence of each relation that fails. After a failed anchor, or the end of the process, no other is tried.

    Whatever else a relation raises, such as a TypeError from comparing what cannot be compared, is the fault of the result.
    """
    failed: dict[str, tuple[str, str]] = {}
    for i, relation in enumerate(relations):
        try:
            relation(call, reference, random.Random(f"{seed}/{relation.__name__}"))
        except Failure as failure:
            failed[relation.__name__] = (failure.status, str(failure))
            if failure.ends_part:
                failed |= {later.__name__: (failure.status, NOT_TRIED) for later in relations[i + 1 :]}
                break
        except AssertionError as error:
            failed[relation.__name__] = ("wrong", plain(error))
        except Exception as error:
            failed[relation.__name__] = ("wrong", f"the result has the wrong form ({type(error).__name__})")
        if i == 0 and failed:
            return failed | {later.__name__: (failed[relation.__name__][0], NOT_TRIED) for later in relations[1:]}
    return failed


def _excerpts(*texts: str) -> list[str]:
    """Texts of at most `SHOWN` characters as they are; longer ones begin shortly before the first place where they differ."""
    if max(map(len, texts)) <= SHOWN:
        return list(texts)
    common = next((i for i, characters in enumerate(zip(*texts, strict=False)) if len({*characters}) > 1), 0)
    begin = max(0, common - 40)
    return [f"{'…' * (begin > 0)}{text[begin : begin + SHOWN]}{'…' * (len(text) > begin + SHOWN)}" for text in texts]


def _text(value: Any) -> str:
    try:
        return plain(repr(value.tolist() if is_tensor(value) and value.numel() < 100 else value))
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
