"""Chance: one token a row from its logits, at a number from the row's own stream."""

from __future__ import annotations

import torch


def sample(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token id a row from logits [rows, vocabulary], at numbers `uniform` [rows] in 0…1; greedy at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    # the inverse of the distribution function, on the device
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    whole = cumulative[:, -1:]
    # never the whole itself, to which a number near 1 is rounded: behind it stands only what has no probability
    drawn = torch.minimum(uniform[:, None].to(whole.dtype) * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def streams(seed: int, count: int) -> list[int]:
    """Streams of random numbers for `count` rows: functions of the seed and a row's place among them."""
    return mixed(mixed(torch.tensor(seed % 2**63)) + torch.arange(count)).tolist()


def mixed(x: torch.Tensor) -> torch.Tensor:
    """int64 → int64 that looks random: the finaliser of SplitMix64 (Steele et al. 2014), on the device."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniforms(streams: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Numbers in 0…1 [rows] at `positions` of the rows' streams, both int64 [rows]; float64.

    A row draws from a stream of its own, so what it samples depends on nothing that runs beside it: not on the number of
    slots, nor on the process.
    """
    return ((mixed(streams + (positions + 1) * -0x61C8864680B583EB) >> 11) & 0x1FFFFFFFFFFFFF).double() / 2**53
