"""Loading a base, and the LoRA adapters on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from minisw import recipe
from minisw.engine.loading import explain_load_error, load_base, pick_device
from minisw.engine.model import LanguageModel, copy_adapter
from minisw.recipe import Lora, ModelKnobs

CPU = {"device": "cpu", "autocast": ""}


@pytest.fixture(scope="module")
def base(tiny_lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a folder, with its weights in a Llama: for a Qwen2, AutoTokenizer would build Qwen's own tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    qwen = tiny_lm.model.config.to_dict()
    sizes = {key: qwen[key] for key in LlamaConfig().to_dict() if key in qwen and key not in ("model_type", "architectures")}
    model = LlamaForCausalLM(LlamaConfig(**sizes | {"attention_bias": True}))
    missing, unexpected = model.load_state_dict(tiny_lm.model.state_dict(), strict=False)
    assert not unexpected and all(key.endswith("o_proj.bias") for key in missing)  # Qwen2 has a bias on q, k and v alone
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.bias)
    model.save_pretrained(folder)
    tiny_lm.tokenizer.save_pretrained(folder)
    return folder


def logits(lm: LanguageModel | torch.nn.Module, ids: list[int] | None = None) -> torch.Tensor:
    model = lm.model if isinstance(lm, LanguageModel) else lm
    with torch.no_grad():
        return model(torch.tensor([ids or [5, 60, 200, 31, 7]])).logits


def trainable(lm: LanguageModel) -> set[str]:
    return {name for name, p in lm.model.named_parameters() if p.requires_grad}


def check_one_line(caught: pytest.ExceptionInfo) -> None:
    assert str(caught.value) and "\n" not in str(caught.value)


# --- the base ------------------------------------------------------------------------------------------------------------


def test_load_base(base: Path, tiny_lm: LanguageModel) -> None:
    lm = load_base(ModelKnobs(name=str(base), **CPU))
    torch.testing.assert_close(logits(lm), logits(tiny_lm))
    assert lm.chat("Tom has 12 apples.", "So now") == tiny_lm.chat("Tom has 12 apples.", "So now")
    assert lm.end_ids == tiny_lm.end_ids == [lm.tokenizer.eos_token_id]
    assert trainable(lm) == set() and not lm.model.training
    assert lm.device == torch.device("cpu") and next(lm.model.parameters()).dtype == torch.float32
    assert lm.autocast_dtype is None


def test_types_of_weights_and_products(base: Path) -> None:
    lm = load_base(ModelKnobs(name=str(base), dtype="bf16", autocast="bf16", device="cpu"))
    assert next(lm.model.parameters()).dtype == torch.bfloat16
    with lm.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_chat_opens_the_reply(tiny_lm: LanguageModel) -> None:
    ids = tiny_lm.chat("Tom has 12 apples.", "So now")
    assert tiny_lm.tokenizer.decode(ids) == "<|im_start|>user\nTom has 12 apples.<|im_end|>\n<|im_start|>assistant\nSo now"
    assert tiny_lm.encode("") == []
    assert tiny_lm.decode([*tiny_lm.encode("So now 12."), *tiny_lm.end_ids]) == "So now 12."


def test_several_end_tokens(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [0, 9]}), encoding="utf-8")
    lm = load_base(ModelKnobs(name=str(tmp_path / "base"), **CPU))
    assert lm.end_ids == sorted({0, 9, lm.tokenizer.eos_token_id})


def spoil_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def spoil_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [spoil_nothing_there, spoil_empty, spoil_config, spoil_tokenizer, spoil_weights, remove_weights, remove_template]
)
def test_bad_base_folder(spoil, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    spoil(folder)
    with pytest.raises(ValueError) as caught:
        load_base(ModelKnobs(name=str(folder), **CPU))
    check_one_line(caught)
    assert str(folder) in str(caught.value)


def test_unknown_hub_name() -> None:
    with pytest.raises(ValueError, match="no-one/no-such-model") as caught:
        load_base(ModelKnobs(name="no-one/no-such-model", **CPU))
    check_one_line(caught)


def test_missing_gguf_file(base: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_base(ModelKnobs(name=str(base), gguf_file="none.gguf", **CPU))
    check_one_line(caught)


def test_the_remedy_fits_the_cause(base: Path, tmp_path: Path) -> None:
    def explained(error: str, name: str = "owner/name", gguf: str = "") -> str:
        return explain_load_error(ModelKnobs(name=name, gguf_file=gguf), OSError(error))

    assert "hf auth login" in explained("You are trying to access a gated repo.\nMake sure to have access to it")
    assert "cannot be reached" in explained("We couldn't connect to 'https://huggingface.co' to load the files")
    assert "not a valid model identifier; give --model.name" in explained("owner/name is not a valid model identifier.\nIf this")
    (tmp_path / "half.gguf").write_bytes(b"GGUF")
    assert "give --model.gguf-file half.gguf" in explained("?", str(tmp_path))
    assert "damaged" in explained("cannot reshape array", str(tmp_path), "half.gguf") and "damaged" in explained("?", str(base))


def test_missing_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "minisw" / "recipe.py"))
    with pytest.raises(ValueError, match="embedded model .* is missing"):
        load_base(ModelKnobs(**CPU))


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="finds no GPU") as caught:
        pick_device("cuda")
    check_one_line(caught)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


# --- adapters ------------------------------------------------------------------------------------------------------------


def test_new_adapter_changes_nothing_yet(new_lm, tiny_lm: LanguageModel) -> None:
    lm = new_lm("judge")
    assert torch.equal(logits(lm), logits(tiny_lm))
    names = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in lm.adapter_parameters("judge")}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(lm.adapter_parameters("judge")) == 2 * 2 * 7
    assert all(p.shape[0 if "lora_A" in name else 1] == 4 for name, p in lm.adapter_parameters("judge").items())


GOOD_NAMES = ["judge", "stepwiser-2", "best_1", "default", "q", "self", "lay", "jud"]
BAD_NAMES = ["", "a.b", "a/b", "a b", "ä", "layers", "q_proj", "0", "weight", "lora", "lora_A", "keys", "training", "base_model"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_an_adapter_keeps_its_weights_under_any_good_name(name: str, new_lm, tmp_path: Path) -> None:
    lm = new_lm("policy", noise=0.3)
    lm.new_adapter(name, Lora(4, 8), 1)
    for seed, p in enumerate(lm.adapter_parameters(name).values()):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    lm.save_adapter(name, tmp_path / name)
    again = new_lm("policy")
    again.load_adapter(name, tmp_path / name)
    saved, loaded = lm.adapter_parameters(name), again.adapter_parameters(name)
    assert saved.keys() == loaded.keys() and len(saved) == 28
    assert all(torch.equal(p, loaded[key]) for key, p in saved.items())


@pytest.mark.parametrize("others", [[], ["policy"]])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_adapter_name_is_refused_in_one_line(name: str, others: list[str], new_lm, tmp_path: Path) -> None:
    new_lm("judge").save_adapter("judge", tmp_path / "judge")
    lm = new_lm(*others)
    for attempt in (lambda: lm.new_adapter(name, Lora(4, 8), 0), lambda: lm.load_adapter(name, tmp_path / "judge")):
        with pytest.raises(ValueError, match="cannot name an adapter") as caught:
            attempt()
        check_one_line(caught)
    assert lm.adapters == others


def test_an_adapter_name_is_used_once(new_lm, tmp_path: Path) -> None:
    lm = new_lm("judge", noise=0.3)
    expected = logits(lm)
    lm.save_adapter("judge", tmp_path / "judge")
    for attempt in (lambda: lm.new_adapter("judge", Lora(4, 8), 0), lambda: lm.load_adapter("judge", tmp_path / "judge")):
        with pytest.raises(ValueError, match="already") as caught:
            attempt()
        check_one_line(caught)
    assert lm.adapters == ["judge"] and torch.equal(logits(lm), expected)
    lm.drop_adapter("judge")
    lm.load_adapter("judge", tmp_path / "judge")
    assert torch.equal(logits(lm), expected)


def test_the_active_adapter_has_a_name(new_lm) -> None:
    lm = new_lm()
    assert lm.active is None
    lm = new_lm("policy", "judge")
    assert lm.active == "policy"
    with lm.using("judge"):
        assert lm.active == "judge" == lm.model.active_adapter
        with lm.using(None):
            assert lm.active is None
        assert lm.active == "judge"
        lm.drop_adapter("judge")
        assert lm.active == "policy"
    assert lm.active == "policy"


def test_copying_an_adapter(new_lm) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    with lm.using("judge"):
        expected = logits(lm)
    copy_adapter(lm, "judge", "policy")
    with lm.using("policy"):
        assert torch.equal(logits(lm), expected)
    for p in lm.adapter_parameters("judge").values():  # a copy, not the same tensors
        p.data.zero_()
    with lm.using("policy"):
        assert torch.equal(logits(lm), expected)


def test_new_adapter_is_seeded(new_lm) -> None:
    def fresh(seed: int) -> list[torch.Tensor]:
        lm = new_lm("other")
        lm.new_adapter("judge", Lora(4, 8), seed)
        return list(lm.adapter_parameters("judge").values())

    one, same, other = fresh(3), fresh(3), fresh(4)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_alpha_scales_the_update(new_lm, tiny_lm: LanguageModel) -> None:
    lm = new_lm("judge", noise=0.2)  # alpha is twice the rank
    layer = lm.causal_lm.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32)
    with torch.no_grad():
        expected = layer.base_layer(x) + 2 * x @ layer.lora_A["judge"].weight.T @ layer.lora_B["judge"].weight.T
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("folder_name", ["judge", "somewhere-else"])
@pytest.mark.parametrize("beside_another", [False, True])
def test_saved_adapter_gives_the_same_logits(folder_name: str, beside_another: bool, new_lm, tmp_path: Path) -> None:
    lm, folder = new_lm("policy", "judge", noise=0.3), tmp_path / "run" / folder_name
    with lm.using("judge"):
        expected = logits(lm)
    lm.save_adapter("judge", folder)
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert [file.name for file in folder.parent.iterdir()] == [folder_name]
    lm = new_lm(*(["policy"] if beside_another else []))
    lm.load_adapter("again", folder)
    assert lm.adapters[-1] == "again" and not any("again" in name for name in trainable(lm))
    with lm.using("again"):
        assert torch.equal(logits(lm), expected)


def test_peft_loads_a_saved_adapter(new_lm, base: Path, tmp_path: Path) -> None:
    lm = new_lm("judge", noise=0.3)
    lm.save_adapter("judge", tmp_path / "judge")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, str(tmp_path / "judge")).eval()), logits(lm))


def test_saving_again_replaces(new_lm, tmp_path: Path) -> None:
    for noise in (0.1, 0.3):
        lm = new_lm("judge", noise=noise)
        lm.save_adapter("judge", tmp_path / "judge")
        again = new_lm()
        again.load_adapter("judge", tmp_path / "judge")
        assert torch.equal(logits(again), logits(lm))


def test_saving_touches_nothing_else(new_lm, tmp_path: Path) -> None:
    lm = new_lm("judge", noise=0.3)
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "notes.txt").write_text("mine", encoding="utf-8")
    lm.save_adapter("judge", tmp_path / "best")
    assert (tmp_path / "judge" / "notes.txt").is_file()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"
    again = new_lm()
    again.load_adapter("judge", tmp_path / "best")
    assert torch.equal(logits(again), logits(lm))


def test_switching_adapters(new_lm, tiny_lm: LanguageModel) -> None:
    lm, found = new_lm("policy", "judge", noise=0.3), {}
    for name in ("policy", "judge", None, "judge", "policy", None):
        with lm.using(name):
            now = logits(lm)
        assert torch.equal(found.setdefault(name, now), now)
    assert not torch.equal(found["policy"], found["judge"])
    assert not torch.equal(found["policy"], found[None])
    assert torch.equal(found[None], logits(tiny_lm))


def test_using_puts_the_active_adapter_back(new_lm) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    outside = logits(lm)
    with lm.using("judge"):
        inside = logits(lm)
        with lm.using("policy"):
            assert torch.equal(logits(lm), outside)
        assert torch.equal(logits(lm), inside)
        with lm.using(None):
            pass
        assert torch.equal(logits(lm), inside)
    assert torch.equal(logits(lm), outside)
    for name in ("judge", None):
        with pytest.raises(KeyboardInterrupt), lm.using(name):
            raise KeyboardInterrupt
        assert torch.equal(logits(lm), outside)


def test_an_adapter_within_the_bare_base(new_lm) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    with lm.using("judge"):
        expected = logits(lm)
    with lm.using(None):
        bare = logits(lm)
        with lm.using("judge"):
            assert torch.equal(logits(lm), expected)
        assert torch.equal(logits(lm), bare)


@pytest.mark.parametrize("wanted", [set(), {"policy"}, {"judge"}, {"policy", "judge"}])
@pytest.mark.parametrize("name", ["policy", "judge", None])
def test_using_keeps_who_is_trainable(name: str | None, wanted: set[str], new_lm) -> None:
    lm = new_lm("policy", "judge")
    for adapter in ("policy", "judge"):
        for p in lm.adapter_parameters(adapter).values():
            p.requires_grad_(adapter in wanted)
    before = trainable(lm)
    assert len(before) == 28 * len(wanted)
    with lm.using(name):
        if name is not None:
            assert trainable(lm) == before
    assert trainable(lm) == before


def test_memory_that_runs_out_while_merging_leaves_the_weights_alone(new_lm, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = new_lm("judge", noise=0.3)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    delta, calls = LoraLinear.get_delta_weight, []

    def short_of_memory(self, name):
        calls.append(name)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("no memory")
        return delta(self, name)

    monkeypatch.setattr(LoraLinear, "get_delta_weight", short_of_memory)
    with lm.using("judge"), pytest.raises(torch.OutOfMemoryError), lm.merged():
        pass
    assert len(calls) == 5 and all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())
    assert not any(m.merged_adapters for m in lm.model.modules() if isinstance(m, LoraLinear))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_merging_samples_with_the_active_adapter_and_puts_the_weights_back(dtype, new_lm) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    lm.sampling_dtype = dtype
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    for name in ("judge", "policy", None):
        with lm.using(name):
            expected = logits(lm)
            with lm.merged():
                merged = logits(lm)
            assert merged.dtype == (dtype or torch.float32)
            if dtype is None:
                torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
            else:
                assert (merged - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in lm.model.named_parameters())


def test_checkpointing_is_on_inside_training_only(new_lm) -> None:
    lm = new_lm("judge")
    for lm.checkpointing in (False, True):
        with lm.training():
            assert lm.causal_lm.is_gradient_checkpointing == lm.checkpointing
        assert not lm.causal_lm.is_gradient_checkpointing and not lm.causal_lm.training


def test_dropping_adapters(new_lm, tiny_lm: LanguageModel) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    with lm.using("judge"):
        judge = logits(lm)
    lm.drop_adapter("policy")
    assert lm.adapters == ["judge"] and lm.adapter_parameters("policy") == {}
    with lm.using("judge"):
        assert torch.equal(logits(lm), judge)
    lm.drop_adapter("judge")
    assert lm.adapters == [] and torch.equal(logits(lm), logits(tiny_lm))
    with lm.using(None):
        assert torch.equal(logits(lm), logits(tiny_lm))
    lm.new_adapter("judge", Lora(4, 8), 0)
    assert lm.adapters == ["judge"] and torch.equal(logits(lm), logits(tiny_lm))
    assert len(lm.adapter_parameters("judge")) == 28


@pytest.mark.parametrize("name", ["policy", None])
def test_dropping_while_in_use(name: str | None, new_lm, tiny_lm: LanguageModel) -> None:
    lm = new_lm("policy", "judge", noise=0.3)
    with lm.using("judge"):
        judge = logits(lm)
    with lm.using(name):
        lm.drop_adapter("policy")
    assert torch.equal(logits(lm), judge)  # the one that is left
    with lm.using(name if name in lm.adapters else None):
        lm.drop_adapter("judge")
    assert torch.equal(logits(lm), logits(tiny_lm))
    lm.new_adapter("judge", Lora(4, 8), 0)
    with lm.using("judge"):
        pass
    assert not any(getattr(module, "disable_adapters", None) is True for module in lm.model.modules())


def test_unknown_adapter(new_lm, tiny_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="'judge'"), tiny_lm.using("judge"):
        pass
    with pytest.raises(ValueError, match="judge"), new_lm("policy").using("judge"):
        pass


def spoil_adapter_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def remove_adapter_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def spoil_adapter_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [spoil_nothing_there, spoil_empty, spoil_adapter_weights, remove_adapter_weights, spoil_adapter_config]
)
@pytest.mark.parametrize("others", [[], ["policy"]])
def test_bad_adapter_folder(spoil, others: list[str], new_lm, tiny_lm: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    new_lm("judge").save_adapter("judge", folder)
    spoil(folder)
    lm = new_lm(*others)
    with pytest.raises(ValueError) as caught:
        lm.load_adapter("judge", folder)
    check_one_line(caught)
    assert str(folder) in str(caught.value)
    assert lm.adapters == others
    assert torch.equal(logits(lm), logits(tiny_lm))


def test_adapter_of_another_base(new_lm, base: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    lm = new_lm()
    other = LanguageModel(
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(lm.tokenizer),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=32,
                eos_token_id=2,
            )
        ),
        lm.tokenizer,
    )
    other.new_adapter("judge", Lora(4, 8), 0)
    other.save_adapter("judge", tmp_path / "judge")
    with pytest.raises(ValueError) as caught:
        lm.load_adapter("judge", tmp_path / "judge")
    check_one_line(caught)
