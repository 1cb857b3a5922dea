"""The cache of rows that are sampled together: each owns a slot and writes at its own length, so none needs padding.

A slot is filled anew when its row has ended. The cache is one memory without gaps, widened by `BLOCK` positions at a time: a
dynamic cache grows by concatenation at every token, which was half of the time.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

BLOCK = 16  # positions by which the cache grows


SHRINK = 0.5  # it shrinks when its longest row takes at most this share of it: many rows have just begun together


class KVCacheLayer(CacheLayerMixin):
    """Keys and values of one layer: [slots, heads, view, head size]; a row's next ones are written at its own length.

    They are used whole, what a mask hides included: batched products copy an operand that is cut out of a larger one.
    """

    def __init__(self, state: KVCache):
        super().__init__()
        self.state = state

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        _, heads, _, size = key_states.shape
        state, empty = self.state, key_states.new_zeros(0)
        room = state.slots * heads * state.room * size
        self.memory = [key_states.new_zeros(room), value_states.new_zeros(room)]
        self.keys, self.values = (empty.view(state.slots, heads, 0, size) for _ in self.memory)
        self.is_initialized = True

    def reserve(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Be `view` positions wide."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[2] != self.state.view:
            self.lay_out(slice(None))

    def lay_out(self, rows: slice | torch.Tensor) -> None:
        """Keep these rows, in memory that `view` positions of each slot fill without a gap."""
        self.memory[0], self.keys = self.state.lay_out(self.memory[0], self.keys, rows)
        self.memory[1], self.values = self.state.lay_out(self.memory[1], self.values, rows)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        self.reserve(key_states, value_states)
        n, lengths = key_states.shape[0], self.state.lengths
        rows = self.state.rows[:n]
        self.keys[rows, :, lengths[:n]] = key_states[:, :, 0]
        self.values[rows, :, lengths[:n]] = value_states[:, :, 0]
        return self.keys[:n], self.values[:n]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.state.view, 0

    def get_seq_length(self) -> int:
        return self.state.view - 1

    def get_max_length(self) -> int:
        return self.state.room


class KVCache:
    """The cache, `view` positions wide, and the length of the row in each slot. Its width is a multiple of `BLOCK`."""

    def __init__(self, slots: int, room: int, layers: int, device: torch.device):
        self.slots, self.room, self.view = slots, -(-room // BLOCK) * BLOCK, 0
        self.rows = torch.arange(slots, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.cache = Cache(layers=[KVCacheLayer(self) for _ in range(layers)])
        self._spare: torch.Tensor | None = None

    def reserve(self, positions: int) -> None:
        """Be wide enough for `positions`."""
        self.view = max(self.view, -(-positions // BLOCK) * BLOCK)

    def fit(self, positions: int) -> None:
        """Be wide enough for `positions`, where these are the longest row's, and not much wider."""
        if positions <= SHRINK * self.view:
            self.view = 0
        self.reserve(positions)

    def lay_out(self, memory: torch.Tensor, old: torch.Tensor, rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`old[rows]`, `view` positions wide, in the spare memory; the memory where it lay is the next spare.

        Memory is taken once and goes round: fresh pages cost several times what is written to them.
        """
        _, heads, wide, size = old.shape
        wide = min(wide, self.view)
        spare = torch.zeros_like(memory) if self._spare is None else self._spare
        new = spare[: self.slots * heads * self.view * size].view(self.slots, heads, self.view, size)
        new[:, :, :wide] = old[rows, :, :wide]
        new[:, :, wide:] = 0
        self._spare = memory
        return spare, new

    def fill(self, slot: int, prefilled: DynamicCache, row: int, first: int, length: int) -> None:
        """Copy `length` positions of a prefilled row, from `first` on, into a slot."""
        self.reserve(length)
        for mine, theirs in zip(self.cache.layers, prefilled.layers, strict=True):
            mine.reserve(theirs.keys, theirs.values)
            mine.keys[slot, :, :length] = theirs.keys[row, :, first : first + length]
            mine.values[slot, :, :length] = theirs.values[row, :, first : first + length]
        self.lengths[slot] = length

    def compact(self, keep: torch.Tensor) -> None:
        """Move the rows in `keep` (slot indices, ascending) to the front; the cache shrinks to them."""
        self.slots = len(keep)
        self.lengths, self.rows = self.lengths[keep], self.rows[: len(keep)]
        self.view = 0
        self.reserve(int(self.lengths.max()) + 1)
        for layer in self.cache.layers:
            layer.lay_out(keep)
