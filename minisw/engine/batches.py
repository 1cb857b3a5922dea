"""Batches for training and scoring: rows of prompt + completion as tensors, in micro-batches of bounded size.

The samples of a GRPO group have the same prompt, so it goes through the model once (`Layout`): "prefix" keeps its keys and values
and lets every row attend to them; "packed" puts the group into one row under a mask. Packing needs no cache, so it works with
gradient checkpointing, which has none; the cache needs less attention, so it is the default.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from minisw.engine.model import LanguageModel
from minisw.engine.shared_prefix import supports_shared_prefix

Layout = Literal["plain", "prefix", "packed"]


@dataclass(frozen=True)
class Example:
    """A prompt and the completion whose tokens are the targets.

    `given` has the positions in the completion (from 0) that are no targets: text that the model reads but did not write, such
    as the output of its code.
    """

    prompt: list[int]
    completion: list[int]
    given: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    def targets(self) -> list[bool]:
        """Whether each token of the completion is a target."""
        given = set(self.given)
        return [i not in given for i in range(len(self.completion))]


@dataclass(frozen=True)
class Prefix:
    """Prompts that several rows begin with. `ids` [prompts, length] right-padded, `lengths` [prompts], `owner` [rows]."""

    ids: torch.Tensor
    lengths: torch.Tensor
    owner: torch.Tensor


@dataclass(frozen=True)
class Packing:
    """What packed rows need. `positions` [rows, length]: position ids; `mask` bool [rows, 1, length, length]: True where a
    position (second last dimension) sees another (last)."""

    positions: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. `ids` [rows, length]; `target` bool [rows, length]: True where ids holds a target.

    `counts` has the number of targets of every example; in row order, targets are in the order of the examples. The layouts:

    - plain: a row is prompt + completion. Attention is causal and padding comes last, so no mask is needed.
    - with `prefix`: a row is the prompt's last token + completion, behind its owner's prompt (without that token).
    - with `packing`: a row is prompt[:-1], then for each example of that prompt the prompt's last token + completion.
    """

    ids: torch.Tensor
    target: torch.Tensor
    counts: tuple[int, ...]
    prefix: Prefix | None = None
    packing: Packing | None = None

    def per_token(self, values: Sequence[float]) -> torch.Tensor:
        """One value an example → one a target: [targets]."""
        return torch.tensor(values, dtype=torch.float32).repeat_interleave(torch.tensor(self.counts)).to(self.ids.device)


