"""Assignments as notebooks: the guides to the reports, and the source notebooks for nbgrader."""

import __future__

import ast
import json
import re
import sys
import types

import pytest

from minisw.course import __main__, nbgrader
from minisw.course.assignments import all_assignments
from minisw.course.mutants import function_of

ASSIGNMENTS = all_assignments()
A2 = ASSIGNMENTS["a2"]


def run_cell(source: str, names: dict) -> None:
    """Run a cell as IPython does, where annotations stay texts once a cell has asked for it."""
    exec(compile(source, "cell", "exec", __future__.annotations.compiler_flag), names)


def cells_of(text: str) -> list[dict]:
    notebook = json.loads(text)
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    return notebook["cells"]


# --- guides ----------------------------------------------------------------------------------------------------------------


def test_cells_of_percent_text():
    text = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1  # %% no cell\n\n\n# %%\n# a comment\ny = 2\n"
    found = [(cell["cell_type"], cell["source"]) for cell in nbgrader.percent_cells(text)]
    assert found == [("markdown", "# Title\n\nText."), ("code", "x = 1  # %% no cell"), ("code", "# a comment\ny = 2")]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_guide_calls_functions_of_its_assignment_and_ends_with_a_figure(name, tmp_path):
    assignment = ASSIGNMENTS[name]
    assert __main__.main(["make", name, str(tmp_path / "out")]) == 0
    cells = cells_of((tmp_path / "out" / "guide.ipynb").read_text(encoding="utf-8"))
    jupytext = pytest.importorskip("jupytext")
    expected = jupytext.read(assignment.folder / "guide.py", fmt="py:percent").cells
    assert [(cell["cell_type"], cell["source"]) for cell in cells] == [(c.cell_type, c.source) for c in expected]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    called = set(re.findall(r"student\.(\w+)", "".join(code))) - {"py"}
    assert called <= {function.name for function in assignment.functions}
    assert called or "getattr(student, name)" in "".join(code)
    assert "plt." in code[-1] and all(ast.parse(source) for source in code)
    assert max(len(line) for source in code for line in source.splitlines()) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_guide_runs_with_the_reference_as_the_students_file(name, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    assignment, student = ASSIGNMENTS[name], types.ModuleType("student")
    for function in assignment.functions:
        setattr(student, function.name, function_of(assignment, function.name))
    monkeypatch.setitem(sys.modules, "student", student)
    names: dict = {}
    for cell in nbgrader.percent_cells((assignment.folder / "guide.py").read_text(encoding="utf-8")):
        if cell["cell_type"] == "code":
            run_cell(cell["source"], names)
    assert matplotlib.pyplot.gca().get_xlabel()
    matplotlib.pyplot.close("all")


# --- nbgrader --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_source_notebook_has_all_points_and_nbgraders_metadata(name, tmp_path):
    assert __main__.main(["make", name, str(tmp_path), "--variant", "2027", "--format", "nbgrader"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"handout.md", "guide.ipynb", f"{name}.ipynb"}
    cells = cells_of((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))
    marks = [cell["metadata"]["nbgrader"] for cell in cells if "nbgrader" in cell["metadata"]]
    assert len({mark["grade_id"] for mark in marks}) == len(marks) and {mark["schema_version"] for mark in marks} == {3}
    assert sum(mark["points"] for mark in marks if mark["grade"]) == 60 + 30
    assert all(mark["locked"] is not mark["solution"] and ("points" in mark) is mark["grade"] for mark in marks)
    for cell in cells:
        mark = cell["metadata"].get("nbgrader", {"solution": False, "grade": False})
        source = cell["source"]
        regions = (source.count("### BEGIN SOLUTION"), source.count("### END SOLUTION"))
        assert regions == ((1, 1) if mark["solution"] and not mark["grade"] else (0, 0))
        outside = re.sub("### BEGIN SOLUTION.*### END SOLUTION", "", source, flags=re.S)
        assert "reference(" not in outside
    assert __main__.main(["make", name, str(tmp_path), "--format", "nbgrader"]) == 2


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "a3" else n for n in ASSIGNMENTS])
def test_the_teachers_version_passes_and_the_students_fails_every_test(name):
    cells = cells_of(nbgrader.source_notebook(ASSIGNMENTS[name], "2027"))
    right, cut = {}, {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        run_cell(cell["source"], right)
        source = re.sub("### BEGIN SOLUTION.*### END SOLUTION", "raise NotImplementedError()", cell["source"], flags=re.S)
        if cell["metadata"].get("nbgrader", {}).get("grade"):
            with pytest.raises(AssertionError, match="NotImplementedError"):
                run_cell(source, cut)
        else:
            run_cell(source, cut)


def test_a_variant_changes_what_is_checked_and_asked():
    default = function_of(A2, "rel_ratio")
    nbgrader.check("a2", "rel_ratio", default)
    with pytest.raises(AssertionError, match="expected"):
        nbgrader.check("a2", "rel_ratio", default, "2027")
    gamma = A2.settings("2027")["minisw.labels.rel_ratio.gamma"]
    assert f"gamma: float = {gamma}" in nbgrader.source_notebook(A2, "2027")
