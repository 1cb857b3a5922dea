"""Batched sampling from a model: the only place that generates.

Four ideas, each in one place:

- **Prefill once, branch many** (`Sampler._prefilled`): one forward over a token sequence fills keys and values for all its
  positions, and a branch may start at any prefix of it; all boundaries of a solution and all samples of a group share
  that one forward, and requests that begin alike (the steps of one solution, judged one by one) the part that they share.
- **A common prefix is kept and read once** (`attention.py`): rows that start on the same sequence do not copy it.
- **A cache that does not grow by concatenation** (`slots.py`): every running row owns a slot of one buffer and writes its
  next key and value at its own length, so rows of different lengths need no padding; the buffer grows by blocks of positions.
- **Finished rows leave**: a slot whose row has ended takes the next branch from the queue (longest prefix first); when the
  queue is empty the running rows move together and the batch shrinks.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from minisw.engine import distributed
from minisw.engine.kv_cache import KVCache
from minisw.engine.model import LanguageModel
from minisw.engine.random_streams import sample, streams, uniforms
from minisw.engine.requests import Completion, Request, Sampling, Trunk, _tails, _work, trunks
from minisw.engine.shared_prefix import SharedPrefixes, behind_prefixes, decoding

COMPACT = 0.75  # rows move together when at most this share of them still runs: moving costs as much as some tokens


log = logging.getLogger("minisw")


@dataclass(frozen=True)
class _Start:
    """Where a row begins: on `shared` positions of its trunk and `own` ones behind them, a prefilled row's from `first` on."""

    shared: int
    prefilled: DynamicCache
    row: int
    first: int
    own: int
    token: int  # the first it reads
    completion: Completion
    stream: int


@dataclass
class _Row:
    """A running row: which completion it writes, and the token it reads next."""

    completion: Completion
    token: int
    stream: int  # of the numbers that it draws
    over: bool = False  # it has ended and waits for the next compaction


