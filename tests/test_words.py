"""No word stands in the house that misleads a reader, in text that is read or as the name of what a module binds."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PLACES = ("src", "tests", "benchmarks", "docs", "notebooks", "README.md", "CONTRIBUTING.md")
KINDS = {".py", ".md", ".ipynb", ".json", ".txt", ".toml"}

# A reader takes "behind" as before or as after; the others are not English, or say nothing to one who was not there.
PROSE = re.compile(
    r"\bbehind\b|so-manieth|source document|\bis no number|\bis no override|letter for letter".replace(" ", r"[\s#]+"),
    re.IGNORECASE,
)
NAMES = {"told", "found", "made", "own", "said", "mine", "there", "some", "rivals", "settle"}
"""Names that say how one came by a thing, and not what it is."""


def files() -> Iterator[Path]:
    """All files that are read, less this one."""
    for place in PLACES:
        for path in sorted(path for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.suffix in KINDS):
            if path.is_file() and path != Path(__file__):
                yield path


def misleading(text: str) -> Iterator[str]:
    """The lines of a text in which a misleading word begins, each with its number."""
    lines = text.splitlines()
    for match in PROSE.finditer(text):
        number = text.count("\n", 0, match.start())
        yield f"{number + 1}: {lines[number].strip()}"


def bound(source: str) -> Iterator[str]:
    """The names of `NAMES` that a module binds: variables, arguments, functions and classes, each with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case _:
                continue
        if name in NAMES:
            yield f"{node.lineno}: {name}"


def test_no_misleading_word_is_read() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}" for path in files() for line in misleading(path.read_text("utf-8"))
    ] == []


def test_no_name_says_only_how_one_came_by_a_thing() -> None:
    paths = [path for path in files() if path.suffix == ".py" and path.is_relative_to(ROOT / "src")]
    assert len(paths) > 20
    texts = {path.relative_to(ROOT): path.read_text("utf-8") for path in paths}
    assert [f"{path}:{name}" for path, text in texts.items() for name in bound(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "the step Behind it",
        "every so-manieth token",
        "the source\n# document",
        "what is no number",
        "it is no override",
    ],
)
def test_a_misleading_word_is_seen(text: str) -> None:
    assert list(misleading(f"A line\n{text}")) == [f"2: {text.splitlines()[0]}"]


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "for some in []: pass",
        "[mine for mine in []]",
        "(found := 1)",
        "def settle(): ...",
        "async def settle(): ...",
        "class rivals: ...",
        "lambda own: 1",
        "def f(*, said): ...",
        "with x as (there, _): ...",
        "made: int",
    ],
)
def test_a_name_is_seen_wherever_it_is_bound(source: str) -> None:
    assert len(list(bound(source))) == 1
    assert list(bound("x = told.found; f(made=own)")) == []
