"""Imports run down only, each layer knowing those below it, and the command line starts without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanogrove

SOURCES = Path(nanogrove.__file__).parent
ROOMS = [  # from the ground up; rooms of one level do not know each other
    {"errors", "atomic", "paths", "waits", "json_difference", "json_reading", "settings"},
    {"memory", "native"},
    {"data", "model", "record"},
    {"synthetic", "decoding", "reports"},
    {"train"},
    {"evaluate"},
    {"generation"},
    {"methods", "language_model", "corpora"},
    {"config", "exports", "serve"},
    {"runs"},
    {"studies"},
    {"explore", "ui"},
    {"api", "cli"},
    {"__main__", "__init__"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def module_name(path: Path) -> str:
    """The dotted name of a file, without the leading `nanogrove.`; a package is named by its folder."""
    name = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(SOURCES.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of ours that a module imports, anywhere in it, lazily or for types alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] == "nanogrove"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if (node.module or "").partition(".")[0] != "nanogrove":
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            inner = name.removeprefix("nanogrove").removeprefix(".")
            yield inner if inner in MODULES else inner.rpartition(".")[0] or "__init__"


def upward(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that run to a room of its own level or above."""
    room = module.partition(".")[0]
    others = {name for name in imported(tree) if name.partition(".")[0] != room}
    return sorted(name for name in others if LEVEL[name.partition(".")[0]] >= LEVEL[room])


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, in a graph that gives each node those it points to."""
    reached: dict[str, set[str]] = {}
    for node in graph:
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[node] = seen
    groups = {frozenset(other for other in reached[node] if node in reached.get(other, set())) for node in graph}
    return sorted(sorted(group) for group in groups if group)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_down_only(module: str) -> None:
    assert module.partition(".")[0] in LEVEL, "a new room of nanogrove needs its place among the levels"
    assert upward(module, ast.parse(MODULES[module].read_text("utf-8"))) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imported(ast.parse(path.read_text("utf-8")))) - {name} for name, path in MODULES.items()}
    assert circles(graph) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "d": {"a"}}) == []


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("train.loop", "from nanogrove.runs.train import train", False),
        ("train.loop", "import nanogrove.methods.pretrain", False),
        ("train.loop", "from nanogrove.runs import train", False),
        ("train.loop", "def f():\n from nanogrove.evaluate.loss import mean_nll", False),
        ("train.loop", "if TYPE_CHECKING:\n from nanogrove.evaluate.loss import mean_nll", False),
        ("train.loop", "from nanogrove.data.batch import Batch", True),
        ("data.text.shards", "from nanogrove.model.gpt import GPT", False),
        ("model.gpt", "from nanogrove.data.batch import Batch", False),
        ("record.folder", "from nanogrove.data.batch import Batch", False),
        ("record.folder", "from nanogrove.record.events import Event", True),
        ("synthetic.maze", "from nanogrove.data.batch import Batch", True),
        ("runs.train", "from nanogrove.cli.render import show", False),
        ("cli.main", "from nanogrove.runs import train", True),
        ("errors", "import nanogrove", False),
    ],
)
def test_the_check_tells_down_from_up(module: str, line: str, allowed: bool) -> None:
    assert (upward(module, ast.parse(line)) == []) is allowed


@pytest.mark.parametrize("arguments", [[], ["--help"], ["presets"], ["presets", "quickstart"], ["train", "--help"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    """Torch takes a second to import; help, and a mistyped command, need none of it."""
    more = ["pydantic"] if arguments in ([], ["--help"]) else []  # typer itself imports it to read arguments
    more += ["rich"] if "--help" in arguments else []  # to draw boxes would take as long as all the rest
    script = f"""
import sys
import nanogrove, nanogrove.cli.main
sys.argv = ["nanogrove", *{arguments!r}]
try:
    {"nanogrove.cli.main.main()" if arguments else "pass"}
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "numpy", "plotly", "tokenizers", *{more!r}}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
