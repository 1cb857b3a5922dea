"""First analyses with a verdict from the embedded base, which has never seen a request to judge.

This works for the embedded model only: it needs three requests that its pretraining taught (problems/arithmetic/
pretraining.py). A chat model is asked with the judge's prompt instead. For each step,

    1. the base writes the next step with care: its last number is what the result should be
    2. it says the result of the step to be judged: the number that the step claims
    3. it compares the two numbers; "same" means Positive, "different" Negative

The three answers are put together into one reply in the form that a judge is asked for. Rejection sampling keeps those
whose verdict is right (judges/rejection_sampled.py), so no skill is added here that the base does not have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minisw import prompts
from minisw.engine.requests import Request, Sampling
from minisw.judges.base import JudgeContext, seeds_from
from minisw.records import LabelledStep

MAX_NEW_TOKENS = 250  # of each of the three answers
VERDICTS = {"same": prompts.POSITIVE, "different": prompts.NEGATIVE}


def elicited_replies(
    context: JudgeContext, steps: Sequence[LabelledStep], count: int, seed: int, temperature: float = 1.0
) -> list[list[str]]:
    """`count` replies of the bare base to each step: [steps][count]. If the three answers do not fit together, it is ""."""
    lm, seed_of = context.lm, seeds_from(seed)

    def ask(users: Sequence[str], samples: int, name: str) -> list[list[str]]:
        requests = [Request(lm.chat(user), samples) for user in users]
        with lm.using(None):
            groups = context.sampler.generate(requests, Sampling(MAX_NEW_TOKENS, temperature), seed_of(name))
        return [[lm.decode(c.ids).strip() for c in group] for group in groups]

    histories = ["".join(step.history).strip() or "(nothing)" for step in steps]
    careful = ask(
        [prompts.CAREFUL.format(question=s.question, history=h) for s, h in zip(steps, histories, strict=True)], count, "careful"
    )
    claims = [_last_number(text) for (text,) in ask([prompts.RESULT.format(chunk=s.chunk.strip()) for s in steps], 1, "claim")]
    results = [[_last_number(text) for text in group] for group in careful]
    pairs = [(result or "0", claim or "1") for claim, group in zip(claims, results, strict=True) for result in group]
    comparisons = iter(ask([prompts.COMPARE.format(left=left, right=right) for left, right in pairs], 1, "compare"))
    return [
        [_reply(text, result, claim, next(comparisons)[0]) for text, result in zip(texts, numbers, strict=True)]
        for texts, numbers, claim in zip(careful, results, claims, strict=True)
    ]


def _reply(careful: str, result: str | None, claim: str | None, comparison: str) -> str:
    """One reply from the three answers; "" if a number or the comparison's last word is missing."""
    comparison = comparison.rstrip(".")
    verdict = VERDICTS.get(comparison.split(", ")[-1])
    if result is None or claim is None or verdict is None:
        return ""
    return f"{careful}\nThe step says {claim}.\n{result} and {claim}: {comparison}.\n{verdict}"


def _last_number(text: str) -> str | None:
    numbers = re.findall(r"\d+", text)
    return numbers[-1] if numbers else None
