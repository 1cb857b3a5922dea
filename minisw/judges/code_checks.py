r"""Checks in a judge's reply: lines of Python that are run while the reply is being written (GenPRM §3).

    Due: Half of the 652 eggs are sold.
    print(652//2)                              a check: the model writes this line and `Output:`, where sampling stops
    Output: 326                                what the check printed is spliced in, and the model goes on behind it
    The step says 325.

A check may also be a block of lines between ``` and ```. The code runs in verify/sandbox.py, which treats it as hostile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw.engine import distributed
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Completion, Request, Sampling
from minisw.judges.base import JudgeContext, Progress, seeds_from
from minisw.judges.generative import Reply
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.records import flat
from minisw.verdicts import parse_verdict
from minisw.verify.sandbox import Output, SandboxMissing, run_checks

Run = Callable[[Sequence[str]], Sequence[Output]]  # runs many checks at once, as `sandbox.run_checks` does

OUTPUT = "Output:"
MAX_CHECKS = 8  # in one reply
MAX_OUTPUT = 100  # characters of one output
_CHECK = re.compile(
    r"(?:```\w*\n(?P<block>(?:(?!```).)*)```|^(?P<line>[^\n]*?))"  # the code
    rf"[\s*#]*{OUTPUT}(?P<output>[^\n]*\n?)",  # chat models write **Output:** too
    re.DOTALL | re.MULTILINE,
)


# --- the text of a reply -------------------------------------------------------------------------------------------------


def last_check(text: str) -> str:
    """The code of the check at the end of a text, which ends with `Output:`. It is empty if nothing stands above that."""
    *_, check = _CHECK.finditer(text)
    return (check["block"] or check["line"] or "").strip("` \n")


def code_only(reply: str) -> str:
    """A reply without its sentences: the checks with their outputs, and the verdict if there is one."""
    parts = [check.group().strip() for check in _CHECK.finditer(reply)]
    verdict = parse_verdict(reply)
    return "\n".join(parts if verdict is None else [*parts, POSITIVE if verdict else NEGATIVE])


def encode_reply(lm: LanguageModel, reply: str) -> tuple[list[int], tuple[int, ...]]:
    """Token ids of a reply, and the positions among them that outputs take, which the model did not write.

    Outputs are encoded apart from the model's own text, so that no token belongs to both.
    """
    ids: list[int] = []
    given: list[int] = []
    end = 0
    for check in _CHECK.finditer(reply):
        ids += lm.encode(reply[end : check.start("output")])
        output = lm.encode(check["output"])
        given += range(len(ids), len(ids) + len(output))
        ids += output
        end = check.end()
    return ids + lm.encode(reply[end:]), tuple(given)


# --- sampling ------------------------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """A reply that is being written."""

    prompt: list[int]  # token ids
    text: str = ""  # outputs included
    tokens: int = 0  # sampled
    length: int = 0  # tokens, outputs included
    finished: bool = False

    def add(self, lm: LanguageModel, completion: Completion, room: int) -> None:
        """Append at most `room` sampled tokens, up to where an output is asked for."""
        ids = completion.ids[:room]
        own, asked, _ = lm.decode(ids).partition(OUTPUT)
        self.text += own + asked
        self.tokens += len(ids)
        self.length += len(ids)
        self.finished = completion.finished and len(ids) == len(completion.ids) and not asked

    def splice(self, lm: LanguageModel, output: str) -> None:
        """Append an output, with the end of its line."""
        self.text += f" {output}\n"
        self.length += len(lm.encode(f" {output}\n"))


def sample_with_checks(
    context: JudgeContext, requests: Sequence[Request], temperature: float, seed: int, run: Run, progress: Progress = None
) -> list[list[Reply]]:
    """Replies of the active adapter, with the real output of every check in them: [requests][count].

    All replies advance together, in rounds:

        1. sample each reply until it ends or asks for an output
        2. run all checks of the round in one call of `run`
        3. splice the outputs; the next round continues these replies

    A reply has at most `MAX_CHECKS` checks and `context.max_new_tokens` tokens, outputs included; only an output may make it
    longer. `progress(1)` is called for each complete reply.
    """
    lm, limit, seed_of = context.lm, context.max_new_tokens, seeds_from(seed)
    groups = [[_Draft(request.ids) for _ in range(request.count)] for request in requests]
    writing = flat(groups)
    for number in range(MAX_CHECKS + 1):
        if number:
            requests = [Request(draft.prompt + encode_reply(lm, draft.text)[0]) for draft in writing]
        rooms = [limit - draft.length for draft in writing]
        sampling = Sampling(max(rooms, default=0), temperature, OUTPUT)
        completions = flat(context.sampler.generate(requests, sampling, seed_of(f"round-{number}")))
        for draft, completion, room in zip(writing, completions, rooms, strict=True):
            draft.add(lm, completion, room)
        asking = [draft for draft in writing if draft.text.endswith(OUTPUT)] if number < MAX_CHECKS else []
        for draft, output in zip(asking, outputs([last_check(draft.text) for draft in asking], run), strict=True):
            draft.splice(lm, output)
        pending = [draft for draft in asking if draft.length < limit]
        for _ in range(len(writing) - len(pending) if progress else 0):
            progress(1)
        writing = pending
        if not writing:
            break
    return [[Reply(draft.text, draft.tokens, draft.finished) for draft in group] for group in groups]


def outputs(codes: Sequence[str], run: Run = run_checks) -> list[str]:
    """The output of each check as one short line: what it printed, or why it failed. Equal checks are run once.

    Raises ValueError where this machine cannot contain the code.
    """
    distinct = list(dict.fromkeys(codes))
    if not distinct:
        return []
    try:
        results = distributed.broadcast(run(distinct))  # a check that is slow might fail in some of the processes only
    except SandboxMissing as error:
        raise ValueError(f"a judge that checks with code is impossible here: {error}") from None
    lines = {code: _line(output) for code, output in zip(distinct, results, strict=True)}
    return [lines[code] for code in codes]


def _line(output: Output) -> str:
    """An output as one line of at most `MAX_OUTPUT` characters. Without backslashes it cannot hold a boxed verdict."""
    text = " ".join((output.text if output.ok else output.error).replace("\\", " ").split())
    return text[:MAX_OUTPUT] or "(nothing)"
