"""Supervised fine-tuning: its loss, its order, what it trains, and that it resumes with the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from minisw.engine.logprobs import Example
from minisw.engine.model import LanguageModel
from minisw.recipe import Training
from minisw.training import sft
from minisw.training.monitor import Monitor
from minisw.training.sft import learning_rate, train_sft, update
from minisw.training.step import trainable


@pytest.fixture
def examples(tiny_lm: LanguageModel) -> list[Example]:
    """20 sums with replies of different lengths, each closed by the end token."""
    end = tiny_lm.tokenizer.eos_token_id
    return [
        Example(tiny_lm.chat(f"Work out {a}+{b}."), [*tiny_lm.encode("So " * (a % 4) + f"{a}+{b}={a + b}."), end])
        for a in range(3, 8)
        for b in range(2, 6)
    ]


def adapter(lm: LanguageModel, name: str = "policy") -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in lm.adapter_parameters(name).items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def token_losses(lm: LanguageModel, example: Example) -> torch.Tensor:
    """-log p of every completion token, one example at a time."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([example.prompt + example.completion])).logits[0, len(example.prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(example.completion), reduction="none")


def naive_loss(lm: LanguageModel, examples: Sequence[Example]) -> float:
    """Mean over all completion tokens of all examples: long completions weigh more."""
    return torch.cat([token_losses(lm, e) for e in examples]).mean().item()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """The examples of every step, in order; the steps themselves are skipped."""
    batches: list[list[Example]] = []

    def skip(lm: LanguageModel, batch: list[Example], *_: object) -> dict:
        batches.append(batch)
        return {"loss": 0.0}

    monkeypatch.setattr(sft, "update", skip)
    return batches


# --- one step ------------------------------------------------------------------------------------------------------------


