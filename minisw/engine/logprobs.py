"""Token log-probabilities in bounded memory, and micro-batches packed by tokens.

The vocabulary of a real model is large (151,936 for Qwen2.5): logits of a whole batch, batch × length × vocabulary, would
be most of the memory of a training step. Here the head is applied to a few target positions at a time, and the gradient of
each log-probability is found while its logits are there (`_TargetLogprobs`): the peak is one block of positions ×
vocabulary, and the backward pass needs no logits. The samples of a GRPO group begin with the same
prompt: it goes through the model once, and its keys and values serve every row of the group (`Prefix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from minisw.engine.model import LanguageModel
from minisw.engine.shared_prefix import behind_prefixes

BLOCK = 1 << 26  # numbers in one block of logits (256 MB in fp32)


@dataclass(frozen=True)
class Example:
    """A prompt and the completion whose tokens are the targets."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Prefix:
    """Prompts that several rows begin with. `ids` [prompts, length] right-padded, `lengths` [prompts], `owner` [rows]."""

    ids: torch.Tensor
    lengths: torch.Tensor
    owner: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. `ids` [rows, length]; `target` bool [rows, length]: True where ids holds a completion token.

    With `prefix` a row holds only its prompt's last token and its completion, and stands behind its owner's prompt.
    Attention is causal, so what pads a row at its end cannot change it and no mask says so.
    """

    ids: torch.Tensor
    target: torch.Tensor
    prefix: Prefix | None = None

    def per_token(self, values: Sequence[float]) -> torch.Tensor:
        """One value a row, spread over the row's targets: [targets]."""
        spread = torch.tensor(values, device=self.ids.device, dtype=torch.float32)[:, None].expand(self.target.shape)
        return spread[self.target]


def collate(examples: Sequence[Example], pad: int, device: torch.device, share: bool = True) -> Batch:
    """A batch of the examples, in order; `share` lets rows of one prompt share its forward where that saves half the prompts."""
    prompts = list({tuple(e.prompt): None for e in examples})
    if not share or 2 * len(prompts) > len(examples) or min(map(len, prompts)) < 2:
        ids, target = _right_padded([e.prompt + e.completion for e in examples], [len(e.prompt) for e in examples], pad)
        return Batch(ids.to(device), target.to(device))
    heads, _ = _right_padded([list(p[:-1]) for p in prompts], [0] * len(prompts), pad)
    number = {prompt: i for i, prompt in enumerate(prompts)}
    owner = torch.tensor([number[tuple(e.prompt)] for e in examples])
    ids, target = _right_padded([e.prompt[-1:] + e.completion for e in examples], [1] * len(examples), pad)
    lengths = torch.tensor([len(p) - 1 for p in prompts])
    return Batch(ids.to(device), target.to(device), Prefix(heads.to(device), lengths.to(device), owner.to(device)))


def _right_padded(rows: Sequence[list[int]], prompt_lengths: Sequence[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    target = torch.zeros_like(ids, dtype=torch.bool)
    for at, (row, start) in enumerate(zip(rows, prompt_lengths, strict=True)):
        ids[at, : len(row)] = torch.tensor(row)
        target[at, start : len(row)] = True
    return ids, target


def micro_batches(examples: Sequence[Example], tokens: int, share: bool = True) -> list[list[int]]:
    """Indices of the examples, cut where prompts × longest + rows × longest would pass `tokens` (a longer row stands alone).

    Rows of one prompt stay together, so that `collate` can share its forward; short prompts come first.
    """
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].prompt), examples[i].prompt, len(examples[i])))
    batches: list[list[int]] = []
    prompts: set[tuple[int, ...]] = set()
    longest_prompt = longest_rest = 0
    for i in order:
        prompt, rest = tuple(examples[i].prompt), len(examples[i].completion)
        width, height = max(longest_prompt, len(prompt)), max(longest_rest, rest)
        rows = len(batches[-1]) + 1 if batches else 1
        count = len(prompts | {prompt})
        shared = count if share and 2 * count <= rows else rows
        if not batches or shared * width + rows * height > tokens:
            batches.append([])
            prompts, width, height = set(), len(prompt), rest
        batches[-1].append(i)
        prompts.add(prompt)
        longest_prompt, longest_rest = width, height
    return batches


