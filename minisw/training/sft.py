"""Supervised fine-tuning of an adapter: token-level cross-entropy on completions, hand-written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from minisw.engine.batches import shared_layout
from minisw.engine.logprobs import Batch, Example, collate, micro_batches, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.recipe import Training
from minisw.training import checkpoints
from minisw.training.step import accumulate, clipped_step


def train_sft(
    lm: LanguageModel,
    adapter: str,
    examples: Sequence[Example],
    knobs: Training,
    micro_tokens: int,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int], None] | None = None,
    progress: Callable[[int, dict], None] | None = None,
) -> list[dict]:
    """Train `adapter` in place; returns one dict of metrics a step (`loss`, `lr`, `num_tokens`).

    The loss of a step is divided by all its target tokens, so micro-batches change nothing. With `checkpoint` the state is
    saved after every epoch and a training that was killed goes on behind the last one; `on_epoch(n)` is called there too.
    Raises ValueError when there is nothing to train on.
    """
    if not examples:
        raise ValueError("no examples to train on: every one was filtered out")
    parameters = lm.adapter_parameters(adapter)
    optimizer = torch.optim.AdamW(parameters.values(), lr=knobs.lr, weight_decay=0.0)
    scaler = lm.new_scaler()
    done, metrics = checkpoints.load(checkpoint, parameters, optimizer, scaler) if checkpoint else (0, [])
    batch = min(knobs.batch, len(examples))
    per_epoch = len(examples) // batch
    steps = per_epoch * knobs.epochs
    with lm.using(adapter):
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for epoch in range(done, knobs.epochs):
            order = list(range(len(examples)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            for at in range(per_epoch):
                step = epoch * per_epoch + at
                lr = knobs.lr * min(1.0, (step + 1) / max(1, steps // 10)) * (1 - step / steps)
                optimizer.param_groups[0]["lr"] = lr
                chosen = [examples[i] for i in order[at * batch : (at + 1) * batch]]
                loss = _step(lm, chosen, optimizer, micro_tokens)
                metrics.append({"step": step + 1, "loss": loss, "lr": lr, "num_tokens": sum(len(e.completion) for e in chosen)})
                if progress:
                    progress(1, metrics[-1])
            if on_epoch:
                on_epoch(epoch + 1)
            if checkpoint:
                checkpoints.save(checkpoint, parameters, optimizer, epoch + 1, metrics, scaler)
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    return metrics


def _step(lm: LanguageModel, examples: Sequence[Example], optimizer: torch.optim.Optimizer, micro_tokens: int) -> float:
    total = sum(len(e.completion) for e in examples)

    def batches(tokens: int) -> Iterator[Batch]:
        share = shared_layout(lm)
        for rows in micro_batches(examples, tokens, share):
            yield collate([examples[i] for i in rows], lm.tokenizer.pad_token_id, lm.device, share)

    def learn(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        logp, _ = token_logprobs(lm, batch)
        loss = -logp.sum() / total
        return loss, {"loss": loss.item()}

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    counts = accumulate(lm, micro_tokens, batches, learn, parameters)
    clipped_step(lm, optimizer, parameters)
    return counts["loss"]
