"""Token log-probabilities in bounded memory.

The vocabulary makes a training step large: logits of a whole batch, rows × length × vocabulary (151,936 in Qwen2.5), would be
most of its memory. Here the head is applied to a block of target positions at a time, and the gradient of each log-probability
is computed while its logits exist (`target_logprobs`). The peak is one block, and the backward pass needs no logits.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence

import torch
from transformers.cache_utils import DynamicCache

from minisw.engine.batches import Batch, Example, collate, micro_batches
from minisw.engine.machine import is_out_of_memory
from minisw.engine.model import LanguageModel
from minisw.engine.shared_prefix import behind_prefixes

BLOCK = 1 << 26  # numbers in one block of logits (256 MB in fp32)

log = logging.getLogger("minisw")


def token_logprobs(lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy (nats) of every target token under the active adapter: both fp32 [targets].

    `temperature` divides the logits, as in sampling. The entropy has no gradient.
    """
    model = lm.causal_lm
    with lm.autocast():
        hidden = hidden_states(model.get_decoder(), batch)
        states, targets = gather_states(hidden, batch.ids, batch.target)
        return target_logprobs(states, targets, model.get_output_embeddings(), temperature / logit_scale(model), BLOCK)


_scales: weakref.WeakKeyDictionary[torch.nn.Module, float] = weakref.WeakKeyDictionary()


def logit_scale(model: torch.nn.Module) -> float:
    """The factor between the head's output and the model's logits: Granite divides by one, Cohere multiplies, others have 1.

    Checked once for each model on two tokens. Raises ValueError if the logits are more than a multiple (Gemma 2 soft-caps them).
    """
    if model not in _scales:
        config = model.config.get_text_config(decoder=True)
        multiply, divide = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
        scale = (multiply if isinstance(multiply, int | float) else 1.0) / (divide if isinstance(divide, int | float) else 1.0)
        ids = torch.tensor([[1, 2]], device=next(model.parameters()).device)
        with torch.no_grad():
            raw = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state).float()
            logits = model(input_ids=ids, use_cache=False).logits.float()
        if not (logits - scale * raw).norm() <= 0.05 * logits.norm():
            name = type(model).__name__
            raise ValueError(f"{name} computes more than a linear head for its logits (such as soft-capping): choose another")
        _scales[model] = scale
    return _scales[model]


