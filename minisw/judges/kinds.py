"""The kinds of judges that can be saved, and how each is built from its adapter: what the registry and saved judges share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minisw.judges.base import Judge, JudgeContext
from minisw.judges.discriminative import DISCRIMINATIVE, DiscriminativeJudge
from minisw.judges.generative import GenerativeJudge
from minisw.judges.genprm import GENPRM, GenPRMJudge
from minisw.judges.scalar_head import SCALAR_HEAD, ScalarHeadJudge
from minisw.judges.self_supervised import SELF_SUPERVISED, SelfSupervisedJudge
from minisw.judges.thinkprm import THINKPRM, ThinkPRMJudge

GENERATIVE = "generative"


@dataclass(frozen=True)
class Settings:
    """What a kind may need beside context and adapter; each takes what it has a use for."""

    name: str = "judge"
    threshold: float | None = None  # of a judge that gives scores
    request: str = "classify"  # what a classifier is asked
    temperature: float = 0.0
    votes: int = 1


KINDS: dict[str, Callable[[JudgeContext, str | None, Settings], Judge]] = {
    GENERATIVE: lambda c, adapter, s: GenerativeJudge(c, adapter, s.name, s.temperature, s.votes),
    GENPRM: lambda c, adapter, s: GenPRMJudge(c, adapter, s.name, s.temperature, s.votes),
    THINKPRM: lambda c, adapter, s: ThinkPRMJudge(c, adapter, s.name, s.temperature, s.votes),
    DISCRIMINATIVE: lambda c, adapter, s: DiscriminativeJudge(c, adapter, s.threshold, s.request),
    SCALAR_HEAD: lambda c, adapter, s: ScalarHeadJudge(c, adapter, c.lm.heads[adapter], s.threshold, s.request),
    SELF_SUPERVISED: lambda c, adapter, s: SelfSupervisedJudge(c, c.lm.heads[adapter], s.threshold, adapter),
}
WRITES = (GENERATIVE, GENPRM, THINKPRM)  # these write replies, so several votes differ; the others give one score
WITH_HEAD = (SCALAR_HEAD, SELF_SUPERVISED)

WHAT = {  # what a judge of each kind does with a step, for its model card
    GENERATIVE: "It writes an analysis of the step, then `\\boxed{Positive}` or `\\boxed{Negative}`.",
    GENPRM: "It writes an analysis with lines of Python, which are run and whose output it reads, then `\\boxed{Positive}` or "
    "`\\boxed{Negative}`.",
    THINKPRM: "It verifies all steps so far in one chain, then says whether the solution is correct; the score is the "
    "probability of yes.",
    DISCRIMINATIVE: "It is a classifier: it replies + or -, and the step counts as Positive if P(+) is at least {threshold:g}.",
    SCALAR_HEAD: "It is a classifier: a linear head on the last hidden state gives P(right), and the step counts as Positive if "
    "that is at least {threshold:g}.",
    SELF_SUPERVISED: "A head on the policy's hidden states gives P(right), learnt from final answers only; the step counts as "
    "Positive if that is at least {threshold:g}.",
}


def build(kind: str, context: JudgeContext, adapter: str | None, settings: Settings) -> Judge:
    """A judge of a kind. Raises ValueError for an unknown kind, and for several votes of a judge that gives one score."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of judge {kind!r}: choose one of {', '.join(KINDS)}")
    if settings.votes > 1 and kind not in WRITES:
        raise ValueError("this judge is a classifier, which always gives the same answer: leave votes at 1")
    return KINDS[kind](context, adapter, settings)
