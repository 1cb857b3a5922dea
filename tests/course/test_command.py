"""The command `python -m minisw.course`, and the gradebook."""

import csv
import dataclasses
import json
import sys

import pytest

from minisw.course import __main__, grade, gradebook, table
from minisw.course.assignments import all_assignments
from minisw.verify.sandbox import missing_layers

if missing_layers():
    pytest.skip(f"this machine cannot contain a submission: {missing_layers()}", allow_module_level=True)

A2 = all_assignments()["a2"]


def course(*argv: object) -> int:
    return __main__.main([str(argument) for argument in argv])


@pytest.fixture()
def quick(monkeypatch):
    """Assignment 2 with two functions only."""
    two = dataclasses.replace(A2, functions=tuple(f for f in A2.functions if f.name in ("abs_q", "mixed")))
    monkeypatch.setattr(__main__, "all_assignments", lambda: {"a2": two})
    return two


ABS_Q = "def abs_q(q):\n    return [value > 0 for value in q[1:]]\n"


def test_list_says_what_there_is(capsys):
    assert course("list") == 0
    assert "a2  Values and labels: 8 functions" in capsys.readouterr().out


def test_make_writes_what_students_get_and_keeps_their_work(tmp_path, capsys):
    assert course("make", "a2", tmp_path / "out", "--variant", "2027") == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    given = {"student.py", "bugs.py", "counterexamples.json", "handout.md", "report.md", "check.py", "guide.ipynb"}
    assert files == given
    handout = (tmp_path / "out" / "handout.md").read_text()
    settings = A2.settings("2027")
    assert "{{" not in handout and f"n = {settings['minisw.labels.rel_effective.n']} if" in handout
    assert json.loads((tmp_path / "out" / "counterexamples.json").read_text()) == {f"bug_{i}": [] for i in range(1, 6)}
    assert "'2027'" in (tmp_path / "out" / "check.py").read_text()
    assert (tmp_path / "out" / "report.md").read_text().startswith("# Values and labels: report")
    assert course("make", "a2", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"{tmp_path / 'out'} has a student.py already: choose another folder\n"


def test_check_py_tries_the_files_beside_it(tmp_path, monkeypatch, capsys, quick):
    __main__.make(A2, tmp_path)
    (tmp_path / "student.py").write_text(ABS_Q)
    with pytest.raises(SystemExit) as end:
        exec(
            compile((tmp_path / "check.py").read_text(), str(tmp_path / "check.py"), "exec"),
            {"__file__": str(tmp_path / "check.py")},
        )
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "abs_q                     5.0 of 5   ok\n" in out
    assert "    mixed anchor: NotImplementedError: there is no function mixed\n" in out and "not tried" not in out
    assert out.endswith("automatic                 5.0 of 70\n")


def test_check_py_tries_the_counterexamples(tmp_path, capsys, quick):
    __main__.make(A2, tmp_path)
    (tmp_path / "counterexamples.json").write_text('{"bug_1": "text", "bug_2": [')
    code = compile((tmp_path / "check.py").read_text(), "check.py", "exec")
    with pytest.raises(SystemExit):
        exec(code, {"__file__": str(tmp_path / "check.py")})
    assert "    bug 1: counterexamples.json is no JSON: " in capsys.readouterr().out


def test_grade_writes_a_result_with_its_seed(tmp_path, capsys, quick):
    (tmp_path / "student.py").write_text(ABS_Q)
    assert course("grade", "a2", tmp_path, "--json", tmp_path / "result.json", "--seed", 5) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["seed"], result["automatic"], result["grader"]) == (5, 5, grade.VERSION)
    assert course("grade", "a2", tmp_path, "--json", tmp_path / "result.json") == 0
    assert json.loads((tmp_path / "result.json").read_text())["seed"] != 5


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    assert course("grade", "a2", tmp_path / "none.py") == 2
    assert "none.py cannot be read: " in capsys.readouterr().err
    assert course("grade", "a9", tmp_path) == 2
    assert capsys.readouterr().err.startswith("there is no assignment 'a9': choose one of a")
    assert course("gradebook", "a2", tmp_path / "none", "--csv", tmp_path / "t.csv") == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        course("grade", "a2")
    assert end.value.code == 2


