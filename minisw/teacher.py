"""Where the segmentations that SFT learns from come from (StepWiser §3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from minisw.chunks import cut_like, paragraph_units, parse_numbered, rejoins
from minisw.engine.model import LanguageModel
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.problems import Task
from minisw.prompts import OPEN


def segmentations(
    lm: LanguageModel, sampler: Sampler, task: Task, texts: Sequence[str], tries: int, source: str, seed: int
) -> list[list[list[str]]]:
    """For each text its distinct segmentations that rejoin exactly (perhaps none); the same filter for every source.

    `source` is "rules" (the task's own), "prompted" (the active model copies the text and adds tags, the paper's way) or
    "numbered" (it names the paragraphs that begin a new chunk, for models too small to copy a text without a slip). The
    model is asked `tries` times a text. Raises ValueError if the task lacks what the source needs.
    """
    if source == "rules":
        if task.teacher is None:
            raise ValueError(f"the task {task.name!r} has no rules for chunks: use --segment.teacher prompted or numbered")
        offers = [[task.teacher(text)] for text in texts]
    else:
        offers = _ask(lm, sampler, task, texts, tries, source, seed)
    unique = [list({tuple(chunks): list(chunks) for chunks in offer}.values()) for offer in offers]
    return [[chunks for chunks in offer if rejoins(chunks, text)] for offer, text in zip(unique, texts, strict=True)]


def _ask(
    lm: LanguageModel, sampler: Sampler, task: Task, texts: Sequence[str], tries: int, source: str, seed: int
) -> list[list[list[str]]]:
    """`tries` segmentations of each text by the active model; an empty one where its reply cannot be used."""
    prompted = source == "prompted"
    template = task.prompts.segment if prompted else task.prompts.segment_numbered
    if not template:
        raise ValueError(f"the prompts of {task.name!r} have none for numbered paragraphs: use --segment.teacher prompted")
    shown = texts if prompted else ["".join(f"[{i}] {s}" for i, s in enumerate(paragraph_units(t), 1)) for t in texts]
    beginning = OPEN if prompted else "1,"
    longest = 2 * max((len(lm.encode(text)) for text in texts), default=0) + 64 if prompted else 64
    requests = [Request(lm.chat(template.format(text=text), beginning), tries) for text in shown]
    groups = sampler.generate(requests, Sampling(longest), seed)
    read = cut_like if prompted else parse_numbered
    return [[read(beginning + lm.decode(c.ids), text) for c in group] for group, text in zip(groups, texts, strict=True)]
