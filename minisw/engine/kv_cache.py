"""The key-value cache of rows that sample together. Each row owns a slot and writes at its own length, so rows of different
lengths need no padding, and a slot is filled again when its row has ended.

Keys and values of a layer are one tensor without gaps, widened by `BLOCK` positions at a time. (transformers' dynamic cache
grows by concatenation at every token, which took half of the sampling time.)
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

BLOCK = 16  # positions by which the cache grows
SHRINK = 0.5  # it shrinks when its longest row needs at most this fraction of its width: many rows have just started together


class KVCache:
    """Room for `slots` rows of up to `capacity` positions each, at present `width` positions wide (a multiple of `BLOCK`).

    `lengths` int64 [slots], on the device, says where each row's next key and value are written; the owner of the cache sets
    it before each step. `cache` is what the model takes as `past_key_values`.
    """

    def __init__(self, slots: int, capacity: int, layers: int, device: torch.device):
        self.slots, self.capacity, self.width = slots, -(-capacity // BLOCK) * BLOCK, 0
        self.rows = torch.arange(slots, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.cache = Cache(layers=[KVCacheLayer(self) for _ in range(layers)])
        self._spare: dict[int, torch.Tensor] = {}  # by size: keys and values may have heads of different sizes (DeepSeek)

    def reserve(self, positions: int) -> None:
        """Make the width at least `positions`."""
        self.width = max(self.width, -(-positions // BLOCK) * BLOCK)

    def fit(self, positions: int) -> None:
        """Make the width at least `positions`, the longest row's, and less than twice that."""
        if positions <= SHRINK * self.width:
            self.width = 0
        self.reserve(positions)

    def lay_out(self, memory: torch.Tensor, old: torch.Tensor, rows: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy `old[rows]` to the spare buffer, `width` positions wide: (that buffer, the tensor in it).

        Two preallocated buffers are swapped: `memory`, where `old` was, becomes the spare one. Allocating anew costs more in
        page faults than copying.
        """
        _, heads, width, size = old.shape
        width = min(width, self.width)
        spare = self._spare.get(len(memory))
        if spare is None:
            spare = torch.zeros_like(memory)
        new = spare[: self.slots * heads * self.width * size].view(self.slots, heads, self.width, size)
        new[:, :, :width] = old[rows, :, :width]
        new[:, :, width:] = 0  # what a mask hides is multiplied by a weight of 0, so it must be finite
        self._spare[len(memory)] = memory
        return spare, new

    def fill(self, slot: int, prefilled: DynamicCache, row: int, first: int, length: int) -> None:
        """Copy `length` positions of a prefilled row, from position `first` on, to the beginning of a slot."""
        self.reserve(length)
        for layer, source in zip(self.cache.layers, prefilled.layers, strict=True):
            layer.reserve(source.keys, source.values)
            layer.keys[slot, :, :length] = source.keys[row, :, first : first + length]
            layer.values[slot, :, :length] = source.values[row, :, first : first + length]

    def compact(self, keep: list[int], positions: int) -> None:
        """Move the rows of the slots in `keep` (ascending) to slots 0, 1, …, with room for `positions`; drop the others."""
        self.slots = len(keep)
        self.rows = self.rows[: len(keep)]
        self.width = 0
        self.reserve(positions)
        index = torch.tensor(keep, device=self.rows.device)
        for layer in self.cache.layers:
            layer.lay_out(index)

    def clear(self) -> None:
        """Release the memory now: the layers refer back to this object, so otherwise it waits for the garbage collector."""
        self.cache.layers.clear()


class KVCacheLayer(CacheLayerMixin):
    """Keys and values of one layer: [slots, heads, width, head size].

    They are passed to attention in full width, hidden positions included, because a batched product would copy a slice of a
    larger tensor first.
    """

    def __init__(self, state: KVCache):
        super().__init__()
        self.state = state

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers, once the heads, head sizes and type are known."""
        slots, capacity, tensors = self.state.slots, self.state.capacity, (key_states, value_states)
        self.memory = [t.new_zeros(slots * t.shape[1] * capacity * t.shape[3]) for t in tensors]
        self.keys, self.values = (t.new_zeros(slots, t.shape[1], 0, t.shape[3]) for t in tensors)
        self.is_initialized = True

    def reserve(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the cache's present width."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[2] != self.state.width:
            self.lay_out(slice(None))

    def lay_out(self, rows: slice | torch.Tensor) -> None:
        """Keep these rows, in the cache's present width."""
        self.memory[0], self.keys = self.state.lay_out(self.memory[0], self.keys, rows)
        self.memory[1], self.values = self.state.lay_out(self.memory[1], self.values, rows)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one key and value per row at the row's length; both [rows, heads, 1, size]. Returns all keys and values."""
        self.reserve(key_states, value_states)
        n, lengths = key_states.shape[0], self.state.lengths
        rows = self.state.rows[:n]
        self.keys[rows, :, lengths[:n]] = key_states[:, :, 0]
        self.values[rows, :, lengths[:n]] = value_states[:, :, 0]
        return self.keys[:n], self.values[:n]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.state.width, 0

    def get_seq_length(self) -> int:
        return self.state.width - 1

    def get_max_length(self) -> int:
        return self.state.capacity
