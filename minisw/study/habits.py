"""The control: what GRPO and RS-FT make of a habit, by its share in the base. Where it is absent, does RL invent it?"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from minisw.cpu import fast_bf16
from minisw.judges.rejection_sampled import REJECTION_SAMPLED
from minisw.judges.stepwiser import STEPWISER
from minisw.problems.arithmetic import pretraining
from minisw.study.base import Arm, Change, Study, with_knobs

REDO_SHARES = (0.0, 0.02, 0.06, 0.18, 0.40)
HABIT_TOKENS = 2_000_000


def _base_with(redo: float) -> Change:
    return lambda recipe: with_knobs("model", name=f"redo-{redo:g}")(recipe)


def habit_shares(redo: float) -> dict[str, float]:
    """The habits' shares when redo has the share `redo`; the others keep their ratio."""
    rest = 1 - redo
    return {"glance": rest * 0.55 / 0.82, "equation": rest * 0.27 / 0.82, "redo": redo}


def make_bases(folder: Path, console: Console) -> None:
    """Pretrain a base for each share of redo from the model after the first stream; finished ones are kept."""
    start = pretraining.first_stream_model()
    for redo in REDO_SHARES:
        out = folder / f"redo-{redo:g}"
        if not pretraining.finished(out):
            console.print(f"pretraining the base with redo at {redo:.0%}")
            options = {"second_tokens": HABIT_TOKENS, "compile": fast_bf16(), "overwrite": True}
            pretraining.train(pretraining.Pretraining(out, start=start, **options, **habit_shares(redo)))


HABITS = Study(
    "habits",
    "What GRPO and RS-FT make of a habit, by its share in the base",
    tuple(Arm(f"redo-{redo:g}", f"redo at {redo:.0%}", _base_with(redo)) for redo in REDO_SHARES),
    judges=("untrained", REJECTION_SAMPLED, STEPWISER),
    make_models=make_bases,
)
