"""Records, and JSON Lines that are read and written."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path

import pytest

from minisw import records
from minisw.records import (
    Account,
    AnnotatedSolution,
    Answer,
    BenchItem,
    Claim,
    Judgment,
    LabelledStep,
    Problem,
    Proposal,
    Solution,
    Try,
    read_jsonl,
    write_json,
    write_jsonl,
)

ODD = 'a "quote"\\, a\nline, a\ttab, ü, 数,\u2028 and\r\n'
SAMPLES = [
    Problem("p1", ODD, "12", (3, 12)),
    Problem("p2", "q", "1"),
    Solution("p1", ("one\n\n", ODD), None, False, False, 7),
    Solution("p1", (), "12", True),
    AnnotatedSolution("p1", ("a", "b"), True, (0.5, 0.25, 1.0), ((True, False), (False, True), (True, True))),
    LabelledStep("p1", "q", ("a", ODD), "c", True, 3),
    BenchItem("b1", "q", ("a", ODD, "c"), 1, False),
    BenchItem("b2", "q", ("a",), -1, True),
    Judgment(None, ODD, 0.25, 0.75, 9),
    Judgment(True),
    Answer("p1", "chunk-reset", None, False, 10, 20, 3),
    Proposal(ODD, True, False, 8),
    Try("p1", 2, 1, ODD, None, "why", False, 8, 9),
    Claim("c1", ODD, "Table 1", None, 0.1, (0.05, 0.15), "classifier", "holds"),
    Claim("c2", "x", "§4", 1.5, None, None, "", "not tested", False),
    Account(1, 2, 3, 4, 5),
]
KINDS = {kind for _, kind in inspect.getmembers(records, dataclasses.is_dataclass)}


def test_every_record_has_a_sample() -> None:
    assert {type(sample) for sample in SAMPLES} == KINDS, "there is a new record: add a sample of it"


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__))
def test_round_trip(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    some = [sample for sample in SAMPLES if type(sample) is kind]
    write_jsonl(path, some)
    back = read_jsonl(path, kind)
    assert back == some
    assert [hash(record) for record in back] == [hash(record) for record in some]  # nested tuples, no lists
    assert len(path.read_bytes().splitlines()) == len(some)


def test_derived_views() -> None:
    assert Solution("p", ("a\n", " b"), None, False).text == "a\n b"
    steps = BenchItem("b", "q", ("a", "b", "c"), 1, False).steps()
    assert [(step.history, step.chunk, step.label) for step in steps] == [
        ((), "a", True),
        (("a",), "b", False),
        (("a", "b"), "c", False),
    ]
    assert all(step.label for step in BenchItem("b", "q", ("a", "b"), -1, True).steps())


def test_empty_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "none.jsonl", [])
    assert read_jsonl(tmp_path / "none.jsonl", Problem) == []


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "",
        "3",
        "null",
        "[]",
        '""',
        '{"id": "p"}',
        '{"id": "p", "question": "q", "answer": "1", "colour": 2}',
        '{"problem_id": "p", "method": "m"}',
    ],
)
def test_a_malformed_line_is_reported_with_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{records.to_json(SAMPLES[0])}\n{line}\n{records.to_json(SAMPLES[1])}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: ") as caught:
        read_jsonl(path, Problem)
    assert "\n" not in str(caught.value)


def test_a_truncated_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "half.jsonl"
    write_jsonl(path, SAMPLES[:2])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"half\.jsonl:2: "):
        read_jsonl(path, Problem)


def test_another_encoding_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    write_jsonl(path, SAMPLES[:2])
    path.write_bytes(path.read_bytes() + '{"id": "p", "question": "ü", "answer": "1"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl:3: "):
        read_jsonl(path, Problem)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, SAMPLES[:1])

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def broken():
        yield SAMPLES[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, broken())
    assert read_jsonl(path, Problem) == SAMPLES[:1]
    for step in ("fsync", "replace"):  # interrupted while writing, and just before the rename
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, step, fail)
            write_jsonl(path, SAMPLES[:2])
        assert read_jsonl(path, Problem) == SAMPLES[:1]
    write_jsonl(path, SAMPLES[:2])  # the remains of an interrupted write do no harm
    assert read_jsonl(path, Problem) == SAMPLES[:2]
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]


def test_write_json_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, None, "ü"]})
    assert path.read_text(encoding="utf-8").endswith("\n")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert "ü" in path.read_text(encoding="utf-8")


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        write_jsonl(tmp_path / f"{rank}.jsonl", SAMPLES[:1])
    assert [file.name for file in tmp_path.iterdir()] == ["0.jsonl"]


def test_flat_joins_groups_in_order() -> None:
    assert records.flat([[1, 2], [], [3]]) == [1, 2, 3]