def test_a_failing_reference_is_status_3(tmp_path, capsys, monkeypatch, quick):
    def fails(*_):
        raise grade.ReferenceFails("the reference fails")

    monkeypatch.setattr(grade, "check_reference", fails)
    (tmp_path / "student.py").write_text(ABS_Q)
    assert course("grade", "a2", tmp_path) == 3
    assert capsys.readouterr().err == "the reference fails\n"


def test_a_machine_that_cannot_contain_code_is_status_2(tmp_path, capsys, monkeypatch, quick):
    monkeypatch.setattr(grade, "missing_layers", lambda: ["seccomp"])
    (tmp_path / "student.py").write_text(ABS_Q)
    assert course("grade", "a2", tmp_path) == 2
    assert "it lacks: seccomp (--unsafe does without)" in capsys.readouterr().err
    assert course("grade", "a2", tmp_path, "--unsafe") == 0
    assert course("check", "a2", tmp_path) == 0


def test_mutants_writes_the_table_and_fails_on_a_problem(tmp_path, capsys, monkeypatch, quick):
    row = {"assignment": "a2", "function": "f", "mutant": "m", "relations": {"r": "wrong"}, "endless": False}
    monkeypatch.setattr(table, "rows", lambda assignment: [row])
    assert course("mutants", "--json", tmp_path / "m.json") == 0
    assert json.loads((tmp_path / "m.json").read_text()) == [row]
    monkeypatch.setattr(table, "rows", lambda assignment: [row | {"relations": {"r": "ok"}}])
    assert course("mutants", "a2") == 1
    assert "a2 f: mutant 'm' is not caught" in capsys.readouterr().out


def test_the_table_runs_in_the_worker(monkeypatch, quick):
    found = [m for m in A2.load("mutants").MUTANTS if m.function == "mixed"][:1]
    loaded = type("M", (), {"MUTANTS": found, "RELATIONS": A2.load("relations").RELATIONS})
    monkeypatch.setattr(type(A2), "load", lambda self, name: loaded)
    (row,) = table.rows(A2)
    assert row["relations"] == {"mixed_anchor": "wrong", "mixed_without_the_others": "wrong"}
    assert row["counterexample"] is True and row["mutant"] == "all wrong kept" and row["endless"] is False


def test_the_table_needs_references_that_pass_in_the_worker(monkeypatch, quick):
    def stops(call, reference, rng):
        assert call([[True]]) == "never"

    found = [m for m in A2.load("mutants").MUTANTS if m.function == "mixed"][:1]
    loaded = type("M", (), {"MUTANTS": found, "RELATIONS": {"mixed": [stops]}})
    monkeypatch.setattr(type(A2), "load", lambda self, name: loaded)
    with pytest.raises(grade.ReferenceFails, match="the reference of mixed fails in the worker: .*'stops': "):
        table.rows(A2)


# --- gradebook -------------------------------------------------------------------------------------------------------------


@pytest.fixture()
def students(tmp_path):
    folder = tmp_path / "submissions"
    for name, text in {"=ann": ABS_Q, "ben": "def mixed(groups): return 0\n", "cem": "import os; os._exit(0)"}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "student.py").write_text(text)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to(folder / "=ann")
    (folder / ".hidden").mkdir()
    return folder


