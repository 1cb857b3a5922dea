"""The part of Python that a small check may use (a GenPRM's `print(652 // 2)`): sums, loops, functions, a few modules.

It keeps checks small and refusals readable, and is no wall: sympy alone evaluates strings. The wall is verify/sandbox.py, which
calls `allowed` inside the contained process, as the parser of Python has crashed on hostile text before.
"""

from __future__ import annotations

import ast
import builtins
import sys
import types

MAX_CODE = 4000  # characters of one check

MODULES = "math cmath fractions decimal statistics itertools functools collections random sympy".split()
BUILTINS = (
    "abs all any bin bool chr complex dict divmod enumerate filter float frozenset hex int isinstance len list map max min oct "
    "ord pow print range repr reversed round set sorted str sum tuple zip Exception ArithmeticError AssertionError IndexError "
    "KeyError OverflowError StopIteration TypeError ValueError ZeroDivisionError"
).split()
NODES = (
    "Module Expr Assign AugAssign AnnAssign Delete Pass Break Continue If For While Try ExceptHandler Raise Assert Import "
    "ImportFrom alias FunctionDef Return Lambda arguments arg Global Nonlocal Call keyword Starred Name Attribute Constant "
    "Subscript Slice List Tuple Set Dict ListComp SetComp DictComp GeneratorExp comprehension BinOp UnaryOp BoolOp Compare IfExp "
    "NamedExpr JoinedStr FormattedValue"
).split()
OPERATORS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)
# beginnings of attributes: str.format reads attributes that the tree does not show, private ones and the rest lead to frames
HIDDEN = ("_", "format", "gi_", "ag_", "cr_", "f_", "tb_", "co_", "func_")


def allowed(code: str) -> str | None:
    """Why the whitelist refuses a check, in one line; None if it does not."""
    if len(code) > MAX_CODE:
        return f"longer than {MAX_CODE} characters"
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null byte, very deep brackets
        return "not valid Python"
    for node in ast.walk(tree):
        if reason := _refusal(node):
            return reason
    return None


def _refusal(node: ast.AST) -> str | None:
    kind = type(node).__name__
    if kind not in NODES and not isinstance(node, OPERATORS):
        return f"{kind} is not allowed"
    modules = [a.name for a in node.names] if kind == "Import" else [node.module] if kind == "ImportFrom" else []
    for module in modules:
        if module not in MODULES:
            return f"import of {module or '.'} is not allowed"
    if kind == "Attribute" and node.attr.startswith(HIDDEN):
        return f"the attribute {node.attr} is not allowed"
    if kind != "Constant":
        for _, value in ast.iter_fields(node):  # names stand in many fields: variables, arguments, functions, imports
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name.startswith("__"):
                    return f"the name {name} is not allowed"
    return None


def names() -> dict:
    """The names that a check starts with."""
    return {"__name__": "__main__", "__builtins__": {n: getattr(builtins, n) for n in BUILTINS} | {"__import__": _import}}


def _import(name: str, *_) -> types.SimpleNamespace:
    """A module's public names, without the modules that it imported itself (`fractions.sys`). It must be loaded already."""
    if name not in MODULES or name not in sys.modules:
        raise ImportError(f"there is no module {name}")
    items = vars(sys.modules[name]).items()
    return types.SimpleNamespace(**{n: v for n, v in items if not n.startswith("_") and not isinstance(v, types.ModuleType)})
