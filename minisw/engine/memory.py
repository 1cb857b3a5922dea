"""Will it fit? The memory of a run's largest moments, a GRPO micro-batch and a full batch of rollouts, before the first stage.

    python -m minisw.engine.memory --preset gpu-12gb [--prompt 900 --completion 300 --rows 8]

Counted from the model's shapes; where there is a GPU, both moments are also tried and measured (`measure`).
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from minisw.engine.loading import dtype_of, explain_load_error, pick_device
from minisw.engine.logprobs import BLOCK as LOGITS
from minisw.engine.logprobs import Example, collate, token_logprobs
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.presets import PRESETS
from minisw.recipe import Recipe

GB = 2**30
TAG_TOKENS = 4  # of an opening or closing tag, in a BPE vocabulary


NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, an 8-bit scale for 64 of them, an fp32 one for 256 scales


PROMPT = 900  # tokens of a long judge prompt: problem, history, chunk and instruction


SPARE = 0.9  # of what is there may be planned with: fragments, other programs, the CUDA context


@dataclass(frozen=True)
class Estimate:
    """Bytes, part by part. Training and sampling happen one after the other, so the peak holds the larger of them."""

    weights: float  # as loaded
    adapters: float  # LoRA weights in fp32, gradients and two moments of AdamW; three more adapters without
    activations: float  # of one micro-batch, kept for the backward pass
    logits: float  # one block of positions × vocabulary
    cache: float  # keys and values of all rows that sample at once, and of a prefill
    merged: float  # weights with the adapter added in, and in the sampling type
    sampling: float  # probabilities over the vocabulary, activations of a prefill

    @property
    def training_peak(self) -> float:
        return self.weights + self.adapters + self.activations + self.logits

    @property
    def sampling_peak(self) -> float:
        return self.weights + self.adapters + self.merged + self.cache + self.sampling

    @property
    def peak(self) -> float:
        return max(self.training_peak, self.sampling_peak)


def shapes(config: PretrainedConfig) -> tuple[int, int, list[tuple[int, int]]]:
    """(weights in the linear layers that LoRA and nf4 cover, all other weights, shapes of those layers)."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not name.endswith("lm_head")]
    covered = sum(m.weight.numel() for m in linear)
    every = sum(p.numel() for p in model.parameters())  # tied weights once
    return covered, every - covered, [tuple(m.weight.shape) for m in linear]


