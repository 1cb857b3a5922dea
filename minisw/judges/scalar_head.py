"""The usual discriminative baseline (Math-Shepherd and others): LoRA and a linear head on the last hidden state of a request.

    P(Positive) = sigmoid(w · h + b),   h: the state at the request's last token, after the final norm

Adapter and head learn together by binary cross-entropy on the labels that the classifier of `discriminative.py` learns from;
requests and tuning are the same too (`sweep.py`). What differs: P comes from a head of its own, not from the logits of + and −.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minisw.engine.batches import Batch, Example
from minisw.engine.heads import Head
from minisw.engine.logprobs import gather_states, hidden_states
from minisw.engine.model import LanguageModel
from minisw.judges.base import JudgeContext, JudgeTrainer, Progress
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.heads import judgments, new_head, scores, states_at
from minisw.judges.sweep import TRIAL, Method, chosen, figures, require_labels, tune
from minisw.recipe import Training
from minisw.records import Judgment, LabelledStep
from minisw.training.monitor import Monitor
from minisw.training.sft import Loss, train_epochs, update

SCALAR_HEAD = "scalar_head"


class ScalarHeadJudge(DiscriminativeJudge):
    """Judges by the P(Positive) of the head of adapter `adapter`; otherwise like the classifier."""

    name = "scalar head"

    def __init__(
        self,
        context: JudgeContext,
        adapter: str | None,
        head: Head,
        threshold: float = 0.5,
        request: str = "classify",
    ):
        super().__init__(context, adapter, threshold, request)
        self.head = head

    def judge(self, steps: Sequence[LabelledStep], seed: int = 0, progress: Progress = None) -> list[Judgment]:
        """One judgment for each step. Counted as one sampled token each, like the classifier's."""
        prompts = [self.prompt(step) for step in steps]
        states = states_at(self.context, self.adapter, prompts, [[len(prompt) - 1] for prompt in prompts])
        if progress:
            progress(len(steps))
        return judgments(scores(self.head, states), self.threshold, tokens=1)


def head_examples(context: JudgeContext, steps: Sequence[LabelledStep], request: str = "classify") -> list[Example]:
    """The request for each step; its "completion" is one token, 1 for a positive and 0 for a negative label.

    `gather_states` then returns the state at the last token of each request, and the label as its target. That state does not
    see the label, because attention is causal.
    """
    judge = DiscriminativeJudge(context, None, request=request)
    return [Example(judge.prompt(step), [int(step.label)]) for step in steps]


def head_loss(head: Head) -> Loss:
    """The loss of a micro-batch of `head_examples` for `training.sft.update`: binary cross-entropy, a sum over all / count."""

    def loss(lm: LanguageModel, batch: Batch, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        with lm.autocast():
            hidden = hidden_states(lm.causal_lm.get_decoder(), batch)  # [rows, length, hidden]
        states, labels = gather_states(hidden, batch.ids, batch.target)  # [examples, hidden], [examples]
        losses = torch.nn.functional.binary_cross_entropy_with_logits(head(states), labels.float(), reduction="sum")
        return losses / count, {"loss": losses.item() / count}

    return loss


def train_scalar_head(trainer: JudgeTrainer, name: str = SCALAR_HEAD) -> dict:
    """Train adapter `name` and its head; returns metrics as `train_classifier` does.

    Raises ValueError without training labels or validation labels.
    """
    require_labels(trainer, name)
    context, knobs, lm = trainer.context, trainer.classifier, trainer.context.lm

    def prepare(adapter: str) -> None:
        lm.heads[adapter] = new_head(lm, trainer.seed_of(f"head-{name}"))

    def train(request: str, lr: float, monitor: Monitor) -> None:
        loss, training = head_loss(lm.heads[TRIAL]), Training(lr, knobs.max_epochs, knobs.batch)

        def step(batch: Sequence[Example], optimizer: torch.optim.Optimizer, epoch: int) -> dict:
            return update(lm, batch, optimizer, context.micro_tokens, loss)

        examples = head_examples(context, trainer.steps, request)
        train_epochs(lm, TRIAL, examples, training, trainer.seed_of(name), step, monitor)

    def measure(request: str) -> dict:
        judge = ScalarHeadJudge(context, TRIAL, lm.heads[TRIAL], request=request)
        return figures(trainer.validation, [j.p_positive for j in judge.judge(trainer.validation)])

    tuned = tune(trainer, Method(name, name, len(trainer.steps), train, measure, prepare))
    described = f"binary cross-entropy, with a linear head on the last hidden state: {chosen(tuned)}"
    return {"training": described, "labels": len(set(trainer.steps)), **tuned}