def right_padded(rows: Sequence[list[int]], prompt_lengths: Sequence[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of prompt + completion as tensors: `ids` [rows, longest], filled up with `pad` on the right, and the targets, bool
    [rows, longest]: True for completion tokens, which begin at `prompt_lengths[row]`; False for prompt and padding.

    A completion token that equals `pad` is a target all the same, and so is the end token.
    """
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    target = torch.zeros_like(ids, dtype=torch.bool)
    for i, (row, start) in enumerate(zip(rows, prompt_lengths, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        target[i, start : len(row)] = True
    return ids, target


def shared_layout(lm: LanguageModel) -> Layout:
    """How rows of one prompt share its forward on this model.

    "plain", that is not at all, if the model does more than masked attention over all positions (a sliding window, ALiBi, a
    recurrent state): the other layouts would be silently wrong.
    """
    if not supports_shared_prefix(lm.causal_lm):
        return "plain"
    return "packed" if lm.checkpointing else "prefix"


def collate(examples: Sequence[Example], pad: int, device: torch.device, layout: Layout = "prefix") -> Batch:
    """A batch of the examples. A layout that shares prompts is used only if it saves at least every second prompt.

    "packed" shares between neighbours of one prompt, as `micro_batches` arranges them. Raises ValueError for an unknown layout.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(get_args(Layout))}")
    counts = tuple(sum(e.targets()) for e in examples)
    prompts = list({tuple(e.prompt): None for e in examples})
    if layout == "plain" or 2 * len(prompts) > len(examples) or min(map(len, prompts)) < 2:
        ids, target = _rows([e.prompt for e in examples], examples, pad)
        return Batch(ids.to(device), target.to(device), counts)
    if layout == "packed":
        return _packed(examples, counts, pad, device)
    heads, _ = right_padded([list(p[:-1]) for p in prompts], [0] * len(prompts), pad)
    number = {prompt: i for i, prompt in enumerate(prompts)}
    owner = torch.tensor([number[tuple(e.prompt)] for e in examples])
    ids, target = _rows([e.prompt[-1:] for e in examples], examples, pad)
    lengths = torch.tensor([len(p) - 1 for p in prompts])
    return Batch(ids.to(device), target.to(device), counts, Prefix(heads.to(device), lengths.to(device), owner.to(device)))


def _rows(heads: Sequence[list[int]], examples: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`right_padded` rows of a head (the prompt, or its last token) and the example's completion, without `given` targets."""
    rows = [head + e.completion for head, e in zip(heads, examples, strict=True)]
    ids, target = right_padded(rows, [len(head) for head in heads], pad)
    for row, (head, e) in enumerate(zip(heads, examples, strict=True)):
        target[row, [len(head) + i for i in e.given]] = False
    return ids, target


def _packed(examples: Sequence[Example], counts: tuple[int, ...], pad: int, device: torch.device) -> Batch:
    """One row for each run of neighbours with the same prompt: [prompt[:-1], last + completion, last + completion, …].

    Segment 0 is the prompt without its last token, segments 1, 2, … the examples, -1 the padding. A position sees those before
    it, and itself, that are in segment 0 or in its own segment. Position ids continue behind the prompt in every segment.
    """
    rows = []
    for _, group in itertools.groupby(examples, key=lambda e: e.prompt):
        group = list(group)
        shared = len(group[0].prompt) - 1
        ids, target, segment, position = group[0].prompt[:-1], [False] * shared, [0] * shared, list(range(shared))
        for number, e in enumerate(group, 1):
            ids = ids + e.prompt[-1:] + e.completion
            target = target + [False] + e.targets()
            segment = segment + [number] * (1 + len(e.completion))
            position = position + list(range(shared, len(e)))
        rows.append((ids, target, segment, position))

    def padded(column: int, fill: int) -> torch.Tensor:
        return right_padded([row[column] for row in rows], [0] * len(rows), fill)[0].to(device)

    ids, target, segment, position = padded(0, pad), padded(1, False).bool(), padded(2, -1), padded(3, 0)
    seen, own = segment[:, None, :], segment[:, :, None]  # [rows, 1, length], [rows, length, 1]
    mask = ((seen == 0) | (seen == own)).tril()
    return Batch(ids, target, counts, packing=Packing(position, mask[:, None]))


@dataclass(frozen=True)
class _Size:
    """Measures of a batch that is being filled; `tokens` is what `collate` makes of it, padding included."""

    rows: int = 0
    prompts: int = 0
    shortest_prompt: int = 0
    longest_prompt: int = 0
    longest_completion: int = 0
    longest_row: int = 0
    pack: int = 0  # length of the packed row that is being filled
    longest_pack: int = 0

    def add(self, example: Example, same_prompt: bool) -> _Size:
        """The size with one more example, whose prompt may be that of the example before it."""
        prompt, completion = len(example.prompt), len(example.completion)
        pack = (self.pack if same_prompt else prompt - 1) + 1 + completion
        return dataclasses.replace(
            self,
            rows=self.rows + 1,
            prompts=self.prompts + (not same_prompt),
            shortest_prompt=min(self.shortest_prompt or prompt, prompt),
            longest_prompt=max(self.longest_prompt, prompt),
            longest_completion=max(self.longest_completion, completion),
            longest_row=max(self.longest_row, prompt + completion),
            pack=pack,
            longest_pack=max(self.longest_pack, pack),
        )

    def tokens(self, layout: Layout) -> int:
        if layout == "plain" or 2 * self.prompts > self.rows or self.shortest_prompt < 2:
            return self.rows * self.longest_row
        if layout == "packed":
            return self.prompts * self.longest_pack
        return self.prompts * (self.longest_prompt - 1) + self.rows * (1 + self.longest_completion)


def micro_batches(examples: Sequence[Example], tokens: int, layout: Layout = "prefix") -> list[list[int]]:
    """Indices of the examples in batches of at most `tokens` tokens, padding included (a longer row gets a batch of its own).

    Rows of one prompt stay together, so that `collate` can share its forward; short prompts come first.
    """
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].prompt), examples[i].prompt, len(examples[i])))
    batches: list[list[int]] = []
    size = _Size()
    for i in order:
        larger = size.add(examples[i], bool(batches) and examples[i].prompt == examples[batches[-1][-1]].prompt)
        if not batches or larger.tokens(layout) > tokens:
            batches.append([])
            larger = _Size().add(examples[i], False)
        batches[-1].append(i)
        size = larger
    return batches
