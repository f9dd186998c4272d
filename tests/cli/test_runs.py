"""`nanogrove runs`: the table, its JSON, and what is cut to fit a terminal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.record.test_listing import END, EVAL, START, make

from nanogrove.cli.completion import complete_folders
from nanogrove.cli.verbs import runs as verb


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run, a run of a study, and a damaged one."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "one", [START, EVAL, END])
    (make(tmp_path / "runs" / "two\x1b[31m\n", [START]) / "preset.json").write_text("{")
    make(tmp_path / "studies" / "rates" / "runs" / "a" / "seed-0", [START, EVAL])
    return tmp_path


def test_the_table_is_plain_and_whole_when_piped(here: Path, command: Any) -> None:
    title, *lines = command("runs").out.splitlines()
    assert title.split() == ["run", "method", "data", "steps", "measure", "state", "age"]
    assert lines[0].split("  ")[0] == "runs/one"
    assert "pretrain  text: b.txt  20 of 20  loss 2.2500  finished" in lines[0]
    assert lines[1].startswith(r"runs/two\x1b[31m\n")
    assert "damaged: preset.json is damaged" in lines[1]
    assert "10 of 20  loss 2.5000  stopped" in lines[2]
    assert len({line.index("text: ") for line in (lines[0], lines[2])}) == 1
    assert [line.split()[0] for line in command("runs", "studies").out.splitlines()[1:]] == ["rates/runs/a/seed-0"]


def test_all_fields_are_in_the_json(here: Path, command: Any) -> None:
    one, two, study = json.loads(command("runs", "--json").out)
    assert (one["name"], one["figure"], one["measure"], one["sources"]) == ("runs/one", 2.25, "loss", ["b.txt"])
    assert (two["name"], two["state"], two["damage"]) == ("runs/two\x1b[31m\n", "damaged", "preset.json is damaged")
    assert 0 <= study["age"] < 600


@pytest.mark.parametrize("width", [30, 60, 90])
def test_a_terminal_gets_lines_of_its_width(
    here: Path, command: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(verb, "console", lambda: Console(force_terminal=True, width=width))
    lines = command("runs").out.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) == width
    assert lines[3].startswith("…")
    assert "seed-0  " in lines[3]


def test_nothing_to_list_is_one_line(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("runs").error().startswith("error: runs and studies: no run is here; name a folder")


def test_a_shell_offers_folders(here: Path) -> None:
    assert complete_folders("") == ["runs/", "studies/"]
    assert complete_folders("runs/o") == ["runs/one/"]


def test_runs_are_listed_without_torch(here: Path) -> None:
    script = """
import sys
from nanogrove.cli.main import main
sys.argv = ["nanogrove", "runs"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "numpy", "plotly", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
