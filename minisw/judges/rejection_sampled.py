"""RS-FT (StepWiser §3.3): SFT on the base's own analyses whose verdict is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from minisw.engine.logprobs import Example
from minisw.engine.requests import Request, Sampling
from minisw.judges.base import JudgeContext, JudgeTrainer
from minisw.judges.elicited import chain
from minisw.judges.generative import GenerativeJudge
from minisw.prompts import VERDICT
from minisw.recipe import Training
from minisw.records import LabelledStep
from minisw.training.monitor import Monitor
from minisw.training.sft import train_sft
from minisw.verdicts import parse_verdict, verdict_reward

_LAST_LINE = re.compile(r"[\s*]*\bVerdict\W[^\n]*$")  # a verdict without its box


def sample_replies(
    context: JudgeContext, steps: Sequence[LabelledStep], count: int, seed: int, in_parts: bool
) -> list[list[str]]:
    """`count` replies of the bare base to every step; `in_parts` asks the embedded base in three requests instead of one.

    A small base ends most analyses without a verdict. Then the last line is begun for it ("Verdict: \\boxed{") and completed;
    only the labels decide which replies are learned from, so a verdict may be asked for separately.
    """
    lm, sampler = context.lm, context.sampler
    if in_parts:
        return chain(lm, sampler, steps, count, seed)
    judge = GenerativeJudge(context, None)
    requests = [Request(judge.prompt(step), count) for step in steps]
    groups = sampler.generate(requests, Sampling(context.max_new_tokens), seed)
    replies = [[lm.decode(c.ids) for c in group] for group in groups]
    beginnings = {
        (i, k): _LAST_LINE.sub("", text.rstrip()) + VERDICT
        for i, group in enumerate(replies)
        for k, text in enumerate(group)
        if groups[i][k].finished and parse_verdict(text) is None
    }
    followups = [Request(requests[i].ids + lm.encode(text)) for (i, _), text in beginnings.items()]
    for ((i, k), text), (end,) in zip(
        beginnings.items(), sampler.generate(followups, Sampling(8, stop="}"), seed + 1), strict=True
    ):
        replies[i][k] = text + lm.decode(end.ids)
    return replies


def right_examples(context: JudgeContext, steps: Sequence[LabelledStep], replies: Sequence[Sequence[str]]) -> list[Example]:
    """SFT examples from the replies that the reward pays, as many Positive as Negative ones.

    The smaller side is repeated rather than the larger one thrown away, because there are few; one side alone stays as it is.
    """
    lm, judge, reward = context.lm, GenerativeJudge(context, None), verdict_reward(steps)
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for index, (step, group) in enumerate(zip(steps, replies, strict=True)):
        for reply in group:
            if reward(index, reply):
                sides[step.label].append(Example(judge.prompt(step), lm.encode(reply) + [lm.tokenizer.eos_token_id]))
    most = max(len(side) for side in sides.values())
    if not min(len(side) for side in sides.values()):
        return sides[True] + sides[False]
    return [side[i % len(side)] for i in range(most) for side in sides.values()]


def train_rejection_sampled(trainer: JudgeTrainer, name: str, steps: Sequence[LabelledStep], training: Training) -> dict:
    """Train adapter `name` on the base's right replies to `steps`; returns its curve and the counts of labels and replies."""
    context = trainer.context

    def fit(checkpoint: Path | None, tick) -> dict:
        with context.lm.using(None):
            replies = sample_replies(
                context, steps, trainer.knobs.format_samples, trainer.seed_of(f"replies-{name}"), trainer.in_parts
            )
        reward = verdict_reward(steps)
        counts = {
            "labels": len(set(steps)),
            "replies": sum(len(group) for group in replies),
            "right": int(sum(reward(i, reply) for i, group in enumerate(replies) for reply in group)),
        }
        examples = right_examples(context, steps, replies)
        if not examples:
            trainer.warn("no reply of the base agrees with its label: the judge starts untrained")
            return {**counts, "curve": []}
        seed = trainer.seed_of(f"sft-{name}")
        curve = train_sft(context.lm, name, examples, training, context.micro_tokens, seed, Monitor(checkpoint, progress=tick))
        return {**counts, "curve": curve}

    expected = training.epochs * max(1, len(steps) * trainer.knobs.format_samples // training.batch)
    return trainer.train_adapter(name, fit, expected, "RS-FT")
