"""The benchmark of a class: which points each submission must get, and that a wrong gradebook is noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import grading
from minisw.course import mutants
from minisw.course.assignments import all_assignments
from minisw.verify.sandbox import missing_layers

A2 = all_assignments()["a2"]
FULL = {f.name: (float(f.points), float(f.points)) for f in A2.functions}


def functions(source: str) -> dict[str, str]:
    return {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def test_the_four_kinds_and_their_points() -> None:
    right = functions(mutants.submission(A2))
    assert FULL.keys() <= right.keys()
    for number in range(0, 40, 4):
        made = [grading.submission(A2, number + kind) for kind in range(4)]
        assert made[0] == (mutants.submission(A2), FULL)
        source, points = made[1]
        wrong = [name for name in FULL if functions(source)[name] != right[name]]
        assert len(wrong) == 1 and points == FULL | {wrong[0]: (0.0, FULL[wrong[0]][0] - 0.1)}
        for _, points in made[2:]:
            assert set(points.values()) == {(0.0, 0.0)} and points.keys() == FULL.keys()
        assert made[2][0].count("NotImplementedError") >= len(FULL) and "NotImplementedError" not in made[3][0]
    assert len({grading.submission(A2, number)[0] for number in range(1, 60, 4)}) > 5  # the wrong functions differ


def test_a_table_with_other_points_is_noticed(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("student,abs_q points,abs_q status,mixed points,mixed status\nann,5,ok,4,ok\nbob,0,wrong,4,ok\n")
    full = {"abs_q": (5.0, 5.0), "mixed": (4.0, 4.0)}
    assert grading.wrong_rows(table, {"ann": full, "bob": full}) == ["bob, abs_q: 0, which is not from 5 to 5"]
    assert grading.wrong_rows(table, {"bob": {"mixed": (0.0, 3.9)}}) == ["bob, mixed: 4, which is not from 0 to 3.9"]
    assert grading.wrong_rows(table, {"ann": {"abs_q": (5.0, 5.0)}, "bob": {"abs_q": (0.0, 4.9)}}) == []


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_layers()), reason="this machine cannot contain a submission")
def test_a_small_class_is_graded_truly_through_a_kill() -> None:
    found = grading.measure(A2, 4, 1)
    assert found["problems"] == [] and found["killed_and_restarted_equal"] and found["regraded_in_full"] == 1
    assert set(found["kinds"].values()) == {1}
