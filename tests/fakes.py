"""Fakes for tests that run a stage or a library function without a model.

`FakeLM` has one token per character, so that budgets are easy to count; with `merging_tokenizer()` it is a BPE that merges across
tags. `FakeSampler` answers from a script and records every call, with the adapter that was active. `fake_run` is a real `Run`
(recipe, folder, seeds) around the two.

    sampler = FakeSampler(lm, lambda text, sample: "<chunk>…</chunk>")
    run = fake_run(tmp_path / "run", recipe, task, sampler)
    segment.run_stage(run)
    assert [call.adapter for call in sampler.calls] == [None, None, "policy"]
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from minisw.engine.requests import Completion, Request, Sampling
from minisw.problems import Task
from minisw.prompts import Prompts
from minisw.recipe import Recipe
from minisw.records import Problem
from minisw.runs import Run

EOS = 0  # the end token; FakeLM.decode drops it
CUT = "(cut off)"  # a scripted reply that ends with this is not finished; the mark itself is dropped
ASK, REPLY = "<user>", "<reply>"  # around the user message in FakeLM.chat
UNSET = "unset"  # FakeLM.active outside of `using`: code that samples there forgot to choose an adapter

PROMPTS = Prompts(
    solve="SOLVE {question}",
    solve_chunked="SOLVE-CHUNKED {question}",
    segment="SEGMENT {text}",
    segment_numbered="NUMBER {text}",
    judge="JUDGE {question}|{history}|{chunk}",
    classify="CLASSIFY {question}|{history}|{chunk}",
)


def merging_tokenizer() -> Tokenizer:
    """A small byte-level BPE with a token `><`: `</chunk><chunk>` has fewer tokens than `</chunk>` and `<chunk>` apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["<chunk>1+2=3.</chunk><chunk>3+4=7.</chunk>"] * 20, trainer)
    return tokenizer


class FakeLM:
    """Stands in for LanguageModel: one token per character, or the given tokenizer (whose token 0 is the end token).

    `active` is the adapter in use: None for the base, UNSET outside of `using`.
    """

    def __init__(self, *adapters: str, tokenizer: Tokenizer | None = None):
        self.adapters: list[str] = list(adapters)
        self.active: str | None = UNSET
        self.tokenizer = SimpleNamespace(eos_token_id=EOS, pad_token_id=EOS)
        self._bpe = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._bpe.encode(text).ids if self._bpe else [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return self._bpe.decode(list(ids)) if self._bpe else "".join(chr(i) for i in ids if i != EOS)

    def chat(self, user: str, reply: str = "", earlier: Sequence[Sequence[str]] = ()) -> list[int]:
        return self.encode("".join(f"{ASK}{asked}{REPLY}{replied}" for asked, replied in (*earlier, (user, reply))))

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        assert name is None or name in self.adapters, f"adapter {name!r} is not loaded"
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before

    def new_adapter(self, name: str, lora: object, seed: int) -> None:
        self.adapters.append(name)

    def drop_adapter(self, name: str) -> None:
        self.adapters.remove(name)

    def save_adapter(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"fake": name}))

    def load_adapter(self, name: str, folder: Path) -> None:
        if not (folder / "adapter_config.json").is_file():
            raise ValueError(f"no adapter in {folder}")
        self.adapters.append(name)


@dataclass(frozen=True)
class Call:
    """One call of FakeSampler.generate. `texts` and `counts` have one entry per request; `adapter` was active."""

    adapter: str | None
    texts: list[str]
    counts: list[int]
    requests: list[Request]
    sampling: Sampling
    seed: int


class FakeSampler:
    """Answers with `script(text, sample)`: `text` is the whole prefix, `sample` counts the completions of that prefix from 0."""

    def __init__(self, lm: FakeLM, script: Callable[[str, int], str]):
        self.lm, self.script, self.calls, self.tokens = lm, script, [], 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, seed: int, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        texts = [self.lm.decode(r.ids) for r in requests]
        self.calls.append(Call(self.lm.active, texts, [r.count for r in requests], list(requests), sampling, seed))
        return [
            [
                self._completion(self.lm.decode(request.ids[:start]), sample)
                for start in (request.starts or (len(request.ids),))
                for sample in range(request.count)
            ]
            for request in requests
        ]

    def _completion(self, text: str, sample: int) -> Completion:
        reply = self.script(text, sample)
        if reply.endswith(CUT):
            return Completion(self.lm.encode(reply.removesuffix(CUT)), False)
        return Completion([*self.lm.encode(reply), EOS], True)


def fake_task(splits: dict[str, Sequence[Problem]], **changes: object) -> Task:
    """A task whose splits are these lists; `task.load` returns the first `count` and fails if there are fewer."""

    def load(split: str, count: int, seed: int) -> list[Problem]:
        assert count <= len(splits[split]), f"{split} has only {len(splits[split])} problems"
        return list(splits[split][:count])

    return Task(**{"name": "fake", "prompts": PROMPTS, "load": load, **changes})


def fake_run(folder: Path, recipe: Recipe, task: Task, sampler: FakeSampler) -> Run:
    """A Run whose task, model and sampler are the given ones, and which prints nothing."""
    run = Run(recipe, folder, Console(file=io.StringIO()))
    run.task, run.lm, run.sampler = task, sampler.lm, sampler
    return run
