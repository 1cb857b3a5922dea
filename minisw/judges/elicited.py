"""First analyses with a verdict, out of the embedded base.

A real chat model can be asked to judge; the embedded one has never seen a verdict on a step. But it can do all the parts
(pretraining.py): write the next step with care, say what a line concludes, compare two numbers. `chain` asks it for each
part in turn and puts its answers one behind the other in the form of its own checks of equations. The verdict is the
word its comparison ends with. Which of these the judge may learn from, the labels decide (judges/generative.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minisw import prompts
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.records import LabelledStep


def chain(
    lm: LanguageModel,
    sampler: Sampler,
    steps: Sequence[LabelledStep],
    samples: int,
    seed: int,
    max_new_tokens: int = 250,
    temperature: float = 1.0,
) -> list[list[str]]:
    """`samples` replies for each step; a reply whose parts do not fit together is left as an empty text."""

    def ask(users: list[str], count: int, at: int) -> list[list[str]]:
        requests = [Request(lm.chat(user), count) for user in users]
        completions = sampler.generate(requests, Sampling(max_new_tokens, temperature), seed * 7 + at)
        return [[lm.decode(c.ids).strip() for c in group] for group in completions]

    careful = ask(
        [prompts.CAREFUL.format(question=s.question, history="".join(s.history).strip() or "(nothing)") for s in steps],
        samples,
        0,
    )
    claims = ask([prompts.RESULT.format(chunk=s.chunk.strip()) for s in steps], 1, 1)
    flat = [(i, text, _last_number(text), _last_number(claims[i][0])) for i, group in enumerate(careful) for text in group]
    compared = ask([prompts.COMPARE.format(left=result or "0", right=claim or "1") for _, _, result, claim in flat], 1, 2)
    replies: list[list[str]] = [[] for _ in steps]
    for (i, text, result, claim), (words,) in zip(flat, compared, strict=True):
        words = words.rstrip(".")
        verdict = {"same": prompts.POSITIVE, "different": prompts.NEGATIVE}.get(words.split(", ")[-1])
        fits = result is not None and claim is not None and verdict is not None
        replies[i].append(f"{text}\nThe step says {claim}.\n{result} and {claim}: {words}.\n{verdict}" if fits else "")
    return replies


def _last_number(text: str) -> str | None:
    numbers = re.findall(r"\d+", text)
    return numbers[-1] if numbers else None
