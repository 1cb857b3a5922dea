"""The chunk format: parsing, splits that rejoin, the teacher's filters, and statistics."""

import random

import pytest

from minisw import chunks
from minisw.records import Solution


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(["a", "b.", " ", "\n", "\n\n", "\n \n", "<", "\\boxed{1}", "é"]) for _ in range(rng.randint(1, 40)))


# --- parsing -----------------------------------------------------------------------------------------------------------


def test_tag_encloses_each_chunk_unchanged():
    assert chunks.tag(["a\n", " b"]) == "<chunk>a\n</chunk><chunk> b</chunk>"


def test_parse_chunks_is_the_inverse_of_tag():
    rng = random.Random(0)
    for _ in range(300):
        pieces = [random_text(rng) for _ in range(rng.randint(1, 5))]
        assert chunks.parse_chunks(chunks.tag(pieces)) == (pieces, True)


def test_white_space_outside_the_tags_belongs_to_the_chunk_before_or_to_the_first():
    text = "\n <chunk>a</chunk>\n\n<chunk>b\nc</chunk> \n"
    assert chunks.parse_chunks(text) == (["\n a\n\n", "b\nc \n"], True)


@pytest.mark.parametrize(
    "tail",
    [
        "\\boxed{1}",
        "So the answer is \\boxed{12}.\n",
        "The answer is\n\\[\n\\boxed{\\frac{1}{2}}\n\\]",  # several lines, one paragraph
        "x" * (chunks.MAX_ANSWER_CHARACTERS - 9) + "\\boxed{1}",
    ],
)
def test_a_final_answer_after_the_chunks_is_a_chunk_of_its_own(tail):
    assert chunks.parse_chunks("<chunk>a</chunk>\n<chunk>b</chunk>\n" + tail) == (["a\n", "b\n", tail], True)


@pytest.mark.parametrize(
    "tail",
    [
        "So it is 12.",  # no box
        "The answer is \\boxed{}.",  # an empty box
        "The answer is \\boxed{12",  # an open box
        "First add 3.\n\nThe answer is \\boxed{12}.",  # two paragraphs
        "Add 3.\n \nThen 4.\n\n\\boxed{12}",
        "x" * (chunks.MAX_ANSWER_CHARACTERS - 8) + "\\boxed{1}",  # too long for an answer
        "\\boxed{12}<chunk>",
        "\\boxed{12}</chunk>",
    ],
)
def test_any_other_text_after_the_chunks_breaks_the_format(tail):
    text = "<chunk>a</chunk>\n" + tail
    parts, well_formed = chunks.parse_chunks(text)
    assert not well_formed
    assert "".join(parts) == text.replace("<chunk>", "").replace("</chunk>", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "\\boxed{1}",  # an answer without any chunk
        "<chunk>a",
        "a</chunk>",
        "a<chunk>b</chunk>",
        "\\boxed{1}<chunk>b</chunk>",
        "<chunk>a<chunk>b</chunk></chunk>",
        "<chunk>a<chunk>b</chunk>",
        "<chunk>a</chunk>b<chunk>c</chunk>",
        "<chunk>a</chunk>\\boxed{1}<chunk>c</chunk>",  # the answer is not at the end
        "<chunk>a</chunk></chunk>",
    ],
)
def test_a_broken_format_is_reported_and_only_tags_are_lost(text):
    parts, well_formed = chunks.parse_chunks(text)
    assert not well_formed
    assert "".join(parts) == text.replace("<chunk>", "").replace("</chunk>", "")


def test_a_text_without_the_format_is_split_at_blank_lines():
    assert chunks.parse_chunks("<chunk>a\n\nb\nc") == (["a\n\n", "b\nc"], False)


# --- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [chunks.split_blank_lines, chunks.split_newlines])
def test_splits_rejoin_and_have_no_blank_part(split):
    rng = random.Random(1)
    for _ in range(300):
        text = random_text(rng)
        parts = split(text)
        assert "".join(parts) == text
        assert all(part.strip() for part in parts) or not text.strip()


def test_splits_end_a_part_where_they_should():
    text = "a\nb\n\nc\n \n\nd\n\n"
    assert chunks.split_blank_lines(text) == ["a\nb\n\n", "c\n \n\n", "d\n\n"]
    assert chunks.split_newlines(text) == ["a\n", "b\n\n", "c\n \n\n", "d\n\n"]
    assert chunks.split_blank_lines("a\n") == chunks.split_newlines("a\n") == ["a\n"]
    assert chunks.split_blank_lines("") == chunks.split_newlines("") == []


# --- filters -----------------------------------------------------------------------------------------------------------


def test_rejoins_wants_the_exact_text_and_no_blank_chunk():
    assert chunks.rejoins(["a ", "b"], "a b")
    assert not chunks.rejoins(["a", "b"], "a b")  # white space counts
    assert not chunks.rejoins(["a\n", "b"], "a b")
    assert not chunks.rejoins(["a b", " "], "a b ")  # a blank chunk
    assert not chunks.rejoins(["a "], "a b")  # a beginning is not enough
    assert not chunks.rejoins([], "a")


