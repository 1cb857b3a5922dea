"""A scalar head beside an adapter: a small network from a hidden state to one logit, saved as head.safetensors.

`LanguageModel.heads` holds the heads by the names of their adapters; they are trained, copied, saved, loaded and dropped with
those adapters. What reads them is in `judges/heads.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FILE = "head.safetensors"  # in the adapter's folder


class Head(torch.nn.Module):
    """Hidden states [..., widths[0]] → logits [...], in fp32: linear layers of these input widths, with ReLU between them.

    One width makes a linear head, two make a two-layer MLP. It is frozen until a training makes its parameters trainable.
    """

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in itertools.pairwise([*widths, 1]))
        self.requires_grad_(False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        values = states.float()
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        return self.layers[-1](values)[..., 0]


def save_head(head: Head | None, folder: Path) -> None:
    """Write the weights of a head, whose shapes say how it is built. None removes what was saved there before."""
    if head is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    temporary = folder / f"{FILE}.part"
    save_file({name: p.detach().cpu().contiguous() for name, p in head.named_parameters()}, temporary)
    temporary.replace(folder / FILE)


def load_head(folder: Path) -> Head | None:
    """The head that `save_head` wrote; None without a file. Raises ValueError, in one line, if the file holds no head."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        weights = load_file(path)
        head = Head(*(weights[f"layers.{i}.weight"].shape[1] for i in range(len(weights) // 2)))
        head.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError):
        raise ValueError(f"{path} is damaged or holds no head: save the judge again") from None
    return head