class Sampler:
    """Samples from a `LanguageModel` with its active adapter, `slots` rows at a time.

    `share` False lets every row copy its prefix: the same tokens but for rounding, to measure what sharing pays.
    """

    def __init__(self, lm: LanguageModel, slots: int = 128, prefill_tokens: int = 8192, share: bool = True):
        self.lm, self.slots, self.prefill_tokens, self.share = lm, slots, prefill_tokens, share
        self.tokens = 0  # sampled so far, for the books
        self._tokens_with: dict[str, frozenset[int]] = {}  # by a character

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """Completions of every request, in the order of `Request.branches()`.

        The same requests, settings and seed give the same tokens on the same machine. Raises ValueError for an empty prefix.
        """
        if any(start < 1 or start > len(r.ids) for r in requests for start in r.branches()):
            raise ValueError("every request needs at least one token before each start, and no start beyond its end")
        while True:
            try:
                return self._generate(requests, sampling, seed, progress)
            except torch.OutOfMemoryError:
                if self.slots == 1:
                    raise ValueError("out of memory with one row: give a smaller model or --model.four-bit") from None
            # outside of `except`: a traceback would keep what is to be freed
            self.slots, self.prefill_tokens = max(1, self.slots // 2), max(1, self.prefill_tokens // 2)
            gc.collect()
            torch.cuda.empty_cache()
            log.warning("out of memory: sampling goes on with %d rows at once (--model.slots)", self.slots)

    def _generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int, progress: Callable[[int], None] | None
    ) -> list[list[Completion]]:
        results = [[Completion() for _ in request.branches()] for request in requests]
        if not any(results) or sampling.max_new_tokens < 1:
            return results
        found = distributed.shard(trunks(requests))
        if found:
            self._sample(requests, results, found, sampling, seed, progress)
        if distributed.count() > 1:
            mine = {i: results[i] for trunk in found for i in trunk.members}
            for theirs in distributed.all_gather(mine):
                for i, completions in theirs.items():
                    results[i] = completions
        self.tokens += sum(len(c.ids) for row in results for c in row)
        return results

    def _sample(self, requests, results, found: list[Trunk], sampling: Sampling, seed: int, progress) -> None:
        """Fill the completions of all requests on these trunks."""
        device, layers = self.lm.device, self.lm.causal_lm.config.num_hidden_layers
        count = min(self.slots, sum(len(results[i]) for trunk in found for i in trunk.members))
        sharing = self.share and any(
            len(t.members) > 1 or requests[i].count > 1 or requests[i].starts for t in found for i in t.members
        )
        if not sharing:
            found = [Trunk(requests[i].ids, {i: 0}) for trunk in found for i in trunk.members]
        shared = SharedPrefixes(count, layers, device) if sharing else None
        own = max(len(requests[i].ids) - common for trunk in found for i, common in trunk.members.items())
        slots = KVCache(count, own + sampling.max_new_tokens, layers, device)
        try:
            with self.lm.merged(), decoding(self.lm.causal_lm):
                numbers = iter(streams(seed, sum(map(len, results))))
                rows = [[(completion, next(numbers)) for completion in group] for group in results]
                queue = self._prefilled(requests, rows, found)
                self._run(slots, shared, queue, sampling, progress)
        finally:
            slots.cache.layers.clear()  # its layers point back at it: without this the buffers wait for the garbage collector

    def _prefilled(
        self, requests: Sequence[Request], rows: list[list[tuple[Completion, int]]], found: list[Trunk]
    ) -> Iterator[tuple[DynamicCache, int, list[_Start]]]:
        """Prefill batch by batch; yield trunk by trunk (a prefilled cache, its row there) and the rows that begin on it."""
        decoder, at = self.lm.causal_lm.get_decoder(), 0
        while at < len(found):
            batch = [found[at]]
            while at + len(batch) < len(found) and _work(requests, [*batch, found[at + len(batch)]]) <= self.prefill_tokens:
                batch.append(found[at + len(batch)])
            at += len(batch)
            # rows are left-aligned and attention is causal: what stands behind a prefix cannot change it
            ids, prefilled = self._padded([trunk.ids for trunk in batch]), DynamicCache()
            decoder(input_ids=ids, past_key_values=prefilled, use_cache=True)
            if prefilled.get_seq_length() != ids.shape[1]:  # transformers drops use_cache in silence while it checkpoints
                raise RuntimeError("the model sampled without its cache: leave the training context first")
            tails = _tails(requests, batch)
            place = {i: at for at, i in enumerate(tails)}
            if tails:
                owner, before = (torch.tensor(of, device=ids.device) for of in list(zip(*tails.values(), strict=True))[:2])
                _, behind = behind_prefixes(
                    decoder, prefilled, owner, before, self._padded([tail for *_, tail in tails.values()])
                )
            for number, trunk in enumerate(batch):
                starts = []
                for i, common in trunk.members.items():
                    request, rest = requests[i], iter(rows[i])
                    cache, row, first = (behind, place[i], ids.shape[1]) if i in tails else (prefilled, number, 0)
                    for start in request.starts or (len(request.ids),):
                        on = min(common, start - 1)
                        starts += [
                            _Start(on, cache, row, first, start - 1 - on, request.ids[start - 1], *next(rest))
                            for _ in range(request.count)
                        ]
                yield prefilled, number, starts

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Right-padded token ids, [rows, longest]."""
        ids = torch.full((len(rows), max(map(len, rows))), self.lm.tokenizer.pad_token_id)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        return ids.to(self.lm.device)

    def _run(self, slots: KVCache, shared: SharedPrefixes | None, queue, sampling: Sampling, progress) -> None:
        lm = self.lm
        ends = torch.tensor(self.lm.end_ids, device=lm.device)
        closing = self._closing(sampling.stop) if sampling.stop else frozenset()
        rows: list[_Row] = []
        waiting: list[_Start] = []  # on the trunk that the queue gave last

        def refill(slot: int) -> bool:
            if not waiting:
                trunk = next(queue, None)
                if trunk is None:
                    return False
                prefilled, row, waiting[:] = trunk
                if shared:
                    shared.add(prefilled, row, max(start.shared for start in waiting))
            start = waiting.pop(0)
            if shared:
                shared.join(slot, start.shared)
            slots.fill(slot, start.prefilled, start.row, start.first, start.own)
            rows[slot : slot + 1] = [_Row(start.completion, start.token, start.stream)]
            return True

        while len(rows) < slots.slots and refill(len(rows)):
            pass
        while rows:
            n = len(rows)
            slots.fit(int(slots.lengths[:n].max()) + 1)
            tokens = torch.tensor([row.token for row in rows], device=lm.device)
            mask = (torch.arange(slots.view, device=lm.device) <= slots.lengths[:n, None])[:, None, None]  # [n, 1, 1, view]
            position, extra = slots.lengths[:n], {}
            if shared:
                shared.refresh()
                position, extra = position + shared.offsets[:n], {"shared": shared}
            logits = lm.causal_lm(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=position[:, None],
                past_key_values=slots.cache,
                use_cache=True,
                **extra,
            ).logits[:, -1]  # [n, vocabulary]
            slots.lengths[:n] += 1
            drawn = torch.tensor([(row.stream, len(row.completion.ids)) for row in rows], device=lm.device)
            chosen = sample(logits, sampling.temperature, uniforms(drawn[:, 0], drawn[:, 1]))
            ended = torch.isin(chosen, ends).tolist()
            free = []
            for slot, token in enumerate(chosen.tolist()):
                row = rows[slot]
                if row.over:
                    continue
                row.token = token
                row.completion.ids.append(token)
                if ended[slot] or (token in closing and self._stopped(row.completion.ids, sampling.stop)):
                    row.completion.finished = True
                if row.completion.finished or len(row.completion.ids) >= sampling.max_new_tokens:
                    free.append(slot)
                    if progress:
                        progress(1)
            for slot in free:
                if shared:
                    shared.leave(slot)
                if not refill(slot):
                    rows[slot].over = True
                    slots.lengths[slot] = 0  # what it still writes stays within its slot
            running = [slot for slot in range(n) if not rows[slot].over]
            if len(running) <= COMPACT * n or not running:
                rows = [rows[slot] for slot in running]
                if running:
                    slots.compact(torch.tensor(running, device=lm.device))
                    if shared:
                        shared.move(running)

    def _closing(self, stop: str) -> frozenset[int]:
        """The tokens that can complete the stop text; only behind them the text is looked at."""
        if stop[-1] not in self._tokens_with:
            texts = self.lm.tokenizer.batch_decode([[i] for i in range(len(self.lm.tokenizer))])
            self._tokens_with[stop[-1]] = frozenset(i for i, text in enumerate(texts) if stop[-1] in text)
        return self._tokens_with[stop[-1]]

    def _stopped(self, ids: list[int], stop: str) -> bool:
        return stop in self.lm.decode(ids[-(len(stop) + 2) :])
