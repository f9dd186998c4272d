"""Figures of a source tree: how it is typed, how long its files and functions are, and circles of its imports.

python benchmarks/house.py [FOLDER]      src/nanogrove of this checkout when left out

`Any` is counted as a name in the syntax tree, per 1,000 lines of source. A circle is a set of modules each of which
imports the others, directly or through more of them; imports inside of functions and for type checkers count too.
Files are named with their lines above 400, functions with theirs above 60.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def calls(tree: ast.AST, name: str, arguments: int) -> int:
    """How often a function of this name is called with so many arguments or more."""
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
        and len(node.args) >= arguments
        for node in ast.walk(tree)
    )


def long_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Functions above `LONGEST_FUNCTION` lines, decorators not counted, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.name, lines


def modules(folder: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    paths = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    return paths


def imported(tree: ast.AST, known: Set[str]) -> Iterator[str]:
    """Which of the known modules a module imports, anywhere in it: of `from a import b` the module `a.b`, else `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (module := node.module) is not None and module in known:
            inner = (f"{module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else module for name in inner)


def circles(edges: Mapping[str, Set[str]]) -> list[list[str]]:
    """The strongly connected components of two and more modules."""
    reached: dict[str, set[str]] = {}
    for name in edges:
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            new = edges.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        reached[name] = seen
    components = {frozenset(other for other in reached[name] if name in reached.get(other, ())) for name in edges}
    return sorted(sorted(circle) for circle in components if len(circle) > 1)


def measure(folder: Path) -> Iterator[str]:
    """All figures of a package, a line each."""
    paths = modules(folder)
    sources = {name: path.read_text("utf-8") for name, path in paths.items()}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    length = {name: len(source.splitlines()) for name, source in sources.items()}
    lines = sum(length.values())
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    anything = sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes)
    files = [f"{name} {count}" for name, count in sorted(length.items()) if count > LONGEST_FILE]
    functions = [f"{name}.{inner} {count}" for name, tree in trees.items() for inner, count in long_functions(tree)]
    import_circles = circles({name: {*imported(tree, trees.keys())} - {name} for name, tree in trees.items()})
    yield f"{len(paths)} files, {lines:,} lines"
    yield f"Any: {anything}, {1000 * anything / lines:.1f} per 1,000 lines"
    yield f"getattr with a default: {sum(calls(tree, 'getattr', 3) for tree in trees.values())}"
    yield f"isinstance: {sum(calls(tree, 'isinstance', 2) for tree in trees.values())}"
    yield "; ".join([f"files above {LONGEST_FILE} lines: {len(files)}", *files])
    yield "; ".join([f"functions above {LONGEST_FUNCTION} lines: {len(functions)}", *functions])
    yield "; ".join(
        [f"circles of imports: {len(import_circles)}", *(" and ".join(circle) for circle in import_circles)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent / "src" / "nanogrove"
    parser.add_argument("folder", type=Path, nargs="?", default=here, help="the folder of a package")
    options = parser.parse_args()
    if not modules(options.folder):
        sys.exit(f"error: {options.folder}: no Python files; name the folder of a package")
    print("\n".join(measure(options.folder.resolve())))


if __name__ == "__main__":
    main()