def rows_of(path) -> list[dict]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_a_gradebook_has_a_row_for_everybody(students, tmp_path, quick):
    gradebook.grade_folder(quick, students, tmp_path / "t.csv", jobs=2, say=lambda text: None)
    rows = {row["student"]: row for row in rows_of(tmp_path / "t.csv")}
    assert set(rows) == {"'=ann", "ben", "cem", "empty", "link"}
    assert rows["link"]["error"].endswith("cannot be read: it is a link") and rows["link"]["automatic"] == "0"
    assert (
        rows["'=ann"]["automatic"] == "5.0" and rows["'=ann"]["abs_q status"] == "ok" and rows["'=ann"]["abs_q points"] == "5.0"
    )
    assert rows["ben"]["mixed status"] == "wrong" and rows["ben"]["abs_q status"] == "not_implemented"
    assert rows["cem"]["abs_q status"] == "died" and rows["cem"]["automatic"] == "0.0"
    assert rows["empty"]["error"].startswith("there is no student.py in ") and rows["empty"]["automatic"] == "0"
    assert list(rows["ben"]) == [
        *("student", "automatic", "abs_q points", "abs_q status", "mixed points", "mixed status", "bugs points", "bugs status"),
        "error",
    ]


def test_a_gradebook_grades_only_what_changed(students, tmp_path, quick, monkeypatch):
    said: list[str] = []

    def again(**options):
        gradebook.grade_folder(quick, students, tmp_path / "t.csv", say=said.append, **options)

    again()
    assert sorted(line.split(":")[0] for line in said) == ["=ann", "ben", "cem"] and "=ann: 5.0 of 70" in said
    first = (tmp_path / "t.csv").read_text()
    said.clear()
    (tmp_path / "t.csv").unlink()
    again()
    assert said == [] and (tmp_path / "t.csv").read_text() == first
    (tmp_path / "t.csv.results" / "ben.json").write_text("{")  # as if it had been interrupted
    (students / "cem" / "student.py").write_text(ABS_Q)
    again()
    assert sorted(line.split(":")[0] for line in said) == ["ben", "cem"]
    said.clear()
    again(variant="2027")
    assert len(said) == 3
    said.clear()
    again(variant="2027", seed=3)
    assert len(said) == 3
    assert {json.loads(f.read_text())["seed"] for f in (tmp_path / "t.csv.results").glob("*.json")} == {3}


def test_a_result_counts_for_its_assignment_and_grader_alone(students, tmp_path, quick, monkeypatch):
    """Whatever names a result differently: the submissions are graded anew, once."""
    graded: list[str] = []

    def graded_once(assignment, texts, seed, variant=""):
        graded.append(assignment.name)
        named = {"assignment": assignment.name, "variant": variant, "seed": seed, "sha256": grade.digest(texts)}
        return {**named, "grader": grade.VERSION, "automatic": 0, "of": {"automatic": 70}, "parts": []}

    monkeypatch.setattr(grade, "grade", graded_once)
    other = dataclasses.replace(quick, name="other")
    for assignment, version, total in ((quick, grade.VERSION, 3), (other, grade.VERSION, 6), (other, "newer", 9)):
        monkeypatch.setattr(grade, "VERSION", version)
        for _ in range(2):
            gradebook.grade_folder(assignment, students, tmp_path / "t.csv", say=lambda text: None)
        assert len(graded) == total


def test_the_table_and_its_results_are_no_students(students, quick, monkeypatch):
    monkeypatch.setattr(grade, "grade", lambda *_, **__: {"automatic": 0, "of": {"automatic": 70}, "parts": []})
    for _ in range(2):
        rows = gradebook.grade_folder(quick, students, students / "t.csv", say=lambda text: None)
        assert [row["student"] for row in rows] == ["=ann", "ben", "cem", "empty", "link"]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_run_by_a_spreadsheet(begin):
    assert gradebook.cell(f"{begin}SUM(A1)").startswith("'")
    assert "\n" not in gradebook.cell("a\nb") and gradebook.cell("name") == "name"


def test_numbers_are_no_dangerous_cells():
    assert gradebook.cell(-1.5) == "-1.5" and gradebook.cell(0) == "0"


def test_the_course_loads_no_torch():
    import subprocess

    code = "import sys, minisw.course.__main__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"
