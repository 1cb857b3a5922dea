"""Segmentation: whatever the text, the parts rejoin; a broken format is seen."""

import random

import pytest

from minisw import chunks as chunk_format
from minisw import teacher
from minisw.engine.sampler import Sampler
from minisw.problems import load_task
from minisw.problems.arithmetic import stories
from minisw.recipe import ProblemKnobs


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(["a", "b.", " ", "\n", "\n\n", "\n \n", "<", "\\boxed{1}", "é"]) for _ in range(rng.randint(1, 40)))


def test_splits_and_tags_rejoin_to_the_text():
    rng = random.Random(0)
    for _ in range(300):
        text = random_text(rng)
        for split in (chunk_format.split_blank_lines, chunk_format.split_newlines):
            assert "".join(split(text)) == text
        chunks = [text, "x\n\n", random_text(rng)]
        assert chunk_format.parse_chunks(chunk_format.tag(chunks)) == (chunks, True) or not chunks[0].strip()


@pytest.mark.parametrize(
    "text",
    ["<chunk>a", "a</chunk>", "a<chunk>b</chunk>", "<chunk>a<chunk>b</chunk></chunk>", "<chunk>a</chunk>b<chunk>c", "plain"],
)
def test_a_broken_format_is_seen_and_loses_no_text_but_tags(text):
    chunks, well_formed = chunk_format.parse_chunks(text)
    assert not well_formed
    assert "".join(chunks) == text.replace("<chunk>", "").replace("</chunk>", "")


def test_an_answer_behind_the_chunks_is_a_chunk_of_its_own():
    assert chunk_format.parse_chunks("<chunk>a</chunk>\n<chunk>b</chunk>\n\\boxed{1}") == (["a\n", "b\n", "\\boxed{1}"], True)


def test_the_filter_drops_what_does_not_rejoin_exactly():
    assert chunk_format.rejoins(["a ", "b"], "a b")
    assert not chunk_format.rejoins(["a", "b"], "a b")
    assert not chunk_format.rejoins(["a b", " "], "a b ")


def test_rule_teacher_gives_one_chunk_a_step(tiny_lm):
    rng = random.Random(1)
    task = load_task(ProblemKnobs())
    texts = ["".join(stories.quick_solution(rng, stories.make_story(rng, 4))) for _ in range(20)]
    cut = teacher.segmentations(tiny_lm, Sampler(tiny_lm), task, texts, 1, "rules", 0)
    assert all(len(offers) == 1 for offers in cut)
    cut = [offers[0] for offers in cut]
    assert all("".join(chunks) == text and len(chunks) == 5 for chunks, text in zip(cut, texts, strict=True))
    blank = [len(chunk_format.split_blank_lines(text)) for text in texts]
    assert sum(map(len, cut)) < 0.8 * sum(blank)  # which leaves something to learn


def test_prompted_teacher_goes_through_the_same_filter(tiny_lm, monkeypatch):
    task = load_task(ProblemKnobs())
    replies = {"a\n\nb": "a\n\n</chunk><chunk>b</chunk>", "c d": "c </chunk><chunk>D</chunk>"}
    sampler = Sampler(tiny_lm)
    order = iter(replies.values())
    monkeypatch.setattr(
        sampler, "generate", lambda requests, sampling, seed: [[type("C", (), {"ids": next(order)})()] for _ in requests]
    )
    monkeypatch.setattr(tiny_lm, "decode", lambda ids: ids)
    assert teacher.segmentations(tiny_lm, sampler, task, list(replies), 1, "prompted", 0) == [[["a\n\n", "b"]], []]


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
    assert chunk_format.cut_like(reply, "Add 3.\n\n12+3 = 15.") == expected


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
    chunks = chunk_format.parse_numbered(reply, text)
    assert chunks == expected and (not chunks or chunk_format.rejoins(chunks, text))


def test_units_are_paragraphs_with_their_formulas_or_lines_where_there_are_few():
    text = "First:\n\n  \\[ 1 + 1 = 2 \\]\n\nSo 2.\nYes.\n\nThen 3.\n\nEnd."
    found = chunk_format.paragraph_units(text)
    assert chunk_format.rejoins(found, text) and [part.split()[0] for part in found] == ["First:", "So", "Then", "End."]
    assert chunk_format.paragraph_units("a\nb\n\nc") == ["a\n", "b\n\n", "c"]
