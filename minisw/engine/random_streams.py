"""Random numbers for sampling, and the choice of a token with them.

Every row draws from a stream of its own, a function of the seed and the row's place in the results. What a row samples
therefore depends neither on the rows beside it, nor on the number of slots, nor on the process: only on its logits.

What repeats: given equal logits, `sample` returns the same token on every run and every device, because it sums
probabilities as integers, in which order does not matter (floating-point `cumsum` on a GPU adds in an order that changes from
run to run). Logits repeat on the same machine and software with the same number of rows per step. Other numbers of rows
(`--model.slots`, or fewer rows after memory ran out) may choose other matrix kernels, which round differently; a random
number that falls within that rounding of the border between two tokens then gives the other token.
"""

from __future__ import annotations

import torch

UNIT = 2.0**52  # probability 1 as an integer: sums of a row stay below 2^53, so they are exact in float64 too


def sample(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row: (token ids int64 [rows], their log-probabilities fp32 [rows]).

    `logits` [rows, vocabulary]; `uniform` float64 [rows], numbers in [0, 1), which temperature 0 (greedy) does not read. The
    token is the inverse of the distribution function at `uniform`: the first whose cumulative probability exceeds it.
    Log-probabilities are at `temperature`, and at 1 for greedy.

    Gumbel-max would need no sum, but a random number for every entry of the vocabulary: on a CPU 3.5 times as slow for a
    vocabulary of 152,000 tokens.
    """
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
        return tokens[:, 0], logits.gather(-1, tokens)[:, 0].float() - logits.float().logsumexp(-1)
    p = (logits.float() / temperature).softmax(-1)
    cumulative = p.mul(UNIT).long()
    torch.cumsum(cumulative, -1, out=cumulative)
    total = cumulative[:, -1:]
    # below the total, to which a number near 1 may be rounded: beyond it there are only tokens of probability 0
    drawn = torch.minimum((uniform[:, None] * total).long(), total - 1)
    tokens = torch.searchsorted(cumulative, drawn, right=True).clamp(max=logits.shape[-1] - 1)  # NaN logits have no place
    return tokens[:, 0], p.gather(-1, tokens)[:, 0].log()


def streams(seed: int, count: int) -> list[int]:
    """Streams of random numbers for `count` rows: functions of the seed and of a row's place."""
    return mixed(mixed(torch.tensor(seed % 2**63)) + torch.arange(count)).tolist()


def mixed(x: torch.Tensor) -> torch.Tensor:
    """A hash int64 → int64, elementwise: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniforms(streams: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 [rows]: entry `positions[row]` of stream `streams[row]`, both int64 [rows].

    They are computed from stream and position alone, on the device, so there is no generator state to keep.
    """
    bits = (mixed(streams + (positions + 1) * -0x61C8864680B583EB) >> 11) & 0x1FFFFFFFFFFFFF  # 53 of them
    return bits.double() / 2**53
