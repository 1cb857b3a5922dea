"""The discriminative baseline (StepWiser §3.3): SFT on + or −; the score is P(+) over the two tokens.

It has the same base, the same labels, and sees the same problem, history and chunk as the generative judge. Learning rate,
epochs and threshold are chosen on the run's validation labels, which the generative judge never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minisw.engine.logprobs import Example, next_token_probabilities
from minisw.engine.model import copy_adapter
from minisw.evaluate import stats
from minisw.evaluate.metrics import balanced_accuracy, best_threshold, by_solution
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress
from minisw.prompts import MINUS, PLUS
from minisw.recipe import Training
from minisw.records import Judgment, LabelledStep
from minisw.training.sft import train_sft

DISCRIMINATIVE, TRIAL = "discriminative", "trial"


class DiscriminativeJudge:
    """P(+) of the next token, with adapter `adapter`; Positive at `threshold` and above."""

    name = "discriminative"

    def __init__(self, context: JudgeContext, adapter: str | None, threshold: float = 0.5):
        self.context, self.adapter, self.threshold = context, adapter, threshold

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the request to classify one step."""
        prompts, lm = self.context.prompts, self.context.lm
        return lm.chat(prompts.for_judge(step.question, step.history, step.chunk, discriminative=True))

    def judge(self, steps: Sequence[LabelledStep], seed: int = 0, progress: Progress = None) -> list[Judgment]:
        """One judgment a step; `p_positive` is P(+) renormalised over + and −. Costs one token a step."""
        lm = self.context.lm
        with lm.using(self.adapter):
            signs = [lm.encode(sign)[0] for sign in (PLUS, MINUS)]
            prompts = [self.prompt(s) for s in steps]
            p = next_token_probabilities(lm, prompts, signs, self.context.micro_tokens)[:, 0].tolist()
        return [Judgment(value >= self.threshold, p_positive=value, tokens=1) for value in p]


def train_classifier(trainer: JudgeTrainer) -> dict[str, dict]:
    """Train one classifier for each learning rate; keep the state with the best validation AUC after any epoch.

    The threshold is the one with the best first-error F1 on validation. Returns the metrics of adapter `discriminative`.
    """
    context, knobs, lm = trainer.context, trainer.classifier, trainer.context.lm
    judge = DiscriminativeJudge(context, None)
    signs = {True: lm.encode(PLUS), False: lm.encode(MINUS)}
    examples = [Example(judge.prompt(step), signs[step.label]) for step in trainer.steps]
    labels = [s.label for s in trainer.validation]

    def measure(adapter: str) -> dict:
        judgments = DiscriminativeJudge(context, adapter).judge(trainer.validation)
        scores = [j.p_positive for j in judgments]
        threshold, f1 = best_threshold(*by_solution(trainer.validation, scores))
        accuracy = balanced_accuracy(labels, [j.verdict for j in judgments])
        return {"auc": stats.auc(scores, labels), "threshold": threshold, "f1": f1, "balanced_accuracy": accuracy}

    def fit(checkpoint: Path | None, tick) -> list[dict]:
        sweep: list[dict] = []
        for lr in knobs.lrs:
            lm.new_adapter(TRIAL, trainer.lora, trainer.seed_of("lora-classifier"))

            def on_epoch(epoch: int, lr: float = lr) -> None:
                row = {"lr": lr, "epochs": epoch, **measure(TRIAL)}
                if row["auc"] > max((r["auc"] for r in sweep), default=-1.0):
                    copy_adapter(lm, TRIAL, DISCRIMINATIVE)
                sweep.append(row)

            training = Training(lr, knobs.epochs, knobs.batch)
            seed = trainer.seed_of("classifier")
            train_sft(lm, TRIAL, examples, training, context.micro_tokens, seed, on_epoch=on_epoch, progress=tick)
            lm.drop_adapter(TRIAL)
        return sweep

    per_epoch = max(1, len(examples) // min(knobs.batch, len(examples)))
    total = len(knobs.lrs) * knobs.epochs * per_epoch
    sweep = trainer.train_adapter(DISCRIMINATIVE, fit, total, "classifier: sweep on validation")
    best = max(sweep, key=lambda row: row["auc"])
    metrics = {
        "labels": len(set(trainer.steps)),
        "validation_labels": len(trainer.validation),
        "sweep": sweep,
        "best": best,
        "threshold": best["threshold"],
    }
    return {DISCRIMINATIVE: metrics}


