"""Assignment 1: what must hold of chunks, splits, filters and statistics. The anchor of each function stands first."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from minisw.course.relations import expect
from minisw.records import Solution

WORDS = "so add 3 to 4 and get 7 . then double it ; hence x = 14 ( why ? )".split()
SPACES = [" ", " ", " ", "\n", "\n\n", "\n \n", "  "]


def tags(reference: Callable) -> tuple[str, str]:
    """The tags of this assignment."""
    return reference.__globals__["OPEN"], reference.__globals__["CLOSE"]


def tagged(reference: Callable, chunks: Sequence[str]) -> str:
    """Each chunk between tags."""
    begin, end = tags(reference)
    return "".join(begin + chunk + end for chunk in chunks)


def random_text(rng: random.Random, words: int = 12) -> str:
    """Words with white space of several kinds between them."""
    return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(words)) + rng.choice(WORDS)


def random_cut(rng: random.Random, text: str) -> list[str]:
    """The text cut in front of some words, so that no part is blank and none but the first may begin with white space."""
    starts = [m.start() for m in re.finditer(r"(?<=\s)\S", text)]
    ends = sorted(rng.sample(starts, min(len(starts), rng.randint(1, 4))))
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


# --- tag -----------------------------------------------------------------------------------------------------------------


def tag_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two chunks, one with white space at both ends; and none."""
    begin, end = tags(reference)
    expect(call(["a", " b\n"]), f"{begin}a{end}{begin} b\n{end}", "chunks 'a' and ' b\\n'")
    expect(call([]), "", "an empty list of chunks")


