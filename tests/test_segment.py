"""Segmentation: whatever the text, the parts rejoin; a broken format is seen."""

import random

import pytest

from minisw import segment
from minisw.problems import arithmetic, load_world
from minisw.recipe import ProblemKnobs
from minisw.rollout import Sampler


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(["a", "b.", " ", "\n", "\n\n", "\n \n", "<", "\\boxed{1}", "é"]) for _ in range(rng.randint(1, 40)))


def test_splits_and_tags_rejoin_to_the_text():
    rng = random.Random(0)
    for _ in range(300):
        text = random_text(rng)
        for split in (segment.split_blank_lines, segment.split_newlines):
            assert "".join(split(text)) == text
        chunks = [text, "x\n\n", random_text(rng)]
        assert segment.parse(segment.tag(chunks)) == (chunks, True) or not chunks[0].strip()


@pytest.mark.parametrize(
    "text",
    ["<chunk>a", "a</chunk>", "a<chunk>b</chunk>", "<chunk>a<chunk>b</chunk></chunk>", "<chunk>a</chunk>b<chunk>c", "plain"],
)
def test_a_broken_format_is_seen_and_loses_no_text_but_tags(text):
    chunks, well_formed = segment.parse(text)
    assert not well_formed
    assert "".join(chunks) == text.replace("<chunk>", "").replace("</chunk>", "")


def test_an_answer_behind_the_chunks_is_a_chunk_of_its_own():
    assert segment.parse("<chunk>a</chunk>\n<chunk>b</chunk>\n\\boxed{1}") == (["a\n", "b\n", "\\boxed{1}"], True)


def test_the_filter_drops_what_does_not_rejoin_exactly():
    assert segment.rejoins(["a ", "b"], "a b")
    assert not segment.rejoins(["a", "b"], "a b")
    assert not segment.rejoins(["a b", " "], "a b ")


def test_rule_teacher_gives_one_chunk_a_step(tiny_lm):
    rng = random.Random(1)
    world = load_world(ProblemKnobs())
    stories = [arithmetic.make_story(rng, 4) for _ in range(20)]
    texts = ["".join(arithmetic.quick_solution(rng, s)) for s in stories]
    cut = segment.teach(tiny_lm, Sampler(tiny_lm), world, texts, 1, "rules", 0)
    assert all(chunks and "".join(chunks) == text and len(chunks) == 5 for chunks, text in zip(cut, texts, strict=True))
    blank = [len(segment.split_blank_lines(text)) for text in texts]
    assert sum(map(len, cut)) < 0.8 * sum(blank)  # which leaves something to learn


def test_prompted_teacher_goes_through_the_same_filter(tiny_lm, monkeypatch):
    world = load_world(ProblemKnobs())
    replies = {"a\n\nb": "a\n\n</chunk><chunk>b</chunk>", "c d": "c </chunk><chunk>D</chunk>"}
    sampler = Sampler(tiny_lm)
    order = iter(replies.values())
    monkeypatch.setattr(
        sampler, "generate", lambda requests, sampling, seed: [[type("C", (), {"ids": next(order)})()] for _ in requests]
    )
    monkeypatch.setattr(tiny_lm, "decode", lambda ids: ids)
    assert segment.teach(tiny_lm, sampler, world, list(replies), 1, "prompted", 0) == [["a\n\n", "b"], None]


@pytest.mark.parametrize(
    "reply,expected",
    [
        ("<chunk>Add 3.</chunk>\n<chunk>12+3 = 15.</chunk>", ["Add 3.\n\n", "12+3 = 15."]),
        ("<chunk>Add 3. 12+3=15.</chunk>", ["Add 3.\n\n12+3 = 15."]),
        ("<chunk>Add 4.</chunk><chunk>12+3 = 15.</chunk>", []),
        ("<chunk>Add 3.</chunk><chunk> </chunk><chunk>12+3 = 15.</chunk>", []),
        ("<chunk>Add 3.</chunk> 12+3 = 15.", ["Add 3.\n\n", "12+3 = 15."]),  # the answer may stand behind the tags
        ("<chunk>Add 3. <chunk>12+3 = 15.</chunk>", []),
    ],
)
def test_a_teacher_may_change_white_space_only(reply, expected):
    assert segment.parse_exact(reply, "Add 3.\n\n12+3 = 15.") == expected


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
def test_a_teacher_may_name_the_first_units_of_the_chunks(reply, expected):
    text = "aa\nbb\n\ncc\ndddd"
    chunks = segment.parse_numbered(reply, text)
    assert chunks == expected and (not chunks or segment.rejoins(chunks, text))


def test_units_are_paragraphs_with_their_formulas_or_lines_where_there_are_few():
    text = "First:\n\n  \\[ 1 + 1 = 2 \\]\n\nSo 2.\nYes.\n\nThen 3.\n\nEnd."
    found = segment.units(text)
    assert segment.rejoins(found, text) and [part.split()[0] for part in found] == ["First:", "So", "Then", "End."]
    assert segment.units("a\nb\n\nc") == ["a\n", "b\n\n", "c"]
