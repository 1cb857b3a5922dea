"""TODO."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import bitsandbytes as bnb
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from minisw.engine import distributed
from minisw.engine.model import LanguageModel
from minisw.recipe import ModelKnobs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX). Elsewhere a bf16 product takes 100 times as long as
    one in fp32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private names, so a later torch may lack one
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))


def dtype_of(name: str, device: torch.device) -> torch.dtype | None:
    """The type a recipe names; None for "". "auto": bf16 where the device computes in it, else fp16.

    A GPU is asked for its compute capability (8.0 and above): `torch.cuda.is_bf16_supported()` also counts emulation, and
    says yes on a T4.
    """
    if name != "auto":
        return DTYPES.get(name)
    if device.type == "cpu" and not fast_bf16():
        return torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return torch.bfloat16


def pick_device(name: str) -> torch.device:
    if name == "auto" and torch.cuda.is_available() and distributed.count() > 1:
        torch.cuda.set_device(distributed.local_rank())  # each process has a GPU of its own
        return torch.device("cuda", distributed.local_rank())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no GPU: use --model.device cpu")
    return torch.device(name)


def quantise(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make every linear layer but the head a 4-bit one, in place: what loading does for other files, for a dequantised GGUF.

    The weights are quantised when the model is moved to its device.
    """

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
    model.is_loaded_in_4bit = True  # by this peft knows


def explain_load_error(knobs: ModelKnobs, error: Exception) -> str:
    """Why the base of a recipe cannot be loaded and what helps, in one line, out of what a loader said."""
    folder = Path(knobs.folder())
    said = (str(error).strip().splitlines() or ["unreadable"])[0].rstrip(".: ")
    if "gated repo" in str(error):
        why = "it is gated; accept its terms on its page at the hub, then log in with `hf auth login`"
    elif not folder.is_dir():
        away = "couldn't connect" in str(error)
        why = "the hub cannot be reached and no copy is here" if away else said
        why += "; give --model.name a folder" + ("" if away else " or a hub name that exists")
    elif knobs.gguf_file and not (folder / knobs.gguf_file).is_file():
        why = f"{knobs.gguf_file} is not in it; give --model.gguf-file another name"
    elif not knobs.gguf_file and not (folder / "config.json").is_file():
        there = sorted(path.name for path in folder.glob("*.gguf"))
        why = "it has no config.json; give " + (f"--model.gguf-file {there[0]}" if there else "--model.name another folder")
    else:
        why = f"a file is damaged or incomplete ({said}); download it again"
    return f"cannot load the model {knobs.folder()!r}: {why}"


def load_base(knobs: ModelKnobs) -> LanguageModel:
    """Load the base of a recipe. Raises ValueError, in one line, where it cannot be had."""
    device = pick_device(knobs.device)
    dtype = dtype_of(knobs.dtype, device)
    where = knobs.folder()
    options: dict = {"dtype": dtype, "attn_implementation": "sdpa"}
    if knobs.four_bit and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("--model.four-bit needs bitsandbytes, which is not installed: pip install -e '.[gpu]'")
    if knobs.gguf_file:
        from transformers import GgufConfig

        options |= {"gguf_file": knobs.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    elif knobs.four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}  # else it goes to a GPU where there is one
    named = {"gguf_file": knobs.gguf_file} if knobs.gguf_file else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **named)
        model = AutoModelForCausalLM.from_pretrained(where, **options)
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
        quantise(model, dtype)
    if knobs.gguf_file or not knobs.four_bit:
        model.to(device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # on such CPUs bitsandbytes lays a weight out anew when it is first used without gradients, and through that layout
            # no gradient flows later, without an error
            module.support_avx512bf16_for_cpu = False
    autocast, sampling = dtype_of(knobs.autocast, device), dtype_of(knobs.sampling_dtype, device)
    if autocast == torch.float32:  # nothing to cast
        autocast = None
    return LanguageModel(model, tokenizer, autocast, sampling, knobs.checkpointing)
