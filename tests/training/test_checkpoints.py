"""Checkpoints: exact, written whole or not at all, and only for the adapter that they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minisw.engine.model import LanguageModel
from minisw.training import checkpoints


def stepped(lm: LanguageModel, steps: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    """The parameters of adapter "policy" after `steps` steps on made-up gradients, and their optimizer."""
    parameters = lm.adapter_parameters("policy")
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    for step in range(steps):
        for number, parameter in enumerate(parameters.values()):
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1) * (number + 1))
        optimizer.step()
    return parameters, optimizer


def test_what_is_loaded_goes_on_as_what_was_saved(new_lm, tmp_path: Path) -> None:
    parameters, optimizer = stepped(new_lm("policy"), 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    history = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}]
    checkpoints.save(tmp_path / "one.checkpoint", parameters, optimizer, 2, history, scaler)

    loaded = new_lm("policy")
    other_parameters, other_optimizer = stepped(loaded, 0)
    other_scaler = torch.amp.GradScaler("cpu")
    state = (other_parameters, other_optimizer)
    assert checkpoints.load(tmp_path / "one.checkpoint", *state, other_scaler) == (2, history)
    other_scaler.scale(torch.zeros(1))
    assert other_scaler.get_scale() == 2.0**7
    for some, optim in ((parameters, optimizer), state):  # one more step from there: moments and step numbers count
        for number, parameter in enumerate(some.values()):
            parameter.grad = torch.full_like(parameter, 0.05 * number - 0.2)
        optim.step()
    assert all(torch.equal(p, other_parameters[name]) for name, p in parameters.items())


def test_an_interrupted_save_leaves_the_old_file(new_lm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.checkpoint"
    parameters, optimizer = stepped(new_lm("policy"), 1)
    checkpoints.save(path, parameters, optimizer, 1, [{"loss": 0.1}])
    old = path.read_bytes()

    def fail(tensors: dict, file: Path, metadata: dict) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save_file", fail)
        checkpoints.save(path, parameters, optimizer, 2, [])
    assert path.read_bytes() == old
    assert checkpoints.load(path, parameters, optimizer) == (1, [{"loss": 0.1}])
    checkpoints.save(path, parameters, optimizer, 3, [])  # what the interrupted one left is not in the way
    assert checkpoints.load(path, parameters, optimizer) == (3, [])
    assert [file.name for file in tmp_path.iterdir()] == ["one.checkpoint"]


def test_nothing_to_load(new_lm, tmp_path: Path) -> None:
    parameters, optimizer = stepped(new_lm("policy"), 0)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for path in (None, tmp_path / "none"):
        assert checkpoints.load(path, parameters, optimizer) == (0, [])
    assert all(torch.equal(p, before[name]) for name, p in parameters.items()) and not optimizer.state


def test_only_the_first_of_several_processes_writes(new_lm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, optimizer = stepped(new_lm("policy"), 1)
    monkeypatch.setenv("RANK", "1")
    checkpoints.save(tmp_path / "one.checkpoint", parameters, optimizer, 1, [])
    assert not list(tmp_path.iterdir())


def test_a_damaged_file(new_lm, tmp_path: Path) -> None:
    path = tmp_path / "one.checkpoint"
    parameters, optimizer = stepped(new_lm("policy"), 1)
    checkpoints.save(path, parameters, optimizer, 1, [])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged .* remove it"):
        checkpoints.load(path, parameters, optimizer)


@pytest.mark.parametrize(("name", "rank", "message"), [("judge", 4, "another adapter"), ("policy", 2, "another rank or model")])
def test_the_file_of_another_adapter(name: str, rank: int, message: str, new_lm, tmp_path: Path) -> None:
    path = tmp_path / "one.checkpoint"
    checkpoints.save(path, *stepped(new_lm("policy"), 1), 1, [])
    lm = new_lm(name, rank=rank)
    parameters = lm.adapter_parameters(name)
    before = {key: p.detach().clone() for key, p in parameters.items()}
    with pytest.raises(ValueError, match=message):
        checkpoints.load(path, parameters, torch.optim.AdamW(parameters.values()))
    assert all(torch.equal(p, before[key]) for key, p in parameters.items())
