"""What a GPU run does, at small size on a CPU: 4-bit weights, fp16 with scaled losses, checkpointing, other model families."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from minisw import reproduce
from minisw.engine import loading
from minisw.engine.loading import dtype_of, load_base
from minisw.engine.logprobs import Example, collate, token_logprobs
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.judges.saved import merge, write_card
from minisw.presets import PRESETS
from minisw.recipe import JudgeKnobs, Lora, ModelKnobs, Recipe
from minisw.training.grpo import GRPOConfig, train_grpo

SIZES = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
KNOBS = JudgeKnobs(steps=3, prompts=3, group=4, lr=1e-2, max_new_tokens=8, temperature=1.0)
needs_4_bits = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def bases(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """Random models of three families, as folders."""
    folders = {}
    special = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    for name, config, kind in (
        ("llama", LlamaConfig, LlamaForCausalLM),  # SmolLM's too
        ("qwen3", Qwen3Config, Qwen3ForCausalLM),
    ):
        torch.manual_seed(0)
        extra = {"head_dim": 16} if name == "qwen3" else {}
        built = kind(config(vocab_size=len(tokenizer), initializer_range=0.3, **SIZES, **special, **extra))
        folders[name] = tmp_path_factory.mktemp(name)
        built.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def reward(index: int, text: str) -> float:
    return float(sum(map(ord, text)) % 2)


def step(lm, prompts, **changes):
    """GRPO on adapter "judge"; returns the metrics."""
    sampler = Sampler(lm, 16)
    return train_grpo(sampler, "judge", prompts[:5], reward, GRPOConfig.of(dataclasses.replace(KNOBS, **changes), 4096), seed=0)


def moved(lm, before) -> bool:
    return any(not torch.equal(p, before[name]) for name, p in lm.adapter_parameters("judge").items())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_other_families_sample_and_learn(family, bases, prompts):
    lm = load_base(ModelKnobs(name=str(bases[family]), autocast="", sampling_dtype="", device="cpu"))
    longest = max(prompts, key=len)
    out = lm.model.generate(torch.tensor([longest]), max_new_tokens=10, do_sample=False)[0, len(longest) :].tolist()
    (greedy, *_), _ = Sampler(lm, 4).generate([Request(longest, 3), Request(longest[:-2])], Sampling(10, 0.0), 0)
    assert greedy.ids == out
    lm.new_adapter("judge", Lora(4, 8), 0)
    before = {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}
    metrics = step(lm, prompts)
    assert len(metrics) == 3 and any(m["grad_norm"] > 0 for m in metrics) and moved(lm, before)


@needs_4_bits
def test_gradients_through_four_bits_are_those_through_the_dequantised_weights(bases, prompts):
    """After sampling too: what a layer does without gradients must not stop them later."""
    import bitsandbytes.functional as bnb

    knobs = ModelKnobs(name=str(bases["llama"]), autocast="", sampling_dtype="", four_bit=True, device="cpu")
    small, full = load_base(knobs), load_base(dataclasses.replace(knobs, four_bit=False))
    for module, other in zip(small.model.modules(), full.model.modules(), strict=True):
        if type(module).__name__ == "Linear4bit":
            other.weight.data = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state).to(torch.float32)
    grads = []
    for lm in (small, full):
        lm.new_adapter("judge", Lora(4, 8), 0)
        Sampler(lm, 4).generate([Request(prompts[0], 2)], Sampling(3, 1.0), 0)
        parameters = lm.adapter_parameters("judge")
        generator = torch.Generator().manual_seed(1)
        for key, p in parameters.items():
            if "lora_B" in key:
                p.data = 0.1 * torch.randn(p.shape, generator=generator)
            p.requires_grad_(True)
        batch = collate([Example(ids, [7, 9, 11]) for ids in prompts[:4]], 0, lm.device)
        with lm.using("judge"):
            token_logprobs(lm, batch)[0].sum().backward()
        grads.append({key: p.grad for key, p in parameters.items()})
    for key, grad in grads[1].items():
        assert (grads[0][key] - grad).norm() < 1e-3 * grad.norm() and grad.norm() > 0, key


@pytest.mark.slow
@needs_4_bits
@pytest.mark.parametrize("checkpointing", [False, True])
def test_four_bits_from_loading_to_reloading(checkpointing, bases, prompts, tmp_path):
    knobs = ModelKnobs(
        name=str(bases["llama"]), dtype="bf16", autocast="bf16", sampling_dtype="", four_bit=True, checkpointing=checkpointing,
        device="cpu",
    )  # fmt: skip
    lm = load_base(knobs)
    linear = lm.model.model.layers[0].mlp.up_proj
    assert type(linear).__name__ == "Linear4bit" and linear.weight.quant_state.nested  # nf4, double quantisation
    assert linear.weight.quant_type == "nf4" and type(lm.model.lm_head).__name__ == "Linear"
    frozen = linear.weight.data.clone()
    lm.new_adapter("judge", Lora(4, 8), 0)
    before = {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}
    metrics = step(lm, prompts)
    assert any(m["grad_norm"] > 0 for m in metrics) and moved(lm, before)
    assert torch.equal(linear.weight.data, frozen)
    with lm.using("judge"), torch.no_grad():
        expected = lm.model(torch.tensor([prompts[0]])).logits
    lm.save_adapter("judge", tmp_path / "judge")
    again = load_base(knobs)
    again.load_adapter("judge", tmp_path / "judge")
    with again.using("judge"), torch.no_grad():
        torch.testing.assert_close(again.model(torch.tensor([prompts[0]])).logits, expected)

    recipe = Recipe(model=knobs, lora=Lora(4, 8))
    write_card(tmp_path / "judge", recipe, "judge")
    with pytest.raises(ValueError, match="4-bit base cannot be merged"):
        merge(tmp_path / "judge", tmp_path / "merged")
    merge(tmp_path / "judge", tmp_path / "merged", four_bit=False)
    assert load_base(dataclasses.replace(knobs, name=str(tmp_path / "merged"), four_bit=False)).adapters == []


@pytest.mark.slow
def test_fp16_learns_with_scaled_losses(bases, prompts):
    lm = load_base(ModelKnobs(name=str(bases["llama"]), dtype="fp16", autocast="fp16", sampling_dtype="", device="cpu"))
    lm.new_adapter("judge", Lora(4, 8), 0)
    assert lm.scaler.is_enabled() and {p.dtype for p in lm.adapter_parameters("judge").values()} == {torch.float32}
    before = {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}
    metrics = step(lm, prompts)
    assert any(m["grad_norm"] > 0 for m in metrics) and moved(lm, before)
    other = load_base(ModelKnobs(name=str(bases["llama"]), dtype="bf16", autocast="bf16", device="cpu"))
    assert not other.scaler.is_enabled()


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_gpu_type_is_chosen_by_compute_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(loading, "fast_bf16", lambda: expected is torch.float16)  # the CPU has no say
    assert dtype_of("auto", torch.device("cuda")) is expected
    assert dtype_of("fp32", torch.device("cuda")) is torch.float32


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bf16_only_if_its_hardware_does(fast, expected, bases, monkeypatch):
    monkeypatch.setattr(loading, "fast_bf16", lambda: fast)
    cpu = torch.device("cpu")
    assert dtype_of("auto", cpu) is expected
    assert dtype_of("", cpu) is None and dtype_of("fp16", cpu) is torch.float16 and dtype_of("bf16", cpu) is torch.bfloat16
    lm = load_base(ModelKnobs(name=str(bases["llama"]), dtype="auto", autocast="auto", sampling_dtype="auto", device="cpu"))
    assert lm.causal_lm.dtype is lm.sampling_dtype is expected
    assert lm.autocast_dtype is (expected if fast else None)  # there is no autocast to fp32


def test_products_have_the_type_of_autocast_or_of_the_weights(monkeypatch):
    monkeypatch.setattr(loading, "fast_bf16", lambda: False)
    cpu = torch.device("cpu")
    assert loading.precision(ModelKnobs(dtype="bf16", autocast="auto"), cpu).products is torch.bfloat16
    assert loading.precision(ModelKnobs(dtype="fp32", autocast="bf16"), cpu).products is torch.bfloat16
    assert loading.precision(ModelKnobs(dtype="fp16", autocast=""), cpu).products is torch.float16


def test_each_of_several_processes_has_its_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert loading.pick_device("auto") == torch.device("cuda") and not chosen
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert loading.pick_device("auto") == torch.device("cuda", 1) and chosen == [1]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("tiny", "smoke")])
def test_gpu_presets_are_read_and_planned(preset, capsys):
    command = reproduce.parse(["--preset", preset, "--dry-run"])
    assert command.model.dtype == "auto" and (command.model.checkpointing or preset.startswith("rung-"))  # rungs are small
    reproduce.run(command)
    assert f"preset {preset}" in capsys.readouterr().out


@needs_4_bits
def test_four_bits_go_to_the_device_that_was_asked_for(bases, monkeypatch):
    """transformers takes the GPU there is where nothing is said."""
    asked = []
    load = AutoModelForCausalLM.from_pretrained

    def noted(*where, **options):
        asked.append(options["device_map"])
        return load(*where, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    load_base(ModelKnobs(name=str(bases["llama"]), dtype="bf16", autocast="", sampling_dtype="", four_bit=True, device="cpu"))
    assert asked == [{"": torch.device("cpu")}]


@needs_4_bits
def test_four_bits_without_bitsandbytes_say_what_is_missing(bases, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find_spec(name, *a))
    with pytest.raises(ValueError, match="bitsandbytes") as caught:
        load_base(ModelKnobs(name=str(bases["llama"]), four_bit=True, device="cpu"))
    assert "\n" not in str(caught.value)
