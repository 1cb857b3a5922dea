"""Load a base model (hub name, folder, GGUF file; full or 4-bit), put LoRA adapters on it, save and reload them.

One base stays in memory; the policy and each judge are LoRA adapters on it, switched by name. That is what makes a
whole cycle fit on one small GPU.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError

from minisw.recipe import Lora
from minisw.records import writes


class LanguageModel:
    """A causal language model, its tokenizer, and the adapters on it."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        autocast: torch.dtype | None = None,
        sampling_dtype: torch.dtype | None = None,
        checkpointing: bool = False,
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.autocast_dtype, self.sampling_dtype, self.checkpointing = autocast, sampling_dtype, checkpointing
        self.scaler = self.new_scaler()
        self.halvings = 0  # how often memory ran out: micro-batches are smaller by these powers of two
        self.adapters: list[str] = []
        self._bare = False  # within using(None)
        # generate's own end tokens may be several (Qwen: <|im_end|> and <|endoftext|>)
        ends = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
        self.end_ids = sorted({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})

    def new_scaler(self) -> torch.amp.GradScaler:
        """For one training. Small gradients vanish in fp16 (a T4 has no bf16): losses are scaled up, and gradients down again."""
        low = torch.float16 in (self.autocast_dtype, self.causal_lm.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=low)
        return self.scaler

    # --- text in, token ids out ------------------------------------------------------------------------------------

    def chat(self, user: str, reply: str = "") -> list[int]:
        """Token ids of one user turn with the assistant's turn opened, and `reply` begun in it."""
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True)
        return self.encode(text) + self.encode(reply)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def causal_lm(self) -> torch.nn.Module:
        """The transformers model itself, with whatever adapter layers are put into it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for training forwards, where the recipe asks for it."""
        if self.autocast_dtype is None:
            yield
            return
        # peft would give each adapter an fp32 copy of its input, kept for the backward pass: two fifths of all that is kept
        with torch.autocast(self.device.type, self.autocast_dtype), disable_input_dtype_casting(self.model):
            yield

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """For forwards and backwards: with `checkpointing` a layer keeps only its input, and is computed again backward."""
        if not self.checkpointing:
            yield
            return
        model = self.causal_lm
        # what is computed again is computed outside of `autocast`, which torch remembers and peft does not
        casting = disable_input_dtype_casting(self.model, self.autocast_dtype is not None)
        with casting, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers 6's names, which not every 5 has
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers checkpoints only then; no dropout is on, so nothing else changes
            try:
                yield
            finally:
                model.gradient_checkpointing_disable()
                model.eval()

    # --- adapters --------------------------------------------------------------------------------------------------

    def new_adapter(self, name: str, lora: Lora, seed: int) -> None:
        """Put a fresh LoRA (B = 0, so it changes nothing yet) on all linear layers."""
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        if isinstance(self.model, PeftModel):
            self.model.add_adapter(name, config)
        else:
            self.model = get_peft_model(self.model, config, adapter_name=name)
        self.adapters.append(name)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter that `save_adapter` (or peft) wrote. Raises ValueError where the folder holds none."""
        if not (folder / "adapter_config.json").is_file():
            raise ValueError(f"no adapter in {folder}: it has no adapter_config.json; name the folder that save_adapter wrote")
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or ["unreadable"])[0]
            raise ValueError(f"cannot load the adapter in {folder}: {first} Is it whole, and of this base?") from None
        self.adapters.append(name)

    def drop_adapter(self, name: str) -> None:
        self.adapters.remove(name)
        if self.adapters:
            self.model.set_adapter(self.adapters[0])
            self.model.delete_adapter(name)
        else:
            self.model = self.model.unload().eval()

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write one adapter as `folder/adapter_model.safetensors` and its config, loadable by `PeftModel.from_pretrained`."""
        if not writes():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = folder.with_name(folder.name + ".part")  # a fixed name: what a killed process left there is removed
        shutil.rmtree(scratch, ignore_errors=True)
        self.model.save_pretrained(scratch, selected_adapters=[name])  # peft chooses the sub-folder, and adds a README.md
        written = scratch if name == "default" else scratch / name
        folder.mkdir(exist_ok=True)
        config = json.loads((written / "adapter_config.json").read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in any order
        (written / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            (written / file).replace(folder / file)
        shutil.rmtree(scratch)

    def adapter_parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        return {key: p for key, p in self.model.named_parameters() if f".{name}." in key and "lora_" in key}

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Run with adapter `name`, or with the bare base for None."""
        if not isinstance(self.model, PeftModel):
            if name is not None:
                raise ValueError(f"no adapter {name!r} is loaded")
            yield
            return
        before = None if self._bare else self.model.active_adapter
        self._activate(name)
        try:
            yield
        finally:
            if isinstance(self.model, PeftModel):
                self._activate(before if before is None or before in self.adapters else self.adapters[0])
            else:  # its last adapter was dropped meanwhile
                self._bare = False

    def _activate(self, name: str | None) -> None:
        trainable = {key for key, p in self.model.named_parameters() if p.requires_grad}
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name)
        self._bare = name is None
        for key, p in self.model.named_parameters():  # peft also changes who is trainable: put that back
            p.requires_grad_(key in trainable)

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """For sampling: the active adapter added into the weights, so that a token costs no extra products, and the weights
        in `sampling_dtype` where the recipe names one (a CPU multiplies bf16 several times as fast as fp32).

        The weights themselves are set aside, not changed, and put back as they were. Not for 4-bit weights, which merging
        would round: there the adapter stays beside them.
        """
        layers = [m for m in self.model.modules() if isinstance(m, LoraLayer) and isinstance(m, BaseTunerLayer)]
        layers = [m for m in layers if type(m.get_base_layer()) is torch.nn.Linear and not m.disable_adapters]
        aside = {p: p.data for p in self.model.parameters() if p.is_floating_point()}
        try:  # from here on: memory may run out while weights are added
            with torch.no_grad():
                for layer in layers:
                    weight = layer.get_base_layer().weight
                    for name in layer.active_adapters:
                        if name in layer.lora_A:
                            weight.data = (weight.data.float() + layer.get_delta_weight(name).float()).to(weight.dtype)
                            layer.merged_adapters.append(name)
                if self.sampling_dtype is not None:
                    for p in aside:
                        p.data = p.data.to(self.sampling_dtype)
            yield
        finally:
            for p, data in aside.items():
                p.data = data
            for layer in layers:
                layer.merged_adapters.clear()


def copy_adapter(lm: LanguageModel, source: str, target: str) -> None:
    """Give adapter `target` the weights of `source`; both are there, of one shape."""
    there = lm.adapter_parameters(target)
    with torch.no_grad():
        for key, p in lm.adapter_parameters(source).items():
            there[key.replace(f".{source}.", f".{target}.")].copy_(p)
