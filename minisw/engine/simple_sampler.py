"""Sampling with transformers' `model.generate`, in left-padded batches: the reference for the fast sampler (`sampler.py`).

Read this one first. Both take `Request`s, return the same `Completion`s and draw the same random numbers, so tests compare
them token by token. The simple one runs every model that `generate` runs: sliding windows, recurrent models, attention
sinks. It is slower, because it prefills and stores a prompt once for each of its samples, and a batch runs until its longest
row ends. Choose it with `--model.sampler simple`.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from minisw.engine import distributed
from minisw.engine.machine import is_out_of_memory
from minisw.engine.model import LanguageModel
from minisw.engine.random_streams import sample, streams, uniforms
from minisw.engine.requests import Completion, Request, Sampling, StopRule, check_requests

log = logging.getLogger("minisw")
Progress = Callable[[int], None] | None


class SimpleSampler:
    """Samples from a `LanguageModel` with its active adapter, at most `slots` rows at a time. `tokens` counts what it sampled."""

    def __init__(self, lm: LanguageModel, slots: int = 128):
        self.lm, self.slots, self.tokens = lm, slots, 0
        self.stop_rule = StopRule(lm)

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int, progress: Progress = None
    ) -> list[list[Completion]]:
        """The completions of every request, in the order of `Request.branches()`.

        `progress(1)` is called for each finished row. If memory runs out, sampling starts again with half as many slots.
        Equal arguments give equal completions on the same machine (`random_streams.py` has the details). Raises ValueError
        for an empty prefix, for logits that are not numbers, and if one row alone does not fit into memory.
        """
        check_requests(requests)
        while True:
            results = [[Completion() for _ in request.branches()] for request in requests]
            try:
                if any(results) and sampling.max_new_tokens > 0:
                    self._sample(requests, results, sampling, seed, progress)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            if self.slots == 1:
                raise ValueError("out of memory with one row: give a smaller model or --model.four-bit")
            self._use_less_memory()  # outside of `except`: a traceback keeps tensors alive
        completions = [completion for group in results for completion in group]
        if any(math.isnan(logprob) for completion in completions for logprob in completion.logprobs):
            raise ValueError("the model's logits are not numbers: its training diverged, or fp16 overflows (--model.dtype)")
        self.tokens += sum(len(completion.ids) for completion in completions)
        return results

    def _use_less_memory(self) -> None:
        self.slots = max(1, self.slots // 2)
        gc.collect()
        torch.cuda.empty_cache()
        log.warning("out of memory: sampling continues with %d rows at once (--model.slots)", self.slots)

    def _sample(self, requests: Sequence[Request], results, sampling: Sampling, seed: int, progress: Progress) -> None:
        """Fill the completions in `results`; with several processes, each samples a share of the rows."""
        prefixes = [request.ids[:start] for request in requests for start in request.branches()]
        completions = [completion for group in results for completion in group]
        numbers = streams(seed, len(prefixes))
        mine = distributed.shard(sorted(range(len(prefixes)), key=lambda i: -len(prefixes[i])))  # rows of similar length
        with self.lm.merged():
            for first in range(0, len(mine), self.slots):
                rows = mine[first : first + self.slots]
                batch = self._sample_batch([prefixes[i] for i in rows], [numbers[i] for i in rows], sampling)
                for i, sampled in zip(rows, batch, strict=True):
                    completions[i].__dict__.update(sampled.__dict__)
                if progress:
                    progress(len(rows))
        if distributed.count() > 1:
            for part in distributed.all_gather({i: completions[i] for i in mine}):
                for i, sampled in part.items():
                    completions[i].__dict__.update(sampled.__dict__)

    def _sample_batch(self, prefixes: list[list[int]], numbers: list[int], sampling: Sampling) -> list[Completion]:
        """One completion for each prefix."""
        model, device, pad, width = self.lm.causal_lm, self.lm.device, self.lm.tokenizer.pad_token_id, max(map(len, prefixes))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prefixes], device=device)  # [rows, width]
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prefixes], device=device)
        choose = _Choose(torch.tensor(numbers, device=device), sampling.temperature)
        ends = _Ends(self.stop_rule, width, sampling.stop)
        before, model.generation_config = model.generation_config, GenerationConfig()  # no top-p, no repetition penalty
        try:
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=pad,
                logits_processor=[choose],
                stopping_criteria=[ends],
            )
        finally:
            model.generation_config = before
        logprobs = torch.stack(choose.logprobs, dim=1).tolist()  # [rows, steps]
        return [self._cut(row, logps, sampling.stop) for row, logps in zip(out[:, width:].tolist(), logprobs, strict=True)]

    def _cut(self, ids: list[int], logprobs: list[float], stop: str | None) -> Completion:
        """The completion up to where it ended; after that `generate` goes on until the whole batch has ended."""
        length = next((n for n in range(1, len(ids) + 1) if self.stop_rule.ended(ids[:n], stop)), 0)
        return Completion(ids[: length or None], bool(length), logprobs[: length or None])


class _Choose(LogitsProcessor):
    """Chooses each row's token with its own stream of random numbers, and notes the token's log-probability.

    `generate` is greedy, and after this the chosen token is the only one with a finite score.
    """

    def __init__(self, numbers: torch.Tensor, temperature: float):
        self.numbers, self.temperature = numbers, temperature
        self.logprobs: list[torch.Tensor] = []  # [rows] each

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = torch.full_like(self.numbers, len(self.logprobs))
        tokens, logprobs = sample(scores, self.temperature, uniforms(self.numbers, position))
        self.logprobs.append(logprobs)
        return torch.full_like(scores, float("-inf")).scatter_(-1, tokens[:, None], 0.0)


class _Ends(StoppingCriteria):
    """Says which rows have ended: by an end token or by the stop text. The first `width` tokens of a row are its prompt."""

    def __init__(self, rule: StopRule, width: int, stop: str | None):
        self.rule, self.width, self.stop = rule, width, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        rows = input_ids[:, self.width :].tolist()
        return torch.tensor([self.rule.ended(row, self.stop) for row in rows], device=input_ids.device)
