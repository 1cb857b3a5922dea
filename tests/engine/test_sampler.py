"""Sampling: against transformers' own `generate`, against the exact distribution, and its corner cases."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch

from minisw.engine.model import LanguageModel
from minisw.engine.random_streams import sample, streams, uniforms
from minisw.engine.requests import Completion, Request, Sampling
from minisw.engine.sampler import Sampler

GREEDY = Sampling(max_new_tokens=24, temperature=0)


def reference(lm: LanguageModel, prompts: list[list[int]], new_tokens: int = 24, ends: tuple[int, ...] = ()) -> list[list[int]]:
    """Greedy continuations by transformers, all prompts in one left-padded batch; behind the end token cut off."""
    width = max(map(len, prompts))
    pad = lm.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    # -1 is no token: without `ends` nothing ends a row
    out = lm.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=pad,
        eos_token_id=list(ends) or -1,
    )
    rows = []
    for row in out[:, width:].tolist():
        at = next((i for i, token in enumerate(row) if token in ends), new_tokens - 1)
        rows.append(row[: at + 1])
    return rows


def ids_of(results: list[list[Completion]]) -> list[list[int]]:
    return [completion.ids for group in results for completion in group]


@pytest.fixture(scope="module")
def endless(tiny_lm: LanguageModel, prompts: list[list[int]]) -> list[list[int]]:
    """24 greedy tokens behind every prompt, with nothing that ends a row."""
    return reference(tiny_lm, prompts)


@pytest.fixture
def ends(tiny_lm: LanguageModel, endless: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """End tokens chosen such that the greedy rows end at once, early, late, and not at all."""
    chosen = (endless[0][0], endless[1][3], endless[2][9])
    monkeypatch.setattr(tiny_lm, "end_ids", sorted(chosen))
    return chosen


# --- greedy, against transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefill_tokens", [8192, 40, 1])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_greedy_equals_generate(
    slots: int, prefill_tokens: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    expected = reference(tiny_lm, prompts, ends=ends)
    lengths = [len(row) for row in expected]
    assert lengths[0] == 1 and len(set(lengths)) >= 3 and max(lengths) == 24, lengths
    sampler = Sampler(tiny_lm, slots, prefill_tokens)
    results = sampler.generate([Request(ids) for ids in prompts], GREEDY, seed=0)
    assert [len(group) for group in results] == [1] * len(prompts)
    assert ids_of(results) == expected
    assert [group[0].finished for group in results] == [row[-1] in ends for row in expected]
    assert sampler.tokens == sum(lengths)


def test_greedy_is_not_trivial(endless: list[list[int]]) -> None:
    assert len({tuple(row) for row in endless}) == len(endless)
    assert all(len(set(row)) >= 5 for row in endless)


@pytest.mark.parametrize("slots", [2, 50])
def test_branches_equal_requests_of_their_prefixes(
    slots: int, tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]
) -> None:
    ids = prompts[5]
    starts = tuple(range(1, len(ids) + 1))
    sampler = Sampler(tiny_lm, slots)
    together = sampler.generate([Request(prompts[1]), Request(ids, 1, starts)], GREEDY, seed=0)
    apart = sampler.generate([Request(ids[:start]) for start in starts], GREEDY, seed=1)
    assert ids_of(together[1:]) == ids_of(apart) == reference(tiny_lm, [ids[:start] for start in starts], ends=ends)
    assert ids_of(together[:1]) == reference(tiny_lm, [prompts[1]], ends=ends)


def test_results_stand_in_the_order_of_branches(
    tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]]
) -> None:
    request = Request(prompts[5], 2, (9, 4))
    assert request.branches() == [9, 9, 4, 4]
    nine, four = reference(tiny_lm, [prompts[5][:9], prompts[5][:4]], 6)
    results = Sampler(tiny_lm, 3).generate([request, Request(prompts[0], 3)], Sampling(6, 0), seed=0)
    assert ids_of(results) == [nine, nine, four, four] + [endless[0][:6]] * 3


# --- corner cases --------------------------------------------------------------------------------------------------------


def test_one_row_that_ends_at_once(tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    for slots in (1, 8):
        [[completion]] = Sampler(tiny_lm, slots).generate([Request(prompts[0])], GREEDY, seed=0)
        assert completion == Completion([ends[0]], True)


def test_all_rows_end_at_once(tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    results = Sampler(tiny_lm, 2).generate([Request(prompts[0], 5)], GREEDY, seed=0)
    assert results == [[Completion([ends[0]], True)] * 5]


def test_one_new_token(tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], ends: tuple[int, ...]) -> None:
    results = Sampler(tiny_lm, 3).generate([Request(ids) for ids in prompts], Sampling(1, 0), seed=0)
    assert ids_of(results) == [row[:1] for row in endless]
    assert [group[0].finished for group in results] == [row[0] in ends for row in endless]


def test_end_token_as_the_last_allowed(tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    [row] = reference(tiny_lm, [prompts[1]], ends=ends)
    [[completion]] = Sampler(tiny_lm).generate([Request(prompts[1])], Sampling(len(row), 0), seed=0)
    assert completion == Completion(row, True)


def test_padding_token_in_a_prompt_is_read(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    odd = [*prompts[0][:4], tiny_lm.tokenizer.pad_token_id, *prompts[0][4:]]
    results = Sampler(tiny_lm).generate([Request(odd), Request(prompts[5])], GREEDY, seed=0)
    assert ids_of(results[:1]) == reference(tiny_lm, [odd], ends=tuple(tiny_lm.end_ids))


def test_nothing_to_do(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    sampler = Sampler(tiny_lm)
    assert sampler.generate([], GREEDY, seed=0) == []
    assert sampler.generate([Request(prompts[0], 2)], Sampling(0), seed=0) == [[Completion(), Completion()]]
    assert sampler.generate([Request(prompts[0], 0)], GREEDY, seed=0) == [[]]
    assert sampler.tokens == 0


@pytest.mark.parametrize("request_", [Request([]), Request([1, 2], 1, (0,)), Request([1, 2], 1, (1, 3)), Request([], 1, (1,))])
def test_empty_prefix(request_: Request, tiny_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Sampler(tiny_lm).generate([Request([5]), request_], GREEDY, seed=0)


def test_progress_counts_every_row(tiny_lm: LanguageModel, prompts: list[list[int]], ends: tuple[int, ...]) -> None:
    ticks: list[int] = []
    Sampler(tiny_lm, 3).generate([Request(ids, 2) for ids in prompts], GREEDY, seed=0, progress=ticks.append)
    assert sum(ticks) == 2 * len(prompts)


# --- sampling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_are_those_of_the_softmax(temperature: float, tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    n, ids = 6000, prompts[0]
    with torch.no_grad():
        p = (tiny_lm.model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)
    results = Sampler(tiny_lm, slots=500).generate([Request(ids, n)], Sampling(1, temperature), seed=3)
    counts = torch.zeros_like(p)
    for token, count in Counter(row[0] for row in ids_of(results)).items():
        counts[token] = count
    deviation = (counts - n * p) / (n * p * (1 - p)).sqrt()  # in standard errors
    assert deviation[p > 0.002].abs().max() < 4.5
    assert abs(float(((counts - n * p) ** 2 / (n * p)).sum()) / len(p) - 1) < 0.5  # chi² per degree of freedom


def test_second_tokens_follow_their_own_first(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    """A slot that is filled anew, or moved, goes on from its own row: the pairs have the joint distribution."""
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


def test_same_seed_same_tokens(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    requests, sampling = [Request(ids, 3) for ids in prompts], Sampling(12)
    one = Sampler(tiny_lm, 4).generate(requests, sampling, seed=7)
    torch.rand(5)  # the global generator has no say
    two = Sampler(tiny_lm, 4).generate(requests, sampling, seed=7)
    other = Sampler(tiny_lm, 4).generate(requests, sampling, seed=8)
    assert one == two
    assert ids_of(one) != ids_of(other)
    assert len({tuple(row) for row in ids_of(one)}) > 0.9 * 3 * len(prompts)


# --- stop strings --------------------------------------------------------------------------------------------------------


def cut_at(lm: LanguageModel, row: list[int], stop: str) -> list[int]:
    """The row up to the first token with which `stop` stands in its text."""
    return next((row[:n] for n in range(1, len(row) + 1) if stop in lm.decode(row[:n])), row)


def test_stop_string_of_several_tokens(
    tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    row = next(row for row in endless if len(tiny_lm.encode(tiny_lm.decode(row[4:6]))) == 2)
    stop = tiny_lm.decode(row[4:6])
    results = Sampler(tiny_lm, 3).generate([Request(ids) for ids in prompts], Sampling(24, 0, stop), seed=0)
    expected = [cut_at(tiny_lm, row, stop) for row in endless]
    assert min(map(len, expected)) < 24
    assert ids_of(results) == expected
    assert [group[0].finished for group in results] == [stop in tiny_lm.decode(row) for row in expected]


def test_stop_string_of_one_token(
    tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    stop = next(
        tiny_lm.decode([token])
        for row in endless
        for token in row[3:]
        if tiny_lm.encode(tiny_lm.decode([token])) == [token] and len(tiny_lm.decode([token])) > 4
    )
    results = Sampler(tiny_lm, 3).generate([Request(ids) for ids in prompts], Sampling(24, 0, stop), seed=0)
    expected = [cut_at(tiny_lm, row, stop) for row in endless]
    assert min(map(len, expected)) < 24
    assert ids_of(results) == expected
    assert [group[0].finished for group in results] == [stop in tiny_lm.decode(row) for row in expected]


def test_stop_string_within_another_token(
    tiny_lm: LanguageModel, prompts: list[list[int]], endless: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Qwen's ".\\n\\n", one token, holds "\\n\\n", which is one too: both end a row."""
    monkeypatch.setattr(tiny_lm, "end_ids", [])
    stop = next(piece for row in endless for piece in tiny_lm.decode(row[2:4])[1:] if piece.isalpha())
    assert len(tiny_lm.encode(stop)) == 1
    results = Sampler(tiny_lm, 3).generate([Request(ids) for ids in prompts], Sampling(24, 0, stop), seed=0)
    assert ids_of(results) == [cut_at(tiny_lm, row, stop) for row in endless]


