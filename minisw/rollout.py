"""Batched sampling from a model: the only place that generates.

Four ideas, each in one place:

- **Prefill once, branch many** (`Sampler._branches`): one forward over a token sequence fills keys and values for all its
  positions, and a branch may start at any prefix of it; all boundaries of a solution and all samples of a group share
  that one forward.
- **A common prefix is kept and read once** (`attention.py`): rows that start at the same prefix do not copy it.
- **A cache that does not grow by concatenation** (`_SlotLayer`): every running row owns a slot of one buffer and writes its
  next key and value at its own length, so rows of different lengths need no padding; the buffer grows by blocks of positions.
- **Finished rows leave**: a slot whose row has ended takes the next branch from the queue (longest prefix first); when the
  queue is empty the running rows move together and the batch shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from minisw.attention import SharedPrefixes, decoding
from minisw.model import LanguageModel

BLOCK = 16  # positions by which the cache grows
COMPACT = 0.75  # rows move together when at most this share of them still runs: moving costs as much as some tokens


@dataclass(frozen=True)
class Request:
    """Sample `count` continuations of each prefix length in `starts` (default: of the whole of `ids`)."""

    ids: list[int]
    count: int = 1
    starts: tuple[int, ...] = ()

    def branches(self) -> list[int]:
        return [start for start in (self.starts or (len(self.ids),)) for _ in range(self.count)]


@dataclass
class Completion:
    """One sampled continuation. `ids` ends with the end token where the model ended by itself (`finished`)."""

    ids: list[int] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `stop` ends a row behind that text as if it were an end token."""

    max_new_tokens: int
    temperature: float = 1.0
    stop: str | None = None


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: [slots, heads, view, head size]; a row's next ones are written at its own length.

    They are used whole, what a mask hides included: batched products copy an operand that is cut out of a larger one.
    """

    def __init__(self, state: _Slots):
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
        if self.keys.shape[2] < self.state.view:
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


class _Slots:
    """The cache, `view` positions wide, and the length of the row in each slot. It is widened by `BLOCK` positions at a time."""

    def __init__(self, slots: int, room: int, layers: int, device: torch.device):
        self.slots, self.room, self.view = slots, -(-room // BLOCK) * BLOCK, 0
        self.rows = torch.arange(slots, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.cache = Cache(layers=[_SlotLayer(self) for _ in range(layers)])
        self._spare: torch.Tensor | None = None

    def reserve(self, positions: int) -> None:
        self.view = max(self.view, -(-positions // BLOCK) * BLOCK)

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

    def fill(self, slot: int, prefilled: DynamicCache, row: int, length: int) -> None:
        """Copy `length` positions of a prefilled row into a slot."""
        self.reserve(length)
        for mine, theirs in zip(self.cache.layers, prefilled.layers, strict=True):
            mine.reserve(theirs.keys, theirs.values)
            mine.keys[slot, :, :length] = theirs.keys[row, :, :length]
            mine.values[slot, :, :length] = theirs.values[row, :, :length]
        self.lengths[slot] = length

    def compact(self, keep: torch.Tensor) -> None:
        """Move the rows in `keep` (slot indices, ascending) to the front; the cache shrinks to them."""
        self.slots = len(keep)
        self.lengths, self.rows = self.lengths[keep], self.rows[: len(keep)]
        self.view = 0
        self.reserve(int(self.lengths.max()) + 1)
        for layer in self.cache.layers:
            layer.lay_out(keep)


@dataclass
class _Row:
    """A running row: which completion it writes, and the token it reads next."""

    completion: Completion
    token: int
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
        results = [[Completion() for _ in request.branches()] for request in requests]
        if not requests or sampling.max_new_tokens < 1:
            return results
        config = self.lm.causal_lm.config
        generator = torch.Generator(self.lm.device).manual_seed(seed)
        # longest first: long rows run beside each other, and the short ones fill the gaps at the end
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        count, layers, device = min(self.slots, sum(len(r) for r in results)), config.num_hidden_layers, self.lm.device
        sharing = self.share and any(request.count > 1 for request in requests)
        shared = SharedPrefixes(count, layers, device) if sharing else None
        room = sampling.max_new_tokens + (0 if sharing else max(len(request.ids) for request in requests))
        slots = _Slots(count, room, layers, device)
        with self.lm.merged(), decoding(self.lm.causal_lm):
            queue = self._branches(requests, results, order)
            self._run(slots, shared, queue, sampling, generator, progress)
        slots.cache.layers.clear()  # its layers point back at it: without this the buffers wait for the garbage collector
        self.tokens += sum(len(c.ids) for row in results for c in row)
        return results

    def _branches(self, requests, results, order):
        """Yield (prefilled cache, its row, prefix length, first token to read, completions), prefilling batch by batch."""
        at = 0
        while at < len(order):
            width, end = len(requests[order[at]].ids), at
            while end < len(order) and (end - at + 1) * width <= max(self.prefill_tokens, width):
                end += 1
            batch = order[at:end]
            ids = torch.full((len(batch), width), self.lm.tokenizer.pad_token_id, device=self.lm.device)
            for row, i in enumerate(batch):
                ids[row, : len(requests[i].ids)] = torch.tensor(requests[i].ids, device=self.lm.device)
            cache = DynamicCache()
            # rows are left-aligned and attention is causal: what stands behind a prefix cannot change it
            self.lm.causal_lm(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, logits_to_keep=1)
            for row, i in enumerate(batch):
                request, rest = requests[i], iter(results[i])
                for start in request.starts or (len(request.ids),):
                    yield cache, row, start - 1, request.ids[start - 1], [next(rest) for _ in range(request.count)]
            at = end

    def _run(
        self, slots: _Slots, shared: SharedPrefixes | None, queue, sampling: Sampling, generator: torch.Generator, progress
    ) -> None:
        lm = self.lm
        ends = torch.tensor(self.lm.end_ids, device=lm.device)
        closing = self._closing(sampling.stop) if sampling.stop else frozenset()
        rows: list[_Row] = []
        begun: list = []  # what the queue gave last: (prefilled cache, its row, prefix length, first token, completions to do)

        def refill(slot: int) -> bool:
            while not (begun and begun[-1]):
                branch = next(queue, None)
                if branch is None:
                    return False
                begun[:] = branch
                if shared:
                    shared.add(*begun[:3])
            cache, row, length, token, completions = begun
            if shared:
                shared.join(slot)
                slots.lengths[slot] = 0
            else:
                slots.fill(slot, cache, row, length)
            rows[slot : slot + 1] = [_Row(completions.pop(0), token)]
            return True

        while len(rows) < slots.slots and refill(len(rows)):
            pass
        while rows:
            n = len(rows)
            slots.reserve(int(slots.lengths[:n].max()) + 1)
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
            chosen = sample(logits, sampling.temperature, generator)
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


def sample(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """One token id a row from logits [rows, vocabulary]; greedy at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    # the inverse of the distribution function at one uniform number a row, on the device
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(len(logits), 1, generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
