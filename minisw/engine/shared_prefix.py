"""Attention for rows that begin with the same prefix, whose keys and values are stored once and read once.

The samples of a group, or the M branches from a boundary, are rows whose first hundreds of positions are equal. Decoding is
bound by reading the cache, and most of that would be copies of one prompt. So a prefix is stored once (`SharedPrefixCache`). The
queries of all its rows go through it in one matrix product, and each row's own few positions in another; one softmax covers
both kinds of scores. The result is usual attention, but for rounding. The idea is known as bifurcated attention
(Athiwaratkun et al. 2024) or cascade attention. A row may use only the first positions of its prefix: all boundaries of one
solution are rows on one prefix.

This replaces a model's attention, so it is right only for models that do plain causal attention over all positions, through
transformers' AttentionInterface. `unsupported` says why a model is not one of these.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "minisw_decoding"  # transformers finds `decoding_attention` under this name
PROBE = "minisw_probe"
SHRINK = 0.75  # prefixes are cut to the longest one in use if that needs at most this fraction of their room

# arguments with which a model asks its attention function for more than softmax(q k) v
EXTRAS = {
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "sliding_window": "a sliding window",
    "position_bias": "a position bias",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
}


class SharedPrefixCache:
    """Keys and values of prefixes, a tensor [groups, heads, positions, head size] a layer, and the slots whose rows use each.

    A group is a prefix and the rows on it. Groups without rows are used again.
    """

    def __init__(self, slots: int, layers: int, device: torch.device):
        self.device = device
        self.keys: list[torch.Tensor] = [torch.empty(0)] * layers
        self.values: list[torch.Tensor] = [torch.empty(0)] * layers
        self.groups = self.positions = 0  # allocated
        self.used = self.rows_per_group = 0  # groups up to the last one with rows; rows of the largest group
        self.lengths: list[int] = []  # of each group's prefix
        self.slots_of: list[list[int]] = []
        self.group_of = [-1] * slots
        self.offsets = [0] * slots  # how many positions of its prefix the row in each slot uses
        self.newest = -1  # the group that new rows join
        self._stale = True

    def add(self, prefilled: DynamicCache, row: int, length: int) -> None:
        """Store the first `length` positions of a prefilled row, for the rows that join from now on."""
        group = next((group for group, slots in enumerate(self.slots_of) if not slots), len(self.slots_of))
        if group == len(self.slots_of):
            self.slots_of.append([])
            self.lengths.append(0)
        self._reserve(prefilled, group + 1, length)
        for keys, values, layer in zip(self.keys, self.values, prefilled.layers, strict=True):
            keys[group, :, :length] = layer.keys[row, :, :length]
            values[group, :, :length] = layer.values[row, :, :length]
        self.lengths[group] = length
        self.newest = group

    def _reserve(self, prefilled: DynamicCache, groups: int, positions: int) -> None:
        if groups <= self.groups and positions <= self.positions:
            return
        if not self.groups:  # the first: heads, head sizes and type are known now
            self.keys = [layer.keys[:0, :, :0] for layer in prefilled.layers]
            self.values = [layer.values[:0, :, :0] for layer in prefilled.layers]
        if groups > self.groups:
            groups = max(groups, self.groups * 3 // 2)
        more = (0, 0, 0, max(0, positions - self.positions), 0, 0, 0, max(0, groups - self.groups))
        self.keys, self.values = [F.pad(k, more) for k in self.keys], [F.pad(v, more) for v in self.values]
        self.groups, self.positions = max(groups, self.groups), max(positions, self.positions)

    def join(self, slot: int, length: int) -> None:
        """The row in `slot` uses the first `length` positions of the prefix that was added last."""
        self.slots_of[self.newest].append(slot)
        self.group_of[slot], self.offsets[slot], self._stale = self.newest, length, True

    def leave(self, slot: int) -> None:
        """The row in `slot` has ended."""
        self.slots_of[self.group_of[slot]].remove(slot)
        self.group_of[slot], self._stale = -1, True

    def compact(self, keep: list[int]) -> None:
        """The rows of the slots in `keep` have moved to slots 0, 1, …; prefixes without rows are dropped."""
        alive = sorted({self.group_of[slot] for slot in keep})
        if len(alive) < len(self.slots_of):  # not `used`, which does not know the groups added since the last `refresh`
            self.keys, self.values = [k[alive] for k in self.keys], [v[alive] for v in self.values]
            self.groups = len(alive)
        new = {group: number for number, group in enumerate(alive)}
        self.lengths = [self.lengths[group] for group in alive]
        self.offsets = [self.offsets[slot] for slot in keep]
        self.group_of = [new[self.group_of[slot]] for slot in keep]
        self.slots_of = [[slot for slot, of in enumerate(self.group_of) if of == group] for group in range(len(alive))]
        self._stale = True

    def refresh(self) -> None:
        """Compute the index tensors of the next step, if rows came or went."""
        if not self._stale:
            return
        self.used, self.rows_per_group = max(self.group_of) + 1, max(map(len, self.slots_of))
        longest = max(length for length, slots in zip(self.lengths, self.slots_of, strict=True) if slots)
        if longest < SHRINK * self.positions:  # long prefixes come first
            self.keys = [k[:, :, :longest].contiguous() for k in self.keys]
            self.values = [v[:, :, :longest].contiguous() for v in self.values]
            self.positions = longest
        slots_of = self.slots_of[: self.used]
        padded = [slots + [0] * (self.rows_per_group - len(slots)) for slots in slots_of]
        self.index = torch.tensor(padded, device=self.device)  # [used, rows per group]: slots
        place = [0] * len(self.group_of)  # the inverse; a slot without a row has any place
        for group, slots in enumerate(slots_of):
            for number, slot in enumerate(slots):
                place[slot] = group * self.rows_per_group + number
        self.place = torch.tensor(place, device=self.device)
        offsets = torch.tensor([[self.offsets[slot] for slot in slots] for slots in padded], device=self.device)
        # [used, 1, rows per group, 1, positions]: the positions of its prefix that a row does not use
        self.hidden = (torch.arange(self.positions, device=self.device) >= offsets[..., None])[:, None, :, None]
        self._stale = False

    def by_group(self, rows: torch.Tensor) -> torch.Tensor:
        """[slots, heads, queries, size] → [used, heads, rows per group × queries, size]: the rows of each group together."""
        _, heads, queries, size = rows.shape
        return rows[self.index].transpose(1, 2).reshape(self.used, heads, self.rows_per_group * queries, size)

    def by_row(self, groups: torch.Tensor, slots: int) -> torch.Tensor:
        """The inverse of `by_group`, for the first `slots` slots."""
        _, heads, queries, size = groups.shape
        split = groups.view(self.used, heads, self.rows_per_group, queries // self.rows_per_group, size).transpose(1, 2)
        return split.reshape(self.used * self.rows_per_group, heads, queries // self.rows_per_group, size)[self.place[:slots]]


def decoding_attention(module, query, key, value, attention_mask, *args, shared: SharedPrefixCache | None = None, **kwargs):
    """Attention of one decoding step over each row's own cache and, with `shared`, over its prefix.

    query [rows, heads, 1, size]; key [rows, key-value heads, own, size]; value [rows, key-value heads, own, value size];
    attention_mask bool [rows, 1, 1, own]: True where a position is visible. Returns ([rows, 1, heads, value size], None).
    With more than one query per row (a prefill) it is transformers' own attention. On a CPU the plain products below take
    two thirds of the time of the fused kernel, whose blocks are made for many queries.
    """
    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    (rows, heads, _, size), kv_heads = query.shape, key.shape[1]
    scale = kwargs.get("scaling") or size**-0.5
    query = (query * scale).view(rows, kv_heads, heads // kv_heads, size)  # heads of one key-value head as several queries
    scores = query @ key.transpose(-1, -2)  # [rows, key-value heads, queries, own]
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask, float("-inf"))
    if shared is not None:
        keys, values = shared.keys[module.layer_idx][: shared.used], shared.values[module.layer_idx][: shared.used]
        on_prefix = shared.by_group(query) @ keys.transpose(-1, -2)  # [used, key-value heads, rows × queries, positions]
        by_row = on_prefix.view(shared.used, kv_heads, shared.rows_per_group, query.shape[2], shared.positions)
        by_row.masked_fill_(shared.hidden, float("-inf"))
        scores = torch.cat([shared.by_row(on_prefix, rows), scores], dim=-1)  # [rows, kv heads, queries, positions + own]
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    if shared is None:
        out = weights @ value
    else:
        on_prefix, own = weights.split([shared.positions, key.shape[2]], dim=-1)
        out = own @ value + shared.by_row(shared.by_group(on_prefix) @ values, rows)
    return out.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(NAME, decoding_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def attention(model: torch.nn.Module, name: str = NAME) -> Iterator[None]:
    """Inside the block the model uses the attention function `name`: by default `decoding_attention`, which takes `shared=`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def behind_prefixes(
    decoder: torch.nn.Module, prefixes: DynamicCache, owner: torch.Tensor, lengths: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, DynamicCache]:
    """Forward of rows that follow prefixes: (last hidden states [rows, length, hidden], the rows' cache).

    `owner` [rows]: which row of `prefixes` (right-padded) each row follows; `lengths` [rows]: how many of its positions;
    `ids` [rows, length]: right-padded. In the rows' cache the prefix has as many positions as the longest prefix, and the
    rows' own positions come after them. Gradients flow through the prefixes too. Only for models that
    `supports_shared_prefix` accepts.
    """
    cache, (rows, length) = DynamicCache(), ids.shape
    for number, layer in enumerate(prefixes.layers):
        cache.update(layer.keys[owner], layer.values[owner], number)
    room, own = cache.get_seq_length(), torch.arange(length, device=ids.device)
    visible = torch.arange(room, device=ids.device) < lengths[:, None]  # [rows, room]
    causal = own[None] <= own[:, None]  # [length, length]
    mask = torch.cat([visible[:, None].expand(rows, length, room), causal.expand(rows, length, length)], dim=-1)
    hidden = decoder(
        input_ids=ids,
        attention_mask=mask[:, None],
        position_ids=lengths[:, None] + own,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden, cache


# --- which models -----------------------------------------------------------------------------------------------------------

_reasons: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()


def supports_shared_prefix(model: torch.nn.Module) -> bool:
    """Whether `behind_prefixes`, and rows packed under a mask, are right for a transformers model as it is loaded."""
    return model.config._attn_implementation in ("sdpa", NAME) and not unsupported(model)


def unsupported(model: torch.nn.Module) -> str:
    """Why attention over shared prefixes would be wrong for a transformers model; "" if it is right.

    Checked by what transformers declares about the model, and by the arguments that its attention gets in a forward pass of
    two tokens. The answer is computed once for each model.
    """
    if model not in _reasons:
        _reasons[model] = _declared(model) or _observed(model)
    return _reasons[model]


def _declared(model: torch.nn.Module) -> str:
    kind = f"{type(model).__name__} "
    if getattr(model, "_is_stateful", False) or not model._supports_default_dynamic_cache():
        return kind + "keeps a recurrent state, not only keys and values"
    if not getattr(model, "_supports_attention_backend", False):
        return kind + "computes its attention itself, not through transformers' AttentionInterface"
    layers = DynamicCache(config=model.config).layers
    if "Sliding" in "".join(type(layer).__name__ for layer in layers):
        return kind + "attends through a sliding window"
    if any(type(layer) is not DynamicLayer for layer in layers):
        return kind + "has layers whose cache holds more than keys and values"
    return ""


def _observed(model: torch.nn.Module) -> str:
    """Run two tokens through the model with an attention function that notes what it gets."""
    kind, reasons, seen = f"{type(model).__name__} ", [], {}

    def watch(module, query, key, value, attention_mask, *args, shared=None, **kwargs):
        seen[module.layer_idx] = (key, value)
        reasons.extend(f"uses {what}" for name, what in EXTRAS.items() if kwargs.get(name) is not None)
        if shared is None:
            reasons.append("does not pass arguments on to its attention")
        if attention_mask is None or attention_mask.dtype != torch.bool:
            reasons.append("changes the attention mask")
            attention_mask = None
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, scaling=kwargs.get("scaling"))

    AttentionInterface.register(PROBE, watch)
    AttentionMaskInterface.register(PROBE, sdpa_mask)
    device, cache = next(model.parameters()).device, DynamicCache()
    ids, positions = torch.tensor([[1, 2]], device=device), torch.arange(2, device=device)[None]
    mask = torch.ones(2, 2, dtype=torch.bool, device=device).tril()[None, None]
    training = model.training
    with torch.no_grad(), attention(model.eval(), PROBE):  # in training, checkpointing would drop the cache
        model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, shared=PROBE)
    model.train(training)
    if reasons:
        return kind + reasons[0]
    if len(seen) != len(cache.layers) or len(seen) != model.config.get_text_config(decoder=True).num_hidden_layers:
        return kind + "computes its attention itself, not through transformers' AttentionInterface"
    cached = ((layer.keys, layer.values) for layer in cache.layers)
    if not all(torch.equal(k, seen[i][0]) and torch.equal(v, seen[i][1]) for i, (k, v) in enumerate(cached)):
        return kind + "caches other tensors than its attention reads"
    return ""