# --- merged adapters -----------------------------------------------------------------------------------------------------


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fail", [False, True])
def test_merged_puts_the_weights_back(dtype: torch.dtype, fail: bool, new_lm) -> None:
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


def test_sampling_merges_the_active_adapter_only(new_lm, prompts: list[list[int]]) -> None:
    lm, seen = new_lm("judge", "other", noise=0.3), []
    layer = lm.causal_lm.model.layers[0].self_attn.q_proj
    before = layer.get_base_layer().weight.detach().clone()

    def look(_: int) -> None:
        seen.append((list(layer.merged_adapters), torch.equal(layer.get_base_layer().weight, before)))

    for name in ("judge", "other", None):
        with lm.using(name):
            Sampler(lm).generate([Request(prompts[0])], Sampling(1), 0, look)
    assert seen == [(["judge"], False), (["other"], False), ([], True)]  # the bare base samples from the very weights


def test_sampling_in_another_type(new_lm, prompts: list[list[int]], endless: list[list[int]]) -> None:
    lm, seen = new_lm("judge", noise=0.2), set()
    lm.sampling_dtype = torch.bfloat16
    before = weights(lm)
    with lm.using(None):
        results = Sampler(lm, 4).generate(
            [Request(ids) for ids in prompts],
            Sampling(2, 0),
            0,
            progress=lambda n: seen.update(p.dtype for p in lm.model.parameters()),
        )
    assert seen == {torch.bfloat16}
    after = weights(lm)
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert sum(row[0] == expected[0] for row, expected in zip(ids_of(results), endless, strict=True)) >= 5  # rounding aside


