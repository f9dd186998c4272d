"""Every recipe of `docs/extending.md`, carried out: its file written, its line added, its commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import nanogrove

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(\w+)(?: title="src/nanogrove/([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
TINY = [
    "data.sources=letters.ini",
    "data.tokenizer=byte",
    "data.split=tail",
    "train.steps=3",
    "train.device=cpu",
    "train.precision=float32",
    "train.compile=false",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.block_size=16",
    "evaluate.tokens=100",
    "sample.tokens=5",
    "sample.every=1",
]
RUN = """
import json, sys
from nanogrove.cli.main import main
for arguments in json.load(sys.stdin):
    print("$", *arguments, flush=True)
    sys.argv = ["nanogrove", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


class Recipe(NamedTuple):
    """The files that a section of the page writes, the tables that it changes, and its commands."""

    files: dict[str, str]
    changes: dict[str, str]
    commands: list[list[str]]


def recipes() -> dict[str, Recipe]:
    """The sections of the page by heading."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = BLOCK.findall(section)
        commands = [line for language, _, text in blocks if language == "sh" for line in text.splitlines()]
        found[section.partition("\n")[0]] = Recipe(
            {path: text for language, path, text in blocks if language == "python"},
            {path: text for language, path, text in blocks if language == "diff"},
            [shlex.split(line)[1:] for line in commands],
        )
    return found


RECIPES = recipes()


def changed(text: str, change: str) -> str:
    """A file with a diff put in: each line is sought from where the line before it stands."""
    lines, at = text.splitlines(), 0
    for line in change.splitlines():
        mark, content = line[0], line[1:]
        if mark == "+":
            lines.insert(at, content)
        else:
            at = lines.index(content, at)
        if mark == "-":
            del lines[at]
        else:
            at += 1
    return "\n".join(lines) + "\n"


def added_lines(recipe: Recipe) -> int:
    """How many lines a recipe adds to tables, less imports."""
    lines = [line for change in recipe.changes.values() for line in change.splitlines()]
    return sum(line.startswith("+") and " import " not in line for line in lines)


def test_there_are_nine_recipes_of_one_file_and_one_line() -> None:
    assert len(RECIPES) == 9
    for name, recipe in RECIPES.items():
        assert len(recipe.files) == (0 if name == "A metric" else 1), name
        assert (len(recipe.changes), added_lines(recipe)) == (1, 1), name
        assert recipe.commands, name


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that every recipe was carried out on, and data for its commands."""
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "src" / "nanogrove"
    shutil.copytree(Path(nanogrove.__file__).parent, package)  # with the bytecode of what does not change
    for recipe in RECIPES.values():
        for path, text in recipe.files.items():
            assert not (package / path).exists(), path
            (package / path).write_text(text, encoding="utf-8")
        for path, change in recipe.changes.items():
            table = package / path
            table.write_text(changed(table.read_text(encoding="utf-8"), change), encoding="utf-8")
    letters = [f"[letter {n}]\nto = friend {n}\ntext = a quick brown fox, seen on day {n}\n" for n in range(300)]
    (folder / "letters.ini").write_text("\n".join(letters), encoding="utf-8")
    return folder


def test_the_commands_of_all_recipes_run(extended: Path) -> None:
    commands = [
        [*arguments[:-2], *TINY, *arguments[-2:]] if arguments[0] == "train" else arguments
        for recipe in RECIPES.values()
        for arguments in recipe.commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(commands),
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "perplexity" in done.stdout
    assert "parameters\n" in done.stdout
    assert "exported: exports/perplexity-npz-f32\n" in done.stdout
    assert "INI" in done.stdout

    def preset(run: str) -> dict:
        return json.loads((extended / "runs" / run / "preset.json").read_text(encoding="utf-8"))

    assert preset("signum")["optimizer"]["name"] == "signum"
    assert preset("square-root")["schedule"]["name"] == "inverse_square_root"
    assert preset("reinforce")["method"] == {"name": "reinforce", "wanted": "a"}
    assert preset("smollm")["model"]["n_kv_head"] == 1
    assert preset("letters")["data"]["sources"][0]["type"] == "ini"
    report = (extended / "runs/longest/report.html").read_text(encoding="utf-8")
    assert "The longest sample" in report
