"""A judge's reply (StepWiser §3.3): its verdict, its analysis, majority vote and reward. This module is pure Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from minisw.prompts import BOX, NEGATIVE, POSITIVE
from minisw.records import LabelledStep

Reward = Callable[[int, str], float]  # (index of the prompt, text of the reply) -> reward
MIN_ANALYSIS_WORDS = 3  # an analysis has at least this many words
_FORM_WORDS = {"analysis", "verdict"}  # labels of the reply's form, not part of an analysis


def parse_verdict(reply: str) -> bool | None:
    """The last boxed verdict of a reply: True for Positive, False for Negative, None if there is none (unreadable)."""
    positive, negative = reply.rfind(POSITIVE), reply.rfind(NEGATIVE)
    if positive == negative:  # both are -1: neither occurs
        return None
    return positive > negative


def verdict_prefix(reply: str) -> str | None:
    r"""The reply up to and including the `\boxed{` of its last verdict, or None without a verdict.

    The next token is the verdict word: P(Positive) is measured there.
    """
    start = max(reply.rfind(POSITIVE), reply.rfind(NEGATIVE))
    return None if start < 0 else reply[: start + len(BOX)]


def has_analysis(reply: str) -> bool:
    r"""Whether an analysis precedes the last verdict: at least `MIN_ANALYSIS_WORDS` words.

    A word is a run of letters or digits ("12+3=15" has three). Earlier boxed verdicts and the words "Analysis" and "Verdict"
    are not counted, so a bare `\boxed{Positive}`, `Verdict: \boxed{Positive}` or a repeated box has no analysis.
    """
    prefix = verdict_prefix(reply)
    if prefix is None:
        return False
    text = prefix.removesuffix(BOX).replace(POSITIVE, " ").replace(NEGATIVE, " ")
    words = re.findall(r"[^\W_]+", text)
    return sum(word.lower() not in _FORM_WORDS for word in words) >= MIN_ANALYSIS_WORDS


def vote(verdicts: Sequence[bool | None]) -> bool | None:
    """The verdict of the majority. Unreadable verdicts (None) have no vote; a tie is Negative; None if all are unreadable."""
    readable = [verdict for verdict in verdicts if verdict is not None]
    if not readable:
        return None
    return 2 * sum(readable) > len(readable)


def verdict_reward(steps: Sequence[LabelledStep], beginning: str = "") -> Reward:
    """The judge's reward (StepWiser §3.3): 1 if the reply has an analysis and its verdict equals the step's label, else 0.

    Returns `reward(index, reply)` for a reply about `steps[index]`. If every reply has a `beginning` that is
    not sampled, it is read with that beginning, and no analysis is asked for.
    """

    def reward(index: int, reply: str) -> float:
        right = parse_verdict(beginning + reply) is steps[index].label
        return float(right and (bool(beginning) or has_analysis(reply)))

    return reward
