"""The table of formats: a new one is a file and a line, and whatever asks for formats knows it."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nanogrove.data.sources.formats import FORMATS, format_of, readable_formats
from nanogrove.data.sources.kinds import KINDS
from nanogrove.data.sources.recognize import recognize
from nanogrove.errors import DataError

SCRIPT = """
import json, sys
sys.path.insert(0, {folder!r})
from sqlite_source import SQLITE
from nanogrove.data.sources import formats
formats.FORMATS = (*formats.FORMATS, SQLITE)  # the line
from nanogrove.explore.findings import explore
from nanogrove.cli.exploration import described
findings = explore("notes.sqlite")
print(*described(findings, 100), sep="\\n")
import nanogrove
from nanogrove.errors import DataError
preset = {{
    "data": {{"sources": [findings.source], "tokenizer": findings.tokenizer}},
    "model": {{"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32}},
    "train": {{"steps": 1, "batch_size": 2, "device": "cpu", "precision": "float32", "threads": 1, "compile": False}},
    "evaluate": {{"tokens": 64}},
    "sample": {{"tokens": 0}},
}}
nanogrove.run(preset, "run")
preset["data"]["sources"] = [{{"type": "sqlite", "path": "notes.sqlite", "table": "none", "text_field": "body"}}]
try:
    nanogrove.run(preset, "refused")
except DataError as error:
    print(error)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An SQLite database of 200 notes, of which one is empty."""
    path = tmp_path / "notes.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table notes (id integer primary key, body text)")
        notes = [
            (f"Note {n} says that the river walks over stone number {n * n} and the lamp waits.",) for n in range(199)
        ]
        connection.executemany("insert into notes (body) values (?)", [*notes, ("",)])
    return path


@pytest.mark.slow
def test_a_new_format_is_explored_and_trained_on(database: Path) -> None:
    """In a process that knows the format, so that no other test does."""
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=database.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "notes.sqlite: SQLite, " in done.stdout
    assert "200, of 2 columns" in done.stdout
    assert "text_field: body" in done.stdout
    start = json.loads((database.parent / "run" / "events.jsonl").read_text().splitlines()[0])
    data = start["data"]
    assert data["documents"] == 199
    assert data["left_out"] == {"empty": 1}
    assert done.stdout.endswith("notes.sqlite: no column 'body'; there are none\n")


def test_without_its_line_a_format_is_refused_by_name(database: Path) -> None:
    with pytest.raises(
        DataError, match="an SQLite database; nanogrove reads text, CSV, JSON lines, JSON, Parquet and PDF"
    ):
        recognize(str(database))


def test_every_ending_belongs_to_one_format() -> None:
    endings = [ending for kind in FORMATS for ending in kind.endings]
    assert len(endings) == len(set(endings))
    assert all(format_of(f"A{ending}".upper()) is kind for kind in FORMATS for ending in kind.endings)
    assert format_of("README").name == "text"


def test_a_record_says_of_each_kind_what_its_settings_can_do() -> None:
    for kind in KINDS.values():
        fields = kind.settings.model_fields
        assert ("encoding" in fields) == kind.encoded or kind.name == "kaggle", kind.name
        assert ("delimiter" in fields) == kind.delimited, kind.name
        table: object = kind.table
        assert table is None or table is kind.settings, kind.name
        assert kind.label
    assert readable_formats() == "text, CSV, JSON lines, JSON, Parquet and PDF"
