"""The generative judge (StepWiser §3.3): an analysis first, then the verdict; votes; and P(Positive) at the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from minisw.engine.logprobs import next_token_probabilities
from minisw.engine.requests import Request, Sampling
from minisw.judges.base import JudgeContext, Progress
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.records import Judgment, LabelledStep
from minisw.verdicts import parse_verdict, verdict_prefix, vote


class GenerativeJudge:
    """Samples an analysis and a verdict for each step, with adapter `adapter` (None: the untrained base).

    With `votes` > 1, at a `temperature` above 0, the majority of so many sampled verdicts counts.
    """

    def __init__(
        self, context: JudgeContext, adapter: str | None, name: str = "generative", temperature: float = 0.0, votes: int = 1
    ):
        self.context, self.adapter, self.name = context, adapter, name
        self.temperature, self.votes = temperature, votes

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the request to judge one step."""
        prompts, lm = self.context.prompts, self.context.lm
        return lm.chat(prompts.for_judge(step.question, step.history, step.chunk))

    def judge(
        self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None, probabilities: bool = False
    ) -> list[Judgment]:
        """One judgment a step. `probabilities` measures P(Positive) at the verdict token, for one more forward.

        Without it `p_positive` is the share of readable votes that are Positive (0.5 if none is readable).
        """
        lm = self.context.lm
        prompts = [self.prompt(s) for s in steps]
        with lm.using(self.adapter):
            sampling = Sampling(self.context.max_new_tokens, self.temperature)
            groups = self.context.sampler.generate([Request(p, self.votes) for p in prompts], sampling, seed, progress)
            judgments = [_judgment([lm.decode(c.ids) for c in g], sum(len(c.ids) for c in g)) for g in groups]
        if probabilities:
            measured = p_positive(self.context, self.adapter, prompts, [j.analysis for j in judgments])
            judgments = [
                j if p is None else dataclasses.replace(j, p_positive=p) for j, p in zip(judgments, measured, strict=True)
            ]
        return judgments


def _judgment(replies: Sequence[str], tokens: int) -> Judgment:
    """The judgment of one step from its sampled replies; `analysis` is the first reply with the majority's verdict."""
    verdicts = [parse_verdict(reply) for reply in replies]
    verdict = vote(verdicts)
    readable = [v for v in verdicts if v is not None]
    share = sum(readable) / len(readable) if readable else 0.5
    votes = tuple(verdicts) if len(verdicts) > 1 else ()
    return Judgment(verdict, replies[verdicts.index(verdict)], share, tokens, votes)


def p_positive(
    context: JudgeContext, adapter: str | None, prompts: Sequence[list[int]], replies: Sequence[str]
) -> list[float | None]:
    """P(Positive) against Negative at the verdict token of every reply; None where the reply has no verdict."""
    prefixes = [verdict_prefix(reply) for reply in replies]
    readable = [i for i, prefix in enumerate(prefixes) if prefix is not None]
    values = _p_at_verdict(context, adapter, [prompts[i] + context.lm.encode(prefixes[i]) for i in readable])
    out: list[float | None] = [None] * len(replies)
    for i, value in zip(readable, values, strict=True):
        out[i] = value
    return out


def p_positive_along(context: JudgeContext, adapter: str | None, prompt: list[int], analysis: str) -> list[float]:
    """P(Positive) if the verdict came after 0, 1, 2, … lines of an analysis (without its verdict): lines + 1 values."""
    prefix = verdict_prefix(analysis)
    lines = (analysis if prefix is None else prefix.removesuffix(BOX)).splitlines(keepends=True)
    texts = ["".join(lines[:n]).rstrip("\n") + ("\n" if n else "") + BOX for n in range(len(lines) + 1)]
    return _p_at_verdict(context, adapter, [prompt + context.lm.encode(text) for text in texts])


def _p_at_verdict(context: JudgeContext, adapter: str | None, prompts: Sequence[list[int]]) -> list[float]:
    if not prompts:
        return []
    lm = context.lm
    box = len(lm.encode(BOX))
    words = [lm.encode(verdict)[box] for verdict in (POSITIVE, NEGATIVE)]
    with lm.using(adapter):
        return next_token_probabilities(lm, prompts, words, context.micro_tokens)[:, 0].tolist()
