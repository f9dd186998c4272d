"""Public names without a docstring, found in the syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path


def undocumented(source: Path) -> Iterator[str]:
    """Public modules, classes, functions and methods of the source without a docstring, as `file:name`."""
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = str(path.relative_to(source))
        if ast.get_docstring(tree) is None and path.name != "__main__.py":
            yield name
        yield from (f"{name}:{inner}" for inner in undocumented_below(tree))


def undocumented_below(node: ast.AST) -> Iterator[str]:
    """Public functions and classes directly in a module or class, and those in such classes, without a docstring."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or child.name.startswith("_"):
            continue
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in child.decorator_list}
        if ast.get_docstring(child) is None and not marks & {"overload", "override"}:
            yield child.name
        if isinstance(child, ast.ClassDef):
            yield from (f"{child.name}.{inner}" for inner in undocumented_below(child))
