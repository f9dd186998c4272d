"""What is wrong with files of data is refused in one line; `python tests/hostile_sources.py` prints counts."""

import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile_sources.py")
SOURCES = runpy.run_path(str(SCRIPT))
HOSTILE = SOURCES["HOSTILE"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SOURCES["KINDS"])
def test_any_file_is_read_or_refused_in_one_line(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogrove.explore.proposal.seconds", lambda *_: 60.0)
    monkeypatch.setattr("nanogrove.reports.page.packed_plotly", lambda: ("", ""))
    attempt = SOURCES["KINDS"][kind](tmp_path, random.Random(f"{kind} {seed}"))
    monkeypatch.chdir(tmp_path)
    for argv in attempt.commands:
        code, error = HOSTILE["run_here"](argv)
        assert HOSTILE["ending"](code, error) in SOURCES["GOOD"], (argv, attempt.change, error)


@pytest.mark.parametrize("how", ["gone", "cut", "folder", "link"])
def test_a_file_that_vanishes_while_it_is_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogrove.explore.proposal.seconds", lambda *_: 60.0)
    monkeypatch.setattr(Path, "open", Path.open)  # it is itself again at the end
    monkeypatch.chdir(tmp_path)
    name, data = SOURCES["json_lines"](random.Random(1))
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / name
    path.write_bytes(data)
    argv = SOURCES["bare"](tmp_path, f"data/{name}")[0]
    SOURCES["vanish"](path, 2, how)
    code, error = HOSTILE["run_here"](argv)
    assert HOSTILE["ending"](code, error) in SOURCES["GOOD"], error
    assert not path.is_file() or path.stat().st_size < len(data), "it vanished"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each is a fork")
def test_hostile_sources_by_the_thousand() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
