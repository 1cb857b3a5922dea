"""The teacher (StepWiser §3.1): segmentations of right solutions, from which the policy learns to write chunks by SFT."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.chunks import cut_like, paragraph_units, parse_numbered, rejoins, split_blank_lines
from minisw.engine.requests import Request, Sampling
from minisw.policy import Policy
from minisw.problems import Task
from minisw.prompts import OPEN
from minisw.recipe import SegmentKnobs

EXTRA_TOKENS = 64  # longest reply of a "numbered" teacher; of a "prompted" one, beyond twice the longest text


def segmentations(base: Policy, task: Task, texts: Sequence[str], knobs: SegmentKnobs, seed: int) -> list[list[list[str]]]:
    """For each text its distinct segmentations that rejoin exactly, in the order offered; possibly none.

    `knobs.teacher` selects the source of the offers; all go through the same filter (`chunks.rejoins`):

    - "rules": the task's own rules, one offer per text;
    - "blank_lines": a cut at every blank line, one offer per text;
    - "prompted": the model of `base` copies the text and adds tags (the paper's way);
    - "numbered": the model lists the paragraphs that begin a new chunk, for models too small to copy a text exactly.

    The model is sampled `knobs.tries` times per text, at the policy's temperature. Raises ValueError if the task lacks what
    the teacher needs.
    """
    if knobs.teacher == "rules":
        if task.teacher is None:
            raise ValueError(f"the task {task.name!r} has no rules for chunks: use --segment.teacher prompted or numbered")
        offers = [[task.teacher(text)] for text in texts]
    elif knobs.teacher == "blank_lines":
        offers = [[split_blank_lines(text)] for text in texts]
    else:
        offers = _sampled(base, task, texts, knobs, seed)
    distinct = [list(dict.fromkeys(tuple(chunks) for chunks in offer)) for offer in offers]
    return [[list(chunks) for chunks in offer if rejoins(chunks, text)] for offer, text in zip(distinct, texts, strict=True)]


def _sampled(base: Policy, task: Task, texts: Sequence[str], knobs: SegmentKnobs, seed: int) -> list[list[list[str]]]:
    """`knobs.tries` segmentations of each text by the base; an empty one for a reply that cannot be used."""
    lm, prompted = base.lm, knobs.teacher == "prompted"
    template = task.prompts.segment if prompted else task.prompts.segment_numbered
    if not template:
        raise ValueError(f"the prompts of {task.name!r} cannot ask for paragraph numbers: use --segment.teacher prompted")
    # the reply's beginning is given, so that the model starts in the right format
    beginning = OPEN if prompted else "1,"
    shown = texts if prompted else [_with_numbers(text) for text in texts]
    longest = 2 * max((len(lm.encode(text)) for text in texts), default=0) if prompted else 0
    requests = [Request(lm.chat(template.format(text=text), beginning), knobs.tries) for text in shown]
    with lm.using(base.adapter):
        groups = base.sampler.generate(requests, Sampling(longest + EXTRA_TOKENS, base.knobs.temperature), seed)
    read = cut_like if prompted else parse_numbered
    return [[read(beginning + lm.decode(c.ids), text) for c in group] for group, text in zip(groups, texts, strict=True)]


def _with_numbers(text: str) -> str:
    return "".join(f"[{number}] {unit}" for number, unit in enumerate(paragraph_units(text), 1))
