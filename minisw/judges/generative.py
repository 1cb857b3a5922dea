"""The generative judge (StepWiser §3.3): an analysis first, then the verdict. Also: votes, and P(Positive) at the verdict."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from minisw.engine.requests import Request, Sampling
from minisw.judges.base import JudgeContext, Progress, p_first
from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.records import Judgment, LabelledStep
from minisw.verdicts import parse_verdict, verdict_prefix, vote

_VERDICT_LINE = re.compile(r"(?:\n|^)[\s*#]*Verdict\W*$")  # the start of a last line that only announces the verdict


@dataclass(frozen=True)
class Reply:
    """One sampled reply to the request to judge a step."""

    text: str  # without the beginning that was given
    tokens: int  # sampled
    finished: bool  # it ended by itself


class GenerativeJudge:
    """Samples an analysis and a verdict for each step with adapter `adapter` (None: the untrained base).

    With `votes` > 1, that many replies are sampled for each step and the majority's verdict counts. `temperature` 0 is greedy.
    If the context has no `analysis`, every reply is made to begin with the box of the verdict. Other generative judges override
    what is asked (`request`), how it is replied to (`sample`) and what P(Positive) is measured on (`measured`).
    Raises ValueError for several votes at temperature 0, which would all be the same.
    """

    def __init__(
        self, context: JudgeContext, adapter: str | None, name: str = "generative", temperature: float = 0.0, votes: int = 1
    ):
        if votes > 1 and temperature <= 0:
            raise ValueError(f"{votes} votes at temperature {temperature} are the same reply {votes} times: sample above 0")
        self.context, self.adapter, self.name = context, adapter, name
        self.temperature, self.votes = temperature, votes
        self.beginning = "" if context.analysis else BOX  # of every reply; it is not sampled

    def with_votes(self, name: str, temperature: float, votes: int) -> GenerativeJudge:
        """The same judge with another name, temperature and number of votes."""
        return GenerativeJudge(self.context, self.adapter, name, temperature, votes)

    def request(self, step: LabelledStep) -> str:
        """The user message that asks to judge one step."""
        return self.context.prompts.for_judge(step.question, step.history, step.chunk)

    def prompt(self, step: LabelledStep) -> list[int]:
        """Token ids of the worked examples, if there are any, of the request to judge one step, and of the reply's beginning."""
        request = self.request(step)
        return self.context.lm.chat(request, self.beginning, self.context.prompts.examples_for(request))

    def sample(self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None) -> list[list[Reply]]:
        """The sampled replies to every step: [steps][votes]."""
        lm, requests = self.context.lm, [Request(self.prompt(step), self.votes) for step in steps]
        with lm.using(self.adapter):
            sampling = Sampling(self.context.max_new_tokens, self.temperature)
            groups = self.context.sampler.generate(requests, sampling, seed, progress)
        return [[Reply(lm.decode(c.ids), len(c.ids), c.finished) for c in group] for group in groups]

    def judge(
        self, steps: Sequence[LabelledStep], seed: int, progress: Progress = None, probabilities: bool = False
    ) -> list[Judgment]:
        """One judgment for each step.

        `p_positive` is the share of readable votes that are Positive (0.5 if no vote is readable). With `probabilities` it is
        P(Positive) at the verdict token of the reply shown as `analysis`, which costs one more forward pass.
        """
        groups = self.sample(steps, seed, progress)
        texts = [[self.beginning + reply.text for reply in group] for group in groups]
        judgments = [_judgment(own, sum(r.tokens for r in group)) for own, group in zip(texts, groups, strict=True)]
        return self.measured(steps, texts, judgments) if probabilities else judgments

    def measured(
        self, steps: Sequence[LabelledStep], texts: Sequence[Sequence[str]], judgments: Sequence[Judgment]
    ) -> list[Judgment]:
        """The judgments with P(Positive) at the verdict token; `texts` [steps][votes] has the whole replies."""
        given = len(self.context.lm.encode(self.beginning))
        prompts = [self.prompt(step) for step in steps]
        requests = [prompt[: len(prompt) - given] for prompt in prompts]  # without the beginning of the reply
        measured = p_positive(self.context, self.adapter, requests, [j.analysis for j in judgments])
        return [j if p is None else dataclasses.replace(j, p_positive=p) for j, p in zip(judgments, measured, strict=True)]


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
    """P(Positive) / (P(Positive) + P(Negative)) at the last verdict of each reply; None for a reply without a verdict.

    `prompts[i]` holds the token ids that `replies[i]` answered; `adapter` is the judge's own (None: the bare base).
    """
    prefixes = [verdict_prefix(reply) for reply in replies]
    readable = [i for i, prefix in enumerate(prefixes) if prefix is not None]
    values = _p_behind(context, adapter, [prompts[i] for i in readable], [prefixes[i] for i in readable])
    out: list[float | None] = [None] * len(replies)
    for i, value in zip(readable, values, strict=True):
        out[i] = value
    return out


def p_positive_along(context: JudgeContext, adapter: str | None, prompt: list[int], reply: str) -> list[float]:
    """P(Positive) if the verdict came after 0, 1, 2, … lines of a reply's analysis: one value more than it has lines.

    A line that only announces the verdict ("Verdict: ") is not counted: it stands before every verdict. The last value is
    that of the whole reply, as `p_positive` measures it.
    """
    prefix = verdict_prefix(reply)
    analysis = reply if prefix is None else prefix.removesuffix(BOX)
    announced = _VERDICT_LINE.search(analysis) if prefix is not None else None
    last = announced.group() if announced else "\n"
    lines = (analysis[: announced.start()] if announced else analysis).splitlines(keepends=True)
    texts = [last.lstrip() + BOX] + ["".join(lines[:n]).rstrip("\n") + last + BOX for n in range(1, len(lines) + 1)]
    if prefix is not None:
        texts[-1] = prefix
    return _p_behind(context, adapter, [prompt] * len(texts), texts)


def _p_behind(context: JudgeContext, adapter: str | None, prompts: Sequence[list[int]], prefixes: Sequence[str]) -> list[float]:
    r"""P(Positive) behind each prefix, a beginning of a reply that ends with `\boxed{`."""
    encode = context.lm.encode
    words = [verdict.removeprefix(BOX) for verdict in (POSITIVE, NEGATIVE)]
    pairs = [(encode(prefix + words[0]), encode(prefix + words[1])) for prefix in prefixes]
    return p_first(context, adapter, prompts, pairs)
