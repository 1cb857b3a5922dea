"""Batches and token log-probabilities, against the log-softmax of the full logits of single rows."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minisw.engine import logprobs
from minisw.engine.batches import Example, collate, micro_batches, right_padded, shared_layout
from minisw.engine.logprobs import gather_states, next_token_probabilities, target_logprobs, token_logprobs
from minisw.engine.model import LanguageModel


@pytest.fixture
def examples(prompts: list[list[int]]) -> list[Example]:
    rng = random.Random(0)
    return [Example(ids, [rng.randrange(4, 400) for _ in range(1 + 3 * i)]) for i, ids in enumerate(prompts)]


def naive(lm: LanguageModel, example: Example, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of one unpadded row, from all its logits at once."""
    logp = (lm.model(input_ids=torch.tensor([example.prompt + example.completion])).logits[0] / temperature).log_softmax(-1)
    logp = logp[len(example.prompt) - 1 : -1]
    return logp[torch.arange(len(logp)), torch.tensor(example.completion)], -(logp.exp() * logp).sum(-1)


def ours(lm: LanguageModel, examples: list[Example], temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    return token_logprobs(lm, collate(examples, lm.tokenizer.pad_token_id, lm.device), temperature)


def gradients(lm: LanguageModel, adapter: str) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in lm.adapter_parameters(adapter).items()}
    lm.model.zero_grad()
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_the_full_logits(temperature: float, tiny_lm: LanguageModel, examples: list[Example]) -> None:
    logp, entropy = ours(tiny_lm, examples, temperature)
    rows = [naive(tiny_lm, example, temperature) for example in examples]
    assert logp.shape == entropy.shape == (sum(len(example.completion) for example in examples),)
    torch.testing.assert_close(logp, torch.cat([row[0] for row in rows]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(entropy, torch.cat([row[1] for row in rows]), rtol=1e-4, atol=1e-4)
    assert logp.std() > 0.5  # not a uniform distribution


def test_independent_of_batching_and_order(tiny_lm: LanguageModel, examples: list[Example]) -> None:
    together, _ = ours(tiny_lm, examples)
    apart = torch.cat([ours(tiny_lm, [example])[0] for example in examples])
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)
    backwards, _ = ours(tiny_lm, examples[::-1])
    parts = backwards.split([len(example.completion) for example in examples[::-1]])
    torch.testing.assert_close(torch.cat(parts[::-1]), together, rtol=1e-4, atol=1e-4)


def test_padding_is_never_a_target_and_the_pad_token_may_be(tiny_lm: LanguageModel, examples: list[Example]) -> None:
    pad = tiny_lm.tokenizer.pad_token_id
    odd = Example(examples[0].prompt, [pad, 5, pad])
    batch = collate([odd, examples[-1]], pad, tiny_lm.device)
    assert batch.target.sum(1).tolist() == [3, len(examples[-1].completion)]
    logp, _ = token_logprobs(tiny_lm, batch)
    torch.testing.assert_close(logp[:3], naive(tiny_lm, odd)[0], rtol=1e-4, atol=1e-4)


def test_per_token_spreads_over_targets(examples: list[Example], tiny_lm: LanguageModel) -> None:
    batch = collate(examples[:3], 0, tiny_lm.device)
    assert batch.per_token([1.0, -2.0, 3.0]).tolist() == [1.0] * 1 + [-2.0] * 4 + [3.0] * 7


@pytest.mark.parametrize("rows", [0, 1, 5, 1000])
def test_gradients_and_values_in_small_blocks(
    rows: int, new_lm, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the block, values and gradients are the naive ones, and no more rows than one block have logits at a time."""
    lm = new_lm("judge", noise=0.3)
    weight = torch.linspace(-1, 2, sum(len(example.completion) for example in examples))
    expected = torch.cat([naive(lm, example, 0.8)[0] for example in examples])
    (expected * weight).sum().backward()
    expected_gradients = gradients(lm, "judge")

    logprobs.logit_scale(lm.causal_lm)  # a check of two tokens, once for each model
    head, seen = lm.causal_lm.get_output_embeddings(), []
    monkeypatch.setattr(logprobs, "BLOCK", rows * head.weight.shape[0])
    hook = head.register_forward_hook(lambda module, args, out: seen.append(out.numel() // out.shape[-1]))
    logp, entropy = ours(lm, examples, 0.8)
    (logp * weight).sum().backward()
    hook.remove()
    torch.testing.assert_close(logp, expected, rtol=1e-4, atol=1e-4)
    assert max(seen) <= max(1, rows)
    assert not entropy.requires_grad
    found = gradients(lm, "judge")
    for name, gradient in expected_gradients.items():
        assert gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def test_a_trained_head_is_refused(new_lm, examples: list[Example]) -> None:
    lm = new_lm("judge")
    lm.causal_lm.get_output_embeddings().weight.requires_grad_(True)
    with pytest.raises(ValueError, match="output head is trained"):
        ours(lm, examples)


def test_gradients_add_up_over_micro_batches(new_lm, examples: list[Example]) -> None:
    lm = new_lm("judge", noise=0.3)
    ours(lm, examples)[0].sum().backward()
    whole = gradients(lm, "judge")
    for example in examples:
        ours(lm, [example])[0].sum().backward()
    for name, gradient in gradients(lm, "judge").items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-3)


def test_autocast_is_used(new_lm, examples: list[Example]) -> None:
    lm = new_lm("judge", noise=0.3)
    exact = ours(lm, examples)[0]
    lm.autocast_dtype = torch.bfloat16
    mixed = ours(lm, examples)[0]
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).abs().mean() < 0.1


@pytest.fixture
def groups(prompts: list[list[int]]) -> list[Example]:
    """Three samples of every prompt, in mixed order."""
    rng = random.Random(2)
    found = [
        Example(ids, [rng.randrange(4, 400) for _ in range(rng.randint(1, 20))])
        for ids in prompts
        if len(ids) > 1
        for _ in range(3)
    ]
    rng.shuffle(found)
    return found


@pytest.mark.parametrize(("layout", "checkpointing"), [("prefix", False), ("packed", False), ("packed", True)])
def test_a_shared_prompt_changes_nothing(layout: str, checkpointing: bool, new_lm, groups: list[Example]) -> None:
    lm, pad = new_lm("judge", noise=0.3), 0
    groups = [groups[i] for i in micro_batches(groups, 10**9)[0]]
    weight = torch.linspace(-1, 2, sum(len(e.completion) for e in groups))
    results = []
    for lm.checkpointing, this in ((False, "plain"), (checkpointing, layout)):
        batch = collate(groups, pad, lm.device, this)
        assert (batch.prefix is not None, batch.packing is not None) == (this == "prefix", this == "packed")
        with lm.training():
            logp, entropy = token_logprobs(lm, batch)
            (logp * weight).sum().backward()
        results.append((logp.detach(), entropy, gradients(lm, "judge")))
    (plain, plain_entropy, plain_gradients), (shared, shared_entropy, shared_gradients) = results
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared_entropy, plain_entropy, rtol=1e-4, atol=1e-4)
    for name, gradient in plain_gradients.items():
        assert gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-3)


def test_packed_rows_in_any_order_keep_the_order_of_the_targets(tiny_lm: LanguageModel, groups: list[Example]) -> None:
    """Only neighbours share a row; with every second example moved to the end the targets still follow the examples."""
    mixed = groups[::2] + groups[1::2]
    plain, packed = (token_logprobs(tiny_lm, collate(mixed, 0, tiny_lm.device, layout))[0] for layout in ("plain", "packed"))
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-4)


def test_a_packed_row_by_hand() -> None:
    batch = collate([Example([5, 6, 7], [8]), Example([5, 6, 7], [9, 4])], 0, torch.device("cpu"), "packed")
    assert batch.ids.tolist() == [[5, 6, 7, 8, 7, 9, 4]]
    assert batch.target.tolist() == [[False, False, False, True, False, True, True]]
    assert batch.packing.positions.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    seen = ["1......", "11.....", "111....", "1111...", "11..1..", "11..11.", "11..111"]
    assert ["".join(".1"[int(x)] for x in row) for row in batch.packing.mask[0, 0]] == seen
    assert batch.per_token([1.0, -2.0]).tolist() == [1.0, -2.0, -2.0]


@pytest.mark.parametrize("layout", ["plain", "prefix", "packed"])
def test_given_tokens_are_read_but_are_no_targets(layout: str, tiny_lm: LanguageModel, groups: list[Example]) -> None:
    groups = [groups[i] for i in micro_batches(groups, 10**9)[0]]
    given = [tuple(range(1, len(e.completion), 3)) for e in groups]
    kept = [[i for i in range(len(e.completion)) if i % 3 != 1] for e in groups]
    whole = token_logprobs(tiny_lm, collate(groups, 0, tiny_lm.device, layout))[0].split([len(e.completion) for e in groups])
    marked = [Example(e.prompt, e.completion, own) for e, own in zip(groups, given, strict=True)]
    batch = collate(marked, 0, tiny_lm.device, layout)
    assert batch.counts == tuple(map(len, kept)) and sum(batch.counts) == batch.target.sum() < sum(map(len, whole))
    expected = torch.cat([own[own_kept] for own, own_kept in zip(whole, kept, strict=True)])
    torch.testing.assert_close(token_logprobs(tiny_lm, batch)[0], expected, rtol=1e-5, atol=1e-5)


def test_given_tokens_by_hand() -> None:
    examples = [Example([5, 6, 7], [8, 9, 4], (1,)), Example([5, 6, 7], [3, 2], (0,))]
    assert [e.targets() for e in examples] == [[True, False, True], [False, True]] and len(examples[0]) == 6
    packed = collate(examples, 0, torch.device("cpu"), "packed")
    assert packed.target.tolist() == [[False, False, False, True, False, True, False, False, True]]
    prefix, plain = (collate(examples, 0, torch.device("cpu"), layout) for layout in ("prefix", "plain"))
    assert prefix.ids.tolist() == [[7, 8, 9, 4], [7, 3, 2, 0]]
    assert prefix.target.tolist() == [[False, True, False, True], [False, False, True, False]]
    assert plain.target.tolist() == [[False] * 3 + [True, False, True], [False] * 4 + [True, False]]
    assert packed.counts == prefix.counts == plain.counts == (2, 1)


def test_layouts(new_lm) -> None:
    lm = new_lm("judge")
    assert shared_layout(lm) == "prefix"
    lm.checkpointing = True
    assert shared_layout(lm) == "packed"
    with pytest.raises(ValueError, match="unknown layout True"):
        collate([Example([5], [6])], 0, lm.device, True)


def model_of(family: str, **changes: object) -> LanguageModel:
    """A random model of a family, with a window of 8 positions if it has one."""
    sizes = dict(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = AutoConfig.for_model(family, **{**sizes, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    return LanguageModel(model, SimpleNamespace(eos_token_id=2, pad_token_id=0))


FAMILIES = {
    "llama": {}, "qwen3": {"head_dim": 8}, "gemma": {"head_dim": 8}, "phi3": {}, "granite": {}, "olmo2": {}, "smollm3": {},
    "gpt_neox": {}, "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4}, "falcon": {},
    "mistral": {"sliding_window": 8}, "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, "mamba": {"state_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_family_shares_prompts_correctly_or_not_at_all(family: str, checkpointing: bool, groups: list[Example]) -> None:
    lm = model_of(family, **FAMILIES[family])
    lm.checkpointing = checkpointing
    layout = shared_layout(lm)
    assert (layout == "plain") == (family in ("falcon", "mistral", "gemma3_text", "gpt_oss", "mamba"))
    with torch.no_grad():
        plain, shared = (token_logprobs(lm, collate(groups, 0, lm.device, each))[0] for each in ("plain", layout))
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-4)
    assert plain.std() > 0.5


def test_models_that_do_more_than_attention_share_nothing(new_lm) -> None:
    lm = new_lm()
    lm.causal_lm.config.layer_types = ["full_attention", "sliding_attention"]
    lm.causal_lm.config.sliding_window = 8
    assert shared_layout(lm) == "plain"
    lm = new_lm()
    lm.causal_lm.set_attn_implementation("eager")  # it would add a boolean mask to the scores
    assert shared_layout(lm) == "plain"


# --- the pure functions ----------------------------------------------------------------------------------------------------


def test_right_padded_by_hand() -> None:
    ids, target = right_padded([[5, 6, 7, 2], [8, 0]], [2, 1], 0)
    assert ids.tolist() == [[5, 6, 7, 2], [8, 0, 0, 0]]
    # the end token 2 is a target, and so is a token of a completion that equals the pad token 0
    assert target.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_gather_states_takes_the_position_before_each_target() -> None:
    ids, target = right_padded([[5, 6, 7, 2], [8, 9]], [2, 1], 0)
    hidden = 10.0 * torch.arange(2)[:, None, None] + torch.arange(4.0)[None, :, None].expand(2, 4, 3)  # 10 row + position
    states, targets = gather_states(hidden, ids, target)
    assert states.shape == (3, 3) and states[:, 0].tolist() == [1, 2, 10]
    assert targets.tolist() == [7, 2, 9]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 100])
def test_target_logprobs_against_the_definition(rows: int, temperature: float) -> None:
    torch.manual_seed(0)
    states, targets = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 6, 3, 3, 5])
    head = torch.nn.Linear(4, 7, bias=False).requires_grad_(False)
    weight = torch.tensor([1.0, -2.0, 3.0, 0.5, 2.0])
    logp = (states @ head.weight.T / temperature).log_softmax(-1)
    expected, entropies = logp[torch.arange(5), targets], -(logp.exp() * logp).sum(-1)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), states)
    found, entropy = target_logprobs(states, targets, head, temperature, block=7 * rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, entropies)
    assert (entropy > 0).all() and not entropy.requires_grad
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), states)[0], gradient)


# --- micro-batches ---------------------------------------------------------------------------------------------------------


def test_prompts_are_shared_only_where_it_pays(groups: list[Example], examples: list[Example]) -> None:
    assert collate(examples, 0, torch.device("cpu")).prefix is None
    batch = collate(groups, 0, torch.device("cpu"))
    longest = max(len(e.completion) for e in groups)
    assert batch.ids.shape == (len(groups), 1 + longest) and len(batch.prefix.ids) == len(groups) // 3
    one_token = [Example([5], [6, 7]), Example([5], [8])]
    assert collate(one_token, 0, torch.device("cpu")).prefix is None


@pytest.mark.parametrize("layout", ["plain", "prefix", "packed"])
def test_micro_batches_stay_within_their_tokens(layout: str, examples: list[Example], groups: list[Example]) -> None:
    for rows in (examples, groups, groups + examples):
        for tokens in (1, 60, 200, 600, 10**9):
            cut = micro_batches(rows, tokens, layout)
            assert sorted(i for batch in cut for i in batch) == list(range(len(rows)))
            for batch in cut:
                made = collate([rows[i] for i in batch], 0, torch.device("cpu"), layout)
                assert len(batch) == 1 or made.ids.numel() + (made.prefix.ids.numel() if made.prefix else 0) <= tokens
            if tokens == 1:
                assert len(cut) == len(rows)
        assert len(cut) == 1
    one = micro_batches(groups, 10**9, layout)[0]
    prompts = [tuple(groups[i].prompt) for i in one]
    assert all(prompts[n : n + 3] == [prompts[n]] * 3 for n in range(0, len(one), 3))  # a group stays together
    assert micro_batches([], 100, layout) == []


@pytest.mark.parametrize("layout", ["plain", "prefix", "packed"])
def test_micro_batches_use_their_tokens(layout: str, groups: list[Example]) -> None:
    """The first example of a batch would not have fitted into the batch before it."""
    cut = micro_batches(groups, 150, layout)
    assert len(cut) > 2
    for batch, following in zip(cut, cut[1:], strict=False):
        made = collate([groups[i] for i in [*batch, following[0]]], 0, torch.device("cpu"), layout)
        assert made.ids.numel() + (made.prefix.ids.numel() if made.prefix else 0) > 150


def test_sharing_makes_fewer_micro_batches(groups: list[Example]) -> None:
    plain, prefix, packed = (len(micro_batches(groups, 150, layout)) for layout in ("plain", "prefix", "packed"))
    assert prefix < plain and packed < plain


# --- next-token probabilities ----------------------------------------------------------------------------------------------


def test_next_token_probabilities(tiny_lm: LanguageModel, prompts: list[list[int]]) -> None:
    tokens = [7, 42, 100]
    with torch.no_grad():
        full = torch.stack([tiny_lm.model(torch.tensor([ids])).logits[0, -1].softmax(-1) for ids in prompts])
    expected = full[:, tokens] / full[:, tokens].sum(-1, keepdim=True)
    for micro_tokens in (1, 40, 10_000):
        found = next_token_probabilities(tiny_lm, prompts, tokens, micro_tokens)
        assert found.shape == (len(prompts), 3)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(prompts)))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    every = next_token_probabilities(tiny_lm, prompts, range(full.shape[1]), 10_000)
    torch.testing.assert_close(every, full, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"])
def test_scoring_continues_with_smaller_batches_when_memory_runs_out(
    message: str, tiny_lm: LanguageModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    expected, sizes, score = next_token_probabilities(tiny_lm, prompts, [7, 42], 10_000), [], logprobs._next_token

    def limited(lm, prompts, tokens):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise RuntimeError(message)
        return score(lm, prompts, tokens)

    monkeypatch.setattr(logprobs, "_next_token", limited)
    with caplog.at_level(logging.WARNING, logger="minisw"):
        found = next_token_probabilities(tiny_lm, prompts, [7, 42], 10_000)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert sizes[0] == len(prompts) and sum(size for size in sizes if size <= 2) == len(prompts)
    assert "scoring continues with batches of" in caplog.text


def test_scoring_explains_a_prompt_that_does_not_fit(tiny_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(logprobs, "_next_token", fail)
    error: RuntimeError = torch.OutOfMemoryError("no memory")
    with pytest.raises(ValueError, match="one prompt of 3 tokens: give --model.four-bit") as caught:
        next_token_probabilities(tiny_lm, [[5, 6, 7], [5, 6, 8]], [7, 42], 100)
    assert "\n" not in str(caught.value)
    error = RuntimeError("another error")
    with pytest.raises(RuntimeError, match="another error"):
        next_token_probabilities(tiny_lm, [[5, 6, 7], [5, 6, 8]], [7, 42], 100)
