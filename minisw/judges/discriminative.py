"""The discriminative baseline (StepWiser §3.3): SFT on + or −; the score is P(+) over the two tokens.

Same base, same labels, the same problem, history and chunk. Learning rate, epochs and threshold are chosen on the validation
labels of each run, of which the judge sees none.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from minisw import stats
from minisw.annotate import balanced, load_steps
from minisw.evaluate import f1_official
from minisw.judges import Progress
from minisw.logprobs import Example, next_token_probabilities
from minisw.model import LanguageModel, copy_adapter
from minisw.prompts import MINUS, PLUS, Prompts
from minisw.recipe import Training
from minisw.records import BenchItem, Judgment, LabelledStep, write_json
from minisw.runs import Run
from minisw.sft import train_sft

CLASSIFIER, TRIAL = "classifier", "trial"


class DiscriminativeJudge:
    """P(+) of the next token, from adapter `adapter`; Positive at `threshold` and above."""

    name = "discriminative"

    def __init__(self, lm: LanguageModel, words: Prompts, adapter: str | None, micro_tokens: int, threshold: float = 0.5):
        self.lm, self.words, self.adapter, self.micro_tokens, self.threshold = lm, words, adapter, micro_tokens, threshold

    def prompt(self, step: LabelledStep) -> list[int]:
        return self.lm.chat(self.words.for_judge(step.question, step.history, step.chunk, discriminative=True))

    def judge(self, steps: Sequence[LabelledStep], seed: int = 0, progress: Progress = None) -> list[Judgment]:
        with self.lm.using(self.adapter):
            tokens = [self.lm.encode(sign)[0] for sign in (PLUS, MINUS)]
            p = next_token_probabilities(self.lm, [self.prompt(s) for s in steps], tokens, self.micro_tokens)[:, 0].tolist()
        return [Judgment(v >= self.threshold, p_positive=v, vote=float(v >= self.threshold), tokens=1) for v in p]


def best_threshold(p: Sequence[float], steps: Sequence[LabelledStep]) -> tuple[float, float]:
    """The threshold with the best first-error F1 on labelled steps, and that F1; steps of a solution stand in a row.

    Trained half and half, a classifier at 0.5 calls too many steps wrong where few are. The generative judge has no
    threshold to choose; the baseline gets this advantage, on validation labels.
    """
    items: list[BenchItem] = []
    values: list[list[float]] = []
    for value, step in zip(p, steps, strict=True):
        if not step.history:
            items.append(BenchItem(step.problem_id, step.question, (), -1, True))
            values.append([])
        items[-1] = dataclasses.replace(
            items[-1], chunks=(*items[-1].chunks, step.chunk), label=items[-1].label if step.label else len(step.history)
        )
        values[-1].append(value)

    def f1(threshold: float) -> float:
        return f1_official(
            [(item, next((i for i, v in enumerate(vs) if v < threshold), -1)) for item, vs in zip(items, values, strict=True)]
        )

    tried = [(t, f1(t)) for t in (i / 50 for i in range(1, 50))]
    best = max(score for _, score in tried)
    plateau = [t for t, score in tried if score == best]
    return plateau[len(plateau) // 2], best  # its middle: an edge would be as good here and worse elsewhere


def balanced_accuracy(judgments: Sequence[Judgment], labels: Sequence[bool]) -> float:
    """Mean of the hit rates on positive and on negative labels; an unread verdict is a miss."""
    sides = [[j.verdict is side for j, label in zip(judgments, labels, strict=True) if label is side] for side in (True, False)]
    return stats.mean([stats.mean(side) for side in sides if side])


def run_stage(run: Run) -> None:
    """Writes classifier/: the adapter `classifier`, and metrics.json with the sweep and the threshold.

    Learning rate and epochs are those with the best AUC on the validation labels, which every label enters; the threshold is
    then that with the best first-error F1 there.
    """
    knobs, lm, micro = run.recipe.classifier, run.lm, run.recipe.model.micro_tokens
    folder = run.folder / "classifier"
    judge = run.recipe.judge
    steps = balanced(load_steps(run, "train"), judge.labels, run.seed_of("balance"), judge.passes)
    held_out = load_steps(run, "validation")
    if len(steps) < 4 or not held_out:
        raise ValueError(
            f"{len(steps)} balanced training labels and {len(held_out)} validation labels are too few: annotate more problems "
            "(--annotate.problems, --problems.validation, --annotate.samples), in a new --out"
        )
    signs = {True: lm.encode(PLUS), False: lm.encode(MINUS)}
    examples = [
        Example(DiscriminativeJudge(lm, run.world.prompts, None, micro).prompt(step), signs[step.label]) for step in steps
    ]
    labels = [s.label for s in held_out]
    sweep: list[dict] = []

    def measure(adapter: str) -> dict:
        judgments = DiscriminativeJudge(lm, run.world.prompts, adapter, micro).judge(held_out)
        scores = [j.p_positive for j in judgments]
        threshold, f1 = best_threshold(scores, held_out)
        accuracy = balanced_accuracy(judgments, labels)
        return {"auc": stats.auc(scores, labels), "threshold": threshold, "f1": f1, "balanced_accuracy": accuracy}

    def fit(checkpoint: Path, tick) -> list[dict]:
        """A training for each learning rate; the state with the best AUC after any epoch becomes `classifier`."""
        curves = []
        for lr in knobs.lrs:
            lm.new_adapter(TRIAL, run.recipe.lora, run.seed_of("lora-classifier"))

            def on_epoch(epoch: int, lr: float = lr) -> None:
                row = {"lr": lr, "epochs": epoch, **measure(TRIAL)}
                if row["auc"] > max((r["auc"] for r in sweep), default=-1.0):
                    copy_adapter(lm, TRIAL, CLASSIFIER)
                sweep.append(row)

            training = Training(lr, knobs.epochs, knobs.batch)
            curves += train_sft(lm, TRIAL, examples, training, micro, run.seed_of("classifier"), on_epoch=on_epoch, progress=tick)
            lm.drop_adapter(TRIAL)
        write_json(folder / "sweep.json", sweep)
        return curves

    per_epoch = max(1, len(examples) // min(knobs.batch, len(examples)))
    run.train(CLASSIFIER, folder, fit, len(knobs.lrs) * knobs.epochs * per_epoch, "classifier: sweep on validation")
    sweep = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    best = max(sweep, key=lambda row: row["auc"])
    write_json(
        folder / "metrics.json",
        {
            "labels": len(set(steps)),
            "validation_steps": len(held_out),
            "sweep": sweep,
            "best": best,
            "threshold": best["threshold"],
        },
    )