def token_logprobs(lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of every target token under the active adapter, both [targets], in row order.

    `temperature` divides the logits, as in sampling. The entropy carries no gradient.
    """
    model = lm.causal_lm
    with lm.autocast():
        hidden = _hidden(model.get_decoder(), batch)
        states = hidden[:, :-1][batch.target[:, 1:]]  # [targets, hidden]: the position before each target predicts it
        targets = batch.ids[:, 1:][batch.target[:, 1:]]  # [targets]
        return _TargetLogprobs.apply(states, targets, model.get_output_embeddings(), temperature)


def _hidden(decoder: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Last hidden states of the rows, [rows, length, hidden]; gradients flow through a shared prefix too."""
    if batch.prefix is None:
        return decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
    prefix, cache = batch.prefix, DynamicCache()
    decoder(input_ids=prefix.ids, past_key_values=cache, use_cache=True)
    return behind_prefixes(decoder, cache, prefix.owner, prefix.lengths[prefix.owner], batch.ids)[0]


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies [targets] of `targets` from the states before them [targets, hidden], with a frozen head.

    A log-probability is one number, so its gradient is one vector: (W[target] − Σ p(v) W[v]) / temperature. The forward pass
    finds it for the price of one more product, and the backward pass scales it. Keeping the logits would take the
    vocabulary's memory for every target, and computing them again in the backward pass half as many products more.
    """

    @staticmethod
    def forward(ctx, states: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module, temperature: float):
        if any(p.requires_grad for p in head.parameters()):
            raise ValueError("the output head is trained, and log-probabilities here take it as frozen: leave it out")
        logps, entropies, gradients = [], [], []
        rows = max(1, BLOCK // head.weight.shape[0])
        for at in range(0, len(targets), rows):
            logits, target = (
                head(states[at : at + rows]).float() / temperature,
                targets[at : at + rows, None],
            )  # [rows, vocabulary]
            logp = logits.log_softmax(-1)
            p = torch.exp(logp, out=logits)
            logps.append(logp.gather(-1, target)[:, 0])
            entropies.append(-logp.mul_(p).sum(-1))
            if ctx.needs_input_grad[0]:
                p.scatter_add_(-1, target, torch.full_like(target, -1, dtype=p.dtype))
                gradients.append((p.to(head.weight.dtype) @ head.weight).to(states.dtype) / -temperature)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        logps, entropies = torch.cat(logps), torch.cat(entropies)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx, upstream: torch.Tensor, _: torch.Tensor):
        (gradients,) = ctx.saved_tensors
        return (upstream[:, None] * gradients).to(gradients.dtype), None, None, None


def next_token_probabilities(
    lm: LanguageModel, prompts: Sequence[list[int]], tokens: Sequence[int], micro_tokens: int
) -> torch.Tensor:
    """Probabilities of `tokens` as the next token of every prompt, renormalised among them: [prompts, tokens]."""
    out = torch.zeros(len(prompts), len(tokens))
    model = lm.causal_lm
    examples = [Example(prompt, []) for prompt in prompts]
    for rows in micro_batches(examples, micro_tokens, share=False):
        batch = collate([examples[i] for i in rows], lm.tokenizer.pad_token_id, lm.device, share=False)
        last = torch.tensor([len(prompts[i]) - 1 for i in rows], device=lm.device)
        with torch.no_grad(), lm.autocast():
            hidden = _hidden(model.get_decoder(), batch)
            logits = model.get_output_embeddings()(hidden[torch.arange(len(rows), device=lm.device), last]).float()
        out[torch.tensor(rows)] = logits[:, list(tokens)].softmax(-1).cpu()
    return out
