"""The discriminative baseline (StepWiser §3.3): SFT on the replies + and −; the score is P(+) over these two tokens.

It has the same base and the same labels as the generative judge, and sees the same problem, history and chunk. Request,
learning rate, epochs and threshold are chosen on the run's validation labels, which the generative judge never sees.

    1. train with each request at the first learning rate, until validation AUC has not improved for `patience` epochs
    2. train with the better request and the other learning rates of the grid
    3. while the best rate is the largest or smallest tried, try twice or half of it
    4. keep the state with the best AUC, and the threshold with the best first-error F1 of that state
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from minisw.engine.logprobs import Example
from minisw.engine.model import copy_adapter
from minisw.evaluate import stats
from minisw.evaluate.metrics import balanced_accuracy, best_threshold, by_solution
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress, p_first
from minisw.prompts import MINUS, PLUS
from minisw.recipe import ClassifierKnobs, Training
from minisw.records import Judgment, LabelledStep
from minisw.training import checkpoints
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft

DISCRIMINATIVE, TRIAL = "discriminative", "trial"  # adapters: the best state so far, and the one in training


class DiscriminativeJudge:
    """Judges by P(+) with adapter `adapter` (None: the untrained base): Positive at `threshold` and above.

    `request` is "classify" for the classifier's own request, or "judge" for the one that the generative judge answers.
    """

    name = "discriminative"

    def __init__(self, context: JudgeContext, adapter: str | None, threshold: float = 0.5, request: str = "classify"):
        self.context, self.adapter, self.threshold, self.request = context, adapter, threshold, request

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the request to classify one step."""
        prompts, lm = self.context.prompts, self.context.lm
        return lm.chat(prompts.for_judge(step.question, step.history, step.chunk, self.request == "classify"))

    def judge(self, steps: Sequence[LabelledStep], seed: int = 0, progress: Progress = None) -> list[Judgment]:
        """One judgment for each step; `p_positive` is P(+) / (P(+) + P(−)). Counted as one sampled token each."""
        encode = self.context.lm.encode
        pairs = [(encode(PLUS), encode(MINUS))] * len(steps)
        p = p_first(self.context, self.adapter, [self.prompt(step) for step in steps], pairs)
        if progress:
            progress(len(steps))
        return [Judgment(value >= self.threshold, p_positive=value, tokens=1) for value in p]


def classifier_examples(context: JudgeContext, steps: Sequence[LabelledStep], request: str = "classify") -> list[Example]:
    """SFT examples: the request for each step, answered with + for a positive and − for a negative label."""
    judge, encode = DiscriminativeJudge(context, None, request=request), context.lm.encode
    return [Example(judge.prompt(step), encode(PLUS if step.label else MINUS)) for step in steps]


def validation_metrics(
    context: JudgeContext, adapter: str, validation: Sequence[LabelledStep], request: str = "classify"
) -> dict[str, float]:
    """AUC, balanced accuracy at 0.5, and the threshold with the best first-error F1, of one classifier on labelled steps."""
    judgments = DiscriminativeJudge(context, adapter, request=request).judge(validation)
    labels, scores = [step.label for step in validation], [j.p_positive for j in judgments]
    threshold, f1 = best_threshold(*by_solution(validation, scores))
    accuracy = balanced_accuracy(labels, [j.verdict for j in judgments])
    return {"auc": stats.auc(scores, labels), "threshold": threshold, "f1": f1, "balanced_accuracy": accuracy}


# --- the sweep: pure functions of its rows -------------------------------------------------------------------------------


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


def train_classifier(trainer: JudgeTrainer) -> dict:
    """Train adapter `discriminative`; returns its metrics: label counts, the sweep's rows, the best row and its threshold.

    `turned` says whether the best row lies inside the grid, or the sweep ended at a limit (`max_lrs`, `max_epochs`). A sweep
    that was killed resumes behind the last finished learning rate. Raises ValueError without validation labels.
    """
    if not trainer.validation or not trainer.steps:
        raise ValueError(
            f"the classifier needs training and validation labels, and there are {len(trainer.steps)} and "
            f"{len(trainer.validation)}: annotate more problems"
        )
    knobs = trainer.classifier
    if not knobs.lrs or not knobs.prompts:
        missing = "learning rate" if not knobs.lrs else "request"
        raise ValueError(f"no {missing} for the classifier: give --classifier.lrs and --classifier.prompts at least one each")

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        return _sweep(trainer, checkpoint, tick)

    trained = len(knobs.prompts) + len(knobs.lrs) - 1
    total = trained * knobs.max_epochs * max(1, len(trainer.steps) // knobs.batch)
    rows = trainer.train(DISCRIMINATIVE, fit, total, "classifier: sweep on validation")
    best = best_row(rows)
    return {
        "training": f"SFT on + and −: request {best['prompt']!r}, learning rate {best['lr']:g}, {best['epochs']} epochs, "
        "chosen on validation labels",
        "labels": len(set(trainer.steps)),
        "validation_labels": len(set(trainer.validation)),
        "sweep": rows,
        "turned": has_turned(rows),
        "best": best,
        "prompt": best["prompt"],
        "threshold": best["threshold"],
    }


def _sweep(trainer: JudgeTrainer, checkpoint: Path | None, tick) -> list[dict]:
    """Train one setting after another and leave the best state in adapter `discriminative`; returns the rows.

    After each setting, `checkpoint` gets the rows and the best state.
    """
    lm, knobs = trainer.context.lm, trainer.classifier
    kept = lm.adapter_parameters(DISCRIMINATIVE)
    no_state = torch.optim.SGD(kept.values(), lr=0.0)  # a checkpoint wants an optimizer; between two settings there is none
    rows = checkpoints.load(checkpoint, kept, no_state)[1]
    while (setting := next_setting(rows, knobs)) is not None:
        rows = rows + _train_one(trainer, *setting, rows, tick)
        if checkpoint:
            checkpoints.save(checkpoint, kept, no_state, len(rows), rows)
    return rows


def _train_one(trainer: JudgeTrainer, prompt: str, lr: float, rows: Sequence[dict], tick) -> list[dict]:
    """Train a fresh classifier with one setting; its state is kept after every epoch that beats all before (`rows` too)."""
    context, knobs, lm = trainer.context, trainer.classifier, trainer.context.lm
    new: list[dict] = []

    def on_epoch(epoch: int) -> bool:
        before = [row["auc"] for row in [*rows, *new]]
        measured = validation_metrics(context, TRIAL, trainer.validation, prompt)
        new.append({"prompt": prompt, "lr": lr, "epochs": epoch, **measured})
        if new[-1]["auc"] > max(before, default=-1.0):
            copy_adapter(lm, TRIAL, DISCRIMINATIVE)
        return should_stop([row["auc"] for row in new], knobs.patience)

    if TRIAL in lm.adapters:  # left by a training that was interrupted
        lm.drop_adapter(TRIAL)
    lm.new_adapter(TRIAL, trainer.lora, trainer.seed_of("lora-classifier"))
    examples, training = classifier_examples(context, trainer.steps, prompt), Training(lr, knobs.max_epochs, knobs.batch)
    seed = trainer.seed_of("classifier")
    train_sft(lm, TRIAL, examples, training, context.micro_tokens, seed, Monitor(on_epoch=on_epoch, progress=tick))
    lm.drop_adapter(TRIAL)
    return new
