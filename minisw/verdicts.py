"""What a judge's reply says (StepWiser §3.3): parse the verdict, vote, reward. Everything here is pure Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.records import LabelledStep

Reward = Callable[[int, str], float]  # (index of the prompt, text of the reply) -> reward
MIN_ANALYSIS_WORDS = 3  # words before the verdict that count as an analysis; the word "Verdict" itself does not


def parse_verdict(reply: str) -> bool | None:
    """The last boxed verdict of a reply: True for Positive, False for Negative, None if there is none."""
    positive, negative = reply.rfind(POSITIVE), reply.rfind(NEGATIVE)
    if positive == negative:  # both are -1
        return None
    return positive > negative


def verdict_prefix(reply: str) -> str | None:
    r"""The reply up to and including the `\boxed{` of its last verdict, where P(Positive) is read off; None without a verdict."""
    start = max(reply.rfind(POSITIVE), reply.rfind(NEGATIVE))
    return None if start < 0 else reply[: start + len(BOX)]


def has_analysis(reply: str) -> bool:
    """Whether at least `MIN_ANALYSIS_WORDS` words stand before the last verdict. Numbers count; earlier verdicts do not."""
    analysis = (verdict_prefix(reply) or "").removesuffix(BOX).replace(POSITIVE, " ").replace(NEGATIVE, " ")
    words = re.findall(r"\w+", analysis)
    return sum(word.lower() != "verdict" for word in words) >= MIN_ANALYSIS_WORDS


def vote(verdicts: Sequence[bool | None]) -> bool | None:
    """The majority's verdict. A tie is Negative; unreadable verdicts (None) do not vote; None if none can be read."""
    readable = [verdict for verdict in verdicts if verdict is not None]
    if not readable:
        return None
    return 2 * sum(readable) > len(readable)


def verdict_reward(steps: Sequence[LabelledStep]) -> Reward:
    """The judge's reward (StepWiser §3.3): 1 if the reply has an analysis and its verdict equals the step's label, else 0."""

    def reward(index: int, reply: str) -> float:
        return float(parse_verdict(reply) is steps[index].label and has_analysis(reply))

    return reward
