"""Both samplers against transformers' own `generate`, against the exact distribution, against each other, and corner cases."""

from __future__ import annotations

import contextlib
import math
from collections import Counter

import pytest
import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from minisw.engine.kv_cache import KVCache
from minisw.engine.machine import is_out_of_memory
from minisw.engine.model import LanguageModel
from minisw.engine.random_streams import sample, streams, uniforms
from minisw.engine.requests import Completion, Request, Sampling, StopRule
from minisw.engine.sampler import Sampler, make_sampler
from minisw.engine.shared_prefix import unsupported
from minisw.engine.simple_sampler import SimpleSampler
from minisw.recipe import ModelKnobs

GREEDY = Sampling(max_new_tokens=24, temperature=0)
BOTH = pytest.mark.parametrize("kind", [SimpleSampler, Sampler])


def reference(lm: LanguageModel, prompts: list[list[int]], new_tokens: int = 24, ends: tuple[int, ...] = ()) -> list[list[int]]:
    """Greedy continuations by transformers, all prompts in one left-padded batch, cut after the end token."""
    width = max(map(len, prompts))
    pad = lm.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    length = dict(max_new_tokens=new_tokens, pad_token_id=pad, eos_token_id=list(ends) or -1)
    out = lm.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length)
    rows = []
    for row in out[:, width:].tolist():
        at = next((i for i, token in enumerate(row) if token in ends), new_tokens - 1)
        rows.append(row[: at + 1])
    return rows


def ids_of(results: list[list[Completion]]) -> list[list[int]]:
    return [completion.ids for group in results for completion in group]


@pytest.fixture(scope="module")
def endless(tiny_lm: LanguageModel, prompts: list[list[int]]) -> list[list[int]]:
    """24 greedy tokens for every prompt, with no end token."""
    return reference(tiny_lm, prompts)


@pytest.fixture
def ends(tiny_lm: LanguageModel, endless: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """End tokens such that greedy rows end at once, early, late, and not at all."""
    chosen = (endless[0][0], endless[1][3], endless[2][9])
    monkeypatch.setattr(tiny_lm, "end_ids", sorted(chosen))
    return chosen


# --- greedy, against transformers ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prefill_tokens", [8192, 40, 1])
@pytest.mark.parametrize("slots", [1, 3, 4, 8])
def test_greedy_equals_generate(
    slots: int, prefill_tokens: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    check_greedy(Sampler(tiny_lm, slots, prefill_tokens), prompts, ends)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_simple_greedy_equals_generate(
    slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    check_greedy(SimpleSampler(tiny_lm, slots), prompts, ends)


def check_greedy(sampler: SimpleSampler, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    expected = reference(sampler.lm, prompts, ends=ends)
    lengths = [len(row) for row in expected]
    assert lengths[0] == 1 and len(set(lengths)) >= 3 and max(lengths) == 24, lengths
    results = sampler.generate([Request(ids) for ids in prompts], GREEDY, seed=0)
    assert [len(group) for group in results] == [1] * len(prompts)
    assert ids_of(results) == expected
    assert [group[0].finished for group in results] == [row[-1] in ends for row in expected]
    assert sampler.tokens == sum(lengths)
    sampler.generate([Request(prompts[1])], GREEDY, seed=0)
    assert sampler.tokens == sum(lengths) + lengths[1]


def test_greedy_is_not_trivial(endless: list[list[int]]) -> None:
    assert len({tuple(row) for row in endless}) == len(endless)
    assert all(len(set(row)) >= 5 for row in endless)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 50])
def test_branches_equal_requests_of_their_prefixes(
    slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    ids = prompts[5]
    starts = tuple(range(1, len(ids) + 1, 3)) + (len(ids),)
    sampler = Sampler(tiny_lm, slots)
    together = sampler.generate([Request(prompts[1]), Request(ids, 1, starts)], GREEDY, seed=0)
    apart = sampler.generate([Request(ids[:start]) for start in starts], GREEDY, seed=1)
    assert ids_of(together[1:]) == ids_of(apart) == reference(tiny_lm, [ids[:start] for start in starts], ends=ends)
    assert ids_of(together[:1]) == reference(tiny_lm, [prompts[1]], ends=ends)


@BOTH
def test_results_are_in_the_order_of_branches(
    kind: type[SimpleSampler], tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]]
) -> None:
    request = Request(prompts[5], 2, (9, 4))
    assert request.branches() == [9, 9, 4, 4]
    nine, four = reference(tiny_lm, [prompts[5][:9], prompts[5][:4]], 6)
    assert nine != four
    results = kind(tiny_lm, 3).generate([request, Request(prompts[0], 3)], Sampling(6, 0), seed=0)
    assert ids_of(results) == [nine, nine, four, four] + [endless[0][:6]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 4, 5, 50])
