"""The memory that a run needs, before it starts."""

import dataclasses
import sys

import pytest
import torch
from transformers import LlamaConfig

from benchmarks.memory_count import MODELS
from minisw.engine import loading, memory, sampler
from minisw.engine.model import LanguageModel
from minisw.presets import PRESETS
from minisw.recipe import Recipe

HALF, ONE_AND_A_HALF = MODELS["0.5b"], MODELS["1.5b"]


@pytest.fixture(autouse=True)
def bf16_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets are planned for GPUs with bf16; a CPU without it would count in fp32."""
    monkeypatch.setattr(loading, "fast_bf16", lambda: True)


def with_model(preset: str, **changes: object):
    recipe = PRESETS[preset]
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **changes))


def short(recipe: Recipe) -> Recipe:
    """With solutions of at most 20 tokens of text in one chunk."""
    return dataclasses.replace(recipe, policy=dataclasses.replace(recipe.policy, max_text_tokens=20, max_chunks=1))


def test_weights_are_those_of_the_published_models():
    half, large = memory.shapes(HALF), memory.shapes(ONE_AND_A_HALF)
    assert sum(half[:2]) == 494_032_768 and sum(large[:2]) == 1_543_714_304  # their model cards: 0.49B and 1.54B
    assert len(half[2]) == 24 * 7 and max(large[2]) == (8960, 1536)


@pytest.mark.parametrize(
    ("preset", "config", "card"), [("gpu-8gb", HALF, 8), ("gpu-12gb", ONE_AND_A_HALF, 12), ("gpu-24gb", ONE_AND_A_HALF, 24)]
)
def test_every_gpu_preset_fits_its_card(preset, config, card):
    found = memory.estimate(config, PRESETS[preset])
    assert found.peak < memory.USABLE * card * memory.GB


def test_a_grpo_micro_batch_of_eight_with_1_5b_in_nf4_stays_below_8_gb():
    found = memory.estimate(ONE_AND_A_HALF, PRESETS["gpu-12gb"], prompt=900, completion=300, rows=8)
    assert found.training_peak < 8 * memory.GB


@pytest.mark.slow
def test_each_part_grows_with_what_it_is_for():
    base = memory.estimate(ONE_AND_A_HALF, PRESETS["gpu-12gb"])
    full = memory.estimate(ONE_AND_A_HALF, with_model("gpu-12gb", four_bit=False))
    assert full.weights > 2.5 * base.weights and full.merged > 0 == base.merged
    kept = memory.estimate(ONE_AND_A_HALF, with_model("gpu-12gb", checkpointing=False))
    assert kept.activations > 3 * base.activations and kept.cache == base.cache
    rows = memory.estimate(ONE_AND_A_HALF, with_model("gpu-12gb", slots=192))
    assert rows.cache > 1.7 * base.cache and rows.training_peak == base.training_peak
    llama = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
    )
    assert memory.estimate(llama, PRESETS["gpu-8gb"]).peak > 0


@pytest.mark.parametrize(
    ("changes", "room", "knob"),
    [
        ({"four_bit": False, "micro_tokens": 65536, "checkpointing": False}, 20, "--model.checkpointing"),
        ({"slots": 2000}, 20, "--model.slots below 2000"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_with_the_knob_to_change(changes, room, knob, tmp_path):
    ONE_AND_A_HALF.save_pretrained(tmp_path)
    recipe = with_model("gpu-12gb", name=str(tmp_path), **changes)
    with pytest.raises(ValueError, match=rf"needs about .* GB are free: give {knob}"):
        memory.preflight(recipe, lambda device: room * memory.GB)
    assert memory.preflight(with_model("gpu-12gb", name=str(tmp_path)), lambda device: room * memory.GB).peak > 0


def test_the_embedded_preset_passes_and_a_missing_model_is_explained():
    assert memory.preflight(PRESETS["tiny"]).peak < 2 * memory.GB
    with pytest.raises(ValueError, match="no/such-model"):
        memory.preflight(with_model("smoke", name="no/such-model"))


def test_the_activations_are_estimated_within_a_third(new_lm):
    """On a model whose layers are most of it, without checkpointing, in fp32."""
    from minisw.engine.batches import Example, collate
    from minisw.engine.logprobs import token_logprobs

    lm: LanguageModel = new_lm("judge", rank=4)
    recipe = with_model("tiny", dtype="fp32", autocast="", sampling_dtype="", device="cpu")
    recipe = dataclasses.replace(recipe, lora=dataclasses.replace(recipe.lora, rank=4))
    found = memory.estimate(lm.causal_lm.config, recipe, prompt=100, completion=20, rows=8)
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    for p in lm.adapter_parameters("judge").values():
        p.requires_grad_(True)
    batch = collate([Example([5 + n for n in range(100)], [7 + row] * 20) for row in range(8)], 0, lm.device)
    with lm.using("judge"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        token_logprobs(lm, batch)
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert measured / 1.5 < found.activations < 1.5 * measured


@pytest.mark.slow
def test_measuring_uses_all_slots_at_full_length_and_leaves_the_adapter_alone(new_lm, monkeypatch):
    lm = new_lm("judge", noise=0.1)
    before = {name: p.detach().clone() for name, p in lm.adapter_parameters("judge").items()}
    rooms = []
    slots = sampler.KVCache.__init__
    monkeypatch.setattr(
        sampler.KVCache, "__init__", lambda self, n, room, *rest: (rooms.append((n, room)), slots(self, n, room, *rest))[1]
    )
    recipe = with_model("tiny", slots=16)
    recipe = short(recipe)
    found = memory.measure(lm, "judge", recipe, 30, 6, 4)
    assert len(rooms) == 1 and rooms[0][0] == 16 and rooms[0][1] >= 20 + 2 * memory.TAG_TOKENS
    assert found.keys() == {"training", "sampling"}
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in lm.adapter_parameters("judge").items())


@pytest.mark.slow
def test_slots_that_do_not_fit_are_an_error_and_not_halved(new_lm, monkeypatch):
    init = sampler.KVCache.__init__

    def limited(self, slots, *rest):
        if slots > 8:
            raise torch.OutOfMemoryError("no memory")
        init(self, slots, *rest)

    monkeypatch.setattr(sampler.KVCache, "__init__", limited)
    with pytest.raises(ValueError, match=r"sampling does not fit into the GPU's memory: change --model\.slots"):
        memory.measure(new_lm("judge"), "judge", short(with_model("tiny", slots=16)), 30, 6, 4)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), RuntimeError("no memory")])
def test_a_micro_batch_that_does_not_fit_is_an_error(error, new_lm, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(memory, "token_logprobs", fail)
    lm = new_lm("judge")
    kind, message = (ValueError, "training does not fit") if "CUBLAS" in str(error) else (RuntimeError, "^no memory$")
    with pytest.raises(kind, match=message):
        memory.measure(lm, "judge", with_model("tiny", slots=2), 30, 6, 4)
    assert not any(p.requires_grad for p in lm.adapter_parameters("judge").values())


def test_rows_are_as_long_as_the_text_budget_with_its_tags_or_an_analysis():
    recipe = with_model("tiny")
    policy = dataclasses.replace(recipe.policy, max_text_tokens=100, max_chunks=5)
    recipe = dataclasses.replace(recipe, policy=policy)
    assert memory.longest(recipe, 20) == 100 + 5 * 2 * memory.TAG_TOKENS
    assert memory.longest(recipe, 500) == 500
    assert memory.prompt_length(recipe) == 200
    assert memory.prompt_length(with_model("paper")) == memory.PROMPT


def test_types_count(monkeypatch):
    """The same recipe needs twice the weights in fp32, and on a CPU without bf16 "auto" is fp32; a GPU is planned with bf16."""
    auto = with_model("gpu-24gb", device="cpu")
    fast = memory.estimate(ONE_AND_A_HALF, auto)
    monkeypatch.setattr(loading, "fast_bf16", lambda: False)
    slow = memory.estimate(ONE_AND_A_HALF, auto)
    assert slow.weights == 2 * fast.weights and slow.cache == 2 * fast.cache and slow.activations > 1.5 * fast.activations
    assert memory.estimate(ONE_AND_A_HALF, memory.on_a_gpu(auto)) == fast


def test_the_command_prints_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "fast_bf16", lambda: False)  # a laptop plans for a GPU
    ONE_AND_A_HALF.save_pretrained(tmp_path)
    printed = memory.run(["--preset", "gpu-24gb", "--config", str(tmp_path / "config.json"), "--rows", "8"])
    expected = memory.estimate(ONE_AND_A_HALF, memory.on_a_gpu(PRESETS["gpu-24gb"]), rows=8)
    assert printed == memory.table(expected)
    assert printed.splitlines()[0] == f"weights      {expected.weights / memory.GB:6.2f} GB"
    assert printed.splitlines()[-1] == f"peak         {expected.peak / memory.GB:6.2f} GB"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset nonsense", "invalid choice"),
        ("--rows many", "invalid int"),
        ("--prompt 0", "--prompt must be at least 1"),
        ("--rows -1", "at least 0"),
        ("--unknown", "unrecognized arguments"),
        ("--config no/such/file.json", "Give --config FILE"),
    ],
)
def test_wrong_usage_of_the_command_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memory", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        memory.main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.startswith("minisw: ") and message in err and err.count("\n") == 1
