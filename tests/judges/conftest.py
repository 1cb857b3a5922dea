"""What the tests of judges share: labelled steps of two problems, and the words in which they are asked about."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from minisw.engine.model import LanguageModel
from minisw.judges.base import JudgeContext
from minisw.prompts import ARITHMETIC
from minisw.records import LabelledStep


@pytest.fixture(scope="session")
def steps() -> list[LabelledStep]:
    """Two solutions of different problems: + + − and + −."""
    tom, ben = "Tom has 12 apples.", "Ben has 24 eggs."
    return [
        LabelledStep("tom", tom, (), "12+1=13. ", True),
        LabelledStep("tom", tom, ("12+1=13. ",), "13+2=15. ", True),
        LabelledStep("tom", tom, ("12+1=13. ", "13+2=15. "), "15+3=19. ", False),
        LabelledStep("ben", ben, (), "24-7=17. ", True),
        LabelledStep("ben", ben, ("24-7=17. ",), "17-6=12. ", False),
    ]


@pytest.fixture(scope="session")
def request_texts() -> list[str]:
    """What a judge is asked about each of the steps: problem, history and new step, written out."""
    head, tail = ("Tom has 12 apples.", "Ben has 24 eggs."), "Judge the new step."
    return [
        f"{head[0]}\n\nSo far:\n(nothing)\n\nNew step:\n12+1=13.\n\n{tail}",
        f"{head[0]}\n\nSo far:\n12+1=13.\n\nNew step:\n13+2=15.\n\n{tail}",
        f"{head[0]}\n\nSo far:\n12+1=13. 13+2=15.\n\nNew step:\n15+3=19.\n\n{tail}",
        f"{head[1]}\n\nSo far:\n(nothing)\n\nNew step:\n24-7=17.\n\n{tail}",
        f"{head[1]}\n\nSo far:\n24-7=17.\n\nNew step:\n17-6=12.\n\n{tail}",
    ]


@pytest.fixture(scope="session")
def context_of():
    """`context_of(lm, sampler)`: a judge's context on the arithmetic prompts."""
    return lambda lm, sampler=None, prompts=ARITHMETIC, analysis=True: JudgeContext(lm, sampler, prompts, 40, 4096, analysis)


def _bpe_lm(corpus: list[str], size: int) -> LanguageModel:
    """A random model with a byte-level BPE tokenizer, trained on `corpus` without splitting it into words first."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<e>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<e>", pad_token="<e>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=512, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LanguageModel(Qwen2ForCausalLM(config).requires_grad_(False), tokenizer)


@pytest.fixture(scope="session")
def bpe_lm():
    """`bpe_lm(corpus, size)`: a random model with a byte-level BPE tokenizer of that many tokens; 257 are the bytes alone."""
    return _bpe_lm
