"""The discriminative baseline (StepWiser §3.3): SFT on the replies + and −; the score is P(+) over these two tokens.

It has the same base and the same labels as the generative judge, and sees the same problem, history and chunk. Request,
learning rate, epochs and threshold are chosen on the run's validation labels, which the generative judge never sees (sweep.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from minisw.engine.logprobs import Example
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress, p_first
from minisw.judges.sweep import TRIAL, Method, chosen, figures, require_labels, tune
from minisw.prompts import MINUS, PLUS
from minisw.recipe import Training
from minisw.records import Judgment, LabelledStep
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft

DISCRIMINATIVE = "discriminative"


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
    return figures(validation, [j.p_positive for j in judgments])


def train_classifier(trainer: JudgeTrainer) -> dict:
    """Train adapter `discriminative`; returns its metrics: label counts, the sweep's rows, the best row and its threshold.

    Raises ValueError without validation labels.
    """
    require_labels(trainer, "classifier")
    context, knobs = trainer.context, trainer.classifier

    def train(request: str, lr: float, monitor: Monitor) -> None:
        examples, training = classifier_examples(context, trainer.steps, request), Training(lr, knobs.max_epochs, knobs.batch)
        train_sft(context.lm, TRIAL, examples, training, context.micro_tokens, trainer.seed_of("classifier"), monitor)

    def measure(request: str) -> dict:
        return validation_metrics(context, TRIAL, trainer.validation, request)

    tuned = tune(trainer, Method(DISCRIMINATIVE, "classifier", len(trainer.steps), train, measure))
    return {"training": f"SFT on + and −: {chosen(tuned)}", "labels": len(set(trainer.steps)), **tuned}
