"""The chunk format (StepWiser §3.1): tags, parsing, the splits that need no training, filters and statistics.

A chunk of thought is one complete logical step. In a model's text every chunk stands in `<chunk>…</chunk>`; in a `Solution`
the tags are gone and `"".join(chunks)` is the text. Everything here is pure Python.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from minisw.prompts import CLOSE, OPEN
from minisw.records import Solution

_CHUNK = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE) + r"(\s*)", re.S)


def tag(chunks: Sequence[str]) -> str:
    """Chunks in tags: `<chunk>…</chunk><chunk>…</chunk>`. The inverse of `parse_chunks`."""
    return "".join(f"{OPEN}{chunk}{CLOSE}" for chunk in chunks)


def parse_chunks(text: str) -> tuple[list[str], bool]:
    """Chunks of a tagged text, and whether the text keeps the format.

    The format is kept when tags come in pairs, are not nested, and nothing stands outside them but white space and, behind
    the last chunk, the final answer (which becomes a chunk of its own). White space behind a closing tag belongs to the
    chunk before it. A text that breaks the format comes back without its tags, split at blank lines.
    """
    chunks, position = [], 0
    while match := _CHUNK.match(text, position):
        if OPEN in match[1]:
            break
        chunks.append(match[1] + match[2])
        position = match.end()
    rest = text[position:]
    if chunks and OPEN not in rest and CLOSE not in rest:
        return chunks + ([rest] if rest.strip() else []), True
    return split_blank_lines(text.replace(OPEN, "").replace(CLOSE, "")), False


def split_blank_lines(text: str) -> list[str]:
    """The usual baseline: a step ends at a blank line. Joined, the parts are the text."""
    return [part for part in re.findall(r".+?(?:\n\s*\n|$)", text, re.S) if part]


def split_newlines(text: str) -> list[str]:
    """A step ends at a newline. Joined, the parts are the text."""
    return [part for part in re.findall(r".+?(?:\n\s*|$)", text, re.S) if part]


def rejoins(chunks: Sequence[str], text: str) -> bool:
    """The paper's filter: no chunk is blank, and the joined chunks reproduce the response exactly."""
    return "".join(chunks) == text and all(chunk.strip() for chunk in chunks)


def cut_like(reply: str, text: str) -> list[str]:
    """`text` cut where a teacher's tagged copy of it (`reply`) is cut; empty if the copy is not faithful.

    White space may differ, because models drop line breaks next to tags; every other character must be the same. Each cut
    goes behind the same number of non-space characters, and the white space there goes to the chunk before it.
    """
    chunks, well_formed = parse_chunks(reply.strip())
    sizes = [len("".join(chunk.split())) for chunk in chunks]
    if not well_formed or "".join("".join(chunks).split()) != "".join(text.split()) or 0 in sizes:
        return []
    visible = [i for i, c in enumerate(text) if not c.isspace()]
    starts = [0] + [visible[end] for end in itertools.accumulate(sizes[:-1])]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def paragraph_units(text: str) -> list[str]:
    """The units that a numbering teacher groups: paragraphs (a displayed formula belongs to the one before it), or lines if
    there are three paragraphs or fewer. Joined, the units are the text."""
    paragraphs: list[str] = []
    for part in split_blank_lines(text):
        if paragraphs and part.lstrip().startswith("\\["):
            paragraphs[-1] += part
        else:
            paragraphs.append(part)
    return paragraphs if len(paragraphs) > 3 else split_newlines(text)


def parse_numbered(reply: str, text: str) -> list[str]:
    """`text` cut before the units (`paragraph_units`) whose numbers a teacher's reply names, such as "1, 3, 4".

    Empty if the numbers do not rise from 1, name a unit that is not there, or leave (of four units or more) more than half of
    the text in one chunk: small models like to count "1, 2, 3" and leave the rest in one piece.
    """
    units = paragraph_units(text)
    starts = [int(number) for number in re.findall(r"\d+", reply)]
    if not starts or starts[0] != 1 or starts != sorted(set(starts)) or starts[-1] > len(units):
        return []
    chunks = ["".join(units[a - 1 : b - 1]) for a, b in zip(starts, [*starts[1:], len(units) + 1], strict=True)]
    return [] if len(units) > 3 and 2 * max(map(len, chunks)) > len(text) else chunks


def chunk_statistics(solutions: Sequence[Solution]) -> dict[str, float | int | None]:
    """Chunks a solution under three cuts of the same texts: the model's own, blank lines, and newlines (StepWiser Table 1).

    Only solutions that keep the format count. `ratio` is the ratio of sums (own chunks over blank-line chunks), not the mean
    of ratios. Values are None when no solution counts.
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
