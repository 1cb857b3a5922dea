"""Test the tests: which relation catches which mutant."""

from __future__ import annotations

import contextlib

from minisw.course import mutants
from minisw.course.assignments import Assignment
from minisw.course.grade import ReferenceFails, run_part
from minisw.course.mutants import function_of, source_with
from minisw.course.relations import same
from minisw.course.skeleton import visible_modules
from minisw.verify.remote import Worker
from minisw.verify.sandbox import missing_layers


def rows(assignment: Assignment, seed: int = 0) -> list[dict]:
    """For each mutant the status of every relation of its function ("ok" where it is not caught).

    Raises ReferenceFails if a reference does not pass in the worker: its mutants would then be caught by any relation.
    """
    relations, found = assignment.load("relations").RELATIONS, []
    modules = visible_modules(assignment, assignment.settings(""), whole=True)
    with contextlib.closing(Worker(modules, missing_layers())) as worker:
        for name in dict.fromkeys(mutant.function for mutant in assignment.load("mutants").MUTANTS):
            right = function_of(assignment, name)
            failed = run_part(worker, source_with(assignment, name), name, right, relations[name], f"{seed}/{name}")
            if failed:
                raise ReferenceFails(f"the reference of {name} fails in the worker: {failed}")
        for mutant in assignment.load("mutants").MUTANTS:
            reference, source = function_of(assignment, mutant.function), source_with(assignment, mutant.function, mutant)
            statuses = {}
            for relation in relations[mutant.function]:
                failed = run_part(worker, source, mutant.function, reference, [relation], f"{seed}/{mutant.function}")
                statuses[relation.__name__] = next(iter(failed.values()), ("ok", ""))[0]
            row = {"assignment": assignment.name, "mutant": mutant.name, "function": mutant.function, "relations": statuses}
            if mutant.counterexample is not None:
                wrong = function_of(assignment, mutant.function, mutant)
                row["counterexample"] = _differ(reference, wrong, mutant.counterexample)
            found.append(row | {"endless": mutant.endless})
    return found


def problems(rows: list[dict]) -> list[str]:
    """A sentence for each mutant that no relation catches (time counts only if it is endless), each relation that catches none,
    and each kept counterexample on which right and wrong do not differ."""
    found, useful = [], {}
    for row in rows:
        name = f"{row['assignment']} {row['function']}: mutant {row['mutant']!r}"
        counted = {
            relation: status != "ok" and (status != "time" or row["endless"]) for relation, status in row["relations"].items()
        }
        if not any(counted.values()):
            found.append(f"{name} is not caught")
        if row.get("counterexample") is False:
            found.append(f"{name}: its counterexample shows no difference")
        for relation, caught in counted.items():
            key = f"{row['assignment']} {row['function']}: relation {relation}"
            useful[key] = useful.get(key, False) or caught
    return found + [f"{key} catches no mutant" for key, caught in useful.items() if not caught]


def _differ(right, wrong, arguments: tuple) -> bool:
    """Whether two functions give different results on some arguments; an exception of the wrong one is a difference."""
    values = mutants.arguments(right, arguments)
    value = right(*values)
    try:
        return not same(value, wrong(*values))
    except Exception:
        return True
