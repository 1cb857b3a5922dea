"""The judge without training: the base, asked with the judge's prompt."""

from __future__ import annotations

from minisw.judges.base import JudgeContext
from minisw.judges.generative import GenerativeJudge


def untrained_judge(context: JudgeContext) -> GenerativeJudge:
    """The bare base with the judge's prompt, greedy."""
    return GenerativeJudge(context, None, "untrained judge")
