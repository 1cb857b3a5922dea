"""The language model that everything runs on: one base in memory, LoRA adapters on it by name.

The policy and each judge are LoRA adapters on one frozen base, so a whole cycle fits on one small GPU. This module switches,
trains, saves and loads adapters; `loading.py` loads the base, `sampler.py` samples, `logprobs.py` scores.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from minisw.engine.heads import Head, load_head, save_head
from minisw.engine.quiet import bitsandbytes_hidden, quiet_loading
from minisw.recipe import Lora
from minisw.records import writes

with bitsandbytes_hidden():  # importing peft would import it
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.helpers import disable_input_dtype_casting
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer


class LanguageModel:
    """A causal language model, its tokenizer, and the adapters on it.

    State that calls change, all of it here by name:

    - `adapters`: names of the loaded adapters, in the order of loading;
    - `heads`: the scalar heads of adapters that have one, by the adapter's name;
    - `active`: the adapter that a forward uses now, None for the bare base (change it with `using`);
    - `scaler`: the loss scale of the current training, disabled unless something is in fp16;
    - `halvings`: how often memory ran out so far: micro-batches are smaller by that power of two.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        autocast: torch.dtype | None = None,
        sampling_dtype: torch.dtype | None = None,
        checkpointing: bool = False,
    ):
        """`autocast` and `sampling_dtype` None: products, and weights while sampling, have the type of the weights."""
        self.model = model.eval()
        disable_dropout(model)
        self.tokenizer = tokenizer
        self.autocast_dtype, self.sampling_dtype, self.checkpointing = autocast, sampling_dtype, checkpointing
        self.adapters: list[str] = []
        self.heads: dict[str, Head] = {}
        self.active: str | None = None
        self.halvings = 0
        self.scaler = self.new_scaler()
        # chat models may end a reply in several ways (Qwen: <|im_end|> and <|endoftext|>)
        ends = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
        self.end_ids = sorted({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})

    def new_scaler(self) -> torch.amp.GradScaler:
        """A fresh loss scale, for one training. Small gradients vanish in fp16, so losses are scaled up before the backward
        pass and gradients down after it; in other types the scaler does nothing."""
        half = torch.float16 in (self.autocast_dtype, self.causal_lm.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        return self.scaler

    # --- text and token ids ------------------------------------------------------------------------------------------

    def chat(self, user: str, reply: str = "", earlier: Sequence[Sequence[str]] = ()) -> list[int]:
        """Token ids of one user turn and the opening of the assistant's turn, followed by `reply` as its beginning.

        `earlier` holds the turns before them as pairs (user, assistant).
        """
        turns = [
            {"role": role, "content": text} for pair in earlier for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        turns.append({"role": "user", "content": user})
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.encode(text) + self.encode(reply)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens added."""
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def causal_lm(self) -> torch.nn.Module:
        """The transformers model itself, with adapter layers in place if there are any."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    # --- forward passes ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision inside the block, if the recipe asks for it. `logprobs.py` enters it; its callers need not."""
        if self.autocast_dtype is None:
            yield
            return
        # peft would give each adapter an fp32 copy of its input, kept for the backward pass: 40% of all that is kept
        with torch.autocast(self.device.type, self.autocast_dtype), disable_input_dtype_casting(self.model):
            yield

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Gradient checkpointing inside the block, if the recipe asks for it: a layer keeps only its input, and its forward is
        repeated in the backward pass. Both passes belong in the block. No cache of keys and values can be used in it."""
        if not self.checkpointing:
            yield
            return
        model = self.causal_lm
        # The repeated forward runs outside `autocast`. torch restores its own autocast there; peft's flag we hold here.
        with quiet_loading(), disable_input_dtype_casting(self.model, self.autocast_dtype is not None):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers checkpoints only in this mode; no dropout is on, so nothing else changes
            try:
                yield
            finally:
                model.gradient_checkpointing_disable()
                model.eval()

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """For sampling: inside the block the active adapter is added to the weights, so that it costs no extra products, and
        the weights have `sampling_dtype`. Afterwards the original weights, which were set aside, are back bit by bit.

        4-bit weights are not merged, because that would round them. There the adapter stays separate, in the type that the
        layer computes in: fp32 products beside it would cost several small kernels per layer and token.
        """
        adapted = [m for m in self.model.modules() if isinstance(m, LoraLayer) and isinstance(m, BaseTunerLayer)]
        adapted = [m for m in adapted if not m.disable_adapters]
        layers = [m for m in adapted if type(m.get_base_layer()) is torch.nn.Linear]
        separate = [p for m in adapted if m not in layers for key, p in m.named_parameters() if "lora_" in key]
        originals = {p: p.data for p in self.model.parameters() if p.is_floating_point()}
        try:  # memory may run out while weights are added
            with torch.no_grad():
                for layer in layers:
                    weight = layer.get_base_layer().weight
                    for name in layer.active_adapters:
                        if name in layer.lora_A:
                            weight.data = (weight.data.float() + layer.get_delta_weight(name).float()).to(weight.dtype)
                            layer.merged_adapters.append(name)
                for p in separate:
                    p.data = p.data.to(self.causal_lm.dtype)
                if self.sampling_dtype is not None:
                    for p in originals:
                        p.data = p.data.to(self.sampling_dtype)
            yield
        finally:
            for p, data in originals.items():
                p.data = data
            for layer in layers:
                layer.merged_adapters.clear()

    # --- adapters ----------------------------------------------------------------------------------------------------

    def new_adapter(self, name: str, lora: Lora, seed: int) -> None:
        """Put a fresh LoRA adapter on all linear layers but the head. Its B is zero, so it changes nothing yet.

        Raises ValueError if the name is taken or cannot be one.
        """
        self._check_name(name)
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        with quiet_loading(), bitsandbytes_hidden():
            if isinstance(self.model, PeftModel):
                self.model.add_adapter(name, config)
            else:
                self.model = get_peft_model(self.model, config, adapter_name=name)
        self._added(name)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter (and head) that `save_adapter` (or peft) wrote. Raises ValueError if the folder holds none for this
        base, or if the name is taken or cannot be one."""
        self._check_name(name)
        if not (folder / "adapter_config.json").is_file():
            raise ValueError(f"no adapter in {folder}: it has no adapter_config.json; name the folder that save_adapter wrote")
        head = load_head(folder)
        try:
            with quiet_loading(), bitsandbytes_hidden():
                if isinstance(self.model, PeftModel):
                    self.model.load_adapter(str(folder), adapter_name=name)
                else:
                    self.model = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or ["unreadable"])[0]
            raise ValueError(f"cannot load the adapter in {folder}: {first} Is it complete, and of this base?") from None
        self._added(name)
        if head:
            self.heads[name] = head.to(self.device)

    def _added(self, name: str) -> None:
        self.adapters.append(name)
        if len(self.adapters) == 1:  # peft activates the first adapter
            self.active = name

    def _check_name(self, name: str) -> None:
        """Raise ValueError if `name` cannot name a new adapter: peft makes it an attribute, and a part of parameter names."""
        if name in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already: choose another name, or drop that adapter first")
        parts = {part for key, _ in self.model.named_parameters() for part in key.split(".")}
        taken = name in parts or hasattr(torch.nn.ModuleDict(), name) or name in "lora_" or name.startswith(("lora_", "base_"))
        if taken or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(
                f"{name!r} cannot name an adapter: use letters, digits, - and _, but not the name of a layer or of an attribute "
                "of torch modules; for example 'judge'"
            )

    def drop_adapter(self, name: str) -> None:
        """Remove an adapter and its head from memory. If it is active, the first of those that are left becomes active."""
        self.adapters.remove(name)
        self.heads.pop(name, None)
        if not self.adapters:
            self.model = self.model.unload().eval()
            self.active = None
            return
        active = self.adapters[0] if self.active == name else self.active
        self._activate(self.adapters[0])  # peft deletes only what is not active
        self.model.delete_adapter(name)
        self._activate(active)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write one adapter, loadable by `PeftModel.from_pretrained`, and its head, if it has one, as `head.safetensors`."""
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
        save_head(self.heads.get(name), folder)
        shutil.rmtree(scratch)

    def adapter_parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The weights of one adapter and of its head, by their full names."""
        lora = {key: p for key, p in self.model.named_parameters() if f".{name}." in key and "lora_" in key}
        head = self.heads.get(name)
        return lora | {f"head.{name}.{key}": p for key, p in (head.named_parameters() if head else ())}

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Inside the block, forwards use adapter `name`, or the bare base for None; afterwards what was active before.

        Blocks nest. Which parameters are trainable stays as it is. Raises ValueError for an unknown name.
        """
        if name is not None and name not in self.adapters:
            raise ValueError(f"no adapter {name!r} is loaded: there are {', '.join(self.adapters) or 'none'}")
        previous = self.active
        self._activate(name)
        try:
            yield
        finally:
            if previous is not None and previous not in self.adapters:  # it was dropped inside the block
                previous = self.adapters[0] if self.adapters else None
            self._activate(previous)

    def _activate(self, name: str | None) -> None:
        """Make `name` the active adapter (None: the bare base), and leave it to the caller which parameters are trainable."""
        self.active = name
        if not isinstance(self.model, PeftModel):
            return
        trainable = {key for key, p in self.model.named_parameters() if p.requires_grad}
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name)
        for key, p in self.model.named_parameters():  # peft has switched requires_grad as well: undo that
            p.requires_grad_(key in trainable)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout probability of a model to 0: some families (GPT-2, OPT) have 0.1 by default, and checkpointing needs
    the training mode, in which they would drop."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def copy_adapter(lm: LanguageModel, source: str, target: str) -> None:
    """Copy the weights of adapter `source` and of its head into adapter `target`, which must have the same rank and head."""
    copies = lm.adapter_parameters(target)
    with torch.no_grad():
        for key, p in lm.adapter_parameters(source).items():
            copies[key.replace(f".{source}.", f".{target}.")].copy_(p)
