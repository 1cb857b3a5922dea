"""Model families: each samples as transformers' `generate`, or is refused in one line; and each learns from its own logits.

Tiny random models. Windows are shorter than the prompts, so a sampler or a training step that ignores them gives other tokens.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minisw.engine.batches import Example, collate, shared_layout
from minisw.engine.loading import load_base
from minisw.engine.logprobs import next_token_probabilities, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.engine.shared_prefix import supports_shared_prefix, unsupported
from minisw.engine.simple_sampler import SimpleSampler
from minisw.recipe import Lora, ModelKnobs

VOCABULARY, NEW = 101, 16
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=256)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
HALF = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])

RIGHT = {
    "qwen3": dict(head_dim=16),
    "llama": {},
    "qwen2": {},
    "qwen2_moe": dict(**EXPERTS, shared_expert_intermediate_size=16, decoder_sparse_step=1),
    "gemma": dict(head_dim=8),
    "phi3": {},
    "granite": dict(logits_scaling=4.0, attention_multiplier=0.5, embedding_multiplier=2.0, residual_multiplier=0.7),
    "olmo2": {},
    "smollm3": {},
    "cohere": dict(logit_scale=0.25),
    "gpt2": GPT,
    "gpt_neox": {},
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
}
REFUSED = {
    "mistral": (dict(sliding_window=8), "sliding window"),
    "gemma3_text": (dict(head_dim=8, **HALF), "sliding window"),
    "gemma2": (dict(head_dim=8, final_logit_softcapping=2.0, **HALF), "sliding window"),
    "gpt_oss": (dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, **HALF), "sliding window"),
    "falcon": (dict(multi_query=True), "computes its attention itself"),
    "nemotron": ({}, "does not pass arguments on"),
    "diffllama": (dict(head_dim=8), "caches other tensors"),
    "doge": ({}, "changes the attention mask"),
    "lfm2": (dict(layer_types=["conv", "full_attention"]), "more than keys and values"),
    "mamba": (dict(state_size=4, time_step_rank=4), "recurrent state"),
}
TRAINED = [name for name in (*RIGHT, *REFUSED) if name not in ("gemma2", "mamba")]  # soft-capped logits; no LoRA in peft
FAST = {"qwen3", "granite", "mistral", "mamba"}  # tested always; the others are marked slow


def families(names) -> list:
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in names]


def model_of(family: str) -> LanguageModel:
    """A random model in fp32, without end tokens; vectors (biases, gates, sinks) are random too."""
    changes = RIGHT[family] if family in RIGHT else REFUSED[family][0]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **changes})).requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith("sinks"):
            p.data = 2.0 + torch.randn(p.shape)
    lm = LanguageModel(model, SimpleNamespace(eos_token_id=2, pad_token_id=0, name_or_path=""))
    lm.end_ids = []
    return lm


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Two prompts, of 30 and 60 tokens."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in (30, 60)]


def generated(lm: LanguageModel, prompt: list[int]) -> list[int]:
    """Greedy tokens by transformers, one prompt at a time, so without any padding."""
    ids = torch.tensor([prompt])
    options = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, pad_token_id=0)
    return lm.causal_lm.generate(ids, **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", families([*RIGHT, *REFUSED]))
def test_greedy_tokens_are_those_of_generate_or_the_family_is_refused(family: str, prompts: list[list[int]]) -> None:
    lm = model_of(family)
    lm.causal_lm.generation_config.eos_token_id = None
    expected = [generated(lm, prompt) for prompt in prompts]
    requests = [Request(prompts[0], 2), Request(prompts[1])]
    sampled = [SimpleSampler(lm, 8).generate(requests, Sampling(NEW, 0), 0)]
    if family in RIGHT:
        sampled += [Sampler(lm, 8, share=share).generate(requests, Sampling(NEW, 0), 0) for share in (True, False)]
        assert len(set(expected[0])) >= 4  # not one token over and over
    for results in sampled:
        assert [[c.ids for c in group] for group in results] == [[expected[0]] * 2, [expected[1]]]
    if family in REFUSED:
        ticks: list[int] = []
        with pytest.raises(ValueError, match="--model.sampler simple") as caught:
            Sampler(lm, 8).generate(requests, Sampling(NEW, 0), 0, ticks.append)
        assert REFUSED[family][1] in str(caught.value) and "\n" not in str(caught.value) and not ticks


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", families(TRAINED))
def test_a_training_step_learns_from_the_models_own_logits(family: str, checkpointing: bool, prompts: list[list[int]]) -> None:
    """Two groups, as in GRPO: log-probabilities and gradients equal those of the full logits, each row by itself."""
    lm = model_of(family)
    if checkpointing and not lm.causal_lm.supports_gradient_checkpointing:
        pytest.skip("this family has no gradient checkpointing")
    lm.checkpointing = checkpointing
    lm.new_adapter("judge", Lora(4, 8), 0)
    parameters = lm.adapter_parameters("judge")
    generator = torch.Generator().manual_seed(1)
    for key, p in parameters.items():
        if "lora_B" in key:
            p.data = 0.05 * torch.randn(p.shape, generator=generator)
        p.requires_grad_(True)
    completions = [[7, 9, 11, 30], [12, 5], [40, 41, 42]]
    examples = [Example(prompt, completion) for prompt in prompts for completion in completions]
    weight = torch.linspace(-1, 2, sum(len(e.completion) for e in examples))

    expected = []
    for e in examples:
        logits = lm.causal_lm(torch.tensor([e.prompt + e.completion]), use_cache=False).logits[0].float() / 1.5
        logp = logits.log_softmax(-1)[len(e.prompt) - 1 : -1]
        expected.append(logp.gather(-1, torch.tensor(e.completion)[:, None])[:, 0])
    expected = torch.cat(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), list(parameters.values()), allow_unused=True)

    layout = shared_layout(lm)
    assert (layout == "plain") == (family in REFUSED)
    with lm.training():
        logprobs, _ = token_logprobs(lm, collate(examples, 0, lm.device, layout), temperature=1.5)
        (logprobs * weight).sum().backward()
    torch.testing.assert_close(logprobs.detach(), expected.detach(), rtol=1e-3, atol=1e-3)
    assert sum(g.abs().max() > 0 for g in gradients if g is not None) >= len(gradients) // 2
    for (key, p), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is not None:
            scale = gradient.abs().max().item()
            torch.testing.assert_close(p.grad, gradient, rtol=1e-2, atol=1e-2 * scale + 1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_soft_capped_logits_are_refused_in_training(prompts: list[list[int]]) -> None:
    lm = model_of("gemma2")
    with pytest.raises(ValueError, match="soft-capping") as caught:
        token_logprobs(lm, collate([Example(prompts[0], [7, 9])], 0, lm.device, "plain"))
    assert "\n" not in str(caught.value)


def test_probabilities_of_the_next_token_are_the_models_own(prompts: list[list[int]]) -> None:
    """Granite divides its logits by a constant."""
    lm = model_of("granite")
    found = next_token_probabilities(lm, prompts, [7, 9, 11], 1000)
    for row, prompt in zip(found, prompts, strict=True):
        logits = lm.causal_lm(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(row, logits[[7, 9, 11]].softmax(-1))


def test_the_answer_is_computed_once_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calls = model_of("qwen3"), []
    forward = type(lm.causal_lm).forward
    monkeypatch.setattr(type(lm.causal_lm), "forward", lambda self, *a, **k: (calls.append(1), forward(self, *a, **k))[1])
    lm.causal_lm.train()
    assert unsupported(lm.causal_lm) == "" and supports_shared_prefix(lm.causal_lm) and len(calls) == 1
    assert lm.causal_lm.training and lm.causal_lm.config._attn_implementation == "sdpa"
    lm.causal_lm.set_attn_implementation("eager")
    assert not supports_shared_prefix(lm.causal_lm) and unsupported(lm.causal_lm) == ""  # the sampler brings its own attention


@pytest.mark.parametrize("family", families(["mistral", "gpt_oss"]))
def test_a_refused_family_loads_and_samples_with_the_simple_sampler(family, tokenizer, prompts, tmp_path) -> None:
    """gpt-oss has no `sdpa` attention in transformers: it loads with what it has."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{**SIZES, **REFUSED[family][0], "vocab_size": len(tokenizer)})
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = load_base(ModelKnobs(name=str(tmp_path), autocast="", sampling_dtype="", device="cpu", sampler="simple"))
    [group] = SimpleSampler(lm).generate([Request(prompts[0], 3)], Sampling(4), 0)
    assert all(c.finished or len(c.ids) == 4 for c in group)