def test_both_samplers_draw_the_same_tokens(slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends) -> None:
    """Rows end at different times, so slots are filled again and rows move."""
    requests = [Request(ids, 1 + i % 3) for i, ids in enumerate(prompts)]
    requests += [Request(prompts[5], 2, (9, 4)), Request(prompts[2], 0)]
    sampling = Sampling(12, 0.8)
    fast, simple = (kind(tiny_lm, slots).generate(requests, sampling, seed=4) for kind in (Sampler, SimpleSampler))
    assert fast == simple
    assert [len(group) for group in fast] == [len(request.branches()) for request in requests]
    assert len({len(row) for row in ids_of(fast)}) >= 3
    for a, b in zip((c for g in fast for c in g), (c for g in simple for c in g), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


# --- log-probabilities -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_logprobs_are_those_of_the_sampling_distribution(
    temperature: float, kind: type[SimpleSampler], tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    requests = [Request(prompts[0], 2), Request(prompts[5], 2, (7, 20)), Request(prompts[6])]
    results = kind(tiny_lm, 3).generate(requests, Sampling(9, temperature), seed=2)
    for request, group in zip(requests, results, strict=True):
        for start, completion in zip(request.branches(), group, strict=True):
            ids = request.ids[:start] + completion.ids
            with torch.no_grad():
                logp = (tiny_lm.model(torch.tensor([ids])).logits[0] / (temperature or 1.0)).log_softmax(-1)
            expected = [logp[start + n - 1, token].item() for n, token in enumerate(completion.ids)]
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            assert len(completion.logprobs) == len(completion.ids) and max(completion.logprobs) < 0


@BOTH
def test_logits_that_are_not_numbers(kind: type[SimpleSampler], new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm()
    lm.causal_lm.model.norm.weight.data[3] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="not numbers") as caught:
            kind(lm).generate([Request(prompts[0], 2)], Sampling(3, temperature), seed=0)
        assert "\n" not in str(caught.value)


# --- corner cases --------------------------------------------------------------------------------------------------------


@BOTH
def test_one_row_that_ends_at_once(kind, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    for slots in (1, 8):
        [[completion]] = kind(tiny_lm, slots).generate([Request(prompts[0])], GREEDY, seed=0)
        assert completion == Completion([ends[0]], True) and len(completion.logprobs) == 1


def test_all_rows_end_at_once(tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    results = Sampler(tiny_lm, 2).generate([Request(prompts[0], 5)], GREEDY, seed=0)
    assert results == [[Completion([ends[0]], True)] * 5]


@BOTH
def test_one_new_token(kind, tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], ends) -> None:
    results = kind(tiny_lm, 3).generate([Request(ids) for ids in prompts], Sampling(1, 0), seed=0)
    assert ids_of(results) == [row[:1] for row in endless]
    assert [group[0].finished for group in results] == [row[0] in ends for row in endless]


@BOTH
def test_end_token_as_the_last_allowed(kind, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    [row] = reference(tiny_lm, [prompts[1]], ends=ends)
    [[completion]] = kind(tiny_lm).generate([Request(prompts[1])], Sampling(len(row), 0), seed=0)
    assert completion == Completion(row, True)


@BOTH
def test_a_padding_token_in_a_prompt_is_read(kind, tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    odd = [*prompts[0][:4], tiny_lm.tokenizer.pad_token_id, *prompts[0][4:]]
    results = kind(tiny_lm).generate([Request(odd), Request(prompts[5])], GREEDY, seed=0)
    assert ids_of(results[:1]) == reference(tiny_lm, [odd], ends=tuple(tiny_lm.end_ids))


@BOTH
def test_nothing_to_do(kind, tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    sampler = kind(tiny_lm)
    assert sampler.generate([], GREEDY, seed=0) == []
    assert sampler.generate([Request(prompts[0], 2)], Sampling(0), seed=0) == [[Completion(), Completion()]]
    assert sampler.generate([Request(prompts[0], 0)], GREEDY, seed=0) == [[]]
    assert sampler.tokens == 0


@BOTH
@pytest.mark.parametrize("request_", [Request([]), Request([1, 2], 1, (0,)), Request([1, 2], 1, (1, 3)), Request([], 1, (1,))])
def test_empty_prefix(request_: Request, kind, tiny_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        kind(tiny_lm).generate([Request([5]), request_], GREEDY, seed=0)


@pytest.mark.slow
@BOTH
def test_progress_counts_every_row(kind, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    ticks: list[int] = []
    kind(tiny_lm, 3).generate([Request(ids, 2) for ids in prompts], GREEDY, seed=0, progress=ticks.append)
    assert sum(ticks) == 2 * len(prompts)


def test_an_idle_slot_needs_no_more_room(tiny_lm: LanguageModel, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine rows of one length in five slots: for the second half one slot is idle, too few for the others to move together."""
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    rows = [[i, *prompts[0]] for i in range(1, 10)]
    results = Sampler(tiny_lm, 5, share=False).generate([Request(ids) for ids in rows], GREEDY, seed=0)
    assert ids_of(results) == reference(tiny_lm, rows)


def test_the_models_own_generation_settings_have_no_effect(new_lm, prompts: list[list[int]]) -> None:
    """Qwen2.5's, for example, ask for a repetition penalty and top-k."""
    lm, requests = new_lm(), [Request(ids, 2) for ids in prompts[:3]]
    plain = SimpleSampler(lm).generate(requests, Sampling(8), seed=1)
    own = GenerationConfig(do_sample=True, repetition_penalty=5.0, top_k=1, temperature=0.1, min_new_tokens=8)
    lm.causal_lm.generation_config = own
    assert SimpleSampler(lm).generate(requests, Sampling(8), seed=1) == plain
    assert lm.causal_lm.generation_config is own


def test_the_recipe_chooses_the_sampler(tiny_lm: LanguageModel) -> None:
    fast = make_sampler(tiny_lm, ModelKnobs(slots=7, prefill_tokens=99))
    assert type(fast) is Sampler and (fast.slots, fast.prefill_tokens) == (7, 99)
    simple = make_sampler(tiny_lm, ModelKnobs(slots=7, sampler="simple"))
    assert type(simple) is SimpleSampler and simple.slots == 7


# --- sampling ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "temperature"), [(Sampler, 1.0), (Sampler, 0.6), (SimpleSampler, 0.6)])
def test_frequencies_are_those_of_the_softmax(
    kind: type[SimpleSampler], temperature: float, tiny_lm: LanguageModel, prompts: list[list[int]]
) -> None:
    n, ids = 6000, prompts[0]
    with torch.no_grad():
        p = (tiny_lm.model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
    results = kind(tiny_lm, slots=500).generate([Request(ids, n)], Sampling(1, temperature), seed=3)
    counts = torch.zeros_like(p)
    for token, count in Counter(row[0] for row in ids_of(results)).items():
        counts[token] = count
    deviation = (counts - n * p) / (n * p * (1 - p)).sqrt()  # in standard errors
    assert deviation[p > 0.002].abs().max() < 4.5
    assert abs(float(((counts - n * p) ** 2 / (n * p)).sum()) / len(p) - 1) < 0.5  # chi² per degree of freedom


@pytest.mark.slow
def test_second_tokens_follow_their_own_first(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    """A slot that is filled again, or moved, continues its own row: pairs of tokens have the joint distribution."""
    n, ids = 4000, prompts[1]
    pairs = Counter(tuple(row) for row in ids_of(Sampler(tiny_lm, 300).generate([Request(ids, n)], Sampling(2, 0.5), seed=4)))
    with torch.no_grad():
        first = (tiny_lm.model(torch.tensor([ids])).logits[0, -1] / 0.5).softmax(-1)
        for token in first.topk(3).indices.tolist():
            if token in tiny_lm.end_ids:
                continue
            second = (tiny_lm.model(torch.tensor([[*ids, token]])).logits[0, -1] / 0.5).softmax(-1)
            p, best = (first[token] * second).max(-1)
            assert abs(pairs[token, int(best)] - n * p) < 4.5 * (n * p * (1 - p)).sqrt() + 1


@pytest.mark.slow
@BOTH
def test_same_seed_same_tokens(kind, tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    requests, sampling = [Request(ids, 3) for ids in prompts], Sampling(12)
    one = kind(tiny_lm, 4).generate(requests, sampling, seed=7)
    torch.rand(5)  # the global generator has no influence
    two = kind(tiny_lm, 4).generate(requests, sampling, seed=7)
    other = kind(tiny_lm, 4).generate(requests, sampling, seed=8)
    assert one == two
    assert ids_of(one) != ids_of(other)
    assert len({tuple(row) for row in ids_of(one)}) > 0.9 * 3 * len(prompts)


# --- stop text -----------------------------------------------------------------------------------------------------------


def cut_at(lm: LanguageModel, row: list[int], stop: str) -> list[int]:
    """The row up to the first token with which its text contains `stop`."""
    return next((row[:n] for n in range(1, len(row) + 1) if stop in lm.decode(row[:n])), row)


def check_stop(kind, lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], stop: str) -> None:
    expected = [cut_at(lm, row, stop) for row in endless]
    assert min(map(len, expected)) < 24
    results = kind(lm, 3).generate([Request(ids) for ids in prompts], Sampling(24, 0, stop), seed=0)
    assert ids_of(results) == expected
    assert [group[0].finished for group in results] == [stop in lm.decode(row) for row in expected]
    assert all(len(c.logprobs) == len(c.ids) for group in results for c in group)


@BOTH
def test_stop_text_of_several_tokens(kind, tiny_lm: LanguageModel, prompts, endless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    row = next(row for row in endless if len(tiny_lm.encode(tiny_lm.decode(row[4:6]))) == 2)
    check_stop(kind, tiny_lm, prompts, endless, tiny_lm.decode(row[4:6]))


@BOTH
def test_stop_text_within_another_token(kind, tiny_lm: LanguageModel, prompts, endless, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen's token ".\\n\\n" contains "\\n\\n", which is a token too: both end a row."""
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    stop = next(piece for row in endless for piece in tiny_lm.decode(row[2:4])[1:] if piece.isalpha())
    assert len(tiny_lm.encode(stop)) == 1
    check_stop(kind, tiny_lm, prompts, endless, stop)


class Bytes:
    """A tokenizer of single bytes; token 256 is special and has no text."""

    end_ids = [257]

    def __init__(self):
        self.tokenizer = self

    def __len__(self) -> int:
        return 258

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [self.decode(row) for row in rows]


@pytest.mark.parametrize("stop", ["</chunk>", "ab", "é…😀", "x😀"])
def test_stop_rule(stop: str) -> None:
    """The stop text ends a row at its last byte, wherever it begins, and with special tokens between; no part of it does."""
    rule, text = StopRule(Bytes()), list(stop.encode())
    for before in ([], [65], list("some text, é".encode()), list(stop.encode()[:-1])):
        ids = before + text
        ended = [rule.ended(ids[:n], stop) for n in range(1, len(ids) + 1)]
        assert ended == [False] * (len(ids) - 1) + [True]
    assert rule.ended([*text[:1], 256, 256, *text[1:]], stop)
    assert not rule.ended(text[1:], stop) and not rule.ended(text, None)
    assert rule.ended([65, 257], None) and rule.ended([257], stop) and not rule.ended([257, 65], stop)


# --- merged adapters -----------------------------------------------------------------------------------------------------


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fail", [False, True])
def test_merged_restores_the_weights(dtype: torch.dtype, fail: bool, new_lm) -> None:
    lm = new_lm("judge", noise=0.3)
    lm.model.to(dtype)
    before = weights(lm)
    with contextlib.suppress(KeyboardInterrupt), lm.merged():
        inside = weights(lm)
        if fail:
            raise KeyboardInterrupt
    after = weights(lm)
    assert any(not torch.equal(inside[name], before[name]) for name in before)  # it did merge
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(getattr(module, "merged", False) for module in lm.model.modules())


class Quantised(torch.nn.Module):
    """Like a 4-bit layer: integers as weights, and a type that it computes in."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.scale = linear.weight.abs().max() / 127
        self.weight = torch.nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add(x.dtype)
        return x @ (self.weight.to(x.dtype) * self.scale.to(x.dtype)).T


def test_adapters_of_quantised_layers_sample_in_the_compute_type(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", "other", noise=0.2)
    for p in lm.causal_lm.parameters():  # as loaded with dtype="bf16"; adapters stay in fp32
        if p not in set(lm.adapter_parameters("judge").values()) | set(lm.adapter_parameters("other").values()):
            p.data = p.data.bfloat16()
    layer = lm.causal_lm.model.layers[0].mlp.up_proj
    layer.base_layer = Quantised(layer.base_layer)
    assert not unsupported(lm.causal_lm)  # this runs the model, not yet in sampling types
    before, products = weights(lm), set()
    hook = layer.lora_A["judge"].register_forward_hook(lambda module, args, out: products.add((args[0].dtype, out.dtype)))
    with lm.using("judge"):
        Sampler(lm, 4).generate([Request(prompts[0], 2)], Sampling(3), seed=0)
    hook.remove()
    assert products == {(torch.bfloat16, torch.bfloat16)}
    assert not layer.merged_adapters and torch.equal(layer.base_layer.weight, before[name_of(lm, layer.base_layer.weight)])
    after = weights(lm)
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert {p.dtype for p in lm.adapter_parameters("judge").values()} == {torch.float32}


def name_of(lm: LanguageModel, parameter: torch.Tensor) -> str:
    return next(name for name, p in lm.model.named_parameters() if p is parameter)


def test_sampling_merges_the_active_adapter_only(new_lm, prompts: list[list[int]]) -> None:
    lm, seen = new_lm("judge", "other", noise=0.3), []
    layer = lm.causal_lm.model.layers[0].self_attn.q_proj
    before = layer.get_base_layer().weight.detach().clone()

    def look(_: int) -> None:
        seen.append((list(layer.merged_adapters), torch.equal(layer.get_base_layer().weight, before)))

    for name in ("judge", "other", None):
        with lm.using(name):
            Sampler(lm).generate([Request(prompts[0])], Sampling(1), 0, look)
    assert seen == [(["judge"], False), (["other"], False), ([], True)]  # the bare base samples from its own weights


def test_sampling_in_another_type(new_lm, prompts: list[list[int]], endless: list[list[int]]) -> None:
    lm, seen = new_lm("judge", noise=0.2), set()
    lm.sampling_dtype = torch.bfloat16
    before = weights(lm)

    def look(_: int) -> None:
        seen.update(p.dtype for p in lm.model.parameters())

    with lm.using(None):
        results = Sampler(lm, 4).generate([Request(ids) for ids in prompts], Sampling(2, 0), 0, progress=look)
    assert seen == {torch.bfloat16}
    after = weights(lm)
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert sum(row[0] == expected[0] for row, expected in zip(ids_of(results), endless, strict=True)) >= 5  # but for rounding


@BOTH
def test_a_failed_generation_restores_the_weights(kind, new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", noise=0.3)
    before = weights(lm)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind(lm).generate([Request(ids) for ids in prompts], GREEDY, 0, progress=stop)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items())


@pytest.mark.slow
@BOTH
def test_adapters_sample_as_unmerged(kind, new_lm, prompts, endless: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = new_lm("judge", "other", noise=0.2)
    monkeypatch.setattr(lm, "end_ids", [])
    requests, results = [Request(ids) for ids in prompts], {}
    for name in ("judge", "other", None, "judge"):
        with lm.using(name):
            results[name] = ids_of(kind(lm, 4).generate(requests, GREEDY, seed=0))
            assert results[name] == reference(lm, prompts)  # the layers unmerged, and after whatever was merged before
    assert results["judge"] != results["other"]
    assert results[None] == endless != results["judge"]


# --- memory --------------------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("no memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_rows(error, tiny_lm: LanguageModel, prompts, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    requests, sampling = [Request(ids, 2) for ids in prompts], Sampling(5, 1.0)
    expected = Sampler(tiny_lm, 8).generate(requests, sampling, seed=0)
    caches: list[Cache] = []
    init, fit = KVCache.__init__, KVCache.fit

    def noted(self, *args) -> None:
        init(self, *args)
        assert not any(cache.layers for cache in caches), "what did not fit must be free before less is tried"
        caches.append(self.cache)

    def short_of_memory(self, positions: int) -> None:
        if self.slots > 4 and positions > max(map(len, prompts)) + 2:  # in the middle of sampling
            raise error
        fit(self, positions)

    monkeypatch.setattr(KVCache, "__init__", noted)
    monkeypatch.setattr(KVCache, "fit", short_of_memory)
    requests = [Request([1, *ids]) for ids in prompts] + requests  # without sharing, rows own all their positions
    fresh = Sampler(tiny_lm, 8, prefill_tokens=64, share=False)
    results = fresh.generate(requests, sampling, seed=0)
    assert (fresh.slots, fresh.prefill_tokens, len(caches)) == (4, 32, 2)
    assert fresh.tokens == sum(map(len, ids_of(results)))  # those of the failed attempt are not counted
    assert "with 4 rows at once (--model.slots)" in caplog.text
    monkeypatch.undo()
    assert results == Sampler(tiny_lm, 8).generate(requests, sampling, seed=0)
    assert expected == Sampler(tiny_lm, 8).generate(requests[len(prompts) :], sampling, seed=0)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_with_one_row(error, kind, tiny_lm: LanguageModel, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(type(tiny_lm.causal_lm), "forward", fail)
    monkeypatch.setattr("minisw.engine.sampler.unsupported", lambda model: "")
    with pytest.raises(ValueError, match="out of memory with one row"):
        kind(tiny_lm, 8).generate([Request(ids) for ids in prompts], Sampling(5), seed=0)


@BOTH
def test_other_errors_are_not_taken_for_memory(kind, tiny_lm: LanguageModel, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError("device-side assert")

    sampler = kind(tiny_lm, 8)
    sampler.generate([Request(prompts[0])], Sampling(1), seed=0)
    monkeypatch.setattr(type(tiny_lm.causal_lm), "forward", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        sampler.generate([Request(prompts[0])], Sampling(1), seed=0)
    assert sampler.slots == 8


def test_what_counts_as_out_of_memory() -> None:
    assert all(map(is_out_of_memory, OUT_OF_MEMORY))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("CUBLAS_STATUS_ALLOC_FAILED"))


def test_a_step_needs_one_transfer(tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from device to host is counted, and every tensor made from host numbers. Between two changes of rows, a token
    takes one transfer to the host and none to the device."""
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    reads, uploads, make = [], [], torch.tensor
    for name in ("tolist", "item", "__int__", "__bool__", "__float__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, f=original, n=name, **k: (reads.append(n), f(self, *a, **k))[1])
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: (uploads.append(1), make(*a, **k))[1])
    counts = []
    for length in (10, 14):  # of as many rows as slots, all of which end together
        reads.clear()
        uploads.clear()
        Sampler(tiny_lm, 8).generate([Request(prompts[0], 4), Request(prompts[5], 4)], Sampling(length), seed=0)
        counts.append((len(reads), len(uploads)))
    assert counts[1][0] - counts[0][0] == 4 and counts[1][1] == counts[0][1]


# --- random numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_what_a_row_samples_does_not_depend_on_the_rows_beside_it(share, tiny_lm: LanguageModel, prompts: list[list[int]]):
    requests = [Request(ids, 1 + i % 3) for i, ids in enumerate(prompts)]
    sampling = Sampling(10, 1.0)
    expected = Sampler(tiny_lm, 50).generate(requests, sampling, seed=4)
    assert Sampler(tiny_lm, 1, prefill_tokens=1, share=share).generate(requests, sampling, seed=4) == expected
    assert Sampler(tiny_lm, 3, share=share).generate(requests, sampling, seed=4) == expected
    assert Sampler(tiny_lm, 50).generate(requests, sampling, seed=5) != expected
    rows = [tuple(c.ids) for group in expected for c in group if len(group) > 1]
    assert len(set(rows)) > len(rows) / 2  # the rows of a group differ


def test_uniforms_are_uniform_and_streams_independent():
    streams_of = torch.tensor(streams(3, 400))
    drawn = torch.stack([uniforms(streams_of, torch.full_like(streams_of, i)) for i in range(200)], dim=1)  # [400, 200]
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 4000).square() / 4000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    for other in (drawn.roll(1, 0), drawn.roll(1, 1)):  # neighbours in stream and in position
        assert abs(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]) < 0.013  # 3.7 sigma
    assert streams(3, 5) == streams_of[:5].tolist() != streams(4, 5)


def test_a_number_near_1_gives_a_token_that_has_probability():
    logits = torch.tensor([[0.0, 1.0, 2.0] + [float("-inf")] * 5])
    for number in (1 - 2**-53, 1 - 2**-25, 1.0):
        assert sample(logits, 1.0, torch.tensor([number], dtype=torch.float64))[0].tolist() == [2]
    assert sample(logits, 1.0, torch.tensor([0.0], dtype=torch.float64))[0].tolist() == [0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sample_inverts_the_distribution_function(temperature: float):
    """Numbers on a grid hit each token as often as its probability says."""
    p = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3])
    n = 10_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = sample(p.log().expand(n, 5), temperature, uniform)
    expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    assert (torch.bincount(tokens, minlength=5) / n - expected).abs().max() < 2 / n
    assert torch.equal(tokens, tokens.sort().values)  # a larger number never gives an earlier token
    torch.testing.assert_close(logprobs, expected[tokens].log())


def test_greedy_breaks_ties_as_transformers_does():
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [0.0, -1.0, 3.0, 3.0]], dtype=torch.bfloat16)
    tokens, logprobs = sample(logits, 0, None)
    assert tokens.tolist() == logits.argmax(-1).tolist()
    assert logprobs[0].item() == pytest.approx(5 - math.log(2 * math.exp(5) + math.exp(1) + math.exp(2)), abs=1e-5)


def test_tokens_of_small_probability_are_drawn():
    """In fp32 sums, 10,000 tokens of probability 1e-9 after one of nearly 1 would vanish; as integers they are exact."""
    logits = torch.full((1, 10_001), -20.7)
    logits[0, 0] = 0.0
    mass = logits.double().softmax(-1)[0, 1:].sum().item()
    assert 0.9e-5 < mass < 1.1e-5
    for part in (0.1, 0.5, 0.9):
        token, logprob = sample(logits, 1.0, torch.tensor([1 - mass * (1 - part)], dtype=torch.float64))
        assert token.item() == pytest.approx(1 + 10_000 * part, abs=3)
        assert logprob.item() == pytest.approx(-20.7, abs=1e-3)