def test_a_failed_generation_puts_the_weights_back(new_lm, prompts: list[list[int]]) -> None:
    lm = new_lm("judge", noise=0.3)
    before = weights(lm)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sampler(lm).generate([Request(ids) for ids in prompts], GREEDY, 0, progress=stop)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items())


def test_adapter_samples_as_unmerged(
    new_lm, prompts: list[list[int]], endless: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = new_lm("judge", "other", noise=0.2)
    monkeypatch.setattr(lm, "end_ids", [])
    requests, found = [Request(ids) for ids in prompts], {}
    for name in ("judge", "other", None, "judge"):
        with lm.using(name):
            found[name] = ids_of(Sampler(lm, 3).generate(requests, GREEDY, seed=0))
            assert found[name] == reference(lm, prompts)  # the layers apart, and after whatever was merged before
    assert found["judge"] != found["other"]
    assert found[None] == endless != found["judge"]


@pytest.mark.parametrize("share", [True, False])
def test_what_a_row_samples_does_not_depend_on_what_runs_beside_it(share, tiny_lm: LanguageModel, prompts: list[list[int]]):
    requests = [Request(ids, 1 + at % 3) for at, ids in enumerate(prompts)]
    sampling = Sampling(10, 1.0)
    expected = Sampler(tiny_lm, 50).generate(requests, sampling, seed=4)
    assert Sampler(tiny_lm, 1, prefill_tokens=1, share=share).generate(requests, sampling, seed=4) == expected
    assert Sampler(tiny_lm, 3, share=share).generate(requests, sampling, seed=4) == expected
    assert Sampler(tiny_lm, 50).generate(requests, sampling, seed=5) != expected
    rows = [tuple(c.ids) for group in expected for c in group if len(group) > 1]
    assert len(set(rows)) > len(rows) / 2  # the rows of a group differ


def test_uniforms_are_uniform_and_streams_independent():
    streams_of = torch.tensor(streams(3, 400))
    drawn = torch.stack([uniforms(streams_of, torch.full_like(streams_of, at)) for at in range(200)], dim=1)  # [400, 200]
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 4000).square() / 4000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    for other in (drawn.roll(1, 0), drawn.roll(1, 1)):  # neighbours in stream and in position
        assert abs(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]) < 0.013  # 3.7 sigma
    assert streams(3, 5) == streams_of[:5].tolist() != streams(4, 5)


