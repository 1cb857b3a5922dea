"""Judges without training: the base, asked with the judge's prompt or, for the embedded model, in three smaller requests."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.judges.base import JudgeContext, Progress
from minisw.judges.elicited import elicited_replies
from minisw.judges.generative import GenerativeJudge
from minisw.records import Judgment, LabelledStep
from minisw.verdicts import parse_verdict


def untrained_judge(context: JudgeContext) -> GenerativeJudge:
    """The bare base with the judge's prompt, greedy."""
    return GenerativeJudge(context, None, "untrained judge")


class ElicitedJudge:
    """The bare embedded base, asked in three requests (judges/elicited.py), greedy: its skill before it saw any label."""

    name = "untrained base, asked in parts"

    def __init__(self, context: JudgeContext):
        self.context = context

    def judge(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[Judgment]:
        """One judgment for each step; `tokens` counts the reply that is put together, not the three requests."""
        encode = self.context.lm.encode
        replies = [group[0] for group in elicited_replies(self.context, steps, 1, seed, temperature=0.0)]
        if progress:
            progress(len(steps))
        verdicts = [parse_verdict(reply) for reply in replies]
        return [
            Judgment(verdict, reply, 0.5 if verdict is None else float(verdict), len(encode(reply)))
            for verdict, reply in zip(verdicts, replies, strict=True)
        ]