def estimate(config: PretrainedConfig, recipe: Recipe, prompt: int = PROMPT, completion: int = 0, rows: int = 0) -> Estimate:
    """Memory of a run of `recipe` with prompts and completions of so many tokens (completion 0: `judge.max_new_tokens`).

    `rows` sets a micro-batch of so many rows (0: as many tokens as `model.micro_tokens` says, or one row that is longer).
    """
    knobs, device = recipe.model, pick_device(recipe.model.device)
    completion = completion or recipe.judge.max_new_tokens
    size = dtype_of(knobs.dtype, device).itemsize
    work = (dtype_of(knobs.autocast, device) or dtype_of(knobs.dtype, device)).itemsize  # of activations
    sample = (dtype_of(knobs.sampling_dtype, device) or dtype_of(knobs.dtype, device)).itemsize
    covered, rest, linear = shapes(config)
    lora = recipe.lora.rank * sum(a + b for a, b in linear)
    h, i, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or h // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head

    # a token's share of what a layer keeps: inputs of the products, both norms in fp32, q and k before and after rotation
    layer = work * (3 * h + 2 * q + 4 * kv + 4 * i + q) + 4 * 4 * h + work * 7 * recipe.lora.rank
    each = prompt + completion
    whole = rows * each if rows else max(knobs.micro_tokens, each)
    if knobs.checkpointing:  # the input of every layer, and one layer at a time forward and backward
        activations = whole * (layers * work * h + 2 * layer)
    else:
        if rows:  # a group's prompt goes through once
            whole = prompt + rows * completion
        activations = whole * layers * layer
    vocabulary = config.vocab_size
    # logits, their log-softmax in fp32, both in the head's type; and the states and gradients of the targets are small
    logits = min(LOGITS, whole * vocabulary) * (2 * 4 + 2 * size)
    position = 2 * layers * kv * sample
    cache = position * (
        knobs.slots * longest(recipe, completion) * (1 + 1 / layers) + knobs.prefill_tokens + prompt * max(1, knobs.slots // 8)
    )
    return Estimate(
        weights=covered * (NF4 if knobs.four_bit else size) + rest * size,
        adapters=lora * 4 * (4 + 3),
        activations=activations,
        logits=logits,
        cache=cache,
        merged=0.0 if knobs.four_bit else float((covered + (rest if knobs.sampling_dtype else 0)) * sample),
        sampling=knobs.slots * vocabulary * 4 * 3.0 + knobs.prefill_tokens * sample * (2 * i + 4 * h),
    )


def longest(recipe: Recipe, completion: int) -> int:
    """Tokens that a sampled row may take: of a chunked solution with its tags, or of an analysis."""
    return max(recipe.policy.max_text_tokens + 2 * TAG_TOKENS * recipe.policy.max_chunks, completion)


def available(device: torch.device) -> float:
    """Free bytes of the GPU, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def advice(found: Estimate, recipe: Recipe) -> str:
    """The knob that helps most where `found` does not fit."""
    knobs = recipe.model
    if found.sampling_peak > found.training_peak:
        parts = {f"--model.slots below {knobs.slots}": found.cache + found.sampling}
        if not knobs.four_bit:
            parts["--model.four-bit"] = found.merged + 0.7 * found.weights
    else:
        parts = {f"--model.micro-tokens below {knobs.micro_tokens}": found.activations / 2}
        if not knobs.checkpointing:
            parts["--model.checkpointing"] = 0.9 * found.activations
        if not knobs.four_bit:
            parts["--model.four-bit"] = 0.7 * found.weights
    return max(parts, key=lambda knob: parts[knob])


def preflight(recipe: Recipe, room: Callable[[torch.device], float] = available) -> Estimate | None:
    """The estimate of a recipe, before anything is loaded; None where the model's config says too little.

    Raises ValueError, in one sentence, where it cannot fit (naming the knob) or the model cannot be had.
    """
    try:
        config = AutoConfig.from_pretrained(recipe.model.folder(), **_gguf(recipe))
    except OSError as error:
        raise ValueError(explain_load_error(recipe.model, error)) from None
    except (ValueError, ImportError, KeyError):
        return None  # loading says in its own words why
    found = estimate(config, recipe, prompt_length(recipe))
    there = room(pick_device(recipe.model.device))
    if found.peak > SPARE * there:
        raise ValueError(
            f"the run needs about {found.peak / GB:.1f} GB and {there / GB:.1f} GB are free: give {advice(found, recipe)}"
        )
    return found


def _gguf(recipe: Recipe) -> dict:
    return {"gguf_file": recipe.model.gguf_file} if recipe.model.gguf_file else {}


def measure(lm: LanguageModel, adapter: str, recipe: Recipe, prompt: int, completion: int, rows: int) -> dict[str, float]:
    """Peak bytes of the GPU in a GRPO micro-batch of `rows` rows, and in a batch of rollouts with every slot busy, each with room
    for the longest completion of the run.

    The adapter is not changed. Raises ValueError, naming the knob, where one of them does not fit.
    """

    ids = [5 + n % 100 for n in range(prompt)]
    found: dict[str, float] = {}

    def training() -> None:
        examples = [Example(ids, [7 + n % 50 for n in range(completion)]) for _ in range(rows)]
        for p in lm.adapter_parameters(adapter).values():
            p.requires_grad_(True)
        with lm.using(adapter), lm.training():
            batch = collate(examples, lm.tokenizer.pad_token_id, lm.device, share=not lm.checkpointing)
            lm.scaler.scale(token_logprobs(lm, batch)[0].mean()).backward()
        for p in lm.adapter_parameters(adapter).values():
            p.grad = None
            p.requires_grad_(False)

    def sampling() -> None:
        count = recipe.model.slots
        with lm.using(adapter):
            sampler = Sampler(lm, count, recipe.model.prefill_tokens)
            sampler.generate([Request(ids, 8)] * -(-count // 8), Sampling(longest(recipe, completion), 1.0), 0)
            if sampler.slots < count:  # it halves its rows by itself
                raise torch.OutOfMemoryError

    knobs = {"training": "--model.micro-tokens or --model.checkpointing", "sampling": "--model.slots"}
    for name, work in (("training", training), ("sampling", sampling)):
        gc.collect()
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            work()
        except torch.OutOfMemoryError:
            raise ValueError(f"{name} does not fit into the GPU's memory: give a smaller {knobs[name]}") from None
        found[name] = float(torch.cuda.max_memory_allocated()) if lm.device.type == "cuda" else 0.0
    return found


def prompt_length(recipe: Recipe) -> int:
    """Tokens of a long judge prompt: problem, history and chunk of the longest solution, and the instruction."""
    return min(PROMPT, 2 * recipe.policy.max_text_tokens)


def table(found: Estimate) -> str:
    lines = [f"{f.name:12} {getattr(found, f.name) / GB:6.2f} GB" for f in dataclasses.fields(found)]
    lines += [f"training     {found.training_peak / GB:6.2f} GB", f"sampling     {found.sampling_peak / GB:6.2f} GB"]
    return "\n".join([*lines, f"peak         {found.peak / GB:6.2f} GB"])


def main() -> None:

    parser = argparse.ArgumentParser(prog="python -m minisw.engine.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", choices=tuple(PRESETS))
    parser.add_argument("--model", default="", help="folder or hub name, where it is not the preset's")
    parser.add_argument("--config", type=Path, help="a config.json, where the model itself is not at hand")
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--completion", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    given = parser.parse_args()
    recipe = PRESETS[given.preset]
    if given.model:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, name=given.model, gguf_file=""))
    try:
        config = AutoConfig.from_pretrained(given.config or recipe.model.folder(), **_gguf(recipe))
    except (OSError, ValueError) as error:
        print(f"minisw: no config of the model: {str(error).splitlines()[0]} Give --config FILE.", file=sys.stderr)
        raise SystemExit(2) from None
    print(table(estimate(config, recipe, given.prompt, given.completion, given.rows)))


if __name__ == "__main__":
    main()
