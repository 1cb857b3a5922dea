"""How judges that give scores are tuned: request, learning rate, epochs and threshold, on the run's validation labels.

    1. train with each request at the first learning rate, until validation AUC has not improved for `patience` epochs
    2. train with the better request and the other learning rates of the grid
    3. while the best rate is the largest or smallest tried, try twice or half of it
    4. keep the state with the best AUC, and the threshold with the best first-error F1 of that state

All such judges are tuned by the same knobs (`ClassifierKnobs`), so that none has had more tries than another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minisw.engine.model import copy_adapter
from minisw.evaluate import stats
from minisw.evaluate.metrics import balanced_accuracy, best_threshold, by_solution
from minisw.judges.base import JudgeTrainer
from minisw.recipe import ClassifierKnobs
from minisw.records import LabelledStep
from minisw.training import checkpoints
from minisw.training.monitor import Monitor

TRIAL = "trial"  # the adapter in training; the best state so far is in the judge's own


@dataclass(frozen=True)
class Method:
    """A judge that gives scores, as `tune` sees it.

    `prepare(adapter)` gives a fresh adapter what it has beside its LoRA weights, such as a head. `train(request, lr, monitor)`
    trains adapter `TRIAL`. `measure(request)` gives the scores of that adapter for the validation labels, as a row's figures:
    at least `auc` and `threshold`.
    """

    name: str  # its adapter
    use: str  # names its seeds, and it in messages
    examples: int  # in an epoch, for the progress line
    train: Callable[[str, float, Monitor], object]
    measure: Callable[[str], dict]
    prepare: Callable[[str], None] = lambda adapter: None


def require_labels(trainer: JudgeTrainer, use: str) -> None:
    """Raise ValueError without training labels or validation labels."""
    if not trainer.validation or not trainer.steps:
        raise ValueError(
            f"the {use} needs training and validation labels, and there are {len(trainer.steps)} and "
            f"{len(trainer.validation)}: annotate more problems"
        )


def figures(validation: Sequence[LabelledStep], scores: Sequence[float]) -> dict[str, float]:
    """AUC, the threshold with the best first-error F1, that F1, and balanced accuracy at 0.5, of scores of labelled steps."""
    labels = [step.label for step in validation]
    threshold, f1 = best_threshold(*by_solution(validation, scores))
    accuracy = balanced_accuracy(labels, [score >= 0.5 for score in scores])
    return {"auc": stats.auc(scores, labels), "threshold": threshold, "f1": f1, "balanced_accuracy": accuracy}


# --- pure functions of the rows ------------------------------------------------------------------------------------------


def best_row(rows: Sequence[dict]) -> dict:
    """The row with the best AUC, the first of equals. A row is a `prompt` and a learning rate `lr` after some `epochs`."""
    return max(rows, key=lambda row: row["auc"])


def should_stop(aucs: Sequence[float], patience: int) -> bool:
    """Whether the best of the AUCs after 1, 2, … epochs is `patience` epochs old or older."""
    return len(aucs) - 1 - aucs.index(max(aucs)) >= patience


def next_setting(rows: Sequence[dict], knobs: ClassifierKnobs) -> tuple[str, float] | None:
    """Request and learning rate to train next, given the rows of the finished ones; None when the sweep is over.

    First each request at the first rate; then, with the better request, the grid, and twice the largest or half the smallest
    rate while that one is the best, at most `max_lrs` in all.
    """
    finished = {(row["prompt"], row["lr"]) for row in rows}
    for prompt in knobs.prompts:
        if (prompt, knobs.lrs[0]) not in finished:
            return prompt, knobs.lrs[0]
    best = best_row(rows)
    rates = {lr for prompt, lr in finished if prompt == best["prompt"]}
    for lr in knobs.lrs:
        if lr not in rates:
            return best["prompt"], lr
    if len(rates) >= knobs.max_lrs:
        return None
    lr = best["lr"]
    following = 2 * lr if lr == max(rates) else lr / 2 if lr == min(rates) else None
    return (best["prompt"], following) if following else None


def has_turned(rows: Sequence[dict]) -> bool:
    """Whether the best row lies inside the grid: a lower and a higher rate and a later epoch were tried, and were no better."""
    best = best_row(rows)
    own = [row for row in rows if row["prompt"] == best["prompt"]]
    rates = {row["lr"] for row in own}
    last = max(row["epochs"] for row in own if row["lr"] == best["lr"])
    return min(rates) < best["lr"] < max(rates) and best["epochs"] < last


# --- training ------------------------------------------------------------------------------------------------------------


def tune(trainer: JudgeTrainer, method: Method) -> dict:
    """Train adapter `method.name`; returns the sweep's rows, the best row with its request and threshold, and label counts.

    `turned` says whether the best row lies inside the grid, or the sweep ended at a limit (`max_lrs`, `max_epochs`). A sweep
    that was killed resumes behind the last finished learning rate. Raises ValueError without a learning rate or a request.
    """
    knobs = trainer.classifier
    if not knobs.lrs or not knobs.prompts:
        missing = "learning rate" if not knobs.lrs else "request"
        raise ValueError(f"no {missing} for the {method.use}: give --classifier.lrs and --classifier.prompts at least one each")

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        return _sweep(trainer, method, checkpoint, tick)

    trained = len(knobs.prompts) + len(knobs.lrs) - 1
    total = trained * knobs.max_epochs * max(1, method.examples // knobs.batch)
    rows = trainer.train(method.name, fit, total, f"{method.use}: sweep on validation")
    best = best_row(rows)
    return {
        "validation_labels": len(set(trainer.validation)),
        "sweep": rows,
        "turned": has_turned(rows),
        "best": best,
        "prompt": best["prompt"],
        "threshold": best["threshold"],
    }


def chosen(tuned: dict) -> str:
    """The settings that `tune` chose, as a phrase for the model card."""
    best = tuned["best"]
    return f"request {best['prompt']!r}, learning rate {best['lr']:g}, {best['epochs']} epochs, chosen on validation labels"


def _sweep(trainer: JudgeTrainer, method: Method, checkpoint: Path | None, tick) -> list[dict]:
    """Train one setting after another and leave the best state in adapter `method.name`; returns the rows.

    After each setting, `checkpoint` gets the rows and the best state.
    """
    method.prepare(method.name)
    kept = trainer.context.lm.adapter_parameters(method.name)
    no_state = torch.optim.SGD(kept.values(), lr=0.0)  # a checkpoint wants an optimizer; between two settings there is none
    rows = checkpoints.load(checkpoint, kept, no_state)[1]
    while (setting := next_setting(rows, trainer.classifier)) is not None:
        rows = rows + _train_one(trainer, method, *setting, rows, tick)
        if checkpoint:
            checkpoints.save(checkpoint, kept, no_state, len(rows), rows)
    return rows


def _train_one(trainer: JudgeTrainer, method: Method, prompt: str, lr: float, rows: Sequence[dict], tick) -> list[dict]:
    """Train a fresh judge with one setting; its state is kept after every epoch that beats all before (`rows` too)."""
    lm = trainer.context.lm
    new: list[dict] = []

    def on_epoch(epoch: int) -> bool:
        before = [row["auc"] for row in [*rows, *new]]
        new.append({"prompt": prompt, "lr": lr, "epochs": epoch, **method.measure(prompt)})
        if new[-1]["auc"] > max(before, default=-1.0):
            copy_adapter(lm, TRIAL, method.name)
        return should_stop([row["auc"] for row in new], trainer.classifier.patience)

    if TRIAL in lm.adapters:  # left by a training that was interrupted
        lm.drop_adapter(TRIAL)
    lm.new_adapter(TRIAL, trainer.lora, trainer.seed_of(f"lora-{method.use}"))
    method.prepare(TRIAL)
    method.train(prompt, lr, Monitor(on_epoch=on_epoch, progress=tick))
    lm.drop_adapter(TRIAL)
    return new