def test_out_of_memory_halves_the_rows(tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, caplog):
    requests, sampling = [Request(ids, 2) for ids in prompts], Sampling(5, 1.0)
    expected = Sampler(tiny_lm, 8).generate(requests, sampling, seed=0)
    run = Sampler._run

    caches = []

    def greedy_for_memory(self, slots, *rest):
        assert not any(cache.layers for cache in caches), "what did not fit must be free before less is tried"
        caches.append(slots.cache)
        if slots.slots > 4:
            raise torch.OutOfMemoryError("no memory")
        run(self, slots, *rest)

    monkeypatch.setattr(Sampler, "_run", greedy_for_memory)
    sampler = Sampler(tiny_lm, 8)
    assert sampler.generate(requests, sampling, seed=0) == expected and sampler.slots == 4
    assert "with 4 rows at once (--model.slots)" in caplog.text
    monkeypatch.setattr(Sampler, "_run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(ValueError, match="out of memory with one row"):
        Sampler(tiny_lm, 8).generate(requests, sampling, seed=0)


def test_a_number_beside_1_gives_a_token_that_has_probability():
    logits = torch.tensor([[0.0, 1.0, 2.0] + [float("-inf")] * 5])
    for number in (1 - 2**-53, 1 - 2**-25, 1.0):
        assert sample(logits, 1.0, torch.tensor([number], dtype=torch.float64)).tolist() == [2]
    assert sample(logits, 1.0, torch.tensor([0.0], dtype=torch.float64)).tolist() == [0]
