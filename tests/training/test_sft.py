"""Supervised fine-tuning: it learns, micro-batches change nothing, and a killed training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minisw.engine.logprobs import Example
from minisw.engine.model import LanguageModel
from minisw.recipe import Training
from minisw.training import checkpoints
from minisw.training.sft import _step, train_sft


@pytest.fixture
def examples(tiny_lm: LanguageModel) -> list[Example]:
    """Sums in long-hand, with replies of different lengths."""
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


def naive_loss(lm: LanguageModel, examples: list[Example]) -> float:
    """Cross-entropy of the completions, over the number of their tokens."""
    total = 0.0
    with torch.no_grad():
        for e in examples:
            logits = lm.model(torch.tensor([e.prompt + e.completion])).logits[0, len(e.prompt) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(e.completion), reduction="sum").item()
    return total / sum(len(e.completion) for e in examples)


def test_loss_falls(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", rank=8)
    start, base = naive_loss(lm, examples), {name: p.clone() for name, p in lm.model.named_parameters() if "lora_" not in name}
    metrics = train_sft(lm, "policy", examples, Training(lr=2e-2, epochs=8, batch=5), 4096, seed=0)
    assert len(metrics) == 8 * 4 and [m["step"] for m in metrics] == list(range(1, 33))
    assert sum(m["loss"] for m in metrics[-4:]) / 4 < 0.5 * start
    assert naive_loss(lm, examples) < 0.5 * start
    assert all(torch.equal(p, base[name]) for name, p in lm.model.named_parameters() if name in base)


def test_metrics_of_a_step(new_lm, examples: list[Example]) -> None:
    lm = new_lm("policy", noise=0.1)
    expected = naive_loss(lm, examples)
    [only] = train_sft(lm, "policy", examples, Training(lr=1e-3, epochs=1, batch=100), 300, seed=0)
    assert only["loss"] == pytest.approx(expected, rel=1e-4)
    assert only["num_tokens"] == sum(len(e.completion) for e in examples)


def test_learning_rate_rises_then_falls(new_lm, examples: list[Example]) -> None:
    metrics = train_sft(new_lm("policy"), "policy", examples, Training(lr=1.0e-3, epochs=20, batch=20), 4096, seed=0)
    rates = [m["lr"] for m in metrics]
    peak = rates.index(max(rates))
    assert peak == 1  # a tenth of 20 steps
    assert rates[0] == pytest.approx(0.5e-3) and max(rates) == pytest.approx(1e-3 * (1 - 1 / 20))
    assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False)) and 0 < rates[-1] < 1e-4


def test_micro_batches_change_nothing(new_lm, examples: list[Example]) -> None:
    found = []
    for micro_tokens in (1, 60, 10**6):
        lm = new_lm("policy", noise=0.3)
        before, parameters = adapter(lm), lm.adapter_parameters("policy")
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        # plain gradient descent, so that a weight moves as far as its gradient says; Adam would blow up rounding
        loss = _step(lm, examples, torch.optim.SGD(parameters.values(), lr=1.0), micro_tokens)
        found.append((loss, adapter(lm)))
        assert not equal(adapter(lm), before)
        assert all(p.grad is None for p in parameters.values())
    for loss, weights in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for key, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("killed_in", ["on_epoch", "progress"])
def test_resumed_equals_uninterrupted(killed_in: str, new_lm, examples: list[Example], tmp_path: Path) -> None:
    knobs = Training(lr=1e-2, epochs=4, batch=6)
    lm = new_lm("policy")
    expected = train_sft(lm, "policy", examples, knobs, 200, seed=5)
    whole = adapter(lm)

    def kill_on_epoch(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    def kill_in_progress(_: int, metrics: dict) -> None:
        if metrics["step"] == 8:  # in the middle of the third epoch
            raise KeyboardInterrupt

    kill = {"on_epoch": kill_on_epoch} if killed_in == "on_epoch" else {"progress": kill_in_progress}
    path = tmp_path / "sft.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train_sft(new_lm("policy"), "policy", examples, knobs, 200, seed=5, checkpoint=path, **kill)
    assert path.exists()

    lm, epochs, steps = new_lm("policy"), [], []
    metrics = train_sft(
        lm,
        "policy",
        examples,
        knobs,
        200,
        seed=5,
        checkpoint=path,
        on_epoch=epochs.append,
        progress=lambda n, m: steps.append(m["step"]),
    )
    assert epochs == [3, 4] and steps == [7, 8, 9, 10, 11, 12]  # it went on, it did not start anew
    assert metrics == expected
    assert equal(adapter(lm), whole)

    lm = new_lm("policy")  # and once more when all is done: nothing is trained
    assert train_sft(lm, "policy", examples, knobs, 200, seed=5, checkpoint=path, on_epoch=epochs.append) == expected
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged .* remove it"):
        train_sft(lm, "policy", examples, knobs, 200, seed=5, checkpoint=path)
    assert epochs == [3, 4] and equal(adapter(lm), whole)


def test_seed_decides_the_order(new_lm, examples: list[Example]) -> None:
    knobs = Training(lr=1e-2, epochs=1, batch=4)
    losses = [[m["loss"] for m in train_sft(new_lm("policy"), "policy", examples, knobs, 200, seed=seed)] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_only_its_own_adapter_is_trained(new_lm, examples: list[Example]) -> None:
    lm = new_lm("judge", "policy")
    other = adapter(lm, "judge")
    train_sft(lm, "policy", examples, Training(lr=1e-2, epochs=1, batch=10), 4096, seed=0)
    assert equal(adapter(lm, "judge"), other)
    assert lm.model.active_adapter == "judge"
    assert not any(p.requires_grad for p in lm.adapter_parameters("policy").values())


def test_no_examples(new_lm) -> None:
    with pytest.raises(ValueError, match="no examples"):
        train_sft(new_lm("policy"), "policy", [], Training(), 100, seed=0)


def test_checkpoint_of_another_adapter(new_lm, examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "one.checkpoint"
    train_sft(new_lm("policy"), "policy", examples, Training(epochs=1, batch=20), 4096, seed=0, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another adapter"):
        train_sft(new_lm("judge"), "judge", examples, Training(epochs=1, batch=20), 4096, seed=0, checkpoint=path)


def test_checkpoint_is_written_whole(new_lm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, path = new_lm("policy"), tmp_path / "one.checkpoint"
    parameters = lm.adapter_parameters("policy")
    optimizer = torch.optim.AdamW(parameters.values())
    checkpoints.save(path, parameters, optimizer, 1, [{"loss": 0.1}])
    old = path.read_bytes()

    def fail(tensors: dict, file: Path, metadata: dict) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save_file", fail)
        checkpoints.save(path, parameters, optimizer, 2, [])
    assert path.read_bytes() == old
    assert checkpoints.load(path, parameters, optimizer) == (1, [{"loss": 0.1}])
    assert checkpoints.load(tmp_path / "none", parameters, optimizer) == (0, [])
