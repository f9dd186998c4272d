"""Imports run down only, each layer knowing those below it, and the command line starts without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanogrove

SOURCES = Path(nanogrove.__file__).parent
LAYERS = [  # from the ground up; parts of one layer do not know each other
    {"errors"},
    {"data", "synthetic", "model", "record", "other_names"},
    {"train"},
    {"evaluate"},
    {"methods"},
    {"preset", "language_model"},
    {"parts"},
    {"lab", "display", "proposal"},
    {"explored"},
    {"api", "cli"},
    {"__main__", "__init__"},
]
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
ALSO = {  # what crosses a layer on purpose: events are the words in which every part tells what happened
    "synthetic": {"data.batch", "data.tokenizer"},
    "data": set(),
    "model": set(),
    "record": set(),
}
MODULES = {".".join(path.relative_to(SOURCES).with_suffix("").parts): path for path in sorted(SOURCES.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of ours that a module imports, anywhere in it, without the leading `nanogrove.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "nanogrove")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if node.module == "nanogrove":
                yield from (f"nanogrove.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("nanogrove."):
                yield node.module or ""


def violations(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that run up or across."""
    part = module.partition(".")[0]
    found = []
    for name in imported(tree):
        other = name.removeprefix("nanogrove").removeprefix(".")
        target = other.partition(".")[0] or "__init__"
        if part == target or other in ALSO.get(part, set()):
            continue
        if target not in HEIGHT or HEIGHT[target] >= HEIGHT[part]:
            found.append(f"{module} imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_down_only(module: str) -> None:
    assert module.partition(".")[0] in HEIGHT, "a new part of nanogrove needs its place among the layers"
    assert violations(module, ast.parse(MODULES[module].read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("train.fit", "from nanogrove.lab import train", False),
        ("train.fit", "import nanogrove.methods.pretrain", False),
        ("train.fit", "from nanogrove import lab", False),
        ("train.fit", "def f():\n from nanogrove.evaluate.loss import mean_nll", False),
        ("train.fit", "from nanogrove.data.batch import Batch", True),
        ("data.shards", "from nanogrove.model.gpt import GPT", False),
        ("model.gpt", "from nanogrove.data.batch import Batch", False),
        ("record.run", "from nanogrove.data.batch import Batch", False),
        ("record.run", "from nanogrove.record.events import Event", True),
        ("synthetic.maze", "from nanogrove.data.batch import Batch", True),
        ("synthetic.maze", "from nanogrove.data.corpus import TextCorpus", False),
        ("lab", "from nanogrove.display import show", False),
        ("cli", "from nanogrove import lab", True),
        ("errors", "import nanogrove", False),
    ],
)
def test_the_check_tells_down_from_up(module: str, line: str, allowed: bool) -> None:
    assert (violations(module, ast.parse(line)) == []) is allowed


@pytest.mark.parametrize("arguments", [[], ["--help"], ["presets"], ["train", "--help"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    """Torch takes a second to import; help, and a mistyped command, need none of it."""
    script = f"""
import sys
import nanogrove, nanogrove.cli
sys.argv = ["nanogrove", *{arguments!r}]
try:
    {"nanogrove.cli.main()" if arguments else "pass"}
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "numpy", "plotly", "tokenizers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
