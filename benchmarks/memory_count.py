"""Check the estimate of `minisw.engine.memory`: count every allocation of a full-size GRPO micro-batch on fake tensors.

    python -m benchmarks.memory_count

The model, its adapter and the forward and backward pass are those of training. PyTorch's fake tensors have shapes and types but
no numbers, so neither a GPU nor the weights are needed. Not counted: workspaces inside kernels, what the allocator loses between
blocks, and the weights themselves (nf4 changes them and nothing else that is kept).
"""

from __future__ import annotations

import argparse
import json
import weakref
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen2Config

from benchmarks.memory import _NoTokenizer
from minisw.engine import memory
from minisw.engine.batches import Batch, Packing
from minisw.engine.logprobs import hidden_states, target_logprobs
from minisw.engine.model import LanguageModel
from minisw.presets import PRESETS
from minisw.recipe import Recipe

_QWEN = dict(vocab_size=151936, num_key_value_heads=2, tie_word_embeddings=True)
MODELS = {  # shapes from their model cards
    "0.5b": Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, **_QWEN),
    "1.5b": Qwen2Config(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, **_QWEN),
}
WORK = (("gpu-8gb", "0.5b"), ("gpu-12gb", "1.5b"), ("gpu-24gb", "1.5b"))


class Counter(TorchDispatchMode):
    """Counts the bytes of all live storages that are created, or first used, inside the block; `without` are not counted."""

    def __init__(self, without: set[int] = frozenset()):
        super().__init__()
        self.now = self.peak = 0
        self.seen = set(without)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.seen:
                    self.seen.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def count(config: PretrainedConfig, recipe: Recipe, prompt: int, completion: int, rows: int) -> float:
    """Peak bytes beside weights and optimizer in the forward and backward pass of `rows` rows of one prompt, in bf16.

    With checkpointing the rows are packed. Without it every row counts with its own prompt: an upper bound of a shared one.
    """
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        base.requires_grad_(False)
        lm = LanguageModel(base, _NoTokenizer(), torch.bfloat16, None, recipe.model.checkpointing)
        lm.new_adapter("judge", recipe.lora, 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        lm.model.to_empty(device="cpu")
        for p in lm.adapter_parameters("judge").values():
            p.requires_grad_(True)
        targets = torch.zeros(rows * completion, dtype=torch.long)
        counter = Counter({t.untyped_storage()._cdata for t in [*lm.model.parameters(), *lm.model.buffers()]})
        with counter, lm.training():
            with lm.autocast():
                hidden = hidden_states(lm.causal_lm.get_decoder(), _batch(recipe, prompt, completion, rows))
                states = hidden.reshape(-1, hidden.shape[-1])[: len(targets)]  # which ones does not matter for memory
                logps, _ = target_logprobs(states, targets, lm.causal_lm.get_output_embeddings())
                loss = logps.mean()
                del hidden, states, logps
            loss.backward()
    return counter.peak


def _batch(recipe: Recipe, prompt: int, completion: int, rows: int) -> Batch:
    """A batch of the right shapes (choosing targets by a mask, as `collate` prepares it, needs numbers)."""
    packed = recipe.model.checkpointing
    shape = (1, prompt - 1 + rows * (1 + completion)) if packed else (rows, prompt + completion)
    ids = torch.zeros(shape, dtype=torch.long)
    packing = Packing(torch.zeros_like(ids), torch.ones(1, 1, shape[1], shape[1], dtype=torch.bool)) if packed else None
    return Batch(ids, ids > 0, (completion,) * rows, packing=packing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=900)
    parser.add_argument("--completion", type=int, default=300)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks/memory.json"))
    options = parser.parse_args()
    result = {"prompt": options.prompt, "completion": options.completion, "rows": options.rows, "gb": {}}
    for preset, size in WORK:
        recipe = memory.on_a_gpu(PRESETS[preset])
        counted = count(MODELS[size], recipe, options.prompt, options.completion, options.rows)
        estimate = memory.estimate(MODELS[size], recipe, options.prompt, options.completion, options.rows)
        result["gb"][preset] = {
            "weights": estimate.weights / memory.GB,
            "optimizer": estimate.adapters / memory.GB,
            "estimated": (estimate.activations + estimate.logits) / memory.GB,
            "counted": counted / memory.GB,
            "peak_counted": (estimate.weights + estimate.adapters + counted) / memory.GB,
            "peak_estimated": estimate.training_peak / memory.GB,
        }
        print(preset, {key: round(value, 2) for key, value in result["gb"][preset].items()}, flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
