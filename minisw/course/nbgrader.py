"""Assignments as notebooks: the guide of py:percent text, and a source notebook for nbgrader.

The source notebook is for the teacher. Its solution regions call the reference of the installed package, and nbgrader cuts them
when it makes the students' version. The tests are the relations, all or nothing for each function; they run in the kernel of the
submission, which nbgrader does not protect against.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence

from minisw.course import mutants
from minisw.course.assignments import REPORT_POINTS, Assignment, all_assignments
from minisw.course.relations import failures
from minisw.course.skeleton import STUB, cut, function_node, function_source, with_settings

METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
REGION = "### BEGIN SOLUTION\n    from minisw.course.nbgrader import reference\n\n    return {call}\n    ### END SOLUTION"
CHECK = "from minisw.course.nbgrader import check\n\ncheck({assignment!r}, {name!r}, {name}, {variant!r})"


def ipynb(cells: Sequence[dict]) -> str:
    """The text of an .ipynb file with cells of `cell_of`."""
    cells = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def cell_of(kind: str, source: str, **metadata: object) -> dict:
    """A cell that was not executed; `kind` is "code" or "markdown"."""
    cell = {"cell_type": kind, "metadata": metadata, "source": source}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def percent_cells(text: str) -> list[dict]:
    """The cells of a py:percent text, which begins with `# %%`."""
    cells = []
    for kind, source in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", text, re.M | re.S):
        source = re.sub(r"^# ?", "", source, flags=re.M) if kind else source
        cells.append(cell_of("markdown" if kind else "code", source.strip()))
    return cells


def source_notebook(assignment: Assignment, variant: str = "") -> str:
    """The .ipynb that nbgrader takes as the source of an assignment: functions, their tests, and the report."""
    cells = [cell_of("markdown", f"# {assignment.title}"), cell_of("code", assignment.preamble.strip())]
    settings = assignment.settings(variant)
    for function in assignment.functions:
        name = function.name
        source = with_settings(assignment.source(function.module), function.module, settings)
        region = REGION.format(call=_call(source, assignment.name, name, variant))
        cells.append(_graded("code", name, _student_text(source, name).replace(STUB, region)))
        check = CHECK.format(assignment=assignment.name, name=name, variant=variant)
        cells.append(_graded("code", f"test_{name}", check, points=function.points, solution=False))
    cells.append(_graded("markdown", "report", "Your report.", points=REPORT_POINTS))
    return ipynb([cell | {"source": assignment.filled(cell["source"], variant)} for cell in cells])


def _student_text(source: str, name: str) -> str:
    return function_source(cut(source, [name]), name)


def _call(source: str, assignment: str, name: str, variant: str) -> str:
    """A call of the reference with the function's own arguments."""
    arguments = function_node(source, name).args
    given = [a.arg for a in (*arguments.posonlyargs, *arguments.args)] + [f"{a.arg}={a.arg}" for a in arguments.kwonlyargs]
    return ast.unparse(ast.parse(f"reference({assignment!r}, {name!r}, {variant!r})({', '.join(given)})"))


def _graded(kind: str, grade_id: str, source: str, points: int | None = None, solution: bool = True) -> dict:
    """A cell with nbgrader's metadata: an answer (`solution`), tests with points, or a text that is graded by hand (both)."""
    metadata = {"schema_version": 3, "cell_type": kind, "grade_id": grade_id, "task": False}
    metadata |= {"solution": solution, "grade": points is not None, "locked": not solution}
    return cell_of(kind, source, nbgrader=metadata | ({"points": points} if points is not None else {}))


# --- what the cells call ---------------------------------------------------------------------------------------------------


def reference(assignment: str, function: str, variant: str = "") -> Callable:
    """The reference of a function, by the assignment's short name."""
    return mutants.function_of(all_assignments()[assignment], function, variant=variant)


def check(assignment: str, function: str, call: Callable, variant: str = "", seed: int = 0) -> None:
    """Raises AssertionError, a sentence for each relation that does not hold for `call`."""
    relations = all_assignments()[assignment].load("relations").RELATIONS[function]
    failed = failures(relations, call, reference(assignment, function, variant), f"{seed}/{function}")
    assert not failed, "; ".join(f"{name}: {sentence}" for name, (_, sentence) in failed.items())
