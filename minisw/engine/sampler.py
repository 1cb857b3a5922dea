"""The fast sampler. It returns what `SimpleSampler` (`simple_sampler.py`, read that one first) returns, in less time and memory.

Four ideas, each in one place:

1. **Prefill once, branch many** (`Sampler._prefilled`): one forward pass over a sequence computes keys and values for all its
   positions, and a branch may start at any of them. All boundaries of a solution and all samples of a group share that pass;
   requests that begin alike (the steps of one solution, judged one by one) share the part that they have in common.
2. **A shared prefix is stored once and read once** (`shared_prefix.py`): rows that start on it do not copy it.
3. **A cache that does not grow by concatenation** (`kv_cache.py`): every running row owns a slot of one buffer.
4. **Finished rows make room** (`_Decoder`): a slot whose row has ended takes the next branch, longest prefix first. When no
   branches are left, the running rows move together and the batch shrinks.

It replaces the model's attention. `generate` raises ValueError, before anything is sampled, for a model whose attention does
more than that (`shared_prefix.unsupported`): use the simple sampler there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from minisw.engine import distributed
from minisw.engine.kv_cache import KVCache
from minisw.engine.model import LanguageModel
from minisw.engine.random_streams import sample, streams, uniforms
from minisw.engine.requests import (
    Completion,
    Request,
    Sampling,
    SharedPrefix,
    StopRule,
    prefill_batches,
    shared_prefixes,
    suffixes,
)
from minisw.engine.shared_prefix import SharedPrefixCache, attention, behind_prefixes, unsupported
from minisw.engine.simple_sampler import Progress, SimpleSampler
from minisw.recipe import ModelKnobs

COMPACT = 0.75  # rows move together when at most this fraction of them still runs: moving costs as much as some tokens


def make_sampler(lm: LanguageModel, knobs: ModelKnobs) -> SimpleSampler:
    """The sampler that `knobs.sampler` names."""
    if knobs.sampler == "simple":
        return SimpleSampler(lm, knobs.slots)
    return Sampler(lm, knobs.slots, knobs.prefill_tokens)


@dataclass
class _Row:
    """A row to sample: where its prefix lies after the prefill, and what it writes.

    The prefix is `shared` positions of the shared prefix, then `length` positions of row `row` of `prefilled`, from `first`
    on, then `token`, which is read next. While the row runs, `length` counts the positions in its slot.
    """

    prefilled: DynamicCache | None
    row: int
    first: int
    shared: int
    length: int
    token: int
    completion: Completion
    stream: int
    idle: bool = False  # it has ended, and its slot waits for the next compaction


@dataclass(frozen=True)
class _Group:
    """A shared prefix after its prefill (row `row` of `prefilled`), and the rows that begin on it."""

    prefilled: DynamicCache
    row: int
    rows: list[_Row]


class Sampler(SimpleSampler):
    """Samples from a `LanguageModel` with its active adapter, at most `slots` rows at a time.

    `prefill_tokens` bounds the tokens of one prefill pass. With `share=False` every row copies its prefix: the same tokens but
    for rounding, to measure what sharing saves.
    """

    def __init__(self, lm: LanguageModel, slots: int = 128, prefill_tokens: int = 8192, share: bool = True):
        super().__init__(lm, slots)
        self.prefill_tokens, self.share = prefill_tokens, share

    def _use_less_memory(self) -> None:
        self.prefill_tokens = max(1, self.prefill_tokens // 2)
        super()._use_less_memory()

    def _sample(self, requests: Sequence[Request], results, sampling: Sampling, seed: int, progress: Progress) -> None:
        """Fill the completions in `results`; with several processes, each samples a share of the prefixes."""
        if reason := unsupported(self.lm.causal_lm):
            raise ValueError(f"the fast sampler would be wrong for this model, which {reason}: give --model.sampler simple")
        numbers = iter(streams(seed, sum(map(len, results))))
        rows = [[(completion, next(numbers)) for completion in group] for group in results]
        prefixes = distributed.shard(shared_prefixes(requests))
        if prefixes:
            self._decode(requests, rows, prefixes, sampling, progress)
        if distributed.count() > 1:
            for part in distributed.all_gather({i: results[i] for prefix in prefixes for i in prefix.members}):
                for i, completions in part.items():
                    results[i] = completions

    def _decode(self, requests, rows, prefixes: list[SharedPrefix], sampling: Sampling, progress: Progress) -> None:
        """Sample the rows of all members of these prefixes."""
        device, layers = self.lm.device, self.lm.causal_lm.config.get_text_config(decoder=True).num_hidden_layers
        members = {i: common for prefix in prefixes for i, common in prefix.members.items()}
        slots = min(self.slots, sum(len(rows[i]) for i in members))
        branching = any(requests[i].count > 1 or requests[i].starts for i in members)
        sharing = self.share and (branching or len(members) > len(prefixes))
        if not sharing:
            prefixes = [SharedPrefix(requests[i].ids, {i: 0}) for prefix in prefixes for i in prefix.members]
            members = dict.fromkeys(members, 0)
        longest = max(len(requests[i].ids) - common for i, common in members.items())
        cache = KVCache(slots, longest + sampling.max_new_tokens, layers, device)
        shared = SharedPrefixCache(slots, layers, device) if sharing else None
        try:
            with self.lm.merged(), attention(self.lm.causal_lm):
                groups = self._prefilled(requests, rows, prefixes)
                _Decoder(self.lm, cache, shared, self.stop_rule, sampling, progress).run(groups)
        finally:
            cache.clear()

    def _prefilled(self, requests, rows, prefixes: list[SharedPrefix]) -> Iterator[_Group]:
        """Prefill batch by batch, when the next group is needed."""
        decoder = self.lm.causal_lm.get_decoder()
        for batch in prefill_batches(requests, prefixes, self.prefill_tokens):
            # rows are left-aligned and attention is causal: the padding behind a sequence cannot change it
            ids, prefilled = self._padded([prefix.ids for prefix in batch]), DynamicCache()
            decoder(input_ids=ids, past_key_values=prefilled, use_cache=True)
            if prefilled.get_seq_length() != ids.shape[1]:  # transformers silently ignores use_cache while it checkpoints
                raise RuntimeError("sampling needs the model's cache, which gradient checkpointing drops: leave `lm.training()`")
            rest = suffixes(requests, batch)
            if rest:
                owner = torch.tensor([suffix.prefix for suffix in rest.values()], device=ids.device)
                lengths = torch.tensor([suffix.start for suffix in rest.values()], device=ids.device)
                _, behind = behind_prefixes(decoder, prefilled, owner, lengths, self._padded([s.ids for s in rest.values()]))
            place = {i: number for number, i in enumerate(rest)}
            for number, prefix in enumerate(batch):
                group = _Group(prefilled, number, [])
                for i, common in prefix.members.items():
                    # a request with a suffix begins where `behind` keeps it: after the room for the longest prefix
                    where = (behind, place[i], ids.shape[1]) if i in rest else (prefilled, number, 0)
                    for start, (completion, stream) in zip(requests[i].branches(), rows[i], strict=True):
                        shared = min(common, start - 1)  # the last token of a prefix is read first, so it is not in the cache
                        own = start - 1 - shared
                        group.rows.append(_Row(*where, shared, own, requests[i].ids[start - 1], completion, stream))
                yield group

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Right-padded token ids [rows, longest]."""
        ids = torch.full((len(rows), max(map(len, rows))), self.lm.tokenizer.pad_token_id)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        return ids.to(self.lm.device)


