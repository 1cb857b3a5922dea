"""What the grader and the worker say to each other: frames of JSON and raw tensors, never pickle.

A frame is a header (two lengths), a JSON list [kind, payload], and the raw bytes of all tensors. In the payload None, booleans,
numbers, texts and lists stand for themselves; anything else is an object with one key: tuple, dict, tensor, and only from the
grader record (a frozen dataclass of the package), linear (a frozen layer without bias, by its weight) or callback (a function of
the grader, by its number).
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import json
import struct
import sys
from collections.abc import Callable
from typing import Any

MAX_BYTES = 16 << 20
HEADER = struct.Struct("!II")
DTYPES = ("float32", "float64", "int64", "int32", "bool")


class Unreadable(ValueError):
    """A value that cannot be sent, or bytes that are no frame."""


def pack(kind: str, payload: Any, callbacks: list[Callable] | None = None) -> bytes:
    """A frame. Functions in the payload are appended to `callbacks`. Raises Unreadable for what cannot be sent."""
    blobs: list[bytes] = []
    try:
        text = json.dumps([kind, _encoded(payload, blobs, callbacks)]).encode()
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch, of a tensor without plain numbers; too deep a list
        raise Unreadable(str(error)) from None
    raw = b"".join(blobs)
    if len(text) + len(raw) > MAX_BYTES:
        raise Unreadable(f"it is larger than {MAX_BYTES >> 20} MB")
    return HEADER.pack(len(text), len(raw)) + text + raw


def unpack(read: Callable[[int], bytes], callback: Callable[[int], Callable] | None = None) -> tuple[str, Any]:
    """Kind and payload of the next frame. `read(n)` must return n bytes. Raises Unreadable for anything but a frame.

    Only the worker gives `callback`, which makes a function of a number; only with it are records accepted.
    """
    sizes = HEADER.unpack(read(HEADER.size))
    if sum(sizes) > MAX_BYTES:
        raise Unreadable(f"it is larger than {MAX_BYTES >> 20} MB")
    text, raw = read(sizes[0]), read(sizes[1])
    try:
        kind, payload = json.loads(text)
        return str(kind), _decoded(payload, raw, callback)
    except Unreadable:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise Unreadable(f"it cannot be read ({type(error).__name__})") from None


def _encoded(value: Any, blobs: list[bytes], callbacks: list[Callable] | None) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_encoded(item, blobs, callbacks) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item, blobs, callbacks) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, blobs, callbacks), _encoded(item, blobs, callbacks)] for key, item in value.items()]}
    if type(value).__module__ == "torch" and type(value).__name__ == "Tensor":
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise Unreadable(f"a tensor of {name} cannot be sent; use one of {', '.join(DTYPES)}")
        if value.nbytes > MAX_BYTES:
            raise Unreadable(f"it is larger than {MAX_BYTES >> 20} MB")
        tensor = value.detach().cpu().contiguous()
        start = sum(map(len, blobs))
        blobs.append(ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.numel() else b"")
        return {"tensor": [name, list(tensor.shape), start]}
    if callbacks is not None and dataclasses.is_dataclass(value):
        fields = {field.name: _encoded(getattr(value, field.name), blobs, callbacks) for field in dataclasses.fields(value)}
        return {"record": [type(value).__module__, type(value).__qualname__, fields]}
    if callbacks is not None and type(value).__module__ == "torch.nn.modules.linear" and value.bias is None:
        return {"linear": _encoded(value.weight.detach(), blobs, None)}
    if callbacks is not None and callable(value):
        callbacks.append(value)
        return {"callback": len(callbacks) - 1}
    raise Unreadable(f"a value of the type {type(value).__name__} cannot be sent")


def _decoded(value: Any, raw: bytes, callback: Callable[[int], Callable] | None) -> Any:
    if isinstance(value, list):
        return [_decoded(item, raw, callback) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(_decoded(item, raw, callback) for item in content)
    if kind == "dict":
        return {_decoded(key, raw, callback): _decoded(item, raw, callback) for key, item in content}
    if kind == "tensor":
        return _tensor(*content, raw)
    if kind == "record" and callback:
        record = getattr(importlib.import_module(content[0]), content[1])
        return record(**{name: _decoded(item, raw, callback) for name, item in content[2].items()})
    if kind == "linear" and callback:
        return _linear(_decoded(content, raw, None))
    if kind == "callback" and callback:
        return callback(int(content))
    raise Unreadable(f"unknown kind {kind!r}")


def _tensor(name: str, shape: list[int], start: int, raw: bytes) -> Any:
    """A tensor from raw bytes; its type, shape and size are checked before the bytes are used."""
    torch = sys.modules.get("torch")  # never imported for a reply: a grader that expects tensors has it
    if torch is None:
        raise Unreadable("a tensor where none is expected")
    if name not in DTYPES or len(shape) > 6 or not all(isinstance(n, int) and 0 <= n <= MAX_BYTES for n in [*shape, start]):
        raise Unreadable("a tensor of an unknown type or shape")
    count = 1
    for n in shape:
        count *= n
    dtype = getattr(torch, name)
    if start + count * dtype.itemsize > len(raw):
        raise Unreadable("a tensor without its bytes")
    if not count:
        return torch.zeros(shape, dtype=dtype)
    data = bytearray(raw[start : start + count * dtype.itemsize])
    if name == "bool" and max(data) > 1:  # torch would count such a True more than once
        raise Unreadable("a tensor of bool with other values")
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _linear(weight: Any) -> Any:
    """A frozen linear layer without bias; `weight` [out, in]."""
    nn = sys.modules["torch"].nn
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
