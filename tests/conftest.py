"""What all tests share: one thread, fixed seeds, no network, and a tiny random model that needs no file."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
from collections.abc import Callable

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion
from minisw.problems.arithmetic.pretraining import build_tokenizer
from minisw.recipe import Lora

torch.set_num_threads(1)  # the models are so small that a second thread only costs


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the embedded task, over a small vocabulary."""
    return build_tokenizer(sample=300)


def _tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A random Qwen2 in fp32; the wide initialisation keeps its next-token distribution far from uniform."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            tie_word_embeddings=True,
            max_position_embeddings=512,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    ).requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_lm(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A bare tiny model for tests that only read it. Put no adapter on it: take `new_lm` for that."""
    return LanguageModel(_tiny_model(tokenizer), tokenizer)


@pytest.fixture(scope="session")
def new_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LanguageModel]:
    """`new_lm("judge", …)`: a fresh copy of the tiny model with these adapters; with `noise`, their B is not zero."""

    def build(*adapters: str, noise: float = 0.0, rank: int = 4) -> LanguageModel:
        lm = LanguageModel(_tiny_model(tokenizer), tokenizer)
        for seed, name in enumerate(adapters):
            lm.new_adapter(name, Lora(rank=rank, alpha=2 * rank), seed)
            generator = torch.Generator().manual_seed(100 + seed)
            for key, parameter in lm.adapter_parameters(name).items():
                if noise and "lora_B" in key:
                    parameter.data = noise * torch.randn(parameter.shape, generator=generator)
        return lm

    return build


@pytest.fixture(scope="session")
def prompts(tiny_lm: LanguageModel) -> list[list[int]]:
    """Seven prompts of different lengths."""
    texts = [
        "Tom has 12 apples.",
        "Compare 41 and 57.",
        "Work out 3*14.",
        "Anna",
        "Check 4+5=9.",
        "Ben has 24 eggs. Ben loses 7 eggs. How many eggs are there in the end?\nSolve step by step.",
        "7",
    ]
    return [tiny_lm.chat(text) for text in texts[:-1]] + [tiny_lm.encode(texts[-1])]


class FakeSampler:
    """Replies by a function of the prompt's text, and records every request with the adapter that is active at the time.

    `reply(text, k)` gives the k-th reply to a prompt; a reply that ends with "…" counts as cut off.
    """

    def __init__(self, lm: LanguageModel, reply: Callable[[str, int], str]):
        self.lm, self.reply, self.tokens = lm, reply, 0
        self.calls: list[dict] = []

    def generate(self, requests, sampling, seed, progress=None) -> list[list[Completion]]:
        layer = next((m for m in self.lm.model.modules() if isinstance(m, LoraLayer)), None)
        adapter = None if layer is None or layer.disable_adapters else layer.active_adapters[0]
        weights = {key: p.detach().clone() for key, p in self.lm.adapter_parameters(adapter).items()} if adapter else {}
        prompts = [self.lm.decode(r.ids) for r in requests]
        call = {"adapter": adapter, "prompts": prompts, "counts": [r.count for r in requests], "weights": weights}
        self.calls.append(call | {"sampling": sampling, "seed": seed})
        return [[self._completion(self.reply(p, k)) for k in range(r.count)] for p, r in zip(prompts, requests, strict=True)]

    def _completion(self, text: str) -> Completion:
        return Completion(self.lm.encode(text.removesuffix("…")), not text.endswith("…"))


@pytest.fixture(scope="session")
def fake_sampler() -> type[FakeSampler]:
    return FakeSampler
