"""The untrained base as a judge: asked with the judge's prompt or, on the embedded model, in three smaller requests."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.judges.base import JudgeContext, Progress
from minisw.judges.elicited import chain
from minisw.judges.generative import GenerativeJudge
from minisw.records import Judgment, LabelledStep
from minisw.verdicts import parse_verdict


def untrained_judge(context: JudgeContext) -> GenerativeJudge:
    """The base, asked with the judge's prompt, greedily."""
    return GenerativeJudge(context, None, "untrained judge")


class ElicitedJudge:
    """The embedded base, asked in three parts (judges/elicited.py), greedily: what it can say without any label."""

    name = "untrained base, asked in parts"

    def __init__(self, context: JudgeContext):
        self.context = context

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        lm = self.context.lm
        with lm.using(None):
            replies = [group[0] for group in chain(lm, self.context.sampler, steps, 1, seed, temperature=0.0)]
        if progress:
            progress(len(steps))
        verdicts = [parse_verdict(reply) for reply in replies]
        return [
            Judgment(v, reply, 0.5 if v is None else float(v), len(lm.encode(reply)))
            for v, reply in zip(verdicts, replies, strict=True)
        ]
