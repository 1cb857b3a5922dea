"""The warnings of a training that stalls: each at the right step, each once."""

from __future__ import annotations

import pytest
import torch

from minisw.training.monitor import warn_if_stalled


def warnings(
    tied: list[float], lengths: list[float] | None = None, positive: list[float] | None = None, b: float = 1.0
) -> list[tuple[int, str]]:
    """(step, text) of every warning along a training with these metrics."""
    texts: list[tuple[int, str]] = []
    history: list[dict] = []
    parameters = {
        f"layer.lora_{side}.judge.weight": torch.nn.Parameter(torch.full((2,), value)) for side, value in (("A", 1.0), ("B", b))
    }
    for step, share in enumerate(tied):
        metrics = {"frac_reward_zero_std": share, "completions/mean_length": lengths[step] if lengths else 50.0}
        history.append(metrics | ({"verdicts/positive": positive[step]} if positive else {}))
        warn_if_stalled(history, parameters, lambda text: texts.append((len(history), text)))
    return texts


def test_no_warning_while_it_learns() -> None:
    assert warnings([0.5] * 20) == []
    assert warnings([1.0] * 4 + [0.95] + [1.0] * 4) == []
    assert warnings([0.0] * 9, lengths=[40.0, 41.0, 30.0, 20.0, 11.0, 10.0, 12.0, 20.0, 60.0]) == []
    assert warnings([0.5] * 9, positive=[0.05, 0.95, 0.5, 0.9, 0.05, 0.06, 0.95, 0.3, 0.7]) == []


def test_groups_with_equal_rewards() -> None:
    [(step, text)] = warnings([0.2] * 3 + [1.0] * 20)
    assert step == 8 and "equal rewards" in text
    assert [step for step, _ in warnings([0.96] * 12)] == [5]


def test_an_adapter_without_gradient() -> None:
    [(step, text)] = warnings([0.2] * 12, b=0.0)
    assert step == 3 and "LoRA B" in text


def test_analyses_that_shrink() -> None:
    [(step, text)] = warnings([0.2] * 12, lengths=[40.0] * 4 + [9.0] * 8)
    assert step == 5 and "shrunk from 40 tokens to 9" in text


@pytest.mark.parametrize(("share", "percent"), [(0.98, "98%"), (0.04, "4%")])
def test_verdicts_that_are_all_the_same(share: float, percent: str) -> None:
    [(step, text)] = warnings([0.2] * 12, positive=[0.5] * 3 + [share] * 9)
    assert step == 8 and f"{percent} of the replies say Positive" in text
    assert warnings([0.2] * 12, positive=[share] * 4 + [0.5] + [share] * 4 + [0.5] * 3) == []  # never for 5 steps


def test_verdicts_that_jump_from_one_side_to_the_other() -> None:
    assert [step for step, _ in warnings([0.2] * 8, positive=[0.99, 0.01] * 4)] == [5]


def test_each_cause_is_reported_once_though_it_comes_and_goes() -> None:
    assert len(warnings([0.2] * 8, lengths=[40.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0])) == 1
    assert len(warnings([1.0] * 6 + [0.5] + [1.0] * 6)) == 1
    assert len(warnings([0.5] * 13, positive=[1.0] * 6 + [0.5] + [1.0] * 6)) == 1


def test_all_causes_together() -> None:
    texts = [text for _, text in warnings([1.0] * 9, lengths=[40.0] + [5.0] * 8, positive=[1.0] * 9, b=0.0)]
    assert len(texts) == 4
