"""What the CPU can do: fast bf16 is found on x86 alone, and only where its hardware multiplies it."""

from __future__ import annotations

import pytest
import torch

from minisw import cpu

CHECKS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
X86 = ("x86_64", "X86_64", "AMD64", "amd64")


@pytest.mark.parametrize("machine", [*X86, "arm64", "aarch64", "i386", ""])
@pytest.mark.parametrize(("avx", "amx"), [(True, True), (True, False), (False, True), (False, False)])
def test_bf16_hardware_is_found_on_x86_alone(machine: str, avx: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either kind of hardware is enough, however the system spells x86."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    for name, there in zip(CHECKS, (avx, amx), strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
    assert cpu.fast_bf16() is (machine in X86 and (avx or amx))


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
@pytest.mark.parametrize("missing", [CHECKS[:1], CHECKS[1:], CHECKS])
def test_a_torch_without_the_private_names_is_asked_for_the_others(
    machine: str, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    for name in CHECKS:
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
        if name in missing:
            monkeypatch.delattr(torch.cpu, name)
    assert cpu.fast_bf16() is (machine == "x86_64" and len(missing) < 2)
