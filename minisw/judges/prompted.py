"""Judges without training: the base, asked with the judge's prompt, alone or after a few worked examples."""

from __future__ import annotations

import random
from collections.abc import Sequence

from minisw.judges.base import JudgeContext, JudgeTrainer
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import sample_replies
from minisw.records import LabelledStep
from minisw.verdicts import verdict_reward

FEW_SHOT = "few_shot"
SHOTS = 2  # of each verdict
POOL = 6  # examples of each verdict that are drawn from
TRIED = 24  # labels of each verdict for which a right reply is looked for


def untrained_judge(context: JudgeContext) -> GenerativeJudge:
    """The bare base with the judge's prompt, greedy."""
    return GenerativeJudge(context, None, "untrained judge")


class FewShotJudge(GenerativeJudge):
    """The bare base, shown worked examples first: requests with right replies, as many Positive as Negative ones.

    Which examples stand before a step, and in which order, is drawn for each step: a small model copies the verdict of the last
    example, and a fixed order would decide for it. `examples` holds [request, reply] pairs by verdict ("true", "false").
    """

    def __init__(
        self,
        context: JudgeContext,
        examples: dict[str, Sequence[Sequence[str]]],
        name: str = "few-shot",
        temperature: float = 0.0,
        votes: int = 1,
    ):
        super().__init__(context, None, name, temperature, votes)
        self.examples = examples

    def with_votes(self, name: str, temperature: float, votes: int) -> FewShotJudge:
        return FewShotJudge(self.context, self.examples, name, temperature, votes)

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the examples as earlier turns of the chat, then the request."""
        rng = random.Random(f"{step.question}{step.history}{step.chunk}")
        shown = [pair for side in self.examples.values() for pair in rng.sample(list(side), min(SHOTS, len(side)))]
        rng.shuffle(shown)
        return self.context.lm.chat(self.request(step), self.beginning, shown)


def choose_examples(trainer: JudgeTrainer) -> dict:
    """Worked examples for `FewShotJudge` in the metrics of an untrained judge: the writer's own right replies to training labels.

    Of each verdict, replies to the first labels are sampled until `POOL` of them have a right one. Nothing is trained.
    """
    writer, examples, used = trainer.writer, {}, 0
    judge = GenerativeJudge(writer, None)
    for label in (True, False):
        steps = [step for step in dict.fromkeys(trainer.steps) if step.label is label][:TRIED]
        replies = sample_replies(writer, steps, 4, trainer.seed_of(f"examples-{label}"))
        reward = verdict_reward(steps, judge.beginning)
        right = [
            (judge.request(step), next((reply for reply in group if reward(i, reply)), None))
            for i, (step, group) in enumerate(zip(steps, replies, strict=True))
        ]
        pairs = [[request, reply] for request, reply in right if reply is not None][:POOL]
        examples[str(label).lower()] = pairs
        used += len(pairs)
    described = f"none; {SHOTS} examples of each verdict in the prompt, drawn from {used} right replies of {trainer.writer_name}"
    return {"training": described, "labels": used, "examples": examples}
