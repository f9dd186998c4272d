"""What hostile presets, checkpoints and records do is refused in one line; `python tests/hostile.py` prints counts."""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile.py")
HOSTILE = runpy.run_path(str(SCRIPT))
HERE = ("generate", "report", "evaluate")  # what ends soon whatever is in a file


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Healthy runs of two methods."""
    folder = tmp_path_factory.mktemp("bases")
    HOSTILE["make_bases"](folder, HOSTILE["CASES"][:2])
    return folder


@pytest.mark.parametrize("kind", HOSTILE["KINDS"])
def test_what_is_hostile_is_refused_in_one_line(
    kind: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = set()
    for number in range(25):
        folder = tmp_path / str(number)
        folder.mkdir()
        argv = HOSTILE["KINDS"][kind](bases, folder, random.Random(f"{kind} {number}"), HOSTILE["CASES"][:2])
        argv = [*argv, "--dry-run"] if kind == "presets" else argv if argv[0] in HERE else ["generate", "run"]
        monkeypatch.chdir(folder)
        code, error = HOSTILE["run_here"](argv)
        endings.add(HOSTILE["ending"](code, error))
        assert endings <= {"succeeds", "refused"}, (argv, error)
    assert "refused" in endings


def test_a_run_goes_on_only_from_what_its_method_keeps(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bases / HOSTILE["CASES"][0] / "run", tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        state = json.loads((checkpoint / "state.json").read_bytes())
        (checkpoint / "state.json").write_text(json.dumps({**state, "notes": {"a": 1}}))
        HOSTILE["sealed"](checkpoint)
    monkeypatch.chdir(tmp_path)
    code, error = HOSTILE["run_here"](["train", "run", "--resume"])
    assert HOSTILE["ending"](code, error) == "refused", error
    assert "'a' is nothing that method pretrain keeps" in error


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each is a fork")
def test_hostile_files_by_the_thousand() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "error", "end"),
    [
        (0, "", "succeeds"),
        (2, "error: x\n", "refused"),
        (2, "error: x\ny\n", "lines"),
        (1, "Traceback (most recent call last):\n", "traceback"),
        (130, "", "stops"),
        (1, "", "code 1"),
    ],
)
def test_an_ending_is_told_from_others(code: int, error: str, end: str) -> None:
    assert HOSTILE["ending"](code, error) == end