def tag_changes_no_chunk(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Without its tags the result is the joined chunks, and it has a pair of tags for each."""
    begin, end = tags(reference)
    for _ in range(5):
        chunks = random_cut(rng, random_text(rng))
        text = call(chunks)
        expect(text.replace(begin, "").replace(end, ""), "".join(chunks), f"the result for {chunks}, without its tags")
        numbers, count = (text.count(begin), text.count(end)), len(chunks)
        expect(numbers, (count, count), f"the numbers of both tags for {count} chunks")


# --- parse_chunks --------------------------------------------------------------------------------------------------------


def parse_chunks_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two chunks with a line break between them and an answer behind; and a text that breaks the format."""
    begin, end = tags(reference)
    text = f"{begin}a\nb{end}\n{begin}c{end} \\boxed{{7}}"
    expect(call(text), (["a\nb\n", "c ", "\\boxed{7}"], True), repr(text))
    expect(call(f"{begin}a{end} b"), (["a b"], False), repr(f"{begin}a{end} b"))


def parse_chunks_undoes_tag(call: Callable, reference: Callable, rng: random.Random) -> None:
    """What was cut and tagged comes back, line breaks and all."""
    for _ in range(8):
        chunks = random_cut(rng, random_text(rng))
        expect(call(tagged(reference, chunks)), (chunks, True), f"tagged {chunks}")


def parse_chunks_white_space_outside(call: Callable, reference: Callable, rng: random.Random) -> None:
    """White space outside the tags belongs to the chunk before it, at the front to the first."""
    begin, end = tags(reference)
    for _ in range(5):
        spaces = [rng.choice(SPACES) for _ in range(3)]
        text = f"{spaces[0]}{begin}one{end}{spaces[1]}{begin}two{end}{spaces[2]}"
        expect(call(text), ([f"{spaces[0]}one{spaces[1]}", f"two{spaces[2]}"], True), repr(text))


def parse_chunks_broken(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Broken forms are seen; their text loses only the tags and is split at blank lines."""
    begin, end = tags(reference)
    forms = [
        f"{begin}one{begin}two{end}{end}",
        f"{begin}one{begin}two{end}",
        f"{begin}one\n\ntwo",
        f"{begin}one{end}{end}",
        f"{begin}one{end} \\boxed{{7}}{end}",
        f"one\n\n{begin}two{end}",
        f"{begin}one{end} and\n\nmore {begin}two{end}",
        "one\n\ntwo",
        f"{begin}one{end} more words",
        f"{begin}one{end} \\boxed{{7}}\n\n\\boxed{{8}}",
        f"{begin}one{end} {'word ' * 60}\\boxed{{7}}",
    ]
    for text in forms:
        plain = text.replace(begin, "").replace(end, "")
        chunks, well_formed = call(text)
        expect(well_formed, False, f"whether {text!r} keeps the format")
        expect(chunks, reference.__globals__["split_blank_lines"](plain), f"the chunks of {text!r}")


def parse_chunks_answer_behind(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A short paragraph with a box behind the last tag is a chunk of its own; without one there is no further chunk."""
    chunks = random_cut(rng, random_text(rng))
    text = tagged(reference, chunks)
    answer = f"The answer is \\boxed{{{rng.randint(1, 99)}}}.\n"
    expect(call(text + answer), ([*chunks, answer], True), f"{text + answer!r}, which ends with a final answer")
    expect(call(text), (chunks, True), f"{text!r}, which has no final answer")


# --- split_blank_lines -----------------------------------------------------------------------------------------------------


def split_blank_lines_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A blank line may have spaces, and stays with the part before it."""
    expect(call("a\n\nb\nc\n \n\nd"), ["a\n\n", "b\nc\n \n\n", "d"], "'a\\n\\nb\\nc\\n \\n\\nd'")
    expect(call("a\n\n"), ["a\n\n"], "'a\\n\\n'")
    expect(call(""), [], "the empty text")
    expect(call("\n\n"), ["\n\n"], "the blank text '\\n\\n'")


def split_blank_lines_loses_nothing(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Joined, the parts are the text; no part is blank; only the last may end without a blank line."""
    for _ in range(10):
        text = rng.choice(["", "\n\n", " "]) + random_text(rng) + rng.choice(["", "\n", "\n\n"])
        parts = call(text)
        expect("".join(parts), text, f"the joined parts of {text!r}")
        assert all(part.strip() for part in parts), f"a blank part of {text!r}"
        assert all(re.search(r"\n\s*\n\s*$", part) for part in parts[:-1]), f"a part of {text!r} does not end with a blank line"
        assert not any(re.search(r"\S\s*\n\s*\n\s*\S", part) for part in parts), f"a blank line inside a part of {text!r}"


# --- rejoins -------------------------------------------------------------------------------------------------------------


def rejoins_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A cut, a lost space, a blank chunk, a missing end."""
    expect(call(["a ", "b"], "a b"), True, "chunks 'a ' and 'b' of 'a b'")
    expect(call(["a", "b"], "a b"), False, "chunks 'a' and 'b' of 'a b'")
    expect(call(["a", " ", "b"], "a b"), False, "chunks 'a', ' ' and 'b' of 'a b', one of them blank")
    expect(call(["a "], "a b"), False, "the single chunk 'a ' of 'a b'")


def rejoins_every_cut(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Every cut in front of words passes."""
    for _ in range(10):
        text = random_text(rng)
        expect(call(random_cut(rng, text), text), True, f"a cut of {text!r}")


def rejoins_no_change(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A character more, fewer or elsewhere, and an empty or blank chunk: none of these passes."""
    for _ in range(5):
        text = random_text(rng) + "!"
        chunks = random_cut(rng, text)
        place = rng.randrange(len(chunks))
        changes = {
            "a space more": [c + " " * (i == place) for i, c in enumerate(chunks)],
            "the end lost": [*chunks[:-1], chunks[-1][:-1]],
            "text behind": [*chunks, "more"],
            "another order": chunks[::-1],
            "an empty chunk": [*chunks[:place], "", *chunks[place:]],
            "a chunk fewer": chunks[:-1],
        }
        for what, changed in changes.items():
            expect(call(changed, text), False, f"{what}: {changed} of {text!r}")
        expect(call(["one", " \n", "two"], "one \ntwo"), False, "chunks 'one', ' \\n' and 'two', one of them blank")


# --- cut_like --------------------------------------------------------------------------------------------------------------


def cut_like_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The teacher joined two paragraphs; the text's own white space stays."""
    begin, end = tags(reference)
    reply = f"{begin}a b{end}{begin}c d.{end}"
    expect(call(reply, "a b\n\nc  d."), ["a b\n\n", "c  d."], f"{reply!r} for 'a b\\n\\nc  d.'")
    expect(call(reply, "a b\n\nc  e."), [], f"{reply!r} for 'a b\\n\\nc  e.', another text")


def other_spaces(rng: random.Random, text: str) -> str:
    """The text with other white space between its words."""
    return re.sub(r"\s+", lambda match: rng.choice(SPACES), text)


def cut_like_takes_the_texts_white_space(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Whatever white space the copy has, the cut is that of its words, and white space goes with the chunk before it."""
    for _ in range(8):
        text = random_text(rng)
        chunks = random_cut(rng, text)
        copy = [other_spaces(rng, chunk).strip() for chunk in chunks]
        expect(call(f"\n{tagged(reference, copy)} ", text), chunks, f"the copy {copy} of {text!r}")


def cut_like_refuses_other_words(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A copy with another character, a character more or fewer, is refused."""
    for _ in range(5):
        text = random_text(rng) + " end"
        chunks = random_cut(rng, text)
        for last in (chunks[-1][:-1] + "t", chunks[-1] + "s", chunks[-1][:-1]):
            what = f"a copy that ends in {last!r} where the text ends in {chunks[-1]!r}"
            expect(call(tagged(reference, [*chunks[:-1], last]), text), [], what)


def cut_like_refuses_broken_copies(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A copy with a blank chunk, a missing or a stray tag is refused."""
    begin, end = tags(reference)
    text = random_text(rng)
    chunks = random_cut(rng, text)
    whole = tagged(reference, chunks)
    place = rng.randrange(1, len(chunks))
    blank = tagged(reference, [*chunks[:place], rng.choice(["", " "]), *chunks[place:]])
    for reply in (blank, whole.removesuffix(end), whole.removeprefix(begin), text, whole + end):
        expect(call(reply, text), [], f"{reply!r} for {text!r}")


# --- chunk_statistics --------------------------------------------------------------------------------------------------------


def solution(chunks: Sequence[str], well_formed: bool = True) -> Solution:
    return Solution("p", tuple(chunks), None, False, well_formed)


def chunk_statistics_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two solutions by hand: 1 and 4 chunks, 1 and 2 paragraphs, 2 and 3 lines; a third keeps no format."""
    solutions = [solution(["a\nb"]), solution(["a ", "b\n", "c\n\n", "d"]), solution(["a"] * 9, well_formed=False)]
    want = {"chunks": 2.5, "blank_line_chunks": 1.5, "newline_chunks": 2.5, "ratio": 5 / 3, "solutions": 2}
    expect(call(solutions), want, r"chunks ['a\nb'], ['a ', 'b\n', 'c\n\n', 'd'], and 9 in a solution that is not well formed")
    nothing = dict.fromkeys(["chunks", "blank_line_chunks", "newline_chunks", "ratio"])
    expect(call([solution(["a"], well_formed=False)]), {**nothing, "solutions": 0}, "a single solution, not well formed")


def chunk_statistics_ratio_of_sums(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The ratio is that of the two means, and the more chunks a solution has, the more it counts."""
    solutions = [solution(random_cut(rng, random_text(rng, rng.randint(4, 20)))) for _ in range(6)]
    sizes = [len(s.chunks) for s in solutions]
    got = call(solutions)
    expect(got["ratio"] * got["blank_line_chunks"], got["chunks"], f"{sizes} chunks: ratio times blank_line_chunks")
    expect(got["chunks"] * 6, float(sum(sizes)), f"{sizes} chunks: the mean times 6")


def chunk_statistics_well_formed(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Solutions that broke the format change nothing."""
    solutions = [solution(random_cut(rng, random_text(rng))) for _ in range(3)]
    broken = [solution(["a\n\n", "b"] * 5, well_formed=False) for _ in range(2)]
    expect(call(solutions + broken), call(solutions), "three solutions and two that broke the format, against the three alone")


RELATIONS = {
    "tag": [tag_anchor, tag_changes_no_chunk],
    "parse_chunks": [
        parse_chunks_anchor,
        parse_chunks_undoes_tag,
        parse_chunks_white_space_outside,
        parse_chunks_broken,
        parse_chunks_answer_behind,
    ],
    "split_blank_lines": [split_blank_lines_anchor, split_blank_lines_loses_nothing],
    "rejoins": [rejoins_anchor, rejoins_every_cut, rejoins_no_change],
    "cut_like": [
        cut_like_anchor,
        cut_like_takes_the_texts_white_space,
        cut_like_refuses_other_words,
        cut_like_refuses_broken_copies,
    ],
    "chunk_statistics": [chunk_statistics_anchor, chunk_statistics_ratio_of_sums, chunk_statistics_well_formed],
}
