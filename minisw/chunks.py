"""The chunk format (StepWiser §3.1): tags, parsing, splits that need no training, filters and statistics.

A chunk of thought is one complete logical step. In the model's text each chunk is enclosed in `<chunk>…</chunk>`. A `Solution`
stores the chunks without tags, and `"".join(chunks)` is its text. This module is pure Python.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from minisw.prompts import CLOSE, OPEN
from minisw.records import Solution

MAX_ANSWER_CHARACTERS = 200  # longest final answer after the last chunk; a longer text is reasoning

_CHUNK = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE) + r"(\s*)", re.S)
_BLANK_LINE = re.compile(r"\n\s*\n")
_BOX = re.compile(r"\\boxed\{.+\}", re.S)


def tag(chunks: Sequence[str]) -> str:
    """Chunks in tags: `<chunk>…</chunk><chunk>…</chunk>`. `parse_chunks` is the inverse."""
    return "".join(f"{OPEN}{chunk}{CLOSE}" for chunk in chunks)


def parse_chunks(text: str) -> tuple[list[str], bool]:
    r"""The chunks of a tagged text, and whether the text keeps the format (is well formed).

    A well-formed text is a sequence of one or more `<chunk>…</chunk>` pairs, not nested. Only two things may be outside the tags:

    - white space; it becomes part of the chunk before it (or of the first chunk);
    - the final answer after the last chunk, which becomes a chunk of its own. It must hold a `\boxed{…}`, be one paragraph
      (no blank line inside it) and have at most `MAX_ANSWER_CHARACTERS` characters.

    A text that breaks the format is returned without its tags and split at blank lines. In both cases the chunks, joined,
    are the text without its tags.
    """
    chunks: list[str] = []
    begin = position = len(text) - len(text.lstrip())
    while match := _CHUNK.match(text, position):
        if OPEN in match[1]:
            break
        chunks.append(match[1] + match[2])
        position = match.end()
    tail = text[position:]
    if not chunks or (tail and not is_final_answer(tail)):
        return split_blank_lines(text.replace(OPEN, "").replace(CLOSE, "")), False
    chunks[0] = text[:begin] + chunks[0]
    return chunks + ([tail] if tail else []), True


def is_final_answer(tail: str) -> bool:
    r"""Whether an untagged text is only the final answer: one short paragraph with a `\boxed{…}` and no tag."""
    paragraph = tail.strip()
    return (
        len(paragraph) <= MAX_ANSWER_CHARACTERS
        and _BOX.search(paragraph) is not None
        and _BLANK_LINE.search(paragraph) is None
        and OPEN not in paragraph
        and CLOSE not in paragraph
    )


def split_blank_lines(text: str) -> list[str]:
    """The usual baseline: a step ends at a blank line. Joined, the parts are the text; no part is blank unless the text is."""
    return _parts(r"\s*\S.*?(?:\n\s*\n(?=\s*\S)|\Z)", text)


def split_newlines(text: str) -> list[str]:
    """A step ends at a newline. Joined, the parts are the text; no part is blank unless the text is."""
    return _parts(r"\s*\S.*?(?:\n\s*|\Z)", text)


def _parts(pattern: str, text: str) -> list[str]:
    return re.findall(pattern, text, re.S) or ([text] if text else [])


def rejoins(chunks: Sequence[str], text: str) -> bool:
    """The paper's filter for segmentations: the joined chunks reproduce the response exactly, and no chunk is blank."""
    return "".join(chunks) == text and all(chunk.strip() for chunk in chunks)


def cut_like(reply: str, text: str) -> list[str]:
    """Segments `text` at the boundaries of `reply`, a teacher's tagged copy of it. Empty if the copy is not faithful.

    White space may differ, because models drop line breaks next to tags; all other characters must be the same. A chunk of
    the result has as many non-space characters as its chunk in the reply, and includes the white space that follows it. The
    reply must be well formed (`parse_chunks`) and have no blank chunk.
    """
    chunks, well_formed = parse_chunks(reply.strip())
    sizes = [len("".join(chunk.split())) for chunk in chunks]
    if not well_formed or "".join("".join(chunks).split()) != "".join(text.split()) or 0 in sizes:
        return []
    visible = [i for i, c in enumerate(text) if not c.isspace()]
    starts = [0] + [visible[end] for end in itertools.accumulate(sizes[:-1])]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def paragraph_units(text: str) -> list[str]:
    """The units that a "numbered" teacher groups into chunks: paragraphs, or lines if the text has at most three paragraphs.

    A displayed formula belongs to the paragraph before it. Joined, the units are the text.
    """
    paragraphs: list[str] = []
    for part in split_blank_lines(text):
        if paragraphs and part.lstrip().startswith("\\["):
            paragraphs[-1] += part
        else:
            paragraphs.append(part)
    return paragraphs if len(paragraphs) > 3 else split_newlines(text)


def parse_numbered(reply: str, text: str) -> list[str]:
    """Segments `text` before the units (`paragraph_units`) whose numbers the teacher's reply lists, such as "1, 3, 4".

    Empty if the numbers do not start at 1, do not increase, or exceed the number of units. Also empty if, in a text of four
    units or more, one chunk has over half of the characters: small models tend to count "1, 2, 3" and to leave the rest uncut.
    """
    units = paragraph_units(text)
    starts = [int(number) for number in re.findall(r"\d+", reply)]
    if not starts or starts[0] != 1 or starts != sorted(set(starts)) or starts[-1] > len(units):
        return []
    chunks = ["".join(units[a - 1 : b - 1]) for a, b in zip(starts, [*starts[1:], len(units) + 1], strict=True)]
    return [] if len(units) > 3 and 2 * max(map(len, chunks)) > len(text) else chunks


def chunk_statistics(solutions: Sequence[Solution]) -> dict[str, float | int | None]:
    """Mean number of chunks per solution under three segmentations of the same texts (StepWiser Table 1).

    `chunks`: the model's own; `blank_line_chunks`, `newline_chunks`: the two splits; `ratio`: the sum of `chunks` over the sum
    of `blank_line_chunks` (a ratio of sums, not a mean of ratios); `solutions`: how many are counted. Only well-formed solutions
    are counted; without any, all values but `solutions` are None.
    """
    kept = [s for s in solutions if s.well_formed]
    counts = {
        "chunks": sum(len(s.chunks) for s in kept),
        "blank_line_chunks": sum(len(split_blank_lines(s.text)) for s in kept),
        "newline_chunks": sum(len(split_newlines(s.text)) for s in kept),
    }
    means = {name: total / len(kept) if kept else None for name, total in counts.items()}
    blank = counts["blank_line_chunks"]
    return {**means, "ratio": counts["chunks"] / blank if blank else None, "solutions": len(kept)}
