"""Decoding attention for rows that began with the same prefix: its keys and values are kept once and read once.

A group of samples, or the M branches from a boundary, are rows whose first hundreds of positions are the same, and decoding is
bound by reading the cache, which would be mostly copies of one prompt. So a prefix is kept once (`SharedPrefixes`): the
queries of all rows that stand on it go through it in one matrix product, and through each row's own few tokens in
another. Both kinds of scores stand under one softmax, so the result is usual attention but for rounding. The idea is
known as bifurcated attention (Athiwaratkun et al. 2024) or cascade attention. Each row stands on as many positions of its
prefix as it says: all boundaries of one solution are rows on one prefix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "minisw_decoding"  # under which transformers finds `decoding_attention`


CUT = 0.75  # prefixes are cut to the longest one that is still read where that is at most this share of their room


class SharedPrefixes:
    """Keys and values of prefixes, [groups, heads, view, head size] a layer, and the slots whose rows stand on each."""

    def __init__(self, slots: int, layers: int, device: torch.device):
        self.device = device
        self.keys: list[torch.Tensor] = [torch.empty(0)] * layers
        self.values: list[torch.Tensor] = [torch.empty(0)] * layers
        self.groups = self.view = self.used = 0  # groups there is room for, positions, groups up to the last one in use
        self.lengths: list[int] = []  # of each prefix
        self.slots_of: list[list[int]] = []
        self.group_of = [-1] * slots
        self.offsets = torch.zeros(slots, dtype=torch.long, device=device)  # positions of it that the row in each slot stands on
        self.open = -1  # the prefix that new rows join
        self._stale = True

    def add(self, prefilled: DynamicCache, row: int, length: int) -> None:
        """Keep the first `length` positions of a prefilled row, for the rows that join from now on."""
        free = [group for group, slots in enumerate(self.slots_of) if not slots]
        if not free:
            self.slots_of.append([])
            self.lengths.append(0)
        self.open = group = free[0] if free else len(self.slots_of) - 1
        self._reserve(prefilled, group + 1, length)
        for keys, values, layer in zip(self.keys, self.values, prefilled.layers, strict=True):
            keys[group, :, :length] = layer.keys[row, :, :length]
            values[group, :, :length] = layer.values[row, :, :length]
        self.lengths[group] = length

    def _reserve(self, prefilled: DynamicCache, groups: int, view: int) -> None:
        if groups <= self.groups and view <= self.view:
            return
        if not self.groups:  # the first
            like = [(layer.keys[:0, :, :0], layer.values[:0, :, :0]) for layer in prefilled.layers]
            self.keys, self.values = [k for k, _ in like], [v for _, v in like]
        if groups > self.groups:
            groups = max(groups, self.groups * 3 // 2)
        more = (0, 0, 0, max(0, view - self.view), 0, 0, 0, max(0, groups - self.groups))
        self.keys, self.values = [F.pad(k, more) for k in self.keys], [F.pad(v, more) for v in self.values]
        self.groups, self.view = max(groups, self.groups), max(view, self.view)

    def join(self, slot: int, length: int) -> None:
        """The row in `slot` stands on the first `length` positions of the prefix that was added last."""
        self.slots_of[self.open].append(slot)
        self.group_of[slot], self.offsets[slot], self._stale = self.open, length, True

    def leave(self, slot: int) -> None:
        self.slots_of[self.group_of[slot]].remove(slot)
        self.group_of[slot], self._stale = -1, True

    def move(self, kept: list[int]) -> None:
        """The rows in slots `kept` now stand in slots 0, 1, …; prefixes that nobody reads any more go."""
        alive = sorted({self.group_of[slot] for slot in kept})
        if len(alive) < self.used:
            self.keys, self.values = [k[alive] for k in self.keys], [v[alive] for v in self.values]
            self.groups = len(alive)
        new = {group: number for number, group in enumerate(alive)}
        self.lengths, self.offsets = [self.lengths[group] for group in alive], self.offsets[kept]
        self.group_of = [new[self.group_of[slot]] for slot in kept]
        self.slots_of = [[slot for slot, of in enumerate(self.group_of) if of == group] for group in range(len(alive))]
        self._stale = True

    def refresh(self) -> None:
        """The index tensors of the next step, where rows came or went."""
        if not self._stale:
            return
        self.used, self.width = max(self.group_of) + 1, max(map(len, self.slots_of))
        longest = max(length for length, slots in zip(self.lengths, self.slots_of, strict=True) if slots)
        if longest < CUT * self.view:  # the queue gives long ones first
            self.keys, self.values = ([t[:, :, :longest].contiguous() for t in of] for of in (self.keys, self.values))
            self.view = longest
        slots_of = self.slots_of[: self.used]
        rows = [slots + [0] * (self.width - len(slots)) for slots in slots_of]
        self.index = torch.tensor(rows, device=self.device)  # [used, width]: the slots of each group
        place = [0] * len(self.group_of)  # the same the other way round; a slot without a row has any
        for group, slots in enumerate(slots_of):
            for at, slot in enumerate(slots):
                place[slot] = group * self.width + at
        self.place = torch.tensor(place, device=self.device)
        # [used, 1, width, 1, view]: what a row's queries may not see of its prefix
        self.hidden = (torch.arange(self.view, device=self.device) >= self.offsets[self.index][..., None])[:, None, :, None]
        self._stale = False

    def together(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, heads, queries, size] → [used, heads, width × queries, size]: the rows of a group side by side."""
        _, heads, queries, size = rows.shape
        return rows[self.index].transpose(1, 2).reshape(self.used, heads, self.width * queries, size)

    def apart(self, groups: torch.Tensor, rows: int) -> torch.Tensor:
        """The inverse of `together`, for the first `rows` slots."""
        _, heads, queries, size = groups.shape
        split = groups.view(self.used, heads, self.width, queries // self.width, size).transpose(1, 2)
        return split.reshape(self.used * self.width, heads, queries // self.width, size)[self.place[:rows]]


def decoding_attention(module, query, key, value, attention_mask, *args, shared: SharedPrefixes | None = None, **kwargs):
    """Attention of one decoding step, over each row's own cache and, with `shared`, the prefix that it stands on.

    query [rows, heads, 1, size]; key, value [rows, key-value heads, own, size]; attention_mask bool [rows, 1, 1, own].
    Where there are more queries, in a prefill, it is transformers' own. Two plain products beat the fused kernel of a
    CPU by a third here: its blocks are made for many queries, not for the two or seven that share a key-value head.
    """
    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    (rows, heads, _, size), kv_heads = query.shape, key.shape[1]
    scale = kwargs.get("scaling") or size**-0.5
    query = (query * scale).view(rows, kv_heads, heads // kv_heads, size)  # the heads of a key-value head as queries side by side
    scores = query @ key.transpose(-1, -2)  # [rows, key-value heads, queries, own]
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask, float("-inf"))
    if shared is not None:
        keys, values = shared.keys[module.layer_idx][: shared.used], shared.values[module.layer_idx][: shared.used]
        first = shared.together(query) @ keys.transpose(-1, -2)  # [used, key-value heads, width × queries, view]
        first.view(shared.used, kv_heads, shared.width, query.shape[2], shared.view).masked_fill_(shared.hidden, float("-inf"))
        scores = torch.cat([shared.apart(first, rows), scores], dim=-1)  # [rows, key-value heads, queries, view + own]
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    if shared is None:
        out = weights @ value
    else:
        first, own = weights.split([shared.view, key.shape[2]], dim=-1)
        out = own @ value + shared.apart(shared.together(first) @ values, rows)
    return out.reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, decoding_attention)


AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def decoding(model: torch.nn.Module) -> Iterator[None]:
    """Let the model attend by `decoding_attention`, which takes `shared=`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def behind_prefixes(
    decoder: torch.nn.Module, prefixes: DynamicCache, owner: torch.Tensor, before: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, DynamicCache]:
    """Forward of rows that stand on prefixes: last hidden states [rows, length, hidden], and the rows' cache.

    `owner` [rows] says on which row of `prefixes` (right-padded), `before` [rows] on how many of its positions; `ids`
    [rows, length] is right-padded. In the rows' cache the prefix has as much room as the longest, and the rows' own
    positions follow. Gradients flow through the prefixes too.
    """
    cache, (rows, length) = DynamicCache(), ids.shape
    for number, layer in enumerate(prefixes.layers):
        cache.update(layer.keys[owner], layer.values[owner], number)
    room, at = cache.get_seq_length(), torch.arange(length, device=ids.device)
    mask = torch.cat(
        [
            (torch.arange(room, device=ids.device) < before[:, None])[:, None].expand(rows, length, room),
            (at[None] <= at[:, None]).expand(rows, length, length),
        ],
        dim=-1,
    )
    hidden = decoder(
        input_ids=ids,
        attention_mask=mask[:, None],
        position_ids=before[:, None] + at,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden, cache
