"""What students get and the worker may see: the package's source with the bodies of graded functions cut, and variants of it.

All functions here turn source text into source text, so that comments and line breaks stay.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Mapping

from minisw.course.assignments import Assignment, module_file
from minisw.course.slices import sliced

STUB = "raise NotImplementedError"


def function_node(source: str, name: str) -> ast.FunctionDef:
    """The syntax tree of a function at the top level of a module. Raises KeyError if there is none."""
    if name not in (functions := _functions(source)):
        raise KeyError(f"there is no function {name}")
    return functions[name]


@functools.lru_cache(256)  # the same modules are cut and changed for every function and submission
def _functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def function_source(source: str, name: str) -> str:
    """The text of a function at the top level of a module."""
    return ast.get_source_segment(source, function_node(source, name))


def replace_function(source: str, name: str, text: str) -> str:
    """The module with another text for one of its functions."""
    node, lines = function_node(source, name), source.splitlines(keepends=True)
    return "".join([*lines[: node.lineno - 1], text + "\n", *lines[node.end_lineno :]])


def cut(source: str, names: Collection[str]) -> str:
    """The module with `raise NotImplementedError` for the bodies of some functions. Signatures and docstrings stay."""
    for name in names:
        node, lines = function_node(source, name), source.splitlines(keepends=True)
        first = node.body[0]
        kept = first.end_lineno if ast.get_docstring(node) is not None else first.lineno - 1
        source = "".join([*lines[:kept], " " * first.col_offset + STUB + "\n", *lines[node.end_lineno :]])
    return source


def with_settings(source: str, module: str, settings: Mapping[str, object]) -> str:
    """The module with other defaults ("minisw.labels.rel_effective.n") and constants ("minisw.chunks.OPEN").

    A constant is assigned after the last import, so that it also replaces an imported one. Raises KeyError for an unknown
    argument.
    """
    constants = []
    for dotted, value in settings.items():
        owner, _, name = dotted.rpartition(".")
        if owner == module:
            constants.append(f"{name} = {value!r}\n")
        elif owner.rpartition(".")[0] == module:
            source = _with_default(source, owner.rpartition(".")[2], name, value)
    if constants:
        imports = [node.end_lineno for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        lines = source.splitlines(keepends=True)
        source = "".join([*lines[: imports[-1]], *constants, *lines[imports[-1] :]])
    return source


def _with_default(source: str, function: str, argument: str, value: object) -> str:
    arguments = function_node(source, function).args
    named = [*arguments.posonlyargs, *arguments.args]
    defaults = dict(zip((a.arg for a in named[len(named) - len(arguments.defaults) :]), arguments.defaults, strict=True))
    defaults |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None}
    node = defaults[argument]
    lines = source.splitlines(keepends=True)
    line = lines[node.lineno - 1]  # signatures are ASCII, so offsets in bytes are offsets in characters
    lines[node.lineno - 1] = line[: node.col_offset] + repr(value) + line[node.end_col_offset :]
    return "".join(lines)


def student_file(assignment: Assignment, variant: str = "") -> str:
    """The file that students fill in: the preamble, then every function with signature and docstring."""
    settings = assignment.settings(variant)
    parts = [f'"""{assignment.title}. Fill in the functions; `python check.py` tries them."""\n\n{assignment.preamble.strip()}']
    for function in assignment.functions:
        source = cut(with_settings(assignment.source(function.module), function.module, settings), [function.name])
        parts.append(f"# {function.points} points\n{function_source(source, function.name)}")
    return assignment.filled("\n\n\n".join(parts) + "\n", variant)


def visible_modules(assignment: Assignment, settings: Mapping[str, object], whole: bool = False) -> dict[str, str]:
    """Source of every module of the package that a submission may import, with all graded and hidden functions cut.

    These are the modules of the graded functions and what they import. Packages have an empty source. With `whole` nothing is
    cut: references and mutants may call other graded functions.
    """
    sources: dict[str, str] = {}
    names = [function.module for function in assignment.functions if "." in function.module]
    while names:
        name = names.pop()
        if name in sources:
            continue
        graded = [f.name for f in (*assignment.functions, *assignment.hidden) if f.module == name]
        text = "" if module_file(name).name == "__init__.py" else with_settings(assignment.source(name), name, settings)
        if not whole:
            text = cut(text, graded)
        if assignment.sliced and graded:  # once more: what only the cut bodies used is part of the solution
            text = sliced(text, graded)
        sources[name] = text
        names += [name.rpartition(".")[0]] if "." in name else []
        imports = [n for n in ast.parse(text).body if isinstance(n, ast.ImportFrom) and n.module.partition(".")[0] == "minisw"]
        names += [n.module for n in imports]
        submodules = [f"{n.module}.{alias.name}" for n in imports for alias in n.names]  # from minisw.verify import algebra
        names += [module for module in submodules if module_file(module).exists()]
    return sources
