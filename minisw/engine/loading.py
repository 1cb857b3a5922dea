"""Load the base model of a recipe: a hub name, a folder or a GGUF file, in full precision or in 4 bits.

Which device and which number types a run uses is decided here (`pick_device`, `precision`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from minisw.cpu import fast_bf16
from minisw.engine import distributed
from minisw.engine.model import LanguageModel
from minisw.engine.quiet import has_bitsandbytes, quiet_loading
from minisw.recipe import ModelKnobs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(name: str, device: torch.device) -> torch.dtype | None:
    """The type that a recipe names; None for "". "auto" is bf16 on a device that computes in it; otherwise fp16 on a GPU and
    fp32 on a CPU.

    A GPU computes in bf16 from compute capability 8.0 on. `torch.cuda.is_bf16_supported()` counts emulation too, and says
    yes on a T4 (7.5).
    """
    if name != "auto":
        return DTYPES.get(name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if fast_bf16() else torch.float32


@dataclass(frozen=True)
class Precision:
    """Number types of a run. `autocast` None: products have the type of the weights; `sampling` None: so has sampling."""

    weights: torch.dtype
    autocast: torch.dtype | None
    sampling: torch.dtype | None

    @property
    def products(self) -> torch.dtype:
        """Type of products and activations in training."""
        return self.autocast or self.weights


def precision(knobs: ModelKnobs, device: torch.device) -> Precision:
    """The types that a recipe means on a device."""
    autocast = dtype_of(knobs.autocast, device)
    if autocast == torch.float32:  # autocast lowers precision only
        autocast = None
    return Precision(dtype_of(knobs.dtype, device), autocast, dtype_of(knobs.sampling_dtype, device))


def pick_device(name: str) -> torch.device:
    """The device that a recipe names; each of several processes gets a GPU of its own. Raises ValueError without a GPU for
    "cuda"."""
    if name == "auto" and torch.cuda.is_available() and distributed.count() > 1:
        torch.cuda.set_device(distributed.local_rank())
        return torch.device("cuda", distributed.local_rank())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--model.device is cuda, but torch finds no GPU: give --model.device cpu")
    return torch.device(name)


def quantise(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer but the head by a 4-bit one, in place: what transformers does for other files while loading
    them, done here for a dequantised GGUF file. `dtype` is the type of the products.

    The weights are quantised when the model is moved to its device.
    """
    import bitsandbytes as bnb

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not torch.nn.Linear or layer is model.get_output_embeddings():
                continue
            small = bnb.nn.Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, dtype, compress_statistics=True, quant_type="nf4",
                device="meta",
            )  # fmt: skip
            small.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
            small.bias = layer.bias
            setattr(module, name, small)
    model.is_loaded_in_4bit = True  # peft asks for this


def explain_load_error(knobs: ModelKnobs, error: Exception) -> str:
    """One line: why the base of a recipe cannot be loaded, and the remedy, from a loader's error."""
    folder = Path(knobs.folder())
    first_line = (str(error).strip().splitlines() or ["unreadable"])[0].rstrip(".: ")
    if "gated repo" in str(error):
        why = "it is gated; accept its terms on its page at the hub, then log in with `hf auth login`"
    elif not folder.is_dir():
        offline = "couldn't connect" in str(error)
        why = "the hub cannot be reached and no copy is on this machine" if offline else first_line
        why += "; give --model.name a folder" + ("" if offline else " or a hub name that exists")
    elif knobs.gguf_file and not (folder / knobs.gguf_file).is_file():
        why = f"{knobs.gguf_file} is not in it; give --model.gguf-file another name"
    elif not knobs.gguf_file and not (folder / "config.json").is_file():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        why = "it has no config.json; give " + (f"--model.gguf-file {ggufs[0]}" if ggufs else "--model.name another folder")
    else:
        why = f"a file is damaged or incomplete ({first_line}); download it again"
    return f"cannot load the model {knobs.folder()!r}: {why}"


def load_base(knobs: ModelKnobs) -> LanguageModel:
    """Load the base model of a recipe, frozen and in evaluation mode. Raises ValueError, in one line, if that fails."""
    device = pick_device(knobs.device)
    types = precision(knobs, device)
    where = knobs.folder()
    if knobs.four_bit and not has_bitsandbytes():
        raise ValueError("--model.four-bit needs bitsandbytes, which is not installed: pip install -e '.[gpu]'")
    named = {"gguf_file": knobs.gguf_file} if knobs.gguf_file else {}
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(where, **named)
            model = AutoModelForCausalLM.from_pretrained(where, **_load_options(knobs, types.weights, device))
    except ImportError as error:
        raise ValueError(
            f"loading {where!r} needs a package that is not installed: {str(error).strip().splitlines()[0]}"
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(explain_load_error(knobs, error)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {where!r} has no chat template: choose a chat model")
    model.requires_grad_(False)
    if knobs.four_bit and knobs.gguf_file:
        quantise(model, types.weights)
    if knobs.gguf_file or not knobs.four_bit:
        model.to(device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such CPUs bitsandbytes changes the layout of a weight at its first use without gradients. No gradient flows
            # through the new layout later, and no error says so.
            module.support_avx512bf16_for_cpu = False
    return LanguageModel(model, tokenizer, types.autocast, types.sampling, knobs.checkpointing)


def _load_options(knobs: ModelKnobs, dtype: torch.dtype, device: torch.device) -> dict:
    """Arguments of `from_pretrained`."""
    options: dict = {"dtype": dtype}
    if knobs.gguf_file:
        from transformers import GgufConfig

        options |= {"gguf_file": knobs.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    elif knobs.four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}  # without it the model would go to a GPU wherever there is one
    return options
