"""The state of a training in one file: adapter, optimizer, loss scale (fp16), number of finished units, and metrics.

Random numbers need no state: each step draws from generators seeded by its own number, so a resumed training repeats what
an uninterrupted one would have drawn.
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
    done: int,
    history: list[dict],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state after `done` units (GRPO steps or SFT epochs). Of several processes only the first writes.

    The file is written under another name, flushed to the disk and renamed, so an interruption, a power cut included,
    leaves the old file or the new one.
    """
    if not writes():
        return
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"parameter|{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}|{name}"] = value.detach().clone().contiguous()
    scale = json.dumps(scaler.state_dict() if scaler else {})
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata={"cursor": str(done), "metrics": json.dumps(history), "scaler": scale})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(
    path: Path | None,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, list[dict]]:
    """Restore parameters, optimizer and loss scale as they were saved; returns (units done, metrics of their steps).

    Without a path or a file there, changes nothing and returns (0, []). Raises ValueError if the file is damaged or belongs to
    another adapter.
    """
    if path is None or not path.exists():
        return 0, []
    try:
        checkpoint = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to train that adapter anew") from None
    with checkpoint as file, torch.no_grad():
        metadata = file.metadata()
        names = {key.split("|", 1)[1] for key in file.keys()}  # noqa: SIM118 - safe_open is not a mapping
        if names != parameters.keys():
            odd = sorted(names ^ parameters.keys())[0]
            raise ValueError(f"{path} is a checkpoint of another adapter (they differ in {odd!r}): remove it to train anew")
        for key in file.keys():  # noqa: SIM118
            kind, name = key.split("|", 1)
            parameter, value = parameters[name], file.get_tensor(key)
            if kind == "parameter":
                if value.shape != parameter.shape:
                    raise ValueError(f"{path} is a checkpoint of an adapter of another rank or model: remove it to train anew")
                parameter.copy_(value)
            else:
                optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)
    if scaler and (scale := json.loads(metadata.get("scaler", "{}"))):
        scaler.load_state_dict(scale)
    return int(metadata["cursor"]), json.loads(metadata["metrics"])