def test_loss_and_metrics_of_a_step(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", noise=0.1)
    expected = naive_loss(lm, examples)
    [only] = train_sft(lm, "policy", examples, Training(lr=1e-3, epochs=1, batch=100), 300, seed=0)
    assert only["loss"] == pytest.approx(expected, rel=1e-4)
    assert only["completions/num_tokens"] == sum(len(e.completion) for e in examples)
    assert only["step"] == 1 and only["grad_norm"] > 0 and only["overflows"] == 0
    mean_of_means = sum(naive_loss(lm, [e]) for e in examples) / len(examples)
    assert only["loss"] != pytest.approx(mean_of_means, rel=1e-3)


def test_given_tokens_are_not_learned(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", noise=0.1)
    marked = [Example(e.prompt, e.completion, (0, 1)) for e in examples]
    with lm.using("policy"):
        expected = torch.cat([token_losses(lm, e)[2:] for e in examples])
    [only] = train_sft(lm, "policy", marked, Training(lr=1e-3, epochs=1, batch=100), 300, seed=0)
    assert only["loss"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert only["completions/num_tokens"] == len(expected)


@pytest.mark.slow
def test_micro_batches_change_nothing(new_lm, examples: list[Example]) -> None:
    """Plain gradient descent, so that a weight moves as far as its gradient says; Adam would enlarge rounding."""
    results = []
    for micro_tokens in (1, 60, 10**6):
        lm = new_lm("policy", noise=0.3)
        before, parameters = adapter(lm), list(lm.adapter_parameters("policy").values())
        with trainable(parameters):
            metrics = update(lm, examples, torch.optim.SGD(parameters, lr=1.0), micro_tokens)
        results.append((metrics["loss"], adapter(lm)))
        assert not equal(adapter(lm), before)
        assert all(p.grad is None for p in parameters)
    for loss, weights in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for key, weight in weights.items():
            torch.testing.assert_close(weight, results[0][1][key], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_end_token_is_learnt(new_lm, examples: list[Example]) -> None:
    """And the first token of the completion; the prompt is not."""
    lm = new_lm("policy", rank=8)
    before = [token_losses(lm, e) for e in examples]
    flat_prompt = [Example(e.prompt[:3], e.prompt[3:]) for e in examples]
    train_sft(lm, "policy", examples, Training(lr=2e-2, epochs=6, batch=5), 4096, seed=0)
    after = [token_losses(lm, e) for e in examples]
    for place in (-1, 0):
        ends = [[losses[place].item() for losses in some] for some in (before, after)]
        assert sum(ends[1]) < 0.5 * sum(ends[0]), place
    assert naive_loss(lm, flat_prompt) > 0.7 * naive_loss(new_lm("policy"), flat_prompt)


@pytest.mark.slow
def test_the_end_token_counts_in_the_loss(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", noise=0.2)
    parameters = list(lm.adapter_parameters("policy").values())
    bare = [Example(e.prompt, e.completion[:-1]) for e in examples]
    assert abs(naive_loss(lm, examples) - naive_loss(lm, bare)) > 0.05
    with trainable(parameters):
        for some in (examples, bare):
            expected = naive_loss(lm, some)
            assert update(lm, some, torch.optim.SGD(parameters, lr=0.0), 200)["loss"] == pytest.approx(expected, rel=1e-4)


# --- epochs --------------------------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_example_in_another_order(seen, new_lm, examples: list[Example]) -> None:
    train_sft(new_lm("policy"), "policy", examples, Training(epochs=4, batch=5), 4096, seed=0)
    assert [len(batch) for batch in seen] == [5] * 16
    epochs = [[examples.index(e) for batch in seen[at : at + 4] for e in batch] for at in range(0, 16, 4)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert all(one != two for one, two in itertools.combinations([*epochs, list(range(20))], 2))


def test_examples_that_fill_no_batch_change_from_epoch_to_epoch(seen, new_lm, examples: list[Example]) -> None:
    train_sft(new_lm("policy"), "policy", examples, Training(epochs=6, batch=8), 4096, seed=0)
    assert [len(batch) for batch in seen] == [8] * 12
    left_out = [set(range(20)) - {examples.index(e) for batch in seen[at : at + 2] for e in batch} for at in range(0, 12, 2)]
    assert all(len(some) == 4 for some in left_out) and len(set().union(*left_out)) > 8


def test_the_seed_decides_the_order(seen, new_lm, examples: list[Example]) -> None:
    for seed in (1, 1, 2):
        train_sft(new_lm("policy"), "policy", examples, Training(epochs=1, batch=4), 200, seed=seed)
    assert seen[:5] == seen[5:10] != seen[10:]


def test_a_batch_larger_than_the_examples_takes_them_all(seen, new_lm, examples: list[Example]) -> None:
    train_sft(new_lm("policy"), "policy", examples[:3], Training(epochs=2, batch=32), 200, seed=0)
    assert [len(batch) for batch in seen] == [3, 3]


@pytest.mark.slow
def test_learning_rate_rises_then_falls(new_lm, examples: list[Example]) -> None:
    history = train_sft(new_lm("policy"), "policy", examples, Training(lr=1e-3, epochs=20, batch=20), 4096, seed=0)
    rates = [m["lr"] for m in history]
    assert rates == [learning_rate(1e-3, step, 20) for step in range(20)]
    peak = rates.index(max(rates))
    assert peak == 1  # a tenth of 20 steps
    assert rates[0] == pytest.approx(0.5e-3) and max(rates) == pytest.approx(1e-3 * (1 - 1 / 20))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:])) and rates[-1] == pytest.approx(1e-3 / 20)


def test_the_learning_rate_reaches_the_optimizer(new_lm, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def skip(lm: LanguageModel, batch: list[Example], optimizer: torch.optim.Optimizer, *_: object) -> dict:
        rates.append(optimizer.param_groups[0]["lr"])
        return {"loss": 0.0}

    monkeypatch.setattr(sft, "update", skip)
    history = train_sft(new_lm("policy"), "policy", examples, Training(lr=1e-3, epochs=2, batch=5), 4096, seed=0)
    assert rates == [m["lr"] for m in history] and len(set(rates)) == 8


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_falls_and_the_base_stays(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", rank=8)
    start, base = naive_loss(lm, examples), {name: p.clone() for name, p in lm.model.named_parameters() if "lora_" not in name}
    history = train_sft(lm, "policy", examples, Training(lr=2e-2, epochs=8, batch=5), 4096, seed=0)
    assert [m["step"] for m in history] == list(range(1, 33))
    assert sum(m["loss"] for m in history[-4:]) / 4 < 0.5 * start
    assert naive_loss(lm, examples) < 0.5 * start
    assert all(torch.equal(p, base[name]) for name, p in lm.model.named_parameters() if name in base)


def test_only_its_own_adapter_is_trained(new_lm, examples: list[Example]) -> None:
    lm = new_lm("judge", "policy")
    other, own = adapter(lm, "judge"), adapter(lm)
    train_sft(lm, "policy", examples, Training(lr=1e-2, epochs=1, batch=10), 4096, seed=0)
    assert equal(adapter(lm, "judge"), other) and not equal(adapter(lm), own)
    assert lm.model.active_adapter == "judge"
    assert not any(p.requires_grad for p in lm.adapter_parameters("policy").values())


def test_training_ends_where_on_epoch_says_so_and_stays_ended(new_lm, examples: list[Example], tmp_path: Path) -> None:
    epochs: list[int] = []

    def stop_after_two(epoch: int) -> bool:
        epochs.append(epoch)
        return epoch == 2

    lm, monitor = new_lm("policy"), Monitor(tmp_path / "sft.checkpoint", on_epoch=stop_after_two)
    for _ in range(2):  # the second time it only restores the state
        history = train_sft(lm, "policy", examples, Training(epochs=5, batch=10), 4096, 0, monitor)
        assert epochs == [1, 2] and [m["step"] for m in history] == [1, 2, 3, 4]


def test_no_examples(new_lm) -> None:
    with pytest.raises(ValueError, match="no examples"):
        train_sft(new_lm("policy"), "policy", [], Training(), 100, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["on_epoch", "progress"])
def test_resumed_equals_uninterrupted(killed_in: str, new_lm, examples: list[Example], tmp_path: Path) -> None:
    training, path = Training(lr=1e-2, epochs=4, batch=6), tmp_path / "sft.checkpoint"

    def train(
        lm: LanguageModel, checkpoint: Path | None, progress: Callable | None = None, on_epoch: Callable | None = None
    ) -> list[dict]:
        return train_sft(lm, "policy", examples, training, 200, 5, Monitor(checkpoint, progress=progress, on_epoch=on_epoch))

    def kill_on_epoch(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    def kill_in_progress(_: int, metrics: dict) -> None:
        if metrics["step"] == 8:  # in the middle of the third epoch
            raise KeyboardInterrupt

    lm = new_lm("policy")
    expected = train(lm, None)
    whole = adapter(lm)
    kill = {"on_epoch": kill_on_epoch} if killed_in == "on_epoch" else {"progress": kill_in_progress}
    with pytest.raises(KeyboardInterrupt):
        train(new_lm("policy"), path, **kill)
    assert path.exists()

    lm, epochs, steps = new_lm("policy"), [], []
    history = train(lm, path, lambda n, m: steps.append(m["step"]), epochs.append)
    assert epochs == [3, 4] and steps == [7, 8, 9, 10, 11, 12]  # it resumed, it did not begin anew
    assert history == expected
    assert equal(adapter(lm), whole)

    lm = new_lm("policy")  # once more, now that all is done: nothing is trained
    assert train(lm, path, on_epoch=epochs.append) == expected
    assert epochs == [3, 4] and equal(adapter(lm), whole)