class _Decoder:
    """The decoding loop over the rows that run at once.

    The host knows every row's length, so the device tensors of a step are incremented in place, and uploaded only after rows
    came or went. The one transfer from the device per token carries the chosen tokens and their log-probabilities.
    """

    def __init__(
        self,
        lm: LanguageModel,
        cache: KVCache,
        shared: SharedPrefixCache | None,
        stop_rule: StopRule,
        sampling: Sampling,
        progress: Progress,
    ):
        self.lm, self.cache, self.shared = lm, cache, shared
        self.stop_rule, self.sampling, self.progress = stop_rule, sampling, progress
        self.rows: list[_Row] = []  # by slot
        self._changed = True  # rows came or went since the last upload

    def run(self, groups: Iterator[_Group]) -> None:
        """Sample all rows of `groups`: 1. fill the slots; then 2. choose a token per row, 3. refill or 4. drop ended rows."""
        self._waiting = self._each(groups)
        while len(self.rows) < self.cache.slots and self._start(len(self.rows)):
            pass
        while self.rows:
            for slot in self._append(self._step()):
                if self.shared:
                    self.shared.leave(slot)
                if not self._start(slot):
                    self.rows[slot].idle = True
                    self.rows[slot].length = 0  # what it still writes stays within its slot
                    self._changed = True
            self._compact()

    def _each(self, groups: Iterator[_Group]) -> Iterator[_Row]:
        for group in groups:
            if self.shared:
                self.shared.add(group.prefilled, group.row, max(row.shared for row in group.rows))
            yield from group.rows

    def _start(self, slot: int) -> bool:
        """Put the next waiting row into a slot; False if there is none."""
        row = next(self._waiting, None)
        if row is None:
            return False
        if self.shared:
            self.shared.join(slot, row.shared)
        self.cache.fill(slot, row.prefilled, row.row, row.first, row.length)
        row.prefilled = None  # the last row of a prefill releases its memory
        self.rows[slot : slot + 1] = [row]
        self._changed = True
        return True

    def _step(self) -> tuple[list[int], list[float]]:
        """Read one token per row and choose the next: (token ids, their log-probabilities), by slot."""
        self.cache.fit(max(row.length for row in self.rows) + 1)
        if self._changed:
            self._upload()
        extra = {}
        if self.shared:
            self.shared.refresh()
            extra = {"shared": self.shared}
        columns = torch.arange(self.cache.width, device=self.lm.device)
        logits = self.lm.causal_lm(
            input_ids=self._tokens[:, None],
            attention_mask=(columns <= self.cache.lengths[:, None])[:, None, None],  # [rows, 1, 1, width]
            position_ids=self._positions[:, None],
            past_key_values=self.cache.cache,
            use_cache=True,
            **extra,
        ).logits[:, -1]  # [rows, vocabulary]
        self._tokens, logprobs = sample(logits, self.sampling.temperature, uniforms(self._streams, self._drawn))
        self._counters += 1
        for row in self.rows:
            row.length += 1
        tokens, logprobs = torch.stack([self._tokens.double(), logprobs.double()]).tolist()  # the transfer
        return [int(token) for token in tokens], logprobs

    def _upload(self) -> None:
        """Device tensors from the rows: int64 [rows] each, and `_counters` [3, rows], views of which count with each token."""
        values = [(r.token, r.stream, len(r.completion.ids), r.shared + r.length, r.length) for r in self.rows]
        state = torch.tensor(values, device=self.lm.device).T.contiguous()
        self._tokens, self._streams, self._counters = state[0], state[1], state[2:]
        self._drawn, self._positions, self.cache.lengths = self._counters
        self._changed = False

    def _append(self, chosen: tuple[list[int], list[float]]) -> list[int]:
        """Append the chosen tokens to the completions of running rows; the slots whose rows have ended."""
        ended = []
        for slot, (row, token, logprob) in enumerate(zip(self.rows, *chosen, strict=True)):
            if row.idle:
                continue
            row.token, completion = token, row.completion
            completion.ids.append(token)
            completion.logprobs.append(logprob)
            completion.finished = self.stop_rule.ended(completion.ids, self.sampling.stop)
            if completion.finished or len(completion.ids) >= self.sampling.max_new_tokens:
                ended.append(slot)
                if self.progress:
                    self.progress(1)
        return ended

    def _compact(self) -> None:
        """Move the running rows together if enough slots are idle."""
        running = [slot for slot, row in enumerate(self.rows) if not row.idle]
        if running and len(running) > COMPACT * len(self.rows):
            return
        self.rows = [self.rows[slot] for slot in running]
        if self.rows:
            self.cache.compact(running, max(row.length for row in self.rows) + 1)
            if self.shared:
                self.shared.compact(running)
            self._changed = True
