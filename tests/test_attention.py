"""Rows that share a prefix: the same attention, the same tokens, one copy of the prefix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

from minisw.attention import SharedPrefixes, decoding_attention
from minisw.model import LanguageModel
from minisw.rollout import Request, Sampler, Sampling

KV, HEADS, SIZE = 2, 6, 8


class Layer(torch.nn.Module):
    layer_idx = 0


def prefilled(length: int, rows: int = 2) -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.randn(rows, KV, length, SIZE), torch.randn(rows, KV, length, SIZE), 0)
    return cache


def expected(query, shared: SharedPrefixes, slot: int, keys, values, own: int) -> torch.Tensor:
    """Usual attention of one row over its prefix and its own tokens, side by side."""
    group, length = shared.group_of[slot], int(shared.offsets[slot])
    k = torch.cat([shared.keys[0][group, :, :length], keys[slot, :, :own]], dim=1)
    v = torch.cat([shared.values[0][group, :, :length], values[slot, :, :own]], dim=1)
    k, v = (t.repeat_interleave(HEADS // KV, dim=0) for t in (k, v))
    return F.scaled_dot_product_attention(query[slot], k, v)[:, 0]  # [heads, size]


def check(shared: SharedPrefixes, slots: list[int]) -> None:
    n = max(slots) + 1
    query, keys, values = torch.randn(n, HEADS, 1, SIZE), torch.randn(n, KV, 4, SIZE), torch.randn(n, KV, 4, SIZE)
    own = torch.arange(n) % 4 + 1
    mask = (torch.arange(4) < own[:, None])[:, None, None]
    shared.refresh()
    out, _ = decoding_attention(Layer(), query, keys, values, mask, scaling=SIZE**-0.5, shared=shared)
    assert out.shape == (n, 1, HEADS, SIZE)
    for slot in slots:
        torch.testing.assert_close(out[slot, 0], expected(query, shared, slot, keys, values, int(own[slot])))


def test_attention_over_shared_prefixes_is_attention():
    torch.manual_seed(0)
    shared = SharedPrefixes(6, 1, torch.device("cpu"))
    for length, rows in ((12, (0, 1, 2)), (5, (3,)), (0, (4, 5))):  # groups of different widths and lengths, one of them empty
        shared.add(prefilled(12), row=1, length=length)
        for slot in rows:
            shared.join(slot)
    check(shared, [0, 1, 2, 3, 4, 5])
    for slot in (1, 3):
        shared.leave(slot)
    check(shared, [0, 2, 4, 5])  # a slot without a row may stand between
    shared.move([0, 2, 4, 5])  # the second prefix is read by nobody: the third moves to its place
    assert shared.group_of == [0, 0, 1, 1] and shared.lengths == [12, 0] and shared.keys[0].shape == (2, KV, 12, SIZE)
    check(shared, [0, 1, 2, 3])
    for slot in (0, 1):
        shared.leave(slot)
    shared.add(prefilled(7), row=0, length=7)  # in the first one's place, and then the longest: the room is cut to it
    shared.join(1)
    check(shared, [1, 2, 3])
    assert shared.view == 7
    shared.add(prefilled(15), row=1, length=15)
    shared.join(0)
    check(shared, [0, 1, 2, 3])


def test_a_prefix_is_kept_once(tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch):
    added, made = [], []
    init, add = SharedPrefixes.__init__, SharedPrefixes.add
    monkeypatch.setattr(SharedPrefixes, "__init__", lambda self, *a: (made.append(a), init(self, *a))[1])
    monkeypatch.setattr(SharedPrefixes, "add", lambda self, *a: (added.append(a[2]), add(self, *a))[1])
    Sampler(tiny_lm, 8).generate([Request(prompts[0], 5), Request(prompts[5], 4, (9, 4))], Sampling(3), seed=0)
    assert sorted(added) == sorted([len(prompts[0]) - 1, 8, 3])  # three, not thirteen
    Sampler(tiny_lm, 8).generate([Request(ids) for ids in prompts], Sampling(3), seed=0)
    assert len(made) == 1  # single rows have nothing to share


@pytest.mark.parametrize("slots", [1, 2, 5, 50])
def test_sharing_changes_no_token(slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch):
    """Rows of a group end at different times, so groups shrink, slots are filled anew and rows move."""
    likely = [token for ids in prompts for token in ids][:40]
    monkeypatch.setattr(tiny_lm, "end_ids", sorted(set(likely)))
    requests = [
        Request(ids, count, starts)
        for ids in prompts
        for count, starts in ((3, ()), (4, (1, (len(ids) + 1) // 2, len(ids))), (1, ()))
    ]
    sampling = Sampling(12, 1.0)
    shared = Sampler(tiny_lm, slots).generate(requests, sampling, seed=5)
    apart = Sampler(tiny_lm, slots, share=False).generate(requests, sampling, seed=5)
    assert shared == apart
    lengths = {len(c.ids) for group in shared for c in group}
    assert {1, 2, 3, 12} <= lengths


def test_the_models_own_attention_is_put_back(tiny_lm: LanguageModel, prompts: list[list[int]]):
    before = tiny_lm.causal_lm.config._attn_implementation

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sampler(tiny_lm).generate([Request(prompts[0], 2)], Sampling(3), 0, progress=stop)
    assert tiny_lm.causal_lm.config._attn_implementation == before