@pytest.mark.parametrize(
    "reply,expected",
    [
        ("<chunk>Add 3.</chunk>\n<chunk>12+3 = 15.</chunk>", ["Add 3.\n\n", "12+3 = 15."]),
        ("<chunk>Add 3. 12+3=15.</chunk>", ["Add 3.\n\n12+3 = 15."]),
        ("  <chunk>Add</chunk><chunk>3.12+</chunk><chunk>3 =15.</chunk>\n", ["Add ", "3.\n\n12+", "3 = 15."]),
        ("<chunk>Add 4.</chunk><chunk>12+3 = 15.</chunk>", []),  # another text
        ("<chunk>Add 3.</chunk>", []),  # a part of the text
        ("<chunk>Add 3.</chunk><chunk> </chunk><chunk>12+3 = 15.</chunk>", []),  # a blank chunk
        ("<chunk>Add 3.</chunk> 12+3 = 15.", []),  # text outside the tags
        ("<chunk>Add 3. <chunk>12+3 = 15.</chunk>", []),
    ],
)
def test_a_teacher_may_change_white_space_only(reply, expected):
    assert chunks.cut_like(reply, "Add 3.\n\n12+3 = 15.") == expected


def test_a_teacher_may_leave_the_final_answer_untagged():
    assert chunks.cut_like("<chunk>1+2=3.</chunk> \\boxed{3}", "1+2=3.\n\\boxed{3}") == ["1+2=3.\n", "\\boxed{3}"]


def test_faithful_copies_are_cut_at_the_same_places():
    rng = random.Random(2)
    for _ in range(200):
        words = ["".join(rng.choice("abc1=.") for _ in range(rng.randint(1, 4))) for _ in range(12)]
        gaps = [rng.choice([" ", "\n", "\n\n", "  "]) for _ in words]
        text = "".join(word + gap for word, gap in zip(words, gaps, strict=True)).strip()
        cuts = sorted(rng.sample(range(1, 12), 3))
        bounds = [0, *cuts, 12]
        reply = chunks.tag([" ".join(words[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)])
        segmentation = chunks.cut_like(reply, text)
        assert chunks.rejoins(segmentation, text)
        assert [part.split() for part in segmentation] == [words[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        assert not any(part[0].isspace() for part in segmentation)  # white space follows a chunk


@pytest.mark.parametrize(
    "reply,expected",
    [
        ("1, 3", ["aa\nbb\n\n", "cc\ndddd"]),
        ("1, 2, 3, 4.", ["aa\n", "bb\n\n", "cc\n", "dddd"]),
        ("1, 2", []),  # over half in one chunk
        ("1", []),
        ("2, 3", []),
        ("1, 3, 2", []),
        ("1, 9", []),
        ("1, 1", []),
        ("none", []),
    ],
)
def test_a_teacher_may_list_the_first_units_of_the_chunks(reply, expected):
    text = "aa\nbb\n\ncc\ndddd"
    segmentation = chunks.parse_numbered(reply, text)
    assert segmentation == expected and (not segmentation or chunks.rejoins(segmentation, text))


def test_a_text_of_three_units_may_be_one_chunk():
    assert chunks.parse_numbered("1", "a\nb\nc") == ["a\nb\nc"]


def test_units_are_paragraphs_with_their_formulas_or_lines_if_there_are_few():
    text = "First:\n\n  \\[ 1 + 1 = 2 \\]\n\nSo 2.\nYes.\n\nThen 3.\n\nEnd."
    units = chunks.paragraph_units(text)
    assert chunks.rejoins(units, text) and [part.split()[0] for part in units] == ["First:", "So", "Then", "End."]
    assert chunks.paragraph_units("a\nb\n\nc") == ["a\n", "b\n\n", "c"]
    assert chunks.paragraph_units("a\n\nb\nc\n\nd") == ["a\n\n", "b\n", "c\n\n", "d"]  # three paragraphs: lines


# --- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_are_means_and_a_ratio_of_sums():
    solutions = [
        Solution("p", ("a\n\n", "b\nc\n\nd"), None, False),  # 2 chunks, 3 paragraphs, 4 lines
        Solution("q", ("a\n\nb\n\nc\n\nd\n\ne\n\nf\n\ng",), None, False),  # 1 chunk, 7 paragraphs, 7 lines
        Solution("r", ("a", "b", "c", "d"), None, False, well_formed=False),
    ]
    assert chunks.chunk_statistics(solutions) == {
        "chunks": 1.5,
        "blank_line_chunks": 5.0,
        "newline_chunks": 5.5,
        "ratio": 0.3,  # (2 + 1) / (3 + 7); the mean of 2/3 and 1/7 is 0.40
        "solutions": 2,
    }


def test_statistics_of_no_well_formed_solution_are_none():
    none = {"chunks": None, "blank_line_chunks": None, "newline_chunks": None, "ratio": None, "solutions": 0}
    assert chunks.chunk_statistics([Solution("p", ("a",), None, False, well_formed=False)]) == none
    assert chunks.chunk_statistics([]) == none
