"""Check the estimate of `minisw.engine.memory`: count every allocation of a full-size GRPO micro-batch on meta tensors.

    python -m benchmarks.memory_count

The model, its adapter and the forward and backward pass are those of training. PyTorch's fake tensors have shapes and types but
no numbers, so neither a GPU nor the weights are needed. What a kernel takes for itself while it runs is not seen, nor what the
allocator loses between blocks. The weights themselves are left out: nf4 changes them and nothing else that is kept.
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
from minisw.engine.logprobs import Batch, _hidden, _TargetLogprobs
from minisw.engine.model import LanguageModel
from minisw.presets import PRESETS
from minisw.recipe import Recipe

_QWEN = dict(vocab_size=151936, num_key_value_heads=2, tie_word_embeddings=True)
MODELS = {  # their model cards' shapes
    "0.5b": Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, **_QWEN),
    "1.5b": Qwen2Config(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, **_QWEN),
}
WORK = (("gpu-8gb", "0.5b"), ("gpu-12gb", "1.5b"), ("gpu-24gb", "1.5b"))


class Counter(TorchDispatchMode):
    """Bytes of all live storages that were made, or first touched, within."""

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
    """Peak bytes beside weights and optimizer in one micro-batch's forward and backward, in bf16."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        base.requires_grad_(False)
        lm = LanguageModel(base, _NoTokenizer(), torch.bfloat16, None, recipe.model.checkpointing)
        lm.new_adapter("judge", recipe.lora, 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        lm.model.to_empty(device="cpu")
        for p in lm.adapter_parameters("judge").values():
            p.requires_grad_(True)
        ids = torch.zeros(rows, prompt + completion, dtype=torch.long)
        targets = torch.zeros(rows * completion, dtype=torch.long)
        counter = Counter({t.untyped_storage()._cdata for t in [*lm.model.parameters(), *lm.model.buffers()]})
        with counter, lm.using("judge"), lm.training(), lm.autocast():
            hidden = _hidden(lm.causal_lm.get_decoder(), Batch(ids, ids > 0))
            states = hidden[:, prompt - 1 : -1].reshape(-1, hidden.shape[-1])
            logps, _ = _TargetLogprobs.apply(states, targets, lm.causal_lm.get_output_embeddings(), 1.0)
            loss = logps.mean()
            del hidden, states, logps
        with counter, lm.training():
            loss.backward()
    return counter.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=900)
    parser.add_argument("--completion", type=int, default=300)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks/memory.json"))
    given = parser.parse_args()
    result = {"prompt": given.prompt, "completion": given.completion, "rows": given.rows, "gb": {}}
    for preset, size in WORK:
        recipe = PRESETS[preset]
        counted = count(MODELS[size], recipe, given.prompt, given.completion, given.rows)
        found = memory.estimate(MODELS[size], recipe, given.prompt, given.completion, given.rows)
        result["gb"][preset] = {
            "weights": found.weights / memory.GB,
            "optimizer": found.adapters / memory.GB,
            "estimated": (found.activations + found.logits) / memory.GB,
            "counted": counted / memory.GB,
            "peak_counted": (found.weights + found.adapters + counted) / memory.GB,
            "peak_estimated": found.training_peak / memory.GB,
        }
        print(preset, {key: round(value, 2) for key, value in result["gb"][preset].items()}, flush=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
