"""Token log-probabilities in blocks, against the log-softmax of the full logits."""

from __future__ import annotations

import random

import pytest
import torch

from minisw.engine import logprobs
from minisw.engine.logprobs import Example, collate, micro_batches, next_token_probabilities, token_logprobs
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


def test_a_shared_prompt_changes_nothing(new_lm, groups: list[Example]) -> None:
    lm, pad = new_lm("judge", noise=0.3), 0
    weight = torch.linspace(-1, 2, sum(len(e.completion) for e in groups))
    found = []
    for share in (False, True):
        batch = collate(groups, pad, lm.device, share)
        assert (batch.prefix is not None) == share
        logp, entropy = token_logprobs(lm, batch)
        (logp * weight).sum().backward()
        found.append((logp.detach(), entropy, gradients(lm, "judge")))
    (plain, plain_entropy, plain_gradients), (shared, shared_entropy, shared_gradients) = found
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared_entropy, plain_entropy, rtol=1e-4, atol=1e-4)
    for name, gradient in plain_gradients.items():
        assert gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-3)


def test_prompts_are_shared_only_where_it_pays(groups: list[Example], examples: list[Example]) -> None:
    assert collate(examples, 0, torch.device("cpu")).prefix is None
    batch = collate(groups, 0, torch.device("cpu"))
    longest = max(len(e.completion) for e in groups)
    assert batch.ids.shape == (len(groups), 1 + longest) and len(batch.prefix.ids) == len(groups) // 3
    one_token = [Example([5], [6, 7]), Example([5], [8])]
    assert collate(one_token, 0, torch.device("cpu")).prefix is None


def test_micro_batches(examples: list[Example], groups: list[Example]) -> None:
    for rows in (examples, groups):
        for tokens in (1, 60, 200, 10**9):
            cut = micro_batches(rows, tokens)
            assert sorted(i for batch in cut for i in batch) == list(range(len(rows)))
            for batch in cut:
                made = collate([rows[i] for i in batch], 0, torch.device("cpu"))
                prefix = made.prefix.ids.numel() if made.prefix else 0
                assert len(batch) == 1 or made.ids.numel() + prefix <= tokens + len(batch)
        assert len(cut) == 1
    one = micro_batches(groups, 10**9)[0]
    prompts = [tuple(groups[i].prompt) for i in one]
    assert all(prompts[n : n + 3] == [prompts[n]] * 3 for n in range(0, len(one), 3))  # a group stays together
    assert micro_batches([], 100) == []


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
