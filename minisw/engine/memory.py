"""Will it fit? Memory of a run's two largest moments, a GRPO micro-batch and a full batch of rollouts, before the first stage.

    python -m minisw.engine.memory --preset gpu-12gb [--prompt 900 --completion 300 --rows 8]

`estimate` computes it from the model's shapes, `preflight` compares it with what is free, and `measure` tries both moments on a
GPU.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from minisw.engine.batches import Example, collate, shared_layout
from minisw.engine.loading import explain_load_error, pick_device, precision
from minisw.engine.logprobs import BLOCK, token_logprobs
from minisw.engine.machine import GB, is_out_of_memory, total_memory
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import make_sampler
from minisw.options import Parser
from minisw.presets import PRESETS
from minisw.recipe import Recipe

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, an 8-bit scale for every 64, an fp32 scale for 256 of those
TAG_TOKENS = 4  # of an opening or closing tag, in a BPE vocabulary
PROMPT = 900  # tokens of a long judge prompt: problem, history, chunk and instruction
USABLE = 0.9  # of the free memory; the rest is for fragments, the CUDA context and other programs


@dataclass(frozen=True)
class Estimate:
    """Bytes, part by part. Training and sampling take turns, so the peak is the larger of the two."""

    weights: float  # as loaded
    adapters: float  # LoRA weights in fp32, gradients and two moments of AdamW; three more adapters without these
    activations: float  # of one micro-batch, kept for the backward pass
    logits: float  # one block of positions × vocabulary
    cache: float  # keys and values of all rows that sample at once, and of a prefill
    merged: float  # copy of the weights with the adapter added, in the type that samples
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
    total = sum(p.numel() for p in model.parameters())  # counts tied weights once
    return covered, total - covered, [tuple(m.weight.shape) for m in linear]


def estimate(config: PretrainedConfig, recipe: Recipe, prompt: int = PROMPT, completion: int = 0, rows: int = 0) -> Estimate:
    """Memory of a run of `recipe` with prompts and completions of so many tokens (completion 0: `judge.max_new_tokens`).

    `rows`: rows of one prompt in a micro-batch (0: as many tokens as `model.micro_tokens`, or one row if that is longer).
    """
    knobs, types = recipe.model, precision(recipe.model, pick_device(recipe.model.device))
    completion = completion or recipe.judge.max_new_tokens
    size, work = types.weights.itemsize, types.products.itemsize
    sample = (types.sampling or types.weights).itemsize
    covered, rest, linear = shapes(config)
    lora = recipe.lora.rank * sum(a + b for a, b in linear)
    h, i, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or h // config.num_attention_heads
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head

    # bytes that a layer keeps for a token: inputs of the products, both norms in fp32, q and k before and after rotation
    layer = work * (3 * h + 2 * q + 4 * kv + 4 * i + q) + 4 * 4 * h + work * 7 * recipe.lora.rank
    tokens = prompt + rows * completion if rows else max(knobs.micro_tokens, prompt + completion)  # the prompt is shared
    if knobs.checkpointing:  # the inputs of all layers, and the forward and backward pass of one layer
        activations = tokens * (layers * work * h + 2 * layer)
        activations += tokens**2 * (1 + 2 * work)  # the mask of a packed row: as bool, and in one layer as numbers, both ways
    else:
        activations = tokens * layers * layer
    vocabulary = config.vocab_size
    # the logits and their log-softmax in fp32, and both in the head's type; states and gradients of the targets are small
    logits = min(BLOCK, tokens * vocabulary) * (2 * 4 + 2 * size)
    position = 2 * layers * kv * sample  # bytes of a position in the cache
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
    """Tokens that a sampled row may have: those of a chunked solution with its tags, or of an analysis."""
    return max(recipe.policy.max_text_tokens + 2 * TAG_TOKENS * recipe.policy.max_chunks, completion)


def prompt_length(recipe: Recipe) -> int:
    """Tokens of a long judge prompt: problem, history and chunk of the longest solution, and the instruction."""
    return min(PROMPT, 2 * recipe.policy.max_text_tokens)


def available(device: torch.device) -> float:
    """Free bytes of the GPU or of the machine's memory; infinite if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return total_memory() or float("inf")


def advice(needed: Estimate, recipe: Recipe) -> str:
    """The knob that saves most where `needed` does not fit."""
    knobs = recipe.model
    if needed.sampling_peak > needed.training_peak:
        savings = {f"--model.slots below {knobs.slots}": needed.cache + needed.sampling}
        if not knobs.four_bit:
            savings["--model.four-bit"] = needed.merged + 0.7 * needed.weights
    else:
        savings = {f"--model.micro-tokens below {knobs.micro_tokens}": needed.activations / 2}
        if not knobs.checkpointing:
            savings["--model.checkpointing"] = 0.9 * needed.activations
        if not knobs.four_bit:
            savings["--model.four-bit"] = 0.7 * needed.weights
    return max(savings, key=savings.get)


