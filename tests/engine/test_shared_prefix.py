"""Rows that share a prefix: the same attention, the same tokens, one copy of the prefix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling, trunks
from minisw.engine.sampler import Sampler
from minisw.engine.shared_prefix import SharedPrefixes, decoding_attention

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
    # groups of different widths and lengths, one of them empty; a row may stand on a part
    for length, rows in ((12, {0: 12, 1: 7, 2: 12}), (5, {3: 5}), (0, {4: 0, 5: 0})):
        shared.add(prefilled(12), row=1, length=length)
        for slot, part in rows.items():
            shared.join(slot, part)
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
    shared.join(1, 7)
    check(shared, [1, 2, 3])
    assert shared.view == 7
    shared.add(prefilled(15), row=1, length=15)
    shared.join(0, 9)
    check(shared, [0, 1, 2, 3])


def test_a_prefix_is_kept_once(tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch):
    added, made = [], []
    init, add = SharedPrefixes.__init__, SharedPrefixes.add
    monkeypatch.setattr(SharedPrefixes, "__init__", lambda self, *a: (made.append(a), init(self, *a))[1])
    monkeypatch.setattr(SharedPrefixes, "add", lambda self, *a: (added.append(a[2]), add(self, *a))[1])
    Sampler(tiny_lm, 8).generate([Request(prompts[0], 5), Request(prompts[5], 4, (9, 4))], Sampling(3), seed=0)
    assert sorted(added) == sorted([len(prompts[0]) - 1, 8])  # two, not thirteen
    Sampler(tiny_lm, 8).generate([Request([at, *ids]) for at, ids in enumerate(prompts)], Sampling(3), seed=0)
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


@pytest.fixture
def chain(prompts: list[list[int]]) -> list[Request]:
    """As the steps of two solutions, judged one by one: what came before grows, a tail of its own follows; mixed, one twice."""
    asked = []
    for number, start in enumerate((prompts[5], prompts[1] + prompts[0])):
        history = start + prompts[2] + prompts[3]
        asked += [Request(history[: len(start) + at] + [7 + number + at] * (3 + at % 2)) for at in range(0, 10, 2)]
    return [asked[i] for i in (3, 8, 0, 5, 1, 9, 2, 4, 7, 6)] + [asked[3], Request(prompts[4]), Request(asked[2].ids[:-2], 2)]


@pytest.mark.parametrize(("slots", "prefill_tokens"), [(1, 8192), (3, 60), (50, 8192), (50, 1)])
def test_requests_that_begin_alike_share_what_they_have_in_common(
    slots: int, prefill_tokens: int, tiny_lm: LanguageModel, chain: list[Request], monkeypatch: pytest.MonkeyPatch
):
    found = trunks(chain)
    assert sorted(i for trunk in found for i in trunk.members) == list(range(len(chain)))
    assert max(len(trunk.members) for trunk in found) >= 5 and len(found) <= 5
    for trunk in found:
        for i, common in trunk.members.items():
            assert (
                chain[i].ids[:common] == trunk.ids[:common]
                and chain[i].ids[common : common + 1] != trunk.ids[common : common + 1]
                or (chain[i].ids == trunk.ids)
            )
    with torch.no_grad():
        tops = [tiny_lm.model(torch.tensor([r.ids])).logits[0, -1].argmax().item() for r in chain]
    monkeypatch.setattr(tiny_lm, "end_ids", tops[:2])  # some end at once
    for sampling in (Sampling(9, 0.0), Sampling(9, 1.0)):
        shared = Sampler(tiny_lm, slots, prefill_tokens).generate(chain, sampling, seed=5)
        assert shared == Sampler(tiny_lm, slots, prefill_tokens, share=False).generate(chain, sampling, seed=5)
    greedy = Sampler(tiny_lm, slots, prefill_tokens).generate(chain, Sampling(1, 0.0), seed=0)
    assert [group[0].ids[0] for group in greedy] == tops


def test_requests_that_begin_differently_share_nothing(prompts: list[list[int]]):
    found = trunks([Request([at, *ids]) for at, ids in enumerate(prompts)])
    assert sorted(i for trunk in found for i in trunk.members) == list(range(len(prompts)))
    assert all(len(trunk.members) == 1 for trunk in found)


def test_the_models_own_attention_is_put_back(tiny_lm: LanguageModel, prompts: list[list[int]]):
    before = tiny_lm.causal_lm.config._attn_implementation

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sampler(tiny_lm).generate([Request(prompts[0], 2)], Sampling(3), 0, progress=stop)
    assert tiny_lm.causal_lm.config._attn_implementation == before
