"""Log-probabilities and their gradient over a real vocabulary: ours in blocks, the peer's from all logits at once.

Both sides compute in the type that "auto" picks on this machine: bf16 only if its CPU multiplies bf16 in hardware.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minisw.engine.batches import Batch, Example, collate
from minisw.engine.loading import dtype_of
from minisw.engine.logprobs import token_logprobs
from minisw.engine.model import LanguageModel

VOCABULARY, ROWS, LENGTH, REPEATS = 151_936, 8, 512, 3


class _NoTokenizer:
    eos_token_id = None


def model() -> torch.nn.Module:
    """One random layer of Qwen2.5-0.5B's width under its vocabulary: the head is what is measured."""
    config = AutoConfig.for_model(
        "qwen2", vocab_size=VOCABULARY, hidden_size=896, num_hidden_layers=1, num_attention_heads=14, num_key_value_heads=2,
        intermediate_size=4864, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=dtype_of("auto", torch.device("cpu")))
    made.requires_grad_(False)
    made.model.layers[0].mlp.down_proj.weight.requires_grad_(True)  # a weight below the head, so that gradients flow
    return made


def measured(logprobs: Callable[[LanguageModel, Batch], torch.Tensor], resident_gb: Callable[[], float]) -> dict:
    """Seconds of a forward and backward pass (the first repetition warms up), GiB beyond model and batch, and the mean
    log-probability (to compare the two sides)."""
    lm = LanguageModel(model(), _NoTokenizer())
    batch = collate(
        [Example([1, 2 + row], list(range(3, LENGTH + 1))) for row in range(ROWS)], 0, torch.device("cpu"), "plain"
    )
    before, seconds = resident_gb(), []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        logp = logprobs(lm, batch)
        (-logp.mean()).backward()
        lm.model.zero_grad()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds[1:], "tokens": len(logp), "added_gb": peak - before, "mean_logprob": logp.mean().item()}


def ours(lm: LanguageModel, batch: Batch) -> torch.Tensor:
    return token_logprobs(lm, batch)[0]


def peer(lm: LanguageModel, batch: Batch) -> torch.Tensor:
    logits = lm.model(input_ids=batch.ids).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0][batch.target[:, 1:]]
