"""Where a training stands, in one file: adapter, optimizer, loss scale (fp16), cursor and metrics.

Randomness needs no state of its own: every step draws from a generator seeded by (run seed, stage, step), so the cursor
is enough to go on as if nothing had happened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minisw.records import writes


def save(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    cursor: int,
    metrics: list[dict],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the file whole, then put it in place: a kill leaves the old one or the new one."""
    if not writes():
        return
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"parameter|{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}|{name}"] = value.detach().clone().contiguous()
    temporary = path.with_name(path.name + ".part")
    scale = json.dumps(scaler.state_dict() if scaler else {})
    save_file(tensors, temporary, metadata={"cursor": str(cursor), "metrics": json.dumps(metrics), "scaler": scale})
    os.replace(temporary, path)


def load(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, list[dict]]:
    """Put parameters, optimizer and loss scale back as `save` found them; returns (cursor, metrics), (0, []) where no file is."""
    if not path.exists():
        return 0, []
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to train that adapter anew") from None
    with opened as file, torch.no_grad():
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            what, name = key.split("|", 1)
            if name not in parameters:
                raise ValueError(f"{path} is a checkpoint of another adapter: it holds {name!r}; remove it to train anew")
            parameter, value = parameters[name], file.get_tensor(key)
            if what == "parameter":
                parameter.copy_(value)
            else:
                optimizer.state[parameter][what] = value if what == "step" else value.to(parameter.device)
    if scaler and (scale := json.loads(metadata.get("scaler", "{}"))):
        scaler.load_state_dict(scale)
    return int(metadata["cursor"]), json.loads(metadata["metrics"])
