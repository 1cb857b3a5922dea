"""Mutants: wrong versions of the functions, which test the relations and are the bugs to be found.

A mutant replaces one piece of text in a function's source. If that text does not stand there exactly once, the mutant is stale
and must be mended.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisw.course.assignments import Assignment
from minisw.course.skeleton import function_source, replace_function, with_settings
from minisw.course.slices import bound, sliced


class StaleMutant(ValueError):
    """The text that a mutant replaces is not in its function exactly once."""


@dataclass(frozen=True)
class Mutant:
    """A wrong version: `name` in words, `function` by its short name, the text `old` and what replaces it.

    `counterexample` has arguments on which right and wrong differ, as a JSON file has them (`arguments`); with one the mutant can
    be offered as a bug to be found.
    """

    name: str
    function: str
    old: str
    new: str
    counterexample: tuple | None = None
    endless: bool = False  # the only kind that may be caught by time
    large: bool = False  # only the worker's limit of memory catches it


def source_with(assignment: Assignment, function: str, mutant: Mutant | None = None, variant: str = "") -> str:
    """The module of a function (short name) as the reference has it, or with a mutant. Raises StaleMutant."""
    module = assignment.module_of(function)
    source = with_settings(assignment.source(module), module, assignment.settings(variant))
    if mutant:
        text = sliced(source, [function]) if assignment.sliced else function_source(source, function)  # helpers are a part of it
        if text.count(mutant.old) != 1:
            raise StaleMutant(f"mutant {mutant.name!r}: {mutant.old!r} is {text.count(mutant.old)} times in {function}")
        changed = text.replace(mutant.old, mutant.new)
        return changed if assignment.sliced else replace_function(source, function, changed)
    return source


def submission(assignment: Assignment, mutant: Mutant | None = None, variant: str = "") -> str:
    """The reference as a student would hand it in, or with one wrong version: the sources of the modules, one below the other.

    The modules of an assignment do not import one another.
    """
    modules = {assignment.module_of(f.name): f.name for f in assignment.functions}
    if mutant:
        modules[assignment.module_of(mutant.function)] = mutant.function
    wrong = {name: mutant if mutant and mutant.function == name else None for name in modules.values()}
    lines = [line for name in modules.values() for line in source_with(assignment, name, wrong[name], variant).splitlines()]
    dropped = ("from __future__ import ", *(f"from {module} import " for module in modules))
    kept = [line for line in lines if not line.startswith(dropped)]
    return "\n".join(["from __future__ import annotations", *kept]) + "\n"


def function_of(assignment: Assignment, function: str, mutant: Mutant | None = None, variant: str = ""):
    """The reference, or a mutant of it, as a function of this process."""
    names = {"__name__": f"{assignment.module_of(function)} (reference)"}
    exec(_code(source_with(assignment, function, mutant, variant)), names)
    return names[function]


def arguments(function: Callable, values: Sequence) -> tuple:
    """Values of a JSON file as arguments: lists of numbers become tensors where the function asks for a torch.Tensor.

    Raises ValueError or TypeError for lists that are no tensor.
    """
    wanted = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    found = list(values)
    for i, (annotation, value) in enumerate(zip(wanted, values, strict=False)):
        if annotation == "torch.Tensor" and isinstance(value, list):
            found[i] = importlib.import_module("torch").tensor(value)
    return tuple(found)


@functools.lru_cache(256)
def _code(source: str):
    return compile(source, "reference", "exec", dont_inherit=True)


def bugs(assignment: Assignment, variant: str = "") -> dict[str, Mutant]:
    """The wrong versions that students of this variant look at: bug_1, bug_2, …"""
    pool = [mutant for mutant in assignment.load("mutants").MUTANTS if mutant.counterexample is not None]
    chosen = random.Random(f"bugs/{variant}").sample(pool, assignment.bugs)
    return {f"bug_{i}": mutant for i, mutant in enumerate(chosen, 1)}


def bugs_file(assignment: Assignment, variant: str = "") -> str:
    """The wrong versions as a file for students: each function under the name bug_1, bug_2, …

    What they use comes along: private helpers of the package as text, other graded functions from the student's own file.
    """
    first = '"""Wrong versions. For each, find arguments on which it differs from the right function."""'
    known = {name for node in ast.parse(assignment.preamble).body for name in bound(node)}
    helpers: dict[str, None] = {}
    graded, parts = set(), []
    for name, mutant in bugs(assignment, variant).items():
        source = source_with(assignment, mutant.function, mutant, variant)
        text = function_source(source, mutant.function)
        helpers |= dict.fromkeys(_helpers(source, text, known))
        graded |= _names(ast.parse(text)) & {f.name for f in assignment.functions} - known - {mutant.function}
        parts.append(f"# a wrong version of {mutant.function}\n{text.replace(f'def {mutant.function}(', f'def {name}(', 1)}")
    own = f"\nfrom student import {', '.join(sorted(graded))}  # wrong versions use yours" if graded else ""
    parts = [f"{first}\n\n{assignment.preamble.strip()}{own}", *helpers, *parts]
    return assignment.filled("\n\n\n".join(part.strip() for part in parts) + "\n", variant)


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _helpers(source: str, function: str, known: set[str]) -> list[str]:
    """Texts of the private definitions of a module that a function's text uses, also through one another, in their order."""
    body = ast.parse(source).body
    owners = {name: node for node in body for name in bound(node) if name.startswith("_") and name not in known}
    found, pending = set(), [ast.parse(function)]
    while pending:
        new = (_names(pending.pop()) & owners.keys()) - found
        found |= new
        pending += [owners[name] for name in new]
    return [ast.get_source_segment(source, node) for node in body if found & {*bound(node)}]