def hidden_states(decoder: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Last hidden states of the rows, [rows, length, hidden]. Gradients flow through shared prompts too."""
    if batch.packing is not None:
        packing = batch.packing
        out = decoder(input_ids=batch.ids, position_ids=packing.positions, attention_mask=packing.mask, use_cache=False)
        return out.last_hidden_state
    if batch.prefix is None:
        return decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
    prefix, cache = batch.prefix, DynamicCache()
    decoder(input_ids=prefix.ids, past_key_values=cache, use_cache=True)
    return behind_prefixes(decoder, cache, prefix.owner, prefix.lengths[prefix.owner], batch.ids)[0]


def gather_states(hidden: torch.Tensor, ids: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States that predict the targets, and the targets: ([targets, hidden], [targets]), in row order.

    `hidden` [rows, length, hidden], `ids` and `target` [rows, length]. The state at position i − 1 predicts the token at
    position i, so a token at position 0 cannot be a target.
    """
    chosen = target[:, 1:]
    return hidden[:, :-1][chosen], ids[:, 1:][chosen]


def target_logprobs(
    states: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module, temperature: float = 1.0, block: int = BLOCK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy (nats) of `targets` [targets] from the states before them [targets, hidden]: both [targets].

        logits = head(state) / temperature,   logp = logits[target] − logsumexp(logits),   entropy = −Σ p log p

    At most `block` logits exist at a time. `head` (a linear layer hidden → vocabulary without bias) must be frozen: gradients
    flow into the states only, and the entropy has none. Raises ValueError if the head is trained.
    """
    if any(p.requires_grad for p in head.parameters()):
        raise ValueError("the output head is trained, but log-probabilities need it frozen: leave it out of the trained weights")
    return _TargetLogprobs.apply(states, targets, head, temperature, block)


class _TargetLogprobs(torch.autograd.Function):
    """`target_logprobs` with its gradient: the derivative of a log-probability by its state is one vector,

        (W[target] − Σ_v p(v) W[v]) / temperature

    The forward pass computes it for the price of one more product, while p exists, and the backward pass only scales it.
    Keeping the logits instead would take the vocabulary's memory for every target, and computing them again in the backward
    pass half as many products more.
    """

    @staticmethod
    def forward(ctx, states: torch.Tensor, targets: torch.Tensor, head: torch.nn.Module, temperature: float, block: int):
        logps, entropies, gradients = [], [], []
        rows = max(1, block // head.weight.shape[0])
        for start in range(0, len(targets), rows):
            target = targets[start : start + rows, None]  # [rows, 1]
            logits = head(states[start : start + rows]).float() / temperature  # [rows, vocabulary]
            logp = logits.log_softmax(-1)
            p = torch.exp(logp, out=logits)  # reuses the memory of the logits
            logps.append(logp.gather(-1, target)[:, 0])
            entropies.append(-logp.mul_(p).sum(-1))
            if ctx.needs_input_grad[0]:
                p.scatter_add_(-1, target, torch.full_like(target, -1, dtype=p.dtype))  # p − one_hot(target)
                gradients.append((p.to(head.weight.dtype) @ head.weight).to(states.dtype) / -temperature)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        logps, entropies = torch.cat(logps), torch.cat(entropies)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx, upstream: torch.Tensor, _: torch.Tensor):
        (gradients,) = ctx.saved_tensors
        return (upstream[:, None] * gradients).to(gradients.dtype), None, None, None, None


def next_token_probabilities(
    lm: LanguageModel, prompts: Sequence[list[int]], tokens: Sequence[int], micro_tokens: int
) -> torch.Tensor:
    """Probabilities of `tokens` as the next token of every prompt, renormalised among them: [prompts, tokens] on the CPU.

    Memory: see `in_batches`.
    """
    found = in_batches(lm, prompts, micro_tokens, lambda indices: _next_token(lm, [prompts[i] for i in indices], tokens))
    return torch.stack(found) if found else torch.zeros(0, len(tokens))


def in_batches(
    lm: LanguageModel, rows: Sequence[list[int]], micro_tokens: int, forward: Callable[[list[int]], Sequence[torch.Tensor]]
) -> list[torch.Tensor]:
    """What `forward(indices)` returns for each row of token ids, in order; a batch has at most `micro_tokens` tokens.

    If memory runs out, the remaining rows are cut into batches half as large. Raises ValueError if one row alone is too long
    for the memory.
    """

    def batches(indices: Sequence[int], limit: int) -> list[list[int]]:
        return [[indices[i] for i in batch] for batch in micro_batches([Example(rows[i], []) for i in indices], limit, "plain")]

    results: list = [None] * len(rows)
    limit = max(1, micro_tokens >> lm.halvings)
    pending = batches(range(len(rows)), limit)[::-1]
    while pending:
        indices, out_of_memory = pending.pop(), False
        try:
            for i, result in zip(indices, forward(indices), strict=True):
                results[i] = result
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # handled outside of `except`: its traceback would keep tensors alive
            longest = max(len(rows[i]) for i in indices)
            if len(indices) == 1:
                raise ValueError(f"out of memory with one prompt of {longest} tokens: give --model.four-bit or a smaller model")
            limit = len(indices) * longest // 2
            pending = batches([i for batch in [*pending, indices] for i in batch], limit)[::-1]
            log.warning("out of memory: scoring continues with batches of %d tokens (--model.micro-tokens)", limit)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return results


@torch.no_grad()
def _next_token(lm: LanguageModel, prompts: Sequence[list[int]], tokens: Sequence[int]) -> torch.Tensor:
    """`next_token_probabilities` of one batch."""
    batch = collate([Example(prompt, []) for prompt in prompts], lm.tokenizer.pad_token_id, lm.device, "plain")
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=lm.device)
    with lm.autocast():
        hidden = hidden_states(lm.causal_lm.get_decoder(), batch)
        states = hidden[torch.arange(len(prompts), device=lm.device), last]  # [prompts, hidden]
        logits = lm.causal_lm.get_output_embeddings()(states).float() * logit_scale(lm.causal_lm)
    return logits[:, list(tokens)].softmax(-1).cpu()
