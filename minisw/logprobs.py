"""Token log-probabilities in bounded memory, and micro-batches packed by tokens.

The vocabulary of a real model is large (151,936 for Qwen2.5): logits of a whole batch, batch × length × vocabulary, would
be most of the memory of a training step. Here the head is applied to a few target positions at a time, and again in the
backward pass, so that the peak is one block of positions × vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from minisw.model import LanguageModel

BLOCK = 1 << 26  # numbers in one block of logits (256 MB in fp32)


@dataclass(frozen=True)
class Example:
    """A prompt and the completion whose tokens are the targets; `weight` multiplies their loss."""

    prompt: list[int]
    completion: list[int]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. `ids` [rows, length]; `target` bool [rows, length]: True where ids holds a completion token."""

    ids: torch.Tensor
    attention: torch.Tensor
    target: torch.Tensor

    def per_token(self, values: Sequence[float]) -> torch.Tensor:
        """One value a row, spread over the row's targets: [targets]."""
        spread = torch.tensor(values, device=self.ids.device, dtype=torch.float32)[:, None].expand(self.target.shape)
        return spread[self.target]


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> Batch:
    length = max(len(e) for e in examples)
    ids = torch.full((len(examples), length), pad)
    attention = torch.zeros_like(ids)
    target = torch.zeros_like(ids, dtype=torch.bool)
    for row, e in enumerate(examples):
        ids[row, : len(e)] = torch.tensor(e.prompt + e.completion)
        attention[row, : len(e)] = 1
        target[row, len(e.prompt) : len(e)] = True
    return Batch(ids.to(device), attention.to(device), target.to(device))


def micro_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices sorted by length and cut where rows × longest would pass `tokens` (a longer row stands alone)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[i] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def token_logprobs(lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of every target token under the active adapter, both [targets], in row order.

    `temperature` divides the logits, as in sampling. The entropy carries no gradient.
    """
    model = lm.causal_lm
    with lm.autocast():
        hidden = model.get_decoder()(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        states = hidden[:, :-1][batch.target[:, 1:]]  # [targets, hidden]: the position before each target predicts it
        targets = batch.ids[:, 1:][batch.target[:, 1:]]  # [targets]
        head = model.get_output_embeddings()
        rows = max(1, BLOCK // head.weight.shape[0])
        parts = [
            checkpoint(_block, head, states[at : at + rows], targets[at : at + rows], temperature, use_reentrant=False)
            for at in range(0, len(targets), rows)
        ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _block(head: torch.nn.Module, states: torch.Tensor, targets: torch.Tensor, temperature: float):
    logits = head(states).float() / temperature
    logp = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, targets[:, None])[:, 0], entropy


def next_token_probabilities(
    lm: LanguageModel, prompts: Sequence[list[int]], tokens: Sequence[int], micro_tokens: int
) -> torch.Tensor:
    """Probabilities of `tokens` as the next token of every prompt, renormalised among them: [prompts, tokens]."""
    out = torch.zeros(len(prompts), len(tokens))
    model = lm.causal_lm
    for rows in micro_batches([len(p) for p in prompts], micro_tokens):
        batch = collate([Example(prompts[i], []) for i in rows], lm.tokenizer.pad_token_id, lm.device)
        last = torch.tensor([len(prompts[i]) - 1 for i in rows], device=lm.device)
        with torch.no_grad(), lm.autocast():
            hidden = model.get_decoder()(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[torch.arange(len(rows), device=lm.device), last]).float()
        out[torch.tensor(rows)] = logits[:, list(tokens)].softmax(-1).cpu()
    return out