def preflight(recipe: Recipe, free: Callable[[torch.device], float] = available) -> Estimate | None:
    """The estimate of a recipe, before anything is loaded; None if the model's config says too little.

    Raises ValueError, in one line, if the run cannot fit (naming the knob to change) or the model cannot be found.
    """
    try:
        config = AutoConfig.from_pretrained(recipe.model.folder(), **_gguf(recipe))
    except OSError as error:
        raise ValueError(explain_load_error(recipe.model, error)) from None
    except (ValueError, ImportError, KeyError):
        return None  # loading the model will explain it
    needed = estimate(config, recipe, prompt_length(recipe))
    free_bytes = free(pick_device(recipe.model.device))
    if needed.peak > USABLE * free_bytes:
        raise ValueError(
            f"the run needs about {needed.peak / GB:.1f} GB and {free_bytes / GB:.1f} GB are free: give {advice(needed, recipe)}"
        )
    return needed


def _gguf(recipe: Recipe) -> dict:
    return {"gguf_file": recipe.model.gguf_file} if recipe.model.gguf_file else {}


# --- measuring -------------------------------------------------------------------------------------------------------------


def measure(lm: LanguageModel, adapter: str, recipe: Recipe, prompt: int, completion: int, rows: int) -> dict[str, float]:
    """Peak bytes of the GPU in a GRPO micro-batch ("training": `rows` rows of one prompt) and in a batch of rollouts with every
    slot in use and room for the run's longest completion ("sampling"). Zeros without a GPU.

    The adapter's weights stay as they are. Raises ValueError, naming the knob, if one of the two does not fit.
    """
    ids = [5 + n % 100 for n in range(prompt)]
    peaks: dict[str, float] = {}
    for name, work, knobs in (
        ("training", lambda: _try_training(lm, adapter, ids, completion, rows), "--model.micro-tokens or --model.checkpointing"),
        ("sampling", lambda: _try_sampling(lm, adapter, ids, completion, recipe), "--model.slots"),
    ):
        gc.collect()
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(f"{name} does not fit into the GPU's memory: change {knobs}") from None
        peaks[name] = float(torch.cuda.max_memory_allocated()) if lm.device.type == "cuda" else 0.0
    return peaks


def _try_training(lm: LanguageModel, adapter: str, ids: list[int], completion: int, rows: int) -> None:
    """Forward and backward of one micro-batch; no optimizer step."""
    parameters = lm.adapter_parameters(adapter).values()
    examples = [Example(ids, [7 + n % 50 for n in range(completion)]) for _ in range(rows)]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with lm.using(adapter), lm.training():
            batch = collate(examples, lm.tokenizer.pad_token_id, lm.device, shared_layout(lm))
            lm.scaler.scale(token_logprobs(lm, batch)[0].mean()).backward()
    finally:
        for p in parameters:
            p.grad = None
            p.requires_grad_(False)


def _try_sampling(lm: LanguageModel, adapter: str, ids: list[int], completion: int, recipe: Recipe) -> None:
    """A token or more in every slot, with a cache that has room for the longest completion."""
    slots = recipe.model.slots
    sampler = make_sampler(lm, recipe.model)
    with lm.using(adapter):
        sampler.generate([Request(ids, 8)] * -(-slots // 8), Sampling(longest(recipe, completion), 1.0), 0)
    if sampler.slots < slots:  # the sampler halves its slots by itself; here that is a failure
        raise torch.OutOfMemoryError


# --- the command -----------------------------------------------------------------------------------------------------------


def table(needed: Estimate) -> str:
    """The parts and peaks of an estimate, a line each."""
    parts = {f.name: getattr(needed, f.name) for f in dataclasses.fields(needed)}
    parts |= {"training": needed.training_peak, "sampling": needed.sampling_peak, "peak": needed.peak}
    return "\n".join(f"{name:12} {value / GB:6.2f} GB" for name, value in parts.items())


def on_a_gpu(recipe: Recipe) -> Recipe:
    """The recipe with "auto" types as a GPU with bf16 has them: to plan for a GPU on a machine without one."""
    names = ("dtype", "autocast", "sampling_dtype")
    changes = {name: "bf16" for name in names if getattr(recipe.model, name) == "auto"}
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **changes))


def run(arguments: list[str] | None = None) -> str:
    """The table that the command prints. Raises ValueError for wrong arguments."""
    parser = Parser(prog="python -m minisw.engine.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", choices=tuple(PRESETS))
    parser.add_argument("--model", default="", help="folder or hub name of the model; default: the preset's")
    parser.add_argument("--config", type=Path, help="a config.json, if the model itself is not at hand")
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of a prompt")
    parser.add_argument("--completion", type=int, default=0, help="tokens of a completion; 0: the preset's judge.max_new_tokens")
    parser.add_argument("--rows", type=int, default=0, help="rows of a micro-batch; 0: as the preset's model.micro_tokens allow")
    options = parser.parse_args(arguments)
    if options.prompt < 1 or options.completion < 0 or options.rows < 0:
        raise ValueError("--prompt must be at least 1, --completion and --rows at least 0")
    recipe = PRESETS[options.preset]
    if options.preset not in ("tiny", "smoke") and not torch.cuda.is_available():
        recipe = on_a_gpu(recipe)
    if options.model:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, name=options.model, gguf_file=""))
    try:
        config = AutoConfig.from_pretrained(options.config or recipe.model.folder(), **_gguf(recipe))
    except (OSError, ValueError) as error:
        raise ValueError(f"no config of the model: {str(error).splitlines()[0]} Give --config FILE.") from None
    return table(estimate(config, recipe, options.prompt, options.completion, options.rows))


def main() -> None:
    try:
        print(run())
    except ValueError as error:
        print(f"minisw: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
