"""Rows that share a prefix: the same attention, the same tokens, one copy of the prefix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling, prefill_batches, shared_prefixes, suffixes
from minisw.engine.sampler import Sampler
from minisw.engine.shared_prefix import SharedPrefixCache, behind_prefixes, decoding_attention

KV, HEADS, SIZE, VALUE_SIZE = 2, 6, 8, 5


class Layer(torch.nn.Module):
    layer_idx = 0


def prefilled(length: int, rows: int = 2) -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.randn(rows, KV, length, SIZE), torch.randn(rows, KV, length, VALUE_SIZE), 0)
    return cache


class Rows:
    """A `SharedPrefixCache`, and for each slot the keys and values that its row should see: the oracle of these tests."""

    def __init__(self, slots: int):
        self.shared = SharedPrefixCache(slots, 1, torch.device("cpu"))
        self.expected: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, cache: DynamicCache, row: int, length: int) -> None:
        self.shared.add(cache, row, length)
        self.newest = cache.layers[0].keys[row], cache.layers[0].values[row]

    def join(self, slot: int, length: int) -> None:
        self.shared.join(slot, length)
        self.expected[slot] = tuple(t[:, :length].clone() for t in self.newest)

    def leave(self, slot: int) -> None:
        self.shared.leave(slot)
        del self.expected[slot]

    def compact(self, keep: list[int]) -> None:
        self.shared.compact(keep)
        self.expected = {new: self.expected[old] for new, old in enumerate(keep)}

    def check(self) -> None:
        """Attention of every row equals usual attention over its prefix and its own tokens, side by side."""
        n = max(self.expected) + 1
        query, keys, values = torch.randn(n, HEADS, 1, SIZE), torch.randn(n, KV, 4, SIZE), torch.randn(n, KV, 4, VALUE_SIZE)
        own = torch.arange(n) % 4 + 1
        mask = (torch.arange(4) < own[:, None])[:, None, None]
        self.shared.refresh()
        out, _ = decoding_attention(Layer(), query, keys, values, mask, scaling=0.3, shared=self.shared)
        assert out.shape == (n, 1, HEADS, VALUE_SIZE)
        for slot, (prefix_keys, prefix_values) in self.expected.items():
            k = torch.cat([prefix_keys, keys[slot, :, : own[slot]]], dim=1).repeat_interleave(HEADS // KV, dim=0)
            v = torch.cat([prefix_values, values[slot, :, : own[slot]]], dim=1).repeat_interleave(HEADS // KV, dim=0)
            torch.testing.assert_close(out[slot, 0], F.scaled_dot_product_attention(query[slot], k, v, scale=0.3)[:, 0])


def test_attention_over_shared_prefixes_is_attention():
    rows = Rows(6)
    # groups of different widths and lengths, one of length 0; a row may use a part of its prefix
    for length, joined in ((12, {0: 12, 1: 7, 2: 12}), (5, {3: 5}), (0, {4: 0, 5: 0})):
        rows.add(prefilled(12), row=1, length=length)
        for slot, part in joined.items():
            rows.join(slot, part)
    rows.check()
    for slot in (1, 3):
        rows.leave(slot)
    rows.check()  # a slot without a row may be between others
    rows.compact([0, 2, 4, 5])  # no row uses the second prefix any more: the third takes its place
    assert rows.shared.group_of == [0, 0, 1, 1] and rows.shared.lengths == [12, 0]
    assert rows.shared.keys[0].shape == (2, KV, 12, SIZE)
    rows.check()
    for slot in (0, 1):
        rows.leave(slot)
    rows.add(prefilled(7), row=0, length=7)  # takes the place of the first prefix, and is the longest: the room is cut to it
    rows.join(1, 7)
    rows.check()
    assert rows.shared.positions == 7
    rows.add(prefilled(15), row=1, length=15)
    rows.join(0, 9)
    rows.check()


def test_compaction_right_after_a_prefix_was_added():
    """The last waiting row takes a slot and the batch shrinks in one step, without an attention step in between."""
    rows = Rows(3)
    rows.add(prefilled(6), row=0, length=6)
    for slot in range(3):
        rows.join(slot, 6)
    rows.check()
    for slot in range(3):
        rows.leave(slot)
        if slot == 0:
            rows.add(prefilled(5), row=0, length=5)
            rows.join(0, 5)
    rows.add(prefilled(4), row=1, length=4)
    rows.join(2, 3)
    rows.compact([2])
    rows.check()


@pytest.mark.slow
def test_any_order_of_events():
    """200 random events: rows join and leave, prefixes come, the batch shrinks."""
    generator = torch.Generator().manual_seed(3)

    def pick(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    for _ in range(12):
        rows = Rows(7)
        rows.add(prefilled(9), row=0, length=9)
        for slot in range(7):
            rows.join(slot, pick(10))
        while len(rows.expected) > 1:
            if pick(3) == 0:
                rows.check()
            slot = sorted(rows.expected)[pick(len(rows.expected))]
            rows.leave(slot)
            if pick(4):
                length = 1 + pick(12)
                rows.add(prefilled(12), row=pick(2), length=length)
                rows.join(slot, pick(length + 1))
            elif rows.expected and pick(2):
                rows.compact(sorted(rows.expected))
        if rows.expected:
            rows.check()


def test_a_prefix_is_stored_once(tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch):
    added, made = [], []
    init, add = SharedPrefixCache.__init__, SharedPrefixCache.add
    monkeypatch.setattr(SharedPrefixCache, "__init__", lambda self, *a: (made.append(a), init(self, *a))[1])
    monkeypatch.setattr(SharedPrefixCache, "add", lambda self, *a: (added.append(a[2]), add(self, *a))[1])
    Sampler(tiny_lm, 8).generate([Request(prompts[0], 5), Request(prompts[5], 4, (9, 4))], Sampling(3), seed=0)
    assert sorted(added) == sorted([len(prompts[0]) - 1, 8])  # two, not thirteen
    Sampler(tiny_lm, 8).generate([Request([i, *ids]) for i, ids in enumerate(prompts)], Sampling(3), seed=0)
    assert len(made) == 1  # single rows have nothing to share


@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.slow), 2, 4, 5, 50])
def test_sharing_changes_no_token(slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch):
    """Rows of a group end at different times, so groups shrink, slots are filled again and rows move."""
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


# --- requests that begin alike ---------------------------------------------------------------------------------------------


@pytest.fixture
def chain(prompts: list[list[int]]) -> list[Request]:
    """Like the steps of two solutions, judged one by one: a growing history, then a suffix of its own. Mixed, one twice."""
    steps = []
    for number, start in enumerate((prompts[5], prompts[1] + prompts[0])):
        history = start + prompts[2] + prompts[3]
        steps += [Request(history[: len(start) + n] + [7 + number + n] * (3 + n % 2)) for n in range(0, 10, 2)]
    return [steps[i] for i in (3, 8, 0, 5, 1, 9, 2, 4, 7, 6)] + [steps[3], Request(prompts[4]), Request(steps[2].ids[:-2], 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "prefill_tokens"), [(1, 8192), (3, 60), (50, 8192), (50, 1)])
def test_requests_that_begin_alike_share_what_they_have_in_common(
    slots: int, prefill_tokens: int, tiny_lm: LanguageModel, chain: list[Request], monkeypatch: pytest.MonkeyPatch
):
    with torch.no_grad():
        tops = [tiny_lm.model(torch.tensor([r.ids])).logits[0, -1].argmax().item() for r in chain]
    monkeypatch.setattr(tiny_lm, "end_ids", tops[:2])  # some end at once
    for sampling in (Sampling(9, 0.0), Sampling(9, 1.0)):
        shared = Sampler(tiny_lm, slots, prefill_tokens).generate(chain, sampling, seed=5)
        assert shared == Sampler(tiny_lm, slots, prefill_tokens, share=False).generate(chain, sampling, seed=5)
    greedy = Sampler(tiny_lm, slots, prefill_tokens).generate(chain, Sampling(1, 0.0), seed=0)
    assert [group[0].ids[0] for group in greedy] == tops


def test_members_of_a_shared_prefix(chain: list[Request]):
    prefixes = shared_prefixes(chain)
    assert sorted(i for prefix in prefixes for i in prefix.members) == list(range(len(chain)))
    assert max(len(prefix.members) for prefix in prefixes) >= 5 and len(prefixes) <= 5
    assert [len(prefix.ids) for prefix in prefixes] == sorted((len(prefix.ids) for prefix in prefixes), reverse=True)
    for prefix in prefixes:
        for i, common in prefix.members.items():
            ids = chain[i].ids
            assert ids[:common] == prefix.ids[:common]
            assert ids == prefix.ids or ids[common : common + 1] != prefix.ids[common : common + 1]  # and no token more


def test_requests_that_begin_differently_share_nothing(prompts: list[list[int]]):
    prefixes = shared_prefixes([Request([i, *ids]) for i, ids in enumerate(prompts)])
    assert sorted(i for prefix in prefixes for i in prefix.members) == list(range(len(prompts)))
    assert all(len(prefix.members) == 1 for prefix in prefixes)
    assert shared_prefixes([Request([1, 2], 0), Request([1, 2], 0, (1,))]) == []


def test_suffixes_by_hand():
    requests = [Request([1, 2, 3, 4, 5, 6]), Request([1, 2, 3, 7, 8]), Request([1, 2, 3, 9]), Request([5, 5], 2)]
    batch = shared_prefixes(requests)
    assert [(prefix.ids, prefix.members) for prefix in batch] == [([1, 2, 3, 4, 5, 6], {0: 6, 1: 3, 2: 3}), ([5, 5], {3: 2})]
    # request 1 still has to prefill its 7 (8 is read when sampling begins), request 2 nothing
    assert {i: (s.prefix, s.start, s.ids) for i, s in suffixes(requests, batch).items()} == {1: (0, 3, [7])}


def test_prefill_batches_stay_within_their_tokens(chain: list[Request]):
    prefixes = shared_prefixes(chain)
    longest = len(prefixes[0].ids)
    for limit in (1, longest, 2 * longest + 20, 10**6):
        batches = list(prefill_batches(chain, prefixes, limit))
        assert [prefix for batch in batches for prefix in batch] == prefixes
        for batch in batches:
            rest = [len(suffix.ids) for suffix in suffixes(chain, batch).values()]
            tokens = len(batch) * len(batch[0].ids) + len(rest) * max(rest, default=0)
            assert tokens <= limit or len(batch) == 1
    assert len(list(prefill_batches(chain, prefixes, 1))) == len(prefixes) and len(batches) == 1


def test_rows_behind_prefixes_have_the_states_of_whole_rows(tiny_lm: LanguageModel, prompts: list[list[int]]):
    decoder = tiny_lm.causal_lm.get_decoder()
    pad, rests = 0, [[9, 8, 7], [5], [6, 4]]
    owner, lengths = torch.tensor([0, 1, 0]), torch.tensor([4, 3, 2])
    sequences = [prompts[0][:6], prompts[1][:4]]
    prefixes = DynamicCache()
    with torch.no_grad():
        decoder(input_ids=torch.tensor([s + [pad] * (6 - len(s)) for s in sequences]), past_key_values=prefixes, use_cache=True)
        ids = torch.tensor([rest + [pad] * (3 - len(rest)) for rest in rests])
        hidden, cache = behind_prefixes(decoder, prefixes, owner, lengths, ids)
        for row, rest in enumerate(rests):
            whole = sequences[owner[row]][: lengths[row]] + rest
            expected = decoder(input_ids=torch.tensor([whole])).last_hidden_state[0, lengths[row] :]
            torch.testing.assert_close(hidden[row, : len(rest)], expected, rtol=1e-4, atol=1e-4)
    assert cache.get_seq_length() == 6 + 3


def test_the_models_own_attention_is_restored(tiny_lm: LanguageModel, prompts: list[list[int]]):
    before = tiny_lm.causal_lm.config._attn_implementation

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sampler(tiny_lm).generate([Request(prompts[0], 2)], Sampling(3), 0, progress=stop)
    assert tiny_lm.causal_lm.config._attn_implementation == before
