"""A module reduced to some of its functions and what they use.

The engine's modules import the whole model library. What a student writes of them needs only torch, so worker and reference
get the slice: the functions, the definitions and imports that they use, and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Collection


def sliced(source: str, names: Collection[str]) -> str:
    """The module with only the top-level definitions that `names` need, in their order. Raises KeyError for an unknown name."""
    body = ast.parse(source).body
    owners = {name: node for node in body for name in bound(node)}
    needed, pending = set(), list(names)
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if not isinstance(owners[name], ast.Import | ast.ImportFrom):
            used = {node.id for node in ast.walk(owners[name]) if isinstance(node, ast.Name)}
            pending += used & owners.keys()
    imports, parts = [], []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            node.names = [alias for alias in node.names if future or _alias(alias) in needed]
            imports += [ast.unparse(node)] if node.names else []
        elif needed & {*bound(node)}:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            parts.append("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
    return "\n\n\n".join(["\n".join(imports), *parts]) + "\n"


def _alias(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def bound(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [_alias(alias) for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
