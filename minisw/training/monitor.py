"""What a training reports while it runs (progress, warnings when it stalls), and where it saves its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

WINDOW = 5  # successive steps that must be alike before a warning, so that one unlucky batch does not cause it


@dataclass(frozen=True)
class Monitor:
    """Where a training saves its state and whom it reports to."""

    checkpoint: Path | None = None  # file for saving and resuming; None: the training cannot be resumed
    save_every: int = 5  # GRPO steps between two checkpoints (SFT saves after every epoch)
    progress: Callable[[int, dict], None] | None = None  # called after every step with (1, metrics of the step)
    warn: Callable[[str], None] = print  # called with one line of text
    on_epoch: Callable[[int], bool | None] | None = None  # called after every SFT epoch with their number; True ends the training
    measures: Mapping[str, Callable[[str], float]] = field(default_factory=dict)
    # GRPO logs the mean of each over the sampled replies (their texts), under its name


DEFAULT_MONITOR = Monitor()  # no checkpoint, no progress; warnings are printed


def warn_if_stalled(history: Sequence[dict], parameters: dict[str, torch.nn.Parameter], warn: Callable[[str], None]) -> None:
    """Warn when GRPO stalls; `history` holds the metrics of every step so far, and is checked after every step.

    Four causes, each reported once, at the step where it first appears: groups have equal rewards, LoRA's matrix B stays zero,
    analyses shrink, and (if `verdicts/positive` is logged) nearly all replies have the same verdict.
    """
    step = len(history)
    lengths = [metrics["completions/mean_length"] for metrics in history]
    tied = [metrics["frac_reward_zero_std"] > 0.95 for metrics in history]
    one_sided = [not 0.05 <= metrics.get("verdicts/positive", 0.5) <= 0.95 for metrics in history]
    if _first_time(_lasting(tied)):
        warn(
            f"GRPO step {step}: for {WINDOW} steps over 95% of the groups had equal rewards, so almost nothing is learnt; "
            "raise judge.group or judge.temperature, or check the labels"
        )
    if step == 3 and all(not p.any() for name, p in parameters.items() if "lora_B" in name):
        warn("GRPO step 3: LoRA B is still zero: no gradient reaches the adapter")
    if _first_time([length < 0.25 * lengths[0] for length in lengths]):
        warn(
            f"GRPO step {step}: the analyses have shrunk from {lengths[0]:.0f} tokens to {lengths[-1]:.0f}: "
            "the judge may have stopped reasoning"
        )
    if _first_time(_lasting(one_sided)):
        warn(
            f"GRPO step {step}: {history[-1]['verdicts/positive']:.0%} of the replies say Positive, and for {WINDOW} steps it "
            "was under 5% or over 95%: the judge gives nearly every step the same verdict; check that the labels are balanced"
        )


def _lasting(flags: Sequence[bool]) -> list[bool]:
    """For every step, whether the flag was set at it and at the `WINDOW` - 1 steps before it."""
    return [end >= WINDOW and all(flags[end - WINDOW : end]) for end in range(1, len(flags) + 1)]


def _first_time(flags: Sequence[bool]) -> bool:
    """Whether the last flag is the first one that is set."""
    return flags[-1] and not any(flags[:-1])
